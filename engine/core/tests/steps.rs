//! What follows from what: the core told of events by hand, with a clock moved by hand, and everything
//! that it would write and do looked at.

#[path = "steps/announcing.rs"]
mod announcing;
#[path = "steps/asked.rs"]
mod asked;
#[path = "steps/plugins.rs"]
mod plugins;
#[path = "steps/positions.rs"]
mod positions;
#[path = "steps/stored.rs"]
mod stored_handlers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axwatch_core::{
    Answer, Bounds, Declaration, Effect, Ended, EnqueueAsk, Enqueued, Event, Outcome, Policy,
    Reading, Refusal, Registration, RequestId, Restoring, Snapshot, Start, WatcherCommand,
};
use axwatch_model::{
    Attributes, Declared, JobId, JobNumber, JobRow, JobState, Mono, Owner, PluginName, RevisionRow,
    Seq, StoreId, StructuralFilter, WatcherKey, WatcherRow, WatcherState,
};

use crate::world::{
    World, ask, busy, done, lost, on_predicate, policy, registration, starts, stored,
};
use axwatch_query::{AliasChange, AliasChangeKind};

impl World {
    fn new() -> World {
        World::with(policy())
    }

    /// The engine dies and starts again on what was written.
    fn restart(&mut self) -> Vec<Effect> {
        self.die().into_iter().flat_map(|event| self.tell(event)).collect::<Vec<_>>()
    }

    /// Tells one event, commits, reads what is asked for, and gives what would be done.
    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let mut told = Vec::new();
        for effect in self.write([event]) {
            if let Effect::Load { lane, from, limit } = effect {
                let rows = self.read(&lane, from, limit);
                told.extend(self.tell(Event::Loaded { lane, rows }));
            } else {
                told.push(effect);
            }
        }
        told
    }

    fn pass(&mut self, span: Duration) -> Vec<Effect> {
        self.advance(span);
        self.tell(Event::Tick)
    }

    /// Lets time pass to each moment at which something is due, up to `span`; gives what started, and
    /// when it leaves.
    fn pass_through(&mut self, span: Duration) -> Vec<(Mono, Start)> {
        let end = self.now.mono.plus(span);
        let mut started = Vec::new();
        while let Some(wake) = self.state.next_wake().filter(|wake| *wake <= end) {
            let effects = self.pass(wake.since(self.now.mono));
            started
                .extend(starts(&effects).into_iter().map(|start| (self.leaves(start.job), start)));
        }
        self.pass(end.since(self.now.mono));
        started
    }

    fn up(
        &mut self,
        plugin: &str,
        handlers: &[&str],
        watchers: Vec<Declaration>,
    ) -> (Vec<Result<(), Refusal>>, Vec<Effect>) {
        let effects = self.tell(Event::PluginUp {
            request: RequestId(1),
            plugin: plugin.parse().unwrap(),
            incarnation: 1,
            version: "1.0".into(),
            max_in_flight: 64,
            registration: registration(handlers, watchers),
        });
        (verdicts(&effects), effects)
    }

    fn declare(&mut self, declaration: Declaration) -> Result<WatcherRow, Refusal> {
        let effects = self.tell(Event::Declare { request: RequestId(2), declaration });
        watcher_answer(&effects)
    }

    fn command(
        &mut self,
        local: &str,
        command: WatcherCommand,
    ) -> (Result<WatcherRow, Refusal>, Vec<Effect>) {
        let watcher = WatcherKey { owner: Owner::User, local: local.parse().unwrap() };
        let effects = self.tell(Event::Command { request: RequestId(3), watcher, command });
        (watcher_answer(&effects), effects)
    }

    fn claim(&mut self, subject: &str, predicate: &str) -> Vec<Effect> {
        self.seq += 1;
        let stored = stored(self.seq, subject, predicate, self.now);
        self.tell(Event::Match { stored: Arc::new(stored) })
    }

    /// A claim that changes the aliases, of a person or a plugin.
    fn alias(&mut self, change: &AliasChange, appended_by: &str) -> Vec<Effect> {
        self.seq += 1;
        let mut stored = stored(self.seq, AliasChange::SUBJECT, change.predicate(), self.now);
        stored.attestation.attributes = Attributes::parse(&change.attributes()).unwrap();
        stored.appended_by = appended_by.into();
        self.aliases.extend(AliasChange::of(&stored).map(|change| (stored.seq, change)));
        self.tell(Event::Match { stored: Arc::new(stored) })
    }

    fn end(&mut self, start: &Start, outcome: Outcome) -> Vec<Effect> {
        let ended = Ended { quick: true, ..Ended::bare(outcome) };
        self.tell(Event::AttemptEnded {
            job: start.job,
            attempt: start.attempt,
            incarnation: start.incarnation,
            ended,
        })
    }

    fn records(&self, kind: &str) -> Vec<serde_json::Value> {
        let lines = self.audit.iter().flat_map(|audit| audit.records.lines());
        let values = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        values.filter(|record| record["type"] == kind).collect()
    }
}

fn in_ax(local: &str, text: &str, handler: &str) -> Declaration {
    Declaration { declared: Declared::Ax(text.into()), ..on_predicate(local, "_", handler) }
}

fn verdicts(effects: &[Effect]) -> Vec<Result<(), Refusal>> {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Registered(verdicts), .. } => Some(verdicts.clone()),
        _ => None,
    });
    let verdicts = found.expect("a registration is answered").unwrap();
    verdicts.watchers.into_iter().map(|(_, verdict)| verdict).collect()
}

fn watcher_answer(effects: &[Effect]) -> Result<WatcherRow, Refusal> {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Watcher(answer), .. } => Some(answer.clone()),
        _ => None,
    });
    found.expect("a watcher's request is answered").map(|row| *row)
}

fn job_answer(effects: &[Effect]) -> Result<JobRow, Refusal> {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Job(answer), .. } => Some(answer.clone()),
        _ => None,
    });
    found.expect("a job's request is answered").map(|row| *row)
}

fn enqueued(effects: &[Effect]) -> Result<Enqueued, Refusal> {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Enqueued(answer), .. } => Some(answer.clone()),
        _ => None,
    });
    found.expect("who asks for a job is answered")
}

fn new_job(effects: &[Effect]) -> Result<JobRow, Refusal> {
    enqueued(effects).map(|enqueued| match enqueued {
        Enqueued::New(row) => *row,
        standing @ Enqueued::Standing { .. } => panic!("not a new job: {standing:?}"),
    })
}

