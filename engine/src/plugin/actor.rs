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
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axwatch_core::supervise::{Action, Input, LogLevel, Seen, Status, Supervisor, Timing};
use axwatch_core::{Refusal, Registration};
use axwatch_failpoints::{Point, hit, pass};
use axwatch_model::{Mono, PluginName};
use semver::Version;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tonic::transport::Channel;

use super::caller::{Account, Caller};
use super::calls::{Callee, Tell};
use super::grpc::{self, Client, GrpcPlugin};
use super::http::Reach;
use super::output::{Capture, HOST};
use super::process::{Launched, LauncherCommand, Order, Port, Ports, attend, launch};
use super::settings::{PluginSettings, arguments, environment, find_program};
use super::tail::Logs;
use super::token::{Callers, Token};
use super::wire;
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
    pub(crate) launcher: LauncherCommand,
    pub(crate) ports: Arc<Ports>,
    /// What people read of each plugin.
    pub(crate) logs: Logs,
}

/// What people may ask of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// A new process.
    Restart,
    /// None any more. The task ends with it.
    Stop,
}

/// What there is to see of a plugin.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) state: Status,
    pub(crate) version: String,
    /// The process id of the launcher, while one runs.
    pub(crate) launcher: Option<u32>,
    /// The last process that was up.
    pub(crate) caller: Option<Arc<Caller>>,
    /// The process that is up, for calls beside jobs.
    pub(crate) reach: Option<Reach>,
    pub(crate) error: Option<String>,
}

