//! A query as it was written: its words in their clauses, borrowed from the text.
//!
//! What is printed parses to the same query again. What the words mean, and that case does not
//! matter to them, is for [`crate::Filter`].

use std::borrow::Cow;
use std::fmt;

use axwatch_model::Timestamp;
use serde::{Serialize, Serializer};
use smallvec::SmallVec;

use crate::Dimension;
use crate::attribute::{Comparison, quoted};
use crate::lex::{Keyword, is_bare, is_bare_action};
use crate::over::{Over, Unit};
use crate::time::{Moment, Point};

/// Words as written, without quotes and escapes; most lists have one or two.
pub type Terms<'a> = SmallVec<[Cow<'a, str>; 2]>;

/// The words of all clauses of one kind.
#[derive(Debug, Clone, Eq, Default)]
pub struct Clause<'a> {
    /// Any of these; empty means not asked about.
    pub any: Terms<'a>,
    /// None of these. Rare enough to take no room of its own.
    pub none: Vec<Cow<'a, str>>,
}

/// A time as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time<'a> {
    /// Its words, with single blanks, without quotes.
    pub(crate) words: Cow<'a, str>,
    pub(crate) point: Point,
}

impl Time<'_> {
    /// Its words, with single blanks, without quotes.
    #[must_use]
    pub fn words(&self) -> &str {
        &self.words
    }
}

/// A temporal clause.
#[derive(Debug, Clone, PartialEq)]
pub enum Temporal<'a> {
    /// Then or later.
    Since(Time<'a>),
    /// Then or earlier.
    Until(Time<'a>),
    /// On this UTC day.
    On(Time<'a>),
    /// From the one to the other, both included.
    Between(Time<'a>, Time<'a>),
    /// Not when, but how long.
    Over {
        /// Its words, with single blanks, without quotes.
        words: Cow<'a, str>,
        /// How long.
        over: Over,
    },
}

impl Temporal<'_> {
    /// The first and the last moment that it allows.
    pub(crate) fn bounds(&self) -> (Option<Moment>, Option<Moment>) {
        match self {
            Temporal::Since(time) => (Some(time.point.starts()), None),
            Temporal::Until(time) => (None, Some(time.point.ends())),
            Temporal::On(time) => time.point.day().unzip(),
            Temporal::Between(start, end) => (Some(start.point.starts()), Some(end.point.ends())),
            Temporal::Over { .. } => (None, None),
        }
    }

    fn keyword(&self) -> &'static str {
        match self {
            Temporal::Since(_) => "since",
            Temporal::Until(_) => "until",
            Temporal::On(_) => "on",
            Temporal::Between(..) => "between",
            Temporal::Over { .. } => "over",
        }
    }

    fn words(&self) -> Vec<&str> {
        match self {
            Temporal::Since(time) | Temporal::Until(time) | Temporal::On(time) => {
                vec![time.words()]
            }
            Temporal::Between(start, end) => vec![start.words(), end.words()],
            Temporal::Over { words, .. } => vec![words],
        }
    }

    /// The bounds as JSON has them: the end of a day is the start of the next.
    fn range_at(&self, now_ms: i64) -> (Option<i64>, Option<i64>) {
        let (start, end) = self.bounds();
        let beyond = i64::from(matches!(self, Temporal::On(_)));
        let at = |moment: Option<Moment>| moment.and_then(|moment| moment.at(now_ms));
        (at(start), at(end).map(|ms| ms + beyond))
    }
}

/// A query in AX.
#[derive(Debug, Clone, Default)]
pub struct Query<'a> {
    /// Words before the first clause. They have no `not`.
    pub subjects: Terms<'a>,
    /// Words after `is`.
    pub predicates: Clause<'a>,
    /// Words after `of`.
    pub contexts: Clause<'a>,
    /// Words after `by`.
    pub actors: Clause<'a>,
    /// `since`, `until`, `on` and `between`, of which all have to hold; or one `over`.
    pub temporal: SmallVec<[Temporal<'a>; 1]>,
    /// The conditions after `where`, of which all have to hold.
    pub conditions: Vec<Comparison<'a>>,
    /// Words after `so`: what to do with what is found.
    pub so_actions: Terms<'a>,
}

