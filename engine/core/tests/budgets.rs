//! Budgets in the core: by hand, and under a load of random costs, with kills and clocks that are set, held to
//! what adding up all rows gives.
//!
//! `AXWATCH_SIM_SEEDS=n` tries n loads, `AXWATCH_SIM_SEED=n` one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::world::{World, busy, done, lost, policy, registration, starts};
use axwatch_core::{
    Answer, BudgetChange, BudgetKind, BudgetLimits, Effect, Ended, EnqueueAsk, Event, HoldCause,
    Outcome, Policy, Refusal, Report, RequestId, Span, Start, WaitReason, Waiting,
};
use axwatch_model::{
    Asker, BudgetRow, BudgetScope, HandlerName, JobId, JobNumber, JobRow, JobState, LeafNumber,
    Mono, PluginName, nanos_of_amount,
};

struct Lab {
    world: World,
    /// Attempts under way, by job, in the order in which they started.
    running: BTreeMap<JobNumber, Start>,
    /// When each attempt left, by handler.
    left: Vec<(String, Mono)>,
    incarnation: u64,
    last_id: u64,
}

impl Lab {
    fn with(policy: Policy) -> Lab {
        let world = World::with(policy);
        let mut lab =
            Lab { world, running: BTreeMap::new(), left: Vec::new(), incarnation: 0, last_id: 0 };
        lab.all_up();
        lab
    }

    fn new() -> Lab {
        Lab::with(policy())
    }

    fn all_up(&mut self) {
        self.incarnation += 1;
        for plugin in ["a", "b"] {
            self.tell(Event::PluginUp {
                request: RequestId(1),
                plugin: plugin.parse().unwrap(),
                incarnation: self.incarnation,
                version: "1.0".into(),
                max_in_flight: 64,
                registration: registration(&["one", "two"], Vec::new()),
            });
        }
    }

    /// Tells one event, commits, reads what is asked for, and gives what would be done.
    fn tell(&mut self, event: Event) -> Vec<Effect> {
        let mut told = Vec::new();
        for effect in self.world.write([event]) {
            match effect {
                Effect::Load { lane, from, limit } => {
                    let rows = self.world.read(&lane, from, limit);
                    told.extend(self.tell(Event::Loaded { lane, rows }));
                }
                effect => told.push(effect),
            }
        }
        for start in starts(&told) {
            if self.running.insert(start.job, start.clone()).as_ref() != Some(&start) {
                let handler = format!("{}/{}", start.plugin, start.handler);
                self.left.push((handler, self.world.leaves(start.job)));
            }
        }
        told
    }

