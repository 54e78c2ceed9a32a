//! `axwatch jobs dead|retry|discard`: what was given up, by what it has in common, and what is done about
//! it.

use std::io::IsTerminal as _;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use axwatch_model::{Clock as _, JobIdPrefix, SystemClock};
use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::json;

use super::{show_job, spinner};
use crate::answers::NAMED_MAX;
use crate::cli::confirm::{Consent, Go, agreed};
use crate::cli::{Context, Limit};
use crate::client::{Client, ClientError, JSON, job_path, path};
use crate::fault::Fault;
use crate::output::{Output, TablePage, counted, job_style, or_dash};
use crate::source::{Source, need_server, parse};
use crate::times;
use crate::views::{
    Action, DeadEnd, DeadGroup, DeadSummary, Job, Outcome, OutcomeEnd, PreviewEnd, Selection,
    WorkProgress,
};

const DEAD_EXAMPLES: &str = "\
Examples:
  axwatch jobs dead
  axwatch jobs dead --watcher prs --error 'connection refused'
  axwatch jobs dead --like 3ea27c --newer-than 1d --all --json";

const RETRY_EXAMPLES: &str = "\
Examples:
  axwatch jobs retry 3ea27c14d1c994b3bc463569ba5fdcae
  axwatch jobs retry --like 3ea27c                     on a terminal: says how many, and asks
  axwatch jobs retry --watcher prs --newer-than 1d --dry-run
  axwatch jobs retry --all --yes";

const DISCARD_EXAMPLES: &str = "\
Examples:
  axwatch jobs discard 3ea27c14d1c994b3bc463569ba5fdcae
  axwatch jobs discard --error 'no such branch' --older-than 30d
  axwatch jobs discard --handler notify.webhook --dry-run";

/// Which dead letters.
#[derive(Debug, Clone, Default, Args)]
#[group(id = "filter", multiple = true)]
pub struct Filter {
    /// Only of this watcher: its shown id, or the local id of one of yours
    #[arg(long, value_name = "ID")]
    watcher: Option<String>,
    /// Only of this handler: its name, or plugin/name
    #[arg(long, value_name = "HANDLER")]
    handler: Option<String>,
    /// Only those whose error holds this text, in any case
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Only those that were given up longer ago: 1h, '2 days ago', or before a time
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,
    /// Only those that were given up since: 1h ago, or a time
    #[arg(long, value_name = "TIME")]
    newer_than: Option<String>,
    /// Only those that failed like this job: numbers, ids, names in quotes and the like aside
    #[arg(long, value_name = "JOB")]
    like: Option<JobIdPrefix>,
}

impl Filter {
    /// What the server is asked for.
    ///
    /// # Errors
    /// [`Fault::Usage`] for a time that is none.
    fn selection(self) -> Result<Selection, Fault> {
        let now = SystemClock::new().now().wall;
        for (flag, text) in [("--older-than", &self.older_than), ("--newer-than", &self.newer_than)]
        {
            let read = text.as_deref().map(|text| times::past(text, now)).transpose();
            read.map_err(|problem| Fault::Usage(format!("{flag}: {problem}")))?;
        }
        Ok(Selection {
            watcher: self.watcher,
            handler: self.handler,
            error: self.error,
            like: self.like.map(|like| like.to_string()),
            older_than: self.older_than,
            newer_than: self.newer_than,
            ..Selection::default()
        })
    }
}

/// List dead letters, newest first, and what their errors have in common
#[derive(Debug, Args)]
#[command(after_help = DEAD_EXAMPLES)]
pub struct Dead {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    limit: Limit,
}

impl Dead {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let selection = Selection { all: true, ..self.filter.selection()? };
        let source = Source::find(&context.config()?.store).await?;
        let mut lines = source.dead(&selection, self.limit.lines()).await?;
        let mut table =
            TablePage::new(&["GIVEN UP", "WATCHER", "HANDLER", "#ATTEMPTS", "JOB", "ERROR"]);
        while let Some(page) = lines.next().await? {
            for line in &page {
                if context.out.json {
                    context.out.line(line)?;
                } else if line.starts_with(r#"{"summary":"#) {
                    context.out.table(&mut table)?;
                    conclude(context, &parse::<DeadEnd>(line)?.summary)?;
                } else {
                    add(&mut table, parse(line)?);
                }
            }
            context.out.table(&mut table)?;
            context.out.flush()?;
        }
        Ok(())
    }
}

