//! What a filter means: whether it holds for an attestation, and why.
//!
//! One function each tests a list and a time; [`matches`] asks them until one fails, [`explain`] asks
//! them all. Whatever finds matches faster ([`crate::WatcherIndex`], a store's postings) is held to
//! this by tests.
//!
//! A filter is told everything it needs when it is made, so there is no `now` here: a watcher's is the
//! attestation's own `created_at`.

use std::borrow::Cow;
use std::cell::OnceCell;

use axwatch_model::{Attestation, Timestamp};
use serde::Serialize;
use smallvec::SmallVec;

use crate::filter::Test;
use crate::{Dimension, Filter, Mode, fold};

/// Whether the filter holds for the attestation. This is the meaning of a filter.
#[must_use]
pub fn matches(filter: &Filter, attestation: &Attestation) -> bool {
    Claim::new(attestation).satisfies(filter)
}

/// Every condition of the filter, whether it holds for the attestation, and what decided it.
///
/// Shape: in the order of the grammar; the filter matches if all of them hold. A filter that asks
/// about nothing has none.
#[must_use]
pub fn explain(filter: &Filter, attestation: &Attestation) -> Vec<Condition> {
    let claim = Claim::new(attestation);
    filter.tests().iter().map(|test| claim.condition(filter.mode(), test)).collect()
}

/// One condition of a filter, as it went for one attestation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// What it asks about.
    pub field: Field,
    /// What it asks.
    pub rule: Rule,
    /// The filter's terms, folded in AX; of a time, that time.
    pub asked: Vec<String>,
    /// Whether it holds.
    pub held: bool,
    /// The attestation's own terms that decided it, as written: those that are among the asked ones,
    /// or all of the dimension if none is. Of a time, the attestation's.
    pub decided_by: Vec<String>,
}

/// What a condition asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// When it was claimed.
    Timestamp,
    /// Terms.
    #[serde(untagged)]
    Terms(Dimension),
}

/// What a condition asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// At least one of the asked terms.
    Any,
    /// None of the asked terms.
    None,
    /// At this time or later.
    NotBefore,
    /// At this time or earlier.
    NotAfter,
}

/// An attestation that is asked about, perhaps many times: each dimension is folded once, when a
/// folding filter first asks about it.
pub(crate) struct Claim<'a> {
    attestation: &'a Attestation,
    folded: [OnceCell<Folded<'a>>; 4],
}

type Folded<'a> = SmallVec<[Cow<'a, str>; 2]>;

impl<'a> Claim<'a> {
    pub(crate) fn new(attestation: &'a Attestation) -> Claim<'a> {
        Claim { attestation, folded: Default::default() }
    }

    /// Whether the filter holds.
    pub(crate) fn satisfies(&self, filter: &Filter) -> bool {
        filter.tests().iter().all(|test| self.holds(filter.mode(), test))
    }

    /// How many terms there are in a dimension, repeats counted.
    pub(crate) fn count(&self, dimension: Dimension) -> usize {
        dimension.terms(self.attestation).len()
    }

    /// A term in the form in which `mode` compares.
    pub(crate) fn term(&self, dimension: Dimension, mode: Mode, i: usize) -> &str {
        let terms = dimension.terms(self.attestation);
        match mode {
            Mode::Exact => &terms[i],
            Mode::Folded => {
                let fold_all = || terms.iter().map(|term| fold(term)).collect();
                &self.folded[dimension.index()].get_or_init(fold_all)[i]
            }
        }
    }

    fn holds(&self, mode: Mode, test: &Test) -> bool {
        let timestamp_ms = self.attestation.timestamp.ms();
        match test {
            Test::Any(dimension, terms) => self.hits(mode, *dimension, terms).next().is_some(),
            Test::None(dimension, terms) => self.hits(mode, *dimension, terms).next().is_none(),
            Test::NotBefore(ms) => timestamp_ms >= *ms,
            Test::NotAfter(ms) => timestamp_ms <= *ms,
        }
    }

    /// Which of the attestation's terms are among `asked`, a set in byte order.
    fn hits<'t>(
        &'t self,
        mode: Mode,
        dimension: Dimension,
        asked: &'t [Box<str>],
    ) -> impl Iterator<Item = usize> + 't {
        (0..self.count(dimension)).filter(move |&i| {
            let term = self.term(dimension, mode, i);
            asked.binary_search_by(|other| (**other).cmp(term)).is_ok()
        })
    }

    fn condition(&self, mode: Mode, test: &Test) -> Condition {
        let (field, rule, asked, decided_by) = match test {
            Test::Any(dimension, asked) => {
                let decided_by = self.deciding(mode, *dimension, asked);
                (Field::Terms(*dimension), Rule::Any, texts(asked), decided_by)
            }
            Test::None(dimension, asked) => {
                let decided_by = self.deciding(mode, *dimension, asked);
                (Field::Terms(*dimension), Rule::None, texts(asked), decided_by)
            }
            Test::NotBefore(ms) => (Field::Timestamp, Rule::NotBefore, time(*ms), self.time()),
            Test::NotAfter(ms) => (Field::Timestamp, Rule::NotAfter, time(*ms), self.time()),
        };
        Condition { field, rule, asked, held: self.holds(mode, test), decided_by }
    }

    /// The terms as written that are among `asked`, or all if none is.
    fn deciding(&self, mode: Mode, dimension: Dimension, asked: &[Box<str>]) -> Vec<String> {
        let terms = dimension.terms(self.attestation);
        let hits: Vec<String> =
            self.hits(mode, dimension, asked).map(|i| terms[i].clone()).collect();
        if hits.is_empty() { terms.to_vec() } else { hits }
    }

    fn time(&self) -> Vec<String> {
        vec![self.attestation.timestamp.to_string()]
    }
}

