//! Watchers that do not ride the commit: backfills, back-pressure, replays, holds, and chains that stop.

use axwatch_core::Since;
use axwatch_model::{Lineage, LineageKind, Stored, Timestamp, WatcherNumber};

use super::*;

/// A world that keeps its log, and reads it for whoever catches up.
struct Logged {
    world: World,
    log: Vec<Arc<Stored>>,
    segments: usize,
    /// Claims that one read gives.
    per_read: usize,
}

impl Logged {
    fn new() -> Logged {
        Logged::with(Bounds::default())
    }

    fn with(bounds: Bounds) -> Logged {
        let world = World::with(Policy { bounds, ..policy() });
        Logged { world, log: Vec::new(), segments: 0, per_read: 10 }
    }

    fn claim(&mut self, predicate: &str) -> Vec<Effect> {
        self.claim_with(predicate, |_| {})
    }

    fn claim_with(&mut self, predicate: &str, change: impl FnOnce(&mut Stored)) -> Vec<Effect> {
        self.world.seq += 1;
        let mut stored = stored(self.world.seq, "X", predicate, self.world.now);
        change(&mut stored);
        let stored = Arc::new(stored);
        self.log.push(stored.clone());
        self.world.tell(Event::Match { stored })
    }

    fn claims(&mut self, many: u64) {
        (0..many).for_each(|_| drop(self.claim("p")));
    }

    /// One segment for whoever catches up, if anybody does.
    fn segment(&mut self) -> bool {
        let Some(next) = self.world.state.next_segment() else { return false };
        let rows =
            self.log.iter().filter(|stored| stored.seq > next.after && stored.seq <= next.upto);
        let rows: Vec<_> = rows.take(self.per_read).cloned().collect();
        let upto = if rows.len() < self.per_read { next.upto } else { rows.last().unwrap().seq };
        self.segments += 1;
        let aliases = Arc::default();
        self.world.tell(Event::Segment { after: next.after, upto, rows, aliases });
        true
    }

    fn catch_up(&mut self) {
        while self.segment() {}
    }

    fn since(&mut self, local: &str, first: u64) -> Result<WatcherRow, Refusal> {
        let since = Some(Since::First(Seq(first)));
        self.world.declare(Declaration { since, ..on_predicate(local, "p", "nobody") })
    }

    /// The claims that a watcher has jobs for, in the order of the jobs.
    fn fired(&self, watcher: u64, generation: u32) -> Vec<u64> {
        let of_it = |row: &&JobRow| {
            row.watcher == Some(WatcherNumber(watcher)) && row.generation == generation
        };
        self.world.jobs.values().filter(of_it).map(|row| row.seq.unwrap().0).collect()
    }

    fn view(&self, local: &str) -> axwatch_core::WatcherView {
        self.world.state.watcher(local).expect("it stands")
    }

    fn restart(&mut self) {
        self.world.restart();
    }

    fn complete(&mut self, effects: &[Effect]) {
        for start in starts(effects) {
            let more = self.world.end(&start, done());
            self.complete(&more);
        }
    }
}

fn all(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.collect()
}

#[test]
fn a_backfill_goes_live_without_a_gap_or_a_double() {
    let mut logged = Logged::new();
    logged.claims(35);
    logged.since("w", 4).unwrap();
    assert_eq!(logged.view("w").row.state, WatcherState::WaitingForHandler);
    assert_eq!(logged.view("w").position.unwrap().seq, Seq(3));
    logged.segment();
    logged.claims(3);
    logged.segment();
    // In the middle of it the engine dies.
    logged.restart();
    logged.claims(3);
    assert_eq!(logged.view("w").position.unwrap().seq, Seq(23));
    logged.catch_up();
    assert_eq!(logged.view("w").position, None);
    logged.claims(2);
    logged.restart();
    logged.claims(1);
    assert_eq!(logged.fired(1, 0), all(4..=44));
    assert_eq!(logged.world.records("watcher_live").len(), 1);
    assert!(logged.world.passes.is_empty() && logged.world.cursors.is_empty());
}

