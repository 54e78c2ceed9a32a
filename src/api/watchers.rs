//! Watchers: what there are, declaring them, stopping them for a while or for good, firing again.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::HeaderMap;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axwatch_core::{Declaration, Since, WatcherCommand};
use axwatch_engine::WatcherView;
use axwatch_model::{Declared, Seq, Timestamp, WatcherKey};
use axwatch_query::{Filter, FoundBy};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::request::{Limit, json, json_or_nothing, query};
use super::{Api, Shared, ndjson};
use crate::answers::{AnswerError, json_line, named_watcher};
use crate::{times, views};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
    /// All of them, the retired ones too.
    #[serde(default)]
    all: bool,
}

/// `GET /watchers`.
pub async fn list(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let Listing { limit, all } = query(&uri)?;
    let lines = Limit::new(limit, all).lines()?.unwrap_or(usize::MAX);
    let watchers = api.engine.newest_watchers(all, lines).await?;
    let head = api.head();
    Ok(ndjson::answer(move |sink| async move {
        for page in watchers.chunks(500) {
            let lines: Vec<_> =
                page.iter().map(|watcher| json_line(&views::Watcher::of(watcher, head))).collect();
            sink.lines(&lines).await?;
        }
        Ok(())
    }))
}

/// `GET /matching`.
pub async fn matching(State(api): Shared) -> Result<Json<views::Matching>, ApiError> {
    Ok(Json(views::Matching::of(*api.engine.matching().await?)))
}

/// `GET /watchers/{id}`.
pub async fn one(
    State(api): Shared,
    Path(id): Path<String>,
) -> Result<Json<views::ShownWatcher>, ApiError> {
    let watcher = api.watcher(&id).await?;
    Ok(Json(api.answers.shown_watcher(&watcher, api.head()).await.map_err(AnswerError::from)?))
}

/// A watcher of the user, as declared.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Declaring {
    id: String,
    when: String,
    #[serde(default)]
    handlers: Vec<String>,
    params: Option<Box<RawValue>>,
    #[serde(default)]
    max_fires_per_second: i64,
    #[serde(default)]
    max_chain: i32,
    since: Option<Place>,
    #[serde(default)]
    max_attempts: i64,
    max_age: Option<String>,
}

/// A place in the log: a claim's number, as a number or a text, or a time.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a place in the log is a claim's number, start, or a time")]
enum Place {
    Seq(u64),
    Text(String),
}

impl Place {
    fn text(self) -> String {
        match self {
            Place::Seq(seq) => seq.to_string(),
            Place::Text(text) => text,
        }
    }
}

/// `POST /watchers`.
pub async fn declare(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::DeclaredWatcher>, ApiError> {
    let (declaring, _room): (Declaring, _) = json(&api.bodies, &headers, body).await?;
    let max_age = declaring.max_age.as_deref().map(times::span).transpose();
    let max_age = max_age.map_err(|problem| ApiError::invalid(format!("max_age: {problem}")))?;
    let looks_back = match &declaring.since {
        Some(_) => api.engine.watcher(&format!("user-{}", declaring.id)).await?.is_none(),
        None => false,
    };
    let row = api
        .engine
        .declare(Declaration {
            local: declaring.id,
            declared: Declared::Ax(declaring.when),
            handlers: declaring.handlers,
            params: declaring.params.map(|raw| Arc::from(raw.get())),
            max_fires_per_second: declaring.max_fires_per_second,
            zero_is_never: false,
            max_chain: declaring.max_chain,
            since: declaring.since.map(|since| Since::Written(since.text())),
            max_attempts: declaring.max_attempts,
            max_age,
        })
        .await?;
    let Json(watcher) = api.shown(&row.key).await?;
    let earlier = api.head().0.saturating_sub(row.since_seq.0);
    // What was just declared has a meaning.
    let filter = Filter::declared(&row.declared);
    let found_by = filter.map_or(FoundBy::Nothing, |(filter, _)| FoundBy::of(&filter));
    Ok(Json(views::DeclaredWatcher { watcher, backlog: looks_back.then_some(earlier), found_by }))
}

/// `POST /watchers/test`: a text tried on history. The place is that of a watcher, because somebody's
/// may be called `test`, and is still there to be asked for and removed.
pub async fn test(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    if id != "test" {
        let message =
            "a watcher takes no POST; it is declared at /watchers, and tried at /watchers/test";
        return Err(ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message));
    }
    let (trial, _room): (views::Trial, _) = json(&api.bodies, &headers, body).await?;
    let now = api.engine.clock().now().wall;
    let mut trial = api.answers.try_on_history(&trial, now).await?;
    Ok(ndjson::answer(|sink| async move {
        while let Some(lines) = trial.next().await? {
            sink.lines(&lines).await?;
        }
        Ok(())
    }))
}

