//! Announcements that are being taken: a slice in each batch, so that nobody waits for all of a large one.
//!
//! What an announcement says of handlers and routes is taken when it comes (`crate::plugins`). What it says of
//! watchers is taken here, in this order: those that it does not name and that never stood are cleared away, all that it
//! names are declared, and then those that it lacks are retired. Each watcher is declared or retired within one
//! transaction, and whoever announced is answered with the last of them. An announcement that needs no
//! more than one slice is taken in the step that it came with.
//!
//! Nothing of it is kept over a restart: the plugin announces all of it again. One that the next
//! announcement overtakes, or whose plugin goes, ends where it is.
//!
//! Not here: what a watcher is (`crate::registry`), what is believed of an announcement (`crate::plugins`).

use std::collections::VecDeque;
use std::vec;

use axwatch_model::{Announced, Now, Owner, PluginName, RefusedRow, WatcherNumber, WatcherState};
use hashbrown::HashSet;

use crate::event::{
    Answer, Declaration, Effect, Refusal, RefusalKind, RequestId, ScheduleDeclaration, Verdicts,
};
use crate::plugins::{Doubted, NO_LONGER_DECLARED};
use crate::redaction::Redaction;
use crate::registry::{Looking, Telling};
use crate::state::State;

/// So many looks cost about what one watcher does that is new, changed, refused or retired.
const LOOKS_PER_CHANGE: usize = 128;
/// So many looks cost about what one watcher does that stands as it is announced.
const LOOKS_PER_STANDING: usize = 16;

/// An announcement that is being taken.
pub(crate) struct Announcing {
    pub plugin: PluginName,
    /// Who waits for its end; nobody for what was doubted, and is believed now.
    pub request: Option<RequestId>,
    pub stage: Stage,
    /// The watchers that it declares and that have not had their turn.
    pub declarations: vec::IntoIter<Declaration>,
    /// Of each of them, also of those that have, whether it is the first with its id.
    pub are_first: Vec<bool>,
    pub named: HashSet<String>,
    /// The last of the plugin's watchers that was looked at.
    pub looked_at: Option<WatcherNumber>,
    /// Watchers that are to be retired.
    pub leaving: VecDeque<WatcherNumber>,
    pub schedules: Vec<ScheduleDeclaration>,
    /// What it lacks.
    pub lacking: Doubted,
    pub doubtful: bool,
    pub called_back: Option<bool>,
    pub redaction: Redaction,
    pub telling: Telling,
    /// What became of it so far.
    pub verdicts: Verdicts,
}

/// What is being done of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The ids of its watchers are noted.
    Naming,
    /// The plugin's watchers are looked at: which of them it does not name.
    Looking,
    /// Those of them that never stood are retired: nobody misses them, and new ones may take their rows.
    Clearing,
    Declaring,
    /// What it lacks is retired.
    LettingGo,
}

impl Announcing {
    /// What a plugin no longer has.
    pub fn of_lacking(plugin: PluginName, lacking: Doubted) -> Announcing {
        Announcing {
            plugin,
            request: None,
            stage: Stage::LettingGo,
            declarations: Vec::new().into_iter(),
            are_first: Vec::new(),
            named: HashSet::new(),
            looked_at: None,
            leaving: lacking.watchers.iter().copied().collect(),
            schedules: Vec::new(),
            lacking,
            doubtful: false,
            called_back: None,
            redaction: Redaction::default(),
            telling: Telling::default(),
            verdicts: Verdicts::default(),
        }
    }

    /// Notes ids. Answers whether these are all.
    fn name(&mut self, slice: &mut Slice) -> bool {
        let named_before = self.are_first.len();
        for declaration in &self.declarations.as_slice()[named_before..] {
            if !slice.looks(1) {
                return false;
            }
            self.are_first.push(self.named.insert(declaration.local.clone()));
        }
        true
    }
}

/// How much one batch takes of an announcement.
struct Slice {
    changes: usize,
    looks: usize,
}

impl Slice {
    fn new(changes: usize) -> Slice {
        let changes = changes.max(1);
        Slice { changes, looks: changes.saturating_mul(LOOKS_PER_CHANGE) }
    }

    fn is_used_up(&self) -> bool {
        self.changes == 0 || self.looks == 0
    }

    /// Whether there was room for these, if only for a part of them.
    fn looks(&mut self, count: usize) -> bool {
        let had_room = !self.is_used_up();
        self.looks = self.looks.saturating_sub(count);
        had_room
    }

    fn change(&mut self) -> bool {
        let had_room = !self.is_used_up();
        self.changes = self.changes.saturating_sub(1);
        had_room
    }
}

impl State {
    /// Whether announcements wait for [`Event::TakeAnnounced`](crate::Event::TakeAnnounced).
    #[must_use]
    pub fn is_announcing(&self) -> bool {
        !self.announcing.is_empty()
    }

    /// Whether this request will be answered with a later batch.
    #[must_use]
    pub fn will_answer(&self, request: RequestId) -> bool {
        self.announcing.iter().any(|announcing| announcing.request == Some(request))
    }

    /// Takes a slice of the announcement whose turn it is.
    pub(crate) fn take_announced(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if let Some(announcing) = self.announcing.pop_front() {
            self.go_on_announcing(announcing, now, effects);
        }
    }

    /// Takes a slice of an announcement, which then stands behind the others unless it is at its end.
    pub(crate) fn go_on_announcing(
        &mut self,
        mut announcing: Announcing,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let mut slice = Slice::new(self.policy.bounds.announced_at_once_max);
        while self.take_slice(&mut announcing, &mut slice, now) {
            announcing.stage = match announcing.stage {
                Stage::Naming => Stage::Looking,
                Stage::Looking => Stage::Clearing,
                Stage::Clearing => Stage::Declaring,
                Stage::Declaring => {
                    self.all_declared(&mut announcing, now, effects);
                    Stage::LettingGo
                }
                Stage::LettingGo => return self.all_announced(announcing, now, effects),
            };
        }
        self.announcing.push_back(announcing);
    }

