//! A claim as a caller gives it, and what has to hold before it may enter the log.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::bounds::{SIGNATURE_BYTES_MAX, SOURCE_BYTES_MAX, TERM_BYTES_MAX, TERMS_MAX};
use crate::{
    Attestation, AttestationId, Attributes, InvalidAttributes, InvalidId, Lineage, Timestamp,
};

/// A claim that nobody has checked yet. What is absent is filled in by [`Draft::complete`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    /// Given for an append that may be repeated.
    pub id: Option<String>,
    /// At least one.
    pub subjects: Vec<String>,
    /// None means `_`.
    pub predicates: Vec<String>,
    /// None means `_`.
    pub contexts: Vec<String>,
    /// None means [`Defaults::actor`].
    pub actors: Vec<String>,
    /// None means now.
    pub timestamp: Option<Timestamp>,
    /// None, or empty, means [`Defaults::source`].
    pub source: Option<String>,
    /// What else is said.
    pub attributes: Option<Attributes>,
    /// Ed25519.
    pub signature: Option<Vec<u8>>,
    /// The signer as `did:key`.
    pub signer_did: Option<String>,
}

/// What fills the gaps of a draft, by the road on which it came.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Who claims it when nobody is named.
    pub actor: DefaultActor,
    /// Which program made it when none is named.
    pub source: String,
}

/// Who claims what nobody signed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultActor {
    /// The attestation itself: its own id.
    OwnId,
    /// This one.
    Named(String),
}

/// Which fields were filled in rather than given. They are never compared when an id comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filled {
    /// The timestamp was.
    pub timestamp: bool,
    /// The actors were.
    pub actors: bool,
    /// The source was.
    pub source: bool,
}

impl Filled {
    /// Filled in either of two.
    #[must_use]
    pub fn or(self, other: Filled) -> Filled {
        Filled {
            timestamp: self.timestamp || other.timestamp,
            actors: self.actors || other.actors,
            source: self.source || other.source,
        }
    }

    /// The number in the store's column: 1 timestamp, 2 actors, 4 source.
    #[must_use]
    pub fn code(self) -> u8 {
        u8::from(self.timestamp) | u8::from(self.actors) << 1 | u8::from(self.source) << 2
    }

    /// What a number from the store's column means.
    #[must_use]
    pub fn from_code(code: u8) -> Filled {
        Filled { timestamp: code & 1 != 0, actors: code & 2 != 0, source: code & 4 != 0 }
    }
}

/// A checked claim on its way into the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// The claim. Its `created_at` is set again by the writer.
    pub attestation: Attestation,
    /// What was filled in.
    pub filled: Filled,
    /// Whose token appends it: a plugin's name or `user`.
    pub appended_by: String,
    /// What caused it.
    pub lineage: Lineage,
}

