//! The small process between the engine and a plugin: `axwatch plugin-launcher -- PROGRAM ARGS…`.
//!
//! In come orders from the engine on standard input, a line each: `term` asks the plugin to stop,
//! `kill` ends it, `memory BYTES` bounds what all of its processes together may use. The end of the input
//! is the engine's own end, however that came about, and means `kill` too. Out goes the plugin's exit
//! code, and, when standard input is a socket, a line `memory BYTES` when the plugin was ended for using
//! so much. Standard output and standard error are the plugin's.
//!
//! What holds afterwards: when the launcher has exited, nothing that the plugin started is left, not
//! even what had made itself a daemon, but what we may not end: a program that runs as another user
//! (setuid), of which one line on standard error tells. On Linux the launcher is where orphans go; elsewhere
//! only the plugin's process group is ended. When the launcher itself is killed, so is the plugin, by the kernel;
//! what the plugin had started is then for the engine to find, or for the next one.
//!
//! Between the launcher and the plugin's program stands our own once more, for a moment and in the same
//! process: what a process can only set for itself is set there. See `become_plugin`.
//!
//! Three threads, no async runtime: it lives as long as the plugin, and there is one for each.
//!
//! Not here: when to stop a plugin and for how long to wait (the supervisor), and what its output
//! means.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

use super::listeners;
#[cfg(target_os = "linux")]
use super::listeners::children;

/// Asks the plugin to stop.
pub const ORDER_TERM: &str = "term";
/// Ends the plugin and all that it started.
pub const ORDER_KILL: &str = "kill";
/// Bounds the memory of the plugin and all that it started: the bytes follow.
pub const ORDER_MEMORY: &str = "memory";
/// Says that the plugin was ended for its memory: the bytes that it used follow.
pub const REPORT_MEMORY: &str = "memory";

/// From one look at the plugin's memory to the next.
const MEMORY_EVERY: Duration = Duration::from_millis(250);
/// What is added to how gladly the system ends a process when memory is short: it is to end a plugin
/// before the engine.
const OOM_SCORE_ADDED: i32 = 500;
/// How long a program that somebody still writes to is tried to be started: a fork of the engine may hold
/// a file open for a moment that the engine has just written and closed.
const BUSY_WITHIN: Duration = Duration::from_secs(2);
/// Says of our own program that it is to become the plugin, and holds the launcher's process id.
const STAGE: &str = "AXWATCH_LAUNCHER";

/// The program is there and cannot be started.
const NOT_EXECUTABLE: u8 = 126;
/// The program is not there.
const NOT_FOUND: u8 = 127;
/// Plus the number of the signal that ended the plugin.
const SIGNALLED: u8 = 128;

/// Runs `program` until it ends, or until the engine says so or is gone, and then ends all that is
/// left of it.
///
/// Answers with what to exit with: the plugin's own exit code, 128 plus the number of the signal that
/// ended it, 127 when there is no such program, 126 when it cannot be started. In the last two cases
/// one line on standard error says why.
#[must_use]
pub fn run(program: &OsStr, args: &[OsString]) -> u8 {
    if let Some(launcher) = env::var_os(STAGE) {
        return become_plugin(&launcher, program, args);
    }
    adopt_orphans();
    let plugin = match start(program, args) {
        Ok(plugin) => plugin,
        Err(error) => return refuse(program, &error),
    };
    let alive = Alive::new(plugin);
    let orders = Arc::clone(&alive);
    // The plugin ends before this thread does, and so nothing has to wait for it.
    if let Err(error) = thread::Builder::new().name("orders".into()).spawn(move || obey(&orders)) {
        complain(&format!("cannot listen to the engine: {error}"));
        alive.signal(Signal::KILL);
    }
    let code = alive.wait();
    end_the_rest(plugin);
    code
}

/// Makes this process the parent of every descendant that loses its own.
fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    if let Err(error) = process::set_child_subreaper(Some(process::getpid())) {
        complain(&format!("cannot adopt what the plugin leaves behind: {error}"));
    }
}

