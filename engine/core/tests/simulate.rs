//! The core in a world that goes wrong in every way that we know of, replayed from a seed.
//!
//! What is modelled:
//! - a store whose reads are slow: what is asked for is read some time later, and told later still, in
//!   any order; and whose commits take time;
//! - crashes, which drop the batch at hand and all reads and attempts under way;
//! - plugins that come, go, announce fewer handlers, and whose attempts succeed, fail, fail for good,
//!   say "not now", or end with their connection, alone or all together;
//! - people who declare, pause, resume and remove watchers, and redrive jobs;
//! - bounds so small that everything spills, and that matching falls behind the log.
//!
//! What must hold after every batch:
//! - no attempt starts after its job's completion was recorded, attempts rise, and each that starts
//!   is in the table;
//! - `open_jobs_from` never passes an open job;
//! - no half-open second holds more starts of a watcher than its limit.
//!
//! And once everything has been up and has succeeded for long enough: no job is open, matching has
//! caught up and goes on, and the audit verifies.
//!
//! 500 seeds are tried; `AXWATCH_SIM_SEEDS=n` tries more, and `AXWATCH_SIM_SEED=n` replays one.

mod world;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::Duration;

use axwatch_core::{
    Bounds, Declaration, Effect, Ended, Event, Outcome, Policy, RequestId, Start, WatcherCommand,
};
use axwatch_model::{
    JobNumber, JobRow, JobState, LaneKey, Mono, Owner, Seq, Stored, WatcherKey, WatcherState,
};

use world::{World, busy, done, lost, on_predicate, policy, registration, starts, stored};

const SEEDS_DEFAULT: u64 = 500;
const STEPS_PER_SEED: u32 = 250;
const HEALING_STEPS_MAX: u32 = 4_000;
const WATCHERS: u64 = 6;
const PLUGINS: [&str; 2] = ["a", "b"];
const PREDICATES: [&str; 2] = ["p0", "p1"];
const HANDLERS: [&str; 3] = ["x", "y", "z"];
const REQUEST: RequestId = RequestId(1);

#[test]
fn nothing_is_lost_repeated_or_stuck() {
    let seeds = match (number_in("AXWATCH_SIM_SEED"), number_in("AXWATCH_SIM_SEEDS")) {
        (Some(one), _) => one..=one,
        (None, many) => 1..=many.unwrap_or(SEEDS_DEFAULT),
    };
    let failed: Vec<u64> = seeds.filter(|&seed| !holds(seed)).collect();
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
}

fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} should be a number, not {text:?}")))
}

/// Runs one seed; when it fails, says how and how to see it again.
fn holds(seed: u64) -> bool {
    let result = catch_unwind(|| Simulation::new(seed).run());
    if result.is_err() {
        eprintln!(
            "seed {seed} failed as told above; replay it with \
             AXWATCH_SIM_SEED={seed} RUST_BACKTRACE=1 cargo test -p axwatch-core --test simulate\n"
        );
    }
    result.is_ok()
}

struct Simulation {
    world: World,
    dice: Dice,
    /// A third of the seeds has no crashes, so that long lives are seen too.
    crashes: bool,
    log: Vec<Arc<Stored>>,
    /// The process of each plugin that is up.
    up: [Option<u64>; 2],
    last_incarnation: u64,
    running: Vec<Start>,
    /// Reads that the store has yet to make.
    asked: Vec<(LaneKey, JobNumber, usize)>,
    /// Reads that it has made, and the core has yet to be told of.
    read: Vec<(LaneKey, Vec<JobRow>)>,
    completed: BTreeSet<JobNumber>,
    /// The last attempt of each job.
    attempts: BTreeMap<JobNumber, u32>,
    /// When each watcher's attempts of the last second left.
    left: BTreeMap<Arc<str>, VecDeque<Mono>>,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let bounds = Bounds {
            lane_waiting_max: 4,
            lane_delayed_max: 3,
            jobs_in_memory_max: 14,
            open_jobs_max: 120,
            ..Bounds::default()
        };
        Simulation {
            world: World::with(Policy { bounds, ..policy() }),
            dice: Dice::new(seed),
            crashes: !seed.is_multiple_of(3),
            log: Vec::new(),
            up: [None; 2],
            last_incarnation: 0,
            running: Vec::new(),
            asked: Vec::new(),
            read: Vec::new(),
            completed: BTreeSet::new(),
            attempts: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }

    fn run(mut self) {
        for watcher in 0..self.dice.below(WATCHERS) {
            let limit = self.dice.one_of(&[0, 0, 5]);
            self.declare(watcher, limit);
        }
        for _ in 0..STEPS_PER_SEED {
            self.anything();
        }
        self.heal();
        let open = |row: &&JobRow| row.state.is_open();
        let stuck: Vec<_> = self.world.jobs.values().filter(open).collect();
        assert!(stuck.is_empty(), "{} jobs stay open: {stuck:?}", stuck.len());
        self.check_that_matching_goes_on();
        let report = self.world.verify_audit();
        assert!(report.ok, "{report:?}");
    }

    fn anything(&mut self) {
        match self.dice.below(100) {
            0..=26 => self.claim(1),
            27..=29 => self.catch_up(),
            30..=58 => self.end_any(),
            59 => self.lose_connection(),
            60..=66 => self.read_any(),
            67..=73 => self.tell_any_read(),
            74..=81 => {
                let ms = self.dice.below(900);
                self.pass(Duration::from_millis(ms));
            }
            82..=84 => {
                let (plugin, fewer) = (self.dice.index(PLUGINS.len()), self.dice.below(3) == 0);
                self.come_up(plugin, fewer);
            }
            85 => self.announce(),
            86..=87 => {
                let plugin = self.dice.index(PLUGINS.len());
                self.go_down(plugin);
            }
            88..=90 => {
                let (watcher, limit) =
                    (self.dice.below(WATCHERS), self.dice.one_of(&[0, 0, 5, 40]));
                self.declare(watcher, limit);
            }
            91 => self.remove(),
            92..=93 => {
                let watcher = self.dice.below(WATCHERS);
                self.command(watcher, WatcherCommand::Pause);
            }
            94..=96 => {
                let watcher = self.dice.below(WATCHERS);
                self.command(watcher, WatcherCommand::Resume);
            }
            97 if self.crashes => self.crash(),
            98 => self.redrive(),
            _ => {
                let claims = self.dice.below(6);
                self.claim(claims);
            }
        }
    }

    /// From here on everything is up and everything succeeds.
    fn heal(&mut self) {
        (0..PLUGINS.len()).for_each(|plugin| self.come_up(plugin, false));
        for watcher in 0..WATCHERS {
            self.command(watcher, WatcherCommand::Resume);
            if self.world.watchers.contains_key(&format!("user-w{watcher}")) {
                self.declare(watcher, 0);
            }
        }
        for _ in 0..HEALING_STEPS_MAX {
            self.settle();
            let open = self.world.jobs.values().any(|row| row.state.is_open());
            if !open && self.is_caught_up() {
                return;
            }
            self.pass(Duration::from_millis(500));
        }
    }

    /// Lets happen what can without time going by.
    fn settle(&mut self) {
        loop {
            if !self.asked.is_empty() {
                self.read_one(0);
            } else if !self.read.is_empty() {
                self.tell_read(0);
            } else if !self.running.is_empty() {
                self.end_one(0, done());
            } else if !self.is_caught_up() && self.world.state.may_match() {
                self.catch_up();
            } else {
                return;
            }
        }
    }

    fn check_that_matching_goes_on(&mut self) {
        assert!(self.is_caught_up(), "matching stays behind the log");
        let before = self.world.jobs.len();
        self.claim(1);
        let claim = self.log.last().expect("a claim was just made");
        let place = PREDICATES.iter().position(|p| claim.attestation.predicates[0] == *p);
        let waits = |watcher: u64| {
            let row = self.world.watchers.get(&format!("user-w{watcher}"));
            row.is_some_and(|row| row.state == WatcherState::Live)
        };
        let waiting = (0..WATCHERS).filter(|&watcher| Some(predicate_of(watcher)) == place);
        let expected = waiting.filter(|&watcher| waits(watcher)).count();
        assert_eq!(self.world.jobs.len() - before, expected, "jobs of one more claim");
    }
}

/// The log and the store.
impl Simulation {
    /// So many claims enter the log in one batch, and are matched at once unless matching is behind.
    fn claim(&mut self, claims: u64) {
        let predicate = self.dice.one_of(&PREDICATES);
        let mut events = Vec::new();
        let mut behind = !self.is_caught_up() || !self.world.state.may_match();
        for _ in 0..claims {
            // That too many jobs are open may show in the middle of a batch; then the claims after it
            // pass the bound a little, and it shows in the next.
            let claim = self.next_claim(predicate);
            self.world.seq = claim.seq.0;
            events.push(match behind {
                true => Event::Deferred { seq: claim.seq },
                false => Event::Match { stored: Arc::clone(&claim) },
            });
            self.log.push(claim);
            behind |= !self.world.state.may_match();
        }
        self.batch(events);
    }

    fn next_claim(&self, predicate: &str) -> Arc<Stored> {
        Arc::new(stored(self.world.seq + 1, "x", predicate, self.world.now))
    }

