//! Many watchers at once: which of a million filters hold for an attestation, at a cost that grows
//! with the number of matches and not with the number of watchers.
//!
//! Each watcher is filed under every tuple of its terms, one term on each axis that it asks about, in
//! the table of its shape (which axes these are). The axes are the four dimensions and the attributes, of
//! which one condition is a term when a look-up decides it: that a value is this one, that it is there, or
//! that it lies on one side of a number or between two, whose spans are kept apart by it. An attestation looks up its own
//! terms, most of which no watcher uses, and tries the tuples of the rest: usually one for each shape in
//! use.
//!
//! What else a watcher asks is verified when its key is there. Two kinds of watcher are found by fewer
//! terms: one whose terms make too many tuples, and any when the attestation itself has too many. Watchers
//! that ask only about time are filed by it. What no look-up finds is asked about every attestation, once
//! for all watchers that ask the same.
//!
//! [`crate::matches`] is the meaning; this is a shortcut that agrees with it, as the property test
//! below holds it to. It is changed in place by its one owner, and no order here comes from a hash.

mod attributes;
mod conditions;
mod cursor;
mod interner;
mod known;
mod list;
mod paths;
mod pivots;
mod posting;
mod ranges;
mod record;
mod shape;
mod side;
mod sought;
mod spans;
mod stats;
mod table;
mod values;
mod whole;
mod windows;

use std::collections::{BTreeMap, BTreeSet};

use axwatch_model::Attestation;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::eval::Claim;
use crate::{Aliases, Filter, Mode};
use conditions::{Answers, ConditionId};
use known::Known;
use record::{Record, Records};
use side::{Hits, Side};
use spans::Spans;
pub use stats::{IndexStats, ShapeStats};
use values::Values;
use windows::{Window, ordered};

/// An index over the filters of many watchers, by an id that the caller chooses.
///
/// Ids may be any 32 bits; memory is best used when they are near each other.
#[derive(Debug)]
pub struct WatcherIndex {
    folded: Side,
    exact: Side,
    /// Those that are filed under terms.
    records: Records,
    /// Those that ask for no term.
    termless: BTreeMap<u32, Termless>,
    /// Those that ask for a time and nothing else, by it, or by how long it is after now.
    windows: Spans,
    windows_after_now: Spans,
    /// What is asked about every attestation, and who asks it: those that begin with one condition are
    /// neighbours, so that it is answered once. The conditions are those of the folded side: of what has no terms, AX
    /// alone asks for more than times.
    asked: BTreeMap<Question, BTreeSet<u32>>,
}

/// Conditions in rising order of their numbers, those that are known longest first.
type Question = SmallVec<[ConditionId; 2]>;

/// A watcher that asks for no term.
#[derive(Debug)]
enum Termless {
    /// About time and nothing else.
    Window(Window),
    /// About time after now and nothing else.
    AfterNow(Window),
    /// Something that no look-up finds.
    Asked(Question),
}

/// What it took to find the watchers of one attestation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effort {
    /// Terms, tuples of terms and spans of time that were looked up.
    pub probes: u64,
    /// Watchers that a look-up led to and that had to be verified, and what was asked without one.
    pub candidates: u64,
}

/// By what a watcher is found among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// Terms of claims.
    Terms,
    /// A value among the attributes.
    Attributes,
    /// The time of a claim.
    Time,
    /// Nothing: every claim is held against it.
    Nothing,
}

impl FoundBy {
    /// That of a watcher with this filter.
    #[must_use]
    pub fn of(filter: &Filter) -> FoundBy {
        if filter.dimensions().next().is_some() {
            FoundBy::Terms
        } else if Side::files(filter) {
            FoundBy::Attributes
        } else if Window::fixed(filter).or(Window::from_now(filter)).is_some() {
            FoundBy::Time
        } else {
            FoundBy::Nothing
        }
    }
}

impl Default for WatcherIndex {
    fn default() -> WatcherIndex {
        WatcherIndex::new()
    }
}

