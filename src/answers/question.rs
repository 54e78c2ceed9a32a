//! Questions in AX: what matches, how many, and how that was found.
//!
//! In: a text, and the moment at which it is asked. What it means is settled then and once: its times,
//! the words that are one to it, and the head of the log up to which it looks. Out: the claims that
//! match, as [`Matches`] gives them.
//!
//! Not here: what a query means (`axwatch_query`), how its answer is found (`axwatch_ats`), the claims
//! that come after the head (`super::arrivals`).

use std::time::{Duration, Instant};

use axwatch_ats::{Matches, aliases_before};
use axwatch_model::{Clock as _, Seq, SystemClock, Timestamp};
use axwatch_query::{Aliases, Dimension, Filter, Query, parse_at};

use super::{AnswerError, Answers};
use crate::views::{Asked, Explained, Walked, Widened};

impl Answers {
    /// Begins to answer a question that is asked now: with the claims before this number, or all.
    ///
    /// # Errors
    /// [`AnswerError`] for a text that is no AX.
    pub async fn ask(&self, text: &str, before: Option<Seq>) -> Result<Matches, AnswerError> {
        self.ask_at(text, before, now()).await
    }

    async fn ask_at(
        &self,
        text: &str,
        before: Option<Seq>,
        now: Timestamp,
    ) -> Result<Matches, AnswerError> {
        let (filter, over) = Filter::asked(text, now).map_err(mistaken)?;
        let (head, aliases) = self.aliases_at_head().await?;
        Ok(Matches::new(self.store(), filter, over, aliases, head.next(), before))
    }

    /// How many claims a question finds.
    ///
    /// # Errors
    /// [`AnswerError`] for a text that is no AX.
    pub async fn count(&self, text: &str, before: Option<Seq>) -> Result<u64, AnswerError> {
        let mut matches = self.ask(text, before).await?;
        let mut count = 0;
        while let Some(rows) = matches.next(usize::MAX).await? {
            count += rows.len() as u64;
        }
        Ok(count)
    }

    /// Answers a question and tells how, instead of what was found: at most `limit` claims, or all.
    ///
    /// # Errors
    /// [`AnswerError`] for a text that is no AX.
    pub async fn explain_question(
        &self,
        text: &str,
        before: Option<Seq>,
        limit: Option<usize>,
    ) -> Result<Explained, AnswerError> {
        let (begun, asked_at) = (Instant::now(), now());
        let query = parse_at(text, asked_at).map_err(mistaken)?;
        let mut matches = self.ask_at(text, before, asked_at).await?;
        let (mut found, limit) = (0, limit.unwrap_or(usize::MAX));
        while found < limit
            && let Some(rows) = matches.next(limit - found).await?
        {
            found += rows.len();
        }
        let explanation = Explanation { matches: &matches, query: &query };
        Ok(explanation.told(asked_at, found as u64, begun.elapsed()))
    }
}

/// A question to follow: what it means, and where its past ends.
pub(super) struct Followed {
    pub filter: Filter,
    pub aliases: Aliases,
    pub head: Seq,
}

impl Answers {
    /// Settles a question whose answer goes on beyond the head.
    ///
    /// # Errors
    /// [`AnswerError`] for a text that is no AX, or whose answer depends on claims to come.
    pub(super) async fn to_follow(&self, text: &str) -> Result<Followed, AnswerError> {
        let (filter, over) = Filter::asked(text, now()).map_err(mistaken)?;
        if over.is_some() {
            return Err(AnswerError::Invalid(OVER_NOT_FOLLOWED.to_owned()));
        }
        let head = self.store().head().await?;
        // Those at this very head: a change may have come meanwhile, and is applied in its place.
        let aliases = aliases_before(&**self.store(), head.next()).await?;
        Ok(Followed { filter, aliases, head })
    }
}

/// Why `over` and following do not go together.
pub const OVER_NOT_FOLLOWED: &str = "over adds up all claims that there are, so what it keeps cannot be told while more come; ask without following";

pub(super) fn now() -> Timestamp {
    SystemClock::new().now().wall
}

fn mistaken(mistakes: axwatch_query::Mistakes) -> AnswerError {
    AnswerError::Query(Box::new(mistakes))
}

/// How a question was answered.
struct Explanation<'a, 'q> {
    matches: &'a Matches,
    query: &'a Query<'q>,
}

impl Explanation<'_, '_> {
    /// All of it, once `found` claims were.
    fn told(&self, asked_at: Timestamp, found: u64, took: Duration) -> Explained {
        let matches = self.matches;
        let terms = |dimension: &Dimension| self.terms_in(*dimension);
        let postings = matches.walked().iter().map(|dimension| Walked {
            dimension: dimension.name().to_owned(),
            terms: terms(dimension),
        });
        Explained {
            query: self.query.to_string(),
            asked_at,
            conditions: self.conditions(),
            over: matches.over().map(|over| over.to_string()),
            postings: postings.collect(),
            rows_read: matches.rows_read(),
            rows_matched: matches.rows_matched(),
            rows_found: found,
            is_whole: matches.is_over(),
            took_ms: (took.as_secs_f64() * 1e6).round() / 1e3,
        }
    }

    /// How many words are looked for in a dimension.
    fn terms_in(&self, dimension: Dimension) -> u64 {
        let mut terms: Vec<&str> = Vec::new();
        for term in self.matches.filter().any(dimension) {
            terms.push(term);
            terms.extend(self.widened(dimension, term));
        }
        terms.sort_unstable();
        terms.dedup();
        terms.len() as u64
    }

    /// The other words that are one with this one.
    fn widened<'s>(&'s self, dimension: Dimension, term: &'s str) -> impl Iterator<Item = &'s str> {
        let class = match dimension.has_aliases() {
            true => self.matches.aliases().class_of(term),
            false => &[],
        };
        class.iter().map(|word| &**word).filter(move |word| *word != term)
    }

    /// All that has to hold, in the order of the grammar.
    fn conditions(&self) -> Vec<Asked> {
        let filter = self.matches.filter();
        let terms = Dimension::ALL.into_iter().flat_map(|dimension| {
            let any = self.on_terms(dimension, "any", filter.any(dimension));
            any.into_iter().chain(self.on_terms(dimension, "none", filter.none(dimension)))
        });
        let bounds = [("not_before", filter.time_start()), ("not_after", filter.time_end())];
        let times = bounds.into_iter().filter_map(|(rule, ms)| {
            let time = Timestamp::from_ms(ms?).ok()?.to_string();
            Some(asked("timestamp".to_owned(), rule, vec![time]))
        });
        let attributes = self.query.conditions.iter().map(|condition| {
            let value = condition.value.iter().map(|value| value.to_value().to_string());
            let field = format!("attributes.{}", condition.path.dotted());
            asked(field, condition.op.sign(), value.collect())
        });
        terms.chain(times).chain(attributes).collect()
    }

    fn on_terms(&self, dimension: Dimension, rule: &str, terms: &[Box<str>]) -> Option<Asked> {
        let widened = terms.iter().map(|term| Widened {
            term: term.to_string(),
            to: self.widened(dimension, term).map(str::to_owned).collect(),
        });
        let widened = widened.filter(|widened| !widened.to.is_empty()).collect();
        let terms: Vec<String> = terms.iter().map(ToString::to_string).collect();
        let asked = asked(dimension.name().to_owned(), rule, terms);
        (!asked.asked.is_empty()).then_some(Asked { widened, ..asked })
    }
}

fn asked(field: String, rule: &str, asked: Vec<String>) -> Asked {
    Asked { field, rule: rule.to_owned(), asked, widened: Vec::new() }
}
