//! Watchers that do not ride the commit: those that catch up, and replays.
//!
//! A pass is a watcher's own way over a part of the log. Passes share cursors: all that stand at one
//! place move as one, so that ten thousand watchers that catch up read the log once and write one row a
//! segment. One sweep goes over the log from the lowest cursor to the head, takes along every cursor
//! that it comes by, and begins again with those that joined behind it.
//!
//! A pass whose watcher has too many open jobs rests where it is. It goes on when half of them are done.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use axwatch_model::{CursorNumber, CursorRow, Now, PassRow, Seq, Stored, Timestamp, WatcherNumber};
use axwatch_query::{AliasChange, Aliases, Filter, WatcherIndex};

use crate::event::{Effect, Refusal, RefusalKind};
use crate::record::{PositionRecord, Record};
use crate::registry::index_id;
use crate::state::State;

/// A pass: the watcher, and the generation of its fires.
pub(crate) type PassKey = (WatcherNumber, u32);

/// All passes that have not come to their end.
#[derive(Default)]
pub(crate) struct Passes {
    rows: BTreeMap<PassKey, PassRow>,
    cursors: BTreeMap<CursorNumber, Cursor>,
    /// The cursors that move, by their place.
    moving: BTreeMap<Seq, CursorNumber>,
    last_cursor: CursorNumber,
    /// The watchers that have a pass.
    pub(crate) index: WatcherIndex,
    /// Replays by their last claim.
    ends: BTreeSet<(Seq, PassKey)>,
    /// How far the sweep over the log has come.
    sweep: Seq,
    /// Watchers with a resting pass of which a job has ended.
    to_wake: BTreeSet<WatcherNumber>,
}

struct Cursor {
    seq: Seq,
    passes: BTreeSet<PassKey>,
    /// It waits until open jobs of its watchers are done.
    rests: bool,
}

/// What of passes and cursors changed since the last batch.
#[derive(Default)]
pub(crate) struct PassWrites {
    pub passes: BTreeMap<PassKey, PassRow>,
    pub passes_gone: BTreeSet<PassKey>,
    pub cursors: BTreeSet<CursorNumber>,
    pub cursors_gone: BTreeSet<CursorNumber>,
}

/// Where a pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub seq: Seq,
    pub rests: bool,
}

/// The part of the log that passes need next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextSegment {
    /// The claims after this one.
    pub after: Seq,
    /// Up to this one.
    pub upto: Seq,
}

impl Passes {
    pub(crate) fn has(&self, key: PassKey) -> bool {
        self.rows.contains_key(&key)
    }

    /// The passes of a watcher, by generation.
    pub(crate) fn of(&self, watcher: WatcherNumber) -> impl Iterator<Item = &PassRow> {
        self.rows.range((watcher, 0)..=(watcher, u32::MAX)).map(|(_, row)| row)
    }

    pub(crate) fn place(&self, key: PassKey) -> Option<Place> {
        let cursor = self.cursors.get(&self.rows.get(&key)?.cursor?)?;
        Some(Place { seq: cursor.seq, rests: cursor.rests })
    }

    /// When a pass began.
    pub(crate) fn began_at(&self, key: PassKey) -> Option<Timestamp> {
        self.rows.get(&key).map(|row| row.started_at)
    }

    /// The lowest place of any pass.
    pub(crate) fn lowest(&self) -> Option<Seq> {
        self.cursors.values().map(|cursor| cursor.seq).min()
    }

    /// How many passes rest.
    pub(crate) fn resting(&self) -> u64 {
        self.cursors.values().filter(|cursor| cursor.rests).map(|c| c.passes.len() as u64).sum()
    }

    /// A job of this watcher has ended: a pass of it may have reason to go on.
    pub(crate) fn job_ended(&mut self, watcher: WatcherNumber) {
        let rests = |row: &PassRow| {
            row.cursor.and_then(|number| self.cursors.get(&number)).is_some_and(|c| c.rests)
        };
        if self.of(watcher).any(rests) {
            self.to_wake.insert(watcher);
        }
    }

