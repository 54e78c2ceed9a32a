//! Handlers run, and every figure is told in the form that is promised.

use std::process::Command;

use serde_json::Value;

#[test]
fn handlers_are_run_and_measured() {
    let output = Command::new(env!("CARGO_BIN_EXE_axwatch-bench"))
        .args(["handlers", "--quick", "--json"])
        .output()
        .expect("the benchmarks start");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let figures: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is a JSON object"))
        .collect();
    let names: Vec<&str> = figures.iter().filter_map(|figure| figure["name"].as_str()).collect();
    assert_eq!(names, ["handler_runs", "handler_run_p50", "handler_run_alone_p50"]);
    for figure in &figures {
        assert!(figure["value"].as_f64().is_some_and(|number| number > 0.0), "{figure}");
        assert!(figure["ratio"].is_number() && figure["met"].is_boolean(), "{figure}");
    }
}
