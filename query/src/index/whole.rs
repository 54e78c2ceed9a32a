//! Long texts and arrays that are asked again and again what they contain: tables that make it quick to say what is not
//! in them.

use std::cell::{Cell, OnceCell};
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use memchr::memmem;
use serde_json::Value;

use crate::attribute::equal;

use super::attributes::exact;
use super::cursor::{items, unquoted};

/// Questions about a text, and about an array, before a table is worth it.
const ASKED_FEW_OF_TEXT: u32 = 16;
const ASKED_FEW_OF_ARRAY: u32 = 2;

/// Tables about one text or array, each made when it is first wanted.
#[derive(Default)]
pub(super) struct Whole {
    asked: Cell<u32>,
    bytes: OnceCell<Grams<1>>,
    pairs: OnceCell<Grams<2>>,
    triples: OnceCell<Grams<3>>,
    eights: OnceCell<Grams<8>>,
    items: OnceCell<Items>,
}

impl Whole {
    /// Whether there were so many questions that a table is worth it; counts one more.
    fn is_worth(&self, few: u32) -> bool {
        self.asked.set(self.asked.get().saturating_add(1));
        self.asked.get() > few
    }

    /// Whether this text, always the same, has that in it.
    pub(super) fn text_contains(&self, text: &str, part: &str) -> bool {
        if text.len() < part.len() {
            return false;
        }
        let (text, part) = (text.as_bytes(), part.as_bytes());
        let is_found = || memmem::find(text, part).is_some();
        if !self.is_worth(ASKED_FEW_OF_TEXT) {
            return is_found();
        }
        match part.len() {
            0 => true,
            1 => self.bytes.get_or_init(|| Grams::of(text)).may_have(part),
            2 => self.pairs.get_or_init(|| Grams::of(text)).may_have(part),
            3..8 => self.triples.get_or_init(|| Grams::of(text)).may_have(part) && is_found(),
            _ => self.eights.get_or_init(|| Grams::of(text)).may_have(part) && is_found(),
        }
    }

    /// Whether this array, as it stands in its text and always the same, has that scalar in it.
    pub(super) fn array_contains(&self, array: &str, part: &Value) -> bool {
        if !self.is_worth(ASKED_FEW_OF_ARRAY) {
            return items(array).any(|item| is_same(item, part));
        }
        self.items.get_or_init(|| Items::of(array)).contains(array, part)
    }
}

/// Which `N` bytes stand behind each other somewhere in a text, a bit each: up to two exactly, else by their hash.
struct Grams<const N: usize> {
    bits: Box<[u64]>,
}

/// Bits of a table: as many as a text of this length wants, within these.
const GRAM_BITS_MIN: usize = 1 << 10;
const GRAM_BITS_MAX: usize = 1 << 23;

impl<const N: usize> Grams<N> {
    fn of(text: &[u8]) -> Grams<N> {
        let bits = match N {
            1 => 1 << 8,
            2 => 1 << 16,
            _ => (text.len() * 8).next_power_of_two().clamp(GRAM_BITS_MIN, GRAM_BITS_MAX),
        };
        let mut grams = Grams { bits: vec![0; bits / 64].into() };
        let places = bits.trailing_zeros();
        each_gram::<N>(text, |gram| {
            let bit = place::<N>(gram, places);
            grams.bits[bit / 64] |= 1 << (bit % 64);
            true
        });
        grams
    }

    /// Whether all that stand in a part, of `N` bytes at least, may be in the text.
    fn may_have(&self, part: &[u8]) -> bool {
        let places = (self.bits.len() * 64).trailing_zeros();
        each_gram::<N>(part, |gram| {
            let bit = place::<N>(gram, places);
            self.bits[bit / 64] & 1 << (bit % 64) != 0
        })
    }
}

/// Visits each `N` bytes as one number, as long as `visit` says yes, and answers whether it always did.
fn each_gram<const N: usize>(text: &[u8], mut visit: impl FnMut(u64) -> bool) -> bool {
    let mut gram = 0_u64;
    let kept = u64::MAX >> (64 - 8 * N);
    text.iter().enumerate().all(|(i, byte)| {
        gram = (gram << 8 | u64::from(*byte)) & kept;
        i + 1 < N || visit(gram)
    })
}

fn place<const N: usize>(gram: u64, places: u32) -> usize {
    if N <= 2 {
        gram as usize
    } else {
        (gram.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - places)) as usize
    }
}

/// The scalars in an array by their hash, with the place in its text where one of them stands.
struct Items {
    places: HashMap<u64, u32, RandomState>,
    hasher: RandomState,
}

