//! Questions that do more than list: counted, explained, summed up with `over`, followed; each with a
//! server and without one where both can answer.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use crate::support::{Follow, Home, Running, Server, keys, number, processes, text, within};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Runs the same with a server, and then without one.
fn with_and_without_server(home: &Home, check: impl Fn(&str)) {
    let server = serve(home);
    check("with a server");
    server.stop();
    check("without one");
}

fn serve(home: &Home) -> Server {
    home.configure_zoo(&[]).serve()
}

/// A claim as a line of input.
fn claim(id: &str, subject: &str, predicate: &str, attributes: &Value) -> String {
    let claim = json!({
        "id": id, "subjects": [subject], "predicates": [predicate], "attributes": attributes,
        "timestamp": "2024-05-01T00:00:00Z",
    });
    format!("{claim}\n")
}

/// A claim that links words, or takes the links away.
fn alias(predicate: &str, words: &[&str]) -> String {
    let claim = json!({
        "subjects": ["axwatch"], "predicates": [predicate], "attributes": { "words": words },
    });
    format!("{claim}\n")
}

fn ids(claims: &[Value]) -> Vec<&str> {
    claims.iter().map(|claim| text(claim, "id")).collect()
}

fn seqs(claims: &[Value]) -> Vec<u64> {
    claims.iter().map(|claim| number(claim, "seq")).collect()
}

/// People and what they worked: ALICE 3 years in two claims, AL another year, BOB 2, CAROL none said.
fn workers(home: &Home) {
    let lines = [
        claim("w-1", "ALICE", "worked", &json!({ "duration_years": 2 })),
        claim("w-2", "BOB", "worked", &json!({ "duration_years": 2 })),
        claim("w-3", "alice", "worked", &json!({ "duration_months": 12 })),
        claim("w-4", "CAROL", "worked", &json!({})),
        claim("w-5", "AL", "worked", &json!({ "duration_days": 365 })),
        claim("w-6", "ALICE", "left", &json!({ "duration_years": 9 })),
    ];
    home.pipe(&lines.concat()).expect(0);
}

#[test]
fn matching_claims_are_counted() {
    let home = Home::new("ax-count");
    let lines: String = (0..500)
        .map(|n| {
            claim(
                &format!("n-{n}"),
                "X",
                if n % 5 == 0 { "seen" } else { "made" },
                &json!({ "n": n }),
            )
        })
        .collect();
    home.pipe(&lines).expect(0);
    with_and_without_server(&home, |served| {
        let cases = [
            ("is seen", 100),
            ("X is seen made", 500),
            ("is gone", 0),
            ("since 2000-01-01", 500),
            ("where n >= 490", 10),
            ("is not seen until 2024-05-01", 400),
        ];
        for (query, count) in cases {
            assert_eq!(
                home.object(&["ax", query, "--count"]),
                json!({ "count": count }),
                "{served} {query}"
            );
            let plain = home.run_plain(&["ax", "--count", query]).expect(0);
            assert_eq!((plain.out, plain.err), (format!("{count}\n"), String::new()), "{served}");
            assert_eq!(home.json(&["ax", query, "--all"]).len(), count, "{served} {query}");
        }
    });
}

#[test]
fn over_keeps_the_claims_of_those_who_lasted_long_enough() {
    let home = Home::new("ax-over");
    workers(&home);
    let check = |served: &str, cases: &[(&str, &[&str])]| {
        for (query, expected) in cases {
            let claims = home.json(&["ax", query, "--all"]);
            assert_eq!(ids(&claims), *expected, "{served} {query}");
            let count = home.object(&["ax", query, "--count"]);
            assert_eq!(number(&count, "count"), expected.len() as u64, "{served} {query}");
            let newest = home.json(&["ax", query, "--limit", "1"]);
            assert_eq!(ids(&newest), expected[..expected.len().min(1)], "{served} {query}");
        }
    };
    with_and_without_server(&home, |served| {
        check(
            served,
            &[
                ("is worked over 3y", &["w-3", "w-1"]),
                ("is worked over 730d", &["w-3", "w-2", "w-1"]),
                ("BOB CAROL is worked over 1y", &["w-2"]),
                ("over 12 years", &["w-6", "w-3", "w-1"]),
                ("is worked over 3.01y", &[]),
            ],
        );
    });
    // Those who are one by an alias are one here too.
    home.pipe(&alias("axwatch:alias", &["Alice", "AL"])).expect(0);
    with_and_without_server(&home, |served| {
        check(
            served,
            &[
                ("is worked over 4y", &["w-5", "w-3", "w-1"]),
                ("AL over 13y", &["w-6", "w-5", "w-3", "w-1"]),
            ],
        );
    });
}

