//! Watchers: what is declared, what is refused, and who answers for their handlers.
//!
//! Not here: what else a plugin announces (`crate::plugins`), what holds a watcher (`crate::holds`).

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axwatch_model::{
    Attributes, Counters, Declared, HandlerName, HandlerRef, LeafNumber, LocalId, Now, Owner,
    PluginName, RevisionRow, Seq, StructuralFilter, WatcherKey, WatcherNumber, WatcherRow,
    WatcherState, bounds,
};
use axwatch_query::{Filter, Mistakes};

use crate::event::{Answer, Declaration, Effect, Refusal, RefusalKind, Since, WatcherCommand};
use crate::names::hash_of;
use crate::record::{Record, WatcherRecord};
use crate::redaction::{Redaction, UNSAID};
use crate::state::{Lane, State, Watcher};

/// How the error of a watcher begins whose text is no AX any more.
pub(crate) const BROKEN: &str = "its text is not understood any more: ";
/// Bytes that are kept of what a refused watcher waits for.
const REFUSED_BYTES_MAX: usize = 4 * 1024;
/// Refused watchers of one announcement that the audit and the log are told of one by one.
const REFUSED_TOLD_MAX: usize = 1_000;

/// A declaration that has been found good.
struct Checked {
    key: WatcherKey,
    declared: Declared,
    filter: Filter,
    handlers: Arc<[HandlerRef]>,
    params: Option<Arc<str>>,
    /// `Some(0)` is "never", as some plugins mean a zero.
    max_fires_per_second: Option<u32>,
    max_chain: Option<u32>,
    max_attempts: Option<u32>,
    max_age_ms: Option<u64>,
    /// The claims after this one are seen by a new watcher; `None` is those that come.
    since_seq: Option<Seq>,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, reason: impl Into<String>) -> Refusal {
        Refusal { kind, reason: reason.into(), mistakes: None }
    }

    fn invalid(reason: impl Into<String>) -> Refusal {
        Refusal::new(RefusalKind::Invalid, reason)
    }
}

