//! `notify.webhook`: a POST with JSON, in the form of Standard Webhooks.
//!
//! In comes a job; out goes one request (and those that 307 and 308 ask for), with the job's id as
//! delivery id, the same on every attempt, so that a receiver can tell repeats. Nobody is called who is
//! not public or allowed, whatever a name or a redirect leads to; proxies of the environment are
//! passed over, because they would decide instead. Credentials, queries and header values never
//! reach a log or an error.
//!
//! Not here: which addresses are open (`address`), what an answer means (`answer`), signatures
//! (`signature`).

pub(crate) mod address;
mod answer;
pub(crate) mod signature;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axwatch_sdk::{Done, Failure, Job};
use bytes::Bytes;
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock::rfc3339;
use crate::log::shown;
use crate::nearest::nearest;
use crate::params::Params;
use crate::payload::Payload;
use address::{ANY_PORT, Guard, Policy, Refused, literal};
use answer::{Verdict, verdict};
use signature::Secret;

/// The handler's name.
pub(crate) const HANDLER: &str = "notify.webhook";
/// What its parameters may be.
pub(crate) const PARAMS: &[&str] = &["url", "secret", "headers", "timeout_secs"];
/// How long a receiver may take when nobody says otherwise.
pub(crate) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);
/// The longest that can be asked for.
pub(crate) const TIMEOUT_SECS_MAX: u64 = 300;
/// How long one connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// Redirects that one delivery follows.
const REDIRECTS_MAX: usize = 5;
/// Bytes that are read of an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Characters of an answer that an error shows.
const ANSWER_SHOWN_MAX: usize = 200;
/// How long is waited for the body of an answer whose status is known.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Connections to one receiver that are kept for the next job.
const IDLE_CONNECTIONS_MAX: usize = 16;
/// How long they are kept.
const IDLE_WITHIN: Duration = Duration::from_secs(30);
/// Who calls.
const AGENT: &str = concat!("axwatch-notify/", env!("CARGO_PKG_VERSION"));
/// Headers that are ours to set.
const OWN_HEADERS: [&str; 11] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the configuration says about webhooks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WebhookSettings {
    /// `webhook.url`, for jobs that name none.
    pub url: Option<Url>,
    /// `webhook.headers`: they go to `webhook.url` and nowhere else, because they may hold secrets.
    pub headers: HeaderMap,
    /// `webhook.secret`, for jobs that name none.
    pub secret: Option<Secret>,
    /// `webhook.secrets`, by name.
    pub secrets: BTreeMap<String, Secret>,
    /// `webhook.timeout_secs`.
    pub timeout: Duration,
    /// `webhook.allow` and `webhook.allow_private`.
    pub policy: Arc<Policy>,
}

impl Default for WebhookSettings {
    fn default() -> WebhookSettings {
        WebhookSettings {
            url: None,
            headers: HeaderMap::new(),
            secret: None,
            secrets: BTreeMap::new(),
            timeout: TIMEOUT_DEFAULT,
            policy: Arc::default(),
        }
    }
}

/// The clients of one configuration, and with them the connections that are kept.
pub(crate) struct Clients {
    policy: Arc<Policy>,
    made: Mutex<HashMap<Class, Client>>,
}

/// URLs that can share a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Class {
    tls: bool,
    /// A port for which there are rules of its own, or [`ANY_PORT`].
    port: u16,
}

impl Clients {
    pub(crate) fn new(policy: Arc<Policy>) -> Clients {
        // Refused when one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Clients { policy, made: Mutex::default() }
    }

    fn client(&self, url: &Url) -> Result<Client, Failure> {
        let port = port(url);
        let class = Class {
            tls: url.scheme() == "https",
            port: if self.policy.names_port(port) { port } else { ANY_PORT },
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&class) {
            return Ok(client.clone());
        }
        let client = self.make(class)?;
        made.insert(class, client.clone());
        Ok(client)
    }

    fn make(&self, class: Class) -> Result<Client, Failure> {
        let builder = Client::builder()
            .user_agent(AGENT)
            .dns_resolver(Guard { policy: self.policy.clone(), port: class.port })
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .connect_timeout(CONNECT_WITHIN)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_WITHIN);
        // Plain HTTP has to work on a machine that has no certificates at all.
        let builder = if class.tls { builder } else { builder.tls_certs_only([]) };
        builder.build().map_err(|error| {
            Failure::retry(format!(
                "cannot speak https: {}; install the package ca-certificates, or name a file of certificates in SSL_CERT_FILE",
                root(&error)
            ))
        })
    }
}

