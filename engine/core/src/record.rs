//! The records of the audit: what was decided and done, each one canonical JSON object.
//!
//! Fields stand in the order of their names, which makes serde's output the canonical one (RFC 8785);
//! a test holds it to a canonicaliser. A record holds ids, times, hashes and reasons, never payloads.

use std::sync::Arc;

use axwatch_model::{AttestationId, JobId, ScheduleId, Seq, StoreId, Timestamp};
use serde::Serialize;

/// One thing that was decided or done.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Record<'a> {
    /// The engine began to write to the store.
    EngineStarted(EngineStarted),
    /// A watcher was registered, changed, paused, resumed, retired or refused, or its text was found to
    /// be no AX any more.
    Watcher(WatcherRecord<'a>),
    /// A watcher's filter held for a claim.
    Matched(Matched<'a>),
    /// A job was made, redriven, paused, resumed, held back, given up, cancelled or discarded.
    Job(JobRecord<'a>),
    /// An attempt started.
    AttemptStarted(AttemptStarted<'a>),
    /// An attempt ended.
    AttemptEnded(AttemptEnded<'a>),
    /// A plugin came up or went down.
    Plugin(PluginRecord<'a>),
    /// A plugin's supervisor went from one state to another.
    PluginState(PluginStateRecord<'a>),
    /// A claim on a stored handler took effect, or was refused.
    Handler(HandlerRecord<'a>),
    /// A person disabled or enabled a plugin.
    PluginWanted(PluginWantedRecord<'a>),
    /// A schedule was declared, changed, paused, resumed or retired.
    Schedule(ScheduleRecord<'a>),
    /// Nominal times of a schedule passed without a job.
    ScheduleTimes(ScheduleTimes<'a>),
    /// A budget was set.
    BudgetSet(BudgetSetRecord<'a>),
    /// A budget is nearly used up.
    BudgetWarning(BudgetWarning<'a>),
    /// A budget holds a lane back, or does no more.
    BudgetHeld(BudgetHeldRecord<'a>),
    /// A watcher was held, began to catch up, was live again, or a replay went its way.
    Position(PositionRecord<'a>),
    /// A chain of causes was stopped, or looks like a loop.
    Loop(LoopRecord<'a>),
    /// A handler failed so often in a row that it is tried one attempt at a time.
    BreakerOpened(BreakerOpened<'a>),
    /// It is well again.
    BreakerClosed(BreakerClosed<'a>),
    /// An attempt was answered when it was over.
    LateAnswer(LateAnswer),
    /// A row did not decode and was put aside.
    Quarantined(Quarantined<'a>),
    /// Claims and jobs were taken away, as retention wants it.
    Retained(Retained),
}

/// `engine_started`.
#[derive(Debug, Clone, Serialize)]
pub struct EngineStarted {
    /// When.
    pub at: Timestamp,
    /// How often the store has been opened for writing.
    pub epoch: u64,
    /// Which store this is the audit of.
    pub store: StoreId,
    /// `engine_started`.
    pub r#type: &'static str,
}

/// `watcher_registered`, `watcher_changed`, `watcher_paused`, `watcher_resumed`, `watcher_retired`,
/// `watcher_refused`, `watcher_broken`, `watcher_mended`.
#[derive(Debug, Clone, Serialize)]
pub struct WatcherRecord<'a> {
    /// When.
    pub at: Timestamp,
    /// Queued jobs that were withdrawn with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<u64>,
    /// The generation in force from here on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Who acts, as declared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<&'a str>,
    /// Fires a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fires_per_second: Option<u32>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The revision in force from here on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Which of them.
    pub r#type: &'static str,
    /// The watcher as shown.
    pub watcher: &'a str,
    /// What it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<&'a str>,
}

/// `matched`.
#[derive(Debug, Clone, Serialize)]
pub struct Matched<'a> {
    /// When.
    pub at: Timestamp,
    /// The claim.
    pub attestation: &'a AttestationId,
    /// The jobs it made, in the order of the watcher's handlers.
    pub fires: Vec<Fire<'a>>,
    /// The watcher's generation.
    pub generation: u32,
    /// The jobs are made only to be let go, because the watcher is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub let_go: Option<bool>,
    /// SHA-256 of the payload, hex.
    pub payload_sha256: &'a str,
    /// The watcher's revision.
    pub revision: u64,
    /// The claim's number.
    pub seq: Seq,
    /// `matched`.
    pub r#type: &'static str,
    /// The watcher as shown.
    pub watcher: &'a str,
}

/// One job of a match.
#[derive(Debug, Clone, Serialize)]
pub struct Fire<'a> {
    /// The handler as declared.
    pub handler: &'a str,
    /// The job.
    pub job: JobId,
}

/// `job_created`, `job_redriven`, `job_discarded`, `job_cancelled`, `job_paused`, `job_resumed`, `limited`,
/// `dead_lettered`.
#[derive(Debug, Clone, Serialize)]
pub struct JobRecord<'a> {
    /// When.
    pub at: Timestamp,
    /// Attempts so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Who wanted it: `user`, `schedule`, or a plugin's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
    /// The handler as declared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<&'a str>,
    /// The job.
    pub job: JobId,
    /// The nominal time of its schedule that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nominal: Option<Timestamp>,
    /// The job that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
    /// SHA-256 of the payload, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_sha256: Option<&'a str>,
    /// Its priority, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The schedule that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleId>,
    /// The beginning of what its asker knows it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'a str>,
    /// Which of them.
    pub r#type: &'static str,
}

impl JobRecord<'_> {
    /// A record that says nothing but what happened to which job.
    #[must_use]
    pub fn new(kind: &'static str, job: JobId, at: Timestamp) -> Self {
        JobRecord {
            at,
            attempts: None,
            by: None,
            handler: None,
            job,
            nominal: None,
            parent: None,
            payload_sha256: None,
            priority: None,
            reason: None,
            schedule: None,
            source: None,
            r#type: kind,
        }
    }
}

/// `attempt_started`.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptStarted<'a> {
    /// When.
    pub at: Timestamp,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The engine's epoch.
    pub epoch: u64,
    /// The version of a stored handler that it runs: the claim that has its code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler_version: Option<&'a AttestationId>,
    /// The plugin's process.
    pub incarnation: u64,
    /// The job.
    pub job: JobId,
    /// Who answers for the handler.
    pub plugin: &'a str,
    /// `attempt_started`.
    pub r#type: &'static str,
}

/// `attempt_ended`.
#[derive(Debug, Clone, Serialize)]
pub struct AttemptEnded<'a> {
    /// When.
    pub at: Timestamp,
    /// Which attempt.
    pub attempt: u32,
    /// Whether it counts against the bound of retries.
    pub counted: bool,
    /// The engine's epoch in which the attempt started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The job.
    pub job: JobId,
    /// When the next attempt may start; absent when there is none, or at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// `succeeded`, `failed`, `not_now`, `unknown` or `stopped`.
    pub outcome: &'static str,
    /// What the plugin said, or what was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// SHA-256 of the result, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_sha256: Option<&'a str>,
    /// When the attempt started: microseconds on the monotonic clock of its epoch. What rate limits
    /// promise is about these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stamp_us: Option<u64>,
    /// `attempt_ended`.
    pub r#type: &'static str,
    /// The watcher as shown.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub watcher: &'a str,
}

/// `watcher_muted`, `watcher_unmuted`, `watcher_catching_up`, `watcher_backpressured`, `watcher_live`,
/// `replay_started`, `replay_ended`, `replay_stopped`.
#[derive(Debug, Clone, Serialize)]
pub struct PositionRecord<'a> {
    /// When.
    pub at: Timestamp,
    /// What is held is let go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<bool>,
    /// The first claim of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Seq>,
    /// The generation of its fires.
    pub generation: u32,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The watcher has been asked about the claims up to this one.
    pub seq: Seq,
    /// The last claim of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Seq>,
    /// Which of them.
    pub r#type: &'static str,
    /// When a mute ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The watcher as shown.
    pub watcher: &'a str,
}

/// `loop_stopped`, `loop_watched`, `loop_suspected`, `loop_cleared`.
#[derive(Debug, Clone, Serialize)]
pub struct LoopRecord<'a> {
    /// When.
    pub at: Timestamp,
    /// The claim at which the chain was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation: Option<&'a AttestationId>,
    /// The watchers that led to it, as shown, the first cause first; `-` for a job without one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<Arc<str>>,
    /// The claim's depth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// The plugin that runs one job at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<&'a str>,
    /// Why.
    pub reason: &'a str,
    /// The claim's number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<Seq>,
    /// Which of them.
    pub r#type: &'static str,
    /// The watcher as shown.
    pub watcher: &'a str,
}

/// `plugin_up`, `plugin_down`.
#[derive(Debug, Clone, Serialize)]
pub struct PluginRecord<'a> {
    /// When.
    pub at: Timestamp,
    /// What it answers for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<&'a str>,
    /// Which process.
    pub incarnation: u64,
    /// Which plugin.
    pub plugin: &'a str,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// Which of them.
    pub r#type: &'static str,
    /// What its Metadata said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
}

/// `handler_stored`, `handler_faulted`, `handler_removed`, `handler_refused`.
#[derive(Debug, Clone, Serialize)]
pub struct HandlerRecord<'a> {
    /// When.
    pub at: Timestamp,
    /// The claim.
    pub attestation: &'a AttestationId,
    /// Who appended it: `user`, or a plugin's name.
    pub by: &'a str,
    /// The handler's name, without its plugin's.
    pub name: &'a str,
    /// The plugin that runs it.
    pub plugin: &'a str,
    /// Why it is faulted, or why the claim changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The claim's number.
    pub seq: Seq,
    /// Which of them.
    pub r#type: &'static str,
    /// The version that it is about: the claim that has the code. Absent of one that changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a AttestationId>,
    /// The number of that version among those of its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_number: Option<u64>,
}

/// `plugin_state`.
#[derive(Debug, Clone, Serialize)]
pub struct PluginStateRecord<'a> {
    /// When.
    pub at: Timestamp,
    /// The state that it was in.
    pub from: &'a str,
    /// Which process it is about, or the last one there was.
    pub incarnation: u64,
    /// Which plugin.
    pub plugin: &'a str,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// The state that it is in now.
    pub to: &'a str,
    /// `plugin_state`.
    pub r#type: &'static str,
}

/// `plugin_disabled`, `plugin_enabled`.
#[derive(Debug, Clone, Serialize)]
pub struct PluginWantedRecord<'a> {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: &'a str,
    /// Which plugin.
    pub plugin: &'a str,
    /// Which of them.
    pub r#type: &'static str,
}

/// `schedule_declared`, `schedule_changed`, `schedule_paused`, `schedule_resumed`, `schedule_retired`.
#[derive(Debug, Clone, Serialize)]
pub struct ScheduleRecord<'a> {
    /// When.
    pub at: Timestamp,
    /// Who wanted it: `user`, or a plugin's name. Absent of what an announcement says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
    /// Its line of cron, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<&'a str>,
    /// It runs without somebody having to enable it.
    pub enabled_by_default: bool,
    /// The handler, as `plugin/handler`.
    pub handler: &'a str,
    /// From one run to the next, if it has no line of cron; 0 is never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_secs: Option<u32>,
    /// Who declared it.
    pub owner: &'a str,
    /// Why it was retired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
    /// Its name among those of its owner.
    pub schedule: &'a str,
    /// Which of them.
    pub r#type: &'static str,
    /// The time zone of its line of cron.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tz: Option<&'a str>,
}

/// `schedule_skipped`.
#[derive(Debug, Clone, Serialize)]
pub struct ScheduleTimes<'a> {
    /// When.
    pub at: Timestamp,
    /// How many nominal times.
    pub count: u64,
    /// The first of them.
    pub from: Timestamp,
    /// What became of them: `missed`, `skipped_overlap` or `paused`.
    pub outcome: &'static str,
    /// Who declared the schedule.
    pub owner: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Its name among those of its owner.
    pub schedule: &'a str,
    /// `schedule_skipped`.
    pub r#type: &'static str,
    /// The last of them.
    pub upto: Timestamp,
}

/// `budget_set`. Amounts are decimals without exponents.
#[derive(Debug, Clone, Serialize)]
pub struct BudgetSetRecord<'a> {
    /// When.
    pub at: Timestamp,
    /// Whose jobs it is for: `*`, a plugin, or `plugin/handler`.
    pub budget: &'a str,
    /// Who set it.
    pub by: &'a str,
    /// What was set of it; what is absent is as the configuration says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_minute: Option<u32>,
    /// For a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_day: Option<&'a str>,
    /// For 30 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_month: Option<&'a str>,
    /// For a week.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_week: Option<&'a str>,
    /// `budget_set`.
    pub r#type: &'static str,
}

/// `budget_warning`. Amounts are decimals without exponents.
#[derive(Debug, Clone, Serialize)]
pub struct BudgetWarning<'a> {
    /// When.
    pub at: Timestamp,
    /// Whose budget.
    pub budget: &'a str,
    /// What of it: `calls_per_minute`, `per_day`, `per_week` or `per_month`.
    pub limit: &'a str,
    /// How much there is.
    pub of: &'a str,
    /// `budget_warning`.
    pub r#type: &'static str,
    /// How much is used.
    pub used: &'a str,
}

/// `budget_held`, `budget_freed`. The former is among the records of each job that waited for it.
#[derive(Debug, Clone, Serialize)]
pub struct BudgetHeldRecord<'a> {
    /// Who asked for the jobs of the lane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asker: Option<&'a str>,
    /// When.
    pub at: Timestamp,
    /// Whose budget.
    pub budget: &'a str,
    /// The handler of the lane, as declared.
    pub handler: &'a str,
    /// How long it was held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
    /// What of the budget: `calls_per_minute`, `per_day`, `per_week` or `per_month`.
    pub limit: &'a str,
    /// Which of them.
    pub r#type: &'static str,
    /// When it may go on, as far as that was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The watcher of the lane, as shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watcher: Option<&'a str>,
}

