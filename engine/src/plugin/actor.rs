//! One plugin: the task that its supervisor lives in.
//!
//! In come commands of people, what was seen of the process, and the time; the supervisor says what
//! follows, and each of its actions is started here in a task of its own, so that nothing a plugin or
//! a disk does can hold this task up. A crash of the engine ends every process of a plugin, by the
//! launcher's pipe.
//!
//! Not here: what follows from what (`axwatch_core::supervise`), the calls (`super::calls`), the
//! process (`super::process`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axwatch_core::supervise::{
    Action, InitializeOnce, Input, LogLevel, Seen, Status, Supervisor, Timing,
};
use axwatch_core::{PluginTransition, Registration, Verdicts};
use axwatch_failpoints::{Point, hit, pass};
use axwatch_model::{Mono, PluginName, Timestamp};
use semver::Version;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;

use super::caller::{Account, Caller};
use super::calls::{Callee, Facts, Tell};
use super::grpc::{self, Client, GrpcPlugin};
use super::http::Reach;
use super::output::{Capture, HOST};
use super::process::{self, Launched, LauncherCommand, Launchers, Order, Ports, attend, launch};
use super::schema::Schema;
use super::settings::{BinaryError, PluginSettings, arguments, environment, find_program};
use super::tail::Logs;
use super::token::{Callers, Token};
use super::{About, HealthView, pinned, wire};
use crate::handle::{Engine, PluginReady, RequestError};

/// How long the engine may take to note, at the very end, that a plugin is down.
const LAST_NOTE_WITHIN: Duration = Duration::from_secs(1);

/// From one try to register to the next while the disk is full.
const REGISTER_EVERY: Duration = Duration::from_secs(1);

/// What all plugins of a host have in common.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) callers: Arc<Callers>,
    /// Where our services are: `host:port`.
    pub(crate) endpoint: Arc<str>,
    pub(crate) protocol_version: Version,
    pub(crate) search_paths: Vec<PathBuf>,
    /// Our folder beside the store.
    pub(crate) home: Option<PathBuf>,
    pub(crate) launcher: LauncherCommand,
    pub(crate) ports: Arc<Ports>,
    pub(crate) launchers: Arc<Launchers>,
    /// What people read of each plugin.
    pub(crate) logs: Logs,
}

/// What people may ask of a plugin. With settings: as they were just read.
pub(crate) enum Command {
    /// A new process.
    Restart { settings: Option<Box<PluginSettings>>, reply: Reply },
    /// A new process of one that is down, and that crashes are forgotten.
    Reset { settings: Option<Box<PluginSettings>>, reply: Reply },
    /// To run again.
    Enable { settings: Option<Box<PluginSettings>>, reply: Reply },
    /// Not to run, and to have nothing.
    Disable { reply: Reply },
    /// Initialize once more, with its own table as it is now.
    Reconfigure { settings: Option<Box<PluginSettings>>, reply: Reply },
    /// No process any more. The task ends with it.
    Stop,
}

/// Where the answer to a command goes. Nobody may be left to hear it.
pub(crate) type Reply = oneshot::Sender<Result<(), Declined>>;

/// Why a command was not followed.
pub(crate) enum Declined {
    /// The plugin is not to run.
    Disabled,
    /// There is no process that could be told; the plugin is in this state.
    NotUp(Status),
    /// The process did not take its configuration.
    Configuration(String),
    /// The engine did not do its part.
    Engine(RequestError),
}

/// What there is to see of a plugin.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) state: Status,
    pub(crate) since: Timestamp,
    pub(crate) disabled: bool,
    pub(crate) reason: String,
    pub(crate) about: About,
    pub(crate) incarnation: u64,
    /// Processes that were launched since the server started.
    pub(crate) launches: u64,
    pub(crate) health: Option<HealthView>,
    /// The process id of the launcher, while one runs.
    pub(crate) launcher: Option<u32>,
    /// The last process that was up.
    pub(crate) caller: Option<Arc<Caller>>,
    /// How the process that is up is called; `None` when none is.
    pub(crate) reach: Option<Reach>,
    pub(crate) error: Option<String>,
    pub(crate) settings: Arc<PluginSettings>,
    /// What its ConfigSchema said last.
    pub(crate) schema: Option<Arc<Schema>>,
}

impl Shown {
    pub(crate) fn nothing(shared: &Shared, settings: PluginSettings) -> Shown {
        Shown {
            state: Status::Stopped,
            since: shared.engine.clock().now().wall,
            disabled: false,
            reason: String::new(),
            about: About::default(),
            incarnation: 0,
            launches: 0,
            health: None,
            launcher: None,
            caller: None,
            reach: None,
            error: None,
            settings: Arc::new(settings),
            schema: None,
        }
    }
}

/// One process, from before its launch until it has been seen to end.
struct Session {
    caller: Arc<Caller>,
    token: Arc<Token>,
    capture: Arc<Capture>,
    orders: mpsc::UnboundedSender<Order>,
    facts: Arc<Facts>,
    dialled: Option<Dialled>,
    /// It was seen to end.
    has_ended: bool,
    /// Everything that is being said to it, but jobs.
    calls: JoinSet<()>,
}

impl Session {
    /// How it is called, once it has been dialled.
    fn reach(&self) -> Option<Reach> {
        let channel = self.dialled.as_ref()?.channel.clone();
        Some(Reach { channel, caller: self.caller.clone(), token: self.token.clone() })
    }

