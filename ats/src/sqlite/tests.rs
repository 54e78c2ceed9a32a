//! What only the SQLite store does: files, locks, crashes, plans.

use std::path::Path;
use std::sync::Arc;

use axwatch_model::{
    Asker, Attributes, Declared, DefaultActor, Defaults, Draft, Grid, Incoming, JobId, JobNumber,
    JobOrigin, JobRow, JobState, LaneKey, LeafNumber, Missed, Overlap, Owner, Place, ScheduleId,
    ScheduleState, Seq, Timestamp, WatcherNumber, WatcherState,
};
use axwatch_query::Filter;
use futures::TryStreamExt as _;
use sqlx::{ConnectOptions, Connection, Row};
use tempfile::TempDir;

use super::connect::{check_settings, read_options, write_options};
use super::reader::{self, FETCH_BY_SEQS};
use super::rows;
use super::search::READ_POSTINGS;
use super::times::{BlockTimes, READ_TIMES, Times};
use super::writer::SqliteWriter;
use crate::store::{Batch, Question, Store, StoreError, StoreWriter};
use crate::tail::TailBounds;
use crate::{SqliteStore, append};

/// Opens with a tail so small that everything that happens to a tail happens in a short test.
pub(crate) async fn open_small(path: &Path) -> Box<dyn StoreWriter> {
    let bounds =
        TailBounds { rows_max: 40, bytes_max: 1 << 20, idle_rows_min: 5, slice_rows_max: 7 };
    Box::new(SqliteWriter::open(path, bounds).await.unwrap())
}

/// What the disk holds at this moment: the files, without those who have them open.
pub(crate) fn crashed_copy(path: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("{}{suffix}", path.display());
        // cp, because opening the file here and closing it would let go of SQLite's locks on it.
        let target = copy.path().join(format!("axwatch.db{suffix}"));
        if Path::new(&name).exists() {
            let done = std::process::Command::new("cp").arg(name).arg(target).status().unwrap();
            assert!(done.success());
        }
    }
    copy
}

fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms).unwrap()
}

pub(super) fn claims(range: std::ops::Range<usize>) -> Vec<Incoming> {
    range.map(|n| claim(n, None)).collect()
}

fn claim(n: usize, timestamp: Option<Timestamp>) -> Incoming {
    let defaults = Defaults { actor: DefaultActor::OwnId, source: "test".into() };
    let draft = Draft {
        id: Some(format!("claim {n}")),
        subjects: vec![format!("subject {}", n % 1_000)],
        predicates: vec!["is_common".to_owned()],
        timestamp,
        ..Draft::default()
    };
    draft.complete(&defaults, "user", at(1), 0).unwrap()
}

pub(super) async fn fill(writer: &mut dyn StoreWriter, range: std::ops::Range<usize>) {
    for start in range.clone().step_by(1_000) {
        let end = (start + 1_000).min(range.end);
        append(writer, claims(start..end), at(2)).await.unwrap();
    }
}

fn asks(ax: &str, limit: usize) -> Question {
    let (filter, _) = Filter::declared(&Declared::Ax(ax.to_owned())).unwrap();
    Question { filter, aliases: Arc::default(), before: None, limit }
}

async fn found(store: &dyn Store, question: &Question) -> Vec<u64> {
    store.query(question).await.unwrap().rows.iter().map(|row| row.seq.0).collect()
}

#[tokio::test]
async fn a_store_is_made_with_its_folder_and_known_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folders/axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    let first = writer.reader().opened().clone();
    assert_eq!((first.epoch, first.head, first.open_jobs_from), (1, Seq(0), JobNumber(1)));
    fill(writer.as_mut(), 0..3).await;
    writer
        .commit(&Batch {
            matched_seq: Some(Seq(2)),
            heeded_seq: Some(Seq(3)),
            open_jobs_from: Some(JobNumber(4)),
            counters: Some((LeafNumber(6), Vec::new())),
            ..Batch::default()
        })
        .await
        .unwrap();
    writer.close().await.unwrap();
    assert!(!path.with_extension("db-wal").exists(), "a closed store is one file");
    let writer = SqliteStore::open_writer(&path).await.unwrap();
    let again = writer.reader().opened().clone();
    assert_eq!((again.store_id, again.epoch), (first.store_id, 2));
    assert_eq!((again.head, again.matched_seq, again.heeded_seq), (Seq(3), Seq(2), Seq(3)));
    assert_eq!((again.open_jobs_from, again.counters_upto), (JobNumber(4), LeafNumber(6)));
    let reader = SqliteStore::open_reader(&path).await.unwrap();
    assert_eq!(*reader.opened(), again);
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
}

#[tokio::test]
async fn a_second_writer_is_told_who_has_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let writer = SqliteStore::open_writer(&path).await.unwrap();
    let link = folder.path().join("other.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for path in [&path, &link] {
        let error = SqliteStore::open_writer(path).await.err().unwrap();
        assert!(matches!(error, StoreError::InUse { .. }));
        assert!(error.to_string().contains(&format!("process {}", std::process::id())));
    }
    writer.close().await.unwrap();
    SqliteStore::open_writer(&path).await.unwrap();
}

/// Locks that SQLite has on a file, here or elsewhere.
fn sqlite_locks(path: &Path) -> usize {
    use std::os::unix::fs::MetadataExt;
    let inode = format!(":{} ", path.metadata().unwrap().ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().filter(|line| line.contains("POSIX") && line.contains(&inode)).count()
}

#[tokio::test]
async fn no_other_name_and_no_missing_lock_file_lets_a_second_writer_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    fill(writer.as_mut(), 0..3).await;
    let locks = sqlite_locks(&path);
    assert!(locks > 0);
    let link = folder.path().join("other.db");
    std::fs::hard_link(&path, &link).unwrap();
    std::fs::remove_file(folder.path().join("axwatch.db.lock")).unwrap();
    for path in [&path, &link] {
        let error = SqliteStore::open_writer(path).await.err().unwrap();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        let seen = elsewhere(path);
        assert!(seen.contains("is in use by another process"), "{seen}");
    }
    assert!(elsewhere(&path).contains("reads up to 3\n"));
    // Who was refused has not let go of what SQLite holds on behalf of the first.
    assert_eq!(sqlite_locks(&path), locks);
    fill(writer.as_mut(), 3..5).await;
    writer.close().await.unwrap();
    assert!(elsewhere(&path).contains("reads up to 5\nwrites\n"));
    reopened(&path).await.close().await.unwrap();
}

const PATH_ELSEWHERE: &str = "AXWATCH_TEST_STORE";

/// What another process says that tries to read and to write this store.
fn elsewhere(path: &Path) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sqlite::tests::another_process_opens_a_store", "--nocapture"])
        .env(PATH_ELSEWHERE, path)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The other process of [`elsewhere`]; nothing when it is run as a test.
#[tokio::test]
async fn another_process_opens_a_store() {
    let Some(path) = std::env::var_os(PATH_ELSEWHERE) else { return };
    let path = Path::new(&path);
    match SqliteStore::open_reader(path).await {
        Ok(reader) => println!("reads up to {}", reader.head().await.unwrap()),
        // Under another name the write-ahead log is not found.
        Err(refused) => println!("{refused}"),
    }
    match SqliteStore::open_writer(path).await {
        Ok(_) => println!("writes"),
        Err(refused) => println!("{refused}"),
    }
}

/// Makes a closed store and changes it with SQL.
async fn doctored(path: &Path, sql: &'static str) {
    SqliteStore::open_writer(path).await.unwrap().close().await.unwrap();
    let mut connection = write_options(path).connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn check_refused(path: &Path, expected: &str) {
    let before = std::fs::read(path).unwrap();
    let errors = [
        SqliteStore::open_writer(path).await.err().expect("the writer is refused"),
        SqliteStore::open_reader(path).await.err().expect("the reader is refused"),
    ];
    for error in errors {
        let kind = match &error {
            StoreError::Newer { .. } => "newer",
            StoreError::Corrupt { .. } => "corrupt",
            _ => "other",
        };
        let text = format!("{kind}: {error}");
        assert!(text.contains(expected), "{text:?} should say {expected:?}");
        assert!(text.starts_with(&expected[..5]), "{text:?} should be {expected:?}");
    }
    assert!(std::fs::read(path).unwrap() == before, "the file is as it was");
}

#[tokio::test]
async fn what_is_no_store_of_ours_is_refused_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);

    doctored(
        &path("newer"),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (999, 'later', true, x'00', 0)",
    )
    .await;
    check_refused(&path("newer"), "newer: ").await;

    doctored(&path("foreign"), "PRAGMA application_id = 7").await;
    check_refused(&path("foreign"), "corrupt: the store").await;

    std::fs::write(path("text"), "not a database at all").unwrap();
    check_refused(&path("text"), "corrupt: the store").await;
    std::fs::write(path("noise"), vec![0xa5; 20_000]).unwrap();
    check_refused(&path("noise"), "corrupt: the store").await;

    doctored(&path("cut"), "INSERT INTO meta VALUES ('x', hex(zeroblob(100000)))").await;
    let bytes = std::fs::read(path("cut")).unwrap();
    std::fs::write(path("cut"), &bytes[..bytes.len() / 2]).unwrap();
    check_refused(&path("cut"), "corrupt: the store").await;
}

