//! `axwatch watch test`: what a watcher would have done, before it is turned on.
//!
//! In: its text, and history, some claims, or a file of what is expected. Out: what would have fired, and
//! when; nothing is written and nothing fires. Not here: how a text is tried (`crate::answers`), what a
//! file of expectations looks like ([`expect`]), what CI reads ([`junit`]).

mod expect;
mod junit;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use axwatch_ats::since::Since;
use axwatch_model::{AttestationId, Clock as _, SystemClock};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::answers::AnswerError;
use crate::claim::text_of;
use crate::cli::Context;
use crate::fault::{Fault, InvalidQuery};
use crate::output::{Output, TablePage, counted, cut, or_dash, span};
use crate::source::{Lines, Source, parse};
use crate::views::{
    Change, Condition, Trial, TrialCompare, TrialEnd, TrialLimit, TrialMatch, TrialProgress,
    TrialSummary, TrialVerdict, when_in_words,
};

const EXAMPLES: &str = "\
Examples:
  axwatch watch test 'is author of GitHub'
  axwatch watch test 'is failed where retries > 3 so notify.log' --since yesterday
  axwatch watch test 'is author' --max-fires-per-second 5 --limit 20
  axwatch watch test 'is author by not HR' --compare prs       what the change would gain and lose
  axwatch watch test 'is author' --on AS-ALICE-AUTHOR-GJJE7E959J8S
  axwatch watch test 'is author' --expect cases.txt --junit report.xml

A file of --expect has a line for each claim: its id, and yes or no.";

/// Try a watcher on history: what would have fired, and when; nothing is written, nothing fires
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Test {
    /// What to wait for, in AX; of several words each that holds a blank counts as quoted
    #[arg(required = true, value_name = "AX")]
    words: Vec<String>,
    /// From which claim on: its number, a time such as yesterday or 2024-01-15, or start [default: start]
    #[arg(long, value_name = "WHEN", conflicts_with = "on")]
    since: Option<String>,
    /// Only this claim, with every condition; may be given several times
    #[arg(long, value_name = "ATTESTATION")]
    on: Vec<AttestationId>,
    /// What this limit would have done to each fire; 0 is no limit [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "on")]
    max_fires_per_second: Option<i64>,
    /// Beside this watcher as it is declared now: only what differs is shown
    #[arg(long, value_name = "WATCHER")]
    compare: Option<String>,
    /// Hold it to this file of claims and yes or no; - is standard input
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["since", "on", "max_fires_per_second", "compare", "limit"],
    )]
    expect: Option<PathBuf>,
    /// Write what came of --expect as JUnit XML, for CI
    #[arg(long, value_name = "FILE", requires = "expect")]
    junit: Option<PathBuf>,
    /// Show at most so many, the oldest first; all are counted [default: all]
    #[arg(long, value_name = "N", conflicts_with = "on", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
}

impl Test {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let query = text_of(&self.words);
        if let Some(file) = &self.expect {
            return expect::run(context, &query, file, self.junit.as_deref()).await;
        }
        InvalidQuery::check_watcher(&query)?;
        if let Some(since) = &self.since {
            let now = SystemClock::new().now().wall;
            Since::read(since, now)
                .map_err(|problem| Fault::Usage(format!("--since: {problem}")))?;
        }
        let out = &mut context.out;
        let is_watched = !out.json && std::io::stderr().is_terminal();
        let trial = Trial {
            query,
            since: self.since,
            on: self.on,
            max_fires_per_second: self.max_fires_per_second.unwrap_or(0),
            compare: self.compare,
            limit: self.limit,
            progress: is_watched,
        };
        let source = Source::find(&context.config()?.store).await?;
        let lines = source.try_on_history(&trial).await?;
        match trial.on.is_empty() {
            true => history(&mut context.out, lines).await,
            false => verdicts(&mut context.out, lines).await,
        }
    }
}

