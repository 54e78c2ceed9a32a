//! What is claimed of a commit, a directory, an author and a reference.
//!
//! Every claim has an id of its own, made from all that decides its content: the commit's hash (and,
//! with `git replace`, the hash of what stands in its place), the predicate, and what is claimed. So
//! the same repository read again, another clone of it, a part of it or a shallow clone deepened
//! later say the same under the same id, and a log keeps each once. Whoever changes what a claim
//! holds must change how its id begins, or logs that hold it already refuse the new one.
//!
//! Not here: how objects are read (`crate::object`), in which order (`crate::history`).

use std::fmt::Write as _;

use axwatch_sdk::Claim;
use gix::ObjectId;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::object::{Commit, Signature, Time};
use crate::repository::{NamedReference, ReferenceKind};

/// The program named as the source of every claim.
const SOURCE: &str = "ixgest-git";
/// Who claims what no commit says: names of authors, branches and tags.
const REPOSITORY_ACTOR: &str = "ixgest-git@repo";
/// The context of what a commit says about itself.
const METADATA: &str = "commit_metadata";
/// Hex digits of a short hash. Git's own short hash grows with a repository; this one never changes.
const SHORT_DIGITS: usize = 7;
/// Bytes of one term.
const TERM_BYTES_MAX: usize = 1_000;
/// Bytes of a message that are kept.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Parents that are listed in the attributes. Each has a claim of its own as well.
const PARENTS_LISTED_MAX: usize = 1_000;
/// Bytes of a name that stand in an id as they are.
const NAME_IN_ID_BYTES_MAX: usize = 128;
/// A host takes smaller timestamps, before March 1973, for seconds, and none after the year 9999.
const TIMESTAMPS_MS: std::ops::RangeInclusive<i64> = 100_000_000_000..=253_402_207_200_999;

/// A commit of which things are claimed.
pub(crate) struct CommitClaims<'a> {
    id: ObjectId,
    commit: &'a Commit<'a>,
    short: String,
    /// How the ids of its claims begin.
    id_start: String,
    timestamp_ms: i64,
}

impl<'a> CommitClaims<'a> {
    /// Of the commit `id`, whose content is that of `stand_in`.
    pub(crate) fn new(id: ObjectId, stand_in: ObjectId, commit: &'a Commit<'a>) -> Self {
        let mut id_start = format!("git:{id}");
        if stand_in != id {
            let _ = write!(id_start, "~{stand_in}");
        }
        let timestamp_ms = timestamp_ms(commit.author.time);
        CommitClaims { id, commit, short: short(id), id_start, timestamp_ms }
    }

    /// What the commit says by itself, `is_commit` first. The author as a term comes back too.
    pub(crate) fn of_itself(&self, claims: &mut Vec<Claim>) -> String {
        let author = author(self.commit);
        claims.push(self.claim("is_commit", METADATA).attributes(self.attributes()));
        claims.push(self.claim("node_type", "commit"));
        claims.push(self.claim("authored_by", &author));
        let title = title(&self.commit.text(self.commit.message));
        claims.push(self.claim("has_message", METADATA).attribute("message", title));
        let committed = self.commit.committer.time.and_then(Time::rfc3339);
        let mut committed_at = self.claim("committed_at", METADATA);
        if let Some(time) = committed {
            committed_at = committed_at.attribute("committed_at", time);
        }
        claims.push(committed_at);
        for (place, parent) in self.commit.parents.iter().enumerate() {
            // Git writes none twice, other tools did.
            if !self.commit.parents[..place].contains(parent) {
                claims.push(self.is_child_of(*parent));
            }
        }
        author
    }

    /// That it changed something in the top-level directory of this name.
    pub(crate) fn modified(&self, directory: &[u8]) -> Claim {
        let directory = term(&String::from_utf8_lossy(directory));
        let id = format!("{}:modified_in:{}", self.id_start, name_in_id(&directory));
        self.signed(Claim::new(directory, "modified_in", &self.short).id(id))
    }

    fn is_child_of(&self, parent: ObjectId) -> Claim {
        let id = format!("{}:is_child_of:{parent}", self.id_start);
        self.signed(Claim::new(&self.short, "is_child_of", short(parent)).id(id))
    }

    fn claim(&self, predicate: &str, context: &str) -> Claim {
        let id = format!("{}:{predicate}", self.id_start);
        self.signed(Claim::new(&self.short, predicate, context).id(id))
    }

    fn signed(&self, claim: Claim) -> Claim {
        claim.actor(&self.short).source(SOURCE).timestamp_ms(self.timestamp_ms)
    }

    fn attributes(&self) -> Map<String, Value> {
        let commit = self.commit;
        let mut all = Map::new();
        let mut put = |key: &str, value: Value| all.insert(key.to_owned(), value);
        put("full_hash", self.id.to_string().into());
        let message = commit.text(commit.message).trim_end().replace('\0', "\u{fffd}");
        let kept = cut(&message, MESSAGE_BYTES_MAX);
        if kept.len() < message.len() {
            put("message_truncated", true.into());
        }
        put("message", kept.into());
        put("author", author(commit).into());
        put("author_email", email(commit, &commit.author).into());
        put("committer", name(commit, &commit.committer).into());
        put("committer_email", email(commit, &commit.committer).into());
        let listed = commit.parents.iter().take(PARENTS_LISTED_MAX);
        put("parents", listed.map(|parent| Value::from(parent.to_string())).collect());
        if commit.parents.len() > PARENTS_LISTED_MAX {
            put("parents_truncated", true.into());
        }
        let times = [("authored_at", &commit.author), ("committed_at", &commit.committer)];
        for (key, signature) in times {
            if let Some(time) = signature.time.and_then(Time::rfc3339) {
                put(key, time.into());
            }
        }
        all
    }
}

