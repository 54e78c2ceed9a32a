//! What a backend must do, in the words that the engine and the commands use.

use std::sync::Arc;

use axwatch_model::{
    Ancestor, Asker, Attestation, AttestationId, BudgetRow, Counters, CursorNumber, CursorRow,
    HandlerChangeRow, HandlerName, HandlerRow, HandlerSpendRow, HoldRow, JobEntryRow, JobId,
    JobIdPrefix, JobNumber, JobRow, JobState, LaneKey, LeafNumber, OpenAsked, PassRow, Place,
    PluginName, PluginRow, RefusedRow, RevisionRow, RouteRow, ScheduleId, ScheduleRow,
    ScheduleRunRow, Seq, SpendRow, StoreId, Stored, Timestamp, WatcherNumber, WatcherRow,
};
use axwatch_query::{AliasChange, Aliases, Dimension, Filter, matches};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};

use crate::append::{Known, Removed};

/// The answer of a backend, some time later.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// All watchers by number, some at a time.
pub type WatcherPages<'a> = BoxStream<'a, Result<Vec<WatcherRow>, StoreError>>;

/// Watchers that are read at once where all of them are wanted.
const WATCHERS_PER_PAGE: usize = 2_000;

/// The watchers after a number, a page at a time.
pub(crate) fn watcher_pages_after(store: &dyn Store, after: WatcherNumber) -> WatcherPages<'_> {
    let page = move |after| async move {
        let rows = store.watchers_after(after, WATCHERS_PER_PAGE).await?;
        let last = rows.last().map(|row| row.number);
        Ok(last.map(|last| (rows, last)))
    };
    stream::try_unfold(after, page).boxed()
}

/// Why the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the store for writing.
    #[error("the store {path} is in use by {holder}")]
    InUse {
        /// The file.
        path: String,
        /// Who, as far as the lock file says: `process 4711`.
        holder: String,
    },
    /// A later axwatch made it.
    #[error(
        "the store {path} has schema {found}, and this axwatch knows only up to {known}; use the axwatch that made it, or a later one"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its schema version.
        found: i64,
        /// The latest that we know.
        known: i64,
    },
    /// Not a store of ours, or a damaged one.
    #[error("the store {path} cannot be read: {reason}")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A row that does not decode.
    #[error("row {row} of table {table} does not decode: {reason}")]
    Row {
        /// The table.
        table: &'static str,
        /// Its key: a number or a name, or a JSON array of those that it consists of.
        row: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It has an older schema, and is not brought to ours without a copy of it as it is.
    #[error(
        "the store {path} is to be brought to schema {wanted}, and a copy of it as it is cannot be kept, so nothing was changed"
    )]
    NotKept {
        /// The file.
        path: String,
        /// The schema that it would get.
        wanted: i64,
        /// Why there is no copy.
        source: Box<crate::CopyError>,
    },
    /// The file or its folder cannot be opened, made or locked.
    #[error("cannot open the store {path}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The database did not do what it was asked.
    #[error("cannot {step}")]
    Database {
        /// What it was asked: `commit a batch`, `read attestations`.
        step: &'static str,
        /// Why it did not.
        source: sqlx::Error,
    },
}

impl From<axwatch_failpoints::Injected> for StoreError {
    fn from(injected: axwatch_failpoints::Injected) -> StoreError {
        let source = std::io::Error::from(injected).into();
        StoreError::Database { step: "pass a failpoint", source }
    }
}

/// What is known of a store when it has been opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Which store this is.
    pub store_id: StoreId,
    /// The schema that it has; 0 where there is none.
    pub schema: i64,
    /// How often it has been opened for writing, this time counted. Read-only: the last one's.
    pub epoch: u64,
    /// The last attestation's number; 0 in an empty log.
    pub head: Seq,
    /// How far the log has been matched against the watchers.
    pub matched_seq: Seq,
    /// How far what claims say of stored handlers was heeded, where that is further.
    pub heeded_seq: Seq,
    /// The last job's number; 0 without any.
    pub last_job: JobNumber,
    /// No fire below this number is open. Jobs that were asked for may be.
    pub open_jobs_from: JobNumber,
    /// The highest number that a watcher ever had; 0 without any.
    pub last_watcher: WatcherNumber,
    /// Records in the audit.
    pub audit_size: u64,
    /// Audit records whose effect the stored counters of watchers already hold.
    pub counters_upto: LeafNumber,
}

