//! Code that hangs, dies, floods or leaves things behind costs its own job, and its neighbour does not
//! notice.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use axwatch_sdk::testing::{Harness, Outcome, TestJob};
use axwatch_sdk::{Failure, Level};
use serde_json::Value;

use crate::support::{PATIENCE, file, result, script, start, until, value};

/// A file name as Python text.
fn text(path: &Path) -> String {
    format!("{:?}", path.to_str().expect("temporary folders have names that are text"))
}

/// Runs `code` while a neighbour is at work, who must not notice; and then another job.
///
/// The neighbour begins first, and ends only when the other has.
async fn beside_a_neighbour(harness: &Harness, code: &str) -> Outcome {
    let (_here, begun) = file("begun");
    let (_there, go) = file("go");
    let neighbour = format!(
        "import os, time\nopen({}, 'w').close()\nwhile not os.path.exists({}): time.sleep(0.005)\nprint('unharmed')\n_result = os.getpid()",
        text(&begun),
        text(&go),
    );
    let pid = result(harness, "import os\n_result = os.getpid()").await;
    let other = async {
        until("the neighbour is at work", || begun.exists().then_some(())).await;
        let outcome = harness.execute(script(code)).await;
        std::fs::write(&go, "").unwrap();
        outcome
    };
    let (neighbour, outcome) = tokio::join!(harness.execute(script(&neighbour)), other);
    let neighbour = neighbour.expect_done();
    assert_eq!(value(&neighbour), pid, "the neighbour had the worker that was there");
    assert_eq!(neighbour.result_as::<Value>()["stdout"], "unharmed\n");
    assert_eq!(neighbour.log, [(Level::Info, "unharmed".to_owned())]);
    assert_eq!(result(harness, "_result = 'next'").await, "next");
    outcome
}

/// Two workers with little time and memory.
async fn two_workers() -> Harness {
    start(&[("workers", "2"), ("timeout_secs", "1"), ("memory_mb", "256")]).await
}

/// The same with time enough.
async fn patient() -> Harness {
    start(&[("workers", "2"), ("memory_mb", "256")]).await
}

#[track_caller]
fn retried(outcome: Outcome) -> String {
    match outcome.expect_failure() {
        Failure::Retry(reason) => reason,
        other => panic!("not to be tried again: {other:?}"),
    }
}

/// Whether a process is there, and no zombie.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// The process ids that code has written to a file, all of which are to be gone.
async fn all_gone(pids: &Path) {
    let pids = std::fs::read_to_string(pids).unwrap();
    assert!(!pids.trim().is_empty());
    for pid in pids.split_whitespace() {
        until(&format!("process {pid} is gone"), || (!is_alive(pid)).then_some(())).await;
    }
}

#[tokio::test]
async fn a_job_that_hangs_is_ended_when_its_time_is_up() {
    for code in [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "print('x')\nimport signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nsignal.pause()",
        // In the process group of the plugin; in one that nobody else is in.
        "import os\nos.setpgid(0, os.getpgid(os.getppid()))\nwhile True: pass",
        "import os, time\npid = os.fork()\nif not pid:\n  os.setpgid(0, 0)\n  time.sleep(1000)\nwhile os.getpgid(pid) != pid: pass\nos.setpgid(0, pid)\nwhile True: pass",
    ] {
        // The neighbour must be done within the second too, so that it has a harness with more.
        let harness = start(&[("workers", "1"), ("timeout_secs", "1")]).await;
        let outcome = harness.execute(script(code)).await;
        assert_eq!(
            retried(outcome),
            "it took longer than 1s and was ended (timeout_secs in the table [python])",
            "{code}"
        );
        // Its place is free again.
        let next = harness.execute(script("_result = 'next'"));
        let next = tokio::time::timeout(PATIENCE, next).await.expect("there is a worker again");
        assert_eq!(value(&next.expect_done()), "next", "{code}");
    }
    let harness = start(&[("workers", "2"), ("timeout_secs", "3")]).await;
    let job = script("while True: pass").deadline(Duration::from_secs(2));
    let reason = retried(harness.execute(job).await);
    assert!(reason.starts_with("it took longer than 1"), "the host's time counts: {reason}");
}

