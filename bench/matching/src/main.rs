//! `cargo xtask bench match`: how fast the watchers of an attestation are found among many, beside other
//! matchers, with shapes of its own or a workload from files.

mod hostile;
mod measure;
#[path = "../../src/memory.rs"]
mod memory;
mod outside;
#[allow(dead_code, reason = "shared with the other benchmarks")]
#[path = "../../src/random.rs"]
mod random;
mod rivals;
mod shapes;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axwatch_model::{Attestation, Declared};
use axwatch_query::Filter;
use clap::{Parser, ValueEnum as _};
use hostile::Hostile;
use measure::{Line, Matcher};
use shapes::Shape;

/// Finds the watchers of attestations, and says what that costs.
#[derive(Parser)]
#[command(name = "axwatch-bench-matching")]
struct Arguments {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Few attestations and no more than 1,000 watchers: shows that it works.
    #[arg(long)]
    quick: bool,
    /// Only these shapes.
    #[arg(long, value_enum)]
    shape: Vec<Shape>,
    /// Workloads that were made to be dear, all or these, instead of shapes.
    #[arg(long, value_enum, num_args = 0.., conflicts_with_all = ["shape", "watchers", "watchers_file"])]
    hostile: Option<Vec<Hostile>>,
    /// Only so many watchers; 10, 1,000, 100,000 and 1,000,000 by default.
    #[arg(long)]
    watchers: Vec<usize>,
    /// Which of all workloads of a shape.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Without the other matchers.
    #[arg(long)]
    alone: bool,
    /// Watchers from outside, a JSON object a line: `{id, subjects, predicates, contexts, actors}` or
    /// `{id, ax}`.
    #[arg(long, requires = "attestations_file", conflicts_with_all = ["shape", "watchers"])]
    watchers_file: Option<PathBuf>,
    /// Attestations from outside, a JSON object a line; the ids of the watchers of each are printed.
    #[arg(long, requires = "watchers_file")]
    attestations_file: Option<PathBuf>,
}

/// A workload.
struct Workload {
    name: &'static str,
    watchers: Vec<Declared>,
    attestations: Vec<Attestation>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let (Some(watchers), Some(attestations)) =
        (&arguments.watchers_file, &arguments.attestations_file)
    {
        return outside::run(watchers, attestations, |workload| measure(&arguments, workload));
    }
    if let Some(hostile) = &arguments.hostile {
        return each_hostile(&arguments, hostile);
    }
    let shapes = match &arguments.shape[..] {
        [] => Shape::value_variants(),
        some => some,
    };
    let sizes: &[usize] = match (&arguments.watchers[..], arguments.quick) {
        ([], true) => &[10, 1_000],
        ([], false) => &[10, 1_000, 100_000, 1_000_000],
        (some, _) => some,
    };
    ensure!(!sizes.contains(&0), "--watchers 0: there is nothing to find");
    if shapes.len() * sizes.len() > 1 {
        return each_by_itself(&arguments, shapes, sizes);
    }
    for &shape in shapes {
        for &watchers in sizes {
            let count = match (shape, arguments.quick) {
                (_, true) => 100,
                (Shape::D, _) => 200,
                _ => 100_000,
            };
            let workload = Workload {
                name: shape.name(),
                watchers: shape.watchers(watchers, arguments.seed),
                attestations: shape.attestations(watchers, count, arguments.seed),
            };
            measure(&arguments, &workload)?;
        }
    }
    Ok(())
}

/// Measures the hostile workloads, each in a process of its own; ours alone.
fn each_hostile(arguments: &Arguments, hostile: &[Hostile]) -> Result<()> {
    if let [one] = hostile {
        let share = if arguments.quick { 1_000 } else { 1 };
        return measure(arguments, &one.workload(share, arguments.seed));
    }
    let all = if hostile.is_empty() { Hostile::value_variants() } else { hostile };
    for one in all {
        by_itself(arguments, &["--alone", "--hostile", one.name()])?;
    }
    Ok(())
}

/// Measures each in a process of its own, so that the memory of one is not taken for that of another.
fn each_by_itself(arguments: &Arguments, shapes: &[Shape], sizes: &[usize]) -> Result<()> {
    for shape in shapes {
        for watchers in sizes {
            by_itself(
                arguments,
                &["--shape", shape.name(), "--watchers", &watchers.to_string()],
            )?;
        }
    }
    Ok(())
}

