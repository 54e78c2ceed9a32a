//! Long stretches of virtual time: limits under load, and troubles that last for an hour.
//!
//! A [`Drill`] is the core with a writer whose commits take time and plugins that answer as they are
//! told, run from one moment at which something is due to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axwatch_core::{
    Bounds, Declaration, Effect, Ended, EnqueueAsk, Event, Outcome, ParentAsk, Policy, RequestId,
    RetryLimits, Start, WaitReason, WatcherCommand,
};
use axwatch_model::{Asker, JobNumber, JobRow, JobState, Mono, Owner, WatcherKey};

use crate::world::{
    World, ask, busy, done, lost, on_predicate, policy, registration, starts, stored,
};

const SECOND: u64 = 1_000_000_000;
/// How late whoever sleeps wakes up.
const TIMERS_LATE: Duration = Duration::from_millis(1);

/// How an attempt goes: how long it takes, and how it ends.
type Plugin = Box<dyn FnMut(&Start, Mono) -> (Duration, Outcome)>;

struct Drill {
    world: World,
    /// How long a commit takes.
    commit: Duration,
    max_in_flight: u32,
    plugin: Plugin,
    /// Attempts under way, by when they end and in which order they started.
    ends: BTreeMap<(Mono, u64), (Start, Outcome)>,
    /// Events that come with the next batch.
    next: Vec<Event>,
    /// Each attempt, with the moment at which it left.
    left: Vec<(Mono, Start)>,
    /// The most attempts that were under way at a time, since this was set to 0.
    most_at_once: usize,
}

impl Drill {
    fn new(policy: Policy, commit: Duration) -> Drill {
        Drill {
            world: World::with(policy),
            commit,
            max_in_flight: 256,
            plugin: Box::new(|_, _| (Duration::ZERO, done())),
            ends: BTreeMap::new(),
            next: Vec::new(),
            left: Vec::new(),
            most_at_once: 0,
        }
    }

    fn up(&mut self, plugin: &str, handlers: &[&str], watchers: Vec<Declaration>) {
        self.batch([Event::PluginUp {
            request: RequestId(1),
            plugin: plugin.parse().unwrap(),
            incarnation: 1,
            version: "1.0".into(),
            max_in_flight: self.max_in_flight,
            registration: registration(handlers, watchers),
        }]);
    }

    fn declare(&mut self, declaration: Declaration) {
        self.batch([Event::Declare { request: RequestId(2), declaration }]);
    }

    fn command(&mut self, local: &str, command: WatcherCommand) {
        let watcher = WatcherKey { owner: Owner::User, local: local.parse().unwrap() };
        self.batch([Event::Command { request: RequestId(3), watcher, command }]);
    }

    /// A plugin is stopped in order; what it runs ends with it.
    fn down(&mut self, plugin: &str) {
        self.ends.retain(|_, (start, _)| start.plugin.as_str() != plugin);
        self.batch([Event::PluginDown {
            plugin: plugin.parse().unwrap(),
            incarnation: 1,
            reason: "stopped".into(),
            crashed: false,
        }]);
    }

    /// The engine dies with all that is under way, and starts again at once; its plugins are away.
    fn restart(&mut self) {
        let recovered = self.world.die();
        (self.ends, self.next) = (BTreeMap::new(), Vec::new());
        self.batch(recovered);
    }

    fn claims(&mut self, count: u64) {
        let claim = |seq| Event::Match { stored: Arc::new(stored(seq, "x", "p", self.world.now)) };
        let events: Vec<_> = (self.world.seq + 1..=self.world.seq + count).map(claim).collect();
        self.world.seq += count;
        self.batch(events);
    }

    /// One batch, as the writer makes it.
    fn batch(&mut self, events: impl IntoIterator<Item = Event>) {
        let now = self.world.now;
        let events = std::mem::take(&mut self.next).into_iter().chain(events);
        let step = |event| self.world.state.step(event, now);
        let effects: Vec<_> = events.chain([Event::Tick]).flat_map(step).collect();
        self.world.advance(self.commit);
        self.world.commit();
        for start in starts(&effects) {
            let left = self.world.leaves(start.job);
            let (takes, outcome) = (self.plugin)(&start, left);
            let place = (left.plus(takes), self.left.len() as u64);
            self.left.push((left, start.clone()));
            self.ends.insert(place, (start, outcome));
        }
        self.most_at_once = self.most_at_once.max(self.ends.len());
        for effect in effects {
            if let Effect::Load { lane, from, limit } = effect {
                let rows = self.world.read(&lane, from, limit);
                self.next.push(Event::Loaded { lane, rows });
            }
        }
    }

