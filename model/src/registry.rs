//! What the store keeps of plugins and of what they announced, so that a restart knows it before they
//! are up again.

use serde::{Deserialize, Serialize};

use crate::{HandlerName, PluginName, Timestamp};

/// A handler that a plugin announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerRow {
    /// Who answers for it.
    pub plugin: PluginName,
    /// Its bare name.
    pub name: HandlerName,
}

/// A plugin that was up at least once, or that somebody disabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRow {
    /// Its configured name.
    pub name: PluginName,
    /// The version that its Metadata said last.
    pub version: String,
    /// Its latest process that was up: 1 for the first, one more for each start, over the whole life of
    /// the store; 0 when none ever was.
    pub incarnation: u64,
    /// When it last came up.
    pub up_at: Option<Timestamp>,
    /// Since when somebody wants it not to run.
    pub disabled_at: Option<Timestamp>,
    /// That process called us before it answered Initialize. One that does not, after one that did, may
    /// announce too little.
    pub called_back: bool,
    /// Until when its last announcement is not believed, because it may lack something for no good reason.
    pub doubted_until: Option<Timestamp>,
    /// It runs the handlers that are stored with its name as context, as it announced last.
    pub stored_handlers: bool,
}

/// A path under which a plugin answers HTTP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteRow {
    /// The method, in capitals.
    pub method: String,
    /// The path below the plugin's own, with its slash.
    pub path: String,
    /// What it answers.
    pub description: String,
}

/// A part of what a plugin announced that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// What it is.
    pub kind: Announced,
    /// Its name, as far as it has one: of text from outside, what fits a line.
    pub name: String,
    /// Why, and what would be right.
    pub reason: String,
}

/// The kinds of what a plugin announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Announced {
    /// A handler that it answers for.
    Handler,
    /// A watcher.
    Watcher,
    /// A schedule.
    Schedule,
    /// A path under which it answers HTTP.
    Route,
}

impl Announced {
    /// Its name in rows and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Announced::Handler => "handler",
            Announced::Watcher => "watcher",
            Announced::Schedule => "schedule",
            Announced::Route => "route",
        }
    }
}
