//! Stored handlers: what there are, their versions, what became of one that was stored or removed, and
//! what one did on a claim that it was tried on.

use axwatch_model::{AttestationId, Seq, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Bytes of the code of one handler.
pub const CODE_BYTES_MAX: usize = 512 * 1024;
/// Claims that one trial of a handler takes at most.
pub const TESTED_MAX: usize = 1_000;
/// Claims that a trial takes when nobody says how many.
pub const TESTED_DEFAULT: usize = 10;

/// A stored handler.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Handler {
    /// What jobs and watchers name it by: `python.hello`.
    pub handler: String,
    /// Its name among the stored ones of its plugin: `hello`.
    pub name: String,
    /// The plugin that runs it.
    pub plugin: String,
    /// What it is doing.
    pub state: HandlerState,
    /// Why it is broken.
    pub reason: Option<String>,
    /// The claim that is its newest version.
    pub version: AttestationId,
    /// Which of its versions that is: 1 is the first.
    pub number: u64,
    /// The number of that claim in the log.
    pub seq: Seq,
    /// When it became as it is.
    pub at: Timestamp,
    /// Who made it so: `user` or a plugin.
    pub by: String,
    /// The watchers that run it, as shown; null without a server.
    pub watchers: Option<Vec<String>>,
    /// The schedules that run it, as shown; null without a server.
    pub schedules: Option<Vec<String>>,
}

/// What a stored handler is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandlerState {
    /// Its newest version is in force.
    Ok,
    /// Its newest version does not load, so its jobs wait.
    Broken,
    /// Somebody removed it.
    Removed,
}

impl HandlerState {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            HandlerState::Ok => "ok",
            HandlerState::Broken => "broken",
            HandlerState::Removed => "removed",
        }
    }
}

/// One version of a handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandlerVersion {
    /// 1 is the first.
    pub number: u64,
    /// Its claim.
    pub version: AttestationId,
    /// The number of its claim in the log.
    pub seq: Seq,
    /// When it was stored.
    pub at: Timestamp,
    /// Who stored it: `user` or a plugin.
    pub by: String,
    /// What has become of it.
    pub state: VersionState,
    /// Why it does not load, or did not.
    pub reason: Option<String>,
}

/// What has become of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// Jobs run it.
    InForce,
    /// It is the newest, and does not load.
    Broken,
    /// It was the newest when the handler was removed.
    Removed,
    /// A newer one took its place.
    Replaced,
}

impl VersionState {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            VersionState::InForce => "in force",
            VersionState::Broken => "broken",
            VersionState::Removed => "removed",
            VersionState::Replaced => "replaced",
        }
    }
}

/// A handler with the code of one of its versions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShownHandler {
    /// The handler.
    #[serde(flatten)]
    pub handler: Handler,
    /// The version that is shown.
    pub shown: HandlerVersion,
    /// Its code.
    pub code: String,
    /// Jobs that wait for the handler.
    pub waiting: WaitingJobs,
}

/// Jobs that wait for a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingJobs {
    /// How many were counted.
    pub jobs: u64,
    /// There may be more.
    pub at_least: bool,
}

/// What became of code that somebody stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HandlerStored {
    /// What jobs and watchers name it by.
    pub handler: String,
    /// Its name among the stored ones of its plugin.
    pub name: String,
    /// The plugin that runs it.
    pub plugin: String,
    /// The claim that is the version in force now.
    pub version: AttestationId,
    /// Which of its versions that is; null while nobody has seen to the claim yet.
    pub number: Option<u64>,
    /// The number of that claim in the log.
    pub seq: Seq,
    /// Whether it was stored now. If not, the version in force had this code already.
    pub is_new: bool,
    /// The version that it is the same text as, of one that was rolled back to.
    pub copy_of: Option<u64>,
    /// Whether the plugin has looked at the code.
    pub checked: bool,
    /// The watchers that its decorators declare.
    pub watchers: Vec<Declares>,
    /// The schedules that its decorators declare.
    pub schedules: Vec<Declares>,
    /// The watchers and schedules that run it now, as shown.
    pub run_by: Vec<String>,
    /// A command that would let something run it, while nothing does.
    pub next: Option<String>,
    /// What went not as it should, though the version is stored.
    pub warnings: Vec<String>,
}

