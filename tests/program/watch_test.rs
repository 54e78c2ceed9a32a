//! `axwatch watch test`: what is tried on history is what fired, claim by claim; and what else it tells.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{Dice, Home, Running, Server, Zoo, keys, number, text};
use serde_json::{Value, json};

const MATCH: &[&str] = &[
    "actors",
    "change",
    "contexts",
    "fires_at",
    "id",
    "predicates",
    "seq",
    "starts",
    "subjects",
    "timestamp",
];
const SUMMARY: &[&str] = &[
    "busiest_second",
    "claims",
    "compare",
    "fires",
    "first_at",
    "first_fires_at",
    "first_seq",
    "handlers",
    "last_at",
    "last_fires_at",
    "last_seq",
    "limit",
    "matches",
    "shown",
];

/// A server with one plugin that has the handlers `work` and `also`.
fn serve(home: &Home) -> Server {
    home.configure_zoo(&[Zoo::good("zoo").handlers(&["work", "also"])]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    server
}

/// Tries a text: its matches, and what came of it.
#[track_caller]
fn tried(home: &Home, ax: &str, more: &[&str]) -> (Vec<Value>, Value) {
    let mut lines = home.json(&[&["watch", "test", ax], more].concat());
    let end = lines.pop().expect("a summary is always there");
    assert_eq!(keys(&end), ["summary"]);
    (lines, end["summary"].clone())
}

fn seqs<'a>(lines: impl IntoIterator<Item = &'a Value>) -> Vec<u64> {
    lines.into_iter().map(|line| number(line, "seq")).collect()
}

/// Texts of watchers that ask all kinds of things.
const TEXTS: &[&str] = &[
    "is seen",
    "is SEEN of STRASSE",
    "ALICE BOB",
    "'New York' is seen",
    "ny",
    "NYC is lost of berlin",
    "of bln by not ann",
    "of not 'new york'",
    "is not seen of not here",
    "by hr is seen, lost",
    "is seen since yesterday",
    "is seen until 3 hours ago",
    "on today is lost",
    "is lost between 2024-01-01 and 2024-12-31",
    "until now since last monday",
    "alice since in 2 days",
    "where n >= 5",
    "is seen where lang = 'rust' and n != 3",
    "where tags contains 'x'",
    "is not draft where deep.a exists",
    "by ann where n < 2 and lang exists",
    "by 'ann' is draft of bln by not carol",
    "is rare",
    "nobody is rare of here",
    "is seen so work",
    "is lost so work also",
];

/// Any of these.
fn any<'a>(dice: &mut Dice, of: &[&'a str]) -> &'a str {
    of[dice.below(of.len() as u64) as usize]
}

/// Some of these, at least one.
fn some(dice: &mut Dice, of: &[&str]) -> Vec<String> {
    (0..=dice.below(2)).map(|_| any(dice, of).to_owned()).collect()
}

/// A moment so many milliseconds from now, as claims have it.
fn moment(shift_ms: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ms = i64::try_from(now.expect("it is after 1970").as_millis()).expect("it is before 2554");
    let database = rusqlite::Connection::open_in_memory().expect("a database in memory");
    let shown = "SELECT strftime('%Y-%m-%dT%H:%M:%fZ', ? / 1000.0, 'unixepoch')";
    database.query_row(shown, [ms + shift_ms], |row| row.get(0)).expect("a time is shown")
}