    fn enqueue(&mut self, handler: &str, cost_estimate: Option<f64>) -> JobNumber {
        self.last_id += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.last_id.to_be_bytes());
        let asked = EnqueueAsk {
            id: JobId(id),
            by: Asker::User,
            handler: handler.into(),
            payload: [].as_slice().into(),
            source: String::new(),
            priority: 0,
            parent: None,
            cost_estimate,
        };
        let request = RequestId(2);
        self.tell(Event::Enqueue { request, asked: Box::new(asked) });
        *self.world.jobs.last_key_value().unwrap().0
    }

    fn enqueue_many(&mut self, handler: &str, jobs: usize) {
        for _ in 0..jobs {
            self.enqueue(handler, None);
        }
    }

    fn set(&mut self, scope: &str, change: BudgetChange) -> Result<BudgetRow, Refusal> {
        let (request, by) = (RequestId(3), "user".to_owned());
        let scope = scope.parse().unwrap();
        let effects = self.tell(Event::SetBudget { request, scope, change, by });
        let found = effects.into_iter().find_map(|effect| match effect {
            Effect::Reply { answer: Answer::Budget(row), .. } => Some(row),
            _ => None,
        });
        found.expect("it is answered").map(|row| *row)
    }

    fn end_with(&mut self, job: JobNumber, outcome: Outcome, cost: Option<f64>) -> Vec<Effect> {
        let start = self.running.remove(&job).expect("it is under way");
        self.tell(Event::AttemptEnded {
            job,
            attempt: start.attempt,
            incarnation: start.incarnation,
            ended: Ended { cost, ..Ended::bare(outcome) },
        })
    }

    /// The first attempt under way succeeds at this cost.
    fn end_first(&mut self, cost: f64) -> Vec<Effect> {
        let job = *self.running.first_key_value().expect("something is under way").0;
        self.end_with(job, done(), Some(cost))
    }

    fn report(&mut self, job: JobNumber, cost: f64) {
        let incarnation = self.running[&job].incarnation;
        let report = Report { job, incarnation, cost: Some(cost), ..Report::default() };
        self.tell(Event::Progress { request: RequestId(4), report: Box::new(report) });
    }

    fn pass(&mut self, span: Duration) {
        self.world.advance(span);
        self.tell(Event::Tick);
    }

    /// Lets time pass to each moment at which something is due, up to `span`.
    fn pass_through(&mut self, span: Duration) {
        let end = self.world.now.mono.plus(span);
        while let Some(wake) = self.world.state.next_wake().filter(|wake| *wake <= end) {
            self.pass(wake.since(self.world.now.mono));
        }
        self.pass(end.since(self.world.now.mono));
    }

    fn restart(&mut self) {
        self.running.clear();
        for event in self.world.die() {
            self.tell(event);
        }
        self.all_up();
    }

    fn waiting(&self, job: JobNumber) -> Option<Waiting> {
        self.world.state.waiting(&self.world.jobs[&job], self.world.now)
    }

    /// What is held by which budget, and in how many seconds it goes on.
    fn held(&self, job: JobNumber) -> Option<(String, Option<u64>)> {
        let waiting = self.waiting(job)?;
        let WaitReason::Budget(hold) = waiting.reason else { return None };
        let until = waiting.until.map(|until| until.since(self.world.now.wall).as_secs());
        Some((hold.to_string(), until))
    }

    fn records(&self, kind: &str) -> Vec<serde_json::Value> {
        let lines = self.world.audit.iter().flat_map(|audit| audit.records.lines());
        let values = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        values.filter(|record| record["type"] == kind).collect()
    }

    fn spent(&self, scope: &str) -> [f64; 3] {
        let scope = scope.parse().unwrap();
        let budget = self.world.state.budget(&scope, self.world.now);
        budget.map_or([0.0; 3], |budget| budget.used.spent)
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn minutes(minutes: u64) -> Duration {
    seconds(minutes * 60)
}

fn calls(calls: u32) -> BudgetChange {
    BudgetChange { calls_per_minute: Some(Some(calls)), ..BudgetChange::default() }
}

fn per_day(amount: f64) -> BudgetChange {
    BudgetChange { per_day: Some(Some(amount)), ..BudgetChange::default() }
}

#[test]
fn no_minute_holds_more_calls_than_the_budget_says() {
    let mut lab = Lab::new();
    lab.set("a/one", calls(3)).unwrap();
    lab.enqueue_many("a/one", 11);
    let other = lab.enqueue("a/two", None);
    assert!(lab.running.contains_key(&other), "another handler goes on");
    assert_eq!(lab.running.len(), 4);
    lab.pass(seconds(10));
    for _ in 0..4 {
        lab.end_first(0.0);
    }
    assert_eq!(lab.running.len(), 0);
    let (reason, until) = lab.held(JobNumber(4)).expect("the budget holds it");
    assert_eq!(reason, "budget calls_per_minute of a/one is used up");
    assert_eq!(until, Some(50));
    for _ in 0..4 {
        lab.pass_through(seconds(60));
        while !lab.running.is_empty() {
            lab.end_first(0.0);
        }
    }
    let of_one: Vec<_> = lab.left.iter().filter(|(handler, _)| handler == "a/one").collect();
    assert_eq!(of_one.len(), 11);
    for pair in of_one.windows(4) {
        assert!(pair[3].1.since(pair[0].1) >= seconds(60), "{of_one:?}");
    }
    // Held for three minutes, and warned of when all three calls were used.
    let held = lab.records("budget_held");
    assert_eq!(held.len(), 1);
    assert_eq!((&held[0]["budget"], &held[0]["asker"]), (&"a/one".into(), &"user".into()));
    let freed = lab.records("budget_freed");
    assert_eq!((freed.len(), &freed[0]["held_ms"]), (1, &180_000.into()), "{freed:?}");
    let warnings = lab.records("budget_warning");
    assert_eq!((&warnings[0]["used"], &warnings[0]["of"]), (&"3".into(), &"3".into()));
    // Whoever waited has the record of it among its own.
    let leaf = |record: &serde_json::Value| {
        let all = lab.world.audit.iter().flat_map(|audit| audit.records.lines());
        let mut all = all.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        LeafNumber(all.position(|other| other == *record).unwrap() as u64)
    };
    let has = |job: u64, record| lab.world.jobs[&JobNumber(job)].leaves.contains(&leaf(record));
    let has_held = [3, 4, 6, 7, 12].map(|job| has(job, &held[0]));
    assert_eq!(has_held, [false, true, true, true, false]);
    assert_eq!([4, 7, 10].map(|job| has(job, &freed[0])), [false, false, true]);
}

#[test]
fn a_hold_is_over_when_the_next_attempt_starts() {
    let mut lab = Lab::new();
    lab.set("a/one", calls(1)).unwrap();
    lab.enqueue_many("a/one", 2);
    lab.end_first(0.0);
    lab.pass_through(seconds(60));
    // It runs for ten minutes, and another one comes an hour later.
    lab.pass_through(minutes(10));
    lab.end_first(0.0);
    lab.pass_through(minutes(60));
    lab.enqueue("a/one", None);
    let freed = lab.records("budget_freed");
    assert_eq!((freed.len(), &freed[0]["held_ms"]), (1, &60_000.into()));
}

#[test]
fn a_hold_goes_on_as_long_as_somebody_waits_for_it() {
    let mut lab = Lab::new();
    lab.set("a", calls(3)).unwrap();
    lab.enqueue_many("a/one", 9);
    for _ in 0..2 {
        while !lab.running.is_empty() {
            lab.end_first(0.0);
        }
        lab.pass_through(seconds(60));
    }
    let (held, freed) = (lab.records("budget_held"), lab.records("budget_freed"));
    assert_eq!((held.len(), freed.len(), &freed[0]["held_ms"]), (1, 1, &120_000.into()));
    let leaf = lab.world.jobs[&JobNumber(4)].leaves[1];
    for job in 4..=9 {
        let told = &lab.world.jobs[&JobNumber(job)].leaves;
        assert_eq!(told.iter().filter(|of_job| **of_job == leaf).count(), 1, "job {job}: {told:?}");
    }
}

#[test]
fn who_waits_twice_in_one_hold_is_told_of_it_twice() {
    let mut lab = Lab::new();
    lab.set("a", calls(1)).unwrap();
    lab.enqueue_many("a/one", 4);
    lab.end_first(0.0);
    lab.pass_through(seconds(60));
    lab.end_with(JobNumber(2), busy(), None);
    while lab.world.jobs.values().any(|job| job.state.is_open()) {
        lab.pass_through(seconds(60));
        lab.end_first(0.0);
    }
    assert_eq!(lab.records("budget_held").len(), 1);
    let leaf = lab.world.jobs[&JobNumber(3)].leaves[1];
    let told = [1, 2, 3, 4].map(|job| {
        let leaves = &lab.world.jobs[&JobNumber(job)].leaves;
        leaves.iter().filter(|of_job| **of_job == leaf).count()
    });
    assert_eq!(told, [0, 2, 1, 1]);
}

#[test]
fn the_first_run_is_alone_and_those_after_it_reserve_what_the_dearest_cost() {
    let mut lab = Lab::new();
    lab.set("a", per_day(1.0)).unwrap();
    lab.enqueue_many("a/one", 12);
    assert_eq!(lab.running.len(), 1, "of the first nothing is known");
    lab.end_first(0.25);
    assert_eq!(lab.running.len(), 3, "0.25 is spent, and 0.25 three times reserved");
    let job = JobNumber(12);
    let reason = "budget per_day of a: what is left is reserved for jobs under way";
    assert_eq!(lab.held(job).unwrap(), (reason.to_owned(), None));
    // Dearer than any before: from now on two of them have no room beside each other.
    lab.end_first(0.3);
    assert_eq!(lab.running.len(), 2);
    lab.end_first(0.1);
    lab.end_first(0.1);
    assert_eq!(lab.running.len(), 0, "0.75 is spent, and the next may cost 0.3");
    let reason = "budget per_day of a: 0.25 is left, and the job is expected to cost 0.3";
    assert_eq!(lab.held(job).unwrap(), (reason.to_owned(), Some(86_360)));
    assert_eq!(lab.spent("a"), [0.75; 3]);
    let warned = lab.records("budget_warning");
    assert!(warned.is_empty(), "less than 80 % is spent: {warned:?}");
    // A day later it goes on by itself.
    lab.pass_through(minutes(1_439));
    assert_eq!(lab.running.len(), 0);
    lab.pass_through(minutes(1));
    assert_eq!(lab.running.len(), 3);
    lab.end_first(0.9);
    assert_eq!(lab.records("budget_warning")[0]["used"], "0.9");
    // Of those that follow some wait still.
    assert_eq!((lab.records("budget_held").len(), lab.records("budget_freed").len()), (1, 0));
}

#[test]
fn an_estimate_of_nothing_is_none() {
    let mut lab = Lab::new();
    lab.set("a", per_day(1.0)).unwrap();
    let first = lab.enqueue("a/one", Some(0.0));
    let second = lab.enqueue("a/one", Some(0.0));
    assert!(lab.running.contains_key(&first) && lab.held(second).is_some(), "it is alone");
    lab.end_with(first, done(), Some(0.6));
    assert!(lab.held(second).is_some(), "it is expected to cost as much");
    assert_eq!(lab.world.jobs[&first].asked.as_ref().unwrap().cost_estimate, None);
}

#[test]
fn an_estimate_is_what_is_reserved_and_one_that_is_too_high_keeps_nobody_else() {
    let mut lab = Lab::new();
    lab.set("*", per_day(1.0)).unwrap();
    let dear = lab.enqueue("a/one", Some(1.5));
    assert_eq!(
        lab.held(dear).unwrap(),
        ("budget per_day of *: the job's estimate is more than all of it".to_owned(), None)
    );
    let first = lab.enqueue("b/one", Some(0.6));
    let second = lab.enqueue("b/two", Some(0.6));
    let third = lab.enqueue("a/two", Some(0.4));
    assert_eq!(lab.running.keys().collect::<Vec<_>>(), [&first, &third]);
    assert!(lab.held(second).is_some());
    // It cost less than it had reserved.
    lab.end_with(third, done(), Some(0.1));
    lab.end_with(first, done(), None);
    assert_eq!(lab.running.keys().collect::<Vec<_>>(), [&second]);
    // A higher budget lets the dear one go.
    lab.set("*", per_day(5.0)).unwrap();
    assert!(lab.running.contains_key(&dear));
}

#[test]
fn whoever_was_dearer_than_the_whole_budget_runs_alone_when_something_is_left() {
    let mut lab = Lab::new();
    lab.set("a/one", per_day(1.0)).unwrap();
    lab.enqueue_many("a/one", 4);
    lab.end_first(2.5);
    assert_eq!(lab.running.len(), 0);
    lab.pass_through(minutes(1_440));
    assert_eq!(lab.running.len(), 1, "it is known that one may cost 2.5");
    lab.end_first(0.2);
    assert_eq!(lab.running.len(), 1, "0.8 is left, and all of it reserved");
    // Free ones of others go on beside it.
    let free = lab.enqueue("a/two", None);
    assert!(lab.running.contains_key(&free));
    // Of a budget that it fits into it reserves what the dearest cost, and leaves the rest to others.
    lab.set("*", per_day(4.0)).unwrap();
    lab.pass_through(minutes(1_440));
    lab.end_first(0.0);
    let used =
        |scope: &str| lab.world.state.budget(&scope.parse().unwrap(), lab.world.now).unwrap().used;
    assert_eq!((used("a/one").all_reserved, used("*").all_reserved), (true, false));
    assert_eq!(used("*").reserved, 2.5);
    let other = lab.enqueue("b/one", Some(1.5));
    assert!(lab.running.contains_key(&other));
}

#[test]
fn what_is_told_while_it_runs_is_spent_and_an_attempt_that_is_lost_costs_that() {
    let mut lab = Lab::new();
    lab.set("a", per_day(1.0)).unwrap();
    let job = lab.enqueue("a/one", Some(0.5));
    lab.report(job, 0.2);
    assert_eq!(lab.spent("a")[0], 0.2);
    let used = lab.world.state.budget(&"a".parse().unwrap(), lab.world.now).unwrap().used;
    assert_eq!((used.reserved, used.left()), (0.3, Some(0.5)));
    lab.end_with(job, lost(), None);
    assert_eq!(lab.spent("a")[0], 0.2);
    assert_eq!(lab.world.jobs[&job].cost, Some(0.2));
    // It runs again. What it costs is told too high at first, and no cost is less than nothing.
    lab.pass_through(seconds(2));
    lab.report(job, 0.7);
    lab.pass_through(seconds(2));
    lab.report(job, f64::NAN);
    lab.end_with(job, done(), Some(0.4));
    assert_eq!(lab.spent("a")[0], 0.6);
    assert_eq!(lab.world.jobs[&job].cost, Some(0.6000000000000001));
    let other = lab.enqueue("a/two", Some(0.4));
    lab.report(other, 0.35);
    // After a kill all is known that was written.
    lab.restart();
    assert_eq!(lab.spent("a")[0], 0.95);
    let used = lab.world.state.budget(&"a".parse().unwrap(), lab.world.now).unwrap().used;
    assert_eq!(used.reserved, 0.0, "its attempt is over, and the next has no room");
    assert!(lab.held(other).is_some());
}

#[test]
fn a_retry_that_a_budget_holds_for_days_is_not_given_up_for_that() {
    let mut lab = Lab::new();
    let job = lab.enqueue("a/one", Some(0.5));
    lab.end_with(job, busy(), Some(0.9));
    lab.set("a", per_day(1.0)).unwrap();
    // Jobs are given up after a day of failing.
    lab.pass_through(minutes(10));
    assert!(lab.held(job).is_some());
    lab.set("a", per_day(0.1)).unwrap();
    lab.pass_through(minutes(3 * 1_440));
    assert!(lab.held(job).is_some(), "its estimate is more than all of it");
    lab.set("a", per_day(1.0)).unwrap();
    lab.end_with(job, busy(), None);
    assert_eq!(lab.world.jobs[&job].state, JobState::Queued);
    lab.pass_through(minutes(10));
    // It is given up all the same when it goes on failing.
    lab.end_with(job, busy(), None);
    for _ in 0..200 {
        lab.pass_through(minutes(30));
        if lab.running.contains_key(&job) {
            lab.end_with(job, busy(), None);
        }
    }
    assert_eq!(lab.world.jobs[&job].state, JobState::Failed);
}

#[test]
fn who_has_no_room_in_a_budget_keeps_nobody_waiting_who_has_some() {
    let mut lab = Lab::new();
    lab.set("*", per_day(1.0)).unwrap();
    let first = lab.enqueue("a/one", Some(0.6));
    let other = lab.enqueue("a/one", Some(0.3));
    // The first in line wants more than is left for a day; another comes to the line after it.
    let dear = lab.enqueue("a/two", Some(0.5));
    let small = lab.enqueue("b/one", Some(0.2));
    assert!(lab.held(dear).is_some() && lab.held(small).is_some());
    lab.end_with(first, done(), Some(0.6));
    lab.end_with(other, done(), Some(0.1));
    assert!(lab.running.contains_key(&small), "0.3 is left");
    assert!(lab.held(dear).is_some());
    // What is free soon is kept for the first in line.
    lab.pass_through(minutes(1_435));
    let later = lab.enqueue("b/one", Some(0.2));
    lab.end_with(small, done(), Some(0.0));
    assert!(lab.held(later).is_some(), "0.3 is left, and in minutes the first in line has room");
    lab.pass_through(minutes(5));
    assert!(lab.running.contains_key(&dear) && lab.running.contains_key(&later));
}

#[test]
fn calls_that_are_free_again_are_shared_by_those_in_line() {
    let mut lab = Lab::new();
    lab.set("*", calls(4)).unwrap();
    lab.enqueue_many("a/one", 20);
    lab.enqueue_many("a/two", 20);
    lab.enqueue_many("b/one", 20);
    lab.enqueue_many("b/two", 20);
    for _ in 0..3 {
        while !lab.running.is_empty() {
            lab.end_first(0.0);
        }
        lab.pass_through(seconds(60));
        let of: BTreeSet<_> =
            lab.running.values().map(|start| (&start.plugin, &start.handler)).collect();
        assert_eq!((lab.running.len(), of.len()), (4, 4), "one of each");
    }
    // What one leaves that cannot run is for the others.
    let incarnation = lab.incarnation;
    let (plugin, reason) = ("b".parse().unwrap(), "it was stopped".into());
    lab.tell(Event::PluginDown { plugin, incarnation, reason, crashed: false });
    lab.running.retain(|_, start| start.plugin.as_str() == "a");
    while !lab.running.is_empty() {
        lab.end_first(0.0);
    }
    lab.pass_through(seconds(60));
    assert_eq!(lab.running.len(), 4);
}

#[test]
fn a_budget_of_which_two_parts_are_used_up_is_told_of_once() {
    let mut lab = Lab::new();
    lab.set("a", BudgetChange { per_day: Some(Some(1.0)), ..calls(1) }).unwrap();
    let first = lab.enqueue("a/one", Some(0.9));
    let second = lab.enqueue("a/one", Some(0.2));
    lab.end_with(first, done(), Some(0.9));
    for _ in 0..20 {
        let reason = "budget per_day of a: 0.1 is left, and the job is expected to cost 0.2";
        assert_eq!(lab.held(second).unwrap().0, reason);
        lab.pass_through(minutes(1));
        // Calls are used up and free again meanwhile.
        let free = lab.enqueue("a/two", Some(0.0));
        lab.end_with(free, done(), Some(0.0));
    }
    assert_eq!(lab.records("budget_held").len(), 1);
    lab.set("a", per_day(2.0)).unwrap();
    assert_eq!(lab.held(second).unwrap().0, "budget calls_per_minute of a is used up");
    lab.pass_through(minutes(1));
    assert!(lab.running.contains_key(&second));
    assert_eq!(lab.records("budget_held").len(), 1);
}

#[test]
fn what_a_run_cost_that_was_lost_is_not_what_the_next_reserves() {
    let mut lab = Lab::new();
    lab.set("a", per_day(1.0)).unwrap();
    lab.enqueue_many("a/one", 5);
    let first = *lab.running.first_key_value().unwrap().0;
    lab.report(first, 0.01);
    lab.end_with(first, lost(), None);
    lab.pass_through(seconds(5));
    assert_eq!(lab.running.len(), 1, "of a whole run nothing is known yet");
    lab.end_first(0.3);
    // What was lost may have crashed its plugin, and runs by itself.
    let used = lab.world.state.budget(&"a".parse().unwrap(), lab.world.now).unwrap().used;
    assert_eq!((lab.running.len(), used.all_reserved, used.reserved), (1, false, 0.3));
}

#[test]
fn what_is_taken_back_was_never_spent_and_makes_no_room_later() {
    let mut lab = Lab::new();
    let job = lab.enqueue("a/one", None);
    lab.report(job, 0.25);
    lab.pass_through(minutes(2));
    lab.report(job, 2.0);
    lab.pass_through(minutes(3));
    lab.end_with(job, done(), Some(0.5));
    assert_eq!(lab.spent("a"), [0.5; 3]);
    assert!(lab.world.spends.values().all(|row| row.nanos >= 0), "{:?}", lab.world.spends);
    for _ in 0..8 {
        lab.pass_through(minutes(179));
        assert!(lab.spent("a")[0] >= 0.0);
    }
    // What it told of first counts no more, the rest of it does for two minutes yet.
    lab.pass_through(minutes(3));
    assert_eq!(lab.spent("a"), [0.25, 0.5, 0.5]);
    lab.restart();
    assert_eq!(lab.spent("a"), [0.25, 0.5, 0.5]);
}

#[test]
fn costs_that_cannot_be_added_up_take_nothing_back() {
    let mut lab = Lab::new();
    let job = lab.enqueue("a/one", None);
    lab.end_with(job, busy(), Some(1e308));
    let most = lab.spent("a")[0];
    assert!(most > 9e9, "{most}");
    lab.pass_through(seconds(5));
    lab.report(job, 1.7e308);
    lab.end_with(job, done(), Some(1.7e308));
    assert_eq!(lab.spent("a")[0], most);
    assert!(lab.world.jobs[&job].cost.unwrap().is_finite());
}

#[test]
fn a_command_wins_over_the_configuration_part_by_part() {
    let limits =
        BudgetLimits { calls_per_minute: Some(2), per_week: Some(3.0), ..BudgetLimits::default() };
    let budgets = BTreeMap::from([("a".parse().unwrap(), limits)]);
    let mut lab = Lab::with(Policy { budgets, ..policy() });
    let shown = |lab: &Lab| {
        let budgets = lab.world.state.budgets(lab.world.now);
        let of = |scope: BudgetScope| budgets.iter().find(|budget| budget.scope == scope).cloned();
        let used = of("a".parse().unwrap()).unwrap().used;
        (budgets.len(), used.calls_max, used.spent_max)
    };
    assert_eq!(shown(&lab), (1, Some(2), [None, Some(3.0), None]));
    let change = BudgetChange { per_week: Some(Some(1.0)), ..per_day(0.5) };
    lab.set("a", change).unwrap();
    lab.set("*", calls(100)).unwrap();
    assert_eq!(shown(&lab), (2, Some(2), [Some(0.5), Some(1.0), None]));
    lab.set("a", BudgetChange { per_week: Some(None), ..BudgetChange::default() }).unwrap();
    lab.restart();
    assert_eq!(shown(&lab), (2, Some(2), [Some(0.5), Some(3.0), None]));
    for amount in [-1.0, f64::NAN, f64::INFINITY] {
        assert!(lab.set("a", per_day(amount)).is_err(), "{amount}");
    }
    let set = lab.records("budget_set");
    assert_eq!((set.len(), &set[0]["per_day"], &set[0]["by"]), (3, &"0.5".into(), &"user".into()));
}

#[test]
fn what_is_nearly_used_up_is_told_of_at_the_start_and_calls_once_an_hour() {
    let mut lab = Lab::new();
    let job = lab.enqueue("a/one", None);
    lab.end_with(job, done(), Some(1.0));
    // Somebody lowers it in the configuration.
    let limits = BudgetLimits { per_day: Some(1.1), ..BudgetLimits::default() };
    lab.world.policy.budgets = BTreeMap::from([("a".parse().unwrap(), limits)]);
    lab.restart();
    let warned = lab.records("budget_warning");
    assert_eq!(
        (warned.len(), &warned[0]["used"], &warned[0]["of"]),
        (1, &"1".into(), &"1.1".into())
    );
    lab.set("b", calls(2)).unwrap();
    for _ in 0..90 {
        for _ in 0..2 {
            let job = lab.enqueue("b/one", None);
            lab.end_with(job, done(), None);
        }
        lab.pass_through(minutes(1));
    }
    assert_eq!(lab.records("budget_warning").len(), 3, "two of calls in an hour and a half");
}

#[test]
fn a_restart_and_a_clock_that_is_set_back_forget_nothing_that_was_used() {
    let mut lab = Lab::new();
    lab.set("a/one", calls(2)).unwrap();
    lab.set("a/two", per_day(1.0)).unwrap();
    lab.enqueue_many("a/one", 4);
    let two = lab.enqueue("a/two", Some(1.0));
    lab.end_with(two, done(), Some(1.0));
    assert_eq!(lab.running.len(), 2);
    lab.pass(seconds(5));
    lab.restart();
    assert_eq!(lab.running.len(), 0, "two were called within the last minute");
    lab.pass_through(seconds(60));
    assert_eq!(lab.running.len(), 2);
    let waits = lab.enqueue("a/two", Some(0.5));
    lab.world.now.wall = lab.world.now.wall.minus(minutes(300));
    lab.pass(seconds(1));
    assert!(lab.held(waits).is_some());
    assert_eq!(lab.spent("a/two"), [1.0; 3]);
    // Set ahead by two days, the day's budget is free at once, and the week remembers.
    lab.world.now.wall = lab.world.now.wall.plus(minutes(2_880));
    lab.pass_through(seconds(31));
    assert!(lab.running.contains_key(&waits));
    assert_eq!(lab.spent("a/two"), [0.0, 1.0, 1.0]);
}

#[test]
fn a_clock_that_is_ahead_for_hours_takes_nothing_away() {
    let mut lab = Lab::new();
    lab.set("a/one", per_day(1.0)).unwrap();
    let job = lab.enqueue("a/one", Some(1.0));
    lab.end_with(job, done(), Some(1.0));
    let ahead = minutes(100 * 1_440);
    // It is ahead when the engine starts, and while other jobs run.
    lab.world.now.wall = lab.world.now.wall.plus(ahead);
    lab.restart();
    for _ in 0..20 {
        lab.pass_through(minutes(30));
        let other = lab.enqueue("a/two", None);
        lab.end_with(other, done(), Some(0.5));
    }
    assert_eq!(lab.spent("a/one"), [0.0; 3]);
    lab.world.now.wall = lab.world.now.wall.minus(ahead);
    lab.pass(seconds(1));
    assert_eq!(lab.spent("a/one"), [1.0; 3]);
    lab.restart();
    assert_eq!(lab.spent("a/one"), [1.0; 3]);
    assert!(lab.world.spends_gone.is_empty());
    // What is older than a month goes when the clock has shown that for a day.
    lab.pass_through(minutes(40 * 1_440));
    assert!(lab.world.spends_gone.is_empty());
    for _ in 0..24 {
        lab.pass_through(minutes(61));
    }
    assert!(!lab.world.spends_gone.is_empty());
}

#[test]
fn as_many_rows_of_minutes_are_taken_away_as_are_written() {
    let mut lab = Lab::new();
    let mut asks = 0;
    for minute in 0..600 {
        lab.enqueue("a/one", None);
        lab.enqueue("b/one", None);
        lab.end_first(0.5);
        lab.end_first(0.5);
        lab.pass(minutes(1));
        asks += usize::from(lab.world.spends_from.take().is_some());
        assert!(lab.world.spends.len() > minute);
    }
    // Up to a thousand go each time. It is asked for each hour, and with each 256 rows that are written.
    assert!(asks > 13, "{asks} times");
}

#[test]
fn calls_of_a_minute_that_comes_again_are_added_to_those_before() {
    let mut lab = Lab::new();
    let calls = |lab: &Lab| lab.world.spends.values().map(|row| row.calls).sum::<u32>();
    let run = |lab: &mut Lab| {
        let job = lab.enqueue("a/one", None);
        lab.end_with(job, done(), None);
    };
    for back in [0, 10, 300, 0, 3, 700] {
        lab.world.now.wall = lab.world.now.wall.minus(minutes(back));
        for _ in 0..20 {
            run(&mut lab);
            lab.pass(minutes(1));
        }
        lab.restart();
    }
    assert_eq!(calls(&lab), 6 * 20);
}

#[test]
fn the_figures_of_a_handler_are_those_of_the_budgets_that_cover_it() {
    let mut lab = Lab::new();
    let (plugin, handler): (PluginName, HandlerName) =
        ("a".parse().unwrap(), "one".parse().unwrap());
    let pulse = |lab: &Lab| lab.world.state.pulse(&plugin, &handler, lab.world.now);
    assert_eq!((pulse(&lab).calls_left, pulse(&lab).spend_left), (None, None));
    lab.set("a/one", calls(10)).unwrap();
    lab.set("a", calls(4)).unwrap();
    lab.set("*", per_day(2.0)).unwrap();
    let job = lab.enqueue("a/one", Some(0.5));
    lab.end_with(job, done(), Some(0.75));
    let job = lab.enqueue("a/two", Some(0.25));
    lab.enqueue("b/one", Some(0.25));
    let told = pulse(&lab);
    assert_eq!((told.used.calls, told.calls_left), (1, Some(2)));
    assert_eq!((told.used.spent[0], told.spend_left), (0.75, Some(0.75)));
    assert_eq!(told.held_by, None);
    lab.end_with(job, done(), Some(1.5));
    let hold = pulse(&lab).held_by.unwrap();
    assert_eq!((hold.scope, hold.kind), (BudgetScope::All, BudgetKind::Spend(Span::Day)));
    assert_eq!(hold.until, Some(whole_minute(lab.world.now.wall.plus(minutes(1_440)))));
    // Two days later all of it is free, though nothing happened meanwhile.
    lab.world.advance(minutes(2_880));
    assert_eq!(pulse(&lab).spend_left, Some(1.75), "one attempt is under way still");
    assert_eq!(pulse(&lab).used.calls, 0);
}

fn whole_minute(at: axwatch_model::Timestamp) -> axwatch_model::Timestamp {
    axwatch_model::Timestamp::from_ms_clamped(at.ms().div_euclid(60_000) * 60_000)
}

/// A small generator of numbers: the same seed gives the same load.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % n
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()].clone()
    }
}

