//! Schedules: what is to run again and again, and making its jobs when their times have come.
//!
//! A schedule has a grid (`crate::grid`) and remembers which of its nominal times were seen to (`crate::seen`).
//! When one has come, the job, the row of what became of the time, and the memory of it are one batch: so
//! each nominal time makes at most one job, whatever ends or sets the clock in between. The wall clock is looked
//! at when the next time is due, and at least every 30 seconds, because it may be set; one timer does that for
//! all schedules.
//!
//! What is due and nothing could look at in time is missed, and the schedule's policy says what runs of it.
//! While the engine drains, the disk is nearly full, or as many jobs are open as may be, nothing is looked at:
//! what is due then is late, as after a stop.
//!
//! Not here: making a job (`crate::asked`), announcements as a whole (`crate::plugins`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axwatch_model::{
    Asker, Grid, HandlerName, JobId, JobNumber, JobRow, JobState, LocalId, Missed, Mono, Now,
    Overlap, Owner, PluginName, RunOutcome, ScheduleId, ScheduleRow, ScheduleRun, ScheduleRunRow,
    ScheduleState, Timestamp, bounds,
};
use hashbrown::HashMap;

use crate::asked::NewJob;
use crate::event::{
    Answer, Refusal, RefusalKind, ScheduleAsk, ScheduleCommand, ScheduleDeclaration,
};
use crate::grid::Times;
use crate::job::mix;
use crate::kin::{Identity, Known};
use crate::record::{Record, ScheduleRecord, ScheduleTimes};
use crate::redrive::conflict;
use crate::seen::{Plan, Seen, plan};
use crate::since::since_last_run;
use crate::state::{LaneId, State, Timer};

/// The wall clock is looked at so often, while a schedule is active.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(30);
/// Schedules that are looked at in one step; the others come in the next.
const LOOKS_PER_STEP: usize = 64;
/// How late a run may be and yet be in time: a tenth of its interval, within these.
const GRACE_MIN: Duration = Duration::from_secs(1);
const GRACE_MAX: Duration = Duration::from_secs(60);
/// Runs that are made in one batch, and bytes of their payloads; the others come in the next.
const RUNS_PER_BATCH: usize = 256;
const RUN_BYTES_PER_BATCH: usize = 8 * 1024 * 1024;
/// Nominal times in time that may have come since the last look.
const IN_TIME_MAX: usize = 64;
/// Missed times are told of as far back as this.
const MISSED_SINCE_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
/// Times that come more often and are missed, because nobody has the handler, are told of so often, many at once.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long until there may be room for more jobs.
const FULL: Duration = Duration::from_secs(1);
/// What became of a schedule's times is kept for so long, at least of the last thousand.
const RUNS_KEPT: Duration = Duration::from_secs(32 * 24 * 60 * 60);
/// Older ones are taken away after so many new ones.
const RUNS_PER_RETENTION: u32 = 256;

/// All schedules.
#[derive(Default)]
pub(crate) struct Schedules {
    all: BTreeMap<ScheduleId, Schedule>,
    /// Those of each owner by name, retired ones included.
    by_owner: BTreeMap<Owner, BTreeMap<LocalId, ScheduleId>>,
    /// The active ones by when they are looked at next, by the wall clock.
    due: BTreeSet<(Timestamp, ScheduleId)>,
    /// What the wall clock said at the last look.
    looked_at: Timestamp,
    timer: Option<Mono>,
    room: Room,
    /// Their jobs that are open.
    jobs: HashMap<JobNumber, ScheduleId>,
}

struct Schedule {
    row: ScheduleRow,
    times: Times,
    /// Its place among those that are due.
    due: Option<Timestamp>,
    /// Its open jobs, with what is known of each.
    open: BTreeMap<JobNumber, (JobId, LaneId)>,
    /// Those of them with an attempt under way: one at a time, besides those that were run by hand.
    under_way: BTreeSet<JobNumber>,
    /// Its open jobs when it was first looked at, while not all that had come by then has been seen to.
    stood: Option<BTreeSet<JobNumber>>,
    /// Times that were missed and that nobody was told of yet. Its row is not written meanwhile.
    untold: Option<Untold>,
    /// What was last told of such times, and when.
    told: Option<(RunOutcome, String, Mono)>,
    /// Rows of runs since older ones were taken away.
    runs: u32,
}

/// Nominal times of which one thing is to be told.
struct Untold {
    outcome: RunOutcome,
    reason: String,
    /// The first and the last of them, and how many they are.
    times: (Timestamp, Timestamp, u64),
}

/// What the batch at hand may yet make.
struct Room {
    runs: usize,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room { runs: RUNS_PER_BATCH, bytes: RUN_BYTES_PER_BATCH }
    }
}

impl Room {
    fn is_taken(&self) -> bool {
        self.runs == 0 || self.bytes == 0
    }

    fn take(&mut self, bytes: usize) {
        self.runs -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// A schedule as people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleView {
    /// As the store has it; inactive while nobody has its handler.
    pub row: ScheduleRow,
    /// When it runs next, by the wall clock, jitter included; `None` of one that is not active.
    pub next: Option<Timestamp>,
    /// Jobs of it that are not at their end.
    pub open_jobs: u64,
}

impl Schedule {
    fn new(row: ScheduleRow) -> Schedule {
        // What stands was checked; after an upgrade a text may be none any more, and then it has no times.
        let times = Times::of(&row.grid, row.anchor).unwrap_or_else(|_| Times::never());
        Schedule {
            row,
            times,
            due: None,
            open: BTreeMap::new(),
            under_way: BTreeSet::new(),
            stood: None,
            untold: None,
            told: None,
            runs: 0,
        }
    }

    fn seen(&self) -> Seen {
        Seen::of(self.row.seen.clone())
    }

    fn is_standing(&self) -> bool {
        self.row.state != ScheduleState::Retired
    }

    /// From one nominal time to the next.
    fn interval(&self, nominal: Timestamp) -> Duration {
        let next = self.times.next_after(nominal);
        next.map_or(Duration::MAX, |next| next.since(nominal))
    }

