//! `axwatch watch`: what to wait for, and who acts then.

mod ask;
mod create;
mod test;

use anyhow::Result;
use axwatch_model::WatcherState;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;

use super::{Context, Limit};
use crate::client::path;
use crate::output::{Output, TablePage, or_dash, watcher_style};
use crate::source::{Source, need_server, parse};
use crate::views::Watcher;

/// Declare watchers, show them, stop them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch watch create prs --when 'is author of GitHub' --run notify.log
  axwatch watch test 'is author of GitHub' --since yesterday
  axwatch watch list
  axwatch watch pause prs && axwatch watch resume prs
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
    /// Show one watcher
    #[command(after_help = "Example:\n  axwatch watch show prs")]
    Show(Which),
    /// Remove a watcher: its queued jobs are cancelled, running ones finish
    #[command(after_help = "Example:\n  axwatch watch rm prs")]
    Rm(Which),
    /// Let a watcher's fires wait
    #[command(after_help = "Example:\n  axwatch watch pause prs")]
    Pause(Which),
    /// Let a paused watcher's fires go on
    #[command(after_help = "Example:\n  axwatch watch resume prs")]
    Resume(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// Its shown id, or the local id of one of yours
    id: String,
}

const BASE: &str = "/api/v1/watchers";

impl Watch {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let store = context.config()?.store;
        let (method, path) = match self.command {
            Command::Create(create) => return create.run(context).await,
            Command::Test(test) => return test.run(context).await,
            Command::List { limit } => {
                let source = Source::find(&store).await?;
                let mut lines = source.watchers(limit.lines()).await?;
                let mut table = TablePage::new(&[
                    "ID",
                    "STATE",
                    "#REV",
                    "WHEN",
                    "HANDLERS",
                    "#RATE",
                    "#MATCHES",
                    "#FIRES",
                    "#ERRORS",
                    "LAST FIRED",
                    "ERROR",
                ]);
                while let Some(page) = lines.next().await? {
                    list(&mut context.out, &mut table, &page)?;
                }
                if table.is_empty() {
                    let create = context.typed("axwatch watch create");
                    context.out.note(&format!("no watchers yet; make one with `{create}`"))?;
                }
                return note_age(&mut context.out, &source);
            }
            Command::Show(which) => {
                let source = Source::find(&store).await?;
                show(&mut context.out, &source.watcher(&which.id).await?)?;
                return note_age(&mut context.out, &source);
            }
            Command::Rm(which) => (Method::DELETE, path(BASE, &[&which.id])),
            Command::Pause(which) => (Method::POST, path(BASE, &[&which.id, "pause"])),
            Command::Resume(which) => (Method::POST, path(BASE, &[&which.id, "resume"])),
        };
        let client = need_server(&store).await?;
        let watcher: Watcher = client.send(method, &path, &json!({})).await?;
        told(context, &watcher)
    }
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
    let state = match watcher.state {
        WatcherState::WaitingForHandler => "waiting for handler".to_owned(),
        WatcherState::CatchingUp => "catching up".to_owned(),
        other => other.to_string(),
    };
    let why = watcher.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    context.out.line(&format!(
        "{} is {style}{state}{style:#} (revision {}){why}",
        watcher.id, watcher.revision
    ))
}

fn list(out: &mut Output, table: &mut TablePage, lines: &[String]) -> Result<()> {
    for line in lines {
        if out.json {
            out.line(line)?;
            continue;
        }
        let watcher: Watcher = parse(line)?;
        let style = watcher_style(watcher.state);
        let cells = vec![
            watcher.id,
            watcher.state.to_string(),
            watcher.revision.to_string(),
            watcher.when,
            watcher.handlers.join(", "),
            or_dash(watcher.max_fires_per_second),
            watcher.matches.to_string(),
            watcher.fires.to_string(),
            watcher.errors.to_string(),
            or_dash(watcher.last_fired_at),
            watcher.error.unwrap_or_default(),
        ];
        table.row(style, cells);
    }
    out.table(table)?;
    out.flush()
}

fn show(out: &mut Output, watcher: &Watcher) -> Result<()> {
    if out.json {
        return out.object(watcher);
    }
    let style = watcher_style(watcher.state);
    let rate = watcher.max_fires_per_second;
    out.fields(&[
        ("watcher", watcher.id.clone()),
        ("owner", watcher.owner.clone()),
        ("state", format!("{style}{}{style:#}", watcher.state)),
        ("revision", watcher.revision.to_string()),
        ("when", watcher.when.clone()),
        ("handlers", watcher.handlers.join("\n")),
        ("at most", rate.map_or("no limit".to_owned(), |rate| format!("{rate} a second"))),
        ("matches", watcher.matches.to_string()),
        ("fires", watcher.fires.to_string()),
        ("errors", watcher.errors.to_string()),
        ("last fired", or_dash(watcher.last_fired_at)),
        ("error", watcher.error.clone().unwrap_or_default()),
    ])
}
