//! Announcements of many watchers, of which each batch takes a slice: what is answered, and in which order it
//! comes to pass, what claims meet in between, and what becomes of the rest when the plugin goes.

use axwatch_core::Verdicts;
use axwatch_model::RefusedRow;

use super::plugins::{demo, is_doubted, registered, route, schedule};
use super::*;

impl World {
    /// A world whose batches take so many watchers of an announcement.
    fn sliced(announced_at_once_max: usize) -> World {
        let bounds = Bounds { announced_at_once_max, ..Bounds::default() };
        World::with(Policy { bounds, ..policy() })
    }

    fn take(&mut self) -> Vec<Effect> {
        self.tell(Event::TakeAnnounced)
    }

    /// Takes all that is left of announcements, after these effects; gives all effects, and how many batches it took.
    pub fn take_all(&mut self, mut effects: Vec<Effect>) -> (Vec<Effect>, usize) {
        let mut batches = 1;
        while self.state.is_announcing() {
            effects.extend(self.take());
            batches += 1;
        }
        (effects, batches)
    }

    /// The local ids of demo's watchers that stand, by the rows.
    fn standing(&self) -> Vec<&str> {
        let stands =
            |row: &&WatcherRow| !matches!(row.state, WatcherState::Retired | WatcherState::Refused);
        self.watchers.values().filter(stands).map(|row| row.key.local.as_str()).collect()
    }

    fn told_of(&self, kind: &str) -> Vec<String> {
        let watcher = |record: &serde_json::Value| record["watcher"].as_str().map(str::to_owned);
        self.records(kind).iter().filter_map(watcher).collect()
    }
}

fn many(locals: std::ops::Range<u32>) -> Registration {
    let declared = locals.map(|n| on_predicate(&format!("w{n}"), "p", "act"));
    registration(&["act"], declared.collect())
}

fn is_answered(effects: &[Effect]) -> bool {
    let is_reply = |effect: &Effect| matches!(effect, Effect::Reply { .. });
    effects.iter().any(is_reply)
}

/// What some announcements after one another come to, by how much a batch takes.
fn come_to(at_once: usize, announcements: &[Registration]) -> (World, Vec<Verdicts>, Vec<bool>) {
    let mut world = World::sliced(at_once);
    let (mut verdicts, mut doubted) = (Vec::new(), Vec::new());
    for (index, announced) in announcements.iter().enumerate() {
        let told = match index {
            0 => world.comes_up(1, announced.clone()),
            _ => world.announces(1, announced.clone()),
        };
        let (effects, _) = world.take_all(told);
        verdicts.push(registered(&effects).unwrap());
        doubted.push(is_doubted(&effects));
    }
    (world, verdicts, doubted)
}

#[test]
fn in_slices_it_comes_to_the_same_as_at_once() {
    let changed = |locals: std::ops::Range<u32>| {
        let declared = locals.map(|n| on_predicate(&format!("w{n}"), "q", "more"));
        registration(&["act", "more"], declared.collect())
    };
    let mixed = || {
        let mut all = many(0..7);
        all.watchers[2].handlers = vec!["nobody".into()];
        all.watchers[5].local = "w0".into();
        all.watchers.push(in_ax("broken", "is 'p", "act"));
        let refused = RefusedRow {
            kind: axwatch_model::Announced::Handler,
            name: "a/b".into(),
            reason: "no".into(),
        };
        let schedules = vec![schedule("act", 60), schedule("nobody", 60)];
        let routes = vec![route("GET", "/a"), route("GET", "a")];
        Registration { schedules, routes, refused: vec![refused], ..all }
    };
    let doubtful = |all: Registration| Registration { doubtful: true, ..all };
    let cases = [
        vec![many(0..9), many(0..9), changed(0..9), many(3..6), many(0..0)],
        vec![many(0..5), changed(3..9), many(0..5)],
        vec![mixed(), mixed(), many(0..4), mixed(), many(0..0)],
        vec![changed(0..9), doubtful(mixed()), doubtful(many(0..2)), changed(0..2)],
    ];
    for announcements in cases {
        let (at_once, verdicts, doubted) = come_to(usize::MAX, &announcements);
        let of = |world: &World| {
            // Only of what comes up it is told before the rest is taken.
            let lines = world.record_lines().filter(|line| !line.contains("plugin_up"));
            let lines: Vec<_> = lines.map(str::to_owned).collect();
            let revisions = world.revisions.values().cloned();
            let revisions: Vec<_> =
                revisions.map(|row| RevisionRow { leaf: None, ..row }).collect();
            let tables = (world.watchers.clone(), revisions, world.handlers.clone());
            let more = (world.schedules.clone(), world.routes.clone(), world.refused.clone());
            (lines, tables, more, world.plugins.clone())
        };
        for at_once_max in [1, 2, 3, 64] {
            let (world, sliced, then_doubted) = come_to(at_once_max, &announcements);
            assert_eq!(sliced, verdicts, "{at_once_max} at once");
            assert_eq!(then_doubted, doubted, "{at_once_max} at once");
            assert_eq!(of(&world), of(&at_once), "{at_once_max} at once");
            assert!(world.verify_audit().ok);
        }
    }
}