#[test]
fn since_is_for_new_watchers_and_for_what_there_is() {
    let mut logged = Logged::new();
    logged.claims(5);
    let refused = logged.since("w", 7).unwrap_err();
    assert!(refused.reason.contains("the log ends at 5; a watcher begins at 6"), "{refused}");
    logged.since("w", 6).unwrap();
    assert_eq!(logged.view("w").position, None);
    logged.since("w", 1).unwrap();
    assert_eq!(logged.view("w").position, None, "one that stands is not sent back");
    let nowhere = Since::Nowhere("\"soon\" is no time".into());
    let declaration = Declaration { since: Some(nowhere), ..on_predicate("v", "p", "nobody") };
    let refused = logged.world.declare(declaration).unwrap_err();
    assert_eq!(refused.reason, "since: \"soon\" is no time");
}

#[test]
fn many_that_catch_up_make_one_pass_and_write_one_row_a_segment() {
    let mut logged = Logged::new();
    logged.claims(200);
    for n in 0..300 {
        logged.since(&format!("w{n}"), 1).unwrap();
    }
    // Some that join on the way.
    assert!((0..7).all(|_| logged.segment()));
    (300..310).for_each(|n| drop(logged.since(&format!("w{n}"), 51).unwrap()));
    let (passes, cursors) = (logged.world.passes_written, logged.world.cursors_written);
    logged.catch_up();
    assert_eq!(logged.segments, 20 + 15, "one pass, and one for those that came late");
    assert_eq!(logged.world.passes_written, passes, "their rows stay as they are");
    assert!(logged.world.cursors_written - cursors <= 2 * logged.segments);
    for n in [1, 150, 300] {
        assert_eq!(logged.fired(n, 0), all(1..=200), "{n}");
    }
    assert_eq!(logged.fired(305, 0), all(51..=200));
}

#[test]
fn cursors_that_meet_go_on_together() {
    let mut logged = Logged::new();
    logged.claims(60);
    logged.since("a", 1).unwrap();
    logged.since("b", 26).unwrap();
    logged.since("c", 31).unwrap();
    logged.catch_up();
    assert_eq!(logged.segments, 6, "the sweep takes along whom it comes by");
    let fired = [1, 2, 3].map(|n| logged.fired(n, 0));
    assert_eq!(fired, [all(1..=60), all(26..=60), all(31..=60)]);
}

fn small_bounds() -> Bounds {
    Bounds { watcher_open_jobs_max: 20, lane_waiting_max: 4, ..Bounds::default() }
}

#[test]
fn a_watcher_with_too_many_open_jobs_falls_behind_and_comes_back() {
    let mut logged = Logged::with(small_bounds());
    logged.world.declare(on_predicate("w", "p", "act")).unwrap();
    logged.world.declare(on_predicate("other", "q", "act")).unwrap();
    logged.claims(50);
    logged.claim("q");
    let view = logged.view("w");
    assert_eq!((view.open_jobs, view.position.unwrap().seq), (20, Seq(20)));
    assert!(view.position.unwrap().backpressured);
    assert_eq!(logged.world.records("watcher_backpressured").len(), 1);
    assert_eq!(logged.fired(2, 0), [51], "others go on");
    assert!(!logged.segment(), "it rests");
    logged.restart();
    logged.catch_up();
    assert_eq!(logged.view("w").open_jobs, 20, "it rests after a restart too");

    let (_, effects) = logged.world.up("demo", &["act"], vec![]);
    let first: Vec<_> = starts(&effects);
    for start in &first {
        logged.world.end(start, done());
    }
    assert!(logged.view("w").position.is_some_and(|place| place.backpressured), "not below half");
    // Everything is done, over and over, until nothing is left.
    for _ in 0..200 {
        let mut running = logged.world.jobs.values().filter(|row| row.state == JobState::Running);
        let Some(row) = running.next().map(|row| (row.number, row.attempts)) else { break };
        let ended = Ended { quick: true, ..Ended::bare(done()) };
        let (job, attempt) = row;
        let effects =
            logged.world.tell(Event::AttemptEnded { job, attempt, incarnation: 1, ended });
        drop(effects);
        assert!(logged.view("w").open_jobs <= 20);
        logged.catch_up();
    }
    assert_eq!(logged.fired(1, 0), all(1..=50), "each once, in order");
    assert_eq!(logged.view("w").position, None);
    logged.claims(1);
    assert_eq!(logged.fired(1, 0).last(), Some(&52));
}

