//! Schedules and budgets on a real file: what they decided is there after the engine ended, in order or not,
//! and goes on from there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{HANDLER, PLUGIN, Running, done};
use axwatch_ats::JobsQuery;
use axwatch_core::{
    BudgetChange, BudgetKind, BudgetLimits, Ended, EnqueueAsk, Enqueued, RefusalKind, ScheduleAsk,
    Span, WaitReason, Waiting,
};
use axwatch_engine::{Attempt, EngineConfig, LocalPlugin, RequestError};
use axwatch_model::{
    Asker, BudgetScope, Clock, Grid, JobId, JobRow, JobState, ManualClock, Missed, Overlap, Owner,
    RunOutcome, ScheduleId, ScheduleState, StoreId, Timestamp, nanos_of_amount,
};
use tempfile::TempDir;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A file, and a clock that goes on through all engines on it.
struct Lab {
    folder: TempDir,
    clock: Arc<ManualClock>,
    config: EngineConfig,
}

impl Lab {
    fn new(config: EngineConfig) -> Lab {
        let folder = tempfile::tempdir().unwrap();
        Lab { folder, clock: Arc::new(ManualClock::at(at("12:00:00"))), config }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    async fn start(&self) -> Running {
        Running::on(&self.path(), self.clock.clone(), self.config.clone()).await
    }
}

/// A moment of the day of these tests.
fn at(time: &str) -> Timestamp {
    format!("2026-11-21T{time}Z").parse().unwrap()
}

fn scope() -> BudgetScope {
    BudgetScope::Handler(PLUGIN.parse().unwrap(), HANDLER.parse().unwrap())
}

impl Running {
    async fn every(&self, name: &str, secs: u32) -> ScheduleId {
        let asked = ScheduleAsk {
            by: Asker::User,
            name: name.into(),
            handler: format!("{PLUGIN}/{HANDLER}"),
            grid: Grid::Every { secs },
            payload: Some(br#"{"since":"last_run"}"#.as_slice().into()),
            missed: Missed::Once,
            overlap: Overlap::Skip,
            jitter_secs: 0,
            description: String::new(),
            ats_code: String::new(),
            metadata: None,
        };
        self.engine.create_schedule(asked).await.expect("it can be").id
    }

    async fn asked_at(&self, cost_estimate: Option<f64>) -> JobRow {
        let asked = EnqueueAsk {
            id: self.engine.new_job_id(),
            by: Asker::User,
            handler: HANDLER.into(),
            payload: [].as_slice().into(),
            source: String::new(),
            priority: 0,
            parent: None,
            cost_estimate,
        };
        match self.engine.ask(asked).await.expect("it can be") {
            Enqueued::New(row) => *row,
            Enqueued::Standing { number, .. } => panic!("it is {number}"),
        }
    }

    async fn row(&self, id: JobId) -> JobRow {
        self.engine.store().job(id).await.unwrap().expect("the job is there")
    }

    /// Waits until so many jobs have ended well, and gives all jobs, the oldest first.
    async fn completed(&self, count: usize) -> Vec<JobRow> {
        self.until(&format!("{count} jobs are done"), async |engine| {
            // Whoever looks wakes the engine, whose clock goes by hand.
            engine.overview().await.expect("the engine runs");
            let query = JobsQuery { limit: 1_000, ..JobsQuery::default() };
            let mut jobs = engine.store().jobs(&query).await.unwrap();
            jobs.reverse();
            let done = jobs.iter().filter(|job| job.state == JobState::Completed).count();
            (done == count).then_some(jobs)
        })
        .await
    }

    /// Waits until a job is held by a budget, and says by what of which.
    async fn held(&self, id: JobId) -> (BudgetScope, BudgetKind, Option<Timestamp>) {
        self.until("a budget holds the job", async |engine| {
            let row = engine.store().job(id).await.unwrap()?;
            match engine.waiting(row).await.unwrap()? {
                Waiting { reason: WaitReason::Budget(hold), until, .. } => {
                    assert_eq!(hold.until, until);
                    Some((hold.scope, hold.kind, until))
                }
                _ => None,
            }
        })
        .await
    }

    /// A plugin each of whose attempts costs so much.
    async fn costly(&self, cost: f64) {
        let ended =
            move |_: &Attempt| Ended { quick: true, cost: Some(cost), ..Ended::bare(done()) };
        self.transport(4, Arc::new(LocalPlugin(ended))).await;
    }

    /// What all rows of jobs say that was spent, and what the rows of minutes say.
    async fn check_sums(&self) -> i64 {
        let store = self.engine.store();
        let cost = |job: &JobRow| nanos_of_amount(job.cost.unwrap_or_default()).unwrap();
        let of_jobs: i64 = self.jobs().await.iter().map(cost).sum();
        let spends = store.spends(i64::MIN).await.unwrap();
        assert_eq!(spends.iter().map(|row| row.nanos).sum::<i64>(), of_jobs);
        of_jobs
    }

    async fn types(&self) -> BTreeMap<String, usize> {
        let mut types = BTreeMap::new();
        for record in self.audit().await {
            *types.entry(record["type"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        types
    }
}

#[tokio::test]
async fn a_schedule_goes_on_over_restarts_and_runs_each_time_at_most_once() {
    let lab = Lab::new(EngineConfig::default());
    let running = lab.start().await;
    running.plugin(4, |_| done()).await;
    let id = running.every("tick", 300).await;
    let store_id: StoreId = running.engine.store().opened().store_id;
    let name = "tick".parse().unwrap();
    assert_eq!(id, ScheduleId::of(store_id, &Owner::User, &name));
    lab.clock.advance(5 * MINUTE);
    let first = running.completed(1).await.remove(0);
    assert_eq!(first.id, JobId::of_schedule(store_id, &Owner::User, &name, at("12:05:00")));
    assert_eq!(first.payload.as_deref(), Some(b"{}".as_slice()), "there was no run before it");
    // Killed between two times, and there again just after the second of them.
    lab.clock.advance(MINUTE);
    running.kill().await;
    lab.clock.advance(4 * MINUTE + Duration::from_secs(1));
    let running = lab.start().await;
    running.plugin(4, |_| done()).await;
    let second = running.completed(2).await.remove(1);
    let run = second.asked.as_ref().unwrap().schedule.unwrap();
    assert_eq!((run.id, run.nominal), (id, Some(at("12:10:00"))));
    let payload = String::from_utf8(second.payload.unwrap().to_vec()).unwrap();
    assert_eq!(payload, r#"{"since":"2026-11-21T12:05:00Z"}"#);
    running.stop().await;

    // Four times pass: the last of them is in time, and of those before it one row tells.
    lab.clock.advance(20 * MINUTE);
    let running = lab.start().await;
    running.plugin(4, |_| done()).await;
    running.completed(3).await;
    // A clock that is set back brings none of them again.
    lab.clock.set_wall(at("12:09:59"));
    let view = running.engine.schedule("tick").await.unwrap().unwrap();
    assert_eq!((view.row.state, view.open_jobs), (ScheduleState::Active, 0));
    assert_eq!(view.row.last_nominal, Some(at("12:30:00")));
    for _ in 0..3 {
        lab.clock.advance(Duration::from_secs(1));
        running.engine.overview().await.unwrap();
    }
    running.completed(3).await;
    let runs = running.engine.store().schedule_runs(id, None, 9).await.unwrap();
    let ran = |time| (RunOutcome::Ran, Some(at(time)), None, 1);
    let expected = [
        ran("12:30:00"),
        (RunOutcome::Missed, Some(at("12:15:00")), Some(at("12:25:00")), 3),
        ran("12:10:00"),
        ran("12:05:00"),
    ];
    let told = |(_, run): &(_, axwatch_model::ScheduleRunRow)| {
        (run.outcome, run.nominal, run.upto, run.count)
    };
    assert_eq!(runs.iter().map(told).collect::<Vec<_>>(), expected);
    assert_eq!(view.row, running.engine.store().schedules().await.unwrap()[0]);
    running.stop().await;
}

#[tokio::test]
async fn a_schedule_obeys_and_keeps_its_state() {
    let lab = Lab::new(EngineConfig::default());
    let running = lab.start().await;
    running.plugin(4, |_| done()).await;
    let id = running.every("tick", 60).await;
    running.engine.pause_schedule(id, Asker::User).await.unwrap();
    running.kill().await;
    lab.clock.advance(10 * MINUTE);
    let running = lab.start().await;
    running.plugin(4, |_| done()).await;
    let view = running.engine.schedules().await.unwrap().remove(0);
    assert_eq!((view.row.state, view.next), (ScheduleState::Paused, None));
    let now = running.engine.run_schedule(id, Asker::User).await.unwrap();
    assert_eq!(now.asked.unwrap().schedule.unwrap().nominal, None);
    running.completed(1).await;
    running.engine.resume_schedule(id, Asker::User).await.unwrap();
    let next = running.engine.next_times(id, 2).await.unwrap();
    assert_eq!(next, [at("12:11:00"), at("12:12:00")]);
    lab.clock.advance(MINUTE);
    running.completed(2).await;
    let foreign = Asker::Plugin(PLUGIN.parse().unwrap());
    let error = running.engine.delete_schedule(id, foreign).await.unwrap_err();
    let RequestError::Refused(refusal) = error else { panic!("{error}") };
    assert_eq!(refusal.kind, RefusalKind::NotFound);
    running.engine.delete_schedule(id, Asker::User).await.unwrap();
    running.kill().await;
    lab.clock.advance(10 * MINUTE);
    let running = lab.start().await;
    running.plugin(4, |_| done()).await;
    running.completed(2).await;
    assert!(running.engine.schedules().await.unwrap().is_empty());
    let types = running.types().await;
    for kind in ["schedule_declared", "schedule_paused", "schedule_resumed", "schedule_retired"] {
        assert_eq!(types.get(kind), Some(&1), "{kind} in {types:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_budget_holds_over_a_restart_and_frees() {
    let lab = Lab::new(EngineConfig::default());
    let running = lab.start().await;
    running.costly(0.6).await;
    let change = BudgetChange { per_day: Some(Some(1.0)), ..BudgetChange::default() };
    running.engine.set_budget(scope(), change, "user".into()).await.unwrap();
    for _ in 0..3 {
        running.asked_at(Some(0.6)).await;
    }
    let jobs = running.completed(1).await;
    let day = BudgetKind::Spend(Span::Day);
    let (of, kind, until) = running.held(jobs[1].id).await;
    assert_eq!((of, kind), (scope(), day));
    // A day is 1,440 minutes, the present one among them.
    assert_eq!(until, Some(at("12:00:00").plus(DAY)));
    assert_eq!(running.row(jobs[1].id).await.attempts, 0, "it burns no attempt");
    running.kill().await;

    lab.clock.advance(MINUTE);
    let running = lab.start().await;
    running.costly(0.6).await;
    assert_eq!(running.held(jobs[1].id).await, (scope(), day, until));
    let view = running.engine.budget(scope()).await.unwrap().unwrap();
    assert_eq!((view.used.spent[0], view.used.left(), view.held_lanes), (0.6, Some(0.4), 1));
    assert_eq!(view.row.unwrap().per_day, Some(1.0));
    assert_eq!(running.check_sums().await, 600_000_000);
    lab.clock.advance(DAY - MINUTE);
    running.completed(2).await;
    running.held(jobs[2].id).await;
    // It is taken away, and what waited for it goes on at once.
    let change = BudgetChange { per_day: Some(None), ..BudgetChange::default() };
    running.engine.set_budget(scope(), change, "user".into()).await.unwrap();
    running.completed(3).await;
    assert_eq!(running.check_sums().await, 1_800_000_000);
    let dearest = running.engine.store().handler_spends().await.unwrap();
    assert_eq!(dearest[0].dearest, 0.6);
    let pulse = running.engine.pulse(PLUGIN.parse().unwrap(), HANDLER.parse().unwrap());
    let pulse = pulse.await.unwrap();
    assert_eq!((pulse.used.spent, pulse.spend_left), ([1.2, 1.8, 1.8], None));
    let types = running.types().await;
    assert_eq!(types.get("budget_set"), Some(&2), "{types:?}");
    assert!(types.contains_key("budget_held") && types.contains_key("budget_freed"), "{types:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_configured_budget_of_calls_holds_for_a_minute_also_over_a_restart() {
    let limits = BudgetLimits { calls_per_minute: Some(2), ..BudgetLimits::default() };
    let budgets = BTreeMap::from([(BudgetScope::All, limits)]);
    let lab = Lab::new(EngineConfig { budgets, ..EngineConfig::default() });
    let running = lab.start().await;
    running.plugin(4, |_| done()).await;
    for _ in 0..3 {
        running.asked_at(None).await;
    }
    let jobs = running.completed(2).await;
    let (of, kind, _) = running.held(jobs[2].id).await;
    assert_eq!((of, kind), (BudgetScope::All, BudgetKind::Calls));
    running.kill().await;
    lab.clock.advance(Duration::from_secs(30));
    let running = lab.start().await;
    running.plugin(4, |_| done()).await;
    running.held(jobs[2].id).await;
    // What is known of an earlier life is known by the minute.
    lab.clock.advance(MINUTE + Duration::from_secs(30));
    running.completed(3).await;
    assert_eq!(lab.clock.now().wall, at("12:02:00"));
    running.stop().await;
}
