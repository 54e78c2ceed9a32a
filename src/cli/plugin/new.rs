//! `axwatch plugin new`: a folder with a plugin that works, a test of it, and what it takes to run it.
//!
//! The templates lie in `new/`; what they need of the SDK is a path, since no registry has it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use axwatch_model::PluginName;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::Context;
use crate::config::SECTIONS;
use crate::fault::Fault;
use crate::output::quoted;

/// Make a new plugin that works, with a test
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch plugin new greet --lang rust
  axwatch plugin new greet --lang python --path plugins/greet
  axwatch plugin new greet --lang rust --sdk ~/src/axwatch")]
pub struct New {
    /// What it is to be called
    name: PluginName,
    /// The language to write it in
    #[arg(long, value_enum)]
    lang: Lang,
    /// The folder to make; nothing in it is overwritten [default: ./NAME]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// A clone of axwatch, or its sdk/rust or sdk/python [default: the clone around this folder, or the one
    /// that this program was built from]
    #[arg(long, value_name = "PATH")]
    sdk: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lang {
    /// A program made with cargo
    Rust,
    /// A script with a virtual environment of its own
    Python,
}

/// A file to be made.
struct Template {
    /// May name the module.
    path: &'static str,
    text: &'static str,
    is_program: bool,
}

const fn file(path: &'static str, text: &'static str) -> Template {
    Template { path, text, is_program: false }
}

const RUST: [Template; 5] = [
    file("Cargo.toml", include_str!("new/rust/Cargo.toml.in")),
    file("src/main.rs", include_str!("new/rust/main.rs.in")),
    file("am.toml", include_str!("new/rust/am.toml.in")),
    file("README.md", include_str!("new/rust/README.md.in")),
    file(".gitignore", include_str!("new/rust/gitignore.in")),
];

const PYTHON: [Template; 7] = [
    file("{{module}}.py", include_str!("new/python/plugin.py.in")),
    file("test_{{module}}.py", include_str!("new/python/test.py.in")),
    Template {
        path: "qntx-{{name}}-plugin",
        text: include_str!("new/python/launch.sh.in"),
        is_program: true,
    },
    file("requirements.txt", include_str!("new/python/requirements.txt.in")),
    file("am.toml", include_str!("new/python/am.toml.in")),
    file("README.md", include_str!("new/python/README.md.in")),
    file(".gitignore", include_str!("new/python/gitignore.in")),
];

/// What was made, for programs.
#[derive(Serialize)]
struct Made<'a> {
    name: &'a PluginName,
    path: &'a Path,
    files: &'a [String],
    next: &'a [String],
}

impl New {
    pub fn run(self, context: &mut Context) -> Result<()> {
        if SECTIONS.contains(&self.name.as_str()) {
            return Err(Fault::Usage(format!(
                "[{}] of am.toml is axwatch's own table, and a plugin of that name could have none; take another name",
                self.name
            ))
            .into());
        }
        let folder = self.path.clone().unwrap_or_else(|| PathBuf::from(self.name.as_str()));
        let sdk = self.find_sdk()?;
        let files = self.files(&sdk);
        let in_the_way: Vec<_> = files
            .iter()
            .map(|(path, ..)| folder.join(path))
            .filter(|path| path.symlink_metadata().is_ok())
            .map(|path| path.display().to_string())
            .collect();
        if !in_the_way.is_empty() {
            let there = in_the_way.join(", ");
            return Err(Fault::Refused(format!(
                "{there} is there already, and nothing is overwritten; choose another folder with --path"
            ))
            .into());
        }
        for (path, text, is_program) in &files {
            write(&folder.join(path), text, *is_program)?;
        }
        let paths: Vec<_> = files.into_iter().map(|(path, ..)| path).collect();
        let next = self.next(&folder);
        if context.out.json {
            let made = Made { name: &self.name, path: &folder, files: &paths, next: &next };
            return context.out.object(&made);
        }
        context.out.line(&format!("made the plugin {} in {}:", self.name, folder.display()))?;
        for path in &paths {
            context.out.line(&format!("  {path}"))?;
        }
        context.out.line("\nnext:")?;
        for command in &next {
            context.out.line(&format!("  {command}"))?;
        }
        Ok(())
    }

