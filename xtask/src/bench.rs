//! `cargo xtask bench`: builds the benchmarks as the tests are built, and runs them.

use anyhow::{Context as _, Result};

use crate::steps::{self, cargo, program};

/// Measures one part (`road`, `parse`, `ax`, `zoo`, `start`, `handlers`, `storm`), with the arguments of
/// `axwatch-bench` for it.
///
/// # Errors
/// When it does not build or does not run.
pub fn run(part: &str, arguments: &[&str]) -> Result<()> {
    // With the features of the whole workspace: those of the one package would build much again.
    let build = ["build", "--quiet", "--locked", "--workspace", "--bin", "axwatch-bench"];
    let zoo = ["--example", "zoo_plugin"];
    steps::run(cargo().args(build).args(if part == "zoo" { &zoo[..] } else { &[] }))?;
    let ours = std::env::current_exe().context("cannot tell where this program lies")?;
    let bench = ours.with_file_name("axwatch-bench");
    let bench = bench.to_str().context("the path of this program is no text")?;
    steps::run(program(bench).arg(part).args(arguments))
}

/// Measures parsing by criterion, in the release profile. It is a workspace of its own, so that nothing
/// else is built for it, and it for nothing else.
///
/// # Errors
/// When it does not build or does not run.
pub fn parse_in_release() -> Result<()> {
    let bench = ["bench", "--quiet", "--locked", "--manifest-path", "bench/criterion/Cargo.toml"];
    steps::run(cargo().args(bench))
}

/// Measures matching beside other matchers, in the release profile, with the arguments of
/// `axwatch-bench-matching`. A workspace of its own, for the same reason.
///
/// # Errors
/// When it does not build or does not run.
pub fn matching(arguments: &[&str]) -> Result<()> {
    let build = ["run", "--release", "--quiet", "--locked", "--target-dir", "target/matching"];
    let bench = ["--manifest-path", "bench/matching/Cargo.toml", "--"];
    steps::run(cargo().args(build).args(bench).args(arguments))
}
