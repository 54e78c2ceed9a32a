//! What a handler answers, and what the host sees of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{Scripted, job, until};
use axwatch_proto::protocol::ExecuteJobRequest;
use axwatch_proto::protocol::domain_plugin_service_client::DomainPluginServiceClient;
use axwatch_sdk::testing::{Harness, TestJob};
use axwatch_sdk::{About, Claim, Done, Failure, Job, Level, Plugin};
use serde::Deserialize;
use tokio::sync::{Semaphore, oneshot};
use tonic::Code;

#[tokio::test]
async fn each_failure_reaches_the_host_as_what_it_is() {
    let soon = Duration::from_millis(1_500);
    let cases = [
        (Failure::retry("busy"), Failure::Retry("busy".into())),
        (Failure::permanent("gone"), Failure::Permanent("gone".into())),
        (Failure::not_now(soon, "early"), Failure::not_now(soon, "early")),
        // A host reads 0 as an ordinary failure.
        (
            Failure::not_now(Duration::ZERO, "early"),
            Failure::not_now(Duration::from_millis(1), "early"),
        ),
        (
            Failure::NotNow { after: None, reason: "too much".into() },
            Failure::NotNow { after: None, reason: "too much".into() },
        ),
        (Failure::retry("é".repeat(60_000)), Failure::retry("é".repeat(32_768))),
    ];
    let failures: Vec<_> = cases.iter().map(|(failure, _)| failure.clone()).collect();
    let plugin = Scripted::new(move |job| {
        let which: usize = job.payload_as().unwrap();
        let failure = failures[which].clone();
        async { Err(failure) }
    });
    let harness = Harness::start(plugin).await;
    for (which, (_, seen)) in cases.into_iter().enumerate() {
        let failure = harness.execute(job().payload_json(which)).await.expect_failure();
        assert_eq!(failure, seen);
    }
}

#[tokio::test]
async fn a_failure_keeps_the_log_and_the_progress() {
    let plugin = Scripted::new(|job| async move {
        job.progress(3, u64::MAX);
        job.warn("half of it is missing");
        job.log(Level::Debug, "here");
        Err(Failure::permanent("gone"))
    });
    let outcome = Harness::start(plugin).await.execute(job()).await;
    assert_eq!(outcome.failure, Some(Failure::Permanent("gone".into())));
    assert_eq!(outcome.progress, Some((3, i32::MAX as u64)));
    let said =
        [(Level::Warn, "half of it is missing".to_owned()), (Level::Debug, "here".to_owned())];
    assert_eq!(outcome.log, said);
}

