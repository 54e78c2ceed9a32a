//! A plugin's process: how it is started, told to stop, and seen to end.
//!
//! Between us and it stands the launcher (`super::launcher`), which takes our orders over a socket and
//! takes our end for an order too, which tells us when it ended the plugin for the memory that it used,
//! and which answers with the plugin's exit code only when nothing that the plugin started is left.
//!
//! Every process of a plugin carries a tag in its environment: for when the launcher was killed, and for
//! the next start when the engine was killed with it. A launcher that was stopped is woken by each order, and
//! when it does not obey, its work is done from here. What a killed one leaves behind without its tag comes to
//! us as our own children, where that is wanted and nobody else's can come to us too.
//!
//! Not here: when to start and stop (`axwatch_core::supervise`), what the output says
//! (`super::output`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use rustix::process::set_child_subreaper;
use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use super::launcher::{ORDER_KILL, ORDER_MEMORY, ORDER_TERM, REPORT_MEMORY};
use super::listeners;
use super::output::{Capture, Stream};
use super::settings::{PluginSettings, hex};

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
    fn word(self) -> &'static str {
        match self {
            Order::Term => ORDER_TERM,
            Order::Kill => ORDER_KILL,
        }
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

/// What the names begin with that are ours in the environment of a launcher: one of them would make a
/// launcher take itself for something else.
pub const OURS_IN_ENV: &str = "AXWATCH_LAUN";
/// Names one launch in the environment of all its processes, so that they can be found when their
/// launcher, which is to end them, was itself killed.
const LAUNCH_TAG: &str = "AXWATCH_LAUNCH";
/// How long processes that were found by their tag may take to be gone once they are killed.
const KILL_TAGGED_WITHIN: Duration = Duration::from_secs(5);
/// From one search for them to the next.
const KILL_TAGGED_EVERY: Duration = Duration::from_millis(10);
/// Bytes of a report of the launcher.
const REPORT_BYTES_MAX: usize = 200;

/// How much memory all processes of a plugin together may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryLimit {
    plugin: String,
    bytes: u64,
}

impl MemoryLimit {
    /// What is configured.
    pub(crate) fn of(settings: &PluginSettings) -> Option<MemoryLimit> {
        let plugin = settings.name.to_string();
        settings.memory_bytes_max.map(|bytes| MemoryLimit { plugin, bytes })
    }

    /// What the launcher reported, told as the end of the plugin that it is.
    fn passed(&self, report: &str) -> Option<String> {
        let used: u64 = report.strip_prefix(REPORT_MEMORY)?.trim().parse().ok()?;
        let (used, allowed) = (used.div_ceil(MIB), self.bytes / MIB);
        let plugin = &self.plugin;
        Some(format!("used {used} MiB of memory, plugins.{plugin}.memory_mb allows {allowed}"))
    }
}

/// Bytes of one mebibyte.
const MIB: u64 = 1024 * 1024;

/// How long a launcher may take to do what it was told: to end all that the plugin started. Shorter than what
/// the supervisor allows for a kill.
const OBEYED_WITHIN: Duration = Duration::from_millis(500);
/// How long the processes of a launcher that does not obey may take to be gone once they are killed.
const KILL_WITHIN: Duration = Duration::from_millis(400);

/// The launchers that are children of this process.
pub(crate) struct Launchers {
    adopts: bool,
    /// Held while one is started, so that none is taken for an orphan before it is known.
    ours: Mutex<BTreeSet<u32>>,
}

impl Launchers {
    /// With `wanted` this process becomes the parent of what loses its own, and ends it: all of its children
    /// that are no launchers. Not where it may be the parent of what is no plugin's, see [`may_adopt`].
    pub(crate) fn new(wanted: bool) -> Arc<Launchers> {
        let own = std::process::id();
        let adopts = wanted && may_adopt(own, &listeners::living_descendants(own));
        if wanted && !adopts {
            tracing::info!(
                "this process has, or may get, children that are no plugin's, so what plugins leave behind is not adopted"
            );
        }
        #[cfg(target_os = "linux")]
        if adopts && let Err(error) = set_child_subreaper(Some(rustix::process::getpid())) {
            tracing::warn!("cannot adopt what plugins leave behind: {error}");
        }
        Arc::new(Launchers { adopts, ours: Mutex::default() })
    }

    fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut ours = self.lock();
        let child = command.spawn()?;
        ours.extend(child.id());
        Ok(child)
    }

    /// Ends what came to us from a launcher that is gone.
    fn end_orphans(&self) {
        if !self.adopts {
            return;
        }
        // Killed where they are found.
        let (_, left) = kill_found(|| self.kill_orphans(), |_| true, KILL_TAGGED_WITHIN);
        tell_of_those_left(&left);
    }

    /// Kills our children that are no launchers, and waits for those that have ended already: what these left
    /// behind comes to us next.
    ///
    /// The lock is held until all is done, and no longer: nobody else waits for these meanwhile, so that each
    /// number is surely theirs, and whoever starts a launcher has to wait for it.
    fn kill_orphans(&self) -> Found {
        let ours = self.lock();
        let children = listeners::children(std::process::id()).into_iter();
        let strangers: Vec<_> = children.filter(|pid| !ours.contains(pid)).collect();
        let (gone, there): (Vec<_>, Vec<_>) =
            strangers.into_iter().partition(|&pid| is_reaped(pid));
        let living = there.into_iter().filter(|&pid| kill(pid)).collect();
        Found { living, leaves_more: !gone.is_empty() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.ours.lock().expect("no holder of the launchers panics")
    }
}

/// Whether all that loses its parent and comes to us will be a plugin's. Process 1 of a container gets every
/// orphan there is; and who has a child that it did not start, because whoever started that has become us,
/// would get that one's orphans too.
fn may_adopt(own: u32, descendants: &[u32]) -> bool {
    own != 1 && descendants.is_empty()
}

/// Whether this child of ours had ended; then it is gone.
fn is_reaped(pid: u32) -> bool {
    let waited = |pid| rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    pid_of(pid).is_none_or(|pid| waited(pid).is_ok_and(|found| found.is_some()))
}

/// A plugin under its launcher.
pub(crate) struct Launched {
    launcher: Child,
    among: Arc<Launchers>,
    line: UnixStream,
    tag: String,
}

/// A new tag for one launch. All launches of the engines that had this home begin with [`tags_of`] it.
pub(crate) fn tag(home: Option<&Path>) -> String {
    let launch = format!("{:032x}", rand::random::<u128>());
    match home.and_then(tags_of) {
        Some(ours) => format!("{ours}-{launch}"),
        None => launch,
    }
}

/// What says of a process that an engine with this home started it. A home lies beside a store, and one
/// engine at a time has a store; by its place and the folder it lies in a copied store has another one.
fn tags_of(home: &Path) -> Option<String> {
    let folder = home.parent()?.canonicalize().ok()?;
    let found = folder.metadata().ok()?;
    let digest = Sha256::new()
        .chain_update(found.dev().to_be_bytes())
        .chain_update(found.ino().to_be_bytes())
        .chain_update(folder.join(home.file_name()?).as_os_str().as_encoded_bytes())
        .finalize();
    Some(hex(&digest[..16]))
}

/// Ends what earlier engines with this home left running, because they were killed together with the
/// launchers that are to end it. To be called by whoever holds the store.
pub(crate) fn end_leftovers(home: &Path) {
    if let Some(ours) = tags_of(home) {
        let ended = kill_tagged(&format!("{LAUNCH_TAG}={ours}-"));
        if ended > 0 {
            tracing::warn!("ended {ended} processes of plugins that a killed engine left behind");
        }
    }
}

impl Launched {
    /// The launcher's process.
    pub(crate) fn pid(&self) -> u32 {
        self.launcher.id().unwrap_or(u32::MAX)
    }
}

