//! Refusals as HTTP says them: a status, and `{"error": {kind, message, …}}`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axwatch_core::{Refusal as CoreRefusal, RefusalKind};
use axwatch_engine::plugin::{CallError, HostRefusal, UnknownPlugin};
use axwatch_engine::{AppendRefusal, EngineGone, RequestError};
use axwatch_model::{InvalidDraft, InvalidId};

use crate::answers::AnswerError;
use crate::client::{Refusal, RefusalJson};

/// Why a request was not done.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    refusal: Box<Refusal>,
    /// When to come again, if that is worth while and not as usual.
    retry_after: Option<Duration>,
}

/// On a response: what it says is not ours, and stays as it is.
#[derive(Clone, Copy)]
pub struct AsItIs;

impl ApiError {
    pub fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> ApiError {
        let refusal = Refusal { kind: kind.to_owned(), message: message.into(), mistakes: None };
        ApiError { status, refusal: Box::new(refusal), retry_after: None }
    }

    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub fn not_found(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub fn busy() -> ApiError {
        let message = "more is being sent than there is room for; try again in a second";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
    }

    /// What is said.
    pub fn message(&self) -> &str {
        &self.refusal.message
    }

    /// Whether what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// The same, with more to say.
    pub fn and(mut self, more: &str) -> ApiError {
        self.refusal.message.push_str(more);
        self
    }

    /// The same, with the places that are wrong.
    pub fn with_mistakes(mut self, mistakes: &impl serde::Serialize) -> ApiError {
        self.refusal.mistakes = serde_json::to_value(mistakes).ok();
        self
    }

    /// The error as the last line of a stream that had begun well.
    pub fn last_line(&self) -> String {
        crate::answers::json_line(&RefusalJson { error: (*self.refusal).clone() })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response =
            (status, axum::Json(RefusalJson { error: *self.refusal })).into_response();
        let header = match status {
            StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, "Bearer")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Some((RETRY_AFTER, "1"))
            }
            StatusCode::INSUFFICIENT_STORAGE => Some((RETRY_AFTER, "30")),
            _ => None,
        };
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        if let Some(after) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
        }
        response
    }
}

impl From<AnswerError> for ApiError {
    fn from(error: AnswerError) -> ApiError {
        match error {
            AnswerError::NotFound(message) => ApiError::not_found(message),
            AnswerError::Conflict(message) => {
                ApiError::new(StatusCode::CONFLICT, "conflict", message)
            }
            AnswerError::Invalid(message) => ApiError::invalid(message),
            AnswerError::Query(mistakes) => {
                let mut error = ApiError::new(StatusCode::BAD_REQUEST, "ax", mistakes.to_string());
                error.refusal.mistakes = serde_json::to_value(&mistakes).ok();
                error
            }
            AnswerError::Store(error) => store_error(&error),
        }
    }
}

fn store_error(error: &axwatch_ats::StoreError) -> ApiError {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    tracing::error!(error = %message, "the store did not answer a request");
    let is_row = matches!(error, axwatch_ats::StoreError::Row { .. });
    let kind = if is_row { "damaged" } else { "store" };
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, kind, message)
}

impl From<CoreRefusal> for ApiError {
    fn from(refusal: CoreRefusal) -> ApiError {
        let (status, kind) = match (refusal.kind, &refusal.mistakes) {
            (_, Some(_)) => (StatusCode::BAD_REQUEST, "ax"),
            (RefusalKind::Invalid, None) => (StatusCode::BAD_REQUEST, "invalid"),
            (RefusalKind::NotFound, None) => (StatusCode::NOT_FOUND, "not_found"),
            (RefusalKind::Conflict, None) => (StatusCode::CONFLICT, "conflict"),
            (RefusalKind::Exhausted, None) => (StatusCode::TOO_MANY_REQUESTS, "resource_exhausted"),
        };
        let mut error = ApiError::new(status, kind, refusal.reason);
        error.refusal.mistakes = refusal.mistakes.and_then(|m| serde_json::to_value(m).ok());
        error
    }
}

