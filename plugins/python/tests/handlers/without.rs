//! Without an interpreter: what is said, and that nothing has to be restarted once there is one.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use axwatch_sdk::Failure;
use axwatch_sdk::testing::{Harness, TestJob};
use serde_json::json;

use crate::support::{post, result, script, start, value};

const WHAT_TO_DO: &str =
    "install python3 (Debian: apt install python3) or set [python] python = \"/path/to/python3\"";

/// Where a real interpreter is.
fn python() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').map(|folder| format!("{folder}/python3"));
    found.into_iter().find(|path| Path::new(path).exists()).expect("the tests need python3")
}

#[tokio::test]
async fn it_says_what_to_install_and_goes_on_when_that_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("python3");
    let mut harness = Harness::unstarted(axwatch_plugin_python::plugin()).await;
    let version = harness.store_handler("hello", "_result = 'hello'");
    harness
        .reconfigure([("python", path.to_str().unwrap())])
        .await
        .expect("it starts all the same");
    assert!(harness.announced().stored_handlers);

    let says = format!("there is no {}: {WHAT_TO_DO}", path.display());
    let job = TestJob::new("python.hello").handler_version(&version);
    for job in [job.clone(), script("_result = 1"), TestJob::new("python.sync")] {
        let failure = harness.execute(job).await.expect_failure();
        assert_eq!(failure, Failure::not_now(Duration::from_secs(30), &says));
    }
    for path in ["/check", "/test", "/sync"] {
        let (status, answer) = post(&harness, path, json!({"name": "h", "code": ""})).await;
        assert_eq!((status, answer["error"].as_str()), (503, Some(says.as_str())), "{path}");
    }

    symlink(python(), &path).unwrap();
    assert_eq!(value(&harness.execute(job).await.expect_done()), "hello");
    assert_eq!(result(&harness, "_result = 1").await, 1);
    let (status, answer) = post(&harness, "/sync", json!({})).await;
    assert_eq!((status, &answer["handlers"]), (200, &json!(1)));
}

#[tokio::test]
async fn an_interpreter_that_does_not_do_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let program = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let old = program("old", "#!/bin/sh\necho python 3.7.2 >&0\nsleep 1000\n");
    let broken = program("broken", "#!/bin/sh\necho no module named encodings >&2\nexit 1\n");
    let cases = [
        (
            old.clone(),
            format!("{old} is Python 3.7.2, and 3.8 or newer is needed: install a newer python3"),
        ),
        (
            broken.clone(),
            format!(
                "{broken} does not start: the connection was closed: no module named encodings; {WHAT_TO_DO}"
            ),
        ),
        (
            folder.path().to_str().unwrap().to_owned(),
            "does not start: Permission denied".to_owned(),
        ),
    ];
    for (python, says) in cases {
        let harness = start(&[("python", &python)]).await;
        let failure = harness.execute(script("_result = 1")).await.expect_failure();
        assert!(matches!(failure, Failure::NotNow { after: Some(_), .. }), "{failure:?}");
        assert!(failure.reason().contains(&says), "{python}: {failure}");
    }
}

#[tokio::test]
async fn watchers_that_cannot_be_read_are_not_given_up() {
    let mut harness = Harness::unstarted(axwatch_plugin_python::plugin()).await;
    harness.store_handler("hello", "@watch('is commit')\ndef f(u): pass");
    let failure = harness.reconfigure([("python", "/nowhere/python3")]).await.unwrap_err();
    let Failure::Retry(reason) = failure else { panic!("{failure:?}") };
    assert!(reason.starts_with("there is no /nowhere/python3: install python3"), "{reason}");
    assert!(reason.ends_with(
        "The handler hello may have watchers or schedules, which would be lost without it"
    ));
    harness.reconfigure([("workers", "1")]).await.expect("it starts");
    assert_eq!(harness.announced().watchers.len(), 2);
}

#[tokio::test]
async fn a_mistake_in_the_table_is_refused() {
    let started = Harness::try_start(axwatch_plugin_python::plugin(), [("worker", "2")]).await;
    let Err(Failure::Permanent(reason)) = started.map(|_| ()) else { panic!("it starts") };
    assert_eq!(reason, "[python] has no key worker; did you mean workers?");
}
