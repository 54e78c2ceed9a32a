//! A watcher's text tried on history, before it is turned on.
//!
//! In: the text, and from where on. Out: a line for each claim for which it would have fired, the oldest
//! first, and last what came of all; or for some claims every condition. The text is checked as a
//! declaration is, and each claim is asked as matching asks it: at the moment when it was appended, under
//! the aliases that were in force at its number. Nothing is written and nothing fires, and nothing is
//! kept but what is counted.
//!
//! Where the words of the text lead to few claims only these are read ([`narrow`]), else the whole log,
//! in segments: the next ones are read, on threads of their own, while one is judged, so that a long
//! history takes as long as reading it does. What comes after the beginning is left out, or a trial might
//! never end.
//!
//! Not here: what a filter means (`axwatch_query`), what a limit does (`axwatch_core::Rehearsal`).

mod counts;
mod narrow;

use std::borrow::Cow;
use std::sync::Arc;

use axwatch_ats::since::Since;
use axwatch_ats::{AliasesOnTheWay, Store, StoreError};
use axwatch_core::{Refusal, check_declared, check_fires_per_second};
use axwatch_model::{
    Attestation, AttestationId, Declared, Seq, Stored, Timestamp, WatcherRow, WatcherState,
};
use axwatch_query::{Aliases, Filter, explain, matches};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::runtime::Handle;
use tokio::task::JoinError;

use super::{AnswerError, Answers, json_line};
use crate::views::{
    Beside, Change, Condition, Reached, Trial, TrialCompare, TrialEnd, TrialMatch, TrialProgress,
    TrialStart, TrialSummary, TrialVerdict,
};
use counts::{Counts, Limited};

/// Claims that are read at once; each may be long.
const SEGMENT_ROWS: usize = 250;
/// Segments that are read at the same time.
const SEGMENTS_AT_ONCE: usize = 2;
/// Segments from one word about how far it is to the next.
const SEGMENTS_A_WORD: u64 = 80;
/// Claims that may be named.
pub const ON_MAX: usize = 1_000;
/// Named claims that are judged for one page.
const ON_PAGE: usize = 100;

/// A trial under way.
pub struct TrialRun(Run);

enum Run {
    History(Box<History>),
    Chosen(Box<Chosen>),
}

impl Answers {
    /// Begins to try a text on history. Relative times of `since` are told from `now`.
    ///
    /// # Errors
    /// [`AnswerError`] for a text that no watcher could have, or for the rest of the trial.
    pub async fn try_on_history(
        &self,
        trial: &Trial,
        now: Timestamp,
    ) -> Result<TrialRun, AnswerError> {
        let rule = Rule::read(&trial.query).map_err(refused)?;
        let limit = check_fires_per_second(trial.max_fires_per_second).map_err(refused)?;
        check_together(trial)?;
        let from = match &trial.since {
            Some(since) => {
                Since::read(since, now).map_err(|error| AnswerError::Invalid(error.to_string()))?
            }
            None => Since::Seq(Seq(1)),
        };
        let present = match &trial.compare {
            Some(watcher) => Some(self.present(watcher).await?),
            None => None,
        };
        let store = Arc::clone(self.store());
        if !trial.on.is_empty() {
            let ids = trial.on.clone().into_iter();
            let chosen = Chosen { store, filter: rule.filter, present, ids };
            return Ok(TrialRun(Run::Chosen(Box::new(chosen))));
        }
        let mut history = History::begin(store, rule, present, from, None).await?;
        history.limit = limit.map(Limited::new);
        history.left = trial.limit;
        history.words = trial.progress.then_some(0);
        Ok(TrialRun(Run::History(Box::new(history))))
    }

    /// How often a watcher's present declaration holds for claims from `first` to `last`, and what that
    /// fires.
    ///
    /// # Errors
    /// [`AnswerError::Conflict`] when its text is no AX any more.
    pub async fn count_fires(
        &self,
        row: &WatcherRow,
        first: Seq,
        last: Seq,
    ) -> Result<TrialSummary, AnswerError> {
        let (filter, _) = Filter::declared(&row.declared).map_err(|mistakes| {
            let shown = &row.key;
            AnswerError::Conflict(format!(
                "the text of {shown} is no AX any more, so it fires for nothing: {mistakes}"
            ))
        })?;
        let handlers = row.handlers.iter().map(|handler| handler.declared.to_string()).collect();
        let rule = Rule { declared: row.declared.clone(), filter, handlers };
        let store = Arc::clone(self.store());
        let mut history = History::begin(store, rule, None, Since::Seq(first), Some(last)).await?;
        history.left = Some(0);
        while history.next().await?.is_some() {}
        Ok(history.counts.summary(None))
    }

