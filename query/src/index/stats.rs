//! What an index holds and how it is found, for people who ask why matching costs what it does.

use serde::Serialize;

use super::shape::{Axis, KeyKind};

/// What an index holds.
///
/// Units: watchers, terms and keys are counts; memory is bytes that are allocated, as far as the index
/// knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IndexStats {
    /// All watchers.
    pub watchers: usize,
    /// Those that are filed under keys, by what the key has, the most first.
    pub shapes: Vec<ShapeStats>,
    /// Those with so many combinations of terms that they are found by one term and then verified.
    pub by_one_term: usize,
    /// Those that ask about the time of a claim and nothing else.
    pub by_time: usize,
    /// Those that no look-up finds: what they ask is asked of every claim.
    pub asked_always: usize,
    /// How many different questions those ask.
    pub questions: usize,
    /// Terms that watchers use.
    pub terms: usize,
    /// Keys that lead to watchers.
    pub keys: usize,
    /// Bytes of all of it.
    pub memory_bytes: usize,
}

/// The watchers whose keys have terms on the same axes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShapeStats {
    /// `subject`, `predicate`, `context`, `actor`, `attribute`.
    pub terms_of: Vec<&'static str>,
    /// Whether a claim with these terms matches, without anything to verify.
    pub served_fully: bool,
    /// How many there are.
    pub watchers: usize,
}

impl IndexStats {
    /// The share of watchers that are found by look-ups alone, from 0 to 1; 1 when there are none.
    #[must_use]
    pub fn served_fully(&self) -> f64 {
        let served = self.shapes.iter().filter(|shape| shape.served_fully);
        let served: usize = served.map(|shape| shape.watchers).sum::<usize>() + self.by_time;
        if self.watchers == 0 { 1.0 } else { served as f64 / self.watchers as f64 }
    }
}

impl ShapeStats {
    pub(super) fn new(kind: KeyKind, watchers: usize) -> ShapeStats {
        ShapeStats {
            terms_of: kind.shape().axes().map(Axis::name).collect(),
            served_fully: kind.is_sure(),
            watchers,
        }
    }
}
