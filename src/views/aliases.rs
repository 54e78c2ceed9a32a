//! Which words are one, and what became of a change.

use axwatch_model::{AttestationId, Seq};
use serde::{Deserialize, Serialize};

use super::FireCount;

/// Words that are one and the same to AX.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasClass {
    /// The words as they were last written, in the order in which they compare.
    pub words: Vec<String>,
    /// They, and no others, are one for the claims after this one.
    pub since: Seq,
    /// Which of them were linked with each other: pairs of places in `words`, from 0.
    pub links: Vec<(usize, usize)>,
}

/// What became of a change of aliases.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AliasChanged {
    /// The id of the claim that says so; null when it was so already.
    pub id: Option<AttestationId>,
    /// The claim's number.
    pub seq: Option<Seq>,
    /// What the claim caused.
    pub fires: Option<FireCount>,
    /// The classes in which the words and those that were one with them are now.
    pub classes: Vec<Vec<String>>,
}
