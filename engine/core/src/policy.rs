//! What the core is told once, at its start: bounds and how retries go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axwatch_model::{BudgetScope, HandlerName, PluginName, StoreId};

/// What the core is told once.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Part of every job id.
    pub store_id: StoreId,
    /// How often the store has been opened for writing: names this life of the engine.
    pub epoch: u64,
    /// How much may be in memory and in the table.
    pub bounds: Bounds,
    /// How retries go.
    pub retry: RetryPolicy,
    /// When jobs of a handler are given up; under `None`, those of all other handlers of the plugin. What a
    /// watcher declares wins.
    pub handlers: BTreeMap<(PluginName, Option<HandlerName>), RetryLimits>,
    /// The budgets of the configuration. What is set with a command wins, part by part.
    pub budgets: BTreeMap<BudgetScope, BudgetLimits>,
    /// The plugins whose claims may store handlers, besides people's.
    pub handler_makers: BTreeSet<PluginName>,
}

/// What the configuration says of a budget; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct BudgetLimits {
    /// Attempts that may begin in any 60 seconds.
    pub calls_per_minute: Option<u32>,
    /// What may be spent in any 24 hours. This and the next two are finite and not negative.
    pub per_day: Option<f64>,
    /// What may be spent in any 7 days.
    pub per_week: Option<f64>,
    /// What may be spent in any 30 days.
    pub per_month: Option<f64>,
}

/// When jobs are given up; `None` is as for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryLimits {
    /// After so many counted attempts.
    pub max_attempts: Option<u32>,
    /// When attempts have failed for so long.
    pub max_age: Option<Duration>,
}

/// How much work may wait where.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// First attempts of one lane in memory; the rest waits in the table.
    pub lane_waiting_max: usize,
    /// Retries of one lane in memory; past them its first attempts are held back.
    pub lane_delayed_max: usize,
    /// Jobs in memory, of all lanes.
    pub jobs_in_memory_max: usize,
    /// Open jobs, in memory and in the table; past them matching waits.
    pub open_jobs_max: u64,
    /// Open jobs that one plugin has asked for. All of them together have half of `open_jobs_max`, so that the rest
    /// is there for claims, people and schedules.
    pub plugin_open_jobs_max: u64,
    /// Open jobs of one watcher; past them it falls behind, until half of them are done. A replay has
    /// half of that for itself.
    pub watcher_open_jobs_max: u64,
    /// Jobs that wait in the table and are cancelled in one batch with one that they are a part of; the rest
    /// follows in the next ones.
    pub withdrawn_at_once_max: usize,
    /// Slots of a new process, before its answers earn it more.
    pub slots_first: u32,
    /// Watchers of one plugin: those that stand, are refused, and were retired, which are kept.
    pub plugin_watchers_max: usize,
    /// Watchers of an announcement that are new, changed, refused or retired in one batch; the rest follows in the
    /// next ones. It takes eight times as many that stand as they are announced.
    pub announced_at_once_max: usize,
    /// Handlers that are stored as claims, of all plugins, removed ones included.
    pub stored_handlers_max: usize,
    /// Schedules of one plugin, or of all people, retired ones included.
    pub owner_schedules_max: usize,
    /// Bytes of the payloads of their schedules, which are in memory.
    pub owner_schedule_bytes_max: usize,
    /// Open jobs of one schedule; nominal times past them are left out.
    pub schedule_open_jobs_max: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            lane_waiting_max: 64,
            lane_delayed_max: 1_024,
            jobs_in_memory_max: 100_000,
            open_jobs_max: 1_000_000,
            plugin_open_jobs_max: 250_000,
            watcher_open_jobs_max: 10_000,
            withdrawn_at_once_max: 16_384,
            slots_first: 4,
            plugin_watchers_max: 200_000,
            announced_at_once_max: 64,
            stored_handlers_max: 50_000,
            owner_schedules_max: 10_000,
            owner_schedule_bytes_max: 64 * 1024 * 1024,
            schedule_open_jobs_max: 10_000,
        }
    }
}

/// How retries go.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// The wait after the first counted attempt; doubles with each further one.
    pub delay_first: Duration,
    /// The longest wait.
    pub delay_max: Duration,
    /// A job is given up after so many counted attempts.
    pub counted_max: u32,
    /// A job is given up after so many attempts that did not count.
    pub uncounted_max: u32,
    /// A job is given up so long after its first counted attempt, not counting time in which nobody
    /// could have run it.
    pub age_max: Duration,
    /// The shortest that "not now" puts a job off, so that a handler which says it again at once keeps
    /// nobody busy: it counts as no attempt, and nothing else would end it.
    pub not_now_min: Duration,
    /// The longest that "not now" may put a job off.
    pub not_now_max: Duration,
    /// How long a job waits for a handler that the running process does not have.
    pub no_handler_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy {
            delay_first: Duration::from_secs(1),
            delay_max: Duration::from_secs(30 * 60),
            counted_max: 30,
            uncounted_max: 100,
            age_max: Duration::from_secs(24 * 60 * 60),
            not_now_min: Duration::from_millis(100),
            not_now_max: Duration::from_secs(24 * 60 * 60),
            no_handler_delay: Duration::from_secs(10),
        }
    }
}
