//! Rows that do not decode: the engine starts and works without them, the audit tells of them, and
//! `axwatch doctor` shows and mends.

use std::collections::BTreeSet;

use crate::support::{Home, Zoo, number, text, until};
use serde_json::{Value, json};

/// Zoo with one watcher on `seen`, and one that nobody answers for.
fn configure(home: &Home) {
    home.configure_zoo(&[Zoo::good("zoo")
        .watcher(json!({ "id": "seen", "predicates": ["seen"] }))
        .watcher(json!({ "id": "other", "predicates": ["other"] }))]);
}

/// A store that was used: claims, jobs, a paused watcher of a person, an alias.
fn used(home: &Home) {
    configure(home);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    for n in 1..=5 {
        home.object(&["as", &format!("S{n} is seen by ann"), "--id", &format!("c{n}")]);
    }
    home.run(&["alias", "add", "NY", "New York"]).expect(0);
    home.run(&["watch", "create", "mine", "--when", "is mine", "--run", "zoo/work"]).expect(0);
    home.run(&["watch", "pause", "mine"]).expect(0);
    server.until_settled();
    server.stop();
}

/// What the engine put aside, once its audit tells of it: table and key of each.
fn put_aside(home: &Home) -> Vec<(String, String)> {
    let mut rows: Vec<_> = home
        .json(&["audit", "show", "--type", "quarantined"])
        .iter()
        .map(|record| (text(record, "table").to_owned(), text(record, "row").to_owned()))
        .collect();
    rows.sort();
    rows
}

#[test]
fn a_row_of_any_table_that_does_not_decode_stops_nothing_else() {
    let cases = [
        // (table, its key, how it is spoilt)
        (
            "jobs",
            "2",
            "UPDATE jobs SET state = 0, leaves = '[' WHERE number = 2; \
          UPDATE meta SET value = 1 WHERE key = 'open_jobs_from'",
        ),
        ("watchers", "2", "UPDATE watchers SET declared = '{' WHERE number = 2"),
        ("watcher_counters", "1", "INSERT OR REPLACE INTO watcher_counters VALUES (1,-1,0,0,NULL)"),
        ("holds", "[3,1]", "UPDATE holds SET kind = 'asleep'"),
        (
            "passes",
            "[1,0]",
            "INSERT INTO passes VALUES (1,0,-1,NULL,1,0,NULL,NULL); \
          INSERT INTO cursors VALUES (1,0)",
        ),
        ("aliases", "6", "UPDATE aliases SET words = '[' "),
        ("plugins", "zoo", "UPDATE plugins SET incarnation = -7"),
        ("handlers", "[\"zoo\",\"\"]", "INSERT INTO handlers VALUES ('zoo','')"),
        (
            "schedules",
            "[\"zoo\",\"x\"]",
            "INSERT INTO schedules (owner, name, handler, interval_secs, anchor, missed, overlap, jitter_secs, \
              enabled_by_default, description, ats_code, state, declared_at, changed_at, seen, by_call) \
              VALUES ('zoo','x','zoo/',0,1,'once','skip',0,0,'','','inactive',1,1,'[]',0)",
        ),
    ];
    for (table, key, spoil) in cases {
        let home = Home::new(&format!("quarantine-{table}"));
        used(&home);
        home.database().execute_batch(spoil).unwrap_or_else(|error| panic!("{spoil}: {error}"));
        let examined = home.run(&["doctor"]).expect(1).json();
        let findings = examined[0]["findings"].as_array().cloned().unwrap_or_default();
        assert!(findings.iter().any(|finding| finding["table"] == table), "{table}: {findings:?}");

        let server = home.serve();
        server.until_ready(&["zoo"]);
        let aside = until("the audit tells of it", || {
            Some(put_aside(&home)).filter(|rows| !rows.is_empty())
        });
        assert_eq!(aside, [(table.to_owned(), key.to_owned())]);
        // All else goes on.
        home.object(&["as", "S9 is seen by ann", "--id", "c9"]);
        server.until_settled();
        let fires = home.json(&["fires", "--watcher", "zoo-seen"]);
        assert!(fires.iter().any(|fire| fire["attestation_id"] == "c9"), "{table}: {fires:?}");
        assert_eq!(home.json(&["ax", "is seen by ann"]).len(), 6, "{table}");
        home.run(&["status"]);
        server.stop();
        assert_eq!(home.object(&["audit", "verify"])["ok"], true, "{table}");
        // It is told once, and nothing of it is lost.
        let server = home.serve();
        server.until_ready(&["zoo"]);
        assert_eq!(put_aside(&home).len(), 1, "{table}");
        server.stop();
        let kept: String = home
            .database()
            .query_row("SELECT content FROM quarantine", [], |row| row.get(0))
            .expect("it is in quarantine");
        assert!(serde_json::from_str::<Value>(&kept).is_ok_and(|kept| kept.is_object()), "{kept}");
        let healthy = home.run(&["doctor"]).json();
        assert_eq!(healthy[0]["quarantined"][0]["table"], table);
    }
}

