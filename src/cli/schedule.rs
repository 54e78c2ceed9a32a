//! `axwatch schedule`: what is to run again and again.

use anstyle::Style;
use anyhow::Result;
use axwatch_model::{Missed, Overlap, RunOutcome, ScheduleState};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{ArgGroup, Args, Subcommand};
use hyper::Method;
use serde_json::json;

use super::jobs::{payload_of, show_job};
use super::{Context, Limit};
use crate::answers::List;
use crate::client::path;
use crate::fault::Fault;
use crate::output::{Output, TablePage, or_dash, schedule_style, span};
use crate::source::{SCHEDULES, Source, need_server, parse};
use crate::times;
use crate::views::{Job, NextTimes, Schedule, ScheduleRun};

/// Run handlers again and again: create schedules, show them, stop them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch schedule create poll --every 5m --run ixgest.git --payload '{\"since\":\"last_run\"}'
  axwatch schedule create nightly --cron '30 4 * * mon-fri' --tz Europe/Berlin --run notify.log
  axwatch schedule list
  axwatch schedule next nightly
  axwatch schedule history nightly
  axwatch schedule pause nightly && axwatch schedule resume nightly
  axwatch schedule run-now nightly
  axwatch schedule delete nightly")]
pub struct ScheduleCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    /// List the schedules of people and plugins, by owner and name
    #[command(
        after_help = "Examples:\n  axwatch schedule list\n  axwatch schedule list --all --json"
    )]
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
        limit: usize,
        /// All there are, and those that were removed
        #[arg(long, conflicts_with = "limit")]
        all: bool,
    },
    /// Show one schedule
    #[command(
        after_help = "Examples:\n  axwatch schedule show nightly\n  axwatch schedule show git/git.poll"
    )]
    Show(Which),
    /// Let the times of a schedule pass until it is resumed
    #[command(after_help = "Example:\n  axwatch schedule pause nightly")]
    Pause(Which),
    /// Let a schedule run again, from its next time on
    #[command(after_help = "Example:\n  axwatch schedule resume nightly")]
    Resume(Which),
    /// Remove a schedule: its jobs that wait are cancelled, what runs may end
    #[command(after_help = "Example:\n  axwatch schedule delete nightly")]
    Delete(Which),
    /// Run a schedule at once, besides its times
    #[command(
        after_help = "Example:\n  axwatch jobs watch $(axwatch schedule run-now nightly --json | jq -r .job_id)"
    )]
    RunNow(Which),
    /// Show what became of the times of a schedule, the latest first
    #[command(
        after_help = "Examples:\n  axwatch schedule history nightly\n  axwatch schedule history nightly --all --json"
    )]
    History {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show when a schedule runs next
    #[command(after_help = "Example:\n  axwatch schedule next nightly --limit 3")]
    Next {
        #[command(flatten)]
        which: Which,
        /// So many times
        #[arg(long, value_name = "N", default_value_t = 10, allow_negative_numbers = true, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1_000))]
        limit: usize,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// Its name if it is yours, plugin/name, or its id
    schedule: String,
}

/// Create a schedule: the same again changes nothing, another is what it is from then on
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("times").required(true).args(["every", "cron"]))]
#[command(after_help = "\
Examples:
  axwatch schedule create poll --every 5m --run ixgest.git
  axwatch schedule create nightly --cron '30 4 * * mon-fri' --tz Europe/Berlin --run notify.log
  axwatch schedule create report --cron @daily --run notify.log --payload @report.json \\
      --missed all:7 --overlap queue --jitter 10s

Cron: minute, hour, day of month, month, day of week, or one of @hourly, @daily, @weekly, @monthly, @yearly.")]
struct Create {
    /// Its name among yours
    name: String,
    /// From one run to the next: 30s, 5m, 2h, 1d; 0 is never
    #[arg(long, value_name = "SPAN", conflicts_with = "cron", allow_hyphen_values = true)]
    every: Option<String>,
    /// When it runs, as a line of cron
    #[arg(long, value_name = "LINE", allow_hyphen_values = true)]
    cron: Option<String>,
    /// The clocks that the line of cron goes by, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "cron", conflicts_with = "every")]
    tz: Option<String>,
    /// The handler: its name, or plugin/name
    #[arg(long, value_name = "HANDLER")]
    run: String,
    /// What it gets: JSON, or @FILE for the bytes of a file, or - for those of standard input
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    payload: Option<String>,
    /// Times at which nothing could run: skip them, once for all of them, or all:N, the last N of them
    #[arg(long, value_name = "POLICY", default_value = "once")]
    missed: Missed,
    /// A time at which the run before is not over: skip it, queue it, or cancel that run
    #[arg(long, value_name = "POLICY", default_value = "skip")]
    overlap: Overlap,
    /// Put each run off by up to so much, and by less than to the next: 10s
    #[arg(long, value_name = "SPAN", allow_hyphen_values = true)]
    jitter: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
}

