//! What a seed decides: a list of steps, made before anything runs, so that it can be replayed and cut
//! down. A step picks by number what there happens to be when its turn comes; one that finds nothing
//! does nothing.

use std::fmt;
use std::time::Duration;

pub const PLUGINS: [&str; 2] = ["a", "b"];
pub const PREDICATES: [&str; 2] = ["p0", "p1"];
/// People's watchers, before those of the plugins.
pub const WATCHERS: usize = 6;
/// Watchers of each plugin: more than a batch takes of an announcement.
pub const PLUGIN_WATCHERS: usize = 2;
/// All watchers.
pub const WATCHERS_OF_ALL: usize = WATCHERS + PLUGINS.len() * PLUGIN_WATCHERS;
const STEPS: usize = 240;
const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;

/// All that a seed decides.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Open jobs that a watcher may have.
    pub watcher_open_jobs_max: u64,
    pub steps: Vec<Step>,
}

/// One thing that happens, how long its first commit takes, and at which of its commits the engine dies.
#[derive(Debug, Clone)]
pub struct Step {
    pub action: Action,
    pub stall_ms: u64,
    pub deaths: Vec<Option<Death>>,
}

/// How the engine dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// With a batch that is decided and not on the disk.
    BeforeCommit,
    /// With a batch that is on the disk, of which nobody has been told.
    AfterCommit,
}

/// Who asks for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    User,
    Plugin(usize),
}

/// What a watcher is declared to be.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub predicates: &'static [&'static str],
    pub in_ax: bool,
    pub handlers: &'static [&'static str],
    pub limit: i64,
    /// A limit of 0 means never.
    pub never: bool,
    pub max_chain: i32,
    pub max_attempts: i64,
    pub max_age: Option<Duration>,
}

/// Something that happens. `pick` chooses among what there is.
#[derive(Debug, Clone)]
pub enum Action {
    Claims {
        many: usize,
        predicate: usize,
        with_segment: bool,
    },
    CatchUp {
        many: usize,
    },
    ClaimOfJob {
        pick: u64,
        named: bool,
        stale: bool,
        predicate: usize,
    },
    End {
        pick: u64,
        how: u64,
        twice: bool,
    },
    AnswerLate {
        pick: u64,
        how: u64,
    },
    Sick {
        handler: &'static str,
    },
    LoseConnection {
        plugin: usize,
    },
    ReadLane {
        pick: u64,
    },
    TellLane {
        pick: u64,
    },
    AskSegment,
    ReadSegment {
        pick: u64,
        rows: usize,
    },
    TellSegment {
        pick: u64,
    },
    Pass {
        ms: u64,
    },
    SetClock {
        by_ms: i64,
    },
    ComeUp {
        plugin: usize,
        fewer: bool,
        watches: bool,
    },
    Announce {
        plugin: usize,
        fewer: bool,
        watches: bool,
        doubtful: bool,
    },
    GoDown {
        plugin: usize,
        crashed: bool,
    },
    Disable {
        plugin: usize,
    },
    Declare {
        watcher: usize,
        wanted: Wanted,
        since: Option<u64>,
    },
    Remove {
        watcher: usize,
    },
    Pause {
        watcher: usize,
        skip: bool,
    },
    Resume {
        watcher: usize,
        drop: bool,
    },
    Mute {
        watcher: usize,
        for_ms: u64,
        drop: bool,
    },
    Unmute {
        watcher: usize,
        drop: bool,
    },
    Replay {
        watcher: usize,
        from: u64,
        to: u64,
    },
    StopReplay {
        watcher: usize,
    },
    Redrive {
        pick: u64,
    },
    Discard {
        pick: u64,
    },
    /// Somebody asks for a job that no claim causes.
    Ask {
        handler: &'static str,
        by: Asking,
        priority: i32,
        /// One of a few, so that some are the same.
        source: Option<u64>,
        /// It is to be a part of some job.
        parent: Option<u64>,
        /// Of one that it may be a part of.
        own: bool,
        /// In the batch in which that job ends, or is tried again.
        together: bool,
    },
    /// Somebody wants a job cancelled, together with something else or not.
    Cancel {
        pick: u64,
        together: bool,
    },
    PauseJob {
        pick: u64,
    },
    ResumeJob {
        pick: u64,
    },
    /// An attempt tells how far it is, or one that is over does.
    Report {
        pick: u64,
        stale: bool,
        cost: Option<u32>,
        entries: usize,
    },
    /// A call is given up that was told to stop, or answered before that.
    Stopped {
        pick: u64,
        how: u64,
    },
    DiskLow {
        low: bool,
    },
    /// Claims that nobody needs any more leave the log.
    Retain {
        many: usize,
    },
    /// The engine stops in order and starts again.
    Stop,
    /// The engine dies, and the next one may not understand this watcher's text, or understand it again.
    Upgrade {
        watcher: usize,
    },
}

