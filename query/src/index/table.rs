//! From a tuple of terms to the watchers that wait for just these: one table for each kind of key.

use std::hash::Hash;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::posting::{Posting, Postings};
use super::shape::Shape;

/// Postings by tuple. A tuple of one or two terms is packed into 64 bits, so that the usual entry
/// has 16 bytes.
#[derive(Debug)]
pub(super) enum Table {
    Narrow(HashMap<u64, Posting, RandomState>),
    Wide(HashMap<u128, Posting, RandomState>),
}

impl Table {
    pub(super) fn new(shape: Shape) -> Table {
        if shape.len() <= 2 {
            Table::Narrow(HashMap::default())
        } else {
            Table::Wide(HashMap::default())
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Table::Narrow(table) => table.is_empty(),
            Table::Wide(table) => table.is_empty(),
        }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Table::Narrow(table) => table.len(),
            Table::Wide(table) => table.len(),
        }
    }

    /// Bytes that are allocated, without lists of watchers.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Table::Narrow(table) => table.allocation_size(),
            Table::Wide(table) => table.allocation_size(),
        }
    }

    pub(super) fn get(&self, tuple: u128) -> Option<&Posting> {
        match self {
            Table::Narrow(table) => table.get(&narrow(tuple)),
            Table::Wide(table) => table.get(&tuple),
        }
    }

    pub(super) fn add(&mut self, tuple: u128, id: u32, postings: &mut Postings) {
        match self {
            Table::Narrow(table) => add(table, narrow(tuple), id, postings),
            Table::Wide(table) => add(table, tuple, id, postings),
        }
    }

    pub(super) fn remove(&mut self, tuple: u128, id: u32, postings: &mut Postings) {
        match self {
            Table::Narrow(table) => remove(table, narrow(tuple), id, postings),
            Table::Wide(table) => remove(table, tuple, id, postings),
        }
    }
}

/// A tuple of at most two terms.
fn narrow(tuple: u128) -> u64 {
    tuple as u64
}

fn add<K: Eq + Hash>(
    table: &mut HashMap<K, Posting, RandomState>,
    key: K,
    id: u32,
    postings: &mut Postings,
) {
    postings.add(table.entry(key).or_insert(Posting::EMPTY), id);
}

fn remove<K: Eq + Hash>(
    table: &mut HashMap<K, Posting, RandomState>,
    key: K,
    id: u32,
    postings: &mut Postings,
) {
    let Entry::Occupied(mut entry) = table.entry(key) else { return };
    postings.remove(entry.get_mut(), id);
    if entry.get().is_empty() {
        entry.remove();
        if table.len() < table.capacity() / 8 {
            table.shrink_to(table.len() * 2);
        }
    }
}
