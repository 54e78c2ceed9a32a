//! The gRPC service around a plugin: what a host calls.
//!
//! In: calls of one host. Out: jobs for [`Plugin::execute`], and what came of them in the host's words.
//! Nothing survives a crash here, and nothing has to: jobs and watchers are the host's.
//!
//! Not here: arguments, signals and the log of the process (`crate::run`).

use std::collections::BTreeSet;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axwatch_proto::protocol::domain_plugin_service_server::{
    DomainPluginService, DomainPluginServiceServer,
};
use axwatch_proto::protocol::{
    self, ConfigSchemaResponse, Empty, ExecuteJobRequest, ExecuteJobResponse, GlyphDefResponse,
    HealthResponse, HttpRequest, HttpResponse, InitializeRequest, InitializeResponse,
    MetadataResponse, ParseAxQueryRequest, ParseAxQueryResponse, WebSocketMessage,
};
use futures::FutureExt as _;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, OnceCell, watch};
use tonic::codegen::BoxStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use crate::config::Config;
use crate::failure::Failure;
use crate::host::{Endpoints, Host};
use crate::http::{HttpRequest as Asked, HttpResponse as Answer, Route};
use crate::job::{Done, Job};
use crate::log::Level;
use crate::plugin::{Plugin, Schedule, Start, Watcher};
use crate::progress::{self, Queue};

/// Bytes of one call: a payload of 16 MiB and what goes with it.
const REQUEST_BYTES_MAX: usize = 17 * 1024 * 1024;
/// Bytes of one reply that a host takes.
const REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of a result, so that the job's log fits beside it.
const RESULT_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Bytes of a failure's reason. A host keeps 4 KiB.
const REASON_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a gRPC status, which travels as a header.
const STATUS_BYTES_MAX: usize = 2 * 1024;
/// A host may have 4,096 jobs under way, all on one connection, and its health checks must get through.
const STREAMS_MAX: u32 = 8 * 1024;
/// How long Shutdown waits for the running jobs: a host waits 5 s for all of it.
const JOBS_WITHIN: Duration = Duration::from_secs(4);

type Reply<T> = Result<Response<T>, Status>;

/// A plugin as a service. Clones are the same service.
pub(crate) struct Service<P> {
    inner: Arc<Inner<P>>,
}

impl<P> Clone for Service<P> {
    fn clone(&self) -> Service<P> {
        Service { inner: self.inner.clone() }
    }
}

struct Inner<P> {
    plugin: P,
    /// One Initialize at a time.
    initializing: Mutex<()>,
    session: RwLock<Option<Arc<Session>>>,
    /// What was announced last.
    handlers: RwLock<Arc<BTreeSet<String>>>,
    running: watch::Sender<usize>,
    is_closed: AtomicBool,
    /// True once the time of the running jobs is up.
    ending: watch::Sender<bool>,
    /// Set once the plugin has had its last words.
    ended: OnceCell<()>,
    /// True once nothing more is to be done here than to answer what was asked.
    dismissed: watch::Sender<bool>,
}

/// What the last Initialize brought.
struct Session {
    config: Config,
    host: Host,
    queue: Option<Arc<Queue>>,
}

impl<P: Plugin> Service<P> {
    pub(crate) fn new(plugin: P) -> Service<P> {
        let inner = Inner {
            plugin,
            initializing: Mutex::default(),
            session: RwLock::default(),
            handlers: RwLock::default(),
            running: watch::Sender::new(0),
            is_closed: AtomicBool::new(false),
            ending: watch::Sender::new(false),
            ended: OnceCell::new(),
            dismissed: watch::Sender::new(false),
        };
        Service { inner: Arc::new(inner) }
    }

