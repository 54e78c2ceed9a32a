//! Rate limits: never more than N attempts in any half-open second, and none dropped.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{Home, Zoo, ledger, number, text};
use serde_json::{Value, json};

fn lines(ids: std::ops::Range<u32>, predicate: &str) -> String {
    let line = |n| json!({ "id": format!("{predicate}-{n}"), "subjects": ["X"], "predicates": [predicate] });
    ids.map(|n| format!("{}\n", line(n))).collect()
}

/// The stamps of a watcher's attempts, by the life of the engine in which they were made: each life
/// has a clock of its own.
fn stamps(home: &Home, watcher: &str) -> BTreeMap<u64, Vec<u64>> {
    let mut stamps: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for record in home.json(&["audit", "show", "--type", "attempt_ended", "--all"]) {
        // The end of an attempt that a kill cut off was written by the next life, without a stamp.
        if record["watcher"] == watcher && !record["stamp_us"].is_null() {
            stamps.entry(number(&record, "epoch")).or_default().push(number(&record, "stamp_us"));
        }
    }
    stamps.values_mut().for_each(|stamps| stamps.sort_unstable());
    stamps
}

/// The most stamps in any half-open second.
fn most_in_a_second(stamps: &[u64]) -> usize {
    let within = |from: usize| {
        stamps[from..].iter().take_while(|stamp| **stamp < stamps[from] + 1_000_000).count()
    };
    (0..stamps.len()).map(within).max().unwrap_or(0)
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(now.as_nanos()).expect("it is before 2554")
}

fn fires(home: &Home, watcher: &str) -> Vec<Value> {
    home.json(&["fires", "--watcher", watcher, "--all"])
}

