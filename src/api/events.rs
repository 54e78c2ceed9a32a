//! A plugin's log as server-sent events: its last lines, and then each that comes.
//!
//! A line is a message whose data is JSON, and its number is the event's id. A reader that falls
//! behind what is kept gets an event `gap` with the numbers of the lines that it missed. What it has
//! not read is not gathered for it.
//!
//! Not here: whose lines these are (`axwatch_engine`'s `plugin::tail`).

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, Uri};
use axum::response::Response;
use axwatch_engine::plugin::{LogLine, Tail, Told};
use futures::stream;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::error::ApiError;
use super::{Shared, request, stopped};
use crate::views;

/// Lines from before, when nobody says how many.
const LINES_DEFAULT: usize = 200;
/// From one sign of life to the next, while there is nothing to tell: some cut a connection that is still.
pub const REMIND_EVERY: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    lines: Option<usize>,
    follow: Option<bool>,
}

/// `GET /plugins/{name}/logs`.
pub async fn logs(
    State(api): Shared,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let wanted: Wanted = request::query(&uri)?;
    let tail = api.plugins.logs(&name, wanted.lines.unwrap_or(LINES_DEFAULT))?;
    let follow = wanted.follow.unwrap_or(true);
    let reading = Reading { tail, stopping: api.stopping.clone(), follow };
    Ok(event_stream(Body::from_stream(stream::unfold(reading, Reading::piece))))
}

/// An answer of server-sent events.
pub fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // For proxies that would gather it.
    let buffering = HeaderName::from_static("x-accel-buffering");
    headers.insert(buffering, HeaderValue::from_static("no"));
    response
}

/// A sign of life that tells nothing.
pub fn nothing_new() -> Bytes {
    Bytes::from_static(b": nothing new\n\n")
}

struct Reading {
    tail: Tail,
    stopping: watch::Receiver<bool>,
    follow: bool,
}

impl Reading {
    async fn piece(mut self) -> Option<(Result<Bytes, Infallible>, Reading)> {
        let told = match self.tail.ready() {
            Some(told) => Some(told),
            None if !self.follow => return None,
            None => tokio::select! {
                told = self.tail.next() => Some(told),
                () = stopped(&mut self.stopping) => return None,
                () = tokio::time::sleep(REMIND_EVERY) => None,
            },
        };
        let piece = match told {
            Some(Told::Lines(lines)) => {
                Bytes::from(lines.iter().map(|line| event(line)).collect::<String>())
            }
            Some(Told::Gap { from, to }) => {
                let gap = json!({ "from": from, "to": to });
                Bytes::from(format!("event: gap\ndata: {gap}\n\n"))
            }
            None => nothing_new(),
        };
        Some((Ok(piece), self))
    }
}

fn event(line: &LogLine) -> String {
    let view = views::LogLine {
        at: line.at,
        level: line.level.to_owned(),
        stream: line.stream.to_owned(),
        message: line.message.clone(),
        job: line.job.map(|job| job.to_string()),
    };
    // JSON has no line ends in it, which would end the data.
    let json = serde_json::to_string(&view).expect("a line is always JSON");
    format!("id: {}\ndata: {json}\n\n", line.number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::Timestamp;

    #[test]
    fn a_line_is_one_event() {
        let line = LogLine {
            number: 7,
            at: Timestamp::from_ms_clamped(0),
            level: "warn",
            stream: "stderr",
            message: "two\nlines".to_owned(),
            job: None,
        };
        let expected = "id: 7\ndata: {\"at\":\"1970-01-01T00:00:00Z\",\"level\":\"warn\",\"stream\":\"stderr\",\"message\":\"two\\nlines\"}\n\n";
        assert_eq!(event(&line), expected);
    }
}
