//! The audit as a Merkle log: one append-only tree (RFC 6962) whose leaves are the records.
//!
//! The writer keeps a [`Tree`] and appends each record of a commit; the commit's row stores the
//! records, the nodes that they completed, and the new [`Head`]. A [`Verifier`] recomputes all of it
//! from the rows; a [`Proof`] shows one record of it to someone who has nothing else.
//!
//! Nothing here does I/O: rows come in as plain parts, and what has to be read is said as [`Node`]s.
//!
//! Not here: what a record says (`crate::record`), reading and writing rows (`axwatch_ats`).

mod head;
mod leaf;
mod proof;
mod tree;
mod verify;

pub use head::{Head, InvalidHead};
pub use leaf::{RecordFault, check_record, record_in_row};
pub use proof::{
    CheckedProof, PathError, Proof, ProofError, inclusion_path, proof_nodes, verify_inclusion,
};
pub use tree::{
    FrontierMismatch, HASH_BYTES, Hash, Node, Tree, completed_nodes, frontier_nodes, hash_leaf,
    hash_node, node_in_row, node_place,
};
pub use verify::{Problem, Report, Row, Verifier};
