//! The audit: records to read, rows to recompute, proofs to hand on.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse as _, Response};
use axwatch_model::LeafNumber;
use serde::Deserialize;

use super::error::ApiError;
use super::request::{Limit, query};
use super::{Shared, ndjson};
use crate::answers::{Held, List, json_line};
use crate::source::view_of;
use crate::views;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
    #[serde(default)]
    all: bool,
    r#type: Option<String>,
    before: Option<u64>,
}

/// `GET /audit`.
pub async fn records(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let Listing { limit, all, r#type, before } = query(&uri)?;
    let list = List::Records { kind: r#type, before: before.map(LeafNumber) };
    let lines = Limit::new(limit, all).lines()?;
    Ok(ndjson::pages(api.answers.list(&list, lines, Held::default()).await?))
}

/// `GET /audit/head`.
pub async fn head(State(api): Shared) -> Result<Json<views::AuditHead>, ApiError> {
    Ok(Json(api.answers.audit_head().await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    #[serde(default)]
    from: u64,
}

/// `GET /audit/rows`.
pub async fn rows(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let From { from } = query(&uri)?;
    let rows = api.answers.audit_rows(LeafNumber(from)).await?;
    Ok(ndjson::answer(|sink| async move {
        for row in &rows {
            sink.lines(&[json_line(&view_of(row))]).await?;
        }
        Ok(())
    }))
}

/// `GET /audit/proof/{id}`.
pub async fn proof(State(api): Shared, Path(id): Path<String>) -> Result<Response, ApiError> {
    let proof = api.answers.proof(api.job_id(&id).await?).await?;
    let kind = HeaderValue::from_static("application/json");
    Ok(([(CONTENT_TYPE, kind)], proof).into_response())
}