#[tokio::test]
async fn an_older_program_leaves_no_trace_beside_a_newer_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    doctored(&path, "INSERT INTO _sqlx_migrations VALUES (9, 'later', 'now', true, x'00', 0)")
        .await;
    SqliteStore::open_writer(&path).await.err().unwrap();
    assert!(!path.with_extension("db-wal").exists());
}

/// Takes back what the last migrations did, so that a store has schema 6, 5, 3 or 1.
const BACK_TO_6: &str = "DROP TABLE handler_changes; ALTER TABLE plugins DROP COLUMN stored_handlers; \
     DELETE FROM _sqlx_migrations WHERE version > 6;";
const BACK_TO_5: &str = "DROP INDEX jobs_asked_open; DROP INDEX jobs_asked_numbers; \
     DROP INDEX jobs_children; DROP INDEX jobs_of_schedule; \
     ALTER TABLE jobs DROP COLUMN asker; ALTER TABLE jobs DROP COLUMN owner; \
     ALTER TABLE jobs DROP COLUMN source; ALTER TABLE jobs DROP COLUMN priority; \
     ALTER TABLE jobs DROP COLUMN base_ms; ALTER TABLE jobs DROP COLUMN parent; \
     ALTER TABLE jobs DROP COLUMN parent_id; ALTER TABLE jobs DROP COLUMN schedule; \
     ALTER TABLE jobs DROP COLUMN nominal; ALTER TABLE jobs DROP COLUMN cost_estimate; \
     ALTER TABLE jobs DROP COLUMN entries; ALTER TABLE jobs DROP COLUMN entries_bytes; \
     ALTER TABLE holds DROP COLUMN generation; \
     UPDATE jobs SET payload = (SELECT payload FROM job_payloads WHERE job = number) \
         WHERE watcher IS NULL; DROP TABLE job_payloads; \
     DROP TABLE job_entries; DROP TABLE schedules; DROP TABLE schedule_runs; DROP TABLE budgets; \
     DROP TABLE spend; DROP TABLE handler_spend; \
     CREATE TABLE schedules (owner TEXT NOT NULL, name TEXT NOT NULL, handler TEXT NOT NULL, \
         interval_secs INTEGER NOT NULL, enabled_by_default INTEGER NOT NULL, \
         description TEXT NOT NULL, ats_code TEXT NOT NULL, declared_at INTEGER NOT NULL, \
         changed_at INTEGER NOT NULL, retired_at INTEGER, PRIMARY KEY (owner, name)) \
         STRICT, WITHOUT ROWID; \
     DELETE FROM _sqlx_migrations WHERE version > 5;";
const BACK_TO_3: &str = "ALTER TABLE plugins DROP COLUMN disabled_at; \
     ALTER TABLE plugins DROP COLUMN called_back; ALTER TABLE plugins DROP COLUMN doubted_until; \
     DROP TABLE schedules; DROP TABLE routes; DROP TABLE refused; \
     ALTER TABLE attestations DROP COLUMN chain; \
     ALTER TABLE watchers DROP COLUMN last_generation; ALTER TABLE watchers DROP COLUMN max_attempts; \
     ALTER TABLE watchers DROP COLUMN max_age_ms; DROP TABLE passes; DROP TABLE cursors; \
     DROP TABLE holds; DROP TABLE job_seqs; DROP TABLE removed; DROP TABLE quarantine; \
     DELETE FROM meta WHERE key = 'jobs_gone'; DELETE FROM _sqlx_migrations WHERE version > 3;";
const BACK_TO_1: &str = "DROP INDEX jobs_ended_badly; DROP TABLE aliases; \
     DROP TABLE watcher_revisions; DELETE FROM _sqlx_migrations WHERE version > 1;";

/// Takes a store of the present schema back to 3.
pub(super) fn back_to_3() -> String {
    [BACK_TO_6, BACK_TO_5, BACK_TO_3].concat()
}

async fn changed(path: &Path, sql: &str) {
    let mut connection = write_options(path).connect().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_store_of_an_older_schema_is_read_as_it_is_and_brought_up_to_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    doctored(&path, "UPDATE meta SET value = 7 WHERE key = 'matched_seq'").await;
    changed(&path, &[&back_to_3(), BACK_TO_1].concat()).await;
    let watcher = "INSERT INTO watchers VALUES (1,'user','a',3,1,'{\"ax\":\"X\"}', \
         '[{\"declared\":\"h\",\"plugin\":null}]',NULL,NULL,NULL,'retired',NULL,4,1,2)";
    changed(&path, watcher).await;
    let reader = SqliteStore::open_reader(&path).await.unwrap();
    assert_eq!(reader.opened().schema, 1);
    assert_eq!(reader.job_counts().await.unwrap(), crate::JobCounts::default());
    assert_eq!(reader.alias_changes(Seq(0)).await.unwrap(), []);
    let revisions = reader.revisions(WatcherNumber(1)).await.unwrap();
    drop(reader);
    let writer = SqliteStore::open_writer(&path).await.unwrap();
    assert_eq!(writer.reader().opened().schema, 7);
    let [revision] = &revisions[..] else { panic!("{revisions:?}") };
    assert_eq!((revision.revision, revision.since_seq, revision.from_seq), (3, Seq(4), Seq(4)));
    assert_eq!((&revision.handlers[..], revision.retired_seq), (&["h".into()][..], Some(Seq(7))));
    assert_eq!(writer.reader().revisions(WatcherNumber(1)).await.unwrap(), revisions);
}

#[tokio::test]
async fn a_store_without_positions_is_read_as_it_is_and_gets_them_to_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = open_small(&path).await;
    for n in 1..=50 {
        append(writer.as_mut(), claims(n..n + 1), at(2)).await.unwrap();
        let mut job = JobRow::queued(
            JobNumber(n as u64),
            JobId([n as u8; 16]),
            JobOrigin::Fire,
            "h".into(),
            at(1),
        );
        (job.watcher, job.seq) = (Some(WatcherNumber(1)), Some(Seq(n as u64 / 2)));
        writer.commit(&Batch { jobs: vec![job], ..Batch::default() }).await.unwrap();
    }
    // Some of them found by the tables, and some not yet.
    let jobs = writer.reader().jobs_of(Seq(12), 10).await.unwrap();
    let newest = writer.reader().jobs_of(Seq(25), 10).await.unwrap();
    assert_eq!((jobs.all, newest.all), (2, 1));
    writer.close().await.unwrap();
    changed(&path, &back_to_3()).await;
    let watchers = "UPDATE meta SET value = 9 WHERE key = 'matched_seq'; \
         INSERT INTO watchers VALUES \
         (1,'user','a',3,2,'{\"ax\":\"X\"}','[]',NULL,NULL,NULL,'paused',NULL,4,1,2), \
         (2,'user','b',1,0,'{\"ax\":\"X\"}','[]',NULL,NULL,NULL,'live',NULL,4,1,2)";
    changed(&path, watchers).await;

    let reader = SqliteStore::open_reader(&path).await.unwrap();
    assert_eq!(reader.opened().schema, 3);
    assert_eq!(found(reader.as_ref(), &asks("'subject 12'", 9)).await, [12]);
    assert_eq!(reader.jobs_of(Seq(12), 10).await.unwrap(), jobs);
    let rows = reader.watchers().await.unwrap();
    assert_eq!(
        (rows[0].last_generation, rows[0].max_attempts, rows[0].max_age_ms),
        (2, None, None)
    );
    assert_eq!(reader.passes().await.unwrap(), []);
    assert_eq!(reader.holds().await.unwrap(), []);
    drop(reader);

    let writer = open_small(&path).await;
    let reader = writer.reader();
    assert_eq!(reader.opened().schema, 7);
    assert_eq!(found(reader.as_ref(), &asks("'subject 12'", 9)).await, [12]);
    assert_eq!(reader.jobs_of(Seq(12), 10).await.unwrap(), jobs);
    assert_eq!(reader.jobs_of(Seq(25), 10).await.unwrap(), newest);
    assert_eq!(reader.watchers().await.unwrap(), rows);
    let [hold] = &reader.holds().await.unwrap()[..] else { panic!("the paused one is held") };
    assert_eq!((hold.watcher, hold.number, hold.kind), (WatcherNumber(1), 1, WatcherState::Paused));
    assert_eq!((hold.from_seq, hold.from_job), (Seq(9), JobNumber(50)));
}

