//! `notify.file`: one JSON line a job, at the end of a file.
//!
//! In comes a job; out goes `{job_id, attempt, watcher, handler, at, payload}` and a newline. A job that
//! is tried again after its line was written (the plugin died before its answer arrived) writes a second
//! line with the same `job_id`.
//!
//! Not here: how lines reach the file (`appender`).

mod appender;

use std::path::{Path, PathBuf};

use axwatch_sdk::{Done, Failure, Job};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::rfc3339;
use crate::params::Params;
use crate::payload::Payload;

use appender::AppendError;
pub(crate) use appender::Files;

/// The handler's name.
pub(crate) const HANDLER: &str = "notify.file";
/// What its parameters may be.
pub(crate) const PARAMS: &[&str] = &["path", "fsync"];

/// What the configuration says about files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FileSettings {
    /// `file.path`, for jobs that name none.
    pub path: Option<PathBuf>,
    /// `file.folder`, an absolute path: where relative paths lie.
    pub folder: Option<PathBuf>,
    /// `file.fsync`.
    pub fsync: bool,
}

impl FileSettings {
    /// Where a path leads; `None` when it is relative and there is no folder for those.
    pub(crate) fn locate(&self, path: &Path) -> Option<PathBuf> {
        if path.is_absolute() {
            return Some(path.to_owned());
        }
        Some(self.folder.as_ref()?.join(path))
    }
}

/// Writes the job's line.
pub(crate) async fn execute(
    job: &Job,
    settings: &FileSettings,
    files: &Files,
) -> Result<Done, Failure> {
    let params = Params::of(job, HANDLER, PARAMS)?;
    let path = path(&params, settings)?;
    let fsync = params.flag("fsync")?.unwrap_or(settings.fsync);
    let written = files.append(&path, line(job, Timestamp::now()), fsync).await;
    written.map_err(|error| failure(&path, error))?;
    Ok(Done::new())
}

fn path(params: &Params, settings: &FileSettings) -> Result<PathBuf, Failure> {
    let Some(text) = params.text("path")? else {
        return settings.path.as_deref().and_then(|path| settings.locate(path)).ok_or_else(|| {
            Failure::permanent(
                "notify.file does not know which file: give the watcher --params '{\"path\": \"/var/log/claims.jsonl\"}', \
                 or set [notify.file] path",
            )
        });
    };
    settings.locate(Path::new(text)).ok_or_else(|| {
        params.bad("path", &text.into(), "absolute, or set [notify.file] folder for relative ones")
    })
}

#[derive(Serialize)]
struct Line<'a> {
    job_id: &'a str,
    attempt: u32,
    watcher: Option<&'a str>,
    handler: &'a str,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<&'a str>,
}

fn line(job: &Job, at: Timestamp) -> Vec<u8> {
    let payload = Payload::of(job.payload());
    let (json, base64) = payload.parts();
    let line = Line {
        job_id: job.id(),
        attempt: job.attempt(),
        watcher: job.watcher(),
        handler: job.handler(),
        at: rfc3339(at),
        payload: json,
        payload_base64: base64,
    };
    let mut bytes = serde_json::to_vec(&line).expect("texts, numbers and good JSON make JSON");
    one_line(&mut bytes);
    bytes.push(b'\n');
    bytes
}

/// In JSON a bare newline stands between values only, where a blank does as well.
fn one_line(json: &mut [u8]) {
    for byte in json.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
}

fn failure(path: &Path, error: AppendError) -> Failure {
    let transient = error.is_transient();
    // `?` would make it a retry, and knows how to tell the chain of causes.
    let failure = Failure::from(error).at(format!("cannot append to {}", path.display()));
    if transient { failure } else { Failure::permanent(failure.reason()) }
}