/// One commit of the audit: its records, and the nodes of the Merkle tree that they completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// The number of its first record.
    pub first_leaf: LeafNumber,
    /// How many records.
    pub count: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// The records, one canonical JSON object a line, without a line end after the last.
    pub records: Arc<str>,
    /// The nodes that these records completed, 32 bytes each, in the order in which they were.
    pub nodes: Arc<[u8]>,
    /// The root over all records up to the last of this row.
    pub head: [u8; 32],
}

/// Withdraws the jobs of a watcher that wait: those that are queued, and those that somebody paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CancelQueued {
    /// Whose jobs.
    pub watcher: WatcherNumber,
    /// None of them has a lower number.
    pub from: JobNumber,
    /// Only those of this generation; `None` is all.
    pub generation: Option<u32>,
    /// When.
    pub at: Timestamp,
    /// What their `error` then says.
    pub reason: String,
}

/// Withdraws one job that waits, queued or paused. Of any other it changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// Which.
    pub number: JobNumber,
    /// The record that tells of it, to be added to those of the job.
    pub leaf: LeafNumber,
    /// When.
    pub at: Timestamp,
    /// What its `error` then says.
    pub reason: String,
}

/// Everything that one commit writes. Empty parts write nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// New claims: numbered from the head on, without a gap. What they change of the aliases is written
    /// with them.
    pub attestations: Vec<Arc<Stored>>,
    /// Withdrawn before `jobs` are written.
    pub cancelled: Vec<CancelQueued>,
    /// Withdrawn without their rows being known; none of them is among `jobs`.
    pub withdrawn: Vec<Withdrawn>,
    /// New jobs, and the present row of changed ones; at most one row a number. Neither the id of a job
    /// nor the claim that caused it ever changes, and neither who asked for it. A row without a payload
    /// leaves the one that the job has.
    pub jobs: Vec<JobRow>,
    /// New log entries of jobs; at most one row each.
    pub entries: Vec<JobEntryRow>,
    /// New watchers, and the present row of changed ones; at most one row a number.
    pub watchers: Vec<WatcherRow>,
    /// New revisions of watchers; at most one row each.
    pub revisions: Vec<RevisionRow>,
    /// Revisions of watchers that ended, with the last claim that they were asked about.
    pub retired: Vec<(WatcherNumber, u64, Seq)>,
    /// New passes, and the present row of changed ones; at most one row each.
    pub passes: Vec<PassRow>,
    /// Passes that are forgotten, by watcher and generation.
    pub passes_gone: Vec<(WatcherNumber, u32)>,
    /// New cursors, and where moved ones are now; at most one row each.
    pub cursors: Vec<CursorRow>,
    /// Cursors that nobody is on any more.
    pub cursors_gone: Vec<CursorNumber>,
    /// New holds, and the present row of changed ones; at most one row each.
    pub holds: Vec<HoldRow>,
    /// For each plugin named, all the handlers that it now has.
    pub handlers: Vec<(PluginName, Vec<HandlerName>)>,
    /// What claims changed of stored handlers; at most one row a claim.
    pub handler_changes: Vec<HandlerChangeRow>,
    /// The present row of plugins that came up, or of which something else changed.
    pub plugins: Vec<PluginRow>,
    /// New schedules, and the present row of changed ones; at most one row each.
    pub schedules: Vec<ScheduleRow>,
    /// What became of nominal times of schedules, in the order in which it was decided.
    pub runs: Vec<ScheduleRunRow>,
    /// Schedules whose history loses what is older than a moment, but for its last [`RUNS_KEPT`] rows; at
    /// most [`ROWS_FORGOTTEN_MAX`] rows of each.
    pub runs_before: Vec<(ScheduleId, Timestamp)>,
    /// The present row of budgets that were set; at most one row each.
    pub budgets: Vec<BudgetRow>,
    /// The present row of minutes in which handlers did something; at most one row each.
    pub spends: Vec<SpendRow>,
    /// The minutes before this one are forgotten, at most [`ROWS_FORGOTTEN_MAX`] rows of them.
    pub spends_from: Option<i64>,
    /// The present row of handlers whose dearest run is another; at most one row each.
    pub handler_spends: Vec<HandlerSpendRow>,
    /// For each plugin named, all its routes; none twice.
    pub routes: Vec<(PluginName, Vec<RouteRow>)>,
    /// For each plugin named, what of its last announcement was not taken.
    pub refused: Vec<(PluginName, Vec<RefusedRow>)>,
    /// The audit of this commit.
    pub audit: Option<AuditRow>,
    /// How far the log has now been matched.
    pub matched_seq: Option<Seq>,
    /// How far what claims say of stored handlers has now been heeded, when that is further.
    pub heeded_seq: Option<Seq>,
    /// No fire below this number is open any more.
    pub open_jobs_from: Option<JobNumber>,
    /// Counters of watchers, with the number of audit records that they hold the effect of.
    pub counters: Option<(LeafNumber, Vec<(WatcherNumber, Counters)>)>,
    /// What retention takes away: as [`StoreWriter::removable`] found it, with no commit between.
    pub removal: Option<Removal>,
    /// The audit tells of the rows in quarantine up to this number.
    pub quarantine_told: Option<u64>,
}

