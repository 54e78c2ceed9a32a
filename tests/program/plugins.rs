//! Plugins that misbehave: each is reported with its reason, and the rest runs.

use std::time::Duration;

use crate::support::{Home, Server, Zoo, keys, ledger, number, processes, text, within};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Runs a good plugin beside others, and holds at the end that the good one does its work.
fn serve_beside(home: &Home, others: Vec<Zoo>) -> Server {
    let good = Zoo::good("good").watcher(json!({ "id": "seen", "predicates": ["seen"] }));
    let zoo: Vec<_> = [good].into_iter().chain(others).collect();
    home.configure_zoo(&zoo);
    let server = home.serve();
    server.until_ready(&["good"]);
    server
}

#[track_caller]
fn check_good_works(home: &Home, server: &Server) {
    let appended = home.object(&["as", "X is seen"]);
    assert_eq!(number(&appended, "fires"), 1);
    let fire = home.json(&["fires", "--watcher", "good-seen", "--limit", "1"]).remove(0);
    server.until_job(text(&fire, "job_id"), &["completed"]);
}

#[test]
fn who_does_not_come_up_is_reported_with_the_reason() {
    let home = Home::new("launch");
    let quick = |zoo: Zoo| zoo.host("ready_timeout_secs", 2).host("initialize_timeout_secs", 2);
    // (name, mode, the state it ends in, what its error says)
    let cases: [(&str, &str, &str, &[&str]); 7] = [
        ("mute", "never-binds", "failed", &["not ready within 2 s", "no process of this plugin"]),
        ("liar", "wrong-name", "failed", &["somebody-else", "liar"]),
        (
            "fragile",
            "crash-in-initialize",
            "failed",
            &["exit status: 3", "cannot open my database"],
        ),
        ("stuck", "hang-in-initialize", "failed", &["Initialize was not answered within 2 s"]),
        ("noisy", "garbage", "failed", &["not ready within 2 s", "Metadata"]),
        ("shy", "exit-0-before-ready", "failed", &["exit status: 0", "before it was ready"]),
        (
            "open",
            "beyond-loopback",
            "failed",
            &["0.0.0.0", "beyond this machine", "--address", "allow_remote"],
        ),
    ];
    let mut others: Vec<_> =
        cases.iter().map(|(name, mode, _, _)| quick(Zoo::new(name, mode))).collect();
    others.push(Zoo::new("portless", "no-port-line"));
    others.push(Zoo::new("remote", "beyond-loopback").host("allow_remote", true));
    others.push(Zoo::new("missing", "good").host("sha256", "0".repeat(64)));
    let server = serve_beside(&home, others);
    // While they come and go, the good one works.
    check_good_works(&home, &server);
    for (name, mode, state, says) in cases {
        let plugin = server.until_plugin(name, &[state]);
        for words in says {
            assert!(text(&plugin, "error").contains(words), "{mode}: no {words:?} in {plugin}");
        }
        // It is `failed` from when that is known, and then its process is ended.
        within(Duration::from_secs(10), "its process is gone", || {
            server.plugin(name)["pid"].is_null().then_some(())
        });
    }
    server.until_ready(&["portless", "remote"]);
    let listed = home.json(&["plugin", "list"]);
    assert_eq!(listed.len(), 11);
    for plugin in &listed {
        let expected =
            ["disabled_at", "error", "handlers", "name", "pid", "since", "state", "version"];
        assert_eq!(keys(plugin), expected);
    }
    let missing = listed.iter().find(|plugin| plugin["name"] == "missing").unwrap();
    assert!(text(missing, "error").contains("SHA-256"), "{missing}");
    let good = home.object(&["plugin", "show", "good"]);
    assert_eq!((text(&good, "version"), &good["handlers"]), ("1.2.3", &json!(["work"])));
    assert_eq!(good["error"], Value::Null);
    home.run(&["plugin", "show", "nobody"]).expect(1).says(&["nobody", "good"]);
    check_good_works(&home, &server);
}

#[test]
fn refused_registrations_leave_the_others_standing() {
    let home = Home::new("refused");
    let server = serve_beside(&home, vec![Zoo::new("mixed", "refused-watchers")]);
    server.until_ready(&["mixed"]);
    let watchers = home.json(&["watch", "list", "--all"]);
    let state = |id: &str| {
        let watcher = watchers.iter().find(|watcher| watcher["id"] == format!("mixed-{id}"));
        watcher.map(|watcher| (text(watcher, "state").to_owned(), watcher["error"].clone()))
    };
    for standing in ["first", "last"] {
        assert_eq!(state(standing).expect(standing).0, "live", "{watchers:?}");
    }
    let refused = [
        ("empty", "filters on nothing"),
        ("foreign-handler", "did not announce it"),
        ("negative-rate", "-1"),
        ("excessive-rate", "100001"),
        ("bad-ax", "is"),
        ("bad-params", "params"),
    ];
    for (id, says) in refused {
        let (state, error) = state(id).unwrap_or_else(|| panic!("no {id} in {watchers:?}"));
        assert_eq!(state, "refused", "{id}");
        let error = error.as_str().unwrap_or_default();
        assert!(error.contains(says), "{id}: no {says:?} in {error:?}");
    }
    let records = home.json(&["audit", "show", "--type", "watcher_refused", "--all"]);
    // Also the second declaration of `first`.
    assert_eq!(records.len(), refused.len() + 1, "{records:?}");
    assert_eq!(number(&home.object(&["as", "X is stands"]), "fires"), 2);
    check_good_works(&home, &server);
}