fn add(table: &mut TablePage, job: Job) {
    let cells = vec![
        or_dash(job.completed_at),
        or_dash(job.watcher),
        job.handler,
        job.attempts.to_string(),
        job.job_id.to_string(),
        job.error.unwrap_or_default(),
    ];
    table.row(job_style(job.state), cells);
}

fn conclude(context: &mut Context, summary: &DeadSummary) -> Result<()> {
    if summary.jobs == 0 {
        return context.out.note("no such dead letters");
    }
    context.out.heading(&counted(summary.jobs, "dead letter"))?;
    show_groups(&mut context.out, summary)?;
    let retry = context.typed("axwatch jobs retry --like JOB");
    context
        .out
        .note(&format!("`{retry}` tries those again that failed like one; `discard` lets them go"))
}

/// The groups as a table.
fn show_groups(out: &mut Output, summary: &DeadSummary) -> Result<()> {
    let mut table =
        TablePage::new(&["#JOBS", "ERROR", "WATCHER", "HANDLER", "LAST", "FOR EXAMPLE"]);
    for group in &summary.groups {
        let DeadGroup { fingerprint, jobs, example, watcher, handler, newest_at, .. } = group;
        let cells = vec![
            jobs.to_string(),
            fingerprint.clone().unwrap_or_else(|| "(no error)".to_owned()),
            or_dash(watcher.clone()),
            handler.clone(),
            or_dash(*newest_at),
            example.to_string(),
        ];
        table.row(Style::new(), cells);
    }
    out.table(&mut table)?;
    if summary.more_jobs > 0 {
        out.note(&format!("and {} with other errors", counted(summary.more_jobs, "job")))?;
    }
    Ok(())
}

/// Try dead letters again, under their ids; a job that is named may also wait for its retry, or be cancelled
#[derive(Debug, Args)]
#[command(after_help = RETRY_EXAMPLES)]
pub struct Retry {
    #[command(flatten)]
    which: Which,
}

/// Let dead letters go: they are kept, cancelled, and can be tried again by their ids; a job that is named
/// may also wait for its turn
#[derive(Debug, Args)]
#[command(after_help = DISCARD_EXAMPLES)]
pub struct Discard {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// The jobs: each by its id, or as much of it as no other begins with
    #[arg(value_name = "JOB", conflicts_with = "filter")]
    jobs: Vec<JobIdPrefix>,
    #[command(flatten)]
    filter: Filter,
    /// All dead letters
    #[arg(long, conflicts_with_all = ["jobs", "filter"])]
    all: bool,
    #[command(flatten)]
    consent: Consent,
}

impl Retry {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        self.which.run(context, Action::Retry).await
    }
}

impl Discard {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        self.which.run(context, Action::Discard).await
    }
}

impl Which {
    async fn run(self, context: &mut Context, action: Action) -> Result<()> {
        let Which { jobs, filter, all, consent } = self;
        if let ([job], false) = (&jobs[..], consent.dry_run) {
            let client = need_server(&context.config()?.store).await?;
            let place = path(&job_path(job), &[verb(action)]);
            let job: Job = client.send(Method::POST, &place, &json!({})).await?;
            return show_job(&mut context.out, &job);
        }
        let names: Vec<_> = jobs.iter().map(ToString::to_string).collect();
        let selection = Selection { jobs: names, all, ..filter.selection()? };
        if selection == Selection::default() {
            return Err(nobody_meant(action).into());
        }
        if jobs.len() > NAMED_MAX {
            let told = format!("{} jobs are named; at most {NAMED_MAX} are at once", jobs.len());
            return Err(Fault::Usage(told).into());
        }
        // Who names jobs one by one has said what is meant.
        let consent =
            Consent { yes: consent.yes || !(jobs.is_empty() || consent.dry_run), ..consent };
        let go = consent.go(context, &format!("jobs {}", verb(action)))?;
        let client = need_server(&context.config()?.store).await?;
        let outcome = work(context, &client, action, selection, go).await?;
        let Some(outcome) = outcome else { return Ok(()) };
        told(&mut context.out, &outcome)?;
        let is_refused = outcome.skipped > 0 && (outcome.done == 0 || !jobs.is_empty());
        if is_refused { Err(Fault::NotOk.into()) } else { Ok(()) }
    }
}

