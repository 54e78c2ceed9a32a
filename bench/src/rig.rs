//! The engine with the plugin of the benchmarks under it: the real store, host and transport, in this
//! process, and the plugin in a process of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use axwatch_ats::{Batch, SqliteStore, plan};
use axwatch_engine::plugin::{HostSettings, LauncherCommand, PluginHost, PluginSettings, Status};
use axwatch_engine::{
    Acked, AppendRefusal, Engine, EngineConfig, EngineGone, EngineStopped, Heads,
};
use axwatch_model::{Clock as _, Incoming, SystemClock};
use axwatch_proto::protocol::domain_plugin_service_client::DomainPluginServiceClient;
use axwatch_proto::protocol::{ExecuteJobRequest, HttpRequest};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use crate::plugin;

/// Attempts that the plugin may have in flight.
pub const IN_FLIGHT: u32 = 256;
/// Claims of one append.
const CLAIMS_PER_APPEND: usize = 32;
/// Appends that wait for their answer.
const APPENDS_MAX: usize = 8;
/// Claims that were sent and whose fire has not ended, the half of those in flight not counted: so
/// much that the plugin's slots are always full, and no more than waits in memory.
const OPEN_MAX: u64 = 448;
/// Records of the audit for each fire: matched, started, ended.
const RECORDS_PER_FIRE: u64 = 3;
/// How long the plugin may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long nothing may happen before a run is given up.
const STALL: Duration = Duration::from_secs(30);

/// A client of the plugin's process, beside the engine's own.
pub type Client = DomainPluginServiceClient<Channel>;

type Append = BoxFuture<'static, Result<Vec<Result<Acked, AppendRefusal>>, EngineGone>>;

/// A running engine on a store, with its plugin up.
pub struct Rig {
    /// The engine.
    pub engine: Engine,
    /// The plugin's process, called without the engine.
    pub client: Client,
    task: JoinHandle<Result<(), EngineStopped>>,
    host: PluginHost,
}

impl Rig {
    /// Starts the engine on a store, made when there is none, and waits until the plugin is ready.
    ///
    /// # Errors
    /// When the store, the engine or the plugin does not start.
    pub async fn start(store: &Path) -> Result<Rig> {
        Rig::start_beside(store, Vec::new()).await
    }

    /// The same with other plugins beside ours, which need not come up.
    ///
    /// # Errors
    /// When the store, the engine or our plugin does not start.
    pub async fn start_beside(store: &Path, others: Vec<PluginSettings>) -> Result<Rig> {
        let writer = SqliteStore::open_writer(store).await?;
        let clock = Arc::new(SystemClock::new());
        let (engine, task) = axwatch_engine::start(writer, clock, EngineConfig::default()).await?;
        Rig::over(engine, task, store, others).await
    }

    /// The same over an engine that runs already.
    ///
    /// # Errors
    /// When our plugin does not start.
    pub async fn over(
        engine: Engine,
        task: JoinHandle<Result<(), EngineStopped>>,
        store: &Path,
        others: Vec<PluginSettings>,
    ) -> Result<Rig> {
        let mut port_file = store.as_os_str().to_owned();
        port_file.push(".port");
        let port_file = PathBuf::from(port_file);
        let program = std::env::current_exe().context("cannot tell which program this is")?;
        let launcher = LauncherCommand {
            program: program.clone(),
            args: vec!["launcher".into(), "--".into()],
        };
        let mut plugins = vec![settings(program, &port_file)?];
        plugins.extend(others);
        let settings = HostSettings { plugins, ..HostSettings::default() };
        let host = PluginHost::start(engine.clone(), settings, launcher).await?;
        wait_until_ready(&host).await?;
        let client = connect(&port_file).await?;
        Ok(Rig { engine, client, task, host })
    }

    /// Appends claims so that the plugin always has as much as it may have in flight, and little
    /// waits; answers how long it took until the last fire was settled and on the disk.
    ///
    /// # Errors
    /// When a claim is refused, an attempt fails, or nothing happens any more.
    pub async fn fire(&self, claims: Vec<Incoming>) -> Result<Duration> {
        self.feed(claims, Some(OPEN_MAX)).await
    }

