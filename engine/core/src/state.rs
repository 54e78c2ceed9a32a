//! The state of the core, and the one way in which it changes: [`State::step`].
//!
//! What is kept: the watchers and their index, the plugins, the open jobs that are in memory, the
//! lanes they wait in, timers, and the edge of the audit's tree. All of it can be made again from the
//! store; nothing here is the only copy of anything once its batch is on the disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axwatch_model::{
    Ancestor, BudgetRow, BudgetScope, Counters, CursorNumber, CursorRow, HandlerChangeRow,
    HandlerName, HandlerRow, HandlerSpendRow, HoldRow, JobEntryRow, JobId, JobNumber, JobRow,
    LaneKey, LeafNumber, Mono, Now, Owner, PassRow, Place, PluginName, PluginRow, RefusedRow,
    RevisionRow, RouteRow, ScheduleId, ScheduleRow, ScheduleRunRow, Seq, SpendRow, Timestamp,
    WatcherKey, WatcherNumber, WatcherRow, WatcherState,
};
use axwatch_query::{Aliases, WatcherIndex};
use hashbrown::HashMap;

use crate::announcing::Announcing;
use crate::asked::{QueueClock, Sources};
use crate::audit::{Hash, Tree};
use crate::breaker::Breaker;
use crate::budget::{Budgets, Held};
use crate::event::{Answer, Effect, Event, SetAside};
use crate::holds::Holding;
use crate::kin::Kin;
use crate::late::Late;
use crate::limits::{Limit, Pace, Starting};
use crate::loops::LoopWatch;
use crate::names::{Names, Watchers};
use crate::passes::{PassWrites, Passes};
use crate::plugins::Doubted;
use crate::policy::Policy;
use crate::prepared::Prepared;
use crate::record::{EngineStarted, Quarantined, Record, Retained};
use crate::schedules::Schedules;
use crate::stats::MatchingTotals;
use crate::stored::StoredHandlers;

/// What the store holds when the engine starts.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// How far the log has been matched.
    pub matched_seq: Seq,
    /// How far what claims say of stored handlers was heeded: at least as far.
    pub heeded_seq: Seq,
    /// The last attestation.
    pub head: Seq,
    /// The last job.
    pub last_job: JobNumber,
    /// No fire below this number is open.
    pub open_jobs_from: JobNumber,
    /// The jobs that are over and have an open one below them.
    pub above: Vec<Ancestor>,
    /// All watchers, retired ones included, or those that [`Restoring::watchers`] is not told of.
    pub watchers: Vec<WatcherRow>,
    /// What they have done.
    pub counters: Vec<(WatcherNumber, Counters)>,
    /// The passes that have not ended, with where each is.
    pub passes: Vec<(PassRow, Seq)>,
    /// The holds that have not ended, those whose jobs are let go, and the last of each watcher.
    pub holds: Vec<HoldRow>,
    /// The aliases that the claims up to `matched_seq` left.
    pub aliases: Aliases,
    /// All announced handlers.
    pub handlers: Vec<HandlerRow>,
    /// The latest change of every handler that was ever stored.
    pub stored_handlers: Vec<HandlerChangeRow>,
    /// The plugins that were ever up or disabled.
    pub plugins: Vec<PluginRow>,
    /// All schedules, retired ones included.
    pub schedules: Vec<ScheduleRow>,
    /// The budgets that were set with a command.
    pub budgets: Vec<BudgetRow>,
    /// What was spent, by handler and minute, as far back as there are rows.
    pub spends: Vec<SpendRow>,
    /// What is known of the cost of each handler.
    pub handler_spends: Vec<HandlerSpendRow>,
    /// All announced routes.
    pub routes: Vec<(PluginName, RouteRow)>,
    /// What of the last announcements was not taken.
    pub refused: Vec<(PluginName, Vec<RefusedRow>)>,
    /// The audit's tree.
    pub tree: Tree,
}

/// What one batch writes.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    /// Watchers whose queued jobs are withdrawn, with the lowest number and the reason; before `jobs`.
    pub cancelled: Vec<(WatcherNumber, JobNumber, String)>,
    /// Jobs that are cancelled and of which only the table has the row, by number; none of them is among
    /// `jobs`.
    pub withdrawn: Vec<Withdrawn>,
    /// The present row of each new or changed job. Only new ones have their payloads, which never change.
    pub jobs: Vec<JobRow>,
    /// New log entries of jobs, each once and in order.
    pub entries: Vec<JobEntryRow>,
    /// The present row of each new or changed watcher.
    pub watchers: Vec<WatcherRow>,
    /// New revisions of watchers.
    pub revisions: Vec<RevisionRow>,
    /// The present row of each new or changed pass.
    pub passes: Vec<PassRow>,
    /// Passes that are over and leave no row.
    pub passes_gone: Vec<(WatcherNumber, u32)>,
    /// New places of cursors.
    pub cursors: Vec<CursorRow>,
    /// Cursors that nobody needs any more.
    pub cursors_gone: Vec<CursorNumber>,
    /// The present row of each new or changed hold.
    pub holds: Vec<HoldRow>,
    /// Watchers whose present revision ended, with the last claim that it was asked about.
    pub retired: Vec<(WatcherNumber, u64, Seq)>,
    /// For each plugin named, all its handlers.
    pub handlers: Vec<(PluginName, Vec<HandlerName>)>,
    /// What claims changed of stored handlers, in their order.
    pub handler_changes: Vec<HandlerChangeRow>,
    /// The present row of each plugin that came up, or of which something else changed.
    pub plugins: Vec<PluginRow>,
    /// The present row of each new or changed schedule.
    pub schedules: Vec<ScheduleRow>,
    /// What became of nominal times of schedules, in order.
    pub runs: Vec<ScheduleRunRow>,
    /// Schedules of which such rows may be taken away that were written before a moment.
    pub runs_before: Vec<(ScheduleId, Timestamp)>,
    /// The present row of each budget that was set.
    pub budgets: Vec<BudgetRow>,
    /// The present row of each handler and minute that something was called or spent in.
    pub spends: Vec<SpendRow>,
    /// Such rows of minutes before this one may be taken away.
    pub spends_from: Option<i64>,
    /// The present row of each handler of whose cost something else is known.
    pub handler_spends: Vec<HandlerSpendRow>,
    /// For each plugin named, all its routes.
    pub routes: Vec<(PluginName, Vec<RouteRow>)>,
    /// For each plugin named, what of its last announcement was not taken.
    pub refused: Vec<(PluginName, Vec<RefusedRow>)>,
    /// The audit's part.
    pub audit: Option<AuditWrites>,
    /// How far the log has been matched, when that changed.
    pub matched_seq: Option<Seq>,
    /// How far what claims say of stored handlers was heeded, when that changed and is ahead of matching.
    pub heeded_seq: Option<Seq>,
    /// No fire below this number is open, when that moved far enough.
    pub open_jobs_from: Option<JobNumber>,
    /// Counters, when it is time to write them, with the records that they hold the effect of.
    pub counters: Option<(LeafNumber, Vec<(WatcherNumber, Counters)>)>,
}

