//! Searches, newest first.
//!
//! For each dimension that names terms, the union of their postings is walked downwards, a few rows of
//! postings at a time; the dimensions leapfrog to the numbers that all of them have. What is found so
//! may match: the rows are fetched and asked. A search that names no terms reads the log itself. Of a
//! search that is bound in time SQLite passes over the rows that lie outside, and when these are many,
//! whole blocks of the log are.

use std::ops::RangeInclusive;

use axwatch_query::{Mode, fold};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::derive::SharedTail;
use super::failed;
use super::quarantine::Spoilt;
use super::reader::{FETCH_BY_SEQS, FETCH_ROWS, Fetched, fetch_newest};
use super::rows::{Select, attestation_text, select_attestations, select_both};
use super::times::{BlockTimes, Times};
use crate::packed::unpack;
use crate::store::{Page, PageWeight, Question, StoreError};
use crate::tail::Tail;
use axwatch_model::{Seq, Stored};

/// Rows of postings that are read at once: of a busy term they hold some thousand numbers, of a rare
/// one, which has a row in each generation, hardly more than these.
const BUSY_ROWS: usize = 4;
const RARE_ROWS: usize = 32;
/// With fewer numbers in a row a term is rare.
const RARE_NUMBERS_PER_ROW: u64 = 64;
/// A dimension so much denser than the rarest is not walked: to look whether it has a candidate then
/// costs more than to fetch the candidate and ask it.
const TOO_DENSE: f64 = 512.0;
/// Rows that are read for one page; then it is given with what was found, so that what is rare is not kept
/// back until there is more of it. Numbers that are passed over without reading their rows do not count.
const PAGE_READS_MAX: u64 = 2_048;
/// Rows that are passed over by their time for one page: some tens of milliseconds.
const PAGE_PASSED_MAX: u64 = 65_536;
/// To read a row for the times of its block costs this part of passing over it by its number.
const LEARNING_PART: u64 = 8;
/// Candidates that are fetched at least, once some have turned out not to match.
const DOUBTFUL_ROWS: usize = 64;
/// Rows that are passed over by their time before it pays to know the times of blocks.
const PASSED_BY_ROW_MAX: u64 = 512;

/// Answers a question.
pub(super) async fn answer(
    connection: &mut SqliteConnection,
    tail: &SharedTail,
    spoilt: &Spoilt,
    blocks: &BlockTimes,
    question: &Question,
) -> Result<Page, StoreError> {
    let mut page = Page::default();
    if question.limit == 0 {
        return Ok(page);
    }
    let times = Times::asked(&question.filter);
    let head = tail.read().head().seq.0;
    let mut source = Source::of(tail, question);
    // What the page has cost beside its rows, and rows that were passed over one by one.
    let (mut looked_at, mut passed) = (0, 0);
    // Candidates of the last fetch that were none.
    let mut wrong = 0;
    let mut weight = PageWeight::new(question.limit);
    while !weight.is_full() && page.next.is_none() && source.at_most() > 0 {
        if page.rows_read >= PAGE_READS_MAX || looked_at >= PAGE_PASSED_MAX {
            page.next = Some(Seq(source.at_most() + 1));
            break;
        }
        if passed >= PASSED_BY_ROW_MAX {
            let learned = blocks.learn(connection, source.at_most(), head).await?;
            looked_at += learned / LEARNING_PART;
        }
        let missing = question.limit - page.rows.len();
        let doubtful = page.rows_read > page.rows.len() as u64;
        let least = if doubtful { DOUBTFUL_ROWS } else { 1 };
        let count = missing.max(least).max(2 * wrong).min(FETCH_ROWS);
        let fetched = source.fetch(connection, spoilt, blocks, times, count).await?;
        looked_at += fetched.passed;
        passed += fetched.passed;
        wrong = fetched.wrong;
        page.rows_read += fetched.rows.len() as u64;
        let matching = fetched.rows.into_iter().filter(|row| question.holds_for(&row.attestation));
        for row in matching {
            weight.add(&row);
            page.rows.push(row);
            if weight.is_full() {
                break;
            }
        }
        if !weight.is_full() {
            page.next = fetched.cut.map(Seq::next);
        }
    }
    if weight.is_full() {
        page.next = page.next_after_last();
    }
    page.walked = source.walked();
    Ok(page)
}

