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

use super::paths::{PathId, Paths, ROOT};
use super::sought::{Found, Key, Sought};
use super::values::{Place, Values};

/// The number of a condition: stable while any watcher asks it, then given to another.
pub(super) type ConditionId = u32;

/// The conditions that watchers ask.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    numbers: HashTable<ConditionId>,
    slots: Vec<Slot>,
    /// Beside each slot, the bound of a number, if that is what is asked.
    bounds: Vec<Bound>,
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

/// The bound of a number, where many may be asked one after the other.
#[derive(Debug, Clone, Copy)]
struct Bound {
    path: PathId,
    op: Op,
    /// NaN if this is no bound, or no double is exactly it.
    number: f64,
}

impl Bound {
    fn of(asks: &Asks) -> Bound {
        match asks {
            Asks::Value { path, op, value }
                if matches!(op, Op::Less | Op::AtMost | Op::Greater | Op::AtLeast) =>
            {
                Bound { path: *path, op: *op, number: exact_double(value).unwrap_or(f64::NAN) }
            }
            _ => Bound { path: ROOT, op: Op::Exists, number: f64::NAN },
        }
    }

    fn holds(self, number: f64) -> bool {
        match self.op {
            Op::Less => number < self.number,
            Op::AtMost => number <= self.number,
            Op::Greater => number > self.number,
            _ => number >= self.number,
        }
    }
}

