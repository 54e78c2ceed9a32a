//! Jobs that no claim caused: their order, who is the same, who is a part of whom, what people do with
//! them while they are open, and what their attempts tell.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axwatch_core::{
    Answer, Bounds, Effect, Ended, EnqueueAsk, Enqueued, Event, JobEntry, Outcome, ParentAsk,
    Policy, Progressed, Refusal, RefusalKind, Report, RequestId, Start, WaitReason, WatcherCommand,
};
use axwatch_model::{
    Asker, JobNumber, JobOrigin, JobRow, JobState, Owner, Place, PluginName, Timestamp, bounds,
};

use super::{enqueued, job_answer, second, waits};
use crate::world::{World, ask, busy, done, on_predicate, policy, starts};

const MINUTE: Duration = Duration::from_secs(60);

fn minutes(many: u32) -> Duration {
    MINUTE * many
}

fn by(plugin: &str) -> Asker {
    Asker::Plugin(plugin.parse().unwrap())
}

fn number(row: &JobRow) -> u64 {
    row.number.0
}

/// A small engine, so that little is in memory and the rest in the table.
fn small() -> World {
    let bounds = Bounds { lane_waiting_max: 2, slots_first: 1, ..Bounds::default() };
    World::with(Policy { bounds, ..policy() })
}

impl World {
    fn try_ask(&mut self, asked: EnqueueAsk) -> Result<Enqueued, Refusal> {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&(self.jobs.len() as u64 + 1).to_be_bytes());
        let asked = Box::new(EnqueueAsk { id: axwatch_model::JobId(id), ..asked });
        enqueued(&self.tell(Event::Enqueue { request: RequestId(4), asked }))
    }

    fn ask(&mut self, asked: EnqueueAsk) -> u64 {
        match self.try_ask(asked).unwrap() {
            Enqueued::New(row) => number(&row),
            Enqueued::Standing { number, .. } => panic!("it is {number:?}"),
        }
    }

    fn run(&mut self, priority: i32) -> u64 {
        self.ask(EnqueueAsk { priority, ..ask([0; 16], "act") })
    }

    /// A job of somebody's that is a part of another.
    fn try_child(&mut self, parent: u64, by: Asker) -> Result<Enqueued, Refusal> {
        let row = &self.jobs[&JobNumber(parent)];
        let parent = Some(ParentAsk { id: row.id, above: self.lineage(row) });
        self.try_ask(EnqueueAsk { parent, by, ..ask([0; 16], "act") })
    }

    fn child(&mut self, parent: u64) -> u64 {
        match self.try_child(parent, Asker::User).unwrap() {
            Enqueued::New(row) => number(&row),
            Enqueued::Standing { number, .. } => panic!("it is {number:?}"),
        }
    }

    /// Something happens, and in the same batch a person asks for a part of a job, whose row was read
    /// before. Gives the number of the part.
    fn write_with_child(&mut self, before: Event, parent: &JobRow) -> (Vec<Effect>, u64) {
        let parent = Some(ParentAsk { id: parent.id, above: self.lineage(parent) });
        let asked = Box::new(EnqueueAsk { parent, ..ask([77; 16], "act") });
        let effects = self.write([before, Event::Enqueue { request: RequestId(4), asked }]);
        let Enqueued::New(child) = enqueued(&effects).unwrap() else { panic!("it has no source") };
        (effects, number(&child))
    }

    fn state_of(&self, number: u64) -> JobState {
        self.jobs[&JobNumber(number)].state
    }

    fn states(&self) -> Vec<String> {
        self.jobs.values().map(|row| row.state.to_string()).collect()
    }

    fn cancel(&mut self, number: u64) -> (Result<JobRow, Refusal>, Vec<Effect>) {
        let row = Box::new(self.jobs[&JobNumber(number)].clone());
        let effects = self.tell(Event::Cancel { request: RequestId(5), row, by: Asker::User });
        (job_answer(&effects), effects)
    }

    fn pause(&mut self, number: u64) -> Result<JobRow, Refusal> {
        let row = Box::new(self.jobs[&JobNumber(number)].clone());
        job_answer(&self.tell(Event::PauseJob { request: RequestId(5), row, by: Asker::User }))
    }

    fn resume(&mut self, number: u64) -> (Result<JobRow, Refusal>, Vec<Effect>) {
        let row = Box::new(self.jobs[&JobNumber(number)].clone());
        let effects = self.tell(Event::ResumeJob { request: RequestId(5), row, by: Asker::User });
        (job_answer(&effects), effects)
    }

    /// Ends what runs, one after the other, until nothing does; gives the order in which they started.
    fn finish(&mut self, running: Vec<Start>) -> Vec<u64> {
        let mut order = Vec::new();
        let mut running = std::collections::VecDeque::from(running);
        while let Some(start) = running.pop_front() {
            order.push(start.job.0);
            running.extend(starts(&self.end(&start, done())));
        }
        order
    }

    fn report(&mut self, start: &Start, report: Report) -> Option<Progressed> {
        let attempt = Some(start.attempt);
        let report = Report { job: start.job, attempt, incarnation: start.incarnation, ..report };
        let effects =
            self.tell(Event::Progress { request: RequestId(4), report: Box::new(report) });
        effects.into_iter().find_map(|effect| match effect {
            Effect::Progressed(told) => Some(*told),
            _ => None,
        })
    }
}

/// The calls that are told to stop.
fn stops(effects: &[Effect]) -> Vec<(u64, u32)> {
    let stop = |effect: &Effect| match effect {
        Effect::CancelAttempt { job, attempt } => Some((job.0, *attempt)),
        _ => None,
    };
    effects.iter().filter_map(stop).collect()
}

#[test]
fn who_asked_how_and_why_stands_in_the_row_and_in_the_audit() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let parent = world.run(0);
    let row = &world.jobs[&JobNumber(parent)];
    let asked = EnqueueAsk {
        by: by("demo"),
        source: "feed-7".into(),
        priority: 3,
        parent: Some(ParentAsk { id: row.id, above: world.lineage(row) }),
        cost_estimate: Some(0.25),
        ..ask([0; 16], "act")
    };
    let number = world.ask(asked);
    let row = world.jobs[&JobNumber(number)].clone();
    assert_eq!((row.origin, &*row.handler), (JobOrigin::Plugin, "demo/act"));
    let of = row.asked.as_ref().unwrap();
    assert_eq!((&of.by, &of.owner), (&by("demo"), &Owner::Plugin("demo".parse().unwrap())));
    assert_eq!((&*of.source, of.priority, of.cost_estimate), ("feed-7", 3, Some(0.25)));
    let record = &world.records("job_created")[1];
    assert_eq!((&record["by"], &record["source"]), (&"demo".into(), &"feed-7".into()));
    assert_eq!((&record["priority"], &record["handler"]), (&3.into(), &"demo/act".into()));
    assert_eq!(record["parent"], world.jobs[&JobNumber(parent)].id.to_string());
    assert_eq!(record["payload_sha256"].as_str().unwrap().len(), 64);
    let plain = &world.records("job_created")[0];
    assert!(plain.get("priority").is_none() && plain.get("source").is_none(), "{plain}");
    assert_eq!(world.jobs[&JobNumber(parent)].origin, JobOrigin::Api);
}

