//! Which fires were due, and whether each of them was fired, once, under its id, and done.

use std::collections::{HashMap, HashSet};

use sha2::{Digest as _, Sha256};

use super::audit::Audited;
use super::store::{ClaimRow, JobRow, Revision, Stored};
use super::{Delivery, Fault, Findings, JobId};
use crate::torture::watchers::{self, ECHO, ECHOED, Shape};

/// What was counted on the way.
#[derive(Debug, Default)]
pub struct Fired {
    /// Pairs of a watcher and a claim that was due for it.
    pub matches: u64,
    /// Jobs of these.
    pub fires: u64,
    /// Jobs that were given up.
    pub dead_letters: u64,
    /// Jobs that went with their watcher.
    pub cancelled: u64,
}

/// A fire: watcher, generation, claim, handler.
type Key<'a> = (u64, u32, u64, &'a str);

/// A fire that was due.
struct Due<'a> {
    id: JobId,
    revision: &'a Revision,
    claim: &'a ClaimRow,
}

/// Holds the jobs of the store to what was due, and to the records of the others.
pub fn check(
    stored: &Stored,
    audited: &Audited,
    deliveries: &[Delivery],
    found: &mut Findings,
) -> Fired {
    let mut fired = Fired::default();
    let due = due(stored, &mut fired, found);
    let retired: HashSet<(u64, u32)> = stored
        .revisions
        .iter()
        .filter(|revision| revision.retired.is_some())
        .map(|revision| (revision.watcher, revision.generation))
        .collect();
    let delivered: HashSet<JobId> = deliveries.iter().map(|delivery| delivery.job).collect();
    let mut seen: HashSet<Key<'_>> = HashSet::new();
    for job in &stored.jobs {
        let key = (job.watcher, job.generation, job.seq, job.handler.as_str());
        let Some(wanted) = due.get(&key) else {
            found.add(Fault::Other, || format!("job {:032x} was not due: {key:?}", job.id));
            continue;
        };
        if !seen.insert(key) {
            found.add(Fault::Other, || format!("two jobs for one match: {key:?}"));
            continue;
        }
        fired.fires += 1;
        if job.id != wanted.id {
            found.add(Fault::WrongId, || {
                format!("job {:032x} should be {:032x}: {key:?}", job.id, wanted.id)
            });
        }
        if !audited.fired.contains(&job.id) {
            found.add(Fault::Unaudited, || format!("no record of the match of {:032x}", job.id));
        }
        let is_retired = retired.contains(&(job.watcher, job.generation));
        match job.state {
            3 => {}
            4 => fired.dead_letters += 1,
            5 if is_retired => fired.cancelled += 1,
            _ => {}
        }
        if let Some(wrong) = wrong_end(job, is_retired, audited, &delivered) {
            found.add(Fault::NotFired, || format!("job {:032x} {wrong}: {key:?}", job.id));
        }
    }
    for key in due.keys().filter(|key| !seen.contains(*key)) {
        found.add(Fault::NotFired, || format!("due and never fired: {key:?}"));
    }
    check_subjects(stored, &due, deliveries, found);
    check_echoes(stored, found);
    fired
}

/// What is wrong with how a job ended.
fn wrong_end(
    job: &JobRow,
    is_retired: bool,
    audited: &Audited,
    delivered: &HashSet<JobId>,
) -> Option<&'static str> {
    match job.state {
        5 if is_retired => return None,
        5 => return Some("was cancelled, and its watcher stands"),
        3 if !audited.succeeded.contains(&job.id) => {
            return Some("is completed, and the audit says no");
        }
        4 if !audited.dead.contains(&job.id) => {
            return Some("is a dead letter, and the audit says no");
        }
        3 | 4 => {}
        _ => return Some("has not ended"),
    }
    (!delivered.contains(&job.id)).then_some("has ended, and the plugin never got it")
}

