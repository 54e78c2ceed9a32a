//! Answers of one JSON object a line, made while they are read.

use std::future::Future;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures::{Stream, stream};
use tokio::sync::mpsc;

use super::error::ApiError;
use crate::answers::Pages;

/// Pieces that wait for a slow reader. Whoever makes them waits then too.
const PIECES_MAX: usize = 2;
/// How long a reader may leave its socket unread before the answer is given up.
const READ_WITHIN: Duration = Duration::from_secs(300);
/// How long an answer that goes on rests once it has told all, so that a busy engine makes larger pages.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Where the lines of an answer go.
pub struct Sink(mpsc::Sender<Piece>);

enum Piece {
    Lines(Bytes),
    /// Nothing is missing: without it the connection is cut, so that no reader takes what was given up
    /// for the whole.
    End,
}

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
        self.send(Piece::Lines(piece.into())).await
    }

    /// Sends what came, of an answer that goes on until the engine stops (`None`), and rests when all
    /// has been told.
    pub async fn arrived(&self, lines: Option<Vec<String>>, is_behind: bool) -> Result<(), Ended> {
        let Some(lines) = lines else {
            let message = "the engine has stopped, so nothing more comes; ask again once it runs";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message).into());
        };
        self.lines(&lines).await?;
        if !is_behind {
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
        Ok(())
    }

    async fn send(&self, piece: Piece) -> Result<(), Ended> {
        match tokio::time::timeout(READ_WITHIN, self.0.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended::ReaderGone),
        }
    }
}

/// An answer whose lines `produce` makes, until its reader goes away. A failure on the way becomes the
/// last line.
pub fn answer<F, P>(produce: F) -> Response
where
    F: FnOnce(Sink) -> P,
    P: Future<Output = Result<(), Ended>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let last = Sink(sender.clone());
    let producing = produce(Sink(sender));
    tokio::spawn(async move {
        // What is produced may be long in coming: a search that finds nothing, a claim that nobody makes.
        let produced = tokio::select! {
            produced = producing => produced,
            () = last.0.closed() => return,
        };
        if let Err(Ended::Failed(error)) = &produced
            && last.lines(&[error.last_line()]).await.is_err()
        {
            return;
        }
        if !matches!(produced, Err(Ended::ReaderGone)) {
            let _ = last.send(Piece::End).await;
        }
    });
    let mut response = Response::new(Body::from_stream(pieces_of(receiver)));
    let kind = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The pieces up to the end; an error when there is none.
fn pieces_of(receiver: mpsc::Receiver<Piece>) -> impl Stream<Item = Result<Bytes, GivenUp>> {
    stream::try_unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Some(Piece::Lines(piece)) => Ok(Some((piece, receiver))),
            Some(Piece::End) => Ok(None),
            None => Err(GivenUp),
        }
    })
}

/// Why a connection is cut.
#[derive(Debug, thiserror::Error)]
#[error("the answer was given up before its end")]
struct GivenUp;

/// An answer of all pages of a list.
pub fn pages(mut pages: Pages) -> Response {
    answer(|sink| async move {
        while let Some(lines) = pages.next().await? {
            sink.lines(&lines).await?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::to_bytes;
    use futures::StreamExt as _;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn only_a_whole_answer_ends_well() {
        let failed = || ApiError::invalid("no").into();
        // (how it ends, what was sent, or nothing for a cut connection)
        let cases: [(Result<(), Ended>, Option<&str>); 3] = [
            (Ok(()), Some("1\n")),
            (Err(failed()), Some("1\n{\"error\":{\"kind\":\"invalid\",\"message\":\"no\"}}\n")),
            (Err(Ended::ReaderGone), None),
        ];
        for (ending, expected) in cases {
            let response = answer(|sink| async move {
                sink.lines(&["1".to_owned()]).await?;
                ending
            });
            let body = to_bytes(response.into_body(), usize::MAX).await.ok();
            assert_eq!(body.as_deref(), expected.map(str::as_bytes));
        }
    }

    #[tokio::test]
    async fn nothing_is_produced_for_nobody() {
        let (held, dropped) = oneshot::channel::<()>();
        let response = answer(|sink| async move {
            let _held = held;
            sink.lines(&["1".to_owned()]).await?;
            std::future::pending().await
        });
        let mut body = response.into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "1\n");
        drop(body);
        let within = tokio::time::timeout(Duration::from_secs(60), dropped).await;
        assert!(within.expect("it ends with its reader").is_err());
    }
}
