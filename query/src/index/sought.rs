//! What arrays at one path are asked to contain: its items are looked up among that, once for all who ask.
//!
//! Most items are nothing that anybody asks for. Those are told by a bit of the table of marks, before anything
//! is hashed.

use std::borrow::Cow;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::{HashSet, HashTable};
use serde_json::Value;

use super::attributes::{Exact, exact};
use super::conditions::ConditionId;
use super::cursor::{Scalar, each_scalar, unquoted};

/// Conditions that hold of an array.
pub(super) type Found = HashSet<ConditionId, RandomState>;

/// A scalar, the same for all that are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key<'v> {
    Null,
    Truth(bool),
    Number(Exact),
    Text(Cow<'v, str>),
}

impl<'v> Key<'v> {
    /// `None` of arrays and objects, which no condition names.
    pub(super) fn of(value: &'v Value) -> Option<Key<'v>> {
        match value {
            Value::Null => Some(Key::Null),
            Value::Bool(truth) => Some(Key::Truth(*truth)),
            Value::Number(number) => Some(Key::Number(exact(number))),
            Value::String(text) => Some(Key::Text(Cow::Borrowed(text))),
            Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn read(scalar: Scalar<'v>) -> Option<Key<'v>> {
        match scalar {
            Scalar::Whole(whole) => Some(Key::Number(Exact::Whole(whole.into()))),
            Scalar::Plain(text) => Some(Key::Text(Cow::Borrowed(text))),
            Scalar::Other(text) => match text.as_bytes().first()? {
                b'"' => unquoted(text).map(Key::Text),
                b'n' => Some(Key::Null),
                b't' | b'f' => Some(Key::Truth(text.starts_with('t'))),
                _ => serde_json::from_str(text).ok().map(|number| Key::Number(exact(&number))),
            },
        }
    }

    /// A number that is the same for those that are equal, and whether it is so of no others.
    fn mark(&self) -> (u64, bool) {
        /// Above what short texts are told by, and above short numbers.
        const KIND: u32 = 56;
        match self {
            Key::Null => (1 << KIND, true),
            Key::Truth(truth) => (2 << KIND | u64::from(*truth), true),
            Key::Number(Exact::Whole(whole)) => {
                let bits = *whole as u64;
                (3 << KIND ^ bits, (0..1 << KIND).contains(whole))
            }
            Key::Number(Exact::Double(bits)) => (4 << KIND ^ *bits, false),
            Key::Text(text) => mark_of(text.as_bytes()),
        }
    }
}

/// Texts of less than eight bytes are told by their bytes and length.
fn mark_of(text: &[u8]) -> (u64, bool) {
    const KIND: u32 = 56;
    let len = text.len() as u64;
    let short = |bytes: u64| ((8 + len) << KIND | bytes, true);
    match text {
        [] => short(0),
        [first, ..] if len < 4 => {
            let (middle, last) = (text[text.len() / 2], text[text.len() - 1]);
            short(u64::from(*first) | u64::from(middle) << 8 | u64::from(last) << 16)
        }
        _ => match (text.first_chunk(), text.last_chunk()) {
            (Some(first), Some(last)) => {
                let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
                (mixed(first).rotate_left(29) ^ last ^ len, false)
            }
            _ => {
                let four =
                    |four: Option<&[u8; 4]>| four.map_or(0, |four| u32::from_le_bytes(*four));
                let (first, last) = (four(text.first_chunk()), four(text.last_chunk()));
                // They share some bytes, so that seven of them are enough.
                short(u64::from(first) | u64::from(last) >> (8 * (8 - len)) << 32)
            }
        },
    }
}

fn mixed(mark: u64) -> u64 {
    mark.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Bits of the table of marks at least, and for each that is looked for, about.
const BITS_MIN: usize = 1 << 9;
const BITS_EACH: usize = 16;

/// What is looked for in arrays at one path.
#[derive(Debug, Default)]
pub(super) struct Sought {
    /// By their keys, of which two may be equal (7 and 7.0).
    conditions: HashTable<ConditionId>,
    hasher: RandomState,
    /// A bit for the mark of each key. It stays when the key goes: it saves look-ups and proves nothing.
    marks: Box<[u64]>,
    /// Whether any of them is a number. It stays, too.
    has_numbers: bool,
}

impl Sought {
    pub(super) fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Bytes that are allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.conditions.allocation_size() + size_of_val(&*self.marks)
    }

    /// Adds a condition that is not there. `key_of` tells the keys of all.
    pub(super) fn insert<'v>(
        &mut self,
        condition: ConditionId,
        key: Key<'_>,
        key_of: impl Fn(ConditionId) -> Option<Key<'v>>,
    ) {
        let hasher = &self.hasher;
        let hash_of = |&other: &u32| hasher.hash_one(key_of(other));
        self.conditions.insert_unique(hasher.hash_one(Some(&key)), condition, hash_of);
        let bits = self.marks.len() * 64;
        if bits < BITS_MIN || bits < self.conditions.len() * BITS_EACH / 2 {
            let bits = (self.conditions.len() * BITS_EACH).next_power_of_two().max(BITS_MIN);
            self.marks = vec![0; bits / 64].into();
            self.has_numbers = false;
            let keys: Vec<ConditionId> = self.conditions.iter().copied().collect();
            keys.into_iter().filter_map(key_of).for_each(|key| self.mark(&key));
        }
        self.mark(&key);
    }

    pub(super) fn remove(&mut self, condition: ConditionId, key: Key<'_>) {
        let hash = self.hasher.hash_one(Some(key));
        if let Ok(entry) = self.conditions.find_entry(hash, |&other| other == condition) {
            entry.remove();
        }
    }

    fn mark(&mut self, key: &Key<'_>) {
        self.has_numbers |= matches!(key, Key::Number(_));
        let bit = self.bit(key.mark().0);
        self.marks[bit / 64] |= 1 << (bit % 64);
    }

    fn bit(&self, mark: u64) -> usize {
        let places = (self.marks.len() * 64).trailing_zeros();
        (mixed(mark) >> (64 - places)) as usize
    }

    /// All conditions that ask for something in this array.
    pub(super) fn find<'v>(
        &self,
        array: &str,
        key_of: impl Fn(ConditionId) -> Option<Key<'v>>,
    ) -> Found {
        let mut found = Found::default();
        let mut seen = Seen::default();
        each_scalar(array, |scalar| {
            if !self.has_numbers && is_number(scalar) {
                return true;
            }
            let Some(key) = Key::read(scalar) else { return true };
            let (mark, is_exact) = key.mark();
            let bit = self.bit(mark);
            if self.marks[bit / 64] & 1 << (bit % 64) == 0 || is_exact && seen.has(mark) {
                return true;
            }
            let key = Some(key);
            let same = self.conditions.iter_hash(self.hasher.hash_one(&key)).copied();
            found.extend(same.filter(|condition| key_of(*condition) == key));
            found.len() < self.conditions.len()
        });
        found
    }
}

fn is_number(scalar: Scalar<'_>) -> bool {
    match scalar {
        Scalar::Whole(_) => true,
        Scalar::Plain(_) => false,
        Scalar::Other(text) => {
            text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        }
    }
}

/// Marks of items that were looked up: short items may come again and again.
#[derive(Default)]
struct Seen {
    marks: Vec<u64>,
}

impl Seen {
    /// A power of two.
    const MARKS: usize = 1 << 10;

    /// Whether this mark, never 0, was the last of those that share its place; it is from now on.
    fn has(&mut self, mark: u64) -> bool {
        self.marks.resize(Seen::MARKS, 0);
        let place = (mixed(mark) >> (64 - Seen::MARKS.trailing_zeros())) as usize;
        std::mem::replace(&mut self.marks[place], mark) == mark
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute;
    use proptest::prelude::*;

    fn any_scalar() -> impl Strategy<Value = Value> {
        let doubles = [0.0, -0.0, 0.5, -0.5, 2.0, 7.0, 9_007_199_254_740_992.0, 1e20, 1e300];
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3..12_i64).prop_map(Value::from),
            (9_007_199_254_740_991..9_007_199_254_740_995_i64).prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            proptest::sample::select(doubles.to_vec()).prop_map(Value::from),
            "[ab]{0,9}".prop_map(Value::from),
            "[ab]{0,1}[\"\\\\\u{1}é]{0,2}[a,0]{0,9}".prop_map(Value::from),
            "(0|null|true|1|a{30})".prop_map(Value::from),
        ]
    }

    fn any_item() -> impl Strategy<Value = Value> {
        prop_oneof![
            20 => any_scalar(),
            1 => prop::collection::vec(any_scalar(), 0..3).prop_map(Value::from),
            1 => any_scalar().prop_map(|value| serde_json::json!({ "a": value })),
        ]
    }

    proptest! {
        /// Looking all of them up at once is a shortcut, never another answer.
        #[test]
        fn an_array_contains_what_it_contains(
            parts in prop::collection::vec(any_scalar(), 1..40),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            arrays in prop::collection::vec(prop::collection::vec(any_item(), 0..60), 1..4),
            is_pretty in any::<bool>(),
        ) {
            let key_of = |condition: ConditionId| Key::of(&parts[condition as usize]);
            let mut sought = Sought::default();
            let mut left: HashSet<ConditionId> = (0..parts.len() as u32).collect();
            for &condition in &left {
                sought.insert(condition, key_of(condition).unwrap(), key_of);
            }
            for condition in gone.iter().map(|index| index.index(parts.len()) as u32) {
                sought.remove(condition, key_of(condition).unwrap());
                left.remove(&condition);
            }
            prop_assert_eq!(sought.is_empty(), left.is_empty());
            for array in arrays.into_iter().map(Value::from) {
                let text = if is_pretty { format!("{array:#}") } else { array.to_string() };
                let found = sought.find(&text, key_of);
                for &condition in &left {
                    let part = &parts[condition as usize];
                    let expected = attribute::contains(&array, part);
                    prop_assert_eq!(found.contains(&condition), expected, "{} in {}", part, text);
                }
            }
        }

        /// What is told by its mark alone is told from all others.
        #[test]
        fn a_mark_is_a_key(
            one in prop_oneof![any_scalar(), ".{0,4}".prop_map(Value::from)],
            other in prop_oneof![any_scalar(), ".{0,4}".prop_map(Value::from)],
        ) {
            let [one, other] = [&one, &other].map(|value| Key::of(value).unwrap());
            let same = one.mark() == other.mark();
            prop_assert!(same || one != other);
            prop_assert!(!same || !one.mark().1 || one == other);
        }
    }
}
