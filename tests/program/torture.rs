//! `axwatch torture`: a run of 100 kills finds nothing wrong, and its checker finds whatever is taken from
//! the records or put into them afterwards. What is ended early leaves nothing behind.
//!
//! `AXWATCH_TEST_SEED` repeats the interventions of a run.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Dice, Home, Ran, Running, number, processes, until, within};
use rusqlite::{Connection, params};
use rustix::process::Signal;
use serde_json::Value;

const KILLS: u64 = 100;

#[test]
fn nothing_is_lost_and_what_is_taken_is_missed() {
    let home = Home::new("torture");
    let seed = Dice::roll_seed().below(1 << 32);
    let folder = home.path("run");
    let kills = KILLS.to_string();
    let args = ["torture", "--kills", &kills, "--seed", &seed.to_string(), "--json", "--store"];
    // It may take longer than other commands.
    let output = home.command(args).arg(&folder).stdin(Stdio::null()).output();
    let output = output.expect("the program can be started");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert_eq!(output.status.code(), Some(0), "seed {seed}: {out}\n{err}");
    let verdict: Value = serde_json::from_str(&out).expect("one object");
    assert_eq!((&verdict["ok"], number(&verdict, "kills")), (&Value::from(true), KILLS));
    assert_eq!(number(&verdict, "seed"), seed);
    let some = [
        "acked",
        "matches",
        "fires",
        "deliveries",
        "windows",
        "dead_letters",
        "duplicates",
        "records",
        "recoveries",
        "starts",
    ];
    for figure in some {
        assert!(number(&verdict, figure) > 0, "nothing was tried: no {figure} in {verdict}");
    }
    assert_eq!(left_of(&folder), Vec::<String>::new());

    // The same records again say the same.
    let again = checked(&home, &folder).expect(0).object();
    assert_eq!(again, verdict);
    for (name, figure, plant) in PLANTS {
        let copy = home.path(format!("with {name}"));
        copy_files(&folder, &copy);
        plant(&copy);
        let ran = checked(&home, &copy).expect(1);
        let found = ran.object();
        assert!(number(&found, figure) > 0, "{name} is not seen as {figure}: {found}");
        assert_eq!(found["ok"], false, "{name}");
        fs::remove_dir_all(&copy).expect("it was just made");
    }
}

fn checked(home: &Home, folder: &Path) -> Ran {
    let folder = folder.to_str().expect("a path of ours is text");
    home.run_bare(&["torture", "--json", "--check", folder])
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("the folder of the run is there") {
        let entry = entry.expect("it can be read");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
    }
}

/// What is done to the records of a run, and the figure that must show it.
type Plant = (&'static str, &'static str, fn(&Path));

const PLANTS: [Plant; 16] = [
    ("an acknowledged claim gone", "acked_lost", |run| {
        change(run, "DELETE FROM attestations WHERE seq = (SELECT max(seq) / 2 FROM attestations)");
    }),
    ("an acknowledged claim under another number", "acked_lost", |run| {
        change(
            run,
            "UPDATE attestations SET seq = seq + 100000 WHERE seq > (SELECT max(seq) / 2 FROM attestations)",
        );
    }),
    ("an acknowledged claim that says something else", "acked_lost", |run| {
        change(run, "UPDATE attestations SET actors = '[\"nobody\"]' WHERE id = 'torture-7'");
    }),
    ("a claim of a job gone", "other_faults", |run| {
        change(
            run,
            "UPDATE attestations SET parent_job = NULL WHERE seq = (SELECT max(seq) FROM attestations WHERE parent_job IS NOT NULL)",
        );
    }),
    ("a fire gone", "not_fired", |run| {
        change(run, "DELETE FROM jobs WHERE number = (SELECT max(number) / 2 FROM jobs)");
    }),
    ("a fire that has not ended", "not_fired", |run| {
        change(run, "UPDATE jobs SET state = 0 WHERE number = (SELECT max(number) / 2 FROM jobs)");
    }),
    ("a fire that nobody waited for", "other_faults", |run| {
        change(
            run,
            "UPDATE jobs SET seq = seq + 1 WHERE number = (SELECT max(number) / 2 FROM jobs)",
        );
    }),
    ("a job under another id", "wrong_ids", |run| {
        change(
            run,
            "UPDATE jobs SET id = randomblob(16) WHERE number = (SELECT max(number) / 2 FROM jobs)",
        );
    }),
    ("a watcher that begins too late", "not_fired", |run| {
        change(
            run,
            "UPDATE watcher_revisions SET from_seq = (SELECT max(seq) / 2 FROM attestations) WHERE revision = 1 AND watcher = (SELECT number FROM watchers WHERE local_id = 'steady')",
        );
    }),
    ("a declaration gone", "other_faults", |run| {
        change(
            run,
            "DELETE FROM watcher_revisions WHERE watcher = (SELECT number FROM watchers WHERE local_id = 'one')",
        );
    }),
    ("a record of the audit gone", "unaudited", |run| {
        let is_start = |record: &Value| record["type"] == "attempt_started";
        change_audit(run, 1, is_start, |_| None);
    }),
    ("the end of the audit gone", "unaudited", |run| {
        change(
            run,
            "DELETE FROM audit WHERE first_leaf >= (SELECT max(first_leaf) FROM audit WHERE records LIKE '%attempt_ended%')",
        );
    }),
    ("a record of the audit changed", "unaudited", |run| {
        let is_end = |record: &Value| record["type"] == "attempt_ended";
        change_audit(run, 1, is_end, |mut record| {
            record["at"] = "2001-01-01T00:00:00Z".into();
            Some(record)
        });
    }),
    ("two attempts of a limit too close", "windows_over_limit", |run| {
        let is_of_one =
            |record: &Value| record["watcher"] == "user-one" && record["stamp_us"].is_u64();
        change_audit(run, 2, is_of_one, |mut record| {
            record["epoch"] = 1.into();
            record["stamp_us"] = 1.into();
            Some(record)
        });
    }),
    ("an attempt after a success", "other_faults", |run| {
        let is_end =
            |record: &Value| record["outcome"] == "failed" && record["next_at"].is_string();
        change_audit(run, 1, is_end, |mut record| {
            record["outcome"] = "succeeded".into();
            Some(record)
        });
    }),
    ("a delivery that the audit does not know", "unaudited", |run| {
        let line = r#"{"delivery":{"job":"00000000000000000000000000000007","attempt":1,"watcher":"user-steady","handler":"ledger.quick","claim":"torture-7","at":1}}"#;
        let ledger = fs::OpenOptions::new().append(true).open(run.join("ledger.jsonl"));
        writeln!(ledger.expect("the ledger is there"), "{line}").expect("it can be written");
    }),
];

