//! The store: the log of attestations, the jobs they caused, the watchers, and the audit.
//!
//! [`Store`] reads and may be shared freely; [`StoreWriter`] is the one hand that writes, and takes
//! whole [`Batch`]es, each of which is there entirely or not at all after a crash. Two backends,
//! SQLite and memory, pass one conformance suite.
//!
//! A live commit touches only tables keyed by a rising number. What is found by a term or by a
//! random id lies in derived tables, written later in sorted slices; until then a tail in memory
//! answers for it, and at start the tail is made again from the log.
//!
//! Not here: what a filter means (`axwatch_query::eval`; SQL only narrows), what follows from a claim
//! (`axwatch_core`), when to commit (`axwatch_engine`).

mod aliases;
mod append;
#[cfg(test)]
mod conformance;
mod matches;
mod memory;
mod packed;
pub mod since;
mod sqlite;
mod store;
mod tail;

pub use aliases::{AliasBook, AliasesOnTheWay, aliases_before};
pub use append::{AppendConflict, Appended, Known, Plan, Removed, append, plan};
pub use matches::Matches;
pub use memory::MemoryStore;
pub use sqlite::{
    Backup, Contents, CopyError, CopyProgress, Examined, Existing, Finding, FindingKind,
    OnProgress, Repaired, Restored, Restoring, SqliteStore,
};
pub use store::{
    AuditRow, Batch, CancelQueued, Counted, JOBS_LOOKED_AT, JobCounts, JobsQuery, LaneQuery,
    Opened, Page, Quarantined, Question, ROWS_FORGOTTEN_MAX, RUNS_KEPT, Removal, Retention,
    RetentionPlace, Room, Store, StoreError, StoreFuture, StoreWriter, WatcherPages, Withdrawn,
};
