//! `axwatch backup`: the store in one file, while it is in use.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use axwatch_ats::{CopyProgress, Existing, SqliteStore};
use bytes::Bytes;
use clap::Args;
use hyper::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::Context;
use crate::client::{Client, JSON};
use crate::output::{Output, counted, size};
use crate::source::{Source, parse};
use crate::views::{self, BackupLine};

const EXAMPLES: &str = "\
Examples:
  axwatch backup claims-2026-11-21.db
  axwatch backup /mnt/disk/axwatch.db --force
  axwatch backup today.db --json | jq -r .head >head.txt";

/// Copy the whole store into one file, also while a server runs
///
/// Nobody who writes to the store waits for it. The copy holds all that was acknowledged before it
/// began; it gets its name when it is whole and on the disk, and not before. `axwatch restore`
/// checks it and puts it in a store's place.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Backup {
    /// The file to write
    file: PathBuf,
    /// Replace the file if it is there, once the copy is whole
    #[arg(long)]
    force: bool,
}

impl Backup {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let store = context.config()?.store;
        let file = std::path::absolute(&self.file)
            .with_context(|| format!("cannot tell where {} is", self.file.display()))?;
        let bar = copy_bar();
        let made = match Source::find(&store).await? {
            Source::Server(client) if !self.force => through_server(&client, &file, &bar).await,
            // A server replaces nothing that is there, so that is ours to do; it works on meanwhile.
            _ => directly(&store, &file, self.force, &bar).await,
        };
        bar.finish_and_clear();
        tell(&mut context.out, &made?)
    }
}

async fn through_server(client: &Client, file: &Path, bar: &ProgressBar) -> Result<views::Backup> {
    let body = Bytes::from(json!({ "path": file }).to_string());
    let mut lines = client.lines(Method::POST, "/api/v1/backup", JSON, body).await?;
    let mut made = None;
    while let Some(page) = lines.next().await? {
        for line in page {
            match parse(&line)? {
                BackupLine::Progress(views::BackupProgress { bytes, of_bytes }) => {
                    show(bar, CopyProgress { bytes, of_bytes });
                }
                BackupLine::Backup(backup) => made = Some(backup),
            }
        }
    }
    made.context("the server ended its answer without a backup; its log says why")
}

async fn directly(
    store: &Path,
    file: &Path,
    force: bool,
    bar: &ProgressBar,
) -> Result<views::Backup> {
    let existing = if force { Existing::Replace } else { Existing::Keep };
    let mut tell = |copied| show(bar, copied);
    let made = SqliteStore::back_up(store, file, existing, &mut tell).await?;
    Ok(views::Backup::of(&made))
}

/// How far a copy is, for people.
pub fn copy_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{bar:30} {msg} {eta}");
    bar.with_style(style.expect("the template is well-formed"))
}

/// Shows how far a copy is.
pub fn show(bar: &ProgressBar, copied: CopyProgress) {
    bar.set_length(copied.of_bytes);
    bar.set_position(copied.bytes);
    bar.set_message(format!("{} of {}", size(copied.bytes), size(copied.of_bytes)));
}

/// What a copy holds, in one line.
pub fn held_text(held: &views::Held) -> String {
    format!(
        "claims up to seq {}, {}, audit head {}",
        held.seq,
        counted(held.records, "audit record"),
        held.head
    )
}

fn tell(out: &mut Output, made: &views::Backup) -> Result<()> {
    if out.json {
        return out.object(made);
    }
    let held = held_text(&made.held);
    out.line(&format!("backed up to {}: {}, {held}", made.path, size(made.bytes)))
}
