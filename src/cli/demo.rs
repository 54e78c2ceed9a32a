//! `axwatch demo`: all of axwatch at work on a repository of yours, with one command.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::IsTerminal as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anstyle::AnsiColor;
use anyhow::{Context as _, Result};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::audit::{Recomputed, recompute};
use super::{Context, refuse_folder, variable};
use crate::config::Config;
use crate::demo::{self, COMMITS, Counts, Demo, HandlerTime, Progress};
use crate::fault::Fault;
use crate::output::{Output, quoted};
use crate::serve::{self, Server, Signals};
use crate::source::Source;

const EXAMPLES: &str = "\
Examples:
  axwatch demo                                   on the repository you stand in
  axwatch demo --repo ~/src/linux --store ./demo.db
  axwatch demo --store ./demo.db                 go on after a kill, or take in new commits
  axwatch demo --json

It reads no am.toml, listens on a free port, and leaves its store behind to look at: that of --store, or
else a new one in the temporary folder, whatever AXWATCH_STORE says.";

/// See it work: a repository's history becomes claims, and each commit fires a plugin
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoCommand {
    /// The repository
    #[arg(long, value_name = "PATH", default_value = ".")]
    repo: PathBuf,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    counts: &'a Counts,
    audit_ok: bool,
    store: String,
}

impl DemoCommand {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        // A store of the environment or of am.toml is somebody's work; only a flag means one for this.
        let given = context.globals.store.clone();
        let store = given.unwrap_or_else(|| fresh_folder().join("axwatch.db"));
        if context.globals.config.is_some() {
            let told = "demo reads no configuration; `axwatch serve --config FILE` does";
            return Err(Fault::Usage(told.to_owned()).into());
        }
        refuse_folder(&store)?;
        let demo = Demo::of(&self.repo, &store)?;
        make_folder_of(&store)?;
        let config = Config::unconfigured(store.clone(), demo::plugins(), variable);
        let mut signals = Signals::listen()?;
        let log = beside(&store, "log");
        serve::log_to(&config, Mutex::new(open_log(&log)?), false)?;

        let out = &mut context.out;
        if !out.json {
            out.line(&format!("repository     {}", demo.repository().display()))?;
            out.line(&format!("store          {}", store.display()))?;
            out.flush()?;
        }
        let again =
            format!("{} demo --repo {} --store {}", called(), typed(&self.repo), typed(&store));
        let counts = carried_out(demo, &config, &mut signals, &again, &log).await?;
        let audit = recompute(&Source::find(&store).await?, None).await?;
        tell(out, &counts, &audit, &store)?;
        verdict(&counts, &audit, &store, &log)
    }
}

/// Starts an engine, does the demo in it, and stops it.
async fn carried_out(
    demo: Demo,
    config: &Config,
    signals: &mut Signals,
    again: &str,
    log: &Path,
) -> Result<Counts> {
    let bar = progress_bar(demo.commits());
    let mut server = Server::start(config).await?;
    let (engine, plugins) = (server.engine().clone(), server.plugins().clone());
    let counts = tokio::select! {
        counts = demo.run(&engine, &plugins, |progress| show(&bar, progress)) => counts,
        ended = server.ended(signals) => {
            bar.finish_and_clear();
            ended?;
            server.stop(signals).await?;
            let told = format!("interrupted; nothing is lost, and this goes on where it was: {again}");
            return Err(Fault::Refused(told).into());
        }
    };
    bar.finish_and_clear();
    let stopped = server.stop(signals).await;
    let counts = counts.with_context(|| {
        format!(
            "the demo ended early; {} is its log, and this goes on with it: {again}",
            log.display()
        )
    })?;
    stopped?;
    Ok(counts)
}

/// Where a store of its own goes when none is given: a folder that stays, for a look around.
fn fresh_folder() -> PathBuf {
    std::env::temp_dir().join(format!("axwatch-demo-{:08x}", rand::random::<u32>()))
}

/// Makes the folder that the store lies in, for this user alone, if it is not there.
fn make_folder_of(store: &Path) -> Result<()> {
    let folder = store.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make {}", folder.display()))
}

fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    name.into()
}

fn open_log(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    opened.with_context(|| format!("cannot write the log {}", path.display()))
}

