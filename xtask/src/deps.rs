//! `cargo xtask deps`: imports point down the list of crates, never up.
//!
//! What a crate pulls in, by whatever road, is read from `cargo tree`; where protobuf may be spoken
//! inside the engine, from its source.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::steps::{cargo, output, root};

/// What a crate of ours may and may not have below it.
struct Rule {
    package: &'static str,
    /// Our crates that it may have below it.
    ours: &'static [&'static str],
    /// Others that it must not; what begins with such a name and a dash is meant too.
    never: &'static [&'static str],
}

const RULES: [Rule; 11] = [
    Rule {
        package: "axwatch-failpoints",
        ours: &[],
        never: &["tokio", "sqlx", "tonic", "rand", "serde", "tracing"],
    },
    Rule { package: "axwatch-model", ours: &[], never: &["tokio", "sqlx", "tonic", "rand"] },
    Rule { package: "axwatch-proto", ours: &[], never: &["sqlx"] },
    Rule { package: "axwatch-query", ours: &["axwatch-model"], never: &["tokio", "sqlx", "tonic"] },
    Rule {
        package: "axwatch-core",
        ours: &["axwatch-model", "axwatch-query"],
        never: &["tokio", "sqlx", "tonic", "rand"],
    },
    Rule {
        package: "axwatch-ats",
        ours: &["axwatch-failpoints", "axwatch-model", "axwatch-query"],
        never: &["tonic", "prost"],
    },
    Rule {
        package: "axwatch-engine",
        ours: &[
            "axwatch-ats",
            "axwatch-core",
            "axwatch-failpoints",
            "axwatch-model",
            "axwatch-proto",
            "axwatch-query",
        ],
        never: &["axum-extra", "clap"],
    },
    // What the author of a plugin imports, and what the shipped plugins use: the wire and no more.
    Rule { package: "axwatch-sdk", ours: &["axwatch-proto"], never: &["sqlx", "clap"] },
    Rule {
        package: "axwatch-plugin-git",
        ours: &["axwatch-proto", "axwatch-sdk"],
        never: &["sqlx", "clap", "reqwest"],
    },
    Rule {
        package: "axwatch-plugin-notify",
        ours: &["axwatch-proto", "axwatch-sdk"],
        never: &["sqlx", "clap", "gix", "openssl-sys", "native-tls"],
    },
    Rule {
        package: "axwatch-plugin-python",
        ours: &["axwatch-proto", "axwatch-sdk"],
        never: &["sqlx", "clap", "gix", "reqwest", "pyo3-ffi"],
    },
];

/// The folder of the engine that speaks protobuf, and the names by which it does.
const WIRE_FOLDER: &str = "plugin";
const WIRE_NAMES: [&str; 4] = ["axwatch_proto", "prost_types", "tonic::", "prost::"];

/// Checks every rule and tells all that is broken.
///
/// # Errors
/// When a rule is broken, or `cargo tree` does not answer.
pub fn run() -> Result<()> {
    let mut broken = Vec::new();
    for rule in &RULES {
        let tree = output(cargo().args([
            "tree",
            "--locked",
            "--package",
            rule.package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{lib} {p}",
        ]))?;
        broken.extend(broken_by(rule, &packages(&tree)));
    }
    broken.extend(protobuf_outside_of_its_folder(&root().join("engine/src"))?);
    if broken.is_empty() {
        return Ok(());
    }
    bail!("{}", broken.join("\n"))
}

/// The names of packages in the output of `cargo tree`: the second word of each line.
fn packages(tree: &str) -> BTreeSet<&str> {
    tree.lines().filter_map(|line| line.split(' ').nth(1)).filter(|name| !name.is_empty()).collect()
}

fn broken_by(rule: &Rule, packages: &BTreeSet<&str>) -> Vec<String> {
    let is_wrong = |name: &&&str| {
        let name: &str = name;
        let is_ours = name == "axwatch" || name.starts_with("axwatch-");
        if is_ours {
            name != rule.package && !rule.ours.contains(&name)
        } else {
            rule.never.iter().any(|never| is_of(name, never))
        }
    };
    let wrong = packages.iter().filter(is_wrong);
    wrong.map(|name| format!("{} must not pull in {name}", rule.package)).collect()
}

/// Whether a package is `family`, or one of its parts: `sqlx-core` is of `sqlx`.
fn is_of(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn protobuf_outside_of_its_folder(folder: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != WIRE_FOLDER) {
                broken.extend(protobuf_outside_of_its_folder(&path)?);
            }
            continue;
        }
        let text = fs::read_to_string(&path)?;
        if let Some(name) = names_protobuf(&text) {
            broken.push(format!(
                "{} must not name {name}: protobuf stops in plugin/",
                path.display()
            ));
        }
    }
    Ok(broken)
}

/// The first name of the wire in a source, comments not counted.
fn names_protobuf(source: &str) -> Option<&'static str> {
    let mut code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.find_map(|line| WIRE_NAMES.into_iter().find(|name| line.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_rule_names_both_sides() {
        let tree = "axwatch_core axwatch-core v0.1.0 (/x)\naxwatch_ats axwatch-ats v0.1.0\n\
                    tokio_util tokio-util v0.7.0\ntokio_x tokiox v1.0.0\nrand rand v0.10.0 (*)\n\
                    serde serde v1.0.0\n";
        let rule = RULES.iter().find(|rule| rule.package == "axwatch-core").unwrap();
        let told = broken_by(rule, &packages(tree));
        let expected = ["axwatch-ats", "rand", "tokio-util"];
        assert_eq!(told, expected.map(|name| format!("axwatch-core must not pull in {name}")));
    }

    #[test]
    fn protobuf_is_found_in_code_and_not_in_comments() {
        let cases = [
            ("use axwatch_proto::protocol;", Some("axwatch_proto")),
            ("    let x: tonic::Status = y;", Some("tonic::")),
            ("//! Not here: axwatch_proto", None),
            ("let proto = 1;", None),
        ];
        for (source, expected) in cases {
            assert_eq!(names_protobuf(source), expected, "{source}");
        }
    }
}
