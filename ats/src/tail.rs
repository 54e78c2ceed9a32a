//! What the derived tables do not hold yet, in memory: where each id and each term of the newest rows
//! is found.
//!
//! New rows go to the live generation. When that is full it is frozen, written to the derived tables
//! in sorted slices, and let go. A generation is a range of the log, so after a crash the same rows
//! make the same generation again, and writing its slices twice changes nothing.
//!
//! A reader takes what it needs from here first and asks the tables only up to [`Tail::derived`] as it
//! was then: so it misses nothing that moves in between, and sees nothing twice.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;

use axwatch_model::{Attestation, JobId, JobNumber, JobRow, Seq, Stored};
use axwatch_query::{Dimension, fold};

use crate::packed::pack;

/// Dimensions of postings: the four of a claim, and the job that made it.
const DIMENSIONS: usize = 5;
/// The posting dimension whose terms are ids of jobs.
pub(crate) const PARENT_JOB: usize = 4;
/// Numbers in one row of postings.
const SEQS_PER_ROW: usize = 1_024;

/// How much may wait in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TailBounds {
    /// Rows of the log in one generation.
    pub rows_max: usize,
    /// Bytes of one generation, counted roughly.
    pub bytes_max: usize,
    /// A live generation with fewer rows is not worth writing in idle time, nor when the store closes.
    pub idle_rows_min: usize,
    /// Derived rows in one slice.
    pub slice_rows_max: usize,
}

impl Default for TailBounds {
    fn default() -> TailBounds {
        TailBounds {
            rows_max: 32_768,
            bytes_max: 12 << 20,
            idle_rows_min: 4_096,
            slice_rows_max: 1_000,
        }
    }
}

/// A place in the log and among the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub seq: Seq,
    pub job: JobNumber,
}

/// All that lies between the derived tables and the head.
#[derive(Debug)]
pub(crate) struct Tail {
    derived: Mark,
    frozen: Option<Arc<Generation>>,
    live: Generation,
}

impl Tail {
    /// Empty: everything up to `derived` is in the tables.
    pub fn new(derived: Mark) -> Tail {
        Tail { derived, frozen: None, live: Generation::after(derived) }
    }

    /// Up to where the tables answer.
    pub fn derived(&self) -> Mark {
        self.derived
    }

    /// The last attestation and the last job.
    pub fn head(&self) -> Mark {
        self.live.upto
    }

    /// The generation that is being written.
    pub fn frozen(&self) -> Option<&Arc<Generation>> {
        self.frozen.as_ref()
    }

    /// The generation that still grows.
    pub fn live(&self) -> &Generation {
        &self.live
    }

    /// Takes rows that were committed; those that it has already are passed over.
    pub fn extend(&mut self, entries: Entries<'_>) {
        self.live.extend(entries);
    }

    /// Goes on to this place though nothing was taken from there: what was is not in the log any more.
    pub fn pass_over(&mut self, upto: Mark) {
        self.live.upto.seq = self.live.upto.seq.max(upto.seq);
        self.live.upto.job = self.live.upto.job.max(upto.job);
    }

    /// Claims of a range that caused jobs, as far as these are here; some of them more than once.
    pub fn seqs_with_jobs(&self, seqs: RangeInclusive<u64>) -> Vec<u64> {
        let range = (seqs.start().cast_signed(), 0)..=(seqs.end().cast_signed(), u64::MAX);
        let of = |generation: &Generation| {
            let pairs = generation.job_seqs.range(range.clone());
            pairs.map(|(seq, _)| seq.cast_unsigned()).collect::<Vec<_>>()
        };
        self.generations().flat_map(of).collect()
    }

    /// Ends the live generation and begins the next. There must be no frozen one.
    pub fn freeze(&mut self) -> Arc<Generation> {
        assert!(self.frozen.is_none(), "one generation is written at a time");
        let next = Generation::after(self.live.upto);
        let frozen = Arc::new(std::mem::replace(&mut self.live, next));
        self.frozen = Some(frozen.clone());
        frozen
    }

