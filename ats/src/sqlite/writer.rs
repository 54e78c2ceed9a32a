//! The one connection that writes.
//!
//! A batch is one transaction. After a failure the writer takes nothing more, because nobody can say
//! what of it is on the disk: whoever holds it lets go and opens the store again.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axwatch_failpoints::Point;
use axwatch_model::{AttestationId, JobState, Seq, Stored, Timestamp};
use axwatch_query::AliasChange;
use futures::future::{BoxFuture, FutureExt, join};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::checkpoint::Checkpointer;
use super::derive::{Deriver, NextSlice, SharedTail, fill, finish, read_marks};
use super::lock::Lock;
use super::open::{Fresh, open_for_writing, refuse_past_the_end};
use super::quarantine::{Spoilt, put_noted_aside, read_quarantine};
use super::reader::{SqliteReader, fetch_by_seqs, fetch_removed, seqs_of_hashes};
use super::retain::{self, Thinned, thin_postings};
use super::trip::{Transaction, WalFrames};
use super::{failed, failpoint, rows};
use crate::append::Known;
use crate::store::{
    Batch, Quarantined, ROWS_FORGOTTEN_MAX, RUNS_KEPT, Removal, Retention, Room, Store, StoreError,
    StoreFuture, StoreWriter, Withdrawn,
};
use crate::tail::{Entries, Tail, TailBounds};

/// Bytes of a frame in the write-ahead log: a page and its header.
const FRAME_BYTES: u64 = 4_096 + 24;

/// Jobs that one statement withdraws.
const WITHDRAWN_AT_ONCE: usize = 1_000;

/// Small commits between two measures of the write-ahead log, which grows by a few pages with each.
const UNMEASURED_MAX: u32 = 16;

pub(super) struct SqliteWriter {
    connection: SqliteConnection,
    path: PathBuf,
    tail: SharedTail,
    deriver: Deriver,
    checkpointer: Checkpointer,
    reader: Arc<SqliteReader>,
    /// Rows that did not decode, here and in the reader.
    spoilt: Spoilt,
    /// There may be rows in quarantine that the audit does not tell of.
    untold: bool,
    wal: WalFrames,
    /// Small commits since the write-ahead log was last measured.
    unmeasured: u32,
    /// A commit has begun and has not come to its end.
    unsure: bool,
    /// Held for life.
    _lock: Lock,
}

impl SqliteWriter {
    pub async fn open(path: &Path, bounds: TailBounds) -> Result<SqliteWriter, StoreError> {
        // The lock first, so that after a failure it goes last.
        let Fresh { lock, path, mut connection, opened, derivation } =
            open_for_writing(path).await?;
        refuse_past_the_end(&path, &opened, &derivation)?;
        let tail = SharedTail::new(Tail::new(derivation.derived));
        let spoilt = Spoilt::default();
        if derivation.deriving.seq > derivation.derived.seq
            || derivation.deriving.job > derivation.derived.job
        {
            fill(&mut connection, &tail, &spoilt, derivation.deriving).await?;
            tail.write().freeze();
        }
        let (head, _) = read_marks(&mut connection).await?;
        fill(&mut connection, &tail, &spoilt, head).await?;
        let checkpointer = Checkpointer::start(&path).await?;
        let reader = SqliteReader::beside_writer(&path, tail.clone(), spoilt.clone(), opened);
        Ok(SqliteWriter {
            connection,
            deriver: Deriver::new(tail.clone(), bounds),
            path,
            tail,
            checkpointer,
            reader: Arc::new(reader),
            spoilt,
            untold: true,
            wal: WalFrames::default(),
            unmeasured: 0,
            unsure: false,
            _lock: lock,
        })
    }

    async fn find_known(
        &mut self,
        ids: &[AttestationId],
    ) -> Result<Vec<Option<Known>>, StoreError> {
        let hashes: Vec<i64> = ids.iter().map(AttestationId::hash64).collect();
        let seqs = seqs_of_hashes(&mut self.connection, &self.tail, &hashes).await?;
        if seqs.is_empty() {
            return Ok(vec![None; ids.len()]);
        }
        let rows = fetch_by_seqs(&mut self.connection, &self.spoilt, &seqs).await?;
        let found: HashSet<Seq> = rows.iter().map(|row| row.seq).collect();
        let missing: Vec<Seq> = seqs.into_iter().filter(|seq| !found.contains(seq)).collect();
        let here = |row: Stored| (row.attestation.id.clone(), Known::Here(Box::new(row)));
        let mut by_id: HashMap<_, _> = rows.into_iter().map(here).collect();
        for removed in fetch_removed(&mut self.connection, &self.spoilt, &missing).await? {
            by_id.entry(removed.id.clone()).or_insert(Known::Removed(removed));
        }
        Ok(ids.iter().map(|id| by_id.get(id).cloned()).collect())
    }

