//! Whether a plugin can be hosted, and what a host makes of it: `axwatch plugin check`.
//!
//! In: how a plugin is started. Out: what it serves, what it declares, and what a host could not do with
//! it. Three of its processes are run, one after the other: one that is asked everything there is to ask
//! (`probe`); one as the real host runs it, on an engine with a store in memory; and one whose calls back
//! find nobody. One that does not come up is the last: a further one would not either. No job of a handler of
//! its own is ever sent, since that would do what the handler does.
//!
//! Nothing of it is kept. What a crash leaves behind is nothing: the launcher ends the plugin.

mod probe;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axwatch_ats::MemoryStore;
use axwatch_core::supervise::{STOP_MAX, without_restart};
use axwatch_model::{StoreId, StructuralFilter, SystemClock, WatcherState};
use axwatch_proto::protocol;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use self::probe::Probe;
use super::services::{self, Services};
use super::settings::check_version;
use super::token::Callers;
use super::{HostSettings, LauncherCommand, PluginHost, PluginSettings, Status, wire};
use crate::handle::Engine;
use crate::writer::{EngineConfig, start};

/// From one look at the host's plugin to the next.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a registered plugin is watched for what comes after it.
const SETTLE: Duration = Duration::from_millis(500);
/// How long after SIGTERM a host kills.
const KILLED_AFTER: Duration = Duration::from_secs(3);
/// How long is waited without saying for what.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// Where nobody listens.
const NOWHERE: &str = "127.0.0.1:1";

/// Where is said what is being waited for, when that takes.
pub type Tell<'a> = &'a (dyn Fn(&str) + Sync);

/// What is to be checked, and with what.
#[derive(Debug, Clone)]
pub struct CheckSettings {
    /// How it is started and treated.
    pub plugin: PluginSettings,
    /// Nobody said its name: the one that it says itself is taken.
    pub is_name_guessed: bool,
    /// What holds for all plugins; which plugins it names does not count.
    pub host: HostSettings,
}

/// All that was found out about a plugin.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CheckReport {
    /// A host can do all that it needs to do with it.
    pub ok: bool,
    /// Under which name it was run.
    pub name: String,
    /// Who it says it is.
    pub about: Option<Who>,
    /// What it answers, call by call.
    pub serves: Vec<Served>,
    /// What it announces at Initialize.
    pub declares: Declares,
    /// What was seen, the worst first.
    pub findings: Vec<Finding>,
}

/// Who a plugin says it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Who {
    /// Its name, which has to be the configured one.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Which versions of the protocol it wants.
    pub protocol: String,
    /// What it is for.
    pub description: String,
}

/// One call and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Served {
    /// As it is called on the wire.
    pub call: &'static str,
    /// How it was answered.
    pub answer: Answer,
    /// In words.
    pub detail: String,
}

/// How a call was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// With a reply.
    Answered,
    /// The plugin says that it does not serve it.
    Unimplemented,
    /// With a gRPC status, which may be what was to be expected.
    Status,
    /// With what cannot be understood.
    Undecodable,
    /// Not in time, or the connection ended.
    Silent,
}

/// What a plugin announces.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Declares {
    /// Its handlers.
    pub handlers: Vec<String>,
    /// Its watchers.
    pub watchers: Vec<DeclaredWatcher>,
    /// Its schedules: `handler every 60 s`.
    pub schedules: Vec<String>,
    /// Its routes: `GET /hello`.
    pub routes: Vec<String>,
    /// The keys of its own table that it describes: `depth: number, 1 or more`.
    pub config: Vec<String>,
}

/// A watcher as a host understands it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeclaredWatcher {
    /// Among its own.
    pub id: String,
    /// Which handler acts.
    pub handler: String,
    /// What it waits for.
    pub when: String,
    /// How often it may fire.
    pub rate: String,
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// What was seen, and what to do about it.
    pub text: String,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// A host cannot do what it has to.
    Problem,
    /// A host copes, and something will not be as its author wants.
    Warning,
    /// Worth knowing.
    Note,
}

