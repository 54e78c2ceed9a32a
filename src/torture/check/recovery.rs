//! How soon an engine that was started again dispatches what waited for it.

use std::collections::HashMap;

use super::Delivery;
use super::audit::{Audited, Epoch};
use crate::torture::records::{Deed, DeedLine, EventLine};

const MS_NS: u64 = 1_000_000;
/// A start that nothing came of before it was killed counts when it had this long: it must not hide.
const LONG_NS: u64 = 2_000 * MS_NS;

/// A process of the engine, from its start to its end.
struct Life {
    at: u64,
    at_ms: u64,
    until: u64,
}

/// Milliseconds from the start of a process to its first delivery, in rising order: of those starts at
/// which something was to be done at once that no limit delays, and with which nobody interfered before.
pub fn measure(
    events: &[EventLine],
    deeds: &[DeedLine],
    deliveries: &[Delivery],
    audited: &Audited,
) -> Vec<u64> {
    let mut first: HashMap<u64, u64> = HashMap::new();
    for Delivery { job, attempt, at, .. } in deliveries {
        if let Some(started) = audited.started.get(&(*job, *attempt)) {
            let first = first.entry(started.epoch).or_insert(*at);
            *first = (*first).min(*at);
        }
    }
    let lives = lives_of(events);
    let disturbances = disturbances_of(events, deeds);
    let mut samples = Vec::new();
    for Epoch { epoch, at_ms, had_work } in &audited.epochs {
        let Some(life) = lives.iter().rfind(|life| life.at_ms <= *at_ms) else { continue };
        if !had_work {
            continue;
        }
        let until = first.get(epoch).copied().unwrap_or(life.until);
        let is_disturbed = disturbances.iter().any(|at| (life.at..until).contains(at));
        let Some(took) = until.checked_sub(life.at).filter(|_| !is_disturbed) else { continue };
        if first.contains_key(epoch) || took > LONG_NS {
            samples.push(took / MS_NS);
        }
    }
    samples.sort_unstable();
    samples
}

fn lives_of(events: &[EventLine]) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    for event in events {
        match event {
            EventLine::Started { at, at_ms, .. } => {
                lives.push(Life { at: *at, at_ms: *at_ms, until: u64::MAX });
            }
            EventLine::Ended { at, .. } => {
                if let Some(life) = lives.last_mut() {
                    life.until = *at;
                }
            }
            EventLine::Hit { .. } => {}
        }
    }
    lives
}

/// When somebody interfered.
fn disturbances_of(events: &[EventLine], deeds: &[DeedLine]) -> Vec<u64> {
    let hits = events.iter().filter_map(|event| match event {
        EventLine::Hit { at, .. } => Some(*at),
        _ => None,
    });
    let restarts = deeds.iter().filter(|line| matches!(line.deed, Deed::Restart { .. }));
    hits.chain(restarts.map(|line| line.sent)).collect()
}
