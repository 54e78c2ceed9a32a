//! Dead letters: found by what they have in common, tried again under their ids, or let go; whatever
//! happens in the middle of it.

use std::collections::BTreeSet;

use crate::support::{Home, Server, Terminal, Zoo, keys, ledger, number, text, until};
use serde_json::{Value, json};

fn claims(ids: std::ops::Range<u32>, predicate: &str) -> String {
    let line = |n| json!({ "id": format!("{predicate}-{n}"), "subjects": ["X"], "predicates": [predicate] });
    ids.map(|n| format!("{}\n", line(n))).collect()
}

/// A server with two plugins. Of one watcher every job fails for good; of the other each fails at its
/// first attempt, after which it is given up, and not at its second.
fn serve(home: &Home) -> Server {
    home.configure_zoo(&[
        Zoo::new("sad", "permanent").handlers(&["sad"]),
        Zoo::new("flaky", "fail-n-times-then-succeed").own("n", 1),
    ]);
    let server = home.serve();
    server.until_ready(&["sad", "flaky"]);
    home.object(&["watch", "create", "never", "--when", "is a", "--run", "sad"]);
    let later = ["watch", "create", "later", "--when", "is a", "--run", "work"];
    let made = home.object(&[&later[..], &["--max-attempts", "1", "--max-age", "2h"]].concat());
    assert_eq!((&made["max_attempts"], &made["max_age_ms"]), (&json!(1), &json!(7_200_000)));
    server
}

/// The dead letters that these arguments mean, and their summary.
fn dead(home: &Home, args: &[&str]) -> (Vec<Value>, Value) {
    let mut lines = home.json(&[&["jobs", "dead"], args].concat());
    let last = lines.pop().expect("the summary is always there");
    (lines, last["summary"].clone())
}

fn ids(jobs: &[Value]) -> BTreeSet<String> {
    jobs.iter().map(|job| text(job, "job_id").to_owned()).collect()
}

fn fires(home: &Home, watcher: &str) -> Vec<Value> {
    home.json(&["fires", "--watcher", watcher, "--all"])
}

#[test]
fn they_are_found_by_what_they_have_in_common() {
    let home = Home::new("dead-found");
    let server = serve(&home);
    home.pipe(&claims(0..6, "a")).expect(0);
    server.until_settled();
    let (jobs, summary) = dead(&home, &[]);
    assert_eq!((jobs.len(), number(&summary, "jobs")), (12, 12));
    assert_eq!(keys(&summary), ["at", "groups", "jobs", "more_groups", "more_jobs"]);
    let groups = summary["groups"].as_array().unwrap();
    let group =
        ["error", "example", "fingerprint", "handler", "jobs", "newest_at", "oldest_at", "watcher"];
    assert!(groups.iter().all(|one| keys(one) == group && one["jobs"] == 6), "{groups:?}");
    let found: BTreeSet<_> = groups.iter().map(|one| text(one, "fingerprint")).collect();
    assert!(found.contains("never (<n>)"), "{found:?}");
    let one = jobs.iter().find(|job| job["handler"] == "sad").unwrap();
    assert_eq!((text(one, "fingerprint"), text(one, "error")), ("never (<n>)", "never (1)"));
    let sad = text(one, "job_id");
    assert_eq!(home.object(&["jobs", "show", sad])["fingerprint"], "never (<n>)");
    home.run_plain(&["jobs", "show", sad]).expect(0).says(&["fingerprint", "never (<n>)"]);

    let check = |served: &str| {
        // (filter, how many)
        let cases: [(&[&str], usize); 12] = [
            (&["--watcher", "never"], 6),
            (&["--watcher", "user-later"], 6),
            (&["--handler", "sad"], 6),
            (&["--handler", "flaky/work"], 6),
            (&["--handler", "sad/work"], 0),
            (&["--error", "NEVER"], 6),
            (&["--error", "nothing of it"], 0),
            (&["--like", sad], 6),
            (&["--like", sad, "--watcher", "later"], 0),
            (&["--older-than", "1h"], 0),
            (&["--newer-than", "1h"], 12),
            (&["--newer-than", "2024-01-15", "--handler", "work"], 6),
        ];
        for (args, expected) in cases {
            let (jobs, summary) = dead(&home, args);
            assert_eq!(jobs.len(), expected, "{served} {args:?}");
            assert_eq!(number(&summary, "jobs"), expected as u64, "{served} {args:?}");
        }
        let (all, summary) = dead(&home, &["--limit", "5"]);
        assert_eq!((&all[..], number(&summary, "jobs")), (&jobs[..5], 12), "{served}");
        home.run_plain(&["jobs", "dead"]).expect(0).says(&[
            "12 dead letters",
            "never (<n>)",
            "user-later",
            "jobs retry --like",
        ]);
        home.run_plain(&["jobs", "dead", "--error", "no such"]).expect(0).says(&["no such dead"]);
        home.run(&["jobs", "dead", "--watcher", "nevre"]).expect(1).says(&["did you mean"]);
        home.run(&["jobs", "dead", "--like", "00000000"]).expect(1).says(&["no job begins with"]);
    };
    check("with a server:");
    let listed = server.get("/api/v1/jobs/dead?handler=sad&limit=2");
    assert_eq!((listed.len(), &listed[2]["summary"]["jobs"]), (3, &json!(6)));
    server.stop();
    check("without one:");
    home.run(&["jobs", "retry", "--all", "--yes"]).expect(1).says(&["axwatch serve"]);
}

