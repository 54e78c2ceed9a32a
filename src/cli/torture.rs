//! `axwatch torture`: the engine killed on your own disk, and its promises held to three records.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use crate::fault::Fault;
use crate::output::Output;
use crate::torture::{self, Folder, Progress, Run, Verdict};

const EXAMPLES: &str = "\
Examples:
  axwatch torture                                     100 kills in the temporary folder
  axwatch torture --store /mnt/disk/torture           on the disk that you want to know about
  axwatch torture --kills 1000 --seed 42 --json
  axwatch torture --check /mnt/disk/torture           join the records of an earlier run again

--store names a folder: this works in it when it is empty, and else in a new one inside it.
Exit codes: 0 every promise was kept; 1 something was lost, or the run did not come to its end.";

/// Kill the engine at random moments and see that nothing is lost
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Torture {
    #[command(subcommand)]
    part: Option<Part>,
    /// How often to interfere: kill the engine, the plugin or both, or let one stand still
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    kills: u64,
    /// The same seed interferes in the same way [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Do nothing but join the records of an earlier run
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["kills", "seed"])]
    check: Option<PathBuf>,
}

/// The processes that a run starts.
#[derive(Debug, Subcommand)]
enum Part {
    /// Make claims, and note what is acknowledged
    #[command(hide = true)]
    Driver {
        /// The folder of the run
        #[arg(long)]
        folder: PathBuf,
        /// The seed of the run
        #[arg(long)]
        seed: u64,
        /// The process of the run
        #[arg(long)]
        with_parent: u32,
    },
    /// Be the plugin that notes each job
    #[command(hide = true)]
    Ledger {
        /// The folder of the run
        #[arg(long)]
        folder: PathBuf,
        /// The port to listen on
        #[arg(long)]
        port: u16,
    },
}

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    ok: bool,
    #[serde(flatten)]
    verdict: &'a Verdict,
    /// The folder of the run, while it is there.
    folder: Option<String>,
}

impl Torture {
    /// Serves the plugin of a run, when that is what is asked for: it has a runtime of its own.
    pub fn served(&self) -> Option<ExitCode> {
        match &self.part {
            Some(Part::Ledger { folder, port }) => {
                Some(torture::serve_ledger(&Folder::of(folder), *port))
            }
            _ => None,
        }
    }

    pub async fn run(self, context: &mut Context) -> Result<()> {
        if let Some(Part::Driver { folder, seed, with_parent }) = &self.part {
            super::serve::end_with(*with_parent);
            return torture::drive(&Folder::of(folder), *seed).await;
        }
        if let Some(folder) = &self.check {
            let verdict = torture::check(&Folder::of(folder)).await?;
            return tell(&mut context.out, &verdict, Some(folder));
        }
        refuse_what_is_not_read(context)?;
        let seed = self.seed.unwrap_or_else(|| rand::random::<u32>().into());
        let given = context.globals.store.clone();
        let place = given.clone().unwrap_or_else(|| torture::temporary_place(seed));
        let folder = Folder::make(&place, seed)?;
        let out = &mut context.out;
        out.note(&format!("seed {seed}, {} kills, in {}", self.kills, folder.path().display()))?;
        let run = Run { seed, kills: self.kills, folder: folder.clone() };
        let verdict = carried_out(&run).await.inspect_err(|error| {
            // Nothing is learnt from it.
            if given.is_none() && error.is::<Interrupted>() {
                remove(&folder);
            }
        });
        let is_kept = |verdict: &Verdict| given.is_some() || !verdict.is_good();
        match verdict {
            Ok(verdict) if is_kept(&verdict) => tell(out, &verdict, Some(folder.path())),
            Ok(verdict) => {
                remove(&folder);
                tell(out, &verdict, None)
            }
            Err(error) if error.is::<Interrupted>() => {
                Err(Fault::Refused("interrupted, so that nothing is known".to_owned()).into())
            }
            Err(error) => Err(error.context(format!(
                "the run with seed {seed} did not come to its end; {} has its records",
                folder.path().display()
            ))),
        }
    }
}