impl WatcherIndex {
    /// An index without watchers.
    #[must_use]
    pub fn new() -> WatcherIndex {
        WatcherIndex {
            folded: Side::new(Mode::Folded),
            exact: Side::new(Mode::Exact),
            records: Records::default(),
            termless: BTreeMap::new(),
            windows: Spans::default(),
            windows_after_now: Spans::default(),
            asked: BTreeMap::new(),
        }
    }

    /// How many watchers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.termless.len() + self.records.len()
    }

    /// Whether there are no watchers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is held, and how it is found. Takes time that grows with it: some milliseconds for a million.
    #[must_use]
    pub fn stats(&self) -> IndexStats {
        let asked_always = self.asked.values().map(BTreeSet::len).sum();
        let termless = self.termless.len() * size_of::<(u32, Termless)>();
        let mut stats = IndexStats {
            watchers: self.len(),
            shapes: Vec::new(),
            by_one_term: 0,
            by_time: self.termless.len() - asked_always,
            asked_always,
            questions: self.asked.len(),
            terms: 0,
            keys: self.windows.len() + self.windows_after_now.len(),
            memory_bytes: self.records.memory_bytes()
                + self.windows.memory_bytes()
                + self.windows_after_now.memory_bytes()
                + self.asked.len() * size_of::<(Question, BTreeSet<u32>)>() * 3 / 2
                + termless,
        };
        self.folded.add_to(&mut stats);
        self.exact.add_to(&mut stats);
        stats.shapes.sort_by_key(|shape| std::cmp::Reverse(shape.watchers));
        stats
    }

    /// The watchers that were verified most often since they were put in, with how often that was, the
    /// most first. Those that are asked always are not among them.
    #[must_use]
    pub fn dearest(&self, count: usize) -> Vec<(u32, u32)> {
        let mut verified: Vec<(u32, u32)> = self.records.verified().collect();
        verified.sort_unstable_by_key(|(id, times)| (std::cmp::Reverse(*times), *id));
        verified.truncate(count);
        verified
    }

    /// The watchers that no look-up finds, in rising order.
    pub fn always(&self) -> impl Iterator<Item = u32> {
        let asked = self.termless.iter().filter(|(_, of)| matches!(of, Termless::Asked(_)));
        asked.map(|(id, _)| *id)
    }

    /// Puts a watcher in, in the place of the one that had its id.
    pub fn insert(&mut self, id: u32, filter: &Filter) {
        self.remove(id);
        if Side::files(filter) {
            let record = self.side_mut(filter.mode()).insert(id, filter);
            self.records.insert(id, record);
        } else if let Some(window) = Window::fixed(filter) {
            self.windows.insert(id, window.span());
            self.termless.insert(id, Termless::Window(window));
        } else if let Some(window) = Window::from_now(filter) {
            self.windows_after_now.insert(id, window.span());
            self.termless.insert(id, Termless::AfterNow(window));
        } else {
            let tests = filter.tests().iter();
            let Side { conditions, paths, .. } = &mut self.folded;
            let mut question: Question =
                tests.map(|test| conditions.acquire(test, paths)).collect();
            question.sort_unstable();
            self.asked.entry(question.clone()).or_default().insert(id);
            self.termless.insert(id, Termless::Asked(question));
        }
    }

    /// Takes a watcher out, and with it the terms and keys that no other uses. An unknown id changes
    /// nothing.
    pub fn remove(&mut self, id: u32) {
        match self.termless.remove(&id) {
            Some(Termless::Window(window)) => self.windows.remove(id, window.span()),
            Some(Termless::AfterNow(window)) => self.windows_after_now.remove(id, window.span()),
            Some(Termless::Asked(question)) => {
                let who = self.asked.get_mut(&question).expect("what a watcher asks is asked");
                who.remove(&id);
                if who.is_empty() {
                    self.asked.remove(&question);
                }
                let Side { conditions, paths, .. } = &mut self.folded;
                question.iter().for_each(|condition| conditions.release(*condition, paths));
            }
            None => {
                if let Some(record) = self.records.remove(id) {
                    self.side_mut(record.mode()).remove(id, &record);
                }
            }
        }
    }

    /// Finds every watcher whose filter holds for the attestation, under these aliases, and says what
    /// that took.
    ///
    /// Shape: `found` is emptied first, then holds ids in rising order, each once. Hand in the same
    /// vector each time, and nothing is allocated for it.
    pub fn matching(
        &self,
        attestation: &Attestation,
        aliases: &Aliases,
        found: &mut Vec<u32>,
    ) -> Effort {
        found.clear();
        // A watcher's now is when the claim was appended, however late it is matched.
        let claim = Claim::at(attestation, attestation.created_at, aliases);
        let mut hits = Hits { found: std::mem::take(found), ..Hits::default() };
        let mut candidates = 0;
        let values = [Values::new(&claim), Values::new(&claim)];
        for (side, values) in [&self.folded, &self.exact].into_iter().zip(&values) {
            let known = side.probe(&claim, values, &mut hits);
            candidates += self.verify(side, &known, &claim, values, &mut hits);
        }
        candidates += self.find_termless(&claim, &values[0], &mut hits);
        *found = hits.found;
        sort(found);
        Effort { probes: hits.probes, candidates: candidates + hits.told_apart }
    }

    /// Moves those that hold to what is found, and says how many there were to look at.
    fn verify<'c>(
        &self,
        side: &Side,
        known: &Known,
        claim: &Claim<'c>,
        values: &Values<'c>,
        hits: &mut Hits,
    ) -> u64 {
        if hits.by_key.is_empty() && hits.by_term.is_empty() {
            return 0;
        }
        let mut answers = Answers::new(&side.conditions, &side.paths, claim, values);
        // A key may be reached by several tuples; what is verified beyond it may be dear.
        sort(&mut hits.by_key);
        let mut candidates = hits.by_key.len() as u64;
        let mut records = self.records.reader();
        for id in hits.by_key.drain(..) {
            let holds = |record: &Record| {
                record.first().is_none_or(|first| answers.holds(first))
                    && holds_beyond_terms(record, known, claim, &mut answers)
            };
            if records.get(id).is_some_and(holds) {
                hits.found.push(id);
            }
        }
        // A watcher with a list of terms may be reached by each of them.
        sort(&mut hits.by_term);
        candidates += hits.by_term.len() as u64;
        for id in hits.by_term.drain(..) {
            let holds = |record: &Record| {
                known.has_terms_of(record) && holds_beyond_terms(record, known, claim, &mut answers)
            };
            if records.get(id).is_some_and(holds) {
                hits.found.push(id);
            }
        }
        candidates
    }

    fn find_termless<'c>(&self, claim: &Claim<'c>, values: &Values<'c>, hits: &mut Hits) -> u64 {
        hits.probes += self.windows.holding(ordered(claim.timestamp_ms()), &mut hits.found);
        let after_now = self.find_after_now(claim, hits);
        if self.asked.is_empty() {
            return after_now;
        }
        let Side { conditions, paths, .. } = &self.folded;
        let mut answers = Answers::new(conditions, paths, claim, values);
        for (question, who) in &self.asked {
            if question.iter().all(|condition| answers.holds(*condition)) {
                hits.found.extend(who);
            }
        }
        after_now + self.asked.len() as u64
    }

    /// Finds those that ask for a time after now, and says how many there were to look at.
    fn find_after_now(&self, claim: &Claim<'_>, hits: &mut Hits) -> u64 {
        if self.windows_after_now.is_empty() {
            return 0;
        }
        let mut ids = Vec::new();
        let after_now = ordered(claim.after_now_ms());
        hits.probes += self.windows_after_now.holding(after_now, &mut ids);
        let can_be = |id: &&u32| match self.termless.get(*id) {
            Some(Termless::AfterNow(window)) => window.can_be(claim.now_ms()),
            _ => false,
        };
        hits.found.extend(ids.iter().filter(can_be));
        ids.len() as u64
    }

    fn side_mut(&mut self, mode: Mode) -> &mut Side {
        match mode {
            Mode::Folded => &mut self.folded,
            Mode::Exact => &mut self.exact,
        }
    }
}

