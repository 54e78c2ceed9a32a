//! Stored handlers: which are announced, which version runs, and what becomes of those that do not load.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use axwatch_sdk::testing::{Harness, TestJob};
use axwatch_sdk::{Claim, Failure, Schedule, Watcher};
use serde_json::{Value, json};

use crate::support::{file, post, script, start, until, value};

/// The watcher of the plugin itself.
fn own_watcher() -> Watcher {
    Watcher::new("handlers", "python.sync")
        .predicates(["handler", "handler:faulted"])
        .contexts(["python"])
}

fn faults(harness: &Harness) -> Vec<Value> {
    let made = harness.claims().into_iter();
    let faults = made.filter(|claim| claim.predicates == ["handler:faulted"]);
    faults.map(|claim| json!([claim.subjects, claim.contexts, claim.attributes])).collect()
}

#[tokio::test]
async fn what_is_stored_is_announced_at_the_start() {
    let mut harness = Harness::unstarted(axwatch_plugin_python::plugin()).await;
    harness.store_handler("hello", "_result = 1");
    harness.store_handler(
        "busy",
        "@watch('is commit', max_fires_per_second=5)\ndef f(u): pass\n@watch(predicate='tag')\n@schedule(every='5m')\ndef g(u): 'Counts.'",
    );
    harness.store_handler("gone", "_result = 1");
    harness.remove_handler("gone");
    harness.reconfigure([("workers", "1")]).await.unwrap();
    let announced = harness.announced();
    assert_eq!(announced.handlers, ["python.script", "python.sync", "python.busy", "python.hello"]);
    let f = Watcher::new("busy-f", "python.busy")
        .ax("is commit")
        .max_fires_per_second(5)
        .params(json!({"function": "f"}));
    let g =
        Watcher::new("busy-g", "python.busy").predicates(["tag"]).params(json!({"function": "g"}));
    assert_eq!(announced.watchers, [own_watcher(), f, g]);
    let tick = Schedule::new("busy-g", "python.busy", 300).description("Counts.");
    assert_eq!(announced.schedules, [tick]);
    assert!(announced.stored_handlers);
}

#[tokio::test]
async fn what_is_stored_later_is_announced_when_asked_or_told() {
    let harness = start(&[("workers", "1")]).await;
    assert_eq!(harness.announced().watchers, [own_watcher()]);
    harness.store_handler("hello", "@watch('is a')\ndef f(u): pass");
    let (status, report) = post(&harness, "/sync", json!({})).await;
    let expected =
        json!({"handlers": 1, "watchers": 1, "schedules": 0, "refused": [], "broken": []});
    assert_eq!((status, report), (200, expected));
    assert_eq!(harness.announcements().len(), 1);
    // Nothing is new, and nothing is announced.
    post(&harness, "/sync", json!({})).await;
    harness.store_handler("other", "_result = 1");
    let claim = Claim::new("other", "handler", "python").id("not seen");
    harness.execute(TestJob::new("python.sync").fire(claim)).await.expect_done();
    // What declares nothing is the host's to know of.
    assert_eq!(harness.announcements().len(), 1);
    // A newer version drops the watcher.
    harness.store_handler("hello", "def f(u): pass");
    post(&harness, "/sync", json!({})).await;
    let announced = harness.announcements();
    assert_eq!(announced[1].watchers, [own_watcher()]);
    assert_eq!(announced[1].handlers[2..], ["python.hello", "python.other"]);
    harness.remove_handler("hello");
    post(&harness, "/sync", json!({})).await;
    assert_eq!(harness.announcements().len(), 2);
}

#[tokio::test]
async fn what_is_stored_while_the_host_takes_the_plugin_in_is_seen_soon() {
    let harness = start(&[("workers", "1")]).await;
    harness.store_handler("hello", "@watch('is a')\ndef f(u): pass");
    for _ in 0..2 {
        assert!(harness.is_healthy().await);
        let announced = || harness.announcements().first().map(|first| first.watchers.len());
        assert_eq!(until("it is announced", announced).await, 2);
    }
    assert_eq!(harness.announcements().len(), 1);
}