/// The filter's terms as postings have them: always folded, since that narrows both kinds of filter,
/// and for AX with those that are one with them.
fn folded_terms(question: &Question) -> Vec<(usize, Vec<Box<str>>)> {
    let Question { filter, aliases, .. } = question;
    let folded = filter.dimensions().map(|(dimension, terms)| {
        let mut terms: Vec<Box<str>> = match filter.mode() {
            Mode::Exact => terms.iter().map(|term| fold(term).into()).collect(),
            Mode::Folded if dimension.has_aliases() => {
                let others = terms.iter().flat_map(|term| aliases.class_of(term));
                others.chain(terms).cloned().collect()
            }
            Mode::Folded => terms.to_vec(),
        };
        terms.sort_unstable();
        terms.dedup();
        (dimension.index(), terms)
    });
    folded.collect()
}

/// Where candidates come from.
enum Source {
    Postings(Search),
    /// The log, from this number down.
    Log(u64),
}

/// Candidates, newest first.
struct Candidates {
    rows: Vec<Stored>,
    /// The newest that was left for another time, as are all below it.
    cut: Option<Seq>,
    /// How many others there were, with another time than what was asked for.
    passed: u64,
    /// How many of those were fetched by their numbers.
    wrong: usize,
}

impl Source {
    fn of(tail: &SharedTail, question: &Question) -> Source {
        let terms = folded_terms(question);
        if terms.is_empty() {
            let head = tail.read().head().seq.0;
            let before = question.before.map_or(head, |before| before.0.saturating_sub(1));
            return Source::Log(before.min(head));
        }
        let dimensions = terms.iter().map(|(dimension, terms)| (*dimension, terms.as_slice()));
        Source::Postings(Search::new(tail, dimensions, question.before))
    }

    /// No candidate is left above this number; at 0 there is none.
    fn at_most(&self) -> u64 {
        match self {
            Source::Postings(search) => search.at_most,
            Source::Log(at_most) => *at_most,
        }
    }

    /// The dimensions that lead to candidates, the rarest first.
    fn walked(&self) -> Vec<axwatch_query::Dimension> {
        let Source::Postings(search) = self else { return Vec::new() };
        let walked = search.dimensions.iter().filter_map(|dimension| dimension.of_claim());
        walked.collect()
    }

    /// The next candidates. May find none before the end, where there are others before them.
    async fn fetch(
        &mut self,
        connection: &mut SqliteConnection,
        spoilt: &Spoilt,
        blocks: &BlockTimes,
        times: Times,
        count: usize,
    ) -> Result<Candidates, StoreError> {
        match self {
            Source::Postings(search) => {
                let mut seqs = Vec::with_capacity(count);
                while seqs.len() < count {
                    search.at_most = blocks.highest(search.at_most, times);
                    let Some(seq) = search.next(connection).await? else { break };
                    if blocks.highest(seq, times) == seq {
                        seqs.push(Seq(seq));
                    }
                }
                let text = serde_json::to_string(&seqs).expect("numbers are always JSON");
                let fetched = fetch_newest(connection, spoilt, &FETCH_BY_SEQS, |values| {
                    values.add(text.clone());
                    values.add(times.lowest);
                    values.add(times.highest);
                });
                let (Fetched { mut rows, .. }, cut) = fetched.await?;
                rows.reverse();
                let wrong = seqs.len() - rows.len();
                Ok(Candidates { rows, cut, passed: wrong as u64, wrong })
            }
            Source::Log(at_most) => {
                let Some(run) = blocks.run(*at_most, times) else {
                    *at_most = 0;
                    return Ok(Candidates { rows: Vec::new(), cut: None, passed: 0, wrong: 0 });
                };
                let (fetched, cut) =
                    fetch_downwards(connection, spoilt, &run, times, count).await?;
                let last = fetched.lowest().filter(|_| fetched.count() == count);
                *at_most = last.map_or(*run.start(), |seq| seq.0).saturating_sub(1);
                let mut rows = fetched.rows;
                rows.reverse();
                let passed = match times {
                    Times::ANY => 0,
                    _ => (run.end() - *at_most).saturating_sub(rows.len() as u64),
                };
                Ok(Candidates { rows, cut, passed, wrong: 0 })
            }
        }
    }
}

