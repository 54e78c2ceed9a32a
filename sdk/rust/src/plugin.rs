//! What a plugin is: the trait its author implements, and what it says about itself.

use std::collections::BTreeMap;
use std::future::Future;

use axwatch_proto::protocol;
use serde_json::Value;

use crate::config::Config;
use crate::failure::Failure;
use crate::host::Host;
use crate::http::{HttpRequest, HttpResponse, Route};
use crate::job::{Done, Job};

/// A plugin: what it is called, what it waits for, and what it does.
///
/// One value serves the whole process, and jobs run side by side: what changes belongs behind a lock
/// or a channel of your own. Methods that return a future are written as `async fn`.
pub trait Plugin: Send + Sync + 'static {
    /// Who this is. The name must be the one under which the plugin is configured.
    fn about(&self) -> About;

    /// Called before [`Plugin::handlers`] and [`Plugin::watchers`] are asked, and again when the
    /// configuration changes while the process runs: jobs that start later see the new one.
    ///
    /// # Errors
    /// Refuse to start, with a reason that the host shows. At a change of the configuration the old
    /// one stays.
    fn initialize(&self, start: Start) -> impl Future<Output = Result<(), Failure>> + Send {
        let _ = start;
        async { Ok(()) }
    }

    /// The handlers that [`Plugin::execute`] answers for: bare names such as `greet.hello`.
    fn handlers(&self) -> Vec<String>;

    /// What the plugin waits for. Kept by the host, also while the plugin is away.
    fn watchers(&self) -> Vec<Watcher> {
        Vec::new()
    }

    /// What is to run at an interval. Kept by the host, also while the plugin is away.
    fn schedules(&self) -> Vec<Schedule> {
        Vec::new()
    }

    /// What [`Plugin::http`] answers, for people to read. Without any the plugin serves no HTTP.
    fn routes(&self) -> Vec<Route> {
        Vec::new()
    }

    /// Whether claims with the predicate `handler` and this plugin's name as their context are its
    /// handlers, `NAME.SUBJECT` each: the host keeps them, [`Host::stored_handlers`] tells of them, and
    /// a job of one names the code that it is to run by [`Job::handler_version`].
    fn stored_handlers(&self) -> bool {
        false
    }

    /// Whether it runs Python code that it is given.
    fn is_python_provider(&self) -> bool {
        false
    }

    /// What may stand in the plugin's own table. Empty: it does not say.
    fn config_schema(&self) -> Vec<ConfigField> {
        Vec::new()
    }

    /// Whether it can do its work: asked every 10 s.
    fn health(&self) -> Health {
        Health::good()
    }

    /// Does one job.
    ///
    /// A job may come twice, always under the same id. The host cancels it by dropping this future; a
    /// panic in it is a failure like any other, and the process lives on.
    ///
    /// # Errors
    /// A [`Failure`] says whether to try again. `?` on any error means [`Failure::Retry`].
    fn execute(&self, job: Job) -> impl Future<Output = Result<Done, Failure>> + Send;

    /// Answers a request under `/api/NAME/…` of the host.
    fn http(&self, request: HttpRequest) -> impl Future<Output = HttpResponse> + Send {
        let problem = format!("there is no {} {}", request.method, request.route());
        async { HttpResponse::error(404, problem) }
    }

    /// The last words, after the running jobs have ended or their time is up. About a second remains.
    fn shutdown(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Who a plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct About {
    /// Its name: that of its table in `am.toml`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One line on what it does.
    pub description: String,
    /// Who wrote it.
    pub author: String,
    /// Under which license.
    pub license: String,
    /// Which versions of the plugin protocol it speaks, as a semver constraint; empty for any.
    pub protocol: String,
}

impl About {
    /// The name, the version, and one line on what it does.
    pub fn new(
        name: impl Into<String>,
        version: impl Into<String>,
        description: impl Into<String>,
    ) -> About {
        About {
            name: name.into(),
            version: version.into(),
            description: description.into(),
            author: String::new(),
            license: String::new(),
            protocol: ">=0.2".to_owned(),
        }
    }

    /// Who wrote it.
    #[must_use]
    pub fn author(mut self, author: impl Into<String>) -> About {
        self.author = author.into();
        self
    }

    /// Under which license.
    #[must_use]
    pub fn license(mut self, license: impl Into<String>) -> About {
        self.license = license.into();
        self
    }

    /// Which versions of the plugin protocol it speaks, instead of `>=0.2`.
    #[must_use]
    pub fn protocol(mut self, constraint: impl Into<String>) -> About {
        self.protocol = constraint.into();
        self
    }

    pub(crate) fn into_wire(self) -> protocol::MetadataResponse {
        protocol::MetadataResponse {
            name: self.name,
            version: self.version,
            qntx_version: self.protocol,
            description: self.description,
            author: self.author,
            license: self.license,
        }
    }
}

/// What a plugin is started with, or started again when its configuration changed.
#[derive(Debug, Clone)]
pub struct Start {
    config: Config,
    host: Host,
}

impl Start {
    pub(crate) fn new(config: Config, host: Host) -> Start {
        Start { config, host }
    }

    /// The plugin's own table of `am.toml`.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The host, for claims and questions that belong to no job.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }
}

/// What a plugin waits for: each claim that matches becomes a job for one of its handlers.
///
/// Either lists of terms (one of each dimension that is named must be there, compared exactly), or AX
/// text. The host refuses one that filters on nothing.
///
/// ```
/// # use axwatch_sdk::Watcher;
/// let _ = Watcher::new("authors", "greet.hello").predicates(["is_author"]).max_fires_per_second(5);
/// let _ = Watcher::new("authors", "greet.hello").ax("is author of GitHub");
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Watcher {
    id: String,
    handler: String,
    subjects: Vec<String>,
    predicates: Vec<String>,
    contexts: Vec<String>,
    actors: Vec<String>,
    ax: String,
    max_fires_per_second: u32,
    params: Vec<u8>,
    max_chain: u32,
    since: String,
}

impl Watcher {
    /// An id among the plugin's own watchers, and which of its handlers is to act.
    pub fn new(id: impl Into<String>, handler: impl Into<String>) -> Watcher {
        Watcher { id: id.into(), handler: handler.into(), ..Watcher::default() }
    }

    /// One of these subjects, or of those named before.
    pub fn subjects(mut self, subjects: impl IntoIterator<Item = impl Into<String>>) -> Watcher {
        self.subjects.extend(subjects.into_iter().map(Into::into));
        self
    }

    /// One of these predicates, or of those named before.
    pub fn predicates(
        mut self,
        predicates: impl IntoIterator<Item = impl Into<String>>,
    ) -> Watcher {
        self.predicates.extend(predicates.into_iter().map(Into::into));
        self
    }

    /// One of these contexts, or of those named before.
    pub fn contexts(mut self, contexts: impl IntoIterator<Item = impl Into<String>>) -> Watcher {
        self.contexts.extend(contexts.into_iter().map(Into::into));
        self
    }

    /// One of these actors, or of those named before.
    pub fn actors(mut self, actors: impl IntoIterator<Item = impl Into<String>>) -> Watcher {
        self.actors.extend(actors.into_iter().map(Into::into));
        self
    }

    /// AX text, which then says it all: the lists are passed over.
    pub fn ax(mut self, text: impl Into<String>) -> Watcher {
        self.ax = text.into();
        self
    }

    /// At most so many fires a second, 1 to 100,000; those beyond are late, not lost. 0: no limit.
    pub fn max_fires_per_second(mut self, fires: u32) -> Watcher {
        self.max_fires_per_second = fires;
        self
    }

    /// What each job of this watcher is to know, a JSON object of at most 64 KiB:
    /// [`Job::params_as`].
    pub fn params(mut self, params: Value) -> Watcher {
        self.params = params.to_string().into_bytes();
        self
    }

    /// How often it may fire in one chain of claims that cause each other, instead of 4 times.
    pub fn max_chain(mut self, fires: u32) -> Watcher {
        self.max_chain = fires;
        self
    }

    /// Also what is in the log already, from this time on: a day, a time, or what `--since` takes.
    pub fn since(mut self, since: impl Into<String>) -> Watcher {
        self.since = since.into();
        self
    }

    pub(crate) fn into_wire(self) -> protocol::WatcherRegistration {
        protocol::WatcherRegistration {
            id: self.id,
            handler_name: self.handler,
            subjects: self.subjects,
            predicates: self.predicates,
            contexts: self.contexts,
            actors: self.actors,
            max_fires_per_second: i32::try_from(self.max_fires_per_second).unwrap_or(i32::MAX),
            ax: self.ax,
            params: self.params,
            max_chain: i32::try_from(self.max_chain).unwrap_or(i32::MAX),
            since: self.since,
        }
    }

    pub(crate) fn from_wire(watcher: protocol::WatcherRegistration) -> Watcher {
        Watcher {
            id: watcher.id,
            handler: watcher.handler_name,
            subjects: watcher.subjects,
            predicates: watcher.predicates,
            contexts: watcher.contexts,
            actors: watcher.actors,
            ax: watcher.ax,
            max_fires_per_second: u32::try_from(watcher.max_fires_per_second).unwrap_or(0),
            params: watcher.params,
            max_chain: u32::try_from(watcher.max_chain).unwrap_or(0),
            since: watcher.since,
        }
    }
}

/// Something that runs at an interval: each time is a job for one of the plugin's handlers, without a
/// payload.
///
/// ```
/// # use axwatch_sdk::Schedule;
/// let _ = Schedule::new("hourly", "count.report", 3_600).description("counts claims by actor");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Schedule {
    id: String,
    handler: String,
    every_secs: u32,
    is_enabled: bool,
    description: String,
}

