//! A place in a JSON text from which values are passed over without a look at what is in them.
//!
//! The text is JSON by the promise of [`axwatch_model::Attributes`]; it is not checked again. Of a text that broke that
//! promise less is found, and nothing worse.

use std::borrow::Cow;

use memchr::memchr2;

/// A place in a text, between its tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'t> {
    text: &'t str,
    at: usize,
}

/// Bytes of a string that are looked at one by one, before a search that is worth its start.
const SHORT: usize = 16;

impl<'t> Cursor<'t> {
    /// At the beginning of a text.
    pub(super) fn new(text: &'t str) -> Cursor<'t> {
        Cursor { text, at: 0 }
    }

    /// The first byte of the next token; 0 at the end.
    pub(super) fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Passes over a token of one byte, if it is this one.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let is_it = self.peek() == byte;
        self.at += usize::from(is_it);
        is_it
    }

    /// The text from an earlier place to this one.
    pub(super) fn since(&self, before: Cursor<'t>) -> &'t str {
        &self.text[before.at..self.at]
    }

    /// Reads the key of an entry, and passes over the colon behind it.
    pub(super) fn key(&mut self) -> Option<Cow<'t, str>> {
        self.peek();
        let before = *self;
        let is_escaped = self.string()?;
        let quoted = self.since(before);
        let key = if is_escaped {
            unquoted(quoted)?
        } else {
            Cow::Borrowed(&quoted[1..quoted.len() - 1])
        };
        self.take(b':').then_some(key)
    }

    /// Passes over a value.
    pub(super) fn value(&mut self) -> Option<&'t str> {
        let first = self.peek();
        let before = *self;
        match first {
            b'"' => {
                self.string()?;
            }
            b'{' | b'[' => self.nest()?,
            _ => self.word(),
        }
        Some(self.since(before)).filter(|value| !value.is_empty())
    }

    /// Passes over what stands in an object or array from here on, and its end.
    pub(super) fn rest_of_nest(&mut self) -> Option<()> {
        self.at += nest_len(&self.text.as_bytes()[self.at..], 1)?;
        Some(())
    }

    fn nest(&mut self) -> Option<()> {
        self.at += nest_len(&self.text.as_bytes()[self.at..], 0)?;
        Some(())
    }

    /// Passes over a string and its quotes, and says whether there are escapes in it.
    fn string(&mut self) -> Option<bool> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'"') {
            return None;
        }
        let (mut at, mut is_escaped) = (self.at + 1, false);
        loop {
            at = end_of_plain(bytes, at)?;
            if bytes[at] == b'"' {
                self.at = at + 1;
                return Some(is_escaped);
            }
            is_escaped = true;
            at += 2;
        }
    }

    /// Reads what begins here and is no array or object; `None` at what is none.
    fn scalar(&mut self) -> Option<Scalar<'t>> {
        let before = *self;
        if let Some(whole) = self.whole() {
            return Some(Scalar::Whole(whole));
        }
        if self.peek() == b'"' {
            let is_escaped = self.string()?;
            let all = self.since(before);
            let inner = &all[1..all.len() - 1];
            return Some(if is_escaped { Scalar::Other(all) } else { Scalar::Plain(inner) });
        }
        self.word();
        Some(self.since(before)).filter(|word| !word.is_empty()).map(Scalar::Other)
    }

    /// Passes over a number that is whole as it is written and short.
    fn whole(&mut self) -> Option<i64> {
        let rest = &self.text.as_bytes()[self.at..];
        let sign = usize::from(rest.first() == Some(&b'-'));
        let (mut sum, mut len) = (0_i64, sign);
        while let Some(digit @ b'0'..=b'9') = rest.get(len) {
            sum = sum.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'));
            len += 1;
        }
        let is_whole = !matches!(rest.get(len), Some(b'.' | b'e' | b'E'));
        if !is_whole || !(1..=DIGITS_MAX).contains(&(len - sign)) {
            return None;
        }
        self.at += len;
        Some(if sign == 1 { -sum } else { sum })
    }

    /// Passes over a number, `true`, `false` or `null`.
    fn word(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        let is_part =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        self.at += rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
    }
}

