//! What follows from what: the core told of events by hand, with a clock moved by hand, and everything
//! that it would write and do looked at.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axwatch_core::audit::{Row, Tree, Verifier};
use axwatch_core::{
    Answer, Bounds, Declaration, Effect, Ended, Event, Outcome, Policy, Refusal, Registration,
    RequestId, RetryPolicy, Snapshot, Start, State, WatcherCommand, Writes,
};
use axwatch_model::{
    Attestation, Declared, Filled, JobId, JobNumber, JobRow, JobState, Lineage, Mono, Now, Owner,
    PluginName, Seq, StoreId, Stored, StructuralFilter, Timestamp, WatcherKey, WatcherRow,
    WatcherState,
};

/// The core with what surrounds it: a table of jobs, the audit as written, and a clock.
struct World {
    state: State,
    now: Now,
    seq: u64,
    jobs: BTreeMap<JobNumber, JobRow>,
    watchers: BTreeMap<String, WatcherRow>,
    audit: Vec<axwatch_core::AuditWrites>,
    open_jobs_from: JobNumber,
    matched_seq: Seq,
}

fn policy() -> Policy {
    Policy {
        store_id: StoreId([1; 16]),
        epoch: 1,
        bounds: Bounds::default(),
        retry: RetryPolicy::default(),
    }
}

fn start_of_time() -> Now {
    Now { mono: Mono(1_000_000_000_000), wall: Timestamp::from_ms(1_750_000_000_000).unwrap() }
}

impl World {
    fn new() -> World {
        World::with(policy())
    }

    fn with(policy: Policy) -> World {
        let now = start_of_time();
        let mut world = World {
            state: State::new(policy, Snapshot { tree: Tree::new(), ..Snapshot::default() }, now),
            now,
            seq: 0,
            jobs: BTreeMap::new(),
            watchers: BTreeMap::new(),
            audit: Vec::new(),
            open_jobs_from: JobNumber(1),
            matched_seq: Seq(0),
        };
        world.tell(Event::Recovered { rows: Vec::new() });
        world
    }

    /// The engine dies and starts again on what was written.
    fn restart(&mut self) -> Vec<Effect> {
        let mut tree = Tree::new();
        for audit in &self.audit {
            audit.records.lines().for_each(|line| {
                let _ = tree.append(line.as_bytes());
            });
        }
        let _ = tree.take_nodes();
        let snapshot = Snapshot {
            matched_seq: self.matched_seq,
            head: Seq(self.seq),
            last_job: self.jobs.last_key_value().map_or(JobNumber(0), |(number, _)| *number),
            open_jobs_from: self.open_jobs_from,
            watchers: self.watchers.values().cloned().collect(),
            tree,
            ..Snapshot::default()
        };
        self.state = State::new(Policy { epoch: 2, ..policy() }, snapshot, self.now);
        let records: Vec<_> = self.audit.iter().flat_map(|audit| audit.records.lines()).collect();
        records.into_iter().for_each(|line| self.state.recount(line));
        let rows = self.jobs.values().filter(|row| row.state.is_open()).cloned().collect();
        let mut effects = self.tell(Event::Recovered { rows });
        effects.extend(self.tell(Event::Recovered { rows: Vec::new() }));
        effects
    }