impl State {
    /// Declares a watcher that a plugin announced: of several with one id, the first. What was refused of its
    /// last announcement for the same reason is refused again, and not told again. Refusals have no
    /// secrets in them.
    pub(crate) fn declare_announced(
        &mut self,
        plugin: &PluginName,
        declaration: Declaration,
        is_first: bool,
        redaction: &Redaction,
        telling: &mut Telling,
        now: Now,
    ) -> Result<(), Refusal> {
        let owner = Owner::Plugin(plugin.clone());
        let checked = match is_first {
            true => self.check(&owner, &declaration),
            false => Err(declared_twice(&declaration.local)),
        };
        let refusal = match checked {
            Ok(checked) => {
                self.apply(checked, now);
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        let told = redaction.of_watcher(&declaration);
        let refusal = match &told {
            Some(told) if is_first => self.check_told(&owner, told, refusal.kind),
            _ => refusal,
        };
        let refusal = Refusal { reason: redaction.of(refusal.reason), ..refusal };
        let was_told = telling.was_told(&declaration.local, &refusal);
        let declaration = told.unwrap_or(declaration);
        // Of two under one id it is the first that is kept.
        let is_news = !is_first || self.note_refused(&owner, &declaration, &refusal, now);
        if is_news && !was_told && telling.has_room(&refusal) {
            self.tell_refused(&owner, &declaration, &refusal, now);
        }
        Err(refusal)
    }

    /// So much was told of the refused watchers of an announcement; the rest is told in a word.
    pub(crate) fn told_of(&mut self, plugin: &PluginName, telling: Telling, now: Now) {
        self.tell_more_refused(&Owner::Plugin(plugin.clone()), &telling, now);
        self.plugin_entry(plugin).told = telling.refused;
    }

    /// The watchers of an owner that are not retired, by local id; refused ones are among them.
    pub(crate) fn watchers_of(&self, owner: &Owner) -> Vec<WatcherNumber> {
        let of_owner = self.rows_of.get(owner).into_iter().flat_map(|rows| &rows.numbers);
        let is_there =
            |number: &&WatcherNumber| self.watchers[*number].row.state != WatcherState::Retired;
        let mut numbers: Vec<_> = of_owner.filter(is_there).copied().collect();
        numbers.sort_unstable_by_key(|number| &self.watchers[number].row.key.local);
        numbers
    }

    /// A person declares a watcher: new, changed, or as it stands. A refusal leaves what stands alone.
    pub(crate) fn declare_by_user(&mut self, declaration: Declaration, now: Now) -> Answer {
        Answer::Watcher(match self.check(&Owner::User, &declaration) {
            Ok(checked) => {
                let number = self.apply(checked, now);
                Ok(Box::new(self.watchers[&number].row.clone()))
            }
            Err(refusal) => {
                self.note_refused(&Owner::User, &declaration, &refusal, now);
                self.tell_refused(&Owner::User, &declaration, &refusal, now);
                Err(refusal)
            }
        })
    }

    /// Whether a plugin's watcher stands just as it is declared again. A plugin declares all that it has whenever
    /// it starts, so mostly this is all that has to be known of a declaration; where it is not plain to see,
    /// the answer is no, and the declaration is read.
    pub(crate) fn stands_so(
        &self,
        plugin: &PluginName,
        declaration: &Declaration,
        looking: &mut Looking,
    ) -> bool {
        let Some(number) =
            self.names.shown(looking.shown(plugin, &declaration.local), &self.watchers)
        else {
            return false;
        };
        let watcher = &self.watchers[&number];
        let row = &watcher.row;
        let is_this = |key: &WatcherKey| {
            key.local.as_str() == declaration.local
                && matches!(&key.owner, Owner::Plugin(owner) if owner == plugin)
        };
        let is_bound = |handler: &HandlerRef| {
            handler.plugin.as_ref() == Some(plugin) && looking.has(self, plugin, &handler.declared)
        };
        // That a text was AX in another life says nothing of this one.
        self.is_understood()
            && is_this(&row.key)
            && watcher.stands()
            && row.error.is_none()
            && row.declared == declaration.declared
            && !may_name_handlers(&row.declared)
            && row.handlers.iter().map(|handler| &*handler.declared).eq(&declaration.handlers)
            && row.handlers.iter().all(is_bound)
            && row.params.as_deref() == declaration.params.as_deref()
            && check_rate(declaration).is_ok_and(|rate| rate == row.max_fires_per_second)
            && check_chain(declaration.max_chain).is_ok_and(|max| max == row.max_chain)
            && check_attempts(declaration.max_attempts).is_ok_and(|max| max == row.max_attempts)
            && check_age(declaration.max_age).is_ok_and(|age| age == row.max_age_ms)
            && self.check_since(declaration.since.as_ref()).is_ok()
    }

    fn check(&self, owner: &Owner, declaration: &Declaration) -> Result<Checked, Refusal> {
        let local: LocalId =
            declaration.local.parse().map_err(|error| Refusal::invalid(format!("{error}")))?;
        let key = WatcherKey { owner: owner.clone(), local };
        self.check_shown(&key)?;
        self.check_room(&key)?;
        let (filter, actions) = check_declared(&declaration.declared)?;
        let mut handlers = Vec::new();
        for text in actions.iter().chain(&declaration.handlers) {
            let handler = self.check_handler(owner, text)?;
            if !handlers.contains(&handler) {
                handlers.push(handler);
            }
        }
        if handlers.is_empty() {
            return Err(Refusal::invalid(
                "the watcher has no handler; name one with `so HANDLER` in its text or with --run HANDLER",
            ));
        }
        check_handler_count(handlers.len())?;
        Ok(Checked {
            key,
            declared: declaration.declared.clone(),
            filter,
            handlers: handlers.into(),
            params: check_params(declaration.params.as_deref())?,
            max_fires_per_second: check_rate(declaration)?,
            max_chain: check_chain(declaration.max_chain)?,
            max_attempts: check_attempts(declaration.max_attempts)?,
            max_age_ms: check_age(declaration.max_age)?,
            since_seq: self.check_since(declaration.since.as_ref())?,
        })
    }

    /// Why a watcher is refused whose declaration holds secrets: what is wrong with it without them. The reason
    /// itself may quote a part of a secret, in which nobody would know it again.
    fn check_told(&self, owner: &Owner, told: &Declaration, kind: RefusalKind) -> Refusal {
        self.check(owner, told).err().unwrap_or_else(|| Refusal::new(kind, UNSAID))
    }

    /// The claims after the one that this answers are seen.
    fn check_since(&self, since: Option<&Since>) -> Result<Option<Seq>, Refusal> {
        match since {
            None => Ok(None),
            Some(Since::First(seq)) if *seq <= self.head.next() => {
                Ok(Some(Seq(seq.0.saturating_sub(1))))
            }
            Some(Since::First(seq)) => Err(Refusal::invalid(format!(
                "since {seq}: the log ends at {}; a watcher begins at {} at the latest",
                self.head,
                self.head.next()
            ))),
            Some(Since::Nowhere(reason)) => Err(Refusal::invalid(format!("since: {reason}"))),
            Some(Since::Written(text)) => {
                Err(Refusal::invalid(format!("since: {text:?} was not looked up in the log")))
            }
        }
    }

    /// Two owners may not have watchers that people see under one id: `a` with `b-c`, `a-b` with `c`.
    fn check_shown(&self, key: &WatcherKey) -> Result<(), Refusal> {
        let shown = key.to_string();
        let Some(number) = self.names.shown(&shown, &self.watchers) else { return Ok(()) };
        let standing = &self.watchers[&number].row.key;
        if standing == key {
            return Ok(());
        }
        let reason = format!(
            "the id {shown} is taken: watcher {:?} of {} has it; choose another id than {:?} for {}",
            standing.local.as_str(),
            standing.owner,
            key.local.as_str(),
            key.owner
        );
        Err(Refusal::new(RefusalKind::Conflict, reason))
    }

    /// What is retired stays, so that a plugin with ever new ids would fill the store.
    fn check_room(&self, key: &WatcherKey) -> Result<(), Refusal> {
        let Owner::Plugin(plugin) = &key.owner else { return Ok(()) };
        if self.with_key(key).is_some() || self.may_have_another(&key.owner) {
            return Ok(());
        }
        let max = self.policy.bounds.plugin_watchers_max;
        let reason = format!(
            "plugin {plugin} has {max} watchers, refused and retired ones among them, and no plugin may have more; declare watchers under the same ids again"
        );
        Err(Refusal::new(RefusalKind::Exhausted, reason))
    }

    fn may_have_another(&self, owner: &Owner) -> bool {
        let max = self.policy.bounds.plugin_watchers_max;
        self.rows_of
            .get(owner)
            .is_none_or(|rows| rows.numbers.len() < max || !rows.spare.is_empty())
    }

    fn with_key(&self, key: &WatcherKey) -> Option<WatcherNumber> {
        self.names.with_key(key, &self.watchers)
    }

    /// The watcher with this key, if there is one that ever stood or that somebody still names.
    fn known(&self, key: &WatcherKey) -> Option<WatcherNumber> {
        let number = self.with_key(key)?;
        let is_spare = self.rows_of[&key.owner].spare.contains(&number);
        (!is_spare).then_some(number)
    }

    /// The number of a new watcher: that of a spare row of its owner, its own if it has one.
    fn new_number(&mut self, key: &WatcherKey) -> WatcherNumber {
        let own = self.with_key(key);
        let rows = self.rows_of.entry(key.owner.clone()).or_default();
        let Some(number) = own.or_else(|| rows.spare.first().copied()) else {
            self.last_watcher = self.last_watcher.next();
            return self.last_watcher;
        };
        rows.spare.remove(&number);
        let former = self.watchers.remove(&number).expect("a spare row is one");
        self.names.remove(&former.row.key, number);
        number
    }

    fn check_handler(&self, owner: &Owner, text: &str) -> Result<HandlerRef, Refusal> {
        let (named, bare) = HandlerName::parse_qualified(text)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let plugin = match owner {
            Owner::User => self.resolve_handler(text)?,
            Owner::Plugin(plugin) => {
                let own = named.as_ref().is_none_or(|named| named == plugin);
                if !own || !self.has_handler(plugin, &bare) {
                    let reason = format!(
                        "handler {text}: plugin {plugin} did not announce it; a plugin's watchers run its own handlers"
                    );
                    return Err(Refusal::invalid(reason));
                }
                Some(plugin.clone())
            }
        };
        Ok(HandlerRef { declared: text.into(), plugin })
    }

    /// Who answers for a handler, as a person names it; `None` when nobody does.
    ///
    /// # Errors
    /// A bare name that several plugins have, with all of them.
    pub(crate) fn resolve_handler(&self, text: &str) -> Result<Option<PluginName>, Refusal> {
        let (named, bare) = HandlerName::parse_qualified(text)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let having: Vec<_> = self
            .plugins
            .keys()
            .filter(|plugin| {
                named.as_ref().is_none_or(|named| named == *plugin)
                    && self.has_handler(plugin, &bare)
            })
            .collect();
        match having.as_slice() {
            [] => Ok(None),
            [plugin] => Ok(Some((*plugin).clone())),
            several => {
                let candidates: Vec<_> =
                    several.iter().map(|plugin| format!("{plugin}/{bare}")).collect();
                let reason =
                    format!("handler {bare} is ambiguous; name one of {}", candidates.join(", "));
                Err(Refusal::new(RefusalKind::Conflict, reason))
            }
        }
    }

    pub(crate) fn unknown_handler(&self, text: &str) -> Refusal {
        let known: Vec<_> = self
            .plugins
            .iter()
            .flat_map(|(plugin, state)| {
                let handlers = self.handlers_of(plugin, state);
                handlers.map(move |handler| format!("{plugin}/{handler}"))
            })
            .take(20)
            .collect();
        let known = if known.is_empty() {
            "no plugin has announced any".to_owned()
        } else {
            format!("known are {}", known.join(", "))
        };
        let disabled: Vec<_> = self.plugins.keys().filter(|name| self.is_disabled(name)).collect();
        let named = HandlerName::parse_qualified(text).ok().and_then(|(plugin, _)| plugin);
        let disabled = match (named.filter(|plugin| self.is_disabled(plugin)), &disabled[..]) {
            (Some(plugin), _) => {
                format!(
                    "; plugin {plugin} is disabled: `axwatch plugin enable {plugin}` lets it run again"
                )
            }
            (None, []) => String::new(),
            (None, several) => {
                let names = several.iter().take(20).map(|name| name.as_str());
                let names = names.collect::<Vec<_>>().join(", ");
                format!("; disabled are {names}: `axwatch plugin enable` lets one run again")
            }
        };
        let reason = format!("nobody has the handler {text:?}; {known}{disabled}");
        Refusal::new(RefusalKind::NotFound, reason)
    }

    fn apply(&mut self, checked: Checked, now: Now) -> WatcherNumber {
        let Some(number) = self.known(&checked.key) else {
            let number = self.new_number(&checked.key);
            let row = WatcherRow {
                number,
                key: checked.key.clone(),
                revision: 0,
                generation: self.first_generation,
                declared: checked.declared.clone(),
                handlers: Arc::default(),
                params: None,
                max_fires_per_second: None,
                max_chain: None,
                max_attempts: None,
                max_age_ms: None,
                last_generation: self.first_generation,
                state: WatcherState::Refused,
                error: None,
                since_seq: self.head,
                created_at: now.wall,
                updated_at: now.wall,
            };
            self.insert_watcher(row);
            return self.put(number, checked, now);
        };
        self.put(number, checked, now)
    }

    /// Makes the watcher what its declaration says. The same as before changes nothing.
    fn put(&mut self, number: WatcherNumber, checked: Checked, now: Now) -> WatcherNumber {
        let watcher = self.watchers.get_mut(&number).expect("the caller knows the watcher");
        let standing = watcher.stands();
        let row = &mut watcher.row;
        let same = row.declared == checked.declared
            && row.handlers == checked.handlers
            && row.params == checked.params
            && row.max_fires_per_second == checked.max_fires_per_second
            && row.max_chain == checked.max_chain
            && row.max_attempts == checked.max_attempts
            && row.max_age_ms == checked.max_age_ms;
        if standing && same {
            // What a declaration does not mend stays told: a broken text, and a loop that was suspected.
            let stays = |error: &String| {
                row.state == WatcherState::Broken
                    || error.starts_with(BROKEN)
                    || error.starts_with(crate::loops::SUSPECTED)
            };
            if row.error.as_ref().is_some_and(|error| !stays(error)) {
                row.error = None;
                self.unwritten.watchers.insert(number);
            }
            return number;
        }
        if row.state == WatcherState::Retired {
            row.last_generation += 1;
            row.generation = row.last_generation;
        }
        if !standing {
            row.since_seq = checked.since_seq.unwrap_or(self.head);
        }
        let limit_changed = !standing || row.max_fires_per_second != checked.max_fires_per_second;
        row.revision += 1;
        row.declared = checked.declared;
        row.handlers = checked.handlers;
        if is_unbound(row) {
            self.unbound.insert(number);
        }
        row.params = checked.params;
        row.max_fires_per_second = checked.max_fires_per_second;
        row.max_chain = checked.max_chain;
        row.max_attempts = checked.max_attempts;
        row.max_age_ms = checked.max_age_ms;
        row.updated_at = now.wall;
        row.error.take_if(|error| !error.starts_with(crate::loops::SUSPECTED));
        if watcher.held.as_ref().is_none_or(|held| held.hold.is_none()) {
            row.state = state_of(row);
            row.error = None;
        }
        watcher.note_held(now.mono);
        let since_seq = watcher.row.since_seq;
        if limit_changed {
            self.set_limit(number, checked.max_fires_per_second, now.mono);
        }
        if checked.max_fires_per_second == Some(0) {
            self.end_passes(number, "its limit is 0, which means never", now);
        }
        self.reindex(number, &checked.filter);
        self.unwritten.watchers.insert(number);
        let kind = if standing { "watcher_changed" } else { "watcher_registered" };
        let leaf = self.record_watcher(number, kind, None, None, now);
        if !standing && self.watchers[&number].is_matched() {
            self.catch_up_from(number, since_seq, now);
        }
        self.keep_revision(number, leaf);
        // One that was broken may have rested.
        self.mended(number);
        self.rebind_lanes(number);
        self.schedule_watcher(number);
        number
    }

    /// Keeps for which claims the present revision is in force: those that are matched from now on.
    fn keep_revision(&mut self, number: WatcherNumber, leaf: LeafNumber) {
        let from_seq = self.position_of(number);
        let row = &self.watchers[&number].row;
        let revision = RevisionRow {
            watcher: number,
            revision: row.revision,
            generation: row.generation,
            declared: row.declared.clone(),
            handlers: row.handlers.iter().map(|handler| handler.declared.clone()).collect(),
            max_fires_per_second: row.max_fires_per_second,
            at: row.updated_at,
            leaf: Some(leaf),
            since_seq: row.since_seq,
            from_seq: from_seq.max(row.since_seq),
            retired_seq: None,
        };
        self.unwritten.revisions.push(revision);
    }

    /// Lets the lanes of a watcher follow its handlers, which may have moved to another plugin.
    fn rebind_lanes(&mut self, number: WatcherNumber) {
        for lane_id in self.lanes_of_watcher(number) {
            let lane = &self.lanes[&lane_id];
            let handlers = &self.watchers[&number].row.handlers;
            let handler = handlers.iter().find(|handler| handler.declared == lane.key.handler);
            let plugin = match handler {
                Some(handler) => handler.plugin.clone(),
                None => self.who_has(&lane.key.handler, lane.plugin.as_ref()),
            };
            self.move_lane(lane_id, plugin);
        }
    }

    /// Puts a new watcher in its place, which does not stand yet.
    fn insert_watcher(&mut self, row: WatcherRow) {
        let number = row.number;
        self.rows_of.entry(row.key.owner.clone()).or_default().add(number);
        self.names.add(hash_of(&row.key), number);
        if is_unbound(&row) {
            self.unbound.insert(number);
        }
        self.watchers.insert(number, Box::new(Watcher::new(row, Counters::default())));
    }

    /// Finds out whether a restored watcher's text is understood, once its passes and its hold are known.
    pub(crate) fn understand(&mut self, number: WatcherNumber, now: Now) {
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        if !watcher.stands() {
            return;
        }
        let row = &mut watcher.row;
        match Filter::declared(&row.declared) {
            Ok((filter, _)) => {
                let was_broken = row.state == WatcherState::Broken || is_broken(row);
                if was_broken {
                    row.error = None;
                    if row.state == WatcherState::Broken {
                        row.state = state_of(row);
                    }
                    self.unwritten.watchers.insert(number);
                }
                self.reindex(number, &filter);
                if was_broken {
                    self.mended(number);
                    self.record_watcher(number, "watcher_mended", None, None, now);
                }
            }
            Err(mistakes) => self.break_watcher(number, &mistakes.to_string(), now),
        }
    }

    /// After a hold: its text may have become none, or AX again, since.
    pub(crate) fn mend_or_break(&mut self, number: WatcherNumber, now: Now) {
        let declared = self.watchers[&number].row.declared.clone();
        match Filter::declared(&declared) {
            Ok((filter, _)) => {
                self.reindex(number, &filter);
                self.mended(number);
            }
            Err(mistakes) => self.break_watcher(number, &mistakes.to_string(), now),
        }
    }

    /// Keeps a watcher whose text is not understood any more: it matches nothing until it is declared
    /// anew, or its text is AX again.
    fn break_watcher(&mut self, number: WatcherNumber, mistakes: &str, now: Now) {
        let mistakes = bounds::cut(mistakes, bounds::ERROR_BYTES_MAX);
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        let shown = watcher.shown();
        let row = &mut watcher.row;
        let declared = row.declared.clone();
        let error = Some(format!("{BROKEN}{mistakes}"));
        let is_news = row.error != error;
        row.error = error;
        // One that a person holds stays so, that it does not go on when its text is AX again.
        if !matches!(row.state, WatcherState::Paused | WatcherState::Muted) {
            row.state = WatcherState::Broken;
        }
        self.unindex(number);
        self.rest_passes(number);
        let owner = self.watchers[&number].row.key.owner.clone();
        self.unparsed.push(unparsed(owner, shown, &declared, mistakes));
        if is_news {
            self.unwritten.watchers.insert(number);
            self.record_watcher(number, "watcher_broken", Some(mistakes), None, now);
        }
    }

    /// Binds watchers that waited for a handler that some plugin now has.
    pub(crate) fn bind_waiting(&mut self, now: Now) {
        let mut unbound = std::mem::take(&mut self.unbound);
        // One that is retired is added again when it is declared again.
        unbound.retain(|number| {
            let row = &self.watchers[number].row;
            row.state != WatcherState::Retired && is_unbound(row)
        });
        for number in &unbound {
            let handlers = self.watchers[number].row.handlers.clone();
            for (i, handler) in
                handlers.iter().enumerate().filter(|(_, handler)| handler.plugin.is_none())
            {
                if let Ok(Some(plugin)) = self.resolve_handler(&handler.declared) {
                    self.bind(*number, i, &plugin, now);
                }
            }
        }
        self.unbound.append(&mut unbound);
        self.bind_lanes();
    }

    /// Lets lanes go on whose handler no watcher names any more, and which another plugin has now.
    fn bind_lanes(&mut self) {
        let named = |lane: &Lane| {
            let watcher = lane.key.watcher.and_then(|watcher| self.watchers.get(&watcher));
            watcher.is_some_and(|w| w.row.handlers.iter().any(|h| h.declared == lane.key.handler))
        };
        let unnamed = self.lanes.iter().filter(|(_, lane)| !named(lane));
        let mut bound: Vec<_> = unnamed
            .map(|(id, lane)| (*id, self.who_has(&lane.key.handler, lane.plugin.as_ref())))
            .filter(|(id, plugin)| self.lanes[id].plugin != *plugin)
            .collect();
        bound.sort_unstable();
        for (lane, plugin) in bound {
            self.move_lane(lane, plugin);
            self.schedule(lane);
        }
    }

    /// Who answers for a handler that was this plugin's: it, as long as it has the handler, is disabled, or
    /// nobody else has it.
    pub(crate) fn who_has(&self, handler: &str, former: Option<&PluginName>) -> Option<PluginName> {
        let has = |plugin: &&PluginName| {
            let (_, bare) = HandlerName::parse_qualified(handler).ok()?;
            Some(self.has_handler(plugin, &bare))
        };
        // One that is disabled will have it again: nobody asked for another to do its work.
        let keeps = |plugin: &&PluginName| has(plugin) == Some(true) || self.is_disabled(plugin);
        let kept = former.filter(keeps).cloned();
        let other = || self.resolve_handler(handler).ok().flatten();
        kept.or_else(other).or_else(|| former.cloned())
    }

    pub(crate) fn bind(
        &mut self,
        number: WatcherNumber,
        handler: usize,
        plugin: &PluginName,
        now: Now,
    ) {
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        let bound = &mut Arc::make_mut(&mut watcher.row.handlers)[handler];
        bound.plugin = Some(plugin.clone());
        let declared = bound.declared.clone();
        if watcher.row.state == WatcherState::WaitingForHandler {
            watcher.row.state = state_of(&watcher.row);
        }
        watcher.row.updated_at = now.wall;
        self.unwritten.watchers.insert(number);
        for lane in self.lanes_of_watcher(number) {
            if self.lanes[&lane].key.handler == declared {
                self.move_lane(lane, Some(plugin.clone()));
                self.schedule(lane);
            }
        }
    }

    /// Pauses, resumes or removes a watcher for a person.
    pub(crate) fn command(
        &mut self,
        key: &WatcherKey,
        command: WatcherCommand,
        now: Now,
    ) -> Answer {
        Answer::Watcher(
            self.try_command(key, command, now)
                .map(|number| Box::new(self.watchers[&number].row.clone())),
        )
    }

    fn try_command(
        &mut self,
        key: &WatcherKey,
        command: WatcherCommand,
        now: Now,
    ) -> Result<WatcherNumber, Refusal> {
        let standing = self
            .with_key(key)
            .filter(|number| self.watchers[number].row.state != WatcherState::Retired);
        let Some(number) = standing else {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("there is no watcher {key}; `axwatch watch list` shows those there are"),
            ));
        };
        match command {
            WatcherCommand::Pause { skip } => self.pause(number, skip, now)?,
            WatcherCommand::Resume { drop } => {
                self.release_held(number, WatcherState::Paused, drop, now)?;
            }
            WatcherCommand::Mute { until, drop } => self.mute(number, until, drop, now)?,
            WatcherCommand::Unmute { drop } => {
                self.release_held(number, WatcherState::Muted, drop, now)?;
            }
            WatcherCommand::Replay { from, to } => self.begin_replay(number, from, to, now)?,
            WatcherCommand::StopReplay => self.stop_replay(number, now)?,
            WatcherCommand::Remove => match &key.owner {
                Owner::User => self.retire(number, "removed", now),
                Owner::Plugin(plugin) => {
                    let reason = format!(
                        "watcher {key} belongs to plugin {plugin}, which would declare it again; pause it instead"
                    );
                    return Err(Refusal::new(RefusalKind::Conflict, reason));
                }
            },
        }
        Ok(number)
    }

