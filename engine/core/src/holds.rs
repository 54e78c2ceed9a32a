//! Holding a watcher: paused until somebody resumes it, or muted until a moment.
//!
//! A held watcher is asked about every claim, and its jobs wait. Or they are let go: then a match makes
//! its job as one that is cancelled already, so that whoever asks why nothing ran finds it, and can still
//! have it run. What waited may be let go when the hold ends too: jobs in memory at once, jobs in the
//! table when they come back from it.

use std::time::Duration;

use axwatch_model::{HoldRow, JobRow, JobState, Mono, Now, Seq, WatcherNumber, WatcherState};

use crate::event::{Refusal, RefusalKind};
use crate::passes::Position;
use crate::record::{JobRecord, Record};
use crate::registry::state_of;
use crate::state::{LaneId, State, Timer};

/// A mute ends by the wall clock, which may be set: it is looked at this often.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(30);
/// How the error of a job begins that was let go.
const LET_GO: &str = "let go: ";

/// What is known of a watcher whose fires are held, or were.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    /// Since when they are.
    pub since: Option<Mono>,
    /// How long they were before.
    pub before: Duration,
    /// The hold that lasts.
    pub hold: Option<HoldRow>,
    /// How many there have been.
    pub count: u32,
    /// When it is looked at next whether a mute is over.
    pub looked_at: Option<Mono>,
    /// Former holds whose jobs are let go.
    pub let_go: Vec<HoldRow>,
}

impl Holding {
    /// The fires go on.
    pub fn no_longer(&mut self, now: Mono) {
        if let Some(since) = self.since.take() {
            self.before += now.since(since);
        }
    }
}

impl State {
    /// Takes the holds of an earlier life from the store: those that last, those whose jobs are let go, and
    /// the last of each watcher.
    pub(crate) fn restore_holds(&mut self, holds: Vec<HoldRow>, now: Now) {
        for hold in holds {
            let number = hold.watcher;
            let Some(watcher) = self.watchers.get_mut(&number) else { continue };
            let held = watcher.held.get_or_insert_default();
            held.count = held.count.max(hold.number);
            if hold.ended_at.is_some() {
                if hold.drops && hold.generation == watcher.row.generation {
                    held.let_go.push(hold);
                    self.letting_go.insert(number);
                }
            } else {
                held.hold = Some(hold);
                self.set_mute_timer(number, now);
            }
        }
    }

    pub(crate) fn pause(
        &mut self,
        number: WatcherNumber,
        skip: bool,
        now: Now,
    ) -> Result<(), Refusal> {
        let watcher = &self.watchers[&number];
        match watcher.row.state {
            WatcherState::Live | WatcherState::WaitingForHandler => {
                self.hold(number, WatcherState::Paused, skip, None, now);
                self.record_watcher(number, "watcher_paused", None, None, now);
                Ok(())
            }
            WatcherState::Muted if watcher.hold().is_some() => {
                let shown = watcher.shown();
                Err(conflict(format!(
                    "watcher {shown} is muted; `axwatch watch unmute {shown}` first"
                )))
            }
            WatcherState::Paused => self.hold_otherwise(number, skip, None, now),
            _ => Ok(()),
        }
    }

    pub(crate) fn mute(
        &mut self,
        number: WatcherNumber,
        until: axwatch_model::Timestamp,
        drop: bool,
        now: Now,
    ) -> Result<(), Refusal> {
        let watcher = &self.watchers[&number];
        if until <= now.wall {
            let reason = format!("until {until}: that is over; it is {} now", now.wall);
            return Err(Refusal::new(RefusalKind::Invalid, reason));
        }
        let shown = watcher.shown();
        match watcher.row.state {
            WatcherState::Live | WatcherState::WaitingForHandler => {
                self.hold(number, WatcherState::Muted, drop, Some(until), now);
                self.record_hold(number, "watcher_muted", now);
                Ok(())
            }
            WatcherState::Muted if watcher.hold().is_some() => {
                self.hold_otherwise(number, drop, Some(until), now)
            }
            WatcherState::Paused => Err(conflict(format!(
                "watcher {shown} is paused; `axwatch watch resume {shown}` first"
            ))),
            WatcherState::Muted => Err(conflict(format!(
                "watcher {shown} fires nothing anyway: its limit is 0, which its plugin means as never"
            ))),
            state => Err(conflict(format!("watcher {shown} is {state} and fires nothing anyway"))),
        }
    }

