//! `axwatch status`: how everything is, and what somebody should look at.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};

use super::Context;
use crate::output::{Output, counted, plugin_style, size, span};
use crate::source::Source;
use crate::views;

const EXAMPLES: &str = "\
Examples:
  axwatch status
  axwatch status --json | jq .attention
  axwatch status --json | jq -e '.attention == []' >/dev/null || echo look";

/// Show how everything is: store, server, watchers, jobs, schedules, plugins, lag and disk
///
/// What needs attention comes last, each with a command that is the next step. The exit code is 0
/// whenever the status could be told, also when something needs attention.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Status {}

impl Status {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let store = context.config()?.store;
        let mut status = Source::find(&store).await?.status(&store).await?;
        for attention in &mut status.attention {
            attention.next = context.typed(&attention.next);
        }
        let serve = context.typed("axwatch serve");
        let out = &mut context.out;
        if out.json {
            return out.object(&status);
        }
        out.fields(&[
            ("store", store_text(&status.store)),
            ("server", server_text(status.server.as_ref(), &serve)),
            ("watchers", counts_text(&status.watchers, "none")?),
            ("jobs", counts_text(&status.jobs, "none")?),
            ("schedules", counts_text(&status.schedules, "none")?),
            ("plugins", plugins_text(&status.plugins)),
            ("lag", lag_text(&status.lag)),
            ("held", held_text(&status)),
            ("disk", disk_text(status.disk)),
        ])?;
        attention(out, &status.attention)
    }
}

fn store_text(store: &views::StoreStatus) -> String {
    format!(
        "{}\n{}, {}, {} ({} in the write-ahead log)\nschema {}, id {}",
        store.path,
        counted(store.claims, "claim"),
        counted(store.records, "audit record"),
        size(store.bytes),
        size(store.wal_bytes),
        store.schema,
        store.store_id
    )
}

fn server_text(server: Option<&views::ServerStatus>, serve: &str) -> String {
    let Some(server) = server else {
        return format!("none runs on this store; `{serve}` starts one");
    };
    format!(
        "{}, process {}, version {}, up {}",
        server.http,
        server.pid,
        server.version,
        span(std::time::Duration::from_secs(server.uptime_seconds.max(1)))
    )
}

/// The counts that are not zero, in the order of their keys as documented.
fn counts_text(counts: &impl serde::Serialize, none: &str) -> Result<String> {
    let json = serde_json::to_string(counts)?;
    let counts: Map<String, Value> = serde_json::from_str(&json)?;
    let mut texts: Vec<_> = counts
        .iter()
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(state, count)| (json.find(state.as_str()), state, count))
        .collect();
    // A map is sorted by its keys; the text is in the order in which they were declared.
    texts.sort_unstable_by_key(|(place, ..)| *place);
    let texts: Vec<_> = texts
        .into_iter()
        .map(|(_, state, count)| match state.as_str() {
            "failed" => format!("{count} failed (dead letters)"),
            state => format!("{count} {}", state.replace('_', " ")),
        })
        .collect();
    Ok(if texts.is_empty() { none.to_owned() } else { texts.join(", ") })
}

fn plugins_text(plugins: &[views::Plugin]) -> String {
    if plugins.is_empty() {
        return "none".to_owned();
    }
    let width = plugins.iter().map(|plugin| plugin.name.len()).max().unwrap_or(0);
    let line = |plugin: &views::Plugin| {
        let style = plugin_style(&plugin.state);
        let state = plugin.state.replace('_', " ");
        let error = plugin.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        format!(
            "{:<width$}  {style}{state:<11}{style:#} {}{error}",
            plugin.name,
            counted(plugin.handlers.len() as u64, "handler"),
        )
    };
    plugins.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn lag_text(lag: &views::Lag) -> String {
    let mut texts = Vec::new();
    if lag.behind > 0 {
        texts.push(format!("{} to be matched", counted(lag.behind, "claim")));
    }
    if let Some(seconds) = lag.oldest_waiting_seconds {
        let age = span(std::time::Duration::from_secs(seconds));
        texts.push(match seconds {
            0 => "the oldest waiting job is new".to_owned(),
            _ => format!("the oldest waiting job was made {age} ago"),
        });
    }
    if let Some(slowest) = &lag.slowest {
        texts.push(format!(
            "{} catches up and has {} to see",
            slowest.watcher,
            counted(slowest.behind, "claim")
        ));
    }
    if lag.replays > 0 {
        texts.push(format!("{} under way", counted(lag.replays, "replay")));
    }
    if lag.backpressured > 0 {
        texts.push(format!("{} of them rest until fewer jobs are open", lag.backpressured));
    }
    if texts.is_empty() { "none".to_owned() } else { texts.join("; ") }
}

/// The watchers that are held, one a line; empty without any.
fn held_text(status: &views::Status) -> String {
    let line = |held: &views::HeldWatcher| {
        let until = held.until.map(|until| format!(" until {until}")).unwrap_or_default();
        let drops = if held.drops { ", what it matches is let go" } else { "" };
        format!("{} is {}{until} (since {}){drops}", held.watcher, held.kind, held.at)
    };
    let mut lines: Vec<_> = status.held.iter().map(line).collect();
    let all = status.watchers.paused + status.watchers.muted;
    let more = all.saturating_sub(lines.len() as u64);
    if more > 0 && !lines.is_empty() {
        lines.push(format!("and {more} more"));
    }
    lines.join("\n")
}

fn disk_text(disk: views::Disk) -> String {
    match (disk.free_bytes, disk.total_bytes) {
        (Some(free), Some(total)) => format!("{} free of {}", size(free), size(total)),
        _ => "not known".to_owned(),
    }
}

fn attention(out: &mut Output, found: &[views::Attention]) -> Result<()> {
    if found.is_empty() {
        let green = AnsiColor::Green.on_default();
        return out.line(&format!("\n{green}nothing needs attention{green:#}"));
    }
    out.heading("needs attention")?;
    let (yellow, dim) = (AnsiColor::Yellow.on_default(), Style::new().dimmed());
    for views::Attention { message, next, .. } in found {
        out.line(&format!("{yellow}!{yellow:#} {message}\n  {dim}try:{dim:#} {next}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_without_those_that_are_zero() {
        let counts = views::JobCounts { queued: 2, completed: 1, failed: 3, ..Default::default() };
        let told = counts_text(&counts, "none").unwrap();
        assert_eq!(told, "2 queued, 1 completed, 3 failed (dead letters)");
        assert_eq!(counts_text(&views::WatcherCounts::default(), "none").unwrap(), "none");
        let counts = views::WatcherCounts { waiting_for_handler: 1, ..Default::default() };
        assert_eq!(counts_text(&counts, "none").unwrap(), "1 waiting for handler");
    }

    #[test]
    fn lag_is_told_in_words() {
        let lag = |behind, seconds| views::Lag {
            head: axwatch_model::Seq(9),
            matched: axwatch_model::Seq(9 - behind),
            behind,
            oldest_waiting_at: None,
            oldest_waiting_seconds: seconds,
            slowest: None,
            replays: 0,
            backpressured: 0,
        };
        assert_eq!(lag_text(&lag(0, None)), "none");
        assert_eq!(
            lag_text(&lag(1, Some(61))),
            "1 claim to be matched; the oldest waiting job was made 1 min 1 s ago"
        );
    }
}
