//! The tree of causes and effects of a claim or a job.

use axwatch_model::{AttestationId, LineageKind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Job;

/// Effects of one cause that are told when nobody says how many.
pub const TRACE_LIMIT_DEFAULT: usize = 20;
/// Effects of one cause that are told at most.
pub const TRACE_LIMIT_MAX: usize = 1_000;
/// Steps that are told in each direction when nobody says how many.
pub const TRACE_DEPTH_DEFAULT: usize = 20;
/// Steps that are told in each direction at most.
pub const TRACE_DEPTH_MAX: usize = 1_000;

/// What led to a claim or a job, and what came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trace {
    /// The id of the claim or the job that was asked about, whole.
    pub asked: String,
    /// In one sentence.
    pub summary: String,
    /// Steps between the first cause and the first node that are not told.
    pub above: u64,
    /// Nothing is left out, above or below.
    pub is_whole: bool,
    /// The tree, each node after its cause and all that came of one node before what came of the next.
    pub nodes: Vec<TraceNode>,
}

/// A claim, a job, or a place where a chain of causes was stopped.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TraceNode {
    /// The place of its cause among the nodes, from 0; null for the first node.
    pub parent: Option<usize>,
    /// What it is.
    pub kind: TraceKind,
    /// It was asked about.
    pub is_asked: bool,
    /// The claim, with the keys of an attestation; null when it is not in the log any more.
    pub attestation: Option<Box<RawValue>>,
    /// How the claim came to be.
    pub lineage: Option<TraceLineage>,
    /// Whether the claim has been matched; what it causes is known from then on.
    pub is_matched: Option<bool>,
    /// The job; null when it is not in the store any more.
    pub job: Option<Job>,
    /// Who was stopped.
    pub stopped: Option<LoopStop>,
    /// How many of its effects are not among the nodes; what comes of those is not counted.
    pub left_out: u64,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceKind {
    /// A claim.
    Attestation,
    /// A job.
    Job,
    /// A watcher that holds for the claim before it and made no job of it.
    LoopStopped,
}

/// How a claim came to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TraceLineage {
    /// Whose token appended it: a plugin, or `user`.
    pub by: String,
    /// `none`: no job made it. `sure`: the job was named, or its plugin had no other. `stale`: its attempt
    /// was over by then. `unsure`: one of several jobs of its plugin made it, and nobody knows which.
    pub kind: LineageKind,
    /// The claim that began it all, where that is known.
    pub root: Option<AttestationId>,
    /// Steps from there; of an unsure one, at least so many.
    pub depth: u32,
    /// The watchers that led to it, as shown, the first cause first; null for a job without one.
    pub chain: Vec<Option<String>>,
}

/// A watcher that was stopped at a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopStop {
    /// The watcher as shown.
    pub watcher: String,
    /// Why.
    pub reason: String,
    /// The watchers that led to the claim, as shown, the first cause first; null for a job without one.
    pub chain: Vec<Option<String>>,
}
