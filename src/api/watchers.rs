//! Watchers: what there are, declaring them, and stopping them for a while or for good.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::HeaderMap;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axwatch_core::{Declaration, WatcherCommand};
use axwatch_engine::WatcherView;
use axwatch_model::{Declared, WatcherKey};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::request::{Limit, json, query};
use super::{Api, Shared, ndjson};
use crate::answers::{json_line, named_watcher};
use crate::views;

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
    let mut watchers = api.engine.watchers(all).await?;
    watchers.reverse();
    watchers.truncate(Limit::new(limit, all).lines()?.unwrap_or(usize::MAX));
    Ok(ndjson::answer(|sink| async move {
        for page in watchers.chunks(500) {
            let lines: Vec<_> =
                page.iter().map(|watcher| json_line(&views::Watcher::of(watcher))).collect();
            sink.lines(&lines).await?;
        }
        Ok(())
    }))
}

/// `GET /watchers/{id}`.
pub async fn one(
    State(api): Shared,
    Path(id): Path<String>,
) -> Result<Json<views::Watcher>, ApiError> {
    Ok(Json(views::Watcher::of(&api.watcher(&id).await?)))
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
}

/// `POST /watchers`.
pub async fn declare(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Watcher>, ApiError> {
    let (declaring, _room): (Declaring, _) = json(&api.bodies, &headers, body).await?;
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
        })
        .await?;
    api.shown(&row.key).await
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
pub async fn remove(api: Shared, id: Path<String>) -> Result<Json<views::Watcher>, ApiError> {
    command(api, id, WatcherCommand::Remove).await
}

/// `POST /watchers/{id}/pause`.
pub async fn pause(api: Shared, id: Path<String>) -> Result<Json<views::Watcher>, ApiError> {
    command(api, id, WatcherCommand::Pause).await
}

/// `POST /watchers/{id}/resume`.
pub async fn resume(api: Shared, id: Path<String>) -> Result<Json<views::Watcher>, ApiError> {
    command(api, id, WatcherCommand::Resume).await
}

async fn command(
    State(api): Shared,
    Path(id): Path<String>,
    command: WatcherCommand,
) -> Result<Json<views::Watcher>, ApiError> {
    let key = api.watcher(&id).await?.row.key;
    let row = api.engine.command(key, command).await?;
    api.shown(&row.key).await
}

impl Api {
    /// The watcher that a text names.
    async fn watcher(&self, text: &str) -> Result<WatcherView, ApiError> {
        if let Some(standing) = self.engine.watcher(text).await? {
            return Ok(standing);
        }
        // A retired one, or one that is like it.
        Ok(named_watcher(self.engine.watchers(true).await?, text)?)
    }

    async fn shown(&self, key: &WatcherKey) -> Result<Json<views::Watcher>, ApiError> {
        Ok(Json(views::Watcher::of(&self.watcher(&key.to_string()).await?)))
    }
}