    /// What a watcher waits for at present.
    async fn present(&self, text: &str) -> Result<Present, AnswerError> {
        let row = self.watcher_row(text).await?;
        let shown = row.key.to_string();
        if matches!(row.state, WatcherState::Retired | WatcherState::Refused) {
            return Err(AnswerError::Conflict(format!(
                "watcher {shown} is {} and fires for nothing; compare with one that stands",
                row.state
            )));
        }
        let (filter, _) = Filter::declared(&row.declared).map_err(|mistakes| {
            AnswerError::Conflict(format!(
                "the text of {shown} is no AX any more, so nothing can be compared with it: {mistakes}"
            ))
        })?;
        let told = TrialCompare {
            watcher: shown,
            revision: row.revision,
            when: row.declared.shown(),
            gained: 0,
            lost: 0,
            both: 0,
        };
        Ok(Present { declared: row.declared, filter, told })
    }
}

/// Refuses what makes no sense together, and bounds.
fn check_together(trial: &Trial) -> Result<(), AnswerError> {
    let invalid = |reason: String| Err(AnswerError::Invalid(reason));
    if trial.limit == Some(0) {
        return invalid("limit is 0; it must be at least 1".to_owned());
    }
    if trial.on.len() > ON_MAX {
        return invalid(format!("on: {} claims are named; at most {ON_MAX} are", trial.on.len()));
    }
    let also = [
        ("since", trial.since.is_some()),
        ("limit", trial.limit.is_some()),
        ("max_fires_per_second", trial.max_fires_per_second != 0),
    ];
    match also.iter().find(|(_, is_there)| *is_there && !trial.on.is_empty()) {
        Some((name, _)) => invalid(format!(
            "on names the claims that are tried, and {name} is about all of history; leave one out"
        )),
        None => Ok(()),
    }
}

fn refused(refusal: Refusal) -> AnswerError {
    match refusal.mistakes {
        Some(mistakes) => AnswerError::Query(mistakes),
        None => AnswerError::Invalid(refusal.reason),
    }
}

impl TrialRun {
    /// The next lines, each a JSON object; `None` at the end. A page may be empty before it.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, AnswerError> {
        Ok(match &mut self.0 {
            Run::History(history) => history.next().await?,
            Run::Chosen(chosen) => chosen.next().await?,
        })
    }
}

/// The text that is tried.
struct Rule {
    declared: Declared,
    filter: Filter,
    handlers: Vec<String>,
}

impl Rule {
    /// Reads it, and checks it as a watcher's declaration is checked.
    fn read(query: &str) -> Result<Rule, Refusal> {
        let declared = Declared::Ax(query.to_owned());
        let (filter, handlers) = check_declared(&declared)?;
        Ok(Rule { declared, filter, handlers })
    }
}

/// What a watcher waits for at present, beside the text that is tried.
struct Present {
    declared: Declared,
    filter: Filter,
    told: TrialCompare,
}

impl Present {
    fn told(&self) -> TrialCompare {
        self.told.clone()
    }
}

/// All of history from some claim on.
struct History {
    rule: Rule,
    present: Option<Present>,
    aliases: AliasesOnTheWay,
    segments: Segments,
    counts: Counts,
    limit: Option<Limited>,
    /// How many more lines; `None` is all of them.
    left: Option<usize>,
    /// The first claim and the last.
    first: Seq,
    last: Seq,
    /// Segments since the last word about how far it is; `None` where nobody asked.
    words: Option<u64>,
    is_over: bool,
}

impl History {
    /// Begins at some claim, and ends at `until`, or at the one that is the last now.
    async fn begin(
        store: Arc<dyn Store>,
        rule: Rule,
        present: Option<Present>,
        from: Since,
        until: Option<Seq>,
    ) -> Result<History, StoreError> {
        // The changes of aliases after the head, so that none of those before it is missing.
        let head = store.head().await?;
        let last = until.map_or(head, |until| until.min(head));
        let aliases = AliasesOnTheWay::new(store.alias_changes(Seq(0)).await?);
        let first = match from {
            Since::Seq(seq) => seq.max(Seq(1)),
            Since::Time(at) => store.first_since(at).await?.unwrap_or(last.next()),
        };
        let mut counts = Counts::new(rule.handlers.clone(), present.as_ref().map(Present::told));
        let ends = store.by_seqs(&[first, last]).await?;
        if let (true, Some(first), Some(last)) = (first <= last, ends.first(), ends.last()) {
            counts.span(place_of(first), place_of(last));
        }
        let declared = std::iter::once(&rule.declared).chain(present.iter().map(|p| &p.declared));
        let declared: Vec<&Declared> = declared.collect();
        let found = narrow::candidates(&*store, &declared, aliases.changes(), first, last).await?;
        let segments = match found {
            Some(found) => some_claims(store, found),
            None => all_claims(store, first, last),
        };
        Ok(History {
            rule,
            present,
            aliases,
            segments,
            counts,
            limit: None,
            left: None,
            first,
            last,
            words: None,
            is_over: false,
        })
    }

