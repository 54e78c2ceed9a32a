//! What a filter means: whether it holds for an attestation, and why.
//!
//! One function each tests a list, a time and an attribute; [`matches_at`] asks them until one fails,
//! [`explain_at`] asks them all. Whatever finds matches faster ([`crate::WatcherIndex`], a store's
//! postings) is held to this by tests.
//!
//! Now is an argument, because `since yesterday` needs one. For a watcher it is the attestation's own
//! `created_at`, so that a match is the same whether it is found live, while catching up or in a replay:
//! [`matches`] and [`explain`] do that. A question's filter has its times fixed when it is asked
//! ([`Filter::asked`]), and then every now gives the same answer.
//!
//! Aliases are an argument for the same reason. To a folded filter a claim's subjects, contexts and
//! actors count as all words that are one with them; to an exact one, and in predicates, as themselves.

use std::borrow::Cow;
use std::cell::OnceCell;

use axwatch_model::{Attestation, Attributes, Timestamp};
use serde::{Serialize, Serializer};
use serde_json::Value;
use smallvec::SmallVec;

use crate::filter::Test;
use crate::{Aliases, Dimension, Filter, Mode, Moment, Op, attribute, fold};

/// Whether the filter holds for the attestation at this now, under these aliases. This is the meaning
/// of a filter.
///
/// A time that cannot be reckoned at this now holds for nothing.
#[must_use]
pub fn matches_at(
    filter: &Filter,
    attestation: &Attestation,
    now: Timestamp,
    aliases: &Aliases,
) -> bool {
    Claim::at(attestation, now, aliases).satisfies(filter)
}

/// Whether a watcher's filter holds for the attestation: at the moment when it was appended, and under
/// the aliases that were in force at its number.
#[must_use]
pub fn matches(filter: &Filter, attestation: &Attestation, aliases: &Aliases) -> bool {
    matches_at(filter, attestation, attestation.created_at, aliases)
}

/// Every condition of the filter, whether it holds for the attestation at this now and under these
/// aliases, and what decided it.
///
/// Shape: in the order of the grammar; the filter matches if all of them hold. A filter that asks
/// about nothing has none.
#[must_use]
pub fn explain_at(
    filter: &Filter,
    attestation: &Attestation,
    now: Timestamp,
    aliases: &Aliases,
) -> Vec<Condition> {
    let claim = Claim::at(attestation, now, aliases);
    filter.tests().iter().map(|test| claim.condition(filter.mode(), test)).collect()
}

/// Every condition of a watcher's filter, as [`explain_at`], at the moment when the attestation was
/// appended.
#[must_use]
pub fn explain(filter: &Filter, attestation: &Attestation, aliases: &Aliases) -> Vec<Condition> {
    explain_at(filter, attestation, attestation.created_at, aliases)
}

/// One condition of a filter, as it went for one attestation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// What it asks about.
    pub field: Field,
    /// What it asks.
    pub rule: Rule,
    /// The filter's terms, folded in AX; of a time, that time at the now that was asked for, none if
    /// it cannot be reckoned; of an attribute, the value as JSON, none under `exists`.
    pub asked: Vec<String>,
    /// Whether it holds.
    pub held: bool,
    /// What decided it. The attestation's own terms, as written: those that are among the asked ones,
    /// or all of the dimension if none is. Of a time, the attestation's. Of an attribute, the value that
    /// stands there as JSON, none if nothing does.
    pub decided_by: Vec<String>,
    /// Of the terms that decided, those that are among the asked ones only by an alias: the term as
    /// written, and the first asked one that is one with it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_alias: Vec<(String, String)>,
}

/// What a condition asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// When it was claimed.
    Timestamp,
    /// Terms.
    Terms(Dimension),
    /// The value under this path of the attributes.
    Attribute(String),
}

/// `timestamp`, the dimension's name, or `attributes.` and the path.
impl Serialize for Field {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Field::Timestamp => serializer.serialize_str("timestamp"),
            Field::Terms(dimension) => serializer.serialize_str(dimension.name()),
            Field::Attribute(path) => {
                serializer.collect_str(&format_args!("{}.{path}", attribute::ROOT))
            }
        }
    }
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
    /// A comparison with the asked value: `=`, `contains` …
    #[serde(untagged)]
    Value(Op),
}

/// An attestation that is asked about at one now, perhaps many times: each dimension is folded once,
/// and the attributes are read once, when a filter first asks about them.
pub(crate) struct Claim<'a> {
    attestation: &'a Attestation,
    now_ms: i64,
    aliases: &'a Aliases,
    folded: [OnceCell<Folded<'a>>; 4],
    attributes: OnceCell<Value>,
}

