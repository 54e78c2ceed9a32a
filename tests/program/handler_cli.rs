//! Stored handlers as people and programs use them: the command line and the API of the real binary, the
//! plugin `python` that ships with it, and a real `python3`.

use std::fs;

use crate::support::{Home, Server, number, text, until};
use serde_json::{Value, json};

/// A server whose plugin `python` takes jobs.
fn serve(home: &Home) -> Server {
    let server = home.serve();
    server.until_ready(&["python"]);
    server
}

#[track_caller]
fn create(home: &Home, name: &str, code: &str) -> Value {
    home.object(&["handler", "create", name, "--code", code])
}

/// Claims something, and answers the ended job that this caused.
#[track_caller]
fn claim_and_wait(home: &Home, server: &Server, words: &str) -> Value {
    let claim = home.object(&["as", words]);
    assert_eq!(number(&claim, "fires"), 1, "{claim}");
    let job = job_of(home, text(&claim, "id"));
    server.until_job(&job, &["completed", "failed"])
}

/// The job that a claim caused.
#[track_caller]
fn job_of(home: &Home, claim: &str) -> String {
    let fires = home.json(&["fires"]);
    let fire = fires.iter().find(|fire| fire["attestation_id"] == claim);
    let fire = fire.unwrap_or_else(|| panic!("no fire of {claim} in {fires:?}"));
    text(fire, "job_id").to_owned()
}

/// How many claims AX finds.
#[track_caller]
fn count(home: &Home, ax: &str) -> u64 {
    number(&home.object(&["ax", ax, "--count"]), "count")
}

/// Of each version its number and state, the newest first.
#[track_caller]
fn versions(home: &Home, name: &str) -> Vec<(u64, String)> {
    let versions = home.json(&["handler", "versions", name]);
    let told = |version: &Value| (number(version, "number"), text(version, "state").to_owned());
    versions.iter().map(told).collect()
}

/// The version by which both `jobs show` and `why` say that a job ran.
#[track_caller]
fn ran(home: &Home, job: &str, version: &Value) {
    let version = version.as_str().expect("a version is a text");
    for args in [&["jobs", "show", job][..], &["why", job]] {
        home.run_plain(args).expect(0).says(&[version]);
        home.run(args).expect(0).says(&[version]);
    }
}