impl Schedule {
    /// An id among the plugin's own schedules, which of its handlers is to act, and how many seconds lie
    /// from one time to the next.
    pub fn new(id: impl Into<String>, handler: impl Into<String>, every_secs: u32) -> Schedule {
        Schedule {
            id: id.into(),
            handler: handler.into(),
            every_secs,
            is_enabled: true,
            description: String::new(),
        }
    }

    /// Whether it runs before somebody says so. It does by default.
    pub fn enabled(mut self, is_enabled: bool) -> Schedule {
        self.is_enabled = is_enabled;
        self
    }

    /// One line on what it is for.
    pub fn description(mut self, description: impl Into<String>) -> Schedule {
        self.description = description.into();
        self
    }

    pub(crate) fn into_wire(self) -> protocol::ScheduleInfo {
        protocol::ScheduleInfo {
            handler_name: self.handler,
            interval_seconds: i32::try_from(self.every_secs).unwrap_or(i32::MAX),
            enabled_by_default: self.is_enabled,
            description: self.description,
            ats_code: String::new(),
            id: self.id,
        }
    }

    pub(crate) fn from_wire(schedule: protocol::ScheduleInfo) -> Schedule {
        Schedule {
            id: schedule.id,
            handler: schedule.handler_name,
            every_secs: u32::try_from(schedule.interval_seconds).unwrap_or(0),
            is_enabled: schedule.enabled_by_default,
            description: schedule.description,
        }
    }
}

