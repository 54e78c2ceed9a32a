//! A plugin's process as something that jobs can be sent to.
//!
//! One channel carries everything that is said to a process: some plugins serve one connection at a
//! time. It connects when it is first used, over plain HTTP/2 on loopback. The deadline of a call is
//! ours to keep: the plugin is not told of it in headers, and a call whose time is up is dropped. A job that tells
//! how it gets on has more of it ([`Moves`](crate::dispatch::Moves)).
//!
//! Not here: what an answer means (`super::wire`), the other calls (`super::calls`).

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use axwatch_core::supervise::Seen;
use axwatch_core::{Ended, Outcome};
use axwatch_failpoints::{Injected, Point, hit, is_armed};
use axwatch_model::bounds::ERROR_BYTES_MAX;
use axwatch_proto::bounded;
use axwatch_proto::protocol::domain_plugin_service_client::DomainPluginServiceClient;
use axwatch_proto::protocol::{ExecuteJobResponse, JobLogEntry};
use futures::future::BoxFuture;
use futures::poll;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::caller::Caller;
use super::large::InTurn;
use super::output::{Capture, JOB, Level, level_named};
use super::token::Token;
use super::transit::{CALLS_MAX, SOCKETS_MAX};
use super::wire;
use crate::dispatch::{Attempt, Overdue, Plugin};

/// What is called at a plugin's process.
pub(crate) type Client = DomainPluginServiceClient<InTurn>;

/// Lines of its own log that one attempt may bring along.
const LOG_ENTRIES_MAX: usize = 100;
/// How long a dial on loopback may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Bytes that may come on one stream before somebody takes them. A browser that does not read its socket
/// leaves so many lying.
const STREAM_BYTES: u32 = 64 * 1024;
/// Calls of ours that may be under way at a process besides jobs and what browsers ask: more than there are.
const OTHER_CALLS: u32 = 64;

/// The one channel to the process that listens on this port of loopback, and that may have so many jobs
/// under way. Dials when it is first used.
pub(crate) fn channel(port: u16, max_in_flight: u32) -> Channel {
    // As much as all streams can leave lying, so that the one whose turn it is always goes on.
    let streams = SOCKETS_MAX as u32 + CALLS_MAX as u32 + max_in_flight + OTHER_CALLS;
    Endpoint::from_shared(format!("http://127.0.0.1:{port}"))
        .expect("a number makes a good address")
        .connect_timeout(CONNECT_WITHIN)
        .initial_stream_window_size(STREAM_BYTES)
        .initial_connection_window_size(streams * STREAM_BYTES)
        .connect_lazy()
}

/// A client on this channel.
pub(crate) fn client(channel: Channel) -> Client {
    DomainPluginServiceClient::new(InTurn::new(channel))
        .max_decoding_message_size(wire::REPLY_BYTES_MAX)
}

/// A call, with a failpoint at which the request is on its way, perhaps in part.
async fn sent<T>(call: impl Future<Output = T>) -> Result<T, Injected> {
    let mut call = pin!(call);
    if is_armed() {
        if let Poll::Ready(reply) = poll!(call.as_mut()) {
            return Ok(reply);
        }
        hit(Point::RequestSending)?;
    }
    Ok(call.await)
}

/// One process of a plugin that takes jobs.
pub(crate) struct GrpcPlugin {
    client: Client,
    deadline: Duration,
    caller: Arc<Caller>,
    token: Arc<Token>,
    capture: Arc<Capture>,
    seen: mpsc::UnboundedSender<(u64, Seen)>,
}

impl GrpcPlugin {
    /// `seen` hears of each deadline that passes; `capture` gets what answers bring along.
    pub(crate) fn new(
        client: Client,
        deadline: Duration,
        caller: Arc<Caller>,
        token: Arc<Token>,
        capture: Arc<Capture>,
        seen: mpsc::UnboundedSender<(u64, Seen)>,
    ) -> GrpcPlugin {
        GrpcPlugin { client, deadline, caller, token, capture, seen }
    }