#[test]
fn a_replay_fires_again_under_its_own_generation_beside_the_live_fires() {
    let mut logged = Logged::new();
    let (_, _) = logged.world.up("demo", &["act"], vec![]);
    logged.world.declare(on_predicate("w", "p", "act")).unwrap();
    logged.claims(30);
    let replay = |from, to| WatcherCommand::Replay { from: Seq(from), to: Seq(to) };
    for (from, to, told) in [(9, 3, "after the last"), (1, 31, "the log ends at 30")] {
        let refused = logged.world.command("w", replay(from, to)).0.unwrap_err();
        assert!(refused.reason.contains(told), "{refused}");
    }
    logged.world.command("w", replay(5, 24)).0.unwrap();
    let again = logged.world.command("w", replay(1, 2)).0.unwrap_err();
    assert!(again.reason.contains("--stop"), "{again}");
    assert_eq!(logged.view("w").replay.unwrap().generation, 1);
    logged.segment();
    logged.restart();
    logged.claims(2);
    logged.catch_up();
    assert_eq!(logged.view("w").replay, None);
    assert_eq!(logged.fired(1, 1), all(5..=24));
    assert_eq!(logged.fired(1, 0), all(1..=32), "live fires go on as they were");
    let ids: std::collections::BTreeSet<_> = logged.world.jobs.values().map(|row| row.id).collect();
    assert_eq!(ids.len(), logged.world.jobs.len(), "each job has an id of its own");

    // Declared again after it was removed, it takes the generation after the replay's.
    logged.world.command("w", WatcherCommand::Remove).0.unwrap();
    logged.world.declare(on_predicate("w", "p", "act")).unwrap();
    assert_eq!(logged.view("w").row.generation, 2);
    logged.world.command("w", replay(1, 32)).0.unwrap();
    logged.segment();
    logged.world.command("w", WatcherCommand::StopReplay).0.unwrap();
    logged.catch_up();
    assert_eq!(logged.fired(1, 3), all(1..=10));
    assert!(logged.world.command("w", WatcherCommand::StopReplay).0.is_err());
    assert_eq!(logged.world.records("replay_stopped").len(), 1);
}

#[test]
fn a_replay_never_holds_the_live_fires_up() {
    let mut logged = Logged::with(small_bounds());
    logged.world.declare(on_predicate("w", "p", "act")).unwrap();
    logged.claims(15);
    logged.world.command("w", WatcherCommand::Replay { from: Seq(1), to: Seq(15) }).0.unwrap();
    logged.catch_up();
    assert_eq!(logged.fired(1, 1), all(1..=10), "half of what the live fires may have");
    logged.claims(4);
    assert_eq!((logged.fired(1, 0), logged.view("w").position), (all(1..=19), None));
}

#[test]
fn what_is_paused_is_kept_or_skipped() {
    let mut logged = Logged::new();
    logged.world.up("demo", &["act"], vec![]);
    logged.world.declare(on_predicate("w", "p", "act")).unwrap();
    logged.world.command("w", WatcherCommand::Pause { skip: false }).0.unwrap();
    logged.claims(3);
    let (row, effects) = logged.world.command("w", WatcherCommand::Resume { drop: false });
    assert_eq!((row.unwrap().state, starts(&effects).len()), (WatcherState::Live, 3));
    logged.complete(&effects);
    logged.world.command("w", WatcherCommand::Pause { skip: true }).0.unwrap();
    logged.claims(2);
    let (_, effects) = logged.world.command("w", WatcherCommand::Resume { drop: false });
    assert!(starts(&effects).is_empty());
    let let_go: Vec<_> =
        logged.world.jobs.values().filter(|row| row.state == JobState::Cancelled).collect();
    assert_eq!(let_go.len(), 2);
    assert_eq!(let_go[0].error.as_deref(), Some("let go: the watcher was paused"));
    assert_eq!(logged.world.records("job_cancelled").len(), 2);
    // And one of them is wanted after all.
    let event = logged.world.redrive_of(let_go[0], 1);
    let effects = logged.world.tell(event);
    assert_eq!(starts(&effects).len(), 1);
}

