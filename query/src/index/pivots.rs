//! From one term of a watcher to it, when its other terms are verified.
//!
//! Beside each watcher stand two of those other terms, if it has some that have to be there, or marks of lists of
//! them: most of what a term leads to is told apart without a look at the watcher.

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

/// Up to two things that a watcher needs.
pub(super) type Guards = [Guard; 2];

/// A term on its axis in 32 bits, the marks of several of which one is needed, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guard(u32);

/// What a guard says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Term(Axis, TermId),
    /// One of the marks of terms, of this kind.
    Marks(Axis, usize, u32),
}

/// Bits of the term.
const TERM_BITS: u32 = 29;
/// Bits for the marks of terms.
const MARK_BITS: u32 = 26;
/// Kinds of marks. Terms that share one of a kind mostly have different ones of the other.
pub(super) const MARKS: usize = 2;

/// A bit for a term, of each kind.
pub(super) fn marks_of(term: TermId) -> [u32; MARKS] {
    [0x9E37_79B9, 0x85EB_CA6B].map(|factor: u32| {
        let mixed = u64::from(term.wrapping_add(1).wrapping_mul(factor));
        1 << ((mixed * u64::from(MARK_BITS)) >> 32)
    })
}

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

    /// The marks of one kind of several terms.
    pub(super) fn any_of(axis: Axis, kind: usize, terms: &[TermId]) -> Guard {
        let marks = terms.iter().fold(0, |marks, term| marks | marks_of(*term)[kind]);
        let kind = (Axis::COUNT + kind) as u32;
        Guard(kind << TERM_BITS | (axis.index() as u32) << MARK_BITS | marks)
    }

    fn need(self) -> Option<Need> {
        let (kind, below) = (self.0 >> TERM_BITS, self.0 & ((1 << TERM_BITS) - 1));
        if let Some(axis) = Axis::ALL.get(kind as usize) {
            return Some(Need::Term(*axis, below));
        }
        let kind = (kind as usize - Axis::COUNT < MARKS).then_some(kind as usize - Axis::COUNT)?;
        let axis = Axis::ALL.get((below >> MARK_BITS) as usize)?;
        Some(Need::Marks(*axis, kind, below & ((1 << MARK_BITS) - 1)))
    }
}

impl Entry for Guarded {
    type Key = u32;

    fn key(&self) -> u32 {
        self.id
    }
}

impl Guarded {
    /// Whether what is needed is there, as far as that is known here.
    pub(super) fn may_hold(self, has: impl Fn(Need) -> bool) -> bool {
        self.guards.iter().filter_map(|guard| guard.need()).all(has)
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
                assert_eq!(Guard::new(axis, term).need(), Some(Need::Term(axis, term)));
            }
            assert_eq!(Guard::new(axis, 1 << TERM_BITS), Guard::NOTHING);
        }
        assert_eq!(Guard::NOTHING.need(), None);
    }

    #[test]
    fn marks_of_terms_are_in_their_guard() {
        for (axis, kind) in Axis::ALL.into_iter().flat_map(|axis| [(axis, 0), (axis, 1)]) {
            let terms: Vec<TermId> = (0..9).map(|i| i * 77_777_777).collect();
            let Some(Need::Marks(of, which, marks)) = Guard::any_of(axis, kind, &terms).need()
            else {
                panic!("{axis:?}: no marks");
            };
            assert_eq!((of, which), (axis, kind));
            assert!(terms.iter().all(|term| marks_of(*term)[kind] & marks != 0));
            let others = (0..1_000).filter(|term| marks_of(*term)[kind] & marks != 0);
            assert!(others.count() < 500, "they tell little apart");
        }
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
        assert!(first.may_hold(|need| need == Need::Term(Axis::ATTRIBUTE, 1)));
        assert!(!first.may_hold(|_| false));
        pivots.remove(3, 5);
        pivots.remove(3, 6);
        assert_eq!(ids(&pivots), [1, 9]);
        assert!(pivots.of(4).is_none());
        pivots.remove(3, 1);
        pivots.remove(3, 9);
        assert!(pivots.is_empty());
    }
}