    fn next_place(&self, head: Seq) -> Option<Seq> {
        let ahead = self.moving.range(self.sweep..head).next();
        ahead.or_else(|| self.moving.range(..head).next()).map(|(seq, _)| *seq)
    }

    /// Puts a pass at a place, with whatever moves or rests there.
    fn put(&mut self, mut row: PassRow, place: Place, writes: &mut PassWrites) {
        let key = (row.watcher, row.generation);
        let number = match self.moving.get(&place.seq).filter(|_| !place.rests) {
            Some(number) => *number,
            None => self.new_cursor(place, writes),
        };
        self.cursors.get_mut(&number).expect("found or made above").passes.insert(key);
        row.cursor = Some(number);
        self.ends.extend(row.until_seq.map(|until| (until, key)));
        writes.passes_gone.remove(&key);
        writes.passes.insert(key, row.clone());
        self.rows.insert(key, row);
    }

    fn new_cursor(&mut self, place: Place, writes: &mut PassWrites) -> CursorNumber {
        self.last_cursor = CursorNumber(self.last_cursor.0 + 1);
        let number = self.last_cursor;
        let cursor = Cursor { seq: place.seq, passes: BTreeSet::new(), rests: place.rests };
        self.cursors.insert(number, cursor);
        if !place.rests {
            self.moving.insert(place.seq, number);
        }
        writes.cursors.insert(number);
        number
    }

    /// Takes a pass off its cursor.
    fn take(&mut self, key: PassKey, writes: &mut PassWrites) -> Option<(PassRow, Place)> {
        let row = self.rows.remove(&key)?;
        self.ends.remove(&(row.until_seq.unwrap_or_default(), key));
        let number = row.cursor.expect("a pass under way has a cursor");
        let cursor = self.cursors.get_mut(&number).expect("a pass's cursor is there");
        let place = Place { seq: cursor.seq, rests: cursor.rests };
        cursor.passes.remove(&key);
        if cursor.passes.is_empty() {
            self.drop_cursor(number, writes);
        }
        Some((row, place))
    }

    fn drop_cursor(&mut self, number: CursorNumber, writes: &mut PassWrites) {
        let Some(cursor) = self.cursors.remove(&number) else { return };
        if !cursor.rests {
            self.moving.remove(&cursor.seq);
        }
        writes.cursors.remove(&number);
        writes.cursors_gone.insert(number);
    }

    /// Moves everything that moves from `after` on to `upto`, as one. Answers the passes that are there.
    fn advance(&mut self, after: Seq, upto: Seq, writes: &mut PassWrites) -> Vec<PassKey> {
        let moved: Vec<_> = self.moving.range(after..=upto).map(|(_, number)| *number).collect();
        let largest = moved.iter().copied().max_by_key(|number| self.cursors[number].passes.len());
        let Some(kept) = largest else { return Vec::new() };
        for number in moved {
            self.moving.remove(&self.cursors[&number].seq);
            if number == kept {
                continue;
            }
            let joined =
                std::mem::take(&mut self.cursors.get_mut(&number).expect("listed above").passes);
            for key in &joined {
                let row = self.rows.get_mut(key).expect("a cursor's passes are there");
                row.cursor = Some(kept);
                writes.passes.insert(*key, row.clone());
            }
            self.cursors.get_mut(&kept).expect("listed above").passes.extend(joined);
            self.cursors.remove(&number);
            writes.cursors.remove(&number);
            writes.cursors_gone.insert(number);
        }
        let cursor = self.cursors.get_mut(&kept).expect("listed above");
        cursor.seq = upto;
        self.moving.insert(upto, kept);
        writes.cursors.insert(kept);
        self.sweep = upto;
        cursor.passes.iter().copied().collect()
    }

    /// The rows of what changed.
    pub(crate) fn rows_of(&self, writes: &PassWrites) -> (Vec<PassRow>, Vec<CursorRow>) {
        let row = |number: &CursorNumber| {
            Some(CursorRow { number: *number, seq: self.cursors.get(number)?.seq })
        };
        (writes.passes.values().cloned().collect(), writes.cursors.iter().filter_map(row).collect())
    }
}

