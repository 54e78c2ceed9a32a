//! An attestation's attributes: a JSON object kept as the text that was given.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use crate::bounds::{ATTRIBUTES_BYTES_MAX, ATTRIBUTES_DEPTH_MAX, cut};

/// Bytes of a number, and of a key, that an error shows.
const NUMBER_BYTES_SHOWN: usize = 40;
const KEY_BYTES_SHOWN: usize = 200;

/// A JSON object, compact, at most 1 MiB and 64 levels.
///
/// The text stays as it was given but for blanks between tokens, so that a number with more digits
/// than a double holds comes out as it went in. Each key of an object stands once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes(Arc<str>);

/// Why a text is no [`Attributes`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAttributes {
    /// Not JSON at all.
    #[error("attributes are not valid JSON: {0}")]
    Syntax(String),
    /// JSON, but an array, a text, a number ….
    #[error("attributes must be a JSON object, not {0}")]
    NotAnObject(&'static str),
    /// Over [`ATTRIBUTES_BYTES_MAX`].
    #[error("attributes have {0} bytes; at most {ATTRIBUTES_BYTES_MAX} are allowed")]
    TooLarge(usize),
    /// Over [`ATTRIBUTES_DEPTH_MAX`].
    #[error("attributes nest deeper than {ATTRIBUTES_DEPTH_MAX} levels")]
    TooDeep,
    /// An object with one key twice: readers differ in which of them counts.
    #[error("attributes: the key {0:?} stands twice")]
    KeyTwice(String),
    /// A number beyond the largest double.
    #[error("attributes: {0} is beyond what a number can be")]
    NumberTooLarge(String),
}

impl Attributes {
    /// Checks and compacts a JSON text. An empty object is `None`: it says nothing.
    ///
    /// # Errors
    /// [`InvalidAttributes`], which says what is wrong.
    pub fn parse(text: &str) -> Result<Option<Attributes>, InvalidAttributes> {
        let text = text.trim();
        let compact = compact(text)?;
        check(&compact)?;
        match compact.as_bytes().first() {
            Some(b'{') => {}
            Some(b'[') => return Err(InvalidAttributes::NotAnObject("an array")),
            Some(b'"') => return Err(InvalidAttributes::NotAnObject("a text")),
            Some(b'n') => return Err(InvalidAttributes::NotAnObject("null")),
            Some(b't' | b'f') => return Err(InvalidAttributes::NotAnObject("a truth value")),
            _ => return Err(InvalidAttributes::NotAnObject("a number")),
        }
        if compact.len() > ATTRIBUTES_BYTES_MAX {
            return Err(InvalidAttributes::TooLarge(compact.len()));
        }
        Ok((compact != "{}").then(|| Attributes(compact.into())))
    }

    /// From a value that a library parsed.
    ///
    /// # Errors
    /// As [`Attributes::parse`].
    pub fn from_value(value: &Value) -> Result<Option<Attributes>, InvalidAttributes> {
        Attributes::parse(&value.to_string())
    }

    /// Trusts a text that came out of the store.
    #[must_use]
    pub fn trusted(text: Arc<str>) -> Attributes {
        Attributes(text)
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The object, for asking about its parts. Numbers beyond 64 bits become doubles here.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }

    /// The same text for every text with the same meaning: keys sorted, numbers by value, so that 2
    /// and 2.0 are one.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut out = String::with_capacity(self.0.len());
        write_canonical(&self.to_value(), &mut out);
        out
    }
}

impl serde::Serialize for Attributes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<&RawValue>(&self.0) {
            Ok(raw) => raw.serialize(serializer),
            Err(error) => Err(serde::ser::Error::custom(error)),
        }
    }
}

/// Drops blanks between tokens and stops at the depth bound, before any parser recurses. What is not
/// JSON stays not JSON.
fn compact(text: &str) -> Result<String, InvalidAttributes> {
    let mut out = Vec::with_capacity(text.len());
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in text.as_bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => {
                    // Two scalars with only a blank between them must not become one.
                    if out.last().is_some_and(u8::is_ascii_alphanumeric) {
                        out.push(b' ');
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.saturating_sub(1),
                b'"' => in_string = true,
                _ => {}
            }
            if depth > ATTRIBUTES_DEPTH_MAX {
                return Err(InvalidAttributes::TooDeep);
            }
            if out.last() == Some(&b' ') && !byte.is_ascii_alphanumeric() {
                out.pop();
            }
        }
        out.push(byte);
    }
    Ok(String::from_utf8(out).expect("only whole ASCII bytes were dropped"))
}

/// Checks that a compact text is JSON, names each key once, and has only numbers that a double comes
/// near to. Nothing is built of it.
fn check(compact: &str) -> Result<(), InvalidAttributes> {
    let mut twice = None;
    let mut parser = serde_json::Deserializer::from_str(compact);
    let outcome = Checker { twice: &mut twice }.deserialize(&mut parser);
    let error = match outcome.and_then(|()| parser.end()) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if let Some(key) = twice {
        return Err(InvalidAttributes::KeyTwice(key));
    }
    if error.to_string().starts_with("number out of range") {
        // Compact text is one line, so the column is a place in it.
        let number = number_before(compact, error.column());
        return Err(InvalidAttributes::NumberTooLarge(number.to_owned()));
    }
    Err(InvalidAttributes::Syntax(error.to_string()))
}