    fn hold(
        &mut self,
        number: WatcherNumber,
        kind: WatcherState,
        drops: bool,
        until: Option<axwatch_model::Timestamp>,
        now: Now,
    ) {
        self.forget_let_go(number);
        let (from_seq, from_job) = (self.position_of(number), self.last_job);
        // Their moments tell which came first, a pass or a hold, wherever the clock was set meanwhile.
        let began = self.passes.began_at((number, self.watchers[&number].row.generation));
        let after = began.map(|began| began.plus(Duration::from_millis(1)));
        let at = after.map_or(now.wall, |after| after.max(now.wall));
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        let held = watcher.held.get_or_insert_default();
        held.count += 1;
        let hold = HoldRow {
            watcher: number,
            number: held.count,
            generation: watcher.row.generation,
            kind,
            drops,
            at,
            until,
            from_seq,
            from_job,
            ended_at: None,
            to_seq: None,
            to_job: None,
        };
        self.unwritten.holds.insert((number, hold.number), hold.clone());
        held.hold = Some(hold);
        held.since = Some(now.mono);
        watcher.row.state = kind;
        watcher.row.updated_at = now.wall;
        self.unwritten.watchers.insert(number);
        self.set_mute_timer(number, now);
    }

    /// The same hold goes on under other terms.
    fn hold_otherwise(
        &mut self,
        number: WatcherNumber,
        drops: bool,
        until: Option<axwatch_model::Timestamp>,
        now: Now,
    ) -> Result<(), Refusal> {
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        let held = watcher.held.as_mut();
        let Some(hold) = held.and_then(|held| held.hold.as_mut()) else { return Ok(()) };
        if hold.drops != drops {
            // What has waited so far, and what is let go from here on, are two holds.
            let (kind, until) = (hold.kind, until.or(hold.until));
            self.end_hold(number, false, now);
            self.hold(number, kind, drops, until, now);
        } else if hold.until == until {
            return Ok(());
        } else {
            hold.until = until;
            let (key, hold) = ((number, hold.number), hold.clone());
            self.unwritten.holds.insert(key, hold);
            self.set_mute_timer(number, now);
        }
        self.record_hold(number, "watcher_muted", now);
        Ok(())
    }

    fn record_hold(&mut self, number: WatcherNumber, kind: &'static str, now: Now) {
        let hold = self.watchers[&number].hold();
        let (drop, until) = (hold.map(|hold| hold.drops), hold.and_then(|hold| hold.until));
        let seq = self.position_of(number);
        self.record_position(number, kind, Position { drop, until, ..Position::at(seq) }, now);
    }

    fn set_mute_timer(&mut self, number: WatcherNumber, now: Now) {
        let hold = self.watchers[&number].hold();
        if let Some(until) = hold.and_then(|hold| hold.until) {
            let due = now.mono.plus(until.since(now.wall).min(LOOKED_AT_EVERY));
            let watcher = self.watchers.get_mut(&number).expect("looked up above");
            let former = watcher.held.get_or_insert_default().looked_at.replace(due);
            former.map(|former| self.timers.remove(&(former, Timer::Mute(number))));
            self.timers.insert((due, Timer::Mute(number)));
        }
    }

