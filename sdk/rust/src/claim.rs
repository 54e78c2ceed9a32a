//! Claims: what a plugin wants to have in the log, and what the log holds.
//!
//! A [`Claim`] is checked here by the host's own rules and in its words, so that a bad one is found
//! where it was made; the host decides all the same.

use axwatch_proto::protocol::{self, AttestationCommand};
use axwatch_proto::structs::{self, FromJsonError};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::failure::Failure;

const TERMS_MAX: usize = 100;
const TERM_BYTES_MAX: usize = 1_000;
const SOURCE_BYTES_MAX: usize = 1_000;
const ID_BYTES_MAX: usize = 256;
const ATTRIBUTES_BYTES_MAX: usize = 1024 * 1024;
/// Nested objects and arrays in the attributes, the outermost counted. The host takes 64 levels, and
/// what decodes its messages stops at 100 nested ones: two around the attributes, three a level.
const ATTRIBUTES_DEPTH_MAX: usize = 33;
/// Up to here, on both sides of zero, the double of the wire counts whole numbers one by one.
const WHOLE_MAX: u64 = 1 << 53;
/// A byte of a message becomes at most six of JSON, `\u0001` for one, so that shorter ones need no
/// counting.
const JSON_BYTES_A_BYTE_MAX: usize = 6;
/// Timestamps below this are seconds: as milliseconds they would lie before March 1973.
const MILLISECONDS_FROM: i64 = 100_000_000_000;
/// The last millisecond of 9999-12-30, and the last that the log can write.
const TIMESTAMP_MS_MAX: i64 = 253_402_207_200_999;

/// A claim to be made: who says what about whom, in which context.
///
/// Each method adds to what is there. What is left out the host fills in: predicates and contexts
/// with `_`, the actor with the claim's own id, the timestamp with now, the source with the plugin's
/// name.
///
/// ```
/// # use axwatch_sdk::Claim;
/// let _ = Claim::new("a1b2c3d", "is_commit", "commit_metadata")
///     .actor("git")
///     .attribute("message", "engine: defer fires over the limit")
///     .attribute("parents", 2);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct Claim {
    id: Option<String>,
    subjects: Vec<String>,
    predicates: Vec<String>,
    contexts: Vec<String>,
    actors: Vec<String>,
    timestamp_ms: i64,
    source: String,
    attributes: Map<String, Value>,
}

impl Claim {
    /// `subject is predicate of context`.
    pub fn new(
        subject: impl Into<String>,
        predicate: impl Into<String>,
        context: impl Into<String>,
    ) -> Claim {
        Claim::default().subject(subject).predicate(predicate).context(context)
    }

    /// An id of your own, 1 to 256 bytes: the same claim again under its id is no second one, whoever
    /// makes it and whenever; another claim under it is refused.
    ///
    /// Without one a claim made on behalf of a job gets an id computed from the job and its content.
    pub fn id(mut self, id: impl Into<String>) -> Claim {
        self.id = Some(id.into());
        self
    }

    /// One more subject. A dimension has at most 100 terms of 1 to 1,000 bytes.
    pub fn subject(self, subject: impl Into<String>) -> Claim {
        self.subjects([subject])
    }

    /// More subjects.
    pub fn subjects(mut self, subjects: impl IntoIterator<Item = impl Into<String>>) -> Claim {
        self.subjects.extend(subjects.into_iter().map(Into::into));
        self
    }

    /// One more predicate.
    pub fn predicate(self, predicate: impl Into<String>) -> Claim {
        self.predicates([predicate])
    }

    /// More predicates.
    pub fn predicates(mut self, predicates: impl IntoIterator<Item = impl Into<String>>) -> Claim {
        self.predicates.extend(predicates.into_iter().map(Into::into));
        self
    }

    /// One more context.
    pub fn context(self, context: impl Into<String>) -> Claim {
        self.contexts([context])
    }

    /// More contexts.
    pub fn contexts(mut self, contexts: impl IntoIterator<Item = impl Into<String>>) -> Claim {
        self.contexts.extend(contexts.into_iter().map(Into::into));
        self
    }

    /// One more actor: who claims it.
    pub fn actor(self, actor: impl Into<String>) -> Claim {
        self.actors([actor])
    }

    /// More actors.
    pub fn actors(mut self, actors: impl IntoIterator<Item = impl Into<String>>) -> Claim {
        self.actors.extend(actors.into_iter().map(Into::into));
        self
    }

    /// When it was so: milliseconds since 1970, 0 for now.
    pub fn timestamp_ms(mut self, ms: i64) -> Claim {
        self.timestamp_ms = ms;
        self
    }

