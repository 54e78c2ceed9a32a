//! `axwatch plugin`: the programs that act.

mod check;
mod new;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;

use super::Context;
use crate::client::{JSON, path};
use crate::output::{Output, TablePage, or_dash, plugin_style};
use crate::shipped;
use crate::source::{need_server, parse};
use crate::views;

/// Show plugins, start one anew
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch plugin list
  axwatch plugin show git
  axwatch plugin restart git")]
pub struct Plugin {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the plugins of the running server
    #[command(after_help = "Example:\n  axwatch plugin list --json")]
    List,
    /// Show one plugin
    #[command(after_help = "Example:\n  axwatch plugin show git")]
    Show {
        /// Its name
        name: String,
    },
    /// Start a new process of a plugin, whatever its state
    #[command(after_help = "Example:\n  axwatch plugin restart git")]
    Restart {
        /// Its name
        name: String,
    },
    New(new::New),
    Check(check::Check),
    /// Be one of the plugins that ship with axwatch; the host starts them so
    #[command(after_help = "Example:\n  axwatch plugin serve git --port 50051")]
    Serve(Served),
}

/// Where a shipped plugin listens.
#[derive(Debug, Args)]
struct Served {
    /// Which one
    #[arg(value_parser = shipped::NAMES)]
    name: String,
    /// The port of loopback to listen on; 0 is any free one, told on standard output
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,
}

const BASE: &str = "/api/v1/plugins";

impl Plugin {
    /// The shipped plugin that this process is to be, and where it listens.
    pub fn served(&self) -> Option<(&str, SocketAddr)> {
        let Command::Serve(Served { name, port }) = &self.command else { return None };
        Some((name, SocketAddr::from((Ipv4Addr::LOCALHOST, *port))))
    }

    pub async fn run(self, context: &mut Context) -> Result<()> {
        match self.command {
            Command::New(new) => return new.run(context),
            Command::Check(check) => return check.run(context).await,
            _ => {}
        }
        let client = need_server(&context.config()?.store).await?;
        match self.command {
            Command::List => {
                let lines = client.text(Method::GET, BASE, JSON, Bytes::new()).await?;
                list(&mut context.out, std::str::from_utf8(&lines)?)
            }
            Command::Show { name } => {
                show(&mut context.out, &client.get(&path(BASE, &[&name])).await?)
            }
            Command::Restart { name } => {
                let path = path(BASE, &[&name, "restart"]);
                let plugin = client.send(Method::POST, &path, &json!({})).await?;
                show(&mut context.out, &plugin)
            }
            Command::New(_) | Command::Check(_) | Command::Serve(_) => {
                unreachable!("none of them needs a server")
            }
        }
    }
}

fn list(out: &mut Output, lines: &str) -> Result<()> {
    let mut table = TablePage::new(&["NAME", "STATE", "VERSION", "#PID", "HANDLERS", "ERROR"]);
    for line in lines.lines() {
        if out.json {
            out.line(line)?;
            continue;
        }
        let plugin: views::Plugin = parse(line)?;
        let style = plugin_style(&plugin.state);
        let cells = vec![
            plugin.name,
            plugin.state,
            or_dash(plugin.version),
            or_dash(plugin.pid),
            plugin.handlers.join(", "),
            plugin.error.unwrap_or_default(),
        ];
        table.row(style, cells);
    }
    out.table(&mut table)
}

fn show(out: &mut Output, plugin: &views::Plugin) -> Result<()> {
    if out.json {
        return out.object(plugin);
    }
    let style = plugin_style(&plugin.state);
    out.fields(&[
        ("plugin", plugin.name.clone()),
        ("state", format!("{style}{}{style:#}", plugin.state)),
        ("version", plugin.version.clone().unwrap_or_default()),
        ("pid", plugin.pid.map(|pid| pid.to_string()).unwrap_or_default()),
        ("handlers", plugin.handlers.join("\n")),
        ("error", plugin.error.clone().unwrap_or_default()),
    ])
}