    /// Lets go of the frozen generation: all its slices are committed. To be dropped elsewhere, because
    /// that takes a while.
    pub fn finish_frozen(&mut self) -> Arc<Generation> {
        let frozen = self.frozen.take().expect("a generation was being written");
        self.derived = frozen.upto;
        frozen
    }

    /// Drops what another process has meanwhile written to the tables.
    pub fn forget_upto(&mut self, derived: Mark) {
        assert!(self.frozen.is_none(), "only a follower forgets");
        self.derived = derived;
        self.live.forget_upto(derived);
    }

    /// Attestations whose id has this hash, as far as they are here.
    pub fn seqs_of_id(&self, hash: i64) -> impl Iterator<Item = u64> {
        self.generations().flat_map(move |generation| beside(&generation.ids, hash))
    }

    /// Jobs whose id has this hash, as far as they are here.
    pub fn numbers_of_job(&self, hash: i64) -> impl Iterator<Item = u64> {
        self.generations().flat_map(move |generation| beside(&generation.jobs, hash))
    }

    /// Jobs that an attestation caused, as far as they are here.
    pub fn jobs_of_seq(&self, seq: Seq) -> impl Iterator<Item = u64> {
        let seq = seq.0.cast_signed();
        self.generations().flat_map(move |generation| beside(&generation.job_seqs, seq))
    }

    /// Jobs whose id has a hash from `first` to `last`, up to `limit` of each generation, by hash.
    pub fn numbers_of_jobs(&self, first: i64, last: i64, limit: usize) -> Vec<(i64, u64)> {
        let of = |generation: &Generation| {
            let range = generation.jobs.range((first, 0)..=(last, u64::MAX));
            range.take(limit).copied().collect::<Vec<_>>()
        };
        self.generations().flat_map(of).collect()
    }

    /// Attestations up to `at_most` with a term, rising.
    pub fn seqs_of_term(&self, dimension: usize, term: &str, at_most: u64) -> Vec<u64> {
        let mut found = Vec::new();
        for generation in self.generations() {
            if let Some(seqs) = generation.postings[dimension].get(term) {
                found.extend_from_slice(&seqs[..seqs.partition_point(|seq| *seq <= at_most)]);
            }
        }
        found
    }

    fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.frozen.as_deref().into_iter().chain([&self.live])
    }
}

/// The numbers beside a hash or an attestation.
fn beside(index: &BTreeSet<(i64, u64)>, key: i64) -> impl Iterator<Item = u64> {
    index.range((key, 0)..=(key, u64::MAX)).map(|(_, number)| *number)
}

/// A range of the log, turned over: from ids and terms to numbers.
#[derive(Debug)]
pub(crate) struct Generation {
    upto: Mark,
    postings: [BTreeMap<Box<str>, Vec<u64>>; DIMENSIONS],
    ids: BTreeSet<(i64, u64)>,
    jobs: BTreeSet<(i64, u64)>,
    /// Jobs by the attestation that caused them.
    job_seqs: BTreeSet<(i64, u64)>,
    bytes: usize,
    posting_rows: usize,
}

impl Generation {
    fn after(upto: Mark) -> Generation {
        Generation {
            upto,
            postings: Default::default(),
            ids: BTreeSet::new(),
            jobs: BTreeSet::new(),
            job_seqs: BTreeSet::new(),
            bytes: 0,
            posting_rows: 0,
        }
    }

    /// The last attestation and the last job in it.
    pub fn upto(&self) -> Mark {
        self.upto
    }

    /// Rows of the log in it.
    pub fn log_rows(&self) -> usize {
        self.ids.len() + self.jobs.len()
    }

    /// Rows of derived tables that it becomes.
    pub fn derived_rows(&self) -> usize {
        self.posting_rows + self.ids.len() + self.jobs.len() + self.job_seqs.len()
    }

