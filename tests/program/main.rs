//! The tests of the whole program: the real binary, real plugin processes, a real store.
//!
//! One test program, because each one more is compiled with all of the support and linked with all of the
//! engine: forty of them took ten minutes of two cores. A part of it is run by its name:
//! `cargo test --workspace --test program dead_letters`.

mod support;

mod alias;
mod ax;
mod backup;
mod bad_input;
mod bounds;
mod cli;
mod crash;
mod dead_letters;
mod demo;
mod disk_full;
mod doctor;
mod failpoints;
mod handler_cli;
mod handler_examples;
mod language;
mod limits;
mod loops;
mod migrations;
mod offline;
mod plugin_check;
mod plugin_http;
mod plugin_lifecycle;
mod plugin_new;
mod plugin_process;
mod plugin_socket;
mod plugins;
mod pulse_cli;
mod retention;
mod road;
mod shipped;
mod shutdown;
mod storage_faults;
mod tls;
mod torture;
mod trace;
mod watch_control;
mod watch_test;
mod why_not;
mod zoo;
