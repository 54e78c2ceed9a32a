//! What becomes of jobs: ends of attempts, lost plugins, requests of people.

use std::sync::Arc;
use std::time::Duration;

use axwatch_model::{
    HandlerName, JobId, JobNumber, JobOrigin, JobRow, JobState, Mono, Now, PluginName, Timestamp,
    WatcherState, bounds,
};

use crate::event::{Answer, Effect, Refusal, RefusalKind};
use crate::job::{LostBy, Next, after};
use crate::matching::sha256_hex;
use crate::outcome::{Ended, Outcome};
use crate::record::{AttemptEnded, JobRecord, PluginRecord, Record};
use crate::state::{LaneId, Phase, State, Timer};

/// After a connection broke with several attempts under way, nothing starts there for so long, unless
/// the plugin comes up anew.
const BROKEN: Duration = Duration::from_secs(1);

/// The audit tells the beginning of an error; the job's row has the whole. So a proof stays under 2 KB.
const REASON_BYTES_MAX: usize = 150;

/// An attempt that ended, as the audit tells of it.
struct End<'a> {
    outcome: &'a Outcome,
    /// If it was lost, whose doing that was.
    lost_by: LostBy,
    /// It may be the one that crashed its plugin.
    suspect: bool,
    epoch: Option<u64>,
    left: Option<Mono>,
}

impl State {
    /// An attempt ended. One that is not the current one of its job changes nothing.
    pub(crate) fn attempt_ended(
        &mut self,
        number: JobNumber,
        attempt: u32,
        incarnation: u64,
        ended: Ended,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let Phase::Running { incarnation: current, left, .. } = job.phase else { return };
        if current != incarnation || job.row.attempts != attempt {
            return;
        }
        job.row.progress = ended.progress.or(job.row.progress);
        if let Some(cost) = ended.cost {
            job.row.cost = Some(job.row.cost.unwrap_or(0.0) + cost);
        }
        let Some(plugin) = job.row.plugin.clone() else { return };
        let lost_by = self.note_answer(&plugin, &ended, now);
        let suspect = matches!(ended.outcome, Outcome::Lost { .. });
        let epoch = Some(self.policy.epoch);
        let end = End { outcome: &ended.outcome, lost_by, suspect, epoch, left };
        self.settle(number, &end, now, effects);
    }

    /// What an answer says about its plugin. Answers whose doing it was if the attempt was lost.
    fn note_answer(&mut self, plugin: &PluginName, ended: &Ended, now: Now) -> LostBy {
        let state = self.plugin_entry(plugin);
        let overloaded = match &ended.outcome {
            Outcome::Retryable { missed_deadline, .. } => *missed_deadline,
            Outcome::NotNow { overloaded, .. } => *overloaded,
            _ => false,
        };
        if overloaded {
            state.slots = (state.slots / 2).max(1);
        } else if ended.quick {
            state.slots = (state.slots + 1).min(state.max_in_flight);
        }
        if !matches!(ended.outcome, Outcome::Lost { .. }) {
            return LostBy::Others;
        }
        let alone = state.running.len() == 1 && state.broken_until.is_none();
        let until = now.mono.plus(BROKEN);
        state.broken_until = Some(until);
        self.timers.insert((until, Timer::Plugin(plugin.clone())));
        if alone { LostBy::Itself } else { LostBy::Others }
    }

