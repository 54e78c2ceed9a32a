//! The command line as programs depend on it: keys of JSON, bounds of lists, help, exit codes, and
//! that answers come while the input pauses.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use crate::support::{Home, Server, Terminal, Zoo, keys, number, text};
use serde_json::{Value, json};

const ATTESTATION: &[&str] = &[
    "actors",
    "contexts",
    "created_at",
    "id",
    "predicates",
    "seq",
    "source",
    "subjects",
    "timestamp",
];
const WATCHER: &[&str] = &[
    "error",
    "errors",
    "fires",
    "first_seq",
    "generation",
    "handlers",
    "hold",
    "id",
    "last_fired_at",
    "matches",
    "max_age_ms",
    "max_attempts",
    "max_fires_per_second",
    "open_jobs",
    "owner",
    "position",
    "replay",
    "revision",
    "state",
    "when",
];
const FIRE: &[&str] = &[
    "attempts",
    "attestation_id",
    "completed_at",
    "created_at",
    "error",
    "handler",
    "job_id",
    "seq",
    "state",
    "watcher",
];
const JOB: &[&str] = &[
    "ahead",
    "attempts",
    "attestation_id",
    "by",
    "completed_at",
    "cost",
    "cost_estimate",
    "created_at",
    "due_at",
    "entries",
    "error",
    "fingerprint",
    "generation",
    "handler",
    "handler_versions",
    "job_id",
    "log",
    "nominal",
    "origin",
    "owner",
    "parent",
    "plugin",
    "priority",
    "progress",
    "result",
    "revision",
    "schedule",
    "seq",
    "source",
    "started_at",
    "state",
    "tree",
    "waits",
    "watcher",
];
const PLUGIN: &[&str] =
    &["disabled_at", "error", "handlers", "name", "pid", "since", "state", "version"];
const SHOWN_PLUGIN: &[&str] = &[
    "author",
    "description",
    "doubted",
    "health",
    "incarnation",
    "jobs",
    "license",
    "qntx_version",
    "refused",
    "restarts",
    "routes",
    "schedules",
    "up_at",
    "watchers",
];
const WHY: &[&str] = &[
    "attempts",
    "attestation",
    "job",
    "made",
    "made_in_all",
    "reasons",
    "records",
    "waits",
    "watcher",
];
const STATUS: &[&str] = &[
    "attention",
    "breakers",
    "disk",
    "held",
    "jobs",
    "lag",
    "plugins",
    "schedules",
    "server",
    "store",
    "watchers",
];
const ATTEMPT: &[&str] = &[
    "attempt",
    "ended_at",
    "epoch",
    "handler_number",
    "handler_version",
    "incarnation",
    "leaf",
    "next_at",
    "outcome",
    "plugin",
    "reason",
    "started_at",
];

/// A server with one plugin, one watcher of it and one of the user, and a fire of each.
fn serve(home: &Home) -> Server {
    home.configure_zoo(&[Zoo::good("zoo").watcher(json!({ "id": "w", "predicates": ["seen"] }))]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["watch", "create", "mine", "--when", "is seen", "--run", "work"]);
    home.object(&["as", "X is seen of here by ann"]);
    server.until_settled();
    server
}

