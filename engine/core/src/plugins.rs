//! What plugins announce, and what follows: handlers, watchers, schedules and routes, taken together.
//!
//! An announcement is all that a plugin has: what is the same stays as it is, what is new or changed is
//! taken, what it lacks is retired, and what is no good is refused one by one. One that may lack something
//! for no good reason is not believed at once. A disabled plugin has nothing, and announces nothing.
//!
//! Not here: how watchers are taken, of which there may be many (`crate::announcing`), what a watcher is
//! (`crate::registry`), when a process is started or ended
//! (`crate::supervise`), what a schedule is (`crate::schedules`).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use axwatch_model::{
    Announced, HandlerName, LocalId, Mono, Now, Owner, PluginName, PluginRow, RefusedRow, RouteRow,
    ScheduleId, ScheduleRow, Timestamp, WatcherNumber, bounds,
};
use hashbrown::HashSet;

use crate::announcing::{Announcing, Stage};
use crate::event::{
    Answer, Effect, PluginTransition, Refusal, RefusalKind, Registration, RequestId,
    RouteDeclaration, ScheduleDeclaration, Verdicts,
};
use crate::record::{PluginRecord, PluginStateRecord, PluginWantedRecord, Record};
use crate::redaction::{Redaction, UNSAID};
use crate::registry::Telling;
use crate::state::{Lane, PluginState, State, Timer};
use crate::view::WatcherView;

/// How long a doubtful announcement is not believed.
const DOUBTED: Duration = Duration::from_secs(10 * 60);
/// Why what a plugin had is retired.
pub(crate) const NO_LONGER_DECLARED: &str = "its plugin no longer declares it";
/// Why the second of two is refused.
const DECLARED_TWICE: &str = "it is declared twice in one registration; the first stands";
/// Refused parts of an announcement that are kept; the rest is only counted.
const REFUSED_KEPT_MAX: usize = 100;
/// Bytes of a reason that is kept.
const REASON_BYTES_MAX: usize = 1_000;

/// What an announcement that is not believed yet lacks.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Doubted {
    /// It is believed then.
    until: Mono,
    handlers: Vec<HandlerName>,
    pub watchers: Vec<WatcherNumber>,
    pub schedules: Vec<LocalId>,
    routes: Vec<RouteRow>,
}

impl Doubted {
    pub fn is_empty(&self) -> bool {
        self.handlers.is_empty()
            && self.watchers.is_empty()
            && self.schedules.is_empty()
            && self.routes.is_empty()
    }
}

/// A plugin as the core knows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Registered {
    /// What the store has of it besides.
    pub row: Option<PluginRow>,
    /// Its handlers.
    pub handlers: Vec<HandlerName>,
    /// Its watchers that are not retired; refused ones are among them.
    pub watchers: Vec<WatcherView>,
    /// Its schedules that are not retired.
    pub schedules: Vec<ScheduleRow>,
    /// Its routes.
    pub routes: Vec<RouteRow>,
    /// What of its last announcement was not taken.
    pub refused: Vec<RefusedRow>,
    /// What it did not announce last, and keeps until that is believed: kind and name of each.
    pub doubted: Vec<(Announced, String)>,
    /// Attempts under way at it.
    pub running: u64,
    /// Attempts that it may have under way.
    pub slots: u64,
    /// Jobs that wait for it.
    pub waiting: u64,
}

impl State {
    /// A plugin, if it was ever heard of.
    #[must_use]
    pub fn plugin(&self, name: &PluginName) -> Option<Registered> {
        let state = self.plugins.get(name)?;
        let owner = Owner::Plugin(name.clone());
        let watchers = self.watchers_of(&owner);
        let lanes = self.lanes.values().filter(|lane| lane.plugin.as_ref() == Some(name));
        let mut handlers: Vec<_> = self.handlers_of(name, state).cloned().collect();
        handlers.sort_unstable();
        Some(Registered {
            row: state.row.clone(),
            handlers,
            watchers: watchers.into_iter().map(|number| self.view(number)).collect(),
            schedules: self.schedules.standing_of(&owner).cloned().collect(),
            routes: state.routes.iter().cloned().collect(),
            refused: state.refused.clone(),
            doubted: self.doubted_names(state),
            running: state.in_flight() as u64,
            slots: if state.up { u64::from(state.slots_now()) } else { 0 },
            waiting: lanes.map(Lane::waiting).sum(),
        })
    }

