//! What a plugin registers, over its whole life and that of the server: restarts, disabling and enabling,
//! announcements that change or that are not believed, and two plugins with one name for something.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{Home, Server, Zoo, ledger, number, text, until};
use serde_json::{Value, json};

/// A plugin with one of each, which calls the host before it says so.
fn whole(name: &str) -> Zoo {
    Zoo::good(name)
        .handlers(&["work", "more"])
        .watcher(json!({ "id": "seen", "predicates": ["seen"] }))
        .watcher(json!({ "id": "more", "predicates": ["more"], "handler_name": "more", "max_fires_per_second": 5 }))
        .own("schedules", json!([{ "handler_name": "work", "interval_seconds": 60, "description": "tidies up" }]))
        .own("routes", json!([{ "method": "GET", "path": "/hello", "description": "says it" }]))
}

fn serve(home: &Home, zoo: &[Zoo], names: &[&str]) -> Server {
    home.configure_zoo(zoo);
    let server = home.serve();
    server.until_ready(names);
    server
}

fn shown(home: &Home, name: &str) -> Value {
    home.object(&["plugin", "show", name])
}

/// How many handlers, watchers, schedules and routes it has, and parts that were refused.
fn has(home: &Home, name: &str) -> [usize; 5] {
    let shown = shown(home, name);
    ["handlers", "watchers", "schedules", "routes", "refused"]
        .map(|key| shown[key].as_array().map_or(0, Vec::len))
}

/// Starts a plugin anew and waits until its next process is ready.
fn restart(home: &Home, server: &Server, name: &str) {
    let before = number(&shown(home, name), "incarnation");
    home.object(&["plugin", "restart", name]);
    until("the next process is ready", || {
        let now = shown(home, name);
        (now["state"] == "ready" && number(&now, "incarnation") > before).then_some(())
    });
    server.until_ready(&[name]);
}

#[test]
fn a_plugin_is_shown_with_all_that_it_registered_and_all_that_was_refused() {
    let home = Home::new("registered");
    let mixed = whole("zoo")
        .watcher(json!({ "id": "empty" }))
        .own(
            "schedules",
            json!([{ "handler_name": "work", "interval_seconds": 60 }, { "handler_name": "nobody", "interval_seconds": 1 }]),
        )
        .own("routes", json!([{ "method": "GET", "path": "/hello" }, { "method": "GET", "path": "/a b" }]))
        .handlers(&["work", "more", "zoo/odd"]);
    let server = serve(&home, &[mixed], &["zoo"]);
    let plugin = shown(&home, "zoo");
    assert_eq!(has(&home, "zoo"), [2, 3, 1, 1, 4], "{plugin}");
    assert_eq!((number(&plugin, "incarnation"), number(&plugin, "restarts")), (1, 0));
    let refused: BTreeSet<_> = plugin["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| {
            assert!(!text(part, "reason").is_empty());
            (text(part, "kind"), text(part, "name"))
        })
        .collect();
    let expected = [
        ("handler", "zoo/odd"),
        ("watcher", "empty"),
        ("schedule", "nobody"),
        ("route", "GET /a b"),
    ];
    assert_eq!(refused, expected.into());
    let plain = home.run_plain(&["plugin", "show", "zoo"]).expect(0).out;
    let says = [
        "zoo-more",
        "5 a second",
        "every 60 s",
        "GET /api/zoo/hello",
        "did not announce it",
        "filters on nothing",
    ];
    for words in says {
        assert!(plain.contains(words), "no {words:?} in {plain}");
    }
    assert!(!plain.contains("{\"predicates"), "lists are told in words: {plain}");
    let routes = server.get("/api/plugins/routes").remove(0);
    let expected =
        json!([{ "plugin": "zoo", "method": "GET", "path": "/hello", "description": "" }]);
    assert_eq!(routes["routes"], expected);
    let all = server.get("/api/plugins").remove(0);
    assert_eq!(text(&all["plugins"][0], "state"), "ready");
    // Each way of the supervisor is in the audit.
    let states = home.json(&["audit", "show", "--type", "plugin_state", "--all"]);
    assert!(states.iter().any(|record| record["to"] == "ready"), "{states:?}");
}

