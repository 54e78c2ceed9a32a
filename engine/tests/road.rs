//! The engine on a real file with a plugin in this process: from an append to the audit, and what an
//! engine that ended without a word leaves to the next.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axwatch_ats::{JobsQuery, SqliteStore, Store};
use axwatch_core::audit::{Row, Verifier};
use axwatch_core::{Declaration, Ended, Outcome, Registration, WatcherCommand};
use axwatch_engine::{
    AppendRefusal, Attempt, Engine, EngineConfig, EngineStopped, Fires, LocalPlugin, PluginReady,
    start,
};
use axwatch_model::{
    Declared, DefaultActor, Defaults, Draft, Incoming, JobId, JobRow, JobState, LeafNumber, Owner,
    SystemClock, WatcherKey, WatcherState,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

struct Running {
    engine: Engine,
    task: JoinHandle<Result<(), EngineStopped>>,
}

impl Running {
    async fn on(path: &Path) -> Running {
        let store = SqliteStore::open_writer(path).await.expect("the store opens");
        let clock = Arc::new(SystemClock::new());
        let (engine, task) =
            start(store, clock, EngineConfig::default()).await.expect("the engine starts");
        Running { engine, task }
    }

    /// Ends as at a kill: the writer is dropped where it stands.
    async fn kill(self) {
        let mut heads = self.engine.heads();
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
        // They end when the writer's thread has let go of the store.
        while heads.changed().await.is_ok() {}
    }

    async fn stop(self) {
        self.engine.stop().await;
        self.task.await.expect("the writer does not panic").expect("the store is well");
    }

    /// A plugin in this process that tells of each attempt and answers as it is told to.
    async fn plugin(
        &self,
        answer: impl Fn(&Attempt) -> Outcome + Send + Sync + 'static,
    ) -> mpsc::UnboundedReceiver<(JobId, u32)> {
        let (seen, attempts) = mpsc::unbounded_channel();
        let transport = LocalPlugin(move |attempt: &Attempt| {
            let _ = seen.send((attempt.start.id, attempt.start.attempt));
            Ended { quick: true, ..Ended::bare(answer(attempt)) }
        });
        let plugin = "demo".parse().unwrap();
        let ready = PluginReady {
            incarnation: self.engine.next_incarnation(&plugin),
            plugin,
            version: "1".into(),
            max_in_flight: 64,
            registration: Registration {
                handlers: vec!["act".parse().unwrap()],
                ..Registration::default()
            },
            transport: Arc::new(transport),
        };
        self.engine.plugin_up(ready).await.expect("the plugin registers");
        attempts
    }

    async fn watch(&self, local: &str, text: &str) {
        let declaration = Declaration {
            local: local.into(),
            declared: Declared::Ax(text.into()),
            handlers: vec!["act".into()],
            params: None,
            max_fires_per_second: 0,
            zero_is_never: false,
            max_chain: 0,
            since: None,
            max_attempts: 0,
            max_age: None,
        };
        self.engine.declare(declaration).await.expect("the watcher is good");
    }

    fn claims(&self, ids: std::ops::Range<u32>, predicate: &str) -> Vec<Incoming> {
        ids.map(|i| self.claim(&format!("C{i}"), "x", predicate)).collect()
    }

    fn claim(&self, id: &str, subject: &str, predicate: &str) -> Incoming {
        let draft = Draft {
            id: Some(id.to_owned()),
            subjects: vec![subject.to_owned()],
            predicates: vec![predicate.to_owned()],
            ..Draft::default()
        };
        let defaults = Defaults { actor: DefaultActor::Named("me".into()), source: "test".into() };
        self.engine.complete(draft, &defaults, "user").expect("the claim is good")
    }

    /// Waits until no job is open.
    async fn settled(&self) {
        let mut heads = self.engine.heads();
        while !open_jobs(&**self.engine.store()).await.is_empty() {
            heads.changed().await.expect("the engine runs");
        }
    }
}

async fn open_jobs(store: &dyn Store) -> Vec<JobRow> {
    store.open_jobs(Default::default(), 10_000).await.expect("jobs can be read")
}

async fn all_jobs(store: &dyn Store) -> Vec<JobRow> {
    store
        .jobs(&JobsQuery { limit: 100_000, ..JobsQuery::default() })
        .await
        .expect("jobs can be read")
}

async fn verify_audit(store: &dyn Store) -> Vec<serde_json::Value> {
    let mut verifier = Verifier::new();
    let mut records = Vec::new();
    for row in store.audit_after(LeafNumber(0), 1_000_000).await.expect("the audit can be read") {
        let fed = Row {
            first_leaf: row.first_leaf,
            count: row.count,
            records: &row.records,
            nodes: &row.nodes,
            head: &row.head,
        };
        let _ = verifier.feed(&fed);
        records.extend(row.records.lines().map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("records are JSON")
        }));
    }
    let report = verifier.finish();
    assert!(report.ok, "{report:?}");
    records
}

