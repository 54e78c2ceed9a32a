//! Handlers whose code is stored as claims: who may, what takes effect and when, what waits for what, and that a
//! restart knows all of it.

use axwatch_core::{ScheduleDeclaration, Snapshot, WaitReason};
use axwatch_model::{Attestation, HandlerChangeKind, StoredHandler, StoredHandlerState};
use proptest::prelude::*;

use super::*;

fn python() -> PluginName {
    "python".parse().unwrap()
}

/// A plugin that runs what is stored for it, with a handler of its own.
fn runner(watchers: Vec<Declaration>) -> Registration {
    Registration { stored_handlers: true, ..registration(&["python.script"], watchers) }
}

/// What a claim says of a handler.
fn saying(
    world: &World,
    predicate: &str,
    name: &str,
    by: &str,
    attributes: &serde_json::Value,
) -> axwatch_model::Stored {
    let mut claim = stored(world.seq, name, predicate, world.now);
    claim.attestation.contexts = vec!["python".to_owned()];
    claim.attestation.attributes = Attributes::parse(&attributes.to_string()).unwrap();
    claim.appended_by = by.to_owned();
    claim
}

fn code() -> serde_json::Value {
    serde_json::json!({ "code": "_result = 1" })
}

impl World {
    fn granting(granted: &str) -> World {
        let handler_makers = [granted.parse().unwrap()].into();
        World::with(Policy { handler_makers, ..policy() })
    }

    fn runner_up(&mut self, incarnation: u64, registration: Registration) -> Vec<Effect> {
        self.tell(Event::PluginUp {
            request: RequestId(1),
            plugin: python(),
            incarnation,
            version: "1.0".into(),
            max_in_flight: 64,
            registration,
        })
    }

    fn runner_down(&mut self, incarnation: u64) {
        let reason = "stopped".to_owned();
        self.tell(Event::PluginDown { plugin: python(), incarnation, reason, crashed: false });
    }

    fn says(
        &mut self,
        predicate: &str,
        name: &str,
        by: &str,
        attributes: &serde_json::Value,
    ) -> Vec<Effect> {
        self.seq += 1;
        let claim = saying(self, predicate, name, by, attributes);
        self.tell(Event::Match { stored: Arc::new(claim) })
    }

    /// A person stores code; gives what follows. The version is `A` and the number of the claim.
    fn store(&mut self, name: &str) -> Vec<Effect> {
        self.says("handler", name, "user", &code())
    }

    fn fault(&mut self, name: &str, reason: &str, version: Option<&str>) -> Vec<Effect> {
        let mut said = serde_json::json!({ "plugin": "python", "handler": name, "reason": reason });
        if let Some(version) = version {
            said["version"] = version.into();
        }
        self.says("handler:faulted", name, "python", &said)
    }

    fn remove(&mut self, name: &str) -> Vec<Effect> {
        self.says("handler:faulted", name, "user", &serde_json::json!({ "reason": "removed" }))
    }

    fn now_is(&self, name: &str) -> Option<StoredHandler> {
        self.state.stored_handler(&python(), &name.parse().unwrap())
    }

    /// Version, its number, and what the handler is.
    fn told(&self, name: &str) -> (String, u64, &'static str) {
        let handler = self.now_is(name).unwrap();
        (handler.version.to_string(), handler.version_number, handler.state.as_str())
    }

    fn waits_of(&self, row: &JobRow) -> Option<WaitReason> {
        self.state.waiting(row, self.now).map(|waiting| waiting.reason)
    }

    fn last_job(&self) -> JobRow {
        self.jobs.last_key_value().unwrap().1.clone()
    }
}

fn versions(effects: &[Effect]) -> Vec<Option<String>> {
    let version = |start: Start| start.handler_version.map(|id| id.to_string());
    starts(effects).into_iter().map(version).collect()
}

fn v(version: &str) -> Option<String> {
    Some(version.to_owned())
}

fn whose(version: &str, number: u64, state: &'static str) -> (String, u64, &'static str) {
    (version.to_owned(), number, state)
}

