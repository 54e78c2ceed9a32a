//! `axwatch serve`: store, engine, plugin host and API, wired together, and taken down in order.
//!
//! Up: the store with its lock, the socket, the engine, the plugins, the API, and last the two files
//! by which commands find it. Down, at SIGTERM or SIGINT: those files, the API, the plugins, the
//! engine; each step is bounded, all together within 20 s, and a second signal ends everything at
//! once. A store that fails ends the process with its own exit code, so that whoever supervises it
//! starts it again: a start is the one road of recovery.
//!
//! Not here: what any of these does.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axwatch_ats::{SqliteStore, Store, StoreError};
use axwatch_engine::plugin::{LauncherCommand, PluginHost, Reload};
use axwatch_engine::{Engine, EngineConfig, EngineStopped, Retained};
use axwatch_model::SystemClock;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::api::{self, Listener};
use crate::cli::variable;
use crate::config::Config;
use crate::fault::Fault;
use crate::host_lines::{self, HostLines};
use crate::output::Output;
use crate::runtime::{self, Runtime, RuntimeFiles};
use crate::shipped;
use crate::times;
use crate::tls::ServerTls;

/// What is logged when nobody says otherwise.
const LOG_DEFAULT: &str = "info,sqlx=warn,hyper=warn,h2=warn,tower=warn";
/// The longest that attempts under way may still take when the engine is told to stop.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// The longest that taking down may last, whatever hangs.
const DOWN_WITHIN: Duration = Duration::from_secs(20);
/// From one time that retention takes away what has become old to the next.
const RETAIN_EVERY: Duration = Duration::from_secs(60 * 60);

/// What is printed once the API answers.
#[derive(Serialize)]
struct Started<'a> {
    http: &'a str,
    store: String,
    pid: u32,
}

/// Runs the engine until a signal ends it.
///
/// # Errors
/// What kept it from starting, or ended it.
pub async fn run(config: &Config, out: &mut Output) -> Result<()> {
    start_log(config)?;
    keep_memory_private();
    let mut signals = Signals::listen()?;
    let mut server = Server::start(config).await?;
    server.tell(out)?;
    let name = server.ended(&mut signals).await?;
    tracing::info!(signal = name, "stopping");
    server.stop(&mut signals).await
}

/// An engine with its plugins and its API, all of them up; the plugins may still be starting.
pub struct Server {
    engine: Engine,
    engine_task: JoinHandle<Result<(), EngineStopped>>,
    plugins: Arc<PluginHost>,
    serving: JoinHandle<()>,
    stop: watch::Sender<bool>,
    files: RuntimeFiles,
    damage: JoinHandle<StoreError>,
    runtime: Runtime,
    store: PathBuf,
}

