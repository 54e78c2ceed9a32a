//! A head: what a person saves to know later that nothing before it was changed or cut off.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::tree::{HASH_BYTES, Hash};

/// The size of the log and the hash over all of it, written `<size>:<root in hex>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Head {
    /// Records in the log.
    pub size: u64,
    /// The root of their tree.
    pub root: Hash,
}

/// A text that is no [`Head`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a head: it must be the number of records, ':' and 64 lower-case hex digits")]
pub struct InvalidHead(pub String);

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.size, hex(&self.root))
    }
}

impl FromStr for Head {
    type Err = InvalidHead;

    /// Blanks and line ends around it are passed over: it often comes out of a file.
    fn from_str(text: &str) -> Result<Head, InvalidHead> {
        let text = text.trim();
        let parts = text.split_once(':');
        let head = parts.and_then(|(size, root)| {
            Some(Head { size: parse_size(size)?, root: parse_hex(root)? })
        });
        head.ok_or_else(|| InvalidHead(axwatch_model::bounds::cut(text, 100).to_owned()))
    }
}

impl Serialize for Head {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Only as we write it: no sign, no leading zero.
fn parse_size(text: &str) -> Option<u64> {
    let size: u64 = text.parse().ok()?;
    (size.to_string() == text).then_some(size)
}

/// A hash in lower-case hex.
pub(super) fn hex(hash: &Hash) -> String {
    hash.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(hex_digit).collect()
}

fn hex_digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).expect("half a byte is a hex digit")
}

/// The hash that [`hex`] writes so.
pub(super) fn parse_hex(text: &str) -> Option<Hash> {
    if text.len() != 2 * HASH_BYTES || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut hash = [0; HASH_BYTES];
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(value(digits[0])? << 4 | value(digits[1])?).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn a_head_reads_as_it_is_written() {
        let text = format!("100:{ROOT}");
        let head: Head = text.parse().unwrap();
        assert_eq!((head.size, head.root[1], head.root[31]), (100, 0x11, 0xff));
        assert_eq!(head.to_string(), text);
        assert_eq!(format!(" {text}\r\n").parse(), Ok(head));
        assert_eq!(serde_json::to_string(&head).unwrap(), format!("{text:?}"));
    }

    #[test]
    fn anything_else_is_refused() {
        let upper = ROOT.to_uppercase();
        let cases = [
            String::new(),
            ROOT.into(),
            format!(":{ROOT}"),
            format!("+1:{ROOT}"),
            format!("01:{ROOT}"),
            format!("-1:{ROOT}"),
            format!("18446744073709551616:{ROOT}"),
            format!("1:{upper}"),
            format!("1: {}", &ROOT[1..]),
            format!("1:+{}", &ROOT[1..]),
            format!("1:{}", &ROOT[1..]),
            format!("1:{ROOT}0"),
            format!("1:{}é", &ROOT[2..]),
        ];
        for text in cases {
            assert!(text.parse::<Head>().is_err(), "{text:?}");
        }
    }
}