    /// Says something to the process, in a task of its own.
    fn call(&mut self, call: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        // Those that are over would be kept until somebody asks for them.
        while self.calls.try_join_next().is_some() {}
        self.calls.spawn(call)
    }
}

/// The one channel to a process.
struct Dialled {
    port: u16,
    channel: Channel,
    client: Client,
    call: AbortHandle,
}

/// The task's state.
struct Actor {
    shared: Arc<Shared>,
    settings: Arc<PluginSettings>,
    supervisor: Supervisor,
    sessions: BTreeMap<u64, Session>,
    /// The processes: each is attended to until it has ended.
    processes: JoinSet<()>,
    account: Arc<Account>,
    tell_seen: mpsc::UnboundedSender<(u64, Seen)>,
    seen: mpsc::UnboundedReceiver<(u64, Seen)>,
    notes: mpsc::UnboundedSender<Note>,
    /// The last process that was told to go.
    down_up_to: Arc<AtomicU64>,
    /// What the engine has noted, and what is to be done now.
    noted: mpsc::UnboundedReceiver<Noted>,
    commands: mpsc::Receiver<Command>,
    shown: watch::Sender<Shown>,
    /// It is not to run until somebody says so.
    disabled: bool,
    /// What `disabled` will be once all is on the disk that somebody asked for.
    wanted_disabled: bool,
    /// So much of that is not there yet.
    notes_pending: usize,
    reconfiguring: Option<Reconfiguring>,
}

/// A process that is being told another configuration.
struct Reconfiguring {
    incarnation: u64,
    /// What its settings are once it has taken it.
    settings: Arc<PluginSettings>,
    reply: Reply,
}

/// Runs a plugin until it is told to stop and has stopped, or until the host is dropped.
pub(crate) async fn run(
    shared: Arc<Shared>,
    settings: PluginSettings,
    commands: mpsc::Receiver<Command>,
    shown: watch::Sender<Shown>,
) {
    let (notes, to_note) = mpsc::unbounded_channel();
    let (tell_noted, noted) = mpsc::unbounded_channel();
    let actor = Actor::new(shared.clone(), settings.clone(), (notes, noted), commands, shown);
    let down_up_to = actor.down_up_to.clone();
    let noting =
        keep_notes(shared.engine.clone(), settings.name.clone(), to_note, tell_noted, down_up_to);
    let mut noting = JoinSet::from_iter([noting]);
    actor.run().await;
    let _ = tokio::time::timeout(LAST_NOTE_WITHIN, noting.join_next()).await;
}

impl Actor {
    fn new(
        shared: Arc<Shared>,
        settings: PluginSettings,
        (notes, noted): (mpsc::UnboundedSender<Note>, mpsc::UnboundedReceiver<Noted>),
        commands: mpsc::Receiver<Command>,
        shown: watch::Sender<Shown>,
    ) -> Actor {
        let timing = timing(&settings);
        let disabled = shared.engine.plugin_row(&settings.name);
        let disabled = disabled.is_some_and(|row| row.disabled_at.is_some());
        let last_incarnation = shared.engine.next_incarnation(&settings.name) - 1;
        let (tell_seen, seen) = mpsc::unbounded_channel();
        Actor {
            supervisor: Supervisor::new(settings.name.clone(), timing, last_incarnation),
            shared,
            settings: Arc::new(settings),
            sessions: BTreeMap::new(),
            processes: JoinSet::new(),
            account: Arc::default(),
            tell_seen,
            seen,
            notes,
            down_up_to: Arc::default(),
            noted,
            commands,
            shown,
            disabled,
            wanted_disabled: disabled,
            notes_pending: 0,
            reconfiguring: None,
        }
    }

    async fn run(mut self) {
        let mut is_wanted = true;
        self.step(if self.disabled { Input::DisableRequested } else { Input::Start });
        while is_wanted || !self.supervisor.is_over() {
            let next_wake = wait_until(self.supervisor.next_wake(), self.now());
            tokio::select! {
                command = self.commands.recv(), if is_wanted => match command {
                    Some(Command::Stop) => {
                        is_wanted = false;
                        self.step(Input::StopRequested);
                    }
                    Some(command) => self.obey(command),
                    // The host was dropped. Every pipe closes with us.
                    None => return,
                },
                Some(noted) = self.noted.recv(), if is_wanted => self.go_on(noted),
                Some((incarnation, seen)) = self.seen.recv() => self.see(incarnation, seen),
                Some(_) = self.processes.join_next() => {}
                () = next_wake => self.step(Input::Tick),
            }
        }
    }

