//! The plugin host: every configured plugin, run, watched over, spoken to, and spoken with.
//!
//! Each plugin has a task of its own (`actor`) around the pure machine of
//! [`axwatch_core::supervise`]. Its program, or a checked copy of it (`pinned`), is run by what is
//! configured (`settings`). Its process stands under a launcher ([`launcher`], `process`), which ends it
//! and all that it started when we say so or are gone; which processes are its and where they listen, the
//! kernel tells ([`listeners`]). Jobs reach it over one gRPC channel (`grpc`), which its other calls share
//! (`calls`, and `schema` for what it says can be configured), those of browsers too (`http`, `socket`,
//! and the room that both have, `transit`). What it prints (`output`) can be read along (`tail`).
//!
//! Its calls back come to one port for all plugins: through `door` until it is known whose they are, to
//! `services` and `claims`, `queue` and `schedules`. Who it is there is decided by a token that belongs to its
//! process alone (`token`, `caller`, `admission`), and of the writer it has its `share`. What is large takes turns, in both directions (`large`). Protobuf ends in `wire`.
//! [`check`] tells the author of a plugin what a host makes of it.
//!
//! Nothing of this survives a restart, and nothing has to: what a plugin announced is in the store,
//! and its jobs wait there.

mod actor;
mod admission;
mod caller;
mod calls;
pub mod check;
mod claims;
mod door;
mod grpc;
mod http;
mod large;
pub mod launcher;
pub mod listeners;
mod output;
mod pinned;
mod process;
mod queue;
mod schedules;
mod schema;
mod services;
mod settings;
mod share;
mod socket;
mod stored;
mod tail;
mod token;
mod transit;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axwatch_core::supervise::STOP_MAX;
pub use axwatch_core::supervise::Status;
use axwatch_model::bounds::cut;
use axwatch_model::{JobId, PluginName, Timestamp};
use futures::FutureExt as _;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

pub use http::{CallError, Callable, HttpCall, HttpReply};
pub use process::{LauncherCommand, OURS_IN_ENV};
pub use schema::{ConfigField, ConfigView};
pub use settings::{
    BODY_BYTES_MAX, HostSettings, Keepalive, MAX_IN_FLIGHT_MAX, PluginSettings, Program, Reload,
};
pub use socket::{
    Frame, FrameKind, NotSent, Opening, Pulse, Socket, SocketEnd, SocketReceiver, SocketSender,
};
pub use tail::{LogLine, Tail, Told};
pub use transit::Load;

use crate::handle::{Engine, RequestError};

use actor::{Command, Declined, Reply, Shared, Shown};
use output::LINE_BYTES_MAX;
use process::Launchers;
use services::Services;
use tail::{Log, Logs};
use token::Callers;
use transit::{PluginTransit, Transit};

/// Commands of people that may wait for a plugin's task.
const COMMANDS_MAX: usize = 16;
/// How much longer than its plugins the host takes to stop.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// Why the host did not start. No plugin's fault is one of these.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no port for plugins to call.
    #[error("cannot listen on loopback for the calls of plugins")]
    Listen(#[source] io::Error),
    /// Two plugins have one name.
    #[error("plugin {0} is configured twice")]
    Twice(PluginName),
}

/// No plugin has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no plugin {name:?}; configured are: {}", known.join(", "))]
pub struct UnknownPlugin {
    /// What was asked for.
    pub name: String,
    /// What there is.
    pub known: Vec<String>,
}

