//! Jobs and schedules as plugins see them and say them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axwatch_core::{EnqueueAsk, ParentAsk, ScheduleAsk, ScheduleView, WaitReason, Waiting};
use axwatch_model::{
    Asker, Grid, JobId, JobState, Missed, Overlap, PluginName, ScheduleState, Timestamp,
};
use axwatch_proto::protocol;
use bytes::Bytes;

use crate::handle::Sight;

/// What is said of calls that no budget counts.
const UNBOUNDED_CALLS: i32 = i32::MAX;

/// What a job is shown as: paused too, when something else than its turn holds it back.
pub(crate) fn status(sight: &Sight) -> JobState {
    let is_held = sight.waiting.as_ref().is_some_and(|waiting| held(waiting).is_some());
    if is_held { JobState::Paused } else { sight.row.state }
}

/// A job, with this payload.
pub(crate) fn job(sight: &Sight, payload: Bytes) -> protocol::Job {
    let row = &sight.row;
    let asked = row.asked.as_deref();
    let parent = asked.and_then(|asked| asked.parent);
    let (current, total) = row.progress.unwrap_or_default();
    protocol::Job {
        id: row.id.to_string(),
        handler_name: row.bare_handler().to_owned(),
        payload,
        source: asked.map(|asked| asked.source.to_string()).unwrap_or_default(),
        status: status(sight).to_string(),
        // Some clients look into it without asking whether it is there.
        progress: Some(protocol::Progress { current, total }),
        cost_estimate: asked.and_then(|asked| asked.cost_estimate).unwrap_or_default(),
        cost_actual: row.cost.unwrap_or_default(),
        pulse_state: Some(pulse_state(sight)),
        error: row.error.clone().unwrap_or_default(),
        parent_job_id: parent.map(|parent| parent.id.to_string()).unwrap_or_default(),
        retry_count: i32::try_from(row.attempts.saturating_sub(1)).unwrap_or(i32::MAX),
        created_at: seconds(row.created_at),
        started_at: row.started_at.map(seconds).unwrap_or_default(),
        completed_at: row.completed_at.map(seconds).unwrap_or_default(),
    }
}

fn seconds(at: Timestamp) -> i64 {
    at.ms().div_euclid(1_000)
}

fn pulse_state(sight: &Sight) -> protocol::PulseState {
    let pulse = sight.pulse.as_ref();
    let used = pulse.map(|pulse| &pulse.used);
    let calls = |calls: u64| i32::try_from(calls).unwrap_or(i32::MAX);
    let budget = || {
        let hold = pulse?.held_by.as_ref()?;
        Some(with_end(hold.to_string(), hold.until))
    };
    let reason = sight.waiting.as_ref().and_then(held).or_else(budget);
    protocol::PulseState {
        calls_this_minute: used.map_or(0, |used| calls(used.calls)),
        calls_remaining: pulse.and_then(|pulse| pulse.calls_left).map_or(UNBOUNDED_CALLS, calls),
        spend_today: used.map_or(0.0, |used| used.spent[0]),
        spend_this_month: used.map_or(0.0, |used| used.spent[2]),
        budget_remaining: pulse.and_then(|pulse| pulse.spend_left).unwrap_or(f64::INFINITY),
        is_paused: reason.is_some(),
        pause_reason: reason.unwrap_or_default(),
    }
}

/// What holds a job back, when that is something else than its turn.
fn held(waiting: &Waiting) -> Option<String> {
    let reason = match &waiting.reason {
        WaitReason::Paused => "somebody paused it".to_owned(),
        WaitReason::NoHandler => "no plugin has announced its handler".to_owned(),
        WaitReason::PluginAway(plugin) => format!("plugin {plugin} is not ready"),
        WaitReason::PluginDisabled(plugin) => format!("plugin {plugin} is disabled"),
        WaitReason::NotAnnounced(plugin) => format!("plugin {plugin} did not announce its handler"),
        WaitReason::HandlerBroken { handler, reason, .. } => {
            format!("handler {handler} does not load: {reason}")
        }
        WaitReason::WatcherPaused => "its watcher is paused".to_owned(),
        WaitReason::WatcherMuted(_) => "its watcher is muted".to_owned(),
        WaitReason::WatcherPutAside => "the row of its watcher could not be read".to_owned(),
        WaitReason::Budget(hold) => hold.to_string(),
        WaitReason::DiskLow
        | WaitReason::Stopping
        | WaitReason::RetryDue
        | WaitReason::Limit
        | WaitReason::PluginBusy { .. }
        | WaitReason::Suspects(_)
        | WaitReason::OneAtATime(_)
        | WaitReason::Breaker { .. }
        | WaitReason::Retries
        | WaitReason::Turn => return None,
    };
    Some(with_end(reason, waiting.until))
}