/// A watcher or a schedule that a decorator declares.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Declares {
    /// Its id among those of the plugin.
    #[serde(default)]
    pub id: String,
    /// The function that runs for it.
    #[serde(default)]
    pub function: String,
    /// What else the plugin says of it: `ax` or lists of a watcher, `every_secs` of a schedule.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What became of a handler that somebody removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HandlerRemoved {
    /// What jobs and watchers name it by.
    pub handler: String,
    /// Its name among the stored ones of its plugin.
    pub name: String,
    /// The plugin that ran it.
    pub plugin: String,
    /// The claim that says so.
    pub attestation_id: AttestationId,
    /// The number of that claim in the log.
    pub seq: Seq,
    /// Which of its versions was in force.
    pub number: u64,
    /// The watchers that run it, as shown: their fires wait from now on.
    pub watchers: Vec<String>,
    /// The schedules that run it, as shown.
    pub schedules: Vec<String>,
    /// Jobs that wait for it.
    pub waiting: WaitingJobs,
    /// What went not as it should, though it is removed.
    pub warnings: Vec<String>,
}

/// What a handler is to be tried on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandlerTrial {
    /// The id of a claim, or AX that finds some.
    pub on: String,
    /// How many of them at most, the newest first.
    pub limit: Option<usize>,
    /// Code that is not stored; without it that of the newest version.
    pub code: Option<String>,
    /// The decorated function that is to run, instead of what runs for a watcher without one.
    pub function: Option<String>,
    /// The plugin that runs it, of a name that is not stored yet.
    pub plugin: Option<String>,
}

/// What a handler did on one claim, with nothing of it written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HandlerTested {
    /// The claim.
    pub attestation_id: AttestationId,
    /// Its number.
    pub seq: Seq,
    /// What it did.
    pub outcome: HandlerOutcome,
}

/// What a handler did, as its plugin tells it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HandlerOutcome {
    /// It ended well.
    pub ok: bool,
    /// Its answer, as it is: null is none.
    #[serde(default)]
    pub result: Option<Box<RawValue>>,
    /// What it printed.
    #[serde(default)]
    pub stdout: String,
    /// What it printed as errors.
    #[serde(default)]
    pub stderr: String,
    /// What it logged.
    #[serde(default)]
    pub log: Vec<HandlerLog>,
    /// What it would have claimed, each as it is.
    #[serde(default)]
    pub attested: Vec<Box<RawValue>>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// It failed for good: its job would not be tried again.
    #[serde(default)]
    pub permanent: bool,
    /// How long it took.
    #[serde(default)]
    pub duration_ms: f64,
}

/// A line of a handler's log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HandlerLog {
    /// `error`, `warn`, `info` or `debug`.
    #[serde(default)]
    pub level: String,
    /// What it says.
    #[serde(default)]
    pub message: String,
}

/// The last line of a trial.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct HandlerTestEnd {
    /// What became of all.
    pub summary: HandlerTestSummary,
}

/// What became of all claims that a handler was tried on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandlerTestSummary {
    /// Claims that it was tried on.
    pub tested: u64,
    /// Those on which it failed.
    pub failed: u64,
}

/// What is sent to a plugin to try a handler on one claim.
#[derive(Debug, Serialize)]
pub struct TestCall<'a> {
    /// The handler's name.
    pub name: &'a str,
    /// Its code.
    pub code: &'a str,
    /// The claim.
    pub upstream: &'a RawValue,
    /// Which of its functions.
    pub function: Option<&'a str>,
}

/// A place in code that is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeMistake {
    /// What is wrong.
    #[serde(default)]
    pub message: String,
    /// Its line, from 1.
    #[serde(default)]
    pub line: Option<u32>,
    /// Its character in the line, from 1.
    #[serde(default)]
    pub column: Option<u32>,
    /// The line.
    #[serde(default)]
    pub text: Option<String>,
}
