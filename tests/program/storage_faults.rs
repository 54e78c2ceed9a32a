//! A store that fails, and a store that somebody else holds: what is acknowledged is on the disk, the
//! engine ends with its own exit code or waits, and a start puts all right.
//!
//! The faults are real where that needs no special rights: limits of the process, locks of SQLite, a
//! folder that is taken away. Errors of single steps are in `failpoints.rs`, a full disk in `disk_full.rs`.

use std::fs;
use std::net::TcpStream;
use std::process::Child;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::{Home, PATIENCE, Server, Zoo, processes, text, until, within};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::json;

fn watching(home: &Home) {
    home.configure_zoo(&[Zoo::good("zoo").watcher(json!({ "id": "w", "predicates": ["seen"] }))]);
}

fn claim(id: &str, padding: usize) -> String {
    let attributes = json!({ "padding": "x".repeat(padding) });
    json!({ "id": id, "subjects": ["X"], "predicates": ["seen"], "attributes": attributes })
        .to_string()
}

/// Appends claims one by one until one is not taken; answers how many were, and what was said then.
fn append_until_refused(
    server: &Server,
    most: usize,
    padding: usize,
) -> (usize, Option<(u16, String)>) {
    for n in 0..most {
        match server.request("POST", "/api/v1/attestations", &claim(&format!("c{n}"), padding)) {
            Some((200..300, _)) => {}
            other => return (n, other),
        }
    }
    panic!("all {most} claims were taken");
}

/// After a start: what was acknowledged is there, all of it has fired, and the audit stands.
#[track_caller]
fn check_recovered(home: &Home, acked: usize) {
    let server = home.serve();
    server.until_ready(&["zoo"]);
    server.until_settled();
    let log = home.json(&["ax", "is seen", "--all"]);
    let ids: Vec<_> = log.iter().map(|claim| text(claim, "id")).collect();
    for n in 0..acked {
        assert!(ids.contains(&format!("c{n}").as_str()), "c{n} was acknowledged and is gone");
    }
    let fires = home.json(&["fires", "--all"]);
    assert_eq!(fires.len(), log.len(), "each claim has fired once");
    assert!(fires.iter().all(|fire| fire["state"] == "completed"));
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

fn limit(pid: u32, what: Resource, to: u64) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    prlimit(Some(pid), what, Rlimit { current: Some(to), maximum: Some(to) })
        .expect("a limit is set");
}

#[test]
fn a_write_that_fails_ends_the_engine_and_acknowledges_nothing_of_it() {
    let home = Home::new("fsize");
    watching(&home);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    // No file of this process may grow past 3 MiB from now on: a real error of a real write.
    limit(server.pid(), Resource::Fsize, 3 << 20);
    let (acked, refused) = append_until_refused(&server, 100, 200_000);
    assert!(acked >= 1, "some fit");
    if let Some((status, body)) = refused {
        assert_eq!(status, 503, "{body}");
        assert!(
            body.contains("unknown"),
            "whether it stands is not known, and that is said: {body}"
        );
    }
    assert_eq!(server.end_within(PATIENCE).code(), Some(74), "{}", home.log());
    assert!(home.log().contains("the engine has ended"), "{}", home.log());
    check_recovered(&home, acked);
}

#[test]
fn pending_claims_are_told_as_unknown_and_may_be_sent_again() {
    let home = Home::new("unknown");
    watching(&home);
    // The commit is on the disk, and its answer is an error.
    home.arm("commit.after=error@12");
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let (acked, refused) = append_until_refused(&server, 100, 0);
    if let Some((status, body)) = refused {
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("unknown"), "{body}");
    }
    assert_eq!(server.end_within(PATIENCE).code(), Some(74));
    home.arm("");
    let server = home.serve();
    let again = server.request("POST", "/api/v1/attestations", &claim(&format!("c{acked}"), 0));
    let (status, body) = again.expect("the server is well");
    assert!((200..300).contains(&status), "the same claim again is no conflict: {body}");
    server.stop();
    assert_eq!(home.json(&["ax", "is seen", "--all"]).len(), acked + 1);
    check_recovered(&home, acked + 1);
}

/// Holds the database as another program would, until the answer is dropped.
fn hold_database(home: &Home) -> (mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let database = home.database();
    let (release, released) = mpsc::channel();
    let (held, is_held) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        database.execute_batch("BEGIN EXCLUSIVE").expect("the database can be locked");
        held.send(()).expect("the test waits");
        let _ = released.recv();
        database.execute_batch("ROLLBACK").expect("the lock is let go");
    });
    is_held.recv().expect("the database is locked");
    (release, thread)
}

#[test]
fn a_database_that_another_program_locks_is_waited_for() {
    let home = Home::new("locked-short");
    watching(&home);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let (release, holder) = hold_database(&home);
    let appending = {
        let (address, token) = (server.address().to_owned(), server.token().to_owned());
        std::thread::spawn(move || {
            let bearer = format!("Bearer {token}");
            let headers = [("Authorization", bearer.as_str())];
            crate::support::http(
                &address,
                "POST",
                "/api/v1/attestations",
                &headers,
                &claim("c0", 0),
            )
        })
    };
    std::thread::sleep(Duration::from_secs(1));
    assert!(!appending.is_finished(), "nothing is acknowledged that is not on the disk");
    drop(release);
    holder.join().unwrap();
    let (status, body) = appending.join().unwrap().expect("the server is there");
    assert!((200..300).contains(&status), "{body}");
    server.until_settled();
    server.stop();
    check_recovered(&home, 1);
}

