//! `notify.exec`: a command that the configuration names, with the payload on standard input.
//!
//! In comes a job; out goes what the command printed. Which program runs with which arguments is said
//! by the configuration alone, without a shell; a claim or a watcher chooses among names. A command has
//! a process group of its own, and nothing of that group outlives the attempt: it is ended when the
//! command ends, when its time is up, when the host gives up on the attempt, and when the plugin stops.
//! When the plugin itself is killed, the host's launcher does the same.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axwatch_sdk::{Done, Failure, Job, Level};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::log::shown;
use crate::nearest::nearest;
use crate::params::Params;

/// The handler's name.
pub(crate) const HANDLER: &str = "notify.exec";
/// What its parameters may be.
pub(crate) const PARAMS: &[&str] = &["command", "timeout_secs"];
/// How long a command may take when nobody says otherwise.
pub(crate) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// The longest that can be asked for.
pub(crate) const TIMEOUT_SECS_MAX: u64 = 86_400;
/// How long a job is put off by exit code 75 when nobody says otherwise.
pub(crate) const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(60);
/// The longest that a host puts a job off.
pub(crate) const RETRY_AFTER_SECS_MAX: u64 = 86_400;
/// "Not now": `EX_TEMPFAIL` of sysexits.h.
const EXIT_NOT_NOW: i32 = 75;
/// What a command inherits.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
/// Bytes that are kept of what it prints: the first on standard output, the last on standard error.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Lines of standard error that go into the job's log. A host takes 100 entries.
const LOG_LINES_MAX: usize = 99;
/// Characters of such a line.
const LOG_LINE_SHOWN_MAX: usize = 1_000;
/// Characters of its last line that an error shows.
const REASON_SHOWN_MAX: usize = 300;
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// The same when the plugin stops and hardly has time itself.
const GRACE_AT_SHUTDOWN: Duration = Duration::from_millis(500);
/// How often is looked whether a group is gone.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long is waited for output that somebody outside of the group holds open.
const OUTPUT_WITHIN: Duration = Duration::from_secs(1);

/// What the configuration says about commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExecSettings {
    /// `exec.commands`: each a program and its arguments, at least the program.
    pub commands: BTreeMap<String, Vec<String>>,
    /// `exec.command`, for jobs that name none: a key of `commands`.
    pub command: Option<String>,
    /// `exec.timeout_secs`.
    pub timeout: Duration,
    /// `exec.retry_after_secs`.
    pub retry_after: Duration,
}

impl Default for ExecSettings {
    fn default() -> ExecSettings {
        ExecSettings {
            commands: BTreeMap::new(),
            command: None,
            timeout: TIMEOUT_DEFAULT,
            retry_after: RETRY_AFTER_DEFAULT,
        }
    }
}

impl ExecSettings {
    fn choose(&self, params: &Params) -> Result<(&str, &[String]), Failure> {
        let given = params.text("command")?.or(self.command.as_deref());
        let name = match (given, self.commands.len()) {
            (Some(name), _) => name,
            (None, 1) => "",
            (None, 0) => return Err(nothing_configured()),
            (None, _) => {
                let names = self.names();
                return Err(Failure::permanent(format!(
                    "notify.exec does not know which command: give the watcher --params '{{\"command\": NAME}}', or set [notify.exec] command; configured are {names}"
                )));
            }
        };
        let chosen = match name {
            "" => self.commands.iter().next(),
            name => self.commands.get_key_value(name),
        };
        chosen.map(|(name, line)| (name.as_str(), line.as_slice())).ok_or_else(|| {
            if self.commands.is_empty() { nothing_configured() } else { self.unknown(params, name) }
        })
    }

    fn unknown(&self, params: &Params, name: &str) -> Failure {
        let near = nearest(name, self.commands.keys().map(String::as_str));
        let near = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        let names = self.names();
        params.bad(
            "command",
            &name.into(),
            &format!("the name of a command of [notify.exec.commands], which are {names}{near}"),
        )
    }

