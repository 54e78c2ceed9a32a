//! Lanes: where jobs wait, and which of them starts next.
//!
//! A lane holds its first attempts in order and its due retries. The lanes of a plugin that have
//! something to start stand in its `turns`; [`State::pump`] goes round them while the plugin has
//! slots. A lane that its watcher's limit holds back leaves the turns until a timer brings it back.

use std::time::Duration;

use axwatch_model::{
    HandlerName, JobNumber, JobRow, JobState, LaneKey, Mono, Now, PluginName, WatcherNumber,
    WatcherState,
};

use crate::event::{Effect, Start};
use crate::record::{AttemptStarted, JobRecord, Record};
use crate::state::{Job, Lane, LaneId, Phase, State, Timer};

impl State {
    /// Adds a new queued job: to its lane in memory, or only to the table when there is no room.
    pub(crate) fn add_job(&mut self, row: JobRow) {
        let lane_id = self.lane_of(&row);
        self.open_jobs += 1;
        let full = self.jobs.len() >= self.policy.bounds.jobs_in_memory_max;
        let waiting_max = self.policy.bounds.lane_waiting_max;
        let lane = self.lanes.get_mut(&lane_id).expect("the lane was just looked up");
        lane.open += 1;
        if full || lane.spill.is_some() || lane.loading || lane.first.len() >= waiting_max {
            self.spill(lane_id, row.number);
            self.unwritten.released.insert(row.number, row);
        } else {
            lane.first.push_back(row.number);
            self.unwritten.jobs.insert(row.number);
            self.keep(row, lane_id, Phase::First);
            self.schedule(lane_id);
        }
    }

    /// Keeps a job in memory. Its place in the lane is the caller's to see to.
    pub(crate) fn keep(&mut self, row: JobRow, lane: LaneId, phase: Phase) {
        // All idleness of this life lies ahead of the first reckoning, that of the start included.
        let idle_mark = Duration::ZERO;
        let job = Job { lane, phase, limited_noted: false, idle_mark, row };
        self.jobs.insert(job.row.number, job);
    }

    /// Notes that a job waits in the table only.
    pub(crate) fn spill(&mut self, lane_id: LaneId, number: JobNumber) {
        let lane = self.lanes.get_mut(&lane_id).expect("only known lanes spill");
        if lane.loading {
            lane.spilled_meanwhile.get_or_insert(number);
        } else if lane.spill.is_none() {
            lane.spill = Some(number);
            self.spills.insert((number, lane_id));
        }
    }

