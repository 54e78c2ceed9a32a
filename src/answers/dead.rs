//! Dead letters: which are meant, what their errors have in common, and the count of what was done.
//!
//! In: a selection as somebody wrote it, and the reading side of the store. Out: rows, a page at a time
//! and each job once, the newest first; their summary; or the count of what became of them. Whatever is
//! done with one of them meanwhile, none is passed over and none comes twice, because pages go by the
//! numbers of jobs, which never change. Memory holds one page and a bounded number of groups.
//!
//! Not here: doing it (`crate::api`), what a fingerprint is (`crate::fingerprint`).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use axwatch_ats::JobsQuery;
use axwatch_model::{JobId, JobIdPrefix, JobRow, JobState, Timestamp, WatcherNumber, bounds};

use super::{AnswerError, Answers, Held, json_line};
use crate::fingerprint::fingerprint;
use crate::times;
use crate::views::{Action, DeadEnd, DeadGroup, DeadSummary, Outcome, Selection, Skipped};

/// Jobs that may be named in one request.
pub const NAMED_MAX: usize = 1_000;
/// Rows that are read at once.
const PAGE_ROWS: usize = 200;
/// Groups that are told apart; what belongs to none of them is only counted.
const GROUPS_MAX: usize = 1_000;
/// Groups that are told.
const GROUPS_TOLD: usize = 50;
/// Bytes of an error that a summary shows.
const ERROR_BYTES_MAX: usize = 1_024;
/// Reasons that are told apart.
const REASONS_MAX: usize = 50;

/// Jobs that were selected, as they are read.
pub struct Selected(Rows);

enum Rows {
    /// These jobs, whatever has become of them.
    Named(std::vec::IntoIter<JobId>),
    /// The dead letters before a number for which a rule holds.
    Dead { query: Box<JobsQuery>, rule: Rule, is_over: bool },
}

/// What has to hold for a dead letter, beyond what the store selects.
#[derive(Debug, Default)]
struct Rule {
    handler: Option<String>,
    /// A part of the error, in small letters.
    error: Option<String>,
    /// The fingerprint of the error; that of a job without one is none.
    like: Option<Option<String>>,
    older_than: Option<Timestamp>,
    newer_than: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Answers {
    /// The jobs that somebody means. Relative times are told from `now`.
    ///
    /// # Errors
    /// [`AnswerError`] for a selection that makes no sense, or a job or a watcher that is not there.
    pub async fn select(
        &self,
        selection: &Selection,
        now: Timestamp,
    ) -> Result<Selected, AnswerError> {
        check_together(selection)?;
        if !selection.jobs.is_empty() {
            let mut ids = Vec::with_capacity(selection.jobs.len());
            for text in &selection.jobs {
                ids.push(self.job_id(&prefix(text)?).await?);
            }
            let mut seen = HashSet::new();
            ids.retain(|id| seen.insert(*id));
            return Ok(Selected(Rows::Named(ids.into_iter())));
        }
        let watcher = match &selection.watcher {
            Some(text) => Some(self.watcher_named(text).await?),
            None => None,
        };
        let like = match &selection.like {
            Some(text) => {
                let id = self.job_id(&prefix(text)?).await?;
                Some(self.job_row(id).await?.error.as_deref().map(fingerprint))
            }
            None => None,
        };
        let rule = Rule {
            handler: selection.handler.clone(),
            error: selection.error.as_deref().map(str::to_lowercase),
            like,
            older_than: past("older_than", selection.older_than.as_deref(), now)?,
            newer_than: past("newer_than", selection.newer_than.as_deref(), now)?,
            until: selection.until,
        };
        let states = vec![JobState::Failed];
        let query = JobsQuery { watcher, states, limit: PAGE_ROWS, ..JobsQuery::default() };
        Ok(Selected(Rows::Dead { query: Box::new(query), rule, is_over: false }))
    }

    /// What selected jobs have in common.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub async fn sum_up(
        &self,
        mut selected: Selected,
        now: Timestamp,
    ) -> Result<DeadSummary, AnswerError> {
        let mut sums = Sums::default();
        while let Some(rows) = selected.next(self).await? {
            rows.iter().for_each(|row| sums.add(row));
        }
        self.summary(sums, now).await
    }

    /// Begins to list selected jobs: at most `limit` lines or all, and last the summary of all of them.
    pub fn list_selected(
        self: &Arc<Answers>,
        selected: Selected,
        limit: Option<usize>,
        now: Timestamp,
    ) -> DeadList {
        let sums = Some(Sums::default());
        DeadList { answers: Arc::clone(self), selected, sums, left: limit, now }
    }

