//! Why a job ran: from its row back to the claim and the watcher, and forward to what came of it.
//!
//! What happened is told by the audit's records, whose numbers the job's row keeps; so a look back
//! reads a few rows, however long the log is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axwatch_ats::{AuditRow, StoreError};
use axwatch_model::{JobId, JobRow, LeafNumber, Stored, Timestamp, WatcherRow};
use serde::Deserialize;

use super::audit::with_leaf;
use super::{AnswerError, Answers, Held, raw};
use crate::views::{Attempt, Revision, Why};

/// What the records about a job may say.
#[derive(Deserialize)]
struct Said<'a> {
    at: Timestamp,
    r#type: Cow<'a, str>,
    attempt: Option<u32>,
    epoch: Option<u64>,
    incarnation: Option<u64>,
    plugin: Option<String>,
    outcome: Option<String>,
    reason: Option<String>,
    next_at: Option<Timestamp>,
}

/// What the record of a declaration says.
#[derive(Deserialize)]
struct Declared<'a> {
    at: Timestamp,
    r#type: Cow<'a, str>,
    watcher: Cow<'a, str>,
    revision: Option<u64>,
    generation: Option<u32>,
    #[serde(default)]
    handlers: Vec<String>,
    max_fires_per_second: Option<u32>,
    when: Option<String>,
}

impl Answers {
    /// Why a job ran, and what came of it.
    pub async fn why(&self, id: JobId, held: &Held) -> Result<Why, AnswerError> {
        let row = self.job_row(id).await?;
        let job = self.job(id, held).await?;
        let claim = match row.seq {
            Some(seq) => self.store().by_seqs(&[seq]).await?.into_iter().next(),
            None => None,
        };
        let watcher = match row.watcher {
            Some(_) => self.revision_in_force(&row).await?,
            None => None,
        };
        let (attempts, records) = self.attempts(&row).await?;
        let made = self.store().made_by(id).await?;
        Ok(Why {
            job,
            attestation: claim.map(|stored| raw(stored.to_json())),
            watcher,
            attempts,
            records,
            made: made.iter().map(Stored::to_json).map(raw).collect(),
            waits: None,
        })
    }

    /// The attempts of a job, and its other records as they are.
    async fn attempts(
        &self,
        row: &JobRow,
    ) -> Result<(Vec<Attempt>, Vec<Box<serde_json::value::RawValue>>), StoreError> {
        let mut attempts: BTreeMap<u32, Attempt> = BTreeMap::new();
        let mut others = Vec::new();
        for leaf in &row.leaves {
            let Some(record) = self.record(*leaf).await? else { continue };
            let Ok(said) = serde_json::from_str::<Said<'_>>(&record) else { continue };
            match (&*said.r#type, said.attempt) {
                ("attempt_started", Some(number)) => {
                    let attempt = attempts.entry(number).or_insert_with(|| nothing_known(number));
                    attempt.plugin = said.plugin;
                    attempt.incarnation = said.incarnation;
                    attempt.epoch = said.epoch;
                    attempt.started_at = Some(said.at);
                }
                ("attempt_ended", Some(number)) => {
                    let attempt = attempts.entry(number).or_insert_with(|| nothing_known(number));
                    attempt.epoch = attempt.epoch.or(said.epoch);
                    attempt.ended_at = Some(said.at);
                    attempt.outcome = said.outcome;
                    attempt.reason = said.reason;
                    attempt.next_at = said.next_at;
                    attempt.leaf = Some(leaf.0);
                }
                _ => others.push(raw(with_leaf(leaf.0, &record))),
            }
        }
        Ok((attempts.into_values().collect(), others))
    }

