//! Taking away what is old and nobody needs any more.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::HeaderMap;
use axwatch_model::Timestamp;
use serde::Deserialize;

use super::Shared;
use super::error::ApiError;
use super::request::json;
use crate::views;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    before: Timestamp,
    #[serde(default)]
    dry_run: bool,
}

/// `POST /retain`: answers when it is done. It ends with the connection that asked for it.
pub async fn retain(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Retained>, ApiError> {
    let (Wanted { before, dry_run }, _room) = json(&api.bodies, &headers, body).await?;
    if before > api.engine.clock().now().wall {
        let told = format!("before is {before}, which has not come yet; name a time that has been");
        return Err(ApiError::invalid(told));
    }
    let axwatch_engine::Retained { claims, jobs } = api.engine.retain(before, dry_run).await?;
    Ok(Json(views::Retained { before, claims, jobs, dry_run }))
}
