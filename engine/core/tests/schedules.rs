//! Schedules in the core: by hand, and a month of many of them in which the engine ends and starts again, the
//! clock is set in both directions and the clocks of people change, held to a naive account of every nominal
//! time.
//!
//! `AXWATCH_SIM_SEEDS=n` tries n months, `AXWATCH_SIM_SEED=n` one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::world::{World, busy, done, policy, registration, starts};
use axwatch_core::grid::Times;
use axwatch_core::{
    Answer, Bounds, Effect, Ended, Event, Policy, Refusal, RefusalKind, Registration, RequestId,
    ScheduleAsk, ScheduleCommand, ScheduleDeclaration, Start,
};
use axwatch_model::{
    Asker, Grid, JobId, JobNumber, JobRow, JobState, LocalId, Missed, Mono, Overlap, Owner,
    RunOutcome, ScheduleId, ScheduleRow, ScheduleRunRow, ScheduleState, StoreId, Timestamp,
};
use proptest::prelude::*;

const DEMO: &str = "demo";

struct Lab {
    world: World,
    /// Attempts under way, by job.
    running: BTreeMap<JobNumber, Start>,
    incarnation: u64,
}

impl Lab {
    fn new() -> Lab {
        Lab::with(policy())
    }

    fn with(policy: Policy) -> Lab {
        let world = World::with(policy);
        let mut lab = Lab { world, running: BTreeMap::new(), incarnation: 0 };
        lab.up(Vec::new());
        lab
    }

    /// Tells one event, commits, reads what is asked for, and gives what would be done.
    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let mut told = Vec::new();
        for effect in self.world.write([event]) {
            match effect {
                Effect::Load { lane, from, limit } => {
                    let rows = self.world.read(&lane, from, limit);
                    told.extend(self.tell(Event::Loaded { lane, rows }));
                }
                effect => told.push(effect),
            }
        }
        self.running.extend(starts(&told).into_iter().map(|start| (start.job, start)));
        let stopped = told.iter().filter_map(|effect| match effect {
            Effect::CancelAttempt { job, .. } => Some(*job),
            _ => None,
        });
        for job in stopped {
            self.running.remove(&job);
        }
        told
    }

    fn up(&mut self, schedules: Vec<ScheduleDeclaration>) {
        self.incarnation += 1;
        let registration = Registration { schedules, ..registration(&["act", "more"], Vec::new()) };
        self.tell(Event::PluginUp {
            request: RequestId(1),
            plugin: DEMO.parse().unwrap(),
            incarnation: self.incarnation,
            version: "1.0".into(),
            max_in_flight: 64,
            registration,
        });
    }

    fn disable(&mut self) {
        let (request, by) = (RequestId(5), "me".to_owned());
        self.tell(Event::PluginDisabled { request, plugin: DEMO.parse().unwrap(), by });
    }

    fn enable(&mut self) {
        let (request, by) = (RequestId(5), "me".to_owned());
        self.tell(Event::PluginEnabled { request, plugin: DEMO.parse().unwrap(), by });
    }

    fn create(&mut self, asked: ScheduleAsk) -> Result<ScheduleRow, Refusal> {
        let asked = Box::new(asked);
        schedule_in(&self.tell(Event::CreateSchedule { request: RequestId(2), asked }))
    }

    fn command(
        &mut self,
        schedule: ScheduleId,
        command: ScheduleCommand,
        by: Asker,
    ) -> Result<ScheduleRow, Refusal> {
        let request = RequestId(3);
        schedule_in(&self.tell(Event::CommandSchedule { request, schedule, command, by }))
    }

    fn run_now(&mut self, schedule: ScheduleId, by: Asker) -> Result<JobRow, Refusal> {
        let command = ScheduleCommand::RunNow { job: JobId([9; 16]) };
        let request = RequestId(4);
        let effects = self.tell(Event::CommandSchedule { request, schedule, command, by });
        let found = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { answer: Answer::Job(job), .. } => Some(job),
            _ => None,
        });
        found.expect("it is answered").map(|row| *row)
    }

    fn pass(&mut self, span: Duration) {
        self.world.advance(span);
        self.tell(Event::Tick);
    }

    /// Lets time pass to each moment at which something is due, up to `span`.
    fn pass_through(&mut self, span: Duration) {
        let end = self.world.now.mono.plus(span);
        while let Some(wake) = self.world.state.next_wake().filter(|wake| *wake <= end) {
            self.pass(wake.since(self.world.now.mono));
        }
        self.pass(end.since(self.world.now.mono));
    }

    /// As `pass_through`, and every job ends at once.
    fn work_through(&mut self, span: Duration) {
        let end = self.world.now.mono.plus(span);
        while let Some(wake) = self.world.state.next_wake().filter(|wake| *wake <= end) {
            self.pass(wake.since(self.world.now.mono));
            self.end_all();
        }
        self.pass(end.since(self.world.now.mono));
        self.end_all();
    }

    fn set_wall(&mut self, wall: Timestamp) {
        self.world.now.wall = wall;
        self.tell(Event::Tick);
    }

    fn end(&mut self, job: JobNumber) {
        let start = self.running.remove(&job).expect("it is under way");
        self.tell(Event::AttemptEnded {
            job,
            attempt: start.attempt,
            incarnation: start.incarnation,
            ended: Ended::bare(done()),
        });
    }

    fn end_all(&mut self) {
        let running: Vec<_> = self.running.keys().copied().collect();
        running.into_iter().for_each(|job| self.end(job));
    }

    /// The engine dies, so much time passes, and it starts again.
    fn restart_after(&mut self, span: Duration) {
        self.world.advance(span);
        self.running.clear();
        for event in self.world.die() {
            self.tell(event);
        }
        self.up(Vec::new());
    }

    /// When it is told that a schedule runs next.
    fn next(&self, id: ScheduleId) -> Option<Timestamp> {
        self.world.state.schedule_view(&id, self.world.now).unwrap().next
    }

    fn row(&self, id: ScheduleId) -> &ScheduleRow {
        let found = self.world.schedules.values().find(|row| row.id == id);
        found.expect("it was written")
    }

    /// What became of nominal times: outcome and seconds from the beginning, and how many.
    fn runs(&self, id: ScheduleId) -> Vec<(&'static str, Option<i64>, Option<i64>, u64)> {
        let since = |at: Option<Timestamp>| at.map(|at| (at.ms() - BEGIN_MS) / 1_000);
        let of = self.world.runs.iter().filter(|run| run.schedule == id);
        of.map(|run| (run.outcome.as_str(), since(run.nominal), since(run.upto), run.count))
            .collect()
    }

    fn jobs(&self, id: ScheduleId) -> Vec<&JobRow> {
        let is_of = |row: &&JobRow| {
            row.asked.as_ref().and_then(|asked| asked.schedule).is_some_and(|run| run.id == id)
        };
        self.world.jobs.values().filter(is_of).collect()
    }

    fn records(&self, kind: &str) -> Vec<serde_json::Value> {
        let lines = self.world.audit.iter().flat_map(|audit| audit.records.lines());
        let values = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        values.filter(|record| record["type"] == kind).collect()
    }
}

/// When every world begins.
const BEGIN_MS: i64 = 1_750_000_000_000;

fn schedule_in(effects: &[Effect]) -> Result<ScheduleRow, Refusal> {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Schedule(schedule), .. } => Some(schedule.clone()),
        _ => None,
    });
    found.expect("it is answered").map(|row| *row)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn every(name: &str, secs: u32) -> ScheduleAsk {
    ScheduleAsk {
        by: Asker::User,
        name: name.into(),
        handler: "demo/act".into(),
        grid: Grid::Every { secs },
        payload: None,
        missed: Missed::Once,
        overlap: Overlap::Skip,
        jitter_secs: 0,
        description: String::new(),
        ats_code: String::new(),
        metadata: None,
    }
}

