//! An attestation's attributes: a JSON object kept as the text that was given.

use std::fmt::Write as _;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use crate::bounds::{ATTRIBUTES_BYTES_MAX, ATTRIBUTES_DEPTH_MAX};

/// A JSON object, compact, at most 1 MiB and 64 levels.
///
/// The text stays as it was given but for blanks between tokens, so that a number with more digits
/// than a double holds comes out as it went in.
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
}

impl Attributes {
    /// Checks and compacts a JSON text. An empty object is `None`: it says nothing.
    ///
    /// # Errors
    /// [`InvalidAttributes`], which says what is wrong.
    pub fn parse(text: &str) -> Result<Option<Attributes>, InvalidAttributes> {
        let text = text.trim();
        let compact = compact(text)?;
        serde_json::from_str::<IgnoredAny>(&compact)
            .map_err(|error| InvalidAttributes::Syntax(error.to_string()))?;
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
            (r#"{"t": [true, false, null]}"#, r#"{"t":[true,false,null]}"#),
        ];
        for (given, kept) in cases {
            assert_eq!(Attributes::parse(given).unwrap().unwrap().as_str(), kept);
        }
        assert_eq!(Attributes::parse(" { } ").unwrap(), None);
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_reason() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(65), "}".repeat(65));
        let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(ATTRIBUTES_BYTES_MAX));
        let cases = [
            ("[1]", "not an array"),
            ("\"x\"", "not a text"),
            ("12", "not a number"),
            ("null", "not null"),
            ("{", "not valid JSON"),
            ("{\"a\":1 2}", "not valid JSON"),
            ("", "not valid JSON"),
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
