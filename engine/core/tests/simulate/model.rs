//! What must be, worked out a second time and naively: from the claims, the declarations that were
//! accepted, and the audit's records, without a line of the core's code.
//!
//! [`Model::learn`] is told of every batch once it is in the tables, and holds the tables, the records
//! and the attempts that started to each other and to what it expects.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axwatch_core::{EnqueueAsk, Enqueued, Refusal, Start, WatcherCommand};
use axwatch_model::{
    Asked, Asker, Counters, HoldRow, JobNumber, JobRow, JobState, Mono, Now, Owner, PluginName,
    Seq, Timestamp, WatcherKey, WatcherNumber, WatcherState,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::plan::Wanted;
use crate::run::{key_of, plugin_watcher};
use crate::world::World;

/// Retries of the simulated engine: of a handler, of a plugin, and of all others.
pub const HANDLER_ATTEMPTS_MAX: u32 = 3;
pub const PLUGIN_ATTEMPTS_MAX: u32 = 6;
pub const PLUGIN_AGE_MAX: Duration = Duration::from_secs(40);
pub const ATTEMPTS_MAX: u32 = 8;
pub const AGE_MAX: Duration = Duration::from_secs(3_600);

/// What a batch was about, as far as its answers need it.
#[derive(Debug, Clone)]
pub enum Accepted {
    Declared { watcher: WatcherKey, wanted: Wanted, since: Option<u64> },
    Commanded { watcher: WatcherKey, command: WatcherCommand },
    Redriven { job: JobNumber },
    Discarded { job: JobNumber },
    Asked { asked: EnqueueAsk, answer: Result<Enqueued, Refusal> },
    Cancelled { job: JobNumber },
    Paused { job: JobNumber },
    Resumed { job: JobNumber },
}

/// A claim as the model remembers it, also when it is not in the log any more.
struct Claim {
    id: String,
    predicate: String,
    unsure: bool,
    chain: Vec<Option<WatcherNumber>>,
    removed: bool,
}

/// A watcher's way over the log under one generation.
#[derive(Debug, Clone)]
struct Way {
    /// It sees the claims after this one.
    from: u64,
    /// It has seen those up to this one.
    at: u64,
    /// Those up to this one have been looked at.
    seen_before: u64,
    /// The last one of a replay.
    until: Option<u64>,
    over: bool,
}

struct Watched {
    key: WatcherKey,
    number: WatcherNumber,
    wanted: Wanted,
    standing: bool,
    /// Its text is not understood.
    broken: bool,
    /// It was declared just now to fire never, and what lies behind the head is over for it.
    gives_up: bool,
    generation: u32,
    last_generation: u32,
    ways: BTreeMap<u32, Way>,
    hold: Option<HoldRow>,
    /// Where the pass had begun that was under way when the hold began.
    behind_from: Option<Seq>,
    /// Claims after the one and up to the other were missed by a hold whose jobs are let go.
    dropped: Vec<(u32, u64, u64)>,
    counters: Counters,
}

impl Watched {
    fn is_asked(&self) -> bool {
        self.standing && !self.broken && (!self.wanted.never || self.hold.is_some())
    }

    fn room(&self, generation: u32, bound: u64) -> u64 {
        let is_replay = self.ways.get(&generation).is_some_and(|way| way.until.is_some());
        let room = if is_replay { bound / 2 } else { bound };
        room.max(1).max(self.wanted.handlers.len() as u64)
    }
}

struct Job {
    id: String,
    watcher: Option<WatcherNumber>,
    generation: u32,
    row: JobRow,
    counted: u32,
    /// Attempts that ended with the engine.
    uncounted: u32,
    first_counted: Option<Mono>,
    /// It was let go, and nobody wanted it after all.
    let_go: bool,
    /// It was asked for again while it was closed.
    redriven: bool,
    last_outcome: String,
}

struct UnderWay {
    attempt: u32,
    plugin: String,
    handler: String,
    /// When it left, once that is known.
    left: Option<Mono>,
}

#[derive(Default)]
pub struct Model {
    claims: BTreeMap<u64, Claim>,
    watched: BTreeMap<String, Watched>,
    by_number: BTreeMap<WatcherNumber, String>,
    jobs: BTreeMap<JobNumber, Job>,
    by_id: BTreeMap<String, JobNumber>,
    fired: BTreeSet<(WatcherNumber, u32, u64, String)>,
    open: BTreeSet<JobNumber>,
    /// Open jobs, and those of them that somebody asked for again.
    open_of: BTreeMap<(WatcherNumber, u32), (u64, u64)>,
    under_way: BTreeMap<JobNumber, UnderWay>,
    breakers: BTreeSet<(String, String)>,
    late: BTreeSet<(String, u32, u64)>,
    /// The jobs that are a part of each.
    children: BTreeMap<JobNumber, Vec<JobNumber>>,
    /// What the queue clock last showed, and when; of this engine.
    queue_clock: Option<(Mono, i64)>,
    /// The next engine has not been told of all that was open yet.
    recovering: bool,
    last_job: JobNumber,
    matched: u64,
    seen_audits: usize,
}

/// A record of the audit, as far as it is looked at.
#[derive(Deserialize)]
struct Record<'a> {
    at: Timestamp,
    r#type: &'a str,
    #[serde(borrow)]
    watcher: Option<Cow<'a, str>>,
    job: Option<&'a str>,
    plugin: Option<&'a str>,
    handler: Option<Cow<'a, str>>,
    outcome: Option<&'a str>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    attempt: Option<u32>,
    incarnation: Option<u64>,
    generation: Option<u32>,
    counted: Option<bool>,
    epoch: Option<u64>,
    stamp_us: Option<u64>,
    seq: Option<u64>,
    from: Option<u64>,
    to: Option<u64>,
    fires: Option<Vec<Fire<'a>>>,
    let_go: Option<bool>,
}

#[derive(Deserialize)]
struct Fire<'a> {
    job: &'a str,
}