#[test]
fn one_that_fits_is_taken_at_once_and_a_larger_one_is_answered_with_its_last_slice() {
    // (watchers, batches)
    for (watchers, expected) in [(0, 1), (3, 1), (4, 2), (7, 3)] {
        let mut world = World::sliced(3);
        let first = world.comes_up(1, many(0..watchers));
        assert_eq!(is_answered(&first), expected == 1);
        assert_eq!(world.records("plugin_up").len(), 1, "it is up from the first on");
        let (effects, batches) = world.take_all(first);
        assert_eq!(batches, expected, "{watchers} watchers");
        assert_eq!(registered(&effects).unwrap().watchers.len(), watchers as usize);
        // As they stand it takes eight times as many.
        let again = world.announces(1, many(0..watchers));
        assert!(is_answered(&again));
    }
    let mut world = World::sliced(1);
    let told = world.comes_up(1, many(0..20));
    assert_eq!(world.take_all(told).1, 20);
    let again = world.announces(1, many(0..20));
    assert_eq!(world.take_all(again).1, 3);
    assert_eq!(world.told_of("watcher_registered").len(), 20);
}

#[test]
fn what_stands_fires_and_runs_before_the_rest_is_taken() {
    let mut world = World::sliced(2);
    world.comes_up(1, many(0..5));
    let effects = world.claim("x", "p");
    assert_eq!((fired(&effects), starts(&effects).len()), (2, 2), "two stand, and run");
    world.take();
    assert_eq!(fired(&world.claim("x", "p")), 4);
    world.take();
    assert!(!world.state.is_announcing());
    assert_eq!(fired(&world.claim("x", "p")), 5);
    let begins = |local: &str| world.watchers[&format!("demo-{local}")].since_seq;
    assert_eq!(["w0", "w1", "w2", "w3", "w4"].map(begins), [0, 0, 1, 1, 2].map(Seq));
    // What is dropped fires up to where it is retired, and no further.
    world.announces(1, many(4..5));
    assert_eq!(world.standing(), ["w2", "w3", "w4"]);
    assert_eq!(fired(&world.claim("x", "p")), 3);
    let (effects, _) = world.take_all(Vec::new());
    assert!(is_answered(&effects));
    assert_eq!(fired(&world.claim("x", "p")), 1);
}

#[test]
fn nothing_that_stood_is_retired_before_all_is_declared() {
    let mut world = World::sliced(2);
    world.comes_up(1, many(0..2));
    let first = world.audit.len();
    let told = world.announces(1, many(2..7));
    world.take_all(told);
    let of_it = world.audit[first..].iter().flat_map(|audit| audit.records.lines());
    let kinds: Vec<_> = of_it
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["type"].clone())
        .collect();
    let retired = kinds.iter().position(|kind| kind == "watcher_retired").unwrap();
    assert_eq!(kinds.len(), 7);
    assert_eq!(retired, 5, "{kinds:?}");
}

#[test]
fn the_next_announcement_overtakes_and_the_asker_of_the_first_is_told() {
    let mut world = World::sliced(2);
    world.comes_up(1, many(0..5));
    let effects = world.announces(1, many(3..8));
    let refusal = registered(&effects).unwrap_err();
    assert!(refusal.reason.contains("announced something else"), "{refusal}");
    let (effects, _) = world.take_all(Vec::new());
    assert_eq!(registered(&effects).unwrap().watchers.len(), 5);
    assert_eq!(world.standing(), ["w3", "w4", "w5", "w6", "w7"]);
    assert_eq!(world.told_of("watcher_registered").len(), 7, "w2 was never declared");
    // So does another process that comes up.
    world.announces(1, many(0..8));
    let effects = world.comes_up(2, many(0..1));
    assert!(registered(&effects).is_err());
    let (effects, _) = world.take_all(Vec::new());
    assert!(registered(&effects).is_ok());
    assert_eq!(world.standing(), ["w0"]);
}

