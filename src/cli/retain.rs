//! `axwatch retain`: take away what is old and nobody needs any more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axwatch_ats::{Retention, RetentionPlace, SqliteStore};
use axwatch_engine::EngineConfig;
use axwatch_model::{Clock as _, SystemClock, Timestamp};
use clap::Args;
use hyper::Method;
use serde_json::json;

use super::Context;
use super::confirm::{Consent, Go, agreed};
use crate::client::Client;
use crate::output::counted;
use crate::source::Source;
use crate::times;
use crate::views::Retained;

const EXAMPLES: &str = "\
Examples:
  axwatch retain --older-than 90d --dry-run     how much would go
  axwatch retain --older-than 90d --yes         take it away, for a cron job
  axwatch retain --older-than '6 months'        see how much, and be asked";

/// Take away claims and ended jobs that are older than that, with or without a server
///
/// Stays: what lies behind a watcher's position, the claims of jobs that are open or dead letters,
/// changes of aliases, the last claim, and the audit. Of each claim that goes, its id, its number and a
/// hash of what it said stay, so that a late repeat is still a repeat. The file keeps its size; the room
/// in it is used again.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Retain {
    /// Claims appended and jobs ended longer ago than this: 12h, 90d, '6 months'
    #[arg(long, value_name = "SPAN", value_parser = times::span)]
    older_than: Duration,
    #[command(flatten)]
    consent: Consent,
}

impl Retain {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let go = self.consent.go(context, "axwatch retain")?;
        let config = context.config()?;
        let store = config.store.clone();
        let before = times::before(SystemClock::new().now().wall, self.older_than);
        let source = Source::find(&store).await?;
        if go != Go::Ahead {
            let counted = match &source {
                Source::Server(client) => through_server(client, before, true).await?,
                Source::Store(_) => count(&store, before).await?,
            };
            tell(context, &counted)?;
            if go == Go::DryRun || counted.claims + counted.jobs == 0 {
                return Ok(());
            }
            context.out.flush()?;
            agreed("take them away?").await?;
        }
        let retained = match source {
            Source::Server(client) => through_server(&client, before, false).await?,
            Source::Store(answers) => {
                drop(answers);
                directly(&store, config.engine_config(), before).await?
            }
        };
        tell(context, &retained)
    }
}

async fn through_server(client: &Client, before: Timestamp, dry_run: bool) -> Result<Retained> {
    let body = json!({ "before": before, "dry_run": dry_run });
    Ok(client.send(Method::POST, "/api/v1/retain", &body).await?)
}

/// Counts what would go from a store that nobody writes to.
async fn count(store: &Path, before: Timestamp) -> Result<Retained> {
    let mut writer = SqliteStore::open_writer(store).await?;
    let reader = writer.reader();
    let passes = reader.passes().await?;
    let lowest = passes.into_iter().map(|(_, seq)| seq).min();
    let matched = reader.opened().matched_seq;
    let below = lowest.map_or(matched, |lowest| lowest.min(matched));
    let mut retention = Retention { before, below, from: RetentionPlace::default(), dry_run: true };
    let mut counted = Retained { before, claims: 0, jobs: 0, dry_run: true };
    loop {
        let removal = writer.removable(&retention).await?;
        counted.claims += removal.claims.len() as u64;
        counted.jobs += removal.jobs.len() as u64;
        let Some(next) = removal.next else { break };
        retention.from = next;
    }
    writer.close().await?;
    Ok(counted)
}

/// Lets an engine without plugins do it, so that the audit tells of it.
async fn directly(store: &Path, config: EngineConfig, before: Timestamp) -> Result<Retained> {
    let writer = SqliteStore::open_writer(store).await?;
    let clock = Arc::new(SystemClock::new());
    let (engine, ended) = axwatch_engine::start(writer, clock, config).await?;
    let retained = engine.retain(before, false).await;
    engine.stop().await;
    ended.await.context("the engine broke off")??;
    let axwatch_engine::Retained { claims, jobs } = retained?;
    Ok(Retained { before, claims, jobs, dry_run: false })
}

fn tell(context: &mut Context, retained: &Retained) -> Result<()> {
    if context.out.json {
        return context.out.object(retained);
    }
    let Retained { before, claims, jobs, dry_run } = retained;
    let verb = if *dry_run { "would go" } else { "gone" };
    let what = format!("{} and {}", counted(*claims, "claim"), counted(*jobs, "job"));
    context.out.line(&format!("{verb}: {what} from before {before}"))
}
