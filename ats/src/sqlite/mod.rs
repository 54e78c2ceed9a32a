//! The store in one SQLite file.
//!
//! `lock` lets one writer in; `open` looks at the file before touching it, and brings it to the present
//! schema.
//! `writer` is the one connection that writes; `derive` keeps the tail and the derived tables;
//! `reader` answers questions, `search` those about terms, with `times` about blocks of the log;
//! `checkpoint` moves the write-ahead log into the main file beside the writer. `rows` is how our types become columns, `connect` how every
//! connection is set.
//!
//! What survives a crash is what SQLite has committed: the log, the jobs, the audit, meta. The tail is
//! made again from these.

mod checkpoint;
mod connect;
mod derive;
mod lock;
mod open;
mod reader;
mod rows;
mod search;
#[cfg(test)]
pub(crate) mod tests;
mod times;
mod trip;
mod writer;

use std::path::Path;
use std::sync::Arc;

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
}

/// The text of a failure that the database reports.
fn failed(step: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Database { step, source }
}