#[tokio::test]
async fn a_store_without_askers_is_read_as_it_is_and_gets_them_to_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = open_small(&path).await;
    let row = |n: u64, origin, handler: &str| {
        JobRow::queued(JobNumber(n), JobId([n as u8; 16]), origin, handler.into(), at(n as i64))
    };
    let fire = |n| JobRow { watcher: Some(WatcherNumber(1)), ..row(n, JobOrigin::Fire, "h") };
    let api = |n, state| JobRow { state, ..row(n, JobOrigin::Api, "zoo/h") };
    let jobs = vec![
        fire(1),
        api(2, JobState::Queued),
        api(3, JobState::Completed),
        fire(4),
        api(5, JobState::Running),
        api(6, JobState::Queued),
    ];
    writer.commit(&Batch { jobs, ..Batch::default() }).await.unwrap();
    writer.close().await.unwrap();
    let schedules = "INSERT INTO schedules VALUES \
         ('zoo','a','a',60,1,'x','y',5,6,NULL), ('zoo','b','b',60,0,'','',5,6,NULL), \
         ('zoo','c','c',0,1,'','',5,6,NULL), ('zoo','d','d',60,1,'','',5,6,7), \
         ('zoo','e','e',60,1,'','',9000000000000,6,NULL)";
    changed(&path, &[BACK_TO_6, BACK_TO_5, schedules].concat()).await;

    let reader = SqliteStore::open_reader(&path).await.unwrap();
    assert_eq!(reader.opened().schema, 5);
    let before = told_of_pulse(reader.as_ref()).await;
    drop(reader);
    let writer = open_small(&path).await;
    let reader = writer.reader();
    assert_eq!(reader.opened().schema, 7);
    assert_eq!(told_of_pulse(reader.as_ref()).await, before);

    let asked = reader.open_asked(JobNumber(0), 9).await.unwrap();
    let told: Vec<_> = asked
        .iter()
        .map(|job| (job.number.0, job.asked.by.clone(), job.asked.owner.clone(), job.place().rank))
        .collect();
    let of_user = |n: u64| (n, Asker::User, Owner::User, n as i64);
    assert_eq!(told, [2, 5, 6].map(of_user));
    let rows = reader.schedules().await.unwrap();
    let states: Vec<_> = rows.iter().map(|row| row.state).collect();
    let off = ScheduleState::Inactive;
    let on = ScheduleState::Active;
    assert_eq!(states, [on, off, off, ScheduleState::Retired, on]);
    let first = &rows[0];
    assert_eq!((&*first.handler, &first.grid), ("zoo/a", &Grid::Every { secs: 60 }));
    assert_eq!((first.missed, first.overlap, first.anchor), (Missed::Once, Overlap::Skip, at(5)));
    let zoo = Owner::Plugin("zoo".parse().unwrap());
    assert_eq!(first.id, ScheduleId::of(reader.opened().store_id, &zoo, &"a".parse().unwrap()));
    // What lies behind is seen to, also by a clock that had been set ahead.
    let [(from, upto)] = first.seen[..] else { panic!("{:?}", first.seen) };
    assert!(from == at(5) && upto.ms() > 1_700_000_000_000, "{upto}");
    assert_eq!(rows[4].seen, [(at(9_000_000_000_000), at(9_000_000_000_000))]);
}

/// What a store tells of the jobs that were asked for, and of its schedules but for what was seen to.
async fn told_of_pulse(reader: &dyn Store) -> String {
    let lane =
        LaneKey { watcher: None, generation: 0, handler: "zoo/h".into(), asker: Some(Asker::User) };
    let mut schedules = reader.schedules().await.unwrap();
    schedules.iter_mut().for_each(|row| row.seen.clear());
    let own = crate::JobsQuery {
        asker: Some(Asker::User),
        states: vec![JobState::Queued, JobState::Running],
        limit: 9,
        ..crate::JobsQuery::default()
    };
    format!(
        "{:#?}",
        (
            reader.open_jobs(JobNumber(0), 9).await.unwrap(),
            reader.open_asked(JobNumber(0), 9).await.unwrap(),
            reader.open_ancestors().await.unwrap(),
            reader.jobs(&own).await.unwrap(),
            reader
                .ahead(&lane, Place::FIRST, Place { rank: 6, number: JobNumber(6) })
                .await
                .unwrap(),
            reader.job_counts().await.unwrap(),
            schedules,
            reader.entries(JobNumber(1), 0, 9).await.unwrap().len(),
            reader.budgets().await.unwrap().len(),
            (reader.spends(0).await.unwrap().len(), reader.handler_spends().await.unwrap().len()),
            reader.schedule_runs(ScheduleId([0; 16]), None, 9).await.unwrap().len(),
        )
    )
}

#[tokio::test]
async fn an_empty_file_becomes_a_store_and_a_missing_one_is_no_reader_s_to_make() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let missing = SqliteStore::open_reader(&path).await.err().unwrap();
    assert!(matches!(missing, StoreError::Open { .. }) && !path.exists());
    std::fs::write(&path, "").unwrap();
    let empty = SqliteStore::open_reader(&path).await.err().unwrap();
    assert!(matches!(empty, StoreError::Corrupt { .. }));
    SqliteStore::open_writer(&path).await.unwrap();
}

#[tokio::test]
async fn settings_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    SqliteStore::open_writer(&path).await.unwrap().close().await.unwrap();
    let mut good = write_options(&path).connect().await.unwrap();
    check_settings(&mut good, &path).await.unwrap();
    let weak = write_options(&path).pragma("synchronous", "NORMAL");
    let mut weak = weak.connect().await.unwrap();
    let error = check_settings(&mut weak, &path).await.unwrap_err().to_string();
    assert!(error.contains("synchronous is 1 and cannot be made 2"), "{error}");
}

/// Spoils the second of three claims, one way after the other.
#[tokio::test]
async fn a_claim_that_does_not_decode_is_left_out_and_put_aside() {
    let columns = [
        ("subjects", "'[1]'"),
        ("subjects", "'[\"a\"'"),
        ("id", "''"),
        ("id", "CAST(x'ff41' AS TEXT)"),
        ("timestamp", "9223372036854775807"),
        ("lineage", "9"),
        ("parent_job", "x'00'"),
        ("depth", "-1"),
        ("filled", "300"),
        ("chain", "'[\"a\"]'"),
        ("attributes", "'{'"),
    ];
    for (column, value) in columns {
        let which = format!("{column} = {value}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("axwatch.db");
        let mut writer = SqliteStore::open_writer(&path).await.unwrap();
        fill(writer.as_mut(), 0..3).await;
        writer.close().await.unwrap();
        changed(&path, &format!("UPDATE attestations SET {which} WHERE seq = 2")).await;

        let mut writer = SqliteStore::open_writer(&path).await.unwrap();
        let readers = [writer.reader(), SqliteStore::open_reader(&path).await.unwrap()];
        for reader in &readers {
            assert_eq!(reader.head().await.unwrap(), Seq(3), "{which}");
            let rows = reader.read_after(Seq(0), 9).await.unwrap();
            assert_eq!(rows.iter().map(|row| row.seq.0).collect::<Vec<_>>(), [1, 3], "{which}");
            assert_eq!(found(reader.as_ref(), &asks("so notify", 9)).await, [3, 1], "{which}");
            let by_word = found(reader.as_ref(), &asks("'subject 1' 'subject 2'", 9)).await;
            assert_eq!(by_word, [3], "{which}");
            assert_eq!(reader.by_seqs(&[Seq(1), Seq(2)]).await.unwrap().len(), 1, "{which}");
        }
        let quarantined = writer.quarantined(at(9)).await.unwrap();
        let [row] = &quarantined[..] else { panic!("{which}: {quarantined:?}") };
        assert_eq!((row.number, &*row.table, &*row.row), (1, "attestations", "2"), "{which}");
        assert!(!row.reason.is_empty());
        let told = Batch { quarantine_told: Some(1), ..Batch::default() };
        writer.commit(&told).await.unwrap();
        assert_eq!(writer.quarantined(at(9)).await.unwrap(), [], "{which}");

        // Its number and its id are never given to another.
        let again = append(writer.as_mut(), claims(1..2), at(3)).await.unwrap().remove(0).unwrap();
        let id_is_lost = column == "id";
        assert_eq!((again.repeated, again.seq.0), (!id_is_lost, if id_is_lost { 4 } else { 2 }));
        let next = if id_is_lost { 5 } else { 4 };
        let new = append(writer.as_mut(), claims(9..10), at(3)).await.unwrap().remove(0).unwrap();
        assert_eq!(new.seq, Seq(next), "{which}");
        writer.close().await.unwrap();
        let mut connection = read_options(&path).connect().await.unwrap();
        let kept: String = sqlx::query_scalar("SELECT content FROM quarantine")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        let bytes = if value.starts_with("CAST") { &kept["id"]["hex"] } else { &kept["seq"] };
        assert!(*bytes == 2 || *bytes == "ff41", "{which}: {kept}");
    }
}

#[tokio::test]
async fn the_last_claim_of_the_log_leaves_its_number_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    fill(writer.as_mut(), 0..3).await;
    writer.close().await.unwrap();
    changed(&path, "UPDATE attestations SET subjects = '[' WHERE seq = 3").await;
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    assert_eq!(writer.quarantined(at(9)).await.unwrap().len(), 1);
    writer.close().await.unwrap();
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    assert_eq!(writer.reader().opened().head, Seq(3));
    assert_eq!(writer.quarantined(at(9)).await.unwrap().len(), 1, "the audit was not told yet");
    let new = append(writer.as_mut(), claims(7..8), at(3)).await.unwrap().remove(0).unwrap();
    assert_eq!(new.seq, Seq(4));
}

