//! One half of the index: the watchers whose terms compare in one way.
//!
//! Folded and exact terms never meet: each side has its own terms, keys and tables. A side without
//! watchers costs nothing.

use std::sync::atomic::AtomicU32;

use smallvec::SmallVec;

use crate::eval::Claim;
use crate::filter::Test;
use crate::{Dimension, Filter, Mode};

use super::attributes::{Asked, Findable, nearest, write_term};
use super::conditions::Conditions;
use super::interner::{Interner, TermId, Uses};
use super::known::{Known, Reached};
use super::list::List;
use super::paths::Paths;
use super::pivots::{Guard, Guarded, Guards, Pivots};
use super::posting::{Posting, Postings};
use super::ranges::{self, Ranges};
use super::record::{Attribute, Many, Record, Terms, Way};
use super::shape::{Axis, KeyKind, LACKING, OVER, OVER_ATTRIBUTES, PIVOT, each_tuple, tuples};
use super::stats::{IndexStats, ShapeStats};
use super::table::Table;
use super::values::Values;
use super::windows::Window;

/// Tuples that one watcher may be filed under when it asks on several axes.
const TUPLES_OF_WATCHER_MAX: usize = 64;
/// Tuples that one attestation tries in a table in any case.
const TUPLES_ALWAYS: usize = 64;
/// Tuples that one attestation may try in all tables in which it has more than that.
const TUPLES_MAX: usize = 8_192;
/// Watchers that may ask for one value before a span of numbers is thought to tell more.
const COMMON_VALUE: u32 = 64;
/// A key joins at most so many terms.
const AXES_OF_KEY_MAX: usize = 4;

/// The watchers of one [`Mode`].
#[derive(Debug)]
pub(super) struct Side {
    mode: Mode,
    /// By [`Axis`].
    interners: [Interner; Axis::COUNT],
    /// Those that keys and conditions are about.
    pub(super) paths: Paths,
    /// What no key decides.
    pub(super) conditions: Conditions,
    /// By [`KeyKind`]. Watchers that surely match by one term of a dimension are not here but with the
    /// term, and those that ask for a number in a range are in `ranges`.
    tables: [Table; KeyKind::COUNT],
    ranges: Ranges,
    /// How many watchers are filed under keys of each kind.
    filed: [u32; KeyKind::COUNT],
    /// The kinds that have some.
    in_use: Uses,
    /// Watchers with too many tuples, by each term of their pivot.
    over: [Pivots; Axis::COUNT],
    /// How many of them there are.
    over_watchers: u32,
    /// The other watchers that ask on several axes, by each term of their pivot: for attestations with
    /// too many tuples.
    pivots: [Pivots; Axis::COUNT],
    postings: Postings,
}

/// What the terms of an attestation lead to. A watcher may be there several times.
#[derive(Debug, Default)]
pub(super) struct Hits {
    /// Those that match.
    pub(super) found: Vec<u32>,
    /// Those whose terms are there, and of which the rest has to be verified.
    pub(super) by_key: Vec<u32>,
    /// Those of which everything has to be verified.
    pub(super) by_term: Vec<u32>,
    /// How many more a single term led to, and another one told apart.
    pub(super) told_apart: u64,
    /// How many terms and tuples were looked up.
    pub(super) probes: u64,
}

impl Side {
    pub(super) fn new(mode: Mode) -> Side {
        let mut kinds = KeyKind::all();
        Side {
            mode,
            interners: Default::default(),
            paths: Paths::default(),
            conditions: Conditions::default(),
            tables: std::array::from_fn(|_| {
                Table::new(kinds.next().expect("as many kinds as tables").shape())
            }),
            ranges: Ranges::default(),
            filed: [0; KeyKind::COUNT],
            in_use: 0,
            over: Default::default(),
            over_watchers: 0,
            pivots: Default::default(),
            postings: Postings::default(),
        }
    }

