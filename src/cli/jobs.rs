//! `axwatch jobs`: work for handlers, of watchers, people, schedules and plugins.

mod dead;
mod run;
mod show;
mod watch;

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use axwatch_model::{JobIdPrefix, JobState};
use clap::{Args, Subcommand};
use hyper::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use dead::{Dead, Discard, Retry};

use super::{Context, Limit};
use crate::answers::{JobFilter, List};
use crate::client::{job_path, path};
use crate::fault::Fault;
use crate::output::{Output, TablePage, job_style, or_dash};
use crate::source::{Source, need_server, parse};
use crate::views::{Job, Progress};

pub use run::payload_of;
use show::told;
pub use show::{asked_for, show_job};
pub use watch::watch;

/// Run handlers, show jobs, steer them, deal with dead letters
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch jobs run notify.log --payload '{\"text\":\"hi\"}' --watch
  axwatch jobs list --state queued
  axwatch jobs show 3ea27c
  axwatch jobs watch 3ea27c
  axwatch jobs cancel 3ea27c
  axwatch jobs dead
  axwatch jobs retry 3ea27c")]
pub struct Jobs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(ListJobs),
    /// Show one job: its result, its log, what it is a part of and what is a part of it
    #[command(after_help = "Example:\n  axwatch jobs show 3ea27c14d1c994b3bc463569ba5fdcae")]
    Show(Which),
    Run(run::Run),
    /// Show a job as it goes on, until it has ended
    #[command(
        after_help = "Examples:\n  axwatch jobs watch 3ea27c\n  axwatch jobs watch 3ea27c --json | jq .progress"
    )]
    Watch(Which),
    /// Cancel a job, and all that is a part of it; an attempt under way is stopped
    #[command(after_help = "Example:\n  axwatch jobs cancel 3ea27c")]
    Cancel(Which),
    /// Let a job wait until it is resumed; an attempt under way is stopped, and not counted
    #[command(after_help = "Example:\n  axwatch jobs pause 3ea27c && axwatch jobs resume 3ea27c")]
    Pause(Which),
    /// Let a paused job go on
    #[command(after_help = "Example:\n  axwatch jobs resume 3ea27c")]
    Resume(Which),
    Dead(Dead),
    Retry(Retry),
    Discard(Discard),
}

#[derive(Debug, Args)]
struct Which {
    /// The job's id, or as much of it as no other begins with
    #[arg(value_name = "JOB")]
    id: JobIdPrefix,
}

/// List jobs, newest first, those that wait with how many are ahead of them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch jobs list
  axwatch jobs list --state failed --all --json
  axwatch jobs list --handler ixgest.git --asker user
  axwatch jobs list --schedule nightly --limit 5")]
struct ListJobs {
    /// Only in this state: queued, running, paused, completed, failed or cancelled
    #[arg(long, value_name = "STATE")]
    state: Option<JobState>,
    /// Only of this handler: its name, or plugin/name
    #[arg(long, value_name = "HANDLER")]
    handler: Option<String>,
    /// Only of handlers of this plugin
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,
    /// Only of this watcher: its shown id, or the local id of one of yours
    #[arg(long, value_name = "ID")]
    watcher: Option<String>,
    /// Only those that this one asked for: user, schedule, or a plugin
    #[arg(long, value_name = "WHO")]
    asker: Option<String>,
    /// Only those that their asker knows by this
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// Only those that are a part of this job
    #[arg(long, value_name = "JOB")]
    parent: Option<JobIdPrefix>,
    /// Only runs of this schedule: its name, or plugin/name
    #[arg(long, value_name = "SCHEDULE")]
    schedule: Option<String>,
    #[command(flatten)]
    limit: Limit,
}

/// How long one request waits for the end of a job; then it is asked again.
const WAIT_MS: u64 = 30_000;
/// The same while somebody watches.
const LOOK_MS: u64 = 500;

