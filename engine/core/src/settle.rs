//! What becomes of jobs: ends of attempts, lost plugins, new jobs without a watcher.
//!
//! Not here: what people do with a job that is there (`crate::redrive`).

use std::sync::Arc;
use std::time::Duration;

use axwatch_model::{
    HandlerName, JobId, JobNumber, JobOrigin, JobRow, JobState, Mono, Now, PluginName, Timestamp,
    WatcherState, bounds,
};

use crate::event::{Answer, Effect, Refusal, RefusalKind};
use crate::job::{LostBy, Next, after};
use crate::late::Over;
use crate::matching::sha256_hex;
use crate::outcome::{Ended, Outcome};
use crate::policy::RetryLimits;
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
    /// An attempt ended. One that is not the current one of its job changes nothing, and is told of in
    /// the audit.
    pub(crate) fn attempt_ended(
        &mut self,
        number: JobNumber,
        attempt: u32,
        incarnation: u64,
        ended: Ended,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let current = self.jobs.get_mut(&number).and_then(|job| match job.phase {
            Phase::Running { incarnation: current, left, .. }
                if current == incarnation && job.row.attempts == attempt =>
            {
                Some((job, left))
            }
            _ => None,
        });
        let Some((job, left)) = current else {
            return self.answered_late(number, attempt, incarnation, &ended.outcome, now);
        };
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
        let alone = self.at_work(plugin, now.mono) == 1;
        let until = now.mono.plus(BROKEN);
        let state = self.plugin_entry(plugin);
        let alone = alone && state.broken_until.is_none();
        state.broken_until = Some(until);
        self.timers.insert((until, Timer::Plugin(plugin.clone())));
        if alone { LostBy::Itself } else { LostBy::Others }
    }

    /// Attempts that the plugin may be working on.
    fn at_work(&self, plugin: &PluginName, now: Mono) -> usize {
        let running = self.plugins.get(plugin).map(|state| &state.running);
        let at_work = |number: &&JobNumber| self.jobs[*number].has_left(now);
        running.map_or(0, |running| running.iter().filter(at_work).count())
    }

    /// Ends the current attempt of a job: audit, row, and where the job goes.
    fn settle(&mut self, number: JobNumber, end: &End<'_>, now: Now, effects: &mut Vec<Effect>) {
        let job = &self.jobs[&number];
        if let Phase::Running { incarnation, .. } = job.phase {
            let (id, attempt) = (job.row.id, job.row.attempts);
            self.late.remember(Over { number, id, attempt, incarnation }, end.outcome);
        }
        self.free_slot(number);
        self.note_for_breaker(number, end.outcome, now);
        self.reckon_age(number, now);
        let limits = self.retry_limits(&self.jobs[&number].row);
        let job = self.jobs.get_mut(&number).expect("only jobs in memory are settled");
        let verdict =
            after(end.outcome, &job.row, end.lost_by, job.age, limits, &self.policy.retry);
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

    /// After how many counted attempts, and at which age, a job is given up.
    fn retry_limits(&self, row: &JobRow) -> (u32, Duration) {
        let watcher = row.watcher.and_then(|number| self.watchers.get(&number));
        let of_watcher = watcher.map_or_else(RetryLimits::default, |watcher| RetryLimits {
            max_attempts: watcher.row.max_attempts,
            max_age: watcher.row.max_age_ms.map(Duration::from_millis),
        });
        let [of_handler, of_plugin] = self.handler_limits(row);
        let said = [of_watcher, of_handler, of_plugin];
        let attempts_max = said.iter().find_map(|limits| limits.max_attempts);
        let age_max = said.iter().find_map(|limits| limits.max_age);
        let usual = &self.policy.retry;
        (attempts_max.unwrap_or(usual.counted_max), age_max.unwrap_or(usual.age_max))
    }

    /// What is said of the job's handler, and of all handlers of its plugin.
    fn handler_limits(&self, row: &JobRow) -> [RetryLimits; 2] {
        let handlers = &self.policy.handlers;
        let Some(plugin) = row.plugin.as_ref().filter(|_| !handlers.is_empty()) else {
            return [RetryLimits::default(); 2];
        };
        let said = |handler: Option<HandlerName>| handlers.get(&(plugin.clone(), handler));
        let bare: Option<HandlerName> = row.bare_handler().parse().ok();
        let of_handler = bare.and_then(|bare| said(Some(bare)));
        [of_handler, said(None)].map(|limits| limits.copied().unwrap_or_default())
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
            // When the attempt ended, by the clock by which the row tells how long it has been failing.
            job.row.due_at = job.row.first_counted_at.map(|_| now.wall);
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
        let (id, attempts, handler, watcher, plugin) =
            (row.id, row.attempts, row.handler.clone(), row.watcher, row.plugin.clone());
        let error = row.error.clone();
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
        let reason = match error.filter(|_| !permanent) {
            Some(error) => format!("{reason}; at last: {error}"),
            None => reason.to_owned(),
        };
        effects.push(Effect::GaveUp { id, plugin, watcher, handler, attempts, permanent, reason });
        self.release(number, effects);
    }

    /// Lets go of a job that is no longer open. Its row goes with the batch.
    pub(crate) fn release(&mut self, number: JobNumber, effects: &mut Vec<Effect>) {
        let job = self.jobs.remove(&number).expect("only jobs in memory are released");
        self.unwritten.jobs.remove(&number);
        self.unwritten.released.insert(number, job.row);
        self.open_jobs -= 1;
        if let Some(lane) = self.lanes.get_mut(&job.lane) {
            lane.open -= 1;
            if lane.loading.is_some() {
                lane.ended_meanwhile.insert(number);
            }
            lane.key.watcher.inspect(|watcher| self.passes.job_ended(*watcher));
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
    pub(crate) fn reckon_age(&mut self, number: JobNumber, now: Now) {
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
        let broken = state.broken_until.is_some();
        let alone = crashed && !broken && self.at_work(plugin, now.mono) == 1;
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
            let job = &self.jobs[&number];
            let Phase::Running { left, .. } = job.phase else { continue };
            // One that had not left yet had no part in it.
            let had_part = job.has_left(now.mono);
            let end = End {
                outcome: &outcome,
                lost_by: if had_part { lost_by } else { LostBy::Others },
                suspect: crashed && had_part,
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
            let holding = self.watchers.iter().filter(|(_, watcher)| !watcher.let_go.is_empty());
            let mut holding: Vec<_> = holding.map(|(number, _)| *number).collect();
            holding.sort_unstable();
            holding.into_iter().for_each(|number| self.forget_let_go(number));
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
                || lane.retries() >= delayed_max
            {
                self.spill(lane_id, row.number);
            } else if let Some(reason) = self.is_let_go(&row) {
                self.let_go(lane_id, row, reason, now);
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

    /// Whether another job may be open.
    pub(crate) fn check_open_jobs(&self) -> Result<(), Refusal> {
        if self.may_match() {
            return Ok(());
        }
        let reason = format!(
            "resource_exhausted: {} jobs are open, which is the bound; try again when some are done",
            self.open_jobs
        );
        Err(Refusal::new(RefusalKind::Exhausted, reason))
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
        self.check_open_jobs()?;
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
        self.passes.job_ended(watcher);
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
pub(crate) fn begin(error: &str) -> &str {
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
