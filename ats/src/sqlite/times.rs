//! Which blocks of the log have a `timestamp` of a range: the lowest and the highest of each block, so
//! that a search that is bound in time passes over the blocks that lie outside.
//!
//! In: blocks of the log, each read once, and only when a search has passed over so many rows one by one
//! that it pays. Rows of the log never change, so what was found out stays true; the newest rows, which
//! do not fill a block yet, are read each time. In memory only, 16 bytes a block: nothing of it survives,
//! and nothing has to.

use std::ops::RangeInclusive;
use std::sync::RwLock;

use axwatch_query::Filter;
use sqlx::sqlite::SqliteConnection;

use super::failed;
use crate::store::StoreError;

/// Numbers in a block: the first has those from 1 on.
pub(super) const BLOCK_ROWS: u64 = 1_024;
/// Blocks that one statement goes through at most: some milliseconds.
const BLOCKS_AT_ONCE: usize = 32;
/// Of a block that was not read yet.
const UNKNOWN: Times = Times { lowest: i64::MIN, highest: i64::MAX };
/// Of a block without a row.
const NONE: Times = Times { lowest: i64::MAX, highest: i64::MIN };

/// The lowest and the highest `timestamp` of some rows, or of those that are asked for, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub lowest: i64,
    pub highest: i64,
}

impl Times {
    /// All that there are.
    pub const ANY: Times = UNKNOWN;

    /// Those for which a filter may hold.
    pub fn asked(filter: &Filter) -> Times {
        Times {
            lowest: filter.time_start().unwrap_or(i64::MIN),
            highest: filter.time_end().unwrap_or(i64::MAX),
        }
    }

    fn meets(self, other: Times) -> bool {
        self.lowest <= other.highest && other.lowest <= self.highest
    }
}

/// The times of the blocks of one log, as far as anybody needed them.
#[derive(Debug, Default)]
pub(super) struct BlockTimes(RwLock<Vec<Times>>);

impl BlockTimes {
    /// The highest number up to `at_most` whose block may have one of these times; 0 for none.
    pub fn highest(&self, at_most: u64, asked: Times) -> u64 {
        self.run(at_most, asked).map_or(0, |run| *run.end())
    }

    /// The highest numbers up to `at_most` whose blocks may have one of these times, as far as no block
    /// that has none lies between them; not more than one statement should go through.
    pub fn run(&self, at_most: u64, asked: Times) -> Option<RangeInclusive<u64>> {
        if asked == Times::ANY {
            return (at_most > 0).then_some(1..=at_most);
        }
        let blocks = self.0.read().expect("nobody panics while holding the times of blocks");
        let may_have = |block: &usize| blocks.get(*block).is_none_or(|times| times.meets(asked));
        let highest = (0..=block_of(at_most)?).rev().find(may_have)?;
        let run = (0..=highest).rev().take(BLOCKS_AT_ONCE).take_while(may_have);
        let lowest = run.last().unwrap_or(highest);
        Some(first_of(lowest)..=at_most.min(first_of(highest + 1) - 1))
    }

    /// Reads the block of this number and some before it, where they are full and were not read yet.
    /// Answers how many rows that took.
    pub async fn learn(
        &self,
        connection: &mut SqliteConnection,
        at_most: u64,
        head: u64,
    ) -> Result<u64, StoreError> {
        let firsts = self.unknown(at_most, head);
        if firsts.is_empty() {
            return Ok(0);
        }
        let text: String = sqlx::query_scalar(READ_TIMES)
            .bind(serde_json::to_string(&firsts).expect("numbers are always JSON"))
            .fetch_one(connection)
            .await
            .map_err(failed("read the times of attestations"))?;
        let found: Vec<Option<(i64, i64)>> =
            serde_json::from_str(&text).expect("SQLite makes JSON of two numbers");
        let mut blocks = self.0.write().expect("nobody panics while holding the times of blocks");
        for (first, times) in firsts.iter().zip(found) {
            let block = block_of(*first).expect("the first number of a block is one of it");
            if blocks.len() <= block {
                blocks.resize(block + 1, UNKNOWN);
            }
            blocks[block] = times.map_or(NONE, |(lowest, highest)| Times { lowest, highest });
        }
        Ok(firsts.len() as u64 * BLOCK_ROWS)
    }

    /// The first numbers of the blocks to read next.
    fn unknown(&self, at_most: u64, head: u64) -> Vec<u64> {
        let blocks = self.0.read().expect("nobody panics while holding the times of blocks");
        let is_unknown = |block: &usize| blocks.get(*block).is_none_or(|times| *times == UNKNOWN);
        let Some(newest) = block_of(at_most) else { return Vec::new() };
        let full = (0..=newest).rev().skip_while(|block| first_of(block + 1) - 1 > head);
        let unknown = full.take(BLOCKS_AT_ONCE).take_while(is_unknown);
        unknown.map(first_of).collect()
    }
}

/// The block of a number; number 0 has none.
fn block_of(seq: u64) -> Option<usize> {
    usize::try_from(seq.checked_sub(1)? / BLOCK_ROWS).ok()
}

fn first_of(block: usize) -> u64 {
    block as u64 * BLOCK_ROWS + 1
}

/// One text for all blocks, each by a walk through its rows; `null` for one without any.
pub(super) const READ_TIMES: &str = "SELECT json_group_array(json( \
     (SELECT iif(count(*) = 0, 'null', json_array(min(timestamp), max(timestamp))) \
      FROM attestations WHERE seq >= blocks.value AND seq < blocks.value + 1024))) \
     FROM json_each(?) AS blocks";

#[cfg(test)]
mod tests {
    use super::*;

    fn times(lowest: i64, highest: i64) -> Times {
        Times { lowest, highest }
    }

    #[test]
    fn blocks_that_lie_outside_are_passed_over() {
        let blocks = BlockTimes(RwLock::new(vec![
            times(10, 20),
            UNKNOWN,
            NONE,
            times(30, 40),
            times(35, 50),
        ]));
        let cases = [
            // (up to, asked, the run)
            (0, times(0, 99), None),
            (5_000, Times::ANY, Some(1..=5_000)),
            (6_000, times(0, 99), Some(3_073..=6_000)),
            (6_000, times(60, 99), Some(5_121..=6_000)),
            (5_120, times(60, 99), Some(1_025..=2_048)),
            (5_120, times(0, 34), Some(3_073..=4_096)),
            (3_500, times(0, 34), Some(3_073..=3_500)),
            (3_500, times(15, 25), Some(1..=2_048)),
            (1_024, times(15, 25), Some(1..=1_024)),
            (1_024, times(21, 25), None),
        ];
        for (at_most, asked, run) in cases {
            assert_eq!(blocks.run(at_most, asked), run, "up to {at_most}, {asked:?}");
        }
        let long = BlockTimes::default();
        assert_eq!(long.run(102_400, times(0, 9)), Some(69_633..=102_400), "32 blocks at once");
    }

    #[test]
    fn only_full_blocks_that_were_not_read_are_read() {
        let blocks = BlockTimes(RwLock::new(vec![NONE, UNKNOWN, NONE]));
        let cases = [
            // (up to, the head, first numbers of blocks)
            (0, 9_000, vec![]),
            (5_000, 5_119, vec![3_073]),
            (5_000, 5_120, vec![4_097, 3_073]),
            (3_000, 9_000, vec![]),
            (2_048, 9_000, vec![1_025]),
            (1_024, 1_000, vec![]),
        ];
        for (at_most, head, firsts) in cases {
            assert_eq!(blocks.unknown(at_most, head), firsts, "up to {at_most} of {head}");
        }
    }
}
