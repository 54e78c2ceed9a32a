//! Loops of causes through the real program: each is stopped where it must, after as many fires as are
//! promised, and an honest pipeline never is.
//!
//! Three witnesses that know nothing of each other count: the jobs, the audit, and what the plugins wrote
//! down when they were called.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Home, Server, Zoo, ledger, number, text, until};
use serde_json::{Value, json};

/// One step of a chain: a watcher of a plugin, and what the plugin makes of each claim that it gets.
#[derive(Clone)]
struct Step {
    plugin: &'static str,
    on: String,
    makes: String,
    copies: u64,
    names: &'static str,
    max_chain: u32,
}

fn step(plugin: &'static str, on: &str, makes: &str) -> Step {
    let (on, makes) = (on.to_owned(), makes.to_owned());
    Step { plugin, on, makes, copies: 1, names: "job", max_chain: 0 }
}

impl Step {
    fn copies(self, copies: u64) -> Step {
        Step { copies, ..self }
    }

    fn names(self, names: &'static str) -> Step {
        Step { names, ..self }
    }

    fn max_chain(self, max_chain: u32) -> Step {
        Step { max_chain, ..self }
    }

    fn watcher(&self) -> String {
        format!("{}-{}", self.plugin, self.on)
    }
}

/// Plugins that take these steps.
fn relays(steps: &[Step]) -> Vec<Zoo> {
    let names: BTreeSet<_> = steps.iter().map(|step| step.plugin).collect();
    let relay = |name: &&str| {
        let own: Vec<_> = steps.iter().filter(|step| step.plugin == *name).collect();
        let handlers: Vec<&str> = own.iter().map(|step| step.on.as_str()).collect();
        let makes = own.iter().map(|step| {
            json!({
                "handler": step.on, "predicate": step.makes, "copies": step.copies,
                "names": step.names,
            })
        });
        let zoo = Zoo::new(name, "relays").handlers(&handlers);
        let zoo = zoo.own("makes", makes.collect::<Vec<_>>());
        own.iter().fold(zoo, |zoo, step| {
            zoo.watcher(json!({
                "id": step.on, "predicates": [step.on], "handler_name": step.on,
                "max_chain": step.max_chain,
            }))
        })
    };
    names.iter().map(relay).collect()
}

fn serve(home: &Home, zoo: &[Zoo]) -> Server {
    home.configure_zoo(zoo);
    let server = home.serve();
    let plugins = server.get("/api/v1/plugins");
    plugins.iter().for_each(|plugin| server.until_ready(&[text(plugin, "name")]));
    server
}

fn records(home: &Home, kind: &str) -> Vec<Value> {
    home.json(&["audit", "show", "--all", "--type", kind])
}

/// How often each watcher fired, as its jobs tell, and as the plugins wrote down.
fn fires(home: &Home, plugins: &[&str]) -> BTreeMap<String, u64> {
    let mut fires = BTreeMap::new();
    for fire in home.json(&["fires", "--all"]) {
        *fires.entry(text(&fire, "watcher").to_owned()).or_default() += 1;
    }
    let mut delivered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for plugin in plugins {
        for delivery in ledger::read(&Zoo::ledger_of(home, plugin)) {
            delivered.entry(delivery.watcher).or_default().insert(delivery.job_id);
        }
    }
    let delivered: BTreeMap<_, _> =
        delivered.into_iter().map(|(watcher, jobs)| (watcher, jobs.len() as u64)).collect();
    assert_eq!(fires, delivered, "every fire reached its plugin, and nothing else did");
    fires
}

/// Waits until a watcher was stopped so often, and nothing is under way any more.
fn until_stopped(home: &Home, server: &Server, watcher: &str, times: usize) -> Vec<Value> {
    let mine = || {
        let records = records(home, "loop_stopped").into_iter();
        records.filter(|record| record["watcher"] == watcher).collect::<Vec<_>>()
    };
    let stopped = until("the loop is stopped", || {
        let records = mine();
        (records.len() >= times).then_some(records)
    });
    server.until_settled();
    assert_eq!(mine().len(), times, "{watcher}: {stopped:?}");
    stopped
}

fn chain(record: &Value) -> Vec<&str> {
    record["chain"].as_array().unwrap().iter().map(|by| by.as_str().unwrap()).collect()
}

