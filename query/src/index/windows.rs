//! When a claim may have been made.

use crate::filter::Test;
use crate::{Filter, Moment};

use super::spans::Span;

/// From a time to another, both within, in milliseconds since the Unix epoch or after now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: Option<i64>,
    pub(super) end: Option<i64>,
}

impl Window {
    pub(super) const ALWAYS: Window = Window { start: None, end: None };

    /// When a claim must have been made, if that is all that is asked and does not depend on now.
    pub(super) fn fixed(filter: &Filter) -> Option<Window> {
        let is_fixed = |test: &Test| match test {
            Test::NotBefore(moment) | Test::NotAfter(moment) => moment.as_fixed().is_some(),
            _ => false,
        };
        let window = Window { start: filter.time_start(), end: filter.time_end() };
        (!filter.is_empty() && filter.tests().iter().all(is_fixed)).then_some(window)
    }

    /// How long after now a claim must have been made, if that is all that is asked, each end once.
    pub(super) fn from_now(filter: &Filter) -> Option<Window> {
        let mut window = Window::ALWAYS;
        for test in filter.tests() {
            let (end, moment) = match test {
                Test::NotBefore(moment) => (&mut window.start, moment),
                Test::NotAfter(moment) => (&mut window.end, moment),
                _ => return None,
            };
            if end.replace(moment.as_shift()?).is_some() {
                return None;
            }
        }
        (window != Window::ALWAYS).then_some(window)
    }

    /// Whether the ends of a window after now can be written at this now; at others nothing is in it.
    pub(super) fn can_be(self, now_ms: i64) -> bool {
        let can_be = |shift_ms| Moment::from_now(shift_ms).at(now_ms).is_some();
        self.start.is_none_or(can_be) && self.end.is_none_or(can_be)
    }

    pub(super) fn holds(self, ms: i64) -> bool {
        self.start.is_none_or(|start| start <= ms) && self.end.is_none_or(|end| ms <= end)
    }

    /// The same in numbers of [`ordered`].
    pub(super) fn span(self) -> Span {
        Span { start: self.start.map_or(0, ordered), end: self.end.map_or(u64::MAX, ordered) }
    }
}

/// A time as a number without a sign that keeps its order.
pub(super) fn ordered(ms: i64) -> u64 {
    ms.cast_unsigned() ^ 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_holds_what_its_window_holds() {
        let times = [i64::MIN, -7, 0, 7, i64::MAX];
        let ends = || times.map(Some).into_iter().chain([None]);
        for (start, end) in ends().flat_map(|start| ends().map(move |end| (start, end))) {
            let window = Window { start, end };
            for ms in times {
                let Span { start, end } = window.span();
                assert_eq!(
                    (start..=end).contains(&ordered(ms)),
                    window.holds(ms),
                    "{window:?} {ms}"
                );
            }
        }
    }
}
