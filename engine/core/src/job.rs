//! A job's life: from how an attempt ended to what comes next.

use std::time::Duration;

use axwatch_model::{JobId, JobRow, Timestamp};

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

/// Decides what follows from the end of an attempt. `alone` says of a lost attempt that its plugin
/// had nothing else under way, so that the crash is this job's.
#[must_use]
pub fn after(
    outcome: &Outcome,
    row: &JobRow,
    alone: bool,
    policy: &RetryPolicy,
    now: Timestamp,
) -> Verdict {
    match outcome {
        Outcome::Succeeded { .. } => verdict("succeeded", false, Next::Done),
        Outcome::Permanent { error } => verdict("failed", true, Next::Dead(error.clone())),
        Outcome::Retryable { .. } => verdict("failed", true, counted(row, policy, now)),
        Outcome::Lost { .. } if alone => verdict("unknown", true, counted(row, policy, now)),
        Outcome::Lost { .. } => verdict("unknown", false, uncounted(row, policy)),
        Outcome::NoHandler { .. } => {
            verdict("not_now", false, Next::Again(policy.no_handler_delay))
        }
        Outcome::NotNow { after, .. } => {
            let delay = after.unwrap_or_else(|| jittered(policy.delay_first, row.id, row.attempts));
            verdict("not_now", false, Next::Again(delay.min(policy.not_now_max)))
        }
    }
}

fn verdict(outcome: &'static str, counted: bool, next: Next) -> Verdict {
    Verdict { outcome, counted, next }
}

fn counted(row: &JobRow, policy: &RetryPolicy, now: Timestamp) -> Next {
    let attempts = row.counted + 1;
    let age = row.first_counted_at.map_or(Duration::ZERO, |first| now.since(first));
    if attempts >= policy.counted_max {
        return Next::Dead(format!("{attempts} attempts failed"));
    }
    if age >= policy.age_max {
        return Next::Dead(format!("attempts failed for {} hours", age.as_secs() / 3_600));
    }
    let doubled =
        policy.delay_first.saturating_mul(1_u32.checked_shl(row.counted).unwrap_or(u32::MAX));
    Next::Again(jittered(doubled.min(policy.delay_max), row.id, row.attempts))
}

fn uncounted(row: &JobRow, policy: &RetryPolicy) -> Next {
    let attempts = row.uncounted + 1;
    if attempts >= policy.uncounted_max {
        return Next::Dead(format!("{attempts} attempts ended without an answer"));
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
    use axwatch_model::{JobNumber, JobOrigin, JobState};

    fn row(counted: u32, uncounted: u32, first_counted_h_ago: Option<i64>) -> JobRow {
        let now = NOW_MS;
        JobRow {
            number: JobNumber(1),
            id: JobId([3; 16]),
            origin: JobOrigin::Api,
            watcher: None,
            revision: 0,
            generation: 0,
            seq: None,
            handler: "h".into(),
            plugin: None,
            payload: None,
            state: JobState::Running,
            attempts: counted + uncounted + 1,
            counted,
            uncounted,
            created_at: at(0),
            first_counted_at: first_counted_h_ago.map(|h| at(now - h * 3_600_000)),
            started_at: None,
            completed_at: None,
            due_at: None,
            delay_ms: 0,
            error: None,
            result: None,
            progress: None,
            cost: None,
            leaves: Vec::new(),
        }
    }

    const NOW_MS: i64 = 1_800_000_000_000;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms).unwrap()
    }

    fn busy() -> Outcome {
        Outcome::Retryable { error: "busy".into(), missed_deadline: false }
    }

    /// The shape of what comes next: `done`, `dead`, or the wait within what jitter allows.
    fn check(outcome: Outcome, row: JobRow, alone: bool, expected: &str) {
        let verdict = after(&outcome, &row, alone, &RetryPolicy::default(), at(NOW_MS));
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
        check(Outcome::Succeeded { result: None }, row(0, 0, None), false, "succeeded free done");
        check(
            Outcome::Permanent { error: "no".into() },
            row(0, 0, None),
            false,
            "failed counted dead",
        );
        check(busy(), row(0, 0, None), false, "failed counted again 1");
        check(busy(), row(3, 0, Some(1)), false, "failed counted again 8");
        check(busy(), row(20, 0, Some(1)), false, "failed counted again 1800");
        check(busy(), row(29, 0, Some(1)), false, "failed counted dead");
        check(busy(), row(2, 0, Some(23)), false, "failed counted again 4");
        check(busy(), row(2, 0, Some(24)), false, "failed counted dead");
        check(lost(), row(0, 0, None), true, "unknown counted again 1");
        check(lost(), row(29, 0, None), true, "unknown counted dead");
        check(lost(), row(0, 5, None), false, "unknown free again 0");
        check(lost(), row(0, 99, None), false, "unknown free dead");
        check(
            not_now(Some(Duration::from_secs(90))),
            row(29, 99, Some(99)),
            false,
            "not_now free again 90",
        );
        check(
            not_now(Some(Duration::from_secs(90_000))),
            row(0, 0, None),
            false,
            "not_now free again 86400",
        );
        check(not_now(None), row(0, 0, None), false, "not_now free again 1");
        check(
            Outcome::NoHandler { error: String::new() },
            row(0, 0, None),
            false,
            "not_now free again 10",
        );
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