    async fn write_batch(&mut self, batch: &Batch) -> Result<(), sqlx::Error> {
        let head = self.tail.read().head().seq;
        for (seq, stored) in (head.0 + 1..).zip(&batch.attestations) {
            assert_eq!(stored.seq.0, seq, "attestations come without a gap");
        }
        let thinned = match &batch.removal {
            Some(removal) => thin_postings(&mut self.connection, &removal.claims).await?,
            None => Thinned::default(),
        };
        self.begin()?;
        let slices = self.deriver.for_commit(batch.attestations.len() + batch.jobs.len());
        let small = slices.is_empty() && is_small(batch);
        let mut transaction = Transaction::begin(&mut self.connection, small);
        put_batch(&mut transaction, batch).await?;
        if let Some(removal) = &batch.removal {
            retain::remove(&mut transaction, removal, &thinned).await?;
            failpoint(Point::Retention)?;
        }
        for slice in &slices {
            slice.write(&mut transaction).await?;
        }
        failpoint(Point::CommitBefore)?;
        // Folding goes on while the disk works.
        let entries =
            async { Entries::of(batch.attestations.iter().map(AsRef::as_ref), batch.jobs.iter()) };
        self.unmeasured += 1;
        let entries = if small && self.unmeasured < UNMEASURED_MAX {
            let (committed, entries) = join(transaction.commit(), entries).await;
            committed?;
            entries
        } else {
            let (frames, entries) = join(transaction.commit_and_measure(), entries).await;
            (self.wal, self.unmeasured) = (frames?, 0);
            entries
        };
        failpoint(Point::CommitAfter)?;
        let mut tail = self.tail.write();
        tail.extend(entries);
        finish(tail, &slices);
        Ok(())
    }

    async fn write_slice(&mut self, slice: NextSlice) -> Result<(), sqlx::Error> {
        self.begin()?;
        let mut transaction = Transaction::begin(&mut self.connection, false);
        slice.write(&mut transaction).await?;
        self.wal = transaction.commit_and_measure().await?;
        finish(self.tail.write(), &[slice]);
        Ok(())
    }

    fn begin(&mut self) -> Result<(), sqlx::Error> {
        if std::mem::replace(&mut self.unsure, true) {
            return Err(sqlx::Error::Protocol(
                "an earlier commit did not come to its end; the store must be opened again".into(),
            ));
        }
        Ok(())
    }

    /// After a transaction: rolls back if it failed, and looks after the write-ahead log if not.
    async fn end(&mut self, outcome: Result<(), sqlx::Error>) -> Result<(), sqlx::Error> {
        if let Err(error) = outcome {
            // It may not have begun, or SQLite has rolled back by itself: the first error counts.
            let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
            return Err(error);
        }
        self.checkpointer.after_commit(self.wal, &mut self.connection).await?;
        self.unsure = false;
        Ok(())
    }

    async fn find_removable(&mut self, retention: &Retention) -> Result<Removal, StoreError> {
        if retain::reaches_the_tail(&mut self.connection, &self.tail, retention).await?
            && let Some(slice) = self.deriver.for_retention()
        {
            let outcome = self.write_slice(slice).await;
            self.end(outcome).await.map_err(failed("write a slice of the derived tables"))?;
            return Ok(Removal { next: Some(retention.from), ..Removal::default() });
        }
        retain::find(&mut self.connection, &self.tail, &self.spoilt, retention).await
    }

    async fn put_aside(&mut self, now: Timestamp) -> Result<Vec<Quarantined>, StoreError> {
        if !self.spoilt.is_empty() {
            self.untold |= put_noted_aside(&mut self.connection, &self.spoilt, now).await? > 0;
        }
        if !self.untold {
            return Ok(Vec::new());
        }
        let untold = read_quarantine(&mut self.connection, true).await?;
        self.untold = !untold.is_empty();
        Ok(untold)
    }

