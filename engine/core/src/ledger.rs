//! What the jobs of somebody did of late: what they have cost, and how many of their attempts began.
//!
//! Money is kept by the minute in whole billionths. What counts for a day is what was spent in the minutes
//! that are less than a day from the present one, on either side: after the clock was set back, what was
//! spent meanwhile still counts, and what was spent at a time long ahead does not. Calls are kept by the
//! monotonic clock, at the moment at which they left.
//!
//! Not here: budgets, and whom they hold back (`crate::budget`).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use axwatch_model::{Mono, Timestamp};

/// How long a call counts.
pub(crate) const CALLS_WINDOW: Duration = Duration::from_secs(60);
/// Moments of calls are rounded up to this, so that a busy handler does not fill the memory.
const CALLS_GRAIN_NS: u64 = 10_000_000;
/// Minutes with a cost that an account remembers: a month of them, and what a clock that was set left.
const MINUTES_MAX: usize = 50_000;
const MINUTE_MS: i64 = 60_000;

/// For how long money that was spent counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Span {
    /// 1,440 minutes.
    Day,
    /// 10,080 minutes.
    Week,
    /// 43,200 minutes: 30 days.
    Month,
}

impl Span {
    /// All of them.
    pub const ALL: [Span; 3] = [Span::Day, Span::Week, Span::Month];

    /// How many minutes that is.
    #[must_use]
    pub fn minutes(self) -> i64 {
        match self {
            Span::Day => 1_440,
            Span::Week => 10_080,
            Span::Month => 43_200,
        }
    }
}

/// The minute of a moment, since 1970.
pub(crate) fn minute_of(at: Timestamp) -> i64 {
    at.ms().div_euclid(MINUTE_MS)
}

/// When a minute begins.
pub(crate) fn begin_of(minute: i64) -> Timestamp {
    Timestamp::from_ms_clamped(minute.saturating_mul(MINUTE_MS))
}

/// What was spent, by the minute.
#[derive(Debug, Default)]
pub(crate) struct Spending {
    minutes: BTreeMap<i64, i64>,
    /// The present minute, and what counts in it for each span.
    minute: i64,
    sums: [i128; 3],
}

impl Spending {
    /// Time went by, or the clock was set.
    pub fn set_minute(&mut self, minute: i64) {
        if minute == self.minute {
            return;
        }
        let before = std::mem::replace(&mut self.minute, minute);
        for span in Span::ALL {
            let reach = span.minutes();
            let moved = minute.saturating_sub(before);
            let sum = &mut self.sums[span as usize];
            if (0..reach).contains(&moved) {
                let gone = before - reach + 1..=minute - reach;
                *sum -= total(&self.minutes, gone);
                *sum += total(&self.minutes, before + reach..=minute + reach - 1);
            } else {
                *sum = total(&self.minutes, minute - reach + 1..=minute + reach - 1);
            }
        }
    }

    /// Adds to what was spent in a minute. Less than nothing takes back what was reported too high.
    pub fn add(&mut self, minute: i64, nanos: i64) {
        let spent = self.minutes.entry(minute).or_default();
        let before = *spent;
        *spent = spent.saturating_add(nanos);
        let added = i128::from(*spent) - i128::from(before);
        if *spent == 0 {
            self.minutes.remove(&minute);
        }
        for span in Span::ALL {
            if (minute - self.minute).abs() < span.minutes() {
                self.sums[span as usize] += added;
            }
        }
        while self.minutes.len() > MINUTES_MAX {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((minute, nanos)) = self.minutes.pop_first() else { return };
        for span in Span::ALL {
            if (minute - self.minute).abs() < span.minutes() {
                self.sums[span as usize] -= i128::from(nanos);
            }
        }
    }

    /// What was spent in a minute.
    pub fn of_minute(&self, minute: i64) -> i64 {
        self.minutes.get(&minute).copied().unwrap_or_default()
    }

    /// What counts in a minute: at once in the present one.
    pub fn sum(&self, span: Span, minute: i64) -> i128 {
        if minute == self.minute {
            return self.sums[span as usize];
        }
        let reach = span.minutes();
        total(&self.minutes, minute - reach + 1..=minute + reach - 1)
    }

    /// The minute from which on so much less counts than in this one, if nothing is added.
    pub fn frees(&self, span: Span, minute: i64, nanos: i128) -> Option<i64> {
        let reach = span.minutes();
        let mut freed = 0;
        self.minutes.range(minute - reach + 1..).find_map(|(minute, spent)| {
            freed += i128::from(*spent);
            (freed >= nanos).then_some(minute + reach)
        })
    }
}

fn total(minutes: &BTreeMap<i64, i64>, range: std::ops::RangeInclusive<i64>) -> i128 {
    if range.is_empty() {
        return 0;
    }
    minutes.range(range).map(|(_, nanos)| i128::from(*nanos)).sum()
}

/// The calls of the last minute.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// When they left, ascending, and how many did then.
    left: VecDeque<(Mono, u32)>,
    count: u64,
    /// Decided, and not left yet.
    deciding: u64,
}

