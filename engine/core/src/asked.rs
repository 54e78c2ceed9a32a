//! Jobs that no claim caused: asked for by people, by plugins, and by schedules.
//!
//! Such a job stands in the lane of its handler and its asker, at a place that the queue clock and its
//! priority give it once and for all. Another one with the same source while it is open is the same job.
//!
//! Not here: what is done with a job that is there (`crate::redrive`, `crate::steer`), when a schedule
//! asks for one (`crate::schedules`).

use std::sync::Arc;
use std::time::Duration;

use axwatch_model::{
    Asked, Asker, HandlerName, JobId, JobNumber, JobOrigin, JobRow, JobState, Mono, Now, Owner,
    Parent, PluginName, ScheduleRun, bounds,
};
use hashbrown::HashMap;
use sha2::{Digest, Sha256};

use crate::event::{Answer, EnqueueAsk, Enqueued, ParentAsk, Refusal, RefusalKind};
use crate::kin::{Identity, JobAbove};
use crate::matching::sha256_hex;
use crate::record::{JobRecord, Record};
use crate::settle::begin;
use crate::state::{LaneId, State};

/// Tells how long jobs have waited, by the monotonic clock: setting the wall clock changes no order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QueueClock {
    ms: i64,
    at: Mono,
    /// An open job of an earlier life has set it.
    restored: bool,
}

impl QueueClock {
    /// Shows the wall clock's time, until a job is recovered.
    pub fn new(now: Now) -> QueueClock {
        QueueClock { ms: now.wall.ms(), at: now.mono, restored: false }
    }

    /// A job of an earlier life is open that was asked for at this time: it goes on from the latest.
    pub fn restore(&mut self, base_ms: i64, now: Mono) {
        if !self.restored || base_ms > self.now_ms(now) {
            *self = QueueClock { ms: base_ms, at: now, restored: true };
        }
    }

    pub fn now_ms(&self, now: Mono) -> i64 {
        let since = i64::try_from(now.since(self.at).as_millis()).unwrap_or(i64::MAX);
        self.ms.saturating_add(since)
    }
}

/// A handler and what its asker knows a job by, as a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SourceKey([u8; 16]);

impl SourceKey {
    /// `None` of a job that has no source.
    pub fn of(handler: &str, source: &str) -> Option<SourceKey> {
        if source.is_empty() {
            return None;
        }
        let mut hash = Sha256::new();
        hash.update((handler.len() as u64).to_be_bytes());
        hash.update(handler.as_bytes());
        hash.update(source.as_bytes());
        Some(SourceKey(hash.finalize()[..16].try_into().expect("16 of 32 bytes")))
    }

    pub fn of_job<'a>(job: impl Into<Identity<'a>>) -> Option<SourceKey> {
        let Identity { handler, asked, .. } = job.into();
        SourceKey::of(handler, &asked?.source)
    }
}

/// The open jobs that have a source.
pub(crate) type Sources = HashMap<SourceKey, (JobNumber, JobId)>;

/// A job to be made.
pub(crate) struct NewJob {
    pub id: JobId,
    pub by: Asker,
    pub owner: Owner,
    /// Who answers for the handler.
    pub plugin: PluginName,
    /// The handler's bare name.
    pub handler: HandlerName,
    pub payload: Arc<[u8]>,
    pub source: Arc<str>,
    pub priority: i8,
    /// The job that it is a part of, and those above that, the nearest first.
    pub above: Vec<JobAbove>,
    pub schedule: Option<ScheduleRun>,
    pub cost_estimate: Option<f64>,
    /// Its first attempt begins so much later at the earliest.
    pub delay: Duration,
}

impl State {
    /// Makes a job that no claim caused, or finds the open one that it would be another of.
    pub(crate) fn enqueue(&mut self, asked: EnqueueAsk, now: Now) -> Answer {
        Answer::Enqueued(self.try_enqueue(asked, now))
    }

