//! Lists, newest first, a page at a time.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use axwatch_ats::{JobsQuery, Matches};
use axwatch_model::{
    Asker, HandlerName, JobState, LeafNumber, PluginName, ScheduleId, Seq, Stored,
};

use super::audit::RECORD_TYPES;
use super::jobs::has_place;
use super::question::now;
use super::{AnswerError, Answers, Held, json_line};
use crate::views;

/// Rows that are asked for at once.
const PAGE_ROWS: usize = 200;
/// Records of the audit that are looked at at once.
const PAGE_RECORDS: u64 = 1_000;
/// Jobs of one list of which it is counted how many are ahead: for each page, all of those are looked at.
const AHEAD_COUNTED_MAX: usize = 100;

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
    Jobs(JobFilter),
    /// What became of the times of a schedule.
    Runs {
        /// The schedule, as somebody names it.
        schedule: String,
    },
    /// Records of the audit, before a number.
    Records {
        /// Only of this type.
        kind: Option<String>,
        /// Only those before this number.
        before: Option<LeafNumber>,
    },
}

/// Which jobs: those for which all of this holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only of this watcher.
    pub watcher: Option<String>,
    /// Only in this state, as shown.
    pub state: Option<JobState>,
    /// Only of this handler: its name, or `plugin/name`.
    pub handler: Option<String>,
    /// Only of handlers of this plugin.
    pub plugin: Option<String>,
    /// Only those that this one asked for: `user`, `schedule`, or a plugin.
    pub asker: Option<String>,
    /// Only those that their asker knows by this.
    pub source: Option<String>,
    /// Only the children of this job.
    pub parent: Option<String>,
    /// Only runs of this schedule.
    pub schedule: Option<String>,
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
    Jobs { query: Box<JobsQuery>, state: Option<JobState>, counted: usize },
    Runs { schedule: ScheduleId, before: Option<u64> },
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
            List::Fires { watcher, state } => {
                let (watcher, state) = (watcher.clone(), *state);
                self.jobs_cursor(&JobFilter { watcher, state, ..JobFilter::default() }, true)
                    .await?
            }
            List::Jobs(filter) => self.jobs_cursor(filter, false).await?,
            List::Runs { schedule } => {
                Cursor::Runs { schedule: self.schedule_row(schedule).await?.id, before: None }
            }
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
        filter: &JobFilter,
        fires_only: bool,
    ) -> Result<Cursor, AnswerError> {
        // Rows know of a pause only where somebody paused the job itself; another is queued to them.
        let states = match filter.state {
            Some(JobState::Paused) => vec![JobState::Queued, JobState::Paused],
            other => other.into_iter().collect(),
        };
        let mut query = JobsQuery {
            states,
            fires_only,
            asker: asker_of(filter)?,
            source: filter.source.as_deref().map(Arc::from),
            bare: true,
            limit: PAGE_ROWS,
            ..JobsQuery::default()
        };
        (query.plugin, query.handler) = handler_of(filter)?;
        if let Some(text) = &filter.watcher {
            query.watcher = Some(self.watcher_named(text).await?);
        }
        if let Some(text) = &filter.parent {
            let prefix = parsed("parent", Some(text.as_str()))?.expect("it was given");
            query.parent = Some(self.job_row(self.job_id(&prefix).await?).await?.number);
        }
        if let Some(text) = &filter.schedule {
            query.schedule = Some(self.schedule_row(text).await?.id);
        }
        Ok(Cursor::Jobs { query: Box::new(query), state: filter.state, counted: 0 })
    }
}

/// A value of a filter, if it was given.
fn parsed<T: FromStr<Err: Display>>(
    key: &str,
    text: Option<&str>,
) -> Result<Option<T>, AnswerError> {
    let value = text.map(str::parse).transpose();
    value.map_err(|error| AnswerError::Invalid(format!("{key}: {error}")))
}

/// Who asked for the jobs that are meant.
fn asker_of(filter: &JobFilter) -> Result<Option<Asker>, AnswerError> {
    parsed("asker", filter.asker.as_deref()).map_err(|error| {
        AnswerError::Invalid(format!("{error}; say user, schedule, or the name of a plugin"))
    })
}

/// The plugin and the bare name of the handlers that are meant.
fn handler_of(
    filter: &JobFilter,
) -> Result<(Option<PluginName>, Option<HandlerName>), AnswerError> {
    let plugin: Option<PluginName> = parsed("plugin", filter.plugin.as_deref())?;
    let Some(text) = &filter.handler else { return Ok((plugin, None)) };
    let (named, bare) = HandlerName::parse_qualified(text)
        .map_err(|error| AnswerError::Invalid(format!("handler: {error}")))?;
    match (plugin, named) {
        (Some(plugin), Some(named)) if plugin != named => Err(AnswerError::Invalid(format!(
            "handler {text} is one of plugin {named}, and plugin says {plugin}; leave one of them out"
        ))),
        (plugin, named) => Ok((plugin.or(named), Some(bare))),
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
            Cursor::Jobs { query, state, counted } => {
                let (rows, next) = self.answers.store().jobs_page(query).await?;
                let (wanted, fires_only) = (*state, query.fires_only);
                query.before = next;
                let shown = rows.iter().filter(|row| {
                    !fires_only && wanted.is_none_or(|state| self.held.shown(row) == state)
                });
                let shown = shown.take(self.left.unwrap_or(usize::MAX));
                let counted_at = now();
                let counting = shown
                    .filter(|row| has_place(row, counted_at))
                    .take(AHEAD_COUNTED_MAX - *counted);
                let aheads = self.answers.aheads(counting).await?;
                *counted += aheads.len();
                let ahead: Vec<_> =
                    rows.iter().map(|row| aheads.get(&row.number).copied()).collect();
                if next.is_none() {
                    self.cursor = Cursor::End;
                }
                let jobs = self.answers.job_views(rows, &self.held).await?.into_iter().zip(ahead);
                let jobs = jobs.map(|(job, ahead)| views::Job { ahead, ..job });
                let jobs = jobs.filter(|job| wanted.is_none_or(|state| job.state == state));
                if fires_only {
                    jobs.map(|job| json_line(&views::Fire::from(job))).collect::<Vec<_>>()
                } else {
                    jobs.map(|job| json_line(&job)).collect()
                }
            }
            Cursor::Runs { schedule, before } => {
                let store = self.answers.store();
                let rows = store.schedule_runs(*schedule, *before, PAGE_ROWS).await?;
                let is_last = rows.len() < PAGE_ROWS;
                *before = rows.last().map(|(number, _)| *number);
                if is_last {
                    self.cursor = Cursor::End;
                }
                let lines =
                    rows.into_iter().map(|(_, row)| json_line(&views::ScheduleRun::from(row)));
                lines.collect()
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
