//! Jobs as they are shown: rows with what they name, those around them, and how many are ahead.
//!
//! A list has no payloads, results, trees and logs; one job has all but the payload. What one waits for at
//! this moment only a server knows (`super::waits`).

use std::collections::{BTreeSet, HashMap, HashSet};

use axwatch_ats::{Counted, StoreError};
use axwatch_core::{WaitReason, Waiting};
use axwatch_engine::{Engine, EngineGone};
use axwatch_model::{
    AttestationId, JobId, JobNumber, JobRow, JobState, LaneKey, Place, PluginName, ScheduleId, Seq,
    Timestamp, bounds,
};

use super::audit::is_of_type;
use super::handlers::VersionNumbers;
use super::question::now;
use super::{AnswerError, Answers, Held, readable_bytes, waits};
use crate::fingerprint::fingerprint;
use crate::views::{self, Below, Progress, Tree, TreeJob, shown_name};

/// Jobs of a tree that are shown.
const TREE_JOBS_MAX: usize = 200;
/// Children of one job that are shown in it.
const TREE_CHILDREN_MAX: usize = 50;
/// Records of a job, the last ones, that are looked at for the versions that its attempts ran.
const LEAVES_LOOKED_AT: usize = 200;
/// Jobs below one that are looked at to tell what became of them.
const BELOW_MAX: usize = 1_000;

impl Answers {
    /// The job with this id, and what it gave.
    pub async fn job(&self, id: JobId, held: &Held) -> Result<views::Job, AnswerError> {
        Ok(self.whole_job(self.job_row(id).await?, held).await?)
    }

    /// The job with this id, with its log and all jobs that it is a part of or that are a part of it.
    pub async fn shown_job(&self, id: JobId, held: &Held) -> Result<views::Job, AnswerError> {
        let row = self.job_row(id).await?;
        let tree = self.tree(&row, held).await?;
        let log = self.log_after(&row, 0).await?;
        Ok(views::Job { tree, log: Some(log), ..self.whole_job(row, held).await? })
    }

    /// A job as its row has it, and what it gave. How many are ahead of it is not counted: in a long lane that
    /// takes longer than all the rest.
    pub async fn brief_job(&self, row: JobRow, held: &Held) -> Result<views::Job, StoreError> {
        let result = row.result.as_deref().map(readable_bytes);
        let mut jobs = self.job_views(vec![row], held).await?;
        let job = jobs.pop().expect("one row makes one view");
        Ok(views::Job { result, ..job })
    }