#[test]
fn the_keys_of_json_are_stable() {
    let home = Home::new("keys");
    let server = serve(&home);
    assert_eq!(keys(&server.greeting), ["http", "pid", "store"]);
    assert_eq!(number(&server.greeting, "pid"), u64::from(server.pid()));
    let job = home.json(&["fires"])[0]["job_id"].as_str().unwrap().to_owned();
    let mut shown = [WATCHER, &["holds", "passes"]].concat();
    shown.sort_unstable();
    let mut declared = [WATCHER, &["backlog", "found_by"]].concat();
    declared.sort_unstable();
    let mut shown_plugin = [PLUGIN, SHOWN_PLUGIN].concat();
    shown_plugin.sort_unstable();
    let mut asked = [JOB, &["deduplicated"]].concat();
    asked.sort_unstable();
    let cases: [(&[&str], &[&str]); 18] = [
        (&["as", "Y is unseen"], &["fires", "id", "seq"]),
        (&["ax", "is seen"], ATTESTATION),
        (&["watch", "list"], WATCHER),
        (&["watch", "show", "mine"], &shown),
        (&["watch", "pause", "mine"], WATCHER),
        (&["watch", "resume", "user-mine"], WATCHER),
        (&["watch", "create", "mine", "--when", "is seen", "--run", "work"], &declared),
        (&["fires"], FIRE),
        (&["jobs", "list"], JOB),
        (&["jobs", "show", &job], JOB),
        (&["jobs", "run", "work", "--payload", "{}", "--wait"], &asked),
        (&["plugin", "list"], PLUGIN),
        (&["plugin", "show", "zoo"], &shown_plugin),
        (&["audit", "head"], &["at", "head", "records", "store_id"]),
        (&["audit", "verify"], &["head", "ok", "problem", "records"]),
        (&["why", &job], WHY),
        (&["status"], STATUS),
        (&["watch", "rm", "mine"], WATCHER),
    ];
    for (args, expected) in cases {
        let objects = home.json(args);
        assert!(!objects.is_empty(), "{args:?}");
        for object in objects {
            assert_eq!(keys(&object), expected, "{args:?}");
        }
    }
    let why = home.object(&["why", &job]);
    assert_eq!(keys(&why["job"]), JOB);
    assert_eq!(keys(&why["attempts"][0]), ATTEMPT);
    assert_eq!(keys(&why["attestation"]), ATTESTATION);
    let revision = [
        "declared_at",
        "generation",
        "handlers",
        "id",
        "leaf",
        "max_fires_per_second",
        "revision",
        "when",
    ];
    assert_eq!(keys(&why["watcher"]), revision);
    for record in home.json(&["audit", "show", "--all"]) {
        assert!(
            record["leaf"].is_u64() && record["at"].is_string() && record["type"].is_string(),
            "{record}"
        );
    }
    let plugin = home.object(&["plugin", "show", "zoo"]);
    assert_eq!((&plugin["state"], &plugin["error"]), (&json!("ready"), &Value::Null));
    // Times are RFC 3339 in UTC.
    let claim = home.json(&["ax", "is seen"]).remove(0);
    assert!(text(&claim, "created_at").ends_with('Z') && text(&claim, "timestamp").contains('T'));
    assert_eq!(keys(&home.run(&["ax", "is"]).expect(1).error()), ["kind", "message", "mistakes"]);
    assert_eq!(keys(&home.run(&["watch", "show", "x"]).expect(1).error()), ["kind", "message"]);
}

#[test]
fn lists_are_newest_first_and_bounded() {
    let home = Home::new("lists");
    let server = serve(&home);
    let lines: String = (0..150)
        .map(|n| format!("{{\"id\":\"n-{n}\",\"subjects\":[\"X\"],\"predicates\":[\"seen\"]}}\n"))
        .collect();
    home.pipe(&lines).expect(0);
    server.until_settled();
    let check = |served: &str| {
        // (command, lines in all, key by which it falls)
        let cases: [(&[&str], usize, &str); 4] = [
            (&["ax", "is seen"], 151, "seq"),
            (&["fires", "--watcher", "zoo-w"], 151, "seq"),
            (&["jobs", "list", "--watcher", "user-mine", "--state", "completed"], 151, "seq"),
            (&["audit", "show", "--type", "matched"], 302, "leaf"),
        ];
        for (args, all, key) in cases {
            let lines = |more: &[&str]| home.json(&[args, more].concat());
            assert_eq!(lines(&[]).len(), 100, "{served} {args:?}: 100 unless said otherwise");
            let whole = lines(&["--all"]);
            assert_eq!(whole.len(), all, "{served} {args:?}");
            assert!(
                whole.windows(2).all(|pair| number(&pair[0], key) > number(&pair[1], key)),
                "{served} {args:?} is not newest first"
            );
            assert_eq!(lines(&["--limit", "3"]), whole[..3], "{served} {args:?}");
            assert_eq!(lines(&["--limit", "120"]), whole[..120], "{served} {args:?}");
            for wrong in [&["--limit", "0"][..], &["--limit", "-1"], &["--limit", "3", "--all"]] {
                assert_eq!(home.run(&[args, wrong].concat()).code, 2, "{args:?} {wrong:?}");
            }
        }
    };
    check("with a server:");
    assert_eq!(home.json(&["watch", "list", "--limit", "1"])[0]["id"], "user-mine");
    home.run(&["fires", "--watcher", "nobody"]).expect(1).says(&["nobody"]);
    home.run(&["fires", "--state", "gone"]).expect(2);
    server.stop();
    check("without one:");
}