    /// The moment may have come at which a mute ends.
    pub(crate) fn look_at_mute(&mut self, number: WatcherNumber, now: Now) {
        let Some(watcher) = self.watchers.get(&number) else { return };
        let Some(until) = watcher.hold().and_then(|hold| hold.until) else { return };
        if until <= now.wall {
            self.release_hold(number, false, now);
        } else {
            self.set_mute_timer(number, now);
        }
    }

    /// Lets a held watcher go on; what waited fires at its limit, or is let go.
    pub(crate) fn release_held(
        &mut self,
        number: WatcherNumber,
        kind: WatcherState,
        drop: bool,
        now: Now,
    ) -> Result<(), Refusal> {
        let watcher = &self.watchers[&number];
        if watcher.row.state == kind && watcher.hold().is_some() {
            self.release_hold(number, drop, now);
            return Ok(());
        }
        let shown = watcher.shown();
        match (watcher.row.state, kind) {
            (WatcherState::Muted, WatcherState::Paused) if watcher.hold().is_some() => {
                Err(conflict(format!(
                    "watcher {shown} is muted, not paused: `axwatch watch unmute {shown}`"
                )))
            }
            (WatcherState::Paused, WatcherState::Muted) => Err(conflict(format!(
                "watcher {shown} is paused, not muted: `axwatch watch resume {shown}`"
            ))),
            // What nobody holds goes on already.
            _ => Ok(()),
        }
    }

    fn release_hold(&mut self, number: WatcherNumber, drop: bool, now: Now) {
        let Some(kind) = self.watchers[&number].hold().map(|hold| hold.kind) else { return };
        self.end_hold(number, drop, now);
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        watcher.row.state = state_of(&watcher.row);
        watcher.row.updated_at = now.wall;
        // Of a suspected loop, which whoever lets it go on has seen.
        watcher.row.error.take_if(|error| error.starts_with(crate::loops::SUSPECTED));
        self.unwritten.watchers.insert(number);
        self.mend_or_break(number, now);
        let kind = match kind {
            WatcherState::Muted => "watcher_unmuted",
            _ => "watcher_resumed",
        };
        let seq = self.position_of(number);
        let position = Position { drop: drop.then_some(true), ..Position::at(seq) };
        self.record_position(number, kind, position, now);
        self.schedule_watcher(number);
    }

    /// Writes down that a hold has ended, and lets go what it held if that was asked for.
    pub(crate) fn end_hold(&mut self, number: WatcherNumber, drop: bool, now: Now) {
        let (position, to_job) = (self.position_of(number), self.last_job);
        let began = self.passes.began_at((number, self.watchers[&number].row.generation));
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        let Some(held) = &mut watcher.held else { return };
        held.no_longer(now.mono);
        let Some(mut hold) = held.hold.take() else { return };
        // One that fell behind meanwhile has yet to come to the rest of what was held; one that was
        // behind before has the claims after its position still before it.
        let fell_behind = began.is_some_and(|began| began >= hold.at);
        let to_seq = if fell_behind { self.matched_seq } else { position };
        hold.drops |= drop;
        (hold.ended_at, hold.to_seq, hold.to_job) = (Some(now.wall), Some(to_seq), Some(to_job));
        self.unwritten.holds.insert((number, hold.number), hold.clone());
        if hold.drops {
            held.let_go.push(hold);
            self.let_go_waiting(number, now);
        }
    }

    /// A watcher is retired: when it is declared again and sees the same claims anew, what it was held for
    /// then is over.
    pub(crate) fn end_holds(&mut self, number: WatcherNumber, now: Now) {
        self.end_hold(number, false, now);
        self.clear_let_go(number);
    }

    /// Forgets former holds once nothing of theirs can be left: no job of the watcher waits in the table, and
    /// it has no claims before it.
    pub(crate) fn forget_let_go(&mut self, number: WatcherNumber) {
        let waits = |lane: &LaneId| {
            let lane = &self.lanes[lane];
            lane.spill.is_some() || lane.loading.is_some()
        };
        if !self.watchers[&number].let_go().is_empty()
            && !self.is_catching_up(number)
            && !self.lanes_of_watcher(number).iter().any(waits)
        {
            self.clear_let_go(number);
        }
    }

