//! A plugin under test: run over real gRPC on a port of loopback, against a host in memory.
//!
//! The host keeps its promises to plugins (tokens, ids that stand for one content, the same claims
//! from every attempt at a job, batches that stand or fall as a whole), so that a test sees what a
//! plugin really did. No engine is needed, and nothing fires by itself: a test says which job is to be
//! done, and looks at what came of it.
//!
//! ```
//! use axwatch_sdk::testing::{Harness, TestJob};
//! use axwatch_sdk::{About, Claim, Done, Failure, Job, Plugin};
//!
//! struct Echo;
//!
//! impl Plugin for Echo {
//!     fn about(&self) -> About {
//!         About::new("echo", "1.0.0", "says it again")
//!     }
//!     fn handlers(&self) -> Vec<String> {
//!         vec!["echo.claim".into()]
//!     }
//!     async fn execute(&self, job: Job) -> Result<Done, Failure> {
//!         let claim = job.attestation()?;
//!         job.attest(Claim::new(claim.subject(), "was_seen", "echo")).await?;
//!         Ok(Done::new())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let harness = Harness::start(Echo).await;
//! let job = TestJob::new("echo.claim").fire(Claim::new("ALICE", "is_author", "GitHub"));
//! harness.execute(job.clone()).await.expect_done();
//! harness.execute(job.attempt(2)).await.expect_done();
//! assert_eq!(harness.claims().len(), 1, "the second attempt makes the same claim");
//! # }
//! ```

mod fake_host;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axwatch_proto::axwatch::v1::plugin_host_server::PluginHostServer;
use axwatch_proto::protocol::ats_store_service_server::AtsStoreServiceServer;
use axwatch_proto::protocol::domain_plugin_service_client::DomainPluginServiceClient;
use axwatch_proto::protocol::queue_service_server::QueueServiceServer;
use axwatch_proto::protocol::{
    AttestationCommand, Empty, ExecuteJobRequest, ExecuteJobResponse, InitializeRequest,
    InitializeResponse,
};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};

use self::fake_host::{FakeHost, TOKEN};
use crate::claim::{Attestation, Claim};
use crate::config::Config;
use crate::failure::Failure;
use crate::host::{channel, status_text};
use crate::http::{HttpRequest, HttpResponse};
use crate::log::Level;
use crate::plugin::{Plugin, Schedule, Watcher};
use crate::server::Service;

/// Bytes of one message, either way.
const MESSAGE_BYTES_MAX: usize = 17 * 1024 * 1024;

/// A plugin that runs beside its test, and the host that it speaks with. Both end with this value.
pub struct Harness {
    host: FakeHost,
    host_address: SocketAddr,
    plugin: DomainPluginServiceClient<Channel>,
    plugin_address: SocketAddr,
    announced: Announced,
    tasks: [JoinHandle<()>; 2],
}

/// What a plugin announced.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Announced {
    /// Its handlers.
    pub handlers: Vec<String>,
    /// Its watchers, to be compared with those that were meant.
    pub watchers: Vec<Watcher>,
    /// Its schedules, likewise.
    pub schedules: Vec<Schedule>,
    /// Whether handler claims are its handlers.
    pub stored_handlers: bool,
}

impl Announced {
    fn from_wire(announced: InitializeResponse) -> Announced {
        Announced {
            handlers: announced.handler_names,
            watchers: announced.watchers.into_iter().map(Watcher::from_wire).collect(),
            schedules: announced.schedules.into_iter().map(Schedule::from_wire).collect(),
            stored_handlers: announced.stored_handlers,
        }
    }
}

impl Harness {
    /// Starts a plugin without a configuration.
    ///
    /// # Panics
    /// When it does not come up: see [`Harness::try_start`].
    pub async fn start(plugin: impl Plugin) -> Harness {
        Harness::start_with(plugin, Config::default()).await
    }

    /// Starts a plugin with this table of its own, such as `[("greeting", "Hi")]`.
    ///
    /// # Panics
    /// When it does not come up: see [`Harness::try_start`].
    pub async fn start_with(plugin: impl Plugin, config: impl IntoConfig) -> Harness {
        let started = Harness::try_start(plugin, config).await;
        started.unwrap_or_else(|failure| panic!("the plugin did not start: {failure}"))
    }

    /// Starts a plugin that may refuse to.
    ///
    /// # Errors
    /// What its `initialize` answered; "not now" arrives as [`Failure::Retry`].
    ///
    /// # Panics
    /// When loopback has no port to give, or the plugin's name is empty.
    pub async fn try_start(
        plugin: impl Plugin,
        config: impl IntoConfig,
    ) -> Result<Harness, Failure> {
        let mut harness = Harness::unstarted(plugin).await;
        harness.reconfigure(config).await?;
        Ok(harness)
    }

