//! What the index remembers of each watcher, so that it can be verified and taken out again.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::Mode;

use super::attributes::Asked;
use super::conditions::ConditionId;
use super::interner::TermId;
use super::paths::PathId;
use super::shape::{Axis, KeyKind, Shape};
use super::spans::Span;
use super::windows::Window;

/// How a watcher is filed. 16 bytes for the usual one.
#[derive(Debug)]
pub(super) enum Record {
    /// One term on one or two axes that are no attributes, and nothing else.
    Few { mode: Mode, shape: Shape, pivot: Axis, terms: [TermId; 2] },
    /// Anything else. The condition that is asked first stands here too: most of those that do not match are
    /// told apart by it.
    Many { first: ConditionId, many: Box<Many> },
}

#[derive(Debug)]
pub(super) struct Many {
    pub(super) mode: Mode,
    pub(super) way: Way,
    pub(super) pivot: Axis,
    pub(super) terms: Terms,
    /// What stands on [`Axis::ATTRIBUTE`], if something does.
    pub(super) attribute: Option<Attribute>,
    /// Terms of which an attestation may have none.
    pub(super) excluded: SmallVec<[(Axis, TermId); 2]>,
    /// When the claim may have been made, as far as that does not depend on now.
    pub(super) window: Window,
    /// What else has to be verified, what most watchers ask first, what the key nearly decides last.
    pub(super) rest: SmallVec<[ConditionId; 2]>,
    /// How often it was verified.
    pub(super) verified: AtomicU32,
}

/// A condition on a value that is part of the key.
#[derive(Debug)]
pub(super) struct Attribute {
    pub(super) path: PathId,
    pub(super) asked: Asked,
    /// Where a number has to be, if it is a range.
    pub(super) span: Option<Span>,
}

/// The terms of all axes in one place, each axis in rising order.
#[derive(Debug, Default)]
pub(super) struct Terms {
    all: SmallVec<[TermId; 4]>,
    /// Where those of each axis end.
    ends: [u32; Axis::COUNT],
}

/// More than there are.
const NO_CONDITION: ConditionId = ConditionId::MAX;

/// Under which keys a watcher is filed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Under every tuple of its terms.
    Tuples,
    /// Under the terms of one axis, because the tuples are too many.
    Pivot,
}

impl Terms {
    /// Adds the terms of the next axis, which are put in order.
    pub(super) fn push(&mut self, axis: Axis, terms: impl Iterator<Item = TermId>) {
        let start = self.all.len();
        self.all.extend(terms);
        self.all[start..].sort_unstable();
        self.ends[axis.index()..].fill(self.all.len() as u32);
    }

    pub(super) fn of(&self, axis: Axis) -> &[TermId] {
        &self.all[self.range(axis)]
    }

    fn range(&self, axis: Axis) -> Range<usize> {
        let start = axis.index().checked_sub(1).map_or(0, |before| self.ends[before]);
        start as usize..self.ends[axis.index()] as usize
    }

    pub(super) fn shape(&self) -> Shape {
        let has_terms = |axis: &Axis| !self.range(*axis).is_empty();
        Axis::ALL.into_iter().filter(has_terms).fold(Shape::NOTHING, Shape::with)
    }
}

impl Record {
    pub(super) fn new(many: Many) -> Record {
        let shape = many.terms.shape();
        let is_few = many.is_sure()
            && many.way == Way::Tuples
            && !shape.has(Axis::ATTRIBUTE)
            && shape.len() <= 2
            && many.terms.all.len() == shape.len();
        if !is_few {
            let first = many.rest.first().copied().unwrap_or(NO_CONDITION);
            return Record::Many { first, many: Box::new(many) };
        }
        let mut terms = [0; 2];
        terms[..shape.len()].copy_from_slice(&many.terms.all);
        Record::Few { mode: many.mode, shape, pivot: many.pivot, terms }
    }

    pub(super) fn mode(&self) -> Mode {
        match self {
            Record::Few { mode, .. } => *mode,
            Record::Many { many, .. } => many.mode,
        }
    }

    pub(super) fn shape(&self) -> Shape {
        match self {
            Record::Few { shape, .. } => *shape,
            Record::Many { many, .. } => many.terms.shape(),
        }
    }

    pub(super) fn kind(&self) -> KeyKind {
        let is_sure = match self {
            Record::Few { .. } => true,
            Record::Many { many, .. } => many.is_sure(),
        };
        KeyKind::new(self.shape(), is_sure)
    }

    pub(super) fn way(&self) -> Way {
        match self {
            Record::Few { .. } => Way::Tuples,
            Record::Many { many, .. } => many.way,
        }
    }

    /// The axis whose terms the fewest watchers used when this one came.
    pub(super) fn pivot(&self) -> Axis {
        match self {
            Record::Few { pivot, .. } => *pivot,
            Record::Many { many, .. } => many.pivot,
        }
    }

    /// The terms on an axis, in rising order; none if the watcher does not ask about it.
    pub(super) fn terms(&self, axis: Axis) -> &[TermId] {
        match self {
            Record::Few { shape, terms, .. } if shape.has(axis) => {
                std::slice::from_ref(&terms[shape.rank(axis)])
            }
            Record::Few { .. } => &[],
            Record::Many { many, .. } => many.terms.of(axis),
        }
    }

