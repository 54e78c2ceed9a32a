//! The claim itself, as the log holds it, and the JSON that others read.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{AttestationId, Attributes, Filled, JobId, Seq, Timestamp, WatcherNumber};

/// One immutable claim: who claims what about whom, in which context, when.
///
/// Each dimension is a set: its order and repeats mean nothing, its first-given order is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Attestation {
    /// Unique in its store.
    pub id: AttestationId,
    /// Whom it is about. At least one.
    pub subjects: Vec<String>,
    /// What is claimed; `_` when nothing was named.
    pub predicates: Vec<String>,
    /// In which context; `_` when nothing was named.
    pub contexts: Vec<String>,
    /// Who claims it. At least one.
    pub actors: Vec<String>,
    /// When it was claimed: the author's word, perhaps in the future.
    pub timestamp: Timestamp,
    /// When it was appended: the store's clock.
    pub created_at: Timestamp,
    /// By which program.
    pub source: String,
    /// What else is said.
    pub attributes: Option<Attributes>,
    /// Ed25519, unchecked here.
    pub signature: Option<Vec<u8>>,
    /// The signer as `did:key`.
    pub signer_did: Option<String>,
}

/// How an attestation came to be: which chain of causes it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lineage {
    /// How sure the rest is.
    pub kind: LineageKind,
    /// The attestation that began the chain.
    pub root: Option<AttestationId>,
    /// The job on whose behalf it was made.
    pub parent_job: Option<JobId>,
    /// Steps from the root: 0 for a claim that no job made. Of an unsure claim, at least so many.
    pub depth: u32,
    /// The watchers whose fires led here, the first cause first, from the last claim on whose cause is
    /// not sure. `None` stands for a job that no watcher made.
    pub chain: Vec<Option<WatcherNumber>>,
}

/// How sure a lineage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineageKind {
    /// No job made it.
    #[default]
    None,
    /// The job was named, or was the only one that the plugin had.
    Sure,
    /// A plugin with several jobs under way made it without naming one.
    Unsure,
    /// The named attempt was over when the claim came.
    Stale,
}

impl LineageKind {
    /// The number in the store's column.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this number in the store's column.
    #[must_use]
    pub fn from_code(code: u8) -> Option<LineageKind> {
        [LineageKind::None, LineageKind::Sure, LineageKind::Unsure, LineageKind::Stale]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// An attestation with its place in the log and what the store knows about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its number in the log.
    pub seq: Seq,
    /// The claim.
    pub attestation: Attestation,
    /// Whose token appended it: a plugin's name or `user`.
    pub appended_by: String,
    /// Which of its fields the store filled in.
    pub filled: Filled,
    /// What caused it.
    pub lineage: Lineage,
}

/// The keys of the payload contract, in its order; `seq` only where a person or a store reads it.
#[derive(Serialize)]
struct AttestationJson<'a> {
    id: &'a AttestationId,
    subjects: &'a [String],
    predicates: &'a [String],
    contexts: &'a [String],
    actors: &'a [String],
    timestamp: Timestamp,
    created_at: Timestamp,
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<&'a Attributes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signer_did: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<Seq>,
}

