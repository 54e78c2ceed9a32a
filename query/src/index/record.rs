//! What the index remembers of each watcher, so that it can be verified and taken out again.

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::{Dimension, Filter, Mode};

use super::interner::TermId;
use super::shape::{KeyKind, Shape};

/// How a watcher is filed. 16 bytes for the usual one.
#[derive(Debug)]
pub(super) enum Record {
    /// One term in one or two dimensions, and nothing else.
    Few { mode: Mode, shape: Shape, pivot: Dimension, terms: [TermId; 2] },
    /// Anything else.
    Many(Box<Many>),
}

#[derive(Debug)]
pub(super) struct Many {
    pub(super) mode: Mode,
    pub(super) way: Way,
    pub(super) pivot: Dimension,
    /// Each list in rising order.
    pub(super) terms: [Box<[TermId]>; 4],
    /// What has to be verified beyond the terms.
    pub(super) remainder: Option<Filter>,
}

/// Under which keys a watcher is filed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Under every tuple of its terms.
    Tuples,
    /// Under the terms of one dimension, because the tuples are too many.
    Pivot,
}

impl Record {
    pub(super) fn new(many: Many) -> Record {
        let shape = many.shape();
        let is_few = many.remainder.is_none()
            && many.way == Way::Tuples
            && shape.len() <= 2
            && many.terms.iter().all(|terms| terms.len() <= 1);
        if !is_few {
            return Record::Many(Box::new(many));
        }
        let mut terms = [0; 2];
        for (place, dimension) in terms.iter_mut().zip(shape.dimensions()) {
            *place = many.terms[dimension.index()][0];
        }
        Record::Few { mode: many.mode, shape, pivot: many.pivot, terms }
    }

    pub(super) fn mode(&self) -> Mode {
        match self {
            Record::Few { mode, .. } => *mode,
            Record::Many(many) => many.mode,
        }
    }

    pub(super) fn shape(&self) -> Shape {
        match self {
            Record::Few { shape, .. } => *shape,
            Record::Many(many) => many.shape(),
        }
    }

    pub(super) fn kind(&self) -> KeyKind {
        KeyKind::new(self.shape(), self.remainder().is_none())
    }

    pub(super) fn way(&self) -> Way {
        match self {
            Record::Few { .. } => Way::Tuples,
            Record::Many(many) => many.way,
        }
    }

    /// The dimension whose terms the fewest watchers used when this one came.
    pub(super) fn pivot(&self) -> Dimension {
        match self {
            Record::Few { pivot, .. } => *pivot,
            Record::Many(many) => many.pivot,
        }
    }

    /// The terms of a dimension, in rising order; none if the watcher does not ask about it.
    pub(super) fn terms(&self, dimension: Dimension) -> &[TermId] {
        match self {
            Record::Few { shape, terms, .. } if shape.has(dimension) => {
                std::slice::from_ref(&terms[shape.rank(dimension)])
            }
            Record::Few { .. } => &[],
            Record::Many(many) => &many.terms[dimension.index()],
        }
    }

    /// What has to be verified beyond the terms.
    pub(super) fn remainder(&self) -> Option<&Filter> {
        match self {
            Record::Few { .. } => None,
            Record::Many(many) => many.remainder.as_ref(),
        }
    }
}

impl Many {
    fn shape(&self) -> Shape {
        Dimension::ALL
            .into_iter()
            .filter(|dimension| !self.terms[dimension.index()].is_empty())
            .fold(Shape::NOTHING, Shape::with)
    }
}

/// Records by the watchers' ids, which are mostly dense: pages of neighbours, so that a record costs
/// little more than itself, and an id far from all others no more than a page.
#[derive(Debug, Default)]
pub(super) struct Records {
    pages: HashMap<u32, Page, RandomState>,
    len: usize,
}

const PAGE: u32 = 256;

#[derive(Debug)]
struct Page {
    used: u32,
    records: Box<[Option<Record>]>,
}

impl Records {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, id: u32) -> Option<&Record> {
        self.pages.get(&(id / PAGE))?.records[(id % PAGE) as usize].as_ref()
    }

    /// Keeps the record of a watcher that has none.
    pub(super) fn insert(&mut self, id: u32, record: Record) {
        let empty = || Page { used: 0, records: (0..PAGE).map(|_| None).collect() };
        let page = self.pages.entry(id / PAGE).or_insert_with(empty);
        let before = page.records[(id % PAGE) as usize].replace(record);
        debug_assert!(before.is_none(), "watcher {id} has a record already");
        page.used += 1;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Record> {
        let page = self.pages.get_mut(&(id / PAGE))?;
        let record = page.records[(id % PAGE) as usize].take()?;
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

    #[test]
    fn the_usual_record_is_small() {
        assert_eq!(size_of::<Option<Record>>(), 16);
    }

    #[test]
    fn records_are_found_by_any_id() {
        let record = |term| Record::Few {
            mode: Mode::Exact,
            shape: Shape::NOTHING.with(Dimension::Context),
            pivot: Dimension::Context,
            terms: [term, 0],
        };
        let ids = [0, 1, 255, 256, u32::MAX];
        let mut records = Records::default();
        ids.into_iter().for_each(|id| records.insert(id, record(id)));
        assert_eq!((records.len(), records.pages.len()), (5, 3));
        for id in ids {
            assert_eq!(records.get(id).unwrap().terms(Dimension::Context), [id]);
            assert!(records.remove(id).is_some() && records.remove(id).is_none(), "{id}");
        }
        assert_eq!((records.len(), records.pages.len()), (0, 0));
        assert!(records.get(2).is_none());
    }
}