#[tokio::test]
async fn a_store_without_stored_handlers_gets_those_that_people_stored_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    SqliteStore::open_writer(&path).await.unwrap().close().await.unwrap();
    let row = |n: u64,
               subjects: &str,
               predicate: &str,
               context: &str,
               by: &str,
               attributes: &str| {
        format!(
            "INSERT INTO attestations VALUES ({n},'id-{n}','{subjects}','[\"{predicate}\"]','[\"{context}\"]',\
             '[\"a\"]',1,{n},'axwatch-cli','{by}',0,'{attributes}',NULL,NULL,0,NULL,NULL,0,NULL);"
        )
    };
    let code = r#"{"code":"1"}"#;
    let (kept, gone, fault) = (r#"["kept"]"#, r#"["gone"]"#, "handler:faulted");
    let removed = r#"{"reason":"removed"}"#;
    let rows = [
        row(1, kept, "handler", "python", "user", code),
        row(2, gone, "handler", "python", "user", code),
        row(3, kept, "handler", "python", "user", code),
        row(4, gone, fault, "python", "user", removed),
        row(5, gone, fault, "python", "user", removed),
        // What cannot be one, and what nobody knows the right to.
        row(6, kept, "handler", "python", "python", code),
        row(7, r#"["a/b"]"#, "handler", "python", "user", code),
        row(8, r#"["a","b"]"#, "handler", "python", "user", code),
        row(9, kept, "handler", "a plugin", "user", code),
        row(10, kept, "handler", "python", "user", r#"{"code":1}"#),
        row(11, r#"["never"]"#, fault, "python", "user", removed),
        row(12, gone, "handler", "python", "user", code),
        row(13, gone, fault, "python", "user", r#"{"reason":"no such module"}"#),
        // Damaged rows stop nothing, nor does what only its plugin has.
        row(14, r#"["kept"#, "handler", "python", "user", code),
        row(15, kept, "handler", "python", "user", r#"{"code":"#),
        row(16, r#"["script"]"#, "handler", "python", "user", code),
        // Not matched yet.
        row(17, kept, "handler", "python", "user", code),
        "UPDATE meta SET value = 16 WHERE key = 'matched_seq';".to_owned(),
    ];
    changed(&path, &[BACK_TO_6.to_owned(), rows.concat()].concat()).await;

    let reader = SqliteStore::open_reader(&path).await.unwrap();
    assert_eq!((reader.opened().schema, reader.stored_handlers().await.unwrap()), (6, vec![]));
    drop(reader);
    let writer = SqliteStore::open_writer(&path).await.unwrap();
    let reader = writer.reader();
    let mut told = Vec::new();
    let python = "python".parse().unwrap();
    for name in ["gone", "kept"] {
        let name = name.parse().unwrap();
        let rows = reader.handler_changes(&python, &name, None, 9).await.unwrap();
        told.extend(rows.into_iter().map(|row| {
            let (kind, version) = (row.kind.as_str(), row.version.to_string());
            assert_eq!((&*row.by, row.reason.as_str()), ("user", ""));
            assert_eq!(row.at.ms(), row.seq.0 as i64);
            (row.seq.0, kind, row.version_number, version, row.version_seq.0)
        }));
    }
    let expected = [
        (12, "stored", 2, "id-12", 12),
        (4, "removed", 1, "id-2", 2),
        (2, "stored", 1, "id-2", 2),
        (3, "stored", 2, "id-3", 3),
        (1, "stored", 1, "id-1", 1),
    ];
    assert_eq!(told, expected.map(|(a, b, c, d, e)| (a, b, c, d.to_owned(), e)));
    assert_eq!(reader.stored_handlers().await.unwrap().len(), 2);
    assert_eq!(reader.quarantine_count().await.unwrap(), 0);
}

/// One row in each table; a job and a watcher more than one, so that the rest can be seen to go on.
async fn furnished(path: &Path) {
    let mut writer = SqliteStore::open_writer(path).await.unwrap();
    fill(writer.as_mut(), 0..3).await;
    writer.close().await.unwrap();
    let rows = "INSERT INTO jobs VALUES \
            (1,zeroblob(16),0,1,1,0,1,'h','p',NULL,0,0,0,0,5,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL), \
            (2,randomblob(16),0,1,1,0,2,'h','p',NULL,0,0,0,0,5,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL), \
            (3,randomblob(16),0,1,1,0,3,'h','p',NULL,0,0,0,0,5,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,'[]',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL); \
        INSERT INTO watchers VALUES \
            (1,'user','a',1,0,'{\"ax\":\"X\"}','[]',NULL,NULL,NULL,'live',NULL,4,1,2,0,NULL,NULL), \
            (2,'user','b',1,0,'{\"ax\":\"X\"}','[]',NULL,NULL,NULL,'live',NULL,4,1,2,0,NULL,NULL); \
        INSERT INTO watcher_revisions VALUES \
            (1,1,0,'{\"ax\":\"X\"}','[]',NULL,1,NULL,0,0,NULL),(1,2,0,'{\"ax\":\"X\"}','[]',NULL,1,NULL,0,0,NULL); \
        INSERT INTO watcher_counters VALUES (1,1,1,1,NULL),(2,1,1,1,NULL); \
        INSERT INTO cursors VALUES (1,1),(2,1); \
        INSERT INTO passes VALUES (1,0,0,NULL,1,1,NULL,NULL),(2,0,0,NULL,2,1,NULL,NULL); \
        INSERT INTO holds VALUES (1,1,'paused',0,1,NULL,0,0,NULL,NULL,NULL,0),(2,1,'muted',0,1,9,0,0,NULL,NULL,NULL,0); \
        INSERT INTO aliases VALUES (1,0,'[\"a\",\"b\"]'),(2,0,'[\"c\",\"d\"]'); \
        INSERT INTO plugins VALUES \
            ('p','1.0.0',1,1,NULL,0,NULL,0),('q','1.0.0',1,1,NULL,0,NULL,0); \
        INSERT INTO handler_changes VALUES \
            (1,'p','h','stored',1,'a',1,'','user',1),(2,'q','h','stored',1,'b',2,'','user',1); \
        INSERT INTO handlers VALUES ('p','h'),('q','h'); \
        INSERT INTO schedules VALUES \
            ('p','h','p/h',0,NULL,NULL,1,NULL,'once','skip',0,0,'','',NULL,'inactive',1,1,NULL,'[]',NULL,NULL,NULL,0,0), \
            ('q','h','q/h',0,NULL,NULL,1,NULL,'once','skip',0,0,'','',NULL,'inactive',1,1,NULL,'[]',NULL,NULL,NULL,0,0); \
        INSERT INTO job_entries VALUES (1,1,1,1,'info','','one',NULL),(1,2,1,1,'info','','two',NULL); \
        INSERT INTO schedule_runs VALUES \
            (1,zeroblob(16),1,NULL,1,1,'missed',NULL),(2,zeroblob(16),1,NULL,1,1,'missed',NULL); \
        INSERT INTO budgets VALUES ('p','',1,NULL,NULL,NULL,'user',1),('q','',1,NULL,NULL,NULL,'user',1); \
        INSERT INTO spend VALUES (1,'p','h',1,1),(2,'q','h',1,1); \
        INSERT INTO handler_spend VALUES ('p','h',1.0),('q','h',1.0); \
        INSERT INTO routes VALUES ('p','GET','/',''),('q','GET','/',''); \
        INSERT INTO refused VALUES ('p','[]'),('q','[]');";
    changed(path, rows).await;
}

/// How many rows of each kind a reader finds.
async fn counts(reader: &dyn Store) -> [usize; 19] {
    let pages: Vec<Vec<_>> = reader.watcher_pages().try_collect().await.unwrap();
    assert_eq!(pages.concat(), reader.watchers().await.unwrap(), "both ways to read them");
    [
        reader.open_jobs(JobNumber(0), 9).await.unwrap().len(),
        reader.watchers().await.unwrap().len(),
        reader.revisions(WatcherNumber(1)).await.unwrap().len(),
        reader.counters().await.unwrap().len(),
        reader.passes().await.unwrap().len(),
        reader.holds().await.unwrap().len(),
        reader.alias_changes(Seq(0)).await.unwrap().len(),
        reader.plugins().await.unwrap().len(),
        reader.handlers().await.unwrap().len(),
        reader.schedules().await.unwrap().len(),
        reader.routes().await.unwrap().len(),
        reader.refused().await.unwrap().len(),
        reader.job_counts().await.unwrap().queued as usize,
        reader.entries(JobNumber(1), 0, 9).await.unwrap().len(),
        reader.schedule_runs(ScheduleId([0; 16]), None, 9).await.unwrap().len(),
        reader.budgets().await.unwrap().len(),
        reader.spends(0).await.unwrap().len(),
        reader.handler_spends().await.unwrap().len(),
        reader.stored_handlers().await.unwrap().len(),
    ]
}

#[tokio::test]
async fn a_row_of_any_table_that_does_not_decode_stops_nothing() {
    let cases = [
        ("jobs", "1", 0, "UPDATE jobs SET leaves = '[' WHERE number = 1"),
        ("jobs", "1", 0, "UPDATE jobs SET state = 77, id = x'00' WHERE number = 1"),
        ("jobs", "2", 0, "UPDATE jobs SET asker = 'user', owner = 'a b' WHERE number = 2"),
        (
            "jobs",
            "2",
            0,
            "UPDATE jobs SET asker = 'user', owner = 'user', source = '', priority = 0, base_ms = 0, \
             parent = 1 WHERE number = 2",
        ),
        ("jobs", "3", 0, "UPDATE jobs SET created_at = 9223372036854775807 WHERE number = 3"),
        ("watchers", "2", 1, "UPDATE watchers SET state = 'asleep' WHERE number = 2"),
        ("watchers", "1", 1, "UPDATE watchers SET local_id = '' WHERE number = 1"),
        ("watchers", "2", 1, "UPDATE watchers SET declared = CAST(x'ff' AS TEXT) WHERE number = 2"),
        (
            "watchers",
            "2",
            1,
            "UPDATE watchers SET created_at = 9223372036854775807 WHERE number = 2",
        ),
        ("watchers", "1", 1, "UPDATE watchers SET handlers = '' WHERE number = 1"),
        ("watchers", "2", 1, "UPDATE watchers SET handlers = '{' WHERE number = 2"),
        (
            "watcher_revisions",
            "[1,2]",
            2,
            "UPDATE watcher_revisions SET declared = '' WHERE revision = 2",
        ),
        ("watcher_counters", "2", 3, "UPDATE watcher_counters SET fires = -1 WHERE watcher = 2"),
        ("passes", "[2,0]", 4, "UPDATE passes SET from_seq = -1 WHERE watcher = 2"),
        ("passes", "[2,0]", 4, "DELETE FROM cursors WHERE number = 2"),
        ("holds", "[2,1]", 5, "UPDATE holds SET kind = 'x' WHERE watcher = 2"),
        ("aliases", "2", 6, "UPDATE aliases SET words = '7' WHERE seq = 2"),
        ("plugins", "q", 7, "UPDATE plugins SET up_at = 9223372036854775807 WHERE name = 'q'"),
        ("plugins", "q q", 7, "UPDATE plugins SET name = 'q q' WHERE name = 'q'"),
        ("handlers", "[\"q\",\"\"]", 8, "UPDATE handlers SET name = '' WHERE plugin = 'q'"),
        (
            "handlers",
            "[\"\u{fffd}\",\"h\"]",
            8,
            "UPDATE handlers SET plugin = CAST(x'ff' AS TEXT) WHERE plugin = 'q'",
        ),
        (
            "schedules",
            "[\"q\",\"h\"]",
            9,
            "UPDATE schedules SET interval_secs = 4294967296 WHERE owner = 'q'",
        ),
        ("schedules", "[\"q\",\"h\"]", 9, "UPDATE schedules SET cron = '@daily' WHERE owner = 'q'"),
        ("schedules", "[\"q\",\"h\"]", 9, "UPDATE schedules SET seen = '[1]' WHERE owner = 'q'"),
        ("schedules", "[\"q\",\"h\"]", 9, "UPDATE schedules SET handler = 'h' WHERE owner = 'q'"),
        ("job_entries", "[1,2]", 13, "UPDATE job_entries SET attempt = -1 WHERE number = 2"),
        ("schedule_runs", "2", 14, "UPDATE schedule_runs SET job = x'00' WHERE number = 2"),
        ("budgets", "[\"q\",\"\"]", 15, "UPDATE budgets SET per_day = -0.5 WHERE plugin = 'q'"),
        ("spend", "[\"2\",\"q\",\"h\"]", 16, "UPDATE spend SET calls = -1 WHERE minute = 2"),
        (
            "handler_spend",
            "[\"q\",\"h\"]",
            17,
            "UPDATE handler_spend SET dearest = 9e999 WHERE plugin = 'q'",
        ),
        ("routes", "[\"\",\"GET\",\"/\"]", 10, "UPDATE routes SET plugin = '' WHERE plugin = 'q'"),
        ("handler_changes", "2", 18, "UPDATE handler_changes SET kind = 'kept' WHERE seq = 2"),
        ("handler_changes", "2", 18, "UPDATE handler_changes SET version = '' WHERE seq = 2"),
        ("refused", "q", 11, "UPDATE refused SET parts = '[{}]' WHERE plugin = 'q'"),
    ];
    for (table, key, kind, spoil) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("axwatch.db");
        furnished(&path).await;
        let all = counts(&*SqliteStore::open_reader(&path).await.unwrap()).await;
        assert_eq!(all, [3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 2, 2, 2, 2, 2]);
        changed(&path, spoil).await;
        let mut expected = all;
        expected[kind] -= 1;

        let mut writer = SqliteStore::open_writer(&path).await.unwrap();
        let mut found = counts(&*writer.reader()).await;
        expected[12] = found[12];
        assert_eq!(found, expected, "{spoil}");
        let quarantined = writer.quarantined(at(9)).await.unwrap();
        let [row] = &quarantined[..] else { panic!("{spoil}: {quarantined:?}") };
        assert_eq!((&*row.table, &*row.row), (table, key), "{spoil}");
        writer.close().await.unwrap();
        let writer = SqliteStore::open_writer(&path).await.unwrap();
        let opened = writer.reader().opened().clone();
        assert_eq!((opened.last_job, opened.last_watcher), (JobNumber(3), WatcherNumber(2)));
        found = counts(&*writer.reader()).await;
        expected[12] = expected[0];
        assert_eq!(found, expected, "{spoil}");
        assert_eq!(writer.reader().job_counts().await.unwrap().completed, 0, "{spoil}");
    }
}

/// Many watchers, of which the numbers have small gaps and a large one, and as many jobs.
const MANY_ROWS: &str = "WITH RECURSIVE n(n) AS (SELECT 3 UNION ALL SELECT n + 1 FROM n WHERE n < 9000) \
    INSERT INTO watchers SELECT iif(n > 8000, n * 1000, n * 3), iif(n % 7, 'user', 'plug'), 'w' || n, \
        1, 0, '{\"ax\":\"X ' || n || '\"}', iif(n % 5, '[]', '[{\"declared\":\"h' || (n % 3) || '\",\"plugin\":null}]'), \
        NULL, iif(n % 11, NULL, n), NULL, 'live', NULL, 4, 1, 2, 0, NULL, NULL FROM n; \
    WITH RECURSIVE n(n) AS (SELECT 4 UNION ALL SELECT n + 1 FROM n WHERE n < 3000) \
    INSERT INTO jobs (number, id, origin, watcher, revision, generation, seq, handler, plugin, state, attempts, \
        counted, uncounted, created_at, delay_ms, error, cost, leaves) \
    SELECT n, randomblob(16), 0, n, 1, 0, n, 'h' || n, iif(n % 3, 'p', NULL), iif(n % 2, 0, 1), n % 4, \
        0, 0, 5, 0, iif(n % 5, NULL, 'failed'), iif(n % 9, NULL, 0.5), '[' || n || ']' FROM n;";

#[tokio::test]
async fn what_is_read_ahead_of_a_start_is_what_is_read_otherwise() {
    let asleep = "UPDATE watchers SET state = 'asleep' WHERE number IN (4500, 8100, 8103, 8995000)";
    let cases = [
        ("", 0),
        ("UPDATE watchers SET state = 'asleep' WHERE number = 15", 1),
        (asleep, 4),
        ("DELETE FROM watchers WHERE number BETWEEN 2001 AND 4000", 0),
        ("UPDATE jobs SET leaves = '[' WHERE number IN (1, 1500)", 2),
        ("UPDATE jobs SET origin = 9 WHERE number = 2999; DELETE FROM watchers", 1),
    ];
    for (spoil, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("axwatch.db");
        furnished(&path).await;
        changed(&path, MANY_ROWS).await;
        changed(&path, spoil).await;
        let mut writer = SqliteStore::open_writer(&path).await.unwrap();
        let ahead = writer.reader();
        let elsewhere = SqliteStore::open_reader(&path).await.unwrap();
        let pages: Vec<Vec<_>> = ahead.watcher_pages().try_collect().await.unwrap();
        assert_eq!(pages.concat(), elsewhere.watchers().await.unwrap(), "{spoil}");
        let mut after = JobNumber(0);
        loop {
            let (one, other) = (ahead.open_fires(after, 700), elsewhere.open_fires(after, 700));
            let (one, other) = (one.await.unwrap(), other.await.unwrap());
            assert_eq!(one, other, "{spoil}");
            let Some(last) = one.last() else { break };
            after = last.number;
        }
        let spoilt = writer.quarantined(at(9)).await.unwrap().len();
        assert_eq!(spoilt, expected, "{spoil}");
        writer.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_page_is_full_though_rows_on_its_way_do_not_decode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    fill(writer.as_mut(), 0..2_000).await;
    let job =
        |n| JobRow::queued(JobNumber(n), JobId([n as u8; 16]), JobOrigin::Api, "h".into(), at(1));
    let jobs = (1..=40).map(job).collect();
    writer.commit(&Batch { jobs, ..Batch::default() }).await.unwrap();
    writer.close().await.unwrap();
    let spoil = "UPDATE attestations SET subjects = '[' WHERE seq BETWEEN 300 AND 1500; \
         UPDATE jobs SET leaves = '' WHERE number BETWEEN 5 AND 25";
    changed(&path, spoil).await;
    let reader = SqliteStore::open_reader(&path).await.unwrap();
    let seqs = |rows: Vec<axwatch_model::Stored>| {
        rows.into_iter().map(|row| row.seq.0).collect::<Vec<_>>()
    };
    let expected: Vec<u64> = (290..300).chain(1_501..1_511).collect();
    assert_eq!(seqs(reader.read_after(Seq(289), 20).await.unwrap()), expected);
    let mut question = asks("so notify", 20);
    question.before = Some(Seq(1_511));
    let falling: Vec<u64> = expected.iter().rev().copied().collect();
    assert_eq!(found(reader.as_ref(), &question).await, falling);
    assert_eq!(all_pages(reader.as_ref(), &question).await.0.len(), 309);
    let jobs = reader.open_jobs(JobNumber(2), 4).await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.number.0).collect::<Vec<_>>(), [3, 4, 26, 27]);
    assert_eq!(reader.open_jobs(JobNumber(0), 99).await.unwrap().len(), 19);
}

#[tokio::test]
async fn large_rows_come_in_their_place_among_small_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    let sizes = [10, 300_000, 20, 4_000, 4_200, 30, 900_000, 40];
    let sized = sizes.into_iter().cycle().take(600).enumerate().map(|(n, size)| {
        let size = if n < 16 { size } else { size.min(5_000) };
        let mut claim = claim(n, Some(at(n as i64)));
        let text = format!("{{\"text\":\"{}\"}}", "x".repeat(size));
        claim.attestation.attributes = Some(Attributes::trusted(text.into()));
        claim
    });
    let claims: Vec<Incoming> = sized.collect();
    append(writer.as_mut(), claims.clone(), at(2)).await.unwrap();
    let reader = writer.reader();
    let all: Vec<Seq> = (1..=600).map(Seq).collect();
    let rising = reader.by_seqs(&all).await.unwrap();
    assert_eq!(reader.read_after(Seq(0), 600).await.unwrap(), rising);
    let asked = rising.iter().map(|row| &row.attestation.attributes);
    assert!(asked.eq(claims.iter().map(|claim| &claim.attestation.attributes)));
    for text in ["is is_common", "so notify"] {
        let (mut falling, mut question) = (Vec::new(), asks(text, 600));
        loop {
            // They are too large for one page.
            let page = reader.query(&question).await.unwrap();
            falling.extend(page.rows);
            question.before = page.next;
            if page.next.is_none() {
                break;
            }
        }
        falling.reverse();
        assert!(falling == rising, "{text}");
    }
    writer.close().await.unwrap();
}

#[tokio::test]
async fn after_a_crash_everything_acknowledged_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = open_small(&path).await;
    for n in 0..120 {
        append(writer.as_mut(), claims(n..n + 1), at(2)).await.unwrap();
        if n % 17 == 0 {
            let copy = crashed_copy(&path);
            let copied = copy.path().join("axwatch.db");
            let reader = SqliteStore::open_reader(&copied).await.unwrap();
            assert_eq!(reader.head().await.unwrap(), Seq(n as u64 + 1));
            let mut again = open_small(&copied).await;
            let all = found(again.reader().as_ref(), &asks("is is_common", 1_000)).await;
            assert_eq!(all, (1..=n as u64 + 1).rev().collect::<Vec<_>>());
            let repeated = append(again.as_mut(), claims(0..n + 1), at(3)).await.unwrap();
            assert!(repeated.into_iter().all(|outcome| outcome.unwrap().repeated));
        }
    }
}

#[tokio::test]
async fn a_reader_elsewhere_sees_rows_that_no_table_finds_yet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    fill(writer.as_mut(), 0..10).await;
    let reader = SqliteStore::open_reader(&path).await.unwrap();
    let question = asks("'subject 3' 'subject 12'", 9);
    assert_eq!(found(reader.as_ref(), &question).await, [4]);
    fill(writer.as_mut(), 10..5_000).await;
    assert_eq!(found(reader.as_ref(), &asks("'subject 12'", 2)).await, [4_013, 3_013]);
    while writer.tidy().await.unwrap() {}
    fill(writer.as_mut(), 5_000..5_010).await;
    assert_eq!(found(reader.as_ref(), &asks("'subject 3'", 2)).await, [5_004, 4_004]);
    assert_eq!(reader.head().await.unwrap(), Seq(5_010));
    let id = "claim 5009".parse().unwrap();
    assert_eq!(reader.get(&id).await.unwrap().unwrap().seq, Seq(5_010));
    writer.close().await.unwrap();
    assert_eq!(found(reader.as_ref(), &question).await.len(), 9);
}

/// Asks again and again while the store grows: every answer is everything up to some moment.
async fn check_while_growing(reader: Arc<dyn Store>, head_max: u64) {
    let question = asks("is is_common", usize::MAX);
    let mut head = 0;
    while head < head_max {
        let seen = found(reader.as_ref(), &question).await;
        let newest = seen.first().copied().unwrap_or(0);
        assert!(newest >= head, "an answer forgot {head}");
        assert!(seen.iter().copied().eq((1..=newest).rev()), "up to {newest} without a gap");
        head = newest;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_miss_and_double_nothing_while_rows_move_to_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = open_small(&path).await;
    let beside = writer.reader();
    let elsewhere = SqliteStore::open_reader(&path).await.unwrap();
    let readers = [
        tokio::spawn(check_while_growing(beside.clone(), 600)),
        tokio::spawn(check_while_growing(beside, 600)),
        tokio::spawn(check_while_growing(elsewhere.clone(), 600)),
        tokio::spawn(check_while_growing(elsewhere, 600)),
    ];
    for n in (0..600).step_by(3) {
        append(writer.as_mut(), claims(n..n + 3), at(2)).await.unwrap();
        writer.tidy().await.unwrap();
    }
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn selective_questions_do_not_scan() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    fill(writer.as_mut(), 0..20_000).await;
    while writer.tidy().await.unwrap() {}
    let reader: Arc<dyn Store> = writer.reader();
    let page = reader.query(&asks("'subject 7' is IS_COMMON", 100)).await.unwrap();
    assert_eq!((page.rows.len(), page.rows_read), (20, 20));

    // A long walk over everything holds a page at a time and misses nothing.
    let mut question = asks("is is_common", 500);
    let (mut total, mut pages) = (0, 0);
    loop {
        let page = reader.query(&question).await.unwrap();
        assert!(page.rows.len() <= 500 && page.rows_read <= 500);
        total += page.rows.len();
        pages += 1;
        let Some(next) = page.next else { break };
        question.before = Some(next);
    }
    assert_eq!((total, pages), (20_000, 40));

    let mut connection = read_options(&path).connect().await.unwrap();
    for statement in [READ_POSTINGS, FETCH_BY_SEQS.together, FETCH_BY_SEQS.by_row] {
        let plan = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let scans = steps.iter().any(|step| {
            step.starts_with("SCAN") && !step.starts_with("SCAN json_each")
                || step.contains("TEMP B-TREE")
        });
        assert!(!scans && steps[0].starts_with("SEARCH"), "{steps:?}");
    }
}

#[tokio::test]
async fn jobs_that_were_asked_for_are_found_in_their_indexes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    SqliteStore::open_writer(&path).await.unwrap().close().await.unwrap();
    let lane = "jobs USING INDEX jobs_asked_open (handler=? AND asker=? AND <expr>>?)";
    let ahead = "jobs USING COVERING INDEX jobs_asked_open (handler=? AND asker=? AND <expr>>? AND <expr><?)";
    let fires = "jobs USING INTEGER PRIMARY KEY (rowid>?)";
    let numbers = "jobs USING INDEX jobs_asked_numbers (number>?)";
    let by_number = "jobs USING INTEGER PRIMARY KEY (rowid=?)";
    let cases: [(&str, &[&str]); 13] = [
        (reader::LANE_OF_ASKED, &[lane]),
        (reader::COUNT_ASKED_AHEAD, &[ahead]),
        (reader::OPEN_JOBS, &[fires, numbers]),
        (
            reader::SEARCH_OPEN,
            &["jobs USING INTEGER PRIMARY KEY", "jobs USING INDEX jobs_asked_numbers"],
        ),
        (reader::SEARCH_CHILDREN, &["jobs USING INDEX jobs_children (parent=?"]),
        (reader::SEARCH_RUNS, &["jobs USING INDEX jobs_of_schedule (schedule=?"]),
        (reader::SEARCH_FAILED, &["jobs USING INDEX jobs_ended_badly (state=?"]),
        (rows::SELECT_OPEN_ASKED, &[numbers]),
        (rows::SELECT_OPEN_ANCESTORS, &[numbers, by_number, by_number]),
        (reader::ABOVE, &[by_number; 3]),
        (super::writer::WITHDRAW, &[by_number]),
        (rows::SELECT_RUNS, &["schedule_runs USING INDEX schedule_runs_of (schedule=?"]),
        (rows::SELECT_SPENDS, &["spend USING PRIMARY KEY (minute>?)"]),
    ];
    let beside = ["SEARCH meta", "SEARCH job_payloads USING INTEGER PRIMARY KEY (rowid=?)"];
    let mut connection = read_options(&path).connect().await.unwrap();
    for (statement, expected) in cases {
        let plan = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let searches: Vec<&String> = steps
            .iter()
            .filter(|step| step.starts_with("SEARCH") && !beside.iter().any(|b| step.contains(b)))
            .collect();
        assert_eq!(searches.len(), expected.len(), "{statement}: {steps:#?}");
        for (search, expected) in searches.into_iter().zip(expected) {
            assert!(search.contains(expected), "{expected}: {steps:#?}");
        }
        // What was found above the open jobs is few, and is put in order.
        let sorts =
            |step: &str| step.contains("TEMP B-TREE") && !statement.contains("FROM up JOIN");
        let scans = |step: &String| step.starts_with("SCAN jobs") || sorts(step);
        assert!(!steps.iter().any(scans), "{statement}: {steps:#?}");
    }
}

/// The time of a claim of [`fill_in_time`]: rising with its number, but for a few that came late.
fn time_of(n: u64) -> i64 {
    let rising = n as i64 * 10;
    if n.is_multiple_of(97) { rising - 30_000 } else { rising }
}

async fn fill_in_time(writer: &mut dyn StoreWriter, range: std::ops::RangeInclusive<u64>) {
    let claim = |n: u64| claim(n as usize, Some(at(time_of(n))));
    append(writer, range.map(claim).collect(), at(2)).await.unwrap();
}

/// All pages of a question, and how many rows were read for them.
async fn all_pages(store: &dyn Store, question: &Question) -> (Vec<u64>, u64) {
    let (mut question, mut rows, mut rows_read) = (question.clone(), Vec::new(), 0);
    loop {
        let page = store.query(&question).await.unwrap();
        assert!(page.rows.len() <= question.limit);
        rows.extend(page.rows.iter().map(|row| row.seq.0));
        rows_read += page.rows_read;
        let Some(next) = page.next else { return (rows, rows_read) };
        assert!(question.before.is_none_or(|before| next < before), "pages go down");
        question.before = Some(next);
    }
}

#[tokio::test]
async fn what_lies_outside_of_the_times_that_are_asked_for_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    let readers = [writer.reader(), SqliteStore::open_reader(&path).await.unwrap()];
    // Full blocks and a beginning, one more claim, and then so many that the next block is full.
    for (first, head) in [(1, 5_500), (5_501, 5_501), (5_502, 6_200)] {
        fill_in_time(writer.as_mut(), first..=head).await;
        while writer.tidy().await.unwrap() {}
        let ends =
            [(60_000, 70_000), (0, 9_000), (20_000, 25_000), (i64::MIN, 500), (90_000, 91_000)];
        let texts = ["is is_common", "'subject 7'", ""];
        for ((start, end), text) in ends.into_iter().flat_map(|ends| texts.map(|text| (ends, text)))
        {
            let mut question = asks(if text.is_empty() { "so notify" } else { text }, 100);
            question.filter = question.filter.within(Some(start), Some(end));
            let in_time = |n: &u64| (start..=end).contains(&time_of(*n));
            let has_word = |n: &u64| text != "'subject 7'" || n % 1_000 == 7;
            let expected: Vec<u64> = (1..=head).rev().filter(in_time).filter(has_word).collect();
            for (reader, again) in readers.iter().flat_map(|reader| [(reader, 1), (reader, 2)]) {
                let (rows, rows_read) = all_pages(reader.as_ref(), &question).await;
                let which = format!("{text:?} {start} to {end} of {head}, time {again}");
                assert!(rows == expected, "{which}");
                assert!(rows_read <= 2 * expected.len() as u64 + 256, "{which} reads {rows_read}");
            }
        }
    }
    writer.close().await.unwrap();
}

#[tokio::test]
async fn the_times_of_blocks_are_read_by_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    fill_in_time(writer.as_mut(), 1..=5_000).await;
    let mut connection = read_options(&path).connect().await.unwrap();
    let blocks = BlockTimes::default();
    assert_eq!(blocks.learn(&mut connection, 5_000, 5_000).await.unwrap(), 4 * 1_024);
    assert_eq!(blocks.learn(&mut connection, 5_000, 5_000).await.unwrap(), 0);
    let asked = Times { lowest: 20_481, highest: i64::MAX };
    // The first two blocks end at 2,048 with time 20,480.
    assert_eq!(blocks.run(3_000, asked), Some(2_049..=3_000));
    assert_eq!(blocks.run(2_048, asked), None);
    let plan = format!("EXPLAIN QUERY PLAN {READ_TIMES}");
    let plan = sqlx::query(sqlx::AssertSqlSafe(plan)).fetch_all(&mut connection).await.unwrap();
    let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
    let searches =
        |step: &String| step.starts_with("SEARCH attestations USING INTEGER PRIMARY KEY");
    assert!(steps.iter().any(searches), "{steps:?}");
    assert!(!steps.iter().any(|step| step.contains("SCAN attestations")), "{steps:?}");
}

#[tokio::test]
async fn after_a_failed_commit_the_writer_takes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    fill(writer.as_mut(), 0..3).await;
    let row = |leaf| crate::AuditRow {
        first_leaf: LeafNumber(leaf),
        count: 1,
        at: at(1),
        records: "{}".into(),
        nodes: [].into(),
        head: [0; 32],
    };
    let batch = Batch { audit: Some(row(0)), ..Batch::default() };
    writer.commit(&batch).await.unwrap();
    writer.commit(&batch).await.expect_err("the same records twice");
    let other = Batch { audit: Some(row(1)), ..Batch::default() };
    let error = writer.commit(&other).await.unwrap_err();
    assert!(matches!(error, StoreError::Database { step: "commit a batch", .. }));
    drop(writer);
    let writer = reopened(&path).await;
    assert_eq!(writer.reader().opened().audit_size, 1);
}

