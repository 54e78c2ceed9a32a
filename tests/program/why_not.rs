//! `axwatch why-not`: that it says what the engine did, and why, with a server and without one.

use std::collections::BTreeSet;

use crate::support::{Dice, Home, Server, Zoo, keys, number, text, until};
use serde_json::{Value, json};

const WHY_NOT: &[&str] = &[
    "attestation_id",
    "conditions",
    "jobs",
    "present",
    "reasons",
    "revision",
    "seq",
    "summary",
    "verdict",
    "watcher",
    "when",
];
const NEAREST: &[&str] = &[
    "attestation_id",
    "fired",
    "fired_watchers",
    "held_back",
    "held_back_watchers",
    "nearest",
    "seq",
    "summary",
    "watchers",
];

fn verdict(why_not: &Value) -> &str {
    text(why_not, "verdict")
}

fn reasons(why_not: &Value) -> Vec<&str> {
    let reasons = why_not["reasons"].as_array().expect("reasons are a list");
    reasons.iter().map(|reason| text(reason, "kind")).collect()
}

fn failed(why_not: &Value) -> usize {
    let conditions = why_not["conditions"].as_array().expect("conditions are a list");
    conditions.iter().filter(|condition| condition["held"] == false).count()
}

/// Texts of watchers of all kinds.
const TEXTS: &[&str] = &[
    "is seen of NY",
    "is seen of 'New York' by not HR",
    "ALICE is seen",
    "is not lost of not NYC",
    "is seen since yesterday",
    "until 2 days ago by hr ann",
    "is seen where stars >= 3",
    "BOB ALICE is lost seen where tags contains 'x'",
    "of Boston NY where result.code exists and stars != 2",
    "is seen of ny by HR since 3 days ago where stars > 1",
];

/// A world that changes: what happens in it is thrown, and all of it goes through the real program.
struct World<'a> {
    home: &'a Home,
    dice: Dice,
    claims: Vec<String>,
    watchers: BTreeSet<String>,
}

impl World<'_> {
    fn pick<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        let place = self.dice.below(texts.len() as u64);
        texts[usize::try_from(place).expect("a small number")]
    }

    /// A claim, as JSON.
    fn claim(&mut self) -> String {
        let id = format!("c{}", self.claims.len());
        let days = self.dice.below(5);
        let at = format!("2024-05-1{}T00:00:00Z", self.dice.below(10));
        let mut claim = json!({
            "id": id,
            "subjects": [self.pick(&["ALICE", "Bob", "carol"])],
            "predicates": [self.pick(&["seen", "lost"])],
            "contexts": [self.pick(&["NY", "New York", "nyc", "Boston"])],
            "actors": [self.pick(&["HR", "ann"])],
            "attributes": {
                "stars": self.dice.below(5),
                "tags": [self.pick(&["x", "y"])],
                "result": if days > 2 { json!({ "code": 1 }) } else { json!({}) },
            },
        });
        if days == 0 {
            claim["timestamp"] = at.into();
        }
        self.claims.push(id);
        claim.to_string()
    }

    fn append(&mut self, server: &Server) {
        let claim = self.claim();
        let (status, answer) = server.request("POST", "/api/v1/attestations", &claim).unwrap();
        assert_eq!(status, 200, "{answer}");
    }

    /// Something happens to a watcher or to the aliases. What cannot be (to pause what is gone) is
    /// refused, which is fine.
    fn change(&mut self, server: &Server) {
        let watcher = format!("w{}", self.dice.below(8));
        let at = format!("/api/v1/watchers/{watcher}");
        match self.dice.below(10) {
            0..=4 => {
                let when = self.pick(TEXTS);
                let rate = if self.dice.below(4) == 0 { 1 } else { 0 };
                let handlers: &[&str] =
                    if self.dice.below(4) == 0 { &["work", "nobody.here"] } else { &["work"] };
                let declared = json!({
                    "id": watcher, "when": when, "handlers": handlers,
                    "max_fires_per_second": rate,
                });
                let declared = declared.to_string();
                let answer = server.request("POST", "/api/v1/watchers", &declared).unwrap();
                assert_eq!(answer.0, 200, "{declared}: {answer:?}");
                self.watchers.insert(format!("user-{watcher}"));
            }
            5 => drop(server.request("DELETE", &at, "")),
            6 => drop(server.request("POST", &format!("{at}/pause"), "{}")),
            7 => drop(server.request("POST", &format!("{at}/resume"), "{}")),
            8 => {
                let words = [self.pick(&["NY", "nyc"]), self.pick(&["New York", "Boston"])];
                self.home.run(&["alias", "add", words[0], words[1]]).expect(0);
            }
            _ => {
                let word = self.pick(&["ny", "NYC", "boston", "New York"]);
                self.home.run(&["alias", "rm", word]);
            }
        }
    }

    /// What is declared and what fired, as other commands tell it.
    fn fires(&self) -> BTreeSet<(String, String)> {
        let pair = |fire: &Value| {
            (text(fire, "watcher").to_owned(), text(fire, "attestation_id").to_owned())
        };
        self.home.json(&["fires", "--all"]).iter().map(pair).collect()
    }

    /// Asks about every pair, and holds each answer to what the engine did.
    fn check(&self, ask: impl Fn(&str, &str) -> Value, pairs: impl Fn(usize) -> bool) {
        let before = self.fires();
        let all = self.claims.iter().flat_map(|c| self.watchers.iter().map(move |w| (w, c)));
        let asked = all.enumerate().filter(|(place, _)| pairs(*place));
        let answers: Vec<_> = asked.map(|(_, (w, c))| (w.clone(), c.clone(), ask(w, c))).collect();
        // A watcher that had too many open jobs may have gone on meanwhile.
        let after = self.fires();
        let mut verdicts = BTreeSet::new();
        for (watcher, claim, answer) in answers {
            assert_eq!(keys(&answer), WHY_NOT);
            let pair = (watcher, claim);
            let fired = verdict(&answer) == "fired";
            assert!(fired || !before.contains(&pair), "{answer}");
            assert!(!fired || after.contains(&pair), "{answer}");
            assert_eq!(answer["jobs"] != json!([]), fired, "{answer}");
            match verdict(&answer) {
                "does_not_match" => assert!(failed(&answer) > 0, "{answer}"),
                "fired" | "registered_later" | "retired" | "not_yet_matched" | "backpressured" => {
                    assert_eq!(failed(&answer), 0, "{answer}");
                }
                other => panic!("{other}: {answer}"),
            }
            verdicts.insert(verdict(&answer).to_owned());
        }
        let expected = ["does_not_match", "fired", "registered_later"];
        assert!(expected.iter().all(|one| verdicts.contains(*one)), "only {verdicts:?}");
    }
}