/// What goes in the middle: the rest is not taken, nothing that stood is retired, and what is announced after
/// makes it whole.
#[test]
fn of_a_plugin_that_goes_the_rest_is_not_taken() {
    for how in ["down", "killed", "disabled"] {
        let mut world = World::sliced(2);
        let told = world.comes_up(1, many(0..5));
        world.take_all(told);
        world.announces(1, many(5..10));
        let effects = match how {
            "down" => {
                let (reason, crashed) = ("stopped".to_owned(), false);
                world.tell(Event::PluginDown { plugin: demo(), incarnation: 1, reason, crashed })
            }
            "killed" => world.restart(),
            _ => world.disable(),
        };
        assert!(!world.state.is_announcing(), "{how}");
        match how {
            // Nobody is there any more who could be told.
            "killed" => assert!(!is_answered(&effects)),
            "down" => assert!(registered(&effects).unwrap_err().reason.contains("went away")),
            _ => assert!(registered(&effects).unwrap_err().reason.contains("disabled")),
        }
        let stand = world.standing().len();
        assert_eq!(stand, if how == "disabled" { 0 } else { 7 }, "{how}");
        if how == "disabled" {
            world.goes_down(1);
            world.enable();
        }
        let told = world.comes_up(2, many(5..10));
        let (effects, _) = world.take_all(told);
        assert!(registered(&effects).unwrap().refused.is_empty());
        assert_eq!(world.standing(), ["w5", "w6", "w7", "w8", "w9"], "{how}");
        let again = if how == "disabled" { 2 } else { 0 };
        assert_eq!(world.told_of("watcher_registered").len(), 10 + again, "each once: {how}");
        assert!(world.verify_audit().ok);
    }
}

#[test]
fn several_plugins_have_their_turns() {
    let mut world = World::sliced(1);
    for (request, plugin) in ["a", "b"].into_iter().enumerate() {
        world.tell(Event::PluginUp {
            request: RequestId(request as u64),
            plugin: plugin.parse().unwrap(),
            incarnation: 1,
            version: String::new(),
            max_in_flight: 8,
            registration: many(0..3),
        });
    }
    assert!(world.state.will_answer(RequestId(0)) && world.state.will_answer(RequestId(1)));
    (0..4).for_each(|_| drop(world.take()));
    let turns = ["a-w0", "b-w0", "a-w1", "b-w1", "a-w2", "b-w2"];
    assert_eq!(world.told_of("watcher_registered"), turns);
    assert!(!world.state.is_announcing());
}

#[test]
fn what_was_told_of_refused_ones_is_not_told_again_however_it_ended() {
    let refused = || {
        let declared = (0..6).map(|n| on_predicate(&format!("w{n}"), "p", "nobody"));
        registration(&["act"], declared.collect())
    };
    let mut world = World::sliced(2);
    let told = world.comes_up(1, refused());
    world.take_all(told);
    assert_eq!(world.told_of("watcher_refused").len(), 6);
    // One that ends after two of them, and one that comes to all.
    world.announces(1, refused());
    let told = world.announces(1, refused());
    world.take_all(told);
    assert_eq!(world.told_of("watcher_refused").len(), 6);
    assert_eq!(world.refused[&demo()].len(), 6);
}

#[test]
fn what_is_believed_in_the_end_goes_in_slices_too() {
    let mut world = World::sliced(2);
    let called = Registration { called_back: Some(true), ..many(0..5) };
    let told = world.comes_up(1, called);
    world.take_all(told);
    world.goes_down(1);
    assert!(is_doubted(&world.comes_up(2, many(0..0))));
    world.pass_through(Duration::from_secs(599));
    assert_eq!(world.standing().len(), 5);
    world.pass_through(Duration::from_secs(2));
    assert_eq!(world.standing().len(), 3);
    let (effects, batches) = world.take_all(Vec::new());
    assert_eq!((world.standing().len(), batches), (0, 3));
    assert!(!is_answered(&effects), "nobody asked");
    assert_eq!(world.plugins[&demo()].doubted_until, None);
}
