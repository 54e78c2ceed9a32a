//! Lanes: where jobs wait, and which of them starts next.
//!
//! A lane holds its first attempts in the order of their places and its due retries. What has no room in
//! memory waits in the table only, behind all first attempts in memory. The lanes of a plugin that have
//! something to start stand in its `turns`; [`State::pump`] goes round them while the plugin has
//! slots. A lane that its watcher's limit holds back leaves the turns until it is called (`crate::limits`).

use std::ops::Bound;
use std::time::Duration;

use axwatch_model::{
    Asker, HandlerName, JobNumber, JobRow, JobState, LaneKey, Mono, Now, Place, PluginName,
    Timestamp, WatcherNumber, WatcherState,
};

use crate::event::{Effect, Start};
use crate::kin::Identity;
use crate::limits::{Limit, Starting, Waiter};
use crate::record::{AttemptStarted, Record};
use crate::state::{Job, Lane, LaneId, Phase, State, Timer};

/// Where a job waits for its next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Its lane's first attempts.
    First,
    /// Its lane's retries.
    Again,
    /// Its plugin's suspects.
    Suspects,
}

impl State {
    /// Adds a new queued job to its lane.
    pub(crate) fn add_job(&mut self, row: JobRow, now: Now) {
        let lane_id = self.lane_of(&row);
        self.note_open((&row).into(), lane_id);
        self.wait_in_lane(lane_id, row, true, now);
    }

    /// A job is open from here on and belongs to this lane: so its kin and its source are known.
    pub(crate) fn note_open(&mut self, job: Identity<'_>, lane_id: LaneId) {
        self.open_jobs += 1;
        let lane = self.lanes.get_mut(&lane_id).expect("jobs belong to known lanes");
        lane.open += 1;
        let by = lane.key.asker.clone();
        self.count_asked(by, true);
        self.note_asked(job, lane_id);
    }

    /// Lets a queued job wait in its lane: in memory, or in the table only when there is no room for it.
    /// `changed` says that the table does not have this row yet.
    pub(crate) fn wait_in_lane(&mut self, lane_id: LaneId, row: JobRow, changed: bool, now: Now) {
        let (waiting_max, delayed_max) =
            (self.policy.bounds.lane_waiting_max, self.policy.bounds.lane_delayed_max);
        let has_memory = self.room_for(lane_id) > 0;
        let lane = &self.lanes[&lane_id];
        let (number, place) = (row.number, row.place());
        let is_first = row.attempts == 0 && wait_of(&row, now) == 0;
        let last = lane.first.back().copied();
        let comes_before = last.is_some_and(|last| place < last);
        // First attempts that wait in the table only come after those in memory.
        let is_in_line = comes_before
            || match lane.spill {
                Some(from) => place < from,
                None => lane.loading.is_none(),
            };
        let has_place = has_memory && lane.first.len() < waiting_max;
        let enters = match is_first {
            true => is_in_line && (has_place || comes_before),
            false => has_memory && lane.retries() < delayed_max,
        };
        if !enters {
            self.spill(lane_id, place);
            if changed {
                self.unwritten.released.insert(number, row);
            }
            return;
        }
        if is_first && !has_place {
            self.make_room(lane_id);
        }
        if changed {
            self.unwritten.released.remove(&number);
            self.unwritten.jobs.insert(number);
        }
        self.enter(lane_id, row, now);
        self.schedule(lane_id);
    }

    /// The last of the first attempts of a lane goes back to the table.
    fn make_room(&mut self, lane_id: LaneId) {
        let lane = self.lanes.get_mut(&lane_id).expect("looked up by the caller");
        let Some(last) = lane.first.pop_back() else { return };
        let row = self.forget_job(last.number).expect("a lane's jobs are in memory").row;
        if self.unwritten.jobs.remove(&last.number) {
            self.unwritten.released.insert(last.number, row);
        }
        self.spill(lane_id, last);
    }

