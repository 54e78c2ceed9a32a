//! The calls to a plugin's process that its supervisor asks for, one function each.
//!
//! Each says what was seen. When to call, and what follows from an answer, is for
//! `axwatch_core::supervise`; jobs go their own way (`super::grpc`).

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axwatch_core::Registration;
use axwatch_core::supervise::{HEALTH_WITHIN, InitializeOnce, SHUTDOWN_WITHIN, Seen};
use axwatch_model::Clock;
use axwatch_proto::protocol;
use semver::Version;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::caller::Caller;
use super::grpc::Client;
use super::listeners::{descendants, is_answered_by, listening_beyond_loopback};
use super::output::Capture;
use super::process::Port;
use super::schema::Schema;
use super::settings::{PluginSettings, check_version};
use super::token::Token;
use super::{About, HealthView, wire};

/// From the start of one try of Metadata to the next.
const METADATA_EVERY: Duration = Duration::from_millis(100);
/// How often is looked who listens on a plugin's port before it is told its token, if it is not the plugin.
const LOOKS: u32 = 3;
/// How long one try of Metadata may take.
const METADATA_WITHIN: Duration = Duration::from_secs(1);
/// How long a plugin may take to name what it adds to a user interface.
const GLYPHS_WITHIN: Duration = Duration::from_secs(5);

/// How long a plugin may take to say what can be configured.
const SCHEMA_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of an answer to anything but Initialize and jobs.
const BRIEF_BYTES_MAX: usize = 1024 * 1024;
/// Details of one answer to Health that are kept.
const DETAILS_MAX: usize = 32;

/// What is found out about a process.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) requested_port: OnceLock<Port>,
    /// The process id of its launcher.
    pub(crate) launcher: OnceLock<u32>,
    pub(crate) about: OnceLock<About>,
    heard: Mutex<Heard>,
}

/// What it said last.
#[derive(Default)]
struct Heard {
    /// Inside: what it answered, if that was a schema.
    schema: Option<Option<Arc<Schema>>>,
    health: Option<HealthView>,
}

impl Facts {
    /// What it answered to ConfigSchema: `None` before that, `Some(None)` when it has none.
    pub(crate) fn schema(&self) -> Option<Option<Arc<Schema>>> {
        self.heard().schema.clone()
    }

    /// What it answered to Health last.
    pub(crate) fn health(&self) -> Option<HealthView> {
        self.heard().health.clone()
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One process of a plugin, as far as calls to it go.
#[derive(Clone)]
pub(crate) struct Callee {
    pub(crate) settings: Arc<PluginSettings>,
    pub(crate) protocol_version: Version,
    /// Where our services are: `host:port`.
    pub(crate) endpoint: Arc<str>,
    pub(crate) token: Arc<Token>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) facts: Arc<Facts>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) client: Client,
    /// Where that dials.
    pub(crate) port: u16,
    /// Where what it says is logged.
    pub(crate) capture: Arc<Capture>,
}

/// Lines of the log that one announcement may cause, of each kind.
const LINES_MAX: usize = 100;

/// What stands between a process and being ready.
enum Obstacle {
    /// It may be gone at the next try.
    NotYet(String),
    /// It is not what was configured, and will not become it.
    Fault(String),
}

impl Obstacle {
    fn of_initialize(self) -> Seen {
        match self {
            Obstacle::Fault(reason) => Seen::Fatal { reason },
            Obstacle::NotYet(reason) => Seen::InitializeFailed { reason },
        }
    }
}

impl Callee {
    /// For calls that have a short answer.
    fn brief(&self) -> Client {
        self.client.clone().max_decoding_message_size(BRIEF_BYTES_MAX)
    }

