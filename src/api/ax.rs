//! Questions in AX.

use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::HeaderMap;
use axum::response::Response;
use axwatch_model::Seq;
use serde::Deserialize;

use super::error::ApiError;
use super::request::{Limit, json, query};
use super::{Api, Shared, ndjson};
use crate::answers::{Held, List};

/// A question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    query: String,
    limit: Option<usize>,
    #[serde(default)]
    all: bool,
    before: Option<u64>,
}

/// `GET /ax?query=…`.
pub async fn get(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    api.ask(query(&uri)?).await
}

/// `POST /ax`.
pub async fn post(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (question, _room) = json(&api.bodies, &headers, body).await?;
    api.ask(question).await
}

impl Api {
    async fn ask(&self, question: Question) -> Result<Response, ApiError> {
        let Question { query, limit, all, before } = question;
        let list = List::Attestations { query, before: before.map(Seq) };
        let lines = Limit::new(limit, all).lines()?;
        Ok(ndjson::pages(self.answers.list(&list, lines, Held::default()).await?))
    }
}
