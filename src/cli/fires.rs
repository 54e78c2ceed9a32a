//! `axwatch fires`: what watchers caused.

use anyhow::Result;
use axwatch_model::JobState;
use bytes::Bytes;
use clap::Args;
use hyper::Method;

use super::{Context, Limit};
use crate::answers::List;
use crate::client::{self, JSON};
use crate::output::{TablePage, job_style, or_dash};
use crate::source::{Lines, Source, need_server, parse};
use crate::views;

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
        let mut lines = if self.follow {
            let client = need_server(&store).await?;
            let query = [
                ("follow", Some("true".to_owned())),
                ("limit", Some(self.limit.limit.to_string())),
                ("watcher", self.watcher),
            ];
            let path = client::with_query("/api/v1/fires", &query);
            Lines::Server(client.lines(Method::GET, &path, JSON, Bytes::new()).await?)
        } else {
            let list = List::Fires { watcher: self.watcher, state: self.state };
            Source::find(&store).await?.list(&list, self.limit.lines()).await?
        };
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
                if context.out.json {
                    context.out.line(line)?;
                } else {
                    add_fire(&mut table, parse(line)?);
                }
            }
            context.out.table(&mut table)?;
            context.out.flush()?;
        }
        Ok(())
    }
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
