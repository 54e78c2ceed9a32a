//! Plugins that misbehave, each in its own way, beside one that does its work: the good one gets all of its
//! jobs done, the engine stays small, what became of the others is told, and nothing of them is left.
//!
//! How much of its speed the good one keeps is measured by `cargo xtask bench zoo`, not here.

use std::time::{Duration, Instant};

use crate::support::{Home, Server, Zoo, ledger, number, processes, text, within};
use serde_json::{Value, json};

/// What the engine may have in memory at most, whatever its plugins do.
const MEMORY_MIB_MAX: u64 = 256;
/// The longest that a stop may take: what runs has ten seconds, and what stops another ten.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Claims for the good plugin while the others misbehave.
const CLAIMS: usize = 300;

/// A plugin in some mode with a watcher on `{name}_asked`, and a short patience of the host.
fn villain(mode: &str) -> Zoo {
    let watcher = json!({ "id": "asked", "predicates": [format!("{mode}_asked")] });
    Zoo::new(mode, mode)
        .watcher(watcher)
        .host("ready_timeout_secs", 3)
        .host("initialize_timeout_secs", 5)
        .host("execute_timeout_secs", 1)
}

/// A server with the good plugin and others.
fn serve(home: &Home, villains: Vec<Zoo>) -> Server {
    let victim = Zoo::good("victim").watcher(json!({ "id": "seen", "predicates": ["seen"] }));
    home.configure_zoo(&[vec![victim], villains].concat());
    let server = home.serve();
    server.until_ready(&["victim"]);
    server
}

/// Asks a villain for something, and answers its job.
fn ask(home: &Home, mode: &str) -> String {
    home.object(&["as", &format!("X is {mode}_asked")]);
    let watcher = format!("{mode}-asked");
    let fire = within(Duration::from_secs(60), "the villain's watcher fires", || {
        home.json(&["fires", "--watcher", &watcher, "--limit", "1"]).pop()
    });
    text(&fire, "job_id").to_owned()
}

/// The good plugin gets every claim once, while all of this goes on.
fn check_victim(home: &Home, round: usize) {
    let line = |n: usize| {
        let claim = json!({ "id": format!("seen-{round}-{n}"), "subjects": ["it"], "predicates": ["seen"] });
        format!("{claim}\n")
    };
    home.pipe(&(0..CLAIMS).map(line).collect::<String>()).expect(0);
    let file = Zoo::ledger_of(home, "victim");
    let wanted = (round + 1) * CLAIMS;
    let delivered = within(Duration::from_secs(60), "the good plugin gets its jobs", || {
        Some(ledger::read(&file)).filter(|deliveries| deliveries.len() >= wanted)
    });
    assert_eq!(delivered.len(), wanted, "each once");
}

