//! The questions over a large log are asked, and every figure is told in the form that is promised.

use std::process::Command;

use serde_json::Value;

/// Each figure, and whether it has a limit.
const FIGURES: [(&str, bool); 19] = [
    ("ax_rare_subject", true),
    ("ax_busy_subject", true),
    ("ax_subject_and_predicate", true),
    ("ax_rare_context_busy_predicate", true),
    ("ax_context_and_actor", true),
    ("ax_several_subjects", true),
    ("ax_subject_since", true),
    ("ax_busy_predicate_since", true),
    ("ax_since", true),
    ("ax_subject_where", true),
    ("ax_subject_not", true),
    ("ax_selective_live", true),
    ("ax_first_question", false),
    ("ax_first_question_cold", false),
    ("ax_first_claim", true),
    ("ax_all", false),
    ("ax_all_of_a_busy_predicate", false),
    ("ax_all_memory_growth", true),
    ("ax_over", false),
];

#[test]
fn a_log_is_made_and_asked() {
    let output = Command::new(env!("CARGO_BIN_EXE_axwatch-bench"))
        .args(["ax", "--quick", "--json", "--claims", "3000"])
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
        assert!(figure["value"].is_number() && figure["yardstick"].is_number(), "{name}");
        assert_eq!(figure["met"].is_boolean(), is_limited, "{name}");
        assert_eq!(figure["quick"], true, "{name}");
    }
}
