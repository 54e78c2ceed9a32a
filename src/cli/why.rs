//! `axwatch why`: from a job back to its cause, and on to what came of it.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use axwatch_model::JobIdPrefix;
use clap::Args;
use serde::Deserialize;

use super::Context;
use super::ax::{add_claim, claims_table};
use super::jobs::{asked_for, show_job};
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
        if why.job.by.is_some() {
            out.heading(match why.job.nominal {
                Some(_) => "because its schedule said so",
                None => "because somebody asked for it",
            })?;
            out.line(&asked_for(&why.job))?;
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
            records(out, &why.records, why.job.schedule.as_deref())?;
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
    let is_stored = attempts.iter().any(|attempt| attempt.handler_version.is_some());
    let mut table = TablePage::new(match is_stored {
        false => {
            &["#ATTEMPT", "STARTED", "ENDED", "OUTCOME", "PLUGIN", "#PROCESS", "NEXT", "REASON"]
        }
        true => &[
            "#ATTEMPT", "STARTED", "ENDED", "OUTCOME", "PLUGIN", "#PROCESS", "#VERSION", "CODE",
            "NEXT", "REASON",
        ],
    });
    for attempt in attempts {
        let style = match attempt.outcome.as_deref() {
            Some("succeeded") => AnsiColor::Green.on_default(),
            Some("failed") => AnsiColor::Red.on_default(),
            Some(_) => AnsiColor::Yellow.on_default(),
            None => AnsiColor::Cyan.on_default(),
        };
        let mut cells = vec![
            attempt.attempt.to_string(),
            or_dash(attempt.started_at),
            or_dash(attempt.ended_at),
            attempt.outcome.clone().unwrap_or_else(|| "under way".to_owned()),
            or_dash(attempt.plugin.as_ref()),
            or_dash(attempt.incarnation),
        ];
        if is_stored {
            cells.push(or_dash(attempt.handler_number));
            cells.push(or_dash(attempt.handler_version.as_ref()));
        }
        cells.push(or_dash(attempt.next_at));
        cells.push(attempt.reason.clone().unwrap_or_default());
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
    by: Option<String>,
    schedule: Option<String>,
    nominal: Option<String>,
    parent: Option<String>,
    budget: Option<String>,
    limit: Option<String>,
    until: Option<String>,
}

impl Shown {
    /// What it says besides what happened.
    fn told(&self) -> String {
        let by = self.by.as_ref().map(|by| match &self.schedule {
            // What it is a run of is told next.
            Some(_) if by == "schedule" => "by a schedule".to_owned(),
            _ => format!("by {by}"),
        });
        let schedule = self.schedule.as_ref().map(|schedule| match &self.nominal {
            Some(nominal) => format!("a run of {schedule} for {nominal}"),
            None => format!("a run of {schedule} besides its times"),
        });
        let parent = self.parent.as_ref().map(|parent| format!("as a part of {parent}"));
        let limit = self.limit.as_deref().unwrap_or_default();
        let budget = self.budget.as_ref().map(|budget| format!("budget {limit} of {budget}"));
        let until = self.until.as_ref().map(|until| format!("until {until}"));
        let said = [by, schedule, parent, budget, until, self.reason.clone()];
        said.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

fn records(
    out: &mut Output,
    records: &[Box<serde_json::value::RawValue>],
    schedule: Option<&str>,
) -> Result<()> {
    let mut table = TablePage::new(&["#RECORD", "AT", "WHAT", "SAYS"]);
    for record in records {
        let mut shown: Shown = parse(record.get())?;
        // The record has its id.
        shown.schedule = shown.schedule.and(schedule.map(str::to_owned));
        let told = shown.told();
        let cells = vec![shown.leaf.to_string(), or_dash(shown.at), or_dash(shown.r#type), told];
        table.row(Style::new(), cells);
    }
    out.table(&mut table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_told_with_what_it_says() {
        let told = |json: &str| serde_json::from_str::<Shown>(json).unwrap().told();
        let cases = [
            (r#"{"leaf":1,"type":"job_created","by":"user"}"#, "by user"),
            (
                r#"{"leaf":1,"by":"schedule","schedule":"nightly","nominal":"2024-01-16T00:00:00Z"}"#,
                "by a schedule, a run of nightly for 2024-01-16T00:00:00Z",
            ),
            (
                r#"{"leaf":1,"by":"user","schedule":"nightly"}"#,
                "by user, a run of nightly besides its times",
            ),
            (r#"{"leaf":1,"by":"git","parent":"3ea2"}"#, "by git, as a part of 3ea2"),
            (
                r#"{"leaf":1,"budget":"*","limit":"per_day","until":"2024-01-16T00:00:00Z"}"#,
                "budget per_day of *, until 2024-01-16T00:00:00Z",
            ),
            (r#"{"leaf":1,"reason":"no route"}"#, "no route"),
            (r#"{"leaf":1,"from":7,"seq":8}"#, ""),
        ];
        for (json, expected) in cases {
            assert_eq!(told(json), expected, "{json}");
        }
    }
}
