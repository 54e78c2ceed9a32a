//! Carries a plan out: the writer, the store, the plugins and the people around the core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axwatch_core::{
    Answer, Bounds, Declaration, Effect, Ended, EnqueueAsk, Event, JobEntry, NextSegment, Outcome,
    ParentAsk, Policy, Registration, Report, RequestId, RetryLimits, RetryPolicy, Since, Start,
    WatcherCommand, Writes,
};
use axwatch_model::{
    Asker, Declared, JobNumber, JobRow, JobState, LaneKey, LeafNumber, Lineage, LineageKind, Mono,
    Owner, Place, Seq, Stored, StructuralFilter, Timestamp, WatcherKey, WatcherNumber,
};

use crate::bugs::Bug;
use crate::model::{self, Accepted, Model};
use crate::plan::{
    Action, Asking, Death, PLUGIN_WATCHERS, PLUGINS, PREDICATES, Plan, Step, WATCHERS,
    WATCHERS_OF_ALL, Wanted,
};
use crate::world::{
    World, ask, busy, done, lost, on_predicate, policy, registration, starts, stored,
};

const REQUEST: RequestId = RequestId(1);
/// Attempts that a plugin may have in flight.
const SLOTS_MAX: u32 = 6;
/// Far more than any healing needs.
const HEALING_STEPS_MAX: u32 = 2_000;
/// A text that is no AX.
const NO_AX: &str = "is 'p0";

/// A running simulation.
pub struct Simulation {
    pub world: World,
    pub model: Model,
    bug: Option<Bug>,
    log: BTreeMap<u64, Arc<Stored>>,
    /// How many engines have started.
    lives: u64,
    /// How each commit of the step at hand goes.
    deaths: VecDeque<Option<Death>>,
    stall_ms: u64,
    disk_low: bool,
    /// The process of each plugin that is up, and what it announced.
    up: [Option<(u64, &'static [&'static str])>; 2],
    last_incarnation: u64,
    /// Announcements that have not been answered.
    unanswered: usize,
    running: Vec<Start>,
    /// Calls that were told to stop and have not.
    stopping: Vec<Start>,
    /// Attempts that are over, answered or not.
    over: Vec<Start>,
    /// What each job had cost when its attempt began, and what that has told it costs.
    costs: BTreeMap<JobNumber, (f64, Option<f64>)>,
    /// Reads that the store has yet to make, and those that the core has yet to be told of.
    lanes_asked: Vec<(LaneKey, Place, usize)>,
    lanes_read: Vec<(LaneKey, Vec<JobRow>)>,
    segments_asked: Vec<NextSegment>,
    segments_read: Vec<Event>,
    /// Handlers that fail whatever they are asked.
    sick: BTreeSet<&'static str>,
    /// Watchers whose text this engine does not understand, and what it was.
    broken: BTreeMap<String, Declared>,
    /// When each watcher's attempts of the last second left.
    left: BTreeMap<Arc<str>, VecDeque<Mono>>,
}

/// Runs a whole plan, and heals the world in the end.
pub fn run(plan: &Plan, bug: Option<Bug>) -> Simulation {
    let mut simulation = Simulation::new(plan, bug);
    for step in &plan.steps {
        simulation.step(step);
    }
    simulation.heal();
    simulation.check_the_end();
    simulation
}

