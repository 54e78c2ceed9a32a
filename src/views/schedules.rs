//! Schedules, and what became of their times.

use axwatch_core::ScheduleView;
use axwatch_model::{
    Grid, JobId, Overlap, Owner, RunOutcome, ScheduleId, ScheduleRow, ScheduleRunRow,
    ScheduleState, Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::answers::readable_bytes;

/// A schedule.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Schedule {
    /// What it is named by: its name if it is a person's, else `plugin/name`.
    pub schedule: String,
    /// Its id.
    pub id: ScheduleId,
    /// Who declared it: `user` or a plugin.
    pub owner: String,
    /// Its name among those of its owner.
    pub name: String,
    /// What it is doing.
    pub state: ScheduleState,
    /// The handler, as `plugin/handler`.
    pub handler: String,
    /// From one run to the next; 0 is never; null of a line of cron.
    pub every_seconds: Option<u32>,
    /// Its line of cron; null of one that goes by seconds.
    pub cron: Option<String>,
    /// The time zone of its line of cron.
    pub tz: Option<String>,
    /// What its jobs carry: JSON as it is, other text as text, other bytes as base64; null is nothing.
    pub payload: Option<Box<RawValue>>,
    /// What becomes of times at which nothing could run: `skip`, `once`, or `all:N`.
    pub missed: String,
    /// What becomes of a time at which the run before is not over.
    pub overlap: Overlap,
    /// Each run is put off by up to so much.
    pub jitter_seconds: u32,
    /// It runs without somebody having to enable it.
    pub enabled_by_default: bool,
    /// What it is for.
    pub description: String,
    /// What its owner says that it stands for in AX.
    pub ats_code: String,
    /// What its owner keeps with it: a JSON object.
    pub metadata: Option<Box<RawValue>>,
    /// When it runs next, jitter included; null of one that is not active, and without a server.
    pub next_at: Option<Timestamp>,
    /// Jobs of it that are not at their end; null without a server.
    pub open_jobs: Option<u64>,
    /// The nominal time of its last run on its grid.
    pub last_nominal: Option<Timestamp>,
    /// When it last ran.
    pub last_run_at: Option<Timestamp>,
    /// The job of that run.
    pub last_job: Option<JobId>,
    /// When it was declared.
    pub declared_at: Timestamp,
    /// When it was last changed.
    pub changed_at: Timestamp,
    /// Since when it is no more.
    pub retired_at: Option<Timestamp>,
}

impl Schedule {
    /// As a server has it.
    pub fn of(view: &ScheduleView) -> Schedule {
        let row = Schedule::offline(&view.row);
        let next_at = view.next.filter(|_| view.row.state == ScheduleState::Active);
        Schedule { next_at, open_jobs: Some(view.open_jobs), ..row }
    }

    /// As its row has it.
    pub fn offline(row: &ScheduleRow) -> Schedule {
        let (cron, tz) = match &row.grid {
            Grid::Every { .. } => (None, None),
            Grid::Cron { text, tz } => (Some(text.to_string()), Some(tz.to_string())),
        };
        let metadata = row.metadata.as_deref().map(str::to_owned);
        Schedule {
            schedule: shown_name(row),
            id: row.id,
            owner: row.owner.to_string(),
            name: row.name.to_string(),
            state: row.state,
            handler: row.handler.to_string(),
            every_seconds: row.grid.secs(),
            cron,
            tz,
            payload: row.payload.as_deref().map(readable_bytes),
            missed: row.missed.to_string(),
            overlap: row.overlap,
            jitter_seconds: row.jitter_secs,
            enabled_by_default: row.enabled_by_default,
            description: row.description.clone(),
            ats_code: row.ats_code.clone(),
            metadata: metadata.and_then(|json| RawValue::from_string(json).ok()),
            next_at: None,
            open_jobs: None,
            last_nominal: row.last_nominal,
            last_run_at: row.last_run_at,
            last_job: row.last_job,
            declared_at: row.declared_at,
            changed_at: row.changed_at,
            retired_at: row.retired_at,
        }
    }
}

/// What a schedule is named by: its name if it is a person's, else `plugin/name`.
pub fn shown_name(row: &ScheduleRow) -> String {
    match &row.owner {
        Owner::User => row.name.to_string(),
        Owner::Plugin(plugin) => format!("{plugin}/{}", row.name),
    }
}

/// What became of one nominal time of a schedule, or of several at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScheduleRun {
    /// The time on its grid, the first of several; null when somebody ran it by hand.
    pub nominal: Option<Timestamp>,
    /// The last of several.
    pub upto: Option<Timestamp>,
    /// How many times this tells of; 0 of a run by hand.
    pub count: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// What was decided.
    pub outcome: RunOutcome,
    /// The job, if there was one.
    pub job_id: Option<JobId>,
}

impl From<ScheduleRunRow> for ScheduleRun {
    fn from(row: ScheduleRunRow) -> ScheduleRun {
        ScheduleRun {
            nominal: row.nominal,
            upto: row.upto,
            count: row.count,
            at: row.at,
            outcome: row.outcome,
            job_id: row.job,
        }
    }
}

/// When a schedule would run next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NextTimes {
    /// The schedule as shown.
    pub schedule: String,
    /// What it is doing: only an active one runs.
    pub state: ScheduleState,
    /// The times on its grid, the next one first.
    pub times: Vec<Timestamp>,
}

/// How many schedules are in each state, by its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleCounts {
    pub active: u64,
    pub paused: u64,
    pub inactive: u64,
}

impl ScheduleCounts {
    /// One more in this state; those that are retired are not counted.
    pub fn add(&mut self, state: ScheduleState) {
        match state {
            ScheduleState::Active => self.active += 1,
            ScheduleState::Paused => self.paused += 1,
            ScheduleState::Inactive => self.inactive += 1,
            ScheduleState::Retired => {}
        }
    }
}