impl ScheduleCommand {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let (method, which, verb) = match self.command {
            Command::Create(create) => return create.run(context).await,
            Command::List { limit, all } => {
                return list(context, (!all).then_some(limit)).await;
            }
            Command::Show(which) => return show(context, &which.schedule).await,
            Command::History { which, limit } => {
                return history(context, which.schedule, limit).await;
            }
            Command::Next { which, limit } => return next(context, &which.schedule, limit).await,
            Command::RunNow(which) => return run_now(context, &which.schedule).await,
            Command::Pause(which) => (Method::POST, which, Some("pause")),
            Command::Resume(which) => (Method::POST, which, Some("resume")),
            Command::Delete(which) => (Method::DELETE, which, None),
        };
        let parts: Vec<&str> = [which.schedule.as_str()].into_iter().chain(verb).collect();
        let client = need_server(&context.config()?.store).await?;
        let schedule: Schedule = client.send(method, &path(SCHEDULES, &parts), &json!({})).await?;
        told(&mut context.out, &schedule)
    }
}

impl Create {
    async fn run(self, context: &mut Context) -> Result<()> {
        let spans = [("--every", &self.every), ("--jitter", &self.jitter)];
        for (flag, text) in spans {
            let text = text.as_deref().filter(|text| *text != "0");
            let read = text.map(times::span).transpose();
            read.map_err(|problem| Fault::Usage(format!("{flag}: {problem}")))?;
        }
        let payload = self.payload.as_deref().map(payload_of).transpose()?;
        let mut asked = json!({
            "name": self.name, "handler": self.run, "every": self.every, "cron": self.cron,
            "tz": self.tz, "missed": self.missed.to_string(), "overlap": self.overlap,
            "jitter": self.jitter, "description": self.description,
        });
        if let Some(bytes) = payload {
            asked["payload_base64"] = STANDARD.encode(bytes).into();
        }
        let client = need_server(&context.config()?.store).await?;
        let schedule: Schedule = client.send(Method::POST, SCHEDULES, &asked).await?;
        told(&mut context.out, &schedule)
    }
}

/// What has become of a schedule, in a sentence.
fn told(out: &mut Output, schedule: &Schedule) -> Result<()> {
    if out.json {
        return out.object(schedule);
    }
    let style = schedule_style(schedule.state);
    let next = schedule.next_at.map(|next| format!("; it runs next at {next}")).unwrap_or_default();
    out.line(&format!(
        "{} is {style}{}{style:#}: {} {}{next}",
        schedule.schedule,
        schedule.state,
        schedule.handler,
        when(schedule)
    ))
}

/// When a schedule runs.
fn when(schedule: &Schedule) -> String {
    match (&schedule.cron, schedule.every_seconds) {
        (Some(cron), _) => format!("{cron} ({})", schedule.tz.as_deref().unwrap_or("UTC")),
        (None, None | Some(0)) => "never".to_owned(),
        (None, Some(seconds)) => {
            format!("every {}", span(std::time::Duration::from_secs(u64::from(seconds))))
        }
    }
}

async fn list(context: &mut Context, limit: Option<usize>) -> Result<()> {
    let source = Source::find(&context.config()?.store).await?;
    let mut lines = source.schedules(limit).await?;
    let mut table =
        TablePage::new(&["SCHEDULE", "STATE", "WHEN", "HANDLER", "NEXT", "LAST RUN", "#OPEN"]);
    while let Some(page) = lines.next().await? {
        for line in &page {
            if context.out.json {
                context.out.line(line)?;
                continue;
            }
            let schedule: Schedule = parse(line)?;
            let when = when(&schedule);
            let cells = vec![
                schedule.schedule,
                schedule.state.to_string(),
                when,
                schedule.handler,
                or_dash(schedule.next_at),
                or_dash(schedule.last_run_at),
                or_dash(schedule.open_jobs),
            ];
            table.row(schedule_style(schedule.state), cells);
        }
        context.out.table(&mut table)?;
        context.out.flush()?;
    }
    if table.is_empty() {
        let create = context.typed("axwatch schedule create");
        context.out.note(&format!("no schedules yet; make one with `{create}`"))?;
    }
    note_rest(&mut context.out, &source)
}