#[tokio::test]
async fn rows_of_the_audit_that_are_gone_are_missed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    let row = |leaf| crate::AuditRow {
        first_leaf: LeafNumber(leaf),
        count: 1,
        at: at(1),
        records: "{}".into(),
        nodes: [].into(),
        head: [0xa0 + leaf as u8; 32],
    };
    for leaf in 0..3 {
        writer.commit(&Batch { audit: Some(row(leaf)), ..Batch::default() }).await.unwrap();
    }
    // More than fits one text: the same statements, on trips of their own.
    let mut batch = Batch { audit: Some(row(3)), ..Batch::default() };
    batch.counters = Some((LeafNumber(4), Vec::new()));
    writer.commit(&batch).await.unwrap();
    writer.close().await.unwrap();

    let mut connection = write_options(&path).connect().await.unwrap();
    let cut = "DELETE FROM audit WHERE first_leaf >= 2";
    sqlx::raw_sql(cut).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let writer = SqliteStore::open_writer(&path).await.unwrap();
    let reader = writer.reader();
    assert_eq!(reader.opened().audit_size, 2);
    assert_eq!(reader.audit_head().await.unwrap(), Some((4, [0xa3; 32])));
    writer.close().await.unwrap();

    for spoilt in ["'4'", "'x:00'", "'4:00'", "7"] {
        let mut connection = write_options(&path).connect().await.unwrap();
        let spoil = format!("UPDATE meta SET value = {spoilt} WHERE key = 'audit_head'");
        sqlx::raw_sql(sqlx::AssertSqlSafe(spoil)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let reader = SqliteStore::open_reader(&path).await.unwrap();
        let error = reader.audit_head().await.unwrap_err();
        assert!(matches!(error, StoreError::Row { table: "meta", .. }), "{error}");
    }
}