#[test]
fn a_handler_lives_from_its_first_version_to_its_removal() {
    let home = Home::new("handler-life");
    let server = serve(&home);
    home.run_plain(&["handler", "list"]).expect(0).says(&["axwatch handler create"]);

    let first = create(&home, "hello", "_result = {'n': 1, 'of': upstream['subjects']}");
    assert_eq!((&first["handler"], &first["number"]), (&json!("python.hello"), &json!(1)));
    assert_eq!((&first["is_new"], &first["checked"]), (&json!(true), &json!(true)), "{first}");
    assert_eq!(first["next"], "axwatch watch create hello --when '…' --run python.hello");
    assert_eq!(first["warnings"], json!([]), "{first}");
    let stored = home.object(&["ax", "is handler of python"]);
    assert_eq!(stored["id"], first["version"]);
    assert_eq!((&stored["source"], &stored["actors"]), (&json!("axwatch-cli"), &json!(["hello"])));

    // It answers the next claim.
    let watch = ["watch", "create", "hello", "--when", "is greeted", "--run", "python.hello"];
    assert_eq!(home.object(&watch)["state"], "live");
    let job = claim_and_wait(&home, &server, "ann is greeted");
    assert_eq!(job["result"]["result"], json!({ "n": 1, "of": ["ann"] }), "{job}");
    ran(&home, text(&job, "job_id"), &first["version"]);

    // A newer version does from the next attempt on; the same code again is none.
    let second = create(&home, "hello", "_result = {'n': 2}\n");
    assert_eq!((&second["number"], &second["run_by"]), (&json!(2), &json!(["user-hello"])));
    assert_eq!(second["next"], Value::Null);
    let again = create(&home, "hello", "_result = {'n': 2}\n");
    assert_eq!((&again["is_new"], &again["version"]), (&json!(false), &second["version"]));
    assert_eq!(again["number"], 2);
    let plain = ["handler", "create", "hello", "--code", "_result = {'n': 2}\n"];
    home.run_plain(&plain).expect(0).says(&["has this code already", "version 2 stays"]);
    let job = claim_and_wait(&home, &server, "bob is greeted");
    assert_eq!(job["result"]["result"], json!({ "n": 2 }), "{job}");
    ran(&home, text(&job, "job_id"), &second["version"]);

    let diff = home.object(&["handler", "diff", "hello"]);
    assert_eq!((&diff["from"]["number"], &diff["to"]["number"]), (&json!(1), &json!(2)));
    let told = text(&diff, "diff");
    assert!(told.starts_with("--- hello version 1\n+++ hello version 2\n@@ -1 +1 @@\n"), "{told}");
    home.run_plain(&["handler", "diff", "hello", "1", "2"])
        .expect(0)
        .says(&["-_result = {'n': 1", "+_result = {'n': 2}"]);
    home.run_plain(&["handler", "diff", "hello", "2"]).expect(0).says(&["the same code"]);

    // Going back is a newest version too.
    let back = home.object(&["handler", "rollback", "hello"]);
    assert_eq!((&back["number"], &back["copy_of"]), (&json!(3), &json!(1)), "{back}");
    let job = claim_and_wait(&home, &server, "cem is greeted");
    assert_eq!(job["result"]["result"]["n"], 1, "{job}");
    ran(&home, text(&job, "job_id"), &back["version"]);
    let state = |number: u64, state: &str| (number, state.to_owned());
    let three = [state(3, "in_force"), state(2, "replaced"), state(1, "replaced")];
    assert_eq!(versions(&home, "hello"), three);
    home.run_plain(&["handler", "versions", "hello", "--limit", "1"]).expect(0).says(&["in force"]);
    let to = home.object(&["handler", "rollback", "hello", "--to", text(&second, "version")]);
    assert_eq!((&to["number"], &to["copy_of"]), (&json!(4), &json!(2)), "{to}");

    let shown = home.object(&["handler", "show", "python.hello", "--version", "1"]);
    assert_eq!(text(&shown, "code"), "_result = {'n': 1, 'of': upstream['subjects']}");
    assert_eq!((&shown["shown"]["number"], &shown["number"]), (&json!(1), &json!(4)));
    home.run_plain(&["handler", "show", "hello"]).expect(0).says(&[
        "python.hello",
        "user-hello",
        "_result = {'n': 2}",
        "in force",
    ]);
    let listed = home.json(&["handler", "list"]);
    assert_eq!((listed.len(), &listed[0]["watchers"]), (1, &json!(["user-hello"])), "{listed:?}");

    // What is removed lets its jobs wait, and can be brought back.
    let removed = home.object(&["handler", "rm", "hello"]);
    assert_eq!((&removed["watchers"], &removed["number"]), (&json!(["user-hello"]), &json!(4)));
    assert_eq!(removed["waiting"], json!({ "jobs": 0, "at_least": false }));
    assert_eq!(home.json(&["handler", "list"]), Vec::<Value>::new());
    assert_eq!(home.json(&["handler", "list", "--all"])[0]["state"], "removed");
    home.run(&["handler", "rm", "hello"]).expect(1).says(&["was removed already"]);
    home.run(&["handler", "run", "hello"]).expect(1).says(&["axwatch handler rollback hello"]);
    let claim = home.object(&["as", "dan is greeted"]);
    let job = job_of(&home, text(&claim, "id"));
    let shown = home.object(&["handler", "show", "hello"]);
    assert_eq!((&shown["waiting"]["jobs"], &shown["state"]), (&json!(1), &json!("removed")));
    let back = home.object(&["handler", "rollback", "hello"]);
    assert_eq!((&back["number"], &back["copy_of"]), (&json!(5), &json!(4)), "{back}");
    let job = server.until_job(&job, &["completed", "failed"]);
    assert_eq!(job["result"]["result"], json!({ "n": 2 }), "{job}");
    assert_eq!(versions(&home, "hello")[..2], [state(5, "in_force"), state(4, "removed")]);
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    server.stop();

    // What was stored can be read without a server, and nothing stored.
    assert_eq!(home.json(&["handler", "list"])[0]["watchers"], Value::Null);
    assert_eq!(home.object(&["handler", "show", "hello"])["number"], 5);
    assert_eq!(versions(&home, "hello").len(), 5);
    assert_eq!(home.object(&["handler", "diff", "hello", "1", "2"])["to"]["number"], 2);
    home.run(&["handler", "show", "helo"]).expect(1).says(&["did you mean hello?"]);
    for args in [
        &["handler", "create", "x", "--code", "1"][..],
        &["handler", "rm", "hello"],
        &["handler", "rollback", "hello"],
        &["handler", "test", "hello", "--on", "is greeted"],
        &["handler", "run", "hello"],
    ] {
        home.run(args).expect(1).says(&["axwatch serve"]);
    }
}