    /// The routes of all plugins, by plugin.
    #[must_use]
    pub fn routes(&self) -> Vec<(PluginName, RouteRow)> {
        let of = |(name, state): (&PluginName, &PluginState)| {
            let name = name.clone();
            state.routes.clone().into_iter().map(move |route| (name.clone(), route))
        };
        self.plugins.iter().flat_map(of).collect()
    }

    fn doubted_names(&self, state: &PluginState) -> Vec<(Announced, String)> {
        let Some(doubted) = &state.doubted else { return Vec::new() };
        let handlers = doubted.handlers.iter().map(ToString::to_string);
        let watchers = doubted.watchers.iter().filter_map(|number| self.watchers.get(number));
        let schedules = doubted.schedules.iter().map(ToString::to_string);
        let routes = doubted.routes.iter().map(|route| format!("{} {}", route.method, route.path));
        (handlers.map(|name| (Announced::Handler, name)))
            .chain(watchers.map(|watcher| (Announced::Watcher, watcher.shown().to_string())))
            .chain(schedules.map(|name| (Announced::Schedule, name)))
            .chain(routes.map(|name| (Announced::Route, name)))
            .collect()
    }

    /// A plugin's process is ready: what it announced is taken, and its lanes may go on. Refused while
    /// the plugin is disabled.
    #[expect(clippy::too_many_arguments, reason = "they are the fields of one event")]
    pub(crate) fn plugin_up(
        &mut self,
        request: RequestId,
        plugin: &PluginName,
        incarnation: u64,
        version: String,
        max_in_flight: u32,
        registration: Registration,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_disabled(plugin) {
            return effects.push(refused(request, disabled(plugin)));
        }
        let slots = self.policy.bounds.slots_first.min(max_in_flight.max(1));
        let state = self.plugin_entry(plugin);
        state.incarnation = incarnation;
        state.up = true;
        state.max_in_flight = max_in_flight.max(1);
        state.slots = slots;
        state.broken_until = None;
        if let Some(since) = state.away_since.take() {
            state.away += now.mono.since(since);
        }
        let row = self.row_of(plugin);
        row.version.clone_from(&version);
        row.incarnation = incarnation;
        row.up_at = Some(now.wall);
        let called_back = registration.called_back.unwrap_or(false);
        let registration = Registration { called_back: Some(called_back), ..registration };
        self.register(request, plugin, registration, now, effects);
        self.record_plugin_up(plugin, incarnation, &version, now.wall);
    }

    fn record_plugin_up(
        &mut self,
        plugin: &PluginName,
        incarnation: u64,
        version: &str,
        at: Timestamp,
    ) {
        let names = self.plugins[plugin].handlers.clone();
        self.record(&Record::Plugin(PluginRecord {
            at,
            handlers: names.iter().map(HandlerName::as_str).collect(),
            incarnation,
            plugin: plugin.as_str(),
            reason: None,
            r#type: "plugin_up",
            version: Some(version),
        }));
    }

    /// A running plugin announces something else than before.
    pub(crate) fn announced(
        &mut self,
        request: RequestId,
        plugin: &PluginName,
        incarnation: u64,
        registration: Registration,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_disabled(plugin) {
            return effects.push(refused(request, disabled(plugin)));
        }
        let current = self
            .plugins
            .get(plugin)
            .is_some_and(|state| state.up && state.incarnation == incarnation);
        if !current {
            let reason = format!("plugin {plugin}: this process is not the one in force");
            return effects.push(refused(request, Refusal::new(RefusalKind::Conflict, reason)));
        }
        self.register(request, plugin, registration, now, effects);
    }