/// That somebody is an author. It says nothing of any commit, so that it is the same claim whichever
/// commits were read.
pub(crate) fn of_author(author: &str) -> Claim {
    let id = format!("git:author:{}", name_in_id(author));
    of_repository(Claim::new(author, "node_type", "author").id(id))
}

/// That a branch or tag points to something.
pub(crate) fn of_reference(reference: &NamedReference) -> Claim {
    let full_name = term(&reference.full_name);
    let id = format!("git:ref:{}:points_to:{}", name_in_id(&full_name), reference.target);
    let claim = Claim::new(term(&reference.name), "points_to", short(reference.target))
        .id(id)
        .attribute("full_hash", reference.target.to_string())
        .attribute("ref", full_name)
        .attribute("kind", reference.kind.as_str())
        .attribute("target", reference.target_kind.to_string());
    of_repository(claim)
}

/// That a name is one of a branch, or of a tag. A branch and a tag may share it, and so may a local
/// branch and a remote's, for which this is one claim.
pub(crate) fn of_reference_name(name: &str, kind: ReferenceKind) -> Claim {
    let (name, kind) = (term(name), kind.as_str());
    let id = format!("git:{kind}:{}", name_in_id(&name));
    of_repository(Claim::new(name, "node_type", kind).id(id))
}

/// Without a timestamp: nothing in the repository says when it became so, and one that the host fills
/// in is never compared.
fn of_repository(claim: Claim) -> Claim {
    claim.actor(REPOSITORY_ACTOR).source(SOURCE)
}

/// The first digits of a hash.
fn short(id: ObjectId) -> String {
    id.to_hex_with_len(SHORT_DIGITS).to_string()
}

/// 0, for which the host fills in its own, where there is none that it takes.
fn timestamp_ms(time: Option<Time>) -> i64 {
    let ms = time.and_then(|time| time.seconds.checked_mul(1_000));
    ms.filter(|ms| TIMESTAMPS_MS.contains(ms)).unwrap_or(0)
}

fn author(commit: &Commit) -> String {
    let name = name(commit, &commit.author);
    if name.is_empty() { "unknown".to_owned() } else { name }
}

fn name<'a>(commit: &Commit<'a>, signature: &Signature<'a>) -> String {
    term(commit.text(signature.name).trim())
}

fn email<'a>(commit: &Commit<'a>, signature: &Signature<'a>) -> String {
    term(commit.text(signature.email).trim())
}

/// The first line of a message that says something.
fn title(message: &str) -> String {
    term(message.trim_start().lines().next().unwrap_or_default().trim_end())
}

/// A text as a term may be: no control characters, at most 1,000 bytes. An empty one stays empty.
fn term(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    cut(&clean, TERM_BYTES_MAX).to_owned()
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// A term in an id, which is shorter: as it is, or by its hash. No two terms share one: a short one
/// that looks like a hash is hashed as well.
fn name_in_id(term: &str) -> String {
    if term.len() <= NAME_IN_ID_BYTES_MAX && !term.starts_with('#') {
        return term.to_owned();
    }
    let mut hashed = "#".to_owned();
    for byte in Sha256::digest(term.as_bytes()) {
        let _ = write!(hashed, "{byte:02x}");
    }
    hashed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_what_a_host_takes() {
        let long = "\u{20ac}".repeat(400);
        let cases = [
            ("Ada", "Ada".to_owned()),
            ("", String::new()),
            ("a\tb\u{7f}\u{85}", "a\u{fffd}b\u{fffd}\u{fffd}".to_owned()),
            (&long, "\u{20ac}".repeat(333)),
        ];
        for (text, expected) in cases {
            assert_eq!(term(text), expected, "{text:?}");
        }
    }

    #[test]
    fn no_two_names_share_an_id() {
        let long = "x".repeat(129);
        let hashed = name_in_id(&long);
        let names = ["src", "#", &long, &hashed, "y"];
        let ids: std::collections::BTreeSet<_> =
            names.iter().map(|name| name_in_id(name)).collect();
        assert_eq!(ids.len(), names.len());
        assert!(ids.iter().all(|id| id.len() <= NAME_IN_ID_BYTES_MAX));
    }

    #[test]
    fn timestamps_that_a_host_refuses_are_left_to_it() {
        let cases = [
            (0, 0),
            (-5, 0),
            (99_999_999, 0),
            (100_000_000, 100_000_000_000),
            (1_700_000_000, 1_700_000_000_000),
            (253_402_207_200, 253_402_207_200_000),
            (253_402_207_201, 0),
            (i64::MAX, 0),
        ];
        for (seconds, expected) in cases {
            let time = Time { seconds, offset_minutes: 60 };
            assert_eq!(timestamp_ms(Some(time)), expected, "{seconds}");
        }
        assert_eq!(timestamp_ms(None), 0);
    }

    #[test]
    fn a_title_is_the_first_line_that_says_something() {
        for (message, expected) in
            [("a\nb", "a"), ("\n\n  a  \n\nb", "a"), ("", ""), ("\n \n", ""), ("a\r\nb", "a")]
        {
            assert_eq!(title(message), expected, "{message:?}");
        }
    }
}
