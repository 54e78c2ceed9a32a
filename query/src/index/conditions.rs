//! What no key decides: conditions that are verified, each kept once however many watchers ask it, and
//! answered once for a claim while the answer is remembered.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashTable};
use serde_json::Value;

use crate::attribute::{self, AttributeTest};
use crate::eval::Claim;
use crate::filter::Test;
use crate::{Mode, Op};

use super::attributes::nearest;

/// The number of a condition: stable while any watcher asks it, then given to another.
pub(super) type ConditionId = u32;

/// The conditions that watchers ask.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    numbers: HashTable<ConditionId>,
    slots: Vec<Slot>,
    free: Vec<ConditionId>,
    /// The paths of values that conditions are about.
    paths: Paths,
    hasher: RandomState,
}

#[derive(Debug)]
struct Slot {
    /// `None` of a free slot.
    test: Option<Test>,
    watchers: u32,
    /// The number of its path, if it is about a value.
    path: u32,
}

/// A number for each path, which is given to another when no condition is about it any more.
#[derive(Debug, Default)]
struct Paths {
    /// With how many conditions there are.
    numbers: HashMap<Box<[Box<str>]>, (u32, u32), RandomState>,
    free: Vec<u32>,
}

impl Conditions {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.paths.numbers.is_empty()
    }

    /// Bytes that are allocated, without what stands in conditions.
    pub(super) fn memory_bytes(&self) -> usize {
        self.numbers.allocation_size()
            + self.slots.capacity() * size_of::<Slot>()
            + self.numbers.len() * size_of::<AttributeTest>()
            + self.paths.numbers.allocation_size()
            + self.free.capacity() * size_of::<ConditionId>()
    }

    /// How many watchers ask a condition.
    pub(super) fn watchers(&self, condition: ConditionId) -> u32 {
        self.slots[condition as usize].watchers
    }

    /// Counts one more watcher that asks it. Each call wants one [`Conditions::release`].
    pub(super) fn acquire(&mut self, test: &Test) -> ConditionId {
        let hash = self.hasher.hash_one(test);
        let is_it = |&other: &u32| self.slots[other as usize].test.as_ref() == Some(test);
        let known = self.numbers.find(hash, is_it).copied();
        let condition = known.unwrap_or_else(|| self.add(test, hash));
        self.slots[condition as usize].watchers += 1;
        condition
    }

    /// Counts one watcher less; with the last the condition is forgotten.
    pub(super) fn release(&mut self, condition: ConditionId) {
        let slot = &mut self.slots[condition as usize];
        slot.watchers -= 1;
        if slot.watchers > 0 {
            return;
        }
        let test = slot.test.take().expect("a condition that is asked");
        if let Test::Attribute(test) = &test {
            self.paths.release(test.keys());
        }
        let hash = self.hasher.hash_one(&test);
        if let Ok(entry) = self.numbers.find_entry(hash, |&other| other == condition) {
            entry.remove();
        }
        self.free.push(condition);
    }

    fn add(&mut self, test: &Test, hash: u64) -> ConditionId {
        let path = match test {
            Test::Attribute(test) => self.paths.acquire(test.keys()),
            _ => 0,
        };
        let slot = Slot { test: Some(test.clone()), watchers: 0, path };
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
            |&other: &u32| hasher.hash_one(slots[other as usize].test.as_ref().expect("asked"));
        self.numbers.insert_unique(hash, condition, hash_of);
        condition
    }
}

impl Paths {
    fn acquire(&mut self, keys: &[Box<str>]) -> u32 {
        if let Some((number, conditions)) = self.numbers.get_mut(keys) {
            *conditions += 1;
            return *number;
        }
        let count = u32::try_from(self.numbers.len()).expect("fewer paths than conditions");
        let number = self.free.pop().unwrap_or(count);
        self.numbers.insert(keys.into(), (number, 1));
        number
    }

