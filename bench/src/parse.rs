//! How long a query takes to parse, against the limit of the design.

use std::hint::black_box;
use std::time::Instant;

use axwatch_query::parse;

use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::spread::{median, percentile};

/// Nanoseconds that a typical query of 45 bytes may take.
const LIMIT_NS: f64 = 260.0;

/// Queries of about 45 bytes, one of each kind: actions, `not`, three forms of a time, `where`, quotes.
const TYPICAL: [(&str, &str); 7] = [
    ("ax parse: terms and an action", "ALICE is author of GitHub by HR so notify it"),
    ("ax parse: terms and not", "ALICE BOB is author of GitHub is not draft ok"),
    ("ax parse: a named time", "ALICE is author of GitHub by HR since yesterday"),
    ("ax parse: a date", "ALICE is author_of of GitHub since 2024-01-01"),
    ("ax parse: an amount of time", "is deployed of prod by ci since 3 days ago"),
    ("ax parse: conditions", "is released where lang = 'rust' and stars > 5"),
    ("ax parse: quotes", "'John Doe' is 'senior developer' of 'ACME Corp'"),
];

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
    });
    let all = figure(setting, "ax parse: mean", mean(median), rounds, Limit::AtMost(1.0))
        .with("fastest_ns", mean(fastest));
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