fn done() -> Outcome {
    Outcome::Succeeded { result: None }
}

fn store_in(folder: &tempfile::TempDir) -> std::path::PathBuf {
    folder.path().join("axwatch.db")
}

#[tokio::test]
async fn an_append_fires_a_plugin_and_the_audit_tells_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::on(&store_in(&folder)).await;
    let mut attempts = running.plugin(|_| done()).await;
    running.watch("w", "is deployed").await;

    let acks = running.engine.append(running.claims(0..10, "deployed")).await.unwrap();
    assert!(acks.iter().all(|ack| ack.as_ref().unwrap().fires == Fires::Now(1)));
    assert_eq!(
        acks.iter().map(|ack| ack.as_ref().unwrap().seq.0).collect::<Vec<_>>(),
        (1..=10).collect::<Vec<_>>()
    );
    for _ in 0..10 {
        assert_eq!(attempts.recv().await.unwrap().1, 1);
    }
    running.settled().await;
    let records = verify_audit(&**running.engine.store()).await;
    let ended = records.iter().filter(|record| record["outcome"] == "succeeded").count();
    assert_eq!(ended, 10);
    running.stop().await;
}

#[tokio::test]
async fn an_id_again_is_the_same_claim_or_a_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::on(&store_in(&folder)).await;
    let _attempts = running.plugin(|_| done()).await;
    running.watch("w", "is deployed").await;
    let first = running.engine.append(vec![running.claim("A", "x", "deployed")]).await.unwrap();
    let batch = vec![
        running.claim("A", "x", "deployed"),
        running.claim("A", "y", "deployed"),
        running.claim("B", "y", "deployed"),
    ];
    let acks = running.engine.append(batch).await.unwrap();
    let (repeat, conflict, new) =
        (acks[0].as_ref().unwrap(), acks[1].as_ref().unwrap_err(), acks[2].as_ref().unwrap());
    assert_eq!(
        (repeat.seq, repeat.repeated, repeat.fires),
        (first[0].as_ref().unwrap().seq, true, Fires::Now(0))
    );
    assert!(matches!(conflict, AppendRefusal::Conflict(_)), "{conflict}");
    assert_eq!((new.seq.0, new.fires), (2, Fires::Now(1)));
    running.settled().await;
    assert_eq!(all_jobs(&**running.engine.store()).await.len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn an_engine_that_ends_without_a_word_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = store_in(&folder);
    let completed: Arc<Mutex<BTreeMap<JobId, u32>>> = Arc::default();
    let mut acked = 0;
    for round in 0..5_u32 {
        let running = Running::on(&path).await;
        let gate = Arc::new(Semaphore::new(0));
        let (completed, told) = (completed.clone(), gate.clone());
        let _attempts = running
            .plugin(move |attempt| {
                *completed.lock().unwrap().entry(attempt.start.id).or_insert(0) += 1;
                told.add_permits(1);
                done()
            })
            .await;
        running.watch("w", "is deployed").await;
        let acks = running
            .engine
            .append(running.claims(round * 200..round * 200 + 200, "deployed"))
            .await
            .unwrap();
        acked += acks.iter().filter(|ack| ack.is_ok()).count();
        // Some of the fires have run, some not; which is a matter of chance, and must not matter.
        let _ = gate.acquire_many(round * 20).await.unwrap();
        running.kill().await;
    }
    let running = Running::on(&path).await;
    let _attempts = running.plugin(|_| done()).await;
    running.settled().await;
    let jobs = all_jobs(&**running.engine.store()).await;
    assert_eq!((acked, jobs.len()), (1_000, 1_000));
    assert!(jobs.iter().all(|job| job.state == JobState::Completed));
    let ids: std::collections::BTreeSet<_> = jobs.iter().map(|job| job.id).collect();
    assert_eq!(ids.len(), 1_000);
    assert!(
        completed.lock().unwrap().keys().all(|id| ids.contains(id)),
        "no fire is unknown to the store"
    );
    let records = verify_audit(&**running.engine.store()).await;
    let watcher = running.engine.watchers(false).await.unwrap().remove(0);
    assert_eq!(
        (watcher.counters.matches, watcher.counters.fires),
        (1_000, 1_000),
        "counted again from the audit"
    );
    assert_eq!(records.iter().filter(|record| record["type"] == "matched").count(), 1_000);
    running.stop().await;
}

