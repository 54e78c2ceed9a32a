//! Plugins of the zoo, as a configuration names them.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Home, axwatch_path};

/// One plugin: `examples/zoo_plugin.rs` in some mode under some name.
#[derive(Clone)]
pub struct Zoo {
    name: String,
    mode: String,
    host: Vec<(String, Value)>,
    own: Vec<(String, Value)>,
    watchers: Vec<Value>,
}

impl Zoo {
    /// A plugin that does its work, with the handler `work`.
    pub fn good(name: &str) -> Zoo {
        Zoo::new(name, "good")
    }

    /// A plugin in some mode.
    pub fn new(name: &str, mode: &str) -> Zoo {
        Zoo {
            name: name.to_owned(),
            mode: mode.to_owned(),
            host: Vec::new(),
            own: Vec::new(),
            watchers: Vec::new(),
        }
    }

    /// Adds to `[plugins.NAME]`.
    pub fn host(mut self, key: &str, value: impl Into<Value>) -> Zoo {
        self.host.push((key.to_owned(), value.into()));
        self
    }

    /// Adds to its own table, in the place of what was there under this key.
    pub fn own(mut self, key: &str, value: impl Into<Value>) -> Zoo {
        self.own.retain(|(known, _)| known != key);
        self.own.push((key.to_owned(), value.into()));
        self
    }

    /// The handlers that it announces, instead of `work`.
    pub fn handlers(self, names: &[&str]) -> Zoo {
        let names = json!(names);
        self.own("handlers", names)
    }

    /// A watcher that it registers, with the keys of `WatcherRegistration`.
    pub fn watcher(mut self, registration: Value) -> Zoo {
        self.watchers.push(registration);
        self
    }

    /// Its ledger in this folder.
    pub fn ledger_of(home: &Home, name: &str) -> PathBuf {
        home.path(format!("{name}.ledger.jsonl"))
    }

    pub(super) fn to_toml(zoo: &[Zoo], home: &Home) -> String {
        let names: Vec<_> = zoo.iter().map(|plugin| plugin.name.as_str()).collect();
        let mut toml = format!("[plugin]\nenabled = {}\n", toml_of(&json!(names)));
        for plugin in zoo {
            plugin.write_toml(home, &mut toml);
        }
        toml
    }

    fn write_toml(&self, home: &Home, toml: &mut String) {
        let Zoo { name, mode, .. } = self;
        let args = json!(["--mode", mode, "--name", name]);
        let host = [
            ("binary".to_owned(), json!(zoo_plugin_path())),
            ("args".to_owned(), args),
            ("env".to_owned(), json!({ "ZOO_TAG": home.tag() })),
        ];
        let mut own = vec![("ledger".to_owned(), json!(Zoo::ledger_of(home, name)))];
        own.extend(self.own.iter().cloned());
        if !self.watchers.is_empty() {
            own.push(("watchers".to_owned(), json!(self.watchers)));
        }
        toml.push_str(&format!("\n[plugins.{name}]\n"));
        for (key, value) in host.iter().chain(&self.host) {
            toml.push_str(&format!("{key} = {}\n", toml_of(value)));
        }
        toml.push_str(&format!("\n[{name}]\n"));
        for (key, value) in &own {
            toml.push_str(&format!("{key} = {}\n", toml_of(value)));
        }
    }
}

/// The plugin of the zoo.
pub fn zoo_plugin_path() -> PathBuf {
    example_path("zoo_plugin", "examples/zoo_plugin.rs")
}

/// An example beside the program, which `cargo test` of the workspace builds; `cargo test --test NAME` does
/// not.
pub fn example_path(name: &str, source: &str) -> PathBuf {
    let built = axwatch_path().parent().expect("a folder").join("examples").join(name);
    let modified = |path: &PathBuf| path.metadata().and_then(|found| found.modified()).ok();
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(source);
    assert!(
        modified(&built)
            .is_some_and(|built| modified(&source).is_none_or(|source| source <= built)),
        "{} is not there or older than its source: cargo build --workspace --example {name}",
        built.display()
    );
    built
}

/// A value as TOML on one line. JSON's texts and numbers are TOML's too.
fn toml_of(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(toml_of).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|(key, value)| format!("{key} = {}", toml_of(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        plain => plain.to_string(),
    }
}
