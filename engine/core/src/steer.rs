//! What people and plugins do with a job that is not at its end: cancel it, pause it, let it go on.
//!
//! A job that is cancelled, by whoever and for whatever reason, takes along all that is open below it. What of
//! that is in memory goes in the same batch, so that none of it starts any more; of what waits in the table a
//! batch takes a bounded part, and the rest follows, whatever comes between. An attempt under way is told to
//! stop, and its job goes its way at once; until the call is given up it counts as one that its plugin has under
//! way, and what it still says is late.
//!
//! A paused job stands in no lane and is not in memory; it is open all the same.
//!
//! Not here: trying a job again that is at its end (`crate::redrive`), who may do what with which job (the
//! surfaces).

use axwatch_model::{Asker, JobNumber, JobRow, JobState, Now, PluginName, WatcherState};

use crate::asked::SourceKey;
use crate::event::{Answer, Effect, Refusal};
use crate::kin::Known;
use crate::late::Over;
use crate::outcome::Outcome;
use crate::record::{AttemptEnded, JobRecord, Record};
use crate::redrive::conflict;
use crate::settle::begin;
use crate::state::{LaneId, Phase, State, Stopping, Withdrawn};

impl State {
    /// Cancels a job that is not at its end, and what is open below it.
    pub(crate) fn cancel(&mut self, row: JobRow, by: &Asker, now: Now) -> Answer {
        Answer::Job(self.try_cancel(row, by, now).map(Box::new))
    }

    fn try_cancel(&mut self, row: JobRow, by: &Asker, now: Now) -> Result<JobRow, Refusal> {
        let row = self.present(row)?;
        let number = row.number;
        if !row.state.is_open() {
            if !self.kin.has_below(number) {
                let reason = format!("job {} is {}; nothing is left to cancel", row.id, row.state);
                return Err(conflict(reason));
            }
            self.cancel_below(number, now);
            return Ok(row);
        }
        let known = Known {
            id: row.id,
            parent: row.asked.as_deref().and_then(|asked| asked.parent),
            lane: self.lane_of(&row),
            source: SourceKey::of_job(&row),
        };
        if !self.jobs.contains_key(&number) {
            self.unwritten.released.insert(number, row);
        }
        self.cancel_open(number, &known, Some(by), &format!("cancelled by {by}"), now);
        Ok(self.unwritten.released[&number].clone())
    }

    /// Cancels what is open below a job.
    pub(crate) fn cancel_below(&mut self, number: JobNumber, now: Now) {
        let mut below = self.kin.open_below(number);
        below.retain(|number| !self.doomed.contains_key(number));
        let Some(id) = self.kin.id(number).filter(|_| !below.is_empty()) else { return };
        self.doomed.extend(below.iter().map(|number| (*number, id)));
        for number in below.into_iter().rev() {
            if self.jobs.contains_key(&number) {
                self.cancel_doomed(number, now);
            }
        }
        self.cancel_more(now);
    }

    /// Cancels of what is doomed as much as the batch at hand has room for. Children first, so that what is above
    /// them is known until they are done.
    pub(crate) fn cancel_more(&mut self, now: Now) {
        while self.unwritten.withdrawn.len() < self.policy.bounds.withdrawn_at_once_max
            && let Some(number) = self.doomed.last_key_value().map(|(number, _)| *number)
        {
            self.cancel_doomed(number, now);
        }
    }

    fn cancel_doomed(&mut self, number: JobNumber, now: Now) {
        let Some(id) = self.doomed.remove(&number) else { return };
        let known = self.kin.known(number).expect("what is open below a job is known");
        let reason = format!("job {id}, which it is a part of, was cancelled");
        self.cancel_open(number, &known, None, &reason, now);
    }

    /// Cancels an open job, wherever it waits or runs, and what is open below it.
    pub(crate) fn cancel_open(
        &mut self,
        number: JobNumber,
        known: &Known,
        by: Option<&Asker>,
        reason: &str,
        now: Now,
    ) {
        self.doomed.remove(&number);
        if self.jobs.contains_key(&number) {
            self.stop_attempt(number, reason, now);
        }
        let leaf = self.record(&Record::Job(JobRecord {
            by: by.map(Asker::as_str),
            parent: known.parent.map(|parent| parent.id),
            reason: Some(begin(reason)),
            ..JobRecord::new("job_cancelled", known.id, now.wall)
        }));
        let row = match self.take_from_memory(number) {
            Some(row) => Some(row),
            None => self.unwritten.released.remove(&number),
        };
        if let Some(mut row) = row {
            row.leaves.push(leaf);
            (row.state, row.completed_at) = (JobState::Cancelled, Some(now.wall));
            (row.due_at, row.delay_ms) = (None, 0);
            row.error = Some(reason.to_owned());
            self.close(known.lane, row, now);
        } else {
            let (at, reason) = (now.wall, reason.to_owned());
            self.unwritten.withdrawn.insert(number, Withdrawn { number, leaf, at, reason });
            self.leave_lane(known.lane, number);
            self.forget_source(number, known.source);
            self.kin.closed(number, JobState::Cancelled);
            self.cancel_below(number, now);
        }
        self.drop_if_done(known.lane);
    }

