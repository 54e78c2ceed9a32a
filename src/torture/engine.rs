//! The engine of a run: `axwatch serve` as a process that is started, killed, stopped and missed.
//!
//! Whatever of it is left when this is dropped is killed; its plugin goes with it, because a launcher
//! stands between the two.

use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::folder::Folder;
use super::monotonic_ns;
use super::records::{EventLine, Journal};
use crate::shipped::ourselves;

/// How long a server may take to end when it is asked to.
const END_WITHIN: Duration = Duration::from_secs(30);
/// How long what was killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// One engine after the other.
pub struct EngineProcess {
    folder: Folder,
    events: Journal,
    child: Option<Child>,
    life: u32,
    started: Instant,
}

impl EngineProcess {
    /// Starts the first.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(folder: &Folder) -> Result<EngineProcess> {
        let mut engine = EngineProcess {
            folder: folder.clone(),
            events: Journal::open(&folder.events())?,
            child: None,
            life: 0,
            started: Instant::now(),
        };
        engine.start_again()?;
        Ok(engine)
    }

    /// Starts the next. The one before has ended.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_again(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.folder.engine_log());
        let log = log.context("cannot write the engine's log")?;
        self.life += 1;
        self.started = Instant::now();
        let (at, wall) = (monotonic_ns(), SystemTime::now());
        let child = ours(&["serve", "--json", "--http", "127.0.0.1:0"])
            .arg("--store")
            .arg(self.folder.store())
            .arg("--config")
            .arg(self.folder.config())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start the engine")?;
        let pid = child.id().context("the engine has no process")?;
        self.child = Some(child);
        let at_ms = wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let at_ms = u64::try_from(at_ms).unwrap_or(u64::MAX);
        self.events.add(&[EventLine::Started { life: self.life, pid, at, at_ms }])
    }

    /// When the present one was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Notes what was done to it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn note(&mut self, event: EventLine) -> Result<()> {
        self.events.add(&[event])
    }

    /// Waits until it ends by itself, which it must not, notes how, and starts it again.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn ends_by_itself(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("no engine runs")?;
        let status = child.wait().await.context("cannot wait for the engine")?;
        self.ended(Some(status.to_string()))?;
        // One that cannot start is not started over and over at once.
        sleep(Duration::from_millis(200)).await;
        self.start_again()
    }

    fn ended(&mut self, itself: Option<String>) -> Result<()> {
        self.child = None;
        self.events.add(&[EventLine::Ended { life: self.life, at: monotonic_ns(), itself }])
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        child.kill().await.context("cannot kill the engine")?;
        self.ended(None)
    }

    /// Whether none runs at the moment.
    pub fn is_gone(&self) -> bool {
        self.child.is_none()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(Child::id) {
            send(pid, signal);
        }
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let Some(child) = &mut self.child else { return Ok(()) };
        let Ok(status) = timeout(END_WITHIN, child.wait()).await else {
            bail!("the engine did not end within {END_WITHIN:?} of SIGTERM");
        };
        let status: ExitStatus = status.context("cannot wait for the engine")?;
        self.ended((!status.success()).then(|| status.to_string()))
    }
}

/// Our own program as a command that nothing in our environment configures, and that ends with us, however
/// we do.
pub fn ours(args: &[&str]) -> Command {
    let mut command = Command::new(ourselves());
    command.args(args).arg("--with-parent").arg(std::process::id().to_string());
    // A Ctrl-C at our terminal is for us alone: we end the others.
    command.kill_on_drop(true).process_group(0);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AXWATCH_") {
            command.env_remove(name);
        }
    }
    command
}

/// Sends a signal. A process that is gone needs none.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The plugin's present process, as it said when it started; none when that is gone.
pub fn plugin_process(folder: &Folder) -> Option<u32> {
    let text = std::fs::read_to_string(folder.plugin_pid()).ok()?;
    text.trim().parse().ok().filter(|pid| is_of(*pid, folder.path()))
}

/// Whether a process is there and was started for this folder: its number may be somebody else's by now.
fn is_of(pid: u32, folder: &Path) -> bool {
    if cfg!(target_os = "linux") {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
        return words.windows(2).any(|pair| pair == [b"--folder", folder.as_os_str().as_bytes()]);
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// Waits until no process of a run is left; what is left after a while is killed.
pub async fn until_all_gone(folder: &Folder) {
    let began = Instant::now();
    loop {
        let left = processes_of(folder);
        if left.is_empty() {
            return;
        }
        if began.elapsed() > GONE_WITHIN {
            left.into_iter().for_each(|pid| send(pid, Signal::KILL));
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// The processes that were started for a folder, where the system tells.
fn processes_of(folder: &Folder) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let others = pids.filter(|pid| *pid != std::process::id());
    others.filter(|pid| cfg!(target_os = "linux") && is_of(*pid, folder.path())).collect()
}