async fn fetch_downwards(
    connection: &mut SqliteConnection,
    spoilt: &Spoilt,
    run: &RangeInclusive<u64>,
    times: Times,
    count: usize,
) -> Result<(Fetched, Option<Seq>), StoreError> {
    let fetched = fetch_newest(connection, spoilt, &READ_DOWNWARDS, |values| {
        values.number(*run.start());
        values.number(*run.end());
        values.add(times.lowest);
        values.add(times.highest);
        values.add(count as i64);
    });
    fetched.await
}

const READ_DOWNWARDS: Select = select_both!(
    "WHERE seq BETWEEN ? AND ? AND timestamp BETWEEN ? AND ? ORDER BY seq DESC LIMIT ?"
);

/// The numbers that may have a term of each dimension, falling: all that have, and some others.
pub(super) struct Search {
    dimensions: Vec<Dimension>,
    /// None higher is left.
    at_most: u64,
    ordered: bool,
}

impl Search {
    /// Takes from the tail what it knows of these terms, all at one moment.
    pub fn new<'t>(
        tail: &SharedTail,
        terms: impl IntoIterator<Item = (usize, &'t [Box<str>])>,
        before: Option<Seq>,
    ) -> Search {
        let tail = tail.read();
        let head = tail.head().seq.0;
        let at_most = before.map_or(head, |before| before.0.saturating_sub(1).min(head));
        let dimension = |(dimension, terms): (usize, &[Box<str>])| Dimension {
            terms: terms.iter().map(|term| Term::new(&tail, dimension, term, at_most)).collect(),
        };
        let dimensions = terms.into_iter().map(dimension).collect();
        Search { dimensions, at_most, ordered: false }
    }

    /// The next number; `None` at the end. Dense dimensions are left to whoever asks the rows.
    pub async fn next(
        &mut self,
        connection: &mut SqliteConnection,
    ) -> Result<Option<u64>, StoreError> {
        while self.at_most > 0 {
            let (mut first, mut agreed) = (None, self.at_most);
            for dimension in &mut self.dimensions {
                let Some(seq) = dimension.highest(connection, agreed).await? else {
                    self.at_most = 0;
                    self.order();
                    return Ok(None);
                };
                first.get_or_insert(seq);
                agreed = seq;
            }
            if !self.ordered {
                self.order();
                self.at_most = agreed;
                continue;
            }
            // Each went down to where the one before it was, so if the last did not leave the first's
            // number, none did.
            if first == Some(agreed) {
                self.at_most = agreed - 1;
                return Ok(Some(agreed));
            }
            self.at_most = agreed;
        }
        Ok(None)
    }
}

impl Search {
    /// Lets the rarest dimension lead, since the others then leap furthest.
    fn order(&mut self) {
        self.ordered = true;
        self.dimensions.sort_by(|a, b| a.density().total_cmp(&b.density()));
        if let Some(rarest) = self.dimensions.first().map(Dimension::density) {
            self.dimensions.retain(|dimension| dimension.density() <= TOO_DENSE * rarest);
        }
    }
}

/// The union of some terms of one dimension.
struct Dimension {
    terms: Vec<Term>,
}