impl CheckReport {
    fn find(&mut self, weight: Weight, text: impl Into<String>) {
        let text = text.into();
        // The host and the questions come upon the same mistake.
        if !self.findings.iter().any(|known| known.text.contains(&text)) {
            self.findings.push(Finding { weight, text });
        }
    }

    fn has_problem(&self) -> bool {
        self.findings.iter().any(|finding| finding.weight == Weight::Problem)
    }

    fn problem(&mut self, text: impl Into<String>) {
        self.find(Weight::Problem, text);
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.find(Weight::Warning, text);
    }

    fn note(&mut self, text: impl Into<String>) {
        self.find(Weight::Note, text);
    }
}

/// Checks a plugin. Everything that it started is gone afterwards, also when this is dropped.
///
/// # Errors
/// Why nothing could be checked at all: no engine in memory, no port. What is wrong with the plugin is in
/// the report.
pub async fn check(
    mut settings: CheckSettings,
    launcher: LauncherCommand,
    tell: Tell<'_>,
) -> Result<CheckReport, String> {
    let mut report = CheckReport::default();
    let ground = Ground::new().await?;
    let announced = asked_everything(&mut settings, &launcher, &ground, tell, &mut report).await;
    if let Some(announced) = announced
        && under_a_host(&settings, &launcher, tell, &mut report).await?
    {
        without_a_host(&settings, &launcher, &announced, tell, &mut report).await;
    }
    report.name = settings.plugin.name.to_string();
    report.findings.sort_by_key(|finding| finding.weight);
    report.ok = !report.has_problem();
    Ok(report)
}

/// Waits, and says for what when that takes.
async fn waiting<T>(tell: Tell<'_>, what: &str, up_to: Duration, on: impl Future<Output = T>) -> T {
    let mut on = std::pin::pin!(on);
    if let Ok(done) = tokio::time::timeout(SILENT_FOR, &mut on).await {
        return done;
    }
    tell(&format!("waiting for {what}, up to {}", shown(up_to)));
    on.await
}

/// A duration for people: `5 s`.
fn shown(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

/// An engine on a store in memory.
async fn engine() -> Result<Engine, String> {
    let store = MemoryStore::new(StoreId(rand::random()));
    let started = start(store, Arc::new(SystemClock::new()), EngineConfig::default()).await;
    started.map(|(engine, _)| engine).map_err(|error| error.to_string())
}

/// What stands behind the process that is asked everything: an engine, and the services that plugins call.
struct Ground {
    callers: Arc<Callers>,
    endpoint: String,
    _stop: oneshot::Sender<()>,
    _serving: JoinSet<()>,
}

impl Ground {
    async fn new() -> Result<Ground, String> {
        let engine = engine().await?;
        let unbound = |error: std::io::Error| format!("no port of loopback is free: {error}");
        let listener = services::bind().await.map_err(unbound)?;
        let endpoint = listener.local_addr().map_err(unbound)?.to_string();
        let callers = Arc::new(Callers::default());
        let services = Services::new(engine, callers.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            // What the plugin sees of an end is what the checks tell.
            let _ = services.serve(listener, async { drop(stopped.await) }).await;
        });
        Ok(Ground { callers, endpoint, _stop: stop, _serving: serving })
    }
}

// ---- asked everything ----

/// Runs a process of our own and asks it all there is to ask. Answers with what it announced; `None` when it
/// did not come so far.
async fn asked_everything(
    settings: &mut CheckSettings,
    launcher: &LauncherCommand,
    ground: &Ground,
    tell: Tell<'_>,
    report: &mut CheckReport,
) -> Option<protocol::InitializeResponse> {
    let mut probe = match Probe::start(settings, launcher, &ground.endpoint).await {
        Ok(probe) => probe,
        Err(reason) => {
            report.problem(reason);
            return None;
        }
    };
    let announced = match introduced(&mut probe, settings, tell, report).await {
        Some(metadata) => {
            probe.may_call(&ground.callers, &settings.plugin);
            questions(&mut probe, &metadata, settings, tell, report).await
        }
        None => None,
    };
    tell_output(&mut probe, report);
    tell_end(probe, tell, report).await;
    announced
}