    /// When a nominal time is due: later by its jitter, and before the next.
    fn due_at(&self, nominal: Timestamp) -> Timestamp {
        if self.row.jitter_secs == 0 {
            return nominal;
        }
        let seed = u64::from_be_bytes(self.row.id.0[..8].try_into().expect("8 of 16 bytes"));
        let most_ms = u64::from(self.row.jitter_secs) * 1_000;
        let interval_ms = u64::try_from(self.interval(nominal).as_millis()).unwrap_or(u64::MAX);
        let most_ms = most_ms.min(interval_ms.saturating_sub(1));
        let jitter_ms = mix(seed ^ nominal.ms().unsigned_abs()) % (most_ms + 1);
        nominal.plus(Duration::from_millis(jitter_ms))
    }

    fn is_late(&self, nominal: Timestamp, now: Timestamp) -> bool {
        let grace = (self.interval(nominal) / 10).clamp(GRACE_MIN, GRACE_MAX);
        now.since(self.due_at(nominal)) > grace
    }

    /// The first nominal time that was not seen to and lies after all that were up to now.
    fn next_nominal(&self, now: Timestamp) -> Option<Timestamp> {
        let seen = self.seen();
        let mut after = seen.upto(now).unwrap_or(now);
        loop {
            let nominal = self.times.next_after(after)?;
            match seen.end_around(nominal) {
                Some(end) => after = end,
                None => return Some(nominal),
            }
        }
    }

    /// When it is to be looked at for its next nominal time.
    fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        self.next_nominal(now).map(|nominal| self.due_at(nominal))
    }

    /// Nothing that lies before now is due any more: it began to run now, or its grid is another.
    fn begin_at(&mut self, now: Timestamp) {
        self.stood = None;
        self.see(now, now, now);
    }

    /// The same after the clock was set back, except that a nominal time that is just now is due: to be
    /// seen to it has to run.
    fn begin_again_at(&mut self, now: Timestamp) {
        let just_before = now.minus(Duration::from_millis(1));
        let is_nominal = self.times.next_after(just_before) == Some(now);
        let begins = if is_nominal { just_before } else { now };
        self.stood = None;
        self.see(begins, begins, now);
    }

    fn see(&mut self, from: Timestamp, upto: Timestamp, now: Timestamp) {
        let mut seen = self.seen();
        seen.add(from, upto, now);
        self.row.seen = seen.ranges().to_vec();
    }
}

impl Schedules {
    pub fn new(rows: Vec<ScheduleRow>) -> Schedules {
        let mut schedules = Schedules::default();
        for row in rows {
            schedules.put(Schedule::new(row));
        }
        schedules
    }

    fn put(&mut self, schedule: Schedule) {
        let row = &schedule.row;
        self.by_owner.entry(row.owner.clone()).or_default().insert(row.name.clone(), row.id);
        self.all.insert(row.id, schedule);
    }

    pub fn row(&self, id: &ScheduleId) -> Option<&ScheduleRow> {
        self.all.get(id).map(|schedule| &schedule.row)
    }

    fn named(&self, owner: &Owner, name: &LocalId) -> Option<ScheduleId> {
        self.by_owner.get(owner)?.get(name).copied()
    }

    fn count_of(&self, owner: &Owner) -> usize {
        self.by_owner.get(owner).map_or(0, BTreeMap::len)
    }

    /// Those of an owner that are not retired, by name.
    pub fn standing_of(&self, owner: &Owner) -> impl Iterator<Item = &ScheduleRow> {
        let ids = self.by_owner.get(owner).into_iter().flatten().map(|(_, id)| id);
        let all = ids.filter_map(|id| self.all.get(id));
        all.filter(|schedule| schedule.is_standing()).map(|schedule| &schedule.row)
    }

    /// Those that are not retired, by owner and name.
    pub fn standing(&self) -> impl Iterator<Item = &ScheduleRow> {
        self.by_owner.keys().flat_map(|owner| self.standing_of(owner))
    }

    /// The batch at hand has been taken.
    pub fn begin_batch(&mut self) {
        self.room = Room::default();
    }

    /// Puts a schedule where it belongs among those that are due.
    fn arrange(&mut self, id: ScheduleId, now: Timestamp) {
        let Some(schedule) = self.all.get_mut(&id) else { return };
        if let Some(before) = schedule.due.take() {
            self.due.remove(&(before, id));
        }
        if schedule.row.state == ScheduleState::Active {
            let next = schedule.next_due(now);
            schedule.due = next;
            self.due.extend(next.map(|next| (next, id)));
        }
    }

    /// Looks at a schedule later than it would be.
    fn put_off(&mut self, id: ScheduleId, until: Timestamp) {
        let Some(schedule) = self.all.get_mut(&id) else { return };
        if let Some(before) = schedule.due.replace(until) {
            self.due.remove(&(before, id));
        }
        self.due.insert((until, id));
    }
}

impl State {
    /// Takes the schedules of an earlier life.
    pub(crate) fn restore_schedules(&mut self, rows: Vec<ScheduleRow>, now: Now) {
        self.schedules = Schedules::new(rows);
        self.schedules.looked_at = now.wall;
        let ids: Vec<_> = self.schedules.all.keys().copied().collect();
        for id in ids {
            self.begin_if_new(id, now);
            self.schedules.arrange(id, now.wall);
        }
    }

    /// One of which nothing was ever seen to begins now.
    fn begin_if_new(&mut self, id: ScheduleId, now: Now) {
        let Some(schedule) = self.schedules.all.get_mut(&id) else { return };
        if schedule.row.state == ScheduleState::Active && schedule.seen().upto(now.wall).is_none() {
            schedule.begin_at(now.wall);
            self.unwritten.schedules.insert(id);
        }
    }

    /// The clock was set back. What lies before it was accounted for only if a later time was seen to before
    /// the clock was set: otherwise it is late, but not lost.
    fn begin_anew(&mut self, id: ScheduleId, now: Now) {
        let looked_at = self.schedules.looked_at;
        let schedule = self.schedules.all.get_mut(&id).expect("listed by the caller");
        let seen = schedule.seen();
        let begins_anew = match seen.upto(now.wall) {
            None => true,
            Some(upto) => {
                seen.begins_within(now.wall, looked_at)
                    && schedule.times.between(upto, now.wall, 0).count > 0
            }
        };
        if begins_anew {
            schedule.begin_again_at(now.wall);
            self.tell_untold(id, now);
            self.unwritten.schedules.insert(id);
        }
    }