    /// Lets happen all that is due up to a moment.
    fn run(&mut self, span: Duration) {
        let end = self.world.now.mono.plus(span);
        loop {
            let now = self.world.now.mono;
            let ends = self.ends.first_key_value().map(|((at, _), _)| *at);
            let wake = self.world.state.next_wake();
            let reads = (!self.next.is_empty()).then_some(now);
            let next = ends.into_iter().chain(wake).chain(reads).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            if next > now {
                self.world.advance(next.since(now) + TIMERS_LATE);
            }
            let later = self.ends.split_off(&(self.world.now.mono, u64::MAX));
            let due = std::mem::replace(&mut self.ends, later);
            self.batch(due.into_values().map(|(start, outcome)| ended(&start, outcome)));
        }
        self.world.advance(end.since(self.world.now.mono));
    }

    fn count(&self, state: JobState) -> usize {
        self.world.jobs.values().filter(|row| row.state == state).count()
    }

    /// The records of the audit of one type. All of them are canonical JSON.
    fn records(&self, kind: &str) -> Vec<serde_json::Map<String, serde_json::Value>> {
        let lines = self.world.audit.iter().flat_map(|audit| audit.records.lines());
        let values = lines.map(|line| axwatch_core::audit::check_record(line).unwrap());
        values.filter(|record| record["type"] == kind).collect()
    }

    /// The stamps of a watcher's attempts.
    fn stamps(&self, watcher: &str) -> Vec<u64> {
        let of = self.left.iter().filter(|(_, start)| &*start.watcher == watcher);
        of.map(|(left, _)| left.0).collect()
    }
}

fn ended(start: &Start, outcome: Outcome) -> Event {
    Event::AttemptEnded {
        job: start.job,
        attempt: start.attempt,
        incarnation: start.incarnation,
        ended: Ended { quick: true, ..Ended::bare(outcome) },
    }
}

fn limited(local: &str, handler: &str, per_second: i64) -> Declaration {
    Declaration { max_fires_per_second: per_second, ..on_predicate(local, "p", handler) }
}

/// The most stamps in any half-open second.
fn most_in_a_second(stamps: &[u64]) -> usize {
    let ends = |first: &u64| stamps.partition_point(|at| *at < first + SECOND);
    stamps.iter().enumerate().map(|(place, first)| ends(first) - place).max().unwrap_or(0)
}

#[test]
fn the_promised_rate_is_reached_whatever_a_commit_takes() {
    for per_second in [1, 5, 20, 49, 50, 60, 99, 100, 1_000] {
        // With slower ones than these the slots and the reads set the pace of a high limit.
        let slow: &[u64] = if per_second <= 20 { &[100, 400] } else { &[] };
        for commit_ms in [1, 2, 5, 10, 20].iter().chain(slow) {
            let mut drill = Drill::new(policy(), Duration::from_millis(*commit_ms));
            drill.up("demo", &["act"], vec![limited("w", "act", per_second)]);
            drill.claims(12 * per_second as u64 + 10);
            drill.run(Duration::from_secs(12));
            let stamps = drill.stamps("demo-w");
            let most = most_in_a_second(&stamps);
            assert!(most <= per_second as usize, "{most} in a second, of {per_second}");
            // Once the process has shown that it has room for more than four.
            let settled = &stamps[stamps.partition_point(|at| *at < stamps[0] + 2 * SECOND)..];
            let span = settled[settled.len() - 1] - settled[0];
            let reached = (settled.len() - 1) as f64 * SECOND as f64 / span as f64;
            assert!(
                reached >= per_second as f64 * 0.98,
                "{reached:.2} of {per_second} a second, with commits of {commit_ms} ms"
            );
        }
    }
}

/// How many attempts each handler had.
fn shares(drill: &Drill) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    drill.left.iter().for_each(|(_, start)| *shares.entry(&*start.handler).or_default() += 1);
    shares
}

