//! `cargo xtask check`: everything that has to hold, the same at home and in CI.

use std::time::Instant;

use anyhow::Result;

use crate::deps;
use crate::steps::{self, cargo, program, step, succeeds};

/// Runs all checks in order, and stops at the first that fails.
///
/// # Errors
/// That of the first check that fails.
pub fn run() -> Result<()> {
    let began = Instant::now();
    step("formatting", || steps::run(cargo().args(["fmt", "--all", "--check"])))?;
    step("clippy", || {
        steps::run(
            cargo()
                .args(["clippy", "--locked", "--workspace", "--all-targets"])
                .args(["--", "-D", "warnings"]),
        )
    })?;
    step("docs", || {
        let mut doc = cargo();
        steps::run(
            doc.args(["doc", "--locked", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    })?;
    step("tests", || steps::run(cargo().args(["test", "--locked", "--workspace"])))?;
    step("direction of dependencies", deps::run)?;
    deny()?;
    demo()?;
    eprintln!("all checks passed in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn deny() -> Result<()> {
    if !succeeds(cargo().args(["deny", "--version"])) {
        eprintln!(
            "--> cargo deny: skipped, it is not installed (cargo install --locked cargo-deny)"
        );
        return Ok(());
    }
    let checks = ["bans", "licenses", "sources"];
    step("cargo deny", || {
        steps::run(
            cargo()
                .args(["deny", "--offline", "--locked", "check", "--hide-inclusion-graph"])
                .args(checks),
        )
    })
}

/// The README's first command, on this repository and a store that goes away.
fn demo() -> Result<()> {
    if !succeeds(program("git").args(["rev-parse", "--verify", "--quiet", "HEAD"])) {
        eprintln!("--> demo: skipped, this is no git repository with a commit");
        return Ok(());
    }
    let folder = std::env::temp_dir().join(format!("axwatch-check-{}", std::process::id()));
    let mut run = cargo();
    run.args(["run", "--quiet", "--locked", "--", "demo", "--store"]);
    let done = step("demo", || steps::run(run.arg(folder.join("demo.db"))));
    // It is gone already when the demo could not make it.
    let _ = std::fs::remove_dir_all(&folder);
    done
}