    /// Ends the current attempt of a job: audit, row, and where the job goes.
    fn settle(&mut self, number: JobNumber, end: &End<'_>, now: Now, effects: &mut Vec<Effect>) {
        self.free_slot(number);
        self.reckon_age(number, now);
        let job = self.jobs.get_mut(&number).expect("only jobs in memory are settled");
        let verdict = after(end.outcome, &job.row, end.lost_by, job.age, &self.policy.retry);
        // Whoever may have crashed its plugin runs alone from here on, until it has ended otherwise.
        job.suspect = end.suspect;
        let permanent = matches!(end.outcome, Outcome::Permanent { .. });
        let (error, result) = told(end.outcome);
        let row = &mut job.row;
        if verdict.counted {
            row.counted += 1;
            row.first_counted_at.get_or_insert(now.wall);
        } else if verdict.outcome == "unknown" && end.lost_by == LostBy::Engine {
            row.uncounted += 1;
        }
        if verdict.next != Next::Done {
            row.error = error.map(|error| bounds::cut(error, bounds::ERROR_BYTES_MAX).to_owned());
        }
        let next_at = match &verdict.next {
            Next::Again(delay) if !delay.is_zero() => Some(now.wall.plus(*delay)),
            _ => None,
        };
        self.record_end(
            number,
            end,
            verdict.outcome,
            verdict.counted,
            next_at,
            result.as_deref(),
            now.wall,
        );
        match verdict.next {
            Next::Done => self.complete(number, result, now, effects),
            Next::Again(_) if self.is_retired(number) => self.withdraw(number, now, effects),
            Next::Again(delay) => self.requeue(number, delay, now),
            Next::Dead(reason) => self.give_up(number, &reason, permanent, now, effects),
        }
    }

    fn free_slot(&mut self, number: JobNumber) {
        let job = &self.jobs[&number];
        let Phase::Running { retry, .. } = job.phase else { return };
        let Some(plugin) = job.row.plugin.clone() else { return };
        if let Some(lane) = self.lanes.get_mut(&job.lane) {
            lane.running -= 1;
        }
        let state = self.plugin_entry(&plugin);
        state.running.remove(&number);
        state.retries_running -= u32::from(retry);
        if state.suspect_running == Some(number) {
            state.suspect_running = None;
            state.others_left = state.slots;
        }
        self.to_pump.insert(plugin);
    }

    #[allow(clippy::too_many_arguments, reason = "one record, each field from its own source")]
    fn record_end(
        &mut self,
        number: JobNumber,
        end: &End<'_>,
        outcome: &'static str,
        counted: bool,
        next_at: Option<Timestamp>,
        result: Option<&[u8]>,
        at: Timestamp,
    ) {
        let row = &self.jobs[&number].row;
        let watcher =
            row.watcher.and_then(|number| self.watchers.get(&number)).map(|w| w.shown.clone());
        let (id, attempt, error) = (row.id, row.attempts, row.error.clone());
        let result_sha256 = result.map(sha256_hex);
        if outcome == "failed" {
            self.count_error(number);
        }
        let leaf = self.record(&Record::AttemptEnded(AttemptEnded {
            at,
            attempt,
            counted,
            epoch: end.epoch,
            job: id,
            next_at,
            outcome,
            reason: error.as_deref().filter(|_| outcome != "succeeded").map(begin),
            result_sha256: result_sha256.as_deref(),
            stamp_us: end.left.map(|left| left.0 / 1_000),
            r#type: "attempt_ended",
            watcher: watcher.as_deref().unwrap_or(""),
        }));
        self.note_leaf(number, leaf);
    }

    fn count_error(&mut self, number: JobNumber) {
        let watcher = self.jobs[&number].row.watcher;
        if let Some(watcher) = watcher.and_then(|number| self.watchers.get_mut(&number)) {
            watcher.counters.errors += 1;
            self.unwritten.counters.insert(watcher.row.number);
        }
    }

    fn complete(
        &mut self,
        number: JobNumber,
        result: Option<Arc<[u8]>>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let row = &mut self.jobs.get_mut(&number).expect("settled jobs are in memory").row;
        row.state = JobState::Completed;
        row.result = result;
        row.error = None;
        row.completed_at = Some(now.wall);
        self.release(number, effects);
    }