/// Why a plugin was not treated as somebody wanted.
#[derive(Debug, thiserror::Error)]
pub enum HostRefusal {
    /// No plugin has this name.
    #[error(transparent)]
    Unknown(#[from] UnknownPlugin),
    /// It is not to run.
    #[error("plugin {0} is disabled; enable it first: axwatch plugin enable {0}")]
    Disabled(PluginName),
    /// Only a process that is up can be told another configuration.
    #[error(
        "plugin {plugin} is {}, and only one that is ready can be reconfigured; a restart reads its configuration too: axwatch plugin restart {plugin}",
        state.as_str()
    )]
    NotUp {
        /// Which plugin.
        plugin: PluginName,
        /// What it is doing instead.
        state: Status,
    },
    /// What is configured for it cannot be, or it did not take it.
    #[error(
        "the configuration of plugin {plugin} was not taken, and it goes on as before: {reason}"
    )]
    Configuration {
        /// Which plugin.
        plugin: PluginName,
        /// What is wrong.
        reason: String,
    },
    /// The engine did not do its part, and nothing is changed.
    #[error(transparent)]
    Engine(#[from] RequestError),
    /// Nobody is there any more to do it.
    #[error("the plugins are being stopped, because the server ends")]
    Stopping,
}

/// Who a plugin says it is: its Metadata, as shown text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct About {
    /// Its version.
    pub version: String,
    /// Which versions of the protocol it wants; empty for any.
    pub qntx_version: String,
    /// What it is for.
    pub description: String,
    /// Who wrote it.
    pub author: String,
    /// Under which licence.
    pub license: String,
}

/// What a plugin answered to Health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthView {
    /// When.
    pub at: Timestamp,
    /// Whether it says that it is well; a call that failed says that it is not.
    pub healthy: bool,
    /// What it said, or why the call failed.
    pub message: String,
    /// What else it said, by name.
    pub details: BTreeMap<String, String>,
}

/// A plugin as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginView {
    /// Its configured name.
    pub name: PluginName,
    /// What it is doing.
    pub state: Status,
    /// Since when.
    pub since: Timestamp,
    /// Somebody wants it not to run.
    pub disabled: bool,
    /// What its Metadata said last; empty before.
    pub version: String,
    /// All that its Metadata said last; empty before.
    pub about: About,
    /// Its last process: 1 for the first, one more for each start, over the whole life of the store.
    pub incarnation: u64,
    /// Processes that were launched in place of an earlier one since the server started.
    pub restarts: u64,
    /// What it answered to Health last.
    pub health: Option<HealthView>,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// The handlers that it announced last, by name.
    pub handlers: Vec<String>,
    /// Why it is in its state, when that is not as it should be.
    pub error: Option<String>,
    /// Why it is in its state, whatever that is; empty when there is nothing to say.
    pub reason: String,
}

/// Runs the configured plugins. When it is dropped, all their processes are killed.
pub struct PluginHost {
    plugins: BTreeMap<PluginName, Handle>,
    running: Mutex<Option<Running>>,
    reload: Option<Reload>,
    keepalive: Keepalive,
    body_bytes_max: usize,
}

/// How one plugin's task is reached.
struct Handle {
    commands: mpsc::Sender<Command>,
    shown: watch::Receiver<Shown>,
    /// What is on its way between browsers and it.
    transit: PluginTransit,
    log: Arc<Log>,
}

struct Running {
    actors: JoinSet<()>,
    services: JoinSet<()>,
    stop_services: oneshot::Sender<()>,
}

