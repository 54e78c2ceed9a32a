//! The audit: whether it holds together, and what it says about attempts.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use futures::TryStreamExt as _;
use serde_json::Value;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::merkle::Tree;
use super::{Fault, Findings, JobId, parse_job};
use crate::torture::watchers;

/// What the records say, all together.
#[derive(Default)]
pub struct Audited {
    /// Records.
    pub size: u64,
    /// Each attempt that started.
    pub started: HashMap<(JobId, u32), Started>,
    /// Attempts whose outcome nobody knows.
    pub unknown: HashSet<(JobId, u32)>,
    /// Jobs that a match made.
    pub fired: HashSet<JobId>,
    /// Jobs that were done.
    pub succeeded: HashSet<JobId>,
    /// Jobs that were given up.
    pub dead: HashSet<JobId>,
    /// When the attempts of each watcher with a limit started, by watcher and epoch.
    pub stamps: HashMap<(String, u64), Vec<Stamp>>,
    /// The starts of the engine.
    pub epochs: Vec<Epoch>,
}

/// How an attempt started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    pub epoch: u64,
    /// The limit of its watcher.
    pub limit: Option<u32>,
}

/// An attempt under a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Microseconds on the clock of its epoch.
    pub us: u64,
    /// The limit that was in force.
    pub limit: u32,
}

/// A start of the engine.
pub struct Epoch {
    pub epoch: u64,
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// Whether there was something to be done at once.
    pub had_work: bool,
}

impl Audited {
    /// Reads the audit row by row.
    ///
    /// # Errors
    /// What SQLite says.
    pub async fn read(connection: &mut SqliteConnection, found: &mut Findings) -> Result<Audited> {
        let question =
            "SELECT first_leaf, count, records, nodes, head FROM audit ORDER BY first_leaf";
        let mut reader = Reader::default();
        let mut rows = sqlx::query(question).fetch(connection);
        while let Some(row) = rows.try_next().await? {
            reader.row(&row, found)?;
        }
        Ok(reader.finish(found))
    }
}

#[derive(Default)]
struct Reader {
    audited: Audited,
    tree: Tree,
    jobs: HashMap<JobId, Job>,
    /// The limit of each watcher as it stands.
    limits: HashMap<String, Option<u32>>,
    paused: HashSet<String>,
}

/// A job as far as it has come.
#[derive(Default)]
struct Job {
    watcher: String,
    /// Nothing but the engine decides when it is done.
    is_free: bool,
    /// The attempt under way, and the limit that it started under.
    open: Option<(u32, Option<u32>)>,
    last_attempt: u32,
    is_over: bool,
    /// Milliseconds since 1970 before which it waits for its next attempt.
    due_ms: u64,
}