fn fired(effects: &[Effect]) -> u32 {
    effects
        .iter()
        .map(|effect| if let Effect::Fired { fires, .. } = effect { *fires } else { 0 })
        .sum()
}

fn second() -> Duration {
    Duration::from_secs(1)
}

#[test]
fn jobs_start_before_all_watchers_are_understood_and_claims_are_matched_after() {
    let mut world = World::new();
    let watchers = || {
        let on = |local| on_predicate(local, "deployed", "act");
        vec![on("one"), on("two"), on("three"), in_ax("broken", "is deployed", "act")]
    };
    world.up("demo", &["act"], watchers());
    world.declare(in_ax("behind", "is deployed", "demo.act")).unwrap();
    assert_eq!(fired(&world.claim("api", "deployed")), 5);
    let row = world.watchers.get_mut("demo-broken").unwrap();
    row.declared = Declared::Ax("is is".into());

    // As the engine starts: the jobs come back while nothing is known of what watchers wait for.
    let mut snapshot = world.snapshot();
    let rows = std::mem::take(&mut snapshot.watchers);
    let open = world.start(Snapshot::default(), world.now).events(usize::MAX);
    let mut restoring = Restoring::new(world.policy.clone(), snapshot, world.now);
    for some in rows.chunks(2) {
        restoring.watchers(some.to_vec(), world.now);
    }
    world.state = restoring.finish(world.now);
    open.into_iter().for_each(|event| drop(world.tell(event)));
    let (_, effects) = world.up("demo", &["act"], watchers()[..3].to_vec());
    assert!(!starts(&effects).is_empty(), "its jobs run again");
    assert!(!world.state.is_understood() && !world.state.may_match());
    let asked = Box::new(ask([7; 16], "demo/act"));
    new_job(&world.tell(Event::Enqueue { request: RequestId(4), asked })).unwrap();

    // Claims are taken, and wait.
    world.seq += 1;
    let waits = Arc::new(stored(world.seq, "db", "deployed", world.now));
    assert_eq!(fired(&world.tell(Event::Deferred { stored: waits.clone() })), 0);
    let mut steps = 0;
    while !world.state.is_understood() {
        let (done, of) = (2 * steps, 5);
        assert_eq!(world.state.matching().reading, Some(Reading { done, of }));
        assert!(!world.state.may_match() && world.state.next_segment().is_none());
        world.tell(Event::Understand { watchers: 2 });
        steps += 1;
    }
    assert_eq!(steps, 3, "two at a time");
    assert_eq!(world.state.matching().reading, None);
    assert!(world.state.may_match());
    assert_eq!(fired(&world.tell(Event::Match { stored: waits })), 4);
    assert_eq!(world.watchers["demo-broken"].state, WatcherState::Retired);
}

#[test]
fn a_claim_fires_starts_and_settles() {
    let mut world = World::new();
    let (verdicts, _) = world.up("demo", &["act"], vec![on_predicate("w", "deployed", "act")]);
    assert_eq!(verdicts, [Ok(())]);
    let effects = world.claim("api", "deployed");
    let start = &starts(&effects)[0];
    assert_eq!(
        (fired(&effects), start.attempt, &*start.handler, &*start.watcher),
        (1, 1, "act", "demo-w")
    );
    let key =
        WatcherKey { owner: Owner::Plugin("demo".parse().unwrap()), local: "w".parse().unwrap() };
    assert_eq!(start.id, JobId::of_fire(StoreId([1; 16]), &key, 0, &"A1".parse().unwrap(), "act"));
    assert_eq!(world.jobs[&start.job].state, JobState::Running);

    world.end(start, done());
    let row = &world.jobs[&start.job];
    assert_eq!((row.state, row.attempts, row.leaves.len()), (JobState::Completed, 1, 3));
    assert_eq!(world.records("attempt_ended")[0]["outcome"], "succeeded");
    assert_eq!(fired(&world.claim("api", "rolled back")), 0);
    let counters = world.watchers(false).remove(0).counters;
    assert_eq!((counters.matches, counters.fires, counters.errors), (1, 1, 0));
}

#[test]
fn every_handler_of_a_match_is_a_job_of_its_own() {
    let mut world = World::new();
    world.up("demo", &["a", "b"], Vec::new());
    world.declare(in_ax("w", "is deployed so a", "b")).unwrap();
    let effects = world.claim("api", "DEPLOYED");
    assert_eq!(fired(&effects), 2);
    let handlers: Vec<_> = starts(&effects).iter().map(|start| start.handler.to_string()).collect();
    assert_eq!(handlers, ["a", "b"]);
    assert_eq!(world.records("matched").len(), 1);
}

#[test]
fn the_same_declaration_changes_nothing_and_another_is_a_revision() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let first = world.declare(in_ax("w", "is deployed", "act")).unwrap();
    let records = world.state.audit_size();
    assert_eq!(world.declare(in_ax("w", "is deployed", "act")).unwrap(), first);
    assert_eq!(world.state.audit_size(), records, "no record for what changed nothing");
    let second = world.declare(in_ax("w", "is released", "act")).unwrap();
    assert_eq!((first.revision, second.revision, second.generation), (1, 2, 0));
    assert_eq!(fired(&world.claim("api", "deployed")), 0);
    assert_eq!(fired(&world.claim("api", "released")), 1);
}

#[test]
fn declarations_are_refused_one_by_one() {
    let mut world = World::new();
    world.up("a", &["x"], vec![on_predicate("b-c", "p", "x")]);
    let negative = Declaration { max_fires_per_second: -1, ..on_predicate("neg", "p", "y") };
    let fast = Declaration { max_fires_per_second: 100_001, ..on_predicate("fast", "p", "y") };
    let empty = Declaration {
        declared: Declared::Structural(StructuralFilter::default()),
        ..on_predicate("empty", "p", "y")
    };
    let (verdicts, _) = world.up(
        "a-b",
        &["y"],
        vec![
            on_predicate("good", "p", "y"),
            on_predicate("c", "p", "y"),
            on_predicate("other", "p", "x"),
            negative,
            fast,
            empty,
            in_ax("broken", "is", "y"),
            on_predicate("good", "q", "y"),
            on_predicate("", "q", "y"),
        ],
    );
    let reasons = [
        "taken",
        "did not announce",
        "-1 is not between",
        "100001 is not between",
        "filters on nothing",
        "not understood",
        "declared twice",
        "1 to 256 bytes",
    ];
    assert_eq!(verdicts[0], Ok(()));
    for (verdict, reason) in verdicts[1..].iter().zip(reasons) {
        let refusal = verdict.clone().unwrap_err();
        assert!(refusal.reason.contains(reason), "{:?} should say {reason:?}", refusal.reason);
    }
    assert_eq!(world.records("watcher_refused").len(), 8);
    let effects = world.claim("api", "p");
    assert_eq!(fired(&effects), 2, "the other registrations stand");
    let refused = world
        .watchers(false)
        .into_iter()
        .filter(|view| view.row.state == WatcherState::Refused)
        .count();
    assert_eq!(refused, 5, "kept where people look, when they have an id of their own");
}

