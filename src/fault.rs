//! How a command fails: what is said, and with which code the process ends.
//!
//! 0 done; 1 refused, failed, or audit not ok; 2 usage or configuration; 3 store in use, newer or
//! corrupt; 74 storage failure. The code follows from the errors in the chain, so that nobody on the
//! way has to carry it.

use std::io::Write as _;

use axwatch_ats::{AppendConflict, CopyError, StoreError};
use axwatch_engine::StartError;
use axwatch_model::InvalidDraft;
use axwatch_model::Timestamp;
use serde_json::json;

use crate::answers::AnswerError;
use crate::claim::InvalidClaim;
use crate::client::ClientError;
use crate::config::ConfigError;

/// Failures that the program itself tells.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// It was not done.
    #[error("{0}")]
    Refused(String),
    /// What was asked about is there and is not as it should be; everything has been said already.
    #[error("not ok")]
    NotOk,
    /// The engine stopped because its disk failed.
    #[error("the store failed, so the engine has stopped; start it again once the disk is well")]
    Storage,
    /// The engine stopped because a part of it broke a promise of its own.
    #[error("a part of the engine panicked, so it has stopped; its log says where; start it again")]
    Panicked,
    /// Nobody reads our output any more.
    #[error("standard output is closed")]
    OutputClosed,
}

/// A text that is no AX, shown with every wrong place underlined.
#[derive(Debug, thiserror::Error)]
#[error("this is no AX\n{}", indented(&mistakes.render(text)))]
pub struct InvalidQuery {
    text: String,
    mistakes: axwatch_query::Mistakes,
}

impl InvalidQuery {
    /// Looks for mistakes in a question before anything is asked of anybody; its times are those of now.
    ///
    /// # Errors
    /// [`InvalidQuery`] when there are some.
    pub fn check_question(text: &str, now: Timestamp) -> Result<(), InvalidQuery> {
        axwatch_query::parse_at(text, now).map(drop).map_err(InvalidQuery::of(text))
    }

    /// Looks for mistakes in what a watcher is to wait for.
    ///
    /// # Errors
    /// [`InvalidQuery`] when there are some.
    pub fn check_watcher(text: &str) -> Result<(), InvalidQuery> {
        axwatch_query::parse_watcher(text).map(drop).map_err(InvalidQuery::of(text))
    }

    fn of(text: &str) -> impl FnOnce(axwatch_query::Mistakes) -> InvalidQuery {
        |mistakes| InvalidQuery { text: text.to_owned(), mistakes }
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// Ended as asked.
pub const DONE: u8 = 0;
const FAILED: u8 = 1;
/// The command line or the configuration asks for what cannot be.
pub const USAGE: u8 = 2;
const STORE_UNUSABLE: u8 = 3;
const STORAGE_FAILED: u8 = 74;

/// With which code the process ends.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    // A fault that was put around an error is not among the links of its chain.
    let around = || error.downcast_ref::<Fault>().map(code_of_fault);
    error.chain().find_map(code_of).or_else(around).unwrap_or(FAILED)
}

fn code_of_fault(fault: &Fault) -> u8 {
    match fault {
        Fault::Usage(_) => USAGE,
        Fault::Refused(_) | Fault::NotOk => FAILED,
        // Memory may be ahead of the disk after either.
        Fault::Storage | Fault::Panicked => STORAGE_FAILED,
        Fault::OutputClosed => DONE,
    }
}

fn code_of(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return Some(code_of_fault(fault));
    }
    if error.is::<ConfigError>() {
        return Some(USAGE);
    }
    if let Some(StartError::Audit(_)) = error.downcast_ref() {
        return Some(STORE_UNUSABLE);
    }
    match error.downcast_ref::<CopyError>() {
        Some(CopyError::Exists { .. } | CopyError::Name { .. } | CopyError::NoRoom { .. }) => {
            return Some(FAILED);
        }
        Some(CopyError::NotClosed { .. }) => return Some(STORE_UNUSABLE),
        Some(CopyError::File { .. }) => return Some(STORAGE_FAILED),
        Some(CopyError::Unfit { .. } | CopyError::Store(_)) | None => {}
    }
    store_error(error).map(|error| match error {
        StoreError::InUse { .. } | StoreError::Newer { .. } | StoreError::Corrupt { .. } => {
            STORE_UNUSABLE
        }
        StoreError::Row { .. } => STORE_UNUSABLE,
        StoreError::Open { .. } | StoreError::Database { .. } | StoreError::NotKept { .. } => {
            STORAGE_FAILED
        }
    })
}

