//! Histories that nobody thought of.

use std::fmt::Write as _;

use crate::support::{FIRST_COMMIT, Sandbox, check};

/// Numbers from a seed, the same on every machine.
struct Dice(u64);

impl Dice {
    /// Below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// A stream for `git fast-import`: roots, merges of up to five, clocks that jump, directories that
/// come and go.
fn stream(dice: &mut Dice, commits: u64) -> String {
    let mut stream = String::new();
    for number in 1..=commits {
        let seconds = FIRST_COMMIT + i64::try_from(dice.roll(1_000)).unwrap();
        writeln!(stream, "reset refs/heads/b{}", number % 7).unwrap();
        writeln!(stream, "commit refs/heads/b{}\nmark :{number}", number % 7).unwrap();
        writeln!(stream, "author A{} <a@x> {seconds} +0100", dice.roll(9)).unwrap();
        writeln!(stream, "committer C <c@x> {seconds} +0000\ndata 1\nx").unwrap();
        let parents = if number == 1 || dice.roll(20) == 0 { 0 } else { 1 + dice.roll(3).pow(2) };
        let mut named: Vec<u64> = Vec::new();
        for _ in 0..parents.min(number - 1) {
            let parent = number - 1 - dice.roll(number.min(15) - 1).min(number - 2);
            if !named.contains(&parent) {
                let word = if named.is_empty() { "from" } else { "merge" };
                writeln!(stream, "{word} :{parent}").unwrap();
                named.push(parent);
            }
        }
        for _ in 0..dice.roll(4) {
            let directory = dice.roll(6);
            match dice.roll(4) {
                0 => writeln!(stream, "D d{directory}").unwrap(),
                1 => writeln!(stream, "M 644 inline top{directory}\ndata 1\n{}", dice.roll(9))
                    .unwrap(),
                _ => writeln!(
                    stream,
                    "M 644 inline d{directory}/s{}/f\ndata 1\n{}",
                    dice.roll(3),
                    dice.roll(9)
                )
                .unwrap(),
            }
        }
    }
    stream
}

#[tokio::test]
async fn a_random_history_is_read_as_git_reads_it() {
    for seed in 1..=4 {
        let sandbox = Sandbox::new();
        let stream = stream(&mut Dice(seed), 200);
        sandbox.git_in(
            sandbox.path(),
            ["fast-import", "--quiet", "--force"],
            &[],
            stream.as_bytes(),
        );
        sandbox.git(["symbolic-ref", "HEAD", "refs/heads/b1"]);
        let read = check(&sandbox, sandbox.path()).await;
        assert!(read.commits().len() > 50, "seed {seed}: {}", read.commits().len());
    }
}