/// Shows what would have fired, as it is found.
async fn history(out: &mut Output, mut lines: Lines) -> Result<()> {
    let bar = progress_bar();
    let mut table = Matches::default();
    while let Some(page) = lines.next().await? {
        if out.json {
            page.iter().try_for_each(|line| out.line(line))?;
            out.flush()?;
            continue;
        }
        let mut summary = None;
        for line in &page {
            if line.starts_with(r#"{"progress":"#) {
                let TrialProgress { progress } = parse(line)?;
                bar.set_length(progress.of);
                bar.set_position(progress.claims);
            } else if line.starts_with(r#"{"summary":"#) {
                summary = Some(parse::<TrialEnd>(line)?.summary);
            } else {
                table.add(parse(line)?);
            }
        }
        bar.suspend(|| table.show(out).and_then(|()| out.flush()))?;
        if let Some(summary) = summary {
            bar.finish_and_clear();
            conclude(out, &summary)?;
        }
    }
    Ok(())
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let style =
        ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} claims {elapsed}");
    bar.with_style(style.expect("the template is well-formed"))
}

/// What would have fired, as a table whose columns the first line decides.
#[derive(Default)]
struct Matches {
    table: Option<TablePage>,
}

impl Matches {
    fn add(&mut self, found: TrialMatch<'_>) {
        let titles: &[_] = match (found.change, &found.starts) {
            (Some(_), _) => {
                &["", "#SEQ", "FIRES", "SUBJECTS", "PREDICATES", "CONTEXTS", "ACTORS", "ID"]
            }
            (None, Some(_)) => {
                &["#SEQ", "FIRES", "#WAITS", "SUBJECTS", "PREDICATES", "CONTEXTS", "ACTORS", "ID"]
            }
            (None, None) => {
                &["#SEQ", "FIRES", "SUBJECTS", "PREDICATES", "CONTEXTS", "ACTORS", "ID"]
            }
        };
        let style = match found.change {
            Some(Change::Gained) => AnsiColor::Green.on_default(),
            Some(Change::Lost) => AnsiColor::Red.on_default(),
            None => Style::new(),
        };
        let mut cells = Vec::with_capacity(titles.len());
        cells.extend(found.change.map(|change| mark(change).to_owned()));
        cells.extend([found.seq.to_string(), found.fires_at.to_string()]);
        if let (None, Some(starts)) = (found.change, &found.starts) {
            let waits = starts.iter().map(|start| waits(start.waits_ms));
            cells.push(waits.collect::<Vec<_>>().join(", "));
        }
        let lists = [found.subjects, found.predicates, found.contexts, found.actors];
        cells.extend(lists.map(|terms| terms.join(", ")));
        cells.push(found.id.to_string());
        self.table.get_or_insert_with(|| TablePage::new(titles)).row(style, cells);
    }

    fn show(&mut self, out: &mut Output) -> Result<()> {
        self.table.as_mut().map_or(Ok(()), |table| out.table(table))
    }
}

fn mark(change: Change) -> &'static str {
    match change {
        Change::Gained => "+",
        Change::Lost => "-",
    }
}

/// How long a fire waits, or nothing when it does not.
fn waits(ms: u64) -> String {
    match ms {
        0 => "-".to_owned(),
        ms => span(Duration::from_millis(ms)),
    }
}

/// What came of it all.
fn conclude(out: &mut Output, summary: &TrialSummary) -> Result<()> {
    if summary.shown > 0 {
        out.line("")?;
    }
    out.fields(&[
        ("read", read(summary)),
        ("matches", matched(summary)),
        ("fires", fired(summary)),
        ("busiest", busiest(summary)),
        ("limit", summary.limit.as_ref().map(limited).unwrap_or_default()),
        ("change", summary.compare.as_ref().map(changed).unwrap_or_default()),
    ])?;
    let given = match &summary.compare {
        Some(compare) => compare.gained + compare.lost,
        None => summary.matches,
    };
    if given > summary.shown {
        out.note(&format!("{} of these {given} are shown", summary.shown))?;
    }
    if summary.claims > 0 && summary.matches == 0 {
        out.note("`--on ATTESTATION` shows which condition fails for a claim")?;
    }
    out.note("nothing was written, and nothing fired")
}

