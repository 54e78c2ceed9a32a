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
        self.string()?;
        let key = unquoted(self.since(before))?;
        self.take(b':').then_some(key)
    }

    /// Passes over a value.
    pub(super) fn value(&mut self) -> Option<&'t str> {
        let first = self.peek();
        let before = *self;
        match first {
            b'"' => self.string()?,
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

    /// Passes over a string and its quotes.
    fn string(&mut self) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        if rest.first() != Some(&b'"') {
            return None;
        }
        let mut at = 1;
        loop {
            let few = &rest[at.min(rest.len())..rest.len().min(at + SHORT)];
            let near = few.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            at += match near {
                Some(near) => near,
                None => few.len() + memchr2(b'"', b'\\', rest.get(at + few.len()..)?)?,
            };
            if rest[at] == b'"' {
                self.at += at + 1;
                return Some(());
            }
            at += 2;
        }
    }

    /// Passes over a number, `true`, `false` or `null`.
    fn word(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        let is_part =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
        self.at += rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
    }
}

/// The items of an array, as they stand in its text; none of what is no array.
pub(super) fn items(array: &str) -> impl Iterator<Item = &str> {
    let mut cursor = Cursor::new(array);
    let mut is_more = cursor.take(b'[') && cursor.peek() != b']';
    std::iter::from_fn(move || {
        let item = is_more.then(|| cursor.value()).flatten();
        is_more = cursor.take(b',');
        item
    })
}

/// What a string in quotes says.
pub(super) fn unquoted(string: &str) -> Option<Cow<'_, str>> {
    let inner = string.strip_prefix('"')?.strip_suffix('"')?;
    if inner.len() < SHORT && !inner.bytes().any(|byte| byte == b'\\')
        || memchr::memchr(b'\\', inner.as_bytes()).is_none()
    {
        return Some(Cow::Borrowed(inner));
    }
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
        fn items_and_keys_are_those_of_the_value(value in any_json(), is_pretty in any::<bool>()) {
            let text = if is_pretty { format!("{value:#}") } else { value.to_string() };
            let found: Vec<Value> =
                items(&text).map(|item| serde_json::from_str(item).unwrap()).collect();
            prop_assert_eq!(found, value.as_array().cloned().unwrap_or_default());
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
            prop_assert!(items(&text).count() <= text.len());
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
