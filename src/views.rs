//! What is shown of things: the JSON of the API and of `--json`, in one place for both.
//!
//! Keys are stable, in snake case, and always all there; what is not known is null. `docs/cli.md`
//! lists them. A view is made from rows by `crate::answers`, or read from a server's answer.

mod aliases;
mod backup;
mod budgets;
mod dead;
mod handlers;
mod jobs;
mod matching;
mod plugins;
mod schedules;
mod trace;
mod trial;
mod upkeep;
mod watchers;
mod why_not;

use axwatch_engine::{Acked, Fires};
use axwatch_model::{
    AttestationId, JobId, JobState, Owner, Seq, Timestamp, WatcherKey, WatcherState,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use aliases::{AliasChanged, AliasClass};
pub use backup::{Backup, BackupLine, BackupProgress, Held, Restored};
pub use budgets::{Budget, LIMIT_MAX, Part, has_limit, is_limit};
pub use dead::{
    Action, DeadEnd, DeadGroup, DeadSummary, Outcome, OutcomeEnd, PreviewEnd, Selection, Skipped,
    WorkProgress, Worked,
};
pub use handlers::{
    CODE_BYTES_MAX, CodeMistake, Declares, Handler, HandlerOutcome, HandlerRemoved, HandlerState,
    HandlerStored, HandlerTestEnd, HandlerTestSummary, HandlerTested, HandlerTrial, HandlerVersion,
    ShownHandler, TESTED_DEFAULT, TESTED_MAX, TestCall, VersionState, WaitingJobs,
};
pub use jobs::{Below, Job, JobLog, JobProgress, Progress, RanVersion, Tree, TreeJob};
pub use matching::{DearWatcher, Matching};
pub use plugins::{Plugin, PluginRoute, PluginRoutes, Plugins, ShownPlugin};
pub use schedules::{NextTimes, Schedule, ScheduleCounts, ScheduleRun, shown_name};
pub use trace::{
    LoopStop, TRACE_DEPTH_DEFAULT, TRACE_DEPTH_MAX, TRACE_LIMIT_DEFAULT, TRACE_LIMIT_MAX, Trace,
    TraceKind, TraceLineage, TraceNode,
};
pub use trial::{
    Beside, BusiestSecond, Change, Reached, Trial, TrialCompare, TrialEnd, TrialLimit, TrialMatch,
    TrialProgress, TrialStart, TrialSummary, TrialVerdict,
};
pub use upkeep::{Health, Retained};
pub use watchers::{
    DeclaredWatcher, Pass, PassKind, PastHold, Position, ReplayPreview, ShownWatcher, Watcher,
    when_in_words,
};
pub use why_not::{
    FiredJob, HeldBack, NEAREST_DEFAULT, NEAREST_MAX, Near, Nearest, Present, Reason, Verdict,
    WhyNot,
};

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

/// A line of a plugin's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it came.
    pub at: Timestamp,
    /// `error`, `warn`, `info` or `debug`.
    pub level: String,
    /// `stdout`, `stderr`, `job` or `host`.
    pub stream: String,
    /// What it says.
    pub message: String,
    /// The job whose answer brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
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

/// How many claims a question finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// So many.
    pub count: u64,
}

/// How a question was understood and answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Explained {
    /// The question as AX prints it.
    pub query: String,
    /// The now of its times.
    pub asked_at: Timestamp,
    /// All that has to hold for a claim.
    pub conditions: Vec<Asked>,
    /// How long the subjects of what matches must have lasted in all.
    pub over: Option<String>,
    /// The dimensions whose terms the store looked up, the rarest first; empty: it read the log itself.
    pub postings: Vec<Walked>,
    /// Claims that were read to answer it.
    pub rows_read: u64,
    /// Those of them for which all conditions held.
    pub rows_matched: u64,
    /// Those of these that are the answer: fewer under `over`.
    pub rows_found: u64,
    /// Whether the log was looked at to its beginning; else the limit was reached before.
    pub is_whole: bool,
    /// How long it took.
    pub took_ms: f64,
}

/// One condition of a question.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// `subject`, `predicate`, `context`, `actor`, `timestamp`, or `attributes.` and a path.
    pub field: String,
    /// `any`, `none`, `not_before`, `not_after`, or how a value compares.
    pub rule: String,
    /// The words, folded; the time; the value as JSON, none under `exists`.
    pub asked: Vec<String>,
    /// The words that have aliases.
    pub widened: Vec<Widened>,
}