    /// The lane of a job, made when it has none yet.
    pub(crate) fn lane_of(&mut self, row: &JobRow) -> LaneId {
        let key = row.lane();
        if let Some(id) = self.lane_ids.get(&key) {
            return *id;
        }
        self.last_lane = LaneId(self.last_lane.0 + 1);
        let id = self.last_lane;
        // A declared handler was checked when it was declared; a row that holds none waits for ever
        // in a lane that nobody answers for, which `plugin: None` says.
        let bare: Option<HandlerName> = row.bare_handler().parse().ok();
        let lane = Lane {
            key: key.clone(),
            plugin: bare.as_ref().and(row.plugin.clone()),
            bare: bare.unwrap_or_else(|| "_".parse().expect("an underscore is a name")),
            first: Default::default(),
            again: Default::default(),
            delayed: 0,
            spill: None,
            loading: false,
            discard_loaded: false,
            spilled_meanwhile: None,
            in_turn: false,
            limited: false,
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
        if lane.in_turn || lane.limited || !self.may_run(lane) {
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
        self.to_pump.insert(plugin.clone());
    }

    /// Schedules every lane of a watcher.
    pub(crate) fn schedule_watcher(&mut self, watcher: WatcherNumber) {
        for lane in self.lanes_of_watcher(watcher) {
            self.schedule(lane);
        }
    }

    pub(crate) fn lanes_of_watcher(&self, watcher: WatcherNumber) -> Vec<LaneId> {
        let Some(watcher) = self.watchers.get(&watcher) else { return Vec::new() };
        let mut lanes: Vec<_> = self
            .lane_ids
            .iter()
            .filter(|(key, _)| key.watcher == Some(watcher.row.number))
            .map(|(_, id)| *id)
            .collect();
        lanes.sort_unstable();
        lanes
    }

    fn may_run(&self, lane: &Lane) -> bool {
        let held_back = lane.delayed >= self.policy.bounds.lane_delayed_max;
        let has_work = !lane.again.is_empty() || !lane.first.is_empty() && !held_back;
        let plugin = lane.plugin.as_ref().and_then(|plugin| self.plugins.get(plugin));
        let answered = plugin
            .is_some_and(|p| p.up && p.broken_until.is_none() && p.handlers.contains(&lane.bare));
        let paused = lane.key.watcher.and_then(|watcher| self.watchers.get(&watcher)).is_some_and(
            |watcher| matches!(watcher.row.state, WatcherState::Paused | WatcherState::Muted),
        );
        has_work && answered && !paused
    }

    /// Starts what may start at the plugins that something changed for.
    pub(crate) fn pump(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(plugin) = self.to_pump.pop_first() {
            if !self.draining {
                self.pump_plugin(&plugin, now, effects);
            }
        }
    }

    fn pump_plugin(&mut self, plugin: &PluginName, now: Now, effects: &mut Vec<Effect>) {
        // Lanes in a row that had only retries while the retries' share is used up.
        let mut passed_over = 0;
        while let Some(lane_id) = self.next_turn(plugin, passed_over) {
            let Some(lane) = self.lanes.get_mut(&lane_id) else { continue };
            lane.in_turn = false;
            let lane = &self.lanes[&lane_id];
            if !self.may_run(lane) {
                continue;
            }
            let Some((number, retry)) = self.pick(lane, plugin) else {
                self.schedule_again(lane_id, plugin);
                passed_over += 1;
                continue;
            };
            match self.limit(lane_id, number, now) {
                Ok(()) => {
                    self.start(lane_id, number, retry, now, effects);
                    passed_over = 0;
                }
                Err(until) => {
                    self.lanes.get_mut(&lane_id).expect("looked up above").limited = true;
                    self.timers.insert((until, Timer::Lane(lane_id)));
                }
            }
        }
    }

    /// The lane whose turn it is, if the plugin has a slot for it.
    fn next_turn(&mut self, plugin: &PluginName, passed_over: usize) -> Option<LaneId> {
        let state = self.plugins.get_mut(plugin)?;
        if state.running.len() >= state.slots as usize || passed_over >= state.turns.len() {
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

    /// The job of the lane that starts next, and whether it is a retry. Retries have a fifth of the
    /// slots, but at least one, while first attempts wait.
    fn pick(&self, lane: &Lane, plugin: &PluginName) -> Option<(JobNumber, bool)> {
        let state = &self.plugins[plugin];
        let share = (state.slots / 5).max(1);
        let held_back = lane.delayed >= self.policy.bounds.lane_delayed_max;
        let first = lane.first.front().filter(|_| !held_back);
        if let Some(again) = lane.again.front()
            && (state.retries_running < share
                || first.is_none() && !self.first_attempts_wait(plugin))
        {
            return Some((*again, true));
        }
        first.map(|number| (*number, false))
    }

    fn first_attempts_wait(&self, plugin: &PluginName) -> bool {
        self.plugins[plugin].turns.iter().any(|lane| !self.lanes[lane].first.is_empty())
    }

    /// Asks the limit of the job's watcher. A job that it holds back is noted once in the audit.
    fn limit(&mut self, lane_id: LaneId, number: JobNumber, now: Now) -> Result<(), Mono> {
        let watcher = self.lanes[&lane_id].key.watcher;
        let Some(limiter) =
            watcher.and_then(|w| self.watchers.get_mut(&w)).and_then(|w| w.limiter.as_mut())
        else {
            return Ok(());
        };
        let Err(until) = limiter.decide(now.mono) else { return Ok(()) };
        let job = self.jobs.get_mut(&number).expect("a lane's jobs are in memory");
        if !std::mem::replace(&mut job.limited_noted, true) {
            let job = job.row.id;
            let leaf = self.record(&Record::Job(JobRecord {
                at: now.wall,
                attempts: None,
                handler: None,
                job,
                payload_sha256: None,
                reason: None,
                r#type: "limited",
            }));
            self.note_leaf(number, leaf);
        }
        Err(until)
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
        retry: bool,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let lane = self.lanes.get_mut(&lane_id).expect("a job starts from its lane");
        let queue = if retry { &mut lane.again } else { &mut lane.first };
        queue.pop_front();
        let (bare, plugin) =
            (lane.bare.clone(), lane.plugin.clone().expect("only lanes with a plugin have turns"));
        let state = self.plugins.get_mut(&plugin).expect("only known plugins have turns");
        state.running.insert(number);
        state.retries_running += u32::from(retry);
        let incarnation = state.incarnation;
        let job = self.jobs.get_mut(&number).expect("a lane's jobs are in memory");
        job.phase = Phase::Running { incarnation, retry, left: None };
        let row = &mut job.row;
        row.state = JobState::Running;
        row.attempts += 1;
        row.plugin = Some(plugin.clone());
        row.started_at = Some(now.wall);
        (row.due_at, row.delay_ms) = (None, 0);
        let watcher = row.watcher.and_then(|number| self.watchers.get(&number));
        let start = Start {
            job: number,
            id: row.id,
            attempt: row.attempts,
            plugin: plugin.clone(),
            incarnation,
            handler: bare.as_str().into(),
            seq: row.seq,
            payload: row.payload.clone(),
            params: watcher.and_then(|watcher| watcher.row.params.clone()),
            watcher: watcher.map_or_else(|| "".into(), |watcher| watcher.shown.clone()),
            revision: row.revision,
        };
        let leaf = self.record(&Record::AttemptStarted(AttemptStarted {
            at: now.wall,
            attempt: start.attempt,
            epoch: self.policy.epoch,
            incarnation,
            job: start.id,
            plugin: plugin.as_str(),
            r#type: "attempt_started",
        }));
        self.note_leaf(number, leaf);
        self.starting.push(number);
        effects.push(Effect::Start(Box::new(start)));
        self.schedule(lane_id);
        self.load(lane_id, effects);
    }

    /// Asks for waiting jobs of the lane back from the table, once half of its room is free.
    pub(crate) fn load(&mut self, lane_id: LaneId, effects: &mut Vec<Effect>) {
        let (waiting_max, delayed_max) =
            (self.policy.bounds.lane_waiting_max, self.policy.bounds.lane_delayed_max);
        let Some(lane) = self.lanes.get_mut(&lane_id) else { return };
        let Some(from) = lane.spill else { return };
        if lane.loading || lane.first.len() > waiting_max / 2 || lane.delayed >= delayed_max {
            return;
        }
        if self.jobs.len() + waiting_max > self.policy.bounds.jobs_in_memory_max {
            self.starved.insert(lane_id);
            return;
        }
        lane.loading = true;
        effects.push(Effect::Load { lane: lane.key.clone(), from, limit: waiting_max });
    }

    /// Lets lanes read that had to wait for room in memory.
    pub(crate) fn load_starved(&mut self, effects: &mut Vec<Effect>) {
        let room = self.policy.bounds.lane_waiting_max;
        while self.jobs.len() + room <= self.policy.bounds.jobs_in_memory_max {
            let Some(lane) = self.starved.pop_first() else { return };
            self.load(lane, effects);
        }
    }

    /// Jobs came back from the table.
    pub(crate) fn loaded(&mut self, key: &LaneKey, mut rows: Vec<JobRow>, now: Now) {
        let Some(lane_id) = self.lane_ids.get(key).copied() else { return };
        let lane = self.lanes.get_mut(&lane_id).expect("every known key has its lane");
        lane.loading = false;
        if std::mem::take(&mut lane.discard_loaded) {
            rows.clear();
        }
        let complete = rows.len() < self.policy.bounds.lane_waiting_max;
        let meanwhile = lane.spilled_meanwhile.take();
        let rest = match rows.last() {
            Some(last) if !complete => Some(last.number.next()),
            _ => meanwhile,
        };
        if let Some(before) = std::mem::replace(&mut lane.spill, rest) {
            self.spills.remove(&(before, lane_id));
        }
        self.spills.extend(rest.map(|from| (from, lane_id)));
        for row in rows {
            // A job that is in memory already knows better than its row.
            if !self.jobs.contains_key(&row.number)
                && !self.unwritten.released.contains_key(&row.number)
            {
                self.enter(lane_id, row, now);
            }
        }
        self.schedule(lane_id);
        self.drop_if_done(lane_id);
    }

    /// Takes a queued row of the table into its lane's memory.
    pub(crate) fn enter(&mut self, lane_id: LaneId, row: JobRow, now: Now) {
        let number = row.number;
        let wait = row.due_at.map_or(0, |due| {
            // After a jump of the clock no job lies further ahead than it was put.
            let ahead_ms = due.since(now.wall).as_millis();
            u64::try_from(ahead_ms).unwrap_or(u64::MAX).min(row.delay_ms)
        });
        let lane = self.lanes.get_mut(&lane_id).expect("jobs enter known lanes");
        let phase = if wait > 0 {
            let due = now.mono.plus(Duration::from_millis(wait));
            lane.delayed += 1;
            self.timers.insert((due, Timer::Job(number)));
            Phase::Delayed(due)
        } else if row.attempts > 0 {
            lane.again.push_back(number);
            Phase::Again
        } else {
            lane.first.push_back(number);
            Phase::First
        };
        self.keep(row, lane_id, phase);
    }

    /// The batch is on the disk: its attempts left at `now`.
    pub(crate) fn committed(&mut self, now: Now) {
        for number in std::mem::take(&mut self.starting) {
            let Some(job) = self.jobs.get_mut(&number) else { continue };
            if let Phase::Running { left, .. } = &mut job.phase {
                *left = Some(now.mono);
            }
            let watcher = job.row.watcher.and_then(|watcher| self.watchers.get_mut(&watcher));
            if let Some(limiter) = watcher.and_then(|watcher| watcher.limiter.as_mut()) {
                limiter.charge(now.mono);
            }
        }
    }

    /// Does what is due.
    pub(crate) fn run_timers(&mut self, now: Now) {
        while let Some((_, timer)) = self.timers.first().filter(|(at, _)| *at <= now.mono).cloned()
        {
            self.timers.pop_first();
            match timer {
                Timer::Lane(lane_id) => {
                    if let Some(lane) = self.lanes.get_mut(&lane_id) {
                        lane.limited = false;
                        self.schedule(lane_id);
                        self.drop_if_done(lane_id);
                    }
                }
                Timer::Job(number) => self.retry_is_due(number, now.mono),
                Timer::Plugin(plugin) => {
                    if let Some(state) = self.plugins.get_mut(&plugin)
                        && state.broken_until.take_if(|until| *until <= now.mono).is_some()
                    {
                        self.schedule_plugin(&plugin);
                    }
                }
            }
        }
    }

    fn retry_is_due(&mut self, number: JobNumber, now: Mono) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let Phase::Delayed(due) = job.phase else { return };
        if due > now {
            return;
        }
        job.phase = Phase::Again;
        let lane_id = job.lane;
        let lane = self.lanes.get_mut(&lane_id).expect("a job's lane lives as long as the job");
        lane.delayed -= 1;
        lane.again.push_back(number);
        self.schedule(lane_id);
    }

    /// Forgets a lane that has nothing left to keep.
    pub(crate) fn drop_if_done(&mut self, lane_id: LaneId) {
        let Some(lane) = self.lanes.get(&lane_id) else { return };
        if lane.open == 0 && !lane.limited && !lane.loading && !lane.in_turn {
            self.lane_ids.remove(&lane.key);
            if let Some(from) = lane.spill {
                self.spills.remove(&(from, lane_id));
            }
            self.starved.remove(&lane_id);
            self.lanes.remove(&lane_id);
        }
    }
}