#[test]
fn a_mute_ends_by_the_wall_clock_and_what_it_held_fires_at_the_limit() {
    let mut logged = Logged::new();
    logged.world.up("demo", &["act"], vec![]);
    let limited = Declaration { max_fires_per_second: 1, ..on_predicate("w", "p", "act") };
    logged.world.declare(limited).unwrap();
    logged.world.pass_through(second() * 2);
    let hour = Duration::from_secs(3_600);
    let until = logged.world.now.wall.plus(hour);
    let mute = |until, drop| WatcherCommand::Mute { until, drop };
    let past = Timestamp::from_ms(1).unwrap();
    assert!(logged.world.command("w", mute(past, false)).0.is_err());
    logged.world.command("w", mute(until, false)).0.unwrap();
    assert_eq!(logged.view("w").row.state, WatcherState::Muted);
    logged.claims(4);
    let conflict = logged.world.command("w", WatcherCommand::Pause { skip: false }).0.unwrap_err();
    assert!(conflict.reason.contains("unmute"), "{conflict}");
    logged.restart();
    logged.world.up("demo", &["act"], vec![]);
    assert!(logged.world.pass_through(hour - second() * 60).is_empty(), "nothing before its time");
    let started = logged.world.pass_through(second() * 100);
    assert_eq!(started.len(), 4);
    for pair in started.windows(2) {
        assert!(pair[1].0.since(pair[0].0) >= second(), "at its limit");
    }
    let hold = logged.world.holds.values().next().unwrap();
    assert_eq!((hold.from_seq, hold.to_seq), (Seq(0), Some(Seq(4))));
    assert_eq!((hold.from_job, hold.to_job), (JobNumber(0), Some(JobNumber(4))));
}

#[test]
fn what_was_held_can_be_let_go_wherever_it_waits() {
    let bounds = Bounds { watcher_open_jobs_max: 20, ..small_bounds() };
    let mut logged = Logged::with(bounds);
    logged.world.up("demo", &["act"], vec![]);
    logged.world.declare(on_predicate("w", "p", "act")).unwrap();
    let until = logged.world.now.wall.plus(second() * 60);
    logged.world.command("w", WatcherCommand::Mute { until, drop: false }).0.unwrap();
    // Some in memory, some in the table, and some that its bound keeps in the log.
    logged.claims(40);
    assert_eq!(logged.view("w").open_jobs, 20);
    logged.world.command("w", WatcherCommand::Unmute { drop: true }).0.unwrap();
    logged.restart();
    logged.world.up("demo", &["act"], vec![]);
    logged.catch_up();
    logged.claims(1);
    let state = |state| logged.world.jobs.values().filter(|row| row.state == state).count();
    assert_eq!((state(JobState::Cancelled), state(JobState::Running)), (40, 1));
    assert_eq!((logged.view("w").open_jobs, logged.view("w").position), (1, None));
    assert_eq!(logged.fired(1, 0), all(1..=41));
}

