//! A copy of the store, which the server itself writes.
//!
//! Whoever asks has the store's token, and so is its owner. All the same nothing that is there can come
//! to harm: the name must be one that nothing has, the copy is its owner's alone (mode 0600), and one is
//! made at a time. It ends with the connection that asked for it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::HeaderMap;
use axum::response::Response;
use axwatch_ats::{Backup, CopyError, CopyProgress, Existing, SqliteStore};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};

use super::error::ApiError;
use super::request::json;
use super::{Shared, ndjson, stopped};
use crate::answers::{AnswerError, json_line};
use crate::views::{self, BackupLine};

/// One at a time, so that many do not share the disk's time.
static MAKING: Semaphore = Semaphore::const_new(1);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    path: PathBuf,
}

enum Event {
    Progress(CopyProgress),
    Ended(Result<Backup, ApiError>),
}

/// `POST /backup`.
pub async fn make(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let (Wanted { path }, _room) = json(&api.bodies, &headers, body).await?;
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(ApiError::invalid("path has a NUL character in it; no file can be called so"));
    }
    if !path.is_absolute() {
        let told = format!(
            "path is {:?}; it must be absolute, as the server has a folder of its own",
            path.display()
        );
        return Err(ApiError::invalid(told));
    }
    let alone = MAKING.try_acquire().map_err(|_| {
        let told = "a backup is being made already; ask again when it is done";
        ApiError::new(StatusCode::CONFLICT, "conflict", told)
    })?;
    let (sender, mut events) = mpsc::channel(1);
    tokio::spawn(copy(api.store.clone(), path, sender, api.stopping.clone(), alone));
    // What is refused at once has a status of its own; later it is the last line.
    let first = events.recv().await.unwrap_or(Event::Ended(Err(is_stopping())));
    if let Event::Ended(Err(refused)) = first {
        return Err(refused);
    }
    Ok(ndjson::answer(|sink| async move {
        let mut event = Some(first);
        while let Some(told) = event {
            let line = match told {
                Event::Progress(CopyProgress { bytes, of_bytes }) => {
                    BackupLine::Progress(views::BackupProgress { bytes, of_bytes })
                }
                Event::Ended(made) => BackupLine::Backup(views::Backup::of(&made?)),
            };
            sink.lines(&[json_line(&line)]).await?;
            event = events.recv().await;
        }
        Ok(())
    }))
}

/// Makes the copy, until it is done, nobody waits for it, or the server stops.
async fn copy(
    store: PathBuf,
    path: PathBuf,
    events: mpsc::Sender<Event>,
    mut stopping: watch::Receiver<bool>,
    _alone: SemaphorePermit<'static>,
) {
    let progress = events.clone();
    // Who reads slowly hears of it less often.
    let mut tell = |copied| drop(progress.try_send(Event::Progress(copied)));
    let made = tokio::select! {
        made = SqliteStore::back_up(&store, &path, Existing::Keep, &mut tell) => {
            made.map_err(ApiError::from)
        }
        () = stopped(&mut stopping) => Err(is_stopping()),
        () = events.closed() => return,
    };
    if let Ok(Backup { path, bytes, .. }) = &made {
        tracing::info!(path = %path.display(), bytes, "a backup was made");
    }
    // With nobody there any more the copy is whole all the same.
    let _ = events.send(Event::Ended(made)).await;
}

fn is_stopping() -> ApiError {
    let told = "the engine is about to end, so there is no backup; ask again once it runs";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", told)
}

impl From<CopyError> for ApiError {
    fn from(error: CopyError) -> ApiError {
        let told = error.to_string();
        match error {
            CopyError::Exists { .. } => ApiError::new(StatusCode::CONFLICT, "conflict", told),
            CopyError::Name { .. } | CopyError::NotClosed { .. } | CopyError::Unfit { .. } => {
                ApiError::invalid(told)
            }
            CopyError::NoRoom { .. } => {
                ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "resource_exhausted", told)
            }
            CopyError::Store(error) => AnswerError::Store(error).into(),
            CopyError::File { source, .. } => {
                let told = format!("{told}: {source}");
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "storage", told)
            }
        }
    }
}
