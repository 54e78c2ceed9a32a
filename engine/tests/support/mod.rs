//! What tests of the engine share: one on a real file, with a clock and bounds of the test's, and a plugin
//! in this process.

#![allow(dead_code, reason = "each file of tests takes what it needs")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axwatch_ats::{
    Batch, JobsQuery, Known, Quarantined, Removal, Retention, Room, SqliteStore, Store, StoreError,
    StoreFuture, StoreWriter,
};
use axwatch_core::audit::{Row, Verifier};
use axwatch_core::{Declaration, Ended, Outcome, Registration};
use axwatch_engine::{
    Attempt, Engine, EngineConfig, EngineStopped, LocalPlugin, Plugin, PluginReady, start,
};
use axwatch_model::{
    AttestationId, Attributes, Clock, Declared, DefaultActor, Defaults, Draft, Incoming, JobRow,
    LeafNumber, Owner, Timestamp, WatcherKey,
};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How long anything that has to happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The plugin of these tests.
pub const PLUGIN: &str = "demo";
/// Its handler.
pub const HANDLER: &str = "act";

/// A running engine.
pub struct Running {
    /// It.
    pub engine: Engine,
    task: JoinHandle<Result<(), EngineStopped>>,
}

impl Running {
    /// Starts one.
    pub async fn on(path: &Path, clock: Arc<dyn Clock>, config: EngineConfig) -> Running {
        let store = SqliteStore::open_writer(path).await.expect("the store opens");
        let (engine, task) = start(store, clock, config).await.expect("the engine starts");
        Running { engine, task }
    }

    /// One that was started otherwise.
    pub fn of(engine: Engine, task: JoinHandle<Result<(), EngineStopped>>) -> Running {
        Running { engine, task }
    }

    /// Stops it in order.
    pub async fn stop(self) {
        self.engine.stop().await;
        self.task.await.expect("the writer does not panic").expect("the store is well");
    }

    /// Ends as at a kill: the writer is dropped where it stands.
    pub async fn kill(self) {
        let mut heads = self.engine.heads();
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        // They end when the writer's thread has let go of the store.
        while heads.changed().await.is_ok() {}
    }

    /// A plugin in this process that answers as it is told to, with so many attempts at once.
    pub async fn plugin(
        &self,
        max_in_flight: u32,
        answer: impl Fn(&Attempt) -> Outcome + Send + Sync + 'static,
    ) {
        let answered =
            move |attempt: &Attempt| Ended { quick: true, ..Ended::bare(answer(attempt)) };
        self.transport(max_in_flight, Arc::new(LocalPlugin(answered))).await;
    }

    /// A plugin that carries attempts out in some way.
    pub async fn transport(&self, max_in_flight: u32, transport: Arc<dyn Plugin>) {
        let handlers = vec![HANDLER.parse().unwrap()];
        let registration = Registration { handlers, ..Registration::default() };
        self.announcing(max_in_flight, registration, transport).await;
    }

    /// One that announces this.
    pub async fn announcing(
        &self,
        max_in_flight: u32,
        registration: Registration,
        transport: Arc<dyn Plugin>,
    ) {
        let plugin = PLUGIN.parse().unwrap();
        let ready = PluginReady {
            incarnation: self.engine.next_incarnation(&plugin),
            plugin,
            version: "1".into(),
            max_in_flight,
            registration,
            transport,
        };
        self.engine.plugin_up(ready).await.expect("the plugin registers");
    }

    /// Declares a watcher for one predicate, with a limit; 0 is none.
    pub async fn watch(&self, predicate: &str, per_second: i64) {
        let declaration = Declaration {
            local: predicate.into(),
            declared: Declared::Ax(format!("is {predicate}")),
            handlers: vec![HANDLER.into()],
            params: None,
            max_fires_per_second: per_second,
            zero_is_never: false,
            max_chain: 0,
            since: None,
            max_attempts: 0,
            max_age: None,
        };
        self.engine.declare(declaration).await.expect("the watcher is good");
    }

    /// Claims with this predicate.
    pub fn claims(&self, ids: std::ops::Range<u32>, predicate: &str) -> Vec<Incoming> {
        self.padded_claims(ids, predicate, 0)
    }

    /// Claims with this predicate, each so many bytes larger.
    pub fn padded_claims(
        &self,
        ids: std::ops::Range<u32>,
        predicate: &str,
        padding: usize,
    ) -> Vec<Incoming> {
        ids.map(|n| self.claim(&format!("{predicate}-{n}"), predicate, padding)).collect()
    }

    fn claim(&self, id: &str, predicate: &str, padding: usize) -> Incoming {
        let attributes = serde_json::json!({ "padding": "x".repeat(padding) }).to_string();
        let attributes = Attributes::parse(&attributes).expect("it is an object");
        let draft = Draft {
            id: Some(id.to_owned()),
            subjects: vec!["x".to_owned()],
            predicates: vec![predicate.to_owned()],
            attributes,
            ..Draft::default()
        };
        let defaults = Defaults { actor: DefaultActor::Named("me".into()), source: "test".into() };
        self.engine.complete(draft, &defaults, "user").expect("the claim is good")
    }