/// Opens again; the lock of a writer that was dropped goes with its last thread.
async fn reopened(path: &Path) -> Box<dyn StoreWriter> {
    SqliteStore::open_writer(path).await.unwrap()
}

#[tokio::test]
async fn damage_in_the_middle_of_the_file_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    append(&mut *writer, claims(0..2_000), at(1)).await.unwrap();
    assert_eq!(writer.reader().find_damage().await.unwrap(), None);
    writer.close().await.unwrap();

    let mut bytes = std::fs::read(&path).unwrap();
    let pages = bytes.len() / 4_096;
    // Whole pages in the middle, so that some of them hold what the check looks at.
    bytes[pages / 4 * 4_096..pages / 2 * 4_096].fill(0xaa);
    std::fs::write(&path, bytes).unwrap();
    let reader = SqliteStore::open_reader(&path).await;
    let found = match &reader {
        Ok(reader) => reader.find_damage().await.unwrap(),
        Err(refused) => Some(refused.to_string()),
    };
    assert!(found.is_some(), "a quarter of the file is overwritten");
}

/// Findings as one line each.
fn told(examined: &crate::Examined) -> Vec<String> {
    let line = |finding: &crate::Finding| {
        let mark = if finding.repairable { "+" } else { "-" };
        format!("{mark} {:?} {} {}", finding.kind, finding.table, finding.row)
    };
    examined.findings.iter().map(line).collect()
}

