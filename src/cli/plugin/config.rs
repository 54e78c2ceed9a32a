//! `axwatch plugin config`: what may be configured for a plugin, and what is.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use axwatch_engine::plugin::{ConfigField, ConfigView};
use clap::Args;

use super::BASE;
use crate::cli::Context;
use crate::client::path;
use crate::output::{Output, TablePage, or_dash};
use crate::source::need_server;

/// Show what may be configured for a plugin, what is, and what is wrong with that
///
/// The plugin says what may be configured; when it does not run, what it said last is shown. Its values are
/// those of the table with its name in am.toml. A value that comes from the environment is not shown.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch plugin config git
  axwatch plugin config git --json | jq '.fields[] | select(.problem)'")]
pub struct Config {
    /// Its name
    name: String,
}

impl Config {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let client = need_server(&context.config()?.store).await?;
        let view: ConfigView = client.get(&path(BASE, &[&self.name, "config"])).await?;
        if context.out.json {
            return context.out.object(&view);
        }
        show(&mut context.out, &self.name, &view)
    }
}

fn show(out: &mut Output, name: &str, view: &ConfigView) -> Result<()> {
    if !view.has_schema {
        out.note(&format!("plugin {name} does not say what may be configured"))?;
        let mut table = TablePage::new(&["KEY", "VALUE"]);
        for (key, value) in &view.values {
            table.row(Style::new(), vec![key.clone(), value.clone()]);
        }
        return out.table(&mut table);
    }
    let mut table = TablePage::new(&["KEY", "TYPE", "VALUE", "DEFAULT", "ALLOWED", "DESCRIPTION"]);
    for field in &view.fields {
        let style = match field.problem {
            Some(_) => AnsiColor::Red.on_default(),
            None => Style::new(),
        };
        let cells = vec![
            field.name.clone(),
            kind(field),
            or_dash(field.value.clone()),
            or_dash(Some(field.default.clone()).filter(|default| !default.is_empty())),
            allowed(field),
            field.description.clone(),
        ];
        table.row(style, cells);
    }
    out.table(&mut table)?;
    let problems = view.fields.iter().filter_map(|field| field.problem.as_ref());
    for problem in problems {
        out.note(problem)?;
    }
    for key in &view.unknown {
        out.note(&format!("{key} is configured, and plugin {name} does not know it"))?;
    }
    Ok(())
}

fn kind(field: &ConfigField) -> String {
    match (&*field.kind, &*field.element_type) {
        ("array", element) if !element.is_empty() => format!("array of {element}"),
        (kind, _) => kind.to_owned(),
    }
}

/// What a value has to be, in a few words.
fn allowed(field: &ConfigField) -> String {
    let mut told = Vec::new();
    if field.required {
        told.push("required".to_owned());
    }
    match (&*field.min, &*field.max) {
        ("", "") => {}
        (min, "") => told.push(format!("at least {min}")),
        ("", max) => told.push(format!("at most {max}")),
        (min, max) => told.push(format!("{min} to {max}")),
    }
    if !field.pattern.is_empty() {
        told.push(format!("like {}", field.pattern));
    }
    told.join(", ")
}
