//! The plugin through the SDK's harness, with real `python3` processes.

mod code;
mod declarations;
mod misbehaviour;
mod stored;
mod support;
mod without;
