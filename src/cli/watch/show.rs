//! How watchers are shown to people: in a line of a list, in a sentence, and whole.

use std::time::Duration;

use anyhow::Result;
use axwatch_model::WatcherState;

use crate::output::{Output, TablePage, counted, or_dash, span, watcher_style};
use crate::source::parse;
use crate::views::{
    JobCounts, Pass, PassKind, PastHold, Position, ShownWatcher, Watcher, when_in_words,
};

/// The titles of a list.
pub const TITLES: &[&str] = &[
    "ID",
    "STATE",
    "#REV",
    "WHEN",
    "HANDLERS",
    "#RATE",
    "#MATCHES",
    "#FIRES",
    "#ERRORS",
    "LAST FIRED",
    "ERROR",
];

/// A page of a list.
pub fn list(out: &mut Output, table: &mut TablePage, lines: &[String]) -> Result<()> {
    for line in lines {
        if out.json {
            out.line(line)?;
            continue;
        }
        let watcher: Watcher = parse(line)?;
        let style = watcher_style(watcher.state);
        let doing = doing(&watcher);
        let cells = vec![
            watcher.id,
            doing,
            watcher.revision.to_string(),
            when_in_words(&watcher.when),
            watcher.handlers.join(", "),
            or_dash(watcher.max_fires_per_second),
            watcher.matches.to_string(),
            watcher.fires.to_string(),
            watcher.errors.to_string(),
            or_dash(watcher.last_fired_at),
            watcher.error.unwrap_or_default(),
        ];
        table.row(style, cells);
    }
    out.table(table)?;
    out.flush()
}

/// What a watcher is doing, in a few words.
pub fn doing(watcher: &Watcher) -> String {
    let mut words = match (watcher.state, &watcher.hold) {
        (WatcherState::Muted, Some(hold)) => match hold.until {
            Some(until) => format!("muted until {until}"),
            None => "muted".to_owned(),
        },
        (WatcherState::WaitingForHandler, _) => "waiting for handler".to_owned(),
        (WatcherState::CatchingUp, _) => match &watcher.position {
            Some(Position { backpressured: true, .. }) => "backpressured".to_owned(),
            _ => "catching up".to_owned(),
        },
        (state, _) => state.to_string(),
    };
    if watcher.hold.is_some_and(|hold| hold.drops) {
        words.push_str(", lets go");
    }
    if let Some(Position { seq, head, .. }) = watcher.position {
        words.push_str(&format!(", at seq {seq} of {head}"));
    }
    if let Some(replay) = watcher.replay {
        words.push_str(&format!(", replays seq {} of {}", replay.seq, replay.to));
    }
    words
}

/// A watcher, whole.
pub fn show(out: &mut Output, shown: &ShownWatcher) -> Result<()> {
    if out.json {
        return out.object(shown);
    }
    let watcher = &shown.watcher;
    let style = watcher_style(watcher.state);
    let rate = watcher.max_fires_per_second;
    let present = shown.holds.first().filter(|hold| hold.ended_at.is_none());
    out.fields(&[
        ("watcher", watcher.id.clone()),
        ("owner", watcher.owner.clone()),
        ("state", format!("{style}{}{style:#}", doing(watcher))),
        ("revision", watcher.revision.to_string()),
        ("when", when_in_words(&watcher.when)),
        ("handlers", watcher.handlers.join("\n")),
        ("at most", rate.map_or("no limit".to_owned(), |rate| format!("{rate} a second"))),
        ("gives up", gives_up(watcher)),
        ("sees", format!("claims from seq {} on", watcher.first_seq)),
        ("behind", behind(watcher)),
        ("replay", replaying(watcher)),
        ("held", present.map(held).unwrap_or_default()),
        ("matches", watcher.matches.to_string()),
        ("fires", watcher.fires.to_string()),
        ("errors", watcher.errors.to_string()),
        ("open jobs", watcher.open_jobs.map(|jobs| jobs.to_string()).unwrap_or_default()),
        ("last fired", or_dash(watcher.last_fired_at)),
        ("error", watcher.error.clone().unwrap_or_default()),
    ])?;
    let past: Vec<_> = shown.holds.iter().filter(|hold| hold.ended_at.is_some()).collect();
    if !past.is_empty() {
        out.heading("held before")?;
        past.into_iter().try_for_each(|hold| out.line(&held(hold)))?;
    }
    if !shown.passes.is_empty() {
        out.heading("ways over the log")?;
        shown.passes.iter().try_for_each(|pass| out.line(&passed(pass)))?;
    }
    Ok(())
}

/// When its jobs are given up, where that is its own.
fn gives_up(watcher: &Watcher) -> String {
    let attempts = watcher.max_attempts.map(|n| counted(u64::from(n), "attempt"));
    let age = watcher.max_age_ms.map(|ms| span(Duration::from_millis(ms)));
    let limits: Vec<_> = attempts.into_iter().chain(age).collect();
    if limits.is_empty() { String::new() } else { format!("after {}", limits.join(" or ")) }
}

