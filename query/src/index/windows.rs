//! When a claim may have been made.

use super::spans::Span;

/// From a time to another, both within, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: Option<i64>,
    pub(super) end: Option<i64>,
}

impl Window {
    pub(super) const ALWAYS: Window = Window { start: None, end: None };

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