fn progress_bar(commits: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(commits), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} commits · {msg}");
    bar.set_style(style.expect("the template is well-formed"));
    bar.set_message("starting the plugins");
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_position(progress.commit_fires);
    let last = if progress.is_read { " · waiting for the last fires" } else { "" };
    bar.set_message(format!("{} claims · {} fires{last}", progress.attestations, progress.fires));
}

fn tell(out: &mut Output, counts: &Counts, audit: &Recomputed, store: &Path) -> Result<()> {
    let audit_ok = audit.problem().is_none();
    if out.json {
        return out.object(&Told { counts, audit_ok, store: store.display().to_string() });
    }
    let green = AnsiColor::Green.on_default().bold();
    let red = AnsiColor::Red.on_default().bold();
    let audited = match audit.problem() {
        None => format!("{green}ok{green:#}, {} records recomputed", audit.records()),
        Some(problem) => format!("{red}not ok{red:#}: {problem}"),
    };
    let dead = match counts.dead {
        0 => "0".to_owned(),
        dead => format!("{red}{dead}{red:#}"),
    };
    let (claims, fires) = counts.this_run;
    let a_second = |count: u64| (count as f64 / counts.seconds.max(0.001)).round();
    let rates = format!(
        "{} claims and {} fires a second, over {:.1} s",
        a_second(claims),
        a_second(fires),
        counts.seconds
    );
    let count = |count: u64| count.to_string();
    out.fields(&[
        ("commits", count(counts.commits)),
        ("attestations", count(counts.attestations)),
        ("matches", count(counts.matches)),
        ("fires", format!("{}, of them {} of {COMMITS}", counts.fires, counts.commit_fires)),
        ("attempts", count(counts.attempts)),
        ("completed", count(counts.completed)),
        ("dead letters", dead),
        ("audit", audited),
        ("rates", if claims + fires == 0 { "nothing was new".to_owned() } else { rates }),
        ("slowest", counts.handlers.iter().map(handler_line).collect::<Vec<_>>().join("\n")),
    ])?;
    out.line("")?;
    out.line("Try next:")?;
    for command in next_commands(counts, store) {
        out.line(&format!("  {command}"))?;
    }
    Ok(())
}

fn handler_line(time: &HandlerTime) -> String {
    let HandlerTime { handler, jobs, median_ms, longest_ms } = time;
    match jobs {
        1 => format!("{handler}: {longest_ms} ms"),
        _ => format!(
            "{handler}: {jobs} jobs, half of them within {median_ms} ms, the longest {longest_ms} ms"
        ),
    }
}

fn next_commands(counts: &Counts, store: &Path) -> Vec<String> {
    let why = counts.last_fire.as_ref().map(|job| format!("why {job}"));
    let commands =
        [Some("fires --limit 5".to_owned()), why, Some("ax is authored_by --limit 5".to_owned())];
    let (program, store) = (called(), typed(store));
    let whole = |command| format!("{program} {command} --store {store}");
    commands.into_iter().flatten().map(whole).collect()
}

/// Says whether all is as it should be, in the exit code too.
fn verdict(counts: &Counts, audit: &Recomputed, store: &Path, log: &Path) -> Result<()> {
    let log = log.display();
    if audit.problem().is_some() {
        return Err(Fault::NotOk.into());
    }
    if counts.dead > 0 {
        let told = format!(
            "{} fires were given up; `{} jobs list --state failed --store {}` says why",
            counts.dead,
            called(),
            typed(store)
        );
        return Err(Fault::Refused(told).into());
    }
    if counts.commit_fires < counts.commits {
        let told = format!(
            "{} commits and only {} fires of {COMMITS}; {log} may say why",
            counts.commits, counts.commit_fires
        );
        return Err(Fault::Refused(told).into());
    }
    Ok(())
}

/// How we are called from this folder: by name where a shell finds just this program.
fn called() -> String {
    let Ok(ours) = std::env::current_exe() else { return "axwatch".to_owned() };
    let is_ours = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path == ours);
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&paths)
        .map(|folder| folder.join("axwatch"))
        .find(|path| path.exists());
    if first.as_ref().is_some_and(is_ours) {
        return "axwatch".to_owned();
    }
    let here = std::env::current_dir().ok();
    let near = here.and_then(|here| ours.strip_prefix(here).ok().map(Path::to_owned));
    typed(&near.map_or(ours, |near| Path::new(".").join(near)))
}

/// A path as a shell takes it.
fn typed(path: &Path) -> String {
    quoted(&path.display().to_string())
}
