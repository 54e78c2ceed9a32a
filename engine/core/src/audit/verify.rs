//! The whole audit, recomputed: does every record still hash to what was stored?
//!
//! Without a saved head this finds every change that does not also recompute everything after it;
//! with one it finds that too, and a cut. It stops at the first problem: after it nothing has a
//! number that could be trusted.

use std::ops::ControlFlow;

use axwatch_model::LeafNumber;
use serde::{Serialize, Serializer};

use super::Head;
use super::leaf::{RecordFault, check_record};
use super::tree::{Hash, Node, Tree, completed_nodes, hash_leaf};

/// One commit of the audit, as the store has it.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The number of its first record.
    pub first_leaf: LeafNumber,
    /// How many records it says it has.
    pub count: u64,
    /// The records, one a line.
    pub records: &'a str,
    /// The nodes that they completed.
    pub nodes: &'a [u8],
    /// The root after them.
    pub head: &'a Hash,
}

/// The first thing that is wrong. A row is named by the number of its first record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Records were taken out together with their rows.
    #[error("rows jump from {expected} to {found}: {} missing", are(found.0 - expected.0))]
    Gap {
        /// The record that comes next.
        expected: LeafNumber,
        /// The record that the next row begins with.
        found: LeafNumber,
    },
    /// A row begins with a record that was already there.
    #[error("a row begins again at record {found}, where record {expected} comes next")]
    Repeated {
        /// The record that comes next.
        expected: LeafNumber,
        /// The record that the next row begins with.
        found: LeafNumber,
    },
    /// A row does not hold as many records as it says.
    #[error("row {row} says that it has {count} records, and has {found}")]
    Count {
        /// Which row.
        row: LeafNumber,
        /// What it says.
        count: u64,
        /// What it holds.
        found: u64,
    },
    /// A line that no axwatch writes.
    #[error("record {record}: {fault}")]
    Record {
        /// Which record.
        record: LeafNumber,
        /// What is wrong with it.
        fault: RecordFault,
    },
    /// A record, or its hash, was changed.
    #[error("record {0}: its hash differs from the stored node")]
    LeafDiffers(LeafNumber),
    /// A hash over several records was changed.
    #[error("record {}: the stored node over records {} to {} differs", .0.last_leaf(), .0.first_leaf(), .0.last_leaf())]
    NodeDiffers(Node),
    /// The nodes of a row end early.
    #[error("record {}: a stored node is missing", .0.last_leaf())]
    NodeMissing(Node),
    /// The nodes of a row go on after its last record.
    #[error("row {row}: {bytes} bytes of stored nodes belong to none of its records")]
    NodesLeft {
        /// Which row.
        row: LeafNumber,
        /// How many.
        bytes: usize,
    },
    /// The head of a row was changed.
    #[error("row {0}: stored head differs")]
    HeadDiffers(LeafNumber),
    /// The log ends before the saved head.
    #[error("the log has {}, the saved head {saved}: its end was cut off", records(*found))]
    Cut {
        /// Records that there are.
        found: u64,
        /// Records that there were.
        saved: u64,
    },
    /// Everything fits together, and is not what it was.
    #[error("the first {} no longer hash to the saved head", records(*.0))]
    Rewritten(u64),
}

fn records(count: u64) -> String {
    if count == 1 { "1 record".to_owned() } else { format!("{count} records") }
}

