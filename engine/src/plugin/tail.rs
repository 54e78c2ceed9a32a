//! The last lines of each plugin's log, for whoever wants to read along.
//!
//! In: lines as they go to our own log: already bounded, cleaned and without secrets. Out: the last of
//! them, and then each that comes, to any number of readers at their own pace. Nothing waits for a
//! reader: one that falls behind what is kept is told which lines it missed.
//!
//! Not here: what a line is (`super::output`), how it is shown (`axwatch`'s `api::events`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use axwatch_model::{Clock, JobId, PluginName, Timestamp};
use tokio::sync::watch;

/// Lines that are kept.
const LINES_MAX: usize = 1_000;
/// Bytes of them.
const BYTES_MAX: usize = 1024 * 1024;
/// Lines that a reader gets at a time.
const PAGE_LINES: usize = 100;

/// One line of a plugin's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// 1, 2, 3 … since the host started.
    pub number: u64,
    /// When it came.
    pub at: Timestamp,
    /// `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
    /// `stdout`, `stderr`, `job` for what came with a job's answer, or `host` for what the host says
    /// about the plugin.
    pub stream: &'static str,
    /// What it says.
    pub message: String,
    /// Whose answer brought it.
    pub job: Option<JobId>,
}

/// The lines of one plugin.
pub(crate) struct Log {
    clock: Arc<dyn Clock>,
    lines: Mutex<Lines>,
    /// The number of the next line.
    next: watch::Sender<u64>,
}

#[derive(Default)]
struct Lines {
    kept: VecDeque<Arc<LogLine>>,
    bytes: usize,
}

impl Log {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Log {
        Log { clock, lines: Mutex::default(), next: watch::Sender::new(1) }
    }

    /// Adds a line, for which the oldest ones go.
    pub(crate) fn push(
        &self,
        level: &'static str,
        stream: &'static str,
        message: &str,
        job: Option<JobId>,
    ) {
        let mut lines = self.lines();
        let number = *self.next.borrow();
        let at = self.clock.now().wall;
        lines.bytes += message.len();
        let message = message.to_owned();
        lines.kept.push_back(Arc::new(LogLine { number, at, level, stream, message, job }));
        while lines.kept.len() > LINES_MAX || lines.bytes > BYTES_MAX {
            let Some(oldest) = lines.kept.pop_front() else { break };
            lines.bytes -= oldest.message.len();
        }
        // While the lines are held, so that numbers and lines agree.
        self.next.send_replace(number + 1);
    }

    /// Reads from so many of the last lines on.
    pub(crate) fn tail(self: Arc<Log>, last: usize) -> Tail {
        let (next, kept) = {
            let lines = self.lines();
            (*self.next.borrow(), lines.kept.len().min(last))
        };
        let changes = self.next.subscribe();
        Tail { next: next - kept as u64, log: self, changes }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().expect("no holder of a log panics")
    }
}

/// The logs of all plugins of a host.
#[derive(Default)]
pub(crate) struct Logs(BTreeMap<PluginName, Arc<Log>>);

impl Logs {
    pub(crate) fn new<'a>(
        plugins: impl Iterator<Item = &'a PluginName>,
        clock: &Arc<dyn Clock>,
    ) -> Logs {
        let log = |name: &PluginName| (name.clone(), Arc::new(Log::new(clock.clone())));
        Logs(plugins.map(log).collect())
    }

    /// The log of a plugin of this host.
    pub(crate) fn of(&self, plugin: &PluginName) -> Arc<Log> {
        self.0.get(plugin).expect("every plugin of the host has a log").clone()
    }
}

/// A reader of a plugin's log.
pub struct Tail {
    log: Arc<Log>,
    /// The number of the line that it reads next.
    next: u64,
    changes: watch::Receiver<u64>,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The next lines.
    Lines(Vec<Arc<LogLine>>),
    /// It was too slow: the lines with these numbers are gone.
    Gap {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
}

impl Tail {
    /// What there is to read now; `None` when it has all been read.
    pub fn ready(&mut self) -> Option<Told> {
        let lines = self.log.lines();
        let first = lines.kept.front()?.number;
        if self.next < first {
            let from = std::mem::replace(&mut self.next, first);
            return Some(Told::Gap { from, to: first - 1 });
        }
        let skip = usize::try_from(self.next - first).expect("few lines are kept");
        let page: Vec<_> = lines.kept.iter().skip(skip).take(PAGE_LINES).cloned().collect();
        self.next += page.len() as u64;
        (!page.is_empty()).then_some(Told::Lines(page))
    }

    /// What there is to read, once there is something.
    pub async fn next(&mut self) -> Told {
        loop {
            self.changes.mark_unchanged();
            if let Some(told) = self.ready() {
                return told;
            }
            // The log is ours too, so that it goes on.
            let _ = self.changes.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::ManualClock;

    fn log() -> Arc<Log> {
        Arc::new(Log::new(Arc::new(ManualClock::at(Timestamp::from_ms_clamped(0)))))
    }

    fn numbers(told: Told) -> Vec<u64> {
        match told {
            Told::Lines(lines) => lines.iter().map(|line| line.number).collect(),
            Told::Gap { from, to } => panic!("{from} to {to} are missing"),
        }
    }

    #[tokio::test]
    async fn a_reader_gets_the_last_lines_and_then_each_that_comes() {
        let log = log();
        for number in 1..=5 {
            log.push("info", "stdout", &format!("line {number}"), None);
        }
        let mut tail = log.clone().tail(2);
        assert_eq!(numbers(tail.next().await), [4, 5]);
        assert_eq!(tail.ready(), None);
        let pushing = async { log.push("warn", "stderr", "late", None) };
        let (told, ()) = futures::future::join(tail.next(), pushing).await;
        let Told::Lines(lines) = told else { panic!("no lines") };
        assert_eq!((lines[0].number, lines[0].level, &lines[0].message[..]), (6, "warn", "late"));
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_told_what_it_missed() {
        let log = log();
        log.push("info", "stdout", "first", None);
        let mut tail = log.clone().tail(200);
        let mut lost = log.clone().tail(0);
        for _ in 0..LINES_MAX + 10 {
            log.push("info", "stdout", "more", None);
        }
        assert_eq!(tail.next().await, Told::Gap { from: 1, to: 11 });
        assert_eq!(lost.next().await, Told::Gap { from: 2, to: 11 });
        // All that was sent was read or told of.
        let mut read = Vec::new();
        while let Some(told) = tail.ready() {
            read.extend(numbers(told));
        }
        assert_eq!(read, (12..=LINES_MAX as u64 + 11).collect::<Vec<_>>());
        // Long lines go sooner.
        for _ in 0..3 {
            log.push("info", "stdout", &"x".repeat(BYTES_MAX / 2), None);
        }
        let last = LINES_MAX as u64 + 14;
        assert_eq!(numbers(log.tail(LINES_MAX).next().await), [last - 1, last]);
    }
}