    async fn tidy_once(&mut self) -> Result<bool, StoreError> {
        if let Some(slice) = self.deriver.for_idle() {
            let outcome = self.write_slice(slice).await;
            self.end(outcome).await.map_err(failed("write a slice of the derived tables"))?;
        }
        Ok(self.deriver.has_idle_work())
    }
}

/// Whether a batch is of a make-up that comes again and again: one claim, the jobs of a settled one.
fn is_small(batch: &Batch) -> bool {
    batch.attestations.len() <= 1
        && batch.jobs.len() <= 2
        && batch.cancelled.is_empty()
        && batch.withdrawn.is_empty()
        && batch.watchers.is_empty()
        && batch.revisions.is_empty()
        && batch.retired.is_empty()
        && batch.passes.is_empty()
        && batch.passes_gone.is_empty()
        && batch.cursors.is_empty()
        && batch.cursors_gone.is_empty()
        && batch.holds.is_empty()
        && alias_changes(batch).next().is_none()
        && batch.handlers.is_empty()
        && batch.handler_changes.is_empty()
        && batch.plugins.is_empty()
        && batch.entries.len() <= 1
        && batch.schedules.is_empty()
        && batch.runs.is_empty()
        && batch.runs_before.is_empty()
        && batch.budgets.is_empty()
        && batch.spends.len() <= 1
        && batch.spends_from.is_none()
        && batch.handler_spends.is_empty()
        && batch.routes.is_empty()
        && batch.refused.is_empty()
        && batch.counters.is_none()
        && batch.removal.is_none()
        && batch.quarantine_told.is_none()
}

/// What the new claims of a batch do to the aliases.
fn alias_changes(batch: &Batch) -> impl Iterator<Item = (Seq, AliasChange)> {
    batch.attestations.iter().filter_map(|row| Some((row.seq, AliasChange::of(row)?)))
}

async fn put_batch(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), sqlx::Error> {
    // What is one statement goes first, with the beginning.
    put_single(transaction, batch).await?;
    transaction
        .insert(&rows::INSERT_ATTESTATIONS, &batch.attestations, |values, stored| {
            rows::bind_attestation(values, stored);
        })
        .await?;
    for cancel in &batch.cancelled {
        transaction
            .execute(
                "UPDATE jobs SET state = ?, completed_at = ?, error = ? WHERE number >= ? \
                 AND watcher = ? AND state IN (0, 2) AND generation = ifnull(?, generation);",
                |values| {
                    values.add(JobState::Cancelled.code());
                    values.add(cancel.at.ms());
                    values.add(cancel.reason.as_str());
                    values.number(cancel.from.0);
                    values.number(cancel.watcher.0);
                    values.add(cancel.generation.map(i64::from));
                },
            )
            .await?;
    }
    withdraw(transaction, &batch.withdrawn).await?;
    put_jobs(transaction, batch).await?;
    let aliases: Vec<_> = alias_changes(batch).collect();
    transaction.insert(&rows::INSERT_ALIASES, &aliases, rows::bind_alias).await?;
    transaction.insert(&rows::REPLACE_WATCHERS, &batch.watchers, rows::bind_watcher).await?;
    transaction.insert(&rows::REPLACE_REVISIONS, &batch.revisions, rows::bind_revision).await?;
    transaction.insert(&rows::RETIRE_REVISIONS, &batch.retired, rows::bind_retired).await?;
    put_places(transaction, batch).await?;
    put_registry(transaction, batch).await?;
    put_pulse(transaction, batch).await?;
    if let Some((_, counters)) = &batch.counters {
        transaction.insert(&rows::REPLACE_COUNTERS, counters, rows::bind_counters).await?;
    }
    Ok(())
}

