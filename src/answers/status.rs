//! How everything is: the store, its watchers and jobs, and what somebody should look at.
//!
//! In: the store, and what only a running server knows. Cost: the watchers once (in memory with a
//! server), one count over an index of the jobs that ended badly and over the jobs since the oldest
//! open one; nothing grows with the log.

use std::path::Path;
use std::time::Duration;

use axwatch_ats::{JobsQuery, StoreError};
use axwatch_core::{BudgetHold, BudgetView, Overview, ScheduleView, WaitReason, Waiting};
use axwatch_engine::Heads;
use axwatch_model::{JobNumber, Seq, Timestamp, WatcherNumber, WatcherRow, WatcherState};

use super::{AnswerError, Answers};
use crate::output::{counted, quoted, size, span};
use crate::views::{
    Attention, Breaker, Disk, HeldWatcher, JobCounts, Lag, Plugin, ScheduleCounts, ServerStatus,
    Slowest, Status, StoreStatus, Waits, Watcher, WatcherCounts,
};

/// Less than this left on the disk is worth a word, before the engine refuses anything.
const FREE_BYTES_LOW: u64 = 256 * 1024 * 1024;
/// Watchers in trouble that are named; the rest are only counted.
const NAMED_MAX: usize = 10;
/// Held watchers that are looked at, the last that were held.
const HELD_LOOKED_AT_MAX: usize = 1_000;

/// What a running server knows.
pub struct Live {
    /// The server.
    pub server: ServerStatus,
    /// Its plugins.
    pub plugins: Vec<Plugin>,
    /// Its engine.
    pub overview: Overview,
    /// How far it has come.
    pub heads: Heads,
    /// Its schedules.
    pub schedules: Vec<ScheduleView>,
    /// Its budgets.
    pub budgets: Vec<BudgetView>,
}