/// Any claim; one in ten changes the aliases.
fn claim(dice: &mut Dice, id: &str) -> Value {
    const HOUR_MS: i64 = 3_600_000;
    if dice.below(10) == 0 {
        let words = [
            &["NY", "New York"][..],
            &["nyc", "ny"],
            &["NYC"],
            &["berlin", "bln"],
            &["Ann", "hr"],
            &["hr", "ann"],
            &["Straße", "road"],
        ];
        let words = words[dice.below(words.len() as u64) as usize];
        let unlinks = words.len() == 1 || dice.below(3) == 0;
        let predicate = if unlinks { "axwatch:unalias" } else { "axwatch:alias" };
        return json!({
            "id": id, "subjects": ["axwatch"], "predicates": [predicate],
            "attributes": { "words": words },
        });
    }
    let mut claim = json!({
        "id": id,
        "subjects": some(dice, &["ALICE", "bob", "Carol", "New York", "NYC", "ny", "x"]),
        "predicates": some(dice, &["seen", "SEEN", "lost", "draft", "other"]),
        "contexts": some(dice, &["here", "Straße", "berlin", "BLN", "new york", "_", "road"]),
        "actors": some(dice, &["ann", "hr", "HR", "carol"]),
    });
    if dice.below(60) == 0 {
        claim["predicates"] = json!(["rare"]);
    }
    let shift_ms = match dice.below(8) {
        0 => Some(-23 * HOUR_MS),
        1 => Some(-25 * HOUR_MS),
        2 => Some(-2 * HOUR_MS),
        3 => Some(-5 * HOUR_MS),
        4 => Some(72 * HOUR_MS),
        5 => Some(-9 * 24 * HOUR_MS),
        _ => None,
    };
    match shift_ms {
        Some(shift_ms) => claim["timestamp"] = moment(shift_ms).into(),
        None if dice.below(3) == 0 => claim["timestamp"] = "2024-06-15T14:30:00Z".into(),
        None => {}
    }
    if dice.below(2) == 0 {
        claim["attributes"] = json!({
            "n": dice.below(8), "lang": any(dice, &["rust", "Rust", "c"]),
            "tags": some(dice, &["x", "y"]),
        });
        if dice.below(3) == 0 {
            claim["attributes"]["deep"] = json!({ "a": null });
        }
    }
    claim
}

fn claims(dice: &mut Dice, ids: std::ops::Range<u32>) -> String {
    ids.map(|n| format!("{}\n", claim(dice, &format!("c-{n}")))).collect()
}

/// The claims for which a watcher fired, each as often as it did.
fn fired(home: &Home, watcher: &str) -> Vec<u64> {
    let mut seqs = seqs(&home.json(&["fires", "--watcher", watcher, "--all"]));
    seqs.sort_unstable();
    seqs
}

/// The text says of every claim what the watcher did.
#[track_caller]
fn agrees(home: &Home, watcher: &str, ax: &str, since: u64, until: u64) {
    let fired = fired(home, watcher);
    let (matches, summary) = tried(home, ax, &["--since", &since.to_string()]);
    let handlers = summary["handlers"].as_array().expect("a list").len().max(1);
    let matched = seqs(&matches);
    let each: Vec<u64> =
        matched.iter().flat_map(|seq| std::iter::repeat_n(*seq, handlers)).collect();
    assert_eq!(each, fired, "{ax}: what would have fired is not what did");
    assert!(matched.windows(2).all(|pair| pair[0] < pair[1]), "{ax}: the oldest first");
    assert_eq!(number(&summary, "matches"), matched.len() as u64);
    assert_eq!(number(&summary, "fires"), fired.len() as u64);
    assert_eq!(
        (number(&summary, "claims"), number(&summary, "first_seq"), number(&summary, "last_seq")),
        (until - since + 1, since, until),
        "{ax}"
    );
}

