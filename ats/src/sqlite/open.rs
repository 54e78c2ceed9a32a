//! Opening: the locks, a look at the file before anything is changed, the schema, and what meta says.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use axwatch_model::{JobNumber, LeafNumber, Seq, StoreId};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection, SqlSafeStr};

use super::connect::{check_settings, read_options, write_options};
use super::failed;
use super::lock::{DatabaseLock, Lock, lock_beside, patiently};
use crate::store::{Opened, StoreError};
use crate::tail::Mark;

/// Written into the file, so that no other program's database is taken for ours: `axWt`.
const APPLICATION_ID: i64 = 0x6178_5774;

/// The migrations, one step each, unedited once released.
const MIGRATIONS: [(i64, &str, &str); 3] = [
    (1, "log", include_str!("../../../migrations/sqlite/0001_log.sql")),
    (2, "ended badly", include_str!("../../../migrations/sqlite/0002_ended_badly.sql")),
    (
        3,
        "aliases and revisions",
        include_str!("../../../migrations/sqlite/0003_aliases_and_revisions.sql"),
    ),
];

const SCHEMA: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// The oldest schema that can be read without bringing it to ours: what came later only finds things
/// faster.
const READ_FROM: i64 = 1;

/// File systems on which locks and shared memory do not hold between machines: NFS, SMB, SMB2, CIFS.
const NETWORK_FILE_SYSTEMS: [u64; 4] = [0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42];

/// The connection that writes, the locks that make it the only one, and what was found.
pub(super) struct Fresh {
    pub connection: SqliteConnection,
    pub lock: Lock,
    pub path: PathBuf,
    pub opened: Opened,
    pub derivation: Derivation,
}

/// How far the derived tables are: whole up to `derived`, in part up to `deriving`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Derivation {
    pub derived: Mark,
    pub deriving: Mark,
}

/// Opens for writing.
pub(super) async fn open_for_writing(path: &Path) -> Result<Fresh, StoreError> {
    let cannot = cannot_open(path);
    let path = &settle_path(path).map_err(&cannot)?;
    refuse_network(path).map_err(&cannot)?;
    let beside = patiently(|| lock_beside(path)).await?;
    let made = make_file(path).map_err(&cannot)?;
    let database = patiently(|| DatabaseLock::take(path)).await?;
    let lock = Lock { _database: database, _file: beside };
    let found = if made { Found::Nothing } else { inspect(path, Beside::Nobody).await? };
    let unreadable = unreadable(path);
    let mut connection = write_options(path).connect().await.map_err(&unreadable)?;
    check_settings(&mut connection, path).await?;
    if matches!(found, Found::Nothing) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}")))
            .execute(&mut connection)
            .await
            .map_err(&unreadable)?;
    }
    migrate(&mut connection, path).await?;
    count_epoch(&mut connection).await.map_err(&unreadable)?;
    sync_folders(path).map_err(&cannot)?;
    let (opened, derivation) = read_meta(&mut connection, path).await?;
    Ok(Fresh { connection, lock, path: path.clone(), opened, derivation })
}

/// Looks at a store for reading; answers the path to open and what was found.
pub(super) async fn open_for_reading(
    path: &Path,
) -> Result<(PathBuf, Opened, Derivation), StoreError> {
    let path = path.canonicalize().map_err(cannot_open(path))?;
    let corrupt = |reason: String| StoreError::Corrupt { path: path.display().to_string(), reason };
    match inspect(&path, Beside::Perhaps).await? {
        Found::Nothing => return Err(corrupt("nothing was ever written to it".to_owned())),
        Found::Schema(READ_FROM..=SCHEMA) => {}
        Found::Schema(schema) => {
            return Err(corrupt(format!(
                "it has schema {schema}; open it for writing once to bring it to {SCHEMA}"
            )));
        }
    }
    let mut connection = read_options(&path).connect().await.map_err(unreadable(&path))?;
    let (opened, derivation) = read_meta(&mut connection, &path).await?;
    connection.close().await.map_err(unreadable(&path))?;
    Ok((path, opened, derivation))
}

pub(super) fn cannot_open(path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::Open { path: path.clone(), source }
}

/// What a failure means while nothing has been read yet: a damaged or foreign file is told as such.
fn unreadable(path: &Path) -> impl Fn(sqlx::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| {
        let code = source.as_database_error().and_then(|error| error.code());
        // The low byte is the primary code: 11 is SQLITE_CORRUPT, 26 SQLITE_NOTADB.
        let primary = code.and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
        let reason = match primary {
            Some(26) => "it is not a database".to_owned(),
            Some(11) => "the database is damaged".to_owned(),
            _ => return StoreError::Database { step: "open the store", source },
        };
        StoreError::Corrupt { path: path.clone(), reason }
    }
}

/// One path for one file, however it was named, so that one lock file stands for it. Makes the folder.
fn settle_path(path: &Path) -> io::Result<PathBuf> {
    if let Ok(there) = path.canonicalize() {
        return Ok(there);
    }
    let path = std::path::absolute(path)?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this names no file"));
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    Ok(folder.canonicalize()?.join(name))
}

fn refuse_network(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let kind = rustix::fs::statfs(folder)?.f_type as u64 & 0xffff_ffff;
    if NETWORK_FILE_SYSTEMS.contains(&kind) {
        return Err(io::Error::other(
            "it lies on a network file system, where locks do not hold; use a local folder",
        ));
    }
    Ok(())
}