    async fn summary(&self, sums: Sums, now: Timestamp) -> Result<DeadSummary, AnswerError> {
        let (groups, more_groups, more_jobs) = sums.largest();
        let mut told = Vec::with_capacity(groups.len());
        for group in groups {
            let watcher = match group.watcher {
                Some(number) => self.watcher_key(number).await?.map(|key| key.to_string()),
                None => None,
            };
            told.push(DeadGroup { watcher, ..group.told });
        }
        let jobs = told.iter().map(|group| group.jobs).sum::<u64>() + more_jobs;
        Ok(DeadSummary { jobs, groups: told, more_groups, more_jobs, at: Some(now) })
    }
}

fn prefix(text: &str) -> Result<JobIdPrefix, AnswerError> {
    text.parse().map_err(|error: axwatch_model::InvalidId| AnswerError::Invalid(error.to_string()))
}

fn past(name: &str, text: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, AnswerError> {
    let read = text.map(|text| times::past(text, now)).transpose();
    read.map_err(|problem| AnswerError::Invalid(format!("{name}: {problem}")))
}

/// Refuses what makes no sense together.
fn check_together(selection: &Selection) -> Result<(), AnswerError> {
    let invalid = |reason: String| Err(AnswerError::Invalid(reason));
    let Selection { watcher, handler, error, like, older_than, newer_than, .. } = selection;
    let filters = [
        ("watcher", watcher.as_deref()),
        ("handler", handler.as_deref()),
        ("error", error.as_deref()),
        ("like", like.as_deref()),
        ("older_than", older_than.as_deref()),
        ("newer_than", newer_than.as_deref()),
    ];
    if let Some((name, _)) = filters.iter().find(|(_, text)| text.is_some_and(str::is_empty)) {
        return invalid(format!("{name} is empty; leave it out, or say which are meant"));
    }
    let given = filters.iter().find(|(_, text)| text.is_some());
    let named = selection.jobs.len();
    if named == 0 && given.is_none() && !selection.all {
        return invalid(
            "no job is named and no filter is given; say all to mean every dead letter".to_owned(),
        );
    }
    if let (1.., Some((name, _))) = (named, given) {
        return invalid(format!(
            "jobs are named, and {name} selects among all dead letters; leave one out"
        ));
    }
    if named > 0 && selection.all {
        return invalid("jobs are named, and all means every one; leave one out".to_owned());
    }
    if named > NAMED_MAX {
        return invalid(format!(
            "{named} jobs are named; at most {NAMED_MAX} are, or give a filter"
        ));
    }
    Ok(())
}

impl Selected {
    /// The next rows; `None` at the end. A page may be empty before it.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub async fn next(&mut self, answers: &Answers) -> Result<Option<Vec<JobRow>>, AnswerError> {
        match &mut self.0 {
            Rows::Named(ids) => match ids.next() {
                Some(id) => Ok(Some(vec![answers.job_row(id).await?])),
                None => Ok(None),
            },
            Rows::Dead { is_over: true, .. } => Ok(None),
            Rows::Dead { query, rule, is_over } => {
                let (mut rows, next) = answers.store().jobs_page(query).await?;
                *is_over = next.is_none();
                query.before = next;
                rows.retain(|row| rule.holds_for(row));
                Ok(Some(rows))
            }
        }
    }
}

impl Rule {
    fn holds_for(&self, row: &JobRow) -> bool {
        let error = row.error.as_deref();
        let holds_text =
            |text: &String| error.is_some_and(|error| error.to_lowercase().contains(text.as_str()));
        let ended = row.completed_at.unwrap_or(row.created_at);
        self.handler.as_ref().is_none_or(|handler| is_handler(row, handler))
            && self.older_than.is_none_or(|time| ended < time)
            && self.newer_than.is_none_or(|time| ended >= time)
            && self.until.is_none_or(|time| ended <= time)
            && self.error.as_ref().is_none_or(holds_text)
            && self.like.as_ref().is_none_or(|like| error.map(fingerprint) == *like)
    }
}

/// Whether a job is of this handler: as it was declared, by its bare name, or with its plugin before it.
fn is_handler(row: &JobRow, handler: &str) -> bool {
    let with_plugin = || {
        let (plugin, bare) = handler.split_once('/')?;
        Some(row.plugin.as_ref()?.as_str() == plugin && row.bare_handler() == bare)
    };
    *row.handler == *handler || row.bare_handler() == handler || with_plugin() == Some(true)
}

/// A list of jobs that is being read.
pub struct DeadList {
    answers: Arc<Answers>,
    selected: Selected,
    /// `None` when they have been told.
    sums: Option<Sums>,
    /// How many more lines; `None` is all of them.
    left: Option<usize>,
    now: Timestamp,
}