#[test]
fn a_stored_handler_runs_the_version_that_is_in_force_when_an_attempt_starts() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    assert_eq!(world.watchers["user-w"].state, WatcherState::WaitingForHandler);
    world.claim("x", "p");
    assert_eq!(world.waits_of(&world.last_job()), Some(WaitReason::NoHandler));

    // With the claim that stores it: what waited starts in the same batch.
    let first = world.store("hello");
    assert_eq!(versions(&first), [v("A2")]);
    assert_eq!(world.watchers["user-w"].state, WatcherState::Live);
    assert_eq!(versions(&world.claim("x", "p")), [v("A2")]);
    let running = starts(&world.claim("x", "p")).remove(0);
    // A newer one is for the next attempt, and touches nothing else.
    let watcher = world.watchers["user-w"].clone();
    assert!(starts(&world.store("hello")).is_empty());
    assert_eq!(world.watchers["user-w"], watcher);
    world.end(&running, busy());
    let again = world.pass(Duration::from_secs(60));
    assert_eq!(versions(&again), [v("A5")], "of one job, each attempt has its own");
    assert_eq!(versions(&world.claim("x", "p")), [v("A5")]);
    assert_eq!(world.told("hello"), whose("A5", 2, "in_force"));

    let started: Vec<_> = world.records("attempt_started");
    let told: Vec<_> = started.iter().map(|record| record["handler_version"].clone()).collect();
    assert_eq!(told, ["A2", "A2", "A2", "A5", "A5"]);
    let record = &world.records("handler_stored")[1];
    let expected = serde_json::json!({
        "at": world.now_is("hello").unwrap().changed_at, "attestation": "A5", "by": "user", "name": "hello",
        "plugin": "python", "seq": 5, "type": "handler_stored", "version": "A5", "version_number": 2,
    });
    assert_eq!(*record, expected);
    // What the plugin has by itself has no version.
    let asked =
        Event::Enqueue { request: RequestId(1), asked: Box::new(ask([7; 16], "python.script")) };
    assert_eq!(versions(&world.tell(asked)), [None]);
    assert_eq!(world.records("attempt_started").last().unwrap().get("handler_version"), None);
}

#[test]
fn only_people_s_claims_and_those_of_granted_plugins_take_effect() {
    let mut world = World::granting("maker");
    world.runner_up(1, runner(Vec::new()));
    let fault = serde_json::json!({ "reason": "no such module" });
    let no = "may not store handlers; `handlers = true` under";
    let cases = [
        // (predicate, by, attributes, what is there after it, the reason of its refusal)
        ("handler:faulted", "git", fault.clone(), None, no),
        ("handler", "git", code(), None, no),
        // Not even the plugin that runs them.
        ("handler", "python", code(), None, no),
        ("handler", "maker", code(), Some(1), ""),
        ("handler", "user", code(), Some(2), ""),
        ("handler:faulted", "git", fault.clone(), Some(2), no),
        ("handler", "user", serde_json::json!({ "code": 7 }), Some(2), "code is missing"),
        ("handler", "user", serde_json::json!({}), Some(2), "code is missing"),
        ("handler:faulted", "user", serde_json::json!({}), Some(2), "reason is missing"),
    ];
    for (predicate, by, attributes, number, reason) in cases {
        let before = world.records("handler_refused").len();
        world.says(predicate, "hello", by, &attributes);
        let after = world.records("handler_refused");
        let row = format!("{predicate} by {by}: {attributes}");
        assert_eq!(world.now_is("hello").map(|handler| handler.version_number), number, "{row}");
        assert_eq!(after.len() - before, usize::from(!reason.is_empty()), "{row}");
        if let Some(record) = after.get(before) {
            let said = record["reason"].as_str().unwrap();
            assert!(said.contains(reason), "{row}: {said}");
            assert_eq!((&record["by"], &record["name"]), (&by.into(), &"hello".into()));
            assert_eq!(record["attestation"], format!("A{}", world.seq));
        }
    }
    // Where nothing runs them, it is a claim like any other, whoever made it.
    let refused = world.records("handler_refused").len();
    world.seq += 1;
    let mut claim = saying(&world, "handler", "hello", "git", &code());
    claim.attestation.contexts = vec!["lua".to_owned()];
    world.tell(Event::Match { stored: Arc::new(claim) });
    assert_eq!(world.records("handler_refused").len(), refused);
    assert_eq!(world.state.stored_handlers().len(), 1);
    // Its own handlers it may call broken, and so may one that was granted.
    world.fault("hello", "no such module", None);
    assert_eq!(world.told("hello").2, "broken");
    world.says("handler:faulted", "hello", "maker", &serde_json::json!({ "reason": "removed" }));
    assert_eq!(world.told("hello").2, "removed");
    assert!(world.verify_audit().ok);
}

