//! What cannot be is refused with its place, its reason and what would be right; what else was given
//! stands, and nothing is damaged.

use std::fs;
use std::net::TcpListener;

use crate::support::{Home, Zoo, number, text};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

#[test]
fn ax_is_refused_with_place_and_reason() {
    let home = Home::new("ax");
    home.configure_zoo(&[Zoo::good("zoo")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    // (query, kind of the first mistake, where it begins)
    let cases: [(&str, &str, u64); 8] = [
        ("", "empty_query", 0),
        ("is", "missing_element", 0),
        ("ALICE is", "missing_element", 6),
        ("is 'open", "unterminated_quote", 3),
        ("is ''", "empty_literal", 3),
        ("is a|b", "pipe", 4),
        ("by *", "wildcard", 3),
        ("is author so", "missing_element", 10),
    ];
    for (query, kind, start) in cases {
        for args in
            [&["ax", query][..], &["watch", "create", "w", "--when", query, "--run", "work"]]
        {
            let ran = home.run(args);
            assert_eq!(ran.code, 1, "{query:?}: {ran:?}");
            let error = ran.error();
            assert_eq!(error["kind"], "ax", "{query:?}: {error}");
            let first = &error["mistakes"]["errors"][0];
            let first = if first.is_null() { &error["mistakes"] } else { first };
            assert_eq!(text(first, "error"), kind, "{query:?}: {error}");
            assert_eq!(
                first["span"]["start"].as_u64().or(first["start"].as_u64()),
                Some(start),
                "{query:?}: {first}"
            );
        }
    }
    // People see the place underlined.
    let plain = home.run_plain(&["ax", "is author of"]).expect(1);
    let lines: Vec<_> = plain.err.lines().collect();
    let at =
        lines.iter().position(|line| line.contains("is author of")).expect("the query is shown");
    let column = lines[at].find("of").unwrap();
    assert_eq!(lines[at + 1].find('^'), Some(column), "{plain:?}");
    assert!(home.json(&["watch", "list", "--all"]).is_empty(), "nothing of it stands");

    let refused: [(&[&str], &str); 6] = [
        (&["--when", "so work"], "filters on nothing"),
        (&["--when", "is a"], "no handler"),
        (&["--when", "is a", "--run", "work", "--max-fires-per-second", "-1"], "-1"),
        (&["--when", "is a", "--run", "work", "--max-fires-per-second", "100001"], "100001"),
        (&["--when", "is a", "--run", "a b/c/d\n"], "plugin name \"a b\""),
        (&["--when", "is a since yesterday over 5d", "--run", "work"], ""),
    ];
    for (args, says) in refused {
        let ran = home.run(&[&["watch", "create", "w"][..], args].concat());
        assert_eq!(ran.code, 1, "{args:?}: {ran:?}");
        assert!(text(&ran.error(), "message").contains(says), "{args:?}: no {says:?} in {ran:?}");
    }
    home.run(&["watch", "create", "", "--when", "is a", "--run", "work"]).expect(1);
    home.run(&["watch", "create", "w", "--when", "is a", "--run", "work", "--params", "[1]"])
        .expect(2);
    home.run(&["watch", "show", "nobody"]).expect(1).says(&["no watcher", "nobody"]);
    let unknown = home.run(&["jobs", "run", "nobody.has", "--payload", "{}"]).expect(1);
    assert_eq!(unknown.error()["kind"], "not_found");
    unknown.says(&["nobody.has", "zoo/work"]);
    // And the server is well.
    home.object(&["watch", "create", "w", "--when", "is a", "--run", "work"]);
    assert_eq!(number(&home.object(&["as", "X is a"]), "fires"), 1);
}

/// A claim with this part changed.
/// As after an upgrade that no longer takes what an earlier axwatch took.
#[test]
fn a_watcher_whose_text_no_longer_parses_is_kept_and_disables_no_other() {
    let home = Home::new("broken");
    home.configure_zoo(&[Zoo::good("zoo")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    for id in ["one", "two"] {
        home.run(&["watch", "create", id, "--when", "is author", "--run", "work"]).expect(0);
    }
    home.run(&["as", "ALICE is author"]).expect(0);
    server.until_settled();
    server.stop();
    home.database()
        .execute(
            "UPDATE watchers SET declared = ? WHERE local_id = 'one'",
            [r#"{"ax":"is author of ** so work"}"#],
        )
        .unwrap();

    let server = home.serve();
    server.until_ready(&["zoo"]);
    let watchers = home.json(&["watch", "list"]);
    let of = |id: &str| watchers.iter().find(|watcher| watcher["id"] == id).unwrap();
    assert_eq!(of("user-one")["state"], "broken", "{watchers:?}");
    assert!(text(of("user-one"), "error").contains("at 13"), "{watchers:?}");
    assert_eq!(of("user-two")["state"], "live", "{watchers:?}");
    let log = home.log();
    let line = log.lines().find(|line| line.contains("Failed to parse AX query for watcher"));
    let line = line.expect("the log tells of it");
    for part in ["user-one", "is author of ** so work", "at 13"] {
        assert!(line.contains(part), "{line}");
    }
    let records = home.json(&["audit", "show", "--type", "watcher_broken", "--all"]);
    assert_eq!(records.len(), 1, "{records:?}");
    home.run(&["as", "BOB is author"]).expect(0);
    server.until_settled();
    let fires = |id: &str| home.json(&["fires", "--watcher", id]).len();
    assert_eq!((fires("one"), fires("two")), (1, 2));

    // Declared anew it goes on.
    home.run(&["watch", "create", "one", "--when", "is author of x", "--run", "work"]).expect(0);
    home.run(&["as", "BOB is author of x"]).expect(0);
    server.until_settled();
    assert_eq!((fires("one"), fires("two")), (2, 3));
    server.stop();
}

fn line(part: &str, value: Value) -> String {
    let mut claim = json!({ "subjects": ["X"], "predicates": ["is_line"] });
    claim[part] = value;
    format!("{claim}\n")
}

/// Lines that are refused, and what the answer must say.
fn bad_lines() -> Vec<(String, &'static [&'static str])> {
    let terms = |n: usize| json!((0..n).map(|n| format!("t{n}")).collect::<Vec<_>>());
    let nested = (0..65).fold(json!(1), |inner, _| json!({ "a": inner }));
    vec![
        ("{\n".to_owned(), &["not valid JSON"]),
        ("\n".to_owned(), &["empty"]),
        ("[1]\n".to_owned(), &["object", "subjects"]),
        ("\"text\"\n".to_owned(), &["object"]),
        ("{}\n".to_owned(), &["subjects", "at least one"]),
        (line("subjects", json!([])), &["subjects", "at least one"]),
        (line("subjects", json!("X")), &["subjects", "array"]),
        (line("subjects", json!([1])), &["subjects", "array"]),
        (line("subject", json!(["X"])), &["unknown key", "subject", "subjects"]),
        (line("predicates", terms(101)), &["predicates", "101", "100"]),
        (line("contexts", json!(["x".repeat(1_001)])), &["contexts[0]", "1001", "1000"]),
        (line("actors", json!(["ok", ""])), &["actors[1]", "0 bytes"]),
        (line("attributes", json!([1])), &["attributes", "object"]),
        (line("attributes", json!("text")), &["attributes", "object"]),
        (line("attributes", nested), &["attributes", "64"]),
        (line("attributes", json!({ "a": "x".repeat(1024 * 1024) })), &["attributes", "1048576"]),
        (line("timestamp", json!("yesterday")), &["timestamp"]),
        (line("timestamp", json!(1_700_000_000)), &["timestamp"]),
        (line("source", json!("x".repeat(1_001))), &["source", "1001"]),
        (line("signature", json!("not base64!")), &["signature", "base64"]),
        (line("id", json!("")), &["id"]),
        (line("id", json!("x".repeat(257))), &["id"]),
    ]
}

#[track_caller]
fn check_bad_lines(home: &Home) {
    let bad = bad_lines();
    // Between two of them always stands a good one.
    let good = |n: usize| format!("{{\"id\":\"good-{n}\",\"subjects\":[\"X\"]}}\n");
    let mut input: String = bad.iter().enumerate().map(|(n, (line, _))| good(n) + line).collect();
    // The same id with other content, and one with the same.
    input += "{\"id\":\"good-0\",\"subjects\":[\"Y\"]}\n{\"id\":\"good-0\",\"subjects\":[\"X\"]}\n";
    let ran = home.pipe(&input);
    assert_eq!(ran.code, 1, "{}", ran.err);
    let answers = ran.json();
    assert_eq!(answers.len(), 2 * bad.len() + 2, "one answer a line");
    for (n, (line, says)) in bad.iter().enumerate() {
        assert_eq!(answers[2 * n]["id"], format!("good-{n}"), "lines before and after go on");
        let refused = &answers[2 * n + 1];
        let shown = &line[..line.len().min(80)];
        assert_eq!(crate::support::keys(refused), ["error", "line"], "{shown}: {refused}");
        assert_eq!(number(refused, "line"), 2 * n as u64 + 2, "{shown}");
        for words in *says {
            assert!(text(refused, "error").contains(words), "{shown}: no {words:?} in {refused}");
        }
    }
    let conflict = &answers[2 * bad.len()];
    assert!(text(conflict, "error").contains("good-0"), "{conflict}");
    assert_eq!(answers[2 * bad.len() + 1]["seq"], answers[0]["seq"]);
    assert_eq!(home.json(&["ax", "X", "--all"]).len(), bad.len());
}

#[test]
fn bad_lines_are_answered_and_the_others_go_on() {
    let home = Home::new("lines");
    check_bad_lines(&home);
    let served = Home::new("lines-served");
    let server = served.serve();
    check_bad_lines(&served);
    server.stop();
    // The same limits on the edge are well.
    let edge = line("predicates", json!((0..100).map(|n| format!("t{n}")).collect::<Vec<_>>()))
        + &line("contexts", json!(["x".repeat(1_000)]))
        + &line("attributes", (0..63).fold(json!({}), |inner, _| json!({ "a": inner })));
    assert_eq!(home.pipe(&edge).expect(0).json().len(), 3);
    // Bytes that are no text.
    let mut piping = home.start(&["as", "-"]);
    piping.write("{\"subjects\":[\"\u{e9}\"]}\n");
    assert_eq!(piping.finish().expect(0).json().len(), 1);
}

#[test]
fn claims_in_words_are_refused_with_their_place() {
    let home = Home::new("words");
    let cases = [
        ("is author", "subject"),
        ("ALICE is", "predicate"),
        ("ALICE is a is b", "twice"),
        ("ALICE is a since yesterday", "since"),
        ("ALICE is not a", "not"),
        ("ALICE is a on noday", "noday"),
        ("ALICE is a,", "missing"),
        ("ALICE is 'open", "quote"),
    ];
    for (claim, says) in cases {
        let ran = home.run_plain(&["as", claim]);
        assert_eq!(ran.code, 1, "{claim}: {ran:?}");
        assert!(ran.err.contains(claim) && ran.err.contains('^'), "{claim}: {}", ran.err);
        assert!(ran.err.contains(says), "{claim}: no {says:?} in {}", ran.err);
        assert_eq!(home.run(&["as", claim]).expect(1).error()["kind"], "claim");
    }
    home.run(&["as", "X is a", "--attrs", "[1]"]).expect(2);
    home.run(&["as", "X is a", "--attr", "novalue"]).expect(2);
    assert!(!home.store().exists(), "nothing was made for claims that are none");
    home.object(&["as", "X is a", "--id", "one"]);
    home.run(&["as", "Y is a", "--id", "one"]).expect(1).says(&["one"]);
}

#[test]
fn a_configuration_mistake_is_told_with_its_line() {
    let home = Home::new("config");
    let cases: [(&str, &[&str]); 9] = [
        (
            "[store]\npath = 'a.db'\nreserve_md = 1\n",
            &["am.toml:3", "reserve_md", "store.reserve_mb"],
        ),
        ("[stores]\npath = 'a.db'\n", &["am.toml:1", "[store]"]),
        ("\nstore = 1\n", &["am.toml:2"]),
        ("[plugin]\nenabled = ['git', 'git']\n", &["am.toml:2", "twice"]),
        ("[plugin]\nenabled = ['user']\n", &["am.toml:2", "user"]),
        (
            "[plugin]\nenabled = ['p']\n[plugins.p]\nexecute_timeout = 3\n",
            &["am.toml:4", "execute_timeout_secs"],
        ),
        (
            "[plugin]\nenabled = ['p']\n[plugins.p]\nmax_in_flight = 0\n",
            &["am.toml:4", "max_in_flight"],
        ),
        ("[http]\naddr = 'nowhere'\n", &["am.toml:2", "HOST:PORT"]),
        ("[store\n", &["am.toml:1"]),
    ];
    for (toml, says) in cases {
        home.configure(toml);
        let ran = home.run_plain(&["serve", "--http", "127.0.0.1:0"]);
        assert_eq!(ran.code, 2, "{toml:?}: {ran:?}");
        for words in says {
            assert!(ran.err.contains(words), "{toml:?}: no {words:?} in {}", ran.err);
        }
    }
    assert!(!home.store().exists());
    home.configure("");
    home.run_plain(&["serve", "--http", "0.0.0.0:0"]).expect(2).says(&["0.0.0.0"]);
    home.run_bare(&["serve", "--config", "not-there.toml"]).expect(2).says(&["not-there.toml"]);
    home.run_bare(&["serve", "--unknown-flag"]).expect(2);
    home.run_bare(&["no-such-command"]).expect(2);
    // A plugin's own table is its own.
    home.configure("[plugin]\nenabled = ['p']\n[plugins.p]\nbinary = '/nowhere'\n[p]\nanything = { goes = 1 }\n");
    let server = home.serve();
    let plugin = server.until_plugin("p", &["failed"]);
    assert!(text(&plugin, "error").contains("/nowhere"), "{plugin}");
}

#[test]
fn a_port_in_use_is_named() {
    let home = Home::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = home.run_plain(&["serve", "--http", &address]).expect(1);
    ran.says(&[address.rsplit(':').next().unwrap(), "in use", "--http 127.0.0.1:0"]);
    // What it had opened by then is let go of.
    home.object(&["as", "X is seen"]);
    home.serve().stop();
}

fn digest(home: &Home) -> (Vec<u8>, Vec<String>) {
    let files = fs::read_dir(home.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut files: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
    // The lock is taken to look, and whoever looks at a database leaves these two, with nothing in them.
    let wal = fs::metadata(home.path("axwatch.db-wal")).map_or(0, |found| found.len());
    assert_eq!(wal, 0, "something was written");
    files.retain(|name| !["lock", "db-wal", "db-shm"].iter().any(|ending| name.ends_with(ending)));
    files.sort();
    (Sha256::digest(fs::read(home.store()).unwrap()).to_vec(), files)
}

/// Every command refuses this store with exit code 3 and these words, and leaves it as it is.
#[track_caller]
fn check_refused(home: &Home, says: &[&str]) {
    let before = digest(home);
    for args in [
        &["serve", "--http", "127.0.0.1:0"][..],
        &["as", "X is seen"],
        &["ax", "X"],
        &["fires"],
        &["audit", "verify"],
    ] {
        let ran = home.run_plain(args);
        assert_eq!(ran.code, 3, "{args:?}: {ran:?}");
        for words in says {
            assert!(ran.err.contains(words), "{args:?}: no {words:?} in {}", ran.err);
        }
        assert_eq!(digest(home), before, "{args:?} changed something");
    }
}

#[test]
fn a_newer_store_is_refused_and_left_alone() {
    let home = Home::new("newer");
    home.object(&["as", "X is seen"]);
    let database = home.database();
    database
        .execute_batch(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (99, 'from the future', true, x'00', 0)",
        )
        .unwrap();
    drop(database);
    check_refused(&home, &["axwatch.db", "99", "later"]);
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let home = Home::new("corrupt");
    fs::write(home.store(), b"this is a text file and no database at all".repeat(200)).unwrap();
    check_refused(&home, &["axwatch.db", "not a database", "backup"]);

    // A store of which the beginning is gone.
    let home = Home::new("headless");
    home.object(&["as", "X is seen"]);
    let mut bytes = fs::read(home.store()).unwrap();
    bytes[..4096].fill(0xa5);
    fs::write(home.store(), bytes).unwrap();
    check_refused(&home, &["axwatch.db"]);

    // Somebody else's database.
    let home = Home::new("foreign");
    let other = rusqlite::Connection::open(home.store()).unwrap();
    other.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    drop(other);
    check_refused(&home, &["axwatch.db", "another program"]);
}

#[test]
fn the_api_refuses_what_it_does_not_know() {
    let home = Home::new("api");
    let server = home.serve();
    // (method, path, body, status, kind)
    let cases = [
        ("GET", "/api/v1/nothing", "", 404, "not_found"),
        ("GET", "/", "", 404, "not_found"),
        ("PUT", "/api/v1/status", "", 405, "method_not_allowed"),
        ("POST", "/api/v1/attestations", "{", 400, "invalid"),
        ("POST", "/api/v1/attestations", "{\"subjects\":[]}", 400, "invalid"),
        (
            "POST",
            "/api/v1/watchers",
            "{\"id\":\"w\",\"when\":\"is\",\"handlers\":[\"x\"]}",
            400,
            "ax",
        ),
        ("POST", "/api/v1/watchers", "{\"id\":\"w\",\"wen\":\"is a\"}", 400, "invalid"),
        ("GET", "/api/v1/fires?limt=3", "", 400, "invalid"),
        ("GET", "/api/v1/fires?state=gone", "", 400, "invalid"),
        ("GET", "/api/v1/jobs/xyz", "", 400, "invalid"),
        ("GET", "/api/v1/jobs/00000000000000000000000000000000", "", 404, "not_found"),
        ("GET", "/api/v1/attestations/nobody", "", 404, "not_found"),
    ];
    for (method, path, body, status, kind) in cases {
        let (found, answer) = server.request(method, path, body).expect("it answers");
        let answer: Value = serde_json::from_str(&answer).expect(path);
        assert_eq!(
            (u64::from(found), text(&answer["error"], "kind")),
            (status, kind),
            "{method} {path}: {answer}"
        );
        assert!(!text(&answer["error"], "message").is_empty());
    }
    // Whoever has no token, or comes by another name, gets nothing.
    let address = server.address();
    let bearer = format!("Bearer {}", server.token());
    let cases: [(&[(&str, &str)], u16); 4] = [
        (&[], 401),
        (&[("Authorization", "Bearer wrong")], 401),
        (&[("Authorization", &bearer), ("Origin", "https://evil.example")], 403),
        (&[("Authorization", &bearer)], 200),
    ];
    for (headers, expected) in cases {
        let (status, _) =
            crate::support::http(address, "GET", "/api/v1/status", headers, "").unwrap();
        assert_eq!(status, expected, "{headers:?}");
    }
    assert!(!home.log().contains(server.token()), "the token is not in the log");
}
