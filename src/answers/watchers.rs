//! What lies behind a watcher: the times in which it was held and what became of what it held, its ways
//! over parts of the log, and what a replay would fire.

use std::collections::HashMap;

use axwatch_ats::since::{self, InvalidPlace};
use axwatch_ats::{JobsQuery, StoreError};
use axwatch_core::{Position, ReplayView};
use axwatch_engine::WatcherView;
use axwatch_model::{HoldRow, Seq, Timestamp, WatcherNumber, WatcherRow};

use super::{AnswerError, Answers};
use crate::views::{JobCounts, Pass, PastHold, ReplayPreview, ShownWatcher, Watcher};

/// Holds and passes that are told, the last of each.
const TOLD_MAX: usize = 5;
/// Jobs of one hold that are counted: twice as many as may wait for one watcher.
const COUNTED_MAX: u64 = 20_000;
/// Rows that are read at once.
const PAGE_ROWS: usize = 1_000;

/// Where a watcher is when it is behind, the replay that is under way, and what holds it.
pub(super) type Place = (Option<Position>, Option<ReplayView>, Option<HoldRow>);

impl Answers {
    /// Where the watchers are that are not simply live, as far as the store says: nothing presses back on
    /// them while no server runs.
    pub(super) async fn places(&self) -> Result<HashMap<WatcherNumber, Place>, StoreError> {
        let mut places: HashMap<WatcherNumber, Place> = HashMap::new();
        for (pass, seq) in self.store().passes().await? {
            let place = places.entry(pass.watcher).or_default();
            let position = Position { seq, backpressured: false };
            match pass.until_seq {
                None => place.0 = Some(position),
                Some(to) => {
                    let (generation, from) = (pass.generation, pass.from_seq.next());
                    place.1 = Some(ReplayView { generation, from, to, position });
                }
            }
        }
        for hold in self.store().holds().await? {
            let place = places.entry(hold.watcher).or_default();
            place.2 = Some(hold);
        }
        Ok(places)
    }

    /// A watcher and what lies behind it, where this is the last claim of the log.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn shown_watcher(
        &self,
        view: &WatcherView,
        head: Seq,
    ) -> Result<ShownWatcher, StoreError> {
        let number = view.row.number;
        let mut rows = self.store().holds_of(number).await?;
        rows.drain(..rows.len().saturating_sub(TOLD_MAX));
        let mut holds = Vec::with_capacity(rows.len());
        for row in rows.into_iter().rev() {
            holds.push(self.past_hold(row, view, head).await?);
        }
        let passes = self.store().passes_of(number).await?.into_iter().rev().take(TOLD_MAX);
        let passes = passes.map(|(row, seq)| Pass::of(row, seq)).collect();
        Ok(ShownWatcher { watcher: Watcher::of(view, head), holds, passes })
    }

    async fn past_hold(
        &self,
        row: HoldRow,
        view: &WatcherView,
        head: Seq,
    ) -> Result<PastHold, StoreError> {
        let (jobs, held, held_at_least) = self.held_jobs(&row).await?;
        let unseen = view.position.map_or(0, |position| {
            let first_unseen = position.seq.max(row.from_seq);
            row.to_seq.unwrap_or(head).0.saturating_sub(first_unseen.0)
        });
        Ok(PastHold {
            kind: row.kind,
            drops: row.drops,
            at: row.at,
            until: row.until,
            ended_at: row.ended_at,
            from: row.from_seq.next(),
            to: row.to_seq,
            held,
            held_at_least,
            jobs,
            unseen,
        })
    }

    /// The jobs that were made while a watcher was held, by what has become of them; whether there are
    /// more than were counted.
    async fn held_jobs(&self, hold: &HoldRow) -> Result<(JobCounts, u64, bool), StoreError> {
        let mut query = JobsQuery {
            watcher: Some(hold.watcher),
            after: Some(hold.from_job),
            before: hold.to_job.map(|last| last.next()),
            limit: PAGE_ROWS,
            ..JobsQuery::default()
        };
        let (mut counts, mut held) = (JobCounts::default(), 0);
        loop {
            let rows = self.store().jobs(&query).await?;
            rows.iter().for_each(|row| *counts.of_mut(row.state) += 1);
            held += rows.len() as u64;
            let is_over = rows.len() < query.limit;
            if is_over || held >= COUNTED_MAX {
                return Ok((counts, held, !is_over));
            }
            query.before = rows.last().map(|row| row.number);
        }
    }

    /// The first claim from there on; `name` is what the place is called in the request.
    ///
    /// # Errors
    /// [`AnswerError`] for what names no claim.
    pub async fn first_claim(
        &self,
        name: &str,
        text: &str,
        now: Timestamp,
    ) -> Result<Seq, AnswerError> {
        since::first_seq(text, &**self.store(), now).await.map_err(|error| no_place(name, error))
    }

    /// The first and the last claim from one place of the log to another.
    ///
    /// # Errors
    /// [`AnswerError`] for places that name no claims, or have none between them.
    pub async fn claims_between(
        &self,
        from: &str,
        to: &str,
        now: Timestamp,
    ) -> Result<(Seq, Seq), AnswerError> {
        let first = self.first_claim("from", from, now).await?;
        let last = since::last_seq(to, &**self.store(), now).await;
        let last = last.map_err(|error| no_place("to", error))?;
        if first <= last {
            return Ok((first, last));
        }
        Err(AnswerError::Invalid(format!(
            "there are no claims from {from} (the next is {first}) to {to} (the last is {last})"
        )))
    }

    /// What a replay would fire: the present declaration, tried on these claims as matching tries it.
    ///
    /// # Errors
    /// [`AnswerError`] for a watcher whose text is no AX any more.
    pub async fn preview_replay(
        &self,
        row: &WatcherRow,
        (from, to): (Seq, Seq),
    ) -> Result<ReplayPreview, AnswerError> {
        let counted = self.count_fires(row, from, to).await?;
        let takes_ms = |rate: u32| counted.fires.saturating_mul(1_000).div_ceil(u64::from(rate));
        Ok(ReplayPreview {
            watcher: row.key.to_string(),
            revision: row.revision,
            when: row.declared.shown(),
            from,
            to,
            claims: counted.claims,
            matches: counted.matches,
            handlers: counted.handlers,
            fires: counted.fires,
            max_fires_per_second: row.max_fires_per_second,
            takes_ms: row.max_fires_per_second.map(takes_ms),
        })
    }
}

fn no_place(name: &str, error: InvalidPlace) -> AnswerError {
    match error {
        InvalidPlace::Store(error) => error.into(),
        other => AnswerError::Invalid(format!("{name}: {other}")),
    }
}
