//! Jobs that no claim caused, schedules and budgets, as people and programs use them: the command line and
//! the API of the real binary, with a server and without one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{
    Follow, Home, Server, Terminal, Zoo, example_path, keys, number, text, until,
};
use serde_json::{Value, json};

/// A server with a plugin that does one job at a time, and none before its gate is open.
fn serve_gate(home: &Home) -> (Server, PathBuf) {
    let gate = home.path("gate");
    let zoo = Zoo::new("zoo", "gate").own("gate", json!(gate)).host("max_in_flight", 1);
    home.configure_zoo(&[zoo]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    (server, gate)
}

fn open(gate: &Path) {
    fs::write(gate, "").expect("a gate can be opened");
}

/// Asks for a job, and answers it.
#[track_caller]
fn run(home: &Home, args: &[&str]) -> Value {
    home.object(&[&["jobs", "run", "work"], args].concat())
}

#[track_caller]
fn id(job: &Value) -> &str {
    text(job, "job_id")
}

fn ids(jobs: &[Value]) -> Vec<&str> {
    jobs.iter().map(id).collect()
}

#[test]
fn a_job_is_asked_for_with_all_that_there_is_to_say() {
    let home = Home::new("pulse-run");
    let (server, gate) = serve_gate(&home);
    let first = run(&home, &["--source", "s", "--cost-estimate", "0.5", "--payload", "[1]"]);
    server.until_job(id(&first), &["running"]);
    let shown = home.object(&["jobs", "show", id(&first)]);
    // (key, what it says)
    let cases = [
        ("origin", json!("api")),
        ("by", json!("user")),
        ("owner", json!("user")),
        ("source", json!("s")),
        ("priority", json!(0)),
        ("handler", json!("zoo/work")),
        ("cost_estimate", json!(0.5)),
        ("parent", Value::Null),
        ("tree", Value::Null),
        ("ahead", Value::Null),
        ("log", json!([])),
    ];
    for (key, expected) in cases {
        assert_eq!(shown[key], expected, "{key}");
    }

    // The same source is the same job, as long as it is open.
    let again = run(&home, &["--source", "s"]);
    assert_eq!((id(&again), &again["deduplicated"]), (id(&first), &json!(true)));
    home.run_plain(&["jobs", "run", "work", "--source", "s"]).expect(0).says(&["open already"]);

    // Each is told how many are ahead; a higher priority is ahead of what has waited for less.
    let second = run(&home, &[]);
    let third = run(&home, &["--source", "t"]);
    let urgent = run(&home, &["--priority", "10"]);
    let child = run(&home, &["--parent", &id(&first)[..8]]);
    let ahead = |job: &Value| home.object(&["jobs", "show", id(job)])["ahead"].clone();
    assert_eq!([&second, &third, &urgent, &child].map(ahead), [1, 2, 0, 3].map(|n| json!(n)));
    let listed = home.json(&["jobs", "list", "--state", "queued"]);
    assert_eq!(ids(&listed), [&child, &urgent, &third, &second].map(id));
    let told: Vec<_> = listed.iter().map(|job| job["ahead"].as_u64().unwrap()).collect();
    assert_eq!(told, [3, 0, 2, 1]);
    home.run_plain(&["jobs", "list"]).expect(0).says(&["AHEAD", "zoo/work"]);

    // What waits says so, and a part of something what it is a part of.
    let shown = home.object(&["jobs", "show", id(&child)]);
    assert_eq!(shown["waits"]["reason"], "plugin_busy", "{shown}");
    let jobs = shown["tree"]["jobs"].as_array().unwrap();
    let tree: Vec<_> = jobs.iter().map(|job| (id(job), &job["depth"], &job["is_asked"])).collect();
    let (zero, one, yes, no) = (json!(0), json!(1), json!(true), json!(false));
    assert_eq!(tree, [(id(&first), &zero, &no), (id(&child), &one, &yes)]);
    home.run_plain(&["jobs", "show", id(&first)]).expect(0).says(&[
        "what is a part of it",
        "<- this job",
        id(&child),
        "estimated 0.5",
    ]);

    let check = |served: &str| {
        // (filter, the jobs, newest first)
        let cases: [(&[&str], Vec<&Value>); 9] = [
            (&["--handler", "work", "--limit", "2"], vec![&child, &urgent]),
            (&["--handler", "zoo/work", "--source", "t"], vec![&third]),
            (&["--handler", "other"], vec![]),
            (&["--plugin", "zoo", "--source", "s"], vec![&first]),
            (&["--plugin", "git"], vec![]),
            (&["--asker", "user", "--source", "t"], vec![&third]),
            (&["--asker", "schedule"], vec![]),
            (&["--parent", id(&first)], vec![&child]),
            (&["--parent", id(&child)], vec![]),
        ];
        for (args, expected) in cases {
            let found = home.json(&[&["jobs", "list"], args].concat());
            let expected: Vec<_> = expected.into_iter().map(id).collect();
            assert_eq!(ids(&found), expected, "{served} {args:?}");
        }
    };
    check("with a server:");
    open(&gate);
    server.until_settled();
    // The source is free again.
    assert_eq!(run(&home, &["--source", "s"])["deduplicated"], false);
    // Any bytes may come by standard input.
    let mut piped = home.start(&["jobs", "run", "work", "--payload", "-", "--wait"]);
    piped.write("any bytes");
    assert_eq!(piped.finish().expect(0).object()["state"], "completed");
    server.stop();
    let last = home.json(&["jobs", "list", "--limit", "1"]).remove(0);
    assert_eq!((&last["by"], &last["source"]), (&json!("user"), &Value::Null));
    let shown = home.object(&["jobs", "show", id(&child)]);
    assert_eq!(shown["tree"]["jobs"][0]["job_id"], first["job_id"], "without a server too");
    let shown = home.run_plain(&["why", id(&child)]).expect(0);
    shown.says(&["by user, as a part of", "because somebody asked for it"]);
}

#[test]
fn what_cannot_be_asked_for_is_told_with_what_could() {
    let home = Home::new("pulse-wrong");
    let (server, _) = serve_gate(&home);
    // (arguments, exit code, what is said)
    let cases: [(&[&str], i32, &str); 14] = [
        (&["jobs", "run", "wrok"], 1, "wrok"),
        (&["jobs", "run", "work", "--priority", "11"], 2, "from -10 to 10"),
        (&["jobs", "run", "work", "--source", &"s".repeat(1_001)], 2, "at most 1000"),
        (&["jobs", "list", "--limit", "-1"], 2, "invalid value '-1' for '--limit"),
        (&["jobs", "run", "work", "--payload", "{"], 2, "--payload is not JSON"),
        (&["jobs", "run", "work", "--payload", "@nowhere"], 2, "cannot read nowhere"),
        (&["jobs", "run", "work", "--cost-estimate", "-1"], 2, "--cost-estimate"),
        (&["jobs", "run", "work", "--parent", "00000000"], 1, "no job begins with"),
        (&["jobs", "list", "--asker", "plugin"], 1, "say user, schedule, or the name of a plugin"),
        (&["jobs", "list", "--schedule", "nightly"], 1, "there is no schedule"),
        (&["jobs", "list", "--handler", "zoo/work", "--plugin", "git"], 1, "leave one of them out"),
        (&["jobs", "cancel", "00000000"], 1, "no job begins with"),
        (&["jobs", "watch", "00000000"], 1, "no job begins with"),
        (&["jobs", "run", "work", "--wait", "--watch"], 2, "--watch"),
    ];
    for (args, code, says) in cases {
        home.run(args).expect(code).says(&[says]);
    }
    let job = "/api/v1/jobs/00000000";
    // (method, path, body, status, what is said)
    let cases = [
        ("GET", "/api/v1/jobs?handlr=x", "", 400, "unknown field `handlr`"),
        ("GET", &*format!("{job}?wait_ms=60001"), "", 400, "it must be 0 to 60000"),
        ("POST", &*format!("{job}/pause"), r#"{"x":1}"#, 400, "unknown field `x`"),
        ("POST", &*format!("{job}/pause"), "x", 400, "the body: expected value"),
        ("POST", "/api/v1/jobs", "[]", 400, "it must be a JSON object"),
        (
            "POST",
            "/api/v1/jobs",
            r#"{"handler":"work","priority":1.5}"#,
            400,
            "priority: invalid type: the number `1.5`, expected a whole number",
        ),
        ("DELETE", "/api/v1/jobs", "", 405, "the header Allow says which are"),
    ];
    for (method, path, body, code, says) in cases {
        let (status, said) = server.request(method, path, body).unwrap();
        assert_eq!(status, code, "{method} {path} {body}: {said}");
        assert!(said.contains(says), "{method} {path} {body}: {said}");
    }
    server.stop();
    for verb in ["watch", "cancel", "pause", "resume"] {
        home.run(&["jobs", verb, "00000000"]).expect(1).says(&["axwatch serve"]);
    }
}

#[test]
fn a_job_is_steered_and_those_below_it_go_with_it() {
    let home = Home::new("pulse-steer");
    let (server, gate) = serve_gate(&home);
    let top = run(&home, &[]);
    let middle = run(&home, &["--parent", id(&top)]);
    let low = run(&home, &["--parent", id(&middle)]);
    let other = run(&home, &[]);
    server.until_job(id(&top), &["running"]);

    // What is paused waits, and is told so.
    let paused = home.object(&["jobs", "pause", id(&other)]);
    assert_eq!((&paused["state"], &paused["below"]["open"]), (&json!("paused"), &json!(0)));
    assert_eq!(ids(&home.json(&["jobs", "list", "--state", "paused"])), [id(&other)]);
    let shown = home.object(&["jobs", "show", id(&other)]);
    assert_eq!(shown["waits"]["reason"], "paused", "{shown}");
    home.run(&["jobs", "pause", id(&other)]).expect(1).says(&["is paused already"]);
    home.run_plain(&["jobs", "resume", id(&other)]).expect(0).says(&["queued"]);
    home.run(&["jobs", "resume", id(&other)]).expect(1).says(&["nobody paused job", "it waits:"]);
    home.run_plain(&["jobs", "pause", id(&middle)]).expect(0).says(&["1 open job below it"]);

    // What is cancelled takes along what is below it, wherever it waits or runs.
    let cancelled = home.object(&["jobs", "cancel", id(&top)]);
    assert_eq!(cancelled["state"], "cancelled");
    let below = json!({ "cancelled": 2, "open": 0, "at_least": false });
    assert_eq!(cancelled["below"], below);
    for job in [&middle, &low] {
        let shown = home.object(&["jobs", "show", id(job)]);
        assert_eq!(shown["state"], "cancelled");
        assert!(text(&shown, "error").contains("which it is a part of, was cancelled"), "{shown}");
    }
    home.run(&["jobs", "cancel", id(&top)]).expect(1).says(&["nothing is left to cancel"]);
    home.run(&["jobs", "retry", id(&low)]).expect(1).says(&["axwatch jobs retry", id(&middle)]);
    home.run_plain(&["why", id(&top)]).expect(0).says(&["job_cancelled", "cancelled by user"]);
    home.run_plain(&["why", id(&other)]).expect(0).says(&["job_paused", "by user"]);

    // Its place is free again, and it may be tried again.
    assert_eq!(home.object(&["jobs", "retry", id(&top)])["state"], "queued");
    open(&gate);
    for job in [&top, &other] {
        server.until_job(id(job), &["completed"]);
    }
    let types = |kind| home.json(&["audit", "show", "--type", kind]).len();
    assert_eq!(["job_created", "job_paused", "job_resumed"].map(types), [4, 2, 1]);
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    let told = server.request("POST", &format!("/api/v1/jobs/{}/pause", id(&top)), "").unwrap();
    assert_eq!(told.0, 409, "{}", told.1);
}

#[test]
fn a_job_is_watched_until_it_has_ended() {
    let home = Home::new("pulse-watch");
    let (server, gate) = serve_gate(&home);
    let job = run(&home, &[]);
    server.until_job(id(&job), &["running"]);
    let follow = Follow::of(&home, &["jobs", "watch", id(&job)]);
    let first = follow.next();
    assert_eq!((keys(&first), &first["job"]["state"]), (vec!["job"], &json!("running")));
    let terminal = Terminal::start(&home, &format!("jobs watch {}", id(&job)), &[]);
    terminal.until_shown("zoo/work is running");
    open(&gate);
    let last = follow.until(|told| told["job"]["state"] == "completed");
    assert!(!last["job"]["result"].is_null(), "{last}");
    assert_eq!(follow.end().code, 0);
    terminal.until_shown("completed");
    assert_eq!(terminal.end(), Some(0));

    // One that has ended is told once.
    let (status, body) =
        server.request("GET", &format!("/api/v1/jobs/{}/events", id(&job)), "").unwrap();
    assert_eq!((status, body.matches("event: job\n").count()), (200, 1), "{body}");

    // One that waits is told with what it waits for, and so is who resumes what nobody paused.
    home.object(&["budget", "set", "zoo/work", "--calls-per-minute", "0"]);
    let held = run(&home, &[]);
    let shown = server.until_job(id(&held), &["paused"]);
    assert_eq!(shown["ahead"], shown["waits"]["ahead"], "{shown}");
    let follow = Follow::of(&home, &["jobs", "watch", id(&held)]);
    let first = follow.next();
    assert_eq!(first["job"]["waits"]["reason"], "budget", "{first}");
    home.run(&["jobs", "resume", id(&held)]).expect(1).says(&["nobody paused", "calls_per_minute"]);
    home.object(&["budget", "set", "zoo/work", "--calls-per-minute", "none"]);
    follow.until(|told| told["job"]["state"] == "completed");
    assert_eq!(follow.end().code, 0);
    home.run_plain(&["jobs", "watch", id(&job)]).expect(0).says(&["completed", "attempts"]);
    server.stop();
}

#[test]
fn progress_is_told_with_how_fast_it_goes() {
    let home = Home::new("pulse-progress");
    let count = example_path("count", "sdk/rust/examples/count.rs");
    let sad = Zoo::new("sad", "permanent").handlers(&["sad"]);
    let zoo = home.zoo_toml(&[sad]).replace("enabled = [", "enabled = [\"count\", ");
    home.configure(&format!(
        "{zoo}\n[plugins.count]\nbinary = {}\n[count]\nevery_ms = 1\n",
        json!(count)
    ));
    let server = home.serve();
    server.until_ready(&["count", "sad"]);
    let told = home.json(&["jobs", "run", "count.up", "--payload", r#"{"to":4}"#, "--watch"]);
    let last = &told.last().expect("something is told")["job"];
    assert_eq!((&last["state"], &last["result"]), (&json!("completed"), &json!(4)));
    assert_eq!(last["progress"], json!({ "current": 4, "total": 4 }));
    let progress = told.iter().filter_map(|told| told.get("progress")).next_back();
    let progress = progress.unwrap_or_else(|| panic!("no progress in {told:?}"));
    let expected = ["at", "attempt", "cost", "current", "left_seconds", "rate_per_second", "total"];
    assert_eq!(keys(progress), expected);
    assert_eq!((&progress["current"], &progress["total"]), (&json!(4), &json!(4)));
    // Of one that has ended it is of then, however late somebody asks.
    let told = home.json(&["jobs", "watch", id(last)]);
    let progress = told.iter().find_map(|told| told.get("progress")).expect("progress is told");
    assert_eq!(progress["at"], last["completed_at"]);
    let args = ["jobs", "run", "count.up", "--payload", r#"{"to":4}"#, "--watch"];
    home.run_plain(&args).expect(0).says(&["4 of 4 (100%)", "count.up is completed"]);
    // How it ended is how the command does.
    let failed = home.run(&["jobs", "run", "sad", "--watch"]).expect(1).says(&["has failed"]);
    assert_eq!(failed.json().last().unwrap()["job"]["state"], "failed");
    server.stop();
}

const SCHEDULE: [&str; 25] = [
    "ats_code",
    "changed_at",
    "cron",
    "declared_at",
    "description",
    "enabled_by_default",
    "every_seconds",
    "handler",
    "id",
    "jitter_seconds",
    "last_job",
    "last_nominal",
    "last_run_at",
    "metadata",
    "missed",
    "name",
    "next_at",
    "open_jobs",
    "overlap",
    "owner",
    "payload",
    "retired_at",
    "schedule",
    "state",
    "tz",
];

/// A server with a plugin that declares a schedule of its own.
fn serve_schedules(home: &Home) -> Server {
    let own =
        json!([{ "handler_name": "work", "interval_seconds": 86_400, "enabled_by_default": true }]);
    home.configure_zoo(&[Zoo::good("zoo").own("schedules", own)]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    server
}

#[test]
fn schedules_are_created_shown_and_steered() {
    let home = Home::new("pulse-schedule");
    let server = serve_schedules(&home);
    let create = |args: &[&str]| home.object(&[&["schedule", "create"], args].concat());
    let nightly = create(&[
        "nightly",
        "--cron",
        "30 4 * * mon-fri",
        "--tz",
        "Europe/Berlin",
        "--run",
        "work",
        "--payload",
        r#"{"a":1}"#,
        "--missed",
        "all:7",
        "--overlap",
        "queue",
        "--jitter",
        "10s",
        "--description",
        "what is new",
    ]);
    assert_eq!(keys(&nightly), SCHEDULE);
    let cases = [
        ("schedule", json!("nightly")),
        ("state", json!("active")),
        ("handler", json!("zoo/work")),
        ("cron", json!("30 4 * * mon-fri")),
        ("tz", json!("Europe/Berlin")),
        ("every_seconds", Value::Null),
        ("payload", json!({ "a": 1 })),
        ("missed", json!("all:7")),
        ("overlap", json!("queue")),
        ("jitter_seconds", json!(10)),
    ];
    for (key, expected) in cases {
        assert_eq!(nightly[key], expected, "{key}");
    }
    create(&["hourly", "--every", "1h", "--run", "zoo/work"]);
    let never = create(&["never", "--every", "0", "--run", "work"]);
    assert_eq!((&never["state"], &never["next_at"]), (&json!("inactive"), &Value::Null));
    let listed = home.json(&["schedule", "list"]);
    let names: Vec<_> = listed.iter().map(|one| text(one, "schedule")).collect();
    assert_eq!(names, ["hourly", "never", "nightly", "zoo/work"]);
    home.run_plain(&["schedule", "list"]).expect(0).says(&[
        "every 1 h",
        "(Europe/Berlin)",
        "never",
    ]);
    home.run_plain(&["schedule", "show", "zoo/work"]).expect(0).says(&["every 1 d", "once"]);
    let status = home.object(&["status"]);
    assert_eq!(status["schedules"], json!({ "active": 3, "paused": 0, "inactive": 1 }));

    // Its next times lie an hour apart.
    let next = home.object(&["schedule", "next", "hourly", "--limit", "3"]);
    let times: Vec<axwatch_model::Timestamp> =
        serde_json::from_value(next["times"].clone()).unwrap();
    let apart: Vec<_> = times.windows(2).map(|pair| pair[1].since(pair[0]).as_secs()).collect();
    assert_eq!(apart, [3_600, 3_600]);

    // A run by hand is a run, and its job says whose.
    let job = home.object(&["schedule", "run-now", "nightly"]);
    server.until_job(id(&job), &["completed"]);
    let listed = home.json(&["jobs", "list", "--schedule", "nightly"]);
    assert_eq!((listed.len(), &listed[0]["schedule"]), (1, &json!("nightly")));
    assert_eq!((&listed[0]["by"], &listed[0]["nominal"]), (&json!("user"), &Value::Null));
    let history = home.json(&["schedule", "history", "nightly"]);
    assert_eq!(keys(&history[0]), ["at", "count", "job_id", "nominal", "outcome", "upto"]);
    assert_eq!((history.len(), &history[0]["outcome"]), (1, &json!("ran")));
    home.run_plain(&["schedule", "history", "nightly"]).expect(0).says(&["by hand", id(&job)]);
    home.run_plain(&["why", id(&job)]).expect(0).says(&["besides its times"]);

    // Paused, resumed, deleted; a plugin's own is paused and not deleted.
    let verb = |verb: &str, name: &str| home.object(&["schedule", verb, name])["state"].clone();
    assert_eq!(verb("pause", "hourly"), "paused");
    assert_eq!(home.object(&["schedule", "show", "hourly"])["next_at"], Value::Null);
    home.run_plain(&["schedule", "next", "hourly"]).expect(0).says(&["it is paused"]);
    assert_eq!(verb("resume", "hourly"), "active");
    assert_eq!(verb("pause", "zoo/work"), "paused");
    home.run(&["schedule", "delete", "zoo/work"]).expect(1).says(&["pause it instead"]);
    assert_eq!(verb("delete", "hourly"), "retired");
    home.run(&["schedule", "pause", "hourly"]).expect(1).says(&["retired"]);
    assert_eq!(home.json(&["schedule", "list"]).len(), 3);
    assert_eq!(home.json(&["schedule", "list", "--all"]).len(), 4);
    home.run(&["schedule", "resume", "never"]).expect(1).says(&["interval of 0"]);
    let kinds = ["schedule_declared", "schedule_paused", "schedule_resumed", "schedule_retired"];
    let records = kinds.map(|kind| home.json(&["audit", "show", "--type", kind]).len());
    assert_eq!(records, [4, 2, 1, 1]);

    // Over HTTP, and without a server, it is all the same.
    let over_http = server.get("/api/v1/schedules/zoo%2Fwork").remove(0);
    assert_eq!(over_http["state"], "paused");
    let body = r#"{"name":"poll","handler":"work","every":60,"payload":{"since":"last_run"}}"#;
    let (status, made) = server.request("POST", "/api/v1/schedules", body).unwrap();
    assert_eq!(status, 200, "{made}");
    let (status, _) = server.request("DELETE", "/api/v1/schedules/poll", "").unwrap();
    assert_eq!(status, 200);
    server.stop();
    let names = |lines: Vec<Value>| -> Vec<String> {
        lines.iter().map(|one| text(one, "schedule").to_owned()).collect()
    };
    assert_eq!(names(home.json(&["schedule", "list"])), ["never", "nightly", "zoo/work"]);
    assert_eq!(home.json(&["schedule", "history", "nightly"]), history);
    assert_eq!(home.object(&["schedule", "show", "nightly"])["next_at"], Value::Null);
    assert_eq!(
        home.object(&["schedule", "next", "nightly"])["times"].as_array().unwrap().len(),
        10
    );
    assert_eq!(home.object(&["status"])["schedules"]["paused"], 1);
    home.run(&["schedule", "pause", "nightly"]).expect(1).says(&["axwatch serve"]);
}

#[test]
fn a_schedule_runs_when_its_time_has_come() {
    let home = Home::new("pulse-runs");
    let server = serve_schedules(&home);
    home.object(&["schedule", "create", "often", "--every", "1s", "--run", "work"]);
    let ran = until("a run of the schedule is done", || {
        let jobs = home.json(&["jobs", "list", "--schedule", "often", "--state", "completed"]);
        jobs.into_iter().next()
    });
    assert_eq!((&ran["origin"], &ran["by"]), (&json!("schedule"), &json!("schedule")));
    let nominal = text(&ran, "nominal");
    home.object(&["schedule", "delete", "often"]);
    let history = home.json(&["schedule", "history", "often", "--all"]);
    let of_it = history.iter().find(|run| run["job_id"] == ran["job_id"]);
    assert_eq!(text(of_it.expect("its time is told of"), "nominal"), nominal);
    let why = home.run_plain(&["why", id(&ran)]).expect(0);
    why.says(&[
        "because its schedule said so",
        &format!("by schedule often, for {nominal}"),
        &format!("by a schedule, a run of often for {nominal}"),
    ]);
    let created = home.json(&["audit", "show", "--type", "job_created"]);
    assert!(
        created.iter().any(|record| record["nominal"] == nominal && record["by"] == "schedule")
    );
    server.stop();
}

#[test]
fn a_schedule_that_cannot_be_is_told_with_what_could() {
    let home = Home::new("pulse-schedule-wrong");
    let server = serve_schedules(&home);
    home.object(&["schedule", "create", "nightly", "--every", "1d", "--run", "work"]);
    // What means another schedule is no name.
    for (name, says) in [
        ("", "it must have 1 to 256 bytes"),
        ("a/b", "plugin/name is the schedule of a plugin"),
        ("3ea27c14d1c994b3bc463569ba5fdcae", "32 hex digits are the id of a schedule"),
    ] {
        let args = ["schedule", "create", name, "--every", "1h", "--run", "work"];
        home.run(&args).expect(1).says(&[says]);
    }
    let create = ["schedule", "create", "x", "--run"];
    // (the rest of the arguments, exit code, what is said)
    let cases: [(&[&str], i32, &str); 15] = [
        (&["work"], 2, "--every <SPAN>|--cron <LINE>"),
        (&["work", "--every", "-5m"], 2, "--every"),
        (&["work", "--cron", "60 * * * *"], 1, "is no minute; one is * or 0 to 59"),
        (&["work", "--cron", "* * * 13 *"], 1, "is no month; one is * or 1 to 12"),
        (&["work", "--cron", "@daily", "--tz", ""], 1, "tz is empty"),
        (&["work", "--every", "1h", "--cron", "@daily"], 2, "--cron"),
        (&["work", "--every", "soon"], 2, "is no span of time"),
        (&["work", "--every", "1h", "--tz", "UTC"], 2, "cannot be used with"),
        (&["work", "--every", "1h", "--jitter", "x"], 2, "--jitter"),
        (&["work", "--every", "1h", "--missed", "all:0"], 2, "all:N with N from 1 to 1000"),
        (&["work", "--every", "1h", "--overlap", "kill"], 2, "skip, queue or cancel"),
        (&["work", "--cron", "1 2 3"], 1, "a pattern has five fields"),
        (&["work", "--cron", "@daily", "--tz", "Mars/Base"], 1, "time zone"),
        (&["wrok", "--every", "1h"], 1, "wrok"),
        (&["work", "--every", "60000d"], 1, "at most"),
    ];
    for (args, code, says) in cases {
        home.run(&[&create[..], args].concat()).expect(code).says(&[says]);
    }
    for verb in ["show", "pause", "delete", "run-now", "history", "next"] {
        home.run(&["schedule", verb, "nigthly"]).expect(1).says(&["did you mean nightly?"]);
    }
    let both = r#"{"name":"x","handler":"work","every":60,"cron":"@daily"}"#;
    for body in [both, r#"{"name":"x","handler":"work"}"#, r#"{"name":"x","handlr":"work"}"#] {
        let (status, said) = server.request("POST", "/api/v1/schedules", body).unwrap();
        assert_eq!(status, 400, "{body}: {said}");
    }
    assert_eq!(home.json(&["schedule", "list"]).len(), 2, "nothing was made");
    server.stop();
}

const BUDGET: [&str; 10] = [
    "all_reserved",
    "calls_per_minute",
    "changed_at",
    "held_by",
    "held_lanes",
    "per_day",
    "per_month",
    "per_week",
    "reserved",
    "scope",
];

#[test]
fn a_budget_that_is_used_up_holds_jobs_and_frees_them() {
    let home = Home::new("pulse-budget");
    let toml = home.zoo_toml(&[Zoo::good("zoo")]);
    home.configure(&format!(
        "{toml}\n[budget]\nper_month = 20\n[budget.plugin.zoo]\nper_day = 2.5\n"
    ));
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let listed = home.json(&["budget", "show"]);
    let scopes: Vec<_> = listed.iter().map(|one| text(one, "scope")).collect();
    assert_eq!(scopes, ["*", "zoo"]);
    assert_eq!(keys(&listed[0]), BUDGET);
    let configured = json!({ "limit": 2.5, "used": 0.0, "left": 2.5, "set_by": "configuration" });
    assert_eq!(listed[1]["per_day"], configured);

    // Nothing gets through, and it is told everywhere.
    let set =
        home.object(&["budget", "set", "zoo/work", "--calls-per-minute", "0", "--per-day", "1"]);
    assert_eq!((&set["scope"], &set["calls_per_minute"]["limit"]), (&json!("zoo/work"), &json!(0)));
    assert_eq!(set["per_day"]["set_by"], "user");
    let job = run(&home, &[]);
    let held = server.until_job(id(&job), &["paused"]);
    assert_eq!(held["waits"]["reason"], "budget", "{held}");
    assert_eq!(held["attempts"], 0, "no attempt is burnt");
    assert_eq!(ids(&home.json(&["jobs", "list", "--state", "paused"])), [id(&job)]);
    home.run_plain(&["jobs", "show", id(&job)])
        .expect(0)
        .says(&["budget calls_per_minute of zoo/work"]);
    let status = home.object(&["status"]);
    assert_eq!(status["jobs"]["paused"], 1, "{status}");
    assert_eq!(status["attention"][0]["kind"], "budget_used_up", "{status}");
    let shown = home.object(&["budget", "show", "zoo/work"]);
    assert_eq!(
        (&shown["held_lanes"], &shown["held_by"]["limit"]),
        (&json!(1), &json!("calls_per_minute"))
    );
    home.run_plain(&["budget", "show"]).expect(0).says(&["used up", "zoo/work", "configuration"]);

    // It goes on by itself once there is room.
    let freed = home.object(&["budget", "set", "zoo/work", "--calls-per-minute", "none"]);
    assert_eq!(freed["calls_per_minute"]["limit"], Value::Null);
    assert_eq!(freed["per_day"]["limit"], 1.0, "what is not said stays");
    server.until_job(id(&job), &["completed"]);
    let why = home.object(&["why", id(&job)]);
    let reason = &why["reasons"][0];
    assert_eq!(reason["kind"], "budget_held", "{why}");
    assert!(text(reason, "message").contains("budget calls_per_minute of zoo/work held it for"));
    for (kind, count) in [("budget_set", 2), ("budget_held", 1), ("budget_freed", 1)] {
        let records = home.json(&["audit", "show", "--type", kind]);
        assert_eq!(records.len(), count, "{kind}: {records:?}");
    }
    assert!(home.json(&["audit", "show", "--type", "budget_freed"])[0]["held_ms"].is_u64());
    // The call counts, and only a server knows.
    let used = |budget: &Value| budget["calls_per_minute"]["used"].clone();
    assert_eq!(used(&home.object(&["budget", "show", "all"])), 1);
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    server.stop();
    let offline = home.json(&["budget", "show"]);
    let scopes: Vec<_> = offline.iter().map(|one| text(one, "scope")).collect();
    assert_eq!(scopes, ["*", "zoo", "zoo/work"]);
    assert_eq!((keys(&offline[0]), used(&offline[0])), (BUDGET.to_vec(), Value::Null));
    assert_eq!(
        (&offline[0]["per_month"]["limit"], &offline[2]["per_day"]["limit"]),
        (&json!(20.0), &json!(1.0))
    );
    home.run(&["budget", "set", "zoo", "--per-day", "1"]).expect(1).says(&["axwatch serve"]);
}

#[test]
fn a_budget_that_cannot_be_is_told_with_what_could() {
    let home = Home::new("pulse-budget-wrong");
    home.configure_zoo(&[Zoo::good("zoo")]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    // (arguments, exit code, what is said)
    let cases: [(&[&str], i32, &str); 9] = [
        (&["set", "zoo", "--per-day", "1e308"], 2, "up to 9000000000"),
        (&["set", "zoo"], 2, "nothing is set; say --calls-per-minute"),
        (&["set", "zoo", "--per-day", "nan"], 2, "an amount of 0 or more"),
        (&["set", "zoo", "--per-day", "much"], 2, "an amount of 0 or more"),
        (&["set", "zoo", "--calls-per-minute", "1.5"], 2, "a whole number"),
        (&["set", "zoo/", "--per-day", "1"], 2, "plugin/handler"),
        (&["set", "zooo", "--per-day", "1"], 1, "did you mean zoo?"),
        (&["set", "zoo/wrok", "--per-day", "1"], 1, "did you mean zoo/work?"),
        (&["show", "zooo"], 1, "did you mean zoo?"),
    ];
    for (args, code, says) in cases {
        home.run(&[&["budget"], args].concat()).expect(code).says(&[says]);
    }
    for body in
        [r#"{"scope":"zoo"}"#, r#"{"scope":"zoo","per_dya":1}"#, r#"{"scope":"zoo","per_day":-1}"#]
    {
        let (status, said) = server.request("POST", "/api/v1/budgets", body).unwrap();
        assert_eq!(status, 400, "{body}: {said}");
        assert!(!body.contains("per_day") || said.contains("per_day: it must be"), "{said}");
    }
    // What was set and is taken back is a budget no more.
    home.object(&["budget", "set", "all", "--per-day", "1"]);
    assert_eq!(home.json(&["budget", "show"]).len(), 1);
    home.object(&["budget", "set", "all", "--per-day", "none"]);
    assert!(home.json(&["budget", "show"]).is_empty());
    home.run_plain(&["budget", "show"]).expect(0).says(&["no budgets"]);
    assert_eq!(number(&home.object(&["budget", "show", "zoo"])["calls_per_minute"], "used"), 0);
    server.stop();
    home.configure("[budget]\nper_dya = 1\n");
    home.run(&["budget", "show"]).expect(2).says(&["am.toml:2", "did you mean budget.per_day?"]);
}