    /// Looks at the schedules whose next time has come.
    pub(crate) fn run_schedules(&mut self, now: Now) {
        if self.schedules.due.is_empty() || self.draining || self.disk_low || self.is_recovering() {
            return;
        }
        if now.wall < self.schedules.looked_at {
            // What had been far away may be near.
            let active: Vec<_> = self.schedules.due.iter().map(|(_, id)| *id).collect();
            for id in active {
                self.begin_anew(id, now);
                self.schedules.arrange(id, now.wall);
            }
        }
        self.schedules.looked_at = now.wall;
        let mut room = std::mem::take(&mut self.schedules.room);
        for _ in 0..LOOKS_PER_STEP {
            let first = self.schedules.due.first().copied();
            let Some((_, id)) = first.filter(|(due, _)| *due <= now.wall) else { break };
            if room.is_taken() {
                break;
            }
            self.look_at_schedule(id, &mut room, now);
        }
        self.schedules.room = room;
        self.arm_schedules(now);
    }

    fn arm_schedules(&mut self, now: Now) {
        let Some((due, _)) = self.schedules.due.first() else { return };
        let at = now.mono.plus(due.since(now.wall).min(LOOKED_AT_EVERY));
        if self.schedules.timer.is_some_and(|timer| timer <= at) {
            return;
        }
        if let Some(before) = self.schedules.timer.replace(at) {
            self.timers.remove(&(before, Timer::Schedules));
        }
        self.timers.insert((at, Timer::Schedules));
    }

    /// The timer is over; every step looks anyway.
    pub(crate) fn schedules_are_due(&mut self) {
        self.schedules.timer = None;
    }

    /// Sees to the nominal times of a schedule that have come, as far as there is room for their runs.
    fn look_at_schedule(&mut self, id: ScheduleId, room: &mut Room, now: Now) {
        if !self.has_room_for_jobs() {
            self.schedules.put_off(id, now.wall.plus(FULL));
            return;
        }
        let schedule = &self.schedules.all[&id];
        let from = schedule.seen().upto(now.wall).unwrap_or(now.wall);
        let come = schedule.come(from, now.wall);
        let Some(last) = come.last.last().copied() else {
            self.schedules.arrange(id, now.wall);
            return;
        };
        let is_late = |nominal| schedule.is_late(nominal, now.wall);
        let all_late = is_late(last);
        let is_had = self.handler_of(&schedule.row).is_some();
        let plan = if is_had {
            plan(&come, schedule.row.missed, is_late)
        } else {
            let missed = come.first.map(|first| (first, last, come.count));
            Plan { missed, runs: Vec::new(), late: 0 }
        };
        let schedule = self.schedules.all.get_mut(&id).expect("looked up above");
        let is_asked_for = plan.late > 0 && schedule.row.overlap != Overlap::Queue;
        let stood = schedule
            .stood
            .take()
            .unwrap_or_else(|| schedule.open.keys().filter(|_| is_asked_for).copied().collect());
        if let Some((first, last, count)) = plan.missed {
            let reason = if is_had { "late" } else { "nobody has its handler" };
            self.tell_of_times(id, RunOutcome::Missed, (first, last, count), reason, now);
        }
        let last_run = self.run_times(id, &plan, &stood, room, now);
        let seen = match (&plan.missed, plan.runs.first().zip(last_run)) {
            (None, Some((_, last_run))) => (from, last_run),
            (Some(_), Some((first_run, last_run))) => (*first_run, last_run),
            (_, None) if !all_late => (from, last),
            // Nothing was seen to, and yet it is not to be told of again: no nominal time lies at this moment.
            (_, None) => (last.plus(Duration::from_millis(1)), last.plus(Duration::from_millis(1))),
        };
        let schedule = self.schedules.all.get_mut(&id).expect("looked up above");
        schedule.see(seen.0, seen.1, now.wall);
        if last_run.is_some_and(|last_run| last_run < last) {
            schedule.stood = Some(stood);
        }
        if schedule.untold.is_none() {
            self.unwritten.schedules.insert(id);
        } else if self.unwritten.schedules.contains(&id) {
            // A row that is written says what was seen to.
            self.tell_untold(id, now);
        }
        self.schedules.arrange(id, now.wall);
    }

    /// Makes the runs of a plan, as many as there is room for, and says which was the last. `stood` was open
    /// when it was first looked at.
    fn run_times(
        &mut self,
        id: ScheduleId,
        plan: &Plan,
        stood: &BTreeSet<JobNumber>,
        room: &mut Room,
        now: Now,
    ) -> Option<Timestamp> {
        let mut last_run = None;
        for (at, nominal) in plan.runs.iter().enumerate() {
            if room.is_taken() {
                break;
            }
            last_run = Some(*nominal);
            // Those that are made up for all run, one after the other if need be.
            let is_late = at < plan.late;
            let schedule = &self.schedules.all[&id];
            room.take(schedule.row.payload.as_ref().map_or(0, |payload| payload.len()));
            if let Some(reason) = self.leaves_out(id, stood, is_late) {
                let times = (*nominal, *nominal, 1);
                self.tell_of_times(id, RunOutcome::SkippedOverlap, times, &reason, now);
                continue;
            }
            if self.schedules.all[&id].row.overlap == Overlap::Cancel {
                self.cancel_runs(id, stood, is_late, *nominal, now);
            }
            self.run_at(id, *nominal, now);
        }
        last_run
    }

    /// Why a nominal time is left out.
    fn leaves_out(
        &self,
        id: ScheduleId,
        stood: &BTreeSet<JobNumber>,
        is_late: bool,
    ) -> Option<String> {
        let schedule = &self.schedules.all[&id];
        let max = self.policy.bounds.schedule_open_jobs_max;
        if schedule.open.len() >= max {
            return Some(format!("{max} jobs of it are open, which is the bound"));
        }
        let is_in_its_way = schedule.row.overlap == Overlap::Skip
            && match is_late {
                true => stood.iter().any(|job| schedule.open.contains_key(job)),
                false => !schedule.open.is_empty(),
            };
        is_in_its_way.then(|| "the run before is not over".to_owned())
    }

    /// A run cancels those before it.
    fn cancel_runs(
        &mut self,
        id: ScheduleId,
        stood: &BTreeSet<JobNumber>,
        is_late: bool,
        nominal: Timestamp,
        now: Now,
    ) {
        let open = self.schedules.all[&id].open.keys();
        let in_its_way = open.filter(|job| !is_late || stood.contains(job));
        let reason = format!("its schedule runs anew, for {nominal}");
        for job in in_its_way.copied().collect::<Vec<_>>() {
            self.cancel_run(id, job, Some(&Asker::Schedule), &reason, now);
        }
    }

