//! The core with what surrounds it in the engine: the tables that its batches are written to, the log
//! by its numbers, and a clock that is moved by hand.
//!
//! [`World::write`] is one batch: events are told, what follows is written, and only then are the
//! effects handed to whoever asked. [`World::die`] forgets everything but the tables. What a test does
//! about the effects, and when the store's reads are answered, is its own affair.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axwatch_core::audit::{Report, Row, Tree, Verifier};
use axwatch_core::{
    AuditWrites, Bounds, Declaration, Effect, Event, Outcome, Policy, Registration, RetryPolicy,
    Snapshot, Start, State, Writes,
};
use axwatch_model::{
    Attestation, Counters, CursorNumber, Declared, Filled, HandlerRow, HoldRow, JobNumber, JobRow,
    JobState, LaneKey, LeafNumber, Lineage, Mono, Now, PassRow, PluginName, PluginRow, RefusedRow,
    RevisionRow, RouteRow, ScheduleRow, Seq, StoreId, Stored, StructuralFilter, Timestamp,
    WatcherNumber, WatcherRow,
};
use axwatch_query::{AliasChange, Aliases};

pub struct World {
    pub policy: Policy,
    pub state: State,
    pub now: Now,
    /// The last claim in the log.
    pub seq: u64,
    pub jobs: BTreeMap<JobNumber, JobRow>,
    /// By the id that people see.
    pub watchers: BTreeMap<String, WatcherRow>,
    pub revisions: BTreeMap<(WatcherNumber, u64), RevisionRow>,
    /// What claims of the log change of the aliases.
    pub aliases: Vec<(Seq, AliasChange)>,
    pub handlers: Vec<HandlerRow>,
    pub plugins: BTreeMap<PluginName, PluginRow>,
    /// By plugin and name.
    pub schedules: BTreeMap<String, ScheduleRow>,
    pub routes: BTreeMap<PluginName, Vec<RouteRow>>,
    pub refused: BTreeMap<PluginName, Vec<RefusedRow>>,
    pub passes: BTreeMap<(WatcherNumber, u32), PassRow>,
    pub cursors: BTreeMap<CursorNumber, Seq>,
    pub holds: BTreeMap<(WatcherNumber, u32), HoldRow>,
    /// Rows of passes and cursors that were ever written.
    pub passes_written: usize,
    pub cursors_written: usize,
    pub audit: Vec<AuditWrites>,
    /// The counters, and up to which record they count.
    pub counters: (LeafNumber, BTreeMap<WatcherNumber, Counters>),
    /// The jobs whose rows the last commit wrote.
    pub touched: BTreeSet<JobNumber>,
    pub open_jobs_from: JobNumber,
    pub matched_seq: Seq,
    /// When attempts leave that do not leave with their commit, by job.
    pub leave_at: BTreeMap<JobNumber, Mono>,
}

impl World {
    /// A new store, and an engine that has just started on it.
    pub fn with(policy: Policy) -> World {
        let now = start_of_time();
        let snapshot = Snapshot { tree: Tree::new(), ..Snapshot::default() };
        let mut world = World {
            policy: policy.clone(),
            state: State::new(policy, snapshot, now),
            now,
            seq: 0,
            jobs: BTreeMap::new(),
            watchers: BTreeMap::new(),
            revisions: BTreeMap::new(),
            aliases: Vec::new(),
            handlers: Vec::new(),
            plugins: BTreeMap::new(),
            schedules: BTreeMap::new(),
            routes: BTreeMap::new(),
            refused: BTreeMap::new(),
            passes: BTreeMap::new(),
            cursors: BTreeMap::new(),
            holds: BTreeMap::new(),
            passes_written: 0,
            cursors_written: 0,
            audit: Vec::new(),
            counters: Default::default(),
            touched: BTreeSet::new(),
            open_jobs_from: JobNumber(1),
            matched_seq: Seq(0),
            leave_at: BTreeMap::new(),
        };
        world.write([Event::Recovered { rows: Vec::new() }]);
        world
    }

    /// Tells the events of one batch, commits it, and gives what would be done.
    pub fn write(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        let now = self.now;
        let effects = events.into_iter().flat_map(|event| self.state.step(event, now)).collect();
        self.commit();
        effects
    }

    /// Puts what the core wants written into the tables, and tells it so.
    pub fn commit(&mut self) {
        let writes = self.state.take_writes(false);
        self.apply(writes);
        self.committed();
    }

    /// Tells the core that its batch is on the disk.
    pub fn committed(&mut self) {
        for effect in self.state.step(Event::Committed, self.now) {
            let Effect::LeaveAt { job, at } = effect else {
                panic!("nothing starts between commits: {effect:?}");
            };
            assert!(at > self.now.mono);
            self.leave_at.insert(job, at);
        }
    }