/// `late_answer`.
#[derive(Debug, Clone, Serialize)]
pub struct LateAnswer {
    /// When.
    pub at: Timestamp,
    /// Which attempt.
    pub attempt: u32,
    /// The plugin's process.
    pub incarnation: u64,
    /// The job, which goes its way as if there had been no answer.
    pub job: JobId,
    /// `succeeded`, `failed` or `not_now`.
    pub outcome: &'static str,
    /// `late_answer`.
    pub r#type: &'static str,
}

/// `quarantined`.
#[derive(Debug, Clone, Serialize)]
pub struct Quarantined<'a> {
    /// When.
    pub at: Timestamp,
    /// Why it did not decode.
    pub reason: &'a str,
    /// Its key: a number or a name, or a JSON array of those that it consists of.
    pub row: &'a str,
    /// The table that it was in.
    pub table: &'a str,
    /// `quarantined`.
    pub r#type: &'static str,
}

/// `retained`.
#[derive(Debug, Clone, Serialize)]
pub struct Retained {
    /// When.
    pub at: Timestamp,
    /// What was appended, and what ended, before this.
    pub before: Timestamp,
    /// No position was lower than this.
    pub below: Seq,
    /// So many claims are gone.
    pub claims: u64,
    /// So many jobs are.
    pub jobs: u64,
    /// `retained`.
    pub r#type: &'static str,
}

/// `breaker_opened`.
#[derive(Debug, Clone, Serialize)]
pub struct BreakerOpened<'a> {
    /// When.
    pub at: Timestamp,
    /// What the last attempt said.
    pub error: &'a str,
    /// Failures in a row.
    pub failures: u32,
    /// The handler's bare name.
    pub handler: &'a str,
    /// Who answers for it.
    pub plugin: &'a str,
    /// `breaker_opened`.
    pub r#type: &'static str,
}

/// `breaker_closed`.
#[derive(Debug, Clone, Serialize)]
pub struct BreakerClosed<'a> {
    /// When.
    pub at: Timestamp,
    /// The handler's bare name.
    pub handler: &'a str,
    /// Who answers for it.
    pub plugin: &'a str,
    /// `breaker_closed`.
    pub r#type: &'static str,
    /// How long it was open.
    pub was_open_ms: u64,
}

impl Record<'_> {
    /// The record as canonical JSON.
    #[must_use]
    pub fn to_canonical(&self) -> String {
        serde_json::to_string(self).expect("records hold nothing that JSON cannot")
    }
}
