//! One job, as its handler gets it, and what a handler may answer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axwatch_proto::protocol::{ExecuteJobRequest, JobLogEntry};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use crate::claim::{Attestation, Claim};
use crate::config::Config;
use crate::failure::Failure;
use crate::host::{Host, OnBehalf};
use crate::log::{Level, Log};
use crate::progress::Progress;
use crate::query::Query;

/// One attempt at a job. Cheap to clone, and a clone may be moved to other threads and tasks.
#[derive(Clone)]
pub struct Job {
    inner: Arc<Inner>,
}

struct Inner {
    handler: String,
    payload: Bytes,
    params: Vec<u8>,
    watcher: String,
    revision: i64,
    handler_version: String,
    schedule: String,
    deadline: Option<Duration>,
    /// This job's id and attempt.
    on_behalf: OnBehalf,
    config: Config,
    host: Host,
    log: Mutex<Log>,
    /// Told of each line.
    logged: Notify,
    /// Held while the host is told of lines.
    telling: tokio::sync::Mutex<()>,
    progress: watch::Sender<Progress>,
    over: watch::Sender<bool>,
    /// The process is about to end.
    ending: watch::Receiver<bool>,
}

impl Job {
    pub(crate) fn new(
        request: ExecuteJobRequest,
        config: Config,
        host: Host,
        ending: watch::Receiver<bool>,
    ) -> Job {
        let timeout_secs = request.timeout_secs.and_then(|secs| u64::try_from(secs).ok());
        let inner = Inner {
            handler: request.handler_name,
            payload: request.payload,
            params: request.params,
            watcher: request.watcher,
            revision: request.revision,
            handler_version: request.handler_version,
            schedule: request.schedule,
            deadline: timeout_secs.filter(|&secs| secs > 0).map(Duration::from_secs),
            on_behalf: OnBehalf { job_id: request.job_id, attempt: request.attempt.max(0) },
            config,
            host,
            log: Mutex::default(),
            logged: Notify::new(),
            telling: tokio::sync::Mutex::default(),
            progress: watch::Sender::new(None),
            over: watch::Sender::new(false),
            ending,
        };
        Job { inner: Arc::new(inner) }
    }