/// Numbers of jobs that one page of a search goes over: some ten milliseconds.
pub const JOBS_LOOKED_AT: u64 = 10_000;

/// Rows of the history of a schedule that stay however old they are.
pub const RUNS_KEPT: u32 = 1_000;

/// Rows of a history that one commit forgets: some milliseconds.
pub const ROWS_FORGOTTEN_MAX: u32 = 1_000;

/// What retention may take away. It works through the store slice by slice, each a commit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Only claims appended and jobs ended before this moment.
    pub before: Timestamp,
    /// The lowest position: only claims up to this one, which are behind whoever goes over the log.
    pub below: Seq,
    /// Where the next slice begins.
    pub from: RetentionPlace,
    /// Nothing is taken away, and what is asked for is only counted: jobs that are old enough need their claims no more.
    /// (Those that stay because of what is below them count as gone then.)
    pub dry_run: bool,
}

/// How far retention has come: first the jobs, each with its log entries and after all its children, then the claims that no job needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionPlace {
    /// The jobs before this one, the latest first, and then all claims.
    Jobs(JobNumber),
    /// The claims after this one.
    Claims(Seq),
}

impl Default for RetentionPlace {
    fn default() -> RetentionPlace {
        RetentionPlace::Jobs(JobNumber(u64::MAX))
    }
}

/// A slice of what retention takes away.
#[derive(Debug, Clone, Default)]
pub struct Removal {
    /// The claims, oldest first. Of each, id, number and a hash of its content stay.
    pub claims: Vec<Stored>,
    /// The jobs, by number. Their log entries go with them.
    pub jobs: Vec<(JobNumber, JobId, Option<Seq>)>,
    /// Where the next slice begins; `None` when this is the last one. A slice may be empty and not the
    /// last.
    pub next: Option<RetentionPlace>,
}

/// A row that did not decode and was put aside as it was, so that the rest goes on without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Rising, in the order in which they were put aside.
    pub number: u64,
    /// The table that it was in.
    pub table: String,
    /// Its key there: a number or a name, or a JSON array of those that it consists of.
    pub row: String,
    /// Why it did not decode.
    pub reason: String,
    /// What is kept of it: a JSON object of its columns.
    pub content: String,
}

/// A search for attestations, newest first.
#[derive(Debug, Clone)]
pub struct Question {
    /// What must hold.
    pub filter: Filter,
    /// The words that are one to it.
    pub aliases: Arc<Aliases>,
    /// Only those before this number; `None` begins at the head.
    pub before: Option<Seq>,
    /// How many at most in one answer.
    pub limit: usize,
}

impl Question {
    /// Whether a claim belongs to the answer.
    pub(crate) fn holds_for(&self, attestation: &Attestation) -> bool {
        // A question's times are fixed already, so any now will do.
        matches(&self.filter, attestation, &self.aliases)
    }
}

/// An answer to a [`Question`].
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The attestations, newest first.
    pub rows: Vec<Stored>,
    /// Where the next page begins (its `before`); `None` at the end. A page that has read its share may
    /// have room left and a next page all the same.
    pub next: Option<Seq>,
    /// Rows that were read and asked, those that did not match counted.
    pub rows_read: u64,
    /// The dimensions whose terms led to them, that with the rarest terms first; empty where the log
    /// itself was read.
    pub walked: Vec<Dimension>,
}

impl Page {
    /// Where the next page begins when this one is full.
    pub(crate) fn next_after_last(&self) -> Option<Seq> {
        let last = self.rows.last()?.seq;
        (last > Seq(1)).then_some(last)
    }
}

