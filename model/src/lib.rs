//! The words of axwatch: what a claim is, what a watcher is, what a job is, and how time is told.
//!
//! Everything here is plain data with its rules: no I/O, no clock of its own, no randomness, and no
//! other crate of ours. A value that exists has been checked; the checks sit where values are made.
//!
//! Not here: what a query means (`axwatch-query`), how rows are kept (`axwatch-ats`), what follows
//! from a claim (`axwatch-core`).

mod attestation;
mod attributes;
pub mod bounds;
mod budget;
mod draft;
mod handler;
mod ids;
mod job;
mod registry;
mod schedule;
mod time;
mod watcher;

pub use attestation::{Attestation, Lineage, LineageKind, Stored};
pub use attributes::{Attributes, InvalidAttributes};
pub use budget::{
    BudgetRow, BudgetScope, HandlerSpendRow, SpendRow, amount_of_nanos, nanos_of_amount,
};
pub use draft::{DefaultActor, Defaults, Draft, DraftJson, Filled, Incoming, InvalidDraft};
pub use handler::{
    FAULTED, HANDLER, HandlerChangeKind, HandlerChangeRow, REMOVED, StoredHandler,
    StoredHandlerState, is_built_in,
};
pub use ids::{
    Asker, AttestationId, HandlerName, InvalidId, JobId, JobIdPrefix, JobNumber, LaneKey,
    LeafNumber, LocalId, Owner, PluginName, ScheduleId, Seq, StoreId, WatcherKey, WatcherNumber,
};
pub use job::{
    Ancestor, Asked, InvalidState, JobEntryRow, JobOrigin, JobRow, JobState, OpenAsked, Parent,
    Place, ScheduleRun,
};
pub use registry::{Announced, HandlerRow, PluginRow, RefusedRow, RouteRow};
pub use schedule::{Grid, Missed, Overlap, RunOutcome, ScheduleRow, ScheduleRunRow, ScheduleState};
pub use time::{Clock, InvalidTimestamp, ManualClock, Mono, Now, SystemClock, Timestamp};
pub use watcher::{
    Counters, CursorNumber, CursorRow, Declared, HandlerRef, HoldRow, PassRow, RevisionRow,
    StructuralFilter, WatcherRow, WatcherState,
};