    fn release(&mut self, keys: &[Box<str>]) {
        let (number, conditions) = self.numbers.get_mut(keys).expect("the path of a condition");
        *conditions -= 1;
        if *conditions == 0 {
            self.free.push(*number);
            self.numbers.remove(keys);
        }
    }
}

/// Answers that are remembered.
const ANSWERS: usize = 64;
/// Values that are remembered.
const VALUES: usize = 8;

/// What conditions answer for one claim.
pub(super) struct Answers<'a, 'c> {
    conditions: &'a Conditions,
    claim: &'a Claim<'c>,
    /// By the lowest bits of its number, the last condition that was asked, and its answer.
    last: [Option<(ConditionId, bool)>; ANSWERS],
    /// By the lowest bits of its number, the last path that was asked about, and what stands there.
    values: [Option<(u32, Option<&'a Value>)>; VALUES],
    /// Long texts and arrays by the number of their path, when it was asked what they contain.
    wholes: HashMap<u32, Whole<'a>, RandomState>,
}

impl<'a, 'c> Answers<'a, 'c> {
    pub(super) fn new(conditions: &'a Conditions, claim: &'a Claim<'c>) -> Answers<'a, 'c> {
        let (last, values) = ([None; ANSWERS], [None; VALUES]);
        Answers { conditions, claim, last, values, wholes: HashMap::default() }
    }

    /// Whether a condition holds.
    pub(super) fn holds(&mut self, condition: ConditionId) -> bool {
        let place = condition as usize % ANSWERS;
        if let Some((last, holds)) = self.last[place]
            && last == condition
        {
            return holds;
        }
        let slot = &self.conditions.slots[condition as usize];
        let holds = match slot.test.as_ref().expect("it is asked") {
            Test::Attribute(test) => self.holds_of_value(slot.path, test),
            // What else is here is about times, which have no mode, or excludes terms, as AX alone can.
            test => self.claim.holds(Mode::Folded, test),
        };
        self.last[place] = Some((condition, holds));
        holds
    }

    fn holds_of_value(&mut self, path: u32, test: &AttributeTest) -> bool {
        let place = &mut self.values[path as usize % VALUES];
        let value = match *place {
            Some((last, value)) if last == path => value,
            _ => {
                let value = test.find(self.claim.attributes());
                *place = Some((path, value));
                value
            }
        };
        match value {
            Some(whole) if test.op == Op::Contains && Whole::is_long(whole) => {
                let whole = self.wholes.entry(path).or_insert_with(|| Whole::new(whole));
                whole.contains(&test.value)
            }
            value => test.holds_of(value),
        }
    }
}

/// A text or an array that is long, and what makes it quick to say what is not in it.
struct Whole<'a> {
    value: &'a Value,
    /// How often it was asked before there was a table of its parts.
    asked: u32,
    parts: Option<Parts>,
}

enum Parts {
    /// Which three bytes stand behind each other somewhere in a text, a bit each by their hash.
    Triples(Box<[u64; TRIPLES / 64]>),
    /// By the hash of a scalar, where in an array it stands first.
    Items(HashMap<u64, usize, RandomState>, RandomState),
}

const TRIPLES: usize = 1 << 20;
/// Bytes of a text, and items of an array, from which on a table of parts is made.
const TEXT_LONG: usize = 4_096;
const ARRAY_LONG: usize = 64;
/// Questions before a table is worth it.
const ASKED_FEW: u32 = 16;

impl<'a> Whole<'a> {
    fn is_long(value: &Value) -> bool {
        match value {
            Value::String(text) => text.len() >= TEXT_LONG,
            Value::Array(items) => items.len() >= ARRAY_LONG,
            _ => false,
        }
    }

