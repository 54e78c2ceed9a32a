//! How long an attempt may take: a plugin's server that tells the queue how it gets on while it runs a job.

use std::time::Instant;

use axwatch_model::JobState;
use axwatch_proto::protocol::queue_service_client::QueueServiceClient;
use axwatch_proto::protocol::{
    ExecuteJobRequest, ExecuteJobResponse, Job, Progress, UpdateJobRequest,
};
use tokio::net::TcpListener;

use super::fake::{Fake, answer};
use super::services::{Desk, desk};
use super::*;
use crate::dispatch::EXTENDED_MAX;
use crate::plugin::grpc::{GrpcPlugin, channel, client};
use crate::plugin::output::Capture;
use crate::plugin::tail::Log;
use crate::plugin::token::Token;

/// How long an attempt may take that tells nothing: much longer than a busy machine keeps a report back.
const DEADLINE: Duration = Duration::from_secs(2);

/// How a handler gets on.
#[derive(Debug, Clone, Copy)]
enum Gait {
    /// It answers nothing and tells nothing.
    Silent,
    /// It tells the same again and again.
    Standing,
    /// It gets further and further, and is done after so long.
    Walking(Duration),
}

/// Runs a job at that gait, and calls the queue as a plugin does.
async fn run(
    gait: Gait,
    channel: tonic::transport::Channel,
    auth_token: String,
    job: ExecuteJobRequest,
) -> Result<ExecuteJobResponse, tonic::Status> {
    let (began, mut queue) = (Instant::now(), QueueServiceClient::new(channel));
    let mut current = 1;
    loop {
        match gait {
            Gait::Silent => std::future::pending().await,
            Gait::Standing => {}
            Gait::Walking(time) if began.elapsed() >= time => {
                return Ok(ExecuteJobResponse { success: true, ..Default::default() });
            }
            Gait::Walking(_) => current += 1,
        }
        let told = Job {
            id: job.job_id.clone(),
            status: "running".into(),
            progress: Some(Progress { current, total: 1_000_000 }),
            ..Default::default()
        };
        let told = UpdateJobRequest {
            auth_token: auth_token.clone(),
            job: Some(told),
            attempt: job.attempt,
            log_entries: Vec::new(),
        };
        // An attempt that was given up is not heard any more.
        let _ = queue.update_job(told).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Brings the plugin of a desk up, with a server of its own whose one handler has this gait.
async fn serve(desk: &Desk, gait: Gait) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (way_back, token) = (desk.channel.clone(), desk.token.clone());
    let execute = answer(move |request: tonic::Request<ExecuteJobRequest>| {
        run(gait, way_back.clone(), token.clone(), request.into_inner())
    });
    tokio::spawn(Fake { execute, ..Fake::named("git") }.serve(listener));
    let token = Arc::new(Token::known(&desk.token));
    let log = Arc::new(Log::new(Arc::new(SystemClock::new())));
    let capture = Capture::new("git", token.clone(), log);
    // Whoever supervises the process hears of deadlines; here nobody does.
    let (seen, _) = mpsc::unbounded_channel();
    let client = client(channel(port, 64));
    let transport = GrpcPlugin::new(client, DEADLINE, desk.caller.clone(), token, capture, seen);
    let ready = PluginReady {
        plugin: "git".parse().unwrap(),
        incarnation: desk.caller.incarnation,
        version: "1".into(),
        max_in_flight: 8,
        registration: Registration {
            handlers: vec!["git.do".parse().unwrap()],
            ..Registration::default()
        },
        transport: Arc::new(transport),
    };
    desk.engine.plugin_up(ready).await.unwrap();
}

/// How the first attempt of a job ends, and how long that took.
async fn first_end(gait: Gait) -> (JobRow, Duration) {
    let desk = desk().await;
    serve(&desk, gait).await;
    let mut heads = desk.engine.heads();
    let id = enqueue(&desk.engine, "git").await.id;
    let began = Instant::now();
    soon(async {
        loop {
            let row = desk.engine.store().job(id).await.unwrap().unwrap();
            if row.error.is_some() || row.state == JobState::Completed {
                break (row, began.elapsed());
            }
            heads.changed().await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn an_attempt_has_as_much_time_as_its_progress_earns_it() {
    let ((walked, took), (lingering, at_most), (standing, stood), (silent, waited)) = tokio::join!(
        first_end(Gait::Walking(DEADLINE * 5 / 2)),
        first_end(Gait::Walking(DEADLINE * 100)),
        first_end(Gait::Standing),
        first_end(Gait::Silent),
    );
    assert_eq!((walked.state, walked.attempts, walked.error), (JobState::Completed, 1, None));
    assert!(took >= DEADLINE * 5 / 2 && walked.progress.unwrap().0 > 1, "{took:?}");

    let error = |row: &JobRow| row.error.clone().unwrap_or_default();
    assert!(
        error(&lingering).contains("no answer within 8 s, however far it got"),
        "{lingering:?}"
    );
    assert!(at_most >= DEADLINE * EXTENDED_MAX, "{at_most:?}");
    assert!(error(&standing).contains("no answer within 2 s of its last progress"), "{standing:?}");
    assert!(error(&silent).contains("no answer within 2 s"), "{silent:?}");
    assert!(!error(&silent).contains("progress"), "{silent:?}");
    for (row, time) in [(&standing, stood), (&silent, waited)] {
        assert!(time >= DEADLINE && time < at_most, "{time:?}");
        assert_eq!((row.state, row.attempts, row.counted), (JobState::Queued, 1, 1), "{row:?}");
    }
}