    /// Every file with its text, and whether it is to be executed.
    fn files(&self, sdk: &Path) -> Vec<(String, String, bool)> {
        let (templates, sdk) = match self.lang {
            Lang::Rust => (&RUST[..], toml_text(&sdk.display().to_string())),
            Lang::Python => (&PYTHON[..], file_url(sdk)),
        };
        let fill = |text: &str| {
            text.replace("{{name}}", self.name.as_str())
                .replace("{{key}}", &toml_key(self.name.as_str()))
                .replace(
                    "{{package}}",
                    &format!("qntx-{}-plugin", self.name.as_str().replace('.', "-")),
                )
                .replace("{{module}}", &module(self.name.as_str()))
                .replace("{{sdk}}", &sdk)
        };
        templates
            .iter()
            .map(|template| (fill(template.path), fill(template.text), template.is_program))
            .collect()
    }

    /// What to type now.
    fn next(&self, folder: &Path) -> Vec<String> {
        let enter = format!("cd {}", quoted(&folder.display().to_string()));
        let build: &[&str] = match self.lang {
            Lang::Rust => &["cargo test", "cargo build"],
            Lang::Python => &[
                "python3 -m venv .venv",
                ".venv/bin/pip install -r requirements.txt",
                ".venv/bin/python -m unittest",
            ],
        };
        let build = build.iter().map(|&command| command.to_owned());
        [enter].into_iter().chain(build).chain(["axwatch serve".to_owned()]).collect()
    }

    fn find_sdk(&self) -> Result<PathBuf> {
        let (part, manifest) = match self.lang {
            Lang::Rust => ("sdk/rust", "Cargo.toml"),
            Lang::Python => ("sdk/python", "pyproject.toml"),
        };
        let is_sdk = |folder: &Path| {
            let text = fs::read_to_string(folder.join(manifest)).unwrap_or_default();
            text.lines().any(|line| line.trim() == "name = \"axwatch-sdk\"")
        };
        let whole = |folder: PathBuf| {
            fs::canonicalize(&folder).with_context(|| format!("cannot find {}", folder.display()))
        };
        if let Some(given) = &self.sdk {
            let found = [given.clone(), given.join(part)].into_iter().find(|path| is_sdk(path));
            return match found {
                Some(found) => whole(found),
                None => Err(Fault::Usage(format!(
                    "--sdk {}: there is no SDK; give it a clone of axwatch, or the folder {part} of one",
                    given.display()
                ))
                .into()),
            };
        }
        let here = std::env::current_dir().context("cannot tell which folder this is")?;
        let clones = here.ancestors().chain([Path::new(env!("CARGO_MANIFEST_DIR"))]);
        match clones.map(|clone| clone.join(part)).find(|path| is_sdk(path)) {
            Some(found) => whole(found),
            None => Err(Fault::Refused(format!(
                "the SDK is nowhere to be found; clone the repository of axwatch and give --sdk CLONE (its {part} is needed)"
            ))
            .into()),
        }
    }
}

fn write(path: &Path, text: &str, is_program: bool) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let mode = if is_program { 0o755 } else { 0o644 };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A name as Python takes it for a module.
fn module(name: &str) -> String {
    let cleaned = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_lowercase();
    format!(
        "{}{cleaned}_plugin",
        if cleaned.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" }
    )
}

fn toml_text(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Bare where TOML lets it be; a name with a dot would be two keys.
fn toml_key(name: &str) -> String {
    if name.contains('.') { toml_text(name) } else { name.to_owned() }
}

/// A path as pip takes it in a list of requirements.
fn file_url(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    path.as_os_str().as_bytes().iter().fold("file://".to_owned(), |mut url, &byte| {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            write!(url, "%{byte:02X}").expect("a String takes all that is written to it");
        }
        url
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(name: &str, lang: Lang) -> New {
        New { name: name.parse().expect("a good name"), lang, path: None, sdk: None }
    }

    #[test]
    fn every_place_of_a_template_is_filled() {
        for lang in [Lang::Rust, Lang::Python] {
            for (path, text, _) in new("git-hub.v2", lang).files(Path::new("/a b")) {
                assert!(!path.contains("{{") && !text.contains("{{"), "{path}: {text}");
                if path == "am.toml" {
                    let am: toml::Table = text.parse().expect("am.toml is TOML");
                    assert!(am.contains_key("git-hub.v2"), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_name_becomes_what_each_language_takes() {
        let cases =
            [("greet", "greet_plugin"), ("Git-Hub.v2", "git_hub_v2_plugin"), ("3d", "_3d_plugin")];
        for (name, expected) in cases {
            assert_eq!(module(name), expected);
        }
        assert_eq!(file_url(Path::new("/a b/ü")), "file:///a%20b/%C3%BC");
    }
}
