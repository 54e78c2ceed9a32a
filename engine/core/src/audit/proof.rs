//! That one record is in the log, shown to someone who has only a file and a head.
//!
//! To make a proof, ask [`proof_nodes`] what to read, read it, and hand it to [`inclusion_path`]. To
//! check one, nothing is needed but the file: [`Proof::check`]. What a checked proof says is that its
//! record stands at its place in the log with its root. Whether that is the log one means is seen by
//! comparing [`CheckedProof::head`] with a head from elsewhere; the size counts only together with
//! that, and the store id is a label.

use axwatch_model::{LeafNumber, StoreId};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Head;
use super::head::{hex, parse_hex};
use super::leaf::{RecordFault, check_record};
use super::tree::{HASH_BYTES, Hash, Node, frontier_nodes, hash_leaf, hash_node};

/// What the key `version` of a proof file says.
const VERSION: &str = "axwatch/proof/1";

/// The nodes that have to be read to prove `leaf` in a log of `size` records; none when there is no
/// such record.
#[must_use]
pub fn proof_nodes(leaf: LeafNumber, size: u64) -> Vec<Node> {
    siblings(leaf.0, size).into_iter().flatten().collect()
}

/// Why there is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The log is not so long.
    #[error("there is no record {leaf} in a log of {size} records")]
    NoSuchRecord {
        /// Which record.
        leaf: LeafNumber,
        /// How long the log is.
        size: u64,
    },
    /// One of [`proof_nodes`] was not found: its row is missing or too short.
    #[error("the node over records {} to {} is missing", .0.first_leaf(), .0.last_leaf())]
    NodeMissing(Node),
}

/// The hashes that lead from `leaf` up to the root of a log of `size` records: RFC 6962, 2.1.1.
/// `read` gives the hash of each of [`proof_nodes`].
///
/// # Errors
/// [`PathError`] when there is no such record, or a node that `read` does not have.
pub fn inclusion_path(
    leaf: LeafNumber,
    size: u64,
    mut read: impl FnMut(Node) -> Option<Hash>,
) -> Result<Vec<Hash>, PathError> {
    if leaf.0 >= size {
        return Err(PathError::NoSuchRecord { leaf, size });
    }
    let mut hash_of = |node| read(node).ok_or(PathError::NodeMissing(node));
    siblings(leaf.0, size).into_iter().map(|nodes| subtree_hash(&nodes, &mut hash_of)).collect()
}

/// For each step from a leaf up to the root, the perfect subtrees that its sibling consists of, from
/// the left: one, but for the right edge of the log.
fn siblings(leaf: u64, size: u64) -> Vec<Vec<Node>> {
    let (mut start, mut end) = (0, if leaf < size { size } else { 0 });
    let mut from_root = Vec::new();
    while end - start > 1 {
        let middle = start + (1 << (end - start - 1).ilog2());
        if leaf < middle {
            from_root.push(perfect_subtrees(middle, end));
            end = middle;
        } else {
            from_root.push(perfect_subtrees(start, middle));
            start = middle;
        }
    }
    from_root.reverse();
    from_root
}

/// The perfect subtrees of the records from `start` up to `end`, where `start` is a multiple of the
/// largest of them.
fn perfect_subtrees(start: u64, end: u64) -> Vec<Node> {
    let shifted = |node: Node| Node { index: node.index + (start >> node.level), ..node };
    frontier_nodes(end - start).into_iter().map(shifted).collect()
}

fn subtree_hash(
    nodes: &[Node],
    mut hash_of: impl FnMut(Node) -> Result<Hash, PathError>,
) -> Result<Hash, PathError> {
    let (last, before) = nodes.split_last().expect("a sibling holds at least one record");
    let mut hash = hash_of(*last)?;
    for node in before.iter().rev() {
        hash = hash_node(&hash_of(*node)?, &hash);
    }
    Ok(hash)
}

