//! Bytes written for a fire: all that the claim, the job, the audit, the derived tables and the
//! copying of the write-ahead log come to, up to a closed store.

use std::path::Path;

use anyhow::Result;

use super::Scale;
use crate::claims::{Actors, Maker};
use crate::disk::Meter;
use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::rig::{Rig, fill};

/// Bytes a fire may cost on an empty store.
const EMPTY_BYTES_MAX: f64 = 6_000.0;
/// And on a large one, where terms and ids lie all over the file.
const LARGE_BYTES_MAX: f64 = 15_000.0;

pub(super) async fn measure(
    folder: &Path,
    setting: &Setting,
    scale: &Scale,
) -> Result<Vec<Figure>> {
    let mut maker = Maker::new(6, Actors::OwnId);
    let empty = folder.join("empty.db");
    let on_empty = bytes(&empty, &mut maker, scale).await?;
    let large = folder.join("large.db");
    fill(&large, |count| maker.claims(count), scale.large_store_claims).await?;
    let on_large = bytes(&large, &mut maker, scale).await?;
    let figure = |name, seen: Seen, max, claims_before: usize| {
        let measured = Measured { name, unit: "B/fire", value: seen.bytes, runs: 1 };
        let yardstick = Yardstick { against: "a fixed bound", value: max };
        Figure::new(setting, measured, yardstick, Limit::AtMost(1.0))
            .with("source", seen.source)
            .with("bytes_by_this_process", seen.by_process)
            .with("fires", scale.disk_fires)
            .with("claims_before", claims_before)
            .with("store_bytes_after", seen.store_bytes)
    };
    Ok(vec![
        figure("disk_empty_store", on_empty, EMPTY_BYTES_MAX, 0),
        figure("disk_large_store", on_large, LARGE_BYTES_MAX, scale.large_store_claims),
    ])
}

/// Bytes a fire.
struct Seen {
    bytes: f64,
    by_process: f64,
    source: &'static str,
    store_bytes: u64,
}

async fn bytes(store: &Path, maker: &mut Maker, scale: &Scale) -> Result<Seen> {
    let claims = maker.claims(scale.disk_fires);
    let meter = Meter::start(store)?;
    let rig = Rig::start(store).await?;
    rig.fire(claims).await?;
    rig.stop().await?;
    let written = meter.read(store)?;
    let (total, source) = written.best();
    let each = |bytes: u64| bytes as f64 / scale.disk_fires as f64;
    Ok(Seen {
        bytes: each(total),
        by_process: each(written.process_bytes),
        source,
        store_bytes: std::fs::metadata(store)?.len(),
    })
}
