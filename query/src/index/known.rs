//! The terms of an attestation that some watcher of a side uses.

use std::cell::OnceCell;

use smallvec::SmallVec;

use super::interner::{TermId, Uses};
use super::pivots::{self, Need, marks_of};
use super::record::{Many, Record};
use super::shape::{Axis, KeyKind};

/// Terms up to which a list is searched from its beginning.
const FEW: usize = 8;
/// A bit for each of so many terms.
const MARKS: usize = 4_096;

/// The known terms, by axis.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// In rising order, each once.
    terms: [SmallVec<[(TermId, Uses); 4]>; Axis::COUNT],
    /// The uses of all terms of an axis.
    pub(super) uses: [Uses; Axis::COUNT],
    /// Numbers at paths where watchers ask for one in a range, by their terms in rising order.
    reached: SmallVec<[Reached; 2]>,
    /// Of each axis, the marks of all terms ([`marks_of`]), once somebody needs them.
    guarded: OnceCell<[[u32; pivots::MARKS]; Axis::COUNT]>,
    /// Of an axis with many terms: which are not there, at one look.
    marks: [Option<Box<[u64; MARKS / 64]>>; Axis::COUNT],
}

/// A number that may be within bounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    /// Of the path and the sides.
    pub(super) term: TermId,
    pub(super) uses: Uses,
    /// As [`super::ranges::ordered`] has it.
    pub(super) value: u64,
}

pub(super) type TermList = SmallVec<[TermId; 4]>;

impl Known {
    pub(super) fn add(&mut self, axis: Axis, term: TermId, uses: Uses) {
        self.terms[axis.index()].push((term, uses));
        self.uses[axis.index()] |= uses;
    }

    pub(super) fn reach(&mut self, reached: Reached) {
        self.uses[Axis::ATTRIBUTE.index()] |= reached.uses;
        self.reached.push(reached);
    }

    /// To be called when all terms of an axis have been added.
    pub(super) fn complete(&mut self, axis: Axis) {
        let terms = &mut self.terms[axis.index()];
        terms.sort_unstable();
        terms.dedup();
        if axis == Axis::ATTRIBUTE {
            self.reached.sort_unstable_by_key(|reached| reached.term);
        }
        if terms.len() > FEW {
            let mut marks = Box::new([0_u64; MARKS / 64]);
            for (term, _) in terms {
                let bit = *term as usize % MARKS;
                marks[bit / 64] |= 1 << (bit % 64);
            }
            self.marks[axis.index()] = Some(marks);
        }
    }

    /// The uses as if there were any term on an axis.
    pub(super) fn with_any(&self, axis: Axis) -> [Uses; Axis::COUNT] {
        let mut uses = self.uses;
        uses[axis.index()] = Uses::MAX;
        uses
    }

    /// The terms on an axis that stand in keys of some kind.
    pub(super) fn using(&self, axis: Axis, using: Uses) -> impl Iterator<Item = TermId> {
        let terms = self.terms[axis.index()].iter();
        let reached = self.reached.iter().filter(move |_| axis == Axis::ATTRIBUTE);
        terms
            .copied()
            .chain(reached.map(|reached| (reached.term, reached.uses)))
            .filter(move |(_, uses)| uses & using != 0)
            .map(|(term, _)| term)
    }

    /// The terms that stand in keys of this kind, by the axes of its shape.
    pub(super) fn lists(&self, kind: KeyKind) -> SmallVec<[TermList; 4]> {
        kind.shape().axes().map(|axis| self.of_kind(axis, kind).collect()).collect()
    }

    fn of_kind(&self, axis: Axis, kind: KeyKind) -> impl Iterator<Item = TermId> {
        let terms = self.terms[axis.index()].iter();
        terms.filter(move |(_, uses)| uses & kind.bit() != 0).map(|(term, _)| *term)
    }

    /// The numbers that stand in keys of this kind.
    pub(super) fn reached(&self, kind: KeyKind) -> impl Iterator<Item = &Reached> {
        self.reached.iter().filter(move |reached| reached.uses & kind.bit() != 0)
    }

    /// How many tuples there are of this kind.
    pub(super) fn tuples(&self, kind: KeyKind) -> usize {
        kind.shape().axes().fold(1, |product: usize, axis| {
            let mut terms = self.of_kind(axis, kind).count();
            if axis == Axis::ATTRIBUTE {
                terms += self.reached(kind).count();
            }
            product.saturating_mul(terms)
        })
    }

    /// Whether a term on each axis that the watcher asks about is here, and its number within its bounds.
    pub(super) fn has_terms_of(&self, record: &Record) -> bool {
        let has_any = |axis| match record.span() {
            Some(span) if axis == Axis::ATTRIBUTE => {
                let value_of = |term: &TermId| self.number(*term).map(|reached| reached.value);
                record.terms(axis).iter().filter_map(value_of).any(|value| span.holds(value))
            }
            _ => self.has_any(axis, record.terms(axis)),
        };
        record.shape().axes().all(has_any)
    }

    /// Whether a term is here that the watcher excludes.
    pub(super) fn has_excluded(&self, many: &Many) -> bool {
        many.excluded.iter().any(|(axis, term)| self.has(*axis, *term))
    }

    /// Looks for the terms of the shorter list in the longer one.
    fn has_any(&self, axis: Axis, wanted: &[TermId]) -> bool {
        let terms = &self.terms[axis.index()];
        if wanted.len() <= terms.len() || axis == Axis::ATTRIBUTE {
            wanted.iter().any(|term| self.has(axis, *term))
        } else {
            terms.iter().any(|(term, _)| wanted.binary_search(term).is_ok())
        }
    }

    fn number(&self, term: TermId) -> Option<&Reached> {
        let place = self.reached.binary_search_by_key(&term, |reached| reached.term);
        place.ok().map(|place| &self.reached[place])
    }

    /// Whether what a watcher needs may be there.
    pub(super) fn may_have(&self, need: Need) -> bool {
        match need {
            Need::Term(axis, term) => self.has(axis, term),
            Need::Marks(axis, kind, marks) => {
                let guarded = self
                    .guarded
                    .get_or_init(|| self.terms.each_ref().map(|terms| all_marks(terms)));
                guarded[axis.index()][kind] & marks != 0
            }
        }
    }

    pub(super) fn has(&self, axis: Axis, wanted: TermId) -> bool {
        let terms = &self.terms[axis.index()];
        (axis == Axis::ATTRIBUTE && self.number(wanted).is_some())
            || match &self.marks[axis.index()] {
                None => terms.iter().any(|(term, _)| *term == wanted),
                Some(marks) => {
                    let bit = wanted as usize % MARKS;
                    marks[bit / 64] & 1 << (bit % 64) != 0
                        && terms.binary_search_by_key(&wanted, |(term, _)| *term).is_ok()
                }
            }
    }
}

fn all_marks(terms: &[(TermId, Uses)]) -> [u32; pivots::MARKS] {
    terms.iter().fold([0; pivots::MARKS], |mut all, (term, _)| {
        all.iter_mut().zip(marks_of(*term)).for_each(|(all, mark)| *all |= mark);
        all
    })
}