/// In a process group of its own, so that a signal to the group is not one to us.
fn start(program: &OsStr, args: &[OsString]) -> io::Result<Pid> {
    let mut command = match ourselves() {
        Some(mut stage) if may_become(program) => {
            stage.env(STAGE, process::getpid().as_raw_pid().to_string());
            stage
        }
        _ => {
            let mut direct = Command::new(program);
            direct.args(args);
            direct
        }
    };
    let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    // Dropping a `Child` neither ends it nor waits for it: that is done below.
    Ok(Pid::from_child(&child))
}

/// Whether the system itself can start this file, as far as one sees: a script that names its
/// interpreter, or a program for a machine like ours. What it cannot start, a process that is to become it
/// would hand to a shell, which makes nonsense of a program for another machine.
fn may_become(program: &OsStr) -> bool {
    let head = |path: &OsStr| {
        let mut head = [0; 20];
        fs::File::open(path).and_then(|mut file| file.read_exact(&mut head)).map(|()| head)
    };
    if !program.as_encoded_bytes().contains(&b'/') {
        return true;
    }
    // Kind, width and byte order, and the machine: see elf(5).
    let kind = |head: [u8; 20]| (head.first_chunk::<6>().copied(), head[18], head[19]);
    match (head(program), head(OsStr::new("/proc/self/exe"))) {
        (Ok(theirs), Ok(ours)) => theirs.starts_with(b"#!") || kind(theirs) == kind(ours),
        // Not there, or hardly anything in it.
        _ => false,
    }
}