/// The store's own error, whatever it is told through.
fn store_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a StoreError> {
    if let Some(AnswerError::Store(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(CopyError::Store(error)) = error.downcast_ref() {
        return Some(error);
    }
    error.downcast_ref()
}

/// Says on standard error what went wrong: for people with its causes beneath, for programs as one
/// object on one line.
pub fn report(error: &anyhow::Error, as_json: bool) {
    let silent = |fault: &Fault| matches!(fault, Fault::OutputClosed | Fault::NotOk);
    if error.downcast_ref::<Fault>().is_some_and(silent) {
        return;
    }
    let mut stderr = anstream::stderr().lock();
    // With nobody to read it there is nothing left to do about it.
    let _ = if as_json {
        writeln!(stderr, "{}", to_json(error))
    } else {
        let red = anstyle::AnsiColor::Red.on_default().bold();
        writeln!(stderr, "{red}error:{red:#} {}", told(error))
    };
}

/// The error and its causes, each once: a cause that its error already repeats is left out.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for cause in error.chain() {
        let line = cause.to_string();
        if last.contains(&line) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\n  because: ");
        }
        text.push_str(&line);
        last = line;
    }
    if let Some(next) = next_step(error) {
        text.push_str("\n  try: ");
        text.push_str(next);
    }
    text
}

/// What to do about it, where the error itself is told by a part that knows nothing of commands.
fn next_step(error: &anyhow::Error) -> Option<&'static str> {
    let copying = error.chain().find_map(|cause| cause.downcast_ref::<CopyError>());
    match copying {
        Some(CopyError::Exists { .. }) => {
            return Some(
                "name another place; or say --force, which keeps a store that is there under another name",
            );
        }
        Some(CopyError::Unfit { .. }) => return Some("take another backup"),
        _ => {}
    }
    match error.chain().find_map(store_error)? {
        StoreError::InUse { .. } => {
            Some("stop that process first, or name another store with --store PATH")
        }
        StoreError::Corrupt { .. } | StoreError::Row { .. } => Some(
            "restore the file from a backup, or name another store with --store PATH; nothing was changed",
        ),
        StoreError::Newer { .. } => {
            Some("name another store with --store PATH; nothing was changed")
        }
        StoreError::Open { .. } => Some(
            "see that its folder is there and that you may write to it, or name another store with --store PATH",
        ),
        StoreError::NotKept { .. } => {
            Some("make room beside the store, or move it to a larger disk, then run it again")
        }
        StoreError::Database { .. } => {
            Some("look at the disk and its free space (df -h), then run it again")
        }
    }
}

/// The stable name of what a cause is, where the cause alone decides it: the same that a server says.
fn kind_of(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(answer) = cause.downcast_ref::<AnswerError>() {
        return match answer {
            AnswerError::NotFound(_) => Some("not_found"),
            AnswerError::Conflict(_) => Some("conflict"),
            AnswerError::Invalid(_) => Some("invalid"),
            AnswerError::Query(_) => Some("ax"),
            AnswerError::Store(_) => None,
        };
    }
    match cause.downcast_ref::<CopyError>() {
        Some(CopyError::Exists { .. }) => return Some("conflict"),
        Some(CopyError::Name { .. }) => return Some("invalid"),
        Some(CopyError::NoRoom { .. }) => return Some("resource_exhausted"),
        _ => {}
    }
    if cause.is::<AppendConflict>() {
        return Some("conflict");
    }
    cause.is::<InvalidDraft>().then_some("invalid")
}

