//! A job as the store keeps it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    Asker, JobId, JobNumber, LaneKey, LeafNumber, Owner, PluginName, ScheduleId, Seq, Timestamp,
    WatcherNumber,
};

/// Where a job is on its way: `queued → running → completed`, back to `queued` for a retry, or
/// `failed` (a dead letter), or `cancelled`.
///
/// `paused` in a row says that somebody paused this job: it stands in no lane until it is resumed. It is
/// shown too of a queued job whose plugin is away, whose watcher is paused or whose budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its turn, or for its next attempt.
    Queued,
    /// An attempt is under way.
    Running,
    /// Held back by something other than its turn.
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
    /// A person asked for it: `axwatch jobs run`, or the HTTP API.
    Api,
    /// A schedule's time had come, or somebody ran the schedule by hand.
    Schedule,
    /// A plugin asked for it.
    Plugin,
}

const ORIGINS: [(JobOrigin, &str, u8); 4] = [
    (JobOrigin::Fire, "fire", 0),
    (JobOrigin::Api, "api", 1),
    (JobOrigin::Schedule, "schedule", 2),
    (JobOrigin::Plugin, "plugin", 3),
];

impl JobOrigin {
    /// The number in the store's column.
    #[must_use]
    pub fn code(self) -> u8 {
        ORIGINS.iter().find(|(origin, ..)| *origin == self).map_or(0, |(.., code)| *code)
    }

    /// The origin with this number in the store's column.
    #[must_use]
    pub fn from_code(code: u8) -> Option<JobOrigin> {
        ORIGINS.iter().find(|(.., known)| *known == code).map(|(origin, ..)| *origin)
    }
}

impl fmt::Display for JobOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, text, _) =
            ORIGINS.iter().find(|(origin, ..)| origin == self).expect("every origin is listed");
        f.pad(text)
    }
}

/// What is known of a job that no claim caused, besides what every job has.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// Who asked for it. Part of its lane.
    pub by: Asker,
    /// Whose it is: the plugin that asked for it or whose schedule it was, or a person.
    pub owner: Owner,
    /// What the asker knows it by: another with the same while this one is open is this one. Empty is
    /// none.
    pub source: Arc<str>,
    /// From -10 to 10; the higher the sooner.
    pub priority: i8,
    /// What the queue clock showed when it was asked for, in milliseconds.
    pub base_ms: i64,
    /// The job that it is a part of.
    pub parent: Option<Parent>,
    /// The schedule whose run it is.
    pub schedule: Option<ScheduleRun>,
    /// What it may cost, as the asker said: finite and not negative.
    pub cost_estimate: Option<f64>,
}

/// So much waiting is one level of priority worth: ten minutes, in milliseconds.
const PRIORITY_STEP_MS: i64 = 10 * 60 * 1_000;

impl Asked {
    /// Where it stands among others of its lane: the time at which it was asked for, brought forward by
    /// its priority. It never changes, so what waits gets ahead by waiting, and nothing starves.
    #[must_use]
    pub fn rank(&self) -> i64 {
        self.base_ms.saturating_sub(i64::from(self.priority) * PRIORITY_STEP_MS)
    }
}

/// The job that another is a part of. Its row may be gone; what it was is known all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its number.
    pub number: JobNumber,
    /// Its id.
    pub id: JobId,
}

/// Which run of a schedule a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleRun {
    /// The schedule.
    pub id: ScheduleId,
    /// The time on its grid; `None` when somebody ran it by hand.
    pub nominal: Option<Timestamp>,
}

/// An open job that was asked for, as far as its place among the others goes: without what it carries,
/// which may be large.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenAsked {
    /// Its number.
    pub number: JobNumber,
    /// Its id.
    pub id: JobId,
    /// The handler as declared.
    pub handler: Arc<str>,
    /// The plugin that answers for it; `None` while nobody does.
    pub plugin: Option<PluginName>,
    /// Where it is on its way.
    pub state: JobState,
    /// Who asked for it, and how.
    pub asked: Asked,
}

impl OpenAsked {
    /// What is known of a job; `None` of a fire.
    #[must_use]
    pub fn of(row: &JobRow) -> Option<OpenAsked> {
        Some(OpenAsked {
            number: row.number,
            id: row.id,
            handler: row.handler.clone(),
            plugin: row.plugin.clone(),
            state: row.state,
            asked: row.asked.as_deref().cloned()?,
        })
    }

    /// The lane that it waits in.
    #[must_use]
    pub fn lane(&self) -> LaneKey {
        LaneKey {
            watcher: None,
            generation: 0,
            handler: self.handler.clone(),
            asker: Some(self.asked.by.clone()),
        }
    }