#[tokio::test]
async fn claims_appended_without_an_engine_are_matched_when_one_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = store_in(&folder);
    let running = Running::on(&path).await;
    running.watch("w", "is deployed").await;
    let incoming = running.claims(0..1_500, "deployed");
    running.stop().await;

    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    let now = incoming[0].attestation.created_at;
    axwatch_ats::append(&mut *writer, incoming, now).await.unwrap();
    writer.close().await.unwrap();

    let running = Running::on(&path).await;
    let during = running.engine.append(vec![running.claim("new", "x", "deployed")]).await.unwrap();
    assert!(during[0].is_ok(), "claims are taken at once");
    let _attempts = running.plugin(|_| done()).await;
    let mut heads = running.engine.heads();
    heads.wait_for(|heads| heads.matched == heads.seq).await.unwrap();
    running.settled().await;
    assert_eq!(all_jobs(&**running.engine.store()).await.len(), 1_501);
    assert_eq!(running.engine.watchers(false).await.unwrap()[0].row.state, WatcherState::Live);
    running.stop().await;
}

#[tokio::test]
async fn a_paused_watcher_keeps_its_fires_and_lets_them_go_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::on(&store_in(&folder)).await;
    let mut attempts = running.plugin(|_| done()).await;
    running.watch("w", "is deployed").await;
    let key = WatcherKey { owner: Owner::User, local: "w".parse().unwrap() };
    running.engine.command(key.clone(), WatcherCommand::Pause { skip: false }).await.unwrap();
    running.engine.append(running.claims(0..500, "deployed")).await.unwrap();
    running.engine.command(key, WatcherCommand::Resume { drop: false }).await.unwrap();
    running.settled().await;
    let order: Vec<_> =
        all_jobs(&**running.engine.store()).await.iter().rev().map(|job| job.id).collect();
    let mut started = Vec::new();
    while let Ok((id, _)) = attempts.try_recv() {
        started.push(id);
    }
    assert_eq!(started.len(), 500, "those that waited in the table only too");
    let place: BTreeMap<_, _> = order.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let furthest = started.iter().enumerate().map(|(i, id)| place[id].abs_diff(i)).max().unwrap();
    assert!(furthest < 64, "tasks of one commit may overtake each other, lanes do not: {furthest}");
    running.stop().await;
}

#[tokio::test]
async fn draining_waits_for_what_runs() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::on(&store_in(&folder)).await;
    let mut attempts = running.plugin(|_| done()).await;
    running.watch("w", "is deployed").await;
    running.engine.append(running.claims(0..3, "deployed")).await.unwrap();
    attempts.recv().await.unwrap();
    assert!(running.engine.drain(Duration::from_secs(10)).await.unwrap());
    running.engine.append(running.claims(3..6, "deployed")).await.unwrap();
    assert!(running.engine.in_flight().is_empty());
    running.stop().await;
}