#[test]
fn what_is_tried_is_what_fired() {
    let mut dice = Dice::roll_seed();
    let home = Home::new("tried");
    let server = serve(&home);
    // History from before the watchers, aliases included.
    home.pipe(&claims(&mut dice, 0..60)).expect(0);
    for (n, ax) in TEXTS.iter().enumerate() {
        let runs = if ax.contains(" so ") { &[][..] } else { &["--run", "work"] };
        home.object(&[&["watch", "create", &format!("w{n}"), "--when", ax], runs].concat());
    }
    home.pipe(&claims(&mut dice, 60..360)).expect(0);
    server.until_settled();
    let check = |until: u64| {
        for (n, ax) in TEXTS.iter().enumerate() {
            agrees(&home, &format!("w{n}"), ax, 61, until);
        }
    };
    check(360);
    let busy = (0..TEXTS.len()).filter(|n| !fired(&home, &format!("w{n}")).is_empty());
    assert!(busy.count() >= 20, "most of the watchers have something to fire for");
    server.stop();
    check(360);
    // What comes while no server runs is matched later, and fires for the same claims.
    home.pipe(&claims(&mut dice, 360..420)).expect(0);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    crate::support::until("all is matched", || {
        let status = server.get("/api/v1/status").remove(0);
        (number(&status["lag"], "behind") == 0).then_some(())
    });
    server.until_settled();
    check(420);

    // One by one, and as expectations.
    let ids: Vec<String> = (61..=420).map(|seq| format!("c-{}", seq - 1)).collect();
    for (n, ax) in TEXTS.iter().enumerate().step_by(5) {
        let fired: BTreeSet<u64> = fired(&home, &format!("w{n}")).into_iter().collect();
        let on: Vec<&str> = ids.iter().flat_map(|id| ["--on", id]).collect();
        let verdicts = home.json(&[&["watch", "test", ax][..], &on].concat());
        assert_eq!(verdicts.len(), ids.len());
        for (verdict, id) in verdicts.iter().zip(&ids) {
            assert_eq!(verdict["id"], **id, "in the order in which they were named");
            let fires = fired.contains(&number(verdict, "seq"));
            assert_eq!(verdict["fires"], fires, "{ax}: {verdict}");
            let conditions = verdict["conditions"].as_array().expect("a list");
            let all_held = conditions.iter().all(|condition| condition["held"] == true);
            assert_eq!(all_held, fires, "{ax}: {verdict}");
        }
        let expected: String = verdicts
            .iter()
            .map(|verdict| {
                let word = if verdict["fires"] == true { "yes" } else { "no" };
                format!("{} {word}\n", text(verdict, "id"))
            })
            .collect();
        fs::write(home.path("expected.txt"), &expected).expect("a file can be written");
        let held = home.object(&["watch", "test", ax, "--expect", "expected.txt"]);
        assert_eq!(held["summary"]["as_expected"], ids.len(), "{ax}");
    }
    server.stop();
}

#[test]
fn nothing_is_written_and_nothing_fires() {
    let home = Home::new("unwritten");
    let server = serve(&home);
    home.object(&["as", "X is seen by ann"]);
    let head = home.object(&["audit", "head"]);
    for more in [&[][..], &["--max-fires-per-second", "5"], &["--since", "start"]] {
        let (matches, summary) = tried(&home, "is seen so work", more);
        assert_eq!((matches.len(), number(&summary, "fires")), (1, 1));
        assert_eq!((keys(&matches[0]), keys(&summary)), (MATCH.to_vec(), SUMMARY.to_vec()));
    }
    assert_eq!(home.object(&["audit", "head"]), head);
    assert!(home.json(&["fires"]).is_empty() && home.json(&["watch", "list"]).is_empty());
    server.stop();
}

#[test]
fn history_begins_where_it_is_told() {
    let home = Home::new("begins");
    let lines: String = (1..=40)
        .map(|n| format!("{}\n", json!({ "id": format!("c-{n}"), "subjects": ["X"] })))
        .collect();
    home.pipe(&lines).expect(0);
    let check = |served: &str| {
        // (since, the first claim that is read, how many are)
        let cases: [(&[&str], u64, u64); 8] = [
            (&[], 1, 40),
            (&["--since", "start"], 1, 40),
            (&["--since", "0"], 1, 40),
            (&["--since", "38"], 38, 3),
            (&["--since", "40"], 40, 1),
            (&["--since", "2001-02-03"], 1, 40),
            (&["--since", "yesterday"], 1, 40),
            (&["--since", "3 hours ago"], 1, 40),
        ];
        for (since, first, count) in cases {
            let (matches, summary) = tried(&home, "x", since);
            assert_eq!(seqs(&matches), (first..=40).collect::<Vec<_>>(), "{served} {since:?}");
            assert_eq!(number(&summary, "claims"), count, "{served} {since:?}");
            assert_eq!(text(&summary, "first_at"), text(&matches[0], "fires_at"));
        }
        for since in ["41", "tomorrow", "18446744073709551615"] {
            let (matches, summary) = tried(&home, "x", &["--since", since]);
            assert!(matches.is_empty() && summary["first_seq"].is_null(), "{served} {since}");
            assert_eq!(number(&summary, "claims"), 0, "{served} {since}");
        }
        let (first, summary) = tried(&home, "x", &["--limit", "3"]);
        assert_eq!((seqs(&first), number(&summary, "shown")), (vec![1, 2, 3], 3), "{served}");
        assert_eq!(number(&summary, "matches"), 40, "all are counted");
    };
    check("without a server:");
    let server = serve(&home);
    check("with one:");
    server.stop();
    // An empty log is no mistake.
    let empty = Home::new("begins-empty");
    let server = serve(&empty);
    assert_eq!(number(&tried(&empty, "x", &[]).1, "claims"), 0);
    server.stop();
}