    /// Adds to a job what it waits for, and how many come before it in the engine's own order, as far as the
    /// engine knows that. `row` is its row.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn with_waits(
        &self,
        mut job: views::Job,
        row: JobRow,
        engine: &Engine,
    ) -> Result<views::Job, EngineGone> {
        let now = engine.clock().now().wall;
        let Some(waiting) = engine.waiting(row.clone()).await? else { return Ok(job) };
        let is_paused = waiting.reason == WaitReason::Paused;
        add_waits(&mut job, waiting, now);
        if is_paused
            && let Some(plugin) = self.paused_by(&row).await
            && let Some(waits) = &mut job.waits
        {
            waits.message = waits.message.replacen("somebody", &format!("plugin {plugin}"), 1);
        }
        Ok(job)
    }

    /// The plugin that paused a job, if one did: the audit says so.
    async fn paused_by(&self, row: &JobRow) -> Option<PluginName> {
        #[derive(serde::Deserialize)]
        struct Said {
            by: Option<String>,
        }
        for leaf in row.leaves.iter().rev() {
            // Who it was is not worth a failure.
            let Ok(Some(record)) = self.record(*leaf).await else { continue };
            if is_of_type(&record, "job_paused") {
                return serde_json::from_str::<Said>(&record).ok()?.by?.parse().ok();
            }
        }
        None
    }

    async fn whole_job(&self, row: JobRow, held: &Held) -> Result<views::Job, StoreError> {
        let ahead = self.ahead(&row).await?;
        let handler_versions = self.ran_versions(&row).await?;
        Ok(views::Job { ahead, handler_versions, ..self.brief_job(row, held).await? })
    }

    /// The versions of its handler that the last attempts of a job ran; `None` when that is not stored.
    async fn ran_versions(
        &self,
        row: &JobRow,
    ) -> Result<Option<Vec<views::RanVersion>>, StoreError> {
        #[derive(serde::Deserialize)]
        struct Said {
            attempt: u32,
            handler_version: Option<AttestationId>,
        }
        let mut numbers = VersionNumbers::of(self, row);
        if !numbers.may_be_stored() {
            return Ok(None);
        }
        let mut ran = Vec::new();
        for leaf in &row.leaves[row.leaves.len().saturating_sub(LEAVES_LOOKED_AT)..] {
            let Some(record) = self.record(*leaf).await? else { continue };
            if !is_of_type(&record, "attempt_started") {
                continue;
            }
            let Ok(said) = serde_json::from_str::<Said>(&record) else { continue };
            if let Some(version) = said.handler_version {
                let number = numbers.find(&version).await?;
                ran.push(views::RanVersion { attempt: said.attempt, version, number });
            }
        }
        Ok((!ran.is_empty()).then_some(ran))
    }
    /// The log entries of a job after this one.
    pub(super) async fn log_after(
        &self,
        row: &JobRow,
        after: u32,
    ) -> Result<Vec<views::JobLog>, StoreError> {
        if row.entries <= after {
            return Ok(Vec::new());
        }
        let limit = usize::try_from(bounds::ENTRIES_MAX + 1).unwrap_or(usize::MAX);
        let rows = self.store().entries(row.number, after, limit).await?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// How many jobs of its lane come before a job that was asked for and waits; all of them are looked at.
    pub(super) async fn ahead(&self, row: &JobRow) -> Result<Option<u64>, StoreError> {
        Ok(self.aheads([row]).await?.remove(&row.number))
    }

    /// The same of each of these for which it can be told. Of each lane what comes before the rearmost is
    /// looked at once, however many are asked about.
    pub(super) async fn aheads(
        &self,
        rows: impl IntoIterator<Item = &JobRow>,
    ) -> Result<HashMap<JobNumber, u64>, StoreError> {
        let mut lanes: HashMap<LaneKey, BTreeSet<Place>> = HashMap::new();
        let now = now();
        for row in rows.into_iter().filter(|row| has_place(row, now)) {
            lanes.entry(row.lane()).or_default().insert(row.place());
        }
        let mut found = HashMap::new();
        for (lane, places) in lanes {
            let (mut from, mut ahead) = (Place::FIRST, 0);
            for place in places {
                ahead += self.store().ahead(&lane, from, place).await?;
                from = place;
                found.insert(place.number, ahead);
            }
        }
        Ok(found)
    }

    /// Views of rows, without their results and how many are ahead of them, in the same order.
    pub(super) async fn job_views(
        &self,
        rows: Vec<JobRow>,
        held: &Held,
    ) -> Result<Vec<views::Job>, StoreError> {
        let mut seqs: Vec<Seq> = rows.iter().filter_map(|row| row.seq).collect();
        seqs.sort_unstable();
        seqs.dedup();
        let claims = self.store().by_seqs(&seqs).await?;
        let ids: HashMap<Seq, AttestationId> =
            claims.into_iter().map(|stored| (stored.seq, stored.attestation.id)).collect();
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows {
            let watcher = match row.watcher {
                Some(number) => self.watcher_key(number).await?.map(|key| key.to_string()),
                None => None,
            };
            let run = row.asked.as_deref().and_then(|asked| asked.schedule);
            let schedule = match run {
                Some(run) => Some(self.schedule_name(run.id).await?),
                None => None,
            };
            let attestation_id = row.seq.and_then(|seq| ids.get(&seq).cloned());
            let job = view(row, held);
            jobs.push(views::Job { watcher, schedule, attestation_id, ..job });
        }
        Ok(jobs)
    }

    /// What a schedule is named by. Once it has a name it has no other.
    async fn schedule_name(&self, id: ScheduleId) -> Result<String, StoreError> {
        let known = self.lock_schedules().get(&id).cloned();
        if let Some(name) = known {
            return Ok(name);
        }
        let rows = self.store().schedules().await?;
        let mut names = self.lock_schedules();
        names.extend(rows.iter().map(|row| (row.id, shown_name(row))));
        Ok(names.get(&id).cloned().unwrap_or_else(|| id.to_string()))
    }

    fn lock_schedules(&self) -> std::sync::MutexGuard<'_, HashMap<ScheduleId, String>> {
        self.schedules.lock().expect("no holder of the schedules' names panics")
    }

    /// The jobs above and below one, as many as are shown; `None` of one that stands alone.
    async fn tree(&self, row: &JobRow, held: &Held) -> Result<Option<Tree>, StoreError> {
        let is_part = row.asked.as_deref().is_some_and(|asked| asked.parent.is_some());
        let above = if is_part { self.store().above(row.number).await? } else { Vec::new() };
        let above = above.iter().rev().chain([row]).zip(0..);
        let mut jobs: Vec<_> = above.map(|(job, depth)| tree_job(job, depth, held)).collect();
        jobs.last_mut().expect("the job itself is there").is_asked = true;
        let (mut left_out, mut parent) = (0, (row.number, jobs.len() as u32));
        // What comes next is taken from the end, so that each is followed by what is below it.
        let mut found: Vec<(JobRow, u32)> = Vec::new();
        loop {
            let (number, depth) = parent;
            let Counted { first, all } = self.store().children(number, TREE_CHILDREN_MAX).await?;
            left_out += all - first.len() as u64;
            found.extend(first.into_iter().rev().map(|child| (child, depth)));
            let Some((child, depth)) = found.pop() else { break };
            if jobs.len() >= TREE_JOBS_MAX {
                left_out += 1 + found.len() as u64;
                break;
            }
            jobs.push(tree_job(&child, depth, held));
            parent = (child.number, depth + 1);
        }
        Ok((jobs.len() > 1 || left_out > 0).then_some(Tree { jobs, left_out }))
    }

    /// How the jobs below one stand, as far as they are looked at.
    pub async fn ends_below(&self, job: JobNumber) -> Result<Ends, AnswerError> {
        let mut ends = Ends::default();
        let (mut seen, mut parents) = (0, vec![job]);
        while let Some(parent) = parents.pop() {
            let limit = BELOW_MAX.saturating_sub(seen);
            let Counted { first, all } = self.store().children(parent, limit).await?;
            seen += first.len();
            ends.at_least |= all > first.len() as u64;
            for child in first {
                if child.state.is_open() {
                    ends.open.insert(child.number);
                } else if child.state == JobState::Cancelled {
                    ends.cancelled.insert(child.number);
                }
                parents.push(child.number);
            }
        }
        Ok(ends)
    }
}

