//! Jobs to a plugin's server, over a real connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axwatch_core::Start;
use axwatch_core::supervise::Seen;
use axwatch_model::{JobId, JobNumber};
use axwatch_proto::protocol::{Empty, ExecuteJobResponse, JobLogEntry};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::fake::{Fake, answer};
use super::*;
use crate::dispatch::{EXTENDED_MAX, Moves, Overdue};
use crate::plugin::caller::Caller;
use crate::plugin::door::answered;
use crate::plugin::grpc::{GrpcPlugin, channel, client};
use crate::plugin::output::Capture;
use crate::plugin::tail::{Log, Told};
use crate::plugin::token::Token;

/// The way to a plugin's server.
struct Way {
    plugin: GrpcPlugin,
    caller: Arc<Caller>,
    seen: mpsc::UnboundedReceiver<(u64, Seen)>,
}

fn way(port: u16, deadline: Duration) -> Way {
    way_with_log(port, deadline, log())
}

fn way_with_log(port: u16, deadline: Duration, log: Arc<Log>) -> Way {
    let caller = Arc::new(Caller::new("git".parse().unwrap(), 3, false, Arc::default()));
    caller.announce(["git.do".to_owned()]);
    let (tell, seen) = mpsc::unbounded_channel();
    let capture = Capture::new("git", token(), log);
    let client = client(channel(port, 64));
    let plugin = GrpcPlugin::new(client, deadline, caller.clone(), token(), capture, tell);
    Way { plugin, caller, seen }
}

fn token() -> Arc<Token> {
    Arc::new(Token::known("a secret"))
}

fn log() -> Arc<Log> {
    Arc::new(Log::new(Arc::new(SystemClock::new())))
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

async fn serve(fake: Fake) -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(fake.serve(listener));
    port
}

fn attempt() -> Attempt {
    let start = Start {
        job: JobNumber(1),
        id: JobId([0xab; 16]),
        attempt: 2,
        plugin: "git".parse().unwrap(),
        incarnation: 3,
        handler: "git.do".into(),
        seq: None,
        payload: None,
        params: Some("{\"n\":1}".into()),
        watcher: "user-w".into(),
        watcher_number: None,
        revision: 5,
        handler_version: Some("A7".parse().unwrap()),
        schedule: "nightly".into(),
    };
    Attempt { start, payload: bytes::Bytes::from_static(b"{}"), moves: Moves::none() }
}

#[tokio::test]
async fn a_plugin_gets_the_attempt_and_no_deadline_in_its_headers() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let execute = answer(move |request: tonic::Request<_>| {
        tell.send(request).unwrap();
        async { Ok(ExecuteJobResponse { success: true, result: "r".into(), ..Default::default() }) }
    });
    let port = serve(Fake { execute, ..Fake::named("git") }).await;
    let ended = way(port, PATIENCE).plugin.run(&attempt()).await;
    assert_eq!(ended.outcome, Outcome::Succeeded { result: Some(Arc::from(b"r".as_slice())) });
    assert!(ended.quick);

    let request = told.recv().await.unwrap();
    assert!(request.metadata().get("grpc-timeout").is_none(), "{:?}", request.metadata());
    let request = request.into_inner();
    assert_eq!(request.job_id, "ab".repeat(16));
    assert_eq!((request.handler_name.as_str(), &request.payload[..]), ("git.do", &b"{}"[..]));
    assert_eq!((request.timeout_secs, request.attempt, request.revision), (Some(60), 2, 5));
    assert_eq!((&request.params[..], request.watcher.as_str()), (&b"{\"n\":1}"[..], "user-w"));
    assert_eq!((&*request.handler_version, &*request.schedule), ("A7", "nightly"));
}

#[tokio::test]
async fn a_job_that_was_done_is_done_however_much_it_says() {
    let execute = answer(|_| async {
        let entry = |n| JobLogEntry { message: format!("row {n}"), ..Default::default() };
        let log_entries = (0..500_000).map(entry).collect();
        let result = "r".into();
        Ok(ExecuteJobResponse { success: true, log_entries, result, ..Default::default() })
    });
    let port = serve(Fake { execute, ..Fake::named("git") }).await;
    let log = log();
    let ended = way_with_log(port, PATIENCE, log.clone()).plugin.run(&attempt()).await;
    assert_eq!(ended.outcome, Outcome::Succeeded { result: Some(Arc::from(b"r".as_slice())) });
    let Some(Told::Lines(lines)) = log.tail(1_000).ready() else { panic!("there are lines") };
    assert_eq!(lines.len(), 100);
}