fn refuse_what_is_not_read(context: &Context) -> Result<()> {
    let globals = &context.globals;
    let told = match &globals.store {
        _ if globals.config.is_some() => {
            "torture reads no configuration: it writes the one of its engine itself".to_owned()
        }
        Some(file) if file.is_file() => format!(
            "{} is a file; --store names a folder for torture, on the disk that is to be tried",
            file.display()
        ),
        _ => return Ok(()),
    };
    Err(Fault::Usage(told).into())
}

/// Somebody ended the run.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

/// Carries a run out until its end, or until a signal ends it.
async fn carried_out(run: &Run) -> Result<Verdict> {
    let bar = progress_bar(run.kills);
    let mut signals = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        signals.push(signal(kind).context("cannot listen to signals")?);
    }
    let interrupted = futures::future::select_all(signals.iter_mut().map(|s| Box::pin(s.recv())));
    let done = tokio::select! {
        verdict = run.carry_out(|progress| show(&bar, progress)) => verdict,
        _ = interrupted => Err(Interrupted.into()),
    };
    bar.finish_and_clear();
    // What was cut off has dropped, and so killed, its processes.
    run.until_all_gone().await;
    done
}

/// What is in the way stays.
fn remove(folder: &Folder) {
    let _ = std::fs::remove_dir_all(folder.path());
}

fn progress_bar(kills: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(kills), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} kills {msg}");
    bar.set_style(style.expect("the template is well-formed"));
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    match progress {
        Progress::Kills(count) => bar.set_position(count),
        Progress::Open(count) => bar.set_message(format!("· {count} jobs are still open")),
        Progress::Checking => bar.set_message("· joining the records"),
    }
}

fn tell(out: &mut Output, verdict: &Verdict, folder: Option<&Path>) -> Result<()> {
    let ok = verdict.is_good();
    if out.json {
        let folder = folder.map(|folder| folder.display().to_string());
        out.object(&Told { ok, verdict, folder })?;
    } else {
        tell_people(out, verdict, folder)?;
    }
    if ok { Ok(()) } else { Err(Fault::NotOk.into()) }
}

fn tell_people(out: &mut Output, verdict: &Verdict, folder: Option<&Path>) -> Result<()> {
    let v = verdict;
    let of = |count: u64, whole: u64, what: &str| format!("{} of {whole} {what}", loss(count));
    let recovery = match (v.recovery_ms_p50, v.recovery_ms_p99, v.recovery_ms_max) {
        (Some(p50), Some(p99), Some(max)) => {
            format!("p50 {p50} ms, p99 {p99} ms, longest {max} ms, over {} starts", v.recoveries)
        }
        _ => "nothing waited at any start".to_owned(),
    };
    out.fields(&[
        ("seed", v.seed.to_string()),
        ("kills", format!("{}, and {} starts", v.kills, v.starts)),
        ("acked lost", of(v.acked_lost, v.acked, "acknowledged claims")),
        ("not fired", of(v.not_fired, v.fires, &format!("fires of {} matches", v.matches))),
        ("unaudited", of(v.unaudited, v.deliveries, "deliveries")),
        ("wrong ids", of(v.wrong_ids, v.fires, "jobs")),
        ("over limit", of(v.windows_over_limit, v.windows, "windows of a second")),
        ("other faults", loss(v.other_faults)),
        (
            "duplicates",
            format!(
                "{}, and {} tried again as they should",
                v.duplicates,
                v.redeliveries - v.duplicates
            ),
        ),
        ("recovery", recovery),
        ("folder", folder.map(|folder| folder.display().to_string()).unwrap_or_default()),
    ])?;
    for fault in &v.faults {
        out.line(&format!("  {fault}"))?;
    }
    Ok(())
}

/// A count that should be zero.
fn loss(count: u64) -> String {
    let colour = if count == 0 { anstyle::AnsiColor::Green } else { anstyle::AnsiColor::Red };
    let style = colour.on_default().bold();
    format!("{style}{count}{style:#}")
}
