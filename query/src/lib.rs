//! AX, the language of watchers and questions: text in, meaning out, and an index over many meanings.
//!
//! A query goes one way: [`parse`] turns text into a [`Query`] or into every mistake in it, a
//! [`Filter`] is what a query or a structural registration means, [`matches_at`] decides whether it
//! holds for an attestation at some now, [`explain_at`] says why, and a [`WatcherIndex`] finds those of a
//! million filters that hold, without asking each. A [`Tally`] adds up what `over` asks of many claims
//! together. [`Aliases`] are words that are one. Everything here is pure: now is an argument, and the same input gives the same answer, on
//! any machine and at any time.
//!
//! A watcher's now is each attestation's `created_at` ([`Filter::declared`], [`matches()`]); a question's
//! is when it is asked ([`Filter::asked`], which fixes its times).
//!
//! ```
//! let query = axwatch_query::parse("ALICE BOB is author of GitHub is not draft").unwrap();
//! assert_eq!(query.predicates.none.as_slice(), ["draft"]);
//!
//! let mistakes = axwatch_query::parse("ALICE is of GitHub").unwrap_err();
//! assert_eq!(mistakes.to_string(), r#"at 6: expected a predicate after "is", found "of""#);
//! ```
//!
//! Not here: who owns a watcher and what a match leads to (`axwatch-core`), how a store narrows a
//! search (`axwatch-ats`), how answers are printed (the program).

mod aliases;
mod ast;
mod attribute;
mod columns;
mod dimension;
mod error;
mod eval;
mod filter;
mod fold;
mod index;
mod lex;
mod over;
mod parse;
mod time;

pub use aliases::{ALIAS_CLASS_MAX, ALIAS_WORDS_MAX, AliasChange, AliasChangeKind, Aliases};
pub use ast::{Clause, Query, Temporal, Terms, Time};
pub use attribute::{Comparison, Literal, Op, Path};
pub use dimension::Dimension;
pub use error::{Mistake, MistakeKind, Mistakes};
pub use eval::{Condition, Field, Rule, explain, explain_at, matches, matches_at};
pub use filter::{Filter, Mode};
pub use fold::fold;
pub use index::{Effort, FoundBy, IndexStats, ShapeStats, WatcherIndex};
pub use over::{Over, Tally, Unit};
pub use parse::{QUERY_BYTES_MAX, QUERY_TERMS_MAX, parse, parse_at, parse_watcher};
pub use time::Moment;