/// Waits until it says who it is. Where nobody else says its name, and it can be one, that is its name.
async fn introduced(
    probe: &mut Probe,
    settings: &mut CheckSettings,
    tell: Tell<'_>,
    report: &mut CheckReport,
) -> Option<protocol::MetadataResponse> {
    let patience = settings.plugin.ready_timeout;
    match waiting(tell, "its Metadata", patience, probe.metadata(patience)).await {
        Ok((metadata, served)) => {
            report.serves.push(served);
            if settings.is_name_guessed
                && let Ok(name) = metadata.name.parse()
            {
                settings.plugin.name = name;
            }
            Some(metadata)
        }
        Err(served) => {
            report.problem(format!("Metadata: {}", served.detail));
            report.serves.push(served);
            None
        }
    }
}

async fn questions(
    probe: &mut Probe,
    metadata: &protocol::MetadataResponse,
    settings: &CheckSettings,
    tell: Tell<'_>,
    report: &mut CheckReport,
) -> Option<protocol::InitializeResponse> {
    tell_who(metadata, settings, report);
    tell_announcement(probe, report);
    tell_listeners(probe, settings, report);

    let (config, served) = probe.config_schema().await;
    tell_served(served, "", report);
    report.declares.config = config;

    let patience = settings.plugin.initialize_timeout;
    let initialize = waiting(tell, "its Initialize", patience, probe.initialize(patience));
    let (announced, served) = initialize.await;
    let Some(announced) = announced else {
        report.problem(format!("Initialize: {}", served.detail));
        report.serves.push(served);
        return None;
    };
    report.serves.push(served);
    tell_declared(&announced, report);
    tell_listeners(probe, settings, report);

    let (healthy, served) = probe.health().await;
    if let (Answer::Answered, Some(message)) = (served.answer, healthy.as_ref().err()) {
        report.problem(format!(
            "Health says that it is not healthy ({message}); a host restarts a plugin that keeps saying so"
        ));
    }
    tell_served(served, "; two failures in a row restart an idle plugin", report);

    tell_unknown_handler(
        probe.unknown_handler().await,
        !announced.handler_names.is_empty(),
        report,
    );
    if let Err(reason) = probe.health_while_busy().await {
        report.warn(format!(
            "Health under 32 calls at once: {reason}; a host does not restart a busy plugin for silence, and cannot tell it from a hung one"
        ));
    }
    for served in probe.small_calls().await {
        tell_served(served, "", report);
    }
    let routes: Vec<_> = announced.http_routes.iter().map(|r| (&r.method, &r.path)).collect();
    let (served, remarks) = probe.http(&routes).await;
    remarks.into_iter().for_each(|remark| report.warn(remark));
    tell_served(served, "", report);
    let (served, remark) = probe.socket().await;
    remark.into_iter().for_each(|remark| report.warn(remark));
    tell_served(served, "", report);

    let again = waiting(tell, "its second Initialize", patience, probe.initialize(patience)).await;
    match again {
        (Some(again), _) if sorted(&again.handler_names) == sorted(&announced.handler_names) => {}
        (Some(_), _) => report.note(
            "a second Initialize of one process announces other handlers: `plugin reconfigure` will change what it has",
        ),
        (None, served) => report.warn(format!(
            "a second Initialize of one process: {}; `plugin reconfigure` will not do, `plugin restart` will",
            served.detail
        )),
    }
    Some(announced)
}

fn sorted(names: &[String]) -> Vec<&String> {
    let mut names: Vec<_> = names.iter().collect();
    names.sort_unstable();
    names
}

