//! How long a start takes when there is much to come back to: watchers, and jobs that are open.
//!
//! The store is made by the engine as far as it can be: the claims are appended, matched and made to jobs while
//! the plugin is away. Only the watchers are written as rows, since registering them one at a time is not what is measured.
//! The start is that of a process of its own: from opening the file to the moment at which the
//! plugin, which is started meanwhile, has the first job.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axwatch_ats::{Batch, SqliteStore};
use axwatch_engine::EngineConfig;
use axwatch_model::{
    Clock as _, Declared, DefaultActor, Defaults, Draft, HandlerRef, Incoming, Owner, Seq,
    SystemClock, Timestamp, WatcherKey, WatcherNumber, WatcherRow, WatcherState,
};
use serde::{Deserialize, Serialize};

use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::plugin;
use crate::random::{Random, Zipf};
use crate::rig::Rig;
use crate::spread::median;

/// What the design allows.
const FIRST_JOB_MS: f64 = 2_000.0;
/// Terms that watchers wait for: the first as often as all of the last third together.
const TERMS: usize = 100_000;
const WATCHERS_PER_COMMIT: u64 = 10_000;
const CLAIMS_PER_APPEND: usize = 100;
/// How long the plugin may take to get the first job.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much there is to come back to.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Watchers of people.
    pub watchers: u64,
    /// Open jobs, at least.
    pub jobs: u64,
    /// Starts, each by a process of its own.
    pub rounds: usize,
}

impl Scale {
    /// What the figures of `docs/performance.md` are made with.
    pub const FULL: Scale = Scale { watchers: 1_000_000, jobs: 100_000, rounds: 5 };

    /// To see that it works.
    pub const QUICK: Scale = Scale { watchers: 2_000, jobs: 500, rounds: 1 };
}

/// What one start took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Start {
    /// Until the file was open, ms.
    pub opened_ms: f64,
    /// Until the engine took messages, ms.
    pub engine_ms: f64,
    /// Until the plugin was ready, ms.
    pub ready_ms: f64,
    /// Until the plugin had the first job, ms.
    pub first_job_ms: f64,
    /// Until a claim that was appended as soon as possible was answered, ms.
    pub append_ms: f64,
    /// Until all claims were matched, that one too, ms.
    pub matched_ms: f64,
    /// Memory of the process once it was so far.
    pub resident_bytes: u64,
}

/// Makes the store, starts on it, and tells how long the first job took.
///
/// # Errors
/// When the store, the engine or the plugin fails.
pub async fn run(folder: &Path, setting: &Setting, scale: Scale) -> Result<Vec<Figure>> {
    let work = tempfile::tempdir_in(folder)?;
    let made = work.path().join("made.db");
    let jobs = make(&made, scale).await.context("making the store")?;
    let mut starts = Vec::new();
    for round in 0..scale.rounds {
        // Each has the store as it was made: a start drains it.
        let store = work.path().join(format!("start-{round}.db"));
        std::fs::copy(&made, &store)?;
        starts.push(start_elsewhere(&store).await?);
        std::fs::remove_file(&store)?;
    }
    let of = |part: fn(&Start) -> f64| median(&starts.iter().map(part).collect::<Vec<_>>());
    let measured = |name, unit, value| Measured { name, unit, value, runs: scale.rounds };
    let first_job = measured("start_first_job", "ms", of(|start| start.first_job_ms));
    let limit = Yardstick { against: "the limit for a start", value: FIRST_JOB_MS };
    let first_job = Figure::new(setting, first_job, limit, Limit::AtMost(1.0))
        .with("watchers", scale.watchers)
        .with("open_jobs", jobs)
        .with("opened_ms", of(|start| start.opened_ms))
        .with("engine_ms", of(|start| start.engine_ms))
        .with("plugin_ready_ms", of(|start| start.ready_ms))
        .with("claim_answered_ms", of(|start| start.append_ms))
        .with("all_matched_ms", of(|start| start.matched_ms))
        .with("resident_mib", of(|start| start.resident_bytes as f64 / 1_048_576.0));
    Ok(vec![first_job])
}

/// A store with that many watchers and, since the plugin is away, open jobs; answers how many.
async fn make(store: &Path, scale: Scale) -> Result<u64> {
    // Once up, so that its handler is known.
    Rig::start(store).await?.stop().await?;
    let (mut random, zipf) = (Random::new(7), Zipf::new(TERMS));
    let mut writer = SqliteStore::open_writer(store).await?;
    let after = writer.reader().opened().last_watcher.0;
    let now = SystemClock::new().now().wall;
    let handler = HandlerRef {
        declared: format!("{}/{}", plugin::NAME, plugin::HANDLER).into(),
        plugin: Some(plugin::NAME.parse()?),
    };
    for first in (0..scale.watchers).step_by(WATCHERS_PER_COMMIT as usize) {
        let numbers = first..(first + WATCHERS_PER_COMMIT).min(scale.watchers);
        let row = |number| watcher(number, after, ax(&mut random, &zipf), &handler, now);
        let watchers = numbers.map(row).collect();
        writer.commit(&Batch { watchers, ..Batch::default() }).await?;
    }
    writer.close().await?;
    open_jobs(store, scale.jobs, &mut random).await
}

