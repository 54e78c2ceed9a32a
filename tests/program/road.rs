//! The whole road: a claim is appended, a watcher fires, a plugin acts, the audit tells why, and
//! nobody can change what it tells.

use std::fs;

use crate::support::{Follow, Home, Server, Zoo, keys, ledger, number, text};
use serde_json::{Value, json};

/// A server with one good plugin that has registered a watcher on `is_commit`.
fn serve_one(home: &Home) -> Server {
    let watcher = json!({ "id": "commits", "predicates": ["is_commit"] });
    home.configure_zoo(&[Zoo::good("zoo").watcher(watcher)]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    server
}

#[test]
fn a_claim_is_fired_done_and_explained() {
    let home = Home::new("road");
    let server = serve_one(&home);
    let created = home.object(&[
        "watch",
        "create",
        "mine",
        "--when",
        "is IS_COMMIT by ann",
        "--run",
        "work",
        "--max-fires-per-second",
        "1000",
    ]);
    assert_eq!((text(&created, "id"), text(&created, "state")), ("user-mine", "live"));
    let follow = Follow::start(&home);
    let appended = home.object(&[
        "as",
        "abc123 is is_commit of repo by ann",
        "--id",
        "c-1",
        "--attr",
        "lines=3",
    ]);
    assert_eq!(appended, json!({ "id": "c-1", "seq": 1, "fires": 2 }));
    // A repeat is no second claim, and causes nothing.
    let again = home.object(&[
        "as",
        "abc123 is is_commit of repo by ann",
        "--id",
        "c-1",
        "--attr",
        "lines=3",
    ]);
    assert_eq!((number(&again, "seq"), number(&again, "fires")), (1, 0));
    let told = follow.until(|fire| fire["watcher"] == "user-mine" && fire["state"] == "completed");
    server.until_settled();

    let fires = home.json(&["fires"]);
    assert_eq!(fires.len(), 2, "{fires:?}");
    let mine = fires.iter().find(|fire| fire["watcher"] == "user-mine").expect("it fired");
    assert_eq!(mine["job_id"], told["job_id"]);
    assert_eq!((text(mine, "attestation_id"), number(mine, "seq")), ("c-1", 1));
    assert_eq!((text(mine, "handler"), number(mine, "attempts")), ("work", 1));
    let deliveries = ledger::read(&Zoo::ledger_of(&home, "zoo"));
    let delivered = deliveries.iter().find(|d| d.watcher == "user-mine").expect("it was delivered");
    assert_eq!(delivered.job_id, text(mine, "job_id"));
    assert_eq!((delivered.attempt, delivered.payload_id.as_str()), (1, "c-1"));

    let why = home.object(&["why", text(mine, "job_id")]);
    assert_eq!(why["job"]["job_id"], mine["job_id"]);
    assert_eq!(why["attestation"]["id"], "c-1");
    assert_eq!(why["attestation"]["attributes"], json!({ "lines": 3 }));
    assert_eq!(why["watcher"]["id"], "user-mine");
    assert_eq!(why["watcher"]["revision"], 1);
    assert_eq!(why["watcher"]["when"], "is IS_COMMIT by ann");
    let attempts = why["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 1, "{why}");
    assert_eq!(
        (&attempts[0]["outcome"], &attempts[0]["plugin"]),
        (&json!("succeeded"), &json!("zoo"))
    );
    assert_eq!(why["made"], json!([]));

    let watchers = home.json(&["watch", "list"]);
    for watcher in &watchers {
        let counts =
            [number(watcher, "matches"), number(watcher, "fires"), number(watcher, "errors")];
        assert_eq!(counts, [1, 1, 0], "{watcher}");
    }
    // The same answers without a server.
    server.stop();
    assert_eq!(home.object(&["why", text(mine, "job_id")])["attempts"], why["attempts"]);
    assert_eq!(home.json(&["fires"]), fires);
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn what_a_job_made_is_told_with_its_cause() {
    let home = Home::new("made");
    home.configure_zoo(&[
        Zoo::new("named", "attests-in-execute")
            .watcher(json!({ "id": "asked", "predicates": ["asked"] })),
        Zoo::new("unnamed", "attests-unnamed-in-execute")
            .watcher(json!({ "id": "wondered", "predicates": ["wondered"] })),
        Zoo::new("early", "attests-during-initialize"),
        Zoo::new("liar", "wrong-token-in-execute")
            .watcher(json!({ "id": "forge", "predicates": ["forge"] })),
    ]);
    let server = home.serve();
    server.until_ready(&["named", "unnamed", "early", "liar"]);
    home.object(&["as", "X is asked"]);
    home.object(&["as", "X is wondered"]);
    home.object(&["as", "X is forge"]);
    server.until_settled();
    let why = |watcher: &str| {
        let fire = home.json(&["fires", "--watcher", watcher]).remove(0);
        home.object(&["why", text(&fire, "job_id")])
    };

    // The first attempt failed after it had made both claims; the second made the same two again.
    let named = why("named-asked");
    let outcomes: Vec<_> =
        named["attempts"].as_array().unwrap().iter().map(|a| text(a, "outcome")).collect();
    assert_eq!(outcomes, ["failed", "succeeded"]);
    let made: Vec<_> = named["made"].as_array().unwrap().iter().map(|m| text(m, "id")).collect();
    assert_eq!(made.len(), 2, "{named}");
    assert_ne!(made[0], made[1]);
    assert_eq!(text(&named["job"], "result"), made.join(" "));

    let unnamed = why("unnamed-wondered");
    let made = unnamed["made"].as_array().unwrap();
    assert_eq!(made.len(), 1, "the plugin had one job in flight: {unnamed}");
    assert_eq!(made[0]["predicates"], json!(["made_unnamed"]));

    let early = home.json(&["ax", "is was_initialised"]);
    assert_eq!(early.len(), 1);
    assert_eq!(early[0]["source"], "early");

    let liar = why("liar-forge");
    assert!(text(&liar["job"], "result").starts_with("unauthenticated:"), "{liar}");
    assert!(home.json(&["ax", "is forged"]).is_empty());
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn a_registration_means_what_it_says() {
    let home = Home::new("filters");
    let watchers = [
        json!({ "id": "exact", "predicates": ["handler"] }),
        json!({ "id": "either", "subjects": ["A", "B"] }),
        json!({ "id": "both", "subjects": ["A"], "contexts": ["deep"] }),
        json!({ "id": "text", "ax": "is handler by not ROBOT" }),
    ];
    let zoo = watchers.iter().cloned().fold(Zoo::good("zoo"), Zoo::watcher);
    home.configure_zoo(&[zoo]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let cases: [(&str, &[&str]); 7] = [
        ("A is handler by ann", &["exact", "either", "text"]),
        ("C is 'handler:faulted' by ann", &[]),
        ("C is Handler by ann", &["text"]),
        ("C is handler by Robot", &["exact"]),
        ("B is x of deep by ann", &["either"]),
        ("A C is x of deep by ann", &["either", "both"]),
        ("a is x of deep by ann", &[]),
    ];
    for (claim, expected) in cases {
        let appended = home.object(&["as", claim]);
        let fired = home.json(&["fires", "--all"]);
        let mut fired: Vec<_> = fired
            .iter()
            .filter(|fire| fire["attestation_id"] == appended["id"])
            .map(|fire| text(fire, "watcher").trim_start_matches("zoo-"))
            .collect();
        fired.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(fired, expected, "{claim}");
        assert_eq!(number(&appended, "fires"), expected.len() as u64, "{claim}");
    }
}

#[test]
fn watchers_are_created_changed_paused_and_removed() {
    let home = Home::new("watch");
    let server = serve_one(&home);
    let create = ["watch", "create", "w", "--when", "is seen", "--run", "work"];
    assert_eq!(number(&home.object(&create), "revision"), 1);
    assert_eq!(number(&home.object(&create), "revision"), 1, "the same again changes nothing");
    let changed = home.object(&[
        "watch",
        "create",
        "w",
        "--when",
        "is seen so zoo/work",
        "--max-fires-per-second",
        "7",
    ]);
    assert_eq!((number(&changed, "revision"), number(&changed, "max_fires_per_second")), (2, 7));
    assert_eq!(changed["handlers"], json!(["zoo/work"]));

    assert_eq!(text(&home.object(&["watch", "pause", "w"]), "state"), "paused");
    home.object(&["as", "X is seen", "--id", "while-paused"]);
    let waiting = home.json(&["fires", "--watcher", "user-w"]);
    assert_eq!((waiting.len(), text(&waiting[0], "state")), (1, "paused"));
    assert_eq!(number(&waiting[0], "attempts"), 0);
    assert_eq!(text(&home.object(&["watch", "resume", "w"]), "state"), "live");
    let done = server.until_job(text(&waiting[0], "job_id"), &["completed"]);
    assert_eq!(number(&done, "revision"), 2);

    home.object(&["watch", "pause", "w"]);
    home.object(&["as", "X is seen", "--id", "never-run"]);
    assert_eq!(text(&home.object(&["watch", "rm", "w"]), "state"), "retired");
    let last = home.json(&["fires", "--watcher", "user-w"]).remove(0);
    assert_eq!((text(&last, "attestation_id"), text(&last, "state")), ("never-run", "cancelled"));
    let shown = |all: &[&str]| {
        let listed = home.json(&[&["watch", "list"], all].concat());
        listed.iter().any(|watcher| watcher["id"] == "user-w")
    };
    assert!(!shown(&[]));
    assert!(shown(&["--all"]));
    // What is declared again after that begins at the head, under new job ids.
    let before = home.json(&["fires", "--all"]).len();
    home.object(&create);
    home.object(&["as", "X is seen", "--id", "after"]);
    assert_eq!(home.json(&["fires", "--all"]).len(), before + 1);

    // A handler that nobody has is waited for.
    let waits =
        home.object(&["watch", "create", "later", "--when", "is seen", "--run", "nobody.has"]);
    assert_eq!(text(&waits, "state"), "waiting_for_handler");
    assert!(text(&waits, "error").contains("nobody.has"));
    let kinds = [
        "watcher_registered",
        "watcher_changed",
        "watcher_paused",
        "watcher_resumed",
        "watcher_retired",
    ];
    for kind in kinds {
        assert!(!home.json(&["audit", "show", "--type", kind, "--all"]).is_empty(), "no {kind}");
    }
}

#[test]
fn a_job_without_a_watcher_is_run_and_waited_for() {
    let home = Home::new("run");
    home.configure_zoo(&[Zoo::good("zoo"), Zoo::new("never", "permanent").handlers(&["doomed"])]);
    let server = home.serve();
    server.until_ready(&["zoo", "never"]);
    let job = home.object(&["jobs", "run", "work", "--payload", r#"{"id":"p-1"}"#, "--wait"]);
    assert_eq!((text(&job, "state"), text(&job, "result")), ("completed", "done"));
    assert_eq!((text(&job, "origin"), &job["watcher"]), ("api", &Value::Null));
    assert_eq!(ledger::read(&Zoo::ledger_of(&home, "zoo"))[0].payload_id, "p-1");
    fs::write(home.path("payload"), [0xff, 0, 1]).unwrap();
    let from_file =
        home.run(&["jobs", "run", "zoo/work", "--payload", "@payload", "--wait"]).expect(0);
    assert_eq!(text(&from_file.object(), "state"), "completed");
    let failed = home.run(&["jobs", "run", "doomed", "--payload", "{}", "--wait"]).expect(1);
    assert_eq!(text(&failed.object(), "state"), "failed");
    assert_eq!(home.object(&["jobs", "show", text(&job, "job_id")])["job_id"], job["job_id"]);
    assert_eq!(home.json(&["jobs", "list"]).len(), 3);
    assert!(home.json(&["fires"]).is_empty(), "these are no fires");
}

/// A store with some fires in its audit, whose server has stopped.
fn store_with_an_audit(home: &Home) {
    let server = serve_one(home);
    let lines: String = (0..40)
        .map(|n| {
            format!("{{\"id\":\"t-{n}\",\"subjects\":[\"s{n}\"],\"predicates\":[\"is_commit\"]}}\n")
        })
        .collect();
    home.pipe(&lines).expect(0);
    server.until_settled();
    server.stop();
}

#[test]
fn any_change_of_the_audit_is_found() {
    let home = Home::new("tamper");
    store_with_an_audit(&home);
    let whole = home.object(&["audit", "verify"]);
    assert_eq!((&whole["ok"], &whole["problem"]), (&json!(true), &Value::Null));
    let head = home.object(&["audit", "head"]);
    assert_eq!((&head["head"], &head["records"]), (&whole["head"], &whole["records"]));
    let original = fs::read(home.store()).unwrap();
    let saved = text(&head, "head").to_owned();

    // Each statement changes what is there; those at the end are only found with a saved head.
    let middle = "(SELECT first_leaf FROM audit ORDER BY first_leaf LIMIT 1 OFFSET 3)";
    let last = "(SELECT max(first_leaf) FROM audit)";
    let several = "(SELECT first_leaf FROM audit WHERE count > 2 LIMIT 1)";
    let cases = [
        ("a word of a record", format!("UPDATE audit SET records = replace(records, 'zoo', 'z00') WHERE first_leaf = {middle}")),
        ("an id in the first row", "UPDATE audit SET records = replace(records, '\"epoch\":1', '\"epoch\":2') WHERE first_leaf = 0".to_owned()),
        ("a blank in a record", format!("UPDATE audit SET records = records || ' ' WHERE first_leaf = {middle}")),
        ("a row removed", format!("DELETE FROM audit WHERE first_leaf = {middle}")),
        ("the first row removed", "DELETE FROM audit WHERE first_leaf = 0".to_owned()),
        ("the head of a row", format!("UPDATE audit SET head = zeroblob(32) WHERE first_leaf = {middle}")),
        ("a node of a row", format!("UPDATE audit SET nodes = zeroblob(length(nodes)) WHERE first_leaf = {middle}")),
        ("a count", format!("UPDATE audit SET count = count + 1 WHERE first_leaf = {middle}")),
        ("two rows exchanged", exchange_rows()),
        ("records of a row turned around", format!(
            "UPDATE audit SET records = (SELECT group_concat(value, char(10)) FROM (SELECT value FROM \
             json_each('[' || replace(records, char(10), ',') || ']') ORDER BY key DESC)) \
             WHERE first_leaf = {several}"
        )),
        ("the last row's record", format!("UPDATE audit SET records = replace(records, 'stopped', 'crashed') WHERE first_leaf = {last}")),
    ];
    for (what, sql) in &cases {
        fs::write(home.store(), &original).unwrap();
        check_tampering(&home, what, sql, &[]);
    }
    fs::write(home.store(), &original).unwrap();
    let cut = format!("DELETE FROM audit WHERE first_leaf = {last}");
    check_tampering(&home, "the last row removed", &cut, &["--head", &saved]);
    // And an untouched one still stands, also against its saved head.
    fs::write(home.store(), &original).unwrap();
    assert_eq!(home.object(&["audit", "verify", "--head", &saved])["ok"], true);
    // A head of another log is not that of this one.
    let other = saved.replace(&saved[saved.len() - 4..], "0000");
    let ran = home.run(&["audit", "verify", "--head", &other]).expect(1);
    assert_eq!(ran.object()["ok"], false);
}

fn exchange_rows() -> String {
    // The shortest, which are most alike; how many records a commit has is a matter of how busy the
    // machine is.
    "CREATE TEMP TABLE two AS SELECT first_leaf, records FROM audit WHERE first_leaf > 0 \
     ORDER BY count, first_leaf DESC LIMIT 2;
     UPDATE audit SET records = (SELECT records FROM two WHERE two.first_leaf <> audit.first_leaf) \
     WHERE first_leaf IN (SELECT first_leaf FROM two);"
        .to_owned()
}

/// Changes the store as the statement says, and holds that `verify` says so.
#[track_caller]
fn check_tampering(home: &Home, what: &str, sql: &str, args: &[&str]) {
    let database = home.database();
    let before = digest_of_audit(&database);
    database.execute_batch(sql).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(digest_of_audit(&database) != before, "{what}: nothing was changed");
    drop(database);
    let ran = home.run(&[&["audit", "verify"], args].concat());
    assert_eq!(ran.code, 1, "{what}: {ran:?}");
    let verdict = ran.object();
    assert_eq!(verdict["ok"], false, "{what}");
    assert!(!text(&verdict, "problem").is_empty(), "{what}");
    assert_eq!(keys(&verdict), ["head", "ok", "problem", "records"], "{what}");
}

fn digest_of_audit(database: &rusqlite::Connection) -> String {
    let sql =
        "SELECT group_concat(first_leaf || count || records || hex(nodes) || hex(head)) FROM audit";
    database.query_row(sql, [], |row| row.get(0)).expect("the audit can be read")
}

#[test]
fn a_proof_is_small_and_needs_no_store() {
    let home = Home::new("proof");
    store_with_an_audit(&home);
    let elsewhere = Home::new("proof-elsewhere");
    for fire in home.json(&["fires", "--limit", "5"]) {
        let job = text(&fire, "job_id");
        let proof = home.path("proof.json");
        home.object(&["audit", "prove", job, "--output", proof.to_str().unwrap()]);
        let bytes = fs::read(&proof).unwrap();
        assert!(bytes.len() < 2_048, "a proof of {} bytes", bytes.len());
        let there = elsewhere.path("theirs.json");
        fs::write(&there, &bytes).unwrap();
        let checked =
            elsewhere.run_bare(&["audit", "check", "theirs.json", "--json"]).expect(0).object();
        assert_eq!(checked["ok"], true);
        assert_eq!(checked["record"]["job"], *job);
        assert_eq!(checked["record"]["outcome"], "succeeded");
        assert!(!elsewhere.store().exists());

        // Every byte counts: change single characters all over it.
        let whole = String::from_utf8(bytes).unwrap();
        for at in (0..whole.trim_end().len()).step_by(37) {
            let mut changed = whole.clone().into_bytes();
            changed[at] = if changed[at] == b'5' { b'6' } else { b'5' };
            // The store id is a label that no hash covers.
            let label = whole.find("store_id").unwrap();
            if changed == whole.as_bytes() || (label..label + 45).contains(&at) {
                continue;
            }
            fs::write(&there, &changed).unwrap();
            let ran = elsewhere.run_bare(&["audit", "check", "theirs.json", "--json"]);
            assert_eq!((ran.code, &ran.object()["ok"]), (1, &json!(false)), "byte {at}: {ran:?}");
        }
    }
    home.run(&["audit", "prove", "00000000000000000000000000000000"]).expect(1).says(&["no job"]);
}