    /// Retires a watcher: it matches nothing more, its queued jobs are withdrawn, running ones finish.
    pub(crate) fn retire(&mut self, number: WatcherNumber, reason: &str, now: Now) {
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        if watcher.row.state == WatcherState::Retired {
            return;
        }
        watcher.row.state = WatcherState::Retired;
        watcher.row.updated_at = now.wall;
        let (shown, revision) = (watcher.shown(), watcher.row.revision);
        let position = self.position_of(number);
        let owner = self.watchers[&number].row.key.owner.clone();
        // One that never stood has no revision to end.
        if revision > 0 {
            self.unwritten.retired.push((number, revision, position));
        } else {
            self.rows_of.entry(owner).or_default().spare.insert(number);
        }
        // Its limiter stays: what is under way may not be started beyond it again.
        self.end_holds(number, now);
        self.end_passes(number, &format!("the watcher was retired: {reason}"), now);
        self.unindex(number);
        let cancelled =
            self.cancel_queued(number, &format!("watcher {shown} was retired: {reason}"), now);
        self.unwritten.watchers.insert(number);
        self.record_watcher(number, "watcher_retired", Some(reason), Some(cancelled), now);
    }

    pub(crate) fn record_watcher(
        &mut self,
        number: WatcherNumber,
        kind: &'static str,
        reason: Option<&str>,
        cancelled: Option<u64>,
        now: Now,
    ) -> LeafNumber {
        let watcher = &self.watchers[&number];
        let (row, shown) = (watcher.row.clone(), watcher.shown());
        let told = matches!(kind, "watcher_registered" | "watcher_changed");
        let when = told.then(|| row.declared.shown());
        self.record(&Record::Watcher(WatcherRecord {
            at: now.wall,
            cancelled,
            generation: Some(row.generation),
            handlers: row
                .handlers
                .iter()
                .filter(|_| told)
                .map(|handler| &*handler.declared)
                .collect(),
            max_fires_per_second: row.max_fires_per_second.filter(|_| told),
            reason,
            revision: Some(row.revision),
            r#type: kind,
            watcher: &shown,
            when: when.as_deref(),
        }))
    }