/// One key of a plugin's own table, for people and for checks before the plugin runs.
///
/// ```
/// # use axwatch_sdk::ConfigField;
/// let _ = ConfigField::number("timeout_secs", "how long a server may take").default_value("10").min("1");
/// let _ = ConfigField::array("hosts", "string", "which servers to ask").required();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct ConfigField {
    key: String,
    kind: &'static str,
    description: String,
    default: String,
    is_required: bool,
    min: String,
    max: String,
    pattern: String,
    element: String,
}

impl ConfigField {
    /// A text.
    pub fn string(key: impl Into<String>, description: impl Into<String>) -> ConfigField {
        ConfigField::of("string", key, description)
    }

    /// A number.
    pub fn number(key: impl Into<String>, description: impl Into<String>) -> ConfigField {
        ConfigField::of("number", key, description)
    }

    /// True or false.
    pub fn boolean(key: impl Into<String>, description: impl Into<String>) -> ConfigField {
        ConfigField::of("boolean", key, description)
    }

    /// A list of `element`: `string`, `number` or `boolean`.
    pub fn array(
        key: impl Into<String>,
        element: impl Into<String>,
        description: impl Into<String>,
    ) -> ConfigField {
        ConfigField { element: element.into(), ..ConfigField::of("array", key, description) }
    }

    fn of(
        kind: &'static str,
        key: impl Into<String>,
        description: impl Into<String>,
    ) -> ConfigField {
        ConfigField {
            key: key.into(),
            kind,
            description: description.into(),
            default: String::new(),
            is_required: false,
            min: String::new(),
            max: String::new(),
            pattern: String::new(),
            element: String::new(),
        }
    }

    /// What counts when nothing is set.
    pub fn default_value(mut self, value: impl Into<String>) -> ConfigField {
        self.default = value.into();
        self
    }

    /// It has to be set.
    pub fn required(mut self) -> ConfigField {
        self.is_required = true;
        self
    }

    /// The smallest number.
    pub fn min(mut self, value: impl Into<String>) -> ConfigField {
        self.min = value.into();
        self
    }

    /// The largest number.
    pub fn max(mut self, value: impl Into<String>) -> ConfigField {
        self.max = value.into();
        self
    }

    /// A regular expression for the text.
    pub fn pattern(mut self, pattern: impl Into<String>) -> ConfigField {
        self.pattern = pattern.into();
        self
    }

    pub(crate) fn into_wire(self) -> (String, protocol::ConfigFieldSchema) {
        let schema = protocol::ConfigFieldSchema {
            r#type: self.kind.to_owned(),
            description: self.description,
            default_value: self.default,
            required: self.is_required,
            min_value: self.min,
            max_value: self.max,
            pattern: self.pattern,
            element_type: self.element,
        };
        (self.key, schema)
    }
}

/// Whether a plugin can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Health {
    is_good: bool,
    message: String,
    details: BTreeMap<String, String>,
}

impl Health {
    /// All is well.
    pub fn good() -> Health {
        Health { is_good: true, message: String::new(), details: BTreeMap::new() }
    }

    /// It cannot do its work, and why. A host restarts a plugin that keeps saying so.
    pub fn bad(message: impl Into<String>) -> Health {
        Health { is_good: false, message: message.into(), details: BTreeMap::new() }
    }

    /// Something worth knowing either way.
    pub fn detail(mut self, key: impl Into<String>, value: impl Into<String>) -> Health {
        self.details.insert(key.into(), value.into());
        self
    }

    pub(crate) fn into_wire(self) -> protocol::HealthResponse {
        protocol::HealthResponse {
            healthy: self.is_good,
            message: self.message,
            details: self.details.into_iter().collect(),
        }
    }
}
