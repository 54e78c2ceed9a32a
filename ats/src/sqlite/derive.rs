//! Between the log and the derived tables: filling the tail from the log, and writing a frozen
//! generation slice by slice, at the pace of the commits that fill the next one.

use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use axwatch_model::{JobId, JobNumber, Seq};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failed;
use super::quarantine::Spoilt;
use super::rows::{attestation_text, read_attestation, select_attestations};
use super::trip::{Insert, Transaction, Values};
use crate::store::StoreError;
use crate::tail::{
    Cursor, Entries, Generation, JobEntry, Mark, PostingRow, Slice, Tail, TailBounds,
};

/// Rows of the log that are read at once to fill the tail.
const FILL_ROWS: i64 = 1_000;
/// Slices that one commit writes at most, unless memory runs out.
const SLICES_PER_COMMIT_MAX: usize = 8;

pub(super) static REPLACE_POSTINGS: Insert =
    Insert::new("INSERT OR REPLACE INTO postings (dimension,term,first_seq,seqs) VALUES ", 4);
static INSERT_ATTESTATION_IDS: Insert =
    Insert::new("INSERT OR IGNORE INTO attestation_ids (hash,seq) VALUES ", 2);
static INSERT_JOB_IDS: Insert =
    Insert::new("INSERT OR IGNORE INTO job_ids (hash,number) VALUES ", 2);
static INSERT_JOB_SEQS: Insert =
    Insert::new("INSERT OR IGNORE INTO job_seqs (seq,number) VALUES ", 2);

/// The tail, shared by the writer and its readers.
#[derive(Debug, Clone)]
pub(super) struct SharedTail(Arc<RwLock<Tail>>);

