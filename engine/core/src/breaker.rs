//! The breaker of a handler: while everything that it tries fails, it is tried one attempt at a time.
//!
//! After 10 retryable failures in a row, from more than one job, a handler's breaker opens. From then
//! on its lanes stand in a queue, and one attempt at a time is let through to see whether the handler is
//! well again: after a second, then after twice as long each time, up to a minute. Which attempt that
//! is goes round the lanes; what a lane offers is what it would start anyway, so that each job still
//! waits for its own retry. Any answer that is not a retryable failure closes the breaker.
//!
//! An attempt that was lost says nothing about the handler: it neither counts nor closes. Nothing of
//! this survives a crash; a new life of the engine finds out again.
//!
//! Not here: what becomes of the job whose attempt failed (`crate::settle`).

use std::collections::BTreeMap;
use std::time::Duration;

use axwatch_model::{HandlerName, JobNumber, Mono, Now, PluginName, Timestamp, bounds};

use crate::outcome::Outcome;
use crate::record::{BreakerClosed, BreakerOpened, Record};
use crate::settle::begin;
use crate::state::{LaneId, Phase, State, Timer};

/// So many failures in a row open a breaker.
const FAILURES: u32 = 10;
/// The first pause, which doubles with each failure after it.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The failures of a handler since its last other answer. Without any there is no breaker.
pub(crate) struct Breaker {
    pub failures: u32,
    /// What the last of them said.
    pub error: String,
    /// The job that failed first.
    first: JobNumber,
    /// Another failed too.
    several: bool,
    pub open: Option<Open>,
}

/// A breaker that is open.
pub(crate) struct Open {
    since: Mono,
    pause: Duration,
    /// When the next attempt may be let through.
    pub until: Mono,
    /// The same by the wall clock as it was then.
    pub until_wall: Timestamp,
    /// The attempt that was let through.
    probe: Option<JobNumber>,
    /// Lanes that were held, first come first.
    waiting: BTreeMap<u64, LaneId>,
    last_ticket: u64,
}

impl Open {
    /// Whether the attempt that was let through is under way.
    pub fn is_trying(&self) -> bool {
        self.probe.is_some()
    }

    fn pause_from(&mut self, now: Now) {
        self.until = now.mono.plus(self.pause);
        self.until_wall = now.wall.plus(self.pause);
    }
}

impl State {
    pub(crate) fn breaker(&self, plugin: &PluginName, handler: &HandlerName) -> Option<&Breaker> {
        self.breakers.get(plugin)?.get(handler)
    }

    fn open_breaker(&mut self, plugin: &PluginName, handler: &HandlerName) -> Option<&mut Open> {
        self.breakers.get_mut(plugin)?.get_mut(handler)?.open.as_mut()
    }

    /// Whether an attempt of this handler may start now: always, unless its breaker is open and its
    /// next attempt is not due, or another one is under way.
    pub(crate) fn breaker_allows(
        &self,
        plugin: &PluginName,
        handler: &HandlerName,
        now: Mono,
    ) -> bool {
        let open = self.breaker(plugin, handler).and_then(|breaker| breaker.open.as_ref());
        let Some(open) = open else { return true };
        let runs = |number: &JobNumber| self.lanes[&self.jobs[number].lane].bare == *handler;
        let state = &self.plugins[plugin];
        let stops = |key: &(JobNumber, u32)| self.stopping[key].handler == *handler;
        open.until <= now && !state.running.iter().any(runs) && !state.stopping.iter().any(stops)
    }

    /// Puts a lane in line that the breaker of its handler does not let through.
    pub(crate) fn wait_for_breaker(&mut self, lane_id: LaneId, plugin: &PluginName) {
        let handler = self.lanes[&lane_id].bare.clone();
        let Some(open) = self.open_breaker(plugin, &handler) else { return };
        open.last_ticket += 1;
        let ticket = open.last_ticket;
        open.waiting.insert(ticket, lane_id);
        self.lanes.get_mut(&lane_id).expect("only known lanes wait").breaker_ticket = Some(ticket);
    }