    /// How many more jobs of this lane memory has room for, up to what a lane may hold. When memory
    /// is full, a lane that could run at once still gets one place of those kept for that, so that a
    /// plugin that is away with all its jobs in memory stops nobody else.
    pub(crate) fn room_for(&self, lane_id: LaneId) -> usize {
        let bounds = &self.policy.bounds;
        let taken = self.jobs.len() + self.reading;
        let free = bounds.jobs_in_memory_max.saturating_sub(taken);
        let lane = &self.lanes[&lane_id];
        if free >= bounds.lane_waiting_max {
            return bounds.lane_waiting_max;
        }
        let kept = bounds.jobs_in_memory_max / 4 + 1;
        let idle = lane.first.is_empty() && lane.again.is_empty() && lane.running == 0;
        usize::from(idle && taken < bounds.jobs_in_memory_max + kept && self.is_free(lane))
    }

    /// Keeps a job in memory, without what it carries. Its place in the lane is the caller's to see to.
    pub(crate) fn keep(&mut self, row: JobRow, lane: LaneId, phase: Phase, now: Now) {
        let row = JobRow { payload: None, ..row };
        // Its row tells how long it had been failing when its last attempt ended: that was when its
        // delay began, or, without one, when the attempt did.
        let ended = delayed_at(&row).or(row.started_at);
        let age = ended
            .zip(row.first_counted_at)
            .map_or(Duration::ZERO, |(ended, first)| ended.since(first));
        let idle_mark = self.idle_total(&row, lane, now.mono);
        let job = Job {
            lane,
            phase,
            limited_noted: false,
            suspect: false,
            age,
            reckoned: now.mono,
            idle_mark,
            cost_before: row.cost,
            leaves_before: 0,
            row,
        };
        let number = job.row.number;
        if job.row.watcher.is_some() {
            self.fires_from = self.fires_from.min(number);
        }
        self.jobs.insert(number, job);
    }

    /// Lets go of a job in memory. Its place in the lane is the caller's to see to.
    pub(crate) fn forget_job(&mut self, number: JobNumber) -> Option<Job> {
        self.jobs.remove(&number)
    }

    /// Notes that a job waits in the table only.
    pub(crate) fn spill(&mut self, lane_id: LaneId, place: Place) {
        let lane = self.lanes.get_mut(&lane_id).expect("only known lanes spill");
        if lane.first.is_empty() {
            // Nothing of it in memory will end and ask for more.
            self.starved.insert(lane_id);
        }
        if lane.spill.is_some() && lane.loading.is_some() {
            let first = lane.spilled_meanwhile.map_or(place, |first| first.min(place));
            lane.spilled_meanwhile = Some(first);
        }
        // New jobs mostly have the last places, but others may come before all that wait.
        if lane.spill.is_none_or(|first| place < first) {
            self.set_spill(lane_id, Some(place));
        }
    }

    /// Where what waits in the table only begins, from here on.
    pub(crate) fn set_spill(&mut self, lane_id: LaneId, spill: Option<Place>) {
        let lane = self.lanes.get_mut(&lane_id).expect("only known lanes spill");
        let before = std::mem::replace(&mut lane.spill, spill);
        // Only fires hold the mark of open jobs.
        if lane.key.watcher.is_some() {
            if let Some(before) = before {
                self.spills.remove(&(before.number, lane_id));
            }
            self.spills.extend(spill.map(|from| (from.number, lane_id)));
        }
    }

    /// Who answers for the jobs of a lane now: as their watcher has it, which may have learned it since. A
    /// handler that the watcher does not name any more stays where it was as long as it is had there.
    pub(crate) fn plugin_of(
        &self,
        key: &LaneKey,
        former: Option<&PluginName>,
    ) -> Option<PluginName> {
        let watcher = key.watcher.and_then(|watcher| self.watchers.get(&watcher));
        let handler =
            watcher.and_then(|w| w.row.handlers.iter().find(|h| h.declared == key.handler));
        match handler {
            Some(handler) => handler.plugin.clone(),
            None => self.who_has(&key.handler, former),
        }
    }

    /// The lane of a job, made when it has none yet.
    pub(crate) fn lane_of(&mut self, row: &JobRow) -> LaneId {
        self.lane_of_key(row.lane(), row.plugin.as_ref())
    }

