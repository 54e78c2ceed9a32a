//! `axwatch plugin`: the programs that act.

mod check;
mod config;
mod disable;
mod logs;
mod new;
mod show;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::json;

use super::Context;
use crate::client::{JSON, path};
use crate::shipped;
use crate::source::need_server;
use crate::views;

/// Show plugins, start, stop and configure them, make new ones
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch plugin list
  axwatch plugin show git
  axwatch plugin logs git --follow
  axwatch plugin restart git
  axwatch plugin disable git && axwatch plugin enable git
  axwatch plugin new greet --lang python
  axwatch plugin check greet")]
pub struct Plugin {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the plugins of the running server
    #[command(after_help = "Example:\n  axwatch plugin list --json")]
    List,
    /// Show one plugin: how it is, all that it registered, and what was refused of that
    #[command(
        after_help = "Examples:\n  axwatch plugin show git\n  axwatch plugin show git --json | jq .refused"
    )]
    Show(Which),
    /// Start a new process of a plugin, whatever its state; what it registered and its jobs stay
    #[command(after_help = "Example:\n  axwatch plugin restart git")]
    Restart(Which),
    /// Let a disabled plugin run again; its watchers begin with the next claim
    #[command(after_help = "Example:\n  axwatch plugin enable git")]
    Enable(Which),
    Disable(disable::Disable),
    /// Read a plugin's configuration anew and give it to its running process
    #[command(
        after_help = "Examples:\n  axwatch plugin reconfigure git\n  axwatch plugin config git && axwatch plugin reconfigure git"
    )]
    Reconfigure(Which),
    /// Start a plugin that was given up, and forget its crashes
    #[command(after_help = "Example:\n  axwatch plugin reset git")]
    Reset(Which),
    Config(config::Config),
    Logs(logs::Logs),
    New(new::New),
    Check(check::Check),
    /// Be one of the plugins that ship with axwatch; the host starts them so
    #[command(after_help = "Example:\n  axwatch plugin serve git --port 50051")]
    Serve(Served),
}

#[derive(Debug, Args)]
struct Which {
    /// Its name
    name: String,
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
        let (which, verb) = match self.command {
            Command::List => {
                let client = need_server(&context.config()?.store).await?;
                let lines = client.text(Method::GET, BASE, JSON, Bytes::new()).await?;
                return show::list(&mut context.out, std::str::from_utf8(&lines)?);
            }
            Command::Show(Which { name }) => {
                let client = need_server(&context.config()?.store).await?;
                let plugin = client.get(&path(BASE, &[&name])).await?;
                return show::show(&mut context.out, &plugin);
            }
            Command::Disable(disable) => return disable.run(context).await,
            Command::Config(config) => return config.run(context).await,
            Command::Logs(logs) => return logs.run(context).await,
            Command::New(new) => return new.run(context),
            Command::Check(check) => return check.run(context).await,
            Command::Restart(which) => (which, "restart"),
            Command::Enable(which) => (which, "enable"),
            Command::Reconfigure(which) => (which, "reconfigure"),
            Command::Reset(which) => (which, "reset"),
            Command::Serve(_) => unreachable!("it was served without a store"),
        };
        let client = need_server(&context.config()?.store).await?;
        let place = path(BASE, &[&which.name, verb]);
        let plugin: views::Plugin = client.send(Method::POST, &place, &json!({})).await?;
        show::told(&mut context.out, &plugin)
    }
}