impl Answers {
    /// How everything is. `path` is the store's file; `live` what its server knows, if one runs.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub async fn status(
        &self,
        path: &Path,
        now: Timestamp,
        live: Option<Live>,
    ) -> Result<Status, AnswerError> {
        let opened = self.store().opened();
        let (head, matched) = match &live {
            Some(live) => (live.heads.seq, live.heads.matched),
            None => (self.store().head().await?, opened.matched_seq),
        };
        let records = match &live {
            Some(live) => live.heads.audit.0,
            None => self.audit_size().await?,
        };
        let overview = match &live {
            Some(live) => live.overview.clone(),
            None => self.overview_of_rows(matched, head).await?,
        };
        let oldest = self.made_at(overview.oldest_waiting).await?;
        let jobs = self.counts(overview.held_jobs).await?;
        let plugins = match &live {
            Some(live) => live.plugins.clone(),
            None => self.stopped_plugins().await?,
        };
        let mut schedules = ScheduleCounts::default();
        match &live {
            Some(live) => live.schedules.iter().for_each(|view| schedules.add(view.row.state)),
            None => self.schedules(false).await?.iter().for_each(|row| schedules.add(row.state)),
        }
        let budgets = live.as_ref().map(|live| live.budgets.clone()).unwrap_or_default();
        let (slowest, replays) = self.slowest(head).await?;
        let file_bytes = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let wal_bytes = file_bytes(Path::new(&wal));
        let mut status = Status {
            store: StoreStatus {
                path: path.display().to_string(),
                store_id: opened.store_id.to_string(),
                schema: opened.schema,
                claims: head.0,
                records,
                bytes: file_bytes(path) + wal_bytes,
                wal_bytes,
                quarantined: self.store().quarantine_count().await?,
            },
            server: live.map(|live| live.server),
            watchers: watcher_counts(&overview),
            jobs,
            schedules,
            plugins,
            lag: Lag {
                head,
                matched,
                behind: head.0.saturating_sub(matched.0),
                oldest_waiting_at: oldest,
                oldest_waiting_seconds: oldest.map(|oldest| now.since(oldest).as_secs()),
                slowest,
                replays,
                backpressured: overview.backpressured,
            },
            held: self.held().await?,
            breakers: breakers(&overview),
            disk: disk(path),
            attention: Vec::new(),
        };
        status.attention = attention(&status, &overview, &budgets, now);
        Ok(status)
    }

    /// The watcher that catches up and is furthest behind, and how many replays are under way.
    async fn slowest(&self, head: Seq) -> Result<(Option<Slowest>, u64), StoreError> {
        let passes = self.store().passes().await?;
        let (catching_up, replays): (Vec<_>, Vec<_>) =
            passes.into_iter().partition(|(pass, _)| pass.until_seq.is_none());
        let replays = replays.len() as u64;
        let Some((pass, seq)) = catching_up.into_iter().min_by_key(|(_, seq)| *seq) else {
            return Ok((None, replays));
        };
        let key = self.watcher_key(pass.watcher).await?;
        let slowest = key.map(|key| Slowest {
            watcher: key.to_string(),
            seq,
            behind: head.0.saturating_sub(seq.0),
        });
        Ok((slowest, replays))
    }

    /// The watchers whose fires are held: those for which a loop is suspected, then the last ones.
    async fn held(&self) -> Result<Vec<HeldWatcher>, StoreError> {
        let mut holds = self.store().holds().await?;
        holds.retain(|hold| hold.ended_at.is_none());
        holds.sort_unstable_by_key(|hold| std::cmp::Reverse((hold.at, hold.watcher)));
        holds.truncate(HELD_LOOKED_AT_MAX);
        let mut held = Vec::with_capacity(holds.len());
        for hold in holds {
            let before = WatcherNumber(hold.watcher.0 - 1);
            let Some(row) = self.store().watchers_after(before, 1).await?.pop() else { continue };
            held.push(HeldWatcher {
                watcher: row.key.to_string(),
                kind: hold.kind,
                at: hold.at,
                until: hold.until,
                drops: hold.drops,
                error: row.error,
            });
        }
        held.sort_by_key(|held| held.error.is_none());
        held.truncate(NAMED_MAX);
        Ok(held)
    }

    /// Jobs by state. Of those that are queued, so many at most are held.
    async fn counts(&self, held: u64) -> Result<JobCounts, StoreError> {
        let rows = self.store().job_counts().await?;
        let paused = held.min(rows.queued);
        Ok(JobCounts {
            queued: rows.queued - paused,
            running: rows.running,
            paused: rows.paused + paused,
            completed: rows.completed,
            failed: rows.failed,
            cancelled: rows.cancelled,
        })
    }

    async fn made_at(&self, job: Option<JobNumber>) -> Result<Option<Timestamp>, StoreError> {
        let Some(JobNumber(number)) = job else { return Ok(None) };
        let only = JobsQuery {
            after: Some(JobNumber(number - 1)),
            before: Some(JobNumber(number + 1)),
            limit: 1,
            ..JobsQuery::default()
        };
        Ok(self.store().jobs(&only).await?.first().map(|row| row.created_at))
    }

    /// What the rows tell when nobody runs on the store.
    async fn overview_of_rows(&self, matched: Seq, head: Seq) -> Result<Overview, StoreError> {
        let mut overview = Overview::default();
        for mut row in self.store().watchers().await? {
            row.state = row.shown_state(matched, head);
            match overview.watchers.iter_mut().find(|(state, _)| *state == row.state) {
                Some((_, count)) => *count += 1,
                None => overview.watchers.push((row.state, 1)),
            }
            if is_in_trouble(&row) && overview.troubled.len() < NAMED_MAX {
                overview.troubled.push(row);
            }
        }
        let first = self.store().open_jobs(JobNumber(0), 1).await?;
        overview.oldest_waiting = first.first().map(|row| row.number);
        Ok(overview)
    }

    /// The plugins that were ever up, as nobody runs them now.
    async fn stopped_plugins(&self) -> Result<Vec<Plugin>, StoreError> {
        let handlers = self.store().handlers().await?;
        let of = |name: &axwatch_model::PluginName| {
            let own = handlers.iter().filter(|row| row.plugin == *name);
            own.map(|row| row.name.to_string()).collect()
        };
        let rows = self.store().plugins().await?;
        let plugins = rows.into_iter().map(|row| Plugin::offline(&row, of(&row.name)));
        Ok(plugins.collect())
    }
}

