//! Who is listened to at our services, and how a call that failed says why.
//!
//! One port of loopback for all plugins. Who calls is decided by the token in each request and by nothing else. What
//! goes wrong is `success=false` with an `error` wherever the reply has room for one, because that is what existing
//! clients look at.
//!
//! Not here: what is done for those who are listened to (`super::services`, `super::queue`, `super::schedules`).

use std::error::Error;
use std::sync::Arc;

use axwatch_ats::StoreError;
use axwatch_model::{InvalidState, JobId, JobState, PluginName};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Status;

use super::caller::{BYTES_PER_SECOND_MAX, CALLS_MAX, Caller, LARGE_REPLIES_MAX};
use super::claims::ClaimError;
use super::door::Visit;
use super::services::BATCH_COMMANDS_MAX;
use super::token::Callers;
use super::wire::InvalidSearch;
use crate::handle::{EngineGone, RequestError};

/// Why a caller is not listened to.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum Denied {
    #[error(
        "unauthenticated: this is not the token of a running plugin process; use the one from this process's Initialize"
    )]
    Unauthenticated,
    #[error(
        "resource_exhausted: {CALLS_MAX} calls of this plugin are under way; try again when one has ended"
    )]
    TooManyCalls,
    #[error(
        "resource_exhausted: more than {} MiB in a second from this plugin; try again in a second",
        BYTES_PER_SECOND_MAX >> 20
    )]
    TooManyBytes,
    #[error(
        "resource_exhausted: {LARGE_REPLIES_MAX} replies of over 64 KiB are on their way to this plugin and have not been read; read them, or ask for less at once"
    )]
    TooManyReplies,
    #[error(
        "resource_exhausted: more than one announcement in a second, or two at once, from this plugin; try again in a second"
    )]
    TooManyAnnouncements,
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Status {
        match denied {
            Denied::Unauthenticated => Status::unauthenticated(denied.to_string()),
            Denied::TooManyCalls
            | Denied::TooManyBytes
            | Denied::TooManyReplies
            | Denied::TooManyAnnouncements => Status::resource_exhausted(denied.to_string()),
        }
    }
}

/// Why a call was not done, for the `error` of its reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("{0}: missing")]
    Missing(&'static str),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(
        "resource_exhausted: a batch of {0} commands; send at most {BATCH_COMMANDS_MAX} commands at a time"
    )]
    TooManyCommands(usize),
    #[error("commands[{index}]: {error}")]
    Command { index: usize, error: ClaimError },
    #[error(transparent)]
    Search(#[from] InvalidSearch),
    #[error(
        "the reply would be larger than 4 MiB; use GetAttestationsStream, or a limit under {fits}"
    )]
    TooLarge { fits: usize },
    #[error(
        "the reply would be larger than 4 MiB; ask without_payload, or with a limit under {fits}"
    )]
    JobsTooLarge { fits: usize },
    #[error("the reply would be larger than 4 MiB; ask without_payload")]
    PayloadTooLarge,
    #[error("job {0}: this plugin has no such job")]
    NoJob(String),
    #[error("before: {0} is no place in a list; say the `next` of an earlier reply, or nothing")]
    NoPlace(String),
    #[error("schedule {0}: there is none")]
    NoSchedule(String),
    #[error("parent_job_id {id}: plugin {plugin} has no such job")]
    NoParent { id: String, plugin: PluginName },
    #[error("status: {0}")]
    Status(#[from] InvalidState),
    #[error("status {0}: a new job is queued; leave the status out")]
    NotNew(JobState),
    #[error(
        "status {0}: a job ends with the answer to ExecuteJob, and in no other way; nothing was changed"
    )]
    EndsByAnswer(JobState),
    #[error("job {id} {why}; nothing was changed")]
    NotRunning { id: JobId, why: String },
    #[error(
        "attempt: {0} is not the number of an attempt; they count from 1, and 0 means the running one"
    )]
    NoAttempt(i32),
    #[error("unavailable: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("unavailable: {0}")]
    Gone(#[from] EngineGone),
    #[error("announced before Initialize was answered; answer it first")]
    NotInitialized,
    #[error(
        "unavailable: what Initialize was answered with is not registered yet; try again in a second"
    )]
    NotRegistered,
}

/// The text of an error with its causes.
pub(super) fn text(error: &CallError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}

/// A caller with room for one call, which it gives back when this is dropped.
pub(super) struct Admitted {
    pub(super) caller: Arc<Caller>,
    is_done: bool,
    _call: OwnedSemaphorePermit,
}

impl Admitted {
    /// Lets the bearer of a token make a call of so many bytes.
    pub(super) fn new(
        callers: &Callers,
        visit: &Visit,
        token: &str,
        bytes: usize,
    ) -> Result<Admitted, Denied> {
        let caller = callers.find(token).ok_or(Denied::Unauthenticated)?;
        visit.is_of(&caller.plugin);
        let Some(call) = caller.begin_call() else {
            caller.call_failed();
            return Err(Denied::TooManyCalls);
        };
        if !caller.may_send(bytes) {
            caller.call_failed();
            return Err(Denied::TooManyBytes);
        }
        Ok(Admitted { caller, is_done: false, _call: call })
    }

    /// The call did what it was to do.
    pub(super) fn done(&mut self) {
        self.is_done = true;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if !self.is_done {
            self.caller.call_failed();
        }
    }
}

/// `success` and `error` of a reply.
pub(super) fn verdict<T>(result: Result<T, CallError>) -> (bool, String, Option<T>) {
    match result {
        Ok(value) => (true, String::new(), Some(value)),
        Err(error) => (false, text(&error), None),
    }
}
