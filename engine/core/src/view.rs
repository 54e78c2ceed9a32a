//! A watcher as whoever asks sees it: its row, what it has done, where it is, and what holds it.

use axwatch_model::{
    Counters, HoldRow, Owner, PluginName, Seq, WatcherKey, WatcherNumber, WatcherRow, WatcherState,
};

use crate::state::State;

/// A watcher at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct WatcherView {
    /// The watcher; its state may be `catching_up`.
    pub row: WatcherRow,
    /// What it has done.
    pub counters: Counters,
    /// Where it is, while it catches up.
    pub position: Option<Position>,
    /// Its replay, while one is under way.
    pub replay: Option<ReplayView>,
    /// What holds it.
    pub hold: Option<HoldRow>,
    /// Its open jobs, those of replays counted.
    pub open_jobs: u64,
}

/// Where a watcher is that does not ride the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// It has been asked about the claims up to this one.
    pub seq: Seq,
    /// It waits there until open jobs of it are done.
    pub backpressured: bool,
}

/// A replay under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayView {
    /// The generation of its fires.
    pub generation: u32,
    /// The first claim of it.
    pub from: Seq,
    /// The last claim of it.
    pub to: Seq,
    /// Where it is.
    pub position: Position,
}

impl State {
    /// The watchers among so many numbers before this one, the last first, the retired ones too when asked for; and where to go
    /// on, if there may be more. They may be a million, and whoever has the state does nothing else meanwhile.
    #[must_use]
    pub fn watchers_before(
        &self,
        before: WatcherNumber,
        numbers: u64,
        retired: bool,
    ) -> (Vec<WatcherView>, Option<WatcherNumber>) {
        let end = before.0.min(self.last_watcher.0.saturating_add(1));
        let start = end.saturating_sub(numbers).max(1);
        let is_wanted = |number: &WatcherNumber| {
            let watcher = self.watchers.get(number);
            watcher.is_some_and(|watcher| retired || watcher.row.state != WatcherState::Retired)
        };
        let wanted = (start..end).rev().map(WatcherNumber).filter(is_wanted);
        let views = wanted.map(|number| self.view(number)).collect();
        (views, (start > 1).then_some(WatcherNumber(start)))
    }

    /// A watcher that is not retired: by the id that people see, or the local id of one of theirs.
    #[must_use]
    pub fn watcher(&self, text: &str) -> Option<WatcherView> {
        let of_user = || {
            let key = WatcherKey { owner: Owner::User, local: text.parse().ok()? };
            self.names.with_key(&key, &self.watchers)
        };
        let number = self.names.shown(text, &self.watchers).or_else(of_user)?;
        (self.watchers[&number].row.state != WatcherState::Retired).then(|| self.view(number))
    }

    pub(crate) fn view(&self, number: WatcherNumber) -> WatcherView {
        let watcher = &self.watchers[&number];
        let mut row = watcher.row.clone();
        row.state = self.shown_state(&row);
        if let Some(plugin) = self.disabled_plugin_of(&row).cloned()
            && row.state == WatcherState::WaitingForHandler
        {
            row.error.get_or_insert_with(|| {
                format!("plugin {plugin} is disabled; `axwatch plugin enable {plugin}` lets it run again")
            });
        }
        if let Some((handler, reason)) = self.broken_handler_of(&row.handlers)
            && row.state == WatcherState::WaitingForHandler
        {
            let why = format!(
                "handler {handler} does not load: {reason}; store a version that does, or remove it"
            );
            row.error.get_or_insert(why);
        }
        let place = |generation: u32| {
            let place = self.passes.place((number, generation))?;
            Some(Position { seq: place.seq, backpressured: place.rests })
        };
        let replay = self.passes.of(number).find_map(|pass| {
            Some(ReplayView {
                generation: pass.generation,
                from: pass.from_seq.next(),
                to: pass.until_seq?,
                position: place(pass.generation)?,
            })
        });
        let lanes = self.lanes_of_watcher(number);
        WatcherView {
            counters: watcher.counters,
            position: place(row.generation),
            replay,
            hold: watcher.hold().cloned(),
            open_jobs: lanes.iter().map(|lane| self.lanes[lane].open).sum(),
            row,
        }
    }

    /// What is shown of a watcher's state: a live one that has a position of its own, or that matching has
    /// not brought to the head, catches up; one whose handler's plugin is disabled, or whose handler does not load, waits for it.
    pub(crate) fn shown_state(&self, row: &WatcherRow) -> WatcherState {
        if row.state == WatcherState::Live
            && (self.disabled_plugin_of(row).is_some()
                || self.broken_handler_of(&row.handlers).is_some())
        {
            return WatcherState::WaitingForHandler;
        }
        if row.state == WatcherState::Live && self.passes.has((row.number, row.generation)) {
            return WatcherState::CatchingUp;
        }
        row.shown_state(self.matched_seq, self.head)
    }

    /// A plugin that a watcher's fires wait for because somebody disabled it.
    fn disabled_plugin_of<'a>(&self, row: &'a WatcherRow) -> Option<&'a PluginName> {
        let plugins = row.handlers.iter().filter_map(|handler| handler.plugin.as_ref());
        plugins.into_iter().find(|plugin| self.is_disabled(plugin))
    }
}