    fn now(&self) -> Mono {
        self.shared.engine.clock().now().mono
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Restart { reply, .. } | Command::Reset { reply, .. } if self.is_disabled() => {
                let _ = reply.send(Err(Declined::Disabled));
            }
            Command::Restart { settings, reply } => {
                self.take_settings(settings);
                self.step(Input::RestartRequested);
                let _ = reply.send(Ok(()));
            }
            Command::Reset { settings, reply } => self.reset(settings, reply),
            // First on the disk: what is retired when the process is gone already was retired in vain
            // if the disk is full.
            Command::Enable { settings, reply } if self.wanted_disabled => {
                self.note_wanted(false, Note::Enable { settings, reply });
            }
            Command::Disable { reply } if !self.wanted_disabled => {
                self.note_wanted(true, Note::Disable { reply });
            }
            Command::Enable { reply, .. } | Command::Disable { reply } => drop(reply.send(Ok(()))),
            Command::Reconfigure { settings, reply } => self.reconfigure_with(settings, reply),
            Command::Stop => {}
        }
    }

    /// Whether it is not to run, or will not be in a moment.
    fn is_disabled(&self) -> bool {
        self.disabled || self.wanted_disabled
    }

    fn note_wanted(&mut self, disabled: bool, note: Note) {
        self.wanted_disabled = disabled;
        self.notes_pending += 1;
        let _ = self.notes.send(note);
    }

    /// What is read anew is for a new process: one that goes on never got it.
    fn reset(&mut self, settings: Option<Box<PluginSettings>>, reply: Reply) {
        if self.supervisor.is_left_by_a_reset() {
            self.step(Input::ResetRequested);
            // Unless it was sick, and is replaced now that this has no past.
            if !self.supervisor.is_left_by_a_reset() {
                self.take_settings(settings);
            }
        } else {
            self.take_settings(settings);
            self.step(Input::ResetRequested);
        }
        let _ = reply.send(Ok(()));
    }

    /// For the next process.
    fn take_settings(&mut self, settings: Option<Box<PluginSettings>>) {
        if let Some(settings) = settings {
            self.supervisor.set_timing(timing(&settings));
            self.settings = Arc::from(settings);
        }
    }

    /// What a process is told is its own table; all else is decided when one is launched.
    fn reconfigure_with(&mut self, settings: Option<Box<PluginSettings>>, reply: Reply) {
        if self.is_disabled() {
            let _ = reply.send(Err(Declined::Disabled));
            return;
        }
        if !self.supervisor.may_be_reconfigured() {
            let _ = reply.send(Err(Declined::NotUp(self.supervisor.status())));
            return;
        }
        let present = (*self.settings).clone();
        let settings = Arc::new(match settings {
            None => present,
            Some(new) => PluginSettings {
                config: new.config,
                from_env: new.from_env,
                secrets: new.secrets,
                ..present
            },
        });
        let incarnation = self.supervisor.incarnation();
        self.reconfiguring = Some(Reconfiguring { incarnation, settings, reply });
        self.step(Input::ReconfigureRequested);
    }

    /// The engine has noted what was to be on the disk first.
    fn go_on(&mut self, noted: Noted) {
        self.notes_pending -= 1;
        let (input, reply) = match noted {
            Noted::Disabled { reply } => {
                self.disabled = true;
                (Input::DisableRequested, reply)
            }
            Noted::Enabled { settings, reply } => {
                // One that was never stopped goes on with what it has.
                if std::mem::take(&mut self.disabled) {
                    self.take_settings(settings);
                }
                (Input::Start, reply)
            }
            Noted::Refused { reply, error } => {
                // What was asked for after it is decided by itself.
                if self.notes_pending == 0 {
                    self.wanted_disabled = self.disabled;
                }
                let _ = reply.send(Err(Declined::Engine(error)));
                return;
            }
        };
        self.step(input);
        let _ = reply.send(Ok(()));
    }

    /// A process has taken another configuration, or has not.
    fn reconfigured(&mut self, incarnation: u64, verdict: Result<(), String>) {
        if let Some(told) = self.reconfiguring.take_if(|told| told.incarnation == incarnation) {
            if verdict.is_ok() {
                self.settings = told.settings;
            }
            let _ = told.reply.send(verdict.map_err(Declined::Configuration));
        }
    }

    fn see(&mut self, incarnation: u64, seen: Seen) {
        match &seen {
            Seen::Reconfigured => self.reconfigured(incarnation, Ok(())),
            Seen::ReconfigureFailed { reason } => {
                self.reconfigured(incarnation, Err(reason.clone()));
            }
            _ => {}
        }
        let is_gone = matches!(seen, Seen::Exited { .. } | Seen::SpawnFailed { .. });
        if is_gone && let Some(session) = self.sessions.get_mut(&incarnation) {
            session.has_ended = true;
        }
        self.step(Input::Process { incarnation, seen });
        if is_gone && let Some(session) = self.sessions.remove(&incarnation) {
            self.shared.callers.revoke(&session.caller);
        }
    }

    fn step(&mut self, input: Input) {
        for action in self.supervisor.step(input, self.now()) {
            self.act(action);
        }
        self.show();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn(incarnation) => self.spawn(incarnation),
            Action::Connect(incarnation) => self.connect(incarnation),
            Action::Initialize(once) => self.initialize(once),
            Action::Reconfigure(once) => self.reconfigure(once),
            Action::PollHealth(incarnation) => self.poll_health(incarnation),
            Action::SendShutdown(incarnation) => self.shut_down(incarnation),
            Action::SendTerm(incarnation) => self.order(incarnation, Order::Term),
            Action::SendKill(incarnation) => self.order(incarnation, Order::Kill),
            Action::ReportUp(incarnation) => {
                let reach = self.sessions.get(&incarnation).and_then(Session::reach);
                self.shown.send_modify(|shown| {
                    shown.caller = reach.as_ref().map(|reach| reach.caller.clone());
                    shown.reach = reach;
                });
            }
            Action::ReportDown { incarnation, reason } => {
                self.shown.send_modify(|shown| shown.reach = None);
                self.reconfigured(incarnation, Err(format!("its process has ended: {reason}")));
                // Whoever is stopped is reported before: what has ended by then ended by itself.
                let session = self.sessions.get(&incarnation);
                let crashed = session.is_some_and(|session| session.has_ended);
                // What was noted of it before, and has not been told yet, is not told any more.
                self.down_up_to.fetch_max(incarnation, Ordering::Relaxed);
                // The other side lives as long as we do.
                let _ = self.notes.send(Note::Down { incarnation, reason, crashed });
            }
            Action::Transition { incarnation, from, to, reason } => {
                let since = self.shared.engine.clock().now().wall;
                self.shown.send_modify(|shown| shown.since = since);
                let plugin = self.settings.name.clone();
                let (from, to) = (from.as_str(), to.as_str());
                let transition = PluginTransition { plugin, incarnation, from, to, reason };
                let _ = self.notes.send(Note::State(transition));
            }
            Action::Log { level, text } => self.log(level, &text),
        }
    }

    fn log(&self, level: LogLevel, text: &str) {
        // What is in the plugin's own log already.
        const TARGET: &str = "axwatch::plugin";
        let plugin = &self.settings.name;
        let word = match level {
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        };
        self.shared.logs.of(plugin).push(word, HOST, text, None);
        match level {
            LogLevel::Info => tracing::info!(target: TARGET, %plugin, "plugin {plugin}: {text}"),
            LogLevel::Warn => tracing::warn!(target: TARGET, %plugin, "plugin {plugin}: {text}"),
            LogLevel::Error => tracing::error!(target: TARGET, %plugin, "plugin {plugin}: {text}"),
        }
    }

    fn show(&self) {
        let session = self.sessions.get(&self.supervisor.incarnation());
        let facts = session.map(|session| &session.facts);
        let state = self.supervisor.status();
        let held_up = self.supervisor.held_up();
        // What is said while it starts or rests is no error, unless it is what keeps it from starting.
        let is_error = held_up.is_some() || !matches!(state, Status::Starting | Status::Stopped);
        let reason = held_up.unwrap_or(self.supervisor.reason());
        // In that state the one that is on its way out would be taken for the new one.
        let is_old = self.supervisor.is_being_replaced();
        self.shown.send_modify(|shown| {
            shown.state = state;
            shown.disabled = self.disabled;
            shown.incarnation = self.supervisor.incarnation();
            shown.launcher = self.supervisor.pid().filter(|_| !is_old);
            shown.reason = reason.to_owned();
            shown.error = (is_error && !reason.is_empty()).then(|| reason.to_owned());
            shown.settings.clone_from(&self.settings);
            if let Some(about) = facts.and_then(|facts| facts.about.get()) {
                shown.about.clone_from(about);
            }
            if let Some(schema) = facts.and_then(|facts| facts.schema()) {
                shown.schema = schema;
            }
            if let Some(facts) = facts {
                shown.health = facts.health();
            }
        });
    }

    fn tell(&self, incarnation: u64) -> Tell {
        Tell { incarnation, to: self.tell_seen.clone() }
    }

    fn spawn(&mut self, incarnation: u64) {
        let (name, tell) = (&self.settings.name, self.tell(incarnation));
        pass(Point::TokenMint);
        let token = Arc::new(Token::random());
        token.hide(&self.settings.secrets);
        self.shown.send_modify(|shown| shown.launches += 1);
        let zero_is_never = self.settings.zero_rate_never;
        let caller =
            Arc::new(Caller::new(name.clone(), incarnation, zero_is_never, self.account.clone()));
        caller.bears(token.clone());
        self.shared.callers.admit(&token, caller.clone());
        let capture = Capture::new(name.as_str(), token.clone(), self.shared.logs.of(name));
        let (orders, to_obey) = mpsc::unbounded_channel();
        let facts = Arc::new(Facts::default());
        let mut calls = JoinSet::new();
        calls.spawn(hear_port(capture.port(), tell.clone()));
        let start = start(self.shared.clone(), self.settings.clone(), facts.clone());
        let memory = process::MemoryLimit::of(&self.settings);
        self.processes.spawn(live(start, memory, to_obey, capture.clone(), tell));
        let session = Session {
            caller,
            token,
            capture,
            orders,
            facts,
            dialled: None,
            has_ended: false,
            calls,
        };
        self.sessions.insert(incarnation, session);
    }

    /// Dials the announced port, else the requested one. A dial at the same port goes on.
    fn connect(&mut self, incarnation: u64) {
        let tell = self.tell(incarnation);
        let Some(session) = self.sessions.get_mut(&incarnation) else { return };
        let announced = *session.capture.port().borrow();
        let Some(port) =
            announced.or_else(|| session.facts.requested_port.get().map(|port| port.number))
        else {
            return;
        };
        if session.dialled.as_ref().is_some_and(|dialled| dialled.port == port) {
            return;
        }
        if let Some(former) = session.dialled.take() {
            former.call.abort();
        }
        let channel = grpc::channel(port, self.settings.max_in_flight);
        let client = grpc::client(channel.clone());
        let callee = callee(&self.shared, &self.settings, session, (client.clone(), port));
        let call = session.call(describe(callee, tell));
        session.dialled = Some(Dialled { port, channel, client, call });
    }

    /// What calls to this process need, once it has been dialled.
    fn callee(&self, incarnation: u64) -> Option<Callee> {
        let session = self.sessions.get(&incarnation)?;
        let dialled = session.dialled.as_ref()?;
        let dialled = (dialled.client.clone(), dialled.port);
        Some(callee(&self.shared, &self.settings, session, dialled))
    }

    fn initialize(&mut self, once: InitializeOnce) {
        let incarnation = once.incarnation();
        let Some(callee) = self.callee(incarnation) else { return };
        let tell = self.tell(incarnation);
        let Some(session) = self.sessions.get_mut(&incarnation) else { return };
        let engine = self.shared.engine.clone();
        session.call(initialize(callee, once, engine, self.notes.clone(), tell));
    }

    fn reconfigure(&mut self, once: InitializeOnce) {
        let incarnation = once.incarnation();
        let tell = self.tell(incarnation);
        let callee = self.callee(incarnation);
        let told = self.reconfiguring.as_ref().map(|told| told.settings.clone());
        let session = self.sessions.get_mut(&incarnation);
        let (Some(callee), Some(settings), Some(session)) = (callee, told, session) else {
            let reason = "there is no process to tell".to_owned();
            return tell.seen(Seen::ReconfigureFailed { reason });
        };
        callee.token.hide(&settings.secrets);
        let callee = Callee { settings, ..callee };
        session.call(reconfigure(callee, once, self.shared.engine.clone(), tell));
    }

    fn poll_health(&mut self, incarnation: u64) {
        let Some(callee) = self.callee(incarnation) else { return };
        let tell = self.tell(incarnation);
        let in_flight = self.shared.engine.in_flight().clone();
        let plugin = self.settings.name.clone();
        let has_jobs = move || !in_flight.of_plugin(&plugin, incarnation).is_empty();
        if let Some(session) = self.sessions.get_mut(&incarnation) {
            session.call(async move { tell.seen(callee.poll_health(has_jobs).await) });
        }
    }

    fn shut_down(&mut self, incarnation: u64) {
        let tell = self.tell(incarnation);
        let callee = self.callee(incarnation);
        let Some(session) = self.sessions.get_mut(&incarnation) else { return };
        session.calls.abort_all();
        match callee {
            None => tell.seen(Seen::ShutdownDone),
            Some(callee) => {
                session.call(async move { tell.seen(callee.shutdown().await) });
            }
        }
    }

    fn order(&mut self, incarnation: u64, order: Order) {
        let Some(session) = self.sessions.get_mut(&incarnation) else { return };
        if order == Order::Kill {
            // It is as good as dead, and if it is not it has no business with us any more.
            self.shared.callers.revoke(&session.caller);
        }
        session.calls.abort_all();
        // A process that has ended takes no orders, and needs none.
        let _ = session.orders.send(order);
    }
}