impl Plan {
    pub fn of_seed(seed: u64) -> Plan {
        let mut dice = Dice::new(seed);
        let watcher_open_jobs_max = dice.one_of(&[6, 12, 30, 10_000]);
        // A third of the seeds has no crashes, so that long lives are seen too.
        let crashes = !seed.is_multiple_of(3);
        let mut steps = Vec::new();
        for watcher in 0..dice.index(WATCHERS + 1) {
            let wanted = dice.wanted(watcher);
            steps.push(dice.step(Action::Declare { watcher, wanted, since: None }, false));
        }
        // Some seeds see much of one kind of thing.
        let taste = dice.below(4);
        for _ in 0..STEPS {
            let action = dice.action(taste, crashes);
            steps.push(dice.step(action, crashes));
        }
        Plan { watcher_open_jobs_max, steps }
    }
}

/// Xorshift: all that a seed decides, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..10).for_each(|_| {
            dice.below(2);
        });
        dice
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }

    fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    fn pick(&mut self) -> u64 {
        self.below(1 << 32)
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }

    fn step(&mut self, action: Action, crashes: bool) -> Step {
        let stall_ms = self.one_of(&[0, 0, 0, 0, 20, 300]);
        let mut deaths = Vec::new();
        if crashes && self.one_in(60) {
            let how = [Death::BeforeCommit, Death::BeforeCommit, Death::AfterCommit];
            deaths = vec![None; self.index(2)];
            deaths.push(Some(self.one_of(&how)));
            // And again while it recovers.
            while self.one_in(3) {
                deaths.extend(vec![None; self.index(3)]);
                deaths.push(Some(self.one_of(&how)));
            }
        }
        Step { action, stall_ms, deaths }
    }

    fn action(&mut self, taste: u64, crashes: bool) -> Action {
        let predicate = self.index(PREDICATES.len());
        let pick = self.pick();
        // People's watchers first, then the plugins'.
        let any_watcher = self.index(WATCHERS_OF_ALL);
        let watcher = self.index(WATCHERS);
        let plugin = self.index(PLUGINS.len());
        let handler = self.one_of(&["x", "y", "z"]);
        let drop = self.one_in(3);
        match self.below(1_000) {
            0..300 if taste >= 2 && self.one_in(taste) => self.of_asked_jobs(pick),
            0..180 => Action::Claims { many: 1, predicate, with_segment: self.one_in(2) },
            180..220 => {
                Action::Claims { many: 2 + self.index(5), predicate, with_segment: self.one_in(2) }
            }
            220..250 => Action::CatchUp { many: 1 + self.index(4) },
            250..290 => self.claim_of_job(pick, predicate),
            290..300 if taste != 1 => Action::CatchUp { many: 1 },
            290..500 if taste == 1 && self.one_in(3) => self.claim_of_job(pick, predicate),
            290..500 => Action::End { pick, how: self.below(20), twice: self.one_in(20) },
            500..510 => Action::AnswerLate { pick, how: self.below(20) },
            510..520 => Action::Sick { handler },
            520..525 => Action::LoseConnection { plugin },
            525..585 => Action::ReadLane { pick },
            585..645 => Action::TellLane { pick },
            645..665 => Action::AskSegment,
            665..685 => Action::ReadSegment { pick, rows: 1 + self.index(6) },
            685..705 => Action::TellSegment { pick },
            705..775 => Action::Pass { ms: self.below(900) },
            775..785 => Action::Pass { ms: self.one_of(&[5_000, 65_000, 700_000]) },
            785..793 => {
                let by = self.one_of(&[1, 3, 30]) * HOUR_MS;
                let far = self.one_of(&[1, 10]) * YEAR_MS;
                let by_ms = if self.one_in(3) { far } else { by };
                Action::SetClock { by_ms: if self.one_in(2) { by_ms } else { -by_ms } }
            }
            793..820 => {
                let (fewer, watches) = (self.one_in(3), !self.one_in(3));
                Action::ComeUp { plugin, fewer, watches }
            }
            820..830 => {
                let (fewer, watches) = (self.one_in(2), self.one_in(2));
                Action::Announce { plugin, fewer, watches, doubtful: self.one_in(2) }
            }
            830..842 => Action::GoDown { plugin, crashed: !self.one_in(4) },
            842..845 => Action::Disable { plugin },
            845..878 => {
                let since = (self.one_in(2)).then(|| self.pick());
                Action::Declare { watcher, wanted: self.wanted(watcher), since }
            }
            878..888 => Action::Remove { watcher },
            888..900 => Action::Pause { watcher: any_watcher, skip: drop },
            900..922 => Action::Resume { watcher: any_watcher, drop },
            922..932 => {
                let for_ms = self.one_of(&[500, 20_000, 3_600_000]);
                Action::Mute { watcher: any_watcher, for_ms, drop }
            }
            932..940 => Action::Unmute { watcher: any_watcher, drop },
            940..955 => Action::Replay { watcher: any_watcher, from: pick, to: self.pick() },
            955..960 => Action::StopReplay { watcher: any_watcher },
            960..972 => Action::Redrive { pick },
            972..976 => Action::Discard { pick },
            976..979 => self.ask(pick),
            979..980 => Action::Cancel { pick, together: self.one_in(3) },
            980..981 => Action::PauseJob { pick },
            981..982 => Action::ResumeJob { pick },
            982..986 => Action::DiskLow { low: self.one_in(2) },
            986..991 => Action::Retain { many: 1 + self.index(8) },
            991..993 if crashes => Action::Stop,
            993..996 if crashes => Action::Upgrade { watcher },
            _ => Action::Claims { many: self.index(6), predicate, with_segment: false },
        }
    }

    /// Something about jobs that people and plugins ask for and steer.
    fn of_asked_jobs(&mut self, pick: u64) -> Action {
        match self.below(100) {
            0..45 => self.ask(pick),
            45..55 => Action::Cancel { pick, together: self.one_in(3) },
            55..65 => Action::PauseJob { pick },
            65..78 => Action::ResumeJob { pick },
            78..90 => Action::Report {
                pick,
                stale: self.one_in(4),
                cost: self.one_in(2).then(|| self.below(9) as u32),
                entries: self.index(3),
            },
            _ => Action::Stopped { pick, how: self.below(20) },
        }
    }

    fn ask(&mut self, pick: u64) -> Action {
        Action::Ask {
            handler: self.one_of(&["x", "y", "z", "a/x", "b/z"]),
            by: self.one_of(&[Asking::User, Asking::User, Asking::Plugin(0), Asking::Plugin(1)]),
            priority: self.one_of(&[0, 0, 0, 1, 1, -1, 10, -10]),
            source: self.one_in(4).then(|| self.below(3)),
            parent: (!self.one_in(3)).then_some(pick),
            own: !self.one_in(8),
            together: self.one_in(3),
        }
    }

    fn claim_of_job(&mut self, pick: u64, predicate: usize) -> Action {
        let stale = self.one_in(10);
        Action::ClaimOfJob { pick, named: stale || !self.one_in(4), stale, predicate }
    }

    fn wanted(&mut self, watcher: usize) -> Wanted {
        let mut wanted = Wanted::usual(watcher);
        if self.one_in(4) {
            wanted.predicates = self.one_of(&[&PREDICATES[..1], &PREDICATES[1..], &PREDICATES]);
        }
        if self.one_in(5) {
            wanted.handlers = self.one_of(&[&["x"], &["z"], &["a/x", "y"]]);
        }
        wanted.limit = self.one_of(&[0, 0, 1, 5, 40]);
        wanted.never = self.one_in(12);
        wanted.max_chain = self.one_of(&[0, 0, 0, 1, 6]);
        wanted.max_attempts = self.one_of(&[0, 0, 2]);
        wanted.max_age = self.one_of(&[None, None, Some(Duration::from_secs(20))]);
        wanted
    }
}

