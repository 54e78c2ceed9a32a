//! From one term of a watcher to it, when its other terms are verified.
//!
//! Beside each watcher stand two of those other terms, if it has some that have to be there: most of what
//! a term leads to is told apart without a look at the watcher.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::interner::TermId;
use super::shape::Axis;

/// Watchers by the terms of one axis.
#[derive(Debug, Default)]
pub(super) struct Pivots {
    /// Each list in rising order of watchers, and never empty.
    by_term: HashMap<TermId, SmallVec<[Guarded; 1]>, RandomState>,
}

/// A watcher, and other terms that it needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guarded {
    pub(super) id: u32,
    guards: Guards,
}

/// Up to two terms that a watcher needs.
pub(super) type Guards = [Guard; 2];

/// A term on its axis in 32 bits, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guard(u32);

/// Bits of the term.
const TERM_BITS: u32 = 29;

impl Guard {
    pub(super) const NOTHING: Guard = Guard(u32::MAX);

    /// Nothing for a term whose number does not fit, which is as good as that it was not asked for.
    pub(super) fn new(axis: Axis, term: TermId) -> Guard {
        if term < 1 << TERM_BITS {
            Guard((axis.index() as u32) << TERM_BITS | term)
        } else {
            Guard::NOTHING
        }
    }

    fn term(self) -> Option<(Axis, TermId)> {
        let axis = Axis::ALL.get((self.0 >> TERM_BITS) as usize)?;
        Some((*axis, self.0 & ((1 << TERM_BITS) - 1)))
    }
}

impl Guarded {
    /// Whether the terms that are needed are there, as far as that is known here.
    pub(super) fn may_hold(self, has: impl Fn(Axis, TermId) -> bool) -> bool {
        let guards = self.guards.iter();
        guards.filter_map(|guard| guard.term()).all(|(axis, term)| has(axis, term))
    }
}

impl Pivots {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_term.is_empty()
    }

    pub(super) fn add(&mut self, term: TermId, id: u32, guards: Guards) {
        let watchers = self.by_term.entry(term).or_default();
        if let Err(place) = watchers.binary_search_by_key(&id, |watcher| watcher.id) {
            watchers.insert(place, Guarded { id, guards });
        }
    }

    pub(super) fn remove(&mut self, term: TermId, id: u32) {
        let Some(watchers) = self.by_term.get_mut(&term) else { return };
        if let Ok(place) = watchers.binary_search_by_key(&id, |watcher| watcher.id) {
            watchers.remove(place);
        }
        if watchers.is_empty() {
            self.by_term.remove(&term);
            if self.by_term.len() < self.by_term.capacity() / 8 {
                self.by_term.shrink_to(self.by_term.len() * 2);
            }
        } else if watchers.len() < watchers.capacity() / 4 {
            watchers.shrink_to_fit();
        }
    }

    /// Bytes that are allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        let lists = self.by_term.values().filter(|watchers| watchers.spilled());
        let watchers: usize = lists.map(|watchers| watchers.capacity()).sum();
        self.by_term.allocation_size() + watchers * size_of::<Guarded>()
    }

    /// The watchers of a term.
    pub(super) fn of(&self, term: TermId) -> &[Guarded] {
        self.by_term.get(&term).map_or(&[], |watchers| watchers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_is_a_term_that_fits() {
        for axis in Axis::ALL {
            for term in [0, 7, (1 << TERM_BITS) - 1] {
                assert_eq!(Guard::new(axis, term).term(), Some((axis, term)));
            }
            assert_eq!(Guard::new(axis, 1 << TERM_BITS), Guard::NOTHING);
        }
        assert_eq!(Guard::NOTHING.term(), None);
    }

    #[test]
    fn watchers_of_a_term_come_and_go() {
        let mut pivots = Pivots::default();
        for id in [5, 1, 9, 1] {
            pivots.add(3, id, [Guard::new(Axis::ATTRIBUTE, id), Guard::NOTHING]);
        }
        let ids = |pivots: &Pivots| pivots.of(3).iter().map(|of| of.id).collect::<Vec<_>>();
        assert_eq!(ids(&pivots), [1, 5, 9]);
        assert!(pivots.of(3)[1].may_hold(|axis, term| axis == Axis::ATTRIBUTE && term == 5));
        assert!(!pivots.of(3)[1].may_hold(|_, _| false));
        pivots.remove(3, 5);
        pivots.remove(3, 6);
        assert_eq!((ids(&pivots), pivots.of(4).len()), (vec![1, 9], 0));
        pivots.remove(3, 1);
        pivots.remove(3, 9);
        assert!(pivots.is_empty());
    }
}