/// What the records of one batch say, to be held to its tables.
#[derive(Default)]
struct Said {
    matched: BTreeSet<String>,
    created: BTreeSet<String>,
    started: BTreeSet<(JobNumber, u32)>,
    stopped: BTreeSet<(String, u64)>,
    dead: BTreeMap<JobNumber, String>,
    must_die: BTreeSet<JobNumber>,
    redriven: BTreeSet<JobNumber>,
    paused: BTreeSet<JobNumber>,
    resumed: BTreeSet<JobNumber>,
    cancelled: BTreeSet<JobNumber>,
    /// Attempts that were told to stop.
    cut_short: BTreeSet<(JobNumber, u32)>,
    retired: BTreeSet<WatcherNumber>,
    released: BTreeSet<String>,
}

impl Model {
    /// A claim is in the log.
    pub fn claim(&mut self, stored: &axwatch_model::Stored) {
        let claim = Claim {
            id: stored.attestation.id.to_string(),
            predicate: stored.attestation.predicates[0].clone(),
            unsure: stored.lineage.kind == axwatch_model::LineageKind::Unsure,
            chain: stored.lineage.chain.clone(),
            removed: false,
        };
        self.claims.insert(stored.seq.0, claim);
    }

    /// A claim is not in the log any more: nobody may still have needed it.
    pub fn removed(&mut self, seq: u64) {
        for (shown, watched) in &self.watched {
            let waits =
                |way: &&Way| !way.over && way.at < seq && way.until.is_none_or(|u| seq <= u);
            let waits = watched.ways.values().find(waits);
            assert!(waits.is_none(), "claim {seq} was removed before {shown} had seen it");
        }
        assert!(seq <= self.matched, "claim {seq} was removed before it was matched");
        let needed = self.jobs.values().find(|job| {
            let kept = job.row.state.is_open() || job.row.state == JobState::Failed;
            job.row.seq == Some(Seq(seq)) && kept
        });
        assert!(needed.is_none(), "claim {seq} was removed, which an open job needs");
        self.claims.get_mut(&seq).expect("only claims are removed").removed = true;
    }

    /// The engine died: attempts under way will not be answered, breakers are forgotten.
    pub fn died(&mut self, broken: &BTreeSet<String>) {
        self.breakers.clear();
        self.queue_clock = None;
        self.recovering = true;
        for (shown, watched) in &mut self.watched {
            watched.broken = broken.contains(shown);
        }
    }

    /// The next engine has been told of all that was open.
    pub fn recovered(&mut self, world: &World) {
        self.recovering = false;
        for number in &self.open {
            self.check_above(world, *number);
        }
    }

    /// An attempt leaves at this moment.
    pub fn leaves(&mut self, job: JobNumber, at: Mono) {
        let under_way = self.under_way.get_mut(&job).expect("it has just started");
        under_way.left = Some(at);
    }

    pub fn is_completed(&self, job: JobNumber) -> bool {
        self.jobs[&job].row.state == JobState::Completed
    }

    pub fn counted(&self, job: JobNumber) -> u32 {
        self.jobs[&job].counted
    }

    pub fn nothing_is_open(&self) -> bool {
        self.open.is_empty()
    }

    pub fn open_jobs(&self) -> Vec<&JobRow> {
        self.open.iter().map(|number| &self.jobs[number].row).collect()
    }

    pub fn number_of(&self, shown: &str) -> Option<WatcherNumber> {
        self.watched.get(shown).map(|watched| watched.number)
    }

    pub fn is_standing(&self, shown: &str) -> bool {
        self.watched.get(shown).is_some_and(|watched| watched.standing)
    }

    /// A batch is in the tables. `starts` are the attempts that start with it.
    pub fn learn(&mut self, world: &World, accepted: Vec<Accepted>, starts: &[Start], now: Now) {
        let last_job = self.last_job;
        // Rows first, so that records can name jobs that the batch made.
        let new = self.note_new_jobs(world);
        let said = self.read_records(world, now);
        for accepted in &accepted {
            self.accept(world, accepted, &said);
        }
        self.check_holds(world, &accepted, &said, last_job, now);
        self.move_ways(world);
        for number in &new {
            self.check_new(world, *number, &said);
        }
        self.check_ways(&said);
        self.check_changes(world, &new, &accepted, &said);
        self.check_starts(world, starts, &said);
        self.check_order(world, starts, &new, now);
        self.check_kin(world);
        self.check_tables(world);
        self.end_ways(world);
    }

    fn note_new_jobs(&mut self, world: &World) -> Vec<JobNumber> {
        let is_new = |number: &&JobNumber| !self.jobs.contains_key(number);
        let new: Vec<_> = world.touched.iter().filter(is_new).copied().collect();
        for number in &new {
            let row = &world.jobs[number];
            let id = hex(&row.id.0);
            assert!(*number > self.last_job, "numbers of jobs rise");
            self.last_job = *number;
            let before = self.by_id.insert(id.clone(), *number);
            assert!(before.is_none(), "{number:?} has the id of {before:?}");
            let job = Job {
                id,
                watcher: row.watcher,
                generation: row.generation,
                // It was not there, which is not open.
                row: JobRow { state: JobState::Cancelled, attempts: 0, ..row.clone() },
                counted: 0,
                uncounted: 0,
                first_counted: None,
                let_go: false,
                redriven: false,
                last_outcome: String::new(),
            };
            self.jobs.insert(*number, job);
        }
        new
    }

