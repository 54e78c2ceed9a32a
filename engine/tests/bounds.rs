//! Bounds of the engine, driven past: what is refused is told, what is taken is fired once, and the two
//! together are all that was sent.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{HANDLER, PLUGIN, Running, StandingStill, done, failed};
use axwatch_ats::{MemoryStore, Quarantined, SqliteStore};
use axwatch_core::{Bounds, Declaration, Ended, RefusalKind, Registration};
use axwatch_engine::{
    AppendRefusal, Attempt, Engine, EngineConfig, Fires, Plugin, PluginReady, RequestError, start,
};
use axwatch_model::{
    Attributes, Declared, DefaultActor, Defaults, Draft, HandlerName, JobState, PluginName, Seq,
    StoreId, SystemClock, WatcherState,
};
use futures::future::BoxFuture;
use tokio::sync::Semaphore;

fn store_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("axwatch.db")
}

async fn bounded(folder: &tempfile::TempDir, bounds: Bounds) -> Running {
    let config = EngineConfig { bounds, ..EngineConfig::default() };
    Running::on(&store_in(folder), Arc::new(SystemClock::new()), config).await
}

/// A plugin that answers once the gate is open, and counts what it has at once.
struct Gated {
    gate: Semaphore,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl Gated {
    fn closed() -> Arc<Gated> {
        Arc::new(Gated {
            gate: Semaphore::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    fn open(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    }
}

impl Plugin for Gated {
    fn run<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Ended> {
        Box::pin(async {
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(running, Ordering::SeqCst);
            drop(self.gate.acquire().await.expect("the gate is never closed for good"));
            self.running.fetch_sub(1, Ordering::SeqCst);
            Ended { quick: true, ..Ended::bare(done()) }
        })
    }
}

/// Every claim has one job, and every job is done.
async fn check_fired_once(running: &Running, claims: usize) {
    let jobs = running.jobs().await;
    let matches: BTreeSet<_> = jobs.iter().map(|job| (job.watcher, job.seq)).collect();
    assert_eq!((jobs.len(), matches.len()), (claims, claims), "one job a match");
    assert!(jobs.iter().all(|job| job.state == JobState::Completed));
    running.audit().await;
}

#[tokio::test]
async fn a_watcher_at_its_bound_falls_behind_alone_and_comes_back() {
    const BOUND: u64 = 100;
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { watcher_open_jobs_max: BOUND, ..Bounds::default() };
    let running = bounded(&folder, bounds).await;
    let plugin = Gated::closed();
    running.transport(16, plugin.clone()).await;
    running.watch("busy", 0).await;
    running.watch("calm", 0).await;
    for round in 0..10 {
        running.append(round * 60..round * 60 + 60, "busy").await;
        running.append(round..round + 1, "calm").await;
    }
    let busy = running
        .until("it has a place of its own", async |engine: &Engine| {
            let view = engine.watcher("busy").await.unwrap().unwrap();
            view.position.is_some_and(|place| place.backpressured).then_some(view)
        })
        .await;
    assert_eq!(busy.row.state, WatcherState::CatchingUp);
    // What one claim causes is done whole, so the bound may be passed by that.
    assert!((BOUND..BOUND + 2).contains(&busy.open_jobs), "{} open jobs", busy.open_jobs);
    let calm = running.engine.watcher("calm").await.unwrap().unwrap();
    assert_eq!((calm.row.state, calm.open_jobs), (WatcherState::Live, 10), "the other goes on");
    assert_eq!(running.engine.overview().await.unwrap().backpressured, 1);

    plugin.open();
    running.settled().await;
    let busy = running.engine.watcher("busy").await.unwrap().unwrap();
    assert_eq!((busy.row.state, busy.position), (WatcherState::Live, None), "it is back");
    check_fired_once(&running, 610).await;
    running.stop().await;
}

#[tokio::test]
async fn at_the_bound_of_all_open_jobs_claims_are_kept_and_jobs_refused() {
    const BOUND: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let running = bounded(&folder, Bounds { open_jobs_max: BOUND, ..Bounds::default() }).await;
    let plugin = Gated::closed();
    running.transport(16, plugin.clone()).await;
    running.watch("seen", 0).await;
    for round in 0..10 {
        running.append(round * 100..round * 100 + 100, "seen").await;
    }
    let heads = *running.engine.heads().borrow();
    assert_eq!(heads.seq.0, 1_000, "every claim is taken");
    assert!(heads.matched < heads.seq, "matching waits: {heads:?}");
    let open = running.engine.store().open_jobs(Default::default(), 10_000).await.unwrap().len();
    assert!((200..=201).contains(&open), "{open} open jobs");
    let refusal = running.engine.enqueue(HANDLER.into(), Arc::default()).await.unwrap_err();
    let RequestError::Refused(refusal) = refusal else { panic!("{refusal:?}") };
    assert_eq!(refusal.kind, RefusalKind::Exhausted);
    assert!(refusal.reason.contains("try again"), "{}", refusal.reason);

    plugin.open();
    running.settled().await;
    check_fired_once(&running, 1_000).await;
    running.engine.enqueue(HANDLER.into(), Arc::default()).await.expect("there is room again");
    running.settled().await;
    running.stop().await;
}

#[tokio::test]
async fn a_plugin_has_so_many_jobs_at_once_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let running = bounded(&folder, Bounds::default()).await;
    let plugin = Gated::closed();
    running.transport(8, plugin.clone()).await;
    running.watch("seen", 0).await;
    running.append(0..100, "seen").await;
    running
        .until("a new process has what it starts with", async |_: &Engine| {
            (plugin.running.load(Ordering::SeqCst) == 4).then_some(())
        })
        .await;
    assert_eq!(plugin.most.load(Ordering::SeqCst), 4, "and no more");
    plugin.open();
    running.settled().await;
    let most = plugin.most.load(Ordering::SeqCst);
    assert!((4..=8).contains(&most), "{most} at once, of 8");
    check_fired_once(&running, 100).await;
    running.stop().await;
}

/// A plugin that fails the first attempts of one watcher at once, and answers everything else one by one,
/// as it is let.
struct FailsFirst {
    gate: Semaphore,
    retrying: AtomicUsize,
    most_retrying: AtomicUsize,
}

impl Plugin for FailsFirst {
    fn run<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Ended> {
        Box::pin(async {
            let is_retry = attempt.start.attempt > 1;
            let ended = |outcome| Ended { quick: true, ..Ended::bare(outcome) };
            if &*attempt.start.watcher == "user-flaky" && !is_retry {
                return ended(failed("not yet"));
            }
            if is_retry {
                let retrying = self.retrying.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_retrying.fetch_max(retrying, Ordering::SeqCst);
            }
            self.gate.acquire().await.expect("the gate is never closed for good").forget();
            if is_retry {
                self.retrying.fetch_sub(1, Ordering::SeqCst);
            }
            ended(done())
        })
    }
}

#[tokio::test]
async fn retries_have_a_fifth_of_the_slots_while_others_wait() {
    const SLOTS: u32 = 16;
    let folder = tempfile::tempdir().unwrap();
    let running = bounded(&folder, Bounds::default()).await;
    let plugin = Arc::new(FailsFirst {
        gate: Semaphore::new(0),
        retrying: AtomicUsize::new(0),
        most_retrying: AtomicUsize::new(0),
    });
    running.transport(SLOTS, plugin.clone()).await;
    running.watch("flaky", 0).await;
    running.watch("fresh", 0).await;
    // Fewer than the breaker takes for an outage.
    running.append(0..8, "flaky").await;
    running
        .until("all of them have failed", async |engine: &Engine| {
            let jobs = engine.store().open_jobs(Default::default(), 100).await.unwrap();
            jobs.iter().all(|job| job.due_at.is_some()).then_some(())
        })
        .await;
    running.append(0..60, "fresh").await;
    running
        .until("all of them are due", async |engine: &Engine| {
            let now = engine.clock().now().wall;
            let jobs = engine.store().open_jobs(Default::default(), 1_000).await.unwrap();
            jobs.iter().filter_map(|job| job.due_at).all(|due| due < now).then_some(())
        })
        .await;
    // One slot after another becomes free, and always more than that wait for it.
    for _ in 0..30 {
        plugin.gate.add_permits(1);
        tokio::task::yield_now().await;
    }
    running
        .until("thirty have ended", async |_: &Engine| {
            (plugin.gate.available_permits() == 0).then_some(())
        })
        .await;
    let most = plugin.most_retrying.load(Ordering::SeqCst);
    assert!((1..=3).contains(&most), "{most} retries at once, of {SLOTS} slots");
    plugin.gate.add_permits(Semaphore::MAX_PERMITS / 2);
    running.settled().await;
    check_fired_once(&running, 68).await;
    running.stop().await;
}

/// Code takes effect at the start and when it is appended, also while no job ends, so that nothing is matched.
#[tokio::test]
async fn code_that_was_stored_without_an_engine_does_not_wait_for_matching() {
    const BOUND: u64 = 10;
    let python: PluginName = "python".parse().unwrap();
    let hello: HandlerName = "hello".parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { open_jobs_max: BOUND, ..Bounds::default() };
    let running = bounded(&folder, bounds.clone()).await;
    running.watch("seen", 0).await;
    let ready = PluginReady {
        plugin: python.clone(),
        incarnation: 1,
        version: "1".into(),
        max_in_flight: 1,
        registration: Registration { stored_handlers: true, ..Registration::default() },
        transport: Gated::closed(),
    };
    running.engine.plugin_up(ready).await.unwrap();
    running.engine.plugin_down(python.clone(), 1, "stopped".into(), false).await.unwrap();
    for n in 0..20 {
        running.append(n..n + 1, "seen").await;
    }
    let code = |engine: &Engine, by: &str| {
        let draft = Draft {
            subjects: vec!["hello".into()],
            predicates: vec!["handler".into()],
            contexts: vec![python.to_string()],
            attributes: Attributes::parse(r#"{"code":"pass"}"#).unwrap(),
            ..Draft::default()
        };
        let defaults = Defaults { actor: DefaultActor::OwnId, source: "test".into() };
        engine.complete(draft, &defaults, by).unwrap()
    };
    // More than are read at once, and not all of them by people.
    let by = ["user", "git"].into_iter().cycle().take(300);
    let appended: Vec<_> = by.map(|by| code(&running.engine, by)).collect();
    running.stop().await;
    let mut writer = SqliteStore::open_writer(&store_in(&folder)).await.unwrap();
    let now = appended[0].attestation.created_at;
    axwatch_ats::append(&mut *writer, appended, now).await.unwrap();
    writer.close().await.unwrap();

    for life in 0..2 {
        let running = bounded(&folder, bounds.clone()).await;
        let stored = async || {
            running.engine.stored_handler(python.clone(), hello.clone()).await.unwrap().unwrap()
        };
        assert_eq!(stored().await.version_number, 150 + life);
        let newer = code(&running.engine, "user");
        let id = newer.attestation.id.clone();
        let acked = running.engine.append(vec![newer]).await.unwrap().pop().unwrap().unwrap();
        assert_eq!(acked.fires, Fires::Deferred);
        let now = stored().await;
        assert_eq!((now.version, now.version_number), (id, 151 + life));
        let refused = running.audit().await;
        let refused = refused.iter().filter(|record| record["type"] == "handler_refused").count();
        assert_eq!(refused, 150, "none is told of twice");
        let heads = *running.engine.heads().borrow();
        assert!(heads.matched < heads.seq, "matching waits: {heads:?}");
        running.stop().await;
    }
}

/// A plugin's row that does not decode any more takes nothing with it that a person decided.
#[tokio::test]
async fn a_disabled_plugin_whose_row_is_put_aside_stays_disabled() {
    // (what was kept of the row, whether it is disabled)
    let cases = [
        (r#"{"name":"zoo","incarnation":-7,"disabled_at":1750000000000}"#, true),
        (r#"{"name":"zoo","incarnation":-7,"disabled_at":"x"}"#, true),
        (r#"{"name":"zoo","incarnation":-7,"disabled_at":null}"#, false),
        ("", false),
    ];
    for (content, expected) in cases {
        let row = Quarantined {
            number: 1,
            table: "plugins".into(),
            row: "zoo".into(),
            reason: "incarnation: -7".into(),
            content: content.into(),
        };
        let gate = Arc::new(Semaphore::new(100));
        let store = MemoryStore::new(StoreId([7; 16]));
        let store = StandingStill { aside: vec![row], ..StandingStill::new(store, gate) };
        let clock = Arc::new(SystemClock::new());
        let (engine, _) = start(Box::new(store), clock, EngineConfig::default()).await.unwrap();
        let row = engine.plugin_row(&"zoo".parse().unwrap());
        assert_eq!(row.is_some_and(|row| row.disabled_at.is_some()), expected, "{content}");
        engine.stop().await;
    }
}

/// What a start reads for lanes that had to wait for room, it also hears the answer of: also when the room
/// came from a plugin that was disabled anew because its row was put aside.
#[tokio::test]
async fn lanes_that_find_room_at_the_start_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let zoo: PluginName = "zoo".parse().unwrap();
    let watcher = |local: String, predicate: &str, handler: &str| Declaration {
        local,
        declared: Declared::Ax(format!("is {predicate}")),
        handlers: vec![handler.into()],
        params: None,
        max_fires_per_second: 0,
        zero_is_never: false,
        max_chain: 0,
        since: None,
        max_attempts: 0,
        max_age: None,
    };
    let running = bounded(&folder, Bounds::default()).await;
    running.transport(16, Gated::closed()).await;
    running.engine.plugin_down(PLUGIN.parse().unwrap(), 1, "stopped".into(), false).await.unwrap();
    let registration = Registration {
        handlers: vec!["roar".parse().unwrap()],
        watchers: (0..10).map(|n| watcher(format!("w{n}"), "hog", "roar")).collect(),
        ..Registration::default()
    };
    let ready = PluginReady {
        plugin: zoo.clone(),
        incarnation: 1,
        version: "1".into(),
        max_in_flight: 1,
        registration,
        transport: Gated::closed(),
    };
    running.engine.plugin_up(ready).await.unwrap();
    running.engine.plugin_down(zoo, 1, "stopped".into(), false).await.unwrap();
    for n in 0..30 {
        running.engine.declare(watcher(format!("w{n}"), "seen", HANDLER)).await.unwrap();
    }
    running.append(0..10, "hog").await;
    running.append(0..3, "seen").await;
    running.stop().await;

    // The jobs of zoo fill the memory, until it is disabled.
    let bounds = Bounds { jobs_in_memory_max: 100, lane_waiting_max: 10, ..Bounds::default() };
    let row = Quarantined {
        number: 1,
        table: "plugins".into(),
        row: "zoo".into(),
        reason: "incarnation: -7".into(),
        content: r#"{"name":"zoo","incarnation":-7,"disabled_at":1750000000000}"#.into(),
    };
    let store = SqliteStore::open_writer(&store_in(&folder)).await.unwrap();
    let gate = Arc::new(Semaphore::new(1));
    let store = Box::new(StandingStill { aside: vec![row], ..StandingStill::new(store, gate) });
    let config = EngineConfig { bounds, ..EngineConfig::default() };
    let (engine, task) = start(store, Arc::new(SystemClock::new()), config).await.unwrap();
    let running = Running::of(engine, task);
    running.plugin(16, |_| done()).await;
    running.settled().await;
    let jobs = running.jobs().await;
    let done = jobs.iter().filter(|job| job.state == JobState::Completed).count();
    let cancelled = jobs.iter().filter(|job| job.state == JobState::Cancelled).count();
    assert_eq!((done, cancelled), (90, 100));
    running.stop().await;
}

/// An engine whose store stands still for as long as somebody holds the gate.
async fn behind_a_gate() -> (Running, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(1));
    let store = MemoryStore::new(StoreId([7; 16]));
    let store = StandingStill::new(store, gate.clone());
    let clock = Arc::new(SystemClock::new());
    let (engine, task) = start(Box::new(store), clock, EngineConfig::default()).await.unwrap();
    (Running::of(engine, task), gate)
}

/// Sends requests of some claims each to a writer whose disk stands still until so many were refused;
/// then it goes on, and all others are taken.
async fn overrun(requests: u32, claims_each: u32, padding: usize, refused_meant: usize) {
    let (running, gate) = behind_a_gate().await;
    let engine = running.engine.clone();
    let held = gate.acquire().await.unwrap();
    let appends: Vec<_> = (0..requests)
        .map(|request| {
            let ids = request * claims_each..(request + 1) * claims_each;
            let claims = running.padded_claims(ids, "seen", padding);
            let engine = engine.clone();
            tokio::spawn(async move { engine.append(claims).await.expect("the engine runs") })
        })
        .collect();
    running
        .until("those without room are refused", async |_: &Engine| {
            let refused = appends.iter().filter(|append| append.is_finished()).count();
            (refused == refused_meant).then_some(())
        })
        .await;
    drop(held);
    let (mut taken, mut refused) = (0, 0);
    for append in appends {
        let answers = append.await.unwrap();
        if answers.iter().all(Result::is_ok) {
            taken += 1;
        } else {
            let overloaded =
                |answer: &Result<_, _>| matches!(answer, Err(AppendRefusal::Overloaded));
            assert!(answers.iter().all(overloaded), "{answers:?}");
            refused += 1;
        }
    }
    let head = engine.store().head().await.unwrap().0;
    assert_eq!(head, taken as u64 * u64::from(claims_each), "what was taken is in the log");
    assert_eq!((taken, refused), (requests as usize - refused_meant, refused_meant));
    running.stop().await;
}

#[tokio::test]
async fn an_intake_that_is_full_by_requests_refuses_and_tells() {
    // 1,024 have room.
    overrun(1_500, 1, 0, 476).await;
}

#[tokio::test]
async fn who_goes_away_leaves_its_claims_in_the_intake() {
    let (running, gate) = behind_a_gate().await;
    let engine = running.engine.clone();
    let held = gate.acquire().await.unwrap();
    // Fifteen have room; each is given up once it waits for the writer.
    for request in 0..15 {
        let claims = running.padded_claims(4 * request..4 * (request + 1), "seen", 512 * 1024);
        let mut append = std::pin::pin!(engine.append(claims));
        assert!(futures::poll!(append.as_mut()).is_pending());
    }
    let claims = running.padded_claims(900..904, "seen", 512 * 1024);
    let refused = engine.append(claims).await.unwrap();
    assert!(refused.iter().all(|answer| matches!(answer, Err(AppendRefusal::Overloaded))));
    drop(held);
    running
        .until("what was given up is in the log", async |engine: &Engine| {
            (engine.store().head().await.unwrap() == Seq(60)).then_some(())
        })
        .await;
    running.stop().await;
}

#[tokio::test]
async fn an_intake_that_is_full_by_bytes_refuses_and_tells() {
    // Requests of 2 MiB and a bit: fifteen have room in 32 MiB.
    overrun(20, 4, 512 * 1024, 5).await;
}