    /// Serves until `stopped`, and then until the calls under way are answered.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        stopped: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let service = DomainPluginServiceServer::new(self)
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(REPLY_BYTES_MAX);
        Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .add_service(service)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                stopped,
            )
            .await
    }

    /// From now on only what was asked is answered.
    pub(crate) fn dismiss(&self) {
        self.inner.dismissed.send_replace(true);
    }

    /// Waits for [`Service::dismiss`], which also a host does by its call of Shutdown.
    pub(crate) async fn dismissed(&self) {
        // The sender lives as long as `self`.
        let _ = self.inner.dismissed.subscribe().wait_for(|&dismissed| dismissed).await;
    }

    /// Takes no more jobs, waits for those that run, at most this long, and gives the plugin its last
    /// words, once. Who comes second waits for the first.
    pub(crate) async fn end(&self, jobs_within: Duration) {
        self.inner.is_closed.store(true, Ordering::SeqCst);
        let ending = async || {
            let mut running = self.inner.running.subscribe();
            let idle = running.wait_for(|&running| running == 0);
            if tokio::time::timeout(jobs_within, idle).await.is_err() {
                let jobs = *self.inner.running.borrow();
                tracing::warn!(jobs, "ending, although jobs are running");
            }
            self.inner.ending.send_replace(true);
            if let Err(panic) = caught(self.inner.plugin.shutdown()).await {
                tracing::error!("shutdown panicked: {panic}");
            }
        };
        self.inner.ended.get_or_init(ending).await;
    }

    async fn start(&self, request: InitializeRequest) -> Result<InitializeResponse, Status> {
        let _alone = self.inner.initializing.lock().await;
        let token = &request.auth_token;
        let config: Config = request.config.into_iter().collect();
        let endpoints =
            Endpoints { store: &request.ats_store_endpoint, host: &request.host_endpoint };
        let inner = Arc::downgrade(&self.inner);
        let announcement = move || inner.upgrade().map(|inner| inner.announcement());
        let host = Host::new(endpoints, token, Arc::new(announcement)).map_err(refusal)?;
        // Who serves the one knows the lines of the other.
        let hears_lines = !request.host_endpoint.is_empty();
        let queue = Queue::new(&request.queue_endpoint, token, hears_lines).map_err(refusal)?;

        let plugin = &self.inner.plugin;
        let started = plugin.initialize(Start::new(config.clone(), host.clone()));
        match caught(started).await {
            Ok(started) => started.map_err(refusal)?,
            Err(panic) => return Err(Status::internal(cut(&panicked("initialize", &panic)))),
        }
        let announcement = self.inner.announcement();
        let session = Session { config, host, queue };
        *self.inner.session.write().unwrap_or_else(PoisonError::into_inner) =
            Some(Arc::new(session));
        Ok(announcement)
    }

    fn session(&self) -> Result<Arc<Session>, Status> {
        let session = self.inner.session.read().unwrap_or_else(PoisonError::into_inner).clone();
        session.ok_or_else(|| Status::unavailable("not initialized yet"))
    }

    fn begin(&self) -> Result<Running<'_>, Status> {
        // Counted first, so that whoever ends the process sees it or is seen.
        self.inner.running.send_modify(|running| *running += 1);
        let running = Running(&self.inner.running);
        if self.inner.is_closed.load(Ordering::SeqCst) {
            return Err(Status::unavailable("the plugin is shutting down"));
        }
        Ok(running)
    }

    async fn run(&self, request: ExecuteJobRequest) -> Result<ExecuteJobResponse, Status> {
        let _running = self.begin()?;
        let session = self.session()?;
        if !self.inner.answers_for(&request.handler_name) {
            let name = cut(&request.handler_name);
            return Err(Status::not_found(format!("{name:?} is no handler of this plugin")));
        }
        let (id, handler) = (request.job_id.clone(), request.handler_name.clone());
        let ending = self.inner.ending.subscribe();
        let job = Job::new(request, session.config.clone(), session.host.clone(), ending);
        let _over = EndOnDrop(&job);
        if let Some(queue) = &session.queue {
            let told = on_wire(&id, &handler);
            tokio::spawn(queue.clone().follow(job.clone(), told, job.changes()));
        }
        let span = tracing::info_span!("job", %id, %handler, attempt = job.attempt());
        // Within a future of its own: an `execute` that is no `async fn` may panic before it returns one.
        let executed = async { self.inner.plugin.execute(job.clone()).await };
        let executed = caught(executed).instrument(span.clone());
        let outcome = match executed.await {
            Ok(outcome) => outcome,
            Err(panic) => {
                let reason = panicked("the handler", &panic);
                span.in_scope(|| tracing::error!("{reason}"));
                Err(Failure::Retry(reason))
            }
        };
        let reply = reply(&job, outcome).await?;
        Ok(ExecuteJobResponse { plugin_version: self.inner.plugin.about().version, ..reply })
    }
}