impl State {
    /// The part of the log that passes need next, to be read for [`Event::Segment`](crate::Event::Segment);
    /// `None` while they need none, or too many jobs are open.
    #[must_use]
    pub fn next_segment(&self) -> Option<NextSegment> {
        let waits = self.draining || self.disk_low || !self.is_understood();
        if waits || !self.passes_may_match() {
            return None;
        }
        let after = self.passes.next_place(self.matched_seq)?;
        Some(NextSegment { after, upto: self.matched_seq })
    }

    /// Whether passes may make more jobs: the last quarter of those that may be open is for live fires and
    /// for jobs without a watcher.
    fn passes_may_match(&self) -> bool {
        let max = self.policy.bounds.open_jobs_max;
        self.open_jobs < max - max / 4
    }

    /// The claims after this one may still be asked for: by a watcher that catches up, by a replay, or
    /// by matching.
    #[must_use]
    pub fn lowest_position(&self) -> Seq {
        self.passes.lowest().map_or(self.matched_seq, |seq| seq.min(self.matched_seq))
    }

    /// Up to where a watcher has been asked, its replays aside.
    pub(crate) fn position_of(&self, number: WatcherNumber) -> Seq {
        let generation = self.watchers[&number].row.generation;
        self.passes.place((number, generation)).map_or(self.matched_seq, |place| place.seq)
    }

    /// Whether a watcher has a position of its own.
    pub(crate) fn is_catching_up(&self, number: WatcherNumber) -> bool {
        let generation = self.watchers[&number].row.generation;
        self.passes.has((number, generation))
    }

    /// Takes the passes of an earlier life from the store. Which of them rest shows again when they fire.
    pub(crate) fn restore_passes(&mut self, passes: Vec<(PassRow, Seq)>) {
        let known: BTreeSet<_> = passes.iter().filter_map(|(row, _)| row.cursor).collect();
        self.passes.last_cursor = known.last().copied().unwrap_or_default();
        for (row, seq) in passes {
            let (key, number) = ((row.watcher, row.generation), row.cursor.unwrap_or_default());
            let rests = self.watchers.get(&row.watcher).is_none_or(|watcher| !watcher.is_matched());
            let passes = &mut self.passes;
            let writes = &mut self.unwritten.passes;
            if !rests && !passes.cursors.contains_key(&number) && !passes.moving.contains_key(&seq)
            {
                let cursor = Cursor { seq, passes: BTreeSet::new(), rests };
                passes.cursors.insert(number, cursor);
                passes.moving.insert(seq, number);
            }
            passes.put(row, Place { seq, rests }, writes);
            if passes.rows[&key].cursor == Some(number) {
                writes.passes.remove(&key);
            }
        }
        let cursors = &self.passes.cursors;
        let gone = known.into_iter().filter(|number| !cursors.contains_key(number));
        self.unwritten.passes.cursors_gone.extend(gone);
    }

    /// Lets a new watcher see what is in the log already.
    pub(crate) fn catch_up_from(&mut self, number: WatcherNumber, from: Seq, now: Now) {
        if from >= self.matched_seq {
            return;
        }
        let place = Place { seq: from, rests: false };
        self.begin_pass(number, self.watchers[&number].row.generation, place, None, now);
        self.record_position(number, "watcher_catching_up", Position::at(from), now);
    }

    /// A live watcher has too many open jobs: from here on it has a position of its own.
    pub(crate) fn fall_behind(&mut self, number: WatcherNumber, position: Seq, now: Now) {
        let place = Place { seq: position, rests: true };
        self.begin_pass(number, self.watchers[&number].row.generation, place, None, now);
        self.record_position(number, "watcher_backpressured", Position::at(position), now);
    }

    fn begin_pass(
        &mut self,
        number: WatcherNumber,
        generation: u32,
        place: Place,
        until_seq: Option<Seq>,
        now: Now,
    ) {
        // Not before the hold that lasts: who came first tells what that held.
        let held = self.watchers[&number].hold();
        let row = PassRow {
            watcher: number,
            generation,
            from_seq: place.seq,
            until_seq,
            cursor: None,
            started_at: held.map_or(now.wall, |hold| hold.at.max(now.wall)),
            ended_at: None,
            stopped: None,
        };
        self.passes.put(row, place, &mut self.unwritten.passes);
        self.reindex_as_declared(number);
    }

