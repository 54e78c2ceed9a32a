//! How every connection is set, and the proof that SQLite took the settings.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Row};

use crate::store::StoreError;

/// The first SQLite without the defect that could damage a write-ahead log when it is reset.
const VERSION_MIN: (u32, u32, u32) = (3, 51, 3);
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages in memory for the connection that writes: look-ups of ids touch random pages.
const WRITER_CACHE_KIB: u32 = 32 * 1024;
const READER_CACHE_KIB: u32 = 8 * 1024;
/// The write-ahead log is overwritten from its beginning when it has been copied; a file that has
/// grown beyond this is cut then.
const WAL_BYTES_KEPT: u32 = 64 << 20;
/// Distinct statement texts are a few hundred: one for each number of rows of each table.
const STATEMENTS_CACHED: usize = 600;

/// For the connection that writes, and the one that checkpoints.
pub(super) fn write_options(path: &Path) -> SqliteConnectOptions {
    common(path)
        .pragma("journal_mode", "WAL")
        .pragma("synchronous", "FULL")
        .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"))
        .pragma("journal_size_limit", WAL_BYTES_KEPT.to_string())
        .pragma("wal_autocheckpoint", "0")
}

/// For connections that read.
pub(super) fn read_options(path: &Path) -> SqliteConnectOptions {
    common(path).read_only(true).pragma("cache_size", format!("-{READER_CACHE_KIB}"))
}

fn common(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .foreign_keys(false)
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENTS_CACHED)
        .disable_statement_logging()
}

/// Reads back what [`write_options`] asked for: SQLite passes over what it does not know or cannot do.
pub(super) async fn check_settings(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(), StoreError> {
    let unusable =
        |reason: String| StoreError::Corrupt { path: path.display().to_string(), reason };
    let failed = super::failed("read the settings of the database");
    let version: String = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut *connection)
        .await
        .map_err(&failed)?;
    if parse_version(&version).is_none_or(|version| version < VERSION_MIN) {
        let (major, minor, patch) = VERSION_MIN;
        return Err(unusable(format!(
            "this program was built with SQLite {version}, and it needs {major}.{minor}.{patch}"
        )));
    }
    let settings = [
        ("journal_mode", "PRAGMA journal_mode", "wal".to_owned()),
        ("synchronous", "PRAGMA synchronous", "2".to_owned()),
        ("foreign_keys", "PRAGMA foreign_keys", "0".to_owned()),
        ("trusted_schema", "PRAGMA trusted_schema", "0".to_owned()),
        ("cell_size_check", "PRAGMA cell_size_check", "1".to_owned()),
        ("wal_autocheckpoint", "PRAGMA wal_autocheckpoint", "0".to_owned()),
        ("journal_size_limit", "PRAGMA journal_size_limit", WAL_BYTES_KEPT.to_string()),
        ("busy_timeout", "PRAGMA busy_timeout", BUSY_TIMEOUT.as_millis().to_string()),
    ];
    for (name, question, wanted) in settings {
        let row = sqlx::query(question).fetch_one(&mut *connection).await.map_err(&failed)?;
        let found = match row.try_get_unchecked::<i64, _>(0) {
            Ok(number) if name != "journal_mode" => number.to_string(),
            _ => row.try_get_unchecked::<String, _>(0).map_err(&failed)?,
        };
        if found != wanted {
            return Err(unusable(format!(
                "its setting {name} is {found} and cannot be made {wanted}; is the file system a \
                 local one that can lock and map files?"
            )));
        }
    }
    Ok(())
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    match (parts.next()?, parts.next()?, parts.next()?) {
        (Ok(major), Ok(minor), Ok(patch)) => Some((major, minor, patch)),
        _ => None,
    }
}