/// Whether `path` leads from this record, as number `leaf` of `size`, to `root`: RFC 9162, 2.1.3.2.
#[must_use]
pub fn verify_inclusion(
    record: &[u8],
    leaf: LeafNumber,
    size: u64,
    path: &[Hash],
    root: &Hash,
) -> bool {
    if leaf.0 >= size {
        return false;
    }
    let (mut index, mut last) = (leaf.0, size - 1);
    let mut hash = hash_leaf(record);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if index & 1 == 1 || index == last {
            hash = hash_node(sibling, &hash);
            // At the right edge there are levels without a sibling: they are passed over.
            let passed = index.trailing_zeros();
            index >>= passed;
            last >>= passed;
        } else {
            hash = hash_node(&hash, sibling);
        }
        index >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// One record with what shows that it is in the log: the content of a proof file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The store that it is from. A label: no hash covers it.
    pub store_id: StoreId,
    /// The record's number.
    pub leaf: LeafNumber,
    /// The record, as the log has it.
    pub record: String,
    /// From the record to the root.
    pub path: Vec<Hash>,
    /// The log that it is in.
    pub head: Head,
}

/// The keys of a proof file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProofJson {
    version: String,
    store_id: StoreId,
    leaf: LeafNumber,
    size: u64,
    record: String,
    /// The hashes after one another, in base64.
    path: String,
    /// The root, in hex.
    head: String,
}

/// Why a proof proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// Not JSON, or not the keys of a proof file.
    #[error("this is not a proof file of axwatch")]
    NotAProof(#[source] serde_json::Error),
    /// Made by a later axwatch, or by something else.
    #[error("this proof has version {0:?}, and this axwatch knows only {VERSION:?}")]
    Version(String),
    /// The key `path` holds no hashes.
    #[error("the path of this proof is not base64 of {HASH_BYTES}-byte hashes")]
    Path,
    /// The key `head` holds no hash.
    #[error("the head of this proof is not 64 lower-case hex digits")]
    Head,
    /// The record is not as records are.
    #[error("record {leaf} of this proof is no record")]
    Record {
        /// Its number.
        leaf: LeafNumber,
        /// What is wrong with it.
        source: RecordFault,
    },
    /// Everything is well-formed, and it does not fit together.
    #[error(
        "record {leaf} is not in the log {head}: the record, its number, the path or the head was changed"
    )]
    NotIncluded {
        /// Its number.
        leaf: LeafNumber,
        /// The log that it was said to be in.
        head: Head,
    },
}

/// What a proof has shown.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedProof {
    /// The store that it is said to be from.
    pub store_id: StoreId,
    /// The record's number.
    pub leaf: LeafNumber,
    /// What the record says.
    pub record: Map<String, Value>,
    /// The log that it is in. To be compared with a head that somebody else saved.
    pub head: Head,
}

impl Proof {
    /// The proof file: one JSON object on one line. Under 2 KB for the records of attempts without a
    /// long reason, in a log of up to 2^30 records.
    #[must_use]
    pub fn to_json(&self) -> String {
        let json = ProofJson {
            version: VERSION.to_owned(),
            store_id: self.store_id,
            leaf: self.leaf,
            size: self.head.size,
            record: self.record.clone(),
            path: STANDARD.encode(self.path.concat()),
            head: hex(&self.head.root),
        };
        serde_json::to_string(&json).expect("a proof holds nothing that JSON cannot")
    }

    /// Reads a proof file, unchecked but for its form.
    ///
    /// # Errors
    /// [`ProofError`] when it is not one, or not of this version.
    pub fn from_json(text: &str) -> Result<Proof, ProofError> {
        check_version(text)?;
        let json: ProofJson = serde_json::from_str(text).map_err(ProofError::NotAProof)?;
        let path = STANDARD.decode(&json.path).map_err(|_| ProofError::Path)?;
        let (hashes, rest) = path.as_chunks::<HASH_BYTES>();
        if !rest.is_empty() {
            return Err(ProofError::Path);
        }
        let root = parse_hex(&json.head).ok_or(ProofError::Head)?;
        Ok(Proof {
            store_id: json.store_id,
            leaf: json.leaf,
            record: json.record,
            path: hashes.to_vec(),
            head: Head { size: json.size, root },
        })
    }

