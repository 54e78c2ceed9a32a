//! `cargo xtask fuzz`: the long modes of the tests that try random input.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use crate::steps::{self, cargo};

/// Tries random texts as queries in AX, until all are tried or one breaks a promise of the parser.
///
/// # Errors
/// When a promise is broken, or the arguments are not understood.
pub fn ax(arguments: &[&str]) -> Result<()> {
    let Wanted { inputs, seed } = Wanted::read(arguments)?;
    let seed = seed.unwrap_or_else(any_seed);
    eprintln!("{inputs} inputs of seed {seed}");
    // With the features of the whole workspace, so that nothing is built again.
    let test = ["test", "--quiet", "--locked", "--workspace", "--test", "fuzz", "--"];
    let only = ["--ignored", "--nocapture", "many_random_texts_keep_the_promises"];
    let mut run = cargo();
    run.args(test).args(only);
    run.env("AXWATCH_FUZZ_INPUTS", inputs.to_string());
    run.env("AXWATCH_FUZZ_SEED", seed.to_string());
    steps::run(&mut run)
}

/// What the arguments ask for.
#[derive(Debug, PartialEq)]
struct Wanted {
    inputs: u64,
    /// None: another each time.
    seed: Option<u64>,
}

impl Wanted {
    fn read(arguments: &[&str]) -> Result<Wanted> {
        let mut wanted = Wanted { inputs: 10_000_000, seed: None };
        for pair in arguments.chunks(2) {
            let [name @ ("--inputs" | "--seed"), number] = pair else {
                bail!("{:?} is not understood; there are --inputs N and --seed S", pair.join(" "));
            };
            let number: u64 = number.parse().with_context(|| {
                format!("{name} {number:?} is no number from 0 to {}", u64::MAX)
            })?;
            match *name {
                "--inputs" => wanted.inputs = number,
                _ => wanted.seed = Some(number),
            }
        }
        Ok(wanted)
    }
}

fn any_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_or_refused_with_what_there_is() {
        let wanted = |inputs, seed| Some(Wanted { inputs, seed });
        let cases: [(&[&str], Option<Wanted>); 6] = [
            (&[], wanted(10_000_000, None)),
            (&["--inputs", "5"], wanted(5, None)),
            (&["--seed", "7", "--inputs", "5"], wanted(5, Some(7))),
            (&["--inputs"], None),
            (&["--inputs", "many"], None),
            (&["--inputz", "5"], None),
        ];
        for (arguments, expected) in cases {
            assert_eq!(Wanted::read(arguments).ok(), expected, "{arguments:?}");
        }
    }
}
