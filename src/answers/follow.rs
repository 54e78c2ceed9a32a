//! Fires as they happen: new ones, and those that change.
//!
//! Everything that changes a job is a record of the audit, so following fires is reading the audit on
//! from a record, and looking up the jobs that its records name. A reader that falls behind reads
//! more at once, and misses nothing.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use axwatch_engine::Heads;
use axwatch_model::{JobId, JobOrigin, LeafNumber, WatcherNumber};
use serde::Deserialize;
use tokio::sync::watch;

use super::{AnswerError, Answers, Held, json_line};
use crate::views;

/// Rows of the audit that are read at once. One holds up to a few thousand records.
const ROWS_AT_ONCE: usize = 16;

/// A reader of fires as they happen.
pub struct Follow {
    answers: Arc<Answers>,
    heads: watch::Receiver<Heads>,
    next: LeafNumber,
    watcher: Option<WatcherNumber>,
}

/// The jobs that a record names.
#[derive(Deserialize)]
struct Names<'a> {
    r#type: Cow<'a, str>,
    job: Option<JobId>,
    #[serde(default)]
    fires: Vec<Fired>,
}

#[derive(Deserialize)]
struct Fired {
    job: JobId,
}

impl Answers {
    /// Follows the fires, of one watcher or all, from now on.
    ///
    /// # Errors
    /// [`AnswerError`] for a watcher that is not there.
    pub async fn follow(
        self: &Arc<Answers>,
        watcher: Option<&str>,
        mut heads: watch::Receiver<Heads>,
    ) -> Result<Follow, AnswerError> {
        let watcher = match watcher {
            Some(text) => Some(self.watcher_named(text).await?),
            None => None,
        };
        let next = heads.borrow_and_update().audit;
        Ok(Follow { answers: Arc::clone(self), heads, next, watcher })
    }
}

impl Follow {
    /// Whether there is more to tell at once.
    pub fn is_behind(&self) -> bool {
        self.heads.borrow().audit > self.next
    }

    /// Waits until something changed, and answers the fires that did, oldest first; `None` when the
    /// engine has stopped. `held` is asked for each page, so that it is fresh.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub async fn next(
        &mut self,
        held: impl AsyncFnOnce() -> Held,
    ) -> Result<Option<Vec<String>>, AnswerError> {
        while self.heads.borrow_and_update().audit <= self.next {
            if self.heads.changed().await.is_err() {
                return Ok(None);
            }
        }
        let rows = self.answers.store().audit_after(self.next, ROWS_AT_ONCE).await?;
        let mut jobs = Vec::new();
        let mut seen = BTreeSet::new();
        for row in &rows {
            for (leaf, record) in (row.first_leaf.0..).zip(row.records.split('\n')) {
                if leaf < self.next.0 {
                    continue;
                }
                jobs.extend(jobs_of(record).into_iter().filter(|job| seen.insert(*job)));
            }
            self.next = LeafNumber(row.first_leaf.0 + row.count);
        }
        let mut found = Vec::with_capacity(jobs.len());
        for job in jobs {
            let row = self.answers.store().job(job).await?;
            found.extend(row.filter(|row| {
                row.origin == JobOrigin::Fire
                    && (self.watcher.is_none() || row.watcher == self.watcher)
            }));
        }
        if found.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let views = self.answers.job_views(found, &held().await).await?;
        Ok(Some(views.into_iter().map(|job| json_line(&views::Fire::from(job))).collect()))
    }
}

fn jobs_of(record: &str) -> Vec<JobId> {
    let Ok(names) = serde_json::from_str::<Names<'_>>(record) else { return Vec::new() };
    match &*names.r#type {
        "matched" => names.fires.into_iter().map(|fired| fired.job).collect(),
        _ => names.job.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_its_jobs() {
        let id = "00112233445566778899aabbccddeeff";
        let cases = [
            (format!(r#"{{"fires":[{{"handler":"a","job":"{id}"}}],"type":"matched"}}"#), 1),
            (format!(r#"{{"job":"{id}","outcome":"failed","type":"attempt_ended"}}"#), 1),
            (r#"{"plugin":"git","type":"plugin_up"}"#.to_owned(), 0),
            ("broken".to_owned(), 0),
        ];
        for (record, jobs) in cases {
            assert_eq!(jobs_of(&record).len(), jobs, "{record}");
        }
    }
}