/// Why a claim was refused. Every text names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDraft {
    /// Nobody is claimed about.
    #[error("subjects: at least one is needed")]
    NoSubject,
    /// Over [`TERMS_MAX`].
    #[error("{field}: {found} terms; at most {TERMS_MAX} are allowed")]
    TooManyTerms {
        /// The dimension.
        field: &'static str,
        /// How many there are.
        found: usize,
    },
    /// A term of no bytes or over [`TERM_BYTES_MAX`].
    #[error("{field}[{index}]: {found} bytes; a term has 1 to {TERM_BYTES_MAX}")]
    TermLength {
        /// The dimension.
        field: &'static str,
        /// Which term, from 0.
        index: usize,
        /// Its bytes.
        found: usize,
    },
    /// Over its bound.
    #[error("{field}: {found} bytes; at most {max} are allowed")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// Its bytes.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// Not an id.
    #[error("id: {0}")]
    Id(#[from] InvalidId),
    /// Not attributes.
    #[error("{0}")]
    Attributes(#[from] InvalidAttributes),
    /// JSON that is no attestation.
    #[error("{0}")]
    Json(String),
    /// A claim that means something to axwatch itself, and does not say it as it must.
    #[error("{0}")]
    Meaning(&'static str),
}

impl Draft {
    /// Checks the draft and fills its gaps. `entropy` makes the random part of a readable id.
    ///
    /// # Errors
    /// [`InvalidDraft`], the first that applies, naming the field.
    pub fn complete(
        self,
        defaults: &Defaults,
        appended_by: &str,
        now: Timestamp,
        entropy: u64,
    ) -> Result<Incoming, InvalidDraft> {
        if self.subjects.is_empty() {
            return Err(InvalidDraft::NoSubject);
        }
        let subjects = check_terms("subjects", self.subjects)?;
        let predicates = check_terms("predicates", or_underscore(self.predicates))?;
        let contexts = check_terms("contexts", or_underscore(self.contexts))?;
        let given_actors = check_terms("actors", self.actors)?;
        let source = self.source.filter(|source| !source.is_empty());
        check_length("source", source.as_ref().map_or(0, String::len), SOURCE_BYTES_MAX)?;
        check_length(
            "signature",
            self.signature.as_ref().map_or(0, Vec::len),
            SIGNATURE_BYTES_MAX,
        )?;
        check_length(
            "signer_did",
            self.signer_did.as_ref().map_or(0, String::len),
            SOURCE_BYTES_MAX,
        )?;
        let id = match self.id {
            Some(id) => id.parse()?,
            None => AttestationId::readable(&subjects[0], &predicates[0], &contexts[0], entropy),
        };
        let filled = Filled {
            timestamp: self.timestamp.is_none(),
            actors: given_actors.is_empty(),
            source: source.is_none(),
        };
        let actors = match (&defaults.actor, filled.actors) {
            (_, false) => given_actors,
            (DefaultActor::OwnId, true) => vec![id.as_str().to_owned()],
            (DefaultActor::Named(actor), true) => vec![actor.clone()],
        };
        let attestation = Attestation {
            id,
            subjects,
            predicates,
            contexts,
            actors,
            timestamp: self.timestamp.unwrap_or(now),
            created_at: now,
            source: source.unwrap_or_else(|| defaults.source.clone()),
            attributes: self.attributes,
            signature: self.signature.filter(|bytes| !bytes.is_empty()),
            signer_did: self.signer_did.filter(|did| !did.is_empty()),
        };
        Ok(Incoming {
            attestation,
            filled,
            appended_by: appended_by.to_owned(),
            lineage: Lineage::default(),
        })
    }

    /// Reads one attestation as JSON: the keys of a fire's payload, and `seq`. `created_at` and `seq`
    /// are accepted and ignored, so that one store's output is another's input.
    ///
    /// # Errors
    /// [`InvalidDraft`] with the field and what it should be; unknown keys are errors.
    pub fn from_json(text: &str) -> Result<Draft, InvalidDraft> {
        match serde_json::from_str::<DraftJson>(text) {
            Ok(json) => json.into_draft(),
            Err(error) => Err(explain(text, &error)),
        }
    }
}

/// The JSON of a claim, for surfaces that take one inside a larger object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DraftJson {
    id: Option<String>,
    #[serde(default)]
    subjects: Vec<String>,
    predicates: Option<Vec<String>>,
    contexts: Option<Vec<String>>,
    actors: Option<Vec<String>>,
    timestamp: Option<Timestamp>,
    #[serde(rename = "created_at")]
    _created_at: Option<serde::de::IgnoredAny>,
    source: Option<String>,
    attributes: Option<Box<RawValue>>,
    signature: Option<String>,
    signer_did: Option<String>,
    #[serde(rename = "seq")]
    _seq: Option<serde::de::IgnoredAny>,
}

impl DraftJson {
    /// The draft that it describes.
    ///
    /// # Errors
    /// [`InvalidDraft`] for attributes that are none and a signature that is not base64.
    pub fn into_draft(self) -> Result<Draft, InvalidDraft> {
        use base64::Engine as _;
        let signature = self
            .signature
            .map(|text| base64::engine::general_purpose::STANDARD.decode(text))
            .transpose()
            .map_err(|error| {
                InvalidDraft::Json(format!("signature: not standard base64: {error}"))
            })?;
        let attributes = match self.attributes {
            Some(raw) => Attributes::parse(raw.get())?,
            None => None,
        };
        Ok(Draft {
            id: self.id,
            subjects: self.subjects,
            predicates: self.predicates.unwrap_or_default(),
            contexts: self.contexts.unwrap_or_default(),
            actors: self.actors.unwrap_or_default(),
            timestamp: self.timestamp,
            source: self.source,
            attributes,
            signature,
            signer_did: self.signer_did,
        })
    }
}

/// The keys that [`DraftJson`] knows, with what each must be.
const KEYS: [(&str, &str); 12] = [
    ("id", "a text"),
    ("subjects", "an array of texts"),
    ("predicates", "an array of texts"),
    ("contexts", "an array of texts"),
    ("actors", "an array of texts"),
    ("timestamp", "an RFC 3339 time such as 2024-05-15T14:30:00Z"),
    ("created_at", "an RFC 3339 time"),
    ("source", "a text"),
    ("attributes", "a JSON object"),
    ("signature", "standard base64"),
    ("signer_did", "a text"),
    ("seq", "a number"),
];

/// The slow road of a refusal: finds the field at fault, which serde's own text does not name.
fn explain(text: &str, error: &serde_json::Error) -> InvalidDraft {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else {
        return InvalidDraft::Json(format!("not valid JSON: {error}"));
    };
    let serde_json::Value::Object(entries) = value else {
        return InvalidDraft::Json(
            "an attestation is a JSON object with at least `subjects`".to_owned(),
        );
    };
    for (key, value) in entries {
        let Some((_, expected)) = KEYS.iter().find(|(known, _)| *known == key) else {
            let known: Vec<_> = KEYS.iter().map(|(known, _)| *known).collect();
            return InvalidDraft::Json(format!(
                "unknown key {key:?}; known are {}",
                known.join(", ")
            ));
        };
        let alone = serde_json::json!({ &key: value }).to_string();
        if serde_json::from_str::<DraftJson>(&alone).is_err() {
            return InvalidDraft::Json(format!("{key}: must be {expected}"));
        }
    }
    InvalidDraft::Json(error.to_string())
}

fn or_underscore(terms: Vec<String>) -> Vec<String> {
    if terms.is_empty() { vec!["_".to_owned()] } else { terms }
}

/// Checks a dimension and drops repeats, of which the first stays.
fn check_terms(field: &'static str, mut terms: Vec<String>) -> Result<Vec<String>, InvalidDraft> {
    if terms.len() > TERMS_MAX {
        return Err(InvalidDraft::TooManyTerms { field, found: terms.len() });
    }
    for (index, term) in terms.iter().enumerate() {
        if !(1..=TERM_BYTES_MAX).contains(&term.len()) {
            return Err(InvalidDraft::TermLength { field, index, found: term.len() });
        }
    }
    if terms.len() > 1 {
        let mut seen = std::collections::HashSet::with_capacity(terms.len());
        terms.retain(|term| seen.insert(term.clone()));
    }
    Ok(terms)
}

fn check_length(field: &'static str, found: usize, max: usize) -> Result<(), InvalidDraft> {
    if found > max { Err(InvalidDraft::TooLong { field, found, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(draft: Draft) -> Result<Incoming, InvalidDraft> {
        let defaults = Defaults { actor: DefaultActor::OwnId, source: "here".into() };
        draft.complete(&defaults, "user", Timestamp::from_ms(1_000).unwrap(), 5)
    }

    fn about(subjects: &[&str]) -> Draft {
        Draft { subjects: subjects.iter().map(|&s| s.to_owned()).collect(), ..Draft::default() }
    }

    #[test]
    fn gaps_are_filled_and_marked() {
        let done = complete(about(&["ALICE", "ALICE", "BOB"])).unwrap();
        let claim = &done.attestation;
        assert_eq!(claim.subjects, ["ALICE", "BOB"]);
        assert_eq!(
            (claim.predicates.as_slice(), claim.contexts.as_slice()),
            (["_".to_owned()].as_slice(), ["_".to_owned()].as_slice())
        );
        assert_eq!(claim.actors, [claim.id.as_str()]);
        assert_eq!((claim.source.as_str(), claim.timestamp.ms()), ("here", 1_000));
        assert_eq!(done.filled, Filled { timestamp: true, actors: true, source: true });
        assert_eq!(Filled::from_code(done.filled.code()), done.filled);
    }

    #[test]
    fn a_refusal_names_the_field() {
        let many = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        let cases = [
            (about(&[]), "subjects: at least one"),
            (about(&["x", ""]), "subjects[1]: 0 bytes"),
            (
                Draft { contexts: vec!["x".repeat(1_001)], ..about(&["x"]) },
                "contexts[0]: 1001 bytes",
            ),
            (Draft { actors: many(101), ..about(&["x"]) }, "actors: 101 terms"),
            (Draft { source: Some("x".repeat(1_001)), ..about(&["x"]) }, "source: 1001 bytes"),
            (Draft { id: Some(String::new()), ..about(&["x"]) }, "id: attestation id"),
        ];
        for (draft, reason) in cases {
            let error = complete(draft).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
        assert!(complete(Draft { actors: many(100), ..about(&["x"]) }).is_ok());
    }

    #[test]
    fn json_is_read_strictly_and_the_field_at_fault_is_named() {
        let good = r#"{"id":"a","subjects":["x"],"timestamp":"2024-01-15T14:30:00Z","seq":7,"created_at":"2024-01-15T14:30:00Z","attributes":{"a": 1}}"#;
        let draft = Draft::from_json(good).unwrap();
        assert_eq!(draft.attributes.unwrap().as_str(), r#"{"a":1}"#);
        let cases = [
            ("{", "not valid JSON"),
            ("[]", "JSON object"),
            (r#"{"subject":["x"]}"#, "unknown key \"subject\""),
            (r#"{"subjects":"x"}"#, "subjects: must be an array of texts"),
            (r#"{"subjects":["x"],"timestamp":5}"#, "timestamp: must be an RFC 3339"),
            (r#"{"subjects":["x"],"timestamp":"soon"}"#, "timestamp: must be an RFC 3339"),
            (r#"{"subjects":["x"],"attributes":[]}"#, "attributes must be a JSON object"),
            (r#"{"subjects":["x"],"signature":"%"}"#, "signature: not standard base64"),
        ];
        for (text, reason) in cases {
            let error = Draft::from_json(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
    }
}