/// Runs this program with these arguments and those that say how.
fn by_itself(arguments: &Arguments, what: &[&str]) -> Result<()> {
    let ours = std::env::current_exe().context("cannot tell where this program lies")?;
    let mut command = Command::new(&ours);
    command.args(what).args(["--seed", &arguments.seed.to_string()]);
    let flags = [
        (arguments.json, "--json"),
        (arguments.quick, "--quick"),
        (arguments.alone && !what.contains(&"--alone"), "--alone"),
    ];
    command.args(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag));
    let status = command.status().context("cannot start the measurement")?;
    ensure!(status.success(), "{}: {status}", what.join(" "));
    Ok(())
}

/// Measures ours, and the others on as much of the workload as they do in some seconds.
fn measure(arguments: &Arguments, workload: &Workload) -> Result<()> {
    let within = Duration::from_secs(if arguments.quick { 0 } else { 3 });
    let filters: Vec<Filter> = workload
        .watchers
        .iter()
        .map(|declared| Ok(Filter::declared(declared).map_err(|e| anyhow::anyhow!("{e:?}"))?.0))
        .collect::<Result<_>>()?;
    let (mut index, load_seconds, bytes) = measure::load(&filters)?;
    let cost = measure::match_all(&mut index, &workload.attestations, within);
    let update_us = measure::update_us(&mut index, &filters);
    tell(
        arguments,
        &Line {
            matcher: "axwatch",
            shape: workload.name,
            watchers: filters.len(),
            ns_per_attestation: cost.median_ns,
            fastest_ns: cost.fastest_ns,
            attestations_per_second: 1e9 / cost.median_ns,
            bytes_per_watcher: Some(bytes),
            update_us: Some(update_us),
            load_seconds,
            matches_per_attestation: cost.matches,
            candidates_per_attestation: Some(cost.candidates),
            formula_multiple: Some(cost.formula_multiple()),
        },
    )?;
    if arguments.alone {
        return Ok(());
    }
    let start = Instant::now();
    let mut naive = rivals::Naive::new(&filters);
    let loaded = start.elapsed().as_secs_f64();
    rival(arguments, workload, "naive", &mut naive, loaded, &mut index)?;
    drop(naive);
    // It takes minutes to load more, and knows no words that are one whatever their case, as files may have.
    if filters.len() <= 100_000 && workload.name != outside::NAME {
        let start = Instant::now();
        if let Some(mut tree) = rivals::Tree::new(&workload.watchers)? {
            let loaded = start.elapsed().as_secs_f64();
            rival(arguments, workload, "a-tree", &mut tree, loaded, &mut index)?;
        }
    }
    Ok(())
}

/// Measures another matcher, on fewer attestations, and holds ours to its answers.
fn rival(
    arguments: &Arguments,
    workload: &Workload,
    name: &'static str,
    rival: &mut dyn Matcher,
    load_seconds: f64,
    ours: &mut dyn Matcher,
) -> Result<()> {
    let most = (20_000_000 / workload.watchers.len()).clamp(10, 1_000);
    let some = &workload.attestations[..workload.attestations.len().min(most)];
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    for attestation in some.iter().take(100) {
        rival.matching(attestation, &mut expected);
        ours.matching(attestation, &mut found);
        ensure!(
            expected == found,
            "{name} finds {expected:?} where ours finds {found:?}: {attestation:?}"
        );
    }
    let within = Duration::from_millis(if arguments.quick { 0 } else { 500 });
    let cost = measure::match_all(rival, some, within);
    tell(
        arguments,
        &Line {
            matcher: name,
            shape: workload.name,
            watchers: workload.watchers.len(),
            ns_per_attestation: cost.median_ns,
            fastest_ns: cost.fastest_ns,
            attestations_per_second: 1e9 / cost.median_ns,
            bytes_per_watcher: None,
            update_us: None,
            load_seconds,
            matches_per_attestation: cost.matches,
            candidates_per_attestation: None,
            formula_multiple: None,
        },
    )
}

fn tell(arguments: &Arguments, line: &Line) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(line)?)?;
    } else {
        let optional =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        writeln!(
            out,
            "{:<8} {:<16} {:>9} watchers {:>12.0} ns {:>11.0}/s {:>7} B/watcher {:>6} us/update {:>5.2} s load {:>9.2} matches {:>9} candidates {:>6} x",
            line.matcher,
            line.shape,
            line.watchers,
            line.ns_per_attestation,
            line.attestations_per_second,
            optional(line.bytes_per_watcher),
            optional(line.update_us),
            line.load_seconds,
            line.matches_per_attestation,
            optional(line.candidates_per_attestation),
            line.formula_multiple.map_or("-".to_owned(), |multiple| format!("{multiple:.2}")),
        )?;
    }
    out.flush().context("cannot write")
}