#[test]
fn a_question_is_explained() {
    let home = Home::new("ax-explain");
    workers(&home);
    home.pipe(&alias("axwatch:alias", &["ALICE", "Al", "A"])).expect(0);
    let query = "alice BOB is not left since 2024-01-01 where duration_years = 2";
    let answers = std::cell::RefCell::new(Vec::new());
    with_and_without_server(&home, |served| {
        let mut one = home.object(&["ax", query, "--explain"]);
        let expected = [
            "asked_at",
            "conditions",
            "is_whole",
            "over",
            "postings",
            "query",
            "rows_found",
            "rows_matched",
            "rows_read",
            "took_ms",
        ];
        assert_eq!(keys(&one), expected, "{served}");
        assert!(one["took_ms"].as_f64().is_some_and(|took| took > 0.0), "{served} {one}");
        assert!(text(&one, "asked_at").ends_with('Z'), "{served} {one}");
        one["took_ms"].take();
        one["asked_at"].take();
        answers.borrow_mut().push(one);
    });
    let answers = answers.into_inner();
    let one = &answers[0];
    assert_eq!(one, &answers[1], "a server says the same");
    assert_eq!(one["query"], query);
    assert_eq!((&one["over"], &one["is_whole"]), (&Value::Null, &json!(true)));
    let conditions = json!([
        {
            "field": "subject", "rule": "any", "asked": ["alice", "bob"],
            "widened": [{ "term": "alice", "to": ["a", "al"] }],
        },
        { "field": "predicate", "rule": "none", "asked": ["left"], "widened": [] },
        {
            "field": "timestamp", "rule": "not_before", "asked": ["2024-01-01T00:00:00Z"],
            "widened": [],
        },
        { "field": "attributes.duration_years", "rule": "=", "asked": ["2"], "widened": [] },
    ]);
    assert_eq!(one["conditions"], conditions);
    assert_eq!(one["postings"], json!([{ "dimension": "subject", "terms": 4 }]));
    // Five are of these subjects, some of which the next page reads again.
    let rows = |one: &Value| ["rows_matched", "rows_found"].map(|key| number(one, key));
    assert_eq!((rows(one), number(one, "rows_read") >= 5), ([2, 2], true), "{one}");
    // Under `over` all are read twice, and the answer is a part of what matches.
    let over = home.object(&["ax", "alice bob is worked over 3y", "--explain"]);
    assert_eq!((rows(&over), &over["over"]), ([4, 3], &json!("over 3 years")));
    assert!(number(&over, "rows_read") >= 8, "{over}");

    let limited = home.object(&["ax", "until 2024-06-01", "--explain", "--limit", "3"]);
    assert_eq!((&limited["postings"], &limited["is_whole"]), (&json!([]), &json!(false)));
    assert_eq!(number(&limited, "rows_found"), 3);
    // People read it in words.
    let plain = home.run_plain(&["ax", query, "--explain"]).expect(0);
    assert!(!plain.out.contains("w-1"), "no claims are shown: {plain:?}");
    plain.says(&[
        "the postings of subject (4 words)",
        "any of alice (or a, al), bob",
        "none of left",
        "not before 2024-01-01T00:00:00Z",
        "= 2",
        "matched",
    ]);
    home.run_plain(&["ax", "since 2000-01-01", "--explain"]).expect(0).says(&["the log itself"]);
    home.run_plain(&["ax", "X over 2y", "--explain"]).expect(0).says(&["over 2 years in all"]);
}

