//! What the code of a handler may ask for while it runs, and where what it says goes.
//!
//! For a job that is the host, on behalf of the job. For a test the log is asked as ever, and claims are
//! noted instead of made.

use std::sync::{Mutex, MutexGuard, PoisonError};

use axwatch_sdk::{Claim, Failure, Host, Job, Level, Query};
use serde_json::{Value, json};

use crate::NAME;
use crate::frame::{Draft, Reply};
use crate::output::Line;

/// Bytes of claims that a question may find.
const FOUND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Claims that a test notes, and bytes of them.
const NOTED_MAX: usize = 1_000;
const NOTED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Lines that a test notes.
const LINES_MAX: usize = 2_000;

/// What claims on handlers say.
const HANDLER_PREDICATES: [&str; 2] = ["handler", "handler:faulted"];

/// Who answers.
pub(crate) enum Services<'a> {
    Job(&'a Job),
    Test { host: &'a Host, noted: Mutex<Noted> },
}

/// What a test did.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    pub lines: Vec<Line>,
    pub claims: Vec<Draft>,
    bytes: usize,
}

impl<'a> Services<'a> {
    /// For a test.
    pub(crate) fn test(host: &'a Host) -> Services<'a> {
        Services::Test { host, noted: Mutex::default() }
    }

    /// What a test did; nothing for a job.
    pub(crate) fn into_noted(self) -> Noted {
        match self {
            Services::Job(_) => Noted::default(),
            Services::Test { noted, .. } => {
                noted.into_inner().unwrap_or_else(PoisonError::into_inner)
            }
        }
    }

    pub(crate) fn log(&self, (level, line): (Level, String)) {
        match self {
            Services::Job(job) => job.log(level, line),
            Services::Test { noted, .. } => {
                let mut noted = lock(noted);
                if noted.lines.len() < LINES_MAX {
                    noted.lines.push((level, line));
                }
            }
        }
    }

    /// Makes a claim; answers with it as JSON.
    pub(crate) async fn attest(&self, draft: Draft) -> (Reply, Vec<u8>) {
        if let Some(error) = on_handlers(&draft) {
            return (Reply::Failed { error, permanent: true }, Vec::new());
        }
        match self {
            Services::Job(job) => told(job.attest(claim(draft)).await.map(|claim| json(&claim))),
            Services::Test { noted, .. } => {
                let mut noted = lock(noted);
                let number = noted.claims.len() + 1;
                let shown = shown(&draft, number).to_string();
                noted.bytes += shown.len();
                if number > NOTED_MAX || noted.bytes > NOTED_BYTES_MAX {
                    let error = format!(
                        "a test makes at most {NOTED_MAX} claims, and {NOTED_BYTES_MAX} bytes of them"
                    );
                    return (Reply::Failed { error, permanent: true }, Vec::new());
                }
                noted.claims.push(draft);
                told(Ok(shown.into_bytes()))
            }
        }
    }

    /// Finds claims; answers with them as a JSON array.
    pub(crate) async fn query(&self, ax: String, limit: usize) -> (Reply, Vec<u8>) {
        let query = Query::ax(ax).limit(limit).bytes_max(FOUND_BYTES_MAX);
        let found = match self {
            Services::Job(job) => job.query(query).await,
            Services::Test { host, .. } => host.query(query).await,
        };
        let found = found.map(|claims| json(&claims));
        told(found.and_then(|found| {
            let bytes = found.len();
            let problem = || {
                format!("query: what it finds has {bytes} bytes; at most {FOUND_BYTES_MAX} fit: ask for fewer by limit=")
            };
            if bytes > FOUND_BYTES_MAX { Err(Failure::permanent(problem())) } else { Ok(found) }
        }))
    }
}

fn lock(noted: &Mutex<Noted>) -> MutexGuard<'_, Noted> {
    noted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a claim is none for the code of a handler to make: it is one on handlers, which the host would
/// take for the plugin's own.
fn on_handlers(draft: &Draft) -> Option<String> {
    let predicate = draft.predicates.iter().find(|said| HANDLER_PREDICATES.contains(&&***said))?;
    draft.contexts.iter().any(|context| context == NAME).then(|| {
        format!(
            "attest: a claim {predicate} of {NAME} is no handler's to make: use axwatch handler create or axwatch handler rm"
        )
    })
}

fn claim(draft: Draft) -> Claim {
    Claim::default()
        .subjects(draft.subjects)
        .predicates(draft.predicates)
        .contexts(draft.contexts)
        .actors(draft.actors)
        .attributes(draft.attributes)
}

/// What a claim of a test looks like to the code.
fn shown(draft: &Draft, number: usize) -> Value {
    let id = format!("test-{number}");
    let or = |terms: &Vec<String>, other: &str| match terms.is_empty() {
        true => vec![other.to_owned()],
        false => terms.clone(),
    };
    let mut shown = json!({
        "id": id,
        "subjects": draft.subjects,
        "predicates": or(&draft.predicates, "_"),
        "contexts": or(&draft.contexts, "_"),
        "actors": or(&draft.actors, &id),
        "source": "python",
    });
    if !draft.attributes.is_empty() {
        shown["attributes"] = Value::Object(draft.attributes.clone());
    }
    shown
}

fn json(found: &(impl serde::Serialize + ?Sized)) -> Vec<u8> {
    serde_json::to_vec(found).expect("claims have a JSON")
}

fn told(found: Result<Vec<u8>, Failure>) -> (Reply, Vec<u8>) {
    match found {
        Ok(found) => (Reply::Found {}, found),
        Err(failure) => {
            let permanent = matches!(failure, Failure::Permanent(_));
            (Reply::Failed { error: failure.reason().to_owned(), permanent }, Vec::new())
        }
    }
}
