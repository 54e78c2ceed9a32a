//! Bytes that were written to the disk of a store.
//!
//! `/proc/diskstats` counts what reaches the device, the file system's own journal included, but also
//! what others write to it meanwhile. `/proc/self/io` counts the pages that this process made dirty,
//! and nothing else. The first is the figure; the second, beside it, says how much of it was ours, and
//! takes its place where the device of a store cannot be told.

use std::fs::File;
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

const SECTOR_BYTES: u64 = 512;

/// Counts from its start on.
#[derive(Debug)]
pub struct Meter {
    device: Option<(u64, u64)>,
    device_bytes: u64,
    process_bytes: u64,
}

/// What was written since.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// To the device, by anybody; `None` where it cannot be told.
    pub device_bytes: Option<u64>,
    /// By this process.
    pub process_bytes: u64,
}

impl Written {
    /// The figure, and the name of where it comes from.
    #[must_use]
    pub fn best(self) -> (u64, &'static str) {
        match self.device_bytes {
            Some(bytes) => (bytes, "/proc/diskstats"),
            None => (self.process_bytes, "/proc/self/io write_bytes"),
        }
    }
}

impl Meter {
    /// Starts counting for a store, all of whose bytes so far are brought to the disk first.
    ///
    /// # Errors
    /// When the files or `/proc/self/io` cannot be read.
    pub fn start(store: &Path) -> Result<Meter> {
        sync(store)?;
        let device = device_of(store)?;
        let device_bytes = device.and_then(device_bytes).unwrap_or(0);
        let device = device.filter(|&device| device_bytes_known(device));
        Ok(Meter { device, device_bytes, process_bytes: process_bytes()? })
    }

    /// What was written since the start, once it is on the disk.
    ///
    /// # Errors
    /// When the files or `/proc/self/io` cannot be read.
    pub fn read(&self, store: &Path) -> Result<Written> {
        sync(store)?;
        let device_bytes = self.device.and_then(device_bytes);
        Ok(Written {
            device_bytes: device_bytes.map(|bytes| bytes - self.device_bytes),
            process_bytes: process_bytes()? - self.process_bytes,
        })
    }
}

fn sync(store: &Path) -> Result<()> {
    for ending in ["", "-wal"] {
        let mut path = store.as_os_str().to_owned();
        path.push(ending);
        if let Ok(file) = File::open(&path) {
            file.sync_all().with_context(|| format!("cannot sync {}", path.display()))?;
        }
    }
    Ok(())
}

/// The device on which the folder of a store lies, as its two numbers.
fn device_of(store: &Path) -> Result<Option<(u64, u64)>> {
    let folder = store.parent().context("a store lies in a folder")?;
    let device = std::fs::metadata(folder)?.st_dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    // Major 0 is no disk: tmpfs, overlayfs, btrfs.
    Ok((major != 0).then_some((major, minor)))
}

fn device_bytes_known(device: (u64, u64)) -> bool {
    device_bytes(device).is_some()
}

fn device_bytes(device: (u64, u64)) -> Option<u64> {
    sectors_written(&std::fs::read_to_string("/proc/diskstats").ok()?, device)
        .map(|sectors| sectors * SECTOR_BYTES)
}

/// Fields of a line: major, minor, name, 4 about reads, then writes, merged, sectors written.
fn sectors_written(text: &str, (major, minor): (u64, u64)) -> Option<u64> {
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let here = fields.first()?.parse() == Ok(major) && fields.get(1)?.parse() == Ok(minor);
        if here { fields.get(9)?.parse().ok() } else { None }
    })
}

fn process_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io").context("cannot read /proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.context("/proc/self/io has no write_bytes")?.parse().context("write_bytes is no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenth_field_of_the_right_line_counts() {
        let text = "   7  0 loop0 1 2 3 4 5 6 7 8 0\n 254       0 vda 167646 12166 14988698 256838 \
                    21594 44525 11681568 37798 0 19800\n";
        assert_eq!(sectors_written(text, (254, 0)), Some(11_681_568));
        assert_eq!(sectors_written(text, (254, 1)), None);
    }
}