/// Bytes of texts after which a page is full: claims may have a megabyte each, and pages wait in memory for
/// whoever reads them.
pub(crate) const PAGE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of texts after which no more of the log is read at once.
pub(crate) const SEGMENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How full a page is.
pub(crate) struct PageWeight {
    rows_left: usize,
    bytes: usize,
}

impl PageWeight {
    /// A page with room for so many rows.
    pub(crate) fn new(rows_max: usize) -> PageWeight {
        PageWeight { rows_left: rows_max, bytes: 0 }
    }

    pub(crate) fn add(&mut self, row: &Stored) {
        self.rows_left = self.rows_left.saturating_sub(1);
        self.bytes += row.attestation.text_bytes();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.rows_left == 0 || self.bytes > PAGE_BYTES_MAX
    }
}

/// Queued jobs of one lane that are not in memory.
#[derive(Debug, Clone)]
pub struct LaneQuery {
    /// The lane.
    pub lane: LaneKey,
    /// None of them has a place before this one.
    pub from: Place,
    /// Only jobs due by then.
    pub due_by: Timestamp,
    /// How many at most.
    pub limit: usize,
}

/// A search for jobs, newest first.
#[derive(Debug, Clone, Default)]
pub struct JobsQuery {
    /// Only those before this number.
    pub before: Option<JobNumber>,
    /// Only those after this number.
    pub after: Option<JobNumber>,
    /// Only in one of these states, as rows have them; empty is any.
    pub states: Vec<JobState>,
    /// Only fires of this watcher.
    pub watcher: Option<WatcherNumber>,
    /// Only fires, of any watcher.
    pub fires_only: bool,
    /// Only those of handlers with this bare name.
    pub handler: Option<HandlerName>,
    /// Only those of handlers of this plugin.
    pub plugin: Option<PluginName>,
    /// Only those that are this plugin's own: its handlers answer for them, or it asked for them.
    pub own: Option<PluginName>,
    /// Only those that this one asked for.
    pub asker: Option<Asker>,
    /// Only those with this source.
    pub source: Option<Arc<str>>,
    /// Only the children of this job.
    pub parent: Option<JobNumber>,
    /// Only runs of this schedule.
    pub schedule: Option<ScheduleId>,
    /// Without payloads and results, which may be large: rows for showing, not to be written again.
    pub bare: bool,
    /// How many at most.
    pub limit: usize,
}

impl JobsQuery {
    /// The newest job for which that part of this holds which an index tells.
    fn newest_in_index(&self) -> JobsQuery {
        let are_open = !self.states.is_empty() && self.states.iter().all(|state| state.is_open());
        let is_told = match self.states[..] {
            _ if self.parent.is_some() || self.schedule.is_some() => false,
            [state] => state != JobState::Completed,
            _ => are_open,
        };
        JobsQuery {
            before: self.before,
            after: self.after,
            states: if is_told { self.states.clone() } else { Vec::new() },
            parent: self.parent,
            schedule: self.schedule,
            bare: true,
            limit: 1,
            ..JobsQuery::default()
        }
    }
}

/// How many jobs are in each state, as rows have it: one that is shown as paused because something holds
/// it back is queued here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobCounts {
    /// Wait for their turn, or for their next attempt.
    pub queued: u64,
    /// An attempt is under way.
    pub running: u64,
    /// Wait until they are resumed.
    pub paused: u64,
    /// Done.
    pub completed: u64,
    /// Dead letters.
    pub failed: u64,
    /// Withdrawn.
    pub cancelled: u64,
}

/// The first of what was found, and how many there are.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted<T> {
    /// As many as were asked for.
    pub first: Vec<T>,
    /// All, those counted.
    pub all: u64,
}

/// Space where the store lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that we may still write.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
    /// Bytes that wait in the write-ahead log and may still be added to the main file.
    pub wal_bytes: u64,
}

/// The reading side. Every answer is one consistent snapshot, taken after the call began.
///
/// A row that does not decode is left out of the answer, with a warning, and its writer puts it aside
/// later ([`StoreWriter::quarantined`]). Only the audit is never answered without one of its rows: that
/// is [`StoreError::Row`].
pub trait Store: Send + Sync {
    /// What was known when it was opened.
    fn opened(&self) -> &Opened;

    /// The attestation with this id.
    fn get<'a>(&'a self, id: &'a AttestationId) -> StoreFuture<'a, Option<Stored>>;

