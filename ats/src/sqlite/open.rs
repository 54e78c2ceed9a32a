//! Opening: the locks, a look at the file before anything is changed, the schema, and what meta says.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use axwatch_failpoints::Point;
use axwatch_model::{JobNumber, LeafNumber, Seq, StoreId, WatcherNumber};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Connection, SqlSafeStr};

use super::backup::keep_before_migration;
use super::connect::{check_settings, read_options, write_options};
use super::derive::read_marks;
use super::lock::{DatabaseLock, Lock, lock_beside, patiently};
use super::older::show_as_present;
use super::{failed, failpoint};
use crate::store::{Opened, StoreError};
use crate::tail::Mark;

/// Written into the file, so that no other program's database is taken for ours: `axWt`.
const APPLICATION_ID: i64 = 0x6178_5774;

/// The migrations, one step each, unedited once released.
const MIGRATIONS: [(i64, &str, &str); 7] = [
    (1, "log", include_str!("../../../migrations/sqlite/0001_log.sql")),
    (2, "ended badly", include_str!("../../../migrations/sqlite/0002_ended_badly.sql")),
    (
        3,
        "aliases and revisions",
        include_str!("../../../migrations/sqlite/0003_aliases_and_revisions.sql"),
    ),
    (4, "positions", include_str!("../../../migrations/sqlite/0004_positions.sql")),
    (5, "plugins", include_str!("../../../migrations/sqlite/0005_plugins.sql")),
    (6, "pulse", include_str!("../../../migrations/sqlite/0006_pulse.sql")),
    (7, "stored handlers", include_str!("../../../migrations/sqlite/0007_stored_handlers.sql")),
];

const SCHEMA: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

/// The oldest schema that can be read without bringing it to ours. See `older`.
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

/// How far the derived tables are, as meta says: whole up to `derived`, in part up to `deriving`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Derivation {
    pub derived: Mark,
    pub deriving: Mark,
}

impl Derivation {
    /// What is derived of more than there is, in words: nobody can tell then what is derived.
    pub fn past_the_end(&self, head: Mark) -> Option<String> {
        let marks = [
            ("derived_seq", self.derived.seq.0, "log", head.seq.0),
            ("deriving_seq", self.deriving.seq.0, "log", head.seq.0),
            ("derived_job", self.derived.job.0, "list of jobs", head.job.0),
            ("deriving_job", self.deriving.job.0, "list of jobs", head.job.0),
        ];
        let (key, said, what, end) = marks.into_iter().find(|(_, said, _, end)| said > end)?;
        Some(format!("{key} in its meta is {said}, and the {what} ends at {end}"))
    }
}