    fn requeue(&mut self, number: JobNumber, delay: Duration, now: Now) {
        let job = self.jobs.get_mut(&number).expect("settled jobs are in memory");
        let lane_id = job.lane;
        let lane = self.lanes.get_mut(&lane_id).expect("a job's lane lives as long as the job");
        job.row.state = JobState::Queued;
        if delay.is_zero() {
            let suspect = job.suspect;
            self.line_up(number, suspect);
        } else {
            let due = now.mono.plus(delay);
            job.phase = Phase::Delayed(due);
            job.row.due_at = Some(now.wall.plus(delay));
            job.row.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            lane.delayed.insert(number);
            self.timers.insert((due, Timer::Job(number)));
        }
        self.unwritten.jobs.insert(number);
        self.schedule(lane_id);
    }

    fn give_up(
        &mut self,
        number: JobNumber,
        reason: &str,
        permanent: bool,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let row = &mut self.jobs.get_mut(&number).expect("settled jobs are in memory").row;
        row.state = JobState::Failed;
        row.completed_at = Some(now.wall);
        let (id, attempts, handler, watcher) =
            (row.id, row.attempts, row.handler.clone(), row.watcher);
        let watcher =
            watcher.and_then(|number| self.watchers.get(&number)).map(|w| w.shown.clone());
        let reason = bounds::cut(reason, bounds::ERROR_BYTES_MAX);
        let leaf = self.record(&Record::Job(JobRecord {
            at: now.wall,
            attempts: Some(attempts),
            handler: Some(&handler),
            job: id,
            payload_sha256: None,
            reason: Some(reason),
            r#type: "dead_lettered",
        }));
        self.note_leaf(number, leaf);
        let watcher = watcher.unwrap_or_else(|| "".into());
        let reason = reason.to_owned();
        effects.push(Effect::GaveUp { id, watcher, handler, attempts, permanent, reason });
        self.release(number, effects);
    }

    /// Lets go of a job that is no longer open. Its row goes with the batch.
    fn release(&mut self, number: JobNumber, effects: &mut Vec<Effect>) {
        let job = self.jobs.remove(&number).expect("only jobs in memory are released");
        self.unwritten.jobs.remove(&number);
        self.unwritten.released.insert(number, job.row);
        self.open_jobs -= 1;
        if let Some(lane) = self.lanes.get_mut(&job.lane) {
            lane.open -= 1;
            if lane.loading.is_some() {
                lane.ended_meanwhile.insert(number);
            }
        }
        self.load(job.lane, effects);
        self.drop_if_done(job.lane);
    }

    /// How long the job's plugin has been away and its watcher held, in all, up to `now`.
    pub(crate) fn idle_total(&self, row: &JobRow, now: Mono) -> Duration {
        let ongoing = |since: Option<Mono>| since.map_or(Duration::ZERO, |since| now.since(since));
        let plugin = row.plugin.as_ref().and_then(|plugin| self.plugins.get(plugin));
        let away = plugin.map_or(Duration::ZERO, |p| p.away + ongoing(p.away_since));
        let watcher = row.watcher.and_then(|number| self.watchers.get(&number));
        away + watcher.map_or(Duration::ZERO, |w| w.held + ongoing(w.held_since))
    }

    /// Adds what went by to how long the job has been failing, but not the time in which nobody could
    /// have run it. By the monotonic clock: a jump of the wall clock ages nothing.
    fn reckon_age(&mut self, number: JobNumber, now: Now) {
        let idle = self.idle_total(&self.jobs[&number].row, now.mono);
        let job = self.jobs.get_mut(&number).expect("settled jobs are in memory");
        let idle_since = idle.saturating_sub(std::mem::replace(&mut job.idle_mark, idle));
        let since = now.mono.since(std::mem::replace(&mut job.reckoned, now.mono));
        if job.row.first_counted_at.is_some() {
            job.age += since.saturating_sub(idle_since);
            job.row.first_counted_at = Some(now.wall.minus(job.age));
        }
    }

    fn is_retired(&self, number: JobNumber) -> bool {
        let watcher = self.jobs[&number].row.watcher.and_then(|number| self.watchers.get(&number));
        watcher.is_some_and(|watcher| watcher.row.state == WatcherState::Retired)
    }