#[test]
fn the_handlers_of_a_watcher_share_its_limit() {
    let cases: [&[(&str, &[&str])]; 2] = [&[("a", &["x"]), ("b", &["y"])], &[("a", &["x", "y"])]];
    for plugins in cases {
        let mut drill = Drill::new(policy(), Duration::from_millis(3));
        plugins.iter().for_each(|(plugin, handlers)| drill.up(plugin, handlers, Vec::new()));
        let handlers = vec!["y".into(), "x".into()];
        drill.declare(Declaration { handlers, ..limited("w", "x", 5) });
        drill.claims(200);
        drill.run(Duration::from_secs(21));
        let shares = shares(&drill);
        assert!(shares["x"].abs_diff(shares["y"]) <= 1, "{plugins:?}: {shares:?}");
        assert!((100..=102).contains(&drill.left.len()), "{plugins:?}: {shares:?}");
        // At every moment, not only in the end.
        let mut ahead = 0_i32;
        for (_, start) in &drill.left {
            ahead += if &*start.handler == "x" { 1 } else { -1 };
            assert!(ahead.abs() <= 1, "{plugins:?}");
        }
    }
}

#[test]
fn a_handler_of_a_busy_plugin_has_a_share_of_the_limit() {
    let bounds = Bounds { slots_first: 1, ..Bounds::default() };
    let mut drill = Drill::new(Policy { bounds, ..policy() }, Duration::from_millis(3));
    // One slot, always wanted by two watchers, and each attempt takes a while.
    drill.max_in_flight = 1;
    drill.plugin = Box::new(|start, _| {
        let takes_ms = if start.plugin.as_str() == "busy" { 130 } else { 0 };
        (Duration::from_millis(takes_ms), done())
    });
    drill.up("busy", &["x", "other"], Vec::new());
    drill.up("idle", &["y"], Vec::new());
    drill.declare(on_predicate("w2", "p", "other"));
    drill.declare(Declaration { handlers: vec!["y".into(), "x".into()], ..limited("w", "x", 5) });
    drill.claims(1_000);
    drill.run(Duration::from_secs(41));
    let shares = shares(&drill);
    assert!(shares["x"] + shares["y"] >= 200, "{shares:?}");
    assert!(shares["x"] >= 30, "{shares:?}");
    assert!(shares["other"] >= 150, "{shares:?}");
}

#[test]
fn a_crowd_at_the_limit_survives_pauses_and_removals() {
    let mut drill = Drill::new(policy(), Duration::from_millis(3));
    drill.up("a", &["x"], Vec::new());
    drill.up("b", &["y"], Vec::new());
    let both = |n| Declaration { handlers: vec!["y".into(), "x".into()], ..limited("w", "x", n) };
    drill.declare(both(5));
    drill.claims(100);
    drill.run(Duration::from_secs(3));
    drill.command("w", WatcherCommand::Pause { skip: false });
    let before = drill.left.len();
    drill.run(Duration::from_secs(5));
    assert_eq!(drill.left.len(), before, "it is paused");
    drill.command("w", WatcherCommand::Resume { drop: false });
    drill.run(Duration::from_secs(2));
    assert!((9..=11).contains(&(drill.left.len() - before)));
    drill.down("a");
    let before = shares(&drill)["y"];
    drill.run(Duration::from_secs(4));
    assert!((19..=21).contains(&(shares(&drill)["y"] - before)), "one goes on without the other");
    drill.up("a", &["x"], Vec::new());
    drill.declare(both(0));
    drill.run(Duration::from_secs(1));
    assert_eq!(drill.left.len(), 200, "without a limit nobody waits");
    drill.declare(both(2));
    drill.claims(10);
    drill.run(Duration::from_secs(3));
    drill.command("w", WatcherCommand::Remove);
    let before = drill.left.len();
    assert!((204..=206).contains(&before), "{before}");
    drill.run(Duration::from_secs(3));
    assert_eq!(drill.left.len(), before, "it is removed");
    drill.declare(both(2));
    drill.claims(2);
    drill.run(Duration::from_secs(4));
    assert_eq!(drill.left.len(), before + 4);
    assert_eq!(most_in_a_second(&drill.stamps("user-w")[200..]), 2);
}

