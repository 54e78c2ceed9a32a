//! The plugin `python`: runs handlers that users store as claims.
//!
//! In comes a job with the id of the claim that has the code; out goes what the code made of it. The code
//! runs in one of a few `python3` processes, each with a process group of its own: whatever it does there
//! costs its own job, and the process is replaced. What the code declares by `@watch` and `@schedule` is
//! read from its text and announced. Nothing is kept here: which code is in force is the host's to know,
//! and after a crash the host sends the same jobs again, under the same ids.
//!
//! Inside: `settings` the table `[python]`; `catalogue` which handlers there are and what they declare;
//! `pool` the workers, `worker` one of them, `process` its process, `frame` what is said to it, `output`
//! what it prints, `worker.py` its own program; `services` what code may ask for; `outcome` what comes of a
//! job; `api` HTTP.
//!
//! Not here: who may store a handler, retries, limits and schedules (the host); how things travel
//! (`axwatch_sdk`).

mod api;
mod catalogue;
mod frame;
mod outcome;
mod output;
mod pool;
mod process;
mod services;
mod settings;
mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axwatch_sdk::{
    About, ConfigField, Done, Failure, Health, Host, HttpRequest, HttpResponse, Job, Plugin, Route,
    Schedule, Start, Watcher,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::catalogue::{Catalogue, NoSync, Report, may_declare};
use crate::frame::Ending;
use crate::pool::Pool;
use crate::services::Services;
use crate::settings::Settings;
use crate::worker::{Broken, NoWorker, Ran, Run, Source, Worker};

/// Its name, and the context of the claims that are its handlers.
const NAME: &str = "python";
/// The handler that runs the code of its payload.
const SCRIPT: &str = "python.script";
/// The handler that looks again which handlers are stored.
const SYNC: &str = "python.sync";
/// The watcher that makes it do so.
const SYNC_WATCHER: &str = "handlers";
/// How long a host is told to wait when there is no interpreter.
const AGAIN_WITHOUT_PYTHON: Duration = Duration::from_secs(30);
/// How long a host is told to wait when a version turns out not to load: until it knows.
const AGAIN_WHEN_BROKEN: Duration = Duration::from_secs(5);
/// How long a host waits that does not say.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(300);
/// What is kept of the host's time for the answer.
const MARGIN: Duration = Duration::from_secs(1);

/// The plugin, to be served: `axwatch_sdk::serve(plugin())`.
#[must_use]
pub fn plugin() -> PythonPlugin {
    PythonPlugin {
        session: RwLock::default(),
        catalogue: Arc::default(),
        is_new: AtomicBool::new(false),
    }
}

/// Runs handlers that are stored as claims.
pub struct PythonPlugin {
    /// Exchanged as a whole when the configuration changes.
    session: RwLock<Option<Session>>,
    catalogue: Arc<Catalogue>,
    /// Whether the host has not asked for anything since Initialize.
    is_new: AtomicBool,
}

/// One configuration, with the workers that were started under it.
#[derive(Clone)]
struct Session {
    pool: Pool,
    host: Host,
}

impl Session {
    async fn sync(&self, catalogue: &Catalogue) -> Result<Report, NoSync> {
        catalogue.sync(&self.host, &self.pool).await?;
        catalogue.announce(&self.host).await.map_err(NoSync::Host)
    }
}

impl PythonPlugin {
    fn session(&self) -> Result<Session, Failure> {
        let session = self.session.read().unwrap_or_else(PoisonError::into_inner).clone();
        session.ok_or_else(|| Failure::retry("not initialized yet"))
    }

    /// Reads what is stored, before anything is announced.
    async fn first_sync(&self, session: &Session) -> Result<(), Failure> {
        match self.catalogue.sync(&session.host, &session.pool).await {
            Ok(report) => {
                tracing::info!(handlers = report.handlers, "the stored handlers are read");
                Ok(())
            }
            Err(NoSync::Worker(problem)) => self.without_python(session, &problem).await,
            // Another host, which keeps none.
            Err(NoSync::NoneKept(reason)) => {
                tracing::info!(reason, "no stored handlers");
                Ok(())
            }
            Err(NoSync::Host(failure)) => Err(failure),
        }
    }

    /// Without an interpreter nobody knows what handlers declare. As long as they declare nothing that
    /// does not matter; where they may, announcing without it would end their watchers and what waits in
    /// them, so that it is better not to be there at all.
    async fn without_python(&self, session: &Session, problem: &NoWorker) -> Result<(), Failure> {
        let stored = session.host.stored_handlers().await?;
        match stored.iter().find(|handler| may_declare(&handler.code)) {
            None => Ok(()),
            Some(handler) => Err(Failure::retry(format!(
                "{problem}. The handler {} may have watchers or schedules, which would be lost without it",
                handler.name
            ))),
        }
    }

    /// Reads what is stored, and announces what is new.
    async fn sync(&self, session: &Session) -> Result<Report, NoSync> {
        session.sync(&self.catalogue).await
    }

    /// What was stored while the host took in the answer to Initialize made no job of ours. Its first
    /// look at our health comes after that.
    fn look_again(&self, session: &Session) {
        if !self.is_new.swap(false, Ordering::SeqCst) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        let (session, catalogue) = (session.clone(), self.catalogue.clone());
        runtime.spawn(async move {
            if let Err(error) = session.sync(&catalogue).await {
                let error = Failure::from(error);
                tracing::warn!(%error, "cannot look again at the stored handlers");
            }
        });
    }

    async fn run_sync(&self, job: &Job) -> Result<Done, Failure> {
        // Most are told of by HTTP before their claim makes a job of it.
        if let Ok(claim) = job.attestation()
            && claim.predicates.iter().any(|predicate| predicate == "handler")
            && self.catalogue.has_told_of(&claim.id)
        {
            return Ok(Done::new().result_json(&json!({ "known": true })));
        }
        match self.sync(&self.session()?).await {
            Ok(report) => Ok(Done::new().result_json(&report)),
            Err(NoSync::Worker(problem)) => Err(Failure::not_now(AGAIN_WITHOUT_PYTHON, problem)),
            Err(other) => Err(other.into()),
        }
    }

    async fn run_script(&self, job: &Job) -> Result<Done, Failure> {
        let script: Script = job.payload_as()?;
        let code = script.content.or(script.script_code).ok_or_else(|| {
            Failure::permanent("payload: python.script takes {\"content\": \"<code>\"}")
        })?;
        let source = Source { name: "script".to_owned(), version: None, code: code.into() };
        self.run_code(job, &source, None).await
    }

    async fn run_stored(&self, job: &Job, name: &str) -> Result<Done, Failure> {
        let session = self.session()?;
        let version = job.handler_version();
        let mut source = self.catalogue.source(&session.host, name, version).await?;
        if source.is_none() && version.is_none() {
            // A host that does not say which version is one that may have told of it since.
            self.sync(&session).await?;
            source = self.catalogue.source(&session.host, name, None).await?;
        }
        let source = source.ok_or_else(|| {
            let version = version.map(|version| format!(" in version {version}"));
            Failure::permanent(format!("there is no handler {name}{}", version.unwrap_or_default()))
        })?;
        let params: Params = job.params_as()?;
        // A schedule that somebody else made runs the handler as a whole, whatever its name.
        let of_schedule = |schedule| self.catalogue.function_of(name, schedule);
        let function = params.function.or_else(|| job.schedule().and_then(of_schedule));
        self.run_code(job, &source, function.as_deref()).await
    }

    async fn run_code(
        &self,
        job: &Job,
        source: &Source,
        function: Option<&str>,
    ) -> Result<Done, Failure> {
        let Session { pool, host } = self.session()?;
        let begun = Instant::now();
        let deadline = job.deadline().unwrap_or(DEADLINE_DEFAULT);
        let time = pool.settings().timeout;
        // A job that waits for longer would be given up by the host with nothing to show for it.
        let wait = deadline.saturating_sub(time + MARGIN).max(deadline / 4);
        let mut worker = pool.lend(wait).await.map_err(no_worker)?;
        let within = time.min(deadline.saturating_sub(begun.elapsed() + MARGIN).max(MARGIN));
        let params: Map<String, Value> = job.params_as()?;
        let run = Run {
            source,
            function,
            job_id: job.id(),
            attempt: job.attempt(),
            params: &params,
            payload: job.payload(),
        };
        let ran = worker.run(&run, &Services::Job(job), within).await;
        settle(worker, source, &ran);
        let ran = ran.map_err(Failure::retry)?;
        if ran.done.outcome == Ending::Unloadable
            && let Some(version) = &source.version
        {
            let name = source.name.strip_prefix("handler ").unwrap_or(&source.name);
            let reason = ran.done.error.lines().last().unwrap_or_default();
            return Err(match catalogue::tell_fault(&host, name, version, reason).await? {
                None => Failure::not_now(AGAIN_WHEN_BROKEN, &ran.done.error),
                // Nobody would tell the host, which goes on sending jobs.
                Some(_) => Failure::permanent(&ran.done.error),
            });
        }
        outcome::of_job(job, ran)
    }
}

/// Gives a worker back, unless the job left something in it.
fn settle(mut worker: pool::Lent, source: &Source, ran: &Result<Ran, Broken>) {
    match ran {
        Ok(ran) => match &ran.done.tainted {
            None => {
                if ran.done.outcome == Ending::Unloadable {
                    Worker::forget(&mut worker, source);
                }
                worker.give_back();
            }
            Some(what) => {
                tracing::info!(code = source.name, what, "a worker is replaced after a job");
            }
        },
        Err(broken) => {
            tracing::warn!(code = source.name, %broken, "a worker is replaced");
        }
    }
}

/// What the payload of `python.script` says.
#[derive(Deserialize)]
struct Script {
    content: Option<String>,
    /// The older name.
    script_code: Option<String>,
}

/// What the parameters of a watcher may say.
#[derive(Deserialize)]
struct Params {
    /// Which function of the handler is to run.
    #[serde(default)]
    function: Option<String>,
}

/// Without a worker nothing is wrong with the job.
fn no_worker(problem: NoWorker) -> Failure {
    match problem {
        // The host then sends fewer at a time.
        NoWorker::Busy { .. } => Failure::NotNow { after: None, reason: problem.to_string() },
        _ => Failure::not_now(AGAIN_WITHOUT_PYTHON, problem),
    }
}

impl Plugin for PythonPlugin {
    fn about(&self) -> About {
        About::new(
            NAME,
            env!("CARGO_PKG_VERSION"),
            "Runs handlers in Python that are stored as claims",
        )
        .author("axwatch")
        .license(env!("CARGO_PKG_LICENSE"))
    }

    async fn initialize(&self, start: Start) -> Result<(), Failure> {
        let settings = Settings::read(start.config().iter()).map_err(Failure::permanent)?;
        let session = Session { pool: Pool::new(settings), host: start.host().clone() };
        // One worker is started now: to have it ready, and to find out early that it cannot be.
        if let Ok(worker) = session.pool.lend(DEADLINE_DEFAULT).await {
            worker.give_back();
        }
        self.first_sync(&session).await?;
        self.catalogue.is_announced();
        let mut current = self.session.write().unwrap_or_else(PoisonError::into_inner);
        self.is_new.store(true, Ordering::SeqCst);
        if let Some(old) = current.replace(session) {
            tokio::spawn(async move { old.pool.close().await });
        }
        Ok(())
    }

    fn handlers(&self) -> Vec<String> {
        let own = [SCRIPT, SYNC].map(str::to_owned);
        own.into_iter().chain(self.catalogue.handlers()).collect()
    }

    fn watchers(&self) -> Vec<Watcher> {
        let own = Watcher::new(SYNC_WATCHER, SYNC)
            .predicates(["handler", "handler:faulted"])
            .contexts([NAME]);
        [own].into_iter().chain(self.catalogue.watchers()).collect()
    }

    fn schedules(&self) -> Vec<Schedule> {
        self.catalogue.schedules()
    }

    fn routes(&self) -> Vec<Route> {
        api::routes()
    }

    fn stored_handlers(&self) -> bool {
        true
    }

    fn is_python_provider(&self) -> bool {
        true
    }

    fn config_schema(&self) -> Vec<ConfigField> {
        settings::schema()
    }

    /// Always good: a host restarts a plugin that says otherwise, and that brings no interpreter. What is
    /// wrong is in the details, in the log, and in the answer to every job.
    fn health(&self) -> Health {
        let Ok(session) = self.session() else { return Health::good() };
        self.look_again(&session);
        let pool = session.pool;
        let seen = pool.seen();
        let health = Health::good()
            .detail("python", &pool.settings().python)
            .detail("workers", pool.settings().workers.to_string());
        let health = match &seen.version {
            Some(version) => health.detail("version", version),
            None => health,
        };
        match &seen.problem {
            Some(problem) => health.detail("problem", problem.to_string()),
            None => health,
        }
    }

    async fn execute(&self, job: Job) -> Result<Done, Failure> {
        match job.handler() {
            SCRIPT => self.run_script(&job).await,
            SYNC => self.run_sync(&job).await,
            handler => match handler.strip_prefix(NAME).and_then(|rest| rest.strip_prefix('.')) {
                Some(name) => self.run_stored(&job, name).await,
                None => Err(Failure::permanent(format!("{handler:?} is no handler of {NAME}"))),
            },
        }
    }

    async fn http(&self, request: HttpRequest) -> HttpResponse {
        match self.session() {
            Ok(session) => api::answer(self, &session, request).await,
            Err(failure) => HttpResponse::error(503, failure.reason()),
        }
    }

    async fn shutdown(&self) {
        if let Ok(session) = self.session() {
            session.pool.close().await;
        }
    }
}
