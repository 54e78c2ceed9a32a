//! Answers questions: what the tail knows first, then the tables up to where the tail begins.
//!
//! Beside the writer the tail is the writer's own. Elsewhere a reader keeps a tail for itself, and
//! before each question takes in what was committed since.
//!
//! Rows of the log and of postings never change once they are there, so a question that is bound to
//! one head needs no transaction around its statements.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axwatch_model::{
    Ancestor, Asker, AttestationId, BudgetRow, Counters, HandlerChangeRow, HandlerName, HandlerRow,
    HandlerSpendRow, HoldRow, JobEntryRow, JobId, JobIdPrefix, JobNumber, JobOrigin, JobRow,
    JobState, LaneKey, LeafNumber, OpenAsked, PassRow, Place, PluginName, PluginRow, RefusedRow,
    RevisionRow, RouteRow, ScheduleId, ScheduleRow, ScheduleRunRow, Seq, SpendRow, Stored,
    Timestamp, WatcherNumber, WatcherRow, bounds,
};
use axwatch_query::AliasChange;
use futures::future::FutureExt;
use futures::stream::{self, StreamExt as _};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{Row, Sqlite};
use tokio::sync::Mutex;

use super::bulk;
use super::connect::read_options;
use super::derive::{SharedTail, fill, read_marks};
use super::older::show_as_present;
use super::open::{open_for_reading, refuse_past_the_end};
use super::quarantine::Spoilt;
use super::rows::{
    self, Select, Together, asked_text, attestation_text, is_open_asked, rank, read_attestation,
    read_job, read_together, select_attestations, select_audit, select_both, select_jobs,
    select_jobs_with,
};
use super::times::{BlockTimes, Times};
use super::trip::Values;
use super::{failed, search};
use crate::append::Removed;
use crate::store::{
    AuditRow, Counted, JobCounts, JobsQuery, LaneQuery, Opened, Page, Question, SEGMENT_BYTES_MAX,
    Store, StoreError, StoreFuture, WatcherPages, watcher_pages_after,
};
use crate::tail::{Mark, PARENT_JOB, Tail, job_term};

const CONNECTIONS: u32 = 4;
/// Rows that are fetched at once: enough to pay for the trip, few enough to hold.
pub(super) const FETCH_ROWS: usize = 256;
/// Rows of over 4 KiB that are read at once where it can be gone on behind them; each may have a megabyte.
const LARGE_ROWS: usize = 8;

#[derive(Debug)]
pub(super) struct SqliteReader {
    pool: SqlitePool,
    tail: SharedTail,
    opened: Opened,
    times: BlockTimes,
    /// Rows that did not decode.
    spoilt: Spoilt,
    /// The file, if it has the present schema for sure and nobody else writes to it.
    bulk: Option<PathBuf>,
    /// Of a reader whose tail nobody else keeps up to date: held by whoever does it now.
    following: Option<Mutex<()>>,
}

impl SqliteReader {
    /// Opens a store of which another process may be the writer.
    pub async fn open(path: &Path) -> Result<SqliteReader, StoreError> {
        let (path, opened, derivation) = open_for_reading(path).await?;
        refuse_past_the_end(&path, &opened, &derivation)?;
        let tail = SharedTail::new(Tail::new(derivation.derived));
        let following = Some(Mutex::new(()));
        let times = BlockTimes::default();
        let pool = pool(&path, opened.schema);
        let spoilt = Spoilt::default();
        let reader = SqliteReader { pool, tail, opened, times, spoilt, bulk: None, following };
        reader.connection().await?;
        Ok(reader)
    }

    /// Reads beside the writer of this process, whose tail it shares.
    pub fn beside_writer(
        path: &Path,
        tail: SharedTail,
        spoilt: Spoilt,
        opened: Opened,
    ) -> SqliteReader {
        let times = BlockTimes::default();
        let pool = pool(path, opened.schema);
        let bulk = Some(path.to_owned());
        SqliteReader { pool, tail, opened, times, spoilt, bulk, following: None }
    }

    /// Lets go of all connections, once the questions under way are answered.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A connection, once the tail holds all that was committed before.
    async fn connection(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        let mut connection =
            self.pool.acquire().await.map_err(failed("open a connection for reading"))?;
        if let Some(following) = &self.following {
            let _alone = following.lock().await;
            let (head, derived) = read_marks(&mut connection).await?;
            if derived != self.tail.read().derived() {
                self.tail.write().forget_upto(derived);
            }
            fill(&mut connection, &self.tail, &self.spoilt, head).await?;
        }
        Ok(connection)
    }

    fn head_mark(&self) -> Mark {
        self.tail.read().head()
    }

    async fn get_now(&self, id: &AttestationId) -> Result<Option<Stored>, StoreError> {
        let mut connection = self.connection().await?;
        let seqs = seqs_of_hashes(&mut connection, &self.tail, &[id.hash64()]).await?;
        let rows = fetch_by_seqs(&mut connection, &self.spoilt, &seqs).await?;
        Ok(rows.into_iter().find(|row| row.attestation.id == *id))
    }

    async fn removed_now(&self, id: &AttestationId) -> Result<Option<Removed>, StoreError> {
        let mut connection = self.connection().await?;
        let seqs = seqs_of_hashes(&mut connection, &self.tail, &[id.hash64()]).await?;
        let rows = fetch_removed(&mut connection, &self.spoilt, &seqs).await?;
        Ok(rows.into_iter().find(|removed| removed.id == *id))
    }

    async fn count_quarantined(&self) -> Result<u64, StoreError> {
        let mut connection = self.connection().await?;
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM quarantine")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed("count what is in quarantine"))?;
        Ok(rows.cast_unsigned())
    }

