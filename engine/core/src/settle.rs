//! What becomes of jobs: ends of attempts, lost plugins, recovery, withdrawal.
//!
//! Not here: what people do with a job that is there (`crate::redrive`, `crate::steer`), jobs that no claim
//! caused (`crate::asked`).

use std::sync::Arc;
use std::time::Duration;

use axwatch_model::{
    HandlerName, JobNumber, JobRow, JobState, Mono, Now, OpenAsked, PluginName, Timestamp,
    WatcherNumber, WatcherState, bounds,
};

use crate::asked::SourceKey;
use crate::event::Effect;
use crate::job::{LostBy, Next, after};
use crate::late::Over;
use crate::matching::sha256_hex;
use crate::outcome::{Ended, Outcome};
use crate::policy::RetryLimits;
use crate::progress::is_amount;
use crate::record::{AttemptEnded, JobRecord, PluginRecord, Record};
use crate::state::{Job, LaneId, Phase, State, Timer};

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
            self.note_stopped(number, attempt, incarnation);
            return self.answered_late(number, attempt, incarnation, &ended.outcome, now);
        };
        let Some(plugin) = job.row.plugin.clone() else { return };
        self.take_last_report(number, &ended, now);
        let lost_by = self.note_answer(&plugin, &ended, now);
        let suspect = matches!(ended.outcome, Outcome::Lost { .. });
        let epoch = Some(self.policy.epoch);
        let end = End { outcome: &ended.outcome, lost_by, suspect, epoch, left };
        self.settle(number, &end, now, effects);
    }

    /// What an answer tells besides how the attempt ended. What it does not tell of is as it was told before.
    fn take_last_report(&mut self, number: JobNumber, ended: &Ended, now: Now) {
        let row = &mut self.jobs.get_mut(&number).expect("looked up by the caller").row;
        row.progress = ended.progress.or(row.progress);
        if let Some(cost) = ended.cost.filter(is_amount) {
            self.set_cost(number, cost);
        }
        self.keep_entries(number, ended.entries.clone(), now);
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

    /// Attempts that the plugin may be working on, those that were told to stop counted.
    fn at_work(&self, plugin: &PluginName, now: Mono) -> usize {
        let Some(state) = self.plugins.get(plugin) else { return 0 };
        let at_work = |number: &&JobNumber| self.jobs[*number].has_left(now);
        let left = |key: &&(JobNumber, u32)| self.stopping[*key].left.is_some_and(|at| at <= now);
        state.running.iter().filter(at_work).count() + state.stopping.iter().filter(left).count()
    }

    /// Ends the current attempt of a job: audit, row, and where the job goes.
    fn settle(&mut self, number: JobNumber, end: &End<'_>, now: Now, effects: &mut Vec<Effect>) {
        self.budget_attempt_over(number, Some(end.outcome));
        self.note_run_rests(number);
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
        let watcher = row.watcher.and_then(|number| self.watchers.get(&number)).map(|w| w.shown());
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
        self.release(number, now, effects);
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
        let watcher = watcher.and_then(|number| self.watchers.get(&number)).map(|w| w.shown());
        let reason = bounds::cut(reason, bounds::ERROR_BYTES_MAX);
        let leaf = self.record(&Record::Job(JobRecord {
            attempts: Some(attempts),
            handler: Some(&handler),
            reason: Some(reason),
            ..JobRecord::new("dead_lettered", id, now.wall)
        }));
        self.note_leaf(number, leaf);
        let watcher = watcher.unwrap_or_else(|| "".into());
        let reason = match error.filter(|_| !permanent) {
            Some(error) => format!("{reason}; at last: {error}"),
            None => reason.to_owned(),
        };
        effects.push(Effect::GaveUp { id, plugin, watcher, handler, attempts, permanent, reason });
        self.release(number, now, effects);
    }

    /// Lets go of a job in memory that is no longer open. Its row goes with the batch.
    pub(crate) fn release(&mut self, number: JobNumber, now: Now, effects: &mut Vec<Effect>) {
        let job = self.forget_job(number).expect("only jobs in memory are released");
        self.unwritten.jobs.remove(&number);
        self.close(job.lane, job.row, now);
        self.load(job.lane, effects);
        self.drop_if_done(job.lane);
    }

    /// A job is no longer open, and not in memory. Its row goes with the batch; when it was cancelled, what
    /// is open below it goes along.
    pub(crate) fn close(&mut self, lane_id: LaneId, row: JobRow, now: Now) {
        let (number, state) = (row.number, row.state);
        self.leave_lane(lane_id, number);
        self.forget_source(number, SourceKey::of_job(&row));
        self.kin.closed(number, state);
        self.unwritten.released.insert(number, row);
        if state == JobState::Cancelled {
            self.cancel_below(number, now);
        }
    }

    /// An open job of the lane is one no more.
    pub(crate) fn leave_lane(&mut self, lane_id: LaneId, number: JobNumber) {
        self.open_jobs -= 1;
        self.note_run_over(number);
        let lane = self.lanes.get_mut(&lane_id).expect("the lane of an open job is known");
        lane.open -= 1;
        if lane.loading.is_some() {
            lane.ended_meanwhile.insert(number);
        }
        if self.paused.remove(&(lane.key.watcher.is_none(), number)).is_some() {
            lane.paused -= 1;
        }
        lane.key.watcher.inspect(|watcher| self.passes.job_ended(*watcher));
        let by = lane.key.asker.clone();
        self.count_asked(by, false);
    }

    /// How long the job's plugin has been away, its watcher held, and its lane held by a budget, in all, up to
    /// `now`.
    pub(crate) fn idle_total(&self, row: &JobRow, lane: LaneId, now: Mono) -> Duration {
        let ongoing = |since: Option<Mono>| since.map_or(Duration::ZERO, |since| now.since(since));
        let plugin = row.plugin.as_ref().and_then(|plugin| self.plugins.get(plugin));
        let away = plugin.map_or(Duration::ZERO, |p| p.away + ongoing(p.away_since));
        let watcher = row.watcher.and_then(|number| self.watchers.get(&number));
        let held = watcher.map_or(Duration::ZERO, |watcher| watcher.held_total(now));
        away + held + self.lanes.get(&lane).map_or(Duration::ZERO, |lane| lane.budget_held(now))
    }

    /// Adds what went by to how long the job has been failing, but not the time in which nobody could
    /// have run it. By the monotonic clock: a jump of the wall clock ages nothing.
    pub(crate) fn reckon_age(&mut self, number: JobNumber, now: Now) {
        let Job { row, lane, .. } = &self.jobs[&number];
        let idle = self.idle_total(row, *lane, now.mono);
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
        self.release(number, now, effects);
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
        let error = format!("plugin {plugin} went away: {reason}");
        self.end_announcing(plugin, error.clone(), now, effects);
        let outcome = Outcome::Lost { error };
        for number in running {
            // One that was a part of another may have been cancelled with it just now.
            let Some(job) = self.jobs.get(&number) else { continue };
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
        self.forget_all_stopping(plugin);
    }

    /// Open jobs of an earlier life; an empty list says that these were all. What was under way is
    /// unknown and tried again at once.
    pub(crate) fn recovered(&mut self, rows: Vec<JobRow>, now: Now, effects: &mut Vec<Effect>) {
        if rows.is_empty() {
            self.recovery_done(now);
            let letting_go = std::mem::take(&mut self.letting_go);
            letting_go.into_iter().for_each(|number| self.forget_let_go(number));
        }
        for row in rows {
            let lane_id = self.lane_of(&row);
            self.note_open((&row).into(), lane_id);
            if let Some(asked) = &row.asked {
                self.queue_clock.restore(asked.base_ms, now.mono);
            }
            let waits_in_table = self.lanes[&lane_id].spill.is_some_and(|from| from <= row.place());
            match row.state {
                JobState::Running => self.recover_attempt(lane_id, row, now, effects),
                JobState::Paused => self.note_paused(lane_id, row.number),
                _ => match self.is_let_go(&row).filter(|_| !waits_in_table) {
                    Some(reason) => self.let_go(lane_id, row, reason, now),
                    None => self.wait_in_lane(lane_id, row, false, now),
                },
            }
        }
    }

    /// Open jobs of an earlier life that were asked for and wait: the table has what they carry.
    pub(crate) fn recovered_asked(&mut self, jobs: &[OpenAsked], now: Now) {
        for job in jobs {
            self.queue_clock.restore(job.asked.base_ms, now.mono);
            let lane_id = self.lane_of_key(job.lane(), job.plugin.as_ref());
            self.note_open(job.into(), lane_id);
            if job.state == JobState::Paused {
                self.note_paused(lane_id, job.number);
            } else {
                self.spill(lane_id, job.place());
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

    /// Withdraws the jobs of a watcher that wait and says how many; running ones finish.
    pub(crate) fn cancel_queued(&mut self, watcher: WatcherNumber, reason: &str, now: Now) -> u64 {
        let mut cancelled = 0;
        for lane_id in self.lanes_of_watcher(watcher) {
            let suspects = self.suspects_of(lane_id);
            let lane = self.lanes.get_mut(&lane_id).expect("looked up just now");
            cancelled += lane.open - lane.running;
            self.open_jobs -= lane.open - lane.running;
            (lane.open, lane.paused) = (lane.running, 0);
            (lane.spilled_meanwhile, lane.discard_loaded) = (None, lane.loading.is_some());
            let mut queued = suspects;
            queued.extend(std::mem::take(&mut lane.first).into_iter().map(|place| place.number));
            queued.extend(std::mem::take(&mut lane.again));
            queued.extend(std::mem::take(&mut lane.delayed));
            self.set_spill(lane_id, None);
            for number in queued {
                let job = self.forget_job(number).expect("a lane's jobs are in memory");
                let mut row = job.row;
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
            if row.watcher == Some(watcher) && waits(row.state) {
                (row.state, row.completed_at) = (JobState::Cancelled, Some(now.wall));
                row.error = Some(reason.to_owned());
            }
        }
        self.paused.retain(|_, of| *of != Some(watcher));
        self.cancel_below_withdrawn(watcher, now);
        if cancelled > 0 {
            let from = self.open_jobs_from_written;
            self.unwritten.cancelled.push((watcher, from, reason.to_owned()));
        }
        cancelled
    }

    /// What is open below the fires of a watcher that have been withdrawn goes along.
    fn cancel_below_withdrawn(&mut self, watcher: WatcherNumber, now: Now) {
        for number in self.kin.open_fires(watcher) {
            if !self.jobs.contains_key(&number) {
                self.kin.closed(number, JobState::Cancelled);
                self.cancel_below(number, now);
            }
        }
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

/// Whether a job in this state waits for its turn, or for somebody who lets it have one.
pub(crate) fn waits(state: JobState) -> bool {
    matches!(state, JobState::Queued | JobState::Paused)
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
