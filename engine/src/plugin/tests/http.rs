//! HTTP requests to a plugin's server, over a real connection.

use axwatch_proto::protocol::{HttpHeader, HttpRequest, HttpResponse};
use tokio::net::TcpListener;
use tonic::Status;

use super::fake::{Fake, answer};
use super::*;
use crate::plugin::caller::Caller;
use crate::plugin::grpc::channel;
use crate::plugin::http::{ANSWER_WITHIN, Reach};
use crate::plugin::token::Token;
use crate::plugin::transit::{CALLS_MAX, Transit};
use crate::plugin::{CallError, Callable, HttpCall, HttpReply};

/// What fits through in these tests.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A plugin with this server, and the one that stands for its process.
pub(super) async fn callable(fake: Fake) -> (Callable, Arc<Caller>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(fake.serve(listener));
    let caller = Arc::new(Caller::new("zoo".parse().unwrap(), 3, false, Arc::default()));
    let token = Arc::new(Token::known("a secret"));
    let reach = Reach { channel: channel(port, 64), caller: caller.clone(), token };
    let transit = Transit::new(BODY_BYTES_MAX).of_plugin();
    let within = ANSWER_WITHIN;
    (Callable { plugin: "zoo".parse().unwrap(), transit, reach, within }, caller)
}

fn zoo(
    reply: impl Fn(HttpRequest) -> Result<HttpResponse, Status> + Send + Sync + 'static,
) -> Fake {
    let http = answer(move |request| std::future::ready(reply(request)));
    Fake { http, ..Fake::named("zoo") }
}

fn call(path: &str) -> HttpCall {
    HttpCall {
        method: "POST".into(),
        path: path.into(),
        full_path: format!("/api/zoo{path}"),
        headers: vec![("accept".into(), vec!["a".into(), "b".into()])],
        body: b"body"[..].into(),
    }
}

async fn ask(callable: &Callable, path: &str) -> Result<HttpReply, CallError> {
    soon(callable.http(call(path), callable.load())).await
}

#[tokio::test]
async fn a_request_arrives_as_it_is_and_so_does_its_answer() {
    let fake = zoo(|request| {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/x?y=1"));
        assert_eq!(&request.body[..], b"body");
        let [HttpHeader { name, values }] = &request.headers[..] else { panic!("one header") };
        assert_eq!((name.as_str(), values.join(",")), ("accept", "a,b".to_owned()));
        let cookies = vec!["a=1".to_owned(), "b=2".to_owned()];
        let headers = vec![HttpHeader { name: "Set-Cookie".into(), values: cookies }];
        Ok(HttpResponse { status_code: 201, headers, body: request.body })
    });
    let (callable, _) = callable(fake).await;
    let reply = ask(&callable, "/x?y=1").await.unwrap();
    assert_eq!((reply.status, &reply.body[..]), (201, &b"body"[..]));
    assert_eq!(reply.headers, [("Set-Cookie".to_owned(), vec!["a=1".into(), "b=2".into()])]);
}

#[tokio::test]
async fn an_answer_that_would_swell_is_refused() {
    let fake = zoo(|_| {
        let headers = vec![HttpHeader::default(); 10_000];
        Ok(HttpResponse { status_code: 200, headers, ..Default::default() })
    });
    let (callable, _) = callable(fake).await;
    let Err(CallError::Failed { error, .. }) = ask(&callable, "/").await else { panic!("refused") };
    assert!(error.contains("over 256 KiB in memory"), "{error}");
}

#[tokio::test]
async fn a_plugin_that_answers_is_busy_until_it_has() {
    let (asked, mut was_asked) = mpsc::unbounded_channel();
    let http = answer(move |_| {
        let asked = asked.clone();
        async move {
            let (go_on, may_go_on) = oneshot::channel();
            asked.send(go_on).unwrap();
            may_go_on.await.unwrap();
            Ok(HttpResponse { status_code: 200, ..Default::default() })
        }
    });
    let (callable, caller) = callable(Fake { http, ..Fake::named("zoo") }).await;
    assert!(!caller.is_answering());
    let (reply, ()) = tokio::join!(ask(&callable, "/"), async {
        let go_on = was_asked.recv().await.unwrap();
        assert!(caller.is_answering());
        go_on.send(()).unwrap();
    });
    assert!(reply.is_ok() && !caller.is_answering());
}

