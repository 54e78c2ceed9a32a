//! `axwatch plugin new`: what it makes is taken through the commands that it prints, and fires.
//!
//! Python is left out where no virtual environment can be made or filled, which is then said.

use std::path::Path;
use std::process::Command;

use crate::support::{Home, Server, example_path, until};

/// Runs a command there; none when it does not succeed, with what it said.
fn run(folder: &Path, program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).current_dir(folder).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{program} {}: {}\n{out}{err}", args.join(" "), output.status))
}

/// A claim makes the plugin fire, and the plugin makes one of its own.
fn sees_it_fire(home: &Home) {
    let server = Server::start(home).expect("the server starts with what was made");
    server.until_plugin("greet", &["ready"]);
    home.run(&["as", "ALICE is new"]).expect(0);
    let text = until("the plugin's claim is there", || {
        let found = home.run(&["ax", "is greeted"]).expect(0).json();
        found.first().map(|claim| claim["attributes"]["text"].clone())
    });
    assert_eq!(text, "Good day, ALICE!");
    server.stop();
    let report = home.run(&["plugin", "check", "greet"]).expect(0).object();
    assert_eq!(report["declares"]["watchers"][0]["when"], "is new", "{report}");
}

/// What is made is an example of the SDK, word for word, whose test runs with the SDK's own: so nothing
/// has to be built here.
#[test]
fn a_plugin_in_rust_is_the_sdks_example_and_fires() {
    let home = Home::new("plugin-new-example");
    home.run(&["plugin", "new", "greet", "--lang", "rust", "--path", "."]).expect(0);
    let made = std::fs::read_to_string(home.path("src/main.rs")).expect("it was made");
    assert_eq!(made, include_str!("../../sdk/rust/examples/newcomer.rs"));
    let built = example_path("newcomer", "sdk/rust/examples/newcomer.rs");
    std::fs::create_dir_all(home.path("target/debug")).expect("a folder can be made");
    std::os::unix::fs::symlink(&built, home.path("target/debug/qntx-greet-plugin"))
        .expect("a link can be made");
    sees_it_fire(&home);
}

#[test]
#[ignore = "builds the SDK from nothing; cargo test --test plugin_new -- --ignored"]
fn a_plugin_in_rust_is_built_tested_and_fires() {
    let home = Home::new("plugin-new-rust");
    home.run(&["plugin", "new", "greet", "--lang", "rust", "--path", "."]).expect(0);
    // The versions that are there already, and what was built of them before.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::copy(root.join("Cargo.lock"), home.path("Cargo.lock"))
        .expect("the lock file is there");
    let built = root.join("target").join("plugin-new");
    std::fs::create_dir_all(&built).expect("a folder can be made");
    std::os::unix::fs::symlink(&built, home.path("target")).expect("a link can be made");
    for command in ["test", "build"] {
        run(&home.path(""), env!("CARGO"), &[command, "--offline", "--quiet"]).unwrap();
    }
    sees_it_fire(&home);
}

#[test]
fn a_plugin_in_python_is_installed_tested_and_fires() {
    let home = Home::new("plugin-new-python");
    let made = home.run(&["plugin", "new", "greet", "--lang", "python", "--path", "."]).expect(0);
    let next: Vec<String> = serde_json::from_value(made.object()["next"].clone()).unwrap();
    let [_, venv, install, test, _] = &next[..] else { panic!("{next:?}") };
    let folder = home.path("");
    // What it needs that is not ours: a Python that makes environments, and a registry.
    let probe = "python3 -c 'import ensurepip, venv' && python3 -m venv .probe && \
        .probe/bin/pip download --quiet --no-deps --dest .probe 'grpcio>=1.60'";
    if let Err(reason) = run(&folder, "sh", &["-c", probe]) {
        eprintln!("skipped, since Python's packages cannot be had here: {reason}");
        return;
    }
    for command in [venv, install] {
        run(&folder, "sh", &["-c", command]).unwrap();
    }
    run(&folder, "sh", &["-c", test]).unwrap();
    sees_it_fire(&home);
}

#[test]
fn nothing_is_overwritten_and_what_is_missing_is_said() {
    let home = Home::new("plugin-new-refused");
    let new = |more: &[&str]| {
        let args = [&["plugin", "new", "greet", "--lang", "python"][..], more].concat();
        home.run(&args)
    };
    std::fs::create_dir(home.path("greet")).unwrap();
    std::fs::write(home.path("greet/README.md"), "mine").unwrap();
    new(&[]).expect(1).says(&["greet/README.md is there already", "--path"]);
    assert_eq!(std::fs::read_to_string(home.path("greet/README.md")).unwrap(), "mine");
    assert!(!home.path("greet/greet_plugin.py").exists(), "all or nothing");
    new(&["--sdk", "."]).expect(2).says(&["there is no SDK", "sdk/python"]);
    home.run(&["plugin", "new", "user", "--lang", "rust"]).expect(2).says(&["reserved"]);
    home.run(&["plugin", "new", "store", "--lang", "rust"]).expect(2).says(&["[store] of am.toml"]);
    let made = new(&["--path", "a/b"]).expect(0).object();
    assert_eq!(made["files"][2], "qntx-greet-plugin");
    let said = home.run_plain(&["plugin", "new", "other", "--lang", "rust"]).expect(0);
    said.says(&["made the plugin other in other", "cargo test", "axwatch serve"]);
}
