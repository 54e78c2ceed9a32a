//! What SQLite does without us: the yardsticks, all in the plain layout.
//!
//! The plain layout is what a straightforward program would have: a claim with a unique id, a row for
//! each of its terms, a job with a unique id, and a row for each audit record. Everything is indexed
//! at once, by the connection that writes, which also moves its write-ahead log. The settings that
//! make a commit durable, and the memory for pages, are those of our store.

use std::path::Path;

use anyhow::{Context as _, Result};
use axwatch_model::{Attributes, Incoming};
use rusqlite::{Connection, params};

/// Fires of one commit of the fixed yardstick.
pub const FIRES_PER_COMMIT: usize = 256;
/// Frames of 4 KiB after which the write-ahead log is copied: 64 MiB, the length at which ours begins
/// anew. Tried: SQLite's own 1,000 makes the yardsticks up to three times slower once the file has grown.
const WAL_FRAMES: i64 = 16_384;
/// Rows of one `VALUES` list, of claims and of terms.
const ROWS_PER_STATEMENT: usize = 100;

const SCHEMA: &str = "
    CREATE TABLE claims (
        seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, subjects TEXT NOT NULL,
        predicates TEXT NOT NULL, contexts TEXT NOT NULL, actors TEXT NOT NULL,
        timestamp INTEGER NOT NULL, created_at INTEGER NOT NULL, source TEXT NOT NULL,
        appended_by TEXT NOT NULL, attributes TEXT
    );
    CREATE TABLE terms (
        dimension INTEGER NOT NULL, term TEXT NOT NULL, seq INTEGER NOT NULL,
        PRIMARY KEY (dimension, term, seq)
    ) WITHOUT ROWID;
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, watcher INTEGER NOT NULL,
        seq INTEGER NOT NULL, handler TEXT NOT NULL, plugin TEXT NOT NULL, state INTEGER NOT NULL,
        attempts INTEGER NOT NULL, created_at INTEGER NOT NULL, completed_at INTEGER
    );
    CREATE TABLE audit (leaf INTEGER PRIMARY KEY, record TEXT NOT NULL, hash BLOB NOT NULL);
";

const CLAIM_COLUMNS: &str = "(seq,id,subjects,predicates,contexts,actors,timestamp,created_at,source,appended_by,attributes)";

/// A claim as columns, made before the clock runs.
#[derive(Debug)]
pub struct Row {
    id: String,
    lists: [String; 4],
    terms: Vec<(i64, String)>,
    timestamp: i64,
    source: String,
    attributes: String,
}

impl Row {
    /// The columns of a claim.
    #[must_use]
    pub fn of(claim: &Incoming) -> Row {
        let claim = &claim.attestation;
        let lists = [&claim.subjects, &claim.predicates, &claim.contexts, &claim.actors];
        let terms = (0_i64..)
            .zip(lists)
            .flat_map(|(dimension, terms)| terms.iter().map(move |term| (dimension, term.clone())));
        Row {
            id: claim.id.as_str().to_owned(),
            terms: terms.collect(),
            lists: lists.map(|terms| serde_json::to_string(terms).expect("texts are JSON")),
            timestamp: claim.timestamp.ms(),
            source: claim.source.clone(),
            attributes: claim.attributes.as_ref().map_or("", Attributes::as_str).to_owned(),
        }
    }
}

/// A database in the plain layout.
#[derive(Debug)]
pub struct Plain {
    connection: Connection,
    next: i64,
}

impl Plain {
    /// Makes an empty one.
    ///
    /// # Errors
    /// When the disk or SQLite says so.
    pub fn create(path: &Path) -> Result<Plain> {
        let connection = Connection::open(path).context("cannot open the plain database")?;
        for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL")] {
            connection.pragma_update(None, name, value)?;
        }
        connection.pragma_update(None, "cache_size", -32 * 1024)?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        connection.pragma_update(None, "wal_autocheckpoint", WAL_FRAMES)?;
        connection.set_prepared_statement_cache_capacity(32);
        connection.execute_batch(SCHEMA)?;
        Ok(Plain { connection, next: 1 })
    }

    /// Appends claims with their terms in one commit, many rows a statement: the fastest plain way.
    ///
    /// # Errors
    /// When the disk or SQLite says so.
    pub fn append(&mut self, rows: &[Row]) -> Result<()> {
        let transaction = self.connection.transaction()?;
        for (index, rows) in (0_i64..).zip(rows.chunks(ROWS_PER_STATEMENT)) {
            insert_claims(&transaction, self.next + index * ROWS_PER_STATEMENT as i64, rows)?;
        }
        let terms: Vec<(i64, &str, i64)> = (self.next..)
            .zip(rows)
            .flat_map(|(seq, row)| {
                row.terms.iter().map(move |(dimension, term)| (*dimension, &**term, seq))
            })
            .collect();
        for terms in terms.chunks(ROWS_PER_STATEMENT) {
            insert_terms(&transaction, terms)?;
        }
        transaction.commit()?;
        self.next += rows.len() as i64;
        Ok(())
    }

    /// One commit of the fixed yardstick: for each claim all the rows that a fire leaves in the plain
    /// layout, one row a statement.
    ///
    /// # Errors
    /// When the disk or SQLite says so.
    pub fn fires(&mut self, rows: &[Row]) -> Result<()> {
        let transaction = self.connection.transaction()?;
        for (seq, row) in (self.next..).zip(rows) {
            put_claim(&transaction, seq, row)?;
            put_job(&transaction, seq)?;
            for record in 0..3 {
                put_record(&transaction, seq * 3 + record, row)?;
            }
            finish_job(&transaction, seq, row)?;
        }
        transaction.commit()?;
        self.next += rows.len() as i64;
        Ok(())
    }

    /// What has to be on the disk before a plugin may be called: a claim with its terms, its job, and
    /// two records.
    ///
    /// # Errors
    /// When the disk or SQLite says so.
    pub fn start_of_fire(&mut self, row: &Row) -> Result<()> {
        let transaction = self.connection.transaction()?;
        put_claim(&transaction, self.next, row)?;
        put_job(&transaction, self.next)?;
        for record in 0..2 {
            put_record(&transaction, self.next * 3 + record, row)?;
        }
        transaction.commit()?;
        self.next += 1;
        Ok(())
    }
}

