//! `axwatch watch create`: declaring a watcher, with the words of the command line or by answering.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, Result};
use axwatch_ats::since::Since;
use axwatch_model::{Clock as _, SystemClock, WatcherState};
use axwatch_query::FoundBy;
use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::json;
use serde_json::value::RawValue;

use super::ask::{self, Wanted};
use super::{BASE, told};
use crate::cli::Context;
use crate::client::{Client, JSON};
use crate::config::nearest;
use crate::fault::{Fault, InvalidQuery};
use crate::output::{counted, quoted};
use crate::source::{need_server, parse};
use crate::times;
use crate::views::{DeclaredWatcher, Plugin, Watcher};

const EXAMPLES: &str = "\
Examples:
  axwatch watch create prs --when 'is author of GitHub' --run notify.log
  axwatch watch create prs --when 'is author so notify.log' --max-fires-per-second 5
  axwatch watch create prs --when 'is author' --run notify.log --since yesterday
  axwatch watch create prs --when 'by HR' --run notify.file --params '{\"path\":\"/tmp/hr.jsonl\"}'
  axwatch watch create                       # on a terminal: asks for what is missing";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Create {
    /// Its id among yours
    id: Option<String>,
    /// What to wait for, in AX; `so HANDLER` in it names handlers too
    #[arg(long, value_name = "AX")]
    when: Option<String>,
    /// The handler that acts: its name, or plugin/name; may be given several times
    #[arg(long, value_name = "HANDLER")]
    run: Vec<String>,
    /// Parameters for its handlers: a JSON object
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// Attempts a second at most; 0 is no limit [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_fires_per_second: Option<i64>,
    /// Look at earlier claims too, from this one on: its number, a time such as yesterday, or start
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Give a job up after so many attempts that count; 0 is as its handler has it [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_attempts: Option<i64>,
    /// Give a job up when its attempts have failed for so long, such as 2h; else as its handler has it
    #[arg(long, value_name = "SPAN")]
    max_age: Option<String>,
}

impl Create {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        if let Some(when) = &self.when {
            InvalidQuery::check_watcher(when)?;
        }
        let params = self.params.as_deref().map(json_params).transpose()?;
        self.check_times()?;
        let wanted = Wanted {
            id: self.id.clone(),
            when: self.when.clone(),
            run: self.run.clone(),
            max_fires_per_second: self.max_fires_per_second,
        };
        let missing = wanted.missing();
        let somebody_is_there = io::stdin().is_terminal() && io::stderr().is_terminal();
        let asks = somebody_is_there && !missing.is_empty();
        // A handler alone is what the server refuses to do without, with its own words.
        if !asks && (wanted.id.is_none() || wanted.when.is_none()) {
            return Err(lacks(&missing).into());
        }
        let client = need_server(&context.config()?.store).await?;
        let wanted = if asks { answered(&client, wanted).await? } else { wanted };
        let declaration = json!({
            "id": wanted.id, "when": wanted.when, "handlers": wanted.run, "params": params,
            "max_fires_per_second": wanted.max_fires_per_second.unwrap_or(0),
            "since": self.since, "max_attempts": self.max_attempts.unwrap_or(0), "max_age": self.max_age,
        });
        let declared: DeclaredWatcher = client.send(Method::POST, BASE, &declaration).await?;
        let watcher = &declared.watcher;
        match context.out.json {
            true => context.out.object(&declared)?,
            false => told(context, watcher)?,
        }
        if declared.found_by == FoundBy::Nothing {
            context.out.note(DEAR)?;
        }
        if self.since.is_some() {
            tell_of_history(context, &declared)?;
        }
        if watcher.state == WatcherState::WaitingForHandler && !context.out.json {
            for (unknown, near) in near_handlers(watcher, &known_handlers(&client).await?) {
                context
                    .out
                    .note(&format!("no handler is called {unknown}; did you mean {near}?"))?;
            }
        }
        if asks {
            context.out.flush()?;
            let line = context.typed(&self.command_line(&wanted));
            anstream::eprintln!("\nthe same in one line:\n  {line}");
        }
        Ok(())
    }

    /// Refuses times that nobody can have meant, before anything is asked of anybody.
    fn check_times(&self) -> Result<(), Fault> {
        if let Some(since) = &self.since {
            let now = SystemClock::new().now().wall;
            Since::read_past(since, now)
                .map_err(|problem| Fault::Usage(format!("--since: {problem}")))?;
        }
        if let Some(max_age) = &self.max_age {
            times::span(max_age)
                .map_err(|problem| Fault::Usage(format!("--max-age: {problem}")))?;
        }
        Ok(())
    }

    /// The same, with what was answered, as one line.
    fn command_line(&self, wanted: &Wanted) -> String {
        let mut line = "axwatch watch create".to_owned();
        let mut add = |flag: &str, value: &str| {
            line.push_str(flag);
            line.push(' ');
            line.push_str(&quoted(value));
        };
        add("", wanted.id.as_deref().unwrap_or_default());
        add(" --when", wanted.when.as_deref().unwrap_or_default());
        wanted.run.iter().for_each(|handler| add(" --run", handler));
        let rate = wanted.max_fires_per_second.filter(|rate| *rate != 0);
        let others = [
            (" --params", self.params.clone()),
            (" --max-fires-per-second", rate.map(|rate| rate.to_string())),
            (" --since", self.since.clone()),
            (" --max-attempts", self.max_attempts.map(|attempts| attempts.to_string())),
            (" --max-age", self.max_age.clone()),
        ];
        for (flag, value) in others {
            value.iter().for_each(|value| add(flag, value));
        }
        line
    }
}

