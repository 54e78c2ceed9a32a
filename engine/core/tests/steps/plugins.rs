//! What plugins announce: schedules and routes beside handlers and watchers, what is refused, what is
//! doubted, also over a restart of the engine, and plugins that somebody disables.

use axwatch_core::{PluginTransition, RouteDeclaration, ScheduleDeclaration, Verdicts, WaitReason};
use axwatch_model::{Announced, RefusedRow, ScheduleState};

use super::*;

pub fn demo() -> PluginName {
    "demo".parse().unwrap()
}

pub fn schedule(handler: &str, interval_secs: i64) -> ScheduleDeclaration {
    ScheduleDeclaration {
        id: String::new(),
        handler: handler.into(),
        interval_secs,
        enabled_by_default: true,
        description: "now and then".into(),
        ats_code: String::new(),
    }
}

pub fn route(method: &str, path: &str) -> RouteDeclaration {
    RouteDeclaration { method: method.into(), path: path.into(), description: String::new() }
}

/// A plugin with one of each.
fn whole() -> Registration {
    Registration {
        schedules: vec![schedule("act", 60)],
        routes: vec![route("GET", "/hello")],
        ..registration(&["act", "more"], vec![on_predicate("w", "p", "act")])
    }
}

fn only_act() -> Registration {
    registration(&["act"], Vec::new())
}

impl World {
    /// A process of demo comes up.
    pub fn comes_up(&mut self, incarnation: u64, registration: Registration) -> Vec<Effect> {
        self.tell(Event::PluginUp {
            request: RequestId(1),
            plugin: demo(),
            incarnation,
            version: "1.0".into(),
            max_in_flight: 64,
            registration,
        })
    }

    pub fn goes_down(&mut self, incarnation: u64) {
        let reason = "stopped".to_owned();
        self.tell(Event::PluginDown { plugin: demo(), incarnation, reason, crashed: false });
    }

    pub fn announces(&mut self, incarnation: u64, registration: Registration) -> Vec<Effect> {
        let request = RequestId(1);
        self.tell(Event::Announced { request, plugin: demo(), incarnation, registration })
    }

    pub fn disable(&mut self) -> Vec<Effect> {
        let by = "user".to_owned();
        self.tell(Event::PluginDisabled { request: RequestId(9), plugin: demo(), by })
    }

    pub fn enable(&mut self) {
        let by = "user".to_owned();
        self.tell(Event::PluginEnabled { request: RequestId(9), plugin: demo(), by });
    }

    /// What demo has: handlers, watchers, schedules and routes, each with how many.
    fn has(&self) -> [usize; 4] {
        let plugin = self.state.plugin(&demo()).unwrap();
        [plugin.handlers.len(), plugin.watchers.len(), plugin.schedules.len(), plugin.routes.len()]
    }

    /// The same, from the rows.
    fn rows(&self) -> [usize; 4] {
        let standing = |row: &&WatcherRow| {
            row.key.owner == Owner::Plugin(demo()) && row.state != WatcherState::Retired
        };
        [
            self.handlers.iter().filter(|row| row.plugin == demo()).count(),
            self.watchers.values().filter(standing).count(),
            self.schedules.values().filter(|row| row.retired_at.is_none()).count(),
            self.routes.get(&demo()).map_or(0, Vec::len),
        ]
    }
}

pub fn registered(effects: &[Effect]) -> Result<Verdicts, Refusal> {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Registered(answer), .. } => Some(answer.clone()),
        _ => None,
    });
    found.expect("a registration is answered")
}

/// The reasons of the texts that the log hears are no AX.
fn unparsed(effects: &[Effect]) -> Vec<String> {
    let reason = |effect: &Effect| match effect {
        Effect::Unparsed { reason, .. } => Some(reason.clone()),
        _ => None,
    };
    effects.iter().filter_map(reason).collect()
}

pub fn is_doubted(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Doubted { .. }))
}

