//! What people do with a job that failed: try it again, or see to it that it is never tried again.
//!
//! Both are told the job's row as the store had it when the batch began. What the batch at hand made of
//! it since is known here and counts instead. A job that is not in memory and should wait may wait in
//! the table, like any other, when its lane or the memory has no room for it.

use axwatch_model::{JobNumber, JobRow, JobState, LeafNumber, Now, WatcherNumber, bounds};

use crate::event::{Answer, Effect, Refusal, RefusalKind};
use crate::kin::JobAbove;
use crate::lanes::delayed_at;
use crate::record::{JobRecord, Record};
use crate::settle::{begin, waits};
use crate::state::{Phase, State, Timer};

/// How the error of a discarded job begins.
const DISCARDED: &str = "discarded";

impl State {
    /// Tries a dead letter, or a job that waits for its retry, again now.
    pub(crate) fn redrive(&mut self, row: JobRow, above: &[JobAbove], now: Now) -> Answer {
        Answer::Job(self.try_redrive(row, above, now).map(Box::new))
    }

    fn try_redrive(
        &mut self,
        row: JobRow,
        above: &[JobAbove],
        now: Now,
    ) -> Result<JobRow, Refusal> {
        let number = row.number;
        if let Some(job) = self.jobs.get(&number) {
            let Phase::Delayed(_) = job.phase else {
                let doing = if job.row.state == JobState::Running {
                    "is running"
                } else {
                    "already waits for its turn"
                };
                return Err(conflict(format!("job {} {doing}", row.id)));
            };
            let leaf = self.record_by_hand("job_redriven", &self.jobs[&number].row.clone(), now);
            self.note_leaf(number, leaf);
            self.bring_forward(number, now);
            return Ok(self.jobs[&number].row.clone());
        }
        let row = self.present(row)?;
        self.check_may_wait(&row)?;
        self.check_source(&row)?;
        self.check_above(above)?;
        self.stand_above(above);
        Ok(self.queue_again(row, now))
    }

    /// Whether a job that is at its end may wait for another attempt.
    fn check_may_wait(&self, row: &JobRow) -> Result<(), Refusal> {
        self.check_watcher(row)?;
        match row.state {
            JobState::Failed | JobState::Cancelled => self.check_open_jobs(),
            JobState::Completed => Err(conflict(format!(
                "job {} is completed; a completed job is not run again",
                row.id
            ))),
            JobState::Paused => Err(conflict(format!(
                "job {} is paused; `axwatch jobs resume {}` lets it go on",
                row.id, row.id
            ))),
            _ => Err(conflict(format!("job {} already waits for its turn", row.id))),
        }
    }

    /// Puts a job that was at its end into its lane, as if it had never failed: in memory, or only in
    /// the table when there is no room.
    fn queue_again(&mut self, mut row: JobRow, now: Now) -> JobRow {
        row.state = JobState::Queued;
        (row.counted, row.uncounted) = (0, 0);
        (row.first_counted_at, row.completed_at, row.due_at, row.delay_ms) = (None, None, None, 0);
        row.leaves.push(self.record_by_hand("job_redriven", &row, now));
        if let Some(asked) = &mut row.asked {
            // It has been nowhere in the meantime, and stands behind those that have waited.
            asked.base_ms = self.queue_clock.now_ms(now.mono);
        }
        let lane_id = self.lane_of(&row);
        self.note_open((&row).into(), lane_id);
        self.wait_in_lane(lane_id, row.clone(), true, now);
        row
    }

    /// Makes a delayed retry due now.
    fn bring_forward(&mut self, number: JobNumber, now: Now) {
        let job = self.jobs.get_mut(&number).expect("only jobs in memory are delayed");
        job.phase = Phase::Delayed(now.mono);
        // Due since its last attempt ended, which tells how long it had been failing by then.
        (job.row.due_at, job.row.delay_ms) = (delayed_at(&job.row), 0);
        self.unwritten.jobs.insert(number);
        self.timers.insert((now.mono, Timer::Job(number)));
    }

    /// Sees to it that a dead letter, or a job that waits, is not tried again.
    pub(crate) fn discard(&mut self, row: JobRow, now: Now, effects: &mut Vec<Effect>) -> Answer {
        Answer::Job(self.try_discard(row, now, effects).map(Box::new))
    }