    fn try_enqueue(&mut self, asked: EnqueueAsk, now: Now) -> Result<Enqueued, Refusal> {
        let priority = check_asked(&asked)?;
        let EnqueueAsk { id, by, handler, payload, source, parent, cost_estimate, .. } = asked;
        let (plugin, handler) = self.handler_for(&by, &handler)?;
        let above = self.check_parent(&by, parent)?;
        let key = SourceKey::of(&format!("{plugin}/{handler}"), &source);
        if let Some((number, id)) = key.and_then(|key| self.sources.get(&key)) {
            if self.doomed.contains_key(number) {
                let reason = format!("job {id} has this source and is being cancelled; ask again");
                return Err(Refusal::new(RefusalKind::Conflict, reason));
            }
            return Ok(Enqueued::Standing { number: *number, id: *id });
        }
        self.check_open_jobs()?;
        self.check_open_of(&by)?;
        let owner = match &by {
            Asker::User | Asker::Schedule => Owner::User,
            Asker::Plugin(plugin) => Owner::Plugin(plugin.clone()),
        };
        let row = self.make_job(
            NewJob {
                id,
                by,
                owner,
                plugin,
                handler,
                payload,
                source: source.into(),
                priority,
                above,
                schedule: None,
                cost_estimate,
                delay: Duration::ZERO,
            },
            now,
        );
        Ok(Enqueued::New(Box::new(row)))
    }

    /// Makes a job that no claim caused. Whether there is room for it and whether it may be is for the caller
    /// to know.
    pub(crate) fn make_job(&mut self, new: NewJob, now: Now) -> JobRow {
        let parent = new.above.first().map(|above| Parent { number: above.number, id: above.id });
        let handler: Arc<str> = format!("{}/{}", new.plugin, new.handler).into();
        let leaf = self.record(&Record::Job(JobRecord {
            by: Some(new.by.as_str()),
            handler: Some(&handler),
            nominal: new.schedule.and_then(|run| run.nominal),
            parent: parent.map(|parent| parent.id),
            payload_sha256: Some(&sha256_hex(&new.payload)),
            priority: Some(new.priority).filter(|priority| *priority != 0),
            schedule: new.schedule.map(|run| run.id),
            source: Some(begin(&new.source)).filter(|source| !source.is_empty()),
            ..JobRecord::new("job_created", new.id, now.wall)
        }));
        self.last_job = self.last_job.next();
        self.unwritten.payloads.insert(self.last_job, new.payload);
        let origin = match new.by {
            Asker::User => JobOrigin::Api,
            Asker::Schedule => JobOrigin::Schedule,
            Asker::Plugin(_) => JobOrigin::Plugin,
        };
        let delay_ms = u64::try_from(new.delay.as_millis()).unwrap_or(u64::MAX);
        let asked = Asked {
            by: new.by,
            owner: new.owner,
            source: new.source,
            priority: new.priority,
            base_ms: self.queue_clock.now_ms(now.mono),
            parent,
            schedule: new.schedule,
            // On the wire nothing said is 0.
            cost_estimate: new.cost_estimate.filter(|cost| cost.is_finite() && *cost > 0.0),
        };
        let row = JobRow {
            plugin: Some(new.plugin),
            leaves: vec![leaf],
            due_at: (delay_ms > 0).then(|| now.wall.plus(new.delay)),
            delay_ms,
            asked: Some(Box::new(asked)),
            ..JobRow::queued(self.last_job, new.id, origin, handler, now.wall)
        };
        self.stand_above(&new.above);
        self.add_job(row.clone(), now);
        row
    }

    /// Tells kin of the jobs above one that is about to be open.
    pub(crate) fn stand_above(&mut self, above: &[JobAbove]) {
        let lanes: Vec<_> = above.iter().map(|ancestor| self.open_lane_of(ancestor)).collect();
        self.kin.stand_above(above, &lanes);
    }