impl Simulation {
    fn new(plan: &Plan, bug: Option<Bug>) -> Simulation {
        let bounds = Bounds {
            lane_waiting_max: 4,
            lane_delayed_max: 3,
            jobs_in_memory_max: 14,
            open_jobs_max: 120,
            watcher_open_jobs_max: plan.watcher_open_jobs_max,
            withdrawn_at_once_max: 2,
            announced_at_once_max: 1,
            ..Bounds::default()
        };
        let retry = RetryPolicy {
            counted_max: model::ATTEMPTS_MAX,
            age_max: model::AGE_MAX,
            ..RetryPolicy::default()
        };
        let limits =
            |max_attempts: u32, max_age| RetryLimits { max_attempts: Some(max_attempts), max_age };
        let [a, b] = PLUGINS.map(|name| name.parse().unwrap());
        let handlers = BTreeMap::from([
            ((a, Some("x".parse().unwrap())), limits(model::HANDLER_ATTEMPTS_MAX, None)),
            ((b, None), limits(model::PLUGIN_ATTEMPTS_MAX, Some(model::PLUGIN_AGE_MAX))),
        ]);
        Simulation {
            world: World::with(Policy { bounds, retry, handlers, ..policy() }),
            model: Model::default(),
            bug,
            log: BTreeMap::new(),
            lives: 0,
            deaths: VecDeque::new(),
            stall_ms: 0,
            disk_low: false,
            up: [None; 2],
            last_incarnation: 0,
            unanswered: 0,
            running: Vec::new(),
            stopping: Vec::new(),
            over: Vec::new(),
            costs: BTreeMap::new(),
            lanes_asked: Vec::new(),
            lanes_read: Vec::new(),
            segments_asked: Vec::new(),
            segments_read: Vec::new(),
            sick: BTreeSet::new(),
            broken: BTreeMap::new(),
            left: BTreeMap::new(),
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn step(&mut self, step: &Step) {
        self.deaths = step.deaths.iter().copied().collect();
        self.stall_ms = step.stall_ms;
        // In a batch of its own: the model does not know of what fires and is retired in one.
        if self.world.state.is_announcing() && !self.disk_low {
            self.batch_alone(Event::TakeAnnounced);
        }
        self.act(&step.action);
        self.deaths.clear();
        self.stall_ms = 0;
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Claims { many, predicate, with_segment } => {
                self.claims(many, PREDICATES[predicate], with_segment);
            }
            Action::CatchUp { many } => self.catch_up(many),
            Action::ClaimOfJob { pick, named, stale, predicate } => {
                self.claim_of_job(pick, named, stale, PREDICATES[predicate]);
            }
            Action::End { pick, how, twice } => self.end_any(pick, how, twice),
            Action::AnswerLate { pick, how } => self.answer_late(pick, how),
            Action::Sick { handler } => {
                if !self.sick.remove(handler) {
                    self.sick.insert(handler);
                }
            }
            Action::LoseConnection { plugin } => self.lose_connection(PLUGINS[plugin]),
            Action::ReadLane { pick } => self.read_lane(pick),
            Action::TellLane { pick } => self.tell_lane(pick),
            Action::AskSegment => self.segments_asked.extend(self.world.state.next_segment()),
            Action::ReadSegment { pick, rows } => self.read_segment(pick, rows),
            Action::TellSegment { pick } => {
                if let Some(segment) = take(&mut self.segments_read, pick) {
                    self.batch(vec![segment]);
                }
            }
            Action::Pass { ms } => self.pass(Duration::from_millis(ms)),
            Action::SetClock { by_ms } => {
                let ms = self.world.now.wall.ms().saturating_add(by_ms);
                self.world.now.wall = Timestamp::from_ms_clamped(ms);
                self.batch(Vec::new());
            }
            Action::ComeUp { plugin, fewer, watches } => self.come_up(plugin, fewer, watches),
            Action::Announce { plugin, fewer, watches, doubtful } => {
                self.announce(plugin, fewer, watches, doubtful);
            }
            Action::GoDown { plugin, crashed } => self.go_down(plugin, crashed),
            Action::Disable { plugin } => self.disable(plugin),
            Action::Declare { watcher, ref wanted, since } => self.declare(watcher, wanted, since),
            Action::Remove { watcher } => self.command(watcher, WatcherCommand::Remove),
            Action::Pause { watcher, skip } => {
                self.command(watcher, WatcherCommand::Pause { skip })
            }
            Action::Resume { watcher, drop } => {
                self.command(watcher, WatcherCommand::Resume { drop });
            }
            Action::Mute { watcher, for_ms, drop } => {
                let until = self.world.now.wall.plus(Duration::from_millis(for_ms));
                self.command(watcher, WatcherCommand::Mute { until, drop });
            }
            Action::Unmute { watcher, drop } => {
                self.command(watcher, WatcherCommand::Unmute { drop });
            }
            Action::Replay { watcher, from, to } => {
                let matched = self.world.matched_seq.0;
                let (from, to) = (1 + from % (matched + 1), 1 + to % (matched + 1));
                let (from, to) = (Seq(from.min(to)), Seq(from.max(to)));
                self.command(watcher, WatcherCommand::Replay { from, to });
            }
            Action::StopReplay { watcher } => self.command(watcher, WatcherCommand::StopReplay),
            Action::Redrive { pick } => self.ask_of_job(pick, true),
            Action::Discard { pick } => self.ask_of_job(pick, false),
            Action::Ask { handler, by, priority, source, parent, own, together } => {
                let parent = parent.map(|pick| (pick, own));
                self.ask(handler, by, priority, source, parent, together);
            }
            Action::Cancel { pick, together } => self.cancel(pick, together),
            Action::PauseJob { pick } => self.pause_or_resume(pick, true),
            Action::ResumeJob { pick } => self.pause_or_resume(pick, false),
            Action::Report { pick, stale, cost, entries } => {
                self.report(pick, stale, cost.map(f64::from), entries);
            }
            Action::Stopped { pick, how } => self.end_stopped(pick, how),
            Action::DiskLow { low } => {
                if low != self.disk_low {
                    self.disk_low = low;
                    self.batch(vec![Event::DiskLow(low)]);
                }
            }
            Action::Retain { many } => self.retain(many),
            Action::Stop => self.stop(),
            Action::Upgrade { watcher } => self.upgrade(watcher),
        }
    }

    /// From here on everything is up and everything succeeds.
    fn heal(&mut self) {
        self.act(&Action::DiskLow { low: false });
        self.sick.clear();
        let paused = self.world.jobs.values().filter(|row| row.state == JobState::Paused);
        for job in paused.map(|row| row.number).collect::<Vec<_>>() {
            self.steer(job, false);
        }
        (0..PLUGINS.len()).for_each(|plugin| self.come_up(plugin, false, true));
        for watcher in 0..WATCHERS_OF_ALL {
            for action in
                [Action::Resume { watcher, drop: false }, Action::Unmute { watcher, drop: false }]
            {
                self.act(&action);
            }
            let known = self.model.number_of(&key_of(watcher).to_string()).is_some();
            if watcher < WATCHERS && known {
                self.declare(watcher, &Wanted::usual(watcher), None);
            }
        }
        // What a plugin had when somebody asked for it, it may have no more.
        let open = self.world.jobs.values().filter(|row| row.state.is_open());
        let lost = open.filter(|row| row.watcher.is_none() && !is_announced(&row.handler));
        for job in lost.map(|row| row.number).collect::<Vec<_>>() {
            self.cancel_job(job, Vec::new());
        }
        self.live_on();
    }

    /// Lets time pass from one moment at which something is due to the next, until there is none.
    fn live_on(&mut self) {
        for _ in 0..HEALING_STEPS_MAX {
            self.settle();
            if self.is_at_rest() {
                return;
            }
            // What is due next is due without anybody's help.
            let leaves = self.running.iter().map(|start| self.world.leaves(start.job));
            let Some(wake) = leaves.chain(self.world.state.next_wake()).min() else { return };
            self.pass(wake.since(self.world.now.mono).max(Duration::from_millis(1)));
        }
    }

    fn is_at_rest(&self) -> bool {
        let catches_up = self.world.passes.values().any(|row| row.ended_at.is_none());
        self.model.nothing_is_open() && !catches_up && self.is_caught_up()
    }

    /// Lets happen what can without time going by.
    fn settle(&mut self) {
        for _ in 0..HEALING_STEPS_MAX {
            if self.world.state.is_announcing() {
                self.batch_alone(Event::TakeAnnounced);
            } else if !self.lanes_asked.is_empty() {
                self.read_lane(0);
            } else if !self.lanes_read.is_empty() {
                self.tell_lane(0);
            } else if !self.stopping.is_empty() {
                self.end_stopped(0, 0);
            } else if let Some(place) = self.running.iter().position(|start| self.has_left(start)) {
                let start = self.running.remove(place);
                self.end_with(start, Ended { quick: true, ..Ended::bare(done()) }, None);
            } else if self.world.state.next_segment().is_some() {
                self.segments_asked = self.world.state.next_segment().into_iter().collect();
                self.segments_read.clear();
                self.read_segment(0, 16);
                self.act(&Action::TellSegment { pick: 0 });
            } else if !self.is_caught_up() && self.world.state.may_match() {
                self.catch_up(8);
            } else {
                return;
            }
        }
        panic!("something goes on without end");
    }

    fn check_the_end(&mut self) {
        self.model.check_rest(&self.world);
        assert_eq!(self.unanswered, 0, "every announcement is answered");
        assert!(self.is_caught_up(), "matching stays behind the log");
        for predicate in PREDICATES {
            let (before, expected) = (self.world.jobs.len(), self.model.jobs_expected(predicate));
            self.claims(1, predicate, false);
            assert_eq!(self.world.jobs.len() - before, expected, "jobs of one more claim");
        }
        let report = self.world.verify_audit();
        assert!(report.ok, "{report:?}");
    }

    /// Everything that a run leaves behind, to be compared with another one.
    pub fn digest(&self) -> String {
        let world = &self.world;
        let root = world.audit.last().map(|audit| audit.head);
        format!(
            "{root:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            world.jobs, world.watchers, world.passes, world.cursors, world.holds, world.handlers
        )
    }
}

/// The writer and the store.
impl Simulation {
    /// One batch, as the writer makes it: the events, then the time, then a commit that takes a while.
    /// Says whether it came to be on the disk.
    fn batch(&mut self, events: Vec<Event>) -> bool {
        self.batch_of(events, Vec::new(), &mut |_, _| Vec::new())
    }