    /// Shows a refusal: at the watcher that stands, or for a plugin's new one in a row of its own. Answers
    /// whether it was not shown there already.
    fn note_refused(
        &mut self,
        owner: &Owner,
        declaration: &Declaration,
        refusal: &Refusal,
        now: Now,
    ) -> bool {
        let Ok(local) = declaration.local.parse::<LocalId>() else { return true };
        let key = WatcherKey { owner: owner.clone(), local };
        let error = format!(
            "its last declaration was refused: {}",
            bounds::cut(&refusal.reason, bounds::ERROR_BYTES_MAX)
        );
        if let Some(number) = self.known(&key) {
            let watcher = self.watchers.get_mut(&number).expect("every key has its watcher");
            let row = &mut watcher.row;
            // That its text is not understood is worse, and not told twice.
            if row.state == WatcherState::Retired || is_broken(row) {
                return true;
            }
            if row.error.as_ref() == Some(&error) {
                return false;
            }
            row.error = Some(error);
            self.unwritten.watchers.insert(number);
        } else if matches!(owner, Owner::Plugin(_))
            && self.names.shown(&key.shown(), &self.watchers).is_none()
        {
            self.keep_refused(key, declaration.clone(), error, now);
        }
        true
    }

    /// Tells the audit of a refusal, and the log of a plugin's text that is no AX.
    fn tell_refused(
        &mut self,
        owner: &Owner,
        declaration: &Declaration,
        refusal: &Refusal,
        now: Now,
    ) {
        let shown = format!("{owner}-{}", bounds::cut(&declaration.local, bounds::ID_BYTES_MAX));
        self.record_refused(&shown, &refusal.reason, now);
        if let (Owner::Plugin(_), Some(mistakes)) = (owner, &refusal.mistakes) {
            let mistakes = mistakes.to_string();
            let line = unparsed(owner.clone(), shown.into(), &declaration.declared, &mistakes);
            self.unparsed.push(line);
        }
    }

