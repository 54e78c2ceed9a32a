//! Watchers in rising order of their ids, or of something before that: one in place, a few in one piece, or many
//! in blocks, so that none of a million comes or goes at the cost of moving the others, and neighbours lie
//! together.

/// Entries of a block at most.
const BLOCK: usize = 512;

/// What stands in a list: a watcher, perhaps with something beside it.
pub(super) trait Entry: Copy {
    /// By what a list is in order.
    type Key: Copy + Ord;

    /// Mostly the watcher.
    fn key(&self) -> Self::Key;
}

impl Entry for u32 {
    type Key = u32;

    fn key(&self) -> u32 {
        *self
    }
}

/// A list in 24 bytes, which has each key once.
#[derive(Debug)]
pub(super) enum List<T> {
    One(T),
    Few(Vec<T>),
    Many(Box<Blocks<T>>),
}

/// Invariant: at least one block, and none of them empty.
#[derive(Debug)]
pub(super) struct Blocks<T> {
    blocks: Vec<Vec<T>>,
    len: usize,
}

impl<T: Entry> List<T> {
    pub(super) fn len(&self) -> usize {
        match self {
            List::One(_) => 1,
            List::Few(entries) => entries.len(),
            List::Many(blocks) => blocks.len,
        }
    }

    /// All entries, in pieces.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[T]> {
        let (piece, blocks): (&[T], &[Vec<T>]) = match self {
            List::One(entry) => (std::slice::from_ref(entry), &[]),
            List::Few(entries) => (entries, &[]),
            List::Many(blocks) => (&[], &blocks.blocks),
        };
        std::iter::once(piece).chain(blocks.iter().map(Vec::as_slice))
    }

    /// The entries from one key to another that is not before it, both within, in pieces.
    pub(super) fn between(&self, first: T::Key, last: T::Key) -> impl Iterator<Item = &[T]> {
        let (piece, blocks): (&[T], &[Vec<T>]) = match self {
            List::One(entry) => (std::slice::from_ref(entry), &[]),
            List::Few(entries) => (entries, &[]),
            List::Many(many) => (&[], &many.blocks[many.block_of(first)..=many.block_of(last)]),
        };
        let pieces = std::iter::once(piece).chain(blocks.iter().map(Vec::as_slice));
        pieces.map(move |piece| {
            let start = piece.partition_point(|entry| entry.key() < first);
            let piece = &piece[start..];
            &piece[..piece.partition_point(|entry| entry.key() <= last)]
        })
    }

    /// The first entry.
    #[cfg(test)]
    pub(super) fn first(&self) -> Option<&T> {
        self.pieces().flatten().next()
    }

    /// Bytes that are allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            List::One(_) => 0,
            List::Few(entries) => entries.capacity() * size_of::<T>(),
            List::Many(blocks) => {
                let entries: usize = blocks.blocks.iter().map(Vec::capacity).sum();
                size_of::<Blocks<T>>()
                    + blocks.blocks.capacity() * size_of::<Vec<T>>()
                    + entries * size_of::<T>()
            }
        }
    }

    /// Adds an entry; one whose key is there already stays as it is.
    pub(super) fn add(&mut self, entry: T) {
        match self {
            List::One(one) if one.key() == entry.key() => {}
            List::One(one) => {
                let mut pair = vec![*one, entry];
                pair.sort_unstable_by_key(T::key);
                *self = List::Few(pair);
            }
            List::Few(entries) => {
                let Err(place) = find(entries, entry.key()) else { return };
                if entries.len() < BLOCK {
                    entries.insert(place, entry);
                } else {
                    let blocks = vec![std::mem::take(entries)];
                    let mut many = Blocks { blocks, len: BLOCK };
                    many.add(entry);
                    *self = List::Many(Box::new(many));
                }
            }
            List::Many(blocks) => blocks.add(entry),
        }
    }

    /// Takes an entry out, and gives back the memory of what it leaves. Of the last, an empty list is
    /// left.
    pub(super) fn remove(&mut self, key: T::Key) {
        match self {
            List::One(one) if one.key() == key => *self = List::Few(Vec::new()),
            List::One(_) => {}
            List::Few(entries) => {
                let Ok(place) = find(entries, key) else { return };
                entries.remove(place);
                if let [one] = entries[..] {
                    *self = List::One(one);
                } else if entries.len() < entries.capacity() / 4 {
                    entries.shrink_to(entries.len() * 2);
                }
            }
            List::Many(blocks) => {
                blocks.remove(key);
                if blocks.len <= BLOCK / 4 {
                    *self = List::Few(blocks.blocks.concat());
                }
            }
        }
    }
}