#[test]
fn every_command_has_help_with_examples() {
    let home = Home::new("help");
    let single = ["serve", "status", "as", "ax", "fires", "why", "completions", "man"];
    let mut commands: Vec<Vec<&str>> = single.iter().map(|&name| vec![name]).collect();
    let groups = ["watch", "handler", "jobs", "schedule", "budget", "plugin", "audit"];
    commands.extend(groups.map(|group| vec![group]));
    let nested: BTreeMap<&str, &[&str]> = BTreeMap::from([
        (
            "watch",
            &[
                "create", "test", "list", "show", "rm", "pause", "resume", "mute", "unmute",
                "replay",
            ][..],
        ),
        (
            "handler",
            &["create", "list", "show", "versions", "diff", "rollback", "rm", "test", "run"],
        ),
        (
            "jobs",
            &[
                "list", "show", "run", "watch", "cancel", "pause", "resume", "dead", "retry",
                "discard",
            ],
        ),
        (
            "schedule",
            &["create", "list", "show", "pause", "resume", "delete", "run-now", "history", "next"],
        ),
        ("budget", &["set", "show"]),
        (
            "plugin",
            &[
                "list",
                "show",
                "restart",
                "enable",
                "disable",
                "reconfigure",
                "reset",
                "config",
                "logs",
            ],
        ),
        ("audit", &["show", "head", "verify", "prove", "check"]),
    ]);
    for (name, inner) in nested {
        commands.extend(inner.iter().map(|&inner| vec![name, inner]));
    }
    let whole = home.run_bare(&["--help"]).expect(0);
    for command in &commands {
        assert!(whole.out.contains(command[0]), "{command:?} is not in the help");
        let help = home.run_bare(&[&command[..], &["--help"]].concat()).expect(0);
        for words in ["Example", "--store", "--json", "Usage:"] {
            assert!(help.out.contains(words), "{command:?} --help says nothing of {words}");
        }
    }
    home.run_bare(&["--version"]).expect(0).says(&["axwatch"]);
    home.run_bare(&[]).expect(2);
    home.run_bare(&["watch"]).expect(2);
}

#[test]
fn people_get_tables_and_no_colours_in_a_pipe() {
    let home = Home::new("tables");
    let server = serve(&home);
    let job = home.json(&["fires"])[0]["job_id"].as_str().unwrap().to_owned();
    for args in [
        &["ax", "is seen"][..],
        &["watch", "list"],
        &["fires"],
        &["jobs", "list"],
        &["plugin", "list"],
        &["audit", "show"],
        &["why", &job],
        &["jobs", "show", &job],
        &["audit", "verify"],
    ] {
        let ran = home.run_plain(args).expect(0);
        assert!(!ran.out.contains('\x1b'), "{args:?}: colours in a pipe");
        assert!(!ran.out.starts_with('{') && ran.out.lines().count() > 0, "{args:?}: {}", ran.out);
    }
    // Columns stand under their titles.
    let fires = home.run_plain(&["fires"]).expect(0).out;
    let lines: Vec<_> = fires.lines().collect();
    let at = lines[0].find("STATE").expect("a title");
    assert!(lines[1..].iter().all(|line| line[at..].starts_with("completed")), "{fires}");
    drop(server);
}