/// A plugin in some mode with a watcher on `{name}_asked`.
fn asked(name: &str, mode: &str) -> Zoo {
    Zoo::new(name, mode).watcher(json!({ "id": "asked", "predicates": [format!("{name}_asked")] }))
}

/// The fire of such a plugin, about to be waited for.
fn ask(home: &Home, name: &str) -> String {
    home.object(&["as", &format!("X is {name}_asked")]);
    let fire =
        home.json(&["fires", "--watcher", &format!("{name}-asked"), "--limit", "1"]).remove(0);
    text(&fire, "job_id").to_owned()
}

fn outcomes(why: &Value) -> Vec<(u64, String)> {
    let attempts = why["attempts"].as_array().expect("attempts");
    let outcome = |attempt: &Value| attempt["outcome"].as_str().unwrap_or("under way").to_owned();
    attempts.iter().map(|attempt| (number(attempt, "attempt"), outcome(attempt))).collect()
}

#[test]
fn jobs_are_tried_again_under_their_id_or_not_at_all() {
    let home = Home::new("retries");
    let server = serve_beside(
        &home,
        vec![
            asked("flaky", "fail-n-times-then-succeed"),
            asked("doomed", "permanent"),
            asked("later", "not-now").own("ms", 1_500),
            asked("full", "resource-exhausted"),
            asked("slow", "slow-first-n").own("ms", 400),
            asked("hung", "hang-in-execute").host("execute_timeout_secs", 1),
        ],
    );
    server.until_ready(&["flaky", "doomed", "later", "full", "slow", "hung"]);
    // (plugin, the state of the job at the end, what became of each attempt, what the error says)
    let cases: [(&str, &str, &[&str], &str); 5] = [
        ("flaky", "completed", &["failed", "failed", "succeeded"], ""),
        ("doomed", "failed", &["failed"], "never"),
        ("later", "completed", &["not_now", "succeeded"], ""),
        ("full", "completed", &["not_now", "succeeded"], ""),
        ("slow", "completed", &["succeeded"], ""),
    ];
    let hung = ask(&home, "hung");
    let jobs: Vec<_> = cases.iter().map(|(name, ..)| ask(&home, name)).collect();
    check_good_works(&home, &server);
    for ((name, state, expected, says), job) in cases.into_iter().zip(&jobs) {
        let ended = server.until_job(job, &["completed", "failed"]);
        assert_eq!(text(&ended, "state"), state, "{name}: {ended}");
        assert!(ended["error"].as_str().unwrap_or_default().contains(says), "{name}: {ended}");
        let why = home.object(&["why", job]);
        let numbered: Vec<_> = (1..)
            .zip(expected)
            .map(|(attempt, outcome)| (attempt, (*outcome).to_owned()))
            .collect();
        assert_eq!(outcomes(&why), numbered, "{name}");
        let deliveries = ledger::read(&Zoo::ledger_of(&home, name));
        let numbers: Vec<_> = deliveries.iter().map(|delivery| delivery.attempt).collect();
        assert_eq!(numbers, (1..=expected.len() as u64).collect::<Vec<_>>(), "{name}");
        assert!(deliveries.iter().all(|delivery| delivery.job_id == *job), "{name}: one job id");
    }
    // "Not now" says when, and no attempt comes before that.
    let deliveries = ledger::read(&Zoo::ledger_of(&home, "later"));
    assert!(deliveries[1].at_ns - deliveries[0].at_ns >= 1_500_000_000, "{deliveries:?}");

    // What never answers is tried again after its deadline, and holds nobody up.
    let tried = within(Duration::from_secs(30), "a second attempt of the hung job", || {
        Some(home.object(&["why", &hung])).filter(|why| outcomes(why).len() >= 2)
    });
    let first = &tried["attempts"][0];
    assert_eq!(text(first, "outcome"), "failed");
    assert!(text(first, "reason").contains("no answer within 1 s"), "{first}");

    // A dead letter is kept, listed, and tried again under its id when somebody says so.
    let doomed = &jobs[1];
    let letters = home.json(&["jobs", "list", "--state", "failed"]);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["job_id"], **doomed);
    assert_eq!(home.json(&["audit", "show", "--type", "dead_lettered"]).len(), 1);
    assert!(home.log().contains("Permanent failure, giving up"));
    home.object(&["jobs", "retry", doomed]);
    let again = within(Duration::from_secs(30), "the dead letter is tried once more", || {
        let job = home.object(&["jobs", "show", doomed]);
        (number(&job, "attempts") == 2 && job["state"] == "failed").then_some(job)
    });
    assert_eq!(again["job_id"], **doomed);
    home.run(&["jobs", "retry", &jobs[0]]).expect(1).says(&["completed"]);
    let errors = home.object(&["watch", "show", "flaky-asked"]);
    assert_eq!(number(&errors, "errors"), 2);
}