fn callee(
    shared: &Shared,
    settings: &Arc<PluginSettings>,
    session: &Session,
    (client, port): (Client, u16),
) -> Callee {
    Callee {
        settings: settings.clone(),
        protocol_version: shared.protocol_version.clone(),
        endpoint: shared.endpoint.clone(),
        token: session.token.clone(),
        caller: session.caller.clone(),
        facts: session.facts.clone(),
        clock: shared.engine.clock().clone(),
        client,
        port,
        capture: session.capture.clone(),
    }
}

fn timing(settings: &PluginSettings) -> Timing {
    Timing { ready: settings.ready_timeout, initialize: settings.initialize_timeout }
}

async fn wait_until(due: Option<Mono>, now: Mono) {
    match due {
        Some(due) => tokio::time::sleep(due.since(now)).await,
        None => std::future::pending().await,
    }
}

async fn hear_port(mut port: watch::Receiver<Option<u16>>, tell: Tell) {
    while port.changed().await.is_ok() {
        tell.seen(Seen::PortKnown);
    }
}

/// How long the end of a process may take to be seen after a call to it broke.
const END_WITHIN: Duration = Duration::from_millis(500);

/// Finds the program and starts it.
async fn start(
    shared: Arc<Shared>,
    settings: Arc<PluginSettings>,
    facts: Arc<Facts>,
) -> Result<Launched, Seen> {
    let failed = |reason| Seen::SpawnFailed { reason };
    let (wanted, of) = (settings.clone(), shared.clone());
    let find = move || {
        let program = find_program(&wanted, &of.search_paths)?;
        pinned::settle(&wanted, program, of.home.as_deref())
    };
    let program = match tokio::task::spawn_blocking(find).await {
        Ok(Ok(program)) => program,
        // Another file will be there when somebody puts it there, and that is told by a restart.
        Ok(Err(error @ BinaryError::OtherDigest { .. })) => {
            return Err(Seen::Fatal { reason: error.to_string() });
        }
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(error) => return Err(failed(format!("cannot look for its program: {error}"))),
    };
    let port = shared.ports.take();
    let port = port.map_err(|error| failed(format!("no port of loopback is free: {error}")))?;
    let given = arguments(&settings.args, port.number);
    let args: Vec<_> = program.args.into_iter().chain(given).collect();
    let environment = environment(std::env::vars_os(), &settings.env);
    hit(Point::Spawn).map_err(|injected| failed(injected.to_string()))?;
    let tag = process::tag(shared.home.as_deref());
    let launched =
        launch(&shared.launcher, &shared.launchers, &program.path, &args, environment, tag);
    let launched = launched.map_err(|error| {
        failed(format!("cannot start the launcher {:?}: {error}", shared.launcher.program))
    })?;
    // Each is set here and nowhere else.
    let _ = facts.requested_port.set(port);
    let _ = facts.launcher.set(launched.pid());
    Ok(launched)
}

