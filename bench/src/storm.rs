//! A storm of registrations: 10,000 watchers while 10,000 claims a second arrive.
//!
//! Claims come at a steady rate whatever the engine does, each due at a time of its own; first without anything
//! else, then while watchers are declared one by one, announced by a plugin all at once, announced again as they
//! are, changed, and dropped. One claim in ten is about one of the watchers' predicates, so that it fires once
//! that watcher stands, and the plugin answers it.
//!
//! A stall is what a storm adds: the time from due to acknowledged which one claim in a hundred passes, of the
//! claims that were under way at some moment of the storm, less the same of the calm before. An announcement is one
//! transaction, so its storm is as long as that, and nearly every claim of it waits for it: pauses between
//! storms are left out, which would make a short storm look like none.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axwatch_ats::{Batch, SqliteStore};
use axwatch_core::{Declaration, Registration};
use axwatch_engine::Engine;
use axwatch_model::{
    Clock as _, Declared, DefaultActor, Defaults, Draft, HandlerRef, Incoming, Owner, RevisionRow,
    Seq, SystemClock, WatcherKey, WatcherNumber, WatcherRow, WatcherState,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::plugin;
use crate::random::Random;
use crate::rig::Rig;
use crate::spread::{ms, percentile};

/// What a storm may add for one claim in a hundred.
const STALL_P99_MS: f64 = 10.0;
/// Claims that arrive in a second.
const CLAIMS_PER_SECOND: f64 = 10_000.0;
/// Of so many claims one is about a watched predicate.
const WATCHED_ONE_OF: u64 = 10;
/// Declarations that wait for their answer at once.
const DECLARED_AT_ONCE: usize = 256;
/// From one batch of claims to the next.
const BETWEEN_BATCHES: Duration = Duration::from_millis(1);
/// How long what was asked for may take to settle.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Watchers that are written at once into a store that is to have many.
const WATCHERS_PER_COMMIT: u64 = 10_000;

/// How much is done.
struct Scale {
    watchers: usize,
    standing: u64,
    rounds: usize,
    calm: Duration,
    pause: Duration,
}

/// A claim: when it was due, and when it was acknowledged.
type Taken = (Instant, Instant);
/// From when to when a storm lasted.
type Span = (Instant, Instant);

/// The storms of one store.
struct Storms {
    rounds: usize,
    /// By the names of their figures: how long each took and what.
    spans: Vec<(Names, Vec<Span>)>,
    calm: Span,
    taken: Vec<Taken>,
    fires: u64,
}

/// The names of a storm's figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Names {
    stall: &'static str,
    rate: &'static str,
}

const DECLARED: Names = Names { stall: "storm_declared_stall_p99", rate: "storm_declared_rate" };
const AMONG_MANY: Names =
    Names { stall: "storm_among_many_stall_p99", rate: "storm_among_many_rate" };
const ANNOUNCED: Names = Names { stall: "storm_announced_stall_p99", rate: "storm_announced_rate" };
const UNCHANGED: Names = Names { stall: "storm_unchanged_stall_p99", rate: "storm_unchanged_rate" };
const CHANGED: Names = Names { stall: "storm_changed_stall_p99", rate: "storm_changed_rate" };
const DROPPED: Names = Names { stall: "storm_dropped_stall_p99", rate: "storm_dropped_rate" };

/// Measures what storms add to an append, and how fast watchers are registered meanwhile.
///
/// # Errors
/// When the store, the engine or the plugin fails, or what was declared is not what stands.
pub async fn run(folder: &Path, setting: &Setting, mut tell: impl FnMut(&Figure)) -> Result<()> {
    let (calm, pause) = match setting.quick {
        true => (Duration::from_millis(500), Duration::from_millis(100)),
        false => (Duration::from_secs(5), Duration::from_secs(1)),
    };
    let scale = match setting.quick {
        true => Scale { watchers: 200, standing: 2_000, rounds: 1, calm, pause },
        false => Scale { watchers: 10_000, standing: 1_000_000, rounds: 5, calm, pause },
    };
    let work = tempfile::tempdir_in(folder)?;
    let storms = one_by_one(&work.path().join("declared.db"), DECLARED, &scale).await?;
    storms.figures(setting, &scale).iter().for_each(&mut tell);
    let storms = at_once(&work.path().join("announced.db"), &scale).await?;
    storms.figures(setting, &scale).iter().for_each(&mut tell);
    let many = work.path().join("many.db");
    fill(&many, scale.standing).await?;
    let storms = one_by_one(&many, AMONG_MANY, &scale).await?;
    let standing = scale.standing;
    let figures = storms.figures(setting, &scale).into_iter();
    figures.map(|figure| figure.with("standing", standing)).for_each(|figure| tell(&figure));
    Ok(())
}

