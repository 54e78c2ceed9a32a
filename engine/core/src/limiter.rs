//! The rate limit of one watcher: GCRA by governor, on our own clock and our own state.
//!
//! A start is decided before its commit and happens after it. So a decision is made on a copy of the
//! state, and [`Limiter::charge`] tells the real state when the attempts really left; were the earlier
//! time charged, a stalled commit would bring two sends closer together than the limit allows.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::ops::Add;
use std::time::Duration;

use axwatch_model::Mono;
use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};

/// How long a new limiter lets nothing through: the window that an earlier one may have filled.
const CLOSED: Duration = Duration::from_secs(1);

/// The rate limit of one watcher, shared by all its lanes.
#[derive(Debug, Clone)]
pub struct Limiter {
    quota: Quota,
    opens: Mono,
    charged: Option<u64>,
    decided: Option<u64>,
    /// Decided and not yet charged.
    leaving: u32,
}

impl Limiter {
    /// A limiter of `per_second` starts in any half-open second; closed for one second from `now`.
    #[must_use]
    pub fn new(per_second: NonZeroU32, now: Mono) -> Limiter {
        let n = u64::from(per_second.get());
        let burst = (n / 50).max(1);
        let period = Duration::from_nanos(1_000_000_000_u64.div_ceil(n - burst + 1));
        let burst = u32::try_from(burst).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(period).expect("a period is never zero").allow_burst(burst);
        Limiter { quota, opens: now.plus(CLOSED), charged: None, decided: None, leaving: 0 }
    }

    /// Decides whether one attempt may start. If not, says when to ask again.
    ///
    /// # Errors
    /// The moment from which a start may be allowed.
    pub fn decide(&mut self, now: Mono) -> Result<(), Mono> {
        if now < self.opens {
            return Err(self.opens);
        }
        self.decided = Some(next_state(self.quota, self.decided, now)?);
        self.leaving += 1;
        Ok(())
    }

    /// From one start to the next while fires wait.
    pub fn period(&self) -> Duration {
        self.quota.replenish_interval()
    }

    /// Charges one attempt with the time at which it left. One that a former limiter of the same
    /// watcher decided keeps this one closed for as long as it fills the window.
    pub fn charge(&mut self, left: Mono) {
        let Some(leaving) = self.leaving.checked_sub(1) else {
            self.opens = self.opens.max(left.plus(CLOSED));
            return;
        };
        self.leaving = leaving;
        // Later than decided is always allowed; an error would mean that time went back, and then the
        // state that stands is the safe one.
        if let Ok(state) = next_state(self.quota, self.charged, left) {
            self.charged = Some(state);
        }
        self.decided = self.charged;
    }
}

/// One step of governor's GCRA, from a state that we keep.
fn next_state(quota: Quota, state: Option<u64>, now: Mono) -> Result<u64, Mono> {
    let store = Kept(Cell::new(state));
    let clock = Hand(Cell::new(Moment(0)));
    let limiter: RateLimiter<NotKeyed, Kept, Hand, NoOpMiddleware<Moment>> =
        RateLimiter::new(quota, store, clock);
    limiter.clock().0.set(Moment(now.0));
    match limiter.check() {
        Ok(()) => Ok(limiter.into_state_store().0.get().unwrap_or(now.0)),
        Err(not_until) => Err(Mono(not_until.earliest_possible().0)),
    }
}

/// The theoretical arrival time of the next attempt, in nanoseconds of our clock.
struct Kept(Cell<Option<u64>>);

impl StateStore for Kept {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (answer, next) = decide(self.0.get().map(Nanos::from))?;
        self.0.set(Some(next.as_u64()));
        Ok(answer)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(u64);

impl Add<Nanos> for Moment {
    type Output = Moment;

    fn add(self, span: Nanos) -> Moment {
        Moment(self.0.saturating_add(span.as_u64()))
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Moment) -> Nanos {
        Nanos::from(self.0.saturating_sub(earlier.0))
    }

    fn saturating_sub(&self, span: Nanos) -> Moment {
        Moment(self.0.checked_sub(span.as_u64()).unwrap_or(self.0))
    }
}

#[derive(Debug, Clone)]
struct Hand(Cell<Moment>);

impl Clock for Hand {
    type Instant = Moment;

    fn now(&self) -> Moment {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn limiter(n: u32) -> Limiter {
        Limiter::new(NonZeroU32::new(n).unwrap(), Mono(0))
    }

    /// The most stamps in any half-open second.
    fn most_in_a_second(stamps: &[u64]) -> usize {
        let mut first = 0;
        let mut most = 0;
        for (last, &stamp) in stamps.iter().enumerate() {
            while stamps[first] + SECOND <= stamp {
                first += 1;
            }
            most = most.max(last - first + 1);
        }
        most
    }

    #[test]
    fn a_new_limiter_is_closed_for_one_second() {
        let mut limiter = limiter(5);
        assert_eq!(limiter.decide(Mono(SECOND - 1)), Err(Mono(SECOND)));
        assert_eq!(limiter.decide(Mono(SECOND)), Ok(()));
    }

    #[test]
    fn what_a_former_limiter_let_go_keeps_the_new_one_closed() {
        let mut limiter = limiter(2);
        limiter.charge(Mono(SECOND * 9 / 10));
        assert_eq!(limiter.decide(Mono(SECOND)), Err(Mono(SECOND * 19 / 10)));
        assert_eq!(limiter.decide(Mono(SECOND * 19 / 10)), Ok(()));
    }

    #[test]
    fn the_promised_rate_is_reached() {
        for n in [1, 5, 49, 50, 100, 1_000, 100_000] {
            let mut limiter = limiter(n);
            let (mut now, mut starts) = (SECOND, 0_u32);
            while now < 11 * SECOND {
                match limiter.decide(Mono(now)) {
                    Ok(()) => {
                        limiter.charge(Mono(now));
                        starts += 1;
                    }
                    Err(until) => now = until.0,
                }
            }
            assert!(starts >= n * 10 * 97 / 100, "{starts} starts in 10 s at {n} a second");
        }
    }

    proptest! {
        /// However the commits stall, no half-open second of the stamps holds more than N.
        #[test]
        fn no_window_holds_more_than_n(
            n in prop_oneof![1_u32..60, Just(100), Just(1_000)],
            stalls in proptest::collection::vec(0_u64..400_000_000, 1..300),
        ) {
            let mut limiter = limiter(n);
            let mut now = SECOND;
            let mut stamps = Vec::new();
            for stall in stalls {
                let mut started = 0;
                let until = loop {
                    match limiter.decide(Mono(now)) {
                        Ok(()) => started += 1,
                        Err(until) => break until,
                    }
                };
                let left = now + stall;
                for _ in 0..started {
                    limiter.charge(Mono(left));
                    stamps.push(left);
                }
                now = left.max(until.0);
            }
            prop_assert!(most_in_a_second(&stamps) <= n as usize);
        }
    }
}
