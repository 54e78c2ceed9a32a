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
mod draft;
mod ids;
mod job;
mod registry;
mod time;
mod watcher;

pub use attestation::{Attestation, Lineage, LineageKind, Stored};
pub use attributes::{Attributes, InvalidAttributes};
pub use draft::{DefaultActor, Defaults, Draft, DraftJson, Filled, Incoming, InvalidDraft};
pub use ids::{
    AttestationId, HandlerName, InvalidId, JobId, JobIdPrefix, JobNumber, LaneKey, LeafNumber,
    LocalId, Owner, PluginName, Seq, StoreId, WatcherKey, WatcherNumber,
};
pub use job::{InvalidState, JobOrigin, JobRow, JobState};
pub use registry::{Announced, HandlerRow, PluginRow, RefusedRow, RouteRow, ScheduleRow};
pub use time::{Clock, InvalidTimestamp, ManualClock, Mono, Now, SystemClock, Timestamp};
pub use watcher::{
    Counters, CursorNumber, CursorRow, Declared, HandlerRef, HoldRow, PassRow, RevisionRow,
    StructuralFilter, WatcherRow, WatcherState,
};
