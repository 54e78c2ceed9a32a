//! How plugins are shown to people: in a line of a list, in a sentence, and whole.

use anyhow::Result;

use crate::output::{Output, TablePage, counted, or_dash, plugin_style, watcher_style};
use crate::source::parse;
use crate::views::{Plugin, ShownPlugin, Watcher, when_in_words};

/// A list of plugins, one JSON object a line.
pub fn list(out: &mut Output, lines: &str) -> Result<()> {
    let mut table =
        TablePage::new(&["NAME", "STATE", "SINCE", "VERSION", "#PID", "HANDLERS", "ERROR"]);
    for line in lines.lines() {
        if out.json {
            out.line(line)?;
            continue;
        }
        let plugin: Plugin = parse(line)?;
        let style = plugin_style(&plugin.state);
        let state = state_of(&plugin).to_owned();
        let cells = vec![
            plugin.name,
            state,
            or_dash(plugin.since),
            or_dash(plugin.version),
            or_dash(plugin.pid),
            plugin.handlers.join(", "),
            plugin.error.unwrap_or_default(),
        ];
        table.row(style, cells);
    }
    out.table(&mut table)
}

/// What became of a plugin, in a sentence.
pub fn told(out: &mut Output, plugin: &Plugin) -> Result<()> {
    if out.json {
        return out.object(plugin);
    }
    let style = plugin_style(&plugin.state);
    let why = plugin.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    out.line(&format!("plugin {} is {style}{}{style:#}{why}", plugin.name, state_of(plugin)))
}

/// A plugin, whole.
pub fn show(out: &mut Output, shown: &ShownPlugin) -> Result<()> {
    if out.json {
        return out.object(shown);
    }
    let plugin = &shown.plugin;
    let style = plugin_style(&plugin.state);
    let since = plugin.since.map(|since| format!(" since {since}")).unwrap_or_default();
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    out.fields(&[
        ("plugin", plugin.name.clone()),
        ("state", format!("{style}{}{style:#}{since}", state_of(plugin))),
        ("error", optional(&plugin.error)),
        ("version", optional(&plugin.version)),
        ("description", optional(&shown.description)),
        ("author", optional(&shown.author)),
        ("licence", optional(&shown.license)),
        ("wants", optional(&shown.qntx_version)),
        ("pid", plugin.pid.map(|pid| pid.to_string()).unwrap_or_default()),
        ("process", process(shown)),
        ("health", health(shown)),
        ("jobs", jobs(shown)),
        ("doubted", doubted(shown)),
    ])?;
    section(out, "handlers", plugin.handlers.clone())?;
    watchers(out, &shown.watchers)?;
    let schedules = shown.schedules.iter().map(|schedule| {
        let every = match schedule.interval_seconds {
            0 => "never by itself".to_owned(),
            seconds => format!("every {seconds} s"),
        };
        let enabled = if schedule.enabled_by_default { "" } else { ", until somebody enables it" };
        line(&format!("{}  {every}{enabled}", schedule.handler), &schedule.description)
    });
    section(out, "schedules", schedules.collect())?;
    let routes = shown.routes.iter().map(|route| {
        line(&format!("{} /api/{}{}", route.method, plugin.name, route.path), &route.description)
    });
    section(out, "routes", routes.collect())?;
    let refused = shown.refused.iter().map(|refused| match refused.name.is_empty() {
        true => format!("{}s: {}", refused.kind.as_str(), refused.reason),
        false => format!("{} {:?}: {}", refused.kind.as_str(), refused.name, refused.reason),
    });
    section(out, "refused", refused.collect())
}

fn section(out: &mut Output, title: &str, lines: Vec<String>) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    out.heading(title)?;
    lines.iter().try_for_each(|line| out.line(line))
}

fn line(what: &str, description: &str) -> String {
    match description {
        "" => what.to_owned(),
        description => format!("{what}  {description}"),
    }
}

fn watchers(out: &mut Output, watchers: &[Watcher]) -> Result<()> {
    if watchers.is_empty() {
        return Ok(());
    }
    out.heading("watchers")?;
    let mut table =
        TablePage::new(&["ID", "STATE", "WHEN", "HANDLERS", "AT MOST", "#OPEN", "ERROR"]);
    for watcher in watchers {
        let at_most = match watcher.max_fires_per_second {
            None => "no limit".to_owned(),
            Some(0) => "never".to_owned(),
            Some(rate) => format!("{rate} a second"),
        };
        let cells = vec![
            watcher.id.clone(),
            watcher.state.to_string().replace('_', " "),
            when_in_words(&watcher.when),
            watcher.handlers.join(", "),
            at_most,
            or_dash(watcher.open_jobs),
            watcher.error.clone().unwrap_or_default(),
        ];
        table.row(watcher_style(watcher.state), cells);
    }
    out.table(&mut table)
}

fn state_of(plugin: &Plugin) -> &str {
    match (&*plugin.state, plugin.disabled_at) {
        ("stopped", Some(_)) => "disabled",
        ("backing_off", _) => "backing off",
        (state, _) => state,
    }
}

fn process(shown: &ShownPlugin) -> String {
    if shown.incarnation == 0 {
        return String::new();
    }
    let up = shown.up_at.map(|at| format!(", last ready {at}")).unwrap_or_default();
    let restarts = counted(shown.restarts, "restart");
    format!("number {} of this store, {restarts} since the server is up{up}", shown.incarnation)
}

fn health(shown: &ShownPlugin) -> String {
    let Some(health) = &shown.health else { return String::new() };
    let verdict = if health.healthy { "well" } else { "not well" };
    let message = match &*health.message {
        "" => String::new(),
        message => format!(": {message}"),
    };
    let mut lines = vec![format!("{verdict} at {}{message}", health.at)];
    lines.extend(health.details.iter().map(|(name, value)| format!("{name} = {value}")));
    lines.join("\n")
}

fn jobs(shown: &ShownPlugin) -> String {
    let jobs = &shown.jobs;
    format!(
        "{} under way ({} at most at this moment), {} waiting",
        jobs.running, jobs.slots, jobs.waiting
    )
}

fn doubted(shown: &ShownPlugin) -> String {
    let Some(doubted) = &shown.doubted else { return String::new() };
    let until = doubted.until.map(|until| format!(" until {until}")).unwrap_or_default();
    let kept = doubted.kept.iter().map(|kept| format!("{} {}", kept.kind.as_str(), kept.name));
    let mut lines = vec![format!(
        "its last announcement lacks what it had, perhaps for no good reason; kept{until}:"
    )];
    lines.extend(kept);
    lines.join("\n")
}
