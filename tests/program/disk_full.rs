//! A full disk: claims are refused and say so, what is under way still ends, the server stays, and
//! takes claims again once there is room.
//!
//! Always with a reserve that no disk has. On a small disk of its own too, a tmpfs, which takes the
//! right to mount: without it that test says so and does nothing more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Home, Server, Zoo, ledger, text, until};
use serde_json::json;

/// A plugin whose jobs end when the file `gate` is there.
fn gated(home: &Home) -> Zoo {
    Zoo::new("zoo", "gate")
        .own("gate", home.path("gate").to_str().expect("a text"))
        .watcher(json!({ "id": "w", "predicates": ["seen"] }))
}

/// Appends are refused, one by one and in words that help; the server stays and answers.
#[track_caller]
fn check_refused(home: &Home, server: &Server) {
    let ran = home.run_plain(&["as", "Y is seen"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("resource_exhausted") && ran.err.contains("disk"), "{ran:?}");
    let ran =
        home.pipe("{\"id\":\"p1\",\"subjects\":[\"Y\"]}\n{\"id\":\"p2\",\"subjects\":[\"Y\"]}\n");
    assert_eq!(ran.code, 1, "{ran:?}");
    for (n, answer) in (1..).zip(ran.json()) {
        assert_eq!(answer["line"], n);
        assert!(text(&answer, "error").contains("resource_exhausted"), "{answer}");
    }
    let (status, body) = server
        .request("POST", "/api/v1/attestations", "{\"subjects\":[\"Y\"]}")
        .expect("the server stays");
    assert_eq!(status, 507, "{body}");
    let watch = home.run(&["watch", "create", "v", "--when", "is seen", "--run", "work"]);
    assert_eq!(watch.code, 1, "{watch:?}");
    assert_eq!(home.json(&["ax", "Y"]).len(), 0, "nothing of it is in the log");
    assert!(status_says_full(home));
    assert!(home.log().contains("disk nearly full"), "it is said in the log");
}

/// Whether `status` says that claims are refused because the disk is nearly full.
fn status_says_full(home: &Home) -> bool {
    let status = home.object(&["status"]);
    let attention = status["attention"].as_array().expect("a list");
    attention.iter().any(|one| {
        text(one, "kind") == "disk_low" && text(one, "message").contains("claims are refused")
    })
}

#[test]
fn a_reserve_that_is_reached_refuses_claims() {
    let home = Home::new("reserve");
    let served = home.zoo_toml(&[gated(&home)]);
    home.configure(&served);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["as", "X is seen", "--id", "before"]);
    until("the job is at the plugin", || ledger::read(&Zoo::ledger_of(&home, "zoo")).pop());
    server.kill();

    // The next life finds no room, and a job that was under way.
    home.configure(&format!("[store]\nreserve_mb = 1_000_000_000\n{served}"));
    let server = home.serve();
    check_refused(&home, &server);
    let why = until("why it is not ready is shown", || {
        let plugin = server.plugin("zoo");
        assert_eq!(plugin["state"], "starting", "{plugin}");
        plugin["error"].as_str().map(str::to_owned)
    });
    assert!(why.contains("Failed to setup plugin watchers: ") && why.contains("disk"), "{why}");
    server.stop();

    home.configure(&served);
    fs::write(home.path("gate"), "").unwrap();
    let server = home.serve();
    server.until_ready(&["zoo"]);
    server.until_settled();
    assert_eq!(text(&home.json(&["fires"])[0], "state"), "completed");
    home.object(&["as", "Y is seen"]);
}