impl Shown {
    pub(crate) fn nothing() -> Shown {
        Shown {
            state: Status::Stopped,
            version: String::new(),
            launcher: None,
            caller: None,
            reach: None,
            error: None,
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

/// What is found out about a process, once each.
#[derive(Default)]
struct Facts {
    requested_port: OnceLock<Port>,
    launcher: OnceLock<u32>,
    version: OnceLock<String>,
}

impl Session {
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
    commands: mpsc::Receiver<Command>,
    shown: watch::Sender<Shown>,
}

/// Runs a plugin until it is told to stop and has stopped, or until the host is dropped.
pub(crate) async fn run(
    shared: Arc<Shared>,
    settings: PluginSettings,
    commands: mpsc::Receiver<Command>,
    shown: watch::Sender<Shown>,
) {
    let (notes, to_note) = mpsc::unbounded_channel();
    let noting = keep_notes(shared.engine.clone(), settings.name.clone(), to_note);
    let mut noting = JoinSet::from_iter([noting]);
    Actor::new(shared, settings, notes, commands, shown).run().await;
    let _ = tokio::time::timeout(LAST_NOTE_WITHIN, noting.join_next()).await;
}

impl Actor {
    fn new(
        shared: Arc<Shared>,
        settings: PluginSettings,
        notes: mpsc::UnboundedSender<Note>,
        commands: mpsc::Receiver<Command>,
        shown: watch::Sender<Shown>,
    ) -> Actor {
        let timing =
            Timing { ready: settings.ready_timeout, initialize: settings.initialize_timeout };
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
            commands,
            shown,
        }
    }

    async fn run(mut self) {
        let mut is_wanted = true;
        self.step(Input::Start);
        while is_wanted || !self.supervisor.is_over() {
            let next_wake = wait_until(self.supervisor.next_wake(), self.now());
            tokio::select! {
                command = self.commands.recv(), if is_wanted => match command {
                    Some(Command::Restart) => self.step(Input::RestartRequested),
                    Some(Command::Stop) => {
                        is_wanted = false;
                        self.step(Input::StopRequested);
                    }
                    // The host was dropped. Every pipe closes with us.
                    None => return,
                },
                Some((incarnation, seen)) = self.seen.recv() => self.see(incarnation, seen),
                Some(_) = self.processes.join_next() => {}
                () = next_wake => self.step(Input::Tick),
            }
        }
    }

    fn now(&self) -> Mono {
        self.shared.engine.clock().now().mono
    }

    fn see(&mut self, incarnation: u64, seen: Seen) {
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
            Action::Initialize(incarnation) => self.initialize(incarnation),
            Action::PollHealth(incarnation) => self.poll_health(incarnation),
            Action::SendShutdown(incarnation) => self.shut_down(incarnation),
            Action::SendTerm(incarnation) => self.order(incarnation, Order::Term),
            Action::SendKill(incarnation) => self.order(incarnation, Order::Kill),
            Action::ReportUp(incarnation) => {
                let caller = self.sessions.get(&incarnation).map(|session| session.caller.clone());
                let reach = self.reach(incarnation);
                self.shown.send_modify(|shown| {
                    shown.caller = caller;
                    shown.reach = reach;
                });
            }
            Action::ReportDown { incarnation, reason } => {
                self.shown.send_modify(|shown| shown.reach = None);
                // Whoever is stopped is reported before: what has ended by then ended by itself.
                let session = self.sessions.get(&incarnation);
                let crashed = session.is_some_and(|session| session.has_ended);
                // The other side lives as long as we do.
                let _ = self.notes.send(Note::Down { incarnation, reason, crashed });
            }
            Action::Log { level, text } => self.log(level, &text),
        }
    }

    fn log(&self, level: LogLevel, text: &str) {
        let plugin = &self.settings.name;
        let word = match level {
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        };
        self.shared.logs.of(plugin).push(word, HOST, text, None);
        match level {
            LogLevel::Info => tracing::info!(%plugin, "plugin {plugin}: {text}"),
            LogLevel::Warn => tracing::warn!(%plugin, "plugin {plugin}: {text}"),
            LogLevel::Error => tracing::error!(%plugin, "plugin {plugin}: {text}"),
        }
    }

    fn show(&self) {
        let session = self.sessions.get(&self.supervisor.incarnation());
        let version = session.and_then(|session| session.facts.version.get());
        let state = self.supervisor.status();
        // What is said while it starts or rests is no error.
        let is_error = !matches!(state, Status::Starting | Status::Stopped);
        let reason = Some(self.supervisor.reason()).filter(|reason| is_error && !reason.is_empty());
        self.shown.send_modify(|shown| {
            shown.state = state;
            shown.launcher = self.supervisor.pid();
            shown.error = reason.map(str::to_owned);
            if let Some(version) = version {
                shown.version.clone_from(version);
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
        let zero_is_never = self.settings.zero_rate_never;
        let caller =
            Arc::new(Caller::new(name.clone(), incarnation, zero_is_never, self.account.clone()));
        self.shared.callers.admit(&token, caller.clone());
        let capture = Capture::new(name.as_str(), token.clone(), self.shared.logs.of(name));
        let (orders, to_obey) = mpsc::unbounded_channel();
        let facts = Arc::new(Facts::default());
        let mut calls = JoinSet::new();
        calls.spawn(hear_port(capture.port(), tell.clone()));
        let start = start(self.shared.clone(), self.settings.clone(), facts.clone());
        self.processes.spawn(live(start, to_obey, capture.clone(), tell));
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
        let channel = grpc::channel(port);
        let client = grpc::client(channel.clone());
        let callee = callee(&self.shared, &self.settings, session, client.clone());
        let call = session.call(describe(callee, session.facts.clone(), tell));
        session.dialled = Some(Dialled { port, channel, client, call });
    }

    /// What calls to this process need, once it has been dialled.
    fn callee(&self, incarnation: u64) -> Option<Callee> {
        let session = self.sessions.get(&incarnation)?;
        let client = session.dialled.as_ref()?.client.clone();
        Some(callee(&self.shared, &self.settings, session, client))
    }

    /// How a process that is up is reached.
    fn reach(&self, incarnation: u64) -> Option<Reach> {
        let session = self.sessions.get(&incarnation)?;
        let channel = session.dialled.as_ref()?.channel.clone();
        Some(Reach { channel, caller: session.caller.clone(), token: session.token.clone() })
    }

    fn initialize(&mut self, incarnation: u64) {
        let Some(callee) = self.callee(incarnation) else { return };
        let tell = self.tell(incarnation);
        let Some(session) = self.sessions.get_mut(&incarnation) else { return };
        let version = session.facts.version.get().cloned().unwrap_or_default();
        session.call(initialize(callee, version, self.notes.clone(), tell));
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
    client: Client,
) -> Callee {
    Callee {
        settings: settings.clone(),
        protocol_version: shared.protocol_version.clone(),
        endpoint: shared.endpoint.clone(),
        token: session.token.clone(),
        caller: session.caller.clone(),
        launcher: session.facts.launcher.get().copied().unwrap_or(u32::MAX),
        client,
        log: shared.logs.of(&settings.name),
    }
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
) -> Result<Launched, String> {
    let wanted = settings.clone();
    let places = shared.search_paths.clone();
    let found = tokio::task::spawn_blocking(move || find_program(&wanted, &places)).await;
    let program = match found {
        Ok(found) => found.map_err(|error| error.to_string())?,
        Err(error) => return Err(format!("cannot look for its program: {error}")),
    };
    let port =
        shared.ports.take().map_err(|error| format!("no port of loopback is free: {error}"))?;
    let given = arguments(&settings.args, port.number);
    let args: Vec<_> = program.args.into_iter().chain(given).collect();
    let environment = environment(std::env::vars_os(), &settings.env);
    hit(Point::Spawn).map_err(|injected| injected.to_string())?;
    let launched =
        launch(&shared.launcher, &program.path, &args, environment).map_err(|error| {
            format!("cannot start the launcher {:?}: {error}", shared.launcher.program)
        })?;
    // Each is set here and nowhere else.
    let _ = facts.requested_port.set(port);
    let _ = facts.launcher.set(launched.pid());
    Ok(launched)
}

async fn live(
    start: impl Future<Output = Result<Launched, String>>,
    orders: mpsc::UnboundedReceiver<Order>,
    capture: Arc<Capture>,
    tell: Tell,
) {
    match start.await {
        Err(reason) => tell.seen(Seen::SpawnFailed { reason }),
        Ok(launched) => {
            tell.seen(Seen::Spawned { pid: launched.pid() });
            let status = attend(launched, orders, capture).await;
            tell.seen(Seen::Exited { status });
        }
    }
}

async fn describe(callee: Callee, facts: Arc<Facts>, tell: Tell) {
    let not_yet = |reason| tell.seen(Seen::NotYet { reason });
    match callee.describe(not_yet).await {
        Err(reason) => tell.seen(Seen::Fatal { reason }),
        Ok(described) => {
            // A second channel to the same process gets the same answer.
            let _ = facts.version.set(described.version);
            tell.seen(Seen::MetadataOk);
        }
    }
}

async fn initialize(
    mut callee: Callee,
    version: String,
    notes: mpsc::UnboundedSender<Note>,
    tell: Tell,
) {
    if let Err(injected) = hit(Point::Handshake) {
        return tell.seen(Seen::InitializeFailed { reason: injected.to_string() });
    }
    let registration = match callee.initialize().await {
        Ok(registration) => registration,
        Err(seen) => {
            // A process that died under the call tells by its end what the broken call cannot; told of
            // that, nobody listens to this any more.
            tokio::time::sleep(END_WITHIN).await;
            return tell.seen(seen);
        }
    };
    match register(&callee, &version, &registration, &notes, &tell).await {
        Ok(verdicts) => {
            callee.complain(&wire::refusals(&verdicts));
            callee.caller.registered();
            tell.seen(Seen::Ready);
            callee.register_glyphs().await;
        }
        Err(reason) => tell.seen(Seen::InitializeFailed { reason }),
    }
}

/// Tells the engine that the plugin is ready, and what it has. Waits for room on the disk as long as
/// the supervisor has patience: the process is not at fault, and a new one would fare no better.
async fn register(
    callee: &Callee,
    version: &str,
    registration: &Registration,
    notes: &mpsc::UnboundedSender<Note>,
    tell: &Tell,
) -> Result<Verdicts, String> {
    loop {
        let (reply, verdicts) = oneshot::channel();
        let ready = Box::new(ready(callee, version, registration, tell));
        // Without the other side no answer comes, which is told apart below.
        let _ = notes.send(Note::Up { ready, reply });
        let error = match verdicts.await {
            Ok(Ok(verdicts)) => return Ok(verdicts),
            Ok(Err(error)) => error,
            Err(_) => return Err("the plugin was stopped meanwhile".to_owned()),
        };
        let plugin = &callee.settings.name;
        tracing::error!(%plugin, %error, "Failed to setup plugin watchers");
        if !matches!(error, RequestError::Exhausted(_)) {
            return Err(error.to_string());
        }
        tokio::time::sleep(REGISTER_EVERY).await;
    }
}

fn ready(callee: &Callee, version: &str, registration: &Registration, tell: &Tell) -> PluginReady {
    let settings = &callee.settings;
    let transport = GrpcPlugin::new(
        callee.client.clone(),
        settings.execute_timeout,
        callee.caller.clone(),
        callee.token.clone(),
        callee.log.clone(),
        tell.to.clone(),
    );
    PluginReady {
        plugin: settings.name.clone(),
        incarnation: callee.caller.incarnation,
        version: version.to_owned(),
        max_in_flight: settings.max_in_flight,
        registration: registration.clone(),
        transport: Arc::new(transport),
    }
}

/// What became of each watcher of a registration.
type Verdicts = Vec<(String, Result<(), Refusal>)>;

/// What the engine is to be told of a plugin's processes, in this order.
enum Note {
    Up { ready: Box<PluginReady>, reply: oneshot::Sender<Result<Verdicts, RequestError>> },
    Down { incarnation: u64, reason: String, crashed: bool },
}

/// Tells the engine, however long its disk takes, in the order in which things happened: a process
/// that is down never comes up.
async fn keep_notes(engine: Engine, plugin: PluginName, mut notes: mpsc::UnboundedReceiver<Note>) {
    let mut down_up_to = 0;
    while let Some(note) = notes.recv().await {
        match note {
            Note::Up { ready, .. } if ready.incarnation <= down_up_to => {}
            Note::Up { ready, reply } => {
                // Who asked may have been told to stop meanwhile; `Down` follows then.
                let _ = reply.send(engine.plugin_up(*ready).await);
            }
            Note::Down { incarnation, reason, crashed } => {
                down_up_to = incarnation;
                // An engine that is gone knows of no plugin any more.
                let _ = engine.plugin_down(plugin.clone(), incarnation, reason, crashed).await;
            }
        }
    }
}
