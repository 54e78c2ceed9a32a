//! A job as the store keeps it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{JobId, JobNumber, LaneKey, LeafNumber, PluginName, Seq, Timestamp, WatcherNumber};

/// Where a job is on its way: `queued → running → completed`, back to `queued` for a retry, or
/// `failed` (a dead letter), or `cancelled`.
///
/// `paused` is shown for a queued job whose plugin is away or whose watcher is paused; no row says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its turn, or for its next attempt.
    Queued,
    /// An attempt is under way.
    Running,
    /// Queued, and held back by something other than its turn.
    Paused,
    /// Done.
    Completed,
    /// Given up: a dead letter.
    Failed,
    /// Withdrawn before it was done.
    Cancelled,
}

const STATES: [(JobState, &str, u8); 6] = [
    (JobState::Queued, "queued", 0),
    (JobState::Running, "running", 1),
    (JobState::Paused, "paused", 2),
    (JobState::Completed, "completed", 3),
    (JobState::Failed, "failed", 4),
    (JobState::Cancelled, "cancelled", 5),
];

/// A state that no job has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no job state; known are queued, running, paused, completed, failed, cancelled")]
pub struct InvalidState(pub String);

impl JobState {
    /// The number in the store's column.
    #[must_use]
    pub fn code(self) -> u8 {
        STATES.iter().find(|(state, ..)| *state == self).map_or(0, |(.., code)| *code)
    }

    /// The state with this number in the store's column.
    #[must_use]
    pub fn from_code(code: u8) -> Option<JobState> {
        STATES.iter().find(|(.., known)| *known == code).map(|(state, ..)| *state)
    }

    /// Whether work remains.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, JobState::Queued | JobState::Running | JobState::Paused)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, text, _) =
            STATES.iter().find(|(state, ..)| state == self).expect("every state is listed");
        f.pad(text)
    }
}

impl FromStr for JobState {
    type Err = InvalidState;

    fn from_str(text: &str) -> Result<JobState, InvalidState> {
        STATES
            .iter()
            .find(|(_, known, _)| *known == text)
            .map(|(state, ..)| *state)
            .ok_or_else(|| InvalidState(crate::bounds::cut(text, 80).to_owned()))
    }
}

/// What caused a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOrigin {
    /// A watcher matched an attestation.
    Fire,
    /// Somebody asked for it: `axwatch jobs run`, or the HTTP API.
    Api,
}

impl JobOrigin {
    /// The number in the store's column.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            JobOrigin::Fire => 0,
            JobOrigin::Api => 1,
        }
    }

    /// The origin with this number in the store's column.
    #[must_use]
    pub fn from_code(code: u8) -> Option<JobOrigin> {
        [JobOrigin::Fire, JobOrigin::Api].into_iter().find(|origin| origin.code() == code)
    }
}

/// A job as the store keeps it.
///
/// Times are wall times; `delay_ms` stands beside `due_at` so that after a jump of the clock no job
/// lies further ahead than it was put.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    /// Its row.
    pub number: JobNumber,
    /// Its id, the same on every attempt.
    pub id: JobId,
    /// What caused it.
    pub origin: JobOrigin,
    /// The watcher that fired; `None` for a job without one.
    pub watcher: Option<WatcherNumber>,
    /// The watcher's revision when it fired; 0 without one.
    pub revision: u64,
    /// The watcher's generation when it fired; 0 without one.
    pub generation: u32,
    /// The attestation that it is about; the payload is made from it.
    pub seq: Option<Seq>,
    /// The handler as declared.
    pub handler: Arc<str>,
    /// The plugin that answers for it; `None` while nobody does.
    pub plugin: Option<PluginName>,
    /// The payload, when it was given rather than made from `seq`.
    pub payload: Option<Arc<[u8]>>,
    /// Where it is on its way. Never [`JobState::Paused`].
    pub state: JobState,
    /// Attempts begun, the one under way counted.
    pub attempts: u32,
    /// Attempts that counted against the bound of retries.
    pub counted: u32,
    /// Attempts that ended without an answer and through no fault of the job.
    pub uncounted: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its first counted attempt ended, moved on by the time in which nobody could have run it:
    /// at the end of each attempt, the job has been failing since then.
    pub first_counted_at: Option<Timestamp>,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it came to an end.
    pub completed_at: Option<Timestamp>,
    /// When a queued job may run next; `None` is at once.
    pub due_at: Option<Timestamp>,
    /// How far ahead `due_at` was put.
    pub delay_ms: u64,
    /// What the last failed attempt said.
    pub error: Option<String>,
    /// What the successful attempt gave.
    pub result: Option<Arc<[u8]>>,
    /// How far the last attempt said it came, and of how much.
    pub progress: Option<(i32, i32)>,
    /// What its attempts have cost.
    pub cost: Option<f64>,
    /// The audit records about it, in order.
    pub leaves: Vec<LeafNumber>,
}

impl JobRow {
    /// A new job that waits for its first attempt: of nobody's watcher, about no claim, without a
    /// payload, until the caller says otherwise.
    #[must_use]
    pub fn queued(
        number: JobNumber,
        id: JobId,
        origin: JobOrigin,
        handler: Arc<str>,
        now: Timestamp,
    ) -> JobRow {
        JobRow {
            number,
            id,
            origin,
            watcher: None,
            revision: 0,
            generation: 0,
            seq: None,
            handler,
            plugin: None,
            payload: None,
            state: JobState::Queued,
            attempts: 0,
            counted: 0,
            uncounted: 0,
            created_at: now,
            first_counted_at: None,
            started_at: None,
            completed_at: None,
            due_at: None,
            delay_ms: 0,
            error: None,
            result: None,
            progress: None,
            cost: None,
            leaves: Vec::new(),
        }
    }

    /// The lane that it waits in.
    #[must_use]
    pub fn lane(&self) -> LaneKey {
        LaneKey {
            watcher: self.watcher,
            generation: self.generation,
            handler: self.handler.clone(),
        }
    }

    /// The handler's bare name, which is what ExecuteJob sends.
    #[must_use]
    pub fn bare_handler(&self) -> &str {
        crate::watcher::split_handler(&self.handler).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_origins_are_written_as_they_are_read() {
        for (state, text, code) in STATES {
            assert_eq!((state.to_string().as_str(), state.code()), (text, code));
            assert_eq!(text.parse::<JobState>().unwrap(), state);
            assert_eq!(JobState::from_code(code), Some(state));
        }
        for origin in [JobOrigin::Fire, JobOrigin::Api] {
            assert_eq!(JobOrigin::from_code(origin.code()), Some(origin));
        }
        assert!("done".parse::<JobState>().is_err());
        assert_eq!(JobState::from_code(9), None);
    }
}