/// The number of which a part ends at `end`, as far as it can be shown.
fn number_before(text: &str, end: usize) -> &str {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let bytes = text.as_bytes();
    let end = end.min(bytes.len());
    let begin = end - bytes[..end].iter().rev().take_while(|byte| is_part(byte)).count();
    let end = end + bytes[end..].iter().take_while(|byte| is_part(byte)).count();
    cut(&text[begin..end], NUMBER_BYTES_SHOWN)
}

/// Visits everything, keeps nothing but the keys of the objects that it is in.
struct Checker<'t> {
    /// The first key that stands twice.
    twice: &'t mut Option<String>,
}

impl Checker<'_> {
    /// The same for a part.
    fn part(&mut self) -> Checker<'_> {
        Checker { twice: self.twice }
    }
}

impl<'de> DeserializeSeed<'de> for Checker<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checker<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(self.part())?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        let mut keys = Vec::new();
        while let Some(key) = entries.next_key_seed(Key)? {
            entries.next_value_seed(self.part())?;
            keys.push(key);
        }
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => {
                *self.twice = Some(cut(&pair[0], KEY_BYTES_SHOWN).to_owned());
                Err(A::Error::custom("a key stands twice"))
            }
        }
    }
}

/// Reads a key as it stands in the text where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Number(number) => write_number(number, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, item)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                let _ = write!(out, "{}:", Value::from(key.as_str()));
                write_canonical(item, out);
            }
            out.push('}');
        }
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}

/// A whole number is written as one, however it was given; 2^53 and beyond are still exact in a double.
fn write_number(number: &Number, out: &mut String) {
    let whole = number
        .as_f64()
        .filter(|x| !number.is_i64() && !number.is_u64() && x.fract() == 0.0 && x.abs() < 1.8e19);
    let _ = match whole {
        Some(x) => write!(out, "{}", x as i128),
        None => write!(out, "{number}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_kept_but_for_blanks() {
        let cases = [
            (r#" { "a" : 1 , "b b" : "x  \" y" } "#, r#"{"a":1,"b b":"x  \" y"}"#),
            ("{\"n\":\n123456789012345678901234567890}", r#"{"n":123456789012345678901234567890}"#),
            (r#"{"n": [-1.7e308, 1e-999, 0.1, -0]}"#, r#"{"n":[-1.7e308,1e-999,0.1,-0]}"#),
            (r#"{"a": {"a": 1}, "b": [{"a": 2}]}"#, r#"{"a":{"a":1},"b":[{"a":2}]}"#),
            (r#"{"t": [true, false, null]}"#, r#"{"t":[true,false,null]}"#),
        ];
        for (given, kept) in cases {
            let attributes = Attributes::parse(given).unwrap().unwrap();
            assert_eq!(attributes.as_str(), kept);
            assert!(attributes.to_value().is_object());
        }
        assert_eq!(Attributes::parse(" { } ").unwrap(), None);
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_reason() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65));
        let digits = format!(r#"{{"a":{}}}"#, "9".repeat(400));
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(ATTRIBUTES_BYTES_MAX));
        let cases = [
            ("[1]", "not an array"),
            ("\"x\"", "not a text"),
            ("12", "not a number"),
            ("null", "not null"),
            ("{", "not valid JSON"),
            ("{\"a\":1 2}", "not valid JSON"),
            ("", "not valid JSON"),
            ("{} {}", "not valid JSON"),
            (r#"{"a":"\ud800"}"#, "not valid JSON"),
            (r#"{"a":1,"b":2,"a":3}"#, r#"attributes: the key "a" stands twice"#),
            (r#"{"x":[0,{"\u0061":1,"a":{}}]}"#, r#"attributes: the key "a" stands twice"#),
            (r#"{"a":[1,1e999]}"#, "attributes: 1e999 is beyond what a number can be"),
            (r#"{"a":-1.5E+99999999999,"b":1}"#, "attributes: -1.5E+99999999999 is beyond"),
            (r#"{"a":1e309}"#, "attributes: 1e309 is beyond"),
            (digits.as_str(), "attributes: 9999999999999999999999999999999999999999 is beyond"),
            (deep.as_str(), "deeper than 64"),
            (large.as_str(), "at most 1048576"),
        ];
        for (text, reason) in cases {
            let error = Attributes::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
        let fits = format!("{}1{}", r#"{"a":"#.repeat(64), "}".repeat(64));
        assert!(Attributes::parse(&fits).is_ok());
    }

    #[test]
    fn numbers_compare_by_value() {
        let same = [r#"{"b":2.0,"a":[1e2]}"#, r#"{"a":[100],"b":2}"#, r#"{"a":[100.0],"b":2e0}"#];
        for text in same {
            assert_eq!(
                Attributes::parse(text).unwrap().unwrap().canonical(),
                r#"{"a":[100],"b":2}"#
            );
        }
    }
}
