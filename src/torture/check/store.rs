//! What the store's file holds, read with SQL alone, columns by name.

use std::path::Path;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions as _, Row as _};

use super::JobId;
use crate::torture::claims::Claim;
use crate::torture::watchers::Terms;

/// Opens a store for reading, whether an engine runs on it or not.
///
/// # Errors
/// What SQLite says.
pub async fn open(path: &Path) -> Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let opened = options.disable_statement_logging().connect().await;
    opened.with_context(|| format!("cannot open {}", path.display()))
}

/// The rows that are joined with the other records.
pub struct Stored {
    pub store_id: String,
    /// By seq.
    pub claims: Vec<ClaimRow>,
    /// By number.
    pub jobs: Vec<JobRow>,
    /// By watcher and revision.
    pub revisions: Vec<Revision>,
}

/// A claim of the log.
pub struct ClaimRow {
    pub seq: u64,
    pub id: String,
    pub subjects: Vec<String>,
    pub predicates: Vec<String>,
    pub contexts: Vec<String>,
    pub actors: Vec<String>,
    pub parent_job: Option<JobId>,
}

impl ClaimRow {
    /// As filters see it.
    pub fn terms(&self) -> Terms<'_> {
        Terms {
            subjects: &self.subjects,
            predicates: &self.predicates,
            contexts: &self.contexts,
            actors: &self.actors,
        }
    }

    /// Whether it says what was sent; gaps of that are filled in one way.
    pub fn is_as_sent(&self, sent: &Claim) -> bool {
        let filled = |list: &[String], with: &str| {
            if list.is_empty() { vec![with.to_owned()] } else { list.to_owned() }
        };
        self.subjects == sent.subjects
            && self.predicates == filled(&sent.predicates, "_")
            && self.contexts == filled(&sent.contexts, "_")
            && self.actors == filled(&sent.actors, "driver")
    }
}

/// A job that a watcher made.
pub struct JobRow {
    pub id: JobId,
    pub watcher: u64,
    pub generation: u32,
    pub seq: u64,
    pub handler: String,
    /// 0 queued, 1 running, 3 completed, 4 failed, 5 cancelled.
    pub state: i64,
}

/// A revision of a watcher, and from where to where it was in force.
pub struct Revision {
    pub watcher: u64,
    pub owner: String,
    pub local: String,
    pub revision: u64,
    pub generation: u32,
    pub declared: Value,
    pub handlers: Vec<String>,
    pub limit: Option<u32>,
    /// It is in force for the claims after this one.
    pub from: u64,
    /// It was retired at this one.
    pub retired: Option<u64>,
}

impl Stored {
    /// Reads all of them.
    ///
    /// # Errors
    /// What SQLite says, and rows that do not decode.
    pub async fn read(connection: &mut SqliteConnection) -> Result<Stored> {
        let store_id =
            sqlx::query_scalar("SELECT CAST(value AS TEXT) FROM meta WHERE key = 'store_id'");
        Ok(Stored {
            store_id: store_id.fetch_one(&mut *connection).await.context("the store has no id")?,
            claims: rows(connection, CLAIMS, claim).await?,
            jobs: rows(connection, JOBS, job).await?,
            revisions: rows(connection, REVISIONS, revision).await?,
        })
    }

    /// The claim with this number.
    pub fn claim(&self, seq: u64) -> Option<&ClaimRow> {
        let at = self.claims.binary_search_by_key(&seq, |claim| claim.seq).ok()?;
        Some(&self.claims[at])
    }

    /// The claims after one, up to another.
    pub fn claims_between(&self, after: u64, upto: u64) -> &[ClaimRow] {
        let place = |seq| self.claims.partition_point(|claim| claim.seq <= seq);
        self.claims.get(place(after)..place(upto)).unwrap_or_default()
    }
}

const CLAIMS: &str = "SELECT seq, id, subjects, predicates, contexts, actors, parent_job \
     FROM attestations ORDER BY seq";
const JOBS: &str = "SELECT id, watcher, generation, seq, handler, state FROM jobs \
     WHERE origin = 0 ORDER BY number";
const REVISIONS: &str = "SELECT r.watcher AS watcher, w.owner AS owner, w.local_id AS local_id, \
     r.revision AS revision, r.generation AS generation, r.declared AS declared, \
     r.handlers AS handlers, r.max_fires_per_second AS max_fires_per_second, \
     max(r.since_seq, r.from_seq) AS from_seq, r.retired_seq AS retired_seq \
     FROM watcher_revisions r JOIN watchers w ON w.number = r.watcher \
     ORDER BY r.watcher, r.revision";

async fn rows<T>(
    connection: &mut SqliteConnection,
    question: &'static str,
    row: impl Fn(&SqliteRow) -> Result<T>,
) -> Result<Vec<T>> {
    let mut stream = sqlx::query(question).fetch(connection);
    let mut rows = Vec::new();
    while let Some(found) = stream.try_next().await? {
        rows.push(row(&found)?);
    }
    Ok(rows)
}

fn claim(row: &SqliteRow) -> Result<ClaimRow> {
    let list = |name: &str| -> Result<Vec<String>> {
        Ok(serde_json::from_str(row.try_get::<&str, _>(name)?)?)
    };
    Ok(ClaimRow {
        seq: number(row, "seq")?,
        id: row.try_get("id")?,
        subjects: list("subjects")?,
        predicates: list("predicates")?,
        contexts: list("contexts")?,
        actors: list("actors")?,
        parent_job: row.try_get::<Option<&[u8]>, _>("parent_job")?.and_then(id),
    })
}

fn job(row: &SqliteRow) -> Result<JobRow> {
    Ok(JobRow {
        id: id(row.try_get("id")?).context("a job has an id that is none")?,
        watcher: number(row, "watcher")?,
        generation: u32::try_from(number(row, "generation")?)?,
        seq: number(row, "seq")?,
        handler: row.try_get("handler")?,
        state: row.try_get("state")?,
    })
}

fn revision(row: &SqliteRow) -> Result<Revision> {
    let limit: Option<i64> = row.try_get("max_fires_per_second")?;
    let retired: Option<i64> = row.try_get("retired_seq")?;
    Ok(Revision {
        watcher: number(row, "watcher")?,
        owner: row.try_get("owner")?,
        local: row.try_get("local_id")?,
        revision: number(row, "revision")?,
        generation: u32::try_from(number(row, "generation")?)?,
        declared: serde_json::from_str(row.try_get("declared")?)?,
        handlers: serde_json::from_str(row.try_get("handlers")?)?,
        limit: limit.map(u32::try_from).transpose()?,
        from: number(row, "from_seq")?,
        retired: retired.map(u64::try_from).transpose()?,
    })
}

fn number(row: &SqliteRow, name: &str) -> Result<u64> {
    let found: i64 = row.try_get(name)?;
    u64::try_from(found).with_context(|| format!("{name} is {found}"))
}

fn id(bytes: &[u8]) -> Option<JobId> {
    Some(u128::from_be_bytes(bytes.try_into().ok()?))
}