#[test]
fn answers_come_while_the_input_pauses() {
    for served in [true, false] {
        let home = Home::new("pauses");
        let server = served.then(|| home.serve());
        let mut command = home.command(["as", "-", "--json", "--store"]);
        command.arg(home.store()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
        for n in 1..=3 {
            writeln!(input, "{}", json!({ "id": format!("p-{n}"), "subjects": ["X"] })).unwrap();
            let answer: Value = serde_json::from_str(&answers.next().unwrap().unwrap()).unwrap();
            assert_eq!(
                (text(&answer, "id"), number(&answer, "seq")),
                (format!("p-{n}").as_str(), n)
            );
            assert_eq!(answer["fires"], if served { json!(0) } else { json!("deferred") });
        }
        // The last line needs no end.
        write!(input, "{}", json!({ "id": "p-4", "subjects": ["X"] })).unwrap();
        drop(input);
        assert!(answers.next().unwrap().unwrap().contains("p-4"));
        assert!(answers.next().is_none());
        assert!(child.wait().unwrap().success());
        drop(server);
    }
}

#[test]
fn a_claim_in_words_says_what_it_means() {
    let home = Home::new("words-well");
    // (arguments, subjects, predicates, contexts)
    let cases: [(&[&str], Value); 5] = [
        (&["ALICE", "author", "GitHub"], json!([["ALICE"], ["author"], ["GitHub"]])),
        (
            &["ALICE BOB is author, editor of GitHub"],
            json!([["ALICE", "BOB"], ["author", "editor"], ["GitHub"]]),
        ),
        (&["New York", "is", "city"], json!([["New York"], ["city"], ["_"]])),
        (&["'is' is \"a \\\" b\""], json!([["is"], ["a \" b"], ["_"]])),
        (&["Straße IS Ort VIA ann"], json!([["Straße"], ["Ort"], ["_"]])),
    ];
    for (args, expected) in cases {
        let appended = home.object(&[&["as"], args].concat());
        assert!(text(&appended, "id").starts_with("AS-"), "{appended}");
        let claim =
            home.json(&["ax", "is author editor city 'a \" b' Ort", "--limit", "1"]).remove(0);
        assert_eq!(claim["id"], appended["id"], "{args:?}");
        assert_eq!(
            json!([claim["subjects"], claim["predicates"], claim["contexts"]]),
            expected,
            "{args:?}"
        );
        assert_eq!(claim["source"], "axwatch-cli");
    }
    let attrs = home.object(&[
        "as",
        "X is a by ann on 2024-01-15",
        "--id",
        "full",
        "--source",
        "me",
        "--attr",
        "n=2",
        "--attr",
        "deep.text=hello",
        "--attrs",
        r#"{"big":12345678901234567890}"#,
    ]);
    assert_eq!(attrs["id"], "full");
    let claim = home.json(&["ax", "by ann", "--limit", "1"]).remove(0);
    assert_eq!((text(&claim, "timestamp"), text(&claim, "source")), ("2024-01-15T00:00:00Z", "me"));
    assert_eq!(
        claim["attributes"].to_string(),
        r#"{"big":12345678901234567890,"deep":{"text":"hello"},"n":2}"#
    );
    // One store's output is another's input.
    let other = Home::new("words-other");
    let out = home.run(&["ax", "is author editor city a", "--all"]).expect(0).out;
    other.pipe(&out).expect(0);
    let content = |home: &Home| {
        let mut claims = home.json(&["ax", "is author editor city a", "--all"]);
        claims.iter_mut().for_each(|claim| {
            claim["seq"].take();
            claim["created_at"].take();
        });
        claims.sort_by_key(|claim| text(claim, "id").to_owned());
        claims
    };
    assert_eq!(content(&other), content(&home));
    assert_eq!(
        other.pipe(&out).expect(0).json().len(),
        out.lines().count(),
        "a repeat is harmless"
    );
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let home = Home::new("pipe");
    let lines: String =
        (0..2_000).map(|n| format!("{{\"id\":\"n-{n}\",\"subjects\":[\"X\"]}}\n")).collect();
    home.pipe(&lines).expect(0);
    let mut command = home.command(["ax", "X", "--all", "--json", "--store"]);
    command.arg(home.store()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn the_store_is_where_it_is_said_to_be() {
    let home = Home::new("where");
    // Nothing is configured: the user's folder, made with all above it, and private.
    let ran = home.run_bare(&["as", "X is a", "--json"]).expect(0);
    assert_eq!(ran.object()["seq"], 1);
    let store = home.path(".local/share/axwatch/axwatch.db");
    assert!(store.exists());
    use std::os::unix::fs::PermissionsExt as _;
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&store), mode(store.parent().unwrap())), (0o600, 0o700));
    // The file wins over that, the variable over the file, the flag over the variable.
    home.configure("[store]\npath = 'configured.db'\n");
    home.run_bare(&["as", "X is a"]).expect(0);
    assert!(home.path("configured.db").exists());
    let said = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("AXWATCH_STORE", home.path("variable.db"));
        command.output().unwrap()
    };
    assert!(said(&["as", "X is a"]).status.success());
    assert!(home.path("variable.db").exists());
    assert!(said(&["as", "X is a", "--store", "deep/er/flag.db"]).status.success());
    assert!(home.path("deep/er/flag.db").exists());
    // A server's token is for its owner alone.
    let server = home.serve();
    assert_eq!(mode(&home.path("axwatch.db.token")), 0o600);
    drop(server);
}