    /// Calls Metadata until it is answered. `not_yet` hears of each try that failed.
    pub(crate) async fn describe(self, not_yet: impl Fn(String)) -> Result<About, String> {
        loop {
            let next = tokio::time::Instant::now() + METADATA_EVERY;
            match self.try_to_describe().await {
                Ok(about) => return Ok(about),
                Err(Obstacle::Fault(reason)) => return Err(reason),
                Err(Obstacle::NotYet(reason)) => not_yet(reason),
            }
            tokio::time::sleep_until(next).await;
        }
    }

    async fn try_to_describe(&self) -> Result<About, Obstacle> {
        // Before anything is dialled: the connection is kept, and whoever took it would be told the token
        // over it, although he no longer listens.
        self.check_who_answers().await?;
        let answer = timeout(METADATA_WITHIN, self.brief().metadata(protocol::Empty {})).await;
        let metadata = match answer {
            Ok(Ok(metadata)) => metadata.into_inner(),
            Ok(Err(status)) => {
                return Err(Obstacle::NotYet(format!(
                    "Metadata: {}",
                    self.token.shown(&with_cause(&status))
                )));
            }
            Err(_) => {
                return Err(Obstacle::NotYet(format!(
                    "Metadata: no answer in {METADATA_WITHIN:?}"
                )));
            }
        };
        self.check(&metadata).map_err(Obstacle::Fault)?;
        self.check_listeners().await?;
        Ok(About {
            version: self.token.shown(&metadata.version),
            qntx_version: self.token.shown(&metadata.qntx_version),
            description: self.token.shown(&metadata.description),
            author: self.token.shown(&metadata.author),
            license: self.token.shown(&metadata.license),
        })
    }

    fn check(&self, metadata: &protocol::MetadataResponse) -> Result<(), String> {
        let configured = &self.settings.name;
        if metadata.name != configured.as_str() {
            let found = self.token.shown(&metadata.name);
            return Err(format!(
                "the program says that it is plugin {found:?}, and is configured as {configured:?}; configure it under its own name, or another binary",
                configured = configured.as_str()
            ));
        }
        check_version(&metadata.qntx_version, &self.protocol_version)
    }

