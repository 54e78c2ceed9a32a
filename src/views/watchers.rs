//! A watcher as it is shown: what it is declared as, what it has done, and where it is.

use axwatch_engine::WatcherView as WatcherRows;
use axwatch_model::{HoldRow, PassRow, Seq, StructuralFilter, Timestamp, WatcherRow, WatcherState};
use axwatch_query::FoundBy;
use serde::{Deserialize, Serialize};

use super::JobCounts;

/// A watcher and what it has done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Watcher {
    /// As shown: `{owner}-{local id}`.
    pub id: String,
    /// `user` or a plugin.
    pub owner: String,
    /// What it is doing.
    pub state: WatcherState,
    /// 1 for the first declaration, one more for each change.
    pub revision: u64,
    /// That of its live fires; a replay has one of its own.
    pub generation: u32,
    /// What it waits for: AX text, or the lists of a registration as JSON.
    pub when: String,
    /// Who acts, as declared.
    pub handlers: Vec<String>,
    /// Fires a second; null is no limit.
    pub max_fires_per_second: Option<u32>,
    /// After so many counted attempts a job is given up; null is as for its handler.
    pub max_attempts: Option<u32>,
    /// After failing for so long a job is given up, in milliseconds; null is as for its handler.
    pub max_age_ms: Option<u64>,
    /// The first claim that it sees.
    pub first_seq: Seq,
    /// Claims that its filter held for.
    pub matches: u64,
    /// Jobs made.
    pub fires: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// Jobs that are queued or running; null without a server.
    pub open_jobs: Option<u64>,
    /// When it last fired.
    pub last_fired_at: Option<Timestamp>,
    /// Where it is, when it is behind the log; null when it is not.
    pub position: Option<Position>,
    /// The replay that is under way.
    pub replay: Option<Replay>,
    /// Since when its fires are held, and until when.
    pub hold: Option<Hold>,
    /// Why it is broken, refused, paused or waiting.
    pub error: Option<String>,
}

/// Where a watcher is that catches up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// It has seen the claims up to this one.
    pub seq: Seq,
    /// The last claim of the log.
    pub head: Seq,
    /// Claims between the two.
    pub behind: u64,
    /// It waits until fewer of its jobs are open.
    pub backpressured: bool,
}

/// A replay that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// That of its fires.
    pub generation: u32,
    /// Its first claim.
    pub from: Seq,
    /// Its last claim.
    pub to: Seq,
    /// It has seen the claims up to this one.
    pub seq: Seq,
    /// Claims that it has yet to see.
    pub left: u64,
    /// It waits until fewer of its jobs are open.
    pub backpressured: bool,
}

/// A time in which a watcher's fires are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// `paused` or `muted`.
    pub kind: WatcherState,
    /// What it holds is let go.
    pub drops: bool,
    /// When it began.
    pub at: Timestamp,
    /// When a mute ends.
    pub until: Option<Timestamp>,
}

impl Watcher {
    /// The view of a watcher, where this is the last claim of the log.
    pub fn of(view: &WatcherRows, head: Seq) -> Watcher {
        let row = &view.row;
        let position = view.position.map(|position| Position {
            seq: position.seq,
            head: head.max(position.seq),
            behind: head.0.saturating_sub(position.seq.0),
            backpressured: position.backpressured,
        });
        let replay = view.replay.map(|replay| Replay {
            generation: replay.generation,
            from: replay.from,
            to: replay.to,
            seq: replay.position.seq,
            left: replay.to.0.saturating_sub(replay.position.seq.0),
            backpressured: replay.position.backpressured,
        });
        let hold = view.hold.as_ref().map(|hold| {
            let HoldRow { kind, drops, at, until, .. } = *hold;
            Hold { kind, drops, at, until }
        });
        Watcher {
            id: row.key.to_string(),
            owner: row.key.owner.to_string(),
            state: row.state,
            revision: row.revision,
            generation: row.generation,
            when: row.declared.shown(),
            handlers: row.handlers.iter().map(|handler| handler.declared.to_string()).collect(),
            max_fires_per_second: row.max_fires_per_second,
            max_attempts: row.max_attempts,
            max_age_ms: row.max_age_ms,
            first_seq: row.since_seq.next(),
            matches: view.counters.matches,
            fires: view.counters.fires,
            errors: view.counters.errors,
            open_jobs: Some(view.open_jobs),
            last_fired_at: view.counters.last_fired_at,
            position,
            replay,
            hold,
            error: Watcher::error_of(row),
        }
    }

    /// The view of a watcher that no server runs: nobody counts its open jobs.
    pub fn offline(view: &WatcherRows, head: Seq) -> Watcher {
        Watcher { open_jobs: None, ..Watcher::of(view, head) }
    }