const HANDLERS: [&str; 4] = ["a/one", "a/two", "b/one", "b/two"];
const SPANS: [i64; 3] = [1_440, 10_080, 43_200];

/// What a budget says of a day, a week and 30 days, in billionths.
type Limits = [Option<i64>; 3];

/// What an attempt was expected to cost, in billionths.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Estimate(i64),
    Dearest(i64),
    Unknown,
}

/// An attempt under way, as its start and the rows tell of it. Money is in billionths.
#[derive(Debug, Clone)]
struct Under {
    attempt: u32,
    handler: String,
    expected: Expected,
    /// What of that it has not spent.
    remaining: i64,
    cost_before: i64,
    paid: i64,
}

impl Under {
    /// What it reserved of a budget when it started; `None` is all that was left.
    fn reserved(&self, limits: &Limits) -> Option<i64> {
        let mut limits = limits.iter().flatten();
        match self.expected {
            Expected::Estimate(nanos) => Some(nanos),
            Expected::Dearest(nanos) => limits.all(|limit| nanos <= *limit).then_some(nanos),
            Expected::Unknown => limits.next().is_none().then_some(0),
        }
    }

    fn remaining(&self, limits: &Limits) -> i64 {
        self.reserved(limits).map_or(0, |_| self.remaining)
    }