#[test]
fn a_limit_of_five_holds_across_a_kill_and_drops_nothing() {
    let home = Home::new("five");
    home.configure_zoo(&[Zoo::good("zoo")
        .watcher(json!({ "id": "slow", "predicates": ["slow"], "max_fires_per_second": 5 }))]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let answers = home.pipe(&lines(0..22, "slow")).expect(0).json();
    assert!(answers.iter().all(|answer| answer["fires"] == 1), "a limited fire is a fire");
    let ledger_file = Zoo::ledger_of(&home, "zoo");
    crate::support::until("some are delivered", || {
        (ledger::read(&ledger_file).len() >= 7).then_some(())
    });
    server.kill();
    let killed_ns = now_ns();

    let server = home.serve();
    server.until_settled();
    let deliveries = ledger::read(&ledger_file);
    // The first second of the new life starts nothing: the window before the kill may be full.
    for delivery in deliveries.iter().filter(|delivery| delivery.at_ns > killed_ns) {
        let after_ns = delivery.at_ns - killed_ns;
        assert!(after_ns >= 1_000_000_000, "an attempt {after_ns} ns after the kill");
    }
    let done = fires(&home, "zoo-slow");
    assert_eq!(done.len(), 22);
    assert!(done.iter().all(|fire| fire["state"] == "completed"));
    let stamps = stamps(&home, "zoo-slow");
    assert_eq!(stamps.len(), 2, "two lives: {stamps:?}");
    for (epoch, stamps) in &stamps {
        assert!(most_in_a_second(stamps) <= 5, "epoch {epoch}: {stamps:?}");
        assert!(stamps[0] >= 1_000_000, "epoch {epoch} starts with a closed limiter: {stamps:?}");
    }
    // Most of the rate is reached too: 20 attempts at 5 a second last no longer than 4 s and a bit.
    let second = stamps.values().last().unwrap();
    let span_us = second.last().unwrap() - second[0];
    let fastest_us = (second.len() as u64 - 1) * 200_000;
    assert!(span_us >= fastest_us, "{span_us} µs for {}", second.len());
    assert!(!home.json(&["audit", "show", "--type", "limited", "--all"]).is_empty());
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn a_changed_limit_holds_from_its_change_on() {
    let home = Home::new("changed");
    home.configure_zoo(&[Zoo::good("zoo")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let declare = |rate: &str| {
        home.object(&[
            "watch",
            "create",
            "w",
            "--when",
            "is asked",
            "--run",
            "work",
            "--max-fires-per-second",
            rate,
        ])
    };
    declare("20");
    home.pipe(&lines(0..24, "asked")).expect(0);
    let ledger_file = Zoo::ledger_of(&home, "zoo");
    crate::support::until("some are delivered", || {
        (ledger::read(&ledger_file).len() >= 4).then_some(())
    });
    assert_eq!(number(&declare("4"), "revision"), 2);
    server.until_settled();

    let changed = home.json(&["audit", "show", "--type", "watcher_changed"]).remove(0);
    let started = home.json(&["audit", "show", "--type", "attempt_started", "--all"]);
    let after: Vec<_> = started
        .iter()
        .filter(|record| number(record, "leaf") > number(&changed, "leaf"))
        .map(|record| text(record, "job"))
        .collect();
    assert!((4..24).contains(&after.len()), "the change came in the middle: {}", after.len());
    let ended = home.json(&["audit", "show", "--type", "attempt_ended", "--all"]);
    let mut stamps: Vec<_> = ended
        .iter()
        .filter(|record| after.contains(&text(record, "job")))
        .map(|record| number(record, "stamp_us"))
        .collect();
    stamps.sort_unstable();
    assert_eq!(stamps.len(), after.len());
    assert!(most_in_a_second(&stamps) <= 4, "{stamps:?}");
    assert_eq!(fires(&home, "user-w").len(), 24);
}

#[test]
fn retries_count() {
    let home = Home::new("retries-count");
    home.configure_zoo(&[Zoo::new("flaky", "fail-n-times-then-succeed")
        .own("n", 1)
        .watcher(json!({ "id": "w", "predicates": ["asked"], "max_fires_per_second": 4 }))]);
    let server = home.serve();
    server.until_ready(&["flaky"]);
    home.pipe(&lines(0..8, "asked")).expect(0);
    server.until_settled();
    let stamps = &stamps(&home, "flaky-w")[&1];
    assert_eq!(stamps.len(), 16, "each was tried twice");
    assert!(most_in_a_second(stamps) <= 4, "{stamps:?}");
    assert!(fires(&home, "flaky-w").iter().all(|fire| fire["attempts"] == 2));
}

#[test]
fn zero_and_absent_are_no_limit() {
    let home = Home::new("zero");
    let zero = json!({ "id": "zero", "predicates": ["zero"], "max_fires_per_second": 0 });
    let never = json!({ "id": "w", "predicates": ["zero"], "max_fires_per_second": 0 });
    home.configure_zoo(&[
        Zoo::good("zoo").watcher(zero),
        Zoo::good("other").host("zero_rate", "never").watcher(never),
    ]);
    let server = home.serve();
    server.until_ready(&["zoo", "other"]);
    home.object(&["watch", "create", "w", "--when", "is zero", "--run", "zoo/work"]);
    home.pipe(&lines(0..600, "zero")).expect(0);
    crate::support::until("all are done", || {
        (ledger::read(&Zoo::ledger_of(&home, "zoo")).len() >= 1_200).then_some(())
    });
    let shown = home.object(&["watch", "show", "zoo-zero"]);
    assert_eq!(shown["max_fires_per_second"], Value::Null, "no limit is shown as none");
    for watcher in ["zoo-zero", "user-w"] {
        let stamps = crate::support::until("all ends are recorded", || {
            let stamps = stamps(&home, watcher).remove(&1)?;
            (stamps.len() == 600).then_some(stamps)
        });
        assert!(most_in_a_second(&stamps) > 50, "{watcher} is held back: {stamps:?}");
    }
    // One plugin means another thing by 0, and its host's settings say so.
    let never = home.object(&["watch", "show", "other-w"]);
    assert_eq!((number(&never, "fires"), text(&never, "state")), (0, "muted"));
    assert!(ledger::read(&Zoo::ledger_of(&home, "other")).is_empty());
}