#[tokio::test]
async fn a_hang_beside_others_costs_only_itself() {
    let harness = two_workers().await;
    let hang = harness.execute(script("while True: pass"));
    let others = async {
        for number in 0..50 {
            assert_eq!(result(&harness, &format!("_result = {number}")).await, number);
        }
    };
    let (hung, ()) = tokio::join!(hang, others);
    assert!(retried(hung).starts_with("it took longer than 1s"));
}

#[tokio::test]
async fn a_job_that_takes_too_much_memory_is_told_so() {
    let harness = patient().await;
    for code in [
        "x = 'x' * (1 << 30)",
        "x = []\nwhile True: x.append('x' * 100000)",
        "def main(u):\n  x = bytearray(1 << 29)",
    ] {
        let reason = retried(beside_a_neighbour(&harness, code).await);
        assert!(reason.contains("MemoryError"), "{code}: {reason}");
        assert!(reason.contains("a worker may have 256 MiB (memory_mb"), "{code}: {reason}");
    }
    // What a job keeps is not the next one's to do without.
    let hoard = "import sys\nsys.hoard = bytearray(150 << 20)\n_result = 1";
    for _ in 0..4 {
        assert_eq!(result(&harness, hoard).await, 1);
    }
}

#[tokio::test]
async fn a_job_that_ends_its_process_is_told_how() {
    let harness = patient().await;
    let cases = [
        ("import os\nos._exit(3)", "the handler ended its worker process: exit code 3"),
        ("import os\nos._exit(0)", "the handler ended its worker process: exit code 0"),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            "signal 9 (killed; out of memory?)",
        ),
        ("import os, signal\nos.killpg(0, signal.SIGTERM)", "signal 15"),
        ("import os\nos.abort()", "signal 6 (aborted)"),
        ("import ctypes\nctypes.string_at(0)", "signal 11 (crashed)"),
    ];
    for (code, says) in cases {
        let outcome =
            beside_a_neighbour(&harness, &format!("print('before', flush=True)\n{code}")).await;
        assert!(outcome.log.contains(&(Level::Info, "before".to_owned())), "{:?}", outcome.log);
        let reason = retried(outcome);
        assert!(reason.ends_with(says), "{code}: {reason}");
    }
}

#[tokio::test]
async fn what_a_job_leaves_running_is_ended_with_it() {
    let harness = patient().await;
    // In its group; in a session of its own; twice removed, as a daemon is; a daemon of a job that dies.
    let cases = [
        "subprocess.Popen(['sleep', '1000'])",
        "subprocess.Popen(['sleep', '1000'], start_new_session=True)",
        "daemon()",
        "daemon()\ntime.sleep(0.01)\nos._exit(1)",
        "daemon()\nsubprocess.Popen(['sh', '-c', 'setsid sleep 1000 & setsid sleep 1000 & wait'])",
        "os.fork() or time.sleep(1000)",
        "multiprocessing.get_context('fork').Process(target=time.sleep, args=(1000,), daemon=True).start()",
    ];
    for code in cases {
        let (_folder, pids) = file("pids");
        let begin = format!(
            "
import glob, multiprocessing, os, subprocess, time
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            tell(os.getpid())
            time.sleep(1000)
        os._exit(0)
    os.wait()
    while not os.path.exists({pids}): time.sleep(0.001)
def tell(pid):
    with open({pids}, 'a') as told: told.write('%d\\n' % pid)
def below(pid):
    return [int(p.split('/')[2]) for p in glob.glob('/proc/[0-9]*/stat') if parent(p) == str(pid)]
def parent(stat):
    try: return open(stat).read().rsplit(')', 1)[1].split()[1]
    except OSError: return None
me = os.getpid()
tell(me)
",
            pids = text(&pids)
        );
        let end =
            "\nfor pid in below(me):\n  tell(pid)\n  for pid in below(pid): tell(pid)\n_result = 1";
        let outcome = beside_a_neighbour(&harness, &format!("{begin}{code}{end}")).await;
        if code.contains("_exit(1)") {
            assert!(retried(outcome).ends_with("exit code 1"), "{code}");
        } else {
            assert_eq!(value(&outcome.expect_done()), 1, "{code}");
        }
        let told = std::fs::read_to_string(&pids).unwrap();
        assert!(told.split_whitespace().count() >= 2, "{code}: {told}");
        all_gone(&pids).await;
    }
}

