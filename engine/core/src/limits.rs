//! Who waits for a watcher's limit, and who goes first when it lets another attempt start.
//!
//! All that start jobs of a watcher share its limit: its lanes, and the suspects of each plugin. Those
//! that were refused stand in a queue. One timer wakes the watcher when the limit would let an attempt
//! start; then the first of the queue is called, and so on while the limit allows more. Whoever was
//! called and could not start, because its plugin has no slot, is passed over: it goes before the queue
//! when it asks next, and may decide a little further ahead, so that it is not passed over for ever by
//! those whose plugins are idle.
//!
//! Attempts are decided ahead by about the time that a commit takes, or that time would be lost to the
//! rate. When exactly one may leave is known once its batch is on the disk: [`State::committed`].
//!
//! Not here: the limit itself (`crate::limiter`). Nothing of this survives a crash; a new life of the
//! engine begins with closed limits and empty queues.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use axwatch_model::{JobNumber, Mono, Now, PluginName, WatcherNumber};

use crate::event::Effect;
use crate::limiter::{CLOSED, Limiter};
use crate::record::{JobRecord, Record};
use crate::state::{LaneId, Phase, State, Timer};

/// What a decision is made ahead of its time besides the time of commits: timers come late.
const LEAD_MIN: Duration = Duration::from_millis(2);
/// Nothing is decided further ahead than a limiter is closed at first.
const LEAD_MAX: Duration = CLOSED;
/// How far ahead one may decide that was passed over. It keeps a slot for so long at most.
const LEAD_PASSED_OVER: Duration = Duration::from_millis(250);

/// How long it takes from a decision to its commit.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the batch at hand began.
    began: Option<Mono>,
    /// The longest of late; an eighth of it is forgotten with each commit.
    commit: Duration,
}

impl Pace {
    /// Something is told that belongs to the batch at hand.
    pub fn begin(&mut self, now: Mono) {
        self.began.get_or_insert(now);
    }

    /// The batch at hand is on the disk.
    pub fn end(&mut self, now: Mono) {
        let Some(began) = self.began.take() else { return };
        self.commit = now.since(began).max(self.commit - self.commit / 8);
    }

    /// How far ahead attempts are decided: a decision may have to wait for the commit before its own.
    pub fn lead(&self) -> Duration {
        (self.commit * 2 + LEAD_MIN).min(LEAD_MAX)
    }
}

/// An attempt that started in the batch at hand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Starting {
    pub job: JobNumber,
    pub watcher: Option<WatcherNumber>,
    /// The account that its call is counted in.
    pub account: usize,
}

/// Who asks a watcher's limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Waiter {
    /// A lane of the watcher.
    Lane(LaneId),
    /// The suspects of a plugin that are jobs of the watcher.
    Suspects(PluginName),
}

/// The limit of a watcher, and those that wait for it.
#[derive(Default)]
pub(crate) struct Limit {
    /// When the last attempt of the watcher left, or will.
    last_left: Mono,
    /// Of one that ever had a limit in this life of the engine: most have none.
    line: Option<Box<Line>>,
}

/// A limit, if it lasts, and who waits for it.
#[derive(Default)]
struct Line {
    limiter: Option<Limiter>,
    /// Those that were refused, first come first.
    waiting: VecDeque<Waiter>,
    /// Those that were called and have not asked yet, and whether they were passed over since.
    called: BTreeMap<Waiter, bool>,
    /// When the first of the queue is to be called.
    timer: Option<Mono>,
}

impl Limit {
    /// Sets the limit anew, closed for as long as what has left fills the window.
    pub fn set(&mut self, per_second: Option<u32>, now: Mono) {
        let closed_from = now.max(self.last_left);
        let new = per_second.and_then(NonZeroU32::new).map(|n| Limiter::new(n, closed_from));
        if new.is_some() || self.line.is_some() {
            let line = self.line.get_or_insert_default();
            let former = line.limiter.take();
            line.limiter = new.map(|limiter| limiter.after(former));
        }
    }

    /// When the limit lets the next attempt go.
    pub fn opens_at(&self) -> Option<Mono> {
        self.line.as_ref()?.limiter.as_ref().map(Limiter::earliest)
    }

    /// Whether this one stands in the queue.
    pub fn holds(&self, waiter: &Waiter) -> bool {
        self.line.as_ref().is_some_and(|line| line.waiting.contains(waiter))
    }

    /// Whether it may start an attempt. If not, it has a place in the queue: the first when it had been
    /// called.
    fn ask(&mut self, waiter: Waiter, now: Mono, lead: Duration) -> bool {
        self.line.as_mut().is_none_or(|line| line.ask(waiter, now, lead))
    }

    /// An attempt of the watcher is on the disk; says when it may leave.
    fn leave(&mut self, committed: Mono) -> Mono {
        let limiter = self.line.as_mut().and_then(|line| line.limiter.as_mut());
        let left = limiter.map_or(committed, |limiter| limiter.charge(committed));
        self.last_left = self.last_left.max(left);
        left
    }

