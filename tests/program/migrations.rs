//! Every released schema opens in this release, after a copy of it was kept; a store that cannot be
//! brought up, whenever and however that fails, is whole and has its old schema.
//!
//! The stores of old schemas are made here from the migrations themselves, with the rows of a store that
//! the present program wrote, as far as the old tables have columns for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Dice, Home, Ran, Running, Zoo, number, processes, text};
use rusqlite::Connection;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha384};

/// The steps, as they were released.
const MIGRATIONS: [&str; 7] = [
    include_str!("../../migrations/sqlite/0001_log.sql"),
    include_str!("../../migrations/sqlite/0002_ended_badly.sql"),
    include_str!("../../migrations/sqlite/0003_aliases_and_revisions.sql"),
    include_str!("../../migrations/sqlite/0004_positions.sql"),
    include_str!("../../migrations/sqlite/0005_plugins.sql"),
    include_str!("../../migrations/sqlite/0006_pulse.sql"),
    include_str!("../../migrations/sqlite/0007_stored_handlers.sql"),
];
const PRESENT: usize = MIGRATIONS.len();
/// Those that stores of users may have.
const RELEASED: [usize; 6] = [1, 2, 3, 4, 5, 6];

/// An empty store of a schema.
fn empty_store(path: &Path, schema: usize) -> Connection {
    let database = Connection::open(path).unwrap();
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA application_id = 1635276660; \
             CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY, description TEXT NOT NULL, \
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL, \
             checksum BLOB NOT NULL, execution_time BIGINT NOT NULL);",
        )
        .unwrap();
    for (version, sql) in (1_i64..).zip(MIGRATIONS).take(schema) {
        database.execute_batch(sql).unwrap();
        let checksum = Sha384::digest(sql).to_vec();
        let applied = "INSERT INTO _sqlx_migrations VALUES (?, 'step', 'then', true, ?, 1)";
        database.execute(applied, (version, checksum)).unwrap();
    }
    database
}

/// Takes the store of a home back to a schema: a new one with the rows of the old one.
fn take_back(home: &Home, schema: usize) {
    let present = home.path("present.db");
    fs::rename(home.store(), &present).unwrap();
    let database = empty_store(&home.store(), schema);
    database.execute("ATTACH ? AS present", [present.to_str().unwrap()]).unwrap();
    for table in names(&database, "SELECT name FROM main.sqlite_schema WHERE type = 'table'") {
        if table.starts_with("_sqlx") || table == "meta" {
            continue;
        }
        if table == "schedules" && schema < 6 {
            // They had their bare handlers.
            database
                .execute_batch(
                    "INSERT INTO main.schedules SELECT owner, name, substr(handler, instr(handler, '/') + 1), \
                     interval_secs, enabled_by_default, description, ats_code, declared_at, changed_at, \
                     retired_at FROM present.schedules;",
                )
                .unwrap();
            continue;
        }
        let columns = format!("SELECT name FROM pragma_table_info('{table}', 'main')");
        let quoted = |name: &String| format!("\"{name}\"");
        let columns = names(&database, &columns).iter().map(quoted).collect::<Vec<_>>().join(",");
        database
            .execute_batch(&format!(
                "DELETE FROM main.{table}; \
                 INSERT INTO main.{table} ({columns}) SELECT {columns} FROM present.{table};"
            ))
            .unwrap();
    }
    // Of meta what the old schema had, and what is added at the first opening and the first commit.
    database
        .execute_batch(
            "UPDATE main.meta AS old SET value = (SELECT value FROM present.meta WHERE key = old.key); \
             INSERT INTO main.meta SELECT * FROM present.meta WHERE key IN ('store_id', 'audit_head');",
        )
        .unwrap();
    drop(database);
    fs::remove_file(present).unwrap();
}

