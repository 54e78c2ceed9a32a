//! `cargo xtask check`: everything that has to hold, the same at home and in CI.

use std::num::NonZero;
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
    step("tests", || {
        let mut test = cargo();
        test.args(["test", "--locked", "--workspace"]);
        steps::run(test.env("RUST_TEST_THREADS", test_threads().to_string()))
    })?;
    python_sdk()?;
    step("direction of dependencies", deps::run)?;
    deny()?;
    demo()?;
    eprintln!("all checks passed in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// How many tests run at a time: twice as many as there are processors, because most of them wait for processes.
fn test_threads() -> usize {
    2 * std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The tests of the Python SDK, with what they need in a virtual environment of its own. The program that
/// they run was built for the tests before.
fn python_sdk() -> Result<()> {
    const PACKAGE: &str = "sdk/python";
    let venv = steps::root().join("target/python-sdk");
    let python = venv.join("bin/python").display().to_string();
    // Without pip inside an environment is none.
    if !succeeds(program("python3").args(["-c", "import ensurepip, venv"])) {
        eprintln!(
            "--> Python SDK: skipped, python3 makes no virtual environments (apt install python3 python3-venv)"
        );
        return Ok(());
    }
    let wanted = std::fs::read(steps::root().join(PACKAGE).join("requirements-dev.txt"))?;
    let stamp = venv.join("installed");
    if std::fs::read(&stamp).ok().as_ref() != Some(&wanted) {
        let made = steps::run(program("python3").args(["-m", "venv", "--clear"]).arg(&venv));
        let installed = made.and_then(|()| {
            let arguments =
                ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
            let list = format!("{PACKAGE}/requirements-dev.txt");
            steps::run(program(&python).args(arguments).arg(list))
        });
        if let Err(error) = installed {
            eprintln!(
                "--> Python SDK: skipped, {error:#}; it needs the packages of {PACKAGE}/requirements-dev.txt, from a registry that pip reaches, once"
            );
            return Ok(());
        }
        std::fs::write(&stamp, &wanted)?;
    }
    // The program lies where this one does.
    let axwatch = std::env::current_exe()?.with_file_name("axwatch");
    step("Python SDK", || {
        steps::run(
            program(&python)
                .args(["-m", "unittest"])
                .env("AXWATCH_BIN", &axwatch)
                .current_dir(steps::root().join(PACKAGE)),
        )
    })
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