impl Server {
    /// Starts everything, in order.
    ///
    /// # Errors
    /// What kept it from starting; whatever had started is down again.
    pub async fn start(config: &Config) -> Result<Server> {
        let mut settings = config.host_settings(variable)?;
        let tls = config.tls.as_ref().map(ServerTls::read).transpose()?;
        refuse_beyond_loopback(config.http, tls.is_some())?;
        let writer = SqliteStore::open_writer(&config.store).await?;
        let store = runtime::settle(&config.store);
        let listener = match bind(config.http).await {
            Ok(listener) => listener,
            Err(error) => {
                writer.close().await?;
                return Err(error);
            }
        };
        let engine_config = EngineConfig {
            handlers: settings.retry_limits(),
            handler_makers: settings.handler_makers(),
            ..config.engine_config()
        };
        let clock = Arc::new(SystemClock::new());
        let (engine, engine_task) = axwatch_engine::start(writer, clock, engine_config).await?;
        settings.home = Some(runtime::plugin_home(&store));
        settings.adopts_orphans = true;
        let configured = config.clone();
        settings.reload = Some(Reload::new(move |plugin| {
            configured.plugin_settings_now(plugin, variable).map_err(|error| error.to_string())
        }));
        let plugins = PluginHost::start(engine.clone(), settings, launcher()).await?;
        let plugins = Arc::new(plugins);
        host_lines::go_to(&plugins);

        let scheme = if tls.is_some() { "https" } else { "http" };
        let http = format!("{scheme}://{}", reached_at(listener.address()));
        let certificate = tls.as_ref().map(|tls| tls.fingerprint.clone());
        let token = random_token();
        let (stop, stopping) = watch::channel(false);
        let router = api::router(api::Parts {
            engine: engine.clone(),
            plugins: Arc::clone(&plugins),
            guard: api::Guard::new(&token, listener.address(), &config.hosts, tls.is_some()),
            stopping: stopping.clone(),
            http: http.clone(),
            store: store.clone(),
        });
        let serving = tokio::spawn(listener.serve(router, tls.map(|tls| tls.acceptor), stopping));
        let runtime = Runtime { http, pid: std::process::id(), certificate };
        let files = RuntimeFiles::write(&store, &runtime, &token).with_context(|| {
            format!("cannot write the runtime files beside {}", store.display())
        })?;
        if let Some(older_than) = config.retain_older_than {
            tokio::spawn(retain(engine.clone(), older_than, stop.subscribe()));
        }
        let damage = tokio::spawn(find_damage(engine.store().clone(), store.clone()));
        Ok(Server { engine, engine_task, plugins, serving, stop, files, damage, runtime, store })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The plugins.
    pub fn plugins(&self) -> &Arc<PluginHost> {
        &self.plugins
    }

    fn tell(&self, out: &mut Output) -> Result<()> {
        let Runtime { http, pid, .. } = &self.runtime;
        let store = self.store.display().to_string();
        tracing::info!(http, store, pid, "axwatch serves");
        if out.json {
            out.object(&Started { http, store, pid: *pid })?;
        } else {
            out.line(&format!("axwatch serves {store} at {http} (process {pid})"))?;
        }
        out.flush()
    }

    /// Waits for what ends a server, and answers with the name of the signal if it was one.
    ///
    /// # Errors
    /// The failure that ended it: nothing is left to be stopped in order then.
    pub async fn ended(&mut self, signals: &mut Signals) -> Result<&'static str> {
        tokio::select! {
            ended = &mut self.engine_task => Err(storage_failure(ended)),
            Ok(error) = &mut self.damage => {
                let error = anyhow::Error::from(error);
                tracing::error!(error = format!("{error:#}"), "the store is damaged, so the engine ends; keep a copy of it");
                Err(error)
            }
            name = signals.next() => Ok(name),
        }
    }

    /// Takes everything down, in order; another signal ends it at once.
    ///
    /// # Errors
    /// The store failed at the end, or a signal came.
    pub async fn stop(self, signals: &mut Signals) -> Result<()> {
        let down = tokio::time::timeout(DOWN_WITHIN, self.take_down());
        tokio::select! {
            down = down => match down {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::error!("not everything stopped in time; what is left is cut off");
                    Ok(())
                }
            },
            name = signals.next() => {
                tracing::warn!(signal = name, "a second signal: ending at once");
                Err(Fault::Refused("ended at once by a second signal".to_owned()).into())
            }
        }
    }

    async fn take_down(self) -> Result<()> {
        self.damage.abort();
        // First, so that no command finds a server that is about to leave.
        drop(self.files);
        let _ = self.stop.send(true);
        if let Err(error) = self.serving.await {
            tracing::error!(%error, "the API ended badly");
        }
        if self.engine.drain(DRAIN_WITHIN).await == Ok(false) {
            tracing::warn!(
                "some attempts did not end in time; they are tried again at the next start"
            );
        }
        self.plugins.shutdown().await;
        self.engine.stop().await;
        match self.engine_task.await {
            Ok(Ok(())) => {
                tracing::info!("stopped");
                Ok(())
            }
            ended => Err(storage_failure(ended)),
        }
    }
}

/// Looks through the store beside all other work; answers only when there is something to tell.
async fn find_damage(store: Arc<dyn Store>, path: PathBuf) -> StoreError {
    match store.find_damage().await {
        Ok(None) => std::future::pending().await,
        Ok(Some(reason)) => StoreError::Corrupt { path: path.display().to_string(), reason },
        Err(error) => error,
    }
}

/// Takes away what has become old, now and from then on every hour, until the server stops.
async fn retain(engine: Engine, older_than: Duration, mut stopping: watch::Receiver<bool>) {
    loop {
        let before = times::before(engine.clock().now().wall, older_than);
        match engine.retain(before, false).await {
            Ok(Retained { claims: 0, jobs: 0 }) => {}
            Ok(Retained { claims, jobs }) => {
                tracing::info!(%before, claims, jobs, "retention took away what was old");
            }
            Err(error) => {
                tracing::warn!(%before, %error, "retention did not come to its end; trying again later");
            }
        }
        let stopped = stopping.wait_for(|stopping| *stopping);
        if tokio::time::timeout(RETAIN_EVERY, stopped).await.is_ok() {
            return;
        }
    }
}