    fn batch_alone(&mut self, event: Event) {
        self.batch(vec![event]);
    }

    /// A batch that brings claims into the log, and of which somebody is answered.
    fn batch_of(
        &mut self,
        events: Vec<Event>,
        claims: Vec<Arc<Stored>>,
        accepted: &mut dyn FnMut(&World, &[Effect]) -> Vec<Accepted>,
    ) -> bool {
        let now = self.world.now;
        let death = self.deaths.pop_front().flatten();
        let mut effects = Vec::new();
        for event in events.into_iter().chain([Event::Tick]) {
            let is_announced = matches!(event, Event::PluginUp { .. } | Event::Announced { .. });
            self.unanswered += usize::from(is_announced);
            if !self.bug.is_some_and(|bug| bug.drops(&event)) {
                effects.extend(self.world.state.step(event, now));
            }
        }
        if death == Some(Death::BeforeCommit) {
            self.die_before_commit(&effects);
            return false;
        }
        self.world.advance(Duration::from_millis(self.stall_ms));
        let writes = self.world.state.take_writes(false);
        self.write(writes, death);
        for claim in claims {
            self.world.seq = claim.seq.0;
            self.model.claim(&claim);
            self.log.insert(claim.seq.0, claim);
        }
        self.unanswered -= effects.iter().filter(|effect| is_registered(effect)).count();
        let accepted = accepted(&self.world, &effects);
        let starting = starts(&effects);
        self.model.learn(&self.world, accepted, &starting, now);
        if death == Some(Death::AfterCommit) {
            self.begin_anew();
            return true;
        }
        // When earlier attempts of these jobs left tells nothing.
        starting.iter().for_each(|start| {
            self.world.leave_at.remove(&start.job);
        });
        if !self.has(Bug::CommitsNotTold) {
            self.world.committed();
        }
        let mut to_stop = BTreeSet::new();
        for effect in effects {
            match effect {
                Effect::Load { lane, from, limit } => self.lanes_asked.push((lane, from, limit)),
                Effect::CancelAttempt { job, attempt } => drop(to_stop.insert((job, attempt))),
                _ => {}
            }
        }
        for start in starting {
            match to_stop.remove(&(start.job, start.attempt)) {
                true => self.stopping.push(start),
                false => self.started(start),
            }
        }
        to_stop.into_iter().for_each(|(job, attempt)| self.told_to_stop(job, attempt));
        true
    }

    fn write(&mut self, mut writes: Writes, death: Option<Death>) {
        if self.has(Bug::IdsByTheClock) {
            let now = self.world.now.mono.0;
            for row in writes.jobs.iter_mut().filter(|row| row.attempts == 0) {
                row.id.0[..8].copy_from_slice(&now.to_be_bytes());
            }
        }
        if self.has(Bug::AuditApart) && death.is_some() {
            writes.audit = None;
        }
        if self.has(Bug::MarkTooHigh) {
            writes.open_jobs_from = writes
                .open_jobs_from
                .map(|from| JobNumber((from.0 + 1).min(self.world.state.last_job().0)));
        }
        if self.has(Bug::WithdrawnUnwritten) {
            writes.withdrawn.clear();
        }
        self.world.apply(writes);
    }

    fn die_before_commit(&mut self, effects: &[Effect]) {
        if self.has(Bug::SentBeforeCommit) {
            starts(effects).into_iter().for_each(|start| self.started(start));
        }
        if self.has(Bug::CursorsAlone) {
            let writes = self.world.state.take_writes(false);
            let kept = Writes {
                passes: writes.passes,
                passes_gone: writes.passes_gone,
                cursors: writes.cursors,
                cursors_gone: writes.cursors_gone,
                ..Writes::default()
            };
            self.world.apply(kept);
        }
        self.begin_anew();
    }

