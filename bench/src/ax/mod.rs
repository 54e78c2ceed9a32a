//! Questions in AX over a large log, asked as `axwatch ax` asks them: the newest 100 claims, all of
//! them, how many there are, and `over`.
//!
//! In three states of the store: while its writer is open, whose newest claims are in memory as those of
//! a running server are; closed and opened again; and once more with the file thrown out of the system's
//! memory.

mod asked;
mod kinds;
mod passes;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axwatch_ats::SqliteStore;
use rustix::fs::{Advice, fadvise};

use crate::dataset::{self, Dataset};
use crate::figure::{Figure, Limit, Measured, Setting, Yardstick};
use crate::spread::{median, ms, percentile};
use asked::Asker;
use kinds::{BROAD, Kind, SELECTIVE};

/// The dataset that is asked about.
const SEED: u64 = 1;
/// Milliseconds for the newest 100 of a selective question, p50.
const SELECTIVE_MS: f64 = 1.0;
/// Milliseconds to the first claim of a question that finds much of the log.
const FIRST_MS: f64 = 5.0;

/// How much is asked.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// Questions of each selective kind.
    questions: usize,
    /// How often each other one is asked.
    repeats: usize,
}

impl Scale {
    fn of(setting: &Setting) -> Scale {
        if setting.quick {
            Scale { questions: 10, repeats: 2 }
        } else {
            Scale { questions: 400, repeats: 50 }
        }
    }
}

/// Writes a log of so many claims into a folder of its own under `folder`, asks, and tells each figure
/// when it is known.
///
/// # Errors
/// When the store fails.
pub async fn run(
    folder: &Path,
    setting: &Setting,
    claims: u64,
    mut tell: impl FnMut(&Figure),
) -> Result<()> {
    let work = tempfile::tempdir_in(folder)?;
    let path = work.path().join("ax.db");
    let scale = Scale::of(setting);
    let began = Instant::now();
    let writer = dataset::write(&path, Dataset::new(SEED, claims)).await?;
    let secs = began.elapsed().as_secs_f64();

    let live = selective(&Asker::new(writer.reader()), &scale).await?;
    writer.close().await?;
    let cold = first_of_each(&path, true).await?;
    let opened = first_of_each(&path, false).await?;
    let asker = Asker::new(SqliteStore::open_reader(&path).await?);
    let warm = selective(&asker, &scale).await?;
    let bytes = std::fs::metadata(&path)?.len();
    for kind in &warm {
        tell(&kind.figure(setting).with("claims", claims).with("store_bytes", bytes));
    }
    let written = |figure: Figure| figure.with("written_in_s", secs);
    tell(&written(worst(setting, "ax_selective_live", "worst kind beside a writer", &live)));
    tell(&firsts(setting, "ax_first_question", "after opening again", &opened));
    tell(&firsts(setting, "ax_first_question_cold", "with the file out of memory", &cold));
    tell(&first_claim(setting, &asker, &scale).await?);
    for figure in passes::measure(setting, &asker, claims).await? {
        tell(&figure);
    }
    Ok(())
}

/// How long the questions of one kind took.
struct Spread {
    name: &'static str,
    times_ms: Vec<f64>,
    /// Claims that were read for one that was found.
    read: u64,
    found: u64,
}

impl Spread {
    fn p50(&self) -> f64 {
        median(&self.times_ms)
    }

    fn figure(&self, setting: &Setting) -> Figure {
        let measured =
            Measured { name: self.name, unit: "ms", value: self.p50(), runs: self.times_ms.len() };
        let yardstick = Yardstick { against: "the newest 100, p50", value: SELECTIVE_MS };
        Figure::new(setting, measured, yardstick, Limit::AtMost(1.0))
            .with("p99_ms", percentile(&self.times_ms, 99.0))
            .with("most_ms", percentile(&self.times_ms, 100.0))
            .with("read", self.read)
            .with("found", self.found)
    }
}

/// Asks the questions of each kind, all of them once before the clock counts.
async fn selective(asker: &Asker, scale: &Scale) -> Result<Vec<Spread>> {
    let mut spreads = Vec::new();
    for kind in &SELECTIVE {
        let questions = kind.questions(scale.questions);
        let warm_up = ask(asker, kind.name, &questions).await?;
        spreads.push(ask(asker, kind.name, &questions[..warm_up.times_ms.len()]).await?);
    }
    Ok(spreads)
}