#[test]
fn claims_that_have_not_the_form_are_refused_where_handlers_run_and_nothing_elsewhere() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    let mut tell = |change: &dyn Fn(&mut Attestation)| {
        world.seq += 1;
        let mut claim = saying(&world, "handler", "hello", "user", &code());
        change(&mut claim.attestation);
        world.tell(Event::Match { stored: Arc::new(claim) });
        let refused = world.records("handler_refused");
        (refused.len(), world.state.stored_handlers().len())
    };
    let two = |terms: &mut Vec<String>| terms.push("two".to_owned());
    assert_eq!(tell(&|claim| two(&mut claim.subjects)), (1, 0));
    assert_eq!(tell(&|claim| two(&mut claim.predicates)), (2, 0));
    assert_eq!(tell(&|claim| two(&mut claim.contexts)), (3, 0));
    assert_eq!(tell(&|claim| claim.subjects = vec!["a/b".to_owned()]), (4, 0));
    assert_eq!(tell(&|claim| claim.subjects = vec!["s".repeat(250)]), (5, 0));
    // The plugin has one of this name by itself.
    assert_eq!(tell(&|claim| claim.subjects = vec!["script".to_owned()]), (6, 0));
    // A claim like any other.
    assert_eq!(
        tell(&|claim| {
            claim.contexts = vec!["a house".to_owned()];
            claim.attributes = None;
        }),
        (6, 0)
    );
    // Kept for a plugin that may come.
    assert_eq!(tell(&|claim| claim.contexts = vec!["lua".to_owned()]), (6, 1));
    assert_eq!(world.state.plugin(&"lua".parse().unwrap()), None);
}

/// What code claims bears its plugin's name too, so that the plugin itself may say little.
#[test]
fn neither_a_job_nor_the_plugin_alone_takes_a_handler_away() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    world.store("hello");
    let mut tell = |reason: &str, version: Option<&str>, job: Option<JobId>| {
        world.seq += 1;
        let mut said = serde_json::json!({ "reason": reason });
        if let Some(version) = version {
            said["version"] = version.into();
        }
        let mut claim = saying(&world, "handler:faulted", "hello", "python", &said);
        claim.lineage.parent_job = job;
        world.tell(Event::Match { stored: Arc::new(claim) });
        let refused = world.records("handler_refused");
        let said = refused.last().map_or("", |record| record["reason"].as_str().unwrap());
        (refused.len(), said.to_owned(), world.told("hello").2)
    };
    let job = Some(JobId([7; 16]));
    let made = |count| (count, format!("job {} of plugin python made the claim", JobId([7; 16])));
    for (count, version) in [(1, None), (2, Some("A1")), (3, Some("A0"))] {
        let (refused, reason, state) = tell("line 1", version, job);
        let (expected, said) = made(count);
        assert!(reason.starts_with(&said), "{reason}");
        assert_eq!((refused, state), (expected, "in_force"), "{version:?}");
    }
    for (count, job) in [(4, job), (5, None)] {
        let (refused, reason, state) = tell("removed", Some("A1"), job);
        assert!(reason.contains("`handlers = true` under"), "{reason}");
        assert_eq!((refused, state), (count, "in_force"), "{job:?}");
    }
    // Another version than that in force, and the one in force.
    assert_eq!(tell("line 1", Some("A0"), None).2, "in_force");
    assert_eq!(tell("line 1", Some("A1"), None).2, "broken");
    assert_eq!(world.records("handler_refused").len(), 5);
}

/// The plugin's own, also before it said for the first time that it has them.
#[test]
fn nothing_is_stored_under_the_names_that_the_plugin_has_in_every_version() {
    let mut world = World::new();
    for name in ["script", "sync"] {
        world.store(name);
    }
    world.runner_up(1, runner(Vec::new()));
    assert_eq!(world.records("handler_refused").len(), 2);
    assert!(world.state.stored_handlers().is_empty());
    let asked =
        Event::Enqueue { request: RequestId(1), asked: Box::new(ask([7; 16], "python.script")) };
    assert_eq!(versions(&world.tell(asked)), [None]);
}