fn behind(watcher: &Watcher) -> String {
    let Some(position) = watcher.position else { return String::new() };
    let claims = counted(position.behind, "claim");
    if !position.backpressured {
        return claims;
    }
    let jobs = watcher.open_jobs.map(|jobs| format!(" {jobs}")).unwrap_or_default();
    format!("{claims}; it goes on when fewer of its{jobs} jobs are open")
}

fn replaying(watcher: &Watcher) -> String {
    let Some(replay) = watcher.replay else { return String::new() };
    let waits =
        if replay.backpressured { "; it goes on when fewer of its jobs are open" } else { "" };
    format!(
        "generation {}: seq {} to {}, at {}, {} left{waits}",
        replay.generation,
        replay.from,
        replay.to,
        replay.seq,
        counted(replay.left, "claim")
    )
}

/// What a hold held, and what became of it.
fn held(hold: &PastHold) -> String {
    let mut told = match hold.ended_at {
        None => format!("{} since {}", hold.kind, hold.at),
        Some(ended) => format!("{} {} to {ended}", hold.kind, hold.at),
    };
    if let (Some(until), None) = (hold.until, hold.ended_at) {
        told.push_str(&format!(" until {until}"));
    }
    let least = if hold.held_at_least { "at least " } else { "" };
    let fires = format!("{least}{}", counted(hold.held, "fire"));
    let became = became(&hold.jobs);
    told.push_str(&match (hold.held, hold.drops) {
        (0, _) if hold.ended_at.is_none() => ": no fires so far".to_owned(),
        (0, _) => ": no fires".to_owned(),
        (_, true) => format!(": {fires} let go ({became})"),
        (_, false) => format!(": {fires} held ({became})"),
    });
    if hold.unseen > 0 {
        told.push_str(&format!(
            "; {} of that time to be looked at yet",
            counted(hold.unseen, "claim")
        ));
    }
    told
}

/// How many jobs are in which state.
fn became(jobs: &JobCounts) -> String {
    let counts = [
        (jobs.completed, "completed"),
        (jobs.running, "running"),
        (jobs.queued + jobs.paused, "waiting"),
        (jobs.failed, "dead"),
        (jobs.cancelled, "cancelled"),
    ];
    let told = counts.iter().filter(|(count, _)| *count > 0);
    told.map(|(count, state)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

/// A way over a part of the log, in a line.
fn passed(pass: &Pass) -> String {
    let Pass { generation, from, started_at, .. } = pass;
    let what = match (pass.kind, pass.to) {
        (PassKind::Replay, Some(to)) => {
            format!("replay of seq {from} to {to} (generation {generation})")
        }
        _ => format!("catching up from seq {from}"),
    };
    let ended = match (pass.ended_at, &pass.stopped, pass.seq) {
        (None, _, Some(seq)) => format!("under way, at seq {seq}"),
        (None, ..) => "under way".to_owned(),
        (Some(ended), Some(why), _) => format!("ended {ended} before its end: {why}"),
        (Some(ended), None, _) => format!("ended {ended}"),
    };
    format!("{what}, begun {started_at}, {ended}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::Seq;

    fn hold() -> PastHold {
        PastHold {
            kind: WatcherState::Muted,
            drops: false,
            at: "2024-05-15T14:30:00Z".parse().unwrap(),
            until: Some("2024-05-16T00:00:00Z".parse().unwrap()),
            ended_at: None,
            from: Seq(11),
            to: None,
            held: 3,
            held_at_least: false,
            jobs: JobCounts { queued: 3, ..JobCounts::default() },
            unseen: 0,
        }
    }

    #[test]
    fn a_hold_tells_what_it_held_and_what_became_of_it() {
        let ended = "2024-05-16T00:00:00Z".parse().ok();
        let jobs = JobCounts { completed: 1, queued: 1, failed: 1, ..JobCounts::default() };
        let let_go = JobCounts { cancelled: 3, ..JobCounts::default() };
        let begun = "muted since 2024-05-15T14:30:00Z until 2024-05-16T00:00:00Z";
        let over = "muted 2024-05-15T14:30:00Z to 2024-05-16T00:00:00Z";
        let cases = [
            (hold(), format!("{begun}: 3 fires held (3 waiting)")),
            (PastHold { held: 0, ..hold() }, format!("{begun}: no fires so far")),
            (PastHold { held: 0, ended_at: ended, ..hold() }, format!("{over}: no fires")),
            (
                PastHold { drops: true, jobs: let_go, ..hold() },
                format!("{begun}: 3 fires let go (3 cancelled)"),
            ),
            (
                PastHold { ended_at: ended, jobs, unseen: 2, ..hold() },
                format!(
                    "{over}: 3 fires held (1 completed, 1 waiting, 1 dead); 2 claims of that time to be looked at yet"
                ),
            ),
            (
                PastHold { held_at_least: true, ..hold() },
                format!("{begun}: at least 3 fires held (3 waiting)"),
            ),
        ];
        for (hold, expected) in cases {
            assert_eq!(held(&hold), expected);
        }
    }
}
