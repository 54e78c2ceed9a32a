//! `axwatch handler run`: a job for a stored handler, followed to its end.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use hyper::Method;
use serde_json::json;

use super::show::printable;
use crate::cli::Context;
use crate::cli::jobs::{payload_of, watch};
use crate::client::path;
use crate::fault::Fault;
use crate::source::{HANDLERS, need_server};
use crate::views::{HandlerState, Job, ShownHandler};

/// Run a handler now, and show how it goes on
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch handler run hello --payload '{\"subjects\":[\"me\"]}'
  axwatch handler run hello --payload-file claim.json
  axwatch ax is is_commit --limit 1 --json | axwatch handler run hello --payload -

`axwatch jobs run python.hello` does the same with more to say: priority, source, parent.")]
pub struct Run {
    /// Its name, or plugin.name
    name: String,
    /// What it gets as upstream: JSON, or @FILE for the bytes of a file, or - for those of standard input
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true, default_value = "{}")]
    payload: String,
    /// A file that holds what it gets
    #[arg(long, value_name = "PATH", conflicts_with = "payload")]
    payload_file: Option<String>,
}

impl Run {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let payload = match self.payload_file {
            Some(file) => payload_of(&format!("@{file}"))?,
            None => payload_of(&self.payload)?,
        };
        let client = need_server(&context.config()?.store).await?;
        let handler = client.get::<ShownHandler>(&path(HANDLERS, &[&self.name])).await?.handler;
        if handler.state == HandlerState::Removed {
            let back = context.typed(&format!("axwatch handler rollback {}", handler.name));
            let told = format!("handler {} was removed; `{back}` brings it back", handler.name);
            return Err(Fault::Refused(told).into());
        }
        if let (HandlerState::Broken, Some(reason)) = (handler.state, &handler.reason) {
            let told = format!(
                "{} does not load, so its jobs wait for a newer version: {}",
                handler.handler,
                printable(reason)
            );
            context.out.note(&told)?;
        }
        let asked = json!({
            "handler": format!("{}/{}", handler.plugin, handler.handler),
            "payload_base64": STANDARD.encode(payload),
        });
        let job: Job = client.send(Method::POST, "/api/v1/jobs", &asked).await?;
        watch(&client, &job.job_id.to_string(), &mut context.out).await
    }
}
