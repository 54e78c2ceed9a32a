//! Commits and trees as git writes them: bytes in, their parts out.
//!
//! Written out rather than taken from a library because histories hold commits that strict readers
//! refuse (no author, a name with `<` in it, a zone of `-7530`) and that git itself counts. What git
//! needs to walk a history is required here too; everything else may be missing.
//!
//! Not here: where the bytes come from (`crate::repository`), what is claimed of them
//! (`crate::claims`).

use std::borrow::Cow;

use gix::ObjectId;

/// The bytes of a hash in a tree: SHA-1, the only object format that is read.
const HASH_BYTES: usize = 20;

/// A commit's parts, borrowed from its bytes.
#[derive(Debug, PartialEq)]
pub(crate) struct Commit<'a> {
    pub(crate) tree: ObjectId,
    pub(crate) parents: Vec<ObjectId>,
    pub(crate) author: Signature<'a>,
    pub(crate) committer: Signature<'a>,
    /// Neither UTF-8 nor anything else is promised; see [`Commit::text`].
    pub(crate) message: &'a [u8],
    encoding: Option<&'a [u8]>,
}

/// Who, and when. Empty where the commit does not say.
#[derive(Debug, PartialEq, Default)]
pub(crate) struct Signature<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) email: &'a [u8],
    pub(crate) time: Option<Time>,
}

/// A moment with the zone in which it was written.
#[derive(Debug, PartialEq, Clone, Copy)]
pub(crate) struct Time {
    /// Since the Unix epoch.
    pub(crate) seconds: i64,
    /// East of UTC; 0 where what is written is no zone.
    pub(crate) offset_minutes: i32,
}

/// Why bytes are no object of their kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A commit begins with `tree` and 40 hex digits.
    #[error("a commit without a tree")]
    NoTree,
    /// A `parent` line without 40 hex digits.
    #[error("a commit with a parent that is no hash")]
    Parent,
    /// A tree's entry without mode, name or hash.
    #[error("a tree that ends in the middle of an entry")]
    TreeEntry,
}

impl<'a> Commit<'a> {
    /// Reads a commit's bytes.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Commit<'a>, Malformed> {
        let mut lines = Lines(bytes);
        let tree = lines.value(b"tree ").and_then(hash).ok_or(Malformed::NoTree)?;
        let mut parents = Vec::new();
        while let Some(value) = lines.value(b"parent ") {
            parents.push(hash(value).ok_or(Malformed::Parent)?);
        }
        let mut commit = Commit {
            tree,
            parents,
            author: Signature::default(),
            committer: Signature::default(),
            message: b"",
            encoding: None,
        };
        while let Some(line) = lines.next().filter(|line| !line.is_empty()) {
            if let Some(value) = line.strip_prefix(b"author ") {
                commit.author = Signature::parse(value);
            } else if let Some(value) = line.strip_prefix(b"committer ") {
                commit.committer = Signature::parse(value);
            } else if let Some(value) = line.strip_prefix(b"encoding ") {
                commit.encoding = Some(value);
            }
        }
        commit.message = lines.0;
        Ok(commit)
    }

    /// A text of this commit: UTF-8, or the Latin-1 that its header names, or with U+FFFD for what is
    /// neither.
    pub(crate) fn text(&self, bytes: &'a [u8]) -> Cow<'a, str> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) if self.encoding.is_some_and(is_latin1) => {
                Cow::Owned(bytes.iter().map(|&byte| char::from(byte)).collect())
            }
            Err(_) => String::from_utf8_lossy(bytes),
        }
    }
}

fn is_latin1(encoding: &[u8]) -> bool {
    let plain: Vec<u8> =
        encoding.iter().filter(|byte| byte.is_ascii_alphanumeric()).copied().collect();
    [&b"iso88591"[..], b"latin1"].iter().any(|name| plain.eq_ignore_ascii_case(name))
}

impl<'a> Signature<'a> {
    /// Reads `name <email> seconds zone`, from the outside in as git does, so that a stray bracket
    /// costs a name and not the time.
    fn parse(line: &'a [u8]) -> Signature<'a> {
        let open = line.iter().position(|&byte| byte == b'<');
        let close = line.iter().rposition(|&byte| byte == b'>');
        let name = line[..open.unwrap_or(line.len())].trim_ascii();
        let (Some(open), Some(close)) = (open, close.filter(|&close| Some(close) > open)) else {
            return Signature { name, ..Signature::default() };
        };
        let within = &line[open + 1..close];
        let end = within.iter().position(|&byte| byte == b'>').unwrap_or(within.len());
        Signature { name, email: within[..end].trim_ascii(), time: Time::parse(&line[close + 1..]) }
    }
}

impl Time {
    fn parse(text: &[u8]) -> Option<Time> {
        let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
        let seconds = words.next()?.parse().ok()?;
        let offset_minutes = words.next().and_then(zone_minutes).unwrap_or(0);
        Some(Time { seconds, offset_minutes })
    }

