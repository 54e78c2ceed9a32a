//! What an attempt tells while it runs: how far it is, what it has cost, and what it has to say.
//!
//! Only the attempt under way is listened to. What it tells is written with the batch, and answered once that is
//! on the disk: what was answered, its cost above all, is known after a crash too. Whoever follows the
//! job hears of it then. Of its log as many entries are kept as one job may have.
//!
//! Not here: for how much longer an attempt may run that tells something (the dispatcher).

use axwatch_model::{JobEntryRow, JobNumber, JobRow, Now, amount_of_nanos, bounds};

use crate::event::{Effect, JobEntry, Progressed, Report};
use crate::state::{Phase, State};

/// Bytes of an entry's level, stage and message that are kept.
const LEVEL_BYTES_MAX: usize = 32;
const STAGE_BYTES_MAX: usize = 256;
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// An entry's metadata is left out when it is longer.
const METADATA_BYTES_MAX: usize = 64 * 1024;
/// What the last entry of a job says that had more.
const NO_MORE: &str =
    "this job has said as much as is kept of one; what it says from here on is not";

impl State {
    /// The attempt under way tells something, which its job's row says with the batch. Of any other nothing is heard,
    /// and the answer says so.
    pub(crate) fn take_report(
        &mut self,
        report: Report,
        now: Now,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Report { job: number, attempt, incarnation, progress, cost, entries } = report;
        // Of whom is not said, and it may be the worker of an earlier attempt, which goes on.
        let is_doubtful = attempt.is_none() && self.late.is_unanswered(number, incarnation);
        let Some(job) = self.jobs.get_mut(&number) else { return false };
        let Phase::Running { incarnation: current, .. } = job.phase else { return false };
        let is_another = attempt.is_some_and(|attempt| attempt != job.row.attempts);
        if current != incarnation || is_another || is_doubtful {
            return false;
        }
        let progress = progress.map(not_negative);
        let (before, _) = job.row.progress.unwrap_or_default();
        let moved = progress.is_some_and(|(done, _)| done != before);
        job.row.progress = progress.or(job.row.progress);
        self.unwritten.jobs.insert(number);
        if let Some(cost) = cost.filter(is_amount) {
            self.set_cost(number, cost);
        }
        let entries = self.keep_entries(number, entries, now);
        let JobRow { id, attempts: attempt, progress, cost, .. } = self.jobs[&number].row;
        let told = Progressed { job: number, id, attempt, progress, moved, cost, entries };
        effects.push(Effect::Progressed(Box::new(told)));
        true
    }

    /// What the attempt under way has cost is this from here on.
    pub(crate) fn set_cost(&mut self, number: JobNumber, of_attempt: f64) {
        let job = self.jobs.get_mut(&number).expect("looked up by the caller");
        // What cannot be counted is as much as can be.
        let after = job.cost_before.unwrap_or(0.0) + of_attempt;
        let after = Some(after.min(amount_of_nanos(i64::MAX)));
        let before = std::mem::replace(&mut job.row.cost, after);
        self.charge(number, before, after);
    }

    /// Keeps log entries of the current attempt of a job, as many as there is room for. Gives those.
    pub(crate) fn keep_entries(
        &mut self,
        number: JobNumber,
        entries: Vec<JobEntry>,
        now: Now,
    ) -> Vec<JobEntryRow> {
        let row = &mut self.jobs.get_mut(&number).expect("looked up by the caller").row;
        let mut kept = Vec::new();
        for entry in entries {
            if row.entries > bounds::ENTRIES_MAX || row.entries_bytes > BYTES_MAX {
                break;
            }
            let mut entry = bounded(entry, now);
            let bytes = u32::try_from(bytes_of(&entry)).unwrap_or(u32::MAX);
            let all = row.entries_bytes.saturating_add(bytes);
            if row.entries == bounds::ENTRIES_MAX || all > BYTES_MAX {
                entry = last_entry(now);
                row.entries_bytes = BYTES_MAX + 1;
            } else {
                row.entries_bytes = all;
            }
            row.entries += 1;
            let (job, number, attempt) = (row.number, row.entries, row.attempts);
            kept.push(JobEntryRow { job, number, attempt, ..entry });
        }
        if !kept.is_empty() {
            self.unwritten.jobs.insert(number);
            self.unwritten.entries.extend(kept.iter().cloned());
        }
        kept
    }
}

const BYTES_MAX: u32 = bounds::ENTRIES_BYTES_MAX as u32;

fn not_negative((done, total): (i32, i32)) -> (i32, i32) {
    (done.max(0), total.max(0))
}

/// Whether somebody can have spent that.
pub(crate) fn is_amount(cost: &f64) -> bool {
    cost.is_finite() && *cost >= 0.0
}

/// An entry as it is kept. Whose it is and which one is the caller's to say.
fn bounded(entry: JobEntry, now: Now) -> JobEntryRow {
    let JobEntry { at, level, stage, message, metadata } = entry;
    JobEntryRow {
        at: at.unwrap_or(now.wall),
        level: bounds::cut(&level, LEVEL_BYTES_MAX).into(),
        stage: bounds::cut(&stage, STAGE_BYTES_MAX).into(),
        message: bounds::cut(&message, MESSAGE_BYTES_MAX).into(),
        metadata: metadata.filter(|text| text.len() <= METADATA_BYTES_MAX).map(Into::into),
        ..nothing(now)
    }
}

fn last_entry(now: Now) -> JobEntryRow {
    JobEntryRow { level: "warn".into(), message: NO_MORE.into(), ..nothing(now) }
}

fn nothing(now: Now) -> JobEntryRow {
    JobEntryRow {
        job: JobNumber(0),
        number: 0,
        at: now.wall,
        attempt: 0,
        level: "".into(),
        stage: "".into(),
        message: "".into(),
        metadata: None,
    }
}

fn bytes_of(entry: &JobEntryRow) -> usize {
    let metadata = entry.metadata.as_ref().map_or(0, |metadata| metadata.len());
    entry.level.len() + entry.stage.len() + entry.message.len() + metadata
}