#[test]
fn what_cannot_be_is_refused_and_says_what_would_be_right() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let plain = || ask([0; 16], "act");
    let long = "x".repeat(bounds::JOB_SOURCE_BYTES_MAX + 1);
    let cases = [
        (EnqueueAsk { priority: 11, ..plain() }, "priority 11: it must be from -10 to 10"),
        (EnqueueAsk { priority: -300, ..plain() }, "priority -300: it must be from -10 to 10"),
        (EnqueueAsk { source: long, ..plain() }, "source: 1001 bytes; at most 1000 are allowed"),
        (
            EnqueueAsk { payload: vec![0; 4 * 1024 * 1024 + 1].into(), ..plain() },
            "payload: 4194305 bytes; at most 4194304 are allowed",
        ),
        (
            EnqueueAsk {
                parent: Some(ParentAsk { id: axwatch_model::JobId([9; 16]), above: Vec::new() }),
                ..plain()
            },
            "parent_job_id 09090909090909090909090909090909: there is no such job",
        ),
    ];
    for (asked, reason) in cases {
        assert_eq!(world.try_ask(asked).unwrap_err().reason, reason);
    }
    let at_bound = EnqueueAsk { payload: vec![0; 4 * 1024 * 1024].into(), ..plain() };
    world.ask(EnqueueAsk { cost_estimate: Some(f64::NAN), ..at_bound });
    assert_eq!(world.jobs[&JobNumber(1)].asked.as_ref().unwrap().cost_estimate, None);
}

#[test]
fn a_level_of_priority_is_worth_ten_minutes_of_waiting() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    let running = starts(&world.tell(Event::Tick));
    assert!(running.is_empty());
    world.run(0);
    let first = world.jobs[&JobNumber(1)].clone();
    assert_eq!(first.state, JobState::Running);
    // (minutes until it is asked for, its priority)
    let asked = [(0, 0), (1, 0), (1, 1), (8, -1), (1, 1), (0, 10), (189, 10), (1, 10), (0, -10)];
    let mut numbers = Vec::new();
    for (after, priority) in asked {
        world.advance(minutes(after));
        numbers.push(world.run(priority));
    }
    let start = |world: &World| {
        let row = &world.jobs[&JobNumber(1)];
        Start { job: row.number, attempt: 1, incarnation: 1, ..any_start(row) }
    };
    let order = world.finish(vec![start(&world)]);
    // By the minute in which they were asked for less ten a level: 0, 1, -8, 20, 1, -89, 100, 101, 301.
    assert_eq!(order, [1, 7, 4, 2, 3, 6, 5, 8, 9, 10]);
    let places: Vec<Place> = order.iter().map(|n| world.jobs[&JobNumber(*n)].place()).collect();
    assert!(places[1..].is_sorted(), "{places:?}");
}

/// An attempt of this job, whatever it is about.
fn any_start(row: &JobRow) -> Start {
    Start {
        job: row.number,
        id: row.id,
        attempt: row.attempts,
        plugin: row.plugin.clone().unwrap(),
        incarnation: 1,
        handler: row.bare_handler().into(),
        seq: None,
        payload: None,
        params: None,
        watcher: "".into(),
        watcher_number: None,
        revision: 0,
        handler_version: None,
        schedule: "".into(),
    }
}

#[test]
fn the_queue_clock_goes_on_whatever_is_done_to_the_wall_clock() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let base = |world: &World, n| world.jobs[&JobNumber(n)].asked.as_ref().unwrap().base_ms;
    let began = world.now.wall.ms();
    world.run(0);
    world.advance(second());
    world.now.wall = Timestamp::from_ms(world.now.wall.ms() - 3_600_000).unwrap();
    world.run(0);
    world.advance(second());
    world.now.wall = Timestamp::from_ms(world.now.wall.ms() + 365 * 86_400_000).unwrap();
    world.run(0);
    assert_eq!([1, 2, 3].map(|n| base(&world, n) - began), [0, 1_000, 2_000]);
    // The next engine goes on from the last job that is open.
    let last = any_start(&world.jobs[&JobNumber(3)]);
    world.end(&last, done());
    world.restart();
    world.up("demo", &["act"], Vec::new());
    world.run(0);
    assert_eq!(base(&world, 4) - began, 1_000);
    // And with the wall clock when none is.
    for n in [1, 2, 4] {
        world.cancel(n).0.unwrap();
    }
    world.restart();
    world.up("demo", &["act"], Vec::new());
    world.run(0);
    assert_eq!(base(&world, 5), world.now.wall.ms());
}

#[test]
fn a_flood_of_one_asker_is_never_before_what_another_asks_for() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    for _ in 0..50 {
        world.ask(EnqueueAsk { by: by("demo"), ..ask([0; 16], "act") });
    }
    let users = world.run(0);
    let running = any_start(&world.jobs[&JobNumber(1)]);
    let next = starts(&world.end(&running, done()));
    assert_eq!(next.len(), 2, "a quick answer earns a slot");
    assert!(next.iter().any(|start| start.job.0 == users), "its lane has its turn at once");
}

