//! What a watcher waits for or a question asks, checked and owned: the form that everyone uses.
//!
//! A filter comes from AX, whose terms are folded here once, or from structural lists, whose terms
//! stay as they are. OR within a list, AND across lists, an empty one is not asked about.

use std::borrow::Cow;

use axwatch_model::{Declared, StructuralFilter, Timestamp};
use smallvec::SmallVec;

use crate::attribute::AttributeTest;
use crate::{Dimension, Mistakes, Moment, Over, Query, fold, parse_at, parse_watcher};

/// How a filter's terms compare with an attestation's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// By [`fold`]: AX.
    Folded,
    /// Byte for byte: structural registrations and filters.
    Exact,
}

/// Terms in byte order, each once.
pub(crate) type TermSet = Box<[Box<str>]>;

/// One thing that has to hold. Lists are never empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Test {
    /// One of these terms is there.
    Any(Dimension, TermSet),
    /// None of these terms is there.
    None(Dimension, TermSet),
    /// The `timestamp` is this or later.
    NotBefore(Moment),
    /// The `timestamp` is this or earlier.
    NotAfter(Moment),
    /// A value among the attributes.
    Attribute(Box<AttributeTest>),
}

/// What has to hold for an attestation. [`crate::matches`] says whether it does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    mode: Mode,
    /// All of these, in the order of the grammar. Most filters have one or two.
    tests: SmallVec<[Test; 2]>,
}