#[test]
fn a_watcher_that_its_plugin_drops_is_retired_and_comes_back_as_a_new_generation() {
    let mut world = World::new();
    let declared = || vec![on_predicate("w", "p", "act")];
    world.up("demo", &["act"], declared());
    world.tell(Event::PluginDown {
        plugin: "demo".parse().unwrap(),
        incarnation: 1,
        reason: "stopped".into(),
        crashed: false,
    });
    for _ in 0..100 {
        world.claim("x", "p");
    }
    world.up("demo", &[], Vec::new());
    let cancelled = world.jobs.values().filter(|row| row.state == JobState::Cancelled).count();
    assert_eq!(cancelled, 100, "those in the table only too");
    assert_eq!(world.records("watcher_retired")[0]["cancelled"], 100);
    assert_eq!(fired(&world.claim("x", "p")), 0);
    world.up("demo", &["act"], declared());
    let effects = world.claim("x", "p");
    assert_eq!(fired(&effects), 1);
    assert_eq!(world.watchers["demo-w"].generation, 1);
}

#[test]
fn identical_registration_after_a_crash_loses_and_repeats_nothing() {
    let mut world = World::new();
    let declared = || vec![on_predicate("w", "p", "act")];
    world.up("demo", &["act"], declared());
    let running = starts(&world.claim("x", "p"));
    world.tell(Event::PluginDown {
        plugin: "demo".parse().unwrap(),
        incarnation: 1,
        reason: "exit 1".into(),
        crashed: true,
    });
    assert_eq!(fired(&world.claim("x", "p")), 1, "its watchers stay live");
    let (_, effects) = world.up("demo", &["act"], declared());
    let mut again = starts(&effects);
    world.end(&again[0], done());
    again.extend(starts(&world.pass(Duration::from_secs(2))));
    again.sort_by_key(|start| start.job);
    assert_eq!(again.len(), 2);
    assert_eq!(
        (again[0].id, again[0].attempt),
        (running[0].id, 2),
        "the same job, a later attempt"
    );
    assert_eq!(world.watchers["demo-w"].revision, 1);
}

#[test]
fn a_users_watcher_waits_for_its_handler_and_keeps_what_it_missed() {
    let mut world = World::new();
    let row = world.declare(in_ax("w", "is p", "late.act")).unwrap();
    assert_eq!(row.state, WatcherState::WaitingForHandler);
    let effects = world.claim("x", "p");
    assert_eq!((fired(&effects), starts(&effects).len()), (1, 0));
    let (_, effects) = world.up("late", &["late.act"], Vec::new());
    assert_eq!(starts(&effects).len(), 1);
    assert_eq!(world.watchers["user-w"].state, WatcherState::Live);
}

#[test]
fn a_bare_handler_that_two_plugins_have_is_refused_with_both() {
    let mut world = World::new();
    world.up("a", &["act"], Vec::new());
    world.up("b", &["act"], Vec::new());
    let refusal = world.declare(in_ax("w", "is p", "act")).unwrap_err();
    assert!(refusal.reason.contains("a/act, b/act"), "{}", refusal.reason);
    world.declare(in_ax("w", "is p", "b/act")).unwrap();
    let effects = world.claim("x", "p");
    assert_eq!((starts(&effects)[0].plugin.as_str(), &*starts(&effects)[0].handler), ("b", "act"));
}

#[test]
fn a_limit_delays_and_never_drops() {
    let mut world = World::new();
    let limited = Declaration { max_fires_per_second: 5, ..on_predicate("w", "p", "act") };
    world.up("demo", &["act"], vec![limited]);
    let mut stamps = Vec::new();
    for _ in 0..200 {
        assert!(starts(&world.claim("x", "p")).is_empty(), "a new limiter is closed for a second");
    }
    for _ in 0..60 {
        for (at, start) in world.pass_through(second()) {
            stamps.push(at.0);
            world.end(&start, done());
        }
    }
    assert_eq!(stamps.len(), 200);
    assert!(
        stamps.windows(6).all(|six| six[5] - six[0] >= 1_000_000_000),
        "never six in a half-open second"
    );
    assert!(world.records("limited").len() >= 190);
}

#[test]
fn a_lane_keeps_few_jobs_in_memory_and_reads_the_rest_back_in_order() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    world.declare(in_ax("w", "is p", "act")).unwrap();
    world.command("w", WatcherCommand::Pause { skip: false }).0.unwrap();
    for _ in 0..500 {
        assert!(starts(&world.claim("x", "p")).is_empty());
    }
    let (_, effects) = world.command("w", WatcherCommand::Resume { drop: false });
    let mut running: VecDeque<_> = starts(&effects).into();
    let mut order = Vec::new();
    while let Some(start) = running.pop_front() {
        order.push(start.job);
        running.extend(starts(&world.end(&start, done())));
    }
    assert_eq!(order.len(), 500);
    assert!(order.is_sorted(), "first attempts start in the order of the log");
    assert!(world.jobs.values().all(|row| row.state == JobState::Completed));
}

#[test]
fn slots_grow_with_quick_answers_and_halve_with_missed_deadlines() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let mut running = Vec::new();
    for _ in 0..60 {
        running.extend(starts(&world.claim("x", "p")));
    }
    assert_eq!(running.len(), 4, "a new process starts at four");
    let more = starts(&world.end(&running[0], done()));
    assert_eq!(more.len(), 2, "one for the freed slot, one for the quick answer");
    let missed = Outcome::Retryable { error: "no answer".into(), missed_deadline: true };
    assert!(
        starts(&world.end(&running[1], missed)).is_empty(),
        "five slots became two, four are in use"
    );
}

