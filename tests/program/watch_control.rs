//! What people do with a watcher that stands: have it look at the past, hold it and let it go on, have it
//! fire again; and what it tells about that.

use std::collections::BTreeSet;

use crate::support::{Home, Server, Terminal, Zoo, keys, ledger, number, text, until};
use serde_json::{Value, json};

fn claims(ids: std::ops::Range<u32>) -> String {
    let line = |n| json!({ "id": format!("c-{n}"), "subjects": ["X"], "predicates": ["a"] });
    ids.map(|n| format!("{}\n", line(n))).collect()
}

fn serve(home: &Home) -> Server {
    home.configure_zoo(&[Zoo::good("zoo")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    server
}

fn create(home: &Home, id: &str, more: &[&str]) -> Value {
    let args = ["watch", "create", id, "--when", "is a", "--run", "work"];
    home.object(&[&args[..], more].concat())
}

fn fires(home: &Home, watcher: &str) -> Vec<Value> {
    home.json(&["fires", "--watcher", watcher, "--all"])
}

/// The claims for which a watcher fired, each as often as it did.
fn seqs(home: &Home, watcher: &str) -> Vec<u64> {
    let mut seqs: Vec<_> = fires(home, watcher).iter().map(|fire| number(fire, "seq")).collect();
    seqs.sort_unstable();
    seqs
}

/// The watcher, once this holds for it.
fn until_shown(home: &Home, watcher: &str, what: &str, is_meant: impl Fn(&Value) -> bool) -> Value {
    until(what, || {
        let shown = home.object(&["watch", "show", watcher]);
        is_meant(&shown).then_some(shown)
    })
}

/// How many of a watcher's fires are in each of these states.
fn count(home: &Home, watcher: &str, state: &str) -> usize {
    fires(home, watcher).iter().filter(|fire| fire["state"] == state).count()
}

#[test]
fn a_new_watcher_may_look_at_the_past() {
    let home = Home::new("since");
    let server = serve(&home);
    home.pipe(&claims(0..20)).expect(0);
    // (id, since, the first claim that it sees)
    let cases = [("one", "start", 1), ("two", "11", 11), ("three", "1h", 1), ("four", "21", 21)];
    for (id, since, first) in cases {
        let made = create(&home, id, &["--since", since]);
        assert_eq!(number(&made, "first_seq"), first, "{since}");
        assert_eq!(number(&made, "backlog"), 21 - first, "{since}");
    }
    let made = create(&home, "five", &[]);
    assert_eq!((number(&made, "first_seq"), &made["backlog"]), (21, &Value::Null));
    home.pipe(&claims(20..25)).expect(0);
    for (id, _, first) in cases.iter().copied().chain([("five", "", 21)]) {
        until_shown(&home, id, "it is up with the log", |shown| {
            shown["state"] == "live" && shown["position"].is_null()
        });
        server.until_settled();
        assert_eq!(seqs(&home, id), (first..=25).collect::<Vec<_>>(), "no gap and no double: {id}");
    }
    let words = ["watch", "create", "six", "--when", "is a", "--run", "work", "--since", "start"];
    // Whether it is up with the log when it is answered is a matter of who is faster.
    home.run_plain(&words).expect(0).says(&["25 earlier claims", "seq 1 on"]);
    until_shown(&home, "six", "it is up with the log", |shown| shown["state"] == "live");
    home.run_plain(&words).expect(0).says(&["--since changed nothing", "watch replay user-six"]);
    server.until_settled();
    assert_eq!(seqs(&home, "six").len(), 25, "the same again changed nothing");
    home.run_plain(&["watch", "show", "six"]).expect(0).says(&["claims from seq 1 on"]);

    let declare = |since: &str| home.run(&[&words[..8], &[since]].concat());
    declare("soon").expect(2).says(&["--since", "neither the number"]);
    declare("tomorrow").expect(2).says(&["has not come yet"]);
    declare("27").expect(1).says(&[
        "claim 27 is not in the log",
        "its last is 25",
        "26 is the next",
    ]);
    let refused = server.request(
        "POST",
        "/api/v1/watchers",
        r#"{"id":"w","when":"is a","handlers":["work"],"since":"never"}"#,
    );
    let (status, said) = refused.expect("an answer");
    assert!(status == 400 && said.contains("since: "), "{status} {said}");
    let by_number = r#"{"id":"seven","when":"is a","handlers":["work"],"since":24,"max_age":"2h"}"#;
    let (status, said) = server.request("POST", "/api/v1/watchers", by_number).expect("an answer");
    assert!(status == 200 && said.contains(r#""first_seq":24"#), "{status} {said}");
    assert!(said.contains(r#""max_age_ms":7200000"#), "{said}");
    home.run(&["watch", "create", "w", "--when", "is a", "--run", "work", "--max-age", "long"])
        .expect(2)
        .says(&["--max-age", "90s"]);
    home.run(&["watch", "create", "w", "--when", "is a", "--run", "work", "--max-attempts", "-1"])
        .expect(1);
}

#[test]
fn what_a_pause_holds_is_told_and_what_became_of_it() {
    let home = Home::new("pause");
    let server = serve(&home);
    create(&home, "w", &[]);
    assert_eq!(home.object(&["watch", "pause", "w"])["hold"]["drops"], false);
    home.pipe(&claims(0..3)).expect(0);
    let shown = home.object(&["watch", "show", "w"]);
    assert_eq!((&shown["state"], &shown["hold"]["kind"]), (&json!("paused"), &json!("paused")));
    let hold = &shown["holds"][0];
    let hold_keys = [
        "at",
        "drops",
        "ended_at",
        "from",
        "held",
        "held_at_least",
        "jobs",
        "kind",
        "to",
        "unseen",
        "until",
    ];
    assert_eq!(keys(hold), hold_keys);
    assert_eq!((number(hold, "held"), number(&hold["jobs"], "queued")), (3, 3), "{hold}");
    assert_eq!((number(hold, "from"), &hold["to"]), (1, &Value::Null));
    home.run_plain(&["watch", "show", "w"]).expect(0).says(&["3 fires held (3 waiting)"]);
    assert!(ledger::read(&Zoo::ledger_of(&home, "zoo")).is_empty());
    // They go on, and what was held is told for later.
    assert_eq!(home.object(&["watch", "resume", "w"])["hold"], Value::Null);
    server.until_settled();
    let hold = home.object(&["watch", "show", "w"])["holds"][0].clone();
    assert_eq!((number(&hold, "held"), number(&hold["jobs"], "completed")), (3, 3), "{hold}");
    assert_eq!((number(&hold, "to"), hold["ended_at"].is_string()), (3, true));
    home.run_plain(&["watch", "show", "w"])
        .expect(0)
        .says(&["held before", "3 fires held (3 completed)"]);

    // A pause that lets go, and a resume that does.
    home.run_plain(&["watch", "pause", "w", "--skip"]).expect(0).says(&["paused, lets go"]);
    home.pipe(&claims(3..5)).expect(0);
    assert_eq!(count(&home, "w", "cancelled"), 2);
    home.object(&["watch", "resume", "w"]);
    home.object(&["watch", "pause", "w"]);
    home.pipe(&claims(5..9)).expect(0);
    home.object(&["watch", "resume", "w", "--drop"]);
    server.until_settled();
    assert_eq!((count(&home, "w", "cancelled"), count(&home, "w", "completed")), (6, 3));
    let shown = home.object(&["watch", "show", "w"]);
    let told: Vec<_> = shown["holds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hold| {
            (hold["drops"] == true, number(hold, "held"), number(&hold["jobs"], "cancelled"))
        })
        .collect();
    assert_eq!(told, [(true, 4, 4), (true, 2, 2), (false, 3, 0)], "the last first");
    // What was let go is known, says why, and can still be tried.
    let gone = fires(&home, "w").into_iter().find(|fire| fire["state"] == "cancelled").unwrap();
    assert!(text(&gone, "error").starts_with("let go: "), "{gone}");
    home.object(&["jobs", "retry", text(&gone, "job_id")]);
    server.until_settled();
    assert_eq!(count(&home, "w", "completed"), 4);
    let shown = home.object(&["watch", "show", "w"]);
    server.stop();
    assert_eq!(home.object(&["watch", "show", "w"])["holds"], shown["holds"], "without a server");
}

#[test]
fn a_mute_ends_by_itself_or_when_somebody_says_so() {
    let home = Home::new("mute");
    let server = serve(&home);
    create(&home, "w", &[]);
    let muted = home.object(&["watch", "mute", "w", "--until", "in 2 hours"]);
    assert_eq!((&muted["state"], &muted["hold"]["kind"]), (&json!("muted"), &json!("muted")));
    let until_at = text(&muted["hold"], "until").to_owned();
    home.pipe(&claims(0..2)).expect(0);
    home.run_plain(&["watch", "list"]).expect(0).says(&[&format!("muted until {until_at}")]);
    home.run_plain(&["watch", "show", "w"])
        .expect(0)
        .says(&["muted since", &format!("until {until_at}: 2 fires held (2 waiting)")]);
    let why = home.object(&["why", text(&fires(&home, "w")[0], "job_id")]);
    assert_eq!(why["waits"]["reason"], "watcher_muted");
    home.object(&["watch", "unmute", "w"]);
    server.until_settled();
    assert_eq!(count(&home, "w", "completed"), 2);
    // One that lets go, and one that keeps and is dropped at its end.
    home.object(&["watch", "mute", "w", "--until", "tomorrow", "--drop"]);
    home.pipe(&claims(2..4)).expect(0);
    assert_eq!(count(&home, "w", "cancelled"), 2);
    home.object(&["watch", "unmute", "w"]);
    home.object(&["watch", "mute", "w", "--until", "2h"]);
    home.pipe(&claims(4..6)).expect(0);
    home.object(&["watch", "unmute", "w", "--drop"]);
    server.until_settled();
    assert_eq!((count(&home, "w", "cancelled"), count(&home, "w", "completed")), (4, 2));
    // By itself, and what was held fires.
    home.object(&["watch", "mute", "w", "--until", "1s"]);
    let shown = until_shown(&home, "w", "the mute has ended", |shown| shown["hold"].is_null());
    assert_eq!(shown["state"], "live");
    home.pipe(&claims(6..8)).expect(0);
    server.until_settled();
    assert_eq!(count(&home, "w", "completed"), 4);

    let mute = |until: &str| home.run(&["watch", "mute", "w", "--until", until]);
    mute("yesterday").expect(2).says(&["already", "lies ahead"]);
    mute("soon").expect(2).says(&["no time", "tomorrow"]);
    home.run(&["watch", "mute", "w"]).expect(2).says(&["--until"]);
    home.run(&["watch", "mute", "nobody", "--until", "2h"]).expect(1).says(&["nobody"]);
    let post = |body: &str| server.request("POST", "/api/v1/watchers/w/mute", body).unwrap();
    for (body, said) in [
        (r#"{"until":"2024-01-01"}"#, "until: "),
        (r#"{"until":"2h","dorp":true}"#, "unknown field"),
        ("{}", "until"),
    ] {
        let (status, answer) = post(body);
        assert!(status == 400 && answer.contains(said), "{body}: {status} {answer}");
    }
    let (status, _) = server.request("POST", "/api/v1/watchers/w/pause", "").unwrap();
    assert_eq!(status, 200, "no body is as good as an empty one");
    let (status, answer) =
        server.request("POST", "/api/v1/watchers/w/resume", r#"{"drop":true}"#).unwrap();
    assert!(status == 200 && answer.contains(r#""state":"live""#), "{status} {answer}");
}

#[test]
fn a_replay_fires_again_after_saying_how_many() {
    let home = Home::new("replay");
    let server = serve(&home);
    create(&home, "w", &["--max-fires-per-second", "100"]);
    home.pipe(&claims(0..10)).expect(0);
    home.object(&["as", "Y is b"]);
    server.until_settled();
    let live = fires(&home, "w");
    assert_eq!(live.len(), 10);

    let replay = |more: &[&str]| home.run(&[&["watch", "replay", "w"], more].concat());
    replay(&["--from", "3", "--to", "8"]).expect(2).says(&["--yes", "--dry-run"]);
    let preview = replay(&["--from", "3", "--to", "8", "--dry-run"]).expect(0).object();
    let expected = json!({
        "watcher": "user-w", "revision": 1, "when": "is a", "from": 3, "to": 8, "claims": 6,
        "matches": 6, "handlers": ["work"], "fires": 6, "max_fires_per_second": 100, "takes_ms": 60,
    });
    assert_eq!(preview, expected);
    home.run_plain(&["watch", "replay", "w", "--from", "start", "--dry-run"]).expect(0).says(&[
        "11 claims, seq 1 to 11",
        "10 of work",
        "at 100 a second",
        "nothing was begun",
    ]);
    home.run_plain(&["watch", "replay", "w", "--from", "11", "--yes"])
        .expect(0)
        .says(&["nothing to fire"]);
    assert_eq!(fires(&home, "w").len(), 10, "nothing has fired yet");

    replay(&["--from", "3", "--to", "8", "--yes"]).expect(0);
    let shown = until_shown(&home, "w", "the replay has ended", |shown| shown["replay"].is_null());
    server.until_settled();
    let all = fires(&home, "w");
    let again: BTreeSet<_> = all.iter().map(|fire| text(fire, "job_id")).collect();
    assert_eq!((all.len(), again.len()), (16, 16), "each has an id of its own");
    let jobs = home.json(&["jobs", "list", "--watcher", "w", "--all"]);
    let replayed: Vec<_> =
        jobs.iter().filter(|job| job["generation"] == 1).map(|job| number(job, "seq")).collect();
    assert_eq!(replayed, [8, 7, 6, 5, 4, 3]);
    let pass = &shown["passes"][0];
    assert_eq!((&pass["kind"], &pass["generation"]), (&json!("replay"), &json!(1)));
    assert_eq!((number(pass, "from"), number(pass, "to")), (3, 8));
    assert!(pass["ended_at"].is_string() && pass["stopped"].is_null(), "{pass}");
    home.run_plain(&["watch", "show", "w"])
        .expect(0)
        .says(&["replay of seq 3 to 8 (generation 1), begun"]);
    // Another is another generation; live fires keep theirs.
    replay(&["--from", "start", "--to", "1h", "--yes"]).expect(1).says(&["no claims from"]);
    replay(&["--from", "1", "--to", "2", "--yes"]).expect(0);
    home.pipe(&claims(10..11)).expect(0);
    until_shown(&home, "w", "the replay has ended", |shown| shown["replay"].is_null());
    server.until_settled();
    let jobs = home.json(&["jobs", "list", "--watcher", "w", "--all"]);
    let of = |generation: u32| jobs.iter().filter(|job| job["generation"] == generation).count();
    assert_eq!([of(0), of(1), of(2)], [11, 6, 2]);

    replay(&["--from", "soon", "--yes"]).expect(2).says(&["--from", "neither"]);
    replay(&["--from", "1", "--to", "99", "--yes"]).expect(1).says(&["its last is 12"]);
    replay(&["--from", "8", "--to", "3", "--yes"]).expect(1).says(&["there are no claims from 8"]);
    replay(&["--from", "1", "--stop"]).expect(2);
    replay(&[]).expect(2).says(&["--from"]);
    let post = |body: &str| server.request("POST", "/api/v1/watchers/w/replay", body).unwrap();
    for body in ["{}", r#"{"stop":true,"from":1}"#, r#"{"from":"never"}"#] {
        assert_eq!(post(body).0, 400, "{body}");
    }
    let (status, answer) = post(r#"{"from":1,"to":"now","dry_run":true}"#);
    assert!(status == 200 && answer.contains(r#""fires":11"#), "{status} {answer}");
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn a_replay_can_be_stopped_and_asks_on_a_terminal() {
    let home = Home::new("replay-stop");
    let server = serve(&home);
    create(&home, "w", &[]);
    home.pipe(&claims(0..5)).expect(0);
    server.until_settled();
    let mut terminal = Terminal::start(&home, "watch replay w --from start", &[]);
    terminal.until_shown("5 of work");
    terminal.until_shown("[y/N]");
    terminal.types("\n");
    terminal.until_shown("nothing was changed");
    assert_eq!(terminal.end(), Some(1));
    home.object(&["watch", "pause", "w"]);
    let mut terminal = Terminal::start(&home, "watch replay w --from start", &[]);
    terminal.until_shown("[y/N]");
    terminal.types("yes\n");
    terminal.until_shown("the replay has begun");
    assert_eq!(terminal.end(), Some(0));
    let shown = home.run(&["watch", "replay", "w", "--stop"]);
    // It may have come to its end before anybody could stop it: then there is none to stop.
    assert!(shown.code == 0 || shown.err.contains("replay"), "{shown:?}");
    until_shown(&home, "w", "no replay is under way", |shown| shown["replay"].is_null());
    let passes = home.object(&["watch", "show", "w"])["passes"].clone();
    assert_eq!(passes[0]["generation"], 1);
    home.run(&["watch", "replay", "w", "--stop"]).expect(1).says(&["replay"]);
}

/// Past 10,000 open jobs a watcher waits where it is, says so, and goes on without a gap.
#[test]
fn a_watcher_with_too_many_open_jobs_waits_and_says_so() {
    const CLAIMS: u64 = 10_500;
    let home = Home::new("backpressure");
    let gate = home.path("gate");
    home.configure_zoo(&[Zoo::new("zoo", "gate")
        .own("gate", gate.display().to_string())
        .host("max_in_flight", 64)]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.pipe(&claims(0..10_500)).expect(0);
    let words = ["watch", "create", "w", "--when", "is a", "--run", "work", "--since", "start"];
    home.run_plain(&words)
        .expect(0)
        .says(&["it catches up: it looks at 10500 earlier claims first", "watch show user-w"]);
    let shown = until_shown(&home, "w", "its open jobs are at their bound", |shown| {
        shown["position"]["backpressured"] == true
    });
    let position = &shown["position"];
    assert_eq!(shown["state"], "catching_up");
    assert_eq!(keys(position), ["backpressured", "behind", "head", "seq"]);
    assert_eq!(number(position, "seq") + number(position, "behind"), CLAIMS);
    let open = number(&shown, "open_jobs");
    assert!((10_000..CLAIMS).contains(&open), "{open} are open");
    home.run_plain(&["watch", "list"]).expect(0).says(&["backpressured, at seq "]);
    home.run_plain(&["watch", "show", "w"])
        .expect(0)
        .says(&["it goes on when fewer of its", "catching up from seq 1, begun"]);
    std::fs::write(&gate, "").expect("the gate can be opened");
    until_shown(&home, "w", "it is up with the log", |shown| shown["state"] == "live");
    server.until_settled();
    assert_eq!(seqs(&home, "w"), (1..=CLAIMS).collect::<Vec<_>>());
}

#[test]
fn what_matching_costs_is_told() {
    let home = Home::new("stats");
    let server = serve(&home);
    assert_eq!(home.object(&["watch", "stats"])["claims"], 0);
    let whens = [
        ("plain", "is a"),
        ("pair", "is a of c"),
        ("lang", "is a where lang = 'rust'"),
        ("but", "is a is not b"),
        ("hour", "since 2020-01-01 until 2020-01-02"),
        ("odd", "where lang != 'rust'"),
        ("odder", "where lang != 'rust'"),
    ];
    let found_by = whens.map(|(id, when)| {
        let made = home.object(&["watch", "create", id, "--when", when, "--run", "work"]);
        text(&made, "found_by").to_owned()
    });
    assert_eq!(found_by, ["terms", "terms", "terms", "terms", "time", "nothing", "nothing"]);
    home.pipe(&claims(0..10)).expect(0);
    server.until_settled();
    let stats = home.object(&["watch", "stats"]);
    let numbers = ["watchers", "by_time", "asked_always", "questions", "claims"];
    assert_eq!(numbers.map(|key| number(&stats, key)), [7, 1, 2, 1, 10], "{stats}");
    assert_eq!(stats["served_fully"], 0.571, "four of seven: {stats}");
    let shapes: Vec<_> = stats["shapes"].as_array().unwrap().iter().collect();
    let found_by = |terms: &Value, is_full: bool| {
        let mut some = shapes.iter();
        some.any(|shape| shape["terms_of"] == *terms && shape["served_fully"] == is_full)
    };
    assert!(found_by(&json!(["predicate"]), true) && found_by(&json!(["predicate"]), false));
    assert!(found_by(&json!(["predicate", "context"]), true), "{stats}");
    assert!(found_by(&json!(["predicate", "attribute"]), true), "{stats}");
    // Of each claim `but` is verified, and the one question asked.
    assert_eq!(stats["candidates_per_claim"], 2.0, "{stats}");
    // `plain`, `but`, `odd` and `odder`.
    assert_eq!(stats["matches_per_claim"], 4.0, "{stats}");
    let dearest: Vec<_> = stats["dearest"].as_array().unwrap().iter().collect();
    let ids: BTreeSet<_> = dearest.iter().map(|dear| text(dear, "id")).collect();
    assert_eq!(ids, BTreeSet::from(["user-but", "user-odd", "user-odder"]), "{stats}");
    assert!(dearest.iter().all(|dear| dear["verified"] == 10), "{stats}");
    home.run_plain(&["watch", "stats"]).expect(0).says(&["57.1 % by look-ups alone", "user-odd"]);
    server.stop();
}