#[test]
fn a_claim_that_does_not_decode_is_passed_over_also_by_matching() {
    let home = Home::new("quarantine-claim");
    used(&home);
    // Three claims that no engine has seen: the second cannot be read, and neither can the last.
    for n in 6..=9 {
        home.object(&["as", &format!("S{n} is seen by ann"), "--id", &format!("c{n}")]);
    }
    let spoil = "UPDATE attestations SET contexts = '[1]' WHERE id IN ('c7', 'c9')";
    home.database().execute_batch(spoil).expect("the store can be written to");
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let fired = until("the others have fired", || {
        let fires = home.json(&["fires", "--watcher", "zoo-seen"]);
        (fires.len() == 7).then_some(fires)
    });
    assert!(fired.iter().all(|fire| fire["attestation_id"] != "c7"), "{fired:?}");
    home.object(&["as", "S10 is seen by ann", "--id", "c10"]);
    until("the next one fires", || {
        (home.json(&["fires", "--watcher", "zoo-seen"]).len() == 8).then_some(())
    });
    server.until_settled();
    home.run(&["why-not", "zoo-seen", "c7"]).expect(1).says(&["c7 was seq 8", "axwatch doctor"]);
    home.run(&["trace", "c7"]).expect(1).says(&["c7 was seq 8"]);
    // The ids are known, and the numbers are never given again.
    let repeated = home.object(&["as", "S9 is seen by ann", "--id", "c9"]);
    assert_eq!(number(&repeated, "fires"), 0, "{repeated}");
    let aside =
        until("the audit tells of both", || Some(put_aside(&home)).filter(|rows| rows.len() == 2));
    assert!(aside.iter().all(|(table, _)| table == "attestations"), "{aside:?}");
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    assert_eq!(home.object(&["doctor"])["ok"], true);
}

#[test]
fn a_doctor_mends_what_can_be_mended_and_says_what_cannot() {
    let home = Home::new("doctor");
    home.run(&["doctor"]).expect(1).says(&["there is no store"]);
    used(&home);
    let healthy = home.run_plain(&["doctor"]).expect(0);
    healthy.says(&["ok: looked through"]);
    let spoil = "DELETE FROM postings; \
         UPDATE attestations SET lineage = 77 WHERE seq = 2;";
    home.database().execute_batch(spoil).expect("the store can be written to");

    // A server may run while somebody looks, and not while something is mended.
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.run(&["doctor", "--repair"]).expect(3).says(&["stop it first"]);
    server.stop();
    let mended = home.run(&["doctor", "--repair"]).json();
    assert_eq!(mended[0]["findings"], json!([]), "{mended:?}");
    assert_eq!(home.object(&["doctor"])["ok"], true);
    assert_eq!(home.json(&["ax", "S1 is seen"]).len(), 1);
    home.serve().stop();
    let aside = put_aside(&home);
    assert_eq!(aside, [("attestations".to_owned(), "2".to_owned())]);

    // The chain of the audit is not for a doctor to mend.
    let cut = "UPDATE audit SET head = x'00' WHERE first_leaf = 0";
    home.database().execute_batch(cut).expect("the store can be written to");
    home.run(&["doctor", "--repair"]).expect(1).says(&["audit"]);
}

