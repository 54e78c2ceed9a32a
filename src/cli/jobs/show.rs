//! One job as people see it: whole, or in a sentence.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use axwatch_model::{JobState, Timestamp};

use super::state_of;
use crate::output::{Output, counted, cut, job_style, or_dash};
use crate::views::{Job, JobLog, RanVersion, Tree};

/// Log entries that are shown; `--json` has all.
const LOG_SHOWN: usize = 20;

/// One job, whole.
pub fn show_job(out: &mut Output, job: &Job) -> Result<()> {
    if out.json {
        return out.object(job);
    }
    let style = job_style(job.state);
    let time = |time: Option<Timestamp>| time.map(|t| t.to_string()).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let progress = job.progress.map(|p| format!("{} of {}", p.current, p.total));
    let cost = match (job.cost, job.cost_estimate) {
        (Some(cost), Some(estimate)) => format!("{cost} (estimated {estimate})"),
        (Some(cost), None) => cost.to_string(),
        (None, Some(estimate)) => format!("estimated {estimate}"),
        (None, None) => String::new(),
    };
    let priority = job.priority.filter(|priority| *priority != 0);
    let (yellow, waits) = (AnsiColor::Yellow.on_default(), job.waits.as_ref());
    out.fields(&[
        ("job", job.job_id.to_string()),
        ("state", format!("{style}{}{style:#}", job.state)),
        ("handler", job.handler.clone()),
        ("plugin", or_dash(job.plugin.as_ref())),
        ("version", job.handler_versions.as_deref().map(versions).unwrap_or_default()),
        ("origin", job.origin.to_string()),
        ("asked for", asked_for(job)),
        ("source", text(&job.source)),
        ("priority", priority.map(|priority| priority.to_string()).unwrap_or_default()),
        ("part of", job.parent.map(|parent| parent.to_string()).unwrap_or_default()),
        ("watcher", text(&job.watcher)),
        ("attestation", job.attestation_id.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("ahead", job.ahead.map(|ahead| counted(ahead, "job")).unwrap_or_default()),
        ("waits", waits.map(|w| format!("{yellow}{}{yellow:#}", w.message)).unwrap_or_default()),
        ("attempts", job.attempts.to_string()),
        ("made", job.created_at.to_string()),
        ("started", time(job.started_at)),
        ("due", time(job.due_at)),
        ("ended", time(job.completed_at)),
        ("progress", progress.unwrap_or_default()),
        ("cost", cost),
        ("error", text(&job.error)),
        ("fingerprint", text(&job.fingerprint)),
        ("result", job.result.as_ref().map(|raw| raw.get().to_owned()).unwrap_or_default()),
    ])?;
    if let Some(tree) = &job.tree {
        show_tree(out, tree)?;
    }
    show_log(out, job.log.as_deref().unwrap_or_default())
}

/// The versions that attempts ran: once when they are all the same.
fn versions(ran: &[RanVersion]) -> String {
    let told = |one: &RanVersion| match one.number {
        Some(number) => format!("{number}: claim {}", one.version),
        None => format!("claim {}", one.version),
    };
    let are_one = ran.windows(2).all(|two| two[0].version == two[1].version);
    let lines = ran.iter().map(|one| match are_one {
        true => told(one),
        false => format!("{}, in attempt {}", told(one), one.attempt),
    });
    lines.take(if are_one { 1 } else { ran.len() }).collect::<Vec<_>>().join("\n")
}

/// Who asked for a job, and when that was to be.
pub fn asked_for(job: &Job) -> String {
    let by = job.by.as_deref().unwrap_or_default();
    match (&job.schedule, job.nominal) {
        (Some(schedule), Some(nominal)) => format!("by schedule {schedule}, for {nominal}"),
        (Some(schedule), None) => {
            format!("by {by}, as a run of schedule {schedule} besides its times")
        }
        (None, _) if by.is_empty() => String::new(),
        (None, _) => format!("by {by}"),
    }
}

fn show_tree(out: &mut Output, tree: &Tree) -> Result<()> {
    out.heading("what it is a part of, and what is a part of it")?;
    for job in &tree.jobs {
        let (style, dim) = (job_style(job.state), Style::new().dimmed());
        let bold = if job.is_asked { Style::new().bold() } else { Style::new() };
        let indent = "  ".repeat(usize::try_from(job.depth).unwrap_or(0));
        let state = state_of(job.state, job.progress);
        let cost = job.cost.map(|cost| format!("  cost {cost}")).unwrap_or_default();
        let this = if job.is_asked { "  <- this job" } else { "" };
        out.line(&format!(
            "{indent}{bold}{}{bold:#}  {style}{state}{style:#}  {}{cost}{dim}{this}{dim:#}",
            job.job_id, job.handler
        ))?;
    }
    match tree.left_out {
        0 => Ok(()),
        more => out.note(&format!(
            "… and at least {} more; `axwatch jobs list --parent JOB` lists those of each",
            counted(more, "job")
        )),
    }
}

fn show_log(out: &mut Output, log: &[JobLog]) -> Result<()> {
    if log.is_empty() {
        return Ok(());
    }
    out.heading("its log")?;
    let earlier = log.len().saturating_sub(LOG_SHOWN);
    if earlier > 0 {
        out.note(&format!("{earlier} earlier entries are left out; --json has all"))?;
    }
    log.iter().skip(earlier).try_for_each(|entry| out.line(&log_line(entry)))
}

/// An entry of a job's log on one line.
pub fn log_line(entry: &JobLog) -> String {
    let style = match &*entry.level.to_lowercase() {
        "error" => AnsiColor::Red.on_default(),
        "warn" | "warning" => AnsiColor::Yellow.on_default(),
        "debug" | "trace" => Style::new().dimmed(),
        _ => Style::new(),
    };
    let dim = Style::new().dimmed();
    let stage = match &*entry.stage {
        "" => String::new(),
        stage => format!(" {}:", cut(stage, 60)),
    };
    format!(
        "{dim}{}{dim:#} {style}{:<5}{stage} {}{style:#}",
        entry.at,
        cut(&entry.level, 10),
        cut(&entry.message, usize::MAX)
    )
}

/// What has become of a job and those below it, in a sentence.
pub fn told(out: &mut Output, job: &Job) -> Result<()> {
    if out.json {
        return out.object(job);
    }
    let style = job_style(job.state);
    // What somebody paused needs no more words.
    let waits = job.waits.as_ref().filter(|waits| waits.reason != "paused");
    let waits = waits.map(|waits| format!(": {}", waits.message)).unwrap_or_default();
    let below = of_those_below(job);
    out.line(&format!("{} is {style}{}{style:#}{waits}{below}", job.job_id, job.state))
}

fn of_those_below(job: &Job) -> String {
    let Some(below) = job.below else { return String::new() };
    let least = if below.at_least { "at least " } else { "" };
    if below.cancelled > 0 {
        let jobs = counted(below.cancelled, "open job");
        return match job.state {
            JobState::Cancelled => format!(", and {least}{jobs} below it with it"),
            // It had ended before; what was open below it is what there was to cancel.
            _ => format!(" as before, and {least}{jobs} below it cancelled"),
        };
    }
    if below.open == 0 {
        return String::new();
    }
    let jobs = counted(below.open, "open job");
    match job.state {
        JobState::Paused => format!("; {least}{jobs} below it: each goes on"),
        _ => format!("; {least}{jobs} below it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::Below;

    fn job(json: serde_json::Value) -> Job {
        let mut whole = serde_json::json!({
            "job_id": "3ea27c14d1c994b3bc463569ba5fdcae", "origin": "api", "handler": "zoo/work",
            "state": "queued", "attempts": 0, "created_at": "2024-01-15T14:30:00Z", "entries": 0,
        });
        let all = whole.as_object_mut().unwrap();
        all.extend(json.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn who_asked_for_a_job_is_told() {
        let cases = [
            (serde_json::json!({}), ""),
            (serde_json::json!({ "by": "user" }), "by user"),
            (
                serde_json::json!({ "by": "schedule", "schedule": "nightly", "nominal": "2024-01-15T02:00:00Z" }),
                "by schedule nightly, for 2024-01-15T02:00:00Z",
            ),
            (
                serde_json::json!({ "by": "user", "schedule": "git/poll" }),
                "by user, as a run of schedule git/poll besides its times",
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(asked_for(&job(json)), expected);
        }
    }

    #[test]
    fn the_version_of_each_attempt_is_told() {
        let ran = |attempt, version: &str, number| RanVersion {
            attempt,
            version: version.parse().unwrap(),
            number,
        };
        let (first, second) = (ran(1, "AS-1", Some(1)), ran(2, "AS-2", None));
        assert_eq!(versions(&[first.clone(), ran(2, "AS-1", Some(1))]), "1: claim AS-1");
        let both = "1: claim AS-1, in attempt 1\nclaim AS-2, in attempt 2";
        assert_eq!(versions(&[first, second]), both);
    }

    #[test]
    fn what_became_of_those_below_is_told() {
        let below = |cancelled, open, at_least| Some(Below { cancelled, open, at_least });
        // (state, those below, the rest of the sentence)
        let cases = [
            ("cancelled", below(0, 0, false), ""),
            ("cancelled", below(1, 0, false), ", and 1 open job below it with it"),
            ("completed", below(2, 0, false), " as before, and 2 open jobs below it cancelled"),
            ("cancelled", below(3, 0, true), ", and at least 3 open jobs below it with it"),
            ("paused", below(0, 2, false), "; 2 open jobs below it: each goes on"),
            ("queued", below(0, 2, false), "; 2 open jobs below it"),
            ("queued", None, ""),
        ];
        for (state, below, expected) in cases {
            let job = Job { below, ..job(serde_json::json!({ "state": state })) };
            assert_eq!(of_those_below(&job), expected);
        }
    }
}
