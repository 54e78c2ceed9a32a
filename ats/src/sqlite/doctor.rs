//! Looks through a whole store for what is wrong with it, and mends what can be mended.
//!
//! In: a store, in use or not. Out: what was found, each with the row that it is about. To examine
//! changes nothing and holds one snapshot as long as it takes. To repair puts rows aside that do not
//! decode, makes the derived tables again from the log when they do not agree with it, and sets right
//! what meta says of the jobs; after a crash on the way the store opens as ever, and what was left can be
//! repaired again.
//!
//! The derived tables are held to the log by sums over all their entries, so that neither has to fit into
//! memory.
//!
//! Not here: the chain of the audit (`axwatch_core::audit`), what becomes of a damaged file (`restore`).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use axwatch_model::{JobId, JobNumber, Seq, Timestamp};
use futures::TryStreamExt;
use serde::Serialize;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions, Connection, Row};

use super::connect::read_options;
use super::derive::{Deriver, SharedTail, fill, finish, read_marks};
use super::failed;
use super::older::show_as_present;
use super::open::{Fresh, open_for_reading, open_for_writing, read_meta};
use super::quarantine::{Bad, Spoilt, put_aside, read_quarantine};
use super::rows::{
    AUDIT, REMOVED, TABLES, Table, attestation_text, read_attestation, read_removed,
    select_attestations,
};
use super::trip::Transaction;
use crate::packed::unpack;
use crate::store::{Opened, Quarantined, StoreError};
use crate::tail::{Entries, Mark, Tail, TailBounds};

/// Findings that are told of; the others are counted.
const FINDINGS_MAX: usize = 1_000;
/// Rows that are put aside in one commit.
const PUT_ASIDE_ROWS: usize = 1_000;
/// Rounds of putting aside: a row that is gone may be one that another needs.
const ROUNDS_MAX: usize = 3;
/// Rows of the log that are taken at once when derived tables are made again.
const DERIVED_ROWS: u64 = 10_000;

/// Something that is wrong with a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// The table; empty where it is about the whole file.
    pub table: String,
    /// The row's key; empty where it is about the whole table.
    pub row: String,
    /// What is wrong.
    pub what: String,
    /// Whether [`crate::SqliteStore::repair`] mends it.
    pub repairable: bool,
}

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The database file itself.
    File,
    /// What the store says of itself.
    Meta,
    /// A row does not decode.
    Row,
    /// What is made from the log does not agree with it.
    Derived,
    /// A row needs another that is not there.
    Reference,
}

/// What an examination found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examined {
    /// What is wrong, at most 1,000 of it.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more: u64,
    /// Rows that were put aside, now or earlier.
    pub quarantined: Vec<Quarantined>,
    /// Rows that were looked at, of the log and of the jobs.
    pub claims: u64,
    /// See `claims`.
    pub jobs: u64,
}

impl Examined {
    fn add(
        &mut self,
        kind: FindingKind,
        (table, row): (&str, &str),
        what: impl Into<String>,
        repairable: bool,
    ) {
        if self.findings.len() >= FINDINGS_MAX {
            self.more += 1;
            return;
        }
        let (table, row) = (table.to_owned(), row.to_owned());
        self.findings.push(Finding { kind, table, row, what: what.into(), repairable });
    }

    fn has(&self, kind: FindingKind) -> bool {
        self.more > 0 || self.findings.iter().any(|finding| finding.kind == kind)
    }
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was wrong before.
    pub before: Examined,
    /// What is wrong still.
    pub after: Examined,
}

/// Looks through a store, which may be in use.
pub(super) async fn examine(path: &Path) -> Result<Examined, StoreError> {
    let (path, opened, _) = open_for_reading(path).await?;
    let failed = failed("examine the store");
    let mut connection = read_options(&path).connect().await.map_err(&failed)?;
    show_as_present(&mut connection, opened.schema).await.map_err(&failed)?;
    let examined = look_through(&mut connection, &path).await?;
    connection.close().await.map_err(&failed)?;
    Ok(examined)
}

