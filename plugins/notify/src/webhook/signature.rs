//! Signatures in the form of Standard Webhooks 1.0.0.
//!
//! In come a configured secret and what is sent; out goes the value of the header
//! `webhook-signature`: `v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body`, once for each
//! key, with a blank between. A receiver takes any of them, so that a key can be changed while both
//! are known.
//!
//! Not here: the other headers (`super`).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// What each key begins with.
const PREFIX: &str = "whsec_";
/// Bytes of a key: the standard asks for 24 to 64, and what exists has shorter ones.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// One or more keys that something is signed with.
///
/// Invariant: at least one key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<Vec<u8>>);

impl Secret {
    /// Reads keys of the form `whsec_<base64>`, blanks between them.
    pub(crate) fn parse(text: &str) -> Result<Secret, BadSecret> {
        let keys: Vec<Vec<u8>> = text.split_whitespace().map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(BadSecret::Empty);
        }
        Ok(Secret(keys))
    }

    /// The value of the header `webhook-signature`.
    pub(crate) fn sign(&self, id: &str, timestamp_secs: i64, body: &[u8]) -> String {
        let one = |key: &Vec<u8>| signature(key, id, timestamp_secs, body);
        self.0.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

/// Says that there are keys, never which.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} keys)", self.0.len())
    }
}

/// What is wrong with a secret. Says nothing of what it holds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSecret {
    /// Nothing there, such as from a variable that is empty.
    #[error("is empty")]
    Empty,
    /// Another form.
    #[error("does not begin with whsec_")]
    Prefix,
    /// What stands behind the prefix does not decode.
    #[error("is not base64 behind whsec_")]
    Base64,
    /// Too short to be safe, or too long to be a key.
    #[error("has a key of {0} bytes, and 16 to 64 are good")]
    Length(usize),
}

fn key(text: &str) -> Result<Vec<u8>, BadSecret> {
    let encoded = text.strip_prefix(PREFIX).ok_or(BadSecret::Prefix)?;
    let key = STANDARD.decode(encoded).map_err(|_| BadSecret::Base64)?;
    if !KEY_BYTES.contains(&key.len()) {
        return Err(BadSecret::Length(key.len()));
    }
    Ok(key)
}

fn signature(key: &[u8], id: &str, timestamp_secs: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{timestamp_secs}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector that the standard's own libraries are tested with; `openssl dgst` agrees with it.
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const AT: i64 = 1_649_367_553;
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    #[test]
    fn signs_as_the_standard_does() {
        assert_eq!(Secret::parse(SECRET).unwrap().sign(ID, AT, BODY), SIGNATURE);
    }

    #[test]
    fn signs_once_for_each_key() {
        let other = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
        let both = Secret::parse(&format!("{other} {SECRET}")).unwrap().sign(ID, AT, BODY);
        let first = Secret::parse(other).unwrap().sign(ID, AT, BODY);
        assert_eq!(both, format!("{first} {SIGNATURE}"));
        // printf 'id.timestamp.body' | openssl dgst -sha256 -mac HMAC -macopt hexkey:000102…1617 -binary | base64
        assert_eq!(first, "v1,Sv01msOCdcUKSV9YxQp0wdsn1E0bfRNTOWmY7vjJIqU=");
    }

    #[test]
    fn refuses_what_is_no_secret() {
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        let cases = [
            ("", BadSecret::Empty),
            ("  ", BadSecret::Empty),
            ("hunter2", BadSecret::Prefix),
            ("whsec_***", BadSecret::Base64),
            ("whsec_", BadSecret::Length(0)),
            ("whsec_AAECAwQF", BadSecret::Length(6)),
            (long.as_str(), BadSecret::Length(65)),
        ];
        for (text, why) in cases {
            assert_eq!(Secret::parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn shows_no_key() {
        assert_eq!(format!("{:?}", Secret::parse(SECRET).unwrap()), "Secret(1 keys)");
    }
}
