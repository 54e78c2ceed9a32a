//! Ids and names, each checked once where it is made and trusted from there on.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Timestamp;
use crate::bounds::ID_BYTES_MAX;

/// A text that cannot be the id or name it was given as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not valid: {rule}")]
pub struct InvalidId {
    /// What it was to be: `attestation id`, `watcher id`, ….
    pub what: &'static str,
    /// What was given, cut to a readable length.
    pub text: String,
    /// What would be right.
    pub rule: &'static str,
}

fn check_id(what: &'static str, text: &str) -> Result<(), InvalidId> {
    let rule = if text.is_empty() || text.len() > ID_BYTES_MAX {
        "it must have 1 to 256 bytes"
    } else if text.chars().any(char::is_control) {
        "it must not hold control characters"
    } else {
        return Ok(());
    };
    Err(InvalidId { what, text: crate::bounds::cut(text, 80).to_owned(), rule })
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// Invariant: 1 to 256 bytes, no control characters.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<$name, InvalidId> {
                check_id($what, text)?;
                Ok($name(text.into()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id! {
    /// An attestation's id: readable when we make it, any text when a client does.
    AttestationId, "attestation id"
}
text_id! {
    /// A watcher's local id: unique among those of its owner.
    LocalId, "watcher id"
}
text_id! {
    /// A handler's bare name, as its plugin announces it: `python.vacancies`.
    HandlerName, "handler name"
}

/// A plugin's name, as configured. It becomes a part of shown ids, paths and log lines.
///
/// Invariant: 1 to 64 of `a-z A-Z 0-9 _ - .`, beginning with a letter or digit, and none of the
/// reserved names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PluginName(Arc<str>);

/// Names that no plugin may have, because they mean something else in the same place.
const RESERVED_NAMES: [&str; 6] = ["user", "schedule", "axwatch", "v1", "plugin", "plugins"];

impl PluginName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PluginName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<PluginName, InvalidId> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let rule = if RESERVED_NAMES.contains(&text) {
            "the names user, schedule, axwatch, v1, plugin and plugins are reserved"
        } else if !(1..=64).contains(&text.len())
            || !text.chars().all(plain)
            || !text.starts_with(|c: char| c.is_ascii_alphanumeric())
        {
            "it must be 1 to 64 letters, digits, '_', '-' or '.', beginning with a letter or digit"
        } else {
            return Ok(PluginName(text.into()));
        };
        Err(InvalidId { what: "plugin name", text: crate::bounds::cut(text, 80).to_owned(), rule })
    }
}

impl<'de> Deserialize<'de> for PluginName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<PluginName, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The letters of a readable id's random part: no 0, O, 1 or I.
const READABLE_ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

impl AttestationId {
    /// A readable id: `AS-`, up to 8 cleaned characters each of subject, predicate and context, and
    /// 12 characters of `entropy`. Only the low 60 bits of `entropy` are used.
    #[must_use]
    pub fn readable(subject: &str, predicate: &str, context: &str, entropy: u64) -> AttestationId {
        let mut text = String::with_capacity(48);
        text.push_str("AS-");
        for part in [subject, predicate, context] {
            let cleaned = part.chars().filter(char::is_ascii_alphanumeric).take(8);
            let before = text.len();
            text.extend(cleaned.map(|c| c.to_ascii_uppercase()));
            if text.len() > before {
                text.push('-');
            }
        }
        text.extend(
            (0..12).map(|i| char::from(READABLE_ALPHABET[(entropy >> (5 * i) & 31) as usize])),
        );
        AttestationId(text.into())
    }

    /// The id of a claim that a job makes: the same job making the same claim again gets it again.
    ///
    /// `content` is what [`crate::Attestation::content_hash`] says, `ordinal` counts equal contents
    /// within one attempt from 0.
    #[must_use]
    pub fn of_job(
        subject: &str,
        predicate: &str,
        context: &str,
        job: JobId,
        content: &[u8; 32],
        ordinal: u32,
    ) -> AttestationId {
        let digest = length_prefixed_sha256([
            b"axwatch/claim/1".as_slice(),
            &job.0,
            content,
            ordinal.to_string().as_bytes(),
        ]);
        let entropy = u64::from_be_bytes(digest[..8].try_into().expect("8 of 32 bytes"));
        AttestationId::readable(subject, predicate, context, entropy)
    }

    /// The hash under which the derived tables find this id.
    #[must_use]
    pub fn hash64(&self) -> i64 {
        let digest = Sha256::digest(self.0.as_bytes());
        i64::from_be_bytes(digest[..8].try_into().expect("8 of 32 bytes"))
    }
}

/// SHA-256 over the parts, each preceded by its length as 8 bytes big-endian, so that no two lists
/// of parts have the same bytes.
fn length_prefixed_sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub fn next(self) -> $name {
                $name(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// An attestation's number in the log: 1, 2, 3 …, in commit order, never reused. 0 is before the first.
    Seq
}
number! {
    /// A job's number: rising in the order in which jobs were made, never reused, from 1.
    JobNumber
}
number! {
    /// A watcher's row: rising, never reused, from 1.
    WatcherNumber
}
number! {
    /// The place of a record in the audit, from 0.
    LeafNumber
}

/// Which store this is: 16 random bytes, made with it. Part of every job id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

/// A job's id: of a fire, what its watcher, generation, attestation and handler say; of a schedule's
/// nominal time, what these two say; of a job that was asked for under an id of the asker's, what these two
/// say; of any other, 16 random bytes. Shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub [u8; 16]);

impl JobId {
    /// The id of a fire: the first 16 bytes of SHA-256 over these parts, each preceded by its length
    /// as 8 bytes big-endian. The same fire has the same id after any retry or restart.
    #[must_use]
    pub fn of_fire(
        store: StoreId,
        watcher: &WatcherKey,
        generation: u32,
        attestation: &AttestationId,
        handler: &str,
    ) -> JobId {
        let store = store.to_string();
        let generation = generation.to_string();
        let digest = length_prefixed_sha256([
            b"axwatch/job/1".as_slice(),
            store.as_bytes(),
            watcher.owner.as_str().as_bytes(),
            watcher.local.as_str().as_bytes(),
            generation.as_bytes(),
            attestation.as_str().as_bytes(),
            handler.as_bytes(),
        ]);
        JobId(digest[..16].try_into().expect("16 of 32 bytes"))
    }

    /// The id of what a schedule runs at a nominal time: the first 16 bytes of SHA-256 over these parts,
    /// each preceded by its length as 8 bytes big-endian. However often the clock comes by, it is one job.
    #[must_use]
    pub fn of_schedule(store: StoreId, owner: &Owner, name: &LocalId, nominal: Timestamp) -> JobId {
        let store = store.to_string();
        let nominal_ms = nominal.ms().to_string();
        let digest = length_prefixed_sha256([
            b"axwatch/schedule-job/1".as_slice(),
            store.as_bytes(),
            owner.as_str().as_bytes(),
            name.as_str().as_bytes(),
            nominal_ms.as_bytes(),
        ]);
        JobId(digest[..16].try_into().expect("16 of 32 bytes"))
    }

    /// The id of what somebody asks for under an id of its own: the first 16 bytes of SHA-256 over these parts,
    /// each preceded by its length as 8 bytes big-endian. However often it is asked for, it is one job, and
    /// nobody can ask for what is another's.
    #[must_use]
    pub fn of_asked(store: StoreId, by: &Asker, given: &str) -> JobId {
        let store = store.to_string();
        let digest = length_prefixed_sha256([
            b"axwatch/asked-job/1".as_slice(),
            store.as_bytes(),
            by.as_str().as_bytes(),
            given.as_bytes(),
        ]);
        JobId(digest[..16].try_into().expect("16 of 32 bytes"))
    }

    /// The hash under which the derived table finds this id: its first 8 bytes.
    #[must_use]
    pub fn hash64(self) -> i64 {
        i64::from_be_bytes(self.0[..8].try_into().expect("8 of 16 bytes"))
    }
}

/// Writes 16 bytes as 32 hex digits, in one piece: every fire writes several ids.
fn write_hex(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    f.pad(std::str::from_utf8(&text).expect("hex digits are ASCII"))
}

fn parse_hex_16(what: &'static str, text: &str) -> Result<[u8; 16], InvalidId> {
    let invalid = || InvalidId {
        what,
        text: crate::bounds::cut(text, 80).to_owned(),
        rule: "it must be 32 hex digits",
    };
    if text.len() != 32 || !text.is_ascii() {
        return Err(invalid());
    }
    let mut bytes = [0; 16];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| invalid())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
    }
    Ok(bytes)
}