#[test]
fn a_job_that_kills_its_plugin_loses_nothing() {
    let home = Home::new("poison");
    let weak = |on: &str| vec![asked("weak", "exit-in-execute").own("on", on)];
    let server = serve_beside(&home, weak("poison"));
    server.until_ready(&["weak"]);
    let lines: String = (0..30)
        .map(|n| {
            let what = if n == 10 { "poison" } else { "food" };
            let claim = json!({
                "id": format!("{what}-{n}"), "subjects": [what], "predicates": ["weak_asked"],
            });
            format!("{claim}\n")
        })
        .collect();
    home.pipe(&lines).expect(0);
    // It crashes, is started again with the same job, and crashes again; the rest goes on.
    within(Duration::from_secs(30), "three crashes are told", || {
        let down = home.json(&["audit", "show", "--type", "plugin_down", "--all"]);
        let crashes = down.iter().filter(|down| text(down, "reason").contains("exit status: 7"));
        (crashes.count() >= 3).then_some(())
    });
    check_good_works(&home, &server);
    server.stop();
    // With a plugin that can do the job, all of it is done, and nothing was given up meanwhile.
    let server = serve_beside(&home, weak("what nobody says"));
    server.until_ready(&["weak"]);
    server.until_settled();
    let fires = home.json(&["fires", "--watcher", "weak-asked", "--all"]);
    assert_eq!(fires.len(), 30);
    assert!(fires.iter().all(|fire| fire["state"] == "completed"), "{fires:?}");
    assert!(home.json(&["audit", "show", "--type", "dead_lettered"]).is_empty());
}

#[test]
fn a_plugin_that_crashed_comes_back_with_a_new_token_and_its_jobs() {
    let home = Home::new("comes-back");
    let server = serve_beside(
        &home,
        vec![asked("gated", "gate").own("gate", home.path("gate").to_str().unwrap())],
    );
    server.until_ready(&["gated"]);
    let job = ask(&home, "gated");
    let ledger_file = Zoo::ledger_of(&home, "gated");
    let first = crate::support::until("the job is delivered", || ledger::read(&ledger_file).pop());
    assert_eq!(
        number(&server.plugin("gated"), "pid"),
        first.pid,
        "the plugin's own process is shown"
    );
    processes::signal(u32::try_from(first.pid).unwrap(), Signal::KILL);
    let again = crate::support::until("the job is delivered again", || {
        ledger::read(&ledger_file).into_iter().find(|delivery| delivery.pid != first.pid)
    });
    assert_eq!((again.job_id.as_str(), again.attempt), (job.as_str(), 2));
    assert_eq!(number(&server.until_plugin("gated", &["ready"]), "pid"), again.pid);
    std::fs::write(home.path("gate"), "").unwrap();
    server.until_job(&job, &["completed"]);
    assert_eq!(
        outcomes(&home.object(&["why", &job])),
        [(1, "unknown".to_owned()), (2, "succeeded".to_owned())]
    );
    assert_eq!(home.json(&["audit", "show", "--type", "plugin_up", "--all"]).len(), 3);
}

#[test]
fn no_token_reaches_the_log() {
    let home = Home::new("token");
    let server = serve_beside(
        &home,
        vec![Zoo::new("chatty", "prints-its-token"), Zoo::new("flood", "flood-output")],
    );
    server.until_ready(&["chatty", "flood"]);
    check_good_works(&home, &server);
    let peak_mib = server.peak_memory_kib() / 1024;
    server.stop();
    let log = home.log();
    assert!(log.contains("[redacted]"), "something was printed and redacted");
    let line =
        log.lines().find(|line| line.contains("InitializeRequest")).expect("the plugin's line");
    assert!(line.contains("chatty"), "a plugin's line bears its name: {line}");
    // A token is 64 hex digits or longer base64: nothing as long and as random is in its lines.
    let of_chatty = log.lines().filter(|line| line.contains("chatty"));
    for line in of_chatty {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let secret = words.filter(|word| word.len() >= 32).find(|word| {
            word.chars().any(|c| c.is_ascii_digit())
                && word.chars().any(|c| c.is_ascii_lowercase() && c != 'x')
        });
        assert_eq!(secret, None, "{}", &line[..line.len().min(300)]);
    }
    assert!(log.contains("suppressed"), "the flood was cut");
    assert!(!log.contains('\x1b') && !log.contains('\x08'), "no control characters of plugins");
    assert!(log.lines().all(|line| line.len() < 70_000), "long lines are cut");
    assert!(peak_mib < 200, "{peak_mib} MiB");
}

