//! How long it takes: from a claim to the plugin while nothing else goes on, and from a claim to its
//! settled fire at half of what can be sustained.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axwatch_engine::{Engine, Heads};
use axwatch_model::{Incoming, LeafNumber};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Scale;
use crate::bare::{Plain, Row};
use crate::claims::{Actors, Maker};
use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::plugin::{ARRIVALS, RECORD, wall_ns};
use crate::rig::{IN_FLIGHT, Rig, request_of};
use crate::spread::{ms, percentile};

/// From one measurement to the next, so that each finds everything idle.
const PAUSE: Duration = Duration::from_millis(5);
/// What p99 at half load has to stay under.
const SETTLE_P99_MS: f64 = 20.0;

/// Times in milliseconds.
struct Idle {
    /// Bare commits of what has to be on the disk before the plugin may be called.
    commit: Vec<f64>,
    /// Bare calls, there and back.
    call: Vec<f64>,
    /// From the call of append to the moment at which the plugin has the claim.
    to_plugin: Vec<f64>,
}

impl Idle {
    /// One of each in turn, so that they meet the same weather.
    async fn take(rig: &Rig, plain: &mut Plain, maker: &mut Maker, count: usize) -> Result<Idle> {
        let (mut commit, mut call, mut appended) = (Vec::new(), Vec::new(), HashMap::new());
        rig.ask(RECORD).await?;
        for _ in 0..count {
            let claim = maker.claim();
            commit.push(commit_bare(plain, &Row::of(&claim)).await?);
            call.push(call_bare(rig, &claim).await?);
            appended
                .insert(claim.attestation.id.as_str().to_owned(), append_one(rig, claim).await?);
        }
        let arrived: Vec<(String, u64)> = serde_json::from_slice(&rig.ask(ARRIVALS).await?)?;
        // Bare calls arrive too, with the id of the claim that follows them; the last word counts.
        let arrived: HashMap<String, u64> = arrived.into_iter().collect();
        let spans = appended.iter().map(|(id, at)| {
            let arrived = arrived.get(id).with_context(|| format!("claim {id} never arrived"))?;
            Ok(arrived.saturating_sub(*at) as f64 / 1e6)
        });
        Ok(Idle { commit, call, to_plugin: spans.collect::<Result<_>>()? })
    }
}

pub(super) async fn idle(folder: &Path, setting: &Setting, scale: &Scale) -> Result<Vec<Figure>> {
    let rig = Rig::start(&folder.join("ours.db")).await?;
    let mut plain = Plain::create(&folder.join("plain.db"))?;
    let mut maker = Maker::new(4, Actors::OwnId);
    rig.fire(maker.claims(scale.warm_up_fires)).await?;
    let idle = Idle::take(&rig, &mut plain, &mut maker, scale.rounds * scale.idle_claims).await?;
    rig.stop().await?;
    let figure = |name, against, percent, limit| {
        let value = percentile(&idle.to_plugin, percent);
        let measured = Measured { name, unit: "ms", value, runs: idle.to_plugin.len() };
        let (commit, call) = (percentile(&idle.commit, percent), percentile(&idle.call, percent));
        Figure::new(setting, measured, Yardstick { against, value: commit + call }, limit)
            .with("commit_ms", commit)
            .with("call_ms", call)
    };
    let (p50, p99) =
        ("a durable commit and a bare call, p50", "a durable commit and a bare call, p99");
    Ok(vec![
        figure("idle_claim_to_plugin_p50", p50, 50.0, Limit::AtMost(1.5)),
        figure("idle_claim_to_plugin_p99", p99, 99.0, Limit::None),
    ])
}

async fn commit_bare(plain: &mut Plain, row: &Row) -> Result<f64> {
    tokio::time::sleep(PAUSE).await;
    let began = Instant::now();
    plain.start_of_fire(row)?;
    Ok(ms(began.elapsed()))
}

async fn call_bare(rig: &Rig, claim: &Incoming) -> Result<f64> {
    let (request, mut client) = (request_of(claim), rig.client.clone());
    tokio::time::sleep(PAUSE).await;
    let began = Instant::now();
    client.execute_job(request).await?;
    Ok(ms(began.elapsed()))
}

/// Appends a claim and waits until its fire has ended; says when append was called.
async fn append_one(rig: &Rig, claim: Incoming) -> Result<u64> {
    tokio::time::sleep(PAUSE).await;
    let before = rig.engine.heads().borrow().audit.0;
    let began = wall_ns();
    let acks = rig.engine.append(vec![claim]).await?;
    acks.into_iter().next().context("an append of one is answered once")??;
    // Matched, started, ended: only then is everything idle again.
    rig.engine.heads().wait_for(|heads| heads.audit.0 >= before + 3).await?;
    Ok(began)
}