macro_rules! hex_id {
    ($name:ident, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<$name, InvalidId> {
                parse_hex_16($what, text).map($name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$name, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id!(JobId, "job id");

/// The beginning of a job's id, as people type it.
///
/// Invariant: 4 to 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobIdPrefix(String);

impl JobIdPrefix {
    /// The whole id, when all of it is there.
    #[must_use]
    pub fn whole(&self) -> Option<JobId> {
        self.0.parse().ok()
    }

    /// Whether an id begins so.
    #[must_use]
    pub fn begins(&self, id: JobId) -> bool {
        id.to_string().starts_with(&self.0)
    }

    /// The first and the last id that begin so. The first digit decides the sign of
    /// [`JobId::hash64`], so between these two the hashes rise as the ids do.
    #[must_use]
    pub fn range(&self) -> (JobId, JobId) {
        let filled = |with: char| {
            let digits: String = self.0.chars().chain(std::iter::repeat(with)).take(32).collect();
            digits.parse().expect("hex digits that are filled up to 32 are an id")
        };
        (filled('0'), filled('f'))
    }
}

impl From<JobId> for JobIdPrefix {
    fn from(id: JobId) -> JobIdPrefix {
        JobIdPrefix(id.to_string())
    }
}

impl fmt::Display for JobIdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for JobIdPrefix {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<JobIdPrefix, InvalidId> {
        if !(4..=32).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidId {
                what: "job id",
                text: crate::bounds::cut(text, 80).to_owned(),
                rule: "it must be 32 hex digits, or at least the first 4 of them",
            });
        }
        Ok(JobIdPrefix(text.to_ascii_lowercase()))
    }
}
hex_id!(StoreId, "store id");

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

/// A schedule's id, shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduleId(pub [u8; 16]);

impl ScheduleId {
    /// The id of a schedule of this owner and name: the first 16 bytes of SHA-256 over `axwatch/schedule/1`
    /// and these parts, each preceded by its length as 8 bytes big-endian. One that was retired and is
    /// declared again has it again.
    #[must_use]
    pub fn of(store: StoreId, owner: &Owner, name: &LocalId) -> ScheduleId {
        let store = store.to_string();
        let digest = length_prefixed_sha256([
            b"axwatch/schedule/1".as_slice(),
            store.as_bytes(),
            owner.as_str().as_bytes(),
            name.as_str().as_bytes(),
        ]);
        ScheduleId(digest[..16].try_into().expect("16 of 32 bytes"))
    }
}

hex_id!(ScheduleId, "schedule id");

impl fmt::Debug for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScheduleId({self})")
    }
}