    /// By which program it was found, instead of the plugin's name.
    pub fn source(mut self, source: impl Into<String>) -> Claim {
        self.source = source.into();
        self
    }

    /// What else is said, under one key: at most 1 MiB of JSON in all, nested 33 levels deep.
    ///
    /// The wire knows doubles only: a whole number beyond 2⁵³ is refused rather than rounded. Give it
    /// as text.
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<Value>) -> Claim {
        self.attributes.insert(key.into(), value.into());
        self
    }

    /// More attributes.
    pub fn attributes(mut self, attributes: Map<String, Value>) -> Claim {
        self.attributes.extend(attributes);
        self
    }

    /// The message for a host, or the permanent failure that says why no host would take it.
    pub(crate) fn into_command(self) -> Result<AttestationCommand, Failure> {
        self.checked().map_err(Failure::permanent)
    }

    fn checked(self) -> Result<AttestationCommand, InvalidClaim> {
        check_id(self.id.as_deref())?;
        if self.subjects.is_empty() {
            return Err(InvalidClaim::NoSubject);
        }
        check_terms("subjects", &self.subjects)?;
        check_terms("predicates", &self.predicates)?;
        check_terms("contexts", &self.contexts)?;
        check_terms("actors", &self.actors)?;
        if self.source.len() > SOURCE_BYTES_MAX {
            return Err(InvalidClaim::Source(self.source.len()));
        }
        check_timestamp(self.timestamp_ms)?;
        Ok(AttestationCommand {
            id: self.id.unwrap_or_default(),
            subjects: self.subjects,
            predicates: self.predicates,
            contexts: self.contexts,
            actors: self.actors,
            timestamp: Some(self.timestamp_ms).filter(|&ms| ms != 0),
            attributes: attributes(self.attributes)?,
            source: self.source,
            ..Default::default()
        })
    }
}

