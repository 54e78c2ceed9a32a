//! A job's life: from how an attempt ended to what comes next.

use std::time::Duration;

use axwatch_model::{JobId, JobRow};

use crate::outcome::Outcome;
use crate::policy::RetryPolicy;

/// What follows from the end of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What the audit calls it.
    pub outcome: &'static str,
    /// Whether the attempt counts against the bound of retries.
    pub counted: bool,
    /// Where the job goes.
    pub next: Next,
}

/// Where a job goes after an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// It is done.
    Done,
    /// Another attempt, so much later.
    Again(Duration),
    /// It is given up, for this reason.
    Dead(String),
}

/// Whose doing it was that an attempt was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostBy {
    /// Its plugin had nothing else under way: the crash is this job's.
    Itself,
    /// Something else was under way at its plugin, or the plugin was told to go.
    Others,
    /// The engine ended under it.
    Engine,
}

/// Decides what follows from the end of an attempt, by whom it was lost if it was, for a job that has
/// been failing for `age`. It is given up after `attempts_max` counted attempts or at `age_max`.
#[must_use]
pub fn after(
    outcome: &Outcome,
    row: &JobRow,
    lost_by: LostBy,
    age: Duration,
    (attempts_max, age_max): (u32, Duration),
    policy: &RetryPolicy,
) -> Verdict {
    let counted = || match given_up(row.counted + 1, age, attempts_max, age_max) {
        Some(reason) => Next::Dead(reason),
        None => Next::Again(delay(row, policy)),
    };
    match outcome {
        Outcome::Succeeded { .. } => verdict("succeeded", false, Next::Done),
        Outcome::Permanent { error } => verdict("failed", true, Next::Dead(error.clone())),
        Outcome::Retryable { .. } => verdict("failed", true, counted()),
        Outcome::Lost { .. } => match lost_by {
            LostBy::Itself => verdict("unknown", true, counted()),
            LostBy::Others => verdict("unknown", false, Next::Again(Duration::ZERO)),
            LostBy::Engine => verdict("unknown", false, uncounted(row, policy)),
        },
        Outcome::NoHandler { .. } => {
            verdict("not_now", false, Next::Again(policy.no_handler_delay))
        }
        Outcome::NotNow { after, .. } => {
            let delay = after.unwrap_or_else(|| jittered(policy.delay_first, row.id, row.attempts));
            verdict(
                "not_now",
                false,
                Next::Again(delay.clamp(policy.not_now_min, policy.not_now_max)),
            )
        }
    }
}

fn verdict(outcome: &'static str, counted: bool, next: Next) -> Verdict {
    Verdict { outcome, counted, next }
}

/// Why a job is given up after so many counted attempts, if it is.
fn given_up(attempts: u32, age: Duration, attempts_max: u32, age_max: Duration) -> Option<String> {
    if attempts >= attempts_max {
        let failed = if attempts == 1 { "attempt failed" } else { "attempts failed" };
        return Some(format!("{attempts} {failed}"));
    }
    (age >= age_max).then(|| match age.as_secs() {
        seconds @ ..120 => format!("attempts failed for {seconds} seconds"),
        seconds @ 120..7_200 => format!("attempts failed for {} minutes", seconds / 60),
        seconds => format!("attempts failed for {} hours", seconds / 3_600),
    })
}

/// How long a job waits after a counted attempt.
fn delay(row: &JobRow, policy: &RetryPolicy) -> Duration {
    let doubled =
        policy.delay_first.saturating_mul(1_u32.checked_shl(row.counted).unwrap_or(u32::MAX));
    jittered(doubled.min(policy.delay_max), row.id, row.attempts)
}

fn uncounted(row: &JobRow, policy: &RetryPolicy) -> Next {
    let attempts = row.uncounted + 1;
    if attempts >= policy.uncounted_max {
        return Next::Dead(format!("the engine ended under {attempts} attempts"));
    }
    Next::Again(Duration::ZERO)
}

/// The delay times 0.75 to 1.25, by the job and its attempt: spread out, and the same on every run.
fn jittered(delay: Duration, id: JobId, attempt: u32) -> Duration {
    let seed = u64::from_be_bytes(id.0[8..].try_into().expect("8 of 16 bytes"));
    let mixed = mix(seed ^ u64::from(attempt).rotate_left(32));
    delay.mul_f64(0.75 + (mixed >> 11) as f64 / (1_u64 << 53) as f64 / 2.0)
}