/// Our own program again, with our own arguments, where that works.
fn ourselves() -> Option<Command> {
    #[cfg(target_os = "linux")]
    {
        let mut command = Command::new("/proc/self/exe");
        command.args(env::args_os().skip(1));
        Some(command)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Sets what a process can only set for itself, and then becomes the program. Comes back only when that
/// did not work, with what to exit with.
///
/// From now on the kernel ends this process when the launcher is gone, and when memory is short it ends
/// this one before the engine; what the plugin starts inherits the second, not the first.
fn become_plugin(launcher: &OsStr, program: &OsStr, args: &[OsString]) -> u8 {
    #[cfg(target_os = "linux")]
    {
        let _ = process::set_parent_process_death_signal(Some(Signal::KILL));
        let parent = process::getppid().map(|pid| pid.as_raw_pid().to_string());
        if parent.as_deref().map(OsStr::new) != Some(launcher) {
            // It was gone before it could be noticed.
            return SIGNALLED + 9;
        }
        raise_oom_score();
    }
    let began = Instant::now();
    let error = loop {
        let error = Command::new(program).args(args).env_remove(STAGE).exec();
        if error.kind() != io::ErrorKind::ExecutableFileBusy || began.elapsed() > BUSY_WITHIN {
            break error;
        }
        thread::sleep(Duration::from_millis(10));
    };
    refuse(program, &error)
}

/// Without success where the system has no such thing.
#[cfg(target_os = "linux")]
fn raise_oom_score() {
    const PATH: &str = "/proc/self/oom_score_adj";
    let present = fs::read_to_string(PATH).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let raised = present.unwrap_or(0).saturating_add(OOM_SCORE_ADDED).min(1_000);
    let _ = fs::write(PATH, raised.to_string());
}

fn refuse(program: &OsStr, error: &io::Error) -> u8 {
    let name = program.display();
    if error.kind() != io::ErrorKind::NotFound {
        complain(&format!("cannot start {name}: {error}"));
        return NOT_EXECUTABLE;
    }
    if Path::new(program).is_file() && program.as_encoded_bytes().contains(&b'/') {
        complain(&format!("cannot start {name}: the interpreter that it names is not there"));
        return NOT_EXECUTABLE;
    }
    complain(&format!("cannot start {name}: {error}"));
    NOT_FOUND
}

/// Unlike `eprintln!` this survives an engine that is not there to read it.
fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn obey(plugin: &Arc<Alive>) {
    for order in io::stdin().lines() {
        let Ok(order) = order else { break };
        match order.split_once(' ').unwrap_or((&order, "")) {
            (ORDER_TERM, "") => plugin.signal(Signal::TERM),
            (ORDER_KILL, "") => break,
            (ORDER_MEMORY, bytes) => match bytes.parse() {
                Ok(bytes) => bound_memory(plugin, bytes),
                Err(_) => complain(&format!("the launcher was told no number of bytes: {bytes:?}")),
            },
            _ => complain(&format!("the launcher knows no order {order:?}")),
        }
    }
    // Of its children only those in its group: the others follow when it has ended.
    plugin.signal(Signal::KILL);
}

/// Looks at the plugin's memory from now on, in a thread of its own.
fn bound_memory(plugin: &Arc<Alive>, bytes: u64) {
    // There is one thread, whatever is ordered.
    if plugin.memory_max.swap(bytes, Ordering::Relaxed) != u64::MAX {
        return;
    }
    let watched = Arc::clone(plugin);
    let watch = thread::Builder::new().name("memory".into()).spawn(move || watch_memory(&watched));
    if let Err(error) = watch {
        complain(&format!("cannot look at the memory of the plugin: {error}"));
    }
}

/// Ends the plugin when it and all that it started use too much together. The rest of it follows, as
/// always when it has ended.
fn watch_memory(plugin: &Alive) {
    let own = process::getpid().as_raw_pid().cast_unsigned();
    while !*plugin.take_turn() {
        let allowed = plugin.memory_max.load(Ordering::Relaxed);
        let used = listeners::memory_bytes(&listeners::descendants(own), allowed);
        if used > allowed {
            // An engine that does not listen has other worries.
            let report = format!("{REPORT_MEMORY} {used}\n");
            let _ = rustix::io::write(rustix::stdio::stdin(), report.as_bytes());
            plugin.signal(Signal::KILL);
            return;
        }
        thread::sleep(MEMORY_EVERY);
    }
}

/// The plugin as long as its process id is its own: until it has been waited for.
///
/// Whoever signals and whoever waits takes turns, so that no signal ever goes to a stranger who got
/// the same number.
struct Alive {
    plugin: Pid,
    waited_for: Mutex<bool>,
    /// Bytes of memory that it may use.
    memory_max: AtomicU64,
}

impl Alive {
    fn new(plugin: Pid) -> Arc<Alive> {
        let memory_max = AtomicU64::new(u64::MAX);
        Arc::new(Alive { plugin, waited_for: Mutex::new(false), memory_max })
    }

    fn take_turn(&self) -> MutexGuard<'_, bool> {
        self.waited_for.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        let waited_for = self.take_turn();
        if *waited_for {
            return;
        }
        let _ = process::kill_process_group(self.plugin, signal);
        // It may have left the group. Not both ways: some take a second SIGTERM for impatience.
        if process::getpgid(Some(self.plugin)) != Ok(self.plugin) {
            let _ = process::kill_process(self.plugin, signal);
        }
    }

    /// Waits until the plugin has ended, and meanwhile for orphans, lest they stay as zombies.
    fn wait(&self) -> u8 {
        loop {
            // Only looks: whatever has ended stays, and keeps its number, until it is our turn.
            match process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    complain(&format!("cannot wait for the plugin: {error}"));
                    return NOT_EXECUTABLE;
                }
            }
            let mut waited_for = self.take_turn();
            while let Ok(Some((pid, status))) = process::wait(WaitOptions::NOHANG) {
                if pid == self.plugin {
                    *waited_for = true;
                    return exit_code(status);
                }
            }
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => u8::try_from(code).ok(),
        (None, Some(signal)) => {
            u8::try_from(signal).ok().and_then(|signal| SIGNALLED.checked_add(signal))
        }
        (None, None) => None,
    };
    code.unwrap_or(u8::MAX)
}

/// Ends our children until there are none.
///
/// Only children, generation by generation: nobody else can wait for these, so each number is surely
/// theirs, and what they leave behind are our children next. Every descendant has an ancestor among
/// our children, so that none is left when there are no children.
#[cfg(target_os = "linux")]
fn end_the_rest(_plugin: Pid) {
    let own = process::getpid().as_raw_pid().cast_unsigned();
    loop {
        let found = children(own);
        let pids = found.iter().filter_map(|&pid| Pid::from_raw(pid.cast_signed()));
        let killed = pids.filter(|&pid| process::kill_process(pid, Signal::KILL).is_ok()).count();
        if killed == 0 {
            for pid in found {
                complain(&format!("process {pid}, started by the plugin, may not be ended by us"));
            }
            return;
        }
        let mut ended = process::wait(WaitOptions::empty());
        while let Ok(Some(_)) = ended {
            ended = process::wait(WaitOptions::NOHANG);
        }
    }
}

