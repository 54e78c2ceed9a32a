//! The engine: one writer, the dispatcher, and the host of plugins.
//!
//! Everything that changes the store goes through the writer; everything that acts on the world goes
//! through the dispatcher to a [`Plugin`]. They exchange messages and share no state but what is named
//! in [`Engine`], the handle that surfaces and plugin hosts hold.
//!
//! Not here: what follows from an event (`axwatch_core`), how rows are kept (`axwatch_ats`), HTTP and
//! the command line (`axwatch`).

mod dispatch;
mod handle;
pub mod plugin;
mod writer;

pub use axwatch_core::WatcherView;
pub use dispatch::{Attempt, EXTENDED_MAX, InFlight, LocalPlugin, Moves, Plugin, Running};
pub use handle::{
    Acked, AppendRefusal, Engine, EngineGone, Fires, Heads, PluginReady, RequestError, Retained,
    Sight,
};
pub use writer::{EngineConfig, EngineStopped, StartError, start};