    async fn next(&mut self) -> Result<Option<Vec<String>>, StoreError> {
        if self.is_over {
            return Ok(None);
        }
        let mut lines = Vec::new();
        match self.segments.next().await.transpose()? {
            Some(rows) => {
                rows.iter().for_each(|stored| self.judge(stored, &mut lines));
                self.say_how_far(rows.last(), &mut lines);
            }
            None => {
                self.is_over = true;
                let summary = self.counts.summary(self.limit.as_ref());
                lines.push(json_line(&TrialEnd { summary }));
            }
        }
        Ok(Some(lines))
    }

    fn judge(&mut self, stored: &Stored, lines: &mut Vec<String>) {
        let claim = &stored.attestation;
        let aliases = self.aliases.before(stored.seq);
        let fires = matches(&self.rule.filter, claim, aliases);
        let change = self.present.as_ref().and_then(|present| {
            let fired = matches(&present.filter, claim, aliases);
            self.counts.compared(fires, fired)
        });
        let mut starts = None;
        if fires {
            self.counts.matched(claim.created_at);
            let handlers = &self.rule.handlers;
            starts = self.limit.as_mut().map(|limit| started(limit, handlers, claim));
        }
        let is_told = if self.present.is_some() { change.is_some() } else { fires };
        if is_told && self.left != Some(0) {
            self.left = self.left.map(|left| left - 1);
            self.counts.shown();
            lines.push(line_of(stored, change, starts));
        }
    }

    fn say_how_far(&mut self, last: Option<&Stored>, lines: &mut Vec<String>) {
        let (Some(words), Some(last)) = (&mut self.words, last) else { return };
        *words += 1;
        if *words == SEGMENTS_A_WORD {
            *words = 0;
            let claims = |last: Seq| last.0 - self.first.0 + 1;
            let progress = Reached { claims: claims(last.seq), of: claims(self.last) };
            lines.push(json_line(&TrialProgress { progress }));
        }
    }
}

/// What a limit does to the fires of one match: one for each handler, or one that runs nobody.
fn started(limit: &mut Limited, handlers: &[String], claim: &Attestation) -> Vec<TrialStart> {
    let mut start = |handler: Option<&String>| {
        let (starts_at, waits_ms) = limit.fire(claim.created_at);
        TrialStart { handler: handler.cloned(), starts_at, waits_ms }
    };
    if handlers.is_empty() {
        return vec![start(None)];
    }
    handlers.iter().map(|handler| start(Some(handler))).collect()
}

fn line_of(stored: &Stored, change: Option<Change>, starts: Option<Vec<TrialStart>>) -> String {
    let claim = &stored.attestation;
    json_line(&TrialMatch {
        seq: stored.seq,
        id: claim.id.clone(),
        fires_at: claim.created_at,
        subjects: Cow::Borrowed(&claim.subjects),
        predicates: Cow::Borrowed(&claim.predicates),
        contexts: Cow::Borrowed(&claim.contexts),
        actors: Cow::Borrowed(&claim.actors),
        timestamp: claim.timestamp,
        change,
        starts,
    })
}

fn place_of(stored: &Stored) -> (Seq, Timestamp) {
    (stored.seq, stored.attestation.created_at)
}

type Segments = BoxStream<'static, Result<Vec<Stored>, StoreError>>;

/// The log from `first` to `last`, in order.
fn all_claims(store: Arc<dyn Store>, first: Seq, last: Seq) -> Segments {
    let starts = stream::iter((first.0..=last.0).step_by(SEGMENT_ROWS));
    let read = move |first: u64| {
        let store = Arc::clone(&store);
        let last = Seq(last.0.min(first.saturating_add(SEGMENT_ROWS as u64 - 1)));
        elsewhere(async move {
            let (mut rows, mut after) = (Vec::new(), Seq(first - 1));
            // Of claims that are large few come at once.
            while after < last {
                let more = store.read_after(after, SEGMENT_ROWS).await?;
                let Some(end) = more.last() else { break };
                after = end.seq;
                rows.extend(more);
            }
            rows.truncate(rows.partition_point(|stored| stored.seq <= last));
            Ok(rows)
        })
    };
    starts.map(read).buffered(SEGMENTS_AT_ONCE).boxed()
}