    /// The declaration that was in force when this job was made.
    async fn revision_in_force(&self, row: &JobRow) -> Result<Option<Revision>, StoreError> {
        let Some(number) = row.watcher else { return Ok(None) };
        let watchers = self.store().watchers().await?;
        let Some(watcher) = watchers.into_iter().find(|watcher| watcher.number == number) else {
            return Ok(None);
        };
        // The record was written before the job's first one, and hardly before the watcher's row.
        let upto = match row.leaves.first() {
            Some(leaf) => *leaf,
            None => LeafNumber(self.audit_size().await?),
        };
        let hint = self.leaf_at(watcher.created_at, upto).await?;
        for (from, upto) in [(hint, upto), (LeafNumber(0), hint)] {
            if let Some(found) = self.find_declaration(row, &watcher, from, upto).await? {
                return Ok(Some(found));
            }
        }
        Ok(Some(from_row(row, &watcher)))
    }

    /// Looks through the records from `from` to `upto` for the declaration of the job's revision.
    async fn find_declaration(
        &self,
        row: &JobRow,
        watcher: &WatcherRow,
        mut from: LeafNumber,
        upto: LeafNumber,
    ) -> Result<Option<Revision>, StoreError> {
        const ROWS_AT_ONCE: usize = 256;
        let shown = watcher.key.to_string();
        while from <= upto {
            let rows = self.store().audit_after(from, ROWS_AT_ONCE).await?;
            for audit in &rows {
                if let Some(found) = declaration_in(audit, &shown, row) {
                    return Ok(Some(found));
                }
            }
            match rows.last() {
                Some(last) if last.first_leaf.0 + last.count > from.0 => {
                    from = LeafNumber(last.first_leaf.0 + last.count);
                }
                _ => break,
            }
        }
        Ok(None)
    }

    /// About the first record, of those before `upto`, that was written at `time` or later. A hint:
    /// the clock may have been set back meanwhile.
    async fn leaf_at(&self, time: Timestamp, upto: LeafNumber) -> Result<LeafNumber, StoreError> {
        let (mut low, mut high) = (0, upto.0);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.store().audit_row(LeafNumber(middle)).await? {
                Some(row) if row.at < time => low = row.first_leaf.0 + row.count,
                Some(row) => high = row.first_leaf.0.min(middle),
                None => break,
            }
        }
        Ok(LeafNumber(low.min(upto.0)))
    }
}

fn declaration_in(audit: &AuditRow, shown: &str, row: &JobRow) -> Option<Revision> {
    let mut records = (audit.first_leaf.0..).zip(audit.records.split('\n'));
    records.find_map(|(leaf, record)| {
        // Most records are of attempts, and need no closer look.
        if !record.contains(r#""type":"watcher_"#) {
            return None;
        }
        let said: Declared<'_> = serde_json::from_str(record).ok()?;
        let declares = matches!(&*said.r#type, "watcher_registered" | "watcher_changed");
        let is_it = declares
            && said.watcher == shown
            && said.revision == Some(row.revision)
            && said.generation.is_none_or(|generation| generation == row.generation);
        is_it.then(|| Revision {
            id: shown.to_owned(),
            revision: row.revision,
            generation: row.generation,
            when: said.when,
            handlers: said.handlers,
            max_fires_per_second: said.max_fires_per_second,
            declared_at: Some(said.at),
            leaf: Some(leaf),
        })
    })
}

/// What the watcher's present row says, when its record was not found: right only if the revision is
/// still the same.
fn from_row(row: &JobRow, watcher: &WatcherRow) -> Revision {
    let same = watcher.revision == row.revision;
    Revision {
        id: watcher.key.to_string(),
        revision: row.revision,
        generation: row.generation,
        when: same.then(|| watcher.declared.shown()),
        handlers: if same {
            watcher.handlers.iter().map(|h| Arc::clone(&h.declared).to_string()).collect()
        } else {
            Vec::new()
        },
        max_fires_per_second: watcher.max_fires_per_second.filter(|_| same),
        declared_at: None,
        leaf: None,
    }
}

fn nothing_known(attempt: u32) -> Attempt {
    Attempt {
        attempt,
        plugin: None,
        incarnation: None,
        epoch: None,
        started_at: None,
        ended_at: None,
        outcome: None,
        reason: None,
        next_at: None,
        leaf: None,
    }
}