/// A job that waited in the table only and is cancelled: what changes in its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// Which job.
    pub number: JobNumber,
    /// The record that tells of it, to be added to those of the job.
    pub leaf: LeafNumber,
    /// When.
    pub at: Timestamp,
    /// What its `error` then says.
    pub reason: String,
}

/// The audit's part of a batch.
#[derive(Debug, Clone)]
pub struct AuditWrites {
    /// The number of the first record.
    pub first_leaf: LeafNumber,
    /// How many.
    pub count: u64,
    /// The records, one a line.
    pub records: String,
    /// The nodes that they completed.
    pub nodes: Vec<u8>,
    /// The root after them.
    pub head: Hash,
}

/// The state of the core.
pub struct State {
    pub(crate) policy: Policy,
    pub(crate) watchers: Watchers,
    pub(crate) names: Names,
    pub(crate) last_watcher: WatcherNumber,
    /// All watchers that have a handler for which nobody answers, and perhaps some more.
    pub(crate) unbound: BTreeSet<WatcherNumber>,
    /// Which rows of watchers each owner has.
    pub(crate) rows_of: BTreeMap<Owner, OwnedRows>,
    /// Where new watchers begin: higher than 0 when the rows of some were lost, whose job ids must not
    /// come again.
    pub(crate) first_generation: u32,
    /// The watchers that ride the commit.
    pub(crate) index: WatcherIndex,
    /// What it took to match claims since the start.
    pub(crate) matching_totals: MatchingTotals,
    /// Those that do not, and replays.
    pub(crate) passes: Passes,
    /// The words that are one, for the next claim to be matched.
    pub(crate) aliases: Aliases,
    pub(crate) plugins: BTreeMap<PluginName, PluginState>,
    /// What of their announcements is yet to be taken, at most one of each plugin, in turn.
    pub(crate) announcing: VecDeque<Announcing>,
    /// Handlers whose code is a claim.
    pub(crate) stored: StoredHandlers,
    /// What the claims up to here say of them was heeded: perhaps more than has been matched.
    pub(crate) heeded_seq: Seq,
    /// Who answers for a handler may be another than when watchers and lanes were last bound.
    pub(crate) handlers_changed: bool,
    pub(crate) lanes: HashMap<LaneId, Lane>,
    pub(crate) lane_ids: BTreeMap<LaneKey, LaneId>,
    /// Sorts before every handler; kept so that looking for the lanes of a watcher allocates nothing.
    pub(crate) no_handler: Arc<str>,
    pub(crate) last_lane: LaneId,
    pub(crate) jobs: BTreeMap<JobNumber, Job>,
    /// No fire in memory has a lower number.
    pub(crate) fires_from: JobNumber,
    pub(crate) last_job: JobNumber,
    /// Open jobs, in memory and in the table.
    pub(crate) open_jobs: u64,
    /// Those of them that plugins have asked for, by plugin.
    pub(crate) asked_open: BTreeMap<PluginName, u64>,
    /// Where the fires of lanes that wait in the table begin.
    pub(crate) spills: BTreeSet<(JobNumber, LaneId)>,
    /// Jobs that somebody paused, fires first, with their watchers.
    pub(crate) paused: BTreeMap<(bool, JobNumber), Option<WatcherNumber>>,
    /// Tells the places of jobs that no claim caused.
    pub(crate) queue_clock: QueueClock,
    pub(crate) sources: Sources,
    pub(crate) kin: Kin,
    /// Open jobs that are cancelled with one that they are a part of, and which one: all of them wait in the table,
    /// and nothing else becomes of them.
    pub(crate) doomed: BTreeMap<JobNumber, JobId>,
    pub(crate) schedules: Schedules,
    pub(crate) budgets: Budgets,
    /// Attempts that were told to stop and may still be under way, by job and attempt.
    pub(crate) stopping: BTreeMap<(JobNumber, u32), Stopping>,
    /// Those of them that nobody has been told of.
    pub(crate) to_stop: Vec<Effect>,
    /// Lanes that would read jobs back if there were room in memory.
    pub(crate) starved: BTreeSet<LaneId>,
    /// The last of them that was tried.
    pub(crate) starved_tried: LaneId,
    /// Jobs that are being read back, at most.
    pub(crate) reading: usize,
    pub(crate) timers: BTreeSet<(Mono, Timer)>,
    pub(crate) matched_seq: Seq,
    pub(crate) head: Seq,
    /// Attempts that started in the batch at hand.
    pub(crate) starting: Vec<Starting>,
    /// Attempts that are over and may yet be answered.
    pub(crate) late: Late,
    /// How long commits take.
    pub(crate) pace: Pace,
    /// Plugins whose lanes may have become startable in the step at hand.
    pub(crate) to_pump: BTreeSet<PluginName>,
    /// Watchers whose limit may let another attempt start, once those have been pumped.
    pub(crate) limits_to_call: BTreeSet<WatcherNumber>,
    /// Handlers whose last attempts failed, by plugin.
    pub(crate) breakers: BTreeMap<PluginName, BTreeMap<HandlerName, Breaker>>,
    /// Those of them that may let another attempt through, once all has been pumped.
    pub(crate) breakers_to_call: BTreeSet<(PluginName, HandlerName)>,
    /// Nothing starts any more: the engine is on its way out.
    pub(crate) draining: bool,
    /// Nothing starts for now: the disk is nearly full, and what runs needs the rest of it.
    pub(crate) disk_low: bool,
    /// Texts that were found to be no AX since the last step.
    pub(crate) unparsed: Vec<Effect>,
    pub(crate) tree: Tree,
    pub(crate) unwritten: Unwritten,
    recovering: bool,
    /// Watchers of the store whose text nothing has read yet, by number: nothing is matched as long as there are any.
    pub(crate) not_understood: VecDeque<WatcherNumber>,
    /// How many of them there were.
    pub(crate) to_understand: usize,
    /// While jobs are recovered: watchers with former holds that let go jobs which may be none any more.
    pub(crate) letting_go: BTreeSet<WatcherNumber>,
    pub(crate) open_jobs_from_written: JobNumber,
}