/// A scalar in an array, taken apart as far as that is cheap.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scalar<'t> {
    /// A whole number of some digits.
    Whole(i64),
    /// A text without escapes, and without its quotes.
    Plain(&'t str),
    /// Any other, as it stands in the text.
    Other(&'t str),
}

/// Digits that fit into a number of 64 bits.
const DIGITS_MAX: usize = 18;

/// Visits the scalars in an array as long as `visit` says yes; none of what is no array. Numbers of one digit are
/// visited once.
pub(super) fn each_scalar<'t>(array: &'t str, mut visit: impl FnMut(Scalar<'t>) -> bool) {
    let mut cursor = Cursor::new(array);
    let (mut is_more, mut digits) = (cursor.take(b'['), 0_u16);
    while is_more {
        cursor.at = end_of_digits(array.as_bytes(), cursor.at, digits);
        let is_wanted = match cursor.peek() {
            b'{' | b'[' => cursor.nest().is_some(),
            _ => match cursor.scalar() {
                Some(Scalar::Whole(whole @ 0..=9)) if digits >> whole & 1 == 1 => true,
                Some(scalar) => {
                    if let Scalar::Whole(whole @ 0..=9) = scalar {
                        digits |= 1 << whole;
                    }
                    visit(scalar)
                }
                None => false,
            },
        };
        is_more = is_wanted && cursor.take(b',');
    }
}

/// Where from here on there is anything but items of one digit that are among these, four at a time.
fn end_of_digits(bytes: &[u8], mut at: usize, digits: u16) -> usize {
    /// Four times a digit and a comma, without the bits that say which digit.
    const ITEMS: u64 = u64::from_le_bytes(*b"0,0,0,0,");
    const WHICH: u64 = u64::from_le_bytes([0xf, 0, 0xf, 0, 0xf, 0, 0xf, 0]);
    while let Some(word) = word(bytes, at)
        && word & !WHICH == ITEMS
        && [0, 16, 32, 48].iter().all(|shift| digits >> (word >> shift & 0xf) & 1 == 1)
    {
        at += 8;
    }
    at
}

/// Where the first quote or backslash stands from here on.
fn end_of_plain(bytes: &[u8], mut at: usize) -> Option<usize> {
    let near = at.saturating_add(SHORT);
    while at < near
        && let Some(word) = word(bytes, at)
    {
        let found = zeros(word ^ u64::from_ne_bytes([b'"'; 8]))
            | zeros(word ^ u64::from_ne_bytes([b'\\'; 8]));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    Some(at + memchr2(b'"', b'\\', bytes.get(at..)?)?)
}

/// Eight bytes, if there are so many.
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The highest bit of the lowest byte that is 0, and perhaps of some above it.
fn zeros(word: u64) -> u64 {
    word.wrapping_sub(u64::from_ne_bytes([0x01; 8])) & !word & u64::from_ne_bytes([0x80; 8])
}

/// What a string in quotes says.
pub(super) fn unquoted(string: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str(string).ok().map(Cow::Owned)
}

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// How many bytes there are up to the end of what is open: `depth` objects and arrays, or the one that begins here.
///
/// Where brackets and quotes stand is found for 64 bytes at a time, a bit each, and brackets in strings are left
/// out; only a block in which the end may be is looked at bracket by bracket.
fn nest_len(bytes: &[u8], mut depth: u64) -> Option<usize> {
    let mut strings = Strings::default();
    for (block, start) in bytes.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        let marks = match block.try_into() {
            Ok(block) => Marks::of(block),
            Err(_) => {
                let mut padded = [0; BLOCK];
                padded[..block.len()].copy_from_slice(block);
                Marks::of(&padded)
            }
        };
        let outside = !strings.inside(&marks);
        let (opens, closes) = (marks.opens & outside, marks.closes & outside);
        if u64::from(closes.count_ones()) < depth {
            depth = depth + u64::from(opens.count_ones()) - u64::from(closes.count_ones());
            continue;
        }
        let mut brackets = opens | closes;
        while brackets != 0 {
            let place = brackets.trailing_zeros();
            brackets &= brackets - 1;
            depth = if opens >> place & 1 == 1 { depth + 1 } else { depth.checked_sub(1)? };
            if depth == 0 {
                return Some(start + place as usize + 1);
            }
        }
    }
    None
}

/// Which bytes of a block matter to what is nested in what, a bit each.
struct Marks {
    quotes: u64,
    backslashes: u64,
    opens: u64,
    closes: u64,
}

impl Marks {
    fn of(block: &[u8; BLOCK]) -> Marks {
        /// The bit that is all that differs between square and curly brackets.
        const CURLY: u64 = u64::from_ne_bytes([b'{' ^ b'['; 8]);
        let mut marks = Marks { quotes: 0, backslashes: 0, opens: 0, closes: 0 };
        for (word, shift) in block.as_chunks::<8>().0.iter().zip((0..).step_by(8)) {
            let word = u64::from_le_bytes(*word);
            marks.quotes |= places(word, b'"') << shift;
            marks.backslashes |= places(word, b'\\') << shift;
            marks.opens |= places(word | CURLY, b'{') << shift;
            marks.closes |= places(word | CURLY, b'}') << shift;
        }
        marks
    }
}

/// Which of eight bytes are this one, a bit each.
fn places(word: u64, byte: u8) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    /// Brings the highest bit of each byte together in the highest byte.
    const GATHER: u64 = 0x0002_0408_1020_4081;
    let differs = word ^ u64::from_ne_bytes([byte; 8]);
    // The highest bit of each byte that is 0 and of no other: no sum of two such bytes reaches the next.
    let is_same = !((differs & LOW).wrapping_add(LOW) | differs | LOW);
    is_same.wrapping_mul(GATHER) >> 56
}

