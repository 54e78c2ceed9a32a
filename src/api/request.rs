//! Reading requests: bodies and query strings, with refusals that say what would be right.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::BODY_BYTES_MAX;
use super::error::ApiError;

/// How long a whole body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Lines of a list when nobody says how many.
const LIMIT_DEFAULT: usize = 100;

/// `limit` and `all`, as every list has them.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Limit {
    limit: Option<usize>,
    #[serde(default)]
    all: bool,
}

impl Limit {
    pub fn new(limit: Option<usize>, all: bool) -> Limit {
        Limit { limit, all }
    }

    /// How many lines at most; `None` is all.
    pub fn lines(self) -> Option<usize> {
        if self.all { None } else { Some(self.limit.unwrap_or(LIMIT_DEFAULT)) }
    }
}

/// The query string.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    match Query::<T>::try_from_uri(uri) {
        Ok(Query(query)) => Ok(query),
        Err(error) => Err(ApiError::invalid(format!("the query string: {}", error.body_text()))),
    }
}

/// A JSON body.
pub async fn json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, ApiError> {
    let bytes = whole(headers, body).await?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::invalid(format!("the body: {error}")))
}

/// The bytes of a JSON body.
pub async fn whole(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    if content_type(headers) != Some("application/json") {
        return Err(unsupported("application/json"));
    }
    let read = tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, BODY_BYTES_MAX));
    match read.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_large(&error) => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!(
                "a body has at most {BODY_BYTES_MAX} bytes; application/x-ndjson may be any length"
            ),
        )),
        Ok(Err(error)) => Err(ApiError::invalid(format!("the body did not arrive: {error}"))),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "too_slow",
            format!("the body did not arrive within {} s", BODY_WITHIN.as_secs()),
        )),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What the body is said to be, without parameters.
pub fn content_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or(value).trim())
}

pub fn unsupported(right: &str) -> ApiError {
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("say `Content-Type: {right}`"),
    )
}
