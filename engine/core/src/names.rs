//! The names of watchers: which of them has a key, and which one people see under an id.
//!
//! Both are one text, `{owner}-{local id}`, so both are one table, of hashes and numbers; the texts are in
//! the watchers themselves. A text may be that of several: of those that are retired or were refused, and of `a`
//! with `b-c` beside `a-b` with `c`. At most one of them stands.

use std::hash::BuildHasher as _;

use axwatch_model::{WatcherKey, WatcherNumber};
use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;

use crate::state::Watcher;

/// The watchers by number. Boxed, so that a table of many grows without moving them.
pub(crate) type Watchers = HashMap<WatcherNumber, Box<Watcher>>;

/// Finds watchers by their names.
#[derive(Default)]
pub(crate) struct Names {
    /// With their hashes, so that it grows without a look at any watcher.
    numbers: HashTable<(u64, WatcherNumber)>,
}

impl Names {
    pub fn reserve(&mut self, more: usize) {
        self.numbers.reserve(more, |(hash, _)| *hash);
    }

    /// A watcher has a name with this hash from now on: [`hash_of`] its key.
    pub fn add(&mut self, hash: u64, number: WatcherNumber) {
        self.numbers.insert_unique(hash, (hash, number), |(hash, _)| *hash);
    }

    /// It has it no more: its row is another's.
    pub fn remove(&mut self, key: &WatcherKey, number: WatcherNumber) {
        let hash = hash_of(key);
        if let Ok(entry) = self.numbers.find_entry(hash, |(_, known)| *known == number) {
            entry.remove();
        }
    }

    /// The watcher with this key, in whatever state.
    pub fn with_key(&self, key: &WatcherKey, watchers: &Watchers) -> Option<WatcherNumber> {
        self.find(hash_of(key), watchers, |watcher| watcher.row.key == *key)
    }

    /// The watcher that stands and that people see under this id.
    pub fn shown(&self, id: &str, watchers: &Watchers) -> Option<WatcherNumber> {
        self.find(hash(id.as_bytes()), watchers, |watcher| {
            watcher.stands() && watcher.row.key.is_shown_as(id)
        })
    }

    /// The last of those for which it holds, so that it does not matter how they lie in the table.
    fn find(
        &self,
        hash: u64,
        watchers: &Watchers,
        holds: impl Fn(&Watcher) -> bool,
    ) -> Option<WatcherNumber> {
        let alike = self.numbers.iter_hash(hash).filter(|(known, _)| *known == hash);
        alike.map(|(_, number)| *number).filter(|number| holds(&watchers[number])).max()
    }
}

/// By which a watcher's name is found.
pub(crate) fn hash_of(key: &WatcherKey) -> u64 {
    let mut text = SmallVec::<[u8; 128]>::new();
    for part in key.shown_parts() {
        text.extend_from_slice(part.as_bytes());
    }
    hash(&text)
}

/// Another in each life of the engine, so that nobody can choose names that collide; nothing that is decided
/// depends on it.
fn hash(text: &[u8]) -> u64 {
    SeedableRandomState::with_seed(0, SharedSeed::global_random()).hash_one(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::{Counters, Owner, Timestamp, WatcherRow, WatcherState};

    fn row(number: u64, owner: &str, local: &str, state: WatcherState) -> WatcherRow {
        let owner = match owner {
            "user" => Owner::User,
            name => Owner::Plugin(name.parse().unwrap()),
        };
        let now = Timestamp::default();
        WatcherRow {
            number: WatcherNumber(number),
            key: WatcherKey { owner, local: local.parse().unwrap() },
            revision: 1,
            generation: 0,
            last_generation: 0,
            declared: axwatch_model::Declared::Ax(String::new()),
            handlers: [].into(),
            params: None,
            max_fires_per_second: None,
            max_chain: None,
            max_attempts: None,
            max_age_ms: None,
            state,
            error: None,
            since_seq: axwatch_model::Seq(0),
            created_at: now,
            updated_at: now,
        }
    }

    #[test]
    fn of_those_with_one_name_each_is_found_by_its_key_and_the_one_that_stands_by_its_id() {
        let rows = [
            row(1, "a", "b-c", WatcherState::Retired),
            row(2, "a-b", "c", WatcherState::Live),
            row(3, "a-b-c", "d", WatcherState::Refused),
            row(4, "user", "b-c", WatcherState::Paused),
        ];
        let (mut names, mut watchers) = (Names::default(), Watchers::default());
        for row in rows.clone() {
            names.add(hash_of(&row.key), row.number);
            watchers.insert(row.number, Box::new(Watcher::new(row, Counters::default())));
        }
        for row in &rows {
            assert_eq!(names.with_key(&row.key, &watchers), Some(row.number));
        }
        let shown = |names: &Names, id: &str| names.shown(id, &watchers).map(|number| number.0);
        let cases = [("a-b-c", Some(2)), ("a-b-c-d", None), ("user-b-c", Some(4)), ("b-c", None)];
        for (id, expected) in cases {
            assert_eq!(shown(&names, id), expected, "{id}");
        }
        names.remove(&rows[1].key, rows[1].number);
        assert_eq!(shown(&names, "a-b-c"), None);
        assert_eq!(names.with_key(&rows[1].key, &watchers), None);
        assert_eq!(names.with_key(&rows[0].key, &watchers), Some(WatcherNumber(1)));
    }

    #[test]
    fn it_grows_and_shrinks_without_a_look_at_any_watcher() {
        let key =
            |n: u64| WatcherKey { owner: Owner::User, local: format!("w{n}").parse().unwrap() };
        let mut names = Names::default();
        (1..5_000).for_each(|n| names.add(hash_of(&key(n)), WatcherNumber(n)));
        (1..5_000).for_each(|n| names.remove(&key(n), WatcherNumber(n)));
        assert!(names.numbers.is_empty());
    }
}
