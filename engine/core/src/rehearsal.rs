//! What a rate limit would have done: the same limiter, on a clock that the fires themselves move.
//!
//! In: the moments at which fires would have been made, in the order of the log. Out: when each would
//! have started. Nothing is kept but the limiter and one run of fires that wait, however long that is.
//!
//! Not here: which claims would have fired (`axwatch_query`), slots, retries and plugins that are away.

use std::num::NonZeroU32;
use std::time::Duration;

use axwatch_model::{Mono, Timestamp};

use crate::limiter::Limiter;

/// When the simulated clock begins: long after the watcher was registered, so that its limiter is open.
const BEGIN: Mono = Mono(3_600_000_000_000);
/// A limiter has forgotten what started longer ago than this; that much time is always enough.
const FORGOTTEN: Duration = Duration::from_secs(2);

/// The rate limit of one watcher on a simulated clock.
///
/// The clock goes on by as much as the wall clock did from one fire to the next, and stands still where
/// that was set back. Fires wait first in, first out, and each starts at the first moment that the
/// limiter allows. An attempt leaves when it is decided, because there is no commit to wait for.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    limiter: Limiter,
    now: Mono,
    /// What the wall clock said at the last fire.
    wall: Option<Timestamp>,
    last_start: Mono,
    /// How many of the last fires had to wait, without one between them that had not.
    waited: u64,
}

/// What the limiter does to one fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rehearsed {
    /// When its attempt starts, by the wall clock of its claim.
    pub starts_at: Timestamp,
    /// How long it waits for that, in whole milliseconds, rounded up.
    pub waits: Duration,
    /// How many fires wait when it has come, itself counted if it does.
    pub queue: u64,
}

impl Rehearsal {
    /// A watcher of at most `per_second` starts a second, none of which has been.
    #[must_use]
    pub fn new(per_second: NonZeroU32) -> Rehearsal {
        Rehearsal {
            limiter: Limiter::new(per_second, Mono::default()),
            now: BEGIN,
            wall: None,
            last_start: BEGIN,
            waited: 0,
        }
    }

    /// The next fire, made at this moment.
    pub fn fire(&mut self, at: Timestamp) -> Rehearsed {
        self.pass_until(at);
        let start = self.start();
        let waits = in_whole_ms(start.since(self.now));
        self.waited = if start > self.now { self.waited + 1 } else { 0 };
        Rehearsed { starts_at: at.plus(waits), waits, queue: self.queue() }
    }

    /// Lets the clock go on, but no further than makes a difference, so that no number of idle years
    /// brings it to its end.
    fn pass_until(&mut self, at: Timestamp) {
        let passed = self.wall.map_or(Duration::ZERO, |wall| at.since(wall));
        let enough = self.last_start.plus(FORGOTTEN).since(self.now);
        self.now = self.now.plus(passed.min(enough));
        self.wall = Some(at);
    }

    /// Starts the next attempt, and says when that is.
    fn start(&mut self) -> Mono {
        let mut start = self.now.max(self.last_start);
        while let Err(until) = self.limiter.decide(start, Duration::ZERO) {
            start = until;
        }
        self.last_start = self.limiter.charge(start);
        start
    }

    /// How many fires wait now. Those that wait start one period after the other.
    fn queue(&self) -> u64 {
        let ahead = self.last_start.since(self.now).as_nanos();
        let starts = ahead.div_ceil(self.limiter.period().as_nanos());
        self.waited.min(u64::try_from(starts).unwrap_or(u64::MAX))
    }
}

fn in_whole_ms(span: Duration) -> Duration {
    let ms = span.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(1_750_000_000_000 + ms).unwrap()
    }

    fn rehearsal(n: u32) -> Rehearsal {
        Rehearsal::new(NonZeroU32::new(n).unwrap())
    }

    #[test]
    fn fires_wait_their_turn() {
        // (a second, for each fire: when it comes, how long it waits in ms, how many wait then)
        let cases = [
            (1, vec![(0, 0, 0), (0, 1_000, 1), (0, 2_000, 2)]),
            (1, vec![(0, 0, 0), (1_000, 0, 0), (1_999, 1, 1), (5_000, 0, 0)]),
            (5, vec![(0, 0, 0), (100, 100, 1), (200, 200, 1), (400, 200, 1)]),
            // The first two of a hundred a second may go at once.
            (100, vec![(0, 0, 0), (0, 0, 0), (0, 11, 1), (0, 21, 2)]),
            // Set back by an hour, then on: time neither repeats nor runs ahead.
            (2, vec![(0, 0, 0), (-3_600_000, 500, 1), (-3_599_900, 900, 2), (-3_599_000, 500, 1)]),
        ];
        for (n, fires) in cases {
            let mut rehearsal = rehearsal(n);
            for (ms, wait, queue) in &fires {
                let waits = Duration::from_millis(*wait);
                let expected = Rehearsed { starts_at: at(*ms).plus(waits), waits, queue: *queue };
                assert_eq!(rehearsal.fire(at(*ms)), expected, "{n} a second, {fires:?} at {ms}");
            }
        }
    }

    #[test]
    fn the_longest_idle_time_does_no_harm() {
        let mut rehearsal = rehearsal(1);
        let (first, last) =
            (Timestamp::from_ms_clamped(i64::MIN), Timestamp::from_ms_clamped(i64::MAX));
        for _ in 0..1_000 {
            rehearsal.fire(first);
            assert_eq!(rehearsal.fire(last).waits, Duration::ZERO);
        }
        assert_eq!(rehearsal.fire(last).waits, Duration::from_secs(1));
    }

    proptest! {
        /// Never more than N in any half-open second, in the order in which they came, none before it
        /// came, and each at the first moment that the limiter allows.
        #[test]
        fn starts_are_as_early_as_the_limit_allows(
            n in prop_oneof![1_u32..60, Just(100), Just(1_000), Just(100_000)],
            gaps in proptest::collection::vec(
                prop_oneof![4 => 0_i64..3, 4 => 0_i64..400, 1 => -5_000_i64..5_000], 1..300,
            ),
        ) {
            let mut rehearsal = rehearsal(n);
            let (mut wall_ms, mut starts) = (0, Vec::new());
            for gap in gaps {
                wall_ms += gap;
                let (mut before, former) = (rehearsal.limiter.clone(), rehearsal.last_start);
                let told = rehearsal.fire(at(wall_ms));
                let (now, start) = (rehearsal.now, rehearsal.last_start);
                prop_assert!(start >= now && start >= former);
                if start > now.max(former) {
                    prop_assert!(before.decide(Mono(start.0 - 1), Duration::ZERO).is_err());
                }
                prop_assert_eq!(before.decide(start, Duration::ZERO), Ok(()));
                starts.push(start.0);
                let waiting = starts.iter().filter(|start| **start > now.0).count();
                prop_assert_eq!(told.queue, waiting as u64);
                prop_assert_eq!(told.waits, in_whole_ms(start.since(now)));
                prop_assert_eq!(told.starts_at, at(wall_ms).plus(told.waits));
            }
            for pair in starts.windows(n as usize + 1) {
                prop_assert!(pair[pair.len() - 1] - pair[0] >= SECOND, "{n} a second: {starts:?}");
            }
        }
    }
}