impl From<AppendRefusal> for ApiError {
    fn from(refusal: AppendRefusal) -> ApiError {
        let (status, kind) = match &refusal {
            AppendRefusal::Conflict(_) | AppendRefusal::Together { .. } => {
                (StatusCode::CONFLICT, "conflict")
            }
            AppendRefusal::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "resource_exhausted"),
            AppendRefusal::DiskLow { .. } => {
                (StatusCode::INSUFFICIENT_STORAGE, "resource_exhausted")
            }
        };
        ApiError::new(status, kind, refusal.to_string())
    }
}

impl From<EngineGone> for ApiError {
    fn from(gone: EngineGone) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", gone.to_string())
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> ApiError {
        match error {
            RequestError::Refused(refusal) => refusal.into(),
            RequestError::Exhausted(refusal) => refusal.into(),
            RequestError::Gone(gone) => gone.into(),
            RequestError::Store(error) => store_error(&error),
        }
    }
}

impl From<InvalidDraft> for ApiError {
    fn from(error: InvalidDraft) -> ApiError {
        ApiError::invalid(error.to_string())
    }
}

impl From<InvalidId> for ApiError {
    fn from(error: InvalidId) -> ApiError {
        ApiError::invalid(error.to_string())
    }
}

impl From<HostRefusal> for ApiError {
    fn from(error: HostRefusal) -> ApiError {
        match error {
            HostRefusal::Unknown(error) => error.into(),
            HostRefusal::Engine(error) => error.into(),
            HostRefusal::Disabled(_) | HostRefusal::NotUp { .. } => {
                ApiError::new(StatusCode::CONFLICT, "conflict", error.to_string())
            }
            HostRefusal::Configuration { .. } => ApiError::invalid(error.to_string()),
            HostRefusal::Stopping => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", error.to_string())
            }
        }
    }
}

impl From<UnknownPlugin> for ApiError {
    fn from(error: UnknownPlugin) -> ApiError {
        ApiError::not_found(error.to_string())
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> ApiError {
        let (status, kind, after) = match &error {
            CallError::Unknown(_) | CallError::Disabled { .. } | CallError::NotServed { .. } => {
                (StatusCode::NOT_FOUND, "not_found", None)
            }
            CallError::Away { retry_after, .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "plugin_away", Some(*retry_after))
            }
            CallError::Busy { .. } | CallError::TooManySockets { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", None)
            }
            CallError::NoRoom => (StatusCode::SERVICE_UNAVAILABLE, "too_many_requests", None),
            CallError::TooSlow { .. } => (StatusCode::GATEWAY_TIMEOUT, "plugin", None),
            CallError::Failed { .. } => (StatusCode::BAD_GATEWAY, "plugin", None),
        };
        ApiError { retry_after: after, ..ApiError::new(status, kind, error.to_string()) }
    }
}

/// Bytes of a plain refusal that are kept.
const PLAIN_BYTES_MAX: usize = 4 * 1024;

/// Makes JSON of the refusals that the router itself gives as plain text (no such method, …).
pub async fn as_json(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_json =
        response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let is_ours = response.extensions().get::<AsItIs>().is_none();
    if !is_ours || is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, PLAIN_BYTES_MAX).await.unwrap_or_default();
    let mut message = String::from_utf8_lossy(&text).into_owned();
    if message.is_empty() {
        message = status.canonical_reason().unwrap_or("refused").to_lowercase();
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        // The router adds it after this.
        message = "method not allowed; the header Allow says which are".to_owned();
    }
    let kind = match status {
        StatusCode::NOT_FOUND => "not_found",
        StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
        _ => "invalid",
    };
    let mut json = ApiError::new(status, kind, message).into_response();
    for (name, value) in &parts.headers {
        if name == axum::http::header::ALLOW {
            json.headers_mut().insert(name, value.clone());
        }
    }
    json.map(Body::new)
}
