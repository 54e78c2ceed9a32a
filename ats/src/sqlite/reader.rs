//! Answers questions: what the tail knows first, then the tables up to where the tail begins.
//!
//! Beside the writer the tail is the writer's own. Elsewhere a reader keeps a tail for itself, and
//! before each question takes in what was committed since.
//!
//! Rows of the log and of postings never change once they are there, so a question that is bound to
//! one head needs no transaction around its statements.

use std::collections::BTreeSet;
use std::path::Path;

use axwatch_model::{
    AttestationId, Counters, HandlerRow, JobId, JobIdPrefix, JobNumber, JobRow, JobState,
    LeafNumber, PluginRow, RevisionRow, Seq, Stored, Timestamp, WatcherNumber, WatcherRow,
};
use axwatch_query::AliasChange;
use futures::future::FutureExt;
use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqlitePoolOptions, SqliteRow};
use tokio::sync::Mutex;

use super::connect::read_options;
use super::derive::{SharedTail, fill, read_marks};
use super::open::open_for_reading;
use super::rows::{
    self, Select, Together, attestation_text, read_attestation, read_job, read_together,
    select_attestations, select_audit, select_both, select_jobs,
};
use super::times::{BlockTimes, Times};
use super::trip::Values;
use super::{failed, search};
use crate::store::{
    AuditRow, JobCounts, JobsQuery, LaneQuery, Opened, Page, Question, Store, StoreError,
    StoreFuture,
};
use crate::tail::{Mark, PARENT_JOB, Tail, job_term};

const CONNECTIONS: u32 = 4;
/// Rows that are fetched at once: enough to pay for the trip, few enough to hold.
pub(super) const FETCH_ROWS: usize = 256;

#[derive(Debug)]
pub(super) struct SqliteReader {
    pool: SqlitePool,
    tail: SharedTail,
    opened: Opened,
    times: BlockTimes,
    /// Of a reader whose tail nobody else keeps up to date: held by whoever does it now.
    following: Option<Mutex<()>>,
}

impl SqliteReader {
    /// Opens a store of which another process may be the writer.
    pub async fn open(path: &Path) -> Result<SqliteReader, StoreError> {
        let (path, opened, derivation) = open_for_reading(path).await?;
        let tail = SharedTail::new(Tail::new(derivation.derived));
        let following = Some(Mutex::new(()));
        let times = BlockTimes::default();
        let reader = SqliteReader { pool: pool(&path), tail, opened, times, following };
        reader.connection().await?;
        Ok(reader)
    }

