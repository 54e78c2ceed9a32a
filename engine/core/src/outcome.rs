//! How an attempt ended, in the core's words. The wire's many ways to fail are sorted into these at
//! the outermost edge, so that what follows from each is decided in one place.

use std::sync::Arc;
use std::time::Duration;

use crate::event::JobEntry;

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// What became of it.
    pub outcome: Outcome,
    /// Whether the answer came within half of the attempt's deadline: a sign that the plugin has room.
    pub quick: bool,
    /// How far the plugin said it came, and of how much.
    pub progress: Option<(i32, i32)>,
    /// What the attempt cost, in all. An amount that is none is left out.
    pub cost: Option<f64>,
    /// What it had to say, besides what it said while it ran.
    pub entries: Vec<JobEntry>,
}

impl Ended {
    /// An end about which nothing but its outcome is known.
    #[must_use]
    pub fn bare(outcome: Outcome) -> Ended {
        Ended { outcome, quick: false, progress: None, cost: None, entries: Vec::new() }
    }
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done.
    Succeeded {
        /// What the plugin gave; `None` when nothing, or more than is kept.
        result: Option<Arc<[u8]>>,
    },
    /// It failed, and the same call may succeed later.
    Retryable {
        /// What the plugin said.
        error: String,
        /// The deadline passed without an answer.
        missed_deadline: bool,
    },
    /// It failed, and would fail again.
    Permanent {
        /// What the plugin said.
        error: String,
    },
    /// The plugin asked to come back later. Burns no attempt.
    NotNow {
        /// How much later; the plugin did not say when `None`.
        after: Option<Duration>,
        /// What the plugin said.
        error: String,
        /// It said so because it has too much to do (RESOURCE_EXHAUSTED).
        overloaded: bool,
    },
    /// The running process does not have the handler (any more); the job waits until one does.
    NoHandler {
        /// What the plugin said.
        error: String,
    },
    /// The connection or the process went away under it: nobody knows how far it came.
    Lost {
        /// What was seen.
        error: String,
    },
}