#[test]
fn the_same_source_and_handler_is_the_same_job_while_it_is_open() {
    let mut world = small();
    world.up("demo", &["act", "other"], Vec::new());
    let of = |source: &str, handler: &str, by| EnqueueAsk {
        source: source.into(),
        by,
        ..ask([0; 16], handler)
    };
    let first = world.ask(of("s", "act", Asker::User));
    let running = any_start(&world.jobs[&JobNumber(first)]);
    let standing = |world: &mut World, by| match world.try_ask(of("s", "demo/act", by)).unwrap() {
        Enqueued::Standing { number, id } => {
            assert_eq!(world.jobs[&number].id, id);
            number.0
        }
        Enqueued::New(row) => panic!("a new job: {row:?}"),
    };
    assert_eq!(standing(&mut world, by("demo")), first, "whoever asks");
    let other = world.ask(of("s", "other", Asker::User));
    let unnamed = [world.ask(of("", "act", Asker::User)), world.ask(of("", "act", Asker::User))];
    assert_eq!((first, other, unnamed), (1, 2, [3, 4]));
    assert_eq!(world.records("job_created").len(), 4);
    // Wherever it waits: here in the table only.
    let spilled = world.ask(of("t", "act", Asker::User));
    assert_eq!(world.try_ask(of("t", "act", Asker::User)).unwrap(), standing_as(&world, spilled));
    world.restart();
    world.up("demo", &["act", "other"], Vec::new());
    assert_eq!(standing(&mut world, Asker::User), first, "after a restart too");
    world.cancel(first).0.unwrap();
    let again = world.ask(of("s", "act", Asker::User));
    assert_eq!(again, 6, "it is over");
    // Two of them are never open: the former one is not tried again beside it.
    let refusal = world.redrive(first).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Conflict);
    assert!(refusal.reason.contains("same handler and source"), "{refusal}");
    world.cancel(again).0.unwrap();
    world.redrive(first).unwrap();
    assert_eq!(standing(&mut world, Asker::User), first);
    drop(running);
}

fn standing_as(world: &World, number: u64) -> Enqueued {
    let row = &world.jobs[&JobNumber(number)];
    Enqueued::Standing { number: row.number, id: row.id }
}

#[test]
fn a_plugin_means_its_own_handler_and_may_name_it_before_it_announces_it() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    world.up("other", &["act", "more"], Vec::new());
    let handler = |world: &mut World, by, text: &str| {
        let asked = EnqueueAsk { by, ..ask([0; 16], text) };
        let number = world.try_ask(asked).map(|enqueued| match enqueued {
            Enqueued::New(row) => row.handler.to_string(),
            standing @ Enqueued::Standing { .. } => panic!("{standing:?}"),
        });
        number.map_err(|refusal| refusal.kind)
    };
    assert_eq!(handler(&mut world, by("demo"), "act").unwrap(), "demo/act");
    assert_eq!(handler(&mut world, by("demo"), "other/act").unwrap(), "other/act");
    assert_eq!(handler(&mut world, by("demo"), "more").unwrap(), "other/more");
    assert_eq!(handler(&mut world, Asker::User, "act"), Err(RefusalKind::Conflict), "which one?");
    assert_eq!(handler(&mut world, by("demo"), "none"), Err(RefusalKind::NotFound));
    // One that is on its way up has yet to say what it has.
    assert_eq!(handler(&mut world, by("new"), "later").unwrap(), "new/later");
    let job = *world.jobs.last_key_value().unwrap().0;
    assert_eq!(world.jobs[&job].state, JobState::Queued);
    let (_, effects) = world.up("new", &["later"], Vec::new());
    assert_eq!(starts(&effects)[0].job, job);
}

/// A job that runs (1), and below it: one that runs (2), one that is done (3) with one that waits in memory
/// (4), and of that one two that wait in the table only (5, 6), the second of them paused. And one beside (7).
fn family() -> World {
    let bounds = Bounds { lane_waiting_max: 1, slots_first: 3, ..Bounds::default() };
    let mut world = World::with(Policy { bounds, ..policy() });
    world.up("demo", &["act"], Vec::new());
    let root = world.run(0);
    assert_eq!((world.child(root), world.child(root)), (2, 3));
    assert_eq!(world.child(3), 4);
    assert_eq!((world.child(4), world.child(4)), (5, 6));
    world.pause(6).unwrap();
    assert_eq!(world.run(0), 7);
    let done_one = any_start(&world.jobs[&JobNumber(3)]);
    // Nothing takes its place.
    world.tell(Event::DiskLow(true));
    world.end(&done_one, done());
    assert_eq!(
        world.states(),
        ["running", "running", "completed", "queued", "queued", "paused", "queued"]
    );
    world
}

#[test]
fn cancelling_a_job_cancels_all_that_is_open_below_it() {
    let mut world = family();
    let (cancelled, effects) = world.cancel(1);
    assert_eq!(cancelled.unwrap().error.as_deref(), Some("cancelled by user"));
    assert_eq!(BTreeSet::from_iter(stops(&effects)), BTreeSet::from([(1, 1), (2, 1)]));
    let cancelled = "cancelled";
    let expected = [cancelled, cancelled, "completed", cancelled, cancelled, cancelled, "queued"];
    assert_eq!(world.states(), expected);
    let reason =
        format!("job {}, which it is a part of, was cancelled", world.jobs[&JobNumber(1)].id);
    assert_eq!(world.jobs[&JobNumber(5)].error.as_deref(), Some(&*reason));
    let records = world.records("job_cancelled");
    assert_eq!((records.len(), &records[0]["by"]), (5, &"user".into()));
    for record in &records[1..] {
        assert!(record["parent"].is_string() && record.get("by").is_none(), "{record}");
    }
    // Each row knows its record.
    for n in [1, 2, 4, 5, 6] {
        let leaf = world.jobs[&JobNumber(n)].leaves.last().unwrap().0 as usize;
        let lines = world.audit.iter().flat_map(|audit| audit.records.lines());
        let record: serde_json::Value =
            serde_json::from_str(lines.into_iter().nth(leaf).unwrap()).unwrap();
        assert_eq!(record["job"], world.jobs[&JobNumber(n)].id.to_string());
    }
    assert_eq!(world.state.open_jobs(), 1);
    assert!(world.verify_audit().ok);
}

/// A job that runs (1), and below it one that runs (2), two that wait in memory (3, 4) and nine in the table, the
/// last of which has a source (13). And one beside (14). Three of them may be withdrawn at once.
fn large_family() -> World {
    let bounds = Bounds {
        lane_waiting_max: 2,
        slots_first: 2,
        withdrawn_at_once_max: 3,
        ..Bounds::default()
    };
    let mut world = World::with(Policy { bounds, ..policy() });
    world.up("demo", &["act"], Vec::new());
    let root = world.run(0);
    for _ in 0..11 {
        world.child(root);
    }
    let row = &world.jobs[&JobNumber(root)];
    let parent = Some(ParentAsk { id: row.id, above: world.lineage(row) });
    assert_eq!(world.ask(EnqueueAsk { parent, ..with_source() }), 13);
    assert_eq!(world.run(0), 14);
    world
}

