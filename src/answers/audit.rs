//! The audit: its head, its records, and the proof of one of them.

use std::collections::BTreeMap;

use axwatch_ats::{AuditRow, StoreError};
use axwatch_core::audit::{
    Head, Proof, Tree, inclusion_path, node_in_row, node_place, proof_nodes, record_in_row,
};
use axwatch_model::{JobId, LeafNumber};

use super::{AnswerError, Answers};
use crate::views;

/// The types that records have; `docs/events.md` says what each means.
pub const RECORD_TYPES: [&str; 56] = [
    "attempt_ended",
    "attempt_started",
    "breaker_closed",
    "breaker_opened",
    "budget_freed",
    "budget_held",
    "budget_set",
    "budget_warning",
    "dead_lettered",
    "engine_started",
    "handler_faulted",
    "handler_refused",
    "handler_removed",
    "handler_stored",
    "job_cancelled",
    "job_created",
    "job_discarded",
    "job_paused",
    "job_redriven",
    "job_resumed",
    "late_answer",
    "limited",
    "loop_cleared",
    "loop_stopped",
    "loop_suspected",
    "loop_watched",
    "matched",
    "plugin_disabled",
    "plugin_down",
    "plugin_enabled",
    "plugin_state",
    "plugin_up",
    "quarantined",
    "replay_ended",
    "replay_started",
    "replay_stopped",
    "retained",
    "schedule_changed",
    "schedule_declared",
    "schedule_paused",
    "schedule_resumed",
    "schedule_retired",
    "schedule_skipped",
    "watcher_backpressured",
    "watcher_broken",
    "watcher_catching_up",
    "watcher_changed",
    "watcher_live",
    "watcher_mended",
    "watcher_muted",
    "watcher_paused",
    "watcher_refused",
    "watcher_registered",
    "watcher_resumed",
    "watcher_retired",
    "watcher_unmuted",
];

/// Rows of the audit that are read at once.
const ROWS_AT_ONCE: usize = 256;

impl Answers {
    /// Records in the audit.
    pub(super) async fn audit_size(&self) -> Result<u64, StoreError> {
        let last = self.store().audit_last().await?;
        Ok(last.map_or(0, |row| row.first_leaf.0 + row.count))
    }

    /// The size of the audit and the hash over all of it: what the store itself keeps beside the rows,
    /// so that it also tells of rows that are no longer there.
    pub async fn audit_head(&self) -> Result<views::AuditHead, AnswerError> {
        // Before the rows: a commit between the two must not look like a loss.
        let kept = self.store().audit_head().await?;
        let last = self.store().audit_last().await?;
        let of_rows = || last.as_ref().map_or_else(|| Tree::new().head(), head_of);
        let head = kept.map_or_else(of_rows, |(size, root)| Head { size, root });
        Ok(views::AuditHead {
            records: head.size,
            head: head.to_string(),
            at: last.map(|row| row.at),
            store_id: self.store().opened().store_id.to_string(),
        })
    }

    /// Rows that hold the records from `from` on, as many as fit into one answer; empty at the end.
    pub async fn audit_rows(&self, from: LeafNumber) -> Result<Vec<AuditRow>, AnswerError> {
        Ok(self.store().audit_after(from, ROWS_AT_ONCE).await?)
    }

    /// Records in `from..before`, newest first, each with its number as `leaf`.
    pub(super) async fn records(
        &self,
        from: LeafNumber,
        before: LeafNumber,
        kind: Option<&str>,
    ) -> Result<Vec<String>, StoreError> {
        let mut lines = Vec::new();
        let mut next = from;
        while next < before {
            let rows = self.store().audit_after(next, ROWS_AT_ONCE).await?;
            let Some(last) = rows.last() else { break };
            let after_last = LeafNumber(last.first_leaf.0 + last.count);
            if after_last <= next {
                break;
            }
            for row in &rows {
                for (leaf, record) in (row.first_leaf.0..).zip(row.records.split('\n')) {
                    if (next.0..before.0).contains(&leaf)
                        && kind.is_none_or(|kind| is_of_type(record, kind))
                    {
                        lines.push(with_leaf(leaf, record));
                    }
                }
            }
            next = after_last;
        }
        lines.reverse();
        Ok(lines)
    }