/// Who declared a watcher or a schedule, or whose a job is that no claim caused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A person, with a command or over HTTP.
    User,
    /// A plugin, at its registration or with a call.
    Plugin(PluginName),
}

impl Owner {
    /// `user`, or the plugin's name. No plugin can be called `user`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Owner::User => "user",
            Owner::Plugin(name) => name.as_str(),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Owner {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Owner, InvalidId> {
        if text == "user" { Ok(Owner::User) } else { text.parse().map(Owner::Plugin) }
    }
}

/// Who asked for a job that no claim caused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asker {
    /// A person, with a command or over HTTP.
    User,
    /// A schedule, whoever's it is.
    Schedule,
    /// A plugin, with a call.
    Plugin(PluginName),
}

impl Asker {
    /// `user`, `schedule`, or the plugin's name. No plugin can be called either.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Asker::User => "user",
            Asker::Schedule => "schedule",
            Asker::Plugin(name) => name.as_str(),
        }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Asker {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Asker, InvalidId> {
        match text {
            "user" => Ok(Asker::User),
            "schedule" => Ok(Asker::Schedule),
            name => name.parse().map(Asker::Plugin),
        }
    }
}

/// A watcher's key. Shown as `{owner}-{local id}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatcherKey {
    /// Who declared it.
    pub owner: Owner,
    /// Its id among those of its owner.
    pub local: LocalId,
}

impl WatcherKey {
    /// What it is shown as, in parts.
    #[must_use]
    pub fn shown_parts(&self) -> [&str; 3] {
        [self.owner.as_str(), "-", self.local.as_str()]
    }

    /// The id that people see.
    #[must_use]
    pub fn shown(&self) -> Arc<str> {
        self.shown_parts().concat().into()
    }

    /// Whether this is the id that people see.
    #[must_use]
    pub fn is_shown_as(&self, id: &str) -> bool {
        let after_owner = id.strip_prefix(self.owner.as_str());
        after_owner.and_then(|rest| rest.strip_prefix('-')) == Some(self.local.as_str())
    }
}

