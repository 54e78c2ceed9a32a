//! Questions, asked as the program asks them.

use std::sync::Arc;

use anyhow::Result;
use axwatch_ats::{AliasBook, Matches, Store};
use axwatch_query::Filter;

use crate::dataset::Dataset;

/// Claims that are shown when nobody says how many.
const NEWEST: usize = 100;

/// A store, and what the program keeps beside it from question to question.
pub struct Asker {
    /// The store that is asked.
    pub store: Arc<dyn Store>,
    aliases: AliasBook,
}

/// What the newest claims cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Claims that were read.
    pub read: u64,
    /// Those of them that were found.
    pub found: u64,
}

impl Asker {
    pub fn new(store: Arc<dyn Store>) -> Asker {
        Asker { store, aliases: AliasBook::new() }
    }

    /// Begins to answer a question that is asked when the dataset ends.
    pub async fn ask(&self, question: &str) -> Result<Matches> {
        let (filter, over) = Filter::asked(question, Dataset::end())?;
        let (head, aliases) = self.aliases.at_head(&*self.store).await?;
        Ok(Matches::new(&self.store, filter, over, aliases, head.next(), None))
    }

    /// The newest claims that a question finds.
    pub async fn newest(&self, question: &str) -> Result<Cost> {
        let (mut matches, mut found) = (self.ask(question).await?, 0);
        while found < NEWEST
            && let Some(rows) = matches.next(NEWEST - found).await?
        {
            found += rows.len();
        }
        Ok(Cost { read: matches.rows_read(), found: found as u64 })
    }

    /// The first claim that a question finds, with those of its page; whether there is one.
    pub async fn first(&self, question: &str) -> Result<bool> {
        let mut matches = self.ask(question).await?;
        while let Some(rows) = matches.next(usize::MAX).await? {
            if !rows.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