/// A plugin whose handler `act` fails until this moment, and answers after 20 ms.
fn fails_until(well: Mono) -> Plugin {
    Box::new(move |start, left| {
        let fails = left < well && &*start.handler == "act";
        (Duration::from_millis(20), if fails { busy() } else { done() })
    })
}

#[test]
fn an_outage_of_an_hour_costs_no_dead_letter() {
    let hour = Duration::from_secs(3_600);
    let mut drill = Drill::new(policy(), Duration::from_millis(3));
    let watchers: Vec<_> = (0..5).map(|i| on_predicate(&format!("w{i}"), "p", "act")).collect();
    drill.plugin = fails_until(drill.world.now.mono.plus(hour));
    drill.up("demo", &["act"], watchers);
    drill.claims(200);
    drill.run(Duration::from_secs(10));
    let opened = drill.records("breaker_opened");
    assert_eq!((opened.len(), &opened[0]["failures"]), (1, &10.into()));
    // What had started before it opened has ended.
    (drill.most_at_once, drill.left) = (0, Vec::new());
    drill.run(hour - Duration::from_secs(10));
    assert_eq!(drill.most_at_once, 1, "one attempt at a time");
    assert!(drill.records("breaker_closed").is_empty());
    let gaps: Vec<_> = drill.left.windows(2).map(|two| two[1].0.since(two[0].0)).collect();
    assert!(gaps.iter().all(|gap| gap.as_secs_f64() < 60.1), "{gaps:?}");
    assert!((60..=70).contains(&drill.left.len()), "{} attempts in an hour", drill.left.len());
    let mut by_watcher = BTreeMap::<_, usize>::new();
    drill.left.iter().for_each(|(_, start)| *by_watcher.entry(&start.watcher).or_default() += 1);
    let (least, most) = (by_watcher.values().min().unwrap(), by_watcher.values().max().unwrap());
    assert!(by_watcher.len() == 5 && most - least <= 1, "in turn: {by_watcher:?}");

    drill.run(Duration::from_secs(62));
    assert_eq!(drill.records("breaker_closed").len(), 1);
    assert!(drill.count(JobState::Completed) > 900, "{}", drill.count(JobState::Completed));
    // Those that failed wait for their own retry.
    drill.run(hour);
    assert_eq!((drill.count(JobState::Completed), drill.count(JobState::Failed)), (1_000, 0));
    assert!(drill.world.state.overview().breakers.is_empty());
}

#[test]
fn a_plugin_that_is_away_for_an_hour_burns_no_attempt() {
    let mut drill = Drill::new(policy(), Duration::from_millis(3));
    let watchers = || (0..2).map(|i| limited(&format!("w{i}"), "act", 20)).collect();
    drill.up("demo", &["act"], watchers());
    drill.down("demo");
    drill.claims(500);
    drill.run(Duration::from_secs(3_600));
    assert!(drill.left.is_empty());
    drill.up("demo", &["act"], watchers());
    drill.run(Duration::from_secs(26));
    assert_eq!(drill.count(JobState::Completed), 1_000);
    assert!(drill.world.jobs.values().all(|row| row.attempts == 1));
    for watcher in ["demo-w0", "demo-w1"] {
        let stamps = drill.stamps(watcher);
        assert_eq!(most_in_a_second(&stamps), 20);
        assert!(stamps[499] - stamps[0] <= 25 * SECOND, "at the limit");
    }
}

#[test]
fn a_handler_that_moves_to_another_plugin_leaves_its_breaker_behind() {
    let mut drill = Drill::new(policy(), Duration::from_millis(3));
    drill.plugin = Box::new(|start, _| {
        let well = start.plugin.as_str() == "new";
        (Duration::from_millis(20), if well { done() } else { busy() })
    });
    drill.up("old", &["act"], Vec::new());
    drill.declare(on_predicate("w", "p", "act"));
    drill.claims(100);
    drill.run(Duration::from_secs(5));
    assert_eq!(drill.world.state.overview().breakers.len(), 1);
    drill.up("old", &[], Vec::new());
    assert!(drill.world.state.overview().breakers.is_empty());
    drill.up("new", &["act"], Vec::new());
    drill.declare(on_predicate("w", "p", "new/act"));
    drill.claims(1);
    drill.run(Duration::from_secs(60 * 60));
    // Those that waited under the name that nobody declares any more run where that handler is now.
    assert_eq!(drill.count(JobState::Completed), 101);
}