    fn names(&self) -> String {
        self.commands.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

fn nothing_configured() -> Failure {
    Failure::permanent(
        "notify.exec has no command: set [notify.exec.commands] NAME = [\"program\", \"argument\"] in the configuration",
    )
}

/// Runs the job's command.
pub(crate) async fn execute(
    job: &Job,
    settings: &ExecSettings,
    running: &Arc<Running>,
) -> Result<Done, Failure> {
    let params = Params::of(job, HANDLER, PARAMS)?;
    let (name, line) = settings.choose(&params)?;
    let limit = params.seconds("timeout_secs", TIMEOUT_SECS_MAX)?.unwrap_or(settings.timeout);
    // Ended before the host gives up, so that the reason is ours to tell.
    let deadline = job.deadline().map_or(limit, |deadline| {
        deadline.checked_sub(GRACE + OUTPUT_WITHIN).unwrap_or(deadline / 2)
    });
    let limit = limit.min(deadline);
    let (group, pipes) = running.start(name, line, job)?;
    let mut output = Output::default();
    let end = run(group, pipes, limit, job, &mut output).await;
    log(job, &output);
    done_or_why(name, end, output, limit, settings.retry_after)
}

fn command(line: &[String], job: &Job) -> Command {
    let mut command = Command::new(&line[0]);
    command
        .args(&line[1..])
        .env_clear()
        .envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .env("AXWATCH_JOB_ID", job.id())
        .env("AXWATCH_ATTEMPT", job.attempt().to_string())
        .env("AXWATCH_WATCHER", job.watcher().unwrap_or_default())
        .env("AXWATCH_HANDLER", job.handler())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    command
}

fn not_started(name: &str, program: &str, error: &io::Error) -> Failure {
    let reason =
        format!("cannot start {program:?}, which [notify.exec.commands] {name} names: {error}");
    match error.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::InvalidInput => Failure::permanent(reason),
        // Too many processes, no memory, a program that is just being written: these pass.
        _ => Failure::retry(reason),
    }
}

/// How a command ended.
#[derive(Debug)]
enum End {
    Exited(ExitStatus),
    TimeUp,
    Stopping,
    Lost(io::Error),
}

fn done_or_why(
    name: &str,
    end: End,
    output: Output,
    limit: Duration,
    retry_after: Duration,
) -> Result<Done, Failure> {
    let last = output.last_line();
    let said = if last.is_empty() { String::new() } else { format!(": {last}") };
    let status = match end {
        End::Exited(status) => status,
        End::TimeUp => {
            let secs = limit.as_secs_f32();
            return Err(Failure::retry(format!("{name} did not end within {secs} s{said}")));
        }
        End::Stopping => {
            let reason = format!("{name} was stopped, because the plugin stops");
            return Err(Failure::not_now(Duration::from_secs(1), reason));
        }
        End::Lost(error) => return Err(Failure::from(error).at(format!("cannot wait for {name}"))),
    };
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(Done::new().result(output.stdout)),
        (Some(EXIT_NOT_NOW), _) => {
            Err(Failure::not_now(retry_after, format!("{name} said not now (exit code 75){said}")))
        }
        (Some(code), _) => Err(Failure::retry(format!("{name} ended with exit code {code}{said}"))),
        (None, signal) => {
            let signal = signal_name(signal.unwrap_or_default());
            Err(Failure::retry(format!("{name} was killed by {signal}{said}")))
        }
    }
}

fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => return format!("signal {number}"),
    };
    format!("signal {number} ({name})")
}

fn log(job: &Job, output: &Output) {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    for line in &lines[lines.len().saturating_sub(LOG_LINES_MAX)..] {
        job.log(Level::Info, shown(line, LOG_LINE_SHOWN_MAX));
    }
    if output.stdout_was_cut {
        job.log(Level::Warn, "standard output was longer than 64 KiB, and the result is cut there");
    }
}

/// The commands that are under way in this process.
pub(crate) struct Running {
    groups: Mutex<HashSet<Pid>>,
    /// How many there are.
    count: watch::Sender<usize>,
}

impl Default for Running {
    fn default() -> Running {
        Running { groups: Mutex::default(), count: watch::Sender::new(0) }
    }
}

impl Running {
    fn start(
        self: &Arc<Running>,
        name: &str,
        line: &[String],
        job: &Job,
    ) -> Result<(Group, Pipes), Failure> {
        let spawned = command(line, job).spawn();
        let mut child = spawned.map_err(|error| not_started(name, &line[0], &error))?;
        let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let leader = leader.expect("a child that nobody waited for has an id");
        let pipes = Pipes::of(&mut child);
        self.change(|groups| groups.insert(leader));
        let alive = Alive { child, leader, running: self.clone() };
        Ok((Group(Some(alive)), pipes))
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<Pid>) -> bool) {
        let mut groups = self.groups();
        change(&mut groups);
        self.count.send_replace(groups.len());
    }

    fn groups(&self) -> MutexGuard<'_, HashSet<Pid>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits a little for commands that have been told to end, and kills what is left.
    pub(crate) async fn stop(&self) {
        let mut count = self.count.subscribe();
        if timeout(GRACE_AT_SHUTDOWN, count.wait_for(|count| *count == 0)).await.is_err() {
            for leader in self.groups().iter() {
                signal(*leader, Signal::KILL);
            }
        }
    }
}