/// A server that answers every call with these bytes, as if they were a message.
#[derive(Clone)]
struct Saying(&'static [u8]);

impl NamedService for Saying {
    const NAME: &'static str = "protocol.DomainPluginService";
}

impl Service<http::Request<Body>> for Saying {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<http::Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        std::future::ready(Ok(answered(self.0)))
    }
}

/// Some plugins are restarted while they answer, and some are mended: what is no answer is asked for again.
#[tokio::test]
async fn an_answer_that_is_no_message_is_tried_again() {
    // (bytes, how it ends)
    let cases: [(&[u8], &str); 3] = [
        (&[0x0a, 200], "Retryable"),
        (&[0x08, 1, 0x0e], "Retryable"),
        // A group that nobody knows.
        (&[0x08, 1, 0xc3, 0x3e, 0xc4, 0x3e], "Succeeded"),
    ];
    for (bytes, expected) in cases {
        let (listener, port) = listen().await;
        let server = Server::builder().add_service(Saying(bytes));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let ended = way(port, PATIENCE).plugin.run(&attempt()).await;
        let outcome = format!("{:?}", ended.outcome);
        assert!(outcome.starts_with(expected), "{bytes:?}: {outcome}");
    }
}

#[tokio::test]
async fn what_replies_bring_along_is_logged_at_the_rate_of_the_output() {
    let execute = answer(|_| async {
        let entry = JobLogEntry { message: "x".repeat(4_000), ..Default::default() };
        let log_entries = vec![entry; 100];
        Ok(ExecuteJobResponse { success: true, log_entries, ..Default::default() })
    });
    let port = serve(Fake { execute, ..Fake::named("git") }).await;
    let log = log();
    let way = way_with_log(port, PATIENCE, log.clone());
    way.plugin.run(&attempt()).await;
    let Some(Told::Lines(lines)) = log.tail(1_000).ready() else { panic!("there are lines") };
    // 256 KiB in a second, and it takes none.
    assert!((60..100).contains(&lines.len()), "{}", lines.len());
}