/// Mends what can be mended of a store that nobody has open for writing.
pub(super) async fn repair(path: &Path, now: Timestamp) -> Result<Repaired, StoreError> {
    // The lock first, so that after a failure it goes last.
    let Fresh { lock, path, mut connection, .. } = open_for_writing(path).await?;
    let before = look_through(&mut connection, &path).await?;
    if before.has(FindingKind::File) {
        sqlx::raw_sql("REINDEX")
            .execute(&mut connection)
            .await
            .map_err(failed("make the indexes again"))?;
    }
    for _ in 0..ROUNDS_MAX {
        if put_all_aside(&mut connection, now).await? == 0 {
            break;
        }
    }
    let (head, _) = read_marks(&mut connection).await?;
    correct_meta(&mut connection, head.seq).await.map_err(failed("correct what meta says"))?;
    if look_through(&mut connection, &path).await?.has(FindingKind::Derived) {
        derive_again(&mut connection).await?;
    }
    let after = look_through(&mut connection, &path).await?;
    connection.close().await.map_err(failed("close the store"))?;
    drop(lock);
    Ok(Repaired { before, after })
}

/// All checks, on one snapshot.
async fn look_through(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<Examined, StoreError> {
    let mut examined = Examined::default();
    let mut snapshot = connection.begin().await.map_err(failed("examine the store"))?;
    check_file(&mut snapshot, &mut examined).await?;
    let mut undecoded = Undecoded::default();
    for table in TABLES.into_iter().chain([&AUDIT]) {
        check_rows(&mut snapshot, table, &mut examined, &mut undecoded).await?;
    }
    match read_meta(&mut snapshot, path).await {
        Ok((opened, derivation)) => {
            check_meta(&mut snapshot, &opened, &mut examined).await?;
            let head = Mark { seq: opened.head, job: opened.last_job };
            if let Some(said) = derivation.past_the_end(head) {
                examined.add(FindingKind::Derived, ("meta", ""), said, true);
            }
            let checked =
                check_derived(&mut snapshot, derivation.derived, &undecoded, &mut examined).await;
            or_damaged(checked, &mut examined)?;
        }
        Err(error) => examined.add(FindingKind::Meta, ("meta", ""), error.to_string(), false),
    }
    let checked = check_references(&mut snapshot, &mut examined).await;
    or_damaged(checked, &mut examined)?;
    examined.quarantined = read_quarantine(&mut snapshot, false).await?;
    snapshot.rollback().await.map_err(failed("examine the store"))?;
    Ok(examined)
}

/// A part of the file that cannot be read is a finding, not the end.
fn or_damaged(checked: Result<(), StoreError>, examined: &mut Examined) -> Result<(), StoreError> {
    match checked {
        Err(StoreError::Database { step, source: sqlx::Error::Database(error) }) => {
            examined.add(FindingKind::File, ("", ""), format!("cannot {step}: {error}"), false);
            Ok(())
        }
        other => other,
    }
}

async fn check_file(
    connection: &mut SqliteConnection,
    examined: &mut Examined,
) -> Result<(), StoreError> {
    let lines = sqlx::query_scalar("PRAGMA integrity_check(100)").fetch_all(connection).await;
    let lines: Vec<String> = match lines {
        Err(sqlx::Error::Database(error)) => vec![error.to_string()],
        other => other.map_err(failed("examine the file"))?,
    };
    for line in lines.iter().filter(|line| *line != "ok") {
        let of_index = line.contains("missing from index") || line.contains("entries in index");
        examined.add(FindingKind::File, ("", ""), line, of_index);
    }
    Ok(())
}

/// Claims and jobs that do not decode: the derived tables say nothing of them that could be checked.
#[derive(Default)]
struct Undecoded {
    claims: BTreeSet<u64>,
    jobs: BTreeSet<u64>,
}

async fn check_rows(
    connection: &mut SqliteConnection,
    table: &Table,
    examined: &mut Examined,
    undecoded: &mut Undecoded,
) -> Result<(), StoreError> {
    let mut rows = sqlx::query(table.select).fetch(connection);
    loop {
        let row = match rows.try_next().await {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(()),
            Err(sqlx::Error::Database(error)) => {
                let what = format!("its rows cannot be read: {error}");
                examined.add(FindingKind::File, (table.name, ""), what, false);
                return Ok(());
            }
            Err(error) => return Err(failed("examine rows")(error)),
        };
        match table.name {
            "attestations" => examined.claims += 1,
            "jobs" => examined.jobs += 1,
            _ => {}
        }
        let Err(StoreError::Row { row: key, reason, .. }) = (table.check)(&row) else { continue };
        if let Ok(number) = key.parse() {
            match table.name {
                "attestations" => drop(undecoded.claims.insert(number)),
                "jobs" => drop(undecoded.jobs.insert(number)),
                _ => {}
            }
        }
        let can_go = table.name != AUDIT.name;
        let what = format!("does not decode: {reason}");
        examined.add(FindingKind::Row, (table.name, &key), what, can_go);
    }
}

async fn check_meta(
    connection: &mut SqliteConnection,
    opened: &Opened,
    examined: &mut Examined,
) -> Result<(), StoreError> {
    for (key, seq) in [("matched_seq", opened.matched_seq), ("heeded_seq", opened.heeded_seq)] {
        // One that is behind matching is as far as that.
        if seq > opened.head && (key == "matched_seq" || seq > opened.matched_seq) {
            let what = format!("{key} is {seq}, and the log ends at {}", opened.head);
            examined.add(FindingKind::Meta, ("meta", key), what, true);
        }
    }
    let (oldest_open, gone): (Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT (SELECT min(number) FROM jobs WHERE state IN (0, 1, 2) AND watcher IS NOT NULL), \
         (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'jobs_gone')",
    )
    .fetch_one(connection)
    .await
    .map_err(failed("examine meta"))?;
    if let Some(oldest) = oldest_open.map(i64::cast_unsigned)
        && oldest < opened.open_jobs_from.0
    {
        let what =
            format!("open_jobs_from is {}, and fire {oldest} is open", opened.open_jobs_from);
        examined.add(FindingKind::Meta, ("meta", "open_jobs_from"), what, true);
    }
    let expected = opened.last_job.0.saturating_sub(examined.jobs).cast_signed();
    if let Some(gone) = gone.filter(|gone| *gone != expected) {
        let what = format!("jobs_gone is {gone}, and {expected} jobs are not there");
        examined.add(FindingKind::Meta, ("meta", "jobs_gone"), what, true);
    }
    Ok(())
}

/// So many entries, and a sum that tells other entries from these, in whatever order they come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    count: u64,
    sum: u64,
}