/// Two plugin's watchers that change from one life of the server to the next.
fn configure_life(home: &Home, life: u32) {
    let contexts = if life == 1 { ["NY"] } else { ["Boston"] };
    let mut zoo = Zoo::good("zoo")
        .watcher(json!({ "id": "lists", "contexts": contexts, "predicates": ["seen"] }))
        .watcher(json!({ "id": "ax", "ax": "is seen of ny by hr" }));
    if life > 1 {
        zoo = zoo.watcher(json!({ "id": "late", "subjects": ["ALICE"] }));
    } else {
        zoo = zoo.watcher(json!({ "id": "early", "subjects": ["ALICE"] }));
    }
    home.configure_zoo(&[zoo]);
}

#[test]
fn every_answer_agrees_with_what_the_engine_did() {
    let home = Home::new("agrees");
    configure_life(&home, 1);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let watchers = ["lists", "ax", "early", "late"].map(|id| format!("zoo-{id}"));
    let mut world = World {
        home: &home,
        dice: Dice::roll_seed(),
        claims: Vec::new(),
        watchers: watchers.into_iter().collect(),
    };
    let live = |world: &mut World<'_>, server: &Server, steps: usize| {
        for _ in 0..steps {
            world.change(server);
            world.append(server);
        }
    };
    live(&mut world, &server, 25);
    server.kill();

    // Nobody matches these before the next server does, with the watchers that stand then.
    let alone: Vec<_> = (0..6).map(|_| world.claim()).collect();
    home.pipe(&format!("{}\n", alone.join("\n"))).expect(0);
    configure_life(&home, 2);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    live(&mut world, &server, 25);
    crate::support::until("all claims are matched", || {
        let status = home.object(&["status"]);
        (number(&status["lag"], "behind") == 0).then_some(())
    });
    let asked = |watcher: &str, claim: &str| {
        server.get(&format!("/api/v1/why-not/{claim}?watcher={watcher}")).remove(0)
    };
    world.check(asked, |_| true);
    for claim in &world.claims {
        let answer = server.get(&format!("/api/v1/why-not/{claim}?limit=100")).remove(0);
        let fires = world.fires();
        let fired: Vec<_> = fires.iter().filter(|(_, about)| about == claim).collect();
        assert_eq!(number(&answer, "fired"), fired.len() as u64, "{answer}");
        let told = answer["fired_watchers"].as_array().expect("a list");
        assert!(fired.iter().map(|(watcher, _)| watcher).eq(told), "{fired:?} {answer}");
    }
    server.stop();
    // Each is a process of its own, so not all of them.
    let asked = |watcher: &str, claim: &str| home.object(&["why-not", watcher, claim]);
    world.check(asked, |place| place % 7 == 3);
}

/// Claims that nobody has matched when the server starts; one in a hundred is one that watchers want.
fn backlog(world: &mut World<'_>, claims: usize) {
    let mut lines = String::new();
    for number in 0..claims {
        if number % 100 == 0 {
            lines.push_str(&world.claim());
            lines.push('\n');
        } else {
            lines.push_str("{\"subjects\":[\"X\"],\"predicates\":[\"noise\"]}\n");
        }
    }
    world.home.pipe(&lines).expect(0);
}

