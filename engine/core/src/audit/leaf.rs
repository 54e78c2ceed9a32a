//! One record as it stands in a row: a line of canonical JSON.

use axwatch_model::{LeafNumber, Timestamp};
use serde_json::{Map, Value};

/// Why a line is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// Not JSON at all.
    #[error("it is not JSON: {0}")]
    NotJson(String),
    /// JSON, but no object.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// The same could be written otherwise, so its text proves nothing: RFC 8785 allows one way only.
    #[error("it is not canonical JSON")]
    NotCanonical,
    /// Nothing says what it is a record of.
    #[error("it has no `type`")]
    NoType,
    /// Nothing says when.
    #[error("it has no time `at`")]
    NoTime,
}

/// Reads a record, if it is one: canonical JSON (RFC 8785), an object, with a text `type` and a time
/// `at`.
///
/// # Errors
/// [`RecordFault`], which says what is wrong.
pub fn check_record(text: &str) -> Result<Map<String, Value>, RecordFault> {
    let value: Value =
        serde_json::from_str(text).map_err(|error| RecordFault::NotJson(error.to_string()))?;
    // Repeated keys are gone from `value` by now, so they show here too.
    let canonical = serde_json_canonicalizer::to_string(&value);
    if canonical.map_err(|error| RecordFault::NotJson(error.to_string()))? != text {
        return Err(RecordFault::NotCanonical);
    }
    let Value::Object(record) = value else { return Err(RecordFault::NotAnObject) };
    if !record.get("type").is_some_and(Value::is_string) {
        return Err(RecordFault::NoType);
    }
    let at = record.get("at").and_then(Value::as_str);
    if at.is_none_or(|at| at.parse::<Timestamp>().is_err()) {
        return Err(RecordFault::NoTime);
    }
    Ok(record)
}

/// A record's text out of a row that begins with `first_leaf`; `None` when this row does not hold it.
#[must_use]
pub fn record_in_row(first_leaf: LeafNumber, records: &str, leaf: LeafNumber) -> Option<&str> {
    let place = usize::try_from(leaf.0.checked_sub(first_leaf.0)?).ok()?;
    records.split('\n').nth(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_canonical_json_with_type_and_time() {
        let fault = |text| check_record(text).err();
        let cases = [
            (r#"{"at":"2024-01-15T14:30:00Z","type":"matched"}"#, None),
            (r#"{"at":"2024-01-15T14:30:00.5Z","n":[1,2.5,"é\n"],"type":"x"}"#, None),
            (r#"{"type":"x","at":"2024-01-15T14:30:00Z"}"#, Some(RecordFault::NotCanonical)),
            (r#"{"at":"2024-01-15T14:30:00Z", "type":"x"}"#, Some(RecordFault::NotCanonical)),
            (
                r#"{"at":"2024-01-15T14:30:00Z","n":2.0,"type":"x"}"#,
                Some(RecordFault::NotCanonical),
            ),
            (
                r#"{"at":"2024-01-15T14:30:00Z","n":9007199254740993,"type":"x"}"#,
                Some(RecordFault::NotCanonical),
            ),
            (
                r#"{"a":1,"a":1,"at":"2024-01-15T14:30:00Z","type":"x"}"#,
                Some(RecordFault::NotCanonical),
            ),
            (r#"{"at":"2024-01-15T14:30:00Z","type":"\u0041"}"#, Some(RecordFault::NotCanonical)),
            (r#"["at","type"]"#, Some(RecordFault::NotAnObject)),
            (r#"{"at":"2024-01-15T14:30:00Z"}"#, Some(RecordFault::NoType)),
            (r#"{"at":"2024-01-15T14:30:00Z","type":1}"#, Some(RecordFault::NoType)),
            (r#"{"at":"yesterday","type":"x"}"#, Some(RecordFault::NoTime)),
            (r#"{"type":"x"}"#, Some(RecordFault::NoTime)),
        ];
        for (text, expected) in cases {
            assert_eq!(fault(text), expected, "{text}");
        }
        let not_json = ["", "{", "\"", &"[".repeat(100_000)];
        for text in not_json {
            assert!(matches!(fault(text), Some(RecordFault::NotJson(_))), "{text:.20}");
        }
    }

    #[test]
    fn a_row_gives_its_records_by_number() {
        let of = |leaf| record_in_row(LeafNumber(5), "a\nb", LeafNumber(leaf));
        assert_eq!([of(4), of(5), of(6), of(7)], [None, Some("a"), Some("b"), None]);
    }
}