pub(super) async fn half_load(
    folder: &Path,
    setting: &Setting,
    scale: &Scale,
) -> Result<Vec<Figure>> {
    let rig = Rig::start(&folder.join("ours.db")).await?;
    let mut maker = Maker::new(5, Actors::OwnId);
    rig.fire(maker.claims(scale.warm_up_fires)).await?;
    let took = rig.fire(maker.claims(scale.fires)).await?;
    let rate = scale.fires as f64 / took.as_secs_f64() / 2.0;
    let first = rig.engine.heads().borrow().audit;
    let follower = Follower::start(rig.engine.heads());
    let claims = maker.claims((rate * scale.half_load_secs as f64) as usize);
    let due = rig.append_at(claims, rate).await?;
    let commits = follower.stop_at(first.0 + due.len() as u64 * 3).await?;
    let times = settle_times(&rig.engine, first, &due, &commits).await?;
    rig.stop().await?;
    let gaps: Vec<f64> =
        commits.windows(2).map(|pair| ms(pair[1].0.duration_since(pair[0].0))).collect();
    let measured = Measured {
        name: "half_load_settle_p99",
        unit: "ms",
        value: percentile(&times, 99.0),
        runs: times.len(),
    };
    let yardstick = Yardstick { against: "a fixed bound", value: SETTLE_P99_MS };
    let figure = Figure::new(setting, measured, yardstick, Limit::AtMost(1.0))
        .with("p50_ms", percentile(&times, 50.0))
        .with("p90_ms", percentile(&times, 90.0))
        .with("p99_9_ms", percentile(&times, 99.9))
        .with("max_ms", percentile(&times, 100.0))
        .with("between_commits_p50_ms", percentile(&gaps, 50.0))
        .with("between_commits_p99_ms", percentile(&gaps, 99.0))
        .with("between_commits_max_ms", percentile(&gaps, 100.0))
        .with("claims_per_second", rate)
        .with("max_in_flight", IN_FLIGHT);
    Ok(vec![figure])
}

/// Notes when how many records of the audit were on the disk.
struct Follower(JoinHandle<Vec<(Instant, u64)>>, watch::Sender<u64>);

impl Follower {
    fn start(mut heads: watch::Receiver<Heads>) -> Follower {
        let (until, mut until_seen) = watch::channel(u64::MAX);
        let task = tokio::spawn(async move {
            let mut commits = Vec::new();
            loop {
                let audit = heads.borrow_and_update().audit.0;
                commits.push((Instant::now(), audit));
                if audit >= *until_seen.borrow_and_update() {
                    return commits;
                }
                let more = tokio::select! {
                    more = heads.changed() => more,
                    more = until_seen.changed() => more,
                };
                if more.is_err() {
                    return commits;
                }
            }
        });
        Follower(task, until)
    }

    async fn stop_at(self, audit: u64) -> Result<Vec<(Instant, u64)>> {
        let Follower(task, until) = self;
        until.send_replace(audit);
        let commits = tokio::time::timeout(Duration::from_secs(60), task).await;
        drop(until);
        Ok(commits.context("not all fires have ended")??)
    }
}

/// The part of an audit record that is needed here.
#[derive(Deserialize)]
struct Record<'a> {
    r#type: &'a str,
    job: Option<&'a str>,
    attestation: Option<&'a str>,
    #[serde(borrow, default)]
    fires: Vec<Fire<'a>>,
}

#[derive(Deserialize)]
struct Fire<'a> {
    job: &'a str,
}

/// For each claim, the milliseconds from when it was due until its fire's end was on the disk: the
/// audit says which record that was, and the follower when it was there.
async fn settle_times(
    engine: &Engine,
    first: LeafNumber,
    due: &HashMap<String, Instant>,
    commits: &[(Instant, u64)],
) -> Result<Vec<f64>> {
    let mut due_of_job: HashMap<String, Instant> = HashMap::new();
    let mut times = Vec::new();
    let mut next = first;
    loop {
        let rows = engine.store().audit_after(next, 256).await?;
        let Some(last) = rows.last() else { break };
        next = LeafNumber(last.first_leaf.0 + last.count);
        for row in &rows {
            for (leaf, record) in (row.first_leaf.0..).zip(row.records.lines()) {
                let record: Record<'_> = serde_json::from_str(record)?;
                match (record.r#type, record.attestation, record.job) {
                    ("matched", Some(id), _) => {
                        let due =
                            *due.get(id).context("a claim was matched that was not appended")?;
                        let fires = record.fires.iter();
                        due_of_job.extend(fires.map(|fire| (fire.job.to_owned(), due)));
                    }
                    ("attempt_ended", _, Some(job)) => {
                        let due = due_of_job.get(job).context("an end without a beginning")?;
                        let index = commits.partition_point(|(_, audit)| *audit <= leaf);
                        let (at, _) = commits.get(index).context("a record that was never seen")?;
                        times.push(ms(at.saturating_duration_since(*due)));
                    }
                    _ => {}
                }
            }
        }
    }
    ensure!(times.len() == due.len(), "{} of {} fires have ended", times.len(), due.len());
    Ok(times)
}