#[tokio::test]
async fn a_deadline_is_ours_to_keep() {
    let (dropped, was_dropped) = tokio::sync::watch::channel(());
    let execute = answer(move |_| {
        let held = was_dropped.clone();
        async move {
            std::future::pending::<()>().await;
            drop(held);
            Ok(ExecuteJobResponse::default())
        }
    });
    let port = serve(Fake { execute, ..Fake::named("git") }).await;
    let mut way = way(port, Duration::from_millis(50));
    let ended = way.plugin.run(&attempt()).await;
    let error = "no answer within 0.05 s".to_owned();
    assert_eq!(ended.outcome, Outcome::Retryable { error, missed_deadline: true });
    assert!(!ended.quick);
    assert_eq!(way.seen.recv().await.unwrap(), (3, Seen::DeadlinePassed));
    // The server is told: it drops the call, and with the fake's own copy one receiver is left.
    soon(async {
        while dropped.receiver_count() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_attempt_that_gets_further_has_more_time_and_not_for_ever() {
    let patience = Duration::from_millis(500);
    let began = std::time::Instant::now();
    let (tell, moves) = Moves::told();
    tell.send_replace(());
    assert_eq!(moves.clone().time_is_up(patience).await, Overdue::Stuck(patience));
    assert!(began.elapsed() >= patience);

    let began = std::time::Instant::now();
    let telling = tokio::spawn(async move {
        loop {
            tell.send_replace(());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let overdue = soon(moves.time_is_up(patience)).await;
    telling.abort();
    assert_eq!(overdue, Overdue::Extended(patience * EXTENDED_MAX));
    assert!(began.elapsed() >= patience * EXTENDED_MAX);
    assert_eq!(overdue.to_string(), "no answer within 2 s, however far it got");
}

#[tokio::test]
async fn an_end_of_the_process_is_not_waited_for() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let execute = answer(move |_| {
        tell.send(()).unwrap();
        std::future::pending()
    });
    let port = serve(Fake { execute, ..Fake::named("git") }).await;
    let way = way(port, PATIENCE);
    let caller = way.caller.clone();
    let running = tokio::spawn(async move { way.plugin.run(&attempt()).await });
    soon(told.recv()).await.unwrap();
    caller.kill();
    let ended = soon(running).await.unwrap();
    assert!(matches!(ended.outcome, Outcome::Lost { .. }), "{ended:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_is_told_from_a_call_that_does() {
    let (listener, port) = listen().await;
    let closing = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            drop(socket);
        }
    });
    let ended = soon(way(port, PATIENCE).plugin.run(&attempt())).await;
    assert!(matches!(ended.outcome, Outcome::Lost { .. }), "{ended:?}");
    closing.abort();
    let _ = closing.await;
    let ended = soon(way(port, PATIENCE).plugin.run(&attempt())).await;
    assert!(matches!(ended.outcome, Outcome::Lost { .. }), "{ended:?}");

    let execute = answer(|_| async { panic!("a handler that panics") });
    let port = serve(Fake { execute, ..Fake::named("git") }).await;
    let ended = soon(way(port, PATIENCE).plugin.run(&attempt())).await;
    assert!(matches!(ended.outcome, Outcome::Retryable { .. }), "{ended:?}");
}

#[tokio::test]
async fn a_reply_beyond_all_bounds_is_a_failure_for_good() {
    let execute = answer(|_| async {
        let result = vec![0; 9 * 1024 * 1024].into();
        Ok(ExecuteJobResponse { success: true, result, ..Default::default() })
    });
    let port = serve(Fake { execute, ..Fake::named("git") }).await;
    let ended = soon(way(port, PATIENCE).plugin.run(&attempt())).await;
    let error = "its reply is larger than 8 MiB".to_owned();
    assert_eq!(ended.outcome, Outcome::Permanent { error });

    // What a plugin says with the same code, of a call of its own perhaps, is no such thing.
    let own =
        "Error, decoded message length too large: found 5000000 bytes, the limit is: 4194304 bytes";
    let execute = answer(move |_| async move { Err(tonic::Status::out_of_range(own)) });
    let port = serve(Fake { execute, ..Fake::named("git") }).await;
    let ended = soon(way(port, PATIENCE).plugin.run(&attempt())).await;
    let error = format!("OUT_OF_RANGE: {own}");
    assert_eq!(ended.outcome, Outcome::Retryable { error, missed_deadline: false });
}

#[tokio::test]
async fn a_token_that_is_told_is_not_kept() {
    for is_status in [false, true] {
        let execute = answer(move |_| async move {
            let error = "InitializeRequest { auth_token: \"a secret\" }".to_owned();
            let failed = ExecuteJobResponse { error: error.clone(), ..Default::default() };
            if is_status { Err(tonic::Status::internal(error)) } else { Ok(failed) }
        });
        let port = serve(Fake { execute, ..Fake::named("git") }).await;
        let ended = soon(way(port, PATIENCE).plugin.run(&attempt())).await;
        let Outcome::Retryable { error, .. } = ended.outcome else { panic!("{ended:?}") };
        assert!(error.contains("[redacted]") && !error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn everything_goes_over_one_connection() {
    let (listener, port) = listen().await;
    let (inner, inner_port) = listen().await;
    tokio::spawn(Fake::named("git").serve(inner));
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut onward =
                    tokio::net::TcpStream::connect(("127.0.0.1", inner_port)).await.unwrap();
                tokio::io::copy_bidirectional(&mut socket, &mut onward).await
            });
        }
    });
    let mut client = client(channel(port, 64));
    client.metadata(Empty {}).await.unwrap();
    let caller = Arc::new(Caller::new("git".parse().unwrap(), 3, false, Arc::default()));
    let (tell, _seen) = mpsc::unbounded_channel();
    let plugin = GrpcPlugin::new(
        client.clone(),
        PATIENCE,
        caller,
        token(),
        Capture::new("git", token(), log()),
        tell,
    );
    let attempt = attempt();
    let runs = (0..100).map(|_| plugin.run(&attempt));
    let ended = soon(futures::future::join_all(runs)).await;
    assert!(ended.iter().all(|ended| matches!(ended.outcome, Outcome::Succeeded { .. })));
    client.health(Empty {}).await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}
