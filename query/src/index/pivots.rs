//! From one term of a watcher to it, when its other terms are verified.
//!
//! Beside each watcher stand two of those other terms, if it has some that have to be there: most of what
//! a term leads to is told apart without a look at the watcher.

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry as Slot;

use super::interner::TermId;
use super::list::{Entry, List};
use super::shape::Axis;

/// Watchers by the terms of one axis.
#[derive(Debug, Default)]
pub(super) struct Pivots {
    /// No list is empty.
    by_term: HashMap<TermId, List<Guarded>, RandomState>,
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

impl Entry for Guarded {
    type Key = u32;

    fn key(&self) -> u32 {
        self.id
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
        let watcher = Guarded { id, guards };
        match self.by_term.entry(term) {
            Slot::Vacant(slot) => {
                slot.insert(List::One(watcher));
            }
            Slot::Occupied(mut slot) => slot.get_mut().add(watcher),
        }
    }

    pub(super) fn remove(&mut self, term: TermId, id: u32) {
        let Some(watchers) = self.by_term.get_mut(&term) else { return };
        watchers.remove(id);
        if watchers.len() == 0 {
            self.by_term.remove(&term);
            if self.by_term.len() < self.by_term.capacity() / 8 {
                self.by_term.shrink_to(self.by_term.len() * 2);
            }
        }
    }

    /// Bytes that are allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        let watchers: usize = self.by_term.values().map(List::memory_bytes).sum();
        self.by_term.allocation_size() + watchers
    }

    /// The watchers of a term, if there are some.
    pub(super) fn of(&self, term: TermId) -> Option<&List<Guarded>> {
        self.by_term.get(&term)
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
        let ids = |pivots: &Pivots| -> Vec<u32> {
            pivots.of(3).unwrap().pieces().flatten().map(|watcher| watcher.id).collect()
        };
        assert_eq!(ids(&pivots), [1, 5, 9]);
        let first = *pivots.of(3).unwrap().first().unwrap();
        assert!(first.may_hold(|axis, term| axis == Axis::ATTRIBUTE && term == 1));
        assert!(!first.may_hold(|_, _| false));
        pivots.remove(3, 5);
        pivots.remove(3, 6);
        assert_eq!(ids(&pivots), [1, 9]);
        assert!(pivots.of(4).is_none());
        pivots.remove(3, 1);
        pivots.remove(3, 9);
        assert!(pivots.is_empty());
    }
}