/// What one job asks for.
struct Order<'a> {
    url: Url,
    headers: HeaderMap,
    secret: Option<&'a Secret>,
    timeout: Duration,
}

impl<'a> Order<'a> {
    fn read(job: &Job, settings: &'a WebhookSettings) -> Result<Order<'a>, Failure> {
        let params = Params::of(job, HANDLER, PARAMS)?;
        let (url, mut headers) = match (params.text("url")?, &settings.url) {
            (Some(text), _) => {
                let url = parse_url(text).map_err(|right| params.wrong("url", right))?;
                (url, HeaderMap::new())
            }
            (None, Some(url)) => (url.clone(), settings.headers.clone()),
            (None, None) => {
                return Err(Failure::permanent(
                    "notify.webhook does not know whom to call: give the watcher --params '{\"url\": \"https://example.com/hook\"}', \
                     or set [notify.webhook] url",
                ));
            }
        };
        for (name, value) in params.texts("headers")? {
            let (name, value) = parse_header(name, value)
                .map_err(|right| params.wrong(&format!("headers.{name}"), right))?;
            headers.insert(name, value);
        }
        let timeout = params.seconds("timeout_secs", TIMEOUT_SECS_MAX)?.unwrap_or(settings.timeout);
        // A little before the host gives up, so that the reason is ours to tell.
        let deadline = job.deadline().map_or(timeout, |deadline| deadline.mul_f64(0.9));
        Ok(Order {
            url,
            headers,
            secret: secret(&params, settings)?,
            timeout: timeout.min(deadline),
        })
    }
}

fn secret<'a>(
    params: &Params,
    settings: &'a WebhookSettings,
) -> Result<Option<&'a Secret>, Failure> {
    let Some(name) = params.text("secret")? else { return Ok(settings.secret.as_ref()) };
    if let Some(secret) = settings.secrets.get(name) {
        return Ok(Some(secret));
    }
    let right = match nearest(name, settings.secrets.keys().map(String::as_str)) {
        Some(near) => format!("the name of a configured secret, such as {near:?}"),
        // Not shown: somebody may have written the secret itself here.
        None => {
            "the name of a secret of [notify.webhook.secrets], never a secret itself".to_owned()
        }
    };
    Err(params.wrong("secret", &right))
}

/// Reads a URL that can be called. The error is what would be right.
pub(crate) fn parse_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "a URL such as https://example.com/hook")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("a URL that begins with https:// or http://");
    }
    Ok(url)
}

/// Reads a header that may be added. The error is what would be right.
pub(crate) fn parse_header(
    name: &str,
    value: &str,
) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name: HeaderName = name.parse().map_err(|_| "under a name that HTTP allows")?;
    let ours = |name: &str| name.starts_with("webhook-") || OWN_HEADERS.contains(&name);
    if ours(name.as_str()) {
        return Err("left out: notify.webhook sets this header itself");
    }
    let mut value: HeaderValue = value.parse().map_err(|_| "a text without control characters")?;
    value.set_sensitive(true);
    Ok((name, value))
}

/// Delivers the job.
pub(crate) async fn execute(
    job: &Job,
    settings: &WebhookSettings,
    clients: &Clients,
) -> Result<Done, Failure> {
    let order = Order::read(job, settings)?;
    let body = Bytes::from(body(job));
    let began = Instant::now();
    let answered = tokio::time::timeout(order.timeout, deliver(job, &order, &body, clients)).await;
    let status = answered.map_err(|_| {
        let (whom, secs) = (origin(&order.url), order.timeout.as_secs_f32());
        Failure::retry(format!("{whom} did not answer within {secs} s"))
    })??;
    let ms = began.elapsed().as_millis();
    Ok(Done::new().result_json(&Delivered { status: status.as_u16(), ms }))
}

/// The result of a job that is done.
#[derive(Serialize)]
struct Delivered {
    status: u16,
    ms: u128,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    job_id: &'a str,
    attempt: u32,
    watcher: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestation: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<&'a str>,
}

fn body(job: &Job) -> Vec<u8> {
    let payload = Payload::of(job.payload());
    let (json, base64) = payload.parts();
    // What happened is that the claim was appended, however late this is told.
    let claim = job.attestation().ok().filter(|_| job.watcher().is_some());
    let body = Body {
        r#type: if claim.is_some() { "axwatch.fire" } else { "axwatch.job" },
        timestamp: claim
            .as_ref()
            .map_or_else(|| rfc3339(Timestamp::now()), |claim| claim.created_at.clone()),
        data: Data {
            job_id: job.id(),
            attempt: job.attempt(),
            watcher: job.watcher(),
            attestation: json.filter(|_| claim.is_some()),
            payload: json.filter(|_| claim.is_none()),
            payload_base64: base64,
        },
    };
    serde_json::to_vec(&body).expect("texts, numbers and good JSON make JSON")
}