    /// Its id: the same on every attempt, so that what was done once need not be done again.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.on_behalf.job_id
    }

    /// Which of the plugin's handlers is meant.
    #[must_use]
    pub fn handler(&self) -> &str {
        &self.inner.handler
    }

    /// Which attempt this is, from 1; 0 from a host that does not say.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.inner.on_behalf.attempt.unsigned_abs()
    }

    /// The watcher that fired, as it is shown (`greet-authors`); none for a job that no watcher made.
    #[must_use]
    pub fn watcher(&self) -> Option<&str> {
        Some(self.inner.watcher.as_str()).filter(|watcher| !watcher.is_empty())
    }

    /// Which revision of the watcher fired.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.inner.revision
    }

    /// Which version of a stored handler this attempt is to run: [`StoredHandler::version`]. None for a
    /// handler that is none.
    ///
    /// [`StoredHandler::version`]: crate::StoredHandler::version
    #[must_use]
    pub fn handler_version(&self) -> Option<&str> {
        Some(self.inner.handler_version.as_str()).filter(|version| !version.is_empty())
    }

    /// The id of the schedule that made the job; none for a job that no schedule made.
    #[must_use]
    pub fn schedule(&self) -> Option<&str> {
        Some(self.inner.schedule.as_str()).filter(|schedule| !schedule.is_empty())
    }

    /// How long the host waits for this attempt.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.inner.deadline
    }

    /// What the job is about: a claim as JSON for a fire, any bytes otherwise.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.inner.payload
    }

    /// The payload, read as JSON.
    ///
    /// # Errors
    /// [`Failure::Permanent`], which says what is wrong with it.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let wrong = |error| format!("payload: not what {} takes: {error}", self.handler());
        serde_json::from_slice(self.payload()).map_err(wrong).map_err(Failure::permanent)
    }

    /// The claim that made the watcher fire.
    ///
    /// # Errors
    /// [`Failure::Permanent`] when the payload is something else.
    pub fn attestation(&self) -> Result<Attestation, Failure> {
        let wrong = |error| Failure::permanent(format!("payload: no attestation: {error}"));
        Attestation::from_payload(self.payload()).map_err(wrong)
    }

    /// The parameters of the watcher that fired; `{}` when there are none.
    ///
    /// # Errors
    /// [`Failure::Permanent`], which says what is wrong with them.
    pub fn params_as<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let params: &[u8] = match self.inner.params.as_slice() {
            [] => b"{}",
            params => params,
        };
        let wrong = |error| format!("params: not what {} takes: {error}", self.handler());
        serde_json::from_slice(params).map_err(wrong).map_err(Failure::permanent)
    }

    /// The plugin's own table of `am.toml`, as it was when the attempt began.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The host, for what is not done on behalf of this job.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.inner.host
    }

    /// Makes a claim on behalf of this job, and answers with it as it stands in the log.
    ///
    /// A later attempt that makes the same claim makes no second one. After an error return it, so
    /// that the next attempt tries: this one cannot know whether its claim stands, and a second call
    /// of the same attempt counts as a second claim.
    ///
    /// # Errors
    /// [`Failure::Permanent`] for a claim that cannot stand, [`Failure::Retry`] when the host is away.
    pub async fn attest(&self, claim: Claim) -> Result<Attestation, Failure> {
        self.inner.host.attest_for(claim, &self.inner.on_behalf).await
    }

    /// Makes many claims on behalf of this job, in order and in batches that a host takes; each batch
    /// stands or falls as a whole. Answers how many of them now stand, those that stood before
    /// included.
    ///
    /// # Errors
    /// As [`Job::attest`], with which claim it was, counted from 0. Batches before it stand.
    pub async fn attest_all(&self, claims: Vec<Claim>) -> Result<usize, Failure> {
        self.inner.host.attest_all_for(claims, &self.inner.on_behalf).await
    }

    /// Finds claims, newest first.
    ///
    /// # Errors
    /// [`Failure::Permanent`] for a question that is none, [`Failure::Retry`] when the host is away.
    pub async fn query(&self, query: impl Into<Query>) -> Result<Vec<Attestation>, Failure> {
        self.inner.host.query(query).await
    }

    /// Whether a claim with this id is in the log.
    ///
    /// # Errors
    /// [`Failure::Retry`] when the host is away.
    pub async fn exists(&self, id: &str) -> Result<bool, Failure> {
        self.inner.host.exists(id).await
    }

    /// How far the job is. Costs nothing: the host hears of it twice a second where it listens, and in
    /// the reply. The wire counts to 2³¹−1, and what is beyond stays there.
    pub fn progress(&self, current: u64, total: u64) {
        self.inner.progress.send_replace(Some((current, total)));
    }

    /// Adds a line to the job's log: 1,000 entries, 64 KiB each and 1 MiB in all. Costs nothing: the
    /// host hears of it twice a second where it listens, and of the rest in the reply.
    pub fn log(&self, level: Level, message: impl Into<String>) {
        self.log_lock().add(level, message.into());
        self.inner.logged.notify_one();
    }

    /// [`Job::log`] at [`Level::Info`].
    pub fn info(&self, message: impl Into<String>) {
        self.log(Level::Info, message);
    }

    /// [`Job::log`] at [`Level::Warn`].
    pub fn warn(&self, message: impl Into<String>) {
        self.log(Level::Warn, message);
    }

    /// [`Job::log`] at [`Level::Error`].
    pub fn error(&self, message: impl Into<String>) {
        self.log(Level::Error, message);
    }

    /// Whether nobody waits for this attempt any more: the host gave up on it, or it has ended, or the
    /// process is about to. For work on other threads, which does not end by itself.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.inner.over.borrow() || *self.inner.ending.borrow()
    }

    /// Waits until [`Job::is_cancelled`].
    pub async fn cancelled(&self) {
        let (mut over, mut ending) = (self.inner.over.subscribe(), self.inner.ending.clone());
        tokio::select! {
            _ = over.wait_for(|&over| over) => {}
            _ = ending.wait_for(|&ending| ending) => {}
        }
    }

    /// From now on nobody waits for it.
    pub(crate) fn end(&self) {
        self.inner.over.send_replace(true);
    }

    /// How far it is, and what there is to say, for the reply: after what the host is just being told.
    pub(crate) async fn take_report(&self) -> (Progress, Vec<JobLogEntry>) {
        let _told = self.inner.telling.lock().await;
        let log = std::mem::take(&mut *self.log_lock());
        (*self.inner.progress.borrow(), log.into_wire())
    }

    /// Waits until there are lines to tell.
    pub(crate) async fn has_logged(&self) {
        self.inner.logged.notified().await;
    }

    /// Tells lines by `tell`, which gives back those that did not arrive.
    pub(crate) async fn tell_log(
        &self,
        tell: impl AsyncFnOnce(Vec<JobLogEntry>) -> Vec<JobLogEntry>,
    ) {
        let telling = self.inner.telling.lock().await;
        let entries = self.log_lock().take();
        // The reply waits for lines that are on their way, and for nothing else.
        let _telling = Some(telling).filter(|_| !entries.is_empty());
        let left = tell(entries).await;
        self.log_lock().put_back(left);
    }

    pub(crate) fn changes(&self) -> (watch::Receiver<Progress>, watch::Receiver<bool>) {
        (self.inner.progress.subscribe(), self.inner.over.subscribe())
    }

    fn log_lock(&self) -> MutexGuard<'_, Log> {
        self.inner.log.lock().expect("no holder of a job's log panics")
    }
}

/// Its id, handler and attempt.
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id())
            .field("handler", &self.handler())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}

/// A job that was done.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Done {
    pub(crate) result: Bytes,
    /// Why there is no result although there was to be one.
    pub(crate) mistake: Option<String>,
    pub(crate) cost: f64,
}

impl Done {
    /// Without a result.
    pub fn new() -> Done {
        Done::default()
    }

    /// What came of it, any bytes. A host keeps 1 MiB.
    pub fn result(mut self, result: impl Into<Bytes>) -> Done {
        self.result = result.into();
        self.mistake = None;
        self
    }

    /// What came of it, as JSON. A value that has no JSON, such as a map with keys that are no texts,
    /// makes the job fail for good.
    pub fn result_json<T: Serialize + ?Sized>(self, result: &T) -> Done {
        match serde_json::to_vec(result) {
            Ok(json) => self.result(json),
            Err(error) => Done { mistake: Some(format!("result: no JSON: {error}")), ..self },
        }
    }

    /// What it cost, in the unit of the host's budgets.
    pub fn cost(mut self, cost: f64) -> Done {
        self.cost = cost;
        self
    }
}
