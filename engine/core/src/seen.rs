//! Which nominal times of a schedule have been seen to, and what is to be done about those that have come.
//!
//! A nominal time that has come was seen to when a job was made for it, or when it was decided that none is.
//! Those that nobody could look at, because the engine was away or the clock was set ahead, are missed: they are
//! told of, and yet not seen to. When the clock is set back and comes by them again, they run.
//!
//! Not here: what the nominal times are (`crate::grid`), making the jobs (`crate::schedules`).

use axwatch_model::{Missed, Timestamp, bounds};

use crate::grid::Between;

/// Ranges of time in which every nominal time was seen to, ascending and apart from each other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen(Vec<(Timestamp, Timestamp)>);

impl Seen {
    /// Ranges as a row has them, in whatever order and however they overlap.
    pub fn of(mut ranges: Vec<(Timestamp, Timestamp)>) -> Seen {
        ranges.retain(|(from, upto)| from <= upto);
        ranges.sort_unstable();
        let mut seen = Seen::default();
        ranges.into_iter().for_each(|(from, upto)| seen.put(from, upto));
        seen
    }

    /// The ranges, as a row has them.
    pub fn ranges(&self) -> &[(Timestamp, Timestamp)] {
        &self.0
    }

    /// Up to which moment everything before `now` is accounted for; later than `now` after the clock was
    /// set back. `None` when nothing is.
    pub fn upto(&self, now: Timestamp) -> Option<Timestamp> {
        let after = self.0.partition_point(|(from, _)| *from <= now);
        after.checked_sub(1).map(|last| self.0[last].1)
    }

    /// The end of the range that holds a nominal time.
    pub fn end_around(&self, nominal: Timestamp) -> Option<Timestamp> {
        self.upto(nominal).filter(|upto| nominal <= *upto)
    }

    /// Whether a range begins after one moment, and at another at the latest.
    pub fn begins_within(&self, after: Timestamp, upto: Timestamp) -> bool {
        self.0.iter().any(|(from, _)| after < *from && *from <= upto)
    }

    /// Everything from one moment to another was seen to, or there was nothing. `now` is the present.
    pub fn add(&mut self, from: Timestamp, upto: Timestamp, now: Timestamp) {
        self.put(from, upto);
        while self.0.len() > bounds::SEEN_RANGES_MAX {
            self.join_nearest(now);
        }
    }

    fn put(&mut self, from: Timestamp, upto: Timestamp) {
        let first = self.0.partition_point(|(_, end)| *end < from);
        let past = self.0.partition_point(|(begin, _)| *begin <= upto);
        let touched = &self.0[first..past.max(first)];
        let begin = touched.first().map_or(from, |(begin, _)| from.min(*begin));
        let end = touched.last().map_or(upto, |(_, end)| upto.max(*end));
        self.0.splice(first..past.max(first), [(begin, end)]);
    }

    /// Takes what lies between two ranges for seen to: it never runs then, which is better than twice. What
    /// has passed would run only if the clock were set back; what lies ahead is for when there is nothing else,
    /// and what comes next for when there is nothing else ahead either.
    fn join_nearest(&mut self, now: Timestamp) {
        let rank = |at: &usize| {
            let ((begin, end), (next, _)) = (self.0[*at], self.0[*at + 1]);
            (next > now, begin <= now && now < next, next.ms().saturating_sub(end.ms()))
        };
        let Some(at) = (0..self.0.len() - 1).min_by_key(rank) else { return };
        let (_, end) = self.0.remove(at + 1);
        self.0[at].1 = end;
    }
}

/// What is to be done about the nominal times that have come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// The first and the last of those for which nothing is done, and how many they are.
    pub missed: Option<(Timestamp, Timestamp, u64)>,
    /// Those that run, or would if the run before were over.
    pub runs: Vec<Timestamp>,
    /// How many of these, from the first on, are made up for: they had come before anybody could look.
    pub late: usize,
}