/// What a batch has one row of.
async fn put_single(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), sqlx::Error> {
    if let Some(audit) = &batch.audit {
        transaction.execute(rows::INSERT_AUDIT, |values| rows::bind_audit(values, audit)).await?;
    }
    let numbers = [
        (
            "UPDATE meta SET value = ? WHERE key = 'matched_seq';",
            batch.matched_seq.map(|seq| seq.0),
        ),
        (
            "INSERT INTO meta (key, value) VALUES ('heeded_seq', ?) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value;",
            batch.heeded_seq.map(|seq| seq.0),
        ),
        (
            "UPDATE meta SET value = ? WHERE key = 'open_jobs_from';",
            batch.open_jobs_from.map(|number| number.0),
        ),
        (
            "UPDATE meta SET value = ? WHERE key = 'counters_upto';",
            batch.counters.as_ref().map(|(upto, _)| upto.0),
        ),
        ("UPDATE quarantine SET told = 1 WHERE number <= ?;", batch.quarantine_told),
    ];
    for (statement, value) in numbers {
        if let Some(value) = value {
            transaction.execute(statement, |values| values.number(value)).await?;
        }
    }
    Ok(())
}

/// The jobs come as a JSON array: number, time, reason, record.
pub(super) const WITHDRAW: &str = "UPDATE jobs SET state = ?, completed_at = value ->> 1, error = value ->> 2, \
     due_at = NULL, delay_ms = 0, leaves = json_insert(leaves, '$[#]', value ->> 3) \
     FROM json_each(?) WHERE jobs.number = value ->> 0 AND jobs.state IN (0, 2);";

/// Many at once: below one job there may be a hundred thousand.
async fn withdraw(
    transaction: &mut Transaction<'_>,
    withdrawn: &[Withdrawn],
) -> Result<(), sqlx::Error> {
    for some in withdrawn.chunks(WITHDRAWN_AT_ONCE) {
        let row = |job: &Withdrawn| (job.number, job.at.ms(), job.reason.clone(), job.leaf);
        let rows: Vec<_> = some.iter().map(row).collect();
        let rows = serde_json::to_string(&rows).expect("numbers and texts are always JSON");
        transaction
            .execute(WITHDRAW, |values| {
                values.add(JobState::Cancelled.code());
                values.add(rows);
            })
            .await?;
    }
    Ok(())
}

async fn put_jobs(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), sqlx::Error> {
    // In the order of the table's key, so that each page is visited once.
    let mut jobs: Vec<_> = batch.jobs.iter().collect();
    jobs.sort_unstable_by_key(|job| (job.asked.is_some(), job.number));
    let (fires, asked) = jobs.split_at(jobs.partition_point(|job| job.asked.is_none()));
    transaction
        .insert(&rows::REPLACE_FIRES, fires, |values, job| rows::bind_job(values, job))
        .await?;
    transaction
        .insert(&rows::REPLACE_ASKED, asked, |values, job| {
            rows::bind_job(values, job);
            rows::bind_asked(
                values,
                job.asked.as_ref().expect("those behind the others were asked"),
            );
        })
        .await?;
    let payloads: Vec<_> =
        jobs.iter().filter_map(|job| Some((job.number, job.payload.as_deref()?))).collect();
    transaction.insert(&rows::REPLACE_PAYLOADS, &payloads, rows::bind_payload).await?;
    transaction.insert(&rows::REPLACE_ENTRIES, &batch.entries, rows::bind_entry).await
}

async fn put_places(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), sqlx::Error> {
    transaction.insert(&rows::REPLACE_PASSES, &batch.passes, rows::bind_pass).await?;
    for (watcher, generation) in &batch.passes_gone {
        transaction
            .execute("DELETE FROM passes WHERE watcher = ? AND generation = ?;", |values| {
                values.number(watcher.0);
                values.add(i64::from(*generation));
            })
            .await?;
    }
    transaction.insert(&rows::REPLACE_CURSORS, &batch.cursors, rows::bind_cursor).await?;
    for number in &batch.cursors_gone {
        transaction
            .execute("DELETE FROM cursors WHERE number = ?;", |values| values.number(number.0))
            .await?;
    }
    transaction.insert(&rows::REPLACE_HOLDS, &batch.holds, rows::bind_hold).await
}