impl Sum {
    fn add(&mut self, entry: impl Hash) {
        let mut hasher = DefaultHasher::new();
        entry.hash(&mut hasher);
        self.count += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
    }
}

/// The entries of the derived tables.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    postings: Sum,
    ids: Sum,
    jobs: Sum,
    job_seqs: Sum,
}

async fn check_derived(
    connection: &mut SqliteConnection,
    derived: Mark,
    undecoded: &Undecoded,
    examined: &mut Examined,
) -> Result<(), StoreError> {
    let mut of_log = Sums::default();
    let gone = sum_claims(connection, derived.seq, &mut of_log).await?;
    let jobs_gone = sum_jobs(connection, derived.job, undecoded, &mut of_log).await?;
    let mut of_tables = Sums::default();
    let skipped = |seq: u64| gone.contains(&seq) || undecoded.claims.contains(&seq);
    sum_postings(connection, derived.seq, skipped, &mut of_tables, examined).await?;
    let all = |number: u64| undecoded.jobs.contains(&number) || jobs_gone.contains(&number);
    let unsure: BTreeSet<u64> = gone.iter().copied().filter(|seq| *seq > derived.seq.0).collect();
    let skipped = |seq: u64| undecoded.claims.contains(&seq) || unsure.contains(&seq);
    of_tables.ids =
        sum_pairs(connection, "SELECT hash, seq FROM attestation_ids", derived.seq.0, skipped)
            .await?;
    of_tables.jobs =
        sum_pairs(connection, "SELECT hash, number FROM job_ids", derived.job.0, all).await?;
    of_tables.job_seqs =
        sum_pairs(connection, "SELECT seq, number FROM job_seqs", derived.job.0, all).await?;
    let compared = [
        ("postings", of_tables.postings, of_log.postings),
        ("attestation_ids", of_tables.ids, of_log.ids),
        ("job_ids", of_tables.jobs, of_log.jobs),
        ("job_seqs", of_tables.job_seqs, of_log.job_seqs),
    ];
    for (table, found, expected) in compared {
        if found != expected {
            let what = format!(
                "does not agree with the log: it has {} entries, the log makes {}",
                found.count, expected.count
            );
            examined.add(FindingKind::Derived, (table, ""), what, true);
        }
    }
    Ok(())
}

