//! What happens to the engine, and what it does about it: the two sides of [`crate::State::step`].

use std::sync::Arc;
use std::time::Duration;

use axwatch_model::{
    Asker, AttestationId, BudgetRow, BudgetScope, Declared, Grid, HandlerName, JobEntryRow, JobId,
    JobNumber, JobRow, LaneKey, Missed, Mono, OpenAsked, Overlap, Owner, Place, PluginName,
    RefusedRow, ScheduleId, ScheduleRow, Seq, Stored, Timestamp, WatcherKey, WatcherNumber,
    WatcherRow,
};
use axwatch_query::Aliases;

use crate::budget::BudgetKind;
use crate::kin::JobAbove;
use crate::outcome::Ended;
use crate::redaction::Redaction;

/// Names a request until its answer leaves with the commit that makes it true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something that happened. Every event is told once, in the order in which the writer learned of it.
#[derive(Debug, Clone)]
pub enum Event {
    /// The next claim of the log, to be matched: of the commit at hand, or read behind the head.
    Match {
        /// The claim.
        stored: Arc<Stored>,
    },
    /// Claims that watchers with a pass come to next; as [`State::next_segment`](crate::State::next_segment)
    /// asked for them.
    Segment {
        /// They lie after this one.
        after: Seq,
        /// What was read ends here: later claims are not among `rows`, and earlier ones that are not
        /// among them are not in the log any more.
        upto: Seq,
        /// The claims, oldest first.
        rows: Vec<Arc<Stored>>,
        /// The words that are one, for the first claim after `after`.
        aliases: Arc<Aliases>,
    },
    /// What earlier claims say of stored handlers, at the start: those that nothing heeded when they were appended.
    Heed {
        /// The claims that may say something of them, oldest first.
        claims: Vec<Stored>,
        /// Up to here there are no others.
        upto: Seq,
    },
    /// There is time to read what watchers of the store wait for, so that claims can be matched.
    Understand {
        /// So many at most.
        watchers: usize,
    },
    /// There is nothing to match any more up to this number: what had it was put aside.
    Missing {
        /// The last of them.
        upto: Seq,
    },
    /// Rows that did not decode were put aside, so that the rest goes on without them.
    Quarantined {
        /// Which.
        rows: Vec<SetAside>,
    },
    /// Retention takes claims and jobs away in this batch.
    Retained {
        /// They were older than this.
        before: Timestamp,
        /// No position was lower than this.
        below: Seq,
        /// So many claims.
        claims: u64,
        /// So many jobs.
        jobs: u64,
    },
    /// A claim entered the log while matching is behind: it will be matched when its turn comes.
    Deferred {
        /// The claim.
        stored: Arc<Stored>,
    },
    /// A plugin's process is ready and has said what it has.
    PluginUp {
        /// Answered with [`Answer::Registered`], once all of it is taken.
        request: RequestId,
        /// Which plugin.
        plugin: PluginName,
        /// Which process.
        incarnation: u64,
        /// What its Metadata said.
        version: String,
        /// How many attempts it may ever have in flight.
        max_in_flight: u32,
        /// What it announced.
        registration: Registration,
    },
    /// A plugin's process that is up announces something else than before.
    Announced {
        /// Answered with [`Answer::Registered`], once all of it is taken.
        request: RequestId,
        /// Which plugin.
        plugin: PluginName,
        /// Which process.
        incarnation: u64,
        /// All that it now has.
        registration: Registration,
    },
    /// There is time to take more of what plugins announced, which is a slice of one announcement: told once a batch
    /// as long as [`State::is_announcing`](crate::State::is_announcing).
    TakeAnnounced,
    /// A plugin's process is gone, or must be treated so.
    PluginDown {
        /// Which plugin.
        plugin: PluginName,
        /// Which process.
        incarnation: u64,
        /// Why.
        reason: String,
        /// It went by itself; nobody had told it to.
        crashed: bool,
    },
    /// A person wants a plugin not to run: all that it registered is retired, and what it announces later
    /// is refused, until somebody enables it.
    PluginDisabled {
        /// Answered with [`Answer::Plugin`].
        request: RequestId,
        /// Which plugin.
        plugin: PluginName,
        /// Who wants it.
        by: String,
    },
    /// A person wants it to run again.
    PluginEnabled {
        /// Answered with [`Answer::Plugin`].
        request: RequestId,
        /// Which plugin.
        plugin: PluginName,
        /// Who wants it.
        by: String,
    },
    /// A plugin's supervisor went from one state to another. For the audit alone.
    PluginState(PluginTransition),
    /// An attempt came to an end.
    AttemptEnded {
        /// Of which job.
        job: JobNumber,
        /// Which attempt.
        attempt: u32,
        /// At which process.
        incarnation: u64,
        /// How.
        ended: Ended,
    },
    /// A person declares a watcher.
    Declare {
        /// Answered with [`Answer::Watcher`].
        request: RequestId,
        /// The declaration.
        declaration: Declaration,
    },
    /// A person pauses, resumes or removes a watcher.
    Command {
        /// Answered with [`Answer::Watcher`].
        request: RequestId,
        /// Which watcher.
        watcher: WatcherKey,
        /// What to do with it.
        command: WatcherCommand,
    },
    /// Somebody asks for a job that no claim causes.
    Enqueue {
        /// Answered with [`Answer::Enqueued`].
        request: RequestId,
        /// What is asked for.
        asked: Box<EnqueueAsk>,
    },
    /// A person asks that a job that was given up or cancelled, or waits for its retry, is tried again now.
    Redrive {
        /// Answered with [`Answer::Job`].
        request: RequestId,
        /// Its row as the store has it.
        row: Box<JobRow>,
        /// The jobs above it as the store has them, the nearest first.
        above: Vec<JobAbove>,
    },
    /// Somebody wants a job cancelled that is not at its end, and all that is open below it. Of one that is
    /// at its end, only what is below it.
    Cancel {
        /// Answered with [`Answer::Job`].
        request: RequestId,
        /// Its row as the store has it.
        row: Box<JobRow>,
        /// Who wants it.
        by: Asker,
    },
    /// Somebody wants a job to wait until it is resumed. The attempt under way, if there is one, is stopped.
    PauseJob {
        /// Answered with [`Answer::Job`].
        request: RequestId,
        /// Its row as the store has it.
        row: Box<JobRow>,
        /// Who wants it.
        by: Asker,
    },
    /// Somebody wants a paused job to go on.
    ResumeJob {
        /// Answered with [`Answer::Job`].
        request: RequestId,
        /// Its row as the store has it.
        row: Box<JobRow>,
        /// Who wants it.
        by: Asker,
    },
    /// An attempt that is under way tells how far it is. Of any other it changes nothing.
    Progress {
        /// Answered with [`Answer::Heard`].
        request: RequestId,
        /// What it tells.
        report: Box<Report>,
    },
    /// A person wants a dead letter, or a job that waits, never to be tried again.
    Discard {
        /// Answered with [`Answer::Job`].
        request: RequestId,
        /// Its row as the store has it.
        row: Box<JobRow>,
    },
    /// Somebody creates a schedule, or says what a standing one of that name is from now on.
    CreateSchedule {
        /// Answered with [`Answer::Schedule`].
        request: RequestId,
        /// What is asked for.
        asked: Box<ScheduleAsk>,
    },
    /// Somebody does something with a schedule.
    CommandSchedule {
        /// Answered with [`Answer::Schedule`], or with [`Answer::Job`] when it is to run now.
        request: RequestId,
        /// Which schedule.
        schedule: ScheduleId,
        /// What to do with it.
        command: ScheduleCommand,
        /// Who wants it. A plugin sees its own schedules alone.
        by: Asker,
    },
    /// A person sets a budget.
    SetBudget {
        /// Answered with [`Answer::Budget`].
        request: RequestId,
        /// Whose jobs it is for.
        scope: BudgetScope,
        /// What it says from now on.
        change: BudgetChange,
        /// Who sets it.
        by: String,
    },
    /// Waiting jobs of a lane were read back from the table.
    Loaded {
        /// Which lane.
        lane: LaneKey,
        /// The rows, by place; fewer than asked for means that there are no more.
        rows: Vec<JobRow>,
    },
    /// Open jobs that an earlier life of the engine left behind, each once, in any order; an empty list says
    /// that these were all.
    Recovered {
        /// The rows.
        rows: Vec<JobRow>,
    },
    /// Such jobs that were asked for and are not running. What they carry is read when their turn is near.
    RecoveredAsked {
        /// What is known of them.
        jobs: Vec<OpenAsked>,
    },
    /// The batch of all events since the last of these is on the disk. The attempts that started in it
    /// leave now, or at the moment that an [`Effect::LeaveAt`] says; that is their stamp.
    Committed,
    /// Nothing may start any more; what is under way may end.
    Drain,
    /// The disk is nearly full, or has room again: while it is, nothing starts, and what runs may end.
    DiskLow(bool),
    /// Time went by.
    Tick,
}