impl Dimension {
    /// Which of a claim's dimensions it is.
    fn of_claim(&self) -> Option<axwatch_query::Dimension> {
        let place = self.terms.first()?.dimension;
        axwatch_query::Dimension::ALL.get(place).copied()
    }

    async fn highest(
        &mut self,
        connection: &mut SqliteConnection,
        at_most: u64,
    ) -> Result<Option<u64>, StoreError> {
        let mut highest = None;
        for term in &mut self.terms {
            highest = highest.max(term.highest(connection, at_most).await?);
        }
        Ok(highest)
    }

    fn density(&self) -> f64 {
        self.terms.iter().map(Term::density).sum()
    }
}

/// One term's numbers: those read and not yet passed, and where the rest begins.
struct Term {
    dimension: usize,
    term: Box<str>,
    /// Rising; the last is the next.
    ahead: Vec<u64>,
    /// Rows of postings that begin above this have been read; `None`: all have.
    unread_upto: Option<u64>,
    /// Rows to read next time.
    rows: usize,
    /// Numbers that were read, and of how many of the log.
    read: u64,
    span: u64,
}

impl Term {
    fn new(tail: &Tail, dimension: usize, term: &str, at_most: u64) -> Term {
        let derived = tail.derived().seq.0;
        let ahead = tail.seqs_of_term(dimension, term, at_most);
        Term {
            dimension,
            term: term.into(),
            unread_upto: Some(derived),
            rows: BUSY_ROWS,
            read: ahead.len() as u64,
            span: at_most.saturating_sub(derived),
            ahead,
        }
    }

    /// The highest number up to `at_most`, which never rises from call to call.
    async fn highest(
        &mut self,
        connection: &mut SqliteConnection,
        at_most: u64,
    ) -> Result<Option<u64>, StoreError> {
        loop {
            self.ahead.truncate(self.ahead.partition_point(|seq| *seq <= at_most));
            if let Some(seq) = self.ahead.last() {
                return Ok(Some(*seq));
            }
            let Some(unread_upto) = self.unread_upto else { return Ok(None) };
            // Rows do not overlap: the one that begins at or last before a number is the only one that
            // can hold it. So those between are never read.
            self.read(connection, unread_upto.min(at_most)).await?;
        }
    }

    async fn read(
        &mut self,
        connection: &mut SqliteConnection,
        upto: u64,
    ) -> Result<(), StoreError> {
        let failed = failed("read postings");
        let rows: Vec<SqliteRow> = sqlx::query(READ_POSTINGS)
            .bind(self.dimension as i64)
            .bind(&*self.term)
            .bind(upto.cast_signed())
            .bind(self.rows as i64)
            .fetch_all(connection)
            .await
            .map_err(&failed)?;
        for row in rows.iter().rev() {
            let first_seq: i64 = row.try_get(0).map_err(&failed)?;
            let seqs: &[u8] = row.try_get(1).map_err(&failed)?;
            unpack(first_seq.cast_unsigned(), seqs, &mut self.ahead).map_err(|reason| {
                StoreError::Row { table: "postings", row: first_seq.to_string(), reason }
            })?;
        }
        let lowest = self.ahead.first().copied().unwrap_or(0);
        self.unread_upto = if rows.len() < self.rows { None } else { lowest.checked_sub(1) };
        self.read += self.ahead.len() as u64;
        self.span += upto - self.unread_upto.unwrap_or(0).min(upto);
        if (self.ahead.len() as u64) < RARE_NUMBERS_PER_ROW * rows.len() as u64 {
            self.rows = RARE_ROWS;
        }
        Ok(())
    }

    /// About which share of the log has the term, as far as was read.
    fn density(&self) -> f64 {
        self.read as f64 / self.span.max(1) as f64
    }
}

pub(super) const READ_POSTINGS: &str = "SELECT first_seq, seqs FROM postings \
     WHERE dimension = ? AND term = ? AND first_seq <= ? ORDER BY first_seq DESC LIMIT ?";
