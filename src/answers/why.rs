//! Why a job ran: from its row back to the claim and the watcher, and forward to what came of it.
//!
//! What happened is told by the audit's records, whose numbers the job's row keeps; so a look back
//! reads a few rows, however long the log is. The declaration in force is a row of its own.
//!
//! Not here: what a job waits for at this moment, which only a server knows (`super::waits`).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use axwatch_ats::{Counted, StoreError};
use axwatch_model::{
    AttestationId, JobId, JobRow, RevisionRow, Seq, Stored, Timestamp, WatcherNumber,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::audit::with_leaf;
use super::handlers::VersionNumbers;
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
    handler_version: Option<AttestationId>,
    outcome: Option<String>,
    reason: Option<String>,
    next_at: Option<Timestamp>,
    budget: Option<Cow<'a, str>>,
    limit: Option<Cow<'a, str>>,
}

/// Since when a budget held a job back, and what of it did.
struct Hold {
    at: Timestamp,
    /// How many attempts had begun before.
    after: usize,
    /// When its lane went on, where that is known.
    freed_at: Option<Timestamp>,
    budget: String,
    limit: String,
}

/// What the records about a job say.
#[derive(Default)]
struct Recorded {
    attempts: BTreeMap<u32, Attempt>,
    others: Vec<Box<RawValue>>,
    holds: Vec<Hold>,
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
        let Recorded { attempts, others, holds } = self.recorded(&row).await?;
        let mut attempts: Vec<_> = attempts.into_values().collect();
        let mut numbers = VersionNumbers::of(self, &row);
        for attempt in &mut attempts {
            if let Some(version) = &attempt.handler_version {
                attempt.handler_number = numbers.find(version).await?;
            }
        }
        let Counted { first: made, all: made_in_all } = self.store().made_by(id, MADE_MAX).await?;
        let spans = holds.iter().enumerate().filter_map(|(at, hold)| {
            let next = holds.get(at + 1).map(|next| next.at).filter(|next| *next > hold.at);
            held_by(hold, &row, &attempts, next, job.completed_at)
        });
        let mut told: Vec<_> = spans.collect();
        told.extend(self.reasons(&row, held.ready.is_some()).await?);
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
            records: others,
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

    /// The attempts of a job, its other records as they are, and what held it back.
    async fn recorded(&self, row: &JobRow) -> Result<Recorded, StoreError> {
        let mut recorded = Recorded::default();
        let Recorded { attempts, others, holds } = &mut recorded;
        let mut known = HashSet::new();
        for leaf in &row.leaves {
            let Some(record) = self.record(*leaf).await? else { continue };
            let Ok(said) = serde_json::from_str::<Said<'_>>(&record) else { continue };
            match (&*said.r#type, said.attempt) {
                ("attempt_started", Some(number)) => {
                    let attempt = attempts.entry(number).or_insert_with(|| nothing_known(number));
                    attempt.plugin = said.plugin;
                    attempt.incarnation = said.incarnation;
                    attempt.handler_version = said.handler_version;
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
                _ => {
                    if said.r#type == "budget_freed"
                        && let Some(hold) = holds.last_mut()
                    {
                        hold.freed_at = Some(said.at);
                    }
                    let named =
                        said.budget.zip(said.limit).filter(|_| said.r#type == "budget_held");
                    holds.extend(named.map(|(budget, limit)| Hold {
                        at: said.at,
                        after: attempts.len(),
                        freed_at: None,
                        budget: budget.into_owned(),
                        limit: limit.into_owned(),
                    }));
                    // A hold that lasts is there once for each attempt that waited in it.
                    if known.insert(*leaf) {
                        others.push(raw(with_leaf(leaf.0, &record)));
                    }
                }
            }
        }
        Ok(recorded)
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

/// That a budget held a job back, and for how long: from when it waited until its next attempt, the moment at
/// which its lane went on, another hold, such as of the next engine, or its end. `None` where its lane had gone on
/// before it waited.
fn held_by(
    hold: &Hold,
    row: &JobRow,
    attempts: &[Attempt],
    next: Option<Timestamp>,
    completed_at: Option<Timestamp>,
) -> Option<Reason> {
    let before = hold.after.checked_sub(1).and_then(|last| attempts.get(last)?.ended_at);
    let from = hold.at.max(row.created_at).max(before.unwrap_or(hold.at));
    if hold.freed_at.is_some_and(|freed_at| freed_at < from) {
        return None;
    }
    let started = attempts.get(hold.after).and_then(|attempt| attempt.started_at);
    let ends = [started, hold.freed_at, next].into_iter().flatten().filter(|end| *end >= from);
    let until = ends.min().or(completed_at);
    Some(reasons::of_budget(&hold.budget, &hold.limit, from, until))
}

fn handlers_of(revision: &RevisionRow) -> Vec<String> {
    revision.handlers.iter().map(ToString::to_string).collect()
}

fn nothing_known(attempt: u32) -> Attempt {
    Attempt {
        attempt,
        plugin: None,
        incarnation: None,
        handler_version: None,
        handler_number: None,
        epoch: None,
        started_at: None,
        ended_at: None,
        outcome: None,
        reason: None,
        next_at: None,
        leaf: None,
    }
}
