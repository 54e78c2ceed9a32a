//! The tree itself: which nodes there are, how they hash, and which row holds them.
//!
//! A node is named by its level (0: the leaves) and its index in that level, and only perfect
//! subtrees are nodes: what an incomplete right edge hashes to is computed when it is asked for. So
//! every node is written once, by the record that completes it, and never changes.

use axwatch_model::LeafNumber;
use sha2::{Digest, Sha256};

use super::Head;

/// A SHA-256.
pub type Hash = [u8; 32];

/// Bytes of one node in a row.
pub const HASH_BYTES: usize = 32;

/// Levels that a tree of `u64` leaves can have.
const LEVELS: usize = 64;

/// The hash of a record: SHA-256 over 0x00 and its bytes.
#[must_use]
pub fn hash_leaf(record: &[u8]) -> Hash {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(record);
    hash.finalize().into()
}

/// The hash of two subtrees: SHA-256 over 0x01, the left hash and the right one.
#[must_use]
pub fn hash_node(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [1; 1 + 2 * HASH_BYTES];
    bytes[1..=HASH_BYTES].copy_from_slice(left);
    bytes[1 + HASH_BYTES..].copy_from_slice(right);
    Sha256::digest(bytes).into()
}

/// A perfect subtree: the records from `index << level` on, `1 << level` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// 0 for a single record; under 64.
    pub level: u8,
    /// Its place among the nodes of its level, from 0.
    pub index: u64,
}

impl Node {
    /// The first record under it.
    #[must_use]
    pub fn first_leaf(self) -> LeafNumber {
        LeafNumber(self.index << self.level)
    }

    /// The last record under it: the one that completes it.
    #[must_use]
    pub fn last_leaf(self) -> LeafNumber {
        LeafNumber(self.first_leaf().0 + ((1 << self.level) - 1))
    }
}

/// The nodes that a record completes, in the order in which a row holds them: itself, then each
/// subtree that ends with it.
pub fn completed_nodes(leaf: LeafNumber) -> impl Iterator<Item = Node> {
    (0..=leaf.0.trailing_ones() as u8).map(move |level| Node { level, index: leaf.0 >> level })
}

/// The perfect subtrees that a log of `size` records consists of, from the left: what has to be read
/// to go on appending.
#[must_use]
pub fn frontier_nodes(size: u64) -> Vec<Node> {
    levels_of(size).rev().map(|level| Node { level, index: (size >> level) - 1 }).collect()
}

/// The record whose row holds this node.
#[must_use]
pub fn node_place(node: Node) -> LeafNumber {
    node.last_leaf()
}

/// A node's hash out of a row that begins with `first_leaf` and has these `nodes`; `None` when this
/// row does not hold it.
#[must_use]
pub fn node_in_row(first_leaf: LeafNumber, nodes: &[u8], node: Node) -> Option<Hash> {
    let before = nodes_before(node_place(node)) + u64::from(node.level);
    let offset = usize::try_from(before.checked_sub(nodes_before(first_leaf))?).ok()?;
    let start = offset.checked_mul(HASH_BYTES)?;
    nodes.get(start..start.checked_add(HASH_BYTES)?)?.try_into().ok()
}

/// How many nodes all records before this one completed. Each completes itself and one node for every
/// one bit that its number ends in, which sums up to this.
fn nodes_before(leaf: LeafNumber) -> u64 {
    2 * leaf.0 - u64::from(leaf.0.count_ones())
}

/// The levels of the perfect subtrees of a log, the smallest first.
fn levels_of(size: u64) -> impl DoubleEndedIterator<Item = u8> {
    (0..LEVELS as u8).filter(move |level| size >> level & 1 == 1)
}

/// A log that can be appended to: its size, the hashes of its perfect subtrees, and the nodes that
/// were completed since somebody took them.
#[derive(Debug, Clone)]
pub struct Tree {
    size: u64,
    /// By level; what stands at a level that `size` has no one bit for is left over and means nothing.
    frontier: [Hash; LEVELS],
    nodes: Vec<Hash>,
}

/// The hashes given for a log's frontier are too few or too many.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a log of {size} records goes on from {expected} nodes, not from {found}")]
pub struct FrontierMismatch {
    /// Records of the log.
    pub size: u64,
    /// Perfect subtrees that it has.
    pub expected: usize,
    /// Hashes that were given.
    pub found: usize,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// A log without records.
    #[must_use]
    pub fn new() -> Tree {
        Tree { size: 0, frontier: [[0; HASH_BYTES]; LEVELS], nodes: Vec::new() }
    }

    /// A log of `size` records, from the hashes of its [`frontier_nodes`], in their order. Whether
    /// they are the right ones shows in [`Tree::root`].
    ///
    /// # Errors
    /// [`FrontierMismatch`] when their number is not that of such a log.
    pub fn restore(size: u64, frontier: &[Hash]) -> Result<Tree, FrontierMismatch> {
        let expected = size.count_ones() as usize;
        if frontier.len() != expected {
            return Err(FrontierMismatch { size, expected, found: frontier.len() });
        }
        let mut tree = Tree { size, ..Tree::new() };
        for (level, hash) in levels_of(size).rev().zip(frontier) {
            tree.frontier[usize::from(level)] = *hash;
        }
        Ok(tree)
    }