    /// Withdraws a job whose attempt ended and whose watcher has been retired meanwhile.
    fn withdraw(&mut self, number: JobNumber, now: Now, effects: &mut Vec<Effect>) {
        let row = &mut self.jobs.get_mut(&number).expect("settled jobs are in memory").row;
        row.state = JobState::Cancelled;
        row.completed_at = Some(now.wall);
        self.release(number, effects);
    }

    /// A plugin's process is gone: its attempts under way are lost, and its lanes wait.
    pub(crate) fn plugin_down(
        &mut self,
        plugin: &PluginName,
        incarnation: u64,
        reason: &str,
        crashed: bool,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let Some(state) = self.plugins.get_mut(plugin) else { return };
        if !state.up || state.incarnation != incarnation {
            return;
        }
        state.up = false;
        state.away_since = Some(now.mono);
        let running: Vec<_> = state.running.iter().copied().collect();
        let alone = crashed && running.len() == 1 && state.broken_until.is_none();
        let lost_by = if alone { LostBy::Itself } else { LostBy::Others };
        self.record(&Record::Plugin(PluginRecord {
            at: now.wall,
            handlers: Vec::new(),
            incarnation,
            plugin: plugin.as_str(),
            reason: Some(bounds::cut(reason, bounds::ERROR_BYTES_MAX)),
            r#type: "plugin_down",
            version: None,
        }));
        let outcome = Outcome::Lost { error: format!("plugin {plugin} went away: {reason}") };
        for number in running {
            let Phase::Running { left, .. } = self.jobs[&number].phase else { continue };
            let end = End {
                outcome: &outcome,
                lost_by,
                suspect: crashed,
                epoch: Some(self.policy.epoch),
                left,
            };
            self.settle(number, &end, now, effects);
        }
    }

    /// Open jobs of an earlier life, by number; an empty list says that these were all. What was
    /// under way is unknown and tried again at once.
    pub(crate) fn recovered(&mut self, rows: Vec<JobRow>, now: Now, effects: &mut Vec<Effect>) {
        if rows.is_empty() {
            self.recovery_done();
        }
        for row in rows {
            let lane_id = self.lane_of(&row);
            self.open_jobs += 1;
            let full = self.room_for(lane_id) == 0;
            let (waiting_max, delayed_max) =
                (self.policy.bounds.lane_waiting_max, self.policy.bounds.lane_delayed_max);
            let lane = self.lanes.get_mut(&lane_id).expect("the lane was just looked up");
            lane.open += 1;
            if row.state == JobState::Running {
                self.recover_attempt(lane_id, row, now, effects);
            } else if full
                || lane.spill.is_some()
                || lane.first.len() >= waiting_max
                || lane.delayed.len() >= delayed_max
            {
                self.spill(lane_id, row.number);
            } else {
                self.enter(lane_id, row, now);
                self.schedule(lane_id);
            }
        }
    }

    fn recover_attempt(
        &mut self,
        lane_id: LaneId,
        row: JobRow,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let number = row.number;
        self.keep(row, lane_id, Phase::Again, now);
        let outcome =
            Outcome::Lost { error: "the engine ended while the attempt was under way".to_owned() };
        self.settle(
            number,
            &End {
                outcome: &outcome,
                lost_by: LostBy::Engine,
                suspect: false,
                epoch: None,
                left: None,
            },
            now,
            effects,
        );
    }

    /// Makes a job without a watcher.
    pub(crate) fn enqueue(
        &mut self,
        id: JobId,
        handler: &str,
        payload: Arc<[u8]>,
        now: Now,
    ) -> Answer {
        Answer::Job(self.try_enqueue(id, handler, payload, now).map(Box::new))
    }