impl fmt::Display for WatcherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.owner, self.local)
    }
}

/// The queue that a job waits in: of one (watcher, handler), or of one (handler, asker) for jobs without
/// a watcher, so that what a plugin asks for is never before what a person does. `handler` is the declared
/// text, so that a lane is the same before and after its plugin is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey {
    /// The watcher whose fires these are.
    pub watcher: Option<WatcherNumber>,
    /// The generation of the watcher: a replay waits beside the live fires, not among them.
    pub generation: u32,
    /// The handler as declared: bare or `plugin/handler`.
    pub handler: Arc<str>,
    /// Who asked for these; `None` with a watcher.
    pub asker: Option<Asker>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_readable_id_names_what_it_is_about() {
        let id = AttestationId::readable("alice@example.com", "is_author", "Git Hub, Inc", 0);
        assert_eq!(id.as_str(), "AS-ALICEEXA-ISAUTHOR-GITHUBIN-AAAAAAAAAAAA");
        let id = AttestationId::readable("山田", "_", "x", u64::MAX);
        assert_eq!(id.as_str(), "AS-X-999999999999");
    }

    #[test]
    fn a_key_knows_the_id_that_people_see() {
        let key = |owner, local: &str| WatcherKey { owner, local: local.parse().unwrap() };
        let keys = [key(Owner::User, "b-c"), key(Owner::Plugin("a-b".parse().unwrap()), "c")];
        for key in keys {
            assert_eq!(*key.shown(), key.to_string());
            assert!(key.is_shown_as(&key.shown()));
            for other in ["", "user", "user-", "a-b-", "a-b-cc", "xuser-b-c", "a_b-c"] {
                assert!(!key.is_shown_as(other), "{key}: {other}");
            }
        }
    }

    #[test]
    fn a_job_id_is_the_hash_that_the_contract_says() {
        // Computed apart, with Python's hashlib, from the rule in the design.
        let key = WatcherKey { owner: Owner::User, local: "deploys".parse().unwrap() };
        let id = JobId::of_fire(StoreId([7; 16]), &key, 0, &"AS-1".parse().unwrap(), "notify.log");
        assert_eq!(id.to_string(), EXPECTED_JOB_ID);
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
    }
    const EXPECTED_JOB_ID: &str = "3ea27c14d1c994b3bc463569ba5fdcae";

    #[test]
    fn a_schedule_and_its_nominal_times_have_ids_that_can_be_computed_apart() {
        // With Python's hashlib, as above.
        let nightly: LocalId = "nightly".parse().unwrap();
        let id = ScheduleId::of(StoreId([7; 16]), &Owner::User, &nightly);
        assert_eq!(id.to_string(), "66e5ed7fb915418671b51d573652cdf7");
        assert_eq!(id.to_string().parse::<ScheduleId>().unwrap(), id);
        let git = Owner::Plugin("git".parse().unwrap());
        let nominal = "2024-01-15T14:30:00.123Z".parse().unwrap();
        let name = "ixgest.git".parse().unwrap();
        let job = JobId::of_schedule(StoreId([7; 16]), &git, &name, nominal);
        assert_eq!(job.to_string(), "15930a57848d0a78e41bec7a5838d7ba");
    }

    #[test]
    fn askers_and_owners_are_written_as_they_are_read() {
        let git: PluginName = "git".parse().unwrap();
        for asker in [Asker::User, Asker::Schedule, Asker::Plugin(git.clone())] {
            assert_eq!(asker.to_string().parse::<Asker>().unwrap(), asker);
        }
        for owner in [Owner::User, Owner::Plugin(git)] {
            assert_eq!(owner.to_string().parse::<Owner>().unwrap(), owner);
        }
        assert!("a b".parse::<Asker>().is_err());
    }

    #[test]
    fn names_are_checked_at_the_edge() {
        for good in ["git", "qntx-ix.json", "A_1"] {
            assert!(good.parse::<PluginName>().is_ok(), "{good}");
        }
        for bad in ["", "user", "schedule", "v1", "-x", "a/b", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<PluginName>().is_err(), "{bad:?}");
        }
        assert!("a\nb".parse::<LocalId>().is_err());
        assert!("x".repeat(257).parse::<AttestationId>().is_err());
        assert!("zz".repeat(16).parse::<JobId>().is_err());
        assert!("é".repeat(16).parse::<JobId>().is_err());
    }
}