    /// Runs a plugin that [`Harness::reconfigure`] is yet to start, so that [`Harness::append`],
    /// [`Harness::answer_ax`] and [`Harness::fail_next_call`] can say before what its `initialize`
    /// finds at the host.
    ///
    /// # Panics
    /// When loopback has no port to give, or the plugin's name is empty.
    pub async fn unstarted(plugin: impl Plugin) -> Harness {
        let host = FakeHost::default();
        let (host_listener, host_address) = listen().await;
        let (plugin_listener, plugin_address) = listen().await;
        let hosting = tokio::spawn(serve_host(host.clone(), host_listener));
        let serving = Service::new(plugin).serve(plugin_listener, std::future::pending());
        let serving = tokio::spawn(async move { serving.await.expect("a listener serves") });
        let dialled = channel(&plugin_address.to_string()).expect("an address can be dialled");
        let dialled = dialled.expect("an address is not empty");
        let mut harness = Harness {
            host,
            host_address,
            plugin: DomainPluginServiceClient::new(dialled)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            plugin_address,
            announced: Announced::default(),
            tasks: [hosting, serving],
        };
        let about = harness.plugin.metadata(Empty {}).await.expect("Metadata is answered");
        assert!(!about.get_ref().name.is_empty(), "a plugin has a name");
        harness.host.lend_name(&about.get_ref().name);
        harness
    }

    /// Initializes the plugin: again, as a host does when the configuration changed, or one that is
    /// [`Harness::unstarted`].
    ///
    /// # Errors
    /// As [`Harness::try_start`].
    pub async fn reconfigure(&mut self, config: impl IntoConfig) -> Result<(), Failure> {
        let endpoint = self.host_address.to_string();
        let config = config.into_config();
        let request = InitializeRequest {
            ats_store_endpoint: endpoint.clone(),
            queue_endpoint: endpoint.clone(),
            host_endpoint: endpoint,
            auth_token: TOKEN.to_owned(),
            config: config.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            ..Default::default()
        };
        let reply = self.plugin.initialize(request).await.map_err(|s| failure_of_status(&s))?;
        self.announced = Announced::from_wire(reply.into_inner());
        Ok(())
    }

    /// What the plugin said at its last Initialize.
    #[must_use]
    pub fn announced(&self) -> &Announced {
        &self.announced
    }

    /// What the plugin announced while it ran, oldest first: each replaces the one before and what was
    /// said at Initialize.
    #[must_use]
    pub fn announcements(&self) -> Vec<Announced> {
        self.host.announced().into_iter().map(Announced::from_wire).collect()
    }

    /// Stores a handler as a claim, as people do by `axwatch handler create`, and answers with its
    /// version.
    ///
    /// # Panics
    /// For a name or a code that no host would take.
    #[track_caller]
    pub fn store_handler(&self, name: &str, code: &str) -> String {
        let claim = self.handler_claim(name, "handler").attribute("code", code);
        self.append(claim).id
    }

    /// Removes a handler, as people do by `axwatch handler rm`.
    ///
    /// # Panics
    /// For a name that no host would take.
    #[track_caller]
    pub fn remove_handler(&self, name: &str) {
        let claim = self.handler_claim(name, "handler:faulted").attribute("reason", "removed");
        self.append(claim.attribute("handler", name));
    }

    fn handler_claim(&self, name: &str, predicate: &str) -> Claim {
        Claim::new(name, predicate, self.host.plugin()).actor(name).source("axwatch-cli")
    }

    /// Looks at the plugin's health, as a host does now and then; answers whether it is good.
    ///
    /// # Panics
    /// When the plugin does not answer.
    pub async fn is_healthy(&self) -> bool {
        let answered = self.plugin.clone().health(Empty {}).await;
        let answered =
            answered.unwrap_or_else(|status| panic!("no health: {}", status_text(&status)));
        answered.into_inner().healthy
    }

    /// Sends a request as a host does for `/api/NAME/…`.
    ///
    /// # Panics
    /// When the plugin serves no HTTP.
    pub async fn http(&self, request: HttpRequest) -> HttpResponse {
        let answered = self.plugin.clone().handle_http(request.into_wire()).await;
        let answered =
            answered.unwrap_or_else(|status| panic!("no HTTP: {}", status_text(&status)));
        HttpResponse::from_wire(answered.into_inner())
    }

