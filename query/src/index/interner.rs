//! The terms that watchers use on one axis, each with a small number.
//!
//! An attestation's terms are looked up here and nowhere else; most are unknown, and cost one probe.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::posting::Posting;

/// The number of a term: stable while any watcher uses the term, then given to another.
pub(super) type TermId = u32;

/// Which keys a term stands in, a bit each. See [`super::side`].
pub(super) type Uses = u64;

/// A term that watchers use.
#[derive(Debug)]
pub(super) struct Slot {
    text: Box<str>,
    /// How many watchers use it; 0 for a free slot.
    watchers: u32,
    /// Where it may be found. A bit stays set until the term goes: it saves probes and proves nothing.
    pub(super) uses: Uses,
    /// The watchers that ask about this term and nothing else.
    pub(super) alone: Posting,
}

/// The terms of one axis.
#[derive(Debug, Default)]
pub(super) struct Interner {
    numbers: HashTable<TermId>,
    slots: Vec<Slot>,
    free: Vec<TermId>,
    hasher: RandomState,
    text_bytes: usize,
}

impl Interner {
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// How many terms there are.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Bytes that are allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.numbers.allocation_size()
            + self.slots.capacity() * size_of::<Slot>()
            + self.free.capacity() * size_of::<TermId>()
            + self.text_bytes
    }

    /// The number of a term that some watcher uses.
    pub(super) fn find(&self, text: &str) -> Option<TermId> {
        let hash = self.hasher.hash_one(text);
        self.numbers.find(hash, |&term| &*self.slots[term as usize].text == text).copied()
    }

    pub(super) fn slot(&self, term: TermId) -> &Slot {
        &self.slots[term as usize]
    }

    pub(super) fn slot_mut(&mut self, term: TermId) -> &mut Slot {
        &mut self.slots[term as usize]
    }

    /// How many watchers use the term.
    pub(super) fn watchers(&self, term: TermId) -> u32 {
        self.slot(term).watchers
    }

    /// Counts one more watcher that uses the term. Each call wants one [`Interner::release`].
    pub(super) fn acquire(&mut self, text: &str) -> TermId {
        let term = self.find(text).unwrap_or_else(|| self.add(text));
        self.slot_mut(term).watchers += 1;
        term
    }

    /// Counts one watcher less; with the last the term is forgotten.
    pub(super) fn release(&mut self, term: TermId) {
        let slot = &mut self.slots[term as usize];
        slot.watchers -= 1;
        if slot.watchers > 0 {
            return;
        }
        debug_assert!(slot.alone.is_empty(), "a watcher was released before it was taken out");
        let hash = self.hasher.hash_one(&*slot.text);
        self.text_bytes -= slot.text.len();
        slot.text = Box::default();
        slot.uses = 0;
        if let Ok(entry) = self.numbers.find_entry(hash, |&other| other == term) {
            entry.remove();
        }
        self.free.push(term);
    }

    fn add(&mut self, text: &str) -> TermId {
        self.text_bytes += text.len();
        let slot = Slot { text: text.into(), watchers: 0, uses: 0, alone: Posting::EMPTY };
        let term = match self.free.pop() {
            Some(term) => {
                self.slots[term as usize] = slot;
                term
            }
            None => {
                self.slots.push(slot);
                TermId::try_from(self.slots.len() - 1).expect("terms are fewer than 2^32")
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash_of = |&term: &TermId| hasher.hash_one(&*slots[term as usize].text);
        self.numbers.insert_unique(hasher.hash_one(text), term, hash_of);
        term
    }
}
