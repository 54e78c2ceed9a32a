//! `/api/{plugin}/…`: requests that a plugin answers.
//!
//! In: any method, any path, a body of bounded size. Out: what the plugin answered, as it answered, or
//! a refusal that says why it did not. A plugin gets the headers of the request but for those of the
//! connection and our own credential; what it answers is checked before it becomes HTTP.
//!
//! Not here: who may ask (`super::guard`), the call itself (`axwatch_engine`'s `plugin::http`).

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, SET_COOKIE,
};
use axum::http::{Method, StatusCode, request};
use axum::response::{IntoResponse as _, Response};
use axwatch_engine::plugin::{CallError, Callable, HttpCall, HttpReply, Load};
use futures::StreamExt as _;
use hyper::body::{Frame, SizeHint};

use super::bodies::Patience;
use super::error::{ApiError, AsItIs};
use super::{Shared, guard, request as asked};

/// Headers that belong to a connection and not to what it carries.
const OF_A_CONNECTION: [&str; 10] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Bytes of the headers that a plugin may answer, names and values.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Values of headers that a plugin may answer.
const HEADERS_MAX: usize = 256;

/// A path under a prefix as a plugin's: its name, and the rest from its slash on, `/` at least.
///
/// Both as they are written: a name with escapes in it is nobody's.
pub fn plugin_path<'a>(path: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let path = path.strip_prefix(prefix)?;
    let end = path.find('/').unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    (!name.is_empty()).then_some((name, if rest.is_empty() { "/" } else { rest }))
}