fn signal(leader: Pid, signal: Signal) {
    // Refused only when nobody of the group is there any more.
    let _ = kill_process_group(leader, signal);
}

/// A command's process group. It is ended when this is dropped, as when the host gives up on the attempt.
struct Group(Option<Alive>);

impl Group {
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        match &mut self.0 {
            Some(alive) => alive.child.wait().await,
            None => std::future::pending().await,
        }
    }

    async fn end(mut self) {
        if let Some(alive) = self.0.take() {
            // A task of its own: what was begun here is finished, even if the host gives up meanwhile.
            let _ = tokio::spawn(alive.end()).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(alive) = self.0.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(alive.end())),
            Err(_) => signal(alive.leader, Signal::KILL),
        }
    }
}

/// Processes of a group, or a leader that nobody has waited for.
struct Alive {
    child: Child,
    leader: Pid,
    running: Arc<Running>,
}

impl Alive {
    /// Ends the whole group: politely, and after a while not.
    ///
    /// Its id does not go to somebody else meanwhile: it is taken as long as one of the group is there,
    /// and ids are given out in turn.
    async fn end(mut self) {
        signal(self.leader, Signal::TERM);
        let until = Instant::now() + GRACE;
        while !self.is_gone() && Instant::now() < until {
            sleep(LOOK_EVERY).await;
        }
        signal(self.leader, Signal::KILL);
        let _ = self.child.wait().await;
    }

    fn is_gone(&mut self) -> bool {
        // A leader that nobody waited for still counts as one of its group.
        let _ = self.child.try_wait();
        test_kill_process_group(self.leader).is_err()
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.running.change(|groups| groups.remove(&self.leader));
    }
}

/// Runs a command to its end, whichever that is.
async fn run(
    mut group: Group,
    pipes: Pipes,
    limit: Duration,
    job: &Job,
    output: &mut Output,
) -> End {
    let mut talk = pin!(pipes.talk(job.payload(), output));
    let mut talked = false;
    let mut time_up = pin!(sleep(limit));
    let end = loop {
        tokio::select! {
            waited = group.wait() => break waited.map_or_else(End::Lost, End::Exited),
            () = &mut talk, if !talked => talked = true,
            () = &mut time_up => break End::TimeUp,
            () = job.cancelled() => break End::Stopping,
        }
    };
    // What it prints at the end is read too: otherwise it may wait for us to do so.
    let mut ending = pin!(group.end());
    loop {
        tokio::select! {
            () = &mut ending => break,
            () = &mut talk, if !talked => talked = true,
        }
    }
    if !talked {
        let _ = timeout(OUTPUT_WITHIN, talk).await;
    }
    end
}

/// The three pipes to a command.
struct Pipes {
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Pipes {
    fn of(child: &mut Child) -> Pipes {
        let asked = "a pipe was asked for";
        Pipes {
            stdin: child.stdin.take().expect(asked),
            stdout: child.stdout.take().expect(asked),
            stderr: child.stderr.take().expect(asked),
        }
    }

    /// Says the payload and hears what comes, all at the same time, until the command has closed
    /// its ends.
    async fn talk(self, payload: &[u8], output: &mut Output) {
        let Output { stdout, stdout_was_cut, stderr } = output;
        tokio::join!(
            feed(self.stdin, payload),
            read(self.stdout, |bytes| {
                let room = (OUTPUT_BYTES_MAX - stdout.len()).min(bytes.len());
                stdout.extend_from_slice(&bytes[..room]);
                *stdout_was_cut |= room < bytes.len();
            }),
            read(self.stderr, |bytes| {
                stderr.extend_from_slice(bytes);
                stderr.drain(..stderr.len().saturating_sub(OUTPUT_BYTES_MAX));
            }),
        );
    }
}

async fn feed(mut stdin: ChildStdin, payload: &[u8]) {
    // A command need not read what it is told.
    let _ = stdin.write_all(payload).await;
}

/// Hands on all that comes, so that whoever writes is never held up.
async fn read(mut from: impl AsyncRead + Unpin, mut take: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        take(&buffer[..count]);
    }
}

/// What a command printed.
#[derive(Debug, Default)]
struct Output {
    /// The first of it.
    stdout: Vec<u8>,
    stdout_was_cut: bool,
    /// The last of it, where the reasons are.
    stderr: Vec<u8>,
}

impl Output {
    /// The last line on standard error that is not blank; empty if there is none.
    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        shown(last, REASON_SHOWN_MAX)
    }
}
