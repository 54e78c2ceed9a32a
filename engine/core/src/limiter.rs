//! The rate limit of one watcher: GCRA by governor, on our own clock and our own state.
//!
//! A start is decided before its commit and happens after it. So a decision is made on a copy of the
//! state, a little ahead of its time, and [`Limiter::charge`] finds out from the real state when the
//! attempt may really leave: not before its commit, and not before the limit allows it after those
//! that left before it. Were decisions not made ahead, each commit's time would be lost to the rate;
//! were they what the state is charged with, a stalled commit would bring two sends closer together
//! than the limit allows.
//!
//! Not here: how far ahead, and who may go first when several wait (`crate::limits`).

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
pub(crate) const CLOSED: Duration = Duration::from_secs(1);

/// The rate limit of one watcher, shared by all its lanes.
#[derive(Debug, Clone)]
pub struct Limiter {
    quota: Quota,
    opens: Mono,
    charged: Option<u64>,
    decided: Option<u64>,
    /// Decided and not yet charged.
    leaving: u32,
    /// The one before it, while attempts that it decided have not been charged.
    former: Option<Box<Limiter>>,
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
        Limiter {
            quota,
            opens: now.plus(CLOSED),
            charged: None,
            decided: None,
            leaving: 0,
            former: None,
        }
    }

    /// The limiter that takes over from `former`, whose last attempts may not have been charged yet.
    #[must_use]
    pub fn after(mut self, former: Option<Limiter>) -> Limiter {
        let pending = |limiter: &Limiter| limiter.leaving > 0 || limiter.former.is_some();
        self.former = former.filter(pending).map(Box::new);
        self
    }

    /// Decides whether one attempt may start that leaves at most `lead` from now. If not, says when to
    /// ask again.
    ///
    /// # Errors
    /// The moment from which a start may be decided with this lead.
    pub fn decide(&mut self, now: Mono, lead: Duration) -> Result<(), Mono> {
        let allowed = self.earliest();
        if allowed > now.plus(lead) {
            return Err(Mono(allowed.0.saturating_sub(nanos(lead))));
        }
        self.decided = Some(next_state(self.quota, self.decided, now.max(allowed))?);
        self.leaving += 1;
        Ok(())
    }

    /// When the next attempt to be decided may leave, if those that were decided leave in time.
    #[must_use]
    pub fn earliest(&self) -> Mono {
        self.opens.max(earliest(self.quota, self.decided))
    }

    /// From one start to the next while fires wait.
    pub fn period(&self) -> Duration {
        self.quota.replenish_interval()
    }

    /// Charges the attempt that was decided first of those not charged, now that it is committed, and
    /// says when it may leave. One that was decided before there was a limit leaves at once, and keeps
    /// this limiter closed for as long as it fills the window, as one of a former limiter does.
    pub fn charge(&mut self, committed: Mono) -> Mono {
        if let Some(former) = &mut self.former {
            let left = former.charge(committed);
            if former.leaving == 0 && former.former.is_none() {
                self.former = None;
            }
            self.opens = self.opens.max(left.plus(CLOSED));
            return left;
        }
        let Some(leaving) = self.leaving.checked_sub(1) else {
            self.opens = self.opens.max(committed.plus(CLOSED));
            return committed;
        };
        self.leaving = leaving;
        let left = committed.max(self.opens).max(earliest(self.quota, self.charged));
        self.charged = next_state(self.quota, self.charged, left).ok().or(self.charged);
        self.decided = self.charged;
        left
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// The first moment at which this state lets an attempt through.
fn earliest(quota: Quota, state: Option<u64>) -> Mono {
    // Asked at the beginning of time, it allows the attempt or says from when on.
    state.and_then(|_| next_state(quota, state, Mono(0)).err()).unwrap_or(Mono(0))
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
        let lead = Duration::from_millis(10);
        assert_eq!(limiter.decide(Mono(SECOND - 1), Duration::ZERO), Err(Mono(SECOND)));
        assert_eq!(limiter.decide(Mono(SECOND / 2), lead), Err(Mono(SECOND - 10_000_000)));
        assert_eq!(limiter.decide(Mono(SECOND - 10_000_000), lead), Ok(()));
        assert_eq!(limiter.charge(Mono(SECOND - 5_000_000)), Mono(SECOND), "not before it opens");
    }

    #[test]
    fn an_attempt_decided_ahead_leaves_in_time() {
        let (mut limiter, lead) = (limiter(10), Duration::from_millis(50));
        let period = SECOND / 10;
        limiter.decide(Mono(SECOND), lead).unwrap();
        assert_eq!(limiter.charge(Mono(SECOND + 7)), Mono(SECOND + 7));
        let ask_again = Mono(SECOND + 7 + period - 50_000_000);
        assert_eq!(limiter.decide(Mono(SECOND + 8), lead), Err(ask_again));
        limiter.decide(ask_again, lead).unwrap();
        assert_eq!(limiter.charge(Mono(ask_again.0 + 9)), Mono(SECOND + 7 + period));
    }

    #[test]
    fn what_a_former_limiter_let_go_keeps_the_new_one_closed() {
        let mut unknown = limiter(2);
        assert_eq!(unknown.charge(Mono(SECOND * 9 / 10)), Mono(SECOND * 9 / 10));
        assert_eq!(unknown.decide(Mono(SECOND), Duration::ZERO), Err(Mono(SECOND * 19 / 10)));
        // What the former decided leaves as the former allows it.
        let mut former = limiter(2);
        let ahead = Duration::from_millis(600);
        (0..2).for_each(|_| former.decide(Mono(SECOND), ahead).unwrap());
        let mut new = Limiter::new(NonZeroU32::new(100).unwrap(), Mono(SECOND)).after(Some(former));
        assert_eq!(new.charge(Mono(SECOND + 1)), Mono(SECOND + 1));
        assert_eq!(new.charge(Mono(SECOND + 1)), Mono(SECOND * 3 / 2 + 1));
        assert_eq!(new.earliest(), Mono(SECOND * 5 / 2 + 1));
    }

    #[test]
    fn the_promised_rate_is_reached() {
        for n in [1, 5, 49, 50, 60, 99, 100, 1_000, 100_000] {
            let mut limiter = limiter(n);
            let (mut now, mut starts) = (SECOND, 0_u32);
            while now < 11 * SECOND {
                match limiter.decide(Mono(now), Duration::ZERO) {
                    Ok(()) => {
                        limiter.charge(Mono(now));
                        starts += 1;
                    }
                    Err(until) => now = until.0,
                }
            }
            assert!(starts >= n * 10 * 98 / 100, "{starts} starts in 10 s at {n} a second");
        }
    }

    /// What happens to a limiter between two decisions.
    #[derive(Debug, Clone)]
    enum Step {
        /// So much time passes in which nobody asks.
        Idle(u64),
        /// As many as may are decided, at most so many, and committed so much later.
        Batch { wanted: u32, stall: u64, lead: u64 },
        /// The engine dies and starts again so much later.
        Restart(u64),
        /// A person declares another limit, with attempts decided in the same batch.
        Change { n: u32, lead: u64 },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let span = || prop_oneof![0_u64..2_000_000, 0_u64..400_000_000];
        let lead = || prop_oneof![Just(0_u64), 0_u64..50_000_000, 0_u64..1_000_000_000];
        let wanted = prop_oneof![1_u32..5, Just(u32::MAX)];
        prop_oneof![
            3 => prop_oneof![span(), 0_u64..3 * SECOND].prop_map(Step::Idle),
            9 => (wanted, span(), lead()).prop_map(|(wanted, stall, lead)| Step::Batch { wanted, stall, lead }),
            1 => span().prop_map(Step::Restart),
            1 => (any_n(), lead()).prop_map(|(n, lead)| Step::Change { n, lead }),
        ]
    }

    fn any_n() -> impl Strategy<Value = u32> {
        prop_oneof![1_u32..60, Just(99), Just(100), Just(1_000), 1_u32..=100_000]
    }

    proptest! {
        /// However far ahead is decided, however the commits stall, whoever dies or changes his mind:
        /// no half-open second of the stamps holds more than N, and none holds those of two limits.
        #[test]
        fn no_window_holds_more_than_n(
            n in any_n(),
            steps in proptest::collection::vec(any_step(), 1..60),
        ) {
            let mut now = SECOND;
            let mut limiter = limiter(n);
            // The limit, and since when.
            let mut limits = vec![(0, n)];
            let mut stamps: Vec<u64> = Vec::new();
            for step in steps {
                match step {
                    Step::Idle(span) => now += span,
                    Step::Batch { wanted, stall, lead } => {
                        // More than ten thousand at once prove nothing that those do not.
                        let lead = Duration::from_nanos(lead);
                        let wanted = wanted.min(10_000);
                        let started = (0..wanted)
                            .take_while(|_| limiter.decide(Mono(now), lead).is_ok())
                            .count();
                        now += stall;
                        stamps.extend((0..started).map(|_| limiter.charge(Mono(now)).0));
                    }
                    Step::Restart(down) => {
                        // What had not left will not.
                        stamps.retain(|left| *left <= now);
                        now += down;
                        limiter = Limiter::new(NonZeroU32::new(limits.last().unwrap().1).unwrap(), Mono(now));
                    }
                    Step::Change { n, lead } => {
                        let lead = Duration::from_nanos(lead);
                        let started = (0..3)
                            .take_while(|_| limiter.decide(Mono(now), lead).is_ok())
                            .count();
                        let closed_from = stamps.last().map_or(now, |last| now.max(*last));
                        let new = Limiter::new(NonZeroU32::new(n).unwrap(), Mono(closed_from));
                        limiter = new.after(Some(limiter));
                        stamps.extend((0..started).map(|_| limiter.charge(Mono(now)).0));
                        // Those of the former limit may be yet to leave.
                        let last = stamps.last().map_or(now, |last| now.max(*last));
                        limits.push((last + 1, n));
                    }
                }
                prop_assert!(stamps.is_sorted());
            }
            for (place, (since, n)) in limits.iter().enumerate() {
                let until = limits.get(place + 1).map_or(u64::MAX, |(until, _)| *until);
                let of = |at: &u64| (*since..until).contains(at);
                let mine: Vec<_> = stamps.iter().copied().filter(of).collect();
                prop_assert!(most_in_a_second(&mine) <= *n as usize);
                let next = stamps.iter().find(|at| **at >= until);
                if let (Some(last), Some(next)) = (mine.last(), next) {
                    prop_assert!(next - last >= SECOND);
                }
            }
        }
    }
}