    /// Takes all that a plugin announced, and that what is missing is gone: watchers a slice at a time, and all
    /// else now. A doubtful announcement that lacks something is believed only after a while; until then what
    /// it lacks stays, and its jobs are held.
    fn register(
        &mut self,
        request: RequestId,
        plugin: &PluginName,
        registration: Registration,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let reason =
            format!("plugin {plugin} announced something else before all of this was taken");
        self.end_announcing(plugin, reason, now, effects);
        let called_back = registration.called_back;
        let is_silent = called_back == Some(false) && self.has_called_back(plugin);
        let doubtful = registration.doubtful || is_silent;
        let owner = Owner::Plugin(plugin.clone());
        let redaction = registration.redaction;
        let mut refused = registration.refused;
        // One that is not believed at once says nothing against them.
        let runs_stored = registration.stored_handlers
            || doubtful && self.plugins.get(plugin).is_some_and(PluginState::runs_stored);
        self.set_runs_stored(plugin, runs_stored, now);
        let mut announced: BTreeSet<_> = registration.handlers.into_iter().collect();
        // Claims say whether it has those, whatever the list says.
        announced.retain(|handler| !(runs_stored && self.is_stored(plugin, handler)));
        let routes = check_routes(registration.routes, &redaction, &mut refused);
        // One whose handler is not announced any more is as good as not named.
        let scheduled: BTreeSet<_> = (registration.schedules.iter())
            .filter_map(|schedule| {
                let bare: HandlerName = bare_of(plugin, &schedule.handler).parse().ok()?;
                let is_had = announced.contains(&bare)
                    || self.is_stored(plugin, &bare) && self.has_handler(plugin, &bare);
                is_had.then(|| name_of(plugin, schedule).to_owned())
            })
            .collect();
        // What a call made is no part of what is announced.
        let declared = self.schedules.standing_of(&owner).filter(|row| !row.by_call);
        let unscheduled = declared.map(|row| row.name.clone());
        let unscheduled = unscheduled.filter(|name| !scheduled.contains(name.as_str())).collect();
        let state = self.plugin_entry(plugin);
        // What an earlier one lacked counts no more, but since when that is doubted.
        state.doubted = None;
        let telling = Telling::after(std::mem::take(&mut state.told));
        let lacking = Doubted {
            until: now.mono,
            handlers: state.handlers.difference(&announced).cloned().collect(),
            watchers: Vec::new(),
            schedules: unscheduled,
            routes: state.routes.iter().filter(|route| !has(&routes, route)).cloned().collect(),
        };
        let mut known = announced.clone();
        let mut all_routes = routes;
        if doubtful {
            known.extend(lacking.handlers.iter().cloned());
            all_routes.extend(lacking.routes.iter().cloned());
        }
        state.announced = announced;
        self.set_handlers(plugin, known, now);
        self.set_routes(plugin, all_routes);
        // It asks every lane there is, and an announcement is usually the same as the last.
        if std::mem::take(&mut self.handlers_changed) {
            self.bind_waiting(now);
        }
        let count = registration.watchers.len();
        let announcing = Announcing {
            plugin: plugin.clone(),
            request: Some(request),
            stage: Stage::Naming,
            declarations: registration.watchers.into_iter(),
            are_first: Vec::with_capacity(count),
            named: HashSet::with_capacity(count),
            looked_at: None,
            leaving: VecDeque::new(),
            schedules: registration.schedules,
            lacking,
            doubtful,
            called_back,
            redaction,
            telling,
            verdicts: Verdicts { watchers: Vec::with_capacity(count), refused },
        };
        self.go_on_announcing(announcing, now, effects);
        if self.will_answer(request) {
            // What stands need not wait for the rest.
            self.schedule_plugin(plugin);
        }
    }

    fn set_handlers(&mut self, plugin: &PluginName, handlers: BTreeSet<HandlerName>, now: Now) {
        let state = self.plugin_entry(plugin);
        if state.handlers != handlers {
            state.handlers = handlers;
            self.unwritten.handlers.insert(plugin.clone());
            self.handlers_changed = true;
            self.forget_breakers(plugin, now);
        }
    }

    /// What is stored with its name as context is the plugin's from now on, or no more.
    fn set_runs_stored(&mut self, plugin: &PluginName, runs_stored: bool, now: Now) {
        let ran = self.plugins.get(plugin).is_some_and(PluginState::runs_stored);
        if ran == runs_stored {
            return;
        }
        self.row_of(plugin).stored_handlers = runs_stored;
        self.handlers_changed = true;
        if !runs_stored {
            self.forget_breakers(plugin, now);
            return;
        }
        // What it announced of them by itself comes from claims now.
        let state = self.plugin_entry(plugin);
        let mut handlers = std::mem::take(&mut state.handlers);
        let before = handlers.len();
        handlers.retain(|handler| !self.is_stored(plugin, handler));
        if handlers.len() != before {
            self.unwritten.handlers.insert(plugin.clone());
        }
        self.plugin_entry(plugin).handlers = handlers;
        self.handlers_went_meanwhile(plugin, now);
    }

