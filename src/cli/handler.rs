//! `axwatch handler`: code of people's own, stored as claims and run by a plugin.

mod create;
mod diff;
mod run;
mod show;
mod test;

use anyhow::Result;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::{Context, Limit};
use crate::client::path;
use crate::source::{HANDLERS, need_server};
use crate::views::HandlerRemoved;

/// Store code of your own, which watchers and schedules can run at once
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch handler create hello --code 'print(upstream[\"subjects\"])'
  axwatch watch create hello --when 'is is_commit' --run python.hello
  axwatch handler test hello --on 'is is_commit' --limit 3
  axwatch handler list
  axwatch handler create hello --file hello.py
  axwatch handler diff hello
  axwatch handler rollback hello
  axwatch handler run hello --payload '{\"subjects\":[\"me\"]}'
  axwatch handler rm hello")]
pub struct HandlerCommand {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Create),
    List(show::ListHandlers),
    Show(show::Show),
    /// List the versions of a handler, the newest first
    #[command(
        after_help = "Examples:\n  axwatch handler versions hello\n  axwatch handler versions hello --all --json"
    )]
    Versions {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        limit: Limit,
    },
    Diff(diff::Diff),
    /// Store the code of an older version as the newest one
    #[command(
        after_help = "Examples:\n  axwatch handler rollback hello            # what it was before; also after `rm`\n  axwatch handler rollback hello --to 3"
    )]
    Rollback {
        #[command(flatten)]
        which: Which,
        /// The version: its number, or the id of its claim [default: the one before the newest]
        #[arg(long, value_name = "N|ID")]
        to: Option<String>,
    },
    /// Remove a handler: its versions stay, jobs and watchers that need it wait
    #[command(after_help = "Example:\n  axwatch handler rm hello")]
    Rm(Which),
    Test(test::Test),
    Run(run::Run),
}

#[derive(Debug, Args)]
struct Which {
    /// Its name, or plugin.name
    #[arg(value_name = "NAME")]
    handler: String,
}

impl HandlerCommand {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        match self.command {
            Command::Create(create) => create.run(context).await,
            Command::List(list) => list.run(context).await,
            Command::Show(show) => show.run(context).await,
            Command::Versions { which, limit } => {
                show::versions(context, &which.handler, limit).await
            }
            Command::Diff(diff) => diff.run(context).await,
            Command::Rollback { which, to } => roll_back(context, &which.handler, to).await,
            Command::Rm(which) => remove(context, &which.handler).await,
            Command::Test(test) => test.run(context).await,
            Command::Run(run) => run.run(context).await,
        }
    }
}

async fn roll_back(context: &mut Context, handler: &str, to: Option<String>) -> Result<()> {
    let client = need_server(&context.config()?.store).await?;
    // A number as one: the id of a claim may be digits too, and has its place as text.
    let to = to.map(|to| to.parse::<u64>().map_or_else(|_| Value::from(to), Value::from));
    let place = path(HANDLERS, &[handler, "rollback"]);
    let stored = client.send(Method::POST, &place, &json!({ "to": to })).await;
    create::told(context, &create::readable(stored)?)
}

async fn remove(context: &mut Context, handler: &str) -> Result<()> {
    let client = need_server(&context.config()?.store).await?;
    let place = path(HANDLERS, &[handler]);
    let removed: HandlerRemoved = client.send(Method::DELETE, &place, &json!({})).await?;
    show::removed(context, &removed)
}
