//! Appending claims, one or many, and reading one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, HeaderMap};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse as _, Response};
use axwatch_engine::{Acked, AppendRefusal};
use axwatch_model::{DefaultActor, Defaults, Draft, Incoming};
use futures::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::sync::SemaphorePermit;

use super::bodies::Room;
use super::error::ApiError;
use super::ndjson::{self, Ended};
use super::request::{content_type, query, too_slow, unsupported, whole};
use super::{Api, INTAKE_KIB_MAX, Shared};
use crate::answers::json_line;
use crate::bulk::{self, CHUNK_BYTES_MAX, CHUNK_LINES_MAX, Chunk, LINE_BYTES_MAX, Line, Splitter};
use crate::views::{Appended, LineAnswer};

/// Who claims through here, in the log's `appended_by`.
const APPENDED_BY: &str = "user";
/// How long a claim waits for room before it is refused.
const ROOM_WITHIN: Duration = Duration::from_secs(10);

/// What fills the gaps of claims.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Gaps {
    default_actor: Option<String>,
    default_source: Option<String>,
}

impl Gaps {
    fn defaults(self) -> Defaults {
        Defaults {
            actor: self.default_actor.map_or(DefaultActor::OwnId, DefaultActor::Named),
            source: self.default_source.unwrap_or_else(|| "http".to_owned()),
        }
    }
}

/// `POST /attestations`: one claim as JSON, or many as NDJSON.
pub async fn append(
    State(api): Shared,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let defaults = query::<Gaps>(&uri)?.defaults();
    match content_type(&headers) {
        Some("application/json") => one_claim(&api, &headers, body, &defaults).await,
        Some("application/x-ndjson") => Ok(many_claims(api, body, defaults)),
        _ => Err(unsupported("application/json (or application/x-ndjson for one claim a line)")),
    }
}

async fn one_claim(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    defaults: &Defaults,
) -> Result<Response, ApiError> {
    let (bytes, _held) = whole(&api.bodies, headers, body, LINE_BYTES_MAX).await?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_| ApiError::invalid("the body is not UTF-8"))?;
    let claim = api.engine.complete(Draft::from_json(text)?, defaults, APPENDED_BY)?;
    let id = claim.attestation.id.clone();
    let room = tokio::time::timeout(ROOM_WITHIN, api.room(bytes.len()));
    let _room = room.await.map_err(|_| ApiError::busy())?;
    let acked = api.take(vec![claim]).await?.pop().expect("one claim has one answer")?;
    Ok(axum::Json(Appended::of(id, &acked)).into_response())
}

/// Takes claims as they come, and answers those that have come whenever the input pauses.
fn many_claims(api: Arc<Api>, body: Body, defaults: Defaults) -> Response {
    ndjson::answer(|sink| async move {
        let mut input = Input::new(body, api.bodies.room());
        while let Some(chunk) = input.next_chunk().await? {
            let answers = api.take_chunk(&chunk, &defaults).await?;
            let lines: Vec<String> = answers.iter().map(json_line).collect();
            sink.lines(&lines).await?;
        }
        Ok::<(), Ended>(())
    })
}

/// A body that is read in chunks.
struct Input {
    body: axum::body::BodyDataStream,
    splitter: Splitter,
    waiting: VecDeque<Line>,
    /// For the lines that wait and the one that has begun.
    room: Room,
    next_line: u64,
    is_over: bool,
}

impl Input {
    fn new(body: Body, room: Room) -> Input {
        Input {
            body: body.into_data_stream(),
            splitter: Splitter::default(),
            waiting: VecDeque::new(),
            room,
            next_line: 1,
            is_over: false,
        }
    }

    /// What has come, but for what does not fit; waits when no line has. `None` at the end. The lines
    /// given before have been dealt with by now, and their room is given back.
    async fn next_chunk(&mut self) -> Result<Option<Chunk>, ApiError> {
        self.room.shrink_to(self.held());
        let mut bytes = 0;
        while !self.is_over && self.waiting.len() < CHUNK_LINES_MAX {
            let piece = if self.waiting.is_empty() {
                self.next_piece().await?
            } else if bytes >= CHUNK_BYTES_MAX {
                break;
            } else {
                match self.body.next().now_or_never() {
                    Some(piece) => piece,
                    None => break,
                }
            };
            match piece {
                None => {
                    self.is_over = true;
                    self.waiting.extend(self.splitter.finish());
                }
                Some(Ok(piece)) => {
                    bytes += piece.len();
                    self.splitter.push(&piece, &mut self.waiting);
                    let held = self.held();
                    if self.waiting.is_empty() {
                        self.room.grow_to(held).await?;
                    } else if !self.room.try_grow_to(held) {
                        // Those that have come make room for others, and for the next of this one.
                        break;
                    }
                }
                Some(Err(error)) => {
                    return Err(ApiError::invalid(format!("the body did not arrive: {error}")));
                }
            }
        }
        let chunk = bulk::take_chunk(&mut self.waiting, &mut self.next_line);
        Ok((!chunk.lines.is_empty()).then_some(chunk))
    }