    /// Whether a watcher asks for something that a key can have.
    pub(super) fn files(filter: &Filter) -> bool {
        filter.tests().iter().any(|test| match test {
            Test::Any(..) => true,
            Test::Attribute(test) => Asked::of(test).is_some(),
            _ => false,
        })
    }

    /// Files a watcher under its terms, of which there are some.
    pub(super) fn insert(&mut self, id: u32, filter: &Filter) -> Record {
        let record = self.plan(filter);
        match record.way() {
            Way::Tuples => self.file_tuples(id, &record),
            Way::Pivot => {
                self.over_watchers += 1;
                self.file_pivot(id, &record, OVER);
                self.mark_attributes(&record);
            }
        }
        record
    }

    /// Undoes what [`Side::insert`] did.
    pub(super) fn remove(&mut self, id: u32, record: &Record) {
        match record.way() {
            Way::Tuples => self.unfile_tuples(id, record),
            Way::Pivot => {
                self.over_watchers -= 1;
                self.unfile_pivot(id, record, OVER);
            }
        }
        for axis in record.shape().axes() {
            for &term in record.terms(axis) {
                self.interners[axis.index()].release(term);
            }
        }
        if let Some(many) = record.many() {
            for &(axis, term) in &many.excluded {
                self.interners[axis.index()].release(term);
            }
            let rest = many.rest.iter();
            rest.for_each(|condition| self.conditions.release(*condition, &mut self.paths));
            if let Some(attribute) = &many.attribute {
                self.paths.unfile(attribute.path, attribute.asked);
                self.paths.release(attribute.path);
            }
        }
    }

    /// Decides how to file a watcher. Its terms count as used from here on.
    fn plan(&mut self, filter: &Filter) -> Record {
        let mut terms = Terms::default();
        for dimension in Dimension::ALL {
            let axis = Axis::of(dimension);
            let interner = &mut self.interners[axis.index()];
            terms.push(axis, filter.any(dimension).iter().map(|term| interner.acquire(term)));
        }
        let key = (terms.shape().len() < AXES_OF_KEY_MAX).then(|| self.most_telling(filter));
        let attribute = key.flatten().map(|key| self.acquire(key, &mut terms));
        let excluded = Dimension::ALL.into_iter().flat_map(|dimension| {
            filter.none(dimension).iter().map(move |term| (Axis::of(dimension), term))
        });
        let excluded = excluded
            .map(|(axis, term)| (axis, self.interners[axis.index()].acquire(term)))
            .collect();
        // What the key and the fields above decide needs no further test.
        let is_decided = |test: &Test| match test {
            Test::Any(..) | Test::None(..) => true,
            Test::NotBefore(moment) | Test::NotAfter(moment) => moment.as_fixed().is_some(),
            Test::Attribute(test) => key.flatten().is_some_and(|key| {
                std::ptr::eq(key.test, &raw const **test) && !key.asked.is_range()
            }),
        };
        // What bounds the number of the key was decided but for equal ones.
        let is_of_key = |test: &&Test| match test {
            Test::Attribute(test) => key
                .flatten()
                .is_some_and(|key| key.asked.is_range() && key.test.keys() == test.keys()),
            _ => false,
        };
        let (conditions, paths) = (&mut self.conditions, &mut self.paths);
        let rest = filter.tests().iter().filter(|test| !is_decided(test));
        let (of_key, others): (SmallVec<[_; 2]>, SmallVec<[_; 2]>) = rest.partition(is_of_key);
        let mut rest: SmallVec<_> =
            others.into_iter().map(|test| conditions.acquire(test, paths)).collect();
        rest.sort_by_key(|condition| std::cmp::Reverse(conditions.watchers(*condition)));
        rest.extend(of_key.into_iter().map(|test| conditions.acquire(test, paths)));
        let window = Window { start: filter.time_start(), end: filter.time_end() };
        let (way, pivot) = (way_of(&terms), self.most_selective(&terms));
        let mode = self.mode;
        let verified = AtomicU32::new(0);
        Record::new(Many { mode, way, pivot, terms, attribute, excluded, window, rest, verified })
    }

