//! Memory of this process that is in use.

use anyhow::{Context as _, Result};

/// Resident bytes: `VmRSS` of `/proc/self/status`.
///
/// # Errors
/// When it cannot be read.
pub fn resident_bytes() -> Result<u64> {
    let text =
        std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    resident(&text).context("/proc/self/status has no VmRSS")
}

/// `VmRSS:     4711 kB`
fn resident(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found_and_its_unit_taken_in() {
        let text = "VmHWM:\t   9000 kB\nVmRSS:\t   4711 kB\nThreads:\t1\n";
        assert_eq!(resident(text), Some(4_711 * 1_024));
        assert!(resident_bytes().is_ok_and(|bytes| bytes > 0));
    }
}