#[test]
fn one_job_that_fails_opens_no_breaker() {
    let mut drill = Drill::new(policy(), Duration::from_millis(3));
    drill.plugin = fails_until(Mono(u64::MAX));
    drill.up("demo", &["act"], vec![on_predicate("w", "p", "act")]);
    drill.claims(1);
    drill.run(Duration::from_secs(3_600));
    assert!(drill.left.len() > 10 && drill.records("breaker_opened").is_empty());
    drill.claims(1);
    drill.run(Duration::from_secs(1));
    assert_eq!(drill.records("breaker_opened").len(), 1, "another one that fails does");
}

#[test]
fn what_no_retryable_failure_is_closes_the_breaker_and_a_lost_attempt_does_not() {
    let not_now = || Outcome::NotNow { after: None, error: "later".into(), overloaded: false };
    let permanent = || Outcome::Permanent { error: "never".into() };
    // (how the first attempt after it opened ends, whether that closes it)
    let cases =
        [(done(), true), (not_now(), true), (permanent(), true), (lost(), false), (busy(), false)];
    for (outcome, closes) in cases {
        let mut drill = Drill::new(policy(), Duration::from_millis(3));
        drill.plugin = fails_until(Mono(u64::MAX));
        drill.up("demo", &["act", "well"], vec![on_predicate("w", "p", "act")]);
        drill.declare(on_predicate("v", "p", "well"));
        drill.claims(40);
        drill.run(Duration::from_millis(300));
        let view = drill.world.state.overview().breakers.remove(0);
        assert_eq!((view.handler.as_str(), &*view.error), ("act", "busy"));
        assert!(view.failures >= 10);
        let until = view.until.unwrap();
        let (told, next) = (outcome.clone(), drill.left.len());
        drill.plugin = Box::new(move |_, _| (Duration::from_secs(1), told.clone()));
        let row = drill.world.jobs.values().find(|row| row.attempts == 0).unwrap();
        let waits = drill.world.state.waiting(row, drill.world.now).unwrap();
        assert!(matches!(waits.reason, WaitReason::Breaker { .. }), "{waits:?}");
        assert_eq!(waits.until, Some(until));
        drill.run(Duration::from_millis(1_200));
        let view = drill.world.state.overview().breakers;
        assert_eq!(drill.left.len(), next + 1);
        assert_eq!((view.len(), view[0].until), (1, None), "it is being tried");
        drill.run(Duration::from_millis(900));
        let open = !drill.world.state.overview().breakers.is_empty();
        assert_eq!(open, !closes, "{outcome:?}");
        let closed = drill.records("breaker_closed");
        assert_eq!(closed.len(), usize::from(closes));
        let other = drill.left.iter().filter(|(_, start)| &*start.handler == "well").count();
        assert_eq!(other, 40, "the plugin's other handler goes on");
    }
}

/// A policy in which jobs of these handlers of the plugin `demo` are given up otherwise than usual; no
/// name is said of all of them.
fn giving_up(handlers: &[(&str, RetryLimits)]) -> Policy {
    let key = |name: &str| ("demo".parse().unwrap(), name.parse().ok());
    let handlers = handlers.iter().map(|(name, limits)| (key(name), *limits)).collect();
    Policy { handlers, ..policy() }
}

#[test]
fn a_handler_has_its_own_bounds_of_retries() {
    let at_most = |attempts| RetryLimits { max_attempts: Some(attempts), max_age: None };
    let seconds =
        |seconds| RetryLimits { max_attempts: None, max_age: Some(Duration::from_secs(seconds)) };
    let of_plugin = RetryLimits { max_attempts: Some(4), ..seconds(3_600) };
    let policy = giving_up(&[("", of_plugin), ("act", at_most(2)), ("old", seconds(2))]);
    let mut drill = Drill::new(policy, Duration::from_millis(3));
    drill.plugin = Box::new(|_, _| (Duration::ZERO, busy()));
    let watchers = ["act", "old", "rest"].map(|name| on_predicate(name, "p", name));
    drill.up("demo", &["act", "old", "rest"], watchers.to_vec());
    drill.up("other", &["far"], vec![on_predicate("far", "p", "far")]);
    drill.claims(1);
    drill.run(Duration::from_secs(20_000));
    let ended = |row: &JobRow| (row.handler.to_string(), row.attempts);
    let ended: Vec<_> = drill.world.jobs.values().map(ended).collect();
    let expected = [("act", 2), ("old", 3), ("rest", 4)].map(|(name, n)| (name.to_owned(), n));
    assert_eq!(ended[..3], expected);
    assert!(ended[3].1 > 15, "another plugin's handler has the usual");
    let reasons: Vec<_> =
        drill.records("dead_lettered").iter().map(|r| r["reason"].clone()).collect();
    assert_eq!(
        reasons,
        ["2 attempts failed", "attempts failed for 2 seconds", "4 attempts failed"]
    );
}