impl Items {
    fn of(array: &str) -> Items {
        let (mut places, hasher) = (HashMap::default(), RandomState::default());
        // Of the shortest items there are few, and may be many.
        let mut is_known = [false; 256];
        for item in items(array) {
            if let [byte] = item.as_bytes()
                && std::mem::replace(&mut is_known[usize::from(*byte)], true)
            {
                continue;
            }
            if let Some(hash) = hash_of_item(&hasher, item) {
                let place = item.as_ptr().addr() - array.as_ptr().addr();
                places.entry(hash).or_insert(place as u32);
            }
        }
        Items { places, hasher }
    }

    fn contains(&self, array: &str, part: &Value) -> bool {
        let place = hash_of(&self.hasher, part).and_then(|hash| self.places.get(&hash));
        place.is_some_and(|place| {
            let item = super::cursor::Cursor::new(&array[*place as usize..]).value();
            // Another scalar may have the same hash.
            item.is_some_and(|item| is_same(item, part))
                || items(array).any(|item| is_same(item, part))
        })
    }
}

/// Whether an item, as it stands in a text, equals a scalar.
fn is_same(item: &str, part: &Value) -> bool {
    match (item.as_bytes().first(), part) {
        (Some(b'"'), Value::String(part)) => unquoted(item).is_some_and(|text| *text == **part),
        (Some(b'-' | b'0'..=b'9'), Value::Number(_)) => equal(&number(item), part),
        (Some(b't' | b'f'), Value::Bool(part)) => item == if *part { "true" } else { "false" },
        (Some(b'n'), Value::Null) => true,
        _ => false,
    }
}

/// The same for an item and a value that are equal; `None` of arrays and objects, which no condition names.
fn hash_of_item(hasher: &RandomState, item: &str) -> Option<u64> {
    match item.as_bytes().first()? {
        b'"' => unquoted(item).map(|text| hasher.hash_one((0, &*text))),
        b'{' | b'[' => None,
        b't' | b'f' | b'n' => Some(hasher.hash_one((1, item))),
        _ => hash_of(hasher, &number(item)),
    }
}

fn hash_of(hasher: &RandomState, value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => Some(hasher.hash_one((0, &**text))),
        Value::Bool(true) => Some(hasher.hash_one((1, "true"))),
        Value::Bool(false) => Some(hasher.hash_one((1, "false"))),
        Value::Null => Some(hasher.hash_one((1, "null"))),
        Value::Number(number) => Some(hasher.hash_one((2, exact(number)))),
        Value::Array(_) | Value::Object(_) => None,
    }
}

/// A number as it stands in a text. Short whole ones need no parser.
fn number(text: &str) -> Value {
    let bytes = text.as_bytes();
    if bytes.len() <= 18 && bytes.iter().all(u8::is_ascii_digit) {
        return bytes.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0')).into();
    }
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute;
    use serde_json::json;

    /// A table is a shortcut, never another answer.
    #[test]
    fn a_long_whole_contains_what_it_contains() {
        let numbers: Vec<Value> = (0..99).map(|i| json!(i)).collect();
        let more = [json!("x"), json!(null), json!(true), json!(0.5), json!([7]), json!({"a": 1})];
        let big =
            [json!(9_007_199_254_740_993_u64), json!(-0.0), json!("q\"\\\u{1}"), json!(1e300)];
        let array = Value::from([&numbers[..], &more, &big].concat());
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
            json!(1e300),
            json!(""),
            json!("a"),
            json!("z"),
            json!("ab"),
            json!("ad"),
            json!("q\"\\\u{1}"),
            json!(9_007_199_254_740_992_u64),
            json!(9_007_199_254_740_993_u64),
            json!(9_007_199_254_740_992.0),
            json!("cab"),
            json!("abd é"),
            json!("abe"),
            json!("山田"),
            json!("山本"),
            json!("the end"),
            json!("at the end"),
            json!("at the ends"),
            json!("abcabd é 山田 abcabd é 山田 "),
            json!("endx"),
        ];
        let (of_text, of_array) = (Whole::default(), Whole::default());
        let raw = array.to_string();
        for _ in 0..3 {
            for part in &parts {
                let expected = attribute::contains(&array, part);
                assert_eq!(of_array.array_contains(&raw, part), expected, "{part}");
                if let (Value::String(text), Value::String(part)) = (&text, part) {
                    assert_eq!(of_text.text_contains(text, part), text.contains(&**part), "{part}");
                }
            }
        }
        assert!(of_array.items.get().is_some());
        assert!(of_text.triples.get().is_some() && of_text.eights.get().is_some());
    }
}