async fn show(context: &mut Context, text: &str) -> Result<()> {
    let source = Source::find(&context.config()?.store).await?;
    let schedule = source.schedule(text).await?;
    let out = &mut context.out;
    if out.json {
        return out.object(&schedule);
    }
    let style = schedule_style(schedule.state);
    let raw = |raw: &Option<Box<serde_json::value::RawValue>>| {
        raw.as_ref().map(|raw| raw.get().to_owned()).unwrap_or_default()
    };
    let jitter = match schedule.jitter_seconds {
        0 => String::new(),
        seconds => format!("up to {}", span(std::time::Duration::from_secs(u64::from(seconds)))),
    };
    let enabled =
        if schedule.enabled_by_default { "" } else { "no; `axwatch schedule resume` lets it run" };
    out.fields(&[
        ("schedule", schedule.schedule.clone()),
        ("state", format!("{style}{}{style:#}", schedule.state)),
        ("id", schedule.id.to_string()),
        ("handler", schedule.handler.clone()),
        ("when", when(&schedule)),
        ("for", schedule.description.clone()),
        ("enabled by default", enabled.to_owned()),
        ("payload", raw(&schedule.payload)),
        ("missed", schedule.missed.clone()),
        ("overlap", schedule.overlap.to_string()),
        ("jitter", jitter),
        ("next", or_dash(schedule.next_at)),
        ("last run", or_dash(schedule.last_run_at)),
        ("last time", schedule.last_nominal.map(|at| at.to_string()).unwrap_or_default()),
        ("last job", schedule.last_job.map(|job| job.to_string()).unwrap_or_default()),
        ("open jobs", schedule.open_jobs.map(|jobs| jobs.to_string()).unwrap_or_default()),
        ("ats code", schedule.ats_code.clone()),
        ("metadata", raw(&schedule.metadata)),
        ("declared", schedule.declared_at.to_string()),
        ("changed", schedule.changed_at.to_string()),
        ("retired", schedule.retired_at.map(|at| at.to_string()).unwrap_or_default()),
    ])?;
    note_rest(out, &source)
}

/// Without a server nothing runs.
fn note_rest(out: &mut Output, source: &Source) -> Result<()> {
    match source {
        Source::Server(_) => Ok(()),
        Source::Store(_) => out.note("no server runs, so no schedule does"),
    }
}

async fn run_now(context: &mut Context, text: &str) -> Result<()> {
    let client = need_server(&context.config()?.store).await?;
    let place = path(SCHEDULES, &[text, "run"]);
    let job: Job = client.send(Method::POST, &place, &json!({})).await?;
    show_job(&mut context.out, &job)
}

async fn history(context: &mut Context, schedule: String, limit: Limit) -> Result<()> {
    let list = List::Runs { schedule };
    let source = Source::find(&context.config()?.store).await?;
    let mut lines = source.list(&list, limit.lines()).await?;
    let mut table = TablePage::new(&["TIME", "UP TO", "#TIMES", "OUTCOME", "DECIDED", "JOB"]);
    while let Some(page) = lines.next().await? {
        for line in &page {
            if context.out.json {
                context.out.line(line)?;
                continue;
            }
            let run: ScheduleRun = parse(line)?;
            let style = match run.outcome {
                RunOutcome::Ran => Style::new(),
                _ => schedule_style(ScheduleState::Paused),
            };
            let cells = vec![
                run.nominal.map_or_else(|| "by hand".to_owned(), |at| at.to_string()),
                or_dash(run.upto),
                run.count.to_string(),
                run.outcome.to_string(),
                run.at.to_string(),
                or_dash(run.job_id),
            ];
            table.row(style, cells);
        }
        context.out.table(&mut table)?;
        context.out.flush()?;
    }
    if table.is_empty() {
        context.out.note("none of its times has come yet")?;
    }
    Ok(())
}

async fn next(context: &mut Context, text: &str, limit: usize) -> Result<()> {
    let source = Source::find(&context.config()?.store).await?;
    let next: NextTimes = source.next_times(text, limit).await?;
    let out = &mut context.out;
    if out.json {
        return out.object(&next);
    }
    for at in &next.times {
        out.line(&at.to_string())?;
    }
    match (next.state, next.times.is_empty()) {
        (_, true) => out.note("it has no times"),
        (ScheduleState::Active, false) => note_rest(out, &source),
        (state, false) => out.note(&format!("it is {state}, so it does not run then")),
    }
}