/// A good mixing of 64 bits (the finaliser of SplitMix64).
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::{JobNumber, JobOrigin, JobState, Timestamp};

    fn row(counted: u32, uncounted: u32) -> JobRow {
        let row = JobRow::queued(
            JobNumber(1),
            JobId([3; 16]),
            JobOrigin::Api,
            "h".into(),
            Timestamp::default(),
        );
        let attempts = counted + uncounted + 1;
        JobRow { state: JobState::Running, attempts, counted, uncounted, ..row }
    }

    fn busy() -> Outcome {
        Outcome::Retryable { error: "busy".into(), missed_deadline: false }
    }

    /// The shape of what comes next: `done`, `dead`, or the wait within what jitter allows.
    fn check(outcome: Outcome, row: JobRow, lost_by: LostBy, age_h: u64, expected: &str) {
        let age = Duration::from_secs(age_h * 3_600);
        let policy = RetryPolicy::default();
        let limits = (policy.counted_max, policy.age_max);
        let verdict = after(&outcome, &row, lost_by, age, limits, &policy);
        let next = match verdict.next {
            Next::Done => "done".to_owned(),
            Next::Dead(_) => "dead".to_owned(),
            Next::Again(delay) => {
                let base = expected.rsplit(' ').next().unwrap().parse::<f64>().unwrap_or(0.0);
                let near = (base * 0.75..=base * 1.25).contains(&delay.as_secs_f64());
                if near { format!("again {base}") } else { format!("again after {delay:?}") }
            }
        };
        let counted = if verdict.counted { "counted" } else { "free" };
        assert_eq!(format!("{} {counted} {next}", verdict.outcome), expected, "{outcome:?}");
    }

    #[test]
    fn outcome_decides_what_comes_next() {
        let not_now = |s| Outcome::NotNow { after: s, error: String::new(), overloaded: false };
        let lost = || Outcome::Lost { error: "gone".into() };
        let succeeded = || Outcome::Succeeded { result: None };
        let permanent = || Outcome::Permanent { error: "no".into() };
        let no_handler = || Outcome::NoHandler { error: String::new() };
        let later = |s| not_now(Some(Duration::from_secs(s)));
        use LostBy::{Engine, Itself, Others};
        check(succeeded(), row(0, 0), Others, 0, "succeeded free done");
        check(permanent(), row(0, 0), Others, 0, "failed counted dead");
        check(busy(), row(0, 0), Others, 0, "failed counted again 1");
        check(busy(), row(3, 0), Others, 1, "failed counted again 8");
        check(busy(), row(20, 0), Others, 1, "failed counted again 1800");
        check(busy(), row(29, 0), Others, 1, "failed counted dead");
        check(busy(), row(2, 0), Others, 23, "failed counted again 4");
        check(busy(), row(2, 0), Others, 24, "failed counted dead");
        check(lost(), row(0, 0), Itself, 0, "unknown counted again 1");
        check(lost(), row(29, 0), Itself, 0, "unknown counted dead");
        check(lost(), row(0, 99), Others, 0, "unknown free again 0");
        check(lost(), row(0, 5), Engine, 0, "unknown free again 0");
        check(lost(), row(0, 99), Engine, 0, "unknown free dead");
        check(later(90), row(29, 99), Others, 99, "not_now free again 90");
        check(later(90_000), row(0, 0), Others, 0, "not_now free again 86400");
        check(not_now(None), row(0, 0), Others, 0, "not_now free again 1");
        check(later(0), row(0, 0), Others, 0, "not_now free again 0.1");
        check(no_handler(), row(0, 0), Others, 0, "not_now free again 10");
    }

    #[test]
    fn whoever_gives_up_says_why() {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        let seconds = Duration::from_secs;
        // (attempts, age, at most so many, at most so old, the reason)
        let cases = [
            (1, hours(0), 30, hours(24), None),
            (1, hours(0), 1, hours(24), Some("1 attempt failed")),
            (30, hours(1), 30, hours(24), Some("30 attempts failed")),
            (2, hours(25), 30, hours(24), Some("attempts failed for 25 hours")),
            (2, seconds(150), 30, seconds(120), Some("attempts failed for 2 minutes")),
            (2, seconds(30), 30, seconds(30), Some("attempts failed for 30 seconds")),
            (2, seconds(29), 30, seconds(30), None),
        ];
        for (attempts, age, attempts_max, age_max, reason) in cases {
            assert_eq!(given_up(attempts, age, attempts_max, age_max).as_deref(), reason);
        }
    }

    #[test]
    fn jitter_spreads_and_repeats() {
        let delays: Vec<_> = (1..200)
            .map(|attempt| jittered(Duration::from_secs(100), JobId([9; 16]), attempt))
            .collect();
        let (min, max) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(min.as_secs() >= 75 && min.as_secs() < 80, "{min:?}");
        assert!(max.as_secs() <= 125 && max.as_secs() > 120, "{max:?}");
        assert_eq!(delays[0], jittered(Duration::from_secs(100), JobId([9; 16]), 1));
    }
}