fn with_end(reason: String, until: Option<Timestamp>) -> String {
    match until {
        Some(until) => format!("{reason}; until {until}"),
        None => reason,
    }
}

/// A job as a plugin asks for it. `id` is what follows from the id that it says.
pub(crate) fn asked(
    job: protocol::Job,
    priority: i32,
    id: JobId,
    parent: Option<JobId>,
    by: &PluginName,
) -> EnqueueAsk {
    EnqueueAsk {
        id,
        by: Asker::Plugin(by.clone()),
        handler: job.handler_name,
        payload: Arc::from(&job.payload[..]),
        source: job.source,
        priority,
        // What is above it the writer looks up.
        parent: parent.map(|id| ParentAsk { id, above: Vec::new() }),
        cost_estimate: amount(job.cost_estimate),
    }
}

/// What somebody says that was or will be spent; 0 says nothing, and neither does what is no amount.
pub(crate) fn amount(cost: f64) -> Option<f64> {
    Some(cost).filter(|cost| cost.is_finite() && *cost > 0.0)
}

/// A schedule as a plugin asks for it.
pub(crate) fn schedule_asked(
    request: protocol::CreateScheduleRequest,
    by: &PluginName,
    redacted: impl Fn(String) -> String,
) -> ScheduleAsk {
    let payload = Some(&request.payload[..]).filter(|payload| !payload.is_empty());
    ScheduleAsk {
        by: Asker::Plugin(by.clone()),
        name: String::new(),
        handler: request.handler_name,
        // Less than nothing is never, as nothing is.
        grid: Grid::Every { secs: u32::try_from(request.interval_seconds).unwrap_or(0) },
        payload: payload.map(Arc::from),
        missed: Missed::default(),
        overlap: Overlap::default(),
        jitter_secs: 0,
        description: String::new(),
        ats_code: String::new(),
        metadata: metadata(request.metadata, redacted),
    }
}

/// What a plugin keeps with a schedule, as a JSON object; `None` when that is nothing.
fn metadata(
    given: impl IntoIterator<Item = (String, String)>,
    redacted: impl Fn(String) -> String,
) -> Option<Arc<str>> {
    let sorted: BTreeMap<_, _> =
        given.into_iter().map(|(key, value)| (redacted(key), redacted(value))).collect();
    let json = serde_json::to_string(&sorted).expect("texts are always JSON");
    (!sorted.is_empty()).then(|| json.into())
}

/// A schedule, with this payload.
pub(crate) fn scheduled(view: &ScheduleView, payload: Bytes) -> protocol::ScheduledJob {
    let row = &view.row;
    let state = match row.state {
        ScheduleState::Active => "active",
        ScheduleState::Paused => "paused",
        ScheduleState::Inactive => "inactive",
        ScheduleState::Retired => "deleted",
    };
    let next = view.next.filter(|_| row.state == ScheduleState::Active);
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let interval = row.grid.secs().unwrap_or(0);
    protocol::ScheduledJob {
        id: row.id.to_string(),
        ats_code: row.ats_code.clone(),
        handler_name: row.bare_handler().to_owned(),
        payload,
        source_url: String::new(),
        interval_seconds: i32::try_from(interval).unwrap_or(i32::MAX),
        next_run_at: time(next),
        last_run_at: time(row.last_run_at),
        last_execution_id: row.last_job.map(|job| job.to_string()).unwrap_or_default(),
        state: state.to_owned(),
        metadata: row.metadata.as_deref().unwrap_or_default().to_owned(),
        created_at: row.declared_at.to_string(),
        updated_at: row.changed_at.to_string(),
        created_from_doc: String::new(),
    }
}