/// Calls, and follows where that is right. Returns the status of the receiver that took it.
async fn deliver(
    job: &Job,
    order: &Order<'_>,
    body: &Bytes,
    clients: &Clients,
) -> Result<StatusCode, Failure> {
    let mut url = order.url.clone();
    for _ in 0..=REDIRECTS_MAX {
        let response = call(job, order, &url, body, clients).await?;
        match judge(&url, response).await? {
            Judged::Done(status) => return Ok(status),
            Judged::Follow(next) => url = next,
        }
    }
    let whom = origin(&order.url);
    Err(Failure::permanent(format!("{whom} redirects more than {REDIRECTS_MAX} times")))
}

async fn call(
    job: &Job,
    order: &Order<'_>,
    url: &Url,
    body: &Bytes,
    clients: &Clients,
) -> Result<Response, Failure> {
    let host = url.host_str().unwrap_or_default();
    if let Some(address) = literal(host) {
        clients.policy.check(host, address, port(url)).map_err(Failure::permanent)?;
    }
    let request = clients.client(url)?.post(url.clone()).headers(headers(job, order, url, body));
    request.body(body.clone()).send().await.map_err(|error| trouble(url, error))
}

fn headers(job: &Job, order: &Order<'_>, url: &Url, body: &[u8]) -> HeaderMap {
    // Another server gets the claim, which it was redirected to, and not what was meant for the first.
    let same = url.origin() == order.url.origin();
    let mut headers = if same { order.headers.clone() } else { HeaderMap::new() };
    let at = Timestamp::now().as_second();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("webhook-timestamp", HeaderValue::from(at));
    // A host's job ids are hex; any other host's may be what no header can say.
    let id = HeaderValue::from_str(job.id());
    headers.extend(id.ok().map(|id| (HeaderName::from_static("webhook-id"), id)));
    if let Some(secret) = order.secret {
        let signature = HeaderValue::try_from(secret.sign(job.id(), at, body));
        headers.insert("webhook-signature", signature.expect("base64 can stand in a header"));
    }
    headers
}

enum Judged {
    Done(StatusCode),
    Follow(Url),
}

async fn judge(url: &Url, response: Response) -> Result<Judged, Failure> {
    let status = response.status();
    let header = |name: HeaderName| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let (retry_after, location) = (header(RETRY_AFTER), header(LOCATION));
    let verdict = verdict(status, retry_after.as_deref(), Timestamp::now());
    // Also of a good answer, so that the connection can be used again.
    let text = text(response).await;
    let said = said(url, status, &text);
    match verdict {
        Verdict::Done => Ok(Judged::Done(status)),
        Verdict::NotNow(after) => Err(Failure::not_now(after, said)),
        Verdict::Retry => Err(Failure::retry(said)),
        Verdict::Never(Some(hint)) => Err(Failure::permanent(format!("{said}; {hint}"))),
        Verdict::Never(None) if status.is_redirection() => {
            Err(Failure::permanent(elsewhere(url, status, location.as_deref())))
        }
        Verdict::Never(None) => Err(Failure::permanent(said)),
        Verdict::Redirect => next(url, status, location.as_deref()).map(Judged::Follow),
    }
}

/// What an answer says, as far as it can be had quickly: the status has decided already.
async fn text(mut response: Response) -> String {
    let mut bytes = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            bytes.extend_from_slice(&chunk);
            if bytes.len() >= ANSWER_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(ANSWER_WITHIN, read).await;
    shown(&String::from_utf8_lossy(&bytes), ANSWER_SHOWN_MAX)
}

fn said(url: &Url, status: StatusCode, text: &str) -> String {
    let said = format!("{} answered {}", origin(url), named(status));
    if text.is_empty() { said } else { format!("{said}: {text}") }
}