#[test]
fn a_change_while_matching_is_behind_is_in_force_from_where_it_was() {
    let home = Home::new("behind");
    configure_life(&home, 1);
    let mut world = World {
        home: &home,
        dice: Dice::roll_seed(),
        claims: Vec::new(),
        watchers: ["zoo-lists", "zoo-ax"].map(str::to_owned).into(),
    };
    let server = home.serve();
    server.until_ready(&["zoo"]);
    (0..20).for_each(|_| world.change(&server));
    server.stop();
    backlog(&mut world, 20_000);
    let server = home.serve();
    let behind = || number(&server.get("/api/v1/status").remove(0)["lag"], "behind");
    let late = ["watch", "create", "late", "--when", "is seen", "--run", "work"];
    world.watchers.insert(text(&home.object(&late), "id").to_owned());
    let mut while_behind = 0;
    // It goes on after matching has caught up, so that the test means something on any machine.
    for _ in 0..40 {
        world.change(&server);
        while_behind += u32::from(behind() > 0);
    }
    println!("{while_behind} changes while claims waited to be matched");
    crate::support::until("all claims are matched", || (behind() == 0).then_some(()));
    server.until_ready(&["zoo"]);
    for _ in 0..10 {
        world.append(&server);
    }
    let asked = |watcher: &str, claim: &str| {
        server.get(&format!("/api/v1/why-not/{claim}?watcher={watcher}")).remove(0)
    };
    world.check(asked, |_| true);
}

