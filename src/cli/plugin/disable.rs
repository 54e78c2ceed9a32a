//! `axwatch plugin disable`: says what it retires, and asks.

use anyhow::Result;
use clap::Args;
use hyper::Method;
use serde_json::json;

use super::{BASE, show};
use crate::cli::Context;
use crate::cli::confirm::{Consent, Go, agreed};
use crate::client::path;
use crate::output::counted;
use crate::source::need_server;
use crate::views::{Plugin, ShownPlugin};

/// Stop a plugin and retire everything that it registered, until it is enabled again
///
/// Its watchers, handlers, schedules and routes are gone; jobs of its watchers that wait are cancelled,
/// running ones end with its process. Jobs of other watchers on its handlers wait. It stays disabled when
/// the server starts again. `axwatch plugin enable` lets it announce anew, and its watchers begin with the
/// next claim. To start it anew and keep everything, use `axwatch plugin restart`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch plugin disable git --dry-run
  axwatch plugin disable git --yes")]
pub struct Disable {
    /// Its name
    name: String,
    #[command(flatten)]
    consent: Consent,
}

impl Disable {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let client = need_server(&context.config()?.store).await?;
        let go = self.consent.go(context, "axwatch plugin disable")?;
        let shown: ShownPlugin = client.get(&path(BASE, &[&self.name])).await?;
        let told = retires(&shown);
        match go {
            Go::DryRun => {
                if context.out.json {
                    return context.out.object(&shown);
                }
                return context
                    .out
                    .line(&format!("would stop plugin {}, and retire {told}", self.name));
            }
            Go::Ask => {
                context.out.note(&format!("stops plugin {}, and retires {told}", self.name))?;
                agreed(&format!("disable plugin {}?", self.name)).await?;
            }
            Go::Ahead => {}
        }
        let place = path(BASE, &[&self.name, "disable"]);
        let plugin: Plugin = client.send(Method::POST, &place, &json!({})).await?;
        show::told(&mut context.out, &plugin)
    }
}

/// What goes with a plugin, in words.
fn retires(shown: &ShownPlugin) -> String {
    let open: u64 = shown.watchers.iter().filter_map(|watcher| watcher.open_jobs).sum();
    let jobs = match open {
        0 => String::new(),
        open => format!(" (with {} of theirs)", counted(open, "open job")),
    };
    format!(
        "{}, {}{jobs}, {} and {}",
        counted(shown.plugin.handlers.len() as u64, "handler"),
        counted(shown.watchers.len() as u64, "watcher"),
        counted(shown.schedules.len() as u64, "schedule"),
        counted(shown.routes.len() as u64, "route"),
    )
}