/// Who hangs is not excused by those whom it lets wait.
#[tokio::test]
async fn a_plugin_that_let_a_request_go_by_is_busy_no_more() {
    let http = answer(|request: HttpRequest| async move {
        if request.path == "/hangs" {
            std::future::pending::<()>().await;
        }
        Ok(HttpResponse { status_code: 200, ..Default::default() })
    });
    let (mut callable, caller) = callable(Fake { http, ..Fake::named("zoo") }).await;
    callable.within = Duration::from_millis(50);
    let reply = ask(&callable, "/hangs").await;
    assert!(matches!(reply, Err(CallError::TooSlow { .. })));
    let answering = caller.begin_answering();
    assert!(!caller.is_answering(), "the next one may hang too");
    callable.within = ANSWER_WITHIN;
    assert!(ask(&callable, "/").await.is_ok());
    assert!(caller.is_answering(), "it answers again");
    drop(answering);
}

#[tokio::test]
async fn what_is_not_found_is_looked_for_once_more_under_the_full_path() {
    let (asked, paths) = std::sync::mpsc::channel();
    let fake = zoo(move |request| {
        asked.send(request.path.clone()).unwrap();
        let is_full = request.path.starts_with("/api/zoo/full");
        let status_code = if is_full { 200 } else { 404 };
        Ok(HttpResponse { status_code, ..Default::default() })
    });
    let (callable, _) = callable(fake).await;
    for (path, status) in [("/full?q", 200), ("/absent", 404)] {
        assert_eq!(ask(&callable, path).await.unwrap().status, status);
        assert_eq!(
            paths.try_iter().collect::<Vec<_>>(),
            [path.to_owned(), format!("/api/zoo{path}")]
        );
    }
}

#[tokio::test]
async fn a_failure_is_told_as_what_it_is() {
    let fake = zoo(|request| match &request.path[..] {
        "/absent" => Err(Status::unimplemented("no")),
        path if path.starts_with('/') && path[1..].parse::<usize>().is_ok() => Ok(HttpResponse {
            status_code: 200,
            body: vec![0; path[1..].parse().unwrap()].into(),
            ..Default::default()
        }),
        _ => Err(Status::internal("broken\u{1b}[31m, with a secret")),
    });
    let (callable, _) = callable(fake).await;
    assert!(matches!(ask(&callable, "/absent").await, Err(CallError::NotServed { .. })));
    let failed = ask(&callable, "/broken").await.err().unwrap().to_string();
    assert!(failed.contains("broken, with [redacted]"), "{failed}");
    // Also what would fit beside the headers that there may be.
    for bytes in [BODY_BYTES_MAX + 1, BODY_BYTES_MAX + 200_000] {
        let large = ask(&callable, &format!("/{bytes}")).await.err().unwrap().to_string();
        assert!(large.contains("a body of more than 1048576 bytes"), "{bytes}: {large}");
    }
    assert!(ask(&callable, &format!("/{BODY_BYTES_MAX}")).await.is_ok());
    // What went wrong holds no room.
    assert!(callable.load().take(2 * BODY_BYTES_MAX));
}

#[tokio::test]
async fn a_process_that_ends_ends_its_calls() {
    let fake = Fake { http: answer(|_| std::future::pending()), ..Fake::named("zoo") };
    let (callable, caller) = callable(fake).await;
    let asking = callable.http(call("/"), callable.load());
    let ending = async { caller.kill() };
    let (reply, ()) = soon(futures::future::join(asking, ending)).await;
    assert!(matches!(reply, Err(CallError::Away { .. })));
}

#[tokio::test]
async fn calls_are_bounded_in_number_and_bytes() {
    let fake = zoo(|_| {
        let body = vec![7; BODY_BYTES_MAX].into();
        Ok(HttpResponse { status_code: 200, body, ..Default::default() })
    });
    let (callable, _) = callable(fake).await;
    let places: Vec<_> = (0..CALLS_MAX).map(|_| callable.transit.begin_call().unwrap()).collect();
    assert!(matches!(ask(&callable, "/").await, Err(CallError::Busy { .. })));
    drop(places);
    // A plugin has half the room of four bodies: two that nobody has passed on yet.
    let (one, other) = (ask(&callable, "/").await.unwrap(), ask(&callable, "/").await.unwrap());
    assert!(matches!(ask(&callable, "/").await, Err(CallError::NoRoom)));
    drop(one);
    let again = ask(&callable, "/").await.unwrap();
    assert_eq!((again.body.len(), other.body.len()), (BODY_BYTES_MAX, BODY_BYTES_MAX));
}
