//! The main job, measured: append, fire, plugin, settle.

mod append;
mod disk;
mod latency;
mod sustained;

use std::path::Path;

use anyhow::Result;

use crate::figure::{Figure, Setting};

/// A part of the road that can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Batched durable append against bare SQLite.
    Append,
    /// From a claim to the plugin while nothing else is going on.
    Idle,
    /// Fires a second against the yardstick and against bare gRPC.
    Sustained,
    /// The same in a store that has many claims already.
    SustainedLarge,
    /// From a claim to its settled fire at half of what can be sustained.
    HalfLoad,
    /// Fires a second when claims come as fast as they are taken.
    Flood,
    /// Bytes written for a fire.
    Disk,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Rounds, in each of which a figure and its yardsticks take turns.
    pub rounds: usize,
    /// Rows appended a round, for each of the two.
    pub append_rows: usize,
    /// Claims one by one a round.
    pub idle_claims: usize,
    /// Fires before the clock runs: slots grow, and the store comes to do for each commit what an
    /// earlier one left for later.
    pub warm_up_fires: usize,
    /// Fires a round.
    pub fires: usize,
    /// Seconds at half load.
    pub half_load_secs: u64,
    /// Fires for which bytes are counted.
    pub disk_fires: usize,
    /// Claims in the large store.
    pub large_store_claims: usize,
}

impl Scale {
    /// What the figures of `docs/performance.md` are made with.
    pub const FULL: Scale = Scale {
        rounds: 5,
        append_rows: 20_000,
        idle_claims: 100,
        warm_up_fires: 20_000,
        fires: 30_000,
        half_load_secs: 15,
        disk_fires: 60_000,
        large_store_claims: 500_000,
    };

    /// Everything once, to see that it works.
    pub const QUICK: Scale = Scale {
        rounds: 2,
        append_rows: 2_000,
        idle_claims: 20,
        warm_up_fires: 1_000,
        fires: 2_000,
        half_load_secs: 1,
        disk_fires: 2_000,
        large_store_claims: 10_000,
    };
}

/// Measures the parts, in a folder of its own under `folder`, and tells each figure when it is known.
///
/// # Errors
/// When the store, the engine or the plugin fails.
pub async fn run(
    folder: &Path,
    setting: &Setting,
    parts: &[Part],
    mut tell: impl FnMut(&Figure),
) -> Result<()> {
    let scale = if setting.quick { Scale::QUICK } else { Scale::FULL };
    for part in parts {
        let work = tempfile::tempdir_in(folder)?;
        let figures = match part {
            Part::Append => append::measure(work.path(), setting, &scale).await?,
            Part::Idle => latency::idle(work.path(), setting, &scale).await?,
            Part::Sustained => sustained::measure(work.path(), setting, &scale, 0).await?,
            Part::SustainedLarge => {
                let claims = scale.large_store_claims;
                sustained::measure(work.path(), setting, &scale, claims).await?
            }
            Part::HalfLoad => latency::half_load(work.path(), setting, &scale).await?,
            Part::Flood => sustained::flood(work.path(), setting, &scale).await?,
            Part::Disk => disk::measure(work.path(), setting, &scale).await?,
        };
        figures.iter().for_each(&mut tell);
    }
    Ok(())
}
