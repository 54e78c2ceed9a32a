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
use axum::http::Uri;
use axum::http::header::HeaderMap;
use axum::response::Response;
use axwatch_engine::{Engine, EngineGone, RequestError};
use axwatch_model::{JobId, JobRow, JobState};
use base64::Engine as _;
use futures::stream::{self, StreamExt as _};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::request::{Limit, json, query};
use super::{Api, Shared, ndjson, stopped};
use crate::answers::{List, Selected, Tally, json_line, waits};
use crate::views::{self, Action, Selection};

/// The most that a request for one job waits for its end.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Fires that a stream may begin with.
const FOLLOW_LIMIT_MAX: usize = 10_000;
/// Jobs of one request that wait for the writer at the same time.
const WORKED_AT_ONCE: usize = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
    #[serde(default)]
    all: bool,
    watcher: Option<String>,
    state: Option<String>,
    #[serde(default)]
    follow: bool,
}

impl Listing {
    fn state(&self) -> Result<Option<JobState>, ApiError> {
        let state = self.state.as_deref().map(str::parse).transpose();
        state.map_err(|error: axwatch_model::InvalidState| ApiError::invalid(error.to_string()))
    }
}

/// `GET /fires`.
pub async fn fires(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let listing: Listing = query(&uri)?;
    let list = List::Fires { watcher: listing.watcher.clone(), state: listing.state()? };
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

/// `GET /jobs`.
pub async fn list(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let listing: Listing = query(&uri)?;
    if listing.follow {
        return Err(ApiError::invalid("only fires can be followed"));
    }
    let list = List::Jobs { watcher: listing.watcher.clone(), state: listing.state()? };
    let limit = Limit::new(listing.limit, listing.all).lines()?;
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
    let id = api.job_id(&id).await?;
    let wait = Duration::from_millis(query::<Waiting>(&uri)?.wait_ms).min(WAIT_MAX);
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
    Ok(Json(api.answers.job(id, &api.held().await?).await?))
}

/// A job that somebody asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    handler: String,
    payload: Option<Box<RawValue>>,
    payload_base64: Option<String>,
}

/// `POST /jobs`.
pub async fn run(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Job>, ApiError> {
    let (asked, _room): (Asked, _) = json(&api.bodies, &headers, body).await?;
    let payload: Arc<[u8]> = match (asked.payload, asked.payload_base64) {
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("say either payload or payload_base64"));
        }
        (Some(json), None) => json.get().as_bytes().into(),
        (None, Some(text)) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|error| ApiError::invalid(format!("payload_base64: {error}")))?
            .into(),
        (None, None) => Arc::default(),
    };
    let row = api.engine.enqueue(asked.handler, payload).await?;
    Ok(Json(api.answers.job(row.id, &api.held().await?).await?))
}

/// `POST /jobs/{id}/retry`.
pub async fn retry(
    State(api): Shared,
    Path(id): Path<String>,
) -> Result<Json<views::Job>, ApiError> {
    let row = api.answers.job_row(api.job_id(&id).await?).await?;
    let row = api.engine.redrive(row).await?;
    Ok(Json(api.answers.job(row.id, &api.held().await?).await?))
}

/// `POST /jobs/{id}/discard`.
pub async fn discard(
    State(api): Shared,
    Path(id): Path<String>,
) -> Result<Json<views::Job>, ApiError> {
    let row = api.answers.job_row(api.job_id(&id).await?).await?;
    let row = api.engine.discard(row).await?;
    Ok(Json(api.answers.job(row.id, &api.held().await?).await?))
}

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
        why.waits = api.waits(row, why.job.watcher.as_deref()).await?;
        why.reasons.extend(why.waits.as_ref().map(views::Waits::as_reason));
    }
    Ok(Json(why))
}

impl Api {
    /// The job that a text names: by its id, or as much of it as no other begins with.
    pub(super) async fn job_id(&self, text: &str) -> Result<JobId, ApiError> {
        Ok(self.answers.job_id(&text.parse()?).await?)
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