    fn try_enqueue(
        &mut self,
        id: JobId,
        handler: &str,
        payload: Arc<[u8]>,
        now: Now,
    ) -> Result<JobRow, Refusal> {
        if payload.len() > bounds::PAYLOAD_BYTES_MAX {
            let reason = format!(
                "payload: {} bytes; at most {} are allowed",
                payload.len(),
                bounds::PAYLOAD_BYTES_MAX
            );
            return Err(Refusal::new(RefusalKind::Invalid, reason));
        }
        if !self.may_match() {
            let reason = format!(
                "resource_exhausted: {} jobs are open, which is the bound; try again when some are done",
                self.open_jobs
            );
            return Err(Refusal::new(RefusalKind::Exhausted, reason));
        }
        let Some(plugin) = self.resolve_handler(handler)? else {
            return Err(self.unknown_handler(handler));
        };
        let (_, bare) = HandlerName::parse_qualified(handler)
            .map_err(|error| Refusal::new(RefusalKind::Invalid, error.to_string()))?;
        let handler: Arc<str> = format!("{plugin}/{bare}").into();
        let leaf = self.record(&Record::Job(JobRecord {
            at: now.wall,
            attempts: None,
            handler: Some(&handler),
            job: id,
            payload_sha256: Some(&sha256_hex(&payload)),
            reason: None,
            r#type: "job_created",
        }));
        self.last_job = self.last_job.next();
        let row = JobRow::queued(self.last_job, id, JobOrigin::Api, handler, now.wall);
        let row =
            JobRow { plugin: Some(plugin), payload: Some(payload), leaves: vec![leaf], ..row };
        self.add_job(row.clone(), now);
        Ok(row)
    }

    /// Tries a dead letter, or a job that waits for its retry, again now.
    pub(crate) fn redrive(&mut self, row: JobRow, now: Now) -> Answer {
        Answer::Job(self.try_redrive(row, now).map(Box::new))
    }

    fn try_redrive(&mut self, mut row: JobRow, now: Now) -> Result<JobRow, Refusal> {
        let number = row.number;
        if let Some(job) = self.jobs.get(&number) {
            let Phase::Delayed(_) = job.phase else {
                let doing = if job.row.state == JobState::Running {
                    "is running"
                } else {
                    "already waits for its turn"
                };
                return Err(Refusal::new(RefusalKind::Conflict, format!("job {} {doing}", row.id)));
            };
            self.record_redriven(number, row.id, job.row.attempts, now.wall);
            self.bring_forward(number, now);
            return Ok(self.jobs[&number].row.clone());
        }
        if self.unwritten.released.contains_key(&number) {
            let reason = format!("job {} has ended just now; look at it again", row.id);
            return Err(Refusal::new(RefusalKind::Conflict, reason));
        }
        let watcher = row.watcher.and_then(|number| self.watchers.get(&number));
        if let Some(watcher) = watcher.filter(|w| w.row.state == WatcherState::Retired) {
            let reason = format!(
                "watcher {} of job {} is retired; declare it again first",
                watcher.shown, row.id
            );
            return Err(Refusal::new(RefusalKind::Conflict, reason));
        }
        match row.state {
            JobState::Failed | JobState::Cancelled => {}
            JobState::Completed => {
                let reason =
                    format!("job {} is completed; a completed job is not run again", row.id);
                return Err(Refusal::new(RefusalKind::Conflict, reason));
            }
            _ => {
                return Err(Refusal::new(
                    RefusalKind::Conflict,
                    format!("job {} already waits for its turn", row.id),
                ));
            }
        }
        row.state = JobState::Queued;
        (row.counted, row.uncounted) = (0, 0);
        (row.first_counted_at, row.completed_at, row.due_at, row.delay_ms) = (None, None, None, 0);
        let lane_id = self.lane_of(&row);
        self.open_jobs += 1;
        self.lanes.get_mut(&lane_id).expect("the lane was just looked up").open += 1;
        let (id, attempts) = (row.id, row.attempts);
        self.enter(lane_id, row, now);
        self.record_redriven(number, id, attempts, now.wall);
        self.schedule(lane_id);
        Ok(self.jobs[&number].row.clone())
    }

    fn record_redriven(&mut self, number: JobNumber, job: JobId, attempts: u32, at: Timestamp) {
        let leaf = self.record(&Record::Job(JobRecord {
            at,
            attempts: Some(attempts),
            handler: None,
            job,
            payload_sha256: None,
            reason: None,
            r#type: "job_redriven",
        }));
        self.note_leaf(number, leaf);
    }