/// Writers at work at the same time; each writes some lines when it is told to.
fn writers(home: &Home, count: usize) -> Vec<Running> {
    (0..count).map(|_| home.start(&["as", "-"])).collect()
}

#[test]
fn a_followed_question_tells_every_claim_once_and_in_order() {
    let home = Home::new("ax-follow");
    let _server = serve(&home);
    let line = |id: &str, n: usize| claim(id, "X", ["seen", "made", "made"][n % 3], &json!({}));
    let before: String = (0..450).map(|n| line(&format!("b-{n}"), n)).collect();
    home.pipe(&before).expect(0);
    let asked: [&[&str]; 5] = [
        &["is seen", "--limit", "20"],
        &["is seen", "--limit", "1"],
        &["is seen", "--all"],
        &["since 2000-01-01", "--all"],
        &["since 2000-01-01"],
    ];
    let mut writers = writers(&home, 4);
    let mut follows = Vec::new();
    for round in 0..12 {
        for (w, writer) in writers.iter_mut().enumerate() {
            let lines = (0..25).map(|n| line(&format!("c-{w}-{round}-{n}"), n));
            writer.write(&lines.collect::<String>());
        }
        if let Some(args) = asked.get(round / 2).filter(|_| round % 2 == 0) {
            follows.push(Follow::of(&home, &[&["ax", "--follow"], *args].concat()));
        }
    }
    for writer in writers {
        writer.finish().expect(0);
    }
    home.pipe(&claim("last", "X", "seen", &json!({}))).expect(0);
    for (args, follow) in asked.iter().zip(&follows) {
        let mut told = Vec::new();
        while told.last().is_none_or(|claim| text(claim, "id") != "last") {
            told.push(follow.next());
        }
        let mut log = home.json(&["ax", args[0], "--all"]);
        log.reverse();
        // From some claim on all of them; which, depends on what was there at that moment.
        let begin = log.len() - told.len();
        assert_eq!(seqs(&told), seqs(&log[begin..]), "{args:?}");
        let least = match args[1..] {
            ["--all"] => log.len(),
            ["--limit", limit] => limit.parse().unwrap(),
            _ => 100,
        };
        assert!(told.len() >= least && (args[1..] != ["--all"] || begin == 0), "{args:?}: {begin}");
    }
}

#[test]
fn a_reader_that_falls_behind_misses_nothing() {
    const CLAIMS: u64 = 4_000;
    let home = Home::new("ax-slow");
    let _server = serve(&home);
    let mut reader = Reader::start(&home, &["ax", "X", "--follow", "--json"]);
    let padding = json!({ "padding": "x".repeat(1_000) });
    home.pipe(&claim("first", "X", "seen", &padding)).expect(0);
    let first = reader.line().expect("the first is told");
    // Nobody reads while far more comes than fits on the way.
    let lines = (1..CLAIMS).map(|n| claim(&format!("n-{n}"), "X", "seen", &padding));
    home.pipe(&lines.collect::<String>()).expect(0);
    let mut told = vec![serde_json::from_str::<Value>(&first).unwrap()];
    while (told.len() as u64) < CLAIMS {
        told.push(serde_json::from_str(&reader.line().expect("more is told")).unwrap());
    }
    assert_eq!(seqs(&told), (1..=CLAIMS).collect::<Vec<_>>());
}

