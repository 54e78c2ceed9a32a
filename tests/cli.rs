//! The command line as programs depend on it: keys of JSON, bounds of lists, help, exit codes, and
//! that answers come while the input pauses.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Home, Server, Zoo, keys, number, text};

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
    "handlers",
    "id",
    "last_fired_at",
    "matches",
    "max_fires_per_second",
    "owner",
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
    "attempts",
    "attestation_id",
    "completed_at",
    "cost",
    "created_at",
    "due_at",
    "error",
    "handler",
    "job_id",
    "origin",
    "plugin",
    "progress",
    "result",
    "revision",
    "seq",
    "started_at",
    "state",
    "watcher",
];
const PLUGIN: &[&str] = &["error", "handlers", "name", "pid", "state", "version"];
const ATTEMPT: &[&str] = &[
    "attempt",
    "ended_at",
    "epoch",
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
    let cases: [(&[&str], &[&str]); 17] = [
        (&["as", "Y is unseen"], &["fires", "id", "seq"]),
        (&["ax", "is seen"], ATTESTATION),
        (&["watch", "list"], WATCHER),
        (&["watch", "show", "mine"], WATCHER),
        (&["watch", "pause", "mine"], WATCHER),
        (&["watch", "resume", "user-mine"], WATCHER),
        (&["watch", "create", "mine", "--when", "is seen", "--run", "work"], WATCHER),
        (&["fires"], FIRE),
        (&["jobs", "list"], JOB),
        (&["jobs", "show", &job], JOB),
        (&["jobs", "run", "work", "--payload", "{}", "--wait"], JOB),
        (&["plugin", "list"], PLUGIN),
        (&["plugin", "show", "zoo"], PLUGIN),
        (&["audit", "head"], &["at", "head", "records", "store_id"]),
        (&["audit", "verify"], &["head", "ok", "problem", "records"]),
        (&["why", &job], &["attempts", "attestation", "job", "made", "records", "watcher"]),
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
    let mut commands: Vec<Vec<&str>> =
        ["serve", "as", "ax", "fires", "why"].iter().map(|&name| vec![name]).collect();
    let nested: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("watch", &["create", "list", "show", "rm", "pause", "resume"][..]),
        ("jobs", &["list", "show", "run", "retry"]),
        ("plugin", &["list", "show"]),
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