impl Calls {
    /// An attempt is to begin; when it leaves is told later.
    pub fn decide(&mut self) {
        self.deciding += 1;
    }

    /// An attempt that was decided leaves, now or later.
    pub fn leave(&mut self, at: Mono) {
        self.deciding = self.deciding.saturating_sub(1);
        self.add(at, 1);
    }

    /// So many attempts left at a moment.
    pub fn add(&mut self, at: Mono, calls: u32) {
        let at = Mono(at.0.div_ceil(CALLS_GRAIN_NS).saturating_mul(CALLS_GRAIN_NS));
        let place = self.left.partition_point(|(other, _)| *other <= at);
        self.count += u64::from(calls);
        match place.checked_sub(1).and_then(|last| self.left.get_mut(last)) {
            Some((other, count)) if *other == at => *count = count.saturating_add(calls),
            _ => self.left.insert(place, (at, calls)),
        }
    }

    /// How many count.
    pub fn count(&self, now: Mono) -> u64 {
        let over = self.left.iter().take_while(|(at, _)| at.plus(CALLS_WINDOW) <= now);
        self.count + self.deciding - over.map(|(_, count)| u64::from(*count)).sum::<u64>()
    }

    /// Forgets what counts no more.
    pub fn forget(&mut self, now: Mono) {
        while let Some((_, count)) = self.left.pop_front_if(|(at, _)| at.plus(CALLS_WINDOW) <= now)
        {
            self.count -= u64::from(count);
        }
    }

    /// Of calls that are known by the minute no more can be of the last one than its limit let through: forgets
    /// the earliest of them.
    pub fn keep_latest(&mut self, limit: u32) {
        while self.count > u64::from(limit) {
            let more = self.count - u64::from(limit);
            let first = self.left.front_mut().expect("what is counted is listed");
            let gone = u64::from(first.1).min(more);
            first.1 -= u32::try_from(gone).expect("no more than there were");
            self.count -= gone;
            self.left.pop_front_if(|(_, left)| *left == 0);
        }
    }

