//! What led to a claim or a job, and what came of it.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde::Deserialize;

use super::Shared;
use super::error::ApiError;
use super::request::query;
use crate::answers::Extent;
use crate::views::{
    TRACE_DEPTH_DEFAULT, TRACE_DEPTH_MAX, TRACE_LIMIT_DEFAULT, TRACE_LIMIT_MAX, Trace,
};

/// How much of the tree.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    limit: Option<usize>,
    depth: Option<usize>,
}

/// `GET /trace/{id}`.
pub async fn trace(
    State(api): Shared,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<Trace>, ApiError> {
    let asked: Asked = query(&uri)?;
    let extent = Extent {
        limit: within("limit", asked.limit.unwrap_or(TRACE_LIMIT_DEFAULT), TRACE_LIMIT_MAX)?,
        depth: within("depth", asked.depth.unwrap_or(TRACE_DEPTH_DEFAULT), TRACE_DEPTH_MAX)?,
    };
    // Before the jobs are looked for: what is matched by then has them.
    let matched = api.engine.heads().borrow().matched;
    let held = api.held().await?;
    Ok(Json(api.answers.trace(&id, extent, matched, &held).await?))
}

fn within(name: &str, given: usize, max: usize) -> Result<usize, ApiError> {
    if (1..=max).contains(&given) {
        return Ok(given);
    }
    Err(ApiError::invalid(format!("{name} is {given}; it must be 1 to {max}")))
}
