//! Answers about what the store holds: the one path that HTTP and a command without a server share.
//!
//! In: a question and the reading side of a store. Out: views, or for lists their JSON lines, a page
//! at a time, so that memory stays flat however long the list is. What only a running server knows
//! (which plugin is away, which watcher is paused) comes in as [`Held`].
//!
//! Not here: HTTP (`crate::api`), the choice between server and store (`crate::source`).

mod aliases;
mod arrivals;
mod audit;
mod budgets;
mod dead;
mod follow;
mod handlers;
mod jobs;
mod pages;
mod progress;
mod question;
mod reasons;
mod rehearsal;
mod schedules;
mod status;
mod trace;
mod watchers;
mod why;
mod why_not;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use axwatch_ats::{AliasBook, Store, StoreError};
use axwatch_core::Reading;
use axwatch_engine::WatcherView;
use axwatch_model::{
    AttestationId, JobId, JobIdPrefix, JobRow, JobState, LaneKey, Owner, PluginName, ScheduleId,
    Seq, WatcherKey, WatcherNumber, WatcherRow, WatcherState, bounds,
};
use axwatch_query::{Aliases, Mistakes};
use base64::Engine as _;
use serde_json::value::RawValue;

pub use aliases::Known;
pub use audit::RECORD_TYPES;
pub use dead::{DeadList, NAMED_MAX, Selected, Tally};
pub use handlers::{Versions, bare, named_handler};
pub use pages::{JobFilter, List, Pages};
pub use progress::{JobFollow, Told};
pub use question::OVER_NOT_FOLLOWED;
pub use rehearsal::{ON_MAX, TrialRun};
pub use status::{Live, waits};
pub use trace::Extent;

use crate::views::{self, Named, names_watcher};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// What was asked about is not there.
    #[error("{0}")]
    NotFound(String),
    /// It is there, and does not have what was asked for.
    #[error("{0}")]
    Conflict(String),
    /// The question asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The question is no AX.
    #[error("the query is no AX: {0}")]
    Query(Box<Mistakes>),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What holds jobs back, as far as it is known. Without a server nothing is.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// The plugins that take jobs; `None` when nobody knows.
    pub ready: Option<HashSet<PluginName>>,
    /// The watchers whose fires wait.
    pub paused: HashSet<WatcherNumber>,
    /// The lanes that wait for a budget.
    pub by_budgets: BTreeSet<LaneKey>,
    /// Since a start: nothing is matched until all texts are read.
    pub reading: Option<Reading>,
}

/// A server that runs on the store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Server {
    /// As in [`Held`].
    pub reading: Option<Reading>,
}

impl Held {
    /// The server, if there is one.
    pub fn server(&self) -> Option<Server> {
        self.ready.as_ref().map(|_| Server { reading: self.reading })
    }

    /// The state that is shown: `paused` for a queued job that something holds back.
    pub fn shown(&self, row: &JobRow) -> JobState {
        let Some(ready) = self.ready.as_ref().filter(|_| row.state == JobState::Queued) else {
            return row.state;
        };
        let away = row.plugin.as_ref().is_none_or(|plugin| !ready.contains(plugin));
        let paused = row.watcher.is_some_and(|watcher| self.paused.contains(&watcher));
        let by_budget = !self.by_budgets.is_empty() && self.by_budgets.contains(&row.lane());
        if away || paused || by_budget { JobState::Paused } else { JobState::Queued }
    }
}

/// Answers about one store.
pub struct Answers {
    store: Arc<dyn Store>,
    aliases: AliasBook,
    names: Mutex<HashMap<WatcherNumber, WatcherKey>>,
    schedules: Mutex<HashMap<ScheduleId, String>>,
}

