//! A watcher's text tried on history: what is asked, and the lines of the answer.

use std::borrow::Cow;

use axwatch_model::{AttestationId, Seq, Timestamp};
use serde::{Deserialize, Serialize};

use super::Condition;

/// What is tried, and on what.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What a watcher would wait for, and with `so` whom it would run.
    pub query: String,
    /// From which claim on: a number, `start`, or a time; null is the start.
    #[serde(default)]
    pub since: Option<String>,
    /// Only these claims, and for each every condition; none means all claims.
    #[serde(default)]
    pub on: Vec<AttestationId>,
    /// Fires a second at most; 0 is no limit.
    #[serde(default)]
    pub max_fires_per_second: i64,
    /// The watcher whose present declaration stands beside the text.
    #[serde(default)]
    pub compare: Option<String>,
    /// How many lines at most; null is all of them. All are counted.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Whether to say on the way how far it is.
    #[serde(default)]
    pub progress: bool,
}

/// A claim for which the text would have fired, or that it would lose.
#[derive(Debug, Serialize, Deserialize)]
pub struct TrialMatch<'a> {
    /// The claim's number.
    pub seq: Seq,
    /// The claim.
    pub id: AttestationId,
    /// When it was appended, which is when it fires.
    pub fires_at: Timestamp,
    /// Whom it is about.
    pub subjects: Cow<'a, [String]>,
    /// What it claims.
    pub predicates: Cow<'a, [String]>,
    /// In which context.
    pub contexts: Cow<'a, [String]>,
    /// Who claims it.
    pub actors: Cow<'a, [String]>,
    /// When it was claimed.
    pub timestamp: Timestamp,
    /// Beside another watcher: what becomes of it. null without one.
    pub change: Option<Change>,
    /// What the limit does to each of its fires, in their order. null without a limit, and when it is lost.
    pub starts: Option<Vec<TrialStart>>,
}

/// What becomes of a claim when a watcher's text is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It fires, and did not.
    Gained,
    /// It fired, and does not any more.
    Lost,
}

/// What the limit does to one fire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialStart {
    /// Whom it runs; null when the text names nobody.
    pub handler: Option<String>,
    /// When its attempt starts.
    pub starts_at: Timestamp,
    /// How long it waits for that.
    pub waits_ms: u64,
}

/// The last line of a trial.
#[derive(Debug, Serialize, Deserialize)]
pub struct TrialEnd {
    /// What came of it.
    pub summary: TrialSummary,
}

/// What came of a trial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialSummary {
    /// Claims that were read.
    pub claims: u64,
    /// The first of them.
    pub first_seq: Option<Seq>,
    /// When it was appended.
    pub first_at: Option<Timestamp>,
    /// The last of them.
    pub last_seq: Option<Seq>,
    /// When it was appended.
    pub last_at: Option<Timestamp>,
    /// Those that the text holds for.
    pub matches: u64,
    /// A match is a fire for each handler, or one when the text names none.
    pub fires: u64,
    /// The handlers that the text names.
    pub handlers: Vec<String>,
    /// When the first match fires.
    pub first_fires_at: Option<Timestamp>,
    /// When the last match fires.
    pub last_fires_at: Option<Timestamp>,
    /// The second with the most fires.
    pub busiest_second: Option<BusiestSecond>,
    /// What the limit does.
    pub limit: Option<TrialLimit>,
    /// What the change does.
    pub compare: Option<TrialCompare>,
    /// Lines before this one.
    pub shown: u64,
}

/// A second with many fires, wherever it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusiestSecond {
    /// When it begins.
    pub at: Timestamp,
    /// How many there are within it.
    pub fires: u64,
}

/// What a limit does to the fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialLimit {
    /// The limit.
    pub max_fires_per_second: u32,
    /// How many have to wait.
    pub waited: u64,
    /// The longest that one waits.
    pub longest_wait_ms: u64,
    /// The most that wait at once.
    pub longest_queue: u64,
    /// When the last of them starts.
    pub last_starts_at: Option<Timestamp>,
}

/// What a changed text gains and loses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialCompare {
    /// The watcher as shown.
    pub watcher: String,
    /// Its present revision.
    pub revision: u64,
    /// What that waits for.
    pub when: String,
    /// Claims that only the new text holds for.
    pub gained: u64,
    /// Claims that only the watcher's holds for.
    pub lost: u64,
    /// Claims that both hold for.
    pub both: u64,
}

/// How far a trial is.
#[derive(Debug, Serialize, Deserialize)]
pub struct TrialProgress {
    /// How far.
    pub progress: Reached,
}

/// Claims that were read.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Reached {
    /// So far.
    pub claims: u64,
    /// Of so many.
    pub of: u64,
}

/// What the text says of one claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrialVerdict {
    /// The claim.
    pub id: AttestationId,
    /// Its number; null when it is not in the store.
    pub seq: Option<Seq>,
    /// Whether the text would have fired for it; null when it is not in the store.
    pub fires: Option<bool>,
    /// Every condition, in the order of the grammar; it fires if all hold.
    pub conditions: Vec<Condition>,
    /// What the other watcher's present declaration says of it; null without one.
    pub compare: Option<Beside>,
}

impl TrialVerdict {
    /// That of a claim which is not in the store.
    pub fn missing(id: AttestationId) -> TrialVerdict {
        TrialVerdict { id, seq: None, fires: None, conditions: Vec::new(), compare: None }
    }
}

/// What a watcher's present declaration says of one claim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Beside {
    /// The watcher as shown.
    pub watcher: String,
    /// Whether it holds for the claim.
    pub fires: bool,
    /// Every condition, in the order of the grammar.
    pub conditions: Vec<Condition>,
}
