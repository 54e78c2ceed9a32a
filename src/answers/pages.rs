//! Lists, newest first, a page at a time.

use std::sync::Arc;

use axwatch_ats::{JobsQuery, Matches};
use axwatch_model::{JobNumber, JobState, LeafNumber, Seq, Stored};

use super::audit::RECORD_TYPES;
use super::{AnswerError, Answers, Held, json_line};
use crate::views;

/// Rows that are asked for at once.
const PAGE_ROWS: usize = 200;
/// Records of the audit that are looked at at once.
const PAGE_RECORDS: u64 = 1_000;

/// What is listed.
#[derive(Debug, Clone)]
pub enum List {
    /// Claims that an AX query finds, before a number.
    Attestations {
        /// The query.
        query: String,
        /// Only those before this number.
        before: Option<Seq>,
    },
    /// Jobs that watchers made.
    Fires {
        /// Only of this watcher.
        watcher: Option<String>,
        /// Only in this state, as shown.
        state: Option<JobState>,
    },
    /// All jobs.
    Jobs {
        /// Only of this watcher.
        watcher: Option<String>,
        /// Only in this state, as shown.
        state: Option<JobState>,
    },
    /// Records of the audit, before a number.
    Records {
        /// Only of this type.
        kind: Option<String>,
        /// Only those before this number.
        before: Option<LeafNumber>,
    },
}

/// A list that is being read.
pub struct Pages {
    answers: Arc<Answers>,
    held: Held,
    cursor: Cursor,
    /// How many more lines; `None` is all of them.
    left: Option<usize>,
}

enum Cursor {
    Attestations(Box<Matches>),
    Jobs { query: JobsQuery, state: Option<JobState> },
    Records { kind: Option<String>, before: LeafNumber },
    End,
}

impl Answers {
    /// Begins to read a list: at most `limit` lines, or all.
    ///
    /// # Errors
    /// [`AnswerError`] for a query that is no AX, a type that no record has, or a watcher that is not
    /// there.
    pub async fn list(
        self: &Arc<Answers>,
        list: &List,
        limit: Option<usize>,
        held: Held,
    ) -> Result<Pages, AnswerError> {
        let cursor = match list {
            List::Attestations { query, before } => {
                Cursor::Attestations(Box::new(self.ask(query, *before).await?))
            }
            List::Fires { watcher, state } => self.jobs_cursor(watcher, *state, true).await?,
            List::Jobs { watcher, state } => self.jobs_cursor(watcher, *state, false).await?,
            List::Records { kind, before } => {
                if let Some(kind) = kind.as_deref().filter(|kind| !RECORD_TYPES.contains(kind)) {
                    return Err(AnswerError::Invalid(format!(
                        "no record has the type {kind:?}; there are {}",
                        RECORD_TYPES.join(", ")
                    )));
                }
                let before = match before {
                    Some(before) => *before,
                    None => LeafNumber(self.audit_size().await?),
                };
                Cursor::Records { kind: kind.clone(), before }
            }
        };
        Ok(Pages { answers: Arc::clone(self), held, cursor, left: limit })
    }

    async fn jobs_cursor(
        &self,
        watcher: &Option<String>,
        state: Option<JobState>,
        fires_only: bool,
    ) -> Result<Cursor, AnswerError> {
        let watcher = match watcher {
            Some(text) => Some(self.watcher_named(text).await?),
            None => None,
        };
        // Rows know no pause: such a job is queued to them.
        let row_state = match state {
            Some(JobState::Paused) => Some(JobState::Queued),
            other => other,
        };
        let query = JobsQuery {
            watcher,
            state: row_state,
            fires_only,
            limit: PAGE_ROWS,
            ..JobsQuery::default()
        };
        Ok(Cursor::Jobs { query, state })
    }
}

impl Pages {
    /// The next lines, each a JSON object; `None` at the end. A page may be empty before it.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, AnswerError> {
        if self.left == Some(0) {
            return Ok(None);
        }
        let mut lines = match &mut self.cursor {
            Cursor::End => return Ok(None),
            Cursor::Attestations(matches) => {
                let Some(rows) = matches.next(self.left.unwrap_or(usize::MAX)).await? else {
                    return Ok(None);
                };
                rows.iter().map(Stored::to_json).collect()
            }
            Cursor::Jobs { query, state } => {
                let rows = self.answers.store().jobs(query).await?;
                let (wanted, fires_only) = (*state, query.fires_only);
                let last: Option<JobNumber> = rows.last().map(|row| row.number);
                query.before = last;
                if rows.len() < query.limit || last.is_none() {
                    self.cursor = Cursor::End;
                }
                let jobs = self.answers.job_views(rows, &self.held).await?;
                let jobs =
                    jobs.into_iter().filter(|job| wanted.is_none_or(|state| job.state == state));
                if fires_only {
                    jobs.map(|job| json_line(&views::Fire::from(job))).collect::<Vec<_>>()
                } else {
                    jobs.map(|job| json_line(&job)).collect()
                }
            }
            Cursor::Records { kind, before } => {
                let from = LeafNumber(before.0.saturating_sub(PAGE_RECORDS));
                let lines = self.answers.records(from, *before, kind.as_deref()).await?;
                *before = from;
                if from == LeafNumber(0) {
                    self.cursor = Cursor::End;
                }
                lines
            }
        };
        if let Some(left) = &mut self.left {
            lines.truncate(*left);
            *left -= lines.len();
        }
        Ok(Some(lines))
    }
}