#[tokio::test]
async fn what_a_hanging_job_started_is_ended_with_it() {
    let harness = two_workers().await;
    let (_folder, pids) = file("pids");
    let code = format!(
        "
import os, subprocess, time
a = subprocess.Popen(['sleep', '1000'])
b = subprocess.Popen(['setsid', 'sh', '-c', 'sleep 1000 & sleep 1000'])
with open({}, 'w') as told: told.write('%d %d %d' % (os.getpid(), a.pid, b.pid))
while True: time.sleep(1)
",
        text(&pids)
    );
    assert!(retried(harness.execute(script(&code)).await).starts_with("it took longer"));
    all_gone(&pids).await;
    assert_eq!(result(&harness, "_result = 'next'").await, "next");
}

#[tokio::test]
async fn a_child_that_runs_on_in_the_handler_says_nothing() {
    let harness = patient().await;
    let code =
        "import os\npid = os.fork()\nprint('both')\nif pid: os.waitpid(pid, 0)\n_result = pid > 0";
    let outcome = beside_a_neighbour(&harness, code).await.expect_done();
    assert_eq!(value(&outcome), true);
    assert_eq!(outcome.result_as::<Value>()["stdout"], "both\nboth\n");
}

#[tokio::test]
async fn a_flood_is_counted_and_dropped() {
    let harness = patient().await;
    for code in [
        "import sys\nfor _ in range(256): sys.stdout.write('x' * (1 << 20))",
        "for _ in range(200000): print('a line of some length')",
        "import os\nfor _ in range(64): os.write(2, b'y\\n' * (1 << 19))",
        "import subprocess\nsubprocess.run('yes | head -c 100000000', shell=True)",
    ] {
        let outcome = beside_a_neighbour(&harness, code).await.expect_done();
        let answer = outcome.result_as::<Value>();
        let printed =
            answer["stdout"].as_str().unwrap().len() + answer["stderr"].as_str().unwrap().len();
        assert!((1_000..600_000).contains(&printed), "{code}: {printed}");
        assert!(answer.to_string().contains("more bytes were left out"), "{code}");
        assert!(outcome.log.len() <= 1_001, "{code}: {}", outcome.log.len());
    }
    let logs = "import logging\nfor n in range(20000): logging.info('line %d', n)";
    let outcome = beside_a_neighbour(&harness, logs).await.expect_done();
    assert!(outcome.log.len() <= 1_001, "{}", outcome.log.len());
}

#[tokio::test]
async fn closed_pipes_cost_only_the_job() {
    let harness = patient().await;
    // Standard output and standard error are the code's own to close; the worker is replaced.
    let code = "import os\nos.close(1)\nos.close(2)\n_result = 'silent'";
    assert_eq!(value(&beside_a_neighbour(&harness, code).await.expect_done()), "silent");
    let code = "import sys\nsys.stdout.close()\nsys.stderr = None\n_result = 'silent'";
    assert_eq!(value(&beside_a_neighbour(&harness, code).await.expect_done()), "silent");
    let code =
        "import os\nos.dup2(os.open('/dev/null', os.O_WRONLY), 1)\nprint('unheard')\n_result = 1";
    assert_eq!(value(&beside_a_neighbour(&harness, code).await.expect_done()), 1);
    assert_eq!(harness.execute(script("print('heard')")).await.log.len(), 1);
    // The connection is not, and the process goes on without it.
    let code = "import os, time\nos.closerange(3, 1000)\ntime.sleep(1000)";
    let reason = retried(beside_a_neighbour(&harness, code).await);
    assert_eq!(reason, "the handler closed the connection of its worker process");
    let code = "import os\nos.closerange(0, 1000)";
    let reason = retried(beside_a_neighbour(&harness, code).await);
    assert!(reason.contains("its worker process"), "{reason}");
}

