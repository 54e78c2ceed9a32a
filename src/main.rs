//! The program `axwatch`: a reactive engine for claims, its server and its commands.
//!
//! Not here: what any of it does. `cli` reads the command line, `serve` wires the engine, `api` speaks
//! HTTP, `answers` tells what the store holds.

mod answers;
mod api;
mod bulk;
mod claim;
mod cli;
mod client;
mod config;
mod demo;
mod fault;
mod fingerprint;
mod host_lines;
mod output;
mod runtime;
mod serve;
mod shipped;
mod source;
mod times;
mod tls;
mod torture;
mod views;

fn main() -> std::process::ExitCode {
    cli::run()
}
