//! `notify.exec`.

use std::path::Path;
use std::time::{Duration, Instant};

use axwatch_plugin_notify::plugin;
use axwatch_sdk::testing::{Harness, TestJob};
use axwatch_sdk::{Failure, Level};
use serde_json::json;

use crate::{eventually, fire, not_now, permanent, retry};

/// A plugin with one command, which a shell runs that the configuration names.
async fn with(script: &str) -> Harness {
    with_command(&["sh", "-c", script]).await
}

async fn with_command(line: &[&str]) -> Harness {
    let line = serde_json::to_string(line).unwrap();
    Harness::start_with(plugin(), [("exec.commands.it", line.as_str())]).await
}

async fn failure(script: &str) -> Failure {
    with(script).await.execute(fire("notify.exec")).await.expect_failure()
}

/// Whether a process is there and does something: one that ended and that nobody asked about does not.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

/// The process ids that a script wrote, a line each, once there are so many.
async fn pids(path: &Path, count: usize) -> Vec<String> {
    let read = || std::fs::read_to_string(path).unwrap_or_default();
    eventually("the script wrote its processes", || read().matches('\n').count() == count).await;
    read().lines().map(str::to_owned).collect()
}

/// Writes the ids of a shell and its child, which both pass SIGTERM over, and waits for ever.
fn stubborn(path: &Path) -> String {
    format!(
        "trap '' TERM; sleep 1000 & echo \"$$\n$!\" > {0}.part; mv {0}.part {0}; wait",
        path.display()
    )
}

#[tokio::test]
async fn the_payload_goes_in_and_the_result_comes_out() {
    let harness = with_command(&["cat"]).await;
    let payload = vec![b'x'; 60_000];
    let job = TestJob::new("notify.exec").payload(payload.clone());
    assert_eq!(harness.execute(job).await.expect_done().result, payload);
}

