//! Why a fire is where it is, beyond its filter: the reasons that `why` and `why-not` tell alike.
//!
//! In: rows. Out: a stable name for programs and a sentence for people, with the command that helps.
//! `docs/cli.md` lists the names. What a job waits for at this moment only a server knows (`super::waits`).

use axwatch_model::{
    HoldRow, JobId, JobState, PassRow, Seq, Timestamp, WatcherKey, WatcherRow, WatcherState,
};

use crate::output::{counted, quoted, span};
use crate::views::{LoopStop, Reason};

/// How the error of a job begins that was let go.
const LET_GO: &str = "let go: ";
/// How the error of a job begins that was a dead letter.
const DISCARDED: &str = "discarded: ";

fn reason(kind: &str, message: String) -> Reason {
    Reason { kind: kind.to_owned(), message }
}

/// Whether a job was let go when its watcher was held.
pub(super) fn was_let_go(state: JobState, error: Option<&str>) -> bool {
    state == JobState::Cancelled && error.is_some_and(|error| error.starts_with(LET_GO))
}

/// Why a job ended without having been done.
pub(super) fn of_end(
    job: JobId,
    state: JobState,
    attempts: u32,
    error: Option<&str>,
) -> Option<Reason> {
    let error = error.unwrap_or("no reason was given");
    let again = format!("`axwatch jobs retry {job}` tries it under the same id");
    Some(match state {
        JobState::Failed => {
            let attempts = counted(u64::from(attempts), "attempt");
            let told = format!("job {job} was given up after {attempts}: {error}; {again}");
            reason("dead_letter", told)
        }
        JobState::Cancelled => match (error.strip_prefix(LET_GO), error.strip_prefix(DISCARDED)) {
            (Some(because), _) => {
                reason("let_go", format!("job {job} was let go, because {because}; {again}"))
            }
            (_, Some(error)) => {
                reason("discarded", format!("job {job} was discarded: {error}; {again}"))
            }
            _ => reason("cancelled", format!("job {job} was withdrawn: {error}")),
        },
        _ => return None,
    })
}

/// That a budget held a job back from one moment to another, or does yet.
pub(super) fn of_budget(
    budget: &str,
    limit: &str,
    from: Timestamp,
    until: Option<Timestamp>,
) -> Reason {
    let told = match until {
        Some(until) => {
            let held = span(until.since(from));
            format!("budget {limit} of {budget} held it for {held}, from {from} to {until}")
        }
        None => format!(
            "budget {limit} of {budget} held it since {from}; `axwatch budget show` says what of it is used"
        ),
    };
    reason("budget_held", told)
}

/// What holds the fires of a watcher.
pub(super) fn of_hold(watcher: &WatcherKey, hold: &HoldRow) -> Reason {
    let shown = quoted(&watcher.to_string());
    match hold.until.filter(|_| hold.kind == WatcherState::Muted) {
        Some(until) => reason(
            "watcher_muted",
            format!("its watcher is muted until {until}; `axwatch watch unmute {shown}` ends that"),
        ),
        None => reason(
            "watcher_paused",
            format!(
                "its watcher is paused since {}; `axwatch watch resume {shown}` lets it go on",
                hold.at
            ),
        ),
    }
}

/// What a replay has to do with the claim with this number; `place` is how far it is, if it is under way.
pub(super) fn of_replay(pass: &PassRow, place: Option<Seq>, seq: Seq) -> Option<Reason> {
    let to = pass.until_seq?;
    let from = pass.from_seq.next();
    if !(from..=to).contains(&seq) {
        return None;
    }
    let generation = pass.generation;
    Some(match (place.filter(|place| *place < seq), &pass.stopped) {
        (Some(place), _) => reason(
            "replay_under_way",
            format!(
                "a replay of seq {from} to {to} (generation {generation}) is under way, and has come to seq {place}"
            ),
        ),
        (None, Some(stopped)) => reason(
            "replay",
            format!(
                "a replay of seq {from} to {to} (generation {generation}) was begun {} and stopped: {stopped}",
                pass.started_at
            ),
        ),
        (None, None) => reason(
            "replay",
            format!(
                "a replay of seq {from} to {to} (generation {generation}) was begun {}",
                pass.started_at
            ),
        ),
    })
}

