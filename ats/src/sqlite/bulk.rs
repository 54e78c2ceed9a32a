//! All watchers and the open fires, for a start: read by rusqlite on threads of their own, while whoever takes
//! them works on those that came before.
//!
//! A row of eighteen columns costs sqlx, whose worker sends each by itself, ten times what it costs SQLite; for a million of
//! them that is most of a start ([decision 19](../../../docs/decisions/0019-a-start-with-a-million-watchers.md)).
//! These are the two statements that do not go through it. What does not decode here is read again
//! the other way, which says why.

use std::path::Path;
use std::sync::Arc;

use axwatch_model::{
    Declared, HandlerRef, JobNumber, JobRow, Owner, Seq, Timestamp, WatcherKey, WatcherNumber,
    WatcherRow,
};
use rusqlite::types::{FromSql, ValueRef};
use rusqlite::{Connection, OpenFlags, Row};
use tokio::sync::mpsc;

use super::reader::{OPEN_FIRES, bounded, signed};
use super::rows::{JobColumns, SELECT_WATCHERS_BETWEEN, job_of};

/// Watchers that are handed over at once, where their numbers have no gaps.
pub(super) const PAGE_ROWS: usize = 2_000;
/// So many threads read, each every other page.
const READERS: usize = 2;
/// Pages that each reads ahead.
const PAGES_AHEAD: usize = 16;
/// There are no more pages than this: where numbers have large gaps, a page has more of them.
const PAGES_MAX: u64 = 1 << 16;

/// What is read, in order; it ends early, without a word, where something is wrong.
pub(super) struct Ahead {
    readers: [mpsc::Receiver<Page>; READERS],
    /// Whose page is next.
    turn: usize,
    ended: bool,
}

/// The watchers of a range of numbers.
struct Page {
    rows: Vec<WatcherRow>,
    /// Whether these are all of them.
    is_whole: bool,
}

impl Ahead {
    /// Begins to read the watchers up to a number.
    pub fn read(path: &Path, last: WatcherNumber) -> Ahead {
        let numbers = (last.0 / PAGES_MAX).max(PAGE_ROWS as u64);
        let readers = std::array::from_fn(|reader| {
            let (pages, receiver) = mpsc::channel(PAGES_AHEAD);
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || {
                let firsts = (1..=last.0).step_by(numbers as usize).skip(reader).step_by(READERS);
                if let Err(error) = read_to(&path, firsts, numbers, &pages) {
                    tracing::debug!(%error, "watchers are read one by one from here on");
                }
            });
            receiver
        });
        Ahead { readers, turn: 0, ended: false }
    }

    /// The next of them, if there are any that were read.
    pub async fn next(&mut self) -> Option<Vec<WatcherRow>> {
        while !self.ended {
            let page = self.readers[self.turn].recv().await;
            self.turn = (self.turn + 1) % READERS;
            self.ended = page.as_ref().is_none_or(|page| !page.is_whole);
            if let Some(page) = page.filter(|page| !page.rows.is_empty()) {
                return Some(page.rows);
            }
        }
        None
    }
}

/// The open fires after a job, by number, up to `limit`; nothing where something is wrong.
pub(super) async fn open_fires(path: &Path, after: JobNumber, limit: usize) -> Option<Vec<JobRow>> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || jobs_after(&path, after, limit)).await;
    match read {
        Ok(Ok(jobs)) => jobs,
        Ok(Err(error)) => {
            tracing::debug!(%error, "open jobs are read one by one");
            None
        }
        // The runtime is on its way out.
        Err(_) => None,
    }
}

fn jobs_after(
    path: &Path,
    after: JobNumber,
    limit: usize,
) -> Result<Option<Vec<JobRow>>, rusqlite::Error> {
    let connection = connect(path)?;
    let mut statement = connection.prepare(OPEN_FIRES)?;
    let mut rows = statement.query((signed(after.0), bounded(limit)))?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(job) = decode_job(row) else { return Ok(None) };
        jobs.push(job);
    }
    Ok(Some(jobs))
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // As `connect` sets all others.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