#[test]
fn a_handler_that_was_removed_while_its_plugin_was_disabled_is_nobody_s() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    world.store("hello");
    world.store("other");
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    world.declare(on_predicate("o", "o", "python.other")).unwrap();
    let by = || "user".to_owned();
    world.tell(Event::PluginDisabled { request: RequestId(9), plugin: python(), by: by() });
    world.claim("x", "p");
    world.remove("hello");
    world.tell(Event::PluginEnabled { request: RequestId(9), plugin: python(), by: by() });
    assert!(starts(&world.runner_up(2, runner(Vec::new()))).is_empty());
    assert_eq!(world.watchers["user-w"].state, WatcherState::WaitingForHandler);
    assert_eq!(world.watchers["user-w"].handlers[0].plugin, None);
    assert_eq!(world.waits_of(&world.last_job()), Some(WaitReason::NoHandler));
    assert_eq!(world.watchers["user-o"].handlers[0].plugin, Some(python()));
    assert_eq!(versions(&world.store("hello")), [v("A5")]);
}

#[test]
fn the_newest_by_number_wins_and_a_stale_fault_changes_nothing() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    world.store("hello");
    world.store("hello");
    world.fault("hello", "line 1", Some("A1"));
    assert_eq!(world.told("hello"), whose("A2", 2, "in_force"));
    world.fault("other", "line 1", None);
    assert_eq!(world.now_is("other"), None);
    world.fault("hello", "line 1", Some("A2"));
    assert_eq!(world.told("hello"), whose("A2", 2, "broken"));
    // Said once more, as after each start.
    world.fault("hello", "line 1", Some("A2"));
    // A fault without a reason is removed as any other is.
    world.fault("hello", "", None);
    world.remove("hello");
    world.remove("hello");
    world.fault("hello", "line 3", None);
    assert_eq!(world.told("hello"), whose("A2", 2, "removed"));
    world.store("hello");
    assert_eq!(world.told("hello"), whose("A11", 3, "in_force"));
    let changes: Vec<_> = (world.handler_changes.values())
        .map(|row| (row.seq.0, row.kind, row.version_number, row.version.as_str(), &*row.reason))
        .collect();
    let (stored, faulted) = (HandlerChangeKind::Stored, HandlerChangeKind::Faulted);
    let expected = [
        (1, stored, 1, "A1", ""),
        (2, stored, 2, "A2", ""),
        (5, faulted, 2, "A2", "line 1"),
        (7, faulted, 2, "A2", ""),
        (8, HandlerChangeKind::Removed, 2, "A2", ""),
        (11, stored, 3, "A11", ""),
    ];
    assert_eq!(changes, expected);
    assert_eq!(world.records("handler_refused").len(), 0);
    let told = ["handler_stored", "handler_faulted", "handler_removed"];
    assert_eq!(told.map(|kind| world.records(kind).len()), [3, 2, 1]);
}

#[test]
fn jobs_of_a_broken_handler_wait_for_a_newer_version() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    world.store("hello");
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    let running = starts(&world.claim("x", "p")).remove(0);
    world.fault("hello", "line 1: no such module", Some("A1"));
    world.end(&running, busy());
    assert!(starts(&world.claim("x", "p")).is_empty());
    assert!(starts(&world.pass(Duration::from_secs(60))).is_empty());
    let (plugin, handler) = (python(), "python.hello".parse().unwrap());
    let reason = "line 1: no such module".to_owned();
    let broken = Some(WaitReason::HandlerBroken { plugin, handler, reason });
    assert_eq!(world.waits_of(&world.last_job()), broken);
    let view = world.state.watcher("w").unwrap();
    assert_eq!(view.row.state, WatcherState::WaitingForHandler);
    let error = "handler python.hello does not load: line 1: no such module; store a version that does, or remove it";
    assert_eq!(view.row.error.as_deref(), Some(error));
    assert_eq!(world.state.overview().troubled.len(), 1);
    assert_eq!(world.state.overview().held_jobs, 2);
    // Neither a list that names it nor another process mends it: somebody has to store another.
    let listing = || Registration {
        stored_handlers: true,
        ..registration(&["python.script", "python.hello"], Vec::new())
    };
    let announced = Event::Announced {
        request: RequestId(1),
        plugin: python(),
        incarnation: 1,
        registration: listing(),
    };
    assert!(starts(&world.tell(announced)).is_empty());
    world.runner_down(1);
    assert_eq!(world.waits_of(&world.last_job()), broken);
    assert!(starts(&world.runner_up(2, listing())).is_empty());
    assert!(world.state.plugin(&python()).unwrap().handlers.len() == 2);

    let mended = world.store("hello");
    assert_eq!(versions(&mended), [v("A5"), v("A5")], "the retry too");
    assert_eq!(world.state.watcher("w").unwrap().row.state, WatcherState::Live);
    assert_eq!(world.state.watcher("w").unwrap().row.error, None);
}

