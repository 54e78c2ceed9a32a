//! One half of the index: the watchers whose terms compare in one way.
//!
//! Folded and exact terms never meet: each side has its own terms, keys and tables. A side without
//! watchers costs nothing.

use smallvec::SmallVec;

use crate::eval::Claim;
use crate::{Dimension, Filter, Mode};

use super::interner::{Interner, TermId, Uses};
use super::posting::{Posting, Postings};
use super::record::{Many, Record, Way};
use super::shape::{KeyKind, LACKING, OVER, PIVOT, Shape, each_tuple, tuples};
use super::table::Table;

/// Tuples that one watcher may be filed under when it asks about several dimensions.
const TUPLES_OF_WATCHER_MAX: usize = 64;
/// Tuples that one attestation may try in one table.
const TUPLES_OF_ATTESTATION_MAX: usize = 256;

/// The watchers of one [`Mode`].
#[derive(Debug)]
pub(super) struct Side {
    mode: Mode,
    interners: [Interner; 4],
    /// By [`KeyKind`]. Watchers that surely match by one term are not here but with the term.
    tables: [Table; KeyKind::COUNT],
    /// The kinds whose tables hold something.
    in_use: Uses,
    /// Watchers with too many tuples, by each term of their pivot.
    over: [Table; 4],
    /// The other watchers that ask about several dimensions, by each term of their pivot: for
    /// attestations with too many tuples.
    pivots: [Table; 4],
    postings: Postings,
}

/// The terms of an attestation that some watcher of a side uses.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By dimension, in rising order, each once.
    terms: [SmallVec<[(TermId, Uses); 4]>; 4],
    /// The uses of all terms of a dimension.
    uses: [Uses; 4],
}

impl Side {
    pub(super) fn new(mode: Mode) -> Side {
        let by_term = || std::array::from_fn(|_| Table::new(Shape::NOTHING));
        Side {
            mode,
            interners: Default::default(),
            tables: std::array::from_fn(|kind| Table::new(Shape(kind as u8 & 15))),
            in_use: 0,
            over: by_term(),
            pivots: by_term(),
            postings: Postings::default(),
        }
    }

    /// Files a watcher under its terms, of which there are some.
    pub(super) fn insert(&mut self, id: u32, filter: &Filter) -> Record {
        let record = self.plan(filter);
        match record.way() {
            Way::Tuples => self.file_tuples(id, &record),
            Way::Pivot => self.file_pivot(id, &record, OVER),
        }
        record
    }

    /// Undoes what [`Side::insert`] did.
    pub(super) fn remove(&mut self, id: u32, record: &Record) {
        match record.way() {
            Way::Tuples => self.unfile_tuples(id, record),
            Way::Pivot => self.unfile_pivot(id, record, OVER),
        }
        for dimension in record.shape().dimensions() {
            for &term in record.terms(dimension) {
                self.interners[dimension.index()].release(term);
            }
        }
    }

    /// Decides how to file a watcher. Its terms count as used from here on.
    fn plan(&mut self, filter: &Filter) -> Record {
        let terms = Dimension::ALL.map(|dimension| {
            let interner = &mut self.interners[dimension.index()];
            let mut terms: Box<[TermId]> =
                filter.any(dimension).iter().map(|term| interner.acquire(term)).collect();
            terms.sort_unstable();
            terms
        });
        let way = way_of(&terms);
        let pivot = self.most_selective(&terms);
        let remainder = (!filter.is_terms_only()).then(|| filter.remainder());
        Record::new(Many { mode: self.mode, way, pivot, terms, remainder })
    }

    /// The dimension whose terms the fewest watchers use.
    fn most_selective(&self, terms: &[Box<[TermId]>; 4]) -> Dimension {
        let watchers = |dimension: &Dimension| -> u64 {
            let interner = &self.interners[dimension.index()];
            let terms = &terms[dimension.index()];
            terms.iter().map(|&term| u64::from(interner.watchers(term))).sum()
        };
        let asked = Dimension::ALL.into_iter().filter(|dimension| watchers(dimension) > 0);
        asked.min_by_key(watchers).unwrap_or(Dimension::Subject)
    }