#[tokio::test]
async fn done_carries_a_result_and_a_cost() {
    let plugin = Scripted::new(|_| async {
        Ok(Done::new().result_json(&BTreeMap::from([("n", 1)])).cost(0.25))
    });
    let outcome = Harness::start(plugin).await.execute(job()).await.expect_done();
    assert_eq!((&outcome.result[..], outcome.cost), (&br#"{"n":1}"#[..], 0.25));
    assert_eq!(outcome.result_as::<BTreeMap<String, u32>>()["n"], 1);
}

#[tokio::test]
async fn a_result_that_is_none_is_said() {
    let plugin = Scripted::new(|job| async move {
        match job.payload_as::<String>()?.as_str() {
            "keys" => Ok(Done::new().result_json(&BTreeMap::from([((1, 2), 3)]))),
            _ => Ok(Done::new().result(vec![b'x'; 9 * 1024 * 1024])),
        }
    });
    let harness = Harness::start(plugin).await;
    let failure = harness.execute(job().payload_json("keys")).await.expect_failure();
    assert_eq!(failure, Failure::Permanent("result: no JSON: key must be a string".into()));

    let outcome = harness.execute(job().payload_json("large")).await.expect_done();
    assert!(outcome.result.is_empty());
    let left_out = "the result was left out: 9437184 bytes; at most 6291456 fit into a reply";
    assert_eq!(outcome.log, [(Level::Warn, left_out.to_owned())]);
}

#[tokio::test]
async fn any_error_is_tried_again_with_its_chain() {
    let plugin = Scripted::new(|_| async {
        let text = std::fs::read_to_string("/nowhere/list")?;
        Ok(Done::new().result(text))
    });
    let failure = Harness::start(plugin).await.execute(job()).await.expect_failure();
    assert_eq!(failure, Failure::Retry("No such file or directory (os error 2)".into()));
}

#[tokio::test]
async fn a_panic_is_a_failure_and_the_next_job_is_done() {
    let plugin = Scripted::new(|job| async move {
        assert_ne!(job.payload_as::<u32>()?, 1, "one is odd");
        Ok(Done::new())
    });
    let harness = Harness::start(plugin).await;
    let failure = harness.execute(job().payload_json(1)).await.expect_failure();
    let Failure::Retry(reason) = failure else { panic!("{failure:?}") };
    assert!(reason.starts_with("the handler panicked: "), "{reason}");
    assert!(reason.contains("one is odd"), "{reason}");
    harness.execute(job().payload_json(2)).await.expect_done();
}

/// Panics before there is a future.
struct Hasty;

impl Plugin for Hasty {
    fn about(&self) -> About {
        About::new("hasty", "1.0.0", "panics at once")
    }

    fn handlers(&self) -> Vec<String> {
        vec!["scripted.work".into()]
    }

    fn execute(&self, job: Job) -> impl Future<Output = Result<Done, Failure>> + Send {
        assert!(job.payload().is_empty(), "one is odd");
        async { Ok(Done::new()) }
    }
}

#[tokio::test]
async fn so_is_a_panic_before_there_is_a_future() {
    let harness = Harness::start(Hasty).await;
    let failure = harness.execute(job().payload_json(1)).await.expect_failure();
    assert_eq!(failure, Failure::Retry("the handler panicked: one is odd".into()));
    harness.execute(job()).await.expect_done();
}

#[tokio::test]
async fn a_handler_that_was_not_announced_is_not_found() {
    let harness = Harness::start(Scripted::new(|_| async { Ok(Done::new()) })).await;
    let address = format!("http://{}", harness.address());
    let mut client = DomainPluginServiceClient::connect(address).await.unwrap();
    let request = ExecuteJobRequest { handler_name: "other".into(), ..Default::default() };
    let status = client.execute_job(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(status.message(), "\"other\" is no handler of this plugin");
}

#[derive(Debug, Deserialize)]
struct Params {
    greeting: Option<String>,
}

#[tokio::test]
async fn a_job_says_what_it_is() {
    let plugin = Scripted::new(|job| async move {
        assert_eq!((job.handler(), job.attempt()), ("scripted.work", 3));
        assert_eq!(job.watcher(), Some("scripted-all"));
        assert_eq!(job.deadline(), Some(Duration::from_secs(30)));
        assert_eq!(job.attestation()?.subjects, ["ALICE"]);
        assert_eq!(job.attestation()?.actors, ["hr"]);
        assert_eq!(job.params_as::<Params>()?.greeting.as_deref(), Some("hi"));
        assert_eq!(job.config().get("mode"), Some("quiet"));
        assert!(!job.is_cancelled());
        Ok(Done::new().result(job.id().to_owned()))
    });
    let harness = Harness::start_with(plugin, [("mode", "quiet")]).await;
    let job = job()
        .fire(Claim::new("ALICE", "author", "GitHub").actor("hr"))
        .params_json(serde_json::json!({ "greeting": "hi" }))
        .attempt(3)
        .watcher("scripted-all")
        .deadline(Duration::from_secs(30));
    let id = job.id().to_owned();
    assert_eq!(harness.execute(job).await.expect_done().result, id);

    let bare = Scripted::new(|job| async move {
        assert_eq!((job.attempt(), job.watcher(), job.deadline()), (0, None, None));
        assert!(job.params_as::<Params>()?.greeting.is_none());
        Ok(Done::new())
    });
    let harness = Harness::start(bare).await;
    harness.execute(TestJob::new("scripted.work").attempt(0)).await.expect_done();
}

#[tokio::test]
async fn what_does_not_fit_is_never_tried_again() {
    let plugin = Scripted::new(|job| async move {
        match job.payload().first() {
            Some(b'{') => drop(job.params_as::<Params>()?),
            Some(b'[') => drop(job.payload_as::<Params>()?),
            _ => drop(job.attestation()?),
        }
        Ok(Done::new())
    });
    let harness = Harness::start(plugin).await;
    let cases = [
        (job().payload("{}").params_json(["x"; 2]), "params: not what scripted.work takes: "),
        (job().payload("[1,2]"), "payload: not what scripted.work takes: "),
        (job(), "payload: no attestation: EOF while parsing"),
    ];
    for (job, says) in cases {
        let failure = harness.execute(job).await.expect_failure();
        let Failure::Permanent(reason) = failure else { panic!("{failure:?}") };
        assert!(reason.starts_with(says), "no {says:?} in {reason:?}");
    }
}

#[tokio::test]
async fn a_cancelled_attempt_is_dropped_and_its_other_threads_are_told() {
    let (began, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let was_told = Arc::new(AtomicBool::new(false));
    let told = was_told.clone();
    let plugin = Scripted::new(move |job| {
        let (began, told) = (began.clone(), told.clone());
        async move {
            let waiting = job.clone();
            tokio::spawn(async move {
                waiting.cancelled().await;
                assert!(waiting.is_cancelled());
                told.store(true, Ordering::SeqCst);
            });
            let (dropped, is_dropped) = oneshot::channel::<()>();
            began.send(is_dropped).unwrap();
            let _held = dropped;
            std::future::pending().await
        }
    });
    let harness = Harness::start(plugin).await;
    let is_dropped = tokio::select! {
        outcome = harness.execute(job()) => panic!("{outcome:?}"),
        is_dropped = begins.recv() => is_dropped.unwrap(),
    };
    // The host gave up when `select!` dropped its call.
    tokio::time::timeout(crate::support::PATIENCE, is_dropped).await.unwrap().unwrap_err();
    until("the other task is told", || was_told.load(Ordering::SeqCst).then_some(())).await;
}

#[tokio::test]
async fn jobs_run_side_by_side_and_health_gets_through() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::new(Semaphore::new(0));
    let (pass, come) = (gate.clone(), waiting.clone());
    let plugin = Scripted::new(move |_| {
        let (pass, come) = (pass.clone(), come.clone());
        async move {
            come.add_permits(1);
            let _ = pass.acquire().await?;
            Ok(Done::new())
        }
    });
    let harness = Arc::new(Harness::start(plugin).await);
    let running: Vec<_> = (0..500)
        .map(|_| {
            let harness = harness.clone();
            tokio::spawn(async move { harness.execute(job()).await.expect_done() })
        })
        .collect();
    let all = tokio::time::timeout(crate::support::PATIENCE, waiting.acquire_many(500));
    drop(all.await.expect("all of them run at once").unwrap());
    gate.add_permits(1);
    for job in running {
        job.await.unwrap();
    }
}

#[tokio::test]
async fn progress_reaches_the_host_while_the_job_runs_and_not_too_often() {
    let (finish, finished) = oneshot::channel::<()>();
    let finished = Arc::new(tokio::sync::Mutex::new(Some(finished)));
    let plugin = Scripted::new(move |job| {
        let finished = finished.clone();
        async move {
            for done in 1..=10_000 {
                job.progress(done, 10_000);
            }
            finished.lock().await.take().unwrap().await?;
            job.progress(10_000, 10_000);
            Ok(Done::new())
        }
    });
    let harness = Harness::start(plugin).await;
    let job = job();
    let id = job.id().to_owned();
    let seen = async {
        let told = until("the host hears of it", || {
            Some(harness.progress_of(&id)).filter(|told| !told.is_empty())
        });
        let told = told.await;
        finish.send(()).unwrap();
        told
    };
    let (outcome, told) = tokio::join!(harness.execute(job), seen);
    assert_eq!(outcome.expect_done().progress, Some((10_000, 10_000)));
    assert_eq!(told, [(10_000, 10_000)], "10,000 calls, and one message");
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_host_that_does_not_hear_of_progress_is_told_of_once() {
    let logged = Logged::default();
    let writer = logged.clone();
    let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    // The plugin runs on this thread too.
    let _log = tracing::subscriber::set_default(log);
    let finish = Arc::new(AtomicBool::new(false));
    let is_over = finish.clone();
    let plugin = Scripted::new(move |job| {
        let is_over = is_over.clone();
        async move {
            for n in 1.. {
                job.progress(n, 0);
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(Done::new())
        }
    });
    let harness = Harness::start(plugin).await;
    harness.fail_next_call("unavailable: no room");
    harness.fail_next_call("unavailable: still no room");
    let job = job();
    let id = job.id().to_owned();
    let third = async {
        until("the host hears of it", || {
            Some(()).filter(|()| !harness.progress_of(&id).is_empty())
        })
        .await;
        finish.store(true, Ordering::SeqCst);
    };
    let (outcome, ()) = tokio::join!(harness.execute(job), third);
    outcome.expect_done();
    let logged = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = logged.lines().filter(|line| line.contains("progress")).collect();
    assert_eq!(lines.len(), 1, "{logged}");
    assert!(lines[0].contains("unavailable: no room"), "{logged}");
}