fn tell_who(
    metadata: &protocol::MetadataResponse,
    settings: &CheckSettings,
    report: &mut CheckReport,
) {
    let configured = settings.plugin.name.as_str();
    if metadata.name != configured {
        report.problem(format!(
            "it says that its name is {:?}, and it is run as {configured:?}; a host stops it",
            wire::shown(&metadata.name)
        ));
    }
    if metadata.version.is_empty() {
        report
            .warn("Metadata has no version; people and `plugin list` cannot tell one from another");
    }
    if let Err(reason) = check_version(&metadata.qntx_version, &settings.host.protocol_version) {
        report.problem(reason);
    }
    report.about = Some(Who {
        name: wire::shown(&metadata.name),
        version: wire::shown(&metadata.version),
        protocol: wire::shown(&metadata.qntx_version),
        description: wire::shown(&metadata.description),
    });
}

fn tell_announcement(probe: &Probe, report: &mut CheckReport) {
    match probe.announced_port() {
        None => report.warn(format!(
            "no line QNTX_PLUGIN_PORT=<port> on its standard output; a host waits 2 s and assumes the port that it asked for ({})",
            probe.asked_port
        )),
        Some(port) if port != probe.asked_port => report.note(format!(
            "it was asked to take port {}, and took {port}",
            probe.asked_port
        )),
        Some(_) => {}
    }
}

fn tell_listeners(probe: &Probe, settings: &CheckSettings, report: &mut CheckReport) {
    match probe.listens_beyond_loopback() {
        Err(reason) => report.note(format!("cannot see where it listens: {reason}")),
        Ok(found) => {
            for address in found {
                let told = format!(
                    "it listens on {address}, beyond this machine, and would carry out jobs for anyone; give it args = [\"--address\", \"127.0.0.1:{{port}}\"]"
                );
                if settings.plugin.allow_remote { report.note(told) } else { report.problem(told) }
            }
        }
    }
}

/// `more` is said behind what is wrong.
fn tell_served(served: Served, more: &str, report: &mut CheckReport) {
    match served.answer {
        Answer::Undecodable => {
            report.warn(format!("{}: its answer is no message: {}", served.call, served.detail));
        }
        Answer::Silent => report.problem(format!("{}: {}{more}", served.call, served.detail)),
        Answer::Answered | Answer::Unimplemented | Answer::Status => {}
    }
    report.serves.push(served);
}

fn tell_unknown_handler(served: Served, has_handlers: bool, report: &mut CheckReport) {
    match (served.answer, served.detail.as_str()) {
        (Answer::Unimplemented, _) if has_handlers => report.problem(
            "it announces handlers, and ExecuteJob is UNIMPLEMENTED: each of its jobs will be a dead letter",
        ),
        (Answer::Answered, detail) => report.warn(format!(
            "ExecuteJob for a handler that it does not have is answered ({detail}); NOT_FOUND lets such a job wait for a process that has it"
        )),
        (Answer::Status, detail) if !detail.starts_with("NOT_FOUND") => report.note(format!(
            "ExecuteJob for a handler that it does not have: {detail}; NOT_FOUND lets such a job wait for a process that has it"
        )),
        _ => {}
    }
    tell_served(served, "", report);
}

fn tell_declared(announced: &protocol::InitializeResponse, report: &mut CheckReport) {
    let known = &announced.handler_names;
    for handler in known {
        if handler.contains('/') || handler.is_empty() {
            report.warn(format!(
                "handler {:?} is refused: a bare name has no '/'",
                wire::shown(handler)
            ));
        }
    }
    if known.is_empty() {
        report.note("it announces no handler; no job will ever be sent to it");
    }
    let mut ids = std::collections::BTreeSet::new();
    for watcher in &announced.watchers {
        let id = wire::shown(&watcher.id);
        if !ids.insert(id.clone()) {
            report.warn(format!("watcher {id:?} is announced twice"));
        }
        for reason in refused(watcher, known) {
            report.warn(format!("watcher {id:?} is refused: {reason}"));
        }
        report.declares.watchers.push(understood(watcher));
    }
    for schedule in &announced.schedules {
        let (handler, secs) = (wire::shown(&schedule.handler_name), schedule.interval_seconds);
        if !known.contains(&schedule.handler_name) {
            report.warn(format!(
                "the schedule of {handler:?} is refused: it announces no such handler"
            ));
        }
        if secs < 0 {
            report.warn(format!("the schedule of {handler:?} is refused: an interval of {secs} s"));
        }
        let off = if secs == 0 || !schedule.enabled_by_default { " (off)" } else { "" };
        report.declares.schedules.push(format!("{handler} every {secs} s{off}"));
    }
    for route in &announced.http_routes {
        let (method, path) = (wire::shown(&route.method), wire::shown(&route.path));
        report.declares.routes.push(format!("{method} {path}"));
    }
    report.declares.handlers = known.iter().map(|name| wire::shown(name)).collect();
}