impl Filter {
    /// What a query means for one claim. Its actions are no part of that, nor is its `over`, which is
    /// about many claims together ([`Query::over`]). Times stay relative to a now.
    #[must_use]
    pub fn from_ax(query: &Query<'_>) -> Filter {
        let folded =
            |terms: &[Cow<'_, str>]| term_set(terms.iter().map(|term| fold(term).into_owned()));
        let terms = Dimension::ALL.into_iter().flat_map(|dimension| {
            let any = folded(query.any(dimension)).map(|terms| Test::Any(dimension, terms));
            let none = folded(query.none(dimension)).map(|terms| Test::None(dimension, terms));
            any.into_iter().chain(none)
        });
        let times = query.temporal.iter().flat_map(|temporal| {
            let (start, end) = temporal.bounds();
            start.map(Test::NotBefore).into_iter().chain(end.map(Test::NotAfter))
        });
        let attributes = query
            .conditions
            .iter()
            .map(|condition| Test::Attribute(Box::new(AttributeTest::new(condition))));
        Filter { mode: Mode::Folded, tests: terms.chain(times).chain(attributes).collect() }
    }

    /// What a question means that is asked now, and how long its subjects have to have lasted (for
    /// [`crate::Tally`]). Times are fixed at this now.
    ///
    /// # Errors
    /// [`Mistakes`] of a text that is no AX, or whose times make no sense at this now.
    pub fn asked(text: &str, now: Timestamp) -> Result<(Filter, Option<Over>), Mistakes> {
        let query = parse_at(text, now)?;
        Ok((Filter::from_ax(&query).pinned(now), query.over()))
    }

    /// What structural lists mean.
    #[must_use]
    pub fn structural(lists: &StructuralFilter) -> Filter {
        let lists = [&lists.subjects, &lists.predicates, &lists.contexts, &lists.actors];
        let tests = Dimension::ALL.into_iter().zip(lists).filter_map(|(dimension, terms)| {
            term_set(terms.iter().cloned()).map(|terms| Test::Any(dimension, terms))
        });
        Filter { mode: Mode::Exact, tests: tests.collect() }
    }

    /// What a watcher's declaration means, and the actions that its `so` clauses name. Times stay
    /// relative: [`crate::matches`] reckons them at each attestation's `created_at`.
    ///
    /// # Errors
    /// [`Mistakes`] of a text that is no AX, or no watcher's.
    pub fn declared(declared: &Declared) -> Result<(Filter, Vec<String>), Mistakes> {
        match declared {
            Declared::Structural(lists) => Ok((Filter::structural(lists), Vec::new())),
            Declared::Ax(text) => {
                let query = parse_watcher(text)?;
                let actions = query.so_actions.iter().map(|action| action.to_string()).collect();
                Ok((Filter::from_ax(&query), actions))
            }
        }
    }

    /// The same filter, which holds only for a `timestamp` from `time_start` to `time_end` as well.
    ///
    /// Units: milliseconds since the Unix epoch; both ends belong to the range, `None` has no end.
    #[must_use]
    pub fn within(mut self, time_start: Option<i64>, time_end: Option<i64>) -> Filter {
        self.tests.extend(time_start.map(|ms| Test::NotBefore(Moment::fixed(ms))));
        self.tests.extend(time_end.map(|ms| Test::NotAfter(Moment::fixed(ms))));
        self
    }

    /// The same filter with its relative times fixed at this now. One that cannot be reckoned at it
    /// stays as it is, and the filter then holds for nothing that was appended now.
    #[must_use]
    pub fn pinned(mut self, now: Timestamp) -> Filter {
        for test in &mut self.tests {
            if let Test::NotBefore(moment) | Test::NotAfter(moment) = test
                && let Some(ms) = moment.at(now.ms())
            {
                *moment = Moment::fixed(ms);
            }
        }
        self
    }

    /// Whether it asks about nothing, so that every attestation would match.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// How its terms compare.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Each dimension of which an attestation must have one of some terms, with those terms.
    ///
    /// Shape: at most four, none with an empty list; terms in byte order, each once, folded in
    /// [`Mode::Folded`]. An attestation that has none of a list's terms does not match, so a search
    /// may begin with any of them.
    pub fn dimensions(&self) -> impl Iterator<Item = (Dimension, &[Box<str>])> {
        self.tests.iter().filter_map(|test| match test {
            Test::Any(dimension, terms) => Some((*dimension, &**terms)),
            _ => None,
        })
    }

    /// The terms of which an attestation must have one; empty means not asked about.
    #[must_use]
    pub fn any(&self, dimension: Dimension) -> &[Box<str>] {
        self.dimensions().find(|(asked, _)| *asked == dimension).map_or(&[], |(_, terms)| terms)
    }

    /// The terms of which an attestation must have none.
    #[must_use]
    pub fn none(&self, dimension: Dimension) -> &[Box<str>] {
        let of_dimension = |test| match test {
            &Test::None(asked, ref terms) if asked == dimension => Some(&**terms),
            _ => None,
        };
        self.tests.iter().find_map(of_dimension).unwrap_or_default()
    }

    /// The earliest `timestamp` that matches whatever now is, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_start(&self) -> Option<i64> {
        let starts = self.tests.iter().filter_map(|test| match test {
            Test::NotBefore(moment) => moment.as_fixed(),
            _ => None,
        });
        starts.max()
    }

    /// The latest `timestamp` that matches whatever now is, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_end(&self) -> Option<i64> {
        let ends = self.tests.iter().filter_map(|test| match test {
            Test::NotAfter(moment) => moment.as_fixed(),
            _ => None,
        });
        ends.min()
    }

    /// Whether the lists of [`Filter::dimensions`] are all it asks about: an attestation with a term
    /// of each matches, and needs no further test.
    #[must_use]
    pub fn is_terms_only(&self) -> bool {
        self.tests.iter().all(|test| matches!(test, Test::Any(..)))
    }

    /// All that has to hold, in the order of the grammar.
    pub(crate) fn tests(&self) -> &[Test] {
        &self.tests
    }
}

