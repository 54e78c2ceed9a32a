//! Watchers that ask about the time of a claim and nothing else.
//!
//! One with both ends is filed in a grid whose cells are as long as it is, or up to twice: it touches two
//! of them at most, and a time lies in one cell of each length in use. One with a single end stands in the
//! order of it. Neither costs anything while the time is elsewhere.

use std::collections::BTreeSet;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::posting::{Posting, Postings};

/// From a time to another, both within, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: Option<i64>,
    pub(super) end: Option<i64>,
}

impl Window {
    pub(super) const ALWAYS: Window = Window { start: None, end: None };

    pub(super) fn holds(self, ms: i64) -> bool {
        self.start.is_none_or(|start| start <= ms) && self.end.is_none_or(|end| ms <= end)
    }
}

/// A length of cells: two to this power, in milliseconds.
type Level = u32;

#[derive(Debug)]
pub(super) struct Windows {
    /// Those without an end, by when they start.
    starting: BTreeSet<(i64, u32)>,
    /// Those without a start, by when they end.
    ending: BTreeSet<(i64, u32)>,
    cells: HashMap<(Level, i64), Posting, RandomState>,
    /// How many cells hold something, by level.
    levels: [u32; i64::BITS as usize],
    postings: Postings,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows {
            starting: BTreeSet::new(),
            ending: BTreeSet::new(),
            cells: HashMap::default(),
            levels: [0; i64::BITS as usize],
            postings: Postings::default(),
        }
    }
}

impl Windows {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let is_one_sided = !self.starting.is_empty() || !self.ending.is_empty();
        !is_one_sided
            && self.cells.is_empty()
            && self.levels.iter().all(|cells| *cells == 0)
            && self.postings.lists_in_use() == 0
    }

    /// How many cells and ends lead to watchers.
    pub(super) fn len(&self) -> usize {
        self.cells.len() + self.starting.len() + self.ending.len()
    }

    /// Bytes that are allocated, those of the ends as if their nodes were two thirds full.
    pub(super) fn memory_bytes(&self) -> usize {
        let ends = self.starting.len() + self.ending.len();
        let ends = ends * size_of::<(i64, u32)>() * 3 / 2;
        self.cells.allocation_size() + self.postings.memory_bytes() + ends
    }

    /// Files a watcher. One whose end comes before its start is never found.
    pub(super) fn insert(&mut self, id: u32, window: Window) {
        match (window.start, window.end) {
            (Some(start), None) => {
                self.starting.insert((start, id));
            }
            (None, Some(end)) => {
                self.ending.insert((end, id));
            }
            (Some(start), Some(end)) => {
                for cell in cells(start, end) {
                    let posting = self.cells.entry(cell).or_insert_with(|| {
                        self.levels[cell.0 as usize] += 1;
                        Posting::EMPTY
                    });
                    self.postings.add(posting, id);
                }
            }
            (None, None) => {}
        }
    }

    pub(super) fn remove(&mut self, id: u32, window: Window) {
        match (window.start, window.end) {
            (Some(start), None) => {
                self.starting.remove(&(start, id));
            }
            (None, Some(end)) => {
                self.ending.remove(&(end, id));
            }
            (Some(start), Some(end)) => {
                for cell in cells(start, end) {
                    let Some(posting) = self.cells.get_mut(&cell) else { continue };
                    self.postings.remove(posting, id);
                    if posting.is_empty() {
                        self.cells.remove(&cell);
                        self.levels[cell.0 as usize] -= 1;
                    }
                }
            }
            (None, None) => {}
        }
    }

    /// Collects the watchers with one end that hold at a time, and those with both that may. Answers how
    /// many cells were looked at.
    pub(super) fn probe(&self, ms: i64, found: &mut Vec<u32>, candidates: &mut Vec<u32>) -> u64 {
        found.extend(self.starting.range(..=(ms, u32::MAX)).map(|(_, id)| *id));
        found.extend(self.ending.range((ms, 0)..).map(|(_, id)| *id));
        let mut probes = 0;
        for (level, _) in (0..).zip(self.levels).filter(|(_, cells)| *cells > 0) {
            probes += 1;
            if let Some(posting) = self.cells.get(&(level, ms >> level)) {
                candidates.extend_from_slice(self.postings.ids(posting));
            }
        }
        probes
    }
}

/// The one or two cells that a window touches; none if it is never.
fn cells(start: i64, end: i64) -> impl Iterator<Item = (Level, i64)> {
    let length = end.checked_sub(start).unwrap_or(i64::MAX);
    // The smallest length of cells that is more than the window's.
    let level = (i64::BITS - length.max(0).leading_zeros()).min(i64::BITS - 1);
    let (first, last) = (start >> level, end >> level);
    (first..=last).filter(move |_| start <= end).map(move |cell| (level, cell))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_ms() -> impl Strategy<Value = i64> {
        prop_oneof![-20..20_i64, any::<i64>(), Just(i64::MIN), Just(i64::MAX)]
    }

    fn any_window() -> impl Strategy<Value = Window> {
        let end = || prop::option::weighted(0.8, any_ms());
        (end(), end()).prop_map(|(start, end)| Window { start, end })
    }

    proptest! {
        /// Nothing that holds is missed, and a window touches two cells at most.
        #[test]
        fn a_time_finds_its_windows(
            windows in prop::collection::vec(any_window(), 0..30), times in prop::collection::vec(any_ms(), 1..9),
        ) {
            let mut index = Windows::default();
            let windows: Vec<_> =
                windows.into_iter().filter(|window| window.start.or(window.end).is_some()).collect();
            (0..).zip(&windows).for_each(|(id, window)| index.insert(id, *window));
            for ms in times {
                let (mut found, mut candidates) = (Vec::new(), Vec::new());
                index.probe(ms, &mut found, &mut candidates);
                prop_assert!(found.iter().all(|id| windows[*id as usize].holds(ms)));
                found.extend(candidates.iter().filter(|id| windows[**id as usize].holds(ms)));
                found.sort_unstable();
                let holding = (0..).zip(&windows).filter(|(_, window)| window.holds(ms));
                prop_assert_eq!(found, holding.map(|(id, _)| id).collect::<Vec<u32>>());
            }
            for (id, window) in (0..).zip(&windows) {
                if let (Some(start), Some(end)) = (window.start, window.end) {
                    prop_assert!(cells(start, end).count() <= 2);
                }
                index.remove(id, *window);
            }
            prop_assert!(index.is_empty());
        }
    }
}