    /// A lane, made when there is none yet: for a job that was this plugin's.
    pub(crate) fn lane_of_key(&mut self, key: LaneKey, former: Option<&PluginName>) -> LaneId {
        if let Some(id) = self.lane_ids.get(&key) {
            return *id;
        }
        self.last_lane = LaneId(self.last_lane.0 + 1);
        let id = self.last_lane;
        // A declared handler was checked when it was declared; a row that holds none waits for ever
        // in a lane that nobody answers for, which `plugin: None` says.
        let bare = HandlerName::parse_qualified(&key.handler).ok().map(|(_, bare)| bare);
        let lane = Lane {
            key: key.clone(),
            plugin: bare.as_ref().and_then(|_| self.plugin_of(&key, former)),
            bare: bare.unwrap_or_else(|| "_".parse().expect("an underscore is a name")),
            first: Default::default(),
            again: Default::default(),
            delayed: Default::default(),
            running: 0,
            paused: 0,
            spill: None,
            loading: None,
            discard_loaded: false,
            spilled_meanwhile: None,
            ended_meanwhile: Default::default(),
            in_turn: false,
            limited: false,
            breaker_ticket: None,
            budget: None,
            budget_held: Duration::ZERO,
            open: 0,
        };
        self.lanes.insert(id, lane);
        self.lane_ids.insert(key, id);
        id
    }

    /// Puts a lane into its plugin's turns, if it has something that could start there.
    pub(crate) fn schedule(&mut self, lane_id: LaneId) {
        let Some(lane) = self.lanes.get(&lane_id) else { return };
        let Some(plugin) = lane.plugin.clone() else { return };
        let is_held = lane.budget.as_ref().is_some_and(|held| held.waits());
        let waits = lane.limited || lane.breaker_ticket.is_some() || is_held;
        if lane.in_turn || waits || !self.may_run(lane) {
            return;
        }
        let state = self.plugins.entry(plugin.clone()).or_default();
        state.turns.push_back(lane_id);
        self.lanes.get_mut(&lane_id).expect("looked up above").in_turn = true;
        self.to_pump.insert(plugin);
    }