#[test]
fn retries_wait_longer_each_time_and_end_as_a_dead_letter() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let mut start = starts(&world.claim("x", "p")).remove(0);
    let mut attempts = 1;
    loop {
        let effects = world.end(&start, busy());
        if let Some(Effect::GaveUp { attempts: after, .. }) =
            effects.iter().find(|e| matches!(e, Effect::GaveUp { .. }))
        {
            assert_eq!(*after, attempts);
            break;
        }
        let (_, next) = world.pass_through(Duration::from_secs(2_300)).remove(0);
        assert_eq!((next.id, next.attempt), (start.id, attempts + 1));
        start = next;
        attempts += 1;
    }
    assert_eq!(attempts, 30);
    let row = world.jobs[&start.job].clone();
    assert_eq!((row.state, row.error.as_deref()), (JobState::Failed, Some("busy")));
    assert_eq!(world.records("dead_lettered").len(), 1);

    let effects = world.tell(world.redrive_of(&row, 9));
    assert_eq!(job_answer(&effects).unwrap().id, start.id);
    let again = starts(&effects).remove(0);
    assert_eq!((again.id, again.attempt), (start.id, 31), "a dead letter keeps its id");
    world.end(&again, done());
    let once_more = world.redrive_of(&world.jobs[&again.job], 10);
    let refusal = job_answer(&world.tell(once_more)).unwrap_err();
    assert!(refusal.reason.contains("completed"));
}

#[test]
fn time_in_which_nobody_could_run_it_does_not_age_a_job() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let start = starts(&world.claim("x", "p")).remove(0);
    world.end(&start, busy());
    world.tell(Event::PluginDown {
        plugin: "demo".parse().unwrap(),
        incarnation: 1,
        reason: "stopped".into(),
        crashed: false,
    });
    world.pass_through(Duration::from_secs(40 * 3_600));
    let (_, effects) = world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let again = starts(&effects).remove(0);
    assert!(
        world.end(&again, busy()).iter().all(|effect| !matches!(effect, Effect::GaveUp { .. }))
    );
    let (_, third) = world.pass_through(Duration::from_secs(10)).remove(0);
    world.pass(Duration::from_secs(25 * 3_600));
    assert!(world.end(&third, busy()).iter().any(|effect| matches!(effect, Effect::GaveUp { .. })));
}

#[test]
fn not_now_burns_no_attempt_and_permanent_is_at_once() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let start = starts(&world.claim("x", "p")).remove(0);
    world.end(
        &start,
        Outcome::NotNow {
            after: Some(Duration::from_secs(7)),
            error: "later".into(),
            overloaded: false,
        },
    );
    assert!(world.pass_through(Duration::from_millis(6_999)).is_empty());
    let (_, again) = world.pass_through(Duration::from_millis(1)).remove(0);
    assert_eq!(world.jobs[&start.job].counted, 0);
    world.end(&again, Outcome::Permanent { error: "never".into() });
    assert_eq!(world.jobs[&start.job].state, JobState::Failed);
    let counters = world.watchers(false).remove(0).counters;
    assert_eq!(counters.errors, 1, "not now is no error");
}

#[test]
fn late_answers_change_nothing() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let first = starts(&world.claim("x", "p")).remove(0);
    world.tell(Event::PluginDown {
        plugin: "demo".parse().unwrap(),
        incarnation: 1,
        reason: "killed".into(),
        crashed: false,
    });
    assert!(starts(&world.end(&first, lost())).is_empty(), "the call ends with its process");
    assert_eq!(world.jobs[&first.job].state, JobState::Queued);
    let (_, effects) = world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let second = starts(&effects).remove(0);
    world.end(&first, done());
    assert_eq!(world.jobs[&first.job].state, JobState::Running);
    assert!(world.records("late_answer").is_empty(), "that it was lost was all that came of it");
    world.end(&second, done());
    assert_eq!(world.jobs[&first.job].state, JobState::Completed);
}

#[test]
fn each_attempt_has_one_late_answer_in_the_audit_at_most() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let slow = starts(&world.claim("x", "p")).remove(0);
    let missed = Outcome::Retryable { error: "no answer".into(), missed_deadline: true };
    world.end(&slow, missed);
    let (_, again) = world.pass_through(Duration::from_secs(2)).remove(0);
    world.end(&slow, done());
    let running = world.jobs[&slow.job].clone();
    assert_eq!(running.state, JobState::Running, "the second attempt goes on");
    let told = world.records("late_answer");
    assert_eq!((told.len(), &told[0]["outcome"]), (1, &"succeeded".into()));
    assert_eq!(told[0]["job"], slow.id.to_string());
    assert_eq!((&told[0]["attempt"], &told[0]["incarnation"]), (&1.into(), &1.into()));
    assert_eq!(running.leaves.len(), 5, "the row knows of the record");
    world.end(&again, done());
    let completed = world.jobs[&slow.job].clone();
    // Answered twice, and answers to what never was.
    for start in [&slow, &again, &again, &Start { attempt: 9, ..again.clone() }] {
        world.end(start, busy());
        world.end(&Start { incarnation: 7, ..start.clone() }, busy());
    }
    assert_eq!(world.records("late_answer").len(), 2);
    assert_eq!(world.jobs[&slow.job], completed);
    assert!(world.verify_audit().ok);
}

#[test]
fn a_connection_that_breaks_under_several_jobs_charges_none() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let running: Vec<_> = (0..3).flat_map(|_| starts(&world.claim("x", "p"))).collect();
    for start in &running {
        assert!(
            starts(&world.end(start, lost())).is_empty(),
            "nothing starts on a broken connection"
        );
    }
    assert!(world.jobs.values().all(|row| row.counted == 0 && row.uncounted == 0));
    let mut alone = world.pass_through(second());
    for _ in 0..3 {
        assert_eq!(alone.len(), 1, "each of them runs with nothing else beside it");
        let (at, start) = alone.remove(0);
        alone = starts(&world.end(&start, done())).into_iter().map(|start| (at, start)).collect();
    }
    assert!(world.jobs.values().all(|row| row.state == JobState::Completed));
}

#[test]
fn what_was_under_way_at_a_kill_is_unknown_and_tried_again_at_once() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let running: Vec<_> = (0..3).flat_map(|_| starts(&world.claim("x", "p"))).collect();
    world.restart();
    assert_eq!(world.records("attempt_ended").len(), 3);
    assert!(world.records("attempt_ended").iter().all(|record| record["outcome"] == "unknown"));
    let (_, effects) = world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let mut again = starts(&effects);
    again.sort_by_key(|start| start.job);
    assert_eq!(again.len(), 3);
    assert!(
        running
            .iter()
            .zip(&again)
            .all(|(before, after)| before.id == after.id && after.attempt == 2)
    );
    let counters = world.watchers(false).remove(0).counters;
    assert_eq!((counters.matches, counters.fires), (3, 3), "counted again from the audit");
}