    /// Makes the job of a nominal time.
    fn run_at(&mut self, id: ScheduleId, nominal: Timestamp, now: Now) {
        let row = &self.schedules.all[&id].row;
        let job = JobId::of_schedule(self.policy.store_id, &row.owner, &row.name, nominal);
        if self.make_run(id, job, Asker::Schedule, Some(nominal), now).is_some() {
            let row = &mut self.schedules.all.get_mut(&id).expect("looked up above").row;
            row.last_nominal = Some(nominal);
        }
    }

    fn make_run(
        &mut self,
        id: ScheduleId,
        job: JobId,
        by: Asker,
        nominal: Option<Timestamp>,
        now: Now,
    ) -> Option<JobRow> {
        let (plugin, handler) = self.handler_of(&self.schedules.all[&id].row)?;
        // Its row is written, which says what was seen to.
        self.tell_untold(id, now);
        let row = &self.schedules.all[&id].row;
        let nothing = || Arc::from([].as_slice());
        let payload = row.payload.as_ref();
        let payload =
            payload.map_or_else(nothing, |payload| since_last_run(payload, row.last_nominal));
        let owner = row.owner.clone();
        let made = self.make_job(
            NewJob {
                id: job,
                by,
                owner,
                plugin,
                handler,
                payload,
                source: "".into(),
                priority: 0,
                above: Vec::new(),
                schedule: Some(ScheduleRun { id, nominal }),
                cost_estimate: None,
                delay: Duration::ZERO,
            },
            now,
        );
        let row = &mut self.schedules.all.get_mut(&id).expect("looked up above").row;
        (row.last_run_at, row.last_job) = (Some(now.wall), Some(job));
        self.unwritten.schedules.insert(id);
        let (count, upto, outcome) = (u64::from(nominal.is_some()), None, RunOutcome::Ran);
        let (at, job) = (now.wall, Some(job));
        self.add_run(ScheduleRunRow { schedule: id, nominal, upto, count, at, outcome, job });
        Some(made)
    }

    /// Who has the handler of a schedule.
    fn handler_of(&self, row: &ScheduleRow) -> Option<(PluginName, HandlerName)> {
        let (plugin, handler) = HandlerName::parse_qualified(&row.handler).ok()?;
        let plugin = plugin?;
        self.has_handler(&plugin, &handler).then_some((plugin, handler))
    }

    /// Tells of nominal times for which no job is made. When they come often and are missed again for the same reason,
    /// they are told of later, together: a crash forgets those, and that they were seen to, and they are missed as
    /// late then. Others are told of at once, for after a crash they would be something else.
    fn tell_of_times(
        &mut self,
        id: ScheduleId,
        outcome: RunOutcome,
        times: (Timestamp, Timestamp, u64),
        reason: &str,
        now: Now,
    ) {
        let schedule = self.schedules.all.get_mut(&id).expect("looked up by the caller");
        let may_wait = outcome == RunOutcome::Missed && schedule.interval(times.0) < TOLD_EVERY;
        let is_told = schedule.told.as_ref().is_some_and(|(told, why, at)| {
            (*told, why.as_str()) == (outcome, reason) && now.mono.since(*at) < TOLD_EVERY
        });
        let (_, last, count) = times;
        let before = schedule
            .untold
            .take_if(|untold| (untold.outcome, untold.reason.as_str()) == (outcome, reason));
        let times = before.map_or(times, |Untold { times, .. }| (times.0, last, times.2 + count));
        // What is left is of another kind.
        self.tell_untold(id, now);
        let schedule = self.schedules.all.get_mut(&id).expect("looked up above");
        schedule.untold = Some(Untold { outcome, reason: reason.to_owned(), times });
        if !(may_wait && is_told) {
            self.tell_untold(id, now);
        }
    }

    /// Tells of the times that nobody was told of yet.
    fn tell_untold(&mut self, id: ScheduleId, now: Now) {
        let schedule = self.schedules.all.get_mut(&id).expect("looked up by the caller");
        let Some(Untold { outcome, reason, times }) = schedule.untold.take() else { return };
        let (first, last, count) = times;
        schedule.told = Some((outcome, reason.clone(), now.mono));
        let (owner, name) = (schedule.row.owner.clone(), schedule.row.name.clone());
        self.unwritten.schedules.insert(id);
        self.record(&Record::ScheduleTimes(ScheduleTimes {
            at: now.wall,
            count,
            from: first,
            outcome: outcome.as_str(),
            owner: owner.as_str(),
            reason: &reason,
            schedule: name.as_str(),
            r#type: "schedule_skipped",
            upto: last,
        }));
        self.add_run(ScheduleRunRow {
            schedule: id,
            nominal: Some(first),
            upto: (count > 1).then_some(last),
            count,
            at: now.wall,
            outcome,
            job: None,
        });
    }

    fn add_run(&mut self, run: ScheduleRunRow) {
        let schedule = self.schedules.all.get_mut(&run.schedule).expect("looked up by the caller");
        schedule.runs += 1;
        if schedule.runs >= RUNS_PER_RETENTION {
            schedule.runs = 0;
            self.unwritten.runs_before.insert(run.schedule, run.at.minus(RUNS_KEPT));
        }
        self.unwritten.runs.push(run);
    }

    fn cancel_run(
        &mut self,
        id: ScheduleId,
        number: JobNumber,
        by: Option<&Asker>,
        reason: &str,
        now: Now,
    ) {
        let known = self.schedules.all.get(&id).and_then(|schedule| schedule.open.get(&number));
        if let Some((id, lane)) = known.copied() {
            let known = Known { id, parent: None, lane, source: None };
            self.cancel_open(number, &known, by, reason, now);
        }
    }

    /// A job is open: if it is a schedule's, that one knows it.
    pub(crate) fn note_run_open(&mut self, job: Identity<'_>, lane: LaneId) {
        let Some(run) = job.asked.and_then(|asked| asked.schedule) else { return };
        if let Some(schedule) = self.schedules.all.get_mut(&run.id) {
            schedule.open.insert(job.number, (job.id, lane));
            self.schedules.jobs.insert(job.number, run.id);
        }
    }