#[test]
fn the_status_tells_how_everything_is() {
    let home = Home::new("status");
    // Without a server, as far as the store goes.
    home.object(&["as", "X is seen"]);
    let status = home.object(&["status"]);
    assert_eq!(keys(&status), STATUS);
    assert_eq!(status["server"], Value::Null);
    assert_eq!((&status["store"]["claims"], &status["lag"]["behind"]), (&json!(1), &json!(1)));
    let attention = &status["attention"][0];
    assert_eq!(attention["kind"], "no_server");
    assert!(text(attention, "next").starts_with("axwatch serve --store "), "{attention}");
    home.run_plain(&["status"]).expect(0).says(&["none runs on this store", "axwatch serve"]);
    // With one.
    let zoo = [Zoo::good("zoo"), Zoo::new("sad", "permanent").handlers(&["sad"])];
    let toml = home.zoo_toml(&zoo).replace("[\"zoo\",", "[\"gone\", \"zoo\",");
    home.configure(&format!("{toml}\n[plugins.gone]\nbinary = '/nowhere/at/all'\n"));
    let server = home.serve();
    server.until_ready(&["zoo", "sad"]);
    server.until_plugin("gone", &["failed"]);
    for (id, handler) in [("a", "work"), ("b", "sad"), ("c", "nobody.here")] {
        home.object(&["watch", "create", id, "--when", "is seen", "--run", handler]);
    }
    home.object(&["as", "Y is seen"]);
    server.until_open(|open| open == 1);
    let status = home.object(&["status"]);
    assert_eq!(status["server"]["pid"], json!(server.pid()));
    assert_eq!(status["watchers"]["live"], 2);
    assert_eq!(status["watchers"]["waiting_for_handler"], 1);
    let jobs = ["queued", "running", "paused", "completed", "failed", "cancelled"];
    let counts: Vec<_> = jobs.iter().map(|state| number(&status["jobs"], state)).collect();
    assert_eq!(counts, [0, 0, 1, 1, 1, 0], "{status}");
    assert!(number(&status["store"], "bytes") > 0 && number(&status["disk"], "free_bytes") > 0);
    assert_eq!((number(&status["store"], "schema"), number(&status["lag"], "head")), (7, 2));
    assert!(text(&status["lag"], "oldest_waiting_at").ends_with('Z'));
    let kinds: Vec<_> =
        status["attention"].as_array().unwrap().iter().map(|one| text(one, "kind")).collect();
    assert_eq!(kinds, ["plugin_failed", "dead_letters", "watcher_waiting_for_handler"]);
    // Each next step is a command that works.
    for attention in status["attention"].as_array().unwrap() {
        let next: Vec<_> = text(attention, "next").split(' ').skip(1).collect();
        home.run_bare(&next).expect(0);
    }
    let said = home.run_plain(&["status"]).expect(0);
    said.says(&["zoo", "1 failed (dead letters)", "needs attention", "try: axwatch jobs dead"]);
    let served = server.get("/api/v1/status").remove(0);
    assert_eq!(keys(&served), STATUS);
    server.stop();
    let offline = home.object(&["status"]);
    assert_eq!(offline["jobs"]["failed"], 1);
    assert_eq!(offline["plugins"][1]["state"], "stopped");
}

#[test]
fn a_job_may_be_named_by_the_beginning_of_its_id() {
    let home = Home::new("prefix");
    let server = serve(&home);
    let jobs: Vec<_> =
        home.json(&["jobs", "list"]).iter().map(|job| text(job, "job_id").to_owned()).collect();
    let prefix = &jobs[0][..8];
    assert_eq!(home.object(&["jobs", "show", prefix])["job_id"], jobs[0].as_str());
    assert_eq!(home.object(&["why", prefix])["job"]["job_id"], jobs[0].as_str());
    home.run(&["audit", "prove", prefix]).expect(0);
    assert_eq!(home.run(&["why", "abc"]).code, 2);
    server.stop();
    let (one, other) = ("abcd0000000000000000000000000001", "abcd0000000000000000000000000002");
    let database = home.database();
    for (id, number) in [(one, 1), (other, 2)] {
        database
            .execute(&format!("UPDATE jobs SET id = x'{id}' WHERE number = {number}"), [])
            .unwrap();
    }
    drop(database);
    let check = |served: &str| {
        let error = home.run(&["jobs", "show", "abcd"]).expect(1).error();
        assert_eq!(error["kind"], "conflict", "{served}");
        assert!(text(&error, "message").contains(one) && text(&error, "message").contains(other));
        assert_eq!(home.object(&["why", &other[..32]])["job"]["job_id"], other, "{served}");
        let error = home.run(&["jobs", "show", "0000000"]).expect(1).error();
        assert_eq!(error["kind"], "not_found", "{served}");
    };
    check("without a server");
    let _server = home.serve();
    check("with one");
}