#[test]
fn a_loop_of_named_claims_stops_after_as_many_fires_as_are_promised() {
    let home = Home::new("loops");
    let long: Vec<_> =
        (0..20).map(|n| step("one", &format!("long{n}"), &format!("long{}", n + 1))).collect();
    let mut steps = vec![
        step("one", "self", "self"),
        step("one", "ping", "pong"),
        step("two", "pong", "ping"),
        step("one", "first", "second"),
        step("two", "second", "third"),
        step("three", "third", "first"),
        step("one", "fan", "fan").copies(2),
        step("two", "more", "more").max_chain(7),
        step("two", "deep", "deep").max_chain(30),
        step("three", "once", "once").max_chain(1),
    ];
    steps.extend(long);
    let server = serve(&home, &relays(&steps));
    // (the first claim, the watchers with their fires, who is stopped, how often, after how many steps)
    type Shape<'a> = (&'a str, &'a [(&'a str, u64)], &'a str, usize, u64);
    let shapes: [Shape<'_>; 8] = [
        ("self", &[("one-self", 4)], "one-self", 1, 4),
        ("ping", &[("one-ping", 4), ("two-pong", 4)], "one-ping", 1, 8),
        ("first", &[("one-first", 4), ("two-second", 4), ("three-third", 4)], "one-first", 1, 12),
        ("fan", &[("one-fan", 1 + 2 + 4 + 8)], "one-fan", 16, 4),
        ("more", &[("two-more", 7)], "two-more", 1, 7),
        ("deep", &[("two-deep", 30)], "two-deep", 1, 30),
        ("once", &[("three-once", 1)], "three-once", 1, 1),
        // No watcher comes twice, and it is too long all the same.
        ("long0", &[("one-long0", 1), ("one-long16", 1)], "one-long17", 1, 17),
    ];
    for (first, ..) in shapes {
        home.object(&["as", &format!("X is {first} by ann"), "--id", first]);
    }
    for (first, expected, stopped, times, depth) in shapes {
        let records = until_stopped(&home, &server, stopped, times);
        let fires = fires(&home, &["one", "two", "three"]);
        for (watcher, count) in expected {
            assert_eq!(fires.get(*watcher), Some(count), "{first}: {fires:?}");
        }
        for record in &records {
            let chain = chain(record);
            assert_eq!(number(record, "depth"), depth, "{first}: {record}");
            assert_eq!(chain.len() as u64, depth, "{first}: {record}");
            assert_eq!(chain[0], expected[0].0, "{first}: {record}");
            // The claim is in the log, and whoever asks is told.
            let why_not = home.object(&["why-not", stopped, text(record, "attestation")]);
            assert_eq!(text(&why_not, "verdict"), "loop_stopped", "{first}: {why_not}");
            assert!(text(&why_not, "summary").contains(text(record, "reason")), "{why_not}");
            let reason = &why_not["reasons"][0];
            assert_eq!(text(reason, "kind"), "loop_stopped");
            assert!(text(reason, "message").contains(&chain.join(" → ")), "{why_not}");
        }
    }
    let all: u64 = fires(&home, &["one", "two", "three"]).values().sum();
    assert_eq!(all, 4 + 8 + 12 + 15 + 7 + 30 + 1 + 17);
    for kind in ["loop_watched", "loop_suspected"] {
        assert!(records(&home, kind).is_empty(), "{kind}");
    }
    // The others went on: none of these watchers is held.
    let watchers = home.json(&["watch", "list", "--all"]);
    assert!(watchers.iter().all(|watcher| watcher["state"] == "live"), "{watchers:?}");
    server.stop();
    let stops = records(&home, "loop_stopped");
    let of_self = stops.iter().find(|record| record["watcher"] == "one-self").unwrap();
    let why_not = home.object(&["why-not", "one-self", text(of_self, "attestation")]);
    assert_eq!(text(&why_not, "verdict"), "loop_stopped", "without a server: {why_not}");
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn a_loop_stops_whatever_its_claims_say_of_their_cause() {
    let home = Home::new("guises");
    let file = |name: &str| home.path(name).display().to_string();
    let mut zoo = relays(&[
        step("alone", "alone", "alone").names("nothing"),
        step("again", "again", "again").names("first_attempt"),
        step("late", "late", "late").names("late"),
        step("other", "other", "nothing-more"),
        step("thief", "thief", "thief").names("job_of"),
    ]);
    // In the order of their names: again, alone, late, other, thief.
    zoo[1] = zoo[1].clone().host("max_in_flight", 1);
    zoo[2] = zoo[2].clone().own("late", file("late"));
    zoo[4] = zoo[4].clone().own("job_of", file("job_of"));
    let server = serve(&home, &zoo);
    let lineage = |watcher: &str| {
        // Of the claim that its first job made.
        let fire = home.json(&["fires", "--all", "--watcher", watcher]).pop().expect("it fired");
        let trace = home.object(&["trace", text(&fire, "job_id")]);
        let nodes = trace["nodes"].as_array().unwrap().clone();
        let job = nodes.iter().position(|node| node["is_asked"] == true).unwrap();
        let made = nodes.iter().find(|node| node["parent"] == job);
        made.map(|made| text(&made["lineage"], "kind").to_owned())
    };

    // A plugin that runs one job at a time need not name it.
    home.object(&["as", "X is alone by ann"]);
    until_stopped(&home, &server, "alone-alone", 1);
    assert_eq!(lineage("alone-alone").as_deref(), Some("sure"));
    // An attempt that was given up long ago is named: it was made for the same job.
    home.object(&["as", "X is again by ann"]);
    until_stopped(&home, &server, "again-again", 1);
    assert_eq!(lineage("again-again").as_deref(), Some("stale"));
    // The job is named once it is over.
    home.object(&["as", "X is late by ann"]);
    server.until_settled();
    std::fs::write(home.path("late"), "").unwrap();
    until_stopped(&home, &server, "late-late", 1);
    assert_eq!(lineage("late-late").as_deref(), Some("stale"));
    // Another plugin's job is named: no claim comes of it.
    let other = home.object(&["as", "X is other by ann"]);
    server.until_settled();
    let others = home.json(&["fires", "--watcher", "other-other"]);
    assert_eq!(others[0]["attestation_id"], other["id"]);
    std::fs::write(home.path("job_of"), text(&others[0], "job_id")).unwrap();
    home.object(&["as", "X is thief by ann"]);
    server.until_settled();
    let thief = home.json(&["fires", "--watcher", "thief-thief"]);
    let job = home.object(&["jobs", "show", text(&thief[0], "job_id")]);
    assert!(text(&job, "result").contains("is not a job of this plugin"), "{job}");
    assert_eq!(lineage("thief-thief"), None);

    let fires = fires(&home, &["again", "alone", "late", "other", "thief"]);
    let expected = [
        ("again-again", 4),
        ("alone-alone", 4),
        ("late-late", 4),
        ("other-other", 1),
        ("thief-thief", 1),
    ];
    let expected = expected.map(|(watcher, count)| (watcher.to_owned(), count));
    assert_eq!(fires, expected.into_iter().collect());
    assert_eq!(records(&home, "loop_stopped").len(), 3);
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

/// Ten steps over two plugins.
fn pipeline(names: &'static str, plugins: [&'static str; 2]) -> Vec<Step> {
    let steps = (0..10).map(|n| {
        let plugin = plugins[n % 2];
        step(plugin, &format!("{}{n}", plugins[0]), &format!("{}{}", plugins[0], n + 1))
            .names(names)
    });
    steps.collect()
}