impl<P: Plugin> Inner<P> {
    /// All that the plugin has now.
    fn announcement(&self) -> InitializeResponse {
        let handler_names = self.plugin.handlers();
        let names = Arc::new(handler_names.iter().cloned().collect());
        *self.handlers.write().unwrap_or_else(PoisonError::into_inner) = names;
        InitializeResponse {
            handler_names,
            watchers: self.plugin.watchers().into_iter().map(Watcher::into_wire).collect(),
            schedules: self.plugin.schedules().into_iter().map(Schedule::into_wire).collect(),
            http_routes: self.plugin.routes().into_iter().map(Route::into_wire).collect(),
            stored_handlers: self.plugin.stored_handlers(),
            python_provider: self.plugin.is_python_provider(),
            ..Default::default()
        }
    }

    /// Stored handlers come and go without a word here, and each of their jobs names its code.
    fn answers_for(&self, handler: &str) -> bool {
        let announced = self.handlers.read().unwrap_or_else(PoisonError::into_inner).clone();
        announced.contains(handler) || {
            let name = self.plugin.about().name;
            let rest = handler.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.'));
            self.plugin.stored_handlers() && rest.is_some_and(|rest| !rest.is_empty())
        }
    }
}

/// A job under way. Counted until this is dropped.
struct Running<'a>(&'a watch::Sender<usize>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

/// Tells what still works on a job that nobody waits for it: also when the host's cancelling drops
/// everything here.
struct EndOnDrop<'a>(&'a Job);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Runs a future and answers what it panicked with, if it did.
async fn caught<T>(future: impl Future<Output = T>) -> Result<T, String> {
    // Whatever state it leaves behind is the plugin author's, who was told that the process lives on.
    AssertUnwindSafe(future).catch_unwind().await.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(ToString::to_string);
        text.or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "with something that is no text".to_owned())
    })
}

fn panicked(who: &str, panic: &str) -> String {
    format!("{who} panicked: {panic}")
}

/// Why Initialize is refused. A host that restarts the plugin sees the difference only in the code.
fn refusal(failure: Failure) -> Status {
    match &failure {
        Failure::Permanent(reason) => Status::failed_precondition(cut(reason)),
        Failure::Retry(reason) | Failure::NotNow { reason, .. } => Status::unavailable(cut(reason)),
    }
}

/// A text as a gRPC status can carry it.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(STATUS_BYTES_MAX)].to_owned()
}

/// What of a job does not change while it runs, for reports of its progress.
fn on_wire(id: &str, handler: &str) -> protocol::Job {
    protocol::Job {
        id: id.to_owned(),
        handler_name: handler.to_owned(),
        status: "running".to_owned(),
        ..Default::default()
    }
}

