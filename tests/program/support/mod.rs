//! What the tests of whole flows share: a folder with a store and a configuration ([`Home`]), the
//! program run there as a command or as a server ([`Server`]), plugins of the zoo ([`Zoo`]), and what
//! they wrote down ([`ledger`]).
//!
//! Nothing here waits by the clock alone: [`until`] asks for what is waited for, and fails the test
//! when it does not come. What a test leaves behind is ended and removed with its [`Home`]; the folder
//! of a test that failed stays, and its path is printed.

pub mod browser;
mod home;
pub mod ledger;
pub mod processes;
pub mod repository;
mod server;
mod terminal;
mod zoo;

use std::time::{Duration, Instant};

pub use home::{Home, Ran, Running, axwatch_path};
pub use server::{Follow, Server, http};
pub use terminal::Terminal;
pub use zoo::{Zoo, example_path, zoo_plugin_path};

/// How long anything that has to happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// Looks until there is an answer. `what` says in words what is waited for.
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// As [`until`], within a time that is part of what is tested.
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The text under a key, which must be there.
pub fn text<'a>(object: &'a serde_json::Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_else(|| panic!("{key} is no text in {object}"))
}

/// The whole number under a key, which must be there.
pub fn number(object: &serde_json::Value, key: &str) -> u64 {
    object[key].as_u64().unwrap_or_else(|| panic!("{key} is no whole number in {object}"))
}

/// The keys of an object, in order.
pub fn keys(object: &serde_json::Value) -> Vec<&str> {
    let object = object.as_object().unwrap_or_else(|| panic!("no object: {object}"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Numbers that are the same again for the same seed (SplitMix64).
pub struct Dice(u64);

impl Dice {
    /// From `AXWATCH_TEST_SEED`, or new ones. The seed is printed, and shown when the test fails.
    pub fn roll_seed() -> Dice {
        let given = std::env::var("AXWATCH_TEST_SEED").ok();
        let seed = given.map_or_else(
            || {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                now.map_or(1, |span| u64::try_from(span.as_nanos()).unwrap_or(1))
            },
            |text| text.parse().expect("AXWATCH_TEST_SEED is a whole number"),
        );
        println!("AXWATCH_TEST_SEED={seed}");
        Dice(seed)
    }

    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