#[test]
fn schedules_and_routes_are_reconciled_with_the_rest() {
    let mut world = World::new();
    world.comes_up(1, whole());
    assert_eq!((world.has(), world.rows()), ([2, 1, 1, 1], [2, 1, 1, 1]));
    let first = world.schedules["demo/act"].clone();

    // The same again writes none of them.
    world.schedules.clear();
    world.routes.clear();
    world.advance(second());
    world.announces(1, whole());
    assert!(world.schedules.is_empty() && world.routes.is_empty());
    assert_eq!(world.records("schedule_declared").len(), 1);

    // A changed one is taken over, a missing one is retired, by whose it is.
    let changed = Registration {
        schedules: vec![schedule("demo/act", 30), schedule("more", -5)],
        routes: vec![route("get", "hello"), route("POST", "/hello")],
        ..whole()
    };
    world.announces(1, changed);
    let row = &world.schedules["demo/act"];
    assert_eq!((row.grid.secs(), row.declared_at), (Some(30), first.declared_at));
    assert_eq!((row.anchor, row.state), (first.anchor, ScheduleState::Active));
    assert!(row.changed_at > first.changed_at);
    let never = &world.schedules["demo/more"];
    assert!(never.grid.is_never(), "less than nothing is never");
    assert_eq!(never.state, ScheduleState::Inactive);
    assert_eq!(world.has(), [2, 1, 2, 2]);
    world.announces(1, Registration { schedules: Vec::new(), ..whole() });
    assert_eq!((world.has(), world.rows()), ([2, 1, 0, 1], [2, 1, 0, 1]));
    let retired = world.records("schedule_retired");
    assert_eq!(retired.len(), 2);
    assert_eq!(retired[0]["reason"], "its plugin no longer declares it");

    // Declared again it is a new one, and a start of the engine knows all.
    world.advance(second());
    world.announces(1, whole());
    assert!(world.schedules["demo/act"].declared_at > first.declared_at);
    world.restart();
    assert_eq!((world.has(), world.rows()), ([2, 1, 1, 1], [2, 1, 1, 1]));
}