/// Refuses to go on with a store that says that more is derived than there is.
pub(super) fn refuse_past_the_end(
    path: &Path,
    opened: &Opened,
    derivation: &Derivation,
) -> Result<(), StoreError> {
    let head = Mark { seq: opened.head, job: opened.last_job };
    let Some(said) = derivation.past_the_end(head) else { return Ok(()) };
    let reason = format!("{said}; `axwatch doctor --repair` makes what is derived again");
    Err(StoreError::Corrupt { path: path.display().to_string(), reason })
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
    if let Found::Schema(schema @ ..SCHEMA) = found {
        keep_before_migration(path, schema).await.map_err(|source| StoreError::NotKept {
            path: path.display().to_string(),
            wanted: SCHEMA,
            source: Box::new(source),
        })?;
    }
    let unreadable = unreadable(path);
    let mut connection = write_options(path).connect().await.map_err(&unreadable)?;
    check_settings(&mut connection, path).await?;
    if let Err(error) = bring_up(&mut connection, path, &found).await {
        // What it did is undone before the locks go, so that the next to open finds the store at rest.
        let _ = connection.close().await;
        return Err(error);
    }
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
pub(super) fn unreadable(path: &Path) -> impl Fn(sqlx::Error) -> StoreError {
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
pub(super) fn settle_path(path: &Path) -> io::Result<PathBuf> {
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

pub(super) fn refuse_network(path: &Path) -> io::Result<()> {
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
    path.ancestors().skip(1).take(2).try_for_each(sync_folder)
}

/// Makes the names in a folder survive a power cut; one that we may not open is left to its owner.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a file was before we changed anything.
pub(super) enum Found {
    /// An empty database, or the beginning of one that we made.
    Nothing,
    /// A store of ours, with this schema.
    Schema(i64),
}

/// Who else may have the file open.
#[derive(PartialEq, Eq)]
pub(super) enum Beside {
    Nobody,
    Perhaps,
}

/// Looks without changing anything.
pub(super) async fn inspect(path: &Path, beside: Beside) -> Result<Found, StoreError> {
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

/// Makes an empty database a store, or brings a store to the present schema, and counts this opening: in
/// one transaction, so that a failure or a crash leaves what was there.
async fn bring_up(
    connection: &mut SqliteConnection,
    path: &Path,
    found: &Found,
) -> Result<(), StoreError> {
    let unreadable = unreadable(path);
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(&unreadable)?;
    if matches!(found, Found::Nothing) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}")))
            .execute(&mut *transaction)
            .await
            .map_err(&unreadable)?;
    }
    migrate(&mut transaction, path, found).await?;
    count_epoch(&mut transaction).await.map_err(&unreadable)?;
    transaction.commit().await.map_err(failed("bring the store to the present schema"))?;
    if let Found::Schema(schema @ ..SCHEMA) = found {
        tracing::info!(from = schema, to = SCHEMA, "the store was brought to a later schema");
    }
    Ok(())
}

async fn migrate(
    connection: &mut SqliteConnection,
    path: &Path,
    found: &Found,
) -> Result<(), StoreError> {
    let steps = MIGRATIONS.map(|(version, name, sql)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let migrator = Migrator::with_migrations(steps.into());
    let before = match found {
        Found::Nothing => 0,
        Found::Schema(schema) => *schema,
    };
    for (version, ..) in MIGRATIONS.into_iter().filter(|(version, ..)| *version > before) {
        failpoint(Point::Migration).map_err(unreadable(path))?;
        let made = migrator.run_direct(Some(version), &mut *connection, false).await;
        made.map_err(not_migrated(path))?;
    }
    if before < SCHEMA {
        return failpoint(Point::Migration).map_err(unreadable(path));
    }
    // Nothing is to be made; that those which were made are ours is still looked at.
    migrator.run_direct(None, connection, false).await.map_err(not_migrated(path))
}

fn not_migrated(path: &Path) -> impl Fn(MigrateError) -> StoreError {
    let corrupt = |reason: String| StoreError::Corrupt { path: path.display().to_string(), reason };
    move |error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            failed("bring the store to the present schema")(error)
        }
        MigrateError::VersionMismatch(version) => {
            corrupt(format!("its migration {version} is not the one that this axwatch knows"))
        }
        other => corrupt(other.to_string()),
    }
}

/// Counts this opening, and gives a new store its id. What is written to from now on does not carry the
/// checksum of a copy.
async fn count_epoch(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let store_id = StoreId(rand::random());
    sqlx::query("INSERT OR IGNORE INTO meta (key, value) VALUES ('store_id', ?)")
        .bind(store_id.to_string())
        .execute(&mut *connection)
        .await?;
    sqlx::query("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
        .execute(&mut *connection)
        .await?;
    sqlx::raw_sql("PRAGMA user_version = 0").execute(connection).await?;
    Ok(())
}

pub(super) async fn read_meta(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<(Opened, Derivation), StoreError> {
    let unreadable = unreadable(path);
    let corrupt = |reason: String| StoreError::Corrupt { path: path.display().to_string(), reason };
    let schema = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut *connection)
        .await
        .map_err(&unreadable)?;
    show_as_present(connection, schema).await.map_err(&unreadable)?;
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
    let derivation = Derivation {
        derived: Mark { seq: Seq(number("derived_seq")?), job: JobNumber(number("derived_job")?) },
        deriving: Mark {
            seq: Seq(number("deriving_seq")?),
            job: JobNumber(number("deriving_job")?),
        },
    };
    let (head, _) = read_marks(connection).await.map_err(|error| match error {
        StoreError::Database { source, .. } => unreadable(source),
        other => other,
    })?;
    // Numbers of rows that are not there any more are never given again.
    let (last_watcher, audit_size): (Option<i64>, Option<i64>) = sqlx::query_as(
        "SELECT max(ifnull((SELECT max(number) FROM watchers), 0),
             ifnull((SELECT max(CAST(\"row\" AS INTEGER)) FROM quarantine
                     WHERE \"table\" = 'watchers'), 0)),
         (SELECT first_leaf + count FROM audit ORDER BY first_leaf DESC LIMIT 1)",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(&unreadable)?;
    let count = |count: Option<i64>| count.map_or(0, i64::cast_unsigned);
    let store_id =
        text("store_id")?.parse().map_err(|error| corrupt(format!("its id: {error}")))?;
    let opened = Opened {
        store_id,
        schema,
        epoch: number("epoch")?,
        head: head.seq,
        matched_seq: Seq(number("matched_seq")?),
        // Only there when it was ever ahead.
        heeded_seq: match rows.iter().any(|(key, _)| key == "heeded_seq") {
            true => Seq(number("heeded_seq")?.max(number("matched_seq")?)),
            false => Seq(number("matched_seq")?),
        },
        last_job: head.job,
        open_jobs_from: JobNumber(number("open_jobs_from")?),
        last_watcher: WatcherNumber(count(last_watcher)),
        audit_size: count(audit_size),
        counters_upto: LeafNumber(number("counters_upto")?),
    };
    Ok((opened, derivation))
}
