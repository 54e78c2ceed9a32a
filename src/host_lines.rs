//! What the host says about a plugin, beside what the plugin says: a part of its log.
//!
//! In: the lines of our own log that name a plugin. Out: the same, in the log of that plugin, so that
//! `axwatch plugin logs` tells why a job of it failed, and not only what it said meanwhile. Nothing is kept
//! here.
//!
//! Not here: the plugin's own lines and its changes of state, which have been put there when they come by
//! (target `axwatch::plugin`).

use std::fmt::{self, Write as _};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use axwatch_engine::plugin::PluginHost;
use axwatch_model::JobId;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// The host of this process, once there is one.
static HOST: RwLock<Weak<PluginHost>> = RwLock::new(Weak::new());

/// From now on lines about plugins go to this host's logs.
pub fn go_to(host: &Arc<PluginHost>) {
    *HOST.write().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(host);
}

/// Passes lines on.
pub struct HostLines;

impl<S: Subscriber> Layer<S> for HostLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("axwatch::plugin") {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let Some(plugin) = &line.plugin else { return };
        // Not held while the line is put there.
        let host = HOST.read().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(host) = host {
            let words = line.message + &line.fields;
            host.note(plugin, level_word(*event.metadata().level()), &words, line.job);
        }
    }
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

/// The parts of a line.
#[derive(Default)]
struct Line {
    plugin: Option<String>,
    job: Option<JobId>,
    message: String,
    /// The other fields, as the log shows them.
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "plugin" => self.plugin = Some(value.to_owned()),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "plugin" => self.plugin = Some(format!("{value:?}")),
            "job" => self.job = format!("{value:?}").parse().ok(),
            // A text takes whatever is written to it.
            name => drop(write!(self.fields, " {name}={value:?}")),
        }
    }
}