    /// What it takes in memory, roughly.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it has come to its bound.
    pub fn is_full(&self, bounds: &TailBounds) -> bool {
        self.log_rows() >= bounds.rows_max || self.bytes >= bounds.bytes_max
    }

    fn extend(&mut self, entries: Entries<'_>) {
        for entry in entries.attestations {
            if entry.seq <= self.upto.seq {
                continue;
            }
            self.upto.seq = entry.seq;
            self.ids.insert((entry.hash, entry.seq.0));
            self.bytes += 24;
            for (dimension, term) in entry.terms {
                self.post(dimension, &term, entry.seq.0);
            }
        }
        for JobEntry { number, hash, seq } in entries.jobs {
            if number <= self.upto.job {
                continue;
            }
            self.upto.job = number;
            self.jobs.insert((hash, number.0));
            self.bytes += 24;
            if let Some(seq) = seq {
                self.job_seqs.insert((seq.0.cast_signed(), number.0));
                self.bytes += 24;
            }
        }
    }

    fn post(&mut self, dimension: usize, term: &str, seq: u64) {
        match self.postings[dimension].get_mut(term) {
            Some(seqs) => {
                // Two spellings of one folded term are one posting.
                if seqs.last() != Some(&seq) {
                    self.posting_rows += usize::from(seqs.len() % SEQS_PER_ROW == 0);
                    self.bytes += 8;
                    seqs.push(seq);
                }
            }
            None => {
                self.postings[dimension].insert(term.into(), vec![seq]);
                self.posting_rows += 1;
                self.bytes += term.len() + 88;
            }
        }
    }

    fn forget_upto(&mut self, derived: Mark) {
        let mut kept = Generation::after(derived);
        kept.upto =
            Mark { seq: self.upto.seq.max(derived.seq), job: self.upto.job.max(derived.job) };
        kept.ids = self.ids.iter().copied().filter(|(_, seq)| *seq > derived.seq.0).collect();
        let later = |jobs: &BTreeSet<(i64, u64)>| {
            jobs.iter().copied().filter(|(_, job)| *job > derived.job.0).collect()
        };
        (kept.jobs, kept.job_seqs) = (later(&self.jobs), later(&self.job_seqs));
        kept.bytes = 24 * (kept.ids.len() + kept.jobs.len() + kept.job_seqs.len());
        for (dimension, postings) in self.postings.iter().enumerate() {
            for (term, seqs) in postings {
                for seq in &seqs[seqs.partition_point(|seq| *seq <= derived.seq.0)..] {
                    kept.post(dimension, term, *seq);
                }
            }
        }
        *self = kept;
    }

    /// The next rows of derived tables after `cursor`, at most `rows_max` of them, in the order of the
    /// tables' keys; moves the cursor behind them. Empty at the end.
    pub fn slice(&self, cursor: &mut Cursor, rows_max: usize) -> Slice {
        let mut slice = Slice::default();
        while cursor.table < DIMENSIONS {
            let postings = &self.postings[cursor.table];
            let from = match &cursor.term {
                Some(term) => Bound::Excluded(term.as_ref()),
                None => Bound::Unbounded,
            };
            let mut last = None;
            for (term, seqs) in postings.range::<str, _>((from, Bound::Unbounded)) {
                let rows = seqs.len().div_ceil(SEQS_PER_ROW);
                if slice.rows() + rows > rows_max && slice.rows() > 0 {
                    cursor.term = last.or(cursor.term.take());
                    return slice;
                }
                slice.postings.extend(seqs.chunks(SEQS_PER_ROW).map(|seqs| PostingRow {
                    dimension: cursor.table,
                    term: Arc::from(&**term),
                    first_seq: seqs[0],
                    seqs: pack(seqs),
                }));
                last = Some(term.clone());
            }
            *cursor = Cursor { table: cursor.table + 1, ..Cursor::default() };
        }
        let mut taken = slice.rows();
        for (table, index, rows) in [
            (DIMENSIONS, &self.ids, &mut slice.ids),
            (DIMENSIONS + 1, &self.jobs, &mut slice.jobs),
            (DIMENSIONS + 2, &self.job_seqs, &mut slice.job_seqs),
        ] {
            if cursor.table == table {
                let room = rows_max.saturating_sub(taken);
                *rows = take_pairs(index, cursor, room);
                taken += rows.len();
            }
        }
        slice
    }
}

