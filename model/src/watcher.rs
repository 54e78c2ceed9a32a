//! A watcher as it is declared and as the store keeps it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    HandlerName, InvalidId, JobNumber, LeafNumber, PluginName, Seq, Timestamp, WatcherKey,
    WatcherNumber,
};

/// What a watcher waits for, as its owner wrote it. What it means is for `axwatch-query` to say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Declared {
    /// AX text; its terms compare by case folding.
    Ax(String),
    /// Lists of a plugin's registration; their terms compare exactly.
    Structural(StructuralFilter),
}

/// A filter without text: OR within a dimension, AND across them, an empty one is not asked about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StructuralFilter {
    /// Any of these subjects.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    /// Any of these predicates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub predicates: Vec<String>,
    /// Any of these contexts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contexts: Vec<String>,
    /// Any of these actors.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actors: Vec<String>,
}

impl StructuralFilter {
    /// For people: `subjects ALICE, BOB; predicates is_author`. Empty when it asks about nothing.
    #[must_use]
    pub fn in_words(&self) -> String {
        let lists = [
            ("subjects", &self.subjects),
            ("predicates", &self.predicates),
            ("contexts", &self.contexts),
            ("actors", &self.actors),
        ];
        let one = |term: &String| match term.contains([',', ';']) {
            true => format!("{term:?}"),
            false => term.clone(),
        };
        let asked =
            lists.into_iter().filter(|(_, terms)| !terms.is_empty()).map(|(name, terms)| {
                format!("{name} {}", terms.iter().map(one).collect::<Vec<_>>().join(", "))
            });
        asked.collect::<Vec<_>>().join("; ")
    }
}

impl Declared {
    /// What `when` shows: the AX text as written, or the lists as one JSON object.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Declared::Ax(text) => text.clone(),
            Declared::Structural(lists) => {
                serde_json::to_string(lists).expect("lists of texts are always JSON")
            }
        }
    }
}

/// A handler as a watcher names it, and the plugin that answers for it once one is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HandlerRef {
    /// The text of the declaration: bare, or `plugin/handler`. Part of the job id.
    pub declared: Arc<str>,
    /// Who answers for it; `None` while nobody does.
    pub plugin: Option<PluginName>,
}

impl HandlerRef {
    /// The bare name, which is what ExecuteJob sends.
    #[must_use]
    pub fn bare(&self) -> &str {
        split_handler(&self.declared).1
    }
}

/// Splits `plugin/handler`; a bare name has no plugin.
pub(crate) fn split_handler(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((plugin, handler)) => (Some(plugin), handler),
        None => (None, text),
    }
}

impl HandlerName {
    /// Reads a handler as people write it: `handler` or `plugin/handler`.
    ///
    /// # Errors
    /// [`InvalidId`] when either part cannot be a name.
    pub fn parse_qualified(text: &str) -> Result<(Option<PluginName>, HandlerName), InvalidId> {
        let (plugin, handler) = split_handler(text);
        Ok((plugin.map(str::parse).transpose()?, handler.parse()?))
    }
}

/// What a watcher is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatcherState {
    /// Matched in the commit of each new claim.
    Live,
    /// Behind the head, on its way there.
    CatchingUp,
    /// Its fires are kept and wait until it is resumed.
    Paused,
    /// Fires nothing until a moment.
    Muted,
    /// Nobody answers for one of its handlers yet; its fires wait.
    WaitingForHandler,
    /// Its text no longer parses; it is kept, and matches nothing.
    Broken,
    /// Its last declaration was refused.
    Refused,
    /// Gone from its owner's declarations, or removed.
    Retired,
}

const STATES: [(WatcherState, &str); 8] = [
    (WatcherState::Live, "live"),
    (WatcherState::CatchingUp, "catching_up"),
    (WatcherState::Paused, "paused"),
    (WatcherState::Muted, "muted"),
    (WatcherState::WaitingForHandler, "waiting_for_handler"),
    (WatcherState::Broken, "broken"),
    (WatcherState::Refused, "refused"),
    (WatcherState::Retired, "retired"),
];

impl fmt::Display for WatcherState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, text) =
            STATES.iter().find(|(state, _)| state == self).expect("every state is listed");
        f.pad(text)
    }
}

impl FromStr for WatcherState {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<WatcherState, InvalidId> {
        STATES.iter().find(|(_, known)| *known == text).map(|(state, _)| *state).ok_or_else(|| InvalidId {
            what: "watcher state",
            text: crate::bounds::cut(text, 80).to_owned(),
            rule: "it must be live, catching_up, paused, muted, waiting_for_handler, broken, refused or retired",
        })
    }
}

