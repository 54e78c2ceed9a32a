//! `axwatch jobs watch`: a job as it goes on, until it has ended.
//!
//! On a terminal a bar shows how far it is, how fast it goes and how long the rest takes, with what the job
//! says above it; elsewhere each is a line of its own, and of its progress as many as there are percents.

use std::pin::pin;
use std::time::Duration;

use anyhow::Result;
use axwatch_model::{JobState, Timestamp};
use bytes::Bytes;
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};

use super::show::log_line;
use super::{ended_well, show_job, spinner};
use crate::client::{Client, JSON, job_path, path};
use crate::fault::Fault;
use crate::output::{Output, cut, reader_gone, span};
use crate::source::parse;
use crate::views::{Job, JobProgress, Progress};

/// Follows a job until it has ended, shows it then, and fails as it did.
pub async fn watch(client: &Client, id: &str, out: &mut Output) -> Result<()> {
    let place = path(&job_path(id), &["events"]);
    let mut lines = client.lines(Method::GET, &place, JSON, Bytes::new()).await?;
    let mut watching = Watching { bar: bar(out), last_percent: None, job: None };
    let mut event = String::new();
    let mut gone = pin!(reader_gone());
    loop {
        let page = tokio::select! {
            page = lines.next() => page?,
            gone = &mut gone => return gone,
        };
        let Some(page) = page else { break };
        for line in page {
            if let Some(kind) = line.strip_prefix("event: ") {
                kind.clone_into(&mut event);
            } else if let Some(data) = line.strip_prefix("data: ") {
                watching.tell(out, &event, data)?;
            }
        }
        out.flush()?;
    }
    watching.bar.finish_and_clear();
    let ended = watching.job.filter(|job| !job.state.is_open());
    let Some(job) = ended else {
        let told = format!(
            "the server has stopped, and job {id} has not ended; watch it again once it runs"
        );
        return Err(Fault::Refused(told).into());
    };
    if !out.json {
        show_job(out, &job)?;
    }
    ended_well(&job)
}

/// What shows how far it is, where somebody sees it.
fn bar(out: &Output) -> ProgressBar {
    if out.json { ProgressBar::hidden() } else { spinner() }
}

struct Watching {
    bar: ProgressBar,
    last_percent: Option<Option<u8>>,
    job: Option<Job>,
}

impl Watching {
    fn tell(&mut self, out: &mut Output, event: &str, data: &str) -> Result<()> {
        if event == "error" {
            // What the server could not go on for, in its own words.
            let refusal: crate::client::RefusalJson = parse(data)?;
            return Err(crate::client::ClientError::Server(refusal.error).into());
        }
        if out.json {
            out.line(&format!("{{\"{event}\":{data}}}"))?;
        }
        match event {
            "job" => self.is_now(out, parse(data)?),
            "log" if !out.json => self.line(out, &log_line(&parse(data)?)),
            "progress" if !out.json => self.has_come(out, &parse(data)?),
            _ => Ok(()),
        }
    }

    /// A line above the bar, or where there is none on standard output.
    fn line(&self, out: &mut Output, text: &str) -> Result<()> {
        if self.bar.is_hidden() {
            return out.line(text);
        }
        self.bar.suspend(|| out.line(text).and_then(|()| out.flush()))
    }

    fn is_now(&mut self, out: &mut Output, job: Job) -> Result<()> {
        let text = in_words(&job);
        self.bar.set_message(text.clone());
        self.last_percent = None;
        if !out.json && self.bar.is_hidden() {
            out.line(&format!("{} {text}", moment(&job)))?;
        }
        self.job = Some(job);
        Ok(())
    }

    fn has_come(&mut self, out: &mut Output, told: &JobProgress) -> Result<()> {
        let text = how_far(told);
        if self.bar.is_hidden() {
            let percent = told.progress().and_then(Progress::percent);
            if percent.is_some() && self.last_percent == Some(percent) {
                return Ok(());
            }
            self.last_percent = Some(percent);
            let at = told.at.map_or_else(|| "so far:".to_owned(), |at| at.to_string());
            return out.line(&format!("{at} {text}"));
        }
        if let Some(progress) = told.progress().filter(|progress| progress.total > 0) {
            let (of, done) = (progress.total.unsigned_abs(), progress.current.unsigned_abs());
            self.bar.set_style(bar_style());
            self.bar.set_length(u64::from(of));
            self.bar.set_position(u64::from(done.min(of)));
        }
        self.bar.set_message(text);
        Ok(())
    }
}

fn bar_style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{spinner} {bar:30} {percent}% {msg} {elapsed}");
    style.expect("the template is well-formed").progress_chars("=> ")
}

/// When a job came to be as it is.
fn moment(job: &Job) -> Timestamp {
    match job.state {
        JobState::Running => job.started_at.unwrap_or(job.created_at),
        _ => job.completed_at.unwrap_or(job.created_at),
    }
}

/// What a job is doing, or waits for.
pub fn in_words(job: &Job) -> String {
    let mut text = format!("{} is {}", job.handler, job.state);
    if job.attempts > 1 {
        text.push_str(&format!(", attempt {}", job.attempts));
    }
    if let Some(waits) = &job.waits {
        text.push_str(&format!(": {}", waits.message));
    }
    if let Some(error) = &job.error {
        text.push_str(&format!(" (last: {})", cut(error, 60)));
    }
    text
}

/// How far an attempt is, how fast it goes, how long the rest takes, and what it cost.
fn how_far(told: &JobProgress) -> String {
    let mut parts = Vec::new();
    if let Some(progress) = told.progress() {
        let Progress { current, total } = progress;
        parts.push(match progress.percent() {
            Some(percent) => format!("{current} of {total} ({percent}%)"),
            None => current.to_string(),
        });
    }
    parts.extend(told.rate_per_second.map(|rate| format!("{}/s", short(rate))));
    let left = told.left_seconds.and_then(|left| Duration::try_from_secs_f64(left).ok());
    parts.extend(left.map(|left| format!("{} left", span(left))));
    parts.extend(told.cost.map(|cost| format!("cost {cost}")));
    parts.join(", ")
}

/// A number with the digits that matter.
fn short(number: f64) -> String {
    match number {
        n if n >= 100.0 => format!("{n:.0}"),
        n if n >= 1.0 => format!("{n:.1}"),
        n => format!("{n:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_told_in_words() {
        let told = |current, total, rate_per_second, left_seconds| JobProgress {
            at: Some(Timestamp::from_ms_clamped(0)),
            attempt: 1,
            current,
            total,
            cost: None,
            rate_per_second,
            left_seconds,
        };
        let cases = [
            (
                told(Some(40), Some(100), Some(12.5), Some(4.8)),
                "40 of 100 (40%), 12.5/s, 4.8 s left",
            ),
            (told(Some(40), Some(0), Some(250.4), None), "40, 250/s"),
            (
                told(Some(1), Some(900), Some(0.01), Some(89_900.0)),
                "1 of 900 (0%), 0.010/s, 1 d left",
            ),
            (JobProgress { cost: Some(0.25), ..told(None, None, None, None) }, "cost 0.25"),
        ];
        for (progress, expected) in cases {
            assert_eq!(how_far(&progress), expected);
        }
    }
}
