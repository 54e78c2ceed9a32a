//! Retention: which claims and jobs may go, slice by slice, and how they do.
//!
//! In: the moment and the place before which all may go that nobody needs. Out: a slice of it, and the
//! statements that take it away in the commit of a batch. Only what the derived tables hold is taken, so
//! that the tail stays a range of the log as it was; each claim leaves its postings, and of its id and
//! content what a repeat is known by.
//!
//! Not here: who decides that and when (`axwatch_engine`), and the audit, which is never cut.

use std::collections::{BTreeMap, BTreeSet};

use axwatch_model::{JobId, JobNumber, Seq, Stored};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::derive::{REPLACE_POSTINGS, SharedTail, bind_posting};
use super::quarantine::Spoilt;
use super::reader::fetch_attestations;
use super::rows::{self, Select, attestation_text, select_attestations, select_both};
use super::trip::{Transaction, Values};
use super::{failed, rows::bind_removed};
use crate::append::Removed;
use crate::packed::{pack, unpack};
use crate::store::{Removal, Retention, RetentionPlace, StoreError};
use crate::tail::{Entries, PostingRow};

/// Rows that one slice looks at: some milliseconds.
const LOOKED_AT_ROWS: u64 = 4_096;
/// Rows that one slice takes away.
const CLAIMS_TAKEN: i64 = 256;
const JOBS_TAKEN: i64 = 1_024;

/// Bytes of what the jobs of one slice carry, gave and said: each of their pages is visited. One that has more is a
/// slice of its own.
const JOBS_TAKEN_BYTES: i64 = 16 * 1024 * 1024;

/// Whether a job may go as far as it alone is concerned: it has completed (3) or was cancelled (5), long enough
/// ago. The last one stays, whose number the next one goes by.
macro_rules! job_is_old {
    () => {
        "jobs.state IN (3, 5) AND ifnull(jobs.completed_at < ?, 0) \
         AND jobs.number < (SELECT max(number) FROM jobs)"
    };
}

/// Whether there is something beyond the derived tables that may go.
pub(super) async fn reaches_the_tail(
    connection: &mut SqliteConnection,
    tail: &SharedTail,
    retention: &Retention,
) -> Result<bool, StoreError> {
    let derived = tail.read().derived();
    let statement = concat!(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE number > ? AND ",
        job_is_old!(),
        " AND NOT EXISTS (SELECT 1 FROM jobs AS child \
             WHERE child.watcher IS NULL AND child.parent = jobs.number)) \
         OR EXISTS (SELECT 1 FROM attestations WHERE seq > ? AND seq <= ? AND created_at < ? \
         AND seq < (SELECT max(seq) FROM attestations))"
    );
    sqlx::query_scalar(statement)
        .bind(derived.job.0.cast_signed())
        .bind(retention.before.ms())
        .bind(derived.seq.0.cast_signed())
        .bind(retention.below.0.cast_signed())
        .bind(retention.before.ms())
        .fetch_one(connection)
        .await
        .map_err(failed("look for what retention may take"))
}

/// The next slice of what the derived tables hold and nobody needs.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    tail: &SharedTail,
    spoilt: &Spoilt,
    retention: &Retention,
) -> Result<Removal, StoreError> {
    match retention.from {
        RetentionPlace::Jobs(before) => find_jobs(connection, tail, retention, before).await,
        RetentionPlace::Claims(after) => {
            find_claims(connection, tail, spoilt, retention, after).await
        }
    }
}