#[tokio::test]
async fn garbage_on_the_connection_costs_only_the_job() {
    let harness = patient().await;
    let write = |bytes: &str| {
        format!(
            "
import os, socket, stat, time
for fd in range(3, 20):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode): os.write(fd, {bytes})
    except OSError: pass
time.sleep(1000)"
        )
    };
    let cases = [
        (r"b'garbage of no use'", "a message of"),
        (r"b'\0\0\0\2\0\0\0\0{}'", "no message: missing field `t`"),
        (r#"b'\0\0\0\x1c\0\0\0\0{"t": "ready", "adopts": 1 } '"#, "no message"),
        (r#"b'\0\0\0\x1c\0\0\0\0{"t":"ready","adopts":true} '"#, "in the middle of a job"),
        (
            r#"b'\0\0\0\x3c\0\0\0\1{"t":"done","outcome":"ok","us":1,"unsent":0,"tainted":null}x'"#,
            "a result that is no JSON",
        ),
    ];
    for (bytes, says) in cases {
        let reason = retried(beside_a_neighbour(&harness, &write(bytes)).await);
        assert!(
            reason.starts_with("the handler wrote to the connection of its worker process: "),
            "{bytes}: {reason}"
        );
        assert!(reason.contains(says), "{bytes}: {reason}");
    }
}

#[tokio::test]
async fn threads_and_traces_do_not_reach_the_next_job() {
    let harness = start(&[("workers", "1")]).await;
    for code in [
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()",
        "import _thread, time\n_thread.start_new_thread(time.sleep, (1000,))",
        "import sys\nsys.setprofile(lambda *a: None)",
    ] {
        let code = format!("{code}\nimport os\n_result = os.getpid()");
        let before = result(&harness, &code).await;
        let after = result(
            &harness,
            "import os, threading\n_result = [os.getpid(), threading.active_count()]",
        )
        .await;
        assert_ne!(after[0], before, "{code}");
        assert_eq!(after[1], 1, "{code}");
    }
    let same = "import os\n_result = os.getpid()";
    assert_eq!(result(&harness, same).await, result(&harness, same).await);
}

#[tokio::test]
async fn what_a_job_breaks_in_the_interpreter_is_whole_for_the_next() {
    let harness = start(&[("workers", "1")]).await;
    for code in [
        "import builtins\nall = vars(builtins)\nfor name in list(all):\n  if name != '__import__': all.pop(name)",
        "import builtins\nbuiltins.len = lambda _: 0",
        "import json\njson.dumps = None",
        "import types\ntypes.ModuleType = None",
        "import os, traceback\nos.fstat = traceback.TracebackException = None",
        "import axwatch\naxwatch.attest = None",
        "import os\nos.umask(0o777)",
    ] {
        harness.execute(script(code)).await;
        let next = "import os\nfrom axwatch import attest\n_result = [len('next'), callable(attest), os.umask(0) == 0o777]";
        assert_eq!(result(&harness, next).await, serde_json::json!([4, true, false]), "{code}");
    }
}

#[tokio::test]
async fn a_question_that_a_signal_interrupts_is_nobody_elses_answer() {
    let harness = start(&[("workers", "1")]).await;
    // The answer is there, and unread, when the alarm is raised.
    let begin = "
import logging, os, sys
channel = sys.modules['__main__'].channel
def interrupted(self=channel, receive=channel.receive):
    del self.receive
    raise TimeoutError('by the signal handler')
channel.receive = interrupted
try: attest('first', 'asked', 'c')
except TimeoutError: pass
";
    for (end, says) in [
        ("", None),
        ("logging.info('unheard')", None),
        ("attest('second', 'asked', 'c')", Some("the host still owes an answer")),
    ] {
        let code = format!("{begin}{end}\n_result = os.getpid()");
        let before = result(&harness, "import os\n_result = os.getpid()").await;
        let outcome = harness.execute(script(&code)).await;
        match says {
            None => assert_eq!(value(&outcome.expect_done()), before, "{end}"),
            Some(says) => assert!(retried(outcome).contains(says), "{end}"),
        }
        let next = "import os\n_result = [os.getpid(), attest('third', 'asked', 'c')['subjects']]";
        let after = result(&harness, next).await;
        assert_ne!(after[0], before, "{end}");
        assert_eq!(after[1], serde_json::json!(["third"]), "{end}");
    }
}

#[tokio::test]
async fn loggers_of_one_job_are_not_those_of_the_next() {
    let harness = start(&[("workers", "1")]).await;
    let spoil = "
import json, logging, logging.config, os
logging.getLogger().addFilter(lambda record: False)
logging.getLogger().handlers[0].setFormatter(logging.Formatter('odd %(message)s'))
for name in (__name__, __name__ + '.part', 'own', 'own.part', 'json'):
    log = logging.getLogger(name)
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.CRITICAL)
    log.propagate = False
    log.disabled = True
logging.config.dictConfig({'version': 1, 'disable_existing_loggers': True})
logging.setLogRecordFactory(lambda *parts: None)
_result = os.getpid()
";
    let look = "
import logging, os
names = (__name__, __name__ + '.part', 'own', 'own.part', 'other')
for name in names: logging.getLogger(name).info('from %s', name)
of_json = logging.getLogger('json')
assert not of_json.handlers and of_json.level == 0 and of_json.propagate and not of_json.disabled
assert logging.getLogRecordFactory() is logging.LogRecord
_result = os.getpid()
";
    for _ in 0..2 {
        let pid = result(&harness, spoil).await;
        let outcome = harness.execute(script(look)).await.expect_done();
        assert_eq!(value(&outcome), pid);
        let said: Vec<&str> = outcome.log.iter().map(|(_, line)| &**line).collect();
        let expected = ["__handler__", "__handler__.part", "own", "own.part", "other"];
        assert_eq!(said, expected.map(|name| format!("from {name}")));
        assert_eq!(outcome.result_as::<Value>()["stderr"], "");
    }
}