/// The path and, when there is one, the query string.
pub fn with_query(path: &str, query: Option<&str>) -> String {
    query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// `ANY /api/{plugin}/…`.
pub async fn http(State(api): Shared, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some((name, rest)) = plugin_path(parts.uri.path(), "/api/") else {
        return super::no_route().await.into_response();
    };
    // The names that no plugin has are those of our own routes.
    if matches!(name, "v1" | "plugins") {
        return super::no_route().await.into_response();
    }
    let answered = async {
        let plugin = api.plugins.callable(name)?;
        let load = plugin.load();
        let body = arrive(&plugin, &load, &parts.headers, body).await?;
        let query = parts.uri.query();
        let call = HttpCall {
            method: parts.method.as_str().to_owned(),
            path: with_query(rest, query),
            full_path: with_query(parts.uri.path(), query),
            headers: headers_in(&parts, &api.guard, body.len()),
            body,
        };
        let reply = plugin.http(call, load).await?;
        answer(&parts.method, reply).map_err(|problem| bad_gateway(name, &problem))
    };
    answered.await.unwrap_or_else(|error: ApiError| error.into_response())
}

/// The whole body, for which there is room.
async fn arrive(
    plugin: &Callable,
    load: &Load,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, ApiError> {
    let bytes_max = plugin.body_bytes_max();
    let too_large = || {
        let message = format!(
            "a body for a plugin has at most {bytes_max} bytes; plugin.body_max_mb allows more"
        );
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    // Said before it is sent, it need not be sent at all.
    let announced =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > bytes_max as u64) {
        return Err(too_large());
    }
    let reading = async {
        let mut pieces = body.into_data_stream();
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece
                .map_err(|error| ApiError::invalid(format!("the body did not arrive: {error}")))?;
            if bytes.len() + piece.len() > bytes_max {
                return Err(too_large());
            }
            if !load.take(piece.len()) {
                return Err(CallError::NoRoom.into());
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(Bytes::from(bytes))
    };
    let within = Patience::USUAL.arrival;
    tokio::time::timeout(within, reading).await.unwrap_or_else(|_| {
        Err(asked::too_slow(format!("the body did not arrive within {within:?}")))
    })
}

/// What a plugin gets to see of a request's headers, each name once, in the order of their coming.
fn headers_in(
    parts: &request::Parts,
    guard: &guard::Guard,
    body_bytes: usize,
) -> Vec<(String, Vec<String>)> {
    let dropped = named_by_connection(&parts.headers);
    let mut headers = Vec::new();
    for name in parts.headers.keys() {
        if is_of_a_connection(name, &dropped) || name == CONTENT_LENGTH {
            continue;
        }
        let values = parts.headers.get_all(name).iter();
        let values = values.filter_map(|value| guard.without_credential(name, value));
        // What is no text is shown as well as it can be: the wire carries text alone.
        let values: Vec<_> =
            values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        if !values.is_empty() {
            headers.push((name.as_str().to_owned(), values));
        }
    }
    // One that came in pieces has its length now.
    if body_bytes > 0 || parts.headers.contains_key(CONTENT_LENGTH) {
        headers.push((CONTENT_LENGTH.as_str().to_owned(), vec![body_bytes.to_string()]));
    }
    headers
}

/// The further names that `Connection` makes headers of the connection.
fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

fn is_of_a_connection(name: &HeaderName, further: &[String]) -> bool {
    OF_A_CONNECTION.contains(&name.as_str()) || further.iter().any(|other| other == name.as_str())
}

/// What a plugin answered as HTTP, or what is wrong with it.
fn answer(method: &Method, reply: HttpReply) -> Result<Response, String> {
    let HttpReply { status, headers, body, load } = reply;
    let status = u16::try_from(status).ok().filter(|status| (200..=599).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| {
        format!("it answered the status {}, and there are 200 to 599", reply.status)
    })?;
    let is_bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let has_no_body = *method == Method::HEAD || is_bodiless;
    let mut answered = HeaderMap::new();
    let (mut bytes, mut count) = (0, 0);
    for (name, values) in headers {
        let shown: String = name.chars().take(80).collect();
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("it answered a header {shown:?}, which is no name of one"))?;
        for value in values {
            bytes += name.len() + value.len();
            count += 1;
            if bytes > HEADER_BYTES_MAX || count > HEADERS_MAX {
                return Err(format!(
                    "it answered more than {HEADERS_MAX} headers or {HEADER_BYTES_MAX} bytes of them"
                ));
            }
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
                format!("it answered a value of the header {shown:?} that holds control characters")
            })?;
            answered.append(parsed.clone(), value);
        }
    }
    // The length is what it is, but where there is no body to have it. One that HEAD was answered with is
    // that of GET.
    let length = match length_of(&answered) {
        _ if !has_no_body => None,
        Ok(None) if !is_bodiless && !body.is_empty() => Some(HeaderValue::from(body.len())),
        length => length?,
    };
    answered.remove(CONTENT_LENGTH);
    answered.extend(length.map(|length| (CONTENT_LENGTH, length)));
    let body = if has_no_body { Carried::nothing(load) } else { Carried::new(body, load) };
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    let dropped = named_by_connection(&answered);
    for (name, value) in &answered {
        let is_ours = name == SET_COOKIE && guard::sets_our_cookie(value);
        if !is_of_a_connection(name, &dropped) && !is_ours {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    response.extensions_mut().insert(AsItIs);
    Ok(response)
}

/// The one length that the headers name, if they name any.
fn length_of(headers: &HeaderMap) -> Result<Option<HeaderValue>, String> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    // A number may bear a sign for Rust, and not for HTTP.
    let is_digits = first.as_bytes().iter().all(u8::is_ascii_digit);
    let is_number = first.to_str().is_ok_and(|text| text.parse::<u64>().is_ok());
    if !(is_digits && is_number && values.next().is_none()) {
        return Err("it answered a Content-Length that is not one number".to_owned());
    }
    Ok(Some(first.clone()))
}

fn bad_gateway(plugin: &str, problem: &str) -> ApiError {
    let message = format!("plugin {plugin}: {problem}");
    ApiError::new(StatusCode::BAD_GATEWAY, "plugin", message)
}

/// A body that keeps its room until it has been sent.
struct Carried {
    rest: Bytes,
    /// That of the rest is known, and may be told.
    has_length: bool,
    _load: Load,
}

/// Bytes that are handed to a connection at a time.
const PIECE_BYTES: usize = 64 * 1024;

impl Carried {
    fn new(rest: Bytes, load: Load) -> Carried {
        Carried { rest, has_length: true, _load: load }
    }

    /// Of an answer without a body, which says of no length that it is 0.
    fn nothing(load: Load) -> Carried {
        Carried { rest: Bytes::new(), has_length: false, _load: load }
    }
}

impl hyper::body::Body for Carried {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.has_length {
            SizeHint::with_exact(self.rest.len() as u64)
        } else {
            SizeHint::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_plugin_as_it_is_written() {
        let cases = [
            ("/api/web", Some(("web", "/"))),
            ("/api/web/", Some(("web", "/"))),
            ("/api/web//x/", Some(("web", "//x/"))),
            ("/api/web/../v1/status", Some(("web", "/../v1/status"))),
            ("/api/%77eb/x", Some(("%77eb", "/x"))),
            ("/api/", None),
            ("/api", None),
            ("/ws/web", None),
        ];
        for (path, expected) in cases {
            assert_eq!(plugin_path(path, "/api/"), expected, "{path}");
        }
        assert_eq!(with_query("/x", Some("")), "/x?");
    }

    #[test]
    fn a_length_is_one_number() {
        type Lengths<'a> = &'a [&'static str];
        let cases: [(Lengths<'_>, Result<Option<&str>, ()>); 9] = [
            (&[], Ok(None)),
            (&["7"], Ok(Some("7"))),
            (&["7", "7"], Err(())),
            (&["7", "8"], Err(())),
            (&["7, 7"], Err(())),
            (&["+5"], Err(())),
            (&["-5"], Err(())),
            (&[""], Err(())),
            (&["18446744073709551616"], Err(())),
        ];
        for (values, expected) in cases {
            let values = values.iter().map(|value| HeaderValue::from_static(value));
            let headers: HeaderMap = values.map(|value| (CONTENT_LENGTH, value)).collect();
            let length = length_of(&headers).map_err(drop);
            let length = length.as_ref().map(|length| length.as_ref().map(|l| l.to_str().unwrap()));
            assert_eq!(length.map_err(|&()| ()), expected, "{headers:?}");
        }
    }

    #[test]
    fn what_connection_names_stays_with_the_connection() {
        let named: HeaderMap =
            [(CONNECTION, HeaderValue::from_static("close, X-Drop"))].into_iter().collect();
        let further = named_by_connection(&named);
        for (name, is_left_out) in
            [("x-drop", true), ("te", true), ("upgrade", true), ("accept", false)]
        {
            assert_eq!(is_of_a_connection(&name.parse().unwrap(), &further), is_left_out, "{name}");
        }
    }
}