/// A word that is asked for under other names too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Widened {
    /// The word.
    pub term: String,
    /// The others that are one with it.
    pub to: Vec<String>,
}

/// A dimension whose terms the store looked up.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Walked {
    /// `subject`, `predicate`, `context` or `actor`.
    pub dimension: String,
    /// How many terms, aliases counted.
    pub terms: u64,
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
    /// The first claims made on its behalf, at most 100, with the keys of an attestation.
    pub made: Vec<Box<RawValue>>,
    /// How many there are.
    pub made_in_all: u64,
    /// What it waits for, when it does; only a server knows.
    pub waits: Option<Waits>,
    /// Why it is where it is: what it waits for, why it was given up or let go, what made it.
    pub reasons: Vec<Reason>,
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
    /// The number of the record that says so; null of one that is older than the rows of revisions.
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
    /// The claim that has the code that it ran; null of a handler that is not stored.
    pub handler_version: Option<AttestationId>,
    /// Which of the versions of the handler that is.
    pub handler_number: Option<u64>,
    /// The engine's epoch in which it started.
    pub epoch: Option<u64>,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended; null while it is under way.
    pub ended_at: Option<Timestamp>,
    /// `succeeded`, `failed`, `not_now`, `unknown` or `stopped`; null while it is under way.
    pub outcome: Option<String>,
    /// What the plugin said, or what was seen.
    pub reason: Option<String>,
    /// When the next attempt may start.
    pub next_at: Option<Timestamp>,
    /// The number of the record of its end.
    pub leaf: Option<u64>,
}

/// One condition of a filter, as it went for one claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What it asks about: a dimension, `timestamp`, or `attributes.` and a path.
    pub field: String,
    /// What it asks: `any`, `none`, `not_before`, `not_after`, or an operator.
    pub rule: String,
    /// The terms, the time or the value that it asks for.
    pub asked: Vec<String>,
    /// Whether it held.
    pub held: bool,
    /// What of the claim decided it.
    pub decided_by: Vec<String>,
    /// The claim's terms that are among the asked ones only by an alias, each with the asked one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_alias: Vec<(String, String)>,
}

impl From<axwatch_query::Condition> for Condition {
    fn from(condition: axwatch_query::Condition) -> Condition {
        Condition {
            field: name_of(&condition.field),
            rule: name_of(&condition.rule),
            asked: condition.asked,
            held: condition.held,
            decided_by: condition.decided_by,
            by_alias: condition.by_alias,
        }
    }
}

/// What stands in JSON for something that is a text there.
fn name_of(thing: &impl Serialize) -> String {
    let json = serde_json::to_value(thing).expect("names are always JSON");
    json.as_str().expect("names are texts in JSON").to_owned()
}

/// Which server this is: what a command asks before anything else.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Server {
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
    /// Since when it runs.
    pub started_at: Timestamp,
}

/// How everything is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The store.
    pub store: StoreStatus,
    /// The server that runs on it, if one does.
    pub server: Option<ServerStatus>,
    /// Watchers by state.
    pub watchers: WatcherCounts,
    /// Jobs by state, as shown.
    pub jobs: JobCounts,
    /// Schedules by state, those that are retired left out.
    pub schedules: ScheduleCounts,
    /// The plugins: of the server, or without one those that were ever up, as stopped.
    pub plugins: Vec<Plugin>,
    /// How far behind it is.
    pub lag: Lag,
    /// Watchers whose fires are held: those for which a loop is suspected, then the last that were; at most
    /// ten. `watchers` says how many there are.
    pub held: Vec<HeldWatcher>,
    /// Handlers that fail, and so are tried one attempt at a time.
    pub breakers: Vec<Breaker>,
    /// Where the store lies.
    pub disk: Disk,
    /// What somebody should look at, the most urgent first.
    pub attention: Vec<Attention>,
}

/// How a store is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Its file.
    pub path: String,
    /// Which store.
    pub store_id: String,
    /// The schema that it has.
    pub schema: i64,
    /// Claims in the log.
    pub claims: u64,
    /// Records in the audit.
    pub records: u64,
    /// What it takes on the disk, its write-ahead log included.
    pub bytes: u64,
    /// What of that the write-ahead log takes.
    pub wal_bytes: u64,
    /// Rows that were put aside because they do not decode.
    #[serde(default)]
    pub quarantined: u64,
}