/// The engine ended by itself: its store failed, or it broke a promise of its own.
fn storage_failure(
    ended: Result<Result<(), EngineStopped>, tokio::task::JoinError>,
) -> anyhow::Error {
    let error = match ended {
        Ok(Err(stopped)) => anyhow::Error::from(stopped).context(Fault::Storage),
        // It was told to by a part that cannot go on, and that has said why.
        Ok(Ok(())) => anyhow::Error::from(Fault::Panicked),
        Err(panicked) => anyhow::Error::from(panicked).context(Fault::Panicked),
    };
    tracing::error!(error = format!("{error:#}"), "the engine has ended");
    error
}

/// SIGTERM and SIGINT.
pub struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    /// Taken and not heeded: a file that may not grow is an error of its write, told as any other.
    _too_large: tokio::signal::unix::Signal,
}

impl Signals {
    /// Listens from now on: neither ends the process by itself any more.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn listen() -> Result<Signals> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Signals {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            _too_large: listen(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// In our memory are the tokens of all plugins, and what the environment gave us for them. Another process
/// of this user cannot look into it from now on, and no core file is written, of us or of what we start.
fn keep_memory_private() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
            tracing::warn!(%error, "other processes of this user can look into our memory");
        }
    }
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a core file may be written");
    }
}

fn start_log(config: &Config) -> Result<()> {
    use std::io::IsTerminal as _;
    let colours = std::io::stderr().is_terminal() && variable("NO_COLOR").is_none();
    log_to(config, std::io::stderr, colours)
}

/// Writes the log there from now on.
///
/// # Errors
/// The filter of the configuration is none.
pub fn log_to<W>(config: &Config, writer: W, colours: bool) -> Result<()>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = config.log.as_deref().unwrap_or(LOG_DEFAULT);
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Fault::Usage(format!("the log filter {filter:?} is not valid: {error}"))
    })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
    tracing_subscriber::registry().with(filter).with(lines).with(HostLines).init();
    Ok(())
}

/// Without encryption the API stays where nobody listens in.
fn refuse_beyond_loopback(address: SocketAddr, is_encrypted: bool) -> Result<()> {
    if address.ip().is_loopback() || is_encrypted {
        return Ok(());
    }
    Err(Fault::Usage(format!(
        "{address} is not loopback: the API is not encrypted, so it listens on 127.0.0.1 or [::1] only; set http.tls_cert, http.tls_key and http.hosts to reach it from elsewhere"
    ))
    .into())
}

/// Where commands on this machine reach a server that listens there.
fn reached_at(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn bind(address: SocketAddr) -> Result<Listener> {
    Listener::bind(address).await.map_err(|error| {
        let problem = match error.kind() {
            std::io::ErrorKind::AddrInUse => format!(
                "port {} is in use by another program; take another one with --http {}:{}, or any free one with --http {}:0",
                address.port(),
                address.ip(),
                address.port().wrapping_add(1).max(1024),
                address.ip(),
            ),
            std::io::ErrorKind::PermissionDenied => format!(
                "port {} may not be used by this user; take one from 1024 on, such as --http {}:8770",
                address.port(),
                address.ip(),
            ),
            _ => format!("cannot listen on {address}: {error}"),
        };
        Fault::Refused(problem).into()
    })
}

/// Our own program, as a launcher of plugins.
pub fn launcher() -> LauncherCommand {
    let args = ["plugin-launcher", "--"].map(OsString::from).to_vec();
    LauncherCommand { program: shipped::ourselves(), args }
}

fn random_token() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_listened_on() {
        for (address, allowed) in [
            ("127.0.0.1:8770", true),
            ("127.0.0.2:0", true),
            ("[::1]:0", true),
            ("0.0.0.0:8770", false),
            ("192.168.1.2:8770", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(refuse_beyond_loopback(address, false).is_ok(), allowed, "{address}");
            assert!(refuse_beyond_loopback(address, true).is_ok(), "{address}");
        }
    }

    #[test]
    fn a_token_has_256_bits() {
        let (one, other) = (random_token(), random_token());
        assert_eq!(one.len(), 64);
        assert_ne!(one, other);
    }
}