#[tokio::test]
async fn an_exception_of_the_codes_own_making_costs_only_the_attempt() {
    let harness = start(&[("workers", "1")]).await;
    let pid = result(&harness, "import os\n_result = os.getpid()").await;
    let mute = "class Mute(Permanent):\n  def __str__(self): raise ZeroDivisionError\nraise Mute()";
    let failure = harness.execute(script(mute)).await.expect_failure();
    let says = "Mute, and what it says cannot be had: ZeroDivisionError";
    assert_eq!(failure, Failure::permanent(says));
    for seconds in ["'soon'", "float('nan')", "-1", "None"] {
        let code = format!("late = NotNow('later')\nlate.seconds = {seconds}\nraise late");
        assert!(
            retried(harness.execute(script(&code)).await).contains("NotNow: later"),
            "{seconds}"
        );
    }
    assert_eq!(result(&harness, "import os\n_result = os.getpid()").await, pid);
    // Code that the compiler gives up on is no code that the worker has.
    let deep = format!("x = 1{}", "+1".repeat(200_000));
    let version = harness.store_handler("deep", &deep);
    for _ in 0..2 {
        let job = TestJob::new("python.deep").handler_version(&version);
        let failure = harness.execute(job).await.expect_failure();
        assert!(!failure.reason().contains("TypeError"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_traceback_that_the_code_prints_has_the_lines_of_its_version() {
    let harness = start(&[("workers", "1")]).await;
    for (version, line) in [("one", "1 / 0"), ("two", "2 / 0"), ("one", "1 / 0")] {
        let code = format!(
            "# {version}\ntry: {line}\nexcept Exception:\n  import traceback\n  _result = traceback.format_exc()"
        );
        let said = result(&harness, &code).await;
        assert!(said.as_str().unwrap().contains(&format!("try: {line}")), "{said}");
    }
}

#[tokio::test]
async fn half_a_character_costs_nothing() {
    let harness = start(&[("workers", "1")]).await;
    let code = "import logging\nlogging.info('name %s', 'a\\udcff')\nraise ValueError('a\\udcff')";
    let outcome = harness.execute(script(code)).await;
    assert_eq!(outcome.log[0], (Level::Info, "name a\\udcff".to_owned()));
    assert!(retried(outcome).contains("ValueError: a\\udcff"));
    let failure = harness.execute(script("raise Permanent('a\\udcff')")).await.expect_failure();
    assert_eq!(failure, Failure::permanent("a\\udcff"));
    let whole = "import logging\nlogging.info('\\ud83d\\ude00'.encode('utf-16', 'surrogatepass').decode('utf-16'))";
    let outcome = harness.execute(script(whole)).await.expect_done();
    assert_eq!(outcome.log[0].1, "\u{1f600}");
}

#[tokio::test]
async fn what_the_system_keeps_of_a_process_does_not_reach_the_next_job() {
    let harness = start(&[("workers", "1")]).await;
    for code in [
        "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])",
        "import resource as r\nr.setrlimit(r.RLIMIT_CPU, (50, r.getrlimit(r.RLIMIT_CPU)[1]))",
        "import resource as r\nr.setrlimit(r.RLIMIT_NOFILE, (90, r.getrlimit(r.RLIMIT_NOFILE)[1]))",
        "os.setpgid(0, os.getpgid(os.getppid()))",
        "os.nice(1)",
        "import builtins, sys\nsys.kept = [os.open('/dev/null', os.O_RDONLY) for _ in range(100)]",
    ] {
        let before = result(&harness, &format!("import os\n{code}\n_result = os.getpid()")).await;
        assert_ne!(result(&harness, "import os\n_result = os.getpid()").await, before, "{code}");
    }
    // What is put back by who changed it is nothing to replace a worker for, nor are a few files.
    for code in [
        "import signal\nold = signal.signal(signal.SIGALRM, print)\nsignal.signal(signal.SIGALRM, old)",
        "import asyncio\nasyncio.run(asyncio.sleep(0))",
        "import subprocess\nsubprocess.run(['true'], check=True)",
        "def f(): pass\nkept = [open('/dev/null') for _ in range(100)]",
    ] {
        let before = result(&harness, &format!("import os\n{code}\n_result = os.getpid()")).await;
        assert_eq!(result(&harness, "import os\n_result = os.getpid()").await, before, "{code}");
    }
}

#[tokio::test]
async fn a_program_between_the_plugin_and_python_is_no_hindrance() {
    let (_folder, wrapper) = file("wrapper");
    // It forks and waits, as those do that confine what they start.
    std::fs::write(&wrapper, "#!/bin/sh\npython3 \"$@\"\nexit $?\n").unwrap();
    std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let python = wrapper.to_str().unwrap();
    let harness = start(&[("workers", "1"), ("timeout_secs", "2"), ("python", python)]).await;
    let (_here, pids) = file("pids");
    let code = format!(
        "import os\nwith open({}, 'w') as told: told.write('%d %d' % (os.getpid(), os.getppid()))\n",
        text(&pids)
    );
    harness.execute(script(&code)).await.expect_done();
    let before = std::fs::read_to_string(&pids).unwrap();
    harness.execute(script(&code)).await.expect_done();
    assert_eq!(std::fs::read_to_string(&pids).unwrap(), before);
    let reason = retried(harness.execute(script(&format!("{code}while True: pass"))).await);
    assert!(reason.starts_with("it took longer than 2s"), "{reason}");
    all_gone(&pids).await;
    let reason = retried(harness.execute(script("import os\nos._exit(3)")).await);
    assert_eq!(reason, "the handler ended its worker process: exit code 3");
    harness.execute(script(&code)).await.expect_done();
    drop(harness);
    all_gone(&pids).await;
}

#[tokio::test]
async fn a_job_that_the_host_gives_up_is_ended() {
    let harness = start(&[("workers", "1")]).await;
    let (_folder, pids) = file("pids");
    let code = format!(
        "import os, time\nwith open({0} + '~', 'w') as told: told.write(str(os.getpid()))\nos.rename({0} + '~', {0})\nwhile True: time.sleep(1)",
        text(&pids)
    );
    let begun = until("the job has begun", || pids.exists().then_some(()));
    tokio::select! {
        outcome = harness.execute(script(&code)) => panic!("it ended: {outcome:?}"),
        () = begun => {}
    }
    all_gone(&pids).await;
    let next = harness.execute(script("_result = 'next'"));
    let next = tokio::time::timeout(PATIENCE, next).await.expect("there is a worker again");
    assert_eq!(value(&next.expect_done()), "next");
}

#[tokio::test]
async fn workers_end_with_the_plugin() {
    let harness = start(&[("workers", "1")]).await;
    let pid = result(&harness, "import os\n_result = os.getpid()").await.to_string();
    harness.shutdown().await;
    until("the worker is gone", || (!is_alive(&pid)).then_some(())).await;

    let harness = start(&[("workers", "1")]).await;
    let pid = result(&harness, "import os\n_result = os.getpid()").await.to_string();
    drop(harness);
    until("the worker is gone", || (!is_alive(&pid)).then_some(())).await;
}

#[tokio::test]
async fn a_changed_configuration_brings_other_workers() {
    let mut harness = start(&[("workers", "1"), ("memory_mb", "128")]).await;
    let look = "import resource\n_result = resource.getrlimit(resource.RLIMIT_AS)[0] >> 20";
    assert_eq!(result(&harness, look).await, 128);
    let pid = result(&harness, "import os\n_result = os.getpid()").await.to_string();
    let failure = harness.reconfigure([("memory_mb", "1")]).await.unwrap_err();
    assert!(failure.reason().contains("memory_mb = \"1\" is wrong"), "{failure}");
    assert_eq!(result(&harness, look).await, 128);
    harness.reconfigure([("memory_mb", "192")]).await.unwrap();
    assert_eq!(result(&harness, look).await, 192);
    until("the old worker is gone", || (!is_alive(&pid)).then_some(())).await;
}

#[tokio::test]
async fn who_waits_too_long_for_a_worker_is_told_to_come_later() {
    let harness = start(&[("workers", "1")]).await;
    let (_here, begun) = file("begun");
    let (_there, go) = file("go");
    let slow = format!(
        "import os, time\nopen({}, 'w').close()\nwhile not os.path.exists({}): time.sleep(0.005)",
        text(&begun),
        text(&go)
    );
    let other = async {
        until("the first is at work", || begun.exists().then_some(())).await;
        let outcome = harness.execute(script("_result = 1").deadline(Duration::from_secs(2))).await;
        std::fs::write(&go, "").unwrap();
        outcome.expect_failure()
    };
    let (slow, other) = tokio::join!(harness.execute(script(&slow)), other);
    slow.expect_done();
    let reason = "all 1 workers are busy (workers in the table [python])".to_owned();
    assert_eq!(other, Failure::NotNow { after: None, reason });
}
