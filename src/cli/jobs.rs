//! `axwatch jobs`: work for handlers, of watchers and of people.

mod dead;

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axwatch_model::{JobIdPrefix, JobState};
use base64::Engine as _;
use clap::{Args, Subcommand};
use hyper::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use serde_json::value::RawValue;

use dead::{Dead, Discard, Retry};

use super::{Context, Limit};
use crate::answers::List;
use crate::client::{Client, job_path, with_query};
use crate::fault::Fault;
use crate::output::{Output, TablePage, cut, job_style, or_dash};
use crate::source::{Source, need_server, parse};
use crate::views::Job;

/// Show jobs, run one, deal with dead letters
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch jobs list --state failed
  axwatch jobs show 3ea27c
  axwatch jobs run notify.log --payload '{\"text\":\"hi\"}' --wait
  axwatch jobs dead
  axwatch jobs retry 3ea27c
  axwatch jobs discard --like 3ea27c")]
pub struct Jobs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List jobs, newest first
    #[command(
        after_help = "Examples:\n  axwatch jobs list\n  axwatch jobs list --state failed --all --json"
    )]
    List {
        /// Only in this state: queued, running, paused, completed, failed or cancelled
        #[arg(long, value_name = "STATE")]
        state: Option<JobState>,
        /// Only of this watcher: its shown id, or the local id of one of yours
        #[arg(long, value_name = "ID")]
        watcher: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one job with its result
    #[command(after_help = "Example:\n  axwatch jobs show 3ea27c14d1c994b3bc463569ba5fdcae")]
    Show {
        /// The job's id, or as much of it as no other begins with
        #[arg(value_name = "JOB")]
        id: JobIdPrefix,
    },
    /// Run a handler now, without a watcher
    #[command(
        after_help = "Examples:\n  axwatch jobs run notify.log --payload '{\"text\":\"hi\"}' --wait\n  axwatch jobs run ixgest.git --payload @request.json"
    )]
    Run {
        /// The handler: its name, or plugin/name
        handler: String,
        /// What it gets: JSON, or @FILE for the bytes of a file (@- is standard input)
        #[arg(long, value_name = "JSON|@FILE")]
        payload: Option<String>,
        /// Wait until the job has ended
        #[arg(long)]
        wait: bool,
    },
    Dead(Dead),
    Retry(Retry),
    Discard(Discard),
}

/// How long one request waits for the end of a job; then it is asked again.
const WAIT_MS: u64 = 30_000;
/// The same while somebody watches.
const LOOK_MS: u64 = 500;

impl Jobs {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let store = context.config()?.store;
        match self.command {
            Command::Dead(dead) => dead.run(context).await,
            Command::Retry(retry) => retry.run(context).await,
            Command::Discard(discard) => discard.run(context).await,
            Command::List { state, watcher, limit } => {
                let list = List::Jobs { watcher, state };
                list_jobs(&store, &list, limit, &mut context.out).await
            }
            Command::Show { id } => {
                let job = Source::find(&store).await?.job(&id).await?;
                show_job(&mut context.out, &job)
            }
            Command::Run { handler, payload, wait } => {
                let request = request(&handler, payload.as_deref())?;
                let client = need_server(&store).await?;
                let mut job: Job = client.send(Method::POST, "/api/v1/jobs", &request).await?;
                if wait {
                    job = wait_for(&client, job).await?;
                }
                show_job(&mut context.out, &job)?;
                ended_well(&job)
            }
        }
    }
}