    fn file_tuples(&mut self, id: u32, record: &Record) {
        let kind = record.kind();
        if is_alone(kind) {
            self.each_alone(record, |posting, postings| postings.add(posting, id));
            return;
        }
        for dimension in record.shape().dimensions() {
            self.mark(dimension, record.terms(dimension), kind.bit());
        }
        let (table, postings) = (&mut self.tables[kind.index()], &mut self.postings);
        each_tuple(&lists_of(record), |tuple| table.add(tuple, id, postings));
        self.in_use |= kind.bit();
        if record.shape().len() > 1 {
            self.file_pivot(id, record, PIVOT);
        }
    }

    fn unfile_tuples(&mut self, id: u32, record: &Record) {
        let kind = record.kind();
        if is_alone(kind) {
            self.each_alone(record, |posting, postings| postings.remove(posting, id));
            return;
        }
        let (table, postings) = (&mut self.tables[kind.index()], &mut self.postings);
        each_tuple(&lists_of(record), |tuple| table.remove(tuple, id, postings));
        if table.is_empty() {
            self.in_use &= !kind.bit();
        }
        if record.shape().len() > 1 {
            self.unfile_pivot(id, record, PIVOT);
        }
    }

    /// Visits the postings of a watcher that asks about one dimension and nothing else.
    fn each_alone(&mut self, record: &Record, mut visit: impl FnMut(&mut Posting, &mut Postings)) {
        let interner = &mut self.interners[record.pivot().index()];
        for &term in record.terms(record.pivot()) {
            visit(&mut interner.slot_mut(term).alone, &mut self.postings);
        }
    }

    fn file_pivot(&mut self, id: u32, record: &Record, using: Uses) {
        let (pivot, terms) = (record.pivot(), record.terms(record.pivot()));
        self.mark(pivot, terms, using);
        let (table, postings) = self.by_term(pivot, using);
        terms.iter().for_each(|&term| table.add(term.into(), id, postings));
    }

    fn unfile_pivot(&mut self, id: u32, record: &Record, using: Uses) {
        let (pivot, terms) = (record.pivot(), record.terms(record.pivot()));
        let (table, postings) = self.by_term(pivot, using);
        terms.iter().for_each(|&term| table.remove(term.into(), id, postings));
    }

    fn by_term(&mut self, dimension: Dimension, using: Uses) -> (&mut Table, &mut Postings) {
        let tables = if using == OVER { &mut self.over } else { &mut self.pivots };
        (&mut tables[dimension.index()], &mut self.postings)
    }

    fn mark(&mut self, dimension: Dimension, terms: &[TermId], using: Uses) {
        let interner = &mut self.interners[dimension.index()];
        terms.iter().for_each(|&term| interner.slot_mut(term).uses |= using);
    }

    /// Looks up the attestation's terms, and finds the watchers that ask about one of them alone.
    pub(super) fn look_up(&self, claim: &Claim<'_>, found: &mut Vec<u32>) -> Known {
        let mut known = Known::default();
        for dimension in Dimension::ALL {
            let interner = &self.interners[dimension.index()];
            if interner.is_empty() {
                continue;
            }
            let terms = &mut known.terms[dimension.index()];
            for i in 0..claim.count(dimension, self.mode) {
                let Some(term) = interner.find(claim.term(dimension, self.mode, i)) else {
                    continue;
                };
                let slot = interner.slot(term);
                found.extend_from_slice(self.postings.ids(&slot.alone));
                terms.push((term, slot.uses));
                known.uses[dimension.index()] |= slot.uses;
            }
            terms.sort_unstable();
            terms.dedup();
        }
        known
    }