/// The id of a job says which watcher it was for: of a watcher whose row is lost nobody knows which ids
/// were given, so whoever takes its place gives none of them again.
#[test]
fn a_watcher_whose_row_was_lost_gives_no_job_id_again() {
    let home = Home::new("doctor-generation");
    used(&home);
    let ids = |fires: &[Value]| -> BTreeSet<String> {
        fires.iter().map(|fire| text(fire, "job_id").to_owned()).collect()
    };
    let before = ids(&home.json(&["fires", "--watcher", "zoo-seen"]));
    let declare =
        ["watch", "create", "all", "--when", "is seen", "--run", "zoo/work", "--since", "start"];
    let first = {
        let server = home.serve();
        server.until_ready(&["zoo"]);
        home.run(&declare).expect(0);
        server.until_settled();
        let first = ids(&home.json(&["fires", "--watcher", "all"]));
        server.stop();
        first
    };
    assert_eq!((before.len(), first.len()), (5, 5));
    let spoil = "UPDATE watchers SET declared = '{' WHERE local_id = 'all'";
    home.database().execute_batch(spoil).expect("the store can be written to");
    for _ in 0..2 {
        // Also at the start after the one that put it aside.
        home.serve().stop();
    }
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.run(&declare).expect(0);
    server.until_settled();
    let again = ids(&home.json(&["fires", "--watcher", "all"]));
    assert_eq!(again.len(), 5);
    assert!(again.is_disjoint(&first) && again.is_disjoint(&before), "{again:?} and {first:?}");
    assert_eq!(home.object(&["status"])["store"]["quarantined"], 1);
    server.stop();
}

#[test]
fn what_meta_says_wrongly_is_refused_or_set_right() {
    let home = Home::new("doctor-meta");
    used(&home);
    // More was derived than there is: nobody knows what, so it has to be made again.
    let spoil = "UPDATE meta SET value = 99 WHERE key IN ('derived_seq', 'deriving_seq')";
    home.database().execute_batch(spoil).expect("the store can be written to");
    let says = ["derived_seq in its meta is 99", "axwatch doctor --repair"];
    home.run(&["serve"]).expect(3).says(&says);
    home.run(&["ax", "S1 is seen"]).expect(3).says(&says);
    home.run(&["doctor"]).expect(1).says(&["derived_seq in its meta is 99"]);
    home.run(&["doctor", "--repair"]).expect(0);
    assert_eq!(home.json(&["ax", "S1 is seen"]).len(), 1);

    // More was matched than there is: what comes is matched all the same.
    let spoil = "UPDATE meta SET value = 99 WHERE key = 'matched_seq'";
    home.database().execute_batch(spoil).expect("the store can be written to");
    home.run(&["doctor"]).expect(1).says(&["matched_seq is 99"]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    assert_eq!(number(&home.object(&["as", "S9 is seen by ann"]), "fires"), 1);
    server.stop();
    home.run(&["doctor", "--repair"]).expect(0);
    assert_eq!(home.object(&["doctor"])["ok"], true);
}

#[test]
fn a_store_that_is_none_is_told_as_such() {
    let home = Home::new("doctor-none");
    home.configure("");
    home.run(&["as", "A is new"]).expect(0);
    let store = home.store();
    let bytes = std::fs::read(&store).expect("the store is one file");
    std::fs::write(&store, vec![0xa5; bytes.len()]).expect("the store can be written to");
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", store.display()));
    }
    home.run(&["doctor"]).expect(3);
    home.run(&["doctor", "--repair"]).expect(3);
}