#[test]
fn they_are_tried_again_under_their_ids() {
    let home = Home::new("dead-retry");
    let server = serve(&home);
    home.pipe(&claims(0..6, "a")).expect(0);
    server.until_settled();
    let (jobs, _) = dead(&home, &["--handler", "work"]);
    let one = text(&jobs[0], "job_id");

    // Nobody agrees where nobody is, and nothing is done.
    let refused = home.run(&["jobs", "retry", "--like", one]).expect(2);
    refused.says(&["--yes", "--dry-run"]);
    let preview = home.object(&["jobs", "retry", "--like", one, "--dry-run"]);
    assert_eq!((number(&preview, "jobs"), preview["groups"].as_array().unwrap().len()), (6, 1));
    home.run_plain(&["jobs", "retry", "--like", one, "--dry-run"])
        .expect(0)
        .says(&["6 jobs would be tried again", "not yet (<n>)"]);
    assert_eq!(dead(&home, &[]).0.len(), 12, "nothing was done");

    let outcome = home.object(&["jobs", "retry", "--like", one, "--yes"]);
    assert_eq!(outcome, json!({ "action": "retry", "done": 6, "skipped": 0, "reasons": [] }));
    server.until_settled();
    let done = fires(&home, "later");
    assert!(done.iter().all(|fire| fire["state"] == "completed" && fire["attempts"] == 2));
    assert_eq!(ids(&done), ids(&jobs), "each under its id");
    assert_eq!(dead(&home, &[]).0.len(), 6, "the others are as they were");

    // All that are left, and as they die again they are found again.
    home.run_plain(&["jobs", "retry", "--all", "--yes"]).expect(0).says(&["6 jobs tried again"]);
    server.until_settled();
    assert_eq!(dead(&home, &["--error", "never (2)"]).0.len(), 6);
    let none = home.object(&["jobs", "retry", "--watcher", "later", "--yes"]);
    assert_eq!((number(&none, "done"), number(&none, "skipped")), (0, 0));
    home.run_plain(&["jobs", "retry", "--watcher", "later", "--dry-run"])
        .expect(0)
        .says(&["nothing to do"]);

    // Named ones need no consent; one that is done already is left, and that is told.
    let sad: Vec<_> = ids(&dead(&home, &[]).0).into_iter().collect();
    let refused = home.run(&["jobs", "retry", &sad[0], &sad[1], one]).expect(1);
    let outcome = refused.object();
    assert_eq!((number(&outcome, "done"), number(&outcome, "skipped")), (2, 1));
    assert_eq!(keys(&outcome["reasons"][0]), ["example", "jobs", "message", "reason"]);
    assert!(text(&outcome["reasons"][0], "message").contains("completed"), "{outcome}");
    assert_eq!(text(&outcome["reasons"][0], "example"), one);
    server.until_settled();
    let preview = home.object(&["jobs", "retry", &sad[0], &sad[0][..8], "--dry-run"]);
    assert_eq!(preview["jobs"], 1, "the same job is one job");
    home.run(&["jobs", "retry", one]).expect(1).says(&["is completed"]);
}

