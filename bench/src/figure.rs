//! One line of the output: a figure, what it is held against, and whether it keeps its limit.

use std::process::Command;

use serde::Serialize;
use serde_json::{Map, Value};

/// Which way a ratio must lie from its limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// The ratio must be this or more.
    AtLeast(f64),
    /// The ratio must be this or less.
    AtMost(f64),
    /// Told for comparison only.
    None,
}

impl Limit {
    fn value(self) -> Option<f64> {
        match self {
            Limit::AtLeast(limit) | Limit::AtMost(limit) => Some(limit),
            Limit::None => None,
        }
    }

    fn is_met_by(self, ratio: f64) -> Option<bool> {
        match self {
            Limit::AtLeast(limit) => Some(ratio >= limit),
            Limit::AtMost(limit) => Some(ratio <= limit),
            Limit::None => None,
        }
    }
}

/// Where and on what a run was made: the same in all its lines.
#[derive(Debug, Clone, Serialize)]
pub struct Setting {
    /// The commit, with `-dirty` after it when the tree has changes.
    pub commit: String,
    /// On what.
    pub machine: Machine,
    /// The small scale, whose figures say only that everything works.
    pub quick: bool,
}

/// What it ran on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's own name.
    pub cpu: String,
    /// Processors that we may use.
    pub cores: usize,
    /// How much other work there was at the start: `/proc/loadavg`, one minute.
    pub load_before: f64,
}

/// A figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Which.
    pub name: &'static str,
    /// What was measured.
    pub value: f64,
    /// In what unit, the yardstick's too.
    pub unit: &'static str,
    /// What it is held against: measured in the same run, or a fixed bound.
    pub yardstick: f64,
    /// What the yardstick is.
    pub against: &'static str,
    /// `value / yardstick`.
    pub ratio: f64,
    /// Where the ratio has to stay.
    pub limit: Option<f64>,
    /// Whether it does.
    pub met: Option<bool>,
    /// How many measurements this is the median of, or made from.
    pub runs: usize,
    /// What else was seen.
    pub detail: Map<String, Value>,
    /// Where and on what.
    #[serde(flatten)]
    pub setting: Setting,
    #[serde(skip)]
    at_least: bool,
}

/// What was measured, before it is held against anything.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// The name of the figure.
    pub name: &'static str,
    /// The unit.
    pub unit: &'static str,
    /// The number.
    pub value: f64,
    /// From how many measurements.
    pub runs: usize,
}

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
pub struct Yardstick {
    /// What it is.
    pub against: &'static str,
    /// The number, in the unit of the figure.
    pub value: f64,
}

impl Figure {
    /// A figure whose ratio is that of the two numbers.
    #[must_use]
    pub fn new(
        setting: &Setting,
        measured: Measured,
        yardstick: Yardstick,
        limit: Limit,
    ) -> Figure {
        let ratio = measured.value / yardstick.value;
        Figure::with_ratio(setting, measured, yardstick, ratio, limit)
    }

    /// A figure whose ratio was taken in each round, and is the median of those.
    #[must_use]
    pub fn with_ratio(
        setting: &Setting,
        measured: Measured,
        yardstick: Yardstick,
        ratio: f64,
        limit: Limit,
    ) -> Figure {
        Figure {
            name: measured.name,
            value: rounded(measured.value),
            unit: measured.unit,
            yardstick: rounded(yardstick.value),
            against: yardstick.against,
            ratio: rounded(ratio),
            limit: limit.value(),
            met: limit.is_met_by(ratio),
            runs: measured.runs,
            detail: Map::new(),
            setting: setting.clone(),
            at_least: matches!(limit, Limit::AtLeast(_)),
        }
    }

    /// The figure with one more thing that was seen.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Figure {
        let value = match value.into() {
            Value::Number(number) if number.is_f64() => {
                rounded(number.as_f64().unwrap_or(0.0)).into()
            }
            other => other,
        };
        self.detail.insert(key.to_owned(), value);
        self
    }

    /// The line for programs.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a figure is always JSON")
    }

    /// The line for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let verdict = match (self.limit, self.met) {
            (Some(limit), Some(met)) => {
                let sign = if self.at_least { "≥" } else { "≤" };
                format!("{sign} {limit:<5} {}", if met { "met" } else { "MISSED" })
            }
            _ => String::new(),
        };
        format!(
            "{:<34} {:>10} {:<9} {:>7.3} × {:>10} {:<44} {verdict}",
            self.name, self.value, self.unit, self.ratio, self.yardstick, self.against
        )
    }
}

/// Four digits that say something.
fn rounded(number: f64) -> f64 {
    if number == 0.0 || !number.is_finite() {
        return number;
    }
    let digits = 3 - number.abs().log10().floor() as i32;
    let scale = 10_f64.powi(digits.max(0));
    (number * scale).round() / scale
}

impl Setting {
    /// Here and now.
    #[must_use]
    pub fn look(quick: bool) -> Setting {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let machine = Machine { cpu: cpu_model(), cores, load_before: load() };
        Setting { commit: commit(), machine, quick }
    }
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let model = line.and_then(|line| line.split_once(':'));
    model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.trim().to_owned())
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let is_clean = git(&["status", "--porcelain"]).is_some_and(|changes| changes.is_empty());
    if is_clean { commit } else { format!("{commit}-dirty") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_held_to_its_limit() {
        let setting = Setting::look(true);
        let cases = [
            (Limit::AtLeast(0.6), Some(false)),
            (Limit::AtLeast(0.5), Some(true)),
            (Limit::AtMost(0.6), Some(true)),
            (Limit::AtMost(0.4), Some(false)),
            (Limit::None, None),
        ];
        for (limit, met) in cases {
            let measured = Measured { name: "x", unit: "rows/s", value: 50.0, runs: 1 };
            let yardstick = Yardstick { against: "y", value: 100.0 };
            let figure = Figure::new(&setting, measured, yardstick, limit);
            assert_eq!((figure.ratio, figure.met), (0.5, met), "{limit:?}");
        }
    }

    #[test]
    fn numbers_are_told_with_four_digits() {
        for (number, expected) in [(0.123_456, 0.1235), (12.3456, 12.35), (123_456.7, 123_457.0)] {
            assert_eq!(rounded(number), expected);
        }
    }
}
