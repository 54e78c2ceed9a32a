//! Claims that match a question, as they come: first the last of those that are there, then each new
//! one.
//!
//! The head of the log at the moment of the question divides the two, so nothing is told twice and
//! nothing is missed: what lies up to it is found as any answer is, newest first, of which only the
//! numbers are kept, and told from the oldest on; what lies after it is read on from there, a segment at
//! a time, whenever the engine says that the log has grown. A reader that falls behind reads more at
//! once.
//!
//! What the question means is settled when it is asked, but for the aliases: a change of them that comes
//! in meanwhile holds for the claims after it, as it does for watchers.

use std::sync::Arc;

use axwatch_ats::Matches;
use axwatch_engine::Heads;
use axwatch_model::{Seq, Stored};
use axwatch_query::{AliasChange, Aliases, Filter, matches};
use tokio::sync::watch;

use super::question::Followed;
use super::{AnswerError, Answers};

/// Claims that are read at once.
const SEGMENT_ROWS: usize = 200;

/// A reader of claims as they come.
pub struct Arrivals {
    answers: Arc<Answers>,
    heads: watch::Receiver<Heads>,
    filter: Filter,
    aliases: Aliases,
    past: Past,
    /// Aliases are those after this claim.
    settled: Seq,
    /// All up to this claim have been read, or are the past's.
    after: Seq,
}

/// What was there when the question was asked.
enum Past {
    /// Is looked for, from the newest on: at most `left` more.
    Sought { matches: Box<Matches>, left: usize, seqs: Vec<Seq> },
    /// Waits to be told; the next is the last of these.
    Found(Vec<Seq>),
}

impl Answers {
    /// Follows a question: its last `limit` claims, or all, oldest first, and then each that comes.
    ///
    /// # Errors
    /// [`AnswerError`] for a text that is no AX, or one with `over`.
    pub async fn arrivals(
        self: &Arc<Answers>,
        text: &str,
        limit: Option<usize>,
        heads: watch::Receiver<Heads>,
    ) -> Result<Arrivals, AnswerError> {
        let Followed { filter, aliases, head } = self.to_follow(text).await?;
        let (past, after) = match limit {
            // The log itself would be read: then from its beginning, which needs no numbers.
            None if filter.dimensions().next().is_none() => (Past::Found(Vec::new()), Seq(0)),
            limit => {
                let (filter, aliases) = (filter.clone(), Arc::new(aliases.clone()));
                let end = head.next();
                let matches = Matches::new(self.store(), filter, None, aliases, end, None);
                let (left, seqs) = (limit.unwrap_or(usize::MAX), Vec::new());
                (Past::Sought { matches: Box::new(matches), left, seqs }, head)
            }
        };
        let answers = Arc::clone(self);
        Ok(Arrivals { answers, heads, filter, aliases, past, settled: head, after })
    }
}

impl Arrivals {
    /// Whether there is more to tell at once.
    pub fn is_behind(&self) -> bool {
        let has_past = match &self.past {
            Past::Sought { .. } => true,
            Past::Found(seqs) => !seqs.is_empty(),
        };
        has_past || self.heads.borrow().seq > self.after
    }

    /// The next claims as JSON, oldest first; there may be none among what was looked at. Waits for them
    /// when all have been told. `None` when the engine has stopped.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, AnswerError> {
        match &mut self.past {
            Past::Sought { matches, left, seqs } => {
                let found = if *left > 0 { matches.next(*left).await? } else { None };
                match found {
                    Some(rows) => {
                        *left -= rows.len();
                        seqs.extend(rows.iter().map(|row| row.seq));
                    }
                    None => self.past = Past::Found(std::mem::take(seqs)),
                }
                Ok(Some(Vec::new()))
            }
            Past::Found(seqs) if !seqs.is_empty() => {
                let mut oldest = seqs.split_off(seqs.len().saturating_sub(SEGMENT_ROWS));
                oldest.reverse();
                let rows = self.answers.store().by_seqs(&oldest).await?;
                if seqs.is_empty() {
                    // Of a long past, the room is given back.
                    *seqs = Vec::new();
                }
                Ok(Some(rows.iter().map(Stored::to_json).collect()))
            }
            Past::Found(_) => self.newer().await,
        }
    }

    /// Waits until the log has grown, and reads on.
    async fn newer(&mut self) -> Result<Option<Vec<String>>, AnswerError> {
        while self.heads.borrow_and_update().seq <= self.after {
            if self.heads.changed().await.is_err() {
                return Ok(None);
            }
        }
        let rows = self.answers.store().read_after(self.after, SEGMENT_ROWS).await?;
        let mut lines = Vec::new();
        for row in &rows {
            // The times of the question are settled, so any now will do.
            if matches(&self.filter, &row.attestation, &self.aliases) {
                lines.push(row.to_json());
            }
            if row.seq > self.settled
                && let Some(change) = AliasChange::of(row)
            {
                self.aliases.apply(&change);
            }
            self.after = row.seq;
        }
        Ok(Some(lines))
    }
}