    /// Sends a job and waits for what comes of it. Dropping the future is what a host does when it
    /// gives up on an attempt: `tokio::time::timeout(…, harness.execute(job))`.
    pub async fn execute(&self, job: TestJob) -> Outcome {
        self.host.begin(&job.request.job_id, job.request.attempt);
        match self.plugin.clone().execute_job(job.request).await {
            Ok(reply) => Outcome::of_reply(reply.into_inner()),
            Err(status) => {
                Outcome { failure: Some(failure_of_status(&status)), ..Outcome::default() }
            }
        }
    }

    /// Puts a claim into the log, as if somebody had made it before.
    ///
    /// # Panics
    /// For a claim that no host would take.
    #[track_caller]
    pub fn append(&self, claim: Claim) -> Attestation {
        let appended = self.host.give(checked(claim));
        Attestation::from_wire(appended.unwrap_or_else(|error| panic!("{error}")))
    }

    /// Says what an AX text finds, newest first: the harness does not speak AX. Without this the
    /// question is refused, with a text that says so.
    ///
    /// # Panics
    /// For a claim that no host would take.
    #[track_caller]
    pub fn answer_ax(&self, query: impl AsRef<str>, claims: impl IntoIterator<Item = Claim>) {
        let claims = claims.into_iter().map(checked).collect();
        self.host.answer_ax(query.as_ref(), claims);
    }

    /// Makes the plugin's next call to the host fail with this error, such as
    /// `unavailable: the disk is full`. May be called several times for several calls. Live progress is
    /// such a call too.
    pub fn fail_next_call(&self, error: impl AsRef<str>) {
        self.host.fail_next_call(error.as_ref());
    }

    /// Makes the plugin's next announcement fail with this error, whatever it asks of the host before.
    /// May be called several times for several announcements.
    pub fn fail_next_announcement(&self, error: impl AsRef<str>) {
        self.host.fail_next_announcement(error.as_ref());
    }

    /// The claims that the plugin made, oldest first. One that was made twice under the same id is
    /// there once.
    #[must_use]
    pub fn claims(&self) -> Vec<Attestation> {
        self.host.made().into_iter().map(Attestation::from_wire).collect()
    }

    /// The progress of a job that reached the host while it ran, oldest first.
    #[must_use]
    pub fn progress_of(&self, job_id: impl AsRef<str>) -> Vec<(u64, u64)> {
        self.host.progress_of(job_id.as_ref())
    }

    /// The lines of a job's log that reached the host while it ran, oldest first. They are not in its
    /// [`Outcome`].
    #[must_use]
    pub fn lines_of(&self, job_id: impl AsRef<str>) -> Vec<(Level, String)> {
        let lines = self.host.lines_of(job_id.as_ref());
        lines.into_iter().map(|line| (Level::named(&line.level), line.message)).collect()
    }

    /// Calls Shutdown, as a host does before it ends the process.
    ///
    /// # Panics
    /// When the plugin does not answer.
    pub async fn shutdown(&self) {
        self.plugin.clone().shutdown(Empty {}).await.expect("Shutdown is answered");
    }

    /// Where the plugin listens, for a test that speaks gRPC itself.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.plugin_address
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What may be given as a plugin's configuration: a [`Config`], or pairs of key and value.
pub trait IntoConfig {
    /// The table.
    fn into_config(self) -> Config;
}

impl<I, K, V> IntoConfig for I
where
    I: IntoIterator<Item = (K, V)>,
    K: Into<String>,
    V: Into<String>,
{
    fn into_config(self) -> Config {
        self.into_iter().collect()
    }
}

impl IntoConfig for Config {
    fn into_config(self) -> Config {
        self
    }
}

/// A job to be sent. A new one has an id that no other has, and is at its first attempt.
#[derive(Debug, Clone)]
#[must_use]
pub struct TestJob {
    request: ExecuteJobRequest,
}

impl TestJob {
    /// For this handler, with an empty payload.
    pub fn new(handler: impl Into<String>) -> TestJob {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let request = ExecuteJobRequest {
            job_id: format!("{number:032x}"),
            handler_name: handler.into(),
            attempt: 1,
            ..Default::default()
        };
        TestJob { request }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.request.job_id
    }

    /// Any bytes.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> TestJob {
        self.request.payload = payload.into();
        self
    }

    /// A value as JSON.
    ///
    /// # Panics
    /// For a value that has no JSON.
    pub fn payload_json(self, payload: impl Serialize) -> TestJob {
        let json = serde_json::to_vec(&payload).expect("the payload has a JSON");
        self.payload(json)
    }

    /// The payload of a fire: this claim, with its gaps filled as a host does. The claim itself is not
    /// put into the log; [`Harness::append`] does that.
    ///
    /// # Panics
    /// For a claim that no host would take.
    #[track_caller]
    pub fn fire(self, claim: Claim) -> TestJob {
        let given = FakeHost::default().give(checked(claim)).expect("an empty log takes any claim");
        // The payload of a fire does not say it.
        let claim = Attestation { seq: 0, ..Attestation::from_wire(given) };
        self.payload_json(claim)
    }

