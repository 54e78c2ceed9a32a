//! Loops: a chain of causes that comes back to where it was.
//!
//! A claim whose cause is sure knows the watchers that led to it. A chain that is too long, or has a
//! watcher too often, makes no further job. A loop whose claims do not say who made them shows only by
//! its rate: then the plugin that makes them runs one job at a time for a while, which tells whose claim
//! is whose, and its chain ends like any other, or the suspicion was wrong.

use std::sync::Arc;
use std::time::Duration;

use axwatch_model::{
    LineageKind, Mono, Now, PluginName, Stored, WatcherNumber, WatcherState, bounds,
};

use crate::record::{LoopRecord, Record};
use crate::state::{State, Timer};

/// A claim may be so many steps away from the first cause.
pub const DEPTH_MAX: usize = 16;
/// A watcher may be so often in one chain, unless it declares more.
pub const CHAIN_MAX: u32 = 4;

/// How the error of a watcher begins that was paused for a loop.
pub(crate) const SUSPECTED: &str = "a loop is suspected: ";

/// So many fires within [`WINDOW`] are worth a look.
const FIRES: u32 = 1_000;
const WINDOW: Duration = Duration::from_secs(60);
/// Fires are counted by so many parts of the window.
const PARTS: usize = 6;
/// How long a plugin runs one job at a time at most.
const WATCHED: Duration = Duration::from_secs(60);
/// How long a watcher that was cleared is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(60 * 60);

/// What is known of a watcher that fires for unsure claims of its own plugin.
#[derive(Debug, Default)]
pub(crate) struct LoopWatch {
    /// Fires, and those of unsure claims, by part of the window; with the number of the part.
    parts: [(u64, u32, u32); PARTS],
    /// Until then its plugin runs one job at a time.
    watched_until: Option<Mono>,
    /// Until then it is not looked at again.
    alone_until: Option<Mono>,
}

impl LoopWatch {
    fn count(&mut self, is_unsure: bool, now: Mono) {
        let number = now.0 / part_nanos();
        let part = &mut self.parts[(number % PARTS as u64) as usize];
        if part.0 != number {
            *part = (number, 0, 0);
        }
        part.1 += 1;
        part.2 += u32::from(is_unsure);
    }

    fn is_suspicious(&self, now: Mono) -> bool {
        let oldest = (now.0 / part_nanos()).saturating_sub(PARTS as u64 - 1);
        let recent = self.parts.iter().filter(|(number, ..)| *number >= oldest);
        let (fires, unsure) =
            recent.fold((0, 0), |(fires, unsure), (_, f, u)| (fires + f, unsure + u));
        fires >= FIRES && u64::from(unsure) * 100 >= u64::from(fires) * 95
    }
}

fn part_nanos() -> u64 {
    WINDOW.as_nanos() as u64 / PARTS as u64
}

/// Why a chain of causes ends at a watcher, by what its claim says of it: the watchers that led there, and
/// what the watcher declares.
#[must_use]
pub fn chain_ends(
    chain: &[Option<WatcherNumber>],
    watcher: WatcherNumber,
    max_chain: Option<u32>,
) -> Option<String> {
    let max = max_chain.unwrap_or(CHAIN_MAX);
    let times = chain.iter().filter(|by| **by == Some(watcher)).count();
    if times >= max as usize {
        return Some(format!(
            "it has fired {times} times in this chain of causes, and may {max} times"
        ));
    }
    let depth_max = DEPTH_MAX.max(max as usize);
    (chain.len() > depth_max).then(|| {
        format!(
            "the claim is {} steps away from the first cause, and may be {depth_max}",
            chain.len()
        )
    })
}

impl State {
    /// Whether the chain of causes ends here, so that the match makes no job. Says so in the audit.
    pub(crate) fn stops_loop(&mut self, number: WatcherNumber, stored: &Stored, now: Now) -> bool {
        let chain = &stored.lineage.chain;
        if chain.is_empty() || stored.lineage.kind == LineageKind::Unsure {
            return false;
        }
        let watcher = &self.watchers[&number];
        let Some(reason) = chain_ends(chain, number, watcher.row.max_chain) else { return false };
        let is_watched = watcher.loop_watch.as_ref().is_some_and(|w| w.watched_until.is_some());
        self.record_loop(number, "loop_stopped", &reason, Some(stored), None, now);
        if is_watched {
            self.suspect_loop(number, &reason, stored, now);
        }
        true
    }

    fn record_loop(
        &mut self,
        number: WatcherNumber,
        kind: &'static str,
        reason: &str,
        stored: Option<&Stored>,
        plugin: Option<&PluginName>,
        now: Now,
    ) {
        let none: Arc<str> = "-".into();
        let shown = |by: &Option<WatcherNumber>| {
            let watcher = by.and_then(|by| self.watchers.get(&by));
            watcher.map_or_else(|| none.clone(), |watcher| watcher.shown())
        };
        let chain = stored.map(|stored| stored.lineage.chain.iter().map(shown).collect());
        let watcher = self.watchers[&number].shown();
        self.record(&Record::Loop(LoopRecord {
            at: now.wall,
            attestation: stored.map(|stored| &stored.attestation.id),
            chain: chain.unwrap_or_default(),
            depth: stored.map(|stored| stored.lineage.depth),
            plugin: plugin.map(PluginName::as_str),
            reason,
            seq: stored.map(|stored| stored.seq),
            r#type: kind,
            watcher: &watcher,
        }));
    }