#[test]
fn an_honest_pipeline_is_never_stopped() {
    const CLAIMS: usize = 40;
    let home = Home::new("honest");
    let named = pipeline("job", ["named", "clerk"]);
    let unnamed = pipeline("nothing", ["unnamed", "shy"]);
    let steps = [named.clone(), unnamed.clone()].concat();
    let server = serve(&home, &relays(&steps));
    let lines = |on: &str| {
        let line = |n| format!("{{\"subjects\":[\"{on}-{n}\"],\"predicates\":[\"{on}0\"]}}\n");
        (0..CLAIMS).map(line).collect::<String>()
    };
    home.pipe(&(lines("named") + &lines("unnamed"))).expect(0);
    until("all has come to the end", || {
        let ends = |on: &str| home.json(&["ax", &format!("is {on}10"), "--all"]);
        (ends("named").len() == CLAIMS && ends("unnamed").len() == CLAIMS).then_some(())
    });
    server.until_settled();
    let fires = fires(&home, &["named", "clerk", "unnamed", "shy"]);
    for step in &steps {
        assert_eq!(fires[&step.watcher()], CLAIMS as u64, "{}: {fires:?}", step.watcher());
    }
    // Each subject went all the way.
    for on in ["named", "unnamed"] {
        let ends = home.json(&["ax", &format!("is {on}10"), "--all"]);
        let subjects: BTreeSet<_> = ends.iter().map(|end| end["subjects"][0].to_string()).collect();
        assert_eq!(subjects.len(), CLAIMS, "{on}");
    }
    for kind in ["loop_stopped", "loop_watched", "loop_suspected"] {
        assert_eq!(records(&home, kind), Vec::<Value>::new(), "{kind}");
    }
    // Whose claims are whose is known where jobs are named, all the way back.
    let end = home.json(&["ax", "is named10", "--limit", "1"]).remove(0);
    let trace = home.object(&["trace", text(&end, "id")]);
    let nodes = trace["nodes"].as_array().unwrap();
    assert_eq!((nodes.len(), &trace["above"]), (21, &json!(0)), "{trace}");
    assert_eq!(nodes[0]["attestation"]["predicates"], json!(["named0"]));
    assert_eq!(
        (&nodes[20]["is_asked"], &nodes[20]["lineage"]["depth"]),
        (&json!(true), &json!(10))
    );
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn an_honest_pipeline_that_looks_like_a_loop_goes_on() {
    const CLAIMS: usize = 1_200;
    let home = Home::new("looks-like");
    // All steps are of one plugin, which never says whose its claims are.
    let steps: Vec<_> = (0..3)
        .map(|n| step("shy", &format!("s{n}"), &format!("s{}", n + 1)).names("nothing"))
        .collect();
    let server = serve(&home, &relays(&steps));
    let line = |n| format!("{{\"subjects\":[\"X{n}\"],\"predicates\":[\"s0\"]}}\n");
    home.pipe(&(0..CLAIMS).map(line).collect::<String>()).expect(0);
    until("all has come to the end", || {
        let ends = home.object(&["ax", "is s3", "--count"]);
        (number(&ends, "count") == CLAIMS as u64).then_some(())
    });
    server.until_settled();
    let fires = fires(&home, &["shy"]);
    assert!(steps.iter().all(|step| fires[&step.watcher()] == CLAIMS as u64), "{fires:?}");
    for kind in ["loop_stopped", "loop_suspected"] {
        assert_eq!(records(&home, kind), Vec::<Value>::new(), "{kind}");
    }
    println!("looked at: {} watchers", records(&home, "loop_watched").len());
}

#[test]
fn a_loop_that_hides_is_found_by_its_rate_and_paused() {
    const TOKENS: usize = 8;
    let home = Home::new("hides");
    let file = |name: &str| home.path(name).display().to_string();
    let mut zoo = relays(&[
        step("hider", "hidden", "hidden").names("nothing"),
        step("honest", "plain", "plain-done"),
    ]);
    zoo[0] = zoo[0].clone().own("gate", file("gate"));
    let server = serve(&home, &zoo);
    let lines: String = (0..TOKENS)
        .map(|n| format!("{{\"subjects\":[\"T{n}\"],\"predicates\":[\"hidden\"]}}\n"))
        .collect();
    home.pipe(&lines).expect(0);
    // From here on there are always several jobs under way, so that no claim says whose it is.
    std::fs::write(home.path("gate"), "").unwrap();
    let paused = until("the watcher is paused", || {
        let watcher = home.object(&["watch", "show", "hider-hidden"]);
        (watcher["state"] == "paused").then_some(watcher)
    });
    assert!(text(&paused, "error").starts_with("a loop is suspected: "), "{paused}");
    assert!(text(&paused, "error").contains("axwatch watch resume hider-hidden"), "{paused}");
    let kinds = ["loop_watched", "loop_suspected", "loop_stopped"];
    for kind in kinds {
        let records = records(&home, kind);
        assert!(!records.is_empty(), "{kind}");
        assert!(records.iter().all(|record| record["watcher"] == "hider-hidden"), "{records:?}");
    }
    assert!(number(&paused, "fires") >= 1_000, "{paused}");
    // Others go on, and whoever asks is told.
    home.object(&["as", "X is plain by ann", "--id", "plain"]);
    until("an honest job is done", || {
        let why_not = home.object(&["why-not", "honest-plain", "plain"]);
        (why_not["jobs"][0]["state"] == "completed").then_some(())
    });
    let status = home.object(&["status"]);
    let attention = status["attention"].as_array().unwrap();
    assert!(attention.iter().any(|one| one["kind"] == "loop_suspected"), "{status}");
    assert_eq!(status["held"][0]["watcher"], "hider-hidden", "{status}");
    let mut waiting =
        home.json(&["jobs", "list", "--watcher", "hider-hidden", "--state", "paused"]);
    if let Some(job) = waiting.pop() {
        let why = home.object(&["why", text(&job, "job_id")]);
        let kinds: Vec<_> =
            why["reasons"].as_array().unwrap().iter().map(|one| text(one, "kind")).collect();
        assert!(kinds.contains(&"loop_suspected") && kinds.contains(&"watcher_paused"), "{why}");
    }
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}