    /// Schedules every lane of a plugin; after it came up, changed its handlers, or was held.
    pub(crate) fn schedule_plugin(&mut self, plugin: &PluginName) {
        let mut lanes: Vec<_> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.plugin.as_ref() == Some(plugin))
            .map(|(id, _)| *id)
            .collect();
        lanes.sort_unstable();
        lanes.into_iter().for_each(|lane| self.schedule(lane));
        self.call_breakers_of(plugin);
        self.to_pump.insert(plugin.clone());
    }

    /// Schedules every lane of a watcher.
    pub(crate) fn schedule_watcher(&mut self, watcher: WatcherNumber) {
        for lane in self.lanes_of_watcher(watcher) {
            self.schedule(lane);
            // It may hold suspects alone, which stand in no lane.
            self.to_pump.extend(self.lanes.get(&lane).and_then(|lane| lane.plugin.clone()));
        }
    }

    pub(crate) fn lanes_of_watcher(&self, watcher: WatcherNumber) -> Vec<LaneId> {
        let handler = self.no_handler.clone();
        let first = LaneKey { watcher: Some(watcher), generation: 0, handler, asker: None };
        let lanes =
            self.lane_ids.range(first..).take_while(|(key, _)| key.watcher == Some(watcher));
        lanes.map(|(_, id)| *id).collect()
    }

    /// Open jobs of one generation of a watcher.
    pub(crate) fn open_of(&self, watcher: WatcherNumber, generation: u32) -> u64 {
        let handler = self.no_handler.clone();
        let first = LaneKey { watcher: Some(watcher), generation, handler, asker: None };
        let is_of = |key: &LaneKey| key.watcher == Some(watcher) && key.generation == generation;
        let lanes = self.lane_ids.range(first..).take_while(|(key, _)| is_of(key));
        lanes.map(|(_, id)| self.lanes[id].open).sum()
    }

    pub(crate) fn may_run(&self, lane: &Lane) -> bool {
        let held_back = lane.delayed.len() >= self.policy.bounds.lane_delayed_max;
        let has_work = !lane.again.is_empty() || !lane.first.is_empty() && !held_back;
        has_work && self.is_free(lane)
    }

    /// Whether the lane's plugin answers for it now, and nobody holds it.
    pub(crate) fn is_free(&self, lane: &Lane) -> bool {
        let plugin = lane.plugin.as_ref().and_then(|plugin| self.plugins.get(plugin));
        let answered = plugin.is_some_and(|p| p.up && p.broken_until.is_none());
        let answered = answered
            && lane.plugin.as_ref().is_some_and(|plugin| self.answers_for(plugin, &lane.bare));
        let held = lane.key.watcher.is_some_and(|number| {
            // One whose row was put aside is not known: nobody can say what its limit is, or who holds it.
            self.watchers.get(&number).is_none_or(|watcher| {
                matches!(watcher.row.state, WatcherState::Paused | WatcherState::Muted)
            })
        });
        answered && !held
    }

    /// Starts what may start at the plugins that something changed for.
    pub(crate) fn pump(&mut self, now: Now, effects: &mut Vec<Effect>) {
        loop {
            while let Some(plugin) = self.to_pump.pop_first() {
                if !self.draining && !self.disk_low {
                    self.pump_plugin(&plugin, now, effects);
                }
            }
            let is_called = !self.limits_to_call.is_empty() || !self.breakers_to_call.is_empty();
            if !is_called && !self.budgets.is_called() {
                self.tell_of_freed();
                return;
            }
            self.call_limited(now);
            self.call_breakers(now.mono);
            self.call_budgets();
        }
    }

    /// The disk is nearly full, or has room again.
    pub(crate) fn disk_low(&mut self, low: bool) {
        self.disk_low = low;
        self.to_pump.extend(self.plugins.keys().cloned());
    }

    fn pump_plugin(&mut self, plugin: &PluginName, now: Now, effects: &mut Vec<Effect>) {
        // Lanes in a row that had only retries while the retries' share is used up.
        let mut passed_over = 0;
        // Whether first attempts wait, looked up once while only retries are passed over.
        let mut first_waits = None;
        while !self.suspects_have_it(plugin, now, effects) {
            let Some(lane_id) = self.next_turn(plugin, passed_over) else {
                // No other work may start, so that a suspect need not wait for its turn.
                self.start_suspect(plugin, now, effects);
                return;
            };
            let Some(lane) = self.lanes.get_mut(&lane_id) else { continue };
            lane.in_turn = false;
            let lane = &self.lanes[&lane_id];
            if lane.plugin.as_ref() != Some(plugin) {
                // Its handler has moved to another plugin.
                self.schedule(lane_id);
                continue;
            }
            if !self.may_run(lane) {
                self.drop_if_done(lane_id);
                continue;
            }
            if !self.breaker_allows(plugin, &lane.bare, now.mono) {
                self.wait_for_breaker(lane_id, plugin);
                continue;
            }
            let lane = &self.lanes[&lane_id];
            let Some((number, queue)) = self.pick(lane, plugin, &mut first_waits) else {
                self.schedule_again(lane_id, plugin);
                passed_over += 1;
                continue;
            };
            if self.budget_allows(lane_id, number) && self.limit(Waiter::Lane(lane_id), number, now)
            {
                self.start(lane_id, number, queue, now, effects);
                passed_over = 0;
                first_waits = None;
            }
        }
    }

    /// Whether nothing else may start at this plugin now: a suspect runs, or the next of them waits
    /// for what is running to end. One whose turn has come is started.
    fn suspects_have_it(
        &mut self,
        plugin: &PluginName,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(state) = self.plugins.get(plugin) else { return true };
        if state.suspect_running.is_some() {
            return true;
        }
        let waits = |number: &JobNumber| self.suspect_may_ask(plugin, *number, now.mono);
        if state.others_left > 0 || !state.suspects.iter().any(waits) {
            return false;
        }
        state.in_flight() > 0 || self.start_suspect(plugin, now, effects)
    }

    /// Whether nothing but the work of its plugin keeps a suspect from asking its watcher's limit. Others
    /// go on beside one that waits for something else.
    fn suspect_may_ask(&self, plugin: &PluginName, number: JobNumber, now: Mono) -> bool {
        // Those that were withdrawn meanwhile are still listed.
        let suspect = self.jobs.get(&number).filter(|job| job.phase == Phase::Suspect);
        let Some(job) = suspect else { return false };
        let watcher = job.row.watcher.and_then(|watcher| self.watchers.get(&watcher));
        let limited = |limit: &Limit| limit.holds(&Waiter::Suspects(plugin.clone()));
        let lane = &self.lanes[&job.lane];
        self.is_free(lane)
            && self.breaker_allows(plugin, &lane.bare, now)
            && self.budget_would_let(number)
            && !watcher.is_some_and(|w| limited(&w.limit))
    }

    /// Starts the first suspect that may run, if nothing else is running. Says whether one did.
    fn start_suspect(&mut self, plugin: &PluginName, now: Now, effects: &mut Vec<Effect>) -> bool {
        let Some(state) = self.plugins.get_mut(plugin) else { return false };
        if state.in_flight() > 0 {
            return false;
        }
        let mut rest = std::mem::take(&mut state.suspects);
        // Withdrawn meanwhile.
        rest.retain(|number| self.jobs.get(number).is_some_and(|job| job.phase == Phase::Suspect));
        let mut started = false;
        for place in 0..rest.len() {
            let number = rest[place];
            let lane_id = self.jobs[&number].lane;
            if !self.budget_lets_suspect(number)
                || !self.suspect_may_ask(plugin, number, now.mono)
                || !self.limit(Waiter::Suspects(plugin.clone()), number, now)
            {
                continue;
            }
            rest.remove(place);
            self.start(lane_id, number, Queue::Suspects, now, effects);
            started = true;
            break;
        }
        self.plugin_entry(plugin).suspects = rest;
        started
    }

    /// The lane whose turn it is, if the plugin has a slot for it.
    fn next_turn(&mut self, plugin: &PluginName, passed_over: usize) -> Option<LaneId> {
        let state = self.plugins.get_mut(plugin)?;
        if state.in_flight() >= state.slots_now() as usize || passed_over >= state.turns.len() {
            return None;
        }
        state.turns.pop_front()
    }

    fn schedule_again(&mut self, lane_id: LaneId, plugin: &PluginName) {
        self.lanes.get_mut(&lane_id).expect("only known lanes have turns").in_turn = true;
        self.plugins
            .get_mut(plugin)
            .expect("only known plugins have turns")
            .turns
            .push_back(lane_id);
    }

    /// The job of the lane that starts next, and where it waits. Retries have a fifth of the slots, but
    /// at least one, while first attempts wait.
    pub(crate) fn pick(
        &self,
        lane: &Lane,
        plugin: &PluginName,
        first_waits: &mut Option<bool>,
    ) -> Option<(JobNumber, Queue)> {
        let state = &self.plugins[plugin];
        let share = (state.slots / 5).max(1);
        let held_back = lane.delayed.len() >= self.policy.bounds.lane_delayed_max;
        let first = self.first_that_may(lane, lane.numbers()).filter(|_| !held_back);
        let again = self.first_that_may(lane, lane.again.iter().copied());
        if let Some(again) = again
            && (state.retries_running < share
                || first.is_none()
                    && !*first_waits.get_or_insert_with(|| self.first_attempts_wait(plugin)))
        {
            return Some((again, Queue::Again));
        }
        first.map(|number| (number, Queue::First))
    }

    fn first_attempts_wait(&self, plugin: &PluginName) -> bool {
        let mut lanes = self.plugins[plugin].turns.iter().map(|lane| &self.lanes[lane]);
        lanes.any(|lane| self.first_that_may(lane, lane.numbers()).is_some())
    }

    /// The first of these jobs of a lane that may run: of a schedule one runs at a time, and keeps no other
    /// schedule's waiting.
    fn first_that_may(
        &self,
        lane: &Lane,
        mut jobs: impl Iterator<Item = JobNumber>,
    ) -> Option<JobNumber> {
        match lane.key.asker {
            Some(Asker::Schedule) => jobs.find(|number| !self.run_has_to_wait(*number)),
            _ => jobs.next(),
        }
    }

    /// Adds a record to what the job's row knows of the audit.
    pub(crate) fn note_leaf(&mut self, number: JobNumber, leaf: axwatch_model::LeafNumber) {
        if let Some(job) = self.jobs.get_mut(&number) {
            job.row.leaves.push(leaf);
            self.unwritten.jobs.insert(number);
        }
    }

    fn start(
        &mut self,
        lane_id: LaneId,
        number: JobNumber,
        queue: Queue,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let lane = self.lanes.get_mut(&lane_id).expect("a job starts from its lane");
        match queue {
            Queue::First => lane.leave_line(number),
            Queue::Again => lane.leave_retries(number),
            Queue::Suspects => {}
        }
        lane.running += 1;
        let retry = queue != Queue::First;
        let (bare, plugin) =
            (lane.bare.clone(), lane.plugin.clone().expect("only lanes with a plugin have turns"));
        let handler_version = self.version_of(&plugin, &bare).cloned();
        let version = self.version_seq_of(&plugin, &bare);
        let state = self.plugins.get_mut(&plugin).expect("only known plugins have turns");
        state.running.insert(number);
        state.retries_running += u32::from(retry);
        if queue == Queue::Suspects {
            state.suspect_running = Some(number);
        } else {
            state.others_left = state.others_left.saturating_sub(1);
        }
        let incarnation = state.incarnation;
        // By the clock as it now is: it may have been set since the last attempt.
        self.reckon_age(number, now);
        let job = self.jobs.get_mut(&number).expect("a lane's jobs are in memory");
        job.phase = Phase::Running { incarnation, retry, left: None, version };
        job.cost_before = job.row.cost;
        let row = &mut job.row;
        row.state = JobState::Running;
        row.attempts += 1;
        row.progress = None;
        row.plugin = Some(plugin.clone());
        row.started_at = Some(now.wall);
        (row.due_at, row.delay_ms) = (None, 0);
        let watcher = row.watcher.and_then(|number| self.watchers.get(&number));
        let schedule = row.asked.as_ref().and_then(|asked| asked.schedule.as_ref());
        let schedule = schedule.and_then(|run| self.schedules.row(&run.id));
        let start = Start {
            job: number,
            id: row.id,
            attempt: row.attempts,
            plugin: plugin.clone(),
            incarnation,
            handler: bare.as_str().into(),
            seq: row.seq,
            payload: self.unwritten.payloads.get(&number).cloned(),
            params: watcher.and_then(|watcher| watcher.row.params.clone()),
            watcher: watcher.map_or_else(|| "".into(), |watcher| watcher.shown()),
            watcher_number: row.watcher,
            revision: row.revision,
            handler_version,
            schedule: schedule.map_or_else(|| "".into(), |row| row.name.as_str().into()),
        };
        self.note_hold(lane_id, number);
        let leaf = self.record(&Record::AttemptStarted(AttemptStarted {
            at: now.wall,
            attempt: start.attempt,
            epoch: self.policy.epoch,
            handler_version: start.handler_version.as_ref(),
            incarnation,
            job: start.id,
            plugin: plugin.as_str(),
            r#type: "attempt_started",
        }));
        self.note_leaf(number, leaf);
        self.note_where_it_started(number);
        let watcher = self.lanes[&lane_id].key.watcher;
        self.note_probe(&plugin, &bare, number);
        let account = self.budget_started(number, &plugin, &bare);
        self.note_run_under_way(number);
        self.starting.push(Starting { job: number, watcher, account });
        effects.push(Effect::Start(Box::new(start)));
        self.schedule(lane_id);
        self.load(lane_id, effects);
    }

    /// Asks for waiting jobs of the lane back from the table, once half of its room is free.
    pub(crate) fn load(&mut self, lane_id: LaneId, effects: &mut Vec<Effect>) {
        let Some(lane) = self.lanes.get(&lane_id) else { return };
        let Some(from) = lane.spill else { return };
        let bounds = &self.policy.bounds;
        let has_enough = lane.first.len() > bounds.lane_waiting_max / 2
            || lane.retries() >= bounds.lane_delayed_max;
        if lane.loading.is_some() || has_enough {
            return;
        }
        let limit = self.room_for(lane_id);
        if limit == 0 {
            self.starved.insert(lane_id);
            return;
        }
        self.reading += limit;
        let lane = self.lanes.get_mut(&lane_id).expect("looked up above");
        lane.loading = Some(limit);
        effects.push(Effect::Load { lane: lane.key.clone(), from, limit });
    }

    /// Lets lanes read that had to wait for room in memory: a few in each step, each in its turn.
    pub(crate) fn load_starved(&mut self, effects: &mut Vec<Effect>) {
        const TRIED_PER_STEP: usize = 8;
        for _ in 0..TRIED_PER_STEP.min(self.starved.len()) {
            let after = (Bound::Excluded(self.starved_tried), Bound::Unbounded);
            let next = self.starved.range(after).next().or_else(|| self.starved.first());
            let Some(lane_id) = next.copied() else { return };
            self.starved_tried = lane_id;
            self.starved.remove(&lane_id);
            self.load(lane_id, effects);
        }
    }

    /// Jobs came back from the table.
    pub(crate) fn loaded(
        &mut self,
        key: &LaneKey,
        mut rows: Vec<JobRow>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(lane_id) = self.lane_ids.get(key).copied() else { return };
        let lane = self.lanes.get_mut(&lane_id).expect("every known key has its lane");
        let Some(limit) = lane.loading.take() else { return };
        self.reading -= limit;
        let ended = std::mem::take(&mut lane.ended_meanwhile);
        let meanwhile = lane.spilled_meanwhile.take();
        let rest = if std::mem::take(&mut lane.discard_loaded) {
            rows.clear();
            lane.spill
        } else {
            let next = rows.last().filter(|_| rows.len() >= limit).map(|last| after(last.place()));
            let rest = meanwhile.into_iter().chain(next).min();
            // Those that went to the table meanwhile may come before what was read.
            rows.retain(|row| rest.is_none_or(|rest| row.place() < rest));
            rest
        };
        self.set_spill(lane_id, rest);
        for row in rows {
            // What is in memory, or has ended since, knows better than the row that was read.
            let number = row.number;
            if !ended.contains(&number)
                && !self.doomed.contains_key(&number)
                && !self.jobs.contains_key(&number)
                && !self.unwritten.released.contains_key(&number)
            {
                match self.is_let_go(&row) {
                    Some(reason) => self.let_go(lane_id, row, reason, now),
                    None => self.enter(lane_id, row, now),
                }
            }
        }
        if !self.lanes.contains_key(&lane_id) {
            return;
        }
        self.schedule(lane_id);
        self.load(lane_id, effects);
        self.drop_if_done(lane_id);
    }

    /// Takes a queued row of the table into its lane's memory.
    pub(crate) fn enter(&mut self, lane_id: LaneId, row: JobRow, now: Now) {
        let number = row.number;
        let wait = wait_of(&row, now);
        let lane = self.lanes.get_mut(&lane_id).expect("jobs enter known lanes");
        let phase = if wait > 0 {
            let due = now.mono.plus(Duration::from_millis(wait));
            lane.delayed.insert(number);
            self.timers.insert((due, Timer::Job(number)));
            Phase::Delayed(due)
        } else if row.attempts > 0 {
            lane.again.push_back(number);
            Phase::Again
        } else {
            lane.stand_in_line(row.place());
            Phase::First
        };
        self.keep(row, lane_id, phase, now);
    }

    /// Does what is due.
    pub(crate) fn run_timers(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some((_, timer)) = self.timers.first().filter(|(at, _)| *at <= now.mono).cloned()
        {
            self.timers.pop_first();
            match timer {
                Timer::Limit(watcher) => self.limit_is_due(watcher),
                Timer::Job(number) => self.is_due(number, now),
                Timer::Breaker(plugin, handler) => {
                    self.to_pump.insert(plugin.clone());
                    self.breakers_to_call.insert((plugin, handler));
                }
                Timer::Doubt(plugin) => self.believe(&plugin, now, effects),
                Timer::Mute(number) => self.look_at_mute(number, now),
                Timer::LoopWatch(number) => self.clear_loop(number, now),
                Timer::Schedules => self.schedules_are_due(),
                Timer::Budget(scope) => self.budget_is_due(scope),
                Timer::Plugin(plugin) => {
                    self.to_pump.insert(plugin.clone());
                    if let Some(state) = self.plugins.get_mut(&plugin) {
                        state.serial_until.take_if(|until| *until <= now.mono);
                    }
                    if let Some(state) = self.plugins.get_mut(&plugin)
                        && state.broken_until.take_if(|until| *until <= now.mono).is_some()
                    {
                        self.schedule_plugin(&plugin);
                    }
                }
            }
        }
    }

    /// The moment of a job that was put off has come.
    fn is_due(&mut self, number: JobNumber, now: Now) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let Phase::Delayed(due) = job.phase else { return };
        if due > now.mono {
            return;
        }
        let (lane_id, suspect, is_first) = (job.lane, job.suspect, job.row.attempts == 0);
        self.lanes
            .get_mut(&lane_id)
            .expect("a job's lane lives as long as the job")
            .delayed
            .remove(&number);
        if is_first {
            // It has its place among the others from here on, which may be in the table.
            let mut row = self.forget_job(number).expect("looked up above").row;
            (row.due_at, row.delay_ms) = (None, 0);
            self.unwritten.jobs.remove(&number);
            self.wait_in_lane(lane_id, row, true, now);
        } else {
            self.line_up(number, suspect);
        }
        // First attempts may have been held back by too many retries.
        self.schedule(lane_id);
    }

    /// Puts a job in line for its next attempt: in its lane, or with its plugin's suspects.
    pub(crate) fn line_up(&mut self, number: JobNumber, suspect: bool) {
        let job = self.jobs.get_mut(&number).expect("only jobs in memory line up");
        let lane_id = job.lane;
        let lane = self.lanes.get_mut(&lane_id).expect("a job's lane lives as long as the job");
        // Of another plugin's crash than the one that now answers for the lane it is no suspect.
        let plugin =
            lane.plugin.clone().filter(|plugin| suspect && job.row.plugin.as_ref() == Some(plugin));
        if let Some(plugin) = plugin {
            job.phase = Phase::Suspect;
            self.plugin_entry(&plugin).suspects.push_back(number);
            self.to_pump.insert(plugin);
        } else {
            job.phase = Phase::Again;
            lane.again.push_back(number);
            self.schedule(lane_id);
        }
    }

    /// Lets another plugin answer for a lane.
    pub(crate) fn move_lane(&mut self, lane_id: LaneId, plugin: Option<PluginName>) {
        if self.lanes.get(&lane_id).is_some_and(|lane| lane.plugin != plugin) {
            self.leave_breaker(lane_id);
            self.leave_budget(lane_id);
        }
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return };
        let former = std::mem::replace(&mut lane.plugin, plugin);
        if former == lane.plugin {
            return;
        }
        let Some(former) = former.and_then(|former| self.plugins.get_mut(&former)) else { return };
        let mut moved = std::mem::take(&mut former.suspects);
        moved.retain(|number| {
            let is_here = self.jobs.get(number).is_some_and(|job| job.lane == lane_id);
            if !is_here {
                former.suspects.push_back(*number);
            }
            is_here
        });
        moved.into_iter().for_each(|number| self.line_up(number, false));
    }

    /// Forgets a lane that has nothing left to keep.
    pub(crate) fn drop_if_done(&mut self, lane_id: LaneId) {
        let Some(lane) = self.lanes.get(&lane_id) else { return };
        if lane.open == 0 && lane.loading.is_none() && !lane.in_turn {
            let watcher = lane.key.watcher.and_then(|watcher| self.watchers.get_mut(&watcher));
            if let Some(watcher) = watcher {
                watcher.limit.forget(&Waiter::Lane(lane_id));
            }
            self.leave_breaker(lane_id);
            self.leave_budget(lane_id);
            self.lane_ids.remove(&self.lanes[&lane_id].key);
            self.set_spill(lane_id, None);
            self.starved.remove(&lane_id);
            self.lanes.remove(&lane_id);
        }
    }
}

/// When the delay of a job began that waits for its next attempt: its last one had just ended.
pub(crate) fn delayed_at(row: &JobRow) -> Option<Timestamp> {
    let due = row.due_at?;
    Some(Timestamp::from_ms_clamped(due.ms().saturating_sub_unsigned(row.delay_ms)))
}

/// For how many milliseconds a queued job is put off. After a jump of the clock none lies further ahead than it
/// was put.
fn wait_of(row: &JobRow, now: Now) -> u64 {
    let ahead = |due: Timestamp| u64::try_from(due.since(now.wall).as_millis()).unwrap_or(u64::MAX);
    row.due_at.map_or(0, |due| ahead(due).min(row.delay_ms))
}

/// The first place behind this one.
fn after(place: Place) -> Place {
    Place { number: place.number.next(), ..place }
}