/// Adds up what the claims make, and answers the numbers of those that are gone.
async fn sum_claims(
    connection: &mut SqliteConnection,
    upto: Seq,
    sums: &mut Sums,
) -> Result<BTreeSet<u64>, StoreError> {
    let failed = failed("examine the log");
    let select = select_attestations!("'null'", "WHERE seq <= ?");
    let mut rows = sqlx::query(select).bind(upto.0.cast_signed()).fetch(&mut *connection);
    while let Some(row) = rows.try_next().await.map_err(&failed)? {
        let Ok(claim) = read_attestation(&row) else { continue };
        for entry in Entries::of([&claim].into_iter(), [].iter()).attestations {
            sums.ids.add((entry.hash, entry.seq.0));
            // Two spellings of one folded term are one posting.
            let terms: BTreeSet<_> = entry.terms.into_iter().collect();
            for (dimension, term) in terms {
                sums.postings.add((dimension, &*term, entry.seq.0));
            }
        }
    }
    drop(rows);
    let mut gone = BTreeSet::new();
    let mut rows = sqlx::query(REMOVED.select).fetch(connection);
    while let Some(row) = rows.try_next().await.map_err(&failed)? {
        let seq: i64 = row.try_get("seq").map_err(&failed)?;
        gone.insert(seq.cast_unsigned());
        let Ok(removed) = read_removed(&row) else { continue };
        if removed.seq <= upto {
            sums.ids.add((removed.id.hash64(), removed.seq.0));
        }
    }
    Ok(gone)
}

/// Adds up what the jobs make, and answers the numbers of those in quarantine.
async fn sum_jobs(
    connection: &mut SqliteConnection,
    upto: JobNumber,
    undecoded: &Undecoded,
    sums: &mut Sums,
) -> Result<BTreeSet<u64>, StoreError> {
    let failed = failed("examine the jobs");
    let select = "SELECT number, id, seq FROM jobs WHERE number <= ?";
    let mut rows = sqlx::query_as::<_, (i64, Vec<u8>, Option<i64>)>(select)
        .bind(upto.0.cast_signed())
        .fetch(&mut *connection);
    while let Some((number, id, seq)) = rows.try_next().await.map_err(&failed)? {
        let number = number.cast_unsigned();
        let Ok(id) = id.try_into() else { continue };
        if undecoded.jobs.contains(&number) {
            continue;
        }
        sums.jobs.add((JobId(id).hash64(), number));
        if let Some(seq) = seq {
            sums.job_seqs.add((seq, number));
        }
    }
    drop(rows);
    let numbers: Vec<i64> = sqlx::query_scalar(
        "SELECT CAST(\"row\" AS INTEGER) FROM quarantine WHERE \"table\" = 'jobs'",
    )
    .fetch_all(connection)
    .await
    .map_err(&failed)?;
    Ok(numbers.into_iter().map(i64::cast_unsigned).collect())
}