#[tokio::test]
async fn an_announcement_that_failed_is_made_up_for_by_the_next_attempt() {
    let harness = start(&[("workers", "1")]).await;
    let version = harness.store_handler("hello", "@watch('is a')\ndef f(u): pass");
    let claim = Claim::new("hello", "handler", "python").id(version);
    let job = TestJob::new("python.sync").fire(claim);
    for _ in 0..2 {
        harness.fail_next_announcement("the announcement is refused");
        harness.execute(job.clone()).await.expect_failure();
    }
    harness.fail_next_announcement("the announcement is refused");
    assert_eq!(post(&harness, "/sync", json!({})).await.0, 503);
    assert_eq!(harness.announcements().len(), 0);
    harness.execute(job.clone()).await.expect_done();
    assert_eq!(harness.announcements().len(), 1);
    assert_eq!(harness.announcements()[0].watchers.len(), 2);
    let again = harness.execute(job).await.expect_done();
    assert_eq!(again.result_as::<Value>(), json!({"known": true}));
    assert_eq!(harness.announcements().len(), 1);

    // The host may have taken one that had no answer: that it is as before is news then.
    harness.store_handler("hello", "def f(u): pass");
    harness.fail_next_announcement("the announcement is refused");
    assert_eq!(post(&harness, "/sync", json!({})).await.0, 503);
    harness.store_handler("hello", "@watch('is a')\ndef f(u): pass");
    assert_eq!(post(&harness, "/sync", json!({})).await.0, 200);
    assert_eq!(harness.announcements().len(), 2);
}

#[tokio::test]
async fn a_check_that_ends_its_worker_is_tried_again_and_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (python, stumbled) = (folder.path().join("python3"), folder.path().join("stumbled"));
    // One whose parser ends it.
    let program = format!(
        "#!/bin/sh\nexec python3 -I -X utf8 -c \"import ast, os, sys
first = ast.parse
def parse(source, *more):
    if 'ends it' in source: os._exit(9)
    if 'stumbles' in source and not os.path.exists('{0}'): os._exit(open('{0}', 'w').close() or 9)
    return first(source, *more)
ast.parse = parse
exec(sys.argv[1])\" \"$5\"\n",
        stumbled.display()
    );
    std::fs::write(&python, program).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    let harness = start(&[("workers", "1"), ("python", python.to_str().unwrap())]).await;
    // What is left in the worker is not the fault of what is checked in it.
    let spoil = TestJob::new("python.script")
        .payload_json(json!({"content": "import ast\nast.FunctionDef = ast.AsyncFunctionDef = 5"}));
    harness.execute(spoil.clone()).await.expect_done();
    let code = "@watch('is a')\ndef f(u): pass";
    harness.store_handler("good", code);
    let (status, report) = post(&harness, "/sync", json!({})).await;
    assert_eq!((status, &report["watchers"], &report["broken"]), (200, &json!(1), &json!([])));
    // One that ends whoever reads it costs the others nothing, and is judged by the second time.
    harness.store_handler("ends", "x = 'ends it'");
    harness.store_handler("stumbles", &format!("x = 'stumbles'\n{code}"));
    for number in 0..8 {
        harness.store_handler(&format!("h{number}"), code);
    }
    let (status, report) = post(&harness, "/sync", json!({})).await;
    assert_eq!((status, &report["watchers"]), (200, &json!(10)), "{report}");
    let broken = report["broken"].as_array().unwrap();
    assert_eq!((broken.len(), &broken[0]["name"]), (1, &json!("ends")));
    assert_eq!(
        broken[0]["reason"],
        "python cannot read it: the handler ended its worker process: exit code 9"
    );
    assert_eq!(faults(&harness).len(), 1);
}

#[tokio::test]
async fn a_check_does_not_wait_for_jobs_that_take_long() {
    let harness = start(&[("workers", "1")]).await;
    let (_here, begun) = file("begun");
    let (_there, go) = file("go");
    let slow = format!(
        "import os, time\nopen({begun:?}, 'w').close()\nwhile not os.path.exists({go:?}): time.sleep(0.005)"
    );
    let others = async {
        until("the job is at work", || begun.exists().then_some(())).await;
        let code = "@watch('is a')\ndef f(u): pass";
        harness.store_handler("hello", code);
        let (status, report) = post(&harness, "/sync", json!({})).await;
        assert_eq!((status, &report["watchers"]), (200, &json!(1)));
        std::fs::write(&go, "").unwrap();
    };
    tokio::join!(harness.execute(script(&slow)), others).0.expect_done();
}

#[tokio::test]
async fn the_version_that_the_job_names_runs() {
    let harness = start(&[("workers", "1")]).await;
    let first = harness.store_handler("hello", "_result = 'first'");
    let second = harness.store_handler("hello", "_result = 'second'");
    for (version, expected) in [(&first, "first"), (&second, "second"), (&first, "first")] {
        let job = TestJob::new("python.hello").handler_version(version);
        assert_eq!(value(&harness.execute(job).await.expect_done()), expected);
    }
    let newest = harness.execute(TestJob::new("python.hello")).await.expect_done();
    assert_eq!(value(&newest), "second");
    let job = TestJob::new("python.hello").handler_version("nothing");
    let failure = harness.execute(job).await.expect_failure();
    assert_eq!(failure, Failure::permanent("there is no handler hello in version nothing"));
    let failure = harness.execute(TestJob::new("python.nobody")).await.expect_failure();
    assert_eq!(failure, Failure::permanent("there is no handler nobody"));
}

