//! Who may ask: whoever has the token, under a name of this server.
//!
//! The names keep out a page in somebody's browser (DNS rebinding sends its own Host, a foreign page
//! its own Origin); the token keeps out everybody else. A program brings the token in a header. A
//! browser brings it once, to `GET /api/v1/session`, and gets a cookie with another secret, which counts
//! as a cookie and in no other way: browsers send a cookie to every port of a host, and the token is not
//! for whoever listens there. Since they send it whoever made the request, too, what comes by cookie
//! has to come from a page of this very server. A plugin that is configured as open needs no token.
//!
//! Not here: what is asked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, COOKIE, HOST, HeaderMap, HeaderName, LOCATION, ORIGIN,
    REFERRER_POLICY, SEC_WEBSOCKET_PROTOCOL, SET_COOKIE, UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::error::{ApiError, AsItIs};
use super::listen::Guest;
use super::proxy::plugin_path;
use super::{Api, Shared, request as asked};

/// Where a browser gets its cookie.
pub const SESSION: &str = "/api/v1/session";
/// What our cookie is called before the port: the servers of a host share its cookies, and each has its
/// own among them.
const OUR_COOKIES: &str = "axwatch_session_";
/// The header with the token, for programs whose `Authorization` is a plugin's.
const OUR_HEADER: HeaderName = HeaderName::from_static("x-axwatch-token");
/// What a WebSocket client puts before the token to name it as a subprotocol.
const OUR_PROTOCOL: &str = "axwatch.token.";
/// What a browser says about where a request comes from.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// SHA-256 of a secret: what is kept of it, and what is compared.
struct SecretHash([u8; 32]);

impl SecretHash {
    fn of(secret: &str) -> SecretHash {
        SecretHash(Sha256::digest(secret.as_bytes()).into())
    }

    fn is_of(&self, secret: &str) -> bool {
        let SecretHash(given) = SecretHash::of(secret);
        self.0.ct_eq(&given).into()
    }
}

/// What a browser brings in its cookie instead of the token, from one start of the server to the next.
///
/// The secret is made of the token and of what was drawn at the start, so that it need not be kept:
/// whoever is given it has just said the token. Neither the token nor another start's secret follows
/// from it.
struct Session {
    drawn: [u8; 32],
    secret: SecretHash,
    cookie: String,
}

impl Session {
    fn begin(token: &str, port: u16) -> Session {
        let drawn = rand::random();
        let secret = SecretHash::of(&Session::secret(&drawn, token));
        Session { drawn, secret, cookie: format!("{OUR_COOKIES}{port}") }
    }

    fn secret(drawn: &[u8; 32], token: &str) -> String {
        let hash = Sha256::new().chain_update(drawn).chain_update(token).finalize();
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The cookie, name and value, for who has said the token.
    fn pair(&self, token: &str) -> String {
        format!("{}={}", self.cookie, Session::secret(&self.drawn, token))
    }

    /// Whether a request brings the cookie.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let pairs = headers.get_all(COOKIE).iter().map(text).flat_map(|pairs| pairs.split(';'));
        let ours = pairs.filter(|pair| cookie_name(pair) == self.cookie);
        let mut secrets = ours.filter_map(|pair| pair.split_once('=').map(|(_, secret)| secret));
        secrets.any(|secret| self.secret.is_of(secret.trim().trim_matches('"')))
    }
}

/// What is held against each request.
pub struct Guard {
    token: SecretHash,
    session: Session,
    /// The address that is listened on.
    bound: IpAddr,
    /// Further names of this server.
    hosts: Vec<String>,
    scheme: &'static str,
}

impl Guard {
    /// For a server that listens there, goes by these names beside those of loopback, and speaks TLS
    /// or not.
    pub fn new(token: &str, bound: SocketAddr, hosts: &[String], is_tls: bool) -> Guard {
        Guard {
            token: SecretHash::of(token),
            session: Session::begin(token, bound.port()),
            bound: bound.ip(),
            hosts: hosts.to_vec(),
            scheme: if is_tls { "https" } else { "http" },
        }
    }