#[test]
fn a_chain_that_comes_back_to_itself_is_stopped_and_others_go_on() {
    let mut logged = Logged::new();
    logged.world.up("demo", &["act"], vec![]);
    logged.world.declare(on_predicate("w", "p", "act")).unwrap();
    let once = Declaration { max_chain: 1, ..on_predicate("once", "p", "act") };
    logged.world.declare(once).unwrap();
    let by = |watchers: &[u64]| Lineage {
        kind: LineageKind::Sure,
        depth: watchers.len() as u32,
        chain: watchers.iter().map(|n| Some(WatcherNumber(*n))).collect(),
        ..Lineage::default()
    };
    let fires = |logged: &mut Logged, lineage: Lineage| {
        fired(&logged.claim_with("p", |stored| stored.lineage = lineage))
    };
    assert_eq!(fires(&mut logged, by(&[])), 2);
    assert_eq!(fires(&mut logged, by(&[1, 1, 1])), 2);
    assert_eq!(fires(&mut logged, by(&[1, 1, 1, 1])), 1, "its fifth time");
    assert_eq!(fires(&mut logged, by(&[1, 2])), 1, "which the other does not have");
    assert_eq!(fires(&mut logged, by(&[7; 17])), 0, "too deep for anybody");
    let unsure = Lineage { kind: LineageKind::Unsure, depth: 40, ..Lineage::default() };
    assert_eq!(fires(&mut logged, unsure), 2, "which is never enough to stop anything");
    let stopped = logged.world.records("loop_stopped");
    assert_eq!(stopped.len(), 4);
    assert_eq!(stopped[0]["watcher"], "user-w");
    assert_eq!(stopped[0]["chain"], serde_json::json!(["user-w", "user-w", "user-w", "user-w"]));
    let counters = logged.view("w").counters;
    logged.restart();
    assert_eq!(logged.view("w").counters, counters, "counted from the audit again");
}

/// Fires of unsure claims of the watcher's own plugin, a hundred a second.
fn hidden_loop(logged: &mut Logged, fires: u64) -> Vec<usize> {
    let mut running_at_once = Vec::new();
    for _ in 0..fires {
        logged.world.advance(Duration::from_millis(10));
        let effects = logged.claim_with("p", |stored| {
            stored.appended_by = "demo".into();
            stored.lineage = Lineage { kind: LineageKind::Unsure, ..Lineage::default() };
        });
        running_at_once.push(starts(&effects).len());
        logged.complete(&effects);
    }
    running_at_once
}

#[test]
fn a_loop_that_hides_is_watched_and_stopped_when_it_shows() {
    let mut logged = Logged::new();
    logged.world.up("demo", &["act", "other"], vec![]);
    logged.world.declare(on_predicate("w", "p", "act")).unwrap();
    hidden_loop(&mut logged, 999);
    assert!(logged.world.records("loop_watched").is_empty());
    hidden_loop(&mut logged, 1);
    assert_eq!(logged.world.records("loop_watched")[0]["plugin"], "demo");

    // One job at a time from here on.
    logged.world.declare(on_predicate("v", "q", "other")).unwrap();
    let first = starts(&logged.claim("q"));
    let second_start = starts(&logged.claim("q"));
    assert_eq!((first.len(), second_start.len()), (1, 0));
    logged.world.end(&first[0], done());

    // Now that it is known which job made which claim, the chain ends like any other.
    let chain = vec![Some(WatcherNumber(1)); 4];
    let effects = logged.claim_with("p", |stored| {
        stored.lineage = Lineage { kind: LineageKind::Sure, depth: 4, chain, ..Lineage::default() };
    });
    assert_eq!(fired(&effects), 0);
    assert_eq!(logged.world.records("loop_suspected").len(), 1);
    let view = logged.view("w");
    assert_eq!(view.row.state, WatcherState::Paused);
    assert!(view.row.error.unwrap().starts_with("a loop is suspected: "));
    logged.world.command("w", WatcherCommand::Resume { drop: false }).0.unwrap();
    assert_eq!(
        (logged.view("w").row.error, logged.view("w").row.state),
        (None, WatcherState::Live)
    );
}

#[test]
fn a_busy_watcher_that_is_no_loop_is_left_alone() {
    let mut logged = Logged::new();
    logged.world.up("demo", &["act"], vec![]);
    logged.world.declare(on_predicate("w", "p", "act")).unwrap();
    hidden_loop(&mut logged, 1_000);
    logged.world.pass_through(second() * 61);
    assert_eq!(logged.world.records("loop_cleared").len(), 1);
    hidden_loop(&mut logged, 2_000);
    assert_eq!(logged.world.records("loop_watched").len(), 1, "for an hour");
    logged.world.pass_through(second() * 3_600);
    hidden_loop(&mut logged, 1_000);
    assert_eq!(logged.world.records("loop_watched").len(), 2);
    assert_eq!(logged.view("w").row.state, WatcherState::Live);
}
