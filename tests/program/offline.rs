//! Without a server: what the commands do then, and what they leave to the next server.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::support::{Home, Zoo, ledger, number, text};
use serde_json::json;

/// Zoo with one watcher on `seen`.
fn configure(home: &Home) {
    home.configure_zoo(
        &[Zoo::good("zoo").watcher(json!({ "id": "seen", "predicates": ["seen"] }))],
    );
}

#[test]
fn claims_made_without_a_server_fire_at_the_next_start() {
    let home = Home::new("offline");
    configure(&home);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["as", "X is seen", "--id", "live"]);
    server.until_settled();
    server.stop();

    let appended = home.object(&["as", "X is seen by ann", "--id", "alone"]);
    assert_eq!(appended, json!({ "id": "alone", "seq": 2, "fires": "deferred" }));
    let lines = "{\"id\":\"l1\",\"subjects\":[\"Y\"],\"predicates\":[\"seen\"]}\n\
                 {\"id\":\"l2\",\"subjects\":[\"Y\"],\"predicates\":[\"unseen\"]}\n\
                 {\"id\":\"alone\",\"subjects\":[\"X\"],\"predicates\":[\"seen\"],\"actors\":[\"ann\"]}\n";
    let piped = home.pipe(lines).expect(0).json();
    assert_eq!(piped[0], json!({ "id": "l1", "seq": 3, "fires": "deferred" }));
    assert_eq!(number(&piped[1], "seq"), 4);
    assert_eq!(number(&piped[2], "seq"), 2, "a repeat is where it was");

    // What reads finds all of it.
    assert_eq!(home.json(&["ax", "is seen"]).len(), 3);
    let fires = home.json(&["fires"]);
    assert_eq!(fires.len(), 1);
    let job = text(&fires[0], "job_id");
    assert_eq!(text(&home.object(&["jobs", "show", job]), "state"), "completed");
    assert_eq!(home.json(&["jobs", "list"]).len(), 1);
    assert_eq!(home.object(&["why", job])["attestation"]["id"], "live");
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    // What needs a server says so.
    for args in [
        &["watch", "pause", "w"][..],
        &["watch", "create", "w", "--when", "is seen", "--run", "work"],
        &["plugin", "list"],
        &["jobs", "run", "work"],
        &["jobs", "retry", job],
        &["fires", "--follow"],
    ] {
        home.run(args).expect(1).says(&["no server runs", "axwatch serve"]);
    }

    let server = home.serve();
    server.until_ready(&["zoo"]);
    server.until_settled();
    let fires = home.json(&["fires"]);
    let about: Vec<_> = fires.iter().map(|fire| text(fire, "attestation_id")).collect();
    assert_eq!(about, ["l1", "alone", "live"], "newest first, each once");
    assert!(fires.iter().all(|fire| fire["state"] == "completed"), "{fires:?}");
    assert_eq!(ledger::read(&Zoo::ledger_of(&home, "zoo")).len(), 3);
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn a_watcher_sees_nothing_from_before_it_was_there() {
    let home = Home::new("since");
    home.configure_zoo(&[Zoo::good("zoo")]);
    home.object(&["as", "X is seen"]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["watch", "create", "w", "--when", "is seen", "--run", "work"]);
    assert_eq!(number(&home.object(&["as", "Y is seen"]), "fires"), 1);
    server.until_settled();
    assert_eq!(home.json(&["fires"]).len(), 1);
}

#[test]
fn there_is_one_writer() {
    let home = Home::new("writers");
    home.object(&["as", "X is seen"]);
    let server = home.serve();
    let other = home.serve_in_vain();
    let pid = format!("process {}", server.pid());
    assert_eq!(other.code, 3, "{other:?}");
    other.says(&["in use", &pid]);
    let plain = home.run_plain(&["serve", "--http", "127.0.0.1:0"]).expect(3);
    plain.says(&["in use", &pid, "stop that process", "--store PATH"]);
    // The commands go through the server, by whatever name the store is called.
    fs::create_dir(home.path("sub")).unwrap();
    let ran =
        home.run_bare(&["as", "Y is seen", "--json", "--store", "sub/../axwatch.db"]).expect(0);
    assert_eq!(ran.object()["fires"], 0);
    server.stop();

    // Somebody holds the lock and is no server.
    let lock = File::options().read(true).write(true).open(home.path("axwatch.db.lock")).unwrap();
    lock.lock().unwrap();
    let refused = home.run(&["as", "Z is seen"]).expect(3);
    assert_eq!(refused.error()["kind"], "store");
    refused.says(&["in use"]);
    assert_eq!(home.serve_in_vain().code, 3);
    // Reading needs no lock.
    assert_eq!(home.json(&["ax", "is seen"]).len(), 2);
    drop(lock);
    home.object(&["as", "Z is seen"]);
    assert_eq!(home.json(&["ax", "is seen"]).len(), 3);
}

#[test]
fn what_a_killed_server_left_is_passed_over() {
    let home = Home::new("stale");
    let server = home.serve();
    home.object(&["as", "X is seen"]);
    server.kill();
    let left =
        fs::read_to_string(home.path("axwatch.db.run.json")).expect("a kill leaves the file");
    let appended = home.object(&["as", "Y is seen"]);
    assert_eq!(appended["fires"], "deferred");
    assert_eq!(home.json(&["ax", "is seen"]).len(), 2);

    // Its port is somebody else's by now, who must not be taken for it, and never gets the token.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = listener.local_addr().unwrap();
    let (asked, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 4096];
            let read = stream.read(&mut bytes).unwrap_or(0);
            let _ = asked.send(String::from_utf8_lossy(&bytes[..read]).into_owned());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        }
    });
    let port = left.split("127.0.0.1:").nth(1).unwrap().split('"').next().unwrap();
    let moved = left.replace(&format!("127.0.0.1:{port}"), &stranger.to_string());
    assert_ne!(left, moved);
    fs::write(home.path("axwatch.db.run.json"), moved).unwrap();
    let appended = home.object(&["as", "Z is seen"]);
    assert_eq!(appended["fires"], "deferred");
    drop(heard);

    // And the next server writes its own.
    let server = home.serve();
    assert_eq!(number(&home.object(&["as", "W is seen"]), "seq"), 4);
    server.stop();
    assert!(!home.path("axwatch.db.run.json").exists());
    assert!(!home.path("axwatch.db.token").exists());
}

#[test]
fn a_server_lost_midway_is_an_error_and_no_silent_switch() {
    let home = Home::new("lost");
    let server = home.serve();
    let mut piping = home.start(&["as", "-"]);
    piping.write("{\"id\":\"a\",\"subjects\":[\"X\"]}\n");
    crate::support::until("the first claim is in the log", || {
        (!server.get("/api/v1/ax?query=X").is_empty()).then_some(())
    });
    server.kill();
    piping.write("{\"id\":\"b\",\"subjects\":[\"X\"]}\n");
    let ran = piping.finish().expect(1);
    assert_eq!(ran.json(), [json!({ "id": "a", "seq": 1, "fires": 0 })]);
    ran.says(&["no answer"]);
    let there: Vec<_> = home.json(&["ax", "X"]);
    assert_eq!(there.len(), 1, "the second line went nowhere: {there:?}");
}

#[test]
fn a_command_without_a_store_says_where_it_looked() {
    let home = Home::new("nowhere");
    for args in [&["ax", "X"][..], &["fires"], &["audit", "verify"], &["jobs", "list"]] {
        let ran = home.run(args).expect(1);
        ran.says(&["no store at", "axwatch.db", "--store"]);
    }
    assert!(!home.store().exists(), "a question makes no store");
}