    /// Matches the next claim behind the head.
    fn catch_up(&mut self) {
        if !self.is_caught_up() && self.world.state.may_match() {
            let next = usize::try_from(self.world.matched_seq.0).expect("a short log");
            let stored = Arc::clone(&self.log[next]);
            self.batch([Event::Match { stored }]);
        }
    }

    fn is_caught_up(&self) -> bool {
        self.world.matched_seq == Seq(self.world.seq)
    }

    fn read_any(&mut self) {
        if let Some(place) = self.dice.place_in(&self.asked) {
            self.read_one(place);
        }
    }

    fn read_one(&mut self, place: usize) {
        let (lane, from, limit) = self.asked.remove(place);
        let rows = self.world.read(&lane, from, limit);
        self.read.push((lane, rows));
    }

    fn tell_any_read(&mut self) {
        if let Some(place) = self.dice.place_in(&self.read) {
            self.tell_read(place);
        }
    }

    fn tell_read(&mut self, place: usize) {
        let (lane, rows) = self.read.remove(place);
        self.batch([Event::Loaded { lane, rows }]);
    }

    fn pass(&mut self, span: Duration) {
        self.world.advance(span);
        self.batch([]);
    }

    /// The engine dies with a batch under way, of which nothing is written, and starts again.
    fn crash(&mut self) {
        let claim = self.next_claim(PREDICATES[0]);
        let unwritten = match self.is_caught_up() {
            true => Event::Match { stored: claim },
            false => Event::Deferred { seq: claim.seq },
        };
        let ended = self.dice.place_in(&self.running).map(|i| ended(&self.running[i], done()));
        for event in [Some(unwritten), ended, Some(Event::Tick)].into_iter().flatten() {
            self.world.state.step(event, self.world.now);
        }
        self.asked.clear();
        self.read.clear();
        self.running.clear();
        self.up = [None; 2];

        let rows = self.world.die();
        let portion = 1 + self.dice.index(8);
        for rows in rows.chunks(portion).chain([[].as_slice()]) {
            self.batch([Event::Recovered { rows: rows.to_vec() }]);
            assert!(self.running.is_empty(), "nothing can start before a plugin is up");
        }
    }

    /// One batch, as the writer makes it: the events, then the time, then a commit that takes a while.
    fn batch(&mut self, events: impl IntoIterator<Item = Event>) {
        let now = self.world.now;
        let step = |event| self.world.state.step(event, now);
        let effects: Vec<_> = events.into_iter().chain([Event::Tick]).flat_map(step).collect();
        let stall_ms = self.dice.one_of(&[0, 0, 0, 20]);
        self.world.advance(Duration::from_millis(stall_ms));
        self.world.commit();
        starts(&effects).into_iter().for_each(|start| self.started(start));
        for effect in effects {
            if let Effect::Load { lane, from, limit } = effect {
                self.asked.push((lane, from, limit));
            }
        }
        let rows = self.world.jobs.values();
        let ended = rows.clone().filter(|row| row.state == JobState::Completed);
        self.completed.extend(ended.map(|row| row.number));
        if let Some(row) = rows.clone().find(|row| row.state.is_open()) {
            let from = self.world.open_jobs_from;
            assert!(from <= row.number, "open_jobs_from is {from:?}, {:?} is open", row.number);
        }
    }

    fn started(&mut self, start: Start) {
        assert!(!self.completed.contains(&start.job), "{:?} starts after completion", start.job);
        let last = self.attempts.insert(start.job, start.attempt).unwrap_or(0);
        assert!(start.attempt > last, "{:?}: attempt {} after {last}", start.job, start.attempt);
        let row = &self.world.jobs[&start.job];
        assert_eq!(
            (row.state, row.attempts),
            (JobState::Running, start.attempt),
            "{:?}",
            row.number
        );
        self.check_limit(&start);
        self.running.push(start);
    }

    fn check_limit(&mut self, start: &Start) {
        let now = self.world.now.mono;
        let left = self.left.entry(Arc::clone(&start.watcher)).or_default();
        left.push_back(now);
        while left.front().is_some_and(|first| now.since(*first) >= Duration::from_secs(1)) {
            left.pop_front();
        }
        let watcher = &self.world.watchers[&*start.watcher];
        if let Some(limit) = watcher.max_fires_per_second {
            let count = left.len();
            assert!(count <= limit as usize, "{count} starts of {} in a second", start.watcher);
        }
    }
}