fn with_source() -> EnqueueAsk {
    EnqueueAsk { source: "s".into(), ..ask([0; 16], "act") }
}

fn cancelled(world: &World) -> usize {
    world.jobs.values().filter(|row| row.state == JobState::Cancelled).count()
}

#[test]
fn what_waits_below_a_cancelled_job_goes_in_bounded_batches_and_never_starts() {
    let mut world = large_family();
    let running = any_start(&world.jobs[&JobNumber(2)]);
    let row = Box::new(world.jobs[&JobNumber(1)].clone());
    let cancel = Event::Cancel { request: RequestId(5), row, by: Asker::User };
    let effects = world.write([cancel]);
    assert_eq!(job_answer(&effects).unwrap().state, JobState::Cancelled);
    assert_eq!((cancelled(&world), world.records("job_cancelled").len()), (7, 7));
    let read = effects.into_iter().filter_map(|effect| match effect {
        Effect::Load { lane, from, limit } => {
            let rows = world.read(&lane, from, limit);
            Some(Event::Loaded { lane, rows })
        }
        _ => None,
    });
    let read: Vec<Event> = read.collect();
    assert_eq!(read.len(), 1, "there is room in memory");
    // The rest is as good as cancelled, whoever wants something of it.
    let left = world.jobs[&JobNumber(5)].clone();
    assert_eq!(left.state, JobState::Queued);
    assert!(world.state.is_being_cancelled(left.number));
    assert_eq!(world.state.next_wake(), Some(axwatch_model::Mono(0)));
    let parent = Some(ParentAsk { id: left.id, above: world.lineage(&left) });
    let below = Box::new(EnqueueAsk { parent, ..ask([90; 16], "act") });
    let row = Box::new(left);
    let refused = [
        Event::PauseJob { request: RequestId(5), row: row.clone(), by: Asker::User },
        Event::Discard { request: RequestId(5), row },
        Event::Enqueue { request: RequestId(4), asked: below },
    ];
    for event in refused {
        let effects = world.state.step(event, world.now);
        let kind = effects.iter().find_map(|effect| match effect {
            Effect::Reply { answer: Answer::Job(Err(refusal)), .. }
            | Effect::Reply { answer: Answer::Enqueued(Err(refusal)), .. } => Some(refusal.kind),
            _ => None,
        });
        assert_eq!(kind, Some(RefusalKind::Conflict), "{effects:?}");
    }
    world.commit();
    assert_eq!(cancelled(&world), 10);
    // What was read of it does not come into memory, and what comes after it does.
    read.into_iter().for_each(|event| drop(world.tell(event)));
    assert_eq!((cancelled(&world), world.state.open_jobs()), (13, 1));
    let started = starts(&world.end(&running, crate::world::lost()));
    assert_eq!(started.iter().map(|start| start.job.0).collect::<Vec<_>>(), [14]);
    assert_eq!(world.records("job_cancelled").len(), 13, "each is told of once");
    assert_eq!(world.ask(with_source()), 15, "its source is free");
}

#[test]
fn what_is_being_cancelled_when_the_engine_dies_is_cancelled_by_the_next() {
    let mut world = large_family();
    let row = Box::new(world.jobs[&JobNumber(1)].clone());
    world.write([Event::Cancel { request: RequestId(5), row, by: Asker::User }]);
    assert!(world.state.is_being_cancelled(JobNumber(5)));
    world.restart();
    world.up("demo", &["act"], Vec::new());
    for _ in 0..2 {
        world.tell(Event::Tick);
    }
    assert_eq!((cancelled(&world), world.state.open_jobs()), (13, 1));
    assert_eq!(world.state_of(14), JobState::Running);
    assert_eq!(world.records("job_cancelled").len(), 13);
}

#[test]
fn what_is_below_a_job_is_known_to_the_next_engine_too() {
    for cancelled in [1, 3, 4] {
        let mut world = family();
        world.restart();
        world.cancel(cancelled).0.unwrap();
        let below = match cancelled {
            1 => vec![1, 2, 4, 5, 6],
            _ => vec![4, 5, 6],
        };
        let found: Vec<_> = (world.jobs.values())
            .filter(|row| row.state == JobState::Cancelled)
            .map(number)
            .collect();
        assert_eq!(found, below, "of {cancelled}");
        assert_eq!(world.state_of(3), JobState::Completed, "what is done stays so");
        world.restart();
        assert_eq!(world.state.open_jobs(), 7 - 1 - below.len() as u64);
    }
}

#[test]
fn of_a_job_that_is_over_only_what_is_below_it_can_be_cancelled() {
    let mut world = family();
    assert_eq!(world.cancel(3).0.unwrap().state, JobState::Completed);
    assert_eq!([4, 5, 6].map(|n| world.state_of(n)), [JobState::Cancelled; 3]);
    let refusal = world.cancel(3).0.unwrap_err();
    assert!(refusal.reason.contains("is completed; nothing is left to cancel"), "{refusal}");
    let refusal = world.cancel(4).0.unwrap_err();
    assert!(refusal.reason.contains("is cancelled; nothing is left to cancel"), "{refusal}");
}

#[test]
fn nothing_is_open_below_a_job_that_is_cancelled() {
    let mut world = family();
    world.cancel(1).0.unwrap();
    for parent in [1, 3, 4] {
        let refusal = world.try_child(parent, Asker::User).unwrap_err();
        assert!(refusal.reason.contains("is cancelled, and so is what is a part"), "{refusal}");
    }
    let refusal = world.redrive(5).unwrap_err();
    assert!(refusal.reason.contains("is cancelled, and so is what is a part"), "{refusal}");
    for n in [1, 4, 5] {
        world.redrive(n).unwrap();
    }
    assert_eq!([2, 6].map(|n| world.state_of(n)), [JobState::Cancelled; 2], "nobody wants those");
    world.cancel(1).0.unwrap();
    assert_eq!(world.state_of(5), JobState::Cancelled, "through one that was done");
    // In one batch: what the first made of it counts for the second.
    let mut world = family();
    let row = &world.jobs[&JobNumber(4)];
    let parent = Some(ParentAsk { id: row.id, above: world.lineage(row) });
    let asked = Box::new(EnqueueAsk { parent, ..ask([9; 16], "act") });
    let root = Box::new(world.jobs[&JobNumber(1)].clone());
    let fifth = Box::new(world.jobs[&JobNumber(5)].clone());
    let effects = world.write([
        Event::Cancel { request: RequestId(1), row: root, by: Asker::User },
        Event::Enqueue { request: RequestId(2), asked },
        Event::PauseJob { request: RequestId(3), row: fifth, by: Asker::User },
    ]);
    let granted = |effect: &&Effect| match effect {
        Effect::Reply { answer: Answer::Job(answer), .. } => answer.is_ok(),
        Effect::Reply { answer: Answer::Enqueued(answer), .. } => answer.is_ok(),
        _ => false,
    };
    assert_eq!(effects.iter().filter(granted).count(), 1);
}

