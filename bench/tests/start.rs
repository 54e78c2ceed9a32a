//! A start is measured, and its figure is told in the form that is promised.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_start_with_watchers_and_open_jobs_is_measured() {
    let output = Command::new(env!("CARGO_BIN_EXE_axwatch-bench"))
        .args(["start", "--quick", "--json"])
        .output()
        .expect("the benchmarks start");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let figure: Value = serde_json::from_str(&told).expect("one line, a JSON object");
    assert_eq!(figure["name"], "start_first_job");
    assert!(figure["ratio"].is_number() && figure["met"].is_boolean(), "{figure}");
    let detail = &figure["detail"];
    assert_eq!(detail["watchers"], 2_000);
    assert!(detail["open_jobs"].as_u64().is_some_and(|jobs| jobs >= 500), "{figure}");
    // One after the other, on the way to the first job.
    let ms = |name: &str| detail[name].as_f64().expect("a number of milliseconds");
    let (opened, engine, ready) = (ms("opened_ms"), ms("engine_ms"), ms("plugin_ready_ms"));
    assert!(0.0 < opened && opened < engine && engine < ready, "{figure}");
}