impl DeadList {
    /// The next lines, each a JSON object; `None` at the end. A page may be empty before it.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, AnswerError> {
        let Some(sums) = &mut self.sums else { return Ok(None) };
        let Some(mut rows) = self.selected.next(&self.answers).await? else {
            let sums = self.sums.take().unwrap_or_default();
            let summary = self.answers.summary(sums, self.now).await?;
            return Ok(Some(vec![json_line(&DeadEnd { summary })]));
        };
        rows.iter().for_each(|row| sums.add(row));
        if let Some(left) = &mut self.left {
            rows.truncate(*left);
            *left -= rows.len();
        }
        let jobs = self.answers.job_views(rows, &Held::default()).await?;
        Ok(Some(jobs.iter().map(json_line).collect()))
    }
}

/// Jobs counted by what their errors have in common.
#[derive(Default)]
struct Sums {
    groups: HashMap<Option<String>, Group>,
    /// Jobs of groups that there was no room for.
    ungrouped: u64,
}

struct Group {
    told: DeadGroup,
    watcher: Option<WatcherNumber>,
}

impl Sums {
    /// Counts a job. The newest come first.
    fn add(&mut self, row: &JobRow) {
        let fingerprint = row.error.as_deref().map(fingerprint);
        let ended = Some(row.completed_at.unwrap_or(row.created_at));
        if let Some(Group { told, .. }) = self.groups.get_mut(&fingerprint) {
            told.jobs += 1;
            told.oldest_at = told.oldest_at.min(ended);
            told.newest_at = told.newest_at.max(ended);
        } else if self.groups.len() == GROUPS_MAX {
            self.ungrouped += 1;
        } else {
            let error = row.error.as_deref();
            let told = DeadGroup {
                fingerprint: fingerprint.clone(),
                jobs: 1,
                example: row.id,
                error: error.map(|error| bounds::cut(error, ERROR_BYTES_MAX).to_owned()),
                watcher: None,
                handler: row.handler.to_string(),
                oldest_at: ended,
                newest_at: ended,
            };
            self.groups.insert(fingerprint, Group { told, watcher: row.watcher });
        }
    }

    /// The largest groups, and how many groups and jobs are not among them.
    fn largest(self) -> (Vec<Group>, u64, u64) {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups.sort_unstable_by(|one, other| {
            let (one, other) = (&one.told, &other.told);
            other.jobs.cmp(&one.jobs).then_with(|| one.fingerprint.cmp(&other.fingerprint))
        });
        let rest = groups.split_off(groups.len().min(GROUPS_TOLD));
        let jobs = rest.iter().map(|group| group.told.jobs).sum::<u64>() + self.ungrouped;
        (groups, rest.len() as u64, jobs)
    }
}

/// The count of what was done with jobs.
pub struct Tally {
    action: Action,
    done: u64,
    skipped: u64,
    reasons: BTreeMap<String, Skipped>,
}

impl Tally {
    /// Nothing yet.
    pub fn new(action: Action) -> Tally {
        Tally { action, done: 0, skipped: 0, reasons: BTreeMap::new() }
    }

    /// It was done with one more.
    pub fn done(&mut self) {
        self.done += 1;
    }

    /// One was left as it is.
    pub fn skipped(&mut self, example: JobId, message: String) {
        self.skipped += 1;
        let reason = fingerprint(&message);
        if let Some(known) = self.reasons.get_mut(&reason) {
            known.jobs += 1;
        } else if self.reasons.len() < REASONS_MAX {
            self.reasons.insert(reason.clone(), Skipped { reason, jobs: 1, example, message });
        }
    }

    /// How many have been looked at.
    pub fn looked_at(&self) -> u64 {
        self.done + self.skipped
    }