/// Of a watcher that no look-up finds.
const DEAR: &str = "every claim is held against it, because it asks for no term, no equal value and no span of time; \
                    a subject, predicate, context or actor that it needs would make it cheaper";

/// What `--since` led to.
fn tell_of_history(context: &mut Context, declared: &DeclaredWatcher) -> Result<()> {
    let DeclaredWatcher { watcher, backlog, .. } = declared;
    let (id, first) = (quoted(&watcher.id), watcher.first_seq);
    let told = match (*backlog, watcher.position) {
        (None, _) => {
            let replay = context.typed(&format!("axwatch watch replay {id} --from …"));
            format!(
                "it stood already, so --since changed nothing; `{replay}` fires again for earlier claims"
            )
        }
        (Some(0), _) => format!("it sees the claims from seq {first} on, the next one that comes"),
        (Some(claims), None) => format!(
            "it has looked at {}, from seq {first} on, and has caught up",
            counted(claims, "earlier claim")
        ),
        (Some(claims), Some(_)) => {
            let show = context.typed(&format!("axwatch watch show {id}"));
            format!(
                "it catches up: it looks at {} first, from seq {first} on; `{show}` tells how far it is",
                counted(claims, "earlier claim")
            )
        }
    };
    context.out.note(&told)
}

/// The handlers of a watcher that nobody has, each with the known one that it is most like.
fn near_handlers<'a>(watcher: &'a Watcher, known: &'a [String]) -> Vec<(&'a str, &'a str)> {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let unknown = watcher.handlers.iter().filter(|handler| !known.contains(&handler.as_str()));
    unknown.filter_map(|handler| Some((handler.as_str(), nearest(handler, &known)?))).collect()
}

fn lacks(missing: &[&str]) -> Fault {
    Fault::Usage(format!(
        "`watch create` lacks {}; for example: axwatch watch create prs --when 'is author of GitHub' --run notify.log",
        missing.join(", ")
    ))
}

/// Asks a person. The terminal is read on a thread of its own, so that Ctrl-C is heard meanwhile.
async fn answered(client: &Client, wanted: Wanted) -> Result<Wanted> {
    let handlers = known_handlers(client).await?;
    let asking = tokio::task::spawn_blocking(move || {
        // Not locked: whoever hears Ctrl-C meanwhile has to say so.
        let mut stderr = anstream::stderr();
        ask::complete(wanted, &handlers, &mut io::stdin().lock(), &mut stderr)
    });
    let answered = tokio::select! {
        answered = asking => answered?.context("cannot ask on this terminal")?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!();
            None
        }
    };
    answered
        .ok_or_else(|| Fault::Refused("not all was said, so nothing was changed".to_owned()).into())
}

/// The handlers of all plugins by name, with the plugin before those that several have.
async fn known_handlers(client: &Client) -> Result<Vec<String>> {
    let lines = client.text(Method::GET, "/api/v1/plugins", JSON, Bytes::new()).await?;
    let plugins = std::str::from_utf8(&lines)?.lines().map(parse::<Plugin>);
    let plugins = plugins.collect::<Result<Vec<_>>>()?;
    Ok(qualified(&plugins))
}

fn qualified(plugins: &[Plugin]) -> Vec<String> {
    let all = || plugins.iter().flat_map(|plugin| plugin.handlers.iter().map(move |h| (plugin, h)));
    let several = |handler: &str| all().filter(|(_, other)| *other == handler).count() > 1;
    let mut names: Vec<String> = all()
        .map(|(plugin, handler)| match several(handler) {
            true => format!("{}/{handler}", plugin.name),
            false => handler.clone(),
        })
        .collect();
    names.sort_unstable();
    names
}

fn json_params(text: &str) -> Result<Box<RawValue>> {
    let usage =
        |problem: String| Fault::Usage(format!("--params must be a JSON object: {problem}"));
    let raw: Box<RawValue> =
        serde_json::from_str(text).map_err(|error| usage(error.to_string()))?;
    if !raw.get().starts_with('{') {
        return Err(usage(format!("{text} is none")).into());
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_are_an_object() {
        assert_eq!(json_params(r#"{"a":1}"#).unwrap().get(), r#"{"a":1}"#);
        for text in ["[1]", "1", "{", ""] {
            assert_eq!(crate::fault::exit_code(&json_params(text).unwrap_err()), 2, "{text}");
        }
    }

    #[test]
    fn the_same_can_be_typed() {
        let wanted = Wanted {
            id: Some("prs".into()),
            when: Some("is 'pull request' of GitHub".into()),
            run: vec!["notify.log".into(), "git/x".into()],
            max_fires_per_second: Some(5),
        };
        let create = Create {
            id: None,
            when: None,
            run: Vec::new(),
            params: Some("{}".into()),
            max_fires_per_second: None,
            since: Some("3 days ago".into()),
            max_attempts: Some(3),
            max_age: None,
        };
        assert_eq!(
            create.command_line(&wanted),
            r"axwatch watch create prs --when 'is '\''pull request'\'' of GitHub' --run notify.log --run git/x --params '{}' --max-fires-per-second 5 --since '3 days ago' --max-attempts 3"
        );
    }

    #[test]
    fn a_handler_that_several_have_is_named_with_its_plugin() {
        let plugin = |name: &str, handlers: &[&str]| Plugin {
            name: name.into(),
            state: "ready".into(),
            since: None,
            version: None,
            pid: None,
            handlers: handlers.iter().map(ToString::to_string).collect(),
            disabled_at: None,
            error: None,
        };
        let plugins = [plugin("b", &["x", "own"]), plugin("a", &["x"])];
        assert_eq!(qualified(&plugins), ["a/x", "b/x", "own"]);
    }
}
