//! A query as it was written: its words in their clauses, borrowed from the text.
//!
//! What is printed parses to the same query again. What the words mean, and that case does not
//! matter to them, is for [`crate::Filter`].

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};
use smallvec::SmallVec;

use crate::Dimension;
use crate::lex::{Keyword, is_bare, is_bare_action};

/// Words as written, without quotes and escapes; most lists have one or two.
pub type Terms<'a> = SmallVec<[Cow<'a, str>; 2]>;

/// The words of all clauses of one kind.
#[derive(Debug, Clone, Eq, Default)]
pub struct Clause<'a> {
    /// Any of these; empty means not asked about.
    pub any: Terms<'a>,
    /// None of these.
    pub none: Terms<'a>,
}

/// A query in AX.
#[derive(Debug, Clone, Eq, Default)]
pub struct Query<'a> {
    /// Words before the first clause. They have no `not`.
    pub subjects: Terms<'a>,
    /// Words after `is`.
    pub predicates: Clause<'a>,
    /// Words after `of`.
    pub contexts: Clause<'a>,
    /// Words after `by`.
    pub actors: Clause<'a>,
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
}

/// The query in its plainest form: clauses in the grammar's order, quotes only where needed.
impl fmt::Display for Query<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("", &self.subjects),
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
        if is_bare(term) && Keyword::of(term).is_none() {
            f.write_str(term)?;
        } else {
            write_quoted(f, term)?;
        }
    }
    Ok(())
}

/// Writes a word in the quotes that need fewer escapes.
fn write_quoted(f: &mut fmt::Formatter<'_>, term: &str) -> fmt::Result {
    let mark = if term.contains('\'') && !term.contains('"') { '"' } else { '\'' };
    let escaped = term.replace('\\', r"\\").replace(mark, &format!("\\{mark}"));
    write!(f, "{mark}{escaped}{mark}")
}

/// The keys of AX.md: the lists, `temporal`, `so_actions`, and `excluded` where there is something.
impl Serialize for Query<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Parsed<'a> {
            subjects: &'a [Cow<'a, str>],
            predicates: &'a [Cow<'a, str>],
            contexts: &'a [Cow<'a, str>],
            actors: &'a [Cow<'a, str>],
            #[serde(skip_serializing_if = "Excluded::is_empty")]
            excluded: Excluded<'a>,
            temporal: Option<()>,
            so_actions: &'a [Cow<'a, str>],
        }
        let excluded = Excluded {
            predicates: &self.predicates.none,
            contexts: &self.contexts.none,
            actors: &self.actors.none,
        };
        Parsed {
            subjects: &self.subjects,
            predicates: &self.predicates.any,
            contexts: &self.contexts.any,
            actors: &self.actors.any,
            excluded,
            temporal: None,
            so_actions: &self.so_actions,
        }
        .serialize(serializer)
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
    use crate::parse;
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
        (any_terms(), any_terms()).prop_map(|(any, none)| Clause { any, none })
    }

    prop_compose! {
        fn any_query()(
            subjects in any_terms(), predicates in any_clause(), contexts in any_clause(),
            actors in any_clause(), so_actions in any_terms(),
        ) -> Query<'static> {
            Query { subjects, predicates, contexts, actors, so_actions }
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
            text in "((is|of|by|not|and|so|since|where|') |[a-z, '\"\\\\*|#?]|\\PC){0,40}",
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