    /// Appends claims, all of which must be taken.
    pub async fn append(&self, ids: std::ops::Range<u32>, predicate: &str) {
        let acks = self.engine.append(self.claims(ids, predicate)).await.expect("the engine runs");
        assert!(acks.iter().all(Result::is_ok), "{acks:?}");
    }

    /// Looks after every commit, and now and then, until there is an answer.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut(&Engine) -> Option<T>) -> T {
        let mut heads = self.engine.heads();
        let looking = async {
            loop {
                if let Some(found) = look(&self.engine).await {
                    return found;
                }
                let changed = heads.changed();
                let _ = tokio::time::timeout(Duration::from_millis(20), changed).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
    }

    /// Waits until every claim is matched and no job is open.
    pub async fn settled(&self) {
        self.until("nothing is open", async |engine: &Engine| {
            let heads = *engine.heads().borrow();
            let overview = engine.overview().await.expect("the engine runs");
            let open =
                engine.store().open_jobs(Default::default(), 1).await.expect("jobs are read");
            let behind = heads.matched < heads.seq || overview.furthest_behind.is_some();
            (!behind && open.is_empty()).then_some(())
        })
        .await;
    }

    /// All jobs.
    pub async fn jobs(&self) -> Vec<JobRow> {
        let query = JobsQuery { limit: 1_000_000, ..JobsQuery::default() };
        self.engine.store().jobs(&query).await.expect("jobs can be read")
    }

    /// The records of the audit, which must be well.
    pub async fn audit(&self) -> Vec<Value> {
        let mut verifier = Verifier::new();
        let mut records = Vec::new();
        let rows = self.engine.store().audit_after(LeafNumber(0), 1_000_000).await;
        for row in rows.expect("the audit can be read") {
            let fed = Row {
                first_leaf: row.first_leaf,
                count: row.count,
                records: &row.records,
                nodes: &row.nodes,
                head: &row.head,
            };
            let _ = verifier.feed(&fed);
            let parse = |line| serde_json::from_str::<Value>(line).expect("records are JSON");
            records.extend(row.records.lines().map(parse));
        }
        let report = verifier.finish();
        assert!(report.ok, "{report:?}");
        records
    }
}

/// A store that commits only while its gate is open.
pub struct StandingStill {
    /// What it is before.
    pub store: Box<dyn StoreWriter>,
    /// Without a permit it commits nothing.
    pub gate: Arc<Semaphore>,
    /// Without a permit it does not say that it has committed something.
    pub answers: Arc<Semaphore>,
    /// What it says at the start that it has put aside.
    pub aside: Vec<Quarantined>,
}

impl StandingStill {
    /// One that says what it does.
    pub fn new(store: Box<dyn StoreWriter>, gate: Arc<Semaphore>) -> StandingStill {
        StandingStill { store, gate, answers: Arc::new(Semaphore::new(1)), aside: Vec::new() }
    }
}

impl StoreWriter for StandingStill {
    fn reader(&self) -> Arc<dyn Store> {
        self.store.reader()
    }

    fn known<'a>(&'a mut self, ids: &'a [AttestationId]) -> StoreFuture<'a, Vec<Option<Known>>> {
        self.store.known(ids)
    }

    fn commit<'a>(&'a mut self, batch: &'a Batch) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            drop(self.gate.acquire().await.expect("the gate is never closed for good"));
            self.store.commit(batch).await?;
            drop(self.answers.acquire().await.expect("the gate is never closed for good"));
            Ok(())
        })
    }

    fn tidy(&mut self) -> StoreFuture<'_, bool> {
        self.store.tidy()
    }

    fn removable<'a>(&'a mut self, retention: &'a Retention) -> StoreFuture<'a, Removal> {
        self.store.removable(retention)
    }

    fn quarantined(&mut self, now: Timestamp) -> StoreFuture<'_, Vec<Quarantined>> {
        let aside = std::mem::take(&mut self.aside);
        let found = self.store.quarantined(now);
        Box::pin(async move { Ok(found.await?.into_iter().chain(aside).collect()) })
    }

    fn room(&self) -> std::io::Result<Room> {
        self.store.room()
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        self.store.close()
    }
}

/// The key of a watcher that [`Running::watch`] declared.
pub fn key(predicate: &str) -> WatcherKey {
    WatcherKey { owner: Owner::User, local: predicate.parse().unwrap() }
}

/// An end that went well.
pub fn done() -> Outcome {
    Outcome::Succeeded { result: None }
}

/// An end that may go better next time.
pub fn failed(error: &str) -> Outcome {
    Outcome::Retryable { error: error.into(), missed_deadline: false }
}

/// The most stamps in any half-open second of a watcher's attempts, by the audit.
pub fn most_in_a_second(records: &[Value], watcher: &str) -> usize {
    let of = records
        .iter()
        .filter(|record| record["type"] == "attempt_ended" && record["watcher"] == watcher);
    let mut stamps: Vec<u64> = of.filter_map(|record| record["stamp_us"].as_u64()).collect();
    stamps.sort_unstable();
    let within = |from: usize| {
        stamps[from..].iter().take_while(|stamp| **stamp < stamps[from] + 1_000_000).count()
    };
    (0..stamps.len()).map(within).max().unwrap_or(0)
}