/// Asks each of the questions; of a kind that takes long only some.
async fn ask(asker: &Asker, name: &'static str, questions: &[String]) -> Result<Spread> {
    const ENOUGH: Duration = Duration::from_secs(5);
    let start = Instant::now();
    let mut spread = Spread { name, times_ms: Vec::new(), read: 0, found: 0 };
    for question in questions {
        let began = Instant::now();
        let cost = asker.newest(question).await?;
        spread.times_ms.push(ms(began.elapsed()));
        (spread.read, spread.found) = (spread.read + cost.read, spread.found + cost.found);
        if start.elapsed() > ENOUGH {
            break;
        }
    }
    Ok(spread)
}

/// The kind that took longest, with what each of them took.
fn worst(setting: &Setting, name: &'static str, against: &'static str, all: &[Spread]) -> Figure {
    let times: Vec<f64> = all.iter().map(Spread::p50).collect();
    let measured = Measured { name, unit: "ms", value: percentile(&times, 100.0), runs: all.len() };
    let yardstick = Yardstick { against, value: SELECTIVE_MS };
    let figure = Figure::new(setting, measured, yardstick, Limit::AtMost(1.0));
    all.iter().fold(figure, |figure, spread| figure.with(spread.name, spread.p50()))
}

/// The first question of each kind to a store that was just opened, with opening not counted.
async fn first_of_each(path: &Path, cold: bool) -> Result<Vec<(&'static str, f64)>> {
    let mut firsts = Vec::new();
    for kind in &SELECTIVE {
        let asker = Asker::new(SqliteStore::open_reader(path).await?);
        if cold {
            forget(path)?;
        }
        let began = Instant::now();
        asker.newest(&kind.questions(1)[0]).await?;
        firsts.push((kind.name, ms(began.elapsed())));
    }
    Ok(firsts)
}

/// Has the system drop what it holds of a file in memory.
fn forget(path: &Path) -> Result<()> {
    let file = File::open(path).context("cannot open the store's file")?;
    file.sync_all()?;
    fadvise(&file, 0, None, Advice::DontNeed).context("cannot have the file forgotten")
}

fn firsts(
    setting: &Setting,
    name: &'static str,
    against: &'static str,
    firsts: &[(&'static str, f64)],
) -> Figure {
    let times: Vec<f64> = firsts.iter().map(|(_, ms)| *ms).collect();
    let measured = Measured { name, unit: "ms", value: median(&times), runs: times.len() };
    let figure =
        Figure::new(setting, measured, Yardstick { against, value: SELECTIVE_MS }, Limit::None);
    firsts.iter().fold(figure, |figure, (kind, ms)| figure.with(kind, *ms))
}

/// How long it takes to the first claim of a question that finds much of the log, of the worst kind.
async fn first_claim(setting: &Setting, asker: &Asker, scale: &Scale) -> Result<Figure> {
    let mut kinds: Vec<(&str, f64, f64)> = Vec::new();
    for Kind { name, question } in &BROAD {
        let mut times = Vec::new();
        for _ in 0..scale.repeats {
            let began = Instant::now();
            let has_any = asker.first(question).await?;
            times.push(ms(began.elapsed()));
            ensure!(has_any, "{question} finds nothing");
        }
        kinds.push((name, median(&times), percentile(&times, 99.0)));
    }
    let slowest = kinds.iter().map(|(_, p50, _)| *p50).fold(0.0, f64::max);
    let measured =
        Measured { name: "ax_first_claim", unit: "ms", value: slowest, runs: scale.repeats };
    let yardstick = Yardstick { against: "worst kind of those that find much", value: FIRST_MS };
    let figure = Figure::new(setting, measured, yardstick, Limit::AtMost(1.0));
    let p99 = kinds.iter().map(|(_, _, p99)| *p99).fold(0.0, f64::max);
    let add = |figure: Figure, kind: &(&str, f64, f64)| figure.with(kind.0, kind.1);
    Ok(kinds.iter().fold(figure.with("p99_ms", p99), add))
}