impl Wanted {
    /// What a watcher mostly is: those of people in turn, then the plugins' own.
    pub fn usual(watcher: usize) -> Wanted {
        let handlers: &[&str] = match (watcher, watcher % 5) {
            (WATCHERS..8, _) => &["x"],
            (8.., _) => &["z"],
            (_, 0) => &["x"],
            (_, 1) => &["y"],
            (_, 2) => &["z"],
            (_, 3) => &["x", "z"],
            _ => &["y", "x"],
        };
        let predicate = watcher % PREDICATES.len();
        Wanted {
            predicates: &PREDICATES[predicate..=predicate],
            in_ax: watcher % 3 == 2,
            handlers,
            limit: 0,
            never: false,
            max_chain: 0,
            max_attempts: 0,
            max_age: None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action)?;
        if self.stall_ms > 0 {
            write!(f, ", with commits of {} ms", self.stall_ms)?;
        }
        for (place, death) in self.deaths.iter().enumerate() {
            match death {
                Some(Death::BeforeCommit) => write!(f, "; killed before commit {}", place + 1)?,
                Some(Death::AfterCommit) => write!(f, "; killed after commit {}", place + 1)?,
                None => {}
            }
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |yes: bool, this: &'static str| if yes { this } else { "" };
        let p = |predicate: usize| PREDICATES[predicate];
        match self {
            Action::Claims { many, predicate, with_segment } => {
                let with = or(*with_segment, ", with the segment that was read, if any");
                write!(f, "{many} claim(s) {} enter the log{with}", p(*predicate))
            }
            Action::CatchUp { many } => write!(f, "{many} claim(s) behind the head are matched"),
            Action::ClaimOfJob { pick, named, stale, predicate } => {
                let (named, stale) = (or(*named, " and names it"), or(*stale, " that is over"));
                write!(f, "a plugin claims {} for attempt {pick}{stale}{named}", p(*predicate))
            }
            Action::End { pick, how, twice } => {
                let twice = or(*twice, ", twice");
                write!(f, "attempt {pick} ends, outcome {how}{twice}")
            }
            Action::AnswerLate { pick, how } => write!(f, "late answer {how} of attempt {pick}"),
            Action::Sick { handler } => write!(f, "handler {handler} falls sick, or is well again"),
            Action::LoseConnection { plugin } => {
                write!(f, "the connection of plugin {} breaks", PLUGINS[*plugin])
            }
            Action::ReadLane { pick } => write!(f, "the store reads waiting jobs, request {pick}"),
            Action::TellLane { pick } => write!(f, "the core is told of waiting jobs, read {pick}"),
            Action::AskSegment => write!(f, "a segment is asked for"),
            Action::ReadSegment { pick, rows } => {
                write!(f, "segment {pick} is read, {rows} claims")
            }
            Action::TellSegment { pick } => write!(f, "the core is told of segment {pick}"),
            Action::Pass { ms } => write!(f, "{ms} ms pass"),
            Action::SetClock { by_ms } => write!(f, "the wall clock is set by {by_ms} ms"),
            Action::ComeUp { plugin, fewer, watches } => {
                let (other, with) = (or(*fewer, ", other handlers"), or(*watches, ", its watcher"));
                write!(f, "plugin {} comes up{other}{with}", PLUGINS[*plugin])
            }
            Action::Announce { plugin, fewer, watches, doubtful } => {
                let (other, with) = (or(*fewer, ", other handlers"), or(*watches, ", its watcher"));
                let doubtful = or(*doubtful, ", doubtful");
                write!(f, "plugin {} announces{other}{with}{doubtful}", PLUGINS[*plugin])
            }
            Action::GoDown { plugin, crashed } => {
                let how = if *crashed { "crashes" } else { "is stopped" };
                write!(f, "plugin {} {how}", PLUGINS[*plugin])
            }
            Action::Disable { plugin } => write!(f, "plugin {} is disabled", PLUGINS[*plugin]),
            Action::Declare { watcher, wanted, since } => {
                write!(f, "w{watcher} is declared since {since:?}: {wanted:?}")
            }
            Action::Remove { watcher } => write!(f, "w{watcher} is removed"),
            Action::Pause { watcher, skip } => {
                write!(f, "w{watcher} is paused{}", or(*skip, ", and skips"))
            }
            Action::Resume { watcher, drop } => {
                write!(f, "w{watcher} is resumed{}", or(*drop, ", and drops"))
            }
            Action::Mute { watcher, for_ms, drop } => {
                write!(f, "w{watcher} is muted for {for_ms} ms{}", or(*drop, ", and drops"))
            }
            Action::Unmute { watcher, drop } => {
                write!(f, "w{watcher} is unmuted{}", or(*drop, ", and drops"))
            }
            Action::Replay { watcher, from, to } => {
                write!(f, "w{watcher} is replayed between {from} and {to}")
            }
            Action::StopReplay { watcher } => write!(f, "the replay of w{watcher} is stopped"),
            Action::Redrive { pick } => write!(f, "job {pick} is tried again"),
            Action::Discard { pick } => write!(f, "job {pick} is discarded"),
            Action::Ask { handler, by, priority, source, parent, own, together } => {
                write!(f, "{by:?} asks for {handler}, priority {priority}, source {source:?}")?;
                write!(f, ", parent {parent:?}{}", or(!*own, ", whosever"))?;
                write!(f, "{}", or(*together, ", together with what becomes of that"))
            }
            Action::Cancel { pick, together } => {
                let with = or(*together, ", together with an answer");
                write!(f, "job {pick} is cancelled{with}")
            }
            Action::PauseJob { pick } => write!(f, "job {pick} is paused"),
            Action::ResumeJob { pick } => write!(f, "job {pick} is resumed"),
            Action::Report { pick, stale, cost, entries } => {
                let stale = or(*stale, " that is over");
                write!(f, "attempt {pick}{stale} tells of cost {cost:?} and {entries} entries")
            }
            Action::Stopped { pick, how } => {
                write!(f, "call {pick} that was told to stop ends, outcome {how}")
            }
            Action::DiskLow { low } => {
                write!(f, "the disk {}", if *low { "is nearly full" } else { "has room" })
            }
            Action::Retain { many } => write!(f, "{many} of the oldest claims are removed"),
            Action::Stop => write!(f, "the engine stops in order and starts again"),
            Action::Upgrade { watcher } => {
                write!(f, "the next engine does not understand w{watcher}, or does again")
            }
        }
    }
}
