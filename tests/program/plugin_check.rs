//! `axwatch plugin check`: what is told of plugins of the zoo, and of those that ship with axwatch.

use crate::support::{Home, Ran, Running, Zoo, axwatch_path};
use serde_json::Value;

/// Checks a plugin of the zoo, with what a host says of it.
fn check(home: &Home, plugin: Zoo) -> Ran {
    home.configure_zoo(&[plugin]);
    home.run(&["plugin", "check", "zoo"])
}

/// The texts of the findings of one weight.
fn findings(report: &Value, weight: &str) -> Vec<String> {
    let all = report["findings"].as_array().expect("findings are a list");
    let meant = all.iter().filter(|finding| finding["weight"] == weight);
    meant.map(|finding| crate::support::text(finding, "text").to_owned()).collect()
}

/// How a call was answered.
fn answer<'a>(report: &'a Value, call: &str) -> &'a str {
    let all = report["serves"].as_array().expect("calls are a list");
    let found = all.iter().find(|served| served["call"] == call);
    crate::support::text(found.unwrap_or_else(|| panic!("no {call} in {report}")), "answer")
}

#[test]
fn a_good_plugin_is_ok_and_told_of() {
    let home = Home::new("check-good");
    let watcher = serde_json::json!({ "id": "w", "ax": "is wanted", "max_fires_per_second": 5 });
    let report = check(&home, Zoo::good("zoo").watcher(watcher)).expect(0).object();
    assert_eq!((&report["ok"], &report["name"]), (&true.into(), &"zoo".into()), "{report}");
    assert_eq!(report["declares"]["handlers"], serde_json::json!(["work"]));
    let watcher = &report["declares"]["watchers"][0];
    assert_eq!((&watcher["when"], &watcher["rate"]), (&"is wanted".into(), &"5/s".into()));
    assert_eq!(findings(&report, "problem"), [""; 0]);
    for call in ["Metadata", "Initialize", "Health", "Shutdown"] {
        assert_eq!(answer(&report, call), "answered", "{report}");
    }
    assert!(!home.path("axwatch.db").exists(), "no store is made");
}

#[test]
fn what_a_host_cannot_do_is_a_problem() {
    let home = Home::new("check-problems");
    let cases: [(&str, &[&str]); 7] = [
        ("wrong-name", &["says that", "\"zoo\""]),
        ("garbage", &["Metadata: "]),
        ("exit-0-before-ready", &["it ended (exit status: 0) before it was ready"]),
        ("never-binds", &["no process of this plugin listens on "]),
        ("hang-in-initialize", &["Initialize: no answer in 1 s"]),
        ("crash-in-initialize", &["Initialize: "]),
        ("beyond-loopback", &["it listens on 0.0.0.0:", "--address"]),
    ];
    for (mode, says) in cases {
        let plugin = Zoo::new("zoo", mode).host("ready_timeout_secs", 2);
        let report = check(&home, plugin.host("initialize_timeout_secs", 1)).expect(1).object();
        assert_eq!(report["ok"], false, "{mode}");
        let problems = findings(&report, "problem").join("\n");
        for text in says {
            assert!(problems.contains(text), "{mode}: no {text:?} in {problems}");
        }
    }
}

#[test]
fn one_fault_is_told_once_and_ends_the_check() {
    let home = Home::new("check-one-fault");
    let cases = [
        ("/bin/true", "Metadata: it ended (exit status: 0) before it was ready"),
        ("/bin/false", "Metadata: it ended (exit status: 1) before it was ready"),
    ];
    for (program, fault) in cases {
        let report = home.run(&["plugin", "check", program]).expect(1).object();
        let only = serde_json::json!([{ "weight": "problem", "text": fault }]);
        assert_eq!(report["findings"], only, "{program}");
    }
    // Nobody waits three times for what does not come once, nor in silence.
    home.configure_zoo(&[Zoo::new("zoo", "never-binds").host("ready_timeout_secs", 3)]);
    let told = home.run_plain(&["plugin", "check", "zoo"]).expect(1);
    assert_eq!(told.err.matches("waiting for ").count(), 1, "{}", told.err);
    assert!(told.err.contains("waiting for its Metadata, up to 3 s"), "{}", told.err);
    told.says(&["Metadata: not answered within 3 s: no process of this plugin", "1 problem"]);
}

