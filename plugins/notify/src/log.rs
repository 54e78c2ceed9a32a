//! `notify.log`: one line in the job's log, which a host shows in its own with the job's id.
//!
//! In comes a job; out goes `ALICE is author of GitHub by HR`, or the payload as text when it is no claim.
//! It is not said through `tracing` as well: the host would show it twice.

use axwatch_sdk::{Done, Failure, Job, Level};
use serde::Deserialize;

use crate::params::Params;

/// The handler's name.
pub(crate) const HANDLER: &str = "notify.log";
/// What its parameters may be.
pub(crate) const PARAMS: &[&str] = &["level", "prefix"];
/// What `level` may be.
pub(crate) const LEVELS: &str = "debug, info, warn or error";
/// Characters that a line shows of one claim.
const SHOWN_MAX: usize = 1_000;

/// What the configuration says about log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogSettings {
    /// `log.level`.
    pub level: Level,
    /// `log.prefix`; empty for none.
    pub prefix: String,
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings { level: Level::Info, prefix: String::new() }
    }
}

/// The level of that name.
pub(crate) fn level(text: &str) -> Option<Level> {
    Some(match text {
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" => Level::Warn,
        "error" => Level::Error,
        _ => return None,
    })
}

/// Writes the job's line.
pub(crate) fn execute(job: &Job, settings: &LogSettings) -> Result<Done, Failure> {
    let params = Params::of(job, HANDLER, PARAMS)?;
    let level = match params.text("level")? {
        None => settings.level,
        Some(text) => level(text).ok_or_else(|| params.bad("level", &text.into(), LEVELS))?,
    };
    let prefix = params.text("prefix")?.unwrap_or(&settings.prefix);
    job.log(level, line(prefix, &said(job.payload())));
    Ok(Done::new())
}

fn line(prefix: &str, said: &str) -> String {
    let text = if prefix.is_empty() { said.to_owned() } else { format!("{prefix} {said}") };
    shown(&text, SHOWN_MAX)
}

/// The first `max` characters; control characters become blanks.
pub(crate) fn shown(text: &str, max: usize) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut shown: String = text.trim().chars().take(max).map(plain).collect();
    if text.trim().chars().nth(max).is_some() {
        shown.push('…');
    }
    shown
}

/// The four dimensions of a claim.
#[derive(Deserialize)]
struct Said {
    subjects: Vec<String>,
    predicates: Vec<String>,
    contexts: Vec<String>,
    actors: Vec<String>,
}

fn said(payload: &[u8]) -> String {
    let Ok(claim) = serde_json::from_slice::<Said>(payload) else {
        return String::from_utf8_lossy(payload).into_owned();
    };
    let mut text = claim.subjects.join(" ");
    let rest = [("is", claim.predicates), ("of", claim.contexts), ("by", claim.actors)];
    for (word, terms) in rest {
        // `_` is what the engine puts where nothing was said.
        if !terms.is_empty() && terms != ["_"] {
            text = format!("{text} {word} {}", terms.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_said_in_its_own_words() {
        let cases = [
            // (payload, line)
            (
                r#"{"id":"1","subjects":["ALICE"],"predicates":["author"],"contexts":["GitHub"],"actors":["HR"]}"#,
                "ALICE is author of GitHub by HR",
            ),
            (
                r#"{"subjects":["A","B"],"predicates":["p","q"],"contexts":["_"],"actors":["x"]}"#,
                "A B is p q by x",
            ),
            (r#"{"subjects":["A"],"predicates":["_"],"contexts":["_"],"actors":[]}"#, "A"),
            (r#"{"n": 1}"#, r#"{"n": 1}"#),
            ("plain\n\u{1b}[31mtext", "plain  [31mtext"),
            ("", ""),
        ];
        for (payload, expected) in cases {
            assert_eq!(line("", &said(payload.as_bytes())), expected, "{payload}");
        }
        assert_eq!(line("hr:", "A is b"), "hr: A is b");
    }

    #[test]
    fn long_text_is_cut_with_a_mark() {
        assert_eq!(shown("äöü", 3), "äöü");
        assert_eq!(shown("äöü!", 3), "äöü…");
    }
}
