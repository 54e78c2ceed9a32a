//! A plugin's process: how it is started, told to stop, and seen to end.
//!
//! Between us and it stands the launcher (`super::launcher`), which takes our orders over a pipe and
//! takes our end for an order too, and which answers with the plugin's exit code only when nothing
//! that the plugin started is left.
//!
//! Not here: when to start and stop (`axwatch_core::supervise`), what the output says
//! (`super::output`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::launcher::{ORDER_KILL, ORDER_TERM};
use super::listeners;
use super::output::{Capture, Stream};

/// How long the last output of a process that has ended is waited for.
const LAST_OUTPUT_WITHIN: Duration = Duration::from_secs(1);

/// How a launcher is started: our own program, and the arguments that make a launcher of it. The
/// plugin's program and its arguments follow.
#[derive(Debug, Clone)]
pub struct LauncherCommand {
    /// The program: `/proc/self/exe`, or wherever we lie.
    pub program: PathBuf,
    /// `plugin-launcher`, `--`.
    pub args: Vec<OsString>,
}

/// What a process is told through its launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// SIGTERM to its group.
    Term,
    /// SIGKILL to all that it started.
    Kill,
}

impl Order {
    fn line(self) -> String {
        let word = match self {
            Order::Term => ORDER_TERM,
            Order::Kill => ORDER_KILL,
        };
        format!("{word}\n")
    }
}

/// The ports that our plugins were told to take, so that no two of them get the same one.
#[derive(Default)]
pub(crate) struct Ports(Mutex<BTreeSet<u16>>);

impl Ports {
    /// A port of loopback that nobody has at this moment. A stranger may still take it before the
    /// plugin does, which then ends and is started again on another.
    pub(crate) fn take(self: &Arc<Ports>) -> io::Result<Port> {
        // Held until one is found, or the system would offer the same one again.
        let mut ours = Vec::new();
        loop {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let number = listener.local_addr()?.port();
            if self.lock().insert(number) {
                return Ok(Port { number, among: self.clone() });
            }
            ours.push(listener);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.0.lock().expect("no holder of the ports panics")
    }
}

/// A port that one process was told to take. Free again when this is dropped.
pub(crate) struct Port {
    pub(crate) number: u16,
    among: Arc<Ports>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.among.lock().remove(&self.number);
    }
}

/// Names one launch in the environment of all its processes, so that they can be found when their
/// launcher, which is to end them, was itself killed.
const LAUNCH_TAG: &str = "AXWATCH_LAUNCH";

/// A plugin under its launcher.
pub(crate) struct Launched {
    launcher: Child,
    tag: String,
}

impl Launched {
    /// The launcher's process.
    pub(crate) fn pid(&self) -> u32 {
        self.launcher.id().unwrap_or(u32::MAX)
    }
}

/// Starts a plugin under a launcher. The environment, and a tag of the launch, are all that it gets.
pub(crate) fn launch(
    launcher: &LauncherCommand,
    program: &Path,
    args: &[String],
    environment: BTreeMap<OsString, OsString>,
) -> io::Result<Launched> {
    let tag = format!("{:032x}", rand::random::<u128>());
    let launcher = Command::new(&launcher.program)
        .args(&launcher.args)
        .arg(program)
        .args(args)
        .env_clear()
        .envs(environment)
        .env(LAUNCH_TAG, &tag)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C at our terminal is for us alone: we stop the plugins in our own order.
        .process_group(0)
        .spawn()?;
    Ok(Launched { launcher, tag })
}

/// Stays with a process until it has ended: reads its output, hands it orders. Answers how it ended.
///
/// When the sender of the orders is gone, or this is dropped, the launcher's pipe closes and it ends
/// the plugin.
pub(crate) async fn attend(
    launched: Launched,
    mut orders: mpsc::UnboundedReceiver<Order>,
    capture: Arc<Capture>,
) -> String {
    let Launched { launcher: mut child, tag } = launched;
    let mut drains = JoinSet::new();
    if let Some(out) = child.stdout.take() {
        drains.spawn(capture.clone().drain(out, Stream::Out));
    }
    if let Some(err) = child.stderr.take() {
        drains.spawn(capture.clone().drain(err, Stream::Err));
    }
    let mut pipe = child.stdin.take();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            order = orders.recv(), if pipe.is_some() => pass_on(order, &mut pipe).await,
        }
    };
    if status.as_ref().is_ok_and(|status| status.signal().is_some()) {
        // It passes signals of the plugin on as exit codes, so this one was its own.
        let _ = tokio::task::spawn_blocking(move || kill_launched(&tag)).await;
    }
    // Nothing of the plugin is left, so that the ends of its output are near.
    let _ = tokio::time::timeout(LAST_OUTPUT_WITHIN, async {
        while drains.join_next().await.is_some() {}
    })
    .await;
    match status {
        Ok(status) => with_last_words(status, capture.last_words()),
        Err(error) => format!("cannot wait for its launcher: {error}"),
    }
}

/// Ends all that carries the tag of a launch. What it forks meanwhile carries it too, so the search
/// goes on until it finds nothing.
fn kill_launched(tag: &str) {
    let marker = format!("{LAUNCH_TAG}={tag}");
    loop {
        let found = listeners::with_environment(&marker);
        let killed = found.into_iter().filter(|&pid| {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
        });
        if killed.count() == 0 {
            return;
        }
        std::thread::yield_now();
    }
}

async fn pass_on(order: Option<Order>, pipe: &mut Option<ChildStdin>) {
    let written = match (order, pipe.as_mut()) {
        (Some(order), Some(pipe)) => pipe.write_all(order.line().as_bytes()).await.is_ok(),
        _ => false,
    };
    // Nobody is left to give orders, or to take them. A closed pipe means `kill`.
    if !written {
        *pipe = None;
    }
}

fn with_last_words(status: ExitStatus, last_words: Option<String>) -> String {
    match last_words {
        Some(words) if !status.success() => format!("{}; it last said: {words}", describe(status)),
        _ => describe(status),
    }
}

/// As [`ExitStatus`] says it, with the launcher's way of passing a signal on undone.
fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code @ 129..=192) => ExitStatus::from_raw(code - 128).to_string(),
        _ => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_described_as_the_plugins_own() {
        let cases = [
            (0, None, "exit status: 0"),
            (0, Some("bye"), "exit status: 0"),
            (1, Some("no such table"), "exit status: 1; it last said: no such table"),
            (137, None, "signal: 9 (SIGKILL)"),
            (143, None, "signal: 15 (SIGTERM)"),
            (255, None, "exit status: 255"),
        ];
        for (code, words, expected) in cases {
            let status = ExitStatus::from_raw(code << 8);
            assert_eq!(with_last_words(status, words.map(str::to_owned)), expected);
        }
    }

    #[test]
    fn a_port_is_free_and_nobody_elses() {
        let ports = Arc::new(Ports::default());
        let taken: Vec<_> = (0..50).map(|_| ports.take().unwrap()).collect();
        let numbers: BTreeSet<_> = taken.iter().map(|port| port.number).collect();
        assert_eq!(numbers.len(), 50);
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, taken[0].number)).is_ok());
        drop(taken);
        assert!(ports.lock().is_empty());
    }
}