/// Tells in a job what it waits for. What was counted in the table and what the engine knows become one
/// figure.
pub(super) fn add_waits(job: &mut views::Job, mut waiting: Waiting, now: Timestamp) {
    if waiting.ahead_at_least
        && let Some(counted) = job.ahead
    {
        (waiting.ahead, waiting.ahead_at_least) = (waiting.ahead.max(counted), false);
    }
    let has_turn = !matches!(waiting.reason, WaitReason::Paused | WaitReason::RetryDue);
    let is_known = has_turn && !waiting.ahead_at_least && job.watcher.is_none();
    job.ahead = is_known.then_some(waiting.ahead);
    job.waits = Some(waits(&waiting, job.watcher.as_deref(), &job.handler, now));
}

/// Whether a job waits for its turn by its place. One that waits for its retry, or for its moment, comes when
/// that is due, and then before all that have none behind them.
pub(super) fn has_place(row: &JobRow, now: Timestamp) -> bool {
    let is_due = row.due_at.is_none_or(|due| due <= now);
    row.state == JobState::Queued && row.asked.is_some() && row.attempts == 0 && is_due
}

/// How the jobs below one stand.
#[derive(Debug, Default)]
pub struct Ends {
    open: HashSet<JobNumber>,
    cancelled: HashSet<JobNumber>,
    at_least: bool,
}

