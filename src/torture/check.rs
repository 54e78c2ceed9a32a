//! The checker: joins what driver, plugin and engine wrote down, and counts what does not agree.
//!
//! In: the folder of a run whose processes have ended. Out: a [`Verdict`]. It computes by itself what the
//! engine should have done: which claims are due for which watchers (`fires`), under which job ids, what
//! the audit hashes to (`audit`), how many attempts each window of a limit holds (`windows`), whether
//! acknowledged requests took effect (`deeds`), and how soon a start dispatched what waited (`recovery`).
//!
//! Nothing of the engine is used here: no crate of ours, only SQL, SHA-256 and JSON.

mod audit;
mod deeds;
mod fires;
mod merkle;
mod recovery;
mod store;
mod windows;

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::Result;
use serde::Serialize;
use sqlx::Connection as _;

use super::claims::Claim;
use super::folder::Folder;
use super::plan::Victim;
use super::records::{self, DeedLine, DriverLine, EventLine, LedgerLine};

use audit::Audited;
use store::Stored;
pub use store::open as open_store;

/// What the records prove.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// The seed of the plan.
    pub seed: u64,
    /// Interventions that were made.
    pub kills: u64,
    /// Of each kind.
    pub kinds: BTreeMap<Victim, u64>,
    /// Starts of the engine.
    pub starts: u64,
    /// Claims in the log.
    pub claims: u64,
    /// Claims whose append was acknowledged.
    pub acked: u64,
    /// Of these, those that are not in the log under the number that was told, as they were sent.
    pub acked_lost: u64,
    /// Pairs of a watcher and a claim that it had to fire for.
    pub matches: u64,
    /// Fires that were due and have no job that was delivered and has ended.
    pub not_fired: u64,
    /// Jobs of matches.
    pub fires: u64,
    /// Fires and deliveries that the audit does not know, and places where it does not hold.
    pub unaudited: u64,
    /// Jobs under another id than the one that follows from watcher, claim and handler.
    pub wrong_ids: u64,
    /// Windows of one second that were held to a limit: one for each attempt of a watcher with one.
    pub windows: u64,
    /// Of these, those that hold more attempts than the limit.
    pub windows_over_limit: u64,
    /// Attempts that the plugin got.
    pub deliveries: u64,
    /// Of these, those beyond the first of their job: after a failure, a delay, or a kill.
    pub redeliveries: u64,
    /// Of these, those after a kill: the job was delivered before and nobody knows how that ended.
    pub duplicates: u64,
    /// Jobs that were given up, as the plugin wanted or after too many attempts.
    pub dead_letters: u64,
    /// Jobs of a watcher that was removed before they were done.
    pub cancelled: u64,
    /// What else must not be: fires that nobody waited for, two jobs for one match, attempts after a
    /// success or while paused, lost declarations, an engine that ended by itself.
    pub other_faults: u64,
    /// Records of the audit.
    pub records: u64,
    /// Starts after which something waited that nothing held back.
    pub recoveries: u64,
    /// From the start of the process to the first delivery of these, in milliseconds: half of them.
    pub recovery_ms_p50: Option<u64>,
    /// 99 of a hundred.
    pub recovery_ms_p99: Option<u64>,
    /// All.
    pub recovery_ms_max: Option<u64>,
    /// The first faults of each kind, in words.
    pub faults: Vec<String>,
}

impl Verdict {
    /// Whether every promise was kept.
    pub fn is_good(&self) -> bool {
        let Verdict {
            acked_lost,
            not_fired,
            unaudited,
            wrong_ids,
            windows_over_limit,
            other_faults,
            ..
        } = self;
        [acked_lost, not_fired, unaudited, wrong_ids, windows_over_limit, other_faults]
            .iter()
            .all(|count| **count == 0)
    }
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    AckedLost,
    NotFired,
    Unaudited,
    WrongId,
    OverLimit,
    Other,
}

/// What was found to be wrong.
#[derive(Debug, Default)]
struct Findings {
    counts: HashMap<Fault, u64>,
    told: Vec<String>,
}

