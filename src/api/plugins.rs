//! Plugins: how they are, what they have, and what people want of them.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use axwatch_engine::plugin::PluginView;

use super::error::ApiError;
use super::{Api, Shared, ndjson};
use crate::answers::json_line;
use crate::views;

/// `GET /plugins`.
pub async fn list(State(api): Shared) -> Response {
    let lines: Vec<_> = api.plugin_views().iter().map(json_line).collect();
    ndjson::answer(|sink| async move { sink.lines(&lines).await })
}

/// `GET /api/plugins`.
pub async fn all(State(api): Shared) -> Json<views::Plugins> {
    Json(views::Plugins { plugins: api.plugin_views() })
}

/// `GET /plugins/{name}`.
pub async fn one(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<views::ShownPlugin>, ApiError> {
    let plugin = api.plugins.show(&name)?;
    let registered = api.engine.plugin(plugin.name.clone()).await?;
    let registered = registered.map(|registered| *registered).unwrap_or_default();
    Ok(Json(views::ShownPlugin::of(plugin, registered, api.head())))
}

/// `GET /api/plugins/routes`.
pub async fn routes(State(api): Shared) -> Result<Json<views::PluginRoutes>, ApiError> {
    let routes = api.engine.routes().await?.into_iter().map(|(plugin, route)| views::PluginRoute {
        plugin: plugin.to_string(),
        method: route.method,
        path: route.path,
        description: route.description,
    });
    Ok(Json(views::PluginRoutes { routes: routes.collect() }))
}

/// `GET /plugins/{name}/config`.
pub async fn config(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<axwatch_engine::plugin::ConfigView>, ApiError> {
    Ok(Json(api.plugins.config(&name)?))
}

/// `POST /plugins/{name}/restart`.
pub async fn restart(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<views::Plugin>, ApiError> {
    api.plugins.restart(&name).await?;
    api.shown_plugin(&name)
}

/// `POST /plugins/{name}/enable`.
pub async fn enable(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<views::Plugin>, ApiError> {
    api.plugins.enable(&name).await?;
    api.shown_plugin(&name)
}

/// `POST /plugins/{name}/disable`.
pub async fn disable(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<views::Plugin>, ApiError> {
    api.plugins.disable(&name).await?;
    api.shown_plugin(&name)
}

/// `POST /plugins/{name}/reconfigure`.
pub async fn reconfigure(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<views::Plugin>, ApiError> {
    api.plugins.reconfigure(&name).await?;
    api.shown_plugin(&name)
}

/// `POST /plugins/{name}/reset`.
pub async fn reset(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<views::Plugin>, ApiError> {
    api.plugins.reset(&name).await?;
    api.shown_plugin(&name)
}

impl Api {
    /// All plugins, by name.
    pub(super) fn plugin_views(&self) -> Vec<views::Plugin> {
        self.plugins.list().into_iter().map(|plugin| self.plugin_view(plugin)).collect()
    }

    fn plugin_view(&self, plugin: PluginView) -> views::Plugin {
        let row = self.engine.plugin_row(&plugin.name);
        views::Plugin::of(plugin, row.as_ref())
    }

    fn shown_plugin(&self, name: &str) -> Result<Json<views::Plugin>, ApiError> {
        Ok(Json(self.plugin_view(self.plugins.show(name)?)))
    }
}