// Written out, because the derived ones compare only queries that borrow from one text.
impl<'b> PartialEq<Clause<'b>> for Clause<'_> {
    fn eq(&self, other: &Clause<'b>) -> bool {
        self.any == other.any && self.none == other.none
    }
}

impl<'b> PartialEq<Query<'b>> for Query<'_> {
    fn eq(&self, other: &Query<'b>) -> bool {
        self.subjects == other.subjects
            && self.predicates == other.predicates
            && self.contexts == other.contexts
            && self.actors == other.actors
            && self.temporal.as_slice() == other.temporal.as_slice()
            && self.conditions == other.conditions
            && self.so_actions == other.so_actions
    }
}

impl<'a> Query<'a> {
    /// The words wanted in this dimension.
    #[must_use]
    pub fn any(&self, dimension: Dimension) -> &[Cow<'a, str>] {
        match dimension {
            Dimension::Subject => &self.subjects,
            Dimension::Predicate => &self.predicates.any,
            Dimension::Context => &self.contexts.any,
            Dimension::Actor => &self.actors.any,
        }
    }

    /// The words excluded in this dimension.
    #[must_use]
    pub fn none(&self, dimension: Dimension) -> &[Cow<'a, str>] {
        match dimension {
            Dimension::Subject => &[],
            Dimension::Predicate => &self.predicates.none,
            Dimension::Context => &self.contexts.none,
            Dimension::Actor => &self.actors.none,
        }
    }

    /// How long the subjects have to have lasted, if the query asks that.
    #[must_use]
    pub fn over(&self) -> Option<Over> {
        self.temporal.iter().find_map(|temporal| match temporal {
            Temporal::Over { over, .. } => Some(*over),
            _ => None,
        })
    }

    /// The query as data, with its times at this now; see [`crate::parse_at`].
    ///
    /// Shape: an object with the keys of the language's page. A time that cannot be reckoned at this
    /// now is null.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> impl Serialize {
        QueryAt { query: self, now_ms: now.ms() }
    }
}

/// The query in its plainest form: clauses in the grammar's order, quotes only where needed.
impl fmt::Display for Query<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("", self.subjects.as_slice()),
            ("is", &self.predicates.any),
            ("is not", &self.predicates.none),
            ("of", &self.contexts.any),
            ("of not", &self.contexts.none),
            ("by", &self.actors.any),
            ("by not", &self.actors.none),
        ];
        let mut blank = "";
        for (keyword, terms) in lists {
            write_list(f, &mut blank, keyword, terms, is_bare)?;
        }
        for temporal in &self.temporal {
            write!(f, "{blank}{}", temporal.keyword())?;
            blank = " ";
            for (i, words) in temporal.words().into_iter().enumerate() {
                f.write_str(if i > 0 { " and " } else { " " })?;
                write_word(f, words, is_bare)?;
            }
        }
        for (i, condition) in self.conditions.iter().enumerate() {
            write!(f, "{blank}{} {condition}", if i > 0 { "and" } else { "where" })?;
            blank = " ";
        }
        write_list(f, &mut blank, "so", &self.so_actions, is_bare_action)
    }
}

/// Writes a clause unless it is empty; `blank` goes before each word but the query's first.
fn write_list(
    f: &mut fmt::Formatter<'_>,
    blank: &mut &'static str,
    keyword: &str,
    terms: &[Cow<'_, str>],
    is_bare: fn(&str) -> bool,
) -> fmt::Result {
    if !terms.is_empty() && !keyword.is_empty() {
        write!(f, "{blank}{keyword}")?;
        *blank = " ";
    }
    for term in terms {
        f.write_str(blank)?;
        *blank = " ";
        write_word(f, term, is_bare)?;
    }
    Ok(())
}

/// Writes a word, in quotes only where it needs them.
fn write_word(f: &mut fmt::Formatter<'_>, word: &str, is_bare: fn(&str) -> bool) -> fmt::Result {
    if is_bare(word) && Keyword::of(word).is_none() {
        f.write_str(word)
    } else {
        f.write_str(&quoted(word))
    }
}

/// A query and the now at which its times are reckoned.
struct QueryAt<'q, 'a> {
    query: &'q Query<'a>,
    now_ms: i64,
}

impl Serialize for QueryAt<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Parsed<'a, 'q> {
            subjects: &'a [Cow<'a, str>],
            predicates: &'a [Cow<'a, str>],
            contexts: &'a [Cow<'a, str>],
            actors: &'a [Cow<'a, str>],
            #[serde(skip_serializing_if = "Excluded::is_empty")]
            excluded: Excluded<'a>,
            temporal: Option<TemporalJson<'a>>,
            #[serde(rename = "where", skip_serializing_if = "<[_]>::is_empty")]
            conditions: &'a [Comparison<'q>],
            so_actions: &'a [Cow<'a, str>],
        }
        let query = self.query;
        let excluded = Excluded {
            predicates: &query.predicates.none,
            contexts: &query.contexts.none,
            actors: &query.actors.none,
        };
        Parsed {
            subjects: &query.subjects,
            predicates: &query.predicates.any,
            contexts: &query.contexts.any,
            actors: &query.actors.any,
            excluded,
            temporal: TemporalJson::of(&query.temporal, self.now_ms),
            conditions: &query.conditions,
            so_actions: &query.so_actions,
        }
        .serialize(serializer)
    }
}