    /// A header's value as a plugin may see it: without our token, in whichever way it came, and without
    /// the cookies of this server and of others on its host; `None` when nothing is left.
    pub fn without_credential(
        &self,
        name: &HeaderName,
        value: &HeaderValue,
    ) -> Option<HeaderValue> {
        if *name == OUR_HEADER {
            return None;
        }
        if *name == AUTHORIZATION {
            let is_ours = value.to_str().ok().and_then(bearer).is_some_and(|t| self.token.is_of(t));
            return (!is_ours).then(|| value.clone());
        }
        let kept = |separator: char, joint: &str, is_ours: &dyn Fn(&str) -> bool| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let parts: Vec<_> = text.split(separator).map(str::trim).collect();
            if !parts.iter().any(|part| is_ours(part)) {
                return Some(value.clone());
            }
            let rest: Vec<_> = parts.into_iter().filter(|part| !is_ours(part)).collect();
            let rest = HeaderValue::from_str(&rest.join(joint)).ok();
            rest.filter(|rest| !rest.is_empty())
        };
        if *name == COOKIE {
            return kept(';', "; ", &is_our_cookie);
        }
        if *name == SEC_WEBSOCKET_PROTOCOL {
            return kept(',', ", ", &|protocol| protocol.starts_with(OUR_PROTOCOL));
        }
        Some(value.clone())
    }

    /// Whether an authority, `HOST` or `HOST:PORT`, is this server.
    fn is_here(&self, authority: &str) -> bool {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port),
            _ => (authority, ""),
        };
        let port_fits = port.is_empty() || port.parse::<u16>().is_ok();
        let is_loopback = ["localhost", "127.0.0.1", "[::1]"];
        let is_named = is_loopback.into_iter().chain(self.hosts.iter().map(String::as_str));
        let number = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_bound = !self.bound.is_unspecified()
            && number.parse::<IpAddr>().is_ok_and(|ip| ip == self.bound);
        port_fits && (is_bound || is_named.into_iter().any(|name| name.eq_ignore_ascii_case(host)))
    }

    /// Whether an origin is a page of this server, or of another port of it.
    fn is_known(&self, origin: &str) -> bool {
        let authority = origin.strip_prefix(self.scheme).and_then(|rest| rest.strip_prefix("://"));
        authority.is_some_and(|authority| self.is_here(authority))
    }

    /// Host and Origin: nobody gets past a wrong one.
    fn check_names(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().map(text);
        let is_one = hosts.next().is_none();
        let is_here = |host: &str| self.is_here(host);
        // A request to a proxy bears a name in its first line too.
        if !is_one
            || !host.is_some_and(is_here)
            || !uri.authority().is_none_or(|a| is_here(a.as_str()))
        {
            return Err(forbidden(&format!("the Host header must name {}", self.names())));
        }
        if !headers.get_all(ORIGIN).iter().map(text).all(|origin| self.is_known(origin)) {
            return Err(forbidden(&format!("the Origin header must name {}", self.names())));
        }
        Ok(())
    }

    fn names(&self) -> String {
        let mut names = vec!["127.0.0.1", "[::1]"];
        names.extend(self.hosts.iter().map(String::as_str));
        format!("{} or localhost", names.join(", "))
    }

    /// Whether a request brings the token, or the cookie that was given for it.
    fn judge(&self, method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
        let is_upgrade = headers.contains_key(UPGRADE);
        let mut given = explicit(headers, is_upgrade).peekable();
        let is_explicit = given.peek().is_some();
        if given.any(|token| self.token.is_of(token)) {
            return Ok(());
        }
        if self.session.is_in(headers) {
            return self.check_origin_of_cookie(method, headers, is_upgrade);
        }
        if is_explicit {
            return Err(unauthorized("the token is not the one in the store's token file"));
        }
        Err(unauthorized(
            "say `Authorization: Bearer TOKEN`, with the token from the file beside the store that ends in .token",
        ))
    }

    /// A browser sends a cookie with every request, whoever asked for it; only pages of this server,
    /// port and all, may have done so.
    fn check_origin_of_cookie(
        &self,
        method: &Method,
        headers: &HeaderMap,
        is_upgrade: bool,
    ) -> Result<(), ApiError> {
        let host = headers.get(HOST).map(text).unwrap_or_default();
        let own = format!("{}://{host}", self.scheme);
        let origin = headers.get(ORIGIN).map(text);
        let site = headers.get(FETCH_SITE).map(text);
        let is_foreign = origin.is_some_and(|origin| !origin.eq_ignore_ascii_case(&own))
            || site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
        let only_reads =
            [Method::GET, Method::HEAD, Method::OPTIONS].contains(method) && !is_upgrade;
        let is_shown_ours = origin.is_some() || site == Some("same-origin");
        if is_foreign || !(only_reads || is_shown_ours) {
            return Err(forbidden(
                "what comes with a cookie must come from a page of this server: say the token in a header instead, or send an Origin or `Sec-Fetch-Site: same-origin`",
            ));
        }
        Ok(())
    }
}

