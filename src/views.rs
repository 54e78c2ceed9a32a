//! What is shown of things: the JSON of the API and of `--json`, in one place for both.
//!
//! Keys are stable, in snake case, and always all there; what is not known is null. `docs/cli.md`
//! lists them. A view is made from rows by `crate::answers`, or read from a server's answer.

use axwatch_engine::{Acked, Fires, WatcherView as WatcherRows};
use axwatch_model::{
    AttestationId, JobId, JobOrigin, JobState, Owner, Seq, Timestamp, WatcherKey, WatcherState,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A fire: a job that a watcher made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fire {
    /// Its id, the same on every attempt.
    pub job_id: JobId,
    /// The watcher as shown.
    pub watcher: String,
    /// The claim that it is about.
    pub attestation_id: Option<AttestationId>,
    /// The claim's number.
    pub seq: Option<Seq>,
    /// The handler as declared.
    pub handler: String,
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
}

/// Any job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Its id, the same on every attempt.
    pub job_id: JobId,
    /// What caused it.
    pub origin: JobOrigin,
    /// The watcher as shown.
    pub watcher: Option<String>,
    /// The watcher's revision when it fired.
    pub revision: Option<u64>,
    /// The claim that it is about.
    pub attestation_id: Option<AttestationId>,
    /// The claim's number.
    pub seq: Option<Seq>,
    /// The handler as declared.
    pub handler: String,
    /// The plugin that answers for it.
    pub plugin: Option<String>,
    /// Where it is on its way.
    pub state: JobState,
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
    /// What its attempts cost.
    pub cost: Option<f64>,
    /// What the last failed attempt said.
    pub error: Option<String>,
    /// What the successful attempt gave: JSON as it is, other text as text, other bytes as base64.
    pub result: Option<Box<RawValue>>,
}

/// How far an attempt said it came.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Progress {
    /// So far.
    pub current: i32,
    /// Of this.
    pub total: i32,
}

/// A watcher and what it has done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watcher {
    /// As shown: `{owner}-{local id}`.
    pub id: String,
    /// `user` or a plugin.
    pub owner: String,
    /// What it is doing.
    pub state: WatcherState,
    /// 1 for the first declaration, one more for each change.
    pub revision: u64,
    /// What it waits for: AX text, or the lists of a registration as JSON.
    pub when: String,
    /// Who acts, as declared.
    pub handlers: Vec<String>,
    /// Fires a second; null is no limit.
    pub max_fires_per_second: Option<u32>,
    /// Claims that its filter held for.
    pub matches: u64,
    /// Jobs made.
    pub fires: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// When it last fired.
    pub last_fired_at: Option<Timestamp>,
    /// Why it is broken, refused or waiting.
    pub error: Option<String>,
}

impl Watcher {
    /// The view of a watcher.
    pub fn of(view: &WatcherRows) -> Watcher {
        let row = &view.row;
        let nobody: Vec<&str> = row
            .handlers
            .iter()
            .filter(|handler| handler.plugin.is_none())
            .map(|handler| &*handler.declared)
            .collect();
        let waits = || format!("no running plugin answers for {}", nobody.join(", "));
        let waiting = row.state == WatcherState::WaitingForHandler && !nobody.is_empty();
        Watcher {
            id: row.key.to_string(),
            owner: row.key.owner.to_string(),
            state: row.state,
            revision: row.revision,
            when: row.declared.shown(),
            handlers: row.handlers.iter().map(|handler| handler.declared.to_string()).collect(),
            max_fires_per_second: row.max_fires_per_second,
            matches: view.counters.matches,
            fires: view.counters.fires,
            errors: view.counters.errors,
            last_fired_at: view.counters.last_fired_at,
            error: row.error.clone().or_else(|| waiting.then(waits)),
        }
    }
}

/// Whether `given` names this watcher: the shown id, or the local id of a user's.
pub fn names_watcher(given: &str, key: &WatcherKey) -> Named {
    if key.to_string() == given {
        Named::Shown
    } else if key.owner == Owner::User && key.local.as_str() == given {
        Named::Local
    } else {
        Named::No
    }
}

/// How a text names a watcher; a later one wins over an earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// Not at all.
    No,
    /// By the local id of a user's watcher.
    Local,
    /// By the shown id.
    Shown,
}

/// A plugin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plugin {
    /// Its configured name.
    pub name: String,
    /// `starting`, `ready`, `degraded`, `backing_off`, `failed` or `stopped`.
    pub state: String,
    /// What its Metadata said.
    pub version: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// What it answers for.
    pub handlers: Vec<String>,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// The answer to an append.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Appended {
    /// The claim's id.
    pub id: AttestationId,
    /// Its number.
    pub seq: Seq,
    /// What it caused.
    pub fires: FireCount,
}

/// How many fires an append caused: a number, or the text `deferred` when nobody has matched it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FireCount {
    /// So many.
    Now(u32),
    /// It will be matched later.
    Deferred(Deferred),
}

/// The text `deferred`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deferred {
    /// `deferred`.
    Deferred,
}

impl From<Fires> for FireCount {
    fn from(fires: Fires) -> FireCount {
        match fires {
            Fires::Now(fires) => FireCount::Now(fires),
            Fires::Deferred => FireCount::Deferred(Deferred::Deferred),
        }
    }
}

