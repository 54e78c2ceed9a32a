//! `axwatch handler test`: what a handler would do on claims that are there, with nothing of it written.

use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result};
use axwatch_model::{Clock as _, SystemClock};
use clap::Args;
use hyper::Method;

use super::create::Code;
use super::show::printable;
use crate::cli::Context;
use crate::client::{ClientError, JSON, path};
use crate::fault::{Fault, InvalidQuery};
use crate::output::{Output, counted, reader_gone};
use crate::source::{HANDLERS, need_server, parse};
use crate::views::{
    HandlerOutcome, HandlerTestEnd, HandlerTestSummary, HandlerTested, HandlerTrial,
    TESTED_DEFAULT, TESTED_MAX,
};

/// Try a handler on claims that are there: what it would claim is shown, and not written
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch handler test hello --on 'is is_commit' --limit 3
  axwatch handler test hello --on AS-ALICE-AUTHOR-GJJE7E959J8S
  axwatch handler test hello --on 'is is_commit' --file hello.py     # before it is stored
  axwatch handler test hello --on 'is is_commit' --code '_result = 1' --json

The exit code is 1 when it failed on any of them.")]
pub struct Test {
    /// Its name, or plugin.name
    name: String,
    #[command(flatten)]
    code: Code,
    /// The claims: the id of one, or AX that finds some
    #[arg(long, value_name = "ID|AX")]
    on: String,
    /// At most so many of them, the newest first
    #[arg(long, value_name = "N", default_value_t = TESTED_DEFAULT, allow_negative_numbers = true, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=TESTED_MAX as u64))]
    limit: usize,
    /// The decorated function that is to run
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    /// The plugin that runs it, of a name that is not stored yet [default: python]
    #[arg(long, value_name = "PLUGIN")]
    plugin: Option<String>,
}

impl Test {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let trial = HandlerTrial {
            on: self.on,
            limit: Some(self.limit),
            code: self.code.read()?,
            function: self.function,
            plugin: self.plugin,
        };
        let client = need_server(&context.config()?.store).await?;
        let place = path(HANDLERS, &[&self.name, "test"]);
        let body = serde_json::to_vec(&trial)?;
        let lines = client.lines(Method::POST, &place, JSON, body.into()).await;
        let mut lines = lines.map_err(|error| readable(error, &trial.on))?;
        let mut last = None;
        let mut gone = std::pin::pin!(reader_gone());
        loop {
            let page = tokio::select! {
                page = lines.next() => page?,
                gone = &mut gone => return gone,
            };
            let Some(page) = page else { break };
            for line in &page {
                if let Ok(HandlerTestEnd { summary }) = parse(line) {
                    last = Some(summary);
                }
                match last {
                    _ if context.out.json => context.out.line(line)?,
                    Some(summary) => end(&mut context.out, summary)?,
                    None => show(&mut context.out, &parse(line)?)?,
                }
            }
            context.out.flush()?;
        }
        let summary = last.context("the server's answer has no end")?;
        match summary.failed {
            0 => Ok(()),
            // All of it has been told.
            _ => Err(Fault::NotOk.into()),
        }
    }
}

/// The same error, with the mistakes of AX shown where they are.
fn readable(error: ClientError, on: &str) -> anyhow::Error {
    let is_ax = matches!(&error, ClientError::Server(refusal) if refusal.kind == "ax");
    match InvalidQuery::check_question(on, SystemClock::new().now().wall) {
        Err(mistakes) if is_ax => mistakes.into(),
        _ => error.into(),
    }
}

fn end(out: &mut Output, summary: HandlerTestSummary) -> Result<()> {
    let HandlerTestSummary { tested, failed } = summary;
    let tried = counted(tested, "claim");
    out.note(&match failed {
        0 => format!("went well on {tried}; nothing of it was written"),
        failed => format!("failed on {failed} of {tried}; nothing of it was written"),
    })
}

/// What it did on one claim.
fn show(out: &mut Output, tested: &HandlerTested) -> Result<()> {
    let HandlerTested { attestation_id, outcome, .. } = tested;
    let (style, state) = match (outcome.ok, outcome.permanent) {
        (true, _) => (AnsiColor::Green.on_default(), "went well"),
        (false, false) => (AnsiColor::Red.on_default(), "failed"),
        (false, true) => (AnsiColor::Red.on_default(), "failed for good"),
    };
    out.line(&format!(
        "{attestation_id} {style}{state}{style:#} in {:.1} ms",
        outcome.duration_ms
    ))?;
    for (what, text) in parts(outcome) {
        let dim = Style::new().dimmed();
        let text = printable(text.trim_end()).replace('\n', &format!("\n{}", " ".repeat(17)));
        out.line(&format!("  {dim}{what:<13}{dim:#}  {text}"))?;
    }
    Ok(())
}

/// What of it is worth a line.
fn parts(outcome: &HandlerOutcome) -> Vec<(&'static str, String)> {
    let mut parts = Vec::new();
    parts.extend(outcome.result.as_ref().map(|result| ("result", result.get().to_owned())));
    parts.extend(outcome.attested.iter().map(|claim| ("would claim", claim.get().to_owned())));
    let said = [("prints", &outcome.stdout), ("prints errors", &outcome.stderr)];
    parts.extend(said.into_iter().map(|(what, text)| (what, text.clone())));
    let log = outcome.log.iter().map(|line| ("logs", format!("{}: {}", line.level, line.message)));
    parts.extend(log);
    parts.extend(outcome.error.as_ref().map(|error| ("error", error.clone())));
    parts.retain(|(_, text)| !text.trim().is_empty());
    parts
}