async fn sum_postings(
    connection: &mut SqliteConnection,
    upto: Seq,
    skipped: impl Fn(u64) -> bool,
    sums: &mut Sums,
    examined: &mut Examined,
) -> Result<(), StoreError> {
    let failed = failed("examine postings");
    let select = "SELECT dimension, term, first_seq, seqs FROM postings \
         ORDER BY dimension, term, first_seq";
    let mut rows = sqlx::query(select).fetch(connection);
    let (mut term, mut last) = ((0, String::new()), 0);
    while let Some(row) = rows.try_next().await.map_err(&failed)? {
        let dimension: i64 = row.try_get(0).map_err(&failed)?;
        let bytes: &[u8] = row.try_get_unchecked(1).map_err(&failed)?;
        let text = String::from_utf8_lossy(bytes).into_owned();
        let first: i64 = row.try_get(2).map_err(&failed)?;
        let mut seqs = Vec::new();
        let unpacked = unpack(first.cast_unsigned(), row.try_get(3).map_err(&failed)?, &mut seqs);
        let of_term = (dimension, text);
        let follows = of_term != term || seqs.first().is_some_and(|first| *first > last);
        let wrong = match unpacked {
            Err(reason) => Some(format!("does not decode: {reason}")),
            Ok(()) if !follows => Some(format!("overlaps with the row before it, up to {last}")),
            Ok(()) => None,
        };
        if let Some(what) = wrong {
            let key = serde_json::json!([of_term.0, of_term.1, first]).to_string();
            examined.add(FindingKind::Derived, ("postings", &key), what, true);
        }
        last = seqs.last().copied().unwrap_or(0);
        for seq in seqs.into_iter().filter(|seq| *seq <= upto.0 && !skipped(*seq)) {
            let dimension = usize::try_from(of_term.0).unwrap_or(usize::MAX);
            sums.postings.add((dimension, of_term.1.as_str(), seq));
        }
        term = of_term;
    }
    Ok(())
}

async fn sum_pairs(
    connection: &mut SqliteConnection,
    select: &'static str,
    upto: u64,
    skipped: impl Fn(u64) -> bool,
) -> Result<Sum, StoreError> {
    let failed = failed("examine derived tables");
    let mut sum = Sum::default();
    let mut rows = sqlx::query_as::<_, (i64, i64)>(select).fetch(connection);
    while let Some((key, number)) = rows.try_next().await.map_err(&failed)? {
        let number = number.cast_unsigned();
        if number <= upto && !skipped(number) {
            sum.add((key, number));
        }
    }
    Ok(sum)
}

/// Rows that need others.
const REFERENCES: [(&str, &str, &str); 4] = [
    (
        "jobs",
        "its claim is not in the log any more, and it has not ended",
        "SELECT number FROM jobs WHERE state IN (0, 1, 2, 4) AND seq IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM attestations WHERE attestations.seq = jobs.seq) LIMIT 1000",
    ),
    (
        "jobs",
        "its watcher is not there, and it has not ended",
        "SELECT number FROM jobs WHERE state IN (0, 1, 2) AND watcher IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM watchers WHERE watchers.number = jobs.watcher) LIMIT 1000",
    ),
    (
        "jobs",
        "the job that it is a part of is not there, and it has not ended",
        "SELECT number FROM jobs WHERE watcher IS NULL AND state IN (0, 1, 2) AND parent IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM jobs AS above WHERE above.number = jobs.parent) LIMIT 1000",
    ),
    (
        "passes",
        "its watcher is not there",
        "SELECT watcher FROM passes WHERE cursor IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM watchers WHERE watchers.number = passes.watcher) LIMIT 1000",
    ),
];

async fn check_references(
    connection: &mut SqliteConnection,
    examined: &mut Examined,
) -> Result<(), StoreError> {
    for (table, what, select) in REFERENCES {
        let rows: Vec<i64> = sqlx::query_scalar(select)
            .fetch_all(&mut *connection)
            .await
            .map_err(failed("examine references"))?;
        for row in rows {
            examined.add(FindingKind::Reference, (table, &row.to_string()), what, false);
        }
    }
    Ok(())
}