#[test]
fn a_parent_is_a_job_of_the_asker() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    world.up("other", &["do"], Vec::new());
    world.claim("x", "p");
    let fire = 1;
    let theirs = world.ask(EnqueueAsk { by: by("demo"), ..ask([0; 16], "other/do") });
    // (parent, asker, whether it may)
    let cases = [
        (fire, Asker::User, true),
        (fire, by("demo"), true),
        (fire, by("other"), false),
        (theirs, by("demo"), true),
        (theirs, by("other"), true),
    ];
    for (parent, asker, may) in cases {
        let asked = world.try_child(parent, asker.clone());
        assert_eq!(asked.is_ok(), may, "{asker} below {parent}: {asked:?}");
        if let Err(refusal) = asked {
            assert_eq!(refusal.kind, RefusalKind::NotFound);
        }
    }
    // A fire takes along what is a part of it.
    world.cancel(fire).0.unwrap();
    let open = world.jobs.values().filter(|row| row.state.is_open()).count();
    assert_eq!(open, 3);
}

#[test]
fn a_chain_of_parents_has_an_end() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    let mut last = world.run(0);
    for _ in 1..bounds::KIN_DEPTH_MAX {
        last = world.child(last);
    }
    let refusal = world.try_child(last, Asker::User).unwrap_err();
    assert!(refusal.reason.ends_with("64 jobs stand in one chain at most"), "{refusal}");
    world.restart();
    world.cancel(1).0.unwrap();
    assert_eq!(world.state.open_jobs(), 0);
}

#[test]
fn a_watcher_that_is_removed_takes_along_what_is_a_part_of_its_waiting_fires() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    world.declare(on_predicate("w", "p", "act")).unwrap();
    // One runs, two wait in memory, two in the table only, and one of each has a child.
    (0..5).for_each(|_| drop(world.claim("x", "p")));
    let children = [1, 2, 5].map(|parent| world.child(parent));
    world.restart();
    world.command("w", WatcherCommand::Remove).0.unwrap();
    let states = children.map(|n| world.state_of(n));
    // What was under way goes to its end, or here, where the engine died, back into the queue.
    assert_eq!(states, [JobState::Cancelled; 3]);
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    world.declare(on_predicate("w", "p", "act")).unwrap();
    (0..3).for_each(|_| drop(world.claim("x", "p")));
    let children = [1, 2].map(|parent| world.child(parent));
    world.pause(3).unwrap();
    world.command("w", WatcherCommand::Remove).0.unwrap();
    assert_eq!(children.map(|n| world.state_of(n)), [JobState::Queued, JobState::Cancelled]);
    assert_eq!(world.state_of(3), JobState::Cancelled, "paused ones are withdrawn too");
    // The one that ran fails, and is withdrawn then.
    let running = any_start(&world.jobs[&JobNumber(1)]);
    world.end(&running, busy());
    assert_eq!(children.map(|n| world.state_of(n)), [JobState::Cancelled; 2]);
    assert_eq!(world.state.open_jobs(), 0);
}

#[test]
fn a_parent_that_ends_in_the_batch_in_which_it_gets_a_child_is_over() {
    let bounds = Bounds { slots_first: 8, ..Bounds::default() };
    let mut world = World::with(Policy { bounds, ..policy() });
    world.up("demo", &["act"], Vec::new());
    let top = world.run(0);
    let parent = world.child(top);
    // Its lane lives on.
    let beside = world.run(0);
    let row = world.jobs[&JobNumber(parent)].clone();
    let Start { job, attempt, incarnation, .. } = any_start(&row);
    let ended = Event::AttemptEnded { job, attempt, incarnation, ended: Ended::bare(done()) };
    let (effects, child) = world.write_with_child(ended, &row);
    assert_eq!(starts(&effects).len(), 1);
    assert_eq!(world.state_of(parent), JobState::Completed);
    world.cancel(top).0.unwrap();
    let states = [parent, child, beside].map(|n| world.state_of(n));
    assert_eq!(states, [JobState::Completed, JobState::Cancelled, JobState::Running]);
    assert_eq!(world.records("job_cancelled").len(), 2, "of the first and of the child alone");
    assert_eq!(world.state.open_jobs(), 1);
    // What is counted by lane is right: its last job can leave it.
    world.cancel(beside).0.unwrap();
    assert_eq!(world.state.open_jobs(), 0);
}

#[test]
fn a_fire_that_is_tried_again_in_the_batch_in_which_it_gets_a_child_is_open() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    world.declare(on_predicate("w", "p", "act")).unwrap();
    // One runs, two wait in memory, and the rest in the table only.
    (0..5).for_each(|_| drop(world.claim("x", "p")));
    world.cancel(5).0.unwrap();
    let row = world.jobs[&JobNumber(5)].clone();
    let again = world.redrive_of(&row, 9);
    let (_, child) = world.write_with_child(again, &row);
    assert_eq!([world.state_of(5), world.state_of(child)], [JobState::Queued; 2]);
    world.command("w", WatcherCommand::Remove).0.unwrap();
    assert_eq!([world.state_of(5), world.state_of(child)], [JobState::Cancelled; 2]);
}

#[test]
fn a_running_job_that_is_cancelled_holds_its_slot_until_its_call_is_given_up() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    let (first, second) = (world.run(0), world.run(0));
    let call = any_start(&world.jobs[&JobNumber(first)]);
    let (cancelled, effects) = world.cancel(first);
    assert_eq!(cancelled.unwrap().state, JobState::Cancelled);
    assert_eq!((stops(&effects), starts(&effects).len()), (vec![(first, 1)], 0));
    let demo: PluginName = "demo".parse().unwrap();
    assert_eq!(world.state.plugin(&demo).unwrap().running, 1);
    let ended = world.records("attempt_ended").remove(0);
    assert_eq!((&ended["outcome"], &ended["counted"]), (&"stopped".into(), &false.into()));
    assert_eq!(ended["reason"], "cancelled by user");
    // It answered just before: that changes nothing, and the audit says so.
    let effects = world.end(&call, done());
    assert_eq!(starts(&effects)[0].job.0, second);
    assert_eq!(world.state_of(first), JobState::Cancelled);
    assert_eq!(world.records("late_answer").len(), 1);
    // And the call being given up means nothing any more.
    assert!(world.end(&call, crate::world::lost()).is_empty());
    assert_eq!(world.records("late_answer").len(), 1);
    assert_eq!(world.state.plugin(&demo).unwrap().running, 1);
    world.redrive(first).unwrap();
    let now_running = any_start(&world.jobs[&JobNumber(second)]);
    let again = starts(&world.end(&now_running, done())).remove(0);
    assert_eq!((again.job.0, again.attempt), (first, 2), "the next attempt of the same job");
}