    /// The lane of a job while it is open, the batch at hand included: what the store says of it may be over.
    fn open_lane_of(&self, job: &JobAbove) -> Option<LaneId> {
        match self.jobs.get(&job.number) {
            Some(job) => Some(job.lane),
            None if self.state_of_job(job).is_open() => self.lane_ids.get(&job.lane).copied(),
            None => None,
        }
    }

    /// Whether another job may be open.
    pub(crate) fn check_open_jobs(&self) -> Result<(), Refusal> {
        if self.has_room_for_jobs() {
            return Ok(());
        }
        let reason = format!(
            "resource_exhausted: {} jobs are open, which is the bound; try again when some are done",
            self.open_jobs
        );
        Err(Refusal::new(RefusalKind::Exhausted, reason))
    }

    /// Whether a plugin may have another job open. One that asks for ever more stops neither matching nor what
    /// people ask for.
    fn check_open_of(&self, by: &Asker) -> Result<(), Refusal> {
        let Asker::Plugin(plugin) = by else { return Ok(()) };
        let bounds = &self.policy.bounds;
        let own = self.asked_open.get(plugin).copied().unwrap_or_default();
        let all: u64 = self.asked_open.values().sum();
        let (open, of) = match (own >= bounds.plugin_open_jobs_max, all >= bounds.open_jobs_max / 2)
        {
            (false, false) => return Ok(()),
            (true, _) => (own, format!("plugin {plugin} has asked for")),
            (false, true) => (all, "plugins have asked for".to_owned()),
        };
        let reason = format!(
            "resource_exhausted: {open} jobs are open that {of}, which is the bound; try again when some are \
             done"
        );
        Err(Refusal::new(RefusalKind::Exhausted, reason))
    }

    /// Counts the open jobs that a plugin has asked for.
    pub(crate) fn count_asked(&mut self, by: Option<Asker>, opened: bool) {
        let Some(Asker::Plugin(plugin)) = by else { return };
        let open = self.asked_open.entry(plugin).or_default();
        *open = if opened { *open + 1 } else { *open - 1 };
    }

    /// Who answers for a handler as somebody names it. A plugin means its own, which it may name before it has
    /// announced it.
    pub(crate) fn handler_for(
        &self,
        by: &Asker,
        text: &str,
    ) -> Result<(PluginName, HandlerName), Refusal> {
        let (named, bare) = HandlerName::parse_qualified(text)
            .map_err(|error| Refusal::new(RefusalKind::Invalid, error.to_string()))?;
        let own = match by {
            Asker::Plugin(plugin) => Some(plugin),
            Asker::User | Asker::Schedule => None,
        };
        let own = own.filter(|plugin| named.as_ref().is_none_or(|named| named == *plugin));
        let state = own.and_then(|plugin| self.plugins.get(plugin));
        if let Some(plugin) = own.filter(|plugin| self.has_handler(plugin, &bare)) {
            return Ok((plugin.clone(), bare));
        }
        if let Some(plugin) = self.resolve_handler(text)? {
            return Ok((plugin, bare));
        }
        match own.filter(|_| state.is_none_or(|state| !state.up)) {
            Some(plugin) => Ok((plugin.clone(), bare)),
            None => Err(self.unknown_handler(text)),
        }
    }

    /// Whether a job may be a part of another, and the jobs that it is then below.
    fn check_parent(
        &self,
        by: &Asker,
        parent: Option<ParentAsk>,
    ) -> Result<Vec<JobAbove>, Refusal> {
        let Some(ParentAsk { id, above }) = parent else { return Ok(Vec::new()) };
        let may = |parent: &&JobAbove| match by {
            Asker::Plugin(plugin) => {
                parent.plugin.as_ref() == Some(plugin)
                    || parent.owner == Some(Owner::Plugin(plugin.clone()))
            }
            Asker::User | Asker::Schedule => true,
        };
        // One that is another's is told like one that is nowhere.
        if above.first().filter(may).is_none() {
            let whose = match by {
                Asker::Plugin(plugin) => format!("plugin {plugin} has no such job"),
                Asker::User | Asker::Schedule => "there is no such job".to_owned(),
            };
            let reason = format!("parent_job_id {id}: {whose}");
            return Err(Refusal::new(RefusalKind::NotFound, reason));
        }
        if above.len() >= bounds::KIN_DEPTH_MAX {
            let reason = format!(
                "parent_job_id {id}: {} jobs stand in one chain at most",
                bounds::KIN_DEPTH_MAX
            );
            return Err(Refusal::new(RefusalKind::Conflict, reason));
        }
        self.check_above(&above)?;
        Ok(above)
    }