    /// Reads beside the writer of this process, whose tail it shares.
    pub fn beside_writer(path: &Path, tail: SharedTail, opened: Opened) -> SqliteReader {
        let times = BlockTimes::default();
        SqliteReader { pool: pool(path), tail, opened, times, following: None }
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
            fill(&mut connection, &self.tail, head).await?;
        }
        Ok(connection)
    }

    /// Whether the store had these tables when it was opened: a reader brings no store up to date. One
    /// that is kept while a writer does so goes on without them.
    fn keeps_aliases_and_revisions(&self) -> bool {
        self.opened.schema >= 3
    }

    fn head_mark(&self) -> Mark {
        self.tail.read().head()
    }

    async fn get_now(&self, id: &AttestationId) -> Result<Option<Stored>, StoreError> {
        let mut connection = self.connection().await?;
        let seqs = seqs_of_hashes(&mut connection, &self.tail, &[id.hash64()]).await?;
        let rows = fetch_by_seqs(&mut connection, &seqs).await?;
        Ok(rows.into_iter().find(|row| row.attestation.id == *id))
    }

    async fn read_after_now(&self, after: Seq, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let mut connection = self.connection().await?;
        let head = self.head_mark().seq;
        let (mut after, mut found) = (after, Vec::new());
        while found.len() < limit && after < head {
            let rows = fetch_attestations(&mut connection, &READ_AFTER, |values| {
                values.add(signed(after.0));
                values.add(signed(head.0));
                values.add(bounded(FETCH_ROWS.min(limit - found.len())));
            });
            let rows = rows.await?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            found.extend(rows);
        }
        Ok(found)
    }

    async fn made_by_now(&self, job: JobId) -> Result<Vec<Stored>, StoreError> {
        let mut connection = self.connection().await?;
        let terms = [Box::from(job_term(job))];
        let mut made = search::Search::new(&self.tail, [(PARENT_JOB, terms.as_slice())], None);
        let mut seqs = Vec::new();
        while let Some(seq) = made.next(&mut connection).await? {
            seqs.push(Seq(seq));
        }
        fetch_by_seqs(&mut connection, &seqs).await
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
        let numbers: BTreeSet<u64> = found.into_iter().map(|(_, number)| number).collect();
        let numbers = serde_json::to_string(&numbers).expect("numbers are always JSON");
        let rows = sqlx::query(select_jobs!("WHERE number IN (SELECT value FROM json_each(?))"))
            .bind(numbers)
            .fetch_all(&mut *connection)
            .await
            .map_err(&failed)?;
        let mut jobs = rows.iter().map(read_job).collect::<Result<Vec<_>, _>>()?;
        jobs.retain(|job| prefix.begins(job.id));
        jobs.sort_unstable_by_key(|job| job.id);
        jobs.truncate(limit);
        Ok(jobs)
    }

    async fn job_now(&self, id: JobId) -> Result<Option<JobRow>, StoreError> {
        let mut connection = self.connection().await?;
        let failed = failed("read jobs");
        let mut numbers: Vec<u64> = self.tail.read().numbers_of_job(id.hash64()).collect();
        let found: Vec<i64> = sqlx::query_scalar("SELECT number FROM job_ids WHERE hash = ?")
            .bind(id.hash64())
            .fetch_all(&mut *connection)
            .await
            .map_err(&failed)?;
        numbers.extend(found.into_iter().map(i64::cast_unsigned));
        for number in numbers {
            let row = sqlx::query(select_jobs!("WHERE number = ?"))
                .bind(signed(number))
                .fetch_optional(&mut *connection)
                .await
                .map_err(&failed)?;
            if let Some(job) = row.as_ref().map(read_job).transpose()?.filter(|job| job.id == id) {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }

    async fn fetch<T>(
        &self,
        step: &'static str,
        statement: &'static str,
        bind: impl FnOnce(&mut Values) + Send,
        read: fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut connection = self.connection().await?;
        let mut values = Values::default();
        bind(&mut values);
        let rows = sqlx::query_with(statement, values.into_arguments())
            .fetch_all(&mut *connection)
            .await
            .map_err(failed(step))?;
        rows.iter().map(read).collect()
    }
}

/// How many jobs there are at all (as -1), and how many in each state but `completed`: one statement,
/// so one snapshot. The states stand in it as numbers, so that SQLite sees that the index has them all.
const COUNT_JOBS: &str = "SELECT -1, \
     ifnull((SELECT max(number) FROM jobs) - (SELECT min(number) FROM jobs) + 1, 0) \
     UNION ALL SELECT state, count(*) FROM jobs WHERE state IN (4, 5) GROUP BY state \
     UNION ALL SELECT state, count(*) FROM jobs WHERE state IN (0, 1) \
     AND number >= (SELECT value FROM meta WHERE key = 'open_jobs_from') GROUP BY state";

fn counts_of(rows: &[(i64, i64)]) -> JobCounts {
    let of = |code: i64| {
        let row = rows.iter().find(|(found, _)| *found == code);
        row.map_or(0, |(_, count)| count.cast_unsigned())
    };
    let of_state = |state: JobState| of(i64::from(state.code()));
    let counts = JobCounts {
        queued: of_state(JobState::Queued),
        running: of_state(JobState::Running),
        completed: 0,
        failed: of_state(JobState::Failed),
        cancelled: of_state(JobState::Cancelled),
    };
    let others = counts.queued + counts.running + counts.failed + counts.cancelled;
    JobCounts { completed: of(-1).saturating_sub(others), ..counts }
}

fn pool(path: &Path) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(CONNECTIONS)
        .min_connections(0)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(read_options(path))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn bounded(limit: usize) -> i64 {
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

/// The attestations with these numbers, rising.
pub(super) async fn fetch_by_seqs(
    connection: &mut SqliteConnection,
    seqs: &[Seq],
) -> Result<Vec<Stored>, StoreError> {
    fetch_by_seqs_within(connection, seqs, Times::ANY).await
}

/// The attestations with these numbers and one of these times, rising.
pub(super) async fn fetch_by_seqs_within(
    connection: &mut SqliteConnection,
    seqs: &[Seq],
    times: Times,
) -> Result<Vec<Stored>, StoreError> {
    let sorted: Vec<Seq> = seqs.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let mut found = Vec::with_capacity(sorted.len());
    for seqs in sorted.chunks(FETCH_ROWS) {
        let seqs = serde_json::to_string(seqs).expect("numbers are always JSON");
        let rows = fetch_attestations(connection, &FETCH_BY_SEQS, |values| {
            values.add(seqs.clone());
            values.add(times.lowest);
            values.add(times.highest);
        });
        found.extend(rows.await?);
    }
    Ok(found)
}

pub(super) const FETCH_BY_SEQS: Select =
    select_both!("WHERE seq IN (SELECT value FROM json_each(?)) AND timestamp BETWEEN ? AND ?");

const READ_AFTER: Select = select_both!("WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?");

/// What a statement finds, rising by number.
pub(super) async fn fetch_attestations(
    connection: &mut SqliteConnection,
    select: &Select,
    bind: impl Fn(&mut Values),
) -> Result<Vec<Stored>, StoreError> {
    let values = || {
        let mut values = Values::default();
        bind(&mut values);
        values
    };
    let row = sqlx::query_with(select.together, values().into_arguments())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("read attestations"))?;
    let mut rows = match read_together(&row) {
        Some(Together { rows, large }) if large.is_empty() => rows,
        Some(Together { mut rows, large }) => {
            let mut values = Values::default();
            values.add(serde_json::to_string(&large).expect("numbers are always JSON"));
            values.add(Times::ANY.lowest);
            values.add(Times::ANY.highest);
            rows.extend(fetch_by_row(connection, FETCH_BY_SEQS.by_row, values).await?);
            rows
        }
        None => fetch_by_row(connection, select.by_row, values()).await?,
    };
    rows.sort_unstable_by_key(|row| row.seq);
    Ok(rows)
}

async fn fetch_by_row(
    connection: &mut SqliteConnection,
    statement: &'static str,
    values: Values,
) -> Result<Vec<Stored>, StoreError> {
    let rows = sqlx::query_with(statement, values.into_arguments())
        .fetch_all(connection)
        .await
        .map_err(failed("read attestations"))?;
    rows.iter().map(read_attestation).collect()
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
            fetch_by_seqs(&mut connection, &seqs).await
        }
        .boxed()
    }

    fn exists<'a>(&'a self, id: &'a AttestationId) -> StoreFuture<'a, bool> {
        async move { Ok(self.get_now(id).await?.is_some()) }.boxed()
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
        if !self.keeps_aliases_and_revisions() {
            return std::future::ready(Ok(Vec::new())).boxed();
        }
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
            search::answer(&mut connection, &self.tail, &self.times, question).await
        }
        .boxed()
    }

    fn made_by(&self, job: JobId) -> StoreFuture<'_, Vec<Stored>> {
        self.made_by_now(job).boxed()
    }

    fn watchers_after(
        &self,
        after: WatcherNumber,
        limit: usize,
    ) -> StoreFuture<'_, Vec<WatcherRow>> {
        let bind = move |values: &mut Values| {
            values.number(after.0);
            values.add(bounded(limit));
        };
        self.fetch("read watchers", rows::SELECT_WATCHERS, bind, rows::read_watcher).boxed()
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
        let statement = match self.keeps_aliases_and_revisions() {
            true => rows::SELECT_REVISIONS,
            false => rows::SELECT_PRESENT_REVISION,
        };
        let step = "read the revisions of watchers";
        self.fetch(step, statement, bind, rows::read_revision).boxed()
    }

    fn counters(&self) -> StoreFuture<'_, Vec<(WatcherNumber, Counters)>> {
        let step = "read the counters of watchers";
        self.fetch(step, rows::SELECT_COUNTERS, |_| {}, rows::read_counters).boxed()
    }

    fn handlers(&self) -> StoreFuture<'_, Vec<HandlerRow>> {
        self.fetch("read handlers", rows::SELECT_HANDLERS, |_| {}, rows::read_handler).boxed()
    }

    fn plugins(&self) -> StoreFuture<'_, Vec<PluginRow>> {
        self.fetch("read plugins", rows::SELECT_PLUGINS, |_| {}, rows::read_plugin).boxed()
    }

    fn job(&self, id: JobId) -> StoreFuture<'_, Option<JobRow>> {
        self.job_now(id).boxed()
    }

    fn jobs_beginning<'a>(
        &'a self,
        prefix: &'a JobIdPrefix,
        limit: usize,
    ) -> StoreFuture<'a, Vec<JobRow>> {
        self.jobs_beginning_now(prefix, limit).boxed()
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
        let bind = move |values: &mut Values| {
            values.add(signed(after.0));
            values.add(JobState::Queued.code());
            values.add(JobState::Running.code());
            values.add(bounded(limit));
        };
        let statement =
            select_jobs!("WHERE number > ? AND state IN (?, ?) ORDER BY number LIMIT ?");
        self.fetch("read open jobs", statement, bind, read_job).boxed()
    }

    fn lane_jobs<'a>(&'a self, query: &'a LaneQuery) -> StoreFuture<'a, Vec<JobRow>> {
        let bind = |values: &mut Values| {
            values.add(signed(query.from.0));
            values.add(JobState::Queued.code());
            values.add(query.lane.watcher.map(|number| number.0.cast_signed()));
            values.add(query.lane.handler.clone());
            values.add(query.due_by.ms());
            values.add(bounded(query.limit));
        };
        let statement = select_jobs!(
            "WHERE number >= ? AND state = ? AND watcher IS ? AND handler = ? \
             AND (due_at IS NULL OR due_at <= ?) ORDER BY number LIMIT ?"
        );
        self.fetch("read the jobs of a lane", statement, bind, read_job).boxed()
    }

    fn jobs<'a>(&'a self, query: &'a JobsQuery) -> StoreFuture<'a, Vec<JobRow>> {
        let bind = |values: &mut Values| {
            values.add(query.before.map_or(i64::MAX, |before| signed(before.0)));
            values.add(query.after.map_or(-1, |after| signed(after.0)));
            values.add(query.state.map(JobState::code));
            values.add(query.watcher.map(|number| number.0.cast_signed()));
            values.add(query.fires_only.then_some(axwatch_model::JobOrigin::Fire.code()));
            values.add(bounded(query.limit));
        };
        let any = select_jobs!(
            "WHERE number < ?1 AND number > ?2 AND (?3 IS NULL OR state = ?3) \
             AND (?4 IS NULL OR watcher = ?4) AND (?5 IS NULL OR origin = ?5) \
             ORDER BY number DESC LIMIT ?6"
        );
        // The states as numbers, so that SQLite sees that the index of these has them.
        let ended_badly = select_jobs!(
            "WHERE number < ?1 AND number > ?2 AND state = ?3 AND state IN (4, 5) \
             AND (?4 IS NULL OR watcher = ?4) AND (?5 IS NULL OR origin = ?5) \
             ORDER BY number DESC LIMIT ?6"
        );
        let statement = match query.state {
            Some(JobState::Failed | JobState::Cancelled) => ended_badly,
            _ => any,
        };
        self.fetch("read jobs", statement, bind, read_job).boxed()
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
        self.fetch("read the audit", statement, bind, rows::read_audit).boxed()
    }

    fn audit_row(&self, leaf: LeafNumber) -> StoreFuture<'_, Option<AuditRow>> {
        let bind = move |values: &mut Values| values.add(signed(leaf.0));
        let statement = select_audit!("WHERE first_leaf <= ? ORDER BY first_leaf DESC LIMIT 1");
        let found = self.fetch("read the audit", statement, bind, rows::read_audit);
        let holds = move |row: &AuditRow| leaf.0 - row.first_leaf.0 < row.count;
        found.map(move |rows| Ok(rows?.pop().filter(holds))).boxed()
    }

    fn audit_last(&self) -> StoreFuture<'_, Option<AuditRow>> {
        let statement = select_audit!("ORDER BY first_leaf DESC LIMIT 1");
        let found = self.fetch("read the audit", statement, |_| {}, rows::read_audit);
        found.map(|rows| Ok(rows?.pop())).boxed()
    }

    fn audit_head(&self) -> StoreFuture<'_, Option<(u64, [u8; 32])>> {
        let statement = rows::SELECT_AUDIT_HEAD;
        let found = self.fetch("read the audit", statement, |_| {}, rows::read_audit_head);
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
