//! Progress that a host hears of while a job runs, where it serves `UpdateJob`.
//!
//! One task a job sends the newest progress, at most every half second, so that the handler never
//! waits for it. What is not sent any more when the job ends is in its reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axwatch_proto::protocol::queue_service_client::QueueServiceClient;
use axwatch_proto::protocol::{self, UpdateJobRequest};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::host::{channel, status_text};

/// From one report to the next.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// How long the host may take to hear of it.
const TELL_WITHIN: Duration = Duration::from_secs(5);

/// How far a job is: current and total.
pub(crate) type Progress = Option<(u64, u64)>;

/// The host's queue, which hears of progress.
pub(crate) struct Queue {
    client: QueueServiceClient<Channel>,
    token: String,
    has_complained: AtomicBool,
}

impl Queue {
    /// The queue at this `host:port`; none for an empty one.
    pub(crate) fn new(endpoint: &str, token: &str) -> Result<Option<Arc<Queue>>, Failure> {
        let client = channel(endpoint)?.map(QueueServiceClient::new);
        Ok(client.map(|client| {
            Arc::new(Queue {
                client,
                token: token.to_owned(),
                has_complained: AtomicBool::new(false),
            })
        }))
    }

    /// Tells the host of each change until the attempt is over.
    pub(crate) async fn follow(
        self: Arc<Queue>,
        job: protocol::Job,
        attempt: i32,
        mut progress: watch::Receiver<Progress>,
        mut over: watch::Receiver<bool>,
    ) {
        let telling = async {
            while progress.changed().await.is_ok() {
                let Some(now) = *progress.borrow_and_update() else { continue };
                self.tell(&job, attempt, now).await;
                tokio::time::sleep(TELL_EVERY).await;
            }
        };
        tokio::select! {
            () = telling => {}
            _ = over.wait_for(|&over| over) => {}
        }
    }

    async fn tell(&self, job: &protocol::Job, attempt: i32, progress: (u64, u64)) {
        let job = protocol::Job { progress: Some(on_wire(progress)), ..job.clone() };
        let auth_token = self.token.clone();
        let request =
            UpdateJobRequest { auth_token, job: Some(job), attempt, log_entries: Vec::new() };
        let mut client = self.client.clone();
        let problem = match tokio::time::timeout(TELL_WITHIN, client.update_job(request)).await {
            Ok(Ok(reply)) => Some(reply.into_inner()).filter(|r| !r.success).map(|r| r.error),
            Ok(Err(status)) => Some(status_text(&status)),
            Err(_) => Some(format!("no answer in {TELL_WITHIN:?}")),
        };
        let Some(error) = problem else { return };
        // The job goes on without, and one line says so.
        if !self.has_complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(error, "the host does not hear of progress");
        }
    }
}

/// The wire counts to 2³¹ only.
pub(crate) fn on_wire((current, total): (u64, u64)) -> protocol::Progress {
    let clamped = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
    protocol::Progress { current: clamped(current), total: clamped(total) }
}