fn refused(watcher: &protocol::WatcherRegistration, known: &[String]) -> Vec<String> {
    let mut reasons = Vec::new();
    if !known.contains(&watcher.handler_name) {
        let handler = wire::shown(&watcher.handler_name);
        reasons.push(format!("it announces no handler {handler:?}"));
    }
    let lists = [&watcher.subjects, &watcher.predicates, &watcher.contexts, &watcher.actors];
    if watcher.ax.is_empty() && lists.iter().all(|list| list.is_empty()) {
        reasons.push("it filters on nothing".to_owned());
    }
    if !watcher.ax.is_empty()
        && let Err(mistakes) = axwatch_query::parse_watcher(&watcher.ax)
    {
        reasons.push(format!("{:?} is no AX: {mistakes}", wire::shown(&watcher.ax)));
    }
    if !(0..=100_000).contains(&watcher.max_fires_per_second) {
        let fires = watcher.max_fires_per_second;
        reasons.push(format!("max_fires_per_second is {fires}; it must be 0 to 100000"));
    }
    reasons
}

fn understood(watcher: &protocol::WatcherRegistration) -> DeclaredWatcher {
    let lists = StructuralFilter {
        subjects: watcher.subjects.clone(),
        predicates: watcher.predicates.clone(),
        contexts: watcher.contexts.clone(),
        actors: watcher.actors.clone(),
    };
    let when = match watcher.ax.as_str() {
        "" => wire::shown(&lists.in_words()),
        ax => wire::shown(ax),
    };
    let rate = match watcher.max_fires_per_second {
        0 => "no limit".to_owned(),
        fires => format!("{fires}/s"),
    };
    let handler = wire::shown(&watcher.handler_name);
    DeclaredWatcher { id: wire::shown(&watcher.id), handler, when, rate }
}

fn tell_output(probe: &mut Probe, report: &mut CheckReport) {
    if probe.has_told_its_token() {
        report.warn(
            "it prints the token of its Initialize; a host takes it out of its log, and other hosts may not",
        );
    }
    if probe.has_called_back() {
        report.note("it calls back");
    }
}

async fn tell_end(probe: Probe, tell: Tell<'_>, report: &mut CheckReport) {
    let end = waiting(tell, "it to end", STOP_MAX, probe.end()).await;
    if let Some(served) = end.served {
        match (served.answer, end.is_shutdown_late) {
            (Answer::Silent, true) => {
                report.warn(format!("Shutdown: {}; a host waits 5 s at every stop", served.detail));
            }
            (Answer::Silent, false) => report.warn(format!("Shutdown: {}", served.detail)),
            _ => {}
        }
        report.serves.push(served);
    }
    match end.term_within {
        None => report.warn(
            "3 s after SIGTERM it is still there; a host kills it, and what it had under way is lost",
        ),
        Some(took) if took * 2 > KILLED_AFTER => report.note(format!(
            "it takes {:.1} s to end after SIGTERM; a host kills after 3 s",
            took.as_secs_f64()
        )),
        Some(_) => {}
    }
    if end.children > 0 {
        report.note(format!("it had {} other processes; a host ends them with it", end.children));
    }
    if !end.left_behind.is_empty() {
        report.problem(format!(
            "after its end these of its processes live on: {:?}",
            end.left_behind
        ));
    }
}

// ---- under the real host ----