    /// The attestations with these numbers, in the order of the numbers; unknown ones are left out.
    fn by_seqs<'a>(&'a self, seqs: &'a [Seq]) -> StoreFuture<'a, Vec<Stored>>;

    /// Whether an attestation has this id.
    fn exists<'a>(&'a self, id: &'a AttestationId) -> StoreFuture<'a, bool>;

    /// What stays of the attestation with this id, when it is not there any more or does not decode.
    fn removed<'a>(&'a self, id: &'a AttestationId) -> StoreFuture<'a, Option<Removed>>;

    /// How many rows were put aside because they do not decode.
    fn quarantine_count(&self) -> StoreFuture<'_, u64>;

    /// A generation that no watcher had whose row was put aside: where a watcher begins that nobody
    /// knows, as it may be one of them. 0 when there are none.
    fn generation_floor(&self) -> StoreFuture<'_, u32>;

    /// The number of the last attestation.
    fn head(&self) -> StoreFuture<'_, Seq>;

    /// The log after `after`, oldest first, `seq` rising and perhaps with gaps: up to `limit` rows, and fewer
    /// when they have more than 4 MiB of texts; empty means the end.
    fn read_after(&self, after: Seq, limit: usize) -> StoreFuture<'_, Vec<Stored>>;

    /// What people changed of the aliases after `after`, with the numbers of the claims that say so,
    /// oldest first.
    fn alias_changes(&self, after: Seq) -> StoreFuture<'_, Vec<(Seq, AliasChange)>>;

    /// The number of the first claim whose `created_at` is not before `at`; `None` when all are. The
    /// clock may have been set back, so that later ones may be before it. Reads the log up to there.
    fn first_since(&self, at: Timestamp) -> StoreFuture<'_, Option<Seq>>;

    /// One page of a search, newest first by number. A filter that names terms does not scan the log.
    fn query<'a>(&'a self, question: &'a Question) -> StoreFuture<'a, Page>;

    /// The attestations made on behalf of this job, the oldest `limit`, oldest first.
    fn made_by(&self, job: JobId, limit: usize) -> StoreFuture<'_, Counted<Stored>>;