#[test]
fn what_is_declared_again_is_a_new_revision_only_when_something_of_it_is_other() {
    let base = || Declaration {
        declared: Declared::Ax("is p".into()),
        ..on_predicate("w", "unused", "act")
    };
    let with_params = |params: &str| Declaration { params: Some(params.into()), ..base() };
    let text = |text: &str, handlers: &[&str]| Declaration {
        declared: Declared::Ax(text.into()),
        handlers: handlers.iter().map(|handler| (*handler).to_owned()).collect(),
        ..base()
    };
    let cases = [
        // (first, then, whether that is the same)
        (base(), base(), true),
        (base(), text("is q", &["act"]), false),
        (base(), text("is p", &["more"]), false),
        (base(), text("is p", &["act", "act"]), true),
        (base(), Declaration { max_fires_per_second: 5, ..base() }, false),
        (base(), Declaration { zero_is_never: true, ..base() }, false),
        (base(), Declaration { max_chain: 2, ..base() }, false),
        (base(), Declaration { max_attempts: 2, ..base() }, false),
        (base(), Declaration { max_age: Some(Duration::from_secs(60)), ..base() }, false),
        (base(), Declaration { since: Some(axwatch_core::Since::First(Seq(1))), ..base() }, true),
        (base(), with_params(r#"{"a":1}"#), false),
        (with_params(r#"{"a":1}"#), with_params(r#"{"a":1}"#), true),
        (with_params(r#"{"a":1}"#), base(), false),
        (text("is p so more", &["act"]), text("is p so more", &["act"]), true),
        // What its text names is not to be named beside it too.
        (text("is p so more", &["act"]), text("is p so more", &["more", "act"]), true),
        (text("is p so more", &["act"]), text("is p so more", &[]), false),
        (text("is p THEREFORE more", &["act"]), text("is p THEREFORE more", &[]), false),
    ];
    for (first, then, same) in cases {
        let mut world = World::new();
        let all =
            |declaration: &Declaration| registration(&["act", "more"], vec![declaration.clone()]);
        registered(&world.comes_up(1, all(&first))).unwrap();
        let verdicts = registered(&world.announces(1, all(&then))).unwrap();
        assert!(verdicts.refused.is_empty(), "{:?}", verdicts.refused);
        let revision = world.watchers.values().next().unwrap().revision;
        assert_eq!(revision, if same { 1 } else { 2 }, "{first:?} and then {then:?}");
        // A handler that is gone refuses it, however much it is the same.
        let gone = registration(&[], vec![then.clone()]);
        assert_eq!(registered(&world.announces(1, gone)).unwrap().refused.len(), 1, "{then:?}");
    }
}

#[test]
fn what_is_no_good_is_refused_part_by_part() {
    let mut world = World::new();
    let announced = Registration {
        schedules: vec![
            schedule("act", 60),
            schedule("act", 61),
            schedule("nothing", 60),
            schedule("other/act", 60),
            schedule("", 60),
        ],
        routes: vec![
            route("GET", "/hello"),
            route("get", "hello"),
            route("", "/a"),
            route("G T", "/a"),
            route("GET", "/a b"),
            route("GET", "/a?b"),
            route("GET", &"x".repeat(2_001)),
        ],
        refused: vec![RefusedRow {
            kind: Announced::Handler,
            name: "a/b".into(),
            reason: "no".into(),
        }],
        ..registration(&["act"], vec![on_predicate("w", "p", "nothing")])
    };
    let verdicts = registered(&world.comes_up(1, announced.clone())).unwrap();
    let told: Vec<_> =
        verdicts.refused.iter().map(|row| (row.kind, row.name.as_str(), &*row.reason)).collect();
    let expected = [
        (Announced::Handler, "a/b", "no"),
        (Announced::Route, "get hello", "declared twice"),
        (Announced::Route, " /a", "a method is a word"),
        (Announced::Route, "G T /a", "a method is a word"),
        (Announced::Route, "GET /a b", "no blanks"),
        (Announced::Route, "GET /a?b", "no '?'"),
        (Announced::Route, "GET xxx", "2001 bytes"),
        (Announced::Watcher, "w", "did not announce it"),
        (Announced::Schedule, "act", "declared twice"),
        (Announced::Schedule, "nothing", "plugin demo did not announce it"),
        (Announced::Schedule, "other/act", "plugin demo did not announce it"),
        (Announced::Schedule, "", "1 to 256 bytes"),
    ];
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for ((kind, name, reason), (of, named, says)) in told.into_iter().zip(expected) {
        assert!(kind == of && name.starts_with(named) && reason.contains(says), "{name}: {reason}");
    }
    // The others stand, and what was refused is kept, up to a bound.
    assert_eq!(world.has(), [1, 1, 1, 1], "the refused watcher is where people look for it");
    assert_eq!(world.refused[&demo()].len(), 12);
    let flood = (0..500).map(|n| route("GET", &format!("/{n} "))).collect();
    world.announces(1, Registration { routes: flood, ..announced });
    let kept = &world.refused[&demo()];
    assert_eq!(kept.len(), 101);
    assert_eq!(kept[100].reason, "and 406 more were refused");
    world.announces(1, only_act());
    assert_eq!(world.refused[&demo()], []);
}

/// The measure is an announcement that changes handlers, which has to ask every watcher that waits.
#[test]
fn an_announcement_of_the_same_handlers_asks_no_watcher() {
    let mut world = World::new();
    for n in 0..5_000 {
        world.declare(in_ax(&format!("w{n}"), "is p", "absent")).unwrap();
    }
    world.comes_up(1, only_act());
    let mut took = |handlers: &[&str]| {
        let registration = registration(handlers, Vec::new());
        let began = std::time::Instant::now();
        let now = world.now;
        let announced = Event::Announced {
            request: RequestId(1),
            plugin: demo(),
            incarnation: 1,
            registration,
        };
        world.state.step(announced, now);
        began.elapsed()
    };
    // The quickest of several, which nobody interrupted.
    let changes = (0..5).map(|n| took(&["act", if n % 2 == 0 { "more" } else { "other" }]));
    let changed = changes.min().unwrap();
    let same = (0..20).map(|_| took(&["act", "more"])).min().unwrap();
    assert!(4 * same < changed, "the same in {same:?}, one that changes in {changed:?}");
    // And what waits finds its handler all the same.
    world.announces(1, registration(&["act", "absent"], Vec::new()));
    assert!(world.watchers.values().all(|row| row.state == WatcherState::Live));
}

/// A job whose watcher no longer names its handler goes to whoever has it, once nobody keeps it for another.
#[test]
fn what_a_disabled_plugin_kept_finds_another_with_any_announcement_after() {
    let mut world = World::new();
    world.comes_up(1, registration(&["act", "more"], Vec::new()));
    world.declare(in_ax("mine", "is p", "act")).unwrap();
    world.goes_down(1);
    assert_eq!(fired(&world.claim("x", "p")), 1);
    world.declare(in_ax("mine", "is p", "more")).unwrap();
    world.disable();
    world.up("other", &["act"], Vec::new());
    world.enable();
    let effects = world.tell(Event::Announced {
        request: RequestId(1),
        plugin: "other".parse().unwrap(),
        incarnation: 1,
        registration: only_act(),
    });
    let started = starts(&effects);
    let at: Vec<_> = started.iter().map(|start| start.plugin.as_str()).collect();
    assert_eq!(at, ["other"]);
}

#[test]
fn a_schedule_goes_with_its_handler() {
    let mut world = World::new();
    let announced = |handlers: &[&str]| Registration {
        schedules: vec![schedule("act", 60), schedule("demo/more", 60)],
        ..registration(handlers, Vec::new())
    };
    world.comes_up(1, announced(&["act", "more"]));
    assert_eq!(world.has(), [2, 0, 2, 0]);
    // It is still named, and refused for its handler.
    let verdicts = registered(&world.announces(1, announced(&["act"]))).unwrap();
    assert_eq!(verdicts.refused.len(), 1);
    assert_eq!((world.has(), world.rows()), ([1, 0, 1, 0], [1, 0, 1, 0]));
    // While it is doubted that the handler is gone, both stay.
    world.announces(1, announced(&["act", "more"]));
    world.announces(1, Registration { doubtful: true, ..announced(&["act"]) });
    assert_eq!(world.has(), [2, 0, 2, 0]);
    world.pass_through(Duration::from_secs(601));
    assert_eq!((world.has(), world.rows()), ([1, 0, 1, 0], [1, 0, 1, 0]));
}

/// A world in which a plugin may have so many watchers, and as many schedules.
fn narrow(max: usize) -> World {
    let bounds = Bounds { plugin_watchers_max: max, owner_schedules_max: max, ..Bounds::default() };
    World::with(Policy { bounds, ..policy() })
}

#[test]
fn ever_new_watchers_and_schedules_of_a_plugin_come_to_an_end() {
    let mut world = narrow(10);
    let round = |n: usize| {
        let handlers: Vec<_> = (0..4).map(|i| format!("act{n}.{i}")).collect();
        let names: Vec<_> = handlers.iter().map(String::as_str).collect();
        let watchers = names.iter().map(|name| on_predicate(&format!("w-{name}"), "p", name));
        Registration {
            schedules: names.iter().map(|name| schedule(name, 60)).collect(),
            ..registration(&names, watchers.collect())
        }
    };
    world.comes_up(1, round(0));
    world.announces(1, round(1));
    assert_eq!(world.has(), [4, 4, 4, 0]);
    let verdicts = registered(&world.announces(1, round(2))).unwrap();
    assert_eq!(world.has(), [4, 2, 2, 0], "there was room for two of each");
    assert_eq!(verdicts.refused.len(), 4);
    for row in &verdicts.refused {
        assert!(row.reason.contains("plugin demo has 10 "), "{}", row.reason);
    }
    // Neither does a start of the engine make room, nor do others have less of it.
    world.restart();
    world.comes_up(2, round(3));
    assert_eq!((world.has(), world.watchers.len()), ([4, 0, 0, 0], 10));
    world.up("other", &["act"], vec![on_predicate("w", "p", "act")]);
    world.declare(in_ax("mine", "is q", "act")).unwrap();
    // What was there before may come again.
    world.announces(2, round(1));
    assert_eq!((world.has(), world.watchers.len()), ([4, 4, 4, 0], 12));
}

#[test]
fn ever_new_watchers_that_are_refused_take_turns_in_a_few_rows() {
    let mut world = narrow(10);
    world.comes_up(1, only_act());
    let good = || on_predicate("good", "p", "act");
    for n in 0..50 {
        let refused = (0..3).map(|i| on_predicate(&format!("bad{n}.{i}"), "p", "absent"));
        let watchers = refused.chain([good()]).collect();
        world.announces(1, registration(&["act"], watchers));
        let shown = world.state.plugin(&demo()).unwrap().watchers;
        let mut shown: Vec<_> = shown.iter().map(|watcher| watcher.row.key.to_string()).collect();
        shown.sort_unstable();
        let expected = (0..3).map(|i| format!("demo-bad{n}.{i}")).chain(["demo-good".into()]);
        assert_eq!(shown, expected.collect::<Vec<_>>());
        if n % 7 == 0 {
            world.restart();
            world.comes_up(1, only_act());
        }
    }
    assert!(world.watchers.len() <= 8, "{}", world.watchers.len());
    // A refused one that is mended is one like others, and so is one whose row was another's.
    let mended = on_predicate("bad49.0", "p", "act");
    world.announces(
        1,
        registration(&["act"], vec![mended, on_predicate("new", "p", "act"), good()]),
    );
    assert_eq!(world.rows(), [1, 3, 0, 0]);
    assert_eq!(fired(&world.claim("x", "p")), 3);
    let numbers: std::collections::BTreeSet<_> =
        world.watchers.values().map(|row| row.number).collect();
    assert_eq!(numbers.len(), world.watchers.len());
    assert!(world.verify_audit().ok);
}

/// `git` with `hub-x` and `git-hub` with `x` are seen under one id.
#[test]
fn a_refused_watcher_that_goes_takes_no_id_from_the_one_that_has_it() {
    let mut world = World::new();
    world.up("git", &["act"], vec![on_predicate("hub-x", "p", "absent")]);
    world.up("git-hub", &["act"], vec![on_predicate("x", "p", "act")]);
    world.up("git", &["act"], Vec::new());
    let found = world.state.watcher("git-hub-x").expect("it stands");
    assert_eq!(found.row.key.owner, Owner::Plugin("git-hub".parse().unwrap()));
    // Nor may anybody else have it.
    let (verdicts, _) = world.up("git", &["act"], vec![on_predicate("hub-x", "p", "act")]);
    let refusal = verdicts[0].clone().unwrap_err();
    assert!(refusal.reason.contains("the id git-hub-x is taken"), "{refusal}");
    // Once it is retired itself, its id is free.
    world.up("git-hub", &["act"], Vec::new());
    assert!(world.state.watcher("git-hub-x").is_none());
    let (verdicts, _) = world.up("git", &["act"], vec![on_predicate("hub-x", "p", "act")]);
    assert_eq!(verdicts, [Ok(())]);
}

/// One announcement a row: what is refused of it, and how many of these are told of.
#[test]
fn what_is_refused_again_is_not_told_again() {
    let mut world = World::new();
    let bad = |n: usize| on_predicate(&format!("bad{n}"), "p", "absent");
    let broken = |text: &str| in_ax("broken", text, "act");
    let unnamed = || on_predicate("", "p", "act");
    let taken = || on_predicate("more-x", "p", "act");
    world.up("demo-more", &["act"], vec![on_predicate("x", "p", "act")]);
    let all = || vec![bad(1), bad(2), broken("is"), unnamed(), taken(), bad(1)];
    // (what is announced, records, lines of the log)
    let cases = [
        (all(), 6, 1),
        (all(), 0, 0),
        (vec![bad(2), broken("is"), bad(1)], 0, 0),
        // Another reason is news, and so is what comes back.
        (vec![bad(2), broken("is is"), bad(1)], 1, 1),
        (vec![bad(2), bad(3)], 1, 0),
        (vec![bad(2), bad(3), taken()], 1, 0),
    ];
    world.comes_up(1, only_act());
    for (n, (watchers, records, lines)) in cases.into_iter().enumerate() {
        let before = world.records("watcher_refused").len();
        let refused = watchers.len();
        let effects = world.announces(1, registration(&["act"], watchers));
        assert_eq!(registered(&effects).unwrap().refused.len(), refused, "{n}: the reply has all");
        assert_eq!(world.records("watcher_refused").len() - before, records, "{n}");
        assert_eq!(unparsed(&effects).len(), lines, "{n}");
    }
    // The rows tell it over a start of the engine, and nothing is written for what they hold already.
    world.restart();
    let before = world.records("watcher_refused").len();
    world.watchers.clear();
    world.comes_up(2, registration(&["act"], vec![bad(2), bad(3)]));
    assert_eq!(world.records("watcher_refused").len(), before);
    assert!(world.watchers.is_empty(), "{:?}", world.watchers);
}

/// What an announcement that has to be refused over and over leaves in the log and in the audit.
#[test]
fn of_a_flood_of_refused_watchers_the_first_are_told() {
    let mut world = World::new();
    world.comes_up(1, only_act());
    let texts = (0..700).map(|n| in_ax(&format!("text{n}"), "is", "act"));
    let flood = texts.chain((0..1_000).map(|n| on_predicate(&format!("bad{n}"), "p", "absent")));
    let flood: Vec<_> =
        flood.chain((700..800).map(|n| in_ax(&format!("text{n}"), "is", "act"))).collect();
    let told = world.announces(1, registration(&["act"], flood.clone()));
    let (effects, _) = world.take_all(told);
    let records = world.records("watcher_refused");
    assert_eq!((records.len(), unparsed(&effects).len()), (1_001, 701));
    let last = records.last().unwrap();
    let told = (last["watcher"].as_str().unwrap(), last["reason"].as_str().unwrap());
    assert_eq!(told, ("demo", "and 800 more watchers of this announcement"));
    assert_eq!(unparsed(&effects)[700], "and 100 more of this announcement");
    assert_eq!(registered(&effects).unwrap().refused.len(), 1_800);
    // Those that were only counted are no news either.
    let told = world.announces(1, registration(&["act"], flood));
    let (effects, _) = world.take_all(told);
    assert_eq!((world.records("watcher_refused").len(), unparsed(&effects).len()), (1_001, 0));
    assert!(world.verify_audit().ok);
}

/// Whatever a secret stands in, and however much of it a mistake would quote.
#[test]
fn what_is_refused_is_kept_and_told_without_secrets() {
    const SECRET: &str =
        "hunter2-and-as-long-a-rest-as-no-mistake-would-ever-quote-to-its-very-end";
    let redact = |text: &str| text.contains("hunter").then(|| text.replace(SECRET, "[redacted]"));
    let structural = |subject: &str, handler: &str| {
        let subjects = vec![subject.to_owned()];
        let lists = StructuralFilter { subjects, ..Default::default() };
        Declaration { declared: Declared::Structural(lists), ..in_ax("lists", "", handler) }
    };
    let params = Some(format!("[{SECRET:?}]").into());
    let watchers = vec![
        in_ax("handler", "is p", SECRET),
        in_ax("long-handler", "is p", &"x".repeat(300).replacen("xx", SECRET, 1)),
        in_ax("ax", &format!("is p of of {SECRET}"), "act"),
        in_ax("ax-handler", &format!("is p so {SECRET}"), "act"),
        in_ax("quote", &format!("is 'p {SECRET}"), "act"),
        structural(SECRET, "absent"),
        Declaration { params, ..in_ax("params", "is p", "act") },
        Declaration {
            since: Some(axwatch_core::Since::Nowhere(format!("{SECRET}: no time"))),
            ..in_ax("since", "is p", "act")
        },
        in_ax("stands", "is p", SECRET),
    ];
    let refused = watchers.len() + 4;
    let announced = Registration {
        schedules: vec![schedule(SECRET, 60), schedule(&format!("a/b/{SECRET}"), 60)],
        routes: vec![route(SECRET, "/a"), route("GET", &format!("/ {SECRET}"))],
        redaction: axwatch_core::Redaction::new(redact),
        ..registration(&["act"], watchers)
    };
    let mut world = World::new();
    world.comes_up(1, registration(&["act"], vec![on_predicate("stands", "p", "act")]));
    let effects = world.announces(1, announced);
    let verdicts = registered(&effects).unwrap();
    assert_eq!(verdicts.refused.len(), refused, "{verdicts:?}");
    assert_eq!(world.watchers["demo-stands"].state, WatcherState::Live);
    assert_eq!((unparsed(&effects).len(), world.records("watcher_refused").len()), (2, 9));
    let records: Vec<_> = world.audit.iter().map(|audit| &audit.records).collect();
    let told = [
        format!("{effects:?}"),
        format!("{:?}", world.watchers),
        format!("{:?}", world.refused),
        format!("{records:?}"),
    ];
    for told in told {
        assert!(!told.contains("hunter") && told.contains("[redacted]"), "{told}");
    }
}

#[test]
fn a_refused_watcher_is_not_kept_in_full_length() {
    let mut world = World::new();
    let long = "x ".repeat(50_000);
    let terms = vec!["t".repeat(999); 1_000];
    let lists =
        StructuralFilter { subjects: vec![String::new()], actors: terms, ..Default::default() };
    let text = Declaration { declared: Declared::Ax(long.clone()), ..in_ax("text", "", "act") };
    let lists = Declaration { declared: Declared::Structural(lists), ..in_ax("lists", "", "act") };
    let handler = Declaration { handlers: vec![long], ..in_ax("handler", "is p", "act") };
    world.comes_up(1, registration(&["act"], vec![text, lists, handler]));
    for row in world.watchers.values() {
        assert_eq!(row.state, WatcherState::Refused);
        let bytes = row.declared.shown().len();
        let handlers: usize = row.handlers.iter().map(|handler| handler.declared.len()).sum();
        assert!(bytes < 4_300 && handlers <= 300, "{}: {bytes}, {handlers}", row.key);
        assert!(row.key.local.as_str() == "handler" || bytes > 3_900, "{}: {bytes}", row.key);
    }
    assert_eq!(world.watchers.len(), 3);
}

#[test]
fn two_plugins_with_one_handler_name_or_one_prefix_are_two() {
    let mut world = World::new();
    let up = |world: &mut World, plugin: &str, registration| {
        let plugin = plugin.parse().unwrap();
        world.tell(Event::PluginUp {
            request: RequestId(1),
            plugin,
            incarnation: 1,
            version: String::new(),
            max_in_flight: 8,
            registration,
        })
    };
    let plugins = ["git", "git-hub", "gi"];
    for plugin in plugins {
        up(&mut world, plugin, whole());
    }
    let starts = starts(&world.claim("x", "p"));
    let mut at: Vec<_> = starts.iter().map(|start| start.plugin.as_str()).collect();
    at.sort_unstable();
    assert_eq!(at, ["gi", "git", "git-hub"], "each runs its own");
    // A name alone is nobody's.
    let refusal = world.declare(in_ax("mine", "is q", "act")).unwrap_err();
    assert!(
        refusal.reason.contains("gi/act, git-hub/act, git/act")
            || refusal.reason.contains("ambiguous"),
        "{refusal}"
    );
    // One that has nothing any more takes nothing from the others.
    up(&mut world, "git", Registration::default());
    for (plugin, has) in plugins.into_iter().zip([0, 2, 2]) {
        let registered = world.state.plugin(&plugin.parse().unwrap()).unwrap();
        let counts = [registered.handlers.len(), 2 * registered.watchers.len()];
        assert_eq!(counts, [has, has], "{plugin}");
        assert_eq!([registered.schedules.len(), registered.routes.len()], [has / 2, has / 2]);
    }
}

/// One row a process: whether it called back, and what it announced; whether that is doubted then.
#[test]
fn an_announcement_after_no_calls_back_is_doubted_when_there_were_calls_before() {
    // (what happens between the processes, whether the second is doubted)
    let cases = [("", true), ("engine", true), ("disabled", false)];
    for (between, expected) in cases {
        let mut world = World::new();
        let calls = |registration| Registration { called_back: Some(true), ..registration };
        assert!(!is_doubted(&world.comes_up(1, calls(whole()))));
        world.goes_down(1);
        match between {
            "engine" => drop(world.restart()),
            "disabled" => {
                world.disable();
                world.enable();
            }
            _ => {}
        }
        let effects = world.comes_up(2, only_act());
        assert_eq!(is_doubted(&effects), expected, "{between:?}");
        if !expected {
            continue;
        }
        assert_eq!((world.has(), world.rows()), ([2, 1, 1, 1], [2, 1, 1, 1]), "all stays");
        let shown = world.state.plugin(&demo()).unwrap();
        let kept: Vec<_> = shown.doubted.iter().map(|(kind, name)| (*kind, &**name)).collect();
        let all = [
            (Announced::Handler, "more"),
            (Announced::Watcher, "demo-w"),
            (Announced::Schedule, "act"),
            (Announced::Route, "GET /hello"),
        ];
        assert_eq!(kept, all);
        let until = shown.row.unwrap().doubted_until.unwrap();
        assert_eq!(until, world.now.wall.plus(Duration::from_secs(600)));

        // Another silent process a minute later is doubted too, and no longer.
        world.advance(Duration::from_secs(60));
        world.goes_down(2);
        if between == "engine" {
            world.restart();
        }
        assert!(is_doubted(&world.comes_up(3, only_act())));
        assert_eq!(world.plugins[&demo()].doubted_until, Some(until));
        world.pass_through(Duration::from_secs(539));
        assert_eq!(world.has(), [2, 1, 1, 1]);
        world.pass_through(Duration::from_secs(2));
        assert_eq!((world.has(), world.rows()), ([1, 0, 0, 0], [1, 0, 0, 0]), "it is believed");
        let row = &world.plugins[&demo()];
        assert_eq!((row.doubted_until, row.called_back), (None, false));
        // From here on it is one that does not call back.
        world.goes_down(3);
        assert!(!is_doubted(&world.comes_up(4, registration(&[], Vec::new()))));
        assert_eq!(world.has(), [0; 4]);
    }
}

/// A process that is initialized once more is looked at like a new one; what it announces by itself is not.
#[test]
fn a_process_that_is_reconfigured_without_calls_back_is_doubted_too() {
    // (whether its second Initialize called back, whether what it lacks then is doubted)
    let cases = [(Some(false), true), (Some(true), false), (None, false)];
    for (called_back, expected) in cases {
        let mut world = World::new();
        world.comes_up(1, Registration { called_back: Some(true), ..whole() });
        let effects = world.announces(1, Registration { called_back, ..only_act() });
        assert_eq!(is_doubted(&effects), expected, "{called_back:?}");
        assert_eq!(world.has(), if expected { [2, 1, 1, 1] } else { [1, 0, 0, 0] });
        assert!(world.plugins[&demo()].called_back, "{called_back:?}");
    }
    // One that never called back has nothing to lack for.
    let mut world = World::new();
    world.comes_up(1, whole());
    let again = |called_back| Registration { called_back, ..whole() };
    assert!(!is_doubted(&world.announces(1, again(Some(false)))));
    world.announces(1, again(Some(true)));
    assert!(is_doubted(
        &world.announces(1, Registration { called_back: Some(false), ..only_act() })
    ));
    world.pass_through(Duration::from_secs(601));
    assert_eq!((world.has(), world.plugins[&demo()].called_back), ([1, 0, 0, 0], false));
}

#[test]
fn a_doubt_ends_with_a_whole_announcement_and_decides_nothing_while_the_plugin_is_away() {
    let mut world = World::new();
    let called = || Registration { called_back: Some(true), ..whole() };
    world.comes_up(1, called());
    world.goes_down(1);
    assert!(is_doubted(&world.comes_up(2, only_act())));
    world.announces(2, whole());
    assert_eq!(world.plugins[&demo()].doubted_until, None);
    world.pass_through(Duration::from_secs(700));
    assert_eq!(world.has(), [2, 1, 1, 1]);

    world.goes_down(2);
    world.comes_up(3, called());
    world.goes_down(3);
    assert!(is_doubted(&world.comes_up(4, Registration { doubtful: true, ..only_act() })));
    world.goes_down(4);
    world.pass_through(Duration::from_secs(700));
    assert_eq!(world.has(), [2, 1, 1, 1], "nobody was there to be believed");
    assert!(is_doubted(&world.comes_up(5, only_act())), "and so it is doubted anew");
}

#[test]
fn disable_retires_what_a_plugin_has_and_enable_brings_a_new_generation() {
    let mut world = World::new();
    let slow = Declaration { max_fires_per_second: 1, ..on_predicate("w", "p", "act") };
    let announced = || Registration { watchers: vec![slow.clone()], ..whole() };
    world.comes_up(1, announced());
    world.declare(in_ax("mine", "is q", "act")).unwrap();
    world.advance(second() * 2);
    let running = (0..3).flat_map(|_| starts(&world.claim("x", "p"))).collect::<Vec<_>>();
    assert_eq!(running.len(), 1, "two wait for the limit");
    world.disable();
    assert_eq!((world.has(), world.rows()), ([0; 4], [0; 4]));
    let cancelled = world.jobs.values().filter(|job| job.state == JobState::Cancelled).count();
    assert_eq!(cancelled, 2);
    let retired = world.records("watcher_retired");
    assert_eq!(
        (&retired[0]["cancelled"], &retired[0]["reason"]),
        (&2.into(), &"plugin demo was disabled".into())
    );
    // Its process dies next; what ran is withdrawn, and not tried again.
    world.goes_down(1);
    assert!(world.pass_through(Duration::from_secs(60)).is_empty());
    assert!(world.jobs.values().all(|job| job.state == JobState::Cancelled));

    // A user's watcher goes on matching, and its job waits and says for what.
    let effects = world.claim("x", "q");
    assert_eq!((fired(&effects), starts(&effects).len()), (1, 0));
    let job = world.jobs.values().find(|job| job.state == JobState::Queued).unwrap().clone();
    let waits = world.state.waiting(&job, world.now).unwrap();
    assert_eq!(waits.reason, WaitReason::PluginDisabled(demo()));
    let mine = world.state.watcher("mine").unwrap().row;
    assert_eq!(mine.state, WatcherState::WaitingForHandler);
    assert!(mine.error.unwrap().contains("axwatch plugin enable demo"));

    // Nothing that it says counts, and a start of the engine does not change that.
    for _ in 0..2 {
        let refusal = registered(&world.comes_up(2, announced())).unwrap_err();
        assert!(refusal.reason.contains("plugin demo is disabled"), "{refusal}");
        assert!(registered(&world.announces(2, announced())).is_err());
        assert_eq!(world.has(), [0; 4]);
        world.restart();
    }
    assert_eq!(world.watchers["user-mine"].state, WatcherState::Live, "only shown so");
    world.disable();
    assert_eq!(world.records("plugin_disabled").len(), 1, "again is the same");

    assert_eq!(fired(&world.claim("x", "p")), 0, "nobody waits for it");
    world.enable();
    world.enable();
    assert_eq!(world.records("plugin_enabled").len(), 1);
    let effects = world.comes_up(3, announced());
    assert_eq!(starts(&effects).len(), 1, "the job of the user's watcher");
    assert_eq!(world.has(), [2, 1, 1, 1]);
    assert_eq!(world.watchers["demo-w"].generation, 1);
    world.advance(second() * 2);
    assert_eq!(fired(&world.claim("x", "p")), 1, "from the head on");
}

#[test]
fn a_job_on_a_disabled_plugin_is_not_given_to_another_with_the_same_handler() {
    let mut world = World::new();
    world.comes_up(1, only_act());
    let enqueue = |world: &mut World, n: u8| {
        let asked = Box::new(ask([n; 16], "act"));
        new_job(&world.tell(Event::Enqueue { request: RequestId(4), asked }))
    };
    world.goes_down(1);
    let job = enqueue(&mut world, 1).unwrap();
    world.disable();
    let (verdicts, effects) = world.up("other", &["act"], Vec::new());
    assert!(verdicts.is_empty() && starts(&effects).is_empty());
    assert_eq!(world.jobs[&job.number].state, JobState::Queued);
    // A new one is asked of whoever has the handler now.
    let asked = Box::new(ask([2; 16], "act"));
    let effects = world.tell(Event::Enqueue { request: RequestId(4), asked });
    assert_eq!(starts(&effects)[0].plugin.as_str(), "other");
    world.enable();
    let started = starts(&world.comes_up(2, only_act()));
    assert_eq!((started.len(), started[0].plugin.as_str()), (1, "demo"));
}

#[test]
fn the_audit_tells_of_each_state_of_a_supervisor() {
    let mut world = World::new();
    let transition = |from, to, reason: &str| PluginTransition {
        plugin: demo(),
        incarnation: 7,
        from,
        to,
        reason: reason.into(),
    };
    world.tell(Event::PluginState(transition("starting", "ready", "")));
    world.tell(Event::PluginState(transition("ready", "failed", "it crashed 6 times in 60 s")));
    let records = world.records("plugin_state");
    assert_eq!(records[0].get("reason"), None);
    assert_eq!(records[1]["reason"], "it crashed 6 times in 60 s");
    assert_eq!((&records[1]["from"], &records[1]["to"]), (&"ready".into(), &"failed".into()));
    assert!(world.verify_audit().ok);
}