fn named(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// Where a redirect leads that is to be followed.
fn next(url: &Url, status: StatusCode, location: Option<&str>) -> Result<Url, Failure> {
    let joined = location.and_then(|text| url.join(text).ok());
    let Some(next) = joined.filter(|next| matches!(next.scheme(), "http" | "https")) else {
        let (whom, named) = (origin(url), named(status));
        return Err(Failure::permanent(format!("{whom} answered {named} without a URL to go to")));
    };
    if url.scheme() == "https" && next.scheme() == "http" {
        let (whom, there) = (origin(url), place(&next));
        return Err(Failure::permanent(format!(
            "{whom} redirects to {there}, which is not encrypted: not followed"
        )));
    }
    Ok(next)
}

/// A redirect that would turn the POST into something else.
fn elsewhere(url: &Url, status: StatusCode, location: Option<&str>) -> String {
    let (whom, named) = (origin(url), named(status));
    match location.and_then(|text| url.join(text).ok()) {
        Some(there) => {
            let there = place(&there);
            format!("{whom} answered {named} and points to {there}: set url to that")
        }
        None => format!("{whom} answered {named}"),
    }
}

/// Why no answer came.
fn trouble(url: &Url, error: reqwest::Error) -> Failure {
    if let Some(refused) = find::<Refused>(&error) {
        // The client may be one for all ports; this is the one that was asked for.
        return Failure::permanent(Refused { port: port(url), ..refused.clone() });
    }
    let (whom, cause) = (origin(url), root(&error));
    Failure::retry(if error.is_dns() {
        format!("cannot find {whom}: {cause}")
    } else if error.is_connect() {
        format!("cannot connect to {whom}: {cause}")
    } else {
        format!("{whom} gave no whole answer: {cause}")
    })
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The last cause, which says it plainest and holds no URL.
fn root(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Scheme, host and port: paths of webhooks are often secret, and so is the rest.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// With the path, for a receiver that says where it wants to be called.
fn place(url: &Url) -> String {
    format!("{}{}", origin(url), url.path())
}

fn port(url: &Url) -> u16 {
    url.port_or_known_default().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_is_called() {
        for text in ["ftp://x/", "file:///etc/passwd", "x", "", "http://", "https://[::1"] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }

    /// All ways to write an address of this machine end up as that address, so that the check sees it.
    #[test]
    fn odd_forms_of_an_address_are_addresses() {
        let cases = [
            ("http://2130706433/", "127.0.0.1"),
            ("http://0x7f.1/", "127.0.0.1"),
            ("http://0177.0.0.1/", "127.0.0.1"),
            ("http://127.1/", "127.0.0.1"),
            ("http://127.0.0.1./", "127.0.0.1"),
            ("http://①②⑦.0.0.1/", "127.0.0.1"),
            ("http://user@0/", "0.0.0.0"),
            ("http://[::1]/", "::1"),
            ("http://[::ffff:127.0.0.1]/", "::ffff:127.0.0.1"),
            ("http://[0:0:0:0:0:ffff:7f00:1]/", "::ffff:127.0.0.1"),
        ];
        for (text, expected) in cases {
            let url = parse_url(text).unwrap();
            let found = literal(url.host_str().unwrap());
            assert_eq!(found, Some(expected.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn headers_that_are_ours_cannot_be_given() {
        let cases = [
            ("X-Team", "hr", true),
            ("Authorization", "Bearer x", true),
            ("Webhook-Id", "1", false),
            ("webhook-signature", "v1,", false),
            ("Content-Type", "text/plain", false),
            ("HOST", "x", false),
            ("Content-Length", "1", false),
            ("Transfer-Encoding", "chunked", false),
            ("two words", "x", false),
            ("X", "a\r\nB: c", false),
        ];
        for (name, value, good) in cases {
            assert_eq!(parse_header(name, value).is_ok(), good, "{name}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let url = parse_url("https://user:pass@example.com:8443/hook/T0KEN?key=1#x").unwrap();
        assert_eq!(origin(&url), "https://example.com:8443");
        assert_eq!(place(&url), "https://example.com:8443/hook/T0KEN");
    }

    #[test]
    fn redirects_stay_encrypted() {
        let secure = parse_url("https://a.example/x").unwrap();
        let status = StatusCode::PERMANENT_REDIRECT;
        let cases = [
            // (Location, where it leads)
            (Some("/y"), Some("https://a.example/y")),
            (Some("//b.example/y"), Some("https://b.example/y")),
            (Some("http://a.example/y"), None),
            (Some("ftp://a.example/y"), None),
            (Some("https://"), None),
            (None, None),
        ];
        for (location, expected) in cases {
            let found = next(&secure, status, location).ok();
            assert_eq!(found.as_ref().map(Url::as_str), expected, "{location:?}");
        }
    }
}
