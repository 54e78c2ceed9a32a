//! Handlers whose code is stored as claims: which claims take effect, and what follows.
//!
//! Storing a handler is running code, so that only people's claims do anything, and those of plugins
//! that were granted it; a plugin may say of its own handlers that they do not load. Everything else stays a
//! claim, the audit says so, and nothing changes. Claims take effect in the order of the log, each in
//! the transaction that appends it, also while matching is behind.
//!
//! The table is kept for every context that could be a plugin; a plugin that announces `stored_handlers`
//! has what is in it besides what it announced. A claim touches the one name that it is about: only a new or
//! a removed name lets watchers and lanes be bound anew, and only a broken one that has new code lets lanes go on.
//!
//! Not here: what else a plugin has (`crate::plugins`), the code itself, which the store has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axwatch_model::{
    AttestationId, FAULTED, HANDLER, HandlerChangeKind, HandlerChangeRow, HandlerName, Now, Owner,
    PluginName, REMOVED, ScheduleRow, Seq, Stored, StoredHandler, StoredHandlerState, WatcherKey,
    WatcherNumber, WatcherState, bounds, is_built_in,
};

use crate::record::{HandlerRecord, Record};
use crate::registry::state_of;
use crate::state::{LaneId, PluginState, State};

/// All handlers that were ever stored, by plugin and by the name that jobs have.
#[derive(Debug, Default)]
pub(crate) struct StoredHandlers {
    of: BTreeMap<PluginName, OfPlugin>,
    /// Of all plugins.
    count: usize,
}

#[derive(Debug, Default)]
struct OfPlugin {
    handlers: BTreeMap<HandlerName, StoredHandler>,
    /// How many of them are broken.
    broken: usize,
}

impl StoredHandlers {
    /// As the latest changes left them.
    pub fn restored(rows: Vec<HandlerChangeRow>) -> StoredHandlers {
        let mut stored = StoredHandlers::default();
        for row in rows {
            // A row that could not have been made is as good as none.
            if let Ok(bare) = StoredHandler::bare_name(&row.plugin, &row.name) {
                stored.put(bare, StoredHandler::after(row));
            }
        }
        stored
    }

    fn get(&self, plugin: &PluginName, bare: &HandlerName) -> Option<&StoredHandler> {
        self.of.get(plugin)?.handlers.get(bare)
    }

    fn put(&mut self, bare: HandlerName, handler: StoredHandler) -> Option<StoredHandlerState> {
        let of_plugin = self.of.entry(handler.plugin.clone()).or_default();
        let is_broken =
            |state: &StoredHandlerState| matches!(state, StoredHandlerState::Broken { .. });
        of_plugin.broken += usize::from(is_broken(&handler.state));
        let before = of_plugin.handlers.insert(bare, handler).map(|former| former.state);
        of_plugin.broken -= usize::from(before.as_ref().is_some_and(is_broken));
        self.count += usize::from(before.is_none());
        before
    }

    fn all_of(&self, plugin: &PluginName) -> impl Iterator<Item = (&HandlerName, &StoredHandler)> {
        self.of.get(plugin).into_iter().flat_map(|of_plugin| &of_plugin.handlers)
    }
}

/// A claim that says something of a stored handler, as far as it is understood.
struct Told {
    plugin: PluginName,
    name: HandlerName,
    /// As jobs name it.
    bare: HandlerName,
    says: Says,
}

enum Says {
    /// It has code.
    Code,
    /// It does not load, or is removed; of this version alone, if it says so.
    Fault { reason: String, version: Option<String> },
}

impl Says {
    fn kind(&self) -> HandlerChangeKind {
        match self {
            Says::Code => HandlerChangeKind::Stored,
            Says::Fault { reason, .. } if reason == REMOVED => HandlerChangeKind::Removed,
            Says::Fault { .. } => HandlerChangeKind::Faulted,
        }
    }
}

