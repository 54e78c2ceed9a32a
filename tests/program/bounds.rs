//! Bounds with their real sizes, through the real program. Those that can be made small are driven past in
//! `engine/tests/bounds.rs`; all of them are listed in `docs/bounds.md`.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::{Home, Zoo, number, text, until};
use serde_json::{Value, json};

fn lines(ids: std::ops::Range<u32>, predicate: &str) -> String {
    let line = |n| json!({ "id": format!("{predicate}-{n}"), "subjects": ["X"], "predicates": [predicate] });
    ids.map(|n| format!("{}\n", line(n))).collect()
}

#[test]
fn a_watcher_with_ten_thousand_open_jobs_falls_behind_alone_and_loses_nothing() {
    const CLAIMS: u32 = 12_000;
    let home = Home::new("ten-thousand");
    let gate = home.path("gate");
    home.configure_zoo(&[
        Zoo::new("slow", "gate")
            .own("gate", gate.to_str().unwrap())
            .host("max_in_flight", 256)
            .watcher(json!({ "id": "busy", "predicates": ["busy"] })),
        Zoo::good("quick").watcher(json!({ "id": "calm", "predicates": ["calm"] })),
    ]);
    let server = home.serve();
    server.until_ready(&["slow", "quick"]);
    let answers = home.pipe(&lines(0..CLAIMS, "busy")).expect(0).json();
    assert!(answers.iter().all(|answer| answer["seq"].is_u64()), "every claim is taken");
    home.object(&["as", "X is calm", "--id", "calm-0"]);

    let busy = until("it has its bound", || {
        let busy = home.object(&["watch", "show", "slow-busy"]);
        (busy["position"]["backpressured"] == true).then_some(busy)
    });
    assert_eq!(text(&busy, "state"), "catching_up", "{busy}");
    let open = number(&busy, "open_jobs");
    assert!((10_000..10_002).contains(&open), "{busy}");
    until("the other goes on", || {
        let fires = home.json(&["fires", "--watcher", "quick-calm"]);
        fires.first().filter(|fire| fire["state"] == "completed").map(|_| ())
    });

    std::fs::write(gate, "").unwrap();
    let busy = until("it is live again", || {
        let busy = home.object(&["watch", "show", "slow-busy"]);
        (text(&busy, "state") == "live" && number(&busy, "open_jobs") == 0).then_some(busy)
    });
    assert_eq!(number(&busy, "fires"), u64::from(CLAIMS), "{busy}");
    server.until_settled();
    let fires = home.json(&["fires", "--watcher", "slow-busy", "--all"]);
    let claims: BTreeSet<_> = fires.iter().map(|fire| text(fire, "attestation_id")).collect();
    assert_eq!((fires.len(), claims.len()), (CLAIMS as usize, CLAIMS as usize), "each fired once");
    for kind in ["watcher_backpressured", "watcher_live"] {
        let told = home.json(&["audit", "show", "--type", kind]);
        assert!(told.iter().any(|record| record["watcher"] == "slow-busy"), "{kind}: {told:?}");
    }
    server.stop();
}

/// The number behind a word in a line of the log.
fn number_before(line: &str, words: &str) -> Option<u64> {
    line.split(words).next()?.split_whitespace().last()?.parse().ok()
}