    /// Answers whether its stage is at its end.
    fn take_slice(&mut self, announcing: &mut Announcing, slice: &mut Slice, now: Now) -> bool {
        match announcing.stage {
            Stage::Naming => announcing.name(slice),
            Stage::Looking => self.look_besides(announcing, slice),
            Stage::Declaring => self.declare_some(announcing, slice, now),
            Stage::Clearing | Stage::LettingGo => {
                while let Some(number) = announcing.leaving.front() {
                    if !slice.change() {
                        return false;
                    }
                    self.retire(*number, NO_LONGER_DECLARED, now);
                    announcing.leaving.pop_front();
                }
                true
            }
        }
    }

    /// Looks for watchers of the plugin that the announcement does not name.
    fn look_besides(&self, announcing: &mut Announcing, slice: &mut Slice) -> bool {
        let owner = Owner::Plugin(announcing.plugin.clone());
        let numbers = self.rows_of.get(&owner).map_or(&[][..], |rows| &rows.numbers);
        let looked_at = announcing.looked_at;
        let next = numbers.partition_point(|number| looked_at.is_some_and(|at| *number <= at));
        for number in &numbers[next..] {
            if !slice.looks(1) {
                return false;
            }
            announcing.looked_at = Some(*number);
            let row = &self.watchers[number].row;
            if row.state == WatcherState::Retired
                || announcing.named.contains(row.key.local.as_str())
            {
                continue;
            }
            match row.state {
                // One that never stood is not missed, whatever is believed.
                WatcherState::Refused => announcing.leaving.push_back(*number),
                _ => announcing.lacking.watchers.push(*number),
            }
        }
        announcing.named = HashSet::new();
        true
    }

    fn declare_some(&mut self, announcing: &mut Announcing, slice: &mut Slice, now: Now) -> bool {
        let plugin = announcing.plugin.clone();
        let mut looking = Looking::default();
        while !announcing.declarations.as_slice().is_empty() {
            if slice.is_used_up() {
                return false;
            }
            let Some(declaration) = announcing.declarations.next() else { break };
            let verdicts = &mut announcing.verdicts;
            let is_first = announcing.are_first[verdicts.watchers.len()];
            let local = declaration.local.clone();
            if is_first && self.stands_so(&plugin, &declaration, &mut looking) {
                slice.looks(LOOKS_PER_STANDING);
                verdicts.watchers.push((local, Ok(())));
                continue;
            }
            slice.change();
            let (redaction, telling) = (&announcing.redaction, &mut announcing.telling);
            let verdict =
                self.declare_announced(&plugin, declaration, is_first, redaction, telling, now);
            if let Err(refusal) = &verdict {
                let (kind, name) = (Announced::Watcher, redaction.of(local.clone()));
                let reason = refusal.to_string();
                verdicts.refused.push(RefusedRow { kind, name, reason });
            }
            verdicts.watchers.push((local, verdict));
        }
        true
    }

    /// All watchers that an announcement has are declared: what else it has is, and what it lacks may go.
    fn all_declared(&mut self, announcing: &mut Announcing, now: Now, effects: &mut Vec<Effect>) {
        let plugin = announcing.plugin.clone();
        self.told_of(&plugin, std::mem::take(&mut announcing.telling), now);
        let schedules = std::mem::take(&mut announcing.schedules);
        let refused = &mut announcing.verdicts.refused;
        self.take_schedules(&plugin, schedules, &announcing.redaction, refused, now);
        if announcing.doubtful && !announcing.lacking.is_empty() {
            let lacking = std::mem::take(&mut announcing.lacking);
            self.doubt(&plugin, lacking, now, effects);
        } else {
            announcing.doubtful = false;
            self.doubt_no_more(&plugin);
            announcing.leaving = std::mem::take(&mut announcing.lacking.watchers).into();
        }
    }

    /// An announcement is at its end.
    fn all_announced(&mut self, announcing: Announcing, now: Now, effects: &mut Vec<Effect>) {
        let Announcing { plugin, request, lacking, verdicts, .. } = announcing;
        self.let_schedules_go(&plugin, lacking.schedules, now);
        let Some(request) = request else { return };
        // While it is doubted, what counts is that there once was one that called back.
        if !announcing.doubtful
            && let Some(called_back) = announcing.called_back
        {
            self.note_called_back(&plugin, called_back);
        }
        self.keep_refused_parts(&plugin, &verdicts.refused);
        self.schedule_plugin(&plugin);
        effects.push(Effect::Reply { request, answer: Answer::Registered(Ok(verdicts)) });
    }

    /// What is left of a plugin's announcement is not taken any more, for this reason.
    pub(crate) fn end_announcing(
        &mut self,
        plugin: &PluginName,
        reason: String,
        now: Now,
        effects: &mut Vec<Effect>,
    ) {
        let of_it = self.announcing.iter().position(|announcing| announcing.plugin == *plugin);
        let Some(announcing) = of_it.and_then(|at| self.announcing.remove(at)) else { return };
        // Of what it did not come to, as much is told as before.
        if announcing.stage != Stage::LettingGo {
            self.told_of(plugin, announcing.telling.cut_short(), now);
        }
        let Some(request) = announcing.request else { return };
        let refusal = Refusal::new(RefusalKind::Conflict, reason);
        effects.push(Effect::Reply { request, answer: Answer::Registered(Err(refusal)) });
    }
}
