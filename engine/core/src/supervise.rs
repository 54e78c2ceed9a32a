//! The second pure machine: one plugin and the process it runs as.
//!
//! [`Supervisor::step`] takes what happened to the process, or what is wanted of it, and says what to
//! do next; [`Supervisor::next_wake`] says when to come back if nothing happens. At most one process
//! of a plugin is wanted at a time, and each has a number, its incarnation: what is told of any other
//! one changes nothing, so that a late answer of a process that is gone cannot disturb its successor.
//!
//! A process goes Spawn → Connect → Initialize → up, with Health from then on. Whatever ends it before
//! it was asked to end counts as a crash, which is waited out with a growing delay; too many crashes,
//! or a launch that leads nowhere, end in `failed`, from which one launch is tried every
//! [`PROBE_EVERY`]. A process that lives and is not healthy is another matter: it is replaced at once,
//! and again no sooner than [`HEAL_FIRST`] later, doubling, and is `degraded` while that is waited for.
//! A stop goes Shutdown → SIGTERM → SIGKILL and is over within [`STOP_MAX`], whatever the process does.
//!
//! Initialize is called by whoever holds an [`InitializeOnce`], and only this machine makes those: one
//! for each process, and one more for each reconfiguration that a person asks for.
//!
//! Not here: processes, sockets and calls (the plugin's actor in `axwatch_engine::plugin`), the jobs
//! of a plugin that is down (`crate::State`).

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use axwatch_model::{Mono, PluginName};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// How long a plugin may take to say its port before the requested one is assumed.
pub const ANNOUNCEMENT_WITHIN: Duration = Duration::from_secs(2);
/// From one Health call to the next.
pub const HEALTH_EVERY: Duration = Duration::from_secs(10);
/// How long a Health call may take. Whoever makes it keeps this time.
pub const HEALTH_WITHIN: Duration = Duration::from_secs(5);
/// Health failures in a row that say something.
pub const HEALTH_FAILURES: u32 = 2;
/// The delay before the first restart. Each further one doubles it.
pub const BACK_OFF_FIRST: Duration = Duration::from_millis(100);
/// The longest delay before a restart, before its jitter of a quarter up or down.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Restarts within [`RESTARTS_WITHIN`] that are made; instead of one more the plugin is `failed`.
pub const RESTARTS_MAX: usize = 5;
/// The window of [`RESTARTS_MAX`], and how long a process has to be up until its crashes are forgotten.
pub const RESTARTS_WITHIN: Duration = Duration::from_secs(60);
/// From `failed` to the next launch.
pub const PROBE_EVERY: Duration = Duration::from_secs(5 * 60);
/// After a restart for failed health, the next one for that is made no sooner than this later. Each
/// further one doubles it.
pub const HEAL_FIRST: Duration = Duration::from_secs(10);
/// The longest that a restart for failed health is put off.
pub const HEAL_MAX: Duration = Duration::from_secs(640);
/// How long Health has to be answered well until restarts for failed health are forgotten.
pub const HEALTHY_WITHIN: Duration = Duration::from_secs(10 * 60);
/// How long the Shutdown call may take, or a launch that is under way when the stop comes.
pub const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);
/// From SIGTERM to SIGKILL.
pub const TERM_WITHIN: Duration = Duration::from_secs(3);
/// From SIGKILL until a process that is still there is left to itself.
pub const KILL_WITHIN: Duration = Duration::from_secs(1);
/// What stands between why it crashed and when it is launched again.
const RESTART: &str = "; restart ";
/// The longest that any stop takes.
pub const STOP_MAX: Duration = Duration::from_secs(5 + 3 + 1);

/// What the plugin's configuration says about time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the launch until Metadata is answered.
    pub ready: Duration,
    /// How long Initialize and the registration may take. Whoever reconfigures gives Initialize this time too,
    /// and does not try to register again when it is over.
    pub initialize: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { ready: Duration::from_secs(30), initialize: Duration::from_secs(120) }
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The plugin is wanted. Means something only when it is stopped, or about to be.
    Start,
    /// The plugin is not wanted any more, or the engine ends.
    StopRequested,
    /// The plugin is not wanted until somebody says otherwise.
    DisableRequested,
    /// Another try is wanted now: of a plugin that is down a new process, of one that runs nothing but
    /// that its crashes are forgotten.
    ResetRequested,
    /// Initialize is to be called again on the process that is up, because its configuration changed.
    /// Means nothing unless [`Supervisor::may_be_reconfigured`].
    ReconfigureRequested,
    /// A new process is wanted, whatever the state, with all crashes forgotten: a person asked, or the
    /// configuration changed.
    RestartRequested,
    /// Time went by.
    Tick,
    /// Something was seen of a process.
    Process {
        /// Which: as in the [`Action::Spawn`] that asked for it.
        incarnation: u64,
        /// What.
        seen: Seen,
    },
}

/// Something that was seen of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It runs.
    Spawned {
        /// Its process id.
        pid: u32,
    },
    /// It could not be launched.
    SpawnFailed {
        /// Why.
        reason: String,
    },
    /// It said which port it listens on: for the first time, or another than was assumed.
    PortKnown,
    /// A try to reach it, or to register what it announced, failed and will be repeated. Only makes the
    /// reason better.
    NotYet {
        /// Why: `Metadata: connection refused`.
        reason: String,
    },
    /// It answered Metadata, and what it said is right.
    MetadataOk,
    /// It is initialised and what it announced is registered.
    Ready,
    /// It did not initialise, or what it announced could not be registered at all.
    InitializeFailed {
        /// Why.
        reason: String,
    },
    /// It is not what was configured: another name or protocol version, not a plugin, listening beyond
    /// loopback. No restart helps; only [`Input::RestartRequested`] tries again.
    Fatal {
        /// Why.
        reason: String,
    },
    /// It took another configuration, and what it announced now is registered.
    Reconfigured,
    /// It did not take another configuration, or what it announced then is not registered: what it has is as before.
    ReconfigureFailed {
        /// Why.
        reason: String,
    },
    /// It answered Health well.
    HealthOk,
    /// It answered Health badly, or not within [`HEALTH_WITHIN`].
    HealthFailed {
        /// Why.
        reason: String,
        /// Whether attempts were under way: some plugins answer nothing while they work.
        jobs_running: bool,
    },
    /// An attempt had its whole deadline and no answer came.
    DeadlinePassed,
    /// The Shutdown call is over, answered or not.
    ShutdownDone,
    /// It is gone, with its launcher and all of its children.
    Exited {
        /// How: `exit status: 1`, `signal: 9 (SIGKILL)`.
        status: String,
    },
}

/// The right to call Initialize once at one process.
///
/// Made by [`Supervisor::step`] alone, not to be copied, and used up by the call: no health check, no
/// request and no second dial can come to call Initialize too.
#[derive(PartialEq, Eq)]
pub struct InitializeOnce {
    incarnation: u64,
}

impl InitializeOnce {
    /// At which process.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }
}

impl fmt::Debug for InitializeOnce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.incarnation.fmt(formatter)
    }
}

/// Something to do. The number names the process, by its incarnation.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Launch a new process. Answered with [`Seen::Spawned`] or [`Seen::SpawnFailed`].
    Spawn(u64),
    /// Call Metadata at the announced port, else at the requested one, again and again; a dial at
    /// another port ends. Answered with [`Seen::MetadataOk`] or [`Seen::Fatal`].
    Connect(u64),
    /// Call Initialize and register what it announces. Answered with [`Seen::Ready`],
    /// [`Seen::InitializeFailed`] or [`Seen::Fatal`].
    Initialize(InitializeOnce),
    /// Call Initialize with the configuration as it is now, and register what it announces. Answered
    /// within [`Timing::initialize`], and later only while that is being written, with [`Seen::Reconfigured`] or
    /// [`Seen::ReconfigureFailed`].
    Reconfigure(InitializeOnce),
    /// Call Health. Answered within [`HEALTH_WITHIN`].
    PollHealth(u64),
    /// Call Shutdown. Answered with [`Seen::ShutdownDone`]. All other calls but jobs end.
    SendShutdown(u64),
    /// Send SIGTERM to the process group.
    SendTerm(u64),
    /// Send SIGKILL to the process group. When there is none any more, nothing is to be done.
    SendKill(u64),
    /// It takes jobs from now on.
    ReportUp(u64),
    /// It takes no jobs any more. Once for each process that was told to initialise, as it may have
    /// been registered before that was seen to succeed.
    ReportDown {
        /// Which process.
        incarnation: u64,
        /// Why.
        reason: String,
    },
    /// Keep for the audit that people see another state from now on.
    Transition {
        /// The last process that was asked for.
        incarnation: u64,
        /// The state until now.
        from: Status,
        /// The state from now on.
        to: Status,
        /// Why.
        reason: String,
    },
    /// Say so in the log.
    Log {
        /// How bad it is.
        level: LogLevel,
        /// What, without the plugin's name.
        text: String,
    },
}

/// How bad a line of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// As it should be.
    Info,
    /// Handled, and worth a look.
    Warn,
    /// Somebody has to do something.
    Error,
}

/// A plugin's state as people see it. While a process is being stopped, this is what comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// A process was launched, or is about to be, and is not up yet.
    Starting,
    /// It takes jobs.
    Ready,
    /// It takes jobs and does not answer Health; what it works on may be why.
    Degraded,
    /// It ended by itself and will be launched again soon.
    BackingOff,
    /// It is not launched again, or only every [`PROBE_EVERY`].
    Failed,
    /// It is not wanted.
    Stopped,
}