/// The key `temporal`: one clause with its words, or what several have in common.
#[derive(Serialize)]
#[serde(untagged)]
enum TemporalJson<'a> {
    Over { kind: &'static str, expr: [&'a str; 1], value: f64, unit: Unit },
    One { kind: &'static str, expr: Vec<&'a str>, start_ms: Option<i64>, end_ms: Option<i64> },
    Several { kind: &'static str, start_ms: Option<i64>, end_ms: Option<i64> },
}

impl<'a> TemporalJson<'a> {
    fn of(clauses: &'a [Temporal<'a>], now_ms: i64) -> Option<TemporalJson<'a>> {
        let ranges = || clauses.iter().map(|clause| clause.range_at(now_ms));
        Some(match clauses {
            [] => return None,
            [Temporal::Over { words, over }] => TemporalJson::Over {
                kind: "over",
                expr: [words],
                value: over.value,
                unit: over.unit,
            },
            [one] => {
                let (start_ms, end_ms) = one.range_at(now_ms);
                TemporalJson::One { kind: one.keyword(), expr: one.words(), start_ms, end_ms }
            }
            _ => TemporalJson::Several {
                kind: "range",
                start_ms: ranges().filter_map(|(start, _)| start).max(),
                end_ms: ranges().filter_map(|(_, end)| end).min(),
            },
        })
    }
}

#[derive(Serialize)]
struct Excluded<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    predicates: &'a [Cow<'a, str>],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    contexts: &'a [Cow<'a, str>],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    actors: &'a [Cow<'a, str>],
}

