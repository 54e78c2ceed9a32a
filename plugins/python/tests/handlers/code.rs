//! What the code of a handler sees, and what becomes of its answer.

use std::time::Duration;

use axwatch_sdk::testing::TestJob;
use axwatch_sdk::{Claim, Failure, Level};
use serde_json::{Value, json};

use crate::support::{post, result, script, start, until, value};

#[tokio::test]
async fn an_answer_is_what_main_returns_or_result() {
    let harness = start(&[("workers", "1")]).await;
    let cases = [
        ("_result = 1 + 1", json!(2)),
        ("x = 1", Value::Null),
        (
            "def main(upstream): return {'n': [1, 2.5, 'é', None, True]}",
            json!({"n": [1, 2.5, "é", null, true]}),
        ),
        ("def main(upstream):\n  return upstream['content'][:3]", json!("def")),
        ("def main(): return 7", json!(7)),
        ("async def main(upstream): return 8", json!(8)),
        ("_result = 1\ndef main(upstream): return 2", json!(2)),
        ("def main(upstream):\n  global _result\n  _result = 3", json!(3)),
        ("main = 5\n_result = 4", json!(4)),
        ("import sys\n_result = 5\nsys.exit()", json!(5)),
        ("_result = [job_id != '', attempt, params]", json!([true, 1, {}])),
        (
            "from axwatch import watch, schedule, Permanent, NotNow, attest, query\n_result = 6",
            json!(6),
        ),
        ("_result = __name__", json!("__handler__")),
        (
            "import pickle\nclass A: pass\n_result = type(pickle.loads(pickle.dumps(A()))).__name__",
            json!("A"),
        ),
        ("_result = {1: 'a'}", json!({"1": "a"})),
        ("_result = 'seen' in globals()\nseen = 1", json!(false)),
        ("_result = 'seen' in globals()\nseen = 1", json!(false)),
    ];
    for (code, expected) in cases {
        assert_eq!(result(&harness, code).await, expected, "{code}");
    }
}