/// Faults of one kind that are told in words.
const TOLD_MAX: u64 = 5;

impl Findings {
    fn add(&mut self, fault: Fault, told: impl FnOnce() -> String) {
        let count = self.counts.entry(fault).or_default();
        *count += 1;
        if *count <= TOLD_MAX {
            self.told.push(told());
        }
    }

    fn count(&self, fault: Fault) -> u64 {
        self.counts.get(&fault).copied().unwrap_or(0)
    }
}

/// A job, by its id.
type JobId = u128;

fn parse_job(text: &str) -> Option<JobId> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok())?
}

/// One delivery of the ledger.
struct Delivery {
    job: JobId,
    attempt: u32,
    watcher: String,
    handler: String,
    claim: String,
    at: u64,
}

/// Joins the records of a run.
///
/// # Errors
/// They cannot be read.
pub async fn check(folder: &Folder) -> Result<Verdict> {
    let about = folder.read_about()?;
    let acks: Vec<DriverLine> = records::read(&folder.acks())?;
    let ledger: Vec<LedgerLine> = records::read(&folder.ledger())?;
    let deeds: Vec<DeedLine> = records::read(&folder.deeds())?;
    let events: Vec<EventLine> = records::read(&folder.events())?;
    let deliveries = deliveries_of(&ledger);

    let mut found = Findings::default();
    let mut connection = open_store(&folder.store()).await?;
    let stored = Stored::read(&mut connection).await?;
    let audited = Audited::read(&mut connection, &mut found).await?;
    connection.close().await?;

    let acked = check_acks(about.seed, &acks, &ledger, &stored, &mut found);
    let fired = fires::check(&stored, &audited, &deliveries, &mut found);
    check_deliveries(&deliveries, &audited, &mut found);
    let windows = windows::check(&audited, &deliveries, &mut found);
    deeds::check(&deeds, &acks, &stored, &mut found);
    check_events(&events, &mut found);
    let recovery = recovery::measure(&events, &deeds, &deliveries, &audited);

    let mut kinds = BTreeMap::new();
    for event in &events {
        if let EventLine::Hit { victim, .. } = event {
            *kinds.entry(*victim).or_default() += 1;
        }
    }
    let starts = events.iter().filter(|event| matches!(event, EventLine::Started { .. })).count();
    let distinct: HashSet<_> = deliveries.iter().map(|delivery| delivery.job).collect();
    Ok(Verdict {
        seed: about.seed,
        kills: kinds.values().sum(),
        kinds,
        starts: starts as u64,
        claims: stored.claims.len() as u64,
        acked,
        acked_lost: found.count(Fault::AckedLost),
        matches: fired.matches,
        not_fired: found.count(Fault::NotFired),
        fires: fired.fires,
        unaudited: found.count(Fault::Unaudited),
        wrong_ids: found.count(Fault::WrongId),
        windows,
        windows_over_limit: found.count(Fault::OverLimit),
        deliveries: deliveries.len() as u64,
        redeliveries: (deliveries.len() - distinct.len()) as u64,
        duplicates: duplicates(&deliveries, &audited),
        dead_letters: fired.dead_letters,
        cancelled: fired.cancelled,
        other_faults: found.count(Fault::Other),
        records: audited.size,
        recoveries: recovery.len() as u64,
        recovery_ms_p50: percentile(&recovery, 50),
        recovery_ms_p99: percentile(&recovery, 99),
        recovery_ms_max: percentile(&recovery, 100),
        faults: found.told,
    })
}

fn deliveries_of(ledger: &[LedgerLine]) -> Vec<Delivery> {
    let delivery = |line: &LedgerLine| match line {
        LedgerLine::Delivery { job, attempt, watcher, handler, claim, at } => Some(Delivery {
            // One that is no id is nobody's, and found to be so.
            job: parse_job(job).unwrap_or(0),
            attempt: *attempt,
            watcher: watcher.clone(),
            handler: handler.clone(),
            claim: claim.clone(),
            at: *at,
        }),
        _ => None,
    };
    ledger.iter().filter_map(delivery).collect()
}

