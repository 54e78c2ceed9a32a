//! Numbers that are the same again for the same seed (SplitMix64).

use std::time::Duration;

/// A stream of numbers.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The stream of a seed, for one purpose among several.
    pub fn new(seed: u64, purpose: u64) -> Dice {
        Dice(mix(seed ^ mix(purpose)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Whether something happens that does in `percent` of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len() as u64);
        &of[usize::try_from(at).expect("it is below a length")]
    }

    /// A time in which each order of magnitude is as likely as the others.
    pub fn log_uniform(&mut self, from: Duration, to: Duration) -> Duration {
        let part = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(from.as_secs_f64() * (to.div_duration_f64(from)).powf(part))
    }
}

/// Spreads the bits of a number over all others.
pub fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_of_magnitude_are_equally_likely() {
        let mut dice = Dice::new(1, 1);
        let (from, to) = (Duration::from_millis(1), Duration::from_secs(1));
        let times: Vec<_> = (0..3_000).map(|_| dice.log_uniform(from, to)).collect();
        assert!(times.iter().all(|time| (from..=to).contains(time)));
        for decade in [1, 10, 100] {
            let (from, to) = (Duration::from_millis(decade), Duration::from_millis(decade * 10));
            let within = times.iter().filter(|time| (from..to).contains(*time)).count();
            assert!((850..1_150).contains(&within), "{within} between {from:?} and {to:?}");
        }
    }
}
