//! What the author of an axwatch plugin imports.
//!
//! A plugin is a value that implements [`Plugin`], and a `main` that hands it to [`serve`]. It says
//! what it waits for ([`Watcher`]), and for each claim that matches it gets a [`Job`]: it looks at the
//! claim, asks the log, makes claims of its own on behalf of the job, and answers [`Done`] or why not
//! ([`Failure`]: again, not now, never).
//!
//! ```no_run
//! use axwatch_sdk::{About, Claim, Done, Failure, Job, Plugin, Watcher};
//!
//! struct Echo;
//!
//! impl Plugin for Echo {
//!     fn about(&self) -> About {
//!         About::new("echo", "1.0.0", "notes who was seen")
//!     }
//!     fn handlers(&self) -> Vec<String> {
//!         vec!["echo.seen".into()]
//!     }
//!     fn watchers(&self) -> Vec<Watcher> {
//!         vec![Watcher::new("authors", "echo.seen").predicates(["author"])]
//!     }
//!     async fn execute(&self, job: Job) -> Result<Done, Failure> {
//!         let claim = job.attestation()?;
//!         job.attest(Claim::new(claim.subject(), "was_seen", "echo")).await?;
//!         Ok(Done::new())
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     axwatch_sdk::serve(Echo)
//! }
//! ```
//!
//! A job may run twice: when an answer was lost, or the host was killed. It then comes under the same
//! id, and claims made through [`Job::attest`] are the same claims again. What else a handler does
//! should be as easy to repeat; [`Job::id`] is there to tell.
//!
//! [`testing`] runs a plugin without an engine. `docs/plugins.md` of the repository leads through all
//! of it.
//!
//! Not here: the messages on the wire (`axwatch-proto`), of which authors see none, and everything
//! that outlives a plugin's process, which is the host's.

mod announce;
mod claim;
mod config;
mod failure;
mod host;
mod http;
mod job;
mod log;
mod plugin;
mod progress;
mod query;
mod run;
mod server;
pub mod testing;

pub use announce::StoredHandler;
pub use bytes::Bytes;
pub use claim::{Attestation, Claim};
pub use config::Config;
pub use failure::Failure;
pub use host::Host;
pub use http::{HttpRequest, HttpResponse, Route};
pub use job::{Done, Job};
pub use log::Level;
pub use plugin::{About, ConfigField, Health, Plugin, Schedule, Start, Watcher};
pub use query::Query;
pub use run::{serve, serve_at};

/// What `docs/plugins.md` shows compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/plugins.md")]
struct Page;