    /// A job is over.
    pub(crate) fn note_run_over(&mut self, number: JobNumber) {
        let Some(id) = self.schedules.jobs.remove(&number) else { return };
        if let Some(schedule) = self.schedules.all.get_mut(&id) {
            schedule.open.remove(&number);
        }
    }

    /// Whether a job waits because another run of its schedule is under way.
    pub(crate) fn run_has_to_wait(&self, number: JobNumber) -> bool {
        let id = self.schedules.jobs.get(&number);
        let schedule = id.and_then(|id| self.schedules.all.get(id));
        schedule.is_some_and(|schedule| !schedule.under_way.is_empty())
    }

    /// An attempt of a job begins.
    pub(crate) fn note_run_under_way(&mut self, number: JobNumber) {
        if let Some(runs) = self.runs_under_way(number) {
            runs.insert(number);
        }
    }

    /// The attempt under way of a job is over.
    pub(crate) fn note_run_rests(&mut self, number: JobNumber) {
        if let Some(runs) = self.runs_under_way(number) {
            runs.remove(&number);
        }
    }

    fn runs_under_way(&mut self, number: JobNumber) -> Option<&mut BTreeSet<JobNumber>> {
        let id = self.schedules.jobs.get(&number)?;
        Some(&mut self.schedules.all.get_mut(id)?.under_way)
    }

    /// What a plugin declares in its announcement, or why it cannot be.
    pub(crate) fn check_declared_schedule(
        &self,
        plugin: &PluginName,
        declaration: ScheduleDeclaration,
        now: Now,
    ) -> Result<ScheduleRow, String> {
        let ScheduleDeclaration { id, handler: text, description, ats_code, .. } = declaration;
        let (named, handler) =
            HandlerName::parse_qualified(&text).map_err(|error| error.to_string())?;
        let is_own = named.is_none_or(|named| named == *plugin);
        if !is_own || !self.has_handler(plugin, &handler) {
            return Err(format!(
                "handler {text}: plugin {plugin} did not announce it; a plugin's schedules run its own handlers"
            ));
        }
        let name = if id.is_empty() { handler.as_str() } else { &id };
        let name: LocalId = name.parse().map_err(|error| format!("id: {error}"))?;
        let owner = Owner::Plugin(plugin.clone());
        self.check_schedule_room(&owner, &name).map_err(|refusal| refusal.reason)?;
        check_length("ats_code", ats_code.len(), bounds::ATS_CODE_BYTES_MAX)
            .map_err(|refusal| refusal.reason)?;
        // Less than nothing is never, as nothing is.
        let secs = declaration.interval_secs.clamp(0, u32::MAX.into()) as u32;
        let handler = format!("{plugin}/{handler}").into();
        let new = self.new_schedule(owner, name, handler, Grid::Every { secs }, now);
        // What a call said besides stays as it is.
        let standing = self.schedules.all.get(&new.id).filter(|schedule| schedule.is_standing());
        let base = standing.map_or(new.clone(), |schedule| schedule.row.clone());
        Ok(ScheduleRow {
            handler: new.handler,
            grid: new.grid,
            enabled_by_default: declaration.enabled_by_default,
            description: bounds::cut(&description, bounds::DESCRIPTION_BYTES_MAX).to_owned(),
            ats_code,
            by_call: false,
            ..base
        })
    }

    /// A schedule that nothing is said of yet.
    fn new_schedule(
        &self,
        owner: Owner,
        name: LocalId,
        handler: Arc<str>,
        grid: Grid,
        now: Now,
    ) -> ScheduleRow {
        ScheduleRow {
            id: ScheduleId::of(self.policy.store_id, &owner, &name),
            owner,
            name,
            handler,
            grid,
            anchor: now.wall,
            payload: None,
            missed: Missed::default(),
            overlap: Overlap::default(),
            jitter_secs: 0,
            enabled_by_default: true,
            description: String::new(),
            ats_code: String::new(),
            metadata: None,
            by_call: true,
            state: ScheduleState::Inactive,
            declared_at: now.wall,
            changed_at: now.wall,
            retired_at: None,
            was_paused: false,
            seen: Vec::new(),
            last_nominal: None,
            last_run_at: None,
            last_job: None,
        }
    }

    fn check_schedule_room(&self, owner: &Owner, name: &LocalId) -> Result<(), Refusal> {
        let max = self.policy.bounds.owner_schedules_max;
        if self.schedules.named(owner, name).is_some() || self.schedules.count_of(owner) < max {
            return Ok(());
        }
        let who = match owner {
            Owner::User => "there are".to_owned(),
            Owner::Plugin(plugin) => format!("plugin {plugin} has"),
        };
        let reason = format!(
            "{who} {max} schedules, retired ones among them, and no owner may have more; use names again that \
             were used before"
        );
        Err(Refusal::new(RefusalKind::Exhausted, reason))
    }

    /// Whether what a schedule is to carry has room beside what the others of its owner carry.
    fn check_payload_room(
        &self,
        owner: &Owner,
        id: &ScheduleId,
        payload: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        let others = self.schedules.standing_of(owner).filter(|row| row.id != *id);
        let others = others.filter_map(|row| row.payload.as_ref());
        let bytes: usize = others.map(|payload| payload.len()).sum();
        let max = self.policy.bounds.owner_schedule_bytes_max;
        match payload {
            Some(payload) if bytes + payload.len() > max => {
                let reason = format!(
                    "payload: {} bytes; the other schedules of {owner} carry {bytes}, and {max} are allowed in all",
                    payload.len()
                );
                Err(Refusal::new(RefusalKind::Exhausted, reason))
            }
            _ => Ok(()),
        }
    }