impl Status {
    /// The word for it, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Starting => "starting",
            Status::Ready => "ready",
            Status::Degraded => "degraded",
            Status::BackingOff => "backing_off",
            Status::Failed => "failed",
            Status::Stopped => "stopped",
        }
    }
}

/// Where the process of a plugin stands. `until` is when waiting ends.
#[derive(Debug, Clone)]
enum Phase {
    Stopped,
    /// Asked for, not yet seen.
    Spawning {
        until: Mono,
    },
    /// Its port is awaited.
    Announcing {
        assume_at: Mono,
        until: Mono,
    },
    /// Metadata is awaited.
    Connecting {
        until: Mono,
    },
    Initializing {
        until: Mono,
    },
    Up(Up),
    Stopping {
        stage: Stage,
        until: Mono,
        after: After,
    },
    BackingOff {
        until: Mono,
    },
    /// Without `probe_at` only a person gets it out of there.
    Failed {
        probe_at: Option<Mono>,
    },
}

/// What is known of a process that is up.
#[derive(Debug, Clone)]
struct Up {
    since: Mono,
    poll_at: Mono,
    /// Health failures since Health was last answered well.
    failures: u32,
    /// Whether attempts were under way at the last of them.
    jobs_running: bool,
    /// Whether an attempt passed its deadline since Health was last answered well.
    deadline_passed: bool,
    /// What the last of the failures was.
    failure: String,
    /// Since when Health has been answered well, each time.
    healthy_since: Option<Mono>,
    /// When it is restarted for its health, if that does not become better: not before, because it was
    /// restarted for it a short time ago.
    heal_at: Option<Mono>,
    /// Initialize is being called once more.
    reconfiguring: bool,
    /// Why it did not take another configuration.
    refused: Option<String>,
}

impl Up {
    fn new(now: Mono) -> Up {
        Up {
            since: now,
            poll_at: now.plus(HEALTH_EVERY),
            failures: 0,
            jobs_running: false,
            deadline_passed: false,
            failure: String::new(),
            healthy_since: Some(now),
            heal_at: None,
            reconfiguring: false,
            refused: None,
        }
    }

    /// Why all is not as it should be; empty when it is.
    fn reason(&self) -> String {
        match self.failures {
            0 => self.refused.clone().unwrap_or_default(),
            1 => format!("Health failed once: {}", self.failure),
            failures => {
                let passed = if self.deadline_passed { "; a job passed its deadline" } else { "" };
                format!("Health failed {failures} times in a row: {}{passed}", self.failure)
            }
        }
    }

    /// Whether it has to be restarted. One that works may only be busy: then a passed deadline is what
    /// shows that it hangs.
    fn is_sick(&self) -> bool {
        self.failures >= HEALTH_FAILURES && (!self.jobs_running || self.deadline_passed)
    }
}

/// How far a stop has come: what is being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The launch, so that there is something to stop.
    Spawn,
    /// The Shutdown call.
    Shutdown,
    /// The end after SIGTERM.
    Term,
    /// The end after SIGKILL.
    Kill,
}

/// What follows once a process is gone.
#[derive(Debug, Clone)]
enum After {
    Rest,
    Disabled,
    Launch,
    Heal { reason: String },
    BackOff { reason: String },
    Fail { reason: String, probe: bool },
}

impl After {
    fn status(&self) -> Status {
        match self {
            After::Rest | After::Disabled => Status::Stopped,
            After::Launch | After::Heal { .. } => Status::Starting,
            After::BackOff { .. } => Status::BackingOff,
            After::Fail { .. } => Status::Failed,
        }
    }

    fn reason(&self) -> &str {
        match self {
            After::Rest => "stopped on request",
            After::Disabled => "disabled",
            After::Launch => "restarted on request",
            After::Heal { reason } | After::BackOff { reason } | After::Fail { reason, .. } => {
                reason
            }
        }
    }
}

/// Supervises the process of one plugin.
#[derive(Debug, Clone)]
pub struct Supervisor {
    plugin: PluginName,
    timing: Timing,
    phase: Phase,
    reason: String,
    /// The last process that was asked for.
    incarnation: u64,
    pid: Option<u32>,
    /// Whether the last process was told to initialise and its end not yet reported.
    may_be_up: bool,
    /// The last failed try to reach it, or to register it once it was reached.
    not_yet: Option<String>,
    /// Crashes since a process was last up for [`RESTARTS_WITHIN`].
    crashes: u32,
    /// When the last restarts after crashes were made, at most [`RESTARTS_MAX`] of them.
    restarts: VecDeque<Mono>,
    /// Whether the present process is a try from `failed`: if it crashes there is no second one.
    half_open: bool,
    /// Restarts for failed health since Health was last answered well for [`HEALTHY_WITHIN`].
    heals: u32,
    /// When the last of them was made.
    healed_at: Option<Mono>,
}

impl Supervisor {
    /// A plugin that is stopped. Its processes are numbered from `last_incarnation + 1` on.
    #[must_use]
    pub fn new(plugin: PluginName, timing: Timing, last_incarnation: u64) -> Supervisor {
        Supervisor {
            plugin,
            timing,
            phase: Phase::Stopped,
            reason: "not started".to_owned(),
            incarnation: last_incarnation,
            pid: None,
            may_be_up: false,
            not_yet: None,
            crashes: 0,
            restarts: VecDeque::with_capacity(RESTARTS_MAX),
            half_open: false,
            heals: 0,
            healed_at: None,
        }
    }

    /// Other times, from the next process on.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Takes what happened, and says what to do, in this order. What happened counts before what the
    /// time makes of it: an answer that came just in time and is told late is in time.
    pub fn step(&mut self, input: Input, now: Mono) -> Vec<Action> {
        let mut actions = Vec::new();
        let before = self.status();
        match input {
            Input::Start => self.start(now, &mut actions),
            Input::StopRequested => self.stop(After::Rest, now, &mut actions),
            Input::DisableRequested => self.stop(After::Disabled, now, &mut actions),
            Input::RestartRequested => self.stop(After::Launch, now, &mut actions),
            Input::ResetRequested => self.reset(now, &mut actions),
            Input::ReconfigureRequested => self.reconfigure(&mut actions),
            Input::Tick => {}
            Input::Process { incarnation, seen } => {
                self.seen(incarnation, seen, now, &mut actions);
            }
        }
        self.note_transition(before, &mut actions);
        while self.next_wake().is_some_and(|due| due <= now) {
            let before = self.status();
            self.wake(now, &mut actions);
            self.note_transition(before, &mut actions);
        }
        actions
    }

    fn note_transition(&self, from: Status, actions: &mut Vec<Action>) {
        let to = self.status();
        if from == to {
            return;
        }
        let reason = match (self.reason.as_str(), from) {
            ("", Status::Degraded) => "healthy again",
            ("", _) => "initialized",
            (reason, _) => reason,
        };
        let (incarnation, reason) = (self.incarnation, reason.to_owned());
        actions.push(Action::Transition { incarnation, from, to, reason });
    }

    /// When to come back with [`Input::Tick`] if nothing happens before; `None` when only an input can
    /// change anything.
    #[must_use]
    pub fn next_wake(&self) -> Option<Mono> {
        match &self.phase {
            Phase::Stopped => None,
            Phase::Announcing { assume_at, until } => Some(*assume_at.min(until)),
            Phase::Spawning { until }
            | Phase::Connecting { until }
            | Phase::Initializing { until }
            | Phase::Stopping { until, .. }
            | Phase::BackingOff { until } => Some(*until),
            Phase::Up(up) => Some(up.heal_at.map_or(up.poll_at, |heal_at| heal_at.min(up.poll_at))),
            Phase::Failed { probe_at } => *probe_at,
        }
    }

