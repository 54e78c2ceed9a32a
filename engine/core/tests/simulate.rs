//! The core in a world that goes wrong in every way that we know of, replayed from a seed.
//!
//! A seed makes a plan, a list of steps (`simulate/plan.rs`); carrying it out is all there is to a run
//! (`simulate/run.rs`), so that the same plan does the same again, and a failing one can be cut down to
//! the steps that matter (`simulate/shrink.rs`). What is modelled:
//! - a store whose reads are slow: waiting jobs and segments of the log are asked for, read some time
//!   later, and told later still, in any order; whose commits take time; and whose log loses old claims;
//! - kills before and after any commit, in recovery too, orderly stops, and engines that do not
//!   understand a watcher's text any more;
//! - plugins that come, go, announce other handlers and watchers, and whose attempts succeed, fail, say
//!   "not now", are lost, or are answered late or twice; handlers that are sick; and claims that plugins
//!   make on behalf of jobs, named, unnamed or too late, so that chains of causes come back to themselves;
//! - people who declare, backfill, replay, pause, mute, remove, redrive and discard;
//! - people and plugins who ask for jobs, with priorities, parents and sources, and cancel, pause and resume
//!   them, running ones too; calls that are given up late, and attempts that tell what they cost;
//! - a wall clock that is set by hours and by years, a disk that is nearly full;
//! - bounds so small that everything spills, that watchers fall behind, and that matching does.
//!
//! What must hold after every batch is worked out a second time, naively, in `simulate/model.rs`. In
//! short: each claim that a watcher has come by has its jobs, one a handler, under the ids that DESIGN.md
//! gives, or ended its chain of causes there; nothing else fired; what is held or was let go starts
//! nothing; every attempt starts in the audit, ends there once, and no half-open second holds more of
//! them than the limit; jobs are given up by the settings in force and by nothing else; what waits in a
//! lane starts in its order; what is asked for twice is one job; below a job that is cancelled nothing is
//! open; what comes late changes nothing; tables agree with each other. And once everything has been well for long enough: no job is open, no watcher is
//! behind, matching goes on, the audit verifies, and it counts what the counters say.
//!
//! 5,000 seeds are tried, every tenth of them twice; `AXWATCH_SIM_SEEDS=n` tries others than that many,
//! and `AXWATCH_SIM_SEED=n` replays one. Mistakes that are planted around the core (`simulate/bugs.rs`)
//! show that what goes wrong is found.

#[path = "simulate/bugs.rs"]
mod bugs;
#[path = "simulate/model.rs"]
mod model;
#[path = "simulate/plan.rs"]
mod plan;
#[path = "simulate/run.rs"]
mod run;
#[path = "simulate/shrink.rs"]
mod shrink;
#[allow(dead_code, reason = "each test file uses a part of it")]
mod world;

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use bugs::Bug;
use plan::{Action, Death, PREDICATES, Plan, Step, Wanted};
use run::Simulation;

const SEEDS_DEFAULT: u64 = 5_000;
/// So many seeds are tried at most to find a planted mistake.
const SEEDS_FOR_A_BUG: u64 = 1_500;

#[test]
fn nothing_is_lost_repeated_or_stuck() {
    let (first, last) = match (number_in("AXWATCH_SIM_SEED"), number_in("AXWATCH_SIM_SEEDS")) {
        (Some(one), _) => (one, one),
        (None, many) => (1, many.unwrap_or(SEEDS_DEFAULT)),
    };
    let failed = failing(first, last);
    // Those that fail at one place most likely fail for one reason.
    let mut told: Vec<String> = Vec::new();
    for (seed, failure) in &failed {
        if !told.contains(&failure.at) {
            told.push(failure.at.clone());
            eprintln!("{}", in_words(*seed, failure));
        }
    }
    let seeds: Vec<_> = failed.iter().map(|(seed, _)| seed).collect();
    assert!(failed.is_empty(), "{} seeds failed: {seeds:?}", failed.len());
}