#[test]
fn what_a_host_copes_with_is_a_warning() {
    let home = Home::new("check-warnings");
    let cases: [(&str, &[&str]); 5] = [
        ("no-port-line", &["no line QNTX_PLUGIN_PORT"]),
        ("prints-its-token", &["prints the token"]),
        ("ignores-sigterm", &["3 s after SIGTERM it is still there"]),
        ("hang-in-shutdown", &["Shutdown: no answer in 5 s; a host waits 5 s at every stop"]),
        ("refused-watchers", &["is refused: "]),
    ];
    for (mode, says) in cases {
        let report = check(&home, Zoo::new("zoo", mode)).expect(0).object();
        let warnings = findings(&report, "warning").join("\n");
        for text in says {
            assert!(warnings.contains(text), "{mode}: no {text:?} in {report}");
        }
    }
}

#[test]
fn announced_routes_are_asked_for() {
    let home = Home::new("check-routes");
    let route = |method: &str, path: &str| serde_json::json!({ "method": method, "path": path });
    let routes = serde_json::json!([
        route("GET", "/status/500"),
        route("GET", "/status/404"),
        route("GET", "/status/401"),
        route("POST", "/status/501"),
        route("GET", "/status/{number}"),
    ]);
    let report = check(&home, Zoo::new("zoo", "serves").own("routes", routes)).expect(0).object();
    let mut warnings = findings(&report, "warning");
    warnings.retain(|warning| warning.contains("/status/"));
    let says = |status| format!("it announces GET /status/{status}, and answers it with {status}");
    assert_eq!(warnings, [says(500), says(404)], "{report}");
}

#[test]
fn a_shipped_plugin_needs_no_configuration() {
    let home = Home::new("check-shipped");
    for name in ["git", "notify", "python"] {
        let report = home.run(&["plugin", "check", name]).expect(0).object();
        assert_eq!(findings(&report, "problem"), [""; 0], "{report}");
    }
    let told = home.run_plain(&["plugin", "check", "git"]).expect(0);
    told.says(&["ixgest.git", "HandleHTTP", "ok: a host can do all that it has to"]);
}

#[test]
fn a_program_is_checked_under_the_name_that_it_says() {
    let home = Home::new("check-program");
    let program = axwatch_path().display().to_string();
    let check = |options: &[&str]| {
        let args = ["--", "plugin", "serve", "git", "--port", "{port}"];
        let mut command = home.command(["--json", "plugin", "check", &program]);
        command.args(options).args(args);
        Running::start(command).finish()
    };
    assert_eq!(check(&[]).expect(0).object()["name"], "git");
    let report = check(&["--name", "hub"]).expect(1).object();
    let problems = findings(&report, "problem").join("\n");
    assert!(problems.contains("\"git\"") && problems.contains("\"hub\""), "{problems}");
}

#[test]
fn what_is_not_there_is_said() {
    let home = Home::new("check-absent");
    let report = home.run(&["plugin", "check", "./absent"]).expect(1).object();
    assert!(findings(&report, "problem")[0].contains("absent is not there"), "{report}");
    let report = home.run(&["plugin", "check", "absent"]).expect(1).object();
    assert!(findings(&report, "problem")[0].contains("no program was found"), "{report}");
    home.run(&["plugin", "check", "user"]).expect(2).says(&["reserved"]);
    home.run(&["plugin", "check", "git", "--set", "x"]).expect(2).says(&["KEY=VALUE"]);
}
