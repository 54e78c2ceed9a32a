//! Backups of stores that are in use, and stores restored from them: whole, refused when they are not,
//! and never half, whenever somebody kills the one or the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Dice, Home, Ran, Running, Server, Zoo, number, processes, text, until};
use serde_json::{Value, json};

/// One watcher on every second claim.
fn configure(home: &Home) {
    let zoo = Zoo::good("zoo").host("max_in_flight", 64);
    home.configure_zoo(&[zoo.watcher(json!({ "id": "even", "predicates": ["even"] }))]);
}

fn lines_of(numbers: std::ops::Range<u64>) -> String {
    let line = |n: u64| {
        let predicate = if n.is_multiple_of(2) { "even" } else { "odd" };
        json!({
            "id": format!("claim-{n}"), "subjects": [format!("S{}", n % 97)],
            "predicates": [predicate], "attributes": { "text": "x".repeat(200) },
        })
    };
    numbers.map(|n| format!("{}\n", line(n))).collect()
}

/// A store without a server, with this many claims; closed.
fn store_of(home: &Home, claims: u64) {
    home.pipe(&lines_of(0..claims)).expect(0);
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("a text")
}

/// What lies beside a store that is not the store, its lock, what readers leave (shared memory and an
/// empty log), or what a killed server leaves.
fn beside(store: &Path) -> Vec<String> {
    let folder = store.parent().unwrap();
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let name = store.file_name().unwrap().to_str().unwrap().to_owned();
    let left = entries.filter(|entry| {
        let is_empty_log = entry.metadata().is_ok_and(|metadata| metadata.len() == 0);
        let found = entry.file_name().into_string().unwrap();
        let is_usual =
            ["-shm", ".lock", ".run.json", ".token"].iter().any(|end| found.ends_with(end));
        found.starts_with(&name) && found != name && !is_usual && !is_empty_log
    });
    let mut names: Vec<String> =
        left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// Runs a command on another store than that of its home.
fn on(home: &Home, store: &Path, args: &[&str]) -> Ran {
    let mut command = home.command(args);
    command.arg("--json").arg("--store").arg(store);
    Running::start(command).finish()
}

#[test]
fn a_backup_of_a_busy_store_is_the_store_up_to_one_claim() {
    const CLAIMS: u64 = 20_000;
    let home = Home::new("backup");
    configure(&home);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let store_id = text(&home.object(&["audit", "head"]), "store_id").to_owned();
    let epoch = number(&home.object(&["status"])["server"], "epoch");

    let mut command = home.command(["as", "-", "--json", "--store"]);
    command.arg(home.store()).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut piping = command.spawn().expect("the program can be started");
    let mut input = piping.stdin.take().expect("it is piped");
    let feeding = std::thread::spawn(move || {
        for start in (0..CLAIMS).step_by(500) {
            input.write_all(lines_of(start..start + 500).as_bytes()).expect("it reads");
        }
    });
    let head = || number(&server.get("/api/v1/status").remove(0)["lag"], "head");
    let mut made: Vec<(PathBuf, Value)> = Vec::new();
    for (share, force) in [(1, false), (2, true), (3, false)] {
        until("claims come", || (head() >= CLAIMS * share / 5).then_some(()));
        let file = home.path(format!("backup-{share}.db"));
        let mut args = vec!["backup", shown(&file)];
        if force {
            fs::write(&file, "an older one").unwrap();
            args.push("--force");
        }
        let before = head();
        let backup = home.object(&args);
        let seq = number(&backup, "seq");
        println!("a backup of {} bytes up to {seq}, of {before} to {}", backup["bytes"], head());
        assert!((before..=head()).contains(&seq), "{before} <= {backup} <= {}", head());
        assert_eq!(text(&backup, "store_id"), store_id);
        made.push((file, backup));
    }
    assert!(head() < CLAIMS, "the last was made while claims came");
    feeding.join().unwrap();
    assert!(piping.wait().unwrap().success());
    server.until_settled();
    server.stop();
    assert_eq!(beside(&home.store()), [""; 0]);
    let jobs = fires_of(&home);
    assert_eq!(jobs.len() as u64, CLAIMS / 2);

    for (n, (file, backup)) in made.iter().enumerate() {
        home.put_store_into(&format!("restored-{n}"));
        let restored = home.object(&["restore", shown(file)]);
        check_restored(&home, backup, &restored);
        let verified = home.object(&["audit", "verify"]);
        assert_eq!((&verified["ok"], &verified["head"]), (&json!(true), &backup["head"]));
        assert!(number(&restored, "epoch") > epoch + 1, "{restored}");
        check_serves(&home, backup, &jobs);
    }
}

/// The counts of a restored store are those that its backup told.
fn check_restored(home: &Home, backup: &Value, restored: &Value) {
    for key in ["store_id", "schema", "seq", "records", "head", "last_at"] {
        assert_eq!(restored[key], backup[key], "{key}");
    }
    assert_eq!((&restored["checksum"], &restored["aside"]), (&json!(true), &Value::Null));
    assert_eq!(restored["path"], shown(&home.store().canonicalize().unwrap()));
    assert_eq!(beside(&home.store()), [""; 0]);
    let seqs: Vec<u64> = home.json(&["ax", "is even odd", "--all"]).iter().map(seq_of).collect();
    assert!(seqs.iter().rev().copied().eq(1..=number(backup, "seq")), "every claim once");
}

fn seq_of(claim: &Value) -> u64 {
    number(claim, "seq")
}

/// The job of each fire, by its claim.
fn fires_of(home: &Home) -> BTreeMap<String, String> {
    let fires = home.json(&["fires", "--all"]);
    let of = |fire: &Value| {
        assert_eq!(text(fire, "state"), "completed", "{fire}");
        (text(fire, "attestation_id").to_owned(), text(fire, "job_id").to_owned())
    };
    let jobs: BTreeMap<_, _> = fires.iter().map(of).collect();
    assert_eq!(jobs.len(), fires.len(), "one for each claim");
    jobs
}

/// A restored store does what was left, under the ids that the same jobs had, and takes claims.
fn check_serves(home: &Home, backup: &Value, jobs: &BTreeMap<String, String>) {
    let server = home.serve();
    server.until_ready(&["zoo"]);
    server.until_settled();
    let fires = fires_of(home);
    let even = (0..number(backup, "seq")).filter(|n| n.is_multiple_of(2)).count();
    assert_eq!(fires.len(), even, "each due claim has fired");
    assert!(fires.iter().all(|(claim, job)| jobs.get(claim) == Some(job)), "under the same ids");
    let next = home.object(&["as", "X is even", "--id", "after"]);
    assert_eq!(number(&next, "seq"), number(backup, "seq") + 1);
    // What was made since then may be sent again.
    home.pipe(&lines_of(0..3)).expect(0);
    server.until_settled();
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn people_are_told_what_a_backup_and_a_restored_store_hold() {
    let home = Home::new("backup-told");
    home.object(&["as", "X is seen"]);
    let file = home.path("copy.db");
    let told = home.run_plain(&["backup", "copy.db"]).expect(0);
    assert_eq!(told.out.lines().count(), 1, "{told:?}");
    let told = told.says(&[shown(&file), "KiB", "claims up to seq 1", "audit head "]);
    assert!(told.err.is_empty(), "{told:?}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(beside(&file), [""; 0]);

    // Nothing that is there is lost without a word.
    home.run_plain(&["backup", "copy.db"]).expect(1).says(&["there already", "--force"]);
    home.run_plain(&["restore", "copy.db"]).expect(1).says(&["there already", "--force"]);
    home.object(&["as", "Y is seen"]);
    let told = home.run_plain(&["restore", "copy.db", "--force"]).expect(0);
    told.says(&["restored", "axwatch.db.before-restore-", "claims after seq 1", "run again"]);
    let aside = beside(&home.store());
    assert_eq!(aside.len(), 1, "{aside:?}");
    let count = |store: &Path| on(&home, store, &["ax", "is seen", "--count"]).object();
    assert_eq!(count(&home.store())["count"], 1);
    assert_eq!(count(&home.path(&aside[0]))["count"], 2);

    home.run_plain(&["backup", "nowhere/copy.db"]).expect(1).says(&["folder is not there"]);
    home.run_plain(&["backup", "."]).expect(1).says(&["a folder; name a file"]);
    home.run_plain(&["restore", "nothing.db"]).expect(2).says(&["no file nothing.db"]);
    let store = home.store();
    home.run_plain(&["restore", shown(&store)]).expect(1).says(&["file that is to be restored"]);
    home.put_store_into("elsewhere");
    home.run_plain(&["backup", "other.db"]).expect(1).says(&["no store"]);
}

/// Programs that are not whole stores of ours, made from a good backup.
type Spoil = (&'static str, fn(&mut Vec<u8>), &'static str);

#[test]
fn what_is_no_whole_backup_is_refused_and_nothing_is_changed() {
    let home = Home::new("backup-refused");
    store_of(&home, 2_000);
    // Each start is a record of the audit.
    home.serve().stop();
    home.serve().stop();
    let good = home.path("good.db");
    home.object(&["backup", shown(&good)]);
    let whole = fs::read(&good).unwrap();
    home.put_store_into("target");
    let file = home.path("spoilt.db");
    let cases: [Spoil; 8] = [
        ("a bit of the first page", |bytes| bytes[97] ^= 4, "checksum differs"),
        ("a bit in the middle", |bytes| flip(bytes, 1, 2), "checksum differs"),
        ("the last bit", |bytes| flip(bytes, 1, 1), "checksum differs"),
        ("half of it", |bytes| bytes.truncate(bytes.len() / 2), "damaged"),
        ("a page less", |bytes| bytes.truncate(bytes.len() - 4_096), "damaged"),
        ("a page more", |bytes| bytes.extend([0; 4_096]), "checksum differs"),
        ("text", |bytes| *bytes = b"claims: none".to_vec(), "not a database"),
        ("nothing", Vec::clear, "nothing was ever written"),
    ];
    for (what, spoil, expected) in cases {
        let mut bytes = whole.clone();
        spoil(&mut bytes);
        fs::write(&file, &bytes).unwrap();
        check_refused(&home, &file, what, expected);
    }

    rusqlite::Connection::open(home.path("other.db"))
        .unwrap()
        .execute("CREATE TABLE a (b)", [])
        .unwrap();
    check_refused(&home, &home.path("other.db"), "another program's", "another program's database");
    check_refused(&home, &home.path("."), "a folder", "no regular file");

    // Written to by somebody since, so that there is no checksum that would tell.
    let cases = [
        ("DELETE FROM audit WHERE first_leaf > 0", "its audit is not as it was written"),
        ("UPDATE audit SET records = replace(records, 'engine', 'motor')", "its audit is not"),
        ("INSERT INTO _sqlx_migrations VALUES (999, 'later', 'now', true, x'00', 0)", "schema 999"),
        (
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'jobs'",
            "damaged",
        ),
    ];
    for (sql, expected) in cases {
        fs::write(&file, &whole).unwrap();
        let database = rusqlite::Connection::open(&file).unwrap();
        database.execute_batch(&format!("PRAGMA user_version = 0; {sql}")).unwrap();
        drop(database);
        check_refused(&home, &file, sql, expected);
    }

    // What can be restored when nothing better is left.
    fs::write(&file, &whole).unwrap();
    let spoil = "PRAGMA user_version = 0; UPDATE attestations SET subjects = '[1]' WHERE seq = 3";
    rusqlite::Connection::open(&file).unwrap().execute_batch(spoil).unwrap();
    check_refused(&home, &file, "a row", "row 3 of its table attestations");
    let damaged = home.object(&["restore", shown(&file), "--damaged"]);
    assert_eq!((number(&damaged, "seq"), &damaged["checksum"]), (2_000, &json!(false)));
    fs::remove_file(home.store()).unwrap();

    // A store as a crash leaves it.
    fs::write(&file, &whole).unwrap();
    fs::write(home.path("spoilt.db-wal"), "frames").unwrap();
    check_refused(&home, &file, "not closed", "write-ahead log beside it");
    fs::remove_file(home.path("spoilt.db-wal")).unwrap();
    home.object(&["restore", shown(&file)]);
    assert_eq!(home.object(&["ax", "is even odd", "--count"])["count"], 2_000);
}

fn flip(bytes: &mut [u8], part: usize, of: usize) {
    let at = bytes.len() * part / of - 1;
    bytes[at] ^= 1;
}

#[track_caller]
fn check_refused(home: &Home, file: &Path, what: &str, expected: &str) {
    let ran = home.run(&["restore", shown(file)]);
    assert_eq!(ran.code, 3, "{what}: {ran:?}");
    let told = ran.error();
    assert!(text(&told, "message").contains(expected), "{what}: {told}");
    assert!(!home.store().exists() && beside(&home.store()).is_empty(), "{what}");
}

#[test]
fn a_store_that_somebody_has_is_not_replaced() {
    let home = Home::new("restore-held");
    store_of(&home, 10);
    let file = home.path("copy.db");
    home.object(&["backup", shown(&file)]);
    let server = home.serve();
    home.object(&["as", "X is seen", "--id", "later"]);
    for args in [&["restore", "copy.db"][..], &["restore", "copy.db", "--force"]] {
        let told = home.run(args).expect(3);
        let told = told.error()["message"].as_str().unwrap().to_owned();
        assert!(told.contains(&format!("in use by process {}", server.pid())), "{told}");
    }
    home.object(&["as", "Y is seen"]);
    server.kill();

    // Its write-ahead log still holds claims, which go with it.
    home.object(&["restore", "copy.db", "--force"]);
    let aside = beside(&home.store());
    assert_eq!(aside.len(), 1, "{aside:?}");
    let kept = on(&home, &home.path(&aside[0]), &["ax", "is seen", "--count"]).object();
    assert_eq!(kept["count"], 2);
    assert_eq!(home.object(&["ax", "is seen", "--count"])["count"], 0);

    // One that is damaged is kept as it is, whatever lies beside it.
    fs::write(home.store(), "damaged beyond words").unwrap();
    let log = PathBuf::from(format!("{}-wal", shown(&home.store())));
    fs::write(&log, "and its log").unwrap();
    let aside = text(&home.object(&["restore", "copy.db", "--force"]), "aside").to_owned();
    assert_eq!(fs::read_to_string(&aside).unwrap(), "damaged beyond words");
    assert_eq!(fs::read_to_string(format!("{aside}-wal")).unwrap(), "and its log");
    assert!(!log.exists());
    assert_eq!(home.object(&["ax", "is even odd", "--count"])["count"], 10);
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn over_http_a_backup_is_a_new_file_and_nothing_else() {
    let home = Home::new("backup-http");
    let server = home.serve();
    home.object(&["as", "X is seen"]);
    let ask = |path: &Path| {
        let body = json!({ "path": path }).to_string();
        server.request("POST", "/api/v1/backup", &body).expect("the server answers")
    };
    let file = home.path("copy.db");
    let (status, answer) = ask(&file);
    assert_eq!(status, 200, "{answer}");
    let lines: Vec<Value> =
        answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, before) = lines.split_last().unwrap();
    assert_eq!(last["backup"]["path"], shown(&file.canonicalize().unwrap()));
    assert_eq!(last["backup"]["seq"], 1);
    assert!(before.iter().all(|line| line["progress"]["of_bytes"].is_u64()), "{answer}");

    let store = home.store();
    fs::create_dir(home.path("folder")).unwrap();
    let cases = [
        (file.clone(), 409, "conflict"),
        (store.clone(), 400, "invalid"),
        (PathBuf::from(format!("{}-journal", shown(&store))), 400, "invalid"),
        (home.path("folder"), 400, "invalid"),
        (home.path("missing/copy.db"), 400, "invalid"),
        (PathBuf::from("copy.db"), 400, "invalid"),
    ];
    for (path, status, kind) in cases {
        let (found, answer) = ask(&path);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((found, text(&answer["error"], "kind")), (status, kind), "{path:?}: {answer}");
    }
    for body in ["{}", "{\"path\":\"/tmp/x\",\"force\":true}", "[]"] {
        let (status, answer) = server.request("POST", "/api/v1/backup", body).unwrap();
        assert_eq!(status, 400, "{answer}");
    }
    let (status, _) = server.request("GET", "/api/v1/backup", "").unwrap();
    assert_eq!(status, 405);
    server.stop();
    assert_eq!(on(&home, &file, &["ax", "is seen", "--count"]).object()["count"], 1);
}

/// How long a command takes here, so that a kill can be aimed into it.
fn took(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

/// Waits for a moment within a span: part of the chance, not something that is waited for.
fn wait_within(span: Duration, dice: &mut Dice) {
    let micros = u64::try_from(span.as_micros()).unwrap().max(1);
    std::thread::sleep(Duration::from_micros(dice.below(micros)));
}

#[test]
fn a_backup_that_is_killed_is_whole_or_not_there() {
    let mut dice = Dice::roll_seed();
    let home = Home::new("backup-killed");
    store_of(&home, 20_000);
    let file = home.path("copy.db");
    let within = took(|| drop(home.object(&["backup", shown(&file)])));
    let (mut whole, mut partial) = (0, 0);
    for kill in 0..30 {
        fs::remove_file(&file).unwrap_or_default();
        let by_server = kill % 2 == 1;
        let server = by_server.then(|| home.serve());
        let running = home.start(&["backup", shown(&file)]);
        wait_within(within * 5 / 4, &mut dice);
        match server {
            Some(server) => server.kill(),
            None => processes::signal(running.pid(), rustix::process::Signal::KILL),
        }
        running.finish();
        partial += usize::from(!beside(&file).is_empty());
        if file.exists() {
            whole += 1;
            let count = on(&home, &file, &["ax", "is even odd", "--count"]).object();
            assert_eq!(count["count"], 20_000);
            assert_eq!(on(&home, &file, &["audit", "verify"]).object()["ok"], true);
        }
    }
    println!("30 kills: {whole} whole, {partial} left a part");
    fs::remove_file(&file).unwrap_or_default();
    home.object(&["backup", shown(&file)]);
    assert_eq!(beside(&file), [""; 0], "the next one takes away what they left");
    assert_eq!(home.object(&["ax", "is even odd", "--count"])["count"], 20_000);
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_store_or_the_new_one() {
    let mut dice = Dice::roll_seed();
    let home = Home::new("restore-killed");
    store_of(&home, 5_000);
    let file = home.path("copy.db");
    home.object(&["backup", shown(&file)]);
    home.pipe(&lines_of(5_000..8_000)).expect(0);
    let old = fs::read(home.store()).unwrap();
    home.put_store_into("target");
    fs::create_dir(home.path("target")).unwrap();
    fs::write(home.store(), &old).unwrap();
    let within = took(|| drop(home.object(&["restore", "copy.db", "--force"])));
    let mut seen = BTreeSet::new();
    for kill in 0..30 {
        home.put_store_into(&format!("target-{kill}"));
        fs::create_dir(home.path(format!("target-{kill}"))).unwrap();
        fs::write(home.store(), &old).unwrap();
        let running = home.start(&["restore", "copy.db", "--force"]);
        wait_within(within * 5 / 4, &mut dice);
        processes::signal(running.pid(), rustix::process::Signal::KILL);
        running.finish();
        let count = number(&home.object(&["ax", "is even odd", "--count"]), "count");
        assert!(count == 5_000 || count == 8_000, "{count}");
        assert_eq!(home.object(&["audit", "verify"])["ok"], true);
        seen.insert(count);
        if count == 5_000 {
            let kept =
                beside(&home.store()).into_iter().find(|name| name.contains("before-restore"));
            let kept = home.store().with_file_name(kept.expect("the old one is kept"));
            let kept = on(&home, &kept, &["ax", "is even odd", "--count"]).object();
            assert_eq!(kept["count"], 8_000);
        }
        // The next one is not disturbed.
        home.object(&["restore", "copy.db", "--force"]);
        assert_eq!(home.object(&["ax", "is even odd", "--count"])["count"], 5_000);
        let left = beside(&home.store());
        assert!(left.iter().all(|name| name.contains("before-restore")), "{left:?}");
        home.object(&["as", "X is seen"]);
    }
    println!("30 kills left {seen:?}");
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
fn a_disk_that_fails_on_the_way_leaves_no_half_backup_and_no_half_store() {
    let home = Home::new("backup-disk");
    store_of(&home, 5_000);
    let file = home.path("copy.db");
    let refused = bounded(&home, 200, &["backup", shown(&file)]);
    assert_eq!(refused.code, 74, "{refused:?}");
    assert!(!file.exists() && beside(&file).is_empty());
    home.object(&["backup", shown(&file)]);

    let before = fs::read(home.store()).unwrap();
    let refused = bounded(&home, 200, &["restore", shown(&file), "--force"]);
    assert_eq!(refused.code, 74, "{refused:?}");
    assert!(fs::read(home.store()).unwrap() == before && beside(&home.store()).is_empty());
}

/// Whoever asks a server for a backup and goes away leaves nothing behind.
#[test]
fn a_backup_that_nobody_waits_for_ends() {
    let home = Home::new("backup-left");
    store_of(&home, 20_000);
    let server = home.serve();
    let file = home.path("copy.db");
    for _ in 0..5 {
        let running = home.start(&["backup", shown(&file)]);
        until("it has begun, or is done", || {
            (file.exists() || !beside(&file).is_empty()).then_some(())
        });
        processes::signal(running.pid(), rustix::process::Signal::KILL);
        running.finish();
        until("it has ended", || beside(&file).is_empty().then_some(()));
        fs::remove_file(&file).unwrap_or_default();
    }
    check_stays(&home, &server, &file);
    server.stop();
}

fn check_stays(home: &Home, server: &Server, file: &Path) {
    until("the next one is made", || (home.run(&["backup", shown(file)]).code == 0).then_some(()));
    assert_eq!(server.get("/api/v1/server").len(), 1);
}