    /// Why it is broken, refused, paused or waiting.
    pub fn error_of(row: &WatcherRow) -> Option<String> {
        let nobody = row.handlers.iter().filter(|handler| handler.plugin.is_none());
        let nobody: Vec<&str> = nobody.map(|handler| &*handler.declared).collect();
        let waits = row.state == WatcherState::WaitingForHandler && !nobody.is_empty();
        let told = || format!("no running plugin answers for {}", nobody.join(", "));
        row.error.clone().or_else(|| waits.then(told))
    }
}

/// A watcher as it stands after its declaration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeclaredWatcher {
    /// The watcher.
    #[serde(flatten)]
    pub watcher: Watcher,
    /// Earlier claims that it looks at, as `since` said; null when that changed nothing, because it stood
    /// already or nobody said it.
    pub backlog: Option<u64>,
    /// By what it is found among all watchers. By `nothing`: every claim is held against it.
    pub found_by: FoundBy,
}

/// A watcher, and what lies behind it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShownWatcher {
    /// The watcher.
    #[serde(flatten)]
    pub watcher: Watcher,
    /// The times in which its fires were held, the last first; the present one is the first of them.
    pub holds: Vec<PastHold>,
    /// Its ways over parts of the log, the last first.
    pub passes: Vec<Pass>,
}

/// What a hold held, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastHold {
    /// `paused` or `muted`.
    pub kind: WatcherState,
    /// What it held was let go.
    pub drops: bool,
    /// When it began.
    pub at: Timestamp,
    /// When a mute was to end.
    pub until: Option<Timestamp>,
    /// When it ended; null: it has not.
    pub ended_at: Option<Timestamp>,
    /// The first claim whose fires it held.
    pub from: Seq,
    /// The last one; null: it goes on.
    pub to: Option<Seq>,
    /// Jobs that it held.
    pub held: u64,
    /// There are more of them than were counted.
    pub held_at_least: bool,
    /// What has become of them by now.
    pub jobs: JobCounts,
    /// Claims of that time that the watcher, which is behind, has not seen yet.
    pub unseen: u64,
}

/// A watcher's way over a part of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// `catch_up` or `replay`.
    pub kind: PassKind,
    /// That of its fires.
    pub generation: u32,
    /// The first claim.
    pub from: Seq,
    /// The last claim of a replay; null: it went on to the head of the log.
    pub to: Option<Seq>,
    /// The last claim that it has seen; null when it has ended.
    pub seq: Option<Seq>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended; null: it has not.
    pub ended_at: Option<Timestamp>,
    /// Why it ended before its end.
    pub stopped: Option<String>,
}

/// What a pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PassKind {
    /// To come to the head of the log.
    CatchUp,
    /// To fire again.
    Replay,
}

impl Pass {
    /// The view of a pass, where `seq` is where its cursor is.
    pub fn of(row: PassRow, seq: Option<Seq>) -> Pass {
        let kind = if row.until_seq.is_some() { PassKind::Replay } else { PassKind::CatchUp };
        Pass {
            kind,
            generation: row.generation,
            from: row.from_seq.next(),
            to: row.until_seq,
            seq,
            started_at: row.started_at,
            ended_at: row.ended_at,
            stopped: row.stopped,
        }
    }
}

/// `when` as people read it: the lists of a registration in words, and AX as it is.
pub fn when_in_words(when: &str) -> String {
    let lists = Some(when).filter(|when| when.starts_with('{'));
    let lists = lists.and_then(|json| serde_json::from_str::<StructuralFilter>(json).ok());
    lists.map(|lists| lists.in_words()).unwrap_or_else(|| when.to_owned())
}

/// What a replay would fire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayPreview {
    /// The watcher as shown.
    pub watcher: String,
    /// Its present revision, which is what is replayed.
    pub revision: u64,
    /// What that waits for.
    pub when: String,
    /// The first claim.
    pub from: Seq,
    /// The last claim.
    pub to: Seq,
    /// Claims from the one to the other.
    pub claims: u64,
    /// Those that it holds for.
    pub matches: u64,
    /// Who acts.
    pub handlers: Vec<String>,
    /// A fire for each handler of a match.
    pub fires: u64,
    /// Fires a second; null is no limit.
    pub max_fires_per_second: Option<u32>,
    /// How long the limit takes for them, in milliseconds; null without one.
    pub takes_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_told_in_words_and_ax_as_it_is() {
        let cases = [
            (r#"{"subjects":["X","Y"],"actors":["a; b"]}"#, r#"subjects X, Y; actors "a; b""#),
            ("is author of GitHub", "is author of GitHub"),
            ("{not an object", "{not an object"),
        ];
        for (when, expected) in cases {
            assert_eq!(when_in_words(when), expected);
        }
    }
}