fn open(run: &Path) -> Connection {
    Connection::open(run.join("axwatch.db")).expect("the store is a database")
}

fn change(run: &Path, sql: &str) {
    let changed = open(run).execute(sql, []).expect("the store can be changed");
    assert!(changed > 0, "nothing to change: {sql}");
}

/// Changes so many of these records, or takes them away; the row says how many are left.
fn change_audit(
    run: &Path,
    many: usize,
    is_meant: impl Fn(&Value) -> bool,
    change: impl Fn(Value) -> Option<Value>,
) {
    let mut database = open(run);
    let transaction = database.transaction().expect("a transaction begins");
    let rows: Vec<(i64, String)> = {
        let mut rows = transaction.prepare("SELECT first_leaf, records FROM audit").expect("SQL");
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
        rows.map(|row| row.expect("a row")).collect()
    };
    let mut changed = 0;
    for (first, records) in rows {
        let lines = records.lines().map(|line| serde_json::from_str(line).expect("a record"));
        let mut kept = String::new();
        let (mut count, before) = (0, changed);
        for record in lines {
            let record = if changed < many && is_meant(&record) {
                changed += 1;
                change(record)
            } else {
                Some(record)
            };
            if let Some(record) = record {
                kept.push_str(&format!("{record}\n"));
                count += 1;
            }
        }
        if changed > before {
            let update = "UPDATE audit SET records = ?, count = ? WHERE first_leaf = ?";
            transaction.execute(update, params![kept, count, first]).expect("it can be changed");
        }
    }
    transaction.commit().expect("it can be changed");
    assert_eq!(changed, many, "there are not so many such records");
}

/// The processes that were started for a folder and are still there.
fn left_of(folder: &Path) -> Vec<String> {
    let pids = fs::read_dir("/proc").expect("this is Linux");
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let shown = pids.filter(|pid| *pid != std::process::id()).map(processes::describe);
    shown.filter(|shown| shown.contains(&*folder.to_string_lossy())).collect()
}

/// Starts a run, and waits until its plugin has got jobs.
fn begun(home: &Home, folder: &Path) -> Running {
    let mut command: Command = home.command(["torture", "--kills", "1000", "--json", "--store"]);
    command.arg(folder);
    let running = Running::start(command);
    until("jobs are delivered", || {
        let ledger = fs::read_to_string(folder.join("ledger.jsonl")).unwrap_or_default();
        ledger.contains("delivery").then_some(())
    });
    running
}

#[test]
fn one_that_is_interrupted_leaves_no_process_behind() {
    let home = Home::new("torture-interrupted");
    for signal in [Signal::INT, Signal::TERM] {
        let folder = home.path(format!("{signal:?}"));
        let running = begun(&home, &folder);
        processes::signal(running.pid(), signal);
        let ran = running.finish();
        assert_eq!(left_of(&folder), Vec::<String>::new());
        ran.expect(1).says(&["interrupted"]);
        assert!(folder.join("axwatch.db").exists(), "a folder that was named stays");
    }
}

#[test]
fn one_that_is_killed_leaves_no_process_behind() {
    let home = Home::new("torture-killed");
    let folder = home.path("run");
    let running = begun(&home, &folder);
    processes::signal(running.pid(), Signal::KILL);
    drop(running);
    within(Duration::from_secs(10), "all of its processes are gone", || {
        left_of(&folder).is_empty().then_some(())
    });
}

#[test]
fn what_cannot_be_is_refused() {
    let home = Home::new("torture-refused");
    home.run_bare(&["torture", "--kills", "0"]).expect(2).says(&["--kills"]);
    home.run_bare(&["torture", "--seed", "x"]).expect(2).says(&["--seed"]);
    home.run_bare(&["torture", "--check", ".", "--kills", "3"]).expect(2).says(&["--check"]);
    home.run_bare(&["torture", "--config", "am.toml"]).expect(2).says(&["no configuration"]);
    home.configure("");
    home.run_bare(&["torture", "--store", "am.toml"]).expect(2).says(&["is a file", "folder"]);
    let empty: PathBuf = home.path("empty");
    fs::create_dir(&empty).expect("a folder can be made");
    checked(&home, &empty).expect(1).says(&["no folder of an axwatch torture"]);
}
