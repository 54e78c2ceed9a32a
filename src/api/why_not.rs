//! Why a watcher did not fire for a claim, and which watchers came nearest to one.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::error::ApiError;
use super::request::query;
use super::{Api, Shared};
use crate::answers::Server;
use crate::views::{self, NEAREST_DEFAULT, NEAREST_MAX, Nearest, WhyNot};

/// About which watcher; without one, how many are told.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    watcher: Option<String>,
    limit: Option<usize>,
}

/// `GET /why-not/{attestation}`.
pub async fn why_not(
    State(api): Shared,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    match query(&uri)? {
        Asked { watcher: Some(watcher), limit: None } => {
            Ok(Json(api.why_not(&watcher, &id).await?).into_response())
        }
        Asked { watcher: Some(_), limit: Some(_) } => {
            Err(ApiError::invalid("limit goes without watcher: it is how many watchers are told"))
        }
        Asked { watcher: None, limit } => {
            let limit = limit.unwrap_or(NEAREST_DEFAULT);
            if !(1..=NEAREST_MAX).contains(&limit) {
                return Err(ApiError::invalid(format!(
                    "limit is {limit}; it must be 1 to {NEAREST_MAX}"
                )));
            }
            Ok(Json(api.nearest(&id, limit).await?).into_response())
        }
    }
}

impl Api {
    async fn why_not(&self, watcher: &str, id: &str) -> Result<WhyNot, ApiError> {
        // Before the jobs are looked for: what is matched by then has them.
        let matched = self.engine.heads().borrow().matched;
        let live = self.engine.watcher(watcher).await?;
        let held = self.held().await?;
        let live = live.as_deref();
        let mut answer = self.answers.why_not(watcher, id, matched, live, &held).await?;
        for job in answer.jobs.iter_mut().filter(|job| job.state.is_open()) {
            let row = self.answers.job_row(job.job_id).await?;
            job.waits = self.waits(row, Some(&answer.watcher)).await?;
            answer.reasons.extend(job.waits.as_ref().map(views::Waits::as_reason));
        }
        Ok(answer)
    }

    async fn nearest(&self, id: &str, limit: usize) -> Result<Nearest, ApiError> {
        let matched = self.engine.heads().borrow().matched;
        let server = Server { reading: self.engine.reading().await? };
        Ok(self.answers.nearest(id, matched, limit, Some(server)).await?)
    }
}