impl State {
    /// The stored handlers of all plugins, by plugin and name, removed ones too.
    #[must_use]
    pub fn stored_handlers(&self) -> Vec<StoredHandler> {
        let all = self.stored.of.values().flat_map(|of_plugin| of_plugin.handlers.values());
        all.cloned().collect()
    }

    /// The stored handlers of a plugin by name, removed ones too.
    #[must_use]
    pub fn stored_handlers_of(&self, plugin: &PluginName) -> Vec<StoredHandler> {
        self.stored.all_of(plugin).map(|(_, handler)| handler.clone()).collect()
    }

    /// One stored handler, by its plugin and its own name.
    #[must_use]
    pub fn stored_handler(&self, plugin: &PluginName, name: &HandlerName) -> Option<StoredHandler> {
        let bare = StoredHandler::bare_name(plugin, name).ok()?;
        self.stored.get(plugin, &bare).cloned()
    }

    /// Who runs a stored handler and is not retired: watchers in the order of their numbers, and schedules.
    #[must_use]
    pub fn runners_of(&self, handler: &StoredHandler) -> (Vec<WatcherKey>, Vec<ScheduleRow>) {
        let plugin = &handler.plugin;
        let Ok(bare) = StoredHandler::bare_name(plugin, &handler.name) else {
            return Default::default();
        };
        let watchers =
            self.watchers_naming(&bare, |of| of.plugin.as_ref().is_none_or(|p| p == plugin));
        let watchers =
            watchers.into_iter().map(|(number, _)| self.watchers[&number].row.key.clone());
        let names = |row: &&ScheduleRow| {
            HandlerName::parse_qualified(&row.handler)
                .is_ok_and(|(of, named)| named == bare && of.is_none_or(|of| of == *plugin))
        };
        let schedules = self.schedules.standing().filter(names).cloned();
        (watchers.collect(), schedules.collect())
    }

    /// Whether a plugin has a handler, broken or not.
    pub(crate) fn has_handler(&self, plugin: &PluginName, bare: &HandlerName) -> bool {
        let Some(state) = self.plugins.get(plugin) else { return false };
        state.handlers.contains(bare)
            || state.runs_stored()
                && self
                    .stored
                    .get(plugin, bare)
                    .is_some_and(|handler| handler.state != StoredHandlerState::Removed)
    }

    /// Whether the process of a plugin would answer for a handler.
    pub(crate) fn answers_for(&self, plugin: &PluginName, bare: &HandlerName) -> bool {
        let Some(state) = self.plugins.get(plugin) else { return false };
        state.announced.contains(bare) || self.version_of(plugin, bare).is_some()
    }

    /// The version of a stored handler that an attempt runs which starts now.
    pub(crate) fn version_of(
        &self,
        plugin: &PluginName,
        bare: &HandlerName,
    ) -> Option<&AttestationId> {
        self.plugins.get(plugin).filter(|state| state.runs_stored())?;
        let handler = self.stored.get(plugin, bare)?;
        (handler.state == StoredHandlerState::InForce).then_some(&handler.version)
    }

    /// The number of the claim with a handler's newest code; 0 of a handler that is not stored.
    pub(crate) fn version_seq_of(&self, plugin: &PluginName, bare: &HandlerName) -> Seq {
        let runs = self.plugins.get(plugin).is_some_and(PluginState::runs_stored);
        let stored = self.stored.get(plugin, bare).filter(|_| runs);
        stored.map_or(Seq(0), |handler| handler.version_seq)
    }

    /// Why a stored handler of a plugin does not load.
    pub(crate) fn why_broken(&self, plugin: &PluginName, bare: &HandlerName) -> Option<&str> {
        self.plugins.get(plugin).filter(|state| state.runs_stored())?;
        match &self.stored.get(plugin, bare)?.state {
            StoredHandlerState::Broken { reason } => Some(reason),
            _ => None,
        }
    }