#[test]
fn a_restart_keeps_the_backlog_and_misses_no_claim() {
    let home = Home::new("restart");
    let gate = home.path("gate");
    let gated = Zoo::new("zoo", "gate")
        .own("gate", json!(gate))
        .watcher(json!({ "id": "seen", "predicates": ["seen"] }));
    let server = serve(&home, &[gated], &["zoo"]);
    for n in 0..20 {
        home.object(&["as", &format!("X{n} is seen"), "--id", &format!("c{n}")]);
    }
    until("some are at the plugin", || {
        (!ledger::read(&Zoo::ledger_of(&home, "zoo")).is_empty()).then_some(())
    });
    home.object(&["plugin", "restart", "zoo"]);
    // While the one goes and the other comes.
    for n in 20..40 {
        home.object(&["as", &format!("X{n} is seen"), "--id", &format!("c{n}")]);
    }
    fs::write(&gate, "").unwrap();
    server.until_settled();
    let fires = home.json(&["fires", "--all"]);
    assert_eq!(fires.len(), 40);
    assert!(fires.iter().all(|fire| fire["state"] == "completed"), "{fires:?}");
    let jobs: BTreeSet<_> = fires.iter().map(|fire| text(fire, "job_id")).collect();
    assert_eq!(jobs.len(), 40);
    let watcher = &home.json(&["watch", "list"])[0];
    assert_eq!((number(watcher, "revision"), number(watcher, "generation")), (1, 0));
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn disable_retires_all_and_lasts_and_enable_brings_a_new_generation() {
    let home = Home::new("disable");
    let slow = Zoo::good("zoo")
        .watcher(json!({ "id": "seen", "predicates": ["seen"], "max_fires_per_second": 1 }))
        .own("schedules", json!([{ "handler_name": "work", "interval_seconds": 60 }]));
    let server = serve(&home, &[slow, Zoo::good("other")], &["zoo", "other"]);
    home.object(&["watch", "create", "mine", "--when", "is mine", "--run", "zoo/work"]);
    for n in 0..9 {
        home.object(&["as", &format!("X{n} is seen")]);
    }
    home.run(&["plugin", "disable", "zoo"]).expect(2).says(&["--yes"]);
    let would = home.run_plain(&["plugin", "disable", "zoo", "--dry-run"]).expect(0).out;
    assert!(would.contains("1 handler") && would.contains("1 watcher"), "{would}");
    let disabled = home.object(&["plugin", "disable", "zoo", "--yes"]);
    assert!(!disabled["disabled_at"].is_null(), "{disabled}");
    let is_gone = |server: &Server| {
        until("its process is gone", || {
            let plugin = server.plugin("zoo");
            (plugin["state"] == "stopped" && plugin["pid"].is_null()).then_some(())
        });
    };
    is_gone(&server);
    assert_eq!(has(&home, "zoo"), [0; 5]);
    let queued = home.json(&["fires", "--watcher", "zoo-seen", "--all"]);
    let ended = |fire: &Value| ["completed", "cancelled"].contains(&text(fire, "state"));
    assert!(queued.iter().all(ended) && queued.iter().any(|fire| fire["state"] == "cancelled"));
    let retired = home.json(&["audit", "show", "--type", "watcher_retired", "--all"]);
    assert!(text(&retired[0], "reason").contains("plugin zoo was disabled"), "{retired:?}");

    // A user's watcher goes on, its jobs wait, and everybody says for what.
    let appended = home.object(&["as", "Y is mine", "--id", "waits"]);
    assert_eq!(number(&appended, "fires"), 1);
    let fire = home.json(&["fires", "--watcher", "user-mine"]).remove(0);
    let why = home.object(&["why", text(&fire, "job_id")]).to_string();
    assert!(why.contains("plugin_disabled") && why.contains("axwatch plugin enable zoo"), "{why}");
    let why_not = home.run(&["why-not", "user-mine", "waits"]).out;
    assert!(why_not.contains("plugin_disabled"), "{why_not}");
    let status = home.object(&["status"]).to_string();
    assert!(status.contains("plugin zoo is disabled"), "{status}");
    home.run(&["plugin", "restart", "zoo"]).expect(1).says(&["disabled", "plugin enable zoo"]);
    home.run(&["jobs", "run", "zoo/work"]).expect(1).says(&["axwatch plugin enable zoo"]);

    // It lasts, and what came meanwhile is nobody's.
    home.object(&["as", "Z is seen"]);
    server.stop();
    let server = home.serve();
    server.until_ready(&["other"]);
    is_gone(&server);
    assert_eq!(has(&home, "zoo"), [0; 5]);
    home.object(&["plugin", "enable", "zoo"]);
    server.until_ready(&["zoo"]);
    assert_eq!(has(&home, "zoo"), [1, 1, 1, 0, 0]);
    let watchers = home.json(&["watch", "list"]);
    let seen = watchers.iter().find(|watcher| watcher["id"] == "zoo-seen").unwrap();
    assert_eq!(number(seen, "generation"), 1);
    server.until_job(text(&fire, "job_id"), &["completed"]);
    assert_eq!(number(&home.object(&["as", "Z is seen again"]), "fires"), 1);
    server.until_settled();
    let subjects = home.json(&["fires", "--watcher", "zoo-seen", "--all"]);
    assert_eq!(subjects.len(), 10, "nothing of the time between");
    for kind in ["plugin_disabled", "plugin_enabled"] {
        assert_eq!(home.json(&["audit", "show", "--type", kind, "--all"]).len(), 1, "{kind}");
    }
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn an_announcement_that_is_not_believed_keeps_everything_also_over_a_restart_of_the_server() {
    let home = Home::new("doubted");
    let server = serve(&home, &[whole("zoo").own("calls", true)], &["zoo"]);
    let all = [2, 2, 1, 1, 0];
    assert_eq!(has(&home, "zoo"), all);
    // The next process cannot reach the host, and has nothing but what it has by itself.
    let silent = || [Zoo::good("zoo").handlers(&["work"])];
    home.configure_zoo(&silent());
    restart(&home, &server, "zoo");
    let doubted = |home: &Home| {
        let plugin = shown(home, "zoo");
        assert_eq!(has(home, "zoo"), all, "{plugin}");
        let kept = plugin["doubted"]["kept"].as_array().expect("it is told what is kept").len();
        assert_eq!(kept, 5, "a handler, two watchers, a schedule and a route: {plugin}");
        text(&plugin["doubted"], "until").to_owned()
    };
    let until_when = doubted(&home);
    assert!(home.log().contains("no longer announces what it had"), "loudly");
    let plain = home.run_plain(&["plugin", "show", "zoo"]).expect(0).out;
    assert!(plain.contains("kept until"), "{plain}");
    // The watcher fires; what is announced runs, and the rest is held.
    assert_eq!(number(&home.object(&["as", "X is seen"]), "fires"), 1);
    assert_eq!(number(&home.object(&["as", "X is more"]), "fires"), 1);
    server.until_open(|open| open == 1);
    server.stop();
    let server = home.serve();
    server.until_ready(&["zoo"]);
    assert_eq!(doubted(&home), until_when, "no longer than was said");

    home.configure_zoo(&[whole("zoo").own("calls", true)]);
    restart(&home, &server, "zoo");
    assert!(shown(&home, "zoo")["doubted"].is_null());
    server.until_settled();
    let fires = home.json(&["fires", "--all"]);
    assert!(fires.len() == 2 && fires.iter().all(|fire| fire["state"] == "completed"), "{fires:?}");
    server.stop();

    // The former process was one of another life of the server.
    home.configure_zoo(&silent());
    let server = home.serve();
    server.until_ready(&["zoo"]);
    doubted(&home);
}

#[test]
fn a_plugin_that_never_calls_back_is_believed_at_once() {
    let home = Home::new("believed");
    let server = serve(&home, &[whole("zoo")], &["zoo"]);
    assert_eq!(has(&home, "zoo"), [2, 2, 1, 1, 0]);
    home.configure_zoo(&[Zoo::good("zoo")]);
    restart(&home, &server, "zoo");
    assert_eq!(has(&home, "zoo"), [1, 0, 0, 0, 0]);
    let retired = home.json(&["audit", "show", "--type", "schedule_retired", "--all"]);
    assert_eq!(retired.len(), 1);
}

#[test]
fn a_running_plugin_announces_something_else() {
    let home = Home::new("announce");
    let file = home.path("announce.json");
    let server = serve(&home, &[whole("zoo").own("announce", json!(file))], &["zoo"]);
    let changed = json!({
        "handlers": ["work", "new", "a/b"],
        "watchers": [
            { "id": "seen", "predicates": ["seen"] },
            { "id": "new", "predicates": ["new"], "handler_name": "new" },
            { "id": "odd", "predicates": ["odd"], "handler_name": "more" },
        ],
        "schedules": [{ "handler_name": "new", "interval_seconds": 5 }, { "handler_name": "zoo/work", "interval_seconds": 61 }],
        "routes": [],
    });
    let written = home.path("announce.part");
    fs::write(&written, changed.to_string()).unwrap();
    fs::rename(&written, &file).unwrap();
    let answer: Value = until("it is answered", || {
        serde_json::from_str(&fs::read_to_string(home.path("announce.answer")).ok()?).ok()
    });
    assert_eq!(answer["success"], true, "{answer}");
    let refused = answer["refused"].to_string();
    assert!(refused.contains("a/b") && refused.contains("odd"), "{refused}");
    let plugin = shown(&home, "zoo");
    assert_eq!(has(&home, "zoo"), [2, 3, 2, 0, 2], "{plugin}");
    assert_eq!(plugin["schedules"][1]["interval_seconds"], 61);
    // What stayed the same is the same, and the new is served.
    let watchers = home.json(&["watch", "list"]);
    let seen = watchers.iter().find(|watcher| watcher["id"] == "zoo-seen").unwrap();
    assert_eq!(number(seen, "revision"), 1);
    assert_eq!(number(&home.object(&["as", "X is new"]), "fires"), 1);
    assert_eq!(number(&home.object(&["as", "X is more"]), "fires"), 0);
    server.until_settled();
    assert_eq!(home.json(&["fires"])[0]["state"], "completed");
}

#[test]
fn one_handler_name_and_names_that_begin_alike_are_kept_apart() {
    let home = Home::new("alike");
    let names = ["git", "git-hub", "gi"];
    let zoo = names.map(whole);
    let server = serve(&home, &zoo, &names);
    assert_eq!(number(&home.object(&["as", "X is seen"]), "fires"), 3);
    server.until_settled();
    for name in names {
        let got = ledger::read(&Zoo::ledger_of(&home, name));
        assert_eq!(got.len(), 1, "{name}");
        assert_eq!((&*got[0].watcher, &*got[0].handler), (&*format!("{name}-seen"), "work"));
    }
    let create = ["watch", "create", "mine", "--when", "is mine", "--run", "work"];
    home.run(&create).expect(1).says(&["ambiguous", "git/work", "git-hub/work", "gi/work"]);
    home.object(&["watch", "create", "mine", "--when", "is mine", "--run", "git/work"]);

    // What one of them loses, the others keep.
    home.configure_zoo(&[Zoo::good("git").handlers(&["work"]), whole("git-hub"), whole("gi")]);
    restart(&home, &server, "git");
    assert_eq!(has(&home, "git"), [1, 0, 0, 0, 0]);
    home.object(&["plugin", "disable", "gi", "--yes"]);
    assert_eq!(has(&home, "gi"), [0; 5]);
    assert_eq!(has(&home, "git-hub"), [2, 2, 1, 1, 0]);
    assert_eq!(number(&home.object(&["as", "Y is seen"]), "fires"), 1);
    assert_eq!(number(&home.object(&["as", "Y is mine"]), "fires"), 1);
    server.until_settled();
    assert_eq!(ledger::read(&Zoo::ledger_of(&home, "git")).len(), 2);
    assert_eq!(ledger::read(&Zoo::ledger_of(&home, "git-hub")).len(), 2);
}

#[test]
fn people_say_what_they_want_of_a_plugin_and_are_told_what_became_of_it() {
    let home = Home::new("wanted");
    let server = serve(&home, &[whole("zoo").own("n", 3)], &["zoo"]);
    // It does not say what may be configured, so all that is configured is shown.
    let config = home.object(&["plugin", "config", "zoo"]);
    assert_eq!((&config["has_schema"], &config["values"]["n"]), (&json!(false), &json!("3")));
    home.run_plain(&["plugin", "config", "zoo"]).expect(0).says(&["does not say", "n"]);
    // It takes no second Initialize, and goes on as it was.
    let pid = shown(&home, "zoo")["pid"].clone();
    home.run(&["plugin", "reconfigure", "zoo"]).expect(1).says(&["goes on as before"]);
    let plugin = shown(&home, "zoo");
    assert_eq!((&plugin["pid"], text(&plugin, "state")), (&pid, "ready"));
    assert_eq!(has(&home, "zoo"), [2, 2, 1, 1, 0]);
    // One that runs goes on after a reset, and to enable it changes nothing.
    home.object(&["plugin", "reset", "zoo"]);
    home.object(&["plugin", "enable", "zoo"]);
    let plugin = shown(&home, "zoo");
    assert_eq!((&plugin["pid"], text(&plugin, "state")), (&pid, "ready"));
    assert!(home.json(&["audit", "show", "--type", "plugin_enabled"]).is_empty());
    for verb in ["restart", "enable", "reconfigure", "reset", "config"] {
        home.run(&["plugin", verb, "nobody"]).expect(1).says(&["nobody", "zoo"]);
    }
    // The same for programs.
    for base in ["/api/plugins", "/api/v1/plugins"] {
        for (method, verb) in [("POST", "disable"), ("POST", "enable"), ("POST", "restart")] {
            let (status, body) =
                server.request(method, &format!("{base}/zoo/{verb}"), "{}").expect("an answer");
            assert_eq!(status, 200, "{verb}: {body}");
            let (status, _) =
                server.request(method, &format!("{base}/nobody/{verb}"), "{}").unwrap();
            assert_eq!(status, 404, "{verb}");
        }
        server.until_ready(&["zoo"]);
    }
    assert_eq!(has(&home, "zoo"), [2, 2, 1, 1, 0]);
    assert_eq!(home.json(&["audit", "show", "--type", "plugin_disabled", "--all"]).len(), 2);
}