/// A job as somebody asks for it, unchecked.
#[derive(Debug, Clone, PartialEq)]
pub struct EnqueueAsk {
    /// Its id: that of no other job, which is the caller's to see to.
    pub id: JobId,
    /// Who asks. No schedule does: those are the core's own.
    pub by: Asker,
    /// The handler: bare, or `plugin/handler`. A plugin means its own by a bare name.
    pub handler: String,
    /// Its payload, any bytes.
    pub payload: Arc<[u8]>,
    /// What the asker knows it by: while a job of this handler with the same one is open, this is that job.
    /// Empty is none.
    pub source: String,
    /// From -10 to 10; the higher the sooner.
    pub priority: i32,
    /// The job that it is a part of.
    pub parent: Option<ParentAsk>,
    /// What it may cost. An amount that is none is left out.
    pub cost_estimate: Option<f64>,
}

/// A job that another is to be a part of.
#[derive(Debug, Clone, PartialEq)]
pub struct ParentAsk {
    /// Its id, as the asker has it.
    pub id: JobId,
    /// It and those above it as the store has them, the nearest first; empty when there is no such job.
    pub above: Vec<JobAbove>,
}

/// What became of an [`EnqueueAsk`].
#[derive(Debug, Clone, PartialEq)]
pub enum Enqueued {
    /// It is a new job.
    New(Box<JobRow>),
    /// A job with its handler and source is open, or one was made under its id: it is that one.
    Standing {
        /// Its number.
        number: JobNumber,
        /// Its id.
        id: JobId,
    },
}

