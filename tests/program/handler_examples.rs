//! The handlers of `examples/handlers/` with the real program, as people would use them: each is stored with one
//! command, and what it is for happens.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Home, Server, until};
use serde_json::{Value, json};

/// Starts a server with nothing but the Python plugin, which has this environment.
fn serve_with(home: &Home, environment: &str) -> Server {
    home.configure(&format!(
        "[plugin]\nenabled = [\"python\"]\n[plugins.python]\nenv = {{ {environment} }}\n"
    ));
    let server = home.serve();
    server.until_ready(&["python"]);
    server
}

fn serve(home: &Home) -> Server {
    serve_with(home, "")
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/handlers/{name}.py"))
}

/// Stores an example under its own name, and answers what the command said.
#[track_caller]
fn create(home: &Home, name: &str) -> Value {
    let file = example(name);
    let file = file.to_str().expect("the checkout has a path that is text");
    let created = home.object(&["handler", "create", name, "--file", file]);
    assert_eq!(created["number"], 1, "{created}");
    created
}

/// Waits until so many claims answer a question, and gives them.
#[track_caller]
fn found(home: &Home, ax: &str, count: usize) -> Vec<Value> {
    until(&format!("{count} claims that answer {ax:?}"), || {
        let claims = home.json(&["ax", ax]);
        (claims.len() == count).then_some(claims)
    })
}

#[test]
fn a_release_tag_is_told() {
    let home = Home::new("example-release");
    let server = serve(&home);
    create(&home, "release");
    home.run(&["as", "wip is node_type of tag"]).expect(0);
    home.run(&["as", "v1.2.0 is node_type of tag"]).expect(0);
    let told = found(&home, "is released of releases", 1);
    assert_eq!(told[0]["subjects"], json!(["v1.2.0"]));
    server.until_settled();
    let jobs = home.json(&["jobs", "list", "--handler", "python.release"]);
    let states: Vec<_> = jobs.iter().map(|job| &job["state"]).collect();
    assert_eq!(states, ["completed", "completed"]);
    found(&home, "is released", 1);
}

#[test]
fn commits_are_labelled_by_what_they_touch() {
    let home = Home::new("example-labels");
    let server = serve(&home);
    create(&home, "labels");
    home.run(&["as", "docs tests vendor is modified_in of abc1234"]).expect(0);
    let told = found(&home, "abc1234 is labelled", 2);
    let labels: Vec<_> = told.iter().map(|claim| &claim["contexts"][0]).collect();
    assert_eq!(labels, ["tests", "documentation"]);
    server.until_settled();
}

#[test]
fn claims_are_counted_by_actor() {
    let home = Home::new("example-tally");
    let server = serve(&home);
    let created = create(&home, "tally");
    let schedule = &created["schedules"][0];
    assert_eq!(schedule["every_secs"], 3_600, "{created}");
    for subject in ["a", "b", "c"] {
        home.run(&["as", &format!("{subject} is seen of here by ann")]).expect(0);
    }
    home.run(&["as", "d is seen of here by bob"]).expect(0);
    home.run(&["schedule", "run-now", "python/tally-count"]).expect(0);
    for (actor, count) in [("ann", 3), ("bob", 1)] {
        let told = found(&home, &format!("{actor} is made_claims of hourly"), 1);
        assert_eq!(told[0]["attributes"], json!({"count": count, "at_least": false}));
    }
    server.until_settled();
}

#[test]
fn claims_are_mirrored_to_a_file() {
    let home = Home::new("example-mirror");
    let file = home.path("mirror.jsonl");
    let server = serve_with(&home, &format!("MIRROR_FILE = {:?}", file.display().to_string()));
    create(&home, "mirror");
    home.run(&["as", "build-1 is failed of ci by robot"]).expect(0);
    home.run(&["as", "build-1 is failed of elsewhere by robot"]).expect(0);
    home.run(&["as", "build-2 is passed of ci by robot"]).expect(0);
    server.until_settled();
    let lines = fs::read_to_string(&file).expect("the file is there");
    let mut claims: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    claims.sort_by_key(|claim| claim["subjects"][0].to_string());
    let subjects: Vec<_> = claims.iter().map(|claim| &claim["subjects"][0]).collect();
    assert_eq!(subjects, ["build-1", "build-2"]);
    assert_eq!(claims[0]["contexts"], json!(["ci"]));
}

#[test]
fn what_is_said_and_denied_is_flagged() {
    let home = Home::new("example-contradictions");
    let server = serve(&home);
    create(&home, "contradictions");
    home.run(&["as", "'report 7' is approved of audit by ann"]).expect(0);
    home.run(&["as", "'report 8' is rejected of audit by ann"]).expect(0);
    server.until_settled();
    assert_eq!(home.json(&["ax", "is contradicted"]).len(), 0);
    let denied = home.object(&["as", "'report 7' is rejected of audit by bob"]);
    let told = found(&home, "is contradicted of audit", 1);
    assert_eq!(told[0]["subjects"], json!(["report 7"]));
    assert_eq!(told[0]["attributes"]["claim"], denied["id"]);
    server.until_settled();
}