/// The terms of a dimension folded, in their order; behind them the words that are one with them.
type Folded<'a> = SmallVec<[Cow<'a, str>; 2]>;

impl<'a> Claim<'a> {
    pub(crate) fn at(
        attestation: &'a Attestation,
        now: Timestamp,
        aliases: &'a Aliases,
    ) -> Claim<'a> {
        Claim {
            attestation,
            now_ms: now.ms(),
            aliases,
            folded: Default::default(),
            attributes: OnceCell::new(),
        }
    }

    /// Whether the filter holds.
    pub(crate) fn satisfies(&self, filter: &Filter) -> bool {
        filter.tests().iter().all(|test| self.holds(filter.mode(), test))
    }

    /// How many terms there are in a dimension to `mode`, repeats counted.
    pub(crate) fn count(&self, dimension: Dimension, mode: Mode) -> usize {
        match mode {
            Mode::Exact => dimension.terms(self.attestation).len(),
            Mode::Folded => self.folded(dimension).len(),
        }
    }

    /// A term in the form in which `mode` compares.
    pub(crate) fn term(&self, dimension: Dimension, mode: Mode, i: usize) -> &str {
        match mode {
            Mode::Exact => &dimension.terms(self.attestation)[i],
            Mode::Folded => &self.folded(dimension)[i],
        }
    }

    fn folded(&self, dimension: Dimension) -> &Folded<'a> {
        self.folded[dimension.index()].get_or_init(|| {
            let own = dimension.terms(self.attestation).iter().map(|term| fold(term));
            let mut folded: Folded<'a> = own.collect();
            if self.aliases.is_empty() || !dimension.has_aliases() {
                return folded;
            }
            // Each class once, and of its words those that are not here themselves.
            let count = folded.len();
            for i in 0..count {
                let class = self.aliases.class_of(&folded[i]);
                let is_here = |word: &str| folded[..count].iter().any(|own| own == word);
                if folded[..i].iter().any(|own| class.iter().any(|word| **word == **own)) {
                    continue;
                }
                let others: Folded<'a> = class
                    .iter()
                    .filter(|word| !is_here(word))
                    .map(|word| Cow::Borrowed(&**word))
                    .collect();
                folded.extend(others);
            }
            folded
        })
    }

    /// Whether one of a filter's tests holds.
    pub(crate) fn holds(&self, mode: Mode, test: &Test) -> bool {
        let timestamp_ms = self.timestamp_ms();
        match test {
            Test::Any(dimension, terms) => self.hits(mode, *dimension, terms).next().is_some(),
            Test::None(dimension, terms) => self.hits(mode, *dimension, terms).next().is_none(),
            Test::NotBefore(start) => start.at(self.now_ms).is_some_and(|ms| timestamp_ms >= ms),
            Test::NotAfter(end) => end.at(self.now_ms).is_some_and(|ms| timestamp_ms <= ms),
            Test::Attribute(test) => test.holds(self.attributes()),
        }
    }

    /// When it was claimed, in milliseconds since the Unix epoch.
    pub(crate) fn timestamp_ms(&self) -> i64 {
        self.attestation.timestamp.ms()
    }

    /// How many milliseconds after now it was claimed; mostly below 0.
    pub(crate) fn after_now_ms(&self) -> i64 {
        self.timestamp_ms() - self.now_ms
    }

    /// Now, in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// The attributes as they were given.
    pub(crate) fn attributes_given(&self) -> Option<&'a Attributes> {
        self.attestation.attributes.as_ref()
    }

    /// The attributes; `null`, under which nothing stands, where there are none.
    fn attributes(&self) -> &Value {
        let attributes = self.attestation.attributes.as_ref();
        self.attributes.get_or_init(|| attributes.map_or(Value::Null, Attributes::to_value))
    }

    /// Which of the attestation's terms are among `asked`, a set in byte order.
    fn hits<'t>(
        &'t self,
        mode: Mode,
        dimension: Dimension,
        asked: &'t [Box<str>],
    ) -> impl Iterator<Item = usize> + 't {
        (0..self.count(dimension, mode)).filter(move |&i| {
            let term = self.term(dimension, mode, i);
            asked.binary_search_by(|other| (**other).cmp(term)).is_ok()
        })
    }

    fn condition(&self, mode: Mode, test: &Test) -> Condition {
        let mut by_alias = Vec::new();
        let (field, rule, asked, decided_by) = match test {
            Test::Any(dimension, asked) | Test::None(dimension, asked) => {
                let rule = if matches!(test, Test::Any(..)) { Rule::Any } else { Rule::None };
                let (decided_by, aliased) = self.deciding(mode, *dimension, asked);
                by_alias = aliased;
                (Field::Terms(*dimension), rule, texts(asked), decided_by)
            }
            Test::NotBefore(start) => {
                (Field::Timestamp, Rule::NotBefore, self.moment(*start), self.time())
            }
            Test::NotAfter(end) => {
                (Field::Timestamp, Rule::NotAfter, self.moment(*end), self.time())
            }
            Test::Attribute(test) => {
                let asked = Some(&test.value).filter(|_| test.op != Op::Exists);
                let found = test.find(self.attributes());
                let rule = Rule::Value(test.op);
                (Field::Attribute(test.path()), rule, json(asked), json(found))
            }
        };
        Condition { field, rule, asked, held: self.holds(mode, test), decided_by, by_alias }
    }

    /// The terms as written that are among `asked`, or all if none is; and those that are only by an
    /// alias, with an asked one.
    fn deciding(
        &self,
        mode: Mode,
        dimension: Dimension,
        asked: &[Box<str>],
    ) -> (Vec<String>, Vec<(String, String)>) {
        let is_asked = |word: &str| asked.binary_search_by(|other| (**other).cmp(word)).is_ok();
        let (mut hits, mut by_alias) = (Vec::new(), Vec::new());
        let terms = dimension.terms(self.attestation);
        for (i, term) in terms.iter().enumerate() {
            let own = self.term(dimension, mode, i);
            if is_asked(own) {
                hits.push(term.clone());
            } else if let Some(one) = self.others(dimension, mode, own).find(|word| is_asked(word))
            {
                hits.push(term.clone());
                by_alias.push((term.clone(), one.to_owned()));
            }
        }
        if hits.is_empty() { (terms.to_vec(), by_alias) } else { (hits, by_alias) }
    }

    /// The words that are one with this one to `mode`.
    fn others(
        &self,
        dimension: Dimension,
        mode: Mode,
        word: &str,
    ) -> impl Iterator<Item = &'a str> {
        let class = match mode {
            Mode::Folded if dimension.has_aliases() => self.aliases.class_of(word),
            _ => &[],
        };
        class.iter().map(|word| &**word)
    }

    fn time(&self) -> Vec<String> {
        vec![self.attestation.timestamp.to_string()]
    }

    fn moment(&self, moment: Moment) -> Vec<String> {
        moment.at(self.now_ms).into_iter().map(time).collect()
    }
}