    /// Tells the audit and the log, each in one word, of the refusals that they were not told of.
    fn tell_more_refused(&mut self, owner: &Owner, telling: &Telling, now: Now) {
        let owner_name = owner.to_string();
        if telling.untold > 0 {
            let reason = format!("and {} more watchers of this announcement", telling.untold);
            self.record_refused(&owner_name, &reason, now);
        }
        if telling.untold_texts > 0 {
            let reason = format!("and {} more of this announcement", telling.untold_texts);
            let (owner, watcher, text) = (owner.clone(), owner_name.into(), String::new());
            self.unparsed.push(Effect::Unparsed { owner, watcher, text, reason });
        }
    }

    fn record_refused(&mut self, shown: &str, reason: &str, now: Now) {
        self.record(&Record::Watcher(WatcherRecord {
            at: now.wall,
            cancelled: None,
            generation: None,
            handlers: Vec::new(),
            max_fires_per_second: None,
            reason: Some(bounds::cut(reason, bounds::ERROR_BYTES_MAX)),
            revision: None,
            r#type: "watcher_refused",
            watcher: shown,
            when: None,
        }));
    }

    /// Keeps a plugin's refused watcher where people look for it: so much of it as they need to know it by,
    /// as nobody has found it to be within any bounds.
    fn keep_refused(&mut self, key: WatcherKey, declaration: Declaration, error: String, now: Now) {
        if !self.may_have_another(&key.owner) {
            return;
        }
        let number = self.new_number(&key);
        let handlers = declaration.handlers.iter().take(bounds::HANDLERS_MAX);
        let row = WatcherRow {
            number,
            key,
            revision: 0,
            generation: self.first_generation,
            declared: cut_declared(declaration.declared),
            handlers: handlers
                .map(|text| bounds::cut(text, bounds::ID_BYTES_MAX))
                .map(|text| HandlerRef { declared: text.into(), plugin: None })
                .collect(),
            params: None,
            max_fires_per_second: None,
            max_chain: None,
            max_attempts: None,
            max_age_ms: None,
            last_generation: self.first_generation,
            state: WatcherState::Refused,
            error: Some(error),
            since_seq: self.head,
            created_at: now.wall,
            updated_at: now.wall,
        };
        // Without its shown id: what was refused takes none from anybody.
        self.insert_watcher(row);
        self.unwritten.watchers.insert(number);
    }
}

