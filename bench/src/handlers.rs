//! How fast the plugin `python` runs code: from ExecuteJob to its answer, over gRPC on loopback.
//!
//! Measured is all that the plugin does for a job of a stored handler that it has run before: the call,
//! a turn at one of two warm `python3` processes, a fresh namespace, the code, its output and its result,
//! and the answer. The caller is in the same process and has its share of the two cores. Not measured: the
//! engine, whose road to a plugin has figures of its own.

use std::time::Instant;

use anyhow::{Context as _, Result};
use axwatch_sdk::testing::{Harness, TestJob};
use axwatch_sdk::{Claim, Failure};
use futures::{StreamExt as _, stream};

use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::spread::{median, ms, percentile};

/// What the design asks for.
const RUNS_A_SECOND: f64 = 2_000.0;
const P50_MS: f64 = 2.0;
/// Processes that run code.
const WORKERS: usize = 2;
/// Jobs in flight when as many as possible are to be run.
const IN_FLIGHT: usize = 16;
/// A handler that does next to nothing, and answers.
const TRIVIAL: &str = "def main(upstream):\n    return len(upstream['subjects'])\n";

/// A figure for the runs a second, and one for how long a run takes.
///
/// # Errors
/// When there is no `python3`, or a job fails.
pub async fn run(setting: &Setting) -> Result<Vec<Figure>> {
    let (rounds, runs) = if setting.quick { (2, 200) } else { (7, 10_000) };
    let harness = Harness::try_start(axwatch_plugin_python::plugin(), [("workers", "2")])
        .await
        .map_err(|failure| anyhow::anyhow!("the plugin does not start: {failure}"))?;
    let version = harness.store_handler("trivial", TRIVIAL);
    let job = || {
        let claim = Claim::new("a1b2c3d", "is_commit", "commit_metadata").actor("git");
        TestJob::new("python.trivial").handler_version(&version).fire(claim)
    };
    let jobs: Vec<TestJob> = (0..runs).map(|_| job()).collect();
    spans(&harness, &jobs, IN_FLIGHT).await.context("warming up")?;

    let (mut rates, mut busy, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let begun = Instant::now();
        spans(&harness, &jobs, IN_FLIGHT).await?;
        rates.push(runs as f64 / begun.elapsed().as_secs_f64());
        busy.push(spans(&harness, &jobs, WORKERS).await?);
        alone.push(spans(&harness, &jobs[..runs / 10], 1).await?);
    }
    let rate =
        Measured { name: "handler_runs", unit: "runs/s", value: median(&rates), runs: rounds };
    let against = "the limit for two workers";
    let rate = Figure::new(
        setting,
        rate,
        Yardstick { against, value: RUNS_A_SECOND },
        Limit::AtLeast(1.0),
    )
    .with("in_flight", IN_FLIGHT)
    .with("slowest_round", percentile(&rates, 0.0));
    let p50 = |name, spans: &[Vec<f64>], in_flight: usize| {
        let middles: Vec<f64> = spans.iter().map(|spans| median(spans)).collect();
        let tails: Vec<f64> = spans.iter().map(|spans| percentile(spans, 99.0)).collect();
        let measured = Measured { name, unit: "ms", value: median(&middles), runs: rounds };
        let yardstick = Yardstick { against: "the limit for one run", value: P50_MS };
        Figure::new(setting, measured, yardstick, Limit::AtMost(1.0))
            .with("in_flight", in_flight)
            .with("p99_ms", median(&tails))
    };
    let busy = p50("handler_run_p50", &busy, WORKERS);
    let alone = p50("handler_run_alone_p50", &alone, 1);
    Ok(vec![rate, busy, alone])
}

/// How many milliseconds each job took, with so many under way at a time.
async fn spans(harness: &Harness, jobs: &[TestJob], in_flight: usize) -> Result<Vec<f64>> {
    let runs = stream::iter(jobs.iter().cloned()).map(|job| async {
        let begun = Instant::now();
        let outcome = harness.execute(job).await;
        match outcome.failure {
            None => Ok(ms(begun.elapsed())),
            Some(failure) => Err(failed(&failure)),
        }
    });
    let mut runs = runs.buffer_unordered(in_flight);
    let mut spans = Vec::with_capacity(jobs.len());
    while let Some(span) = runs.next().await {
        spans.push(span?);
    }
    Ok(spans)
}

fn failed(failure: &Failure) -> anyhow::Error {
    anyhow::anyhow!("a job failed: {failure}")
}
