//! How matching does, as it is shown.

use axwatch_core::MatchingView;
use axwatch_query::ShapeStats;
use serde::{Deserialize, Serialize};

/// How the watchers are found, and what that took since the server started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Matching {
    /// Watchers that see each claim when it is appended.
    pub watchers: usize,
    /// Those that are found by several terms together, by which; the most first.
    pub shapes: Vec<MatchingShape>,
    /// Those with so many combinations of terms that they are found by one term and then verified.
    pub by_one_term: usize,
    /// Those that ask about the time of a claim and nothing else.
    pub by_time: usize,
    /// Those that no look-up finds: every claim is held against them.
    pub asked_always: usize,
    /// How many different questions those ask.
    pub questions: usize,
    /// The share of watchers that look-ups find without anything to verify, from 0 to 1.
    pub served_fully: f64,
    /// Terms that watchers use.
    pub terms: usize,
    /// Keys that lead to watchers.
    pub keys: usize,
    /// Bytes of all that.
    pub memory_bytes: usize,
    /// Claims matched since the server started.
    pub claims: u64,
    /// Look-ups a claim; null before the first.
    pub probes_per_claim: Option<f64>,
    /// Watchers verified a claim; null before the first.
    pub candidates_per_claim: Option<f64>,
    /// Watchers that matched a claim; null before the first.
    pub matches_per_claim: Option<f64>,
    /// The watchers that cost most, the dearest first.
    pub dearest: Vec<DearWatcher>,
    /// Since a start, how many of the watchers are read of which all of this is to be told; null once it is all.
    pub reading: Option<Reading>,
}

/// After a start, until the last text is read: claims wait to be matched meanwhile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reading {
    /// Watchers that are read.
    pub done: usize,
    /// Of so many.
    pub of: usize,
}

/// Watchers that are found in the same way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MatchingShape {
    /// Of what the key has a term: `subject`, `predicate`, `context`, `actor`, `attribute`.
    pub terms_of: Vec<String>,
    /// Whether nothing is left to verify.
    pub served_fully: bool,
    /// How many.
    pub watchers: usize,
}

/// A watcher that costs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DearWatcher {
    /// As shown.
    pub id: String,
    /// How often it was verified since the server started.
    pub verified: u64,
    /// How often it ever matched.
    pub matches: u64,
    /// Whether every claim is held against it.
    pub asked_always: bool,
}

impl Matching {
    /// As it is shown.
    pub fn of(view: MatchingView) -> Matching {
        let MatchingView { index, totals, dearest, reading } = view;
        let per_claim = |count: u64| {
            (totals.claims > 0).then(|| (count as f64 / totals.claims as f64 * 1e3).round() / 1e3)
        };
        let shape = |shape: &ShapeStats| MatchingShape {
            terms_of: shape.terms_of.iter().map(|&axis| axis.to_owned()).collect(),
            served_fully: shape.served_fully,
            watchers: shape.watchers,
        };
        Matching {
            watchers: index.watchers,
            shapes: index.shapes.iter().map(shape).collect(),
            by_one_term: index.by_one_term,
            by_time: index.by_time,
            asked_always: index.asked_always,
            questions: index.questions,
            served_fully: (index.served_fully() * 1e3).round() / 1e3,
            terms: index.terms,
            keys: index.keys,
            memory_bytes: index.memory_bytes,
            claims: totals.claims,
            probes_per_claim: per_claim(totals.probes),
            candidates_per_claim: per_claim(totals.candidates),
            matches_per_claim: per_claim(totals.matches),
            dearest: dearest
                .into_iter()
                .map(|dear| DearWatcher {
                    id: dear.id.to_string(),
                    verified: dear.verified,
                    matches: dear.matches,
                    asked_always: dear.is_asked_always,
                })
                .collect(),
            reading: reading.map(|reading| Reading { done: reading.done, of: reading.of }),
        }
    }
}