async fn live(
    start: impl Future<Output = Result<Launched, Seen>>,
    memory: Option<process::MemoryLimit>,
    orders: mpsc::UnboundedReceiver<Order>,
    capture: Arc<Capture>,
    tell: Tell,
) {
    match start.await {
        Err(seen) => tell.seen(seen),
        Ok(launched) => {
            tell.seen(Seen::Spawned { pid: launched.pid() });
            let status = attend(launched, memory, orders, capture).await;
            tell.seen(Seen::Exited { status });
        }
    }
}

async fn describe(callee: Callee, tell: Tell) {
    let facts = callee.facts.clone();
    let not_yet = |reason| tell.seen(Seen::NotYet { reason });
    match callee.describe(not_yet).await {
        Err(reason) => tell.seen(Seen::Fatal { reason }),
        Ok(about) => {
            // A second channel to the same process gets the same answer.
            let _ = facts.about.set(about);
            tell.seen(Seen::MetadataOk);
        }
    }
}

async fn initialize(
    mut callee: Callee,
    once: InitializeOnce,
    engine: Engine,
    notes: mpsc::UnboundedSender<Note>,
    tell: Tell,
) {
    if let Err(injected) = hit(Point::Handshake) {
        return tell.seen(Seen::InitializeFailed { reason: injected.to_string() });
    }
    let registration = match callee.initialize(once).await {
        Ok(registration) => registration,
        Err(seen) => {
            // A process that died under the call tells by its end what the broken call cannot; told of
            // that, nobody listens to this any more.
            tokio::time::sleep(END_WITHIN).await;
            return tell.seen(seen);
        }
    };
    // Here, where nobody waits for it: it may take a look into the log for each watcher.
    let registration = match engine.placed(registration).await {
        Ok(registration) => registration,
        Err(error) => {
            let reason = error.to_string();
            tracing::error!(plugin = %callee.settings.name, error = error.to_string(), "Failed to setup plugin watchers");
            return tell.seen(Seen::InitializeFailed { reason });
        }
    };
    let registered = loop {
        let (reply, verdicts) = oneshot::channel();
        let ready = Box::new(ready(&callee, &registration, &tell));
        // Without the other side no answer comes, which is told apart below.
        let _ = notes.send(Note::Up { ready, reply });
        let Ok(answer) = verdicts.await else {
            break Err("the plugin was stopped meanwhile".to_owned());
        };
        match registered(&callee.settings.name, answer, &tell).await {
            Ok(verdicts) => break Ok(verdicts),
            Err(Unregistered::Refused(reason)) => break Err(reason),
            // For as long as the supervisor has patience.
            Err(Unregistered::NoRoom(_)) => {}
        }
    };
    match registered {
        Ok(verdicts) => {
            callee.complain(&wire::refusals(&verdicts.refused));
            callee.caller.announce(registration.handlers.iter().map(ToString::to_string));
            callee.caller.registered();
            tell.seen(Seen::Ready);
            callee.register_glyphs().await;
        }
        Err(reason) => tell.seen(Seen::InitializeFailed { reason }),
    }
}