#[tokio::test]
async fn each_function_runs_for_its_own_watcher_and_schedule() {
    let harness = start(&[("workers", "1")]).await;
    let code = "
@watch('is a')
def one(upstream): return ['one', upstream['subjects']]
@watch('is b')
@schedule(every=60)
@schedule(every=90)
def two(): return 'two'
def main(upstream): return 'main'
";
    let version = harness.store_handler("many", code);
    post(&harness, "/sync", json!({})).await;
    let job = || TestJob::new("python.many").handler_version(&version);
    let cases = [
        (
            job().fire(Claim::new("X", "a", "c")).params_json(json!({"function": "one"})),
            json!(["one", ["X"]]),
        ),
        (job().params_json(json!({"function": "two"})), json!("two")),
        (job().schedule("many-two"), json!("two")),
        (job().schedule("many-two-2"), json!("two")),
        (job(), json!("main")),
        (job().schedule("of-somebody-else"), json!("main")),
        // One that somebody made by hand, with a natural name.
        (job().schedule("many-daily"), json!("main")),
        (job().schedule("many-one"), json!("main")),
    ];
    for (job, expected) in cases {
        assert_eq!(value(&harness.execute(job.clone()).await.expect_done()), expected, "{job:?}");
    }
    let job = job().params_json(json!({"function": "three"}));
    let failure = harness.execute(job).await.expect_failure();
    assert_eq!(failure, Failure::permanent("the handler has no function three"));
}

#[tokio::test]
async fn a_version_that_does_not_load_is_told_of_once_and_keeps_what_it_watched() {
    let harness = start(&[("workers", "1")]).await;
    harness.store_handler("hello", "@watch('is a')\ndef f(u): pass");
    post(&harness, "/sync", json!({})).await;
    let broken = harness.store_handler("hello", "@watch('is a')\ndef f(u: pass");
    for _ in 0..3 {
        let (_, report) = post(&harness, "/sync", json!({})).await;
        assert_eq!(report["watchers"], 1);
        let told = &report["broken"][0];
        assert_eq!((&told["name"], &told["version"]), (&json!("hello"), &json!(broken)));
        assert!(told["reason"].as_str().unwrap().starts_with("line 2: "), "{told}");
    }
    let told = faults(&harness);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0][0], json!(["hello"]));
    assert_eq!(told[0][1], json!(["python"]));
    let says = |key: &str| told[0][2][key].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        (says("plugin"), says("handler"), says("version")),
        ("python".into(), "hello".into(), broken)
    );
    assert_eq!(harness.announcements().len(), 1, "what it declares did not change");

    harness.store_handler("hello", "@watch('is b')\ndef f(u): pass");
    let (_, report) = post(&harness, "/sync", json!({})).await;
    assert_eq!((&report["watchers"], &report["broken"]), (&json!(1), &json!([])));
    assert_eq!(harness.announcements().len(), 2);
}

#[tokio::test]
async fn a_broken_version_keeps_what_an_older_one_watched_over_a_restart() {
    let mut harness = Harness::unstarted(axwatch_plugin_python::plugin()).await;
    harness.store_handler("hello", "@watch('is a')\ndef f(u): pass");
    harness.store_handler("hello", "@watch()\ndef f(u): pass");
    harness.store_handler("hello", "def f(u: pass");
    harness.reconfigure([("workers", "1")]).await.unwrap();
    assert_eq!(harness.announced().watchers.len(), 2);
    assert_eq!(faults(&harness).len(), 1);
}

#[tokio::test]
async fn code_that_turns_out_not_to_load_puts_its_job_off() {
    let harness = start(&[("workers", "1")]).await;
    let version = harness.store_handler("hello", "def f(u: pass");
    let job = TestJob::new("python.hello").handler_version(version);
    let failure = harness.execute(job).await.expect_failure();
    let Failure::NotNow { after, reason } = failure else { panic!("{failure:?}") };
    assert_eq!(after, Some(Duration::from_secs(5)));
    assert!(reason.contains("SyntaxError"), "{reason}");
    assert_eq!(faults(&harness).len(), 1);
}

