//! One fire on one line, in columns whose places are settled before the first one comes.
//!
//! On a terminal long texts are cut so that nothing moves; elsewhere they are whole, because somebody
//! may look for them.

use std::collections::VecDeque;

use anstyle::{AnsiColor, Style};
use axwatch_model::{JobId, JobState};

use crate::output::{cut, job_style, or_dash, span};
use crate::views::Fire;

/// Characters of the narrow columns.
const STATE: usize = 9;
const TOOK: usize = 8;
const TRY: usize = 3;
/// A time with its milliseconds, and, on a narrow terminal, without.
const TIME_WIDE: usize = 12;
const TIME_NARROW: usize = 8;
/// A terminal with fewer columns is narrow.
const WIDE_FROM: usize = 100;
/// Hex digits of a job's id that are shown on a terminal: enough for `axwatch why`.
const JOB: usize = 8;
/// The widest that a watcher and a claim become.
const WATCHER_MAX: usize = 24;
const CLAIM_MAX: usize = 36;
/// What an error has at least.
const ERROR_MIN: usize = 12;
/// Told changes that are kept, so that none is told twice.
const KEPT: usize = 256;

/// Tells fires.
pub struct Teller {
    time: usize,
    watcher: usize,
    claim: usize,
    error: usize,
    is_cut: bool,
    told: VecDeque<(JobId, JobState, u32)>,
}

impl Teller {
    /// For a terminal with so many columns, or none.
    pub fn new(columns: Option<usize>) -> Teller {
        let Some(columns) = columns else {
            let (watcher, claim, error) = (WATCHER_MAX, CLAIM_MAX, usize::MAX);
            let (time, told) = (TIME_WIDE, VecDeque::new());
            return Teller { time, watcher, claim, error, is_cut: false, told };
        };
        // Two blanks after each of the seven columns before the error.
        let time = if columns < WIDE_FROM { TIME_NARROW } else { TIME_WIDE };
        let narrow = time + STATE + TOOK + TRY + JOB + 7 * 2;
        let rest = columns.saturating_sub(narrow + ERROR_MIN);
        let watcher = (rest * 2 / 5).clamp(8, WATCHER_MAX);
        let claim = rest.saturating_sub(watcher).clamp(8, CLAIM_MAX);
        let error = columns.saturating_sub(narrow + watcher + claim).max(ERROR_MIN);
        Teller { time, watcher, claim, error, is_cut: true, told: VecDeque::new() }
    }

    /// What stands above the columns.
    pub fn title(&self) -> String {
        let bold = Style::new().bold();
        let Teller { time, watcher, claim, .. } = self;
        let job = self.job_chars();
        let titles = format!(
            "{:time$}  {:watcher$}  {:STATE$}  {:claim$}  {:>TOOK$}  {:>TRY$}  {:job$}  ERROR",
            "FIRED", "WATCHER", "STATE", "CLAIM", "TOOK", "TRY", "JOB"
        );
        format!("{bold}{titles}{bold:#}")
    }

    /// The line of a fire; `None` when just that has been told.
    pub fn tell(&mut self, fire: &Fire) -> Option<String> {
        let change = (fire.job_id, fire.state, fire.attempts);
        if self.told.contains(&change) {
            return None;
        }
        if self.told.len() == KEPT {
            self.told.pop_front();
        }
        self.told.push_back(change);
        Some(self.line(fire))
    }

    fn line(&self, fire: &Fire) -> String {
        let (state, dim) = (job_style(fire.state), Style::new().dimmed());
        let red = AnsiColor::Red.on_default().dimmed();
        let time = fire.created_at.to_string();
        // Without the day, and always with milliseconds, so that all are equally long.
        let time = time.split_once('T').map_or(&*time, |(_, time)| time).trim_end_matches('Z');
        let mut time = if time.contains('.') { time.to_owned() } else { format!("{time}.000") };
        time.truncate(self.time);
        let watcher = self.fit(&fire.watcher, self.watcher);
        let claim = self.fit(&or_dash(fire.attestation_id.as_ref()), self.claim);
        let took = fire.completed_at.map(|ended| span(ended.since(fire.created_at)));
        let took = took.unwrap_or_default().replace(' ', "");
        let job = fire.job_id.to_string();
        let job = &job[..self.job_chars()];
        let shown_state = fire.state.to_string();
        let attempts = fire.attempts;
        let mut line = format!(
            "{dim}{time}{dim:#}  {watcher}  {state}{shown_state:STATE$}{state:#}  {claim}  {took:>TOOK$}  {attempts:>TRY$}  {dim}{job}{dim:#}"
        );
        if let Some(error) = &fire.error {
            line.push_str(&format!("  {red}{}{red:#}", cut(error, self.error)));
        }
        line
    }

    /// The text in a column of this width.
    fn fit(&self, text: &str, width: usize) -> String {
        let text = cut(text, if self.is_cut { width } else { usize::MAX });
        format!("{text:width$}")
    }

    fn job_chars(&self) -> usize {
        if self.is_cut { JOB } else { 32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::Timestamp;

    fn fire(watcher: &str, claim: &str, state: JobState, error: Option<&str>) -> Fire {
        let at = |ms: i64| Timestamp::from_ms(1_750_000_000_000 + ms).unwrap();
        Fire {
            job_id: "3ea27c14d1c994b3bc463569ba5fdcae".parse().unwrap(),
            watcher: watcher.into(),
            attestation_id: Some(claim.parse().unwrap()),
            seq: None,
            handler: "h".into(),
            state,
            attempts: 1,
            created_at: at(0),
            completed_at: (!state.is_open()).then(|| at(1_500)),
            error: error.map(str::to_owned),
        }
    }

    fn plain(line: &str) -> String {
        anstream::adapter::strip_str(line).to_string()
    }

    #[test]
    fn nothing_moves_on_a_terminal() {
        for columns in [80, 100, 200] {
            let mut teller = Teller::new(Some(columns));
            let title = plain(&teller.title());
            let state_at = title.find("STATE").unwrap();
            let job_at = title.chars().position(|c| c == 'J').unwrap();
            let cases = [
                fire("w", "AS-1", JobState::Queued, None),
                fire(&"long".repeat(20), &"ID".repeat(90), JobState::Completed, None),
                fire("a", "AS-2", JobState::Failed, Some("it broke\nbadly")),
            ];
            for fire in cases {
                let line = plain(&teller.tell(&fire).unwrap());
                let state: String = line.chars().skip(state_at).take(6).collect();
                assert!(fire.state.to_string().starts_with(state.trim()), "{columns}: {line}");
                let job: String = line.chars().skip(job_at).take(JOB).collect();
                assert_eq!(job, "3ea27c14", "{columns}: {line}");
                assert!(!line.contains('\n') && line.chars().count() <= columns, "{line}");
            }
        }
    }

    #[test]
    fn elsewhere_all_is_told_and_nothing_twice() {
        let mut teller = Teller::new(None);
        let long = "x".repeat(200);
        let fire = fire("watcher", "AS-1", JobState::Failed, Some(&long));
        let line = plain(&teller.tell(&fire).unwrap());
        assert!(line.contains("3ea27c14d1c994b3bc463569ba5fdcae") && line.ends_with(&long));
        assert!(line.starts_with("15:06:40.000") && line.contains("1.5s"), "{line}");
        assert_eq!(teller.tell(&fire), None);
    }
}
