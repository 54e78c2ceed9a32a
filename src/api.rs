//! The HTTP API under `/api/v1`: what commands and other programs say to a running server.
//!
//! In: requests from loopback with the token of the store's token file. Out: JSON, or one JSON object
//! a line for lists and streams. A handler checks and translates; what is answered comes from
//! `crate::answers` and the engine. What lies under `/api/{plugin}` and `/ws/{plugin}` is the plugin's
//! to answer (`proxy`, `socket`). `docs/http.md` documents every route.
//!
//! Not here: sockets and connections (`listen`), who may ask (`guard`), starting and stopping
//! (`crate::serve`).

mod aliases;
mod attestations;
mod audit;
mod ax;
mod backup;
mod bodies;
mod budgets;
mod error;
mod events;
mod guard;
mod handlers;
mod job_events;
mod jobs;
mod listen;
mod ndjson;
mod plugins;
mod proxy;
mod request;
mod retain;
mod schedules;
mod socket;
mod trace;
mod watchers;
mod why_not;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{any, delete, get, post};
use axum::{Json, Router};
use axwatch_engine::plugin::{PluginHost, Status as PluginStatus};
use axwatch_engine::{Engine, EngineGone};
use axwatch_model::{PluginName, Timestamp};
use tokio::sync::{Semaphore, watch};

pub use guard::Guard;
pub use listen::Listener;

use crate::answers::{Answers, Held, Live};
use crate::views;
use bodies::Bodies;
use error::ApiError;

/// Bytes of a body that is read as a whole: the payload of a job.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Claims that are being appended, in KiB, over all requests.
const INTAKE_KIB_MAX: usize = 32 * 1024;

/// What every handler has.
pub struct Api {
    engine: Engine,
    plugins: Arc<PluginHost>,
    answers: Arc<Answers>,
    guard: guard::Guard,
    intake: Semaphore,
    bodies: Bodies,
    stopping: watch::Receiver<bool>,
    http: String,
    store: PathBuf,
    started_at: Timestamp,
}

/// What an API is made of.
pub struct Parts {
    /// The engine.
    pub engine: Engine,
    /// The plugins.
    pub plugins: Arc<PluginHost>,
    /// Who may ask.
    pub guard: Guard,
    /// Becomes true when streams have to end.
    pub stopping: watch::Receiver<bool>,
    /// Where it listens: `http://HOST:PORT`.
    pub http: String,
    /// The store's file.
    pub store: PathBuf,
}

type Shared = State<Arc<Api>>;

