//! Schedules: what is to run again and again, and what became of it.
//!
//! Not here: which times a grid has and which of them are due (`axwatch_core`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::watcher::split_handler;
use crate::{InvalidId, JobId, LocalId, Owner, ScheduleId, Timestamp, bounds};

/// The nominal times of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Grid {
    /// From the schedule's anchor on, again and again after so many seconds; 0 is never.
    Every {
        /// From one time to the next.
        secs: u32,
    },
    /// As a line of cron says, on the clocks of a place.
    Cron {
        /// The five fields, or a name such as `@daily`.
        text: Arc<str>,
        /// The name of the time zone: `UTC`, `Europe/Berlin`.
        tz: Arc<str>,
    },
}

impl Grid {
    /// The seconds from one time to the next; `None` of a line of cron.
    #[must_use]
    pub fn secs(&self) -> Option<u32> {
        match self {
            Grid::Every { secs } => Some(*secs),
            Grid::Cron { .. } => None,
        }
    }

    /// Whether it has no times at all.
    #[must_use]
    pub fn is_never(&self) -> bool {
        self.secs() == Some(0)
    }
}

/// What becomes of nominal times at which nothing could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Missed {
    /// They are left out.
    Skip,
    /// One run stands for all of them.
    #[default]
    Once,
    /// Each is made up for, the latest so many of them.
    All {
        /// How many at most.
        max: u32,
    },
}

/// `skip`, `once`, or `all:` and how many at most.
impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missed::Skip => f.pad("skip"),
            Missed::Once => f.pad("once"),
            Missed::All { max } => f.pad(&format!("all:{max}")),
        }
    }
}

impl FromStr for Missed {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Missed, InvalidId> {
        let max = || text.strip_prefix("all:")?.parse().ok();
        match text {
            "skip" => Ok(Missed::Skip),
            "once" => Ok(Missed::Once),
            _ => match max() {
                Some(max @ 1..=bounds::MISSED_MAX) => Ok(Missed::All { max }),
                _ => Err(InvalidId {
                    what: "policy for missed times",
                    text: bounds::cut(text, 80).to_owned(),
                    rule: "it must be skip, once, or all:N with N from 1 to 1000",
                }),
            },
        }
    }
}

/// An enum whose every value is one word, in rows and for people alike.
macro_rules! words {
    ($name:ident, $what:literal, $rule:literal, [$(($value:ident, $text:literal)),+ $(,)?]) => {
        impl $name {
            /// All of them.
            pub const ALL: [$name; [$($text),+].len()] = [$($name::$value),+];

            /// Its word.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$value => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<$name, InvalidId> {
                $name::ALL.into_iter().find(|known| known.as_str() == text).ok_or_else(|| InvalidId {
                    what: $what,
                    text: bounds::cut(text, 80).to_owned(),
                    rule: $rule,
                })
            }
        }
    };
}

/// What becomes of a nominal time at which the run before is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It runs after that one.
    Queue,
    /// That one is cancelled.
    Cancel,
}

words! {
    Overlap, "policy for overlapping runs", "it must be skip, queue or cancel",
    [(Skip, "skip"), (Queue, "queue"), (Cancel, "cancel")]
}

/// What a schedule is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleState {
    /// It runs when it is due.
    Active,
    /// Somebody paused it.
    Paused,
    /// It does not run for another reason: it is not enabled by default, its interval is 0, nobody answers
    /// for its handler any more.
    Inactive,
    /// Gone from its owner's declarations, or deleted.
    Retired,
}

words! {
    ScheduleState, "state of a schedule", "it must be active, paused, inactive or retired",
    [(Active, "active"), (Paused, "paused"), (Inactive, "inactive"), (Retired, "retired")]
}