    /// RFC 3339 with the zone that the commit has; none outside the years 0 to 9999.
    pub(crate) fn rfc3339(self) -> Option<String> {
        let offset = jiff::tz::Offset::from_seconds(self.offset_minutes * 60).ok()?;
        let moment = jiff::Timestamp::from_second(self.seconds).ok()?;
        let local = offset.to_datetime(moment);
        (0..=9999).contains(&local.year()).then(|| {
            let (sign, minutes) =
                (if self.offset_minutes < 0 { '-' } else { '+' }, self.offset_minutes.abs());
            format!(
                "{}{sign}{:02}:{:02}",
                local.strftime("%Y-%m-%dT%H:%M:%S"),
                minutes / 60,
                minutes % 60
            )
        })
    }
}

/// `+0530` as minutes. Zones that no clock has, of which old histories hold some, are none.
fn zone_minutes(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['+', '-'])?;
    if digits.len() != 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: i32 = digits.parse().ok()?;
    let (hours, minutes) = (number / 100, number % 100);
    let east = hours * 60 + minutes;
    (hours < 24 && minutes < 60).then_some(if text.starts_with('-') { -east } else { east })
}

/// The object that an annotated tag names. The kind that stands beside it is not asked: the object
/// itself says.
pub(crate) fn tag_target(bytes: &[u8]) -> Option<ObjectId> {
    Lines(bytes).value(b"object ").and_then(hash)
}

/// A directory of a tree: its name, which is any bytes, and the hash of its own tree.
pub(crate) type Directory = (Box<[u8]>, ObjectId);

/// The directories of a tree by name, in order of their bytes, each with the hash of its own tree.
/// Submodules are no directories.
pub(crate) fn directories(mut bytes: &[u8]) -> Result<Vec<Directory>, Malformed> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|&byte| byte == b' ').ok_or(Malformed::TreeEntry)?;
        let (mode, rest) = (&bytes[..space], &bytes[space + 1..]);
        let end = rest.iter().position(|&byte| byte == 0).ok_or(Malformed::TreeEntry)?;
        let (name, rest) = (&rest[..end], &rest[end + 1..]);
        let (hash, rest) = rest.split_at_checked(HASH_BYTES).ok_or(Malformed::TreeEntry)?;
        if is_directory(mode) {
            found.push((name.into(), ObjectId::from_bytes_or_panic(hash)));
        }
        bytes = rest;
    }
    // Git orders a directory as if its name ended in a slash.
    found.sort_unstable();
    found.dedup_by(|later, first| later.0 == first.0);
    Ok(found)
}

/// By the type in the octal mode, as git does: old tools wrote `040000` and `40755` too.
fn is_directory(mode: &[u8]) -> bool {
    let number = std::str::from_utf8(mode).ok().and_then(|text| u32::from_str_radix(text, 8).ok());
    number.is_some_and(|number| number & 0o170_000 == 0o040_000)
}

/// The names of the directories that are new, changed or gone between two lists of [`directories`].
pub(crate) fn changed<'a>(before: &'a [Directory], after: &'a [Directory]) -> Vec<&'a [u8]> {
    let (mut old, mut new) = (before.iter().peekable(), after.iter().peekable());
    let mut names = Vec::new();
    loop {
        let name = match (old.peek(), new.peek()) {
            (None, None) => return names,
            (Some((name, _)), None) | (None, Some((name, _))) => name,
            (Some((was, _)), Some((is, _))) => was.min(is),
        };
        let was = old.next_if(|entry| entry.0 == *name);
        let is = new.next_if(|entry| entry.0 == *name);
        if was != is {
            names.push(&**name);
        }
    }
}

/// Header lines, up to where they are read.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.iter().position(|&byte| byte == b'\n').unwrap_or(self.0.len());
        let line = &self.0[..end];
        self.0 = self.0.get(end + 1..).unwrap_or_default();
        Some(line)
    }

    /// The next line without `key`, if it begins with it.
    fn value(&mut self, key: &[u8]) -> Option<&'a [u8]> {
        if self.0.starts_with(key) { self.next().map(|line| &line[key.len()..]) } else { None }
    }
}