    /// When an attempt of this job leaves that was committed just now.
    pub fn leaves(&self, job: JobNumber) -> Mono {
        self.leave_at.get(&job).map_or(self.now.mono, |at| self.now.mono.max(*at))
    }

    /// Puts a batch into the tables.
    pub fn apply(&mut self, writes: Writes) {
        self.touched.clear();
        for (watcher, from, _) in writes.cancelled {
            for row in self.jobs.range_mut(from..).map(|(_, row)| row) {
                if row.watcher == Some(watcher) && row.state == JobState::Queued {
                    row.state = JobState::Cancelled;
                    self.touched.insert(row.number);
                }
            }
        }
        self.touched.extend(writes.jobs.iter().map(|row| row.number));
        assert!(writes.jobs.is_sorted_by(|a, b| a.number < b.number), "one row a job");
        self.jobs.extend(writes.jobs.into_iter().map(|row| (row.number, row)));
        for row in writes.watchers {
            // A row of one that never stood may have become another's.
            if row.revision <= 1 {
                self.watchers.retain(|_, other| other.number != row.number);
            }
            self.watchers.insert(row.key.to_string(), row);
        }
        for row in writes.revisions {
            let before = self.revisions.insert((row.watcher, row.revision), row);
            assert!(before.is_none(), "a revision is written once");
        }
        for (watcher, revision, seq) in writes.retired {
            let row = self.revisions.get_mut(&(watcher, revision));
            row.expect("only what stands is retired").retired_seq = Some(seq);
        }
        self.passes_written += writes.passes.len();
        self.cursors_written += writes.cursors.len();
        for key in writes.passes_gone {
            self.passes.remove(&key);
        }
        let passes = writes.passes.into_iter();
        self.passes.extend(passes.map(|row| ((row.watcher, row.generation), row)));
        for number in writes.cursors_gone {
            self.cursors.remove(&number);
        }
        self.cursors.extend(writes.cursors.into_iter().map(|row| (row.number, row.seq)));
        for row in self.passes.values() {
            let stands = row.cursor.is_none_or(|cursor| self.cursors.contains_key(&cursor));
            assert!(stands, "a pass that has not ended has a cursor: {row:?}");
        }
        self.holds.extend(writes.holds.into_iter().map(|row| ((row.watcher, row.number), row)));
        for (plugin, names) in writes.handlers {
            self.handlers.retain(|row| row.plugin != plugin);
            let row = |name| HandlerRow { plugin: plugin.clone(), name };
            self.handlers.extend(names.into_iter().map(row));
        }
        let plugins = writes.plugins.into_iter();
        self.plugins.extend(plugins.map(|row| (row.name.clone(), row)));
        let schedules = writes.schedules.into_iter();
        self.schedules.extend(schedules.map(|row| (format!("{}/{}", row.owner, row.name), row)));
        self.routes.extend(writes.routes);
        self.refused.extend(writes.refused);
        self.audit.extend(writes.audit);
        if let Some((upto, counters)) = writes.counters {
            self.counters.0 = upto;
            self.counters.1.extend(counters);
        }
        self.matched_seq = writes.matched_seq.unwrap_or(self.matched_seq);
        self.open_jobs_from = writes.open_jobs_from.unwrap_or(self.open_jobs_from);
    }

    /// What the store answers to [`Effect::Load`] at this moment.
    pub fn read(&self, lane: &LaneKey, from: JobNumber, limit: usize) -> Vec<JobRow> {
        let waits = |row: &&JobRow| row.lane() == *lane && row.state == JobState::Queued;
        self.jobs.range(from..).map(|(_, row)| row).filter(waits).take(limit).cloned().collect()
    }

    /// The engine dies and starts again on what was written. Gives the jobs that were left open, which
    /// it has yet to be told of with [`Event::Recovered`].
    pub fn die(&mut self) -> Vec<JobRow> {
        self.start(self.snapshot(), self.now)
    }