#[test]
fn a_limit_is_rehearsed() {
    let home = Home::new("rehearsed");
    let lines: String = (0..50)
        .map(|n| format!("{}\n", json!({ "id": format!("c-{n}"), "subjects": ["X"] })))
        .collect();
    home.pipe(&lines).expect(0);
    let rate = ["--max-fires-per-second", "4"];
    let (matches, summary) = tried(&home, "x so work also", &rate);
    let starts: Vec<&Value> =
        matches.iter().flat_map(|line| line["starts"].as_array().expect("a list")).collect();
    assert_eq!(starts.len(), 100);
    assert_eq!((&starts[0]["handler"], &starts[1]["handler"]), (&json!("work"), &json!("also")));
    // All came at about the same time, so each waits a quarter of a second more than the one before.
    let waits: Vec<u64> = starts.iter().map(|start| number(start, "waits_ms")).collect();
    assert_eq!(waits[0], 0);
    assert!(waits.iter().is_sorted() && waits[99] <= 99 * 250 && waits[99] > 99 * 250 - 10_000);
    let limit = &summary["limit"];
    assert_eq!(number(limit, "max_fires_per_second"), 4);
    assert_eq!(number(limit, "longest_wait_ms"), waits[99]);
    assert_eq!(number(limit, "waited"), waits.iter().filter(|wait| **wait > 0).count() as u64);
    assert_eq!(limit["last_starts_at"], starts[99]["starts_at"]);
    assert!((50..100).contains(&number(limit, "longest_queue")), "{limit}");
    let (matches, summary) = tried(&home, "x", &["--max-fires-per-second", "0"]);
    assert!(matches[0]["starts"].is_null() && summary["limit"].is_null(), "0 is no limit");
    assert_eq!(number(&summary["busiest_second"], "fires"), 50);
}

