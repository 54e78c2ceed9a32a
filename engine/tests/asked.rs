//! Jobs that no claim caused, on a real file: what is above and below them, calls that are stopped, and
//! what running attempts tell.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{HANDLER, Running, StandingStill, done};
use axwatch_ats::SqliteStore;
use axwatch_core::{Bounds, Ended, EnqueueAsk, Enqueued, JobEntry, ParentAsk, RefusalKind, Report};
use axwatch_engine::{Attempt, EngineConfig, LocalPlugin, Plugin, RequestError, start};
use axwatch_model::{Asker, JobId, JobRow, JobState, Place, SystemClock};
use futures::future::BoxFuture;
use tokio::sync::Semaphore;

async fn started(path: &Path) -> Running {
    Running::on(path, Arc::new(SystemClock::new()), EngineConfig::default()).await
}

impl Running {
    fn ask(&self) -> EnqueueAsk {
        EnqueueAsk {
            id: self.engine.new_job_id(),
            by: Asker::User,
            handler: format!("{}/{HANDLER}", crate::support::PLUGIN),
            payload: b"x".as_slice().into(),
            source: String::new(),
            priority: 0,
            parent: None,
            cost_estimate: None,
        }
    }

    async fn asked(&self, asked: EnqueueAsk) -> JobRow {
        match self.engine.ask(asked).await.expect("it can be") {
            Enqueued::New(row) => *row,
            Enqueued::Standing { number, .. } => panic!("it is {number}"),
        }
    }

    /// A job that is a part of another.
    async fn child(&self, parent: JobId) -> JobRow {
        // Whatever is said to be above it: that is looked up.
        let parent = Some(ParentAsk { id: parent, above: Vec::new() });
        self.asked(EnqueueAsk { parent, ..self.ask() }).await
    }

    async fn state_of(&self, id: JobId) -> JobState {
        self.engine.store().job(id).await.unwrap().expect("the job is there").state
    }

    async fn states(&self, ids: &[JobId]) -> Vec<JobState> {
        let mut states = Vec::new();
        for id in ids {
            states.push(self.state_of(*id).await);
        }
        states
    }
}

/// A plugin that answers nothing, and tells how many calls it has.
#[derive(Default)]
struct Silent {
    calls: Arc<AtomicU32>,
}

struct Call(Arc<AtomicU32>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Plugin for Silent {
    fn run<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Ended> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let call = Call(self.calls.clone());
        Box::pin(async move {
            std::future::pending::<()>().await;
            drop(call);
            Ended::bare(done())
        })
    }
}