#[test]
fn jobs_of_the_api_find_their_plugin_or_say_who_there_is() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let run = |world: &mut World, handler: &str| {
        let asked = EnqueueAsk { payload: b"hi".as_slice().into(), ..ask([8; 16], handler) };
        world.tell(Event::Enqueue { request: RequestId(4), asked: Box::new(asked) })
    };
    let effects = run(&mut world, "act");
    assert_eq!(&*new_job(&effects).unwrap().handler, "demo/act");
    let start = starts(&effects).remove(0);
    assert_eq!((&*start.handler, start.payload.as_deref()), ("act", Some(b"hi".as_slice())));
    let refusal = new_job(&run(&mut world, "nope")).unwrap_err();
    assert!(refusal.reason.contains("known are demo/act"), "{}", refusal.reason);
}

#[test]
fn draining_starts_nothing_and_lets_what_runs_end() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let running = starts(&world.claim("x", "p")).remove(0);
    world.tell(Event::Drain);
    assert!(starts(&world.claim("x", "p")).is_empty());
    assert!(starts(&world.end(&running, done())).is_empty());
    assert_eq!(world.jobs[&running.job].state, JobState::Completed);
}

#[test]
fn claims_behind_the_head_are_matched_with_the_watchers_that_were_there() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    world.seq = 3;
    let third = stored(3, "x", "p", world.now);
    world.tell(Event::Deferred { stored: Arc::new(third) });
    let later = world.declare(in_ax("later", "is p", "act")).unwrap();
    assert_eq!(later.since_seq, Seq(3));
    let row = world.watchers(false).remove(0).row;
    assert_eq!(row.state, WatcherState::CatchingUp);
    for seq in 1..=3 {
        let stored = stored(seq, "x", "p", world.now);
        assert_eq!(fired(&world.tell(Event::Match { stored: Arc::new(stored) })), 1);
    }
    assert_eq!(world.watchers(false).remove(0).row.state, WatcherState::Live);
    assert_eq!(fired(&world.claim("x", "p")), 2);
}

#[test]
fn what_the_core_writes_is_an_audit_that_verifies() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    for _ in 0..20 {
        for start in starts(&world.claim("x", "p")) {
            world.end(&start, done());
        }
    }
    let report = world.verify_audit();
    assert!(report.ok, "{report:?}");
    assert_eq!(report.records, world.state.audit_size().0);
}

#[test]
fn a_plugin_name_is_no_prefix_of_another() {
    let mut world = World::new();
    world.up("git", &["a"], vec![on_predicate("w", "p", "a")]);
    world.up("git-hub", &["b"], vec![on_predicate("w", "p", "b")]);
    let git: PluginName = "git".parse().unwrap();
    world.tell(Event::Announced {
        request: RequestId(5),
        plugin: git,
        incarnation: 1,
        registration: Registration::default(),
    });
    assert_eq!(fired(&world.claim("x", "p")), 1);
    assert_eq!(world.watchers["git-hub-w"].state, WatcherState::Live);
}

