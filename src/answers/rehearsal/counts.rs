//! What is counted on the way through history. Pure, and no larger at its end than at its beginning.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use axwatch_core::{Rehearsal, Rehearsed};
use axwatch_model::{Seq, Timestamp};

use crate::views::{BusiestSecond, Change, TrialCompare, TrialLimit, TrialSummary};

/// Milliseconds of a second.
const SECOND_MS: i64 = 1_000;

/// The second with the most fires.
#[derive(Debug, Default)]
pub struct Busiest {
    /// How many fires each millisecond of the last second had that had some.
    recent: VecDeque<(Timestamp, u64)>,
    within: u64,
    found: Option<BusiestSecond>,
}

impl Busiest {
    /// So many fires at this moment. Where the clock was set back, seconds begin anew.
    pub fn fired(&mut self, at: Timestamp, fires: u64) {
        if self.recent.back().is_some_and(|(last, _)| at < *last) {
            self.recent.clear();
            self.within = 0;
        }
        while let Some((first, gone)) = self.recent.front().copied()
            && at.ms() - first.ms() >= SECOND_MS
        {
            self.recent.pop_front();
            self.within -= gone;
        }
        match self.recent.back_mut() {
            Some((last, already)) if *last == at => *already += fires,
            _ => self.recent.push_back((at, fires)),
        }
        self.within += fires;
        let (begins, _) = self.recent.front().expect("this one is in it");
        if self.found.is_none_or(|found| found.fires < self.within) {
            self.found = Some(BusiestSecond { at: *begins, fires: self.within });
        }
    }
}

/// A limit and what it has done.
#[derive(Debug)]
pub struct Limited {
    rehearsal: Rehearsal,
    told: TrialLimit,
}

impl Limited {
    /// A limit that has done nothing yet.
    pub fn new(per_second: NonZeroU32) -> Limited {
        Limited {
            rehearsal: Rehearsal::new(per_second),
            told: TrialLimit {
                max_fires_per_second: per_second.get(),
                waited: 0,
                longest_wait_ms: 0,
                longest_queue: 0,
                last_starts_at: None,
            },
        }
    }

    /// Lets one fire through: when it starts, and after how many milliseconds.
    pub fn fire(&mut self, at: Timestamp) -> (Timestamp, u64) {
        let Rehearsed { starts_at, waits, queue } = self.rehearsal.fire(at);
        let waits_ms = u64::try_from(waits.as_millis()).unwrap_or(u64::MAX);
        self.told.waited += u64::from(waits_ms > 0);
        self.told.longest_wait_ms = self.told.longest_wait_ms.max(waits_ms);
        self.told.longest_queue = self.told.longest_queue.max(queue);
        self.told.last_starts_at = Some(starts_at);
        (starts_at, waits_ms)
    }
}

/// All that is counted.
#[derive(Debug, Default)]
pub struct Counts {
    told: TrialSummary,
    busiest: Busiest,
}

impl Counts {
    /// Nothing yet, of a text with these handlers.
    pub fn new(handlers: Vec<String>, compare: Option<TrialCompare>) -> Counts {
        let told = TrialSummary { handlers, compare, ..TrialSummary::default() };
        Counts { told, busiest: Busiest::default() }
    }

    /// The first and the last claim of all that are asked, which have no gap between them.
    pub fn span(&mut self, (first, first_at): (Seq, Timestamp), (last, last_at): (Seq, Timestamp)) {
        self.told.claims = last.0 - first.0 + 1;
        self.told.first_seq = Some(first);
        self.told.first_at = Some(first_at);
        self.told.last_seq = Some(last);
        self.told.last_at = Some(last_at);
    }

    /// The text holds for a claim that was appended then.
    pub fn matched(&mut self, at: Timestamp) {
        let fires = self.told.handlers.len().max(1) as u64;
        self.told.matches += 1;
        self.told.fires += fires;
        self.told.first_fires_at.get_or_insert(at);
        self.told.last_fires_at = Some(at);
        self.busiest.fired(at, fires);
    }

