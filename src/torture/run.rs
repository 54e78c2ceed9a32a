//! One run: everything is started, the plan carried out, the rest brought to its end, and the records
//! joined.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use sqlx::{Connection as _, Row as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::check::{Verdict, check, open_store};
use super::engine::{EngineProcess, ours, plugin_process, send, until_all_gone};
use super::folder::{About, Folder};
use super::meddler::Meddler;
use super::monotonic_ns;
use super::plan::{Intervention, Moment, Victim, plan};
use super::records::EventLine;

/// How long a process stands still.
const STOPPED_FOR: Duration = Duration::from_secs(2);
/// The longest wait for a job to be dispatched before the engine is killed all the same.
const DISPATCH_WITHIN: Duration = Duration::from_secs(10);
/// The longest wait for a plugin to be there to be killed.
const PLUGIN_WITHIN: Duration = Duration::from_secs(5);
/// From one look to the next, where a moment matters.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long the driver may take for its last acknowledgements.
const ACKS_WITHIN: Duration = Duration::from_secs(120);
/// How long nothing at all may end while jobs are still open.
const STANDSTILL: Duration = Duration::from_secs(60);
/// From one look at the open jobs to the next.
const SETTLED_EVERY: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Run {
    pub seed: u64,
    /// How often to interfere.
    pub kills: u64,
    pub folder: Folder,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many interventions have been made.
    Kills(u64),
    /// So many jobs are still open.
    Open(u64),
    /// The records are being joined.
    Checking,
}

impl Run {
    /// Does it, and says what the records prove. Dropped before its end it kills its processes.
    ///
    /// # Errors
    /// It could not be brought to its end.
    pub async fn carry_out(&self, tell: impl Fn(Progress)) -> Result<Verdict> {
        self.interfere(&tell).await?;
        self.until_all_gone().await;
        tell(Progress::Checking);
        check(&self.folder).await
    }

    /// Waits until none of its processes is left.
    pub async fn until_all_gone(&self) {
        until_all_gone(&self.folder).await;
    }

    async fn interfere(&self, tell: &impl Fn(Progress)) -> Result<()> {
        let program = std::env::current_exe().context("cannot find our own program")?;
        let (seed, kills) = (self.seed, self.kills);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.folder.prepare(&About { seed, kills, version }, &program)?;
        self.folder.register(Some(10))?;
        let mut engine = EngineProcess::start(&self.folder)?;
        let mut meddler = Meddler::new(&self.folder, seed)?;
        meddler.set_up().await.with_context(|| {
            format!("the engine does not begin; {}", self.folder.engine_log().display())
        })?;
        let mut driver = self.start_driver()?;
        let input = driver.stdin.take();
        tokio::select! {
            done = self.carry_out_plan(&mut engine, tell) => done?,
            ended = meddler.meddle() => ended?,
            ended = driver.wait() => {
                let log = self.folder.driver_log();
                bail!("the driver ended by itself ({}); {} may say why", ended?, log.display());
            }
        }
        // Which says that no new claims are wanted.
        drop(input);
        self.come_to_an_end(&mut engine, &mut meddler, driver, tell).await
    }

    fn start_driver(&self) -> Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(self.folder.driver_log());
        let log = log.context("cannot write the driver's log")?;
        let mut command: Command = ours(&["torture", "driver"]);
        command.arg("--folder").arg(self.folder.path()).arg("--seed").arg(self.seed.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        command.spawn().context("cannot start the driver")
    }

    async fn carry_out_plan(
        &self,
        engine: &mut EngineProcess,
        tell: &impl Fn(Progress),
    ) -> Result<()> {
        let mut last = Instant::now();
        for (number, intervention) in (1..).zip(plan(self.seed, self.kills)) {
            let since = last.max(engine.started());
            self.wait_for(intervention.moment, since, engine).await?;
            self.hit(number, intervention, engine).await?;
            last = Instant::now();
            tell(Progress::Kills(number));
        }
        Ok(())
    }

    /// Waits for the moment. An engine that ends meanwhile is missed, noted and started again.
    async fn wait_for(
        &self,
        moment: Moment,
        since: Instant,
        engine: &mut EngineProcess,
    ) -> Result<()> {
        let moment = self.moment(moment, since);
        tokio::pin!(moment);
        loop {
            tokio::select! {
                () = &mut moment => return Ok(()),
                again = engine.ends_by_itself() => again?,
            }
        }
    }

    async fn moment(&self, moment: Moment, since: Instant) {
        match moment {
            Moment::Start(us) | Moment::Early(us) => {
                precisely(since + Duration::from_micros(us)).await;
            }
            Moment::Dispatch(us) => {
                let before = self.ledger_bytes();
                let until = Instant::now() + DISPATCH_WITHIN;
                while !self.is_dispatched(before) && Instant::now() < until {
                    sleep(LOOK_EVERY).await;
                }
                precisely(Instant::now() + Duration::from_micros(us)).await;
            }
        }
    }

    fn ledger_bytes(&self) -> u64 {
        std::fs::metadata(self.folder.ledger()).map_or(0, |found| found.len())
    }