/// The next pairs after the cursor; goes on to the next table when they are the last ones.
fn take_pairs(index: &BTreeSet<(i64, u64)>, cursor: &mut Cursor, room: usize) -> Vec<(i64, u64)> {
    let from = cursor.pair.map_or(Bound::Unbounded, Bound::Excluded);
    let rows: Vec<_> = index.range((from, Bound::Unbounded)).take(room).copied().collect();
    if rows.len() < room {
        *cursor = Cursor { table: cursor.table + 1, ..Cursor::default() };
    } else {
        cursor.pair = rows.last().copied().or(cursor.pair);
    }
    rows
}

/// How far the slices of a generation have come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cursor {
    /// Postings by dimension, then ids, then jobs by id, then jobs by attestation.
    table: usize,
    term: Option<Box<str>>,
    pair: Option<(i64, u64)>,
}

/// Rows for the derived tables, each list in the order of its table's key.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    pub postings: Vec<PostingRow>,
    pub ids: Vec<(i64, u64)>,
    pub jobs: Vec<(i64, u64)>,
    pub job_seqs: Vec<(i64, u64)>,
}

impl Slice {
    pub fn rows(&self) -> usize {
        self.postings.len() + self.ids.len() + self.jobs.len() + self.job_seqs.len()
    }
}

/// A row of table `postings`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PostingRow {
    pub dimension: usize,
    pub term: Arc<str>,
    pub first_seq: u64,
    pub seqs: Vec<u8>,
}

/// What the tail has to know about new rows. Made before the tail is locked, because folding takes
/// longer than putting in.
#[derive(Debug, Default)]
pub(crate) struct Entries<'a> {
    pub attestations: Vec<Entry<'a>>,
    /// By number.
    pub jobs: Vec<JobEntry>,
}

/// What the tail has to know about one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobEntry {
    pub number: JobNumber,
    /// Of its id.
    pub hash: i64,
    /// The attestation that caused it.
    pub seq: Option<Seq>,
}

/// What the tail has to know about one attestation.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub seq: Seq,
    pub hash: i64,
    pub terms: Vec<(usize, Cow<'a, str>)>,
}

impl<'a> Entries<'a> {
    pub fn of(
        attestations: impl Iterator<Item = &'a Stored>,
        jobs: impl Iterator<Item = &'a JobRow>,
    ) -> Entries<'a> {
        let entry =
            |job: &JobRow| JobEntry { number: job.number, hash: job.id.hash64(), seq: job.seq };
        let mut jobs: Vec<_> = jobs.map(entry).collect();
        jobs.sort_unstable();
        Entries { attestations: attestations.map(Entry::of).collect(), jobs }
    }
}

impl<'a> Entry<'a> {
    fn of(stored: &'a Stored) -> Entry<'a> {
        let Attestation { subjects, predicates, contexts, actors, .. } = &stored.attestation;
        let dimensions = [
            (Dimension::Subject, subjects),
            (Dimension::Predicate, predicates),
            (Dimension::Context, contexts),
            (Dimension::Actor, actors),
        ];
        let terms = dimensions.iter().flat_map(|(dimension, terms)| {
            terms.iter().map(|term| (dimension.index(), fold(term)))
        });
        let parent = stored.lineage.parent_job.map(|job| (PARENT_JOB, Cow::Owned(job_term(job))));
        Entry {
            seq: stored.seq,
            hash: stored.attestation.id.hash64(),
            terms: terms.chain(parent).collect(),
        }
    }
}

/// The term under which the claims of a job are found.
pub(crate) fn job_term(job: JobId) -> String {
    job.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::unpack;

    const BOUNDS: TailBounds =
        TailBounds { rows_max: 100, bytes_max: 1 << 20, idle_rows_min: 10, slice_rows_max: 7 };

    fn entries(seqs: std::ops::RangeInclusive<u64>) -> Entries<'static> {
        let attestation = |seq: u64| Entry {
            seq: Seq(seq),
            hash: (seq as i64 * 7) % 11,
            terms: vec![
                (0, format!("s{}", seq % 5).into()),
                (1, "is".into()),
                (1, "is".into()),
                (PARENT_JOB, format!("{seq:032x}").into()),
            ],
        };
        let job = |number: u64| JobEntry {
            number: JobNumber(number),
            hash: number as i64,
            seq: number.is_multiple_of(2).then_some(Seq(number / 4)),
        };
        let jobs = seqs.clone().map(job).collect();
        Entries { attestations: seqs.map(attestation).collect(), jobs }
    }