#[test]
fn all_that_is_modelled_comes_to_pass() {
    let mut missing = vec![
        "breaker_closed",
        "breaker_opened",
        "dead_lettered",
        "job_cancelled",
        "job_created",
        "job_discarded",
        "job_paused",
        "job_redriven",
        "job_resumed",
        "late_answer",
        "limited",
        "loop_stopped",
        "replay_ended",
        "replay_started",
        "replay_stopped",
        "watcher_backpressured",
        "watcher_broken",
        "watcher_catching_up",
        "watcher_changed",
        "watcher_live",
        "watcher_mended",
        "watcher_muted",
        "watcher_paused",
        "watcher_refused",
        "watcher_resumed",
        "watcher_retired",
        "watcher_unmuted",
    ];
    for plan in (1..=SEEDS_FOR_A_BUG).map(Plan::of_seed) {
        let Ok(simulation) = try_plan(&plan, None) else { continue };
        let has = |kind: &str| {
            let kind = format!(r#""type":"{kind}""#);
            simulation.world.audit.iter().any(|audit| audit.records.contains(&kind))
        };
        missing.retain(|kind| !has(kind));
        if missing.is_empty() {
            return;
        }
    }
    panic!("none of {SEEDS_FOR_A_BUG} seeds has {missing:?}");
}

#[test]
fn planted_mistakes_are_found() {
    let missed: Vec<_> = Bug::ALL.into_iter().filter(|bug| find(*bug).is_none()).collect();
    assert!(missed.is_empty(), "{missed:?} are not found by {SEEDS_FOR_A_BUG} seeds");
}

#[test]
fn a_failing_plan_comes_down_to_what_matters() {
    let (plan, failure) = find(Bug::ClaimsDropped).expect("claims that the core is not told of");
    let fails = |plan: &Plan| fails_alike(plan, Some(Bug::ClaimsDropped), &failure);
    let short = shrink::shrink(plan.clone(), fails);
    assert!(short.steps.len() <= 8, "{:#?}", short.steps);
    for place in 0..short.steps.len() {
        let mut shorter = short.clone();
        shorter.steps.remove(place);
        assert!(!fails(&shorter), "step {place} could be left out: {:#?}", short.steps);
    }
    let words = words_of(&short);
    assert!(words.contains("claim(s)"), "{words}");
}

/// What failing seeds came down to, before what they found was mended.
#[test]
fn what_once_failed_does_not_any_more() {
    let declare = |watcher, wanted, since| calm(Action::Declare { watcher, wanted, since });
    let claims = |many, predicate| calm(Action::Claims { many, predicate, with_segment: false });
    let fails = |pick| calm(Action::End { pick, how: 4, twice: false });
    let up = |plugin, fewer| calm(Action::ComeUp { plugin, fewer, watches: true });
    let usual = Wanted::usual;
    let moved = || Wanted { handlers: &["a/x", "y"], ..usual(0) };
    let both = || Wanted { predicates: &PREDICATES, ..usual(3) };
    let cases = [
        (
            "what a watcher did that is retired now is counted by the next engine",
            vec![
                declare(0, usual(0), None),
                claims(2, 0),
                calm(Action::Remove { watcher: 0 }),
                die(),
            ],
        ),
        (
            "a hold of a watcher's former life lets nothing go of its next one",
            vec![
                declare(3, usual(3), None),
                calm(Action::Pause { watcher: 3, skip: true }),
                claims(3, 1),
                calm(Action::Remove { watcher: 3 }),
                claims(1, 0),
                declare(3, both(), Some(0)),
            ],
        ),
        (
            "what a watcher's former life let go, and had forgotten, the next engine lets go no more",
            vec![
                declare(0, usual(0), None),
                calm(Action::Pause { watcher: 0, skip: true }),
                claims(1, 0),
                calm(Action::Pause { watcher: 0, skip: false }),
                calm(Action::Remove { watcher: 0 }),
                declare(0, usual(0), Some(0)),
                die(),
            ],
        ),
        (
            "a job goes on whose handler came when its watcher no longer named it",
            vec![
                declare(1, Wanted { handlers: &["z"], ..usual(1) }, None),
                claims(1, 1),
                declare(1, moved(), None),
            ],
        ),
        (
            "a job goes on whose handler moved when its watcher no longer named it",
            vec![declare(0, moved(), None), up(1, true), claims(1, 0)],
        ),
        (
            "a watcher whose text is understood again goes on, though it was refused meanwhile",
            vec![
                up(0, false),
                claims(1, 0),
                declare(4, usual(4), Some(0)),
                calm(Action::Upgrade { watcher: 4 }),
                up(1, true),
                declare(4, Wanted { limit: 1, ..usual(4) }, None),
                calm(Action::Upgrade { watcher: 4 }),
            ],
        ),
        (
            "a clock that was set back does not tell a backfill from a watcher that fell behind",
            vec![
                claims(6, 0),
                declare(1, usual(1), Some(4)),
                claims(1, 1),
                calm(Action::SetClock { by_ms: -315_360_000_000 }),
                calm(Action::Pause { watcher: 1, skip: true }),
            ],
        ),
        (
            "a clock that was set forward makes no job old",
            vec![
                declare(1, usual(1), None),
                up(0, false),
                claims(1, 1),
                fails(0),
                calm(Action::SetClock { by_ms: 10 * 3_600_000 }),
                calm(Action::Pass { ms: 1_500 }),
                die(),
                up(0, false),
                fails(0),
            ],
        ),
    ];
    for (what, steps) in cases {
        let result = try_plan(&Plan { watcher_open_jobs_max: 30, steps }, None);
        assert!(result.is_ok(), "{what}: {:?}", result.err());
    }
}

/// A step whose commit is fast, and after which the engine lives on.
fn calm(action: Action) -> Step {
    Step { action, stall_ms: 0, deaths: Vec::new() }
}

/// The engine is killed.
fn die() -> Step {
    Step { deaths: vec![Some(Death::BeforeCommit)], ..calm(Action::Pass { ms: 0 }) }
}

/// How a run failed: what was said, and where in the code.
#[derive(Debug, Clone)]
struct Failure {
    said: String,
    at: String,
}

/// The seeds that fail, by number.
fn failing(first: u64, last: u64) -> Vec<(u64, Failure)> {
    let next = AtomicU64::new(first);
    let run_some = || {
        let mut failed = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > last {
                return failed;
            }
            failed.extend(try_seed(seed).err().map(|failure| (seed, failure)));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut failed: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run_some)).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("it catches panics")).collect()
    });
    failed.sort_by_key(|(seed, _)| *seed);
    failed
}

