//! All watchers, for a start: read by rusqlite on a thread of its own, while whoever takes them works on
//! those that came before.
//!
//! A row of eighteen columns costs sqlx, whose worker sends each by itself, ten times what it costs SQLite; for a million of
//! them that is most of a start ([decision 19](../../../docs/decisions/0019-a-start-with-a-million-watchers.md)).
//! This is the one statement that does not go through it. What does not decode here is read again
//! the other way, which says why.

use std::path::Path;
use std::sync::Arc;

use axwatch_model::{
    Declared, HandlerRef, Owner, Seq, Timestamp, WatcherKey, WatcherNumber, WatcherRow,
};
use rusqlite::types::FromSql;
use rusqlite::{Connection, OpenFlags, Row};
use tokio::sync::mpsc;

use super::rows::SELECT_WATCHERS;

/// Watchers that are handed over at once.
pub(super) const PAGE_ROWS: usize = 2_000;
/// Pages that are read ahead.
const PAGES_AHEAD: usize = 32;

/// What is read, in order; it ends early, without a word, where something is wrong.
pub(super) fn read(path: &Path) -> mpsc::Receiver<Vec<WatcherRow>> {
    let (pages, receiver) = mpsc::channel(PAGES_AHEAD);
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read_to(&path, &pages) {
            tracing::debug!(%error, "watchers are read one by one from here on");
        }
    });
    receiver
}

/// Why the rest is read another way.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("SQLite says: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("a row does not decode")]
    Undecoded,
}

fn read_to(path: &Path, pages: &mpsc::Sender<Vec<WatcherRow>>) -> Result<(), Trouble> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // As `connect` sets all others.
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    let mut statement = connection.prepare(SELECT_WATCHERS)?;
    let mut rows = statement.query((0, i64::MAX))?;
    let (mut page, mut last) = (Vec::with_capacity(PAGE_ROWS), Last::default());
    let mut outcome = Ok(());
    while let Some(row) = rows.next()? {
        match decode(row, &mut last) {
            Some(watcher) => page.push(watcher),
            None => {
                outcome = Err(Trouble::Undecoded);
                break;
            }
        }
        if page.len() == PAGE_ROWS {
            let full = std::mem::replace(&mut page, Vec::with_capacity(PAGE_ROWS));
            if pages.blocking_send(full).is_err() {
                // Nobody wants them any more.
                return Ok(());
            }
        }
    }
    if !page.is_empty() {
        // As above.
        let _ = pages.blocking_send(page);
    }
    outcome
}

/// What the row before had: most have the same.
#[derive(Default)]
struct Last {
    owner: Option<Owner>,
    owner_text: String,
    handlers: Option<Vec<HandlerRef>>,
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

    fn handlers(&mut self, text: &str) -> Option<Vec<HandlerRef>> {
        if self.handlers.is_none() || self.handlers_text != text {
            self.handlers = Some(serde_json::from_str(text).ok()?);
            text.clone_into(&mut self.handlers_text);
        }
        self.handlers.clone()
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