fn texts(terms: &[Box<str>]) -> Vec<String> {
    terms.iter().map(|term| term.to_string()).collect()
}

/// A bound as a time, or as its number where no time can be written.
fn time(ms: i64) -> Vec<String> {
    vec![Timestamp::from_ms(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use axwatch_model::StructuralFilter;

    /// `subjects predicates contexts actors`, the terms of each separated by commas, at 1,000 ms.
    fn claim(text: &str) -> Attestation {
        let mut lists = text.split(' ').map(|terms| terms.split(',').map(str::to_owned).collect());
        let mut list = || lists.next().expect("four lists");
        Attestation {
            id: "AS-1".parse().unwrap(),
            subjects: list(),
            predicates: list(),
            contexts: list(),
            actors: list(),
            timestamp: Timestamp::from_ms(1_000).unwrap(),
            created_at: Timestamp::from_ms(2_000).unwrap(),
            source: "test".into(),
            attributes: None,
            signature: None,
            signer_did: None,
        }
    }

    fn ax(text: &str) -> Filter {
        Filter::from_ax(&parse(text).unwrap())
    }

    #[test]
    fn or_within_a_list_and_across_lists() {
        let attestation = claim("ALICE,bob author,editor GitHub Straße");
        let cases = [
            ("alice", true),
            ("carol", false),
            ("carol BOB", true),
            ("alice is Author", true),
            ("alice is reader", false),
            ("is reader or editor of gitlab, GITHUB by STRASSE", true),
            ("is editor of gitlab", false),
            ("is not author", false),
            ("is not reader", true),
            ("is author is not editor", false),
            ("is author is not reader by not strasse", false),
            ("by not HR", true),
            ("auth", false),
            ("is 'author,editor'", false),
        ];
        for (query, expected) in cases {
            assert_eq!(matches(&ax(query), &attestation), expected, "{query}");
            let all_held = explain(&ax(query), &attestation).iter().all(|one| one.held);
            assert_eq!(all_held, expected, "{query}");
        }
    }

    #[test]
    fn structural_terms_compare_exactly() {
        let attestation = claim("ALICE handler:faulted _ hr");
        let cases =
            [("ALICE", "handler:faulted", true), ("alice", "", false), ("", "handler", false)];
        let list = |term: &str| if term.is_empty() { vec![] } else { vec![term.to_owned()] };
        for (subject, predicate, expected) in cases {
            let filter = Filter::structural(&StructuralFilter {
                subjects: list(subject),
                predicates: list(predicate),
                ..StructuralFilter::default()
            });
            assert_eq!(matches(&filter, &attestation), expected, "{subject} {predicate}");
        }
    }

    #[test]
    fn both_ends_of_a_time_range_belong_to_it() {
        let cases = [
            (None, None, true),
            (Some(1_000), Some(1_000), true),
            (Some(1_001), None, false),
            (None, Some(999), false),
            (Some(i64::MIN), Some(i64::MAX), true),
        ];
        for (start, end, expected) in cases {
            let filter = Filter::structural(&StructuralFilter::default()).within(start, end);
            assert_eq!(matches(&filter, &claim("a b c d")), expected, "{start:?} {end:?}");
        }
    }

    #[test]
    fn an_explanation_names_what_decided() {
        let filter = ax("ALICE Bob is not Draft of x").within(Some(2_000), None);
        let conditions = explain(&filter, &claim("BOB,carol draft,final y hr"));
        let found = serde_json::to_value(conditions).unwrap();
        let expected = serde_json::json!([
            {
                "field": "subject", "rule": "any", "asked": ["alice", "bob"],
                "held": true, "decided_by": ["BOB"],
            },
            {
                "field": "predicate", "rule": "none", "asked": ["draft"],
                "held": false, "decided_by": ["draft"],
            },
            { "field": "context", "rule": "any", "asked": ["x"], "held": false, "decided_by": ["y"] },
            {
                "field": "timestamp", "rule": "not_before", "asked": ["1970-01-01T00:00:02Z"],
                "held": false, "decided_by": ["1970-01-01T00:00:01Z"],
            },
        ]);
        assert_eq!(found, expected);
    }
}
