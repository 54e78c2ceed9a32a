//! What a job has to say, within bounds: told while it runs where the host listens, and else in its reply.

use axwatch_proto::protocol::JobLogEntry;

/// Entries of one attempt.
const ENTRIES_MAX: usize = 1_000;
/// Bytes of one message.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of all messages: a reply has 8 MiB, of which results take most.
const BYTES_MAX: usize = 1024 * 1024;

/// How much a log entry matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// For whoever looks closely.
    Debug,
    /// The usual.
    Info,
    /// Something may be wrong.
    Warn,
    /// Something is wrong.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }

    /// The level of an entry as [`Log::into_wire`] writes it.
    pub(crate) fn named(name: &str) -> Level {
        let known = [Level::Debug, Level::Info, Level::Warn, Level::Error];
        known.into_iter().find(|level| level.name() == name).unwrap_or(Level::Info)
    }
}

/// The log of one attempt.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Those that nobody was told of yet.
    entries: Vec<JobLogEntry>,
    /// All of the attempt, those told included.
    count: usize,
    bytes: usize,
    left_out: usize,
}

impl Log {
    /// Adds an entry, or counts it when there is no room left.
    pub(crate) fn add(&mut self, level: Level, mut message: String) {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        if self.count >= ENTRIES_MAX || self.bytes + message.len() > BYTES_MAX {
            self.left_out += 1;
            return;
        }
        self.bytes += message.len();
        self.count += 1;
        self.entries.push(entry(level, message));
    }

    /// Takes what is to be told while the job runs.
    pub(crate) fn take(&mut self) -> Vec<JobLogEntry> {
        std::mem::take(&mut self.entries)
    }

    /// Gives back what could not be told.
    pub(crate) fn put_back(&mut self, mut entries: Vec<JobLogEntry>) {
        entries.append(&mut self.entries);
        self.entries = entries;
    }

    /// The rest of the entries, the last of which says how many there were no room for.
    pub(crate) fn into_wire(mut self) -> Vec<JobLogEntry> {
        if self.left_out > 0 {
            let message = format!("{} more log entries were left out", self.left_out);
            self.entries.push(entry(Level::Warn, message));
        }
        self.entries
    }
}

fn entry(level: Level, message: String) -> JobLogEntry {
    JobLogEntry {
        timestamp: format!("{:.3}", jiff::Timestamp::now()),
        level: level.name().to_owned(),
        message,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_bounded_in_every_way() {
        let mut log = Log::default();
        log.add(Level::Warn, "é".repeat(MESSAGE_BYTES_MAX));
        for _ in 0..1_500 {
            log.add(Level::Info, "x".into());
        }
        let entries = log.into_wire();
        assert_eq!(entries.len(), ENTRIES_MAX + 1);
        assert_eq!((entries[0].level.as_str(), entries[0].message.len()), ("warn", 65_536));
        assert_eq!(entries[ENTRIES_MAX].message, "501 more log entries were left out");

        let mut log = Log::default();
        (0..20).for_each(|_| log.add(Level::Info, "x".repeat(MESSAGE_BYTES_MAX)));
        log.add(Level::Error, String::new());
        let entries = log.into_wire();
        assert_eq!((entries.len(), entries[16].level.as_str()), (18, "error"));
        assert_eq!(entries[17].message, "4 more log entries were left out");
        assert!(entries[0].timestamp.parse::<jiff::Timestamp>().is_ok());
    }

    #[test]
    fn a_level_is_known_by_its_name() {
        for level in [Level::Debug, Level::Info, Level::Warn, Level::Error] {
            assert_eq!(Level::named(level.name()), level);
        }
    }
}
