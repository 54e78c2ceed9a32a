//! What developers of axwatch run: `cargo xtask …`.
//!
//! Everything is built in the one `dev` profile and with the features of the whole workspace, so that
//! no step builds again what another has built. So that this holds for this program too, it reads its
//! few arguments by hand.

mod bench;
mod check;
mod deps;
mod fuzz;
mod picture;
mod steps;

use std::process::ExitCode;

use anyhow::Result;

const USAGE: &str = "\
usage: cargo xtask <command>

  check               everything that has to hold: formatting, clippy, docs, tests, the Python SDK,
                      dependencies, the demo; stops at the first failure
  deps                only the direction of dependencies
  picture             makes docs/terminal.svg anew: the real program on a real terminal; needs git,
                      and script of util-linux
  bench road [...]    measures the main job against its limits
                        --json    one JSON object a line
                        --quick   a small scale, to see that it works
                        --only P  one part: append, idle, sustained, half-load, flood, disk
                        --folder F  where to work; its disk is what is measured
  bench parse [...]   measures how long a query takes to parse; --json, --quick
                        --release  by criterion, in the release profile, which builds the parser anew
  bench ax [...]      measures questions over a log of a million claims
                        --json, --quick
                        --claims N  so many claims instead
                        --folder F  where to work
  bench zoo [...]     measures what a plugin keeps of its speed beside others that misbehave
                        --json, --quick
                        --only M  beside one of them, by its mode in examples/zoo_plugin.rs
                        --folder F  where to work
  bench match [...]   measures how fast the watchers of a claim are found among many, beside other
                      matchers, in the release profile
                        --json, --quick
                        --shape S       one shape of watchers: a, b, c, d or e
                        --watchers N    so many; 10, 1,000, 100,000 and 1,000,000 by default
                        --seed S        another workload of the shape
                        --alone         without the other matchers
                        --watchers-file F --attestations-file F
                                        a workload from outside, JSON lines; prints the watchers of each
                                        attestation first
  bench start [...]   measures a start with a million watchers and 100,000 open jobs
                        --json, --quick
                        --watchers N, --jobs N  so many instead
                        --folder F  where to work
  bench handlers [...]  measures how fast the plugin python runs code; --json, --quick
  bench storm [...]   measures what thousands of registrations add to an append
                        --json, --quick
                        --folder F  where to work
  fuzz ax [...]       tries random texts as queries, and shows one that breaks a promise of the parser
                      in its shortest form
                        --inputs N  how many; ten million by default
                        --seed S    which; others each time by default";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Does what the words say; `None` when they say nothing that is known.
fn run(words: &[&str]) -> Option<Result<()>> {
    match words {
        ["check"] => Some(check::run()),
        ["deps"] => Some(deps::run()),
        ["picture"] => Some(picture::run_all()),
        ["bench", "parse", "--release"] => Some(bench::parse_in_release()),
        ["bench", "match", rest @ ..] => Some(bench::matching(rest)),
        [
            "bench",
            part @ ("road" | "parse" | "ax" | "zoo" | "start" | "handlers" | "storm"),
            rest @ ..,
        ] => Some(bench::run(part, rest)),
        ["fuzz", "ax", rest @ ..] => Some(fuzz::ax(rest)),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Some(Ok(()))
        }
        _ => None,
    }
}
