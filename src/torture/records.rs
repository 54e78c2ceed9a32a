//! What the processes of a run write down, an object a line. Times are nanoseconds of
//! [`super::monotonic_ns`], unless they say otherwise.
//!
//! Each file is only ever appended to, a whole line with one write, so that several processes can write
//! to one and a kill cuts off at most the last line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::plan::{Moment, Victim};

/// What the driver saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverLine {
    /// The claims from this number up to, and without, that one are about to be sent for the first time.
    New { from: u64, to: u64, at: u64 },
    /// The claim with this number was acknowledged.
    Ack { number: u64, seq: u64, sent: u64, at: u64 },
    /// It was refused, and not because it came at a bad time.
    Refused { number: u64, error: String, at: u64 },
}

/// What the plugin did. A line is on the disk before the host hears of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerLine {
    /// Its process started.
    Up { pid: u32, at: u64 },
    /// A job was delivered.
    Delivery { job: String, attempt: u32, watcher: String, handler: String, claim: String, at: u64 },
    /// A claim of its own was acknowledged.
    Made { job: String, claim: String, seq: u64, at: u64 },
}

/// What was done to a watcher, or the plugin, by request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeedLine {
    /// What.
    pub deed: Deed,
    /// When it was asked for.
    pub sent: u64,
    /// When it was said to be done; none when the answer was lost.
    pub answered: Option<u64>,
    /// The watcher's revision by then.
    pub revision: Option<u64>,
    /// Why it was refused.
    pub refused: Option<String>,
}

/// Requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// A watcher of the user was declared, anew or as it stood.
    Declare { watcher: String, when: String, handlers: Vec<String>, limit: Option<u32> },
    /// One was paused.
    Pause { watcher: String },
    /// It went on.
    Resume { watcher: String },
    /// One was removed.
    Remove { watcher: String },
    /// The plugin was started anew, with another registration: the limit of the watcher that changes,
    /// none without it.
    Restart { flipped: Option<u32> },
}

/// What befell the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventLine {
    /// Its process was started. `at_ms` is the same moment in milliseconds since 1970.
    Started { life: u32, pid: u32, at: u64, at_ms: u64 },
    /// Its process has ended. `itself` says how, when nobody had ended it.
    Ended { life: u32, at: u64, itself: Option<String> },
    /// It was interfered with, from `at` to `until`.
    Hit { number: u64, victim: Victim, moment: Moment, at: u64, until: u64 },
}

/// A file of lines that is written to.
#[derive(Debug)]
pub struct Journal(File);

impl Journal {
    /// Goes on with a file, or begins it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn open(path: &Path) -> Result<Journal> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
        Ok(Journal(file.with_context(|| format!("cannot write to {}", path.display()))?))
    }

    /// Adds lines, all with one write.
    ///
    /// # Errors
    /// What the file system says.
    pub fn add<T: Serialize>(&mut self, lines: &[T]) -> Result<()> {
        let mut text = String::new();
        for line in lines {
            text.push_str(&serde_json::to_string(line)?);
            text.push('\n');
        }
        self.write(text.as_bytes()).context("cannot write to a record of the run")
    }

    /// Adds whole lines as they are.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.0.write_all(lines)
    }

    /// Waits until what was added is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// All lines of a file; none when there is no file. What is no such line was cut off by a kill.
///
/// # Errors
/// What the file system says.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
