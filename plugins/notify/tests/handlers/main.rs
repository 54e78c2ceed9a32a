//! The plugin as a host sees it: real gRPC, real files, real sockets, real processes.

mod exec;
mod file;
mod log;
mod receiver;
mod webhook;

use std::time::Duration;

use axwatch_plugin_notify::plugin;
use axwatch_sdk::testing::{Harness, TestJob};
use axwatch_sdk::{Claim, Failure};

/// The longest that anything here may take: a machine under load is slow, and never this slow.
const AT_MOST: Duration = Duration::from_secs(60);

/// A fire of the watcher `user-hr` for a handler.
fn fire(handler: &str) -> TestJob {
    let claim = Claim::new("ALICE", "author", "GitHub").actor("HR").attribute("zeta", 1);
    TestJob::new(handler).fire(claim.attribute("alpha", "ä")).watcher("user-hr")
}

/// The reason of a failure that no retry mends.
#[track_caller]
fn permanent(failure: Failure) -> String {
    match failure {
        Failure::Permanent(reason) => reason,
        other => panic!("a permanent failure, not {other:?}"),
    }
}

/// The reason of a failure that a retry may mend.
#[track_caller]
fn retry(failure: Failure) -> String {
    match failure {
        Failure::Retry(reason) => reason,
        other => panic!("a retry, not {other:?}"),
    }
}

/// What a job is put off by, and why.
#[track_caller]
fn not_now(failure: Failure) -> (Duration, String) {
    match failure {
        Failure::NotNow { after: Some(after), reason } => (after, reason),
        other => panic!("not now, not {other:?}"),
    }
}

/// Waits until something holds.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + AT_MOST;
    while !holds() {
        assert!(tokio::time::Instant::now() < until, "not within {AT_MOST:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn announces_its_four_handlers() {
    let harness = Harness::start(plugin()).await;
    let expected = ["notify.log", "notify.file", "notify.webhook", "notify.exec"];
    assert_eq!(harness.announced().handlers, expected);
    assert!(harness.announced().watchers.is_empty());
}

#[tokio::test]
async fn a_bad_configuration_is_refused() {
    let refused = Harness::try_start(plugin(), [("webhook.alow", "[]")]).await;
    let reason = refused.err().expect("a refusal").to_string();
    assert!(reason.contains("no key webhook.alow; did you mean webhook.allow?"), "{reason}");
}

#[tokio::test]
async fn a_new_configuration_counts_for_later_jobs_and_a_bad_one_does_not() {
    let mut harness = Harness::start_with(plugin(), [("log.prefix", "one")]).await;
    let said = async |harness: &Harness| {
        harness.execute(fire("notify.log")).await.expect_done().log[0].1.clone()
    };
    assert_eq!(said(&harness).await, "one ALICE is author of GitHub by HR");
    harness.reconfigure([("log.prefix", "two")]).await.unwrap();
    assert_eq!(said(&harness).await, "two ALICE is author of GitHub by HR");
    harness.reconfigure([("log.level", "loud")]).await.unwrap_err();
    assert_eq!(said(&harness).await, "two ALICE is author of GitHub by HR");
}