#[test]
fn no_process_is_left_after_a_stop_or_a_kill() {
    let home = Home::new("processes");
    let others = || {
        vec![
            Zoo::new("stubborn", "ignores-sigterm"),
            Zoo::new("busy", "gate").own("gate", "/nowhere"),
        ]
    };
    let count_left = |what: &str| {
        within(Duration::from_secs(15), what, || {
            processes::tagged(home.tag()).is_empty().then_some(())
        });
    };
    for kill in [true, false] {
        let server = serve_beside(&home, others());
        server.until_ready(&["stubborn", "busy"]);
        let there = processes::tagged(home.tag());
        // For each plugin a launcher and itself, and the daemon. The engine lets only root look.
        assert!(
            there.len() >= 7,
            "{:?}",
            there.iter().map(|p| processes::describe(*p)).collect::<Vec<_>>()
        );
        if kill {
            server.kill();
            count_left("nothing is left after kill -9 of the engine");
        } else {
            server.stop();
            assert!(
                processes::tagged(home.tag()).is_empty(),
                "left after SIGTERM: {:?}",
                processes::tagged(home.tag())
                    .iter()
                    .map(|p| processes::describe(*p))
                    .collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn what_a_plugin_no_longer_declares_is_retired_and_a_restart_changes_nothing() {
    let home = Home::new("redeclare");
    let watcher = |id: &str| json!({ "id": id, "predicates": [id] });
    home.configure_zoo(&[Zoo::good("zoo").watcher(watcher("kept")).watcher(watcher("dropped"))]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["as", "X is kept"]);
    server.until_settled();
    server.stop();

    home.configure_zoo(&[Zoo::good("zoo").watcher(watcher("kept"))]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    assert_eq!(number(&home.object(&["watch", "show", "zoo-kept"]), "revision"), 1);
    assert_eq!(number(&home.object(&["watch", "show", "zoo-kept"]), "fires"), 1);
    assert_eq!(text(&home.object(&["watch", "show", "zoo-dropped"]), "state"), "retired");
    assert_eq!(number(&home.object(&["as", "X is dropped"]), "fires"), 0);
    assert_eq!(home.json(&["fires", "--all"]).len(), 1, "nothing is fired twice");
    // A person asks for a new process: the same again.
    home.object(&["plugin", "restart", "zoo"]);
    server.until_ready(&["zoo"]);
    let registered = home.json(&["audit", "show", "--type", "watcher_registered", "--all"]);
    assert_eq!(registered.len(), 2, "{registered:?}");
    assert_eq!(number(&home.object(&["as", "Y is kept"]), "fires"), 1);
    server.until_settled();
    assert_eq!(ledger::read(&Zoo::ledger_of(&home, "zoo")).len(), 2);
}

#[test]
fn one_plugins_name_is_not_anothers() {
    let home = Home::new("names");
    home.configure_zoo(&[
        Zoo::good("git").watcher(json!({ "id": "hub-x", "predicates": ["a"] })),
        Zoo::good("git-hub").watcher(json!({ "id": "y", "predicates": ["a"] })),
        Zoo::good("other").handlers(&["work", "only"]),
    ]);
    let server = home.serve();
    server.until_ready(&["git", "git-hub", "other"]);
    assert_eq!(number(&home.object(&["as", "X is a"]), "fires"), 2);
    // A bare name that several have is refused with all of them, and goes through in full.
    let ambiguous =
        home.run(&["watch", "create", "w", "--when", "is a", "--run", "work"]).expect(1);
    ambiguous.says(&["git/work", "git-hub/work", "other/work"]);
    home.object(&[
        "watch",
        "create",
        "w",
        "--when",
        "is a",
        "--run",
        "git-hub/work",
        "--run",
        "only",
    ]);
    // Displayed ids belong to one owner.
    home.run(&["jobs", "run", "git/only"]).expect(1).says(&["git/only"]);
    home.object(&["as", "Y is a"]);
    server.until_settled();
    let watchers: Vec<_> = ledger::read(&Zoo::ledger_of(&home, "git-hub"))
        .into_iter()
        .map(|delivery| (delivery.watcher, delivery.handler))
        .collect();
    assert_eq!(watchers.len(), 3, "{watchers:?}");
    assert!(watchers.iter().all(|(_, handler)| handler == "work"), "the bare name is sent");
}