#[tokio::test]
async fn a_tree_of_jobs_is_cancelled_whole_by_the_next_engine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let running = started(&path).await;
    running.plugin(4, |_| done()).await;
    // Two that are done stand between the first and what is open.
    let root = running.asked(running.ask()).await;
    let middle = running.child(root.id).await;
    running.settled().await;
    let silent = Arc::new(Silent::default());
    running.transport(1, silent.clone()).await;
    let leaves: Vec<_> = [
        running.child(middle.id).await,
        running.child(middle.id).await,
        running.child(root.id).await,
    ]
    .into_iter()
    .map(|row| row.id)
    .collect();
    let beside = running.asked(running.ask()).await;
    running.kill().await;

    let running = started(&path).await;
    assert_eq!(running.state_of(root.id).await, JobState::Completed);
    let root_row = running.engine.store().job(root.id).await.unwrap().unwrap();
    running.engine.cancel(root_row.clone(), Asker::User).await.expect("there is something below");
    assert_eq!(running.states(&leaves).await, [JobState::Cancelled; 3]);
    assert_eq!(running.states(&[root.id, middle.id]).await, [JobState::Completed; 2]);
    assert_eq!(running.state_of(beside.id).await, JobState::Queued);
    let leaf = running.engine.store().job(leaves[2]).await.unwrap().unwrap();
    let last = *leaf.leaves.last().unwrap();
    let records = running.audit().await;
    let record = &records[usize::try_from(last.0).unwrap()];
    assert_eq!(
        (&record["type"], &record["job"]),
        (&"job_cancelled".into(), &leaf.id.to_string().into())
    );
    let error = running.engine.cancel(root_row, Asker::User).await.unwrap_err();
    let RequestError::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal.kind, RefusalKind::Conflict);
    // Nothing is made below a job that is cancelled, whoever says what of it.
    let parent = Some(ParentAsk { id: leaves[0], above: Vec::new() });
    assert!(running.engine.ask(EnqueueAsk { parent, ..running.ask() }).await.is_err());
    let nobody = Some(ParentAsk { id: JobId([7; 16]), above: Vec::new() });
    let error = running.engine.ask(EnqueueAsk { parent: nobody, ..running.ask() }).await;
    let Err(RequestError::Refused(refusal)) = error else { panic!("{error:?}") };
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn a_call_is_dropped_when_its_job_is_cancelled_or_paused() {
    let folder = tempfile::tempdir().unwrap();
    let running = started(&folder.path().join("store.db")).await;
    let silent = Arc::new(Silent::default());
    running.transport(1, silent.clone()).await;
    let (first, second) = (running.asked(running.ask()).await, running.asked(running.ask()).await);
    let runs = |id| {
        let running = &running;
        async move {
            let what = "the job runs";
            running
                .until(what, async |engine| {
                    let row = engine.store().job(id).await.unwrap().unwrap();
                    (row.state == JobState::Running).then_some(row)
                })
                .await
        }
    };
    let row = runs(first.id).await;
    let row = running.engine.cancel(row, Asker::User).await.unwrap();
    assert_eq!(row.state, JobState::Cancelled);
    // The only slot is free for the next, and the call is gone.
    let row = runs(second.id).await;
    let one_call =
        async |_: &axwatch_engine::Engine| (silent.calls.load(Ordering::SeqCst) == 1).then_some(());
    running.until("there is one call", one_call).await;
    running.engine.pause_job(row.clone(), Asker::User).await.unwrap();
    let no_call =
        async |_: &axwatch_engine::Engine| (silent.calls.load(Ordering::SeqCst) == 0).then_some(());
    running.until("there is no call", no_call).await;
    running.engine.resume_job(row, Asker::User).await.unwrap();
    let row = runs(second.id).await;
    assert_eq!((row.attempts, row.counted), (2, 0));
    running.stop().await;
}

#[tokio::test]
async fn what_an_attempt_tells_is_kept_and_told_along() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let running = started(&path).await;
    running.transport(1, Arc::new(Silent::default())).await;
    let job = running.asked(running.ask()).await;
    let row = running
        .until("the job runs", async |engine| {
            let row = engine.store().job(job.id).await.unwrap().unwrap();
            (row.state == JobState::Running).then_some(row)
        })
        .await;
    let in_flight = running.engine.in_flight().of_job(job.id).expect("it is under way");
    assert_eq!(in_flight.job, row.number);
    let mut told = running.engine.progressed();
    let entry = JobEntry { level: "info".into(), message: "half".into(), ..JobEntry::default() };
    let report = Report {
        job: row.number,
        attempt: Some(1),
        incarnation: in_flight.incarnation,
        progress: Some((1, 2)),
        cost: Some(0.5),
        entries: vec![entry],
    };
    running.engine.report(Report { incarnation: 99, ..report.clone() }).await.unwrap();
    running.engine.report(report).await.unwrap();
    let heard = told.recv().await.unwrap();
    assert_eq!((heard.id, heard.progress, heard.cost), (job.id, Some((1, 2)), Some(0.5)));
    let row = running.engine.store().job(job.id).await.unwrap().unwrap();
    assert_eq!((row.progress, row.cost, row.entries), (Some((1, 2)), Some(0.5), 1));
    running.kill().await;
    // All of it is on the disk.
    let store = SqliteStore::open_writer(&path).await.unwrap();
    let entries = store.reader().entries(row.number, 0, 9).await.unwrap();
    assert_eq!((entries.len(), &*entries[0].message, entries[0].attempt), (1, "half", 1));
}