/// From the latest to the first, because children come after their parents: a job goes when its children are gone,
/// so that whoever looks from one of these upwards finds it.
async fn find_jobs(
    connection: &mut SqliteConnection,
    tail: &SharedTail,
    retention: &Retention,
    before: JobNumber,
) -> Result<Removal, StoreError> {
    let failed = failed("look for jobs that retention may take");
    let upto = tail.read().derived().job.0.min(before.0.saturating_sub(1));
    let last: Option<i64> = sqlx::query_scalar("SELECT max(number) FROM jobs WHERE number <= ?")
        .bind(upto.cast_signed())
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
    let Some(last) = last else {
        let next = Some(RetentionPlace::Claims(Seq(0)));
        return Ok(Removal { next, ..Removal::default() });
    };
    let first = last.saturating_sub_unsigned(LOOKED_AT_ROWS - 1).max(0);
    let found: Vec<Columns> = sqlx::query_as(FIND_JOBS)
        .bind(first)
        .bind(last)
        .bind(retention.before.ms())
        .bind(JOBS_TAKEN)
        .fetch_all(&mut *connection)
        .await
        .map_err(&failed)?;
    let full = found.len() as i64 == JOBS_TAKEN;
    let lowest = found.last().map(|(number, ..)| *number).filter(|_| full);
    let (jobs, left_from) = those_that_go(found.into_iter().map(Old::of).collect());
    // What is left of the slice is looked at again.
    let next = left_from.map(|left| left + 1).or(lowest).unwrap_or(first);
    let next = Some(RetentionPlace::Jobs(JobNumber(next.cast_unsigned())));
    Ok(Removal { claims: Vec::new(), jobs, next })
}

/// As [`FIND_JOBS`] gives them.
type Columns = (i64, Vec<u8>, Option<i64>, Option<i64>, i64, i64);

/// A job that is old enough to go.
struct Old {
    number: i64,
    id: Vec<u8>,
    seq: Option<i64>,
    parent: Option<i64>,
    /// How many children are there.
    children: i64,
    bytes: i64,
}

impl Old {
    fn of((number, id, seq, parent, children, bytes): Columns) -> Old {
        Old { number, id, seq, parent, children, bytes }
    }
}

const FIND_JOBS: &str = concat!(
    "SELECT number, id, seq, parent, (SELECT count(*) FROM jobs AS child \
         WHERE child.watcher IS NULL AND child.parent = jobs.number) AS children, \
     ifnull(length(result), 0) + ifnull(entries_bytes, 0) + ifnull((SELECT length(payload) \
         FROM job_payloads WHERE job = jobs.number), 0) AS bytes \
     FROM jobs WHERE number >= ? AND number <= ? AND ",
    job_is_old!(),
    " AND length(id) = 16 ORDER BY number DESC LIMIT ?"
);

/// A job that goes: its number, its id, and the claim that it is about.
type Going = (JobNumber, JobId, Option<Seq>);

/// Of these, the latest first, those that go, by number: what they hold together is bounded, and all children of
/// each go too. And the number of the first one that had no room.
fn those_that_go(found: Vec<Old>) -> (Vec<Going>, Option<i64>) {
    let mut going = Vec::new();
    let mut children_going: BTreeMap<i64, i64> = BTreeMap::new();
    let mut bytes = 0;
    for old in found {
        if children_going.get(&old.number).copied().unwrap_or_default() < old.children {
            continue;
        }
        bytes += old.bytes;
        if bytes > JOBS_TAKEN_BYTES && !going.is_empty() {
            going.reverse();
            return (going, Some(old.number));
        }
        if let Some(parent) = old.parent {
            *children_going.entry(parent).or_default() += 1;
        }
        let id = JobId(old.id.try_into().expect("only ids of 16 bytes were asked for"));
        let seq = old.seq.map(|seq| Seq(seq.cast_unsigned()));
        going.push((JobNumber(old.number.cast_unsigned()), id, seq));
    }
    going.reverse();
    (going, None)
}

