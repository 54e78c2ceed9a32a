//! Retention: what is old and nobody needs goes, with a server and without one, and what went is still
//! known.

use crate::support::{Home, Zoo, number, text, until};
use serde_json::{Value, json};

/// A plugin whose watcher fires on `seen`, and one whose jobs fail for good.
fn configure(home: &Home) {
    home.configure_zoo(&[
        Zoo::good("zoo").watcher(json!({ "id": "seen", "predicates": ["seen"] })),
        Zoo::new("sad", "permanent").handlers(&["sad"]),
    ]);
}

/// Lets all claims and jobs so far be a year older.
fn age(home: &Home) {
    let year_ms = 365_i64 * 24 * 60 * 60 * 1_000;
    let database = home.database();
    database
        .execute_batch(&format!(
            "UPDATE attestations SET created_at = created_at - {year_ms}; \
             UPDATE jobs SET completed_at = completed_at - {year_ms};"
        ))
        .expect("the store can be written to");
}

/// Lets a server match what is in the log, until so many claims may go.
fn match_all(home: &Home, claims: u64) {
    let server = home.serve();
    until("all is matched", || {
        let asked = home.object(&["retain", "--older-than", "90d", "--dry-run"]);
        (number(&asked, "claims") == claims).then_some(())
    });
    server.stop();
}

fn seqs(claims: &[Value]) -> Vec<u64> {
    claims.iter().map(|claim| number(claim, "seq")).collect()
}

#[test]
fn what_is_old_goes_and_a_late_repeat_is_still_a_repeat() {
    let home = Home::new("retention");
    configure(&home);
    let server = home.serve();
    server.until_ready(&["zoo", "sad"]);
    home.object(&["watch", "create", "broken", "--when", "is broken", "--run", "sad"]);
    home.object(&["as", "A is seen by ann", "--id", "a"]);
    home.object(&["as", "B is broken by ann", "--id", "b"]);
    home.object(&["as", "C is new by ann", "--id", "c"]);
    home.run(&["alias", "add", "NY", "New York"]).expect(0);
    let fired = until("both jobs have ended", || {
        let jobs = home.json(&["jobs", "list"]);
        let ended = |job: &&Value| matches!(text(job, "state"), "completed" | "failed");
        (jobs.iter().filter(ended).count() == 2).then_some(jobs)
    });
    assert_eq!(fired.len(), 2);
    server.stop();
    age(&home);

    // Young claims stay, whatever else goes.
    home.object(&["as", "D is new by ann", "--id", "d"]);
    let asked = home.object(&["retain", "--older-than", "90d", "--dry-run"]);
    assert_eq!((number(&asked, "claims"), number(&asked, "jobs")), (2, 1), "{asked}");
    assert_eq!(asked["dry_run"], true);
    assert_eq!(home.json(&["ax", "by ann"]).len(), 4, "nothing is gone yet");

    let server = home.serve();
    server.until_ready(&["zoo", "sad"]);
    home.run(&["retain", "--older-than", "90d"]).expect(2).says(&["--yes", "--dry-run"]);
    let gone = home.object(&["retain", "--older-than", "90d", "--yes"]);
    assert_eq!((number(&gone, "claims"), number(&gone, "jobs")), (2, 1), "{gone}");
    let again = home.object(&["retain", "--older-than", "90d", "--yes"]);
    assert_eq!((number(&again, "claims"), number(&again, "jobs")), (0, 0), "{again}");

    // The claim of the dead letter stays, and so does the change of aliases.
    let left = home.json(&["ax", "by ann"]);
    assert_eq!(seqs(&left), [5, 2]);
    let jobs = home.json(&["jobs", "list"]);
    assert_eq!(jobs.len(), 1);
    assert_eq!(text(&jobs[0], "state"), "failed");
    assert_eq!(home.json(&["alias", "list"]).len(), 1);

    // What went is known.
    let repeated = home.object(&["as", "A is seen by ann", "--id", "a"]);
    assert_eq!(repeated, json!({ "id": "a", "seq": 1, "fires": 0 }));
    home.run(&["as", "A is other by ann", "--id", "a"]).expect(1).says(&["seq 1", "differs"]);
    let new = home.object(&["as", "E is new by ann", "--id", "e"]);
    assert_eq!(number(&new, "seq"), 6);
    let records = home.json(&["audit", "show", "--type", "retained"]);
    assert_eq!(records.len(), 2, "one for the jobs and one for the claims: {records:?}");
    let sum = |key: &str| records.iter().map(|record| number(record, key)).sum::<u64>();
    assert_eq!((sum("claims"), sum("jobs")), (2, 1));
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    server.stop();
    assert_eq!(home.object(&["doctor"])["ok"], true);
}