/// The claims with these numbers, which rise.
fn some_claims(store: Arc<dyn Store>, seqs: Vec<Seq>) -> Segments {
    let seqs: Vec<Vec<Seq>> = seqs.chunks(SEGMENT_ROWS).map(<[Seq]>::to_vec).collect();
    let read = move |seqs: Vec<Seq>| {
        let store = Arc::clone(&store);
        elsewhere(async move { store.by_seqs(&seqs).await })
    };
    stream::iter(seqs).map(read).buffered(SEGMENTS_AT_ONCE).boxed()
}

/// Reads on a thread of its own: taking rows apart is most of the work.
async fn elsewhere(
    reading: impl Future<Output = Result<Vec<Stored>, StoreError>> + Send + 'static,
) -> Result<Vec<Stored>, StoreError> {
    let runtime = Handle::current();
    let reading = tokio::task::spawn_blocking(move || runtime.block_on(reading));
    match reading.await.map_err(JoinError::try_into_panic) {
        Ok(rows) => rows,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The program is ending, so nobody waits for this any more.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Some claims that were named, in that order.
struct Chosen {
    store: Arc<dyn Store>,
    filter: Filter,
    present: Option<Present>,
    ids: std::vec::IntoIter<AttestationId>,
}

impl Chosen {
    async fn next(&mut self) -> Result<Option<Vec<String>>, StoreError> {
        let ids: Vec<AttestationId> = self.ids.by_ref().take(ON_PAGE).collect();
        if ids.is_empty() {
            return Ok(None);
        }
        let mut found = Vec::with_capacity(ids.len());
        for (place, id) in ids.iter().enumerate() {
            found.extend(self.store.get(id).await?.map(|stored| (place, stored)));
        }
        let mut aliases = AliasesOnTheWay::new(self.store.alias_changes(Seq(0)).await?);
        found.sort_unstable_by_key(|(_, stored)| stored.seq);
        let mut verdicts: Vec<TrialVerdict> = ids.into_iter().map(TrialVerdict::missing).collect();
        for (place, stored) in &found {
            verdicts[*place] = self.verdict(stored, aliases.before(stored.seq));
        }
        Ok(Some(verdicts.iter().map(json_line).collect()))
    }

    fn verdict(&self, stored: &Stored, aliases: &Aliases) -> TrialVerdict {
        let claim = &stored.attestation;
        let asked = |filter: &Filter| {
            let conditions = explain(filter, claim, aliases).into_iter().map(Condition::from);
            (matches(filter, claim, aliases), conditions.collect())
        };
        let (fires, conditions) = asked(&self.filter);
        let compare = self.present.as_ref().map(|present| {
            let (fires, conditions) = asked(&present.filter);
            Beside { watcher: present.told.watcher.clone(), fires, conditions }
        });
        let (id, seq) = (claim.id.clone(), Some(stored.seq));
        TrialVerdict { id, seq, fires: Some(fires), conditions, compare }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        let on = |count: usize| (0..count).map(|n| n.to_string().parse().unwrap()).collect();
        let of = |on| Trial { query: "is a".into(), on, ..Trial::default() };
        let cases = [
            (of(on(0)), None),
            (of(on(ON_MAX)), None),
            (of(on(ON_MAX + 1)), Some("on: 1001 claims")),
            (Trial { limit: Some(0), ..of(on(0)) }, Some("limit is 0")),
            (Trial { limit: Some(1), ..of(on(1)) }, Some("limit is about")),
            (Trial { since: Some("start".into()), ..of(on(1)) }, Some("since is about")),
            (Trial { max_fires_per_second: 5, ..of(on(1)) }, Some("max_fires_per_second is")),
            (Trial { compare: Some("w".into()), ..of(on(1)) }, None),
        ];
        for (trial, told) in cases {
            let refused = check_together(&trial).err().map(|error| error.to_string());
            match told {
                None => assert_eq!(refused, None, "{trial:?}"),
                Some(told) => assert!(refused.is_some_and(|said| said.contains(told)), "{told}"),
            }
        }
    }
}