/// The terms as a set; `None` for no terms, which is no test.
fn term_set(terms: impl Iterator<Item = String>) -> Option<TermSet> {
    let mut terms: Vec<Box<str>> = terms.map(String::into_boxed_str).collect();
    terms.sort_unstable();
    terms.dedup();
    (!terms.is_empty()).then(|| terms.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(text: &str) -> (Filter, Vec<String>) {
        Filter::declared(&Declared::Ax(text.into())).unwrap()
    }

    #[test]
    fn ax_terms_are_folded_and_structural_ones_kept() {
        let (filter, actions) = declared("Bob ALICE bob is STRASSE so Notify");
        let terms: Vec<_> =
            filter.dimensions().map(|(dimension, terms)| (dimension, terms.join(" "))).collect();
        let expected = [(Dimension::Subject, "alice bob"), (Dimension::Predicate, "strasse")]
            .map(|(dimension, terms)| (dimension, terms.to_owned()));
        assert_eq!((terms, filter.mode()), (expected.to_vec(), Mode::Folded));
        assert_eq!(actions, ["Notify"]);

        let lists = StructuralFilter { actors: vec!["HR".into()], ..StructuralFilter::default() };
        let (filter, actions) = Filter::declared(&Declared::Structural(lists)).unwrap();
        assert_eq!(filter.any(Dimension::Actor), [Box::from("HR")]);
        assert_eq!((filter.mode(), actions.len()), (Mode::Exact, 0));
    }

    #[test]
    fn a_filter_knows_what_it_asks_about() {
        let nothing = Filter::structural(&StructuralFilter::default());
        let cases = [
            // (filter, asks about nothing, about terms only)
            (nothing.clone(), true, true),
            (declared("so notify").0, true, true),
            (declared("ALICE").0, false, true),
            (declared("is not draft").0, false, false),
            (declared("ALICE is not draft").0, false, false),
            (declared("ALICE since yesterday").0, false, false),
            (declared("since yesterday").0, false, false),
            (declared("ALICE where a = 1").0, false, false),
            (nothing.clone().within(Some(0), None), false, false),
            (nothing.within(None, Some(0)), false, false),
        ];
        for (filter, is_empty, is_terms_only) in cases {
            let found = (filter.is_empty(), filter.is_terms_only());
            assert_eq!(found, (is_empty, is_terms_only), "{filter:?}");
        }
    }

    #[test]
    fn a_watcher_has_no_over_and_no_range_that_is_always_empty() {
        let cases = [
            ("is a over 5y", "unexpected_token"),
            ("since tomorrow until yesterday", "empty_time_range"),
            ("since 99999999 years ago", "temporal_unresolvable"),
        ];
        for (text, kind) in cases {
            let mistakes = Filter::declared(&Declared::Ax(text.into())).unwrap_err();
            assert_eq!(serde_json::to_value(mistakes.first().kind).unwrap(), kind, "{text}");
        }
        // Empty or unresolvable at one now only: it may match at another.
        for text in ["since 2090-01-01 until now", "since 3000 years ago", "until in 5000 years"] {
            assert!(Filter::declared(&Declared::Ax(text.into())).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_question_has_its_times_fixed() {
        let now = Timestamp::from_ms(1_718_461_800_000).unwrap();
        let (filter, over) = Filter::asked("is a since yesterday until today", now).unwrap();
        assert_eq!(filter.time_start(), Some(1_718_375_400_000));
        assert_eq!((filter.time_end(), over), (Some(1_718_461_800_000), None));
        let (filter, over) = Filter::asked("over 5y", now).unwrap();
        assert!(filter.is_empty() && over.is_some());
        assert!(Filter::asked("since 2090-01-01 until now", now).is_err());
        assert!(Filter::asked("since 3000 years ago", now).is_err());
    }

    #[test]
    fn a_range_narrows_what_was_asked_before() {
        let filter = declared("since 1970-01-02").0.within(Some(5), Some(9)).within(None, Some(7));
        assert_eq!((filter.time_start(), filter.time_end()), (Some(86_400_000), Some(7)));
    }

    #[test]
    fn a_text_with_mistakes_is_no_filter() {
        let mistakes = Filter::declared(&Declared::Ax("ALICE is".into())).unwrap_err();
        assert_eq!(mistakes.first().position(), 6);
    }
}