/// Makes an empty file that only its owner reads; `false` when there is one with something in it.
///
/// It must not open a file that is there: closing it would let go of the locks that SQLite holds on it
/// elsewhere in this process.
fn make_file(path: &Path) -> io::Result<bool> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(path.metadata()?.len() == 0)
        }
        Err(error) => Err(error),
    }
}

/// Makes the names of new files and folders survive a power cut.
fn sync_folders(path: &Path) -> io::Result<()> {
    // The parent too, as the folder itself may be new; one that we may not open is not ours.
    for folder in path.ancestors().skip(1).take(2) {
        match File::open(folder) {
            Ok(folder) => folder.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What a file was before we changed anything.
enum Found {
    /// An empty database, or the beginning of one that we made.
    Nothing,
    /// A store of ours, with this schema.
    Schema(i64),
}

/// Who else may have the file open.
#[derive(PartialEq, Eq)]
enum Beside {
    Nobody,
    Perhaps,
}

/// Looks without changing anything.
async fn inspect(path: &Path, beside: Beside) -> Result<Found, StoreError> {
    let unreadable = unreadable(path);
    let shown = path.display().to_string();
    let corrupt = |reason: &str| StoreError::Corrupt {
        path: path.display().to_string(),
        reason: reason.to_owned(),
    };
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    // Without a write-ahead log to heed, SQLite need not even make its shared memory.
    let alone = beside == Beside::Nobody && !Path::new(&wal).exists();
    let mut connection =
        read_options(path).immutable(alone).connect().await.map_err(&unreadable)?;
    let application: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut connection)
        .await
        .map_err(&unreadable)?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut connection)
        .await
        .map_err(&unreadable)?;
    let migrated: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = '_sqlx_migrations')",
    )
    .fetch_one(&mut connection)
    .await
    .map_err(&unreadable)?;
    if application != APPLICATION_ID && (application != 0 || tables != 0) {
        return Err(corrupt("it is another program's database"));
    }
    let found = if migrated {
        let schema: Option<i64> = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(&mut connection)
            .await
            .map_err(&unreadable)?;
        schema.map_or(Found::Nothing, Found::Schema)
    } else if tables == 0 {
        Found::Nothing
    } else {
        return Err(corrupt(
            "it says that it is a store of ours, but does not say of which schema",
        ));
    };
    connection.close().await.map_err(&unreadable)?;
    match found {
        Found::Schema(found) if found > SCHEMA => {
            Err(StoreError::Newer { path: shown, found, known: SCHEMA })
        }
        found => Ok(found),
    }
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let steps = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let outcome = Migrator::with_migrations(steps.into()).run_direct(None, connection, false).await;
    let corrupt = |reason: String| StoreError::Corrupt { path: path.display().to_string(), reason };
    outcome.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            failed("bring the store to the present schema")(error)
        }
        MigrateError::VersionMismatch(version) => {
            corrupt(format!("its migration {version} is not the one that this axwatch knows"))
        }
        other => corrupt(other.to_string()),
    })
}

/// Counts this opening, and gives a new store its id.
async fn count_epoch(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let store_id = StoreId(rand::random());
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("INSERT OR IGNORE INTO meta (key, value) VALUES ('store_id', ?)")
        .bind(store_id.to_string())
        .execute(&mut *transaction)
        .await?;
    sqlx::query("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

async fn read_meta(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(Opened, Derivation), StoreError> {
    let unreadable = unreadable(path);
    let corrupt = |reason: String| StoreError::Corrupt { path: path.display().to_string(), reason };
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT key, CAST(value AS TEXT) FROM meta")
        .fetch_all(&mut *connection)
        .await
        .map_err(&unreadable)?;
    let text = |key: &str| {
        let row = rows.iter().find(|(found, _)| found == key);
        row.map(|(_, value)| value).ok_or_else(|| corrupt(format!("its meta has no {key}")))
    };
    let number = |key: &str| {
        let text = text(key)?;
        text.parse::<u64>()
            .map_err(|_| corrupt(format!("{key} in its meta is {text:?}, not a number")))
    };
    let (head, last_job, audit_size): (Option<i64>, Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT (SELECT max(seq) FROM attestations), (SELECT max(number) FROM jobs),
         (SELECT first_leaf + count FROM audit ORDER BY first_leaf DESC LIMIT 1)",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(&unreadable)?;
    let count = |count: Option<i64>| count.map_or(0, i64::cast_unsigned);
    let store_id =
        text("store_id")?.parse().map_err(|error| corrupt(format!("its id: {error}")))?;
    let schema = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut *connection)
        .await
        .map_err(&unreadable)?;
    let opened = Opened {
        store_id,
        schema,
        epoch: number("epoch")?,
        head: Seq(count(head)),
        matched_seq: Seq(number("matched_seq")?),
        last_job: JobNumber(count(last_job)),
        open_jobs_from: JobNumber(number("open_jobs_from")?),
        audit_size: count(audit_size),
        counters_upto: LeafNumber(number("counters_upto")?),
    };
    let derivation = Derivation {
        derived: Mark { seq: Seq(number("derived_seq")?), job: JobNumber(number("derived_job")?) },
        deriving: Mark {
            seq: Seq(number("deriving_seq")?),
            job: JobNumber(number("deriving_job")?),
        },
    };
    Ok((opened, derivation))
}
