//! Stopping: clean, bounded in time whatever a plugin does, and at once when asked twice.

use std::time::{Duration, Instant};

use crate::support::{Follow, Home, Server, Zoo, ledger, processes, text, until};
use rustix::process::Signal;
use serde_json::json;

/// The longest that a stop may take: what is under way may end, and then all is ended (10 + 10 s); and
/// a little for a busy machine.
const STOP_WITHIN: Duration = Duration::from_secs(20 + 3);

#[test]
fn a_quiet_server_stops_at_once_on_either_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = Home::new("quiet");
        home.configure_zoo(&[Zoo::good("zoo")]);
        let server = home.serve();
        server.until_ready(&["zoo"]);
        let follow = Follow::start(&home);
        home.object(&["watch", "create", "w", "--when", "is seen", "--run", "work"]);
        home.object(&["as", "X is seen"]);
        follow.until(|fire| fire["state"] == "completed");
        let asked = Instant::now();
        server.signal(signal);
        let status = server.end_within(Duration::from_secs(10));
        assert_eq!(status.code(), Some(0), "{signal:?}: {status} after {:?}", asked.elapsed());
        assert!(
            processes::tagged(home.tag())
                .iter()
                .all(|pid| !processes::describe(*pid).contains("zoo_plugin"))
        );
        // All is tidied up: one file, and nothing that names a server.
        assert!(
            !home.path("axwatch.db-wal").exists() && !home.path("axwatch.db.run.json").exists()
        );
        let down = home.json(&["audit", "show", "--type", "plugin_down"]);
        assert_eq!(down.len(), 1, "{down:?}");
    }
}

#[test]
fn what_is_under_way_may_end() {
    let home = Home::new("drain");
    home.configure_zoo(&[Zoo::new("zoo", "gate")
        .own("gate", home.path("gate").to_str().expect("a text"))
        .host("max_in_flight", 2)
        .watcher(json!({ "id": "w", "predicates": ["seen"] }))]);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    for n in 0..5 {
        home.object(&["as", "X is seen", "--id", &format!("c-{n}")]);
    }
    let ledger_file = Zoo::ledger_of(&home, "zoo");
    until("two are at the plugin", || (ledger::read(&ledger_file).len() == 2).then_some(()));
    server.signal(Signal::TERM);
    until("the signal is heard", || (!home.path("axwatch.db.run.json").exists()).then_some(()));
    std::fs::write(home.path("gate"), "").expect("the gate can be opened");
    assert_eq!(server.end_within(STOP_WITHIN).code(), Some(0));
    // These two are done at their first attempt; nothing else was begun meanwhile.
    assert_eq!(ledger::read(&ledger_file).len(), 2);
    let mut states: Vec<_> = home
        .json(&["fires"])
        .iter()
        .map(|fire| (text(fire, "state").to_owned(), fire["attempts"].to_string()))
        .collect();
    states.sort();
    let expected = [("completed", "1"); 2].into_iter().chain([("queued", "0"); 3]);
    let expected: Vec<_> = expected.map(|(state, n)| (state.to_owned(), n.to_owned())).collect();
    assert_eq!(states, expected);
}

/// A server whose plugins do everything not to be stopped, with a job in flight at one of them.
fn serve_stubborn(home: &Home) -> Server {
    home.configure_zoo(&[
        Zoo::new("hung", "hang-in-execute").watcher(json!({ "id": "w", "predicates": ["seen"] })),
        Zoo::new("stubborn", "ignores-sigterm"),
        Zoo::new("deaf", "hang-in-shutdown"),
        Zoo::new("starting", "hang-in-initialize"),
        Zoo::new("mute", "never-binds"),
    ]);
    let server = home.serve();
    server.until_ready(&["hung", "stubborn", "deaf"]);
    home.object(&["as", "X is seen"]);
    until("the job is at the plugin", || ledger::read(&Zoo::ledger_of(home, "hung")).pop());
    server
}

#[test]
fn a_stop_is_bounded_with_every_plugin_hung() {
    let home = Home::new("bounded");
    let server = serve_stubborn(&home);
    server.signal(Signal::TERM);
    let status = server.end_within(STOP_WITHIN);
    assert_eq!(status.code(), Some(0), "{status}");
    let left = processes::tagged(home.tag());
    assert!(
        left.is_empty(),
        "{:?}",
        left.iter().map(|pid| processes::describe(*pid)).collect::<Vec<_>>()
    );
    // The job that was under way is not lost: it is tried again at the next start.
    let fire = home.json(&["fires"]).remove(0);
    assert!(["queued", "running"].contains(&text(&fire, "state")), "{fire}");
    home.configure_zoo(&[Zoo::good("hung").watcher(json!({ "id": "w", "predicates": ["seen"] }))]);
    let server = home.serve();
    let done = server.until_job(text(&fire, "job_id"), &["completed"]);
    assert_eq!(done["attempts"], 2);
    server.stop();
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let home = Home::new("twice");
    let server = serve_stubborn(&home);
    server.signal(Signal::TERM);
    // The first one has been heard when no command finds the server any more.
    until("the first signal is heard", || {
        (!home.path("axwatch.db.run.json").exists()).then_some(())
    });
    server.signal(Signal::TERM);
    // A second, and a little for a busy machine.
    server.end_within(Duration::from_secs(2));
    crate::support::within(Duration::from_secs(10), "no process is left", || {
        processes::tagged(home.tag()).is_empty().then_some(())
    });
    assert_eq!(home.object(&["audit", "verify"])["ok"], true);
    home.serve().stop();
}
