//! What jobs may cost, and what they have cost.
//!
//! Money has no currency here: it is what plugins report. Sums are kept in whole billionths, so that they
//! are exact and whoever adds up the rows gets the same.
//!
//! Not here: which job a budget holds back (`axwatch_core`).

use std::fmt;
use std::str::FromStr;

use crate::{HandlerName, InvalidId, PluginName, Timestamp};

const NANOS_PER_UNIT: f64 = 1e9;

/// An amount in billionths, rounded to the nearest and no more than fits; `None` of one that is no amount:
/// negative, infinite, or not a number.
#[must_use]
pub fn nanos_of_amount(amount: f64) -> Option<i64> {
    // A number with a point that is too large becomes the largest whole one.
    (amount.is_finite() && amount >= 0.0).then(|| (amount * NANOS_PER_UNIT).round() as i64)
}

/// The amount of so many billionths, for showing.
#[must_use]
pub fn amount_of_nanos(nanos: i64) -> f64 {
    nanos as f64 / NANOS_PER_UNIT
}

/// Whose jobs a budget is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BudgetScope {
    /// Everybody's.
    All,
    /// All jobs of a plugin.
    Plugin(PluginName),
    /// The jobs of one handler.
    Handler(PluginName, HandlerName),
}

impl BudgetScope {
    /// Whether the jobs of this handler are among them.
    #[must_use]
    pub fn covers(&self, plugin: &PluginName, handler: &HandlerName) -> bool {
        match self {
            BudgetScope::All => true,
            BudgetScope::Plugin(of) => of == plugin,
            BudgetScope::Handler(of, name) => of == plugin && name == handler,
        }
    }
}

/// `*`, a plugin's name, or `plugin/handler`.
impl fmt::Display for BudgetScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BudgetScope::All => f.pad("*"),
            BudgetScope::Plugin(plugin) => f.pad(plugin.as_str()),
            BudgetScope::Handler(plugin, handler) => f.pad(&format!("{plugin}/{handler}")),
        }
    }
}

impl FromStr for BudgetScope {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<BudgetScope, InvalidId> {
        match text.split_once('/') {
            Some((plugin, handler)) => Ok(BudgetScope::Handler(plugin.parse()?, handler.parse()?)),
            None if text == "*" => Ok(BudgetScope::All),
            None => Ok(BudgetScope::Plugin(text.parse()?)),
        }
    }
}

/// A budget that was set with a command. What it leaves open is as the configuration says.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetRow {
    /// Whose jobs it is for.
    pub scope: BudgetScope,
    /// Attempts that may begin in any 60 seconds.
    pub calls_per_minute: Option<u32>,
    /// What may be spent in any 24 hours. This and the next two are finite and not negative.
    pub per_day: Option<f64>,
    /// What may be spent in any 7 days.
    pub per_week: Option<f64>,
    /// What may be spent in any 30 days.
    pub per_month: Option<f64>,
    /// Who set it: `user`.
    pub set_by: String,
    /// When.
    pub changed_at: Timestamp,
}

/// What the jobs of one handler did in one minute. Minutes in which they did nothing have no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpendRow {
    /// Whose handler.
    pub plugin: PluginName,
    /// Its bare name.
    pub handler: HandlerName,
    /// Minutes since 1970-01-01 UTC.
    pub minute: i64,
    /// What they cost, in billionths. Negative when less than what earlier minutes told of an attempt turned out
    /// to have been spent.
    pub nanos: i64,
    /// Attempts that began.
    pub calls: u32,
}

/// What is known of the cost of one handler, whenever it ran.
#[derive(Debug, Clone, PartialEq)]
pub struct HandlerSpendRow {
    /// Whose handler.
    pub plugin: PluginName,
    /// Its bare name.
    pub handler: HandlerName,
    /// What its dearest run cost.
    pub dearest: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_an_amount_counts() {
        let cases = [
            (0.0, Some(0)),
            (-0.0, Some(0)),
            (0.1 + 0.2, Some(300_000_000)),
            (12.5, Some(12_500_000_000)),
            (4e-10, Some(0)),
            (1e300, Some(i64::MAX)),
            (-1e-12, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (f64::NEG_INFINITY, None),
        ];
        for (amount, nanos) in cases {
            assert_eq!(nanos_of_amount(amount), nanos, "{amount}");
        }
        assert_eq!(amount_of_nanos(12_500_000_000), 12.5);
    }

    #[test]
    fn a_scope_is_written_as_it_is_read_and_knows_its_handlers() {
        let (git, notify): (PluginName, PluginName) =
            ("git".parse().unwrap(), "notify".parse().unwrap());
        let (ixgest, log): (HandlerName, HandlerName) =
            ("ixgest.git".parse().unwrap(), "a/b".parse().unwrap());
        for (text, covered) in [
            ("*", [true, true, true]),
            ("git", [true, true, false]),
            ("git/a/b", [false, true, false]),
        ] {
            let scope: BudgetScope = text.parse().unwrap();
            assert_eq!(scope.to_string(), text);
            let found = [
                scope.covers(&git, &ixgest),
                scope.covers(&git, &log),
                scope.covers(&notify, &log),
            ];
            assert_eq!(found, covered, "{text}");
        }
        for text in ["", "git/", "/a", "user", "* "] {
            assert!(text.parse::<BudgetScope>().is_err(), "{text:?}");
        }
    }
}