#[test]
fn a_change_gains_and_loses() {
    let home = Home::new("change");
    home.configure_zoo(&[
        Zoo::good("zoo").watcher(json!({ "id": "exact", "predicates": ["seen"] }))
    ]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["watch", "create", "w", "--when", "is draft", "--run", "work"]);
    home.object(&["watch", "create", "w", "--when", "is seen", "--run", "work"]);
    let lines: String = [("1", "seen", "ann"), ("2", "SEEN", "hr"), ("3", "lost", "ann")]
        .iter()
        .map(|(id, predicate, actor)| {
            let claim =
                json!({ "id": id, "subjects": ["X"], "predicates": [predicate], "actors": [actor] });
            format!("{claim}\n")
        })
        .collect();
    home.pipe(&lines).expect(0);
    server.until_settled();
    let check = |served: &str| {
        // (text, watcher, its lines, how many stay)
        let cases = [
            ("is seen", "w", vec![], 2),
            ("by ann", "user-w", vec![(2, "lost"), (3, "gained")], 1),
            ("is seen lost", "zoo-exact", vec![(2, "gained"), (3, "gained")], 1),
            ("is nothing", "w", vec![(1, "lost"), (2, "lost")], 0),
        ];
        for (ax, watcher, changes, both) in cases {
            let (lines, summary) = tried(&home, ax, &["--compare", watcher]);
            let found: Vec<_> =
                lines.iter().map(|line| (number(line, "seq"), text(line, "change"))).collect();
            assert_eq!(found, changes, "{served} {ax}");
            let compare = &summary["compare"];
            let count = |change| changes.iter().filter(|(_, of)| *of == change).count() as u64;
            assert_eq!(
                ["gained", "lost", "both"].map(|key| number(compare, key)),
                [count("gained"), count("lost"), both],
                "{served} {ax}: {compare}"
            );
        }
        let (_, summary) = tried(&home, "x", &["--compare", "w"]);
        let compare = &summary["compare"];
        assert_eq!(text(compare, "watcher"), "user-w");
        assert_eq!((number(compare, "revision"), text(compare, "when")), (2, "is seen"));
        // Claim by claim.
        let verdict = home.object(&["watch", "test", "is lost", "--on", "2", "--compare", "w"]);
        assert_eq!(
            (&verdict["fires"], &verdict["compare"]["fires"]),
            (&json!(false), &json!(true))
        );
        let people = home.run_plain(&["watch", "test", "by ann", "--compare", "w"]).expect(0);
        let marks: Vec<_> = people.out.lines().filter_map(|line| line.get(..1)).collect();
        assert_eq!(marks[1..3], ["-", "+"], "{people:?}");
        people.says(&["gains 1, loses 1 and keeps 1", "nothing was written"]);
    };
    check("with a server:");
    server.stop();
    check("without one:");
}

#[test]
fn expectations_are_held_to() {
    let home = Home::new("expectations");
    for (id, claim) in [("a", "X is seen"), ("b", "X is lost"), ("c", "X is seen by hr")] {
        home.object(&["as", claim, "--id", id]);
    }
    let check = |served: &str| {
        let run = |ax: &str, expected: &str| {
            fs::write(home.path("expected"), expected).expect("a file can be written");
            home.run(&["watch", "test", ax, "--expect", "expected", "--junit", "report.xml"])
        };
        let report = || fs::read_to_string(home.path("report.xml")).expect("a report");
        let well = run("is seen", "a yes\nb no\n# and\nc yes\n").expect(0).object();
        let summary = json!({ "tests": 3, "as_expected": 3, "differ": 0, "missing": 0 });
        assert_eq!(well["summary"], summary, "{served}");
        let xml = report();
        assert!(xml.contains(r#"<testsuite name="axwatch watch test" tests="3" failures="0""#));
        assert_eq!(xml.matches("<testcase").count(), 3);

        let wrong = run("is seen by not hr", "a no\nb no\nc yes\nd no\n").expect(1).json();
        let ids: Vec<_> = wrong.iter().map(|line| line["id"].as_str()).collect();
        assert_eq!(ids, [Some("a"), Some("c"), Some("d"), None], "{served} {wrong:?}");
        assert_eq!((&wrong[0]["fires"], &wrong[0]["expected"]), (&json!(true), &json!(false)));
        let decided = wrong[1]["decided_by"].as_array().expect("a list");
        assert_eq!(decided.len(), 1, "only the condition that failed: {}", wrong[1]);
        assert_eq!((&decided[0]["field"], &decided[0]["held"]), (&json!("actor"), &json!(false)));
        assert!(wrong[2]["seq"].is_null() && wrong[2]["fires"].is_null());
        let summary = json!({ "tests": 4, "as_expected": 1, "differ": 2, "missing": 1 });
        assert_eq!(wrong[3]["summary"], summary, "{served}");
        let xml = report();
        assert!(xml.contains(r#"tests="4" failures="3" errors="0""#), "{xml}");
        assert_eq!(xml.matches("<failure").count(), 3);
        assert!(xml.contains("expected no, is not in the store"), "{xml}");
        assert_well_formed(&xml);
        let people = home.run_plain(&["watch", "test", "is lost", "--expect", "expected"]);
        people.expect(1).says(&["c  expected yes, would not fire: predicate", "1 of 4 claims"]);

        // From standard input, as JSON.
        let args = ["watch", "test", "is seen", "--expect", "-", "--json", "--store"];
        let mut command = home.command(args);
        command.arg(home.store());
        let mut running = Running::start(command);
        running.write("{\"a\": \"yes\",\n \"b\": \"no\"}");
        assert_eq!(running.finish().expect(0).object()["summary"]["tests"], 2, "{served}");

        // What cannot be held to says why, and leaves no older report behind.
        let told = run("is seen", "a yes\nb perhaps\n").expect(2);
        let told = text(&told.error(), "message").to_owned();
        assert!(told.contains("expected: line 2: \"b perhaps\"") && told.contains("AS-1 yes"));
        assert!(report().contains("errors=\"1\""), "{}", report());
        assert_eq!(run("is", "a yes").expect(1).error()["kind"], "ax", "{served}");
        assert!(report().contains("this is no AX"), "{}", report());
        assert_well_formed(&report());
    };
    check("without a server:");
    let server = serve(&home);
    check("with one:");
    // More than one question's worth.
    let many: String = (0..2_500).map(|n| format!("missing-{n} no\n")).collect();
    fs::write(home.path("many"), many + "a yes\n").expect("a file can be written");
    let ran = home.run(&["watch", "test", "is seen", "--expect", "many"]).expect(1).json();
    let summary = json!({ "tests": 2_501, "as_expected": 1, "differ": 0, "missing": 2_500 });
    assert_eq!(ran.last().expect("a summary")["summary"], summary);
    server.stop();
}

/// Every element that is opened is closed, in order.
#[track_caller]
fn assert_well_formed(xml: &str) {
    let mut open = Vec::new();
    let body = xml.split_once("?>").expect("a declaration").1;
    for tag in body.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("no > after {tag:?}"));
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).expect("a name");
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name), "{xml}"),
            (false, false) => open.push(name),
            (false, true) => {}
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
    assert!(open.is_empty(), "{open:?} in {xml}");
}