/// How a server is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Where it listens.
    pub http: String,
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// For how long.
    pub uptime_seconds: u64,
    /// How often the store has been opened for writing.
    pub epoch: u64,
    /// Commits since the start.
    pub commits: u64,
    /// What an acknowledged claim survives: `power`.
    pub durability: String,
}

/// How many watchers are in each state, by its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatcherCounts {
    pub live: u64,
    pub catching_up: u64,
    pub paused: u64,
    pub muted: u64,
    pub waiting_for_handler: u64,
    pub broken: u64,
    pub refused: u64,
    pub retired: u64,
}

impl WatcherCounts {
    /// The count of one state.
    pub fn of_mut(&mut self, state: WatcherState) -> &mut u64 {
        match state {
            WatcherState::Live => &mut self.live,
            WatcherState::CatchingUp => &mut self.catching_up,
            WatcherState::Paused => &mut self.paused,
            WatcherState::Muted => &mut self.muted,
            WatcherState::WaitingForHandler => &mut self.waiting_for_handler,
            WatcherState::Broken => &mut self.broken,
            WatcherState::Refused => &mut self.refused,
            WatcherState::Retired => &mut self.retired,
        }
    }
}

/// How many jobs are in each state, as shown, by its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCounts {
    pub queued: u64,
    pub running: u64,
    pub paused: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl JobCounts {
    /// The count of one state.
    pub fn of_mut(&mut self, state: JobState) -> &mut u64 {
        match state {
            JobState::Queued => &mut self.queued,
            JobState::Running => &mut self.running,
            JobState::Paused => &mut self.paused,
            JobState::Completed => &mut self.completed,
            JobState::Failed => &mut self.failed,
            JobState::Cancelled => &mut self.cancelled,
        }
    }
}

/// How far behind the engine is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lag {
    /// The last claim.
    pub head: Seq,
    /// How far claims have been matched.
    pub matched: Seq,
    /// Claims that wait to be matched.
    pub behind: u64,
    /// When the first job that waits was made.
    pub oldest_waiting_at: Option<Timestamp>,
    /// How long ago that was.
    pub oldest_waiting_seconds: Option<u64>,
    /// The watcher that catches up and is furthest behind.
    pub slowest: Option<Slowest>,
    /// Replays under way.
    pub replays: u64,
    /// Watchers and replays that rest until fewer of their jobs are open; 0 without a server.
    pub backpressured: u64,
}

/// A watcher that catches up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slowest {
    /// The watcher as shown.
    pub watcher: String,
    /// It has been asked about the claims up to this one.
    pub seq: Seq,
    /// Claims that it has yet to see.
    pub behind: u64,
}

/// A watcher whose fires are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldWatcher {
    /// The watcher as shown.
    pub watcher: String,
    /// `paused` or `muted`.
    pub kind: WatcherState,
    /// Since when.
    pub at: Timestamp,
    /// When a mute ends.
    pub until: Option<Timestamp>,
    /// What it holds is let go.
    pub drops: bool,
    /// Why it was paused, when a loop is suspected.
    pub error: Option<String>,
}

/// A handler that fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// The plugin.
    pub plugin: String,
    /// Its handler.
    pub handler: String,
    /// Attempts that failed in a row.
    pub failures: u32,
    /// When the next one is tried, where that is known.
    pub until: Option<Timestamp>,
    /// What the last one said.
    pub error: String,
}

/// Space where the store lies; null where the system does not tell.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes that we may still write.
    pub free_bytes: Option<u64>,
    /// Bytes of the whole file system.
    pub total_bytes: Option<u64>,
}

/// Something that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attention {
    /// A stable name for programs.
    pub kind: String,
    /// What it is, for people.
    pub message: String,
    /// A command that is the next step.
    pub next: String,
}

/// What a queued job waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// A stable name for programs.
    pub reason: String,
    /// The same for people, with what can be done about it.
    pub message: String,
    /// Jobs of its lane that come before it.
    pub ahead: u64,
    /// There may be more of them.
    pub ahead_at_least: bool,
    /// When the reason ends, where that is known.
    pub until: Option<Timestamp>,
}

impl Waits {
    /// The same among other reasons.
    pub fn as_reason(&self) -> Reason {
        Reason { kind: self.reason.clone(), message: self.message.clone() }
    }
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