impl Answers {
    /// Answers about this store.
    pub fn new(store: Arc<dyn Store>) -> Arc<Answers> {
        let (names, schedules) = (Mutex::default(), Mutex::default());
        Arc::new(Answers { store, aliases: AliasBook::new(), names, schedules })
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// A head of the log, and the aliases that the claims up to it left.
    pub async fn aliases_at_head(&self) -> Result<(Seq, Arc<Aliases>), StoreError> {
        self.aliases.at_head(&*self.store).await
    }

    /// The claim with this id, as JSON with `seq`.
    pub async fn attestation(&self, id: &AttestationId) -> Result<String, AnswerError> {
        let found = self.store.get(id).await?;
        let stored = found.ok_or_else(|| {
            AnswerError::NotFound(format!("there is no attestation {id} in this store"))
        })?;
        Ok(stored.to_json())
    }

    /// The id of the one job whose id begins so. A whole id is taken as it is.
    ///
    /// # Errors
    /// [`AnswerError::NotFound`] when there is none, [`AnswerError::Conflict`] when there are several.
    pub async fn job_id(&self, prefix: &JobIdPrefix) -> Result<JobId, AnswerError> {
        const SHOWN_MAX: usize = 5;
        if let Some(id) = prefix.whole() {
            return Ok(id);
        }
        let found = self.store.jobs_beginning(prefix, SHOWN_MAX + 1).await?;
        match &found[..] {
            [] => Err(AnswerError::NotFound(format!(
                "the id of no job begins with {prefix}; `axwatch jobs list` shows those that there are"
            ))),
            [job] => Ok(job.id),
            several => {
                let more = if several.len() > SHOWN_MAX { ", …" } else { "" };
                let ids: Vec<_> =
                    several.iter().take(SHOWN_MAX).map(|job| job.id.to_string()).collect();
                Err(AnswerError::Conflict(format!(
                    "the ids of several jobs begin with {prefix}, so give more digits: {}{more}",
                    ids.join(", ")
                )))
            }
        }
    }

    /// The row of the job with this id.
    pub async fn job_row(&self, id: JobId) -> Result<JobRow, AnswerError> {
        let found = self.store.job(id).await?;
        found.ok_or_else(|| {
            AnswerError::NotFound(format!(
                "there is no job {id} in this store; `axwatch jobs list` shows those that there are"
            ))
        })
    }

    /// The watchers by number as their rows have them, with the counters that were last written; the
    /// retired ones too when asked for.
    pub async fn watchers(&self, retired: bool) -> Result<Vec<WatcherView>, AnswerError> {
        let head = self.store.head().await?;
        let matched = self.store.opened().matched_seq;
        let counters: HashMap<_, _> = self.store.counters().await?.into_iter().collect();
        let rows = self.store.watchers().await?.into_iter();
        let rows = rows.filter(|row| retired || row.state != WatcherState::Retired);
        let mut places = self.places().await?;
        let view = |mut row: WatcherRow| {
            let (position, replay, hold) = places.remove(&row.number).unwrap_or_default();
            row.state = match row.state {
                WatcherState::Live if position.is_some() => WatcherState::CatchingUp,
                _ => row.shown_state(matched, head),
            };
            let counters = counters.get(&row.number).copied().unwrap_or_default();
            WatcherView { row, counters, position, replay, hold, open_jobs: 0 }
        };
        Ok(rows.map(view).collect())
    }

    /// The watcher that a text names: by its shown id, or the local id of a user's.
    pub async fn watcher_named(&self, text: &str) -> Result<WatcherNumber, AnswerError> {
        if let Some(number) = self.find_watcher(text).await? {
            return Ok(number);
        }
        // Compared without holding up who else needs a name.
        let keys: Vec<_> = self.lock_names().values().take(COMPARED_MAX).cloned().collect();
        Err(no_watcher(text, keys.iter()))
    }

    /// The row of the watcher that a text names.
    async fn watcher_row(&self, text: &str) -> Result<WatcherRow, AnswerError> {
        let number = self.watcher_named(text).await?;
        let before = WatcherNumber(number.0 - 1);
        let found = self.store.watchers_after(before, 1).await?.pop();
        Ok(found.expect("the row of a watcher is never removed"))
    }

    async fn find_watcher(&self, text: &str) -> Result<Option<WatcherNumber>, StoreError> {
        for fresh in [false, true] {
            if fresh || self.lock_names().is_empty() {
                self.refresh_names().await?;
            }
            let names = self.lock_names();
            let named = names.iter().map(|(number, key)| (names_watcher(text, key), *number));
            if let Some((_, number)) = named.filter(|(named, _)| *named != Named::No).max() {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// The key of a watcher by its row's number.
    async fn watcher_key(&self, number: WatcherNumber) -> Result<Option<WatcherKey>, StoreError> {
        let known = self.lock_names().get(&number).cloned();
        if known.is_none() {
            self.refresh_names().await?;
        }
        Ok(known.or_else(|| self.lock_names().get(&number).cloned()))
    }

    async fn refresh_names(&self) -> Result<(), StoreError> {
        const ROWS_AT_ONCE: usize = 1_000;
        let mut names = HashMap::new();
        let mut last = WatcherNumber(0);
        loop {
            let rows = self.store.watchers_after(last, ROWS_AT_ONCE).await?;
            let Some(row) = rows.last() else { break };
            last = row.number;
            names.extend(rows.into_iter().map(|row| (row.number, row.key)));
        }
        *self.lock_names() = names;
        Ok(())
    }

    fn lock_names(&self) -> std::sync::MutexGuard<'_, HashMap<WatcherNumber, WatcherKey>> {
        self.names.lock().expect("no holder of the watchers' names panics")
    }
}

/// The one of these watchers that a text names.
///
/// # Errors
/// [`AnswerError::NotFound`], with the nearest that there is.
pub fn named_watcher(watchers: Vec<WatcherView>, text: &str) -> Result<WatcherView, AnswerError> {
    let names = |watcher: &WatcherView| names_watcher(text, &watcher.row.key);
    let best = watchers.iter().enumerate().max_by_key(|(_, watcher)| names(watcher));
    match best.filter(|(_, watcher)| names(watcher) != Named::No).map(|(place, _)| place) {
        Some(place) => Ok(watchers.into_iter().nth(place).expect("it was just found there")),
        None => Err(no_watcher(text, watchers.iter().map(|watcher| &watcher.row.key))),
    }
}

/// Watchers that are compared to find the nearest: a million of them take a second.
const COMPARED_MAX: usize = 100_000;

fn no_watcher<'a>(text: &str, keys: impl Iterator<Item = &'a WatcherKey>) -> AnswerError {
    let distance = |name: &str| strsim::damerau_levenshtein(text, name);
    let scored = keys.take(COMPARED_MAX).map(|key| {
        let shown = key.to_string();
        let by_local = (key.owner == Owner::User).then(|| distance(key.local.as_str()));
        (by_local.unwrap_or(usize::MAX).min(distance(&shown)), shown)
    });
    // One letter in three may be wrong; what is longer than any id is like none.
    let is_id = text.len() <= 2 * bounds::ID_BYTES_MAX;
    let near = is_id
        .then(|| scored.min())
        .flatten()
        .filter(|(distance, _)| *distance <= 1 + text.chars().count() / 3);
    let hint = near.map(|(_, shown)| format!(" (did you mean {shown}?)")).unwrap_or_default();
    AnswerError::NotFound(format!(
        "there is no watcher {text:?}{hint}; `axwatch watch list` shows those that there are"
    ))
}

impl From<views::Job> for views::Fire {
    fn from(job: views::Job) -> views::Fire {
        views::Fire {
            job_id: job.job_id,
            watcher: job.watcher.unwrap_or_default(),
            attestation_id: job.attestation_id,
            seq: job.seq,
            handler: job.handler,
            state: job.state,
            attempts: job.attempts,
            created_at: job.created_at,
            completed_at: job.completed_at,
            error: job.error,
        }
    }
}

/// A view as one line of JSON.
pub fn json_line<T: serde::Serialize>(view: &T) -> String {
    serde_json::to_string(view).expect("views hold nothing that JSON cannot")
}

/// JSON text as it is.
fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("rows hold JSON that we wrote")
}

/// Any bytes as JSON: JSON on one line as it is, other text as text, the rest as base64.
pub fn readable_bytes(bytes: &[u8]) -> Box<RawValue> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return raw(json_line(&base64::engine::general_purpose::STANDARD.encode(bytes)));
    };
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) if !text.contains(['\n', '\r']) => raw(text.to_owned()),
        Ok(value) => raw(value.to_string()),
        Err(_) => raw(json_line(&text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_shown_as_what_it_is() {
        let cases: [(&[u8], &str); 5] = [
            (br#"{"a":1}"#, r#"{"a":1}"#),
            (b"{\"a\":\n1}", r#"{"a":1}"#),
            (b"12345678901234567890123", "12345678901234567890123"),
            (b"done\n", r#""done\n""#),
            (&[0xff, 0xfe], r#""//4=""#),
        ];
        for (bytes, json) in cases {
            assert_eq!(readable_bytes(bytes).get(), json);
        }
    }
}