/// What came of a job, in the host's words.
///
/// A permanent failure is `success=false` with `permanent` (field 101), not a gRPC status, although
/// hosts that do not know the field would understand FAILED_PRECONDITION: a status has room for a
/// short text, and neither for the job's log nor for its progress. Such a host tries again in vain a
/// few times, and then has the same dead letter.
///
/// "Not now" without a time has no such choice: RESOURCE_EXHAUSTED is its only form.
async fn reply(job: &Job, outcome: Result<Done, Failure>) -> Result<ExecuteJobResponse, Status> {
    let outcome = outcome.and_then(|done| match done.mistake {
        Some(mistake) => Err(Failure::Permanent(mistake)),
        None => Ok(done),
    });
    let mut reply = ExecuteJobResponse::default();
    match outcome {
        Ok(done) => {
            reply.success = true;
            reply.cost_actual = done.cost;
            if done.result.len() > RESULT_BYTES_MAX {
                let bytes = done.result.len();
                job.log(Level::Warn, format!("the result was left out: {bytes} bytes; at most {RESULT_BYTES_MAX} fit into a reply"));
            } else {
                reply.result = done.result;
            }
        }
        Err(Failure::NotNow { after: None, reason }) => {
            return Err(Status::resource_exhausted(cut(&reason)));
        }
        Err(failure) => {
            let reason = failure.reason();
            reply.error = reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned();
            reply.permanent = matches!(failure, Failure::Permanent(_));
            if let Failure::NotNow { after: Some(after), .. } = failure {
                // 0 would mean an ordinary failure.
                reply.retry_after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX).max(1);
            }
        }
    }
    let (progress, log) = job.take_report().await;
    if let Some(progress) = progress.map(progress::on_wire) {
        (reply.progress_current, reply.progress_total) = (progress.current, progress.total);
    }
    reply.log_entries = log;
    Ok(reply)
}

#[tonic::async_trait]
impl<P: Plugin> DomainPluginService for Service<P> {
    async fn metadata(&self, _: Request<Empty>) -> Reply<MetadataResponse> {
        Ok(Response::new(self.inner.plugin.about().into_wire()))
    }

    async fn initialize(&self, request: Request<InitializeRequest>) -> Reply<InitializeResponse> {
        let started = self.start(request.into_inner()).await;
        let shown = |status: &Status| tracing::error!("initialize failed: {}", status.message());
        Ok(Response::new(started.inspect_err(shown)?))
    }

    async fn execute_job(&self, request: Request<ExecuteJobRequest>) -> Reply<ExecuteJobResponse> {
        Ok(Response::new(self.run(request.into_inner()).await?))
    }

    async fn health(&self, _: Request<Empty>) -> Reply<HealthResponse> {
        Ok(Response::new(self.inner.plugin.health().into_wire()))
    }

    async fn config_schema(&self, _: Request<Empty>) -> Reply<ConfigSchemaResponse> {
        let fields = self.inner.plugin.config_schema();
        if fields.is_empty() {
            return Err(Status::unimplemented("the plugin does not describe its configuration"));
        }
        let fields = fields.into_iter().map(|field| field.into_wire()).collect();
        Ok(Response::new(ConfigSchemaResponse { fields }))
    }

    async fn shutdown(&self, _: Request<Empty>) -> Reply<Empty> {
        let service = self.clone();
        // A task of its own: a host that stops waiting must not interrupt the plugin's last words.
        let ended = tokio::spawn(async move { service.end(JOBS_WITHIN).await });
        let ended = ended.await;
        self.dismiss();
        ended.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(Empty {}))
    }

    async fn handle_http(&self, request: Request<HttpRequest>) -> Reply<HttpResponse> {
        if self.inner.plugin.routes().is_empty() {
            return Err(Status::unimplemented("no HTTP"));
        }
        let request = Asked::from_wire(request.into_inner());
        let answered = caught(async { self.inner.plugin.http(request).await }).await;
        let answer = answered.unwrap_or_else(|panic| {
            let reason = panicked("the answer", &panic);
            tracing::error!("{reason}");
            Answer::error(500, reason)
        });
        Ok(Response::new(answer.into_wire()))
    }

    // What follows need not be served: a plugin that says so is a whole plugin.

    async fn register_glyphs(&self, _: Request<Empty>) -> Reply<GlyphDefResponse> {
        Err(Status::unimplemented("no glyphs"))
    }

    async fn parse_ax_query(&self, _: Request<ParseAxQueryRequest>) -> Reply<ParseAxQueryResponse> {
        Err(Status::unimplemented("no parser"))
    }

    type HandleWebSocketStream = BoxStream<WebSocketMessage>;

    async fn handle_web_socket(
        &self,
        _: Request<Streaming<WebSocketMessage>>,
    ) -> Reply<Self::HandleWebSocketStream> {
        Err(Status::unimplemented("no sockets"))
    }
}