fn by_plugin(secs: u32) -> ScheduleAsk {
    let by = Asker::Plugin(DEMO.parse().unwrap());
    ScheduleAsk { by, handler: "act".into(), ..every("", secs) }
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_ms_clamped(BEGIN_MS + secs * 1_000)
}

#[test]
fn a_schedule_runs_on_its_grid_and_each_run_is_a_job() {
    let mut lab = Lab::new();
    let row = lab.create(every("minutely", 60)).unwrap();
    assert_eq!(row.state, ScheduleState::Active);
    for _ in 0..3 {
        lab.pass_through(seconds(60));
        lab.end_all();
    }
    let ran = |secs| ("ran", Some(secs), None, 1);
    assert_eq!(lab.runs(row.id), [ran(60), ran(120), ran(180)]);
    let jobs = lab.jobs(row.id);
    assert_eq!(jobs.len(), 3);
    for (job, secs) in jobs.iter().zip([60, 120, 180]) {
        let asked = job.asked.as_ref().unwrap();
        let name: LocalId = "minutely".parse().unwrap();
        let id = JobId::of_schedule(StoreId([1; 16]), &Owner::User, &name, at(secs));
        assert_eq!((job.id, job.state, &asked.by), (id, JobState::Completed, &Asker::Schedule));
        assert_eq!(asked.schedule.unwrap().nominal, Some(at(secs)));
    }
    let row = lab.row(row.id);
    assert_eq!((row.last_nominal, row.last_job), (Some(at(180)), Some(jobs[2].id)));
    assert_eq!(row.seen, [(at(0), at(180))], "one range, however long it runs");
    let created = lab.records("job_created");
    assert_eq!(created[0]["nominal"], at(60).to_string());
    assert_eq!(created[0]["schedule"], row.id.to_string());
}

#[test]
fn what_was_missed_runs_as_the_policy_says() {
    let cases = [
        (Missed::Skip, vec![("missed", Some(60), Some(540), 9)]),
        (Missed::Once, vec![("missed", Some(60), Some(480), 8), ("ran", Some(540), None, 1)]),
        (
            Missed::All { max: 2 },
            vec![
                ("missed", Some(60), Some(420), 7),
                ("ran", Some(480), None, 1),
                ("ran", Some(540), None, 1),
            ],
        ),
    ];
    for (missed, mut expected) in cases {
        let mut lab = Lab::new();
        let id = lab.create(ScheduleAsk { missed, ..every("m", 60) }).unwrap().id;
        lab.restart_after(seconds(590));
        assert_eq!(lab.runs(id), expected, "{missed}");
        // It goes on from there, and a second restart finds nothing to make up for.
        lab.end_all();
        lab.restart_after(seconds(1));
        lab.end_all();
        lab.pass_through(seconds(60));
        expected.push(("ran", Some(600), None, 1));
        assert_eq!(lab.runs(id), expected, "{missed}");
    }
    // One that is in time stands for those before it.
    let mut lab = Lab::new();
    let id = lab.create(every("m", 60)).unwrap().id;
    lab.restart_after(seconds(182));
    assert_eq!(lab.runs(id), [("missed", Some(60), Some(120), 2), ("ran", Some(180), None, 1)]);
}

#[test]
fn runs_that_overlap_are_skipped_queued_or_cancel_each_other() {
    let outcomes = |overlap| {
        let mut lab = Lab::new();
        let id = lab.create(ScheduleAsk { overlap, ..every("m", 60) }).unwrap().id;
        lab.pass_through(seconds(185));
        // One after the other, however many slots there are.
        while !lab.running.is_empty() {
            assert_eq!(lab.running.len(), 1, "{overlap}");
            lab.end_all();
        }
        let states: Vec<_> = lab.jobs(id).iter().map(|job| job.state).collect();
        let outcomes: Vec<_> = lab.runs(id).iter().map(|(outcome, ..)| *outcome).collect();
        lab.pass_through(seconds(60));
        assert_eq!(lab.runs(id).last().unwrap().0, "ran", "{overlap}");
        (outcomes, states)
    };
    use JobState::{Cancelled, Completed};
    let (outcome, states) = outcomes(Overlap::Skip);
    assert_eq!(outcome, ["ran", "skipped_overlap", "skipped_overlap"]);
    assert_eq!(states, [Completed]);
    let (outcome, states) = outcomes(Overlap::Queue);
    assert_eq!((outcome, states), (vec!["ran"; 3], vec![Completed; 3]));
    let (outcome, states) = outcomes(Overlap::Cancel);
    assert_eq!((outcome, states), (vec!["ran"; 3], vec![Cancelled, Cancelled, Completed]));
}

#[test]
fn of_a_schedule_one_run_is_under_way_and_keeps_no_other_schedule_waiting() {
    let mut lab = Lab::new();
    let ask = ScheduleAsk {
        missed: Missed::All { max: 40 },
        overlap: Overlap::Queue,
        ..every("queued", 60)
    };
    let id = lab.create(ask).unwrap().id;
    let other = lab.create(every("other", 600)).unwrap().id;
    let under_way = |lab: &Lab, id| {
        let running = lab.jobs(id).into_iter().filter(|job| job.state == JobState::Running);
        running.map(|job| job.number).collect::<Vec<_>>()
    };
    lab.restart_after(seconds(6_030));
    assert_eq!(lab.jobs(id).len(), 40);
    assert_eq!(under_way(&lab, other).len(), 1);
    let first = under_way(&lab, id)[0];
    let end = |lab: &mut Lab, outcome| {
        let [job] = under_way(lab, id)[..] else { panic!("one at a time") };
        let Start { attempt, incarnation, .. } = lab.running.remove(&job).unwrap();
        let ended = Ended::bare(outcome);
        lab.tell(Event::AttemptEnded { job, attempt, incarnation, ended });
        job
    };
    // While the first waits for its retry the next one runs, and then the retry.
    end(&mut lab, busy());
    let second = under_way(&lab, id)[0];
    assert!(second > first);
    lab.pass_through(seconds(5));
    assert_eq!(under_way(&lab, id), [second]);
    let mut ended = Vec::new();
    while !under_way(&lab, id).is_empty() {
        ended.push(end(&mut lab, done()));
    }
    assert_eq!(ended.len(), 40);
    assert_eq!(ended[..2], [second, first]);
    assert!(ended[2..].is_sorted(), "in the order of their times");
}

#[test]
fn a_clock_that_is_set_makes_nothing_run_twice() {
    let mut lab = Lab::new();
    let ask = ScheduleAsk { overlap: Overlap::Queue, ..every("hourly", 3_600) };
    let id = lab.create(ask).unwrap().id;
    let run = |lab: &mut Lab, secs| {
        lab.pass_through(seconds(secs));
        lab.end_all();
    };
    run(&mut lab, 3_600);
    run(&mut lab, 3_600);
    // Back to before the first run: what ran does not run again.
    lab.set_wall(at(1_800));
    run(&mut lab, 5_400);
    assert_eq!(lab.runs(id).len(), 2);
    run(&mut lab, 3_600);
    assert_eq!(lab.runs(id).len(), 3);
    // Ahead by ten hours: one run for all of them.
    lab.set_wall(at(10_800 + 36_000 + 100));
    lab.end_all();
    let ahead = [("missed", Some(14_400), Some(43_200), 9), ("ran", Some(46_800), None, 1)];
    assert_eq!(lab.runs(id)[3..], ahead);
    // Back again: those that did not run do, at their time, and the one that did does not.
    lab.set_wall(at(39_000));
    run(&mut lab, 11_500);
    let back = [
        ("ran", Some(39_600), None, 1),
        ("ran", Some(43_200), None, 1),
        ("ran", Some(50_400), None, 1),
    ];
    assert_eq!(lab.runs(id)[5..], back);
}

