//! `axwatch watch replay`: firing again for claims that are in the log.

use std::time::Duration;

use anyhow::Result;
use axwatch_ats::since::Since;
use axwatch_model::{Clock as _, SystemClock, Timestamp};
use clap::Args;
use hyper::Method;
use serde_json::json;

use super::{BASE, told};
use crate::cli::Context;
use crate::cli::confirm::{Consent, Go, agreed};
use crate::client::path;
use crate::fault::Fault;
use crate::output::{Output, counted, quoted, span};
use crate::source::need_server;
use crate::views::{ReplayPreview, Watcher, when_in_words};

const EXAMPLES: &str = "\
Examples:
  axwatch watch replay prs --from yesterday            on a terminal: says how many, and asks
  axwatch watch replay prs --from 1200 --to 1300 --yes
  axwatch watch replay prs --from start --dry-run
  axwatch watch replay prs --stop";

/// Fire again for claims that are in the log, as it is declared now; says how many first, and asks
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Replay {
    /// Its shown id, or the local id of one of yours
    id: String,
    /// From which claim on: its number, a time such as yesterday or 2024-01-15, or start
    #[arg(long, value_name = "WHEN", required_unless_present = "stop")]
    from: Option<String>,
    /// Up to which claim: its number, or a time [default: now]
    #[arg(long, value_name = "WHEN")]
    to: Option<String>,
    /// End the replay that is under way; the jobs that it has made stay
    #[arg(long, conflicts_with_all = ["from", "to", "yes", "dry_run"])]
    stop: bool,
    #[command(flatten)]
    consent: Consent,
}

impl Replay {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let place = path(BASE, &[&self.id, "replay"]);
        let Some(from) = self.from else {
            let client = need_server(&context.config()?.store).await?;
            let watcher: Watcher =
                client.send(Method::POST, &place, &json!({ "stop": true })).await?;
            return told(context, &watcher);
        };
        let to = self.to.unwrap_or_else(|| "now".to_owned());
        check(&from, &to, SystemClock::new().now().wall)?;
        let go = self.consent.go(context, "watch replay")?;
        let client = need_server(&context.config()?.store).await?;
        // What is asked about is what is begun: by the numbers, not by what `now` is by then.
        let (mut first, mut last) = (json!(from), json!(to));
        if go != Go::Ahead || !context.out.json {
            let request = json!({ "from": from, "to": to, "dry_run": true });
            let preview: ReplayPreview = client.send(Method::POST, &place, &request).await?;
            show(&mut context.out, &preview)?;
            if go == Go::DryRun {
                return context.out.note("nothing was begun");
            }
            if preview.fires == 0 {
                return context.out.note("there is nothing to fire, so nothing was begun");
            }
            (first, last) = (json!(preview.from), json!(preview.to));
        }
        if go == Go::Ask {
            context.out.flush()?;
            agreed("fire again for these?").await?;
        }
        let request = json!({ "from": first, "to": last });
        let watcher: Watcher = client.send(Method::POST, &place, &request).await?;
        told(context, &watcher)?;
        let show = context.typed(&format!("axwatch watch show {}", quoted(&watcher.id)));
        context.out.note(&format!("the replay has begun; `{show}` tells how far it is"))
    }
}

/// Refuses places that no log has, before anybody is asked.
fn check(from: &str, to: &str, now: Timestamp) -> Result<(), Fault> {
    for (flag, text) in [("--from", from), ("--to", to)] {
        if flag == "--to" && text.eq_ignore_ascii_case("now") {
            continue;
        }
        Since::read_past(text, now).map_err(|error| Fault::Usage(format!("{flag}: {error}")))?;
    }
    Ok(())
}

/// What a replay would fire.
fn show(out: &mut Output, preview: &ReplayPreview) -> Result<()> {
    if out.json {
        return out.object(preview);
    }
    let ReplayPreview { watcher, revision, when, from, to, claims, .. } = preview;
    let takes = match (preview.max_fires_per_second, preview.takes_ms) {
        (Some(rate), Some(ms)) => {
            format!("at {rate} a second at least {}", span(Duration::from_millis(ms)))
        }
        _ => "there is no limit".to_owned(),
    };
    out.fields(&[
        ("watcher", format!("{watcher} (revision {revision}: {})", when_in_words(when))),
        ("claims", format!("{}, seq {from} to {to}", counted(*claims, "claim"))),
        ("matches", preview.matches.to_string()),
        ("fires", format!("{} of {}", preview.fires, preview.handlers.join(", "))),
        ("takes", takes),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_is_of_claims_that_there_may_be() {
        let now: Timestamp = "2024-05-15T14:30:00Z".parse().unwrap();
        for (from, to) in [("start", "now"), ("1", "2"), ("yesterday", "1h"), ("2024-01-15", "9")] {
            assert!(check(from, to, now).is_ok(), "{from} {to}");
        }
        for (from, to, told) in [
            ("soon", "now", "--from: \"soon\" is neither"),
            ("1", "later", "--to: \"later\" is neither"),
            ("tomorrow", "now", "--from: \"tomorrow\" is 2024-05-16"),
        ] {
            let refused = check(from, to, now).unwrap_err().to_string();
            assert!(refused.contains(told), "{refused}");
        }
    }
}