    /// Looks whether it is the plugin that answers: any program may have taken the port before it, or
    /// after it, and would be told the token. Where it may be reached from elsewhere, something else may well
    /// pass on what comes to its port.
    async fn check_who_answers(&self) -> Result<(), Obstacle> {
        if self.settings.allow_remote {
            return Ok(());
        }
        let (launcher, port) = (self.launcher(), self.port);
        let look = move || is_answered_by(port, &descendants(launcher));
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(false)) => Err(Obstacle::NotYet(format!(
                "no process of this plugin listens on 127.0.0.1:{port}, or not it alone"
            ))),
            // What cannot be seen is no fault of the plugin's.
            Ok(Ok(true) | Err(_)) | Err(_) => Ok(()),
        }
    }

    /// The same, and more than once when it is not: a plugin may be starting the workers that share its port,
    /// and the sockets and the processes that have them are not seen at one moment.
    async fn check_again_who_answers(&self) -> Result<(), Obstacle> {
        for _ in 1..LOOKS {
            if self.check_who_answers().await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(METADATA_EVERY).await;
        }
        self.check_who_answers().await
    }

    fn launcher(&self) -> u32 {
        self.facts.launcher.get().copied().unwrap_or(u32::MAX)
    }

    /// Looks at the sockets of the plugin's processes themselves: what it was asked to do and what it
    /// does are two things.
    async fn check_listeners(&self) -> Result<(), Obstacle> {
        if self.settings.allow_remote {
            return Ok(());
        }
        let launcher = self.launcher();
        let look = move || listening_beyond_loopback(&descendants(launcher));
        let unseen = |reason| Obstacle::NotYet(format!("cannot see where it listens: {reason}"));
        let found = match tokio::task::spawn_blocking(look).await {
            Ok(found) => found.map_err(|error| unseen(error.to_string()))?,
            Err(error) => return Err(unseen(error.to_string())),
        };
        let Some(address) = found.first() else { return Ok(()) };
        let name = &self.settings.name;
        Err(Obstacle::Fault(format!(
            "it listens on {address}, beyond this machine, and would carry out jobs for anyone; set plugins.{name}.args = [\"--address\", \"127.0.0.1:{{port}}\"], or plugins.{name}.allow_remote = true"
        )))
    }

    /// Asks what can be configured, holds the configuration against it, and calls Initialize, whose time
    /// the supervisor keeps. This uses up the right to it.
    pub(crate) async fn initialize(&mut self, once: InitializeOnce) -> Result<Registration, Seen> {
        let schema = self.config_schema().await;
        let problems = schema.as_ref().map(|schema| schema.problems(&self.settings));
        self.facts.heard().schema = Some(schema.map(Arc::new));
        match problems {
            Some(problems) if !problems.is_empty() => {
                // No restart helps: somebody has to write something else.
                Err(Seen::Fatal { reason: problems.join("; ") })
            }
            _ => self.call_initialize(once).await,
        }
    }

    /// What can be configured; `None` when it does not say, which is that plugin's own business.
    async fn config_schema(&self) -> Option<Schema> {
        let plugin = &self.settings.name;
        // A part of the time for Initialize, most of which has to be left for that.
        let within = SCHEMA_WITHIN.min(self.settings.initialize_timeout / 4);
        let answer = timeout(within, self.brief().config_schema(protocol::Empty {})).await;
        let problem = match answer {
            Ok(Ok(reply)) => {
                let shown = |text: &str| self.token.shown(text);
                return Some(Schema::read(plugin, reply.into_inner(), &shown));
            }
            Ok(Err(status)) if status.code() == Code::Unimplemented => return None,
            Ok(Err(status)) => self.token.shown(&with_cause(&status)),
            Err(_) => format!("no answer in {within:?}"),
        };
        tracing::warn!(
            %plugin,
            "plugin {plugin} does not say what can be configured, so nothing is checked: ConfigSchema: {problem}"
        );
        None
    }

    async fn call_initialize(&mut self, _: InitializeOnce) -> Result<Registration, Seen> {
        self.check_again_who_answers().await.map_err(Obstacle::of_initialize)?;
        let request = protocol::InitializeRequest {
            ats_store_endpoint: self.endpoint.to_string(),
            queue_endpoint: self.endpoint.to_string(),
            schedule_endpoint: self.endpoint.to_string(),
            host_endpoint: self.endpoint.to_string(),
            auth_token: self.token.expose().to_owned(),
            config: self.settings.config.clone().into_iter().collect(),
            ..Default::default()
        };
        self.caller.begin_initialize();
        let reply = self.client.initialize(request).await;
        let calls_back = self.caller.end_initialize();
        let reply = reply.map_err(|status| {
            let reason = self.token.shown(&with_cause(&status));
            Seen::InitializeFailed { reason }
        })?;
        // Some open their port for the world only now.
        self.check_listeners().await.map_err(Obstacle::of_initialize)?;
        let mut registration = self.caller.understand(reply.into_inner());
        registration.doubtful = calls_back.failed;
        registration.called_back = Some(calls_back.any);
        self.tell(&registration);
        self.caller.initialized();
        Ok(registration)
    }

    /// Says in the log what was understood of an announcement.
    pub(crate) fn tell(&self, registration: &Registration) {
        let plugin = &self.settings.name;
        let (handlers, watchers) = (registration.handlers.len(), registration.watchers.len());
        tracing::info!(%plugin, handlers, watchers, "plugin {plugin} announced what it has");
        for watcher in registration.watchers.iter().take(LINES_MAX) {
            let Some(rate) = wire::rate_text(watcher) else { continue };
            let id = self.token.shown(&watcher.local);
            let handler = watcher.handlers.first().map(|name| self.token.shown(name));
            let dear = if wire::is_dear(watcher) {
                "; no look-up finds it, every claim is held against it"
            } else {
                ""
            };
            tracing::info!(%plugin, watcher = id, handler, "watcher {id}: {rate}{dear}");
        }
    }

    /// Says in the log what of an announcement does not stand.
    pub(crate) fn complain(&self, refused: &[String]) {
        for refusal in refused.iter().take(LINES_MAX) {
            let refusal = self.token.redact(refusal.clone());
            tracing::warn!(plugin = %self.settings.name, "refused at registration: {refusal}");
        }
    }

    /// Asks what the plugin adds to a user interface. Nothing is made of it yet; the contract is that
    /// it is asked once.
    pub(crate) async fn register_glyphs(self) {
        let answer = timeout(GLYPHS_WITHIN, self.brief().register_glyphs(protocol::Empty {})).await;
        if let Ok(Ok(reply)) = answer {
            let glyphs = reply.into_inner().glyphs.len();
            tracing::debug!(plugin = %self.settings.name, glyphs, "glyphs registered");
        }
    }

    /// Calls Health once. `has_jobs` is asked before, and when it failed. A plugin that answers HTTP is as
    /// busy as one with jobs; a socket may be open for days with nothing to do, and has its own pulse.
    pub(crate) async fn poll_health(self, has_jobs: impl Fn() -> bool) -> Seen {
        let is_busy = || has_jobs() || self.caller.is_answering();
        let was_busy = is_busy();
        let answer = timeout(HEALTH_WITHIN, self.brief().health(protocol::Empty {})).await;
        let (healthy, message, details) = match answer {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                (reply.healthy, self.token.shown(&reply.message), self.shown_details(reply.details))
            }
            Ok(Err(status)) => (false, self.token.shown(&with_cause(&status)), BTreeMap::new()),
            Err(_) => (false, format!("no answer in {HEALTH_WITHIN:?}"), BTreeMap::new()),
        };
        let reason = match message.as_str() {
            "" => "it says that it is not healthy".to_owned(),
            message => message.to_owned(),
        };
        let at = self.clock.now().wall;
        self.facts.heard().health = Some(HealthView { at, healthy, message, details });
        if !healthy {
            return Seen::HealthFailed { reason, jobs_running: was_busy || is_busy() };
        }
        match self.check_listeners().await {
            Err(Obstacle::Fault(reason)) => Seen::Fatal { reason },
            // That we cannot look just now is no fault of the plugin's.
            Ok(()) | Err(Obstacle::NotYet(_)) => Seen::HealthOk,
        }
    }

    fn shown_details(
        &self,
        details: impl IntoIterator<Item = (String, String)>,
    ) -> BTreeMap<String, String> {
        let shown = |text: String| self.token.shown(&text);
        let details = details.into_iter().map(|(name, value)| (shown(name), shown(value)));
        // In order before it is cut, so that it is the same ones each time.
        details.collect::<BTreeMap<_, _>>().into_iter().take(DETAILS_MAX).collect()
    }

    /// Calls Shutdown, best effort.
    pub(crate) async fn shutdown(self) -> Seen {
        // Whatever it answers: it is stopped next.
        let _ = timeout(SHUTDOWN_WITHIN, self.brief().shutdown(protocol::Empty {})).await;
        Seen::ShutdownDone
    }
}

/// A status with the last of its causes, which is where an operating system has its say. As it came.
fn with_cause(status: &Status) -> String {
    let text = wire::status_words(status);
    let mut last = None;
    let mut cause = Error::source(status);
    while let Some(error) = cause {
        last = Some(error.to_string());
        cause = error.source();
    }
    match last {
        Some(last) if !text.contains(&last) => format!("{text}: {last}"),
        _ => text,
    }
}

/// Where what was seen of processes goes.
#[derive(Clone)]
pub(crate) struct Tell {
    pub(crate) incarnation: u64,
    pub(crate) to: mpsc::UnboundedSender<(u64, Seen)>,
}

impl Tell {
    /// An actor that is gone needs no telling.
    pub(crate) fn seen(&self, seen: Seen) {
        let _ = self.to.send((self.incarnation, seen));
    }
}
