//! `axwatch fires`: what watchers caused.

mod told;

use std::pin::pin;

use anyhow::Result;
use axwatch_model::JobState;
use bytes::Bytes;
use clap::Args;
use hyper::Method;

use super::{Context, Limit};
use crate::answers::List;
use crate::client::{self, JSON};
use crate::output::{Output, TablePage, job_style, or_dash, reader_gone};
use crate::source::{Lines, Source, need_server, parse};
use crate::views;
use told::Teller;

const EXAMPLES: &str = "\
Examples:
  axwatch fires
  axwatch fires --watcher deploys --state failed --json
  axwatch fires --follow";

/// Show what watchers caused, newest first
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Fires {
    /// Only of this watcher: its shown id, or the local id of one of yours
    #[arg(long, value_name = "ID")]
    watcher: Option<String>,
    /// Only in this state: queued, running, paused, completed, failed or cancelled
    #[arg(long, value_name = "STATE")]
    state: Option<JobState>,
    /// Go on: show each fire as it comes or changes, oldest first
    #[arg(long, short, conflicts_with_all = ["all", "state"])]
    follow: bool,
    #[command(flatten)]
    limit: Limit,
}

impl Fires {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let store = context.config()?.store;
        if self.follow {
            let client = need_server(&store).await?;
            let query = [
                ("follow", Some("true".to_owned())),
                ("limit", Some(self.limit.limit.to_string())),
                ("watcher", self.watcher),
            ];
            let path = client::with_query("/api/v1/fires", &query);
            let lines = client.lines(Method::GET, &path, JSON, Bytes::new()).await?;
            return follow(&mut context.out, Lines::Server(lines)).await;
        }
        let list = List::Fires { watcher: self.watcher, state: self.state };
        let lines = Source::find(&store).await?.list(&list, self.limit.lines()).await?;
        let is_empty = tabulate(&mut context.out, lines).await?;
        if is_empty {
            let follow = context.typed("axwatch fires --follow");
            let why_not = context.typed("axwatch why-not ATTESTATION");
            let told = format!(
                "no such fires; `{follow}` shows them as they come, `{why_not}` why there is none"
            );
            context.out.note(&told)?;
        }
        Ok(())
    }
}

/// Tells each fire on a line of its own, as it comes.
async fn follow(out: &mut Output, mut lines: Lines) -> Result<()> {
    let mut teller = Teller::new(out.terminal_columns());
    if !out.json {
        out.line(&teller.title())?;
        out.flush()?;
    }
    let mut gone = pin!(reader_gone());
    loop {
        let page = tokio::select! {
            page = lines.next() => page?,
            gone = &mut gone => return gone,
        };
        let Some(page) = page else { return Ok(()) };
        for line in &page {
            if out.json {
                out.line(line)?;
            } else if let Some(told) = teller.tell(&parse(line)?) {
                out.line(&told)?;
            }
        }
        out.flush()?;
    }
}

/// Prints fires as a table, and says whether there were none.
async fn tabulate(out: &mut Output, mut lines: Lines) -> Result<bool> {
    let mut table = TablePage::new(&[
        "FIRED",
        "WATCHER",
        "#SEQ",
        "HANDLER",
        "STATE",
        "#ATTEMPTS",
        "JOB",
        "ERROR",
    ]);
    while let Some(page) = lines.next().await? {
        for line in &page {
            if out.json {
                out.line(line)?;
            } else {
                add_fire(&mut table, parse(line)?);
            }
        }
        out.table(&mut table)?;
        out.flush()?;
    }
    Ok(table.is_empty())
}

fn add_fire(table: &mut TablePage, fire: views::Fire) {
    let cells = vec![
        fire.created_at.to_string(),
        fire.watcher,
        or_dash(fire.seq),
        fire.handler,
        fire.state.to_string(),
        fire.attempts.to_string(),
        fire.job_id.to_string(),
        fire.error.unwrap_or_default(),
    ];
    table.row(job_style(fire.state), cells);
}