    /// The engine is gone with all that it had in memory, and starts again on what was written.
    fn begin_anew(&mut self) {
        self.lives += 1;
        self.lanes_asked.clear();
        self.lanes_read.clear();
        self.segments_asked.clear();
        self.segments_read.clear();
        self.running.clear();
        self.stopping.clear();
        self.over.clear();
        self.costs.clear();
        self.disk_low = false;
        self.unanswered = 0;
        self.up = [None; 2];
        // What had not left yet never will.
        let died = self.world.now.mono;
        self.left.values_mut().for_each(|left| left.retain(|at| *at <= died));
        // Once declared anew, a watcher has the text that it was declared with.
        let no_ax = Declared::Ax(NO_AX.to_owned());
        self.broken.retain(|shown, _| self.world.watchers[shown].declared == no_ax);
        self.model.died(&self.broken.keys().cloned().collect());

        let mut snapshot = self.world.snapshot();
        let mut now = self.world.now;
        if self.has(Bug::HoldsForgotten) {
            snapshot.holds.clear();
        }
        if self.has(Bug::PassesForgotten) {
            snapshot.passes.clear();
        }
        if self.has(Bug::KinForgotten) {
            snapshot.above.clear();
        }
        if self.has(Bug::LimitsForgotten) {
            now.mono = Mono(now.mono.0 - 1_000_000_000);
        }
        if self.has(Bug::CountersTwice) {
            self.world.counters.0 = LeafNumber(0);
        }
        let from = self.world.open_jobs_from;
        let mut open = self.world.start(snapshot, now);
        open.rows.retain(|row| {
            self.bug != Some(Bug::RunningForgotten) || row.state != JobState::Running
        });
        open.asked.retain(|job| match self.bug {
            Some(Bug::PausedForgotten) => job.state != JobState::Paused,
            Some(Bug::AskedByTheMark) => job.number >= from,
            _ => true,
        });
        let portion = 1 + (self.lives * 3 % 8) as usize;
        let life = self.lives;
        for event in open.events(portion) {
            self.batch(vec![event]);
            if self.lives != life {
                return;
            }
            assert!(self.running.is_empty(), "nothing can start before a plugin is up");
        }
        self.model.recovered(&self.world);
    }

    /// The engine ends in order: nothing starts any more, and everything is written.
    fn stop(&mut self) {
        self.batch(vec![Event::Drain]);
        let writes = self.world.state.take_writes(true);
        self.write(writes, None);
        self.model.learn(&self.world, Vec::new(), &[], self.world.now);
        self.begin_anew();
    }

    /// Another engine takes over that does not understand a watcher's text, or does so again.
    fn upgrade(&mut self, watcher: usize) {
        let shown = key_of(watcher).to_string();
        let Some(row) = self.world.watchers.get_mut(&shown) else { return };
        if !self.model.is_standing(&shown) {
            return;
        }
        let no_ax = Declared::Ax(NO_AX.to_owned());
        match self.broken.remove(&shown) {
            Some(declared) if row.declared == no_ax => row.declared = declared,
            _ => {
                let declared = std::mem::replace(&mut row.declared, no_ax);
                self.broken.insert(shown, declared);
            }
        }
        self.begin_anew();
    }

    fn started(&mut self, start: Start) {
        let row = self.world.jobs.get(&start.job).map(|row| (row.state, row.attempts));
        assert_eq!(row, Some((JobState::Running, start.attempt)), "{:?} is sent", start.job);
        assert!(!self.disk_low, "{:?} starts while the disk is nearly full", start.job);
        let plugin = PLUGINS.iter().position(|name| start.plugin.as_str() == *name);
        let up = plugin.and_then(|plugin| self.up[plugin]);
        let up = up.filter(|(incarnation, _)| *incarnation == start.incarnation);
        let announced = up.is_some_and(|(_, handlers)| handlers.contains(&&*start.handler));
        assert!(announced, "{start:?} starts at {up:?}");
        self.check_limit(&start);
        let cost = self.world.jobs[&start.job].cost.unwrap_or_default();
        self.costs.insert(start.job, (cost, None));
        let here = |other: &&Start| other.plugin == start.plugin;
        let beside = self.running.iter().chain(&self.stopping).filter(here).count();
        assert!(beside < SLOTS_MAX as usize, "{start:?} starts beside {beside} others");
        self.running.push(start);
    }

    fn told_to_stop(&mut self, job: JobNumber, attempt: u32) {
        let is_it = |start: &Start| (start.job, start.attempt) == (job, attempt);
        if let Some(place) = self.running.iter().position(is_it) {
            self.stopping.push(self.running.remove(place));
        } else {
            // Its process is gone.
            assert!(self.over.iter().any(is_it), "{job:?} never ran");
        }
    }

    fn check_limit(&mut self, start: &Start) {
        let at = match self.has(Bug::LeavesAtOnce) {
            true => self.world.now.mono,
            false => self.world.leaves(start.job),
        };
        self.model.leaves(start.job, self.world.leaves(start.job));
        if start.watcher.is_empty() {
            return;
        }
        let left = self.left.entry(Arc::clone(&start.watcher)).or_default();
        left.push_back(at);
        while left.front().is_some_and(|first| at.since(*first) >= Duration::from_secs(1)) {
            left.pop_front();
        }
        let watcher = &self.world.watchers[&*start.watcher];
        if let Some(limit) = watcher.max_fires_per_second {
            let count = left.len();
            assert!(count <= limit as usize, "{count} starts of {} in a second", start.watcher);
        }
    }

    /// So many claims enter the log in one batch, and are matched at once unless matching is behind.
    fn claims(&mut self, many: usize, predicate: &str, with_segment: bool) {
        let claims = (1..=many as u64)
            .map(|n| stored(self.world.seq + n, "s", predicate, self.world.now))
            .collect();
        self.append(claims, with_segment);
    }

    fn append(&mut self, claims: Vec<Stored>, with_segment: bool) {
        let claims: Vec<_> = claims.into_iter().map(Arc::new).collect();
        let behind = !self.is_caught_up() || !self.world.state.may_match();
        let mut events = Vec::new();
        if with_segment {
            events.extend(take(&mut self.segments_read, 0));
        }
        // That too many jobs are open may show in the middle of a batch; then the claims after it
        // pass the bound a little, and it shows in the next.
        events.extend(claims.iter().map(|claim| match behind {
            true => Event::Deferred { stored: Arc::clone(claim) },
            false => Event::Match { stored: Arc::clone(claim) },
        }));
        self.batch_of(events, claims, &mut |_, _| Vec::new());
    }

