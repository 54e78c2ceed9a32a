//! Why a job ran: from its row back to the claim and the watcher, and forward to what came of it.
//!
//! What happened is told by the audit's records, whose numbers the job's row keeps; so a look back
//! reads a few rows, however long the log is. The declaration in force is a row of its own.
//!
//! Not here: what a job waits for at this moment, which only a server knows (`super::waits`).

use std::borrow::Cow;
use std::collections::BTreeMap;

use axwatch_ats::{Counted, StoreError};
use axwatch_model::{JobId, JobRow, RevisionRow, Seq, Stored, Timestamp, WatcherNumber};
use serde::Deserialize;

use super::audit::with_leaf;
use super::{AnswerError, Answers, Held, raw, reasons};
use crate::views::{Attempt, Reason, Revision, Why};

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

/// Claims of a job that are told of; of the rest only how many there are.
const MADE_MAX: usize = 100;

impl Answers {
    /// Why a job ran, and what came of it. `matched` is how far the log has been matched, read before the
    /// call.
    pub async fn why(&self, id: JobId, matched: Seq, held: &Held) -> Result<Why, AnswerError> {
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
        let Counted { first: made, all: made_in_all } = self.store().made_by(id, MADE_MAX).await?;
        let mut told = self.reasons(&row, held.ready.is_some()).await?;
        for claim in &made {
            let stops = self.loop_stops(claim, matched).await?;
            let name = claim.attestation.id.as_str();
            told.extend(stops.iter().map(|stop| reasons::of_stop(stop, name)));
        }
        Ok(Why {
            job,
            attestation: claim.map(|stored| raw(stored.to_json())),
            watcher,
            attempts,
            records,
            made: made.iter().map(Stored::to_json).map(raw).collect(),
            made_in_all,
            waits: None,
            reasons: told,
        })
    }

    /// Why a job is where it is, without what only a server knows.
    async fn reasons(&self, row: &JobRow, is_served: bool) -> Result<Vec<Reason>, StoreError> {
        let end = reasons::of_end(row.id, row.state, row.attempts, row.error.as_deref());
        let mut told: Vec<_> = end.into_iter().collect();
        let is_open = row.state.is_open();
        if is_open && !is_served {
            told.push(reasons::no_server());
        }
        let (Some(number), Some(seq)) = (row.watcher, row.seq) else { return Ok(told) };
        let passes = self.store().passes_of(number).await?;
        let own = passes.iter().filter(|(pass, _)| pass.generation == row.generation);
        told.extend(own.filter_map(|(pass, place)| reasons::of_replay(pass, *place, seq)));
        if !is_open {
            return Ok(told);
        }
        if let Some(hold) = self.hold_of(number).await?.filter(|_| !is_served)
            && let Some(key) = self.watcher_key(number).await?
        {
            told.push(reasons::of_hold(&key, &hold));
        }
        let before = WatcherNumber(number.0 - 1);
        let watcher = self.store().watchers_after(before, 1).await?.pop();
        told.extend(watcher.as_ref().and_then(reasons::of_watcher));
        Ok(told)
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

    /// The declaration that was in force when this job was made; without what it said where the
    /// revision is older than the store's rows of them.
    async fn revision_in_force(&self, row: &JobRow) -> Result<Option<Revision>, StoreError> {
        let Some(number) = row.watcher else { return Ok(None) };
        let Some(key) = self.watcher_key(number).await? else { return Ok(None) };
        let revisions = self.store().revisions(number).await?;
        let found = revisions.iter().find(|revision| revision.revision == row.revision);
        Ok(Some(Revision {
            id: key.to_string(),
            revision: row.revision,
            generation: row.generation,
            when: found.map(|found| found.declared.shown()),
            handlers: found.map(handlers_of).unwrap_or_default(),
            max_fires_per_second: found.and_then(|found| found.max_fires_per_second),
            declared_at: found.map(|found| found.at),
            leaf: found.and_then(|found| found.leaf).map(|leaf| leaf.0),
        }))
    }
}

fn handlers_of(revision: &RevisionRow) -> Vec<String> {
    revision.handlers.iter().map(ToString::to_string).collect()
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