    /// The first broken handler among those that a watcher's fires wait for.
    pub(crate) fn broken_handler_of(
        &self,
        handlers: &[axwatch_model::HandlerRef],
    ) -> Option<(HandlerName, &str)> {
        handlers.iter().find_map(|handler| {
            let plugin = handler.plugin.as_ref()?;
            // Mostly there are none, and names need not be read.
            self.stored.of.get(plugin).filter(|of_plugin| of_plugin.broken > 0)?;
            let (_, bare) = HandlerName::parse_qualified(&handler.declared).ok()?;
            let reason = self.why_broken(plugin, &bare)?;
            Some((bare, reason))
        })
    }

    /// The handlers of a plugin: what it announced, and what is stored for it and not removed.
    pub(crate) fn handlers_of<'a>(
        &'a self,
        plugin: &'a PluginName,
        state: &'a PluginState,
    ) -> impl Iterator<Item = &'a HandlerName> {
        let stored = state.runs_stored().then(|| self.stored.all_of(plugin));
        let standing = stored.into_iter().flatten();
        let standing = standing.filter(|(_, handler)| handler.state != StoredHandlerState::Removed);
        state.handlers.iter().chain(standing.map(|(bare, _)| bare))
    }

    /// Whether a handler of this name was ever stored for a plugin.
    pub(crate) fn is_stored(&self, plugin: &PluginName, bare: &HandlerName) -> bool {
        self.stored.get(plugin, bare).is_some()
    }

    /// A claim is the next of the log: what it says of stored handlers takes effect, if it may.
    pub(crate) fn heed(&mut self, stored: &Stored, now: Now) {
        self.heeded_seq = stored.seq;
        self.unwritten.heeded = true;
        let claim = &stored.attestation;
        let is_meant = |predicate: &String| predicate == HANDLER || predicate == FAULTED;
        if !claim.predicates.iter().any(is_meant) {
            return;
        }
        let told = match read(stored) {
            Ok(told) => told,
            // With other contexts it is a claim like any other.
            Err(reason) => {
                let plugins = claim.contexts.iter().filter_map(|context| context.parse().ok());
                let runs = |plugin: &PluginName| {
                    self.plugins.get(plugin).is_some_and(PluginState::runs_stored)
                };
                if let Some(plugin) = plugins.into_iter().find(runs) {
                    let name = claim.subjects.first().map_or("", String::as_str);
                    self.refuse_handler(stored, &plugin, name, &reason, now);
                }
                return;
            }
        };
        let Told { plugin, name, .. } = &told;
        if let Err(reason) = self.check_maker(&told, stored) {
            // Where nothing runs them, it is a claim like any other.
            if self.plugins.get(plugin).is_some_and(PluginState::runs_stored) {
                self.refuse_handler(stored, plugin, name.as_str(), &reason, now);
            }
            return;
        }
        match self.judge(&told, stored) {
            Ok(Some(row)) => self.change_handler(told.bare, row, stored, now),
            Ok(None) => {}
            Err(reason) => self.refuse_handler(stored, plugin, name.as_str(), &reason, now),
        }
    }

    /// A claim is in the log and will be matched later: what it says of handlers need not wait for that, unless
    /// earlier claims wait that may say something of them too.
    pub(crate) fn heed_deferred(&mut self, stored: &Stored, now: Now) {
        if self.heeded_seq.next() == stored.seq {
            self.heed(stored, now);
        }
    }

    /// What claims say that are in the log already, and that no life of the engine heeded.
    pub(crate) fn heed_before(&mut self, claims: &[Stored], upto: Seq, now: Now) {
        for claim in claims {
            if claim.seq > self.heeded_seq {
                self.heed(claim, now);
            }
        }
        self.heeded_seq = self.heeded_seq.max(upto.min(self.head));
        self.unwritten.heeded = true;
    }

    /// What a claim changes; `None` of one that is about something that is over.
    ///
    /// # Errors
    /// Why it may not.
    fn judge(&self, told: &Told, stored: &Stored) -> Result<Option<HandlerChangeRow>, String> {
        let Told { plugin, name, bare, says } = told;
        let before = self.stored.get(plugin, bare);
        // An earlier life of the engine heeded it, and was not done matching.
        if before.is_some_and(|handler| handler.changed_seq >= stored.seq) {
            return Ok(None);
        }
        let row = |version_number, version: &AttestationId, version_seq, reason| HandlerChangeRow {
            seq: stored.seq,
            plugin: plugin.clone(),
            name: name.clone(),
            kind: says.kind(),
            version_number,
            version: version.clone(),
            version_seq,
            reason,
            by: stored.appended_by.clone(),
            at: stored.attestation.created_at,
        };
        match (says, before) {
            (Says::Code, before) => {
                if before.is_none() {
                    self.check_new_name(plugin, bare)?;
                }
                let number = before.map_or(0, |handler| handler.version_number) + 1;
                Ok(Some(row(number, &stored.attestation.id, stored.seq, String::new())))
            }
            (Says::Fault { reason, version }, Some(before)) => {
                let is_over = before.state == StoredHandlerState::Removed
                    || version.as_ref().is_some_and(|text| text != before.version.as_str());
                let reason = match says.kind() {
                    HandlerChangeKind::Removed => String::new(),
                    _ => bounds::cut(reason, bounds::ERROR_BYTES_MAX).to_owned(),
                };
                let is_known = matches!(&before.state, StoredHandlerState::Broken { reason: known }
                    if *known == reason);
                let is_news = !is_known || says.kind() == HandlerChangeKind::Removed;
                let (number, seq) = (before.version_number, before.version_seq);
                Ok((!is_over && is_news).then(|| row(number, &before.version, seq, reason)))
            }
            (Says::Fault { .. }, None) => Ok(None),
        }
    }

    /// Whether whoever appended a claim may change handlers so.
    fn check_maker(&self, told: &Told, stored: &Stored) -> Result<(), String> {
        let Told { plugin, says, .. } = told;
        let by = &stored.appended_by;
        let is_granted = by.parse().is_ok_and(|by| self.policy.handler_makers.contains(&by));
        if by == Owner::User.as_str() || is_granted {
            return Ok(());
        }
        if says.kind() != HandlerChangeKind::Faulted || by != plugin.as_str() {
            return Err(format!(
                "plugin {by} may not store handlers; `handlers = true` under [plugins.{by}] lets it"
            ));
        }
        // What a handler claims bears the name of its plugin too.
        match stored.lineage.parent_job {
            None => Ok(()),
            Some(job) => Err(format!(
                "job {job} of plugin {by} made the claim; that a handler does not load {by} says on its own account, for no job"
            )),
        }
    }

    fn check_new_name(&self, plugin: &PluginName, bare: &HandlerName) -> Result<(), String> {
        let state = self.plugins.get(plugin).filter(|state| state.runs_stored());
        let is_announced = state.is_some_and(|state| state.handlers.contains(bare));
        if is_announced || is_built_in(plugin, bare) {
            return Err(format!(
                "{bare} is a handler of plugin {plugin} itself; store it under another name"
            ));
        }
        let max = self.policy.bounds.stored_handlers_max;
        if self.stored.count >= max {
            return Err(format!(
                "{max} handlers are stored, removed ones among them, and there is no room for more; store it under a name that there is"
            ));
        }
        Ok(())
    }

    fn refuse_handler(
        &mut self,
        stored: &Stored,
        plugin: &PluginName,
        name: &str,
        reason: &str,
        now: Now,
    ) {
        self.record(&Record::Handler(HandlerRecord {
            at: now.wall,
            attestation: &stored.attestation.id,
            by: &stored.appended_by,
            name: bounds::cut(name, bounds::ID_BYTES_MAX),
            plugin: plugin.as_str(),
            reason: Some(reason),
            seq: stored.seq,
            r#type: "handler_refused",
            version: None,
            version_number: None,
        }));
    }

    fn change_handler(
        &mut self,
        bare: HandlerName,
        row: HandlerChangeRow,
        stored: &Stored,
        now: Now,
    ) {
        self.record(&Record::Handler(HandlerRecord {
            at: now.wall,
            attestation: &stored.attestation.id,
            by: &row.by,
            name: row.name.as_str(),
            plugin: row.plugin.as_str(),
            reason: Some(&*row.reason).filter(|reason| !reason.is_empty()),
            seq: row.seq,
            r#type: match row.kind {
                HandlerChangeKind::Stored => "handler_stored",
                HandlerChangeKind::Faulted => "handler_faulted",
                HandlerChangeKind::Removed => "handler_removed",
            },
            version: Some(&row.version),
            version_number: Some(row.version_number),
        }));
        self.unwritten.handler_changes.push(row.clone());
        let (plugin, kind) = (row.plugin.clone(), row.kind);
        let before = self.stored.put(bare.clone(), StoredHandler::after(row));
        if !self.plugins.get(&plugin).is_some_and(PluginState::runs_stored) {
            return;
        }
        match (kind, before) {
            (HandlerChangeKind::Stored, None | Some(StoredHandlerState::Removed)) => {
                self.handler_came(&plugin, &bare, now);
            }
            (HandlerChangeKind::Stored, Some(StoredHandlerState::Broken { .. })) => {
                self.schedule_handler(&plugin, &bare);
                // Another code may do what that did not.
                self.forget_breaker(&plugin, &bare, now);
            }
            (HandlerChangeKind::Stored, Some(StoredHandlerState::InForce)) => {
                self.forget_breaker(&plugin, &bare, now);
            }
            // Its lanes leave the turns when theirs come.
            (HandlerChangeKind::Faulted, _) => {}
            (HandlerChangeKind::Removed, _) => self.handler_went(&plugin, &bare, now),
        }
    }

    /// A plugin has a handler of a new name: who waited for it is bound to it.
    fn handler_came(&mut self, plugin: &PluginName, bare: &HandlerName, now: Now) {
        for (number, index) in self.watchers_naming(bare, |of| of.plugin.is_none()) {
            let declared = self.watchers[&number].row.handlers[index].declared.clone();
            if let Ok(Some(plugin)) = self.resolve_handler(&declared) {
                self.bind(number, index, &plugin, now);
            }
        }
        self.rebind_lanes_of(bare);
        self.schedule_handler(plugin, bare);
    }

    /// Nobody has a handler any more: watchers of people wait until somebody does.
    fn handler_went(&mut self, plugin: &PluginName, bare: &HandlerName, now: Now) {
        for (number, index) in self.watchers_naming(bare, |of| of.plugin.as_ref() == Some(plugin)) {
            let watcher = self.watchers.get_mut(&number).expect("listed just now");
            let row = &mut watcher.row;
            // Those of plugins run their own handlers, and are retired when these are announced no more.
            if row.key.owner != Owner::User {
                continue;
            }
            Arc::make_mut(&mut row.handlers)[index].plugin = None;
            row.updated_at = now.wall;
            if row.state == WatcherState::Live {
                row.state = state_of(row);
            }
            let declared = row.handlers[index].declared.clone();
            self.unbound.insert(number);
            self.unwritten.watchers.insert(number);
            if let Ok(Some(other)) = self.resolve_handler(&declared) {
                self.bind(number, index, &other, now);
            }
        }
        self.rebind_lanes_of(bare);
        self.forget_breaker(plugin, bare, now);
    }

    /// A plugin runs stored handlers again: those that were removed meanwhile it does not have.
    pub(crate) fn handlers_went_meanwhile(&mut self, plugin: &PluginName, now: Now) {
        let is_gone = |bare: &HandlerName| {
            let stored = self.stored.get(plugin, bare);
            stored.is_some_and(|handler| handler.state == StoredHandlerState::Removed)
        };
        let watched = self.watchers.values().flat_map(|watcher| &*watcher.row.handlers);
        let watched = watched.filter(|handler| handler.plugin.as_ref() == Some(plugin));
        let watched = watched.filter_map(|handler| {
            HandlerName::parse_qualified(&handler.declared).ok().map(|(_, bare)| bare)
        });
        let lanes = self.lanes.values().filter(|lane| lane.plugin.as_ref() == Some(plugin));
        let lanes = lanes.map(|lane| lane.bare.clone());
        let gone: BTreeSet<_> = watched.chain(lanes).filter(is_gone).collect();
        gone.iter().for_each(|bare| self.handler_went(plugin, bare, now));
    }

    /// The watchers that name a handler, each with the places in their rows for which this holds.
    fn watchers_naming(
        &self,
        bare: &HandlerName,
        holds: impl Fn(&axwatch_model::HandlerRef) -> bool,
    ) -> Vec<(WatcherNumber, usize)> {
        let names = |declared: &str| {
            declared.ends_with(bare.as_str())
                && HandlerName::parse_qualified(declared).is_ok_and(|(_, named)| named == *bare)
        };
        let mut found = Vec::new();
        for watcher in self.watchers.values() {
            if watcher.row.state == WatcherState::Retired {
                continue;
            }
            for (index, handler) in watcher.row.handlers.iter().enumerate() {
                if holds(handler) && names(&handler.declared) {
                    found.push((watcher.row.number, index));
                }
            }
        }
        found.sort_unstable();
        found
    }

    fn lanes_naming(&self, bare: &HandlerName) -> Vec<LaneId> {
        let lanes = self.lanes.iter().filter(|(_, lane)| lane.bare == *bare);
        let mut lanes: Vec<_> = lanes.map(|(id, _)| *id).collect();
        lanes.sort_unstable();
        lanes
    }

    /// Lets the lanes of a handler follow whoever has it now.
    fn rebind_lanes_of(&mut self, bare: &HandlerName) {
        for lane_id in self.lanes_naming(bare) {
            let lane = &self.lanes[&lane_id];
            let plugin = self.plugin_of(&lane.key, lane.plugin.as_ref());
            self.move_lane(lane_id, plugin);
            self.schedule(lane_id);
        }
    }

    /// Schedules the lanes of a handler that may start again.
    fn schedule_handler(&mut self, plugin: &PluginName, bare: &HandlerName) {
        for lane_id in self.lanes_naming(bare) {
            self.schedule(lane_id);
        }
        // Suspects stand in no lane.
        self.to_pump.insert(plugin.clone());
    }
}

