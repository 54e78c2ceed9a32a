//! Budgets as the rows have them, for when nobody runs on the store.
//!
//! What was spent is added up from the rows of minutes, as the engine does. Which attempts are under way,
//! and what waits, only a server knows.

use std::collections::{BTreeMap, BTreeSet};

use axwatch_core::{BudgetLimits, BudgetView, Span, Used};
use axwatch_model::{BudgetRow, BudgetScope, SpendRow, Timestamp, amount_of_nanos};

use super::{AnswerError, Answers};
use crate::views::{Budget, has_limit};

const MINUTE_MS: i64 = 60_000;

impl Answers {
    /// Every budget, or the one of a scope, set or not. `configured` is what the configuration says.
    ///
    /// # Errors
    /// [`AnswerError::Store`].
    pub async fn budgets(
        &self,
        only: Option<&BudgetScope>,
        configured: &BTreeMap<BudgetScope, BudgetLimits>,
        now: Timestamp,
    ) -> Result<Vec<Budget>, AnswerError> {
        let rows = self.store().budgets().await?;
        let minute = now.ms().div_euclid(MINUTE_MS);
        let spends = self.store().spends(minute - Span::Month.minutes() + 1).await?;
        let scopes: BTreeSet<BudgetScope> = match only {
            Some(scope) => BTreeSet::from([scope.clone()]),
            None => rows.iter().map(|row| &row.scope).chain(configured.keys()).cloned().collect(),
        };
        let is_shown = |view: &BudgetView| only.is_some() || has_limit(&view.used);
        let view = |scope: BudgetScope| {
            let row = rows.iter().find(|row| row.scope == scope).cloned();
            let limits = configured.get(&scope).copied().unwrap_or_default();
            let spent = Span::ALL.map(|span| spent(&spends, &scope, span, minute));
            let used = used(row.as_ref(), limits, spent);
            BudgetView { scope, used, row, held_lanes: 0, held_by: None }
        };
        let views = scopes.into_iter().map(view).filter(is_shown);
        Ok(views.map(|view| Budget::offline(&view)).collect())
    }
}

/// What the handlers of a scope spent in the minutes that are nearer than this to the present one.
fn spent(rows: &[SpendRow], scope: &BudgetScope, span: Span, minute: i64) -> f64 {
    let counts = |row: &&SpendRow| {
        row.minute.abs_diff(minute) < span.minutes().unsigned_abs()
            && scope.covers(&row.plugin, &row.handler)
    };
    let nanos: i128 = rows.iter().filter(counts).map(|row| i128::from(row.nanos)).sum();
    amount_of_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// What is set wins over what is configured, limit by limit.
fn used(row: Option<&BudgetRow>, limits: BudgetLimits, spent: [f64; 3]) -> Used {
    let calls_max = row.and_then(|row| row.calls_per_minute).or(limits.calls_per_minute);
    let spent_max = [
        row.and_then(|row| row.per_day).or(limits.per_day),
        row.and_then(|row| row.per_week).or(limits.per_week),
        row.and_then(|row| row.per_month).or(limits.per_month),
    ];
    Used { calls_max, spent, spent_max, ..Used::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_counts_for_as_long_as_its_span() {
        let row = |handler: &str, minute: i64, nanos: i64| SpendRow {
            plugin: "zoo".parse().unwrap(),
            handler: handler.parse().unwrap(),
            minute,
            nanos,
            calls: 1,
        };
        let (now, unit) = (1_000_000, 1_000_000_000);
        let rows = [
            row("a", now, unit),
            row("a", now - 1_439, 2 * unit),
            row("b", now - 1_440, 4 * unit),
            row("b", now - 43_199, 8 * unit),
            // The clock was set back since.
            row("a", now + 60, 16 * unit),
        ];
        // (the scope, what counts for a day, a week and a month)
        let cases = [
            ("*", [19.0, 23.0, 31.0]),
            ("zoo", [19.0, 23.0, 31.0]),
            ("zoo/a", [19.0, 19.0, 19.0]),
            ("zoo/b", [0.0, 4.0, 12.0]),
            ("git", [0.0, 0.0, 0.0]),
        ];
        for (scope, expected) in cases {
            let scope: BudgetScope = scope.parse().unwrap();
            assert_eq!(Span::ALL.map(|span| spent(&rows, &scope, span, now)), expected, "{scope}");
        }
    }
}