    fn overspent(&self, limits: &Limits) -> i64 {
        (self.paid - self.reserved(limits).unwrap_or(0)).max(0)
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy)]
enum End {
    Done,
    Failed,
    Lost,
}

/// A load, made from a seed, and what adding up gives.
struct Load {
    lab: Lab,
    rng: Rng,
    /// Scopes, calls in a minute and billionths in a day, a week and 30 days.
    budgets: Vec<(BudgetScope, Option<u32>, Limits)>,
    under: BTreeMap<JobNumber, Under>,
    dearest: BTreeMap<String, i64>,
    estimates: BTreeMap<JobNumber, i64>,
    /// By budget, the attempts that were under way when the last one started that costs something, and those
    /// that started after it.
    since_start: BTreeMap<usize, BTreeMap<(JobNumber, u32), Under>>,
    /// How often a budget was looked at that was overspent, and an attempt ran with all that was left.
    overspent: u32,
    alone: u32,
}

impl Load {
    fn of_seed(seed: u64) -> Load {
        let mut rng = Rng(seed);
        let mut lab = Lab::new();
        let mut budgets = Vec::new();
        for scope in ["*", "a", "b", "a/one", "b/two"] {
            if rng.below(3) == 0 {
                continue;
            }
            let calls = (rng.below(2) == 0).then(|| 2 + u32::try_from(rng.below(12)).unwrap());
            let mut amount = |tenths: u64| {
                (rng.below(2) == 0).then(|| ((1 + rng.below(40)) * tenths) as f64 / 10.0)
            };
            let spend = [amount(1), amount(4), amount(10)];
            let change = BudgetChange {
                calls_per_minute: Some(calls),
                per_day: Some(spend[0]),
                per_week: Some(spend[1]),
                per_month: Some(spend[2]),
            };
            lab.set(scope, change).unwrap();
            let nanos = spend.map(|amount| amount.and_then(nanos_of_amount));
            budgets.push((scope.parse().unwrap(), calls, nanos));
        }
        Load {
            lab,
            rng,
            budgets,
            under: BTreeMap::new(),
            dearest: BTreeMap::new(),
            estimates: BTreeMap::new(),
            since_start: BTreeMap::new(),
            overspent: 0,
            alone: 0,
        }
    }