/// A watcher as the store keeps it: one row for its whole life, changed by each new revision.
#[derive(Debug, Clone, PartialEq)]
pub struct WatcherRow {
    /// Its row.
    pub number: WatcherNumber,
    /// Its key.
    pub key: WatcherKey,
    /// 1 for the first declaration, one more for each change.
    pub revision: u64,
    /// Of its live fires: 0, and after each retirement the next that is free.
    pub generation: u32,
    /// The highest generation so far: a replay takes the next.
    pub last_generation: u32,
    /// What it waits for.
    pub declared: Declared,
    /// Who acts. Shared: thousands of watchers have the same.
    pub handlers: Arc<[HandlerRef]>,
    /// Parameters for its handlers: a JSON object as text.
    pub params: Option<Arc<str>>,
    /// Fires a second; `None` is no limit. 1 to 100,000.
    pub max_fires_per_second: Option<u32>,
    /// How often it may occur in one chain of causes; `None` is the usual 4.
    pub max_chain: Option<u32>,
    /// Its jobs are given up after so many counted attempts; `None` is as for their handler.
    pub max_attempts: Option<u32>,
    /// Its jobs are given up when attempts have failed for so long; `None` is as for their handler.
    pub max_age_ms: Option<u64>,
    /// What it is doing: never [`WatcherState::CatchingUp`], which is derived from positions.
    pub state: WatcherState,
    /// Why it is broken or refused.
    pub error: Option<String>,
    /// The head of the log when this generation was declared: it sees what comes after.
    pub since_seq: Seq,
    /// When the first declaration was registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl WatcherRow {
    /// What is shown of its state: a live watcher that matching has not brought to the head catches up.
    #[must_use]
    pub fn shown_state(&self, matched: Seq, head: Seq) -> WatcherState {
        let behind = matched < head && self.since_seq < head;
        if behind && self.state == WatcherState::Live {
            return WatcherState::CatchingUp;
        }
        self.state
    }
}

/// One revision of a watcher, and for which claims it was in force.
#[derive(Debug, Clone, PartialEq)]
pub struct RevisionRow {
    /// Whose.
    pub watcher: WatcherNumber,
    /// Which, from 1.
    pub revision: u64,
    /// The watcher's generation.
    pub generation: u32,
    /// What it waited for.
    pub declared: Declared,
    /// Who acted, as declared.
    pub handlers: Vec<Arc<str>>,
    /// Fires a second; `None` is no limit.
    pub max_fires_per_second: Option<u32>,
    /// When it was declared; of one that is older than these rows, when the watcher last changed.
    pub at: Timestamp,
    /// Its record in the audit; `None` of one that is older than these rows, whose predecessors are not
    /// known.
    pub leaf: Option<LeafNumber>,
    /// The generation sees the claims after this one.
    pub since_seq: Seq,
    /// The revision is in force for the claims after this one, up to the next revision. Never before
    /// `since_seq`.
    pub from_seq: Seq,
    /// It was retired: claims after this one were not matched any more.
    pub retired_seq: Option<Seq>,
}

/// Names a place in the log that passes share: watchers that catch up together move as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CursorNumber(pub u64);

/// A watcher's way over a part of the log, behind the live fires of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassRow {
    /// Whose.
    pub watcher: WatcherNumber,
    /// The generation of its fires. That of the watcher: it catches up, and goes live at the head.
    /// A later one: a replay.
    pub generation: u32,
    /// It began with the claims after this one.
    pub from_seq: Seq,
    /// The last claim of a replay; `None` goes on to the head of the log.
    pub until_seq: Option<Seq>,
    /// Where it is; `None` when it has come to its end.
    pub cursor: Option<CursorNumber>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it came to its end.
    pub ended_at: Option<Timestamp>,
    /// Why it ended before its end: its watcher was retired, a person stopped it.
    pub stopped: Option<String>,
}

/// Where a cursor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CursorRow {
    /// Which.
    pub number: CursorNumber,
    /// The claims up to this one are behind it.
    pub seq: Seq,
}

/// A time in which a watcher was held, by a person or for a suspected loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRow {
    /// Whose.
    pub watcher: WatcherNumber,
    /// The first hold of the watcher is 1.
    pub number: u32,
    /// The generation of its fires that it held. What was let go of one is none of the next one's.
    pub generation: u32,
    /// [`WatcherState::Paused`] or [`WatcherState::Muted`].
    pub kind: WatcherState,
    /// What it held is let go: its jobs are cancelled.
    pub drops: bool,
    /// When it began.
    pub at: Timestamp,
    /// When a mute ends.
    pub until: Option<Timestamp>,
    /// The fires of the claims after this one were held.
    pub from_seq: Seq,
    /// The jobs after this one were held.
    pub from_job: JobNumber,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// The last claim whose fires were held.
    pub to_seq: Option<Seq>,
    /// The last job that was held.
    pub to_job: Option<JobNumber>,
}

/// What a watcher has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Attestations that its filter held for.
    pub matches: u64,
    /// Jobs made.
    pub fires: u64,
    /// Attempts that ended in failure.
    pub errors: u64,
    /// When it last fired.
    pub last_fired_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_written_as_they_are_read() {
        for (state, text) in STATES {
            assert_eq!(state.to_string(), text);
            assert_eq!(text.parse::<WatcherState>().unwrap(), state);
            assert_eq!(serde_json::to_value(state).unwrap(), text);
        }
    }

    #[test]
    fn lists_have_words() {
        let list = |terms: &[&str]| terms.iter().map(|&term| term.to_owned()).collect();
        let cases = [
            (StructuralFilter::default(), ""),
            (
                StructuralFilter {
                    predicates: list(&["is_author", "pull request"]),
                    contexts: list(&["a, b"]),
                    ..StructuralFilter::default()
                },
                r#"predicates is_author, pull request; contexts "a, b""#,
            ),
        ];
        for (lists, expected) in cases {
            assert_eq!(lists.in_words(), expected);
        }
    }

    #[test]
    fn a_handler_may_name_its_plugin() {
        let (plugin, handler) = HandlerName::parse_qualified("git/ixgest.git").unwrap();
        assert_eq!((plugin.unwrap().as_str(), handler.as_str()), ("git", "ixgest.git"));
        assert_eq!(HandlerName::parse_qualified("notify.log").unwrap().0, None);
        assert!(HandlerName::parse_qualified("a/").is_err());
        assert!(HandlerName::parse_qualified("/a").is_err());
    }
}
