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
    AuditWrites, Bounds, Declaration, Effect, EnqueueAsk, Event, JobAbove, Outcome, Policy,
    Registration, RequestId, RetryPolicy, Snapshot, Start, State, WatcherView, Withdrawn, Writes,
};
use axwatch_model::{
    Ancestor, Asker, Attestation, BudgetRow, BudgetScope, Counters, CursorNumber, Declared, Filled,
    HandlerChangeRow, HandlerName, HandlerRow, HandlerSpendRow, HoldRow, JobEntryRow, JobId,
    JobNumber, JobRow, JobState, LaneKey, LeafNumber, Lineage, Mono, Now, OpenAsked, PassRow,
    Place, PluginName, PluginRow, RefusedRow, RevisionRow, RouteRow, ScheduleRow, ScheduleRunRow,
    Seq, SpendRow, StoreId, Stored, StructuralFilter, Timestamp, WatcherNumber, WatcherRow,
};
use axwatch_query::{AliasChange, Aliases};

pub struct World {
    pub policy: Policy,
    pub state: State,
    pub now: Now,
    /// The last claim in the log.
    pub seq: u64,
    pub jobs: BTreeMap<JobNumber, JobRow>,
    /// Log entries of jobs.
    pub entries: BTreeMap<JobNumber, Vec<JobEntryRow>>,
    /// By the id that people see.
    pub watchers: BTreeMap<String, WatcherRow>,
    pub revisions: BTreeMap<(WatcherNumber, u64), RevisionRow>,
    /// What claims of the log change of the aliases.
    pub aliases: Vec<(Seq, AliasChange)>,
    pub handlers: Vec<HandlerRow>,
    /// What claims changed of stored handlers.
    pub handler_changes: BTreeMap<Seq, HandlerChangeRow>,
    pub plugins: BTreeMap<PluginName, PluginRow>,
    /// By plugin and name.
    pub schedules: BTreeMap<String, ScheduleRow>,
    /// What became of their nominal times.
    pub runs: Vec<ScheduleRunRow>,
    pub budgets: BTreeMap<BudgetScope, BudgetRow>,
    /// By plugin, handler and minute.
    pub spends: BTreeMap<(PluginName, HandlerName, i64), SpendRow>,
    pub handler_spends: BTreeMap<(PluginName, HandlerName), HandlerSpendRow>,
    /// What rows told of that have been taken away, in billionths.
    pub spends_gone: BTreeMap<(PluginName, HandlerName), i64>,
    /// The minute before which rows were last to be taken away.
    pub spends_from: Option<i64>,
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
    /// As it was written when it was ahead.
    pub heeded_seq: Seq,
    /// When attempts leave that do not leave with their commit, by job.
    pub leave_at: BTreeMap<JobNumber, Mono>,
    /// What of a millisecond has passed that the wall clock does not show yet.
    below_ms: Duration,
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
            entries: BTreeMap::new(),
            watchers: BTreeMap::new(),
            revisions: BTreeMap::new(),
            aliases: Vec::new(),
            handlers: Vec::new(),
            handler_changes: BTreeMap::new(),
            plugins: BTreeMap::new(),
            schedules: BTreeMap::new(),
            runs: Vec::new(),
            budgets: BTreeMap::new(),
            spends: BTreeMap::new(),
            handler_spends: BTreeMap::new(),
            spends_gone: BTreeMap::new(),
            spends_from: None,
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
            heeded_seq: Seq(0),
            leave_at: BTreeMap::new(),
            below_ms: Duration::ZERO,
        };
        world.write([Event::Recovered { rows: Vec::new() }]);
        world
    }

    /// All watchers by number, the retired ones too when asked for.
    pub fn watchers(&self, retired: bool) -> Vec<WatcherView> {
        let end = WatcherNumber(u64::MAX);
        let (mut watchers, rest) = self.state.watchers_before(end, u64::MAX, retired);
        assert!(rest.is_none());
        watchers.reverse();
        watchers
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
                let waits = matches!(row.state, JobState::Queued | JobState::Paused);
                if row.watcher == Some(watcher) && waits {
                    row.state = JobState::Cancelled;
                    self.touched.insert(row.number);
                }
            }
        }
        for Withdrawn { number, leaf, at, reason } in writes.withdrawn {
            assert!(writes.jobs.iter().all(|row| row.number != number), "{number:?} twice");
            let row = self.jobs.get_mut(&number).expect("only the table's own are withdrawn");
            assert!(matches!(row.state, JobState::Queued | JobState::Paused), "{row:?}");
            (row.state, row.completed_at, row.error) =
                (JobState::Cancelled, Some(at), Some(reason));
            (row.due_at, row.delay_ms) = (None, 0);
            row.leaves.push(leaf);
            self.touched.insert(number);
        }
        self.touched.extend(writes.jobs.iter().map(|row| row.number));
        assert!(writes.jobs.is_sorted_by(|a, b| a.number < b.number), "one row a job");
        for row in writes.jobs {
            let before = self.jobs.get(&row.number).and_then(|before| before.payload.clone());
            assert!(
                row.payload.is_none() || before.is_none(),
                "a payload is written once: {row:?}"
            );
            self.jobs.insert(row.number, JobRow { payload: row.payload.clone().or(before), ..row });
        }
        for entry in writes.entries {
            let of_it = self.entries.entry(entry.job).or_default();
            assert_eq!(entry.number as usize, of_it.len() + 1, "entries are numbered");
            of_it.push(entry);
        }
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
        for row in writes.handler_changes {
            let before = self.handler_changes.insert(row.seq, row);
            assert!(before.is_none(), "a claim changes a handler once");
        }
        let plugins = writes.plugins.into_iter();
        self.plugins.extend(plugins.map(|row| (row.name.clone(), row)));
        let schedules = writes.schedules.into_iter();
        self.schedules.extend(schedules.map(|row| (format!("{}/{}", row.owner, row.name), row)));
        self.runs.extend(writes.runs);
        let budgets = writes.budgets.into_iter();
        self.budgets.extend(budgets.map(|row| (row.scope.clone(), row)));
        let key = |row: &SpendRow| (row.plugin.clone(), row.handler.clone(), row.minute);
        self.spends.extend(writes.spends.into_iter().map(|row| (key(&row), row)));
        self.spends_from = writes.spends_from.or(self.spends_from);
        if let Some(from) = writes.spends_from {
            for ((plugin, handler, _), row) in self.spends.extract_if(.., |key, _| key.2 < from) {
                *self.spends_gone.entry((plugin, handler)).or_default() += row.nanos;
            }
        }
        let key = |row: &HandlerSpendRow| (row.plugin.clone(), row.handler.clone());
        let handler_spends = writes.handler_spends.into_iter();
        self.handler_spends.extend(handler_spends.map(|row| (key(&row), row)));
        self.routes.extend(writes.routes);
        self.refused.extend(writes.refused);
        self.audit.extend(writes.audit);
        if let Some((upto, counters)) = writes.counters {
            self.counters.0 = upto;
            self.counters.1.extend(counters);
        }
        self.matched_seq = writes.matched_seq.unwrap_or(self.matched_seq);
        self.heeded_seq = writes.heeded_seq.unwrap_or(self.heeded_seq);
        self.open_jobs_from = writes.open_jobs_from.unwrap_or(self.open_jobs_from);
    }

    /// What the store answers to [`Effect::Load`] at this moment.
    pub fn read(&self, lane: &LaneKey, from: Place, limit: usize) -> Vec<JobRow> {
        let waits = |row: &&JobRow| {
            row.state == JobState::Queued && row.place() >= from && row.lane() == *lane
        };
        let mut rows: Vec<_> = self.jobs.values().filter(waits).collect();
        rows.sort_by_key(|row| row.place());
        rows.into_iter().take(limit).map(|row| JobRow { payload: None, ..row.clone() }).collect()
    }

    /// A job and those above it, the nearest first.
    pub fn lineage(&self, row: &JobRow) -> Vec<JobAbove> {
        let mut lineage = vec![JobAbove::of(row)];
        while let Some(parent) = lineage.last().and_then(|below| below.parent) {
            let Some(row) = self.jobs.get(&parent.number) else { break };
            lineage.push(JobAbove::of(row));
        }
        lineage
    }

    /// A person wants this job tried again; it is read as the writer reads it.
    pub fn redrive_of(&self, row: &JobRow, request: u64) -> Event {
        let above = self.lineage(row).into_iter().skip(1).collect();
        Event::Redrive { request: RequestId(request), row: Box::new(row.clone()), above }
    }

    /// The jobs that are over and have an open one below them.
    fn above_open_jobs(&self) -> Vec<Ancestor> {
        let open = self.jobs.values().filter(|row| row.state.is_open());
        let above = open.flat_map(|row| self.lineage(row).into_iter().skip(1));
        let over = above.filter(|above| !above.state.is_open());
        let ancestor = |above: JobAbove| {
            let JobAbove { number, id, state, parent, .. } = above;
            (number, Ancestor { number, id, state, parent })
        };
        over.map(ancestor).collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// The engine dies and starts again on what was written. Gives what tells it of the jobs that were left
    /// open.
    pub fn die(&mut self) -> Vec<Event> {
        self.start(self.snapshot(), self.now).events(usize::MAX)
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
            heeded_seq: self.heeded_seq,
            head: Seq(self.seq),
            last_job: self.jobs.last_key_value().map_or(JobNumber(0), |(number, _)| *number),
            open_jobs_from: self.open_jobs_from,
            above: self.above_open_jobs(),
            watchers: self.watchers.values().cloned().collect(),
            counters: self.counters.1.iter().map(|(number, of_it)| (*number, *of_it)).collect(),
            passes: (self.passes.values())
                .filter_map(|row| Some((row.clone(), self.cursors[&row.cursor?])))
                .collect(),
            holds: self.holds.values().filter(is_needed).cloned().collect(),
            aliases,
            handlers: self.handlers.clone(),
            stored_handlers: self.stored_handlers(),
            plugins: self.plugins.values().cloned().collect(),
            schedules: self.schedules.values().cloned().collect(),
            budgets: self.budgets.values().cloned().collect(),
            spends: self.spends.values().cloned().collect(),
            handler_spends: self.handler_spends.values().cloned().collect(),
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
    pub fn start(&mut self, snapshot: Snapshot, now: Now) -> Open {
        self.policy.epoch += 1;
        self.leave_at.clear();
        self.state = State::new(self.policy.clone(), snapshot, now);
        let counted = usize::try_from(self.counters.0.0).expect("a short audit");
        let records = self.audit.iter().flat_map(|audit| audit.records.lines());
        records.skip(counted).for_each(|record| self.state.recount(record));
        // Fires from the mark on; of the others, those that run as they are, and the rest without a payload.
        let open = self.jobs.values().filter(|row| row.state.is_open());
        let (asked, fires): (Vec<_>, Vec<_>) = open.partition(|row| row.watcher.is_none());
        let fires = fires.into_iter().filter(|row| row.number >= self.open_jobs_from);
        let (running, waiting): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|row| row.state == JobState::Running);
        Open {
            asked: waiting.into_iter().filter_map(OpenAsked::of).collect(),
            rows: fires.chain(running).cloned().collect(),
        }
    }

    /// The latest change of each stored handler.
    fn stored_handlers(&self) -> Vec<HandlerChangeRow> {
        let rows = self.handler_changes.values();
        let latest: BTreeMap<_, _> = rows.map(|row| ((&row.plugin, &row.name), row)).collect();
        latest.into_values().cloned().collect()
    }

    pub fn record_lines(&self) -> impl Iterator<Item = &str> {
        self.audit.iter().flat_map(|audit| audit.records.lines())
    }

    /// Moves the clock, and tells nobody.
    pub fn advance(&mut self, span: Duration) {
        let passed = self.below_ms + span;
        self.below_ms = Duration::from_nanos(u64::from(passed.subsec_nanos() % 1_000_000));
        let wall = self.now.wall.plus(passed - self.below_ms);
        self.now = Now { mono: self.now.mono.plus(span), wall };
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

/// The jobs that an engine finds open when it starts.
pub struct Open {
    pub asked: Vec<OpenAsked>,
    pub rows: Vec<JobRow>,
}

impl Open {
    /// What tells of them, so many at once.
    pub fn events(&self, portion: usize) -> Vec<Event> {
        let asked = self.asked.chunks(portion);
        let rows = self.rows.chunks(portion).chain([[].as_slice()]);
        let asked = asked.map(|jobs| Event::RecoveredAsked { jobs: jobs.to_vec() });
        asked.chain(rows.map(|rows| Event::Recovered { rows: rows.to_vec() })).collect()
    }
}

pub fn policy() -> Policy {
    Policy {
        store_id: StoreId([1; 16]),
        epoch: 1,
        bounds: Bounds::default(),
        retry: RetryPolicy::default(),
        handlers: BTreeMap::new(),
        budgets: BTreeMap::new(),
        handler_makers: BTreeSet::new(),
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

/// A job of this handler as a person asks for it, with nothing special about it.
pub fn ask(id: [u8; 16], handler: &str) -> EnqueueAsk {
    EnqueueAsk {
        id: JobId(id),
        by: Asker::User,
        handler: handler.into(),
        payload: b"x".as_slice().into(),
        source: String::new(),
        priority: 0,
        parent: None,
        cost_estimate: None,
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