/// The rows of watchers of one owner.
#[derive(Debug, Default)]
pub(crate) struct OwnedRows {
    /// In whatever state, rising.
    pub numbers: Vec<WatcherNumber>,
    /// Those that never stood and that nobody names any more: the next new watcher takes one of them.
    pub spare: BTreeSet<WatcherNumber>,
}

impl OwnedRows {
    /// The owner has this row, perhaps since long ago.
    pub fn add(&mut self, number: WatcherNumber) {
        if self.numbers.last().is_none_or(|last| *last < number) {
            self.numbers.push(number);
        } else if let Err(at) = self.numbers.binary_search(&number) {
            self.numbers.insert(at, number);
        }
    }
}

/// What has changed since the last batch was taken.
#[derive(Default)]
pub(crate) struct Unwritten {
    pub cancelled: Vec<(WatcherNumber, JobNumber, String)>,
    /// Jobs that were cancelled in the table.
    pub withdrawn: BTreeMap<JobNumber, Withdrawn>,
    /// Jobs in memory whose row changed.
    pub jobs: BTreeSet<JobNumber>,
    /// Rows of jobs that left memory.
    pub released: BTreeMap<JobNumber, JobRow>,
    /// What new jobs carry. Once it is written, it is in the store only.
    pub payloads: BTreeMap<JobNumber, Arc<[u8]>>,
    pub entries: Vec<JobEntryRow>,
    pub watchers: BTreeSet<WatcherNumber>,
    pub revisions: Vec<RevisionRow>,
    pub retired: Vec<(WatcherNumber, u64, Seq)>,
    pub passes: PassWrites,
    pub holds: BTreeMap<(WatcherNumber, u32), HoldRow>,
    pub handlers: BTreeSet<PluginName>,
    pub handler_changes: Vec<HandlerChangeRow>,
    pub plugins: BTreeSet<PluginName>,
    pub schedules: BTreeSet<ScheduleId>,
    pub runs: Vec<ScheduleRunRow>,
    pub runs_before: BTreeMap<ScheduleId, Timestamp>,
    pub budgets: BTreeSet<BudgetScope>,
    pub routes: BTreeSet<PluginName>,
    pub refused: BTreeSet<PluginName>,
    pub matched: bool,
    pub heeded: bool,
    pub records: String,
    pub first_leaf: LeafNumber,
    pub record_count: u64,
    pub counters: BTreeSet<WatcherNumber>,
    pub counters_since: u64,
}

/// A watcher in memory.
pub(crate) struct Watcher {
    pub row: WatcherRow,
    /// How often its attempts may start, and which lanes wait for that.
    pub limit: Limit,
    pub counters: Counters,
    /// Of one that was ever held, or whose limit says never.
    pub held: Option<Box<Holding>>,
    /// Its fires are counted, because some might be those of a loop.
    pub loop_watch: Option<Box<LoopWatch>>,
}

impl Watcher {
    /// As the store has it, and as little as is known of one that has done nothing in this life of the engine.
    pub fn new(row: WatcherRow, counters: Counters) -> Watcher {
        Watcher { row, limit: Limit::default(), counters, held: None, loop_watch: None }
    }

    /// The id that people see: `{owner}-{local id}`.
    pub fn shown(&self) -> Arc<str> {
        self.row.key.shown()
    }

    /// Whether its owner wants it, and it is the one that people see under its id.
    pub fn stands(&self) -> bool {
        !matches!(self.row.state, WatcherState::Retired | WatcherState::Refused)
    }

    /// Whether it is asked about claims.
    pub fn is_matched(&self) -> bool {
        match self.row.state {
            WatcherState::Broken | WatcherState::Refused | WatcherState::Retired => false,
            // Muted by a person, or because its limit says never.
            WatcherState::Muted => self.hold().is_some(),
            // Paused, and its text is not understood any more.
            _ => !self
                .row
                .error
                .as_ref()
                .is_some_and(|error| error.starts_with(crate::registry::BROKEN)),
        }
    }

    /// The hold that lasts.
    pub fn hold(&self) -> Option<&HoldRow> {
        self.held.as_ref()?.hold.as_ref()
    }

    /// Former holds whose jobs are let go.
    pub fn let_go(&self) -> &[HoldRow] {
        self.held.as_ref().map_or(&[], |held| &held.let_go)
    }

    /// How long its fires were held, up to `now`.
    pub fn held_total(&self, now: Mono) -> Duration {
        self.held.as_ref().map_or(Duration::ZERO, |held| {
            held.before + held.since.map_or(Duration::ZERO, |since| now.since(since))
        })
    }

    /// Counts the time in which its fires are held, now that its state may be another.
    pub fn note_held(&mut self, now: Mono) {
        if matches!(self.row.state, WatcherState::Paused | WatcherState::Muted) {
            self.held.get_or_insert_default().since.get_or_insert(now);
        } else if let Some(held) = &mut self.held {
            held.no_longer(now);
        }
    }
}

/// A plugin in memory: known by its handlers even when it is away.
#[derive(Default)]
pub(crate) struct PluginState {
    /// What the store has of it; `None` as long as there is nothing to keep.
    pub row: Option<PluginRow>,
    pub incarnation: u64,
    pub up: bool,
    pub handlers: BTreeSet<HandlerName>,
    pub routes: BTreeSet<RouteRow>,
    /// What of its last announcement was not taken.
    pub refused: Vec<RefusedRow>,
    /// Fingerprints of the watchers that were refused of it, and why: they are not told of again.
    pub told: BTreeSet<u64>,
    pub max_in_flight: u32,
    /// Attempts that it may have in flight now.
    pub slots: u32,
    pub running: BTreeSet<JobNumber>,
    /// Attempts that were told to stop and have not ended.
    pub stopping: BTreeSet<(JobNumber, u32)>,
    /// Of both.
    pub retries_running: u32,
    /// Lanes with a job that could start, in turn.
    pub turns: VecDeque<LaneId>,
    /// What the running process announced: of `handlers`, those that it answers for now.
    pub announced: BTreeSet<HandlerName>,
    /// What its last announcement lacks, while that is not believed.
    pub doubted: Option<Doubted>,
    /// Jobs that may have crashed it, each to be run with nothing else beside it.
    pub suspects: VecDeque<JobNumber>,
    /// The one of them that is running.
    pub suspect_running: Option<JobNumber>,
    /// How much other work may start before the next of them has its turn.
    pub others_left: u32,
    /// Its connection broke with several attempts under way; nothing starts until it is up again, or
    /// until then.
    pub broken_until: Option<Mono>,
    /// Since when it is away, and how long it was before.
    pub away_since: Option<Mono>,
    pub away: Duration,
    /// It runs one job at a time until then, because a loop is looked for.
    pub serial_until: Option<Mono>,
}