/// Ends the plugin's group. Its number is free once the group is empty, but numbers go round: nobody
/// else has it so soon.
#[cfg(not(target_os = "linux"))]
fn end_the_rest(plugin: Pid) {
    let _ = process::kill_process_group(plugin, Signal::KILL);
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::{Child, ChildStdin, ChildStdout};

    use super::*;

    const PROGRAM: &str = "AXWATCH_TEST_PROGRAM";
    const SCRIPT: &str = "AXWATCH_TEST_SCRIPT";

    /// This test program once more, as another process: as `role`, which is one of the ignored tests.
    fn again(role: &str) -> Command {
        let (_, module) = module_path!().split_once("::").unwrap();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([&format!("{module}::{role}"), "--exact", "--ignored", "--nocapture"]);
        command
    }

    #[test]
    #[ignore = "the launcher that the other tests start"]
    fn launcher() {
        let Some(program) = env::var_os(PROGRAM) else { return };
        let args = env::var_os(SCRIPT).map(|script| vec!["-c".into(), script]).unwrap_or_default();
        std::process::exit(run(&program, &args).into());
    }

    #[test]
    #[ignore = "the engine that another test kills"]
    fn engine() {
        if env::var_os(PROGRAM).is_none() {
            return;
        }
        let mut launcher = again("launcher").stdin(Stdio::piped()).spawn().unwrap();
        let _orders = launcher.stdin.take();
        launcher.wait().unwrap();
    }

    /// A launcher with its plugin. Scripts end by themselves after a minute, so that a launcher that
    /// does not do its work fails a test and does not hang it.
    struct Launched {
        process: Child,
        orders: ChildStdin,
        output: BufReader<ChildStdout>,
    }

    fn launch(script: &str) -> Launched {
        launch_as("launcher", script)
    }

    fn launch_as(role: &str, script: &str) -> Launched {
        let mut command = again(role);
        command.env(PROGRAM, "sh").env(SCRIPT, script);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let orders = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Launched { process, orders, output }
    }

    impl Launched {
        /// Waits for the line `{key}=…`.
        fn hear(&mut self, key: &str) -> String {
            let prefix = format!("{key}=");
            let mut lines = self.output.by_ref().lines().map(Result::unwrap);
            lines.find_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).expect(key)
        }

        fn hear_pid(&mut self) -> Pid {
            Pid::from_raw(self.hear("pid").parse().unwrap()).unwrap()
        }

        fn order(&mut self, order: &str) {
            writeln!(self.orders, "{order}").unwrap();
        }

        /// Waits for the launcher with the engine still there.
        fn end(mut self) -> i32 {
            self.process.wait().unwrap().code().unwrap()
        }

        /// The engine goes away, then as above.
        fn abandon(self) -> i32 {
            let Launched { mut process, orders, output: _output } = self;
            drop(orders);
            process.wait().unwrap().code().unwrap()
        }
    }

    fn is_gone(pid: Pid) -> bool {
        process::test_kill_process(pid) == Err(Errno::SRCH)
    }

    /// Ignores SIGTERM, has a session of its own, and its parent has left it.
    const DAEMON: &str = r#"(setsid sh -c 'trap "" TERM HUP; echo; echo pid=$$; exec sleep 60' &)"#;

    #[test]
    fn the_exit_code_is_the_plugins() {
        let cases = [
            ("exit 0", 0),
            ("exit 7", 7),
            ("exit 255", 255),
            ("kill -TERM $$", 143),
            ("kill -KILL $$", 137),
            ("read line && exit 1; exit 3", 3),
        ];
        for (script, code) in cases {
            assert_eq!(launch(script).end(), code, "{script}");
        }
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let folder = env::temp_dir().join(format!("axwatch-launcher-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str, mode| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path.into_os_string()
        };
        let cases = [
            (OsString::from("axwatch-no-such-program"), 127, "No such file or directory"),
            (folder.join("nothing").into(), 127, "No such file or directory"),
            (file("plain", "", 0o644), 126, "Permission denied"),
            (folder.clone().into(), 126, "Permission denied"),
            (file("garbage", "\u{1}\u{2}", 0o755), 126, "Exec format error"),
            (file("script", "#!/no/such/interpreter\n", 0o755), 126, "interpreter"),
        ];
        for (program, code, reason) in cases {
            let mut command = again("launcher");
            command.env(PROGRAM, &program).stdin(Stdio::piped());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut launcher = command.spawn().unwrap();
            // The engine stays: its end would be the end of the plugin.
            let _orders = launcher.stdin.take();
            let output = launcher.wait_with_output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            let expected = format!("cannot start {}: ", program.display());
            assert_eq!(output.status.code(), Some(code), "{program:?}");
            assert!(said.starts_with(&expected) && said.contains(reason), "{said:?}");
            assert_eq!(said.lines().count(), 1, "{said:?}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn term_reaches_the_plugin_and_its_children() {
        let mut launched = launch(
            r#"trap 'wait; exit 5' TERM
            sh -c 'trap "echo child=term; exit" TERM; echo; echo child=ready; sleep 60 & wait' &
            wait; wait"#,
        );
        assert_eq!(launched.hear("child"), "ready");
        launched.order(ORDER_TERM);
        assert_eq!(launched.hear("child"), "term");
        assert_eq!(launched.end(), 5);
    }

    #[test]
    fn who_ignores_term_is_killed() {
        let mut launched = launch(
            r#"trap 'echo heard=term' TERM; echo; echo heard=nothing
            for turn in 1 2 3; do sleep 60 & wait $!; done"#,
        );
        assert_eq!(launched.hear("heard"), "nothing");
        launched.order(ORDER_TERM);
        assert_eq!(launched.hear("heard"), "term");
        launched.order("nonsense");
        launched.order(ORDER_TERM);
        assert_eq!(launched.hear("heard"), "term");
        launched.order(ORDER_KILL);
        assert_eq!(launched.end(), 137);
    }

    #[test]
    fn the_end_of_the_engine_is_the_end_of_the_plugin() {
        let mut launched = launch("trap '' TERM HUP; sleep 60 & echo; echo pid=$!; wait");
        let child = launched.hear_pid();
        assert_eq!(launched.abandon(), 137);
        assert!(is_gone(child));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_killed_engine_takes_everything_with_it() {
        let mut engine = launch_as("engine", &format!("{DAEMON}; sleep 60; echo survived"));
        let daemon = engine.hear_pid();
        engine.process.kill().unwrap();
        engine.process.wait().unwrap();
        // The launcher is nobody's child now. What is left holds this pipe open.
        let mut rest = String::new();
        engine.output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        assert!(is_gone(daemon));
    }

    /// Gone, or only waiting for whoever is its parent now.
    #[cfg(target_os = "linux")]
    fn is_dead(pid: Pid) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()));
        stat.map_or(true, |stat| {
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
        })
    }

    /// Waits for what must come. A test that hangs is ended from outside.
    #[cfg(target_os = "linux")]
    fn until(is_it: impl Fn() -> bool) {
        while !is_it() {
            thread::yield_now();
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn when_the_launcher_is_killed_with_the_engine_the_next_engine_ends_the_rest() {
        use super::super::process as host;
        let folder = tempfile::tempdir().unwrap();
        let (ours, other) = (folder.path().join("a.plugins"), folder.path().join("b.plugins"));
        let script = format!("echo; echo launcher=$PPID; echo plugin=$$; {DAEMON}; sleep 60");
        let mut command = again("engine");
        command
            .env(PROGRAM, "sh")
            .env(SCRIPT, script)
            .env("AXWATCH_LAUNCH", host::tag(Some(&ours)));
        let mut engine = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(engine.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut hear = |key: &str| {
            let number = lines.find_map(|line| line.strip_prefix(key)?.parse().ok()).expect(key);
            Pid::from_raw(number).unwrap()
        };
        let [launcher, plugin, daemon] = ["launcher=", "plugin=", "pid="].map(&mut hear);
        // First the launcher, or it would do its work.
        process::kill_process(launcher, Signal::STOP).unwrap();
        engine.kill().unwrap();
        process::kill_process(launcher, Signal::KILL).unwrap();
        engine.wait().unwrap();
        until(|| is_dead(plugin));
        assert!(!is_dead(daemon), "nobody is left who knows of it");
        host::end_leftovers(&other);
        assert!(!is_dead(daemon), "it is not that engine's");
        host::end_leftovers(&ours);
        until(|| is_dead(daemon));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_killed_launcher_takes_the_plugin_with_it() {
        let mut launched = launch("echo; echo pid=$$; sleep 60");
        let plugin = launched.hear_pid();
        launched.process.kill().unwrap();
        launched.process.wait().unwrap();
        until(|| is_dead(plugin));
    }

    /// A child of the plugin holds far more than is allowed, where the plugin itself holds next to
    /// nothing.
    #[test]
    #[cfg(target_os = "linux")]
    fn who_uses_too_much_memory_is_ended_with_all_it_started() {
        let hungry = "echo; echo pid=$$; (head -c 400000000 /dev/zero | tail | sleep 60) & wait";
        for (allowed, code) in [("0", 137), ("100000000", 137)] {
            let mut launched = launch(hungry);
            let plugin = launched.hear_pid();
            launched.order("memory much");
            launched.order(&format!("{ORDER_MEMORY} {allowed}"));
            assert_eq!(launched.end(), code, "{allowed}");
            assert!(is_gone(plugin));
        }
        let mut modest = launch("echo; echo pid=$$; read never; sleep 1; exit 4");
        modest.hear_pid();
        modest.order(&format!("{ORDER_MEMORY} 1000000000"));
        assert_eq!(modest.end(), 4);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_ends_a_plugin_before_the_engine() {
        let mut launched = launch("echo; echo score=$(cat /proc/self/oom_score_adj); sleep 60");
        let own: i32 =
            fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
        let score: i32 = launched.hear("score").parse().unwrap();
        assert_eq!(score, (own + OOM_SCORE_ADDED).min(1_000));
        launched.order(ORDER_KILL);
        launched.end();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_daemon_ends_with_its_plugin() {
        let mut launched =
            launch(&format!("trap 'exit 3' TERM; {DAEMON}; {DAEMON}; sleep 60 & wait"));
        let daemons = [launched.hear_pid(), launched.hear_pid()];
        assert!(daemons.iter().all(|&daemon| !is_gone(daemon)));
        launched.order(ORDER_TERM);
        assert_eq!(launched.end(), 3);
        assert!(daemons.iter().all(|&daemon| is_gone(daemon)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_plugin_is_the_launchers_first_child() {
        let mut launched = launch(&format!("{DAEMON}; sleep 60 & wait; echo"));
        let daemon = launched.hear_pid();
        let launcher = launched.process.id();
        let plugin = super::super::listeners::first_child(launcher).unwrap();
        assert_ne!(plugin, daemon.as_raw_pid().cast_unsigned());
        let command = fs::read_to_string(format!("/proc/{plugin}/cmdline")).unwrap();
        assert!(command.starts_with("sh\0-c\0"), "{command:?}");
        launched.order(ORDER_KILL);
        assert_eq!(launched.end(), 137);
        assert!(is_gone(daemon));
    }

    /// An orphan that ends while the plugin goes on is waited for: its number becomes free.
    #[test]
    #[cfg(target_os = "linux")]
    fn orphans_do_not_stay_as_zombies() {
        let mut launched = launch(
            r#"orphan=$(sh -c 'sleep 0 >/dev/null & echo $!')
            tries=600
            while [ -e /proc/$orphan ] && [ $tries -gt 0 ]; do sleep 0.1; tries=$((tries - 1)); done
            echo; echo tries=$tries"#,
        );
        assert_ne!(launched.hear("tries"), "0");
        assert_eq!(launched.end(), 0);
    }
}