    fn go(&mut self) {
        for _ in 0..1_200 {
            match self.rng.below(20) {
                0..=6 => self.enqueue(),
                7..=13 => self.end(),
                14 | 15 => self.report(),
                16 => {
                    let span = self.rng.one_of(&[1, 20, 70, 3_000]);
                    self.pass_through(seconds(span));
                }
                17 => self.step(None, |lab| lab.pass(Duration::from_millis(300))),
                18 if self.rng.below(12) == 0 => {
                    let span = minutes(self.rng.one_of(&[600, 1_440, 12_000]));
                    self.pass_through(span);
                }
                19 if self.rng.below(12) == 0 => {
                    self.under.clear();
                    self.step(None, Lab::restart);
                }
                _ => self.step(None, |lab| drop(lab.tell(Event::Tick))),
            }
        }
    }

    fn enqueue(&mut self) {
        // Of all jobs that wait the budgets should hold some, and not too many.
        if self.lab.world.state.open_jobs() > 60 {
            return;
        }
        let handler = self.rng.one_of(&HANDLERS);
        let estimate = (self.rng.below(3) == 0).then(|| self.rng.below(900) as f64 / 1_000.0);
        let next = JobNumber(self.lab.world.jobs.len() as u64 + 1);
        // One of 0 is none.
        let nanos = estimate.and_then(nanos_of_amount).filter(|nanos| *nanos > 0);
        self.estimates.extend(nanos.map(|nanos| (next, nanos)));
        self.step(None, |lab| {
            lab.enqueue(handler, estimate);
        });
    }