    /// Who had been called and has not asked is passed over.
    fn pass_over(&mut self) {
        let called = self.line.iter_mut().flat_map(|line| line.called.values_mut());
        called.for_each(|passed_over| *passed_over = true);
    }

    /// Takes one that is gone out of the queue.
    pub fn forget(&mut self, waiter: &Waiter) {
        if let Some(line) = &mut self.line {
            line.called.remove(waiter);
            line.waiting.retain(|other| other != waiter);
        }
    }
}

impl Line {
    fn ask(&mut self, waiter: Waiter, now: Mono, lead: Duration) -> bool {
        let Some(limiter) = &mut self.limiter else { return true };
        let called = self.called.remove(&waiter);
        if called.is_none() && !self.waiting.is_empty() {
            if !self.waiting.contains(&waiter) {
                self.waiting.push_back(waiter);
            }
            return false;
        }
        let lead = if called == Some(true) { lead.max(LEAD_PASSED_OVER) } else { lead };
        let granted = limiter.decide(now, lead).is_ok();
        if !granted && called.is_some() {
            self.waiting.push_front(waiter);
        } else if !granted {
            self.waiting.push_back(waiter);
        }
        granted
    }
}

impl State {
    /// Asks the limit of the job's watcher for this one. A job that it holds back is noted once in the
    /// audit.
    pub(crate) fn limit(&mut self, waiter: Waiter, number: JobNumber, now: Now) -> bool {
        let Some(watcher) = self.jobs[&number].row.watcher else { return true };
        let lead = self.pace.lead();
        let Some(known) = self.watchers.get_mut(&watcher) else { return true };
        let granted = known.limit.ask(waiter.clone(), now.mono, lead);
        if !granted {
            if let Waiter::Lane(lane_id) = waiter {
                self.lanes.get_mut(&lane_id).expect("only known lanes ask").limited = true;
            }
            self.note_limited(number, now);
        }
        self.arrange_call(watcher, now.mono);
        granted
    }

    fn note_limited(&mut self, number: JobNumber, now: Now) {
        let job = self.jobs.get_mut(&number).expect("only jobs in memory ask");
        if std::mem::replace(&mut job.limited_noted, true) {
            return;
        }
        let limited = JobRecord::new("limited", job.row.id, now.wall);
        let leaf = self.record(&Record::Job(limited));
        self.note_leaf(number, leaf);
    }

    /// Sees to it that the first of the queue is called: when everything has been pumped, if the limit
    /// would let it start now, or by the timer.
    fn arrange_call(&mut self, watcher: WatcherNumber, now: Mono) {
        let lead = self.pace.lead();
        let Some(known) = self.watchers.get_mut(&watcher) else { return };
        let Some(line) = known.limit.line.as_mut().filter(|line| !line.waiting.is_empty()) else {
            return;
        };
        let opens = line.limiter.as_ref().map_or(Mono(0), Limiter::earliest);
        if opens <= now.plus(lead) {
            self.limits_to_call.insert(watcher);
            return;
        }
        let at = now.plus(opens.since(now).saturating_sub(lead));
        if let Some(before) = line.timer.replace(at) {
            self.timers.remove(&(before, Timer::Limit(watcher)));
        }
        self.timers.insert((at, Timer::Limit(watcher)));
    }

    /// It is time to call the first of a watcher's queue.
    pub(crate) fn limit_is_due(&mut self, watcher: WatcherNumber) {
        if let Some(known) = self.watchers.get_mut(&watcher) {
            if let Some(line) = &mut known.limit.line {
                line.timer = None;
            }
            self.limits_to_call.insert(watcher);
        }
    }

    /// Everything has been pumped. Calls the next of each queue whose limit allows it.
    pub(crate) fn call_limited(&mut self, now: Now) {
        for watcher in std::mem::take(&mut self.limits_to_call) {
            let Some(known) = self.watchers.get_mut(&watcher) else { continue };
            known.limit.pass_over();
            if known.limit.opens_at().is_none_or(|opens| opens <= now.mono.plus(self.pace.lead())) {
                self.call_next(watcher);
            }
            self.arrange_call(watcher, now.mono);
        }
    }

    fn call_next(&mut self, watcher: WatcherNumber) {
        let limit = &mut self.watchers.get_mut(&watcher).expect("looked up by the caller").limit;
        let waiter = limit.line.as_mut().and_then(|line| line.waiting.pop_front());
        let Some(waiter) = waiter else { return };
        match &waiter {
            Waiter::Lane(lane_id) => {
                let lane = self.lanes.get_mut(lane_id).expect("a lane that is gone waits nowhere");
                lane.limited = false;
                self.schedule(*lane_id);
                if !self.lanes[lane_id].in_turn {
                    // It has nothing to start any more.
                    return;
                }
            }
            Waiter::Suspects(plugin) => drop(self.to_pump.insert(plugin.clone())),
        }
        let limit = &mut self.watchers.get_mut(&watcher).expect("looked up above").limit;
        limit.line.as_mut().expect("somebody stood in it").called.insert(waiter, false);
    }