#[tokio::test]
async fn a_nearly_full_disk_keeps_nobody_from_stopping_what_fills_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let running = started(&path).await;
    running.plugin(1, |_| done()).await;
    running.stop().await;
    let running = started(&path).await;
    let [first, second, third] = [
        running.asked(running.ask()).await,
        running.asked(running.ask()).await,
        running.asked(running.ask()).await,
    ];
    running.stop().await;

    // So much is to be kept free that nothing is.
    let config = EngineConfig { reserve_bytes: Some(u64::MAX / 4), ..EngineConfig::default() };
    let running = Running::on(&path, Arc::new(SystemClock::new()), config).await;
    let error = running.engine.ask(running.ask()).await.unwrap_err();
    assert!(matches!(error, RequestError::Exhausted(_)), "{error}");
    running.engine.cancel(first.clone(), Asker::User).await.unwrap();
    running.engine.pause_job(second.clone(), Asker::User).await.unwrap();
    running.engine.discard(third.clone()).await.unwrap();
    let error = running.engine.resume_job(second.clone(), Asker::User).await.unwrap_err();
    assert!(matches!(error, RequestError::Exhausted(_)), "{error}");
    let expected = [JobState::Cancelled, JobState::Paused, JobState::Cancelled];
    assert_eq!(running.states(&[first.id, second.id, third.id]).await, expected);
    running.stop().await;
}

#[tokio::test]
async fn a_job_that_is_asked_for_again_under_its_id_is_the_same_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let running = started(&path).await;
    running.plugin(1, |_| done()).await;
    let asked = running.ask();
    let made = running.asked(asked.clone()).await;
    let again = |running: &Running| {
        let (engine, asked) = (running.engine.clone(), asked.clone());
        async move { engine.ask(asked).await.unwrap() }
    };
    let standing = Enqueued::Standing { number: made.number, id: made.id };
    assert_eq!(again(&running).await, standing);
    running.settled().await;
    running.kill().await;
    let running = started(&path).await;
    assert_eq!(again(&running).await, standing, "though it is over, and the engine is another");
    let by = Asker::Plugin(crate::support::PLUGIN.parse().unwrap());
    let error = running.engine.ask(EnqueueAsk { by, ..asked }).await.unwrap_err();
    let RequestError::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal.kind, RefusalKind::Conflict, "it is not its own");
    let store = running.engine.store();
    assert_eq!(store.job_counts().await.unwrap().completed, 1);
    // However close they come.
    let twice = running.ask();
    let different = EnqueueAsk { payload: [].as_slice().into(), ..twice.clone() };
    let (first, again, different) = tokio::join!(
        running.engine.ask(twice.clone()),
        running.engine.ask(twice),
        running.engine.ask(different),
    );
    let Enqueued::New(first) = first.unwrap() else { panic!("it is made twice") };
    assert_eq!(again.unwrap(), Enqueued::Standing { number: first.number, id: first.id });
    let Err(RequestError::Refused(refusal)) = different else { panic!("{different:?}") };
    assert_eq!(refusal.kind, RefusalKind::Conflict);
    assert!(refusal.reason.contains("its payload is another"), "{}", refusal.reason);
    assert_eq!(store.job_counts().await.unwrap().queued, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_job_whose_maker_heard_nothing_because_the_engine_died_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let running = started(&path).await;
    running.plugin(1, |_| done()).await;
    running.stop().await;

    // From here on what is committed is not answered.
    let (gate, answers) = (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(1)));
    let store = SqliteStore::open_writer(&path).await.unwrap();
    let store = StandingStill { answers: answers.clone(), ..StandingStill::new(store, gate) };
    let clock = Arc::new(SystemClock::new());
    let (engine, task) = start(Box::new(store), clock, EngineConfig::default()).await.unwrap();
    let running = Running::of(engine, task);
    answers.acquire().await.unwrap().forget();
    let asked = running.ask();
    let (engine, made) = (running.engine.clone(), asked.clone());
    let asking = tokio::spawn(async move { engine.ask(made).await });
    running
        .until("the job is on the disk", async |engine| engine.store().job(asked.id).await.unwrap())
        .await;
    running.kill().await;
    let error = asking.await.unwrap().unwrap_err();
    assert!(matches!(error, RequestError::Gone(_)), "{error}");

    let running = started(&path).await;
    let again = running.engine.ask(asked.clone()).await.unwrap();
    assert!(matches!(again, Enqueued::Standing { id, .. } if id == asked.id), "{again:?}");
    assert_eq!(running.jobs().await.len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn the_oldest_that_waits_is_told_though_others_come_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = Bounds { lane_waiting_max: 1, ..Bounds::default() };
    let config = EngineConfig { bounds, ..EngineConfig::default() };
    let path = folder.path().join("store.db");
    let running = Running::on(&path, Arc::new(SystemClock::new()), config).await;
    running.transport(1, Arc::new(Silent::default())).await;
    let mut made = Vec::new();
    // The first runs; of the others the last but one alone is in memory, and the last is next in the table.
    for priority in [0, -10, 10, 9] {
        made.push(running.asked(EnqueueAsk { priority, ..running.ask() }).await.number);
    }
    let told = running
        .until("the first runs", async |engine| {
            let overview = engine.overview().await.unwrap();
            overview.oldest_waiting.filter(|oldest| *oldest != made[0])
        })
        .await;
    assert_eq!(told, made[1]);
    running.stop().await;
}