    fn set_routes(&mut self, plugin: &PluginName, routes: BTreeSet<RouteRow>) {
        let state = self.plugin_entry(plugin);
        if state.routes != routes {
            state.routes = routes;
            self.unwritten.routes.insert(plugin.clone());
        }
    }

    pub(crate) fn take_schedules(
        &mut self,
        plugin: &PluginName,
        declared: Vec<ScheduleDeclaration>,
        redaction: &Redaction,
        refused: &mut Vec<RefusedRow>,
        now: Now,
    ) {
        let mut named = BTreeSet::new();
        for declaration in declared {
            let told = redaction.of_schedule(declaration.clone());
            let name = name_of(plugin, &told).to_owned();
            let reason = match self.check_declared_schedule(plugin, declaration, now) {
                Ok(row) if named.insert(row.name.clone()) => {
                    self.take_schedule(row, None, now);
                    continue;
                }
                Ok(_) => DECLARED_TWICE.to_owned(),
                // As it is without secrets, which a reason may quote a part of.
                Err(_) => {
                    let reason = self.check_declared_schedule(plugin, told, now).err();
                    redaction.of(reason.unwrap_or_else(|| UNSAID.to_owned()))
                }
            };
            refused.push(RefusedRow { kind: Announced::Schedule, name, reason });
        }
    }

    /// Keeps what was refused where people look for it.
    pub(crate) fn keep_refused_parts(&mut self, plugin: &PluginName, refused: &[RefusedRow]) {
        let keep = |row: &RefusedRow| RefusedRow {
            kind: row.kind,
            name: bounds::cut(&row.name, bounds::ID_BYTES_MAX).to_owned(),
            reason: bounds::cut(&row.reason, REASON_BYTES_MAX).to_owned(),
        };
        let mut kept: Vec<_> = refused.iter().take(REFUSED_KEPT_MAX).map(keep).collect();
        if let Some(next) = refused.get(REFUSED_KEPT_MAX) {
            let reason = format!("and {} more were refused", refused.len() - REFUSED_KEPT_MAX);
            kept.push(RefusedRow { kind: next.kind, name: String::new(), reason });
        }
        let state = self.plugin_entry(plugin);
        if state.refused != kept {
            state.refused = kept;
            self.unwritten.refused.insert(plugin.clone());
        }
    }

    /// Its last announcement is believed.
    pub(crate) fn doubt_no_more(&mut self, plugin: &PluginName) {
        if self.plugins[plugin].row.as_ref().is_some_and(|row| row.doubted_until.is_some()) {
            self.row_of(plugin).doubted_until = None;
        }
    }

    /// Notes whether it called back, in an announcement that is believed.
    pub(crate) fn note_called_back(&mut self, plugin: &PluginName, called_back: bool) {
        if self.has_called_back(plugin) != called_back {
            self.row_of(plugin).called_back = called_back;
        }
    }

    /// Schedules that an announcement lacks are gone.
    pub(crate) fn let_schedules_go(&mut self, plugin: &PluginName, names: Vec<LocalId>, now: Now) {
        for name in names {
            let id = ScheduleId::of(self.policy.store_id, &Owner::Plugin(plugin.clone()), &name);
            // One that it has asked for with a call meanwhile needs no announcement.
            if self.schedules.row(&id).is_some_and(|row| !row.by_call) {
                self.retire_schedule(id, NO_LONGER_DECLARED, None, now);
            }
        }
    }

    /// Keeps what an announcement lacks, loudly, for a while: until then that was said when it was first
    /// doubted, so that a plugin which starts again and again is believed in the end.
    pub(crate) fn doubt(
        &mut self,
        plugin: &PluginName,
        lacking: Doubted,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let row = self.row_of(plugin);
        let since_then = row.doubted_until.filter(|until| *until > now.wall);
        let left = since_then.map_or(DOUBTED, |until| until.since(now.wall).min(DOUBTED));
        row.doubted_until = Some(now.wall.plus(left));
        let until = now.mono.plus(left);
        self.timers.insert((until, Timer::Doubt(plugin.clone())));
        effects.push(Effect::Doubted {
            plugin: plugin.clone(),
            handlers: lacking.handlers.iter().map(ToString::to_string).collect(),
            watchers: (lacking.watchers.iter())
                .map(|number| self.watchers[number].shown().to_string())
                .collect(),
            schedules: lacking.schedules.iter().map(ToString::to_string).collect(),
            routes: lacking.routes.iter().map(|r| format!("{} {}", r.method, r.path)).collect(),
        });
        self.plugin_entry(plugin).doubted = Some(Doubted { until, ..lacking });
    }

