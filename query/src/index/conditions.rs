//! What no key decides: conditions that are verified, each kept once however many watchers ask it, and
//! answered once for a claim while the answer is remembered.

use std::cell::OnceCell;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet, HashTable};
use serde_json::Value;

use crate::eval::Claim;
use crate::filter::Test;
use crate::{Dimension, Mode, Op, attribute};

use super::paths::{PathId, Paths};
use super::sought::{Found, Key, Sought};
use super::values::{Place, Values};

/// The number of a condition: stable while any watcher asks it, then given to another.
pub(super) type ConditionId = u32;

/// The conditions that watchers ask.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    numbers: HashTable<ConditionId>,
    slots: Vec<Slot>,
    free: Vec<ConditionId>,
    /// What is asked with `contains`, by path. None of them is empty.
    sought: HashMap<PathId, Sought, RandomState>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Slot {
    /// `None` of a free slot.
    asks: Option<Asks>,
    watchers: u32,
}

/// A condition, in one piece as far as it can be: many are asked one after the other.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Asks {
    /// Of a value among the attributes.
    Value { path: PathId, op: Op, value: Value },
    /// Of times, which have no mode, and terms that are excluded, as AX alone can.
    Other(Test),
}

impl Conditions {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Bytes that are allocated, without what stands in texts and lists of conditions.
    pub(super) fn memory_bytes(&self) -> usize {
        let sought: usize = self.sought.values().map(Sought::memory_bytes).sum();
        sought
            + self.sought.allocation_size()
            + self.numbers.allocation_size()
            + self.slots.capacity() * size_of::<Slot>()
            + self.free.capacity() * size_of::<ConditionId>()
    }

    /// How many watchers ask a condition.
    pub(super) fn watchers(&self, condition: ConditionId) -> u32 {
        self.slots[condition as usize].watchers
    }

    /// Counts one more watcher that asks it. Each call wants one [`Conditions::release`].
    pub(super) fn acquire(&mut self, test: &Test, paths: &mut Paths) -> ConditionId {
        let asks = match test {
            Test::Attribute(test) => {
                let path = paths.acquire(test.keys());
                Asks::Value { path, op: test.op, value: test.value.clone() }
            }
            test => Asks::Other(test.clone()),
        };
        let hash = self.hasher.hash_one(&asks);
        let is_it = |&other: &u32| self.slots[other as usize].asks.as_ref() == Some(&asks);
        let condition = match self.numbers.find(hash, is_it).copied() {
            Some(known) => {
                asks.release_path(paths);
                known
            }
            None => self.add(asks, hash),
        };
        self.slots[condition as usize].watchers += 1;
        condition
    }

    /// Counts one watcher less; with the last the condition is forgotten.
    pub(super) fn release(&mut self, condition: ConditionId, paths: &mut Paths) {
        let slot = &mut self.slots[condition as usize];
        slot.watchers -= 1;
        if slot.watchers > 0 {
            return;
        }
        self.forget_sought(condition);
        let slot = &mut self.slots[condition as usize];
        let asks = slot.asks.take().expect("a condition that is asked");
        asks.release_path(paths);
        let hash = self.hasher.hash_one(&asks);
        if let Ok(entry) = self.numbers.find_entry(hash, |&other| other == condition) {
            entry.remove();
        }
        self.free.push(condition);
    }