    /// All watchers, retired ones included, by number.
    fn watchers(&self) -> StoreFuture<'_, Vec<WatcherRow>> {
        self.watchers_after(WatcherNumber(0), usize::MAX)
    }

    /// The same a page at a time, read ahead of whoever takes them.
    fn watcher_pages(&self) -> WatcherPages<'_>;

    /// The watchers after this number, retired ones included, by number, up to `limit`.
    fn watchers_after(
        &self,
        after: WatcherNumber,
        limit: usize,
    ) -> StoreFuture<'_, Vec<WatcherRow>>;

    /// The revisions of a watcher, by number.
    fn revisions(&self, watcher: WatcherNumber) -> StoreFuture<'_, Vec<RevisionRow>> {
        self.revisions_between(watcher, watcher)
    }

    /// The revisions of all watchers from `first` to `last`, by watcher and number.
    fn revisions_between(
        &self,
        first: WatcherNumber,
        last: WatcherNumber,
    ) -> StoreFuture<'_, Vec<RevisionRow>>;

    /// The passes that have not come to their end, and how far each is: the claims up to there are
    /// behind it. By watcher and generation.
    fn passes(&self) -> StoreFuture<'_, Vec<(PassRow, Seq)>>;

    /// All passes of a watcher, by generation, and how far those are that have not ended.
    fn passes_of(&self, watcher: WatcherNumber) -> StoreFuture<'_, Vec<(PassRow, Option<Seq>)>>;

    /// The holds that a start needs, by watcher and number: those that have not ended, those whose jobs
    /// are let go, and the last of each watcher.
    fn holds(&self) -> StoreFuture<'_, Vec<HoldRow>>;

    /// All holds of a watcher, by number.
    fn holds_of(&self, watcher: WatcherNumber) -> StoreFuture<'_, Vec<HoldRow>>;

    /// The stored counters of watchers.
    fn counters(&self) -> StoreFuture<'_, Vec<(WatcherNumber, Counters)>>;

    /// All announced handlers, by plugin and name.
    fn handlers(&self) -> StoreFuture<'_, Vec<HandlerRow>>;

    /// The latest change of every handler that was ever stored, removed ones too, by plugin and name.
    fn stored_handlers(&self) -> StoreFuture<'_, Vec<HandlerChangeRow>>;

    /// What claims changed of one stored handler, the latest first: up to `limit` of those before `before`.
    fn handler_changes<'a>(
        &'a self,
        plugin: &'a PluginName,
        name: &'a HandlerName,
        before: Option<Seq>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<HandlerChangeRow>>;

    /// All plugins that were ever up or disabled, by name.
    fn plugins(&self) -> StoreFuture<'_, Vec<PluginRow>>;

    /// All schedules, retired ones included, by owner and name.
    fn schedules(&self) -> StoreFuture<'_, Vec<ScheduleRow>>;

    /// What became of the nominal times of a schedule, the latest first, each with its number in the
    /// history of all; only those with a number below `before`, up to `limit`.
    fn schedule_runs(
        &self,
        schedule: ScheduleId,
        before: Option<u64>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(u64, ScheduleRunRow)>>;

    /// All budgets that were ever set with a command, by scope.
    fn budgets(&self) -> StoreFuture<'_, Vec<BudgetRow>>;

    /// What handlers did from this minute on, by minute, plugin and handler.
    fn spends(&self, from: i64) -> StoreFuture<'_, Vec<SpendRow>>;

    /// What is known of the cost of handlers, by plugin and handler.
    fn handler_spends(&self) -> StoreFuture<'_, Vec<HandlerSpendRow>>;

    /// The routes of all plugins, by plugin, method and path.
    fn routes(&self) -> StoreFuture<'_, Vec<(PluginName, RouteRow)>>;

    /// What of the last announcements was not taken, by plugin, each in its order.
    fn refused(&self) -> StoreFuture<'_, Vec<(PluginName, Vec<RefusedRow>)>>;

    /// The job with this id.
    fn job(&self, id: JobId) -> StoreFuture<'_, Option<JobRow>>;

    /// The job with this id as it is read to be changed: without its payload, which stays as it is when the
    /// row is written.
    fn job_to_change(&self, id: JobId) -> StoreFuture<'_, Option<JobRow>>;

    /// The payload that a job was given; `None` of one that was given none.
    fn payload(&self, job: JobNumber) -> StoreFuture<'_, Option<Arc<[u8]>>>;

    /// Some jobs whose id begins so, at most `limit`, by id.
    fn jobs_beginning<'a>(
        &'a self,
        prefix: &'a JobIdPrefix,
        limit: usize,
    ) -> StoreFuture<'a, Vec<JobRow>>;

    /// The jobs that this claim caused, the first `limit`, by number.
    fn jobs_of(&self, seq: Seq, limit: usize) -> StoreFuture<'_, Counted<JobRow>>;

    /// How many jobs are in each state. Reads those that ended badly and those that were asked for and are
    /// open, in indexes, and the rows from the oldest open fire on; those that ended well before it are
    /// not touched.
    fn job_counts(&self) -> StoreFuture<'_, JobCounts>;

    /// Open jobs (queued, running or paused) after this number, by number, up to `limit`.
    fn open_jobs(&self, after: JobNumber, limit: usize) -> StoreFuture<'_, Vec<JobRow>>;

    /// Those of them that are fires, to be changed.
    fn open_fires(&self, after: JobNumber, limit: usize) -> StoreFuture<'_, Vec<JobRow>>;

    /// Those of them that were asked for, without what they carry.
    fn open_asked(&self, after: JobNumber, limit: usize) -> StoreFuture<'_, Vec<OpenAsked>>;

    /// The jobs that have ended and have open descendants, by number. A chain ends where a row is gone.
    fn open_ancestors(&self) -> StoreFuture<'_, Vec<Ancestor>>;

    /// The jobs above this one, the nearest first: its parent, that one's parent and so on, as far as the
    /// rows are there and at most [`axwatch_model::bounds::KIN_DEPTH_MAX`]. Without payloads and results.
    fn above(&self, job: JobNumber) -> StoreFuture<'_, Vec<JobRow>>;

    /// The children of a job, the first `limit`, by number. Without payloads and results.
    fn children(&self, parent: JobNumber, limit: usize) -> StoreFuture<'_, Counted<JobRow>>;

    /// The log entries of a job after this one, by number, up to `limit`.
    fn entries(
        &self,
        job: JobNumber,
        after: u32,
        limit: usize,
    ) -> StoreFuture<'_, Vec<JobEntryRow>>;

    /// Queued jobs of one lane, by place, to be changed: without their payloads.
    fn lane_jobs<'a>(&'a self, query: &'a LaneQuery) -> StoreFuture<'a, Vec<JobRow>>;

    /// How many queued jobs of a lane have a place from `from` on and before `of`; each of them is looked
    /// at.
    fn ahead<'a>(&'a self, lane: &'a LaneKey, from: Place, of: Place) -> StoreFuture<'a, u64>;

    /// A search for jobs, newest first.
    fn jobs<'a>(&'a self, query: &'a JobsQuery) -> StoreFuture<'a, Vec<JobRow>>;

    /// The same, a page at a time, where few of many jobs may be meant: looks at [`JOBS_LOOKED_AT`] numbers at most,
    /// from the newest on that an index leads to. With the rows, of which there may be none, comes where the next
    /// page begins (its `before`); `None` at the end.
    fn jobs_page<'a>(
        &'a self,
        query: &'a JobsQuery,
    ) -> StoreFuture<'a, (Vec<JobRow>, Option<JobNumber>)> {
        Box::pin(async move {
            let Some(newest) = self.jobs(&query.newest_in_index()).await?.pop() else {
                return Ok((Vec::new(), None));
            };
            let newest = newest.number;
            let after = query.after.unwrap_or_default();
            let before_page = JobNumber(newest.0.saturating_sub(JOBS_LOOKED_AT)).max(after);
            let page = JobsQuery {
                before: Some(newest.next()),
                after: Some(before_page),
                ..query.clone()
            };
            let rows = self.jobs(&page).await?;
            let is_full = rows.len() >= query.limit;
            let last = rows.last().map(|row| row.number).filter(|_| is_full);
            let is_end = before_page == after;
            Ok((rows, last.or((!is_end).then(|| before_page.next()))))
        })
    }

    /// Rows of the audit that hold records from `from` on, in order, up to `limit` rows. The first
    /// may begin before `from`.
    fn audit_after(&self, from: LeafNumber, limit: usize) -> StoreFuture<'_, Vec<AuditRow>>;

    /// The row of the audit that holds this record.
    fn audit_row(&self, leaf: LeafNumber) -> StoreFuture<'_, Option<AuditRow>>;

    /// The last row of the audit.
    fn audit_last(&self) -> StoreFuture<'_, Option<AuditRow>>;

    /// How many records the audit had at its last commit, and the root over them; `None` before the
    /// first. Kept apart from the audit's rows, so that it tells when some of these are gone.
    fn audit_head(&self) -> StoreFuture<'_, Option<(u64, [u8; 32])>>;

    /// Looks through the whole store for damage, and says what it found first. Takes as long as
    /// reading all of it does.
    fn find_damage(&self) -> StoreFuture<'_, Option<String>>;
}