    /// Lets a job wait until it is resumed.
    pub(crate) fn pause_job(&mut self, row: JobRow, by: &Asker, now: Now) -> Answer {
        Answer::Job(self.try_pause_job(row, by, now).map(Box::new))
    }

    fn try_pause_job(&mut self, row: JobRow, by: &Asker, now: Now) -> Result<JobRow, Refusal> {
        let row = self.present(row)?;
        let (number, lane_id) = (row.number, self.lane_of(&row));
        match row.state {
            JobState::Queued | JobState::Running => self.check_watcher(&row)?,
            JobState::Paused => return Err(conflict(format!("job {} is paused already", row.id))),
            state => {
                let reason = format!("job {} is {state}; nothing is left to pause", row.id);
                return Err(conflict(reason));
            }
        }
        if let Some(reason) = self.is_let_go(&row) {
            let reason = format!("job {} is let go, because {reason}", row.id);
            return Err(conflict(reason));
        }
        if self.jobs.contains_key(&number) {
            self.stop_attempt(number, &format!("paused by {by}"), now);
        }
        let was_running = row.state == JobState::Running;
        let mut row = self.take_from_memory(number).unwrap_or(row);
        if was_running {
            // When the attempt ended, by the clock by which the row tells how long it has been failing.
            (row.due_at, row.delay_ms) = (row.first_counted_at.map(|_| now.wall), 0);
        }
        row.state = JobState::Paused;
        row.leaves.push(self.record(&Record::Job(JobRecord {
            by: Some(by.as_str()),
            ..JobRecord::new("job_paused", row.id, now.wall)
        })));
        self.note_paused(lane_id, number);
        self.note_gone_from_lane(lane_id, number);
        self.unwritten.released.insert(number, row.clone());
        Ok(row)
    }

    /// Lets a paused job go on.
    pub(crate) fn resume_job(&mut self, row: JobRow, by: &Asker, now: Now) -> Answer {
        Answer::Job(self.try_resume_job(row, by, now).map(Box::new))
    }

    fn try_resume_job(&mut self, row: JobRow, by: &Asker, now: Now) -> Result<JobRow, Refusal> {
        let mut row = self.present(row)?;
        if row.state != JobState::Paused {
            return Err(conflict(format!("job {} is {}, not paused", row.id, row.state)));
        }
        self.check_watcher(&row)?;
        row.state = JobState::Queued;
        // What a hold of its watcher lets go is what waited then, not what somebody wants to go on.
        row.due_at.get_or_insert(now.wall);
        row.leaves.push(self.record(&Record::Job(JobRecord {
            by: Some(by.as_str()),
            ..JobRecord::new("job_resumed", row.id, now.wall)
        })));
        let lane_id = self.lane_of(&row);
        self.forget_paused(lane_id, row.number);
        self.wait_in_lane(lane_id, row.clone(), true, now);
        Ok(row)
    }

    /// An open job of the lane waits until somebody resumes it.
    pub(crate) fn note_paused(&mut self, lane_id: LaneId, number: JobNumber) {
        let lane = self.lanes.get_mut(&lane_id).expect("the lane of an open job is known");
        lane.paused += 1;
        let watcher = lane.key.watcher;
        self.paused.insert((watcher.is_none(), number), watcher);
    }

    /// If it did, it does no more.
    pub(crate) fn forget_paused(&mut self, lane_id: LaneId, number: JobNumber) {
        let lane = self.lanes.get_mut(&lane_id).expect("the lane of an open job is known");
        if self.paused.remove(&(lane.key.watcher.is_none(), number)).is_some() {
            lane.paused -= 1;
        }
    }