    fn accept(&mut self, world: &World, accepted: &Accepted, said: &Said) {
        match accepted {
            Accepted::Declared { watcher, wanted, since } => {
                self.declared(world, watcher, wanted, *since);
            }
            Accepted::Redriven { job } => {
                let job = self.jobs.get_mut(job).expect("only jobs are asked for again");
                job.let_go = false;
                let closed = !job.row.state.is_open();
                job.redriven |= closed;
            }
            Accepted::Discarded { job } => {
                let state = world.jobs[job].state;
                assert_eq!(state, JobState::Cancelled, "{job:?} was discarded");
            }
            Accepted::Cancelled { job } => {
                let state = world.jobs[job].state;
                assert!(!state.is_open(), "{job:?} was cancelled, and is {state}");
            }
            Accepted::Paused { job } => {
                let state = world.jobs[job].state;
                assert_eq!(state, JobState::Paused, "{job:?} was paused");
                assert!(said.paused.contains(job));
            }
            Accepted::Resumed { job } => {
                let state = world.jobs[job].state;
                assert_ne!(state, JobState::Paused, "{job:?} was resumed");
                assert!(said.resumed.contains(job));
            }
            Accepted::Asked { asked, answer } => self.check_asked(world, asked, answer),
            Accepted::Commanded { watcher, command } => {
                let shown = watcher.to_string();
                let watched = &self.watched[&shown];
                match command {
                    WatcherCommand::Remove => {
                        assert!(said.retired.contains(&watched.number), "{shown} was removed");
                    }
                    WatcherCommand::Replay { from, to } => {
                        let way = watched.ways.last_key_value().map(|(_, way)| way);
                        let way = way.expect("a watcher that stands has a way");
                        let until = (way.until, way.from);
                        assert_eq!(until, (Some(to.0), from.0.saturating_sub(1)), "{shown}");
                    }
                    _ => {}
                }
            }
        }
    }

    fn declared(&mut self, world: &World, key: &WatcherKey, wanted: &Wanted, since: Option<u64>) {
        let shown = key.to_string();
        let row = &world.watchers[&shown];
        let from = since.map_or(world.seq, |since| since.saturating_sub(1));
        let way = Way { from, at: from, seen_before: from, until: None, over: false };
        self.by_number.insert(row.number, shown.clone());
        match self.watched.get_mut(&shown) {
            None => {
                let watched = Watched {
                    key: key.clone(),
                    number: row.number,
                    wanted: wanted.clone(),
                    standing: true,
                    broken: false,
                    gives_up: false,
                    generation: 0,
                    last_generation: 0,
                    ways: BTreeMap::from([(0, way)]),
                    hold: None,
                    behind_from: None,
                    dropped: Vec::new(),
                    counters: Counters::default(),
                };
                self.watched.insert(shown.clone(), watched);
            }
            Some(watched) => {
                if !watched.standing {
                    watched.last_generation += 1;
                    watched.generation = watched.last_generation;
                    watched.ways.insert(watched.generation, way);
                }
                watched.standing = true;
                watched.broken = false;
                watched.gives_up = wanted.never;
                watched.wanted = wanted.clone();
            }
        }
        let watched = &self.watched[&shown];
        let (generation, last) = (watched.generation, watched.last_generation);
        assert_eq!((row.generation, row.last_generation), (generation, last), "{shown}");
    }

    fn read_records(&mut self, world: &World, now: Now) -> Said {
        let mut said = Said::default();
        for audit in &world.audit[self.seen_audits..] {
            for line in audit.records.lines() {
                let record: Record<'_> = serde_json::from_str(line).expect("records are JSON");
                self.read_record(world, &record, &mut said, now);
            }
        }
        self.seen_audits = world.audit.len();
        said
    }

