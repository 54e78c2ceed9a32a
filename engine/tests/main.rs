//! The engine as a library, against a real store: one program for all of these tests, because to build one costs as much as to
//! run it.

mod asked;
mod bounds;
mod clocks;
mod pulse;
mod road;
mod storm;
mod support;
