//! The pure core: what follows from an event.
//!
//! [`State::step`] takes what happened and the time it happened at, changes the state, and says what
//! to do about it; [`State::take_writes`] says what to write. No clock, no randomness, no I/O, no
//! threads, no iteration in hash order: the same events at the same times give the same effects.
//!
//! Not here: the disk and the order of commit and effects (`axwatch_engine::writer`), plugins and
//! their wires (`axwatch_engine::plugin`), what a filter means (`axwatch_query`).

mod announcing;
mod asked;
pub mod audit;
mod breaker;
mod budget;
mod event;
pub mod grid;
mod holds;
mod job;
mod kin;
mod lanes;
mod late;
mod ledger;
mod limiter;
mod limits;
pub mod loops;
mod matching;
mod names;
mod outcome;
mod passes;
mod plugins;
mod policy;
mod prepared;
mod progress;
mod record;
mod redaction;
mod redrive;
mod registry;
mod rehearsal;
mod schedules;
mod seen;
mod settle;
mod since;
mod state;
mod stats;
mod steer;
mod stored;
pub mod supervise;
mod view;
mod waits;

pub use budget::{BudgetHold, BudgetKind, BudgetView, HoldCause, Pulse, Used};
pub use event::{
    Answer, BudgetChange, Declaration, Effect, EnqueueAsk, Enqueued, Event, JobEntry, ParentAsk,
    PluginTransition, Progressed, Refusal, RefusalKind, Registration, Report, RequestId,
    RouteDeclaration, ScheduleAsk, ScheduleCommand, ScheduleDeclaration, SetAside, Since, Start,
    Verdicts, WatcherCommand,
};
pub use kin::JobAbove;
pub use ledger::Span;
pub use outcome::{Ended, Outcome};
pub use passes::NextSegment;
pub use plugins::Registered;
pub use policy::{Bounds, BudgetLimits, Policy, RetryLimits, RetryPolicy};
pub use prepared::Prepared;
pub use redaction::Redaction;
pub use registry::{check_declared, check_fires_per_second};
pub use rehearsal::{Rehearsal, Rehearsed};
pub use schedules::ScheduleView;
pub use state::{AuditWrites, Restoring, Snapshot, State, Withdrawn, Writes};
pub use stats::{DearWatcher, MatchingTotals, MatchingView, Reading};
pub use view::{Position, ReplayView, WatcherView};
pub use waits::{BreakerView, Overview, WaitReason, Waiting};
