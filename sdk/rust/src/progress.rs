//! What a host hears of a job while it runs, where it serves `UpdateJob`: progress and log lines.
//!
//! One task a job sends what is new, at most every half second, so that the handler never waits for it.
//! What is not sent any more when the job ends is in its reply. A log line goes one way or the other,
//! never both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axwatch_proto::protocol::queue_service_client::QueueServiceClient;
use axwatch_proto::protocol::{self, JobLogEntry, UpdateJobRequest};
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, ConnectError, Status};

use crate::failure::Failure;
use crate::host::{channel, status_text};
use crate::job::Job;

/// From one report to the next.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// How long the host may take to hear of it.
const TELL_WITHIN: Duration = Duration::from_secs(5);

/// How far a job is: current and total.
pub(crate) type Progress = Option<(u64, u64)>;

/// The host's queue, which hears of jobs that run.
pub(crate) struct Queue {
    client: QueueServiceClient<Channel>,
    token: String,
    /// Whether it takes log lines.
    hears_lines: AtomicBool,
    has_complained: AtomicBool,
}

/// What became of a report.
enum Told {
    Taken,
    /// The host said that it did not take it, or never heard of it.
    Refused(String),
    /// Nobody knows.
    Lost(String),
}

impl Queue {
    /// The queue at this `host:port`; none for an empty one. Whether it takes log lines is for the caller
    /// to know: a host that does not know them would let them fall.
    pub(crate) fn new(
        endpoint: &str,
        token: &str,
        hears_lines: bool,
    ) -> Result<Option<Arc<Queue>>, Failure> {
        let client = channel(endpoint)?.map(QueueServiceClient::new);
        Ok(client.map(|client| {
            Arc::new(Queue {
                client,
                token: token.to_owned(),
                hears_lines: AtomicBool::new(hears_lines),
                has_complained: AtomicBool::new(false),
            })
        }))
    }

    /// Tells the host what is new of a job until the attempt is over.
    pub(crate) async fn follow(
        self: Arc<Queue>,
        job: Job,
        told: protocol::Job,
        (mut progress, mut over): (watch::Receiver<Progress>, watch::Receiver<bool>),
    ) {
        let mut is_first = true;
        loop {
            let news = async {
                tokio::select! {
                    changed = progress.changed() => return changed.is_ok(),
                    () = job.has_logged(), if self.hears_lines() => {}
                }
                if is_first {
                    // Most jobs are over before, and then all of it is in the reply.
                    tokio::time::sleep(TELL_EVERY).await;
                }
                true
            };
            tokio::select! {
                biased;
                _ = over.wait_for(|&over| over) => return,
                has_news = news => if !has_news { return },
            }
            is_first = false;
            let progress = *progress.borrow_and_update();
            let tell = async |lines: Vec<JobLogEntry>| {
                let is_quiet = lines.is_empty();
                let mut over = over.clone();
                tokio::select! {
                    left = self.tell(&job, &told, progress, lines) => left,
                    // Progress is in the reply too, and its way to the host need not be waited for.
                    _ = over.wait_for(|&over| over), if is_quiet => Vec::new(),
                }
            };
            job.tell_log(tell).await;
            tokio::select! {
                _ = over.wait_for(|&over| over) => return,
                () = tokio::time::sleep(TELL_EVERY) => {}
            }
        }
    }

    fn hears_lines(&self) -> bool {
        self.hears_lines.load(Ordering::Relaxed)
    }

    /// Answers the lines that are for the reply.
    async fn tell(
        &self,
        job: &Job,
        told: &protocol::Job,
        progress: Progress,
        lines: Vec<JobLogEntry>,
    ) -> Vec<JobLogEntry> {
        let (now, later) =
            if self.hears_lines() { (lines, Vec::new()) } else { (Vec::new(), lines) };
        if progress.is_none() && now.is_empty() {
            return later;
        }
        let request = UpdateJobRequest {
            auth_token: self.token.clone(),
            job: Some(protocol::Job { progress: progress.map(on_wire), ..told.clone() }),
            attempt: i32::try_from(job.attempt()).unwrap_or(i32::MAX),
            log_entries: now.clone(),
        };
        match self.send(request).await {
            Told::Taken => later,
            Told::Refused(error) => {
                self.complain(&error);
                if later.is_empty() { now } else { later }
            }
            Told::Lost(error) => {
                self.complain(&error);
                later
            }
        }
    }

    async fn send(&self, request: UpdateJobRequest) -> Told {
        let mut client = self.client.clone();
        match tokio::time::timeout(TELL_WITHIN, client.update_job(request)).await {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                if reply.success { Told::Taken } else { Told::Refused(reply.error) }
            }
            // One with a cause was made on our side of the wire.
            Ok(Err(status)) if std::error::Error::source(&status).is_none() => {
                if status.code() == Code::Unimplemented {
                    self.hears_lines.store(false, Ordering::Relaxed);
                }
                Told::Refused(status_text(&status))
            }
            Ok(Err(status)) if was_never_sent(&status) => Told::Refused(status_text(&status)),
            Ok(Err(status)) => Told::Lost(status_text(&status)),
            Err(_) => Told::Lost(format!("no answer in {TELL_WITHIN:?}")),
        }
    }

    /// The job goes on without, and one line says so.
    fn complain(&self, error: &str) {
        if !self.has_complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(error, "the host does not hear of progress");
        }
    }
}

/// Whether there was no connection to send it on.
fn was_never_sent(status: &Status) -> bool {
    let mut causes =
        std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    causes.any(|cause| cause.is::<ConnectError>())
}

/// The wire counts to 2³¹ only.
pub(crate) fn on_wire((current, total): (u64, u64)) -> protocol::Progress {
    let clamped = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
    protocol::Progress { current: clamped(current), total: clamped(total) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn lines_that_were_never_sent_are_for_the_reply_and_later_ones_are_tried() {
        // Nobody listens there any more.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        drop(listener);
        let queue = Queue::new(&endpoint, "", true).unwrap().unwrap();
        let told = queue.send(UpdateJobRequest::default()).await;
        assert!(matches!(told, Told::Refused(_)));
        assert!(queue.hears_lines());
    }
}