    /// Records in the log.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a record and says its number.
    pub fn append(&mut self, record: &[u8]) -> LeafNumber {
        self.append_hash(hash_leaf(record))
    }

    /// Adds the record that hashes to this.
    pub(super) fn append_hash(&mut self, mut hash: Hash) -> LeafNumber {
        let leaf = LeafNumber(self.size);
        self.nodes.push(hash);
        let level = self.size.trailing_ones() as usize;
        for left in &self.frontier[..level] {
            hash = hash_node(left, &hash);
            self.nodes.push(hash);
        }
        self.frontier[level] = hash;
        self.size += 1;
        leaf
    }

    /// The nodes that were completed since the last call, [`HASH_BYTES`] each, in the order of
    /// [`completed_nodes`] of one record after the other.
    #[must_use]
    pub fn take_nodes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.nodes).into_flattened()
    }

    /// The hash over the whole log. Without records: SHA-256 of nothing.
    #[must_use]
    pub fn root(&self) -> Hash {
        levels_of(self.size)
            .map(|level| self.frontier[usize::from(level)])
            .reduce(|right, left| hash_node(&left, &right))
            .unwrap_or_else(|| Sha256::digest([]).into())
    }

    /// Size and root.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { size: self.size, root: self.root() }
    }

    /// As [`Tree::take_nodes`], hash by hash, for a reader that keeps none of them.
    pub(super) fn drain_nodes(&mut self) -> impl Iterator<Item = Hash> {
        self.nodes.drain(..)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word for word: RFC 6962, 2.1.
    pub(in crate::audit) fn naive_root(records: &[Vec<u8>]) -> Hash {
        match records {
            [] => Sha256::digest([]).into(),
            [record] => hash_leaf(record),
            _ => {
                let half = records.len().next_power_of_two() / 2;
                let (left, right) = records.split_at(half);
                hash_node(&naive_root(left), &naive_root(right))
            }
        }
    }

    pub(in crate::audit) fn records(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|i| format!("record {i}").into_bytes()).collect()
    }

    pub(in crate::audit) fn tree_of(records: &[Vec<u8>]) -> Tree {
        let mut tree = Tree::new();
        for record in records {
            tree.append(record);
        }
        tree
    }

    /// The records of certificate-transparency's test vectors.
    fn known_records() -> Vec<Vec<u8>> {
        vec![
            vec![],
            vec![0x00],
            vec![0x10],
            vec![0x20, 0x21],
            vec![0x30, 0x31],
            vec![0x40, 0x41, 0x42, 0x43],
            (0x50..=0x57).collect(),
            (0x60..=0x6f).collect(),
        ]
    }

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        let known = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (size, root) in known.iter().enumerate() {
            let head = tree_of(&known_records()[..size]).head();
            assert_eq!(head.to_string(), format!("{size}:{root}"));
        }
    }

    #[test]
    fn roots_are_those_of_the_definition_at_every_size() {
        let records = records(200);
        let mut tree = Tree::new();
        for size in 0..=200 {
            assert_eq!(tree.root(), naive_root(&records[..size]), "{size} records");
            if let Some(record) = records.get(size) {
                assert_eq!(tree.append(record), LeafNumber(size as u64));
            }
        }
    }

    #[test]
    fn a_row_holds_each_node_where_its_place_says() {
        let records = records(200);
        for (first, last) in [(0, 200), (0, 1), (1, 2), (7, 8), (63, 130), (64, 65), (127, 200)] {
            let mut tree = tree_of(&records[..first]);
            drop(tree.take_nodes());
            for record in &records[first..last] {
                tree.append(record);
            }
            let nodes = tree.take_nodes();
            let first_leaf = LeafNumber(first as u64);
            let mut found = 0;
            for node in (0..200).flat_map(|leaf| completed_nodes(LeafNumber(leaf))) {
                let place = node_place(node).0 as usize;
                let start = node.first_leaf().0 as usize;
                let expected =
                    (first..last).contains(&place).then(|| naive_root(&records[start..=place]));
                assert_eq!(node_in_row(first_leaf, &nodes, node), expected, "{node:?} in {first}");
                found += usize::from(expected.is_some());
            }
            assert_eq!(nodes.len(), found * HASH_BYTES, "nothing else is in the row");
        }
    }

    #[test]
    fn a_frontier_of_the_wrong_length_is_refused() {
        let error = Tree::restore(5, &[[0; 32]]).unwrap_err();
        assert_eq!(error.to_string(), "a log of 5 records goes on from 2 nodes, not from 1");
    }

    proptest! {
        /// Going on from stored nodes is going on.
        #[test]
        fn a_restored_tree_goes_on_like_one_that_never_stopped(stop in 0_usize..150, more in 0_usize..50) {
            let records = records(stop + more);
            let mut whole = tree_of(&records[..stop]);
            let row = whole.take_nodes();
            let frontier: Vec<Hash> = frontier_nodes(stop as u64)
                .into_iter()
                .map(|node| node_in_row(LeafNumber(0), &row, node).unwrap())
                .collect();
            let mut restored = Tree::restore(stop as u64, &frontier).unwrap();
            prop_assert_eq!(restored.head(), whole.head());
            for record in &records[stop..] {
                prop_assert_eq!(restored.append(record), whole.append(record));
            }
            prop_assert_eq!(restored.head(), whole.head());
            prop_assert_eq!(restored.take_nodes(), whole.take_nodes());
        }
    }
}
