//! Texts that are asked again and again what they contain: tables that make it quick to say what is not in them. Of
//! an array is remembered which of all that it is asked for it contains.

use std::cell::{Cell, OnceCell};

use memchr::memmem;

use super::sought::Found;

/// Questions about a text before a table is worth it.
const ASKED_FEW: u32 = 16;

/// What is remembered of one text or array, each when it is first wanted.
#[derive(Default)]
pub(super) struct Whole {
    asked: Cell<u32>,
    bytes: OnceCell<Grams<1>>,
    pairs: OnceCell<Grams<2>>,
    triples: OnceCell<Grams<3>>,
    eights: OnceCell<Grams<8>>,
    pub(super) found: OnceCell<Found>,
}

impl Whole {
    /// Whether there were so many questions that a table is worth it; counts one more.
    fn is_worth(&self) -> bool {
        self.asked.set(self.asked.get().saturating_add(1));
        self.asked.get() > ASKED_FEW
    }

    /// Whether this text, always the same, has that in it.
    pub(super) fn text_contains(&self, text: &str, part: &str) -> bool {
        if text.len() < part.len() {
            return false;
        }
        let (text, part) = (text.as_bytes(), part.as_bytes());
        let is_found = || memmem::find(text, part).is_some();
        if !self.is_worth() {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A table is a shortcut, never another answer.
    #[test]
    fn a_long_text_contains_what_it_contains() {
        let text = "abcabd é 山田 ".repeat(400) + "at the end";
        let parts = [
            "",
            "a",
            "z",
            "ab",
            "ad",
            "cab",
            "abd é",
            "abe",
            "山田",
            "山本",
            "the end",
            "at the end",
            "at the ends",
            "abcabd é 山田 abcabd é 山田 ",
            "endx",
        ];
        let whole = Whole::default();
        for _ in 0..3 {
            for part in parts {
                assert_eq!(whole.text_contains(&text, part), text.contains(part), "{part}");
            }
        }
        assert!(whole.triples.get().is_some() && whole.eights.get().is_some());
    }
}
