//! Schedules, by whatever somebody names them, and when they run next.
//!
//! Not here: what one is doing at this moment, which only a server knows (`axwatch_engine`).

use axwatch_ats::StoreError;
use axwatch_core::grid::Times;
use axwatch_model::{Owner, ScheduleRow, ScheduleState, Timestamp};

use super::{AnswerError, Answers};
use crate::views::{NextTimes, shown_name};

/// Schedules that are compared to find the nearest.
const COMPARED_MAX: usize = 10_000;

impl Answers {
    /// The schedules as their rows have them, by owner and name; the retired ones too when asked for.
    pub async fn schedules(&self, retired: bool) -> Result<Vec<ScheduleRow>, StoreError> {
        let mut rows = self.store().schedules().await?;
        rows.retain(|row| retired || row.state != ScheduleState::Retired);
        Ok(rows)
    }

    /// The schedule that somebody means: by its id, by its name if it is a person's, or as `plugin/name`. One
    /// that is retired too.
    ///
    /// # Errors
    /// [`AnswerError::NotFound`], with the nearest that there is.
    pub async fn schedule_row(&self, text: &str) -> Result<ScheduleRow, AnswerError> {
        let mut rows = self.store().schedules().await?;
        let by_id = text.parse().ok().and_then(|id| rows.iter().position(|row| row.id == id));
        let named = |row: &ScheduleRow| row.owner == Owner::User && row.name.as_str() == text;
        let shown = |row: &ScheduleRow| row.owner != Owner::User && shown_name(row) == text;
        let found =
            by_id.or_else(|| rows.iter().position(named)).or_else(|| rows.iter().position(shown));
        match found {
            Some(at) => Ok(rows.swap_remove(at)),
            None => Err(no_schedule(text, rows.iter())),
        }
    }

    /// When a schedule runs next, as its row has it.
    pub async fn next_times(
        &self,
        text: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<NextTimes, AnswerError> {
        let row = self.schedule_row(text).await?;
        let times = next_times(&row, now, limit);
        Ok(NextTimes { schedule: shown_name(&row), state: row.state, times })
    }
}

/// The next nominal times of a schedule that were not seen to yet.
fn next_times(row: &ScheduleRow, now: Timestamp, limit: usize) -> Vec<Timestamp> {
    // What stands was checked; after an upgrade a text may be none any more, and then it has no times.
    let Ok(times) = Times::of(&row.grid, row.anchor) else { return Vec::new() };
    let seen_until = |nominal: Timestamp| {
        let around = row.seen.iter().find(|(from, upto)| (*from..=*upto).contains(&nominal));
        around.map(|(_, upto)| *upto)
    };
    let (mut found, mut after) = (Vec::new(), now);
    while found.len() < limit
        && let Some(nominal) = times.next_after(after)
    {
        let seen = seen_until(nominal);
        after = seen.unwrap_or(nominal);
        found.extend(seen.is_none().then_some(nominal));
    }
    found
}

/// That there is no such schedule, and which is like it.
fn no_schedule<'a>(text: &str, rows: impl Iterator<Item = &'a ScheduleRow>) -> AnswerError {
    let standing = rows.filter(|row| row.state != ScheduleState::Retired).take(COMPARED_MAX);
    let names: Vec<String> = standing.map(shown_name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let near = crate::config::nearest(text, &names);
    let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    AnswerError::NotFound(format!(
        "there is no schedule {text:?}{hint}; `axwatch schedule list` shows those that there are"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::{Grid, LocalId, Missed, Overlap, ScheduleId, StoreId};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(grid: Grid, seen: &[(&str, &str)]) -> ScheduleRow {
        let name: LocalId = "nightly".parse().unwrap();
        let anchor = at("2024-01-15T00:00:00Z");
        ScheduleRow {
            id: ScheduleId::of(StoreId([1; 16]), &Owner::User, &name),
            owner: Owner::User,
            name,
            handler: "zoo/work".into(),
            grid,
            anchor,
            payload: None,
            missed: Missed::Once,
            overlap: Overlap::Skip,
            jitter_secs: 0,
            enabled_by_default: true,
            description: String::new(),
            ats_code: String::new(),
            metadata: None,
            by_call: true,
            state: ScheduleState::Active,
            declared_at: anchor,
            changed_at: anchor,
            retired_at: None,
            was_paused: false,
            seen: seen.iter().map(|(from, upto)| (at(from), at(upto))).collect(),
            last_nominal: None,
            last_run_at: None,
            last_job: None,
        }
    }

    #[test]
    fn the_next_times_are_those_of_the_grid_that_were_not_seen_to() {
        let hourly = || Grid::Every { secs: 3_600 };
        let berlin = Grid::Cron { text: "30 2 * * *".into(), tz: "Europe/Berlin".into() };
        let future = ("2024-01-15T02:00:00Z", "2024-01-15T03:30:00Z");
        // (the schedule, the two next times after half past midnight)
        let cases = [
            (schedule(hourly(), &[]), vec!["2024-01-15T01:00:00Z", "2024-01-15T02:00:00Z"]),
            // The clock was set back: what lies ahead has run already.
            (schedule(hourly(), &[future]), vec!["2024-01-15T01:00:00Z", "2024-01-15T04:00:00Z"]),
            (schedule(berlin, &[]), vec!["2024-01-15T01:30:00Z", "2024-01-16T01:30:00Z"]),
            (schedule(Grid::Every { secs: 0 }, &[]), vec![]),
        ];
        for (row, expected) in cases {
            let found = next_times(&row, at("2024-01-15T00:30:00Z"), 2);
            assert_eq!(found, expected.into_iter().map(at).collect::<Vec<_>>(), "{:?}", row.grid);
        }
    }

    #[test]
    fn a_schedule_that_is_not_there_is_told_with_the_nearest() {
        let rows = [schedule(Grid::Every { secs: 60 }, &[])];
        let told = |text: &str| no_schedule(text, rows.iter()).to_string();
        assert!(told("nigthly").contains("did you mean nightly?"));
        assert!(!told("weather").contains("did you mean"));
    }
}