/// Verifies what the terms of a watcher's key leave open.
fn holds_beyond_terms(
    record: &Record,
    known: &Known,
    claim: &Claim<'_>,
    answers: &mut Answers<'_, '_>,
) -> bool {
    record.many().is_none_or(|many| {
        many.count();
        many.window.holds(claim.timestamp_ms())
            && !known.has_excluded(many)
            && many.rest.iter().all(|condition| answers.holds(*condition))
    })
}

/// In rising order, each once. Most lists are that already.
fn sort(ids: &mut Vec<u32>) {
    if ids.is_sorted_by(|one, next| one < next) {
        return;
    }
    let words = ids.iter().max().map_or(0, |last| *last as usize / 64 + 1);
    // Long lists are many short ones behind each other, often with the same watchers.
    if words <= ids.len() * 8 {
        sort_by_bits(ids, words);
    } else {
        ids.sort_unstable();
        ids.dedup();
    }
}

/// By a bit for each watcher in so many words.
fn sort_by_bits(ids: &mut Vec<u32>, words: usize) {
    let mut bits = vec![0_u64; words];
    for id in ids.drain(..) {
        bits[id as usize / 64] |= 1 << (id % 64);
    }
    for (first, mut word) in (0..).step_by(64).zip(bits) {
        while word != 0 {
            ids.push(first + word.trailing_zeros());
            word &= word - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AliasChange, AliasChangeKind, Clause, Query, Terms, fold, matches, matches_at,
        parse_watcher,
    };
    use axwatch_model::{Attributes, StructuralFilter, Timestamp};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::borrow::Cow;

    /// Few words, so that they often meet, and several that are one word to AX and two byte for byte.
    const WORDS: [&str; 10] =
        ["a", "A", "b", "Straße", "STRASSE", "é", "e\u{301}", "É", "山田", "_"];

    fn words(length: std::ops::Range<usize>) -> impl Strategy<Value = Vec<String>> {
        vec(select(&WORDS[..]).prop_map(str::to_owned), length)
    }

    /// Mostly short lists, sometimes one so long that tuples are too many.
    fn any_list() -> impl Strategy<Value = Vec<String>> {
        let filler = (6..40_usize).prop_map(|n| (0..n).map(|i| format!("w{i}")).collect());
        prop_oneof![4 => words(0..1), 6 => words(1..3), 1 => words(3..9), 1 => filler]
    }

    fn any_excluded() -> impl Strategy<Value = Vec<String>> {
        prop_oneof![3 => words(0..1), 1 => words(1..3)]
    }

    const DAY_MS: i64 = 86_400_000;

    fn any_bound() -> impl Strategy<Value = Option<i64>> {
        prop_oneof![6 => Just(None), 1 => (8..12_i64).prop_map(|day| Some(day * DAY_MS))]
    }

    /// Clauses that no term decides.
    const BEYOND_TERMS: [&str; 23] = [
        "since yesterday",
        "until yesterday",
        "on today",
        "on last sunday",
        "since last monday until now",
        "between 2 days ago and in 1 day",
        "until tomorrow since 1970-01-11",
        "since today",
        "until today since 1970-01-10T12:00",
        "since 20 years ago",
        "since 3 days ago",
        "since 2500 years ago",
        "since 3 days ago since 2500 years ago",
        "until in 9000 years",
        "between 5 days ago and 3 days ago",
        "where lang = 'rust'",
        "where stars > 1 and lang exists",
        "where stars > 1 and stars < 2",
        "where stars >= 2 and lang exists and stars <= 2.0 and stars < 7",
        "where lang != 'rust'",
        "where labels contains 'a'",
        "where stars <= 2.0 since yesterday",
        "where 'a.b'.c exists",
    ];

    fn any_beyond_terms() -> impl Strategy<Value = Query<'static>> {
        let some = select(&BEYOND_TERMS[..]).prop_map(|text| parse_watcher(text).unwrap());
        prop_oneof![3 => Just(Query::default()), 1 => some]
    }

    fn any_attributes() -> impl Strategy<Value = Option<Attributes>> {
        let texts = [
            "{}",
            r#"{"lang": "rust"}"#,
            r#"{"lang": "Rust", "stars": 2}"#,
            r#"{"lang": null, "stars": 1.5, "labels": ["a", 1]}"#,
            r#"{"labels": "banana", "a.b": {"c": 0}}"#,
        ];
        select(texts.to_vec()).prop_map(|text| Attributes::parse(text).unwrap())
    }

    fn terms(words: Vec<String>) -> Terms<'static> {
        words.into_iter().map(Cow::Owned).collect()
    }

    prop_compose! {
        fn any_ax()(
            any in prop::array::uniform4(any_list()), none in prop::array::uniform3(any_excluded()),
            beyond in any_beyond_terms(),
        ) -> Filter {
            let [subjects, predicates, contexts, actors] = any.map(terms);
            let [no_predicates, no_contexts, no_actors] =
                none.map(|words| terms(words).into_vec());
            Filter::from_ax(&Query {
                subjects,
                predicates: Clause { any: predicates, none: no_predicates },
                contexts: Clause { any: contexts, none: no_contexts },
                actors: Clause { any: actors, none: no_actors },
                ..beyond
            })
        }
    }

    prop_compose! {
        fn any_structural()(lists in prop::array::uniform4(any_list())) -> Filter {
            let [subjects, predicates, contexts, actors] = lists;
            Filter::structural(&StructuralFilter { subjects, predicates, contexts, actors })
        }
    }

    prop_compose! {
        fn any_filter()(
            filter in prop_oneof![any_ax(), any_structural()], start in any_bound(), end in any_bound(),
        ) -> Filter {
            filter.within(start, end)
        }
    }

    /// One term or none in each dimension, out of thirty.
    fn any_plain_filter() -> impl Strategy<Value = Filter> {
        let list = prop::option::of(0..30_u32).prop_map(|n| n.map(|n| format!("w{n}")));
        (prop::array::uniform4(list), any_bound()).prop_map(|(lists, end)| {
            let [subjects, predicates, contexts, actors] = lists.map(Vec::from_iter);
            let lists = StructuralFilter { subjects, predicates, contexts, actors };
            Filter::structural(&lists).within(None, end)
        })
    }

    /// A claim appended on 1970-01-11 at noon about a day within some days of it.
    fn attestation(
        lists: [Vec<String>; 4],
        half_days: i64,
        attributes: Option<Attributes>,
    ) -> Attestation {
        let [subjects, predicates, contexts, actors] = lists;
        Attestation {
            id: "AS-1".parse().unwrap(),
            subjects,
            predicates,
            contexts,
            actors,
            timestamp: Timestamp::from_ms(half_days * DAY_MS / 2).unwrap(),
            created_at: Timestamp::from_ms(21 * DAY_MS / 2).unwrap(),
            source: "test".into(),
            attributes,
            signature: None,
            signer_did: None,
        }
    }

    /// `{letter}0`, `{letter}1`, … in a number that is far too many.
    fn many(letter: char) -> impl Strategy<Value = Vec<String>> {
        (1..90_usize).prop_map(move |n| (0..n).map(|i| format!("{letter}{i}")).collect())
    }

    /// Terms from the watchers' words, sometimes far too many, with repeats and strangers.
    fn any_attestation() -> impl Strategy<Value = Attestation> {
        let list = prop_oneof![8 => words(1..4), 1 => many('W'), 1 => many('w')];
        (prop::array::uniform4(list), 15..25_i64, any_attributes())
            .prop_map(|(lists, half_days, attributes)| attestation(lists, half_days, attributes))
    }

    fn any_crowded_attestation() -> impl Strategy<Value = Attestation> {
        let lists = prop::array::uniform4(many('w'));
        (lists, 15..25_i64).prop_map(|(lists, half_days)| attestation(lists, half_days, None))
    }

    /// An id with a filter puts a watcher in, without one takes it out.
    fn any_changes() -> impl Strategy<Value = Vec<(u32, Option<Filter>)>> {
        let id = prop_oneof![9 => 0..24_u32, 1 => any::<u32>()];
        vec((id, prop::option::weighted(0.7, any_filter())), 0..60)
    }

    fn apply(index: &mut WatcherIndex, changes: &[(u32, Option<Filter>)]) -> BTreeMap<u32, Filter> {
        let mut watchers = BTreeMap::new();
        for (id, filter) in changes {
            match filter {
                Some(filter) => {
                    index.insert(*id, filter);
                    watchers.insert(*id, filter.clone());
                }
                None => {
                    index.remove(*id);
                    watchers.remove(id);
                }
            }
        }
        watchers
    }

    /// Some of the watchers' words are one.
    fn any_aliases() -> impl Strategy<Value = Aliases> {
        let some = vec(words(2..4), 0..4).prop_map(|changes| {
            let mut aliases = Aliases::default();
            for words in changes {
                aliases.apply(&AliasChange { kind: AliasChangeKind::Link, words });
            }
            aliases
        });
        prop_oneof![1 => Just(Aliases::default()), 2 => some]
    }

    /// The claim as it would be if it named every word that is one with its own.
    fn spelt_out(attestation: &Attestation, aliases: &Aliases) -> Attestation {
        let spell_out = |terms: &[String]| {
            let others = terms.iter().flat_map(|term| aliases.class_of(&fold(term)).to_vec());
            let others: Vec<String> = others.map(String::from).collect();
            [terms, &others].concat()
        };
        Attestation {
            subjects: spell_out(&attestation.subjects),
            contexts: spell_out(&attestation.contexts),
            actors: spell_out(&attestation.actors),
            ..attestation.clone()
        }
    }

    fn check_found(
        index: &WatcherIndex,
        watchers: &BTreeMap<u32, Filter>,
        attestation: &Attestation,
        aliases: &Aliases,
    ) -> Result<(), TestCaseError> {
        let holds = |(_, filter): &(&u32, &Filter)| matches(filter, attestation, aliases);
        let asked: Vec<u32> = watchers.iter().filter(holds).map(|(id, _)| *id).collect();
        let mut found = vec![7];
        index.matching(attestation, aliases, &mut found);
        prop_assert_eq!(found, asked);
        Ok(())
    }

    fn check(
        index: &WatcherIndex,
        watchers: &BTreeMap<u32, Filter>,
        attestation: &Attestation,
        aliases: &Aliases,
    ) -> Result<(), TestCaseError> {
        check_found(index, watchers, attestation, aliases)?;
        let spelt_out = spelt_out(attestation, aliases);
        for filter in watchers.values() {
            let same = match filter.mode() {
                Mode::Folded => &spelt_out,
                Mode::Exact => attestation,
            };
            let expected = matches(filter, same, Aliases::none());
            prop_assert_eq!(matches(filter, attestation, aliases), expected);
        }
        // A filter whose times are fixed at a now gives, at any other, the answer of that now.
        let (now, other) = (attestation.created_at, Timestamp::from_ms(0).unwrap());
        for filter in watchers.values() {
            let pinned = filter.clone().pinned(now);
            let once = matches_at(filter, attestation, now, aliases);
            // What cannot be reckoned stays relative.
            if pinned.pinned(other) == filter.clone().pinned(now) {
                let again = matches_at(&filter.clone().pinned(now), attestation, other, aliases);
                prop_assert_eq!(once, again);
            }
        }
        Ok(())
    }

    #[test]
    fn a_span_tells_more_than_a_value_that_many_ask_for() {
        let mut index = WatcherIndex::new();
        for number in 0..1_000 {
            let text = format!(
                "is trade where side = 'buy' and price >= {number} and price < {}",
                number + 1
            );
            index.insert(number, &Filter::from_ax(&parse_watcher(&text).unwrap()));
        }
        let attributes = Attributes::parse(r#"{"side":"buy","price":700}"#).unwrap();
        let lists = [vec![], vec!["trade".to_owned()], vec![], vec![]];
        let trade = attestation(lists, 20, attributes);
        let mut found = Vec::new();
        let effort = index.matching(&trade, Aliases::none(), &mut found);
        assert_eq!(found, [700]);
        assert!(effort.candidates < 100, "{effort:?}");
    }

    fn a_tenth_of_the_cases() -> ProptestConfig {
        let usual = ProptestConfig::default();
        ProptestConfig { cases: usual.cases.div_ceil(10), ..usual }
    }

    /// The watcher of this number in a family of many that are alike.
    fn one_of_many(family: u32, number: u32) -> Filter {
        let (some, few) = (number % 97, number % 5);
        let text = match family {
            0 => "is hot".to_owned(),
            1 => format!("is hot of c{few}"),
            2 => format!("is hot where stars > {some}"),
            3 => format!("is hot where stars >= {some} and stars < {}", some + few),
            4 => format!("where stars <= {}", number % 1_000),
            5 => format!("since {number} minutes ago"),
            6 => format!("since 1970-01-{:02}T{:02}:00", 8 + few, some % 24),
            7 => format!("is hot where stars > {some} and size > {}", 97 - some),
            8 => format!("is not w{some}"),
            9 => format!("is hot where labels contains 'l{some}'"),
            10 => format!("is hot where body contains 'w{some}'"),
            11 => format!("is hot of c{few} by d where size != {few}"),
            12 => format!("x{some} is hot of c{few} by d"),
            _ => {
                let words = |letter: &str| -> String {
                    (0..9).map(|i| format!("{letter}{} ", (some + i * 7) % 60)).collect()
                };
                format!("is {} of {} where size = {few}", words("w"), words("c"))
            }
        };
        Filter::from_ax(&parse_watcher(&text).unwrap())
    }

    /// Runs of watchers of a family that are put in or taken out: first, how many, and how far from each other.
    fn any_runs() -> impl Strategy<Value = Vec<(u32, bool, u32, u32, u32)>> {
        vec((0..14_u32, prop::bool::weighted(0.7), 0..3_000_u32, 1..1_200_u32, 1..4_u32), 1..6)
    }

    fn any_claim_for_many() -> impl Strategy<Value = Attestation> {
        let list = |words: &'static str| {
            let some = (0..60_u32, 1..12_u32).prop_map(move |(first, count)| {
                (first..first + count).map(|i| format!("{words}{i}")).collect::<Vec<String>>()
            });
            prop_oneof![3 => some, 1 => Just(Vec::new())]
        };
        let attributes = (0..100_u32, 0..100_u32, 0..40_usize).prop_map(|(stars, size, count)| {
            let labels: Vec<String> = (0..count).map(|i| format!("l{}", i * 3)).collect();
            let body: String = labels.iter().map(|label| label.replace('l', "w")).collect();
            let value = serde_json::json!(
                { "stars": stars, "size": size % 7, "labels": labels, "body": body.repeat(9) }
            );
            Attributes::from_value(&value).unwrap()
        });
        let lists = (list("x"), list("w"), list("c"), attributes, 15..25_i64);
        lists.prop_map(|(subjects, mut predicates, contexts, attributes, half_days)| {
            predicates.push("hot".to_owned());
            let lists = [subjects, predicates, contexts, vec!["d".to_owned()]];
            attestation(lists, half_days, attributes)
        })
    }

    proptest! {
        #![proptest_config(a_tenth_of_the_cases())]

        /// However many there are under one term, key or span, and whichever of them went again.
        #[test]
        fn many_that_are_alike_are_found_as_few_are(
            runs in any_runs(), claims in vec(any_claim_for_many(), 1..4),
        ) {
            let (mut index, mut watchers) = (WatcherIndex::new(), BTreeMap::new());
            for (family, is_added, first, count, step) in runs {
                for id in (first..).step_by(step as usize).take(count as usize) {
                    if is_added {
                        let filter = one_of_many(family, id);
                        index.insert(id, &filter);
                        watchers.insert(id, filter);
                    } else {
                        index.remove(id);
                        watchers.remove(&id);
                    }
                }
                for claim in &claims {
                    check_found(&index, &watchers, claim, Aliases::none())?;
                }
            }
            for id in watchers.into_keys() {
                index.remove(id);
            }
            prop_assert!(index.is_empty() && index.folded.is_empty());
        }
    }

    proptest! {
        #[test]
        fn sorting_leaves_each_once(
            near in vec(0..3_000_u32, 0..200), far in vec(any::<u32>(), 0..3),
        ) {
            let mut ids: Vec<u32> = near.into_iter().chain(far).collect();
            let expected: Vec<u32> = ids.iter().copied().collect::<BTreeSet<u32>>().into_iter().collect();
            sort(&mut ids);
            prop_assert_eq!(ids, expected);
        }

        /// The index is a shortcut, never a second opinion.
        #[test]
        fn index_finds_what_asking_every_watcher_finds(
            changes in any_changes(), attestations in vec(any_attestation(), 1..8),
            aliases in any_aliases(),
        ) {
            let mut index = WatcherIndex::new();
            let watchers = apply(&mut index, &changes);
            prop_assert_eq!(index.len(), watchers.len());
            for attestation in attestations {
                check(&index, &watchers, &attestation, &aliases)?;
            }
        }

        /// Nor is it when so many terms are known that their tuples are too many to try.
        #[test]
        fn a_crowded_attestation_finds_the_same(
            filters in vec(any_plain_filter(), 50..150), attestation in any_crowded_attestation(),
            aliases in any_aliases(),
        ) {
            let changes: Vec<_> = (0..).zip(filters.into_iter().map(Some)).collect();
            let mut index = WatcherIndex::new();
            let watchers = apply(&mut index, &changes);
            check(&index, &watchers, &attestation, &aliases)?;
        }

        /// Every watcher is told of once, and those that are verified are no surer than they are found.
        #[test]
        fn each_watcher_is_counted_once(
            changes in any_changes(), attestations in vec(any_attestation(), 1..4),
        ) {
            let mut index = WatcherIndex::new();
            apply(&mut index, &changes);
            let mut effort = 0;
            for attestation in &attestations {
                effort += index.matching(attestation, Aliases::none(), &mut Vec::new()).candidates;
            }
            let stats = index.stats();
            let shapes: usize = stats.shapes.iter().map(|shape| shape.watchers).sum();
            let all = shapes + stats.by_one_term + stats.by_time + stats.asked_always;
            prop_assert_eq!((stats.watchers, all), (index.len(), index.len()));
            prop_assert_eq!(stats.asked_always, index.always().count());
            prop_assert!((0.0..=1.0).contains(&stats.served_fully()));
            let verified: u64 = index.dearest(usize::MAX).iter().map(|(_, n)| u64::from(*n)).sum();
            prop_assert!(verified <= effort, "{} of {}", verified, effort);
        }

        /// Whatever was put in can be taken out, down to the last term.
        #[test]
        fn an_emptied_index_holds_nothing(changes in any_changes()) {
            let mut index = WatcherIndex::new();
            for id in apply(&mut index, &changes).into_keys() {
                index.remove(id);
            }
            prop_assert!(index.is_empty() && index.windows.is_empty() && index.asked.is_empty());
            prop_assert!(index.windows_after_now.is_empty());
            let stats = index.stats();
            prop_assert_eq!((stats.terms, stats.keys, stats.shapes.len()), (0, 0, 0));
            prop_assert!(index.folded.is_empty() && index.exact.is_empty());
        }
    }
}