async fn list_jobs(store: &Path, list: &List, limit: Limit, out: &mut Output) -> Result<()> {
    let mut lines = Source::find(store).await?.list(list, limit.lines()).await?;
    let mut table = TablePage::new(&[
        "MADE",
        "ORIGIN",
        "WATCHER",
        "HANDLER",
        "PLUGIN",
        "STATE",
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
                origin(&job),
                or_dash(job.watcher),
                job.handler,
                or_dash(job.plugin),
                job.state.to_string(),
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

fn origin(job: &Job) -> String {
    match job.origin {
        axwatch_model::JobOrigin::Fire => "fire".to_owned(),
        axwatch_model::JobOrigin::Api => "api".to_owned(),
    }
}

/// The body of a request to run a handler: JSON is sent as it is, a file as its bytes.
fn request(handler: &str, payload: Option<&str>) -> Result<serde_json::Value> {
    let mut request = json!({ "handler": handler });
    match payload.map(|text| (text, text.strip_prefix('@'))) {
        None => {}
        Some((_, Some(file))) => {
            let bytes = read_file(file)?;
            request["payload_base64"] =
                base64::engine::general_purpose::STANDARD.encode(bytes).into();
        }
        Some((text, None)) => {
            serde_json::from_str::<&RawValue>(text).map_err(|error| {
                Fault::Usage(format!("--payload is not JSON: {error}; @FILE sends a file as it is"))
            })?;
            // As bytes too, so that no digit of a long number is lost on the way.
            request["payload_base64"] =
                base64::engine::general_purpose::STANDARD.encode(text).into();
        }
    }
    Ok(request)
}

fn read_file(file: &str) -> Result<Vec<u8>> {
    if file == "-" {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes)
            .context("cannot read standard input")?;
        return Ok(bytes);
    }
    std::fs::read(file).map_err(|error| Fault::Usage(format!("cannot read {file}: {error}")).into())
}

/// Waits for the end of a job, and shows on a terminal meanwhile how far it is.
async fn wait_for(client: &Client, mut job: Job) -> Result<Job> {
    let spinner = spinner();
    let wait_ms = if spinner.is_hidden() { WAIT_MS } else { LOOK_MS };
    while job.state.is_open() {
        spinner.set_message(under_way(&job));
        let path = with_query(&job_path(job.job_id), &[("wait_ms", Some(wait_ms.to_string()))]);
        job = client.get(&path).await?;
    }
    spinner.finish_and_clear();
    Ok(job)
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

fn under_way(job: &Job) -> String {
    let mut text = format!("{} is {}", job.handler, job.state);
    if job.attempts > 1 {
        text.push_str(&format!(", attempt {}", job.attempts));
    }
    if let Some(progress) = job.progress.filter(|progress| progress.total > 0) {
        text.push_str(&format!(", {} of {}", progress.current, progress.total));
    }
    if let Some(error) = &job.error {
        text.push_str(&format!(" (last: {})", cut(error, 60)));
    }
    text
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

/// One job, whole.
pub fn show_job(out: &mut Output, job: &Job) -> Result<()> {
    if out.json {
        return out.object(job);
    }
    let style = job_style(job.state);
    let text =
        |time: Option<axwatch_model::Timestamp>| time.map(|t| t.to_string()).unwrap_or_default();
    let progress = job.progress.map(|p| format!("{} of {}", p.current, p.total));
    out.fields(&[
        ("job", job.job_id.to_string()),
        ("state", format!("{style}{}{style:#}", job.state)),
        ("handler", job.handler.clone()),
        ("plugin", or_dash(job.plugin.as_ref())),
        ("origin", origin(job)),
        ("watcher", job.watcher.clone().unwrap_or_default()),
        ("attestation", job.attestation_id.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("attempts", job.attempts.to_string()),
        ("made", job.created_at.to_string()),
        ("started", text(job.started_at)),
        ("due", text(job.due_at)),
        ("ended", text(job.completed_at)),
        ("progress", progress.unwrap_or_default()),
        ("cost", job.cost.map(|cost| cost.to_string()).unwrap_or_default()),
        ("error", job.error.clone().unwrap_or_default()),
        ("fingerprint", job.fingerprint.clone().unwrap_or_default()),
        ("result", job.result.as_ref().map(|raw| raw.get().to_owned()).unwrap_or_default()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_or_a_file() {
        let sent = |payload| request("h", payload).map(|request| request.to_string());
        assert_eq!(sent(None).unwrap(), r#"{"handler":"h"}"#);
        assert_eq!(sent(Some("[1]")).unwrap(), r#"{"handler":"h","payload_base64":"WzFd"}"#);
        let error = sent(Some("{")).unwrap_err();
        assert_eq!(crate::fault::exit_code(&error), 2);
        assert!(sent(Some("@/nowhere/at/all")).is_err());
    }
}
