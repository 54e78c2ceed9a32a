//! The plugin host: every configured plugin, run, watched over, spoken to, and spoken with.
//!
//! Each plugin has a task of its own (`actor`) around the pure machine of
//! [`axwatch_core::supervise`]. Its process stands under a launcher ([`launcher`], `process`), which
//! ends it and all that it started when we say so or are gone. Jobs reach it over one gRPC channel
//! (`grpc`), which its other calls share (`calls`). Its calls back come to one port for all plugins
//! (`services`, `claims`), and who it is there is decided by a token that belongs to its process alone
//! (`token`, `caller`). Protobuf ends in `wire`.
//!
//! Nothing of this survives a restart, and nothing has to: what a plugin announced is in the store,
//! and its jobs wait there.

mod actor;
mod caller;
mod calls;
pub mod check;
mod claims;
mod grpc;
pub mod launcher;
pub mod listeners;
mod output;
mod process;
mod services;
mod settings;
mod token;
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
use axwatch_model::PluginName;
use futures::FutureExt as _;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

pub use process::LauncherCommand;
pub use settings::{HostSettings, MAX_IN_FLIGHT_MAX, PluginSettings, Program};

use crate::handle::Engine;
use actor::{Command, Shared, Shown};
use services::Services;
use token::Callers;

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

/// A plugin as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginView {
    /// Its configured name.
    pub name: PluginName,
    /// What it is doing.
    pub state: Status,
    /// What its Metadata said last; empty before.
    pub version: String,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// The handlers that it announced last, by name.
    pub handlers: Vec<String>,
    /// Why it is in its state, when that is not as it should be.
    pub error: Option<String>,
}

/// Runs the configured plugins. When it is dropped, all their processes are killed.
pub struct PluginHost {
    plugins: BTreeMap<PluginName, Handle>,
    running: Mutex<Option<Running>>,
}

/// How one plugin's task is reached.
struct Handle {
    commands: mpsc::Sender<Command>,
    shown: watch::Receiver<Shown>,
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
        let shared = Arc::new(Shared {
            engine,
            callers,
            endpoint: endpoint.into(),
            protocol_version: settings.protocol_version,
            search_paths: settings.search_paths,
            launcher,
            ports: Arc::default(),
        });
        let mut host = PluginHost { plugins: BTreeMap::new(), running: Mutex::default() };
        let mut actors = JoinSet::new();
        for plugin in settings.plugins {
            let name = plugin.name.clone();
            let (commands, to_do) = mpsc::channel(COMMANDS_MAX);
            let (shown, seen) = watch::channel(Shown::nothing());
            if host.plugins.insert(name.clone(), Handle { commands, shown: seen }).is_some() {
                return Err(HostError::Twice(name));
            }
            actors.spawn(run_or_end(shared.clone(), plugin, to_do, shown));
        }
        host.running = Mutex::new(Some(Running { actors, services, stop_services }));
        Ok(host)
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

    /// Asks for a new process of a plugin, whatever its state. Answers when the plugin's task has
    /// been told, not when the process is up.
    ///
    /// # Errors
    /// [`UnknownPlugin`].
    pub async fn restart(&self, name: &str) -> Result<(), UnknownPlugin> {
        let (_, handle) = self.find(name)?;
        // A task that has ended is that of a host that shuts down.
        let _ = handle.commands.send(Command::Restart).await;
        Ok(())
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
            version: shown.version,
            // The launcher's first child is the plugin; before it is there, the launcher stands for it.
            pid: shown.launcher.map(|pid| listeners::first_child(pid).unwrap_or(pid)),
            handlers: shown.caller.map(|caller| caller.handlers()).unwrap_or_default(),
            error: shown.error,
        }
    }
}