    /// Nothing came that would have shown a doubted announcement to be wrong: what it lacks is gone. While
    /// the plugin is away nothing is decided: what it announces next is looked at anew.
    pub(crate) fn believe(&mut self, plugin: &PluginName, now: Now, effects: &mut Vec<Effect>) {
        let Some(state) = self.plugins.get_mut(plugin) else { return };
        let Some(doubted) = state.doubted.take_if(|doubted| doubted.until <= now.mono) else {
            return;
        };
        let is_up = state.up;
        let (announced, mut routes) = (state.announced.clone(), state.routes.clone());
        self.row_of(plugin).doubted_until = None;
        if !is_up {
            return;
        }
        self.row_of(plugin).called_back = false;
        self.set_handlers(plugin, announced, now);
        routes.retain(|route| !doubted.routes.contains(route));
        self.set_routes(plugin, routes);
        let letting_go = Announcing::of_lacking(plugin.clone(), doubted);
        self.go_on_announcing(letting_go, now, effects);
    }

    /// A person wants a plugin not to run: it has nothing any more.
    pub(crate) fn disable_plugin(
        &mut self,
        plugin: &PluginName,
        by: &str,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_disabled(plugin) {
            return;
        }
        self.end_announcing(plugin, disabled(plugin).reason, now, effects);
        let row = self.row_of(plugin);
        row.disabled_at = Some(now.wall);
        // What it had is gone: the next announcement lacks nothing.
        (row.doubted_until, row.called_back) = (None, false);
        self.record_wanted(plugin, by, "plugin_disabled", now);
        let reason = format!("plugin {plugin} was disabled");
        let state = self.plugin_entry(plugin);
        state.doubted = None;
        state.announced.clear();
        state.told.clear();
        self.set_runs_stored(plugin, false, now);
        self.set_handlers(plugin, BTreeSet::new(), now);
        self.set_routes(plugin, BTreeSet::new());
        self.keep_refused_parts(plugin, &[]);
        let owner = Owner::Plugin(plugin.clone());
        for number in self.watchers_of(&owner) {
            self.retire(number, &reason, now);
        }
        let schedules: Vec<_> = self.schedules.standing_of(&owner).map(|row| row.id).collect();
        for id in schedules {
            self.retire_schedule(id, &reason, None, now);
        }
    }

    /// A person wants it to run again. What it has it will say when it is up, but for schedules that it made with calls.
    pub(crate) fn enable_plugin(&mut self, plugin: &PluginName, by: &str, now: Now) {
        if self.is_disabled(plugin) {
            self.row_of(plugin).disabled_at = None;
            // What waited for it in particular may go to another now.
            self.handlers_changed = true;
            self.record_wanted(plugin, by, "plugin_enabled", now);
            self.bring_schedules_back(plugin, now);
        }
    }