    /// Makes a delayed retry due now.
    fn bring_forward(&mut self, number: JobNumber, now: Now) {
        let job = self.jobs.get_mut(&number).expect("only jobs in memory are delayed");
        job.phase = Phase::Delayed(now.mono);
        (job.row.due_at, job.row.delay_ms) = (None, 0);
        self.unwritten.jobs.insert(number);
        self.timers.insert((now.mono, Timer::Job(number)));
    }

    /// Withdraws the queued jobs of a watcher and says how many; running ones finish.
    pub(crate) fn cancel_queued(
        &mut self,
        watcher: axwatch_model::WatcherNumber,
        reason: &str,
        now: Now,
    ) -> u64 {
        let mut cancelled = 0;
        for lane_id in self.lanes_of_watcher(watcher) {
            let suspects = self.suspects_of(lane_id);
            let lane = self.lanes.get_mut(&lane_id).expect("looked up just now");
            cancelled += lane.open - lane.running;
            self.open_jobs -= lane.open - lane.running;
            lane.open = lane.running;
            (lane.spilled_meanwhile, lane.discard_loaded) = (None, lane.loading.is_some());
            let mut queued = suspects;
            queued.extend(std::mem::take(&mut lane.first));
            queued.extend(std::mem::take(&mut lane.again));
            queued.extend(std::mem::take(&mut lane.delayed));
            if let Some(from) = lane.spill.take() {
                self.spills.remove(&(from, lane_id));
            }
            for number in queued {
                let mut row = self.jobs.remove(&number).expect("a lane's jobs are in memory").row;
                self.unwritten.jobs.remove(&number);
                (row.state, row.completed_at) = (JobState::Cancelled, Some(now.wall));
                row.error = Some(reason.to_owned());
                self.unwritten.released.insert(number, row);
            }
            self.drop_if_done(lane_id);
        }
        // What waits in the table only, or was spilled in this very batch.
        for row in self.unwritten.released.values_mut() {
            if row.watcher == Some(watcher) && row.state == JobState::Queued {
                (row.state, row.completed_at) = (JobState::Cancelled, Some(now.wall));
                row.error = Some(reason.to_owned());
            }
        }
        if cancelled > 0 {
            let from = self.open_jobs_from_written;
            self.unwritten.cancelled.push((watcher, from, reason.to_owned()));
        }
        cancelled
    }

    fn suspects_of(&self, lane_id: LaneId) -> Vec<JobNumber> {
        let plugin =
            self.lanes[&lane_id].plugin.as_ref().and_then(|plugin| self.plugins.get(plugin));
        let waiting = |number: &&JobNumber| {
            self.jobs
                .get(number)
                .is_some_and(|job| job.lane == lane_id && job.phase == Phase::Suspect)
        };
        plugin.map_or_else(Vec::new, |p| p.suspects.iter().filter(waiting).copied().collect())
    }
}

/// The beginning of an error, as long as a record may tell of it: a proof writes the record into JSON
/// a second time, so what JSON escapes counts for what it then takes.
fn begin(error: &str) -> &str {
    let mut taken = 0;
    let end = error.char_indices().find(|(_, c)| {
        taken += match c {
            '"' | '\\' => 4,
            c if c.is_control() => 7,
            c => c.len_utf8(),
        };
        taken > REASON_BYTES_MAX
    });
    &error[..end.map_or(error.len(), |(at, _)| at)]
}

/// What an outcome says: an error text, and a result.
fn told(outcome: &Outcome) -> (Option<&str>, Option<Arc<[u8]>>) {
    match outcome {
        Outcome::Succeeded { result } => (None, result.clone()),
        Outcome::Retryable { error, .. }
        | Outcome::Permanent { error }
        | Outcome::NotNow { error, .. }
        | Outcome::NoHandler { error }
        | Outcome::Lost { error } => (Some(error), None),
    }
}