    /// Recomputes the root from the record. Needs nothing but the proof.
    ///
    /// # Errors
    /// [`ProofError::Record`] and [`ProofError::NotIncluded`].
    pub fn check(&self) -> Result<CheckedProof, ProofError> {
        let (leaf, head) = (self.leaf, self.head);
        let record =
            check_record(&self.record).map_err(|source| ProofError::Record { leaf, source })?;
        if !verify_inclusion(self.record.as_bytes(), leaf, head.size, &self.path, &head.root) {
            return Err(ProofError::NotIncluded { leaf, head });
        }
        Ok(CheckedProof { store_id: self.store_id, leaf, record, head })
    }
}

/// Before the other keys, which another version may have differently.
fn check_version(text: &str) -> Result<(), ProofError> {
    #[derive(Deserialize)]
    struct Version {
        version: String,
    }

    let found: Version = serde_json::from_str(text).map_err(ProofError::NotAProof)?;
    if found.version == VERSION { Ok(()) } else { Err(ProofError::Version(found.version)) }
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::{naive_root, records, tree_of};
    use super::super::{node_in_row, node_place};
    use super::*;

    /// PATH of RFC 6962, 2.1.1, word for word.
    fn naive_path(leaf: usize, records: &[Vec<u8>]) -> Vec<Hash> {
        if records.len() == 1 {
            return Vec::new();
        }
        let half = records.len().next_power_of_two() / 2;
        let (left, right) = records.split_at(half);
        let (mut path, sibling) = if leaf < half {
            (naive_path(leaf, left), naive_root(right))
        } else {
            (naive_path(leaf - half, right), naive_root(left))
        };
        path.push(sibling);
        path
    }

    /// The path to a record of a log that is one row.
    fn path_of(leaf: u64, records: &[Vec<u8>]) -> Vec<Hash> {
        let row = tree_of(records).take_nodes();
        let read = |node| node_in_row(LeafNumber(0), &row, node);
        inclusion_path(LeafNumber(leaf), records.len() as u64, read).unwrap()
    }

    #[test]
    fn every_record_of_every_size_has_the_path_of_the_definition_and_it_verifies() {
        let records = records(70);
        for size in 1..=70 {
            let records = &records[..size];
            let root = naive_root(records);
            for leaf in 0..size {
                let path = path_of(leaf as u64, records);
                assert_eq!(path, naive_path(leaf, records), "record {leaf} of {size}");
                let number = LeafNumber(leaf as u64);
                assert!(
                    verify_inclusion(&records[leaf], number, size as u64, &path, &root),
                    "record {leaf} of {size}"
                );
            }
        }
    }

    #[test]
    fn no_other_record_place_path_or_root_verifies() {
        let all = records(40);
        for size in [1, 2, 3, 7, 8, 9, 31, 40] {
            let records = &all[..size];
            let (root, n) = (naive_root(records), size as u64);
            for leaf in 0..size {
                let (record, path) = (&records[leaf], path_of(leaf as u64, records));
                let holds = |record: &[u8], leaf: u64, path: &[Hash], root: &Hash| {
                    verify_inclusion(record, LeafNumber(leaf), n, path, root)
                };
                let at = leaf as u64;
                for other in (0..=n).filter(|other| *other != at) {
                    assert!(!holds(record, other, &path, &root), "{leaf} as {other} of {size}");
                }
                for byte in 0..record.len() {
                    let mut changed = record.clone();
                    changed[byte] ^= 1;
                    assert!(!holds(&changed, at, &path, &root), "byte {byte} of {leaf} of {size}");
                }
                for byte in 0..path.len() * HASH_BYTES {
                    let mut changed = path.clone();
                    changed[byte / HASH_BYTES][byte % HASH_BYTES] ^= 0x80;
                    assert!(!holds(record, at, &changed, &root), "path {byte} of {leaf}");
                }
                for byte in 0..HASH_BYTES {
                    let mut changed = root;
                    changed[byte] ^= 4;
                    assert!(!holds(record, at, &path, &changed), "root {byte} of {leaf}");
                }
                let longer = [path.as_slice(), &[root]].concat();
                assert!(!holds(record, at, &longer, &root), "longer path to {leaf} of {size}");
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!holds(record, at, shorter, &root), "shorter path to {leaf}");
                }
            }
        }
    }

    #[test]
    fn a_path_says_what_it_lacks() {
        let beyond = inclusion_path(LeafNumber(3), 3, |_| None).unwrap_err();
        assert_eq!(beyond.to_string(), "there is no record 3 in a log of 3 records");
        assert_eq!(proof_nodes(LeafNumber(3), 3), []);
        let missing = inclusion_path(LeafNumber(0), 7, |_| None).unwrap_err();
        assert_eq!(missing.to_string(), "the node over records 1 to 1 is missing");
        let nodes = proof_nodes(LeafNumber(0), 7);
        assert!(nodes.iter().all(|node| node_place(*node) < LeafNumber(7)), "all are complete");
    }

    /// As long as the end record of an attempt gets without a reason.
    const RECORD: &str = concat!(
        r#"{"at":"2026-08-21T12:00:00.123Z","attempt":12,"counted":true,"epoch":1234,"#,
        r#""job":"00112233445566778899aabbccddeeff","next_at":"2026-08-21T12:00:00.123Z","#,
        r#""outcome":"succeeded","#,
        r#""result_sha256":"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328","#,
        r#""stamp_us":1234567890123,"type":"attempt_ended","watcher":"python-vacancies-of-alice"}"#
    );

    fn proof() -> Proof {
        let mut records = records(100);
        records[77] = RECORD.as_bytes().to_vec();
        Proof {
            store_id: StoreId([0xab; 16]),
            leaf: LeafNumber(77),
            record: RECORD.to_owned(),
            path: path_of(77, &records),
            head: tree_of(&records).head(),
        }
    }

    #[test]
    fn a_proof_file_reads_back_and_checks() {
        let text = proof().to_json();
        let read = Proof::from_json(&text).unwrap();
        assert_eq!(read, proof());
        let checked = read.check().unwrap();
        assert_eq!((checked.leaf, checked.head), (LeafNumber(77), proof().head));
        assert_eq!(checked.record["outcome"], "succeeded");
    }

    #[test]
    fn a_proof_file_in_a_log_of_a_thousand_million_records_is_under_2_kb() {
        let path = vec![[0xff; 32]; 30];
        let head = Head { size: 1 << 30, root: [0xff; 32] };
        let large = Proof { leaf: LeafNumber((1 << 30) - 1), path, head, ..proof() };
        assert!(large.to_json().len() < 2_048, "{} bytes", large.to_json().len());
    }

    /// But for the two values that no hash covers, every byte of the file counts.
    #[test]
    fn a_proof_file_with_any_byte_changed_is_refused() {
        let text = proof().to_json();
        let uncovered = ["store_id\":\"", "size\":"].map(|key| text.find(key).unwrap() + key.len());
        let uncovered = [uncovered[0]..uncovered[0] + 32, uncovered[1]..uncovered[1] + 3];
        for place in (0..text.len()).filter(|at| !uncovered.iter().any(|span| span.contains(at))) {
            for flip in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40] {
                let mut bytes = text.clone().into_bytes();
                bytes[place] ^= flip;
                let changed = String::from_utf8(bytes).expect("a flipped low bit stays ASCII");
                let outcome = Proof::from_json(&changed).and_then(|proof| proof.check());
                assert!(outcome.is_err(), "byte {place} became {flip:#x}: {changed}");
            }
        }
    }

    #[test]
    fn what_is_no_proof_of_ours_says_why() {
        let text = proof().to_json();
        let refused = |text: String| {
            let error = Proof::from_json(&text).and_then(|proof| proof.check()).unwrap_err();
            error.to_string()
        };
        let later = text.replace("proof/1", "proof/2");
        assert!(refused(later).contains(r#""axwatch/proof/2""#));
        let unknown = text.replacen('{', r#"{"extra":1,"#, 1);
        assert_eq!(refused(unknown), "this is not a proof file of axwatch");
        assert_eq!(refused("nonsense".into()), "this is not a proof file of axwatch");
        let lifted = text.replace(r#""leaf":77"#, r#""leaf":18446744073709551615"#);
        assert!(refused(lifted).starts_with("record 18446744073709551615 is not in the log 100:"));
        let edited = text.replace("succeeded", "failed");
        assert!(refused(edited).starts_with("record 77 is not in the log 100:"));
    }
}