/// `is is_17`, and for every other one a context too.
fn ax(random: &mut Random, zipf: &Zipf) -> String {
    let predicate = zipf.rank(random);
    match random.one_in(2) {
        true => format!("is is_{predicate} of team-{}", random.within(0..100)),
        false => format!("is is_{predicate}"),
    }
}

fn watcher(
    number: u64,
    after: u64,
    ax: String,
    handler: &HandlerRef,
    now: Timestamp,
) -> WatcherRow {
    WatcherRow {
        number: WatcherNumber(after + number + 1),
        key: WatcherKey {
            owner: Owner::User,
            local: format!("rule-{number}").parse().expect("a good id"),
        },
        revision: 1,
        generation: 0,
        last_generation: 0,
        declared: Declared::Ax(ax),
        handlers: [handler.clone()].into(),
        params: None,
        max_fires_per_second: None,
        max_chain: None,
        max_attempts: None,
        max_age_ms: None,
        state: WatcherState::Live,
        error: None,
        since_seq: Seq(0),
        created_at: now,
        updated_at: now,
    }
}

/// Appends claims to an engine whose plugin is away, until that many jobs are open.
async fn open_jobs(store: &Path, jobs: u64, random: &mut Random) -> Result<u64> {
    let writer = SqliteStore::open_writer(store).await?;
    let clock = Arc::new(SystemClock::new());
    let (engine, task) = axwatch_engine::start(writer, clock, EngineConfig::default()).await?;
    let heads = engine.heads();
    loop {
        let claims = (0..CLAIMS_PER_APPEND).map(|_| claim(random)).collect();
        engine.append(claims).await?;
        let open = heads.borrow().job.0;
        if open >= jobs {
            engine.stop().await;
            drop(engine);
            task.await??;
            return Ok(open);
        }
    }
}

fn claim(random: &mut Random) -> Incoming {
    let about = random.number();
    let draft = Draft {
        subjects: vec![format!("{about:016x}")],
        predicates: vec![format!("is_{}", random.within(0..TERMS))],
        contexts: vec![format!("team-{}", random.within(0..100))],
        ..Draft::default()
    };
    let defaults = Defaults { actor: DefaultActor::OwnId, source: "axwatch-bench".into() };
    let now = Timestamp::from_ms_clamped(1_700_000_000_000);
    draft.complete(&defaults, "user", now, random.number()).expect("this is a good claim")
}

/// The same program starts on the store, in a process of its own.
async fn start_elsewhere(store: &Path) -> Result<Start> {
    let program = std::env::current_exe().context("cannot tell which program this is")?;
    let output = tokio::process::Command::new(program)
        .arg("start-once")
        .arg(store)
        .stderr(Stdio::inherit())
        .output()
        .await?;
    ensure!(output.status.success(), "the start failed: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Starts on a store, and says how long what took.
///
/// # Errors
/// When it does not start, or the plugin gets no job.
pub async fn once(store: &Path) -> Result<Start> {
    let began = Instant::now();
    let began_at = plugin::wall_ns();
    let ms = || began.elapsed().as_secs_f64() * 1_000.0;
    let writer = SqliteStore::open_writer(store).await?;
    let opened_ms = ms();
    let clock = Arc::new(SystemClock::new());
    let (engine, task) = axwatch_engine::start(writer, clock, EngineConfig::default()).await?;
    let engine_ms = ms();
    let appended = tokio::spawn({
        let engine = engine.clone();
        async move {
            engine.append(vec![claim(&mut Random::new(9))]).await?;
            anyhow::Ok((Instant::now(), engine))
        }
    });
    let rig = Rig::over(engine, task, store, Vec::new()).await?;
    let ready_ms = ms();
    let first = async {
        loop {
            let first: u64 = serde_json::from_slice(&rig.ask(plugin::FIRST).await?)?;
            if first > 0 {
                return anyhow::Ok(first);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let first = tokio::time::timeout(PATIENCE, first).await.context("the plugin gets no job")??;
    let (answered, engine) = appended.await??;
    let mut heads = engine.heads();
    heads.wait_for(|heads| heads.matched >= heads.seq).await?;
    let start = Start {
        opened_ms,
        engine_ms,
        ready_ms,
        first_job_ms: (first - began_at) as f64 / 1e6,
        append_ms: (answered - began).as_secs_f64() * 1_000.0,
        matched_ms: ms(),
        resident_bytes: crate::memory::resident_bytes()?,
    };
    drop(engine);
    rig.stop().await?;
    Ok(start)
}