    /// Whether a job's watcher, if it has one, lets it be tried.
    pub(crate) fn check_watcher(&self, row: &JobRow) -> Result<(), Refusal> {
        let watcher = row.watcher.and_then(|number| self.watchers.get(&number));
        match watcher.filter(|watcher| watcher.row.state == WatcherState::Retired) {
            None => Ok(()),
            Some(watcher) => {
                let reason = format!(
                    "watcher {} of job {} is retired; declare it again first",
                    watcher.shown(),
                    row.id
                );
                Err(conflict(reason))
            }
        }
    }

    /// The row of a job, if it is in memory, which it leaves: where it waits it is no more.
    fn take_from_memory(&mut self, number: JobNumber) -> Option<JobRow> {
        if self.jobs.contains_key(&number) {
            self.unqueue(number);
        }
        let job = self.forget_job(number)?;
        self.unwritten.jobs.remove(&number);
        // There is room for one more.
        self.starved.extend(self.lanes[&job.lane].spill.map(|_| job.lane));
        Some(job.row)
    }

    /// A job does not wait in its lane any more: rows that are being read may still say that it does.
    pub(crate) fn note_gone_from_lane(&mut self, lane_id: LaneId, number: JobNumber) {
        let lane = self.lanes.get_mut(&lane_id).expect("the lane of an open job is known");
        if lane.loading.is_some() {
            lane.ended_meanwhile.insert(number);
        }
    }

    /// Ends the attempt under way of a job, if there is one, and sees to it that it is told to stop.
    fn stop_attempt(&mut self, number: JobNumber, reason: &str, now: Now) {
        let Phase::Running { incarnation, retry, left, .. } = self.jobs[&number].phase else {
            return;
        };
        self.budget_attempt_over(number, None);
        self.note_run_rests(number);
        self.reckon_age(number, now);
        let job = &self.jobs[&number];
        let (id, attempt, lane_id) = (job.row.id, job.row.attempts, job.lane);
        let plugin = job.row.plugin.clone().expect("what runs has a plugin");
        let watcher = job.row.watcher.and_then(|number| self.watchers.get(&number));
        let watcher = watcher.map_or_else(|| "".into(), |watcher| watcher.shown());
        let unanswered = Outcome::Lost { error: String::new() };
        self.late.remember(Over { number, id, attempt, incarnation }, &unanswered);
        let leaf = self.record(&Record::AttemptEnded(AttemptEnded {
            at: now.wall,
            attempt,
            counted: false,
            epoch: Some(self.policy.epoch),
            job: id,
            next_at: None,
            outcome: "stopped",
            reason: Some(begin(reason)),
            result_sha256: None,
            stamp_us: left.map(|left| left.0 / 1_000),
            r#type: "attempt_ended",
            watcher: &watcher,
        }));
        self.note_leaf(number, leaf);
        let lane = self.lanes.get_mut(&lane_id).expect("a job's lane lives as long as the job");
        lane.running -= 1;
        let handler = lane.bare.clone();
        self.probe_is_over(&plugin, &handler, number, false, now);
        let state = self.plugin_entry(&plugin);
        state.running.remove(&number);
        state.stopping.insert((number, attempt));
        let stopping = Stopping { plugin, incarnation, handler, retry, left };
        self.stopping.insert((number, attempt), stopping);
        self.to_stop.push(Effect::CancelAttempt { job: number, attempt });
    }

    /// An attempt ended that may have been told to stop: then its plugin has room for another.
    pub(crate) fn note_stopped(&mut self, number: JobNumber, attempt: u32, incarnation: u64) {
        let key = (number, attempt);
        if self.stopping.get(&key).is_some_and(|stopping| stopping.incarnation == incarnation) {
            self.forget_stopping(key);
        }
    }

    /// A plugin's process is gone, and what it was to stop with it.
    pub(crate) fn forget_all_stopping(&mut self, plugin: &PluginName) {
        let stopping = self.plugins.get(plugin).map(|state| state.stopping.clone());
        stopping.into_iter().flatten().for_each(|key| self.forget_stopping(key));
    }

    fn forget_stopping(&mut self, key: (JobNumber, u32)) {
        let Some(Stopping { plugin, handler, retry, .. }) = self.stopping.remove(&key) else {
            return;
        };
        let state = self.plugin_entry(&plugin);
        state.stopping.remove(&key);
        state.retries_running -= u32::from(retry);
        // Unless it runs again, which a suspect cannot before this.
        if state.suspect_running == Some(key.0) {
            state.suspect_running = None;
            state.others_left = state.slots;
        }
        self.to_pump.insert(plugin.clone());
        if self.breaker(&plugin, &handler).is_some_and(|breaker| breaker.open.is_some()) {
            self.breakers_to_call.insert((plugin, handler));
        }
    }
}