#[test]
fn a_clock_that_is_set_back_a_little_loses_nothing() {
    let back = |lab: &mut Lab| {
        let wall = lab.world.now.wall;
        lab.set_wall(wall.minus(Duration::from_millis(1)));
    };
    // While the jitter of each time is not over.
    let mut lab = Lab::new();
    let ask = ScheduleAsk { jitter_secs: 50, overlap: Overlap::Queue, ..every("j", 60) };
    let id = lab.create(ask).unwrap().id;
    for _ in 0..10 {
        lab.pass_through(seconds(60));
        back(&mut lab);
        lab.pass_through(seconds(1));
        back(&mut lab);
    }
    lab.pass_through(seconds(60));
    let ran: Vec<_> = (1..=10).map(|n| ("ran", Some(n * 60), None, 1)).collect();
    assert_eq!(lab.runs(id)[..10], ran);
    // While as many jobs are open as may be.
    let bounds = Bounds { open_jobs_max: 1, ..Bounds::default() };
    let mut lab = Lab::with(Policy { bounds, ..policy() });
    let other = lab.create(every("other", 86_400)).unwrap().id;
    let id = lab.create(every("m", 60)).unwrap().id;
    lab.run_now(other, Asker::User).unwrap();
    lab.pass_through(seconds(61));
    back(&mut lab);
    lab.end_all();
    lab.pass_through(seconds(2));
    assert_eq!(lab.runs(id), [("ran", Some(60), None, 1)]);
    // When more are due at once than are looked at in one step.
    let mut lab = Lab::new();
    let ids: Vec<_> =
        (0..200).map(|n| lab.create(every(&format!("s{n}"), 60)).unwrap().id).collect();
    lab.pass(seconds(60));
    back(&mut lab);
    lab.pass_through(seconds(1));
    for id in ids {
        assert_eq!(lab.runs(id), [("ran", Some(60), None, 1)]);
    }
}

#[test]
fn a_clock_that_is_set_ahead_often_keeps_nothing_from_running_when_it_is_right() {
    let mut lab = Lab::new();
    let id = lab.create(every("hourly", 3_600)).unwrap().id;
    // Each time it runs once ahead, and the clock is set right again.
    for n in 0..30 {
        let right = lab.world.now.wall;
        lab.set_wall(right.plus(seconds(100 * 3_600 + n * 36_000)));
        lab.end_all();
        lab.set_wall(right);
        lab.pass_through(seconds(60));
    }
    let before = lab.runs(id).iter().filter(|(outcome, ..)| *outcome == "ran").count();
    for n in 1..=3 {
        lab.pass_through(seconds(3_600));
        lab.end_all();
        let ran = lab.runs(id).iter().filter(|(outcome, ..)| *outcome == "ran").count();
        assert_eq!(ran, before + n);
    }
}

/// How often the clock is set; as often as times of a schedule are remembered without loss.
const JUMPS_MAX: usize = 48;

/// What is done to a schedule and its clock: seconds that pass, seconds by which the clock is off from then on, and
/// whether the engine dies in between.
#[derive(Debug, Clone, Copy)]
struct Jump {
    passes: u64,
    off: i64,
    dies: bool,
}

fn any_jump() -> impl Strategy<Value = Jump> {
    let off = prop_oneof![
        2 => Just(0),
        2 => -90_i64..90,
        2 => -200_000_i64..200_000,
        1 => -20_000_000_i64..20_000_000,
    ];
    (0_u64..100, off, any::<bool>()).prop_map(|(passes, off, dies)| Jump { passes, off, dies })
}

fn any_grid() -> impl Strategy<Value = Grid> {
    let cron = |text: &str| Grid::Cron { text: text.into(), tz: "Europe/Berlin".into() };
    prop_oneof![
        prop_oneof![Just(10), Just(60), Just(3_600)].prop_map(|secs| Grid::Every { secs }),
        prop_oneof![Just("* * * * *"), Just("*/7 * * * *"), Just("5 1-23/2 * * *")].prop_map(cron),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// Wherever the clock was in between: when it is right again the next time runs, and no time runs twice.
    #[test]
    fn a_clock_that_is_right_again_finds_its_schedules_running(
        grid in any_grid(),
        missed in prop_oneof![Just(Missed::Skip), Just(Missed::Once), Just(Missed::All { max: 3 })],
        jumps in proptest::collection::vec(any_jump(), 0..JUMPS_MAX),
        dies in any::<bool>(),
    ) {
        let mut lab = Lab::new();
        let overlap = Overlap::Queue;
        let ask = ScheduleAsk { grid: grid.clone(), missed, overlap, ..every("j", 60) };
        let id = lab.create(ask).unwrap().id;
        let begin = lab.world.now;
        let right = |lab: &Lab| begin.wall.plus(lab.world.now.mono.since(begin.mono));
        for Jump { passes, off, dies } in jumps {
            lab.work_through(seconds(passes));
            lab.world.now.wall = Timestamp::from_ms_clamped(right(&lab).ms() + off * 1_000);
            if dies {
                lab.restart_after(Duration::ZERO);
            }
        }
        lab.world.now.wall = right(&lab);
        if dies {
            lab.restart_after(Duration::ZERO);
        }
        // The clock is looked at every 30 seconds.
        lab.work_through(seconds(31));
        let from = lab.world.now.wall;
        let times = Times::of(&grid, at(0)).unwrap();
        let upto = times.next_after(times.next_after(from).unwrap()).unwrap();
        lab.work_through(upto.since(from));
        let ran: Vec<_> = (lab.world.runs.iter())
            .filter(|run| run.schedule == id && run.outcome == RunOutcome::Ran)
            .filter_map(|run| run.nominal)
            .collect();
        let each: BTreeSet<_> = ran.iter().copied().collect();
        prop_assert_eq!(each.len(), ran.len(), "a time ran twice");
        let come = times.between(from, upto, 2).last;
        prop_assert!(come.iter().all(|nominal| each.contains(nominal)), "{:?}: {:?}", come, lab.runs(id));
    }
}

#[test]
fn what_is_made_up_for_comes_batch_by_batch() {
    let mut lab = Lab::new();
    let missed = Missed::All { max: 1_000 };
    let mut create =
        |name, overlap| lab.create(ScheduleAsk { missed, overlap, ..every(name, 60) }).unwrap().id;
    let ids = [("a", Overlap::Queue), ("b", Overlap::Skip), ("c", Overlap::Queue)];
    let ids = ids.map(|(name, overlap)| create(name, overlap));
    let payload: Arc<[u8]> = vec![b'x'; 3 << 20].into();
    let large =
        ScheduleAsk { missed: Missed::All { max: 7 }, payload: Some(payload), ..every("z", 60) };
    let large = lab.create(large).unwrap().id;
    lab.restart_after(seconds(60 * 1_100 + 30));
    let mut ran = lab.world.runs.len();
    assert!(ran < 3_000, "{ran} at once");
    for _ in 0..20 {
        let large_ran = lab.jobs(large).len();
        lab.world.write([Event::Tick]);
        assert!(lab.world.runs.len() - ran <= 260, "256 jobs, and rows of what is not made up for");
        assert!(lab.jobs(large).len() - large_ran <= 3);
        ran = lab.world.runs.len();
    }
    for id in ids {
        assert_eq!(lab.jobs(id).len(), 1_000);
        assert_eq!(lab.runs(id)[0], ("missed", Some(60), Some(6_000), 100));
        assert_eq!(lab.runs(id).len(), 1_001);
    }
    assert_eq!(lab.jobs(large).len(), 7);
}

#[test]
fn what_the_schedules_of_an_owner_carry_is_bounded() {
    let bounds = Bounds { owner_schedule_bytes_max: 100, ..Bounds::default() };
    let mut lab = Lab::with(Policy { bounds, ..policy() });
    let ask = |name, bytes| {
        let payload: Arc<[u8]> = vec![b'x'; bytes].into();
        ScheduleAsk { payload: Some(payload), ..every(name, 60) }
    };
    let first = lab.create(ask("a", 60)).unwrap().id;
    let refused = lab.create(ask("b", 41)).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Exhausted);
    assert!(refused.reason.contains("carry 60, and 100"), "{refused}");
    lab.create(ask("a", 61)).unwrap();
    lab.create(ask("b", 39)).unwrap();
    lab.command(first, ScheduleCommand::Delete, Asker::User).unwrap();
    assert_eq!(lab.row(first).payload, None);
    lab.create(ask("c", 61)).unwrap();
}