    /// The same as fast as appends are answered, however much then waits in the table.
    ///
    /// # Errors
    /// As [`Rig::fire`].
    pub async fn flood(&self, claims: Vec<Incoming>) -> Result<Duration> {
        self.feed(claims, None).await
    }

    /// Appends claims at a steady rate, whether or not earlier ones are answered; says when each was due.
    /// What this lags behind counts as the engine's.
    ///
    /// # Errors
    /// When a claim is refused or the engine has ended.
    pub async fn append_at(
        &self,
        claims: Vec<Incoming>,
        rate: f64,
    ) -> Result<HashMap<String, Instant>> {
        let began = Instant::now();
        let due_at = |index: usize| began + Duration::from_secs_f64(index as f64 / rate);
        let mut due = HashMap::with_capacity(claims.len());
        let mut appends = Vec::new();
        let mut claims = claims.into_iter().enumerate().peekable();
        while claims.peek().is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let now = Instant::now();
            let mut batch = Vec::new();
            while let Some((index, claim)) = claims.next_if(|(index, _)| due_at(*index) <= now) {
                due.insert(claim.attestation.id.as_str().to_owned(), due_at(index));
                batch.push(claim);
            }
            let engine = self.engine.clone();
            appends.push(tokio::spawn(async move { engine.append(batch).await }));
        }
        for append in appends {
            check(append.await??)?;
        }
        Ok(due)
    }

    async fn feed(&self, claims: Vec<Incoming>, open_max: Option<u64>) -> Result<Duration> {
        let total = claims.len() as u64;
        let mut chunks = chunks_of(claims).into_iter().peekable();
        let mut appends: FuturesUnordered<Append> = FuturesUnordered::new();
        let mut heads = self.engine.heads();
        let before = *heads.borrow_and_update();
        let (began, mut sent) = (Instant::now(), 0);
        while chunks.peek().is_some() || !appends.is_empty() {
            let has_room =
                open_max.is_none_or(|max| sent < half_ended(before, *heads.borrow()) + max);
            if has_room
                && appends.len() < APPENDS_MAX
                && let Some(chunk) = chunks.next()
            {
                sent += chunk.len() as u64;
                let engine = self.engine.clone();
                appends.push(Box::pin(async move { engine.append(chunk).await }));
                continue;
            }
            let next = async {
                tokio::select! {
                    Some(acks) = appends.next() => check(acks?),
                    changed = heads.changed() => changed.context("the engine has ended"),
                }
            };
            match tokio::time::timeout(STALL, next).await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(self.stalled(before, sent).await),
            }
        }
        let settled = before.audit.0 + total * RECORDS_PER_FIRE;
        let wait = heads.wait_for(|heads| heads.audit.0 >= settled);
        if tokio::time::timeout(STALL, wait).await.is_err() {
            return Err(self.stalled(before, sent).await);
        }
        let took = began.elapsed();
        self.check_settled().await?;
        Ok(took)
    }

    /// Nothing happens any more, though not all fires have ended: what the engine says of itself.
    async fn stalled(&self, before: Heads, sent: u64) -> anyhow::Error {
        let now = *self.engine.heads().borrow();
        let open = self.engine.store().open_jobs(Default::default(), 1_000).await;
        let open = open.map_or(0, |jobs| jobs.len());
        let running = self.engine.in_flight().of_plugin(&plugin::NAME.parse().expect("a name"), 1);
        anyhow::anyhow!(
            "nothing has happened for {STALL:?}: {sent} claims sent, {before:?} at the start and \
             {now:?} now, {open} jobs open (1,000 at most are counted), {} attempts under way",
            running.len()
        )
    }

    /// No fire is open, and none has failed: otherwise the records were not those that were counted.
    async fn check_settled(&self) -> Result<()> {
        let open = self.engine.store().open_jobs(Default::default(), 1).await?;
        ensure!(open.is_empty(), "job {} is open still", open[0].id);
        let watchers = self.engine.watchers(false).await?;
        let errors: u64 = watchers.iter().map(|watcher| watcher.counters.errors).sum();
        ensure!(errors == 0, "{errors} attempts have failed");
        Ok(())
    }

    /// Asks the plugin over HTTP's own call; see [`plugin::RECORD`] and [`plugin::ARRIVALS`].
    ///
    /// # Errors
    /// When the plugin does not answer.
    pub async fn ask(&self, path: &str) -> Result<Bytes> {
        let request =
            HttpRequest { method: "GET".into(), path: path.into(), ..HttpRequest::default() };
        Ok(self.client.clone().handle_http(request).await?.into_inner().body)
    }

    /// Waits until another plugin has come up, or for as long as this.
    pub async fn until_begun(&self, name: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        let is_up = || self.host.show(name).is_ok_and(|view| view.state == Status::Ready);
        while !is_up() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops the plugin, then the engine, which leaves a store with nothing left for later.
    ///
    /// # Errors
    /// When the store failed.
    pub async fn stop(self) -> Result<()> {
        self.host.shutdown().await;
        self.engine.stop().await;
        drop(self.engine);
        self.task.await??;
        Ok(())
    }
}

