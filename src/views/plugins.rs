//! A plugin as it is shown: how its process is, what it registered, and what was refused of that.

use std::collections::BTreeMap;

use axwatch_core::Registered;
use axwatch_engine::plugin::PluginView;
use axwatch_model::{Announced, PluginRow, RefusedRow, RouteRow, ScheduleRow, Seq, Timestamp};
use serde::{Deserialize, Serialize};

use super::Watcher;

/// A plugin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plugin {
    /// Its configured name.
    pub name: String,
    /// `starting`, `ready`, `degraded`, `backing_off`, `failed` or `stopped`.
    pub state: String,
    /// Since when; null without a server.
    pub since: Option<Timestamp>,
    /// What its Metadata said.
    pub version: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// What it answers for.
    pub handlers: Vec<String>,
    /// Since when somebody wants it not to run.
    pub disabled_at: Option<Timestamp>,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// The plugins, as programs for plugins of other hosts expect them: one object.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plugins {
    /// All of them, by name.
    pub plugins: Vec<Plugin>,
}

/// The routes of all plugins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PluginRoutes {
    /// By plugin, method and path.
    pub routes: Vec<PluginRoute>,
}

/// A path under which a plugin answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PluginRoute {
    /// Whose.
    pub plugin: String,
    /// The method.
    pub method: String,
    /// The path below `/api/{plugin}`.
    pub path: String,
    /// What it answers.
    pub description: String,
}

/// A plugin, whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShownPlugin {
    /// The plugin.
    #[serde(flatten)]
    pub plugin: Plugin,
    /// What it is, in its own words.
    pub description: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// Under which licence.
    pub license: Option<String>,
    /// Which versions of the protocol it wants.
    pub qntx_version: Option<String>,
    /// Which of its processes this is, over the whole life of the store.
    pub incarnation: u64,
    /// Processes that were started since the server is up, after the first.
    pub restarts: u64,
    /// When a process of it was last ready.
    pub up_at: Option<Timestamp>,
    /// What its last answer to Health was.
    pub health: Option<Health>,
    /// Its jobs.
    pub jobs: PluginJobs,
    /// Its watchers; refused ones are among them.
    pub watchers: Vec<Watcher>,
    /// Its schedules.
    pub schedules: Vec<Schedule>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// What of its last announcement was not taken.
    pub refused: Vec<Refused>,
    /// What its last announcement lacks, while that is not believed.
    pub doubted: Option<Doubted>,
}

/// An answer to Health.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Health {
    /// When.
    pub at: Timestamp,
    /// It says that it is well.
    pub healthy: bool,
    /// What it says besides, or why there was no answer.
    pub message: String,
    /// More of it, by name.
    pub details: BTreeMap<String, String>,
}

/// The jobs of a plugin.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct PluginJobs {
    /// Attempts under way.
    pub running: u64,
    /// Attempts that may be under way at this moment.
    pub slots: u64,
    /// Jobs that wait for it.
    pub waiting: u64,
}

/// A schedule of a plugin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Schedule {
    /// The handler that it runs.
    pub handler: String,
    /// From one run to the next; 0 is never.
    pub interval_seconds: u32,
    /// It runs without somebody having to enable it.
    pub enabled_by_default: bool,
    /// What it is for.
    pub description: String,
    /// What the plugin says that it stands for in AX.
    pub ats_code: String,
    /// When it was declared.
    pub declared_at: Timestamp,
}

/// A path under which a plugin answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Route {
    /// The method.
    pub method: String,
    /// The path below `/api/{plugin}`.
    pub path: String,
    /// What it answers.
    pub description: String,
}

/// A part of an announcement that was not taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refused {
    /// `handler`, `watcher`, `schedule` or `route`.
    pub kind: Announced,
    /// Its name.
    pub name: String,
    /// Why, and what would be right.
    pub reason: String,
}

/// What an announcement lacks that is not believed yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Doubted {
    /// It is believed then.
    pub until: Option<Timestamp>,
    /// What is kept until then.
    pub kept: Vec<Kept>,
}