/// What is told of the refused watchers of one announcement: of each that the last one did not have
/// refused for the same reason, and of so many of them.
#[derive(Default)]
pub(crate) struct Telling {
    /// What the last announcement had refused, as [`fingerprint`].
    before: BTreeSet<u64>,
    /// What this one has.
    refused: BTreeSet<u64>,
    told: usize,
    /// Those that there was no room to tell of.
    untold: usize,
    /// Of these, texts that are no AX.
    untold_texts: usize,
}

impl Telling {
    pub(crate) fn after(before: BTreeSet<u64>) -> Telling {
        Telling { before, ..Telling::default() }
    }

    /// Of an announcement that ended before all of its watchers had their turn: what is not known anew is as before.
    pub(crate) fn cut_short(mut self) -> Telling {
        self.refused.append(&mut self.before);
        self
    }

    fn was_told(&mut self, local: &str, refusal: &Refusal) -> bool {
        let fingerprint = fingerprint(local, &refusal.reason);
        // Twice in one announcement is once too often as well.
        !self.refused.insert(fingerprint) || self.before.contains(&fingerprint)
    }

    fn has_room(&mut self, refusal: &Refusal) -> bool {
        let has_room = self.told < REFUSED_TOLD_MAX;
        if has_room {
            self.told += 1;
        } else {
            self.untold += 1;
            self.untold_texts += usize::from(refusal.mistakes.is_some());
        }
        has_room
    }
}