/// What an attempt that is under way tells. Parts that it does not tell of stay as they are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Of which job.
    pub job: JobNumber,
    /// Which attempt; `None` is the one that is under way, and nobody is heard where the process has yet to answer
    /// for an earlier one.
    pub attempt: Option<u32>,
    /// At which process.
    pub incarnation: u64,
    /// How far it is, and of how much.
    pub progress: Option<(i32, i32)>,
    /// What the attempt has cost so far, in all. An amount that is none is left out.
    pub cost: Option<f64>,
    /// What it has to say.
    pub entries: Vec<JobEntry>,
}

/// Something that an attempt has to say, unbounded.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JobEntry {
    /// When it happened, as the plugin says; `None` is now.
    pub at: Option<Timestamp>,
    /// How grave it is, in the plugin's words.
    pub level: String,
    /// What the plugin is doing.
    pub stage: String,
    /// What it says.
    pub message: String,
    /// What it says besides: JSON.
    pub metadata: Option<String>,
}

/// A schedule as somebody asks for it, unchecked.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleAsk {
    /// Who asks.
    pub by: Asker,
    /// Its name; a plugin's is named like its handler, and this is not looked at.
    pub name: String,
    /// The handler: bare, or `plugin/handler`. A plugin means its own.
    pub handler: String,
    /// Its nominal times.
    pub grid: Grid,
    /// What its jobs carry.
    pub payload: Option<Arc<[u8]>>,
    /// What becomes of times at which nothing could run.
    pub missed: Missed,
    /// What becomes of a time at which the run before is not over.
    pub overlap: Overlap,
    /// Each run is put off by up to so much, and never up to the next.
    pub jitter_secs: u32,
    /// What it is for.
    pub description: String,
    /// What its owner says that it stands for in AX.
    pub ats_code: String,
    /// What its owner keeps with it: a JSON object as text.
    pub metadata: Option<Arc<str>>,
}