#[test]
fn what_cannot_be_tried_is_told() {
    let home = Home::new("untried");
    home.object(&["as", "X is seen", "--id", "a"]);
    let check = || {
        // (arguments, exit code, kind, words of the message)
        let cases: [(&[&str], i32, &str, &str); 17] = [
            (&["is"], 1, "ax", "expected a predicate"),
            (&["is seen over 5y"], 1, "ax", "over"),
            (&["since tomorrow until yesterday"], 1, "ax", ""),
            (&["so work"], 1, "invalid", "filters on nothing"),
            (&["x so 'a b/c/d'"], 1, "invalid", "plugin name"),
            (&["x", "--max-fires-per-second", "-1"], 1, "invalid", "-1 is not between 0"),
            (&["x", "--max-fires-per-second", "100001"], 1, "invalid", "100001 is not between 0"),
            (&["x", "--compare", "nobody"], 1, "not_found", "no watcher \"nobody\""),
            (&["x", "--on", "a", "--on", "b"], 1, "not_found", "no attestation b"),
            (&["x", "--on", "b", "--on", "c"], 1, "not_found", "no attestations b, c"),
            (&["x", "--since", "soon"], 2, "usage", "2024-01-15"),
            (&["x", "--since", "-3"], 2, "", ""),
            (&["x", "--since", "9999 years ago"], 2, "usage", "outside the years"),
            (&["x", "--limit", "0"], 2, "", ""),
            (&["x", "--on", "a", "--since", "start"], 2, "", ""),
            (&["x", "--junit", "report.xml"], 2, "", ""),
            (&["x", "--expect", "nowhere.txt"], 1, "failed", "cannot read nowhere.txt"),
        ];
        for (args, code, kind, words) in cases {
            let ran = home.run(&[&["watch", "test"], args].concat());
            assert_eq!(ran.code, code, "{args:?}: {ran:?}");
            // What the shape of the command line forbids is told before JSON is spoken.
            if !kind.is_empty() {
                let error = ran.error();
                assert_eq!(error["kind"], kind, "{args:?}: {error}");
                assert!(text(&error, "message").contains(words), "{args:?}: {error}");
            }
        }
        let people = home.run_plain(&["watch", "test", "is seen over 5y"]).expect(1);
        let lines: Vec<_> = people.err.lines().collect();
        let at = lines.iter().position(|line| line.contains("is seen over")).expect("the text");
        assert_eq!(lines[at + 1].find('^'), lines[at].find("over"), "{people:?}");
        // What is there is still told, before what is not.
        let partly = home.run_plain(&["watch", "test", "is seen", "--on", "a", "--on", "b"]);
        partly.expect(1).says(&["a (seq 1) would fire", "predicate is to be seen: it is seen"]);
    };
    check();
    let server = serve(&home);
    check();
    // A watcher of that name can still be had, shown and removed.
    home.object(&["watch", "create", "test", "--when", "is seen", "--run", "work"]);
    assert_eq!(home.object(&["watch", "show", "test"])["id"], "user-test");
    assert_eq!(tried(&home, "is seen", &["--compare", "test"]).1["compare"]["both"], 1);
    home.object(&["watch", "rm", "test"]);
    let request = |path: &str, body: &str| {
        let answer = server.request("POST", path, body).expect("an answer");
        let json: Value = serde_json::from_str(answer.1.lines().last().expect("a line"))
            .unwrap_or_else(|error| panic!("no JSON ({error}): {answer:?}"));
        (answer.0, json)
    };
    let (status, end) = request("/api/v1/watchers/test", r#"{"query":"is seen"}"#);
    assert_eq!((status, number(&end["summary"], "matches")), (200, 1));
    // (body, status, words of the message)
    let cases = [
        ("{}", 400, "query"),
        (r#"{"query":"x","nonsense":1}"#, 400, "nonsense"),
        (r#"{"query":"x","limit":0}"#, 400, "limit is 0"),
        (r#"{"query":"x","since":"soon"}"#, 400, "soon"),
        (r#"{"query":"x","on":["a"],"limit":3}"#, 400, "limit"),
        (r#"{"query":"x","on":[""]}"#, 400, "attestation id"),
        (r#"{"query":"is"}"#, 400, "expected a predicate"),
    ];
    for (body, expected, words) in cases {
        let (status, answer) = request("/api/v1/watchers/test", body);
        assert_eq!(status, expected, "{body}: {answer}");
        assert!(text(&answer["error"], "message").contains(words), "{body}: {answer}");
    }
    assert_eq!(request("/api/v1/watchers/other", "{}").0, 405);
    server.stop();
}

#[test]
fn people_get_a_table_and_what_came_of_it() {
    let home = Home::new("people");
    for n in 0..3 {
        home.object(&["as", &format!("X is seen of c{n} by ann")]);
    }
    let ran = home.run_plain(&["watch", "test", "is", "seen", "--limit", "2"]).expect(0);
    let lines: Vec<_> = ran.out.lines().collect();
    assert!(lines[0].starts_with("SEQ  FIRES"), "{ran:?}");
    assert!(lines[1].starts_with("  1  2") && lines[2].starts_with("  2  2"), "{ran:?}");
    assert!(!ran.out.contains('\x1b'), "colours in a pipe: {ran:?}");
    ran.says(&[
        "3 claims, seq 1 to 3",
        "3, one for each match",
        "2 of these 3 are shown",
        "nothing was written, and nothing fired",
    ]);
    let rate = ["--max-fires-per-second", "1"];
    let ran = home.run_plain(&[&["watch", "test", "is seen so work"], &rate[..]].concat());
    ran.expect(0).says(&["WAITS", "3 of work", "at 1 a second 2 would have waited"]);
    let none = home.run_plain(&["watch", "test", "is nothing"]).expect(0);
    none.says(&["matches  0", "--on ATTESTATION"]);
}