#[tokio::test]
async fn a_doctor_finds_nothing_wrong_with_a_store_that_was_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = open_small(&path).await;
    for n in 0..120 {
        append(writer.as_mut(), claims(n..n + 1), at(2)).await.unwrap();
        let mut job = JobRow::queued(
            JobNumber(n as u64 + 1),
            JobId([n as u8; 16]),
            JobOrigin::Fire,
            "h".into(),
            at(1),
        );
        job.seq = Some(Seq(n as u64 / 2));
        writer.commit(&Batch { jobs: vec![job], ..Batch::default() }).await.unwrap();
        if n % 30 == 7 {
            let examined = SqliteStore::examine(&path).await.unwrap();
            // A claim of number 0 is nowhere.
            let expected = ["- Reference jobs 1", "- Reference jobs 2"];
            assert_eq!(told(&examined), expected[..2.min(n + 1)], "after {n}");
            assert_eq!((examined.claims, examined.jobs), (n as u64 + 1, n as u64 + 1));
        }
    }
}

#[tokio::test]
async fn a_doctor_finds_what_is_wrong_and_mends_what_can_be_mended() {
    let cases: [(&str, &[&str], &[&str]); 12] = [
        (
            "UPDATE attestations SET subjects = '[' WHERE seq = 2",
            &["+ Row attestations 2"],
            &["- Reference jobs 2"],
        ),
        ("UPDATE jobs SET state = 9 WHERE number = 2", &["+ Row jobs 2"], &[]),
        (
            "UPDATE watchers SET state = '' WHERE number = 2",
            &["+ Row watchers 2"],
            &["- Reference passes 2"],
        ),
        (
            "UPDATE cursors SET seq = -1 WHERE number = 2",
            &["+ Row cursors 2", "+ Row passes [2,0]"],
            &[],
        ),
        (
            "UPDATE meta SET value = 3 WHERE key = 'open_jobs_from'",
            &["+ Meta meta open_jobs_from"],
            &[],
        ),
        ("UPDATE meta SET value = 3 WHERE key = 'jobs_gone'", &["+ Meta meta jobs_gone"], &[]),
        ("DELETE FROM postings WHERE term = 'is_common'", &["+ Derived postings "], &[]),
        (
            "UPDATE postings SET seqs = x'80' WHERE term = 'is_common'",
            &["+ Derived postings [1,\"is_common\",1]", "+ Derived postings "],
            &[],
        ),
        ("DELETE FROM attestation_ids WHERE seq = 2", &["+ Derived attestation_ids "], &[]),
        ("UPDATE job_ids SET hash = 5 WHERE number = 2", &["+ Derived job_ids "], &[]),
        ("INSERT INTO job_seqs VALUES (2, 1)", &["+ Derived job_seqs "], &[]),
        ("UPDATE audit SET head = x'00'", &["- Row audit 0"], &["- Row audit 0"]),
    ];
    for (spoil, before, after) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("axwatch.db");
        furnished(&path).await;
        let audit = "INSERT INTO audit VALUES (0,1,1,'{}',x'00',zeroblob(32)); \
             INSERT INTO meta VALUES ('audit_head', '1:' || hex(zeroblob(32)));";
        changed(&path, audit).await;
        // All that there is goes into the derived tables.
        assert_eq!(told(&SqliteStore::repair(&path, at(1)).await.unwrap().after), [""; 0]);
        derived_whole(&path).await;
        changed(&path, spoil).await;
        let examined = SqliteStore::examine(&path).await.unwrap();
        assert_eq!(told(&examined), before, "{spoil}");
        let repaired = SqliteStore::repair(&path, at(9)).await.unwrap();
        assert_eq!(repaired.before, examined, "{spoil}");
        assert_eq!(told(&repaired.after), after, "{spoil}");
        let again = SqliteStore::examine(&path).await.unwrap();
        assert_eq!(again, repaired.after, "{spoil}");
        let rows = before.iter().filter(|line| line.starts_with("+ Row")).count();
        assert_eq!(again.quarantined.len(), rows, "{spoil}");
        // Everything that is left is found.
        let mut writer = SqliteStore::open_writer(&path).await.unwrap();
        assert_eq!(writer.quarantined(at(9)).await.unwrap().len(), rows, "{spoil}");
        let all = found(writer.reader().as_ref(), &asks("is is_common", 9)).await;
        assert_eq!(all.len() as u64, again.claims, "{spoil}");
        let repeated = append(writer.as_mut(), claims(0..3), at(3)).await.unwrap();
        assert!(repeated.into_iter().all(|outcome| outcome.unwrap().repeated), "{spoil}");
        writer.close().await.unwrap();
    }
}