/// What somebody does with a schedule that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleCommand {
    /// Its times pass, and nothing runs.
    Pause,
    /// It runs again, from its next time on.
    Resume,
    /// It is retired. What of it waits is cancelled, what runs may end.
    Delete,
    /// It runs at once, besides its grid and whatever it is doing.
    RunNow {
        /// The id of the job.
        job: JobId,
    },
}

/// What is said of a budget. `None` leaves a part as it is; `Some(None)` leaves it to the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BudgetChange {
    /// Attempts that may begin in any 60 seconds.
    pub calls_per_minute: Option<Option<u32>>,
    /// What may be spent in any 24 hours.
    pub per_day: Option<Option<f64>>,
    /// What may be spent in any 7 days.
    pub per_week: Option<Option<f64>>,
    /// What may be spent in any 30 days.
    pub per_month: Option<Option<f64>>,
}

/// A supervisor's way from one state to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginTransition {
    /// Whose.
    pub plugin: PluginName,
    /// Which of its processes it is about, or the last one there was.
    pub incarnation: u64,
    /// The state that it was in.
    pub from: &'static str,
    /// The state that it is in now.
    pub to: &'static str,
    /// Why.
    pub reason: String,
}

/// A row that did not decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// The table that it was in.
    pub table: String,
    /// Its key there.
    pub row: String,
    /// Why it did not.
    pub reason: String,
}

/// All that a plugin announced.
#[derive(Debug, Clone, Default)]
pub struct Registration {
    /// The handlers that it answers for.
    pub handlers: Vec<HandlerName>,
    /// The handlers that are stored with its name as context are its own too.
    pub stored_handlers: bool,
    /// The watchers that it declares.
    pub watchers: Vec<Declaration>,
    /// The schedules that it declares.
    pub schedules: Vec<ScheduleDeclaration>,
    /// The paths under which it answers HTTP.
    pub routes: Vec<RouteDeclaration>,
    /// What could not even be read of it.
    pub refused: Vec<RefusedRow>,
    /// It may lack something for no good reason: a call back to the engine failed while the plugin
    /// put it together.
    pub doubtful: bool,
    /// Whether the plugin called the engine while it put it together, when that was in an Initialize:
    /// after one that did, one that did not may lack something too. `None` of what it announces by itself.
    pub called_back: Option<bool>,
    /// What of it may not be said aloud, nor kept where it is refused.
    pub redaction: Redaction,
}

/// A schedule as a plugin declares it, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleDeclaration {
    /// Its name among those of its owner; empty is the bare name of its handler.
    pub id: String,
    /// The handler that it runs.
    pub handler: String,
    /// From one run to the next; 0 is never.
    pub interval_secs: i64,
    /// It runs without somebody having to enable it.
    pub enabled_by_default: bool,
    /// What it is for.
    pub description: String,
    /// What the plugin says that it stands for in AX.
    pub ats_code: String,
}

/// A path under which a plugin answers HTTP, as it declares it, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDeclaration {
    /// The method.
    pub method: String,
    /// The path below the plugin's own.
    pub path: String,
    /// What it answers.
    pub description: String,
}

/// A watcher as its owner declares it, unchecked.
#[derive(Debug, Clone, PartialEq)]
pub struct Declaration {
    /// Its local id.
    pub local: String,
    /// What it waits for.
    pub declared: Declared,
    /// Who acts, besides the `so` actions of its text.
    pub handlers: Vec<String>,
    /// Parameters for its handlers: a JSON object as text.
    pub params: Option<Arc<str>>,
    /// Fires a second; 0 means no limit unless `zero_is_never`.
    pub max_fires_per_second: i64,
    /// 0 fires a second means none at all.
    pub zero_is_never: bool,
    /// How often it may occur in one chain of causes; 0 is the usual.
    pub max_chain: i32,
    /// The first claim that it sees when it is new; `None` is the next one that comes.
    pub since: Option<Since>,
    /// Counted attempts after which its jobs are given up; 0 is as for their handler.
    pub max_attempts: i64,
    /// For how long its attempts may fail before its jobs are given up; `None` is as for their handler.
    pub max_age: Option<Duration>,
}

