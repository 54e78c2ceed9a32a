//! The store in one SQLite file.
//!
//! `lock` lets one writer in; `open` looks at the file before touching it, and brings it to the present
//! schema; `older` lets one that nobody has brought there be read all the same.
//! `writer` is the one connection that writes; `derive` keeps the tail and the derived tables;
//! `reader` answers questions, `search` those about terms, with `times` about blocks of the log, `bulk` all watchers at once;
//! `checkpoint` moves the write-ahead log into the main file beside the writer. `rows` is how our types become columns, `connect` how every
//! connection is set. `quarantine` puts rows aside that do not decode, `retain` takes old ones away, `doctor` looks through all of it. `backup` makes copies of a store, `restore` puts one in a store's place.
//!
//! What survives a crash is what SQLite has committed: the log, the jobs, the audit, meta. The tail is
//! made again from these.

mod backup;
mod bulk;
mod checkpoint;
mod connect;
mod derive;
mod doctor;
mod lock;
mod older;
mod open;
mod quarantine;
mod reader;
mod restore;
mod retain;
mod rows;
mod search;
#[cfg(test)]
pub(crate) mod tests;
mod times;
mod trip;
mod writer;

use std::path::Path;
use std::sync::Arc;

use axwatch_model::Timestamp;

pub use backup::{Backup, Contents, CopyError, CopyProgress, Existing, OnProgress};
pub use doctor::{Examined, Finding, FindingKind, Repaired};
pub use restore::{Restored, Restoring};

use crate::store::{Store, StoreError, StoreWriter};
use crate::tail::TailBounds;

/// The store in one SQLite file, with its write-ahead log and a lock file beside it.
#[derive(Debug)]
pub enum SqliteStore {}

impl SqliteStore {
    /// Opens the store for writing, and makes it, with its folder, where there is none.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it, [`StoreError::Newer`] and
    /// [`StoreError::Corrupt`] for a file that is not touched, [`StoreError::Open`] when files cannot
    /// be made or locked.
    pub async fn open_writer(path: &Path) -> Result<Box<dyn StoreWriter>, StoreError> {
        Ok(Box::new(writer::SqliteWriter::open(path, TailBounds::default()).await?))
    }

    /// Opens a store for reading, whether or not somebody writes to it meanwhile: every answer holds
    /// all that was committed before the question.
    ///
    /// # Errors
    /// As [`SqliteStore::open_writer`], but for the lock, which readers do not need.
    pub async fn open_reader(path: &Path) -> Result<Arc<dyn Store>, StoreError> {
        Ok(Arc::new(reader::SqliteReader::open(path).await?))
    }

    /// Looks through a store for all that may be wrong with it; it may be in use, and is not changed.
    /// Takes as long as reading all of it some times, and holds one snapshot meanwhile.
    ///
    /// # Errors
    /// As [`SqliteStore::open_reader`]; what is found inside is no error.
    pub async fn examine(path: &Path) -> Result<Examined, StoreError> {
        doctor::examine(path).await
    }

    /// Mends what can be mended of a store that nobody else writes to. What the audit has to say of rows
    /// that were put aside, the next engine lets it say ([`StoreWriter::quarantined`]).
    ///
    /// # Errors
    /// As [`SqliteStore::open_writer`].
    pub async fn repair(path: &Path, now: Timestamp) -> Result<Repaired, StoreError> {
        doctor::repair(path, now).await
    }

    /// Copies a store, in use or not, into one file of its own, with all that was committed when this was
    /// called. `on_progress` is told how far it is. Dropped on the way, it leaves nothing.
    ///
    /// # Errors
    /// [`CopyError`]; nothing then has the name `to` that had not before.
    pub async fn back_up(
        store: &Path,
        to: &Path,
        existing: Existing,
        on_progress: OnProgress<'_>,
    ) -> Result<Backup, CopyError> {
        backup::copy_store(store, to, existing, on_progress).await
    }

    /// Begins to put a copy of a store in the place `to`: copies it beside that place, and holds off every
    /// process that would write there. The caller then looks through it and puts it in force.
    ///
    /// # Errors
    /// [`CopyError`]: what is there already, unless it may be replaced, and whoever has it open; a file
    /// that is no copy, or not a whole one. Nothing was changed then.
    pub async fn restore(
        from: &Path,
        to: &Path,
        existing: Existing,
        on_progress: OnProgress<'_>,
    ) -> Result<Restoring, CopyError> {
        restore::begin(from, to, existing, on_progress).await
    }
}

/// The text of a failure that the database reports.
fn failed(step: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Database { step, source }
}

/// A failpoint whose error is one of the database's.
fn failpoint(point: axwatch_failpoints::Point) -> Result<(), sqlx::Error> {
    axwatch_failpoints::hit(point).map_err(|injected| std::io::Error::from(injected).into())
}
