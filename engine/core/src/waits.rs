//! What people ask of the state: how the engine is, and why a job does not run. Reads only.

use axwatch_model::{
    HandlerName, JobNumber, JobRow, JobState, Mono, Now, Place, PluginName, Seq, Timestamp,
    WatcherRow, WatcherState,
};

use crate::breaker::Breaker;
use crate::budget::BudgetHold;
use crate::state::{Lane, Phase, State};

/// Watchers in trouble that an overview names; the rest are only counted.
const TROUBLED_MAX: usize = 10;

/// How the engine is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overview {
    /// How many watchers are in each state, those without any left out.
    pub watchers: Vec<(WatcherState, u64)>,
    /// Some of those that are broken, refused, paused for a suspected loop or wait for a handler, by number.
    pub troubled: Vec<WatcherRow>,
    /// Queued jobs whose plugin is away, whose watcher is held, or that a budget holds back.
    pub held_jobs: u64,
    /// The first job that waits; of those that were asked for and are in the table only, in each lane, the one whose
    /// turn comes first.
    pub oldest_waiting: Option<JobNumber>,
    /// Appends are refused, because the disk is nearly full.
    pub disk_low: bool,
    /// Handlers that are tried one attempt at a time, by plugin and name.
    pub breakers: Vec<BreakerView>,
    /// Watchers and replays that have their bound of open jobs, and wait.
    pub backpressured: u64,
    /// Where the one is that is furthest behind.
    pub furthest_behind: Option<Seq>,
    /// Plugins that run one job at a time, because a loop is looked for.
    pub one_at_a_time: Vec<PluginName>,
}

/// A handler that is tried one attempt at a time, because it keeps failing.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerView {
    /// Who answers for it.
    pub plugin: PluginName,
    /// Its bare name.
    pub handler: HandlerName,
    /// Failures in a row.
    pub failures: u32,
    /// When it is tried next, or was due to be; `None` while an attempt is under way.
    pub until: Option<Timestamp>,
    /// What the last attempt said.
    pub error: String,
}

/// Why a job that is queued does not run at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// What it waits for.
    pub reason: WaitReason,
    /// Jobs of its lane that come before it.
    pub ahead: u64,
    /// There may be more of them: the job waits in the table, behind those in memory.
    pub ahead_at_least: bool,
    /// When the reason ends, where that is known.
    pub until: Option<Timestamp>,
}

/// What a queued job waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// Somebody paused it.
    Paused,
    /// No plugin has announced its handler.
    NoHandler,
    /// Its plugin is not ready for jobs.
    PluginAway(PluginName),
    /// Somebody disabled its plugin.
    PluginDisabled(PluginName),
    /// Its plugin is up, and did not announce the handler this time.
    NotAnnounced(PluginName),
    /// Its handler is stored as a claim, and does not load.
    HandlerBroken {
        /// Who runs the handler.
        plugin: PluginName,
        /// Its bare name.
        handler: HandlerName,
        /// Why it does not load.
        reason: String,
    },
    /// Its watcher is paused.
    WatcherPaused,
    /// The row of its watcher could not be read and was put aside.
    WatcherPutAside,
    /// Its watcher is muted, until then.
    WatcherMuted(Option<Timestamp>),
    /// The disk is nearly full, and nothing starts.
    DiskLow,
    /// The engine is on its way out.
    Stopping,
    /// It failed, or was put off, and its next attempt is due later.
    RetryDue,
    /// Its watcher has had its fires of this second.
    Limit,
    /// Its plugin has as many attempts in flight as it may.
    PluginBusy {
        /// Which.
        plugin: PluginName,
        /// Attempts in flight.
        running: u64,
        /// How many it may have.
        slots: u64,
    },
    /// Its plugin runs one job at a time, to find the one that crashes it.
    Suspects(PluginName),
    /// Its plugin runs one job at a time, because a loop is looked for.
    OneAtATime(PluginName),
    /// Its handler keeps failing, and is tried one attempt at a time.
    Breaker {
        /// Who answers for the handler.
        plugin: PluginName,
        /// Its bare name.
        handler: HandlerName,
        /// Failures in a row.
        failures: u32,
    },
    /// A budget is used up, or all that is left of it is reserved.
    Budget(BudgetHold),
    /// Too many jobs of its lane wait for their retry.
    Retries,
    /// Nothing but its turn.
    Turn,
}

