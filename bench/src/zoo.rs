//! What a plugin keeps of its speed beside one that misbehaves.
//!
//! The plugin of the benchmarks gets a steady load, 30% of what it can do alone; first alone, then beside each
//! plugin of the zoo (`examples/zoo_plugin.rs`) in turn. Held against alone: claims a second that arrive at it,
//! and how long the slowest hundredth takes from the append to the plugin. The zoo is measured here for what
//! it costs others; what becomes of it is tested in `tests/program/zoo.rs`.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axwatch_engine::plugin::PluginSettings;
use axwatch_model::Attestation;
use tokio::task::JoinHandle;

use crate::claims::{Actors, Maker};
use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::memory::resident_bytes;
use crate::plugin::{ARRIVALS, RECORD, wall_ns};
use crate::rig::Rig;
use crate::spread::percentile;

/// The share of what can be done alone that is asked for.
const LOAD: f64 = 0.3;
/// What has to be kept of the throughput.
const KEPT: f64 = 0.9;
/// Beside twice the time alone, what the slowest hundredth may take.
const SLACK_MS: f64 = 50.0;
/// Jobs that the villain gets to misbehave with.
const ASKED: usize = 20;
/// How long a villain may take to begin, before the load does.
const BEGINS_WITHIN: Duration = Duration::from_secs(2);
/// From one look at the memory to the next.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The modes of the zoo, with the names of their figures.
const VILLAINS: [(&str, &str, &str); 24] = [
    ("never-binds", "zoo_never_binds_kept", "zoo_never_binds_p99"),
    ("never-handshakes", "zoo_never_handshakes_kept", "zoo_never_handshakes_p99"),
    ("endless-line", "zoo_endless_line_kept", "zoo_endless_line_p99"),
    ("wrong-name", "zoo_wrong_name_kept", "zoo_wrong_name_p99"),
    ("crash-in-initialize", "zoo_crash_in_initialize_kept", "zoo_crash_in_initialize_p99"),
    ("hang-in-initialize", "zoo_hang_in_initialize_kept", "zoo_hang_in_initialize_p99"),
    ("hang-in-health", "zoo_hang_in_health_kept", "zoo_hang_in_health_p99"),
    ("hang-in-execute", "zoo_hang_in_execute_kept", "zoo_hang_in_execute_p99"),
    ("answers-twice", "zoo_answers_twice_kept", "zoo_answers_twice_p99"),
    ("huge-result", "zoo_huge_result_kept", "zoo_huge_result_p99"),
    ("exit-0-in-execute", "zoo_exit_0_in_execute_kept", "zoo_exit_0_in_execute_p99"),
    ("segfault", "zoo_segfault_kept", "zoo_segfault_p99"),
    ("allocates", "zoo_allocates_kept", "zoo_allocates_p99"),
    ("ignores-sigterm", "zoo_ignores_sigterm_kept", "zoo_ignores_sigterm_p99"),
    ("floods-output", "zoo_floods_output_kept", "zoo_floods_output_p99"),
    ("floods-claims", "zoo_floods_claims_kept", "zoo_floods_claims_p99"),
    ("floods-watchers", "zoo_floods_watchers_kept", "zoo_floods_watchers_p99"),
    ("million-predicates", "zoo_million_predicates_kept", "zoo_million_predicates_p99"),
    ("stops-reading", "zoo_stops_reading_kept", "zoo_stops_reading_p99"),
    ("one-byte-frames", "zoo_one_byte_frames_kept", "zoo_one_byte_frames_p99"),
    ("nasty-errors", "zoo_nasty_errors_kept", "zoo_nasty_errors_p99"),
    ("invalid-utf8", "zoo_invalid_utf8_kept", "zoo_invalid_utf8_p99"),
    ("reopens-socket", "zoo_reopens_socket_kept", "zoo_reopens_socket_p99"),
    ("exit-in-execute", "zoo_exit_in_execute_kept", "zoo_exit_in_execute_p99"),
];

/// How much is done.
struct Scale {
    warm_up_fires: usize,
    fires: usize,
    load_secs: f64,
}

/// What came of a load.
struct Borne {
    /// Claims a second that arrived.
    rate: f64,
    /// Milliseconds from when each was due to its arrival.
    times: Vec<f64>,
    /// The most memory that this process, engine and load together, had meanwhile.
    peak_mib: f64,
}

/// Measures the plugin beside each villain, or beside those that are named.
///
/// # Errors
/// When the store, the engine or the plugin fails.
pub async fn run(
    folder: &Path,
    setting: &Setting,
    only: &[String],
    mut tell: impl FnMut(&Figure),
) -> Result<()> {
    let scale = if setting.quick {
        Scale { warm_up_fires: 1_000, fires: 2_000, load_secs: 1.0 }
    } else {
        Scale { warm_up_fires: 20_000, fires: 30_000, load_secs: 6.0 }
    };
    let (alone, rate) = alone(folder, &scale).await?;
    for (mode, kept, p99) in VILLAINS {
        if !only.is_empty() && !only.iter().any(|named| named == mode) {
            continue;
        }
        let borne = beside(folder, mode, rate, &scale).await.with_context(|| mode.to_owned())?;
        figures(setting, (kept, p99), &alone, &borne, rate).iter().for_each(&mut tell);
    }
    Ok(())
}

/// What the plugin can do alone, and how it bears a part of that.
async fn alone(folder: &Path, scale: &Scale) -> Result<(Borne, f64)> {
    let work = tempfile::tempdir_in(folder)?;
    let rig = Rig::start(&work.path().join("ours.db")).await?;
    let mut maker = Maker::new(6, Actors::OwnId);
    rig.fire(maker.claims(scale.warm_up_fires)).await?;
    let took = rig.fire(maker.claims(scale.fires)).await?;
    let rate = LOAD * scale.fires as f64 / took.as_secs_f64();
    let borne = bear(&rig, &mut maker, rate, scale).await?;
    rig.stop().await?;
    Ok((borne, rate))
}