impl Excluded<'_> {
    fn is_empty(&self) -> bool {
        self.predicates.is_empty() && self.contexts.is_empty() && self.actors.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Literal, Op, Path, parse};
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn a_query_is_printed_in_its_plainest_form() {
        let cases = [
            ("alice,BOB ARE author;editor", "alice BOB is author editor"),
            ("is a of x is b from y", "is a b of x y"),
            ("is not 'b' is a via not c", "is a is not b by not c"),
            ("'is' is 'New York' 'it\\'s'", "'is' is 'New York' \"it's\""),
            (r#"is "a'b\"c\\""#, r#"is 'a\'b"c\\'"#),
            (
                "until 'Last  week' of c since 2024-01-15 BETWEEN '2024-01-15 14:30' And today",
                "of c until 'Last week' since 2024-01-15 between '2024-01-15 14:30' and today",
            ),
            ("over 5  Years is a", "is a over '5 Years'"),
            (
                "where attributes.a=1e2 and 'b c'.is exists where x contains \"it's\" is a",
                "is a where a = 1e2 and 'b c'.'is' exists and x contains \"it's\"",
            ),
            ("where a = TRUE and b = Null", "where a = true and b = null"),
            ("is a so notify {{x}}, 'and' therefore \"b c\"", "is a so notify {{x}}, 'and' 'b c'"),
        ];
        for (query, printed) in cases {
            assert_eq!(parse(query).unwrap().to_string(), printed, "{query}");
        }
    }

    fn any_terms() -> impl Strategy<Value = Terms<'static>> {
        let keyword = prop::sample::select(vec!["is", "AND", "so", "not", "where", "or", "over"]);
        let term = prop_oneof![
            "[a-zA-Z_山é-]{1,6}".prop_map(Cow::Owned),
            keyword.prop_map(Cow::Borrowed),
            "([ -~\n]|\\PC){1,8}".prop_map(Cow::Owned),
        ];
        vec(term, 0..4).prop_map(Terms::from_vec)
    }

    fn any_clause() -> impl Strategy<Value = Clause<'static>> {
        (any_terms(), any_terms()).prop_map(|(any, none)| Clause { any, none: none.into_vec() })
    }

    fn any_condition() -> impl Strategy<Value = Comparison<'static>> {
        let key = prop_oneof![
            "[a-z#.'é]{1,4}",
            prop::sample::select(vec!["attributes", "exists", "IS", "a b"]).prop_map(str::to_owned),
        ];
        let path = vec(key.prop_map(Cow::Owned), 1..4).prop_map(|keys| Path(keys.into()));
        let value = prop_oneof![
            any::<i64>().prop_map(|number| Literal::Number(number.to_string().into())),
            "-?[1-9][0-9]{0,3}\\.[0-9]{1,3}([eE][+-]?[0-9]{1,2})?"
                .prop_map(|number| Literal::Number(number.into())),
            "([ -~\n]|\\PC){1,6}".prop_map(|text| Literal::Text(text.into())),
            any::<bool>().prop_map(Literal::Truth),
            Just(Literal::Null),
        ];
        let signs = prop::sample::select(Op::SIGNS.map(|(_, op)| op).to_vec());
        let op = prop_oneof![signs, Just(Op::Contains), Just(Op::Exists)];
        (path, op, value).prop_map(|(path, op, value)| Comparison {
            path,
            op,
            value: Some(value).filter(|_| op != Op::Exists),
        })
    }

    fn any_temporal() -> impl Strategy<Value = SmallVec<[Temporal<'static>; 1]>> {
        let clauses = prop::sample::subsequence(
            vec![
                "since yesterday",
                "until '2099-01-15 14:30+01:00'",
                "between 3 days ago and today",
                "on this Wednesday",
                "since 'LAST  MON'",
                "until 'in 3 weeks'",
                "since 90m",
            ],
            0..4,
        );
        let range = clauses.prop_filter_map("empty", |clauses| {
            Some(parse(clauses.join(" ").leak()).ok()?.temporal)
        });
        let over = prop::sample::select(vec!["over 5y", "over '1.5 Months'", "over 3 d"]);
        prop_oneof![4 => range, 1 => over.prop_map(|over| parse(over).unwrap().temporal)]
    }

    prop_compose! {
        fn any_query()(
            subjects in any_terms(), predicates in any_clause(), contexts in any_clause(),
            actors in any_clause(), temporal in any_temporal(),
            conditions in vec(any_condition(), 0..3), so_actions in any_terms(),
        ) -> Query<'static> {
            Query { subjects, predicates, contexts, actors, temporal, conditions, so_actions }
        }
    }

    fn check_print(query: &Query<'_>) -> Result<(), TestCaseError> {
        let printed = query.to_string();
        let again = parse(&printed);
        prop_assert!(
            again.as_ref().is_ok_and(|again| again == query),
            "{} is {:?}",
            printed,
            again
        );
        Ok(())
    }

    proptest! {
        /// Whatever words a query holds, its print means them.
        #[test]
        fn what_is_printed_parses_to_the_same(query in any_query()) {
            prop_assume!(query != Query::default());
            check_print(&query)?;
        }

        /// Any text at all is a query that prints and parses again, or mistakes within it.
        #[test]
        fn any_text_parses_or_says_where_not(
            text in "((is|of|by|not|and|or|so|since|until|on|between|over|where|exists|contains|yesterday|today|last|monday|ago|3|days|5y|2024-06-15|T10:00|a\\.b|true|=|!=|') |[a-z, '\"\\\\*|#?=<>!.]|\\PC){0,40}",
        ) {
            match parse(&text) {
                Ok(query) => check_print(&query)?,
                Err(mistakes) => {
                    for mistake in mistakes.all() {
                        prop_assert!(text.get(mistake.span.clone()).is_some(), "{:?}", mistake);
                    }
                    prop_assert!(mistakes.all().is_sorted_by_key(|mistake| mistake.position()));
                    prop_assert!(!mistakes.render(&text).is_empty());
                }
            }
        }
    }
}