    /// The condition on attributes by which a watcher is filed, of those that a look-up decides: a value, unless
    /// so many ask for it that a span of numbers tells more; of two of a kind the one that fewer share.
    fn most_telling<'f>(&self, filter: &'f Filter) -> Option<Findable<'f>> {
        let mut all = Findable::of(filter);
        if all.len() < 2 {
            return all.pop();
        }
        let mut text = String::new();
        all.into_iter().min_by_key(|key| {
            let watchers = self.filed_like(key, &mut text);
            let is_common = key.asked == Asked::Equal && watchers > COMMON_VALUE;
            let like = if is_common { Asked::Between } else { key.asked };
            (Asked::ALL.iter().position(|other| *other == like), is_common, watchers)
        })
    }

    /// How many watchers are filed by the same term.
    fn filed_like(&self, key: &Findable<'_>, text: &mut String) -> u32 {
        let Some(path) = self.paths.find(key.test.keys()) else { return 0 };
        if key.asked != Asked::Equal {
            return self.paths.filed(path, key.asked);
        }
        write_term(text, path, key.asked, &key.test.value);
        let interner = &self.interners[Axis::ATTRIBUTE.index()];
        interner.find(text).map_or(0, |term| interner.watchers(term))
    }

    fn acquire(&mut self, key: Findable<'_>, terms: &mut Terms) -> Attribute {
        let Findable { test, asked, span } = key;
        let path = self.paths.acquire(test.keys());
        let mut text = String::new();
        write_term(&mut text, path, asked, &test.value);
        let term = self.interners[Axis::ATTRIBUTE.index()].acquire(&text);
        self.paths.file(path, asked, term, span);
        terms.push(Axis::ATTRIBUTE, std::iter::once(term));
        Attribute { path, asked, span }
    }

    /// The axis whose terms the fewest watchers use.
    fn most_selective(&self, terms: &Terms) -> Axis {
        let watchers = |axis: &Axis| -> u64 {
            let interner = &self.interners[axis.index()];
            terms.of(*axis).iter().map(|&term| u64::from(interner.watchers(term))).sum()
        };
        terms.shape().axes().min_by_key(watchers).unwrap_or(Axis::ATTRIBUTE)
    }

    fn file_tuples(&mut self, id: u32, record: &Record) {
        let kind = record.kind();
        self.filed[kind.index()] += 1;
        if is_alone(kind) {
            self.each_alone(record, |posting, postings| postings.add(posting, id));
            return;
        }
        for axis in record.shape().axes() {
            self.mark(axis, record.terms(axis), kind.bit());
        }
        if let Some(span) = record.span() {
            let ranges = &mut self.ranges;
            each_tuple(&lists_of(record), |tuple| ranges.add(kind, tuple, span, id));
        } else {
            let (table, postings) = (&mut self.tables[kind.index()], &mut self.postings);
            each_tuple(&lists_of(record), |tuple| table.add(tuple, id, postings));
        }
        self.in_use |= kind.bit();
        if record.shape().len() > 1 {
            self.file_pivot(id, record, PIVOT);
        }
    }

    fn unfile_tuples(&mut self, id: u32, record: &Record) {
        let kind = record.kind();
        self.filed[kind.index()] -= 1;
        if is_alone(kind) {
            self.each_alone(record, |posting, postings| postings.remove(posting, id));
            return;
        }
        if let Some(span) = record.span() {
            let ranges = &mut self.ranges;
            each_tuple(&lists_of(record), |tuple| ranges.remove(kind, tuple, span, id));
        } else {
            let (table, postings) = (&mut self.tables[kind.index()], &mut self.postings);
            each_tuple(&lists_of(record), |tuple| table.remove(tuple, id, postings));
        }
        if self.filed[kind.index()] == 0 {
            self.in_use &= !kind.bit();
        }
        if record.shape().len() > 1 {
            self.unfile_pivot(id, record, PIVOT);
        }
    }

    /// Visits the postings of a watcher that asks about one dimension and nothing else.
    fn each_alone(&mut self, record: &Record, mut visit: impl FnMut(&mut Posting, &mut Postings)) {
        let interner = &mut self.interners[record.pivot().index()];
        for &term in record.terms(record.pivot()) {
            visit(&mut interner.slot_mut(term).alone, &mut self.postings);
        }
    }

    fn file_pivot(&mut self, id: u32, record: &Record, using: Uses) {
        let (pivot, terms) = (record.pivot(), record.terms(record.pivot()));
        self.mark(pivot, terms, using);
        let (pivots, guards) = (self.by_term(pivot, using), guards_of(record));
        terms.iter().for_each(|&term| pivots.add(term, id, guards));
    }

    /// Marks terms without one of which a watcher with too many tuples need not be asked about attributes.
    fn mark_attributes(&mut self, record: &Record) {
        let (mut axes, pivot) = (record.shape().axes(), record.pivot());
        if record.shape().has(Axis::ATTRIBUTE) {
            let others = axes.next().expect("it has terms on several axes");
            let axis = if pivot == Axis::ATTRIBUTE { others } else { pivot };
            self.mark(axis, record.terms(axis), OVER_ATTRIBUTES);
        }
    }

    fn unfile_pivot(&mut self, id: u32, record: &Record, using: Uses) {
        let (pivot, terms) = (record.pivot(), record.terms(record.pivot()));
        let pivots = self.by_term(pivot, using);
        terms.iter().for_each(|&term| pivots.remove(term, id));
    }

    fn by_term(&mut self, axis: Axis, using: Uses) -> &mut Pivots {
        let pivots = if using == OVER { &mut self.over } else { &mut self.pivots };
        &mut pivots[axis.index()]
    }

    fn mark(&mut self, axis: Axis, terms: &[TermId], using: Uses) {
        let interner = &mut self.interners[axis.index()];
        terms.iter().for_each(|&term| interner.slot_mut(term).uses |= using);
    }

    /// Looks up the attestation's terms, and finds the watchers that they lead to.
    pub(super) fn probe(&self, claim: &Claim<'_>, values: &Values<'_>, hits: &mut Hits) -> Known {
        let mut known = self.look_up(claim, hits);
        // Reading them is the dearest part, so only where some watcher wants it.
        if self.wants_attributes(&known) {
            self.look_up_attributes(values, &mut known, hits);
        }
        let mut larger = SmallVec::<[(KeyKind, usize); 8]>::new();
        for kind in KeyKind::of_bits(self.possible(&known.uses)) {
            let tuples = known.tuples(kind);
            // Those of one axis are never more than terms, and no pivot leads to them.
            if tuples > TUPLES_ALWAYS && kind.shape().len() > 1 {
                larger.push((kind, tuples));
            } else {
                self.probe_kind(kind, &known, hits);
            }
        }
        if self.over_watchers > 0 {
            follow(&known, OVER, &self.over, hits);
        }
        if !larger.is_empty() {
            self.probe_larger(&larger, &known, hits);
        }
        known
    }

    /// Tries the tuples of these kinds, unless there are far too many, or single terms lead to fewer
    /// watchers.
    fn probe_larger(&self, kinds: &[(KeyKind, usize)], known: &Known, hits: &mut Hits) {
        let tuples = kinds.iter().fold(0, |sum: usize, (_, tuples)| sum.saturating_add(*tuples));
        // A tuple costs about as much as four watchers.
        let is_less = || tuples * 4 < filed(known, PIVOT, &self.pivots);
        if tuples <= TUPLES_MAX && is_less() {
            kinds.iter().for_each(|(kind, _)| self.probe_kind(*kind, known, hits));
        } else {
            follow(known, PIVOT, &self.pivots, hits);
        }
    }

    fn look_up(&self, claim: &Claim<'_>, hits: &mut Hits) -> Known {
        let mut known = Known::default();
        for dimension in Dimension::ALL {
            let axis = Axis::of(dimension);
            let interner = &self.interners[axis.index()];
            if interner.is_empty() {
                continue;
            }
            let count = claim.count(dimension, self.mode);
            hits.probes += count as u64;
            for i in 0..count {
                if let Some(term) = interner.find(claim.term(dimension, self.mode, i)) {
                    let slot = interner.slot(term);
                    self.postings.collect(slot.alone, &mut hits.found);
                    known.add(axis, term, slot.uses);
                }
            }
            known.complete(axis);
        }
        known
    }

    /// Whether a term of the attributes may lead to a watcher whose other terms are there.
    fn wants_attributes(&self, known: &Known) -> bool {
        let any_attribute = known.with_any(Axis::ATTRIBUTE);
        self.possible(&any_attribute) & !LACKING[Axis::ATTRIBUTE.index()] != 0
            || known.uses.iter().any(|uses| uses & OVER_ATTRIBUTES != 0)
    }

    fn look_up_attributes(&self, values: &Values<'_>, known: &mut Known, hits: &mut Hits) {
        let interner = &self.interners[Axis::ATTRIBUTE.index()];
        let mut text = String::new();
        for place in values.places(&self.paths) {
            for asked in Asked::ALL {
                if self.paths.filed(place.path, asked) == 0 {
                    continue;
                }
                let mut number = 0;
                let term = match asked {
                    Asked::Exists => Some(self.paths.term(place.path, asked)),
                    Asked::Equal if place.is_nest() => continue,
                    Asked::Equal => {
                        write_term(&mut text, place.path, asked, place.value());
                        interner.find(&text)
                    }
                    _ if !place.value().is_number() => continue,
                    _ => {
                        number = ranges::ordered(nearest(place.value()));
                        if !self.paths.may_reach(place.path, asked, number) {
                            hits.probes += 1;
                            continue;
                        }
                        Some(self.paths.term(place.path, asked))
                    }
                };
                hits.probes += 1;
                let Some(term) = term else { continue };
                let uses = interner.slot(term).uses;
                if asked.is_range() {
                    known.reach(Reached { term, uses, value: number });
                } else {
                    known.add(Axis::ATTRIBUTE, term, uses);
                }
            }
        }
        known.complete(Axis::ATTRIBUTE);
    }

    /// The kinds of key for which the attestation has a term on each axis.
    fn possible(&self, uses: &[Uses; Axis::COUNT]) -> Uses {
        let axes = uses.iter().zip(LACKING);
        axes.fold(self.in_use, |kinds, (uses, lacking)| kinds & (uses | lacking))
    }

    fn probe_kind(&self, kind: KeyKind, known: &Known, hits: &mut Hits) {
        let into = if kind.is_sure() { &mut hits.found } else { &mut hits.by_key };
        let mut lists = known.lists(kind);
        let table = &self.tables[kind.index()];
        each_tuple(&lists, |tuple| {
            hits.probes += 1;
            if let Some(posting) = table.get(tuple) {
                self.postings.collect(*posting, into);
            }
        });
        if kind.is_sure() || !kind.shape().has(Axis::ATTRIBUTE) {
            return;
        }
        // The last axis of a shape that has it.
        lists.pop();
        for reached in known.reached(kind) {
            lists.push(SmallVec::from_slice(&[reached.term]));
            each_tuple(&lists, |tuple| {
                hits.probes += self.ranges.reached(kind, tuple, reached.value, into);
            });
            lists.pop();
        }
    }

    /// Adds what is here.
    pub(super) fn add_to(&self, stats: &mut IndexStats) {
        for kind in KeyKind::all() {
            let watchers = self.filed[kind.index()] as usize;
            if watchers > 0 {
                stats.shapes.push(ShapeStats::new(kind, watchers));
            }
        }
        stats.by_one_term += self.over_watchers as usize;
        stats.terms += self.interners.iter().map(Interner::len).sum::<usize>();
        stats.keys += self.tables.iter().map(Table::len).sum::<usize>() + self.ranges.len();
        stats.memory_bytes += self.interners.iter().map(Interner::memory_bytes).sum::<usize>()
            + self.tables.iter().map(Table::memory_bytes).sum::<usize>()
            + self.over.iter().chain(&self.pivots).map(Pivots::memory_bytes).sum::<usize>()
            + self.paths.memory_bytes()
            + self.conditions.memory_bytes()
            + self.ranges.memory_bytes()
            + self.postings.memory_bytes();
    }

    /// How many terms, lists and keys there are.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.interners.iter().all(Interner::is_empty)
            && self.tables.iter().all(Table::is_empty)
            && self.over.iter().chain(&self.pivots).all(Pivots::is_empty)
            && self.paths.is_empty()
            && self.conditions.is_empty()
            && self.ranges.is_empty()
            && self.postings.lists_in_use() == 0
            && self.filed == [0; KeyKind::COUNT]
            && self.over_watchers == 0
            && self.in_use == 0
    }
}