fn is_in_trouble(row: &WatcherRow) -> bool {
    match row.state {
        WatcherState::Broken | WatcherState::Refused | WatcherState::WaitingForHandler => true,
        // Nobody but the engine pauses a watcher with a reason.
        WatcherState::Paused => row.error.is_some(),
        _ => false,
    }
}

fn breakers(overview: &Overview) -> Vec<Breaker> {
    let view = |breaker: &axwatch_core::BreakerView| Breaker {
        plugin: breaker.plugin.to_string(),
        handler: breaker.handler.to_string(),
        failures: breaker.failures,
        until: breaker.until,
        error: breaker.error.clone(),
    };
    overview.breakers.iter().map(view).collect()
}

fn watcher_counts(overview: &Overview) -> WatcherCounts {
    let mut counts = WatcherCounts::default();
    for (state, count) in &overview.watchers {
        *counts.of_mut(*state) += count;
    }
    counts
}

fn disk(path: &Path) -> Disk {
    let folder = path.parent().unwrap_or(path);
    let space = rustix::fs::statvfs(folder).ok();
    let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
        space.as_ref().map(|space| blocks(space).saturating_mul(space.f_frsize))
    };
    Disk { free_bytes: bytes(|space| space.f_bavail), total_bytes: bytes(|space| space.f_blocks) }
}