#[tokio::test]
async fn a_payload_is_a_value_a_text_or_bytes() {
    let harness = start(&[("workers", "1")]).await;
    let version =
        harness.store_handler("seen", "_result = [type(upstream).__name__, repr(upstream)]");
    let cases: [(&[u8], Value); 7] = [
        (br#"{"a": 1}"#, json!(["dict", "{'a': 1}"])),
        (b"[1]", json!(["list", "[1]"])),
        (b"", json!(["dict", "{}"])),
        (b"hello", json!(["str", "'hello'"])),
        (b"NaN", json!(["str", "'NaN'"])),
        (b"\xff\x00", json!(["bytes", "b'\\xff\\x00'"])),
        (b"12345678901234567890123", json!(["int", "12345678901234567890123"])),
    ];
    for (payload, expected) in cases {
        let job = TestJob::new("python.seen").handler_version(&version).payload(payload.to_vec());
        let outcome = harness.execute(job).await.expect_done();
        assert_eq!(value(&outcome), expected, "{payload:?}");
    }
}

#[tokio::test]
async fn what_json_cannot_hold_fails_for_good_and_says_where() {
    let harness = start(&[("workers", "1")]).await;
    let cases = [
        ("_result = {'a': [1, {2}]}", "the result['a'][1] is a set ({2}); JSON holds"),
        ("_result = float('nan')", "the result is nan; JSON holds"),
        ("_result = {'t': {(1, 2): 3}}", "the result['t'] has a key that is a tuple ((1, 2))"),
        (
            "import datetime\n_result = [datetime.date(2026, 1, 2)]",
            "the result[0] is a date (datetime.date(2026, 1, 2))",
        ),
        ("_result = []\n_result.append(_result)", "the result[0] contains itself"),
        ("_result = b'x'", "the result is a bytes (b'x')"),
        ("_result = object", "the result is a type (<class 'object'>)"),
        ("_result = 10 ** 6000", "the result is a whole number of 19932 bits"),
        ("_result = [1, 10 ** 310]", "the result[1] is a whole number of 1030 bits"),
        ("x = []\nfor _ in range(100): x = [x]\n_result = x", "nests deeper than 100 levels"),
        ("_result = 'x' * 600000", "the result has 600002 bytes of JSON; at most 524288 are kept"),
        (
            "class Odd(dict):\n  def __repr__(self): raise ValueError\n_result = [Odd(a=Odd), object.__new__(type('X', (), {'__repr__': lambda s: 1/0}))]",
            "the result[0]['a'] is a type",
        ),
    ];
    for (code, says) in cases {
        let failure = harness.execute(script(code)).await.expect_failure();
        let Failure::Permanent(reason) = failure else { panic!("{code}: {failure:?}") };
        assert!(reason.contains(says), "{code}: {reason}");
    }
}

#[tokio::test]
async fn an_exception_fails_the_job_with_its_traceback_and_nothing_of_ours() {
    let harness = start(&[("workers", "1")]).await;
    let code = "def main(upstream):\n    return helper(upstream)\n\ndef helper(x):\n    return x['missing']\n";
    let version = harness.store_handler("hello", code);
    let job = TestJob::new("python.hello").handler_version(version).payload("{}");
    let failure = harness.execute(job).await.expect_failure();
    let Failure::Retry(reason) = failure else { panic!("{failure:?}") };
    let without_marks: Vec<&str> =
        reason.lines().filter(|line| !line.trim().chars().all(|c| "~^".contains(c))).collect();
    let expected = [
        "Traceback (most recent call last):",
        "  File \"<handler hello>\", line 2, in main",
        "    return helper(upstream)",
        "  File \"<handler hello>\", line 5, in helper",
        "    return x['missing']",
        "KeyError: 'missing'",
    ];
    assert_eq!(without_marks, expected);
}

#[tokio::test]
async fn what_is_raised_decides_what_the_host_hears() {
    let harness = start(&[("workers", "1")]).await;
    let never = |reason: &str| Failure::Permanent(reason.to_owned());
    let cases = [
        ("raise Permanent('gone')", never("gone")),
        ("raise Permanent", never("Permanent")),
        ("import axwatch\nraise axwatch.Permanent('gone')", never("gone")),
        ("class Mine(Permanent): pass\nraise Mine('gone')", never("gone")),
        (
            "raise NotNow('too early', after=90)",
            Failure::not_now(Duration::from_secs(90), "too early"),
        ),
        ("raise NotNow(after=0.5)", Failure::not_now(Duration::from_millis(500), "not now")),
        ("import sys; sys.exit(3)", Failure::retry("the handler called sys.exit(3)")),
    ];
    for (code, expected) in cases {
        assert_eq!(harness.execute(script(code)).await.expect_failure(), expected, "{code}");
    }
    for code in ["def broken(:\n", "x = '\0'"] {
        let failure = harness.execute(script(code)).await.expect_failure();
        assert!(matches!(failure, Failure::Permanent(_)), "{code:?}: {failure:?}");
    }
    let failure = harness.execute(script("raise NotNow(after=-1)")).await.expect_failure();
    assert!(
        failure.reason().ends_with("it must be a number of seconds from 0 to 86400"),
        "{failure}"
    );
    let chained = "try:\n  1 / 0\nexcept ZeroDivisionError as e:\n  raise RuntimeError('x') from e";
    let failure = harness.execute(script(chained)).await.expect_failure();
    assert!(failure.reason().contains("ZeroDivisionError"), "{failure}");
    assert!(!failure.reason().contains("<axwatch>"), "{failure}");
}

#[tokio::test]
async fn claims_are_made_on_behalf_of_the_job_and_found() {
    let harness = start(&[("workers", "1")]).await;
    harness.answer_ax("is commit", [Claim::new("a1", "commit", "git").attribute("n", 1)]);
    let code = "
found = query('is commit', limit=5)
made = attest(found[0]['subjects'], 'seen', contexts=['ci'], actors='me', attributes={'n': found[0]['attributes']['n'], 'deep': {'x': [1]}})
_result = [made['id'] != '', made['predicates'], len(query('is commit', limit=0))]
";
    let job = script(code);
    let outcome = harness.execute(job.clone()).await.expect_done();
    assert_eq!(value(&outcome), json!([true, ["seen"], 0]));
    // The same again: another attempt makes the same claim, which only one that names its job does.
    harness.execute(job.attempt(2)).await.expect_done();
    let claims = harness.claims();
    assert_eq!(claims.len(), 1, "{claims:?}");
    assert_eq!((&claims[0].contexts[0], &claims[0].actors[0]), (&"ci".into(), &"me".into()));
}

#[tokio::test]
async fn a_claim_or_a_question_that_does_not_do_is_an_exception() {
    let harness = start(&[("workers", "1")]).await;
    let cases = [
        ("attest([], 'x')", true, "subjects: at least one is needed"),
        (
            "attest('hello', ['x', 'handler'], ['ci', 'python'])",
            true,
            "attest: a claim handler of python is no handler's to make: use axwatch handler create",
        ),
        (
            "attest('hello', 'handler:faulted', 'python', attributes={'reason': 'removed'})",
            true,
            "attest: a claim handler:faulted of python is no handler's to make",
        ),
        ("attest('a', 'x', attributes={'n': {1}})", true, "attributes['n'] is a set"),
        (
            "attest('a', 'x', attributes={'n': [1 << 64]})",
            true,
            "attributes['n'][0] is a whole number of 65 bits",
        ),
        (
            "x = {}\nfor _ in range(100): x = {'x': x}\nattest('a', 'x', attributes=x)",
            true,
            "nests deeper than 100 levels",
        ),
        (
            "attest('a', 'x', attributes={'text': 'x' * (8 << 20)})",
            true,
            "bytes of JSON; at most 7340032 are taken",
        ),
        ("query('is commit')", true, "the harness does not speak AX"),
        (
            "attest('a', 5)",
            false,
            "attest: predicates is an int; it must be a text or a list of texts",
        ),
        ("attest(['a', None], 'x')", false, "attest: subjects[1] is None; it must be a text"),
        ("attest('a', 'x', attributes=[1])", false, "attributes is a list; it must be a dict"),
        ("query(5)", false, "the question is an int; it must be AX text"),
        ("query('x', limit=-1)", false, "limit is -1; it must be a whole number from 0 to 10000"),
    ];
    for (code, is_permanent, says) in cases {
        let failure = harness.execute(script(code)).await.expect_failure();
        assert_eq!(matches!(failure, Failure::Permanent(_)), is_permanent, "{code}: {failure:?}");
        assert!(failure.reason().contains(says), "{code}: {failure}");
    }
    harness.fail_next_call("unavailable: the disk is full");
    let failure = harness.execute(script("attest('a', 'x')")).await.expect_failure();
    assert!(matches!(failure, Failure::Retry(_)), "{failure:?}");
    assert!(failure.reason().contains("unavailable: the disk is full"), "{failure}");
    assert_eq!(
        result(&harness, "_result = attest('a', 'handler', 'git')['contexts']").await,
        json!(["git"])
    );
    let caught = "from axwatch import Refused\ntry:\n  query('nonsense (')\nexcept Refused:\n  _result = 'caught'";
    assert_eq!(result(&harness, caught).await, "caught");
}

#[tokio::test]
async fn what_a_test_notes_is_bounded() {
    let harness = start(&[("workers", "1")]).await;
    let code = "for n in range(1001): attest('a', 'x')";
    let (status, answer) = post(&harness, "/test", json!({"name": "h", "code": code})).await;
    assert_eq!((status, &answer["ok"], &answer["permanent"]), (200, &json!(false), &json!(true)));
    assert_eq!(answer["attested"].as_array().unwrap().len(), 1_000);
    assert!(answer["error"].as_str().unwrap().contains("a test makes at most 1000 claims"));
}

#[tokio::test]
async fn what_is_printed_and_logged_is_in_the_log_and_the_result() {
    let harness = start(&[("workers", "1")]).await;
    let code = "
import logging, os, subprocess, sys
print('one')
logging.info('two %s', 2)
logging.getLogger('x').warning('three')
print('four', file=sys.stderr)
os.write(1, b'five\\n')
subprocess.run(['echo', 'six'])
logging.debug('unseen')
print('seven', end='')
";
    let outcome = harness.execute(script(code)).await.expect_done();
    let answer = outcome.result_as::<Value>();
    assert_eq!(answer["stdout"], "one\nfive\nsix\nseven");
    assert_eq!(answer["stderr"], "four\n");
    assert!(answer["duration_ms"].as_f64().unwrap() > 0.0);
    let lines: Vec<(Level, &str)> = outcome.log.iter().map(|(l, m)| (*l, m.as_str())).collect();
    assert_eq!(lines[..3], [(Level::Info, "one"), (Level::Info, "two 2"), (Level::Warn, "three")]);
    for line in
        [(Level::Warn, "four"), (Level::Info, "five"), (Level::Info, "six"), (Level::Info, "seven")]
    {
        assert!(lines.contains(&line), "no {line:?} in {lines:?}");
    }
    assert_eq!(lines.len(), 7, "{lines:?}");
}

#[tokio::test]
async fn lines_are_told_while_the_job_runs_and_not_again() {
    let harness = start(&[("workers", "1")]).await;
    let (_folder, go) = crate::support::file("go");
    let code = format!(
        "import os, time\nprint('begun')\nwhile not os.path.exists({go:?}): time.sleep(0.005)\nprint('done')"
    );
    let job = script(&code);
    let id = job.id().to_owned();
    let seen = async {
        let lines = until("the host hears of the first line", || {
            Some(harness.lines_of(&id)).filter(|lines| !lines.is_empty())
        });
        assert_eq!(lines.await, [(Level::Info, "begun".to_owned())]);
        std::fs::write(&go, "").unwrap();
    };
    let (outcome, ()) = tokio::join!(harness.execute(job), seen);
    let mut all = harness.lines_of(&id);
    all.extend(outcome.expect_done().log);
    assert_eq!(all, [(Level::Info, "begun".to_owned()), (Level::Info, "done".to_owned())]);
}

#[tokio::test]
async fn a_job_finds_the_interpreter_as_if_it_were_the_first() {
    let harness = start(&[("workers", "1")]).await;
    let spoil = "
import logging, os, signal, sys
os.chdir('/'); os.environ['SPOILT'] = '1'; sys.path.insert(0, '/spoilt'); sys.stdout = None
logging.getLogger().handlers.clear(); logging.disable(); sys.setrecursionlimit(2000)
signal.alarm(1); sys.modules['axwatch'] = None; sys.argv.append('x')
import axwatch_is_not_ours if False else None
";
    let spoil = spoil.rsplit_once("import axwatch_is").unwrap().0;
    result(&harness, spoil).await;
    let look = "
import axwatch, logging, os, signal, sys
logging.warning('heard')
_result = ['SPOILT' in os.environ, '/spoilt' in sys.path, signal.getitimer(signal.ITIMER_REAL)[0], sys.argv, sys.getrecursionlimit()]
print('printed')
";
    let outcome = harness.execute(script(look)).await.expect_done();
    assert_eq!(value(&outcome), json!([false, false, 0.0, [""], 1000]));
    assert_eq!(outcome.log.len(), 2, "{:?}", outcome.log);
}

#[tokio::test]
async fn the_older_form_runs_unchanged() {
    let harness = start(&[("workers", "1")]).await;
    let job = TestJob::new("python.script")
        .payload_json(json!({"script_code": "_result = upstream['script_code'][:7]"}));
    let answer = harness.execute(job).await.expect_done().result_as::<Value>();
    let keys: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["duration_ms", "result", "stderr", "stdout"]);
    assert_eq!(answer["result"], "_result");

    // A handler as other programs stored it, and a job that does not say which version is meant.
    harness.append(
        Claim::new("vacancies", "handler", "python")
            .actor("vacancies")
            .source("axwatch-cli")
            .attribute(
                "code",
                "print(upstream['subjects'][0])\n_result = {'n': len(upstream['subjects'])}",
            ),
    );
    let job = TestJob::new("python.vacancies").fire(Claim::new("ACME", "hires", "jobs"));
    let answer = harness.execute(job).await.expect_done().result_as::<Value>();
    assert_eq!((&answer["stdout"], &answer["result"]), (&json!("ACME\n"), &json!({"n": 1})));

    let failure =
        harness.execute(TestJob::new("python.script").payload("{}")).await.expect_failure();
    assert_eq!(failure.reason(), "payload: python.script takes {\"content\": \"<code>\"}");
}

#[tokio::test]
async fn modules_are_found_where_the_configuration_says() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("helper_of_a_test.py"), "ANSWER = 42").unwrap();
    let paths = json!([folder.path()]).to_string();
    let harness = start(&[("workers", "1"), ("python_paths", &paths)]).await;
    assert_eq!(result(&harness, "import helper_of_a_test as h\n_result = h.ANSWER").await, 42);
}