impl Reader {
    fn row(&mut self, row: &SqliteRow, found: &mut Findings) -> Result<()> {
        let (first, count): (i64, i64) = (row.try_get("first_leaf")?, row.try_get("count")?);
        let records: &str = row.try_get("records")?;
        let lines: Vec<&str> = records.split_terminator('\n').collect();
        if first.unsigned_abs() != self.audited.size || count.unsigned_abs() != lines.len() as u64 {
            found.add(Fault::Unaudited, || {
                let (size, lines) = (self.audited.size, lines.len());
                format!(
                    "the audit goes from record {size} to {first} with {lines} of {count} records"
                )
            });
        }
        let completed: Vec<u8> =
            lines.iter().flat_map(|line| self.tree.add(line.as_bytes())).flatten().collect();
        let (nodes, head): (&[u8], &[u8]) = (row.try_get("nodes")?, row.try_get("head")?);
        if completed != nodes || self.tree.root() != head {
            found.add(Fault::Unaudited, || {
                format!("the records from {first} on do not hash to what stands beside them")
            });
        }
        self.audited.size = first.unsigned_abs() + lines.len() as u64;
        for line in lines {
            match serde_json::from_str::<Value>(line) {
                Ok(record) => self.record(&record, found),
                Err(error) => {
                    found
                        .add(Fault::Unaudited, || format!("a record is no JSON ({error}): {line}"));
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &Value, found: &mut Findings) {
        let watcher = || text(record, "watcher").to_owned();
        match text(record, "type") {
            "engine_started" => self.engine_started(record),
            "watcher_registered" | "watcher_changed" => {
                let limit = record["max_fires_per_second"].as_u64();
                let limit = limit.and_then(|limit| u32::try_from(limit).ok());
                self.limits.insert(watcher(), limit);
            }
            "watcher_paused" => {
                self.paused.insert(watcher());
            }
            "watcher_resumed" | "watcher_retired" => {
                self.paused.remove(text(record, "watcher"));
            }
            "matched" => self.matched(record),
            "attempt_started" => self.attempt_started(record, found),
            "attempt_ended" => self.attempt_ended(record, found),
            "dead_lettered" => {
                if let Some(id) = job_of(record) {
                    self.jobs.entry(id).or_default().is_over = true;
                    self.audited.dead.insert(id);
                }
            }
            _ => {}
        }
    }

    fn engine_started(&mut self, record: &Value) {
        let at_ms = milliseconds(text(record, "at"));
        let had_work = self.jobs.values().any(|j| j.is_free && !j.is_over && j.due_ms <= at_ms);
        let epoch = record["epoch"].as_u64().unwrap_or(0);
        self.audited.epochs.push(Epoch { epoch, at_ms, had_work });
    }

    fn matched(&mut self, record: &Value) {
        let watcher = text(record, "watcher");
        let (owner, local) = watcher.split_once('-').unwrap_or_default();
        let is_free = watchers::is_free(owner, local);
        for fire in record["fires"].as_array().into_iter().flatten() {
            if let Some(id) = job_of(fire) {
                self.audited.fired.insert(id);
                let job = Job { watcher: watcher.to_owned(), is_free, ..Job::default() };
                self.jobs.insert(id, job);
            }
        }
    }

    fn attempt_started(&mut self, record: &Value, found: &mut Findings) {
        let (Some(id), Some(attempt)) = (job_of(record), attempt_of(record)) else { return };
        let job = self.jobs.entry(id).or_default();
        let epoch = record["epoch"].as_u64().unwrap_or(0);
        let limit = self.limits.get(&job.watcher).copied().flatten();
        self.audited.started.insert((id, attempt), Started { epoch, limit });
        let wrong = if job.is_over {
            Some("after the job had ended")
        } else if job.open.is_some() {
            Some("beside another one")
        } else if attempt <= job.last_attempt {
            Some("under an earlier number")
        } else if self.paused.contains(&job.watcher) {
            Some("while its watcher was paused")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            found.add(Fault::Other, || format!("attempt {attempt} of {id:032x} started {wrong}"));
        }
        job.open = Some((attempt, limit));
        job.last_attempt = attempt;
    }

    fn attempt_ended(&mut self, record: &Value, found: &mut Findings) {
        let (Some(id), Some(attempt)) = (job_of(record), attempt_of(record)) else { return };
        let job = self.jobs.entry(id).or_default();
        let open = job.open.take();
        if open.is_none_or(|(open, _)| open != attempt) {
            found.add(Fault::Unaudited, || {
                format!("attempt {attempt} of {id:032x} ended and had not started")
            });
        }
        job.due_ms = record["next_at"].as_str().map_or(0, milliseconds);
        match text(record, "outcome") {
            "succeeded" => {
                job.is_over = true;
                self.audited.succeeded.insert(id);
            }
            "unknown" => {
                self.audited.unknown.insert((id, attempt));
            }
            _ => {}
        }
        let (epoch, us) = (record["epoch"].as_u64(), record["stamp_us"].as_u64());
        if let (Some((_, Some(limit))), Some(epoch), Some(us)) = (open, epoch, us) {
            let key = (text(record, "watcher").to_owned(), epoch);
            self.audited.stamps.entry(key).or_default().push(Stamp { us, limit });
        }
    }

    fn finish(self, found: &mut Findings) -> Audited {
        for (id, job) in &self.jobs {
            if let Some((attempt, _)) = job.open {
                found.add(Fault::Unaudited, || {
                    format!("attempt {attempt} of {id:032x} started and never ended")
                });
            }
        }
        self.audited
    }
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

fn job_of(record: &Value) -> Option<JobId> {
    parse_job(record["job"].as_str()?)
}

fn attempt_of(record: &Value) -> Option<u32> {
    u32::try_from(record["attempt"].as_u64()?).ok()
}

/// Milliseconds since 1970 of a time such as `2026-11-21T06:14:12.901Z`; 0 of anything else.
fn milliseconds(time: &str) -> u64 {
    fn parse(time: &str) -> Option<u64> {
        let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.split('-').map(str::parse::<u64>);
        let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
        let mut clock = clock.split(':');
        let (hours, minutes): (u64, u64) =
            (clock.next()?.parse().ok()?, clock.next()?.parse().ok()?);
        let seconds: f64 = clock.next()?.parse().ok()?;
        // Years begin in March here, so that a leap day is the last of its year.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
        let minutes = ((days - 719_469) * 24 + hours) * 60 + minutes;
        Some(minutes * 60_000 + (seconds * 1_000.0).round() as u64)
    }
    parse(time).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.250Z", 951_825_600_250),
            ("2026-11-21T06:14:12.901Z", 1_795_241_652_901),
            ("yesterday", 0),
        ];
        for (text, expected) in cases {
            assert_eq!(milliseconds(text), expected, "{text}");
        }
    }
}
