//! Fires and other jobs: lists, streams, single ones; making, retrying and discarding them.
//!
//! What is done with many is done a slice at a time, each job in a request of its own to the writer: a
//! kill in the middle leaves each either as it was or done, and the same again does the rest. It ends
//! when its reader goes away.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::HeaderMap;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axwatch_core::{EnqueueAsk, Enqueued, ParentAsk};
use axwatch_engine::{Engine, EngineGone, RequestError};
use axwatch_model::{Asker, JobId, JobRow, JobState};
use base64::Engine as _;
use futures::stream::{self, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::request::{Limit, Nothing, json, json_or_nothing, query};
use super::{Api, Shared, job_events, ndjson, stopped};
use crate::answers::{AnswerError, JobFilter, List, Selected, Tally, json_line, waits};
use crate::views::{self, Action, Selection};

/// The most that a request for one job waits for its end.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Fires that a stream may begin with.
const FOLLOW_LIMIT_MAX: usize = 10_000;
/// Jobs of one request that wait for the writer at the same time.
const WORKED_AT_ONCE: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FireListing {
    limit: Option<usize>,
    #[serde(default)]
    all: bool,
    watcher: Option<String>,
    state: Option<String>,
    #[serde(default)]
    follow: bool,
}

fn state(text: Option<&str>) -> Result<Option<JobState>, ApiError> {
    let state = text.map(str::parse).transpose();
    state.map_err(|error: axwatch_model::InvalidState| ApiError::invalid(error.to_string()))
}

/// `GET /fires`.
pub async fn fires(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let listing: FireListing = query(&uri)?;
    let state = state(listing.state.as_deref())?;
    let list = List::Fires { watcher: listing.watcher.clone(), state };
    let limit = Limit::new(listing.limit, listing.all).lines()?;
    if !listing.follow {
        let pages = api.answers.list(&list, limit, api.held().await?).await?;
        return Ok(ndjson::pages(pages));
    }
    match limit {
        _ if listing.state.is_some() => {
            Err(ApiError::invalid("follow tells every change, so it does not go with state"))
        }
        Some(limit) if limit <= FOLLOW_LIMIT_MAX => api.follow(listing.watcher, &list, limit).await,
        _ => Err(ApiError::invalid(format!(
            "follow begins with at most {FOLLOW_LIMIT_MAX} fires: say limit, not all"
        ))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
    #[serde(default)]
    all: bool,
    watcher: Option<String>,
    state: Option<String>,
    handler: Option<String>,
    plugin: Option<String>,
    asker: Option<String>,
    source: Option<String>,
    parent: Option<String>,
    schedule: Option<String>,
}

/// `GET /jobs`.
pub async fn list(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let listing: Listing = query(&uri)?;
    let limit = Limit::new(listing.limit, listing.all).lines()?;
    let list = List::Jobs(JobFilter {
        watcher: listing.watcher,
        state: state(listing.state.as_deref())?,
        handler: listing.handler,
        plugin: listing.plugin,
        asker: listing.asker,
        source: listing.source,
        parent: listing.parent,
        schedule: listing.schedule,
    });
    Ok(ndjson::pages(api.answers.list(&list, limit, api.held().await?).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Waiting {
    #[serde(default)]
    wait_ms: u64,
}

/// `GET /jobs/{id}`, at once or when it has ended.
pub async fn one(
    State(api): Shared,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<views::Job>, ApiError> {
    let wait = Duration::from_millis(query::<Waiting>(&uri)?.wait_ms);
    if wait > WAIT_MAX {
        let (asked, max) = (wait.as_millis(), WAIT_MAX.as_millis());
        return Err(ApiError::invalid(format!("wait_ms is {asked}; it must be 0 to {max}")));
    }
    let id = api.job_id(&id).await?;
    let deadline = tokio::time::Instant::now() + wait;
    let mut heads = api.engine.heads();
    let mut stopping = api.stopping.clone();
    loop {
        heads.mark_unchanged();
        let row = api.answers.job_row(id).await?;
        if !row.state.is_open() {
            break;
        }
        let changed = async {
            tokio::select! {
                changed = heads.changed() => changed.is_ok(),
                () = stopped(&mut stopping) => false,
            }
        };
        if !matches!(tokio::time::timeout_at(deadline, changed).await, Ok(true)) {
            break;
        }
    }
    let job = api.answers.shown_job(id, &api.held().await?).await?;
    if !job.state.is_open() {
        return Ok(Json(job));
    }
    let row = api.answers.job_row(id).await?;
    Ok(Json(api.answers.with_waits(job, row, &api.engine).await?))
}

/// `GET /jobs/{id}/events`.
pub async fn events(
    State(api): Shared,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Nothing {} = query(&uri)?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let id = api.job_id(&id).await?;
    api.answers.job_row(id).await?;
    Ok(job_events::answer(api, id, last))
}

/// A job that somebody asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// What the caller makes of it, so that the same again is the same job.
    id: Option<String>,
    handler: String,
    payload: Option<Box<RawValue>>,
    payload_base64: Option<String>,
    #[serde(default)]
    source: String,
    #[serde(default)]
    priority: i32,
    parent: Option<String>,
    cost_estimate: Option<f64>,
}

/// A payload as a request has it: JSON, or bytes in base64.
///
/// # Errors
/// When it is both, or no base64.
pub fn payload(
    json: Option<Box<RawValue>>,
    base64: Option<String>,
) -> Result<Option<Arc<[u8]>>, ApiError> {
    match (json, base64) {
        (Some(_), Some(_)) => Err(ApiError::invalid("say either payload or payload_base64")),
        (Some(json), None) => Ok(Some(json.get().as_bytes().into())),
        (None, Some(text)) => {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|error| ApiError::invalid(format!("payload_base64: {error}")))?;
            Ok(Some(bytes.into()))
        }
        (None, None) => Ok(None),
    }
}

/// `POST /jobs`.
pub async fn run(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Job>, ApiError> {
    let (asked, _room): (Asked, _) = json(&api.bodies, &headers, body).await?;
    let payload = payload(asked.payload, asked.payload_base64)?.unwrap_or_default();
    if asked.cost_estimate.is_some_and(|cost| !(cost.is_finite() && cost >= 0.0)) {
        return Err(ApiError::invalid("cost_estimate: it must be a number, and not under 0"));
    }
    let parent = match &asked.parent {
        Some(text) => Some(api.job_id(text).await?),
        None => None,
    };
    let ask = EnqueueAsk {
        id: match asked.id.as_deref() {
            None | Some("") => api.engine.new_job_id(),
            Some(given) => api.engine.job_id_of(&Asker::User, given),
        },
        by: Asker::User,
        handler: asked.handler,
        payload,
        source: asked.source,
        priority: asked.priority,
        parent: parent.map(|id| ParentAsk { id, above: Vec::new() }),
        cost_estimate: asked.cost_estimate,
    };
    let enqueued = api.engine.ask(ask).await.map_err(|error| match error {
        // The word of this side.
        RequestError::Refused(mut refusal) => {
            refusal.reason = refusal.reason.replace("parent_job_id", "parent");
            RequestError::Refused(refusal)
        }
        other => other,
    })?;
    let (id, was_there) = match enqueued {
        Enqueued::New(row) => (row.id, false),
        Enqueued::Standing { id, .. } => (id, true),
    };
    let job = api.brief_job(api.answers.job_row(id).await?).await?;
    Ok(Json(views::Job { deduplicated: Some(was_there), ..job }))
}

/// `POST /jobs/{id}/retry`.
pub async fn retry(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let Nothing {} = json_or_nothing(&api.bodies, &headers, body).await?;
    let redrive = async |row| api.engine.redrive(row).await;
    api.steer(&id, redrive).await
}

/// `POST /jobs/{id}/discard`.
pub async fn discard(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let Nothing {} = json_or_nothing(&api.bodies, &headers, body).await?;
    let discard = async |row| api.engine.discard(row).await;
    api.steer(&id, discard).await
}

/// `POST /jobs/{id}/cancel`.
pub async fn cancel(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let Nothing {} = json_or_nothing(&api.bodies, &headers, body).await?;
    let cancel = async |row| api.engine.cancel(row, Asker::User).await;
    api.steer(&id, cancel).await
}

/// `POST /jobs/{id}/pause`.
pub async fn pause(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let Nothing {} = json_or_nothing(&api.bodies, &headers, body).await?;
    let pause = async |row| api.engine.pause_job(row, Asker::User).await;
    api.steer(&id, pause).await
}

/// `POST /jobs/{id}/resume`.
pub async fn resume(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let Nothing {} = json_or_nothing(&api.bodies, &headers, body).await?;
    let row = api.answers.job_row(api.job_id(&id).await?).await?;
    if row.state == JobState::Queued {
        return Err(api.nobody_paused(row).await?);
    }
    let resume = async |row| api.engine.resume_job(row, Asker::User).await;
    api.steer(&id, resume).await
}

type Answer = Result<Json<views::Job>, ApiError>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadListing {
    limit: Option<usize>,
    #[serde(default)]
    all: bool,
    watcher: Option<String>,
    handler: Option<String>,
    error: Option<String>,
    like: Option<String>,
    older_than: Option<String>,
    newer_than: Option<String>,
}

/// `GET /jobs/dead`.
pub async fn dead(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let listing: DeadListing = query(&uri)?;
    let limit = Limit::new(listing.limit, listing.all).lines()?;
    let selection = Selection {
        watcher: listing.watcher,
        handler: listing.handler,
        error: listing.error,
        like: listing.like,
        older_than: listing.older_than,
        newer_than: listing.newer_than,
        all: true,
        ..Selection::default()
    };
    let now = api.now();
    let selected = api.answers.select(&selection, now).await?;
    let mut list = api.answers.list_selected(selected, limit, now);
    Ok(ndjson::answer(|sink| async move {
        while let Some(lines) = list.next().await? {
            sink.lines(&lines).await?;
        }
        Ok(())
    }))
}

/// `POST /jobs/retry`.
pub async fn retry_many(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    api.work(Action::Retry, headers, body).await
}

/// `POST /jobs/discard`.
pub async fn discard_many(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    api.work(Action::Discard, headers, body).await
}

async fn act(
    engine: &Engine,
    action: Action,
    row: JobRow,
) -> (JobId, Result<JobRow, RequestError>) {
    let id = row.id;
    let done = match action {
        Action::Retry => engine.redrive(row).await,
        Action::Discard => engine.discard(row).await,
    };
    (id, done)
}

/// `GET /why/{id}`.
pub async fn why(State(api): Shared, Path(id): Path<String>) -> Result<Json<views::Why>, ApiError> {
    let id = api.job_id(&id).await?;
    let matched = api.engine.heads().borrow().matched;
    let mut why = api.answers.why(id, matched, &api.held().await?).await?;
    if why.job.state.is_open() {
        let row = api.answers.job_row(id).await?;
        why.job = api.answers.with_waits(why.job, row, &api.engine).await?;
        why.waits = why.job.waits.take();
        why.reasons.extend(why.waits.as_ref().map(views::Waits::as_reason));
    }
    Ok(Json(why))
}

impl Api {
    /// The job that a text names: by its id, or as much of it as no other begins with.
    pub(super) async fn job_id(&self, text: &str) -> Result<JobId, ApiError> {
        Ok(self.answers.job_id(&text.parse()?).await?)
    }

    /// Does something with one job, and answers how it is then, and what has become of those below it.
    async fn steer(
        &self,
        text: &str,
        act: impl AsyncFnOnce(JobRow) -> Result<JobRow, RequestError>,
    ) -> Answer {
        let row = self.answers.job_row(self.job_id(text).await?).await?;
        let before = self.answers.ends_below(row.number).await?;
        let row = act(row).await?;
        let after = self.answers.ends_below(row.number).await?;
        let job = self.brief_job(row).await?;
        Ok(Json(views::Job { below: Some(after.since(&before)), ..job }))
    }

    /// A job for whoever asked for it or did something with it, and what it waits for.
    pub(super) async fn brief_job(&self, row: JobRow) -> Result<views::Job, ApiError> {
        let job = self.answers.brief_job(row.clone(), &self.held().await?).await;
        let job = job.map_err(AnswerError::from)?;
        Ok(self.answers.with_waits(job, row, &self.engine).await?)
    }

    /// The refusal to resume a job that waits for something else.
    async fn nobody_paused(&self, row: JobRow) -> Result<ApiError, ApiError> {
        let job = self.brief_job(row).await?;
        let waits = job.waits.map(|waits| format!("; it waits: {}", waits.message));
        let told = format!("nobody paused job {}{}", job.job_id, waits.unwrap_or_default());
        Ok(ApiError::new(StatusCode::CONFLICT, "conflict", told))
    }

    /// Does something with all selected jobs, or tells with which it would.
    async fn work(
        self: Arc<Api>,
        action: Action,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response, ApiError> {
        let (selection, _room): (Selection, _) = json(&self.bodies, &headers, body).await?;
        let now = self.now();
        let selected = self.answers.select(&selection, now).await?;
        Ok(ndjson::answer(move |sink| async move {
            if selection.dry_run {
                let preview = self.answers.sum_up(selected, now).await?;
                return sink.lines(&[json_line(&views::PreviewEnd { preview })]).await;
            }
            self.work_on(action, selected, selection.progress, &sink).await
        }))
    }

    async fn work_on(
        &self,
        action: Action,
        mut selected: Selected,
        tells: bool,
        sink: &ndjson::Sink,
    ) -> Result<(), ndjson::Ended> {
        let mut tally = Tally::new(action);
        while let Some(rows) = selected.next(&self.answers).await? {
            let acts = rows.into_iter().map(|row| act(&self.engine, action, row));
            let mut acts = stream::iter(acts).buffered(WORKED_AT_ONCE);
            while let Some((id, done)) = acts.next().await {
                match done {
                    Ok(_) => tally.done(),
                    Err(RequestError::Refused(refusal)) => tally.skipped(id, refusal.reason),
                    Err(error) => return Err(ApiError::from(error).into()),
                }
            }
            if tells {
                let progress = views::Worked { jobs: tally.looked_at() };
                sink.lines(&[json_line(&views::WorkProgress { progress })]).await?;
            }
        }
        let outcome = tally.outcome();
        sink.lines(&[json_line(&views::OutcomeEnd { outcome })]).await
    }

    /// What a job waits for at this moment, if it does. `watcher` is its watcher as shown.
    pub(super) async fn waits(
        &self,
        row: JobRow,
        watcher: Option<&str>,
    ) -> Result<Option<views::Waits>, EngineGone> {
        let (handler, now) = (row.handler.clone(), self.engine.clock().now().wall);
        let waiting = self.engine.waiting(row).await?;
        Ok(waiting.map(|waiting| waits(&waiting, watcher, &handler, now)))
    }

    /// The last fires, oldest first, and then those that come or change.
    async fn follow(
        self: Arc<Api>,
        watcher: Option<String>,
        list: &List,
        limit: usize,
    ) -> Result<Response, ApiError> {
        // In this order: what happens between the two is told twice, and nothing is missed.
        let mut follow = self.answers.follow(watcher.as_deref(), self.engine.heads()).await?;
        let mut pages = self.answers.list(list, Some(limit), self.held().await?).await?;
        let mut last = Vec::new();
        while let Some(lines) = pages.next().await? {
            last.extend(lines);
        }
        last.reverse();
        let mut stopping = self.stopping.clone();
        Ok(ndjson::answer(|sink| async move {
            sink.lines(&last).await?;
            drop(last);
            loop {
                let held = async || self.held().await.unwrap_or_default();
                let lines = tokio::select! {
                    lines = follow.next(held) => lines?,
                    () = stopped(&mut stopping) => None,
                };
                sink.arrived(lines, follow.is_behind()).await?;
            }
        }))
    }
}