#[test]
fn what_was_told_to_stop_goes_with_its_process() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    let (first, second) = (world.run(0), world.run(0));
    world.cancel(first).0.unwrap();
    world.tell(Event::PluginDown {
        plugin: "demo".parse().unwrap(),
        incarnation: 1,
        reason: "gone".into(),
        crashed: true,
    });
    assert_eq!(world.records("attempt_ended").len(), 1, "it had ended before");
    let effects = world.tell(Event::PluginUp {
        request: RequestId(1),
        plugin: "demo".parse().unwrap(),
        incarnation: 2,
        version: "1.0".into(),
        max_in_flight: 4,
        registration: crate::world::registration(&["act"], Vec::new()),
    });
    assert_eq!(starts(&effects)[0].job.0, second);
}

#[test]
fn the_one_that_crashes_a_plugin_is_not_charged_when_another_call_had_yet_to_stop() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let (first, second) = (world.run(0), world.run(0));
    world.cancel(first).0.unwrap();
    let (plugin, reason) = ("demo".parse().unwrap(), "gone".into());
    world.tell(Event::PluginDown { plugin, incarnation: 1, reason, crashed: true });
    assert_eq!(world.jobs[&JobNumber(second)].counted, 0, "either may have done it");
}

#[test]
fn a_paused_job_stands_in_no_lane_until_it_is_resumed() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    let numbers: Vec<_> = (0..5).map(|_| world.run(0)).collect();
    // In memory, in the table only, and in no lane.
    for n in [2, 5] {
        assert_eq!(world.pause(n).unwrap().state, JobState::Paused);
        assert!(world.pause(n).unwrap_err().reason.ends_with("is paused already"));
    }
    assert_eq!(waits(&world)[1], "Paused 0");
    assert_eq!(world.state.open_jobs(), 5);
    assert_eq!(world.state.plugin(&"demo".parse().unwrap()).unwrap().waiting, 2);
    let running = any_start(&world.jobs[&JobNumber(1)]);
    assert_eq!(world.finish(vec![running]), [1, 3, 4]);
    assert!(world.redrive(2).unwrap_err().reason.contains("is paused; `axwatch jobs resume"));
    world.restart();
    world.up("demo", &["act"], Vec::new());
    assert_eq!(world.state.open_jobs(), 2, "and so it is for the next engine");
    let (resumed, effects) = world.resume(5);
    assert_eq!(resumed.unwrap().state, JobState::Queued);
    assert_eq!(starts(&effects)[0].job.0, 5);
    assert!(world.resume(5).0.unwrap_err().reason.ends_with("is running, not paused"));
    world.cancel(2).0.unwrap();
    assert_eq!((world.records("job_paused").len(), world.records("job_resumed").len()), (2, 1));
    assert_eq!(world.records("job_paused")[0]["by"], "user");
    assert!(numbers.iter().all(|n| *n <= 5));
}

#[test]
fn a_resumed_job_has_the_place_that_it_had() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    let _: Vec<_> = (0..6).map(|_| world.run(0)).collect();
    world.pause(2).unwrap();
    world.pause(6).unwrap();
    world.advance(minutes(5));
    world.resume(6).0.unwrap();
    world.resume(2).0.unwrap();
    let running = any_start(&world.jobs[&JobNumber(1)]);
    assert_eq!(world.finish(vec![running]), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn pausing_a_running_job_stops_its_attempt_and_charges_nothing() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    let job = world.run(0);
    let call = any_start(&world.jobs[&JobNumber(job)]);
    let row = Box::new(world.jobs[&JobNumber(job)].clone());
    let effects = world.tell(Event::PauseJob { request: RequestId(5), row, by: by("demo") });
    assert_eq!(stops(&effects), [(job, 1)]);
    world.end(&call, crate::world::lost());
    let (_, effects) = world.resume(job);
    let again = starts(&effects).remove(0);
    assert_eq!((again.job.0, again.attempt), (job, 2));
    let row = &world.jobs[&JobNumber(job)];
    assert_eq!((row.counted, row.uncounted), (0, 0));
    assert_eq!(world.records("attempt_ended")[0]["reason"], "paused by demo");
}

#[test]
fn a_paused_fire_is_found_by_the_next_engine_however_far_the_others_are() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    world.tell(Event::DiskLow(true));
    world.claim("x", "p");
    world.pause(1).unwrap();
    world.tell(Event::DiskLow(false));
    for _ in 0..600 {
        let started = starts(&world.claim("x", "p"));
        started.iter().for_each(|start| drop(world.end(start, done())));
    }
    assert_eq!(world.open_jobs_from, JobNumber(1));
    world.restart();
    assert_eq!(world.state.open_jobs(), 1);
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    assert_eq!(starts(&world.resume(1).1).len(), 1);
}

#[test]
fn jobs_that_no_claim_caused_do_not_hold_the_mark_back() {
    let mut world = World::new();
    world.up("demo", &["act", "idle"], vec![on_predicate("w", "p", "act")]);
    let asked = world.ask(ask([0; 16], "idle"));
    for _ in 0..600 {
        let started = starts(&world.claim("x", "p"));
        started.iter().for_each(|start| drop(world.end(start, done())));
    }
    assert!(world.open_jobs_from > JobNumber(500), "{:?}", world.open_jobs_from);
    world.restart();
    assert_eq!(world.state.open_jobs(), 1);
    assert_eq!(world.state_of(asked), JobState::Queued);
}

#[test]
fn an_attempt_begins_with_nothing_done() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let job = JobNumber(world.run(0));
    let start = any_start(&world.jobs[&job]);
    world.report(&start, Report { progress: Some((90, 100)), ..Report::default() });
    world.end(&start, busy());
    assert_eq!(world.jobs[&job].progress, Some((90, 100)), "how far the last one came");
    let (_, second) = world.pass_through(Duration::from_secs(2)).remove(0);
    assert_eq!(world.jobs[&job].progress, None);
    let told = world.report(&second, Report { cost: Some(1.0), ..Report::default() }).unwrap();
    assert_eq!((told.progress, told.cost), (None, Some(1.0)));
}