/// What was acknowledged is in the log as it was sent, under the number that was told. Answers how many
/// claims were.
fn check_acks(
    seed: u64,
    acks: &[DriverLine],
    ledger: &[LedgerLine],
    stored: &Stored,
    found: &mut Findings,
) -> u64 {
    let mut acked: HashMap<String, (u64, Option<Claim>)> = HashMap::new();
    for line in acks {
        match line {
            DriverLine::Ack { number, seq, .. } => {
                let claim = Claim::numbered(seed, *number);
                let (before, _) =
                    acked.entry(claim.id.clone()).or_insert_with(|| (*seq, Some(claim)));
                if before != seq {
                    let before = *before;
                    found.add(Fault::AckedLost, || {
                        format!("claim {number} was acknowledged as {before} and as {seq}")
                    });
                }
            }
            DriverLine::Refused { number, error, .. } => found.add(Fault::Other, || {
                format!("claim {number} was refused, and is as it should be: {error}")
            }),
            DriverLine::New { .. } => {}
        }
    }
    for line in ledger {
        if let LedgerLine::Made { claim, seq, .. } = line {
            acked.insert(claim.clone(), (*seq, None));
        }
    }
    for (id, (seq, claim)) in &acked {
        let row = stored.claim(*seq);
        let is_there = row.is_some_and(|row| {
            row.id == *id && claim.as_ref().is_none_or(|claim| row.is_as_sent(claim))
        });
        if !is_there {
            found.add(Fault::AckedLost, || {
                let there = row.map_or("nothing", |row| &row.id);
                format!("claim {id} was acknowledged as {seq}, and there is {there}")
            });
        }
    }
    acked.len() as u64
}

/// Each delivery was in the audit before, and none came twice.
fn check_deliveries(deliveries: &[Delivery], audited: &Audited, found: &mut Findings) {
    let mut seen = HashSet::new();
    for Delivery { job, attempt, .. } in deliveries {
        if !audited.started.contains_key(&(*job, *attempt)) {
            found.add(Fault::Unaudited, || {
                format!("attempt {attempt} of job {job:032x} was delivered, and the audit has no start of it")
            });
        }
        if !seen.insert((*job, *attempt)) {
            found.add(Fault::Other, || {
                format!("attempt {attempt} of job {job:032x} was delivered twice")
            });
        }
    }
}

/// Deliveries of jobs of which an earlier delivery ended in a way that nobody knows.
fn duplicates(deliveries: &[Delivery], audited: &Audited) -> u64 {
    let got: HashSet<(JobId, u32)> = deliveries.iter().map(|d| (d.job, d.attempt)).collect();
    let mut firsts: HashMap<JobId, u32> = HashMap::new();
    for (job, attempt) in audited.unknown.iter().filter(|attempt| got.contains(attempt)) {
        let first = firsts.entry(*job).or_insert(*attempt);
        *first = (*first).min(*attempt);
    }
    let is_again = |d: &&Delivery| firsts.get(&d.job).is_some_and(|first| d.attempt > *first);
    deliveries.iter().filter(is_again).count() as u64
}

/// The engine ends when it is told to, and at no other time.
fn check_events(events: &[EventLine], found: &mut Findings) {
    for event in events {
        if let EventLine::Ended { life, itself: Some(how), .. } = event {
            found.add(Fault::Other, || format!("engine {life} ended by itself: {how}"));
        }
    }
}

/// The smallest number that so many of a hundred do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_numbers() {
        let numbers: Vec<u64> = (1..=200).collect();
        for (percent, expected) in [(50, 100), (99, 198), (100, 200)] {
            assert_eq!(percentile(&numbers, percent), Some(expected));
        }
        assert_eq!((percentile(&[7], 99), percentile(&[], 99)), (Some(7), None));
    }

    #[test]
    fn one_count_that_is_not_zero_is_enough() {
        assert!(Verdict { duplicates: 3, redeliveries: 9, ..Verdict::default() }.is_good());
        assert!(!Verdict { not_fired: 1, ..Verdict::default() }.is_good());
        assert!(!Verdict { other_faults: 1, ..Verdict::default() }.is_good());
    }
}