    fn cost(&mut self) -> f64 {
        let most = self.rng.one_of(&[10, 400_000, 400_000, 400_000, 1_500_000]);
        self.rng.below(most) as f64 / 1_000_000.0
    }

    fn any_under(&mut self) -> Option<JobNumber> {
        let under: Vec<_> = self.under.keys().copied().collect();
        (!under.is_empty()).then(|| self.rng.one_of(&under))
    }

    fn report(&mut self) {
        let Some(job) = self.any_under() else { return };
        let cost = self.cost();
        self.step(None, |lab| lab.report(job, cost));
    }

    fn end(&mut self) {
        let Some(job) = self.any_under() else { return };
        let cost = (self.rng.below(8) > 0).then(|| self.cost());
        let (outcome, end) = match self.rng.below(8) {
            0 => (busy(), End::Failed),
            1 => (lost(), End::Lost),
            _ => (done(), End::Done),
        };
        self.step(Some((job, end)), |lab| drop(lab.end_with(job, outcome, cost)));
    }

    fn pass_through(&mut self, span: Duration) {
        let end = self.lab.world.now.mono.plus(span);
        while let Some(wake) = self.lab.world.state.next_wake().filter(|wake| *wake <= end) {
            let span = wake.since(self.lab.world.now.mono);
            self.step(None, |lab| lab.pass(span));
        }
        let span = end.since(self.lab.world.now.mono);
        self.step(None, |lab| lab.pass(span));
    }