    /// The parameters of the watcher, as JSON.
    ///
    /// # Panics
    /// For a value that has no JSON.
    pub fn params_json(mut self, params: impl Serialize) -> TestJob {
        self.request.params = serde_json::to_vec(&params).expect("the parameters have a JSON");
        self
    }

    /// Which attempt it is, from 1; 0 for a host that does not say.
    pub fn attempt(mut self, attempt: u32) -> TestJob {
        self.request.attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
        self
    }

    /// The watcher that fired, as it is shown.
    pub fn watcher(mut self, watcher: impl Into<String>) -> TestJob {
        self.request.watcher = watcher.into();
        self
    }

    /// Which version of a stored handler is to run, as [`Harness::store_handler`] answered.
    pub fn handler_version(mut self, version: impl Into<String>) -> TestJob {
        self.request.handler_version = version.into();
        self
    }

    /// The id of the schedule that made the job.
    pub fn schedule(mut self, schedule: impl Into<String>) -> TestJob {
        self.request.schedule = schedule.into();
        self
    }

    /// How long the plugin is told that the host waits, in whole seconds. The harness itself waits
    /// for as long as it takes.
    pub fn deadline(mut self, deadline: Duration) -> TestJob {
        self.request.timeout_secs = i64::try_from(deadline.as_secs()).ok();
        self
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Outcome {
    /// Why it is not done; none when it is.
    pub failure: Option<Failure>,
    /// What came of it.
    pub result: Bytes,
    /// How far it got: current and total.
    pub progress: Option<(u64, u64)>,
    /// What it cost.
    pub cost: f64,
    /// What it had to say.
    pub log: Vec<(Level, String)>,
}

impl Outcome {
    /// The same, of a job that must be done.
    ///
    /// # Panics
    /// When it is not, with the reason.
    #[track_caller]
    pub fn expect_done(self) -> Outcome {
        if let Some(failure) = &self.failure {
            panic!("the job is not done: {failure:?}, log: {:?}", self.log);
        }
        self
    }

    /// Why a job is not done that must not be.
    ///
    /// # Panics
    /// When it is done.
    #[track_caller]
    pub fn expect_failure(self) -> Failure {
        let result = &self.result;
        self.failure.unwrap_or_else(|| panic!("the job is done, with the result {result:?}"))
    }

    /// The result, read as JSON.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    pub fn result_as<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.result)
            .unwrap_or_else(|error| panic!("the result {:?}: {error}", self.result))
    }

    fn of_reply(reply: ExecuteJobResponse) -> Outcome {
        let progress = (reply.progress_current, reply.progress_total);
        let count = |number| u64::try_from(number).unwrap_or(0);
        Outcome {
            failure: failure_of_reply(&reply),
            progress: (progress != (0, 0)).then_some((count(progress.0), count(progress.1))),
            cost: reply.cost_actual,
            result: reply.result,
            log: reply
                .log_entries
                .into_iter()
                .map(|entry| (Level::named(&entry.level), entry.message))
                .collect(),
        }
    }
}

fn failure_of_reply(reply: &ExecuteJobResponse) -> Option<Failure> {
    let reason = reply.error.clone();
    match u64::try_from(reply.retry_after_ms) {
        _ if reply.success => None,
        _ if reply.permanent => Some(Failure::Permanent(reason)),
        Ok(ms @ 1..) => Some(Failure::NotNow { after: Some(Duration::from_millis(ms)), reason }),
        _ => Some(Failure::Retry(reason)),
    }
}

/// As a host reads it.
fn failure_of_status(status: &Status) -> Failure {
    let reason = status_text(status);
    match status.code() {
        Code::InvalidArgument
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::NotFound => Failure::Permanent(reason),
        Code::ResourceExhausted => Failure::NotNow { after: None, reason },
        _ => Failure::Retry(reason),
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("loopback has a free port");
    let address = listener.local_addr().expect("a listener has an address");
    (listener, address)
}

async fn serve_host(host: FakeHost, listener: TcpListener) {
    let store = AtsStoreServiceServer::new(host.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .add_service(store)
        .add_service(QueueServiceServer::new(host.clone()))
        .add_service(PluginHostServer::new(host))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await
        .expect("a listener serves");
}

#[track_caller]
fn checked(claim: Claim) -> AttestationCommand {
    claim.into_command().unwrap_or_else(|failure| panic!("no host takes this claim: {failure}"))
}