async fn beside(folder: &Path, mode: &str, rate: f64, scale: &Scale) -> Result<Borne> {
    let work = tempfile::tempdir_in(folder)?;
    let villain = villain(mode)?;
    let rig = Rig::start_beside(&work.path().join("ours.db"), vec![villain]).await?;
    let mut maker = Maker::new(7, Actors::OwnId);
    rig.fire(maker.claims(scale.warm_up_fires / 10)).await?;
    rig.until_begun(mode, BEGINS_WITHIN).await;
    let mut asked = maker.claims(ASKED);
    for claim in &mut asked {
        claim.attestation =
            Attestation { predicates: vec![format!("{mode}_asked")], ..claim.attestation.clone() };
    }
    for ack in rig.engine.append(asked).await? {
        ack?;
    }
    let borne = bear(&rig, &mut maker, rate, scale).await?;
    rig.stop().await?;
    Ok(borne)
}

/// The plugin of the zoo in some mode, as the tests configure it.
fn villain(mode: &str) -> Result<PluginSettings> {
    let mut settings = PluginSettings::new(mode.parse()?);
    let built = std::env::current_exe()?.with_file_name("examples").join("zoo_plugin");
    ensure!(built.exists(), "{} is not built: cargo build --example zoo_plugin", built.display());
    settings.binary = Some(built);
    settings.args = ["--mode", mode, "--name", mode].map(str::to_owned).to_vec();
    settings.memory_bytes_max = Some(128 << 20);
    settings.execute_timeout = Duration::from_secs(1);
    settings.initialize_timeout = Duration::from_secs(5);
    settings.ready_timeout = Duration::from_secs(3);
    let watchers = format!(r#"[{{"id":"asked","predicates":["{mode}_asked"]}}]"#);
    settings.config = [("watchers".to_owned(), watchers)].into();
    Ok(settings)
}

/// Appends claims at a steady rate, and notes when they arrive at the plugin.
async fn bear(rig: &Rig, maker: &mut Maker, rate: f64, scale: &Scale) -> Result<Borne> {
    rig.ask(RECORD).await?;
    let claims = maker.claims((rate * scale.load_secs) as usize);
    let memory = Memory::watch();
    let (wall, began) = (wall_ns(), Instant::now());
    let due = rig.append_at(claims, rate).await?;
    // The plugin tells the time by the wall.
    let on_the_wall = |(id, at): (String, Instant)| {
        (id, wall + u64::try_from(at.duration_since(began).as_nanos()).unwrap_or(u64::MAX))
    };
    let due: HashMap<String, u64> = due.into_iter().map(on_the_wall).collect();
    let mut arrived = HashMap::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while arrived.len() < due.len() {
        ensure!(Instant::now() < deadline, "{} of {} claims arrived", arrived.len(), due.len());
        let new: Vec<(String, u64)> = serde_json::from_slice(&rig.ask(ARRIVALS).await?)?;
        arrived.extend(new.into_iter().filter(|(id, _)| due.contains_key(id)));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let first = due.values().min().context("at least one claim was due")?;
    let last = arrived.values().max().context("at least one claim arrived")?;
    let time = |(id, at): (&String, &u64)| at.saturating_sub(due[id]) as f64 / 1e6;
    Ok(Borne {
        rate: arrived.len() as f64 / (last.saturating_sub(*first) as f64 / 1e9),
        times: arrived.iter().map(time).collect(),
        peak_mib: memory.peak_mib(),
    })
}

/// The most memory that this process has, looked at now and then.
struct Memory(JoinHandle<()>, tokio::sync::watch::Receiver<u64>);

impl Memory {
    fn watch() -> Memory {
        let (peak, seen) = tokio::sync::watch::channel(0);
        let look = async move {
            loop {
                let now = resident_bytes().unwrap_or(0);
                peak.send_if_modified(|peak| {
                    let rises = now > *peak;
                    *peak = now.max(*peak);
                    rises
                });
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        Memory(tokio::spawn(look), seen)
    }

    fn peak_mib(self) -> f64 {
        let Memory(task, seen) = self;
        task.abort();
        *seen.borrow() as f64 / (1024.0 * 1024.0)
    }
}

fn figures(
    setting: &Setting,
    (kept, p99): (&'static str, &'static str),
    alone: &Borne,
    borne: &Borne,
    rate: f64,
) -> [Figure; 2] {
    let runs = borne.times.len();
    let measured = Measured { name: kept, unit: "claims/s", value: borne.rate, runs };
    let yardstick = Yardstick { against: "alone, the same load", value: alone.rate };
    let kept = Figure::new(setting, measured, yardstick, Limit::AtLeast(KEPT))
        .with("load_per_second", rate.round())
        .with("peak_mib", borne.peak_mib.round())
        .with("peak_mib_alone", alone.peak_mib.round());
    let (ours, theirs) = (percentile(&borne.times, 99.0), percentile(&alone.times, 99.0));
    let measured = Measured { name: p99, unit: "ms", value: ours, runs };
    let yardstick =
        Yardstick { against: "twice the time alone and 50 ms", value: 2.0 * theirs + SLACK_MS };
    let p99 = Figure::new(setting, measured, yardstick, Limit::AtMost(1.0))
        .with("p50_ms", percentile(&borne.times, 50.0))
        .with("alone_p99_ms", theirs)
        .with("max_ms", percentile(&borne.times, 100.0));
    [kept, p99]
}
