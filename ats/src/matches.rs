//! The claims that match a question, newest first, a page at a time.
//!
//! In: a question whose times are fixed, the words that are one to it, and the head of the log up to which
//! it looks; so what comes in meanwhile changes nothing. Nothing is kept but the page. Only under `over`
//! the claims are gone through twice, because the last of them may decide about the first; what is kept
//! then is one sum a subject.
//!
//! Not here: what a query means (`axwatch_query`), how a page is found ([`Store::query`]).

use std::sync::Arc;

use axwatch_model::{Seq, Stored};
use axwatch_query::{Aliases, Dimension, Filter, Over, Tally};

use crate::store::{Question, Store, StoreError};

/// Claims of one page at most.
const PAGE_ROWS: usize = 200;

/// The claims that match a question, newest first.
pub struct Matches {
    store: Arc<dyn Store>,
    question: Question,
    over: Option<Over>,
    stage: Stage,
    /// Claims that the store read, and those that matched one time through.
    rows_read: u64,
    matched: u64,
    walked: Option<Vec<Dimension>>,
}

enum Stage {
    /// For the first time through all that match, to add up how long their subjects lasted. The answer
    /// itself begins before `before`.
    Adding {
        tally: Tally,
        before: Seq,
    },
    /// The answer: all that match, or of them those that the tally keeps.
    Giving(Option<Tally>),
    End,
}

impl Matches {
    /// The claims before `end` that match, of which those before `before` are the answer. Nothing is
    /// read yet.
    #[must_use]
    pub fn new(
        store: &Arc<dyn Store>,
        filter: Filter,
        over: Option<Over>,
        aliases: Arc<Aliases>,
        end: Seq,
        before: Option<Seq>,
    ) -> Matches {
        let before = before.unwrap_or(end).min(end);
        let (stage, begin) = match over {
            Some(over) => {
                let tally = Tally::new(over, &filter, Arc::clone(&aliases));
                (Stage::Adding { tally, before }, end)
            }
            None => (Stage::Giving(None), before),
        };
        let question = Question { filter, aliases, before: Some(begin), limit: PAGE_ROWS };
        let store = Arc::clone(store);
        Matches { store, question, over, stage, rows_read: 0, matched: 0, walked: None }
    }

    /// The next claims, at most `most`; `None` at the end. A page may be empty before it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next(&mut self, most: usize) -> Result<Option<Vec<Stored>>, StoreError> {
        match std::mem::replace(&mut self.stage, Stage::End) {
            Stage::End => Ok(None),
            Stage::Adding { mut tally, before } => {
                let (rows, is_last) = self.page(usize::MAX).await?;
                rows.iter().for_each(|row| tally.add(&row.attestation));
                self.matched += rows.len() as u64;
                self.stage = if is_last {
                    self.question.before = Some(before);
                    Stage::Giving(Some(tally))
                } else {
                    Stage::Adding { tally, before }
                };
                Ok(Some(Vec::new()))
            }
            Stage::Giving(None) => {
                let (rows, is_last) = self.page(most).await?;
                self.matched += rows.len() as u64;
                if !is_last {
                    self.stage = Stage::Giving(None);
                }
                Ok(Some(rows))
            }
            Stage::Giving(Some(tally)) => {
                // What the tally keeps of a page is not known beforehand.
                let (mut rows, mut is_last) = self.page(usize::MAX).await?;
                rows.retain(|row| tally.keeps(&row.attestation));
                if rows.len() > most {
                    rows.truncate(most);
                    is_last = false;
                    self.question.before = rows.last().map(|row| row.seq);
                }
                if !is_last {
                    self.stage = Stage::Giving(Some(tally));
                }
                Ok(Some(rows))
            }
        }
    }

    /// The next page of what matches, with at most so many claims, and whether it is the last.
    async fn page(&mut self, most: usize) -> Result<(Vec<Stored>, bool), StoreError> {
        self.question.limit = PAGE_ROWS.min(most);
        let page = self.store.query(&self.question).await?;
        self.rows_read += page.rows_read;
        self.walked.get_or_insert(page.walked);
        self.question.before = page.next;
        Ok((page.rows, page.next.is_none()))
    }

    /// What is asked.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.question.filter
    }

    /// The words that are one to it.
    #[must_use]
    pub fn aliases(&self) -> &Aliases {
        &self.question.aliases
    }

    /// How long the subjects have to have lasted.
    #[must_use]
    pub fn over(&self) -> Option<Over> {
        self.over
    }

    /// Claims that the store has read so far, those that did not match counted.
    #[must_use]
    pub fn rows_read(&self) -> u64 {
        self.rows_read
    }

    /// Claims that have matched so far; under `over` those that it does not keep counted.
    #[must_use]
    pub fn rows_matched(&self) -> u64 {
        self.matched
    }

    /// The dimensions whose terms led to them, as [`crate::Page::walked`]; empty before the first page.
    #[must_use]
    pub fn walked(&self) -> &[Dimension] {
        self.walked.as_deref().unwrap_or_default()
    }

    /// Whether all that there is has been given.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::End)
    }
}