impl Ends {
    /// What has become of them since an earlier look.
    pub fn since(&self, before: &Ends) -> Below {
        Below {
            cancelled: before.open.intersection(&self.cancelled).count() as u64,
            open: self.open.len() as u64,
            at_least: self.at_least,
        }
    }
}

fn tree_job(row: &JobRow, depth: u32, held: &Held) -> TreeJob {
    TreeJob {
        job_id: row.id,
        depth,
        is_asked: false,
        handler: row.handler.to_string(),
        state: held.shown(row),
        progress: row.progress.map(|(current, total)| Progress { current, total }),
        cost: row.cost,
    }
}

/// What a row says by itself.
fn view(row: JobRow, held: &Held) -> views::Job {
    let state = held.shown(&row);
    let asked = row.asked.as_deref();
    views::Job {
        job_id: row.id,
        origin: row.origin,
        by: asked.map(|asked| asked.by.to_string()),
        owner: asked.map(|asked| asked.owner.to_string()),
        watcher: None,
        revision: row.watcher.map(|_| row.revision),
        generation: row.watcher.map(|_| row.generation),
        attestation_id: None,
        seq: row.seq,
        schedule: None,
        nominal: asked.and_then(|asked| asked.schedule?.nominal),
        parent: asked.and_then(|asked| asked.parent).map(|parent| parent.id),
        source: asked.map(|asked| asked.source.to_string()).filter(|source| !source.is_empty()),
        priority: asked.map(|asked| asked.priority),
        handler: row.handler.to_string(),
        plugin: row.plugin.as_ref().map(ToString::to_string),
        handler_versions: None,
        state,
        ahead: None,
        attempts: row.attempts,
        created_at: row.created_at,
        started_at: row.started_at,
        due_at: row.due_at.filter(|_| row.state.is_open()),
        completed_at: row.completed_at,
        progress: row.progress.map(|(current, total)| Progress { current, total }),
        cost_estimate: asked.and_then(|asked| asked.cost_estimate),
        cost: row.cost,
        entries: row.entries,
        fingerprint: row.error.as_deref().map(fingerprint),
        error: row.error,
        result: None,
        tree: None,
        log: None,
        waits: None,
        deduplicated: None,
        below: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ahead_is_one_figure() {
        let at = Timestamp::from_ms_clamped(0);
        let job = |watcher: Option<&str>, ahead: Option<u64>| -> views::Job {
            let json = serde_json::json!({
                "job_id": "3ea27c14d1c994b3bc463569ba5fdcae", "origin": "api", "handler": "zoo/work",
                "state": "queued", "attempts": 0, "created_at": at, "entries": 0,
                "watcher": watcher, "ahead": ahead,
            });
            serde_json::from_value(json).unwrap()
        };
        // (whose job, what was counted; why it waits, what the engine knows, whether that is the least;
        // what is told of the job, and of what it waits for)
        let cases = [
            (None, Some(9), WaitReason::Turn, 64, true, Some(64), (64, false)),
            (None, Some(900), WaitReason::Turn, 64, true, Some(900), (900, false)),
            (None, Some(900), WaitReason::Turn, 3, false, Some(3), (3, false)),
            (None, None, WaitReason::Turn, 64, true, None, (64, true)),
            (None, None, WaitReason::Turn, 3, false, Some(3), (3, false)),
            (None, None, WaitReason::RetryDue, 0, false, None, (0, false)),
            (None, None, WaitReason::Paused, 0, false, None, (0, false)),
            (Some("prs"), None, WaitReason::Limit, 3, false, None, (3, false)),
        ];
        for (watcher, counted, reason, ahead, ahead_at_least, told, waits) in cases {
            let mut job = job(watcher, counted);
            let row = format!("{reason:?} {counted:?} {ahead}");
            let waiting = Waiting { reason, ahead, ahead_at_least, until: None };
            add_waits(&mut job, waiting, at);
            let found = job.waits.map(|waits| (waits.ahead, waits.ahead_at_least));
            assert_eq!((job.ahead, found), (told, Some(waits)), "{row}");
        }
    }
}
