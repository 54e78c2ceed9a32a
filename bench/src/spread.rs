//! Medians and percentiles.

use std::time::Duration;

/// The middle of some numbers; of an even number of them the higher one. 0 of none.
#[must_use]
pub fn median(numbers: &[f64]) -> f64 {
    percentile(numbers, 50.0)
}

/// The number below which `percent` of them lie. 0 of none.
#[must_use]
pub fn percentile(numbers: &[f64], percent: f64) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() as f64 * percent / 100.0) as usize;
    sorted.get(rank.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// A span in milliseconds.
#[must_use]
pub fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        let numbers = [5.0, 1.0, 3.0, 2.0, 4.0];
        let cases = [(0.0, 1.0), (50.0, 3.0), (99.0, 5.0), (100.0, 5.0)];
        for (percent, expected) in cases {
            assert_eq!(percentile(&numbers, percent), expected, "{percent}");
        }
        assert_eq!(median(&[]), 0.0);
    }
}
