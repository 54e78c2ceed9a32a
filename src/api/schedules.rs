//! Schedules: what there are, creating them, stopping them for a while or for good, running one now.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::http::header::HeaderMap;
use axum::response::Response;
use axwatch_core::{ScheduleAsk, ScheduleView};
use axwatch_model::{
    Asker, Grid, InvalidId, LocalId, Missed, Overlap, ScheduleId, ScheduleRow, bounds,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::jobs::payload;
use super::request::{Limit, Nothing, json, json_or_nothing, query};
use super::{Api, Shared, ndjson};
use crate::answers::{AnswerError, List, json_line};
use crate::{times, views};

/// Times ahead that are told when nobody says how many.
const NEXT_DEFAULT: usize = 10;
/// Times ahead that may be asked for.
const NEXT_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
    /// All of them; of schedules the retired ones too.
    #[serde(default)]
    all: bool,
}

/// `GET /schedules`.
pub async fn list(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let Listing { limit, all } = query(&uri)?;
    let limit = Limit::new(limit, all).lines()?.unwrap_or(usize::MAX);
    let standing = api.engine.schedules().await?;
    let mut lines: Vec<_> = standing.iter().map(views::Schedule::of).collect();
    if all {
        let rows = api.answers.schedules(true).await.map_err(AnswerError::from)?;
        let retired = rows.iter().filter(|row| row.retired_at.is_some());
        lines.extend(retired.map(views::Schedule::offline));
    }
    lines.truncate(limit);
    Ok(ndjson::answer(move |sink| async move {
        for page in lines.chunks(100) {
            sink.lines(&page.iter().map(json_line).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }))
}

/// `GET /schedules/{id}`.
pub async fn one(
    State(api): Shared,
    Path(id): Path<String>,
) -> Result<Json<views::Schedule>, ApiError> {
    Ok(Json(views::Schedule::of(&api.schedule(&id).await?)))
}

/// A schedule that somebody wants.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Creating {
    name: String,
    handler: String,
    every: Option<Every>,
    cron: Option<String>,
    tz: Option<String>,
    payload: Option<Box<RawValue>>,
    payload_base64: Option<String>,
    missed: Option<String>,
    overlap: Option<String>,
    jitter: Option<Every>,
    #[serde(default)]
    description: String,
    metadata: Option<Box<RawValue>>,
}

/// A span of time: seconds as a number, or a text such as `5m`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a span of time is a number of seconds, or a text such as \"5m\"")]
enum Every {
    Seconds(i64),
    Text(String),
}

impl Every {
    /// In seconds. Less than nothing is nothing.
    fn seconds(&self, key: &str) -> Result<u32, ApiError> {
        let invalid = |problem: String| ApiError::invalid(format!("{key}: {problem}"));
        let seconds = match self {
            Every::Seconds(seconds) => u64::try_from((*seconds).max(0)).unwrap_or(0),
            Every::Text(text) if text == "0" => 0,
            Every::Text(text) => times::span(text).map_err(invalid)?.as_secs(),
        };
        u32::try_from(seconds)
            .map_err(|_| invalid(format!("{seconds} seconds; at most {} may be", u32::MAX)))
    }
}

/// `POST /schedules`.
pub async fn create(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Schedule>, ApiError> {
    let (asked, _room): (Creating, _) = json(&api.bodies, &headers, body).await?;
    let row = api.engine.create_schedule(asked.ask()?).await?;
    api.as_it_is(&row).await
}

impl Creating {
    fn ask(self) -> Result<ScheduleAsk, ApiError> {
        let invalid = |error: InvalidId| ApiError::invalid(error.to_string());
        let missed = self.missed.as_deref().map(str::parse::<Missed>).transpose();
        let overlap = self.overlap.as_deref().map(str::parse::<Overlap>).transpose();
        let jitter = self.jitter.as_ref().map(|jitter| jitter.seconds("jitter")).transpose()?;
        check_name(&self.name)?;
        Ok(ScheduleAsk {
            by: Asker::User,
            grid: grid(self.every.as_ref(), self.cron, self.tz)?,
            name: self.name,
            handler: self.handler,
            payload: payload(self.payload, self.payload_base64)?,
            missed: missed.map_err(invalid)?.unwrap_or_default(),
            overlap: overlap.map_err(invalid)?.unwrap_or_default(),
            jitter_secs: jitter.unwrap_or(0),
            description: self.description,
            ats_code: String::new(),
            metadata: self.metadata.map(|raw| Arc::from(raw.get())),
        })
    }
}

/// Refuses a name that means, or would seem to mean, another schedule wherever one is named.
fn check_name(name: &str) -> Result<(), ApiError> {
    if let Err(error) = name.parse::<LocalId>() {
        let error = InvalidId { what: "schedule name", ..error };
        return Err(ApiError::invalid(error.to_string()));
    }
    let rule = if name.parse::<ScheduleId>().is_ok() {
        "32 hex digits are the id of a schedule"
    } else if name.contains('/') {
        "plugin/name is the schedule of a plugin"
    } else {
        return Ok(());
    };
    Err(ApiError::invalid(format!("schedule name {name:?} is not valid: {rule}; take another")))
}

fn grid(every: Option<&Every>, cron: Option<String>, tz: Option<String>) -> Result<Grid, ApiError> {
    match (every, cron) {
        (Some(_), Some(_)) => Err(ApiError::invalid("say either every or cron")),
        (None, None) => Err(ApiError::invalid(
            "say when it runs: every, such as \"5m\", or cron, such as \"30 4 * * mon-fri\"",
        )),
        (Some(_), None) if tz.is_some() => {
            Err(ApiError::invalid("tz goes with cron; every is the same in all time zones"))
        }
        (Some(every), None) => Ok(Grid::Every { secs: every.seconds("every")? }),
        (None, Some(text)) if text.len() > bounds::CRON_BYTES_MAX => {
            let (bytes, max) = (text.len(), bounds::CRON_BYTES_MAX);
            Err(ApiError::invalid(format!("cron: {bytes} bytes; at most {max} are allowed")))
        }
        (None, Some(_)) if tz.as_deref() == Some("") => Err(ApiError::invalid(
            "tz is empty; name a zone such as Europe/Berlin, or leave it out",
        )),
        (None, Some(text)) => {
            let tz = tz.unwrap_or_else(|| "UTC".to_owned());
            Ok(Grid::Cron { text: text.into(), tz: tz.into() })
        }
    }
}

/// `DELETE /schedules/{id}`.
pub async fn remove(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Schedule>, ApiError> {
    let Nothing {} = json_or_nothing(&api.bodies, &headers, body).await?;
    let id = api.schedule(&id).await?.row.id;
    let row = api.engine.delete_schedule(id, Asker::User).await?;
    api.as_it_is(&row).await
}

/// `POST /schedules/{id}/pause`.
pub async fn pause(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Schedule>, ApiError> {
    let Nothing {} = json_or_nothing(&api.bodies, &headers, body).await?;
    let id = api.schedule(&id).await?.row.id;
    let row = api.engine.pause_schedule(id, Asker::User).await?;
    api.as_it_is(&row).await
}

/// `POST /schedules/{id}/resume`.
pub async fn resume(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Schedule>, ApiError> {
    let Nothing {} = json_or_nothing(&api.bodies, &headers, body).await?;
    let id = api.schedule(&id).await?.row.id;
    let row = api.engine.resume_schedule(id, Asker::User).await?;
    api.as_it_is(&row).await
}

/// `POST /schedules/{id}/run`: the job.
pub async fn run(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Job>, ApiError> {
    let Nothing {} = json_or_nothing(&api.bodies, &headers, body).await?;
    let id = api.schedule(&id).await?.row.id;
    let row = api.engine.run_schedule(id, Asker::User).await?;
    Ok(Json(api.brief_job(row).await?))
}

/// `GET /schedules/{id}/history`.
pub async fn history(
    State(api): Shared,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Listing { limit, all } = query(&uri)?;
    let limit = Limit::new(limit, all).lines()?;
    let list = List::Runs { schedule: id };
    Ok(ndjson::pages(api.answers.list(&list, limit, api.held().await?).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ahead {
    limit: Option<usize>,
}

/// `GET /schedules/{id}/next`.
pub async fn next(
    State(api): Shared,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<views::NextTimes>, ApiError> {
    let Ahead { limit } = query(&uri)?;
    let limit = limit.unwrap_or(NEXT_DEFAULT);
    if !(1..=NEXT_MAX).contains(&limit) {
        return Err(ApiError::invalid(format!("limit is {limit}; it must be 1 to {NEXT_MAX}")));
    }
    let view = api.schedule(&id).await?;
    let times = api.engine.next_times(view.row.id, limit).await?;
    let schedule = views::shown_name(&view.row);
    Ok(Json(views::NextTimes { schedule, state: view.row.state, times }))
}

impl Api {
    /// The schedule that a text names.
    async fn schedule(&self, text: &str) -> Result<ScheduleView, ApiError> {
        if let Some(view) = self.engine.schedule(text).await? {
            return Ok(view);
        }
        // One that is like it is told with the refusal.
        let row = self.answers.schedule_row(text).await?;
        Ok(ScheduleView { row, next: None, open_jobs: 0 })
    }

    async fn as_it_is(&self, row: &ScheduleRow) -> Result<Json<views::Schedule>, ApiError> {
        Ok(Json(views::Schedule::of(&self.schedule(&row.id.to_string()).await?)))
    }
}