    /// Whether the plugin has noted a job after so many bytes of its ledger.
    fn is_dispatched(&self, after: u64) -> bool {
        let mut new = Vec::new();
        let read = File::open(self.folder.ledger()).and_then(|mut ledger| {
            ledger.seek(SeekFrom::Start(after))?;
            ledger.read_to_end(&mut new)
        });
        read.is_ok() && String::from_utf8_lossy(&new).contains(r#"{"delivery""#)
    }

    async fn hit(
        &self,
        number: u64,
        intervention: Intervention,
        engine: &mut EngineProcess,
    ) -> Result<()> {
        let Intervention { moment, victim } = intervention;
        let plugin = match victim {
            Victim::Engine | Victim::EngineStopped => None,
            Victim::EngineAndPlugin => plugin_process(&self.folder),
            Victim::Plugin | Victim::PluginStopped => self.wait_for_plugin().await,
        };
        let at = monotonic_ns();
        match (victim, plugin) {
            (Victim::EngineStopped, _) => {
                engine.signal(Signal::STOP);
                sleep(STOPPED_FOR).await;
                engine.signal(Signal::CONT);
            }
            (Victim::PluginStopped, Some(pid)) => {
                send(pid, Signal::STOP);
                let folder = self.folder.clone();
                tokio::spawn(async move {
                    sleep(STOPPED_FOR).await;
                    if plugin_process(&folder) == Some(pid) {
                        send(pid, Signal::CONT);
                    }
                });
            }
            (Victim::Plugin, Some(pid)) => send(pid, Signal::KILL),
            // A plugin that is not there cannot be hit alone.
            (Victim::Plugin | Victim::PluginStopped, None) | (Victim::Engine, _) => {
                engine.kill().await?;
            }
            (Victim::EngineAndPlugin, plugin) => {
                if let Some(pid) = plugin {
                    send(pid, Signal::KILL);
                }
                engine.kill().await?;
            }
        }
        let until = match victim {
            Victim::PluginStopped => at + STOPPED_FOR.as_nanos() as u64,
            _ => monotonic_ns(),
        };
        engine.note(EventLine::Hit { number, victim, moment, at, until })?;
        if engine.is_gone() { engine.start_again() } else { Ok(()) }
    }

    async fn wait_for_plugin(&self) -> Option<u32> {
        let until = Instant::now() + PLUGIN_WITHIN;
        loop {
            let found = plugin_process(&self.folder);
            if found.is_some() || Instant::now() > until {
                return found;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Lets the driver get its last answers and every job end, and stops the engine in order.
    async fn come_to_an_end(
        &self,
        engine: &mut EngineProcess,
        meddler: &mut Meddler,
        mut driver: Child,
        tell: &impl Fn(Progress),
    ) -> Result<()> {
        let ending = async {
            meddler.tidy_up().await?;
            let Ok(ended) = timeout(ACKS_WITHIN, driver.wait()).await else {
                bail!("the driver waits in vain for its last acknowledgements");
            };
            let log = self.folder.driver_log();
            ensure!(ended?.success(), "the driver failed; {} says why", log.display());
            self.until_settled(tell).await
        };
        tokio::pin!(ending);
        loop {
            tokio::select! {
                ended = &mut ending => break ended?,
                again = engine.ends_by_itself() => again?,
            }
        }
        engine.stop().await
    }

    /// Waits until every claim is matched and no job is open, or until nothing ends any more: what is open
    /// then is for the checker to tell.
    async fn until_settled(&self, tell: &impl Fn(Progress)) -> Result<()> {
        let mut store = open_store(&self.folder.store()).await?;
        let question = "SELECT (SELECT count(*) FROM jobs WHERE state IN (0, 1)), \
             (SELECT ifnull(max(seq), 0) FROM attestations), \
             (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'matched_seq'), \
             (SELECT ifnull(max(first_leaf), 0) FROM audit)";
        let (mut last, mut changed) = (None, Instant::now());
        while changed.elapsed() < STANDSTILL {
            let row = sqlx::query(question).fetch_one(&mut store).await?;
            let found: [i64; 4] =
                [row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?];
            let [open, head, matched, _] = found;
            // Twice the same: a job that has just ended may have left a claim behind.
            if open == 0 && head == matched && last == Some(found) {
                break;
            }
            if last != Some(found) {
                changed = Instant::now();
            }
            last = Some(found);
            tell(Progress::Open(open.unsigned_abs()));
            sleep(SETTLED_EVERY).await;
        }
        Ok(store.close().await?)
    }
}

/// Waits until a moment, to the microsecond where the system can.
async fn precisely(moment: Instant) {
    let left = moment.saturating_duration_since(Instant::now());
    if left > LOOK_EVERY {
        sleep_until(moment - LOOK_EVERY).await;
    }
    std::thread::sleep(moment.saturating_duration_since(Instant::now()).min(LOOK_EVERY * 2));
}

/// Where a run goes that is given no place: a folder that only stays when something was lost.
pub fn temporary_place(seed: u64) -> PathBuf {
    std::env::temp_dir().join(format!("axwatch-torture-{seed}-{}", std::process::id()))
}
