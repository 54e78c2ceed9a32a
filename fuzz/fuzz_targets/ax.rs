//! Any bytes, as a query in AX; see the oracle for what has to hold.

#![no_main]

use libfuzzer_sys::fuzz_target;

// What it sees of a text that keeps all promises is for those who count texts.
#[allow(dead_code)]
#[path = "../../query/tests/fuzz/oracle/mod.rs"]
mod oracle;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Err(broken) = oracle::check(&text) {
        panic!("{text:?} {broken}");
    }
});