impl SharedTail {
    pub fn new(tail: Tail) -> SharedTail {
        SharedTail(Arc::new(RwLock::new(tail)))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Tail> {
        self.0.read().expect("nobody panics while holding the tail")
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Tail> {
        self.0.write().expect("nobody panics while holding the tail")
    }
}

/// Reads the log from the tail's head up to `upto` into the tail. Where nothing is new it asks nothing.
/// Rows that do not decode are left out: nothing finds them then.
pub(super) async fn fill(
    connection: &mut SqliteConnection,
    tail: &SharedTail,
    spoilt: &Spoilt,
    upto: Mark,
) -> Result<(), StoreError> {
    let failed = failed("read the newest rows of the log");
    loop {
        let head = tail.read().head().seq;
        if head >= upto.seq {
            break;
        }
        let rows = sqlx::query(select_attestations!(
            "'null'",
            "WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        ))
        .bind(head.0.cast_signed())
        .bind(upto.seq.0.cast_signed())
        .bind(FILL_ROWS)
        .fetch_all(&mut *connection)
        .await
        .map_err(&failed)?;
        let Some(last) = last_number(&rows) else { break };
        let rows = spoilt.keep(rows.iter().map(read_attestation))?;
        let entries = Entries::of(rows.iter(), [].iter());
        let mut tail = tail.write();
        tail.extend(entries);
        tail.pass_over(Mark { seq: Seq(last), ..Mark::default() });
    }
    loop {
        let head = tail.read().head().job;
        if head >= upto.job {
            break;
        }
        let rows: Vec<SqliteRow> = sqlx::query(
            "SELECT number, id, seq FROM jobs WHERE number > ? AND number <= ? \
             ORDER BY number LIMIT ?",
        )
        .bind(head.0.cast_signed())
        .bind(upto.job.0.cast_signed())
        .bind(FILL_ROWS)
        .fetch_all(&mut *connection)
        .await
        .map_err(&failed)?;
        let Some(last) = last_number(&rows) else { break };
        let jobs = spoilt.keep(rows.iter().map(read_job_entry))?;
        let mut tail = tail.write();
        tail.extend(Entries { jobs, ..Entries::default() });
        tail.pass_over(Mark { job: JobNumber(last), ..Mark::default() });
    }
    tail.write().pass_over(upto);
    Ok(())
}

fn last_number(rows: &[SqliteRow]) -> Option<u64> {
    rows.last().and_then(|row| row.try_get::<i64, _>(0).ok()).map(i64::cast_unsigned)
}

fn read_job_entry(row: &SqliteRow) -> Result<JobEntry, StoreError> {
    let failed = failed("read the newest rows of the log");
    let number: i64 = row.try_get(0).map_err(&failed)?;
    let seq: Option<i64> = row.try_get(2).map_err(&failed)?;
    let id = row.try_get::<&[u8], _>(1).map_err(|error| error.to_string());
    let id = id.and_then(|id| {
        <[u8; 16]>::try_from(id).map_err(|_| format!("its id has {} bytes, not 16", id.len()))
    });
    match id {
        Ok(id) => Ok(JobEntry {
            number: JobNumber(number.cast_unsigned()),
            hash: JobId(id).hash64(),
            seq: seq.map(|seq| Seq(seq.cast_unsigned())),
        }),
        Err(reason) => Err(StoreError::Row { table: "jobs", row: number.to_string(), reason }),
    }
}

/// Where the log ends and how far the derived tables are whole, as one snapshot.
pub(super) async fn read_marks(
    connection: &mut SqliteConnection,
) -> Result<(Mark, Mark), StoreError> {
    let (seq, job, derived_seq, derived_job): (i64, i64, i64, i64) = sqlx::query_as(
        "SELECT max(ifnull((SELECT max(seq) FROM attestations), 0),
             ifnull((SELECT max(seq) FROM removed), 0)),
         max(ifnull((SELECT max(number) FROM jobs), 0), ifnull((SELECT max(CAST(\"row\" AS INTEGER))
             FROM quarantine WHERE \"table\" = 'jobs'), 0)),
         (SELECT value FROM meta WHERE key = 'derived_seq'),
         (SELECT value FROM meta WHERE key = 'derived_job')",
    )
    .fetch_one(connection)
    .await
    .map_err(failed("read the end of the log"))?;
    let mark = |seq: i64, job: i64| Mark {
        seq: Seq(seq.cast_unsigned()),
        job: JobNumber(job.cast_unsigned()),
    };
    Ok((mark(seq, job), mark(derived_seq, derived_job)))
}

/// Decides how many slices go with a commit, and knows how far the frozen generation is.
pub(super) struct Deriver {
    tail: SharedTail,
    bounds: TailBounds,
    current: Option<Current>,
    /// The part of a slice that commits since the last one have earned.
    owed: f64,
}

struct Current {
    generation: Arc<Generation>,
    cursor: Cursor,
    rows_left: usize,
    begun: bool,
}

/// A slice, with what meta has to say with it.
pub(super) struct NextSlice {
    slice: Slice,
    /// The end of the generation, with its first slice.
    begins: Option<Mark>,
    /// The end of the generation, with its last slice.
    ends: Option<Mark>,
}

impl Deriver {
    /// Goes on with the tail as it is; a generation that is frozen in it is written from its beginning.
    pub fn new(tail: SharedTail, bounds: TailBounds) -> Deriver {
        let frozen = tail.read().frozen().cloned();
        Deriver { tail, bounds, current: frozen.map(Current::new), owed: 0.0 }
    }

    /// The slices that a commit of so many new rows takes with it: as many as it takes for the frozen
    /// generation to be written when the live one is full.
    pub fn for_commit(&mut self, new_rows: usize) -> Vec<NextSlice> {
        let (live_rows, live_bytes, full) = {
            let tail = self.tail.read();
            let live = tail.live();
            (live.log_rows(), live.bytes(), live.is_full(&self.bounds))
        };
        if self.current.is_none() && full {
            self.freeze();
            return Vec::new();
        }
        let Some(current) = &self.current else { return Vec::new() };
        let slices_left = current.rows_left.div_ceil(self.bounds.slice_rows_max);
        let count = if live_bytes >= 2 * self.bounds.bytes_max {
            slices_left
        } else if full {
            SLICES_PER_COMMIT_MAX
        } else {
            let bytes_per_row = live_bytes / live_rows.max(1) + 1;
            let room = (self.bounds.rows_max - live_rows)
                .min((self.bounds.bytes_max - live_bytes) / bytes_per_row);
            self.owed += slices_left as f64 * new_rows as f64 / room.max(1) as f64;
            let earned = (self.owed as usize).min(SLICES_PER_COMMIT_MAX);
            self.owed = (self.owed - earned as f64).min(1.0);
            earned
        };
        (0..count).map_while(|_| self.next()).collect()
    }

    /// The next slice in idle time; `None` when what is left is not worth a commit.
    pub fn for_idle(&mut self) -> Option<NextSlice> {
        if self.current.is_none() && self.is_worth_idle() {
            self.freeze();
        }
        self.next()
    }

    /// The next slice of all that the tables do not hold yet, worth a commit or not.
    pub fn for_retention(&mut self) -> Option<NextSlice> {
        if self.current.is_none() && self.tail.read().live().log_rows() > 0 {
            self.freeze();
        }
        self.next()
    }

    /// Whether idle time still has something to do.
    pub fn has_idle_work(&self) -> bool {
        self.current.is_some() || self.is_worth_idle()
    }

    fn is_worth_idle(&self) -> bool {
        let tail = self.tail.read();
        let rows = tail.live().log_rows();
        rows > 0 && (rows >= self.bounds.idle_rows_min || tail.live().is_full(&self.bounds))
    }

    fn freeze(&mut self) {
        self.current = Some(Current::new(self.tail.write().freeze()));
        self.owed = 0.0;
    }

    fn next(&mut self) -> Option<NextSlice> {
        let current = self.current.as_mut()?;
        let slice = current.generation.slice(&mut current.cursor, self.bounds.slice_rows_max);
        current.rows_left = current.rows_left.saturating_sub(slice.rows());
        let upto = current.generation.upto();
        let begins = (!std::mem::replace(&mut current.begun, true)).then_some(upto);
        let ends = (current.rows_left == 0).then_some(upto);
        if ends.is_some() {
            self.current = None;
        }
        Some(NextSlice { slice, begins, ends })
    }
}

impl Current {
    fn new(generation: Arc<Generation>) -> Current {
        let rows_left = generation.derived_rows();
        Current { generation, cursor: Cursor::default(), rows_left, begun: false }
    }
}

impl NextSlice {
    /// Whether, once this is committed, the tail need not hold the generation any more.
    pub fn ends_generation(&self) -> bool {
        self.ends.is_some()
    }

    pub async fn write(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        if let Some(mark) = self.begins {
            put_mark(transaction, ["deriving_seq", "deriving_job"], mark).await?;
        }
        transaction.insert(&REPLACE_POSTINGS, &self.slice.postings, bind_posting).await?;
        let bind = |values: &mut Values, (hash, number): &(i64, u64)| {
            values.add(*hash);
            values.number(*number);
        };
        transaction.insert(&INSERT_ATTESTATION_IDS, &self.slice.ids, bind).await?;
        transaction.insert(&INSERT_JOB_IDS, &self.slice.jobs, bind).await?;
        transaction.insert(&INSERT_JOB_SEQS, &self.slice.job_seqs, bind).await?;
        if let Some(mark) = self.ends {
            put_mark(transaction, ["derived_seq", "derived_job"], mark).await?;
        }
        Ok(())
    }
}

/// Lets the tail forget what is in the tables now.
pub(super) fn finish(mut tail: RwLockWriteGuard<'_, Tail>, slices: &[NextSlice]) {
    if slices.iter().any(NextSlice::ends_generation) {
        let generation = tail.finish_frozen();
        drop(tail);
        // A hundred thousand small allocations: neither readers nor the next commit wait for that.
        tokio::task::spawn_blocking(move || drop(generation));
    }
}

pub(super) fn bind_posting(values: &mut Values, row: &PostingRow) {
    values.number(row.dimension as u64);
    values.add(row.term.clone());
    values.number(row.first_seq);
    values.add(row.seqs.as_slice());
}

async fn put_mark(
    transaction: &mut Transaction<'_>,
    keys: [&'static str; 2],
    mark: Mark,
) -> Result<(), sqlx::Error> {
    for (key, number) in keys.into_iter().zip([mark.seq.0, mark.job.0]) {
        transaction
            .execute("UPDATE meta SET value = ? WHERE key = ?;", |values| {
                values.number(number);
                values.add(key);
            })
            .await?;
    }
    Ok(())
}