    /// What became of them.
    pub fn outcome(self) -> Outcome {
        let mut reasons: Vec<Skipped> = self.reasons.into_values().collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.jobs));
        Outcome { action: self.action, done: self.done, skipped: self.skipped, reasons }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::{JobNumber, JobOrigin};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_ms_clamped(second * 1_000)
    }

    fn dead(number: u64, handler: &str, error: Option<&str>) -> JobRow {
        let id = JobId([u8::try_from(number % 256).unwrap(); 16]);
        let mut row = JobRow::queued(JobNumber(number), id, JobOrigin::Fire, handler.into(), at(0));
        row.state = JobState::Failed;
        row.error = error.map(str::to_owned);
        row.completed_at = Some(at(number.cast_signed()));
        row
    }

    #[test]
    fn a_rule_holds_when_all_of_it_does() {
        let mut row = dead(10, "git/ixgest.git", Some("Timed out after 30 s"));
        row.plugin = Some("git".parse().unwrap());
        let text = |text: &str| Some(text.to_owned());
        let cases = [
            (Rule::default(), true),
            (Rule { handler: text("git/ixgest.git"), ..Rule::default() }, true),
            (Rule { handler: text("ixgest.git"), ..Rule::default() }, true),
            (Rule { handler: text("other/ixgest.git"), ..Rule::default() }, false),
            (Rule { error: text("timed out"), ..Rule::default() }, true),
            (Rule { error: text("refused"), ..Rule::default() }, false),
            (Rule { like: Some(text("Timed out after <n> s")), ..Rule::default() }, true),
            (Rule { like: Some(None), ..Rule::default() }, false),
            (Rule { older_than: Some(at(11)), ..Rule::default() }, true),
            (Rule { older_than: Some(at(10)), ..Rule::default() }, false),
            (Rule { newer_than: Some(at(10)), ..Rule::default() }, true),
            (Rule { newer_than: Some(at(11)), ..Rule::default() }, false),
            (Rule { until: Some(at(10)), ..Rule::default() }, true),
            (Rule { until: Some(at(9)), error: text("timed"), ..Rule::default() }, false),
        ];
        for (rule, expected) in cases {
            assert_eq!(rule.holds_for(&row), expected, "{rule:?}");
        }
        let silent = dead(11, "h", None);
        assert!(Rule { like: Some(None), ..Rule::default() }.holds_for(&silent));
        assert!(!Rule { error: text("a"), ..Rule::default() }.holds_for(&silent));
    }

    #[test]
    fn what_is_meant_is_said_in_one_way() {
        let text = |text: &str| Some(text.to_owned());
        let named = |count: usize| vec!["abcd".to_owned(); count];
        let of = |jobs| Selection { jobs, ..Selection::default() };
        let cases = [
            (of(named(0)), Some("say all")),
            (of(named(1)), None),
            (of(named(NAMED_MAX + 1)), Some("1001 jobs are named")),
            (Selection { all: true, ..of(named(0)) }, None),
            (Selection { all: true, ..of(named(1)) }, Some("all means")),
            (Selection { watcher: text("w"), ..of(named(0)) }, None),
            (Selection { watcher: text("w"), ..of(named(1)) }, Some("watcher selects")),
            (Selection { watcher: text("w"), all: true, ..of(named(0)) }, None),
            (Selection { error: text(""), ..of(named(0)) }, Some("error is empty")),
        ];
        for (selection, told) in cases {
            let refused = check_together(&selection).err().map(|error| error.to_string());
            match told {
                None => assert_eq!(refused, None, "{selection:?}"),
                Some(told) => assert!(refused.is_some_and(|said| said.contains(told)), "{told}"),
            }
        }
    }

    #[test]
    fn groups_are_told_the_largest_first_and_bounded() {
        let mut sums = Sums::default();
        for number in (0..3_000).rev() {
            // A word for each, because a number would be masked.
            let word: String = format!("{number:04}")
                .bytes()
                .map(|digit| char::from(digit - b'0' + b'a'))
                .collect();
            sums.add(&dead(number, "h", Some(&word)));
            sums.add(&dead(number, "h", Some("the same 1")));
        }
        let (groups, more_groups, more_jobs) = sums.largest();
        let first = &groups[0].told;
        assert_eq!((first.fingerprint.as_deref(), first.jobs), (Some("the same <n>"), 3_000));
        assert_eq!((first.oldest_at, first.newest_at), (Some(at(0)), Some(at(2_999))));
        assert_eq!((groups.len(), more_groups), (GROUPS_TOLD, (GROUPS_MAX - GROUPS_TOLD) as u64));
        let told: u64 = groups.iter().map(|group| group.told.jobs).sum();
        assert_eq!(told + more_jobs, 6_000);
    }

    #[test]
    fn reasons_are_counted_by_what_they_have_in_common() {
        let mut tally = Tally::new(Action::Retry);
        let id = |n: u8| JobId([0xa0 + n; 16]);
        tally.done();
        tally.skipped(id(1), "watcher user-w of job x is retired".into());
        for n in [2, 3] {
            tally.skipped(id(n), format!("job {} is running", id(n)));
        }
        assert_eq!(tally.looked_at(), 4);
        let outcome = tally.outcome();
        assert_eq!((outcome.done, outcome.skipped), (1, 3));
        assert_eq!(outcome.reasons[0].reason, "job <id> is running");
        assert_eq!((outcome.reasons[0].jobs, outcome.reasons[0].example), (2, id(2)));
    }
}
