//! Mistakes that are planted around the core, to see that the simulator finds them.

use axwatch_core::Event;

/// A mistake of whoever carries the core's events and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Some new claims are in the log, and the core is never told of them.
    ClaimsDropped,
    /// The completion of an old attempt is taken for that of the one under way.
    OldAnswerTaken,
    /// Cursors move in a transaction of their own, before the jobs of what they passed.
    CursorsAlone,
    /// The core is not told of commits, so that no limit is charged.
    CommitsNotTold,
    /// Attempts leave with their commit, whatever their limit says.
    LeavesAtOnce,
    /// Limits are open as soon as the engine has started.
    LimitsForgotten,
    /// Attempts are sent before they are on the disk.
    SentBeforeCommit,
    /// The audit is written after the rest, and a kill comes between.
    AuditApart,
    /// Rows that are read back are those of an earlier moment, whatever became of them.
    ReadsClosedJobs,
    /// Holds are not read at the start.
    HoldsForgotten,
    /// Passes are not read at the start.
    PassesForgotten,
    /// The mark below which no job is open is a little too high.
    MarkTooHigh,
    /// Claims leave the log by their age, whoever has yet to see them.
    RemovedByAge,
    /// A segment that ends early is told as if it had been read to its end.
    SegmentCutShort,
    /// The id of a job depends on when it was made.
    IdsByTheClock,
    /// What runs when the engine dies is not told of to the next.
    RunningForgotten,
    /// Counters are kept, and the mark up to which they count is not.
    CountersTwice,
    /// Jobs that are cancelled in the table stay as they were.
    WithdrawnUnwritten,
    /// Jobs that are over are not told of, though they stand above open ones.
    KinForgotten,
    /// What is paused when the engine dies is not told of to the next.
    PausedForgotten,
    /// Jobs that no claim caused are looked for from the mark on, like fires.
    AskedByTheMark,
    /// Waiting jobs are read by their numbers.
    ReadByNumber,
    /// Of an announcement, what the first batch did not take is never taken.
    RestNotTaken,
}

impl Bug {
    pub const ALL: [Bug; 23] = [
        Bug::ClaimsDropped,
        Bug::OldAnswerTaken,
        Bug::CursorsAlone,
        Bug::CommitsNotTold,
        Bug::LeavesAtOnce,
        Bug::LimitsForgotten,
        Bug::SentBeforeCommit,
        Bug::AuditApart,
        Bug::ReadsClosedJobs,
        Bug::HoldsForgotten,
        Bug::PassesForgotten,
        Bug::MarkTooHigh,
        Bug::RemovedByAge,
        Bug::SegmentCutShort,
        Bug::IdsByTheClock,
        Bug::RunningForgotten,
        Bug::CountersTwice,
        Bug::WithdrawnUnwritten,
        Bug::KinForgotten,
        Bug::PausedForgotten,
        Bug::AskedByTheMark,
        Bug::ReadByNumber,
        Bug::RestNotTaken,
    ];

    /// Whether the core is not told of this.
    pub fn drops(self, event: &Event) -> bool {
        let every_fifth = |event: &Event| match event {
            Event::Match { stored } => stored.seq.0.is_multiple_of(5),
            _ => false,
        };
        match self {
            Bug::ClaimsDropped => every_fifth(event),
            Bug::RestNotTaken => matches!(event, Event::TakeAnnounced),
            _ => false,
        }
    }
}
