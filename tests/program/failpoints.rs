//! Every step on the way of a claim, made to fail in every way that fits: the process ends as by a
//! kill, an error is told, it panics, it stands still. The real program, with a plugin that writes down
//! what it gets; afterwards a start without failpoints, and then: nothing acknowledged is lost, all that
//! is due has fired once under one id, the audit stands, and nothing is half done.
//!
//! The table of cases is held to the list of failpoints, and that list to the source and its page.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::support::{Home, PATIENCE, Server, Zoo, http, ledger, number, processes, until};
use axwatch_failpoints::Point;
use rustix::process::Signal;
use serde_json::{Value, json};

/// How a server that was made to fail ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By a signal.
    Killed,
    /// With this exit code.
    Code(i32),
    /// Not at all: it goes on.
    Lives,
}

/// The exit code of a store that failed.
const STORAGE: End = End::Code(74);

/// One failure.
#[derive(Debug, Clone, Copy)]
struct Case {
    point: Point,
    action: &'static str,
    /// At which pass of the point.
    at: u32,
    end: End,
}

/// All actions at one point. `error` and `panic` say how the server ends; `None` is for what does not
/// fit there.
fn at(point: Point, at: u32, error: Option<End>, panic: Option<End>) -> Vec<Case> {
    let actions = [
        ("abort", Some(End::Killed)),
        ("error", error),
        ("panic", panic),
        ("sleep(300)", Some(End::Lives)),
    ];
    assert_eq!(error.is_some(), point.can_fail(), "{point}");
    let case = |(action, end): (_, Option<End>)| Some(Case { point, action, at, end: end? });
    actions.into_iter().filter_map(case).collect()
}

/// On the way of every claim.
fn road() -> Vec<Case> {
    let storage = Some(STORAGE);
    let lives = Some(End::Lives);
    [
        // After those that it takes until the plugin is ready.
        at(Point::BatchBegin, 12, storage, storage),
        at(Point::BatchDecided, 12, storage, storage),
        // The first commit of all is the start's own.
        at(Point::CommitBefore, 1, Some(End::Code(74)), Some(End::Code(101))),
        at(Point::CommitBefore, 12, storage, storage),
        at(Point::CommitAfter, 12, storage, storage),
        at(Point::EffectsHalf, 9, None, storage),
        at(Point::AcksHalf, 1, None, storage),
        at(Point::RequestSending, 4, lives, lives),
        at(Point::ResponseRead, 4, lives, lives),
        at(Point::Settle, 3, storage, storage),
        at(Point::Registration, 1, storage, storage),
    ]
    .concat()
}

fn catching_up() -> Vec<Case> {
    let storage = Some(STORAGE);
    [
        // What cannot be read is read again later; a panic there is one of the writer.
        at(Point::SegmentRead, 2, Some(End::Lives), storage),
        at(Point::SegmentCommitted, 1, storage, storage),
        at(Point::GoLive, 1, storage, storage),
    ]
    .concat()
}

fn loops() -> Vec<Case> {
    at(Point::LoopStop, 1, Some(STORAGE), Some(STORAGE))
}

fn checkpoints() -> Vec<Case> {
    at(Point::Checkpoint, 1, Some(STORAGE), Some(STORAGE))
}

fn plugin_starts() -> Vec<Case> {
    let lives = Some(End::Lives);
    [
        at(Point::TokenMint, 1, None, Some(STORAGE)),
        at(Point::Spawn, 1, lives, lives),
        at(Point::Handshake, 1, lives, lives),
    ]
    .concat()
}

fn drains() -> Vec<Case> {
    at(Point::Drain, 1, None, Some(End::Code(101)))
}

fn migrations() -> Vec<Case> {
    // Every step, and the commit after the last.
    let steps = 1..=5;
    steps.flat_map(|step| at(Point::Migration, step, Some(STORAGE), Some(End::Code(101)))).collect()
}

fn backups() -> Vec<Case> {
    at(Point::Backup, 1, Some(End::Lives), Some(End::Lives))
}