#[test]
fn records_are_canonical_json() {
    let mut world = World::new();
    let limited =
        Declaration { max_fires_per_second: 1, ..on_predicate("w\u{7f}é\"", "p", "act") };
    world.up(
        "demo",
        &["act"],
        vec![
            on_predicate("w", "p", "act"),
            limited.clone(),
            Declaration { local: "x".into(), ..limited },
        ],
    );
    let start = starts(&world.claim("x", "p")).remove(0);
    world.end(&start, busy());
    world
        .pass_through(Duration::from_secs(3))
        .into_iter()
        .for_each(|(_, start)| drop(world.end(&start, done())));
    world.tell(Event::PluginDown {
        plugin: "demo".parse().unwrap(),
        incarnation: 1,
        reason: "a\n\u{1}b".into(),
        crashed: true,
    });
    world.up("demo", &[], Vec::new());
    let lines: Vec<_> = world.audit.iter().flat_map(|audit| audit.records.lines()).collect();
    let kinds: std::collections::BTreeSet<_> = lines
        .iter()
        .map(|line| {
            axwatch_core::audit::check_record(line)
                .unwrap_or_else(|fault| panic!("{fault}: {line}"))["type"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    let expected = [
        "attempt_ended",
        "attempt_started",
        "engine_started",
        "limited",
        "matched",
        "plugin_down",
        "plugin_up",
        "watcher_refused",
        "watcher_registered",
        "watcher_retired",
    ];
    assert!(expected.iter().all(|kind| kinds.contains(*kind)), "{kinds:?}");
}

#[test]
fn a_job_that_crashes_its_plugin_is_found_and_charged_alone() {
    let mut world = World::new();
    let declared = || vec![on_predicate("w", "p", "act")];
    world.up("demo", &["act"], declared());
    let mut running: Vec<_> = (0..4).flat_map(|_| starts(&world.claim("x", "p"))).collect();
    for _ in 0..6 {
        world.claim("x", "p");
    }
    let poison = running[2].job;
    let mut crashes = 0;
    loop {
        if let Some(place) = running.iter().position(|start| start.job == poison) {
            crashes += 1;
            let together: Vec<_> = running.drain(..).map(|start| start.job).collect();
            let down = Event::PluginDown {
                plugin: "demo".parse().unwrap(),
                incarnation: 1,
                reason: "signal 11".into(),
                crashed: true,
            };
            world.tell(down);
            assert!(crashes == 1 || together == [poison], "{together:?} at {place}");
            running.extend(starts(&world.up("demo", &["act"], declared()).1));
        } else if let Some(start) = running.pop() {
            running.extend(starts(&world.end(&start, done())));
        } else {
            let due = world.pass_through(Duration::from_secs(3_000));
            if due.is_empty() {
                break;
            }
            running.extend(due.into_iter().map(|(_, start)| start));
        }
    }
    let dead: Vec<_> = world.jobs.values().filter(|row| row.state == JobState::Failed).collect();
    assert_eq!((dead.len(), dead[0].number, dead[0].counted), (1, poison, 30));
    assert!(
        world
            .jobs
            .values()
            .filter(|row| row.number != poison)
            .all(|row| row.state == JobState::Completed && row.counted == 0)
    );
    assert_eq!(crashes, 31, "once among others, then alone until it is given up");
}

#[test]
fn an_announcement_that_lacks_something_for_no_good_reason_is_not_believed_at_once() {
    let mut world = World::new();
    let both = || vec![on_predicate("w", "p", "act"), on_predicate("v", "p", "more")];
    let announce = |world: &mut World, handlers: &[&str], watchers, doubtful| {
        let registration = Registration { doubtful, ..registration(handlers, watchers) };
        let plugin = "demo".parse().unwrap();
        world.tell(Event::Announced { request: RequestId(1), plugin, incarnation: 1, registration })
    };
    world.up("demo", &["act", "more"], both());
    let effects = announce(&mut world, &["act"], vec![on_predicate("w", "p", "act")], true);
    let doubted = effects
        .iter()
        .any(|effect| matches!(effect, Effect::Doubted { handlers, .. } if handlers == &["more"]));
    assert!(doubted, "loudly");
    let effects = world.claim("x", "p");
    assert_eq!((fired(&effects), starts(&effects).len()), (2, 1), "the other job is held");
    let effects = announce(&mut world, &["act", "more"], both(), false);
    assert_eq!(starts(&effects).len(), 1, "and runs when its handler is back");

    announce(&mut world, &["act"], vec![on_predicate("w", "p", "act")], true);
    world.pass_through(Duration::from_secs(599));
    assert_eq!(fired(&world.claim("x", "p")), 2);
    world.pass_through(Duration::from_secs(2));
    assert_eq!(fired(&world.claim("x", "p")), 1, "after ten minutes it is believed");
}

#[test]
fn a_wall_clock_that_jumps_ages_no_job() {
    let mut world = World::new();
    world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let start = starts(&world.claim("x", "p")).remove(0);
    world.end(&start, busy());
    world.now.wall = world.now.wall.plus(Duration::from_secs(10 * 365 * 86_400));
    let (_, again) = world.pass_through(second() * 2).remove(0);
    assert!(
        world.end(&again, busy()).iter().all(|effect| !matches!(effect, Effect::GaveUp { .. }))
    );
}

#[test]
fn a_retired_watcher_starts_nothing_more() {
    let mut world = World::new();
    let later = Outcome::NotNow { after: None, error: "later".into(), overloaded: false };
    world.up("demo", &["act"], Vec::new());
    world.declare(in_ax("w", "is p", "act")).unwrap();
    let running: Vec<_> = (0..3).flat_map(|_| starts(&world.claim("x", "p"))).collect();
    world.command("w", WatcherCommand::Remove).0.unwrap();
    for start in &running {
        world.end(start, later.clone());
    }
    assert!(world.pass_through(Duration::from_secs(60)).is_empty());
    assert!(world.jobs.values().all(|row| row.state == JobState::Cancelled));
}

#[test]
fn jobs_that_waited_for_a_handler_find_it_after_a_restart() {
    let mut world = World::new();
    world.declare(in_ax("w", "is p", "act")).unwrap();
    world.command("w", WatcherCommand::Pause { skip: false }).0.unwrap();
    world.claim("x", "p");
    world.up("demo", &["act"], Vec::new());
    world.restart();
    world.up("demo", &["act"], Vec::new());
    let (_, effects) = world.command("w", WatcherCommand::Resume { drop: false });
    assert_eq!(starts(&effects).len(), 1);
}

#[test]
fn a_full_memory_keeps_a_place_for_those_who_can_run() {
    let bounds = Bounds { jobs_in_memory_max: 64, lane_waiting_max: 16, ..Bounds::default() };
    let mut world = World::with(Policy { bounds, ..policy() });
    let away: Vec<_> = (0..8).map(|i| in_ax(&format!("away{i}"), "is p", "away")).collect();
    away.into_iter().for_each(|declaration| drop(world.declare(declaration).unwrap()));
    for _ in 0..16 {
        world.claim("x", "p");
    }
    world.up("demo", &["act"], Vec::new());
    world.declare(in_ax("here", "is q", "act")).unwrap();
    let mut running: VecDeque<_> = (0..40).flat_map(|_| starts(&world.claim("x", "q"))).collect();
    let mut done_here = 0;
    while let Some(start) = running.pop_front() {
        done_here += 1;
        running.extend(starts(&world.end(&start, done())));
    }
    assert_eq!(done_here, 40);
    let (_, effects) = world.up("late", &["away"], Vec::new());
    let mut running: VecDeque<_> = starts(&effects).into();
    while let Some(start) = running.pop_front() {
        running.extend(starts(&world.end(&start, done())));
    }
    assert!(
        world.jobs.values().all(|row| row.state == JobState::Completed),
        "those that waited in the table too"
    );
}

#[test]
fn a_resumed_watcher_wakes_its_suspects() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    world.declare(in_ax("w", "is p", "act")).unwrap();
    let running: Vec<_> = (0..2).flat_map(|_| starts(&world.claim("x", "p"))).collect();
    running.iter().for_each(|start| drop(world.end(start, lost())));
    world.command("w", WatcherCommand::Pause { skip: false }).0.unwrap();
    world.pass_through(Duration::from_secs(20));
    let (_, effects) = world.command("w", WatcherCommand::Resume { drop: false });
    assert_eq!(starts(&effects).len(), 1);
}

/// What each job waits for, in words, with the jobs ahead of it.
fn waits(world: &World) -> Vec<String> {
    let words = |row: &JobRow| match world.state.waiting(row, world.now) {
        None => format!("{}", row.state),
        Some(waiting) => {
            let kind = format!("{:?}", waiting.reason);
            let kind = kind.split(['(', ' ', '{']).next().unwrap().to_owned();
            let more = if waiting.ahead_at_least { "+" } else { "" };
            let wait = waiting.until.map(|until| until.since(world.now.wall).as_millis());
            let wait = wait.map(|ms| format!(" {ms} ms")).unwrap_or_default();
            format!("{kind} {}{more}{wait}", waiting.ahead)
        }
    };
    world.jobs.values().map(words).collect()
}

#[test]
fn a_waiting_job_can_be_told_what_it_waits_for() {
    let bounds = Bounds { lane_waiting_max: 3, slots_first: 1, ..Bounds::default() };
    let mut world = World::with(Policy { bounds, ..policy() });
    world.declare(in_ax("w", "is p", "act")).unwrap();
    world.claim("x", "p");
    assert_eq!(waits(&world), ["NoHandler 0"]);
    let overview = world.state.overview();
    assert_eq!(overview.watchers, [(WatcherState::WaitingForHandler, 1)]);
    assert_eq!((overview.troubled.len(), overview.held_jobs), (1, 1));
    assert_eq!(overview.oldest_waiting, Some(JobNumber(1)));
    let (_, effects) = world.up("demo", &["act"], Vec::new());
    let running = starts(&effects).remove(0);
    for _ in 0..5 {
        world.claim("x", "p");
    }
    // One runs, three wait in memory, two in the table alone.
    let busy_now = [
        "running",
        "PluginBusy 0",
        "PluginBusy 1",
        "PluginBusy 2",
        "PluginBusy 3",
        "PluginBusy 3+",
    ];
    assert_eq!(waits(&world), busy_now);
    let overview = world.state.overview();
    assert_eq!(overview.watchers, [(WatcherState::Live, 1)]);
    assert_eq!((overview.held_jobs, overview.oldest_waiting), (0, Some(JobNumber(2))));
    world.command("w", WatcherCommand::Pause { skip: false }).0.unwrap();
    assert_eq!(waits(&world)[1], "WatcherPaused 0");
    assert_eq!(world.state.overview().held_jobs, 5);
    world.command("w", WatcherCommand::Resume { drop: false }).0.unwrap();
    world.end(&running, busy());
    assert!(waits(&world)[0].starts_with("RetryDue 0 "), "{:?}", waits(&world));
    let (plugin, reason) = ("demo".parse().unwrap(), "gone".into());
    world.tell(Event::PluginDown { plugin, incarnation: 1, reason, crashed: false });
    assert!(waits(&world).iter().all(|wait| wait.starts_with("PluginAway")), "{:?}", waits(&world));
}

#[test]
fn a_limited_job_knows_when_it_may_go() {
    let mut world = World::new();
    let limited = Declaration { max_fires_per_second: 1, ..on_predicate("w", "p", "act") };
    world.up("demo", &["act"], vec![limited]);
    world.claim("x", "p");
    world.claim("x", "p");
    assert_eq!(waits(&world), ["Limit 0 1000 ms", "Limit 1 1000 ms"]);
    world.pass(second());
    assert_eq!(waits(&world)[0], "running");
    assert_eq!(waits(&world)[1], "Limit 0 1000 ms");
}

#[test]
fn aliases_are_in_force_after_the_claim_that_says_so() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    world.declare(in_ax("w", "'new york' is p", "act")).unwrap();
    let change = |kind, words: &[&str]| {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        AliasChange { kind, words }
    };
    let link = |words: &[&str]| change(AliasChangeKind::Link, words);
    world.alias(&link(&["boston", "New York"]), "git");
    assert_eq!(fired(&world.claim("Boston", "p")), 0, "plugins change no aliases");
    assert_eq!(fired(&world.claim("NYC", "p")), 0);
    assert_eq!(fired(&world.alias(&link(&["NY", "New York"]), "user")), 0);
    world.alias(&link(&["nyc", "ny"]), "user");
    assert_eq!(fired(&world.claim("NYC", "p")), 1);
    world.restart();
    assert_eq!(fired(&world.claim("nyc", "p")), 1, "they survive a restart");
    world.alias(&change(AliasChangeKind::Unlink, &["NY"]), "user");
    assert_eq!(fired(&world.claim("nyc", "p")), 0);
    assert_eq!(fired(&world.claim("new york", "p")), 1);
}

/// The revision that was in force at a claim can be told for every claim.
#[test]
fn every_revision_says_which_claims_it_was_asked_about() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    world.claim("x", "p");
    world.declare(in_ax("w", "is p", "act")).unwrap();
    world.claim("x", "p");
    world.declare(in_ax("w", "is p", "act")).unwrap();
    world.declare(in_ax("w", "is q", "act")).unwrap();
    world.claim("x", "q");
    world.restart();
    world.command("w", WatcherCommand::Remove).0.unwrap();
    world.claim("x", "q");
    world.declare(in_ax("w", "is q", "act")).unwrap();
    let number = world.watchers["user-w"].number;
    let found: Vec<_> = world.revisions.range((number, 0)..).map(|(_, row)| row).collect();
    let spans = found.iter().map(|row| {
        (row.revision, row.generation, row.since_seq.0, row.from_seq.0, row.retired_seq)
    });
    let expected = [(1, 0, 1, 1, None), (2, 0, 1, 2, Some(Seq(3))), (3, 1, 4, 4, None)];
    assert_eq!(spans.collect::<Vec<_>>(), expected);
    let said = |row: &&&RevisionRow| {
        let record = world.records("watcher_registered").into_iter();
        let record = record.chain(world.records("watcher_changed"));
        record.filter(|record| record["revision"] == row.revision).count() == 1
            && row.leaf.is_some()
    };
    assert_eq!(found.iter().filter(said).count(), 3);
}