    #[test]
    fn slices_are_sorted_bounded_and_together_everything() {
        let mut tail = Tail::new(Mark::default());
        tail.extend(entries(1..=3_000));
        assert!(tail.live().is_full(&BOUNDS));
        let frozen = tail.freeze();
        let (mut cursor, mut rows) = (Cursor::default(), 0);
        let (mut keys, mut ids, mut jobs) = (Vec::new(), Vec::new(), Vec::new());
        let mut job_seqs = Vec::new();
        let mut common = Vec::new();
        loop {
            let slice = frozen.slice(&mut cursor, BOUNDS.slice_rows_max);
            if slice.rows() == 0 {
                break;
            }
            assert!(slice.rows() <= BOUNDS.slice_rows_max);
            rows += slice.rows();
            for row in slice.postings {
                if &*row.term == "is" {
                    unpack(row.first_seq, &row.seqs, &mut common).unwrap();
                }
                keys.push((row.dimension, row.term, row.first_seq));
            }
            ids.extend(slice.ids);
            jobs.extend(slice.jobs);
            job_seqs.extend(slice.job_seqs);
        }
        assert_eq!(rows, frozen.derived_rows());
        assert_eq!(common, (1..=3_000).collect::<Vec<u64>>());
        assert_eq!(keys.len(), 5 + 3 + 3_000);
        assert!(keys.is_sorted() && ids.is_sorted() && jobs.is_sorted() && job_seqs.is_sorted());
        assert_eq!((ids.len(), jobs.len(), job_seqs.len()), (3_000, 3_000, 1_500));
    }

    #[test]
    fn generations_answer_together_and_rows_come_once() {
        let mut tail = Tail::new(Mark { seq: Seq(2), job: JobNumber(2) });
        tail.extend(entries(1..=5));
        tail.freeze();
        tail.extend(entries(4..=8));
        assert_eq!(tail.seqs_of_term(1, "is", 7), [3, 4, 5, 6, 7]);
        assert_eq!(tail.seqs_of_term(1, "was", 7), [0; 0]);
        assert_eq!(tail.numbers_of_job(6).collect::<Vec<_>>(), [6]);
        assert_eq!(tail.jobs_of_seq(Seq(1)).collect::<Vec<_>>(), [4, 6]);
        assert_eq!(tail.jobs_of_seq(Seq(3)).count(), 0);
        assert_eq!(tail.seqs_of_id(28 % 11).collect::<Vec<_>>(), [4]);
        tail.finish_frozen();
        assert_eq!(tail.derived(), Mark { seq: Seq(5), job: JobNumber(5) });
        assert_eq!(tail.seqs_of_term(1, "is", 100), [6, 7, 8]);
        tail.forget_upto(Mark { seq: Seq(7), job: JobNumber(9) });
        assert_eq!(tail.head(), Mark { seq: Seq(8), job: JobNumber(9) });
        assert_eq!(tail.seqs_of_term(1, "is", 100), [8]);
        assert_eq!((tail.numbers_of_job(8).count(), tail.jobs_of_seq(Seq(2)).count()), (0, 0));
    }
}
