//! Questions in AX.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use axum::http::header::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axwatch_model::Seq;
use serde::Deserialize;

use super::error::ApiError;
use super::request::{Limit, json, query};
use super::{Api, Shared, ndjson, stopped};
use crate::answers::{Held, List};
use crate::views;

/// A question.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    query: String,
    limit: Option<usize>,
    #[serde(default)]
    all: bool,
    before: Option<u64>,
    #[serde(default)]
    count: bool,
    #[serde(default)]
    explain: bool,
    #[serde(default)]
    follow: bool,
}

/// What is answered.
enum Wanted {
    Claims,
    Count,
    Explanation,
    /// Claims, those to come too.
    Arrivals,
}

impl Question {
    fn wanted(&self) -> Result<Wanted, ApiError> {
        let Question { limit, before, count, explain, follow, .. } = self;
        match (count, explain, follow) {
            (false, false, false) => Ok(Wanted::Claims),
            (true, false, false) if limit.is_some() => {
                Err(ApiError::invalid("count counts all that match, so it does not go with limit"))
            }
            (true, false, false) => Ok(Wanted::Count),
            (false, true, false) => Ok(Wanted::Explanation),
            (false, false, true) if before.is_some() => {
                Err(ApiError::invalid("follow goes on at the head, so it does not go with before"))
            }
            (false, false, true) => Ok(Wanted::Arrivals),
            _ => Err(ApiError::invalid("say one of count, explain and follow")),
        }
    }
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
    async fn ask(self: Arc<Api>, question: Question) -> Result<Response, ApiError> {
        let wanted = question.wanted()?;
        let Question { query, limit, all, before, .. } = question;
        let limit = Limit::new(limit, all).lines()?;
        let before = before.map(Seq);
        match wanted {
            Wanted::Claims => {
                let list = List::Attestations { query, before };
                Ok(ndjson::pages(self.answers.list(&list, limit, Held::default()).await?))
            }
            Wanted::Count => {
                let count = self.answers.count(&query, before).await?;
                Ok(Json(views::Count { count }).into_response())
            }
            Wanted::Explanation => {
                let explained = self.answers.explain_question(&query, before, limit).await?;
                Ok(Json(explained).into_response())
            }
            Wanted::Arrivals => self.arrivals(&query, limit).await,
        }
    }

    /// The last claims that match, oldest first, and then those that come.
    async fn arrivals(&self, query: &str, limit: Option<usize>) -> Result<Response, ApiError> {
        let mut arrivals = self.answers.arrivals(query, limit, self.engine.heads()).await?;
        let mut stopping = self.stopping.clone();
        Ok(ndjson::answer(|sink| async move {
            loop {
                let lines = tokio::select! {
                    lines = arrivals.next() => lines?,
                    () = stopped(&mut stopping) => None,
                };
                sink.arrived(lines, arrivals.is_behind()).await?;
            }
        }))
    }
}
