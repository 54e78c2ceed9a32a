//! What a plugin's process is given and allowed, seen through the real program: memory, the program that
//! is executed, secrets, and its configuration.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::{Home, Zoo, number, processes, text, until};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const SECRET: &str = "a-secret-of-the-operator";

fn sha256_of(path: &Path) -> String {
    let digest = Sha256::digest(fs::read(path).unwrap());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The zoo's program as another file in the folder of a test.
fn copied_zoo(home: &Home, name: &str) -> PathBuf {
    let copy = home.path(name);
    fs::copy(crate::support::zoo_plugin_path(), &copy).unwrap();
    copy
}

fn executable_of(pid: u64) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

#[test]
fn a_pinned_program_is_executed_from_its_checked_copy() {
    let home = Home::new("pinned");
    let program = copied_zoo(&home, "qntx-zoo-plugin");
    let digest = sha256_of(&program);
    let usual = crate::support::zoo_plugin_path();
    let configure = |digest: &str| {
        let toml = home.zoo_toml(&[Zoo::good("zoo").host("sha256", digest.to_owned())]);
        home.configure(&toml.replace(usual.to_str().unwrap(), program.to_str().unwrap()));
    };
    configure(&digest);
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let running = executable_of(number(&server.plugin("zoo"), "pid"));
    let copies = home.path("axwatch.db.plugins").canonicalize().unwrap();
    assert_eq!(running, copies.join("zoo").join(&digest).join("qntx-zoo-plugin"));
    // Another file in its place is not executed, and nothing of it is tried again and again.
    let mut other = fs::read(&program).unwrap();
    other.push(0);
    fs::remove_file(&program).unwrap();
    fs::write(&program, other).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    home.object(&["plugin", "restart", "zoo"]);
    let failed = server.until_plugin("zoo", &["failed"]);
    assert!(text(&failed, "error").contains(&format!("sha256 says {digest}")), "{failed}");
    // Until somebody says that it is the right one.
    let digest = sha256_of(&program);
    configure(&digest);
    home.object(&["plugin", "restart", "zoo"]);
    server.until_ready(&["zoo"]);
    assert_eq!(fs::read_dir(copies.join("zoo")).unwrap().count(), 1, "the old copy is gone");
}

#[test]
fn no_secret_is_in_arguments_environments_logs_or_answers() {
    let home = Home::new("secrets");
    home.configure_zoo(&[
        Zoo::new("zoo", "prints-its-token").own("key", "env:CANARY").handlers(&["work"]),
        Zoo::good("other"),
    ]);
    home.set("CANARY", SECRET);
    let server = home.serve();
    server.until_ready(&["zoo", "other"]);
    let engine = server.pid();
    for pid in processes::tagged(home.tag()) {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let (arguments, environment) = (read("cmdline"), read("environ"));
        let found = |bytes: &[u8], what: &str| String::from_utf8_lossy(bytes).contains(what);
        let what = processes::describe(pid);
        assert!(!found(&arguments, SECRET), "{what}");
        assert!(pid == engine || !found(&environment, SECRET), "{what}");
        // A token is 64 hex digits.
        for bytes in [arguments, environment] {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let mut words = text.split(|c: char| !c.is_ascii_hexdigit());
            assert!(!words.any(|word| word.len() == 64), "{what}");
        }
        let limits = String::from_utf8(read("limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{what}: {core}");
    }
    let config = home.object(&["plugin", "config", "zoo"]).to_string();
    assert!(config.contains("(from env:CANARY)") && !config.contains(SECRET), "{config}");
    let shown = home.object(&["plugin", "show", "zoo"]).to_string();
    assert!(!shown.contains(SECRET), "{shown}");
    until("what it printed is in the log", || {
        home.log().contains("InitializeRequest").then_some(())
    });
    server.stop();
    assert!(!home.log().contains(SECRET), "the secret is not in the log");
}

#[test]
fn a_plugin_whose_memory_is_bounded_does_not_pass_the_bound() {
    let home = Home::new("memory");
    // A program of this kind has a few MiB: 1 is too little for any.
    home.configure_zoo(&[
        Zoo::good("large").host("memory_mb", 1),
        Zoo::good("small").host("memory_mb", 1_000),
    ]);
    let server = home.serve();
    server.until_ready(&["small"]);
    let large = server.until_plugin("large", &["failed"]);
    let error = text(&large, "error");
    assert!(error.contains("MiB of memory, plugins.large.memory_mb allows 1"), "{error}");
    assert_eq!(text(&server.plugin("small"), "state"), "ready");
}

#[test]
fn what_a_killed_engine_and_its_killed_launchers_leave_is_ended_by_the_next() {
    let home = Home::new("leftovers");
    home.configure_zoo(&[Zoo::new("stubborn", "ignores-sigterm")]);
    let server = home.serve();
    server.until_ready(&["stubborn"]);
    let before = processes::tagged(home.tag());
    // Stopped first, so that none of them can do its work when the others are gone.
    let engine = server.pid();
    let is_ours =
        |pid: &u32| *pid == engine || processes::describe(*pid).contains("plugin-launcher");
    let killed: Vec<u32> = before.iter().copied().filter(is_ours).collect();
    assert_eq!(killed.len(), 2, "the engine and a launcher: {killed:?}");
    for signal in [rustix::process::Signal::STOP, rustix::process::Signal::KILL] {
        killed.iter().for_each(|pid| processes::signal(*pid, signal));
    }
    server.kill();
    let left = |pids: &[u32]| {
        let there = processes::tagged(home.tag());
        pids.iter().copied().filter(|pid| there.contains(pid)).collect::<Vec<_>>()
    };
    until("the plugin is gone, and only its daemon is left", || {
        (left(&before).len() <= 1).then_some(())
    });
    let server = home.serve();
    assert_eq!(left(&before), [0_u32; 0]);
    server.until_ready(&["stubborn"]);
}

#[test]
fn a_plugin_is_told_what_is_written_for_it_now() {
    let home = Home::new("reread");
    let zoo = |handlers: &[&str]| [Zoo::new("zoo", "reconfigurable").handlers(handlers)];
    home.configure_zoo(&zoo(&["one"]));
    let server = home.serve();
    server.until_ready(&["zoo"]);
    let shown = server.plugin("zoo");
    let pid = number(&shown, "pid");
    home.configure_zoo(&zoo(&["one", "two"]));
    home.object(&["plugin", "reconfigure", "zoo"]);
    let shown = server.plugin("zoo");
    assert_eq!((number(&shown, "pid"), &shown["handlers"]), (pid, &json!(["one", "two"])));
    // What cannot be read changes nothing, and says where.
    home.configure("[zoo\n");
    for command in ["reconfigure", "restart", "reset", "enable"] {
        let asked = server.request("POST", &format!("/api/v1/plugins/zoo/{command}"), "");
        let (status, answer) = asked.expect("the server answers");
        assert_eq!(status, 400, "{command}: {answer}");
        assert!(answer.contains("am.toml:1") && answer.contains("goes on as before"), "{answer}");
    }
    assert_eq!(number(&server.plugin("zoo"), "pid"), pid);
    home.configure_zoo(&zoo(&["three"]));
    home.object(&["plugin", "restart", "zoo"]);
    let restarted = until("the new process is up", || {
        let shown = server.plugin("zoo");
        (shown["state"] == "ready" && shown["pid"] != json!(pid)).then_some(shown)
    });
    assert_eq!(restarted["handlers"], json!(["three"]));
}

/// A plugin that leaves a daemon without its environment behind, and then turns on its launcher.
fn turncoat(home: &Home, signal: &str) -> PathBuf {
    let (program, pids) = (home.path("turncoat"), home.path("daemons"));
    let daemon = format!("trap '' TERM HUP INT; echo $$ >> {}; exec sleep 600", pids.display());
    let script = format!(
        "#!/bin/sh\n(env -i setsid /bin/sh -c \"{}\" &)\nwhile ! [ -s {} ]; do :; done\nkill -{signal} $PPID\nexec sleep 600\n",
        daemon.replace('$', "\\$"),
        pids.display(),
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    home.configure(&format!(
        "[plugin]\nenabled = [\"turncoat\"]\n[plugins.turncoat]\nbinary = {program:?}\n"
    ));
    pids
}

/// Whether none of the processes whose numbers are in the file is alive.
fn are_gone(pids: &Path) -> bool {
    let is_alive = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
    };
    !fs::read_to_string(pids).unwrap().lines().any(is_alive)
}

#[test]
fn a_plugin_that_turns_on_its_launcher_leaves_nothing_behind() {
    for signal in ["KILL", "STOP"] {
        let home = Home::new("turncoat");
        let pids = turncoat(&home, signal);
        let server = home.serve();
        until("it has left a daemon", || {
            fs::read_to_string(&pids).is_ok_and(|text| !text.is_empty()).then_some(())
        });
        let asked = home.run(&["plugin", "restart", "turncoat"]);
        assert_eq!(asked.code, 0, "{signal}: {}", asked.err);
        if signal == "KILL" {
            until("its daemons are ended", || are_gone(&pids).then_some(()));
        }
        server.stop();
        until("nothing is left", || are_gone(&pids).then_some(()));
    }
}