    fn try_discard(
        &mut self,
        row: JobRow,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> Result<JobRow, Refusal> {
        let row = self.present(row)?;
        let number = row.number;
        let was_in_memory = self.jobs.contains_key(&number);
        let ended = match row.state {
            JobState::Failed => true,
            JobState::Queued | JobState::Paused => false,
            JobState::Running => {
                let reason = format!(
                    "job {} is running; it can be discarded when its attempt has ended",
                    row.id
                );
                return Err(conflict(reason));
            }
            state => {
                return Err(conflict(format!(
                    "job {} is {state}; nothing is left to discard",
                    row.id
                )));
            }
        };
        let row = self.discarded(row, now);
        if was_in_memory {
            self.jobs.get_mut(&number).expect("looked up above").row = row.clone();
            self.unqueue(number);
            self.release(number, now, effects);
        } else if ended {
            self.unwritten.released.insert(number, row.clone());
            self.cancel_below(number, now);
        } else {
            let lane_id = self.lane_of(&row);
            self.close(lane_id, row.clone(), now);
            self.drop_if_done(lane_id);
        }
        Ok(row)
    }

    /// The job as it is once it has been discarded, which the audit is told of.
    fn discarded(&mut self, mut row: JobRow, now: Now) -> JobRow {
        row.leaves.push(self.record_by_hand("job_discarded", &row, now));
        row.state = JobState::Cancelled;
        row.completed_at.get_or_insert(now.wall);
        (row.due_at, row.delay_ms) = (None, 0);
        let error = match row.error {
            Some(error) if error.starts_with(DISCARDED) => error,
            Some(error) => format!("{DISCARDED}: {error}"),
            None => DISCARDED.to_owned(),
        };
        row.error = Some(bounds::cut(&error, bounds::ERROR_BYTES_MAX).to_owned());
        row
    }

    /// Takes a job that waits in memory out of wherever it waits.
    pub(crate) fn unqueue(&mut self, number: JobNumber) {
        let lane_id = self.jobs[&number].lane;
        let lane = self.lanes.get_mut(&lane_id).expect("a job's lane lives as long as the job");
        lane.first.retain(|place| place.number != number);
        lane.again.retain(|other| *other != number);
        lane.delayed.remove(&number);
        // Among the suspects of its plugin it is passed over, because it is no job any more.
    }

    /// The row of a job as the batch at hand leaves it, so far.
    pub(crate) fn present(&self, row: JobRow) -> Result<JobRow, Refusal> {
        let gone = || {
            let reason = format!("job {} has been withdrawn just now; look at it again", row.id);
            Err(conflict(reason))
        };
        if self.doomed.contains_key(&row.number) {
            return gone();
        }
        if let Some(job) = self.jobs.get(&row.number) {
            return Ok(job.row.clone());
        }
        if let Some(released) = self.unwritten.released.get(&row.number) {
            return Ok(released.clone());
        }
        if self.is_withdrawn(row.number, row.watcher, row.state) {
            return gone();
        }
        Ok(row)
    }

    /// Whether the batch at hand has cancelled a job of which only the table has the row, where it is in this
    /// state.
    pub(crate) fn is_withdrawn(
        &self,
        number: JobNumber,
        watcher: Option<WatcherNumber>,
        state: JobState,
    ) -> bool {
        let of_it = |(of, from, _): &(WatcherNumber, JobNumber, String)| {
            watcher == Some(*of) && number >= *from && waits(state)
        };
        self.unwritten.withdrawn.contains_key(&number) || self.unwritten.cancelled.iter().any(of_it)
    }

    fn record_by_hand(&mut self, kind: &'static str, row: &JobRow, now: Now) -> LeafNumber {
        self.record(&Record::Job(JobRecord {
            attempts: Some(row.attempts),
            reason: row.error.as_deref().filter(|_| kind == "job_discarded").map(begin),
            ..JobRecord::new(kind, row.id, now.wall)
        }))
    }
}

pub(crate) fn conflict(reason: String) -> Refusal {
    Refusal::new(RefusalKind::Conflict, reason)
}
