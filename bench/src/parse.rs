//! How long a query takes to parse, against the limit of the design, in the profile of this program. The
//! crate in `bench/criterion` measures the same in the release profile.

use std::hint::black_box;
use std::time::Instant;

use axwatch_query::parse;

use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::spread::{median, percentile};
use crate::typical::{LIMIT_NS, TYPICAL};

/// The profile that this was built with: only that of tests checks what is asserted for debugging.
const PROFILE: &str = if cfg!(debug_assertions) { "dev" } else { "release" };

/// A figure for each query, and their mean, which is held to the limit. A value is the median of the
/// rounds; the quickest round, which other work on the machine touches least, stands beside it.
#[must_use]
pub fn run(setting: &Setting) -> Vec<Figure> {
    let rounds = if setting.quick { 5 } else { 500 };
    let measured = TYPICAL.map(|(name, query)| (name, query, time_ns(query, rounds)));
    let mean = |of: fn(&[f64]) -> f64| {
        measured.iter().map(|(_, _, rounds)| of(rounds)).sum::<f64>() / measured.len() as f64
    };
    let figures = measured.iter().map(|(name, query, rounds)| {
        figure(setting, name, median(rounds), rounds.len(), Limit::None)
            .with("fastest_ns", fastest(rounds))
            .with("bytes", query.len())
            .with("profile", PROFILE)
    });
    let all = figure(setting, "ax parse: mean", mean(median), rounds, Limit::AtMost(1.0))
        .with("fastest_ns", mean(fastest))
        .with("profile", PROFILE);
    figures.chain([all]).collect()
}

fn figure(setting: &Setting, name: &'static str, ns: f64, runs: usize, limit: Limit) -> Figure {
    let measured = Measured { name, unit: "ns", value: ns, runs };
    let yardstick = Yardstick { against: "the limit for a typical query", value: LIMIT_NS };
    Figure::new(setting, measured, yardstick, limit)
}

fn fastest(rounds: &[f64]) -> f64 {
    percentile(rounds, 0.0)
}

/// Nanoseconds of one parse, its result dropped, in each round.
fn time_ns(query: &str, rounds: usize) -> Vec<f64> {
    const PARSES: u32 = 2_000;
    let round = |_| {
        let start = Instant::now();
        for _ in 0..PARSES {
            drop(black_box(parse(black_box(query))));
        }
        start.elapsed().as_nanos() as f64 / f64::from(PARSES)
    };
    (0..rounds).map(round).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_a_parse_of_a_typical_query() {
        for (name, query) in TYPICAL {
            assert!(parse(query).is_ok(), "{name}: {query}");
            assert!((42..=48).contains(&query.len()), "{name} has {} bytes", query.len());
        }
    }
}