    fn new(value: &'a Value) -> Whole<'a> {
        Whole { value, asked: 0, parts: None }
    }

    fn contains(&mut self, part: &Value) -> bool {
        if self.asked < ASKED_FEW {
            self.asked += 1;
            return attribute::contains(self.value, part);
        }
        match (self.parts.get_or_insert_with(|| Parts::of(self.value)), self.value, part) {
            (Parts::Items(places, hasher), Value::Array(items), part) => {
                let place = scalar_hash(hasher, part).and_then(|hash| places.get(&hash));
                // Another scalar may have the same hash.
                place.is_some_and(|place| {
                    attribute::equal(&items[*place], part) || attribute::contains(self.value, part)
                })
            }
            (Parts::Triples(bits), Value::String(text), Value::String(part)) => {
                part.as_bytes().windows(3).all(|triple| has(bits, triple)) && text.contains(&**part)
            }
            _ => false,
        }
    }
}

impl Parts {
    fn of(value: &Value) -> Parts {
        match value {
            Value::Array(items) => {
                let (mut places, hasher) = (HashMap::default(), RandomState::default());
                for (place, item) in items.iter().enumerate() {
                    if let Some(hash) = scalar_hash(&hasher, item) {
                        places.entry(hash).or_insert(place);
                    }
                }
                Parts::Items(places, hasher)
            }
            value => {
                let mut bits = Box::new([0; TRIPLES / 64]);
                for triple in value.as_str().unwrap_or_default().as_bytes().windows(3) {
                    let bit = bit_of(triple);
                    bits[bit / 64] |= 1 << (bit % 64);
                }
                Parts::Triples(bits)
            }
        }
    }
}

fn has(bits: &[u64; TRIPLES / 64], triple: &[u8]) -> bool {
    let bit = bit_of(triple);
    bits[bit / 64] & 1 << (bit % 64) != 0
}

fn bit_of(triple: &[u8]) -> usize {
    let number = triple.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    number.wrapping_mul(0x9E37_79B1) as usize >> 12
}

/// The same for values that are equal; `None` of arrays and objects, which no condition asks for.
fn scalar_hash(hasher: &RandomState, value: &Value) -> Option<u64> {
    match value {
        // Both zeros are one number.
        Value::Number(_) => Some(hasher.hash_one((0, (nearest(value) + 0.0).to_bits()))),
        Value::String(text) => Some(hasher.hash_one((1, text))),
        Value::Bool(truth) => Some(hasher.hash_one((2, truth))),
        Value::Null => Some(hasher.hash_one(3)),
        Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A table of parts is a shortcut, never another answer.
    #[test]
    fn a_long_whole_contains_what_it_contains() {
        let items: Vec<Value> = (0..99).map(|i| json!(i)).collect();
        let more = [json!("x"), json!(null), json!(true), json!(0.5), json!([7]), json!({"a": 1})];
        let big = [json!(9_007_199_254_740_993_u64), json!(-0.0)];
        let array = Value::from([&items[..], &more, &big].concat());
        let text = json!("abcabd é 山田 ".repeat(400) + "at the end");
        let parts = [
            json!(7),
            json!(7.0),
            json!(99),
            json!(0),
            json!(-0.0),
            json!("x"),
            json!("y"),
            json!(null),
            json!(true),
            json!(false),
            json!(0.5),
            json!([7]),
            json!({"a": 1}),
            json!(""),
            json!("ab"),
            json!(9_007_199_254_740_992_u64),
            json!(9_007_199_254_740_993_u64),
            json!("cab"),
            json!("abd é"),
            json!("abe"),
            json!("山田"),
            json!("山本"),
            json!("the end"),
            json!("endx"),
        ];
        for whole in [&array, &text] {
            assert!(Whole::is_long(whole));
            let mut quick = Whole::new(whole);
            for _ in 0..2 {
                for part in parts.iter().filter(|part| !part.is_array() && !part.is_object()) {
                    let expected = attribute::contains(whole, part);
                    assert_eq!(quick.contains(part), expected, "{part}");
                }
            }
            assert!(quick.parts.is_some());
        }
    }
}
