//! Chance from a number: the same numbers in each run, on any machine.

use std::ops::Range;

/// SplitMix64. Two with different seeds below 2^24 never make the same number in their first 2^40.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The numbers of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random { state: seed << 40 }
    }

    /// Any number; never the same twice.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(1);
        let mut z = self.state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of a range that is not empty.
    pub fn within(&mut self, range: Range<usize>) -> usize {
        range.start + (self.number() % (range.end - range.start) as u64) as usize
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.within(0..times) == 0
    }
}

/// Chance in which the first is twice as frequent as the second and three times as the third.
#[derive(Debug)]
pub struct Zipf {
    /// The weights up to each rank, added up.
    sums: Vec<f64>,
}

impl Zipf {
    /// Over so many ranks, at least one.
    #[must_use]
    pub fn new(ranks: usize) -> Zipf {
        let mut sum = 0.0;
        let sums = (1..=ranks).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Zipf { sums: sums.collect() }
    }

    /// A rank, counted from 0.
    pub fn rank(&self, random: &mut Random) -> usize {
        // The 53 bits that a float can hold.
        let share = (random.number() >> 11) as f64 / (1_u64 << 53) as f64;
        let all = self.sums[self.sums.len() - 1];
        self.sums.partition_point(|sum| *sum <= share * all).min(self.sums.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rank_is_the_most_frequent() {
        let (mut random, zipf) = (Random::new(1), Zipf::new(4));
        let mut counts = [0_u32; 4];
        (0..25_000).for_each(|_| counts[zipf.rank(&mut random)] += 1);
        // Weights 12, 6, 4 and 3 of 25.
        let expected = [12_000, 6_000, 4_000, 3_000];
        assert!(
            counts.iter().zip(expected).all(|(count, all)| count.abs_diff(all) < 500),
            "{counts:?}"
        );
    }
}