#[test]
fn what_is_no_code_or_no_name_is_refused_with_what_would_be_right() {
    let home = Home::new("handler-wrong");
    let server = serve(&home);
    create(&home, "hello", "_result = 1");
    fs::write(home.path("binary.py"), b"x = 1\n\xff\xfe").unwrap();
    fs::write(home.path("empty.py"), " \n").unwrap();
    fs::write(home.path("large.py"), "#".repeat(600 * 1024)).unwrap();
    fs::write(home.path("broken.py"), "x = 1\nif x\n    y = 2\n").unwrap();
    let long = "n".repeat(300);
    let create = |args: &[&'static str]| [&["handler", "create"], args].concat();
    // (arguments, exit code, what is said)
    let cases: Vec<(Vec<&str>, i32, &[&str])> = vec![
        (create(&["x", "--file", "nowhere.py"]), 2, &["cannot read nowhere.py"]),
        (create(&["x", "--file", "."]), 2, &["cannot read ."]),
        (create(&["x", "--file", "binary.py"]), 2, &["byte 6 is not UTF-8"]),
        (create(&["x", "--file", "empty.py"]), 2, &["holds no code"]),
        (create(&["x", "--file", "large.py"]), 2, &["more than 524288 bytes"]),
        (create(&["x", "--code", ""]), 2, &["holds no code"]),
        (create(&["x"]), 2, &["--code"]),
        (create(&["x", "--code", "1", "--file", "empty.py"]), 2, &["--file"]),
        (create(&["x", "y"]), 2, &["invalid value 'y'"]),
        (create(&["", "--code", "1"]), 1, &["it must not be empty"]),
        (create(&["a/b", "--code", "1"]), 1, &["leave out the /"]),
        (create(&["a b", "--code", "1"]), 1, &["put - or _ in their place"]),
        (create(&["a\u{7}", "--code", "1"]), 1, &["handler name"]),
        (vec!["handler", "create", &long, "--code", "1"], 1, &["handler name"]),
        (create(&["script", "--code", "1"]), 1, &["a handler of the plugin itself"]),
        (create(&["python.x", "--code", "1"]), 1, &["leave them out"]),
        (create(&["x", "--code", "1", "--plugin", "pyhton"]), 1, &["pyhton", "python"]),
        (create(&["x", "--code", "1", "--plugin", "notify"]), 1, &["runs no stored handlers"]),
        (create(&["x", "--file", "broken.py"]), 1, &["line 2", "nothing was stored"]),
        (vec!["handler", "show", "helo"], 1, &["did you mean hello?"]),
        (
            vec!["handler", "show", "hello", "--version", "7"],
            1,
            &["has no version", "handler versions hello"],
        ),
        (vec!["handler", "rollback", "hello"], 1, &["has only one version"]),
        (vec!["handler", "rollback", "hello", "--to", "AS-X"], 1, &["has no version"]),
        (vec!["handler", "diff", "hello"], 1, &["has only one version"]),
        (vec!["handler", "rm", "nobody"], 1, &["there is no stored handler"]),
        (vec!["handler", "test", "hello", "--on", "AS-NOBODY"], 1, &["no claim has the id"]),
        (vec!["handler", "test", "hello", "--on", "is not"], 1, &["expected a predicate"]),
        (vec!["handler", "test", "hello", "--on", "x", "--limit", "0"], 2, &["--limit"]),
        (vec!["handler", "test", "nobody", "--on", "is handler"], 1, &["no stored handler"]),
        (vec!["handler", "run", "hello", "--payload", "{"], 2, &["--payload is not JSON"]),
        (vec!["handler", "run", "nobody"], 1, &["there is no stored handler"]),
        (vec!["handler", "versions", "hello", "--limit", "0"], 2, &["--limit"]),
    ];
    for (args, code, says) in cases {
        home.run(&args).expect(code).says(says);
    }
    let plain = home.run_plain(&["handler", "create", "x", "--file", "broken.py"]).expect(1);
    assert!(plain.err.contains("\n  2 | if x\n    |"), "{plain:?}");
    assert!(plain.err.trim_end().ends_with('^'), "{plain:?}");
    let ax = home.run_plain(&["handler", "test", "hello", "--on", "is not"]).expect(1);
    assert!(ax.err.contains("this is no AX") && ax.err.contains('^'), "{ax:?}");
    let error = home.run(&["handler", "create", "x", "--file", "broken.py"]).error();
    assert_eq!((&error["kind"], &error["mistakes"][0]["line"]), (&json!("code"), &json!(2)));
    let names: Vec<_> = home.json(&["handler", "list", "--all"]);
    assert_eq!(names.len(), 1, "{names:?}");

    // (method, path, body, status, what is said)
    let handlers = "/api/v1/handlers";
    let cases = [
        ("POST", handlers.to_owned(), "", 400, "missing field `name`"),
        ("POST", handlers.to_owned(), "[]", 400, "it must be a JSON object"),
        ("POST", handlers.to_owned(), r#"{"name":"x","cod":""}"#, 400, "unknown field `cod`"),
        ("POST", handlers.to_owned(), r#"{"name":"x","code":" "}"#, 400, "code: there is none"),
        ("POST", handlers.to_owned(), r#"{"name":"x","code":"\u0000"}"#, 400, "byte 0 is NUL"),
        ("GET", format!("{handlers}?limt=1"), "", 400, "unknown field `limt`"),
        ("GET", format!("{handlers}/nobody"), "", 404, "there is no stored handler"),
        ("DELETE", format!("{handlers}/hello"), r#"{"x":1}"#, 400, "unknown field `x`"),
        ("POST", format!("{handlers}/hello/rollback"), r#"{"to":[]}"#, 400, "a version is its"),
        ("POST", format!("{handlers}/hello/test"), "{}", 400, "missing field `on`"),
        (
            "POST",
            format!("{handlers}/hello/test"),
            r#"{"on":"is handler","limit":1001}"#,
            400,
            "it must be 1 to 1000",
        ),
        ("PUT", format!("{handlers}/hello"), "{}", 405, "the header Allow says which are"),
    ];
    for (method, path, body, code, says) in cases {
        let (status, said) = server.request(method, &path, body).unwrap();
        assert_eq!(status, code, "{method} {path} {body}: {said}");
        assert!(said.contains(says), "{method} {path} {body}: {said}");
    }
    let large = json!({ "name": "x", "code": "#".repeat(600 * 1024) }).to_string();
    let (status, said) = server.request("POST", handlers, &large).unwrap();
    assert_eq!((status, said.contains("at most 524288")), (400, true), "{said}");
}

#[test]
fn a_trial_writes_nothing() {
    let home = Home::new("handler-test");
    let server = serve(&home);
    for number in 0..3 {
        home.object(&[
            "as",
            &format!("s{number} is seen of here"),
            "--id",
            &format!("seen-{number}"),
        ]);
    }
    let code = "\
print('looking at', upstream['subjects'][0])
attest(upstream['subjects'], ['was_seen'], ['trial'])
if upstream['subjects'] == ['s1']:
    raise ValueError('not this one')
_result = len(query('is seen'))
";
    fs::write(home.path("look.py"), code).unwrap();
    create(&home, "look", code);

    let tested = home.run(&["handler", "test", "look", "--on", "is seen"]).expect(1).json();
    assert_eq!(tested.last().unwrap()["summary"], json!({ "tested": 3, "failed": 1 }));
    let ids: Vec<_> = tested[..3].iter().map(|one| text(one, "attestation_id")).collect();
    assert_eq!(ids, ["seen-2", "seen-1", "seen-0"]);
    let well = &tested[0]["outcome"];
    assert_eq!((&well["ok"], &well["result"]), (&json!(true), &json!(3)), "{well}");
    assert!(text(well, "stdout").contains("looking at s2"), "{well}");
    assert_eq!(well["attested"][0]["predicates"], json!(["was_seen"]), "{well}");
    let failed = &tested[1]["outcome"];
    assert!(text(failed, "error").contains("ValueError: not this one"), "{failed}");

    home.run_plain(&["handler", "test", "look", "--on", "seen-2"]).expect(0).says(&[
        "seen-2 went well",
        "looking at s2",
        "would claim",
        "was_seen",
        "nothing of it was written",
    ]);
    home.run_plain(&["handler", "test", "look", "--on", "seen-1"]).expect(1).says(&["failed"]);
    let one = home.json(&["handler", "test", "look", "--on", "is seen", "--limit", "1"]);
    assert_eq!(one[1]["summary"]["tested"], 1);
    // Code need not be stored for it.
    let args = ["handler", "test", "unheard", "--on", "seen-0", "--code", "_result = 7"];
    assert_eq!(home.json(&args)[0]["outcome"]["result"], 7);
    let args = ["handler", "test", "look", "--on", "seen-0", "--file", "look.py"];
    assert_eq!(home.json(&args)[0]["outcome"]["ok"], true);
    let args = ["handler", "test", "look", "--on", "seen-0", "--code", "def"];
    assert_eq!(home.run(&args).expect(1).json()[0]["outcome"]["ok"], false);

    assert_eq!(count(&home, "is was_seen"), 0, "nothing was written");
    assert_eq!(count(&home, "is handler"), 1);
    assert_eq!(home.json(&["jobs", "list", "--handler", "python.look"]).len(), 0);
    server.stop();
}

#[test]
fn a_handler_is_run_and_followed() {
    let home = Home::new("handler-run");
    let server = serve(&home);
    let code = "\
if upstream.get('fail'):
    raise Permanent('as asked')
_result = upstream
";
    create(&home, "echo", code);
    let told = home.json(&["handler", "run", "echo", "--payload", r#"{"a":[1]}"#]);
    let last = &told.last().unwrap()["job"];
    assert_eq!(
        (&last["state"], &last["result"]["result"]),
        (&json!("completed"), &json!({"a":[1]}))
    );
    fs::write(home.path("payload.json"), r#"{"fail":true}"#).unwrap();
    let args = ["handler", "run", "echo", "--payload-file", "payload.json"];
    home.run_plain(&args).expect(1).says(&["as asked"]);
    let mut piped = home.start(&["handler", "run", "python.echo", "--payload", "-"]);
    piped.write(r#"{"b":2}"#);
    let told = piped.finish().expect(0).json();
    assert_eq!(told.last().unwrap()["job"]["result"]["result"], json!({ "b": 2 }));
    let mut piped = home.start(&["handler", "create", "piped", "-"]);
    piped.write("_result = 'piped'\n");
    assert_eq!(piped.finish().expect(0).object()["number"], 1);
    server.stop();
}

#[test]
fn what_a_handler_itself_claims_about_handlers_changes_nothing() {
    let home = Home::new("handler-grant");
    let server = serve(&home);
    create(&home, "hello", "_result = 'good'");
    let code = "\
from axwatch import Permanent
claims = [
    ('hello', 'handler', {'code': \"_result = 'evil'\"}),
    ('hello', 'handler:faulted', {'plugin': 'python', 'handler': 'hello', 'reason': 'removed'}),
    ('hello', 'handler:faulted', {'reason': 'broken'}),
    ('fresh', 'handler', {'code': \"_result = 'evil'\"}),
]
_result = []
for subject, predicate, attributes in claims:
    try:
        attest([subject], [predicate], ['python'], attributes=attributes)
    except Permanent as refused:
        _result.append(str(refused))
";
    create(&home, "sneak", code);
    let told = home.json(&["handler", "run", "sneak"]);
    let refused = &told.last().unwrap()["job"]["result"]["result"];
    assert_eq!(refused.as_array().unwrap().len(), 4, "{told:?}");
    assert!(refused[1].as_str().unwrap().contains("axwatch handler"), "{refused}");
    assert_eq!(count(&home, "hello is handler"), 1);
    assert_eq!(versions(&home, "hello"), [(1, "in_force".to_owned())]);
    let names: Vec<_> = home.json(&["handler", "list", "--all"]);
    let names: Vec<_> = names.iter().map(|handler| text(handler, "name")).collect();
    assert_eq!(names, ["hello", "sneak"]);
    let told = home.json(&["handler", "run", "hello"]);
    assert_eq!(told.last().unwrap()["job"]["result"]["result"], "good");
    server.stop();
}

#[test]
fn a_handler_that_was_stored_before_a_kill_answers_the_next_claim() {
    let home = Home::new("handler-kill");
    let server = serve(&home);
    let watch = ["watch", "create", "hello", "--when", "is greeted", "--run", "python.hello"];
    home.object(&watch);
    let first = create(&home, "hello", "_result = 1");
    server.kill();
    // The plugin is not up yet, and its handler is known.
    let server = home.serve();
    let claim = home.object(&["as", "ann is greeted"]);
    assert_eq!(number(&claim, "fires"), 1, "{claim}");
    let job = job_of(&home, text(&claim, "id"));
    let job = server.until_job(&job, &["completed", "failed"]);
    assert_eq!(job["result"]["result"], 1, "{job}");
    ran(&home, text(&job, "job_id"), &first["version"]);

    server.until_ready(&["python"]);
    let second = create(&home, "hello", "_result = 2");
    server.kill();
    let claim = home.object(&["as", "bob is greeted"]);
    assert_eq!(claim["fires"], "deferred", "no server runs");
    let server = home.serve();
    let job = until("it fires", || {
        let fires = home.json(&["fires"]);
        let fire = fires.iter().find(|fire| fire["attestation_id"] == claim["id"])?;
        Some(text(fire, "job_id").to_owned())
    });
    let job = server.until_job(&job, &["completed", "failed"]);
    assert_eq!(job["result"]["result"], 2, "{job}");
    ran(&home, text(&job, "job_id"), &second["version"]);
    server.stop();
}

#[test]
fn code_that_does_not_load_is_shown_as_broken_and_its_jobs_wait() {
    let home = Home::new("handler-broken");
    let server = serve(&home);
    home.object(&["watch", "create", "hello", "--when", "is greeted", "--run", "python.hello"]);
    let broken = ["handler", "create", "hello", "--code", "def main(:\n", "--no-check"];
    let stored = home.object(&broken);
    assert_eq!((&stored["checked"], &stored["number"]), (&json!(false), &json!(1)), "{stored}");
    let shown = until("the plugin says that it does not load", || {
        let shown = home.object(&["handler", "show", "hello"]);
        (shown["state"] == "broken").then_some(shown)
    });
    assert!(!text(&shown, "reason").is_empty(), "{shown}");
    home.run_plain(&["handler", "list"]).expect(0).says(&["broken", text(&shown, "reason")]);
    assert_eq!(versions(&home, "hello"), [(1, "broken".to_owned())]);
    let status = home.object(&["status"]);
    let attention = status["attention"].as_array().unwrap();
    let told = attention.iter().find(|told| told["kind"] == "handler_broken");
    let told = told.unwrap_or_else(|| panic!("nothing of it in {status}"));
    assert!(text(told, "next").starts_with("axwatch handler show python.hello"), "{told}");

    let claim = home.object(&["as", "ann is greeted"]);
    let job = job_of(&home, text(&claim, "id"));
    let waiting = home.object(&["jobs", "show", &job]);
    assert_eq!(waiting["waits"]["reason"], "handler_broken", "{waiting}");
    create(&home, "hello", "_result = 'mended'");
    let job = server.until_job(&job, &["completed", "failed"]);
    assert_eq!(job["result"]["result"], "mended", "{job}");
    let (in_force, replaced) = ("in_force".to_owned(), "replaced".to_owned());
    assert_eq!(versions(&home, "hello"), [(2, in_force), (1, replaced)]);
    server.stop();
}

#[test]
fn decorators_declare_watchers_and_schedules_at_once() {
    let home = Home::new("handler-decorators");
    let server = serve(&home);
    let code = "\
@watch('is seen of here')
def on_seen(upstream):
    return 'seen ' + upstream['subjects'][0]

@schedule(every='1h')
def tick(upstream):
    return 'tick'
";
    let stored = create(&home, "deco", code);
    assert_eq!(stored["watchers"][0]["id"], "deco-on_seen", "{stored}");
    assert_eq!(stored["schedules"][0]["id"], "deco-tick", "{stored}");
    assert_eq!(stored["next"], Value::Null, "{stored}");
    let job = claim_and_wait(&home, &server, "ann is seen of here");
    assert_eq!(job["result"]["result"], "seen ann", "{job}");
    assert_eq!(job["watcher"], "python-deco-on_seen");
    let shown = home.object(&["handler", "show", "deco"]);
    assert_eq!(shown["watchers"], json!(["python-deco-on_seen"]), "{shown}");
    assert_eq!(shown["schedules"], json!(["python/deco-tick"]), "{shown}");
    home.run_plain(&["handler", "create", "deco", "--code", &format!("{code}\n")])
        .expect(0)
        .says(&["watcher deco-on_seen: when is seen of here", "schedule deco-tick: every 3600 s"]);
    home.object(&["handler", "rm", "deco"]);
    until("its watcher is gone", || {
        let watchers = home.json(&["watch", "list"]);
        watchers.iter().all(|watcher| watcher["id"] != "python-deco-on_seen").then_some(())
    });
    server.stop();
}

#[test]
fn without_an_interpreter_it_is_told_what_to_do_and_nothing_is_lost() {
    let home = Home::new("handler-no-python");
    home.configure("[plugin]\nenabled = [\"python\"]\n\n[python]\npython = \"/nowhere/python3\"\n");
    let server = home.serve();
    until("it is known that there is none", || {
        let said = home.run(&["handler", "create", "hello", "--code", "_result = 1"]);
        let told = said.err.contains("/nowhere/python3") && said.err.contains("--no-check");
        (said.code == 1 && told).then_some(())
    });
    assert_eq!(count(&home, "is handler"), 0);
    let args = ["handler", "create", "hello", "--code", "_result = 1", "--no-check"];
    let stored = home.object(&args);
    assert_eq!((&stored["is_new"], &stored["checked"]), (&json!(true), &json!(false)), "{stored}");
    assert_eq!(count(&home, "is handler"), 1);
    server.stop();
    home.configure("");
    let server = serve(&home);
    let told = home.json(&["handler", "run", "hello"]);
    assert_eq!(told.last().unwrap()["job"]["result"]["result"], 1);
    server.stop();
}
