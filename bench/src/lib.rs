//! Benchmarks that hold axwatch to its budgets (DESIGN.md, "Budgets").
//!
//! Nothing here is an absolute number: each figure is a ratio against a yardstick that was measured in
//! the same run, on the same disk, in turn with what it is held against, and stands beside the limit
//! that the ratio must keep.
//!
//! - [`road`] is the main job: append, fire, plugin, settle.
//! - [`plugin`] is the process at the other end: it answers every job at once.
//! - [`parse`] is a query's way from text to meaning, held to a fixed number of nanoseconds.
//! - [`ax`] is questions over a large log, which [`dataset`] makes.
//! - [`handlers`] is the plugin `python` running code.
//! - [`start`] is a start with a million watchers and many open jobs.
//! - [`storm`] is watchers that are registered while claims arrive.
//! - [`zoo`] is the main job beside plugins that misbehave.
//! - [`bare`] is what SQLite does without us: the yardsticks.
//! - [`watchers`] is how a store comes to have a million of them.
//! - [`rig`] is the engine with that plugin under it, [`claims`] what is fed to it.
//! - [`figure`] is a line of the output, [`spread`] medians and percentiles, [`disk`] bytes written,
//!   [`memory`] bytes in use, [`random`] chance.

pub mod ax;
pub mod bare;
pub mod claims;
pub mod dataset;
pub mod disk;
pub mod figure;
pub mod handlers;
pub mod memory;
pub mod parse;
pub mod plugin;
pub mod random;
pub mod rig;
pub mod road;
pub mod spread;
pub mod start;
pub mod storm;
mod typical;
pub mod watchers;
pub mod zoo;