    /// What the store holds when the engine starts.
    pub fn snapshot(&self) -> Snapshot {
        let mut tree = Tree::new();
        for record in self.record_lines() {
            let _ = tree.append(record.as_bytes());
        }
        let _ = tree.take_nodes();
        let mut aliases = Aliases::default();
        for (_, change) in self.aliases.iter().filter(|(seq, _)| *seq <= self.matched_seq) {
            aliases.apply(change);
        }
        let last_hold = |row: &HoldRow| {
            let after = (row.watcher, row.number + 1)..=(row.watcher, u32::MAX);
            self.holds.range(after).next().is_none()
        };
        let is_needed = |row: &&HoldRow| row.ended_at.is_none() || row.drops || last_hold(row);
        Snapshot {
            matched_seq: self.matched_seq,
            head: Seq(self.seq),
            last_job: self.jobs.last_key_value().map_or(JobNumber(0), |(number, _)| *number),
            open_jobs_from: self.open_jobs_from,
            watchers: self.watchers.values().cloned().collect(),
            counters: self.counters.1.iter().map(|(number, of_it)| (*number, *of_it)).collect(),
            passes: (self.passes.values())
                .filter_map(|row| Some((row.clone(), self.cursors[&row.cursor?])))
                .collect(),
            holds: self.holds.values().filter(is_needed).cloned().collect(),
            aliases,
            handlers: self.handlers.clone(),
            plugins: self.plugins.values().cloned().collect(),
            schedules: self.schedules.values().cloned().collect(),
            routes: (self.routes.iter())
                .flat_map(|(plugin, routes)| {
                    routes.iter().map(|route| (plugin.clone(), route.clone()))
                })
                .collect(),
            refused: self.refused.clone().into_iter().collect(),
            tree,
        }
    }

    /// A new life of the engine. Gives the open jobs.
    pub fn start(&mut self, snapshot: Snapshot, now: Now) -> Vec<JobRow> {
        self.policy.epoch += 1;
        self.leave_at.clear();
        self.state = State::new(self.policy.clone(), snapshot, now);
        let counted = usize::try_from(self.counters.0.0).expect("a short audit");
        let records = self.audit.iter().flat_map(|audit| audit.records.lines());
        records.skip(counted).for_each(|record| self.state.recount(record));
        let candidates = self.jobs.range(self.open_jobs_from..).map(|(_, row)| row);
        candidates.filter(|row| row.state.is_open()).cloned().collect()
    }

    fn record_lines(&self) -> impl Iterator<Item = &str> {
        self.audit.iter().flat_map(|audit| audit.records.lines())
    }

    /// Moves the clock, and tells nobody.
    pub fn advance(&mut self, span: Duration) {
        self.now = Now { mono: self.now.mono.plus(span), wall: self.now.wall.plus(span) };
    }

    /// Recomputes the whole audit.
    pub fn verify_audit(&self) -> Report {
        let mut verifier = Verifier::new();
        for audit in &self.audit {
            let row = Row {
                first_leaf: audit.first_leaf,
                count: audit.count,
                records: &audit.records,
                nodes: &audit.nodes,
                head: &audit.head,
            };
            let _ = verifier.feed(&row);
        }
        verifier.finish()
    }
}

pub fn policy() -> Policy {
    Policy {
        store_id: StoreId([1; 16]),
        epoch: 1,
        bounds: Bounds::default(),
        retry: RetryPolicy::default(),
        handlers: BTreeMap::new(),
    }
}

fn start_of_time() -> Now {
    Now { mono: Mono(1_000_000_000_000), wall: Timestamp::from_ms(1_750_000_000_000).unwrap() }
}

pub fn stored(seq: u64, subject: &str, predicate: &str, now: Now) -> Stored {
    let terms = |term: &str| vec![term.to_owned()];
    Stored {
        seq: Seq(seq),
        attestation: Attestation {
            id: format!("A{seq}").parse().unwrap(),
            subjects: terms(subject),
            predicates: terms(predicate),
            contexts: terms("_"),
            actors: terms("me"),
            timestamp: now.wall,
            created_at: now.wall,
            source: "test".into(),
            attributes: None,
            signature: None,
            signer_did: None,
        },
        appended_by: "user".into(),
        filled: Filled::default(),
        lineage: Lineage::default(),
    }
}

pub fn registration(handlers: &[&str], watchers: Vec<Declaration>) -> Registration {
    Registration {
        handlers: handlers.iter().map(|name| name.parse().unwrap()).collect(),
        watchers,
        ..Registration::default()
    }
}

pub fn on_predicate(local: &str, predicate: &str, handler: &str) -> Declaration {
    let filter =
        StructuralFilter { predicates: vec![predicate.to_owned()], ..StructuralFilter::default() };
    Declaration {
        local: local.into(),
        declared: Declared::Structural(filter),
        handlers: vec![handler.into()],
        params: None,
        max_fires_per_second: 0,
        zero_is_never: false,
        max_chain: 0,
        since: None,
        max_attempts: 0,
        max_age: None,
    }
}

pub fn starts(effects: &[Effect]) -> Vec<Start> {
    let start = |effect: &Effect| match effect {
        Effect::Start(start) => Some((**start).clone()),
        _ => None,
    };
    effects.iter().filter_map(start).collect()
}

pub fn done() -> Outcome {
    Outcome::Succeeded { result: None }
}

pub fn busy() -> Outcome {
    Outcome::Retryable { error: "busy".into(), missed_deadline: false }
}

pub fn lost() -> Outcome {
    Outcome::Lost { error: "connection reset".into() }
}