    fn clear_let_go(&mut self, number: WatcherNumber) {
        let watcher = self.watchers.get_mut(&number).expect("listed by the caller");
        if let Some(held) = &mut watcher.held {
            held.let_go = Vec::new();
        }
    }

    /// Why the job of a match is made only to be let go, if it is.
    pub(crate) fn why_let_go(
        &self,
        number: WatcherNumber,
        generation: u32,
        seq: Seq,
    ) -> Option<&'static str> {
        let watcher = &self.watchers[&number];
        if generation != watcher.row.generation {
            return None;
        }
        let present = watcher.hold().filter(|hold| hold.drops);
        if watcher.let_go().is_empty() {
            return present.map(reason_of);
        }
        let former = watcher
            .let_go()
            .iter()
            .find(|hold| hold.from_seq < seq && hold.to_seq.is_some_and(|to_seq| seq <= to_seq));
        present.or(former).map(reason_of)
    }

    /// Whether a job that waits in the table is to be let go: it was held by a hold whose jobs are.
    pub(crate) fn is_let_go(&self, row: &JobRow) -> Option<&'static str> {
        let watcher = self.watchers.get(&row.watcher?)?;
        // Whoever had a job tried again that was let go, or resumed one that was paused, wants it to run.
        let is_wanted = row.error.is_some() || row.due_at.is_some();
        if row.attempts > 0 || is_wanted || row.generation != watcher.row.generation {
            return None;
        }
        let hold = watcher.let_go().iter().find(|hold| {
            hold.from_job < row.number && hold.to_job.is_some_and(|to_job| row.number <= to_job)
        });
        hold.map(reason_of)
    }

    /// Lets go what waits in memory; what waits in the table follows when it is read.
    fn let_go_waiting(&mut self, number: WatcherNumber, now: Now) {
        for lane_id in self.lanes_of_watcher(number) {
            let waiting = self.lanes[&lane_id].first.iter();
            for job in waiting.map(|place| place.number).collect::<Vec<_>>() {
                if let Some(reason) = self.is_let_go(&self.jobs[&job].row) {
                    let lane = self.lanes.get_mut(&lane_id).expect("listed above");
                    lane.first.retain(|waiting| waiting.number != job);
                    let row = self.forget_job(job).expect("a lane's jobs are in memory").row;
                    self.unwritten.jobs.remove(&job);
                    self.let_go(lane_id, row, reason, now);
                }
            }
            // The first of them that is left is in the table.
            self.starved.insert(lane_id);
        }
    }

    /// Cancels an open job that waits nowhere in memory.
    pub(crate) fn let_go(&mut self, lane_id: LaneId, row: JobRow, reason: &str, now: Now) {
        let row = self.cancelled(row, reason, now);
        self.close(lane_id, row, now);
        self.drop_if_done(lane_id);
    }

    /// A row as one that was let go.
    pub(crate) fn cancelled(&mut self, mut row: JobRow, reason: &str, now: Now) -> JobRow {
        let error = format!("{LET_GO}{reason}");
        let leaf = self.record(&Record::Job(JobRecord {
            reason: Some(&error),
            ..JobRecord::new("job_cancelled", row.id, now.wall)
        }));
        row.leaves.push(leaf);
        (row.state, row.completed_at, row.error) =
            (JobState::Cancelled, Some(now.wall), Some(error));
        row
    }
}

fn conflict(reason: String) -> Refusal {
    Refusal::new(RefusalKind::Conflict, reason)
}

fn reason_of(hold: &HoldRow) -> &'static str {
    match hold.kind {
        WatcherState::Muted => "the watcher was muted",
        _ => "the watcher was paused",
    }
}
