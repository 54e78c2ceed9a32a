//! `axwatch why-not`: why a watcher did not fire for a claim, or which watchers came nearest to one.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use axwatch_model::AttestationId;
use clap::Args;

use super::Context;
use crate::fault::Fault;
use crate::output::{Output, TablePage, cut, job_style, or_dash, quoted};
use crate::source::Source;
use crate::views::{
    Condition, FiredJob, NEAREST_DEFAULT, NEAREST_MAX, Nearest, Present, Verdict, WhyNot,
    when_in_words,
};

const EXAMPLES: &str = "\
Examples:
  axwatch why-not prs AS-ALICE-AUTHOR-GJJE7E959J8S
  axwatch why-not AS-ALICE-AUTHOR-GJJE7E959J8S          the watchers that came nearest
  axwatch why-not prs $(axwatch ax ALICE --limit 1 --json | jq -r .id)

A watcher is asked as it was declared when the claim came, under the aliases of then.";

/// Show why a watcher did not fire for a claim, condition by condition, or that it did
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "axwatch why-not [OPTIONS] [WATCHER] <ATTESTATION>"
)]
pub struct WhyNotCommand {
    /// The watcher (its shown id, or the local id of one of yours) and the claim's id; or the claim's alone
    #[arg(required = true, num_args = 1..=2, value_name = "WATCHER ATTESTATION")]
    ids: Vec<String>,
    /// Without a watcher: at most so many [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=NEAREST_MAX as u64))]
    limit: Option<usize>,
}

impl WhyNotCommand {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let store = context.config()?.store;
        if let Some(claim) = self.ids.last() {
            claim.parse::<AttestationId>().map_err(|error| Fault::Usage(error.to_string()))?;
        }
        match (&self.ids[..], self.limit) {
            ([watcher, claim], None) => {
                let why_not = Source::find(&store).await?.why_not(watcher, claim).await?;
                tell(context, &why_not)
            }
            ([claim], limit) => {
                let limit = limit.unwrap_or(NEAREST_DEFAULT);
                let nearest = Source::find(&store).await?.nearest(claim, limit).await?;
                tell_nearest(context, &nearest)
            }
            _ => {
                let problem = "--limit goes without a watcher: it is how many watchers are told";
                Err(Fault::Usage(problem.to_owned()).into())
            }
        }
    }
}

fn tell(context: &mut Context, why_not: &WhyNot) -> Result<()> {
    if context.out.json {
        return context.out.object(why_not);
    }
    let out = &mut context.out;
    let style = verdict_style(why_not.verdict);
    out.line(&format!("{style}{}{style:#}", in_one_line(&why_not.summary)))?;
    // The sentence has told the first.
    let told = usize::from(!matches!(why_not.verdict, Verdict::Fired | Verdict::DoesNotMatch));
    let yellow = AnsiColor::Yellow.on_default();
    for reason in why_not.reasons.iter().skip(told) {
        out.line(&format!("{yellow}!{yellow:#} {}", in_one_line(&reason.message)))?;
    }
    if let Some(when) = &why_not.when {
        let revision = or_dash(why_not.revision);
        out.heading(&format!("as it was declared then (revision {revision})"))?;
        out.line(&in_one_line(&when_in_words(when)))?;
        conditions(out, &why_not.conditions)?;
    }
    if let Some(present) = &why_not.present {
        tell_present(out, present)?;
    }
    if !why_not.jobs.is_empty() {
        out.heading(if why_not.jobs.len() == 1 { "its job" } else { "its jobs" })?;
        jobs(out, &why_not.jobs)?;
        let why = context.typed(&format!("axwatch why {}", why_not.jobs[0].job_id));
        context.out.note(&format!("`{why}` tells all of a job"))?;
    }
    Ok(())
}

fn tell_present(out: &mut Output, present: &Present) -> Result<()> {
    let says = match present.matches {
        Some(true) => "it would match",
        Some(false) => "it would not match",
        None => "its text is no AX to this axwatch",
    };
    out.heading(&format!("as it is declared now (revision {}) {says}", present.revision))?;
    out.line(&in_one_line(&when_in_words(&present.when)))?;
    conditions(out, &present.conditions)
}