#[test]
fn a_schedule_has_so_many_open_jobs_at_most() {
    let bounds = Bounds { schedule_open_jobs_max: 5, ..Bounds::default() };
    let mut lab = Lab::with(Policy { bounds, ..policy() });
    let id = lab.create(ScheduleAsk { overlap: Overlap::Queue, ..every("m", 1) }).unwrap().id;
    let incarnation = lab.incarnation;
    let (plugin, reason) = (DEMO.parse().unwrap(), "it was stopped".into());
    lab.tell(Event::PluginDown { plugin, incarnation, reason, crashed: false });
    lab.pass_through(seconds(8));
    assert_eq!(lab.jobs(id).len(), 5);
    let skipped = |secs| ("skipped_overlap", Some(secs), None, 1);
    assert_eq!(lab.runs(id)[5..], [skipped(6), skipped(7), skipped(8)]);
}

#[test]
fn what_is_skipped_is_told_of_when_it_passes_and_is_never_missed() {
    for overlap in [Overlap::Skip, Overlap::Queue] {
        let bounds = Bounds { schedule_open_jobs_max: 1, ..Bounds::default() };
        let mut lab = Lab::with(Policy { bounds, ..policy() });
        let id = lab.create(ScheduleAsk { overlap, ..every("m", 2) }).unwrap().id;
        lab.pass_through(seconds(9));
        let skipped = |secs| ("skipped_overlap", Some(secs), None, 1);
        let mut expected = vec![("ran", Some(2), None, 1), skipped(4), skipped(6), skipped(8)];
        assert_eq!(lab.runs(id), expected, "{overlap}");
        lab.restart_after(seconds(6));
        expected.extend([("missed", Some(10), Some(12), 2), skipped(14)]);
        assert_eq!(lab.runs(id), expected, "{overlap}: nobody could look at these");
    }
}

#[test]
fn what_is_missed_every_second_is_told_of_every_minute() {
    let mut lab = Lab::new();
    let id = lab.create(every("m", 1)).unwrap().id;
    lab.disable();
    lab.pass_through(seconds(182));
    let minute = |first| ("missed", Some(first), Some(first + 59), 60);
    let mut expected = vec![("missed", Some(1), None, 1), minute(2), minute(62), minute(122)];
    assert_eq!(lab.runs(id), expected);
    assert_eq!(lab.records("schedule_skipped").len(), 4);
    // What was not told of yet is before the schedule changes.
    lab.command(id, ScheduleCommand::Pause, Asker::User).unwrap();
    expected.push(("missed", Some(182), None, 1));
    assert_eq!(lab.runs(id), expected);
}

#[test]
fn times_that_passed_while_a_schedule_was_paused_are_told_of_whatever_ends_that() {
    let paused = [("paused", Some(60), Some(180), 3)];
    let paused_for_three = |by_plugin_too: bool| {
        let mut lab = Lab::new();
        let ask = if by_plugin_too { by_plugin(60) } else { every("m", 60) };
        let id = lab.create(ask).unwrap().id;
        lab.command(id, ScheduleCommand::Pause, Asker::User).unwrap();
        lab.pass_through(seconds(200));
        assert_eq!(lab.runs(id), []);
        (lab, id)
    };
    let (mut lab, id) = paused_for_three(false);
    lab.command(id, ScheduleCommand::Delete, Asker::User).unwrap();
    assert_eq!(lab.runs(id), paused);
    // Made again it knows nothing of the time in which it was no more.
    lab.pass_through(seconds(200));
    lab.create(every("m", 60)).unwrap();
    lab.pass_through(seconds(60));
    assert_eq!(lab.runs(id)[1..], [("ran", Some(460), None, 1)]);
    // With another interval the times count on from there.
    let (mut lab, id) = paused_for_three(false);
    lab.create(every("m", 25)).unwrap();
    assert_eq!(lab.runs(id), paused);
    lab.pass_through(seconds(60));
    lab.command(id, ScheduleCommand::Resume, Asker::User).unwrap();
    assert_eq!(lab.runs(id)[1..], [("paused", Some(225), Some(250), 2)]);
    let (mut lab, id) = paused_for_three(true);
    lab.disable();
    assert_eq!(lab.runs(id), paused);
    // One that is not paused has at most times whose jitter is not over.
    for ends in [ScheduleCommand::Delete, ScheduleCommand::Pause] {
        let mut lab = Lab::new();
        let ask = ScheduleAsk { jitter_secs: 59, ..every("j", 60) };
        let id = lab.create(ask.clone()).unwrap().id;
        assert!(lab.next(id).unwrap() > at(61), "a jitter of some seconds");
        lab.pass_through(seconds(60));
        lab.command(id, ends, Asker::User).unwrap();
        lab.create(ScheduleAsk { grid: Grid::Every { secs: 600 }, ..ask }).unwrap();
        let outcome = if ends == ScheduleCommand::Pause { "paused" } else { "missed" };
        assert_eq!(lab.runs(id), [(outcome, Some(60), None, 1)]);
    }
}

#[test]
fn what_a_plugin_made_with_calls_comes_back_when_it_is_enabled() {
    let mut lab = Lab::new();
    let demo = || Asker::Plugin(DEMO.parse().unwrap());
    let more = || ScheduleAsk { handler: "more".into(), ..by_plugin(30) };
    let payload: Arc<[u8]> = b"mine".as_slice().into();
    let act = lab.create(ScheduleAsk { payload: Some(payload.clone()), ..by_plugin(60) });
    let (act, paused) = (act.unwrap().id, lab.create(more()).unwrap().id);
    lab.command(paused, ScheduleCommand::Pause, demo()).unwrap();
    lab.disable();
    assert_eq!([lab.row(act).state, lab.row(paused).state], [ScheduleState::Retired; 2]);
    lab.restart_after(seconds(89));
    lab.enable();
    lab.up(Vec::new());
    let row = lab.row(act);
    assert_eq!((row.state, row.payload.as_ref()), (ScheduleState::Active, Some(&payload)));
    assert_eq!((&row.grid, row.retired_at), (&Grid::Every { secs: 60 }, None));
    lab.pass_through(seconds(60));
    assert_eq!(lab.runs(act), [("ran", Some(120), None, 1)], "on the grid that it had");
    assert_eq!((lab.row(paused).state, lab.runs(paused)), (ScheduleState::Paused, vec![]));
    // What was deleted before does not.
    lab.command(act, ScheduleCommand::Delete, demo()).unwrap();
    lab.disable();
    lab.enable();
    assert_eq!(lab.row(act).state, ScheduleState::Retired);
    assert_eq!(lab.row(paused).state, ScheduleState::Paused);
    // Nor what somebody deletes meanwhile.
    lab.disable();
    lab.command(paused, ScheduleCommand::Delete, Asker::User).unwrap();
    lab.enable();
    assert_eq!(lab.row(paused).state, ScheduleState::Retired);
}

#[test]
fn whoever_deletes_a_schedule_again_is_told_the_same() {
    let mut lab = Lab::new();
    let demo = || Asker::Plugin(DEMO.parse().unwrap());
    let id = lab.create(by_plugin(60)).unwrap().id;
    let deleted = lab.command(id, ScheduleCommand::Delete, demo()).unwrap();
    lab.pass_through(seconds(5));
    assert_eq!(lab.command(id, ScheduleCommand::Delete, demo()).unwrap(), deleted);
    assert_eq!(lab.command(id, ScheduleCommand::Delete, Asker::User).unwrap(), deleted);
    assert_eq!(lab.records("schedule_retired").len(), 1);
    for (by, said) in [(demo(), "act is deleted"), (Asker::User, "act is retired")] {
        let refused = lab.command(id, ScheduleCommand::Pause, by).unwrap_err();
        assert!(refused.reason.ends_with(said), "{refused}");
    }
    let other = Asker::Plugin("other".parse().unwrap());
    let refused = lab.command(id, ScheduleCommand::Delete, other).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::NotFound);
}