/// Starts a plugin under a launcher. The environment, and the tag of the launch, are all that it gets.
///
/// # Errors
/// When the system does not start it, or a name in the environment is ours.
pub(crate) fn launch(
    launcher: &LauncherCommand,
    among: &Arc<Launchers>,
    program: &Path,
    args: &[String],
    environment: BTreeMap<OsString, OsString>,
    tag: String,
) -> io::Result<Launched> {
    let ours = |name: &&OsString| name.as_encoded_bytes().starts_with(OURS_IN_ENV.as_bytes());
    if let Some(name) = environment.keys().find(ours) {
        let name = name.display();
        let reason = format!("env: {name}: names that begin with {OURS_IN_ENV} are axwatch's own");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let (line, its_end) = std::os::unix::net::UnixStream::pair()?;
    line.set_nonblocking(true)?;
    let line = UnixStream::from_std(line)?;
    let mut command = Command::new(&launcher.program);
    command
        .args(&launcher.args)
        .arg(program)
        .args(args)
        .env_clear()
        .envs(environment)
        .env(LAUNCH_TAG, &tag)
        .stdin(Stdio::from(OwnedFd::from(its_end)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A Ctrl-C at our terminal is for us alone: we stop the plugins in our own order.
        .process_group(0);
    let launcher = among.start(&mut command)?;
    Ok(Launched { launcher, among: among.clone(), line, tag })
}

/// Stays with a process until it has ended: reads its output, hands it orders. Answers how it ended.
///
/// When the sender of the orders is gone, or this is dropped, the launcher's line closes and it ends
/// the plugin.
pub(crate) async fn attend(
    launched: Launched,
    memory: Option<MemoryLimit>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    capture: Arc<Capture>,
) -> String {
    let Launched { launcher: mut child, among, line, tag } = launched;
    let launcher = child.id();
    let (reports, line) = line.into_split();
    let mut reports = Reports(BufReader::with_capacity(REPORT_BYTES_MAX, reports));
    let mut line = Some(line);
    if let Some(limit) = &memory {
        say(&format!("{ORDER_MEMORY} {}", limit.bytes), &mut line).await;
    }
    let mut passed = None;
    let mut drains = JoinSet::new();
    if let Some(out) = child.stdout.take() {
        drains.spawn(capture.clone().drain(out, Stream::Out));
    }
    if let Some(err) = child.stderr.take() {
        drains.spawn(capture.clone().drain(err, Stream::Err));
    }
    let mut listens = true;
    let mut to_be_over = None;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            order = orders.recv(), if line.is_some() => {
                if order != Some(Order::Term) {
                    to_be_over = Some(tokio::time::Instant::now() + OBEYED_WITHIN);
                }
                pass_on(order, &mut line).await;
                // The plugin may have stopped it, and then it hears nothing.
                signal(launcher, Signal::CONT);
            },
            () = sleep_until(to_be_over.unwrap_or_else(tokio::time::Instant::now)), if to_be_over.is_some() => {
                to_be_over = None;
                let _ = tokio::task::spawn_blocking(move || do_its_work(launcher)).await;
            },
            report = reports.next(), if listens => match (report, &memory) {
                (Some(report), Some(limit)) => passed = limit.passed(&report).or(passed),
                (Some(_), None) => {}
                (None, _) => listens = false,
            },
        }
    };
    let ended = Instant::now();
    // It may have ended before we came to hear why.
    while let (true, Some(limit), Some(report)) = (listens, &memory, reports.left().await) {
        passed = limit.passed(&report).or(passed);
    }
    let was_killed = status.as_ref().is_ok_and(|status| status.signal().is_some());
    let end_the_rest = move || {
        // Its number may be somebody else's from now on.
        if let Some(launcher) = launcher {
            among.lock().remove(&launcher);
        }
        // It passes signals of the plugin on as exit codes, so this one was its own.
        if was_killed {
            kill_tagged(&format!("{LAUNCH_TAG}={tag}"));
            among.end_orphans();
        }
    };
    let _ = tokio::task::spawn_blocking(end_the_rest).await;
    // Nothing of the plugin is left, so that the ends of its output are near.
    let _ = tokio::time::timeout(LAST_OUTPUT_WITHIN, async {
        while drains.join_next().await.is_some() {}
    })
    .await;
    match status {
        Ok(_) if passed.is_some() => passed.unwrap_or_default(),
        Ok(status) => with_last_words(status, capture.last_words(ended)),
        Err(error) => format!("cannot wait for its launcher: {error}"),
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

fn kill(pid: u32) -> bool {
    pid_of(pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// To a launcher that has not been waited for.
fn signal(launcher: Option<u32>, signal: Signal) {
    if let Some(pid) = launcher.and_then(pid_of) {
        // One that has ended needs none.
        let _ = kill_process(pid, signal);
    }
}

/// Ends all that comes from a launcher which does not do it, and then the launcher. As long as that is there,
/// whatever the plugin started has it for an ancestor.
fn do_its_work(launcher: Option<u32>) {
    let Some(pid) = launcher else { return };
    tracing::warn!(
        "the launcher of a plugin, process {pid}, does not do what it is told: it is ended with all that it started"
    );
    kill_found(|| listeners::living_descendants(pid), kill, KILL_WITHIN);
    kill(pid);
}

/// Ends all whose environment has an entry that begins so, and says how many that were.
fn kill_tagged(marker: &str) -> usize {
    let (ended, left) =
        kill_found(|| listeners::with_environment(marker), kill, KILL_TAGGED_WITHIN);
    tell_of_those_left(&left);
    ended
}

fn tell_of_those_left(left: &BTreeSet<u32>) {
    if !left.is_empty() {
        let pids: Vec<_> = left.iter().map(ToString::to_string).collect();
        tracing::warn!(
            "processes of a plugin were killed and are still there, perhaps because they wait for a disk: {}",
            pids.join(", ")
        );
    }
}

/// What one search came upon.
#[derive(Debug, Clone, Default)]
struct Found {
    living: Vec<u32>,
    /// Another search may find what was not there yet for this one.
    leaves_more: bool,
}

impl From<Vec<u32>> for Found {
    fn from(living: Vec<u32>) -> Found {
        Found { living, leaves_more: false }
    }
}

/// Kills what is found until nothing is, because what forks meanwhile leaves another to be found. One that
/// the kernel holds takes the signal and stays, which is waited for only so long. Says how many are gone,
/// and which are not.
fn kill_found<F: Into<Found>>(
    find: impl Fn() -> F,
    kill: impl Fn(u32) -> bool,
    within: Duration,
) -> (usize, BTreeSet<u32>) {
    let until = Instant::now() + within;
    let mut killed: BTreeSet<u32> = BTreeSet::new();
    loop {
        let Found { living, leaves_more } = find().into();
        let found = living.into_iter();
        // Not ourselves, should a plugin of our predecessor have started us.
        let left: BTreeSet<u32> =
            found.filter(|&pid| pid != std::process::id()).filter(|&pid| kill(pid)).collect();
        killed.extend(&left);
        let is_over = left.is_empty() && !leaves_more;
        if is_over || Instant::now() >= until {
            return (killed.len() - left.len(), left);
        }
        std::thread::sleep(KILL_TAGGED_EVERY);
    }
}

/// What the launcher reports, a line each.
struct Reports(BufReader<OwnedReadHalf>);

impl Reports {
    /// The next one; `None` when none will come. Nothing is lost when this is dropped half-way.
    async fn next(&mut self) -> Option<String> {
        let bytes = self.0.fill_buf().await.ok()?;
        let end = bytes.iter().position(|&byte| byte == b'\n');
        // Its reports are short and written at once, so that what has no end is none.
        let length = end.map_or(bytes.len(), |end| end + 1);
        let report = String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned();
        self.0.consume(length);
        (length > 0).then_some(report)
    }

    /// The next of those that are there, once the launcher has ended.
    async fn left(&mut self) -> Option<String> {
        tokio::time::timeout(LAST_OUTPUT_WITHIN, self.next()).await.ok().flatten()
    }
}

async fn pass_on(order: Option<Order>, line: &mut Option<OwnedWriteHalf>) {
    match order {
        Some(order) => say(order.word(), line).await,
        // Nobody is left to give orders. A closed line means `kill`.
        None => *line = None,
    }
}

async fn say(words: &str, line: &mut Option<OwnedWriteHalf>) {
    if let Some(open) = line
        && open.write_all(format!("{words}\n").as_bytes()).await.is_err()
    {
        // Nobody is left to take orders.
        *line = None;
    }
}

fn with_last_words(status: ExitStatus, last_words: Option<String>) -> String {
    match last_words {
        Some(words) if !status.success() => format!("{}; it last said: {words}", describe(status)),
        _ => describe(status),
    }
}

/// As [`ExitStatus`] says it, with the launcher's way of passing a signal on undone.
pub(crate) fn describe(status: ExitStatus) -> String {
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

    /// A killed process goes, unless it sleeps in the kernel, and what it forked meanwhile goes too.
    #[test]
    fn what_cannot_be_killed_is_not_waited_for_for_ever() {
        let (never, soon) = (Duration::from_secs(3_600), Duration::from_millis(500));
        // (what each search finds, the last one for good; how long is searched; how many are gone, and who
        // stays)
        let none = || Found::from(vec![]);
        let ended = |living: Vec<u32>| Found { living, leaves_more: true };
        let cases = [
            (vec![none()], never, 0, vec![]),
            (vec![vec![7, 8].into(), vec![9].into(), none()], never, 3, vec![]),
            (vec![vec![7, 8].into(), vec![8].into()], soon, 1, vec![8]),
            (vec![vec![std::process::id()].into()], never, 0, vec![]),
            // One had ended before it was killed, and what it had started is found next.
            (vec![ended(vec![]), vec![9].into(), none()], never, 1, vec![]),
            (vec![ended(vec![7]), ended(vec![]), ended(vec![9]), none()], never, 2, vec![]),
            (vec![ended(vec![])], soon, 0, vec![]),
        ];
        for (searches, within, gone, stays) in cases {
            let searched = std::cell::Cell::new(0);
            let find = || {
                let number = searched.replace(searched.get() + 1);
                searches[number.min(searches.len() - 1)].clone()
            };
            let (ended, left) = kill_found(find, |_| true, within);
            assert_eq!((ended, left), (gone, BTreeSet::from_iter(stays)), "{searches:?}");
        }
        // One that is not ours to kill is not waited for at all.
        assert_eq!(kill_found(|| vec![7], |_| false, never), (0, BTreeSet::new()));
    }

    #[test]
    fn only_who_gets_nobody_elses_orphans_adopts() {
        // (our process id, what comes from us at the start, whether we adopt)
        for (own, descendants, expected) in
            [(7, &[][..], true), (7, &[8], false), (1, &[], false), (1, &[8], false)]
        {
            assert_eq!(may_adopt(own, descendants), expected, "{own} {descendants:?}");
        }
    }

    const SIDECAR: &str = "AXWATCH_TEST_SIDECAR";

    /// What loses its parent comes to us, or not; of what is there afterwards it tells.
    #[test]
    #[ignore = "the engine that another test starts"]
    fn engine() {
        let Ok(sidecar) = std::env::var(SIDECAR) else { return };
        let run = |script: &str| {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut sidecar = (sidecar == "yes").then(|| run("exec sleep 60"));
        let launchers = Launchers::new(true);
        // Two generations: the second comes to us when the first has ended.
        let leave = "(sh -c 'sleep 60 >/dev/null & echo $!; echo $$; exec sleep 60 >/dev/null' &)";
        let left = run(leave).wait_with_output().unwrap().stdout;
        let left: Vec<u32> =
            String::from_utf8(left).unwrap().lines().map(|pid| pid.parse().unwrap()).collect();
        launchers.end_orphans();
        let is_there = |pid: u32| listeners::has_ended(pid) == Some(false);
        let there = left.iter().filter(|&&pid| is_there(pid)).count();
        let has_sidecar = sidecar.as_ref().is_some_and(|sidecar| is_there(sidecar.id()));
        for pid in left {
            kill(pid);
        }
        if let Some(sidecar) = &mut sidecar {
            sidecar.kill().unwrap();
        }
        println!("\nleft={there} sidecar={has_sidecar}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_plugin_leaves_is_ended_and_what_is_no_plugins_is_left_alone() {
        let (_, module) = module_path!().split_once("::").unwrap();
        for (sidecar, expected) in [("no", "left=0 sidecar=false"), ("yes", "left=2 sidecar=true")]
        {
            let mut engine = std::process::Command::new(std::env::current_exe().unwrap());
            engine.args([&format!("{module}::engine"), "--exact", "--ignored", "--nocapture"]);
            let said = engine.env(SIDECAR, sidecar).output().unwrap().stdout;
            let said = String::from_utf8(said).unwrap();
            assert!(said.lines().any(|line| line == expected), "{sidecar}: {said}");
        }
    }

    #[test]
    fn memory_is_told_in_the_words_of_the_configuration() {
        let limit = MemoryLimit { plugin: "zoo".into(), bytes: 512 * MIB };
        let told = "used 613 MiB of memory, plugins.zoo.memory_mb allows 512";
        assert_eq!(limit.passed(&format!("memory {}", 612 * MIB + 1)).as_deref(), Some(told));
        for other in ["", "memory", "memory x", "forty two"] {
            assert_eq!(limit.passed(other), None, "{other:?}");
        }
    }

    #[tokio::test]
    async fn what_is_ours_in_the_environment_is_not_the_operators() {
        let launcher = LauncherCommand { program: "/bin/true".into(), args: Vec::new() };
        for (name, is_taken) in [
            ("AXWATCH_LAUNCHER", false),
            ("AXWATCH_LAUNCH", false),
            ("AXWATCH_LAUNCH_X", false),
            ("AXWATCH_HOME", true),
        ] {
            let environment = [(name.into(), "1".into())].into();
            let among = Launchers::new(false);
            let launched = launch(&launcher, &among, Path::new("x"), &[], environment, tag(None));
            assert_eq!(launched.is_ok(), is_taken, "{name}");
            if let Err(error) = launched {
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }

    #[test]
    fn tags_tell_the_stores_apart() {
        let folder = tempfile::tempdir().unwrap();
        let tags = |name: &str| tags_of(&folder.path().join(name)).unwrap();
        assert_eq!(tags("a.db.plugins"), tags("a.db.plugins"));
        assert_ne!(tags("a.db.plugins"), tags("b.db.plugins"));
        assert_eq!(tags_of(&folder.path().join("absent/a.db.plugins")), None);
        let home = folder.path().join("a.db.plugins");
        assert!(tag(Some(&home)).starts_with(&format!("{}-", tags("a.db.plugins"))));
        assert_eq!(tag(None).len(), 32);
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