/// A person, or a program of theirs, declares one after the other, some at a time.
async fn one_by_one(store: &Path, names: Names, scale: &Scale) -> Result<Storms> {
    let rig = Rig::start(store).await?;
    let before = rig.engine.watchers(false).await?.len();
    let load = Load::start(&rig, scale.watchers);
    let calm = calm(scale).await;
    let mut spans = Vec::new();
    for round in 0..scale.rounds {
        load.round.store(round as u64, Ordering::Relaxed);
        let declarations = (0..scale.watchers).map(|n| declaration(round, n, ""));
        let began = Instant::now();
        stream::iter(declarations)
            .map(|declaration| rig.engine.declare(declaration))
            .buffer_unordered(DECLARED_AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        spans.push((began, Instant::now()));
        tokio::time::sleep(scale.pause).await;
    }
    let (taken, fires) = load.stop(&rig).await?;
    let stand = rig.engine.watchers(false).await?.len() - before;
    ensure!(stand == scale.rounds * scale.watchers, "{stand} watchers were declared");
    rig.stop().await?;
    Ok(Storms { rounds: scale.rounds, spans: vec![(names, spans)], calm, taken, fires })
}

/// A plugin announces all of them, in one transaction each time.
async fn at_once(store: &Path, scale: &Scale) -> Result<Storms> {
    let rig = Rig::start(store).await?;
    announce(&rig.engine, Vec::new()).await?;
    let load = Load::start(&rig, scale.watchers);
    let calm = calm(scale).await;
    let kinds = [ANNOUNCED, UNCHANGED, CHANGED, DROPPED];
    let mut spans = kinds.map(|names| (names, Vec::new()));
    for round in 0..scale.rounds {
        load.round.store(round as u64, Ordering::Relaxed);
        for (names, spans) in &mut spans {
            let more = match *names {
                CHANGED => " of storms",
                _ => "",
            };
            let count = if *names == DROPPED { 0 } else { scale.watchers };
            let watchers = (0..count).map(|n| declaration(round, n, more)).collect();
            let began = Instant::now();
            announce(&rig.engine, watchers).await?;
            spans.push((began, Instant::now()));
            tokio::time::sleep(scale.pause).await;
            // The writer looks at all of them, so this is a stall of its own: between two storms.
            let stand = rig.engine.plugin(plugin::NAME.parse()?).await?;
            let stand = stand.context("the plugin is known")?.watchers.len();
            ensure!(stand == count, "{stand} watchers stand of {count} that were announced");
            tokio::time::sleep(scale.pause).await;
        }
    }
    let (taken, fires) = load.stop(&rig).await?;
    rig.stop().await?;
    Ok(Storms { rounds: scale.rounds, spans: spans.into(), calm, taken, fires })
}

async fn calm(scale: &Scale) -> Span {
    // The first claims find everything cold.
    tokio::time::sleep(scale.pause).await;
    let began = Instant::now();
    tokio::time::sleep(scale.calm).await;
    (began, Instant::now())
}

async fn announce(engine: &Engine, watchers: Vec<Declaration>) -> Result<()> {
    let name = plugin::NAME.parse()?;
    let incarnation = engine.plugin_row(&name).context("the plugin is up")?.incarnation;
    let registration = Registration {
        handlers: vec![plugin::HANDLER.parse()?],
        watchers,
        ..Registration::default()
    };
    let verdicts = engine.announce(name, incarnation, registration).await?;
    ensure!(verdicts.refused.is_empty(), "refused: {:?}", verdicts.refused.first());
    Ok(())
}

fn declaration(round: usize, number: usize, more: &str) -> Declaration {
    Declaration {
        local: format!("storm-{round}-{number}"),
        declared: Declared::Ax(format!("is {}{more}", predicate(round as u64, number as u64))),
        handlers: vec![plugin::HANDLER.to_owned()],
        params: None,
        max_fires_per_second: 0,
        zero_is_never: false,
        max_chain: 0,
        since: None,
        max_attempts: 0,
        max_age: None,
    }
}

/// Of each round others, so that as many claims fire in the last as in the first.
fn predicate(round: u64, watcher: u64) -> String {
    format!("is_stormed_{round}_{watcher}")
}

/// Claims that arrive at a steady rate, whatever becomes of earlier ones.
struct Load {
    task: JoinHandle<Result<Vec<Taken>>>,
    stop: watch::Sender<bool>,
    /// About whose watchers claims are.
    round: Arc<AtomicU64>,
    jobs_before: u64,
}

impl Load {
    fn start(rig: &Rig, watchers: usize) -> Load {
        let (stop, stopped) = watch::channel(false);
        let jobs_before = rig.engine.heads().borrow().job.0;
        let round = Arc::new(AtomicU64::new(0));
        let arriving = arrive(rig.engine.clone(), watchers as u64, round.clone(), stopped);
        Load { task: tokio::spawn(arriving), stop, round, jobs_before }
    }

    /// Ends it, and waits until every fire has ended; answers how many there were, too.
    async fn stop(self, rig: &Rig) -> Result<(Vec<Taken>, u64)> {
        self.stop.send_replace(true);
        let taken = self.task.await??;
        let mut heads = rig.engine.heads();
        let settled = async {
            while !rig.engine.store().open_jobs(Default::default(), 1).await?.is_empty() {
                heads.changed().await?;
            }
            anyhow::Ok(heads.borrow().job.0 - self.jobs_before)
        };
        let fires = tokio::time::timeout(SETTLED_WITHIN, settled).await;
        Ok((taken, fires.context("not all fires have ended")??))
    }
}

async fn arrive(
    engine: Engine,
    watchers: u64,
    round: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
) -> Result<Vec<Taken>> {
    let mut random = Random::new(8);
    let defaults = Defaults { actor: DefaultActor::OwnId, source: "axwatch-bench".into() };
    let mut appends = Vec::new();
    let (began, mut sent) = (Instant::now(), 0_u64);
    let due_at = |index: u64| began + Duration::from_secs_f64(index as f64 / CLAIMS_PER_SECOND);
    while !*stopped.borrow() {
        tokio::time::sleep(BETWEEN_BATCHES).await;
        let (now, first) = (Instant::now(), sent);
        let mut claims = Vec::new();
        while due_at(sent) <= now {
            claims.push(claim(&mut random, &defaults, round.load(Ordering::Relaxed), watchers)?);
            sent += 1;
        }
        let engine = engine.clone();
        appends.push(tokio::spawn(async move {
            let acks = engine.append(claims).await?;
            acks.into_iter().try_for_each(|ack| ack.map(drop))?;
            anyhow::Ok((first, Instant::now()))
        }));
    }
    let mut taken: Vec<Taken> = Vec::new();
    let mut ends = Vec::new();
    for append in appends {
        ends.push(append.await??);
    }
    let firsts = ends.iter().map(|(first, _)| *first).skip(1).chain([sent]);
    for (next, (first, acked)) in firsts.zip(&ends) {
        taken.extend((*first..next).map(|index| (due_at(index), *acked)));
    }
    Ok(taken)
}

fn claim(random: &mut Random, defaults: &Defaults, round: u64, watchers: u64) -> Result<Incoming> {
    let (about, entropy) = (random.number(), random.number());
    let predicate = match about % WATCHED_ONE_OF {
        0 => predicate(round, entropy % watchers),
        _ => "is_weather".to_owned(),
    };
    let draft = Draft {
        subjects: vec![format!("{about:016x}")],
        predicates: vec![predicate],
        contexts: vec!["storms".to_owned()],
        ..Draft::default()
    };
    Ok(draft.complete(defaults, "user", SystemClock::new().now().wall, entropy)?)
}

impl Storms {
    fn figures(&self, setting: &Setting, scale: &Scale) -> Vec<Figure> {
        let calm = self.within(&[self.calm]);
        let seconds: f64 = self.taken.len() as f64 / CLAIMS_PER_SECOND;
        let storm = |(names, spans): &(Names, Vec<Span>)| {
            let during = self.within(spans);
            let (p99, calm_p99) = (percentile(&during, 99.0), percentile(&calm, 99.0));
            let value = (p99 - calm_p99).max(0.0);
            let stall = Measured { name: names.stall, unit: "ms", value, runs: during.len() };
            let yardstick = Yardstick { against: "the limit", value: STALL_P99_MS };
            let stall = Figure::new(setting, stall, yardstick, Limit::AtMost(1.0))
                .with("p50_ms", percentile(&during, 50.0))
                .with("p99_ms", p99)
                .with("max_ms", percentile(&during, 100.0))
                .with("calm_p50_ms", percentile(&calm, 50.0))
                .with("calm_p99_ms", calm_p99)
                .with("calm_max_ms", percentile(&calm, 100.0))
                .with("fires_per_second", self.fires as f64 / seconds);
            let lasted: Vec<f64> =
                spans.iter().map(|(began, ended)| ms(ended.duration_since(*began))).collect();
            let value = scale.watchers as f64 * 1_000.0 / percentile(&lasted, 50.0);
            let rate = Measured { name: names.rate, unit: "watchers/s", value, runs: self.rounds };
            let against = "claims a second meanwhile";
            let yardstick = Yardstick { against, value: CLAIMS_PER_SECOND };
            let rate = Figure::new(setting, rate, yardstick, Limit::None)
                .with("took_ms", percentile(&lasted, 50.0))
                .with("longest_ms", percentile(&lasted, 100.0));
            [stall, rate]
        };
        self.spans.iter().flat_map(storm).collect()
    }

    /// From due to acknowledged, of the claims that were under way in one of these spans.
    fn within(&self, spans: &[Span]) -> Vec<f64> {
        let is_within = |(due, acked): &&Taken| {
            spans.iter().any(|(began, ended)| due <= ended && acked >= began)
        };
        let took = |(due, acked): &Taken| ms(acked.saturating_duration_since(*due));
        self.taken.iter().filter(is_within).map(took).collect()
    }
}

/// Makes a store with so many watchers, none of which any claim of the load fires.
async fn fill(store: &Path, watchers: u64) -> Result<()> {
    let mut writer = SqliteStore::open_writer(store).await?;
    for first in (1..=watchers).step_by(WATCHERS_PER_COMMIT as usize) {
        let numbers = first..(first + WATCHERS_PER_COMMIT).min(watchers + 1);
        let watchers: Vec<_> = numbers.map(standing).collect::<Result<_>>()?;
        let revisions = watchers.iter().map(revision).collect();
        writer.commit(&Batch { watchers, revisions, ..Batch::default() }).await?;
    }
    writer.close().await?;
    Ok(())
}

fn standing(number: u64) -> Result<WatcherRow> {
    let at = SystemClock::new().now().wall;
    let key = WatcherKey { owner: Owner::User, local: format!("standing-{number}").parse()? };
    Ok(WatcherRow {
        number: WatcherNumber(number),
        key,
        revision: 1,
        generation: 0,
        last_generation: 0,
        declared: Declared::Ax(format!("is stood_{} of team-{}", number % 100_000, number % 100)),
        handlers: [HandlerRef {
            declared: plugin::HANDLER.into(),
            plugin: Some(plugin::NAME.parse()?),
        }]
        .into(),
        params: None,
        max_fires_per_second: None,
        max_chain: None,
        max_attempts: None,
        max_age_ms: None,
        state: WatcherState::Live,
        error: None,
        since_seq: Seq(0),
        created_at: at,
        updated_at: at,
    })
}

fn revision(row: &WatcherRow) -> RevisionRow {
    RevisionRow {
        watcher: row.number,
        revision: row.revision,
        generation: row.generation,
        declared: row.declared.clone(),
        handlers: row.handlers.iter().map(|handler| Arc::clone(&handler.declared)).collect(),
        max_fires_per_second: None,
        at: row.updated_at,
        leaf: None,
        since_seq: row.since_seq,
        from_seq: row.since_seq,
        retired_seq: None,
    }
}