#[test]
fn aliases_change_while_a_question_is_followed() {
    let home = Home::new("ax-alias");
    let _server = serve(&home);
    let say = |id: &str, subject: &str| {
        home.pipe(&claim(id, subject, "seen", &json!({}))).expect(0);
    };
    home.pipe(&alias("axwatch:alias", &["NY", "NYC"])).expect(0);
    say("old", "nyc");
    say("other", "New York");
    let follow = Follow::of(&home, &["ax", "ny", "--follow"]);
    assert_eq!(text(&follow.next(), "id"), "old");
    say("not-yet", "New York");
    home.pipe(&alias("axwatch:alias", &["nyc", "new york"])).expect(0);
    say("now", "NEW YORK");
    home.pipe(&alias("axwatch:unalias", &["NYC"])).expect(0);
    say("no-more", "New York");
    say("itself", "NY");
    assert_eq!(["now", "itself"], [0; 2].map(|_| text(&follow.next(), "id").to_owned())[..]);
}

#[test]
fn following_ends_with_its_server_and_says_so() {
    let home = Home::new("ax-end");
    home.pipe(&claim("one", "X", "seen", &json!({}))).expect(0);
    let killed = ("failed", "lost before its answer ended");
    let stopped = ("stopping", "the engine has stopped");
    for (is_killed, (kind, says)) in [(true, killed), (false, stopped)] {
        let server = serve(&home);
        let follow = Follow::of(&home, &["ax", "X", "--follow"]);
        assert_eq!(text(&follow.next(), "id"), "one");
        if is_killed {
            server.kill();
        } else {
            server.stop();
        }
        let ended = follow.end().expect(1);
        assert!(ended.out.is_empty(), "{ended:?}");
        assert_eq!(text(&ended.error(), "kind"), kind, "{ended:?}");
        ended.says(&[says]);
    }
    let alone = home.run(&["ax", "X", "--follow"]).expect(1);
    assert!(text(&alone.error(), "message").contains("no server runs"), "{alone:?}");
}

/// A command whose output is read only when it is asked for.
struct Reader {
    child: Child,
    out: Option<BufReader<std::process::ChildStdout>>,
}

impl Reader {
    fn start(home: &Home, args: &[&str]) -> Reader {
        let mut command = home.command(args);
        command.arg("--store").arg(home.store());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let out = Some(BufReader::new(child.stdout.take().unwrap()));
        Reader { child, out }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.out.as_mut().expect("it is open").read_line(&mut line).unwrap();
        (read > 0).then_some(line)
    }

    /// Reads no more, and answers the exit code and what was said on standard error.
    #[track_caller]
    fn leave(mut self) -> (Option<i32>, String) {
        drop(self.out.take());
        let status = within(crate::support::PATIENCE, "a command ends with its reader", || {
            self.child.try_wait().unwrap()
        });
        let mut err = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut err).unwrap();
        (status.code(), err)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_reader_that_leaves_ends_a_question_quietly() {
    let home = Home::new("ax-leave");
    let lines: String =
        (0..3_000).map(|n| claim(&format!("n-{n}"), "X", "seen", &json!({ "n": n }))).collect();
    home.pipe(&lines).expect(0);
    let check = |cases: &[&[&str]]| {
        for args in cases {
            let mut reader = Reader::start(&home, args);
            assert!(reader.line().is_some(), "{args:?}");
            assert_eq!(reader.leave(), (Some(0), String::new()), "{args:?}");
        }
    };
    let lists: [&[&str]; 2] = [&["ax", "X", "--all"], &["ax", "X", "--all", "--json"]];
    check(&lists);
    let server = serve(&home);
    check(&lists);
    // Nothing more comes, so no write tells them.
    check(&[
        &["ax", "X", "--follow", "--limit", "1"],
        &["ax", "X", "--follow", "--limit", "1", "--json"],
        &["fires", "--follow"],
    ]);
    // Nor does the server keep anything for them. It lets only root look.
    if std::fs::read_dir(format!("/proc/{}/fd", server.pid())).is_err() {
        return;
    }
    let sockets = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        let link = |file: std::fs::DirEntry| std::fs::read_link(file.path()).ok();
        let links: Vec<_> = files.filter_map(|file| link(file.ok()?)).collect();
        links.iter().filter(|link| link.to_string_lossy().starts_with("socket:")).count()
    };
    let idle = sockets();
    let readers: Vec<_> = (0..5)
        .map(|_| Reader::start(&home, &["ax", "X", "--follow", "--limit", "1", "--json"]))
        .map(|mut reader| {
            assert!(reader.line().is_some());
            reader
        })
        .collect();
    assert!(sockets() >= idle + 5);
    readers.into_iter().for_each(|reader| drop(reader.leave()));
    crate::support::until("their connections are closed", || (sockets() <= idle).then_some(()));
}