/// Lets a store write all that its derived tables can hold.
async fn derived_whole(path: &Path) {
    let mut writer = SqliteStore::open_writer(path).await.unwrap();
    let mut retention = crate::Retention {
        before: at(i64::MAX / 1_000_000),
        below: Seq(99),
        from: Default::default(),
        dry_run: false,
    };
    while let Some(next) = writer.removable(&retention).await.unwrap().next {
        retention.from = next;
    }
    writer.close().await.unwrap();
}

#[tokio::test]
async fn retention_takes_few_jobs_at_once_that_carry_much() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = SqliteStore::open_writer(&folder.path().join("axwatch.db")).await.unwrap();
    let large: Arc<[u8]> = vec![7; 4 * 1024 * 1024].into();
    let job = |number: u64| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        let (id, handler) = (axwatch_model::JobId(id), "zoo/h".into());
        let queued =
            JobRow::queued(JobNumber(number), id, axwatch_model::JobOrigin::Api, handler, at(1));
        JobRow {
            state: JobState::Completed,
            completed_at: Some(at(2)),
            payload: Some(large.clone()),
            ..queued
        }
    };
    for number in 1..=10 {
        writer.commit(&Batch { jobs: vec![job(number)], ..Batch::default() }).await.unwrap();
    }
    let mut retention =
        crate::Retention { before: at(3), below: Seq(0), from: Default::default(), dry_run: false };
    let mut gone = 0;
    loop {
        let removal = writer.removable(&retention).await.unwrap();
        assert!(removal.jobs.len() <= 4, "{:?}", removal.jobs);
        gone += removal.jobs.len();
        let next = removal.next;
        writer.commit(&Batch { removal: Some(removal), ..Batch::default() }).await.unwrap();
        let Some(next) = next else { break };
        retention.from = next;
    }
    assert_eq!(gone, 9, "the last one stays");
    let reader = writer.reader();
    assert_eq!(reader.payload(JobNumber(9)).await.unwrap(), None);
    assert!(reader.payload(JobNumber(10)).await.unwrap().is_some());
}