/// The writing side: one at a time, over all processes.
pub trait StoreWriter: Send {
    /// The reading side of the same store.
    fn reader(&self) -> Arc<dyn Store>;

    /// For each id, what the log holds under it, or held.
    fn known<'a>(&'a mut self, ids: &'a [AttestationId]) -> StoreFuture<'a, Vec<Option<Known>>>;

    /// Writes a batch: when this answers, it is on the disk whole; after an error or a crash, whole or
    /// not at all.
    fn commit<'a>(&'a mut self, batch: &'a Batch) -> StoreFuture<'a, ()>;

    /// Does a bounded piece of the work that commits left for later (a slice of derived rows), in a
    /// commit of its own. Answers whether more is left.
    fn tidy(&mut self) -> StoreFuture<'_, bool>;

    /// The next slice of what retention may take away. Claims stay that a job needs which stays, that
    /// change aliases or stored handlers, and the last of the log; jobs stay that are open or dead letters, or have children
    /// that are still there. It may first do a piece of what [`StoreWriter::tidy`] does, and then finds nothing yet.
    fn removable<'a>(&'a mut self, retention: &'a Retention) -> StoreFuture<'a, Removal>;

    /// Puts aside the rows that readers beside this writer found not to decode, in a commit of its own,
    /// and answers all that the audit does not tell of yet ([`Batch::quarantine_told`]), by number.
    fn quarantined(&mut self, now: Timestamp) -> StoreFuture<'_, Vec<Quarantined>>;

    /// Space where the store lies.
    fn room(&self) -> std::io::Result<Room>;

    /// Finishes all that was left for later and lets go of the store.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>>;
}
