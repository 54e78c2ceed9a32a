//! `axwatch plugin check`: what a host makes of a plugin, without a server.

use std::path::{Path, PathBuf};

use anstyle::Style;
use anyhow::Result;
use axwatch_engine::plugin::check::{Answer, CheckReport, CheckSettings, Weight, check};
use axwatch_engine::plugin::{HostSettings, PluginSettings};
use axwatch_model::PluginName;
use clap::Args;

use crate::cli::{Context, variable};
use crate::fault::Fault;
use crate::output::{Output, TablePage, counted};
use crate::{serve, shipped};

/// Run a plugin on trial, without a server, and tell what it serves, what it declares, and what a host could not
/// do with it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch plugin check greet                                   as am.toml configures it
  axwatch plugin check ./target/debug/qntx-greet-plugin --set greeting=Hi
  axwatch plugin check ./other --name greet -- --address 127.0.0.1:{port}

No job of a handler of its own is sent. Exit code 1 when a host could not do all that it has to.")]
pub struct Check {
    /// Its program; or the name of a plugin of the configuration
    #[arg(value_name = "BINARY")]
    plugin: PathBuf,
    /// Its name, which its Metadata has to repeat [default: the one that it says]
    #[arg(long)]
    name: Option<PluginName>,
    /// A key of its own table; again for more
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Arguments of the program; with {port} in one of them no --port is added
    #[arg(last = true)]
    args: Vec<String>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = pair.ok_or("it must be KEY=VALUE, such as greeting=Hi")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Check {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let settings = self.settings(context)?;
        let is_for_people = !context.out.json;
        let tell = |text: &str| {
            if is_for_people {
                let dim = Style::new().dimmed();
                anstream::eprintln!("{dim}{text}{dim:#}");
            }
        };
        let report = check(settings, serve::launcher(), &tell).await.map_err(Fault::Refused)?;
        if context.out.json {
            context.out.object(&report)?;
        } else {
            show(&mut context.out, &report)?;
        }
        if report.ok { Ok(()) } else { Err(Fault::NotOk.into()) }
    }

    fn settings(self, context: &Context) -> Result<CheckSettings> {
        // A word without a slash that is no file here is a name.
        let is_file = self.plugin.components().count() > 1 || self.plugin.is_file();
        let (mut plugin, host, is_name_guessed) = if is_file {
            let name = self.name.clone().unwrap_or_else(|| name_of_file(&self.plugin));
            let plugin = PluginSettings {
                binary: Some(std::path::absolute(&self.plugin)?),
                ..PluginSettings::new(name)
            };
            (plugin, HostSettings::default(), self.name.is_none())
        } else if let Some(name) = &self.name {
            return Err(Fault::Usage(format!(
                "--name {name} is for a program by its path, and {} is a plugin's name; write ./{} if a file is meant",
                self.plugin.display(),
                self.plugin.display()
            ))
            .into());
        } else {
            let mut host = context.config()?.host_settings(variable)?;
            let found = host
                .plugins
                .iter()
                .position(|plugin| self.plugin == Path::new(plugin.name.as_str()));
            let plugin = match found {
                Some(index) => host.plugins.swap_remove(index),
                None => self.unconfigured()?,
            };
            (plugin, host, false)
        };
        plugin.config.extend(self.set);
        if !self.args.is_empty() {
            plugin.args = self.args;
        }
        Ok(CheckSettings { plugin, is_name_guessed, host })
    }

    /// One that the configuration does not name: it may ship with us, or lie in `plugin.paths`.
    fn unconfigured(&self) -> Result<PluginSettings> {
        let shown = self.plugin.display();
        let name: PluginName = self.plugin.to_string_lossy().parse().map_err(|error| {
            Fault::Usage(format!("{shown} is neither a file nor the name of a plugin: {error}"))
        })?;
        let mut plugin = PluginSettings::new(name);
        shipped::settle(&mut plugin);
        Ok(plugin)
    }
}

/// What stands between `qntx-` and `-plugin`, where a file is called so.
fn name_of_file(path: &Path) -> PluginName {
    let file = path.file_stem().unwrap_or_default().to_string_lossy();
    let bare = ["qntx-", "axwatch-"].iter().find_map(|prefix| file.strip_prefix(prefix));
    let bare = bare.unwrap_or(&file);
    let bare = bare.strip_suffix("-plugin").unwrap_or(bare);
    bare.parse().unwrap_or_else(|_| "unnamed".parse().expect("it is a good name"))
}

fn show(out: &mut Output, report: &CheckReport) -> Result<()> {
    let about = report.about.clone().unwrap_or_default();
    out.fields(&[
        ("plugin", report.name.clone()),
        ("version", about.version),
        ("protocol", about.protocol),
        ("description", about.description),
        ("handlers", report.declares.handlers.join("\n")),
        ("schedules", report.declares.schedules.join("\n")),
        ("routes", report.declares.routes.join("\n")),
        ("config", report.declares.config.join("\n")),
    ])?;
    if !report.declares.watchers.is_empty() {
        out.line("")?;
        let mut table = TablePage::new(&["WATCHER", "HANDLER", "RATE", "WHEN"]);
        for watcher in report.declares.watchers.clone() {
            let cells = vec![watcher.id, watcher.handler, watcher.rate, watcher.when];
            table.row(Style::new(), cells);
        }
        out.table(&mut table)?;
    }
    if !report.serves.is_empty() {
        out.line("")?;
        let mut table = TablePage::new(&["CALL", "ANSWER", "DETAIL"]);
        for served in &report.serves {
            let answer = match served.answer {
                Answer::Answered => "answered",
                Answer::Unimplemented => "unimplemented",
                Answer::Status => "status",
                Answer::Undecodable => "undecodable",
                Answer::Silent => "silent",
            };
            let cells = vec![served.call.to_owned(), answer.to_owned(), served.detail.clone()];
            table.row(Style::new(), cells);
        }
        out.table(&mut table)?;
    }
    out.line("")?;
    for finding in &report.findings {
        let weight = match finding.weight {
            Weight::Problem => "problem",
            Weight::Warning => "warning",
            Weight::Note => "note",
        };
        out.line(&format!("{weight}: {}", finding.text))?;
    }
    let problems = report.findings.iter().filter(|f| f.weight == Weight::Problem).count();
    let verdict = match problems {
        0 => "a host can do all that it has to".to_owned(),
        problems => counted(problems as u64, "problem"),
    };
    out.line(&format!("{}: {verdict}", if report.ok { "ok" } else { "not ok" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_tell_its_name() {
        let cases = [
            ("/a/qntx-greet-plugin", "greet"),
            ("qntx-greet", "greet"),
            ("axwatch-git-hub", "git-hub"),
            ("./greet.py", "greet"),
            ("/a/-", "unnamed"),
        ];
        for (file, expected) in cases {
            assert_eq!(name_of_file(Path::new(file)).as_str(), expected, "{file}");
        }
    }
}