/// What the server calls it.
fn verb(action: Action) -> &'static str {
    match action {
        Action::Retry => "retry",
        Action::Discard => "discard",
    }
}

fn nobody_meant(action: Action) -> Fault {
    let verb = verb(action);
    Fault::Usage(format!(
        "`jobs {verb}` needs to know which: name jobs, or say --watcher, --handler, --error, --like, --older-than or --newer-than, or --all; for example: axwatch jobs {verb} --error 'connection refused'"
    ))
}

/// Does it, after what has to be shown and asked; `None` when nothing was to be done.
async fn work(
    context: &mut Context,
    client: &Client,
    action: Action,
    mut selection: Selection,
    go: Go,
) -> Result<Option<Outcome>> {
    if go != Go::Ahead {
        let preview = preview(client, action, &selection).await?;
        show_preview(&mut context.out, action, &preview)?;
        if go == Go::DryRun || preview.jobs == 0 {
            return Ok(None);
        }
        // What comes after the preview was not agreed to.
        selection.until = preview.at;
        context.out.flush()?;
        let which = if preview.jobs == 1 { "this job" } else { "these jobs" };
        agreed(&format!("{} {which}?", verb(action))).await?;
    }
    run(client, action, selection).await.map(Some)
}

async fn preview(client: &Client, action: Action, selection: &Selection) -> Result<DeadSummary> {
    let selection = Selection { dry_run: true, ..selection.clone() };
    let mut lines = lines(client, action, &selection).await?;
    let mut preview = None;
    while let Some(page) = lines.next().await? {
        for line in &page {
            preview = Some(parse::<PreviewEnd>(line)?.preview);
        }
    }
    preview.ok_or_else(|| cut_off("a preview").into())
}

async fn run(client: &Client, action: Action, selection: Selection) -> Result<Outcome> {
    let spinner = spinner();
    let selection = Selection { progress: std::io::stderr().is_terminal(), ..selection };
    let mut lines = lines(client, action, &selection).await?;
    let mut outcome = None;
    while let Some(page) = lines.next().await? {
        for line in &page {
            if line.starts_with(r#"{"progress":"#) {
                let WorkProgress { progress } = parse(line)?;
                spinner.set_message(counted(progress.jobs, "job"));
            } else {
                outcome = Some(parse::<OutcomeEnd>(line)?.outcome);
            }
        }
    }
    spinner.finish_and_clear();
    outcome.ok_or_else(|| cut_off("an outcome").into())
}

async fn lines(
    client: &Client,
    action: Action,
    selection: &Selection,
) -> Result<crate::client::Lines> {
    let place = path("/api/v1/jobs", &[verb(action)]);
    let body = Bytes::from(serde_json::to_vec(selection)?);
    Ok(client.lines(Method::POST, &place, JSON, body).await?)
}

fn cut_off(lacks: &str) -> ClientError {
    ClientError::Garbled { problem: format!("it ended without {lacks}") }
}

fn show_preview(out: &mut Output, action: Action, preview: &DeadSummary) -> Result<()> {
    if out.json {
        return out.object(preview);
    }
    if preview.jobs == 0 {
        return out.note("no such dead letters, so there is nothing to do");
    }
    let would = match action {
        Action::Retry => "would be tried again",
        Action::Discard => "would be let go",
    };
    out.line(&format!("{} {would}:", counted(preview.jobs, "job")))?;
    show_groups(out, preview)
}

fn told(out: &mut Output, outcome: &Outcome) -> Result<()> {
    if out.json {
        return out.object(outcome);
    }
    let what = match outcome.action {
        Action::Retry => "tried again",
        Action::Discard => "let go",
    };
    out.line(&format!("{} {what}", counted(outcome.done, "job")))?;
    let yellow = AnsiColor::Yellow.on_default();
    for skipped in &outcome.reasons {
        let jobs = counted(skipped.jobs, "job");
        out.line(&format!("{yellow}{jobs} left as before{yellow:#}: {}", skipped.message))?;
    }
    Ok(())
}