#[test]
fn claims_stream_in_little_memory() {
    const CLAIMS: u64 = 30_000;
    const ROOM_KIB: u64 = 96 * 1024;
    let home = Home::new("ax-stream");
    let padding = json!({ "padding": "x".repeat(4_000) });
    // Some 120 MiB of text, which nobody may hold at once.
    let mut writer = home.start(&["as", "-"]);
    for n in 0..CLAIMS {
        writer.write(&claim(&format!("n-{n}"), "X", "seen", &padding));
    }
    writer.finish().expect(0);
    let check = |args: &[&str], served: Option<&Server>| {
        let mut reader = Reader::start(&home, args);
        // Short of the end it still has to write, and so it still is there.
        for _ in 0..CLAIMS - 100 {
            assert!(reader.line().is_some());
        }
        let peak_kib = processes::peak_memory_kib(reader.child.id()).unwrap();
        assert!(peak_kib < ROOM_KIB, "{args:?}: {peak_kib} KiB");
        if let Some(server) = served {
            let peak_kib = server.peak_memory_kib();
            assert!(peak_kib < ROOM_KIB, "the server: {peak_kib} KiB");
        }
    };
    let list = ["ax", "X", "--all", "--json"];
    check(&list, None);
    let server = serve(&home);
    check(&list, Some(&server));
    check(&["ax", "X", "--all", "--follow", "--json"], Some(&server));
}

#[test]
fn people_see_followed_claims_in_a_table() {
    let home = Home::new("ax-table");
    let _server = serve(&home);
    home.pipe(&claim("one", "X", "seen", &json!({}))).expect(0);
    let mut reader = Reader::start(&home, &["ax", "X", "--follow"]);
    let title = reader.line().unwrap();
    let at = title.find("SUBJECTS").expect("a title");
    for id in ["one", "two", "three"] {
        if id != "one" {
            home.pipe(&claim(id, "X", "seen", &json!({}))).expect(0);
        }
        let line = reader.line().unwrap();
        assert!(line[at..].starts_with('X') && line.trim_end().ends_with(id), "{line}");
    }
    assert_eq!(reader.leave(), (Some(0), String::new()));
}

#[test]
fn nonsense_is_refused_with_what_is_wrong() {
    let home = Home::new("ax-nonsense");
    home.pipe(&claim("one", "X", "seen", &json!({}))).expect(0);
    with_and_without_server(&home, |served| {
        // (arguments, exit code, kind of the error; none where the arguments themselves are wrong)
        let cases: [(&[&str], i32, Option<&str>); 14] = [
            (&["--count", "is ,"], 1, Some("ax")),
            (&["--explain", "is"], 1, Some("ax")),
            (&["--follow", "is"], 1, Some("ax")),
            (&["--count", ""], 1, Some("ax")),
            (&["--explain", "since nonsense"], 1, Some("ax")),
            (&["--follow", "X over 5y"], 2, Some("usage")),
            (&["--count", "X", "--limit", "3"], 2, None),
            (&["--count", "X", "--follow"], 2, None),
            (&["--count", "X", "--explain"], 2, None),
            (&["--count", "X", "--parse"], 2, None),
            (&["--follow", "X", "--explain"], 2, None),
            (&["--follow", "X", "--limit", "0"], 2, None),
            (&["--explain", "X", "--limit", "many"], 2, None),
            (&["--count"], 2, None),
        ];
        for (args, code, kind) in cases {
            let ran = home.run(&[&["ax"], args].concat()).expect(code);
            assert!(ran.out.is_empty() && !ran.err.is_empty(), "{served} {args:?}: {ran:?}");
            if let Some(kind) = kind {
                assert_eq!(text(&ran.error(), "kind"), kind, "{served} {args:?}");
            }
        }
        for flag in ["--count", "--explain", "--follow"] {
            let plain = home.run_plain(&["ax", flag, "is seen of"]).expect(1);
            let lines: Vec<_> = plain.err.lines().collect();
            let at = lines.iter().position(|line| line.contains("is seen of")).unwrap();
            assert_eq!(lines[at + 1].find('^'), lines[at].find("of"), "{served} {plain:?}");
        }
    });
}

