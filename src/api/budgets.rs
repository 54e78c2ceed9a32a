//! Budgets: what there are, what has been used of them, and setting one.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::HeaderMap;
use axum::response::Response;
use axwatch_core::{BudgetChange, BudgetView, Used};
use axwatch_model::{BudgetScope, Owner};
use serde::{Deserialize, Deserializer};

use super::error::ApiError;
use super::request::json;
use super::{Api, Shared, ndjson};
use crate::answers::json_line;
use crate::config::nearest;
use crate::views;

/// `GET /budgets`.
pub async fn list(State(api): Shared) -> Result<Response, ApiError> {
    let mut budgets = api.engine.budgets().await?;
    budgets.retain(|view| views::has_limit(&view.used));
    Ok(ndjson::answer(move |sink| async move {
        let lines = budgets.iter().map(|view| json_line(&views::Budget::of(view)));
        sink.lines(&lines.collect::<Vec<_>>()).await
    }))
}

/// `GET /budgets/{scope}`: also of one that has no budget.
pub async fn one(
    State(api): Shared,
    Path(scope): Path<String>,
) -> Result<Json<views::Budget>, ApiError> {
    let scope = scope_of(&scope)?;
    api.check_known(&scope).await?;
    Ok(Json(api.budget(scope).await?))
}

/// What is to be set: a number, or null for what the configuration says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    scope: String,
    #[serde(default, deserialize_with = "said")]
    calls_per_minute: Option<Option<u32>>,
    #[serde(default, deserialize_with = "said")]
    per_day: Option<Option<f64>>,
    #[serde(default, deserialize_with = "said")]
    per_week: Option<Option<f64>>,
    #[serde(default, deserialize_with = "said")]
    per_month: Option<Option<f64>>,
}

/// A key that is there, if only with null.
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// `POST /budgets`.
pub async fn set(
    State(api): Shared,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<views::Budget>, ApiError> {
    let (setting, _room): (Setting, _) = json(&api.bodies, &headers, body).await?;
    let scope = scope_of(&setting.scope)?;
    let Setting { calls_per_minute, per_day, per_week, per_month, .. } = setting;
    for (key, amount) in [("per_day", per_day), ("per_week", per_week), ("per_month", per_month)] {
        if amount.flatten().is_some_and(|amount| !views::is_limit(amount)) {
            let told = format!("{key}: it must be an amount of 0 to {}", views::LIMIT_MAX);
            return Err(ApiError::invalid(told));
        }
    }
    let change = BudgetChange { calls_per_minute, per_day, per_week, per_month };
    if change == BudgetChange::default() {
        return Err(ApiError::invalid(
            "nothing is set; say calls_per_minute, per_day, per_week or per_month",
        ));
    }
    api.check_known(&scope).await?;
    let by = Owner::User.as_str().to_owned();
    api.engine.set_budget(scope.clone(), change, by).await?;
    Ok(Json(api.budget(scope).await?))
}

fn scope_of(text: &str) -> Result<BudgetScope, ApiError> {
    // What the command calls it, because a shell makes the names of files of a star.
    let text = if text == "all" { "*" } else { text };
    text.parse().map_err(|error| {
        ApiError::invalid(format!("scope: {error}; say *, a plugin, or plugin/handler"))
    })
}

impl Api {
    async fn budget(&self, scope: BudgetScope) -> Result<views::Budget, ApiError> {
        let found = self.engine.budget(scope.clone()).await?;
        // Nothing of it has ever run.
        let view = found.unwrap_or_else(|| BudgetView {
            scope,
            used: Used::default(),
            row: None,
            held_lanes: 0,
            held_by: None,
        });
        Ok(views::Budget::of(&view))
    }

    /// Refuses a scope that nobody can have meant, because it holds no job: a slip of the pen would be
    /// a budget that never holds anything. One that has a budget is known.
    async fn check_known(&self, scope: &BudgetScope) -> Result<(), ApiError> {
        let (plugin, handler) = match scope {
            BudgetScope::All => return Ok(()),
            BudgetScope::Plugin(plugin) => (plugin, None),
            BudgetScope::Handler(plugin, handler) => (plugin, Some(handler)),
        };
        if self.engine.budgets().await?.iter().any(|budget| budget.scope == *scope) {
            return Ok(());
        }
        let configured = self.plugins.list().into_iter().map(|plugin| plugin.name.to_string());
        let registered = self.engine.plugin(plugin.clone()).await?;
        let names: Vec<String> = configured.collect();
        if registered.is_none() && !names.iter().any(|name| name == plugin.as_str()) {
            return Err(unknown("plugin", plugin.as_str(), &names, "axwatch plugin list"));
        }
        let Some(handler) = handler else { return Ok(()) };
        let handlers = registered.map(|registered| registered.handlers).unwrap_or_default();
        if handlers.iter().any(|known| known == handler) {
            return Ok(());
        }
        let names: Vec<String> = handlers.iter().map(|name| format!("{plugin}/{name}")).collect();
        let show = format!("axwatch plugin show {plugin}");
        Err(unknown("handler", &format!("{plugin}/{handler}"), &names, &show))
    }
}

fn unknown(what: &str, text: &str, known: &[String], show: &str) -> ApiError {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let near = nearest(text, &known);
    let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    ApiError::not_found(format!(
        "there is no {what} {text}{hint}; `{show}` shows those that there are"
    ))
}