fn read_to(
    path: &Path,
    firsts: impl Iterator<Item = u64>,
    numbers: u64,
    pages: &mpsc::Sender<Page>,
) -> Result<(), rusqlite::Error> {
    let connection = connect(path)?;
    let mut statement = connection.prepare(SELECT_WATCHERS_BETWEEN)?;
    let mut last = Last::default();
    for first in firsts {
        let upto = signed(first.saturating_add(numbers - 1));
        let mut rows = statement.query((signed(first), upto))?;
        let mut page = Page { rows: Vec::with_capacity(PAGE_ROWS), is_whole: true };
        while let Some(row) = rows.next()? {
            let Some(watcher) = decode(row, &mut last) else {
                tracing::debug!("a watcher does not decode");
                page.is_whole = false;
                break;
            };
            page.rows.push(watcher);
        }
        let is_whole = page.is_whole;
        // Nobody wants them any more, or they are read another way.
        if pages.blocking_send(page).is_err() || !is_whole {
            break;
        }
    }
    Ok(())
}

/// What the row before had: most have the same.
#[derive(Default)]
struct Last {
    owner: Option<Owner>,
    owner_text: String,
    handlers: Option<Arc<[HandlerRef]>>,
    handlers_text: String,
}

impl Last {
    fn owner(&mut self, text: &str) -> Option<Owner> {
        if self.owner.is_none() || self.owner_text != text {
            self.owner = Some(text.parse().ok()?);
            text.clone_into(&mut self.owner_text);
        }
        self.owner.clone()
    }

    fn handlers(&mut self, text: &str) -> Option<Arc<[HandlerRef]>> {
        if self.handlers.is_none() || self.handlers_text != text {
            self.handlers = Some(serde_json::from_str(text).ok()?);
            text.clone_into(&mut self.handlers_text);
        }
        self.handlers.clone()
    }
}

/// As `rows::read_job`, but that nobody is told what is wrong.
fn decode_job(row: &Row<'_>) -> Option<JobRow> {
    job_of(number(row, 0)?, row.get_ref(1).ok()?.as_str().ok()?, row).ok()
}

impl JobColumns for Row<'_> {
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, String> {
        let value = self.get_ref(column).map_err(|error| error.to_string())?;
        value.as_blob_or_null().map_err(|error| error.to_string())
    }

    fn real(&self, column: usize) -> Result<Option<f64>, String> {
        match self.get_ref(column) {
            Ok(ValueRef::Null) => Ok(None),
            Ok(ValueRef::Real(amount)) => Ok(Some(amount)),
            Ok(other) => Err(format!("{} is no amount", other.data_type())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// As `rows::read_watcher`, but that nobody is told what is wrong.
fn decode(row: &Row<'_>, last: &mut Last) -> Option<WatcherRow> {
    let text = |column: usize| row.get_ref(column).ok()?.as_str().ok();
    let optional_text = |column: usize| row.get_ref(column).ok()?.as_str_or_null().ok();
    Some(WatcherRow {
        number: WatcherNumber(number(row, 0)?),
        key: WatcherKey { owner: last.owner(text(1)?)?, local: text(2)?.parse().ok()? },
        revision: number(row, 3)?,
        generation: get(row, 4)?,
        last_generation: get(row, 15)?,
        declared: serde_json::from_str::<Declared>(text(5)?).ok()?,
        handlers: last.handlers(text(6)?)?,
        params: optional_text(7)?.map(Arc::from),
        max_fires_per_second: get(row, 8)?,
        max_chain: get(row, 9)?,
        max_attempts: get(row, 16)?,
        max_age_ms: optional(row, 17)?,
        state: text(10)?.parse().ok()?,
        error: optional_text(11)?.map(str::to_owned),
        since_seq: Seq(number(row, 12)?),
        created_at: Timestamp::from_ms(get(row, 13)?).ok()?,
        updated_at: Timestamp::from_ms(get(row, 14)?).ok()?,
    })
}

fn get<T: FromSql>(row: &Row<'_>, column: usize) -> Option<T> {
    row.get(column).ok()
}

fn number(row: &Row<'_>, column: usize) -> Option<u64> {
    u64::try_from(get::<i64>(row, column)?).ok()
}

fn optional(row: &Row<'_>, column: usize) -> Option<Option<u64>> {
    get::<Option<i64>>(row, column)?.map(u64::try_from).transpose().ok()
}