/// Tells a process that is up another configuration. Its answer is registered as at the start.
///
/// The time is for Initialize, and for trying again. What was begun to be registered may stand, so that its
/// end is waited for.
async fn reconfigure(mut callee: Callee, once: InitializeOnce, engine: Engine, tell: Tell) {
    let within = callee.settings.initialize_timeout;
    let until = Instant::now() + within;
    let registration = match timeout_at(until, callee.initialize(once)).await {
        Ok(Ok(registration)) => registration,
        Ok(Err(seen)) => return tell.seen(Seen::ReconfigureFailed { reason: reason_of(seen) }),
        Err(_) => {
            let within = within.as_secs_f64();
            let reason = format!("Initialize was not answered within {within} s");
            return tell.seen(Seen::ReconfigureFailed { reason });
        }
    };
    let caller = &callee.caller;
    let announce = || Caller::tell(caller, &engine, registration.clone());
    tell.seen(match register_until(until, &caller.plugin, announce, &tell).await {
        Ok(verdicts) => {
            callee.complain(&wire::refusals(&verdicts.refused));
            Seen::Reconfigured
        }
        Err(Unregistered::Refused(reason)) => Seen::ReconfigureFailed { reason },
        Err(Unregistered::NoRoom(error)) => {
            let within = within.as_secs_f64();
            let reason = format!(
                "Initialize was answered, and what it announced could not be registered within {within} s: {error}"
            );
            Seen::ReconfigureFailed { reason }
        }
    });
}

/// Registers what a process announced; while there is no room on the disk again and again, but not once `until`
/// has passed. What was begun before is waited for, however long it takes.
async fn register_until<F>(
    until: Instant,
    plugin: &PluginName,
    announce: impl Fn() -> F,
    tell: &Tell,
) -> Result<Verdicts, Unregistered>
where
    F: Future<Output = Result<Verdicts, RequestError>>,
{
    loop {
        let registered = registered(plugin, announce().await, tell).await;
        if Instant::now() >= until || !matches!(registered, Err(Unregistered::NoRoom(_))) {
            return registered;
        }
    }
}

