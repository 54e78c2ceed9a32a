//! What `axwatch plugin new` makes passes the test that comes with it.

#[allow(dead_code, reason = "here it is not run as a program")]
#[path = "../examples/newcomer.rs"]
mod newcomer;