fn hash(hex: &[u8]) -> Option<ObjectId> {
    ObjectId::from_hex(hex).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "4b825dc642cb6eb9a060e54bf8d69288fbee4904";

    #[test]
    fn a_signature_gives_what_it_has() {
        let at = |seconds, offset_minutes| Some(Time { seconds, offset_minutes });
        let cases: [(&str, &str, &str, Option<Time>); 12] = [
            ("Ada L <ada@x> 1700000000 +0530", "Ada L", "ada@x", at(1_700_000_000, 330)),
            ("Ada <a@x> 5 -0130", "Ada", "a@x", at(5, -90)),
            ("Ada <a@x> -5 +0000", "Ada", "a@x", at(-5, 0)),
            (" <> 5 +0000", "", "", at(5, 0)),
            ("Ada <a@x> 5", "Ada", "a@x", at(5, 0)),
            ("Ada <a@x> 5 -7530", "Ada", "a@x", at(5, 0)),
            ("Ada <a@x> 5 +51800", "Ada", "a@x", at(5, 0)),
            ("Ada <a@x>", "Ada", "a@x", None),
            ("Ada <a@x> soon", "Ada", "a@x", None),
            ("Ada <a@x>> 5 +0000", "Ada", "a@x", at(5, 0)),
            ("Ada", "Ada", "", None),
            ("Ada > < x", "Ada >", "", None),
        ];
        for (line, name, email, time) in cases {
            let expected = Signature { name: name.as_bytes(), email: email.as_bytes(), time };
            assert_eq!(Signature::parse(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn times_keep_their_zone_and_stay_within_what_can_be_written() {
        let cases = [
            (1_700_000_000, 330, Some("2023-11-15T03:43:20+05:30")),
            (1_700_000_000, -90, Some("2023-11-14T20:43:20-01:30")),
            (0, 0, Some("1970-01-01T00:00:00+00:00")),
            (253_402_207_200, 0, Some("9999-12-30T22:00:00+00:00")),
            (253_402_300_800, 0, None),
            (i64::MAX, 0, None),
            (i64::MIN, 0, None),
            (-70_000_000_000, 0, None),
        ];
        for (seconds, offset_minutes, expected) in cases {
            let found = Time { seconds, offset_minutes }.rfc3339();
            assert_eq!(found.as_deref(), expected, "{seconds}");
        }
    }

    #[test]
    fn a_commit_needs_a_tree_and_nothing_else() {
        let bare = format!("tree {TREE}\n");
        let commit = Commit::parse(bare.as_bytes()).unwrap();
        assert_eq!((commit.parents.len(), commit.message), (0, &b""[..]));
        let full = format!(
            "tree {TREE}\nparent {TREE}\nparent {TREE}\nauthor A <a> 1 +0000\ncommitter B <b> 2 +0000\n\
             gpgsig -----BEGIN\n author X <x> 9 +0000\n -----END\nencoding ISO-8859-1\n\nHell\u{f6}\n\nbody\n"
        );
        let commit = Commit::parse(full.as_bytes()).unwrap();
        assert_eq!(commit.parents.len(), 2);
        assert_eq!((commit.author.name, commit.committer.name), (&b"A"[..], &b"B"[..]));
        assert_eq!(commit.text(commit.message), "Hell\u{f6}\n\nbody\n");
        assert_eq!(commit.text(b"Andr\xe9"), "Andr\u{e9}");
        for (text, expected) in [
            ("", Malformed::NoTree),
            ("tree 12\n", Malformed::NoTree),
            (&format!("tree {TREE}\nparent zz\n"), Malformed::Parent),
        ] {
            assert_eq!(Commit::parse(text.as_bytes()).unwrap_err(), expected, "{text:?}");
        }
    }

    #[test]
    fn directories_are_told_from_everything_else() {
        let entry = |mode: &str, name: &str, fill: u8| {
            [mode.as_bytes(), b" ", name.as_bytes(), b"\0", &[fill; HASH_BYTES]].concat()
        };
        let before = directories(
            &[
                entry("100644", "a", 1),
                entry("40000", "b", 2),
                entry("040000", "c", 3),
                entry("160000", "module", 4),
                entry("40000", "z", 5),
            ]
            .concat(),
        )
        .unwrap();
        let names: Vec<_> = before.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, [b"b", b"c", b"z"]);
        let after = directories(
            &[entry("40000", "a", 1), entry("40000", "b", 2), entry("40000", "c", 9)].concat(),
        )
        .unwrap();
        assert_eq!(changed(&before, &after), [b"a", b"c", b"z"]);
        assert_eq!(changed(&[], &before), [b"b", b"c", b"z"]);
        assert!(changed(&before, &before).is_empty());
        assert_eq!(directories(b"40000 b\0short"), Err(Malformed::TreeEntry));
    }
}