    /// Tells one event, commits, reads what is asked for, and gives what would be done.
    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let mut told = Vec::new();
        let effects = self.state.step(event, self.now);
        self.commit();
        for effect in effects {
            if let Effect::Load { lane, from, limit } = effect {
                let waits = |row: &&JobRow| row.lane() == lane && row.state == JobState::Queued;
                let rows = self
                    .jobs
                    .range(from..)
                    .map(|(_, row)| row)
                    .filter(waits)
                    .take(limit)
                    .cloned()
                    .collect();
                told.extend(self.tell(Event::Loaded { lane, rows }));
            } else {
                told.push(effect);
            }
        }
        told
    }

    fn commit(&mut self) {
        let Writes { cancelled, jobs, watchers, audit, matched_seq, open_jobs_from, .. } =
            self.state.take_writes(false);
        for (watcher, from, _) in cancelled {
            for row in self.jobs.range_mut(from..).map(|(_, row)| row) {
                if row.watcher == Some(watcher) && row.state == JobState::Queued {
                    row.state = JobState::Cancelled;
                }
            }
        }
        self.jobs.extend(jobs.into_iter().map(|row| (row.number, row)));
        self.watchers.extend(watchers.into_iter().map(|row| (row.key.to_string(), row)));
        self.audit.extend(audit);
        self.matched_seq = matched_seq.unwrap_or(self.matched_seq);
        self.open_jobs_from = open_jobs_from.unwrap_or(self.open_jobs_from);
        assert!(
            self.state.step(Event::Committed, self.now).is_empty(),
            "nothing starts between commits"
        );
    }

    fn pass(&mut self, span: Duration) -> Vec<Effect> {
        self.now = Now { mono: self.now.mono.plus(span), wall: self.now.wall.plus(span) };
        self.tell(Event::Tick)
    }

    /// Lets time pass to each moment at which something is due, up to `span`; gives what started.
    fn pass_through(&mut self, span: Duration) -> Vec<(Mono, Start)> {
        let end = self.now.mono.plus(span);
        let mut started = Vec::new();
        while let Some(wake) = self.state.next_wake().filter(|wake| *wake <= end) {
            let effects = self.pass(wake.since(self.now.mono));
            started.extend(starts(&effects).into_iter().map(|start| (self.now.mono, start)));
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

    fn end(&mut self, start: &Start, outcome: Outcome) -> Vec<Effect> {
        let ended = Ended { outcome, quick: true, progress: None, cost: None };
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

fn stored(seq: u64, subject: &str, predicate: &str, now: Now) -> Stored {
    let terms = |term: &str| vec![term.to_owned()];
    Stored {
        seq: Seq(seq),
        attestation: Attestation {
            id: format!("A{seq}").parse().unwrap(),
            subjects: terms(subject),
            predicates: terms(predicate),
            contexts: terms("_"),
            actors: terms("me"),
            timestamp: now.wall,
            created_at: now.wall,
            source: "test".into(),
            attributes: None,
            signature: None,
            signer_did: None,
        },
        appended_by: "user".into(),
        filled: Filled::default(),
        lineage: Lineage::default(),
    }
}

fn registration(handlers: &[&str], watchers: Vec<Declaration>) -> Registration {
    Registration { handlers: handlers.iter().map(|name| name.parse().unwrap()).collect(), watchers }
}

fn on_predicate(local: &str, predicate: &str, handler: &str) -> Declaration {
    let filter =
        StructuralFilter { predicates: vec![predicate.to_owned()], ..StructuralFilter::default() };
    Declaration {
        local: local.into(),
        declared: Declared::Structural(filter),
        handlers: vec![handler.into()],
        params: None,
        max_fires_per_second: 0,
        zero_is_never: false,
        max_chain: 0,
    }
}

fn in_ax(local: &str, text: &str, handler: &str) -> Declaration {
    Declaration { declared: Declared::Ax(text.into()), ..on_predicate(local, "_", handler) }
}

fn starts(effects: &[Effect]) -> Vec<Start> {
    let start = |effect: &Effect| match effect {
        Effect::Start(start) => Some((**start).clone()),
        _ => None,
    };
    effects.iter().filter_map(start).collect()
}

fn verdicts(effects: &[Effect]) -> Vec<Result<(), Refusal>> {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Registered(verdicts), .. } => Some(verdicts.clone()),
        _ => None,
    });
    found.expect("a registration is answered").into_iter().map(|(_, verdict)| verdict).collect()
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

fn fired(effects: &[Effect]) -> u32 {
    effects
        .iter()
        .map(|effect| if let Effect::Fired { fires, .. } = effect { *fires } else { 0 })
        .sum()
}

fn done() -> Outcome {
    Outcome::Succeeded { result: None }
}

fn busy() -> Outcome {
    Outcome::Retryable { error: "busy".into(), missed_deadline: false }
}

fn lost() -> Outcome {
    Outcome::Lost { error: "connection reset".into() }
}

fn second() -> Duration {
    Duration::from_secs(1)
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
    let (_, counters) = world.state.watchers(false).remove(0);
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
        .state
        .watchers(false)
        .into_iter()
        .filter(|(row, _)| row.state == WatcherState::Refused)
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
    world.command("w", WatcherCommand::Pause).0.unwrap();
    for _ in 0..500 {
        assert!(starts(&world.claim("x", "p")).is_empty());
    }
    let (_, effects) = world.command("w", WatcherCommand::Resume);
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

    let effects = world.tell(Event::Redrive { request: RequestId(9), row: Box::new(row) });
    assert_eq!(job_answer(&effects).unwrap().id, start.id);
    let again = starts(&effects).remove(0);
    assert_eq!((again.id, again.attempt), (start.id, 31), "a dead letter keeps its id");
    world.end(&again, done());
    let refusal = job_answer(&world.tell(Event::Redrive {
        request: RequestId(9),
        row: Box::new(world.jobs[&again.job].clone()),
    }))
    .unwrap_err();
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
    let (_, counters) = world.state.watchers(false).remove(0);
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
    world.end(&first, done());
    assert_eq!(world.jobs[&first.job].state, JobState::Queued);
    let (_, effects) = world.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    let second = starts(&effects).remove(0);
    world.end(&first, done());
    assert_eq!(world.jobs[&first.job].state, JobState::Running);
    world.end(&second, done());
    assert_eq!(world.jobs[&first.job].state, JobState::Completed);
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
    assert!(world.jobs.values().all(|row| row.counted == 0 && row.uncounted == 1));
    assert_eq!(
        world.pass_through(second()).len(),
        3,
        "no first attempt waits, so retries have all slots"
    );
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
    let (_, counters) = world.state.watchers(false).remove(0);
    assert_eq!((counters.matches, counters.fires), (3, 3), "counted again from the audit");
}

#[test]
fn jobs_of_the_api_find_their_plugin_or_say_who_there_is() {
    let mut world = World::new();
    world.up("demo", &["act"], Vec::new());
    let run = |world: &mut World, handler: &str| {
        let event = Event::Enqueue {
            request: RequestId(4),
            id: JobId([8; 16]),
            handler: handler.into(),
            payload: b"hi".as_slice().into(),
        };
        world.tell(event)
    };
    let effects = run(&mut world, "act");
    assert_eq!(&*job_answer(&effects).unwrap().handler, "demo/act");
    let start = starts(&effects).remove(0);
    assert_eq!((&*start.handler, start.payload.as_deref()), ("act", Some(b"hi".as_slice())));
    let refusal = job_answer(&run(&mut world, "nope")).unwrap_err();
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
    world.tell(Event::Deferred { seq: Seq(3) });
    let later = world.declare(in_ax("later", "is p", "act")).unwrap();
    assert_eq!(later.since_seq, Seq(3));
    let (row, _) = world.state.watchers(false).remove(0);
    assert_eq!(row.state, WatcherState::CatchingUp);
    for seq in 1..=3 {
        let stored = stored(seq, "x", "p", world.now);
        assert_eq!(fired(&world.tell(Event::Match { stored: Arc::new(stored) })), 1);
    }
    assert_eq!(world.state.watchers(false).remove(0).0.state, WatcherState::Live);
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
    let mut verifier = Verifier::new();
    for audit in &world.audit {
        let row = Row {
            first_leaf: audit.first_leaf,
            count: audit.count,
            records: &audit.records,
            nodes: &audit.nodes,
            head: &audit.head,
        };
        let _ = verifier.feed(&row);
    }
    let report = verifier.finish();
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
