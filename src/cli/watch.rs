//! `axwatch watch`: what to wait for, and who acts then.

mod ask;
mod create;
mod replay;
mod show;
mod stats;
mod test;

use anyhow::Result;
use axwatch_model::{Clock as _, SystemClock};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::{Context, Limit};
use crate::client::path;
use crate::fault::Fault;
use crate::output::{Output, TablePage, watcher_style};
use crate::source::{Source, need_server};
use crate::times;
use crate::views::Watcher;

/// Declare watchers, show them, stop them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch watch create prs --when 'is author of GitHub' --run notify.log
  axwatch watch test 'is author of GitHub' --since yesterday
  axwatch watch list
  axwatch watch pause prs && axwatch watch resume prs
  axwatch watch mute prs --until tomorrow
  axwatch watch replay prs --from yesterday
  axwatch watch rm prs")]
pub struct Watch {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Declare a watcher: again is harmless, a change is a new revision; asks for what is missing
    Create(create::Create),
    Test(test::Test),
    /// List watchers, newest first
    #[command(after_help = "Examples:\n  axwatch watch list\n  axwatch watch list --all --json")]
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Show one watcher: where it is, and what was held and became of it
    #[command(after_help = "Example:\n  axwatch watch show prs")]
    Show(Which),
    /// Show how the watchers are found among all, what that costs, and which of them cost most
    #[command(after_help = "Examples:\n  axwatch watch stats\n  axwatch watch stats --json")]
    Stats,
    /// Remove a watcher: its queued jobs are cancelled, running ones finish
    #[command(after_help = "Example:\n  axwatch watch rm prs")]
    Rm(Which),
    /// Let a watcher's fires wait until it is resumed
    #[command(
        after_help = "Examples:\n  axwatch watch pause prs\n  axwatch watch pause prs --skip"
    )]
    Pause {
        #[command(flatten)]
        which: Which,
        /// Let go of what it would fire meanwhile, instead of keeping it
        #[arg(long)]
        skip: bool,
    },
    /// Let a paused watcher's fires go on, at its limit
    #[command(
        after_help = "Examples:\n  axwatch watch resume prs\n  axwatch watch resume prs --drop"
    )]
    Resume {
        #[command(flatten)]
        which: Which,
        /// Let go of what was kept meanwhile
        #[arg(long)]
        drop: bool,
    },
    /// Let a watcher's fires wait until a moment; then they go on by themselves, at its limit
    #[command(
        after_help = "Examples:\n  axwatch watch mute prs --until 2h\n  axwatch watch mute prs --until tomorrow --drop\n  axwatch watch mute prs --until 2026-12-01T08:00:00Z"
    )]
    Mute {
        #[command(flatten)]
        which: Which,
        /// A time that lies ahead: 2h, 'in 2 hours', tomorrow, 2026-12-01, 2026-12-01T08:00:00Z
        #[arg(long, value_name = "TIME")]
        until: String,
        /// Let go of what it would fire meanwhile, instead of keeping it
        #[arg(long)]
        drop: bool,
    },
    /// Let a muted watcher's fires go on now, at its limit
    #[command(
        after_help = "Examples:\n  axwatch watch unmute prs\n  axwatch watch unmute prs --drop"
    )]
    Unmute {
        #[command(flatten)]
        which: Which,
        /// Let go of what was kept meanwhile
        #[arg(long)]
        drop: bool,
    },
    Replay(replay::Replay),
}

#[derive(Debug, Args)]
struct Which {
    /// Its shown id, or the local id of one of yours
    id: String,
}

const BASE: &str = "/api/v1/watchers";

impl Watch {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let (method, place, body) = match self.command {
            Command::Create(create) => return create.run(context).await,
            Command::Test(test) => return test.run(context).await,
            Command::Replay(replay) => return replay.run(context).await,
            Command::List { limit } => return list(context, limit).await,
            Command::Show(which) => return show(context, &which.id).await,
            Command::Stats => return stats::run(context).await,
            Command::Rm(which) => (Method::DELETE, path(BASE, &[&which.id]), json!({})),
            Command::Pause { which, skip } => asked(&which, "pause", json!({ "skip": skip })),
            Command::Resume { which, drop } => asked(&which, "resume", json!({ "drop": drop })),
            Command::Mute { which, until, drop } => {
                let now = SystemClock::new().now().wall;
                times::ahead(&until, now)
                    .map_err(|problem| Fault::Usage(format!("--until: {problem}")))?;
                asked(&which, "mute", json!({ "until": until, "drop": drop }))
            }
            Command::Unmute { which, drop } => asked(&which, "unmute", json!({ "drop": drop })),
        };
        let client = need_server(&context.config()?.store).await?;
        let watcher: Watcher = client.send(method, &place, &body).await?;
        told(context, &watcher)
    }
}

/// A request to do something with a watcher.
fn asked(which: &Which, verb: &str, body: Value) -> (Method, String, Value) {
    (Method::POST, path(BASE, &[&which.id, verb]), body)
}

async fn list(context: &mut Context, limit: Limit) -> Result<()> {
    let source = Source::find(&context.config()?.store).await?;
    let mut lines = source.watchers(limit.lines()).await?;
    let mut table = TablePage::new(show::TITLES);
    while let Some(page) = lines.next().await? {
        show::list(&mut context.out, &mut table, &page)?;
    }
    if table.is_empty() {
        let create = context.typed("axwatch watch create");
        context.out.note(&format!("no watchers yet; make one with `{create}`"))?;
    }
    note_age(&mut context.out, &source)
}

async fn show(context: &mut Context, id: &str) -> Result<()> {
    let source = Source::find(&context.config()?.store).await?;
    show::show(&mut context.out, &source.watcher(id).await?)?;
    note_age(&mut context.out, &source)
}

/// Without a server nobody counts on.
fn note_age(out: &mut Output, source: &Source) -> Result<()> {
    match source {
        Source::Server(_) => Ok(()),
        Source::Store(_) => {
            out.note("no server runs; matches, fires and errors are those that were last written")
        }
    }
}

/// What became of a watcher, in a sentence.
fn told(context: &mut Context, watcher: &Watcher) -> Result<()> {
    if context.out.json {
        return context.out.object(watcher);
    }
    let style = watcher_style(watcher.state);
    let state = show::doing(watcher);
    let why = watcher.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    context.out.line(&format!(
        "{} is {style}{state}{style:#} (revision {}){why}",
        watcher.id, watcher.revision
    ))
}
