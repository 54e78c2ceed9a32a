//! Dead letters: which are meant, what they have in common, and what became of them.

use axwatch_model::{JobId, Timestamp};
use serde::{Deserialize, Serialize};

/// Which jobs are meant: those that are named, or the dead letters for which all of the rest holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// These jobs, each by its id or as much of it as no other begins with.
    pub jobs: Vec<String>,
    /// Only of this watcher.
    pub watcher: Option<String>,
    /// Only of this handler: as declared, or its bare name.
    pub handler: Option<String>,
    /// Only those whose error holds this text, in any case.
    pub error: Option<String>,
    /// Only those whose error has the fingerprint of this job's.
    pub like: Option<String>,
    /// Only those that were given up before this: a time, or how long ago.
    pub older_than: Option<String>,
    /// Only those that were given up since this: a time, or how long ago.
    pub newer_than: Option<String>,
    /// All dead letters, where nothing else is said.
    pub all: bool,
    /// Only those that were given up by then: what a preview counted, and nothing that came after it.
    pub until: Option<Timestamp>,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Whether to say on the way how far it is.
    pub progress: bool,
}

/// What is done with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// They are tried again, under their ids.
    Retry,
    /// They are let go: kept, and no dead letters any more.
    Discard,
}

/// Dead letters and what they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadSummary {
    /// How many there are.
    pub jobs: u64,
    /// By what their errors have in common, the largest first.
    pub groups: Vec<DeadGroup>,
    /// Groups that are not listed, as far as they were told apart.
    pub more_groups: u64,
    /// Jobs that are in none of those that are listed.
    pub more_jobs: u64,
    /// When they were looked at.
    pub at: Option<Timestamp>,
}

/// Dead letters whose errors have one fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadGroup {
    /// What their errors have in common; null of those without an error.
    pub fingerprint: Option<String>,
    /// How many there are.
    pub jobs: u64,
    /// The newest of them.
    pub example: JobId,
    /// What it said.
    pub error: Option<String>,
    /// Its watcher as shown.
    pub watcher: Option<String>,
    /// Its handler as declared.
    pub handler: String,
    /// When the first of them was given up.
    pub oldest_at: Option<Timestamp>,
    /// When the last of them was given up.
    pub newest_at: Option<Timestamp>,
}

/// The last line of a list of dead letters.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeadEnd {
    /// All that were asked for, also those that are not listed.
    pub summary: DeadSummary,
}

/// What would be done.
#[derive(Debug, Serialize, Deserialize)]
pub struct PreviewEnd {
    /// To whom.
    pub preview: DeadSummary,
}

/// How far the work on dead letters is.
#[derive(Debug, Serialize, Deserialize)]
pub struct WorkProgress {
    /// How far.
    pub progress: Worked,
}

/// Jobs that have been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worked {
    /// So far.
    pub jobs: u64,
}

/// The last line of the work on dead letters.
#[derive(Debug, Serialize, Deserialize)]
pub struct OutcomeEnd {
    /// What became of them.
    pub outcome: Outcome,
}

/// What became of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was done with them.
    pub action: Action,
    /// With how many.
    pub done: u64,
    /// With how many it was not.
    pub skipped: u64,
    /// Why, the most frequent first.
    pub reasons: Vec<Skipped>,
}

/// Why some jobs were left as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// What the reasons have in common.
    pub reason: String,
    /// How many jobs.
    pub jobs: u64,
    /// One of them.
    pub example: JobId,
    /// What was said of it.
    pub message: String,
}
