//! Why a watcher did not fire for a claim, and which watchers came nearest to one.

use axwatch_model::{AttestationId, JobId, JobState, Seq, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Condition, Waits};

/// Watchers that are told of a claim when nobody says how many.
pub const NEAREST_DEFAULT: usize = 10;
/// Watchers that are told of a claim at most.
pub const NEAREST_MAX: usize = 1_000;

/// Why a watcher did not fire for a claim, or that it did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WhyNot {
    /// The watcher as shown.
    pub watcher: String,
    /// The claim.
    pub attestation_id: AttestationId,
    /// The claim's number.
    pub seq: Seq,
    /// In one word.
    pub verdict: Verdict,
    /// In one sentence.
    pub summary: String,
    /// The revision that was in force at the claim; null when none was.
    pub revision: Option<u64>,
    /// What that revision waited for.
    pub when: Option<String>,
    /// Its conditions, in the order of the grammar; it matches if all of them held.
    pub conditions: Vec<Condition>,
    /// What else there is to know: why a filter that holds did not fire, what a job waits for.
    pub reasons: Vec<Reason>,
    /// The jobs that it made for the claim, the oldest first.
    pub jobs: Vec<FiredJob>,
    /// What the watcher would say of the claim as it is declared now; null when that is the same
    /// declaration, or none stands.
    pub present: Option<Present>,
}

/// What became of a watcher and a claim, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It fired.
    Fired,
    /// A condition did not hold.
    DoesNotMatch,
    /// The conditions hold, and matching has not come to the claim yet.
    NotYetMatched,
    /// The conditions hold, and the watcher, which catches up, has not come to the claim yet.
    CatchingUp,
    /// The same, and it rests until open jobs of it are done.
    Backpressured,
    /// The conditions hold, and what it made was let go, because the watcher was held.
    LetGo,
    /// The conditions hold, and the claim's chain of causes had the watcher too often, or was too long.
    LoopStopped,
    /// The claim was there before the watcher.
    RegisteredLater,
    /// The watcher was gone before the claim.
    Retired,
    /// Its declaration was refused, and it has no other.
    Refused,
    /// It was declared to fire never.
    Muted,
    /// Its text is no AX to this axwatch.
    Broken,
    /// The conditions hold, and nobody knows why there was no fire.
    Unexplained,
}

/// One thing to know beside the conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// A stable name for programs: a verdict, or what a job waits for.
    pub kind: String,
    /// The same for people.
    pub message: String,
}

/// A job that a watcher made for a claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FiredJob {
    /// Its id, the same on every attempt.
    pub job_id: JobId,
    /// The handler as declared.
    pub handler: String,
    /// The watcher's revision when it fired.
    pub revision: u64,
    /// The watcher's generation when it fired.
    pub generation: u32,
    /// Where it is on its way.
    pub state: JobState,
    /// Attempts begun.
    pub attempts: u32,
    /// When it fired.
    pub created_at: Timestamp,
    /// When it came to an end.
    pub completed_at: Option<Timestamp>,
    /// What the last failed attempt said.
    pub error: Option<String>,
    /// What it waits for, when it does; only a server knows.
    pub waits: Option<Waits>,
}

/// What a watcher would say of a claim as it is declared now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Present {
    /// Its revision now.
    pub revision: u64,
    /// What it waits for now.
    pub when: String,
    /// Whether that holds for the claim; null when its text is no AX to this axwatch.
    pub matches: Option<bool>,
    /// Its conditions, in the order of the grammar.
    pub conditions: Vec<Condition>,
}

/// Which watchers fired for a claim, and which came nearest to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Nearest {
    /// The claim.
    pub attestation_id: AttestationId,
    /// The claim's number.
    pub seq: Seq,
    /// In one sentence.
    pub summary: String,
    /// How many watchers were asked.
    pub watchers: u64,
    /// How many of them fired.
    pub fired: u64,
    /// Those that fired, by id; at most as many as were asked for.
    pub fired_watchers: Vec<String>,
    /// How many hold for it, or cannot be asked, and did not fire for another reason.
    pub held_back: u64,
    /// Those, by id; at most as many as were asked for.
    pub held_back_watchers: Vec<HeldBack>,
    /// Those that did not match, the nearest first; at most as many as were asked for.
    pub nearest: Vec<Near>,
}

/// A watcher that did not fire for a reason beyond its filter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeldBack {
    /// The watcher as shown.
    pub watcher: String,
    /// In one word.
    pub verdict: Verdict,
    /// For people.
    pub message: String,
}

/// A watcher that did not match a claim, and nearly did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Near {
    /// The watcher as shown.
    pub watcher: String,
    /// The revision that was in force at the claim.
    pub revision: u64,
    /// What it waited for.
    pub when: String,
    /// How many of its conditions did not hold.
    pub failed: usize,
    /// How many held.
    pub held: usize,
    /// The first that did not hold.
    pub condition: Condition,
    /// The same for people.
    pub message: String,
}