/// From which claim on a new watcher sees the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// As its owner wrote it: a number, `start`, or a time. Whoever has the log resolves it before the
    /// declaration comes to the core.
    Written(String),
    /// From this claim on.
    First(Seq),
    /// What was written names no claim, for this reason.
    Nowhere(String),
}

/// What a person does with a watcher that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatcherCommand {
    /// Its fires wait until it is resumed.
    Pause {
        /// They are let go instead.
        skip: bool,
    },
    /// They go on.
    Resume {
        /// Those that waited are let go instead.
        drop: bool,
    },
    /// Its fires wait until a moment.
    Mute {
        /// Which, by the wall clock.
        until: Timestamp,
        /// They are let go instead.
        drop: bool,
    },
    /// They go on now.
    Unmute {
        /// Those that waited are let go instead.
        drop: bool,
    },
    /// It is retired.
    Remove,
    /// What it waits for fires again, for claims that are in the log.
    Replay {
        /// The first of them.
        from: Seq,
        /// The last of them.
        to: Seq,
    },
    /// Its replay ends where it is; jobs that it made stay.
    StopReplay,
}

/// Something to do once the batch is on the disk.
#[derive(Debug, Clone)]
pub enum Effect {
    /// A claim was matched and caused this many fires.
    Fired {
        /// Which claim.
        seq: Seq,
        /// How many jobs were made.
        fires: u32,
    },
    /// The payload of a claim that fired, so that nobody has to make it again.
    Payload {
        /// Which claim.
        seq: Seq,
        /// Its payload.
        bytes: Arc<[u8]>,
    },
    /// An attempt starts.
    Start(Box<Start>),
    /// An attempt that started in the batch leaves not before a moment after its commit, because of
    /// its watcher's limit. Follows from [`Event::Committed`] alone; attempts that it does not tell of
    /// leave at once.
    LeaveAt {
        /// Whose attempt.
        job: JobNumber,
        /// When.
        at: Mono,
    },
    /// Read waiting jobs of a lane and tell of them with [`Event::Loaded`].
    Load {
        /// Which lane.
        lane: LaneKey,
        /// Jobs at this place or a later one.
        from: Place,
        /// At most so many.
        limit: usize,
    },
    /// An attempt that started is to be given up by whoever carries it out, who tells that it ended when it
    /// is: until then it counts as under way at its plugin.
    CancelAttempt {
        /// Whose attempt.
        job: JobNumber,
        /// Which.
        attempt: u32,
    },
    /// An attempt under way told how far it is.
    Progressed(Box<Progressed>),
    /// An announcement lacks what was there before, and is not believed yet.
    Doubted {
        /// Whose.
        plugin: PluginName,
        /// The handlers that it lacks; their jobs are held.
        handlers: Vec<String>,
        /// The watchers that it lacks, as shown; they stay.
        watchers: Vec<String>,
        /// The schedules that it lacks; they stay.
        schedules: Vec<String>,
        /// The routes that it lacks; they stay.
        routes: Vec<String>,
    },
    /// A watcher's AX text is none: one that stands, after an upgrade, or one that a plugin declares.
    Unparsed {
        /// The plugin that declared it, or `user`.
        owner: Owner,
        /// The watcher as shown.
        watcher: Arc<str>,
        /// Its text, or the beginning of a long one.
        text: String,
        /// The mistakes in it.
        reason: String,
    },
    /// A budget is nearly used up, or more than that. Told of once until less of it is used again.
    BudgetWarning {
        /// Whose budget.
        scope: BudgetScope,
        /// What of it.
        kind: BudgetKind,
        /// How much is used.
        used: String,
        /// How much there is.
        of: String,
    },
    /// A job was given up: a dead letter.
    GaveUp {
        /// The job.
        id: JobId,
        /// The plugin that had it last; `None` of a handler that nobody has.
        plugin: Option<PluginName>,
        /// The watcher as shown; empty without one.
        watcher: Arc<str>,
        /// The handler as declared.
        handler: Arc<str>,
        /// Attempts that it had.
        attempts: u32,
        /// It said itself that it would fail again.
        permanent: bool,
        /// Why.
        reason: String,
    },
    /// A request is answered.
    Reply {
        /// Which.
        request: RequestId,
        /// With what.
        answer: Answer,
    },
}