/// The routes.
pub fn router(parts: Parts) -> Router {
    let api = Arc::new(Api {
        answers: Answers::new(Arc::clone(parts.engine.store())),
        started_at: parts.engine.clock().now().wall,
        engine: parts.engine,
        plugins: parts.plugins,
        guard: parts.guard,
        intake: Semaphore::new(INTAKE_KIB_MAX),
        bodies: Bodies::new(),
        stopping: parts.stopping,
        http: parts.http,
        store: parts.store,
    });
    let v1 = Router::new()
        .route("/server", get(server))
        .route("/session", get(guard::session))
        .route("/status", get(status))
        .route("/attestations", post(attestations::append))
        .route("/attestations/{id}", get(attestations::one))
        .route("/ax", get(ax::get).post(ax::post))
        .route("/matching", get(watchers::matching))
        .route("/watchers", get(watchers::list).post(watchers::declare))
        .route(
            "/watchers/{id}",
            get(watchers::one).merge(delete(watchers::remove)).merge(post(watchers::test)),
        )
        .route("/watchers/{id}/pause", post(watchers::pause))
        .route("/watchers/{id}/resume", post(watchers::resume))
        .route("/watchers/{id}/mute", post(watchers::mute))
        .route("/watchers/{id}/unmute", post(watchers::unmute))
        .route("/watchers/{id}/replay", post(watchers::replay))
        .route("/fires", get(jobs::fires))
        .route("/jobs", get(jobs::list).post(jobs::run))
        .route("/jobs/dead", get(jobs::dead))
        .route("/jobs/retry", post(jobs::retry_many))
        .route("/jobs/discard", post(jobs::discard_many))
        .route("/jobs/{id}", get(jobs::one))
        .route("/jobs/{id}/retry", post(jobs::retry))
        .route("/jobs/{id}/discard", post(jobs::discard))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/pause", post(jobs::pause))
        .route("/jobs/{id}/resume", post(jobs::resume))
        .route("/jobs/{id}/events", get(jobs::events))
        .route("/schedules", get(schedules::list).post(schedules::create))
        .route("/schedules/{id}", get(schedules::one).merge(delete(schedules::remove)))
        .route("/schedules/{id}/pause", post(schedules::pause))
        .route("/schedules/{id}/resume", post(schedules::resume))
        .route("/schedules/{id}/run", post(schedules::run))
        .route("/schedules/{id}/history", get(schedules::history))
        .route("/schedules/{id}/next", get(schedules::next))
        .route("/handlers", get(handlers::list).post(handlers::create))
        .route("/handlers/{name}", get(handlers::one).merge(delete(handlers::remove)))
        .route("/handlers/{name}/versions", get(handlers::versions))
        .route("/handlers/{name}/rollback", post(handlers::roll_back))
        .route("/handlers/{name}/test", post(handlers::test))
        .route("/budgets", get(budgets::list).post(budgets::set))
        .route("/budgets/{scope}", get(budgets::one))
        .route("/trace/{id}", get(trace::trace))
        .route("/why/{id}", get(jobs::why))
        .route("/why-not/{attestation}", get(why_not::why_not))
        .route("/aliases", get(aliases::list))
        .route("/plugins", get(plugins::list))
        .route("/plugins/{name}", get(plugins::one))
        .route("/plugins/{name}/config", get(plugins::config))
        .route("/plugins/{name}/restart", post(plugins::restart))
        .route("/plugins/{name}/logs", get(events::logs))
        .route("/plugins/{name}/enable", post(plugins::enable))
        .route("/plugins/{name}/disable", post(plugins::disable))
        .route("/plugins/{name}/reconfigure", post(plugins::reconfigure))
        .route("/plugins/{name}/reset", post(plugins::reset))
        .route("/backup", post(backup::make))
        .route("/retain", post(retain::retain))
        .route("/audit", get(audit::records))
        .route("/audit/head", get(audit::head))
        .route("/audit/rows", get(audit::rows))
        .route("/audit/proof/{id}", get(audit::proof));
    Router::new()
        .nest("/api/v1", v1)
        .route("/api/plugins", get(plugins::all))
        .route("/api/plugins/routes", get(plugins::routes))
        .route("/api/plugins/{name}", get(plugins::one))
        .route("/api/plugins/{name}/config", get(plugins::config))
        .route("/api/plugins/{name}/restart", post(plugins::restart))
        .route("/api/plugins/{name}/enable", post(plugins::enable))
        .route("/api/plugins/{name}/disable", post(plugins::disable))
        .route("/api/plugins/{name}/reconfigure", post(plugins::reconfigure))
        .route("/api/plugins/{name}/reset", post(plugins::reset))
        .route("/api/plugins/{name}/logs", get(events::logs))
        .route("/api/{plugin}", any(proxy::http))
        .route("/api/{plugin}/", any(proxy::http))
        .route("/api/{plugin}/{*path}", any(proxy::http))
        .route("/ws/{plugin}", any(socket::open))
        .route("/ws/{plugin}/", any(socket::open))
        .route("/ws/{plugin}/{*path}", any(socket::open))
        .fallback(no_route)
        .layer(axum::middleware::from_fn(error::as_json))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&api), guard::check))
        .layer(DefaultBodyLimit::disable())
        .with_state(api)
}

impl Api {
    /// What holds jobs back at this moment.
    async fn held(&self) -> Result<Held, EngineGone> {
        let paused = self.engine.paused().await?.into_iter().collect();
        let by_budgets = self.engine.held_by_budgets().await?.into_iter().collect();
        let reading = self.engine.reading().await?;
        Ok(Held { ready: Some(self.ready()), paused, by_budgets, reading })
    }

    /// The plugins that take jobs.
    fn ready(&self) -> HashSet<PluginName> {
        let takes_jobs =
            |state: PluginStatus| matches!(state, PluginStatus::Ready | PluginStatus::Degraded);
        let plugins = self.plugins.list().into_iter();
        plugins.filter(|plugin| takes_jobs(plugin.state)).map(|plugin| plugin.name).collect()
    }
}

async fn no_route() -> ApiError {
    ApiError::not_found("there is no such route; docs/http.md lists them")
}

/// Waits until the server stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // Whoever would say so being gone means the same.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

async fn server(State(api): Shared) -> Json<views::Server> {
    Json(views::Server {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        http: api.http.clone(),
        store: api.store.display().to_string(),
        store_id: api.engine.store().opened().store_id.to_string(),
        started_at: api.started_at,
    })
}

async fn status(State(api): Shared) -> Result<Json<views::Status>, ApiError> {
    let heads = *api.engine.heads().borrow();
    let now = api.engine.clock().now().wall;
    let server = views::ServerStatus {
        http: api.http.clone(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: api.started_at,
        uptime_seconds: now.since(api.started_at).as_secs(),
        epoch: api.engine.store().opened().epoch,
        commits: heads.commits,
        durability: "power".to_owned(),
    };
    let plugins = api.plugin_views();
    let live = Live {
        server,
        plugins,
        overview: api.engine.overview().await?,
        heads,
        schedules: api.engine.schedules().await?,
        budgets: api.engine.budgets().await?,
        handlers: api.engine.stored_handlers().await?,
    };
    Ok(Json(api.answers.status(&api.store, now, Some(live)).await?))
}