impl PluginHost {
    /// Starts the services for plugins, and every plugin. Answers at once: they come up one by one.
    ///
    /// `launcher` makes a launcher of our own program: see [`launcher::run`].
    ///
    /// # Errors
    /// [`HostError`]. A plugin that cannot be started is shown as failed, and is no error here.
    pub async fn start(
        engine: Engine,
        settings: HostSettings,
        launcher: LauncherCommand,
    ) -> Result<PluginHost, HostError> {
        if let Some(home) = settings.home.clone() {
            // What a killed engine and its killed launchers left behind would work beside its successors.
            let _ = tokio::task::spawn_blocking(move || process::end_leftovers(&home)).await;
        }
        let listener = services::bind().await.map_err(HostError::Listen)?;
        let endpoint = listener.local_addr().map_err(HostError::Listen)?.to_string();
        let callers = Arc::new(Callers::default());
        let (stop_services, stopped) = oneshot::channel::<()>();
        let serving = Services::new(engine.clone(), callers.clone());
        let mut services = JoinSet::new();
        services.spawn(async move {
            let stopped = async { drop(stopped.await) };
            if let Err(error) = serving.serve(listener, stopped).await {
                tracing::error!(%error, "the services for plugins have ended");
            }
        });
        let names = settings.plugins.iter().map(|plugin| &plugin.name);
        let logs = Logs::new(names, engine.clock());
        let shared = Arc::new(Shared {
            logs,
            engine,
            callers,
            endpoint: endpoint.into(),
            protocol_version: settings.protocol_version,
            search_paths: settings.search_paths,
            home: settings.home,
            launcher,
            ports: Arc::default(),
            launchers: Launchers::new(settings.adopts_orphans),
        });
        let transit = Transit::new(settings.body_bytes_max);
        let mut host = PluginHost {
            plugins: BTreeMap::new(),
            running: Mutex::default(),
            reload: settings.reload,
            keepalive: settings.keepalive,
            body_bytes_max: settings.body_bytes_max,
        };
        let mut actors = JoinSet::new();
        for plugin in settings.plugins {
            let name = plugin.name.clone();
            let (commands, to_do) = mpsc::channel(COMMANDS_MAX);
            let (shown, seen) = watch::channel(Shown::nothing(&shared, plugin.clone()));
            let (transit, log) = (transit.of_plugin(), shared.logs.of(&name));
            let handle = Handle { commands, shown: seen, transit, log };
            if host.plugins.insert(name.clone(), handle).is_some() {
                return Err(HostError::Twice(name));
            }
            actors.spawn(run_or_end(shared.clone(), plugin, to_do, shown));
        }
        host.running = Mutex::new(Some(Running { actors, services, stop_services }));
        Ok(host)
    }

    /// How the sockets of browsers to plugins are kept alive.
    #[must_use]
    pub fn keepalive(&self) -> Keepalive {
        self.keepalive
    }

    /// Bytes that one HTTP or WebSocket body to or from a plugin may have.
    #[must_use]
    pub fn body_bytes_max(&self) -> usize {
        self.body_bytes_max
    }

    /// All plugins, by name.
    #[must_use]
    pub fn list(&self) -> Vec<PluginView> {
        self.plugins.iter().map(|(name, handle)| handle.view(name)).collect()
    }

    /// One plugin.
    ///
    /// # Errors
    /// [`UnknownPlugin`].
    pub fn show(&self, name: &str) -> Result<PluginView, UnknownPlugin> {
        self.find(name).map(|(name, handle)| handle.view(name))
    }

    /// A plugin whose process is up, to be asked something by a browser.
    ///
    /// # Errors
    /// [`CallError`]: there is none of this name, or it does not run just now.
    pub fn callable(&self, name: &str) -> Result<Callable, CallError> {
        let (plugin, handle) = self.find(name)?;
        let shown = handle.shown.borrow();
        match (&shown.reach, shown.state) {
            (Some(reach), _) => Ok(Callable {
                plugin: plugin.clone(),
                transit: handle.transit.clone(),
                reach: reach.clone(),
                within: http::ANSWER_WITHIN,
            }),
            (None, _) if shown.disabled => {
                let is_up = |handle: &Handle| handle.shown.borrow().reach.is_some();
                let running =
                    self.plugins.iter().filter(|(other, handle)| *other != plugin && is_up(handle));
                let running = running.map(|(name, _)| name.to_string()).collect();
                Err(CallError::Disabled { plugin: plugin.clone(), running })
            }
            (None, state) => Err(Callable::away(plugin, state, shown.error.clone())),
        }
    }