    fn job_of(&self, record: &Record<'_>) -> JobNumber {
        let id = record.job.expect("the record names a job");
        *self
            .by_id
            .get(id)
            .unwrap_or_else(|| panic!("{} of job {id}, which is not in the table", record.r#type))
    }

    fn watched_of(&mut self, record: &Record<'_>) -> Option<&mut Watched> {
        self.watched.get_mut(record.watcher.as_deref()?)
    }

    fn read_record(&mut self, world: &World, record: &Record<'_>, said: &mut Said, now: Now) {
        let shown = record.watcher.as_deref().unwrap_or_default();
        match record.r#type {
            "matched" => {
                let fires = record.fires.as_deref().unwrap_or_default();
                for fire in fires {
                    let is_new = said.matched.insert(fire.job.to_owned());
                    assert!(is_new, "job {} matched twice", fire.job);
                }
                let watched = self.watched_of(record).expect("only what was declared matches");
                watched.counters.matches += 1;
                if record.let_go != Some(true) {
                    watched.counters.fires += fires.len() as u64;
                    watched.counters.last_fired_at = Some(record.at);
                }
            }
            "loop_stopped" => {
                said.stopped.insert((shown.to_owned(), record.seq.expect("a claim")));
                let watched = self.watched_of(record).expect("only what was declared matches");
                watched.counters.matches += 1;
            }
            "job_created" => drop(said.created.insert(record.job.expect("a job").to_owned())),
            "attempt_started" => self.attempt_started(world, record, said),
            "attempt_ended" => self.attempt_ended(world, record, said, now),
            "dead_lettered" => {
                let reason = record.reason.as_deref().unwrap_or_default().to_owned();
                said.dead.insert(self.job_of(record), reason);
            }
            "job_redriven" => drop(said.redriven.insert(self.job_of(record))),
            "job_paused" => drop(said.paused.insert(self.job_of(record))),
            "job_resumed" => drop(said.resumed.insert(self.job_of(record))),
            "job_cancelled" | "job_discarded" => {
                said.cancelled.insert(self.job_of(record));
            }
            "breaker_opened" | "breaker_closed" => {
                let (plugin, handler) =
                    (record.plugin.expect("a plugin"), record.handler.as_deref());
                let key = (plugin.to_owned(), handler.expect("a handler").to_owned());
                let changes = match record.r#type {
                    "breaker_opened" => self.breakers.insert(key),
                    _ => self.breakers.remove(&key),
                };
                assert!(changes, "{} twice: {plugin}/{handler:?}", record.r#type);
            }
            "late_answer" => {
                let number = self.job_of(record);
                let (attempt, incarnation) =
                    (record.attempt.expect("an attempt"), record.incarnation);
                let current = self.under_way.get(&number).map(|under_way| under_way.attempt);
                assert_ne!(current, Some(attempt), "{number:?} is at it, and was answered late");
                let key = (self.jobs[&number].id.clone(), attempt, incarnation.expect("a process"));
                assert!(self.late.insert(key), "{number:?}: a late answer is told once");
            }
            "watcher_registered" | "watcher_changed" => {
                // Of people's it is told by the answer. A plugin's are taken one in each batch.
                if let Some(watcher) = plugin_watcher(shown) {
                    self.declared(world, &key_of(watcher), &Wanted::usual(watcher), None);
                }
            }
            "watcher_retired" => {
                let watched = self.watched_of(record).expect("only what was declared is retired");
                watched.standing = false;
                said.retired.insert(watched.number);
            }
            "watcher_unmuted" | "watcher_resumed" => drop(said.released.insert(shown.to_owned())),
            "replay_started" => {
                let (from, to) = (record.from.expect("a claim"), record.to);
                let generation = record.generation.expect("a generation");
                let watched = self.watched_of(record).expect("only what was declared is replayed");
                watched.last_generation += 1;
                assert_eq!(generation, watched.last_generation, "{shown}: the next generation");
                let from = from.saturating_sub(1);
                let way = Way { from, at: from, seen_before: from, until: to, over: false };
                watched.ways.insert(generation, way);
            }
            _ => {}
        }
    }

    fn attempt_started(&mut self, world: &World, record: &Record<'_>, said: &mut Said) {
        let number = self.job_of(record);
        let row = &world.jobs[&number];
        let (plugin, handler) = (record.plugin.expect("a plugin"), row.bare_handler());
        let attempt = record.attempt.expect("an attempt");
        let job = self.jobs.get_mut(&number).expect("looked up just now");
        assert_ne!(job.row.state, JobState::Completed, "{number:?} starts after its completion");
        assert!(
            attempt > job.row.attempts,
            "{number:?}: attempt {attempt} after {}",
            job.row.attempts
        );
        job.row.attempts = attempt;
        let same = |other: &&UnderWay| other.plugin == plugin && other.handler == handler;
        if self.breakers.contains(&(plugin.to_owned(), handler.to_owned())) {
            let beside = self.under_way.values().filter(same).count();
            assert_eq!(beside, 0, "attempts beside the one that tries {plugin}/{handler}");
        }
        let (plugin, handler) = (plugin.to_owned(), handler.to_owned());
        let under_way = UnderWay { attempt, plugin, handler, left: None };
        let before = self.under_way.insert(number, under_way);
        assert!(before.is_none(), "{number:?} has two attempts under way");
        said.started.insert((number, attempt));
    }

    fn attempt_ended(&mut self, world: &World, record: &Record<'_>, said: &mut Said, now: Now) {
        let number = self.job_of(record);
        let under_way = self.under_way.remove(&number);
        let under_way = under_way.unwrap_or_else(|| panic!("{number:?} ends what never started"));
        assert_eq!(record.attempt, Some(under_way.attempt), "{number:?}: another attempt ended");
        if record.epoch.is_some() {
            let left = under_way.left.map(|left| left.0 / 1_000);
            assert_eq!(
                record.stamp_us, left,
                "{number:?}: the stamp of attempt {}",
                under_way.attempt
            );
        }
        let outcome = record.outcome.expect("an attempt ends somehow");
        if outcome == "stopped" {
            said.cut_short.insert((number, under_way.attempt));
        }
        let max = self.limits_of(world, number).0;
        let watcher = self.jobs[&number].watcher;
        let job = self.jobs.get_mut(&number).expect("looked up just now");
        job.last_outcome = outcome.to_owned();
        job.uncounted += u32::from(outcome == "unknown" && record.epoch.is_none());
        if record.counted == Some(true) {
            job.counted += 1;
            job.first_counted.get_or_insert(now.mono);
            if job.counted >= max {
                said.must_die.insert(number);
            }
        }
        if outcome == "failed"
            && let Some(watched) = watcher.and_then(|number| self.by_number.get(&number))
        {
            self.watched.get_mut(watched).expect("it has a number").counters.errors += 1;
        }
    }

    /// After how many counted attempts a job is given up, and at which age, by the settings in force.
    fn limits_of(&self, world: &World, number: JobNumber) -> (u32, Duration) {
        let row = &world.jobs[&number];
        let watched = row.watcher.map(|number| &self.watched[&self.by_number[&number]]);
        let plugin = row.plugin.as_ref().map_or("", PluginName::as_str);
        let of_handler = (plugin, row.bare_handler()) == ("a", "x");
        let of_plugin = plugin == "b";
        let attempts = watched.and_then(|w| u32::try_from(w.wanted.max_attempts).ok());
        let attempts = attempts.filter(|max| *max > 0);
        let attempts = attempts.or(of_handler.then_some(HANDLER_ATTEMPTS_MAX));
        let attempts = attempts.or(of_plugin.then_some(PLUGIN_ATTEMPTS_MAX));
        let age = watched.and_then(|w| w.wanted.max_age);
        let age = age.or(of_plugin.then_some(PLUGIN_AGE_MAX));
        (attempts.unwrap_or(ATTEMPTS_MAX), age.unwrap_or(AGE_MAX))
    }

    fn check_holds(
        &mut self,
        world: &World,
        accepted: &[Accepted],
        said: &Said,
        last_job: JobNumber,
        now: Now,
    ) {
        let command = accepted.iter().find_map(|accepted| match accepted {
            Accepted::Commanded { watcher, command } => Some((watcher.to_string(), *command)),
            _ => None,
        });
        let mut ended = Vec::new();
        for (shown, watched) in &mut self.watched {
            let of_it = (watched.number, 0)..=(watched.number, u32::MAX);
            let last = world.holds.range(of_it).next_back().map(|(_, hold)| hold);
            let present = last.filter(|hold| hold.ended_at.is_none());
            let same = |a: &HoldRow, b: &HoldRow| a.number == b.number;
            let goes_on = watched.hold.as_ref().zip(present).is_some_and(|(a, b)| same(a, b));
            let pass = world.passes.get(&(watched.number, watched.generation));
            let behind_from = pass.filter(|pass| pass.cursor.is_some()).map(|pass| pass.from_seq);
            let command =
                command.as_ref().filter(|(to, _)| to == shown).map(|(_, command)| *command);
            if let Some(before) = watched.hold.take_if(|_| !goes_on) {
                let hold = &world.holds[&(watched.number, before.number)];
                let is_over = hold.ended_at.is_some();
                assert!(is_over, "{shown}: a hold is there or has ended: {hold:?}");
                let by_itself = command.is_none() && !said.retired.contains(&watched.number);
                if by_itself {
                    assert!(
                        hold.until.is_some_and(|until| until <= now.wall),
                        "{shown}: too early"
                    );
                }
                ended.push((watched.generation, hold.clone()));
                // One that was behind before, and still is, has seen no more than this.
                let at = watched.ways[&watched.generation].at;
                let is_behind = behind_from.is_some() && behind_from == watched.behind_from;
                // A mute may have ended between two claims of the batch.
                let place = pass.and_then(|pass| Some(world.cursors[&pass.cursor?].0));
                let place = place.unwrap_or_default();
                let matched = world.matched_seq.0;
                let to = if is_behind { at..=place } else { self.matched..=matched };
                let retired = said.retired.contains(&watched.number);
                let is_right = hold.to_seq.is_some_and(|seq| to.contains(&seq.0));
                assert!(retired || is_right, "{shown}: held up to {to:?}: {hold:?}");
                if hold.drops {
                    let to = hold.to_seq.expect("it has ended").0;
                    watched.dropped.push((watched.generation, hold.from_seq.0, to));
                }
            }
            if let Some(hold) = present.filter(|_| !goes_on) {
                assert_eq!(hold.from_job, last_job, "{shown}: jobs from then on are held");
                watched.behind_from = behind_from;
            }
            watched.hold = present.cloned();
            let kind = watched.hold.as_ref().map(|hold| (hold.kind, hold.drops));
            match command {
                Some(WatcherCommand::Pause { skip })
                    if watched.is_asked() && !watched.wanted.never =>
                {
                    assert_eq!(kind, Some((WatcherState::Paused, skip)), "{shown} was paused");
                }
                Some(WatcherCommand::Mute { drop, until }) => {
                    assert_eq!(kind, Some((WatcherState::Muted, drop)), "{shown} was muted");
                    let told = watched.hold.as_ref().and_then(|hold| hold.until);
                    assert_eq!(told, Some(until), "{shown} was muted");
                }
                Some(WatcherCommand::Resume { .. } | WatcherCommand::Unmute { .. }) => {
                    assert_eq!(kind, None, "{shown} was let go on");
                }
                _ => {}
            }
        }
        for (generation, hold) in ended.iter().filter(|(_, hold)| hold.drops) {
            let to = hold.to_job.expect("it has ended");
            for (number, job) in self.jobs.range_mut(..=to).rev() {
                if *number <= hold.from_job {
                    break;
                }
                let waited = job.row.state == JobState::Queued && job.row.attempts == 0;
                let is_of_it = job.watcher == Some(hold.watcher) && job.generation == *generation;
                // Whoever resumed one that was paused wants it to run.
                let is_wanted = job.row.error.is_some() || job.row.due_at.is_some();
                job.let_go |= is_of_it && waited && !is_wanted && *number <= last_job;
            }
        }
    }

    /// Takes over where each watcher now is.
    fn move_ways(&mut self, world: &World) {
        self.matched = world.matched_seq.0;
        for (shown, watched) in &mut self.watched {
            if !watched.standing {
                continue;
            }
            for (generation, way) in watched.ways.iter_mut().filter(|(_, way)| !way.over) {
                let row = world.passes.get(&(watched.number, *generation));
                let at = row.and_then(|row| row.cursor).map(|cursor| world.cursors[&cursor].0);
                let at = match (at, row) {
                    (Some(at), _) => at,
                    (None, Some(row)) if row.stopped.is_some() => way.at,
                    (None, Some(_)) => way.until.expect("only replays leave a row"),
                    (None, None) => {
                        assert!(way.until.is_none(), "{shown}: a replay leaves a row");
                        world.matched_seq.0.max(way.from)
                    }
                };
                assert!(at >= way.at, "{shown} goes back from {} to {at}", way.at);
                way.at = at;
            }
        }
    }

    fn check_new(&mut self, world: &World, number: JobNumber, said: &Said) {
        let row = &world.jobs[&number];
        let id = &self.jobs[&number].id;
        let Some(watcher) = row.watcher else {
            assert!(said.created.contains(id), "{row:?}");
            return;
        };
        assert!(said.matched.contains(id), "{number:?} is in the table and not in the audit");
        let shown = &self.by_number[&watcher];
        let watched = &self.watched[shown];
        let seq = row.seq.expect("a fire is about a claim").0;
        let claim = self.claims.get(&seq);
        let claim =
            claim.unwrap_or_else(|| panic!("{number:?} is about claim {seq}, which nobody made"));
        let generation = row.generation;
        assert_eq!(*id, job_id(world, &watched.key, generation, &claim.id, &row.handler));
        let key = (watcher, generation, seq, row.handler.to_string());
        assert!(self.fired.insert(key), "{shown} fired twice for claim {seq}: {row:?}");
        let way = watched.ways.get(&generation).filter(|way| !way.over);
        let way = way.unwrap_or_else(|| panic!("{shown} fired for claim {seq} under {generation}"));
        let seen = way.from < seq && seq <= way.at && way.until.is_none_or(|until| seq <= until);
        assert!(seen, "{shown} fired for claim {seq}, which its way has not: {way:?}");
        // One that fires never is asked as long as it is held, which may have ended with the batch.
        let holds = world.holds.range((watcher, 0)..=(watcher, u32::MAX));
        let was_held = holds
            .clone()
            .any(|(_, hold)| hold.from_job < number && hold.to_job.is_none_or(|to| number <= to));
        let is_asked = watched.is_asked() || was_held;
        assert!(is_asked, "{shown} fired for claim {seq}, and was not asked");
        let wanted = &watched.wanted;
        assert!(
            wanted.predicates.contains(&&*claim.predicate),
            "{shown} does not want claim {seq}"
        );
        assert!(wanted.handlers.contains(&&*row.handler), "{shown} has no handler {}", row.handler);
        assert!(!self.ends_chain(watched, claim), "{shown}: claim {seq} ends its chain");
        let is_live = generation == watched.generation;
        let held = holds.clone().any(|(_, hold)| {
            hold.drops && hold.from_job < number && hold.to_job.is_none_or(|to| number <= to)
        });
        let missed = watched
            .dropped
            .iter()
            .any(|(of, from, to)| *of == generation && *from < seq && seq <= *to);
        let expected = is_live && (held || missed);
        let is_cancelled = row.state == JobState::Cancelled;
        assert_eq!(is_cancelled, expected, "{shown}, claim {seq}: let go or not: {row:?}");
    }

    fn ends_chain(&self, watched: &Watched, claim: &Claim) -> bool {
        let max = usize::try_from(watched.wanted.max_chain).expect("not negative");
        let max = if max == 0 { 4 } else { max };
        let times = claim.chain.iter().filter(|by| **by == Some(watched.number)).count();
        let too_long = claim.chain.len() > max.max(16);
        !claim.unsure && !claim.chain.is_empty() && (times >= max || too_long)
    }

    /// Every claim that a watcher has come by since the last batch has its jobs, or ended its chain there.
    fn check_ways(&mut self, said: &Said) {
        for (shown, seq) in &said.stopped {
            let ends = self.ends_chain(&self.watched[shown], &self.claims[seq]);
            assert!(ends, "{shown}: no chain ends at claim {seq}");
        }
        let asked = |watched: &Watched| watched.is_asked() && !watched.gives_up;
        for (shown, watched) in self.watched.iter().filter(|(_, watched)| asked(watched)) {
            for (generation, way) in watched.ways.iter().filter(|(_, way)| !way.over) {
                let upto = way.until.map_or(way.at, |until| until.min(way.at));
                let from = way.seen_before.max(way.from);
                if upto <= from {
                    continue;
                }
                for (seq, claim) in self.claims.range(from + 1..=upto) {
                    let wants = watched.wanted.predicates.contains(&&*claim.predicate);
                    if claim.removed || !wants {
                        continue;
                    }
                    if self.ends_chain(watched, claim) {
                        let told = said.stopped.contains(&(shown.clone(), *seq));
                        assert!(told, "{shown}: claim {seq} ends a chain, and nobody says so");
                        continue;
                    }
                    for handler in watched.wanted.handlers {
                        let key = (watched.number, *generation, *seq, (*handler).to_owned());
                        let fired = self.fired.contains(&key);
                        assert!(
                            fired,
                            "{shown} came by claim {seq} and fired no {handler}: {way:?}"
                        );
                    }
                }
            }
        }
    }

    /// What became of the jobs whose rows the batch wrote.
    fn check_changes(
        &mut self,
        world: &World,
        new: &[JobNumber],
        accepted: &[Accepted],
        said: &Said,
    ) {
        for number in &world.touched {
            let row = &world.jobs[number];
            let limits = self.limits_of(world, *number);
            let is_new = new.contains(number);
            let job = self.jobs.get_mut(number).expect("new ones are known by now");
            let before = job.row.state;
            if before != row.state && !is_new {
                let redriven = said.redriven.contains(number);
                assert_ne!(
                    before,
                    JobState::Completed,
                    "{number:?} is completed, then {}",
                    row.state
                );
                let reopened = !before.is_open() && row.state.is_open();
                assert!(!reopened || redriven, "{number:?} was {before}, then {}", row.state);
                let resumed = before != JobState::Paused || said.resumed.contains(number);
                assert!(resumed || !row.state.is_open(), "{number:?} goes on by itself");
                let paused = row.state != JobState::Paused || said.paused.contains(number);
                assert!(paused, "{number:?} is paused by itself");
                let told = row.state != JobState::Cancelled || said.cancelled.contains(number);
                assert!(told || row.watcher.is_some(), "{number:?} is cancelled in secret");
            }
            if row.state == JobState::Failed && before != JobState::Failed {
                let reason = said.dead.get(number);
                let reason = reason.unwrap_or_else(|| {
                    panic!("{number:?} is a dead letter, and no record says so")
                });
                let elapsed = job.first_counted.map(|first| world.now.mono.since(first));
                let old = elapsed.is_some_and(|e| e + Duration::from_millis(50) >= limits.1);
                let why = reason == "never"
                    || job.counted >= limits.0
                    || old && reason.starts_with("attempts failed for")
                    || job.uncounted >= 100;
                assert!(
                    why,
                    "{number:?} is a dead letter: {reason}; counted {}, {limits:?}",
                    job.counted
                );
            }
            if said.must_die.contains(number) {
                let state = row.state;
                assert_eq!(state, JobState::Failed, "{number:?} had its attempts: {}", job.counted);
            }
            if row.state.is_open() && !before.is_open() && !is_new {
                (job.counted, job.uncounted, job.first_counted) = (0, 0, None);
            }
            self.count_open(*number, before, row.state, is_new);
            self.jobs.get_mut(number).expect("looked up above").row = row.clone();
        }
        for accepted in accepted {
            if let Accepted::Redriven { job } = accepted {
                assert!(world.jobs[job].state.is_open(), "{job:?} was asked for again");
            }
        }
        let fire = |number: &&JobNumber| self.jobs[*number].watcher.is_some();
        if let Some(first) = self.open.iter().find(fire) {
            let from = world.open_jobs_from;
            assert!(from <= *first, "open_jobs_from is {from:?}, {first:?} is open");
        }
    }

    fn count_open(&mut self, number: JobNumber, before: JobState, after: JobState, is_new: bool) {
        let was_open = before.is_open() && !is_new;
        if was_open == after.is_open() {
            return;
        }
        let job = self.jobs.get_mut(&number).expect("looked up by the caller");
        let (key, redriven) = (job.watcher.map(|watcher| (watcher, job.generation)), job.redriven);
        job.redriven &= after.is_open();
        let count = key.map(|key| self.open_of.entry(key).or_default());
        if after.is_open() {
            self.open.insert(number);
            if let Some(count) = count {
                count.0 += 1;
                count.1 += u64::from(redriven);
            }
        } else {
            self.open.remove(&number);
            if let Some(count) = count {
                count.0 -= 1;
                count.1 -= u64::from(redriven);
            }
        }
    }

    fn check_starts(&self, world: &World, starts: &[Start], said: &Said) {
        let started: BTreeSet<_> = starts.iter().map(|start| (start.job, start.attempt)).collect();
        assert_eq!(started, said.started, "what starts, and what the audit says starts");
        for start in starts {
            if said.cut_short.contains(&(start.job, start.attempt)) {
                continue;
            }
            let row = world.jobs.get(&start.job);
            let row = row.map(|row| (row.state, row.attempts));
            assert_eq!(row, Some((JobState::Running, start.attempt)), "{:?}", start.job);
            let job = &self.jobs[&start.job];
            assert!(!job.let_go, "{:?} was let go, and starts", start.job);
            let watched = job.watcher.map(|number| &self.watched[&self.by_number[&number]]);
            let hold = watched.and_then(|watched| watched.hold.as_ref());
            assert!(hold.is_none(), "{:?} starts, and is held: {hold:?}", start.job);
            let claim = start.seq.map(|seq| &self.claims[&seq.0]);
            assert!(!claim.is_some_and(|claim| claim.removed), "{:?} has no payload", start.job);
        }
    }

    /// What is asked for is a job, or another one that is open, or rightly refused.
    fn check_asked(
        &mut self,
        world: &World,
        asked: &EnqueueAsk,
        answer: &Result<Enqueued, Refusal>,
    ) {
        let parent = asked.parent.as_ref().map(|parent| &world.jobs[&parent.above[0].number]);
        let foreign = parent.is_some_and(|parent| !may_be_parent(parent, &asked.by));
        let lineage = parent.map(|parent| world.lineage(parent)).unwrap_or_default();
        let cancelled = lineage.iter().any(|above| above.state == JobState::Cancelled);
        let standing = |row: &&JobRow| {
            let source = row.asked.as_ref().map(|asked| &*asked.source);
            source == Some(&asked.source) && row.state.is_open()
        };
        let bare = |row: &JobRow| row.handler.rsplit('/').next().map(str::to_owned);
        let wanted = asked.handler.rsplit('/').next().map(str::to_owned);
        match answer {
            Ok(_) if foreign || cancelled => panic!("{asked:?} has a parent that it cannot have"),
            Ok(Enqueued::New(row)) => {
                let row = &world.jobs[&row.number];
                let of = row.asked.as_ref().expect("somebody asked for it");
                assert_eq!((&of.by, i32::from(of.priority)), (&asked.by, asked.priority));
                assert_eq!(of.parent.map(|parent| parent.id), parent.map(|parent| parent.id));
                if let Some(parent) = of.parent {
                    self.children.entry(parent.number).or_default().push(row.number);
                }
                self.check_queue_clock(world, of.base_ms);
            }
            Ok(Enqueued::Standing { number, id }) => {
                let row = &world.jobs[number];
                let same = standing(&row) && bare(row) == wanted && row.id == *id;
                assert!(same && !asked.source.is_empty(), "{asked:?} is {row:?}");
            }
            Err(refusal) => {
                let of_parent = refusal.reason.contains("parent_job_id")
                    || refusal.reason.contains("is a part of it");
                assert!(!of_parent || foreign || cancelled, "{asked:?}: {refusal}");
            }
        }
    }

    /// The queue clock goes on with the monotonic one, and is not behind what is open.
    fn check_queue_clock(&mut self, world: &World, base_ms: i64) {
        let mono = world.now.mono;
        if let Some((before, showed)) = self.queue_clock {
            let since = i64::try_from(mono.since(before).as_millis()).unwrap();
            let off = base_ms - showed - since;
            // What is decided is told a commit later.
            assert!((-301..=301).contains(&off), "the queue clock is off by {off} ms");
        }
        self.queue_clock = Some((mono, base_ms));
        let open = self.open.iter().filter_map(|number| self.jobs[number].row.asked.as_ref());
        let last = open.map(|asked| asked.base_ms).max().unwrap_or(base_ms);
        assert!(base_ms >= last, "the queue clock shows {base_ms} behind {last}");
    }

    /// Nothing starts for the first time that waits behind another job of its lane.
    fn check_order(&self, world: &World, starts: &[Start], new: &[JobNumber], now: Now) {
        for start in starts.iter().filter(|start| start.attempt == 1) {
            let started = &world.jobs[&start.job];
            let goes = started.state == JobState::Running;
            assert!(!(goes && world.state.is_being_cancelled(start.job)), "{started:?} starts");
            let place = place_of(started);
            for (number, row) in self.open.iter().map(|number| (number, &self.jobs[number].row)) {
                let waits = row.state == JobState::Queued && row.attempts == 0;
                let is_due = row.due_at.is_none_or(|due| due <= now.wall);
                let is_open = !world.state.is_being_cancelled(*number);
                // It may have come after that in the same batch.
                let was_there = !new.contains(number) || new.contains(&start.job);
                if waits
                    && is_open
                    && was_there
                    && is_due
                    && !self.jobs[number].let_go
                    && row.lane() == started.lane()
                {
                    let before = place < place_of(row);
                    assert!(before, "{:?} starts before {number:?}, {row:?}", start.job);
                }
            }
        }
    }

    /// What is below a job that is cancelled is not open, and no two open jobs are the same.
    fn check_kin(&self, world: &World) {
        for number in &world.touched {
            let row = &world.jobs[number];
            if row.state == JobState::Cancelled && !self.recovering {
                self.check_below(world, *number);
            }
            if row.state.is_open() && !world.state.is_being_cancelled(*number) {
                if !self.recovering {
                    self.check_above(world, *number);
                }
                self.check_source(world, row);
            }
        }
    }

    fn check_below(&self, world: &World, number: JobNumber) {
        for child in self.children.get(&number).into_iter().flatten() {
            let state = world.jobs[child].state;
            let goes = !state.is_open() || world.state.is_being_cancelled(*child);
            assert!(goes, "{child:?} is {state} below {number:?}");
            self.check_below(world, *child);
        }
    }

    fn check_above(&self, world: &World, number: JobNumber) {
        for above in world.lineage(&world.jobs[&number]).iter().skip(1) {
            let state = above.state;
            assert_ne!(state, JobState::Cancelled, "{number:?} is open below {:?}", above.number);
        }
    }

    fn check_source(&self, world: &World, row: &JobRow) {
        let source = |row: &JobRow| row.asked.as_ref().map(|asked| asked.source.clone());
        let of_it = source(row).filter(|source| !source.is_empty());
        let Some(of_it) = of_it else { return };
        let mut others = self.open.iter().filter(|number| **number != row.number);
        let same = others.find(|number| {
            let other = &world.jobs[*number];
            other.handler == row.handler && source(other).as_ref() == Some(&of_it)
        });
        assert!(same.is_none(), "{same:?} and {:?} are one", row.number);
    }

    /// Passes and cursors stand for each other, and nobody has more open jobs than there is room for.
    fn check_tables(&self, world: &World) {
        let mut used = BTreeSet::new();
        for row in world.passes.values() {
            assert_eq!(row.cursor.is_none(), row.ended_at.is_some(), "{row:?}");
            if let Some(cursor) = row.cursor {
                let place = world.cursors.get(&cursor);
                let place = place.unwrap_or_else(|| panic!("a pass without its cursor: {row:?}"));
                assert!(*place <= world.matched_seq, "{row:?} is at {place:?}");
                used.insert(cursor);
            }
            let shown = &self.by_number[&row.watcher];
            let stands = self.watched[shown].standing;
            assert!(stands || row.ended_at.is_some(), "{shown} is retired and has a pass: {row:?}");
        }
        let unused = world.cursors.keys().find(|cursor| !used.contains(cursor));
        assert!(unused.is_none(), "{unused:?} is nobody's");
        let bound = world.policy.bounds.watcher_open_jobs_max;
        for ((number, generation), (open, redriven)) in &self.open_of {
            let watched = &self.watched[&self.by_number[number]];
            if watched.standing {
                let room = self.room_ever(watched, *generation, bound);
                let open = open - redriven;
                assert!(open <= room, "{open} open jobs of {number:?}, {generation}: {room}");
            }
        }
    }

    /// The largest number of handlers that any declaration has is 2.
    fn room_ever(&self, watched: &Watched, generation: u32, bound: u64) -> u64 {
        watched.room(generation, bound).max(2)
    }

    /// Each way has been looked at up to where it is; some are over.
    fn end_ways(&mut self, world: &World) {
        for watched in self.watched.values_mut() {
            watched.gives_up = false;
            for (generation, way) in &mut watched.ways {
                let row = world.passes.get(&(watched.number, *generation));
                way.over |= !watched.standing || row.is_some_and(|row| row.ended_at.is_some());
                way.seen_before = way.at;
            }
        }
    }

    /// Once everything is well: nobody is behind, nothing is open or held, and what was let go stayed so.
    pub fn check_rest(&self, world: &World) {
        let behind = world.passes.values().find(|row| row.ended_at.is_none());
        assert!(behind.is_none(), "a pass does not end: {behind:?}");
        assert!(world.cursors.is_empty(), "{:?}", world.cursors);
        let waits = |row: &&JobRow| world.state.waiting(row, world.now);
        let stuck: Vec<_> = self.open_jobs().into_iter().map(|row| (waits(&row), row)).collect();
        assert!(stuck.is_empty(), "{} jobs stay open: {stuck:?}", stuck.len());
        for (number, job) in self.jobs.iter().filter(|(_, job)| job.let_go) {
            assert_eq!(job.row.state, JobState::Cancelled, "{number:?} was let go");
        }
        for view in world.watchers(true) {
            let shown = view.row.key.to_string();
            let counted = self.watched.get(&shown).map(|watched| watched.counters);
            assert_eq!(Some(view.counters), counted, "what {shown} has done, by the audit");
            assert!(view.position.is_none() && view.replay.is_none() && view.hold.is_none());
        }
    }

    /// How many jobs a claim with this predicate makes.
    pub fn jobs_expected(&self, predicate: &str) -> usize {
        let wants = |watched: &&Watched| {
            watched.is_asked() && watched.wanted.predicates.contains(&predicate)
        };
        self.watched.values().filter(wants).map(|watched| watched.wanted.handlers.len()).sum()
    }
}

/// Whether a job of this asker may be a part of this one.
pub fn may_be_parent(parent: &JobRow, by: &Asker) -> bool {
    let Asker::Plugin(plugin) = by else { return true };
    let owner = parent.asked.as_ref().map(|asked| &asked.owner);
    parent.plugin.as_ref() == Some(plugin) || owner == Some(&Owner::Plugin(plugin.clone()))
}

/// The place of a job in its lane: what waits longer, or has the higher priority, comes first.
fn place_of(row: &JobRow) -> (i64, JobNumber) {
    let of = |asked: &Asked| asked.base_ms - i64::from(asked.priority) * 600_000;
    (row.asked.as_deref().map_or(0, of), row.number)
}

/// The id of a fire, by DESIGN.md alone.
fn job_id(world: &World, key: &WatcherKey, generation: u32, claim: &str, handler: &str) -> String {
    let owner = match &key.owner {
        Owner::User => "user".to_owned(),
        Owner::Plugin(plugin) => plugin.to_string(),
    };
    let store = hex(&world.policy.store_id.0);
    let (local, generation) = (key.local.as_str(), generation.to_string());
    let parts = ["axwatch/job/1", &store, &owner, local, &generation, claim, handler];
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