/// By which a refusal is known again within one life of the engine.
fn fingerprint(local: &str, reason: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (local, reason).hash(&mut hasher);
    hasher.finish()
}

/// What is kept from one look at a declaration to the next: of thousands in one announcement, most are alike.
#[derive(Default)]
pub(crate) struct Looking {
    shown: String,
    /// The last handler that the plugin was found to have.
    had: Option<Arc<str>>,
}

impl Looking {
    /// The id under which people would see the plugin's watcher.
    fn shown(&mut self, plugin: &PluginName, local: &str) -> &str {
        self.shown.clear();
        self.shown.extend([plugin.as_str(), "-", local]);
        &self.shown
    }

    fn has(&mut self, state: &State, plugin: &PluginName, declared: &Arc<str>) -> bool {
        if self.had.as_ref() == Some(declared) {
            return true;
        }
        let has = HandlerName::parse_qualified(declared)
            .is_ok_and(|(_, bare)| state.has_handler(plugin, &bare));
        if has {
            self.had = Some(declared.clone());
        }
        has
    }
}

fn declared_twice(local: &str) -> Refusal {
    Refusal::invalid(format!(
        "watcher {local:?} is declared twice in one registration; the first stands"
    ))
}

/// So much of what a watcher waits for as is worth keeping of a refused one.
fn cut_declared(declared: Declared) -> Declared {
    let mut left = REFUSED_BYTES_MAX;
    let mut cut = |terms: Vec<String>| {
        let mut kept = Vec::new();
        for term in terms {
            // What a term takes in the row besides its bytes.
            let Some(room) = left.checked_sub(3).filter(|room| *room > 0) else { break };
            let term = bounds::cut(&term, room).to_owned();
            left = room - term.len();
            kept.push(term);
        }
        kept
    };
    match declared {
        Declared::Ax(text) => Declared::Ax(bounds::cut(&text, REFUSED_BYTES_MAX).to_owned()),
        Declared::Structural(lists) => Declared::Structural(StructuralFilter {
            subjects: cut(lists.subjects),
            predicates: cut(lists.predicates),
            contexts: cut(lists.contexts),
            actors: cut(lists.actors),
        }),
    }
}

/// Whether a watcher's text may name handlers of its own: it has a word that begins its actions, as such or
/// in quotes.
fn may_name_handlers(declared: &Declared) -> bool {
    let Declared::Ax(text) = declared else { return false };
    let begins_actions =
        |word: &str| word.eq_ignore_ascii_case("so") || word.eq_ignore_ascii_case("therefore");
    text.split(|c: char| !c.is_alphanumeric()).any(begins_actions)
}

/// The index knows watchers by 32 bits, which are enough for four billion declarations.
pub(crate) fn index_id(number: WatcherNumber) -> u32 {
    u32::try_from(number.0).expect("fewer than 2^32 watchers are ever declared")
}

/// Whether a watcher says of itself that its text is not understood, whatever holds it besides.
fn is_broken(row: &WatcherRow) -> bool {
    row.error.as_ref().is_some_and(|error| error.starts_with(BROKEN))
}

/// Whether nobody answers for one of its handlers.
pub(crate) fn is_unbound(row: &WatcherRow) -> bool {
    row.handlers.iter().any(|handler| handler.plugin.is_none())
}

/// What a watcher does when nothing holds it.
pub(crate) fn state_of(row: &WatcherRow) -> WatcherState {
    if row.max_fires_per_second == Some(0) {
        WatcherState::Muted
    } else if is_unbound(row) {
        WatcherState::WaitingForHandler
    } else {
        WatcherState::Live
    }
}

/// What a declaration waits for, and the handlers that its text names, each once: checked as far as that
/// can be without knowing who answers for a handler.
///
/// # Errors
/// [`Refusal`] of a text that is no AX, filters that ask for nothing or too much, and handlers that
/// cannot be any.
pub fn check_declared(declared: &Declared) -> Result<(Filter, Vec<String>), Refusal> {
    let (filter, actions) = Filter::declared(declared).map_err(not_understood)?;
    if filter.is_empty() {
        return Err(Refusal::invalid(
            "the watcher filters on nothing; name at least one subject, predicate, context or actor",
        ));
    }
    check_terms(declared)?;
    let mut handlers: Vec<String> = Vec::new();
    for text in actions {
        HandlerName::parse_qualified(&text).map_err(|error| Refusal::invalid(error.to_string()))?;
        if !handlers.contains(&text) {
            handlers.push(text);
        }
    }
    check_handler_count(handlers.len())?;
    Ok((filter, handlers))
}

