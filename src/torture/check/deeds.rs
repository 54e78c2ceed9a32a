//! What was answered as done to a watcher was done: each acknowledged declaration is there, and in force
//! for all that was claimed afterwards.

use super::store::{Revision, Stored};
use super::{Fault, Findings};
use crate::torture::records::{Deed, DeedLine, DriverLine};
use crate::torture::watchers::USER;

/// Holds the revisions of the store to the requests.
pub fn check(deeds: &[DeedLine], driver: &[DriverLine], stored: &Stored, found: &mut Findings) {
    let first_sent = first_sent(driver, stored);
    for DeedLine { deed, answered, revision, refused, .. } in deeds {
        let Deed::Declare { watcher, when, handlers, limit } = deed else { continue };
        if let Some(reason) = refused {
            found.add(Fault::Other, || format!("{watcher} was refused: {reason}"));
        }
        let (Some(answered), Some(number)) = (answered, revision) else { continue };
        let of = |row: &&Revision| {
            (row.owner.as_str(), &row.local, row.revision) == (USER, watcher, *number)
        };
        let row = stored.revisions.iter().find(of);
        let is_kept = row.is_some_and(|row| {
            row.declared["ax"] == **when && row.handlers == *handlers && row.limit == *limit
        });
        if !is_kept {
            found.add(Fault::Other, || {
                format!("revision {number} of {watcher} was acknowledged, and is not there as it was declared")
            });
        }
        let later = first_sent.partition_point(|(sent, _)| sent <= answered);
        if let (Some(row), Some((_, seq))) = (row, first_sent.get(later))
            && *seq <= row.from
        {
            let from = row.from;
            found.add(Fault::NotFired, || {
                format!("revision {number} of {watcher} passes over claim {seq}, sent after it was acknowledged: it begins after {from}")
            });
        }
    }
}

/// When claims were first sent, in order, and the least number that claims of then or later got.
fn first_sent(driver: &[DriverLine], stored: &Stored) -> Vec<(u64, u64)> {
    let numbers: std::collections::HashMap<&str, u64> =
        stored.claims.iter().map(|claim| (claim.id.as_str(), claim.seq)).collect();
    let mut sent: Vec<(u64, u64)> = driver
        .iter()
        .filter_map(|line| match line {
            DriverLine::New { from, to, at } => {
                let seqs = (*from..*to).filter_map(|n| numbers.get(&*format!("torture-{n}")));
                Some((*at, seqs.min().copied().unwrap_or(u64::MAX)))
            }
            _ => None,
        })
        .collect();
    let mut least = u64::MAX;
    for (_, seq) in sent.iter_mut().rev() {
        least = least.min(*seq);
        *seq = least;
    }
    sent
}