#[tokio::test]
async fn a_fault_that_the_host_cannot_be_told_of_ends_the_job() {
    let harness = start(&[("workers", "1")]).await;
    let version = harness.store_handler("hello", "def f(u: pass");
    // It stands in other words: from another interpreter, say.
    let stands = |reason: &str| {
        Claim::new("hello", "handler:faulted", "python")
            .attribute("reason", reason)
            .attribute("version", &*version)
    };
    let job = || TestJob::new("python.hello").handler_version(&version);
    // Somebody else took its id.
    harness.append(Claim::new("x", "y", "z").id(format!("faulted-{version}")));
    let failure = harness.execute(job()).await.expect_failure();
    assert!(
        matches!(&failure, Failure::Permanent(reason) if reason.contains("SyntaxError")),
        "{failure:?}"
    );
    let (status, report) = post(&harness, "/sync", json!({})).await;
    assert_eq!((status, report["broken"].as_array().unwrap().len()), (200, 1));

    harness.append(stands("in other words"));
    let failure = harness.execute(job()).await.expect_failure();
    assert!(matches!(failure, Failure::NotNow { .. }), "{failure:?}");
}

#[tokio::test]
async fn names_of_the_plugin_itself_are_not_taken() {
    let harness = start(&[("workers", "1")]).await;
    harness.store_handler("script", "_result = 'theirs'");
    let (_, report) = post(&harness, "/sync", json!({})).await;
    let reason = report["broken"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, "python.script is a handler of the plugin itself: choose another name");
    let job = TestJob::new("python.script").payload_json(json!({"content": "_result = 'ours'"}));
    assert_eq!(value(&harness.execute(job).await.expect_done()), "ours");
}

#[tokio::test]
async fn a_thousand_handlers_are_read_in_no_time() {
    let mut harness = Harness::unstarted(axwatch_plugin_python::plugin()).await;
    let code = "import json, os\n\n@watch('is commit')\ndef on_commit(upstream):\n    for subject in upstream['subjects']:\n        if subject.startswith('x'):\n            attest(subject, 'seen', 'ci', attributes={'n': 1})\n    return len(upstream['subjects'])\n";
    for number in 0..1_000 {
        harness.store_handler(&format!("h{number}"), code);
    }
    // One that ends whoever reads it costs the others nothing.
    let begun = Instant::now();
    harness.reconfigure([("workers", "2")]).await.unwrap();
    let took = begun.elapsed();
    assert_eq!(harness.announced().watchers.len(), 1_001);
    // The limit is 2 s; a machine that is busy with other tests is given more.
    assert!(took < Duration::from_secs(10), "{took:?}");
    println!("1,000 handlers were read in {took:?}");
    let again = Instant::now();
    harness.store_handler("h5", "_result = 5");
    let (_, report) = post(&harness, "/sync", json!({})).await;
    assert_eq!((&report["handlers"], &report["watchers"]), (&json!(1_000), &json!(999)));
    println!("one more in {:?}", again.elapsed());
}

#[tokio::test]
async fn a_test_runs_code_and_makes_no_claim() {
    let harness = start(&[("workers", "1")]).await;
    harness.answer_ax("is commit", [Claim::new("a1", "commit", "git")]);
    let code = "
import logging
print('printed')
logging.warning('logged')
def f(upstream):
    made = attest(upstream['id'], 'seen', attributes={'n': len(query('is commit'))})
    return [made['id'], params]
";
    let body = json!({"name": "h", "code": code, "upstream": {"id": "X"}, "function": "f", "params": {"p": 1}});
    let (status, mut answer) = post(&harness, "/test", body).await;
    assert_eq!(status, 200);
    assert!(answer["duration_ms"].take().as_f64().unwrap() > 0.0);
    let expected = json!({
        "ok": true, "result": ["test-1", {"p": 1}], "stdout": "printed\n", "stderr": "",
        "log": [{"level": "info", "message": "printed"}, {"level": "warn", "message": "logged"}],
        "attested": [{"subjects": ["X"], "predicates": ["seen"], "contexts": [], "actors": [], "attributes": {"n": 1}}],
        "error": null, "permanent": false, "duration_ms": null,
    });
    assert_eq!(answer, expected);
    assert!(harness.claims().is_empty());

    let cases = [
        ("1 / 0", false, "ZeroDivisionError: division by zero"),
        ("raise Permanent('gone')", true, "Permanent: gone"),
        ("def f(:", true, "SyntaxError"),
        ("import os\nos._exit(4)", false, "exit code 4"),
        ("raise NotNow('early', after=5)", false, "early"),
    ];
    for (code, permanent, says) in cases {
        let (status, answer) = post(&harness, "/test", json!({"name": "h", "code": code})).await;
        assert_eq!(
            (status, &answer["ok"], &answer["permanent"]),
            (200, &json!(false), &json!(permanent)),
            "{code}"
        );
        assert!(answer["error"].as_str().unwrap().contains(says), "{code}: {answer}");
    }
}