impl PluginState {
    /// Whether handlers that are stored with its name as context are its own.
    pub(crate) fn runs_stored(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.stored_handlers)
    }
}

/// What a claim says of a stored handler.
///
/// # Errors
/// What is wrong with one that has such a predicate.
fn read(stored: &Stored) -> Result<Told, String> {
    let claim = &stored.attestation;
    let form = "a claim on a handler has one subject (its name), one predicate (handler or handler:faulted) and one context (the plugin that runs it)";
    let ([name], [predicate], [context]) =
        (&claim.subjects[..], &claim.predicates[..], &claim.contexts[..])
    else {
        return Err(form.to_owned());
    };
    let plugin: PluginName = context.parse().map_err(|error| format!("context: {error}"))?;
    if name.contains('/') {
        return Err(format!(
            "subject {:?}: the name of a handler has no '/', which stands between plugin and handler",
            bounds::cut(name, bounds::ID_BYTES_MAX)
        ));
    }
    let name: HandlerName = name.parse().map_err(|error| format!("subject: {error}"))?;
    let bare = StoredHandler::bare_name(&plugin, &name)
        .map_err(|error| format!("subject: with its plugin's name, {error}"))?;
    let attributes = claim.attributes.as_ref().map(axwatch_model::Attributes::to_value);
    let text = |key: &str| attributes.as_ref()?.get(key)?.as_str();
    let says = if predicate == HANDLER {
        text("code").ok_or("attributes: code is missing; the code of a handler is a text")?;
        Says::Code
    } else {
        let reason = text("reason").ok_or("attributes: reason is missing; it is a text")?;
        Says::Fault { reason: reason.to_owned(), version: text("version").map(str::to_owned) }
    };
    Ok(Told { plugin, name, bare, says })
}
