//! Reading requests: bodies and query strings, with refusals that say what would be right.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, Query, Request};
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::http::{StatusCode, Uri};
use futures::StreamExt as _;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::bodies::{Bodies, Room};
use super::error::ApiError;
use super::{Api, BODY_BYTES_MAX};

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
        Err(error) => {
            let text = error.body_text();
            let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            Err(ApiError::invalid(format!("the query string: {}", in_words(text))))
        }
    }
}

/// A JSON body, and the room that it has until its request has been dealt with.
pub async fn json<T: DeserializeOwned>(
    bodies: &Bodies,
    headers: &HeaderMap,
    body: Body,
) -> Result<(T, Room), ApiError> {
    let (bytes, room) = whole(bodies, headers, body, BODY_BYTES_MAX).await?;
    Ok((read_object(&bytes)?, room))
}

/// What a JSON object says.
fn read_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let invalid = |text: String| ApiError::invalid(format!("the body: {text}"));
    // What is read by its keys would be read by their order too.
    let is_object = bytes.trim_ascii_start().first().is_none_or(|first| *first == b'{');
    if !is_object && serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
        return Err(invalid("it must be a JSON object, such as {\"key\": …}".to_owned()));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let text = inner.to_string();
        if !inner.is_data() {
            return invalid(text);
        }
        // Where it stands is told by its key.
        let text = in_words(text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text));
        let is_whole = path == "." || text.contains("field `");
        invalid(if is_whole { text } else { format!("{path}: {text}") })
    })?;
    reader.end().map_err(|error| invalid(error.to_string()))?;
    Ok(read)
}

/// A refusal of a value without the names that types have in our code.
fn in_words(text: &str) -> String {
    const WORDS: [(&str, &str); 9] = [
        ("expected i32", "expected a whole number"),
        ("expected i64", "expected a whole number"),
        ("expected u32", "expected a whole number of 0 or more"),
        ("expected u64", "expected a whole number of 0 or more"),
        ("expected usize", "expected a whole number of 0 or more"),
        ("expected f64", "expected a number"),
        ("expected any valid JSON value", "expected JSON"),
        ("expected a sequence", "expected a list"),
        ("floating point `", "the number `"),
    ];
    WORDS.iter().fold(text.to_owned(), |text, (code, words)| text.replace(code, words))
}

/// No keys at all, where a request needs none.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

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

/// What a request says in its body: a JSON object, or nothing at all, which says as much as `{}`. Its room is
/// kept for as long as it is.
pub struct Said<T> {
    /// What it says.
    pub asked: T,
    _room: Option<Room>,
}

impl<T: DeserializeOwned> FromRequest<Arc<Api>> for Said<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Said<T>, ApiError> {
        let (parts, body) = request.into_parts();
        if body.is_end_stream() {
            return Ok(Said { asked: read_object(b"{}")?, _room: None });
        }
        let (asked, room) = json(&api.bodies, &parts.headers, body).await?;
        Ok(Said { asked, _room: Some(room) })
    }
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
    fn a_body_that_is_wrong_is_told_with_its_key_and_what_would_be_right() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Asked {
            #[serde(rename = "name")]
            _name: String,
            #[serde(default, rename = "priority")]
            _priority: i32,
            #[serde(rename = "payload")]
            _payload: Option<Box<serde_json::value::RawValue>>,
        }
        // (the body, what is said of it)
        let cases = [
            ("[]", "it must be a JSON object"),
            ("[\"a\",1,null]", "it must be a JSON object"),
            ("null", "it must be a JSON object"),
            ("x", "expected value at line 1"),
            ("", "EOF while parsing"),
            ("{\"name\":\"a\"} x", "trailing characters"),
            ("{}", "the body: missing field `name`"),
            ("{\"nmae\":1}", "the body: unknown field `nmae`, expected one of `name`"),
            ("{\"name\":1}", "name: invalid type: integer `1`, expected a string"),
            (
                "{\"name\":\"a\",\"priority\":1.5}",
                "priority: invalid type: the number `1.5`, expected a whole number",
            ),
        ];
        for (body, says) in cases {
            let refused = read_object::<Asked>(body.as_bytes()).unwrap_err().last_line();
            let refused: serde_json::Value = serde_json::from_str(&refused).unwrap();
            let message = refused["error"]["message"].as_str().unwrap();
            assert!(message.contains(says), "{body}: {message}");
        }
        let body = b"{\"name\":\"a\",\"payload\":{\"n\":123456789012345678901}}";
        read_object::<Asked>(body).unwrap();
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        assert!(Limit::new(Some(0), false).lines().is_err());
        assert_eq!(Limit::new(None, false).lines().unwrap(), Some(LIMIT_DEFAULT));
        assert_eq!(Limit::new(None, true).lines().unwrap(), None);
    }
}