    async fn generation_floor_now(&self) -> Result<u32, StoreError> {
        let mut connection = self.connection().await?;
        let failed = failed("look for the generations of watchers in quarantine");
        let some: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM quarantine WHERE \"table\" = 'watchers')",
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
        if !some {
            return Ok(0);
        }
        // Reads all jobs, which is the price of a damaged store alone.
        let last: Option<i64> = sqlx::query_scalar(
            "WITH gone(number) AS (SELECT CAST(\"row\" AS INTEGER) FROM quarantine WHERE \"table\" = 'watchers')
             SELECT max(generation) FROM (
                SELECT generation FROM watcher_revisions WHERE watcher IN (SELECT number FROM gone)
                UNION ALL SELECT generation FROM passes WHERE watcher IN (SELECT number FROM gone)
                UNION ALL SELECT generation FROM jobs WHERE watcher IN (SELECT number FROM gone))",
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
        let last = u32::try_from(last.unwrap_or(0)).unwrap_or(0);
        Ok(last.saturating_add(1))
    }

    async fn read_after_now(&self, after: Seq, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let mut connection = self.connection().await?;
        let head = self.head_mark().seq;
        let (mut after, mut found, mut bytes) = (after, Vec::new(), 0);
        while found.len() < limit && after < head {
            let fetched = fetch_oldest(&mut connection, &self.spoilt, &READ_AFTER, |values| {
                values.add(signed(after.0));
                values.add(signed(head.0));
                values.add(bounded(FETCH_ROWS.min(limit - found.len())));
            });
            let fetched = fetched.await?;
            let Some(last) = fetched.highest() else { break };
            after = last;
            for row in fetched.rows {
                bytes += row.attestation.text_bytes();
                found.push(row);
                if bytes > SEGMENT_BYTES_MAX {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    async fn made_by_now(&self, job: JobId, limit: usize) -> Result<Counted<Stored>, StoreError> {
        let mut connection = self.connection().await?;
        let terms = [Box::from(job_term(job))];
        let mut made = search::Search::new(&self.tail, [(PARENT_JOB, terms.as_slice())], None);
        let mut seqs = Vec::new();
        while let Some(seq) = made.next(&mut connection).await? {
            seqs.push(Seq(seq));
        }
        let all = seqs.len() as u64;
        seqs.sort_unstable();
        seqs.truncate(limit);
        Ok(Counted { first: fetch_by_seqs(&mut connection, &self.spoilt, &seqs).await?, all })
    }

    async fn jobs_beginning_now(
        &self,
        prefix: &JobIdPrefix,
        limit: usize,
    ) -> Result<Vec<JobRow>, StoreError> {
        let mut connection = self.connection().await?;
        let failed = failed("read jobs");
        let (first, last) = prefix.range();
        let (first, last) = (first.hash64(), last.hash64());
        // Of one hash there are hardly ever two, and only the ids themselves tell them apart.
        let limit_of_hashes = if first == last { usize::MAX } else { limit };
        let mut found = self.tail.read().numbers_of_jobs(first, last, limit_of_hashes);
        let pairs: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT hash, number FROM job_ids WHERE hash BETWEEN ? AND ? ORDER BY hash, number LIMIT ?",
        )
        .bind(first)
        .bind(last)
        .bind(bounded(limit_of_hashes))
        .fetch_all(&mut *connection)
        .await
        .map_err(&failed)?;
        found.extend(pairs.into_iter().map(|(hash, number)| (hash, number.cast_unsigned())));
        let numbers = found.into_iter().map(|(_, number)| number).collect();
        let mut jobs = fetch_jobs(&mut connection, &self.spoilt, FETCH_JOBS, &numbers).await?;
        jobs.retain(|job| prefix.begins(job.id));
        jobs.sort_unstable_by_key(|job| job.id);
        jobs.truncate(limit);
        Ok(jobs)
    }

    async fn jobs_of_now(&self, seq: Seq, limit: usize) -> Result<Counted<JobRow>, StoreError> {
        let mut connection = self.connection().await?;
        let mut numbers: BTreeSet<u64> = self.tail.read().jobs_of_seq(seq).collect();
        let found: Vec<i64> = sqlx::query_scalar("SELECT number FROM job_seqs WHERE seq = ?")
            .bind(signed(seq.0))
            .fetch_all(&mut *connection)
            .await
            .map_err(failed("read jobs"))?;
        numbers.extend(found.into_iter().map(i64::cast_unsigned));
        let all = numbers.len() as u64;
        let first: BTreeSet<u64> = numbers.into_iter().take(limit).collect();
        let first = fetch_jobs(&mut connection, &self.spoilt, FETCH_JOBS, &first).await?;
        Ok(Counted { first, all })
    }

    async fn children_now(
        &self,
        parent: JobNumber,
        limit: usize,
    ) -> Result<Counted<JobRow>, StoreError> {
        let step = "read the children of a job";
        let bind = |values: &mut Values| values.add(signed(parent.0));
        let first = self.fetch_up_to(step, CHILDREN, limit, bind, read_job).await?;
        let mut connection = self.connection().await?;
        let all: i64 = sqlx::query_scalar(COUNT_CHILDREN)
            .bind(signed(parent.0))
            .fetch_one(&mut *connection)
            .await
            .map_err(failed(step))?;
        Ok(Counted { first, all: all.cast_unsigned() })
    }

    async fn job_now(
        &self,
        id: JobId,
        statement: &'static str,
    ) -> Result<Option<JobRow>, StoreError> {
        let mut connection = self.connection().await?;
        let failed = failed("read jobs");
        let mut numbers: Vec<u64> = self.tail.read().numbers_of_job(id.hash64()).collect();
        let found: Vec<i64> = sqlx::query_scalar("SELECT number FROM job_ids WHERE hash = ?")
            .bind(id.hash64())
            .fetch_all(&mut *connection)
            .await
            .map_err(&failed)?;
        numbers.extend(found.into_iter().map(i64::cast_unsigned));
        if numbers.is_empty() {
            return Ok(None);
        }
        let numbers = numbers.into_iter().collect();
        let jobs = fetch_jobs(&mut connection, &self.spoilt, statement, &numbers).await?;
        Ok(jobs.into_iter().find(|job| job.id == id))
    }

    /// What a statement finds, without the rows that do not decode.
    async fn fetch<T>(
        &self,
        step: &'static str,
        statement: &'static str,
        bind: impl FnOnce(&mut Values) + Send,
        read: fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let rows = self.rows(step, statement, bind).await?;
        self.spoilt.keep(rows.iter().map(read))
    }

    /// The same of a statement whose last parameter bounds its rows: as many as that if there are, so that
    /// fewer always mean that there are no more.
    async fn fetch_up_to<T>(
        &self,
        step: &'static str,
        statement: &'static str,
        limit: usize,
        bind: impl Fn(&mut Values) + Send + Sync,
        read: fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut asked = limit;
        loop {
            let bind = |values: &mut Values| {
                bind(values);
                values.add(bounded(asked));
            };
            let rows = self.rows(step, statement, bind).await?;
            let mut found = self.spoilt.keep(rows.iter().map(read))?;
            if rows.len() < asked || found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
            asked += rows.len() - found.len();
        }
    }

    async fn rows(
        &self,
        step: &'static str,
        statement: &'static str,
        bind: impl FnOnce(&mut Values) + Send,
    ) -> Result<Vec<SqliteRow>, StoreError> {
        let mut connection = self.connection().await?;
        let mut values = Values::default();
        bind(&mut values);
        sqlx::query_with(statement, values.into_arguments())
            .fetch_all(&mut *connection)
            .await
            .map_err(failed(step))
    }

    /// What a statement finds in the audit, whose rows are never left out.
    async fn fetch_audit<T>(
        &self,
        statement: &'static str,
        bind: impl FnOnce(&mut Values) + Send,
        read: fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        self.rows("read the audit", statement, bind).await?.iter().map(read).collect()
    }
}

/// How many jobs there are at all (as -1), and how many in each state but `completed`: one statement,
/// so one snapshot. The states stand in it as numbers, so that SQLite sees that the indexes have them all.
const COUNT_JOBS: &str = concat!(
    "SELECT -1, \
     max(ifnull((SELECT max(number) FROM jobs), 0), ifnull((SELECT max(CAST(\"row\" AS INTEGER)) \
         FROM quarantine WHERE \"table\" = 'jobs'), 0)) \
     - ifnull((SELECT value FROM meta WHERE key = 'jobs_gone'), 0) \
     UNION ALL SELECT state, count(*) FROM jobs WHERE state IN (4, 5) GROUP BY state \
     UNION ALL SELECT state, count(*) FROM jobs WHERE watcher IS NOT NULL AND state IN (0, 1, 2) \
     AND number >= (SELECT value FROM meta WHERE key = 'open_jobs_from') GROUP BY state \
     UNION ALL SELECT state, count(*) FROM jobs WHERE ",
    is_open_asked!(),
    " GROUP BY state"
);

fn counts_of(rows: &[(i64, i64)]) -> JobCounts {
    let of = |code: i64| {
        let rows = rows.iter().filter(|(found, _)| *found == code);
        rows.map(|(_, count)| count.cast_unsigned()).sum::<u64>()
    };
    let of_state = |state: JobState| of(i64::from(state.code()));
    let counts = JobCounts {
        queued: of_state(JobState::Queued),
        running: of_state(JobState::Running),
        paused: of_state(JobState::Paused),
        completed: 0,
        failed: of_state(JobState::Failed),
        cancelled: of_state(JobState::Cancelled),
    };
    let others = counts.queued + counts.running + counts.paused + counts.failed + counts.cancelled;
    JobCounts { completed: of(-1).saturating_sub(others), ..counts }
}

/// Open fires, from a number on.
macro_rules! open_fires_after {
    () => {
        "WHERE number > ?1 AND watcher IS NOT NULL AND state IN (0, 1, 2) "
    };
}

pub(super) const OPEN_FIRES: &str =
    select_jobs_with!("NULL, result", open_fires_after!(), "ORDER BY number LIMIT ?2");

/// No fire below the mark is open, so the first half begins there; the other half is an index.
pub(super) const OPEN_JOBS: &str = concat!(
    select_jobs!(
        open_fires_after!(),
        "AND number >= (SELECT value FROM meta WHERE key = 'open_jobs_from') "
    ),
    "UNION ALL ",
    select_jobs!("WHERE number > ?1 AND ", is_open_asked!()),
    " ORDER BY number LIMIT ?2"
);

/// The fires of a lane that wait.
const LANE_OF_FIRES: &str = select_jobs_with!(
    "NULL, result",
    "WHERE number >= ? AND state = 0 AND watcher = ? AND generation = ? AND handler = ? \
     AND (due_at IS NULL OR due_at <= ?) ORDER BY number LIMIT ?"
);

/// The jobs of a lane that wait and were asked for, from a place on: rank and number.
pub(super) const LANE_OF_ASKED: &str = select_jobs_with!(
    "NULL, result",
    "WHERE state = 0 AND ",
    is_open_asked!(),
    " AND handler = ?1 AND asker IS ?2 AND ",
    rank!(),
    " >= ?3 AND (",
    rank!(),
    " > ?3 OR number >= ?4) AND (due_at IS NULL OR due_at <= ?5) ORDER BY ",
    rank!(),
    ", number LIMIT ?6"
);

const COUNT_FIRES_AHEAD: &str = "SELECT count(*) FROM jobs WHERE number >= ?1 AND number < ?2 \
     AND state = 0 AND watcher = ?3 AND generation = ?4 AND handler = ?5 \
     AND number >= (SELECT value FROM meta WHERE key = 'open_jobs_from')";

pub(super) const COUNT_ASKED_AHEAD: &str = concat!(
    "SELECT count(*) FROM jobs WHERE state = 0 AND ",
    is_open_asked!(),
    " AND handler = ?1 AND asker IS ?2 AND ",
    rank!(),
    " >= ?3 AND ",
    rank!(),
    " <= ?5 AND (",
    rank!(),
    " > ?3 OR number >= ?4) AND (",
    rank!(),
    " < ?5 OR number < ?6)"
);

const CHILDREN: &str =
    select_jobs_with!("NULL, NULL", "WHERE watcher IS NULL AND parent = ? ORDER BY number LIMIT ?");

const COUNT_CHILDREN: &str = "SELECT count(*) FROM jobs WHERE watcher IS NULL AND parent = ?";

/// From the parent of a job upwards: each has a lower number than its children.
pub(super) const ABOVE: &str = concat!(
    "WITH RECURSIVE up (number, level) AS (SELECT parent, 1 FROM jobs WHERE number = ?1 \
     AND parent IS NOT NULL UNION ALL SELECT parent, level + 1 FROM up JOIN jobs \
     ON jobs.number = up.number WHERE parent IS NOT NULL AND level < ?2) ",
    select_jobs_with!("NULL, NULL", "WHERE number IN (SELECT number FROM up) ORDER BY number DESC")
);

/// What a [`JobsQuery`] asks for, whichever way the rows are found.
macro_rules! is_asked_for {
    () => {
        "number < ?1 AND number > ?2 \
         AND (?3 IS NULL OR state IN (SELECT value FROM json_each(?3))) \
         AND (?4 IS NULL OR watcher = ?4) AND (?5 IS NULL OR origin = ?5) \
         AND (?6 IS NULL OR substr(handler, instr(handler, '/') + 1) = ?6) \
         AND (?7 IS NULL OR plugin = ?7) AND (?8 IS NULL OR plugin = ?8 OR owner = ?8) \
         AND (?9 IS NULL OR asker = ?9) AND (?10 IS NULL OR source = ?10) \
         AND (?11 IS NULL OR parent = ?11) AND (?12 IS NULL OR schedule = ?12) "
    };
}

macro_rules! search_jobs {
    ($more:literal) => {
        select_jobs_with!(
            "iif(?13, NULL, (SELECT payload FROM job_payloads WHERE job = jobs.number)), \
             iif(?13, NULL, result)",
            "WHERE ",
            is_asked_for!(),
            $more,
            "ORDER BY number DESC LIMIT ?14"
        )
    };
}

/// Through the whole table, from its end.
const SEARCH_ALL: &str = search_jobs!("");
// The states as numbers, so that SQLite sees that an index has them.
pub(super) const SEARCH_FAILED: &str = search_jobs!("AND state = 4 AND state IN (4, 5) ");
const SEARCH_CANCELLED: &str = search_jobs!("AND state = 5 AND state IN (4, 5) ");
pub(super) const SEARCH_CHILDREN: &str = search_jobs!("AND watcher IS NULL AND parent = ?11 ");
pub(super) const SEARCH_RUNS: &str = search_jobs!("AND watcher IS NULL AND schedule = ?12 ");
/// As [`OPEN_JOBS`], from the end.
pub(super) const SEARCH_OPEN: &str = concat!(
    select_jobs_with!(
        "iif(?13, NULL, (SELECT payload FROM job_payloads WHERE job = jobs.number)), \
             iif(?13, NULL, result)",
        "WHERE ",
        is_asked_for!(),
        "AND watcher IS NOT NULL AND number >= (SELECT value FROM meta WHERE key = 'open_jobs_from') "
    ),
    "UNION ALL ",
    select_jobs_with!(
        "iif(?13, NULL, (SELECT payload FROM job_payloads WHERE job = jobs.number)), \
             iif(?13, NULL, result)",
        "WHERE ",
        is_asked_for!(),
        "AND ",
        is_open_asked!()
    ),
    " ORDER BY number DESC LIMIT ?14"
);

/// The way to the rows that reads the fewest.
fn search_for(query: &JobsQuery) -> &'static str {
    let are_open = !query.states.is_empty() && query.states.iter().all(|state| state.is_open());
    match &query.states[..] {
        _ if query.parent.is_some() => SEARCH_CHILDREN,
        _ if query.schedule.is_some() => SEARCH_RUNS,
        [JobState::Failed] => SEARCH_FAILED,
        [JobState::Cancelled] => SEARCH_CANCELLED,
        _ if are_open => SEARCH_OPEN,
        _ => SEARCH_ALL,
    }
}

fn bind_search(values: &mut Values, query: &JobsQuery) {
    let states: Vec<u8> = query.states.iter().map(|state| state.code()).collect();
    let states = serde_json::to_string(&states).expect("numbers are always JSON");
    values.add(query.before.map_or(i64::MAX, |before| signed(before.0)));
    values.add(query.after.map_or(-1, |after| signed(after.0)));
    values.add(Some(states).filter(|_| !query.states.is_empty()));
    values.add(query.watcher.map(|number| number.0.cast_signed()));
    values.add(query.fires_only.then_some(JobOrigin::Fire.code()));
    values.add(query.handler.as_ref().map(HandlerName::as_str));
    values.add(query.plugin.as_ref().map(PluginName::as_str));
    values.add(query.own.as_ref().map(PluginName::as_str));
    values.add(query.asker.as_ref().map(Asker::as_str));
    values.add(query.source.clone());
    values.add(query.parent.map(|parent| signed(parent.0)));
    values.add(query.schedule.as_ref().map(|schedule| schedule.0.as_slice()));
    values.add(query.bare);
}

/// The lane of jobs that were asked for, as their statements have it.
fn bind_asked_lane(values: &mut Values, lane: &LaneKey, place: Place) {
    values.add(lane.handler.clone());
    values.add(lane.asker.as_ref().map(Asker::as_str));
    values.add(place.rank);
    values.add(signed(place.number.0));
}

/// Connections that see a store of an older schema as if it were of ours.
fn pool(path: &Path, schema: i64) -> SqlitePool {
    SqlitePoolOptions::new()
        .after_connect(move |connection, _| Box::pin(show_as_present(connection, schema)))
        .max_connections(CONNECTIONS)
        .min_connections(0)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(read_options(path))
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn bounded(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Numbers of attestations that may have one of these hashes of ids: all that have, and by a chance
/// that hardly is one, others.
pub(super) async fn seqs_of_hashes(
    connection: &mut SqliteConnection,
    tail: &SharedTail,
    hashes: &[i64],
) -> Result<Vec<Seq>, StoreError> {
    let mut found: Vec<Seq> = {
        let tail = tail.read();
        hashes.iter().flat_map(|hash| tail.seqs_of_id(*hash)).map(Seq).collect()
    };
    let hashes = serde_json::to_string(hashes).expect("numbers are always JSON");
    let seqs: Vec<i64> = sqlx::query_scalar(
        "SELECT seq FROM attestation_ids WHERE hash IN (SELECT value FROM json_each(?))",
    )
    .bind(hashes)
    .fetch_all(connection)
    .await
    .map_err(failed("look up ids of attestations"))?;
    found.extend(seqs.into_iter().map(|seq| Seq(seq.cast_unsigned())));
    Ok(found)
}

/// What stays of the claims with these numbers that are gone, or that do not decode.
pub(super) async fn fetch_removed(
    connection: &mut SqliteConnection,
    spoilt: &Spoilt,
    seqs: &[Seq],
) -> Result<Vec<Removed>, StoreError> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    let seqs = serde_json::to_string(seqs).expect("numbers are always JSON");
    let rows = sqlx::query(
        "SELECT seq, id, filled, content FROM removed \
         WHERE seq IN (SELECT value FROM json_each(?1)) \
         UNION ALL SELECT seq, id, 0, NULL FROM attestations \
         WHERE seq IN (SELECT value FROM json_each(?1))",
    )
    .bind(seqs)
    .fetch_all(connection)
    .await
    .map_err(failed("look up ids of attestations"))?;
    spoilt.keep(rows.iter().map(rows::read_removed))
}

/// The attestations with these numbers, rising.
pub(super) async fn fetch_by_seqs(
    connection: &mut SqliteConnection,
    spoilt: &Spoilt,
    seqs: &[Seq],
) -> Result<Vec<Stored>, StoreError> {
    let sorted: Vec<Seq> = seqs.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let mut found = Vec::with_capacity(sorted.len());
    for seqs in sorted.chunks(FETCH_ROWS) {
        let seqs = serde_json::to_string(seqs).expect("numbers are always JSON");
        let fetched = fetch_attestations(connection, spoilt, &FETCH_BY_SEQS, |values| {
            values.add(seqs.clone());
            values.add(Times::ANY.lowest);
            values.add(Times::ANY.highest);
        });
        found.extend(fetched.await?.rows);
    }
    Ok(found)
}

pub(super) const FETCH_BY_SEQS: Select =
    select_both!("WHERE seq IN (SELECT value FROM json_each(?)) AND timestamp BETWEEN ? AND ?");

const READ_AFTER: Select = select_both!("WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?");

/// What a statement found in the log.
pub(super) struct Fetched {
    /// Rising by number.
    pub rows: Vec<Stored>,
    /// The numbers of rows that do not decode.
    spoilt: Vec<Seq>,
}

impl Fetched {
    /// How many rows there were.
    pub fn count(&self) -> usize {
        self.rows.len() + self.spoilt.len()
    }

    pub fn highest(&self) -> Option<Seq> {
        self.spoilt.iter().copied().max().max(self.rows.last().map(|row| row.seq))
    }

    pub fn lowest(&self) -> Option<Seq> {
        let rows = self.rows.first().map(|row| row.seq);
        self.spoilt.iter().copied().chain(rows).min()
    }

    /// Reads these rows too, one by one.
    async fn add_large(
        &mut self,
        connection: &mut SqliteConnection,
        spoilt: &Spoilt,
        large: &[Seq],
    ) -> Result<(), StoreError> {
        if large.is_empty() {
            return Ok(());
        }
        let mut values = Values::default();
        values.add(serde_json::to_string(large).expect("numbers are always JSON"));
        values.add(Times::ANY.lowest);
        values.add(Times::ANY.highest);
        let read = fetch_by_row(connection, spoilt, FETCH_BY_SEQS.by_row, values).await?;
        self.rows.extend(read.rows);
        self.rows.sort_unstable_by_key(|row| row.seq);
        self.spoilt.extend(read.spoilt);
        Ok(())
    }
}

/// What a statement finds, without the rows that do not decode.
pub(super) async fn fetch_attestations(
    connection: &mut SqliteConnection,
    spoilt: &Spoilt,
    select: &Select,
    bind: impl Fn(&mut Values),
) -> Result<Fetched, StoreError> {
    let (mut fetched, large) = find_attestations(connection, spoilt, select, bind).await?;
    fetched.add_large(connection, spoilt, &large).await?;
    Ok(fetched)
}

/// The newest of what a statement finds, without the rows that do not decode; and where it ends early, as
/// only so many large rows are read at once: the number of the newest row that was left.
pub(super) async fn fetch_newest(
    connection: &mut SqliteConnection,
    spoilt: &Spoilt,
    select: &Select,
    bind: impl Fn(&mut Values),
) -> Result<(Fetched, Option<Seq>), StoreError> {
    let (mut fetched, mut large) = find_attestations(connection, spoilt, select, bind).await?;
    large.sort_unstable();
    let left = large.len().saturating_sub(LARGE_ROWS);
    fetched.add_large(connection, spoilt, &large[left..]).await?;
    let cut = large[..left].last().copied();
    if let Some(cut) = cut {
        fetched.rows.retain(|row| row.seq > cut);
        fetched.spoilt.retain(|seq| *seq > cut);
    }
    Ok((fetched, cut))
}

/// The oldest of what a statement finds, without the rows that do not decode: only so many large rows are read
/// at once, and none behind the first that was left.
async fn fetch_oldest(
    connection: &mut SqliteConnection,
    spoilt: &Spoilt,
    select: &Select,
    bind: impl Fn(&mut Values),
) -> Result<Fetched, StoreError> {
    let (mut fetched, mut large) = find_attestations(connection, spoilt, select, bind).await?;
    large.sort_unstable();
    let (read, left) = large.split_at(large.len().min(LARGE_ROWS));
    fetched.add_large(connection, spoilt, read).await?;
    if let Some(cut) = left.first() {
        fetched.rows.retain(|row| row.seq < *cut);
        fetched.spoilt.retain(|seq| seq < cut);
    }
    Ok(fetched)
}

/// What a statement finds, without the rows that do not decode, and the numbers of those that are large and
/// were not read.
async fn find_attestations(
    connection: &mut SqliteConnection,
    spoilt: &Spoilt,
    select: &Select,
    bind: impl Fn(&mut Values),
) -> Result<(Fetched, Vec<Seq>), StoreError> {
    let values = || {
        let mut values = Values::default();
        bind(&mut values);
        values
    };
    let row = sqlx::query_with(select.together, values().into_arguments())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("read attestations"))?;
    let (mut fetched, large) = match read_together(&row) {
        Some(Together { rows, large }) => (Fetched { rows, spoilt: Vec::new() }, large),
        None => (fetch_by_row(connection, spoilt, select.by_row, values()).await?, Vec::new()),
    };
    fetched.rows.sort_unstable_by_key(|row| row.seq);
    Ok((fetched, large))
}

async fn fetch_by_row(
    connection: &mut SqliteConnection,
    spoilt: &Spoilt,
    statement: &'static str,
    values: Values,
) -> Result<Fetched, StoreError> {
    let rows = sqlx::query_with(statement, values.into_arguments())
        .fetch_all(connection)
        .await
        .map_err(failed("read attestations"))?;
    let mut fetched = Fetched { rows: Vec::with_capacity(rows.len()), spoilt: Vec::new() };
    for row in &rows {
        match spoilt.pass(read_attestation(row))? {
            Some(stored) => fetched.rows.push(stored),
            None => {
                let seq: i64 = row.try_get(0).map_err(failed("read attestations"))?;
                fetched.spoilt.push(Seq(seq.cast_unsigned()));
            }
        }
    }
    Ok(fetched)
}

const FETCH_JOBS: &str =
    select_jobs!("WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number");

/// Without what they carry.
const FETCH_JOBS_TO_CHANGE: &str = select_jobs_with!(
    "NULL, result",
    "WHERE number IN (SELECT value FROM json_each(?)) ORDER BY number"
);

/// The jobs with these numbers, by number.
async fn fetch_jobs(
    connection: &mut SqliteConnection,
    spoilt: &Spoilt,
    statement: &'static str,
    numbers: &BTreeSet<u64>,
) -> Result<Vec<JobRow>, StoreError> {
    let rows = sqlx::query(statement)
        .bind(serde_json::to_string(numbers).expect("numbers are always JSON"))
        .fetch_all(connection)
        .await
        .map_err(failed("read jobs"))?;
    spoilt.keep(rows.iter().map(read_job))
}

fn last_of(page: &[WatcherRow]) -> Option<WatcherNumber> {
    page.last().map(|row| row.number)
}

impl Store for SqliteReader {
    fn opened(&self) -> &Opened {
        &self.opened
    }

    fn get<'a>(&'a self, id: &'a AttestationId) -> StoreFuture<'a, Option<Stored>> {
        self.get_now(id).boxed()
    }

    fn by_seqs<'a>(&'a self, seqs: &'a [Seq]) -> StoreFuture<'a, Vec<Stored>> {
        async move {
            let mut connection = self.connection().await?;
            let head = self.head_mark().seq;
            let seqs: Vec<Seq> = seqs.iter().copied().filter(|seq| *seq <= head).collect();
            fetch_by_seqs(&mut connection, &self.spoilt, &seqs).await
        }
        .boxed()
    }

    fn exists<'a>(&'a self, id: &'a AttestationId) -> StoreFuture<'a, bool> {
        async move { Ok(self.get_now(id).await?.is_some()) }.boxed()
    }

    fn removed<'a>(&'a self, id: &'a AttestationId) -> StoreFuture<'a, Option<Removed>> {
        self.removed_now(id).boxed()
    }

    fn quarantine_count(&self) -> StoreFuture<'_, u64> {
        self.count_quarantined().boxed()
    }

    fn generation_floor(&self) -> StoreFuture<'_, u32> {
        self.generation_floor_now().boxed()
    }

    fn head(&self) -> StoreFuture<'_, Seq> {
        async move {
            if self.following.is_some() {
                self.connection().await?;
            }
            Ok(self.head_mark().seq)
        }
        .boxed()
    }

