//! What only the SQLite store does: files, locks, crashes, plans.

use std::path::Path;
use std::sync::Arc;

use axwatch_model::{
    Attributes, Declared, DefaultActor, Defaults, Draft, Incoming, JobNumber, LeafNumber, Seq,
    Timestamp, WatcherNumber,
};
use axwatch_query::Filter;
use sqlx::{ConnectOptions, Connection, Row};
use tempfile::TempDir;

use super::connect::{check_settings, read_options, write_options};
use super::reader::FETCH_BY_SEQS;
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

fn claims(range: std::ops::Range<usize>) -> Vec<Incoming> {
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

async fn fill(writer: &mut dyn StoreWriter, range: std::ops::Range<usize>) {
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
    assert_eq!((again.head, again.matched_seq), (Seq(3), Seq(2)));
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

#[tokio::test]
async fn a_store_of_an_older_schema_is_read_as_it_is_and_brought_up_to_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let older = "DROP INDEX jobs_ended_badly; DROP TABLE aliases; DROP TABLE watcher_revisions; \
         UPDATE meta SET value = 7 WHERE key = 'matched_seq'; \
         INSERT INTO watchers VALUES (1,'user','a',3,1,'{\"ax\":\"X\"}','[{\"declared\":\"h\",\"plugin\":null}]', \
             NULL,NULL,NULL,'retired',NULL,4,1,2); \
         DELETE FROM _sqlx_migrations WHERE version > 1";
    doctored(&path, older).await;
    let reader = SqliteStore::open_reader(&path).await.unwrap();
    assert_eq!(reader.opened().schema, 1);
    assert_eq!(reader.job_counts().await.unwrap(), crate::JobCounts::default());
    assert_eq!(reader.alias_changes(Seq(0)).await.unwrap(), []);
    let revisions = reader.revisions(WatcherNumber(1)).await.unwrap();
    drop(reader);
    let writer = SqliteStore::open_writer(&path).await.unwrap();
    assert_eq!(writer.reader().opened().schema, 3);
    let [revision] = &revisions[..] else { panic!("{revisions:?}") };
    assert_eq!((revision.revision, revision.since_seq, revision.from_seq), (3, Seq(4), Seq(4)));
    assert_eq!((&revision.handlers[..], revision.retired_seq), (&["h".into()][..], Some(Seq(7))));
    assert_eq!(writer.reader().revisions(WatcherNumber(1)).await.unwrap(), revisions);
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

#[tokio::test]
async fn a_row_that_does_not_decode_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let mut writer = SqliteStore::open_writer(&path).await.unwrap();
    fill(writer.as_mut(), 0..3).await;
    writer.close().await.unwrap();
    let columns = [
        ("subjects", "'[1]'"),
        ("subjects", "'[\"a\"'"),
        ("id", "''"),
        ("timestamp", "9223372036854775807"),
        ("lineage", "9"),
        ("parent_job", "x'00'"),
        ("depth", "-1"),
        ("filled", "300"),
    ];
    let mut connection = write_options(&path).connect().await.unwrap();
    for (column, value) in columns {
        let spoil = format!("BEGIN; UPDATE attestations SET {column} = {value} WHERE seq = 2");
        sqlx::raw_sql(sqlx::AssertSqlSafe(spoil)).execute(&mut connection).await.unwrap();
        let outcome = super::reader::fetch_by_seqs(&mut connection, &[Seq(1), Seq(2)]).await;
        let error = outcome.unwrap_err();
        let is_row = matches!(error, StoreError::Row { table: "attestations", row: 2, .. });
        assert!(is_row, "{column} = {value}: {error}");
        sqlx::raw_sql("ROLLBACK").execute(&mut connection).await.unwrap();
    }
    // However it is asked for.
    let spoil = "UPDATE attestations SET attributes = '{' WHERE seq = 2";
    sqlx::raw_sql(spoil).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let reader = SqliteStore::open_reader(&path).await.unwrap();
    let errors = [
        reader.query(&asks("so notify", 9)).await.map(drop),
        reader.query(&asks("'subject 1'", 9)).await.map(drop),
        reader.read_after(Seq(0), 9).await.map(drop),
    ];
    for error in errors.map(Result::unwrap_err) {
        assert!(matches!(error, StoreError::Row { table: "attestations", row: 2, .. }), "{error}");
    }
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
        let mut falling = reader.query(&asks(text, 600)).await.unwrap().rows;
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
