//! How stored handlers are shown: in a list, whole with their code, their versions, and what became of one.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use clap::Args;

use crate::cli::{Context, Limit};
use crate::output::{TablePage, counted, cut, or_dash};
use crate::source::{Source, parse};
use crate::views::{
    Handler, HandlerRemoved, HandlerState, HandlerVersion, ShownHandler, VersionState, WaitingJobs,
};

/// List the stored handlers, by plugin and name
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  axwatch handler list\n  axwatch handler list --all --json | jq -r .handler"
)]
pub struct ListHandlers {
    /// At most so many; else there is no limit
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    limit: Option<usize>,
    /// Those too that were removed
    #[arg(long)]
    all: bool,
}

/// Show a handler: its code, what it is doing, who runs it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch handler show hello
  axwatch handler show hello --version 2
  axwatch handler show hello --json | jq -r .code > hello.py")]
pub struct Show {
    /// Its name, or plugin.name
    name: String,
    /// The version: its number, or the id of its claim [default: the newest]
    #[arg(long, value_name = "N|ID")]
    version: Option<String>,
}

/// How a handler's state looks.
fn style_of(state: HandlerState) -> Style {
    match state {
        HandlerState::Ok => Style::new(),
        HandlerState::Broken => AnsiColor::Red.on_default(),
        HandlerState::Removed => Style::new().dimmed(),
    }
}

fn version_style(state: VersionState) -> Style {
    match state {
        VersionState::InForce => AnsiColor::Green.on_default(),
        VersionState::Broken => AnsiColor::Red.on_default(),
        VersionState::Removed | VersionState::Replaced => Style::new(),
    }
}

impl ListHandlers {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let source = Source::find(&context.config()?.store).await?;
        let mut lines = source.handlers(self.limit, self.all).await?;
        let mut table = TablePage::new(&[
            "NAME", "PLUGIN", "STATE", "#VERSION", "SINCE", "BY", "RUN BY", "REASON",
        ]);
        while let Some(page) = lines.next().await? {
            for line in &page {
                if context.out.json {
                    context.out.line(line)?;
                    continue;
                }
                let handler: Handler = parse(line)?;
                let run_by = run_by(&handler);
                let cells = vec![
                    handler.name,
                    handler.plugin,
                    handler.state.as_str().to_owned(),
                    handler.number.to_string(),
                    handler.at.to_string(),
                    handler.by,
                    or_dash((!run_by.is_empty()).then(|| run_by.join(", "))),
                    handler
                        .reason
                        .as_deref()
                        .map(|reason| cut(reason, usize::MAX))
                        .unwrap_or_default(),
                ];
                table.row(style_of(handler.state), cells);
            }
            context.out.table(&mut table)?;
            context.out.flush()?;
        }
        if table.is_empty() {
            let create = context.typed("axwatch handler create");
            context.out.note(&format!("no handlers yet; store one with `{create}`"))?;
        }
        Ok(())
    }
}

/// The watchers and schedules that run a handler.
fn run_by(handler: &Handler) -> Vec<String> {
    let all = handler.watchers.iter().chain(&handler.schedules).flatten();
    all.cloned().collect()
}

impl Show {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let source = Source::find(&context.config()?.store).await?;
        let shown = source.handler(&self.name, self.version.as_deref()).await?;
        let out = &mut context.out;
        if out.json {
            return out.object(&shown);
        }
        let ShownHandler { handler, shown: version, code, waiting } = shown;
        let style = style_of(handler.state);
        let since = match handler.state {
            HandlerState::Ok => String::new(),
            _ => format!(" since {}, by {}", handler.at, handler.by),
        };
        let waiting = match waiting.jobs {
            0 => String::new(),
            _ => in_words(waiting),
        };
        out.fields(&[
            ("handler", handler.handler.clone()),
            ("state", format!("{style}{}{style:#}{since}", handler.state.as_str())),
            ("reason", handler.reason.clone().unwrap_or_default()),
            ("version", told(&version, handler.number)),
            ("claim", version.version.to_string()),
            ("stored", format!("{} by {}", version.at, version.by)),
            ("run by", run_by(&handler).join(", ")),
            ("waiting", waiting),
        ])?;
        out.heading("code")?;
        out.line(&printable(code.trim_end_matches('\n')))
    }
}

/// Which version it is, and what of it.
fn told(version: &HandlerVersion, newest: u64) -> String {
    let style = version_style(version.state);
    let of = if version.number == newest { String::new() } else { format!(" of {newest}") };
    format!("{}{of}, {style}{}{style:#}", version.number, version.state.as_str())
}

/// Jobs that wait, in words.
pub fn in_words(waiting: WaitingJobs) -> String {
    let least = if waiting.at_least { "at least " } else { "" };
    format!("{least}{}", counted(waiting.jobs, "job"))
}

/// Text as it is, but for what would steer a terminal.
pub fn printable(text: &str) -> String {
    let plain = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.replace("\r\n", "\n").chars().map(plain).collect()
}

/// `axwatch handler versions`.
pub async fn versions(context: &mut Context, name: &str, limit: Limit) -> Result<()> {
    let source = Source::find(&context.config()?.store).await?;
    let mut lines = source.handler_versions(name, limit.lines()).await?;
    let mut table = TablePage::new(&["#VERSION", "STATE", "STORED", "BY", "CLAIM", "REASON"]);
    while let Some(page) = lines.next().await? {
        for line in &page {
            if context.out.json {
                context.out.line(line)?;
                continue;
            }
            let version: HandlerVersion = parse(line)?;
            let cells = vec![
                version.number.to_string(),
                version.state.as_str().to_owned(),
                version.at.to_string(),
                version.by,
                version.version.to_string(),
                version.reason.as_deref().map(|reason| cut(reason, usize::MAX)).unwrap_or_default(),
            ];
            table.row(version_style(version.state), cells);
        }
        context.out.table(&mut table)?;
        context.out.flush()?;
    }
    Ok(())
}

/// What became of a handler that was removed.
pub fn removed(context: &mut Context, removed: &HandlerRemoved) -> Result<()> {
    let out = &mut context.out;
    if out.json {
        return out.object(removed);
    }
    let HandlerRemoved { handler, number, attestation_id, .. } = removed;
    out.line(&format!(
        "{handler} is removed, version {number} was the last: claim {attestation_id}"
    ))?;
    let run_by: Vec<_> = removed.watchers.iter().chain(&removed.schedules).cloned().collect();
    if !run_by.is_empty() {
        let watchers = counted(removed.watchers.len() as u64, "watcher");
        let schedules = counted(removed.schedules.len() as u64, "schedule");
        let named = cut(&run_by.join(", "), 200);
        out.line(&format!("  {watchers} and {schedules} ran it: those that its code declared end with it, the others wait: {named}"))?;
    }
    if removed.waiting.jobs > 0 {
        out.line(&format!("  {} wait for it", in_words(removed.waiting)))?;
    }
    let yellow = AnsiColor::Yellow.on_default();
    for warning in &removed.warnings {
        out.flush()?;
        anstream::eprintln!("{yellow}warning:{yellow:#} {}", printable(warning));
    }
    let back = context.typed(&format!("axwatch handler rollback {}", removed.name));
    context.out.note(&format!("its versions stay; `{back}` brings it back"))
}
