//! `notify.log`.

use axwatch_plugin_notify::plugin;
use axwatch_sdk::testing::{Harness, TestJob};
use axwatch_sdk::{Failure, Level};
use serde_json::json;

use crate::{fire, permanent};

#[tokio::test]
async fn a_fire_is_one_entry_of_the_jobs_log() {
    let harness = Harness::start_with(plugin(), [("log.level", "warn")]).await;
    let cases = [
        // (params, level, line)
        (json!({}), Level::Warn, "ALICE is author of GitHub by HR"),
        (json!({"level": "info"}), Level::Info, "ALICE is author of GitHub by HR"),
        (
            json!({"level": "error", "prefix": "hr:"}),
            Level::Error,
            "hr: ALICE is author of GitHub by HR",
        ),
    ];
    for (params, level, line) in cases {
        let job = fire("notify.log").params_json(&params);
        let log = harness.execute(job).await.expect_done().log;
        assert_eq!(log, [(level, line.to_owned())], "{params}");
    }
}

#[tokio::test]
async fn a_job_without_a_claim_shows_its_payload() {
    let harness = Harness::start(plugin()).await;
    let job = TestJob::new("notify.log").payload("disk\nfull");
    let log = harness.execute(job).await.expect_done().log;
    assert_eq!(log, [(Level::Info, "disk full".to_owned())]);
}

#[tokio::test]
async fn bad_parameters_say_what_is_right() {
    let harness = Harness::start(plugin()).await;
    let cases = [
        (json!({"lvl": "info"}), "notify.log has no parameter \"lvl\"; it takes level, prefix"),
        (
            json!({"level": "loud"}),
            "notify.log: parameter \"level\" is \"loud\"; it must be debug, info, warn or error",
        ),
        (json!([1]), "params"),
    ];
    for (params, says) in cases {
        let failure: Failure =
            harness.execute(fire("notify.log").params_json(&params)).await.expect_failure();
        let reason = permanent(failure);
        assert!(reason.contains(says), "{params}: {reason}");
    }
}