    /// Something happens, an end of an attempt perhaps, and everything is added up again.
    fn step(&mut self, ended: Option<(JobNumber, End)>, happens: impl FnOnce(&mut Lab)) {
        happens(&mut self.lab);
        for (job, under) in &mut self.under {
            let paid = nanos(&self.lab.world.jobs[job]) - under.cost_before;
            let expected = match under.expected {
                Expected::Estimate(nanos) | Expected::Dearest(nanos) => nanos,
                Expected::Unknown => 0,
            };
            (under.paid, under.remaining) = (paid, (expected - paid).max(0));
            for under_then in self.since_start.values_mut() {
                let known = under_then.get_mut(&(*job, under.attempt));
                known.into_iter().for_each(|known| known.paid = paid);
            }
        }
        if let Some((job, end)) = ended
            && let Some(under) = self.under.remove(&job)
        {
            let is_first = !self.dearest.contains_key(&under.handler);
            let is_known = match end {
                End::Done => true,
                End::Failed => under.paid != 0,
                End::Lost => under.paid != 0 && !is_first,
            };
            if is_known {
                let dearest = self.dearest.entry(under.handler.clone()).or_insert(0);
                *dearest = under.paid.max(*dearest);
            }
        }
        self.look_for_overspending();
        let started = self.note_started();
        self.check_starts(&started);
        self.note_under_way(&started);
        self.check_figures();
    }

    /// The attempts that started in the step at hand.
    fn note_started(&mut self) -> Vec<JobNumber> {
        let mut started = Vec::new();
        for (job, start) in &self.lab.running {
            if self.under.get(job).is_some_and(|under| under.attempt == start.attempt) {
                continue;
            }
            let handler = format!("{}/{}", start.plugin, start.handler);
            let (expected, remaining) = match (self.estimates.get(job), self.dearest.get(&handler))
            {
                (Some(nanos), _) => (Expected::Estimate(*nanos), *nanos),
                (None, Some(nanos)) => (Expected::Dearest(*nanos), *nanos),
                (None, None) => (Expected::Unknown, 0),
            };
            let cost_before = nanos(&self.lab.world.jobs[job]);
            let attempt = start.attempt;
            let under = Under { attempt, handler, expected, remaining, cost_before, paid: 0 };
            let mut of_it = self.budgets.iter().filter(|(scope, ..)| covers(scope, &under.handler));
            let is_alone = of_it.any(|(.., limits)| under.reserved(limits).is_none());
            self.alone += u32::from(is_alone);
            self.under.insert(*job, under);
            started.push(*job);
        }
        started
    }

    fn note_under_way(&mut self, started: &[JobNumber]) {
        for (at, (scope, _, limits)) in self.budgets.iter().enumerate() {
            let costs = |under: &Under| under.reserved(limits) != Some(0);
            let of_it = |job: &JobNumber| {
                let under = &self.under[job];
                covers(scope, &under.handler).then(|| ((*job, under.attempt), under.clone()))
            };
            let started: Vec<_> = started.iter().filter_map(of_it).collect();
            let known = self.since_start.entry(at).or_default();
            if started.iter().any(|(_, under)| costs(under)) {
                *known = self.under.keys().filter_map(of_it).collect();
            } else {
                // What is expected to cost nothing may always start, and is under way as well.
                known.extend(started);
            }
        }
    }