/// What somebody should look at, the most urgent first, each with a command to type.
fn attention(
    status: &Status,
    overview: &Overview,
    budgets: &[BudgetView],
    now: Timestamp,
) -> Vec<Attention> {
    let mut found = Vec::new();
    let mut add = |kind: &str, message: String, next: String| {
        found.push(Attention { kind: kind.to_owned(), message, next });
    };
    let free = status.disk.free_bytes.unwrap_or(u64::MAX);
    let folder = Path::new(&status.store.path).parent().unwrap_or(Path::new("/"));
    let look = format!("df -h {}", quoted(&folder.display().to_string()));
    if overview.disk_low {
        let message = format!("the disk is nearly full ({} free): claims are refused", size(free));
        add("disk_low", message, look);
    } else if free < FREE_BYTES_LOW {
        add("disk_low", format!("only {} are left on the disk", size(free)), look);
    }
    let is_served = status.server.is_some();
    if status.store.quarantined > 0 {
        let rows = counted(status.store.quarantined, "row");
        let message = format!("{rows} of the store did not decode and were put aside");
        add("quarantined", message, "axwatch doctor".to_owned());
    }
    for plugin in status.plugins.iter().filter(|plugin| plugin.disabled_at.is_some()) {
        let message = format!("plugin {} is disabled, and carries nothing out", plugin.name);
        add("plugin_disabled", message, format!("axwatch plugin enable {}", plugin.name));
    }
    for plugin in status.plugins.iter().filter(|_| is_served) {
        let error = plugin.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let (kind, state, verb) = match &*plugin.state {
            "failed" => ("plugin_failed", "has failed", "restart"),
            "backing_off" => ("plugin_backing_off", "crashed and is started again soon", "show"),
            "degraded" => ("plugin_degraded", "says that it is not well", "show"),
            _ => continue,
        };
        let next = format!("axwatch plugin {verb} {}", plugin.name);
        add(kind, format!("plugin {} {state}{error}", plugin.name), next);
    }
    if status.jobs.failed > 0 {
        let message = match status.jobs.failed {
            1 => "1 job is a dead letter".to_owned(),
            failed => format!("{failed} jobs are dead letters"),
        };
        add("dead_letters", message, "axwatch jobs dead".to_owned());
    }
    for row in &overview.troubled {
        let (kind, message) = trouble(row);
        add(kind, message, format!("axwatch watch show {}", quoted(&row.key.to_string())));
    }
    for plugin in &overview.one_at_a_time {
        let message = format!(
            "plugin {plugin} runs one job at a time for up to a minute, because a loop is looked for"
        );
        add("one_at_a_time", message, "axwatch audit show --type loop_watched".to_owned());
    }
    for breaker in &status.breakers {
        let Breaker { plugin, handler, failures, error, .. } = breaker;
        let message = format!(
            "handler {handler} of plugin {plugin} has failed {failures} times in a row, and is tried one job at a time: {error}"
        );
        add("breaker_open", message, format!("axwatch plugin show {plugin}"));
    }
    for budget in budgets {
        let Some(hold) = budget.held_by.as_ref().filter(|_| budget.held_lanes > 0) else {
            continue;
        };
        let show = format!("axwatch budget show {}", quoted(&budget.scope.to_string()));
        add("budget_used_up", held_jobs(budget, hold, now), show);
    }
    if status.lag.backpressured > 0 {
        let rest = match status.lag.backpressured {
            1 => "1 watcher or replay rests".to_owned(),
            many => format!("{many} watchers or replays rest"),
        };
        let message = format!("{rest} until fewer of its jobs are open");
        add("watcher_backpressured", message, "axwatch watch list".to_owned());
    }
    let counts = status.watchers;
    let troubled = counts.broken + counts.refused + counts.waiting_for_handler;
    let named = overview.troubled.iter().filter(|row| row.state != WatcherState::Paused).count();
    let unnamed = troubled.saturating_sub(named as u64);
    if unnamed > 0 {
        let message = format!("{} more like these", counted(unnamed, "watcher"));
        add("watchers", message, "axwatch watch list".to_owned());
    }
    let waiting = status.jobs.queued + status.jobs.running;
    if !is_served && status.lag.behind + waiting > 0 {
        let message = format!(
            "no server runs, and {} and {} wait for one",
            counted(status.lag.behind, "claim"),
            counted(waiting, "job")
        );
        add("no_server", message, "axwatch serve".to_owned());
    }
    found
}

fn held_jobs(budget: &BudgetView, hold: &BudgetHold, now: Timestamp) -> String {
    let until = hold.until.map(|until| {
        let left = span(until.since(now).max(Duration::from_millis(1)));
        format!(" until {until}, for {left}")
    });
    let lanes = match budget.held_lanes {
        1 => "a lane of jobs waits".to_owned(),
        many => format!("{many} lanes of jobs wait"),
    };
    format!("{hold}; {lanes}{}", until.unwrap_or_default())
}

fn trouble(row: &WatcherRow) -> (&'static str, String) {
    let kind = match row.state {
        WatcherState::Broken => "watcher_broken",
        WatcherState::Refused => "watcher_refused",
        WatcherState::Paused => "loop_suspected",
        _ => "watcher_waiting_for_handler",
    };
    let state = match row.state {
        WatcherState::WaitingForHandler => "waits for its handler".to_owned(),
        other => format!("is {other}"),
    };
    let why = Watcher::error_of(row).map(|error| format!(": {error}")).unwrap_or_default();
    (kind, format!("watcher {} {state}{why}", row.key))
}