impl<T: Entry> Blocks<T> {
    fn add(&mut self, entry: T) {
        let at = self.block_of(entry.key());
        let block = &mut self.blocks[at];
        let Err(place) = find(block, entry.key()) else { return };
        self.len += 1;
        if block.len() < BLOCK {
            block.insert(place, entry);
        } else if place == BLOCK {
            // Behind all of a full block: most ids come in rising order, and then all blocks are full.
            self.blocks.insert(at + 1, vec![entry]);
        } else {
            let mut upper = block.split_off(BLOCK / 2);
            match place.checked_sub(BLOCK / 2) {
                Some(place) => upper.insert(place, entry),
                None => block.insert(place, entry),
            }
            self.blocks.insert(at + 1, upper);
        }
    }

    fn remove(&mut self, key: T::Key) {
        let at = self.block_of(key);
        let Ok(place) = find(&self.blocks[at], key) else { return };
        self.blocks[at].remove(place);
        self.len -= 1;
        if self.blocks[at].is_empty() && self.blocks.len() > 1 {
            self.blocks.remove(at);
        }
        self.join(at);
        if at > 0 {
            self.join(at - 1);
        }
    }

    /// Makes one of a block and the next if both are small, so that blocks are no more than entries want.
    fn join(&mut self, at: usize) {
        let Some(next) = self.blocks.get(at + 1) else { return };
        if self.blocks[at].len() + next.len() <= BLOCK / 2 {
            let next = self.blocks.remove(at + 1);
            self.blocks[at].extend(next);
        }
    }

    /// The block in which an entry is, or would be.
    fn block_of(&self, key: T::Key) -> usize {
        self.blocks.partition_point(|block| block[0].key() <= key).saturating_sub(1)
    }
}

fn find<T: Entry>(entries: &[T], key: T::Key) -> Result<usize, usize> {
    entries.binary_search_by_key(&key, T::key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_list_is_small() {
        assert_eq!(size_of::<List<[u32; 3]>>(), 24);
    }

    proptest! {
        /// A list is a set, whatever form it has at the moment.
        #[test]
        fn a_list_is_a_set(
            runs in prop::collection::vec((any::<bool>(), 0..4_000_u32, 1..1_500_u32, 1..4_u32), 1..20),
        ) {
            let (mut list, mut expected) = (List::Few(Vec::new()), BTreeSet::new());
            for (is_added, first, count, step) in runs {
                for id in (first..).step_by(step as usize).take(count as usize) {
                    if is_added {
                        list.add(id);
                        expected.insert(id);
                    } else {
                        list.remove(id);
                        expected.remove(&id);
                    }
                }
                prop_assert!(list.pieces().flatten().eq(&expected));
                prop_assert_eq!((list.len(), list.first()), (expected.len(), expected.first()));
                let (from, to) = (first / 2, first + count);
                prop_assert!(list.between(from, to).flatten().eq(expected.range(from..=to)));
                if let List::Many(blocks) = &list {
                    prop_assert!(blocks.blocks.iter().all(|block| (1..=BLOCK).contains(&block.len())));
                    let pairs = blocks.blocks.windows(2);
                    let small = pairs.filter(|pair| pair[0].len() + pair[1].len() < BLOCK / 8).count();
                    prop_assert!(small <= 1, "{small} small blocks side by side");
                }
            }
            for id in expected {
                list.remove(id);
            }
            prop_assert_eq!((list.len(), list.memory_bytes()), (0, 0));
        }
    }
}
