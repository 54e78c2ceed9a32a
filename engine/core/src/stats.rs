//! What matching costs: how the watchers are found, what that took so far, and which of them are the
//! dearest.

use std::sync::Arc;

use axwatch_model::WatcherNumber;
use axwatch_query::{Effort, IndexStats};

use crate::state::State;

/// Watchers that are told of.
const DEAREST: usize = 10;

/// What it took to match claims since the start. Claims that a watcher alone is asked about while it
/// catches up do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MatchingTotals {
    /// Claims.
    pub claims: u64,
    /// Terms, keys and spans of time that were looked up.
    pub probes: u64,
    /// Watchers that had to be verified, and questions that are asked always.
    pub candidates: u64,
    /// Watchers that matched.
    pub matches: u64,
}

/// How matching does at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct MatchingView {
    /// The watchers that ride the commit, and how they are found.
    pub index: IndexStats,
    /// What it took so far.
    pub totals: MatchingTotals,
    /// The watchers that cost most, the dearest first.
    pub dearest: Vec<DearWatcher>,
    /// Since a start, while claims wait to be matched until the texts of all watchers are read.
    pub reading: Option<Reading>,
}

/// How far the texts of watchers are read that were there when the engine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Watchers whose texts are.
    pub done: usize,
    /// Of so many.
    pub of: usize,
}

/// What a watcher costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DearWatcher {
    /// As people see it.
    pub id: Arc<str>,
    /// How often it was verified since it was declared or the engine started.
    pub verified: u64,
    /// Whether no look-up finds it, so that every claim is held against it.
    pub is_asked_always: bool,
    /// How often it ever matched.
    pub matches: u64,
}

impl MatchingTotals {
    pub(crate) fn add(&mut self, effort: Effort, matches: usize) {
        self.claims += 1;
        self.probes += effort.probes;
        self.candidates += effort.candidates;
        self.matches += matches as u64;
    }
}

impl State {
    /// How matching does. Looks at every watcher once.
    #[must_use]
    pub fn matching(&self) -> MatchingView {
        let always = self.index.always().take(DEAREST);
        // Each claim since the start; those before the watcher came are a few too many.
        let always = always.map(|id| self.dear(id, self.matching_totals.claims, true));
        let verified = self.index.dearest(DEAREST).into_iter();
        let verified = verified.map(|(id, times)| self.dear(id, u64::from(times), false));
        let mut dearest: Vec<_> = always.chain(verified).flatten().collect();
        dearest.sort_by_key(|dear| std::cmp::Reverse(dear.verified));
        dearest.truncate(DEAREST);
        let (index, totals, reading) = (self.index.stats(), self.matching_totals, self.reading());
        MatchingView { index, totals, dearest, reading }
    }

    /// How far the texts of watchers are read, as long as some are not.
    #[must_use]
    pub fn reading(&self) -> Option<Reading> {
        let of = self.to_understand;
        let left = self.not_understood.len();
        (left > 0).then(|| Reading { done: of - left, of })
    }

    fn dear(&self, id: u32, verified: u64, is_asked_always: bool) -> Option<DearWatcher> {
        let watcher = self.watchers.get(&WatcherNumber(u64::from(id)))?;
        let (id, matches) = (watcher.shown(), watcher.counters.matches);
        Some(DearWatcher { id, verified, is_asked_always, matches })
    }
}