/// Tokens that were said on purpose.
fn explicit(headers: &HeaderMap, is_upgrade: bool) -> impl Iterator<Item = &str> {
    let bearers = headers.get_all(AUTHORIZATION).iter().map(text).filter_map(bearer);
    let ours = headers.get_all(OUR_HEADER).iter().map(text);
    let protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter(move |_| is_upgrade);
    let protocols = protocols.map(text).flat_map(|names| names.split(','));
    bearers.chain(ours).chain(protocols.filter_map(|name| name.trim().strip_prefix(OUR_PROTOCOL)))
}

fn cookie_name(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name).trim()
}

fn is_our_cookie(pair: &str) -> bool {
    cookie_name(pair).starts_with(OUR_COOKIES)
}

/// Whether a `Set-Cookie` is for a cookie of ours, which is not a plugin's to set.
pub fn sets_our_cookie(value: &HeaderValue) -> bool {
    let text = String::from_utf8_lossy(value.as_bytes());
    is_our_cookie(text.split(';').next().unwrap_or_default())
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A value that is no text is nobody's name and no token.
fn text(value: &HeaderValue) -> &str {
    value.to_str().unwrap_or("")
}

/// Lets a request through, or refuses it.
pub async fn check(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let mut response = match admit(&api, &mut request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let is_plugins = response.extensions().get::<AsItIs>().is_some();
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !(is_plugins && headers.contains_key(CACHE_CONTROL)) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// On a request: nobody has shown the token, and its plugin asks for none.
#[derive(Clone, Copy)]
pub struct Tokenless;

fn admit(api: &Api, request: &mut Request) -> Result<(), ApiError> {
    let (uri, headers) = (request.uri(), request.headers());
    api.guard.check_names(uri, headers)?;
    match api.guard.judge(request.method(), headers) {
        Ok(()) => {
            if let Some(guest) = request.extensions().get::<Arc<Guest>>() {
                guest.leave();
            }
            Ok(())
        }
        Err(_) if uri.path() == SESSION => Ok(()),
        Err(_) if is_open(api, uri.path()) => {
            check_site(headers)?;
            request.extensions_mut().insert(Tokenless);
            Ok(())
        }
        Err(refusal) => Err(refusal),
    }
}

/// Whether a plugin is there that asks for no token.
fn is_open(api: &Api, path: &str) -> bool {
    let plugin = plugin_path(path, "/api/").or_else(|| plugin_path(path, "/ws/"));
    plugin.is_some_and(|(name, _)| api.plugins.is_open(name))
}

/// A foreign page's images and links bear no Origin; where they come from, the browser says all the
/// same.
fn check_site(headers: &HeaderMap) -> Result<(), ApiError> {
    let is_foreign = |site: &str| site.eq_ignore_ascii_case("cross-site");
    if headers.get_all(FETCH_SITE).iter().map(text).any(is_foreign) {
        return Err(forbidden(
            "a page of another site may not use a plugin without the token, though it is open",
        ));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionQuery {
    token: String,
    next: Option<String>,
}

/// `GET /api/v1/session`: gives a browser that brings the token a cookie for it, and sends it on.
pub async fn session(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let SessionQuery { token, next } = asked::query(&uri)?;
    if !api.guard.token.is_of(&token) {
        return Err(unauthorized("the token is not the one in the store's token file"));
    }
    let next = next.as_deref().unwrap_or("/");
    let next = HeaderValue::from_str(next).ok().filter(|_| is_local(next)).ok_or_else(|| {
        ApiError::invalid("next must be a path of this server, such as /api/v1/status")
    })?;
    let secure = if api.guard.scheme == "https" { "; Secure" } else { "" };
    let pair = api.guard.session.pair(&token);
    let cookie = format!("{pair}; Path=/; HttpOnly; SameSite=Strict{secure}");
    let cookie = HeaderValue::from_str(&cookie).expect("a name and hex digits make a good header");
    let headers = [
        (LOCATION, next),
        (SET_COOKIE, cookie),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

/// A path here: `//host` and `/\host` are elsewhere to a browser, and controls are left out by some.
fn is_local(path: &str) -> bool {
    let mut bytes = path.bytes();
    bytes.next() == Some(b'/')
        && !matches!(bytes.next(), Some(b'/' | b'\\'))
        && path.bytes().all(|byte| byte.is_ascii_graphic())
}

fn unauthorized(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
}

fn forbidden(message: &str) -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new("secret", "127.0.0.1:8770".parse().unwrap(), &[], false)
    }

    fn map_of(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn verdict_of(guard: &Guard, method: &Method, headers: &[(&str, &str)]) -> Option<StatusCode> {
        let map = map_of(headers);
        let names = guard.check_names(&Uri::from_static("/x"), &map);
        let judged = names.and_then(|()| guard.judge(method, &map));
        judged.err().map(|error| error.into_response().status())
    }

    const REFUSED: Option<StatusCode> = Some(StatusCode::FORBIDDEN);
    const UNKNOWN: Option<StatusCode> = Some(StatusCode::UNAUTHORIZED);

    #[test]
    fn only_loopback_names_with_the_token_get_through() {
        let (host, token) = (("host", "127.0.0.1:8770"), ("authorization", "Bearer secret"));
        type Headers<'a> = &'a [(&'a str, &'a str)];
        let cases: [(Headers<'_>, Option<StatusCode>); 17] = [
            (&[host, token], None),
            (&[("host", "localhost"), ("authorization", "bearer secret")], None),
            (&[("host", "[::1]:1"), token, ("origin", "http://[::1]:1")], None),
            (&[host, ("x-axwatch-token", "secret")], None),
            (&[host, ("authorization", "Basic eA=="), ("x-axwatch-token", "secret")], None),
            (&[token], REFUSED),
            (&[host, host, token], REFUSED),
            (&[("host", "evil.example:8770"), token], REFUSED),
            (&[("host", "127.0.0.1.evil.example"), token], REFUSED),
            (&[("host", "127.0.0.1:x"), token], REFUSED),
            (&[host, token, ("origin", "https://evil.example")], REFUSED),
            (&[host, token, ("origin", "https://127.0.0.1:8770")], REFUSED),
            (&[host, token, ("origin", "null")], REFUSED),
            (&[host], UNKNOWN),
            (&[host, ("authorization", "Bearer secreT")], UNKNOWN),
            // A subprotocol is one of a WebSocket.
            (&[host, ("sec-websocket-protocol", "axwatch.token.secret")], UNKNOWN),
            (
                &[
                    host,
                    ("upgrade", "websocket"),
                    ("sec-websocket-protocol", "qntx-plugin-v1, axwatch.token.secret"),
                ],
                None,
            ),
        ];
        for (headers, expected) in cases {
            assert_eq!(verdict_of(&guard(), &Method::GET, headers), expected, "{headers:?}");
        }
        let map = map_of(&[host, token]);
        let elsewhere = guard().check_names(&Uri::from_static("http://evil.example/x"), &map);
        assert!(elsewhere.is_err(), "the first line names another server");
    }

    #[test]
    fn a_cookie_counts_from_pages_of_this_server() {
        let guard = guard();
        let pair = guard.session.pair("secret");
        let both = format!("a=b; {pair}");
        let (host, cookie) = (("host", "127.0.0.1:8770"), ("cookie", both.as_str()));
        let (own, other) = ("http://127.0.0.1:8770", "http://127.0.0.1:3000");
        let (get, post) = (Method::GET, Method::POST);
        type Headers<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&Method, Headers<'_>, Option<StatusCode>); 11] = [
            (&get, &[], None),
            (&get, &[("sec-fetch-site", "none")], None),
            (&get, &[("sec-fetch-site", "same-site")], REFUSED),
            (&get, &[("origin", other)], REFUSED),
            (&post, &[], REFUSED),
            (&post, &[("origin", own)], None),
            (&post, &[("origin", other)], REFUSED),
            (&post, &[("sec-fetch-site", "same-origin")], None),
            (&post, &[("sec-fetch-site", "none")], REFUSED),
            (&get, &[("upgrade", "websocket")], REFUSED),
            (&get, &[("upgrade", "websocket"), ("origin", own)], None),
        ];
        for (method, headers, expected) in cases {
            let headers: Vec<_> = [host, cookie].iter().chain(headers).copied().collect();
            assert_eq!(verdict_of(&guard, method, &headers), expected, "{method} {headers:?}");
        }
    }

    #[test]
    fn the_secret_of_the_cookie_counts_nowhere_else_and_the_token_not_as_a_cookie() {
        let guard = guard();
        let pair = guard.session.pair("secret");
        let (name, secret) = pair.split_once('=').unwrap();
        assert_eq!((name, secret.len()), ("axwatch_session_8770", 64));
        let (bearer, protocol) = (format!("Bearer {secret}"), format!("axwatch.token.{secret}"));
        let elsewhere = format!("axwatch_session_8771={secret}");
        let former = Guard::new("secret", "127.0.0.1:8770".parse().unwrap(), &[], false);
        let former = former.session.pair("secret");
        let cases: [&[(&str, &str)]; 8] = [
            &[("authorization", &bearer)],
            &[("x-axwatch-token", secret)],
            &[("upgrade", "websocket"), ("sec-websocket-protocol", &protocol)],
            &[("cookie", "axwatch_session_8770=secret")],
            &[("cookie", "axwatch_session_8770=")],
            &[("cookie", "axwatch_token=secret")],
            &[("cookie", &elsewhere)],
            &[("cookie", &former)],
        ];
        for headers in cases {
            let headers: Vec<_> =
                [("host", "127.0.0.1:8770")].iter().chain(headers).copied().collect();
            assert_eq!(verdict_of(&guard, &Method::GET, &headers), UNKNOWN, "{headers:?}");
        }
    }

    #[test]
    fn a_page_of_another_site_may_not_use_what_is_open() {
        for (site, is_let_in) in [
            (None, true),
            (Some("none"), true),
            (Some("same-origin"), true),
            (Some("same-site"), true),
            (Some("cross-site"), false),
        ] {
            let headers: Vec<_> = site.map(|site| ("sec-fetch-site", site)).into_iter().collect();
            assert_eq!(check_site(&map_of(&headers)).is_ok(), is_let_in, "{site:?}");
        }
    }

    #[test]
    fn a_server_with_tls_goes_by_its_names() {
        let hosts = ["axwatch.example".to_owned()];
        let guard = Guard::new("secret", "192.0.2.7:8770".parse().unwrap(), &hosts, true);
        let token = ("authorization", "Bearer secret");
        let cases: [(&str, Option<&str>, Option<StatusCode>); 7] = [
            ("axwatch.example:8770", Some("https://AXWATCH.example:8770"), None),
            ("192.0.2.7:8770", None, None),
            ("localhost:8770", None, None),
            ("192.0.2.8:8770", None, REFUSED),
            ("other.example", None, REFUSED),
            ("axwatch.example", Some("http://axwatch.example"), REFUSED),
            ("axwatch.example", Some("https://axwatch.example.evil"), REFUSED),
        ];
        for (host, origin, expected) in cases {
            let headers: Vec<_> =
                [("host", host), token].into_iter().chain(origin.map(|o| ("origin", o))).collect();
            assert_eq!(verdict_of(&guard, &Method::GET, &headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_plugin_does_not_see_our_token() {
        let cases = [
            ("authorization", "Bearer secret", None),
            ("authorization", "Bearer other", Some("Bearer other")),
            ("authorization", "Basic eA==", Some("Basic eA==")),
            ("x-axwatch-token", "anything", None),
            ("cookie", "axwatch_session_8770=x", None),
            ("cookie", "a=b; axwatch_session_8770=x;axwatch_session_1=y; c=d", Some("a=b; c=d")),
            ("cookie", "a=b;c=d", Some("a=b;c=d")),
            ("sec-websocket-protocol", "x, axwatch.token.secret", Some("x")),
            ("accept", "secret", Some("secret")),
        ];
        for (name, value, expected) in cases {
            let (name, value) = (name.parse().unwrap(), HeaderValue::from_str(value).unwrap());
            let seen = guard().without_credential(&name, &value);
            assert_eq!(seen.as_ref().map(text), expected, "{name}: {value:?}");
        }
        assert!(sets_our_cookie(&HeaderValue::from_static("axwatch_session_1 = x; Path=/")));
        assert!(!sets_our_cookie(&HeaderValue::from_static("session=axwatch_session_1")));
    }

    #[test]
    fn a_browser_is_sent_on_only_within_this_server() {
        let cases = [
            ("/", true),
            ("/api/v1/status?x=1", true),
            ("", false),
            ("//evil.example", false),
            ("/\\evil.example", false),
            ("/\t/evil.example", false),
            ("https://evil.example", false),
        ];
        for (path, local) in cases {
            assert_eq!(is_local(path), local, "{path:?}");
        }
    }
}