#[test]
fn what_is_told_is_in_the_row_when_it_is_answered() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let job = JobNumber(world.run(0));
    let start = any_start(&world.jobs[&job]);
    for n in 1..5 {
        let (progress, cost) = (Some((n, 9)), Some(f64::from(n)));
        let entries = vec![JobEntry::default(); usize::from(n == 3)];
        let report = Report { progress, cost, entries, ..Report::default() };
        let heard = world.report(&start, report).expect("it is the attempt under way");
        assert_eq!((heard.progress, heard.cost, heard.attempt), (progress, cost, 1));
        assert_eq!((world.jobs[&job].progress, world.jobs[&job].cost), (progress, cost));
    }
    world.end(&start, done());
    assert_eq!(world.jobs[&job].progress, Some((4, 9)));
    assert_eq!(world.report(&start, Report::default()), None, "it is over");
}

#[test]
fn only_the_attempt_under_way_is_listened_to() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let job = world.run(0);
    let first = any_start(&world.jobs[&JobNumber(job)]);
    world.end(&first, busy());
    let of = |attempt, incarnation| Report {
        job: JobNumber(job),
        attempt,
        incarnation,
        progress: Some((1, 2)),
        cost: Some(5.0),
        entries: vec![JobEntry::default()],
    };
    let tell = |world: &mut World, report| {
        let effects =
            world.tell(Event::Progress { request: RequestId(4), report: Box::new(report) });
        effects.iter().any(|effect| matches!(effect, Effect::Progressed(_)))
    };
    assert!(!tell(&mut world, of(Some(1), 1)), "it waits for its retry");
    let (_, second) = world.pass_through(Duration::from_secs(2)).remove(0);
    assert!(!tell(&mut world, of(Some(1), 1)), "the former attempt");
    assert!(!tell(&mut world, of(Some(2), 2)), "another process");
    let row = &world.jobs[&JobNumber(job)];
    assert_eq!((row.progress, row.cost, row.entries), (None, None, 0));
    assert!(tell(&mut world, of(None, 1)), "whichever is under way");
    // Of an attempt that was given up the worker may go on, and be the one that tells.
    let missed = Outcome::Retryable { error: "no answer".into(), missed_deadline: true };
    world.end(&second, missed);
    let (_, third) = world.pass_through(Duration::from_secs(9)).remove(0);
    assert!(!tell(&mut world, of(None, 1)), "either of two");
    assert!(tell(&mut world, of(Some(3), 1)), "it says which one it is");
    world.end(&second, done());
    assert!(tell(&mut world, of(None, 1)), "the other has answered");
    // Nor when nobody waits for its answer any more.
    world.pause(job).unwrap();
    world.resume(job).0.unwrap();
    let fourth = any_start(&world.jobs[&JobNumber(job)]);
    world.end(&third, crate::world::lost());
    assert_eq!(fourth.attempt, 4);
    assert!(!tell(&mut world, of(None, 1)), "the call was given up, and the work perhaps not");
    // The next engine knows no attempt.
    world.restart();
    assert!(!tell(&mut world, of(None, 1)) && !tell(&mut world, of(Some(4), 1)));
    assert_eq!(world.jobs[&JobNumber(job)].entries, 3);
}

#[test]
fn what_attempts_cost_adds_up_and_what_is_no_amount_is_not_heard() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let job = world.run(0);
    let cost = |world: &World| world.jobs[&JobNumber(job)].cost;
    let report = |cost| Report { cost: Some(cost), ..Report::default() };
    let start = any_start(&world.jobs[&JobNumber(job)]);
    world.report(&start, report(2.0));
    world.report(&start, report(f64::NAN));
    world.report(&start, report(-1.0));
    world.report(&start, report(f64::INFINITY));
    // The answer knows best.
    let end = |world: &mut World, attempt, outcome, cost| {
        let ended = Ended { cost, ..Ended::bare(outcome) };
        world.tell(Event::AttemptEnded { job: JobNumber(job), attempt, incarnation: 1, ended });
    };
    end(&mut world, 1, busy(), Some(1.5));
    assert_eq!(cost(&world), Some(1.5));
    let (_, second) = world.pass_through(Duration::from_secs(2)).remove(0);
    world.report(&second, report(4.0));
    // One of which nothing comes has cost what it told.
    end(&mut world, 2, crate::world::lost(), None);
    assert_eq!(cost(&world), Some(5.5));
    let (_, third) = world.pass_through(Duration::from_secs(9)).remove(0);
    end(&mut world, 3, busy(), Some(f64::NAN));
    assert_eq!(cost(&world), Some(5.5));
    drop(third);
    let (_, fourth) = world.pass_through(Duration::from_secs(9)).remove(0);
    world.report(&fourth, report(0.5));
    world.cancel(job).0.unwrap();
    assert_eq!(cost(&world), Some(6.0), "one that is stopped too");
}

#[test]
fn what_an_attempt_told_that_the_engine_died_of_is_spent() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let job = world.run(0);
    let start = any_start(&world.jobs[&JobNumber(job)]);
    let report = |cost| Report { cost: Some(cost), ..Report::default() };
    world.report(&start, report(2.0));
    world.report(&start, report(3.0));
    world.restart();
    let (_, effects) = world.up("demo", &["act"], Vec::new());
    let again = starts(&effects).remove(0);
    world.report(&again, report(1.0));
    world.end(&again, done());
    assert_eq!(world.jobs[&JobNumber(job)].cost, Some(4.0));
}