    /// The record with this number, if its row is there.
    pub(super) async fn record(&self, leaf: LeafNumber) -> Result<Option<String>, StoreError> {
        let row = self.store().audit_row(leaf).await?;
        Ok(row.and_then(|row| record_in_row(row.first_leaf, &row.records, leaf).map(str::to_owned)))
    }

    /// That the last attempt of a job ended as it did: the content of a proof file.
    pub async fn proof(&self, id: JobId) -> Result<String, AnswerError> {
        let job = self.job_row(id).await?;
        let mut found = None;
        for leaf in job.leaves.iter().rev() {
            if let Some(record) =
                self.record(*leaf).await?.filter(|r| is_of_type(r, "attempt_ended"))
            {
                found = Some((*leaf, record));
                break;
            }
        }
        let (leaf, record) = found.ok_or_else(|| {
            AnswerError::Conflict(format!(
                "no attempt of job {id} has ended yet ({}), so there is nothing to prove",
                job.state
            ))
        })?;
        let last = self.store().audit_last().await?;
        let head = last.as_ref().map_or_else(|| Tree::new().head(), head_of);
        let mut hashes = BTreeMap::new();
        for node in proof_nodes(leaf, head.size) {
            if let Some(row) = self.store().audit_row(node_place(node)).await? {
                hashes.insert(
                    (node.level, node.index),
                    node_in_row(row.first_leaf, &row.nodes, node),
                );
            }
        }
        let read = |node: axwatch_core::audit::Node| {
            hashes.get(&(node.level, node.index)).copied().flatten()
        };
        let path = inclusion_path(leaf, head.size, read).map_err(|error| {
            AnswerError::Conflict(format!(
                "the audit is damaged, so record {leaf} cannot be proved: {error}; `axwatch audit verify` says more"
            ))
        })?;
        let proof = Proof { store_id: self.store().opened().store_id, leaf, record, path, head };
        Ok(proof.to_json())
    }
}

fn head_of(row: &AuditRow) -> Head {
    Head { size: row.first_leaf.0 + row.count, root: row.head }
}

/// Whether a canonical record has this type, without parsing it.
pub(super) fn is_of_type(record: &str, kind: &str) -> bool {
    let Some(at) = record.find(r#""type":""#) else { return false };
    let rest = &record[at + 8..];
    rest.strip_prefix(kind).is_some_and(|rest| rest.starts_with('"'))
}

/// A record as an object that says its number first.
pub(super) fn with_leaf(leaf: u64, record: &str) -> String {
    match record.strip_prefix('{') {
        Some(rest) => format!("{{\"leaf\":{leaf},{rest}"),
        // Not a record: `audit verify` is there to say so; here it must not break the line.
        None => super::json_line(&serde_json::json!({ "leaf": leaf, "damaged": record })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page that documents them.
    const EVENTS: &str = include_str!("../../docs/events.md");

    #[test]
    fn every_type_of_record_is_documented_once() {
        let rows = EVENTS.lines().filter(|line| line.starts_with("| `"));
        let first = |row: &'static str| row.split('|').nth(1).expect("a row has cells");
        let types = rows.flat_map(|row| first(row).split('`').skip(1).step_by(2));
        let mut types: Vec<&str> = types.collect();
        types.sort_unstable();
        assert_eq!(types, RECORD_TYPES);
        for line in EVENTS.lines().filter(|line| line.starts_with('{')) {
            let record: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).unwrap();
            assert!(RECORD_TYPES.iter().any(|kind| is_of_type(line, kind)), "{line}");
            // Its keys stand in the order of their names.
            assert_eq!(serde_json::to_string(&record).unwrap(), line);
        }
    }

    #[test]
    fn a_record_tells_its_type_and_gets_its_number() {
        let record = r#"{"at":"2024-01-15T14:30:00Z","type":"matched","watcher":"x"}"#;
        assert!(is_of_type(record, "matched"));
        assert!(!is_of_type(record, "match"));
        assert_eq!(
            with_leaf(7, record),
            r#"{"leaf":7,"at":"2024-01-15T14:30:00Z","type":"matched","watcher":"x"}"#
        );
        assert_eq!(with_leaf(7, "oops"), r#"{"damaged":"oops","leaf":7}"#);
    }
}