fn reason_of(seen: Seen) -> String {
    match seen {
        Seen::InitializeFailed { reason } | Seen::Fatal { reason } => reason,
        other => format!("{other:?}"),
    }
}

/// Why what a process announced is not registered.
#[derive(Debug, PartialEq, Eq)]
enum Unregistered {
    /// The engine does not take it.
    Refused(String),
    /// It is to be tried again: without room on the disk the process is not at fault, and a new one would fare
    /// no better.
    NoRoom(String),
}

/// What became of a registration. When it is to be tried again, after a while.
async fn registered(
    plugin: &PluginName,
    answer: Result<Verdicts, RequestError>,
    tell: &Tell,
) -> Result<Verdicts, Unregistered> {
    let error = match answer {
        Ok(verdicts) => return Ok(verdicts),
        Err(error) => error,
    };
    tracing::error!(%plugin, error = error.to_string(), "Failed to setup plugin watchers");
    if !matches!(error, RequestError::Exhausted(_)) {
        return Err(Unregistered::Refused(error.to_string()));
    }
    let reason = format!("Failed to setup plugin watchers: {error}");
    tell.seen(Seen::NotYet { reason: reason.clone() });
    tokio::time::sleep(REGISTER_EVERY).await;
    Err(Unregistered::NoRoom(reason))
}

fn ready(callee: &Callee, registration: &Registration, tell: &Tell) -> PluginReady {
    let settings = &callee.settings;
    let transport = GrpcPlugin::new(
        callee.client.clone(),
        settings.execute_timeout,
        callee.caller.clone(),
        callee.token.clone(),
        callee.capture.clone(),
        tell.to.clone(),
    );
    PluginReady {
        plugin: settings.name.clone(),
        incarnation: callee.caller.incarnation,
        version: callee.facts.about.get().map_or_else(String::new, |about| about.version.clone()),
        max_in_flight: settings.max_in_flight,
        registration: registration.clone(),
        transport: Arc::new(transport),
    }
}

/// What the engine is to be told of a plugin's processes, in this order.
enum Note {
    Up {
        ready: Box<PluginReady>,
        reply: oneshot::Sender<Result<Verdicts, RequestError>>,
    },
    Down {
        incarnation: u64,
        reason: String,
        crashed: bool,
    },
    State(PluginTransition),
    /// It is not to run. Told back when that is on the disk; a refusal goes to who asked.
    Disable {
        reply: Reply,
    },
    /// It is to run again. As above.
    Enable {
        settings: Option<Box<PluginSettings>>,
        reply: Reply,
    },
}

/// What the engine has noted, and the actor has to go on with.
enum Noted {
    Disabled {
        reply: Reply,
    },
    Enabled {
        settings: Option<Box<PluginSettings>>,
        reply: Reply,
    },
    /// Neither, and it is as before.
    Refused {
        reply: Reply,
        error: RequestError,
    },
}

/// On whose behalf commands come.
const BY: &str = "user";