#[test]
fn a_removed_handler_is_nobody_s_and_its_jobs_wait_for_another_of_its_name() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    world.store("hello");
    world.store("bye");
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    world.declare(on_predicate("b", "q", "python/python.bye")).unwrap();
    world.remove("hello");
    assert_eq!(world.watchers["user-w"].state, WatcherState::WaitingForHandler);
    assert_eq!(world.watchers["user-w"].handlers[0].plugin, None);
    assert_eq!(world.watchers["user-b"].state, WatcherState::Live);
    assert!(starts(&world.claim("x", "p")).is_empty());
    let row = world.last_job();
    assert_eq!(world.waits_of(&row), Some(WaitReason::NoHandler));
    let asked = |id| Event::Enqueue {
        request: RequestId(1),
        asked: Box::new(ask([id; 16], "python.hello")),
    };
    let answer = world.tell(asked(7));
    let refused = answer.iter().any(|effect| {
        matches!(effect, Effect::Reply { answer: Answer::Enqueued(Err(refusal)), .. }
            if refusal.reason.contains("python/python.bye") && !refusal.reason.contains("python/python.hello"))
    });
    assert!(refused, "{answer:?}");
    // A list that the plugin put together before does not bring it back.
    let listing = Registration {
        stored_handlers: true,
        ..registration(&["python.script", "python.hello", "python.bye"], Vec::new())
    };
    let announced = Event::Announced {
        request: RequestId(1),
        plugin: python(),
        incarnation: 1,
        registration: listing,
    };
    assert!(starts(&world.tell(announced)).is_empty());
    assert_eq!(world.waits_of(&row), Some(WaitReason::NoHandler));

    assert_eq!(versions(&world.store("hello")), [v("A5")]);
    assert_eq!(world.told("hello"), whose("A5", 2, "in_force"));
    assert_eq!(world.watchers["user-w"].state, WatcherState::Live);
    assert_eq!(versions(&world.tell(asked(8))), [v("A5")]);
}

#[test]
fn a_lane_that_waits_in_the_table_goes_on_too() {
    let bounds = Bounds { lane_waiting_max: 2, jobs_in_memory_max: 2, ..Bounds::default() };
    let mut world = World::with(Policy { bounds, ..policy() });
    world.runner_up(1, runner(Vec::new()));
    world.store("hello");
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    for breaks in [true, false] {
        match breaks {
            true => world.fault("hello", "line 1", None),
            false => world.remove("hello"),
        };
        for _ in 0..9 {
            assert!(starts(&world.claim("x", "p")).is_empty());
        }
        assert!(world.state.jobs_in_memory() <= 3);
        let mut running: VecDeque<_> = starts(&world.store("hello")).into();
        let version = world.told("hello").0;
        let mut ran = 0;
        while let Some(start) = running.pop_front() {
            assert_eq!(start.handler_version.as_ref().unwrap().as_str(), version);
            ran += 1;
            running.extend(starts(&world.end(&start, done())));
        }
        assert_eq!((ran, world.state.open_jobs()), (9, 0));
    }
}