impl Appended {
    /// The answer for a claim that the engine took.
    pub fn of(id: AttestationId, acked: &Acked) -> Appended {
        Appended { id, seq: acked.seq, fires: acked.fires.into() }
    }
}

/// The answer to one line of a bulk append.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LineAnswer {
    /// It is in the log.
    Appended(Appended),
    /// It is not.
    Refused {
        /// Which line, from 1.
        line: u64,
        /// Why.
        error: String,
    },
}

/// The size of the audit and the hash over all of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditHead {
    /// Records in it.
    pub records: u64,
    /// `SIZE:HEX`, for `audit verify --head`.
    pub head: String,
    /// When the last record was written.
    pub at: Option<Timestamp>,
    /// The store.
    pub store_id: String,
}

/// One commit of the audit with all that is needed to recompute it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditRow {
    /// The number of its first record.
    pub first_leaf: u64,
    /// How many records.
    pub count: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// The records, one canonical JSON object a line.
    pub records: String,
    /// The nodes that they completed, in base64.
    pub nodes: String,
    /// The root after them, in base64.
    pub head: String,
}

/// Why a job ran, and what came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Why {
    /// The job.
    pub job: Job,
    /// The claim that it is about, with the keys of an attestation.
    pub attestation: Option<Box<RawValue>>,
    /// The watcher in the revision that was in force.
    pub watcher: Option<Revision>,
    /// Each attempt, in order.
    pub attempts: Vec<Attempt>,
    /// What else the audit says about the job (limited, redriven, dead-lettered …), as it says it.
    pub records: Vec<Box<RawValue>>,
    /// The claims made on its behalf, with the keys of an attestation.
    pub made: Vec<Box<RawValue>>,
}

/// A watcher's declaration as the audit has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Revision {
    /// The watcher as shown.
    pub id: String,
    /// Which revision.
    pub revision: u64,
    /// Which generation.
    pub generation: u32,
    /// What it waited for.
    pub when: Option<String>,
    /// Who acted.
    pub handlers: Vec<String>,
    /// Fires a second; null is no limit.
    pub max_fires_per_second: Option<u32>,
    /// When the revision was declared.
    pub declared_at: Option<Timestamp>,
    /// The number of the record that says so; null when the audit's row was not found.
    pub leaf: Option<u64>,
}

/// One attempt as the audit has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    /// Which, from 1.
    pub attempt: u32,
    /// The plugin that had it.
    pub plugin: Option<String>,
    /// Which of the plugin's processes.
    pub incarnation: Option<u64>,
    /// The engine's epoch in which it started.
    pub epoch: Option<u64>,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended; null while it is under way.
    pub ended_at: Option<Timestamp>,
    /// `succeeded`, `failed`, `not_now` or `unknown`; null while it is under way.
    pub outcome: Option<String>,
    /// What the plugin said, or what was seen.
    pub reason: Option<String>,
    /// When the next attempt may start.
    pub next_at: Option<Timestamp>,
    /// The number of the record of its end.
    pub leaf: Option<u64>,
}

/// How a server is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Where it listens.
    pub http: String,
    /// The store's file.
    pub store: String,
    /// The store.
    pub store_id: String,
    /// How often the store has been opened for writing.
    pub epoch: u64,
    /// The last claim's number.
    pub head: Seq,
    /// How far claims have been matched.
    pub matched: Seq,
    /// The last job's number.
    pub jobs: u64,
    /// Records in the audit.
    pub audit: u64,
    /// Commits since the start.
    pub commits: u64,
    /// What an acknowledged claim survives: `power`.
    pub durability: String,
    /// Since when it runs.
    pub started_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_answers_with_a_number_or_a_text() {
        let answer = |fires| Appended { id: "AS-1".parse().unwrap(), seq: Seq(7), fires };
        let now = serde_json::to_string(&answer(FireCount::Now(2))).unwrap();
        assert_eq!(now, r#"{"id":"AS-1","seq":7,"fires":2}"#);
        let later = answer(FireCount::Deferred(Deferred::Deferred));
        let later = serde_json::to_string(&LineAnswer::Appended(later)).unwrap();
        assert_eq!(later, r#"{"id":"AS-1","seq":7,"fires":"deferred"}"#);
        let refused = LineAnswer::Refused { line: 3, error: "no".into() };
        assert_eq!(serde_json::to_string(&refused).unwrap(), r#"{"line":3,"error":"no"}"#);
    }

    #[test]
    fn a_users_watcher_may_be_named_by_its_local_id() {
        let key = |owner: &str| WatcherKey {
            owner: owner.parse().unwrap(),
            local: "deploys".parse().unwrap(),
        };
        let cases = [
            ("user-deploys", key("user"), Named::Shown),
            ("deploys", key("user"), Named::Local),
            ("git-deploys", key("git"), Named::Shown),
            ("deploys", key("git"), Named::No),
            ("deploy", key("user"), Named::No),
        ];
        for (given, key, expected) in cases {
            assert_eq!(names_watcher(given, &key), expected, "{given} {key}");
        }
    }
}