    /// The condition that is asked first, if there is one.
    pub(super) fn first(&self) -> Option<ConditionId> {
        match self {
            Record::Many { first, .. } if *first != NO_CONDITION => Some(*first),
            _ => None,
        }
    }

    /// What there is beyond terms that have to be there.
    pub(super) fn many(&self) -> Option<&Many> {
        match self {
            Record::Few { .. } => None,
            Record::Many { many, .. } => Some(many),
        }
    }

    /// Bytes that are allocated for it.
    fn memory_bytes(&self) -> usize {
        self.many().map_or(0, |many| {
            let spilled = |is_spilled: bool, bytes: usize| if is_spilled { bytes } else { 0 };
            let terms = &many.terms.all;
            size_of::<Many>()
                + spilled(terms.spilled(), terms.capacity() * size_of::<TermId>())
                + spilled(
                    many.excluded.spilled(),
                    many.excluded.capacity() * size_of::<(Axis, TermId)>(),
                )
                + spilled(many.rest.spilled(), many.rest.capacity() * size_of::<ConditionId>())
        })
    }

    /// The span that it is filed under beside its terms.
    pub(super) fn span(&self) -> Option<Span> {
        self.many().and_then(|many| many.attribute.as_ref()?.span)
    }
}

impl Many {
    /// Counts that it was verified.
    pub(super) fn count(&self) {
        // Its owner alone counts; nobody waits for the number.
        let count = self.verified.load(Ordering::Relaxed);
        self.verified.store(count.saturating_add(1), Ordering::Relaxed);
    }

    /// Whether an attestation with the terms of a key matches without more.
    fn is_sure(&self) -> bool {
        self.excluded.is_empty() && self.rest.is_empty() && self.window == Window::ALWAYS
    }
}

/// Records by the watchers' ids, which are mostly dense: pages of neighbours, so that a record costs
/// little more than itself, and an id far from all others no more than a page.
#[derive(Debug, Default)]
pub(super) struct Records {
    pages: HashMap<u32, Page, RandomState>,
    len: usize,
    /// Bytes that are allocated beyond the pages.
    beyond_pages: usize,
}

const PAGE: u32 = 256;

#[derive(Debug)]
struct Page {
    used: u32,
    records: Box<[Option<Record>]>,
}

/// Looks at records, and remembers the page of the last.
pub(super) struct Reader<'a> {
    records: &'a Records,
    number: u32,
    page: Option<&'a Page>,
}

impl<'a> Reader<'a> {
    pub(super) fn get(&mut self, id: u32) -> Option<&'a Record> {
        if id / PAGE != self.number {
            self.number = id / PAGE;
            self.page = self.records.pages.get(&self.number);
        }
        self.page?.records[(id % PAGE) as usize].as_ref()
    }
}

impl Records {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that are allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        let page = PAGE as usize * size_of::<Option<Record>>();
        self.pages.allocation_size() + self.pages.len() * page + self.beyond_pages
    }

    /// Those that were verified, with how often that was, in no order.
    pub(super) fn verified(&self) -> impl Iterator<Item = (u32, u32)> {
        self.pages.iter().flat_map(|(number, page)| {
            let records = page.records.iter().zip(0_u32..);
            records.filter_map(move |(record, place)| {
                let count = record.as_ref()?.many()?.verified.load(Ordering::Relaxed);
                (count > 0).then_some((number * PAGE + place, count))
            })
        })
    }

    /// For looking at many, best in rising order.
    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { records: self, number: 0, page: self.pages.get(&0) }
    }

    /// Keeps the record of a watcher that has none.
    pub(super) fn insert(&mut self, id: u32, record: Record) {
        let empty = || Page { used: 0, records: (0..PAGE).map(|_| None).collect() };
        let page = self.pages.entry(id / PAGE).or_insert_with(empty);
        self.beyond_pages += record.memory_bytes();
        let before = page.records[(id % PAGE) as usize].replace(record);
        debug_assert!(before.is_none(), "watcher {id} has a record already");
        page.used += 1;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Record> {
        let page = self.pages.get_mut(&(id / PAGE))?;
        let record = page.records[(id % PAGE) as usize].take()?;
        self.beyond_pages -= record.memory_bytes();
        page.used -= 1;
        self.len -= 1;
        if page.used == 0 {
            self.pages.remove(&(id / PAGE));
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: Axis = Axis::ALL[2];

    #[test]
    fn the_usual_record_is_small() {
        assert_eq!(size_of::<Option<Record>>(), 16);
    }

    #[test]
    fn records_are_found_by_any_id() {
        let record = |term| Record::Few {
            mode: Mode::Exact,
            shape: Shape::NOTHING.with(CONTEXT),
            pivot: CONTEXT,
            terms: [term, 0],
        };
        let ids = [0, 1, 255, 256, u32::MAX];
        let mut records = Records::default();
        ids.into_iter().for_each(|id| records.insert(id, record(id)));
        assert_eq!((records.len(), records.pages.len()), (5, 3));
        for id in ids {
            assert_eq!(records.reader().get(id).unwrap().terms(CONTEXT), [id]);
            assert!(records.remove(id).is_some() && records.remove(id).is_none(), "{id}");
        }
        assert_eq!((records.len(), records.pages.len()), (0, 0));
        assert!(records.reader().get(2).is_none());
    }
}