impl State {
    /// How the engine is. Looks at every watcher and every lane once.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let mut counts: Vec<(WatcherState, u64)> = Vec::new();
        let mut troubled = Vec::new();
        for watcher in self.watchers.values() {
            let state = self.shown_state(&watcher.row);
            match counts.iter_mut().find(|(known, _)| *known == state) {
                Some((_, count)) => *count += 1,
                None => counts.push((state, 1)),
            }
            if matches!(
                state,
                WatcherState::Broken | WatcherState::Refused | WatcherState::WaitingForHandler
            ) || state == WatcherState::Paused && watcher.row.error.is_some()
            {
                troubled.push(watcher.row.number);
            }
        }
        counts.sort_unstable_by_key(|(state, _)| state.to_string());
        troubled.sort_unstable();
        troubled.truncate(TROUBLED_MAX);
        let is_held = |lane: &&Lane| !self.is_free(lane) || lane.waits_for_budget();
        let held = self.lanes.values().filter(is_held);
        let waits = |number: &JobNumber| self.jobs[number].row.state == JobState::Queued;
        let in_memory = self.jobs.keys().copied().find(|number| waits(number));
        let in_table = self.lanes.values().filter_map(|lane| lane.spill.map(|from| from.number));
        Overview {
            watchers: counts,
            troubled: troubled.iter().map(|number| self.view(*number).row).collect(),
            held_jobs: held.map(Lane::waiting).sum(),
            oldest_waiting: in_table.chain(in_memory).min(),
            disk_low: self.disk_low,
            backpressured: self.passes.resting(),
            furthest_behind: self.passes.lowest(),
            one_at_a_time: (self.plugins.iter())
                .filter(|(_, plugin)| plugin.serial_until.is_some())
                .map(|(name, _)| name.clone())
                .collect(),
            breakers: self.breaker_views(),
        }
    }

    fn breaker_views(&self) -> Vec<BreakerView> {
        let all = self.breakers.iter().flat_map(|(plugin, handlers)| {
            handlers.iter().map(move |(handler, breaker)| (plugin, handler, breaker))
        });
        let view = |(plugin, handler, breaker): (&PluginName, &HandlerName, &Breaker)| {
            let open = breaker.open.as_ref()?;
            Some(BreakerView {
                plugin: plugin.clone(),
                handler: handler.clone(),
                failures: breaker.failures,
                until: (!open.is_trying()).then_some(open.until_wall),
                error: breaker.error.clone(),
            })
        };
        all.filter_map(view).collect()
    }

    fn breaker_reason(
        &self,
        plugin: &PluginName,
        handler: &HandlerName,
    ) -> Option<(WaitReason, Option<Mono>)> {
        let breaker = self.breaker(plugin, handler)?;
        let open = breaker.open.as_ref()?;
        let (plugin, handler, failures) = (plugin.clone(), handler.clone(), breaker.failures);
        let until = (!open.is_trying()).then_some(open.until);
        Some((WaitReason::Breaker { plugin, handler, failures }, until))
    }

    /// Why a job does not run; `None` when it does not wait at all. `row` is as the store has it, which
    /// tells of jobs that are not in memory.
    #[must_use]
    pub fn waiting(&self, row: &JobRow, now: Now) -> Option<Waiting> {
        let job = self.jobs.get(&row.number);
        match job.map_or(row.state, |job| job.row.state) {
            JobState::Queued => {}
            JobState::Paused => {
                let reason = WaitReason::Paused;
                return Some(Waiting { reason, ahead: 0, ahead_at_least: false, until: None });
            }
            _ => return None,
        }
        let lane_id = *self.lane_ids.get(&row.lane())?;
        let lane = &self.lanes[&lane_id];
        let (ahead, ahead_at_least) = self.ahead(lane, row.place());
        let phase = job.map(|job| job.phase);
        let (reason, until) = self.reason(lane, phase, ahead == 0);
        let until = match &reason {
            WaitReason::Budget(hold) => hold.until,
            _ => until.map(|at| now.wall.plus(at.since(now.mono))),
        };
        Some(Waiting { reason, ahead, ahead_at_least, until })
    }

    /// Jobs of the lane that start before the one at this place, and whether there may be more in the table.
    fn ahead(&self, lane: &Lane, place: Place) -> (u64, bool) {
        let job = self.jobs.get(&place.number).map(|job| (job.phase, job.row.place()));
        let ahead = match job {
            Some((Phase::Again, _)) => {
                lane.again.iter().position(|other| *other == place.number).unwrap_or_default()
            }
            // The row that was asked about may be that of another moment.
            Some((Phase::First, place)) => {
                lane.again.len() + lane.first.partition_point(|other| *other < place)
            }
            Some(_) => 0,
            None => lane.again.len() + lane.first.len(),
        };
        let in_table = job.is_none() && lane.spill.is_some_and(|first| first < place);
        (ahead as u64, in_table)
    }

    /// What holds the lane comes first, then what holds the job itself.
    fn reason(
        &self,
        lane: &Lane,
        phase: Option<Phase>,
        is_next: bool,
    ) -> (WaitReason, Option<Mono>) {
        let watcher = lane.key.watcher.and_then(|number| self.watchers.get(&number));
        match watcher.map(|watcher| watcher.row.state) {
            Some(WatcherState::Paused) => return (WaitReason::WatcherPaused, None),
            Some(WatcherState::Muted) => {
                let hold = watcher.and_then(|watcher| watcher.hold());
                return (WaitReason::WatcherMuted(hold.and_then(|hold| hold.until)), None);
            }
            _ => {}
        }
        if lane.key.watcher.is_some() && watcher.is_none() {
            return (WaitReason::WatcherPutAside, None);
        }
        let Some(name) = lane.plugin.clone() else { return (WaitReason::NoHandler, None) };
        if self.is_disabled(&name) {
            return (WaitReason::PluginDisabled(name), None);
        }
        if let Some(reason) = self.why_broken(&name, &lane.bare) {
            let (handler, reason) = (lane.bare.clone(), reason.to_owned());
            return (WaitReason::HandlerBroken { plugin: name, handler, reason }, None);
        }
        let Some(plugin) = self.plugins.get(&name).filter(|plugin| plugin.up) else {
            return (WaitReason::PluginAway(name), None);
        };
        if let Some(until) = plugin.broken_until {
            return (WaitReason::PluginAway(name), Some(until));
        }
        if !self.answers_for(&name, &lane.bare) {
            return (WaitReason::NotAnnounced(name), None);
        }
        if self.draining {
            return (WaitReason::Stopping, None);
        }
        if self.disk_low {
            return (WaitReason::DiskLow, None);
        }
        if let Some(Phase::Delayed(due)) = phase {
            return (WaitReason::RetryDue, Some(due));
        }
        if let Some((reason, until)) = self.breaker_reason(&name, &lane.bare) {
            return (reason, until);
        }
        if let Some(held) = lane.budget.as_ref().filter(|held| held.waits()) {
            return (WaitReason::Budget(held.hold.clone()), None);
        }
        if lane.limited {
            return (WaitReason::Limit, watcher.and_then(|watcher| watcher.limit.opens_at()));
        }
        if phase == Some(Phase::Suspect) || plugin.suspect_running.is_some() {
            return (WaitReason::Suspects(name), None);
        }
        let (running, slots) = (plugin.in_flight() as u64, u64::from(plugin.slots_now()));
        if running >= slots && plugin.serial_until.is_some() {
            return (WaitReason::OneAtATime(name), plugin.serial_until);
        }
        if running >= slots {
            return (WaitReason::PluginBusy { plugin: name, running, slots }, None);
        }
        let held_back = lane.delayed.len() >= self.policy.bounds.lane_delayed_max;
        if held_back && is_next {
            return (WaitReason::Retries, None);
        }
        (WaitReason::Turn, None)
    }
}
