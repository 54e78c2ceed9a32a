//! What is measured of a matcher, and how.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axwatch_model::Attestation;
use axwatch_query::{Aliases, Filter, WatcherIndex};
use serde::Serialize;

/// A way to find the watchers of an attestation.
pub trait Matcher {
    /// Empties `found` and fills it with their numbers in rising order; answers how many watchers had to
    /// be verified.
    fn matching(&mut self, attestation: &Attestation, found: &mut Vec<u32>) -> u64;
}

impl Matcher for WatcherIndex {
    fn matching(&mut self, attestation: &Attestation, found: &mut Vec<u32>) -> u64 {
        WatcherIndex::matching(self, attestation, Aliases::none(), found).candidates
    }
}

/// One line of the output.
#[derive(Debug, Serialize)]
pub struct Line {
    /// `axwatch`, `naive` or `a-tree`.
    pub matcher: &'static str,
    /// Of the workload; `outside` for one from files.
    pub shape: &'static str,
    pub watchers: usize,
    /// The median of the rounds; from the attestation's texts to the ids.
    pub ns_per_attestation: f64,
    /// The same of the quickest round, which other work on the machine touches least.
    pub fastest_ns: f64,
    pub attestations_per_second: f64,
    /// Of the whole process, before and after the watchers were put in; `None` where it is not ours.
    pub bytes_per_watcher: Option<f64>,
    /// Taking one watcher out and putting it in again, among all others.
    pub update_us: Option<f64>,
    /// Putting all of them in.
    pub load_seconds: f64,
    pub matches_per_attestation: f64,
    pub candidates_per_attestation: Option<f64>,
    /// What it takes, as a multiple of 1 ms, 1 µs a match and 10 ns for each that is verified.
    pub formula_multiple: Option<f64>,
}

/// What a round cost.
#[derive(Debug, Default)]
pub struct Cost {
    pub median_ns: f64,
    pub fastest_ns: f64,
    pub matches: f64,
    pub candidates: f64,
}

impl Cost {
    /// As a multiple of what no allowed claim should take more than.
    pub fn formula_multiple(&self) -> f64 {
        self.median_ns / (1e6 + 1e3 * self.matches + 10.0 * self.candidates)
    }
}

/// Matches all attestations, round after round, for about as long as this, and three rounds at least.
pub fn match_all(
    matcher: &mut dyn Matcher,
    attestations: &[Attestation],
    within: Duration,
) -> Cost {
    let (mut rounds, mut found) = (Vec::new(), Vec::new());
    let mut cost = Cost::default();
    let began = Instant::now();
    while rounds.len() < 3 || (began.elapsed() < within && rounds.len() < 1_000) {
        let (mut matches, mut candidates) = (0, 0);
        let start = Instant::now();
        for attestation in attestations {
            candidates += matcher.matching(black_box(attestation), &mut found);
            matches += black_box(&found).len();
        }
        rounds.push(start.elapsed().as_nanos() as f64 / attestations.len() as f64);
        cost.matches = matches as f64 / attestations.len() as f64;
        cost.candidates = candidates as f64 / attestations.len() as f64;
        if began.elapsed() > within * 4 {
            break;
        }
    }
    rounds.sort_unstable_by(f64::total_cmp);
    cost.median_ns = rounds[rounds.len() / 2];
    cost.fastest_ns = rounds[0];
    cost
}

/// Puts all watchers into an index: it, the seconds that it took, and the bytes that each takes.
pub fn load(filters: &[Filter]) -> Result<(WatcherIndex, f64, f64)> {
    let before = resident_bytes()?;
    let start = Instant::now();
    let mut index = WatcherIndex::new();
    for (id, filter) in filters.iter().enumerate() {
        index.insert(u32::try_from(id).context("too many watchers")?, filter);
    }
    let seconds = start.elapsed().as_secs_f64();
    let bytes = resident_bytes()?.saturating_sub(before) as f64 / filters.len().max(1) as f64;
    Ok((index, seconds, bytes))
}

/// Microseconds of taking a watcher out and putting it in again: the mean over some of all of them.
pub fn update_us(index: &mut WatcherIndex, filters: &[Filter]) -> f64 {
    const UPDATES: usize = 10_000;
    let step = (filters.len() / UPDATES).max(1);
    let some: Vec<(usize, &Filter)> = filters.iter().enumerate().step_by(step).collect();
    let start = Instant::now();
    for (id, filter) in &some {
        index.remove(*id as u32);
        index.insert(*id as u32, filter);
    }
    start.elapsed().as_secs_f64() * 1e6 / some.len().max(1) as f64
}

/// Of this process: `VmRSS` of `/proc/self/status`.
fn resident_bytes() -> Result<u64> {
    crate::memory::resident_bytes()
}