    /// Matches the next claims behind the head.
    fn catch_up(&mut self, many: usize) {
        if self.is_caught_up() || !self.world.state.may_match() {
            return;
        }
        let next = self.log.range(self.world.matched_seq.0 + 1..).take(many);
        let events = next.map(|(_, stored)| Event::Match { stored: Arc::clone(stored) }).collect();
        self.batch(events);
    }

    fn is_caught_up(&self) -> bool {
        self.world.matched_seq == Seq(self.world.seq)
    }

    fn read_lane(&mut self, pick: u64) {
        let Some((lane, from, limit)) = take(&mut self.lanes_asked, pick) else { return };
        let mut rows = self.world.read(&lane, from, limit);
        if self.has(Bug::ReadByNumber) {
            rows = self.world.read(&lane, from, usize::MAX);
            rows.sort_by_key(|row| row.number);
            rows.truncate(limit);
        }
        if self.has(Bug::ReadsClosedJobs) {
            let of_lane = |row: &&JobRow| row.lane() == lane;
            let jobs = self.world.jobs.values().filter(|row| row.place() >= from);
            rows = jobs.filter(of_lane).take(limit).cloned().collect();
            rows.iter_mut().for_each(|row| row.state = JobState::Queued);
        }
        self.lanes_read.push((lane, rows));
    }

    fn tell_lane(&mut self, pick: u64) {
        if let Some((lane, rows)) = take(&mut self.lanes_read, pick) {
            self.batch(vec![Event::Loaded { lane, rows }]);
        }
    }

    /// What is read may lie beyond what was asked for, as the log has grown meanwhile.
    fn read_segment(&mut self, pick: u64, many: usize) {
        let Some(NextSegment { after, upto }) = take(&mut self.segments_asked, pick) else {
            return;
        };
        let rows: Vec<_> =
            self.log.range(after.0 + 1..).take(many).map(|(_, row)| Arc::clone(row)).collect();
        let end = match rows.last() {
            Some(last) if rows.len() >= many && !self.has(Bug::SegmentCutShort) => {
                last.seq.min(upto)
            }
            _ => upto,
        };
        self.segments_read.push(Event::Segment { after, upto: end, rows, aliases: Arc::default() });
    }

    /// Removes some of the oldest claims, if nobody needs them.
    fn retain(&mut self, many: usize) {
        // The writer reads and tells in one go, so that nothing is removed between.
        self.segments_asked.clear();
        self.segments_read.clear();
        let upto = match self.has(Bug::RemovedByAge) {
            true => self.world.matched_seq,
            false => self.world.state.lowest_position(),
        };
        let needed: BTreeSet<_> = (self.world.jobs.values())
            .filter(|row| row.state.is_open() || row.state == JobState::Failed)
            .filter_map(|row| row.seq)
            .collect();
        let seqs = self.log.range(..=upto.0).map(|(seq, _)| *seq);
        let free = seqs.filter(|seq| !needed.contains(&Seq(*seq)));
        for seq in free.take(many).collect::<Vec<_>>() {
            self.log.remove(&seq);
            self.model.removed(seq);
        }
    }

    fn pass(&mut self, span: Duration) {
        self.world.advance(span);
        self.batch(Vec::new());
    }
}

/// The plugins.
impl Simulation {
    fn registration(&self, plugin: usize, fewer: bool, watches: bool) -> Registration {
        let all =
            (0..WATCHERS_OF_ALL).filter(|watcher| watches && plugin_of(*watcher) == Some(plugin));
        let declared = all.map(|watcher| declaration(watcher, &Wanted::usual(watcher), None));
        registration(handlers(plugin, fewer), declared.collect())
    }

    fn come_up(&mut self, plugin: usize, fewer: bool, watches: bool) {
        self.go_down(plugin, true);
        self.last_incarnation += 1;
        let incarnation = self.last_incarnation;
        self.up[plugin] = Some((incarnation, handlers(plugin, fewer)));
        let up = Event::PluginUp {
            request: REQUEST,
            plugin: PLUGINS[plugin].parse().unwrap(),
            incarnation,
            version: "1".into(),
            max_in_flight: SLOTS_MAX,
            registration: self.registration(plugin, fewer, watches),
        };
        // In one batch with it: a death between the two would leave it disabled.
        let (name, by) = (PLUGINS[plugin].parse().unwrap(), "user".to_owned());
        let enabled = Event::PluginEnabled { request: REQUEST, plugin: name, by };
        self.batch(vec![enabled, up]);
    }

    /// A plugin that is up announces other handlers, and is believed or not.
    fn announce(&mut self, plugin: usize, fewer: bool, watches: bool, doubtful: bool) {
        let Some((incarnation, _)) = self.up[plugin] else { return };
        let mut registration = self.registration(plugin, fewer, watches);
        registration.doubtful = doubtful;
        self.up[plugin] = Some((incarnation, handlers(plugin, fewer)));
        let name = PLUGINS[plugin].parse().unwrap();
        self.batch(vec![Event::Announced {
            request: REQUEST,
            plugin: name,
            incarnation,
            registration,
        }]);
    }

    /// A person disables a plugin: what it has is retired, and then its process is gone.
    fn disable(&mut self, plugin: usize) {
        let name = PLUGINS[plugin].parse().unwrap();
        self.batch(vec![Event::PluginDisabled {
            request: REQUEST,
            plugin: name,
            by: "user".into(),
        }]);
        self.go_down(plugin, false);
    }

    fn go_down(&mut self, plugin: usize, crashed: bool) {
        let Some((incarnation, _)) = self.up[plugin].take() else { return };
        let here = |start: &mut Start| start.plugin.as_str() == PLUGINS[plugin];
        self.over.extend(self.running.extract_if(.., here));
        self.over.extend(self.stopping.extract_if(.., here));
        self.batch(vec![Event::PluginDown {
            plugin: PLUGINS[plugin].parse().unwrap(),
            incarnation,
            reason: "killed".into(),
            crashed,
        }]);
    }

    /// Whether an attempt has left, as far as its limit allowed it.
    fn has_left(&self, start: &Start) -> bool {
        self.world.leaves(start.job) <= self.world.now.mono
    }