/// Puts aside all rows that do not decode, and answers how many.
async fn put_all_aside(
    connection: &mut SqliteConnection,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let failed = failed("put rows into quarantine");
    let mut moved = 0;
    for table in TABLES {
        let mut bad = Vec::new();
        let mut rows = sqlx::query(table.select).fetch(&mut *connection);
        while let Some(row) = rows.try_next().await.map_err(&failed)? {
            bad.extend(Bad::of(table, &row).map(|bad| (table.key_of(&row), bad)));
        }
        drop(rows);
        for rows in bad.chunks(PUT_ASIDE_ROWS) {
            let mut transaction =
                connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
            for (key, bad) in rows {
                put_aside(&mut transaction, table, key, bad, now).await.map_err(&failed)?;
            }
            transaction.commit().await.map_err(&failed)?;
        }
        moved += bad.len();
    }
    Ok(moved)
}

/// Lets meta say what is true of the jobs.
async fn correct_meta(connection: &mut SqliteConnection, head: Seq) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query(
        "UPDATE meta SET value = min(CAST(value AS INTEGER), ?) WHERE key IN ('matched_seq', 'heeded_seq')",
    )
    .bind(head.0.cast_signed())
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "UPDATE meta SET value = min(CAST(value AS INTEGER), \
         ifnull((SELECT min(number) FROM jobs WHERE state IN (0, 1, 2) AND watcher IS NOT NULL), value)) \
         WHERE key = 'open_jobs_from'",
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "UPDATE meta SET value = max(ifnull((SELECT max(number) FROM jobs), 0), \
         ifnull((SELECT max(CAST(\"row\" AS INTEGER)) FROM quarantine WHERE \"table\" = 'jobs'), 0)) \
         - (SELECT count(*) FROM jobs) WHERE key = 'jobs_gone'",
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Makes the derived tables again: empties them, and writes one generation of the log after the other.
async fn derive_again(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let failed = failed("make the derived tables again");
    empty_derived(connection).await.map_err(&failed)?;
    let bounds = TailBounds::default();
    let tail = SharedTail::new(Tail::new(Mark::default()));
    let mut deriver = Deriver::new(tail.clone(), bounds);
    let (end, _) = read_marks(connection).await?;
    loop {
        let head = tail.read().head();
        let upto = Mark {
            seq: end.seq.min(Seq(head.seq.0 + DERIVED_ROWS)),
            job: end.job.min(JobNumber(head.job.0 + DERIVED_ROWS)),
        };
        fill(connection, &tail, &Spoilt::default(), upto).await?;
        let is_full = tail.read().live().is_full(&bounds);
        if is_full || upto == end {
            while let Some(slice) = deriver.for_retention() {
                let mut transaction = Transaction::begin(connection, false);
                slice.write(&mut transaction).await.map_err(&failed)?;
                transaction.commit().await.map_err(&failed)?;
                finish(tail.write(), &[slice]);
            }
        }
        if upto == end {
            return Ok(());
        }
    }
}

async fn empty_derived(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(
        "DELETE FROM postings; DELETE FROM attestation_ids; DELETE FROM job_ids; \
         DELETE FROM job_seqs; UPDATE meta SET value = 0 \
         WHERE key IN ('derived_seq', 'derived_job', 'deriving_seq', 'deriving_job')",
    )
    .execute(&mut *transaction)
    .await?;
    // The log does not know any more of those that are gone.
    let rows: Vec<SqliteRow> = sqlx::query(REMOVED.select).fetch_all(&mut *transaction).await?;
    for removed in rows.iter().filter_map(|row| read_removed(row).ok()) {
        sqlx::query("INSERT OR IGNORE INTO attestation_ids (hash, seq) VALUES (?, ?)")
            .bind(removed.id.hash64())
            .bind(removed.seq.0.cast_signed())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}