    fn record_wanted(&mut self, plugin: &PluginName, by: &str, kind: &'static str, now: Now) {
        let (at, plugin) = (now.wall, plugin.as_str());
        self.record(&Record::PluginWanted(PluginWantedRecord { at, by, plugin, r#type: kind }));
    }

    /// The audit tells of a supervisor's way from one state to another.
    pub(crate) fn record_transition(&mut self, transition: &PluginTransition, now: Now) {
        let PluginTransition { plugin, incarnation, from, to, reason } = transition;
        let reason = bounds::cut(reason, bounds::ERROR_BYTES_MAX);
        self.record(&Record::PluginState(PluginStateRecord {
            at: now.wall,
            from,
            incarnation: *incarnation,
            plugin: plugin.as_str(),
            reason: Some(reason).filter(|reason| !reason.is_empty()),
            to,
            r#type: "plugin_state",
        }));
    }

    /// Whether somebody wants it not to run.
    pub(crate) fn is_disabled(&self, plugin: &PluginName) -> bool {
        self.plugins.get(plugin).is_some_and(PluginState::is_disabled)
    }

    /// Whether it called back in the last Initialize that is believed.
    fn has_called_back(&self, plugin: &PluginName) -> bool {
        let row = self.plugins.get(plugin).and_then(|state| state.row.as_ref());
        row.is_some_and(|row| row.called_back)
    }

    /// A plugin's row, which is to be changed, and so written.
    fn row_of(&mut self, plugin: &PluginName) -> &mut PluginRow {
        self.unwritten.plugins.insert(plugin.clone());
        self.plugin_entry(plugin).row.get_or_insert_with(|| PluginRow {
            name: plugin.clone(),
            version: String::new(),
            incarnation: 0,
            up_at: None,
            disabled_at: None,
            called_back: false,
            doubted_until: None,
            stored_handlers: false,
        })
    }
}

impl PluginState {
    pub(crate) fn is_disabled(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.disabled_at.is_some())
    }
}

fn refused(request: RequestId, refusal: Refusal) -> Effect {
    Effect::Reply { request, answer: Answer::Registered(Err(refusal)) }
}

fn disabled(plugin: &PluginName) -> Refusal {
    let reason =
        format!("plugin {plugin} is disabled; `axwatch plugin enable {plugin}` lets it run again");
    Refusal::new(RefusalKind::Conflict, reason)
}

/// A handler as a plugin names its own: `handler`, or `plugin/handler`.
fn bare_of<'a>(plugin: &PluginName, handler: &'a str) -> &'a str {
    let own = handler.strip_prefix(plugin.as_str()).and_then(|rest| rest.strip_prefix('/'));
    own.unwrap_or(handler)
}

/// The name that a declared schedule has among those of its plugin.
fn name_of<'a>(plugin: &PluginName, schedule: &'a ScheduleDeclaration) -> &'a str {
    if schedule.id.is_empty() { bare_of(plugin, &schedule.handler) } else { &schedule.id }
}

/// Whether there is a route for the same requests.
fn has(routes: &BTreeSet<RouteRow>, wanted: &RouteRow) -> bool {
    routes.iter().any(|route| (&route.method, &route.path) == (&wanted.method, &wanted.path))
}

fn check_routes(
    declared: Vec<RouteDeclaration>,
    redaction: &Redaction,
    refused: &mut Vec<RefusedRow>,
) -> BTreeSet<RouteRow> {
    let mut routes = BTreeSet::new();
    let mut named = BTreeSet::new();
    for declaration in declared {
        let told = redaction.of_route(declaration.clone());
        let name = format!("{} {}", told.method, told.path);
        let reason = match check_route(declaration) {
            Ok(route) if named.insert((route.method.clone(), route.path.clone())) => {
                routes.insert(route);
                continue;
            }
            Ok(_) => DECLARED_TWICE.to_owned(),
            // As for a schedule.
            Err(_) => redaction.of(check_route(told).err().unwrap_or_else(|| UNSAID.to_owned())),
        };
        refused.push(RefusedRow { kind: Announced::Route, name, reason });
    }
    routes
}

fn check_route(declaration: RouteDeclaration) -> Result<RouteRow, String> {
    let RouteDeclaration { method, path, description } = declaration;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !(1..=bounds::METHOD_BYTES_MAX).contains(&method.len()) || !method.bytes().all(is_token) {
        return Err(format!(
            "method {:?}: a method is a word of 1 to {} letters, such as GET",
            bounds::cut(&method, bounds::METHOD_BYTES_MAX),
            bounds::METHOD_BYTES_MAX
        ));
    }
    if path.len() > bounds::PATH_BYTES_MAX {
        return Err(format!(
            "path: {} bytes; at most {} are allowed",
            path.len(),
            bounds::PATH_BYTES_MAX
        ));
    }
    let is_odd = |c: char| c.is_control() || c.is_whitespace() || c == '?' || c == '#';
    if path.contains(is_odd) {
        return Err(format!(
            "path {path:?}: a path has no blanks, no control characters, no '?' and no '#'"
        ));
    }
    Ok(RouteRow {
        method: method.to_ascii_uppercase(),
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        description: bounds::cut(&description, bounds::DESCRIPTION_BYTES_MAX).to_owned(),
    })
}