#[test]
fn when_it_runs_next_is_right_at_once_after_the_clock_was_set_back() {
    let mut lab = Lab::new();
    let id = lab.create(every("m", 60)).unwrap().id;
    lab.pass_through(seconds(70));
    lab.end_all();
    let right = lab.world.now.wall;
    lab.set_wall(right.plus(seconds(100 * DAY)));
    lab.world.now.wall = right;
    assert_eq!(lab.next(id), Some(at(120)), "before anybody looks");
    lab.command(id, ScheduleCommand::Pause, Asker::User).unwrap();
    assert_eq!(lab.next(id), None);
}

#[test]
fn a_time_to_which_the_clock_is_set_back_exactly_runs() {
    let mut lab = Lab::new();
    let (missed, overlap) = (Missed::Skip, Overlap::Queue);
    let id = lab.create(ScheduleAsk { missed, overlap, ..every("m", 10) }).unwrap().id;
    lab.work_through(seconds(30));
    lab.set_wall(at(100_005));
    lab.set_wall(at(80));
    lab.work_through(seconds(15));
    lab.set_wall(at(55));
    lab.work_through(seconds(50));
    let runs = lab.world.runs.iter();
    let ran = runs.filter(|run| run.schedule == id && run.outcome == RunOutcome::Ran);
    let ran: Vec<_> =
        ran.filter_map(|run| run.nominal.map(|nominal| nominal.since(at(0)).as_secs())).collect();
    assert_eq!(ran, [10, 20, 30, 80, 90, 60, 70, 100]);
}

#[test]
fn a_time_whose_jitter_is_not_over_when_its_schedule_is_resumed_was_paused() {
    let mut lab = Lab::new();
    let id = lab.create(ScheduleAsk { jitter_secs: 59, ..every("j", 60) }).unwrap().id;
    let due = lab.next(id).unwrap();
    assert!(due > at(61), "a jitter of some seconds");
    lab.command(id, ScheduleCommand::Pause, Asker::User).unwrap();
    lab.pass_through(seconds(60));
    lab.command(id, ScheduleCommand::Resume, Asker::User).unwrap();
    assert_eq!(lab.runs(id), [("paused", Some(60), None, 1)]);
}

#[test]
fn a_plugin_pauses_its_own_schedule_while_it_runs() {
    let mut lab = Lab::new();
    let demo = || Asker::Plugin(DEMO.parse().unwrap());
    let id = lab.create(by_plugin(60)).unwrap().id;
    assert_eq!(lab.create(by_plugin(30)).unwrap().id, id, "one for each handler");
    assert_eq!(lab.row(id).grid, Grid::Every { secs: 30 }, "another interval is taken over");
    assert_eq!(lab.create(by_plugin(60)).unwrap().id, id);
    lab.pass_through(seconds(60));
    assert_eq!(lab.running.len(), 1);
    let paused = lab.command(id, ScheduleCommand::Pause, demo()).unwrap();
    assert_eq!(paused.state, ScheduleState::Paused);
    lab.end_all();
    lab.pass_through(seconds(300));
    // A restart, and the plugin's next call, leave it paused.
    lab.restart_after(seconds(1));
    assert_eq!(lab.create(by_plugin(60)).unwrap().state, ScheduleState::Paused);
    lab.pass_through(seconds(299));
    assert_eq!(lab.runs(id).len(), 1);
    lab.command(id, ScheduleCommand::Resume, demo()).unwrap();
    lab.pass_through(seconds(60));
    let expected = [
        ("ran", Some(60), None, 1),
        ("paused", Some(120), Some(660), 10),
        ("ran", Some(720), None, 1),
    ];
    assert_eq!(lab.runs(id), expected);
    let kinds = ["schedule_paused", "schedule_resumed"];
    for kind in kinds {
        let records = lab.records(kind);
        assert_eq!((records.len(), &records[0]["by"]), (1, &DEMO.into()), "{kind}");
    }
}

#[test]
fn a_declared_schedule_that_its_plugin_asks_for_stays_without_being_declared() {
    let declared = |secs| ScheduleDeclaration {
        id: String::new(),
        handler: "act".into(),
        interval_secs: secs,
        enabled_by_default: true,
        description: "often".into(),
        ats_code: String::new(),
    };
    let mut lab = Lab::new();
    lab.up(vec![declared(60)]);
    let id = lab.create(by_plugin(90)).unwrap().id;
    let row = lab.row(id);
    assert_eq!(
        (row.by_call, &row.grid, &*row.description),
        (true, &Grid::Every { secs: 90 }, "often")
    );
    lab.up(Vec::new());
    assert_eq!(lab.row(id).state, ScheduleState::Active);
    // What is declared counts from then on.
    lab.up(vec![declared(60)]);
    assert_eq!((lab.row(id).by_call, &lab.row(id).grid), (false, &Grid::Every { secs: 60 }));
    lab.up(Vec::new());
    assert_eq!(lab.row(id).state, ScheduleState::Retired);
}

#[test]
fn a_paused_schedule_is_paused_when_it_is_declared_again() {
    let declared = || ScheduleDeclaration {
        id: String::new(),
        handler: "act".into(),
        interval_secs: 60,
        enabled_by_default: true,
        description: String::new(),
        ats_code: String::new(),
    };
    let mut lab = Lab::new();
    lab.up(vec![declared()]);
    let id = lab.world.schedules["demo/act"].id;
    lab.command(id, ScheduleCommand::Pause, Asker::User).unwrap();
    lab.up(Vec::new());
    assert_eq!(lab.row(id).state, ScheduleState::Retired);
    lab.restart_after(seconds(1));
    lab.up(vec![declared()]);
    assert_eq!(lab.row(id).state, ScheduleState::Paused);
    lab.disable();
    lab.enable();
    lab.up(vec![declared()]);
    lab.pass_through(seconds(300));
    assert_eq!((lab.row(id).state, lab.runs(id).len()), (ScheduleState::Paused, 0));
    lab.command(id, ScheduleCommand::Resume, Asker::User).unwrap();
    lab.pass_through(seconds(60));
    assert_eq!(lab.runs(id).len(), 2, "what passed, and a run");
    // One that is deleted while it is paused, and made again, runs.
    let mine = lab.create(every("mine", 60)).unwrap().id;
    lab.command(mine, ScheduleCommand::Pause, Asker::User).unwrap();
    lab.command(mine, ScheduleCommand::Delete, Asker::User).unwrap();
    assert_eq!(lab.create(every("mine", 60)).unwrap().state, ScheduleState::Active);
}