    /// The state that people see.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.phase {
            Phase::Stopped => Status::Stopped,
            Phase::Spawning { .. }
            | Phase::Announcing { .. }
            | Phase::Connecting { .. }
            | Phase::Initializing { .. } => Status::Starting,
            Phase::Up(up) if up.failures >= HEALTH_FAILURES => Status::Degraded,
            Phase::Up(_) => Status::Ready,
            Phase::Stopping { after, .. } => after.status(),
            Phase::BackingOff { .. } => Status::BackingOff,
            Phase::Failed { .. } => Status::Failed,
        }
    }

    /// Why it is in this state; empty when all is well.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The number of the last process that was asked for.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The process id, while a process is there.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether the process is one that is being stopped, to make room for the next.
    #[must_use]
    pub fn is_being_replaced(&self) -> bool {
        matches!(self.phase, Phase::Stopping { .. }) && self.status() == Status::Starting
    }

    /// Why the process is not up yet although it answers: what the last try to register it came to.
    #[must_use]
    pub fn held_up(&self) -> Option<&str> {
        let is_initializing = matches!(self.phase, Phase::Initializing { .. });
        self.not_yet.as_deref().filter(|_| is_initializing)
    }

    /// Whether it is stopped and nothing is left to be done about it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Stopped)
    }

    /// Whether there is a process that can be told another configuration now.
    #[must_use]
    pub fn may_be_reconfigured(&self) -> bool {
        matches!(&self.phase, Phase::Up(up) if !up.reconfiguring)
    }

    fn start(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if !self.is_wanted() {
            self.stop(After::Launch, now, actions);
        }
    }

    fn is_wanted(&self) -> bool {
        let after = match &self.phase {
            Phase::Stopped => return false,
            Phase::Stopping { after, .. } => after,
            _ => return true,
        };
        !matches!(after, After::Rest | After::Disabled)
    }

    /// Whether a reset leaves the process that there is, or is about to be, as it is.
    #[must_use]
    pub fn is_left_by_a_reset(&self) -> bool {
        self.is_running() || matches!(self.phase, Phase::Spawning { .. })
    }

    fn reset(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if self.is_left_by_a_reset() {
            self.forget_all();
            actions.push(log(LogLevel::Info, "its crashes and restarts are forgotten"));
            self.judge(now, actions);
        } else {
            self.stop(After::Launch, now, actions);
        }
    }

    fn reconfigure(&mut self, actions: &mut Vec<Action>) {
        if let Phase::Up(up) = &mut self.phase
            && !up.reconfiguring
        {
            up.reconfiguring = true;
            actions.push(Action::Reconfigure(InitializeOnce { incarnation: self.incarnation }));
        }
    }

    /// It was told another configuration, and took it or said why not.
    fn reconfigured(&mut self, refused: Option<String>, actions: &mut Vec<Action>) {
        let Phase::Up(up) = &mut self.phase else { return };
        if !std::mem::take(&mut up.reconfiguring) {
            return;
        }
        actions.push(match &refused {
            None => log(LogLevel::Info, "reconfigured"),
            Some(reason) => log(LogLevel::Error, reason.as_str()),
        });
        up.refused = refused;
        if up.failures == 0 {
            self.reason = up.reason();
        }
    }

    fn spawned(&mut self, incarnation: u64, pid: u32, now: Mono, actions: &mut Vec<Action>) {
        let present = incarnation == self.incarnation;
        match &self.phase {
            Phase::Spawning { until } if present => {
                self.pid = Some(pid);
                let assume_at = now.plus(ANNOUNCEMENT_WITHIN.min(self.timing.ready / 2));
                self.phase = Phase::Announcing { assume_at, until: *until };
                "launched; its port is awaited".clone_into(&mut self.reason);
            }
            Phase::Stopping { stage: Stage::Spawn, .. } if present => {
                self.pid = Some(pid);
                self.escalate(Stage::Term, now, actions);
            }
            _ if present && self.pid.is_some() => {}
            // Its launch took so long that it is not wanted any more.
            _ => actions.push(Action::SendKill(incarnation)),
        }
    }

    fn seen(&mut self, incarnation: u64, seen: Seen, now: Mono, actions: &mut Vec<Action>) {
        match seen {
            Seen::Spawned { pid } => self.spawned(incarnation, pid, now, actions),
            // A predecessor that was given up: its successor goes on.
            _ if incarnation != self.incarnation => {}
            Seen::SpawnFailed { reason } => {
                let reason = format!("cannot be launched: {reason}");
                self.not_launched(After::BackOff { reason }, now, actions);
            }
            Seen::Exited { status } => self.exited(&status, now, actions),
            Seen::ShutdownDone => {
                if matches!(self.phase, Phase::Stopping { stage: Stage::Shutdown, .. }) {
                    self.escalate(Stage::Term, now, actions);
                }
            }
            Seen::Fatal { reason } if !self.is_running() => {
                self.not_launched(After::Fail { reason, probe: false }, now, actions);
            }
            // A process that is on its way out, or is out, has nothing else to say.
            _ if !self.is_running() => {}
            Seen::Fatal { reason } => self.stop(After::Fail { reason, probe: false }, now, actions),
            Seen::PortKnown => self.connect(actions),
            Seen::NotYet { reason } => self.not_yet = Some(reason),
            Seen::MetadataOk => self.initialize(now, actions),
            Seen::InitializeFailed { reason } => {
                let reason = format!("Initialize failed: {reason}");
                self.stop(After::BackOff { reason }, now, actions);
            }
            Seen::Ready => self.ready(now, actions),
            Seen::Reconfigured => self.reconfigured(None, actions),
            Seen::ReconfigureFailed { reason } => {
                let reason = format!("not reconfigured: {reason}; it goes on as before");
                self.reconfigured(Some(reason), actions);
            }
            Seen::HealthOk => self.health_ok(now, actions),
            Seen::HealthFailed { reason, jobs_running } => {
                self.health_failed(reason, jobs_running, now, actions);
            }
            Seen::DeadlinePassed => self.deadline_passed(now, actions),
        }
    }

    /// Whether a process is there that nobody has told to stop.
    fn is_running(&self) -> bool {
        match self.phase {
            Phase::Announcing { .. }
            | Phase::Connecting { .. }
            | Phase::Initializing { .. }
            | Phase::Up(_) => true,
            Phase::Stopped
            | Phase::Spawning { .. }
            | Phase::Stopping { .. }
            | Phase::BackingOff { .. }
            | Phase::Failed { .. } => false,
        }
    }

    fn launch(&mut self, now: Mono, actions: &mut Vec<Action>) {
        self.incarnation += 1;
        self.not_yet = None;
        self.phase = Phase::Spawning { until: now.plus(self.timing.ready) };
        "launching".clone_into(&mut self.reason);
        actions.push(Action::Spawn(self.incarnation));
    }

    /// The first time, or again because the port is another than was assumed.
    fn connect(&mut self, actions: &mut Vec<Action>) {
        if let Phase::Announcing { until, .. } | Phase::Connecting { until } = self.phase {
            self.phase = Phase::Connecting { until };
            "launched; its Metadata is awaited".clone_into(&mut self.reason);
            actions.push(Action::Connect(self.incarnation));
        }
    }

    fn initialize(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Connecting { .. }) {
            self.not_yet = None;
            self.phase = Phase::Initializing { until: now.plus(self.timing.initialize) };
            "initializing".clone_into(&mut self.reason);
            self.may_be_up = true;
            let incarnation = self.incarnation;
            actions.push(Action::Initialize(InitializeOnce { incarnation }));
        }
    }

    fn ready(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Initializing { .. }) {
            self.phase = Phase::Up(Up::new(now));
            self.reason.clear();
            actions.push(Action::ReportUp(self.incarnation));
            actions.push(log(LogLevel::Info, "ready"));
        }
    }

    fn health_ok(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Phase::Up(up) = &mut self.phase else { return };
        if up.failures >= HEALTH_FAILURES {
            actions.push(log(LogLevel::Info, "healthy again"));
        }
        (up.failures, up.deadline_passed, up.heal_at) = (0, false, None);
        let since = *up.healthy_since.get_or_insert(now);
        self.reason = up.reason();
        if now.since(since) >= HEALTHY_WITHIN {
            self.forget_heals();
        }
    }

    fn health_failed(
        &mut self,
        reason: String,
        jobs_running: bool,
        now: Mono,
        actions: &mut Vec<Action>,
    ) {
        let Phase::Up(up) = &mut self.phase else { return };
        up.failures += 1;
        (up.failure, up.jobs_running, up.healthy_since) = (reason, jobs_running, None);
        self.reason = up.reason();
        if up.failures == HEALTH_FAILURES {
            actions.push(log(LogLevel::Warn, self.reason.as_str()));
        }
        self.judge(now, actions);
    }

    fn deadline_passed(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let Phase::Up(up) = &mut self.phase else { return };
        up.deadline_passed = true;
        self.judge(now, actions);
    }

    /// Restarts a process that is sick: at once, or when the last restart for that is long enough ago.
    fn judge(&mut self, now: Mono, actions: &mut Vec<Action>) {
        let may_heal_at = self.may_heal_at();
        let Phase::Up(up) = &mut self.phase else { return };
        up.heal_at = None;
        if !up.is_sick() {
            return;
        }
        let reason = up.reason();
        match may_heal_at {
            Some(at) if at > now => {
                up.heal_at = Some(at);
                let secs = at.since(now).as_secs_f64();
                let times = if self.heals == 1 { "once" } else { "before" };
                self.reason = format!(
                    "{reason}; it was restarted for that {times}, and is again in {secs:.0} s"
                );
            }
            _ => self.stop(After::Heal { reason }, now, actions),
        }
    }

    /// Before when no process is restarted for its health.
    fn may_heal_at(&self) -> Option<Mono> {
        let doublings = self.heals.saturating_sub(1).min(16);
        self.healed_at.map(|at| at.plus((HEAL_FIRST * (1 << doublings)).min(HEAL_MAX)))
    }

    /// The process that was asked for will not come.
    fn not_launched(&mut self, after: After, now: Mono, actions: &mut Vec<Action>) {
        match &self.phase {
            Phase::Spawning { .. } => self.proceed(after, now, actions),
            Phase::Stopping { stage: Stage::Spawn, .. } => self.gone(now, actions),
            _ => {}
        }
    }

    fn exited(&mut self, status: &str, now: Mono, actions: &mut Vec<Action>) {
        match &self.phase {
            Phase::Stopped | Phase::BackingOff { .. } | Phase::Failed { .. } => {}
            Phase::Stopping { .. } => self.gone(now, actions),
            Phase::Up(_) => self.crashed(&format!("ended: {status}"), now, actions),
            Phase::Spawning { .. }
            | Phase::Announcing { .. }
            | Phase::Connecting { .. }
            | Phase::Initializing { .. } => {
                self.crashed(&format!("ended before it was ready: {status}"), now, actions);
            }
        }
    }

    /// Sees to it that there is no process, and then goes on with `after`. A stop that is under way
    /// keeps its pace.
    fn stop(&mut self, after: After, now: Mono, actions: &mut Vec<Action>) {
        after.reason().clone_into(&mut self.reason);
        self.forget_crashes_of_old(now);
        self.report_down(actions);
        let stage = match &mut self.phase {
            Phase::Stopping { after: planned, .. } => {
                *planned = after;
                return;
            }
            Phase::Stopped | Phase::BackingOff { .. } | Phase::Failed { .. } => {
                return self.proceed(after, now, actions);
            }
            Phase::Spawning { .. } => Stage::Spawn,
            Phase::Announcing { .. } | Phase::Connecting { .. } => Stage::Term,
            Phase::Initializing { .. } | Phase::Up(_) => Stage::Shutdown,
        };
        self.phase = Phase::Stopping { stage, until: now, after };
        self.escalate(stage, now, actions);
    }

    /// Enters a stage of the stop under way.
    fn escalate(&mut self, to: Stage, now: Mono, actions: &mut Vec<Action>) {
        let Phase::Stopping { stage, until, .. } = &mut self.phase else { return };
        let (within, action) = match to {
            Stage::Spawn => (SHUTDOWN_WITHIN, None),
            Stage::Shutdown => (SHUTDOWN_WITHIN, Some(Action::SendShutdown(self.incarnation))),
            Stage::Term => (TERM_WITHIN, Some(Action::SendTerm(self.incarnation))),
            Stage::Kill => (KILL_WITHIN, Some(Action::SendKill(self.incarnation))),
        };
        (*stage, *until) = (to, now.plus(within));
        actions.extend(action);
    }

    /// The process that was to be stopped is gone, or was given up.
    fn gone(&mut self, now: Mono, actions: &mut Vec<Action>) {
        if let Phase::Stopping { after, .. } = std::mem::replace(&mut self.phase, Phase::Stopped) {
            self.proceed(after, now, actions);
        }
    }

    fn proceed(&mut self, after: After, now: Mono, actions: &mut Vec<Action>) {
        self.pid = None;
        match after {
            After::Rest => {
                self.phase = Phase::Stopped;
                actions.push(log(LogLevel::Info, "stopped"));
            }
            After::Disabled => {
                self.phase = Phase::Stopped;
                actions.push(log(LogLevel::Info, "disabled, until somebody enables it"));
            }
            After::Launch => {
                self.forget_all();
                self.launch(now, actions);
            }
            After::Heal { reason } => self.heal(reason, now, actions),
            After::BackOff { reason } => self.crashed(&reason, now, actions),
            After::Fail { reason, probe } => self.fail(reason, probe, now, actions),
        }
    }

    /// The process is gone because it was sick.
    fn heal(&mut self, reason: String, now: Mono, actions: &mut Vec<Action>) {
        if self.half_open {
            return self.fail(reason, true, now, actions);
        }
        self.heals = self.heals.saturating_add(1);
        self.healed_at = Some(now);
        actions.push(log(LogLevel::Warn, format!("{reason}; restarted for that")));
        self.launch(now, actions);
    }

    /// The process is gone, and not because somebody wanted that.
    fn crashed(&mut self, reason: &str, now: Mono, actions: &mut Vec<Action>) {
        self.pid = None;
        self.forget_crashes_of_old(now);
        reason.clone_into(&mut self.reason);
        self.report_down(actions);
        if self.half_open {
            return self.fail(reason.to_owned(), true, now, actions);
        }
        self.crashes += 1;
        let delay = back_off(&self.plugin, self.crashes);
        let due = now.plus(delay);
        if self.restarts_before(due) >= RESTARTS_MAX {
            let reason = format!("restarted {RESTARTS_MAX} times within 60 s; at last: {reason}");
            return self.fail(reason, true, now, actions);
        }
        self.phase = Phase::BackingOff { until: due };
        let delay_secs = delay.as_secs_f64();
        let text = format!("{reason}{RESTART}{} in {delay_secs:.1} s", self.crashes);
        actions.push(log(LogLevel::Warn, text.as_str()));
        self.reason = text;
    }

    /// Restarts that would share a window of [`RESTARTS_WITHIN`] with one at `due`.
    fn restarts_before(&self, due: Mono) -> usize {
        self.restarts.iter().filter(|at| due.since(**at) < RESTARTS_WITHIN).count()
    }

    fn fail(&mut self, reason: String, probe: bool, now: Mono, actions: &mut Vec<Action>) {
        self.phase = Phase::Failed { probe_at: probe.then(|| now.plus(PROBE_EVERY)) };
        let next = if probe { "it is tried again in 5 min" } else { "it is not tried again" };
        actions.push(log(LogLevel::Error, format!("failed: {reason}; {next}")));
        self.reason = reason;
    }

    /// Once for a process that may be known to the engine as one that takes jobs.
    fn report_down(&mut self, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.may_be_up) {
            let (incarnation, reason) = (self.incarnation, self.reason.clone());
            actions.push(Action::ReportDown { incarnation, reason });
        }
    }

    /// A process that was up for long enough has shown that what went before is over.
    fn forget_crashes_of_old(&mut self, now: Mono) {
        if matches!(&self.phase, Phase::Up(up) if now.since(up.since) >= RESTARTS_WITHIN) {
            self.forget_crashes();
        }
    }

    fn forget_all(&mut self) {
        self.forget_crashes();
        self.forget_heals();
    }

    fn forget_heals(&mut self) {
        (self.heals, self.healed_at) = (0, None);
    }

    fn forget_crashes(&mut self) {
        self.crashes = 0;
        self.restarts.clear();
        self.half_open = false;
    }

    /// The time came that the present phase waited for.
    fn wake(&mut self, now: Mono, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Stopped => {}
            Phase::Announcing { until, .. } if *until > now => self.connect(actions),
            Phase::Spawning { .. } | Phase::Announcing { .. } | Phase::Connecting { .. } => {
                let reason = self.not_ready();
                self.stop(After::Fail { reason, probe: true }, now, actions);
            }
            Phase::Initializing { .. } => {
                let reason = self.not_initialized();
                self.stop(After::Fail { reason, probe: true }, now, actions);
            }
            Phase::Up(up) if up.heal_at.is_some_and(|due| due <= now) => self.judge(now, actions),
            Phase::Up(up) => {
                up.poll_at = now.plus(HEALTH_EVERY);
                // Some answer nothing else while they initialise.
                if !up.reconfiguring {
                    actions.push(Action::PollHealth(self.incarnation));
                }
            }
            Phase::Stopping { stage, .. } => {
                let stage = *stage;
                self.stage_over(stage, now, actions);
            }
            Phase::BackingOff { .. } => {
                if self.restarts.len() == RESTARTS_MAX {
                    self.restarts.pop_front();
                }
                self.restarts.push_back(now);
                self.launch(now, actions);
            }
            Phase::Failed { .. } => {
                self.half_open = true;
                self.launch(now, actions);
            }
        }
    }

    fn not_ready(&self) -> String {
        let within = self.timing.ready.as_secs_f64();
        let last = match (&self.phase, &self.not_yet) {
            (Phase::Spawning { .. }, _) => "its launch did not end",
            (_, Some(reason)) => reason.as_str(),
            (_, None) => "Metadata was not answered",
        };
        format!("not ready within {within} s: {last}")
    }

    fn not_initialized(&self) -> String {
        let within = self.timing.initialize.as_secs_f64();
        match self.held_up() {
            Some(last) => format!("not registered within {within} s: {last}"),
            None => format!("Initialize was not answered within {within} s"),
        }
    }

    /// A stage of a stop took as long as it may.
    fn stage_over(&mut self, stage: Stage, now: Mono, actions: &mut Vec<Action>) {
        match stage {
            Stage::Spawn => {
                actions
                    .push(log(LogLevel::Warn, "its launch did not end; it is killed if it does"));
                self.gone(now, actions);
            }
            Stage::Shutdown => self.escalate(Stage::Term, now, actions),
            Stage::Term => {
                let text = format!("still there {} s after SIGTERM: killed", TERM_WITHIN.as_secs());
                actions.push(log(LogLevel::Warn, text));
                self.escalate(Stage::Kill, now, actions);
            }
            Stage::Kill => {
                let text =
                    format!("still there {} s after SIGKILL: given up", KILL_WITHIN.as_secs());
                actions.push(log(LogLevel::Error, text));
                self.gone(now, actions);
            }
        }
    }
}