    /// The limit of a watcher is another, or none any more: whoever waits for it asks anew.
    pub(crate) fn set_limit(&mut self, watcher: WatcherNumber, per_second: Option<u32>, now: Mono) {
        let known = self.watchers.get_mut(&watcher).expect("listed by the caller");
        known.limit.set(per_second, now);
        let waiting = known.limit.line.as_mut().map(|line| std::mem::take(&mut line.waiting));
        for waiter in waiting.unwrap_or_default() {
            match waiter {
                Waiter::Lane(lane_id) => {
                    self.lanes
                        .get_mut(&lane_id)
                        .expect("a lane that is gone waits nowhere")
                        .limited = false;
                    self.schedule(lane_id);
                }
                Waiter::Suspects(plugin) => drop(self.to_pump.insert(plugin)),
            }
        }
    }

    /// The batch is on the disk: each of its attempts leaves now, or as soon as its limit allows.
    pub(crate) fn committed(&mut self, now: Mono, effects: &mut Vec<Effect>) {
        self.pace.end(now);
        for Starting { job: number, watcher, account } in std::mem::take(&mut self.starting) {
            let watcher = watcher.and_then(|watcher| self.watchers.get_mut(&watcher));
            let at = watcher.map_or(now, |watcher| watcher.limit.leave(now));
            self.budget_left(account, at);
            if at > now {
                effects.push(Effect::LeaveAt { job: number, at });
            }
            if let Some(job) = self.jobs.get_mut(&number)
                && let Phase::Running { left, .. } = &mut job.phase
            {
                *left = Some(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const LEAD: Duration = Duration::from_millis(600);

    fn limit(per_second: u32) -> Limit {
        let mut limit = Limit::default();
        limit.set(Some(per_second), Mono(0));
        limit
    }

    fn line(limit: &mut Limit) -> &mut Line {
        limit.line.as_mut().expect("it has a limit")
    }

    fn lane(id: u64) -> Waiter {
        Waiter::Lane(LaneId(id))
    }

    #[test]
    fn nobody_goes_before_those_that_wait() {
        let mut limit = limit(1);
        assert!(limit.ask(lane(1), Mono(SECOND), Duration::ZERO));
        limit.leave(Mono(SECOND));
        assert!(!limit.ask(lane(2), Mono(SECOND), Duration::ZERO));
        // The limit would allow it now, but another was there before.
        assert!(!limit.ask(lane(1), Mono(2 * SECOND), Duration::ZERO));
        assert_eq!(line(&mut limit).waiting, [lane(2), lane(1)]);
        let called = line(&mut limit).waiting.pop_front().unwrap();
        line(&mut limit).called.insert(called, false);
        assert!(!limit.ask(lane(3), Mono(2 * SECOND), Duration::ZERO));
        assert!(limit.ask(lane(2), Mono(2 * SECOND), Duration::ZERO));
    }

    #[test]
    fn one_that_was_passed_over_decides_further_ahead() {
        let mut limit = limit(5);
        assert!(limit.ask(lane(1), Mono(SECOND), Duration::ZERO));
        line(&mut limit).called.insert(lane(2), false);
        assert!(!limit.ask(lane(2), Mono(SECOND), Duration::ZERO), "called, and too early");
        assert_eq!(line(&mut limit).waiting.pop_front(), Some(lane(2)));
        line(&mut limit).called.insert(lane(2), false);
        limit.pass_over();
        assert!(limit.ask(lane(2), Mono(SECOND), Duration::ZERO));
        assert_eq!(limit.leave(Mono(SECOND)), Mono(SECOND));
        assert_eq!(limit.leave(Mono(SECOND)), Mono(SECOND * 6 / 5), "but leaves in time");
    }

    #[test]
    fn a_limit_that_comes_back_is_closed_until_the_last_attempt_has_left_for_a_second() {
        let mut limit = limit(2);
        assert!((0..2).all(|_| limit.ask(lane(1), Mono(SECOND), LEAD)));
        assert_eq!(limit.leave(Mono(SECOND)), Mono(SECOND));
        assert_eq!(limit.leave(Mono(SECOND)), Mono(SECOND * 3 / 2));
        limit.set(None, Mono(SECOND));
        assert_eq!(limit.opens_at(), None);
        limit.set(Some(2), Mono(SECOND));
        assert_eq!(limit.opens_at(), Some(Mono(SECOND * 5 / 2)));
    }

    #[test]
    fn the_lead_follows_the_slowest_commits_of_late() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        let mut now = Mono(0);
        let mut commit = |pace: &mut Pace, took: u64| {
            pace.begin(now);
            pace.begin(now.plus(ms(took / 2)));
            now = now.plus(ms(took));
            pace.end(now);
            now = now.plus(ms(7));
            pace.lead()
        };
        assert_eq!(pace.lead(), LEAD_MIN);
        assert_eq!(commit(&mut pace, 8), ms(18));
        assert_eq!(commit(&mut pace, 0), ms(16));
        assert_eq!(commit(&mut pace, 20), ms(42));
        assert_eq!(commit(&mut pace, 900), LEAD_MAX);
        let lead = (0..40).map(|_| commit(&mut pace, 1)).last().unwrap();
        assert!(lead < ms(14), "{lead:?}");
    }
}