#[test]
fn a_restart_knows_stored_handlers_before_their_plugin_is_up() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    for name in ["hello", "broken", "gone"] {
        world.store(name);
    }
    world.store("hello");
    world.fault("broken", "line 1", None);
    world.remove("gone");
    world.restart();
    assert_eq!(world.told("hello"), whose("A4", 2, "in_force"));
    assert_eq!(world.told("broken"), whose("A2", 1, "broken"));
    assert_eq!(world.told("gone"), whose("A3", 1, "removed"));
    // The plugin is known to run them, so that watchers bind and claims fire before it is up.
    let watcher = world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    assert_eq!(watcher.handlers[0].plugin, Some(python()));
    assert!(starts(&world.claim("x", "p")).is_empty());
    assert_eq!(world.waits_of(&world.last_job()), Some(WaitReason::PluginAway(python())));
    assert_eq!(versions(&world.runner_up(2, runner(Vec::new()))), [v("A4")]);
    world.store("gone");
    assert_eq!(world.told("gone"), whose("A8", 2, "in_force"), "it goes on counting");
}

#[test]
fn claims_that_no_engine_saw_take_effect_in_their_order_at_the_start() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    // Appended while nothing ran.
    let mut claims = Vec::new();
    for (predicate, by, attributes) in [
        ("handler", "user", code()),
        ("p", "user", serde_json::json!({})),
        ("handler", "git", code()),
        ("handler", "user", code()),
        ("handler:faulted", "user", serde_json::json!({ "reason": "line 1" })),
    ] {
        world.seq += 1;
        claims.push(saying(&world, predicate, "hello", by, &attributes));
    }
    world.restart();
    let upto = Seq(world.seq);
    let heed = |claims: &[axwatch_model::Stored]| Event::Heed { claims: claims.to_vec(), upto };
    world.tell(heed(&claims));
    assert_eq!((world.heeded_seq, world.matched_seq), (upto, Seq(0)));
    assert_eq!(world.told("hello"), whose("A4", 2, "broken"));
    // Neither matching nor another life that begins there does any of it again.
    world.restart();
    world.runner_up(2, runner(Vec::new()));
    world.tell(heed(&claims));
    for claim in &claims {
        world.tell(Event::Match { stored: Arc::new(claim.clone()) });
    }
    assert_eq!(world.handler_changes.len(), 3);
    assert_eq!(world.records("handler_refused").len(), 1);
    assert_eq!(world.told("hello"), whose("A4", 2, "broken"));
    // Nor one whose store does not know how far it was heeded.
    (world.matched_seq, world.heeded_seq) = (Seq(0), Seq(0));
    world.restart();
    world.tell(heed(&claims));
    assert_eq!((world.handler_changes.len(), world.told("hello").1), (3, 2));
}

#[test]
fn code_need_not_wait_for_matching_that_is_behind() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    world.claim("x", "p");
    let job = world.last_job();
    assert_eq!(world.waits_of(&job), Some(WaitReason::NoHandler));
    // Too many jobs are open, and only this handler would end them.
    let defer = |world: &mut World, predicate: &str, by: &str| {
        world.seq += 1;
        let claim = Arc::new(saying(world, predicate, "hello", by, &code()));
        (claim.clone(), world.tell(Event::Deferred { stored: claim }))
    };
    let (other, _) = defer(&mut world, "q", "user");
    let (refused, _) = defer(&mut world, "handler", "git");
    // Nor does it after a restart.
    assert_eq!((world.heeded_seq, world.matched_seq), (Seq(3), Seq(1)));
    world.restart();
    world.runner_up(2, runner(Vec::new()));
    let (first, effects) = defer(&mut world, "handler", "user");
    assert_eq!(versions(&effects), [v("A4")]);
    for claim in [other, refused, first] {
        world.tell(Event::Match { stored: claim });
    }
    assert_eq!(world.told("hello"), whose("A4", 1, "in_force"));
    let told = ["handler_stored", "handler_refused"];
    assert_eq!(told.map(|kind| world.records(kind).len()), [1, 1]);
}