    /// No budget was passed by what started, and what reserved all that is left has nothing beside it that
    /// started after it.
    fn check_starts(&self, started: &[JobNumber]) {
        for (scope, _, limits) in &self.budgets {
            let is_in = |under: &&Under| covers(scope, &under.handler);
            let new: Vec<_> = started.iter().map(|job| &self.under[job]).filter(is_in).collect();
            let all: Vec<_> = self.under.values().filter(is_in).collect();
            let limited =
                limits.iter().zip(SPANS).filter_map(|(limit, span)| Some(((*limit)?, span)));
            for (limit, span) in limited {
                let spent = self.spent(scope, span);
                let reserved: i64 = all.iter().map(|under| under.remaining(limits)).sum();
                let costs = |under: &&&Under| under.reserved(limits) != Some(0);
                if new.iter().any(|under| costs(&under)) {
                    assert!(
                        spent + reserved <= limit,
                        "{scope}: {spent} and {reserved} of {limit}"
                    );
                }
                if new.iter().any(|under| under.reserved(limits).is_none()) {
                    assert!(spent + reserved < limit, "{scope}: something was left of {limit}");
                }
                let alone = || all.iter().filter(|under| under.reserved(limits).is_none());
                assert!(alone().count() <= 1, "{scope}: {} alone", alone().count());
                let is_new = |under: &&&Under| new.iter().any(|new| std::ptr::eq(*new, **under));
                if alone().any(|under| !is_new(&under)) {
                    assert_eq!(new.iter().filter(costs).count(), 0, "{scope}: beside one alone");
                }
            }
        }
    }

    /// What is overspent is at most what those cost more than they had reserved that were under way when
    /// something last started.
    fn look_for_overspending(&mut self) {
        for (at, (scope, _, limits)) in self.budgets.iter().enumerate() {
            for (limit, span) in limits.iter().zip(SPANS) {
                let Some(limit) = limit else { continue };
                let excess = self.spent(scope, span) - limit;
                self.overspent += u32::from(excess > 0);
                let under_then = self.since_start.get(&at).into_iter().flat_map(BTreeMap::values);
                let allowed: i64 = under_then.map(|under| under.overspent(limits)).sum();
                assert!(excess <= allowed, "{scope}: {excess} over {limit}, allowed {allowed}");
            }
        }
    }

    /// What the rows say was spent in a span, up to the present minute.
    fn spent(&self, scope: &BudgetScope, span: i64) -> i64 {
        let minute = self.lab.world.now.wall.ms().div_euclid(60_000);
        let of = self.lab.world.spends.values().filter(|row| {
            scope.covers(&row.plugin, &row.handler) && (row.minute - minute).abs() < span
        });
        of.map(|row| row.nanos).sum()
    }

    /// The figures that are shown are those of the rows, and the rows are the sums of the jobs.
    fn check_figures(&self) {
        for (scope, calls, limits) in &self.budgets {
            let used = self.lab.world.state.budget(scope, self.lab.world.now).unwrap().used;
            let spent = SPANS.map(|span| self.spent(scope, span) as f64 / 1e9);
            assert_eq!(used.spent, spent, "{scope}");
            let is_in = |under: &&Under| covers(scope, &under.handler);
            let reserved: i64 =
                self.under.values().filter(is_in).map(|under| under.remaining(limits)).sum();
            assert_eq!(used.reserved, reserved as f64 / 1e9, "{scope}");
            assert!(calls.is_none_or(|max| used.calls <= u64::from(max)), "{scope}: {used:?}");
        }
        for handler in HANDLERS {
            let scope: BudgetScope = handler.parse().unwrap();
            let jobs = self.lab.world.jobs.values().filter(|job| &*job.handler == handler);
            let of_jobs: i64 = jobs.map(nanos).sum();
            let gone = self.lab.world.spends_gone.iter();
            let gone = gone.filter(|((plugin, name), _)| scope.covers(plugin, name));
            let gone: i64 = gone.map(|(_, nanos)| nanos).sum();
            assert_eq!(self.spent(&scope, i64::MAX) + gone, of_jobs, "{handler}");
        }
    }

    /// Once nothing more costs anything, everything is done in the end but what is estimated too high.
    fn finish(&mut self) {
        for _ in 0..80 {
            while let Some(job) = self.any_under() {
                self.step(Some((job, End::Done)), |lab| {
                    drop(lab.end_with(job, done(), Some(0.0)));
                });
            }
            self.pass_through(minutes(720));
        }
        for job in self.lab.world.jobs.values().filter(|job| job.state.is_open()) {
            let waiting = self.lab.waiting(job.number).expect("it waits");
            let WaitReason::Budget(hold) = waiting.reason else { panic!("{waiting:?}") };
            assert_eq!(hold.cause, HoldCause::TooDear, "{hold}");
        }
        for (scope, calls, _) in &self.budgets {
            let Some(max) = calls else { continue };
            let left = self.lab.left.iter().filter(|(handler, _)| covers(scope, handler));
            let left: Vec<_> = left.map(|(_, at)| *at).collect();
            for pair in left.windows(*max as usize + 1) {
                assert!(pair[pair.len() - 1].since(pair[0]) >= seconds(60), "{scope}: {pair:?}");
            }
        }
    }
}

fn covers(scope: &BudgetScope, handler: &str) -> bool {
    let (plugin, name) = handler.split_once('/').unwrap();
    scope.covers(&plugin.parse().unwrap(), &name.parse().unwrap())
}

fn nanos(job: &JobRow) -> i64 {
    job.cost.and_then(nanos_of_amount).unwrap_or(0)
}

const LOADS_DEFAULT: u64 = 25;

#[test]
fn under_load_no_budget_is_passed_by_more_than_what_cost_more_than_it_reserved() {
    let number_in = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let (first, last) = match (number_in("AXWATCH_SIM_SEED"), number_in("AXWATCH_SIM_SEEDS")) {
        (Some(one), _) => (one, one),
        (None, many) => (1, many.unwrap_or(LOADS_DEFAULT)),
    };
    let (mut overspent, mut alone, mut held) = (0, 0, 0);
    for seed in first..=last {
        eprintln!("AXWATCH_SIM_SEED={seed}");
        let mut load = Load::of_seed(seed);
        load.go();
        load.finish();
        (overspent, alone) = (overspent + load.overspent, alone + load.alone);
        held += load.lab.records("budget_held").len();
        assert_eq!(load.lab.world.verify_audit().problem, None);
        for line in load.lab.world.audit.iter().flat_map(|audit| audit.records.lines()) {
            axwatch_core::audit::check_record(line).expect("a record is canonical");
        }
    }
    eprintln!("{overspent} times overspent, {alone} attempts alone, {held} times held");
    assert!(first == last || overspent > 0 && alone > 0 && held > 0);
}