/// Runs a seed; every tenth twice, as what depends on anything but its plan shows in the second run.
fn try_seed(seed: u64) -> Result<(), Failure> {
    let plan = Plan::of_seed(seed);
    let first = try_plan(&plan, None)?;
    if seed.is_multiple_of(10) && first.digest() != try_plan(&plan, None)?.digest() {
        return Err(Failure { said: "two runs differ".into(), at: "two runs".into() });
    }
    Ok(())
}

/// The first seed in which a planted mistake shows.
fn find(bug: Bug) -> Option<(Plan, Failure)> {
    (1..=SEEDS_FOR_A_BUG).map(Plan::of_seed).find_map(|plan| {
        let failure = try_plan(&plan, Some(bug)).err()?;
        // It is the mistake that fails, not the seed.
        try_plan(&plan, None).is_ok().then_some((plan, failure))
    })
}

fn try_plan(plan: &Plan, bug: Option<Bug>) -> Result<Simulation, Failure> {
    listen_to_panics();
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| run::run(plan, bug)));
    QUIET.set(false);
    result.map_err(|_| PANICKED.take().expect("the hook has noted it"))
}

fn fails_alike(plan: &Plan, bug: Option<Bug>, failure: &Failure) -> bool {
    try_plan(plan, bug).is_err_and(|other| other.at == failure.at)
}

thread_local! {
    /// A panic of this thread is caught and told of later.
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PANICKED: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

fn listen_to_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                return usual(panic);
            }
            let at = panic.location().map(ToString::to_string).unwrap_or_default();
            let said = panic.payload_as_str().unwrap_or("a panic without a text").to_owned();
            PANICKED.set(Some(Failure { said, at }));
        }));
    });
}

/// What a failing seed comes down to, and how to see it again.
fn in_words(seed: u64, failure: &Failure) -> String {
    let plan = Plan::of_seed(seed);
    let short = shrink::shrink(plan, |plan| fails_alike(plan, None, failure));
    let failure = try_plan(&short, None).err().unwrap_or_else(|| failure.clone());
    format!(
        "seed {seed} fails at {}:\n{}\nIt comes down to:\n{}Replay it with \
         AXWATCH_SIM_SEED={seed} cargo test -p axwatch-core --test simulate\n",
        failure.at,
        failure.said,
        words_of(&short)
    )
}

fn words_of(plan: &Plan) -> String {
    let mut words = format!("  at most {} open jobs a watcher\n", plan.watcher_open_jobs_max);
    for (number, step) in plan.steps.iter().enumerate() {
        let _ = writeln!(words, "  {number}: {step}");
    }
    words
}

fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} should be a number, not {text:?}")))
}
