//! The core told of events by hand: one program for all of these tests, because to build one costs more than to run it.
//! The simulator is another.

mod budgets;
mod drills;
mod schedules;
mod steps;
mod world;