/// A stop is over in time and leaves no process; the engine stayed small, its log clean and its audit whole.
fn check_end(home: &Home, server: Server) {
    let peak = server.peak_memory_kib() / 1024;
    assert!(peak <= MEMORY_MIB_MAX, "{peak} MiB");
    let began = Instant::now();
    server.stop();
    assert!(began.elapsed() <= STOP_WITHIN, "{:?}", began.elapsed());
    let left: Vec<_> =
        processes::tagged(home.tag()).iter().map(|pid| processes::describe(*pid)).collect();
    assert!(left.is_empty(), "{left:?}");
    let log = home.log();
    assert!(!log.contains(['\x1b', '\x07', '\u{202e}']), "no control characters of plugins");
    assert!(!log.lines().any(|line| line.starts_with("INFO forged")), "no lines of plugins' own");
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

/// The attempts of a job as `why` tells them: outcome and reason.
fn attempts(home: &Home, job: &str) -> Vec<(String, String)> {
    let why = home.object(&["why", job]);
    let attempts = why["attempts"].as_array().cloned().unwrap_or_default();
    let told = |attempt: &Value| {
        let of = |key: &str| attempt[key].as_str().unwrap_or_default().to_owned();
        (of("outcome"), of("reason"))
    };
    attempts.iter().map(told).filter(|(outcome, _)| !outcome.is_empty()).collect()
}

/// The first attempt of a job that has ended so.
fn attempt_that(home: &Home, job: &str, outcome: &str) -> String {
    within(Duration::from_secs(60), "an attempt ends as meant", || {
        attempts(home, job)
            .into_iter()
            .find(|(found, _)| found == outcome)
            .map(|(_, reason)| reason)
    })
}

#[test]
fn who_never_comes_up_holds_nobody_up() {
    let home = Home::new("zoo-launch");
    let modes = ["never-handshakes", "wrong-version", "million-predicates", "floods-watchers"];
    let server = serve(&home, modes.map(villain).to_vec());
    check_victim(&home, 0);
    // (mode, what is said of it)
    for (mode, says) in
        [("never-handshakes", "not ready within 3 s"), ("wrong-version", ">= 99.0.0")]
    {
        let plugin = server.until_plugin(mode, &["failed"]);
        assert!(text(&plugin, "error").contains(says), "{plugin}");
    }
    // An announcement that is too large is refused, or what is too large in it; one that is only long stands.
    server.until_plugin("million-predicates", &["ready", "backing_off", "failed"]);
    server.until_ready(&["floods-watchers"]);
    check_victim(&home, 1);
    check_end(&home, server);
}

#[test]
fn floods_are_cut_and_told() {
    let home = Home::new("zoo-floods");
    let modes =
        ["endless-line", "floods-output", "floods-claims", "one-byte-frames", "reopens-socket"];
    let server = serve(&home, modes.map(villain).to_vec());
    check_victim(&home, 0);
    for mode in ["endless-line", "floods-output", "one-byte-frames"] {
        server.until_ready(&[mode]);
        let job = ask(&home, mode);
        attempt_that(&home, &job, "succeeded");
    }
    check_victim(&home, 1);
    assert!(home.log().contains("suppressed"), "what was cut is told");
    check_end(&home, server);
}

#[test]
fn whatever_an_answer_is_it_is_told_once_for_each_attempt() {
    let home = Home::new("zoo-answers");
    let modes = ["huge-result", "nasty-errors", "invalid-utf8", "answers-twice", "stops-reading"];
    let server = serve(&home, modes.map(villain).to_vec());
    server.until_ready(&modes);
    let jobs = modes.map(|mode| (mode, ask(&home, mode)));
    check_victim(&home, 0);
    for (mode, job) in &jobs {
        let reason = match *mode {
            // One answer or none counts: the first, or that there were two.
            "answers-twice" => within(Duration::from_secs(60), "it has ended", || {
                attempts(&home, job).into_iter().next().map(|(_, reason)| reason)
            }),
            _ => attempt_that(&home, job, "failed"),
        };
        assert!(!reason.contains(char::is_control), "{mode}: {reason:?}");
        let says = match *mode {
            "huge-result" => "larger than 8 MiB",
            "nasty-errors" => "red",
            "stops-reading" => "no answer within 1 s",
            _ => "",
        };
        assert!(reason.contains(says), "{mode}: no {says:?} in {reason:?}");
    }
    check_end(&home, server);
}

#[test]
fn who_ends_in_a_job_is_told_how_and_loses_nothing() {
    let home = Home::new("zoo-ends");
    let tokens = home.path("tokens");
    let modes = ["exit-0-in-execute", "segfault"];
    let dead = villain("reuses-dead-token").own("tokens", json!(tokens));
    let server = serve(&home, [modes.map(villain).to_vec(), vec![dead]].concat());
    server.until_ready(&modes);
    let jobs = modes.map(|mode| ask(&home, mode));
    for (mode, says) in [("exit-0-in-execute", "exit status: 0"), ("segfault", "SIGSEGV")] {
        within(Duration::from_secs(30), "its end is told", || {
            let down = home.json(&["audit", "show", "--type", "plugin_down", "--all"]);
            let of_it =
                |down: &&Value| down["plugin"] == mode && text(down, "reason").contains(says);
            down.iter().any(|down| of_it(&down)).then_some(())
        });
    }
    check_victim(&home, 0);
    for job in &jobs {
        let job = home.object(&["jobs", "show", job]);
        assert!(["queued", "running", "paused"].contains(&text(&job, "state")), "{job}");
    }

    // The token of a process that is gone opens nothing.
    server.until_ready(&["reuses-dead-token"]);
    home.object(&["plugin", "restart", "reuses-dead-token"]);
    within(Duration::from_secs(30), "its second process is up", || {
        let lines = std::fs::read_to_string(&tokens).unwrap_or_default().lines().count();
        (lines >= 2 && server.plugin("reuses-dead-token")["state"] == "ready").then_some(())
    });
    let job = ask(&home, "reuses-dead-token");
    server.until_job(&job, &["completed"]);
    let result = home.object(&["jobs", "show", &job]);
    assert!(result.to_string().contains("unauthenticated"), "{result}");
    assert!(home.json(&["ax", "is dead"]).is_empty());
    assert_eq!(number(&home.object(&["status"])["jobs"], "failed"), 0);
    check_end(&home, server);
}