/// A schedule: a handler that is to run again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRow {
    /// Its id: [`ScheduleId::of`] its store, owner and name.
    pub id: ScheduleId,
    /// Who declared it.
    pub owner: Owner,
    /// Its name among those of its owner; a plugin's is named like its handler, and has only one.
    pub name: LocalId,
    /// The handler, as `plugin/handler`.
    pub handler: Arc<str>,
    /// Its nominal times.
    pub grid: Grid,
    /// Where a grid of seconds begins.
    pub anchor: Timestamp,
    /// What its jobs carry; `None` is nothing.
    pub payload: Option<Arc<[u8]>>,
    /// What becomes of times at which nothing could run.
    pub missed: Missed,
    /// What becomes of a time at which the run before is not over.
    pub overlap: Overlap,
    /// Each run is put off by up to so much.
    pub jitter_secs: u32,
    /// It runs without somebody having to enable it.
    pub enabled_by_default: bool,
    /// What it is for.
    pub description: String,
    /// What its owner says that it stands for in AX.
    pub ats_code: String,
    /// What its owner keeps with it: a JSON object.
    pub metadata: Option<Arc<str>>,
    /// It was made with a call (`ScheduleService`, `axwatch schedule create`): what its plugin declares later
    /// and does not name it is no reason to retire it. A retired one for which this holds was retired with all of its
    /// plugin, and stands again when that is enabled.
    pub by_call: bool,
    /// What it is doing.
    pub state: ScheduleState,
    /// When it was declared: for the first time, or anew after it had been retired.
    pub declared_at: Timestamp,
    /// When a declaration or a person last changed it.
    pub changed_at: Timestamp,
    /// Since when its owner does not declare it any more.
    pub retired_at: Option<Timestamp>,
    /// It was paused when it was retired, though nobody deleted it, and is when it stands again.
    pub was_paused: bool,
    /// Ranges of nominal times that were seen to, first and last of each, ascending, at most 64: a nominal
    /// time in one of them is not run (again), wherever the clock is set.
    pub seen: Vec<(Timestamp, Timestamp)>,
    /// The nominal time of its last run on its grid.
    pub last_nominal: Option<Timestamp>,
    /// When it last ran.
    pub last_run_at: Option<Timestamp>,
    /// The job of that run.
    pub last_job: Option<JobId>,
}

impl ScheduleRow {
    /// The handler's bare name.
    #[must_use]
    pub fn bare_handler(&self) -> &str {
        split_handler(&self.handler).1
    }
}

/// What became of one nominal time of a schedule, or of several at once that were missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRunRow {
    /// Whose.
    pub schedule: ScheduleId,
    /// The time on its grid, the first of several; `None` when somebody ran it by hand.
    pub nominal: Option<Timestamp>,
    /// The last of several.
    pub upto: Option<Timestamp>,
    /// How many nominal times this tells of; 0 of a run by hand.
    pub count: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// What was decided.
    pub outcome: RunOutcome,
    /// The job, if there was one.
    pub job: Option<JobId>,
}

/// What became of a nominal time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// A job was made for it.
    Ran,
    /// The run before was not over.
    SkippedOverlap,
    /// It was over before it could run.
    Missed,
    /// The schedule was paused.
    Paused,
}

words! {
    RunOutcome, "outcome of a scheduled run", "it must be ran, skipped_overlap, missed or paused",
    [(Ran, "ran"), (SkippedOverlap, "skipped_overlap"), (Missed, "missed"), (Paused, "paused")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_written_as_they_are_read() {
        for word in Overlap::ALL {
            assert_eq!(word.as_str().parse::<Overlap>().unwrap(), word);
            assert_eq!(serde_json::to_value(word).unwrap(), word.as_str());
        }
        for word in ScheduleState::ALL {
            assert_eq!(word.as_str().parse::<ScheduleState>().unwrap(), word);
            assert_eq!(serde_json::to_value(word).unwrap(), word.as_str());
        }
        for word in RunOutcome::ALL {
            assert_eq!(word.as_str().parse::<RunOutcome>().unwrap(), word);
            assert_eq!(serde_json::to_value(word).unwrap(), word.as_str());
        }
        assert!("deleted".parse::<ScheduleState>().is_err());
    }

    #[test]
    fn a_policy_for_missed_times_says_how_many() {
        for (text, missed) in [
            ("skip", Missed::Skip),
            ("once", Missed::Once),
            ("all:1", Missed::All { max: 1 }),
            ("all:1000", Missed::All { max: bounds::MISSED_MAX }),
        ] {
            assert_eq!(text.parse::<Missed>().unwrap(), missed);
            assert_eq!(missed.to_string(), text);
        }
        for text in ["", "all", "all:0", "all:1001", "all:-1", "Once"] {
            assert!(text.parse::<Missed>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_grid_of_no_seconds_has_no_times() {
        let cron = Grid::Cron { text: "@daily".into(), tz: "UTC".into() };
        let grids = [Grid::Every { secs: 0 }, Grid::Every { secs: 60 }, cron];
        assert_eq!(grids.map(|grid| grid.is_never()), [true, false, false]);
    }
}