/// How far an attempt under way is.
#[derive(Debug, Clone, PartialEq)]
pub struct Progressed {
    /// Which job.
    pub job: JobNumber,
    /// Its id.
    pub id: JobId,
    /// Which attempt.
    pub attempt: u32,
    /// How far it is, and of how much.
    pub progress: Option<(i32, i32)>,
    /// How far it is has changed in this attempt.
    pub moved: bool,
    /// What all attempts of the job have cost so far.
    pub cost: Option<f64>,
    /// What it had to say, as far as that is kept.
    pub entries: Vec<JobEntryRow>,
}

/// One attempt, as the dispatcher needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// The job's row.
    pub job: JobNumber,
    /// The job's id, the same on every attempt.
    pub id: JobId,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Who answers for the handler.
    pub plugin: PluginName,
    /// Which of its processes.
    pub incarnation: u64,
    /// The handler's bare name.
    pub handler: Arc<str>,
    /// The claim whose payload it gets.
    pub seq: Option<Seq>,
    /// The payload of a job that was made with this very batch. What others were given the store has; the rest
    /// get one that is made from their claim.
    pub payload: Option<Arc<[u8]>>,
    /// The watcher's parameters.
    pub params: Option<Arc<str>>,
    /// The watcher as shown; empty without one.
    pub watcher: Arc<str>,
    /// The watcher's number, by which chains of causes name it.
    pub watcher_number: Option<WatcherNumber>,
    /// The watcher's revision; 0 without one.
    pub revision: u64,
    /// The version of a stored handler that the attempt runs: the claim that has its code.
    pub handler_version: Option<AttestationId>,
    /// The schedule that asked for the job; empty without one.
    pub schedule: Arc<str>,
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// What became of a registration; refused as a whole from a process or a plugin that has no say, or that
    /// lost it before all was taken.
    Registered(Result<Verdicts, Refusal>),
    /// A plugin is disabled or enabled, or was so before.
    Plugin(Result<(), Refusal>),
    /// The watcher as it now stands.
    Watcher(Result<Box<WatcherRow>, Refusal>),
    /// The job as it now stands.
    Job(Result<Box<JobRow>, Refusal>),
    /// The schedule as it now stands.
    Schedule(Result<Box<ScheduleRow>, Refusal>),
    /// The budget as it was set.
    Budget(Result<Box<BudgetRow>, Refusal>),
    /// Whether it was the attempt under way that told something.
    Heard(bool),
    /// What was asked for is a job now.
    Enqueued(Result<Enqueued, Refusal>),
}

/// What became of a registration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdicts {
    /// Of each of its watchers, in their order.
    pub watchers: Vec<(String, Result<(), Refusal>)>,
    /// All that was not taken, and why: watchers among it.
    pub refused: Vec<RefusedRow>,
}

/// Why something was not done: the request's fault, and what would be right.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What is wrong with it, for programs.
    pub kind: RefusalKind,
    /// What is wrong with it and what would be right, for people.
    pub reason: String,
    /// The mistakes of its AX text, when that is what is wrong: the JSON that AX.md describes.
    pub mistakes: Option<Box<axwatch_query::Mistakes>>,
}

/// What is wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// It is not well-formed.
    Invalid,
    /// What it names is not there.
    NotFound,
    /// It contradicts what stands.
    Conflict,
    /// There is no room for it now.
    Exhausted,
}