#[tokio::test]
async fn ten_thousand_children_of_one_job_are_made_and_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let running = started(&folder.path().join("store.db")).await;
    running.transport(1, Arc::new(Silent::default())).await;
    let root = running.asked(running.ask()).await;
    for _ in 0..10 {
        let asks = (0..1_000).map(|_| {
            let parent = Some(ParentAsk { id: root.id, above: Vec::new() });
            running.engine.ask(EnqueueAsk { parent, ..running.ask() })
        });
        let made = futures::future::join_all(asks).await;
        assert!(made.iter().all(Result::is_ok));
    }
    let row = running.engine.store().job(root.id).await.unwrap().unwrap();
    running.engine.cancel(row, Asker::User).await.unwrap();
    let counts = running.engine.store().job_counts().await.unwrap();
    assert_eq!((counts.cancelled, counts.queued, counts.running), (10_001, 0, 0));
    running.audit().await;
    running.stop().await;
}

#[tokio::test]
async fn priority_source_and_parent_hold_over_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let running = started(&path).await;
    running.plugin(1, |_| done()).await;
    running.stop().await;

    // The handler is known, and nobody carries anything out.
    let running = started(&path).await;
    let with = |priority| EnqueueAsk { priority, ..running.ask() };
    let late = running.asked(with(-10)).await;
    let usual = running.asked(with(0)).await;
    let soon = running.asked(with(10)).await;
    let of_source = || EnqueueAsk { source: "it".into(), ..running.ask() };
    let sourced = running.asked(of_source()).await;
    let Enqueued::Standing { id, number } = running.engine.ask(of_source()).await.unwrap() else {
        panic!("it is made twice");
    };
    assert_eq!((id, number), (sourced.id, sourced.number));
    let child = running.child(usual.id).await;
    let asked = child.asked.as_ref().unwrap();
    assert_eq!(asked.parent.map(|parent| parent.id), Some(usual.id));
    let error = running.engine.ask(with(11)).await.unwrap_err();
    assert!(
        matches!(error, RequestError::Refused(refusal) if refusal.kind == RefusalKind::Invalid)
    );
    let store = running.engine.store();
    assert_eq!(store.ahead(&late.lane(), Place::FIRST, late.place()).await.unwrap(), 4);
    assert_eq!(store.ahead(&soon.lane(), Place::FIRST, soon.place()).await.unwrap(), 0);
    running.kill().await;

    let running = started(&path).await;
    let source = "it".to_owned();
    let again = running.engine.ask(EnqueueAsk { source, ..running.ask() }).await.unwrap();
    assert!(matches!(again, Enqueued::Standing { id, .. } if id == sourced.id));
    let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
    let carry_out = move |attempt: &Attempt| {
        told.send(attempt.start.id).unwrap();
        Ended { quick: true, ..Ended::bare(done()) }
    };
    running.transport(1, Arc::new(LocalPlugin(carry_out))).await;
    running.settled().await;
    let expected = [soon.id, usual.id, sourced.id, child.id, late.id];
    for id in expected {
        assert_eq!(order.recv().await, Some(id));
    }
    let children = running.engine.store().children(usual.number, 9).await.unwrap();
    assert_eq!((children.all, children.first[0].id), (1, child.id));
    // It is over, so that the next one is another.
    let source = "it".to_owned();
    assert_ne!(running.asked(EnqueueAsk { source, ..running.ask() }).await.id, sourced.id);
    running.stop().await;
}