    fn outcome(&self, start: &Start, how: u64) -> Outcome {
        match how {
            4.. if self.sick.contains(&*start.handler) => busy(),
            0 => lost(),
            1 => Outcome::Permanent { error: "never".into() },
            2 => Outcome::NotNow {
                after: Some(Duration::from_millis(300)),
                error: "not now".into(),
                overloaded: true,
            },
            3 => Outcome::NoHandler { error: "no such handler".into() },
            4 | 5 => busy(),
            6 => Outcome::Retryable { error: "no answer".into(), missed_deadline: true },
            _ => done(),
        }
    }

    fn end_any(&mut self, pick: u64, how: u64, twice: bool) {
        let left = |start: &&Start| self.has_left(start);
        let left: Vec<_> = self.running.iter().filter(left).map(|start| start.job).collect();
        let Some(job) = pick_of(&left, pick) else { return };
        let place = self.running.iter().position(|start| start.job == job);
        let start = self.running.remove(place.expect("listed above"));
        let outcome = self.outcome(&start, how);
        let lost = matches!(outcome, Outcome::Lost { .. });
        // Some say what they cost, and some have something to say.
        let cost = (pick.is_multiple_of(3) && !lost).then_some((pick % 7) as f64);
        let many = if pick.is_multiple_of(5) && !lost { 2 } else { 0 };
        let ended = Ended { quick: true, cost, entries: entries(many), ..Ended::bare(outcome) };
        let again = twice.then(|| ended.clone());
        self.end_with(start, ended, again);
    }

    /// An attempt ends, and perhaps once more.
    fn end_with(&mut self, start: Start, ended: Ended, again: Option<Ended>) {
        let job = start.job;
        let (before, told) = self.costs[&job];
        let cost = ended.cost.or(told).map(|cost| before + cost).unwrap_or(before);
        let events = [ended].into_iter().chain(again);
        let life = self.lives;
        self.over.push(start.clone());
        self.batch(events.map(|ended| ended_so(&start, ended)).collect());
        if self.lives == life {
            let row = &self.world.jobs[&job];
            assert_eq!(row.cost.unwrap_or_default(), cost, "what {row:?} has cost");
        }
    }

    /// A call that was told to stop is given up, or answered just before.
    fn end_stopped(&mut self, pick: u64, how: u64) {
        let Some(start) = take(&mut self.stopping, pick) else { return };
        let outcome = if how < 10 { lost() } else { self.outcome(&start, how) };
        self.over.push(start.clone());
        self.unheard(start.job, |simulation| simulation.batch_alone(ended(&start, outcome)));
    }

    /// Whatever happens, it changes nothing of what became of a job.
    fn unheard(&mut self, job: JobNumber, happens: impl FnOnce(&mut Simulation)) {
        let said = |simulation: &Simulation| {
            let row = &simulation.world.jobs[&job];
            (row.progress, row.cost, row.entries, simulation.model.counted(job))
        };
        let (before, completed) = (said(self), self.model.is_completed(job));
        let (life, attempts) = (self.lives, self.world.jobs[&job].attempts);
        happens(self);
        // An engine that died just then has ended attempts of its own, and a retry that was due has begun anew.
        if self.lives == life && self.world.jobs[&job].attempts == attempts {
            let after = (said(self), self.model.is_completed(job));
            assert_eq!((before, completed), after, "something late changed {job:?}");
        }
    }

    /// An attempt tells how far it is.
    fn report(&mut self, pick: u64, stale: bool, cost: Option<f64>, many: usize) {
        let from = if stale { &self.over } else { &self.running };
        let ready: Vec<_> = from.iter().filter(|start| self.has_left(start)).cloned().collect();
        let places: Vec<_> = (0..ready.len()).collect();
        let Some(start) = pick_of(&places, pick).map(|place| ready[place].clone()) else { return };
        let report = Report {
            job: start.job,
            attempt: Some(start.attempt),
            incarnation: start.incarnation,
            progress: cost.map(|cost| (cost as i32, 9)),
            cost,
            entries: entries(many),
        };
        let event = Event::Progress { request: REQUEST, report: Box::new(report) };
        if stale {
            self.unheard(start.job, |simulation| simulation.batch_alone(event));
        } else if self.batch(vec![event])
            && let Some((_, told)) = self.costs.get_mut(&start.job)
        {
            *told = cost.or(*told);
        }
    }

    /// A plugin's connection breaks under all that it runs.
    fn lose_connection(&mut self, plugin: &str) {
        let died = self.world.now.mono;
        let leaves: BTreeMap<_, _> =
            self.running.iter().map(|start| (start.job, self.world.leaves(start.job))).collect();
        let here =
            |start: &mut Start| start.plugin.as_str() == plugin && leaves[&start.job] <= died;
        let cut: Vec<_> = self.running.extract_if(.., here).collect();
        // The end of one may stop another that is a part of it, and whose end is in the same batch.
        self.over.extend(cut.iter().cloned());
        self.batch(cut.iter().map(|start| ended(start, lost())).collect());
    }

    /// Something comes of an attempt that is over.
    fn answer_late(&mut self, pick: u64, how: u64) {
        let Some(start) = take(&mut self.over, pick) else { return };
        let job = start.job;
        let mut event = ended(&start, self.outcome(&start, how));
        let current = self.running.iter().find(|start| start.job == job);
        if let (true, Some(current)) = (self.has(Bug::OldAnswerTaken), current) {
            event = ended(current, self.outcome(&start, how));
        }
        self.unheard(job, |simulation| simulation.batch_alone(event));
    }