fn retention() -> Vec<Case> {
    at(Point::Retention, 1, Some(STORAGE), Some(STORAGE))
}

fn all_cases() -> Vec<Case> {
    let tables = [
        road(),
        catching_up(),
        loops(),
        checkpoints(),
        plugin_starts(),
        drains(),
        migrations(),
        backups(),
        retention(),
    ];
    tables.concat()
}

#[test]
fn every_failpoint_is_in_the_code_in_a_case_and_on_the_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source: String = ["ats/src", "engine/src", "src"]
        .iter()
        .flat_map(|folder| sources(&root.join(folder)))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let page = fs::read_to_string(root.join("docs/failpoints.md")).unwrap();
    let cases = all_cases();
    for point in Point::ALL {
        let used = format!("Point::{}", point.variant());
        let is_used = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
        assert!(source.split(&used).skip(1).any(is_used), "{point} is nowhere in the code");
        assert!(cases.iter().any(|case| case.point == *point), "{point} is in no case");
        assert!(page.contains(&format!("`{point}`")), "{point} is not on the page");
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    entries.flat_map(of).filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
}

#[test]
fn what_cannot_be_armed_is_a_mistake_of_usage() {
    let home = Home::new("unarmed");
    home.arm("comit.before=abort");
    home.configure_zoo(&[]);
    home.serve_in_vain().expect(2).says(&["comit.before", "no such failpoint"]);
}

/// Cases that run beside each other.
const BESIDE: usize = 3;

fn run_all(cases: Vec<Case>, run: impl Fn(Case, &Home) + Sync) {
    let left = Mutex::new(cases.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..BESIDE {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap().next();
                    let Some(case) = next else { return };
                    let Case { point, action, at, .. } = case;
                    let home = Home::new(&format!("fail-{point}-{action}-{at}"));
                    home.arm(&format!("{point}={action}@{at}"));
                    run(case, &home);
                }
            });
        }
    });
}

impl Case {
    /// Waits until the point was hit, and for what then becomes of the server; answers it if it lives.
    fn outlive(self, home: &Home, server: Server) -> Option<Server> {
        let hit = format!("failpoint {}: ", self.point);
        until(&format!("{self:?} is hit"), || home.log().contains(&hit).then_some(()));
        let code = match self.end {
            End::Lives => return Some(server),
            End::Killed => None,
            End::Code(code) => Some(code),
        };
        assert_eq!(server.end_within(PATIENCE).code(), code, "{self:?}\n{}", home.log());
        None
    }

    /// Starts a server that perhaps fails before it serves.
    fn start(self, home: &Home) -> Option<Server> {
        match Server::start(home) {
            Ok(server) => Some(server),
            Err(ran) => {
                let code = match self.end {
                    End::Killed => -1,
                    End::Code(code) => code,
                    End::Lives => panic!("{self:?}: {ran:?}"),
                };
                assert_eq!(ran.code, code, "{self:?}: {ran:?}");
                None
            }
        }
    }
}

/// Who appends at once.
const CLIENTS: usize = 8;
/// Claims of each.
const CLAIMS: usize = 8;

fn claim_ids() -> Vec<String> {
    (0..CLIENTS * CLAIMS).map(|n| format!("c{n}")).collect()
}

/// Appends a claim; its number when it was acknowledged.
fn append(address: &str, token: &str, id: &str) -> Option<u64> {
    let body = json!({ "id": id, "subjects": ["X"], "predicates": ["seen"] }).to_string();
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    let (status, body) = http(address, "POST", "/api/v1/attestations", &headers, &body)?;
    let answer: Value = serde_json::from_str(&body).ok()?;
    (200..300).contains(&status).then(|| number(&answer, "seq"))
}

/// Appends all claims from several clients at once, each until the server fails it.
fn append_all(server: &Server) -> BTreeMap<String, u64> {
    let (address, token) = (server.address().to_owned(), server.token().to_owned());
    let acked = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for ids in claim_ids().chunks(CLAIMS).map(<[String]>::to_vec) {
            let (address, token, acked) = (&address, &token, &acked);
            scope.spawn(move || {
                for id in ids {
                    let Some(seq) = append(address, token, &id) else { return };
                    acked.lock().unwrap().insert(id, seq);
                }
            });
        }
    });
    acked.into_inner().unwrap()
}