fn read(summary: &TrialSummary) -> String {
    let (Some(first_seq), Some(last_seq)) = (summary.first_seq, summary.last_seq) else {
        return "no claims: the log holds none that new".to_owned();
    };
    let (first_at, last_at) = (or_dash(summary.first_at), or_dash(summary.last_at));
    let claims = counted(summary.claims, "claim");
    format!("{claims}, seq {first_seq} to {last_seq}, from {first_at} to {last_at}")
}

fn matched(summary: &TrialSummary) -> String {
    let within = match (summary.first_fires_at, summary.last_fires_at) {
        (Some(first), Some(last)) if last > first => format!(" within {}", span(last.since(first))),
        _ => String::new(),
    };
    format!("{}{within}", summary.matches)
}

fn fired(summary: &TrialSummary) -> String {
    match &summary.handlers[..] {
        [] => format!("{}, one for each match: the text names no handler", summary.fires),
        handlers => format!("{} of {}", summary.fires, handlers.join(", ")),
    }
}

fn busiest(summary: &TrialSummary) -> String {
    let told = |busiest: crate::views::BusiestSecond| {
        format!("{} within a second, from {}", counted(busiest.fires, "fire"), busiest.at)
    };
    summary.busiest_second.map(told).unwrap_or_default()
}

fn limited(limit: &TrialLimit) -> String {
    let rate = limit.max_fires_per_second;
    if limit.waited == 0 {
        return format!("at {rate} a second none would have waited");
    }
    let longest = span(Duration::from_millis(limit.longest_wait_ms));
    format!(
        "at {rate} a second {} would have waited, the longest {longest}, at most {} at once; the last starts {}",
        limit.waited,
        limit.longest_queue,
        or_dash(limit.last_starts_at)
    )
}

fn changed(compare: &TrialCompare) -> String {
    let TrialCompare { watcher, revision, when, gained, lost, both } = compare;
    let when = when_in_words(when);
    format!(
        "beside {watcher} (revision {revision}: {when}) it gains {gained}, loses {lost} and keeps {both}"
    )
}

/// Shows what the text says of some claims.
async fn verdicts(out: &mut Output, mut lines: Lines) -> Result<()> {
    let mut missing = Vec::new();
    while let Some(page) = lines.next().await? {
        for line in &page {
            let verdict: TrialVerdict = parse(line)?;
            if verdict.seq.is_none() {
                missing.push(verdict.id.to_string());
            } else if out.json {
                out.line(line)?;
            } else {
                show_verdict(out, &verdict)?;
            }
        }
        out.flush()?;
    }
    let told = match &missing[..] {
        [] => return Ok(()),
        [one] => format!("there is no attestation {one} in this store"),
        several => format!("there are no attestations {} in this store", several.join(", ")),
    };
    Err(AnswerError::NotFound(told).into())
}

fn show_verdict(out: &mut Output, verdict: &TrialVerdict) -> Result<()> {
    let fires = verdict.fires == Some(true);
    let style = held_style(fires);
    let would = if fires { "would fire" } else { "would not fire" };
    let seq = or_dash(verdict.seq);
    out.line(&format!("{} (seq {seq}) {style}{would}{style:#}", verdict.id))?;
    show_conditions(out, &verdict.conditions)?;
    if let Some(beside) = &verdict.compare {
        let style = held_style(beside.fires);
        let holds = if beside.fires { "holds for it" } else { "does not hold for it" };
        out.line(&format!("  {} {style}{holds}{style:#}", beside.watcher))?;
        show_conditions(out, &beside.conditions)?;
    }
    Ok(())
}

fn show_conditions(out: &mut Output, conditions: &[Condition]) -> Result<()> {
    for condition in conditions {
        let style = held_style(condition.held);
        let held = if condition.held { "yes" } else { "no " };
        out.line(&format!("  {style}{held}{style:#}  {}", told_condition(condition)))?;
    }
    Ok(())
}

