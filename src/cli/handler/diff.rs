//! `axwatch handler diff`: what one version of a handler has that another has not.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use similar::TextDiff;

use super::show::printable;
use crate::cli::Context;
use crate::fault::Fault;
use crate::source::Source;
use crate::views::HandlerVersion;

/// Lines around a change that are shown.
const AROUND: usize = 3;
/// How long the shortest difference is looked for; a longer one is told after that.
const LOOK_FOR: Duration = Duration::from_secs(2);

/// Show what changed between two versions of a handler
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch handler diff hello            # the version before the newest, and the newest
  axwatch handler diff hello 2          # version 2 and the newest
  axwatch handler diff hello 2 4 --json | jq -r .diff")]
pub struct Diff {
    /// Its name, or plugin.name
    name: String,
    /// The older version: its number, or the id of its claim [default: the one before the newest]
    #[arg(value_name = "A")]
    from: Option<String>,
    /// The newer version [default: the newest]
    #[arg(value_name = "B")]
    to: Option<String>,
}

impl Diff {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let source = Source::find(&context.config()?.store).await?;
        let to = source.handler(&self.name, self.to.as_deref()).await?;
        let from = match (self.from, to.shown.number) {
            (Some(from), _) => from,
            (None, 0 | 1) => {
                let told =
                    format!("handler {} has only one version, so nothing changed", to.handler.name);
                return Err(Fault::Refused(told).into());
            }
            (None, number) => (number - 1).to_string(),
        };
        let from = source.handler(&self.name, Some(&from)).await?;
        let title = |of: &HandlerVersion| format!("{} version {}", to.handler.name, of.number);
        let text = unified(&from.code, &to.code, &title(&from.shown), &title(&to.shown));
        let out = &mut context.out;
        if out.json {
            return out.object(&json!({
                "handler": to.handler.handler, "from": from.shown, "to": to.shown, "diff": text,
            }));
        }
        if text.is_empty() {
            let (from, to) = (from.shown.number, to.shown.number);
            return out.note(&format!("versions {from} and {to} have the same code"));
        }
        for line in text.lines() {
            let style = style_of(line);
            out.line(&format!("{style}{}{style:#}", printable(line)))?;
        }
        Ok(())
    }
}

/// The difference in the form that `patch` reads; empty when there is none.
fn unified(from: &str, to: &str, from_title: &str, to_title: &str) -> String {
    let diff = TextDiff::configure().timeout(LOOK_FOR).diff_lines(from, to);
    diff.unified_diff().context_radius(AROUND).header(from_title, to_title).to_string()
}

fn style_of(line: &str) -> Style {
    match line.as_bytes().first() {
        _ if line.starts_with("--- ") || line.starts_with("+++ ") => Style::new().bold(),
        Some(b'+') => AnsiColor::Green.on_default(),
        Some(b'-') => AnsiColor::Red.on_default(),
        Some(b'@') => AnsiColor::Cyan.on_default(),
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_as_patch_reads_it() {
        let told = unified("a\nb\nc\n", "a\nB\nc\n", "h version 1", "h version 2");
        let expected = "--- h version 1\n+++ h version 2\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n";
        assert_eq!(told, expected);
        assert_eq!(unified("a\n", "a\n", "x", "y"), "");
        assert!(unified("a", "a\n", "x", "y").contains("No newline at end of file"));
    }
}