fn to_json(error: &anyhow::Error) -> serde_json::Value {
    let kind = match exit_code(error) {
        USAGE => "usage",
        STORE_UNUSABLE => "store",
        STORAGE_FAILED => "storage",
        _ => "failed",
    };
    for cause in error.chain() {
        if let Some(ClientError::Server(refusal)) = cause.downcast_ref() {
            return json!({ "error": refusal });
        }
        if let Some(query) = cause.downcast_ref::<InvalidQuery>() {
            let mistakes = serde_json::to_value(&query.mistakes).ok();
            let message = query.mistakes.to_string();
            return json!({ "error": { "kind": "ax", "message": message, "mistakes": mistakes } });
        }
        if let Some(claim) = cause.downcast_ref::<InvalidClaim>() {
            return json!({ "error": { "kind": "claim", "message": claim.one_line() } });
        }
    }
    let kind = error.chain().find_map(kind_of).unwrap_or(kind);
    let message = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let mut said = json!({ "kind": kind, "message": message });
    if let Some(hint) = next_step(error) {
        said["hint"] = hint.into();
    }
    json!({ "error": said })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn the_code_follows_from_the_chain() {
        let in_use = || StoreError::InUse { path: "a.db".into(), holder: "process 1".into() };
        let disk = StoreError::Open { path: "a".into(), source: std::io::Error::other("full") };
        let cases = [
            (anyhow::Error::from(in_use()).context("cannot serve"), 3),
            (AnswerError::Store(in_use()).into(), 3),
            (disk.into(), 74),
            (Fault::Usage("no".into()).into(), 2),
            (Fault::Storage.into(), 74),
            (anyhow::anyhow!("a panic").context(Fault::Panicked), 74),
            (Fault::OutputClosed.into(), 0),
            (StartError::Audit("cut".into()).into(), 3),
            (StartError::Store(in_use()).into(), 3),
            (anyhow::anyhow!("other"), 1),
        ];
        for (error, code) in cases {
            assert_eq!(exit_code(&error), code, "{error:#}");
        }
    }

    #[test]
    fn programs_get_the_hint_that_people_get() {
        let in_use = StoreError::InUse { path: "a.db".into(), holder: "process 1".into() };
        let error = anyhow::Error::from(in_use);
        let json = to_json(&error);
        let hint = json["error"]["hint"].as_str().unwrap();
        assert!(told(&error).ends_with(&format!("try: {hint}")));
        assert_eq!(to_json(&anyhow::anyhow!("other"))["error"].get("hint"), None);
    }

    #[test]
    fn a_kind_is_the_same_with_a_server_and_without() {
        let conflict = AppendConflict { id: "a".parse().unwrap(), seq: axwatch_model::Seq(1) };
        let cases = [
            (AnswerError::NotFound("x".into()).into(), "not_found"),
            (AnswerError::Conflict("x".into()).into(), "conflict"),
            (anyhow::Error::from(conflict), "conflict"),
            (axwatch_model::Draft::from_json("{}}").unwrap_err().into(), "invalid"),
            (Fault::Refused("x".into()).into(), "failed"),
            (Fault::Usage("x".into()).into(), "usage"),
        ];
        for (error, kind) in cases {
            assert_eq!(to_json(&error)["error"]["kind"], kind, "{error:#}");
        }
    }

    #[test]
    fn causes_are_told_once() {
        let error: anyhow::Result<()> = Err(std::io::Error::other("the disk is gone"))
            .context("cannot write: the disk is gone")
            .context("cannot start");
        let told = told(&error.unwrap_err());
        assert_eq!(told, "cannot start\n  because: cannot write: the disk is gone");
    }
}