fn texts(terms: &[Box<str>]) -> Vec<String> {
    terms.iter().map(|term| term.to_string()).collect()
}

/// A bound as a time, or as its number where no time can be written.
fn time(ms: i64) -> String {
    Timestamp::from_ms(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

fn json(value: Option<&Value>) -> Vec<String> {
    value.into_iter().map(Value::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AliasChange, AliasChangeKind, parse};
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
            assert_eq!(matches(&ax(query), &attestation, Aliases::none()), expected, "{query}");
            let all_held =
                explain(&ax(query), &attestation, Aliases::none()).iter().all(|one| one.held);
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
            assert_eq!(
                matches(&filter, &attestation, Aliases::none()),
                expected,
                "{subject} {predicate}"
            );
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
            let claim = claim("a b c d");
            assert_eq!(matches(&filter, &claim, Aliases::none()), expected, "{start:?} {end:?}");
        }
    }

    /// A claim about 2024-06-14T10:00 that was appended on Saturday 2024-06-15 at 14:30.
    fn dated(attributes: &str) -> Attestation {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        Attestation {
            timestamp: at("2024-06-14T10:00:00Z"),
            created_at: at("2024-06-15T14:30:00Z"),
            attributes: Attributes::parse(attributes).unwrap(),
            ..claim("ALICE released ci bot")
        }
    }

    #[test]
    fn times_test_when_it_was_claimed() {
        let cases = [
            ("since yesterday", false),
            ("since today", false),
            ("until yesterday", true),
            ("on yesterday", true),
            ("on last friday", true),
            ("on this friday", true),
            ("on today", false),
            ("on 2024-06-14", true),
            ("on 2024-06-13", false),
            ("since 2024-06-14T10:00", true),
            ("since 2024-06-14T10:00:00.001", false),
            ("until 2024-06-14T10:00", true),
            ("until 2024-06-14T09:59:59.999", false),
            ("since 28h", false),
            ("since 29h", true),
            ("between 2 days ago and yesterday", true),
            ("since last week until now", true),
            ("since last week until 3 days ago", false),
            ("alice is released since 2d where stars = 3", true),
            ("alice is released since 2d where stars = 4", false),
            ("is not released since 2d", false),
            ("since 2500 years ago", false),
            ("until in 9000 years", false),
        ];
        let attestation = dated(r#"{"stars": 3}"#);
        for (query, expected) in cases {
            assert_eq!(matches(&ax(query), &attestation, Aliases::none()), expected, "{query}");
            let all_held =
                explain(&ax(query), &attestation, Aliases::none()).iter().all(|one| one.held);
            assert_eq!(all_held, expected, "{query}");
        }
    }

    /// A watcher's answer is the same whenever it is computed; a question's is that of when it was
    /// asked.
    #[test]
    fn now_is_the_append_for_a_watcher_and_the_asking_for_a_question() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let attestation = dated("{}");
        let (friday, monday) = (at("2024-06-14T23:00:00Z"), at("2024-06-17T09:00:00Z"));
        let (watcher, question) = (ax("on yesterday"), |now| Filter::asked("on yesterday", now));
        assert!(matches(&watcher, &attestation, Aliases::none()));
        assert!(!matches_at(&watcher, &attestation, friday, Aliases::none()));
        for (asked_at, expected) in
            [(friday, false), (attestation.created_at, true), (monday, false)]
        {
            let (filter, over) = question(asked_at).unwrap();
            let held = matches(&filter, &attestation, Aliases::none());
            assert_eq!((held, over), (expected, None), "{asked_at}");
        }
    }

    #[test]
    fn an_explanation_shows_times_and_attributes() {
        let filter =
            ax("since yesterday until in 9000 years where lang = 'rust' and x.y exists and n > 1");
        let claim = dated(r#"{"lang": "Rust", "n": 2.5}"#);
        let conditions = explain(&filter, &claim, Aliases::none());
        let found = serde_json::to_value(conditions).unwrap();
        let expected = serde_json::json!([
            {
                "field": "timestamp", "rule": "not_before", "asked": ["2024-06-14T14:30:00Z"],
                "held": false, "decided_by": ["2024-06-14T10:00:00Z"],
            },
            {
                "field": "timestamp", "rule": "not_after", "asked": [],
                "held": false, "decided_by": ["2024-06-14T10:00:00Z"],
            },
            {
                "field": "attributes.lang", "rule": "=", "asked": ["\"rust\""],
                "held": false, "decided_by": ["\"Rust\""],
            },
            {
                "field": "attributes.x.y", "rule": "exists", "asked": [],
                "held": false, "decided_by": [],
            },
            {
                "field": "attributes.n", "rule": ">", "asked": ["1"],
                "held": true, "decided_by": ["2.5"],
            },
        ]);
        assert_eq!(found, expected);
    }

    #[test]
    fn an_explanation_names_what_decided() {
        let filter = ax("ALICE Bob is not Draft of x").within(Some(2_000), None);
        let claim = claim("BOB,carol draft,final y hr");
        let conditions = explain(&filter, &claim, Aliases::none());
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

    fn aliases(words: &[&[&str]]) -> Aliases {
        let mut aliases = Aliases::default();
        for words in words {
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            aliases.apply(&AliasChange { kind: AliasChangeKind::Link, words });
        }
        aliases
    }

    #[test]
    fn an_alias_is_the_same_word_to_ax_and_to_nobody_else() {
        let aliases = aliases(&[&["NY", "New York"], &["nyc", "NEW YORK"], &["author", "writer"]]);
        let attestation = claim("NY,bob author New&York hr");
        let cases = [
            ("NYC", true),
            ("'new york'", true),
            ("boston", false),
            ("of 'New&York'", true),
            ("is author", true),
            ("is writer", false),
            ("is not writer", true),
            ("bob by not nyc", true),
        ];
        for (query, expected) in cases {
            assert_eq!(matches(&ax(query), &attestation, &aliases), expected, "{query}");
            let all_held = explain(&ax(query), &attestation, &aliases).iter().all(|one| one.held);
            assert_eq!(all_held, expected, "{query}");
        }
        let attestation = claim("a b nyc ny");
        for (query, expected) in
            [("of ny", true), ("of not 'new york'", false), ("by not nyc", false), ("by nyc", true)]
        {
            assert_eq!(matches(&ax(query), &attestation, &aliases), expected, "{query}");
        }
        let lists = StructuralFilter { contexts: vec!["ny".into()], ..Default::default() };
        assert!(!matches(&Filter::structural(&lists), &attestation, &aliases));
    }

    #[test]
    fn an_explanation_tells_of_aliases() {
        let aliases = aliases(&[&["NY", "New York"], &["nyc", "NEW YORK"]]);
        let conditions = explain(&ax("nyc bob 'new york'"), &claim("NY,BOB,carol b c d"), &aliases);
        let found = serde_json::to_value(conditions).unwrap();
        let expected = serde_json::json!([{
            "field": "subject", "rule": "any", "asked": ["bob", "new york", "nyc"],
            "held": true, "decided_by": ["NY", "BOB"], "by_alias": [["NY", "new york"]],
        }]);
        assert_eq!(found, expected);
    }
}