#[test]
fn a_database_that_stays_locked_ends_the_engine_and_nothing_is_acknowledged() {
    let home = Home::new("locked-long");
    watching(&home);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let (release, holder) = hold_database(&home);
    let answer = server.request("POST", "/api/v1/attestations", &claim("c0", 0));
    assert!(!matches!(answer, Some((200..300, _))), "acknowledged and not on the disk: {answer:?}");
    assert_eq!(server.end_within(PATIENCE).code(), Some(74), "{}", home.log());
    assert!(home.log().contains("locked"), "the log names the reason: {}", home.log());
    drop(release);
    holder.join().unwrap();
    assert_eq!(
        home.json(&["ax", "is seen"]).len(),
        0,
        "it was told as not known, and is not there"
    );
    check_recovered(&home, 0);
}

#[test]
fn a_start_on_a_locked_database_is_refused_and_changes_nothing() {
    let home = Home::new("locked-start");
    watching(&home);
    home.object(&["as", "X is seen", "--id", "c0"]);
    let (release, holder) = hold_database(&home);
    let ran = home.serve_in_vain();
    assert_eq!(ran.code, 74, "{ran:?}");
    assert!(ran.err.contains("locked"), "{ran:?}");
    drop(release);
    holder.join().unwrap();
    let server = home.serve();
    assert_eq!(home.json(&["ax", "is seen", "--all"]).len(), 1);
    server.stop();
}

#[test]
fn a_second_engine_on_a_store_is_refused_and_one_after_a_kill_is_not() {
    let home = Home::new("second");
    watching(&home);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let second = home.serve_in_vain();
    assert_eq!(second.code, 3, "{second:?}");
    assert!(second.err.contains(&format!("process {}", server.pid())), "{second:?}");
    // By another name of the same file, too.
    let link = home.path("other-name.db");
    fs::hard_link(home.store(), &link).unwrap();
    let by_link =
        home.run_bare(&["serve", "--http", "127.0.0.1:0", "--store", link.to_str().unwrap()]);
    assert_eq!(by_link.code, 3, "{by_link:?}");
    fs::remove_file(link).unwrap();
    home.object(&["as", "X is seen", "--id", "c0"]);
    server.kill();
    check_recovered(&home, 1);
}

#[test]
fn of_engines_that_start_at_one_moment_one_serves() {
    let home = Home::new("at-once");
    watching(&home);
    for round in 0..3 {
        let mut children: Vec<Child> = (0..4).map(|_| Server::spawn(&home)).collect();
        // All but one end by themselves, and say why with their code.
        until("three are refused", || {
            let ended = |child: &mut Child| child.try_wait().expect("a child can be waited for");
            let codes: Vec<_> = children.iter_mut().filter_map(ended).collect();
            assert!(codes.iter().all(|code| code.code() == Some(3)), "round {round}: {codes:?}");
            (codes.len() == 3).then_some(())
        });
        let mut alive = children
            .iter_mut()
            .filter_map(|child| matches!(child.try_wait(), Ok(None)).then_some(child.id()));
        let alive = alive.next().expect("one serves");
        until("it takes claims", || {
            let ran = home.run(&["as", "X is seen", "--id", &format!("c{round}")]);
            (ran.code == 0 && !ran.out.contains("deferred")).then_some(())
        });
        processes::signal(alive, Signal::KILL);
        children.iter_mut().for_each(|child| drop(child.wait()));
    }
    check_recovered(&home, 3);
}

#[test]
fn with_few_file_descriptors_existing_work_goes_on() {
    let home = Home::new("nofile");
    watching(&home);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    limit(server.pid(), Resource::Nofile, 64);
    // Two hundred clients that connect and say nothing take all there are.
    let clients: Vec<_> =
        (0..200).filter_map(|_| TcpStream::connect(server.address()).ok()).collect();
    assert!(clients.len() > 100, "the kernel queues what nobody accepts: {}", clients.len());
    let pid = server.pid();
    assert!(processes::tagged(home.tag()).contains(&pid), "the engine is still there");
    drop(clients);
    // Once they are gone there is room again, in the same process.
    let mut acked = 0;
    within(PATIENCE, "claims are taken again", || {
        let id = format!("c{acked}");
        match server.request("POST", "/api/v1/attestations", &claim(&id, 0)) {
            Some((200..300, _)) => acked += 1,
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
        (acked == 20).then_some(())
    });
    assert_eq!(server.pid(), pid);
    server.until_settled();
    let plugin = server.plugin("zoo");
    assert_eq!(text(&plugin, "state"), "ready", "{plugin}");
    server.stop();
    check_recovered(&home, 20);
}

#[test]
fn a_store_folder_that_cannot_be_used_is_told_and_nothing_is_made() {
    let home = Home::new("no-folder");
    watching(&home);
    fs::write(home.path("file"), "not a folder").unwrap();
    home.put_store_into("file");
    let ran = home.serve_in_vain();
    assert_eq!(ran.code, 74, "{ran:?}");
    assert!(ran.err.contains("file/axwatch.db"), "it names the store: {ran:?}");
    assert_eq!(fs::read_to_string(home.path("file")).unwrap(), "not a folder");
}
