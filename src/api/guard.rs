//! Who may ask: whoever has the token, from a name of loopback.
//!
//! The names keep out a page in somebody's browser (DNS rebinding sends its own Host, a foreign page
//! its own Origin); the token keeps out everybody else.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, HOST, HeaderMap, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Api;
use super::error::ApiError;
use super::listen::Guest;

/// SHA-256 of a token: what is kept of it, and what is compared.
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub fn of(token: &str) -> TokenHash {
        TokenHash(Sha256::digest(token.as_bytes()).into())
    }

    fn is_of(&self, token: &str) -> bool {
        let TokenHash(given) = TokenHash::of(token);
        self.0.ct_eq(&given).into()
    }
}

/// Lets a request through, or refuses it.
pub async fn check(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let mut response = match judge(request.headers(), &api.token_hash) {
        Ok(()) => {
            if let Some(guest) = request.extensions().get::<Arc<Guest>>() {
                guest.leave();
            }
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn judge(headers: &HeaderMap, token_hash: &TokenHash) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or(""));
    if !text(HOST).is_some_and(is_loopback) {
        let message = "the Host header must name 127.0.0.1, [::1] or localhost";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message));
    }
    let foreign = |origin: &str| !origin.strip_prefix("http://").is_some_and(is_loopback);
    if text(ORIGIN).is_some_and(foreign) {
        let message = "the Origin header must name 127.0.0.1, [::1] or localhost";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", message));
    }
    let bearer = text(AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match bearer {
        Some(token) if token_hash.is_of(token) => Ok(()),
        Some(_) => Err(unauthorized("the token is not the one in the store's token file")),
        None => Err(unauthorized(
            "say `Authorization: Bearer TOKEN`, with the token from the file beside the store that ends in .token",
        )),
    }
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

/// Whether an authority, `HOST` or `HOST:PORT`, is loopback by name or number.
fn is_loopback(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let port_fits = port.is_empty() || port.parse::<u16>().is_ok();
    port_fits && (host.eq_ignore_ascii_case("localhost") || host == "127.0.0.1" || host == "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(headers: &[(&str, &str)]) -> Option<StatusCode> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().unwrap();
            map.insert(name, HeaderValue::from_str(value).unwrap());
        }
        judge(&map, &TokenHash::of("secret")).err().map(|error| error.into_response().status())
    }

    #[test]
    fn only_loopback_names_with_the_token_get_through() {
        let (host, token) = (("host", "127.0.0.1:8770"), ("authorization", "Bearer secret"));
        type Headers<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Headers<'_>, Option<StatusCode>); 11] = [
            (&[host, token], None),
            (&[("host", "localhost"), ("authorization", "bearer secret")], None),
            (&[("host", "[::1]:1"), token, ("origin", "http://[::1]:1")], None),
            (&[token], Some(StatusCode::FORBIDDEN)),
            (&[("host", "evil.example:8770"), token], Some(StatusCode::FORBIDDEN)),
            (&[("host", "127.0.0.1.evil.example"), token], Some(StatusCode::FORBIDDEN)),
            (&[("host", "127.0.0.1:x"), token], Some(StatusCode::FORBIDDEN)),
            (&[host, token, ("origin", "https://evil.example")], Some(StatusCode::FORBIDDEN)),
            (&[host, token, ("origin", "null")], Some(StatusCode::FORBIDDEN)),
            (&[host], Some(StatusCode::UNAUTHORIZED)),
            (&[host, ("authorization", "Bearer secreT")], Some(StatusCode::UNAUTHORIZED)),
        ];
        for (headers, expected) in cases {
            assert_eq!(verdict(headers), expected, "{headers:?}");
        }
    }
}