/// Tells the engine, however long its disk takes, in the order in which things happened: a process
/// that is down never comes up.
async fn keep_notes(
    engine: Engine,
    plugin: PluginName,
    mut notes: mpsc::UnboundedReceiver<Note>,
    noted: mpsc::UnboundedSender<Noted>,
    down_up_to: Arc<AtomicU64>,
) {
    while let Some(note) = notes.recv().await {
        match note {
            // The note of its end may still be behind this one.
            Note::Up { ready, .. } if ready.incarnation <= down_up_to.load(Ordering::Relaxed) => {}
            Note::Up { ready, reply } => {
                let begun = engine.begin_plugin_up(*ready).await;
                // What it announced may be much: the note of its end does not wait for all of that.
                tokio::spawn(async move {
                    let answer = match begun {
                        Ok(answer) => answer.await,
                        Err(error) => Err(error),
                    };
                    // Who asked may have been told to stop meanwhile; `Down` follows then.
                    let _ = reply.send(answer);
                });
            }
            Note::Down { incarnation, reason, crashed } => {
                // An engine that is gone knows of no plugin any more.
                let _ = engine.plugin_down(plugin.clone(), incarnation, reason, crashed).await;
            }
            Note::State(transition) => drop(engine.plugin_state(transition).await),
            Note::Disable { reply } => {
                match engine.plugin_disabled(plugin.clone(), BY.to_owned()).await {
                    // An actor that is gone, or about to go, stops the process anyway.
                    Ok(()) => drop(noted.send(Noted::Disabled { reply })),
                    Err(error) => drop(noted.send(Noted::Refused { reply, error })),
                }
            }
            Note::Enable { settings, reply } => {
                match engine.plugin_enabled(plugin.clone(), BY.to_owned()).await {
                    Ok(()) => drop(noted.send(Noted::Enabled { settings, reply })),
                    Err(error) => drop(noted.send(Noted::Refused { reply, error })),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axwatch_core::Declaration;
    use axwatch_model::{Declared, StoreId, SystemClock};
    use futures::future::BoxFuture;

    use super::*;
    use crate::dispatch::{Attempt, Plugin};
    use crate::handle::{AppendRefusal, EngineGone};
    use crate::writer::{EngineConfig, start};

    struct Never;

    impl Plugin for Never {
        fn run<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, axwatch_core::Ended> {
            Box::pin(std::future::pending())
        }
    }

    /// Without room it is tried again while there is time, and what was begun is waited for beyond that.
    #[tokio::test]
    async fn a_registration_is_tried_again_in_time_and_never_left_half_way() {
        type Answer = fn() -> Result<Verdicts, RequestError>;
        let no_room: Answer = || {
            Err(RequestError::Exhausted(AppendRefusal::DiskLow { free_bytes: 1, needed_bytes: 2 }))
        };
        let gone: Answer = || Err(RequestError::Gone(EngineGone));
        let taken: Answer = || Ok(Verdicts::default());
        let (over, long) = (Duration::ZERO, Duration::from_secs(3_600));
        // (what each try comes to, how long there is time, what is made of it, how many there were)
        let cases = [
            (vec![taken], over, "taken", 1),
            (vec![gone], long, "refused", 1),
            (vec![no_room, taken], long, "taken", 2),
            (vec![no_room], over, "no room", 1),
        ];
        for (answers, time, expected, tries) in cases {
            let (to, _seen) = mpsc::unbounded_channel();
            let tell = Tell { incarnation: 1, to };
            let tried = std::cell::Cell::new(0);
            let announce = || async {
                tokio::task::yield_now().await;
                answers[tried.replace(tried.get() + 1)]()
            };
            let until = Instant::now() + time;
            let plugin = "zoo".parse().unwrap();
            let registered = register_until(until, &plugin, announce, &tell).await;
            let registered = match registered {
                Ok(_) => "taken",
                Err(Unregistered::Refused(_)) => "refused",
                Err(Unregistered::NoRoom(reason)) => {
                    assert!(reason.contains("nearly full"), "{reason}");
                    "no room"
                }
            };
            assert_eq!((registered, tried.get()), (expected, tries));
        }
    }

    /// A process that was told to go while its note waited its turn gets no jobs any more.
    #[tokio::test]
    async fn what_was_told_to_go_does_not_come_up() {
        let store = axwatch_ats::MemoryStore::new(StoreId([7; 16]));
        let clock = Arc::new(SystemClock::new());
        let (engine, _) = start(store, clock, EngineConfig::default()).await.unwrap();
        let plugin: PluginName = "zoo".parse().unwrap();
        let (notes, to_note) = mpsc::unbounded_channel();
        let (tell_noted, _noted) = mpsc::unbounded_channel();
        let down_up_to = Arc::new(AtomicU64::new(1));
        let keeping =
            keep_notes(engine.clone(), plugin.clone(), to_note, tell_noted, down_up_to.clone());
        let _keeping = JoinSet::from_iter([keeping]);
        for (incarnation, comes_up) in [(1, false), (2, true), (1, false)] {
            let (reply, answer) = oneshot::channel();
            let ready = Box::new(PluginReady {
                plugin: plugin.clone(),
                incarnation,
                version: String::new(),
                max_in_flight: 1,
                registration: Registration::default(),
                transport: Arc::new(Never),
            });
            notes.send(Note::Up { ready, reply }).unwrap_or_else(|_| panic!("it is kept"));
            assert_eq!(answer.await.is_ok(), comes_up, "{incarnation}");
        }
        assert_eq!(engine.plugin_row(&plugin).unwrap().incarnation, 2);
    }

    /// The engine hears of the end of a process while it still takes what that announced.
    #[tokio::test]
    async fn an_end_does_not_wait_for_all_that_was_announced() {
        let store = axwatch_ats::MemoryStore::new(StoreId([7; 16]));
        let clock = Arc::new(SystemClock::new());
        let (engine, _) = start(store, clock, EngineConfig::default()).await.unwrap();
        let plugin: PluginName = "zoo".parse().unwrap();
        let watcher = |number| Declaration {
            local: format!("w{number}"),
            declared: Declared::Ax("is seen".to_owned()),
            handlers: vec!["act".to_owned()],
            params: None,
            max_fires_per_second: 0,
            zero_is_never: false,
            max_chain: 0,
            since: None,
            max_attempts: 0,
            max_age: None,
        };
        let registration = Registration {
            handlers: vec!["act".parse().unwrap()],
            watchers: (0..1_000).map(watcher).collect(),
            ..Registration::default()
        };
        let (notes, to_note) = mpsc::unbounded_channel();
        let (tell_noted, _noted) = mpsc::unbounded_channel();
        let (reply, answer) = oneshot::channel();
        let ready = Box::new(PluginReady {
            plugin: plugin.clone(),
            incarnation: 1,
            version: String::new(),
            max_in_flight: 1,
            registration,
            transport: Arc::new(Never),
        });
        let down = Note::Down { incarnation: 1, reason: "killed".to_owned(), crashed: true };
        for note in [Note::Up { ready, reply }, down] {
            notes.send(note).unwrap_or_else(|_| panic!("it is kept"));
        }
        drop(notes);
        keep_notes(engine.clone(), plugin.clone(), to_note, tell_noted, Arc::default()).await;
        let Err(RequestError::Refused(refusal)) = answer.await.unwrap() else {
            panic!("not all of it was taken")
        };
        assert!(refusal.reason.contains("went away: killed"), "{refusal}");
        let stand = engine.plugin(plugin).await.unwrap().unwrap().watchers.len();
        assert!((1..1_000).contains(&stand), "{stand} stand");
    }
}