    /// Whether a job may be open below these.
    pub(crate) fn check_above(&self, above: &[JobAbove]) -> Result<(), Refusal> {
        let cancelled = above.iter().find(|job| self.state_of_job(job) == JobState::Cancelled);
        match cancelled {
            None => Ok(()),
            Some(job) => {
                let reason = format!(
                    "job {} is cancelled, and so is what is a part of it; `axwatch jobs retry {}` first",
                    job.id, job.id
                );
                Err(Refusal::new(RefusalKind::Conflict, reason))
            }
        }
    }

    /// Where a job is on its way, the batch at hand included.
    fn state_of_job(&self, job: &JobAbove) -> JobState {
        if self.doomed.contains_key(&job.number) {
            return JobState::Cancelled;
        }
        if let Some(job) = self.jobs.get(&job.number) {
            return job.row.state;
        }
        if let Some(row) = self.unwritten.released.get(&job.number) {
            return row.state;
        }
        match self.is_withdrawn(job.number, job.lane.watcher, job.state) {
            true => JobState::Cancelled,
            false => job.state,
        }
    }

    /// Whether no other open job has the source of this one.
    pub(crate) fn check_source(&self, row: &JobRow) -> Result<(), Refusal> {
        let other = SourceKey::of_job(row).and_then(|key| self.sources.get(&key));
        match other.filter(|(number, _)| *number != row.number) {
            None => Ok(()),
            Some((_, other)) => {
                let reason = format!("job {other} is open, which has the same handler and source");
                Err(Refusal::new(RefusalKind::Conflict, reason))
            }
        }
    }

    /// A job is open from here on, in this lane: its kin and its source are known.
    pub(crate) fn note_asked(&mut self, job: Identity<'_>, lane: LaneId) {
        let source = SourceKey::of_job(job);
        if let Some(source) = source {
            self.sources.entry(source).or_insert((job.number, job.id));
        }
        self.kin.opened(job, lane, source);
        self.note_run_open(job, lane);
    }

    /// A job with this source is not open any more.
    pub(crate) fn forget_source(&mut self, number: JobNumber, source: Option<SourceKey>) {
        if let Some(source) = source
            && self.sources.get(&source).is_some_and(|(standing, _)| *standing == number)
        {
            self.sources.remove(&source);
        }
    }
}

/// Whether what is asked for can be at all. Gives its priority.
fn check_asked(asked: &EnqueueAsk) -> Result<i8, Refusal> {
    let invalid = |reason: String| Err(Refusal::new(RefusalKind::Invalid, reason));
    if asked.payload.len() > bounds::PAYLOAD_BYTES_MAX {
        return invalid(format!(
            "payload: {} bytes; at most {} are allowed",
            asked.payload.len(),
            bounds::PAYLOAD_BYTES_MAX
        ));
    }
    if asked.source.len() > bounds::JOB_SOURCE_BYTES_MAX {
        return invalid(format!(
            "source: {} bytes; at most {} are allowed",
            asked.source.len(),
            bounds::JOB_SOURCE_BYTES_MAX
        ));
    }
    let max = bounds::PRIORITY_MAX;
    match i8::try_from(asked.priority) {
        Ok(priority) if (-max..=max).contains(&priority) => Ok(priority),
        _ => invalid(format!("priority {}: it must be from -{max} to {max}", asked.priority)),
    }
}