    /// Takes a lane out of its breaker's line.
    pub(crate) fn leave_breaker(&mut self, lane_id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return };
        let (ticket, handler) = (lane.breaker_ticket.take(), lane.bare.clone());
        let (Some(ticket), Some(plugin)) = (ticket, lane.plugin.clone()) else { return };
        if let Some(open) = self.open_breaker(&plugin, &handler) {
            open.waiting.remove(&ticket);
        }
    }

    /// An attempt of the handler starts; if its breaker is open, that is the one that was let through.
    pub(crate) fn note_probe(
        &mut self,
        plugin: &PluginName,
        handler: &HandlerName,
        number: JobNumber,
    ) {
        if let Some(open) = self.open_breaker(plugin, handler) {
            open.probe = Some(number);
        }
    }

    /// Learns from how an attempt ended.
    pub(crate) fn note_for_breaker(&mut self, number: JobNumber, outcome: &Outcome, now: Now) {
        if self.breakers.is_empty() && !matches!(outcome, Outcome::Retryable { .. }) {
            return;
        }
        let job = &self.jobs[&number];
        let Some(plugin) = job.row.plugin.clone() else { return };
        let handler = self.lanes[&job.lane].bare.clone();
        // What older code does says nothing of that which is in force.
        let is_old = matches!(job.phase, Phase::Running { version, .. }
            if version != self.version_seq_of(&plugin, &handler));
        match outcome {
            _ if is_old => self.probe_is_over(&plugin, &handler, number, false, now),
            Outcome::Retryable { error, .. } => {
                self.handler_failed(&plugin, &handler, number, error, now);
            }
            Outcome::Lost { .. } => self.probe_is_over(&plugin, &handler, number, false, now),
            Outcome::Succeeded { .. }
            | Outcome::Permanent { .. }
            | Outcome::NotNow { .. }
            | Outcome::NoHandler { .. } => self.handler_answered(&plugin, &handler, now),
        }
        if self.breaker(&plugin, &handler).is_some_and(|breaker| breaker.open.is_some()) {
            self.breakers_to_call.insert((plugin, handler));
        }
    }

    fn handler_failed(
        &mut self,
        plugin: &PluginName,
        handler: &HandlerName,
        number: JobNumber,
        error: &str,
        now: Now,
    ) {
        let of_plugin = self.breakers.entry(plugin.clone()).or_default();
        let breaker = of_plugin.entry(handler.clone()).or_insert_with(|| Breaker {
            failures: 0,
            error: String::new(),
            first: number,
            several: false,
            open: None,
        });
        breaker.failures = breaker.failures.saturating_add(1);
        breaker.several |= breaker.first != number;
        breaker.error = bounds::cut(error, bounds::ERROR_BYTES_MAX).to_owned();
        if breaker.open.is_some() {
            self.probe_is_over(plugin, handler, number, true, now);
        } else if breaker.failures >= FAILURES && breaker.several {
            self.open(plugin, handler, now);
        }
    }

    fn open(&mut self, plugin: &PluginName, handler: &HandlerName, now: Now) {
        let of_plugin = self.breakers.get_mut(plugin).expect("the caller has counted a failure");
        let breaker = of_plugin.get_mut(handler).expect("the caller has counted a failure");
        let mut open = Open {
            since: now.mono,
            pause: PAUSE_FIRST,
            until: now.mono,
            until_wall: now.wall,
            probe: None,
            waiting: BTreeMap::new(),
            last_ticket: 0,
        };
        open.pause_from(now);
        let until = open.until;
        breaker.open = Some(open);
        let (failures, error) = (breaker.failures, breaker.error.clone());
        self.timers.insert((until, Timer::Breaker(plugin.clone(), handler.clone())));
        self.record(&Record::BreakerOpened(BreakerOpened {
            at: now.wall,
            error: begin(&error),
            failures,
            handler: handler.as_str(),
            plugin: plugin.as_str(),
            r#type: "breaker_opened",
        }));
    }

    /// An attempt ended that told nothing good; if it was the one that was let through, the next is let
    /// through after a pause, which is longer when it failed.
    pub(crate) fn probe_is_over(
        &mut self,
        plugin: &PluginName,
        handler: &HandlerName,
        number: JobNumber,
        failed: bool,
        now: Now,
    ) {
        let Some(open) = self.open_breaker(plugin, handler) else { return };
        if open.probe != Some(number) {
            return;
        }
        open.probe = None;
        if failed {
            open.pause = (open.pause * 2).min(PAUSE_MAX);
        }
        open.pause_from(now);
        let until = open.until;
        self.timers.insert((until, Timer::Breaker(plugin.clone(), handler.clone())));
    }

    /// The handler gave an answer that is no retryable failure: it is well. Or there is no such handler
    /// any more.
    fn handler_answered(&mut self, plugin: &PluginName, handler: &HandlerName, now: Now) {
        let Some(of_plugin) = self.breakers.get_mut(plugin) else { return };
        let Some(breaker) = of_plugin.remove(handler) else { return };
        if of_plugin.is_empty() {
            self.breakers.remove(plugin);
        }
        let Some(open) = breaker.open else { return };
        let was_open = now.mono.since(open.since).as_millis();
        self.record(&Record::BreakerClosed(BreakerClosed {
            at: now.wall,
            handler: handler.as_str(),
            plugin: plugin.as_str(),
            r#type: "breaker_closed",
            was_open_ms: u64::try_from(was_open).unwrap_or(u64::MAX),
        }));
        for lane_id in open.waiting.into_values() {
            if let Some(lane) = self.lanes.get_mut(&lane_id) {
                lane.breaker_ticket = None;
                self.schedule(lane_id);
            }
        }
        // Suspects stand in no lane.
        self.to_pump.insert(plugin.clone());
    }

    /// Closes the breakers of handlers that the plugin has no more: nothing would ever try them.
    pub(crate) fn forget_breakers(&mut self, plugin: &PluginName, now: Now) {
        let failing = self.breakers.get(plugin).into_iter().flat_map(BTreeMap::keys);
        let gone = failing.filter(|handler| !self.has_handler(plugin, handler));
        for handler in gone.cloned().collect::<Vec<_>>() {
            self.handler_answered(plugin, &handler, now);
        }
    }

    /// Closes the breaker of a handler that is another from now on, or none.
    pub(crate) fn forget_breaker(&mut self, plugin: &PluginName, handler: &HandlerName, now: Now) {
        self.handler_answered(plugin, handler, now);
    }

    /// Lets the lanes of open breakers try, one after the other, until an attempt of theirs starts.
    /// Said of a plugin that came up, or had another attempt of the handler under way until now.
    pub(crate) fn call_breakers_of(&mut self, plugin: &PluginName) {
        let handlers = self.breakers.get(plugin).into_iter().flatten();
        let open = handlers.filter(|(_, breaker)| breaker.open.is_some());
        let keys = open.map(|(handler, _)| (plugin.clone(), handler.clone()));
        self.breakers_to_call.extend(keys);
    }

    /// Everything has been pumped. Calls the next lane of each breaker that would let one through.
    pub(crate) fn call_breakers(&mut self, now: Mono) {
        for (plugin, handler) in std::mem::take(&mut self.breakers_to_call) {
            let state = self.plugins.get(&plugin);
            let up = state.is_some_and(|state| state.up && state.broken_until.is_none());
            if !up || !self.breaker_allows(&plugin, &handler, now) {
                continue;
            }
            let Some(open) = self.open_breaker(&plugin, &handler) else { continue };
            let Some((_, lane_id)) = open.waiting.pop_first() else { continue };
            let lane = self.lanes.get_mut(&lane_id).expect("a lane that is gone waits nowhere");
            lane.breaker_ticket = None;
            self.schedule(lane_id);
            self.breakers_to_call.insert((plugin, handler));
        }
    }
}
