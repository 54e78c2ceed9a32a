//! Sockets of a plugin's server, over a real connection.

use axwatch_proto::protocol::WebSocketMessage;
use futures::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::fake::{Fake, Frames, answer};
use super::http::{BODY_BYTES_MAX, callable};
use super::*;
use crate::plugin::{CallError, Frame, FrameKind, Keepalive, NotSent, Opening, Socket, SocketEnd};

/// A plugin that does this with each of its sockets.
fn zoo<F>(
    serve: impl Fn(Request<Streaming<WebSocketMessage>>, Sink) -> F + Send + Sync + 'static,
) -> Fake
where
    F: Future<Output = ()> + Send + 'static,
{
    let socket = answer(move |request: Request<Streaming<WebSocketMessage>>| {
        let (sink, frames) = mpsc::channel(1);
        tokio::spawn(serve(request, sink));
        async { Ok(Box::pin(ReceiverStream::new(frames)) as Frames) }
    });
    Fake { socket, ..Fake::named("zoo") }
}

type Sink = mpsc::Sender<Result<WebSocketMessage, Status>>;

fn message(kind: FrameKind, data: &[u8], timestamp: i64) -> WebSocketMessage {
    let data = data.to_vec().into();
    WebSocketMessage { r#type: kind as i32, data, timestamp, ..Default::default() }
}

async fn open(fake: Fake, query: &[(&str, &str)], keepalive: Keepalive) -> Socket {
    let (callable, _) = callable(fake).await;
    let query = query.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let opening = Opening { path: "/room?x=1".into(), query };
    callable.socket(&opening, keepalive).ok().unwrap()
}

/// Sends back what it gets, and ends with the browser.
async fn echo(request: Request<Streaming<WebSocketMessage>>, sink: Sink) {
    let mut frames = request.into_inner();
    while let Some(Ok(frame)) = frames.next().await {
        match FrameKind::ALL[usize::try_from(frame.r#type).unwrap()] {
            FrameKind::Data => sink.send(Ok(frame)).await.unwrap(),
            FrameKind::Close => return,
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_frame_that_would_swell_ends_its_socket() {
    let fake = zoo(|_, sink| async move {
        let headers = (0..3_000).map(|n| (n.to_string(), String::new())).collect();
        let frame = WebSocketMessage { headers, ..message(FrameKind::Data, b"", 0) };
        let _ = sink.send(Ok(frame)).await;
    });
    let mut socket = open(fake, &[], Keepalive::default()).await;
    let end = soon(socket.receiver.next()).await.unwrap_err();
    assert!(format!("{end:?}").contains("over 256 KiB in memory"), "{end:?}");
}

#[tokio::test]
async fn a_socket_begins_with_connect_and_carries_both_ways() {
    let (tell, mut told) = mpsc::channel(8);
    let fake = zoo(move |request, sink| {
        let tell = tell.clone();
        async move {
            let metadata = request.metadata().clone();
            let mut frames = request.into_inner();
            while let Some(Ok(frame)) = frames.next().await {
                tell.send((metadata.clone(), frame)).await.unwrap();
                let _ = sink.send(Ok(message(FrameKind::Data, b"seen", 7))).await;
            }
            tell.send((metadata, message(FrameKind::Error, b"the end", 0))).await.unwrap();
        }
    });
    let query =
        [("Room", "1"), ("room", "2"), ("te", "x"), ("key-bin", "y"), ("name", "caf\u{e9}")];
    let mut socket = open(fake, &query, Keepalive::default()).await;
    let frame = soon(socket.receiver.next()).await.unwrap();
    assert_eq!(
        (frame.kind, &frame.data[..], frame.timestamp_ns),
        (FrameKind::Data, &b"seen"[..], 7)
    );
    let (metadata, connect) = told.recv().await.unwrap();
    assert_eq!(connect.r#type, FrameKind::Connect as i32);
    assert_eq!(connect.headers["path"], "/room?x=1");
    assert_eq!(connect.headers["left_out"], "te, key-bin, name");
    let rooms: Vec<_> = metadata.get_all("room").iter().collect();
    assert_eq!(rooms, ["1", "2"]);
    assert!(metadata.get("name").is_none() && metadata.get_bin("key-bin").is_none());
    soon(socket.sender.send(Frame::new(FrameKind::Data, "hello"))).await.unwrap();
    soon(socket.receiver.next()).await.unwrap();
    assert_eq!(&told.recv().await.unwrap().1.data[..], b"hello");
    // When the browser goes, the plugin hears CLOSE, and then the end.
    socket.finish("bye".into());
    let (_, close) = soon(told.recv()).await.unwrap();
    assert_eq!((close.r#type, &close.data[..]), (FrameKind::Close as i32, &b"bye"[..]));
    assert_eq!(&soon(told.recv()).await.unwrap().1.data[..], b"the end");
}

#[tokio::test]
async fn a_plugin_ends_a_socket_in_its_ways() {
    fn refused(status: Status) -> Fake {
        let socket = answer(move |_| std::future::ready(Err(status.clone())));
        Fake { socket, ..Fake::named("zoo") }
    }
    fn sends(message: WebSocketMessage) -> Fake {
        zoo(move |_, sink| {
            let message = message.clone();
            async move { sink.send(Ok(message)).await.unwrap() }
        })
    }
    let ended = async |fake| {
        let mut socket = open(fake, &[], Keepalive::default()).await;
        soon(socket.receiver.next()).await.unwrap_err()
    };
    let end = ended(sends(message(FrameKind::Close, b"enough", 0))).await;
    assert!(matches!(end, SocketEnd::Closed(reason) if reason == "enough"));
    let end = ended(sends(message(FrameKind::Error, b"no", 0))).await;
    assert!(matches!(end, SocketEnd::Error(words) if words == "no"));
    let end = ended(zoo(|_, _| async {})).await;
    assert!(matches!(end, SocketEnd::Closed(reason) if reason.is_empty()));
    let end = ended(refused(Status::unimplemented(""))).await;
    assert!(matches!(end, SocketEnd::Failed(CallError::NotServed { .. })));
    let end = ended(refused(Status::internal("a secret"))).await;
    assert!(
        matches!(&end, SocketEnd::Failed(CallError::Failed { error, .. }) if error.contains("[redacted]")),
        "{end:?}"
    );
    let end = ended(sends(WebSocketMessage { r#type: 77, ..Default::default() })).await;
    assert!(
        matches!(&end, SocketEnd::Failed(error) if error.to_string().contains("77")),
        "{end:?}"
    );
    for too_many in [1, 100_000] {
        let large = vec![0; BODY_BYTES_MAX + too_many];
        let end = ended(sends(message(FrameKind::Data, &large, 0))).await;
        assert!(matches!(end, SocketEnd::TooLarge), "{end:?}");
    }
}

#[tokio::test]
async fn a_process_that_ends_ends_its_sockets() {
    let (callable, caller) = callable(zoo(echo)).await;
    let mut socket = callable.socket(&Opening::default(), Keepalive::default()).ok().unwrap();
    socket.sender.send(Frame::new(FrameKind::Data, "x")).await.unwrap();
    soon(socket.receiver.next()).await.unwrap();
    caller.kill();
    let end = soon(socket.receiver.next()).await.unwrap_err();
    assert!(matches!(end, SocketEnd::Failed(CallError::Away { .. })), "{end:?}");
}

#[tokio::test]
async fn a_ping_of_the_plugin_is_answered_with_its_time() {
    let (tell, mut told) = mpsc::channel(8);
    let fake = zoo(move |request, sink| {
        let tell = tell.clone();
        async move {
            sink.send(Ok(message(FrameKind::Ping, b"", 4711))).await.unwrap();
            let mut frames = request.into_inner();
            while let Some(Ok(frame)) = frames.next().await {
                let _ = tell.send(frame).await;
            }
        }
    });
    let mut socket = open(fake, &[], Keepalive::default()).await;
    let receiving = socket.receiver.next();
    let hearing = async {
        let connect = told.recv().await.unwrap();
        (connect.r#type, told.recv().await.unwrap())
    };
    let heard = soon(futures::future::select(Box::pin(receiving), Box::pin(hearing))).await;
    let futures::future::Either::Right(((_, pong), _)) = heard else { panic!("no frame comes") };
    assert_eq!((pong.r#type, pong.timestamp), (FrameKind::Pong as i32, 4711));
}

/// Quick, so that the test need not wait; what is compared is what came, not when.
const QUICK: Keepalive = Keepalive {
    ping_interval: Duration::from_millis(20),
    pong_timeout: Duration::from_millis(500),
};

#[tokio::test]
async fn a_plugin_that_answers_no_ping_is_let_go() {
    let fake = zoo(|request, sink| async move {
        let mut frames = request.into_inner();
        // Whatever else it says is no PONG.
        while let Some(Ok(_)) = frames.next().await {
            let _ = sink.try_send(Ok(message(FrameKind::Data, b"", 0)));
        }
    });
    let Socket { mut receiver, pulse, .. } = open(fake, &[], QUICK).await;
    let reading = async { while receiver.next().await.is_ok() {} };
    let ended = soon(futures::future::select(Box::pin(pulse.missed()), Box::pin(reading))).await;
    assert!(matches!(ended, futures::future::Either::Left(_)));
}

#[tokio::test]
async fn a_plugin_that_answers_pings_stays() {
    const PINGS: usize = 50;
    let fake = zoo(|request, sink| async move {
        let mut frames = request.into_inner();
        let mut pings = 0;
        while let Some(Ok(frame)) = frames.next().await {
            if frame.r#type == FrameKind::Ping as i32 {
                assert!(frame.timestamp > 0);
                sink.send(Ok(message(FrameKind::Pong, b"", frame.timestamp))).await.unwrap();
                pings += 1;
            }
            if pings == PINGS {
                sink.send(Ok(message(FrameKind::Close, b"enough", 0))).await.unwrap();
                return;
            }
        }
    });
    let Socket { mut receiver, pulse, .. } = open(fake, &[], QUICK).await;
    let ended = tokio::select! {
        () = pulse.missed() => panic!("it answered"),
        ended = soon(receiver.next()) => ended,
    };
    assert!(matches!(ended, Err(SocketEnd::Closed(reason)) if reason == "enough"));
}

#[tokio::test]
async fn what_nobody_takes_is_not_read() {
    // Far more than a channel holds.
    const FRAMES: usize = 200;
    const BYTES: usize = 16 * 1024;
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    let fake = zoo(move |_, sink| {
        let counted = counted.clone();
        async move {
            for _ in 0..FRAMES {
                if sink.send(Ok(message(FrameKind::Data, &[1; BYTES], 0))).await.is_err() {
                    return;
                }
                counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
    });
    let mut socket = open(fake, &[], Keepalive::default()).await;
    soon(socket.receiver.next()).await.unwrap();
    // It stands still by itself: as many are under way as fit into the windows of a stream.
    let mut before = usize::MAX;
    while before != sent.load(std::sync::atomic::Ordering::SeqCst) {
        before = sent.load(std::sync::atomic::Ordering::SeqCst);
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
    }
    assert!(before < FRAMES / 2, "{before} of {FRAMES} were sent");
    for _ in 1..FRAMES {
        soon(socket.receiver.next()).await.unwrap();
    }
    assert!(matches!(soon(socket.receiver.next()).await, Err(SocketEnd::Closed(_))));
}

#[tokio::test]
async fn what_a_browser_sends_is_bounded() {
    let (callable, _) = callable(zoo(|_, sink| async move { sink.closed().await })).await;
    let room = callable.load();
    let socket = callable.socket(&Opening::default(), Keepalive::default()).ok().unwrap();
    let send = |bytes| soon(socket.sender.send(Frame::new(FrameKind::Data, vec![0; bytes])));
    assert_eq!(send(BODY_BYTES_MAX + 1).await, Err(NotSent::TooLarge));
    send(BODY_BYTES_MAX).await.unwrap();
    send(BODY_BYTES_MAX).await.unwrap();
    assert_eq!(send(BODY_BYTES_MAX).await, Err(NotSent::NoRoom));
    assert!(!room.take(BODY_BYTES_MAX));
}