#[test]
fn a_plugin_that_does_not_run_stored_handlers_is_as_it_was() {
    let mut world = World::new();
    let listing = |stored_handlers| Registration {
        stored_handlers,
        ..registration(&["python.script", "python.hello"], Vec::new())
    };
    world.runner_up(1, listing(false));
    world.store("hello");
    world.store("other");
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    world.declare(on_predicate("o", "o", "python.other")).unwrap();
    let effects = world.claim("x", "p");
    assert_eq!(versions(&effects), [None]);
    world.end(&starts(&effects)[0], done());
    world.remove("hello");
    let effects = world.claim("x", "p");
    assert_eq!(versions(&effects), [None], "it says itself what it has");
    world.end(&starts(&effects)[0], done());
    assert_eq!(world.watchers["user-o"].state, WatcherState::WaitingForHandler);
    world.store("hello");
    world.runner_down(1);

    // The same plugin, which learned it meanwhile.
    world.claim("x", "o");
    assert_eq!(versions(&world.runner_up(2, listing(true))), [v("A2")]);
    assert_eq!(versions(&world.claim("x", "p")), [v("A6")]);
    let handlers = world.state.plugin(&python()).unwrap().handlers;
    assert_eq!(handlers.len(), 3, "{handlers:?}");
    let rows: Vec<_> = world.handlers.iter().map(|row| row.name.to_string()).collect();
    assert_eq!(rows, ["python.script"], "the rest comes from claims");
    // And unlearned it.
    world.runner_down(2);
    world.runner_up(3, listing(false));
    assert_eq!(versions(&world.claim("x", "p")), [None]);
    assert!(starts(&world.claim("x", "o")).is_empty());
    assert_eq!(world.waits_of(&world.last_job()), Some(WaitReason::NotAnnounced(python())));
}

#[test]
fn an_announcement_never_drops_what_is_stored() {
    let mut world = World::new();
    let silent = |called_back| Registration {
        stored_handlers: true,
        called_back: Some(called_back),
        ..registration(&["python.script"], Vec::new())
    };
    world.runner_up(1, silent(true));
    world.store("hello");
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    world.runner_down(1);
    // One whose calls back failed, and that has forgotten what it runs.
    let doubtful = Registration { doubtful: true, ..registration(&["python.script"], Vec::new()) };
    world.runner_up(2, doubtful);
    assert_eq!(versions(&world.claim("x", "p")), [v("A1")]);
    world.tell(Event::PluginDisabled {
        request: RequestId(9),
        plugin: python(),
        by: "user".into(),
    });
    assert!(starts(&world.claim("x", "p")).is_empty());
    assert_eq!(world.waits_of(&world.last_job()), Some(WaitReason::PluginDisabled(python())));
    assert_eq!(world.state.plugin(&python()).unwrap().handlers.len(), 0);
    world.tell(Event::PluginEnabled { request: RequestId(9), plugin: python(), by: "user".into() });
    assert_eq!(versions(&world.runner_up(3, silent(true))), [v("A1")]);
}

#[test]
fn watchers_and_schedules_of_the_plugin_run_what_is_stored() {
    let mut world = World::new();
    let schedule = |id: &str, handler: &str| ScheduleDeclaration {
        id: id.into(),
        handler: handler.into(),
        interval_secs: 60,
        enabled_by_default: true,
        description: String::new(),
        ats_code: String::new(),
    };
    let whole = || Registration {
        schedules: vec![
            schedule("hello-hourly", "python.hello"),
            schedule("hello-daily", "python.hello"),
            schedule("", "python.hello"),
            schedule("nobody", "python.nobody"),
            schedule(&"x".repeat(300), "python.hello"),
        ],
        ..runner(vec![
            on_predicate("hello-seen", "p", "python.hello"),
            on_predicate("nobody-seen", "p", "python.nobody"),
        ])
    };
    world.store("hello");
    let effects = world.runner_up(1, whole());
    let verdicts: Vec<_> = verdicts(&effects).iter().map(Result::is_ok).collect();
    assert_eq!(verdicts, [true, false]);
    let standing: Vec<_> = world.schedules.keys().map(String::as_str).collect();
    assert_eq!(standing, ["python/hello-daily", "python/hello-hourly", "python/python.hello"]);
    assert_eq!(world.refused[&python()].len(), 3, "{:?}", world.refused);
    assert_eq!(versions(&world.claim("x", "p")), [v("A1")]);
    let ran = starts(&world.pass(Duration::from_secs(61)));
    let mut named: Vec<_> = ran.iter().map(|start| (&*start.schedule, &*start.handler)).collect();
    named.sort_unstable();
    let hello = "python.hello";
    assert_eq!(named, [("hello-daily", hello), ("hello-hourly", hello), (hello, hello)]);
    assert!(ran.iter().all(|start| start.handler_version.is_some()));
    // Those that a newer list lacks are retired, and the others go on.
    let fewer = Registration { schedules: whole().schedules[..1].to_vec(), ..runner(Vec::new()) };
    world.tell(Event::Announced {
        request: RequestId(1),
        plugin: python(),
        incarnation: 1,
        registration: fewer,
    });
    let standing = world.schedules.values().filter(|row| row.retired_at.is_none());
    let standing: Vec<_> = standing.map(|row| row.name.as_str()).collect();
    assert_eq!(standing, ["hello-hourly"]);
}