/// A small disk; let go of when dropped.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn mount(at: &Path, mib: u32) -> Option<SmallDisk> {
        fs::create_dir_all(at).expect("a folder can be made");
        let size = format!("size={mib}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        match mount {
            Ok(done) if done.status.success() => Some(SmallDisk { at: at.to_owned() }),
            other => {
                println!("nothing is tested here: a tmpfs cannot be mounted ({other:?})");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

#[test]
fn a_watcher_that_catches_up_waits_for_room_and_goes_on() {
    const OLD: u64 = 4_000;
    let home = Home::new("catch-up");
    let Some(disk) = SmallDisk::mount(&home.path("disk"), 128) else { return };
    home.put_store_into("disk");
    home.configure_zoo(&[Zoo::good("zoo").host("max_in_flight", 256)]);
    // Each piece of the log is read slowly, so that the disk is full before the last one.
    home.arm("segment.read=sleep(500)");
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let lines = (0..OLD).map(|n| {
        let claim = json!({ "id": format!("c{n}"), "subjects": ["X"], "predicates": ["seen"] });
        format!("{claim}\n")
    });
    home.pipe(&lines.collect::<String>()).expect(0);
    home.object(&["watch", "create", "w", "--when", "is seen", "--run", "work", "--since", "1"]);
    let place = || {
        let watcher = home.object(&["watch", "show", "user-w"]);
        watcher["position"]["seq"].as_u64()
    };
    until("it has begun", || place().filter(|seq| *seq > 0));
    let ballast = disk.at.join("ballast");
    fs::write(&ballast, vec![1; 120 * 1024 * 1024]).unwrap();
    until("the disk is found to be full", || {
        (server.request("POST", "/api/v1/attestations", "{\"subjects\":[\"Y\"]}")?.0 == 507)
            .then_some(())
    });
    server.until_open(|open| open == 0 || place().is_some());
    let stands = until("it stands", || {
        let before = place().expect("it is not at the head");
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        (place() == Some(before)).then_some(before)
    });
    assert!(stands < OLD, "it waits before the end: {stands}");
    assert!(status_says_full(&home));

    fs::remove_file(&ballast).unwrap();
    until("it is live", || place().is_none().then_some(()));
    server.until_settled();
    let fires = home.json(&["fires", "--watcher", "user-w", "--all"]);
    assert_eq!(fires.len() as u64, OLD, "each once");
    assert!(fires.iter().all(|fire| fire["state"] == "completed"));
    assert!(!status_says_full(&home));
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn a_full_disk_refuses_claims_until_there_is_room() {
    let home = Home::new("tmpfs");
    let Some(disk) = SmallDisk::mount(&home.path("disk"), 128) else { return };
    home.put_store_into("disk");
    home.configure_zoo(&[gated(&home)]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    home.object(&["as", "X is seen", "--id", "before"]);
    let delivery =
        until("the job is at the plugin", || ledger::read(&Zoo::ledger_of(&home, "zoo")).pop());

    // Nearly all of it is taken by somebody else.
    let ballast = disk.at.join("ballast");
    fs::write(&ballast, vec![1; 120 * 1024 * 1024]).unwrap();
    check_refused(&home, &server);
    // What was under way ends, is written down, and can be looked at.
    fs::write(home.path("gate"), "").unwrap();
    server.until_job(&delivery.job_id, &["completed"]);
    assert_eq!(home.object(&["why", &delivery.job_id])["attempts"][0]["outcome"], "succeeded");

    fs::remove_file(&ballast).unwrap();
    let after = home.object(&["as", "Y is seen", "--id", "after"]);
    assert_eq!(after, json!({ "id": "after", "seq": 2, "fires": 1 }));
    server.until_settled();
    assert!(home.log().contains("disk has room again"));
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);

    // Without a server a full disk is an error too, and what was there stays.
    fs::write(&ballast, vec![1; 124 * 1024 * 1024]).unwrap();
    let big = "x".repeat(900_000);
    let lines: String = (0..6)
        .map(|n| {
            format!(
                "{{\"id\":\"big-{n}\",\"subjects\":[\"Z\"],\"attributes\":{{\"a\":\"{big}\"}}}}\n"
            )
        })
        .collect();
    let ran = home.pipe(&lines);
    assert_ne!(ran.code, 0, "{}", ran.err);
    let answered = ran.json().iter().filter(|answer| answer["seq"].is_u64()).count();
    fs::remove_file(&ballast).unwrap();
    assert_eq!(home.json(&["ax", "Z"]).len(), answered, "what was answered is there, and no more");
    assert_eq!(home.json(&["ax", "is seen"]).len(), 2);
}
