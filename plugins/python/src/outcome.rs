//! What a run means: the answer to the host, and what people read of it.

use std::time::Duration;

use axwatch_sdk::{Done, Failure, Job, Level};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::frame::{Ending, Link};
use crate::worker::Ran;

/// Bytes of a result: what a host keeps of one.
const RESULT_BYTES_MAX: usize = 1024 * 1024;
/// Characters of a reason. A host keeps 4 KiB.
const REASON_BYTES_MAX: usize = 4_000;
/// The longest that a host puts a job off.
const NOT_NOW_SECS_MAX: f64 = 86_400.0;

/// The result of a job, as plugins of other hosts write it too.
#[derive(Serialize)]
struct Answer<'a> {
    stdout: &'a str,
    stderr: &'a str,
    duration_ms: f64,
    result: &'a RawValue,
}

/// What the host is answered.
pub(crate) fn of_job(job: &Job, ran: Ran) -> Result<Done, Failure> {
    let done = &ran.done;
    if let unsent @ 1.. = done.unsent {
        job.warn(format!("{unsent} more lines were logged and left out"));
    }
    if let Some(what) = &done.tainted {
        job.log(Level::Debug, format!("the handler {what}: its worker is replaced"));
    }
    match done.outcome {
        Ending::Ok => answer(&ran).map(|answer| Done::new().result(answer)),
        Ending::NotNow => {
            let secs = done.seconds.clamp(0.0, NOT_NOW_SECS_MAX);
            let secs = if secs.is_finite() { secs } else { 0.0 };
            Err(Failure::not_now(Duration::from_secs_f64(secs), &done.error))
        }
        Ending::Error => Err(Failure::retry(reason(job, &done.error, done.traceback.as_deref()))),
        Ending::Permanent | Ending::Unloadable => {
            Err(Failure::permanent(reason(job, &done.error, done.traceback.as_deref())))
        }
    }
}

/// The JSON of a result that fits: what was printed gives way.
fn answer(ran: &Ran) -> Result<Vec<u8>, Failure> {
    let result = Link::json_of(&ran.result).map_err(Failure::permanent)?;
    let duration_ms = ran.done.us as f64 / 1_000.0;
    let mut room = usize::MAX;
    loop {
        let (stdout, stderr) = (beginning(&ran.stdout, room), beginning(&ran.stderr, room));
        let answer = Answer { stdout, stderr, duration_ms, result };
        let json = serde_json::to_vec(&answer).map_err(Failure::permanent)?;
        if json.len() <= RESULT_BYTES_MAX || room == 0 {
            return Ok(json);
        }
        room = stdout.len().max(stderr.len()) / 2;
    }
}

fn beginning(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// A reason that a host keeps in whole; the longer story goes to the log.
fn reason(job: &Job, error: &str, traceback: Option<&str>) -> String {
    let error = error.trim_end();
    let traceback = traceback.map_or("", str::trim_end);
    if !traceback.is_empty() && (traceback != error || error.len() > REASON_BYTES_MAX) {
        job.log(Level::Error, traceback);
    }
    shortened(error)
}

/// Without its middle: how a traceback begins and how it ends say the most.
fn shortened(text: &str) -> String {
    if text.len() <= REASON_BYTES_MAX {
        return text.to_owned();
    }
    let word = "\n[…]\n";
    let head = text.floor_char_boundary(REASON_BYTES_MAX / 4);
    let tail = text.ceil_char_boundary(text.len() - (REASON_BYTES_MAX - head - word.len()));
    format!("{}{word}{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_loses_its_middle() {
        assert_eq!(shortened("short"), "short");
        let long = format!("begin{}end", "é".repeat(5_000));
        let short = shortened(&long);
        assert!(short.len() <= REASON_BYTES_MAX, "{}", short.len());
        assert!(short.starts_with("begin") && short.ends_with("end"));
    }
}