impl World {
    /// A person wants something of a job, whose row is read as the writer reads it.
    fn by_hand(&mut self, number: u64, event: fn(Box<JobRow>) -> Event) -> Result<JobRow, Refusal> {
        let row = Box::new(self.jobs[&JobNumber(number)].clone());
        job_answer(&self.tell(event(row)))
    }

    fn discard(&mut self, number: u64) -> Result<JobRow, Refusal> {
        self.by_hand(number, |row| Event::Discard { request: RequestId(9), row })
    }

    fn redrive(&mut self, number: u64) -> Result<JobRow, Refusal> {
        let event = self.redrive_of(&self.jobs[&JobNumber(number)], 9);
        job_answer(&self.tell(event))
    }
}

/// Jobs 1 to 8 of one lane: running, dead, waiting for its retry, done, two in memory, two in the table.
fn one_of_each() -> World {
    let bounds = Bounds { lane_waiting_max: 2, slots_first: 1, ..Bounds::default() };
    let mut world = World::with(Policy { bounds, ..policy() });
    world.up("demo", &["act"], Vec::new());
    world.declare(in_ax("w", "is p", "act")).unwrap();
    let ends = [Outcome::Permanent { error: "never".into() }, busy(), done()];
    for outcome in ends {
        let start = starts(&world.claim("x", "p")).remove(0);
        let ended = Ended::bare(outcome);
        let (job, attempt) = (start.job, start.attempt);
        world.tell(Event::AttemptEnded { job, attempt, incarnation: 1, ended });
    }
    for _ in 0..5 {
        world.claim("x", "p");
    }
    world
}