impl PluginState {
    /// Attempts that it has in flight at this moment.
    pub fn in_flight(&self) -> usize {
        self.running.len() + self.stopping.len()
    }

    /// Attempts that it may have in flight at this moment.
    pub fn slots_now(&self) -> u32 {
        if self.serial_until.is_some() { 1 } else { self.slots }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct LaneId(pub u64);

/// A lane with open jobs.
pub(crate) struct Lane {
    pub key: LaneKey,
    pub bare: HandlerName,
    pub plugin: Option<PluginName>,
    /// First attempts, in the order of their places.
    pub first: VecDeque<Place>,
    /// Retries whose time has come.
    pub again: VecDeque<JobNumber>,
    /// Retries whose time has not.
    pub delayed: BTreeSet<JobNumber>,
    /// Attempts under way.
    pub running: u64,
    /// Open jobs that somebody paused.
    pub paused: u64,
    /// More jobs wait in the table, from this place on.
    pub spill: Option<Place>,
    /// So many of them at most are being read.
    pub loading: Option<usize>,
    /// What is being read was withdrawn meanwhile.
    pub discard_loaded: bool,
    /// The first job that went to the table while others were being read.
    pub spilled_meanwhile: Option<Place>,
    /// Jobs that ended while others were being read: the rows may still say that they wait.
    pub ended_meanwhile: BTreeSet<JobNumber>,
    /// It stands in its plugin's turns.
    pub in_turn: bool,
    /// It waits for its watcher's limit.
    pub limited: bool,
    /// It waits for its handler's breaker, with this place in the line.
    pub breaker_ticket: Option<u64>,
    /// A budget holds it, or did when its last attempt started.
    pub budget: Option<Box<Held>>,
    /// How long it has stood in lines of budgets before.
    pub budget_held: Duration,
    /// Open jobs, in memory and in the table.
    pub open: u64,
}

impl Lane {
    /// Open jobs that wait for their turn, in memory and in the table.
    pub fn waiting(&self) -> u64 {
        self.open.saturating_sub(self.running + self.paused)
    }

    /// How long it has stood in lines of budgets, in all.
    pub fn budget_held(&self, now: Mono) -> Duration {
        let waits = self.budget.as_ref().map_or(Duration::ZERO, |held| held.waited(now));
        self.budget_held + waits
    }

    /// Its first attempts in memory.
    pub fn numbers(&self) -> impl Iterator<Item = JobNumber> {
        self.first.iter().map(|place| place.number)
    }

    /// Whether it stands in the line of a budget.
    pub fn waits_for_budget(&self) -> bool {
        self.budget.as_ref().is_some_and(|held| held.waits())
    }

    /// Retries in memory.
    pub fn retries(&self) -> usize {
        self.again.len() + self.delayed.len()
    }

    /// Takes a first attempt out of the line, mostly the first of it.
    pub fn leave_line(&mut self, number: JobNumber) {
        if let Some(at) = self.first.iter().position(|place| place.number == number) {
            self.first.remove(at);
        }
    }

    /// Takes a retry out of those whose time has come, mostly the first of them.
    pub fn leave_retries(&mut self, number: JobNumber) {
        if let Some(at) = self.again.iter().position(|other| *other == number) {
            self.again.remove(at);
        }
    }

    /// Puts a first attempt in its place. Mostly that is the last.
    pub fn stand_in_line(&mut self, place: Place) {
        match self.first.back() {
            Some(last) if place < *last => {
                let before = self.first.partition_point(|other| *other < place);
                self.first.insert(before, place);
            }
            _ => self.first.push_back(place),
        }
    }
}

/// An open job in memory.
pub(crate) struct Job {
    /// Without a payload.
    pub row: JobRow,
    pub lane: LaneId,
    pub phase: Phase,
    /// The audit has its `limited`.
    pub limited_noted: bool,
    /// It may have crashed its plugin, and runs with nothing else beside it.
    pub suspect: bool,
    /// How long it has been failing, the time left out in which nobody could have run it.
    pub age: Duration,
    /// When that was last reckoned.
    pub reckoned: Mono,
    /// How long its plugin had been away, its watcher held and its lane held by a budget by then.
    pub idle_mark: Duration,
    /// What its attempts had cost when the last one began.
    pub cost_before: Option<f64>,
    /// How many records of the audit its row knew of when the last attempt had begun.
    pub leaves_before: usize,
}

impl Job {
    /// Whether its attempt may have reached its plugin by now.
    pub fn has_left(&self, now: Mono) -> bool {
        matches!(self.phase, Phase::Running { left, .. } if left.is_none_or(|left| left <= now))
    }
}

/// An attempt that was told to stop.
#[derive(Debug, Clone)]
pub(crate) struct Stopping {
    pub plugin: PluginName,
    pub incarnation: u64,
    pub handler: HandlerName,
    pub retry: bool,
    /// When it left, if it had when it was told to stop.
    pub left: Option<Mono>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for its first attempt.
    First,
    /// Waits for its turn to be tried again.
    Again,
    /// Waits for its turn to be tried alone.
    Suspect,
    /// Waits until its next attempt is due.
    Delayed(Mono),
    /// An attempt is under way; `left` is when it left, known once its batch is on the disk, and `version` the
    /// claim with its code, 0 without one.
    Running { incarnation: u64, retry: bool, left: Option<Mono>, version: Seq },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The first that waits for a watcher's limit may ask again.
    Limit(WatcherNumber),
    /// A job that was put off is due.
    Job(JobNumber),
    /// A broken connection has had its time.
    Plugin(PluginName),
    /// A handler whose breaker is open may be tried again.
    Breaker(PluginName, HandlerName),
    /// An announcement that was not believed is believed now.
    Doubt(PluginName),
    /// A mute may be over.
    Mute(WatcherNumber),
    /// A loop would have shown itself by now.
    LoopWatch(WatcherNumber),
    /// A nominal time of a schedule may have come.
    Schedules,
    /// The first that waits for a budget may ask again.
    Budget(BudgetScope),
}

/// Counters are written once so many records have been added since they were, or so many changed.
const COUNTERS_WRITTEN_AFTER_RECORDS: u64 = 16_384;
const COUNTERS_WRITTEN_AFTER_CHANGES: usize = 1_024;

/// Rows of jobs in one batch; the claim that passes it is the last.
const BATCH_JOBS_MAX: usize = 16_384;

/// For so many watchers there is room from the start, at most: a number says little of how many stand.
const WATCHERS_EXPECTED_MAX: usize = 1 << 20;

/// The low-water mark of open jobs is written when it moved so far.
const OPEN_JOBS_FROM_STEP: u64 = 256;

/// A state that is being made from what the store holds, and does not have all watchers yet.
pub struct Restoring {
    state: State,
    counters: HashMap<WatcherNumber, Counters>,
    holds: Vec<HoldRow>,
    passes: Vec<(PassRow, Seq)>,
}

impl Restoring {
    /// With all but the watchers that [`Restoring::watchers`] brings.
    #[must_use]
    pub fn new(policy: Policy, snapshot: Snapshot, now: Now) -> Restoring {
        let first_leaf = LeafNumber(snapshot.tree.size());
        let mut state = State {
            policy,
            watchers: Watchers::default(),
            names: Names::default(),
            unbound: BTreeSet::new(),
            last_watcher: WatcherNumber(0),
            rows_of: BTreeMap::new(),
            first_generation: 0,
            index: WatcherIndex::default(),
            matching_totals: MatchingTotals::default(),
            passes: Passes::default(),
            aliases: snapshot.aliases,
            plugins: BTreeMap::new(),
            announcing: VecDeque::new(),
            stored: StoredHandlers::restored(snapshot.stored_handlers),
            heeded_seq: snapshot.heeded_seq.max(snapshot.matched_seq),
            handlers_changed: true,
            lanes: HashMap::new(),
            lane_ids: BTreeMap::new(),
            no_handler: "".into(),
            last_lane: LaneId(0),
            jobs: BTreeMap::new(),
            fires_from: JobNumber(0),
            last_job: snapshot.last_job,
            open_jobs: 0,
            asked_open: BTreeMap::new(),
            spills: BTreeSet::new(),
            paused: BTreeMap::new(),
            queue_clock: QueueClock::new(now),
            sources: Sources::default(),
            kin: Kin::new(&snapshot.above),
            doomed: BTreeMap::new(),
            schedules: Schedules::default(),
            budgets: Budgets::new(now),
            stopping: BTreeMap::new(),
            to_stop: Vec::new(),
            starved: BTreeSet::new(),
            starved_tried: LaneId(0),
            reading: 0,
            timers: BTreeSet::new(),
            matched_seq: snapshot.matched_seq,
            head: snapshot.head,
            starting: Vec::new(),
            late: Late::default(),
            pace: Pace::default(),
            to_pump: BTreeSet::new(),
            limits_to_call: BTreeSet::new(),
            breakers: BTreeMap::new(),
            breakers_to_call: BTreeSet::new(),
            draining: false,
            disk_low: false,
            unparsed: Vec::new(),
            tree: snapshot.tree,
            unwritten: Unwritten { first_leaf, ..Unwritten::default() },
            recovering: true,
            not_understood: VecDeque::new(),
            to_understand: 0,
            letting_go: BTreeSet::new(),
            open_jobs_from_written: snapshot.open_jobs_from,
        };
        for handler in snapshot.handlers {
            state.plugin_entry(&handler.plugin).handlers.insert(handler.name);
        }
        for row in snapshot.plugins {
            let plugin = row.name.clone();
            state.plugin_entry(&plugin).row = Some(row);
        }
        state.restore_schedules(snapshot.schedules, now);
        let configured = state.policy.budgets.clone();
        let spends = (snapshot.spends, snapshot.handler_spends);
        state.budgets.restore(snapshot.budgets, spends, &configured);
        for (plugin, route) in snapshot.routes {
            state.plugin_entry(&plugin).routes.insert(route);
        }
        for (plugin, refused) in snapshot.refused {
            state.plugin_entry(&plugin).refused = refused;
        }
        for plugin in state.plugins.values_mut() {
            plugin.away_since = Some(now.mono);
        }
        let epoch = state.policy.epoch;
        let store = state.policy.store_id;
        let started = EngineStarted { at: now.wall, epoch, store, r#type: "engine_started" };
        state.record(&Record::EngineStarted(started));
        state.warn_of_all();
        let mut restoring = Restoring {
            state,
            counters: snapshot.counters.into_iter().collect(),
            holds: snapshot.holds,
            passes: snapshot.passes,
        };
        restoring.watchers(snapshot.watchers, now);
        restoring
    }

    /// There are about as many watchers as this number says: the last that any ever had.
    pub fn expect_watchers(&mut self, last: WatcherNumber) {
        let many = usize::try_from(last.0).unwrap_or(usize::MAX).min(WATCHERS_EXPECTED_MAX);
        self.state.watchers.reserve(many);
        self.state.names.reserve(many);
    }

    /// Takes more of the watchers, by number, after those that it has.
    pub fn watchers(&mut self, rows: Vec<WatcherRow>, now: Now) {
        self.take(Prepared::new(rows, now));
    }

    /// The same of those that were prepared.
    pub fn take(&mut self, watchers: Prepared) {
        self.state.place(watchers, &self.counters);
    }

    /// All watchers are there. What they wait for is not understood yet: [`Event::Understand`].
    #[must_use]
    pub fn finish(self, now: Now) -> State {
        let Restoring { mut state, holds, passes, .. } = self;
        state.restore_holds(holds, now);
        state.restore_passes(passes);
        state.to_understand = state.not_understood.len();
        state
    }
}

impl State {
    /// The state that follows from what the store holds. Jobs come later, with [`Event::Recovered`].
    #[must_use]
    pub fn new(policy: Policy, snapshot: Snapshot, now: Now) -> State {
        let mut state = Restoring::new(policy, snapshot, now).finish(now);
        state.understand_next(usize::MAX, now);
        state
    }

    fn understand_next(&mut self, watchers: usize, now: Now) {
        let upto = watchers.min(self.not_understood.len());
        let next: Vec<_> = self.not_understood.drain(..upto).collect();
        next.into_iter().for_each(|number| self.understand(number, now));
    }

    /// Watchers up to this number have been: none of their numbers is given to another.
    pub fn had_watchers_upto(&mut self, number: WatcherNumber) {
        self.last_watcher = self.last_watcher.max(number);
    }

    /// New watchers begin at this generation from now on: the rows of some were lost, and a new one may be
    /// one of them, under whose job ids work was done.
    pub fn begin_generations_at(&mut self, generation: u32) {
        self.first_generation = self.first_generation.max(generation);
    }

    fn record_quarantined(&mut self, rows: &[SetAside], now: Now) {
        for SetAside { table, row, reason } in rows {
            let (at, r#type) = (now.wall, "quarantined");
            self.record(&Record::Quarantined(Quarantined { at, reason, row, table, r#type }));
        }
    }

    /// What follows from an event: the state changes, and the effects are to be let out once the
    /// batch is on the disk, in their order.
    pub fn step(&mut self, event: Event, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.pace.begin(now.mono);
        self.budgets.begin(now);
        match event {
            Event::Match { stored } => self.match_claim(&stored, now, &mut effects),
            Event::Deferred { stored } => {
                self.head = stored.seq;
                self.heed_deferred(&stored, now);
            }
            Event::Heed { claims, upto } => self.heed_before(&claims, upto, now),
            Event::Understand { watchers } => {
                self.understand_next(watchers, now);
            }
            // These are only noted: what may start now starts with the next event.
            Event::Missing { upto } => {
                self.matched_seq = self.matched_seq.max(upto.min(self.head));
                self.heeded_seq = self.heeded_seq.max(self.matched_seq);
                self.unwritten.matched = true;
                return effects;
            }
            Event::Quarantined { rows } => {
                self.record_quarantined(&rows, now);
                return effects;
            }
            Event::Retained { before, below, claims, jobs } => {
                let (at, r#type) = (now.wall, "retained");
                let retained = Retained { at, before, below, claims, jobs, r#type };
                self.record(&Record::Retained(retained));
                return effects;
            }
            Event::Segment { after, upto, rows, aliases } => {
                self.match_segment(after, upto, &rows, aliases, now, &mut effects);
            }
            Event::PluginUp {
                request,
                plugin,
                incarnation,
                version,
                max_in_flight,
                registration,
            } => {
                self.plugin_up(
                    request,
                    &plugin,
                    incarnation,
                    version,
                    max_in_flight,
                    registration,
                    now,
                    &mut effects,
                );
            }
            Event::Announced { request, plugin, incarnation, registration } => {
                self.announced(request, &plugin, incarnation, registration, now, &mut effects);
            }
            Event::TakeAnnounced => self.take_announced(now, &mut effects),
            Event::PluginDisabled { request, plugin, by } => {
                self.disable_plugin(&plugin, &by, now, &mut effects);
                effects.push(Effect::Reply { request, answer: Answer::Plugin(Ok(())) });
            }
            Event::PluginEnabled { request, plugin, by } => {
                self.enable_plugin(&plugin, &by, now);
                effects.push(Effect::Reply { request, answer: Answer::Plugin(Ok(())) });
            }
            Event::PluginState(transition) => {
                self.record_transition(&transition, now);
                return effects;
            }
            Event::PluginDown { plugin, incarnation, reason, crashed } => {
                self.plugin_down(&plugin, incarnation, &reason, crashed, now, &mut effects);
            }
            Event::AttemptEnded { job, attempt, incarnation, ended } => {
                self.attempt_ended(job, attempt, incarnation, ended, now, &mut effects);
            }
            Event::Declare { request, declaration } => {
                let answer = self.declare_by_user(declaration, now);
                effects.push(Effect::Reply { request, answer });
            }
            Event::Command { request, watcher, command } => {
                let answer = self.command(&watcher, command, now);
                effects.push(Effect::Reply { request, answer });
            }
            Event::Enqueue { request, asked } => {
                let answer = self.enqueue(*asked, now);
                effects.push(Effect::Reply { request, answer });
            }
            Event::Redrive { request, row, above } => {
                let answer = self.redrive(*row, &above, now);
                effects.push(Effect::Reply { request, answer });
            }
            Event::Cancel { request, row, by } => {
                let answer = self.cancel(*row, &by, now);
                effects.push(Effect::Reply { request, answer });
            }
            Event::PauseJob { request, row, by } => {
                let answer = self.pause_job(*row, &by, now);
                effects.push(Effect::Reply { request, answer });
            }
            Event::ResumeJob { request, row, by } => {
                let answer = self.resume_job(*row, &by, now);
                effects.push(Effect::Reply { request, answer });
            }
            Event::Progress { request, report } => {
                let heard = self.take_report(*report, now, &mut effects);
                effects.push(Effect::Reply { request, answer: Answer::Heard(heard) });
            }
            Event::Discard { request, row } => {
                let answer = self.discard(*row, now, &mut effects);
                effects.push(Effect::Reply { request, answer });
            }
            Event::CreateSchedule { request, asked } => {
                let answer = self.create_schedule(*asked, now);
                effects.push(Effect::Reply { request, answer });
            }
            Event::CommandSchedule { request, schedule, command, by } => {
                let answer = self.command_schedule(schedule, command, &by, now);
                effects.push(Effect::Reply { request, answer });
            }
            Event::SetBudget { request, scope, change, by } => {
                let answer = self.set_budget(scope, change, &by);
                effects.push(Effect::Reply { request, answer });
            }
            Event::Loaded { lane, rows } => self.loaded(&lane, rows, now, &mut effects),
            Event::Recovered { rows } => self.recovered(rows, now, &mut effects),
            Event::RecoveredAsked { jobs } => self.recovered_asked(&jobs, now),
            Event::Committed => {
                self.committed(now.mono, &mut effects);
                // What may start now starts in the next batch, whose commit it waits for.
                return effects;
            }
            Event::Drain => self.draining = true,
            Event::DiskLow(low) => self.disk_low(low),
            Event::Tick => {}
        }
        self.cancel_more(now);
        self.run_timers(now, &mut effects);
        self.wake_passes(now);
        self.run_schedules(now);
        self.pump(now, &mut effects);
        self.load_starved(&mut effects);
        effects.append(&mut self.unparsed);
        effects.append(&mut self.to_stop);
        effects.append(&mut self.budgets.warnings);
        effects
    }

    /// When [`Event::Tick`] is next worth telling; `None` while nothing waits for time. At once where a batch had
    /// no room for all that is to be cancelled.
    #[must_use]
    pub fn next_wake(&self) -> Option<Mono> {
        match self.doomed.is_empty() {
            true => self.timers.first().map(|(at, _)| *at),
            false => Some(Mono(0)),
        }
    }

    /// Whether a job was cancelled with one that it is a part of, and its row does not say so yet.
    #[must_use]
    pub fn is_being_cancelled(&self, job: JobNumber) -> bool {
        self.doomed.contains_key(&job)
    }

    /// How far the log has been matched.
    #[must_use]
    pub fn matched_seq(&self) -> Seq {
        self.matched_seq
    }

    /// How far what claims say of stored handlers was heeded.
    #[must_use]
    pub fn heeded_seq(&self) -> Seq {
        self.heeded_seq
    }

    /// Open jobs, in memory and in the table.
    #[must_use]
    pub fn open_jobs(&self) -> u64 {
        self.open_jobs
    }

    /// Open jobs in memory.
    #[must_use]
    pub fn jobs_in_memory(&self) -> usize {
        self.jobs.len()
    }

    /// Whether more claims may be matched: not while too many jobs are open, nor before it is known what all
    /// watchers wait for.
    #[must_use]
    pub fn may_match(&self) -> bool {
        self.is_understood() && self.has_room_for_jobs()
    }

    /// Whether another job may be open.
    pub(crate) fn has_room_for_jobs(&self) -> bool {
        self.open_jobs < self.policy.bounds.open_jobs_max
    }

    /// Whether the texts of all watchers have been read: if not, there is more for [`Event::Understand`].
    #[must_use]
    pub fn is_understood(&self) -> bool {
        self.not_understood.is_empty()
    }

    /// Whether the batch at hand has so many new jobs that no further claim should be matched in it.
    #[must_use]
    pub fn batch_is_full(&self) -> bool {
        self.unwritten.jobs.len() + self.unwritten.released.len() >= BATCH_JOBS_MAX
    }

    /// The same for passes, which leave half of it to live fires.
    pub(crate) fn batch_is_half_full(&self) -> bool {
        self.unwritten.jobs.len() + self.unwritten.released.len() >= BATCH_JOBS_MAX / 2
    }

    /// The last job's number.
    #[must_use]
    pub fn last_job(&self) -> JobNumber {
        self.last_job
    }

    /// Records in the audit, those of the batch at hand included.
    #[must_use]
    pub fn audit_size(&self) -> LeafNumber {
        LeafNumber(self.tree.size())
    }

    /// The watchers whose fires wait because they are paused or muted.
    #[must_use]
    pub fn paused(&self) -> Vec<WatcherNumber> {
        let watchers = self.watchers.values().map(|watcher| &watcher.row);
        let paused =
            watchers.filter(|row| matches!(row.state, WatcherState::Paused | WatcherState::Muted));
        let mut paused: Vec<_> = paused.map(|row| row.number).collect();
        paused.sort_unstable();
        paused
    }

    /// The lanes that a budget holds back at this moment.
    #[must_use]
    pub fn held_by_budgets(&self) -> Vec<LaneKey> {
        let held = self.lanes.values().filter(|lane| lane.waits_for_budget());
        held.map(|lane| lane.key.clone()).collect()
    }

    /// Takes what the batch at hand writes. `finally` writes counters and marks whatever their age.
    pub fn take_writes(&mut self, finally: bool) -> Writes {
        let counters = self.take_counters(finally);
        let open_jobs_from = self.take_open_jobs_from(finally);
        let audit = self.take_audit();
        let unwritten = &mut self.unwritten;
        let mut jobs: Vec<_> = std::mem::take(&mut unwritten.released).into_values().collect();
        let changed = std::mem::take(&mut unwritten.jobs);
        jobs.extend(
            changed.iter().filter_map(|number| self.jobs.get(number)).map(|job| job.row.clone()),
        );
        jobs.sort_unstable_by_key(|row| row.number);
        let mut payloads = std::mem::take(&mut unwritten.payloads);
        jobs.iter_mut().for_each(|row| row.payload = payloads.remove(&row.number));
        let watchers = std::mem::take(&mut unwritten.watchers);
        let plugins = std::mem::take(&mut unwritten.plugins);
        let schedules = std::mem::take(&mut unwritten.schedules);
        let routes = std::mem::take(&mut unwritten.routes);
        let refused = std::mem::take(&mut unwritten.refused);
        let handlers = std::mem::take(&mut unwritten.handlers);
        let passed = std::mem::take(&mut unwritten.passes);
        let (passes, cursors) = self.passes.rows_of(&passed);
        let budgets = std::mem::take(&mut unwritten.budgets);
        self.schedules.begin_batch();
        let (spends, handler_spends, spends_from) = self.budgets.take_rows();
        Writes {
            cancelled: std::mem::take(&mut unwritten.cancelled),
            withdrawn: std::mem::take(&mut unwritten.withdrawn).into_values().collect(),
            jobs,
            entries: std::mem::take(&mut unwritten.entries),
            watchers: watchers
                .iter()
                .filter_map(|number| self.watchers.get(number))
                .map(|watcher| watcher.row.clone())
                .collect(),
            revisions: std::mem::take(&mut unwritten.revisions),
            retired: std::mem::take(&mut unwritten.retired),
            passes,
            passes_gone: passed.passes_gone.into_iter().collect(),
            cursors,
            cursors_gone: passed.cursors_gone.into_iter().collect(),
            holds: std::mem::take(&mut unwritten.holds).into_values().collect(),
            handlers: handlers
                .into_iter()
                .map(|plugin| {
                    let names =
                        self.plugins.get(&plugin).map(|p| p.handlers.iter().cloned().collect());
                    (plugin, names.unwrap_or_default())
                })
                .collect(),
            handler_changes: std::mem::take(&mut unwritten.handler_changes),
            plugins: plugins
                .iter()
                .filter_map(|plugin| self.plugins.get(plugin)?.row.clone())
                .collect(),
            schedules: schedules.iter().filter_map(|id| self.schedules.row(id).cloned()).collect(),
            runs: std::mem::take(&mut unwritten.runs),
            runs_before: std::mem::take(&mut unwritten.runs_before).into_iter().collect(),
            budgets: budgets.iter().filter_map(|scope| self.budgets.row(scope).cloned()).collect(),
            spends,
            spends_from,
            handler_spends,
            routes: routes
                .into_iter()
                .filter_map(|plugin| {
                    let routes = self.plugins.get(&plugin)?.routes.iter().cloned().collect();
                    Some((plugin, routes))
                })
                .collect(),
            refused: refused
                .into_iter()
                .filter_map(|plugin| {
                    let refused = self.plugins.get(&plugin)?.refused.clone();
                    Some((plugin, refused))
                })
                .collect(),
            audit,
            matched_seq: std::mem::take(&mut unwritten.matched).then_some(self.matched_seq),
            heeded_seq: std::mem::take(&mut unwritten.heeded)
                .then_some(self.heeded_seq)
                .filter(|heeded| *heeded > self.matched_seq),
            open_jobs_from,
            counters,
        }
    }

    /// Adds the effect of audit records that the stored counters do not hold yet. For the start only.
    pub fn recount(&mut self, record: &str) {
        #[derive(serde::Deserialize)]
        struct Counted<'a> {
            at: Timestamp,
            r#type: &'a str,
            watcher: Option<std::borrow::Cow<'a, str>>,
            fires: Option<Vec<serde::de::IgnoredAny>>,
            #[serde(default)]
            let_go: bool,
            outcome: Option<&'a str>,
        }
        let Ok(counted) = serde_json::from_str::<Counted<'_>>(record) else { return };
        let number = counted.watcher.and_then(|shown| {
            let standing = self.names.shown(&shown, &self.watchers);
            standing.or_else(|| self.retired_as(&shown))
        });
        let Some(watcher) = number.and_then(|number| self.watchers.get_mut(&number)) else {
            return;
        };
        match counted.r#type {
            "matched" if !counted.let_go => {
                watcher.counters.matches += 1;
                watcher.counters.fires += counted.fires.map_or(0, |fires| fires.len() as u64);
                watcher.counters.last_fired_at = Some(counted.at);
            }
            "matched" | "loop_stopped" => watcher.counters.matches += 1,
            "attempt_ended" if counted.outcome == Some("failed") => watcher.counters.errors += 1,
            _ => return,
        }
        self.unwritten.counters.insert(watcher.row.number);
        self.unwritten.counters_since += 1;
    }

    /// The retired watcher that people saw under this id, which it has given up since.
    fn retired_as(&self, shown: &str) -> Option<WatcherNumber> {
        shown.match_indices('-').find_map(|(at, _)| {
            let (owner, local) = (shown[..at].parse().ok()?, shown[at + 1..].parse().ok()?);
            self.names.with_key(&WatcherKey { owner, local }, &self.watchers)
        })
    }

    /// Appends a record to the audit and says which number it has.
    pub(crate) fn record(&mut self, record: &Record<'_>) -> LeafNumber {
        let text = record.to_canonical();
        let leaf = self.tree.append(text.as_bytes());
        let unwritten = &mut self.unwritten;
        if unwritten.record_count > 0 {
            unwritten.records.push('\n');
        }
        unwritten.records.push_str(&text);
        unwritten.record_count += 1;
        unwritten.counters_since += 1;
        leaf
    }

    pub(crate) fn plugin_entry(&mut self, plugin: &PluginName) -> &mut PluginState {
        self.plugins.entry(plugin.clone()).or_default()
    }

    /// Whether not all jobs that an earlier life left have been told of.
    pub(crate) fn is_recovering(&self) -> bool {
        self.recovering
    }

    /// All jobs that an earlier life left have been told of.
    pub(crate) fn recovery_done(&mut self, now: Now) {
        self.recovering = false;
        for number in self.kin.recovery_done() {
            self.cancel_below(number, now);
        }
    }

    fn take_audit(&mut self) -> Option<AuditWrites> {
        let unwritten = &mut self.unwritten;
        if unwritten.record_count == 0 {
            return None;
        }
        let audit = AuditWrites {
            first_leaf: unwritten.first_leaf,
            count: unwritten.record_count,
            records: std::mem::take(&mut unwritten.records),
            nodes: self.tree.take_nodes(),
            head: self.tree.root(),
        };
        unwritten.record_count = 0;
        unwritten.first_leaf = LeafNumber(self.tree.size());
        Some(audit)
    }

    fn take_counters(
        &mut self,
        finally: bool,
    ) -> Option<(LeafNumber, Vec<(WatcherNumber, Counters)>)> {
        let unwritten = &mut self.unwritten;
        let due = unwritten.counters_since >= COUNTERS_WRITTEN_AFTER_RECORDS
            || unwritten.counters.len() >= COUNTERS_WRITTEN_AFTER_CHANGES;
        if !(due || finally && unwritten.counters_since > 0) {
            return None;
        }
        unwritten.counters_since = 0;
        let changed = std::mem::take(&mut unwritten.counters);
        let counters = changed
            .into_iter()
            .filter_map(|number| Some((number, self.watchers.get(&number)?.counters)))
            .collect();
        Some((LeafNumber(self.tree.size()), counters))
    }

    fn take_open_jobs_from(&mut self, finally: bool) -> Option<JobNumber> {
        if self.recovering {
            return None;
        }
        let in_memory = self.first_fire();
        let in_table = self.spills.first().map(|(number, _)| *number);
        let paused = self.paused.first_key_value().filter(|((is_asked, _), _)| !is_asked);
        let paused = paused.map(|((_, number), _)| *number);
        let open = in_memory.into_iter().chain(in_table).chain(paused);
        let from = open.min().unwrap_or(self.last_job.next());
        let written = self.open_jobs_from_written;
        let moved = from < written || from.0 >= written.0 + OPEN_JOBS_FROM_STEP;
        if !(moved || finally && from != written) {
            return None;
        }
        self.open_jobs_from_written = from;
        Some(from)
    }

    /// The fire in memory with the lowest number.
    fn first_fire(&mut self) -> Option<JobNumber> {
        let is_fire = |job: &Job| job.row.watcher.is_some();
        let found = self.jobs.range(self.fires_from..).find(|(_, job)| is_fire(job));
        let first = found.map(|(number, _)| *number);
        // Jobs that no claim caused are passed over once, not with each batch.
        self.fires_from = first.unwrap_or(self.last_job.next());
        first
    }
}