    /// Finds the watchers that the known terms lead to: those that surely match, and those that have
    /// to be verified, each perhaps several times.
    pub(super) fn probe(&self, known: &Known, found: &mut Vec<u32>, candidates: &mut Vec<u32>) {
        let mut has_too_many = false;
        for kind in KeyKind::of_bits(self.possible(known)) {
            let lists = known.lists(kind);
            if tuples(&lists) > TUPLES_OF_ATTESTATION_MAX {
                has_too_many = true;
                continue;
            }
            let into = if kind.is_sure() { &mut *found } else { &mut *candidates };
            self.probe_table(kind, &lists, into);
        }
        self.follow(known, OVER, &self.over, candidates);
        if has_too_many {
            self.follow(known, PIVOT, &self.pivots, candidates);
        }
    }

    /// The kinds of key for which the attestation has a term in each dimension.
    fn possible(&self, known: &Known) -> Uses {
        known
            .uses
            .iter()
            .zip(LACKING)
            .fold(self.in_use, |kinds, (uses, lacking)| kinds & (uses | lacking))
    }

    fn probe_table(&self, kind: KeyKind, lists: &[TermList], into: &mut Vec<u32>) {
        let table = &self.tables[kind.index()];
        each_tuple(lists, |tuple| {
            if let Some(posting) = table.get(tuple) {
                into.extend_from_slice(self.postings.ids(posting));
            }
        });
    }

    /// Collects the watchers filed under single terms.
    fn follow(&self, known: &Known, using: Uses, tables: &[Table; 4], into: &mut Vec<u32>) {
        for ((terms, uses), table) in known.terms.iter().zip(known.uses).zip(tables) {
            if uses & using == 0 {
                continue;
            }
            for (term, _) in terms.iter().filter(|(_, uses)| uses & using != 0) {
                if let Some(posting) = table.get(u128::from(*term)) {
                    into.extend_from_slice(self.postings.ids(posting));
                }
            }
        }
    }

    /// How many terms, lists and keys there are.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let tables = self.tables.iter().chain(&self.over).chain(&self.pivots);
        self.interners.iter().all(Interner::is_empty)
            && tables.into_iter().all(Table::is_empty)
            && self.postings.lists_in_use() == 0
            && self.in_use == 0
    }
}

type TermList = SmallVec<[TermId; 4]>;

impl Known {
    /// The terms that stand in keys of this kind, by the dimensions of its shape.
    fn lists(&self, kind: KeyKind) -> SmallVec<[TermList; 4]> {
        let of_kind = |dimension: Dimension| {
            let terms = self.terms[dimension.index()].iter();
            terms.filter(|(_, uses)| uses & kind.bit() != 0).map(|(term, _)| *term).collect()
        };
        kind.shape().dimensions().map(of_kind).collect()
    }

    /// Whether a term of each dimension that the watcher asks about is here.
    pub(super) fn has_terms_of(&self, record: &Record) -> bool {
        record.shape().dimensions().all(|dimension| {
            let known = &self.terms[dimension.index()];
            let wanted = record.terms(dimension);
            known.iter().any(|(term, _)| wanted.binary_search(term).is_ok())
        })
    }
}

/// Whether watchers of this kind are filed with their terms and not in a table.
fn is_alone(kind: KeyKind) -> bool {
    kind.is_sure() && kind.shape().len() == 1
}

/// How to file a watcher with these terms. Those of one dimension are as many tuples as terms, which
/// is never too many.
fn way_of(terms: &[Box<[TermId]>; 4]) -> Way {
    let lists: SmallVec<[&[TermId]; 4]> =
        terms.iter().map(|terms| &**terms).filter(|terms| !terms.is_empty()).collect();
    if lists.len() == 1 || tuples(&lists) <= TUPLES_OF_WATCHER_MAX {
        Way::Tuples
    } else {
        Way::Pivot
    }
}

fn lists_of(record: &Record) -> SmallVec<[&[TermId]; 4]> {
    record.shape().dimensions().map(|dimension| record.terms(dimension)).collect()
}
