//! Answers of one JSON object a line, made while they are read.

use std::future::Future;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures::stream;
use tokio::sync::mpsc;

use super::error::ApiError;
use crate::answers::Pages;

/// Pieces that wait for a slow reader. Whoever makes them waits then too.
const PIECES_MAX: usize = 2;
/// How long a reader may leave its socket unread before the answer is given up.
const READ_WITHIN: Duration = Duration::from_secs(300);

/// Where the lines of an answer go.
pub struct Sink(mpsc::Sender<Bytes>);

/// Why an answer ended before its end.
pub enum Ended {
    /// Its reader went away.
    ReaderGone,
    /// It cannot go on.
    Failed(ApiError),
}

impl<E: Into<ApiError>> From<E> for Ended {
    fn from(error: E) -> Ended {
        Ended::Failed(error.into())
    }
}

impl Sink {
    /// Sends lines that belong together.
    pub async fn lines(&self, lines: &[String]) -> Result<(), Ended> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut piece = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
        for line in lines {
            piece.push_str(line);
            piece.push('\n');
        }
        match tokio::time::timeout(READ_WITHIN, self.0.send(piece.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended::ReaderGone),
        }
    }
}

/// An answer whose lines `produce` makes. A failure on the way becomes the last line.
pub fn answer<F, P>(produce: F) -> Response
where
    F: FnOnce(Sink) -> P,
    P: Future<Output = Result<(), Ended>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let last = sender.clone();
    let producing = produce(Sink(sender));
    tokio::spawn(async move {
        if let Err(Ended::Failed(error)) = producing.await {
            let _ = last.send(format!("{}\n", error.last_line()).into()).await;
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(piece), receiver))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// An answer of all pages of a list.
pub fn pages(mut pages: Pages) -> Response {
    answer(|sink| async move {
        while let Some(lines) = pages.next().await? {
            sink.lines(&lines).await?;
        }
        Ok(())
    })
}
