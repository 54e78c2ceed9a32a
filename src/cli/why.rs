//! `axwatch why`: from a job back to its cause, and on to what came of it.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use axwatch_model::JobIdPrefix;
use clap::Args;
use serde::Deserialize;

use super::Context;
use super::ax::{add_claim, claims_table};
use super::jobs::show_job;
use crate::output::{Output, TablePage, cut, or_dash};
use crate::source::{Source, parse};
use crate::views;

const EXAMPLES: &str = "\
Examples:
  axwatch why 3ea27c14d1c994b3bc463569ba5fdcae
  axwatch why 3ea27c
  axwatch why $(axwatch fires --limit 1 --json | jq -r .job_id) --json

Of a fire that there is not, `axwatch why-not WATCHER ATTESTATION` tells why. All that led to a job, and
all that came of it, is a tree: `axwatch trace JOB`.";

/// Show why a job ran: the claim, the watcher as it then was, each attempt, the claims it made
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Why {
    /// The job's id, as `axwatch fires` shows it, or as much of it as no other begins with
    #[arg(value_name = "JOB")]
    id: JobIdPrefix,
}

impl Why {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let why = Source::find(&context.config()?.store).await?.why(&self.id).await?;
        let out = &mut context.out;
        if out.json {
            return out.object(&why);
        }
        show_job(out, &why.job)?;
        if !why.reasons.is_empty() {
            out.heading("why it is where it is")?;
            let yellow = AnsiColor::Yellow.on_default();
            for reason in &why.reasons {
                let message = cut(&reason.message, usize::MAX);
                out.line(&format!("{yellow}!{yellow:#} {message}"))?;
            }
        }
        if let Some(claim) = &why.attestation {
            out.heading("because of this claim")?;
            claims(out, std::slice::from_ref(claim))?;
        }
        if let Some(watcher) = &why.watcher {
            out.heading("which this watcher waited for")?;
            revision(out, watcher)?;
        }
        out.heading(if why.attempts.is_empty() { "no attempts so far" } else { "attempts" })?;
        attempts(out, &why.attempts)?;
        if !why.records.is_empty() {
            out.heading("what else the audit says")?;
            records(out, &why.records)?;
        }
        out.heading(if why.made.is_empty() {
            "it made no claims"
        } else {
            "it made these claims"
        })?;
        claims(out, &why.made)?;
        match why.made_in_all - why.made.len() as u64 {
            0 => Ok(()),
            more => out.note(&format!("… and {more} more")),
        }
    }
}

fn claims(out: &mut Output, claims: &[Box<serde_json::value::RawValue>]) -> Result<()> {
    let mut table = claims_table();
    for claim in claims {
        add_claim(&mut table, claim.get())?;
    }
    out.table(&mut table)
}

fn revision(out: &mut Output, watcher: &views::Revision) -> Result<()> {
    let source = watcher.leaf.map(|leaf| format!("audit record {leaf}"));
    let when = watcher.when.as_deref().map(views::when_in_words);
    out.fields(&[
        ("watcher", watcher.id.clone()),
        ("revision", watcher.revision.to_string()),
        ("generation", watcher.generation.to_string()),
        ("when", when.unwrap_or_else(|| "not known any more".to_owned())),
        ("handlers", watcher.handlers.join("\n")),
        (
            "at most",
            watcher.max_fires_per_second.map(|n| format!("{n} a second")).unwrap_or_default(),
        ),
        ("declared", watcher.declared_at.map(|at| at.to_string()).unwrap_or_default()),
        ("said by", source.unwrap_or_default()),
    ])
}

fn attempts(out: &mut Output, attempts: &[views::Attempt]) -> Result<()> {
    let mut table = TablePage::new(&[
        "#ATTEMPT", "STARTED", "ENDED", "OUTCOME", "PLUGIN", "#PROCESS", "NEXT", "REASON",
    ]);
    for attempt in attempts {
        let style = match attempt.outcome.as_deref() {
            Some("succeeded") => AnsiColor::Green.on_default(),
            Some("failed") => AnsiColor::Red.on_default(),
            Some(_) => AnsiColor::Yellow.on_default(),
            None => AnsiColor::Cyan.on_default(),
        };
        let cells = vec![
            attempt.attempt.to_string(),
            or_dash(attempt.started_at),
            or_dash(attempt.ended_at),
            attempt.outcome.clone().unwrap_or_else(|| "under way".to_owned()),
            or_dash(attempt.plugin.as_ref()),
            or_dash(attempt.incarnation),
            or_dash(attempt.next_at),
            attempt.reason.clone().unwrap_or_default(),
        ];
        table.row(style, cells);
    }
    out.table(&mut table)
}

/// What a table shows of any record.
#[derive(Deserialize)]
struct Shown {
    leaf: u64,
    at: Option<String>,
    r#type: Option<String>,
    reason: Option<String>,
}

fn records(out: &mut Output, records: &[Box<serde_json::value::RawValue>]) -> Result<()> {
    let mut table = TablePage::new(&["#RECORD", "AT", "WHAT", "REASON"]);
    for record in records {
        let shown: Shown = parse(record.get())?;
        let cells = vec![
            shown.leaf.to_string(),
            or_dash(shown.at),
            or_dash(shown.r#type),
            shown.reason.unwrap_or_default(),
        ];
        table.row(Style::new(), cells);
    }
    out.table(&mut table)
}