#[test]
fn they_are_let_go_and_can_still_be_tried() {
    let home = Home::new("dead-discard");
    let server = serve(&home);
    home.pipe(&claims(0..4, "a")).expect(0);
    server.until_settled();
    let outcome = home.object(&["jobs", "discard", "--error", "never", "--yes"]);
    assert_eq!(outcome, json!({ "action": "discard", "done": 4, "skipped": 0, "reasons": [] }));
    let gone = fires(&home, "never");
    for fire in &gone {
        assert_eq!(fire["state"], "cancelled");
        assert!(text(fire, "error").starts_with("discarded: never (1)"), "{fire}");
    }
    assert_eq!(dead(&home, &[]).0.len(), 4, "the others are as they were");
    let records = home.json(&["audit", "show", "--type", "job_discarded", "--all"]);
    assert_eq!(records.len(), 4);
    // One by its id, and it dies once more; one of those that are not let go yet.
    let id = text(&gone[0], "job_id");
    assert_eq!(home.object(&["jobs", "retry", id])["job_id"], id);
    server.until_settled();
    assert_eq!(home.object(&["jobs", "show", id])["state"], "failed");
    assert_eq!(home.object(&["jobs", "discard", id])["state"], "cancelled");
    let (left, _) = dead(&home, &[]);
    let done =
        home.object(&["jobs", "discard", text(&left[0], "job_id"), text(&left[1], "job_id")]);
    assert_eq!((&done["action"], &done["done"]), (&json!("discard"), &json!(2)));
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn what_is_meant_has_to_be_said() {
    let home = Home::new("dead-said");
    let server = serve(&home);
    for verb in ["retry", "discard"] {
        home.run(&["jobs", verb]).expect(2).says(&["which", "--all", "for example"]);
        home.run(&["jobs", verb, "--all", "--watcher", "w"]).expect(2);
        home.run(&["jobs", verb, "3ea27c", "--watcher", "w"]).expect(2);
        home.run(&["jobs", verb, "--all", "--yes", "--dry-run"]).expect(2);
        home.run(&["jobs", verb, "--older-than", "long", "--yes"]).expect(2).says(&["1h"]);
        home.run(&["jobs", verb, "--newer-than", "tomorrow", "--yes"])
            .expect(2)
            .says(&["--newer-than", "has not come yet"]);
        home.run(&["jobs", verb, "--watcher", "nobody", "--yes"]).expect(1).says(&["nobody"]);
        home.run(&["jobs", verb, "--error", "", "--yes"]).expect(1).says(&["error is empty"]);
        home.run(&["jobs", verb, "nohex"]).expect(2).says(&["hex digits"]);
    }
    let post = |path: &str, body: &str| {
        let (status, answer) = server.request("POST", path, body).expect("an answer");
        (status, answer)
    };
    // (body, status, what is said)
    let cases = [
        ("{}", 400, "say all"),
        (r#"{"jobs":["3ea27c"],"watcher":"w"}"#, 400, "leave one out"),
        (r#"{"jobs":["3ea27c"]}"#, 404, "no job begins with"),
        (r#"{"watchers":"w"}"#, 400, "unknown field"),
        (r#"{"older_than":"soon"}"#, 400, "older_than"),
        (r#"{"all":true,"dry_run":true}"#, 200, r#"{"preview":{"jobs":0"#),
        (r#"{"all":true}"#, 200, r#"{"outcome":{"#),
    ];
    for (body, status, said) in cases {
        for path in ["/api/v1/jobs/retry", "/api/v1/jobs/discard"] {
            let (found, answer) = post(path, body);
            assert!(found == status && answer.contains(said), "{path} {body}: {found} {answer}");
        }
    }
    // A job whose id begins with this word is one, and the list another.
    home.run(&["jobs", "show", "dead"]).expect(1).says(&["no job begins with dead"]);
}

#[test]
fn a_person_is_shown_how_many_and_asked() {
    let home = Home::new("dead-asked");
    let server = serve(&home);
    home.pipe(&claims(0..3, "a")).expect(0);
    server.until_settled();
    let mut terminal = Terminal::start(&home, "jobs retry --handler work", &[]);
    terminal.until_shown("3 jobs would be tried again");
    terminal.until_shown("[y/N]");
    terminal.types("n\n");
    terminal.until_shown("nothing was changed");
    assert_eq!(terminal.end(), Some(1));
    assert_eq!(dead(&home, &[]).0.len(), 6);
    let mut terminal = Terminal::start(&home, "jobs retry --handler work", &[]);
    terminal.until_shown("[y/N]");
    terminal.types("y\n");
    terminal.until_shown("3 jobs tried again");
    assert_eq!(terminal.end(), Some(0));
    server.until_settled();
    assert_eq!(dead(&home, &[]).0.len(), 3);
}

/// A kill in the middle leaves each job tried again or not, and the same again does the rest.
#[test]
fn a_kill_in_the_middle_of_many_loses_none() {
    const JOBS: usize = 1_500;
    let home = Home::new("dead-kill");
    let server = serve(&home);
    home.object(&["watch", "rm", "later"]);
    home.pipe(&claims(0..1_500, "a")).expect(0);
    server.until_settled();
    let (before, _) = dead(&home, &["--all"]);
    let delivered = || ledger::read(&Zoo::ledger_of(&home, "sad")).len();
    assert_eq!((before.len(), delivered()), (JOBS, JOBS));
    let retrying = home.start(&["jobs", "retry", "--all", "--yes"]);
    until("some are tried again", || (delivered() > JOBS + 20).then_some(()));
    server.kill();
    drop(retrying);

    let server = home.serve();
    server.until_ready(&["sad"]);
    server.until_settled();
    let tried = |fires: &[Value]| fires.iter().filter(|fire| number(fire, "attempts") > 1).count();
    let after_kill = tried(&fires(&home, "never"));
    assert!((20..=JOBS).contains(&after_kill), "{after_kill} were tried again before the kill");
    let outcome = home.object(&["jobs", "retry", "--all", "--yes"]);
    assert_eq!((number(&outcome, "done"), number(&outcome, "skipped")), (JOBS as u64, 0));
    server.until_settled();
    let fires = fires(&home, "never");
    assert_eq!(ids(&fires), ids(&before), "each under its id, and none twice");
    assert_eq!(tried(&fires), JOBS);
    assert!(fires.iter().all(|fire| fire["state"] == "failed"), "they die again");
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

/// Dead letters of which there are many are gone through in bounded memory.
#[test]
fn a_hundred_thousand_take_no_more_memory_than_a_few() {
    const JOBS: u64 = 100_000;
    let home = Home::new("dead-many");
    let server = serve(&home);
    home.object(&["watch", "rm", "later"]);
    home.pipe(&claims(0..1, "a")).expect(0);
    server.until_settled();
    server.stop();
    // As many as one, with ids of their own, and one error in ten thousand kinds.
    let database = home.database();
    let copied = "watcher, revision, generation, seq, handler, plugin, payload, state, attempts, counted, \
        uncounted, created_at, first_counted_at, started_at, completed_at, due_at, delay_ms";
    let rows = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {JOBS} - 1)
         INSERT INTO jobs (number, id, origin, {copied}, error, leaves)
         SELECT (SELECT max(number) FROM jobs) + i, randomblob(16), origin, {copied},
             'kind ' || char(97 + i % 10, 97 + i / 10 % 10, 97 + i / 100 % 10, 97 + i / 1000 % 10), leaves
         FROM n, (SELECT * FROM jobs WHERE state = 4)"
    );
    database.execute(&rows, []).expect("rows can be copied");
    drop(database);

    let server = home.serve();
    server.until_ready(&["sad"]);
    let before_kib = server.peak_memory_kib();
    let preview = home.object(&["jobs", "discard", "--all", "--dry-run"]);
    assert_eq!(number(&preview, "jobs"), JOBS);
    assert_eq!(preview["groups"].as_array().unwrap().len(), 50);
    let listed: u64 =
        preview["groups"].as_array().unwrap().iter().map(|group| number(group, "jobs")).sum();
    assert_eq!(listed + number(&preview, "more_jobs"), JOBS);
    // Some are let go; the others wait for their turn, which does not come.
    let outcome = home.object(&["jobs", "discard", "--error", "kind a", "--yes"]);
    let gone = number(&outcome, "done");
    assert!((JOBS / 11..JOBS / 9).contains(&gone), "{outcome}");
    home.object(&["watch", "pause", "never"]);
    let outcome = home.object(&["jobs", "retry", "--all", "--yes"]);
    assert_eq!((number(&outcome, "done"), number(&outcome, "skipped")), (JOBS - gone, 0));
    let used_kib = server.peak_memory_kib() - before_kib;
    assert!(used_kib < 64 * 1024, "{used_kib} KiB more than before");
    assert_eq!(dead(&home, &[]).1["jobs"], 0);
    let status = home.object(&["status"]);
    let counts = ["paused", "cancelled"].map(|state| number(&status["jobs"], state));
    assert_eq!(counts, [JOBS - gone, gone]);
}