    /// When fewer than `limit` count; `None` when that depends on what has not left yet, or is never.
    pub fn opens_at(&self, limit: u32, now: Mono) -> Option<Mono> {
        let mut count = self.count + self.deciding;
        if limit == 0 {
            return None;
        }
        let mut opens = now;
        for (at, left) in &self.left {
            if count < u64::from(limit) {
                break;
            }
            count -= u64::from(*left);
            opens = at.plus(CALLS_WINDOW).max(now);
        }
        (count < u64::from(limit)).then_some(opens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_was_spent_counts_for_so_many_minutes() {
        let mut spending = Spending::default();
        spending.set_minute(1_000_000);
        spending.add(1_000_000, 5);
        // (minute, what counts for a day, a week, a month)
        let cases = [
            (1_000_000, [5, 5, 5]),
            (1_001_439, [5, 5, 5]),
            (1_001_440, [0, 5, 5]),
            (1_010_079, [0, 5, 5]),
            (1_010_080, [0, 0, 5]),
            (1_043_200, [0, 0, 0]),
            // Set back: it still counts, unless it lies far ahead.
            (999_000, [5, 5, 5]),
            (998_560, [0, 5, 5]),
            (900_000, [0, 0, 0]),
            (1_000_000, [5, 5, 5]),
        ];
        for (minute, expected) in cases {
            assert_eq!(Span::ALL.map(|span| spending.sum(span, minute)), expected, "{minute}");
            spending.set_minute(minute);
            assert_eq!(Span::ALL.map(|span| spending.sum(span, minute)), expected, "{minute}");
        }
        spending.add(1_000_000, -5);
        assert_eq!(Span::ALL.map(|span| spending.sum(span, 1_000_000)), [0, 0, 0]);
    }

    #[test]
    fn the_oldest_is_free_first() {
        let mut spending = Spending::default();
        spending.set_minute(10_000);
        for (minute, nanos) in [(8_000, 9), (9_000, 2), (9_500, 3), (10_000, 4)] {
            spending.add(minute, nanos);
        }
        assert_eq!(spending.sum(Span::Day, 10_000), 9);
        for (nanos, minute) in
            [(1, Some(10_440)), (2, Some(10_440)), (3, Some(10_940)), (9, Some(11_440)), (10, None)]
        {
            assert_eq!(spending.frees(Span::Day, 10_000, nanos), minute, "{nanos}");
        }
    }

    #[test]
    fn calls_count_for_a_minute_after_they_left() {
        let mut calls = Calls::default();
        calls.decide();
        assert_eq!(calls.count(Mono(0)), 1);
        assert_eq!(calls.opens_at(1, Mono(0)), None);
        calls.leave(Mono(10 * SECOND));
        calls.decide();
        calls.leave(Mono(20 * SECOND));
        let opens = |limit| calls.opens_at(limit, Mono(21 * SECOND));
        assert_eq!(opens(3), Some(Mono(21 * SECOND)));
        assert_eq!(opens(2), Some(Mono(70 * SECOND)));
        assert_eq!(opens(1), Some(Mono(80 * SECOND)));
        assert_eq!(opens(0), None);
        for (at, count) in [(69, 2), (70, 1), (79, 1), (80, 0)] {
            assert_eq!(calls.count(Mono(at * SECOND)), count, "{at}");
        }
        calls.forget(Mono(75 * SECOND));
        assert_eq!((calls.left.len(), calls.count(Mono(75 * SECOND))), (1, 1));
    }

    proptest! {
        /// However the clock goes, the sums are what adding up the minutes gives.
        #[test]
        fn sums_are_kept_as_time_goes(
            steps in proptest::collection::vec(
                (prop_oneof![
                    8 => 0_i64..3, 4 => 0_i64..3_000, 2 => -3_000_i64..0, 1 => -60_000_i64..60_000,
                ], -20_i64..100),
                1..200,
            ),
        ) {
            let mut spending = Spending::default();
            let mut spent: BTreeMap<i64, i64> = BTreeMap::new();
            let mut minute = 30_000_000;
            for (moved, nanos) in steps {
                minute += moved;
                spending.set_minute(minute);
                spending.add(minute, nanos);
                *spent.entry(minute).or_default() += nanos;
                for span in Span::ALL {
                    let counts = |at: &i64| (at - minute).abs() < span.minutes();
                    let sum: i64 = spent.iter().filter(|(at, _)| counts(at)).map(|(_, n)| n).sum();
                    prop_assert_eq!(spending.sum(span, minute), i128::from(sum));
                }
            }
        }

        /// A call that waits for its moment finds room at it, and not before.
        #[test]
        fn a_limit_opens_when_it_says(
            gaps in proptest::collection::vec(0_u64..20_000, 1..60), limit in 1_u32..10,
        ) {
            let mut calls = Calls::default();
            let mut now = Mono(5 * SECOND);
            for gap in gaps {
                now = now.plus(Duration::from_millis(gap));
                let opens = calls.opens_at(limit, now).unwrap();
                if opens > now {
                    prop_assert!(calls.count(now) >= u64::from(limit));
                    prop_assert!(calls.count(Mono(opens.0 - 1)) >= u64::from(limit));
                }
                prop_assert!(calls.count(opens) < u64::from(limit));
                now = opens;
                calls.add(now, 1);
                calls.forget(now);
            }
        }
    }
}