/// Decides by the policy. `is_late` says of a nominal time that nobody could look at it when it came.
pub(crate) fn plan(come: &Between, policy: Missed, is_late: impl Fn(Timestamp) -> bool) -> Plan {
    let late = come.last.iter().take_while(|nominal| is_late(**nominal)).count();
    let in_time = come.last.len() - late;
    let made_up_for = match policy {
        Missed::Skip => 0,
        // One that is in time stands for those before it.
        Missed::Once => usize::from(in_time == 0 && late > 0),
        Missed::All { max } => late.min(usize::try_from(max).unwrap_or(usize::MAX)),
    };
    let first_run = late - made_up_for;
    let runs = come.last[first_run..].to_vec();
    let missed = come.count - runs.len() as u64;
    let last_missed = first_run.checked_sub(1).map(|before| come.last[before]).or(come.before);
    let missed = come.first.zip(last_missed).filter(|_| missed > 0);
    Plan {
        missed: missed.map(|(first, last)| (first, last, come.count - runs.len() as u64)),
        runs,
        late: made_up_for,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms_clamped(ms)
    }

    fn seen(ranges: &[(i64, i64)]) -> Seen {
        Seen::of(ranges.iter().map(|(from, upto)| (at(*from), at(*upto))).collect())
    }

    #[test]
    fn ranges_that_touch_become_one() {
        // (ranges, what is added, ranges after it)
        type Ranges = &'static [(i64, i64)];
        let cases: [(Ranges, (i64, i64), Ranges); 9] = [
            (&[], (5, 5), &[(5, 5)]),
            (&[(1, 3)], (3, 7), &[(1, 7)]),
            (&[(1, 3)], (5, 7), &[(1, 3), (5, 7)]),
            (&[(5, 7)], (1, 3), &[(1, 3), (5, 7)]),
            (&[(1, 3), (5, 7)], (3, 5), &[(1, 7)]),
            (&[(1, 3), (5, 7)], (2, 6), &[(1, 7)]),
            (&[(1, 3), (5, 7)], (6, 6), &[(1, 3), (5, 7)]),
            (&[(1, 3), (5, 7), (9, 9)], (0, 20), &[(0, 20)]),
            (&[(1, 3), (9, 9)], (4, 8), &[(1, 3), (4, 8), (9, 9)]),
        ];
        for (before, (from, upto), after) in cases {
            let mut ranges = seen(before);
            ranges.add(at(from), at(upto), at(0));
            assert_eq!(ranges, seen(after), "{before:?} and {from}..={upto}");
        }
        assert_eq!(seen(&[(9, 12), (7, 3), (1, 4), (2, 5)]), seen(&[(1, 5), (9, 12)]));
    }

    #[test]
    fn what_is_accounted_for_ends_with_the_last_range_that_has_begun() {
        let ranges = seen(&[(10, 20), (30, 40)]);
        for (now, upto) in [
            (9, None),
            (10, Some(20)),
            (25, Some(20)),
            (29, Some(20)),
            (30, Some(40)),
            (99, Some(40)),
        ] {
            assert_eq!(ranges.upto(at(now)), upto.map(at), "{now}");
        }
        for (nominal, end) in [(9, None), (15, Some(20)), (21, None), (40, Some(40)), (41, None)] {
            assert_eq!(ranges.end_around(at(nominal)), end.map(at), "{nominal}");
        }
    }

    #[test]
    fn what_comes_next_is_not_taken_for_seen_to() {
        // As many as are remembered, a range at the present, and others near it ahead and far behind.
        let half = i64::try_from(bounds::SEEN_RANGES_MAX).unwrap() / 2;
        let behind = (0..half).map(|n| (n * 1_000, n * 1_000 + 10));
        let ahead = (0..half).map(|n| (100_020 + n * 100, 100_020 + n * 100));
        let mut ranges = seen(&behind.chain(ahead).collect::<Vec<_>>());
        ranges.add(at(100_000), at(100_000), at(100_000));
        assert_eq!(ranges.ranges().len(), bounds::SEEN_RANGES_MAX);
        assert_eq!(ranges.end_around(at(100_010)), None, "between the present and what lies ahead");
        assert_eq!(ranges.end_around(at(500)), Some(at(1_010)), "the first of the nearest behind");
        // With nothing behind, those far ahead are joined, and not the present with the first of them.
        let mut ranges = seen(&(1..=half * 2).map(|n| (n * 10, n * 10)).collect::<Vec<_>>());
        ranges.add(at(5), at(5), at(5));
        assert_eq!((ranges.end_around(at(7)), ranges.end_around(at(15))), (None, Some(at(20))));
    }

    /// The plan for `count` times at 10, 20, 30 …, of which the first `late` are late.
    fn check(count: i64, late: i64, policy: Missed, expected: (&[i64], Option<(i64, i64, u64)>)) {
        let times: Vec<_> = (1..=count).map(|time| at(time * 10)).collect();
        let (before, last) = times.split_at(times.len().saturating_sub(4));
        let come = Between {
            count: times.len() as u64,
            first: times.first().copied(),
            before: before.last().copied(),
            last: last.to_vec(),
        };
        let plan = plan(&come, policy, |nominal| nominal.ms() <= late * 10);
        let (runs, missed) = expected;
        assert_eq!(plan.runs, runs.iter().map(|ms| at(*ms)).collect::<Vec<_>>(), "{policy}");
        let expected = missed.map(|(first, last, count)| (at(first), at(last), count));
        assert_eq!(plan.missed, expected, "{count} times, {late} late, {policy}");
    }

    #[test]
    fn what_was_missed_is_dealt_with_as_the_policy_says() {
        use Missed::{All, Once, Skip};
        check(1, 0, Skip, (&[10], None));
        check(2, 0, Once, (&[10, 20], None));
        check(1, 1, Skip, (&[], Some((10, 10, 1))));
        check(1, 1, Once, (&[10], None));
        check(3, 3, Skip, (&[], Some((10, 30, 3))));
        check(3, 3, Once, (&[30], Some((10, 20, 2))));
        check(3, 2, Once, (&[30], Some((10, 20, 2))));
        check(3, 2, Skip, (&[30], Some((10, 20, 2))));
        check(3, 3, All { max: 2 }, (&[20, 30], Some((10, 10, 1))));
        check(3, 2, All { max: 2 }, (&[10, 20, 30], None));
        check(9, 9, All { max: 4 }, (&[60, 70, 80, 90], Some((10, 50, 5))));
        check(9, 9, Once, (&[90], Some((10, 80, 8))));
        check(9, 9, Skip, (&[], Some((10, 90, 9))));
        check(9, 7, All { max: 2 }, (&[60, 70, 80, 90], Some((10, 50, 5))));
    }

    proptest! {
        /// However much is added, ranges stay few, ascending and apart, and nothing that was seen to is forgotten.
        #[test]
        fn nothing_that_was_seen_to_is_forgotten(
            added in proptest::collection::vec((0_i64..2_000, 0_i64..30, 0_i64..2_000), 1..80),
        ) {
            let mut ranges = Seen::default();
            for (from, length, now) in &added {
                ranges.add(at(*from), at(from + length), at(*now));
            }
            let kept = ranges.ranges();
            prop_assert!(kept.len() <= bounds::SEEN_RANGES_MAX);
            prop_assert!(kept.iter().all(|(from, upto)| from <= upto));
            prop_assert!(kept.windows(2).all(|pair| pair[0].1 < pair[1].0));
            for (from, length, _) in added {
                for moment in from..=from + length {
                    prop_assert!(ranges.end_around(at(moment)).is_some(), "{}", moment);
                }
            }
            prop_assert_eq!(Seen::of(kept.to_vec()), ranges);
        }
    }
}