impl Attestation {
    /// Bytes of its terms and its attributes.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        let terms = [&self.subjects, &self.predicates, &self.contexts, &self.actors];
        let terms: usize = terms.into_iter().flatten().map(String::len).sum();
        terms + self.attributes.as_ref().map_or(0, |attributes| attributes.as_str().len())
    }

    /// The payload of a fire: one UTF-8 JSON object, and no keys but those of the contract.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        serde_json::to_vec(&self.json(None)).expect("an attestation is always JSON")
    }

    fn json(&self, seq: Option<Seq>) -> AttestationJson<'_> {
        use base64::Engine as _;
        AttestationJson {
            id: &self.id,
            subjects: &self.subjects,
            predicates: &self.predicates,
            contexts: &self.contexts,
            actors: &self.actors,
            timestamp: self.timestamp,
            created_at: self.created_at,
            source: &self.source,
            attributes: self.attributes.as_ref(),
            signature: self
                .signature
                .as_ref()
                .map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes)),
            signer_did: self.signer_did.as_deref(),
            seq,
        }
    }

    /// Whether two claims under one id say the same. `created_at` never counts, and a field that the
    /// store filled in for either of them does not either.
    #[must_use]
    pub fn same_content(&self, filled: Filled, other: &Attestation, other_filled: Filled) -> bool {
        let either = filled.or(other_filled);
        set(&self.subjects) == set(&other.subjects)
            && set(&self.predicates) == set(&other.predicates)
            && set(&self.contexts) == set(&other.contexts)
            && (either.actors || set(&self.actors) == set(&other.actors))
            && (either.timestamp || self.timestamp == other.timestamp)
            && (either.source || self.source == other.source)
            && self.signature == other.signature
            && self.signer_did == other.signer_did
            && (self.attributes == other.attributes
                || self.canonical_attributes() == other.canonical_attributes())
    }

    fn canonical_attributes(&self) -> Option<String> {
        self.attributes.as_ref().map(Attributes::canonical)
    }

    /// SHA-256 of what the claim says, without its id, `created_at` and whatever was filled in.
    #[must_use]
    pub fn content_hash(&self, filled: Filled) -> [u8; 32] {
        let content = serde_json::json!([
            set(&self.subjects),
            set(&self.predicates),
            set(&self.contexts),
            (!filled.actors).then(|| set(&self.actors)),
            (!filled.timestamp).then_some(self.timestamp),
            (!filled.source).then_some(&self.source),
            self.canonical_attributes(),
            self.signature,
            self.signer_did,
        ]);
        Sha256::digest(content.to_string()).into()
    }
}

fn set(terms: &[String]) -> BTreeSet<&str> {
    terms.iter().map(String::as_str).collect()
}

impl Stored {
    /// What `--json` and HTTP show: the payload's keys and `seq`.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.attestation.json(Some(self.seq)))
            .expect("an attestation is always JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Attestation {
        Attestation {
            id: "AS-1".parse().unwrap(),
            subjects: vec!["ALICE".into(), "BOB".into()],
            predicates: vec!["author".into()],
            contexts: vec!["_".into()],
            actors: vec!["hr".into()],
            timestamp: Timestamp::from_ms(1_705_329_000_000).unwrap(),
            created_at: Timestamp::from_ms(1_705_329_000_123).unwrap(),
            source: "test".into(),
            attributes: Attributes::parse(r#"{"stars": 2}"#).unwrap(),
            signature: Some(vec![1, 2, 255]),
            signer_did: None,
        }
    }

    #[test]
    fn the_payload_has_the_keys_of_the_contract_and_no_others() {
        let text = String::from_utf8(claim().payload()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"id":"AS-1","subjects":["ALICE","BOB"],"predicates":["author"],"contexts":["_"],"#,
                r#""actors":["hr"],"timestamp":"2024-01-15T14:30:00Z","created_at":"2024-01-15T14:30:00.123Z","#,
                r#""source":"test","attributes":{"stars":2},"signature":"AQL/"}"#,
            )
        );
    }

    #[test]
    fn content_is_what_the_author_said() {
        let none = Filled::default();
        let filled_timestamp = Filled { timestamp: true, ..none };
        type Edit = fn(&mut Attestation);
        let cases: [(&str, Edit, Filled, bool); 9] = [
            ("nothing", |_| {}, none, true),
            ("created_at", |a| a.created_at = Timestamp::from_ms(5).unwrap(), none, true),
            ("order", |a| a.subjects.reverse(), none, true),
            ("2.0", |a| a.attributes = Attributes::parse(r#"{"stars":2.0}"#).unwrap(), none, true),
            ("timestamp", |a| a.timestamp = Timestamp::from_ms(5).unwrap(), none, false),
            (
                "filled timestamp",
                |a| a.timestamp = Timestamp::from_ms(5).unwrap(),
                filled_timestamp,
                true,
            ),
            ("subject", |a| a.subjects = vec!["BOB".into()], none, false),
            ("attributes", |a| a.attributes = None, none, false),
            ("signature", |a| a.signature = None, none, false),
        ];
        for (what, edit, filled, same) in cases {
            let mut other = claim();
            edit(&mut other);
            assert_eq!(claim().same_content(none, &other, filled), same, "{what}");
            assert_eq!(claim().content_hash(filled) == other.content_hash(filled), same, "{what}");
        }
    }
}
