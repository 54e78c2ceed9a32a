//! HTTP that a plugin answers: requests under `/api/{plugin}/…` of the host.

use axwatch_proto::protocol;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of a body that fit into a reply.
const BODY_BYTES_MAX: usize = 7 * 1024 * 1024;

/// A route that a plugin answers, for people to read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Route {
    method: String,
    path: String,
    description: String,
}

impl Route {
    /// `GET`, `/status` below the plugin's own root, and one line on what it answers.
    pub fn new(
        method: impl Into<String>,
        path: impl Into<String>,
        description: impl Into<String>,
    ) -> Route {
        Route { method: method.into(), path: path.into(), description: description.into() }
    }

    pub(crate) fn into_wire(self) -> protocol::RouteInfo {
        protocol::RouteInfo { method: self.method, path: self.path, description: self.description }
    }
}

/// A request as it reached the host.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct HttpRequest {
    /// Such as `GET`.
    pub method: String,
    /// The path below the plugin's own root, with the query.
    pub path: String,
    /// Names and values, one pair a value.
    pub headers: Vec<(String, String)>,
    /// What came with it.
    pub body: Bytes,
}

impl HttpRequest {
    /// A request without headers, for tests.
    #[must_use]
    pub fn new(
        method: impl Into<String>,
        path: impl Into<String>,
        body: impl Into<Bytes>,
    ) -> HttpRequest {
        HttpRequest {
            method: method.into(),
            path: path.into(),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// The path without its query.
    #[must_use]
    pub fn route(&self) -> &str {
        self.path.split('?').next().unwrap_or_default()
    }

    /// The body, read as JSON; an empty one is `{}`.
    ///
    /// # Errors
    /// The answer to give, with status 400 and what is wrong.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, HttpResponse> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        serde_json::from_slice(body)
            .map_err(|error| HttpResponse::error(400, format!("the body does not do: {error}")))
    }

    pub(crate) fn from_wire(request: protocol::HttpRequest) -> HttpRequest {
        let pairs = |header: protocol::HttpHeader| {
            let name = header.name;
            header.values.into_iter().map(move |value| (name.clone(), value))
        };
        HttpRequest {
            method: request.method,
            path: request.path,
            headers: request.headers.into_iter().flat_map(pairs).collect(),
            body: request.body,
        }
    }

    pub(crate) fn into_wire(self) -> protocol::HttpRequest {
        let header = |(name, value)| protocol::HttpHeader { name, values: vec![value] };
        protocol::HttpRequest {
            method: self.method,
            path: self.path,
            headers: self.headers.into_iter().map(header).collect(),
            body: self.body,
        }
    }
}

/// What a plugin answers.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct HttpResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl HttpResponse {
    /// A status, and nothing with it.
    pub fn new(status: u16) -> HttpResponse {
        HttpResponse { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// A value as JSON. One that has none becomes an error with status 500.
    pub fn json<T: Serialize + ?Sized>(status: u16, value: &T) -> HttpResponse {
        match serde_json::to_vec(value) {
            Ok(body) => {
                HttpResponse::new(status).header("content-type", "application/json").body(body)
            }
            Err(error) => HttpResponse::error(500, format!("the answer has no JSON: {error}")),
        }
    }

    /// `{"error": "…"}`.
    pub fn error(status: u16, message: impl Into<String>) -> HttpResponse {
        HttpResponse::json(status, &serde_json::json!({ "error": message.into() }))
    }

    /// One more header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> HttpResponse {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Any bytes.
    pub fn body(mut self, body: impl Into<Bytes>) -> HttpResponse {
        self.body = body.into();
        self
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Its body.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.body
    }

    pub(crate) fn into_wire(self) -> protocol::HttpResponse {
        if self.body.len() > BODY_BYTES_MAX {
            let bytes = self.body.len();
            let problem =
                format!("the answer has {bytes} bytes; at most {BODY_BYTES_MAX} fit into a reply");
            return HttpResponse::error(500, problem).into_wire();
        }
        let header = |(name, value)| protocol::HttpHeader { name, values: vec![value] };
        protocol::HttpResponse {
            status_code: self.status.into(),
            headers: self.headers.into_iter().map(header).collect(),
            body: self.body,
        }
    }

    pub(crate) fn from_wire(response: protocol::HttpResponse) -> HttpResponse {
        let pairs = |header: protocol::HttpHeader| {
            let name = header.name;
            header.values.into_iter().map(move |value| (name.clone(), value))
        };
        HttpResponse {
            status: u16::try_from(response.status_code).unwrap_or(500),
            headers: response.headers.into_iter().flat_map(pairs).collect(),
            body: response.body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_what_does_not_do_is_answered() {
        let request = HttpRequest::new("POST", "/sync?now=1", r#"{"n": 1}"#);
        assert_eq!(request.route(), "/sync");
        assert_eq!(request.json::<serde_json::Value>().unwrap()["n"], 1);
        assert_eq!(HttpRequest::from_wire(request.clone().into_wire()), request);
        let refused = request.json::<Vec<u32>>().unwrap_err();
        assert_eq!(refused.status(), 400);
        assert!(String::from_utf8_lossy(refused.bytes()).contains("expected a sequence"));
    }

    #[test]
    fn an_answer_that_is_too_large_is_an_error() {
        let small = HttpResponse::json(200, &[1]);
        assert_eq!(HttpResponse::from_wire(small.clone().into_wire()), small);
        let large = HttpResponse::new(200).body(vec![b'x'; BODY_BYTES_MAX + 1]).into_wire();
        assert_eq!(large.status_code, 500);
    }
}
