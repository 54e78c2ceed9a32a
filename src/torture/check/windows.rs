//! The windows of limits: how many attempts of one watcher lie within one second.
//!
//! Within an epoch by the stamps of the audit. From one epoch to the next, whose clocks have nothing to do
//! with each other, by when the plugin got the attempts: an engine lets nothing of such a watcher go for a
//! second after its start, so that what the plugin got from two of them is never that close.

use std::collections::HashMap;

use super::audit::{Audited, Stamp};
use super::{Delivery, Fault, Findings};

const SECOND_US: u64 = 1_000_000;
/// Across a restart: what a plugin gets late, because it is killed a little after its engine, is no fault.
const RESTART_US: u64 = 900_000;

/// Looks at the window before each attempt. Answers how many windows that were.
pub fn check(audited: &Audited, deliveries: &[Delivery], found: &mut Findings) -> u64 {
    let mut windows = 0;
    for ((watcher, epoch), stamps) in &audited.stamps {
        let mut stamps = stamps.clone();
        stamps.sort_unstable();
        windows += stamps.len() as u64;
        for (held, Stamp { us, limit }) in over(&stamps, SECOND_US) {
            found.add(Fault::OverLimit, || {
                format!("{watcher} has {held} attempts in the second up to {us} µs of epoch {epoch}, and its limit is {limit}")
            });
        }
    }
    for (watcher, mut got) in by_watcher(audited, deliveries) {
        got.sort_unstable_by_key(|got| got.stamp);
        for (held, Stamp { us, limit }) in over_restarts(&got) {
            found.add(Fault::OverLimit, || {
                format!("{watcher} has {held} attempts in the second up to {us} µs, in which the engine was started again, and its limit is {limit}")
            });
        }
    }
    windows
}

/// The windows that hold more than the least limit of their attempts, each with how many and its last. A
/// limiter is closed for a second when its limit changes, so that no window has two.
fn over(stamps: &[Stamp], width_us: u64) -> Vec<(usize, Stamp)> {
    let mut first = 0;
    let mut over = Vec::new();
    for (at, last) in stamps.iter().enumerate() {
        while stamps[first].us + width_us <= last.us {
            first += 1;
        }
        let window = &stamps[first..=at];
        let least = window.iter().map(|stamp| stamp.limit).min().unwrap_or(u32::MAX);
        if window.len() > least as usize {
            over.push((window.len(), *last));
        }
    }
    over
}

/// An attempt that the plugin got.
#[derive(Debug, Clone, Copy)]
struct Got {
    stamp: Stamp,
    epoch: u64,
}

fn by_watcher<'a>(audited: &Audited, deliveries: &'a [Delivery]) -> HashMap<&'a str, Vec<Got>> {
    let mut watchers: HashMap<&str, Vec<Got>> = HashMap::new();
    for delivery in deliveries {
        if let Some(started) = audited.started.get(&(delivery.job, delivery.attempt))
            && let Some(limit) = started.limit
        {
            let stamp = Stamp { us: delivery.at / 1_000, limit };
            watchers
                .entry(&delivery.watcher)
                .or_default()
                .push(Got { stamp, epoch: started.epoch });
        }
    }
    watchers
}

/// The windows over the limit that end with the first attempt of an epoch.
fn over_restarts(got: &[Got]) -> Vec<(usize, Stamp)> {
    let mut over_restarts = Vec::new();
    for (at, pair) in got.windows(2).enumerate() {
        let [before, first] = pair else { continue };
        if before.epoch < first.epoch {
            let from = got.partition_point(|got| got.stamp.us + RESTART_US <= first.stamp.us);
            let window: Vec<Stamp> = got[from..=at + 1].iter().map(|got| got.stamp).collect();
            over_restarts.extend(
                over(&window, RESTART_US).into_iter().filter(|(_, last)| *last == first.stamp),
            );
        }
    }
    over_restarts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_half_open() {
        let cases: [(&[u64], u32, usize); 5] = [
            (&[0, 1_000_000, 2_000_000], 1, 0),
            (&[0, 999_999], 1, 1),
            (&[0, 500_000, 1_000_000, 1_500_000], 2, 0),
            (&[0, 500_000, 999_999, 1_000_000], 2, 2),
            (&[], 1, 0),
        ];
        for (stamps, limit, expected) in cases {
            let stamps: Vec<_> = stamps.iter().map(|us| Stamp { us: *us, limit }).collect();
            assert_eq!(over(&stamps, SECOND_US).len(), expected, "{stamps:?}");
        }
    }

    #[test]
    fn a_restart_makes_no_room() {
        let check = |got: &[(u64, u64)], limit, expected| {
            let got = got
                .iter()
                .map(|(us, epoch)| Got { stamp: Stamp { us: *us, limit }, epoch: *epoch });
            let got: Vec<_> = got.collect();
            assert_eq!(over_restarts(&got).len(), expected, "{got:?}");
        };
        // Microseconds and epoch of each, the limit, how many windows are over it.
        check(&[(0, 1), (899_999, 2)], 1, 1);
        check(&[(0, 1), (900_000, 2)], 1, 0);
        check(&[(0, 1), (500_000, 2)], 2, 0);
        // Within an epoch the plugin may get them closer together than they left.
        check(&[(0, 1), (1, 1), (900_001, 2), (900_002, 2)], 1, 0);
    }
}
