//! A job's payload, in the form that files and webhooks pass on.
//!
//! In come bytes; out goes the same JSON text, keys in the order they came in, or base64 when it is
//! no JSON. Nothing is read into numbers and written again, so nothing changes on the way.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

/// What a payload is.
#[derive(Debug)]
pub(crate) enum Payload<'a> {
    /// JSON, such as the claim of a fire.
    Json(&'a RawValue),
    /// Anything else, in base64.
    Base64(String),
}

impl<'a> Payload<'a> {
    /// Nothing at all counts as `null`.
    pub(crate) fn of(bytes: &'a [u8]) -> Payload<'a> {
        let bytes = if bytes.is_empty() { b"null" } else { bytes };
        match serde_json::from_slice(bytes) {
            Ok(json) => Payload::Json(json),
            Err(_) => Payload::Base64(STANDARD.encode(bytes)),
        }
    }

    /// The JSON, and else the base64: one of them is there.
    pub(crate) fn parts(&self) -> (Option<&'a RawValue>, Option<&str>) {
        match self {
            Payload::Json(json) => (Some(json), None),
            Payload::Base64(text) => (None, Some(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_as_it_came() {
        let cases = [
            // (payload, json)
            (r#"{"z":1.10,"a":1e400}"#, r#"{"z":1.10,"a":1e400}"#),
            (" 7 ", "7"),
            ("", "null"),
        ];
        for (payload, json) in cases {
            let read = Payload::of(payload.as_bytes());
            let (found, base64) = read.parts();
            assert_eq!((found.map(RawValue::get), base64), (Some(json), None), "{payload}");
        }
    }

    #[test]
    fn what_is_no_json_is_base64() {
        let cases: [(&[u8], &str); 3] =
            [(b"{", "ew=="), (b"\xff\x00", "/wA="), (b"\"\xff\"", "Iv8i")];
        for (payload, base64) in cases {
            let read = Payload::of(payload);
            let (json, found) = read.parts();
            assert_eq!((json.map(RawValue::get), found), (None, Some(base64)), "{payload:?}");
        }
    }
}
