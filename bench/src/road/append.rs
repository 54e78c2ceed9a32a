//! Batched durable append through the store, against bare SQLite with many rows a statement.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use axwatch_ats::{SqliteStore, StoreWriter};
use axwatch_model::{Clock as _, Incoming, SystemClock};

use super::Scale;
use crate::bare::{Plain, Row};
use crate::claims::{Actors, Maker};
use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::spread::median;

/// Our file begins with so many rounds' worth of rows: the store leaves work for later, and the clock
/// must not run before that later has come.
const ROUNDS_BEFORE: usize = 4;

pub(super) async fn measure(
    folder: &Path,
    setting: &Setting,
    scale: &Scale,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, rows_per_commit) in [("append_100", 100), ("append_1000", 1_000)] {
        let folder = folder.join(name);
        std::fs::create_dir(&folder)?;
        let rates = rates(&folder, scale, rows_per_commit).await?;
        let median_of =
            |number: fn(&Rates) -> f64| median(&rates.iter().map(number).collect::<Vec<_>>());
        let measured = Measured {
            name,
            unit: "rows/s",
            value: median_of(|rates| rates.ours),
            runs: rates.len(),
        };
        let yardstick = Yardstick {
            against: "bare SQLite, many rows a statement",
            value: median_of(|rates| rates.bare),
        };
        let ratio = median_of(|rates| rates.ours / rates.bare);
        let lowest =
            rates.iter().map(|rates| rates.ours / rates.bare).fold(f64::INFINITY, f64::min);
        let figure = Figure::with_ratio(setting, measured, yardstick, ratio, Limit::AtLeast(0.60))
            .with("rows_per_commit", rows_per_commit)
            .with("ratio_lowest", lowest)
            .with("bare_on_as_large_a_file", median_of(|rates| rates.bare_grown))
            .with("rows_before", scale.append_rows * ROUNDS_BEFORE);
        figures.push(figure);
    }
    Ok(figures)
}

/// Rows a second in one round.
struct Rates {
    ours: f64,
    /// Into a file that has had one round's rows.
    bare: f64,
    /// Into a file that has as many rows as ours.
    bare_grown: f64,
}

async fn rates(folder: &Path, scale: &Scale, rows_per_commit: usize) -> Result<Vec<Rates>> {
    let mut grown = Plain::create(&folder.join("grown.db"))?;
    let mut store = SqliteStore::open_writer(&folder.join("ours.db")).await?;
    let mut maker = Maker::new(1, Actors::People);
    for _ in 0..ROUNDS_BEFORE {
        let claims = maker.claims(scale.append_rows);
        append_bare(&mut grown, &claims, 1_000)?;
        append_ours(&mut *store, claims, 1_000).await?;
    }
    let mut rates = Vec::new();
    for round in 0..scale.rounds {
        let claims = maker.claims(scale.append_rows);
        let mut small = Plain::create(&folder.join(format!("small-{round}.db")))?;
        append_bare(&mut small, &maker.claims(scale.append_rows), 1_000)?;
        let bare = append_bare(&mut small, &claims, rows_per_commit)?;
        let bare_grown = append_bare(&mut grown, &claims, rows_per_commit)?;
        let ours = append_ours(&mut *store, claims, rows_per_commit).await?;
        rates.push(Rates { ours, bare, bare_grown });
    }
    store.close().await?;
    Ok(rates)
}

fn append_bare(plain: &mut Plain, claims: &[Incoming], rows_per_commit: usize) -> Result<f64> {
    let rows: Vec<Row> = claims.iter().map(Row::of).collect();
    let began = Instant::now();
    for rows in rows.chunks(rows_per_commit) {
        plain.append(rows)?;
    }
    Ok(rows.len() as f64 / began.elapsed().as_secs_f64())
}

/// As a program without a server does it: known ids are looked up, the rest is written.
async fn append_ours(
    store: &mut dyn StoreWriter,
    claims: Vec<Incoming>,
    rows_per_commit: usize,
) -> Result<f64> {
    let (count, clock) = (claims.len(), SystemClock::new());
    let mut claims = claims.into_iter();
    let chunks: Vec<Vec<_>> = (0..count.div_ceil(rows_per_commit))
        .map(|_| claims.by_ref().take(rows_per_commit).collect())
        .collect();
    let began = Instant::now();
    for chunk in chunks {
        axwatch_ats::append(store, chunk, clock.now().wall).await?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}