    /// As [`PluginHost::callable`], but waits for a plugin that is coming up, at most this long.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn callable_soon(&self, name: &str, within: Duration) -> Result<Callable, CallError> {
        let mut shown = self.find(name)?.1.shown.clone();
        let settled = shown.wait_for(|shown| {
            shown.reach.is_some() || shown.disabled || shown.state != Status::Starting
        });
        // Either way the look below says how it is.
        let _ = tokio::time::timeout(within, settled).await;
        self.callable(name)
    }

    /// Whether a browser needs no token for this plugin.
    #[must_use]
    pub fn is_open(&self, name: &str) -> bool {
        self.find(name).is_ok_and(|(_, handle)| handle.shown.borrow().settings.open)
    }

    /// A reader of a plugin's log, from so many of its last lines on.
    ///
    /// # Errors
    /// [`UnknownPlugin`].
    pub fn logs(&self, name: &str, last: usize) -> Result<Tail, UnknownPlugin> {
        let (_, handle) = self.find(name)?;
        Ok(handle.log.clone().tail(last))
    }

    /// Adds a line of ours to the log of a plugin, if it is one of this host's: what is in the log of the
    /// program, and so has no secrets in it. `level` is `error`, `warn`, `info` or `debug`.
    pub fn note(&self, plugin: &str, level: &'static str, words: &str, job: Option<JobId>) {
        if let Ok((_, handle)) = self.find(plugin) {
            handle.log.push(level, output::HOST, cut(words, LINE_BYTES_MAX), job);
        }
    }

    /// Asks for a new process of a plugin, whatever its state, with its configuration read anew. What it
    /// registered stays. Answers when the old process is being stopped, not when the new one is up.
    ///
    /// # Errors
    /// [`HostRefusal`]: among others when it is disabled, or when its configuration cannot be read.
    pub async fn restart(&self, name: &str) -> Result<(), HostRefusal> {
        let settings = self.reread(name).await?;
        self.command(name, |reply| Command::Restart { settings, reply }).await
    }

    /// Gets a plugin out of `failed` or back-off: its crashes are forgotten and it is started anew. One
    /// that runs stays as it is.
    ///
    /// # Errors
    /// [`HostRefusal`]: among others when it is disabled, or when its configuration cannot be read.
    pub async fn reset(&self, name: &str) -> Result<(), HostRefusal> {
        let settings = self.reread(name).await?;
        self.command(name, |reply| Command::Reset { settings, reply }).await
    }

    /// Stops a plugin, retires all that it registered, and keeps that it is not to run, over restarts of
    /// the server too. Answers when that is on the disk and the process is being stopped. One that is
    /// disabled stays so.
    ///
    /// # Errors
    /// [`HostRefusal`].
    pub async fn disable(&self, name: &str) -> Result<(), HostRefusal> {
        self.command(name, |reply| Command::Disable { reply }).await
    }

    /// Starts a disabled plugin anew, with its configuration read anew: what it announces is new too. One
    /// that is not disabled stays as it is.
    ///
    /// # Errors
    /// [`HostRefusal`].
    pub async fn enable(&self, name: &str) -> Result<(), HostRefusal> {
        let settings = self.reread(name).await?;
        self.command(name, |reply| Command::Enable { settings, reply }).await
    }

    /// Reads a plugin's own table anew and calls Initialize with it once more, on the process that runs.
    /// Answers when the plugin took it and what it announces now is registered, which takes up to its
    /// `initialize_timeout_secs`, and longer only while that is being written. What else is configured for it waits
    /// for a restart.
    ///
    /// # Errors
    /// [`HostRefusal`]: the plugin then goes on as before.
    pub async fn reconfigure(&self, name: &str) -> Result<(), HostRefusal> {
        let settings = self.reread(name).await?;
        self.command(name, |reply| Command::Reconfigure { settings, reply }).await
    }

    /// What may be configured for a plugin, as its ConfigSchema said last, and what is.
    ///
    /// # Errors
    /// [`UnknownPlugin`].
    pub fn config(&self, name: &str) -> Result<ConfigView, UnknownPlugin> {
        let (_, handle) = self.find(name)?;
        let shown = handle.shown.borrow();
        Ok(ConfigView::of(&shown.settings, shown.schema.as_deref()))
    }

    /// The settings of a plugin as they are written now; `None` when nobody can read them.
    async fn reread(&self, name: &str) -> Result<Option<Box<PluginSettings>>, HostRefusal> {
        let (plugin, _) = self.find(name)?;
        let Some(reload) = self.reload.clone() else { return Ok(None) };
        let wanted = plugin.clone();
        let read = tokio::task::spawn_blocking(move || reload.read(&wanted)).await;
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(settings) => Ok(Some(Box::new(settings))),
            Err(reason) => Err(HostRefusal::Configuration { plugin: plugin.clone(), reason }),
        }
    }

    /// Tells a plugin's task, and waits for what it says.
    async fn command(
        &self,
        name: &str,
        command: impl FnOnce(Reply) -> Command,
    ) -> Result<(), HostRefusal> {
        let (plugin, handle) = self.find(name)?;
        let plugin = plugin.clone();
        let (reply, answer) = oneshot::channel();
        // A task that has ended is that of a host that shuts down.
        handle.commands.send(command(reply)).await.map_err(|_| HostRefusal::Stopping)?;
        answer.await.map_err(|_| HostRefusal::Stopping)?.map_err(|declined| match declined {
            Declined::Disabled => HostRefusal::Disabled(plugin),
            Declined::NotUp(state) => HostRefusal::NotUp { plugin, state },
            Declined::Configuration(reason) => HostRefusal::Configuration { plugin, reason },
            Declined::Engine(error) => HostRefusal::Engine(error),
        })
    }

    /// Stops all plugins, together: Shutdown, SIGTERM, SIGKILL. Over within ten seconds whatever they
    /// do, and then nothing that they started is left. Does nothing the second time.
    ///
    /// When this is dropped half-way, everything is killed at once.
    pub async fn shutdown(&self) {
        let running = self.running.lock().expect("no holder of the host's tasks panics").take();
        let Some(mut running) = running else { return };
        for handle in self.plugins.values() {
            // A task that has ended is stopped.
            let _ = handle.commands.send(Command::Stop).await;
        }
        let all = async { while running.actors.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_MAX + STOP_MARGIN, all).await.is_err() {
            tracing::error!("not all plugins have stopped in time");
        }
        // Last: what a plugin has to say in its Shutdown is heard.
        let _ = running.stop_services.send(());
        running.services.shutdown().await;
    }

    fn find(&self, name: &str) -> Result<(&PluginName, &Handle), UnknownPlugin> {
        self.plugins.iter().find(|(known, _)| known.as_str() == name).ok_or_else(|| UnknownPlugin {
            name: axwatch_model::bounds::cut(name, 80).to_owned(),
            known: self.plugins.keys().map(ToString::to_string).collect(),
        })
    }
}

