//! `axwatch jobs run`: a handler's work, asked for by a person.

use anyhow::{Context as _, Result};
use axwatch_model::JobIdPrefix;
use axwatch_model::bounds::{JOB_SOURCE_BYTES_MAX, PRIORITY_MAX};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use hyper::Method;
use serde_json::json;
use serde_json::value::RawValue;

use super::{LOOK_MS, WAIT_MS, ended_well, show_job, spinner, watch};
use crate::cli::Context;
use crate::client::{Client, job_path, with_query};
use crate::fault::Fault;
use crate::source::need_server;
use crate::views::Job;

/// Run a handler now, without a watcher
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch jobs run notify.log --payload '{\"text\":\"hi\"}' --wait
  axwatch jobs run ixgest.git --payload @request.json --watch
  echo '{}' | axwatch jobs run ixgest.git --payload - --source nightly --priority 5")]
pub struct Run {
    /// The handler: its name, or plugin/name
    handler: String,
    /// What it gets: JSON, or @FILE for the bytes of a file, or - for those of standard input
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    payload: Option<String>,
    /// From -10 to 10: one more is worth ten minutes of waiting
    #[arg(long, value_name = "N", value_parser = priority, allow_negative_numbers = true, default_value_t = 0)]
    priority: i8,
    /// What you know it by: while a job of this handler with the same is open, this is that job
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// The job that it is a part of, and is cancelled with
    #[arg(long, value_name = "JOB")]
    parent: Option<JobIdPrefix>,
    /// What it may cost, for budgets
    #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true)]
    cost_estimate: Option<f64>,
    /// Wait until the job has ended
    #[arg(long)]
    wait: bool,
    /// Show how it goes on, until it has ended
    #[arg(long, conflicts_with = "wait")]
    watch: bool,
}

impl Run {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let request = self.request()?;
        let client = need_server(&context.config()?.store).await?;
        let mut job: Job = client.send(Method::POST, "/api/v1/jobs", &request).await?;
        if job.deduplicated == Some(true) {
            let known = self.source.as_deref().unwrap_or_default();
            context
                .out
                .note(&format!("a job with source {known:?} is open already: this is it"))?;
        }
        if self.watch {
            return watch::watch(&client, &job.job_id.to_string(), &mut context.out).await;
        }
        if self.wait {
            job = wait_for(&client, job).await?;
        }
        show_job(&mut context.out, &job)?;
        ended_well(&job)
    }

    fn request(&self) -> Result<serde_json::Value> {
        let is_amount = |cost: f64| cost.is_finite() && cost >= 0.0;
        if self.cost_estimate.is_some_and(|cost| !is_amount(cost)) {
            let told = "--cost-estimate is no amount; say a number that is not under 0";
            return Err(Fault::Usage(told.to_owned()).into());
        }
        let bytes = self.source.as_ref().map_or(0, String::len);
        if bytes > JOB_SOURCE_BYTES_MAX {
            let told = format!("--source has {bytes} bytes; at most {JOB_SOURCE_BYTES_MAX} may be");
            return Err(Fault::Usage(told).into());
        }
        let mut request = json!({ "handler": self.handler, "priority": self.priority });
        let mut add = |key: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                request[key] = value;
            }
        };
        // As bytes, so that no digit of a long number is lost on the way.
        let payload = self.payload.as_deref().map(payload_of).transpose()?;
        add("payload_base64", payload.map(|bytes| STANDARD.encode(bytes).into()));
        add("source", self.source.clone().map(Into::into));
        add("parent", self.parent.as_ref().map(|parent| parent.to_string().into()));
        add("cost_estimate", self.cost_estimate.map(Into::into));
        Ok(request)
    }
}

fn priority(text: &str) -> Result<i8, String> {
    let read = text.parse().ok().filter(|n| (-PRIORITY_MAX..=PRIORITY_MAX).contains(n));
    read.ok_or_else(|| "it must be a whole number from -10 to 10".to_owned())
}

/// The bytes that `--payload` means.
///
/// # Errors
/// [`Fault::Usage`] for what is neither JSON nor a file.
pub fn payload_of(text: &str) -> Result<Vec<u8>> {
    match text.strip_prefix('@') {
        Some("-") => read_input(),
        None if text == "-" => read_input(),
        Some(file) => std::fs::read(file)
            .map_err(|error| Fault::Usage(format!("cannot read {file}: {error}")).into()),
        None => {
            serde_json::from_str::<&RawValue>(text).map_err(|error| {
                Fault::Usage(format!("--payload is not JSON: {error}; @FILE sends a file as it is"))
            })?;
            Ok(text.as_bytes().to_owned())
        }
    }
}

fn read_input() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::stdin(), &mut bytes)
        .context("cannot read standard input")?;
    Ok(bytes)
}

/// Waits for the end of a job, and shows on a terminal meanwhile how far it is.
async fn wait_for(client: &Client, mut job: Job) -> Result<Job> {
    let (spinner, deduplicated) = (spinner(), job.deduplicated);
    let wait_ms = if spinner.is_hidden() { WAIT_MS } else { LOOK_MS };
    while job.state.is_open() {
        spinner.set_message(under_way(&job));
        let path = with_query(&job_path(job.job_id), &[("wait_ms", Some(wait_ms.to_string()))]);
        job = client.get(&path).await?;
    }
    spinner.finish_and_clear();
    Ok(Job { deduplicated, ..job })
}

fn under_way(job: &Job) -> String {
    let mut text = watch::in_words(job);
    if let Some(progress) = job.progress.filter(|progress| progress.total > 0) {
        text.push_str(&format!(", {} of {}", progress.current, progress.total));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(payload: Option<&str>) -> Run {
        Run {
            handler: "h".to_owned(),
            payload: payload.map(str::to_owned),
            priority: 0,
            source: None,
            parent: None,
            cost_estimate: None,
            wait: false,
            watch: false,
        }
    }

    #[test]
    fn a_payload_is_json_or_a_file() {
        let sent = |payload| run(payload).request().map(|request| request.to_string());
        assert_eq!(sent(None).unwrap(), r#"{"handler":"h","priority":0}"#);
        let list = r#"{"handler":"h","payload_base64":"WzFd","priority":0}"#;
        assert_eq!(sent(Some("[1]")).unwrap(), list);
        let error = sent(Some("{")).unwrap_err();
        assert_eq!(crate::fault::exit_code(&error), 2);
        assert!(sent(Some("@/nowhere/at/all")).is_err());
    }

    #[test]
    fn an_estimate_is_an_amount() {
        for (cost, is_one) in [(0.0, true), (2.5, true), (-1.0, false), (f64::NAN, false)] {
            let asked = Run { cost_estimate: Some(cost), ..run(None) };
            assert_eq!(asked.request().is_ok(), is_one, "{cost}");
        }
    }
}
