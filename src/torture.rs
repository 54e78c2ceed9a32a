//! `axwatch torture`: the engine killed and stopped at random moments, and its promises held to what
//! three processes wrote down.
//!
//! The three, each with a record of its own in one [`Folder`]: the *driver* (`driver`) appends claims
//! and notes each acknowledgement; the *ledger* (`ledger`), a plugin, notes each job on the disk before
//! it answers; the *engine* (`engine`: `axwatch serve`) has its store. Above them the *run* (`run`)
//! interferes as its `plan` says, while the `meddler` declares, changes, pauses and removes watchers. At
//! the end the *checker* (`check`) joins the records.
//!
//! The checker computes everything again by itself: which claims were due for which watcher, under which
//! id, what the audit hashes to, how full the windows of limits were. It takes nothing from the engine but
//! the rows of its store.

mod check;
mod claims;
mod dice;
mod driver;
mod engine;
mod folder;
mod ledger;
mod meddler;
mod plan;
mod records;
mod run;
mod watchers;

use rustix::time::{ClockId, clock_gettime};

pub use check::{Verdict, check};
pub use driver::drive;
pub use folder::Folder;
pub use ledger::serve as serve_ledger;
pub use run::{Progress, Run, temporary_place};

/// Nanoseconds on the clock that all processes of this machine share and nobody sets.
fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |part: i64| u64::try_from(part).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}
