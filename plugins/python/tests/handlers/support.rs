//! What the tests share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use axwatch_sdk::testing::{Harness, Outcome, TestJob};
use axwatch_sdk::{HttpRequest, HttpResponse};
use serde_json::{Value, json};

/// How long anything that has to happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The plugin with a table of its own.
pub async fn start(config: &[(&str, &str)]) -> Harness {
    let config: BTreeMap<&str, &str> = config.iter().copied().collect();
    Harness::start_with(axwatch_plugin_python::plugin(), config).await
}

/// A job that runs this code.
pub fn script(code: &str) -> TestJob {
    TestJob::new("python.script").payload_json(json!({ "content": code }))
}

/// What the code leaves in `_result`.
pub async fn result(harness: &Harness, code: &str) -> Value {
    value(&harness.execute(script(code)).await.expect_done())
}

/// The answer of a job that is done.
#[track_caller]
pub fn value(outcome: &Outcome) -> Value {
    outcome.result_as::<Value>()["result"].clone()
}

/// Sends JSON and answers what came.
pub async fn post(harness: &Harness, path: &str, body: Value) -> (u16, Value) {
    let answer = harness.http(HttpRequest::new("POST", path, body.to_string())).await;
    (answer.status(), json_of(&answer))
}

pub fn json_of(answer: &HttpResponse) -> Value {
    serde_json::from_slice(answer.bytes()).expect("every answer is JSON")
}

/// A folder, and a file in it that is not there yet.
pub fn file(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join(name);
    (folder, file)
}

/// Looks until there is an answer. `what` says in words what is waited for.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