async fn find_claims(
    connection: &mut SqliteConnection,
    tail: &SharedTail,
    spoilt: &Spoilt,
    retention: &Retention,
    after: Seq,
) -> Result<Removal, StoreError> {
    let failed = failed("look for claims that retention may take");
    let (first, head): (Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT (SELECT min(seq) FROM attestations WHERE seq > ?), \
         (SELECT max(seq) FROM attestations)",
    )
    .bind(after.0.cast_signed())
    .fetch_one(&mut *connection)
    .await
    .map_err(&failed)?;
    let (Some(first), Some(head)) = (first, head) else { return Ok(Removal::default()) };
    let (first, head) = (first.cast_unsigned(), head.cast_unsigned());
    let derived = tail.read().derived().seq.0;
    let end = retention.below.0.min(derived).min(head - 1);
    if first > end {
        return Ok(Removal::default());
    }
    let upto = end.min(first.saturating_add(LOOKED_AT_ROWS - 1));
    // The jobs that the tables do not find yet all stay, and so do their claims.
    let needed: BTreeSet<u64> = tail.read().seqs_with_jobs(first..=upto).into_iter().collect();
    let needed = serde_json::to_string(&needed).expect("numbers are always JSON");
    let fetched = fetch_attestations(connection, spoilt, &FIND_CLAIMS, |values| {
        values.number(first);
        values.number(upto);
        values.add(retention.before.ms());
        values.add(needed.clone());
        values.add(retention.dry_run);
        values.add(retention.before.ms());
        values.add(CLAIMS_TAKEN);
    });
    let fetched = fetched.await?;
    let full = fetched.count() as i64 == CLAIMS_TAKEN;
    let next = fetched.highest().filter(|_| full).map_or(upto, |seq| seq.0);
    Ok(Removal {
        claims: fetched.rows,
        jobs: Vec::new(),
        next: Some(RetentionPlace::Claims(Seq(next))),
    })
}

/// The jobs that may go have gone before, unless this only counts: a claim stays as long as one of its jobs is there.
const FIND_CLAIMS: Select = select_both!(
    "WHERE seq >= ? AND seq <= ? AND created_at < ? \
     AND seq NOT IN (SELECT value FROM json_each(?)) \
     AND NOT EXISTS (SELECT 1 FROM aliases WHERE aliases.seq = attestations.seq) \
     AND NOT EXISTS (SELECT 1 FROM handler_changes AS h WHERE h.seq = attestations.seq) \
     AND NOT EXISTS (SELECT 1 FROM job_seqs JOIN jobs ON jobs.number = job_seqs.number \
         WHERE job_seqs.seq = attestations.seq AND NOT (? AND jobs.state IN (3, 5) \
             AND ifnull(jobs.completed_at < ?, 0) AND jobs.number < (SELECT max(number) FROM jobs))) \
     ORDER BY seq LIMIT ?"
);

/// The rows of postings that lose claims: which go, and what comes in their place.
#[derive(Default)]
pub(super) struct Thinned {
    gone: Vec<(usize, String, u64)>,
    new: Vec<PostingRow>,
}

/// What is left of the postings without these claims. A row of postings that does not decode stays as it
/// is: what it leads to is looked at anyway.
pub(super) async fn thin_postings(
    connection: &mut SqliteConnection,
    claims: &[Stored],
) -> Result<Thinned, sqlx::Error> {
    let mut terms: BTreeMap<(usize, String), BTreeSet<u64>> = BTreeMap::new();
    for entry in Entries::of(claims.iter(), [].iter()).attestations {
        for (dimension, term) in entry.terms {
            terms.entry((dimension, term.into_owned())).or_default().insert(entry.seq.0);
        }
    }
    let asked = terms
        .iter()
        .flat_map(|((dimension, term), seqs)| seqs.iter().map(move |seq| (dimension, term, seq)));
    let asked = serde_json::to_string(&asked.collect::<Vec<_>>()).expect("numbers and texts");
    let rows: Vec<SqliteRow> = sqlx::query(ROWS_OF_TERMS).bind(asked).fetch_all(connection).await?;
    let mut thinned = Thinned::default();
    for row in rows {
        let (dimension, term): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
        let first_seq: i64 = row.try_get(2)?;
        let dimension = usize::try_from(dimension).unwrap_or(usize::MAX);
        let mut seqs = Vec::new();
        let Ok(()) = unpack(first_seq.cast_unsigned(), row.try_get(3)?, &mut seqs) else {
            continue;
        };
        let Some(removed) = terms.get(&(dimension, term.clone())) else { continue };
        let before = seqs.len();
        seqs.retain(|seq| !removed.contains(seq));
        if seqs.len() == before {
            continue;
        }
        if let Some(first) = seqs.first() {
            let term = term.as_str().into();
            thinned.new.push(PostingRow { dimension, term, first_seq: *first, seqs: pack(&seqs) });
        }
        thinned.gone.push((dimension, term, first_seq.cast_unsigned()));
    }
    Ok(thinned)
}

