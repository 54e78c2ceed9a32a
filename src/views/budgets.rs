//! Budgets, and what has been used of them.

use axwatch_core::{BudgetView, Span, Used};
use axwatch_model::{BudgetRow, Timestamp};
use serde::{Deserialize, Serialize};

/// A budget, and what has been used of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Whose jobs it is for: `*`, a plugin, or `plugin/handler`.
    pub scope: String,
    /// Attempts that began in the last 60 seconds.
    pub calls_per_minute: Part<u64>,
    /// What was spent in 24 hours.
    pub per_day: Part<f64>,
    /// What was spent in 7 days.
    pub per_week: Part<f64>,
    /// What was spent in 30 days.
    pub per_month: Part<f64>,
    /// What attempts under way are expected to cost yet; null without a server.
    pub reserved: Option<f64>,
    /// One of them has reserved all that is left, because nobody knows what it costs.
    pub all_reserved: bool,
    /// Lanes of jobs that wait for it; null without a server.
    pub held_lanes: Option<u64>,
    /// Why the first of them waits; null when none does.
    pub held_by: Option<HeldBy>,
    /// When it was last set with a command.
    pub changed_at: Option<Timestamp>,
}

/// One limit of a budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part<T> {
    /// How much there may be; null is no limit.
    pub limit: Option<T>,
    /// How much there was; null where nobody knows.
    pub used: Option<T>,
    /// How much there may be yet; null without a limit.
    pub left: Option<T>,
    /// Who set the limit: `user`, or `configuration`.
    pub set_by: Option<String>,
}

/// Why a budget lets jobs wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBy {
    /// `calls_per_minute`, `per_day`, `per_week` or `per_month`.
    pub limit: String,
    /// When that ends, where it is known.
    pub until: Option<Timestamp>,
    /// Why the first of them waits, for people.
    #[serde(default)]
    pub reason: String,
}

impl Budget {
    /// As a server has it.
    pub fn of(view: &BudgetView) -> Budget {
        let BudgetView { used, row, .. } = view;
        let row = row.as_ref();
        let calls_of_row = row.and_then(|row| row.calls_per_minute).is_some();
        let spent = |span: Span| spent(used, span, row);
        let [per_day, per_week, per_month] = Span::ALL.map(spent);
        Budget {
            scope: view.scope.to_string(),
            calls_per_minute: Part {
                limit: used.calls_max.map(u64::from),
                used: Some(used.calls),
                left: used.calls_left(),
                set_by: set_by(used.calls_max.is_some(), row.filter(|_| calls_of_row)),
            },
            per_day,
            per_week,
            per_month,
            reserved: Some(exact(used.reserved)),
            all_reserved: used.all_reserved,
            held_lanes: Some(view.held_lanes),
            held_by: view.held_by.as_ref().map(|hold| HeldBy {
                limit: hold.kind.as_str().to_owned(),
                until: hold.until,
                reason: hold.cause.to_string().trim_start_matches([' ', ':']).to_owned(),
            }),
            changed_at: row.map(|row| row.changed_at),
        }
    }

    /// As the rows have it: what only a server knows is not.
    pub fn offline(view: &BudgetView) -> Budget {
        let budget = Budget::of(view);
        let calls_per_minute = Part { used: None, left: None, ..budget.calls_per_minute };
        Budget { calls_per_minute, reserved: None, held_lanes: None, ..budget }
    }
}

/// An amount as it is counted: in whole billionths, without what a subtraction of such numbers adds.
fn exact(amount: f64) -> f64 {
    (amount * 1e9).round() / 1e9
}

/// The largest limit there may be: what is counted in billionths has no more room.
pub const LIMIT_MAX: u64 = 9_000_000_000;

/// Whether an amount may be a limit.
pub fn is_limit(amount: f64) -> bool {
    (0.0..=LIMIT_MAX as f64).contains(&amount)
}

/// Whether anything is limited.
pub fn has_limit(used: &Used) -> bool {
    used.calls_max.is_some() || used.spent_max.iter().any(Option::is_some)
}

fn spent(used: &Used, span: Span, row: Option<&BudgetRow>) -> Part<f64> {
    let at = span as usize;
    let (spent, limit) = (used.spent[at], used.spent_max[at]);
    let of_row = row.filter(|row| {
        let set = match span {
            Span::Day => row.per_day,
            Span::Week => row.per_week,
            Span::Month => row.per_month,
        };
        set.is_some()
    });
    Part {
        limit,
        used: Some(exact(spent)),
        left: used.left_of(span),
        set_by: set_by(limit.is_some(), of_row),
    }
}

fn set_by(is_set: bool, by: Option<&BudgetRow>) -> Option<String> {
    let by = by.map_or_else(|| "configuration".to_owned(), |row| row.set_by.clone());
    is_set.then_some(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_digits_that_were_counted() {
        assert_eq!(exact(0.5 - 0.35), 0.15);
        assert_eq!(exact(1.0 - 0.95), 0.05);
        assert_eq!(exact(1.0 - 0.16), 0.84);
        for (amount, expected) in
            [(0.0, true), (9e9, true), (1e10, false), (-0.1, false), (f64::NAN, false)]
        {
            assert_eq!(is_limit(amount), expected, "{amount}");
        }
    }
}
