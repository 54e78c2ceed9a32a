//! Answers that come when their attempt is over: they change nothing, and the audit tells of them.
//!
//! An attempt is over when its plugin went away, its connection broke, its deadline passed, or it was
//! answered already. What may still be answered is remembered, so that each attempt gives one record at
//! most, and an answer to nothing that ever started gives none. When too many are remembered the oldest
//! are forgotten, and the audit does not tell of an answer to one of those. Nothing of this survives a
//! crash, and neither do the calls that could be answered.

use std::collections::VecDeque;

use axwatch_model::{JobId, JobNumber, Now};

use crate::outcome::Outcome;
use crate::record::{LateAnswer, Record};
use crate::state::State;

/// Attempts that are over without an answer and are remembered.
const UNANSWERED_MAX: usize = 4_096;
/// Attempts that were answered and are remembered, in case they are answered again.
const ANSWERED_MAX: usize = 1_024;

/// An attempt that is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Over {
    pub number: JobNumber,
    pub id: JobId,
    pub attempt: u32,
    pub incarnation: u64,
}

/// The attempts that are over, oldest first.
#[derive(Default)]
pub(crate) struct Late {
    unanswered: VecDeque<Over>,
    answered: VecDeque<Over>,
    /// Those of which nobody waits for an answer any more; whoever works on them may go on.
    given_up: VecDeque<Over>,
}

impl Late {
    /// An attempt is over now, and ended so.
    pub fn remember(&mut self, over: Over, outcome: &Outcome) {
        let unanswered = matches!(
            outcome,
            Outcome::Lost { .. } | Outcome::Retryable { missed_deadline: true, .. }
        );
        let (kept, max) = if unanswered {
            (&mut self.unanswered, UNANSWERED_MAX)
        } else {
            (&mut self.answered, ANSWERED_MAX)
        };
        if kept.len() == max {
            kept.pop_front();
        }
        kept.push_back(over);
    }

    /// Whether a process has yet to answer for an attempt of a job that is over.
    pub fn is_unanswered(&self, number: JobNumber, incarnation: u64) -> bool {
        let is_it = |over: &Over| (over.number, over.incarnation) == (number, incarnation);
        self.unanswered.iter().chain(&self.given_up).any(is_it)
    }

    /// Nobody waits any more for what comes of an attempt that is over.
    fn give_up(&mut self, over: Over) {
        if self.given_up.len() == UNANSWERED_MAX {
            self.given_up.pop_front();
        }
        self.given_up.push_back(over);
    }

    /// Forgets an attempt that is answered late, and says what it was.
    fn take(&mut self, number: JobNumber, attempt: u32, incarnation: u64) -> Option<Over> {
        let is_it = |over: &Over| {
            (over.number, over.attempt, over.incarnation) == (number, attempt, incarnation)
        };
        [&mut self.unanswered, &mut self.answered].into_iter().find_map(|kept| {
            let place = kept.iter().rposition(is_it)?;
            kept.remove(place)
        })
    }
}

impl State {
    /// Something came of an attempt that is not the current one of its job.
    pub(crate) fn answered_late(
        &mut self,
        number: JobNumber,
        attempt: u32,
        incarnation: u64,
        outcome: &Outcome,
        now: Now,
    ) {
        let Some(over) = self.late.take(number, attempt, incarnation) else { return };
        let outcome = match outcome {
            Outcome::Succeeded { .. } => "succeeded",
            Outcome::Retryable { .. } | Outcome::Permanent { .. } => "failed",
            Outcome::NotNow { .. } | Outcome::NoHandler { .. } => "not_now",
            Outcome::Lost { .. } => return self.late.give_up(over),
        };
        let leaf = self.record(&Record::LateAnswer(LateAnswer {
            at: now.wall,
            attempt,
            incarnation,
            job: over.id,
            outcome,
            r#type: "late_answer",
        }));
        self.note_leaf(number, leaf);
    }
}
