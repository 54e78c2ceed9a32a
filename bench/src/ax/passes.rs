//! Questions that go through the whole log: all of it, how many there are, and `over`.

use std::time::Instant;

use anyhow::{Result, ensure};
use axwatch_ats::Store;
use axwatch_model::Seq;

use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::memory::resident_bytes;

use super::asked::Asker;

/// Bytes by which memory may grow from the first page to the last.
const GROWTH_MAX: f64 = 16.0 * MIB;
const MIB: f64 = 1_048_576.0;
/// Claims that the log itself is read by at once.
const PAGE_ROWS: usize = 200;
/// A question that finds everything.
const ALL: &str = "since 3 years ago";

pub async fn measure(setting: &Setting, asker: &Asker, claims: u64) -> Result<Vec<Figure>> {
    // Once before the clock counts, so that both find the file in the system's memory.
    read_log(&*asker.store).await?;
    let log = read_log(&*asker.store).await?;
    let all = read_all(asker, ALL).await?;
    ensure!(all.found == claims, "{ALL} finds {} of {claims} claims", all.found);
    let some = read_all(asker, "is deployed").await?;
    let growth = all.growth_bytes.max(some.growth_bytes) as f64;
    let rate = |name, pass: &Pass| {
        let measured = Measured { name, unit: "claims/s", value: pass.rate(), runs: 1 };
        let yardstick = Yardstick { against: "reading the log in its order", value: log };
        Figure::new(setting, measured, yardstick, Limit::None)
            .with("found", pass.found)
            .with("secs", pass.secs)
    };
    let measured =
        Measured { name: "ax_all_memory_growth", unit: "MiB", value: growth / MIB, runs: 2 };
    let yardstick =
        Yardstick { against: "from the first page to the last", value: GROWTH_MAX / MIB };
    let growth = Figure::new(setting, measured, yardstick, Limit::AtMost(1.0))
        .with("resident_mib", all.resident_bytes as f64 / MIB);
    Ok(vec![
        rate("ax_all", &all),
        rate("ax_all_of_a_busy_predicate", &some),
        growth,
        over(setting, asker, log).await?,
    ])
}

/// Claims a second when the log is read from its beginning.
async fn read_log(store: &dyn Store) -> Result<f64> {
    let (began, mut at, mut read) = (Instant::now(), Seq(0), 0);
    loop {
        let rows = store.read_after(at, PAGE_ROWS).await?;
        let Some(last) = rows.last() else { break };
        (at, read) = (last.seq, read + rows.len());
    }
    Ok(read as f64 / began.elapsed().as_secs_f64())
}

/// How it went to read all that a question finds. To count them is the same without the printing.
struct Pass {
    found: u64,
    secs: f64,
    resident_bytes: u64,
    growth_bytes: u64,
}

impl Pass {
    fn rate(&self) -> f64 {
        self.found as f64 / self.secs
    }
}

async fn read_all(asker: &Asker, question: &str) -> Result<Pass> {
    let began = Instant::now();
    let mut matches = asker.ask(question).await?;
    let (mut found, mut first, mut most) = (0, None, 0);
    while let Some(rows) = matches.next(usize::MAX).await? {
        found += rows.len() as u64;
        drop(rows);
        let resident = resident_bytes()?;
        first.get_or_insert(resident);
        most = most.max(resident);
    }
    let growth_bytes = most - first.unwrap_or(most);
    Ok(Pass { found, secs: began.elapsed().as_secs_f64(), resident_bytes: most, growth_bytes })
}

/// `over` of a busy predicate.
async fn over(setting: &Setting, asker: &Asker, log: f64) -> Result<Figure> {
    let began = Instant::now();
    let mut matches = asker.ask("is deployed over 2 years").await?;
    let mut kept = 0;
    while let Some(rows) = matches.next(usize::MAX).await? {
        kept += rows.len();
    }
    let secs = began.elapsed().as_secs_f64();
    let rate = matches.rows_read() as f64 / secs;
    let measured = Measured { name: "ax_over", unit: "claims/s", value: rate, runs: 1 };
    let yardstick = Yardstick { against: "reading the log in its order", value: log };
    Ok(Figure::new(setting, measured, yardstick, Limit::None)
        .with("secs", secs)
        .with("read", matches.rows_read())
        .with("kept", kept))
}