    /// Begins a replay of the claims from `from` to `to`.
    pub(crate) fn begin_replay(
        &mut self,
        number: WatcherNumber,
        from: Seq,
        to: Seq,
        now: Now,
    ) -> Result<(), Refusal> {
        let watcher = &self.watchers[&number];
        let (shown, generation) = (watcher.shown(), watcher.row.generation);
        let refused = |reason: String| Err(Refusal::new(RefusalKind::Invalid, reason));
        if from > to {
            return refused(format!("from {from} to {to}: the first claim comes after the last"));
        }
        if to > self.head {
            return refused(format!(
                "to {to}: the log ends at {}; a replay ends there at the latest",
                self.head
            ));
        }
        let conflict = |reason: String| Err(Refusal::new(RefusalKind::Conflict, reason));
        if let Some(replay) = self.passes.of(number).find(|pass| pass.until_seq.is_some()) {
            return conflict(format!(
                "watcher {shown} is being replayed already (generation {}); wait for its end, or stop it with `axwatch watch replay {shown} --stop`",
                replay.generation
            ));
        }
        if !self.watchers[&number].is_matched() {
            return conflict(format!(
                "watcher {shown} is {} and would fire nothing",
                self.watchers[&number].row.state
            ));
        }
        debug_assert!(generation <= self.watchers[&number].row.last_generation);
        let row = &mut self.watchers.get_mut(&number).expect("looked up above").row;
        row.last_generation += 1;
        let generation = row.last_generation;
        self.unwritten.watchers.insert(number);
        let place = Place { seq: Seq(from.0.saturating_sub(1)), rests: false };
        self.begin_pass(number, generation, place, Some(to), now);
        let position = Position {
            generation: Some(generation),
            from: Some(from),
            to: Some(to),
            ..Position::at(place.seq)
        };
        self.record_position(number, "replay_started", position, now);
        Ok(())
    }

    /// Ends the replay of a watcher where it is.
    pub(crate) fn stop_replay(&mut self, number: WatcherNumber, now: Now) -> Result<(), Refusal> {
        let replay = self.passes.of(number).find(|pass| pass.until_seq.is_some());
        let Some(generation) = replay.map(|pass| pass.generation) else {
            let reason =
                format!("watcher {} is not being replayed", self.watchers[&number].shown());
            return Err(Refusal::new(RefusalKind::Conflict, reason));
        };
        self.end_pass((number, generation), Some("stopped"), now);
        Ok(())
    }

    /// Ends a pass: it has come to its end, or something stopped it. Of a replay the row stays.
    fn end_pass(&mut self, key: PassKey, stopped: Option<&str>, now: Now) {
        let writes = &mut self.unwritten.passes;
        let Some((mut row, place)) = self.passes.take(key, writes) else { return };
        let (number, generation) = key;
        if row.until_seq.is_some() {
            (row.cursor, row.ended_at) = (None, Some(now.wall));
            row.stopped = stopped.map(str::to_owned);
            writes.passes.insert(key, row);
            let kind = if stopped.is_some() { "replay_stopped" } else { "replay_ended" };
            let position = Position {
                generation: Some(generation),
                reason: stopped,
                ..Position::at(place.seq)
            };
            self.record_position(number, kind, position, now);
        } else {
            writes.passes.remove(&key);
            writes.passes_gone.insert(key);
        }
        self.reindex_as_declared(number);
    }

    /// Ends all passes of a watcher that is retired.
    pub(crate) fn end_passes(&mut self, number: WatcherNumber, reason: &str, now: Now) {
        let keys: Vec<_> = self.passes.of(number).map(|row| (number, row.generation)).collect();
        keys.into_iter().for_each(|key| self.end_pass(key, Some(reason), now));
    }