    /// Makes a schedule what its owner says. The same as before changes nothing.
    pub(crate) fn take_schedule(&mut self, new: ScheduleRow, by: Option<&Asker>, now: Now) {
        let id = new.id;
        let former = self.schedules.all.get(&id);
        let standing = former.filter(|schedule| schedule.is_standing()).map(|s| &s.row);
        let is_grid_new = standing.is_none_or(|former| former.grid != new.grid);
        let was_paused = former.is_some_and(|former| former.row.was_paused);
        let state = if was_paused { ScheduleState::Paused } else { state_of(standing, &new) };
        let remembered = former.map(|schedule| &schedule.row);
        let mut row = ScheduleRow {
            anchor: standing.map_or(new.anchor, |former| former.anchor),
            state,
            declared_at: standing.map_or(now.wall, |former| former.declared_at),
            changed_at: standing.map_or(now.wall, |former| former.changed_at),
            retired_at: None,
            was_paused: false,
            seen: remembered.map(|former| former.seen.clone()).unwrap_or_default(),
            last_nominal: remembered.and_then(|former| former.last_nominal),
            last_run_at: remembered.and_then(|former| former.last_run_at),
            last_job: remembered.and_then(|former| former.last_job),
            ..new
        };
        if standing.is_some_and(|former| *former == row) {
            return;
        }
        let is_state_new = standing.is_none_or(|former| former.state != state);
        let kind = if standing.is_some() { "schedule_changed" } else { "schedule_declared" };
        if standing.is_some() && (is_grid_new || is_state_new) {
            self.close_times(id, "it was changed before they ran", now);
            row.seen = self.schedules.all[&id].row.seen.clone();
        }
        let mut schedule = Schedule::new(ScheduleRow { changed_at: now.wall, ..row });
        if state != ScheduleState::Inactive && (is_grid_new || is_state_new) {
            schedule.begin_at(now.wall);
        }
        if let Some(former) = self.schedules.all.get_mut(&id) {
            schedule.open = std::mem::take(&mut former.open);
            schedule.under_way = std::mem::take(&mut former.under_way);
            (schedule.due, schedule.runs) = (former.due, former.runs);
            (schedule.untold, schedule.told) = (former.untold.take(), former.told.take());
        }
        self.schedules.put(schedule);
        self.note_schedule(id, kind, by, None, now);
    }

    /// A schedule is no more. What of it waits is cancelled; what runs may end.
    pub(crate) fn retire_schedule(
        &mut self,
        id: ScheduleId,
        reason: &str,
        by: Option<&Asker>,
        now: Now,
    ) {
        if !self.schedules.all.contains_key(&id) {
            return;
        }
        self.close_times(id, "it was retired before they ran", now);
        let schedule = self.schedules.all.get_mut(&id).expect("looked up above");
        let row = &mut schedule.row;
        // Somebody who deletes it may well want it to run when it is made again.
        row.was_paused = row.state == ScheduleState::Paused && by.is_none();
        row.state = ScheduleState::Retired;
        (row.retired_at, row.changed_at) = (Some(now.wall), now.wall);
        row.by_call &= by.is_none();
        if !row.by_call {
            // Whoever makes it again says what it carries.
            row.payload = None;
        }
        let open: Vec<_> = schedule.open.keys().copied().collect();
        self.note_schedule(id, "schedule_retired", by, Some(reason), now);
        for number in open {
            let job = self.jobs.get(&number);
            if job.is_none_or(|job| job.row.state != JobState::Running) {
                self.cancel_run(id, number, by, "its schedule was retired", now);
            }
        }
    }

    /// Somebody deletes what its plugin's being disabled retired: enabling the plugin does not bring it back.
    fn stay_deleted(&mut self, id: ScheduleId, by: &Asker, now: Now) {
        let row = &mut self.schedules.all.get_mut(&id).expect("looked up by the caller").row;
        if row.by_call {
            (row.by_call, row.payload, row.was_paused) = (false, None, false);
            row.changed_at = now.wall;
            let reason = format!("deleted by {by}");
            self.note_schedule(id, "schedule_retired", Some(by), Some(&reason), now);
        }
    }

    /// A plugin is enabled: what it had made with calls, and lost only by being disabled, stands again. It will not say
    /// it again.
    pub(crate) fn bring_schedules_back(&mut self, plugin: &PluginName, now: Now) {
        let ids = self.schedules.by_owner.get(&Owner::Plugin(plugin.clone()));
        let rows = ids.into_iter().flat_map(BTreeMap::values).map(|id| &self.schedules.all[id].row);
        let lost = rows.filter(|row| row.by_call && row.state == ScheduleState::Retired);
        for row in lost.cloned().collect::<Vec<_>>() {
            self.take_schedule(row, None, now);
        }
    }

    /// The schedule has changed: the audit tells of it, its row is written, and it is due anew.
    fn note_schedule(
        &mut self,
        id: ScheduleId,
        kind: &'static str,
        by: Option<&Asker>,
        reason: Option<&str>,
        now: Now,
    ) {
        self.tell_untold(id, now);
        let row = self.schedules.all[&id].row.clone();
        let (cron, tz) = match &row.grid {
            Grid::Every { .. } => (None, None),
            Grid::Cron { text, tz } => (Some(&**text), Some(&**tz)),
        };
        self.record(&Record::Schedule(ScheduleRecord {
            at: now.wall,
            by: by.map(Asker::as_str),
            cron,
            enabled_by_default: row.enabled_by_default,
            handler: &row.handler,
            interval_secs: row.grid.secs(),
            owner: row.owner.as_str(),
            reason,
            schedule: row.name.as_str(),
            r#type: kind,
            tz,
        }));
        self.unwritten.schedules.insert(id);
        self.schedules.arrange(id, now.wall);
    }

    /// Somebody creates a schedule, or says what the standing one of that name is from now on. One that a plugin asks
    /// for so needs no announcement any more to stay.
    pub(crate) fn create_schedule(&mut self, ask: ScheduleAsk, now: Now) -> Answer {
        Answer::Schedule(self.try_create_schedule(ask, now).map(Box::new))
    }

    fn try_create_schedule(&mut self, ask: ScheduleAsk, now: Now) -> Result<ScheduleRow, Refusal> {
        let (owner, (plugin, handler)) = match &ask.by {
            Asker::Plugin(by) => (Owner::Plugin(by.clone()), self.own_handler(by, &ask.handler)?),
            Asker::User | Asker::Schedule => {
                (Owner::User, self.handler_for(&ask.by, &ask.handler)?)
            }
        };
        let name = match &owner {
            Owner::Plugin(_) => handler.as_str(),
            Owner::User => &ask.name,
        };
        let name: LocalId =
            name.parse().map_err(|error| Refusal::new(RefusalKind::Invalid, format!("{error}")))?;
        let id = ScheduleId::of(self.policy.store_id, &owner, &name);
        check_ask(&ask, now)?;
        self.check_schedule_room(&owner, &name)?;
        self.check_payload_room(&owner, &id, ask.payload.as_deref())?;
        let handler = format!("{plugin}/{handler}").into();
        let new = self.new_schedule(owner, name, handler, ask.grid, now);
        let standing = self.schedules.all.get(&id).filter(|schedule| schedule.is_standing());
        if let (Some(schedule), Owner::Plugin(_)) = (standing, &new.owner) {
            // What it was declared with besides stays as it is.
            let row = ScheduleRow {
                grid: new.grid,
                payload: ask.payload,
                metadata: ask.metadata,
                by_call: true,
                ..schedule.row.clone()
            };
            self.take_schedule(row, Some(&ask.by), now);
            return Ok(self.schedules.all[&id].row.clone());
        }
        let description = bounds::cut(&ask.description, bounds::DESCRIPTION_BYTES_MAX);
        let new = ScheduleRow {
            payload: ask.payload,
            missed: ask.missed,
            overlap: ask.overlap,
            jitter_secs: ask.jitter_secs,
            description: description.to_owned(),
            ats_code: ask.ats_code,
            metadata: ask.metadata,
            ..new
        };
        self.take_schedule(new, Some(&ask.by), now);
        Ok(self.schedules.all[&id].row.clone())
    }