    /// A plugin makes a claim on behalf of a job, or one that was its job, and says so or not.
    fn claim_of_job(&mut self, pick: u64, named: bool, stale: bool, predicate: &str) {
        let of = if stale { self.over.as_slice() } else { self.running.as_slice() };
        let ready: Vec<_> = of.iter().filter(|start| self.has_left(start)).collect();
        // Half of the time whoever is furthest down a chain goes on with it.
        let furthest = ready.iter().max_by_key(|start| self.chain_of(start).len()).copied();
        let picked = pick_of(&ready, pick / 2);
        let Some(start) = furthest.filter(|_| pick.is_multiple_of(2)).or(picked) else { return };
        let beside = self.running.iter().filter(|other| other.plugin == start.plugin).count();
        let mut claim = stored(self.world.seq + 1, "s", predicate, self.world.now);
        claim.appended_by = start.plugin.as_str().into();
        claim.lineage = if named || beside == 1 {
            let mut chain = self.chain_of(start);
            chain.push(start.watcher_number);
            let kind = if stale { LineageKind::Stale } else { LineageKind::Sure };
            let depth = chain.len() as u32;
            Lineage { kind, root: None, parent_job: Some(start.id), depth, chain }
        } else {
            Lineage { kind: LineageKind::Unsure, depth: 20, ..Lineage::default() }
        };
        self.append(vec![claim], false);
    }

    fn chain_of(&self, start: &Start) -> Vec<Option<WatcherNumber>> {
        let claim = start.seq.and_then(|seq| self.log.get(&seq.0));
        claim.map(|claim| claim.lineage.chain.clone()).unwrap_or_default()
    }
}

/// The people.
impl Simulation {
    fn declare(&mut self, watcher: usize, wanted: &Wanted, since: Option<u64>) {
        let since = since.map(|since| 1 + since % (self.world.seq + 1));
        let event =
            Event::Declare { request: REQUEST, declaration: declaration(watcher, wanted, since) };
        self.batch_of(vec![event], Vec::new(), &mut |_, effects| {
            let accepted =
                Accepted::Declared { watcher: key_of(watcher), wanted: wanted.clone(), since };
            watcher_answer(effects).then_some(accepted).into_iter().collect()
        });
    }

    fn command(&mut self, watcher: usize, command: WatcherCommand) {
        let key = key_of(watcher);
        let event = Event::Command { request: REQUEST, watcher: key.clone(), command };
        self.batch_of(vec![event], Vec::new(), &mut |_, effects| {
            let accepted = Accepted::Commanded { watcher: key.clone(), command };
            watcher_answer(effects).then_some(accepted).into_iter().collect()
        });
    }

    /// Somebody wants any job at all to be tried again, or given up, and may well be refused.
    fn ask_of_job(&mut self, pick: u64, again: bool) {
        // Mostly one that is over.
        let is_over = |row: &&JobRow| matches!(row.state, JobState::Failed | JobState::Cancelled);
        let over: Vec<_> = self.world.jobs.values().filter(is_over).collect();
        let any: Vec<_> = self.world.jobs.values().collect();
        let from = if pick.is_multiple_of(4) { any } else { over };
        let in_log = |row: &&JobRow| row.seq.is_none_or(|seq| self.log.contains_key(&seq.0));
        let Some(row) = pick_of(&from, pick / 4).filter(in_log) else { return };
        let (row, job) = (Box::new(row.clone()), row.number);
        let event = match again {
            true => self.world.redrive_of(&row, 1),
            false => Event::Discard { request: REQUEST, row },
        };
        self.batch_of(vec![event], Vec::new(), &mut |_, effects| {
            let accepted = match again {
                true => Accepted::Redriven { job },
                false => Accepted::Discarded { job },
            };
            job_answer(effects).then_some(accepted).into_iter().collect()
        });
    }

    fn ask(
        &mut self,
        handler: &str,
        by: Asking,
        priority: i32,
        source: Option<u64>,
        parent: Option<(u64, bool)>,
        together: bool,
    ) {
        let mut id = [7; 16];
        id[..8].copy_from_slice(&self.world.state.last_job().0.to_be_bytes());
        id[8..].copy_from_slice(&self.lives.to_be_bytes());
        let by = match by {
            Asking::User => Asker::User,
            Asking::Plugin(plugin) => Asker::Plugin(PLUGINS[plugin].parse().unwrap()),
        };
        let parent = parent.and_then(|(pick, own)| {
            // Mostly one that is open, and often one that is a part of another.
            let may = |row: &&JobRow| !own || model::may_be_parent(row, &by);
            let any: Vec<_> = self.world.jobs.values().filter(may).collect();
            let open: Vec<_> = any.iter().copied().filter(|row| row.state.is_open()).collect();
            let from = if pick.is_multiple_of(3) { any } else { open };
            let row = pick_of(&from, pick / 3)?;
            Some(ParentAsk { id: row.id, above: self.world.lineage(row) })
        });
        let source = source.map(|source| format!("s{source}")).unwrap_or_default();
        let asked = EnqueueAsk { by, priority, source, parent, ..ask(id, handler) };
        let of = asked.parent.as_ref().filter(|_| together).map(|parent| parent.above[0].number);
        let before = of.and_then(|parent| self.happens_to(parent));
        let again = of.filter(|_| matches!(before, Some(Event::Redrive { .. })));
        let event = Event::Enqueue { request: REQUEST, asked: Box::new(asked.clone()) };
        let events = before.into_iter().chain([event]).collect();
        self.batch_of(events, Vec::new(), &mut |_, effects| {
            let answer = effects.iter().find_map(|effect| match effect {
                Effect::Reply { answer: Answer::Enqueued(answer), .. } => Some(answer.clone()),
                _ => None,
            });
            let answer = answer.expect("who asks for a job is answered");
            let redriven = again.filter(|_| job_answer(effects));
            let redriven = redriven.map(|job| Accepted::Redriven { job });
            redriven.into_iter().chain([Accepted::Asked { asked: asked.clone(), answer }]).collect()
        });
    }

    /// What may become of a job: its attempt ends, or it is tried again.
    fn happens_to(&mut self, job: JobNumber) -> Option<Event> {
        if let Some(place) = self.running.iter().position(|start| start.job == job) {
            let start = self.running.remove(place);
            let outcome = if start.attempt.is_multiple_of(2) { busy() } else { done() };
            self.over.push(start.clone());
            return Some(ended(&start, outcome));
        }
        let row = &self.world.jobs[&job];
        let is_over = matches!(row.state, JobState::Failed | JobState::Cancelled);
        let in_log = row.seq.is_none_or(|seq| self.log.contains_key(&seq.0));
        (is_over && in_log).then(|| self.world.redrive_of(row, 1))
    }