    /// Matches claims against the watchers that have a pass there, and moves them.
    pub(crate) fn match_segment(
        &mut self,
        after: Seq,
        upto: Seq,
        rows: &[Arc<Stored>],
        mut aliases: Arc<Aliases>,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let mut upto = upto.min(self.matched_seq);
        let mut found = Vec::new();
        for stored in rows.iter().take_while(|stored| stored.seq <= upto) {
            if self.batch_is_half_full() || !self.passes_may_match() {
                upto = Seq(stored.seq.0 - 1);
                break;
            }
            found.clear();
            self.passes.index.matching(&stored.attestation, &aliases, &mut found);
            let mut payload = None;
            for number in &found {
                let number = WatcherNumber(u64::from(*number));
                self.fire_passes(number, after, stored, &mut payload, now);
            }
            if let Some(payload) = payload {
                effects.push(Effect::Payload { seq: stored.seq, bytes: payload.bytes });
            }
            if let Some(change) = AliasChange::of(stored) {
                Arc::make_mut(&mut aliases).apply(&change);
            }
        }
        if upto > after {
            self.advance_passes(after, upto, now);
        }
    }

    /// Fires for the passes of a watcher that come by this claim.
    fn fire_passes(
        &mut self,
        number: WatcherNumber,
        after: Seq,
        stored: &Stored,
        payload: &mut Option<crate::matching::Payload>,
        now: Now,
    ) {
        let comes_by = |row: &PassRow| {
            let place = self.passes.place((number, row.generation))?;
            let before_its_end = row.until_seq.is_none_or(|until| stored.seq <= until);
            let is_here = !place.rests && after <= place.seq && place.seq < stored.seq;
            (is_here && before_its_end).then_some(row.generation)
        };
        let generations: Vec<u32> = self.passes.of(number).filter_map(comes_by).collect();
        for generation in generations {
            if self.has_room(number, generation) {
                self.fire(number, generation, stored, payload, now);
            } else {
                let position = Seq(stored.seq.0 - 1);
                self.rest((number, generation), position, now);
            }
        }
    }

    /// Whether the watcher may have another open job of this generation.
    pub(crate) fn has_room(&self, number: WatcherNumber, generation: u32) -> bool {
        let open = self.open_of(number, generation);
        let more = self.watchers[&number].row.handlers.len() as u64;
        open == 0 || open + more <= self.room_of(number, generation)
    }

    /// How many open jobs a watcher may have of this generation: a replay half as many as there may be
    /// live ones, so that it never holds these up.
    fn room_of(&self, number: WatcherNumber, generation: u32) -> u64 {
        let max = self.policy.bounds.watcher_open_jobs_max;
        let is_live = self.watchers[&number].row.generation == generation;
        if is_live { max } else { max / 2 }.max(1)
    }

    fn rest(&mut self, key: PassKey, position: Seq, now: Now) {
        let writes = &mut self.unwritten.passes;
        let Some((row, _)) = self.passes.take(key, writes) else { return };
        self.passes.put(row, Place { seq: position, rests: true }, writes);
        let (number, generation) = key;
        let position = Position { generation: Some(generation), ..Position::at(position) };
        self.record_position(number, "watcher_backpressured", position, now);
    }

    /// Lets the passes of a watcher wait whose text is not understood any more.
    pub(crate) fn rest_passes(&mut self, number: WatcherNumber) {
        let keys: Vec<_> = self.passes.of(number).map(|row| (number, row.generation)).collect();
        for key in keys {
            let writes = &mut self.unwritten.passes;
            if let Some((row, place)) = self.passes.take(key, writes) {
                self.passes.put(row, Place { rests: true, ..place }, writes);
            }
        }
    }

    fn advance_passes(&mut self, after: Seq, upto: Seq, now: Now) {
        let there = self.passes.advance(after, upto, &mut self.unwritten.passes);
        let first = (Seq(0), (WatcherNumber(0), 0));
        let last = (upto, (WatcherNumber(u64::MAX), u32::MAX));
        let at_end = self.passes.ends.range((Bound::Included(first), Bound::Included(last)));
        let at_end: Vec<_> = at_end.map(|(until, key)| (*until, *key)).collect();
        for (until, key) in at_end {
            // One that rests, or that the sweep has yet to come to, has not seen its last claim.
            if self.passes.place(key).is_some_and(|place| !place.rests && place.seq >= until) {
                self.end_pass(key, None, now);
            }
        }
        if upto == self.matched_seq {
            there.into_iter().for_each(|key| self.arrive(key, now));
        }
    }