    /// A plugin's own handler as it names it, perhaps before it has announced it.
    fn own_handler(
        &self,
        plugin: &PluginName,
        text: &str,
    ) -> Result<(PluginName, HandlerName), Refusal> {
        let (named, bare) = HandlerName::parse_qualified(text)
            .map_err(|error| Refusal::new(RefusalKind::Invalid, error.to_string()))?;
        if named.is_some_and(|named| named != *plugin) {
            let reason = format!(
                "handler {text}: it is not plugin {plugin}'s; a plugin's schedules run its own handlers"
            );
            return Err(Refusal::new(RefusalKind::Invalid, reason));
        }
        let is_up = self.plugins.get(plugin).is_some_and(|state| state.up);
        if is_up && !self.has_handler(plugin, &bare) {
            let reason = format!("handler {text}: plugin {plugin} did not announce it");
            return Err(Refusal::new(RefusalKind::NotFound, reason));
        }
        Ok((plugin.clone(), bare))
    }

    /// Somebody does something with a schedule that stands.
    pub(crate) fn command_schedule(
        &mut self,
        id: ScheduleId,
        command: ScheduleCommand,
        by: &Asker,
        now: Now,
    ) -> Answer {
        if let ScheduleCommand::RunNow { job } = command {
            return Answer::Job(self.run_now(id, job, by, now).map(Box::new));
        }
        let stands = self.check_is_theirs(id, by).map(|()| self.check_stands(id, by));
        let done = stands.and_then(|stands| match command {
            // Whoever asks again did not hear the answer.
            ScheduleCommand::Delete if stands.is_err() => {
                self.stay_deleted(id, by, now);
                Ok(())
            }
            ScheduleCommand::Delete => self.delete_schedule(id, by, now),
            ScheduleCommand::Pause => stands.map(|()| self.pause_schedule(id, by, now)),
            ScheduleCommand::Resume => stands.and_then(|()| self.resume_schedule(id, by, now)),
            ScheduleCommand::RunNow { .. } => stands,
        });
        Answer::Schedule(done.map(|()| Box::new(self.schedules.all[&id].row.clone())))
    }

    /// Whether there is such a schedule for this one: a plugin sees none but its own.
    fn check_is_theirs(&self, id: ScheduleId, by: &Asker) -> Result<(), Refusal> {
        let row = self.schedules.row(&id);
        let is_own = |row: &ScheduleRow| match by {
            Asker::Plugin(plugin) => row.owner == Owner::Plugin(plugin.clone()),
            Asker::User | Asker::Schedule => true,
        };
        if row.is_some_and(is_own) {
            return Ok(());
        }
        Err(Refusal::new(RefusalKind::NotFound, format!("schedule {id}: there is none")))
    }

    /// Whether a schedule is there to be steered; plugins call a retired one deleted.
    fn check_stands(&self, id: ScheduleId, by: &Asker) -> Result<(), Refusal> {
        let row = &self.schedules.all[&id].row;
        let state = match by {
            _ if row.state != ScheduleState::Retired => return Ok(()),
            Asker::Plugin(_) => "deleted",
            Asker::User | Asker::Schedule => "retired",
        };
        Err(conflict(format!("schedule {} is {state}", row.name)))
    }

    fn pause_schedule(&mut self, id: ScheduleId, by: &Asker, now: Now) {
        let row = &mut self.schedules.all.get_mut(&id).expect("the caller has checked").row;
        if std::mem::replace(&mut row.state, ScheduleState::Paused) != ScheduleState::Paused {
            row.changed_at = now.wall;
            self.note_schedule(id, "schedule_paused", Some(by), None, now);
        }
    }

    fn resume_schedule(&mut self, id: ScheduleId, by: &Asker, now: Now) -> Result<(), Refusal> {
        let schedule = &self.schedules.all[&id];
        if schedule.row.state == ScheduleState::Active {
            return Ok(());
        }
        if schedule.row.grid.is_never() {
            let name = &schedule.row.name;
            return Err(conflict(format!("schedule {name} has an interval of 0, and never runs")));
        }
        self.close_times(id, "", now);
        let schedule = self.schedules.all.get_mut(&id).expect("the caller has checked");
        schedule.begin_at(now.wall);
        schedule.row.state = ScheduleState::Active;
        schedule.row.changed_at = now.wall;
        self.note_schedule(id, "schedule_resumed", Some(by), None, now);
        Ok(())
    }

    /// What has passed of a schedule is told of, for nobody will see to it any more: it was paused until now, or else
    /// `missed` says why it is missed. Those whose jitter is not over are among them.
    fn close_times(&mut self, id: ScheduleId, missed: &str, now: Now) {
        let schedule = self.schedules.all.get_mut(&id).expect("the caller has checked");
        let (outcome, reason) = match schedule.row.state {
            ScheduleState::Paused => (RunOutcome::Paused, "it was paused"),
            ScheduleState::Active => (RunOutcome::Missed, missed),
            ScheduleState::Inactive | ScheduleState::Retired => return,
        };
        let from = schedule.seen().upto(now.wall).unwrap_or(now.wall);
        let from = from.max(now.wall.minus(MISSED_SINCE_MAX));
        let passed = schedule.times.between(from, now.wall, 1);
        schedule.begin_at(now.wall);
        if let Some((first, last)) = passed.first.zip(passed.last.last().copied()) {
            self.tell_of_times(id, outcome, (first, last, passed.count), reason, now);
        }
        self.tell_untold(id, now);
    }