#[test]
fn so_many_log_entries_of_a_job_are_kept_and_the_last_says_so() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let job = world.run(0);
    let start = any_start(&world.jobs[&JobNumber(job)]);
    let entry = |message: &str| JobEntry {
        level: "info".into(),
        stage: "s".into(),
        message: message.into(),
        ..JobEntry::default()
    };
    let say =
        |many, message: &str| Report { entries: vec![entry(message); many], ..Report::default() };
    assert_eq!(world.report(&start, say(3, "one")).unwrap().entries.len(), 3);
    let ended = Ended { entries: vec![entry("last"); 2], ..Ended::bare(busy()) };
    let (job, attempt) = (start.job, start.attempt);
    world.tell(Event::AttemptEnded { job, attempt, incarnation: 1, ended });
    let kept = &world.entries[&job];
    let said: Vec<_> = kept.iter().map(|e| (e.number, e.attempt, &*e.message)).collect();
    assert_eq!(said[2..4], [(3, 1, "one"), (4, 1, "last")]);
    let (_, second) = world.pass_through(Duration::from_secs(2)).remove(0);
    world.report(&second, say(600, "two"));
    world.report(&second, say(600, "three"));
    assert_eq!(world.report(&second, say(1, "four")).unwrap().entries, []);
    let kept = &world.entries[&job];
    assert_eq!((kept.len(), &*kept[1_000].level), (1_001, "warn"));
    assert!(kept[1_000].message.contains("is not"), "{}", kept[1_000].message);
    // A few long ones are as much.
    let other = world.run(0);
    let start = any_start(&world.jobs[&JobNumber(other)]);
    world.report(&start, say(30, &"x".repeat(100_000)));
    let kept = &world.entries[&JobNumber(other)];
    let bytes: usize = kept.iter().map(|e| e.message.len()).sum();
    assert_eq!((kept.len(), bytes <= bounds::ENTRIES_BYTES_MAX + 200), (16, true), "{bytes}");
    // The next engine counts on.
    world.restart();
    let (_, effects) = world.up("demo", &["act"], Vec::new());
    let again = starts(&effects).into_iter().find(|start| start.job.0 == other).unwrap();
    assert_eq!(world.report(&again, say(1, "more")).unwrap().entries, []);
}

#[test]
fn payloads_are_written_once_and_are_in_the_table_only() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    let payload: Arc<[u8]> = vec![7; bounds::PAYLOAD_BYTES_MAX].into();
    // Nobody else has it when the batch is over: neither a job that runs, nor one that waits in memory or in
    // the table, nor one that waits for its retry, whatever happens to it.
    let held = |payload: &Arc<[u8]>| Arc::strong_count(payload) - 1;
    let asked = || EnqueueAsk { payload: payload.clone(), ..ask([0; 16], "act") };
    let taken = |world: &mut World| {
        let written: Vec<_> =
            world.jobs.values_mut().filter_map(|row| row.payload.take()).collect();
        assert!(written.iter().all(|written| Arc::ptr_eq(written, &payload)));
        written.len()
    };
    for n in 0..6_u8 {
        let id = axwatch_model::JobId([n; 16]);
        let asked = Box::new(EnqueueAsk { id, ..asked() });
        let effects = world.tell(Event::Enqueue { request: RequestId(4), asked });
        let given: Vec<_> =
            starts(&effects).into_iter().filter_map(|start| start.payload).collect();
        assert_eq!(given.len(), usize::from(n == 0), "what starts with its batch has it at once");
    }
    assert_eq!((taken(&mut world), held(&payload)), (6, 0));
    let first = any_start(&world.jobs[&JobNumber(1)]);
    world.report(&first, Report { progress: Some((1, 2)), ..Report::default() });
    let later = Outcome::NotNow {
        after: Some(Duration::from_secs(86_400)),
        error: "later".into(),
        overloaded: false,
    };
    let second = starts(&world.end(&first, later)).remove(0);
    assert_eq!((second.job.0, second.payload.is_none()), (2, true), "the store has it");
    world.pause(3).unwrap();
    world.resume(3).0.unwrap();
    world.cancel(6).0.unwrap();
    world.redrive(6).unwrap();
    world.restart();
    world.up("demo", &["act"], Vec::new());
    assert_eq!((taken(&mut world), held(&payload)), (0, 0), "nothing of it is written again");
}

#[test]
fn a_plugin_that_asks_for_ever_more_jobs_leaves_room_for_everybody_else() {
    let bounds = Bounds { plugin_open_jobs_max: 4, open_jobs_max: 14, ..Bounds::default() };
    let mut world = World::with(Policy { bounds, ..policy() });
    world.up("demo", &["act"], Vec::new());
    world.declare(on_predicate("w", "p", "act")).unwrap();
    let many = |world: &mut World, by: Asker, many: usize| {
        let ask = || EnqueueAsk { by: by.clone(), ..ask([0; 16], "demo/act") };
        let refused = (0..many).filter_map(|_| world.try_ask(ask()).err());
        refused.map(|refusal| (refusal.kind, refusal.reason)).collect::<Vec<_>>()
    };
    let refused = many(&mut world, by("demo"), 5);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0].0, RefusalKind::Exhausted);
    assert!(refused[0].1.contains("4 jobs are open that plugin demo has asked"), "{refused:?}");
    let refused = many(&mut world, by("other"), 4);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].1.contains("7 jobs are open that plugins have"), "{refused:?}");
    // The next engine counts them too.
    world.restart();
    world.up("demo", &["act"], Vec::new());
    assert_eq!(many(&mut world, by("demo"), 1).len(), 1);
    world.claim("x", "p");
    assert_eq!((many(&mut world, Asker::User, 2), world.state.open_jobs()), (Vec::new(), 10));
    // Where one is over, there is room for another.
    world.cancel(1).0.unwrap();
    assert_eq!(many(&mut world, by("demo"), 2).len(), 1);
}

#[test]
fn a_job_knows_how_many_come_before_it() {
    let mut world = small();
    world.up("demo", &["act"], Vec::new());
    let _: Vec<_> = (0..6).map(|_| world.run(0)).collect();
    let ahead = |world: &World, n| {
        let waiting = world.state.waiting(&world.jobs[&JobNumber(n)], world.now).unwrap();
        assert!(matches!(waiting.reason, WaitReason::PluginBusy { .. }));
        (waiting.ahead, waiting.ahead_at_least)
    };
    assert_eq!(ahead(&world, 3), (1, false));
    assert_eq!(ahead(&world, 6), (2, true), "it waits in the table, behind others");
    let urgent = world.run(5);
    assert_eq!(ahead(&world, urgent), (0, false));
    assert_eq!(ahead(&world, 2), (1, false));
}

#[test]
fn what_is_below_a_fire_of_an_earlier_life_goes_with_its_watcher() {
    let mut world = World::new();
    world.up("demo", &["y"], Vec::new());
    world.declare(on_predicate("w", "p", "x")).unwrap();
    world.claim("x", "p");
    world.claim("x", "p");
    let row = &world.jobs[&JobNumber(1)];
    let parent = Some(ParentAsk { id: row.id, above: world.lineage(row) });
    let child = world.ask(EnqueueAsk { parent, ..ask([0; 16], "y") });
    world.restart();
    world.command("w", WatcherCommand::Remove).0.unwrap();
    assert_eq!(world.state_of(child), JobState::Cancelled);
}