    /// A pass has come to the head: its watcher is live from the next claim on, unless too much of what
    /// it fired is still open.
    fn arrive(&mut self, key: PassKey, now: Now) {
        let (number, generation) = key;
        if self.passes.rows.get(&key).is_none_or(|row| row.until_seq.is_some()) {
            return;
        }
        if self.open_of(number, generation) * 2 >= self.room_of(number, generation) {
            let seq = self.matched_seq;
            self.rest(key, seq, now);
            return;
        }
        self.end_pass(key, None, now);
        self.record_position(number, "watcher_live", Position::at(self.matched_seq), now);
    }

    /// Lets passes go on whose watchers have room again.
    pub(crate) fn wake_passes(&mut self, now: Now) {
        while let Some(number) = self.passes.to_wake.pop_first() {
            if !self.watchers.get(&number).is_some_and(|watcher| watcher.is_matched()) {
                continue;
            }
            let keys: Vec<_> = self.passes.of(number).map(|row| (number, row.generation)).collect();
            for key in keys {
                let rests = self.passes.place(key).is_some_and(|place| place.rests);
                if rests && self.open_of(number, key.1) * 2 < self.room_of(number, key.1) {
                    self.go_on(key, now);
                }
            }
        }
    }

    fn go_on(&mut self, key: PassKey, now: Now) {
        let writes = &mut self.unwritten.passes;
        let Some((row, place)) = self.passes.take(key, writes) else { return };
        self.passes.put(row, Place { rests: false, ..place }, writes);
        if place.seq == self.matched_seq {
            self.arrive(key, now);
        }
    }

    /// Lets the passes of a watcher go on whose text is understood again.
    pub(crate) fn mended(&mut self, number: WatcherNumber) {
        self.passes.to_wake.insert(number);
    }

    /// Puts a watcher into the indexes that its state and its passes ask for.
    pub(crate) fn reindex_as_declared(&mut self, number: WatcherNumber) {
        let declared = &self.watchers[&number].row.declared;
        match Filter::declared(declared) {
            Ok((filter, _)) => self.reindex(number, &filter),
            Err(_) => self.unindex(number),
        }
    }

    pub(crate) fn reindex(&mut self, number: WatcherNumber, filter: &Filter) {
        self.unindex(number);
        if !self.watchers[&number].is_matched() {
            return;
        }
        let id = index_id(number);
        if !self.is_catching_up(number) {
            self.index.insert(id, filter);
        }
        if self.passes.of(number).next().is_some() {
            self.passes.index.insert(id, filter);
        }
    }

    pub(crate) fn unindex(&mut self, number: WatcherNumber) {
        let id = index_id(number);
        self.index.remove(id);
        self.passes.index.remove(id);
    }

    pub(crate) fn record_position(
        &mut self,
        number: WatcherNumber,
        kind: &'static str,
        position: Position<'_>,
        now: Now,
    ) {
        let watcher = &self.watchers[&number];
        let (shown, generation) = (watcher.shown(), watcher.row.generation);
        self.record(&Record::Position(PositionRecord {
            at: now.wall,
            drop: position.drop,
            from: position.from,
            generation: position.generation.unwrap_or(generation),
            reason: position.reason,
            seq: position.seq,
            to: position.to,
            r#type: kind,
            until: position.until,
            watcher: &shown,
        }));
    }
}

/// What a record about a position says besides the watcher.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Position<'a> {
    pub seq: Seq,
    pub generation: Option<u32>,
    pub from: Option<Seq>,
    pub to: Option<Seq>,
    pub reason: Option<&'a str>,
    pub until: Option<Timestamp>,
    pub drop: Option<bool>,
}

impl Position<'_> {
    pub(crate) fn at(seq: Seq) -> Position<'static> {
        Position { seq, ..Position::default() }
    }
}
