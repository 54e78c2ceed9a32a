//! `axwatch plugin logs`: what a plugin says, and what is said of it.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde::Deserialize;

use super::BASE;
use crate::cli::Context;
use crate::client::{JSON, path, with_query};
use crate::output::Output;
use crate::source::{need_server, parse};
use crate::views::LogLine;

/// Show the last lines of a plugin's log
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch plugin logs git
  axwatch plugin logs git --lines 20 --follow
  axwatch plugin logs git --json | jq -r 'select(.level == \"error\") | .message'")]
pub struct Logs {
    /// Its name
    name: String,
    /// Go on with each line that comes
    #[arg(long, short)]
    follow: bool,
    /// So many lines from before
    #[arg(long, value_name = "N", default_value_t = 200)]
    lines: usize,
}

/// Lines that are not kept any more.
#[derive(Deserialize)]
struct Gap {
    from: u64,
    to: u64,
}

impl Logs {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let client = need_server(&context.config()?.store).await?;
        let query =
            [("lines", Some(self.lines.to_string())), ("follow", Some(self.follow.to_string()))];
        let place = with_query(&path(BASE, &[&self.name, "logs"]), &query);
        let mut lines = client.lines(Method::GET, &place, JSON, Bytes::new()).await?;
        // Which kind of event the next data is; empty is a line.
        let mut event = String::new();
        while let Some(page) = lines.next().await? {
            for line in page {
                if let Some(kind) = line.strip_prefix("event: ") {
                    kind.clone_into(&mut event);
                } else if let Some(data) = line.strip_prefix("data: ") {
                    tell(&mut context.out, &event, data)?;
                    event.clear();
                }
            }
            context.out.flush()?;
        }
        Ok(())
    }
}

fn tell(out: &mut Output, event: &str, data: &str) -> Result<()> {
    if event == "gap" {
        let Gap { from, to } = parse(data)?;
        return out.note(&format!("lines {from} to {to} came faster than they were read"));
    }
    if out.json {
        return out.line(data);
    }
    let line: LogLine = parse(data)?;
    let style = match &*line.level {
        "error" => AnsiColor::Red.on_default(),
        "warn" => AnsiColor::Yellow.on_default(),
        "debug" => Style::new().dimmed(),
        _ => Style::new(),
    };
    let dim = Style::new().dimmed();
    let job = line.job.map(|job| format!(" job {job}")).unwrap_or_default();
    let message: String =
        line.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    out.line(&format!(
        "{dim}{} {}{job}{dim:#} {style}{:<5} {message}{style:#}",
        line.at, line.stream, line.level
    ))
}