async fn put_registry(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), sqlx::Error> {
    for (plugin, names) in &batch.handlers {
        transaction
            .execute("DELETE FROM handlers WHERE plugin = ?;", |values| values.add(plugin.as_str()))
            .await?;
        for name in names {
            transaction
                .execute("INSERT OR IGNORE INTO handlers (plugin,name) VALUES (?,?);", |values| {
                    values.add(plugin.as_str());
                    values.add(name.as_str());
                })
                .await?;
        }
    }
    let changes = &batch.handler_changes;
    transaction.insert(&rows::REPLACE_HANDLER_CHANGES, changes, rows::bind_handler_change).await?;
    for row in &batch.plugins {
        transaction.execute(rows::REPLACE_PLUGIN, |values| rows::bind_plugin(values, row)).await?;
    }
    for (plugin, routes) in &batch.routes {
        transaction
            .execute("DELETE FROM routes WHERE plugin = ?;", |values| values.add(plugin.as_str()))
            .await?;
        transaction
            .insert(&rows::INSERT_ROUTES, routes, |values, route| {
                rows::bind_route(values, plugin, route);
            })
            .await?;
    }
    transaction.insert(&rows::REPLACE_REFUSED, &batch.refused, rows::bind_refused).await
}

/// What is written of schedules, budgets and spending.
async fn put_pulse(transaction: &mut Transaction<'_>, batch: &Batch) -> Result<(), sqlx::Error> {
    transaction.insert(&rows::REPLACE_SCHEDULES, &batch.schedules, rows::bind_schedule).await?;
    transaction.insert(&rows::INSERT_RUNS, &batch.runs, rows::bind_run).await?;
    for (schedule, before) in &batch.runs_before {
        transaction
            .execute(
                "DELETE FROM schedule_runs WHERE number IN (SELECT number FROM schedule_runs \
                 WHERE schedule = ? AND at < ? AND number < (SELECT number FROM schedule_runs \
                     WHERE schedule = ? ORDER BY number DESC LIMIT 1 OFFSET ?) \
                 ORDER BY number LIMIT ?);",
                |values| {
                    values.add(schedule.0.as_slice());
                    values.add(before.ms());
                    values.add(schedule.0.as_slice());
                    values.add(i64::from(RUNS_KEPT - 1));
                    values.add(i64::from(ROWS_FORGOTTEN_MAX));
                },
            )
            .await?;
    }
    transaction.insert(&rows::REPLACE_BUDGETS, &batch.budgets, rows::bind_budget).await?;
    transaction.insert(&rows::REPLACE_SPENDS, &batch.spends, rows::bind_spend).await?;
    if let Some(from) = batch.spends_from {
        transaction
            .execute(
                "DELETE FROM spend WHERE (minute, plugin, handler) IN (SELECT minute, plugin, handler \
                 FROM spend WHERE minute < ? ORDER BY minute LIMIT ?);",
                |values| {
                    values.add(from);
                    values.add(i64::from(ROWS_FORGOTTEN_MAX));
                },
            )
            .await?;
    }
    let rows = &batch.handler_spends;
    transaction.insert(&rows::REPLACE_HANDLER_SPENDS, rows, rows::bind_handler_spend).await
}

impl StoreWriter for SqliteWriter {
    fn reader(&self) -> Arc<dyn Store> {
        self.reader.clone()
    }

    fn known<'a>(&'a mut self, ids: &'a [AttestationId]) -> StoreFuture<'a, Vec<Option<Known>>> {
        self.find_known(ids).boxed()
    }

    fn commit<'a>(&'a mut self, batch: &'a Batch) -> StoreFuture<'a, ()> {
        async move {
            let outcome = self.write_batch(batch).await;
            self.end(outcome).await.map_err(failed("commit a batch"))
        }
        .boxed()
    }

    fn tidy(&mut self) -> StoreFuture<'_, bool> {
        self.tidy_once().boxed()
    }

    fn removable<'a>(&'a mut self, retention: &'a Retention) -> StoreFuture<'a, Removal> {
        self.find_removable(retention).boxed()
    }

    fn quarantined(&mut self, now: Timestamp) -> StoreFuture<'_, Vec<Quarantined>> {
        self.put_aside(now).boxed()
    }

    fn room(&self) -> std::io::Result<Room> {
        let folder = self.path.parent().unwrap_or(&self.path);
        let space = rustix::fs::statvfs(folder)?;
        Ok(Room {
            free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
            total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
            wal_bytes: self.wal.waiting() * FRAME_BYTES,
        })
    }

    fn close(mut self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        async move {
            while self.tidy_once().await? {}
            let failed = failed("close the store");
            self.reader.close().await;
            self.checkpointer.stop().await.map_err(&failed)?;
            // The last connection to go copies what is left of the write-ahead log and removes it.
            self.connection.close().await.map_err(&failed)
        }
        .boxed()
    }
}
