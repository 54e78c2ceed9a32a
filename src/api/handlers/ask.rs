//! Asking a plugin something of its own, as JSON over its HandleHTTP: what a person would ask at
//! `/api/{plugin}`.

use std::time::Duration;

use axum::http::StatusCode;
use axwatch_engine::plugin::{CallError, HttpCall};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::Api;
use crate::api::error::ApiError;

/// How long is waited for a plugin that is coming up: who has just started the server does not want to
/// say it twice.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// How a plugin that runs stored handlers says no.
#[derive(Deserialize)]
struct No {
    error: String,
}

impl Api {
    /// Posts JSON to a path of a plugin, and reads the JSON that it answers.
    ///
    /// # Errors
    /// That there is no such plugin, it does not run, it does not answer this, or it said no.
    pub(super) async fn ask_plugin<T: DeserializeOwned>(
        &self,
        plugin: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let callable = self.plugins.callable_soon(plugin, STARTS_WITHIN).await?;
        let body =
            serde_json::to_vec(body).expect("what we ask for holds nothing that JSON cannot");
        let load = callable.load();
        if !load.take(body.len()) {
            return Err(CallError::NoRoom.into());
        }
        let header = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
        let call = HttpCall {
            method: "POST".to_owned(),
            path: path.to_owned(),
            full_path: format!("/api/{plugin}{path}"),
            headers: vec![
                header("content-type", "application/json"),
                header("content-length", &body.len().to_string()),
            ],
            body: body.into(),
        };
        let reply = match callable.http(call, load).await {
            Err(CallError::NotServed { .. }) => return Err(refused(plugin, path, 404, b"")),
            reply => reply?,
        };
        if reply.status == 200 {
            return serde_json::from_slice(&reply.body).map_err(|error| {
                let told =
                    format!("plugin {plugin}: its answer to {path} is not understood: {error}");
                ApiError::new(StatusCode::BAD_GATEWAY, "plugin", told)
            });
        }
        Err(refused(plugin, path, reply.status, &reply.body))
    }
}

/// What an answer means that is not what was asked for.
fn refused(plugin: &str, path: &str, status: i32, body: &[u8]) -> ApiError {
    let said = serde_json::from_slice(body).map(|No { error }| error).ok();
    let told = |said: &str| format!("plugin {plugin}: {said}");
    match (status, said) {
        (404 | 405, _) => ApiError::not_found(format!(
            "plugin {plugin} answers no POST {path}, so it runs no stored handlers"
        )),
        (400, Some(said)) => ApiError::invalid(told(&said)),
        (413, Some(said)) => ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", told(&said)),
        (503, Some(said)) => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "plugin_away", told(&said))
        }
        (status, said) => {
            let said =
                said.unwrap_or_else(|| format!("it answered {path} with the status {status}"));
            ApiError::new(StatusCode::BAD_GATEWAY, "plugin", told(&said))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse as _;

    #[test]
    fn what_a_plugin_refuses_is_told_with_its_words() {
        // (its status, its body, our status, what is said)
        let cases: [(i32, &[u8], u16, &str); 6] = [
            (404, b"", 404, "it runs no stored handlers"),
            (400, br#"{"error":"no name"}"#, 400, "plugin py: no name"),
            (413, br#"{"error":"too much"}"#, 413, "plugin py: too much"),
            (503, br#"{"error":"python3 is missing"}"#, 503, "python3 is missing"),
            (500, br#"{"error":"it broke"}"#, 502, "it broke"),
            (400, b"<html>", 502, "with the status 400"),
        ];
        for (status, body, ours, says) in cases {
            let refused = refused("py", "/check", status, body);
            assert!(refused.last_line().contains(says), "{status}: {}", refused.last_line());
            assert_eq!(refused.into_response().status(), ours, "{status}");
        }
    }
}