    /// Its place in that lane.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { rank: self.asked.rank(), number: self.number }
    }
}

/// A job that has ended, and that open ones are parts of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestor {
    /// Its number.
    pub number: JobNumber,
    /// Its id.
    pub id: JobId,
    /// How it ended.
    pub state: JobState,
    /// What it is a part of itself.
    pub parent: Option<Parent>,
}

/// A job's place in its lane: those with a lower one come first.
///
/// Fires all have rank 0, so that their numbers decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Place {
    /// See [`Asked::rank`].
    pub rank: i64,
    /// The job.
    pub number: JobNumber,
}

impl Place {
    /// The first that there can be.
    pub const FIRST: Place = Place { rank: i64::MIN, number: JobNumber(0) };
}

/// Something that an attempt had to say while it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobEntryRow {
    /// Whose.
    pub job: JobNumber,
    /// The first entry of a job is 1.
    pub number: u32,
    /// When it happened, as the plugin said, or else when it came.
    pub at: Timestamp,
    /// In which attempt.
    pub attempt: u32,
    /// How grave it is, in the plugin's words: `info`, `error`.
    pub level: Arc<str>,
    /// What the plugin was doing; empty when it did not say.
    pub stage: Arc<str>,
    /// What it said.
    pub message: Arc<str>,
    /// What it said besides: JSON.
    pub metadata: Option<Arc<str>>,
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
    /// The payload, when it was given rather than made from `seq`, and where it comes with the row: it may be
    /// large, is written once, and a row that is written without it leaves it as it is.
    pub payload: Option<Arc<[u8]>>,
    /// Where it is on its way.
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
    /// Log entries of it that are kept, all its attempts together.
    pub entries: u32,
    /// The bytes of these.
    pub entries_bytes: u32,
    /// The audit records about it, in order.
    pub leaves: Vec<LeafNumber>,
    /// Who asked for it, and how; `None` of a fire.
    pub asked: Option<Box<Asked>>,
}

impl JobRow {
    /// A new job that waits for its first attempt: of nobody's watcher, about no claim, asked for by
    /// nobody, without a payload, until the caller says otherwise.
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
            entries: 0,
            entries_bytes: 0,
            leaves: Vec::new(),
            asked: None,
        }
    }

    /// The lane that it waits in.
    #[must_use]
    pub fn lane(&self) -> LaneKey {
        LaneKey {
            watcher: self.watcher,
            generation: self.generation,
            handler: self.handler.clone(),
            asker: self.asked.as_ref().map(|asked| asked.by.clone()),
        }
    }

    /// Its place in that lane.
    #[must_use]
    pub fn place(&self) -> Place {
        Place { rank: self.asked.as_ref().map_or(0, |asked| asked.rank()), number: self.number }
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
        for (origin, text, code) in ORIGINS {
            assert_eq!((origin.to_string().as_str(), origin.code()), (text, code));
            assert_eq!(JobOrigin::from_code(code), Some(origin));
            assert_eq!(serde_json::to_value(origin).unwrap(), text);
        }
        assert!("done".parse::<JobState>().is_err());
        assert_eq!(JobState::from_code(9), None);
    }

    fn asked(number: u64, priority: i8, base_ms: i64) -> JobRow {
        let at = Timestamp::from_ms_clamped(base_ms);
        let id = JobId([number as u8; 16]);
        let asked = Asked {
            by: Asker::User,
            owner: Owner::User,
            source: "".into(),
            priority,
            base_ms,
            parent: None,
            schedule: None,
            cost_estimate: None,
        };
        let asked = Some(Box::new(asked));
        let handler = "git/ixgest.git".into();
        JobRow { asked, ..JobRow::queued(JobNumber(number), id, JobOrigin::Api, handler, at) }
    }

    #[test]
    fn a_level_of_priority_is_worth_ten_minutes_of_waiting() {
        let minute = 60_000;
        let mut jobs = [
            asked(1, 0, 0),
            asked(2, 0, 0),
            asked(3, 1, 10 * minute - 1),
            asked(4, 1, 10 * minute),
            asked(5, 10, 200 * minute),
            asked(6, -10, -300 * minute),
        ];
        jobs.sort_by_key(JobRow::place);
        assert_eq!(jobs.map(|job| job.number.0), [6, 3, 1, 2, 4, 5]);
    }

    #[test]
    fn the_lane_of_an_asked_job_is_its_asker_s() {
        let row = asked(1, 0, 0);
        assert_eq!(row.lane().asker, Some(Asker::User));
        let fire = JobRow { watcher: Some(WatcherNumber(3)), asked: None, ..row };
        assert_eq!((fire.lane().asker, fire.place().rank), (None, 0));
    }
}
