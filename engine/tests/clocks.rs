//! The wall clock jumps ten years ahead and back, and nothing that is counted in time notices: limits,
//! back-off, the age of a job, what a restart finds due. What says a wall time, the end of a mute, goes by
//! the wall.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Running, done, failed, key, most_in_a_second};
use axwatch_core::WatcherCommand;
use axwatch_engine::{Engine, EngineConfig};
use axwatch_model::{Clock, JobState, ManualClock, Now, SystemClock, Timestamp};

const TEN_YEARS_MS: i64 = 10 * 366 * 24 * 60 * 60 * 1_000;

/// The machine's clocks, with a wall clock that can be moved.
struct JumpingClock {
    system: SystemClock,
    ahead_ms: AtomicI64,
}

impl JumpingClock {
    fn new() -> Arc<JumpingClock> {
        Arc::new(JumpingClock { system: SystemClock::new(), ahead_ms: AtomicI64::new(0) })
    }

    fn jump(&self, ahead_ms: i64) {
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Now {
        let Now { mono, wall } = self.system.now();
        let ahead = self.ahead_ms.load(Ordering::Relaxed);
        Now { mono, wall: Timestamp::from_ms_clamped(wall.ms() + ahead) }
    }
}

/// Jumps ahead and back for as long as something lasts.
async fn while_jumping<T>(clock: &JumpingClock, lasting: impl Future<Output = T>) -> T {
    let jumps = async {
        for ahead in [TEN_YEARS_MS, -TEN_YEARS_MS, 0].into_iter().cycle() {
            clock.jump(ahead);
            tokio::time::sleep(Duration::from_millis(37)).await;
        }
    };
    tokio::select! {
        done = lasting => done,
        () = jumps => unreachable!("jumps go on for ever"),
    }
}

#[tokio::test]
async fn a_limit_is_kept_and_reached_while_the_wall_jumps() {
    let folder = tempfile::tempdir().unwrap();
    let clock = JumpingClock::new();
    let path = folder.path().join("axwatch.db");
    let running = Running::on(&path, clock.clone(), EngineConfig::default()).await;
    running.plugin(64, |_| done()).await;
    running.watch("limited", 20).await;
    let began = Instant::now();
    while_jumping(&clock, async {
        running.append(0..60, "limited").await;
        running.settled().await;
    })
    .await;
    let took = began.elapsed();
    let records = running.audit().await;
    assert!(most_in_a_second(&records, "user-limited") <= 20);
    // Closed for a second, then sixty of them, one each 50 ms: neither faster nor stuck for years.
    assert!(took >= Duration::from_millis(59 * 50), "{took:?}");
    assert!(running.jobs().await.iter().all(|job| job.state == JobState::Completed));
    running.stop().await;
}

#[tokio::test]
async fn back_off_lasts_as_long_while_the_wall_jumps_and_ages_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let clock = JumpingClock::new();
    let path = folder.path().join("axwatch.db");
    let running = Running::on(&path, clock.clone(), EngineConfig::default()).await;
    let attempts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = attempts.clone();
    running
        .plugin(64, move |attempt| {
            seen.lock().unwrap().push(Instant::now());
            if attempt.start.attempt < 3 { failed("not yet") } else { done() }
        })
        .await;
    running.watch("flaky", 0).await;
    while_jumping(&clock, async {
        running.append(0..1, "flaky").await;
        running.settled().await;
    })
    .await;
    let job = running.jobs().await.remove(0);
    assert_eq!((job.state, job.attempts), (JobState::Completed, 3), "no jump gives it up: {job:?}");
    let attempts = attempts.lock().unwrap().clone();
    for (pause, delay_ms) in attempts.windows(2).zip([1_000, 2_000]) {
        let waited = pause[1] - pause[0];
        assert!(waited >= Duration::from_millis(delay_ms * 3 / 4), "{waited:?} of {delay_ms} ms");
    }
    running.stop().await;
}

#[tokio::test]
async fn after_a_restart_a_retry_lies_no_further_ahead_than_its_delay() {
    for ahead_ms in [TEN_YEARS_MS, -TEN_YEARS_MS] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("axwatch.db");
        let clock = JumpingClock::new();
        let running = Running::on(&path, clock.clone(), EngineConfig::default()).await;
        running.plugin(64, |_| failed("not yet")).await;
        running.watch("flaky", 0).await;
        running.append(0..1, "flaky").await;
        running
            .until("it waits for its second retry", async |engine: &Engine| {
                let jobs = engine.store().open_jobs(Default::default(), 10).await.unwrap();
                jobs.into_iter().find(|job| job.counted == 2 && job.due_at.is_some())
            })
            .await;
        running.stop().await;

        clock.jump(ahead_ms);
        let tries = Arc::new(AtomicU32::new(0));
        let began = Instant::now();
        let running = Running::on(&path, clock.clone(), EngineConfig::default()).await;
        let tried = tries.clone();
        running
            .plugin(64, move |_| match tried.fetch_add(1, Ordering::Relaxed) {
                // It fails once more, so that a jump that aged it would give it up.
                0 => failed("once more"),
                _ => done(),
            })
            .await;
        running.settled().await;
        let took = began.elapsed();
        let job = running.jobs().await.remove(0);
        assert_eq!(job.state, JobState::Completed, "{ahead_ms} ms: {job:?}");
        // At most 2 s for the retry that waited, 4 s for the next, each a quarter longer at most.
        assert!(took < Duration::from_secs(30), "{ahead_ms} ms: {took:?}");
        assert_eq!(tries.load(Ordering::Relaxed), 2);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_mute_ends_by_the_wall_clock_and_by_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("axwatch.db");
    let wall: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let clock = Arc::new(ManualClock::at(wall));
    let running = Running::on(&path, clock.clone(), EngineConfig::default()).await;
    running.plugin(64, |_| done()).await;
    running.watch("held", 0).await;
    let until = wall.plus(Duration::from_secs(3_600));
    let mute = WatcherCommand::Mute { until, drop: false };
    running.engine.command(key("held"), mute).await.unwrap();
    running.append(0..3, "held").await;
    let open =
        async || running.engine.store().open_jobs(Default::default(), 10).await.unwrap().len();
    assert_eq!(open().await, 3);

    // Two hours of the monotonic clock, while somebody sets the wall clock back: it is still muted.
    clock.advance(Duration::from_secs(7_200));
    clock.set_wall(wall.minus(Duration::from_secs(60)));
    running.append(3..4, "held").await;
    assert_eq!(open().await, 4);

    // A wall clock that is set ahead is past its end; the engine looks once a minute.
    clock.set_wall(Timestamp::from_ms_clamped(wall.ms() + TEN_YEARS_MS));
    clock.advance(Duration::from_secs(120));
    running.append(4..5, "held").await;
    running.settled().await;
    assert!(running.jobs().await.iter().all(|job| job.state == JobState::Completed));
    running.stop().await;
}