#[test]
fn whoever_owns_a_schedule_steers_it() {
    let mut lab = Lab::new();
    let other = || Asker::Plugin("other".parse().unwrap());
    let demo = || Asker::Plugin(DEMO.parse().unwrap());
    let id = lab.create(every("mine", 60)).unwrap().id;
    for by in [other(), demo()] {
        let refused = lab.command(id, ScheduleCommand::Delete, by.clone()).unwrap_err();
        assert_eq!(refused.kind, RefusalKind::NotFound);
        assert_eq!(lab.run_now(id, by).unwrap_err().kind, RefusalKind::NotFound);
    }
    let foreign = ScheduleAsk { by: other(), ..every("x", 60) };
    assert!(lab.create(foreign).unwrap_err().reason.contains("its own handlers"));
    let unknown = ScheduleAsk { handler: "demo/gone".into(), ..every("x", 60) };
    assert_eq!(lab.create(unknown).unwrap_err().kind, RefusalKind::NotFound);
    // What a plugin declares, a person cannot delete; what it made with a call, one can.
    let declared = ScheduleDeclaration {
        id: String::new(),
        handler: "more".into(),
        interval_secs: 60,
        enabled_by_default: true,
        description: String::new(),
        ats_code: String::new(),
    };
    let called = lab.create(by_plugin(60)).unwrap().id;
    lab.up(vec![declared]);
    let declared = lab.world.schedules["demo/more"].id;
    let refused = lab.command(declared, ScheduleCommand::Delete, Asker::User).unwrap_err();
    assert!(refused.reason.contains("pause it instead"), "{refused}");
    assert_eq!(lab.row(called).state, ScheduleState::Active, "no list speaks of it");
    lab.command(called, ScheduleCommand::Delete, Asker::User).unwrap();
    assert_eq!(lab.row(called).state, ScheduleState::Retired);
    let refused = lab.command(called, ScheduleCommand::Resume, demo()).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Conflict);
    // Made again it is the same one, and what had run does not run again.
    assert_eq!(lab.create(by_plugin(60)).unwrap().id, called);
    let found = |text: &str| lab.world.state.find_schedule(text);
    assert_eq!(found("mine"), Some(id));
    assert_eq!(found("demo/act"), Some(called));
    assert_eq!(found(&called.to_string()), Some(called));
    assert_eq!(found("act"), None);
}

#[test]
fn a_retired_schedule_takes_what_waits_of_it_along() {
    use JobState::{Cancelled, Completed, Running};
    let mut lab = Lab::new();
    let ask = ScheduleAsk { overlap: Overlap::Queue, ..every("m", 60) };
    let id = lab.create(ask.clone()).unwrap().id;
    let states = |lab: &Lab| lab.jobs(id).iter().map(|job| job.state).collect::<Vec<_>>();
    lab.pass_through(seconds(60));
    lab.command(id, ScheduleCommand::Delete, Asker::User).unwrap();
    assert_eq!(states(&lab), [Running], "what runs may end");
    lab.end_all();
    lab.create(ask).unwrap();
    let incarnation = lab.incarnation;
    lab.tell(Event::PluginDown {
        plugin: DEMO.parse().unwrap(),
        incarnation,
        reason: "it was stopped".into(),
        crashed: false,
    });
    lab.pass_through(seconds(120));
    lab.command(id, ScheduleCommand::Delete, Asker::User).unwrap();
    assert_eq!(states(&lab), [Completed, Cancelled, Cancelled]);
}