#[test]
fn without_a_server_it_is_done_and_audited_all_the_same() {
    let home = Home::new("retention-offline");
    configure(&home);
    for id in ["a", "b", "c"] {
        home.object(&["as", &format!("{id} is new by ann"), "--id", id]);
    }
    age(&home);
    home.object(&["as", "d is new by ann", "--id", "d"]);
    // Nothing has been matched yet, so nothing is behind every position.
    let asked = home.object(&["retain", "--older-than", "90d", "--dry-run"]);
    assert_eq!(number(&asked, "claims"), 0, "{asked}");
    match_all(&home, 3);

    let gone = home.object(&["retain", "--older-than", "90d", "--yes"]);
    assert_eq!((number(&gone, "claims"), number(&gone, "jobs")), (3, 0), "{gone}");
    assert_eq!(seqs(&home.json(&["ax", "by ann"])), [4]);
    let repeated = home.object(&["as", "b is new by ann", "--id", "b"]);
    assert_eq!(number(&repeated, "seq"), 2);
    assert_eq!(home.json(&["audit", "show", "--type", "retained"]).len(), 1);
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    assert_eq!(home.object(&["doctor"])["ok"], true);
}

#[test]
fn a_server_that_is_told_to_takes_away_what_has_become_old() {
    let home = Home::new("retention-configured");
    home.configure("[plugin]\nenabled = []\n");
    for id in ["a", "b"] {
        home.object(&["as", &format!("{id} is new by ann"), "--id", id]);
    }
    age(&home);
    match_all(&home, 1);
    home.configure("[plugin]\nenabled = []\n[retention]\nolder_than = \"90d\"\n");
    let server = home.serve();
    let record =
        until("retention has been", || home.json(&["audit", "show", "--type", "retained"]).pop());
    // The last claim of the log stays.
    assert_eq!(number(&record, "claims"), 1);
    assert_eq!(seqs(&home.json(&["ax", "by ann"])), [2]);
    server.stop();

    home.configure("[retention]\nolder_than = \"90 apples\"\n");
    home.run(&["ax", "by ann"]).expect(2).says(&["am.toml:2", "90 apples", "15m"]);
    home.configure("[retention]\nolder = \"90d\"\n");
    home.run(&["ax", "by ann"]).expect(2).says(&["older_than"]);
}

#[test]
fn a_request_for_a_time_that_has_not_come_is_refused() {
    let home = Home::new("retention-http");
    home.configure("[plugin]\nenabled = []\n");
    let server = home.serve();
    let body = r#"{"before":"2999-01-01T00:00:00Z"}"#;
    let (status, told) = server.request("POST", "/api/v1/retain", body).expect("an answer");
    assert_eq!(status, 400, "{told}");
    assert!(told.contains("has not come yet"), "{told}");
    let body = r#"{"before":"2001-01-01T00:00:00Z","dry_run":true}"#;
    let (status, told) = server.request("POST", "/api/v1/retain", body).expect("an answer");
    assert_eq!(status, 200, "{told}");
    assert!(told.contains("\"claims\":0"), "{told}");
    server.stop();
}