    fn add(&mut self, asks: Asks, hash: u64) -> ConditionId {
        let slot = Slot { asks: Some(asks), watchers: 0 };
        let condition = match self.free.pop() {
            Some(condition) => {
                self.slots[condition as usize] = slot;
                condition
            }
            None => {
                self.slots.push(slot);
                ConditionId::try_from(self.slots.len() - 1).expect("fewer conditions than 2^32")
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash_of =
            |&other: &u32| hasher.hash_one(slots[other as usize].asks.as_ref().expect("asked"));
        self.numbers.insert_unique(hash, condition, hash_of);
        self.seek(condition);
        condition
    }

    /// Adds what a condition asks to what is looked for in arrays at its path.
    fn seek(&mut self, condition: ConditionId) {
        if let Some((path, key)) = sought(&self.slots, condition) {
            let key_of = |condition| sought(&self.slots, condition).map(|(_, key)| key);
            self.sought.entry(path).or_default().insert(condition, key, key_of);
        }
    }

    fn forget_sought(&mut self, condition: ConditionId) {
        let Some((path, key)) = sought(&self.slots, condition) else { return };
        let Some(at_path) = self.sought.get_mut(&path) else { return };
        at_path.remove(condition, key);
        if at_path.is_empty() {
            self.sought.remove(&path);
        }
    }

    /// Whether a condition with `contains` holds of what stands at its path.
    fn holds_of_whole(
        &self,
        condition: ConditionId,
        path: PathId,
        part: &Value,
        whole: &Place<'_>,
    ) -> bool {
        let key_of = |condition| sought(&self.slots, condition).map(|(_, key)| key);
        let find = |array: &str| {
            self.sought.get(&path).map_or_else(Found::default, |sought| sought.find(array, key_of))
        };
        match whole.found(find) {
            Some(found) => found.contains(&condition),
            None => whole.text_contains(part),
        }
    }
}

/// What a condition looks for in arrays, and at which path.
fn sought(slots: &[Slot], condition: ConditionId) -> Option<(PathId, Key<'_>)> {
    match slots[condition as usize].asks.as_ref()? {
        Asks::Value { path, op: Op::Contains, value } => Some((*path, Key::of(value)?)),
        _ => None,
    }
}

impl Asks {
    fn release_path(&self, paths: &mut Paths) {
        if let Asks::Value { path, .. } = self {
            paths.release(*path);
        }
    }
}

/// Answers that are remembered.
const ANSWERS: usize = 64;
/// Values that are remembered.
const VALUES: usize = 8;
/// Terms of a dimension up to which those that are excluded are looked for among them one by one.
const FEW_TERMS: usize = 8;

/// What conditions answer for one claim.
pub(super) struct Answers<'a, 'c> {
    conditions: &'a Conditions,
    paths: &'a Paths,
    claim: &'a Claim<'c>,
    values: &'a Values<'c>,
    /// By the lowest bits of its number, the last condition that was asked, and its answer.
    last: [Option<(ConditionId, bool)>; ANSWERS],
    /// By the lowest bits of its number, the last path that was asked about, and what stands there.
    places: [Option<(PathId, Option<&'a Place<'c>>)>; VALUES],
    /// Of dimensions with many terms, these.
    terms: [OnceCell<HashSet<&'a str, RandomState>>; 4],
}

impl<'a, 'c> Answers<'a, 'c> {
    pub(super) fn new(
        conditions: &'a Conditions,
        paths: &'a Paths,
        claim: &'a Claim<'c>,
        values: &'a Values<'c>,
    ) -> Answers<'a, 'c> {
        let (last, places) = ([None; ANSWERS], [None; VALUES]);
        Answers { conditions, paths, claim, values, last, places, terms: Default::default() }
    }

    /// Whether a condition holds.
    pub(super) fn holds(&mut self, condition: ConditionId) -> bool {
        let place = condition as usize % ANSWERS;
        if let Some((last, holds)) = self.last[place]
            && last == condition
        {
            return holds;
        }
        let holds = match self.conditions.slots[condition as usize].asks.as_ref() {
            Some(Asks::Value { path, op, value }) => {
                self.holds_of_value(condition, *path, *op, value)
            }
            Some(Asks::Other(Test::None(dimension, terms))) => self.has_none(*dimension, terms),
            Some(Asks::Other(test)) => self.claim.holds(Mode::Folded, test),
            None => unreachable!("a condition that nobody asks"),
        };
        self.last[place] = Some((condition, holds));
        holds
    }

    fn holds_of_value(
        &mut self,
        condition: ConditionId,
        path: PathId,
        op: Op,
        value: &Value,
    ) -> bool {
        let place = &mut self.places[path as usize % VALUES];
        let found = match *place {
            Some((last, found)) if last == path => found,
            _ => {
                let found = self.values.at(self.paths, path);
                *place = Some((path, found));
                found
            }
        };
        match op {
            Op::Contains => found
                .is_some_and(|found| self.conditions.holds_of_whole(condition, path, value, found)),
            op => attribute::holds(op, found.map(Place::value), value),
        }
    }

    /// Whether none of these terms is in a dimension.
    fn has_none(&self, dimension: Dimension, excluded: &[Box<str>]) -> bool {
        let (claim, count) = (self.claim, self.claim.count(dimension, Mode::Folded));
        let term = |i| claim.term(dimension, Mode::Folded, i);
        if count <= FEW_TERMS {
            let is_excluded =
                |term: &str| excluded.binary_search_by(|other| (**other).cmp(term)).is_ok();
            return !(0..count).map(term).any(is_excluded);
        }
        let terms = self.terms[dimension.index()].get_or_init(|| (0..count).map(term).collect());
        !excluded.iter().any(|term| terms.contains(&**term))
    }
}