#[test]
fn a_run_by_hand_is_besides_the_grid() {
    let mut lab = Lab::new();
    let payload: Arc<[u8]> = br#"{"since":"last_run","n":1.0}"#.as_slice().into();
    let ask = ScheduleAsk { payload: Some(payload), ..every("m", 60) };
    let id = lab.create(ask).unwrap().id;
    let first = lab.run_now(id, Asker::User).unwrap();
    assert_eq!(lab.jobs(id)[0].payload.as_deref(), Some(br#"{"n":1.0}"#.as_slice()));
    assert_eq!(lab.jobs(id)[0].number, first.number);
    lab.pass_through(seconds(60));
    // The run by hand is not over.
    let expected = [("ran", None, None, 0), ("skipped_overlap", Some(60), None, 1)];
    assert_eq!(lab.runs(id), expected);
    lab.end_all();
    lab.pass_through(seconds(60));
    lab.end_all();
    lab.pass_through(seconds(60));
    let payloads: Vec<_> = lab.jobs(id).iter().map(|job| job.payload.clone().unwrap()).collect();
    assert_eq!(&*payloads[1], br#"{"n":1.0}"#, "nothing ran on the grid before");
    let since = format!(r#"{{"since":"{}","n":1.0}}"#, at(120));
    assert_eq!(&*payloads[2], since.as_bytes());
}

#[test]
fn nothing_runs_that_nobody_has_and_jitter_stays_within_its_interval() {
    let mut lab = Lab::new();
    let id = lab.create(every("m", 60)).unwrap().id;
    let jitter = ScheduleAsk { jitter_secs: 600, overlap: Overlap::Queue, ..every("j", 60) };
    let spread = lab.create(jitter).unwrap().id;
    lab.pass_through(seconds(1_200));
    let delays: BTreeSet<_> = (lab.jobs(spread).iter())
        .map(|job| {
            let nominal = job.asked.as_ref().unwrap().schedule.unwrap().nominal.unwrap();
            let delay = job.created_at.since(nominal);
            assert!(delay < seconds(60), "{delay:?}");
            delay
        })
        .collect();
    assert!(delays.len() > 10, "{delays:?}");
    let nominals: Vec<_> =
        lab.runs(spread).iter().map(|(_, nominal, ..)| nominal.unwrap()).collect();
    assert_eq!(nominals[..19], (1..20).map(|n| n * 60).collect::<Vec<_>>());
    lab.end_all();
    lab.disable();
    let before = lab.runs(id).len();
    lab.pass_through(seconds(60));
    let view = lab.world.state.schedule_view(&id, lab.world.now).unwrap();
    assert_eq!((view.row.state, view.next), (ScheduleState::Inactive, None));
    assert_eq!(lab.runs(id)[before..], [("missed", Some(1_260), None, 1)]);
    assert_eq!(lab.row(id).state, ScheduleState::Active);
}

#[test]
fn what_is_no_schedule_is_refused() {
    let mut lab = Lab::new();
    let cron = |text: &str| Grid::Cron { text: text.into(), tz: "UTC".into() };
    let cases = [
        (ScheduleAsk { grid: cron("* * *"), ..every("a", 1) }, "five fields"),
        (ScheduleAsk { name: String::new(), ..every("a", 1) }, "id"),
        (ScheduleAsk { metadata: Some("[]".into()), ..every("a", 1) }, "JSON object"),
        (ScheduleAsk { missed: Missed::All { max: 0 }, ..every("a", 1) }, "all:0"),
        (ScheduleAsk { payload: Some(vec![0; 5 << 20].into()), ..every("a", 1) }, "payload"),
    ];
    for (ask, reason) in cases {
        let refused = lab.create(ask).unwrap_err();
        assert_eq!(refused.kind, RefusalKind::Invalid);
        assert!(refused.reason.contains(reason), "{refused}");
    }
    let never = lab.create(every("never", 0)).unwrap();
    assert_eq!(never.state, ScheduleState::Inactive);
    let refused = lab.command(never.id, ScheduleCommand::Resume, Asker::User).unwrap_err();
    assert!(refused.reason.contains("interval of 0"), "{refused}");
    // The same again changes nothing, another grid is taken over.
    let row = lab.create(every("m", 60)).unwrap();
    lab.world.schedules.clear();
    assert_eq!(lab.create(every("m", 60)).unwrap(), row);
    assert!(lab.world.schedules.is_empty());
    lab.pass_through(seconds(30));
    lab.create(every("m", 7)).unwrap();
    lab.pass_through(seconds(7));
    assert_eq!(lab.runs(row.id), [("ran", Some(35), None, 1)]);
}

/// A small generator of numbers: the same seed gives the same month.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()].clone()
    }
}

/// What one schedule should do, by looking at every nominal time.
struct Naive {
    ask: ScheduleAsk,
    id: ScheduleId,
    times: Times,
    created_ms: i64,
    state: ScheduleState,
    /// Nominal times that were seen to.
    seen: BTreeSet<Timestamp>,
    /// Moments before which everything is accounted for.
    marks: BTreeSet<Timestamp>,
    /// Nothing comes before this, unless the clock is set back.
    quiet_until: Option<Timestamp>,
    /// In how many rows each nominal time was told of: of runs and such, and of missed ones.
    decided: BTreeMap<Timestamp, u32>,
    missed: BTreeMap<Timestamp, u32>,
}

impl Naive {
    /// When a nominal time is due: its jitter follows from it, and is over before the next.
    fn due_at(&self, nominal: Timestamp) -> Timestamp {
        if self.ask.jitter_secs == 0 {
            return nominal;
        }
        let next = self.times.next_after(nominal).unwrap();
        let most = (u64::from(self.ask.jitter_secs) * 1_000)
            .min(u64::try_from(next.since(nominal).as_millis()).unwrap() - 1);
        let seed = u64::from_be_bytes(self.id.0[..8].try_into().unwrap());
        let mut rng = Rng(seed ^ nominal.ms().unsigned_abs());
        nominal.plus(Duration::from_millis(rng.below(most + 1)))
    }

    /// Nominal times that have come, are due and were not seen to.
    fn come(&self, now: Timestamp) -> Vec<Timestamp> {
        let mut come = self.passed(now);
        come.retain(|nominal| self.due_at(*nominal) <= now);
        come
    }

    /// Nominal times that have come and were not seen to.
    fn passed(&self, now: Timestamp) -> Vec<Timestamp> {
        let Some(from) = self.marks.range(..=now).next_back() else { return Vec::new() };
        let mut come = Vec::new();
        let mut nominal = self.times.next_after(*from);
        while let Some(at) = nominal.filter(|at| *at <= now) {
            if !self.seen.contains(&at) {
                come.push(at);
            }
            nominal = self.times.next_after(at);
        }
        come
    }

    fn is_late(&self, nominal: Timestamp, now: Timestamp) -> bool {
        let next = self.times.next_after(nominal).unwrap();
        let grace = (next.since(nominal) / 10).clamp(seconds(1), seconds(60));
        now.since(self.due_at(nominal)) > grace
    }

    /// The rows that a look writes, given whether a job of it was open before and which ones are made.
    fn look(
        &mut self,
        now: Timestamp,
        mut is_open: bool,
    ) -> Vec<(RunOutcome, Timestamp, Timestamp, u64)> {
        if self.state != ScheduleState::Active || self.quiet_until.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let come = self.come(now);
        if come.is_empty() && self.ask.jitter_secs == 0 {
            self.quiet_until = self.times.next_after(now);
        }
        let (late, in_time): (Vec<Timestamp>, Vec<Timestamp>) =
            come.into_iter().partition(|at| self.is_late(*at, now));
        let made_up_for = match self.ask.missed {
            Missed::Skip => 0,
            Missed::Once => usize::from(in_time.is_empty()).min(late.len()),
            Missed::All { max } => late.len().min(max as usize),
        };
        let (missed, made_up_for) = late.split_at(late.len() - made_up_for);
        let mut rows = Vec::new();
        if let (Some(first), Some(last)) = (missed.first(), missed.last()) {
            rows.push((RunOutcome::Missed, *first, *last, missed.len() as u64));
            for at in missed {
                *self.missed.entry(*at).or_default() += 1;
            }
            if made_up_for.is_empty() && in_time.is_empty() {
                self.marks.insert(last.plus(Duration::from_millis(1)));
            }
        }
        let was_open = is_open;
        for (nominal, is_late) in
            made_up_for.iter().map(|at| (*at, true)).chain(in_time.iter().map(|at| (*at, false)))
        {
            let skips =
                self.ask.overlap == Overlap::Skip && if is_late { was_open } else { is_open };
            let outcome = if skips { RunOutcome::SkippedOverlap } else { RunOutcome::Ran };
            is_open |= !skips;
            rows.push((outcome, nominal, nominal, 1));
            self.seen.insert(nominal);
            self.marks.insert(nominal);
            *self.decided.entry(nominal).or_default() += 1;
        }
        rows
    }
}

/// A month of schedules, made from a seed.
struct Month {
    lab: Lab,
    rng: Rng,
    naive: BTreeMap<ScheduleId, Naive>,
    /// When each attempt under way ends.
    ends: BTreeMap<JobNumber, Mono>,
    /// What the clock showed when the core last looked at it.
    looked_at: Timestamp,
    /// The latest that the clock ever showed.
    latest: Timestamp,
    told_runs: usize,
    upsets: u32,
}

const DAY: u64 = 86_400;

impl Month {
    fn of_seed(seed: u64) -> Month {
        let rng = Rng(seed);
        let mut lab = Lab::new();
        // Within each the clocks change in Berlin and, but for the second, in New York.
        let begins = ["2024-10-12T23:59:59Z", "2024-03-20T13:07:11Z", "2024-03-03T00:00:00Z"];
        let begin = begins[usize::try_from(seed % 3).unwrap()];
        lab.world.now.wall = begin.parse().unwrap();
        lab.restart_after(seconds(1));
        let looked_at = lab.world.now.wall;
        let mut month = Month {
            lab,
            rng,
            naive: BTreeMap::new(),
            ends: BTreeMap::new(),
            looked_at,
            latest: looked_at,
            told_runs: 0,
            upsets: 0,
        };
        // The hour that is skipped or comes twice, under each policy; and others.
        let berlin = |text: &str| Grid::Cron { text: text.into(), tz: "Europe/Berlin".into() };
        month.create("a", berlin("30 2 * * *"), Missed::Skip, Overlap::Skip);
        month.create("b", berlin("30 2 * * *"), Missed::Once, Overlap::Queue);
        month.create("c", berlin("*/30 1-3 * * *"), Missed::All { max: 3 }, Overlap::Cancel);
        for name in ["d", "e", "f", "g"] {
            month.create_any(name);
        }
        month
    }

    fn create_any(&mut self, name: &str) {
        let rng = &mut self.rng;
        let cron = |text: &str, tz: &str| Grid::Cron { text: text.into(), tz: tz.into() };
        let grid = rng.one_of(&[
            Grid::Every { secs: 600 },
            Grid::Every { secs: 3_600 },
            Grid::Every { secs: 5_077 },
            Grid::Every { secs: 86_400 },
            cron("30 2 * * *", "Europe/Berlin"),
            cron("*/15 * * * *", "America/New_York"),
            cron("0 1-3 * * *", "America/New_York"),
            cron("30 * * * *", "Europe/Berlin"),
            cron("5 4 * * mon,thu", "Australia/Lord_Howe"),
            cron("@daily", "UTC"),
        ]);
        let missed = rng.one_of(&[
            Missed::Once,
            Missed::Skip,
            Missed::All { max: 1 },
            Missed::All { max: 5 },
        ]);
        let overlap = rng.one_of(&Overlap::ALL);
        self.create(name, grid, missed, overlap);
    }

    fn create(&mut self, name: &str, grid: Grid, missed: Missed, overlap: Overlap) {
        let jitter_secs = self.rng.one_of(&[0, 0, 30, 900, 7_200]);
        let ask = every(name, 1);
        let ask = ScheduleAsk { grid: grid.clone(), missed, overlap, jitter_secs, ..ask };
        let row = self.lab.create(ask.clone()).unwrap();
        let now = self.lab.world.now.wall;
        let naive = Naive {
            ask,
            id: row.id,
            times: Times::of(&grid, now).unwrap(),
            created_ms: now.ms(),
            state: ScheduleState::Active,
            seen: BTreeSet::new(),
            marks: BTreeSet::from([now]),
            quiet_until: None,
            decided: BTreeMap::new(),
            missed: BTreeMap::new(),
        };
        self.naive.insert(row.id, naive);
    }

    fn live(&mut self) {
        let end = self.lab.world.now.mono.plus(seconds(31 * DAY));
        while self.lab.world.now.mono < end {
            let wake = self.lab.world.state.next_wake();
            let ends = self.ends.values().min().copied();
            let upset = self.lab.world.now.mono.plus(seconds(1 + self.rng.below(4 * DAY)));
            let next = wake.into_iter().chain(ends).min().unwrap_or(upset).min(end);
            if upset < next || self.rng.below(20_000) == 0 {
                self.upset();
                continue;
            }
            self.lab.world.advance(next.since(self.lab.world.now.mono));
            let over = self.ends.iter().find(|(_, at)| **at <= next).map(|(job, _)| *job);
            match over {
                Some(job) => self.step(Some(job), |lab| lab.end(job)),
                None => self.step(None, |lab| drop(lab.tell(Event::Tick))),
            }
        }
    }

    /// Something happens, and what the schedules do about it is compared.
    fn step(&mut self, ended: Option<JobNumber>, happens: impl FnOnce(&mut Lab)) {
        let now = self.lab.world.now.wall;
        if now < self.looked_at {
            self.naive.values_mut().filter(|naive| naive.state == ScheduleState::Active).for_each(
                |naive| {
                    // What lies before it was accounted for if something after it was.
                    if naive.marks.range(now..=self.looked_at).next().is_some() {
                        naive.marks.insert(now);
                    }
                    naive.quiet_until = None;
                },
            );
        }
        (self.looked_at, self.latest) = (now, self.latest.max(now));
        let open: BTreeSet<_> = (self.lab.world.jobs.values())
            .filter(|job| job.state.is_open() && Some(job.number) != ended)
            .filter_map(|job| Some(job.asked.as_ref()?.schedule?.id))
            .collect();
        happens(&mut self.lab);
        let told = &self.lab.world.runs[self.told_runs..];
        self.told_runs += told.len();
        for (id, naive) in &mut self.naive {
            let expected = naive.look(now, open.contains(id));
            let rows: Vec<_> =
                told.iter().filter(|run| run.schedule == *id).map(outcome_of).collect();
            assert_eq!(rows, expected, "{:?} at {now}", naive.ask);
        }
        let under_way = self
            .lab
            .running
            .keys()
            .map(|job| self.lab.world.jobs[job].asked.as_ref().unwrap().schedule.unwrap().id);
        let under_way: Vec<_> = under_way.collect();
        let of_each: BTreeSet<_> = under_way.iter().copied().collect();
        assert_eq!(under_way.len(), of_each.len(), "one run of a schedule at a time");
        self.lab.running.keys().for_each(|job| {
            let wall = self.rng.below(9_000);
            self.ends.entry(*job).or_insert(self.lab.world.now.mono.plus(seconds(1 + wall)));
        });
        self.ends.retain(|job, _| self.lab.running.contains_key(job));
    }

    /// The engine ends, the clock is set, or somebody pauses a schedule.
    fn upset(&mut self) {
        // As many as the ranges of a schedule are remembered without loss.
        if self.upsets == 40 {
            return;
        }
        self.upsets += 1;
        match self.rng.below(6) {
            0 | 1 => self.restart(),
            2 => self.set_clock(true),
            3 => self.set_clock(false),
            4 => {
                // A step that never reached the disk.
                let now = self.lab.world.now;
                drop(self.lab.world.state.step(Event::Tick, now));
                self.restart();
            }
            _ => self.pause_or_resume(),
        }
    }

    fn restart(&mut self) {
        let most = self.rng.one_of(&[30, 3_600, 2 * DAY]);
        let span = seconds(1 + self.rng.below(most));
        self.lab.world.advance(span);
        self.looked_at = self.lab.world.now.wall;
        self.ends.clear();
        self.step(None, |lab| lab.restart_after(Duration::ZERO));
    }

    fn set_clock(&mut self, ahead: bool) {
        let most = self.rng.one_of(&[1, 90, 7_200, 3 * DAY]);
        let span = Duration::from_millis(1 + self.rng.below(most * 1_000));
        let wall = self.lab.world.now.wall;
        self.lab.world.now.wall = if ahead { wall.plus(span) } else { wall.minus(span) };
        self.step(None, |lab| drop(lab.tell(Event::Tick)));
    }

    fn pause_or_resume(&mut self) {
        let ids: Vec<_> = self.naive.keys().copied().collect();
        let id = self.rng.one_of(&ids);
        let now = self.lab.world.now.wall;
        // What is due is seen to before.
        self.step(None, |lab| drop(lab.tell(Event::Tick)));
        let naive = self.naive.get_mut(&id).unwrap();
        if naive.state == ScheduleState::Active {
            naive.state = ScheduleState::Paused;
            self.lab.command(id, ScheduleCommand::Pause, Asker::User).unwrap();
        } else {
            let come = naive.passed(now);
            for at in &come {
                *naive.missed.entry(*at).or_default() += 1;
            }
            naive.marks.insert(now);
            naive.quiet_until = None;
            naive.state = ScheduleState::Active;
            self.lab.command(id, ScheduleCommand::Resume, Asker::User).unwrap();
            let told: Vec<_> =
                self.lab.world.runs[self.told_runs..].iter().map(outcome_of).collect();
            let expected = come
                .first()
                .zip(come.last())
                .map(|(first, last)| (RunOutcome::Paused, *first, *last, come.len() as u64));
            assert_eq!(told, Vec::from_iter(expected));
            self.told_runs = self.lab.world.runs.len();
        }
    }

    /// In the end each nominal time has been accounted for, and none has two jobs.
    fn check(&self) {
        let mut ids = BTreeSet::new();
        assert!(self.lab.world.jobs.values().all(|job| ids.insert(job.id)), "a job runs twice");
        for line in self.lab.world.audit.iter().flat_map(|audit| audit.records.lines()) {
            axwatch_core::audit::check_record(line).expect("a record is canonical");
        }
        for (id, naive) in &self.naive {
            let twice = naive.decided.iter().find(|(_, times)| **times > 1);
            assert_eq!(twice, None, "{:?}", naive.ask);
            let jobs = self.lab.jobs(*id);
            let name: LocalId = naive.ask.name.parse().unwrap();
            for job in &jobs {
                let nominal = job.asked.as_ref().unwrap().schedule.unwrap().nominal.unwrap();
                let before = nominal.minus(Duration::from_millis(1));
                assert_eq!(naive.times.next_after(before), Some(nominal), "on its grid");
                assert_eq!(
                    job.id,
                    JobId::of_schedule(StoreId([1; 16]), &Owner::User, &name, nominal)
                );
            }
            if naive.state != ScheduleState::Active {
                continue;
            }
            // Those that came while the clock stood before the time at which the schedule was made do not count.
            let mut nominal = naive.times.next_after(Timestamp::from_ms_clamped(naive.created_ms));
            while let Some(at) = nominal.filter(|at| naive.due_at(*at) <= self.latest) {
                let accounts = naive.decided.get(&at).or(naive.missed.get(&at));
                assert!(accounts.is_some(), "{at} is not accounted for: {:?}", naive.ask);
                nominal = naive.times.next_after(at);
            }
        }
    }
}

fn outcome_of(run: &ScheduleRunRow) -> (RunOutcome, Timestamp, Timestamp, u64) {
    let first = run.nominal.expect("nothing is run by hand");
    (run.outcome, first, run.upto.unwrap_or(first), run.count)
}

/// Each of the beginnings twice.
const MONTHS_DEFAULT: u64 = 6;

#[test]
fn in_a_month_each_nominal_time_is_accounted_for() {
    let number_in = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let (first, last) = match (number_in("AXWATCH_SIM_SEED"), number_in("AXWATCH_SIM_SEEDS")) {
        (Some(one), _) => (one, one),
        (None, many) => (1, many.unwrap_or(MONTHS_DEFAULT)),
    };
    let mut rows = 0;
    for seed in first..=last {
        let mut month = Month::of_seed(seed);
        eprintln!("AXWATCH_SIM_SEED={seed}");
        month.live();
        month.check();
        rows += month.lab.world.runs.len();
        let missed: usize = month.naive.values().map(|naive| naive.missed.len()).sum();
        eprintln!(
            "  {} rows, {missed} times missed or paused, {} upsets",
            month.lab.world.runs.len(),
            month.upsets
        );
    }
    assert!(rows > 1_000, "{rows} rows of runs");
}