impl Jobs {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let (which, verb) = match self.command {
            Command::Dead(dead) => return dead.run(context).await,
            Command::Retry(retry) => return retry.run(context).await,
            Command::Discard(discard) => return discard.run(context).await,
            Command::List(list) => return list.run(context).await,
            Command::Run(run) => return run.run(context).await,
            Command::Show(Which { id }) => {
                let job = Source::find(&context.config()?.store).await?.job(&id).await?;
                return show_job(&mut context.out, &job);
            }
            Command::Watch(Which { id }) => {
                let client = need_server(&context.config()?.store).await?;
                return watch::watch(&client, &id.to_string(), &mut context.out).await;
            }
            Command::Cancel(which) => (which, "cancel"),
            Command::Pause(which) => (which, "pause"),
            Command::Resume(which) => (which, "resume"),
        };
        let client = need_server(&context.config()?.store).await?;
        let place = path(&job_path(which.id), &[verb]);
        let job: Job = client.send(Method::POST, &place, &json!({})).await?;
        told(&mut context.out, &job)
    }
}

impl ListJobs {
    async fn run(self, context: &mut Context) -> Result<()> {
        let list = List::Jobs(JobFilter {
            watcher: self.watcher,
            state: self.state,
            handler: self.handler,
            plugin: self.plugin,
            asker: self.asker,
            source: self.source,
            parent: self.parent.map(|parent| parent.to_string()),
            schedule: self.schedule,
        });
        let store = context.config()?.store;
        list_jobs(&store, &list, self.limit, &mut context.out).await
    }
}

async fn list_jobs(store: &Path, list: &List, limit: Limit, out: &mut Output) -> Result<()> {
    let mut lines = Source::find(store).await?.list(list, limit.lines()).await?;
    let mut table = TablePage::new(&[
        "MADE",
        "CAUSE",
        "HANDLER",
        "PLUGIN",
        "STATE",
        "#AHEAD",
        "#ATTEMPTS",
        "JOB",
        "ERROR",
    ]);
    while let Some(page) = lines.next().await? {
        for line in &page {
            if out.json {
                out.line(line)?;
                continue;
            }
            let job: Job = parse(line)?;
            let style = job_style(job.state);
            let cells = vec![
                job.created_at.to_string(),
                cause(&job),
                job.handler,
                or_dash(job.plugin),
                state_of(job.state, job.progress),
                job.ahead.map(|ahead| ahead.to_string()).unwrap_or_default(),
                job.attempts.to_string(),
                job.job_id.to_string(),
                job.error.unwrap_or_default(),
            ];
            table.row(style, cells);
        }
        out.table(&mut table)?;
        out.flush()?;
    }
    if table.is_empty() {
        out.note("no such jobs; a watcher makes them, or `axwatch jobs run HANDLER` makes one")?;
    }
    Ok(())
}

/// Who or what made a job: its watcher, its schedule, or who asked for it.
fn cause(job: &Job) -> String {
    let schedule = job.schedule.as_ref().map(|schedule| format!("schedule {schedule}"));
    let by = || job.by.clone().unwrap_or_else(|| job.origin.to_string());
    job.watcher.clone().or(schedule).unwrap_or_else(by)
}

/// A state, and how far that is.
fn state_of(state: JobState, progress: Option<Progress>) -> String {
    match progress.filter(|_| state == JobState::Running).and_then(Progress::percent) {
        Some(percent) => format!("{state} {percent}%"),
        None => state.to_string(),
    }
}

fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    bar.enable_steady_tick(Duration::from_millis(100));
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    bar.with_style(style.expect("the template is well-formed"))
}

fn ended_well(job: &Job) -> Result<()> {
    match job.state {
        JobState::Failed | JobState::Cancelled => Err(Fault::Refused(format!(
            "job {} has {}: {}",
            job.job_id,
            if job.state == JobState::Failed { "failed" } else { "been cancelled" },
            job.error.as_deref().unwrap_or("no reason was given")
        ))
        .into()),
        _ => Ok(()),
    }
}