#[test]
fn whatever_is_not_under_way_or_at_its_end_can_be_discarded() {
    // (the job, its error afterwards or the refusal)
    let cases = [
        (1, Ok("discarded: never")),
        (2, Ok("discarded: busy")),
        (3, Err("is completed; nothing is left to discard")),
        (4, Err("is running; it can be discarded when its attempt has ended")),
        (5, Ok("discarded")),
        (6, Ok("discarded")),
        (7, Ok("discarded")),
        (8, Ok("discarded")),
    ];
    for (number, expected) in cases {
        let mut world = one_of_each();
        let row = world.jobs[&JobNumber(number)].clone();
        match (world.discard(number), expected) {
            (Ok(_), Ok(error)) => {
                let after = world.jobs[&row.number].clone();
                assert_eq!(
                    (after.state, after.error.as_deref()),
                    (JobState::Cancelled, Some(error))
                );
                assert!(after.completed_at.is_some() && after.due_at.is_none());
                let told = world.records("job_discarded");
                assert_eq!((told.len(), after.leaves.len()), (1, row.leaves.len() + 1));
                let again = world.discard(number).unwrap_err();
                assert!(again.reason.contains("is cancelled; nothing is left"), "{again}");
            }
            (Err(refusal), Err(reason)) => {
                assert!(refusal.reason.contains(reason), "job {number}: {refusal}");
                assert_eq!(world.jobs[&row.number], row, "job {number}");
            }
            (answer, _) => panic!("job {number}: {answer:?}"),
        }
        // The others are not touched by it, and it never starts.
        let mut running = vec![start_of(&world.jobs[&JobNumber(4)])];
        let mut started = Vec::new();
        while let Some(start) = running.pop() {
            started.push(start.job.0);
            running.extend(starts(&world.end(&start, done())));
            if running.is_empty() {
                let due = world.pass_through(Duration::from_secs(10));
                running.extend(due.into_iter().map(|(_, start)| start));
            }
        }
        started.sort_unstable();
        let open = [2, 4, 5, 6, 7, 8].into_iter().filter(|job| expected.is_err() || *job != number);
        assert_eq!(started, open.collect::<Vec<_>>(), "job {number} discarded");
        assert_eq!(world.state.open_jobs(), 0);
    }
}

/// The attempt of a job that is under way.
fn start_of(row: &JobRow) -> Start {
    Start {
        job: row.number,
        id: row.id,
        attempt: row.attempts,
        plugin: "demo".parse().unwrap(),
        incarnation: 1,
        handler: "act".into(),
        seq: row.seq,
        payload: None,
        params: None,
        watcher: "user-w".into(),
        watcher_number: row.watcher,
        revision: row.revision,
        handler_version: None,
        schedule: "".into(),
    }
}

#[test]
fn a_discarded_job_can_be_tried_again_after_all() {
    let mut world = one_of_each();
    for number in [1, 2, 5, 7] {
        let id = world.discard(number).unwrap().id;
        let again = world.redrive(number).unwrap();
        assert_eq!((again.id, again.state, again.counted), (id, JobState::Queued, 0));
        let refusal = world.redrive(number).unwrap_err();
        assert!(refusal.reason.contains("already waits"), "{refusal}");
        let error = world.discard(number).unwrap().error.unwrap();
        assert!(!error.contains("discarded: discarded"), "{error}");
        // Both in one batch: what the first of them made of it counts for the second.
        let row = Box::new(world.jobs[&JobNumber(number)].clone());
        let effects = world.write([
            world.redrive_of(&row, 1),
            Event::Discard { request: RequestId(2), row: row.clone() },
            world.redrive_of(&row, 3),
        ]);
        let granted =
            |effect: &&Effect| matches!(effect, Effect::Reply { answer: Answer::Job(Ok(_)), .. });
        assert_eq!(effects.iter().filter(granted).count(), 3);
        assert_eq!(world.jobs[&JobNumber(number)].state, JobState::Queued);
    }
}

#[test]
fn a_row_that_is_read_late_brings_no_discarded_job_back() {
    let mut world = one_of_each();
    // Job 4 ends, and the two that wait in the table only are read; their rows arrive late.
    let ended = Ended::bare(done());
    let (job, incarnation) = (JobNumber(4), 1);
    let effects = world.write([Event::AttemptEnded { job, attempt: 1, incarnation, ended }]);
    let load = effects.iter().find_map(|effect| match effect {
        Effect::Load { lane, from, limit } => Some((lane.clone(), *from, *limit)),
        _ => None,
    });
    let (lane, from, limit) = load.expect("half of the room is free");
    let rows = world.read(&lane, from, limit);
    assert!(rows.iter().any(|row| row.number == JobNumber(7)));
    world.discard(7).unwrap();
    let mut running: VecDeque<_> = starts(&effects).into();
    running.extend(starts(&world.tell(Event::Loaded { lane, rows })));
    while let Some(start) = running.pop_front() {
        assert_ne!(start.job, JobNumber(7));
        running.extend(starts(&world.end(&start, done())));
    }
    assert_eq!(world.jobs[&JobNumber(7)].state, JobState::Cancelled);
    assert_eq!(world.jobs[&JobNumber(8)].state, JobState::Completed);
}

#[test]
fn what_is_redriven_past_the_bounds_waits_in_the_table() {
    let bounds = Bounds {
        lane_waiting_max: 2,
        lane_delayed_max: 2,
        slots_first: 1,
        open_jobs_max: 9,
        ..Bounds::default()
    };
    let mut world = World::with(Policy { bounds, ..policy() });
    world.up("demo", &["act"], Vec::new());
    world.declare(in_ax("w", "is p", "act")).unwrap();
    let never = || Ended::bare(Outcome::Permanent { error: "never".into() });
    for _ in 0..4 {
        let start = starts(&world.claim("x", "p")).remove(0);
        let (job, attempt) = (start.job, start.attempt);
        world.tell(Event::AttemptEnded { job, attempt, incarnation: 1, ended: never() });
    }
    let running = starts(&world.claim("x", "p")).remove(0);
    for _ in 0..4 {
        world.claim("x", "p");
    }
    (1..=4).for_each(|number| drop(world.redrive(number).unwrap()));
    assert_eq!(world.open_jobs_from, JobNumber(1), "a restart finds those in the table too");
    let refusal = world.redrive(running.job.0).unwrap_err();
    assert!(refusal.reason.contains("is running"), "{refusal}");
    let mut order = Vec::new();
    let mut running = VecDeque::from([running]);
    while let Some(start) = running.pop_front() {
        order.push(start.job.0);
        running.extend(starts(&world.end(&start, done())));
    }
    // Retries and first attempts in turn, each of them in their order.
    let (again, first): (Vec<_>, Vec<_>) = order.into_iter().partition(|number| *number < 5);
    assert_eq!((again, first), (vec![1, 2, 3, 4], vec![5, 6, 7, 8, 9]));
}