fn watching(home: &Home, host: &[(&str, u64)]) {
    let zoo = Zoo::good("zoo").watcher(json!({ "id": "w", "predicates": ["seen"] }));
    let zoo = host.iter().fold(zoo, |zoo, (key, value)| zoo.host(key, *value));
    home.configure_zoo(&[zoo]);
}

/// The ids of all claims that were acknowledged or not are sent again: each is there once, under the
/// number of its ack.
fn append_again(server: &Server, acked: &BTreeMap<String, u64>) {
    // A watcher sees what comes after it.
    server.until_ready(&["zoo"]);
    for id in claim_ids() {
        let seq = append(server.address(), server.token(), &id);
        let seq = seq.unwrap_or_else(|| panic!("{id} is not taken by a server that is well"));
        assert!(acked.get(&id).is_none_or(|acked| *acked == seq), "{id} has another number now");
    }
}

/// After all: what was acknowledged is there, what is due has fired, and nothing is half done.
fn check(home: &Home, server: Server, acked: &BTreeMap<String, u64>, fires: usize) {
    server.until_ready(&["zoo"]);
    let store = home.database();
    let count = |sql: &str| -> i64 { store.query_row(sql, [], |row| row.get(0)).unwrap() };
    until(&format!("{fires} jobs are done"), || {
        let done = count("SELECT count(*) FROM jobs WHERE state = 3");
        (done.unsigned_abs() >= fires as u64
            || !processes::tagged(home.tag()).contains(&server.pid()))
        .then_some(())
    });
    server.until_settled();
    server.stop();
    let rows = |sql: &str| -> Vec<(String, i64)> {
        let mut statement = store.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let log: BTreeMap<_, _> = rows("SELECT id, seq FROM attestations").into_iter().collect();
    for (id, seq) in acked {
        assert_eq!(log.get(id).map(|seq| seq.unsigned_abs()), Some(*seq), "{id} was acknowledged");
    }
    let head = *log.values().max().unwrap_or(&0);
    let matched = count("SELECT value FROM meta WHERE key = 'matched_seq'");
    assert_eq!(matched, head, "everything is matched");
    let jobs = rows("SELECT lower(hex(id)), seq FROM jobs WHERE state = 3");
    let matches: BTreeSet<_> = jobs.iter().map(|(_, seq)| *seq).collect();
    assert_eq!((jobs.len(), matches.len()), (fires, fires), "one job a match");
    let unfinished = rows("SELECT lower(hex(id)), state FROM jobs WHERE state NOT IN (3, 5)");
    assert!(unfinished.is_empty(), "{unfinished:?}");

    let deliveries = ledger::read(&Zoo::ledger_of(home, "zoo"));
    let ids: BTreeSet<_> = jobs.iter().map(|(id, _)| id.as_str()).collect();
    let delivered: BTreeSet<_> = deliveries.iter().map(|one| one.job_id.as_str()).collect();
    assert_eq!(delivered, ids, "each job reached the plugin, and nothing else did");
    let attempts: BTreeSet<_> = deliveries.iter().map(|one| (&one.job_id, one.attempt)).collect();
    assert_eq!(attempts.len(), deliveries.len(), "no attempt is delivered twice");

    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    let started: BTreeSet<_> = home
        .json(&["audit", "show", "--type", "attempt_started", "--all"])
        .iter()
        .map(|record| (crate::support::text(record, "job").to_owned(), number(record, "attempt")))
        .collect();
    for one in &deliveries {
        let attempt = (one.job_id.clone(), one.attempt);
        assert!(started.contains(&attempt), "delivered and not audited: {one:?}");
    }
}

#[test]
fn on_the_road_of_a_claim() {
    run_all(road(), |case, home| {
        watching(home, &[]);
        let server = case.start(home);
        let acked = match &server {
            Some(server) if case.point != Point::Registration => {
                server.until_ready(&["zoo"]);
                append_all(server)
            }
            _ => BTreeMap::new(),
        };
        let server = server.and_then(|server| case.outlive(home, server));
        home.arm("");
        let server = server.unwrap_or_else(|| home.serve());
        append_again(&server, &acked);
        check(home, server, &acked, CLIENTS * CLAIMS);
    });
}

/// A claim a line, as one request.
fn lines(count: usize) -> String {
    let line = |n| json!({ "id": format!("old{n}"), "subjects": ["X"], "predicates": ["seen"] });
    (0..count).map(|n| format!("{}\n", line(n))).collect()
}

#[test]
fn while_a_watcher_catches_up() {
    const OLD: usize = 1_100;
    run_all(catching_up(), |case, home| {
        home.configure_zoo(&[Zoo::good("zoo")]);
        let server = home.serve();
        server.until_ready(&["zoo"]);
        home.pipe(&lines(OLD)).expect(0);
        let create = ["watch", "create", "w", "--when", "is seen", "--run", "work", "--since", "1"];
        let created = home.start(&create);
        let server = case.outlive(home, server);
        created.finish();
        home.arm("");
        let server = server.unwrap_or_else(|| home.serve());
        // Whether or not it was told, it stands, and the same again changes nothing.
        home.object(&create);
        append_again(&server, &BTreeMap::new());
        check(home, server, &BTreeMap::new(), OLD + CLIENTS * CLAIMS);
    });
}

#[test]
fn while_a_loop_is_stopped() {
    run_all(loops(), |case, home| {
        let makes = json!([{ "predicate": "seen" }]);
        let watcher = json!({ "id": "w", "predicates": ["seen"] });
        home.configure_zoo(&[Zoo::new("zoo", "relays").own("makes", makes).watcher(watcher)]);
        let server = home.serve();
        server.until_ready(&["zoo"]);
        let acked = append(server.address(), server.token(), "first");
        let acked: BTreeMap<_, _> =
            acked.map(|seq| ("first".to_owned(), seq)).into_iter().collect();
        let server = case.outlive(home, server);
        home.arm("");
        let server = server.unwrap_or_else(|| home.serve());
        until("the loop is stopped", || {
            home.json(&["audit", "show", "--type", "loop_stopped"]).pop()
        });
        // Four fires of one watcher in one chain, however often the engine failed at the fifth.
        check(home, server, &acked, 4);
        assert_eq!(home.json(&["audit", "show", "--type", "loop_stopped", "--all"]).len(), 1);
    });
}

#[test]
fn while_the_log_is_copied() {
    run_all(checkpoints(), |case, home| {
        watching(home, &[]);
        let server = home.serve();
        server.until_ready(&["zoo"]);
        let ballast = "x".repeat(900_000);
        let mut acked = BTreeMap::new();
        for n in 0..40 {
            let id = format!("big{n}");
            let claim = json!({ "id": id, "subjects": ["B"], "attributes": { "a": ballast } });
            let answer = server.request("POST", "/api/v1/attestations", &claim.to_string());
            let Some((200..300, body)) = answer else { break };
            let answer: Value = serde_json::from_str(&body).unwrap();
            acked.insert(id, number(&answer, "seq"));
        }
        let server = case.outlive(home, server);
        home.arm("");
        let server = server.unwrap_or_else(|| home.serve());
        append_again(&server, &BTreeMap::new());
        check(home, server, &acked, CLIENTS * CLAIMS);
    });
}

#[test]
fn while_a_plugin_starts() {
    run_all(plugin_starts(), |case, home| {
        let is_panic = case.action == "panic";
        // A task that is gone is noticed when its time is up.
        let soon = [("ready_timeout_secs", 6), ("initialize_timeout_secs", 6)];
        watching(home, if is_panic { &soon } else { &[] });
        let server = case.start(home);
        let server = server.and_then(|server| case.outlive(home, server));
        if let (Some(server), true) = (&server, is_panic) {
            // As a plugin that does not answer: it is tried again in five minutes, or when told to.
            server.until_plugin("zoo", &["failed"]);
            home.run(&["plugin", "restart", "zoo"]).expect(0);
        }
        home.arm("");
        let server = server.unwrap_or_else(|| home.serve());
        append_again(&server, &BTreeMap::new());
        check(home, server, &BTreeMap::new(), CLIENTS * CLAIMS);
    });
}

#[test]
fn while_a_server_stops() {
    run_all(drains(), |case, home| {
        watching(home, &[]);
        let server = home.serve();
        server.until_ready(&["zoo"]);
        let acked = append_all(&server);
        server.signal(Signal::TERM);
        let code = match case.end {
            End::Killed => None,
            End::Code(code) => Some(code),
            End::Lives => Some(0),
        };
        assert_eq!(server.end_within(PATIENCE).code(), code, "{case:?}\n{}", home.log());
        assert!(home.log().contains(&format!("failpoint {}", case.point)));
        home.arm("");
        let server = home.serve();
        append_again(&server, &acked);
        check(home, server, &acked, CLIENTS * CLAIMS);
    });
}

#[test]
fn while_a_store_is_made() {
    run_all(migrations(), |case, home| {
        watching(home, &[]);
        let server = case.start(home);
        if server.is_none() {
            // All or nothing.
            let tables = "SELECT count(*) FROM sqlite_schema";
            let tables: i64 = home.database().query_row(tables, [], |row| row.get(0)).unwrap();
            assert_eq!(tables, 0, "{case:?}");
        }
        home.arm("");
        let server = server.unwrap_or_else(|| home.serve());
        append_again(&server, &BTreeMap::new());
        check(home, server, &BTreeMap::new(), CLIENTS * CLAIMS);
    });
}

#[test]
fn while_a_backup_is_made() {
    run_all(backups(), |case, home| {
        watching(home, &[]);
        let server = home.serve();
        server.until_ready(&["zoo"]);
        let acked = append_all(&server);
        let copy = home.path("copy.db");
        let backup = ["backup", copy.to_str().unwrap()];
        let made = home.start(&backup);
        let server = case.outlive(home, server);
        let made = made.finish();
        assert_eq!(made.code == 0, case.action.starts_with("sleep"), "{case:?}: {made:?}");
        assert_eq!(copy.exists(), made.code == 0, "a whole copy or none: {case:?}");
        home.arm("");
        let server = server.unwrap_or_else(|| home.serve());
        if !copy.exists() {
            home.object(&backup);
        }
        append_again(&server, &acked);
        check(home, server, &acked, CLIENTS * CLAIMS);
    });
}

#[test]
fn while_old_claims_are_removed() {
    run_all(retention(), |case, home| {
        watching(home, &[]);
        let server = home.serve();
        server.until_ready(&["zoo"]);
        let acked = append_all(&server);
        server.until_settled();
        let hit = format!("failpoint {}: ", case.point);
        let retain = ["retain", "--older-than", "1s", "--yes"];
        until("they are old enough", || {
            home.run(&retain);
            home.log().contains(&hit).then_some(())
        });
        let server = case.outlive(home, server);
        home.arm("");
        let server = server.unwrap_or_else(|| home.serve());
        // What is gone is known all the same.
        append_again(&server, &acked);
        server.until_settled();
        home.run(&retain).expect(0);
        append_again(&server, &acked);
        server.stop();
        let claims = "SELECT (SELECT count(*) FROM attestations) + (SELECT count(*) FROM removed)";
        let claims: i64 = home.database().query_row(claims, [], |row| row.get(0)).unwrap();
        assert_eq!(
            claims.unsigned_abs(),
            (CLIENTS * CLAIMS) as u64,
            "each is there, or known to be gone"
        );
        let deliveries = ledger::read(&Zoo::ledger_of(home, "zoo"));
        let jobs: BTreeSet<_> = deliveries.iter().map(|one| &one.job_id).collect();
        assert_eq!(jobs.len(), CLIENTS * CLAIMS, "each has fired, and under one id");
        assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    });
}
