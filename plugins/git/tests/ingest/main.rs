//! The plugin against repositories that the `git` program made, through a host in memory.
//!
//! What git itself says of a repository is the measure: how many commits, in which order they may
//! stand, whose children they are, and which top-level directories each of them changed.

mod failures;
mod histories;
mod random;
mod references;
mod since;
mod support;
