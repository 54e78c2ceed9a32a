//! Aliases: which words are one.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use serde::Deserialize;

use super::error::ApiError;
use super::request::query;
use super::{Shared, ndjson};
use crate::answers::{AnswerError, json_line};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// `GET /aliases`.
pub async fn list(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let Nothing {} = query(&uri)?;
    let classes = api.answers.aliases().await.map_err(AnswerError::from)?;
    Ok(ndjson::answer(|sink| async move {
        for class in &classes {
            sink.lines(&[json_line(class)]).await?;
        }
        Ok(())
    }))
}