#[tokio::test]
async fn the_environment_holds_the_job_and_little_else() {
    let harness = with_command(&["env"]).await;
    let job = fire("notify.exec").attempt(3);
    let id = job.id().to_owned();
    let result = harness.execute(job).await.expect_done().result;
    let text = String::from_utf8(result.to_vec()).unwrap();
    let names: Vec<&str> = text.lines().map(|line| line.split('=').next().unwrap()).collect();
    let known = [
        "PATH",
        "HOME",
        "LANG",
        "TZ",
        "AXWATCH_JOB_ID",
        "AXWATCH_ATTEMPT",
        "AXWATCH_WATCHER",
        "AXWATCH_HANDLER",
    ];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    for line in [
        format!("AXWATCH_JOB_ID={id}"),
        "AXWATCH_ATTEMPT=3".to_owned(),
        "AXWATCH_WATCHER=user-hr".to_owned(),
        "AXWATCH_HANDLER=notify.exec".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[tokio::test]
async fn the_exit_code_decides() {
    let (after, reason) = not_now(failure("echo later >&2; exit 75").await);
    assert_eq!(after, Duration::from_secs(60));
    assert_eq!(reason, "it said not now (exit code 75): later");
    let cases = [
        ("exit 1", "it ended with exit code 1"),
        (
            "echo first >&2; echo 'no such host' >&2; echo >&2; exit 64",
            "it ended with exit code 64: no such host",
        ),
        ("no-such-program", "it ended with exit code 127: "),
        ("kill -9 $$", "it was killed by signal 9 (SIGKILL)"),
        ("kill -ABRT $$", "it was killed by signal 6 (SIGABRT)"),
    ];
    for (script, says) in cases {
        let reason = retry(failure(script).await);
        assert!(reason.starts_with(says), "{script}: {reason}");
    }
}

#[tokio::test]
async fn a_command_that_does_not_read_is_no_trouble() {
    let payload = vec![b'x'; 1_000_000];
    for script in ["exit 0", "exec <&-; sleep 0.1", "head -c 10 >/dev/null"] {
        let harness = with(script).await;
        let job = TestJob::new("notify.exec").payload(payload.clone());
        harness.execute(job).await.expect_done();
    }
}

#[tokio::test]
async fn output_is_bounded_and_never_holds_the_command_up() {
    let script = "head -c 3000000 /dev/zero | tr '\\0' o; head -c 3000000 /dev/zero | tr '\\0' e >&2; \
                  echo >&2; echo last >&2";
    let outcome = with(script).await.execute(fire("notify.exec")).await.expect_done();
    assert_eq!(outcome.result, vec![b'o'; 64 * 1024]);
    let (cut, lines) = outcome.log.split_last().unwrap();
    assert!(cut.0 == Level::Warn && cut.1.contains("64 KiB"), "{cut:?}");
    assert_eq!(lines.last().unwrap(), &(Level::Info, "last".to_owned()));
    assert_eq!(lines[0].1.chars().count(), 1_001, "a line is cut with a mark");
}

#[tokio::test]
async fn what_it_says_on_standard_error_is_the_jobs_log() {
    let outcome = with("echo one >&2; echo two >&2; echo result").await;
    let outcome = outcome.execute(fire("notify.exec")).await.expect_done();
    let info = |text: &str| (Level::Info, text.to_owned());
    assert_eq!(outcome.log, [info("one"), info("two")]);
    assert_eq!(outcome.result, "result\n");
}

#[tokio::test]
async fn which_command_has_to_be_clear() {
    let none = Harness::start(plugin()).await;
    let one = [("exec.commands.build", r#"["true"]"#)];
    let two = [one[0], ("exec.commands.test", r#"["false"]"#)];
    let chosen = [two[0], two[1], ("exec.command", "build")];
    let (one, two) =
        (Harness::start_with(plugin(), one).await, Harness::start_with(plugin(), two).await);
    let chosen = Harness::start_with(plugin(), chosen).await;

    let named = |name: &str| fire("notify.exec").params_json(json!({ "command": name }));
    one.execute(fire("notify.exec")).await.expect_done();
    two.execute(named("build")).await.expect_done();
    chosen.execute(fire("notify.exec")).await.expect_done();
    retry(chosen.execute(named("test")).await.expect_failure());

    let cases = [
        (
            &none,
            fire("notify.exec"),
            "set [notify.exec.commands] NAME = [\"program\", \"argument\"]",
        ),
        (&none, named("rm"), "set [notify.exec.commands] NAME = [\"program\", \"argument\"]"),
        (&two, fire("notify.exec"), "configured are build, test"),
        (&two, named("biuld"), "which are build, test; did you mean \"build\"?"),
        (&two, named("rm -rf /"), "which are build, test"),
        (
            &one,
            fire("notify.exec").params_json(json!({"args": ["x"]})),
            "has no parameter \"args\"; it takes command, timeout_secs",
        ),
    ];
    for (harness, job, says) in cases {
        let reason = permanent(harness.execute(job).await.expect_failure());
        assert!(reason.contains(says), "{reason}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_no_retry() {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    for program in ["no-such-program-anywhere", plain.to_str().unwrap()] {
        let harness = with_command(&[program, "x"]).await;
        let reason = permanent(harness.execute(fire("notify.exec")).await.expect_failure());
        let expected = format!("cannot start {program:?}, which [notify.exec.commands] it names");
        assert!(reason.starts_with(&expected), "{reason}");
    }
}

#[tokio::test]
async fn a_timeout_ends_the_whole_group() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pids");
    let harness = with(&format!("echo waiting >&2; {}", stubborn(&path))).await;
    let job = fire("notify.exec").params_json(json!({"timeout_secs": 1}));
    let reason = retry(harness.execute(job).await.expect_failure());
    assert_eq!(reason, "it did not end within 1 s: waiting");
    for pid in pids(&path, 2).await {
        eventually("the process is gone", || !lives(&pid)).await;
    }
}

#[tokio::test]
async fn an_attempt_that_the_host_gives_up_on_leaves_nothing_running() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pids");
    let harness = with(&stubborn(&path)).await;
    let pids = {
        let execute = harness.execute(fire("notify.exec"));
        tokio::select! {
            outcome = execute => panic!("it ended: {outcome:?}"),
            pids = pids(&path, 2) => pids,
        }
    };
    for pid in pids {
        eventually("the process is gone", || !lives(&pid)).await;
    }
}

#[tokio::test]
async fn a_plugin_that_stops_leaves_nothing_running() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pids");
    let harness = with(&stubborn(&path)).await;
    let execute = harness.execute(fire("notify.exec"));
    let stop = async {
        let pids = pids(&path, 2).await;
        harness.shutdown().await;
        pids
    };
    let (outcome, pids) = tokio::join!(execute, stop);
    let (_, reason) = not_now(outcome.expect_failure());
    assert_eq!(reason, "it was stopped, because the plugin stops");
    for pid in pids {
        eventually("the process is gone", || !lives(&pid)).await;
    }
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_ended_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pid");
    // It holds standard output, too, which must not keep the job waiting.
    let harness = with(&format!("sleep 1000 & echo $! > {}; echo done", path.display())).await;
    let began = Instant::now();
    let outcome = harness.execute(fire("notify.exec")).await.expect_done();
    assert_eq!(outcome.result, "done\n");
    assert!(began.elapsed() < Duration::from_secs(60), "it waited for what was left behind");
    let pid = std::fs::read_to_string(&path).unwrap();
    eventually("the process is gone", || !lives(&pid)).await;
}