#[test]
fn a_job_that_waits_says_for_what() {
    let home = Home::new("waits");
    let _server = serve(&home);
    home.object(&["watch", "pause", "mine"]);
    home.object(&["as", "Y is seen"]);
    let job = home.json(&["fires", "--watcher", "mine", "--limit", "1"]).remove(0);
    let why = home.object(&["why", text(&job, "job_id")]);
    assert_eq!(keys(&why["waits"]), ["ahead", "ahead_at_least", "message", "reason", "until"]);
    assert_eq!(why["waits"]["reason"], "watcher_paused");
    home.run_plain(&["why", text(&job, "job_id")])
        .expect(0)
        .says(&["why it is where it is", "axwatch watch resume user-mine"]);
    home.object(&["watch", "resume", "mine"]);
}

#[test]
fn watchers_are_shown_without_a_server_too() {
    let home = Home::new("watchers");
    let server = serve(&home);
    let mut served = home.json(&["watch", "list"]);
    let shown = home.object(&["watch", "show", "mine"]);
    server.stop();
    served.iter_mut().for_each(|watcher| {
        // Only a server counts them.
        assert_eq!(watcher["open_jobs"].take(), 0);
    });
    assert_eq!(home.json(&["watch", "list"]), served);
    let mut expected = shown;
    expected["open_jobs"].take();
    assert_eq!(home.object(&["watch", "show", "mine"]), expected);
    assert_eq!(expected["id"], served[0]["id"]);
    home.run_plain(&["watch", "list"]).expect(0).says(&["last written"]);
    home.run(&["watch", "show", "mime"]).expect(1).says(&["did you mean user-mine?", "watch list"]);
    home.run(&["watch", "rm", "mine"]).expect(1).says(&["axwatch serve"]);
}

#[test]
fn an_empty_list_says_so_to_people_only() {
    let home = Home::new("empty");
    home.object(&["as", "X is a"]);
    for args in [&["watch", "list"][..], &["fires"], &["jobs", "list"], &["ax", "is b"]] {
        let plain = home.run_plain(args).expect(0);
        assert!(plain.out.is_empty() && plain.err.contains("axwatch "), "{args:?}: {plain:?}");
        let json = home.run(args).expect(0);
        assert!(json.out.is_empty() && json.err.is_empty(), "{args:?}: {json:?}");
    }
}

#[test]
fn mistakes_of_a_person_are_told_with_what_would_be_right() {
    let home = Home::new("mistakes");
    std::fs::create_dir(home.path("folder")).unwrap();
    for command in
        [&["as", "X is a"][..], &["ax", "X"], &["serve"], &["status"], &["watch", "list"]]
    {
        let args = [command, &["--store", "folder"]].concat();
        home.run_bare(&args).expect(2).says(&["is a folder", "folder/axwatch.db"]);
    }
    home.run(&["as", "-", "x"]).expect(2).says(&["- stands alone"]);
    home.run(&["as", "x", "-"]).expect(2).says(&["- stands alone"]);
    let check = || {
        home.object(&["as", "X is a", "--id", "one"]);
        let error = home.run(&["as", "X is b", "--id", "one"]).expect(1).error();
        assert_eq!(error["kind"], "conflict", "{error}");
    };
    check();
    let server = home.serve();
    check();
    home.run(&["watch", "create"]).expect(2).says(&["ID, --when AX, --run HANDLER", "for example"]);
    home.run(&["watch", "create", "x", "--run", "h"]).expect(2).says(&["lacks --when AX;"]);
    home.run(&["watch", "create", "x", "--when", "is a"]).expect(1).says(&["handler"]);
    drop(server);
    let one = home.run_plain(&["as", "X is c"]).expect(0);
    assert!(one.out.contains("deferred"));
    let mut command = home.command(["as", "-", "--store"]);
    command.arg(home.store()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{\"subjects\":[\"X\"]}\n").unwrap();
    let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(said.starts_with("1 claim appended"), "{said}");
}

#[test]
fn shells_and_man_are_served() {
    let home = Home::new("shells");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run_bare(&["completions", shell]).expect(0).out;
        for word in ["axwatch", "watch", "completions", "follow"] {
            assert!(script.contains(word), "{shell}: nothing of {word}");
        }
        assert!(!script.contains("plugin-launcher"), "{shell}");
    }
    home.run_bare(&["completions", "tcsh"]).expect(2).says(&["bash", "powershell"]);
    let page = home.run_bare(&["man"]).expect(0).out;
    assert!(page.contains(".TH axwatch 1") && page.contains("status"), "{page}");
    home.run_bare(&["man", "deep/man1"]).expect(0).says(&["pages written"]);
    for page in ["axwatch.1", "axwatch-watch-create.1", "axwatch-status.1"] {
        assert!(home.path("deep/man1").join(page).exists(), "{page}");
    }
    home.configure("");
    home.run_bare(&["man", "am.toml/x"]).expect(2);
}