    /// Somebody wants a job cancelled that is mostly open and has others below it.
    fn cancel(&mut self, pick: u64, together: bool) {
        let rows: Vec<_> = self.world.jobs.values().collect();
        let open: Vec<_> = rows.iter().copied().filter(|row| row.state.is_open()).collect();
        let parents: Vec<_> = rows.iter().filter_map(|row| row.asked.as_ref()?.parent).collect();
        let parents: Vec<_> =
            parents.iter().map(|parent| &self.world.jobs[&parent.number]).collect();
        let from = [parents, open, rows].into_iter().nth((pick % 5 / 2) as usize).expect("of 3");
        let Some(row) = pick_of(&from, pick / 5) else { return };
        let job = row.number;
        let mut before = Vec::new();
        if together && let Some(start) = self.running.pop() {
            before.push(ended(&start, busy()));
            self.over.push(start);
        }
        self.cancel_job(job, before);
    }

    fn cancel_job(&mut self, job: JobNumber, before: Vec<Event>) {
        let row = Box::new(self.world.jobs[&job].clone());
        let mut events = before;
        events.push(Event::Cancel { request: REQUEST, row, by: Asker::User });
        self.batch_of(events, Vec::new(), &mut |_, effects| {
            let accepted = Accepted::Cancelled { job };
            job_answer(effects).then_some(accepted).into_iter().collect()
        });
    }

    fn pause_or_resume(&mut self, pick: u64, pause: bool) {
        let wanted = |row: &&JobRow| match row.state {
            JobState::Paused => !pause,
            JobState::Queued | JobState::Running => pause,
            _ => pick.is_multiple_of(16),
        };
        let from: Vec<_> = self.world.jobs.values().filter(wanted).collect();
        let Some(job) = pick_of(&from, pick / 16).map(|row| row.number) else { return };
        self.steer(job, pause);
    }

    fn steer(&mut self, job: JobNumber, pause: bool) {
        let row = Box::new(self.world.jobs[&job].clone());
        let event = match pause {
            true => Event::PauseJob { request: REQUEST, row, by: Asker::User },
            false => Event::ResumeJob { request: REQUEST, row, by: Asker::User },
        };
        self.batch_of(vec![event], Vec::new(), &mut |_, effects| {
            let accepted = match pause {
                true => Accepted::Paused { job },
                false => Accepted::Resumed { job },
            };
            job_answer(effects).then_some(accepted).into_iter().collect()
        });
    }
}

fn job_answer(effects: &[Effect]) -> bool {
    let answer = effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Job(answer), .. } => Some(answer.is_ok()),
        _ => None,
    });
    answer.expect("a job's request is answered")
}

fn watcher_answer(effects: &[Effect]) -> bool {
    let answer = effects.iter().find_map(|effect| match effect {
        Effect::Reply { answer: Answer::Watcher(answer), .. } => Some(answer.is_ok()),
        _ => None,
    });
    answer.expect("a watcher's request is answered")
}

fn ended(start: &Start, outcome: Outcome) -> Event {
    ended_so(start, Ended { quick: true, ..Ended::bare(outcome) })
}

fn ended_so(start: &Start, ended: Ended) -> Event {
    let Start { job, attempt, incarnation, .. } = *start;
    Event::AttemptEnded { job, attempt, incarnation, ended }
}

/// So many things to say.
fn entries(many: usize) -> Vec<JobEntry> {
    let entry =
        |n| JobEntry { level: "info".into(), message: format!("{n}"), ..JobEntry::default() };
    (0..many).map(entry).collect()
}

fn declaration(watcher: usize, wanted: &Wanted, since: Option<u64>) -> Declaration {
    let local = key_of(watcher).local.to_string();
    let predicates: Vec<_> = wanted.predicates.iter().map(|p| (*p).to_owned()).collect();
    let declared = match wanted.in_ax {
        true => Declared::Ax(format!("is {}", predicates.join(" "))),
        false => Declared::Structural(StructuralFilter { predicates, ..Default::default() }),
    };
    Declaration {
        declared,
        handlers: wanted.handlers.iter().map(|&handler| handler.into()).collect(),
        max_fires_per_second: if wanted.never { 0 } else { wanted.limit },
        zero_is_never: wanted.never,
        max_chain: wanted.max_chain,
        max_attempts: wanted.max_attempts,
        max_age: wanted.max_age,
        since: since.map(|since| Since::First(Seq(since))),
        ..on_predicate(&local, "_", "x")
    }
}

/// The watchers are `w0`, `w1` …; the first are people's.
pub fn key_of(watcher: usize) -> WatcherKey {
    let owner = match plugin_of(watcher) {
        None => Owner::User,
        Some(plugin) => Owner::Plugin(PLUGINS[plugin].parse().unwrap()),
    };
    WatcherKey { owner, local: format!("w{watcher}").parse().unwrap() }
}

/// Whose a watcher is; `None` is people's.
fn plugin_of(watcher: usize) -> Option<usize> {
    Some(watcher.checked_sub(WATCHERS)? / PLUGIN_WATCHERS)
}

/// The plugin's watcher that people see under this id.
pub fn plugin_watcher(shown: &str) -> Option<usize> {
    (WATCHERS..WATCHERS_OF_ALL).find(|watcher| key_of(*watcher).to_string() == shown)
}

fn is_registered(effect: &Effect) -> bool {
    matches!(effect, Effect::Reply { answer: Answer::Registered(_), .. })
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

/// Whether one of the plugins has this handler when all is well.
fn is_announced(handler: &str) -> bool {
    let of = |plugin: usize| {
        let names = handlers(plugin, false).iter();
        names.map(move |name| format!("{}/{name}", PLUGINS[plugin]))
    };
    (0..PLUGINS.len()).flat_map(of).any(|name| name == handler)
}

fn pick_of<T: Copy>(of: &[T], pick: u64) -> Option<T> {
    let many = of.len() as u64;
    (many > 0).then(|| of[(pick % many) as usize])
}

fn take<T>(of: &mut Vec<T>, pick: u64) -> Option<T> {
    let many = of.len() as u64;
    (many > 0).then(|| of.remove((pick % many) as usize))
}