/// A number that is exactly a double.
fn exact_double(value: &Value) -> Option<f64> {
    const WHOLE_END: u64 = 1 << 53;
    let Value::Number(number) = value else { return None };
    let is_exact = match (number.as_i64(), number.as_u64()) {
        (Some(whole), _) => whole.unsigned_abs() <= WHOLE_END,
        (None, Some(_)) => false,
        (None, None) => true,
    };
    number.as_f64().filter(|double| is_exact && double.is_finite())
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
            + self.bounds.capacity() * size_of::<Bound>()
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
        let bound = Bound::of(&asks);
        let slot = Slot { asks: Some(asks), watchers: 0 };
        let condition = match self.free.pop() {
            Some(condition) => {
                self.slots[condition as usize] = slot;
                self.bounds[condition as usize] = bound;
                condition
            }
            None => {
                self.slots.push(slot);
                self.bounds.push(bound);
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
/// Bytes of a table of all answers for each condition that was asked, at most, and how many there are at least.
const BYTES_EACH: usize = 16;
const ASKED_MANY: usize = 64;
/// Terms of a dimension up to which those that are excluded are looked for among them one by one.
const FEW_TERMS: usize = 8;

/// What stands at a path, if something does, and the number that it is, if that is exactly a double.
#[derive(Clone, Copy)]
struct Standing<'a, 'c> {
    place: Option<&'a Place<'c>>,
    number: Option<f64>,
}

/// Answers of all conditions, two bits each: whether there is one, and which. No table before many were asked.
#[derive(Default)]
struct AllAnswers {
    asked: usize,
    words: Vec<u64>,
}

impl AllAnswers {
    /// Conditions to a word.
    const EACH: usize = 32;

    fn get(&self, condition: ConditionId) -> Option<bool> {
        let place = condition as usize;
        let bits = self.words.get(place / AllAnswers::EACH)? >> (place % AllAnswers::EACH * 2);
        (bits & 2 != 0).then_some(bits & 1 != 0)
    }

    /// Remembers the answer of one of so many conditions.
    fn put(&mut self, condition: ConditionId, holds: bool, conditions: usize) {
        self.asked += 1;
        let words = conditions.div_ceil(AllAnswers::EACH);
        if self.words.is_empty() && self.asked > ASKED_MANY && self.asked * BYTES_EACH > words * 8 {
            self.words = vec![0; words];
        }
        let place = condition as usize;
        if let Some(word) = self.words.get_mut(place / AllAnswers::EACH) {
            *word |= (2 | u64::from(holds)) << (place % AllAnswers::EACH * 2);
        }
    }
}

/// What conditions answer for one claim.
pub(super) struct Answers<'a, 'c> {
    conditions: &'a Conditions,
    paths: &'a Paths,
    claim: &'a Claim<'c>,
    values: &'a Values<'c>,
    /// By the lowest bits of its number, the last condition that was asked, and its answer.
    last: [Option<(ConditionId, bool)>; ANSWERS],
    /// Once many were asked, the answers to all.
    all: AllAnswers,
    /// By the lowest bits of its number, the last path that was asked about, and what stands there.
    places: [Option<(PathId, Standing<'a, 'c>)>; VALUES],
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
        let all = AllAnswers::default();
        Answers { conditions, paths, claim, values, last, all, places, terms: Default::default() }
    }

    /// Whether a condition holds.
    pub(super) fn holds(&mut self, condition: ConditionId) -> bool {
        let bound = self.conditions.bounds[condition as usize];
        if !bound.number.is_nan()
            && let Some(number) = self.place(bound.path).number
        {
            return bound.holds(number);
        }
        let place = condition as usize % ANSWERS;
        if let Some((last, holds)) = self.last[place]
            && last == condition
        {
            return holds;
        }
        let holds = self.all.get(condition).unwrap_or_else(|| {
            let holds = self.ask(condition);
            self.all.put(condition, holds, self.conditions.slots.len());
            holds
        });
        self.last[place] = Some((condition, holds));
        holds
    }

    fn ask(&mut self, condition: ConditionId) -> bool {
        match self.conditions.slots[condition as usize].asks.as_ref() {
            Some(Asks::Value { path, op, value }) => {
                self.holds_of_value(condition, *path, *op, value)
            }
            Some(Asks::Other(Test::None(dimension, terms))) => self.has_none(*dimension, terms),
            Some(Asks::Other(test)) => self.claim.holds(Mode::Folded, test),
            None => unreachable!("a condition that nobody asks"),
        }
    }

    /// What stands at a path.
    fn place(&mut self, path: PathId) -> Standing<'a, 'c> {
        let memory = &mut self.places[path as usize % VALUES];
        if let Some((last, standing)) = *memory
            && last == path
        {
            return standing;
        }
        let place = self.values.at(self.paths, path);
        let number = place.and_then(|place| exact_double(place.value()));
        let standing = Standing { place, number };
        *memory = Some((path, standing));
        standing
    }

    fn holds_of_value(
        &mut self,
        condition: ConditionId,
        path: PathId,
        op: Op,
        value: &Value,
    ) -> bool {
        let found = self.place(path).place;
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_number() -> impl Strategy<Value = Value> {
        let large = [1 << 53, (1 << 53) + 1, i64::MAX, i64::MIN, -(1 << 53) - 1];
        let doubles = [0.0, -0.0, 0.5, 9_007_199_254_740_992.0, 1.8446744073709552e19, -1e300];
        prop_oneof![
            (-3..3_i64).prop_map(Value::from),
            proptest::sample::select(large.to_vec()).prop_map(Value::from),
            proptest::sample::select(doubles.to_vec()).prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
        ]
    }

    proptest! {
        /// A bound beside its slot says what the condition says.
        #[test]
        fn a_bound_is_its_condition(
            op in proptest::sample::select(vec![Op::Less, Op::AtMost, Op::Greater, Op::AtLeast]),
            value in any_number(), number in any_number(),
        ) {
            let bound = Bound::of(&Asks::Value { path: ROOT, op, value: value.clone() });
            if let (false, Some(double)) = (bound.number.is_nan(), exact_double(&number)) {
                prop_assert_eq!(bound.holds(double), attribute::holds(op, Some(&number), &value));
            }
        }

        #[test]
        fn answers_are_remembered(
            answers in prop::collection::vec((0..5_000_u32, any::<bool>()), 0..300),
        ) {
            let (mut all, mut expected) = (AllAnswers::default(), std::collections::BTreeMap::new());
            for (condition, holds) in answers {
                let known = all.get(condition);
                prop_assert!(known.is_none() || known == expected.get(&condition).copied());
                if known.is_none() && !expected.contains_key(&condition) {
                    all.put(condition, holds, 5_000);
                    expected.insert(condition, holds);
                }
            }
        }
    }
}
