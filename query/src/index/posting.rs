//! Which watchers are filed under a key: most keys have one, a few have a hundred thousand.

use super::list::List;

/// The watchers under one key: none, one in place, or the number of a list in [`Postings`].
///
/// Eight bytes, because there may be a million of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posting {
    /// The one watcher, if it is one.
    one: u32,
    /// The list, or one of the two marks below.
    list: u32,
}

const EMPTY: u32 = u32::MAX;
const ONE: u32 = u32::MAX - 1;

impl Posting {
    pub(super) const EMPTY: Posting = Posting { one: 0, list: EMPTY };

    pub(super) fn is_empty(self) -> bool {
        self.list == EMPTY
    }
}

/// The lists of all postings that hold more than one watcher.
///
/// Invariant: each list in use has at least two watchers, and belongs to one posting.
#[derive(Debug, Default)]
pub(super) struct Postings {
    lists: Vec<List<u32>>,
    free: Vec<u32>,
}

impl Postings {
    /// Collects the watchers of a posting, in rising order.
    pub(super) fn collect(&self, posting: Posting, into: &mut Vec<u32>) {
        match posting.list {
            EMPTY => {}
            ONE => into.push(posting.one),
            list => {
                let pieces = self.lists[list as usize].pieces();
                pieces.for_each(|ids| into.extend_from_slice(ids));
            }
        }
    }

    /// Files a watcher; one that is there already stays there once.
    pub(super) fn add(&mut self, posting: &mut Posting, id: u32) {
        match posting.list {
            EMPTY => *posting = Posting { one: id, list: ONE },
            ONE if posting.one == id => {}
            ONE => {
                let mut pair = List::One(posting.one);
                pair.add(id);
                posting.list = self.keep(pair);
            }
            list => self.lists[list as usize].add(id),
        }
    }

    /// Takes a watcher out, and gives back the memory of what it leaves empty or alone.
    pub(super) fn remove(&mut self, posting: &mut Posting, id: u32) {
        match posting.list {
            EMPTY => {}
            ONE if posting.one == id => *posting = Posting::EMPTY,
            ONE => {}
            list => {
                let ids = &mut self.lists[list as usize];
                ids.remove(id);
                if let List::One(one) = *ids {
                    self.free.push(list);
                    *posting = Posting { one, list: ONE };
                }
            }
        }
    }

    fn keep(&mut self, ids: List<u32>) -> u32 {
        if let Some(list) = self.free.pop() {
            self.lists[list as usize] = ids;
            return list;
        }
        let list = u32::try_from(self.lists.len()).ok().filter(|&list| list < ONE);
        self.lists.push(ids);
        list.expect("fewer lists than watchers, whose ids are 32 bits")
    }

    /// Bytes that are allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        let ids: usize = self.lists.iter().map(List::memory_bytes).sum();
        ids + self.lists.capacity() * size_of::<List<u32>>()
            + self.free.capacity() * size_of::<u32>()
    }

    /// How many lists are in use.
    #[cfg(test)]
    pub(super) fn lists_in_use(&self) -> usize {
        self.lists.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// A posting is a set of watchers, whatever form it has at the moment.
        #[test]
        fn a_posting_is_a_set(
            changes in proptest::collection::vec((any::<bool>(), 0..6_u32), 0..40),
        ) {
            let (mut postings, mut posting) = (Postings::default(), Posting::EMPTY);
            let mut expected = BTreeSet::new();
            for (add, id) in changes {
                if add {
                    postings.add(&mut posting, id);
                    expected.insert(id);
                } else {
                    postings.remove(&mut posting, id);
                    expected.remove(&id);
                }
                let ids: Vec<u32> = expected.iter().copied().collect();
                let mut collected = Vec::new();
                postings.collect(posting, &mut collected);
                prop_assert_eq!(collected, ids);
                prop_assert_eq!(posting.is_empty(), expected.is_empty());
                prop_assert_eq!(postings.lists_in_use(), usize::from(expected.len() > 1));
            }
        }
    }
}