fn verdict_style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Fired => AnsiColor::Green.on_default(),
        Verdict::DoesNotMatch => AnsiColor::Red.on_default(),
        _ => AnsiColor::Yellow.on_default(),
    }
}

/// The last only where there is one.
const TITLES: &[&str] = &["", "CONDITION", "ASKS", "FOR", "THE CLAIM HAS", "BY ALIAS"];

fn conditions(out: &mut Output, conditions: &[Condition]) -> Result<()> {
    let by_alias = conditions.iter().any(|condition| !condition.by_alias.is_empty());
    let titles = if by_alias { TITLES } else { &TITLES[..TITLES.len() - 1] };
    let mut table = TablePage::new(titles);
    for condition in conditions {
        let aliases = condition.by_alias.iter();
        let aliases: Vec<_> = aliases.map(|(own, asked)| format!("{own} is {asked}")).collect();
        let mut cells = vec![
            mark(condition.held).to_owned(),
            condition.field.clone(),
            asks(&condition.rule).to_owned(),
            condition.asked.join(", "),
            or_dash(Some(condition.decided_by.join(", ")).filter(|found| !found.is_empty())),
            aliases.join(", "),
        ];
        cells.truncate(titles.len());
        table.row(held_style(condition.held), cells);
    }
    out.table(&mut table)
}

fn mark(held: bool) -> &'static str {
    if held { "✓" } else { "✗" }
}

fn held_style(held: bool) -> Style {
    let color = if held { AnsiColor::Green } else { AnsiColor::Red };
    color.on_default()
}

/// What a condition asks, as people say it.
fn asks(rule: &str) -> &str {
    match rule {
        "any" => "one of",
        "none" => "none of",
        "not_before" => "not before",
        "not_after" => "not after",
        other => other,
    }
}

fn jobs(out: &mut Output, jobs: &[FiredJob]) -> Result<()> {
    let mut table =
        TablePage::new(&["JOB", "HANDLER", "STATE", "#ATTEMPTS", "FIRED", "ENDED", "ERROR"]);
    for job in jobs {
        let cells = vec![
            job.job_id.to_string(),
            job.handler.clone(),
            job.state.to_string(),
            job.attempts.to_string(),
            job.created_at.to_string(),
            or_dash(job.completed_at),
            job.error.clone().unwrap_or_default(),
        ];
        table.row(job_style(job.state), cells);
    }
    out.table(&mut table)
}

fn tell_nearest(context: &mut Context, found: &Nearest) -> Result<()> {
    let claim = context
        .typed(&format!("axwatch why-not WATCHER {}", quoted(found.attestation_id.as_str())));
    let out = &mut context.out;
    if out.json {
        return out.object(found);
    }
    out.line(&in_one_line(&found.summary))?;
    if found.held_back > 0 {
        let shown = found.held_back_watchers.len() as u64;
        let more = found.held_back - shown;
        let more = if more > 0 { format!(" ({more} more)") } else { String::new() };
        out.heading(&format!("held back by something else than a condition{more}"))?;
        let mut table = TablePage::new(&["WATCHER", "WHY"]);
        for held_back in &found.held_back_watchers {
            let cells = vec![held_back.watcher.clone(), held_back.message.clone()];
            table.row(verdict_style(held_back.verdict), cells);
        }
        out.table(&mut table)?;
    }
    if found.nearest.is_empty() {
        return Ok(());
    }
    out.heading("came nearest")?;
    let mut table = TablePage::new(&["WATCHER", "HELD", "THE FIRST THAT DID NOT HOLD"]);
    for near in &found.nearest {
        let held = format!("{} of {}", near.held, near.held + near.failed);
        table.row(Style::new(), vec![near.watcher.clone(), held, near.message.clone()]);
    }
    out.table(&mut table)?;
    out.note(&format!("`{claim}` tells all conditions of one"))
}

/// Terms may hold anything, and are told to a terminal.
fn in_one_line(text: &str) -> String {
    cut(text, usize::MAX)
}