/// The claims of the other tests: one that `prs` matches, and one that it does not.
fn serve(home: &Home) -> Server {
    home.configure_zoo(&[Zoo::good("zoo")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["as", "X is seen of here by ann", "--id", "before"]);
    let watch = |id: &str, when: &str| {
        home.object(&["watch", "create", id, "--when", when, "--run", "work"]);
    };
    watch("prs", "is seen of GitHub where stars > 3");
    watch("strict", "X is seen lost of GitHub GitLab by HR where stars > 3");
    watch("other", "is lost");
    watch("gone", "is seen");
    home.object(&["watch", "rm", "gone"]);
    home.object(&["as", "X is seen of GitHub by ann", "--id", "yes", "--attr", "stars=4"]);
    home.object(&["as", "X is seen of GitLab by ann", "--id", "no", "--attr", "stars=4"]);
    server.until_settled();
    server
}

#[test]
fn conditions_are_shown_with_what_decided_them() {
    let home = Home::new("decided");
    let server = serve(&home);
    let check = |served: &str| {
        let answer = home.object(&["why-not", "prs", "no"]);
        assert_eq!(
            (verdict(&answer), &answer["revision"]),
            ("does_not_match", &json!(1)),
            "{served}"
        );
        let expected = json!([
            {
                "field": "predicate", "rule": "any", "asked": ["seen"], "held": true,
                "decided_by": ["seen"],
            },
            {
                "field": "context", "rule": "any", "asked": ["github"], "held": false,
                "decided_by": ["GitLab"],
            },
            {
                "field": "attributes.stars", "rule": ">", "asked": ["3"], "held": true,
                "decided_by": ["4"],
            },
        ]);
        assert_eq!(answer["conditions"], expected, "{served}");
        assert_eq!((&answer["reasons"], &answer["jobs"]), (&json!([]), &json!([])), "{served}");
        let sentence =
            "user-prs did not fire for no (seq 3): its context was to be github, and is GitLab";
        assert_eq!(text(&answer, "summary"), sentence, "{served}");

        let answer = home.object(&["why-not", "user-prs", "yes"]);
        let (job, fire) = (&answer["jobs"][0], &home.json(&["fires", "--watcher", "prs"])[0]);
        assert_eq!((verdict(&answer), failed(&answer)), ("fired", 0), "{served}");
        assert_eq!((&job["job_id"], &job["state"]), (&fire["job_id"], &json!("completed")));
        assert_eq!(text(&answer, "summary"), "user-prs fired for yes (seq 2): 1 job, completed");

        let plain = home.run_plain(&["why-not", "prs", "no"]).expect(0);
        assert_eq!(plain.out.lines().next(), Some(sentence), "{served}");
        plain.says(&["✓", "✗", "one of", "GitLab", "attributes.stars", "(revision 1)"]);
        home.run_plain(&["why-not", "prs", "yes"]).expect(0).says(&["completed", "axwatch why"]);
    };
    check("with a server:");
    server.stop();
    check("without one:");
}

#[test]
fn what_was_declared_when_is_told_apart() {
    let home = Home::new("apart");
    let server = serve(&home);
    let answer = |claim: &str| home.object(&["why-not", "prs", claim]);
    let before = answer("before");
    assert_eq!(
        (verdict(&before), reasons(&before)),
        ("registered_later", vec!["registered_later"])
    );
    assert_eq!((&before["revision"], &before["when"]), (&Value::Null, &Value::Null));
    assert_eq!(before["present"]["matches"], false);
    text(&before, "summary").contains("after seq 1").then_some(()).expect("it says since when");

    // A change is in force from then on, and each claim is told by what was in force at it.
    let when = "is seen of GitLab";
    home.object(&["watch", "create", "prs", "--when", when, "--run", "work"]);
    home.object(&["as", "X is seen of GitLab by ann", "--id", "after"]);
    let no = answer("no");
    assert_eq!((verdict(&no), &no["revision"]), ("does_not_match", &json!(1)));
    let present = json!({
        "revision": 2, "when": when, "matches": true,
        "conditions": [
            { "field": "predicate", "rule": "any", "asked": ["seen"], "held": true, "decided_by": ["seen"] },
            { "field": "context", "rule": "any", "asked": ["gitlab"], "held": true, "decided_by": ["GitLab"] },
        ],
    });
    assert_eq!(no["present"], present);
    let yes = answer("yes");
    assert_eq!((verdict(&yes), &yes["revision"]), ("fired", &json!(1)));
    assert_eq!(yes["present"]["matches"], false);
    let after = answer("after");
    assert_eq!((verdict(&after), &after["revision"]), ("fired", &json!(2)));
    assert_eq!(after["present"], Value::Null);

    home.object(&["watch", "rm", "prs"]);
    home.object(&["as", "X is seen of GitLab by ann", "--id", "removed"]);
    let removed = answer("removed");
    assert_eq!((verdict(&removed), reasons(&removed)), ("retired", vec!["retired"]));
    assert_eq!(removed["present"], Value::Null);
    home.object(&["watch", "create", "prs", "--when", when, "--run", "work"]);
    home.object(&["as", "X is seen of GitLab by ann", "--id", "again"]);
    let removed = answer("removed");
    assert_eq!((verdict(&removed), &removed["present"]["matches"]), ("retired", &json!(true)));
    assert_eq!((verdict(&answer("again")), verdict(&answer("after"))), ("fired", "fired"));
    // What was refused changes nothing, and is told.
    let refused = ["watch", "create", "prs", "--when", when, "--max-fires-per-second", "-1"];
    home.run(&[&refused[..], &["--run", "work"]].concat()).expect(1);
    let no = answer("no");
    assert_eq!((verdict(&no), reasons(&no)), ("does_not_match", vec!["refused"]));

    // The job's own story names the same revision, from the same rows.
    let job = text(&answer("yes")["jobs"][0], "job_id").to_owned();
    let why = home.object(&["why", &job]);
    assert_eq!(why["watcher"]["when"], "is seen of GitHub where stars > 3");
    assert_eq!(
        (&why["watcher"]["revision"], &why["watcher"]["generation"]),
        (&json!(1), &json!(0))
    );
    let leaf = why["watcher"]["leaf"].as_u64().expect("its record has a number");
    let records = home.json(&["audit", "show", "--all", "--type", "watcher_registered"]);
    let record = records.iter().find(|record| record["leaf"] == leaf).expect("it is there");
    assert_eq!((&record["watcher"], &record["revision"]), (&json!("user-prs"), &json!(1)));
    assert_eq!(record["at"], why["watcher"]["declared_at"]);
    server.stop();
    assert_eq!(home.object(&["why", &job])["watcher"], why["watcher"]);
}

#[test]
fn what_a_fire_waits_for_is_told() {
    let home = Home::new("waits");
    home.configure_zoo(&[Zoo::good("zoo"), Zoo::good("away").handlers(&["rest"])]);
    let server = home.serve();
    server.until_ready(&["zoo", "away"]);
    server.stop();
    home.configure_zoo(&[Zoo::good("zoo"), Zoo::new("away", "never-binds").handlers(&["rest"])]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let watch = |id: &str, args: &[&str]| {
        home.object(&[&["watch", "create", id, "--when", "is seen"], args].concat());
    };
    watch("paused", &["--run", "work"]);
    home.object(&["watch", "pause", "paused"]);
    watch("nobody", &["--run", "nobody.here"]);
    watch("away", &["--run", "rest"]);
    watch("both", &["--run", "work", "--run", "nobody.here"]);
    home.object(&["as", "X is seen", "--id", "claim"]);
    let answer = |watcher: &str| {
        let answer = home.object(&["why-not", watcher, "claim"]);
        assert_eq!((verdict(&answer), failed(&answer)), ("fired", 0), "{answer}");
        answer
    };
    for (watcher, reason) in
        [("paused", "watcher_paused"), ("nobody", "no_handler"), ("away", "plugin_away")]
    {
        let answer = answer(watcher);
        assert_eq!(reasons(&answer), [reason], "{answer}");
        let job = &answer["jobs"][0];
        assert_eq!((&job["waits"]["reason"], &job["state"]), (&json!(reason), &json!("paused")));
        assert!(text(&answer, "summary").ends_with("1 job, paused"), "{answer}");
        let message = text(&answer["reasons"][0], "message").to_owned();
        home.run_plain(&["why-not", watcher, "claim"]).expect(0).says(&["its job", &message]);
    }
    let both = crate::support::until("the job of `both` that can run has", || {
        let both = answer("both");
        (both["jobs"][0]["state"] == "completed").then_some(both)
    });
    assert_eq!((reasons(&both), both["jobs"][0]["waits"].is_null()), (vec!["no_handler"], true));
    assert_eq!(both["jobs"][1]["waits"]["reason"], "no_handler");

    // A rate holds a job back, and no fire.
    watch("slow", &["--run", "work", "--max-fires-per-second", "1"]);
    let lines: String = (0..20)
        .map(|n| format!("{{\"id\":\"s{n}\",\"subjects\":[\"X\"],\"predicates\":[\"seen\"]}}\n"))
        .collect();
    home.pipe(&lines).expect(0);
    let last = home.object(&["why-not", "slow", "s19"]);
    assert_eq!((verdict(&last), reasons(&last)), ("fired", vec!["limit"]), "{last}");

    server.kill();
    let alone = answer("paused");
    assert_eq!(reasons(&alone), ["no_server", "watcher_paused"]);
    assert_eq!(alone["jobs"][0]["waits"], Value::Null);
}

#[test]
fn reasons_beyond_the_filter_are_told() {
    let home = Home::new("beyond");
    let zoo = Zoo::good("zoo")
        .host("zero_rate", "never")
        .watcher(json!({ "id": "never", "predicates": ["seen"] }))
        .watcher(json!({ "id": "rated", "predicates": ["seen"], "max_fires_per_second": 9 }));
    home.configure_zoo(&[zoo, Zoo::new("wrong", "refused-watchers")]);
    let server = home.serve();
    server.until_ready(&["zoo", "wrong"]);
    home.object(&["watch", "create", "mine", "--when", "is seen", "--run", "zoo/work"]);
    home.object(&["as", "X is seen", "--id", "live"]);
    let check = |watcher: &str, claim: &str, expected: &str| {
        let answer = home.object(&["why-not", watcher, claim]);
        assert_eq!(verdict(&answer), expected, "{answer}");
        if expected != "fired" {
            assert_eq!(reasons(&answer), [expected], "{answer}");
        }
        answer
    };
    check("zoo-never", "live", "muted");
    check("zoo-rated", "live", "fired");
    let refused = check("wrong-bad-ax", "live", "refused");
    assert!(text(&refused, "summary").contains("the query is not understood"), "{refused}");
    server.until_settled();
    server.stop();

    // A claim that nobody has matched yet.
    home.object(&["as", "X is seen", "--id", "alone"]);
    let alone = check("mine", "alone", "not_yet_matched");
    assert!(text(&alone, "summary").contains("axwatch serve"), "{alone}");
    check("zoo-never", "alone", "muted");
    let nearest = home.object(&["why-not", "alone"]);
    assert_eq!(nearest["held_back"], 3, "{nearest}");
    let server = home.serve();
    server.until_ready(&["zoo"]);
    crate::support::until("it is matched", || {
        (verdict(&home.object(&["why-not", "mine", "alone"])) == "fired").then_some(())
    });
    server.until_settled();
    server.stop();

    // A text that this axwatch does not understand, as after an upgrade.
    let broken =
        r#"UPDATE {} SET declared = '{"ax":"is seen of"}' WHERE declared = '{"ax":"is seen"}'"#;
    for table in ["watchers", "watcher_revisions"] {
        let changed = home.database().execute(&broken.replacen("{}", table, 1), []).unwrap();
        assert_eq!(changed, 1, "{table}");
    }
    home.object(&["as", "X is seen", "--id", "broken"]);
    let told = check("mine", "broken", "broken");
    assert!(text(&told, "summary").contains("at 8: expected a context"), "{told}");
    check("mine", "live", "fired");
    let server = home.serve();
    server.until_ready(&["zoo"]);
    check("mine", "broken", "broken");
    check("mine", "live", "fired");
    let nearest = home.object(&["why-not", "broken"]);
    let held_back: Vec<_> = nearest["held_back_watchers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|watcher| (text(watcher, "watcher"), text(watcher, "verdict")))
        .collect();
    assert_eq!(held_back, [("user-mine", "broken"), ("zoo-never", "muted")]);
}

#[test]
fn without_a_watcher_the_nearest_are_told() {
    let home = Home::new("nearest");
    let server = serve(&home);
    let check = |served: &str| {
        let found = home.object(&["why-not", "no"]);
        assert_eq!(keys(&found), NEAREST);
        assert_eq!(text(&found, "summary"), "none of 3 watchers fired for no (seq 3)", "{served}");
        let near: Vec<_> = found["nearest"]
            .as_array()
            .unwrap()
            .iter()
            .map(|near| {
                let counts = (number(near, "failed"), number(near, "held"));
                (text(near, "watcher"), counts, text(&near["condition"], "field"))
            })
            .collect();
        // As few as possible that failed, then as many as possible that held.
        let expected = [
            ("user-strict", (1, 4), "actor"),
            ("user-prs", (1, 2), "context"),
            ("user-other", (1, 0), "predicate"),
        ];
        assert_eq!(near, expected, "{served}");
        // What is gone and would have matched is told apart.
        assert_eq!(found["held_back_watchers"][0]["watcher"], "user-gone", "{served}");
        assert_eq!(found["held_back_watchers"][0]["verdict"], "retired", "{served}");
        let one = home.object(&["why-not", "no", "--limit", "1"]);
        assert_eq!(one["nearest"], json!([found["nearest"][0]]), "{served}");

        let found = home.object(&["why-not", "yes"]);
        let summary = "1 of 3 watchers fired for yes (seq 2): user-prs";
        assert_eq!(text(&found, "summary"), summary, "{served}");
        assert_eq!((&found["fired"], &found["fired_watchers"]), (&json!(1), &json!(["user-prs"])));
        let plain = home.run_plain(&["why-not", "yes"]).expect(0);
        assert_eq!(plain.out.lines().next(), Some(summary), "{served}");
        plain.says(&[
            "came nearest",
            "user-strict",
            "4 of 5",
            "its actor was to be hr, and is ann",
        ]);

        let found = home.object(&["why-not", "before"]);
        assert_eq!(text(&found, "summary"), "no watcher was asked about before (seq 1)");
    };
    check("with a server:");
    server.stop();
    check("without one:");
}

#[test]
fn who_asks_about_nothing_is_told_what_there_is() {
    let home = Home::new("nothing");
    let server = serve(&home);
    let job = text(&home.json(&["fires"])[0], "job_id").to_owned();
    let readable = text(&home.object(&["as", "Y is unseen"]), "id").to_owned();
    let cut = &readable[..readable.len() - 3];
    let check = |served: &str| {
        // (what is asked, what the answer says)
        let cases: [(&[&str], &[&str]); 10] = [
            (&["prz", "no"], &["no watcher", "did you mean user-prs?"]),
            (&["no", "prs"], &["no is an attestation", "axwatch why-not prs no"]),
            (&["prs", "befor"], &["no attestation befor", "did you mean before?"]),
            (&["befor"], &["did you mean before?", "axwatch ax QUERY"]),
            (&["prs", cut], &["did you mean", &readable]),
            (&["prs", "2"], &["seq 2 is yes"]),
            (&["user-prs"], &["it is a watcher", "axwatch why-not user-prs ATTESTATION"]),
            (&[&job], &["it is a job", "axwatch why "]),
            (&["nobody-at-all", "nothing-at-all"], &["no watcher"]),
            (&["prs", "nothing-at-all"], &["no attestation nothing-at-all in this store; "]),
        ];
        for (args, expected) in cases {
            let ran = home.run(&[&["why-not"], args].concat()).expect(1);
            assert_eq!(ran.error()["kind"], "not_found", "{served} {args:?}");
            ran.says(expected);
        }
        home.run(&["why-not", ""]).expect(2).says(&["attestation id", "1 to 256 bytes"]);
    };
    check("with a server:");
    for (path, expected) in [
        ("no?watcher=prs&limit=3", "limit goes without watcher"),
        ("no?limit=0", "1 to 1000"),
        ("no?limit=1001", "1 to 1000"),
        ("no?watchers=prs", "unknown field"),
    ] {
        let (status, body) = server.request("GET", &format!("/api/v1/why-not/{path}"), "").unwrap();
        assert!(status == 400 && body.contains(expected), "{path}: {status} {body}");
    }
    for args in [
        &["why-not"][..],
        &["why-not", "a", "b", "c"],
        &["why-not", "prs", "no", "--limit", "3"],
        &["why-not", "no", "--limit", "0"],
        &["why-not", "no", "--limit", "1001"],
    ] {
        home.run(args).expect(2);
    }
    server.stop();
    check("without one:");
}

/// The reasons of a job, as `why` tells them.
fn why(home: &Home, job: &Value) -> Vec<String> {
    let why = home.object(&["why", text(job, "job_id")]);
    let reasons = why["reasons"].as_array().expect("reasons are a list").clone();
    let plain = home.run_plain(&["why", text(job, "job_id")]).expect(0);
    for reason in &reasons {
        assert!(plain.out.contains(text(reason, "message")), "{reason} in {plain:?}");
    }
    reasons.iter().map(|reason| text(reason, "kind").to_owned()).collect()
}

#[test]
fn what_was_held_and_what_was_let_go_is_told() {
    let home = Home::new("held");
    home.configure_zoo(&[Zoo::good("zoo")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let watch = |id: &str| {
        home.object(&["watch", "create", id, "--when", "is seen", "--run", "work"]);
    };
    ["kept", "dropped", "skipped"].into_iter().for_each(watch);
    home.object(&["watch", "mute", "kept", "--until", "2h"]);
    home.object(&["watch", "mute", "dropped", "--until", "2h", "--drop"]);
    home.object(&["watch", "pause", "skipped", "--skip"]);
    home.object(&["as", "X is seen", "--id", "claim"]);
    let answer = |watcher: &str| home.object(&["why-not", watcher, "claim"]);
    let check_let_go = |served: &str| {
        for (watcher, held) in [("dropped", "muted"), ("skipped", "paused")] {
            let told = answer(watcher);
            assert_eq!((verdict(&told), reasons(&told)), ("let_go", vec!["let_go"]), "{served}");
            let job = &told["jobs"][0];
            assert_eq!(job["state"], "cancelled", "{served}: {told}");
            let because = format!("let go: the watcher was {held}");
            assert!(text(&told, "summary").ends_with(&because), "{served}: {told}");
            let retry = format!("axwatch jobs retry {}", text(job, "job_id"));
            assert!(text(&told["reasons"][0], "message").contains(&retry), "{served}: {told}");
            assert_eq!(why(&home, job), ["let_go"], "{served}");
        }
        let nearest = home.object(&["why-not", "claim"]);
        let held_back = nearest["held_back_watchers"].as_array().unwrap().iter();
        let held_back: Vec<_> =
            held_back.map(|one| (text(one, "watcher"), text(one, "verdict"))).collect();
        let expected = [("user-dropped", "let_go"), ("user-skipped", "let_go")];
        assert_eq!(held_back, expected, "{served}");
    };
    check_let_go("with a server:");
    let kept = answer("kept");
    assert_eq!((verdict(&kept), reasons(&kept)), ("fired", vec!["watcher_muted"]), "{kept}");
    assert!(text(&kept["reasons"][0], "message").contains("muted until 20"), "{kept}");
    assert_eq!(why(&home, &kept["jobs"][0]), ["watcher_muted"]);
    let status = home.object(&["status"]);
    let held: BTreeSet<_> = status["held"]
        .as_array()
        .unwrap()
        .iter()
        .map(|held| (text(held, "watcher").to_owned(), text(held, "kind").to_owned()))
        .collect();
    let expected = [("user-dropped", "muted"), ("user-kept", "muted"), ("user-skipped", "paused")];
    let owned = |(watcher, kind): (&str, &str)| (watcher.to_owned(), kind.to_owned());
    assert_eq!(held, expected.map(owned).into());
    home.run_plain(&["status"]).expect(0).says(&["user-kept is muted until 20", "is let go"]);

    server.stop();
    check_let_go("without one:");
    let kept = answer("kept");
    assert_eq!(reasons(&kept), ["no_server", "watcher_muted"], "{kept}");
    assert_eq!(why(&home, &kept["jobs"][0]), ["no_server", "watcher_muted"]);

    // What was let go can still run, and what was kept does once nothing holds it.
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let dropped = answer("dropped");
    home.object(&["watch", "unmute", "dropped"]);
    home.json(&["jobs", "retry", text(&dropped["jobs"][0], "job_id")]);
    home.object(&["watch", "unmute", "kept"]);
    server.until_settled();
    for watcher in ["dropped", "kept"] {
        let told = answer(watcher);
        assert_eq!((verdict(&told), reasons(&told)), ("fired", vec![]), "{told}");
        assert_eq!(told["jobs"][0]["state"], "completed", "{told}");
    }
}

#[test]
fn what_was_given_up_or_discarded_is_told() {
    let home = Home::new("given-up");
    home.configure_zoo(&[Zoo::new("zoo", "permanent")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["watch", "create", "w", "--when", "is seen", "--run", "work"]);
    home.object(&["as", "X is seen", "--id", "claim"]);
    server.until_settled();
    let told = home.object(&["why-not", "w", "claim"]);
    assert_eq!((verdict(&told), reasons(&told)), ("fired", vec!["dead_letter"]), "{told}");
    let job = told["jobs"][0].clone();
    let message = text(&told["reasons"][0], "message");
    assert!(message.contains("given up after 1 attempt: never"), "{told}");
    assert_eq!(why(&home, &job), ["dead_letter"]);
    let status = home.object(&["status"]);
    let dead =
        status["attention"].as_array().unwrap().iter().find(|one| one["kind"] == "dead_letters");
    assert!(text(dead.unwrap(), "next").starts_with("axwatch jobs dead"), "{status}");

    home.json(&["jobs", "discard", text(&job, "job_id")]);
    let told = home.object(&["why-not", "w", "claim"]);
    assert_eq!((verdict(&told), reasons(&told)), ("fired", vec!["discarded"]), "{told}");
    assert!(text(&told["reasons"][0], "message").contains("was discarded: never"), "{told}");
    assert_eq!(why(&home, &job), ["discarded"]);
    // What waits when its watcher is retired is withdrawn.
    home.object(&["watch", "pause", "w"]);
    home.object(&["as", "X is seen", "--id", "late"]);
    home.object(&["watch", "rm", "w"]);
    let told = home.object(&["why-not", "w", "late"]);
    assert_eq!((verdict(&told), reasons(&told)), ("fired", vec!["cancelled"]), "{told}");
    assert_eq!(why(&home, &told["jobs"][0]), ["cancelled"]);
}

#[test]
fn where_a_watcher_begins_and_what_is_replayed_is_told() {
    let home = Home::new("replayed");
    home.configure_zoo(&[Zoo::good("zoo")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    for id in ["a", "b", "c"] {
        home.object(&["as", "X is seen", "--id", id]);
    }
    let create = ["watch", "create", "w", "--when", "is seen", "--run", "work"];
    home.object(&[&create[..], &["--since", "2"]].concat());
    server.until_settled();
    let told = home.object(&["why-not", "w", "a"]);
    assert_eq!(verdict(&told), "registered_later", "{told}");
    assert_eq!(reasons(&told), ["registered_later", "before_since"], "{told}");
    assert!(text(&told["reasons"][1], "message").contains("its first claim is seq 2"), "{told}");
    let told = home.object(&["why-not", "w", "b"]);
    assert_eq!((verdict(&told), reasons(&told)), ("fired", vec![]), "{told}");

    home.json(&["watch", "replay", "w", "--from", "1", "--to", "2", "--yes"]);
    until("the replay is over", || {
        let watcher = home.object(&["watch", "show", "w"]);
        watcher["replay"].is_null().then_some(())
    });
    server.until_settled();
    let check = |served: &str| {
        let told = home.object(&["why-not", "w", "a"]);
        assert_eq!(verdict(&told), "fired", "{served}: {told}");
        assert!(text(&told, "summary").ends_with("1 job of a replay, completed"), "{told}");
        assert_eq!(reasons(&told), ["registered_later", "replay"], "{served}: {told}");
        assert_eq!(told["jobs"][0]["generation"], 1, "{served}");
        assert!(text(&told["reasons"][1], "message").contains("seq 1 to 2 (generation 1)"));
        assert_eq!(why(&home, &told["jobs"][0]), ["replay"], "{served}");
        let told = home.object(&["why-not", "w", "b"]);
        let generations: Vec<_> =
            told["jobs"].as_array().unwrap().iter().map(|job| number(job, "generation")).collect();
        assert_eq!((verdict(&told), generations), ("fired", vec![0, 1]), "{served}: {told}");
        assert_eq!(reasons(&told), ["replay"], "{served}");
        // A replay does not cover what comes after it.
        let told = home.object(&["why-not", "w", "c"]);
        assert_eq!((verdict(&told), reasons(&told)), ("fired", vec![]), "{served}: {told}");
        assert_eq!(home.object(&["why-not", "a"])["fired_watchers"], json!(["user-w"]));
    };
    check("with a server:");
    server.stop();
    check("without one:");
}

#[test]
fn a_watcher_that_has_not_come_there_yet_is_told() {
    const BOUND: usize = 10_000;
    let home = Home::new("behind-itself");
    let gate = home.path("gate").display().to_string();
    home.configure_zoo(&[Zoo::new("zoo", "gate").own("gate", gate)]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["watch", "create", "w", "--when", "is seen", "--run", "work"]);
    let line =
        |n: usize| format!("{{\"id\":\"s{n}\",\"subjects\":[\"X\"],\"predicates\":[\"seen\"]}}\n");
    let lines: String = (0..BOUND + 2).map(line).collect();
    home.pipe(&lines).expect(0);
    let last = format!("s{}", BOUND + 1);
    let told = home.object(&["why-not", "w", &last]);
    assert_eq!(
        (verdict(&told), reasons(&told)),
        ("backpressured", vec!["backpressured"]),
        "{told}"
    );
    let says = format!("{BOUND} jobs of it are open, so it stopped after seq {BOUND}");
    assert!(text(&told, "summary").contains(&says), "{told}");
    let nearest = home.object(&["why-not", &last]);
    assert_eq!(nearest["held_back_watchers"][0]["verdict"], "catching_up", "{nearest}");
    let status = home.object(&["status"]);
    let slowest = json!({ "watcher": "user-w", "seq": BOUND, "behind": 2 });
    assert_eq!(status["lag"]["slowest"], slowest, "{status}");
    assert_eq!(status["lag"]["backpressured"], 1, "{status}");
    let kinds = status["attention"].as_array().unwrap().iter().map(|one| text(one, "kind"));
    assert!(kinds.collect::<Vec<_>>().contains(&"watcher_backpressured"), "{status}");
    home.run_plain(&["status"]).expect(0).says(&["user-w catches up and has 2 claims to see"]);
    server.kill();
    // What it waits for only a server knows; where it is stands in the store.
    let told = home.object(&["why-not", "w", &last]);
    assert_eq!((verdict(&told), reasons(&told)), ("catching_up", vec!["catching_up"]), "{told}");
    assert!(text(&told, "summary").contains("2 claims away; `axwatch serve`"), "{told}");
    let server = home.serve();
    server.until_ready(&["zoo"]);
    std::fs::write(home.path("gate"), "").unwrap();
    until("it has come there", || {
        let told = home.object(&["why-not", "w", &last]);
        (verdict(&told) == "fired").then_some(())
    });
    server.until_settled();
    assert_eq!(number(&home.object(&["watch", "show", "w"]), "fires"), BOUND as u64 + 2);
}

#[test]
fn a_handler_that_keeps_failing_is_told() {
    let home = Home::new("breaker");
    home.configure_zoo(&[Zoo::new("zoo", "fail-n-times-then-succeed").own("n", 1_000)]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["watch", "create", "w", "--when", "is seen", "--run", "work"]);
    let line = |n| format!("{{\"id\":\"s{n}\",\"subjects\":[\"X\"],\"predicates\":[\"seen\"]}}\n");
    home.pipe(&(0..40).map(line).collect::<String>()).expect(0);
    let status = until("the breaker is open", || {
        let status = home.object(&["status"]);
        (status["breakers"] != json!([])).then_some(status)
    });
    let breaker = &status["breakers"][0];
    assert_eq!(keys(breaker), ["error", "failures", "handler", "plugin", "until"]);
    assert_eq!((text(breaker, "plugin"), text(breaker, "handler")), ("zoo", "work"));
    assert!(number(breaker, "failures") >= 10 && text(breaker, "error").starts_with("not yet"));
    let kinds = status["attention"].as_array().unwrap().iter().map(|one| text(one, "kind"));
    assert!(kinds.collect::<Vec<_>>().contains(&"breaker_open"), "{status}");
    let told = until("a job waits for it", || {
        (0..40)
            .map(|n| home.object(&["why-not", "w", &format!("s{n}")]))
            .find(|told| reasons(told).contains(&"breaker"))
    });
    let told = told["reasons"].as_array().unwrap().iter().find(|one| one["kind"] == "breaker");
    assert!(text(told.unwrap(), "message").contains("plugin zoo gets one attempt at a time"));
}