/// The lists of watchers that known terms lead to.
fn lists_by_term<'a>(
    known: &Known,
    using: Uses,
    pivots: &'a [Pivots; Axis::COUNT],
) -> impl Iterator<Item = &'a List<Guarded>> {
    let axes = Axis::ALL.into_iter().zip(pivots);
    axes.flat_map(move |(axis, pivots)| known.using(axis, using).filter_map(|term| pivots.of(term)))
}

/// How many watchers known terms lead to.
fn filed(known: &Known, using: Uses, pivots: &[Pivots; Axis::COUNT]) -> usize {
    lists_by_term(known, using, pivots).map(List::len).sum()
}

/// Collects the watchers that known terms lead to, without those that need another term that is not there.
fn follow(known: &Known, using: Uses, pivots: &[Pivots; Axis::COUNT], hits: &mut Hits) {
    for watchers in lists_by_term(known, using, pivots).flat_map(List::pieces) {
        let may_hold = |watcher: &&Guarded| watcher.may_hold(|need| known.may_have(need));
        let before = hits.by_term.len();
        hits.by_term.extend(watchers.iter().filter(may_hold).map(|watcher| watcher.id));
        hits.told_apart += (watchers.len() - (hits.by_term.len() - before)) as u64;
    }
}

/// The terms of a watcher on axes other than its pivot, where it has just one: on the attributes before
/// others, as it is the most telling there. Then the marks of those where it has several.
fn guards_of(record: &Record) -> Guards {
    let axes = || record.shape().axes().filter(|axis| *axis != record.pivot()).rev();
    let single = axes().filter_map(|axis| match record.terms(axis) {
        &[term] => Some(Guard::new(axis, term)),
        _ => None,
    });
    let lists = |kind| {
        let lists = axes().map(|axis| (axis, record.terms(axis)));
        let several = lists.filter(|(_, terms)| terms.len() > 1);
        several.map(move |(axis, terms)| Guard::any_of(axis, kind, terms))
    };
    let mut guards = single.chain(lists(0)).chain(lists(1));
    std::array::from_fn(|_| guards.next().unwrap_or(Guard::NOTHING))
}

/// Whether watchers of this kind are filed with their terms and not in a table.
fn is_alone(kind: KeyKind) -> bool {
    kind.is_sure() && kind.shape().len() == 1 && !kind.shape().has(Axis::ATTRIBUTE)
}

/// How to file a watcher with these terms. Those of one axis are as many tuples as terms, which is never
/// too many.
fn way_of(terms: &Terms) -> Way {
    let lists: SmallVec<[&[TermId]; 4]> = terms.shape().axes().map(|axis| terms.of(axis)).collect();
    if lists.len() == 1 || tuples(&lists) <= TUPLES_OF_WATCHER_MAX {
        Way::Tuples
    } else {
        Way::Pivot
    }
}

fn lists_of(record: &Record) -> SmallVec<[&[TermId]; 4]> {
    record.shape().axes().map(|axis| record.terms(axis)).collect()
}
