//! Many watchers that stand already, written as rows: registering them one at a time is not what is measured.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use axwatch_ats::{Batch, SqliteStore};
use axwatch_model::{
    Clock as _, Declared, HandlerRef, Owner, RevisionRow, Seq, SystemClock, Timestamp, WatcherKey,
    WatcherNumber, WatcherRow, WatcherState,
};

use crate::plugin;

const WATCHERS_PER_COMMIT: u64 = 10_000;

/// Gives a store so many watchers of a person, behind those that it has, each with the next text; the
/// benchmarks' plugin acts for all of them.
///
/// # Errors
/// When the store fails.
pub async fn fill(store: &Path, watchers: u64, mut ax: impl FnMut() -> String) -> Result<()> {
    let mut writer = SqliteStore::open_writer(store).await?;
    let after = writer.reader().opened().last_watcher.0;
    let now = SystemClock::new().now().wall;
    for first in (1..=watchers).step_by(WATCHERS_PER_COMMIT as usize) {
        let numbers = first..(first + WATCHERS_PER_COMMIT).min(watchers + 1);
        let rows = numbers.map(|number| standing(after + number, ax(), now));
        let watchers = rows.collect::<Result<Vec<_>>>()?;
        let revisions = watchers.iter().map(revision).collect();
        writer.commit(&Batch { watchers, revisions, ..Batch::default() }).await?;
    }
    writer.close().await?;
    Ok(())
}

fn standing(number: u64, ax: String, at: Timestamp) -> Result<WatcherRow> {
    Ok(WatcherRow {
        number: WatcherNumber(number),
        key: WatcherKey { owner: Owner::User, local: format!("standing-{number}").parse()? },
        revision: 1,
        generation: 0,
        last_generation: 0,
        declared: Declared::Ax(ax),
        handlers: [HandlerRef {
            declared: plugin::HANDLER.into(),
            plugin: Some(plugin::NAME.parse()?),
        }]
        .into(),
        params: None,
        max_fires_per_second: None,
        max_chain: None,
        max_attempts: None,
        max_age_ms: None,
        state: WatcherState::Live,
        error: None,
        since_seq: Seq(0),
        created_at: at,
        updated_at: at,
    })
}

fn revision(row: &WatcherRow) -> RevisionRow {
    RevisionRow {
        watcher: row.number,
        revision: row.revision,
        generation: row.generation,
        declared: row.declared.clone(),
        handlers: row.handlers.iter().map(|handler| Arc::clone(&handler.declared)).collect(),
        max_fires_per_second: None,
        at: row.updated_at,
        leaf: None,
        since_seq: row.since_seq,
        from_seq: row.since_seq,
        retired_seq: None,
    }
}
