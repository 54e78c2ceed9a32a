//! Rows that do not decode: noted by whoever reads them, put aside by the writer.
//!
//! A reader leaves such a row out of its answer and says so once. The writer then looks at it again and,
//! if it still does not decode, moves it into table `quarantine` as it is, so that nobody stumbles over it
//! again and no byte is lost. That an id was there stays known.
//!
//! Not here: rows of the audit, whose place is part of what they prove, and what the audit says of the
//! rows that were put aside (`axwatch_core`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axwatch_model::{AttestationId, Timestamp};
use futures::TryStreamExt;
use serde_json::{Map, Value, json};
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, Column, Connection, Row, TypeInfo, ValueRef};

use super::failed;
use super::rows::{TABLES, Table};
use crate::store::{Quarantined, StoreError};

/// Rows that are noted at most; others are found again later.
const NOTED_MAX: usize = 1_000;

/// The rows that were found not to decode and were not put aside yet, by table and key.
#[derive(Debug, Clone, Default)]
pub(super) struct Spoilt(Arc<Mutex<BTreeMap<(&'static str, String), String>>>);

impl Spoilt {
    /// What was read; `None` of a row that does not decode, which is noted.
    pub fn pass<T>(&self, outcome: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match outcome {
            Ok(read) => Ok(Some(read)),
            Err(StoreError::Row { table, row, reason }) => {
                self.note(table, row, reason);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What was read, without the rows that do not decode.
    pub fn keep<T>(
        &self,
        outcomes: impl Iterator<Item = Result<T, StoreError>>,
    ) -> Result<Vec<T>, StoreError> {
        outcomes.filter_map(|outcome| self.pass(outcome).transpose()).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.noted().is_empty()
    }

    fn note(&self, table: &'static str, row: String, reason: String) {
        let mut noted = self.noted();
        let key = (table, row);
        if noted.contains_key(&key) || noted.len() >= NOTED_MAX {
            return;
        }
        tracing::warn!(
            table,
            row = %key.1,
            %reason,
            "a row does not decode and is left out; `axwatch doctor` says more"
        );
        noted.insert(key, reason);
    }

    fn take(&self) -> BTreeMap<(&'static str, String), String> {
        std::mem::take(&mut *self.noted())
    }

    fn noted(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), String>> {
        self.0.lock().expect("nobody panics while holding what is noted")
    }
}

/// Puts aside the rows that were noted and still do not decode. Answers how many.
pub(super) async fn put_noted_aside(
    connection: &mut SqliteConnection,
    spoilt: &Spoilt,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let noted = spoilt.take();
    if noted.is_empty() {
        return Ok(0);
    }
    let failed = failed("put rows into quarantine");
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(&failed)?;
    let mut moved = 0;
    for ((table, row), _) in noted {
        let table = TABLES.iter().find(|known| known.name == table);
        if let Some(table) = table
            && let Some(key) = find(&mut transaction, table, &row).await?
        {
            put_aside(&mut transaction, table, &row, &key, now).await.map_err(&failed)?;
            moved += 1;
        }
    }
    transaction.commit().await.map_err(&failed)?;
    Ok(moved)
}

/// A row that does not decode.
pub(super) struct Bad {
    /// The condition that only it meets, and the values of its parameters.
    condition: String,
    values: Vec<KeyValue>,
    pub reason: String,
}

#[derive(Clone)]
enum KeyValue {
    Number(i64),
    Text(Vec<u8>),
}

impl Bad {
    /// The row, if it does not decode.
    pub fn of(table: &Table, row: &SqliteRow) -> Option<Bad> {
        let reason = match (table.check)(row) {
            Err(StoreError::Row { reason, .. }) => reason,
            _ => return None,
        };
        let value = |column: &&str| match table.has_names {
            true => KeyValue::Text(row.try_get_unchecked(*column).unwrap_or_default()),
            false => KeyValue::Number(row.try_get_unchecked(*column).unwrap_or(-1)),
        };
        // A name may be no UTF-8, so names are compared by their bytes.
        let part = |column: &&str| match table.has_names {
            true => format!("CAST({column} AS BLOB) = ?"),
            false => format!("{column} = ?"),
        };
        Some(Bad {
            condition: table.key.iter().map(part).collect::<Vec<_>>().join(" AND "),
            values: table.key.iter().map(value).collect(),
            reason,
        })
    }

    fn arguments(&self) -> SqliteArguments {
        let mut arguments = SqliteArguments::default();
        for value in self.values.clone() {
            let added = match value {
                KeyValue::Number(number) => arguments.add(number),
                KeyValue::Text(bytes) => arguments.add(bytes),
            };
            added.expect("numbers and bytes can always be bound");
        }
        arguments
    }
}

/// The row with this key, if it is there and does not decode.
async fn find(
    connection: &mut SqliteConnection,
    table: &Table,
    row: &str,
) -> Result<Option<Bad>, StoreError> {
    let failed = failed("read a row that did not decode");
    // Tables of names are looked through; those of numbers are asked by the first of them.
    let number = serde_json::from_str::<Vec<i64>>(row).ok().and_then(|key| key.first().copied());
    let number = row.parse().ok().or(number);
    let condition = match (table.has_names, table.key) {
        (false, [column, ..]) => format!("WHERE {column} = ?"),
        _ => "WHERE ? IS NULL".to_owned(),
    };
    let statement = AssertSqlSafe(format!("{} {condition}", table.select));
    let number = number.filter(|_| !table.has_names);
    let mut rows = sqlx::query(statement).bind(number).fetch(connection);
    while let Some(found) = rows.try_next().await.map_err(&failed)? {
        if table.key_of(&found) == row
            && let Some(bad) = Bad::of(table, &found)
        {
            return Ok(Some(bad));
        }
    }
    Ok(None)
}

/// Moves a row into quarantine.
pub(super) async fn put_aside(
    connection: &mut SqliteConnection,
    table: &Table,
    row: &str,
    bad: &Bad,
    now: Timestamp,
) -> Result<(), sqlx::Error> {
    let select = format!("SELECT * FROM {} WHERE {}", table.name, bad.condition);
    let found = sqlx::query_with(AssertSqlSafe(select), bad.arguments())
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO quarantine (at, \"table\", \"row\", reason, content, told) \
         VALUES (?, ?, ?, ?, ?, 0)",
    )
    .bind(now.ms())
    .bind(table.name)
    .bind(row)
    .bind(&bad.reason)
    .bind(content_of(&found)?)
    .execute(&mut *connection)
    .await?;
    match table.name {
        "attestations" => remember_claim(&mut *connection, &found).await?,
        "jobs" => {
            sqlx::query("UPDATE meta SET value = value + 1 WHERE key = 'jobs_gone'")
                .execute(&mut *connection)
                .await?;
        }
        _ => {}
    }
    let delete = format!("DELETE FROM {} WHERE {}", table.name, bad.condition);
    sqlx::query_with(AssertSqlSafe(delete), bad.arguments()).execute(connection).await?;
    Ok(())
}

/// Keeps a claim's number and id, so that neither is ever given to another.
async fn remember_claim(
    connection: &mut SqliteConnection,
    row: &SqliteRow,
) -> Result<(), sqlx::Error> {
    let seq: i64 = row.try_get("seq")?;
    let id = String::from_utf8_lossy(row.try_get_unchecked("id")?).into_owned();
    sqlx::query("INSERT OR REPLACE INTO removed (seq, id, filled, content) VALUES (?, ?, 0, NULL)")
        .bind(seq)
        .bind(&id)
        .execute(&mut *connection)
        .await?;
    if let Ok(id) = id.parse::<AttestationId>() {
        sqlx::query("INSERT OR IGNORE INTO attestation_ids (hash, seq) VALUES (?, ?)")
            .bind(id.hash64())
            .bind(seq)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// All columns of a row, so that every byte of it can be told from the text.
fn content_of(row: &SqliteRow) -> Result<String, sqlx::Error> {
    let mut content = Map::new();
    for column in row.columns() {
        let value = row.try_get_raw(column.ordinal())?;
        let kind = value.type_info().name().to_owned();
        let value = match kind.as_str() {
            _ if value.is_null() => Value::Null,
            "INTEGER" => row.try_get_unchecked::<i64, _>(column.ordinal())?.into(),
            "REAL" => row.try_get_unchecked::<f64, _>(column.ordinal())?.into(),
            _ => {
                let bytes: Vec<u8> = row.try_get_unchecked(column.ordinal())?;
                match String::from_utf8(bytes) {
                    Ok(text) if kind == "TEXT" => text.into(),
                    Ok(text) => json!({ "hex": hex(text.as_bytes()) }),
                    Err(no_text) => json!({ "hex": hex(no_text.as_bytes()) }),
                }
            }
        };
        content.insert(column.name().to_owned(), value);
    }
    Ok(Value::Object(content).to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The rows in quarantine that the audit does not tell of yet, or all.
pub(super) async fn read_quarantine(
    connection: &mut SqliteConnection,
    untold_only: bool,
) -> Result<Vec<Quarantined>, StoreError> {
    let rows: Vec<(i64, String, String, String, String)> = sqlx::query_as(
        "SELECT number, \"table\", \"row\", reason, content FROM quarantine WHERE NOT (told AND ?) \
         ORDER BY number",
    )
    .bind(untold_only)
    .fetch_all(connection)
    .await
    .map_err(failed("read what is in quarantine"))?;
    let row = |(number, table, row, reason, content)| {
        let number = i64::cast_unsigned(number);
        Quarantined { number, table, row, reason, content }
    };
    Ok(rows.into_iter().map(row).collect())
}