#[test]
fn a_watcher_is_made_by_answering_on_a_terminal() {
    let home = Home::new("ask");
    let server = home.configure_zoo(&[Zoo::good("zoo")]).serve();
    server.until_ready(&["zoo"]);
    let mut terminal = Terminal::start(&home, "watch create", &[]);
    for (question, answer) in [
        ("id (", "prs\n"),
        ("when (", "is is\n"),
        ("^", "is author\n"),
        ("run (", "1\n"),
        ("a second [no limit]", "5\n"),
    ] {
        terminal.until_shown(question);
        terminal.types(answer);
    }
    let line = "watch create prs --when 'is author' --run work --max-fires-per-second 5";
    terminal.until_shown(line);
    assert_eq!(terminal.end(), Some(0));
    assert_eq!(home.object(&["watch", "show", "prs"])["when"], "is author");
    // Ctrl-C, or the end of the input, changes nothing.
    for key in ["\x03", "\x04"] {
        let mut terminal = Terminal::start(&home, "watch create other", &[]);
        terminal.until_shown("when (");
        terminal.types(key);
        terminal.until_shown("nothing was changed");
        assert_eq!(terminal.end(), Some(1));
    }
    assert_eq!(home.json(&["watch", "list"]).len(), 1);
}

#[test]
fn fires_are_followed_in_colour_on_a_terminal() {
    let home = Home::new("colour");
    let _server = serve(&home);
    let green = "\x1b[32mcompleted";
    let coloured = Terminal::start(&home, "fires --follow", &[]);
    assert!(coloured.until_shown("user-m").contains(green));
    let plain = Terminal::start(&home, "fires --follow", &[("NO_COLOR", "1")]);
    assert!(!plain.until_shown("user-m").contains('\x1b'));
}

#[test]
fn a_query_is_understood_without_asking_anybody() {
    let home = Home::new("cli-parse");
    let parsed = |args: &[&str], code: i32| {
        let words = [&["ax", "--parse", "--json", "--now", "1718461800000"][..], args].concat();
        home.run_bare(&words).expect(code)
    };
    let one = parsed(&["is author since 3 days ago"], 0).object();
    assert_eq!(one["predicates"], json!(["author"]));
    assert_eq!(one["temporal"]["start_ms"], json!(1_718_461_800_000_i64 - 3 * 86_400_000));
    let wrong = parsed(&["is of x"], 1).object();
    assert_eq!(text(&wrong, "error"), "missing_element");

    // Many: one answer a line, whatever each is.
    let mut many = home.start(&["ax", "--parse", "-"]);
    many.write("is a\n\"is b\\nof c\"\nis\n");
    let answers = many.finish().expect(1).json();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[1]["contexts"], json!(["c"]));
    assert_eq!(text(&answers[2], "error"), "missing_element");
    // A watcher has no sum to hold `over` against.
    let refused = home.run(&["watch", "create", "w", "--when", "is a over 3y", "--run", "x"]);
    assert_eq!(text(&refused.expect(1).error(), "kind"), "ax");
    assert!(!home.store().exists());
}