#[test]
fn nonsense_over_http_is_refused_as_data() {
    let home = Home::new("ax-http");
    home.pipe(&claim("one", "X", "seen", &json!({}))).expect(0);
    let server = serve(&home);
    // (query string or body, kind, what the message names)
    let asked = [
        ("", "invalid", "query"),
        ("query=is", "ax", "predicate"),
        ("query=is+%2C&count=true", "ax", "predicate"),
        ("query=is&follow=true", "ax", "predicate"),
        ("query=is&explain=true", "ax", "predicate"),
        ("query=X&limit=0", "invalid", "limit"),
        ("query=X&limit=-1", "invalid", "limit"),
        ("query=X&limit=many", "invalid", "limit"),
        ("query=X&all=maybe", "invalid", "all"),
        ("query=X&before=first", "invalid", "before"),
        ("query=X&count=1", "invalid", "count"),
        ("query=X&newest=true", "invalid", "newest"),
        ("query=X&count=true&limit=3", "invalid", "limit"),
        ("query=X&count=true&explain=true", "invalid", "one of"),
        ("query=X&follow=true&before=3", "invalid", "before"),
        ("query=X+over+5y&follow=true", "invalid", "over"),
        ("{", "invalid", "body"),
        ("[]", "invalid", "body"),
        ("{}", "invalid", "query"),
        (r#"{"query":1}"#, "invalid", "string"),
        (r#"{"query":"is"}"#, "ax", "predicate"),
        (r#"{"query":"is","count":true}"#, "ax", "predicate"),
        (r#"{"query":"X","limit":0}"#, "invalid", "limit"),
        (r#"{"query":"X","limit":-1}"#, "invalid", "-1"),
        (r#"{"query":"X","follow":"yes"}"#, "invalid", "boolean"),
        (r#"{"query":"X","newest":true}"#, "invalid", "newest"),
        (r#"{"query":"X","follow":true,"explain":true}"#, "invalid", "one of"),
    ];
    for (asked, kind, names) in asked {
        let answer = match asked.starts_with(['{', '[']) {
            true => server.request("POST", "/api/v1/ax", asked),
            false => server.request("GET", &format!("/api/v1/ax?{asked}"), ""),
        };
        let (status, body) = answer.expect("an answer");
        let error = serde_json::from_str::<Value>(&body).expect("JSON")["error"].take();
        assert_eq!((status, text(&error, "kind")), (400, kind), "{asked}: {body}");
        assert!(text(&error, "message").contains(names), "{asked}: no {names:?} in {body}");
        assert_eq!(error["mistakes"].is_object(), kind == "ax", "{asked}: {body}");
    }
    let (status, _) = server.request("PUT", "/api/v1/ax", "{}").expect("an answer");
    assert_eq!(status, 405);
    // And what is right is answered, the same both ways.
    let got = server.get("/api/v1/ax?query=X&count=true");
    assert_eq!(got, [json!({ "count": 1 })]);
    let (status, posted) = server
        .request("POST", "/api/v1/ax", r#"{"query":"X","count":true,"before":1}"#)
        .expect("an answer");
    assert_eq!((status, &*posted), (200, r#"{"count":0}"#));
    let explained = server.get("/api/v1/ax?query=X&explain=true&limit=5").remove(0);
    let names: BTreeSet<&str> = keys(&explained).into_iter().collect();
    assert!(names.contains("rows_read") && names.contains("conditions"), "{explained}");
    server.signal(Signal::TERM);
}