/// What a job waits for, for people and programs.
pub fn waits(waiting: &Waiting, watcher: Option<&str>, handler: &str, now: Timestamp) -> Waits {
    let watcher = watcher.unwrap_or_default();
    let (reason, mut message) = match &waiting.reason {
        WaitReason::Paused => {
            ("paused", "somebody paused it; `axwatch jobs resume` lets it go on".to_owned())
        }
        WaitReason::NoHandler => (
            "no_handler",
            format!(
                "no plugin has announced the handler {handler}; `axwatch plugin list` shows what there is"
            ),
        ),
        WaitReason::PluginAway(plugin) => (
            "plugin_away",
            format!("plugin {plugin} is not ready; `axwatch plugin show {plugin}` says why"),
        ),
        WaitReason::PluginDisabled(plugin) => (
            "plugin_disabled",
            format!(
                "plugin {plugin} is disabled; `axwatch plugin enable {plugin}` lets it run again"
            ),
        ),
        WaitReason::NotAnnounced(plugin) => (
            "handler_not_announced",
            format!(
                "the running process of plugin {plugin} did not announce {handler}; `axwatch plugin show {plugin}` shows what it has"
            ),
        ),
        WaitReason::HandlerBroken { plugin, handler, reason } => {
            // The name that people gave it.
            let name = handler.as_str().strip_prefix(plugin.as_str());
            let name = name.and_then(|rest| rest.strip_prefix('.')).unwrap_or(handler.as_str());
            (
                "handler_broken",
                format!(
                    "handler {handler} does not load: {reason}; it goes on once `axwatch handler create {}` has stored a version that does",
                    quoted(name)
                ),
            )
        }
        WaitReason::WatcherPaused => (
            "watcher_paused",
            format!(
                "its watcher is paused; `axwatch watch resume {}` lets it go on",
                quoted(watcher)
            ),
        ),
        WaitReason::WatcherPutAside => (
            "watcher_put_aside",
            "the row of its watcher could not be read and was put aside; `axwatch doctor` tells of it"
                .to_owned(),
        ),
        WaitReason::WatcherMuted(until) => {
            let until = until.map(|until| format!(" until {until}")).unwrap_or_default();
            let watcher = quoted(watcher);
            (
                "watcher_muted",
                format!(
                    "its watcher is muted{until}; `axwatch watch unmute {watcher}` lets it go on"
                ),
            )
        }
        WaitReason::DiskLow => {
            ("disk_low", "the disk is nearly full; `axwatch status` says where".to_owned())
        }
        WaitReason::Stopping => ("stopping", "the server is about to stop".to_owned()),
        WaitReason::RetryDue => ("retry", "its next attempt is due later".to_owned()),
        WaitReason::Limit => ("limit", "its watcher has reached its rate".to_owned()),
        WaitReason::PluginBusy { plugin, running, slots } => {
            ("plugin_busy", format!("plugin {plugin} has {running} of {slots} attempts in flight"))
        }
        WaitReason::Suspects(plugin) => (
            "suspects",
            format!(
                "plugin {plugin} runs one job at a time until it is known which one crashes it"
            ),
        ),
        WaitReason::OneAtATime(plugin) => (
            "one_at_a_time",
            format!(
                "plugin {plugin} runs one job at a time until it is known whose claims are whose, because a loop is suspected"
            ),
        ),
        WaitReason::Breaker { plugin, handler, failures } => (
            "breaker",
            format!(
                "{handler} has failed {failures} times in a row, so plugin {plugin} gets one attempt at a time until it does not; `axwatch status` says what it failed with"
            ),
        ),
        WaitReason::Budget(hold) => {
            ("budget", format!("{hold}; `axwatch budget show` says what of it is used"))
        }
        WaitReason::Retries => {
            ("retries", "too many jobs of its lane wait for their retry".to_owned())
        }
        WaitReason::Turn => ("turn", "only its turn".to_owned()),
    };
    if let Some(until) = waiting.until {
        let left = span(until.since(now).max(Duration::from_millis(1)));
        message.push_str(&format!("; next at {until}, in {left}"));
    }
    if waiting.ahead > 0 {
        let least = if waiting.ahead_at_least { "at least " } else { "" };
        message.push_str(&format!("; behind {least}{} of its lane", counted(waiting.ahead, "job")));
    }
    Waits {
        reason: reason.to_owned(),
        message,
        ahead: waiting.ahead,
        ahead_at_least: waiting.ahead_at_least,
        until: waiting.until,
    }
}
