//! Moves the write-ahead log into the main file beside the writer, on a connection of its own.
//!
//! Such a checkpoint never waits for anybody and nobody waits for it. But while commits go on it never
//! quite catches up, and only then could the log begin anew; so when the log is long the writer itself
//! copies, between two commits, the little that is left. That is rare and bounded.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axwatch_failpoints::Point;
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::connect::write_options;
use super::trip::{WalFrames, wal_frames};
use super::{failed, failpoint};
use crate::store::StoreError;

/// Frames of 4 KiB that wait before the checkpointer begins: 8 MiB.
const BEGIN_FRAMES: u64 = 2_048;
/// From this length on the log should begin anew: 64 MiB.
const LONG_FRAMES: u64 = 16_384;
/// What the writer copies between two commits at most: 4 MiB. Past four times the length it copies all.
const CATCH_UP_FRAMES: u64 = 1_024;

/// The task that checkpoints. Ends when this is dropped.
pub(super) struct Checkpointer {
    wake: mpsc::Sender<()>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    running: AtomicBool,
    failure: Mutex<Option<sqlx::Error>>,
}

impl Checkpointer {
    pub async fn start(path: &Path) -> Result<Checkpointer, StoreError> {
        let connection =
            write_options(path).connect().await.map_err(failed("open the store once more"))?;
        let (wake, woken) = mpsc::channel(1);
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(connection, woken, shared.clone()));
        Ok(Checkpointer { wake, shared, task })
    }

    /// Looks at the log after a commit, and copies what is left when it is time to begin anew.
    ///
    /// # Errors
    /// What befell the task: the disk has failed, and the writer must not go on.
    pub async fn after_commit(
        &self,
        frames: WalFrames,
        writer: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        // Without it the log would grow for ever, and nobody would know.
        if self.task.is_finished() {
            return Err(sqlx::Error::WorkerCrashed);
        }
        let waiting = frames.waiting();
        let running = self.shared.running.load(Ordering::Acquire);
        let little = waiting > 0 && waiting <= CATCH_UP_FRAMES && !running;
        if frames.written >= LONG_FRAMES && (little || frames.written >= 4 * LONG_FRAMES) {
            copy(writer).await?;
        } else if waiting >= BEGIN_FRAMES {
            // Full means that it has been woken already.
            let _ = self.wake.try_send(());
        }
        Ok(())
    }

    /// Ends the task once it is done with what it does.
    pub async fn stop(self) -> Result<(), sqlx::Error> {
        drop(self.wake);
        let ended = self.task.await;
        let failure = self.shared.failure.lock().ok().and_then(|mut failure| failure.take());
        match (failure, ended) {
            (Some(error), _) => Err(error),
            (None, Err(_)) => Err(sqlx::Error::WorkerCrashed),
            (None, Ok(())) => Ok(()),
        }
    }

    fn failure(&self) -> Option<sqlx::Error> {
        self.shared.failure.lock().ok().and_then(|mut failure| failure.take())
    }
}

async fn run(mut connection: SqliteConnection, mut woken: mpsc::Receiver<()>, shared: Arc<Shared>) {
    while woken.recv().await.is_some() {
        shared.running.store(true, Ordering::Release);
        let outcome = copy(&mut connection).await;
        shared.running.store(false, Ordering::Release);
        if let Err(error) = outcome {
            *shared.failure.lock().expect("nobody panics while holding the failure") = Some(error);
            break;
        }
    }
    // Only reading could fail here, and nothing is read any more.
    let _ = connection.close().await;
}

/// Copies what may be copied without waiting for readers.
async fn copy(connection: &mut SqliteConnection) -> Result<WalFrames, sqlx::Error> {
    failpoint(Point::Checkpoint)?;
    let row = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(connection).await?;
    wal_frames(Some(&row))
}