    fn delete_schedule(&mut self, id: ScheduleId, by: &Asker, now: Now) -> Result<(), Refusal> {
        let row = &self.schedules.all[&id].row;
        if let (Owner::Plugin(plugin), Asker::User, false) = (&row.owner, by, row.by_call) {
            return Err(conflict(format!(
                "schedule {} is declared by plugin {plugin}, which would declare it again; pause it instead",
                row.name
            )));
        }
        self.retire_schedule(id, &format!("deleted by {by}"), Some(by), now);
        Ok(())
    }

    fn run_now(
        &mut self,
        id: ScheduleId,
        job: JobId,
        by: &Asker,
        now: Now,
    ) -> Result<JobRow, Refusal> {
        self.check_is_theirs(id, by)?;
        self.check_stands(id, by)?;
        self.check_open_jobs()?;
        let handler = self.schedules.all[&id].row.handler.clone();
        let made = self.make_run(id, job, by.clone(), None, now);
        made.ok_or_else(|| self.unknown_handler(&handler))
    }

    /// All schedules that are not retired, by owner and name.
    #[must_use]
    pub fn schedules(&self, now: Now) -> Vec<ScheduleView> {
        let ids = self.schedules.by_owner.values().flat_map(BTreeMap::values);
        let all = ids.filter_map(|id| self.schedule_view(id, now));
        all.filter(|view| view.row.state != ScheduleState::Retired).collect()
    }

    /// A schedule, a retired one too.
    #[must_use]
    pub fn schedule_view(&self, id: &ScheduleId, now: Now) -> Option<ScheduleView> {
        let schedule = self.schedules.all.get(id)?;
        let mut row = schedule.row.clone();
        if row.state == ScheduleState::Active && self.handler_of(&row).is_none() {
            row.state = ScheduleState::Inactive;
        }
        let next = match row.state {
            // The clock was set back, and nobody has looked at it since.
            ScheduleState::Active if now.wall < self.schedules.looked_at => {
                schedule.next_due(now.wall)
            }
            ScheduleState::Active => schedule.due,
            _ => None,
        };
        Some(ScheduleView { row, next, open_jobs: schedule.open.len() as u64 })
    }

    /// The schedule that somebody means: by its id, by its name if it is a person's, or as `plugin/name`.
    #[must_use]
    pub fn find_schedule(&self, text: &str) -> Option<ScheduleId> {
        let by_id = text.parse().ok().filter(|id| self.schedules.all.contains_key(id));
        let named = |owner: Owner, name: &str| self.schedules.named(&owner, &name.parse().ok()?);
        let of_plugin = || {
            let (plugin, name) = text.split_once('/')?;
            named(Owner::Plugin(plugin.parse().ok()?), name)
        };
        by_id.or_else(|| named(Owner::User, text)).or_else(of_plugin)
    }

    /// The next nominal times of a schedule that it has not seen to, whether or not it is active.
    #[must_use]
    pub fn next_times(&self, id: &ScheduleId, now: Now, limit: usize) -> Vec<Timestamp> {
        let Some(schedule) = self.schedules.all.get(id) else { return Vec::new() };
        let seen = schedule.seen();
        let first = schedule.next_nominal(now.wall);
        let unseen = std::iter::successors(first, |nominal| {
            let mut next = schedule.times.next_after(*nominal)?;
            while let Some(end) = seen.end_around(next) {
                next = schedule.times.next_after(end)?;
            }
            Some(next)
        });
        unseen.take(limit).collect()
    }
}

impl Schedule {
    /// The nominal times after a moment that are due by now.
    fn come(&self, from: Timestamp, now: Timestamp) -> crate::grid::Between {
        let from = from.max(now.minus(MISSED_SINCE_MAX));
        let made_up_for = match self.row.missed {
            Missed::All { max } => usize::try_from(max).unwrap_or(usize::MAX),
            Missed::Skip | Missed::Once => 0,
        };
        let keep = IN_TIME_MAX + made_up_for;
        let come = self.times.between(from, now, keep);
        match come.last.last() {
            // Its jitter is not over.
            Some(last) if self.due_at(*last) > now => {
                self.times.between(from, last.minus(Duration::from_millis(1)), keep)
            }
            _ => come,
        }
    }
}

/// What a schedule does after its owner said what it is: as somebody left it, unless its owner says otherwise.
fn state_of(standing: Option<&ScheduleRow>, new: &ScheduleRow) -> ScheduleState {
    let is_left_alone = |former: &ScheduleRow| {
        former.enabled_by_default == new.enabled_by_default && !former.grid.is_never()
    };
    match standing {
        Some(former) if former.state == ScheduleState::Paused => ScheduleState::Paused,
        _ if new.grid.is_never() => ScheduleState::Inactive,
        Some(former) if is_left_alone(former) => former.state,
        _ if new.enabled_by_default => ScheduleState::Active,
        _ => ScheduleState::Inactive,
    }
}

fn check_ask(ask: &ScheduleAsk, now: Now) -> Result<(), Refusal> {
    let invalid = |reason: String| Refusal::new(RefusalKind::Invalid, reason);
    Times::of(&ask.grid, now.wall).map_err(|error| invalid(error.to_string()))?;
    let payload = ask.payload.as_ref().map_or(0, |payload| payload.len());
    check_length("payload", payload, bounds::PAYLOAD_BYTES_MAX)?;
    check_length("ats_code", ask.ats_code.len(), bounds::ATS_CODE_BYTES_MAX)?;
    let metadata = ask.metadata.as_deref().unwrap_or("{}");
    check_length("metadata", metadata.len(), bounds::METADATA_BYTES_MAX)?;
    if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(metadata).is_err() {
        return Err(invalid("metadata: it must be a JSON object".to_owned()));
    }
    match ask.missed {
        Missed::All { max } if !(1..=bounds::MISSED_MAX).contains(&max) => Err(invalid(format!(
            "missed all:{max}: from 1 to {} may be made up for",
            bounds::MISSED_MAX
        ))),
        _ => Ok(()),
    }
}

fn check_length(what: &str, bytes: usize, max: usize) -> Result<(), Refusal> {
    if bytes <= max {
        return Ok(());
    }
    let reason = format!("{what}: {bytes} bytes; at most {max} are allowed");
    Err(Refusal::new(RefusalKind::Invalid, reason))
}