    /// Counts a fire, and looks closer when it may be one of a loop that hides.
    pub(crate) fn count_for_loops(&mut self, number: WatcherNumber, stored: &Stored, now: Now) {
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        let by = stored.appended_by.as_str();
        let own = watcher.row.handlers.iter().filter_map(|handler| handler.plugin.as_ref());
        let own = own.into_iter().find(|plugin| plugin.as_str() == by).cloned();
        let is_unsure = own.is_some() && stored.lineage.kind == LineageKind::Unsure;
        if watcher.loop_watch.is_none() && !is_unsure {
            return;
        }
        let watch = watcher.loop_watch.get_or_insert_default();
        watch.count(is_unsure, now.mono);
        let Some(plugin) = own.filter(|_| is_unsure) else { return };
        let is_left_alone = watch.alone_until.is_some_and(|until| now.mono < until);
        if watch.watched_until.is_some() || is_left_alone || !watch.is_suspicious(now.mono) {
            return;
        }
        let until = now.mono.plus(WATCHED);
        watch.watched_until = Some(until);
        self.timers.insert((until, Timer::LoopWatch(number)));
        let state = self.plugin_entry(&plugin);
        state.serial_until = Some(until);
        self.timers.insert((until, Timer::Plugin(plugin.clone())));
        let reason = "it fires often, and nearly always for claims of its own plugin that do not say which job made them: the plugin runs one job at a time for up to 60 s, which tells";
        self.record_loop(number, "loop_watched", reason, None, Some(&plugin), now);
    }

    /// A watcher that is watched has come back to itself: it is paused.
    fn suspect_loop(&mut self, number: WatcherNumber, reason: &str, stored: &Stored, now: Now) {
        self.record_loop(number, "loop_suspected", reason, Some(stored), None, now);
        self.end_watch(number, None, now);
        let watcher = &self.watchers[&number];
        if matches!(watcher.row.state, WatcherState::Live | WatcherState::WaitingForHandler)
            && self.pause(number, false, now).is_ok()
        {
            let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
            let shown = watcher.shown();
            let error = format!(
                "{SUSPECTED}{reason}; claim {} was the last of it. Mend its handler, then `axwatch watch resume {shown}`",
                stored.attestation.id
            );
            watcher.row.error = Some(bounds::cut(&error, bounds::ERROR_BYTES_MAX).to_owned());
        }
    }

    /// The time is over in which a loop would have shown itself.
    pub(crate) fn clear_loop(&mut self, number: WatcherNumber, now: Now) {
        let Some(watcher) = self.watchers.get_mut(&number) else { return };
        let watch = watcher.loop_watch.as_deref_mut();
        if watch.is_some_and(|watch| watch.watched_until.is_some_and(|until| until <= now.mono)) {
            self.end_watch(number, Some(now.mono.plus(LEFT_ALONE)), now);
            let reason = "no chain of causes came back to it";
            self.record_loop(number, "loop_cleared", reason, None, None, now);
        }
    }

    fn end_watch(&mut self, number: WatcherNumber, alone_until: Option<Mono>, now: Now) {
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        let plugins: Vec<_> =
            watcher.row.handlers.iter().filter_map(|handler| handler.plugin.clone()).collect();
        watcher.loop_watch = Some(Box::new(LoopWatch { alone_until, ..LoopWatch::default() }));
        // The plugin may still be watched for another watcher.
        let others = |plugin: &PluginName| {
            self.watchers.values().any(|other| {
                other.loop_watch.as_ref().is_some_and(|watch| watch.watched_until.is_some())
                    && other.row.handlers.iter().any(|h| h.plugin.as_ref() == Some(plugin))
            })
        };
        for plugin in plugins {
            let is_watched = others(&plugin);
            if let Some(state) = self.plugins.get_mut(&plugin)
                && state.serial_until.is_some()
                && !is_watched
            {
                state.serial_until = None;
                self.timers.insert((now.mono, Timer::Plugin(plugin)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_ends_by_its_length_and_by_who_is_in_it() {
        let w = |n: u64| Some(WatcherNumber(n));
        let me = WatcherNumber(1);
        let ends = |chain: &[Option<WatcherNumber>], max| chain_ends(chain, me, max).is_some();
        assert!(!ends(&[w(1); 3], None));
        assert!(ends(&[w(1); 4], None));
        assert!(!ends(&[w(1); 4], Some(5)));
        assert!(ends(&[w(1), w(2)], Some(1)));
        let others: Vec<_> = (2..30).map(w).collect();
        assert!(!ends(&others[..16], None));
        assert!(ends(&others[..17], None));
        assert!(!ends(&others[..17], Some(20)));
        assert!(!ends(&[None; 16], None));
    }

    #[test]
    fn only_many_fires_of_unsure_claims_within_a_minute_are_suspicious() {
        let second = 1_000_000_000;
        let mut watch = LoopWatch::default();
        (0..999).for_each(|n| watch.count(true, Mono(n * second / 100)));
        assert!(!watch.is_suspicious(Mono(10 * second)));
        watch.count(true, Mono(11 * second));
        assert!(watch.is_suspicious(Mono(11 * second)));
        assert!(!watch.is_suspicious(Mono(80 * second)), "a minute later");
        let mut mixed = LoopWatch::default();
        (0..1_000).for_each(|n| mixed.count(n % 10 > 0, Mono(n)));
        assert!(!mixed.is_suspicious(Mono(1_000)), "nine in ten");
    }
}