/// The plugins.
impl Simulation {
    fn come_up(&mut self, plugin: usize, fewer: bool) {
        self.go_down(plugin);
        self.last_incarnation += 1;
        self.up[plugin] = Some(self.last_incarnation);
        self.batch([Event::PluginUp {
            request: REQUEST,
            plugin: PLUGINS[plugin].parse().unwrap(),
            incarnation: self.last_incarnation,
            version: "1".into(),
            max_in_flight: 6,
            registration: registration(handlers(plugin, fewer), Vec::new()),
        }]);
    }

    fn go_down(&mut self, plugin: usize) {
        if let Some(incarnation) = self.up[plugin].take() {
            self.running.retain(|start| start.plugin.as_str() != PLUGINS[plugin]);
            self.batch([Event::PluginDown {
                plugin: PLUGINS[plugin].parse().unwrap(),
                incarnation,
                reason: "killed".into(),
                crashed: true,
            }]);
        }
    }

    /// A plugin that is up announces other handlers, and is believed or not.
    fn announce(&mut self) {
        let plugin = self.dice.index(PLUGINS.len());
        let mut registration = registration(handlers(plugin, self.dice.below(2) == 0), Vec::new());
        registration.doubtful = self.dice.below(2) == 0;
        if let Some(incarnation) = self.up[plugin] {
            let plugin = PLUGINS[plugin].parse().unwrap();
            self.batch([Event::Announced { request: REQUEST, plugin, incarnation, registration }]);
        }
    }

    fn end_any(&mut self) {
        let Some(place) = self.dice.place_in(&self.running) else { return };
        let outcome = match self.dice.below(10) {
            0 => busy(),
            1 => Outcome::NotNow {
                after: Some(Duration::from_millis(300)),
                error: "not now".into(),
                overloaded: false,
            },
            2 => lost(),
            3 => Outcome::Permanent { error: "never".into() },
            _ => done(),
        };
        self.end_one(place, outcome);
    }

    fn end_one(&mut self, place: usize, outcome: Outcome) {
        let start = self.running.remove(place);
        self.batch([ended(&start, outcome)]);
    }

    /// A plugin's connection breaks under all that it runs.
    fn lose_connection(&mut self) {
        let plugin = self.dice.one_of(&PLUGINS);
        let here = |start: &mut Start| start.plugin.as_str() == plugin;
        let cut: Vec<_> = self.running.extract_if(.., here).collect();
        self.batch(cut.iter().map(|start| ended(start, lost())));
    }
}

/// The people.
impl Simulation {
    fn declare(&mut self, watcher: u64, max_fires_per_second: i64) {
        let handler = HANDLERS[(watcher % 3) as usize];
        let declaration = Declaration {
            max_fires_per_second,
            ..on_predicate(&format!("w{watcher}"), PREDICATES[predicate_of(watcher)], handler)
        };
        self.batch([Event::Declare { request: REQUEST, declaration }]);
    }

    fn command(&mut self, watcher: u64, command: WatcherCommand) {
        let local = format!("w{watcher}").parse().unwrap();
        let watcher = WatcherKey { owner: Owner::User, local };
        self.batch([Event::Command { request: REQUEST, watcher, command }]);
    }

    /// Removes a watcher, and half of the time declares it again.
    fn remove(&mut self) {
        let watcher = self.dice.below(WATCHERS);
        self.command(watcher, WatcherCommand::Remove);
        if self.dice.below(2) == 0 {
            self.declare(watcher, 0);
        }
    }

    /// Somebody wants any job at all to be tried again, and may well be refused.
    fn redrive(&mut self) {
        let rows: Vec<_> = self.world.jobs.values().collect();
        if let Some(place) = self.dice.place_in(&rows) {
            let row = Box::new(rows[place].clone());
            self.batch([Event::Redrive { request: REQUEST, row }]);
        }
    }
}

fn ended(start: &Start, outcome: Outcome) -> Event {
    Event::AttemptEnded {
        job: start.job,
        attempt: start.attempt,
        incarnation: start.incarnation,
        ended: Ended { outcome, quick: true, progress: None, cost: None },
    }
}

/// What a plugin announces. `y` moves from one to the other, and may be at both or at neither.
fn handlers(plugin: usize, other: bool) -> &'static [&'static str] {
    match (plugin, other) {
        (0, false) => &["x", "y"],
        (0, true) => &["x"],
        (_, false) => &["z"],
        (_, true) => &["z", "y"],
    }
}

/// Which of the predicates a watcher waits for.
fn predicate_of(watcher: u64) -> usize {
    (watcher % 2) as usize
}

/// Xorshift: all that a seed decides, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..10).for_each(|_| {
            dice.below(2);
        });
        dice
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    fn place_in<T>(&mut self, of: &[T]) -> Option<usize> {
        (!of.is_empty()).then(|| self.index(of.len()))
    }
}