/// Has the real host run it, and tells how far that comes: whether it is ready in the end.
async fn under_a_host(
    settings: &CheckSettings,
    launcher: &LauncherCommand,
    tell: Tell<'_>,
    report: &mut CheckReport,
) -> Result<bool, String> {
    if report.has_problem() {
        // It would only say the same in other words.
        report.note("it was not run under a host: the problem comes first");
        return Ok(true);
    }
    let engine = engine().await?;
    let host = HostSettings { plugins: vec![settings.plugin.clone()], ..settings.host.clone() };
    let began = Instant::now();
    let host = PluginHost::start(engine.clone(), host, launcher.clone());
    let host = host.await.map_err(|error| error.to_string())?;
    let patience = settings.plugin.ready_timeout + settings.plugin.initialize_timeout;
    let name = settings.plugin.name.as_str();
    let ready =
        waiting(tell, "it to be ready under a host", patience, ready(&host, name, patience));
    let is_ready = match ready.await {
        Ok(()) => {
            let took = began.elapsed().as_secs_f64();
            report.note(format!("a host has it ready {took:.1} s after its start"));
            stays_ready(&host, name, &engine, report).await;
            true
        }
        Err(reason) => {
            report.problem(reason);
            false
        }
    };
    waiting(tell, "it to end", STOP_MAX, host.shutdown()).await;
    Ok(is_ready)
}

/// Waits until the host has it ready, or says why that does not come.
async fn ready(host: &PluginHost, name: &str, patience: Duration) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let view = host.show(name).map_err(|error| error.to_string())?;
        match view.state {
            Status::Ready => return Ok(()),
            Status::Failed | Status::BackingOff => {
                let error = view.error.unwrap_or_else(|| "it does not say why".to_owned());
                return Err(format!("a host cannot run it: {}", without_restart(&error)));
            }
            _ if began.elapsed() > patience => {
                return Err(format!("it is not ready after {}", shown(patience)));
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Watches it for a moment, and tells what came of what it registered.
async fn stays_ready(host: &PluginHost, name: &str, engine: &Engine, report: &mut CheckReport) {
    tokio::time::sleep(SETTLE).await;
    if let Ok(view) = host.show(name)
        && view.state != Status::Ready
    {
        let error = view.error.unwrap_or_default();
        report.problem(format!("it does not stay ready: {}", without_restart(&error)));
    }
    for watcher in engine.watchers(false).await.unwrap_or_default() {
        let state = watcher.row.state;
        if !matches!(state, WatcherState::Live) {
            report.note(format!("watcher {}: {state}", watcher.row.key));
        }
    }
}

// ---- without a host ----

/// Runs a process whose calls back find nobody, as while a host is restarting.
async fn without_a_host(
    settings: &CheckSettings,
    launcher: &LauncherCommand,
    announced: &protocol::InitializeResponse,
    tell: Tell<'_>,
    report: &mut CheckReport,
) {
    let Ok(mut probe) = Probe::start(settings, launcher, NOWHERE).await else { return };
    let (ready, initialize) = (settings.plugin.ready_timeout, settings.plugin.initialize_timeout);
    if waiting(tell, "its Metadata", ready, probe.metadata(ready)).await.is_ok() {
        let what = "its Initialize without anybody to call back";
        match waiting(tell, what, initialize, probe.initialize(initialize)).await {
            (Some(other), _) => {
                let lacks =
                    announced.handler_names.iter().filter(|n| !other.handler_names.contains(n));
                let lacks: Vec<_> = lacks.map(|name| wire::shown(name)).collect();
                if !lacks.is_empty() {
                    report.note(format!(
                        "when its calls back fail it announces no {}; a host keeps these for 10 minutes, loudly",
                        lacks.join(", ")
                    ));
                }
            }
            (None, served) => report.note(format!(
                "when its calls back fail it refuses to start ({}); a host starts it again, later and later",
                served.detail
            )),
        }
    }
    waiting(tell, "it to end", STOP_MAX, probe.end()).await;
}
