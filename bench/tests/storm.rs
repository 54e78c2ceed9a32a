//! Storms are made and measured, and every figure is told in the form that is promised.

use std::process::Command;

use serde_json::Value;

#[test]
fn storms_of_registrations_are_measured() {
    let output = Command::new(env!("CARGO_BIN_EXE_axwatch-bench"))
        .args(["storm", "--quick", "--json"])
        .output()
        .expect("the benchmarks start");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let figures: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is a JSON object"))
        .collect();
    let names: Vec<&str> = figures.iter().filter_map(|figure| figure["name"].as_str()).collect();
    let storms = ["declared", "announced", "unchanged", "changed", "dropped", "among_many"];
    let expected: Vec<String> = (storms.iter())
        .flat_map(|storm| [format!("storm_{storm}_stall_p99"), format!("storm_{storm}_rate")])
        .collect();
    assert_eq!(names, expected);
    for figure in &figures {
        let is_stall = figure["unit"] == "ms";
        // On an idle machine a small storm may add nothing.
        assert!(figure["value"].as_f64().is_some_and(|n| n > 0.0 || is_stall), "{figure}");
        assert_eq!((figure["limit"].is_number(), figure["met"].is_boolean()), (is_stall, is_stall));
        assert!(!is_stall || figure["detail"]["p99_ms"].as_f64() > Some(0.0), "{figure}");
    }
}
