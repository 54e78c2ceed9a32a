//! `notify.webhook`.

use std::time::{Duration, Instant};

use axwatch_plugin_notify::plugin;
use axwatch_sdk::Failure;
use axwatch_sdk::testing::{Harness, TestJob};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::receiver::{Receiver, Reply, Request, answer};
use crate::{AT_MOST, fire, not_now, permanent, retry};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";

/// A plugin that may call these, and has these settings.
async fn started(receivers: &[&Receiver], settings: &[(&str, &str)]) -> Harness {
    let allow: Vec<String> = receivers.iter().map(|receiver| receiver.address()).collect();
    let allow = serde_json::to_string(&allow).unwrap();
    let own = [("webhook.allow", allow.as_str())];
    Harness::start_with(plugin(), own.iter().chain(settings).copied()).await
}

fn call(url: &str) -> TestJob {
    fire("notify.webhook").params_json(json!({ "url": url }))
}

async fn failure(harness: &Harness, job: TestJob) -> Failure {
    let answered = tokio::time::timeout(AT_MOST, harness.execute(job)).await;
    answered.expect("an answer in time").expect_failure()
}

/// What a receiver does by the standard: the signatures of the bytes that came, computed from the
/// headers that came.
fn expected_signature(request: &Request, secret: &str) -> String {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(request.headers["webhook-id"].as_bytes());
    mac.update(b".");
    mac.update(request.headers["webhook-timestamp"].as_bytes());
    mac.update(b".");
    mac.update(&request.body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn a_fire_is_a_signed_post_with_the_job_as_delivery_id() {
    let receiver = Receiver::start(|_| answer(200, &[], "ok")).await;
    let settings = [("webhook.secret", SECRET)];
    let harness = started(&[&receiver], &settings).await;
    let job = call(&receiver.url("/hook?key=1"));
    let id = job.id().to_owned();
    let claim = r#"{"subjects":["A"],"id":"x","created_at":"2026-01-02T03:04:05Z","attributes":{"z":1.50}}"#;
    let outcome = harness.execute(job.clone().payload(claim)).await.expect_done();
    assert_eq!(outcome.result_as::<Value>()["status"], 200);
    harness.execute(job.payload(claim).attempt(2)).await.expect_done();

    let requests = receiver.requests();
    let request = &requests[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/hook?key=1"));
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(requests[0].headers["webhook-id"], id);
    assert_eq!(requests[1].headers["webhook-id"], id, "the same on every attempt");
    assert_eq!(request.headers["webhook-signature"], expected_signature(request, SECRET));
    assert_eq!(
        String::from_utf8(request.body.clone()).unwrap(),
        format!(
            r#"{{"type":"axwatch.fire","timestamp":"2026-01-02T03:04:05Z","data":{{"job_id":"{id}","attempt":1,"watcher":"user-hr","attestation":{claim}}}}}"#
        )
    );
    assert_eq!(receiver.connections(), 1, "a connection is used again");
}

#[tokio::test]
async fn a_job_without_a_claim_carries_its_payload() {
    let receiver = Receiver::start(|_| answer(204, &[], "")).await;
    let url = receiver.url("/");
    let harness = started(&[&receiver], &[("webhook.url", &url)]).await;
    for payload in [&b"{\"n\":1}"[..], b"\xff"] {
        let job = TestJob::new("notify.webhook").payload(payload);
        harness.execute(job).await.expect_done();
    }
    let bodies: Vec<Value> = receiver
        .requests()
        .iter()
        .map(|request| serde_json::from_slice(&request.body).unwrap())
        .collect();
    assert_eq!(
        (&bodies[0]["type"], &bodies[0]["data"]["payload"]["n"]),
        (&json!("axwatch.job"), &json!(1))
    );
    assert_eq!(bodies[1]["data"]["payload_base64"], "/w==");
    assert!(!receiver.requests()[0].headers.contains_key("webhook-signature"), "no secret is set");
}

#[tokio::test]
async fn secrets_are_chosen_by_name_and_may_be_several() {
    let receiver = Receiver::start(|_| answer(200, &[], "")).await;
    let both = format!("{SECRET} {OTHER}");
    let settings = [("webhook.secret", OTHER), ("webhook.secrets.main", both.as_str())];
    let harness = started(&[&receiver], &settings).await;
    let url = receiver.url("/");
    let job = fire("notify.webhook").params_json(json!({"url": url, "secret": "main"}));
    harness.execute(job).await.expect_done();
    let request = &receiver.requests()[0];
    let expected =
        format!("{} {}", expected_signature(request, SECRET), expected_signature(request, OTHER));
    assert_eq!(request.headers["webhook-signature"], expected);

    for (name, says) in [("mian", "such as \"main\""), (SECRET, "never a secret itself")] {
        let job = fire("notify.webhook").params_json(json!({"url": url, "secret": name}));
        let reason = permanent(failure(&harness, job).await);
        assert!(reason.contains(says) && !reason.contains(SECRET), "{reason}");
    }
}

#[tokio::test]
async fn configured_headers_go_to_the_configured_url_alone() {
    let receiver = Receiver::start(|_| answer(200, &[], "")).await;
    let url = receiver.url("/configured");
    let settings =
        [("webhook.url", url.as_str()), ("webhook.headers.Authorization", "Bearer s3cret")];
    let harness = started(&[&receiver], &settings).await;
    harness.execute(fire("notify.webhook")).await.expect_done();
    harness.execute(call(&receiver.url("/named"))).await.expect_done();
    let named = json!({"url": receiver.url("/own"), "headers": {"X-Team": "hr"}});
    harness.execute(fire("notify.webhook").params_json(named)).await.expect_done();
    let found: Vec<_> = receiver
        .requests()
        .iter()
        .map(|request| {
            let header = |name: &str| request.headers.get(name).cloned();
            (request.path.clone(), header("authorization"), header("x-team"))
        })
        .collect();
    let expected = [
        ("/configured".to_owned(), Some("Bearer s3cret".to_owned()), None),
        ("/named".to_owned(), None, None),
        ("/own".to_owned(), None, Some("hr".to_owned())),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn bad_parameters_say_what_is_right() {
    let harness = Harness::start(plugin()).await;
    let cases = [
        (json!({}), "does not know whom to call"),
        (json!({"uri": "http://x"}), "did you mean \"url\"?"),
        (json!({"url": "ftp://u:s3cret@x/"}), "must be a URL that begins with https:// or http://"),
        (json!({"url": "s3cret"}), "must be a URL such as"),
        (json!({"url": "http://x", "timeout_secs": 301}), "seconds, 1 to 300"),
        (
            json!({"url": "http://x", "headers": {"Webhook-Id": "s3cret"}}),
            "sets this header itself",
        ),
        (
            json!({"url": "http://x", "headers": {"A": "s3cret\n"}}),
            "a text without control characters",
        ),
        (json!({"url": "http://x", "headers": "s3cret"}), "an object of texts"),
    ];
    for (params, says) in cases {
        let job = fire("notify.webhook").params_json(&params);
        let reason = permanent(failure(&harness, job).await);
        assert!(reason.contains(says), "{params}: {reason}");
        assert!(!reason.contains("s3cret"), "{reason}");
    }
}

/// Answers by the last part of the path.
fn by_path(request: &Request) -> Reply {
    match request.path.as_str() {
        "/500" => answer(500, &[], "disk\u{7} full\nsorry"),
        "/503" => answer(503, &[], ""),
        "/503-later" => answer(503, &[("Retry-After", "120")], ""),
        "/429" => answer(429, &[], "slow down"),
        "/429-later" => answer(429, &[("Retry-After", "7")], ""),
        "/429-date" => answer(429, &[("Retry-After", "Mon, 06 Nov 2090 08:49:37 GMT")], ""),
        "/408" => answer(408, &[], ""),
        "/400" => answer(400, &[], "no such field"),
        "/404" => answer(404, &[], ""),
        "/410" => answer(410, &[], ""),
        "/301" => answer(301, &[("Location", "/moved?key=s3cret")], ""),
        "/302" => answer(302, &[], ""),
        "/308-nowhere" => answer(308, &[], ""),
        "/loop" => answer(307, &[("Location", "/loop")], ""),
        "/close" => Reply::Close,
        "/garbage" => Reply::Say(b"SSH-2.0-OpenSSH_9\r\n\r\n".to_vec()),
        "/half" => Reply::SayAndHang(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        "/hang" => Reply::SayAndHang(Vec::new()),
        "/huge" => answer(500, &[], &"x".repeat(5_000_000)),
        "/drip-200" => {
            Reply::SayAndHang(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsl".to_vec())
        }
        "/drip-500" => {
            Reply::SayAndHang(b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nsl".to_vec())
        }
        _ => answer(200, &[], ""),
    }
}

#[tokio::test]
async fn every_answer_has_its_consequence() {
    let receiver = Receiver::start(by_path).await;
    let harness = started(&[&receiver], &[]).await;
    let said = |rest: &str| format!("http://{} {rest}", receiver.address());
    let secs = Duration::from_secs;
    let later = |after, rest: &str| Failure::not_now(after, said(rest));
    let cases = [
        ("/500", Failure::retry(said("answered 500 Internal Server Error: disk  full sorry"))),
        ("/503", Failure::retry(said("answered 503 Service Unavailable"))),
        ("/503-later", later(secs(120), "answered 503 Service Unavailable")),
        ("/429", later(secs(30), "answered 429 Too Many Requests: slow down")),
        ("/429-later", later(secs(7), "answered 429 Too Many Requests")),
        ("/429-date", later(secs(86_400), "answered 429 Too Many Requests")),
        ("/408", later(secs(30), "answered 408 Request Timeout")),
        ("/400", Failure::permanent(said("answered 400 Bad Request: no such field"))),
        ("/404", Failure::permanent(said("answered 404 Not Found"))),
        (
            "/410",
            Failure::permanent(said(
                "answered 410 Gone; the receiver is gone for good: remove the watcher",
            )),
        ),
        (
            "/301",
            Failure::permanent(said(&format!(
                "answered 301 Moved Permanently and points to {}: set url to that",
                receiver.url("/moved")
            ))),
        ),
        ("/302", Failure::permanent(said("answered 302 Found"))),
        (
            "/308-nowhere",
            Failure::permanent(said("answered 308 Permanent Redirect without a URL to go to")),
        ),
        ("/loop", Failure::permanent(said("redirects more than 5 times"))),
        (
            "/huge",
            Failure::retry(said(&format!(
                "answered 500 Internal Server Error: {}…",
                "x".repeat(200)
            ))),
        ),
    ];
    for (path, expected) in cases {
        assert_eq!(failure(&harness, call(&receiver.url(path))).await, expected, "{path}");
    }
}

#[tokio::test]
async fn no_answer_is_a_retry_that_says_why() {
    let receiver = Receiver::start(by_path).await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = nobody.local_addr().unwrap();
    drop(nobody);
    let settings = [("webhook.allow_private", "true"), ("webhook.timeout_secs", "5")];
    let harness = started(&[&receiver], &settings).await;
    let tls = format!("https://{}/", receiver.address());
    let cases = [
        (receiver.url("/close"), "gave no whole answer"),
        (receiver.url("/garbage"), "gave no whole answer"),
        (format!("http://{refused}/"), "cannot connect to http://127.0.0.1"),
        ("http://nobody.invalid/".to_owned(), "cannot find http://nobody.invalid"),
        (tls, "https"),
    ];
    for (url, says) in cases {
        let reason = retry(failure(&harness, call(&url)).await);
        assert!(reason.contains(says), "{url}: {reason}");
    }
    for path in ["/half", "/hang"] {
        let params = json!({"url": receiver.url(path), "timeout_secs": 1});
        let reason = retry(failure(&harness, fire("notify.webhook").params_json(params)).await);
        assert!(reason.contains("did not answer within 1 s"), "{path}: {reason}");
    }
    let reason = retry(
        failure(&harness, call(&receiver.url("/hang")).deadline(Duration::from_secs(1))).await,
    );
    assert!(reason.contains("did not answer within 0.9 s"), "before the host gives up: {reason}");
}

#[tokio::test]
async fn the_status_decides_when_the_rest_never_comes() {
    let receiver = Receiver::start(by_path).await;
    let harness = started(&[&receiver], &[("webhook.timeout_secs", "60")]).await;
    let began = Instant::now();
    harness.execute(call(&receiver.url("/drip-200"))).await.expect_done();
    let reason = retry(failure(&harness, call(&receiver.url("/drip-500"))).await);
    assert!(reason.ends_with("500 Internal Server Error: sl"), "{reason}");
    assert!(began.elapsed() < Duration::from_secs(30), "the body was waited for");
}

#[tokio::test]
async fn a_redirect_is_followed_with_the_same_delivery() {
    let there = Receiver::start(|_| answer(200, &[], "")).await;
    let target = there.url("/there");
    let here = Receiver::start(move |request| match request.path.as_str() {
        "/near" => answer(308, &[("Location", "here")], ""),
        "/far" => answer(307, &[("Location", &target)], ""),
        _ => answer(200, &[], ""),
    })
    .await;
    let harness = started(&[&here, &there], &[("webhook.secret", SECRET)]).await;
    for path in ["/near", "/far"] {
        let params = json!({"url": here.url(path), "headers": {"Authorization": "s3cret"}});
        harness.execute(fire("notify.webhook").params_json(params)).await.expect_done();
    }
    let near = &here.requests()[1];
    assert_eq!((near.path.as_str(), near.headers["authorization"].as_str()), ("/here", "s3cret"));
    let (first, last) = (&here.requests()[2], &there.requests()[0]);
    assert_eq!((last.method.as_str(), last.path.as_str()), ("POST", "/there"));
    assert_eq!(last.body, first.body);
    assert_eq!(last.headers["webhook-id"], first.headers["webhook-id"]);
    assert_eq!(last.headers["webhook-signature"], expected_signature(last, SECRET));
    assert!(!last.headers.contains_key("authorization"), "another server is told no secret");
}

#[tokio::test]
async fn private_addresses_are_refused_however_they_are_reached() {
    let private = Receiver::start(|_| answer(200, &[], "")).await;
    let port = private.address().rsplit_once(':').unwrap().1.to_owned();
    let target = private.url("/inside");
    let named = format!("http://localhost:{port}/inside");
    let front = Receiver::start(move |request| match request.path.as_str() {
        "/to-address" => answer(307, &[("Location", &target)], ""),
        _ => answer(308, &[("Location", &named)], ""),
    })
    .await;
    let harness = started(&[&front], &[]).await;
    let urls = [
        private.url("/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://0177.0.0.1:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://[::ffff:7f00:1]:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://user:s3cret@localhost:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        format!("http://[::]:{port}/"),
        front.url("/to-address"),
        front.url("/to-name"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://10.0.0.1/".to_owned(),
        "http://[fe80::1]/".to_owned(),
        "http://[64:ff9b::7f00:1]/".to_owned(),
    ];
    for url in urls {
        let reason = permanent(failure(&harness, call(&url)).await);
        assert!(reason.starts_with("refusing to call "), "{url}: {reason}");
        assert!(reason.contains(": allow it with [notify.webhook] allow = [\""), "{url}: {reason}");
        assert!(!reason.contains("s3cret"), "{reason}");
    }
    assert_eq!(private.connections(), 0, "nobody even connected");
    let reason = permanent(failure(&harness, call(&private.url("/"))).await);
    assert_eq!(
        reason,
        format!(
            "refusing to call 127.0.0.1 (loopback): allow it with [notify.webhook] allow = [\"127.0.0.1:{port}\"]"
        )
    );
}

#[tokio::test]
async fn what_is_allowed_is_called() {
    let receiver = Receiver::start(|_| answer(200, &[], "")).await;
    let other = Receiver::start(|_| answer(200, &[], "")).await;
    let address = receiver.address();
    let port = address.rsplit_once(':').unwrap().1.to_owned();
    let other_port = other.address().rsplit_once(':').unwrap().1.to_owned();
    let rules = [
        "127.0.0.1".to_owned(),
        "127.0.0.0/8".to_owned(),
        address,
        "localhost".to_owned(),
        format!("localhost:{port}"),
    ];
    for rule in rules {
        let allow = json!([rule]).to_string();
        let harness = Harness::start_with(plugin(), [("webhook.allow", allow)]).await;
        harness.execute(call(&format!("http://localhost:{port}/"))).await.expect_done();
        if rule.ends_with(&port) {
            let url = format!("http://localhost:{other_port}/");
            permanent(failure(&harness, call(&url)).await);
        }
    }
    assert_eq!(other.connections(), 0, "another port is not allowed by a rule with one");
}

#[tokio::test]
async fn a_rule_that_is_taken_away_counts_at_once() {
    let receiver = Receiver::start(|_| answer(200, &[], "")).await;
    let mut harness = started(&[&receiver], &[]).await;
    harness.execute(call(&receiver.url("/"))).await.expect_done();
    harness.reconfigure([("webhook.allow", "[]")]).await.unwrap();
    // A connection to it is still open.
    permanent(failure(&harness, call(&receiver.url("/"))).await);
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn being_put_off_is_no_attempt() {
    let receiver = Receiver::start(by_path).await;
    let harness = started(&[&receiver], &[]).await;
    let (after, _) = not_now(failure(&harness, call(&receiver.url("/429-later"))).await);
    assert_eq!(after, Duration::from_secs(7));
}