/// A plugin's task. One that panics ends the engine: without it the plugin's processes would be gone
/// and the engine would go on to send jobs to them, while a start puts all right.
async fn run_or_end(
    shared: Arc<Shared>,
    plugin: PluginSettings,
    to_do: mpsc::Receiver<Command>,
    shown: watch::Sender<Shown>,
) {
    let (engine, name) = (shared.engine.clone(), plugin.name.clone());
    let run = AssertUnwindSafe(actor::run(shared, plugin, to_do, shown));
    if run.catch_unwind().await.is_err() {
        tracing::error!(plugin = %name, "the task of a plugin panicked, so the engine ends");
        engine.stop().await;
    }
}

impl Handle {
    fn view(&self, name: &PluginName) -> PluginView {
        let shown = self.shown.borrow().clone();
        PluginView {
            name: name.clone(),
            state: shown.state,
            since: shown.since,
            disabled: shown.disabled,
            version: shown.about.version.clone(),
            about: shown.about,
            incarnation: shown.incarnation,
            restarts: shown.launches.saturating_sub(1),
            health: shown.health,
            // The launcher's first child is the plugin; before it is there, the launcher stands for it.
            pid: shown.launcher.map(|pid| listeners::first_child(pid).unwrap_or(pid)),
            handlers: shown.caller.map(|caller| caller.handlers()).unwrap_or_default(),
            error: shown.error,
            reason: shown.reason,
        }
    }
}