#[test]
fn thousands_of_dead_letters_come_back_within_the_bounds_of_memory() {
    let bounds = Bounds { jobs_in_memory_max: 5_000, ..Bounds::default() };
    let policy = Policy { bounds: bounds.clone(), ..policy() };
    let mut drill = Drill::new(policy, Duration::from_millis(3));
    let names: Vec<_> = (0..10).map(|i| format!("w{i}")).collect();
    let watchers = names.iter().map(|name| on_predicate(name, "p", "act")).collect();
    drill.up("demo", &["act"], watchers);
    drill.plugin = Box::new(|_, _| (Duration::ZERO, Outcome::Permanent { error: "no".into() }));
    (0..2).for_each(|_| drill.claims(1_000));
    drill.run(Duration::from_secs(3_600));
    assert_eq!(drill.count(JobState::Failed), 20_000);

    drill.plugin = Box::new(|_, _| (Duration::ZERO, done()));
    let dead: Vec<_> = drill.world.jobs.values().cloned().collect();
    for rows in dead.chunks(1_024) {
        let again: Vec<_> = rows.iter().map(|row| drill.world.redrive_of(row, 4)).collect();
        drill.batch(again);
        let in_memory = drill.world.state.jobs_in_memory();
        assert!(in_memory <= bounds.jobs_in_memory_max, "{in_memory} jobs in memory");
    }
    assert_eq!(drill.world.state.open_jobs(), 20_000);
    drill.run(Duration::from_secs(3_600));
    assert_eq!(drill.count(JobState::Completed), 20_000);
    assert_eq!(drill.records("job_redriven").len(), 20_000);
}

/// How the jobs of a watcher come to rest, and go on again.
#[derive(Debug, Clone, Copy)]
enum Rest {
    Away,
    Paused,
    Muted,
}

impl Drill {
    fn rest(&mut self, rest: Rest) {
        match rest {
            Rest::Away => self.down("demo"),
            Rest::Paused => self.command("w", WatcherCommand::Pause { skip: false }),
            Rest::Muted => {
                self.declare(Declaration { zero_is_never: true, ..on_predicate("w", "p", "act") });
            }
        }
    }

    fn go_on(&mut self, rest: Rest) {
        match rest {
            Rest::Away => self.up("demo", &["act"], Vec::new()),
            Rest::Paused => self.command("w", WatcherCommand::Resume { drop: false }),
            Rest::Muted => self.declare(on_predicate("w", "p", "act")),
        }
    }
}

#[test]
fn time_in_which_nobody_could_run_it_ages_no_job() {
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    let often = RetryLimits { max_attempts: Some(u32::MAX), max_age: None };
    for rest in [Rest::Away, Rest::Paused, Rest::Muted] {
        for restarts in [false, true] {
            let mut drill = Drill::new(giving_up(&[("act", often)]), Duration::from_millis(3));
            drill.plugin = Box::new(|_, _| (Duration::ZERO, busy()));
            drill.up("demo", &["act"], Vec::new());
            drill.declare(on_predicate("w", "p", "act"));
            drill.claims(1);
            drill.run(hours(12));
            for _ in 0..3 {
                drill.rest(rest);
                let before = drill.left.len();
                drill.run(hours(20));
                if restarts {
                    drill.restart();
                    if !matches!(rest, Rest::Away) {
                        drill.up("demo", &["act"], Vec::new());
                    }
                }
                drill.run(hours(20));
                assert_eq!(drill.left.len(), before, "{rest:?}, restarts: {restarts}");
                drill.go_on(rest);
                drill.run(hours(3));
            }
            // 21 hours of trying, and a restart takes up to half an hour off.
            assert_eq!(drill.count(JobState::Failed), 0, "{rest:?}, restarts: {restarts}");
            drill.run(hours(if restarts { 6 } else { 4 }));
            assert_eq!(drill.count(JobState::Failed), 1, "{rest:?}, restarts: {restarts}");
        }
    }
}