/// Something that a plugin had and did not announce again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// `handler`, `watcher`, `schedule` or `route`.
    pub kind: Announced,
    /// Its name.
    pub name: String,
}

impl Plugin {
    /// The view of a plugin whose host is ours; `row` is what the store has of it.
    pub fn of(plugin: PluginView, row: Option<&PluginRow>) -> Plugin {
        let disabled_at = row.and_then(|row| row.disabled_at);
        let name = plugin.name.to_string();
        let disabled = disabled_at.map(|_| disabled(&name));
        Plugin {
            state: plugin.state.as_str().to_owned(),
            since: Some(plugin.since),
            version: said(&plugin.version).or_else(|| said(&row?.version)),
            pid: plugin.pid,
            // What its last process announced is retired then.
            handlers: if disabled_at.is_some() { Vec::new() } else { plugin.handlers },
            disabled_at,
            error: plugin.error.or(disabled),
            name,
        }
    }

    /// The view of a plugin that no server runs.
    pub fn offline(row: &PluginRow, handlers: Vec<String>) -> Plugin {
        let name = row.name.to_string();
        Plugin {
            state: "stopped".to_owned(),
            since: None,
            version: said(&row.version),
            pid: None,
            handlers,
            disabled_at: row.disabled_at,
            error: row.disabled_at.map(|_| disabled(&name)),
            name,
        }
    }
}

impl ShownPlugin {
    /// The view of a plugin, where this is the last claim of the log.
    pub fn of(view: PluginView, registered: Registered, head: Seq) -> ShownPlugin {
        let row = registered.row.as_ref();
        let doubted = (!registered.doubted.is_empty()).then(|| Doubted {
            until: row.and_then(|row| row.doubted_until),
            kept: (registered.doubted.iter())
                .map(|(kind, name)| Kept { kind: *kind, name: name.clone() })
                .collect(),
        });
        let health = view.health.clone().map(|health| Health {
            at: health.at,
            healthy: health.healthy,
            message: health.message,
            details: health.details,
        });
        ShownPlugin {
            description: said(&view.about.description),
            author: said(&view.about.author),
            license: said(&view.about.license),
            qntx_version: said(&view.about.qntx_version),
            incarnation: view.incarnation,
            restarts: view.restarts,
            up_at: row.and_then(|row| row.up_at),
            health,
            jobs: PluginJobs {
                running: registered.running,
                slots: registered.slots,
                waiting: registered.waiting,
            },
            watchers: (registered.watchers.iter())
                .map(|watcher| Watcher::of(watcher, head))
                .collect(),
            schedules: registered.schedules.iter().map(Schedule::of).collect(),
            routes: registered.routes.iter().map(Route::of).collect(),
            refused: registered.refused.iter().map(Refused::of).collect(),
            doubted,
            // Those too that its last announcement lacks, while that is not believed.
            plugin: Plugin {
                handlers: registered.handlers.iter().map(ToString::to_string).collect(),
                ..Plugin::of(view, row)
            },
        }
    }
}

impl Schedule {
    fn of(row: &ScheduleRow) -> Schedule {
        Schedule {
            handler: row.bare_handler().to_owned(),
            interval_seconds: row.grid.secs().unwrap_or(0),
            enabled_by_default: row.enabled_by_default,
            description: row.description.clone(),
            ats_code: row.ats_code.clone(),
            declared_at: row.declared_at,
        }
    }
}

impl Route {
    fn of(row: &RouteRow) -> Route {
        let RouteRow { method, path, description } = row.clone();
        Route { method, path, description }
    }
}

impl Refused {
    fn of(row: &RefusedRow) -> Refused {
        let RefusedRow { kind, name, reason } = row.clone();
        Refused { kind, name, reason }
    }
}

fn said(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

fn disabled(plugin: &str) -> String {
    format!("it is disabled; `axwatch plugin enable {plugin}` lets it run again")
}