/// Why it is in its state, without when it is launched again: for who does not wait for that.
#[must_use]
pub fn without_restart(reason: &str) -> &str {
    reason.rsplit_once(RESTART).map_or(reason, |(why, _)| why)
}

fn log(level: LogLevel, text: impl Into<String>) -> Action {
    Action::Log { level, text: text.into() }
}

/// The delay before the restart after this many crashes in a row: doubling, with a jitter of up to a
/// quarter that the plugin's name and the number decide, so that plugins that crashed together do
/// not come back together.
fn back_off(plugin: &PluginName, crashes: u32) -> Duration {
    let doublings = crashes.saturating_sub(1).min(16);
    let delay = (BACK_OFF_FIRST * (1 << doublings)).min(BACK_OFF_MAX);
    let digest =
        Sha256::new().chain_update(crashes.to_be_bytes()).chain_update(plugin.as_str()).finalize();
    let per_mille = 750 + u32::from(u16::from_be_bytes([digest[0], digest[1]])) % 501;
    delay * per_mille / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ZERO: Mono = Mono(3_600_000_000_000);

    fn supervisor() -> Supervisor {
        Supervisor::new("git".parse().unwrap(), Timing::default(), 0)
    }

    fn after_secs(secs: f64) -> Mono {
        ZERO.plus(Duration::from_secs_f64(secs))
    }

    /// Plays a supervisor: brings each input at its second, wakes it in between whenever it wants, and
    /// writes down what it does, but for its log.
    struct Play {
        supervisor: Supervisor,
        now: Mono,
        trace: Vec<String>,
        transitions: Vec<String>,
    }

    impl Play {
        fn new() -> Play {
            Play { supervisor: supervisor(), now: ZERO, trace: Vec::new(), transitions: Vec::new() }
        }

        /// One that was brought up: launched at 0 s, up at 3 s.
        fn up() -> Play {
            let mut play = Play::new();
            play.input(0.0, Input::Start);
            for (secs, seen) in up_by(0.0) {
                play.see(secs, 1, seen);
            }
            play.trace.clear();
            play.transitions.clear();
            play
        }

        fn input(&mut self, secs: f64, input: Input) {
            self.run_until(secs);
            self.step(input, after_secs(secs));
        }

        fn see(&mut self, secs: f64, incarnation: u64, seen: Seen) {
            self.input(secs, Input::Process { incarnation, seen });
        }

        fn run_until(&mut self, secs: f64) {
            while let Some(due) = self.supervisor.next_wake().filter(|due| *due <= after_secs(secs))
            {
                self.step(Input::Tick, due);
            }
        }

        fn step(&mut self, input: Input, now: Mono) {
            self.now = now;
            let secs = now.since(ZERO).as_secs_f64();
            for action in self.supervisor.step(input, now) {
                match action {
                    Action::Log { .. } => {}
                    Action::Transition { from, to, reason, .. } => {
                        let (from, to) = (from.as_str(), to.as_str());
                        self.transitions.push(format!("{secs:.1} {from} → {to}: {reason}"));
                    }
                    _ => self.trace.push(format!("{secs:.1} {action:?}")),
                }
            }
        }

        /// What it did since this was last asked.
        fn did(&mut self) -> Vec<String> {
            std::mem::take(&mut self.trace)
        }

        fn shows(&self) -> (&'static str, &str) {
            (self.supervisor.status().as_str(), self.supervisor.reason())
        }
    }

    /// What is seen of a process, and at which second.
    type Script = Vec<(f64, Seen)>;

    /// What is seen of a process that comes up, launched at `secs` and up 3 s later.
    fn up_by(secs: f64) -> [(f64, Seen); 4] {
        [
            (secs + 1.0, spawned()),
            (secs + 1.5, Seen::PortKnown),
            (secs + 2.0, Seen::MetadataOk),
            (secs + 3.0, Seen::Ready),
        ]
    }

    fn spawned() -> Seen {
        Seen::Spawned { pid: 4711 }
    }

    fn exited() -> Seen {
        Seen::Exited { status: "exit status: 1".to_owned() }
    }

    fn sick(jobs_running: bool) -> Seen {
        Seen::HealthFailed { reason: "no answer".to_owned(), jobs_running }
    }

    fn fatal() -> Seen {
        Seen::Fatal { reason: "its name is hub".to_owned() }
    }

    #[test]
    fn a_plugin_comes_up_is_watched_and_stops() {
        let mut play = Play::new();
        assert_eq!(play.shows(), ("stopped", "not started"));
        play.input(0.0, Input::Start);
        for (secs, seen) in up_by(0.0) {
            assert_eq!(play.shows().0, "starting");
            play.see(secs, 1, seen);
        }
        assert_eq!(play.shows(), ("ready", ""));
        assert_eq!(play.supervisor.pid(), Some(4711));
        play.see(13.1, 1, Seen::HealthOk);
        play.see(23.1, 1, Seen::HealthOk);
        play.input(30.0, Input::StopRequested);
        assert_eq!(play.shows(), ("stopped", "stopped on request"));
        assert!(!play.supervisor.is_over());
        play.see(30.5, 1, Seen::ShutdownDone);
        play.see(31.0, 1, exited());
        assert!(play.supervisor.is_over());
        assert_eq!(play.supervisor.pid(), None);
        let expected = [
            "0.0 Spawn(1)",
            "1.5 Connect(1)",
            "2.0 Initialize(1)",
            "3.0 ReportUp(1)",
            "13.0 PollHealth(1)",
            "23.0 PollHealth(1)",
            r#"30.0 ReportDown { incarnation: 1, reason: "stopped on request" }"#,
            "30.0 SendShutdown(1)",
            "30.5 SendTerm(1)",
        ];
        assert_eq!(play.did(), expected);
    }

    #[test]
    fn a_port_that_nobody_says_is_assumed_and_may_still_turn_out_another() {
        let mut play = Play::new();
        play.input(0.0, Input::Start);
        play.see(0.5, 1, spawned());
        play.see(9.0, 1, Seen::PortKnown);
        play.see(9.5, 1, Seen::MetadataOk);
        play.see(9.6, 1, Seen::PortKnown);
        let expected = ["0.0 Spawn(1)", "2.5 Connect(1)", "9.0 Connect(1)", "9.5 Initialize(1)"];
        assert_eq!(play.did(), expected);
    }

    #[test]
    fn a_short_time_to_be_ready_leaves_time_to_be_reached() {
        let mut play = Play::new();
        play.supervisor.timing.ready = Duration::from_secs(1);
        play.input(0.0, Input::Start);
        play.see(0.1, 1, spawned());
        play.run_until(1.0);
        let expected = ["0.0 Spawn(1)", "0.6 Connect(1)", "1.0 SendTerm(1)"];
        assert_eq!(play.did(), expected);
    }

    #[test]
    fn a_stop_comes_to_its_end_from_everywhere() {
        let up = up_by(0.0);
        let starting = |count: usize| up[..count].to_vec();
        let crashed = || vec![(1.0, spawned()), (3.95, exited())];
        let cases: [(&str, Script, Script, &[&str], f64); 9] = [
            // (from, seen before the stop at 4 s, seen after it, what is done, when it is over)
            ("launching", vec![], vec![], &[], 9.0),
            (
                "launched late",
                vec![],
                vec![(8.9, spawned())],
                &["8.9 SendTerm", "11.9 SendKill"],
                12.9,
            ),
            (
                "not launched",
                vec![],
                vec![(5.0, Seen::SpawnFailed { reason: "x".into() })],
                &[],
                5.0,
            ),
            ("no port yet", starting(1), vec![], &["4.0 SendTerm", "7.0 SendKill"], 8.0),
            ("no Metadata yet", starting(2), vec![(5.0, exited())], &["4.0 SendTerm"], 5.0),
            (
                "initializing",
                starting(3),
                vec![(4.1, Seen::Ready)],
                &["4.0 ReportDown", "4.0 SendShutdown", "9.0 SendTerm", "12.0 SendKill"],
                13.0,
            ),
            (
                "up",
                starting(4),
                vec![(5.0, Seen::ShutdownDone), (6.0, Seen::ShutdownDone), (9.0, exited())],
                &["4.0 ReportDown", "4.0 SendShutdown", "5.0 SendTerm", "8.0 SendKill"],
                9.0,
            ),
            ("backing off", crashed(), vec![], &[], 4.0),
            ("failed", vec![(1.0, fatal())], vec![], &[], 4.0),
        ];
        for (from, before, after, expected, over) in cases {
            let mut play = Play::new();
            play.input(0.0, Input::Start);
            before.into_iter().for_each(|(secs, seen)| play.see(secs, 1, seen));
            play.run_until(4.0);
            play.did();
            play.input(4.0, Input::StopRequested);
            let (soon, last): (Vec<_>, Vec<_>) = after.into_iter().partition(|seen| seen.0 < over);
            soon.into_iter().for_each(|(secs, seen)| play.see(secs, 1, seen));
            play.run_until(over - 0.01);
            assert_eq!(play.supervisor.is_over(), over == 4.0, "{from}");
            last.into_iter().for_each(|(secs, seen)| play.see(secs, 1, seen));
            play.run_until(over);
            assert!(play.supervisor.is_over(), "{from}");
            assert_eq!(play.supervisor.next_wake(), None, "{from}");
            assert_eq!(play.shows(), ("stopped", "stopped on request"), "{from}");
            let did = play.did();
            assert_eq!(did.len(), expected.len(), "{from}: {did:?}");
            let same = did.iter().zip(expected).all(|(did, expected)| did.starts_with(expected));
            assert!(same, "{from}: {did:?}");
        }
    }

    #[test]
    fn what_is_launched_after_its_stop_is_killed() {
        let mut play = Play::new();
        play.input(0.0, Input::Start);
        play.input(1.0, Input::StopRequested);
        play.run_until(6.0);
        assert!(play.supervisor.is_over());
        play.see(7.0, 1, spawned());
        assert_eq!(play.did(), ["0.0 Spawn(1)", "7.0 SendKill(1)"]);
    }

    /// Lets each process crash at once, and answers with when the next was launched, or nothing.
    fn crash_loop(play: &mut Play, launches: u64) -> Vec<String> {
        for _ in 0..launches {
            let incarnation = play.supervisor.incarnation();
            for seen in [spawned(), exited()] {
                play.step(Input::Process { incarnation, seen }, play.now);
            }
            if let Some(due) = play.supervisor.next_wake() {
                play.step(Input::Tick, due);
            }
        }
        play.did()
    }

    #[test]
    fn a_crash_loop_is_slowed_down_and_then_ended() {
        let mut play = Play::new();
        play.input(0.0, Input::Start);
        let launches = crash_loop(&mut play, 5);
        let expected = [
            "0.0 Spawn(1)",
            "0.1 Spawn(2)",
            "0.3 Spawn(3)",
            "0.7 Spawn(4)",
            "1.5 Spawn(5)",
            "3.5 Spawn(6)",
        ];
        assert_eq!(launches, expected);
        play.see(4.0, 6, exited());
        let reason =
            "restarted 5 times within 60 s; at last: ended before it was ready: exit status: 1";
        assert_eq!(play.shows(), ("failed", reason));
        assert_eq!(play.supervisor.next_wake(), Some(after_secs(304.0)));
    }

    #[test]
    fn the_delay_doubles_up_to_its_bound_and_differs_from_plugin_to_plugin() {
        let names: [PluginName; 2] = ["git".parse().unwrap(), "notify".parse().unwrap()];
        for name in &names {
            for (crash, secs) in [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]
                .into_iter()
                .enumerate()
            {
                let delay = back_off(name, crash as u32 + 1).as_secs_f64();
                assert!((0.75 * secs..=1.25 * secs).contains(&delay), "{name} {crash}: {delay}");
            }
            assert!(back_off(name, u32::MAX) <= BACK_OFF_MAX * 5 / 4);
        }
        let series =
            |name| (1..=10).map(|n| back_off(name, n).as_millis() as u64).collect::<Vec<_>>();
        let git = [78, 190, 435, 825, 1_955, 2_803, 7_436, 12_672, 25_164, 27_960];
        assert_eq!(series(&names[0]), git);
        assert_ne!(series(&names[1]), git);
    }

    #[test]
    fn from_failed_one_launch_is_tried_every_five_minutes() {
        let mut play = Play::new();
        play.input(0.0, Input::Start);
        crash_loop(&mut play, 5);
        play.see(3.5, 6, exited());
        play.see(310.0, 7, exited());
        assert_eq!(play.did(), ["303.5 Spawn(7)"]);
        let reason = "ended before it was ready: exit status: 1";
        assert_eq!(play.shows(), ("failed", reason));
        // Up, but not for long enough.
        up_by(610.0).into_iter().for_each(|(secs, seen)| play.see(secs, 8, seen));
        assert_eq!(play.shows(), ("ready", ""));
        play.see(672.9, 8, exited());
        assert_eq!(play.shows(), ("failed", "ended: exit status: 1"));
        // Up for 60 s: all is forgotten.
        up_by(972.9).into_iter().for_each(|(secs, seen)| play.see(secs, 9, seen));
        play.see(1_036.0, 9, exited());
        assert_eq!(play.shows(), ("backing_off", "ended: exit status: 1; restart 1 in 0.1 s"));
    }

    #[test]
    fn crashes_are_forgotten_after_a_minute_of_being_up() {
        for (lives, restart) in [(59.9, 2), (60.0, 1)] {
            let mut play = Play::up();
            play.see(4.0, 1, exited());
            up_by(5.0).into_iter().for_each(|(secs, seen)| play.see(secs, 2, seen));
            play.see(8.0 + lives, 2, exited());
            let (status, reason) = play.shows();
            assert_eq!(status, "backing_off");
            assert!(reason.contains(&format!("; restart {restart} in ")), "{lives}: {reason}");
            assert_eq!(without_restart(reason), "ended: exit status: 1");
        }
    }

    #[test]
    fn a_launch_that_leads_nowhere_says_why() {
        let not_yet = || Seen::NotYet { reason: "Metadata: connection refused".to_owned() };
        let broken = || Seen::InitializeFailed { reason: "INTERNAL: no config".to_owned() };
        let failed = || Seen::SpawnFailed { reason: "no such file".to_owned() };
        let no_room = || Seen::NotYet { reason: "Failed to setup plugin watchers".to_owned() };
        let cases: [(Script, f64, &str, &str); 11] = [
            // (seen, asked at, state, reason)
            (vec![], 29.9, "starting", "launching"),
            (vec![], 30.0, "failed", "not ready within 30 s: its launch did not end"),
            (
                vec![(1.0, spawned())],
                30.0,
                "failed",
                "not ready within 30 s: Metadata was not answered",
            ),
            (
                vec![(1.0, spawned()), (4.0, not_yet())],
                30.0,
                "failed",
                "not ready within 30 s: Metadata: connection refused",
            ),
            (up_by(0.0)[..3].to_vec(), 121.9, "starting", "initializing"),
            (up_by(0.0)[..3].to_vec(), 122.0, "failed", "Initialize was not answered within 120 s"),
            (
                [&up_by(0.0)[..3], &[(4.0, no_room())]].concat(),
                122.0,
                "failed",
                "not registered within 120 s: Failed to setup plugin watchers",
            ),
            (
                [&up_by(0.0)[..3], &[(4.0, broken()), (4.5, exited())]].concat(),
                4.5,
                "backing_off",
                "Initialize failed: INTERNAL: no config; restart 1 in 0.1 s",
            ),
            (
                vec![(1.0, failed())],
                1.0,
                "backing_off",
                "cannot be launched: no such file; restart 1 in 0.1 s",
            ),
            (
                vec![(1.0, spawned()), (2.0, Seen::Exited { status: "exit status: 0".to_owned() })],
                2.0,
                "backing_off",
                "ended before it was ready: exit status: 0; restart 1 in 0.1 s",
            ),
            (vec![(1.0, fatal())], 1.0, "failed", "its name is hub"),
        ];
        for (seen, secs, status, reason) in cases {
            let mut play = Play::new();
            play.input(0.0, Input::Start);
            seen.into_iter().for_each(|(secs, seen)| play.see(secs, 1, seen));
            play.run_until(secs);
            assert_eq!(play.shows(), (status, reason));
        }
    }

    #[test]
    fn what_keeps_it_from_being_registered_is_known_while_it_does() {
        let mut play = Play::new();
        play.input(0.0, Input::Start);
        let not_yet = |reason: &str| Seen::NotYet { reason: reason.to_owned() };
        let script = [
            (1.0, spawned(), None),
            (1.5, not_yet("connection refused"), None),
            (2.0, Seen::PortKnown, None),
            (2.5, Seen::MetadataOk, None),
            (3.0, not_yet("no room"), Some("no room")),
            (4.0, Seen::Ready, None),
        ];
        for (secs, seen, held_up) in script {
            play.see(secs, 1, seen.clone());
            assert_eq!(play.supervisor.held_up(), held_up, "{seen:?}");
        }
    }

    #[test]
    fn a_process_that_makes_room_for_the_next_is_known() {
        let cases = [
            (Input::RestartRequested, true),
            (Input::StopRequested, false),
            (Input::DisableRequested, false),
        ];
        for (input, is_replaced) in cases {
            let mut play = Play::up();
            assert!(!play.supervisor.is_being_replaced());
            play.input(4.0, input.clone());
            assert_eq!(play.supervisor.is_being_replaced(), is_replaced, "{input:?}");
            play.see(4.5, 1, exited());
            assert!(!play.supervisor.is_being_replaced(), "{input:?}");
        }
    }

    #[test]
    fn what_is_wrong_for_good_is_stopped_and_waits_for_a_person() {
        for count in 1..=4 {
            let mut play = Play::new();
            play.input(0.0, Input::Start);
            up_by(0.0)[..count].iter().for_each(|(secs, seen)| play.see(*secs, 1, seen.clone()));
            play.see(4.0, 1, fatal());
            assert_eq!(play.shows(), ("failed", "its name is hub"));
            play.run_until(100.0);
            assert_eq!(play.supervisor.next_wake(), None, "no probe");
            let did = play.did();
            assert_eq!(did.last().unwrap().split(' ').nth(1), Some("SendKill(1)"), "{did:?}");
            play.input(200.0, Input::Start);
            assert_eq!(play.did(), [""; 0], "it is wanted already");
            play.input(200.0, Input::RestartRequested);
            assert_eq!(play.did(), ["200.0 Spawn(2)"]);
        }
    }

    #[test]
    fn health_restarts_a_process_unless_it_may_only_be_busy() {
        let late = || Seen::DeadlinePassed;
        let cases: [(Vec<Seen>, &str, &str); 9] = [
            // (seen from 13 s on, one a second; state; reason)
            (vec![sick(false)], "ready", "Health failed once: no answer"),
            (
                vec![sick(false), Seen::HealthOk, sick(false)],
                "ready",
                "Health failed once: no answer",
            ),
            (
                vec![sick(false), sick(false)],
                "starting",
                "Health failed 2 times in a row: no answer",
            ),
            (vec![sick(true), sick(true)], "degraded", "Health failed 2 times in a row: no answer"),
            (vec![sick(true), sick(true), Seen::HealthOk], "ready", ""),
            (
                vec![sick(true), sick(true), sick(false)],
                "starting",
                "Health failed 3 times in a row: no answer",
            ),
            (
                vec![sick(true), sick(true), late()],
                "starting",
                "Health failed 2 times in a row: no answer; a job passed its deadline",
            ),
            (
                vec![sick(true), late(), sick(true)],
                "starting",
                "Health failed 2 times in a row: no answer; a job passed its deadline",
            ),
            (
                vec![late(), Seen::HealthOk, sick(true), sick(true)],
                "degraded",
                "Health failed 2 times in a row: no answer",
            ),
        ];
        for (seen, status, reason) in cases {
            let mut play = Play::up();
            for (place, seen) in seen.iter().enumerate() {
                play.see(13.0 + place as f64, 1, seen.clone());
            }
            assert_eq!(play.shows(), (status, reason), "{seen:?}");
            let stops = play.did().iter().any(|line| line.contains("SendShutdown"));
            assert_eq!(stops, status == "starting", "{seen:?}");
        }
    }

    /// Health fails from 13 s on, each time that it is asked, of every process.
    fn fall_sick_again(play: &mut Play, until: f64) {
        let mut last = after_secs(10.0);
        while let Some(due) = play.supervisor.next_wake().filter(|due| *due <= after_secs(until)) {
            play.step(Input::Tick, due);
            let incarnation = play.supervisor.incarnation();
            let see = |play: &mut Play, seen| {
                play.step(Input::Process { incarnation, seen }, due);
            };
            match play.trace.last().and_then(|line| line.split_once(' ')) {
                Some((_, line)) if line.starts_with("PollHealth") && last != due => {
                    last = due;
                    see(play, sick(false));
                }
                Some((_, line)) if line.starts_with("Spawn") => {
                    up_by(0.0).into_iter().for_each(|(_, seen)| see(play, seen));
                }
                _ => {}
            }
            // It heeds its stop at once.
            if play.trace.last().is_some_and(|line| line.contains("SendShutdown")) {
                see(play, exited());
                up_by(0.0).into_iter().for_each(|(_, seen)| {
                    let incarnation = play.supervisor.incarnation();
                    play.step(Input::Process { incarnation, seen }, due);
                });
            }
        }
    }

    #[test]
    fn a_process_that_is_sick_again_and_again_is_restarted_ever_more_seldom() {
        let mut play = Play::up();
        fall_sick_again(&mut play, 3_000.0);
        let launches: Vec<_> = play
            .did()
            .into_iter()
            .filter_map(|line| {
                line.strip_suffix(')')?.split_once(" Spawn(").map(|(at, _)| at.to_owned())
            })
            .collect();
        // The second failure is seen 20 s after a process is up: 10 and 20 s pass within that.
        let expected = [
            "23.0", "43.0", "63.0", "103.0", "183.0", "343.0", "663.0", "1303.0", "1943.0",
            "2583.0",
        ];
        assert_eq!(launches, expected);
        assert!(!play.transitions.iter().any(|line| line.contains("backing_off")));
        let cases = [
            "23.0 ready → starting: Health failed 2 times in a row: no answer",
            "83.0 ready → degraded: Health failed 2 times in a row: no answer; it was restarted for that before, and is again in 20 s",
            "103.0 degraded → starting: Health failed 3 times in a row: no answer",
        ];
        for expected in cases {
            assert!(
                play.transitions.iter().any(|line| line == expected),
                "{:#?}",
                play.transitions
            );
        }
    }

    #[test]
    fn ten_healthy_minutes_forget_restarts_for_health() {
        for (healthy_secs, restarts_at_once) in [(590.0, false), (600.0, true)] {
            let mut play = Play::up();
            // Restarted so often that the next one is 640 s away.
            (play.supervisor.heals, play.supervisor.healed_at) = (8, Some(after_secs(0.0)));
            let mut secs = 13.0;
            while secs <= 3.0 + healthy_secs {
                play.see(secs, 1, Seen::HealthOk);
                secs += 10.0;
            }
            play.see(secs, 1, sick(false));
            play.see(secs + 10.0, 1, sick(false));
            let expected = if restarts_at_once { "starting" } else { "degraded" };
            assert_eq!(play.shows().0, expected, "{healthy_secs}");
        }
    }

    #[test]
    fn what_becomes_better_while_its_restart_waits_is_left_alone() {
        let mut play = Play::up();
        (play.supervisor.heals, play.supervisor.healed_at) = (3, Some(after_secs(3.0)));
        play.see(13.0, 1, sick(false));
        play.see(23.0, 1, sick(false));
        let waits = "; it was restarted for that before, and is again in 20 s";
        assert_eq!(play.shows().1, format!("Health failed 2 times in a row: no answer{waits}"));
        play.see(33.0, 1, Seen::HealthOk);
        play.run_until(43.0);
        assert_eq!(play.shows(), ("ready", ""));
        // While it works its silence is no proof, however long its restart was waited for.
        play.see(53.0, 1, sick(true));
        play.see(63.0, 1, sick(true));
        play.run_until(73.0);
        assert_eq!(play.shows().0, "degraded");
        // A person does not wait.
        play.see(74.0, 1, sick(false));
        assert_eq!(play.shows(), ("starting", "Health failed 3 times in a row: no answer"));
    }

    #[test]
    fn crashes_and_restarts_for_health_are_counted_apart() {
        let mut play = Play::up();
        play.see(13.0, 1, sick(false));
        play.see(23.0, 1, sick(false));
        play.see(23.0, 1, exited());
        assert_eq!((play.supervisor.crashes, play.supervisor.heals), (0, 1));
        up_by(23.0).into_iter().for_each(|(secs, seen)| play.see(secs, 2, seen));
        play.see(27.0, 2, exited());
        assert_eq!((play.supervisor.crashes, play.supervisor.heals), (1, 1));
        assert!(play.shows().1.contains("; restart 1 in "), "{:?}", play.shows());
        // In a try from `failed`, sick is as bad as crashed.
        let mut play = Play::new();
        play.input(0.0, Input::Start);
        crash_loop(&mut play, 5);
        play.see(3.5, 6, exited());
        play.run_until(303.5);
        up_by(304.0).into_iter().for_each(|(secs, seen)| play.see(secs, 7, seen));
        play.see(317.0, 7, sick(false));
        play.see(327.0, 7, sick(false));
        play.see(327.0, 7, exited());
        assert_eq!(play.shows(), ("failed", "Health failed 2 times in a row: no answer"));
    }

    #[test]
    fn each_change_of_state_is_told_once_with_its_reason() {
        let mut play = Play::new();
        play.input(0.0, Input::Start);
        for (secs, seen) in up_by(0.0) {
            play.see(secs, 1, seen);
        }
        play.see(4.0, 1, sick(true));
        play.see(5.0, 1, sick(true));
        play.see(6.0, 1, Seen::HealthOk);
        play.see(7.0, 1, exited());
        play.run_until(8.0);
        play.see(8.5, 2, Seen::SpawnFailed { reason: "no file".into() });
        play.input(9.0, Input::DisableRequested);
        play.input(10.0, Input::Start);
        // The third was being launched when it was disabled.
        play.see(10.5, 3, fatal());
        play.see(11.0, 4, fatal());
        let expected = [
            "0.0 stopped → starting: launching",
            "3.0 starting → ready: initialized",
            "5.0 ready → degraded: Health failed 2 times in a row: no answer",
            "6.0 degraded → ready: healthy again",
            "7.0 ready → backing_off: ended: exit status: 1; restart 1 in 0.1 s",
            "7.1 backing_off → starting: launching",
            "8.5 starting → backing_off: cannot be launched: no file; restart 2 in 0.2 s",
            "8.7 backing_off → starting: launching",
            "9.0 starting → stopped: disabled",
            "10.0 stopped → starting: restarted on request",
            "11.0 starting → failed: its name is hub",
        ];
        assert_eq!(play.transitions, expected);
    }

    #[test]
    fn a_disabled_plugin_stays_down_until_it_is_started() {
        let mut play = Play::up();
        play.input(4.0, Input::DisableRequested);
        assert_eq!(play.shows(), ("stopped", "disabled"));
        play.see(4.5, 1, Seen::ShutdownDone);
        play.see(5.0, 1, exited());
        assert!(play.supervisor.is_over());
        assert_eq!(play.supervisor.next_wake(), None);
        play.input(6.0, Input::Start);
        let expected = [
            r#"4.0 ReportDown { incarnation: 1, reason: "disabled" }"#,
            "4.0 SendShutdown(1)",
            "4.5 SendTerm(1)",
            "6.0 Spawn(2)",
        ];
        assert_eq!(play.did(), expected);
    }

    #[test]
    fn a_reset_tries_again_what_is_down_and_leaves_what_runs() {
        let mut play = Play::new();
        play.input(0.0, Input::Start);
        crash_loop(&mut play, 5);
        play.see(3.5, 6, exited());
        assert_eq!(play.shows().0, "failed");
        play.input(4.0, Input::ResetRequested);
        assert_eq!(play.did(), ["4.0 Spawn(7)"]);
        play.see(4.5, 7, exited());
        assert!(play.shows().1.contains("restart 1 in 0.1 s"), "{:?}", play.shows());
        play.input(4.51, Input::ResetRequested);
        assert_eq!(play.did(), ["4.5 Spawn(8)"]);
        up_by(5.0).into_iter().for_each(|(secs, seen)| play.see(secs, 8, seen));
        play.did();
        play.supervisor.heals = 3;
        play.input(9.0, Input::ResetRequested);
        assert_eq!(play.did(), [""; 0]);
        assert_eq!((play.shows(), play.supervisor.heals), (("ready", ""), 0));
    }

    #[test]
    fn a_process_that_is_up_is_told_another_configuration_and_goes_on_whatever_it_says() {
        let refused = || Seen::ReconfigureFailed { reason: "depth = \"x\"".into() };
        let reason = "not reconfigured: depth = \"x\"; it goes on as before";
        let mut play = Play::up();
        assert!(play.supervisor.may_be_reconfigured());
        play.input(4.0, Input::ReconfigureRequested);
        assert!(!play.supervisor.may_be_reconfigured());
        play.input(5.0, Input::ReconfigureRequested);
        // Meanwhile it is not asked for its health.
        play.see(14.0, 1, refused());
        assert_eq!(play.shows(), ("ready", reason));
        play.see(24.0, 1, Seen::HealthOk);
        assert_eq!(play.shows(), ("ready", reason), "it stands until somebody does something");
        play.input(25.0, Input::ReconfigureRequested);
        play.see(26.0, 1, Seen::Reconfigured);
        assert_eq!(play.shows(), ("ready", ""));
        // Nobody asked.
        play.see(27.0, 1, refused());
        assert_eq!(play.shows(), ("ready", ""));
        play.see(28.0, 1, exited());
        assert!(!play.supervisor.may_be_reconfigured());
        play.input(28.01, Input::ReconfigureRequested);
        let did = play.did();
        let expected =
            ["4.0 Reconfigure(1)", "23.0 PollHealth(1)", "25.0 Reconfigure(1)"].map(str::to_owned);
        assert_eq!(did[..3], expected);
        assert!(!did[3..].iter().any(|line| line.contains("configure")), "{did:?}");
    }

    #[test]
    fn a_restart_is_always_a_new_process_after_the_old_one() {
        let mut play = Play::up();
        play.input(4.0, Input::RestartRequested);
        assert_eq!(play.shows(), ("starting", "restarted on request"));
        play.see(4.5, 1, Seen::ShutdownDone);
        play.input(4.6, Input::RestartRequested);
        play.see(6.0, 1, exited());
        let expected = [
            r#"4.0 ReportDown { incarnation: 1, reason: "restarted on request" }"#,
            "4.0 SendShutdown(1)",
            "4.5 SendTerm(1)",
            "6.0 Spawn(2)",
        ];
        assert_eq!(play.did(), expected);
        // What is told late of the old one means nothing.
        play.see(6.5, 2, spawned());
        for seen in [exited(), fatal(), Seen::MetadataOk, sick(false)] {
            play.see(7.0, 1, seen);
        }
        assert_eq!(play.shows().0, "starting");
        assert_eq!(play.did(), [""; 0]);
    }

    #[test]
    fn the_last_word_counts_while_a_process_is_being_stopped() {
        let cases = [
            (vec![Input::StopRequested, Input::RestartRequested], "starting"),
            (vec![Input::StopRequested, Input::Start], "starting"),
            (vec![Input::RestartRequested, Input::StopRequested], "stopped"),
            (vec![Input::StopRequested, Input::StopRequested], "stopped"),
        ];
        for (inputs, status) in cases {
            let mut play = Play::up();
            inputs.iter().for_each(|input| play.input(4.0, input.clone()));
            play.run_until(13.0);
            assert_eq!(play.shows().0, status, "{inputs:?}");
            let kills = play.did().iter().filter(|line| line.contains("SendKill")).count();
            assert_eq!(kills, 1, "{inputs:?}");
        }
    }

    #[test]
    fn a_person_ends_back_off_and_failed_at_once() {
        let mut play = Play::new();
        play.input(0.0, Input::Start);
        crash_loop(&mut play, 5);
        play.see(3.5, 6, exited());
        play.input(4.0, Input::RestartRequested);
        assert_eq!(play.did(), ["4.0 Spawn(7)"]);
        play.see(4.5, 7, exited());
        assert_eq!(play.shows().0, "backing_off", "earlier crashes are forgotten");
        play.input(4.51, Input::RestartRequested);
        assert_eq!(play.did(), ["4.5 Spawn(8)"]);
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
        prop_oneof![
            3 => Just(spawned()),
            1 => Just(Seen::SpawnFailed { reason: "x".to_owned() }),
            2 => Just(Seen::PortKnown),
            2 => Just(Seen::MetadataOk),
            3 => Just(Seen::Ready),
            1 => Just(Seen::InitializeFailed { reason: "x".to_owned() }),
            1 => Just(fatal()),
            1 => Just(Seen::HealthOk),
            1 => any::<bool>().prop_map(sick),
            1 => Just(Seen::DeadlinePassed),
            1 => Just(Seen::Reconfigured),
            1 => Just(Seen::ReconfigureFailed { reason: "x".to_owned() }),
            1 => Just(Seen::ShutdownDone),
            2 => Just(exited()),
        ]
    }

    /// What happened, and how many processes ago the one was that it is told of.
    fn any_input() -> impl Strategy<Value = (u64, Input)> {
        prop_oneof![
            2 => Just((0, Input::Start)),
            1 => Just((0, Input::StopRequested)),
            1 => Just((0, Input::RestartRequested)),
            1 => Just((0, Input::DisableRequested)),
            1 => Just((0, Input::ResetRequested)),
            1 => Just((0, Input::ReconfigureRequested)),
            4 => Just((0, Input::Tick)),
            16 => (prop_oneof![6 => Just(0_u64), 1 => 1_u64..4], any_seen())
                .prop_map(|(ago, seen)| (ago, Input::Process { incarnation: 0, seen })),
        ]
    }

    /// What of a list of actions calls Initialize for the first time, and once more.
    fn initializes(actions: &[Action]) -> (Vec<u64>, usize) {
        let firsts = actions.iter().filter_map(|action| match action {
            Action::Initialize(once) => Some(once.incarnation()),
            _ => None,
        });
        let again = actions.iter().filter(|action| matches!(action, Action::Reconfigure(_)));
        (firsts.collect(), again.count())
    }

    /// What became of each process that was seen to run: gone, or told to be.
    #[derive(Default)]
    struct Ledger(std::collections::BTreeMap<u64, bool>);

    impl Ledger {
        fn note(&mut self, input: &Input, actions: &[Action]) {
            if let Input::Process { incarnation, seen } = input {
                match seen {
                    Seen::Spawned { .. } => drop(self.0.entry(*incarnation).or_insert(false)),
                    Seen::Exited { .. } => drop(self.0.insert(*incarnation, true)),
                    _ => {}
                }
            }
            for action in actions {
                if let Action::SendKill(incarnation) = action {
                    self.0.insert(*incarnation, true);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever happened before, a stop ends in bounded time and leaves no process.
        #[test]
        fn a_stop_always_ends(
            inputs in proptest::collection::vec((any_input(), 0_u64..8_000), 0..60),
        ) {
            let mut supervisor = supervisor();
            let mut ledger = Ledger::default();
            let mut now = ZERO;
            let mut shown = supervisor.status();
            let mut initialized = std::collections::BTreeSet::new();
            for ((ago, input), pause_ms) in inputs {
                now = now.plus(Duration::from_millis(pause_ms));
                let input = match input {
                    Input::Process { seen, .. } => {
                        let incarnation = supervisor.incarnation().saturating_sub(ago);
                        Input::Process { incarnation, seen }
                    }
                    other => other,
                };
                let actions = supervisor.step(input.clone(), now);
                ledger.note(&input, &actions);
                prop_assert!(supervisor.next_wake().is_none_or(|due| due > now));
                // Each process is initialised once, and once more only when somebody asked.
                let (firsts, again) = initializes(&actions);
                for first in firsts {
                    prop_assert!(initialized.insert(first), "twice: {first}");
                }
                prop_assert!(again <= usize::from(input == Input::ReconfigureRequested));
                // The transitions are all that there is to see, without a gap.
                for action in &actions {
                    if let Action::Transition { from, to, reason, .. } = action {
                        prop_assert!(*from == shown && from != to && !reason.is_empty());
                        shown = *to;
                    }
                }
                prop_assert_eq!(shown, supervisor.status());
            }
            let asked = now;
            let actions = supervisor.step(Input::StopRequested, now);
            ledger.note(&Input::StopRequested, &actions);
            while let Some(due) = supervisor.next_wake() {
                now = due;
                let actions = supervisor.step(Input::Tick, now);
                ledger.note(&Input::Tick, &actions);
            }
            prop_assert!(now.since(asked) <= STOP_MAX);
            prop_assert_eq!(supervisor.status(), Status::Stopped);
            prop_assert!(supervisor.is_over() && supervisor.pid().is_none());
            prop_assert!(ledger.0.values().all(|over| *over), "{:?}", ledger.0);
        }

        /// However long its processes live, a plugin is never restarted a sixth time within a minute.
        #[test]
        fn restarts_are_bounded(lives_ms in proptest::collection::vec((0_u64..15_000, any::<bool>()), 1..60)) {
            let mut supervisor = supervisor();
            let mut now = ZERO;
            let mut launches = Vec::new();
            supervisor.step(Input::Start, now);
            for (life_ms, comes_up) in lives_ms {
                let incarnation = supervisor.incarnation();
                let mut see = |seen, now| supervisor.step(Input::Process { incarnation, seen }, now);
                see(spawned(), now);
                if comes_up {
                    for seen in [Seen::PortKnown, Seen::MetadataOk, Seen::Ready] {
                        see(seen, now);
                    }
                }
                now = now.plus(Duration::from_millis(life_ms));
                see(exited(), now);
                now = supervisor.next_wake().unwrap();
                supervisor.step(Input::Tick, now);
                prop_assert_eq!(supervisor.status(), Status::Starting);
                launches.push(now);
            }
            for window in launches.windows(RESTARTS_MAX + 1) {
                prop_assert!(window[RESTARTS_MAX].since(window[0]) >= RESTARTS_WITHIN);
            }
        }
    }
}
