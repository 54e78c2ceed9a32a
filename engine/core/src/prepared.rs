//! Watchers of the store on their way into the state: all that can be done with a row before the state is
//! there, on any thread, so that the one thread that has the state only puts them in their places.
//!
//! Not here: what they wait for, which is read after that (`State::understand`).

use std::collections::BTreeMap;

use axwatch_model::{Counters, Now, Owner, WatcherNumber, WatcherRow, WatcherState};
use hashbrown::HashMap;

use crate::names::hash_of;
use crate::registry::is_unbound;
use crate::state::{State, Watcher};

/// Watchers of the store, by number, ready to be put in their places. See [`crate::Restoring::take`].
#[derive(Default)]
pub struct Prepared {
    /// With the hashes of their names.
    watchers: Vec<(u64, WatcherNumber, Box<Watcher>)>,
    /// The rows that each owner has, and those of them that are spare.
    owned: BTreeMap<Owner, (Vec<WatcherNumber>, Vec<WatcherNumber>)>,
    /// Those that nobody answers for.
    unbound: Vec<WatcherNumber>,
    /// Those whose texts are to be read.
    standing: Vec<WatcherNumber>,
}

impl Prepared {
    /// Makes of rows what can be made without any state. Limits are closed from `now` on.
    #[must_use]
    pub fn new(rows: Vec<WatcherRow>, now: Now) -> Prepared {
        let watchers = Vec::with_capacity(rows.len());
        let mut prepared = Prepared { watchers, ..Prepared::default() };
        rows.into_iter().for_each(|row| prepared.add(row, now));
        prepared
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    fn add(&mut self, row: WatcherRow, now: Now) {
        let number = row.number;
        if !self.owned.contains_key(&row.key.owner) {
            self.owned.insert(row.key.owner.clone(), Default::default());
        }
        let owned = self.owned.get_mut(&row.key.owner);
        let (numbers, spare) = owned.expect("it is there, or was put there");
        numbers.push(number);
        if is_spare(&row) {
            spare.push(number);
        }
        if is_unbound(&row) {
            self.unbound.push(number);
        }
        let hash = hash_of(&row.key);
        let mut watcher = Box::new(Watcher::new(row, Counters::default()));
        if watcher.stands() {
            self.standing.push(number);
            watcher.limit.set(watcher.row.max_fires_per_second, now.mono);
            watcher.note_held(now.mono);
        }
        self.watchers.push((hash, number, watcher));
    }
}

/// Whether a row is of a watcher that never stood and that nobody names any more.
fn is_spare(row: &WatcherRow) -> bool {
    row.revision == 0 && row.state == WatcherState::Retired
}

impl State {
    /// Puts watchers in their places, with what they have done.
    pub(crate) fn place(
        &mut self,
        prepared: Prepared,
        counters: &HashMap<WatcherNumber, Counters>,
    ) {
        for (owner, (numbers, spare)) in prepared.owned {
            let rows = self.rows_of.entry(owner).or_default();
            numbers.into_iter().for_each(|number| rows.add(number));
            rows.spare.extend(spare);
        }
        self.unbound.extend(prepared.unbound);
        self.not_understood.extend(prepared.standing);
        for (hash, number, mut watcher) in prepared.watchers {
            if let Some(counters) = counters.get(&number) {
                watcher.counters = *counters;
            }
            self.last_watcher = self.last_watcher.max(number);
            self.names.add(hash, number);
            self.watchers.insert(number, watcher);
        }
    }
}