    fn read_after(&self, after: Seq, limit: usize) -> StoreFuture<'_, Vec<Stored>> {
        self.read_after_now(after, limit).boxed()
    }

    fn alias_changes(&self, after: Seq) -> StoreFuture<'_, Vec<(Seq, AliasChange)>> {
        let bind = move |values: &mut Values| values.add(signed(after.0));
        self.fetch("read aliases", rows::SELECT_ALIASES, bind, rows::read_alias).boxed()
    }

    fn first_since(&self, at: Timestamp) -> StoreFuture<'_, Option<Seq>> {
        async move {
            let mut connection = self.connection().await?;
            let found: Option<i64> = sqlx::query_scalar(
                "SELECT seq FROM attestations WHERE created_at >= ? AND seq <= ? ORDER BY seq LIMIT 1",
            )
            .bind(at.ms())
            .bind(signed(self.head_mark().seq.0))
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed("read attestations"))?;
            Ok(found.map(|seq| Seq(seq.cast_unsigned())))
        }
        .boxed()
    }

    fn query<'a>(&'a self, question: &'a Question) -> StoreFuture<'a, Page> {
        async move {
            let mut connection = self.connection().await?;
            search::answer(&mut connection, &self.tail, &self.spoilt, &self.times, question).await
        }
        .boxed()
    }

    fn made_by(&self, job: JobId, limit: usize) -> StoreFuture<'_, Counted<Stored>> {
        self.made_by_now(job, limit).boxed()
    }

    fn watcher_pages(&self) -> WatcherPages<'_> {
        let Some(path) = &self.bulk else { return watcher_pages_after(self, WatcherNumber(0)) };
        let ahead = bulk::Ahead::read(path, self.opened.last_watcher);
        let next = move |(ahead, after): (Option<bulk::Ahead>, WatcherNumber)| async move {
            if let Some(mut ahead) = ahead
                && let Some(page) = ahead.next().await
            {
                let last = last_of(&page).unwrap_or(after);
                return Ok(Some((page, (Some(ahead), last))));
            }
            // It is at the end, or at something that has to be looked at more closely.
            let page = self.watchers_after(after, bulk::PAGE_ROWS).await?;
            Ok(last_of(&page).map(|last| (page, (None, last))))
        };
        stream::try_unfold((Some(ahead), WatcherNumber(0)), next).boxed()
    }

    fn watchers_after(
        &self,
        after: WatcherNumber,
        limit: usize,
    ) -> StoreFuture<'_, Vec<WatcherRow>> {
        let bind = move |values: &mut Values| values.number(after.0);
        self.fetch_up_to("read watchers", rows::SELECT_WATCHERS, limit, bind, rows::read_watcher)
            .boxed()
    }

    fn revisions_between(
        &self,
        first: WatcherNumber,
        last: WatcherNumber,
    ) -> StoreFuture<'_, Vec<RevisionRow>> {
        let bind = move |values: &mut Values| {
            values.number(first.0);
            values.number(last.0);
        };
        let step = "read the revisions of watchers";
        self.fetch(step, rows::SELECT_REVISIONS, bind, rows::read_revision).boxed()
    }

    fn passes(&self) -> StoreFuture<'_, Vec<(PassRow, Seq)>> {
        let found = self.fetch("read passes", rows::SELECT_OPEN_PASSES, |_| {}, rows::read_pass);
        let placed = |(pass, seq): (PassRow, Option<Seq>)| Some((pass, seq?));
        found.map(move |rows| Ok(rows?.into_iter().filter_map(placed).collect())).boxed()
    }

    fn passes_of(&self, watcher: WatcherNumber) -> StoreFuture<'_, Vec<(PassRow, Option<Seq>)>> {
        let bind = move |values: &mut Values| values.number(watcher.0);
        self.fetch("read passes", rows::SELECT_PASSES_OF, bind, rows::read_pass).boxed()
    }

    fn holds(&self) -> StoreFuture<'_, Vec<HoldRow>> {
        self.fetch("read holds", rows::SELECT_OPEN_HOLDS, |_| {}, rows::read_hold).boxed()
    }

    fn holds_of(&self, watcher: WatcherNumber) -> StoreFuture<'_, Vec<HoldRow>> {
        let bind = move |values: &mut Values| values.number(watcher.0);
        self.fetch("read holds", rows::SELECT_HOLDS_OF, bind, rows::read_hold).boxed()
    }

    fn counters(&self) -> StoreFuture<'_, Vec<(WatcherNumber, Counters)>> {
        let step = "read the counters of watchers";
        self.fetch(step, rows::SELECT_COUNTERS, |_| {}, rows::read_counters).boxed()
    }

    fn handlers(&self) -> StoreFuture<'_, Vec<HandlerRow>> {
        self.fetch("read handlers", rows::SELECT_HANDLERS, |_| {}, rows::read_handler).boxed()
    }

    fn stored_handlers(&self) -> StoreFuture<'_, Vec<HandlerChangeRow>> {
        let step = "read stored handlers";
        self.fetch(step, rows::SELECT_STORED_HANDLERS, |_| {}, rows::read_handler_change).boxed()
    }

    fn handler_changes<'a>(
        &'a self,
        plugin: &'a PluginName,
        name: &'a HandlerName,
        before: Option<Seq>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<HandlerChangeRow>> {
        let bind = move |values: &mut Values| {
            values.add(plugin.as_str());
            values.add(name.as_str());
            values.add(before.map_or(i64::MAX, |seq| signed(seq.0)));
        };
        let step = "read the versions of a stored handler";
        let read = rows::read_handler_change;
        self.fetch_up_to(step, rows::SELECT_HANDLER_CHANGES, limit, bind, read).boxed()
    }

    fn plugins(&self) -> StoreFuture<'_, Vec<PluginRow>> {
        self.fetch("read plugins", rows::SELECT_PLUGINS, |_| {}, rows::read_plugin).boxed()
    }

    fn schedules(&self) -> StoreFuture<'_, Vec<ScheduleRow>> {
        self.fetch("read schedules", rows::SELECT_SCHEDULES, |_| {}, rows::read_schedule).boxed()
    }

    fn schedule_runs(
        &self,
        schedule: ScheduleId,
        before: Option<u64>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(u64, ScheduleRunRow)>> {
        let bind = move |values: &mut Values| {
            values.add(schedule.0.as_slice());
            values.add(before.map_or(i64::MAX, signed));
        };
        let step = "read the history of a schedule";
        self.fetch_up_to(step, rows::SELECT_RUNS, limit, bind, rows::read_run).boxed()
    }

    fn budgets(&self) -> StoreFuture<'_, Vec<BudgetRow>> {
        self.fetch("read budgets", rows::SELECT_BUDGETS, |_| {}, rows::read_budget).boxed()
    }

    fn spends(&self, from: i64) -> StoreFuture<'_, Vec<SpendRow>> {
        let bind = move |values: &mut Values| values.add(from);
        self.fetch("read what was spent", rows::SELECT_SPENDS, bind, rows::read_spend).boxed()
    }

    fn handler_spends(&self) -> StoreFuture<'_, Vec<HandlerSpendRow>> {
        let step = "read what handlers cost";
        self.fetch(step, rows::SELECT_HANDLER_SPENDS, |_| {}, rows::read_handler_spend).boxed()
    }

    fn routes(&self) -> StoreFuture<'_, Vec<(PluginName, RouteRow)>> {
        self.fetch("read routes", rows::SELECT_ROUTES, |_| {}, rows::read_route).boxed()
    }

    fn refused(&self) -> StoreFuture<'_, Vec<(PluginName, Vec<RefusedRow>)>> {
        let step = "read what was refused";
        self.fetch(step, rows::SELECT_REFUSED, |_| {}, rows::read_refused).boxed()
    }

    fn job(&self, id: JobId) -> StoreFuture<'_, Option<JobRow>> {
        self.job_now(id, FETCH_JOBS).boxed()
    }

    fn job_to_change(&self, id: JobId) -> StoreFuture<'_, Option<JobRow>> {
        self.job_now(id, FETCH_JOBS_TO_CHANGE).boxed()
    }

    fn payload(&self, job: JobNumber) -> StoreFuture<'_, Option<Arc<[u8]>>> {
        async move {
            let mut connection = self.connection().await?;
            let payload: Option<Vec<u8>> =
                sqlx::query_scalar("SELECT payload FROM job_payloads WHERE job = ?")
                    .bind(signed(job.0))
                    .fetch_optional(&mut *connection)
                    .await
                    .map_err(failed("read what a job carries"))?;
            Ok(payload.map(Arc::from))
        }
        .boxed()
    }

    fn jobs_beginning<'a>(
        &'a self,
        prefix: &'a JobIdPrefix,
        limit: usize,
    ) -> StoreFuture<'a, Vec<JobRow>> {
        self.jobs_beginning_now(prefix, limit).boxed()
    }

    fn jobs_of(&self, seq: Seq, limit: usize) -> StoreFuture<'_, Counted<JobRow>> {
        self.jobs_of_now(seq, limit).boxed()
    }

    fn job_counts(&self) -> StoreFuture<'_, JobCounts> {
        async move {
            let mut connection = self.connection().await?;
            let counts: Vec<(i64, i64)> = sqlx::query_as(COUNT_JOBS)
                .fetch_all(&mut *connection)
                .await
                .map_err(failed("count jobs"))?;
            Ok(counts_of(&counts))
        }
        .boxed()
    }

    fn open_jobs(&self, after: JobNumber, limit: usize) -> StoreFuture<'_, Vec<JobRow>> {
        let bind = move |values: &mut Values| values.add(signed(after.0));
        self.fetch_up_to("read open jobs", OPEN_JOBS, limit, bind, read_job).boxed()
    }

    fn open_fires(&self, after: JobNumber, limit: usize) -> StoreFuture<'_, Vec<JobRow>> {
        let bind = move |values: &mut Values| values.add(signed(after.0));
        async move {
            if let Some(path) = &self.bulk
                && let Some(jobs) = bulk::open_fires(path, after, limit).await
            {
                return Ok(jobs);
            }
            self.fetch_up_to("read open jobs", OPEN_FIRES, limit, bind, read_job).await
        }
        .boxed()
    }

    fn open_asked(&self, after: JobNumber, limit: usize) -> StoreFuture<'_, Vec<OpenAsked>> {
        let bind = move |values: &mut Values| values.add(signed(after.0));
        let (step, statement) = ("read open jobs", rows::SELECT_OPEN_ASKED);
        self.fetch_up_to(step, statement, limit, bind, rows::read_open_asked).boxed()
    }

    fn open_ancestors(&self) -> StoreFuture<'_, Vec<Ancestor>> {
        let step = "read the ancestors of open jobs";
        self.fetch(step, rows::SELECT_OPEN_ANCESTORS, |_| {}, rows::read_ancestor).boxed()
    }

    fn above(&self, job: JobNumber) -> StoreFuture<'_, Vec<JobRow>> {
        let bind = move |values: &mut Values| {
            values.add(signed(job.0));
            values.add(bounded(bounds::KIN_DEPTH_MAX));
        };
        self.fetch("read the jobs above another", ABOVE, bind, read_job).boxed()
    }

    fn children(&self, parent: JobNumber, limit: usize) -> StoreFuture<'_, Counted<JobRow>> {
        self.children_now(parent, limit).boxed()
    }

    fn entries(
        &self,
        job: JobNumber,
        after: u32,
        limit: usize,
    ) -> StoreFuture<'_, Vec<JobEntryRow>> {
        let bind = move |values: &mut Values| {
            values.add(signed(job.0));
            values.add(i64::from(after));
        };
        let step = "read the log of a job";
        self.fetch_up_to(step, rows::SELECT_ENTRIES, limit, bind, rows::read_entry).boxed()
    }

    fn lane_jobs<'a>(&'a self, query: &'a LaneQuery) -> StoreFuture<'a, Vec<JobRow>> {
        let LaneQuery { lane, from, due_by, limit } = query;
        let bind = |values: &mut Values| {
            match lane.watcher {
                Some(watcher) => {
                    values.add(signed(from.number.0));
                    values.number(watcher.0);
                    values.add(i64::from(lane.generation));
                    values.add(lane.handler.clone());
                }
                None => bind_asked_lane(values, lane, *from),
            }
            values.add(due_by.ms());
        };
        let statement = if lane.watcher.is_some() { LANE_OF_FIRES } else { LANE_OF_ASKED };
        self.fetch_up_to("read the jobs of a lane", statement, *limit, bind, read_job).boxed()
    }

    fn ahead<'a>(&'a self, lane: &'a LaneKey, from: Place, of: Place) -> StoreFuture<'a, u64> {
        let mut values = Values::default();
        let statement = match lane.watcher {
            Some(watcher) => {
                values.add(signed(from.number.0));
                values.add(signed(of.number.0));
                values.number(watcher.0);
                values.add(i64::from(lane.generation));
                values.add(lane.handler.clone());
                COUNT_FIRES_AHEAD
            }
            None => {
                bind_asked_lane(&mut values, lane, from);
                values.add(of.rank);
                values.add(signed(of.number.0));
                COUNT_ASKED_AHEAD
            }
        };
        async move {
            let mut connection = self.connection().await?;
            let count: i64 = sqlx::query_scalar_with(statement, values.into_arguments())
                .fetch_one(&mut *connection)
                .await
                .map_err(failed("count the jobs of a lane"))?;
            Ok(count.cast_unsigned())
        }
        .boxed()
    }

    fn jobs<'a>(&'a self, query: &'a JobsQuery) -> StoreFuture<'a, Vec<JobRow>> {
        let bind = |values: &mut Values| bind_search(values, query);
        self.fetch_up_to("read jobs", search_for(query), query.limit, bind, read_job).boxed()
    }

    fn audit_after(&self, from: LeafNumber, limit: usize) -> StoreFuture<'_, Vec<AuditRow>> {
        let bind = move |values: &mut Values| {
            values.add(signed(from.0));
            values.add(bounded(limit));
        };
        let statement = select_audit!(
            "WHERE first_leaf >= ifnull((SELECT max(first_leaf) FROM audit WHERE first_leaf <= ?1), 0) \
             AND first_leaf + count > ?1 ORDER BY first_leaf LIMIT ?2"
        );
        self.fetch_audit(statement, bind, rows::read_audit).boxed()
    }

    fn audit_row(&self, leaf: LeafNumber) -> StoreFuture<'_, Option<AuditRow>> {
        let bind = move |values: &mut Values| values.add(signed(leaf.0));
        let statement = select_audit!("WHERE first_leaf <= ? ORDER BY first_leaf DESC LIMIT 1");
        let found = self.fetch_audit(statement, bind, rows::read_audit);
        let holds = move |row: &AuditRow| leaf.0 - row.first_leaf.0 < row.count;
        found.map(move |rows| Ok(rows?.pop().filter(holds))).boxed()
    }

    fn audit_last(&self) -> StoreFuture<'_, Option<AuditRow>> {
        let statement = select_audit!("ORDER BY first_leaf DESC LIMIT 1");
        let found = self.fetch_audit(statement, |_| {}, rows::read_audit);
        found.map(|rows| Ok(rows?.pop())).boxed()
    }

    fn audit_head(&self) -> StoreFuture<'_, Option<(u64, [u8; 32])>> {
        let statement = rows::SELECT_AUDIT_HEAD;
        let found = self.fetch_audit(statement, |_| {}, rows::read_audit_head);
        found.map(|rows| Ok(rows?.pop())).boxed()
    }

    fn find_damage(&self) -> StoreFuture<'_, Option<String>> {
        async move {
            let mut connection = self.connection().await?;
            let found: Result<String, _> =
                sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut *connection).await;
            match found {
                Ok(verdict) => Ok((verdict != "ok").then_some(verdict)),
                Err(sqlx::Error::Database(error)) => Ok(Some(error.to_string())),
                Err(error) => Err(failed("look for damage")(error)),
            }
        }
        .boxed()
    }
}