/// `DELETE /watchers/{id}`.
pub async fn remove(
    State(api): Shared,
    Path(id): Path<String>,
) -> Result<Json<views::Watcher>, ApiError> {
    api.command(&id, WatcherCommand::Remove).await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Pausing {
    /// What it holds is let go.
    skip: bool,
}

/// `POST /watchers/{id}/pause`.
pub async fn pause(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Watcher>, ApiError> {
    let Pausing { skip } = json_or_nothing(&api.bodies, &headers, body).await?;
    api.command(&id, WatcherCommand::Pause { skip }).await
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GoingOn {
    /// What was held is let go.
    drop: bool,
}

/// `POST /watchers/{id}/resume`.
pub async fn resume(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Watcher>, ApiError> {
    let GoingOn { drop } = json_or_nothing(&api.bodies, &headers, body).await?;
    api.command(&id, WatcherCommand::Resume { drop }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Muting {
    /// A time that lies ahead.
    until: String,
    /// What it holds is let go.
    #[serde(default)]
    drop: bool,
}

/// `POST /watchers/{id}/mute`.
pub async fn mute(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Watcher>, ApiError> {
    let (Muting { until, drop }, _room) = json(&api.bodies, &headers, body).await?;
    let until = times::ahead(&until, api.now())
        .map_err(|problem| ApiError::invalid(format!("until: {problem}")))?;
    api.command(&id, WatcherCommand::Mute { until, drop }).await
}

/// `POST /watchers/{id}/unmute`.
pub async fn unmute(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Watcher>, ApiError> {
    let GoingOn { drop } = json_or_nothing(&api.bodies, &headers, body).await?;
    api.command(&id, WatcherCommand::Unmute { drop }).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replaying {
    /// From which claim on.
    from: Option<Place>,
    /// Up to which claim; the last one when nobody says.
    to: Option<Place>,
    /// Only tell how many fires that would be.
    #[serde(default)]
    dry_run: bool,
    /// End the replay that is under way.
    #[serde(default)]
    stop: bool,
}

/// `POST /watchers/{id}/replay`: what it would fire, or the watcher once it has begun or was stopped.
pub async fn replay(
    State(api): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (asked, _room): (Replaying, _) = json(&api.bodies, &headers, body).await?;
    let dry_run = asked.dry_run;
    let (from, to) = match asked {
        Replaying { stop: true, from: None, to: None, dry_run: false } => {
            return Ok(api.command(&id, WatcherCommand::StopReplay).await?.into_response());
        }
        Replaying { stop: true, .. } => {
            return Err(ApiError::invalid("stop ends a replay; it goes with nothing else"));
        }
        Replaying { from: None, .. } => {
            return Err(ApiError::invalid("from is missing: the first claim of the replay"));
        }
        Replaying { from: Some(from), to, .. } => {
            (from.text(), to.map_or_else(|| "now".to_owned(), Place::text))
        }
    };
    let watcher = api.watcher(&id).await?;
    let (from, to) = api.answers.claims_between(&from, &to, api.now()).await?;
    if dry_run {
        let preview = api.answers.preview_replay(&watcher.row, (from, to)).await?;
        return Ok(Json(preview).into_response());
    }
    Ok(api.command(&id, WatcherCommand::Replay { from, to }).await?.into_response())
}

impl Api {
    /// Has something done with a watcher, and answers how it stands then.
    async fn command(
        &self,
        id: &str,
        command: WatcherCommand,
    ) -> Result<Json<views::Watcher>, ApiError> {
        let key = self.watcher(id).await?.row.key;
        let row = self.engine.command(key, command).await?;
        self.shown(&row.key).await
    }

    /// The last claim of the log.
    pub(super) fn head(&self) -> Seq {
        self.engine.heads().borrow().seq
    }

    /// What time it is.
    pub(super) fn now(&self) -> Timestamp {
        self.engine.clock().now().wall
    }

    /// The watcher that a text names.
    async fn watcher(&self, text: &str) -> Result<WatcherView, ApiError> {
        if let Some(standing) = self.engine.watcher(text).await? {
            return Ok(*standing);
        }
        // A retired one, or one that is like it.
        Ok(named_watcher(self.engine.watchers(true).await?, text)?)
    }

    async fn shown(&self, key: &WatcherKey) -> Result<Json<views::Watcher>, ApiError> {
        Ok(Json(views::Watcher::of(&self.watcher(&key.to_string()).await?, self.head())))
    }
}