/// Parents with children and grandchildren, cancelled from the top by the next engine, while some run.
#[test]
fn a_hundred_thousand_jobs_below_one_are_cancelled_in_a_few_batches() {
    let mut drill = Drill::new(policy(), Duration::from_millis(3));
    drill.plugin = Box::new(|_, _| (Duration::from_secs(3_600), done()));
    drill.up("demo", &["act"], Vec::new());
    let mut next = 0_u64;
    let mut asked = |world: &World, parent: Option<JobNumber>| {
        next += 1;
        let mut id = [1; 16];
        id[8..].copy_from_slice(&next.to_be_bytes());
        let parent = parent.map(|parent| {
            let row = &world.jobs[&parent];
            ParentAsk { id: row.id, above: world.lineage(row) }
        });
        let asked = Box::new(EnqueueAsk { parent, ..ask(id, "act") });
        Event::Enqueue { request: RequestId(7), asked }
    };
    let root = asked(&drill.world, None);
    drill.batch([root]);
    let parents: Vec<_> = (0..100).map(|_| asked(&drill.world, Some(JobNumber(1)))).collect();
    drill.batch(parents);
    for parent in 2..=101 {
        let children: Vec<_> =
            (0..1_000).map(|_| asked(&drill.world, Some(JobNumber(parent)))).collect();
        drill.batch(children);
    }
    assert_eq!(drill.world.state.open_jobs(), 100_101);
    drill.restart();
    drill.up("demo", &["act"], Vec::new());
    let row = Box::new(drill.world.jobs[&JobNumber(1)].clone());
    drill.batch([Event::Cancel { request: RequestId(7), row, by: Asker::User }]);
    let mut before = 0;
    for batches in 1.. {
        let cancelled = drill.count(JobState::Cancelled);
        assert!(cancelled - before < 17_000 && batches <= 7, "{cancelled} after {batches}");
        if cancelled == 100_101 {
            break;
        }
        before = cancelled;
        drill.batch([Event::Tick]);
    }
    assert_eq!((drill.world.state.open_jobs(), drill.world.state.jobs_in_memory()), (0, 0));
    assert!(drill.world.verify_audit().ok);
}

/// Whatever else is asked for, and with whatever priority, a job waits no longer than its turn.
#[test]
fn what_waits_in_a_long_lane_starts_in_its_order() {
    let bounds = Bounds { slots_first: 1, ..Bounds::default() };
    let mut drill = Drill::new(Policy { bounds, ..policy() }, Duration::from_millis(3));
    drill.max_in_flight = 1;
    drill.plugin = Box::new(|_, _| (Duration::from_millis(10), done()));
    drill.up("demo", &["act"], Vec::new());
    for batch in 0..8_u64 {
        let asked = (0..1_000_u64).map(|n| {
            let mut id = [2; 16];
            id[8..].copy_from_slice(&(batch * 1_000 + n).to_be_bytes());
            let priority = (n % 21) as i32 - 10;
            let asked = Box::new(EnqueueAsk { priority, ..ask(id, "act") });
            Event::Enqueue { request: RequestId(7), asked }
        });
        drill.batch(asked.collect::<Vec<_>>());
    }
    drill.run(Duration::from_secs(3_600));
    assert_eq!(drill.count(JobState::Completed), 8_000);
    let places: Vec<_> =
        drill.left.iter().map(|(_, start)| drill.world.jobs[&start.job].place()).collect();
    // While they were asked for one after the other, what was there had its turn.
    let asked_for = drill.world.jobs[&JobNumber(8_000)].created_at;
    let began = drill
        .world
        .jobs
        .values()
        .filter(|row| row.started_at.is_some_and(|started| started <= asked_for));
    let began = began.count();
    assert!(began < 20 && places[began..].is_sorted(), "{began}");
}