#[test]
fn every_line_is_shown_or_counted() {
    let home = Home::new("flood");
    home.configure_zoo(&[Zoo::new("zoo", "flood-output")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    // 20,000 lines of a flood and three before them, of which one is longer than a line may be.
    let told = |log: &str| {
        let of_plugin = log.lines().filter(|line| line.contains("plugin=\"zoo\""));
        let (counted, shown): (Vec<_>, Vec<_>) =
            of_plugin.partition(|line| line.contains("lines of output suppressed"));
        let counted: u64 =
            counted.iter().filter_map(|line| number_before(line, " lines of output")).sum();
        let shown = shown.iter().filter(|line| line.contains("stream=\"stdout\"")).count() as u64;
        (shown, counted)
    };
    server.stop();
    let (shown, counted) = told(&home.log());
    assert!(counted > 0, "a flood is more than is shown");
    assert_eq!(shown + counted, 20_003, "{shown} shown and {counted} counted");
    assert!(home.log().lines().all(|line| line.len() < 66_000), "no line is longer than 64 KiB");
}

/// A command that goes on, and of which nobody takes a line until it is asked for.
struct SlowReader {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl SlowReader {
    fn of(home: &Home, args: &[&str]) -> SlowReader {
        let mut command = home.command(args);
        command.arg("--json").arg("--store").arg(home.store());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::with_capacity(512, child.stdout.take().unwrap()).lines();
        SlowReader { child, lines }
    }

    fn until(&mut self, is_meant: impl Fn(&Value) -> bool) -> Value {
        let parse = |line: std::io::Result<String>| serde_json::from_str(&line.unwrap()).unwrap();
        self.lines.by_ref().map(parse).find(is_meant).expect("more is told")
    }
}

impl Drop for SlowReader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_slow_reader_gets_everything() {
    const CLAIMS: u32 = 5_000;
    let home = Home::new("slow-reader");
    home.configure_zoo(&[Zoo::good("zoo").watcher(json!({ "id": "w", "predicates": ["seen"] }))]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let mut log = SlowReader::of(&home, &["ax", "is seen", "--follow"]);
    let mut fires = SlowReader::of(&home, &["fires", "--follow", "--limit", "1"]);
    // Claims until both are listening; from then on nobody reads what they tell.
    let listening = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if listening.load(Ordering::Relaxed) {
                    break;
                }
                let claim = json!({ "id": format!("before-{n}"), "subjects": ["X"], "predicates": ["seen"] });
                server.request("POST", "/api/v1/attestations", &claim.to_string());
            }
        });
        log.until(|_| true);
        fires.until(|_| true);
        listening.store(true, Ordering::Relaxed);
    });
    home.pipe(&lines(0..CLAIMS, "seen")).expect(0);
    server.until_settled();
    log.until(|claim| claim["id"] == "seen-0");
    for n in 1..CLAIMS {
        let claim = log.until(|_| true);
        assert_eq!(text(&claim, "id"), format!("seen-{n}"), "in order, and none is left out");
    }
    let mut completed = BTreeSet::new();
    while completed.len() < CLAIMS as usize {
        let fire = fires.until(|fire| {
            fire["state"] == "completed" && text(fire, "attestation_id").starts_with("seen-")
        });
        completed.insert(text(&fire, "attestation_id").to_owned());
    }
    server.stop();
}

/// What may be in memory at most, whatever plugins send and ask: the engine's budget.
const BUDGET_KIB: u64 = 256 * 1024;

fn jobs_of(home: &Home, watcher: &str) -> Vec<Value> {
    home.json(&["fires", "--watcher", watcher, "--all"])
}

#[test]
fn large_answers_of_many_jobs_do_not_add_up() {
    let home = Home::new("large-answers");
    let zoo = |name: &str| {
        Zoo::new(name, "large-result").watcher(json!({ "id": "asked", "predicates": ["large"] }))
    };
    home.configure_zoo(&[zoo("one"), zoo("two"), zoo("three")]);
    let server = home.serve();
    server.until_ready(&["one", "two", "three"]);
    home.pipe(&lines(0..150, "large")).expect(0);
    server.until_settled();
    for watcher in ["one-asked", "two-asked", "three-asked"] {
        let done = jobs_of(&home, watcher);
        assert!(done.iter().all(|job| job["state"] == "completed"), "{done:?}");
        assert_eq!(done.len(), 150);
    }
    let peak_kib = server.peak_memory_kib();
    assert!(peak_kib < BUDGET_KIB, "{peak_kib} KiB");
    server.stop();
}

#[test]
fn large_replies_to_one_plugin_do_not_add_up() {
    let home = Home::new("large-replies");
    home.configure_zoo(&[Zoo::new("zoo", "reads-much")
        .own("n", 3_000)
        .watcher(json!({ "id": "asked", "predicates": ["read"] }))]);
    let long = "x".repeat(1_000);
    let line = json!({ "subjects": ["X"], "predicates": ["bulk"], "attributes": { "text": long } });
    home.pipe(&format!("{line}\n").repeat(3_000)).expect(0);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["as", "X is read"]);
    server.until_settled();
    let job = jobs_of(&home, "zoo-asked").remove(0);
    assert_eq!(job["state"], "completed", "{job}");
    let job = home.object(&["jobs", "show", text(&job, "job_id")]);
    // Beside them only the claim that asked for it may be among those that came.
    assert_eq!(
        job["result"].to_string().trim_matches('"'),
        "180000",
        "every reply was whole: {job}"
    );
    let peak_kib = server.peak_memory_kib();
    assert!(peak_kib < BUDGET_KIB, "{peak_kib} KiB");
    server.stop();
}