fn check_handler_count(count: usize) -> Result<(), Refusal> {
    if count > bounds::HANDLERS_MAX {
        let reason =
            format!("handlers: {count} are named; at most {} are allowed", bounds::HANDLERS_MAX);
        return Err(Refusal::invalid(reason));
    }
    Ok(())
}

/// That a watcher's text is no AX, for the log: so much of it as is worth a line.
fn unparsed(owner: Owner, watcher: Arc<str>, declared: &Declared, mistakes: &str) -> Effect {
    Effect::Unparsed {
        owner,
        watcher,
        text: bounds::cut(&declared.shown(), bounds::ERROR_BYTES_MAX).to_owned(),
        reason: bounds::cut(mistakes, bounds::ERROR_BYTES_MAX).to_owned(),
    }
}

fn not_understood(mistakes: Mistakes) -> Refusal {
    Refusal {
        kind: RefusalKind::Invalid,
        reason: format!("the query is not understood: {mistakes}"),
        mistakes: Some(Box::new(mistakes)),
    }
}

/// A structural filter's lists have the bounds of what they are compared with.
fn check_terms(declared: &Declared) -> Result<(), Refusal> {
    let Declared::Structural(lists) = declared else { return Ok(()) };
    let fields = [
        ("subjects", &lists.subjects),
        ("predicates", &lists.predicates),
        ("contexts", &lists.contexts),
        ("actors", &lists.actors),
    ];
    let terms: usize = fields.iter().map(|(_, terms)| terms.len()).sum();
    if terms > axwatch_query::QUERY_TERMS_MAX {
        return Err(Refusal::invalid(format!(
            "the filter has {terms} terms; at most {} are allowed",
            axwatch_query::QUERY_TERMS_MAX
        )));
    }
    for (field, terms) in fields {
        for (index, term) in terms.iter().enumerate() {
            if !(1..=bounds::TERM_BYTES_MAX).contains(&term.len()) {
                let reason = format!(
                    "{field}[{index}]: {} bytes; a term has 1 to {}",
                    term.len(),
                    bounds::TERM_BYTES_MAX
                );
                return Err(Refusal::invalid(reason));
            }
        }
    }
    Ok(())
}

fn check_params(params: Option<&str>) -> Result<Option<Arc<str>>, Refusal> {
    let Some(text) = params else { return Ok(None) };
    if text.len() > bounds::PARAMS_BYTES_MAX {
        return Err(Refusal::invalid(format!(
            "params: {} bytes; at most {} are allowed",
            text.len(),
            bounds::PARAMS_BYTES_MAX
        )));
    }
    let parsed = Attributes::parse(text)
        .map_err(|error| Refusal::invalid(error.to_string().replace("attributes", "params")))?;
    Ok(parsed.map(|object| object.as_str().into()))
}

fn check_rate(declaration: &Declaration) -> Result<Option<u32>, Refusal> {
    match declaration.max_fires_per_second {
        0 if declaration.zero_is_never => Ok(Some(0)),
        rate => Ok(check_fires_per_second(rate)?.map(NonZeroU32::get)),
    }
}

/// The limit that a declaration asks for; `None` is no limit, which is written as 0.
///
/// # Errors
/// [`Refusal`] of one that is no limit.
pub fn check_fires_per_second(rate: i64) -> Result<Option<NonZeroU32>, Refusal> {
    match rate {
        0..=bounds::FIRES_PER_SECOND_MAX => Ok(u32::try_from(rate).ok().and_then(NonZeroU32::new)),
        rate => Err(Refusal::invalid(format!(
            "max_fires_per_second: {rate} is not between 0 (no limit) and {}",
            bounds::FIRES_PER_SECOND_MAX
        ))),
    }
}

fn check_chain(max_chain: i32) -> Result<Option<u32>, Refusal> {
    match u32::try_from(max_chain) {
        Ok(0) => Ok(None),
        Ok(max @ ..=bounds::CHAIN_MAX) => Ok(Some(max)),
        _ => Err(Refusal::invalid(format!(
            "max_chain: {max_chain} is not between 1 and {}; 0 means the usual {}",
            bounds::CHAIN_MAX,
            crate::loops::CHAIN_MAX
        ))),
    }
}

fn check_attempts(max_attempts: i64) -> Result<Option<u32>, Refusal> {
    match u32::try_from(max_attempts) {
        Ok(0) => Ok(None),
        Ok(max @ ..=bounds::ATTEMPTS_MAX) => Ok(Some(max)),
        _ => Err(Refusal::invalid(format!(
            "max_attempts: {max_attempts} is not between 1 and {}; 0 means as for its handler",
            bounds::ATTEMPTS_MAX
        ))),
    }
}

fn check_age(max_age: Option<Duration>) -> Result<Option<u64>, Refusal> {
    match max_age {
        None => Ok(None),
        Some(age) if (Duration::from_secs(1)..=bounds::JOB_AGE_MAX).contains(&age) => {
            Ok(u64::try_from(age.as_millis()).ok())
        }
        Some(age) => Err(Refusal::invalid(format!(
            "max_age: {} s is not between 1 s and {} days",
            age.as_secs(),
            bounds::JOB_AGE_MAX.as_secs() / 86_400
        ))),
    }
}