fn names(database: &Connection, sql: &str) -> Vec<String> {
    let mut statement = database.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn schema_of(path: &Path) -> i64 {
    let database = Connection::open(path).unwrap();
    let schema = "SELECT max(version) FROM _sqlx_migrations";
    database.query_row(schema, [], |row| row.get(0)).unwrap()
}

fn kept(home: &Home, schema: usize) -> PathBuf {
    PathBuf::from(format!("{}.schema-{schema}.bak", home.store().display()))
}

fn hash(path: &Path) -> Vec<u8> {
    Sha256::digest(fs::read(path).unwrap()).to_vec()
}

fn configure(home: &Home) {
    let zoo = Zoo::good("zoo")
        .handlers(&["work", "fail"])
        // Not before the test is over.
        .own("schedules", json!([{ "handler_name": "work", "interval_seconds": 86_400, "enabled_by_default": true }]));
    home.configure_zoo(&[
        zoo.watcher(json!({ "id": "seen", "predicates": ["seen"], "handler_name": "work" }))
    ]);
}

/// A store with a bit of everything, without a server.
fn lived_in(home: &Home) {
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["watch", "create", "held", "--when", "is held", "--run", "work"]);
    home.object(&["watch", "pause", "held"]);
    home.object(&["jobs", "run", "work", "--payload", r#"{"by":"hand"}"#, "--wait"]);
    for n in 0..50 {
        let predicate = if n % 5 == 0 { "held" } else { "seen" };
        home.object(&["as", &format!("X{n} is {predicate}"), "--id", &format!("c{n}")]);
    }
    server.until_open(|open| open == 10);
    server.stop();
    // What has not been matched yet.
    home.object(&["as", "Y is seen", "--id", "late"]);
}

/// What must be the same whatever the schema.
fn told_by(home: &Home) -> Value {
    let of = |args: &[&str], keys: &[&str]| {
        let rows = home.json(args).into_iter();
        rows.map(|row| keys.iter().map(|key| row[*key].clone()).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    json!({
        "claims": of(&["ax", "is seen held", "--all"], &["id", "seq", "subjects", "created_at"]),
        "jobs": of(&["jobs", "list", "--all"], &["job_id", "state", "watcher", "attestation_id", "attempts"]),
        "watchers": of(&["watch", "list"], &["id", "revision", "generation", "state"]),
        "audit": home.object(&["audit", "head"]),
        "verified": home.object(&["audit", "verify"])["ok"],
    })
}

#[test]
fn every_released_schema_opens_in_this_release() {
    for schema in RELEASED {
        let home = Home::new("schema");
        configure(&home);
        lived_in(&home);
        let present = told_by(&home);
        take_back(&home, schema);
        let before = hash(&home.store());
        assert_eq!(told_by(&home), present, "schema {schema}, as it is");
        assert_eq!(hash(&home.store()), before, "reading changes nothing");
        // A backup of an old store is one, and so is what is restored from it.
        let backup = home.object(&["backup", "old.db"]);
        assert_eq!(number(&backup, "schema"), schema as u64);

        let server = home.serve();
        server.until_ready(&["zoo"]);
        assert!(home.log().contains("keeping a copy of the store at its old schema"));
        assert!(home.log().contains("the store was brought to a later schema"));
        home.object(&["as", "Z is seen", "--id", "after"]);
        home.object(&["watch", "resume", "held"]);
        server.until_settled();
        server.stop();
        let fires = home.json(&["fires", "--all"]);
        assert_eq!(fires.len(), 52, "schema {schema}");
        assert!(fires.iter().all(|fire| fire["state"] == "completed"), "{fires:?}");
        assert_eq!(home.object(&["audit", "verify"])["ok"], true);
        assert_eq!(schema_of(&home.store()), PRESENT as i64);

        // The copy is the store as it was: it can be put back, and brought up again.
        let copy = kept(&home, schema);
        assert_eq!(schema_of(&copy), schema as i64);
        for file in [copy.to_str().unwrap(), "old.db"] {
            let restored = home.object(&["restore", file, "--force"]);
            assert_eq!(number(&restored, "schema"), schema as u64);
            assert_eq!(told_by(&home), present, "schema {schema}, restored from {file}");
        }
        home.object(&["as", "Z is seen", "--id", "after"]);
        assert_eq!(schema_of(&home.store()), PRESENT as i64);
    }
}

#[test]
fn a_newer_store_is_refused_unchanged() {
    let home = Home::new("newer");
    home.object(&["as", "X is seen"]);
    home.object(&["backup", "good.db"]);
    let later = "INSERT INTO _sqlx_migrations VALUES (999, 'later', 'now', true, x'00', 0); \
                 CREATE TABLE later (a);";
    home.database().execute_batch(later).unwrap();
    let store = home.store();
    let (before, names) = (hash(&store), listing(&home));
    let commands: [&[&str]; 7] = [
        &["as", "Y is seen"],
        &["ax", "is seen"],
        &["status"],
        &["audit", "verify"],
        &["backup", "copy.db"],
        &["restore", "good.db"],
        &["serve", "--http", "127.0.0.1:0"],
    ];
    for args in commands {
        let ran = home.run(args);
        // It is there, so it is not replaced; otherwise it is said what it is.
        let (code, expected) =
            if args[0] == "restore" { (1, "there already") } else { (3, "schema 999") };
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        assert!(text(&ran.error(), "message").contains(expected), "{ran:?}");
        assert_eq!(hash(&store), before, "{args:?}");
        assert_eq!(listing(&home), names, "{args:?}");
    }
    // Even when it is replaced it stays, under its other name.
    let aside = home.object(&["restore", "good.db", "--force"]);
    assert_eq!(hash(Path::new(text(&aside, "aside"))), before);
}

/// The files of a home, without locks and logs, and what readers leave beside a store.
fn listing(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(home.path(".")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    let is_left = |name: &String| {
        ["-shm", "-wal", ".lock", ".log"].iter().any(|ending| name.ends_with(ending))
    };
    names.retain(|name| !is_left(name));
    names.sort_unstable();
    names
}

/// A store whose migration takes a while: so many claims, each with a job.
fn large_store(path: &Path, schema: usize, rows: u64) {
    let database = empty_store(path, schema);
    database
        .execute_batch(&format!(
            "BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             INSERT INTO attestations (seq, id, subjects, predicates, contexts, actors, timestamp, \
               created_at, source, appended_by, filled, lineage, depth) \
             SELECT i, 'c' || i, '[\"S\"]', '[\"seen\"]', '[\"_\"]', '[\"a\"]', i, i, 'test', 'user', 0, 0, 0 FROM n; \
             INSERT INTO jobs (number, id, origin, watcher, revision, generation, seq, handler, plugin, state, \
               attempts, counted, uncounted, created_at, delay_ms, leaves) \
             SELECT seq, randomblob(16), 0, 1, 1, 0, seq, 'work', 'zoo', 3, 1, 1, 0, seq, 0, '' FROM attestations; \
             INSERT INTO meta VALUES ('store_id', '000102030405060708090a0b0c0d0e0f'); \
             UPDATE meta SET value = {rows} WHERE key IN ('matched_seq', 'derived_seq', 'derived_job', \
               'deriving_seq', 'deriving_job'); \
             UPDATE meta SET value = {rows} + 1 WHERE key = 'open_jobs_from'; COMMIT;"
        ))
        .unwrap();
}

/// The tables and indexes of a store, how many rows it has, and what its meta says.
fn whole(path: &Path) -> (Vec<String>, Vec<i64>, Vec<String>) {
    let database = Connection::open(path).unwrap();
    let verdict: String =
        database.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok", "{}", path.display());
    let tables = names(&database, "SELECT name || ifnull(sql, '') FROM sqlite_schema ORDER BY 1");
    let count = |table: &str| {
        let count = format!("SELECT count(*) FROM {table}");
        database.query_row(&count, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let counts = ["attestations", "jobs", "audit", "watchers"].map(count).to_vec();
    let meta = "SELECT key || '=' || value FROM meta ORDER BY 1";
    (tables, counts, names(&database, meta))
}

/// Puts a closed store in the place of a home's, with nothing else there.
fn put(home: &Home, folder: &str, store: &Path) {
    home.put_store_into(folder);
    fs::create_dir(home.path(folder)).unwrap();
    fs::copy(store, home.store()).unwrap();
}

#[test]
fn a_kill_while_a_store_is_brought_up_leaves_the_old_schema_or_the_new_one() {
    const ROWS: u64 = 60_000;
    let kills: u64 = std::env::var("AXWATCH_TEST_KILLS").map_or(12, |kills| kills.parse().unwrap());
    let mut dice = Dice::roll_seed();
    for schema in RELEASED {
        let home = Home::new("migrate-killed");
        let fixture = home.path("fixture.db");
        large_store(&fixture, schema, ROWS);
        let old = whole(&fixture);
        put(&home, "once", &fixture);
        let begun = Instant::now();
        home.object(&["as", "X is seen"]);
        let within = u64::try_from(begun.elapsed().as_micros()).unwrap();
        let mut left = [0, 0];
        for kill in 0..kills {
            put(&home, &format!("kill-{kill}"), &fixture);
            let running = home.start(&["as", "X is seen"]);
            // A moment of the whole span: part of the chance, not something that is waited for.
            std::thread::sleep(Duration::from_micros(dice.below(within * 6 / 5)));
            processes::signal(running.pid(), rustix::process::Signal::KILL);
            running.finish();
            let is_old = schema_of(&home.store()) == schema as i64;
            left[usize::from(!is_old)] += 1;
            let copy = kept(&home, schema);
            if is_old {
                assert_eq!(whole(&home.store()), old, "kill {kill}");
            } else {
                assert_eq!(schema_of(&home.store()), PRESENT as i64, "nothing between the two");
                assert!(copy.exists(), "there is a copy before anything is changed");
            }
            if copy.exists() {
                assert_eq!(whole(&copy), old, "a copy is whole when it is there");
            }
            // The next start goes on, whatever the kill left.
            home.object(&["as", "Y is seen"]);
            assert_eq!(schema_of(&home.store()), PRESENT as i64);
            let claims = whole(&home.store()).1[0];
            assert!(claims > ROWS as i64, "{claims}");
            let names = fs::read_dir(home.store().parent().unwrap()).unwrap();
            let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let names: Vec<String> = names.collect();
            assert!(!names.iter().any(|name| name.contains(".partial-")), "{names:?}");
            fs::remove_dir_all(home.store().parent().unwrap()).unwrap();
        }
        println!(
            "schema {schema}: {kills} kills within {within} µs left {} old and {} new",
            left[0], left[1]
        );
    }
}

/// A command that can write no file longer than this.
fn bounded(home: &Home, kib: u64, args: &[&str]) -> Ran {
    let mut command = Command::new("bash");
    // A write beyond it is an error then, and no signal.
    let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
    command.args(["-c", &script]).arg(crate::support::axwatch_path()).args(args);
    command.arg("--json").arg("--store").arg(home.store()).current_dir(home.path("."));
    Running::start(command).finish()
}

#[test]
fn a_disk_that_fails_while_a_store_is_brought_up_leaves_the_old_schema() {
    let home = Home::new("migrate-disk");
    let fixture = home.path("fixture.db");
    large_store(&fixture, 3, 60_000);
    let kib = fixture.metadata().unwrap().len() / 1024;
    let old = whole(&fixture);
    let mut failed = 0;
    // From too little for the copy to too little for the migration itself.
    for bound in [16, kib / 4, kib / 2, kib - 64, kib + 8, kib * 2] {
        put(&home, &format!("bound-{bound}"), &fixture);
        let before = hash(&home.store());
        let ran = bounded(&home, bound, &["as", "X is seen"]);
        if ran.code == 0 {
            assert_eq!(schema_of(&home.store()), PRESENT as i64);
            continue;
        }
        failed += 1;
        assert_eq!(ran.code, 74, "{bound} KiB: {ran:?}");
        let error = ran.error();
        let copy = kept(&home, 3);
        if !copy.exists() {
            assert!(
                text(&error, "message").contains("a copy of it as it is cannot be kept"),
                "{error}"
            );
            assert_eq!(hash(&home.store()), before, "{bound} KiB: nothing was touched");
        }
        assert_eq!(whole(&home.store()), old, "{bound} KiB");
        home.object(&["as", "X is seen"]);
        assert_eq!(schema_of(&home.store()), PRESENT as i64);
        assert_eq!(whole(&copy), old);
    }
    assert!(failed >= 4, "{failed}");
}