/// Why a claim cannot be made. Every text names the field.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
enum InvalidClaim {
    #[error("id: attestation id {text:?} is not valid: {rule}")]
    Id { text: String, rule: &'static str },
    #[error("subjects: at least one is needed")]
    NoSubject,
    #[error("{field}: {found} terms; at most {TERMS_MAX} are allowed")]
    TooManyTerms { field: &'static str, found: usize },
    #[error("{field}[{index}]: {found} bytes; a term has 1 to {TERM_BYTES_MAX}")]
    TermLength { field: &'static str, index: usize, found: usize },
    #[error("source: {0} bytes; at most {SOURCE_BYTES_MAX} are allowed")]
    Source(usize),
    #[error(
        "timestamp: {0} looks like seconds; it must be milliseconds since 1970, and 0 means now"
    )]
    Seconds(i64),
    #[error("timestamp: {0} is not in milliseconds since 1970 a time before the year 10000")]
    TooLate(i64),
    #[error("attributes have {0} bytes; at most {ATTRIBUTES_BYTES_MAX} are allowed")]
    TooLarge(usize),
    #[error("attributes: {key} nests deeper than {ATTRIBUTES_DEPTH_MAX} levels")]
    TooDeep { key: String },
    #[error("attributes: {key} is {number}, which the wire would round; give it as text")]
    Rounded { key: String, number: String },
}

fn check_id(id: Option<&str>) -> Result<(), InvalidClaim> {
    let Some(id) = id else { return Ok(()) };
    let rule = if id.is_empty() || id.len() > ID_BYTES_MAX {
        "it must have 1 to 256 bytes"
    } else if id.chars().any(char::is_control) {
        "it must not hold control characters"
    } else {
        return Ok(());
    };
    Err(InvalidClaim::Id { text: id[..id.floor_char_boundary(80)].to_owned(), rule })
}

fn check_terms(field: &'static str, terms: &[String]) -> Result<(), InvalidClaim> {
    if terms.len() > TERMS_MAX {
        return Err(InvalidClaim::TooManyTerms { field, found: terms.len() });
    }
    let wrong = terms.iter().position(|term| !(1..=TERM_BYTES_MAX).contains(&term.len()));
    wrong.map_or(Ok(()), |index| {
        Err(InvalidClaim::TermLength { field, index, found: terms[index].len() })
    })
}

fn check_timestamp(ms: i64) -> Result<(), InvalidClaim> {
    match ms {
        0 | MILLISECONDS_FROM..=TIMESTAMP_MS_MAX => Ok(()),
        ..MILLISECONDS_FROM => Err(InvalidClaim::Seconds(ms)),
        _ => Err(InvalidClaim::TooLate(ms)),
    }
}

fn attributes(entries: Map<String, Value>) -> Result<Option<prost_types::Struct>, InvalidClaim> {
    if entries.is_empty() {
        return Ok(None);
    }
    for (key, value) in &entries {
        check_value(key, value, 1)?;
    }
    let value = Value::Object(entries);
    let object = structs::from_value(&value).map_err(|error| match error {
        FromJsonError::TooDeep { key } => InvalidClaim::TooDeep { key },
        FromJsonError::Syntax(_) | FromJsonError::NotAnObject => {
            unreachable!("it is an object, and was parsed before")
        }
    })?;
    if object.encoded_len() > ATTRIBUTES_BYTES_MAX / JSON_BYTES_A_BYTE_MAX {
        let bytes = value.to_string().len();
        if bytes > ATTRIBUTES_BYTES_MAX {
            return Err(InvalidClaim::TooLarge(bytes));
        }
    }
    Ok(Some(object))
}

/// `depth` is how many levels stand around the value.
fn check_value(key: &str, value: &Value, depth: usize) -> Result<(), InvalidClaim> {
    match value {
        Value::Array(_) | Value::Object(_) if depth >= ATTRIBUTES_DEPTH_MAX => {
            Err(InvalidClaim::TooDeep { key: key.to_owned() })
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_value(key, item, depth + 1)),
        Value::Object(entries) => {
            entries.values().try_for_each(|inner| check_value(key, inner, depth + 1))
        }
        Value::Number(number) => {
            let whole = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            if whole.is_some_and(|whole| whole > WHOLE_MAX) {
                return Err(InvalidClaim::Rounded {
                    key: key.to_owned(),
                    number: number.to_string(),
                });
            }
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

/// A claim of the log. Its JSON is the payload of a fire, and `seq` where it is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attestation {
    /// Unique in its store.
    pub id: String,
    /// Its number in the log, from 1; 0 in the payload of a fire, which does not say it.
    #[serde(skip_serializing_if = "is_unknown")]
    pub seq: i64,
    /// Whom it is about. At least one.
    pub subjects: Vec<String>,
    /// What is claimed.
    pub predicates: Vec<String>,
    /// In which context.
    pub contexts: Vec<String>,
    /// Who claims it.
    pub actors: Vec<String>,
    /// When it was so, by its author: RFC 3339 in UTC.
    pub timestamp: String,
    /// When it was appended, by the store: RFC 3339 in UTC.
    pub created_at: String,
    /// Which program found it.
    pub source: String,
    /// What else is said.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
}

fn is_unknown(seq: &i64) -> bool {
    *seq == 0
}

impl Attestation {
    /// The first subject: most claims have one.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.subjects.first().map_or("", String::as_str)
    }

    /// Reads the payload of a fire.
    pub(crate) fn from_payload(payload: &[u8]) -> Result<Attestation, serde_json::Error> {
        use serde::de::Error as _;
        let claim: Attestation = serde_json::from_slice(payload)?;
        if claim.id.is_empty() || claim.subjects.is_empty() {
            return Err(serde_json::Error::custom("an attestation has an id and subjects"));
        }
        Ok(claim)
    }

    pub(crate) fn from_wire(claim: protocol::Attestation) -> Attestation {
        Attestation {
            id: claim.id,
            seq: claim.seq,
            subjects: claim.subjects,
            predicates: claim.predicates,
            contexts: claim.contexts,
            actors: claim.actors,
            timestamp: rfc3339(claim.timestamp),
            created_at: rfc3339(claim.created_at),
            source: claim.source,
            attributes: claim.attributes.as_ref().map(entries).unwrap_or_default(),
        }
    }
}

/// As the payload of a fire has it: UTC, milliseconds only when there are some.
fn rfc3339(ms: i64) -> String {
    let end = if ms < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(end);
    if ms % 1_000 == 0 { format!("{time}") } else { format!("{time:.3}") }
}

/// A host has no number that JSON has not, so that what cannot be read is only ever a stranger's.
fn entries(object: &prost_types::Struct) -> Map<String, Value> {
    let json = structs::to_json(object).ok();
    json.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axwatch_proto::protocol::BatchGenerateAttestationRequest;
    use serde_json::json;

    use super::*;

    fn about(subject: &str) -> Claim {
        Claim::default().subject(subject)
    }

    fn nested(levels: usize) -> Value {
        (1..levels).fold(json!({ "end": 1 }), |inner, _| json!({ "a": inner }))
    }

    fn with(attributes: Value) -> Claim {
        let Value::Object(entries) = attributes else { panic!("{attributes}") };
        about("x").attributes(entries)
    }

    #[test]
    fn what_a_host_would_refuse_is_refused_in_its_words() {
        let cases = [
            (Claim::default(), "subjects: at least one is needed"),
            (about(""), "subjects[0]: 0 bytes; a term has 1 to 1000"),
            (
                Claim::new("x", "é".repeat(501), "y"),
                "predicates[0]: 1002 bytes; a term has 1 to 1000",
            ),
            (about("x").actors(vec!["a"; 101]), "actors: 101 terms; at most 100 are allowed"),
            (
                about("x").id("a\nb"),
                "id: attestation id \"a\\nb\" is not valid: it must not hold control characters",
            ),
            (
                about("x").id(""),
                "id: attestation id \"\" is not valid: it must have 1 to 256 bytes",
            ),
            (about("x").source("s".repeat(1_001)), "source: 1001 bytes; at most 1000 are allowed"),
            (
                about("x").timestamp_ms(1_705_329_000),
                "timestamp: 1705329000 looks like seconds; it must be milliseconds since 1970, and 0 means now",
            ),
            (
                about("x").timestamp_ms(i64::MAX),
                "timestamp: 9223372036854775807 is not in milliseconds since 1970 a time before the year 10000",
            ),
            (
                about("x").attribute("n", json!([1, [1_u64 << 53 | 1]])),
                "attributes: n is 9007199254740993, which the wire would round; give it as text",
            ),
            (with(nested(34)), "attributes: a nests deeper than 33 levels"),
            (
                about("x").attribute("t", "v".repeat(1024 * 1024)),
                "attributes have 1048584 bytes; at most 1048576 are allowed",
            ),
        ];
        for (claim, reason) in cases {
            let said = claim.into_command().expect_err(reason).to_string();
            assert_eq!(said, reason);
        }
    }

    /// What the bound on depth says of the decoder. A change of prost would show here first.
    #[test]
    fn the_deepest_attributes_arrive() {
        let mut command = with(nested(33)).into_command().unwrap();
        let arrives = |command: &AttestationCommand| {
            let batch = BatchGenerateAttestationRequest {
                commands: vec![command.clone()],
                ..Default::default()
            };
            BatchGenerateAttestationRequest::decode(batch.encode_to_vec().as_slice()).is_ok()
        };
        assert!(arrives(&command));
        command.attributes = structs::from_value(&nested(34)).ok();
        assert!(!arrives(&command));
    }

    #[test]
    fn a_good_claim_says_what_was_given_and_no_more() {
        let command = Claim::new("x", "is", "y")
            .subjects(["z"])
            .id("a")
            .timestamp_ms(1_705_329_000_123)
            .attribute("n", 1_i64 << 53)
            .attribute("t", true)
            .into_command()
            .unwrap();
        assert_eq!(command.subjects, ["x", "z"]);
        assert_eq!((command.id.as_str(), command.timestamp), ("a", Some(1_705_329_000_123)));
        let json = structs::to_json(&command.attributes.unwrap()).unwrap();
        assert_eq!(json, r#"{"n":9007199254740992,"t":true}"#);
        let bare = about("x").timestamp_ms(0).into_command().unwrap();
        assert_eq!(bare, AttestationCommand { subjects: vec!["x".into()], ..Default::default() });
    }

    #[test]
    fn a_payload_is_read_and_written_as_it_is() {
        let payload = json!({
            "id": "AS-1", "subjects": ["ALICE"], "predicates": ["author"], "contexts": ["_"],
            "actors": ["hr"], "timestamp": "2024-01-15T14:30:00Z",
            "created_at": "2024-01-15T14:30:00.120Z", "source": "test", "attributes": {"stars": 2},
        });
        let claim = Attestation::from_payload(payload.to_string().as_bytes()).unwrap();
        assert_eq!(claim.subject(), "ALICE");
        assert_eq!(serde_json::to_value(&claim).unwrap(), payload);
        for wrong in ["", "[]", "{}", r#"{"id":"a"}"#, r#"{"id":"a","subjects":"x"}"#] {
            assert!(Attestation::from_payload(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_written_as_in_a_payload() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (1_705_329_000_120, "2024-01-15T14:30:00.120Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ];
        for (ms, text) in cases {
            assert_eq!(rfc3339(ms), text);
        }
        assert!(
            rfc3339(i64::MAX).starts_with("9999-12-30") && rfc3339(i64::MIN).starts_with("-009999")
        );
    }
}
