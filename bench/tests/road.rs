//! The benchmarks run, and tell every figure in the form that is promised.

use std::process::Command;

use serde_json::Value;

/// Each figure, and whether it has a limit.
const FIGURES: [(&str, bool); 12] = [
    ("append_100", true),
    ("append_1000", true),
    ("idle_claim_to_plugin_p50", true),
    ("idle_claim_to_plugin_p99", false),
    ("sustained_vs_yardstick", true),
    ("sustained_vs_unary", true),
    ("sustained_large_vs_yardstick", true),
    ("sustained_large_vs_unary", true),
    ("half_load_settle_p99", true),
    ("flood_vs_yardstick", false),
    ("disk_empty_store", true),
    ("disk_large_store", true),
];

#[test]
fn the_road_is_measured_from_end_to_end() {
    let output = Command::new(env!("CARGO_BIN_EXE_axwatch-bench"))
        .args(["road", "--quick", "--json"])
        .output()
        .expect("the benchmarks start");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let figures: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is a JSON object"))
        .collect();
    let names: Vec<&str> = figures.iter().filter_map(|figure| figure["name"].as_str()).collect();
    assert_eq!(names, FIGURES.map(|(name, _)| name));
    for (figure, (name, is_limited)) in figures.iter().zip(FIGURES) {
        for key in ["value", "yardstick", "ratio", "runs"] {
            assert!(figure[key].as_f64().is_some_and(|number| number > 0.0), "{name}: {key}");
        }
        assert_eq!(figure["limit"].is_number(), is_limited, "{name}");
        assert_eq!(figure["met"].is_boolean(), is_limited, "{name}");
        assert!(figure["commit"].is_string() && figure["machine"]["cpu"].is_string(), "{name}");
        assert_eq!(figure["quick"], true, "{name}");
    }
}
