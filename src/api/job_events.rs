//! One job as server-sent events: how it is, what it says and how far it has come, until it has ended.
//!
//! `job` is the job, first as it is (of one that has ended it is the last) and then whenever it has changed; `log` is an entry of its log, with its
//! number as the event's id; `progress` is how far it is. After the `job` that tells its end nothing comes.
//! Of the steps of a fast progress a reader gets as many as it can show.
//!
//! Not here: what is new about a job (`crate::answers`).

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::response::Response;
use axwatch_model::JobId;
use futures::stream;

use super::error::ApiError;
use super::events::{REMIND_EVERY, event_stream, nothing_new};
use super::{Api, stopped};
use crate::answers::{JobFollow, Told, json_line};

/// A job as it goes on, with the entries of its log after one that the reader has.
pub fn answer(api: Arc<Api>, id: JobId, entries: Option<u32>) -> Response {
    let follow = api.answers.follow_job(id, entries, &api.engine);
    let reading = Reading { follow, api, is_over: false };
    event_stream(Body::from_stream(stream::unfold(reading, Reading::piece)))
}

struct Reading {
    follow: JobFollow,
    api: Arc<Api>,
    is_over: bool,
}

impl Reading {
    async fn piece(mut self) -> Option<(Result<Bytes, Infallible>, Reading)> {
        if self.is_over {
            return None;
        }
        let mut stopping = self.api.stopping.clone();
        // However often there was nothing new in a look.
        let mut still = pin!(tokio::time::sleep(REMIND_EVERY));
        loop {
            tokio::select! {
                is_more = self.follow.wait() => if !is_more {
                    return None;
                },
                () = stopped(&mut stopping) => return None,
                () = &mut still => return Some((Ok(nothing_new()), self)),
            }
            let held = self.api.held().await.unwrap_or_default();
            let text: String = match self.follow.look(&held).await {
                Ok(told) => told.iter().map(event).collect(),
                Err(error) => {
                    self.is_over = true;
                    format!("event: error\ndata: {}\n\n", ApiError::from(error).last_line())
                }
            };
            if !text.is_empty() {
                return Some((Ok(Bytes::from(text)), self));
            }
        }
    }
}

fn event(told: &Told) -> String {
    // JSON has no line ends in it, which would end the data.
    match told {
        Told::Job(job) => format!("event: job\ndata: {}\n\n", json_line(job)),
        Told::Log(entry) => {
            format!("event: log\nid: {}\ndata: {}\n\n", entry.number, json_line(entry))
        }
        Told::Progress(progress) => format!("event: progress\ndata: {}\n\n", json_line(progress)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::JobProgress;
    use axwatch_model::Timestamp;

    #[test]
    fn what_is_told_is_one_event() {
        let told = Told::Progress(JobProgress {
            at: Some(Timestamp::from_ms_clamped(0)),
            attempt: 1,
            current: Some(3),
            total: Some(10),
            cost: None,
            rate_per_second: Some(1.5),
            left_seconds: None,
        });
        let expected = "event: progress\ndata: {\"at\":\"1970-01-01T00:00:00Z\",\"attempt\":1,\"current\":3,\"total\":10,\"cost\":null,\"rate_per_second\":1.5,\"left_seconds\":null}\n\n";
        assert_eq!(event(&told), expected);
    }
}
