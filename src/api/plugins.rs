//! Plugins: how they are, and starting one anew.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use axwatch_engine::plugin::PluginView;

use super::error::ApiError;
use super::{Shared, ndjson};
use crate::answers::json_line;
use crate::views;

/// `GET /plugins`.
pub async fn list(State(api): Shared) -> Response {
    let lines: Vec<_> =
        api.plugins.list().into_iter().map(|plugin| json_line(&view(plugin))).collect();
    ndjson::answer(|sink| async move { sink.lines(&lines).await })
}

/// `GET /plugins/{name}`.
pub async fn one(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<views::Plugin>, ApiError> {
    Ok(Json(view(api.plugins.show(&name)?)))
}

/// `POST /plugins/{name}/restart`.
pub async fn restart(
    State(api): Shared,
    Path(name): Path<String>,
) -> Result<Json<views::Plugin>, ApiError> {
    api.plugins.restart(&name).await?;
    Ok(Json(view(api.plugins.show(&name)?)))
}

/// The view of a plugin.
pub fn view(plugin: PluginView) -> views::Plugin {
    views::Plugin {
        name: plugin.name.to_string(),
        state: plugin.state.as_str().to_owned(),
        version: (!plugin.version.is_empty()).then_some(plugin.version),
        pid: plugin.pid,
        handlers: plugin.handlers,
        error: plugin.error,
    }
}