/// Every fire that had to be.
fn due<'a>(
    stored: &'a Stored,
    fired: &mut Fired,
    found: &mut Findings,
) -> HashMap<Key<'a>, Due<'a>> {
    let mut due = HashMap::new();
    for (at, revision) in stored.revisions.iter().enumerate() {
        let Some(shape) = shape_of(revision) else {
            let Revision { owner, local, revision, declared, .. } = revision;
            found.add(Fault::Other, || {
                format!("revision {revision} of {owner}-{local} was never declared: {declared}")
            });
            continue;
        };
        let next = stored.revisions.get(at + 1).filter(|next| next.watcher == revision.watcher);
        let upto =
            next.map_or(u64::MAX, |next| next.from).min(revision.retired.unwrap_or(u64::MAX));
        for claim in stored.claims_between(revision.from, upto) {
            if !shape.holds_for(&claim.terms()) {
                continue;
            }
            fired.matches += 1;
            for handler in &revision.handlers {
                let id = job_id(&stored.store_id, revision, &claim.id, handler);
                let key = (revision.watcher, revision.generation, claim.seq, handler.as_str());
                due.insert(key, Due { id, revision, claim });
            }
        }
    }
    due
}

/// What a revision waits for: one of the forms that we know it by.
fn shape_of(revision: &Revision) -> Option<Shape> {
    let mut forms =
        watchers::all().filter(|w| w.owner == revision.owner && w.local == revision.local);
    forms.find(|form| form.declared() == revision.declared).map(|form| form.shape)
}

/// The first 16 bytes of SHA-256 over these parts, each preceded by its length as 8 bytes.
fn job_id(store_id: &str, revision: &Revision, claim: &str, handler: &str) -> JobId {
    let generation = revision.generation.to_string();
    let Revision { owner, local, .. } = revision;
    let mut hash = Sha256::new();
    for part in ["axwatch/job/1", store_id, owner, local, &generation, claim, handler] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let hash: [u8; 32] = hash.finalize().into();
    hash[..16].iter().fold(0, |id, byte| id << 8 | u128::from(*byte))
}

/// The plugin got each job with the claim, the watcher and the handler that it is of.
fn check_subjects(
    stored: &Stored,
    due: &HashMap<Key<'_>, Due<'_>>,
    deliveries: &[Delivery],
    found: &mut Findings,
) {
    let jobs: HashMap<JobId, &JobRow> = stored.jobs.iter().map(|job| (job.id, job)).collect();
    for delivery in deliveries {
        let Some(job) = jobs.get(&delivery.job) else {
            found.add(Fault::Unaudited, || {
                format!("job {:032x} was delivered, and the store has none", delivery.job)
            });
            continue;
        };
        let key = (job.watcher, job.generation, job.seq, job.handler.as_str());
        let Some(Due { revision, claim, .. }) = due.get(&key) else { continue };
        let shown = format!("{}-{}", revision.owner, revision.local);
        let said = (&delivery.watcher, &delivery.claim, &delivery.handler);
        if said != (&shown, &claim.id, &job.handler) {
            found.add(Fault::Other, || format!("job {:032x} was delivered as {said:?}", job.id));
        }
    }
}

/// A job that makes a claim has made one when it is done, however often it was tried.
fn check_echoes(stored: &Stored, found: &mut Findings) {
    let mut made: HashMap<JobId, u32> = HashMap::new();
    for claim in stored.claims.iter().filter(|claim| claim.predicates == [ECHOED]) {
        *made.entry(claim.parent_job.unwrap_or(0)).or_default() += 1;
    }
    for job in stored.jobs.iter().filter(|job| job.handler == ECHO) {
        let count = made.remove(&job.id).unwrap_or(0);
        let is_right = if job.state == 3 { count == 1 } else { count <= 1 };
        if !is_right {
            found.add(Fault::Other, || format!("job {:032x} made {count} claims", job.id));
        }
    }
    for (job, count) in made {
        found.add(Fault::Other, || format!("{count} claims of a job that is none: {job:032x}"));
    }
}