fn are(count: u64) -> String {
    format!("{} {}", records(count), if count == 1 { "is" } else { "are" })
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What came out. As JSON: `{"ok":…,"records":…,"head":"<size>:<root>","problem":…}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether all is as it was.
    pub ok: bool,
    /// Records that were recomputed, up to the problem if there is one.
    pub records: u64,
    /// The head over these records.
    pub head: Head,
    /// The first thing that is wrong.
    pub problem: Option<Problem>,
}

/// Recomputes the audit row by row, from the first.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    tree: Tree,
    saved: Option<Head>,
    problem: Option<Problem>,
}

impl Verifier {
    /// One that trusts nothing but what it is fed.
    #[must_use]
    pub fn new() -> Verifier {
        Verifier::default()
    }

    /// One that also holds the log to a head that was saved earlier.
    #[must_use]
    pub fn with_saved_head(saved: Head) -> Verifier {
        let mut verifier = Verifier { saved: Some(saved), ..Verifier::default() };
        verifier.problem = verifier.check_saved().err();
        verifier
    }

    /// Takes the next row. Breaks at a problem: further rows say nothing more.
    pub fn feed(&mut self, row: &Row<'_>) -> ControlFlow<()> {
        if self.problem.is_none() {
            self.problem = self.check_row(row).err();
        }
        if self.problem.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Records recomputed so far, for showing progress.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.tree.size()
    }

    /// After the last row: what came out.
    #[must_use]
    pub fn finish(self) -> Report {
        let head = self.tree.head();
        let cut = self.saved.filter(|saved| head.size < saved.size);
        let cut = cut.map(|saved| Problem::Cut { found: head.size, saved: saved.size });
        let problem = self.problem.or(cut);
        Report { ok: problem.is_none(), records: head.size, head, problem }
    }

    fn check_row(&mut self, row: &Row<'_>) -> Result<(), Problem> {
        self.check_numbers(row)?;
        let mut nodes = row.nodes;
        for record in row.records.split('\n') {
            self.check_record(record, &mut nodes)?;
            self.check_saved()?;
        }
        if !nodes.is_empty() {
            return Err(Problem::NodesLeft { row: row.first_leaf, bytes: nodes.len() });
        }
        if self.tree.root() != *row.head {
            return Err(Problem::HeadDiffers(row.first_leaf));
        }
        Ok(())
    }

    fn check_numbers(&self, row: &Row<'_>) -> Result<(), Problem> {
        let (expected, found) = (LeafNumber(self.tree.size()), row.first_leaf);
        if found > expected {
            return Err(Problem::Gap { expected, found });
        }
        if found < expected {
            return Err(Problem::Repeated { expected, found });
        }
        let lines = row.records.split('\n').count() as u64;
        let found = if row.records.is_empty() { 0 } else { lines };
        if found != row.count || found == 0 {
            return Err(Problem::Count { row: row.first_leaf, count: row.count, found });
        }
        Ok(())
    }

    /// Appends one record, and takes what it completes off the front of the stored `nodes`. Its hash
    /// comes before its form, so that an edit is told as an edit even where it broke the JSON.
    fn check_record(&mut self, text: &str, nodes: &mut &[u8]) -> Result<(), Problem> {
        let record = LeafNumber(self.tree.size());
        let hash = hash_leaf(text.as_bytes());
        let mut completed = completed_nodes(record);
        let leaf = completed.next().expect("a record completes itself");
        if take_stored(nodes, leaf)? != hash {
            return Err(Problem::LeafDiffers(record));
        }
        check_record(text).map_err(|fault| Problem::Record { record, fault })?;
        self.tree.append_hash(hash);
        let computed = self.tree.drain_nodes();
        for (node, hash) in completed.zip(computed.skip(1)) {
            if take_stored(nodes, node)? != hash {
                return Err(Problem::NodeDiffers(node));
            }
        }
        Ok(())
    }

    fn check_saved(&self) -> Result<(), Problem> {
        match self.saved {
            Some(saved) if saved.size == self.tree.size() && saved.root != self.tree.root() => {
                Err(Problem::Rewritten(saved.size))
            }
            _ => Ok(()),
        }
    }
}

/// The next of the stored nodes, which has to be there for `node`.
fn take_stored(nodes: &mut &[u8], node: Node) -> Result<Hash, Problem> {
    let (stored, rest) = nodes.split_first_chunk().ok_or(Problem::NodeMissing(node))?;
    *nodes = rest;
    Ok(*stored)
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::tree_of;
    use super::*;
    use proptest::prelude::*;

    /// A row that a test may tamper with.
    #[derive(Debug, Clone, PartialEq)]
    struct OwnRow {
        first_leaf: u64,
        records: Vec<String>,
        nodes: Vec<u8>,
        head: Hash,
    }

    fn record(number: u64) -> String {
        format!(r#"{{"at":"2026-08-21T12:00:00Z","job":"{number:032x}","type":"attempt_started"}}"#)
    }

    /// Rows as the writer makes them, of so many records each.
    fn rows(counts: &[u64]) -> Vec<OwnRow> {
        let mut tree = Tree::new();
        counts.iter().map(|count| row_after(&mut tree, *count, record)).collect()
    }

    fn row_after(tree: &mut Tree, count: u64, record: impl Fn(u64) -> String) -> OwnRow {
        let first_leaf = tree.size();
        let records: Vec<String> = (first_leaf..first_leaf + count).map(record).collect();
        for record in &records {
            tree.append(record.as_bytes());
        }
        OwnRow { first_leaf, records, nodes: tree.take_nodes(), head: tree.root() }
    }

    fn head_of(rows: &[OwnRow]) -> Head {
        let records: Vec<Vec<u8>> = rows
            .iter()
            .flat_map(|row| &row.records)
            .map(|text| text.clone().into_bytes())
            .collect();
        tree_of(&records).head()
    }

    fn verify(rows: &[OwnRow], saved: Option<Head>) -> Report {
        let mut verifier = saved.map_or_else(Verifier::new, Verifier::with_saved_head);
        for row in rows {
            let fed = verifier.feed(&Row {
                first_leaf: LeafNumber(row.first_leaf),
                count: row.records.len() as u64,
                records: &row.records.join("\n"),
                nodes: &row.nodes,
                head: &row.head,
            });
            if fed.is_break() {
                break;
            }
        }
        verifier.finish()
    }

    const COUNTS: [u64; 8] = [1, 2, 17, 1, 10, 33, 5, 31];

    #[test]
    fn an_untouched_log_is_ok_against_every_head_it_ever_had() {
        let rows = rows(&COUNTS);
        for size in 0..=rows.len() {
            let report = verify(&rows, Some(head_of(&rows[..size])));
            assert_eq!(report.problem, None);
            assert!(report.ok);
            assert_eq!((report.records, report.head), (100, head_of(&rows)));
        }
        assert_eq!(verify(&[], None).head.to_string(), format!("0:{}", EMPTY));
    }

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_first_problem_is_named() {
        type Tamper = fn(&mut Vec<OwnRow>);
        let cases: [(Tamper, &str); 17] = [
            (
                |rows| rows[2].records[14].push(' '),
                "record 17: its hash differs from the stored node",
            ),
            (
                |rows| rows[2].records.swap(14, 15),
                "record 17: its hash differs from the stored node",
            ),
            (
                |rows| drop(rows[2].records.remove(14)),
                "record 17: its hash differs from the stored node",
            ),
            (
                |rows| rows[3].records[0] = "x".into(),
                "record 20: its hash differs from the stored node",
            ),
            (|rows| drop(rows.remove(4)), "rows jump from 21 to 31: 10 records are missing"),
            (|rows| drop(rows.remove(3)), "rows jump from 20 to 21: 1 record is missing"),
            (|rows| rows.swap(3, 4), "rows jump from 20 to 21: 1 record is missing"),
            (
                |rows| rows.insert(4, rows[3].clone()),
                "a row begins again at record 20, where record 21 comes next",
            ),
            (|rows| rows[4].head[31] ^= 1, "row 21: stored head differs"),
            (|rows| rows[2].nodes[0] ^= 1, "record 3: its hash differs from the stored node"),
            (
                |rows| rows[2].nodes[32] ^= 1,
                "record 3: the stored node over records 2 to 3 differs",
            ),
            (|rows| rows[4].nodes.truncate(32 * 3 - 1), "record 22: a stored node is missing"),
            (
                |rows| rows[4].nodes.push(1),
                "row 21: 1 bytes of stored nodes belong to none of its records",
            ),
            (|rows| rows[4].records.clear(), "row 21 says that it has 0 records, and has 0"),
            (
                |rows| rows[4].records[0] = "a\nb".into(),
                "row 21 says that it has 10 records, and has 11",
            ),
            (
                |rows| drop(rows.pop()),
                "the log has 69 records, the saved head 100: its end was cut off",
            ),
            (|rows| rewrite_tail(rows), "the first 100 records no longer hash to the saved head"),
        ];
        for (place, (tamper, problem)) in cases.into_iter().enumerate() {
            let mut rows = rows(&COUNTS);
            let saved = head_of(&rows);
            tamper(&mut rows);
            let report = verify(&rows, Some(saved));
            assert_eq!(report.problem.unwrap().to_string(), problem, "case {place}");
            assert!(!report.ok);
        }
    }

    /// Someone who can write can recompute; only a saved head tells.
    fn rewrite_tail(rows: &mut [OwnRow]) {
        let mut tree = Tree::new();
        for row in rows.iter_mut() {
            let count = row.records.len() as u64;
            let edited = |number| record(if number == 60 { 1_000 } else { number });
            *row = row_after(&mut tree, count, edited);
        }
        assert!(verify(rows, None).ok, "it fits together");
    }

    #[test]
    fn a_record_that_no_axwatch_writes_is_found_though_its_hash_fits() {
        let mut tree = Tree::new();
        let row = row_after(&mut tree, 3, |number| record(number).replace(":", ": "));
        let problem = verify(&[row], None).problem.unwrap();
        assert_eq!(problem.to_string(), "record 0: it is not canonical JSON");
    }

    #[test]
    fn a_report_is_one_json_object() {
        let mut rows = rows(&[2, 1]);
        rows[1].head[0] ^= 1;
        let report = verify(&rows, None);
        let json = serde_json::to_string(&report).unwrap();
        let head = report.head.to_string();
        let expected = format!(
            r#"{{"ok":false,"records":3,"head":"{head}","problem":"row 2: stored head differs"}}"#
        );
        assert_eq!(json, expected);
    }

    /// One of the ways in which somebody may change a stored log. What it leaves as it was changes
    /// nothing, and is not counted.
    fn tamper(rows: &mut Vec<OwnRow>, way: u8, at: usize, to: usize, byte: u8) {
        let (at, to) = (at % rows.len(), to % rows.len());
        let inside = usize::from(byte) % rows[at].records.len();
        match way {
            0 => edit_record(&mut rows[at].records[inside], to, byte),
            1 => drop(rows[at].records.remove(inside)),
            2 => rows[at].records.swap(0, inside),
            3 => rows[at].records.insert(inside, record(u64::from(byte))),
            4 => drop(rows.remove(at)),
            5 => rows.swap(at, to),
            6 => rows.insert(to, rows[at].clone()),
            7 => rows.truncate(at),
            8 => rows[at].head[usize::from(byte) % 32] ^= byte | 1,
            9 => edit_nodes(&mut rows[at].nodes, to, byte),
            10 => rows[at].nodes.truncate(to),
            11 => renumber(rows, at),
            12 => move_record(rows, at, to),
            _ => rewrite_from(rows, at),
        }
    }

    fn edit_record(record: &mut String, place: usize, byte: u8) {
        let mut bytes = std::mem::take(record).into_bytes();
        let place = place % bytes.len();
        bytes[place] = byte & 0x7f;
        *record = String::from_utf8(bytes).unwrap();
    }

    fn edit_nodes(nodes: &mut [u8], place: usize, byte: u8) {
        let place = place % nodes.len();
        nodes[place] ^= byte;
    }

    /// Takes a row out and closes the gap in the numbers.
    fn renumber(rows: &mut Vec<OwnRow>, at: usize) {
        let gone = rows.remove(at).records.len() as u64;
        rows[at..].iter_mut().for_each(|row| row.first_leaf -= gone);
    }

    fn move_record(rows: &mut [OwnRow], from: usize, to: usize) {
        let record = rows[from].records.remove(0);
        rows[to].records.push(record);
    }

    fn rewrite_from(rows: &mut [OwnRow], from: usize) {
        let records: Vec<Vec<u8>> = rows[..from]
            .iter()
            .flat_map(|row| &row.records)
            .map(|text| text.clone().into_bytes())
            .collect();
        let mut tree = tree_of(&records);
        drop(tree.take_nodes());
        for row in &mut rows[from..] {
            *row = row_after(&mut tree, row.records.len() as u64, |number| record(number + 1));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_500))]

        /// Whatever somebody changes, verification says so.
        #[test]
        fn every_tampering_is_found(
            counts in proptest::collection::vec(1_u64..20, 1..12),
            way in 0_u8..14, at: usize, to: usize, byte: u8,
        ) {
            let untouched = rows(&counts);
            let mut tampered = untouched.clone();
            tamper(&mut tampered, way, at, to, byte);
            let report = verify(&tampered, Some(head_of(&untouched)));
            prop_assert_eq!(report.ok, tampered == untouched, "{:?}", report.problem);
        }
    }
}