    /// Whether the text and the other watcher's hold for a claim: what that changes, if one does.
    pub fn compared(&mut self, new: bool, present: bool) -> Option<Change> {
        let told = self.told.compare.as_mut()?;
        match (new, present) {
            (true, true) => {
                told.both += 1;
                None
            }
            (true, false) => {
                told.gained += 1;
                Some(Change::Gained)
            }
            (false, true) => {
                told.lost += 1;
                Some(Change::Lost)
            }
            (false, false) => None,
        }
    }

    /// A line was given.
    pub fn shown(&mut self) {
        self.told.shown += 1;
    }

    /// What came of it.
    pub fn summary(&self, limit: Option<&Limited>) -> TrialSummary {
        TrialSummary {
            busiest_second: self.busiest.found,
            limit: limit.map(|limit| limit.told),
            ..self.told.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(1_750_000_000_000 + ms).unwrap()
    }

    #[test]
    fn the_busiest_second_may_begin_anywhere() {
        // (when something fires, where the busiest second begins, how many there are in it)
        let cases: [(&[i64], i64, u64); 6] = [
            (&[5], 5, 1),
            (&[0, 999], 0, 2),
            (&[0, 1_000], 0, 1),
            (&[0, 900, 1_100, 1_800, 3_000], 900, 3),
            (&[0, 0, 0, 500, 5_000, 5_001, 5_002, 5_003, 5_004], 5_000, 5),
            // Set back: what was before is no part of the seconds after.
            (&[0, 1, -5, -4, -3], -5, 3),
        ];
        for (fires, begins, expected) in cases {
            let mut busiest = Busiest::default();
            fires.iter().for_each(|ms| busiest.fired(at(*ms), 1));
            let expected = BusiestSecond { at: at(begins), fires: expected };
            assert_eq!(busiest.found, Some(expected), "{fires:?}");
            assert!(busiest.recent.len() <= SECOND_MS as usize);
        }
    }

    #[test]
    fn a_match_is_a_fire_for_each_handler() {
        for (handlers, fires) in [(&[][..], 2), (&["a"], 2), (&["a", "b"], 4)] {
            let handlers: Vec<_> = handlers.iter().map(ToString::to_string).collect();
            let mut counts = Counts::new(handlers.clone(), None);
            counts.span((Seq(3), at(3)), (Seq(5), at(5)));
            counts.matched(at(3));
            counts.matched(at(5));
            let expected = TrialSummary {
                claims: 3,
                first_seq: Some(Seq(3)),
                first_at: Some(at(3)),
                last_seq: Some(Seq(5)),
                last_at: Some(at(5)),
                matches: 2,
                fires,
                handlers,
                first_fires_at: Some(at(3)),
                last_fires_at: Some(at(5)),
                busiest_second: Some(BusiestSecond { at: at(3), fires }),
                ..TrialSummary::default()
            };
            assert_eq!(counts.summary(None), expected);
        }
    }

    #[test]
    fn a_limit_is_counted_with_its_longest_wait() {
        let mut limited = Limited::new(NonZeroU32::new(2).unwrap());
        let starts: Vec<_> = [0, 0, 0, 5_000].map(|ms| limited.fire(at(ms)).1).to_vec();
        assert_eq!(starts, [0, 500, 1_000, 0]);
        let expected = TrialLimit {
            max_fires_per_second: 2,
            waited: 2,
            longest_wait_ms: 1_000,
            longest_queue: 2,
            last_starts_at: Some(at(5_000)),
        };
        assert_eq!(Counts::default().summary(Some(&limited)).limit, Some(expected));
    }

    #[test]
    fn a_change_gains_and_loses() {
        let beside = TrialCompare {
            watcher: "user-w".into(),
            revision: 1,
            when: "is a".into(),
            gained: 0,
            lost: 0,
            both: 0,
        };
        let mut counts = Counts::new(Vec::new(), Some(beside.clone()));
        let changes = [(true, true), (true, false), (false, true), (false, false)]
            .map(|(new, present)| counts.compared(new, present));
        assert_eq!(changes, [None, Some(Change::Gained), Some(Change::Lost), None]);
        let expected = TrialCompare { gained: 1, lost: 1, both: 1, ..beside };
        assert_eq!(counts.summary(None).compare, Some(expected));
        assert_eq!(Counts::default().compared(true, false), None, "there is nothing beside it");
    }
}
