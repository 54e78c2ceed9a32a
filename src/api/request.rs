//! Reading requests: bodies and query strings, with refusals that say what would be right.

use axum::body::{Body, HttpBody as _};
use axum::extract::Query;
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::http::{StatusCode, Uri};
use futures::StreamExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::BODY_BYTES_MAX;
use super::bodies::{Bodies, Room};
use super::error::ApiError;

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
    ///
    /// # Errors
    /// For none at all, which nobody means.
    pub fn lines(self) -> Result<Option<usize>, ApiError> {
        match self.limit {
            Some(0) => Err(ApiError::invalid("limit is 0; it must be at least 1")),
            _ if self.all => Ok(None),
            limit => Ok(Some(limit.unwrap_or(LIMIT_DEFAULT))),
        }
    }
}

/// The query string.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    match Query::<T>::try_from_uri(uri) {
        Ok(Query(query)) => Ok(query),
        Err(error) => Err(ApiError::invalid(format!("the query string: {}", error.body_text()))),
    }
}

/// A JSON body, and the room that it has until its request has been dealt with.
pub async fn json<T: DeserializeOwned>(
    bodies: &Bodies,
    headers: &HeaderMap,
    body: Body,
) -> Result<(T, Room), ApiError> {
    let (bytes, room) = whole(bodies, headers, body, BODY_BYTES_MAX).await?;
    let json = serde_json::from_slice(&bytes);
    Ok((json.map_err(|error| ApiError::invalid(format!("the body: {error}")))?, room))
}

/// A JSON body of a request that may do without one.
pub async fn json_or_nothing<T: DeserializeOwned + Default>(
    bodies: &Bodies,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, ApiError> {
    if body.is_end_stream() {
        return Ok(T::default());
    }
    let (asked, _room) = json(bodies, headers, body).await?;
    Ok(asked)
}

/// The bytes of a JSON body, at most so many, and the room that they have.
pub async fn whole(
    bodies: &Bodies,
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<(Vec<u8>, Room), ApiError> {
    if content_type(headers) != Some("application/json") {
        return Err(unsupported("application/json"));
    }
    let room = bodies.room();
    let within = room.patience.arrival;
    tokio::time::timeout(within, read(room, body, bytes_max))
        .await
        .unwrap_or_else(|_| Err(too_slow(format!("the body did not arrive within {within:?}"))))
}

async fn read(mut room: Room, body: Body, bytes_max: usize) -> Result<(Vec<u8>, Room), ApiError> {
    let mut pieces = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece
            .map_err(|error| ApiError::invalid(format!("the body did not arrive: {error}")))?;
        let length = bytes.len() + piece.len();
        if length > bytes_max {
            let message = format!(
                "this body has at most {bytes_max} bytes; application/x-ndjson may be any length"
            );
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message));
        }
        room.grow_to(length).await?;
        bytes.extend_from_slice(&piece);
    }
    Ok((bytes, room))
}

/// The refusal of what arrives too slowly.
pub fn too_slow(message: String) -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message)
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

#[cfg(test)]
mod tests {
    use super::super::bodies::Patience;
    use super::*;
    use axum::body::Bytes;
    use axum::response::IntoResponse as _;
    use futures::stream;
    use std::time::Duration;

    fn impatient() -> Bodies {
        let (room, arrival) = (Duration::from_millis(100), Duration::from_millis(2_000));
        Bodies::with(Patience { room, arrival })
    }

    async fn status_of(bodies: &Bodies, body: Body, bytes_max: usize) -> u16 {
        let headers = [(CONTENT_TYPE, "application/json".parse().unwrap())];
        let read = whole(bodies, &headers.into_iter().collect(), body, bytes_max).await;
        read.map_or_else(|error| error.into_response().status().as_u16(), |_| 200)
    }

    #[tokio::test]
    async fn a_body_is_bounded_in_bytes_and_time() {
        let bodies = impatient();
        assert_eq!(status_of(&bodies, Body::from("12345"), 5).await, 200);
        assert_eq!(status_of(&bodies, Body::from("123456"), 5).await, 413);
        let stalled = stream::once(async { Ok::<_, std::convert::Infallible>(Bytes::from("1")) });
        let stalled = Body::from_stream(stalled.chain(stream::pending()));
        assert_eq!(status_of(&bodies, stalled, 5).await, 408);
    }

    #[tokio::test]
    async fn stalled_bodies_do_not_fill_memory() {
        const MIB: usize = 1024 * 1024;
        let bodies = impatient();
        let stalled = || {
            let piece = Ok::<_, std::convert::Infallible>(Bytes::from(vec![b'1'; 15 * MIB]));
            Body::from_stream(stream::iter([piece]).chain(stream::pending()))
        };
        let reading = (0..4).map(|_| status_of(&bodies, stalled(), BODY_BYTES_MAX));
        let mut statuses = futures::future::join_all(reading).await;
        statuses.sort_unstable();
        assert_eq!(statuses, [408, 408, 429, 429]);
        assert_eq!(status_of(&bodies, Body::from("1"), 5).await, 200);
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        assert!(Limit::new(Some(0), false).lines().is_err());
        assert_eq!(Limit::new(None, false).lines().unwrap(), Some(LIMIT_DEFAULT));
        assert_eq!(Limit::new(None, true).lines().unwrap(), None);
    }
}
