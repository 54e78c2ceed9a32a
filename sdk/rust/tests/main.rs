//! Plugins that are built on the SDK, called as a host calls them: one program for all of these tests, because to build one
//! costs more than to run it.

mod claims;
#[allow(dead_code, reason = "here it is not run as a program")]
mod greet;
mod handlers;
mod jobs;
mod lifecycle;
/// What `axwatch plugin new` makes passes the test that comes with it.
#[allow(dead_code, reason = "here it is not run as a program")]
#[path = "../examples/newcomer.rs"]
mod newcomer;
mod page;
mod process;
mod support;