fn insert_claims(connection: &Connection, first: i64, rows: &[Row]) -> Result<()> {
    let text = many("claims", CLAIM_COLUMNS, 11, rows.len());
    let mut statement = connection.prepare_cached(&text)?;
    let mut index = 0;
    let mut bind = |value: &dyn rusqlite::ToSql| {
        index += 1;
        statement.raw_bind_parameter(index, value)
    };
    for (seq, row) in (first..).zip(rows) {
        bind(&seq)?;
        bind(&row.id)?;
        for list in &row.lists {
            bind(list)?;
        }
        bind(&row.timestamp)?;
        bind(&row.timestamp)?;
        bind(&row.source)?;
        bind(&"user")?;
        bind(&row.attributes)?;
    }
    statement.raw_execute()?;
    Ok(())
}

fn insert_terms(connection: &Connection, terms: &[(i64, &str, i64)]) -> Result<()> {
    let text = many("terms", "(dimension,term,seq)", 3, terms.len());
    let mut statement = connection.prepare_cached(&text)?;
    for (index, (dimension, term, seq)) in terms.iter().enumerate() {
        statement.raw_bind_parameter(index * 3 + 1, dimension)?;
        statement.raw_bind_parameter(index * 3 + 2, term)?;
        statement.raw_bind_parameter(index * 3 + 3, seq)?;
    }
    statement.raw_execute()?;
    Ok(())
}

fn many(table: &str, columns: &str, count: usize, rows: usize) -> String {
    let row = format!("({})", vec!["?"; count].join(","));
    format!("INSERT INTO {table} {columns} VALUES {}", vec![row; rows].join(","))
}

fn put_claim(connection: &Connection, seq: i64, row: &Row) -> Result<()> {
    let [subjects, predicates, contexts, actors] = &row.lists;
    connection.prepare_cached("INSERT INTO claims VALUES (?,?,?,?,?,?,?,?,?,?,?)")?.execute(
        params![
            seq,
            row.id,
            subjects,
            predicates,
            contexts,
            actors,
            row.timestamp,
            row.timestamp,
            row.source,
            "user",
            row.attributes
        ],
    )?;
    for (dimension, term) in &row.terms {
        connection
            .prepare_cached("INSERT INTO terms VALUES (?,?,?)")?
            .execute(params![dimension, term, seq])?;
    }
    Ok(())
}

fn put_job(connection: &Connection, number: i64) -> Result<()> {
    // As random as the hash that a job's id is.
    let half = number.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    let id = [half.to_be_bytes(), number.to_be_bytes()].concat();
    connection
        .prepare_cached("INSERT INTO jobs VALUES (?,?,1,?,'act','bench',1,1,?,NULL)")?
        .execute(params![number, id, number, 1_700_000_000_000_i64])?;
    Ok(())
}

fn finish_job(connection: &Connection, number: i64, row: &Row) -> Result<()> {
    connection
        .prepare_cached("UPDATE jobs SET state = 3, completed_at = ? WHERE number = ?")?
        .execute(params![row.timestamp, number])?;
    Ok(())
}

/// Records are as long as ours are on average.
fn put_record(connection: &Connection, leaf: i64, row: &Row) -> Result<()> {
    let record = format!(
        r#"{{"at":"2026-01-01T00:00:00.000Z","attempt":1,"epoch":1,"incarnation":1,"job":"{}","plugin":"bench","type":"attempt_started","watcher":"bench-watcher"}}"#,
        row.id
    );
    connection
        .prepare_cached("INSERT INTO audit VALUES (?,?,?)")?
        .execute(params![leaf, record, [7_u8; 32]])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{Actors, Maker};

    #[test]
    fn the_rows_of_a_fire_are_those_of_the_plain_layout() {
        let folder = tempfile::tempdir().unwrap();
        let mut plain = Plain::create(&folder.path().join("plain.db")).unwrap();
        let rows: Vec<Row> = Maker::new(1, Actors::OwnId).claims(250).iter().map(Row::of).collect();
        plain.fires(&rows[..3]).unwrap();
        plain.append(&rows[3..]).unwrap();
        let count = |table: &str| -> i64 {
            let text = format!("SELECT count(*) FROM {table}");
            plain.connection.query_row(&text, [], |row| row.get(0)).unwrap()
        };
        let counts = ["claims", "terms", "jobs", "audit"].map(count);
        assert_eq!(counts, [250, 1_000, 3, 9]);
    }
}
