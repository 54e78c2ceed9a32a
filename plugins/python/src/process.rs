//! Worker processes as the system sees them: how they start, how they end, and what they leave behind.
//!
//! Each has a process group of its own. It is the parent of every orphan among what it starts, and this
//! process is the parent of what it leaves behind when it dies, so that the end of a worker is the end of
//! all that its jobs started, daemons too. When this process dies, the kernel ends its workers, and the
//! host's launcher the rest.
//!
//! What cannot be caught: a program that runs as another user (setuid), and one that goes on forking
//! faster than it is found.
//!
//! A process that has workers has no other children: whoever is its child and no worker is a stray.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group, waitid,
    waitpid,
};
use tokio::sync::oneshot;

/// How often is looked for more of what a worker left behind, before what is left is left.
const SWEEPS_MAX: u32 = 100;
/// From one look at a dying process to the next.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A worker's process. Ended when it is dropped.
pub(crate) struct Process {
    child: Option<Child>,
    pid: Pid,
}

/// How a process ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

/// The workers of this process that were started and not yet waited for.
static WORKERS: LazyLock<Mutex<HashSet<i32>>> = LazyLock::new(Mutex::default);

fn workers() -> MutexGuard<'static, HashSet<i32>> {
    WORKERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Starts a program in a process group of its own.
    pub(crate) async fn start(command: Command) -> io::Result<Process> {
        let gone = || io::Error::other("the thread that starts workers is gone");
        let (reply, started) = oneshot::channel();
        spawner().ok_or_else(gone)?.send(Order { command, reply }).map_err(|_| gone())?;
        let child = started.await.map_err(|_| gone())??;
        let pid = Pid::from_child(&child);
        Ok(Process { child: Some(child), pid })
    }

    /// The child, for its pipes.
    pub(crate) fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// How it ended by itself, when it does so within this time. What it left behind is still there.
    pub(crate) async fn exit(&self, within: Duration) -> Option<Exit> {
        let pid = self.pid;
        // It stays to be waited for. When nobody waits here any more, its end ends this too.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let waiting = tokio::task::spawn_blocking(move || waitid(WaitId::Pid(pid), options));
        let status = tokio::time::timeout(within, waiting).await.ok()?.ok()?.ok()??;
        let signal = status.terminating_signal().map(Exit::Signal);
        status.exit_status().map(Exit::Code).or(signal)
    }

    /// Ends it and all that it started, and waits until that is done.
    pub(crate) async fn end(mut self) {
        if let Some(child) = self.child.take() {
            let ended = tokio::task::spawn_blocking(move || end(child));
            // It does not panic, and when the runtime ends it goes on.
            let _ = ended.await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // Whatever thread this is, it is not to wait.
            kill(self.pid);
            let ending = thread::Builder::new().name("python-end".to_owned());
            let _ = ending.spawn(move || end(child));
        }
    }
}

/// A program to be started.
struct Order {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// The thread that starts workers: the kernel ends a worker together with the thread that started it, so
/// that this one must live as long as the process.
fn spawner() -> Option<&'static Sender<Order>> {
    static SPAWNER: LazyLock<Option<Sender<Order>>> = LazyLock::new(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        let started = thread::Builder::new().name("python-start".to_owned()).spawn(move || {
            // What a worker leaves behind comes here.
            #[cfg(target_os = "linux")]
            if let Err(error) =
                rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            {
                let error: io::Error = error.into();
                tracing::warn!(%error, "cannot adopt what workers leave behind");
            }
            for Order { mut command, reply } in orders {
                let mut workers = workers();
                let child = command.process_group(0).spawn();
                if let Ok(child) = &child {
                    workers.insert(Pid::from_child(child).as_raw_pid());
                }
                drop(workers);
                // Closes our copies of the pipes' other ends.
                drop(command);
                if let Err(Ok(child)) = reply.send(child) {
                    end(child);
                }
            }
        });
        started.ok().map(|_| sender)
    });
    SPAWNER.as_ref()
}

/// Ends a worker, its process group, and whatever else it started. Blocks for as long as the kernel
/// takes.
fn end(mut child: Child) {
    let pid = Pid::from_child(&child);
    // While it lives, what it started is below it. What is stopped starts nothing more.
    let mut below = stop_all(|| descendants(pid));
    for &stray in &below {
        let _ = kill_process(stray, Signal::KILL);
    }
    kill(pid);
    let _ = child.wait();
    workers().remove(&pid.as_raw_pid());
    // What was an orphan is ours now, or was so before when the worker had died by itself.
    for _ in 0..SWEEPS_MAX {
        below.extend(stop_all(strays));
        let found = strays();
        for &stray in found.iter().chain(&below) {
            let _ = kill_process(stray, Signal::KILL);
        }
        below.clear();
        for &stray in &found {
            let _ = waitpid(Some(stray), WaitOptions::NOHANG);
        }
        if found.is_empty() {
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
    tracing::error!("a handler left processes behind that could not be ended");
}

/// Kills a worker that was not waited for, and its process group, which it may have left.
fn kill(pid: Pid) {
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = kill_process(pid, Signal::KILL);
}

/// Stops all that is found, until nothing more is found.
fn stop_all(find: impl Fn() -> Vec<Pid>) -> Vec<Pid> {
    let mut stopped: Vec<Pid> = Vec::new();
    for _ in 0..SWEEPS_MAX {
        let found = find();
        let new: Vec<Pid> = found.into_iter().filter(|pid| !stopped.contains(pid)).collect();
        if new.is_empty() {
            break;
        }
        for &pid in &new {
            let _ = kill_process(pid, Signal::STOP);
        }
        stopped.extend(new);
    }
    stopped
}

/// All below a process.
fn descendants(of: Pid) -> Vec<Pid> {
    below(&table(), vec![of.as_raw_pid()])
}

/// Our children that are no workers, and all below them.
fn strays() -> Vec<Pid> {
    // The lock is held while looking, so that no worker is taken for a stray while it starts.
    let workers = workers();
    let ourselves = rustix::process::getpid().as_raw_pid();
    let table = table();
    let ours =
        table.iter().filter(|&&(pid, parent)| parent == ourselves && !workers.contains(&pid));
    let ours: Vec<i32> = ours.map(|&(pid, _)| pid).collect();
    let mut found: Vec<Pid> = ours.iter().filter_map(|&pid| Pid::from_raw(pid)).collect();
    found.extend(below(&table, ours));
    found
}

fn below(table: &[(i32, i32)], mut parents: Vec<i32>) -> Vec<Pid> {
    let mut found = Vec::new();
    while let Some(above) = parents.pop() {
        for &(pid, _) in table.iter().filter(|&&(_, parent)| parent == above) {
            found.extend(Pid::from_raw(pid));
            parents.push(pid);
        }
    }
    found
}

/// Every process with its parent.
fn table() -> Vec<(i32, i32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let of = |entry: fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name of the program stands in brackets and may hold anything.
        let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    };
    entries.flatten().filter_map(of).collect()
}