/// What blocks before this one leave open.
#[derive(Default)]
struct Strings {
    /// All bits where a string goes on, else none.
    open: u64,
    /// Whether the next byte stands behind a backslash that counts.
    is_escaped: bool,
}

impl Strings {
    /// Which bytes of the next block stand in strings; a string's first quote does and its last does not.
    fn inside(&mut self, marks: &Marks) -> u64 {
        let mut inside = marks.quotes & !self.escaped(marks.backslashes);
        // To each place the number of quotes up to it, odd or even.
        for shift in [1, 2, 4, 8, 16, 32] {
            inside ^= inside << shift;
        }
        inside ^= self.open;
        self.open = if inside >> 63 == 1 { u64::MAX } else { 0 };
        inside
    }

    /// Which bytes of the next block stand behind a backslash that counts.
    fn escaped(&mut self, mut backslashes: u64) -> u64 {
        let mut escaped = u64::from(self.is_escaped);
        backslashes &= !escaped;
        self.is_escaped = false;
        while backslashes != 0 {
            let place = backslashes.trailing_zeros();
            self.is_escaped = place == 63;
            let behind = 2_u64 << place;
            escaped |= behind;
            // One that is escaped itself does not count.
            backslashes &= backslashes - 1;
            backslashes &= !behind;
        }
        escaped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::collections::BTreeSet;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            r#"[a{}\[\]"\\,:é ]{0,9}"#.prop_map(Value::from),
            r#"[a{}\[\]"\\]{50,150}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            let entries = prop::collection::btree_map(r#"[a{"\\]{0,3}"#, inner.clone(), 0..6);
            prop_oneof![
                prop::collection::vec(inner, 0..6).prop_map(Value::from),
                entries.prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    /// Mostly short numbers, of which many are the same.
    fn any_array() -> impl Strategy<Value = Value> {
        let item = prop_oneof![
            20 => (0..12_i64).prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            1 => any::<u64>().prop_map(Value::from),
            1 => (-99..0_i64).prop_map(Value::from),
            1 => (-9..9_i32).prop_map(|halves| Value::from(f64::from(halves) / 2.0)),
            1 => any_json(),
        ];
        prop::collection::vec(item, 0..60).prop_map(Value::from)
    }

    fn scalars(array: &str) -> Vec<Value> {
        let mut scalars = Vec::new();
        each_scalar(array, |scalar| {
            scalars.push(match scalar {
                Scalar::Whole(whole) => Value::from(whole),
                Scalar::Plain(text) => Value::from(text),
                Scalar::Other(text) => serde_json::from_str(text).unwrap(),
            });
            true
        });
        scalars
    }

    proptest! {
        /// A value ends where it ends, whatever stands in it and behind it.
        #[test]
        fn a_value_is_passed_over(
            value in any_json(), is_pretty in any::<bool>(), behind in "[,}\\]][a{}\\[\\]\"\\\\]{0,9}",
        ) {
            let text = if is_pretty { format!("{value:#}") } else { value.to_string() };
            let all = format!("{text}{behind}");
            prop_assert_eq!(Cursor::new(&all).value(), Some(&*text));
            // And from within.
            if value.is_array() || value.is_object() {
                let mut cursor = Cursor::new(&all);
                cursor.at = 1;
                cursor.rest_of_nest().unwrap();
                prop_assert_eq!(cursor.at, text.len());
            }
        }

        #[test]
        fn scalars_and_keys_are_those_of_the_value(
            value in prop_oneof![any_json(), any_array()], is_pretty in any::<bool>(),
        ) {
            let text = if is_pretty { format!("{value:#}") } else { value.to_string() };
            let mut expected = value.as_array().cloned().unwrap_or_default();
            let mut digits = BTreeSet::new();
            expected.retain(|item| match item.as_i64() {
                Some(digit @ 0..=9) => digits.insert(digit),
                _ => !item.is_array() && !item.is_object(),
            });
            prop_assert_eq!(scalars(&text), expected);
            if let Value::Object(object) = &value {
                let mut cursor = Cursor::new(&text);
                prop_assert_eq!(cursor.take(b'{'), true);
                for (key, value) in object {
                    let found = cursor.key();
                    prop_assert_eq!(found.as_deref(), Some(&**key));
                    let found: Value = serde_json::from_str(cursor.value().unwrap()).unwrap();
                    prop_assert_eq!(&found, value);
                    cursor.take(b',');
                }
                prop_assert_eq!(cursor.take(b'}'), true);
            }
        }

        /// Nothing that is no JSON does harm.
        #[test]
        fn any_text_at_all_ends(text in r#"[a1{}\[\]"\\,:é ]{0,150}"#) {
            let mut cursor = Cursor::new(&text);
            while cursor.at < text.len() && cursor.value().or_else(|| cursor.key().map(|_| "")).is_some() {}
            let mut scalars = 0;
            each_scalar(&text, |_| {
                scalars += 1;
                true
            });
            prop_assert!(scalars <= text.len());
            prop_assert!(cursor.rest_of_nest().is_none() || cursor.at <= text.len());
        }
    }

    #[test]
    fn an_escape_may_end_a_block() {
        for blanks in 50..70 {
            for backslashes in 0..5 {
                let text =
                    format!(r#"["{}{}",["]"]]"#, " ".repeat(blanks), r"\\".repeat(backslashes));
                assert_eq!(nest_len(text.as_bytes(), 0), Some(text.len()), "{text}");
                let text =
                    format!(r#"["{}{}\"]",["]"]],"#, " ".repeat(blanks), r"\\".repeat(backslashes));
                assert_eq!(nest_len(text.as_bytes(), 0), Some(text.len() - 1), "{text}");
            }
        }
    }
}