    /// The next bytes. Whoever takes room from others in the middle of a line may not pause long.
    async fn next_piece(&mut self) -> Result<Option<Result<Bytes, axum::Error>>, ApiError> {
        if !self.room.is_taken() {
            return Ok(self.body.next().await);
        }
        let within = self.room.patience.arrival;
        tokio::time::timeout(within, self.body.next()).await.map_err(|_| {
            too_slow(format!("nothing came within {within:?} in the middle of a long line"))
        })
    }

    fn held(&self) -> usize {
        let lines: usize = self.waiting.iter().flatten().map(String::len).sum();
        lines + self.splitter.begun()
    }
}

impl Api {
    async fn take(
        &self,
        claims: Vec<Incoming>,
    ) -> Result<Vec<Result<Acked, AppendRefusal>>, ApiError> {
        Ok(self.engine.append(claims).await?)
    }

    async fn take_chunk(
        &self,
        chunk: &Chunk,
        defaults: &Defaults,
    ) -> Result<Vec<LineAnswer>, ApiError> {
        let bytes = chunk.lines.iter().flatten().map(String::len).sum();
        let mut read =
            bulk::read(chunk, |draft| self.engine.complete(draft, defaults, APPENDED_BY));
        let claims = std::mem::take(&mut read.incoming);
        let outcomes = if claims.is_empty() {
            Vec::new()
        } else {
            let _room = self.room(bytes).await;
            self.take(claims).await?
        };
        let outcome = |outcome: Result<Acked, AppendRefusal>| match outcome {
            Ok(acked) => Ok((acked.seq, acked.fires.into())),
            Err(refusal) => Err(refusal.to_string()),
        };
        Ok(bulk::answers(read, outcomes.into_iter().map(outcome)))
    }

    /// Waits until there is room for so many bytes among the claims that are being appended.
    async fn room(&self, bytes: usize) -> SemaphorePermit<'_> {
        let kib = (bytes / 1024 + 1).min(INTAKE_KIB_MAX);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        self.intake.acquire_many(kib).await.expect("the intake is never closed")
    }
}

/// `GET /attestations/{id}`.
pub async fn one(State(api): Shared, Path(id): Path<String>) -> Result<Response, ApiError> {
    let json = api.answers.attestation(&id.parse()?).await?;
    let kind = HeaderValue::from_static("application/json");
    Ok(([(CONTENT_TYPE, kind)], json).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bodies::{Bodies, Patience};
    use futures::stream;
    use std::convert::Infallible;

    fn input(bodies: &Bodies, text: Vec<u8>) -> Input {
        let pieces: Vec<_> = text.chunks(60_000).map(Bytes::copy_from_slice).collect();
        let pieces = stream::iter(pieces.into_iter().map(Ok::<_, Infallible>));
        Input::new(Body::from_stream(pieces), bodies.room())
    }

    #[tokio::test]
    async fn a_line_of_any_allowed_length_is_given_and_later_ones_go_on() {
        let bodies = Bodies::new();
        for (length, allowed) in
            [(CHUNK_BYTES_MAX * 3, true), (LINE_BYTES_MAX, true), (LINE_BYTES_MAX + 1, false)]
        {
            let text = ["a", &"x".repeat(length), "b", "c"].join("\n");
            let mut input = input(&bodies, text.into_bytes());
            let mut lines = Vec::new();
            while let Some(chunk) = input.next_chunk().await.unwrap() {
                assert_eq!(chunk.first_line, lines.len() as u64 + 1);
                lines.extend(chunk.lines);
            }
            let given: Vec<_> = lines.iter().map(|line| line.as_ref().map(String::len)).collect();
            let long = if allowed { Ok(length) } else { Err(&"the line is longer than 8 MiB") };
            assert_eq!(given, [Ok(1), long, Ok(1), Ok(1)]);
        }
    }

    #[tokio::test]
    async fn only_a_long_line_has_to_be_ended_soon() {
        let short = Duration::from_millis(20);
        let bodies = Bodies::with(Patience { room: short, arrival: short });
        for (length, told) in [(1_000, false), (200_000, true)] {
            let begun = Ok::<_, Infallible>(Bytes::from(vec![b'x'; length]));
            let body = Body::from_stream(stream::iter([begun]).chain(stream::pending()));
            let mut input = Input::new(body, bodies.room());
            let ended = tokio::time::timeout(25 * short, input.next_chunk()).await;
            assert_eq!(ended.is_ok_and(|chunk| chunk.is_err()), told, "{length} bytes");
        }
    }
}
