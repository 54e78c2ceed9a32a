//! `axwatch watch`: what to wait for, and who acts then.

use anyhow::Result;
use axwatch_model::WatcherState;
use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;
use serde_json::value::RawValue;

use super::{Context, Limit};
use crate::client::{JSON, path, with_query};
use crate::fault::{Fault, InvalidQuery};
use crate::output::{Output, TablePage, or_dash, watcher_style};
use crate::source::{need_server, parse};
use crate::views::Watcher;

/// Declare watchers, show them, stop them
#[derive(Debug, Args)]
pub struct Watch {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Declare a watcher: again is harmless, a change is a new revision
    #[command(after_help = "\
Examples:
  axwatch watch create prs --when 'is author of GitHub' --run notify.log
  axwatch watch create prs --when 'is author so notify.log' --max-fires-per-second 5
  axwatch watch create prs --when 'by HR' --run notify.file --params '{\"path\":\"/tmp/hr.jsonl\"}'")]
    Create {
        /// Its id among yours
        id: String,
        /// What to wait for, in AX; `so HANDLER` in it names handlers too
        #[arg(long, value_name = "AX")]
        when: String,
        /// The handler that acts: its name, or plugin/name; may be given several times
        #[arg(long, value_name = "HANDLER")]
        run: Vec<String>,
        /// Parameters for its handlers: a JSON object
        #[arg(long, value_name = "JSON")]
        params: Option<String>,
        /// Attempts a second at most; 0 is no limit
        #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
        max_fires_per_second: i64,
    },
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
            Command::Create { id, when, run, params, max_fires_per_second } => {
                InvalidQuery::check(&when)?;
                let params = params.as_deref().map(json_params).transpose()?;
                let declaration = json!({
                    "id": id, "when": when, "handlers": run, "params": params,
                    "max_fires_per_second": max_fires_per_second,
                });
                let client = need_server(&store).await?;
                let watcher: Watcher = client.send(Method::POST, BASE, &declaration).await?;
                return told(context, &watcher);
            }
            Command::List { limit } => {
                let query = [
                    ("limit", limit.lines().map(|limit| limit.to_string())),
                    ("all", limit.lines().is_none().then(|| "true".to_owned())),
                ];
                let client = need_server(&store).await?;
                let path = with_query(BASE, &query);
                let mut lines = client.lines(Method::GET, &path, JSON, Bytes::new()).await?;
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
                return Ok(());
            }
            Command::Show(which) => {
                let client = need_server(&store).await?;
                let watcher = client.get(&path(BASE, &[&which.id])).await?;
                return show(&mut context.out, &watcher);
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

fn json_params(text: &str) -> Result<Box<RawValue>> {
    let usage =
        |problem: String| Fault::Usage(format!("--params must be a JSON object: {problem}"));
    let raw: Box<RawValue> =
        serde_json::from_str(text).map_err(|error| usage(error.to_string()))?;
    if !raw.get().starts_with('{') {
        return Err(usage(format!("{text} is none")).into());
    }
    Ok(raw)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_are_an_object() {
        assert_eq!(json_params(r#"{"a":1}"#).unwrap().get(), r#"{"a":1}"#);
        for text in ["[1]", "1", "{", ""] {
            assert_eq!(crate::fault::exit_code(&json_params(text).unwrap_err()), 2, "{text}");
        }
    }
}