/// A condition and what decided it, in one line.
fn told_condition(condition: &Condition) -> String {
    let Condition { field, rule, asked, decided_by, by_alias, .. } = condition;
    let wanted = match (rule.as_str(), listed(asked)) {
        ("any", asked) if condition.asked.len() == 1 => format!("is to be {asked}"),
        ("any", asked) => format!("is to be one of {asked}"),
        ("none", asked) => format!("is to be none of {asked}"),
        ("not_before" | "not_after", asked) if asked.is_empty() => {
            "is to be within a time that is none then".to_owned()
        }
        ("not_before", asked) => format!("is to be {asked} or later"),
        ("not_after", asked) => format!("is to be {asked} or earlier"),
        ("exists", _) => "is to be there".to_owned(),
        ("contains", asked) => format!("is to contain {asked}"),
        (operator, asked) => format!("is to be {operator} {asked}"),
    };
    let found = match decided_by.is_empty() {
        true => "there is none".to_owned(),
        false => format!("it is {}", listed(decided_by)),
    };
    let aliases = by_alias.iter().map(|(own, other)| format!("{own} is one with {other}"));
    let aliases: Vec<_> = aliases.collect();
    let aliases =
        if aliases.is_empty() { String::new() } else { format!(" ({})", listed(&aliases)) };
    format!("{field} {wanted}: {found}{aliases}")
}

/// The first of these texts; there may be hundreds.
fn listed(texts: &[String]) -> String {
    const LISTED_MAX: usize = 8;
    const CHARS_MAX: usize = 80;
    let mut told: Vec<_> = texts.iter().take(LISTED_MAX).map(|text| cut(text, CHARS_MAX)).collect();
    told.extend((texts.len() > LISTED_MAX).then(|| "…".to_owned()));
    told.join(", ")
}

fn held_style(held: bool) -> Style {
    if held { AnsiColor::Green.on_default() } else { AnsiColor::Red.on_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_told_with_what_decided() {
        let told = |field: &str, rule: &str, asked: &[&str], decided_by: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
            told_condition(&Condition {
                field: field.into(),
                rule: rule.into(),
                asked: texts(asked),
                held: true,
                decided_by: texts(decided_by),
                by_alias: Vec::new(),
            })
        };
        // (field, rule, asked, decided by, told)
        let cases: [(_, _, &[_], &[_], _); 9] = [
            ("actor", "any", &["hr"], &["HR"], "actor is to be hr: it is HR"),
            ("subject", "any", &["a", "b"], &["c"], "subject is to be one of a, b: it is c"),
            ("context", "none", &["x"], &["y", "z"], "context is to be none of x: it is y, z"),
            ("timestamp", "not_before", &["t"], &["u"], "timestamp is to be t or later: it is u"),
            ("timestamp", "not_after", &["t"], &["u"], "timestamp is to be t or earlier: it is u"),
            (
                "timestamp",
                "not_after",
                &[],
                &["u"],
                "timestamp is to be within a time that is none then: it is u",
            ),
            ("attributes.n", ">=", &["5"], &["4"], "attributes.n is to be >= 5: it is 4"),
            ("attributes.n", "exists", &[], &[], "attributes.n is to be there: there is none"),
            (
                "attributes.n",
                "contains",
                &["1"],
                &[],
                "attributes.n is to contain 1: there is none",
            ),
        ];
        for (field, rule, asked, decided_by, expected) in cases {
            assert_eq!(told(field, rule, asked, decided_by), expected);
        }
        let condition = Condition {
            field: "context".into(),
            rule: "any".into(),
            asked: (0..20).map(|n| n.to_string()).collect(),
            held: true,
            decided_by: vec!["NY".into()],
            by_alias: vec![("NY".into(), "3".into())],
        };
        let told = told_condition(&condition);
        assert!(told.ends_with("6, 7, …: it is NY (NY is one with 3)"), "{told}");
    }
}
