//! The four lists of an attestation that a query can ask about.

use axwatch_model::Attestation;
use serde::Serialize;

/// One of the four dimensions of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Whom it is about.
    Subject,
    /// What is claimed.
    Predicate,
    /// In which context.
    Context,
    /// Who claims it.
    Actor,
}

impl Dimension {
    /// All four, in the order in which a query names them.
    pub const ALL: [Dimension; 4] =
        [Dimension::Subject, Dimension::Predicate, Dimension::Context, Dimension::Actor];

    /// Its name in a mistake: `subject`, `predicate`, `context`, `actor`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Dimension::Subject => "subject",
            Dimension::Predicate => "predicate",
            Dimension::Context => "context",
            Dimension::Actor => "actor",
        }
    }

    /// The attestation's terms in this dimension.
    #[must_use]
    pub fn terms(self, attestation: &Attestation) -> &[String] {
        match self {
            Dimension::Subject => &attestation.subjects,
            Dimension::Predicate => &attestation.predicates,
            Dimension::Context => &attestation.contexts,
            Dimension::Actor => &attestation.actors,
        }
    }

    /// Whether aliases widen it: all but predicates.
    #[must_use]
    pub fn has_aliases(self) -> bool {
        self != Dimension::Predicate
    }

    /// Its place in [`Dimension::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}