#[test]
fn there_is_room_for_so_many_names_and_for_any_version_of_them() {
    let bounds = Bounds { stored_handlers_max: 2, ..Bounds::default() };
    let mut world = World::with(Policy { bounds, ..policy() });
    world.runner_up(1, runner(Vec::new()));
    for name in ["a", "b", "c", "a", "b"] {
        world.store(name);
    }
    world.remove("a");
    world.store("c");
    world.store("a");
    assert_eq!((world.told("a").1, world.told("b").1, world.now_is("c")), (3, 2, None));
    let refused = world.records("handler_refused");
    assert_eq!(refused.len(), 2);
    assert!(refused[0]["reason"].as_str().unwrap().contains("2 handlers are stored"));
}

#[test]
fn a_breaker_closes_for_new_code() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    world.store("hello");
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    for _ in 0..40 {
        for start in starts(&world.claim("x", "p")) {
            world.end(&start, busy());
        }
    }
    assert_eq!(world.state.overview().breakers.len(), 1);
    world.store("hello");
    assert_eq!(world.state.overview().breakers.len(), 0);
}

#[test]
fn failures_of_the_code_before_are_none_of_the_newer() {
    let mut world = World::new();
    world.runner_up(1, runner(Vec::new()));
    world.store("hello");
    world.declare(on_predicate("w", "p", "python.hello")).unwrap();
    let older: Vec<_> = (0..40).flat_map(|_| starts(&world.claim("x", "p"))).collect();
    assert!(older.len() > 1, "{older:?}");
    world.store("hello");
    let mut running = VecDeque::new();
    for start in &older {
        running.extend(starts(&world.end(start, busy())));
    }
    // It takes ten of one version.
    for failed in 1..=10 {
        let start: Start = running.pop_front().expect("what waited starts");
        assert_eq!(start.handler_version.as_ref().unwrap().as_str(), "A42");
        running.extend(starts(&world.end(&start, busy())));
        let open = world.state.overview().breakers.len();
        assert_eq!(open, usize::from(failed == 10), "after {failed}");
    }
}

/// What a claim does to one name, the obvious way.
fn fold(rows: &[axwatch_model::HandlerChangeRow]) -> Option<(u64, StoredHandlerState)> {
    let last = rows.last()?.clone();
    let stored = rows.iter().filter(|row| row.kind == HandlerChangeKind::Stored).count() as u64;
    Some((stored, StoredHandler::after(last).state))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is in memory is what the rows say, and a restart at any moment changes nothing.
    #[test]
    fn the_table_follows_from_its_rows(
        steps in proptest::collection::vec((0..6u8, 0..3usize, any::<bool>()), 1..40),
    ) {
        let mut world = World::granting("maker");
        world.runner_up(1, runner(Vec::new()));
        for (step, name, restarts) in steps {
            let name = ["a", "b", "c"][name];
            match step {
                0 | 1 => { world.store(name); }
                2 => { world.fault(name, "line 1", None); }
                3 => { world.fault(name, "line 2", Some("A1")); }
                4 => { world.remove(name); }
                _ => { world.says("handler", name, "git", &code()); }
            }
            if restarts {
                let before = world.state.stored_handlers();
                world.restart();
                prop_assert_eq!(world.state.stored_handlers(), before);
            }
            for name in ["a", "b", "c"] {
                let of = |row: &&axwatch_model::HandlerChangeRow| row.name.as_str() == name;
                let rows: Vec<_> = world.handler_changes.values().filter(of).cloned().collect();
                let now = world.now_is(name).map(|handler| (handler.version_number, handler.state));
                prop_assert_eq!(now, fold(&rows), "{}", name);
            }
        }
        let Snapshot { stored_handlers, .. } = world.snapshot();
        prop_assert!(stored_handlers.len() <= 3);
    }
}
