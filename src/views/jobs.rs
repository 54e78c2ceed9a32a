//! Jobs: what is known of one, those around it, and what is told of it while it runs.

use axwatch_model::{AttestationId, JobEntryRow, JobId, JobOrigin, JobState, Seq, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Waits;

/// Any job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Its id, the same on every attempt.
    pub job_id: JobId,
    /// What caused it.
    pub origin: JobOrigin,
    /// Who asked for it: `user`, `schedule`, or a plugin; null of a fire.
    pub by: Option<String>,
    /// Whose it is: `user` or a plugin; null of a fire.
    pub owner: Option<String>,
    /// The watcher as shown.
    pub watcher: Option<String>,
    /// The watcher's revision when it fired.
    pub revision: Option<u64>,
    /// The watcher's generation when it fired: a replay has one of its own.
    pub generation: Option<u32>,
    /// The claim that it is about.
    pub attestation_id: Option<AttestationId>,
    /// The claim's number.
    pub seq: Option<Seq>,
    /// The schedule that it is a run of, as shown.
    pub schedule: Option<String>,
    /// The time on that one's grid; null of one that somebody ran by hand.
    pub nominal: Option<Timestamp>,
    /// The job that it is a part of.
    pub parent: Option<JobId>,
    /// What its asker knows it by.
    pub source: Option<String>,
    /// From -10 to 10, the higher the sooner; null of a fire.
    pub priority: Option<i8>,
    /// The handler as declared.
    pub handler: String,
    /// The plugin that answers for it.
    pub plugin: Option<String>,
    /// The versions that its last attempts ran; null in lists, and of a handler that is not stored.
    pub handler_versions: Option<Vec<RanVersion>>,
    /// Where it is on its way.
    pub state: JobState,
    /// Jobs of its lane that come before it; null of one that does not wait, and where nobody counted.
    pub ahead: Option<u64>,
    /// Attempts begun.
    pub attempts: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it may run next, if that is not at once.
    pub due_at: Option<Timestamp>,
    /// When it came to an end.
    pub completed_at: Option<Timestamp>,
    /// How far it came.
    pub progress: Option<Progress>,
    /// What it may cost, as its asker said.
    pub cost_estimate: Option<f64>,
    /// What its attempts cost.
    pub cost: Option<f64>,
    /// Log entries that are kept of it.
    pub entries: u32,
    /// What the last failed attempt said.
    pub error: Option<String>,
    /// What errors that mean the same have in common with this one.
    pub fingerprint: Option<String>,
    /// What the successful attempt gave: JSON as it is, other text as text, other bytes as base64.
    pub result: Option<Box<RawValue>>,
    /// What it is a part of and what is a part of it; null in lists, and of one that stands alone.
    pub tree: Option<Tree>,
    /// Its log entries; null in lists.
    pub log: Option<Vec<JobLog>>,
    /// What it waits for; null in lists, of one that does not wait, and without a server.
    pub waits: Option<Waits>,
    /// Only in the answer to whoever asked for it: whether it was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deduplicated: Option<bool>,
    /// Only in the answer to whoever did something with it: what is below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub below: Option<Below>,
}

/// The version of a stored handler that an attempt ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RanVersion {
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The claim that has its code.
    pub version: AttestationId,
    /// Which of the versions of the handler that is.
    pub number: Option<u64>,
}

/// How far an attempt said it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// So far.
    pub current: i32,
    /// Of this.
    pub total: i32,
}

impl Progress {
    /// What of it is done, in whole percents; `None` where nobody said of how much.
    pub fn percent(self) -> Option<u8> {
        let of = i64::from(self.total);
        let done = || (i64::from(self.current) * 100 / of).clamp(0, 100);
        (of > 0).then(|| u8::try_from(done()).unwrap_or(100))
    }
}

/// A job with all that it is a part of, and what is a part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    /// The jobs, each after the one that it is a part of: the topmost first.
    pub jobs: Vec<TreeJob>,
    /// Jobs that were left out because there are too many.
    pub left_out: u64,
}

/// One job of a [`Tree`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeJob {
    /// Its id.
    pub job_id: JobId,
    /// Steps from the topmost.
    pub depth: u32,
    /// It is the one that was asked about.
    pub is_asked: bool,
    /// The handler.
    pub handler: String,
    /// Where it is on its way.
    pub state: JobState,
    /// How far it came.
    pub progress: Option<Progress>,
    /// What its attempts cost.
    pub cost: Option<f64>,
}

/// The jobs below one with which something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    /// Those that were cancelled with it, by this request.
    pub cancelled: u64,
    /// Those that are open.
    pub open: u64,
    /// There may be more of either: only so many were looked at.
    pub at_least: bool,
}

/// Something that an attempt had to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLog {
    /// Which entry of the job, from 1.
    pub number: u32,
    /// When it happened, as the plugin says.
    pub at: Timestamp,
    /// Which attempt.
    pub attempt: u32,
    /// How grave it is, in the plugin's words.
    pub level: String,
    /// What the plugin was doing.
    pub stage: String,
    /// What it says.
    pub message: String,
    /// What it says besides, as the plugin gave it.
    pub metadata: Option<String>,
}

impl From<JobEntryRow> for JobLog {
    fn from(row: JobEntryRow) -> JobLog {
        JobLog {
            number: row.number,
            at: row.at,
            attempt: row.attempt,
            level: row.level.to_string(),
            stage: row.stage.to_string(),
            message: row.message.to_string(),
            metadata: row.metadata.map(|text| text.to_string()),
        }
    }
}

/// How far the attempt under way is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct JobProgress {
    /// When that was told; null where it was told before anybody listened.
    pub at: Option<Timestamp>,
    /// Which attempt.
    pub attempt: u32,
    /// So far; null while nothing was said.
    pub current: Option<i32>,
    /// Of this; 0 where nobody said of how much.
    pub total: Option<i32>,
    /// What all attempts cost so far.
    pub cost: Option<f64>,
    /// How much of it is done in a second, of late.
    pub rate_per_second: Option<f64>,
    /// How long the rest takes at this rate.
    pub left_seconds: Option<f64>,
}

impl JobProgress {
    /// How far that is.
    pub fn progress(&self) -> Option<Progress> {
        Some(Progress { current: self.current?, total: self.total? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_of_what_there_is() {
        let percent = |current, total| Progress { current, total }.percent();
        let cases = [
            ((0, 10), Some(0)),
            ((5, 10), Some(50)),
            ((999, 1_000), Some(99)),
            ((10, 10), Some(100)),
            ((20, 10), Some(100)),
            ((i32::MAX, i32::MAX), Some(100)),
            ((3, 0), None),
        ];
        for ((current, total), expected) in cases {
            assert_eq!(percent(current, total), expected, "{current} of {total}");
        }
    }
}