/// What is wrong with a watcher. What was declared last may be what is asked about, and is not what stands.
pub(super) fn of_watcher(watcher: &WatcherRow) -> Option<Reason> {
    let kind = match watcher.state {
        WatcherState::Broken => "broken",
        // Nothing else pauses a watcher with a reason.
        WatcherState::Paused => "loop_suspected",
        _ => "refused",
    };
    watcher.error.clone().map(|error| reason(kind, error))
}

/// That a watcher was stopped at a claim, which has this name.
pub(super) fn of_stop(stop: &LoopStop, claim: &str) -> Reason {
    let told = format!(
        "{} was stopped at {claim}, because {}; the chain: {}",
        stop.watcher,
        stop.reason,
        chain_in_words(&stop.chain)
    );
    reason("loop_stopped", told)
}

/// A chain of causes, the first one first.
pub(super) fn chain_in_words(chain: &[Option<String>]) -> String {
    let names = chain.iter().map(|watcher| watcher.as_deref().unwrap_or("a job without a watcher"));
    names.collect::<Vec<_>>().join(" → ")
}

/// Nobody carries jobs out.
pub(super) fn no_server() -> Reason {
    let told = "no server runs on the store; `axwatch serve` carries its jobs out";
    reason("no_server", told.to_owned())
}

/// That a watcher begins with a claim that was there before it.
pub(super) fn before_since(first: Seq) -> Reason {
    let told = format!("it was declared with --since, and its first claim is seq {first}");
    reason("before_since", told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::{CursorNumber, WatcherNumber};

    #[test]
    fn a_job_that_was_not_done_says_why() {
        let job: JobId = "3ea27c14d1c994b3bc463569ba5fdcae".parse().unwrap();
        // (state, error, the kind, what the message says)
        let cases = [
            (
                JobState::Failed,
                Some("no route"),
                Some(("dead_letter", "after 3 attempts: no route")),
            ),
            (
                JobState::Cancelled,
                Some("let go: the watcher was muted"),
                Some(("let_go", "because the watcher was muted")),
            ),
            (JobState::Cancelled, Some("discarded: no route"), Some(("discarded", ": no route;"))),
            (JobState::Cancelled, Some("watcher x was retired"), Some(("cancelled", "retired"))),
            (JobState::Completed, None, None),
            (JobState::Queued, Some("no route"), None),
        ];
        for (state, error, expected) in cases {
            let told = of_end(job, state, 3, error);
            assert_eq!(told.as_ref().map(|told| &*told.kind), expected.map(|(kind, _)| kind));
            let says = expected.map(|(_, says)| says);
            assert!(told.is_none_or(|told| told.message.contains(says.unwrap())), "{state}");
        }
        assert!(was_let_go(JobState::Cancelled, Some("let go: x")));
        assert!(!was_let_go(JobState::Queued, Some("let go: x")));
    }

    #[test]
    fn a_budget_is_told_with_how_long_it_held() {
        let at = |text: &str| text.parse().unwrap();
        let from = at("2024-01-15T14:30:00Z");
        let told = of_budget("zoo", "per_day", from, Some(at("2024-01-15T14:32:05Z"))).message;
        assert!(told.starts_with("budget per_day of zoo held it for 2 min 5 s, from"), "{told}");
        let told = of_budget("*", "calls_per_minute", from, None).message;
        assert!(told.starts_with("budget calls_per_minute of * held it since 2024"), "{told}");
    }

    #[test]
    fn a_replay_is_told_of_the_claims_that_it_covers() {
        let pass = |stopped: Option<&str>| PassRow {
            watcher: WatcherNumber(1),
            generation: 2,
            from_seq: Seq(4),
            until_seq: Some(Seq(9)),
            cursor: Some(CursorNumber(1)),
            started_at: Timestamp::from_ms(0).unwrap(),
            ended_at: None,
            stopped: stopped.map(str::to_owned),
        };
        let told = |stopped, place: Option<u64>, seq| {
            let told = of_replay(&pass(stopped), place.map(Seq), Seq(seq));
            told.map(|told| (told.kind, told.message))
        };
        assert_eq!(told(None, Some(6), 4), None);
        assert_eq!(told(None, None, 10), None);
        let (kind, message) = told(None, Some(6), 7).unwrap();
        assert_eq!(kind, "replay_under_way");
        assert!(message.contains("seq 5 to 9 (generation 2)") && message.ends_with("seq 6"));
        assert_eq!(told(None, Some(6), 6).unwrap().0, "replay");
        assert!(told(Some("a person"), None, 9).unwrap().1.ends_with("stopped: a person"));
    }
}
