//! `docs/plugins.md` shows what is built and tested here, word for word.

const PAGE: &str = include_str!("../../../docs/plugins.md");
const EXAMPLE: &str = include_str!("../examples/greet.rs");
/// The example as the page leaves it: with its tests.
const TESTED: &str = include_str!("greet.rs");

#[test]
fn the_page_shows_the_plugin_that_is_built() {
    assert!(EXAMPLE.lines().count() < 40, "a plugin fits into 40 lines");
    assert!(PAGE.contains(&format!("```rust,no_run\n{EXAMPLE}```\n")));
}

#[test]
fn the_page_shows_the_tests_that_are_run() {
    let tests = TESTED.strip_prefix(EXAMPLE).expect("tests/greet.rs begins with the example");
    let shown = tests.trim_start();
    assert!(PAGE.contains(&format!("```rust,ignore\n{shown}```\n")));
}