    async fn execute(&self, attempt: &Attempt) -> Ended {
        let began = Instant::now();
        let mut client = self.client.clone();
        let call = sent(client.execute_job(wire::request(attempt, self.deadline)));
        let reply = tokio::select! {
            reply = call => reply,
            overdue = attempt.moves.clone().time_is_up(self.deadline) => {
                return self.missed_deadline(attempt, overdue);
            }
            // The channel would dial again, and who knows who has the port by then.
            () = self.caller.died() => return self.lost(),
        };
        match reply {
            Err(injected) => Ended::bare(Outcome::Lost { error: injected.to_string() }),
            Ok(reply) => {
                let quick = began.elapsed() <= self.deadline / 2;
                self.answered(attempt, reply.map(tonic::Response::into_inner), quick)
            }
        }
    }

    fn answered(
        &self,
        attempt: &Attempt,
        reply: Result<ExecuteJobResponse, Status>,
        quick: bool,
    ) -> Ended {
        match &reply {
            Ok(reply) => self.tell(attempt, reply),
            Err(status) => self.complain(attempt, &self.token.shown(&wire::status_words(status))),
        }
        let has_handler = reply.is_err() && self.caller.has_announced(&attempt.start.handler);
        // What a plugin says is kept and shown, and some say all that they know.
        wire::ended(&reply, has_handler, quick, &|text| self.token.shown(text))
    }

    /// What the plugin wants to have in the log, as far as there is room for it.
    fn tell(&self, attempt: &Attempt, reply: &ExecuteJobResponse) {
        for entry in reply.log_entries.iter().take(LOG_ENTRIES_MAX) {
            self.log(attempt, entry);
        }
        if let Some(suppressed @ 1..) = reply.log_entries.len().checked_sub(LOG_ENTRIES_MAX) {
            // The codec leaves out what comes after so many.
            let is_all = reply.log_entries.len() < bounded::LOG_ENTRIES_MAX;
            let or_more = if is_all { "" } else { " or more" };
            tracing::warn!(
                plugin = %self.caller.plugin, job = %attempt.start.id,
                "{suppressed}{or_more} log entries of a reply suppressed"
            );
        }
        if wire::is_result_too_long(reply) {
            tracing::warn!(
                plugin = %self.caller.plugin, job = %attempt.start.id, bytes = reply.result.len(),
                "a result longer than 1 MiB was left out"
            );
        }
    }

    fn log(&self, attempt: &Attempt, entry: &JobLogEntry) {
        let bytes = [&entry.stage, &entry.message].map(|text| text.len().min(ERROR_BYTES_MAX));
        if !self.capture.admits(bytes.iter().sum()) {
            return;
        }
        let (plugin, job) = (&self.caller.plugin, attempt.start.id);
        let stage = Some(self.token.shown(&entry.stage)).filter(|stage| !stage.is_empty());
        let stage = stage.as_deref();
        let message = self.token.shown(&entry.message);
        let level = level_named(&entry.level);
        self.capture.log().push(level.as_str(), JOB, &message, Some(job));
        match level {
            Level::Error => {
                tracing::error!(target: "axwatch::plugin", %plugin, %job, stage, "{message}")
            }
            Level::Warn => {
                tracing::warn!(target: "axwatch::plugin", %plugin, %job, stage, "{message}")
            }
            Level::Info => {
                tracing::info!(target: "axwatch::plugin", %plugin, %job, stage, "{message}")
            }
            Level::Debug => {
                tracing::debug!(target: "axwatch::plugin", %plugin, %job, stage, "{message}")
            }
        }
    }

    fn complain(&self, attempt: &Attempt, error: &str) {
        tracing::warn!(
            plugin = %self.caller.plugin, job = %attempt.start.id,
            attempt = attempt.start.attempt, watcher = %attempt.start.watcher,
            error, "gRPC ExecuteJob failed"
        );
    }

    fn missed_deadline(&self, attempt: &Attempt, overdue: Overdue) -> Ended {
        // An actor that is gone needs no telling.
        let _ = self.seen.send((self.caller.incarnation, Seen::DeadlinePassed));
        let error = overdue.to_string();
        self.complain(attempt, &error);
        Ended::bare(Outcome::Retryable { error, missed_deadline: true })
    }

    fn lost(&self) -> Ended {
        Ended::bare(Outcome::Lost { error: "the plugin's process ended".to_owned() })
    }
}

impl Plugin for GrpcPlugin {
    fn run<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Ended> {
        Box::pin(self.execute(attempt))
    }
}