/// The rows of postings that may hold these numbers of these terms, each once.
const ROWS_OF_TERMS: &str = "SELECT postings.dimension, postings.term, postings.first_seq, postings.seqs \
     FROM (SELECT DISTINCT value ->> 0 AS dimension, value ->> 1 AS term, \
         (SELECT max(first_seq) FROM postings WHERE dimension = value ->> 0 AND term = value ->> 1 \
          AND first_seq <= value ->> 2) AS first_seq FROM json_each(?)) AS asked \
     CROSS JOIN postings ON postings.dimension = asked.dimension AND postings.term = asked.term \
         AND postings.first_seq = asked.first_seq";

/// Takes a slice away.
pub(super) async fn remove(
    transaction: &mut Transaction<'_>,
    removal: &Removal,
    thinned: &Thinned,
) -> Result<(), sqlx::Error> {
    let kept: Vec<Removed> = removal.claims.iter().map(Removed::of).collect();
    transaction.insert(&rows::INSERT_REMOVED, &kept, bind_removed).await?;
    let seqs: Vec<Seq> = removal.claims.iter().map(|claim| claim.seq).collect();
    delete(
        transaction,
        "DELETE FROM attestations WHERE seq IN (SELECT value FROM json_each(?));",
        &seqs,
    )
    .await?;
    delete(
        transaction,
        "DELETE FROM postings WHERE (dimension, term, first_seq) IN \
         (SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?));",
        &thinned.gone,
    )
    .await?;
    transaction
        .insert(&REPLACE_POSTINGS, &thinned.new, |values: &mut Values, row| {
            bind_posting(values, row)
        })
        .await?;
    remove_jobs(transaction, removal).await
}

async fn remove_jobs(
    transaction: &mut Transaction<'_>,
    removal: &Removal,
) -> Result<(), sqlx::Error> {
    if removal.jobs.is_empty() {
        return Ok(());
    }
    let numbers: Vec<u64> = removal.jobs.iter().map(|(number, ..)| number.0).collect();
    let ids: Vec<(i64, u64)> =
        removal.jobs.iter().map(|(number, id, _)| (id.hash64(), number.0)).collect();
    let seqs: Vec<(u64, u64)> = removal
        .jobs
        .iter()
        .filter_map(|(number, _, seq)| seq.map(|seq| (seq.0, number.0)))
        .collect();
    delete(
        transaction,
        "DELETE FROM jobs WHERE number IN (SELECT value FROM json_each(?));",
        &numbers,
    )
    .await?;
    delete(
        transaction,
        "DELETE FROM job_payloads WHERE job IN (SELECT value FROM json_each(?));",
        &numbers,
    )
    .await?;
    delete(
        transaction,
        "DELETE FROM job_entries WHERE job IN (SELECT value FROM json_each(?));",
        &numbers,
    )
    .await?;
    delete(
        transaction,
        "DELETE FROM job_ids WHERE (hash, number) IN \
         (SELECT value ->> 0, value ->> 1 FROM json_each(?));",
        &ids,
    )
    .await?;
    delete(
        transaction,
        "DELETE FROM job_seqs WHERE (seq, number) IN \
         (SELECT value ->> 0, value ->> 1 FROM json_each(?));",
        &seqs,
    )
    .await?;
    transaction
        .execute("UPDATE meta SET value = value + ? WHERE key = 'jobs_gone';", |values| {
            values.number(numbers.len() as u64);
        })
        .await
}

async fn delete(
    transaction: &mut Transaction<'_>,
    statement: &'static str,
    keys: &[impl serde::Serialize],
) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let keys = serde_json::to_string(keys).expect("numbers and texts are always JSON");
    transaction.execute(statement, |values| values.add(keys)).await
}