/// Fills a store with claims that nobody watches for.
///
/// # Errors
/// When the store fails.
pub async fn fill(
    store: &Path,
    mut claims: impl FnMut(usize) -> Vec<Incoming>,
    count: usize,
) -> Result<()> {
    const CLAIMS_PER_COMMIT: usize = 1_000;
    let mut writer = SqliteStore::open_writer(store).await?;
    let mut head = writer.reader().head().await?;
    for first in (0..count).step_by(CLAIMS_PER_COMMIT) {
        let claims = claims(CLAIMS_PER_COMMIT.min(count - first));
        let known = vec![None; claims.len()];
        let rows = plan(head, claims, known, SystemClock::new().now().wall).rows;
        head = rows.last().map_or(head, |row| row.seq);
        // Matched already, so that an engine does not begin with catching up.
        let batch = Batch { attestations: rows, matched_seq: Some(head), ..Batch::default() };
        writer.commit(&batch).await?;
    }
    writer.close().await?;
    Ok(())
}

/// What the engine sends for a fire of such a claim.
#[must_use]
pub fn request_of(claim: &Incoming) -> ExecuteJobRequest {
    ExecuteJobRequest {
        job_id: "3ea27c14d1c994b3bc463569ba5fdcae".to_owned(),
        handler_name: plugin::HANDLER.to_owned(),
        payload: claim.attestation.payload().into(),
        timeout_secs: Some(300),
        attempt: 1,
        watcher: format!("{}-measured-0", plugin::NAME),
        revision: 1,
        ..ExecuteJobRequest::default()
    }
}

/// Fires that have ended, and half of those in flight: what the records so far tell.
fn half_ended(before: Heads, now: Heads) -> u64 {
    let matched = now.job.0 - before.job.0;
    (now.audit.0 - before.audit.0).saturating_sub(matched) / 2
}

fn chunks_of(claims: Vec<Incoming>) -> Vec<Vec<Incoming>> {
    let mut claims = claims.into_iter();
    let mut chunks = Vec::new();
    loop {
        let chunk: Vec<_> = claims.by_ref().take(CLAIMS_PER_APPEND).collect();
        if chunk.is_empty() {
            return chunks;
        }
        chunks.push(chunk);
    }
}

fn check(acks: Vec<Result<Acked, AppendRefusal>>) -> Result<()> {
    acks.into_iter().try_for_each(|ack| ack.map(drop)).context("a claim was refused")
}

fn settings(program: PathBuf, port_file: &Path) -> Result<PluginSettings> {
    let mut settings = PluginSettings::new(plugin::NAME.parse()?);
    settings.binary = Some(program);
    settings.max_in_flight = IN_FLIGHT;
    let port_file = port_file.to_str().context("the path of the store is no text")?;
    settings.args =
        ["plugin", "--port", "{port}", "--port-file", port_file].map(str::to_owned).to_vec();
    Ok(settings)
}

async fn wait_until_ready(host: &PluginHost) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let view = host.show(plugin::NAME)?;
        match view.state {
            Status::Ready => return Ok(()),
            Status::Failed => bail!("the plugin has failed: {}", view.error.unwrap_or_default()),
            _ if Instant::now() > deadline => bail!("the plugin is not ready: {view:?}"),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn connect(port_file: &Path) -> Result<Client> {
    let port = tokio::fs::read_to_string(port_file).await.context("the plugin told no port")?;
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
    Ok(DomainPluginServiceClient::new(endpoint.connect().await?))
}
