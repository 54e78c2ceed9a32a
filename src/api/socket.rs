//! `/ws/{plugin}/…`: browser sockets that a plugin serves.
//!
//! In: a WebSocket, each of whose messages is one frame as JSON, `{type, data, headers, timestamp}`,
//! `type` a number and `data` in base64. Out: the same, from the plugin. Each direction goes at the
//! pace of its slower end: while one side does not read, the other is not read either, and a browser
//! that reads nothing at all for too long is let go. PING is answered here on either side.
//!
//! Not here: who may ask (`super::guard`), the plugin's side (`axwatch_engine`'s `plugin::socket`).

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axwatch_engine::plugin::{
    CallError, Frame, FrameKind, Load, NotSent, Opening, Socket, SocketEnd, SocketReceiver,
    SocketSender,
};
use axwatch_model::bounds::cut;
use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::error::ApiError;
use super::guard::Tokenless;
use super::listen::{Guest, Patient, Place};
use super::proxy::{plugin_path, with_query};
use super::{Shared, stopped};

/// What browsers speak.
const PROTOCOL: &str = "qntx-plugin-v1";
/// How long a browser may leave its socket unread.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// From one time that a browser is asked whether it is there to the next; it answers by itself.
const GREET_EVERY: Duration = Duration::from_secs(30);
/// How long a browser may be silent, the answers to that included: a program that reads seldom answers
/// seldom.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// How long a browser may take to notice that its socket is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of JSON around the data of a frame.
const ENVELOPE_BYTES_MAX: usize = 64 * 1024;
/// Bytes that are read from a socket at a time; each open socket has so many.
const READ_BYTES: usize = 8 * 1024;
/// Bytes of the reason that a close may bear.
const REASON_BYTES_MAX: usize = 120;
/// Base64 as programs write it, with `=` at its end or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

type Io = MeteredIo<Patient<TokioIo<hyper::upgrade::Upgraded>>>;
type Browser = WebSocketStream<Io>;

/// `GET /ws/{plugin}/…`, with an upgrade.
pub async fn open(State(api): Shared, mut request: Request) -> Result<Response, ApiError> {
    let Some((name, rest)) = plugin_path(request.uri().path(), "/ws/") else {
        return Err(super::no_route().await);
    };
    let opening = Opening {
        path: with_query(rest, request.uri().query()),
        query: parameters(request.uri())?,
    };
    let plugin = api.plugins.callable(name)?;
    let Some(accept) = handshake(request.method(), request.headers()) else {
        return Ok(upgrade_required());
    };
    let protocol = offers_protocol(request.headers());
    let place = request.extensions().get::<Arc<Place>>().cloned();
    let stay = stay(&request)?;
    let upgrade = hyper::upgrade::on(&mut request);
    let bytes_max = plugin.body_bytes_max();
    let load = plugin.load();
    let socket = plugin.socket(&opening, api.plugins.keepalive())?;
    let stopping = api.stopping.clone();
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let io = Patient::new(TokioIo::new(upgraded), READ_WITHIN);
                let io = MeteredIo { io, load: load.clone() };
                let config = WebSocketConfig::default()
                    .read_buffer_size(READ_BYTES)
                    .max_message_size(Some(bytes_max / 3 * 4 + ENVELOPE_BYTES_MAX))
                    .max_frame_size(Some(bytes_max / 3 * 4 + ENVELOPE_BYTES_MAX));
                let browser =
                    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
                carry(browser, load, socket, stopping).await;
            }
            Err(_) => socket.finish("the browser is gone".to_owned()),
        }
        drop((place, stay));
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok(response)
}

/// What a socket without the token takes besides its place, when this is one.
fn stay(request: &Request) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
    let extensions = request.extensions();
    if extensions.get::<Tokenless>().is_none() {
        return Ok(None);
    }
    let stay = extensions.get::<Arc<Guest>>().and_then(|guest| guest.stay());
    let stay = stay.ok_or_else(|| {
        let message = "too many sockets are open that were opened without the token";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
    })?;
    Ok(Some(stay))
}

fn parameters(uri: &Uri) -> Result<Vec<(String, String)>, ApiError> {
    let parsed = Query::<Vec<(String, String)>>::try_from_uri(uri);
    let Query(parameters) = parsed
        .map_err(|error| ApiError::invalid(format!("the query string: {}", error.body_text())))?;
    Ok(parameters)
}

/// The answer to a client's key, when this is a WebSocket that begins.
fn handshake(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    let has = |name: &HeaderName, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(wanted))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let is_key = |key: &&HeaderValue| STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    let is_right = *method == Method::GET
        && has(&CONNECTION, "upgrade")
        && has(&UPGRADE, "websocket")
        && has(&SEC_WEBSOCKET_VERSION, "13");
    let key = key.filter(|key| is_right && is_key(key))?;
    let accept = derive_accept_key(key.as_bytes());
    Some(HeaderValue::from_str(&accept).expect("base64 makes a good header"))
}

fn upgrade_required() -> Response {
    let message = "this is a WebSocket: connect with version 13 and the subprotocol qntx-plugin-v1";
    let error = ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", message);
    let mut response = error.into_response();
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

fn offers_protocol(headers: &HeaderMap) -> bool {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|name| name.trim() == PROTOCOL)
}

/// A frame as JSON has it.
#[derive(Serialize)]
struct FrameOut<'a> {
    r#type: u8,
    data: String,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    headers: &'a HashMap<String, String>,
    timestamp: i64,
}

/// A frame as JSON has it, or nearly.
#[derive(Deserialize)]
struct FrameIn {
    r#type: KindIn,
    #[serde(default)]
    data: Option<String>,
    #[serde(default)]
    headers: Option<HashMap<String, String>>,
    #[serde(default)]
    timestamp: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum KindIn {
    Number(u8),
    Name(String),
}

fn json_of(frame: &Frame) -> String {
    let out = FrameOut {
        r#type: frame.kind as u8,
        data: STANDARD.encode(&frame.data),
        headers: &frame.headers,
        timestamp: frame.timestamp_ns,
    };
    serde_json::to_string(&out).expect("a frame is always JSON")
}

fn frame_of(json: &[u8]) -> Result<Frame, String> {
    let frame: FrameIn = serde_json::from_slice(json).map_err(|error| {
        format!("a message must be {{type, data, headers, timestamp}}: {error}")
    })?;
    let kind = FrameKind::ALL.into_iter().find(|kind| match &frame.r#type {
        KindIn::Number(number) => *kind as u8 == *number,
        KindIn::Name(name) => kind.as_str().eq_ignore_ascii_case(name),
    });
    let kind =
        kind.ok_or("type must be 1 for DATA, 2 for CLOSE, 3 for PING, 4 for PONG or 5 for ERROR")?;
    if kind == FrameKind::Connect {
        return Err("CONNECT is sent to the plugin by the server alone".to_owned());
    }
    let data = BASE64.decode(frame.data.unwrap_or_default());
    let data = data.map_err(|error| format!("data must be base64: {error}"))?;
    let now = Frame::new(kind, data);
    Ok(Frame {
        headers: frame.headers.unwrap_or_default(),
        timestamp_ns: frame.timestamp.filter(|at| *at != 0).unwrap_or(now.timestamp_ns),
        ..now
    })
}

/// Why a socket ends.
enum Ending {
    /// The browser closed it, or its connection broke; with what it said.
    Browser(String),
    /// The plugin ended its side.
    Plugin(SocketEnd),
    /// The plugin did not answer a PING.
    Silent,
    /// The browser does not read.
    Slow,
    /// A message is larger than a message may be.
    TooLarge,
    /// There is no room for what the browser sends.
    NoRoom,
    /// The server stops.
    Stopping,
}

impl Ending {
    /// What the browser is told at the end: a frame before it, the code, and the reason.
    fn told(&self) -> (Option<Frame>, CloseCode, String) {
        let error = |data: Bytes| Some(Frame::new(FrameKind::Error, data));
        match self {
            Ending::Browser(_) => (None, CloseCode::Normal, String::new()),
            Ending::Plugin(SocketEnd::Closed(reason)) => (None, CloseCode::Normal, reason.clone()),
            Ending::Plugin(SocketEnd::Error(words)) => {
                let reason = "the plugin ended it with an error".to_owned();
                (error(words.clone()), CloseCode::Error, reason)
            }
            Ending::Plugin(SocketEnd::Failed(CallError::Away { .. })) => {
                (None, CloseCode::Restart, "the plugin is restarting".to_owned())
            }
            Ending::Plugin(SocketEnd::Failed(failed)) => {
                let words = failed.to_string();
                (error(words.clone().into()), CloseCode::Error, words)
            }
            Ending::Plugin(SocketEnd::TooLarge) | Ending::TooLarge => {
                (None, CloseCode::Size, "a frame is larger than a frame may be".to_owned())
            }
            Ending::Plugin(SocketEnd::NoRoom) | Ending::NoRoom => {
                let reason = "more is on its way than there is room for; try again later";
                (None, CloseCode::Again, reason.to_owned())
            }
            Ending::Slow => {
                let reason = format!("nothing was read for {} s", READ_WITHIN.as_secs());
                (None, CloseCode::Again, reason)
            }
            Ending::Silent => {
                (None, CloseCode::Error, "the plugin did not answer a PING".to_owned())
            }
            Ending::Stopping => (None, CloseCode::Away, "the server stops".to_owned()),
        }
    }

    /// What the plugin is told at the end.
    fn told_plugin(&self) -> String {
        match self {
            Ending::Browser(reason) => reason.clone(),
            Ending::Plugin(_) => String::new(),
            other => other.told().2,
        }
    }
}

/// What goes to the browser.
enum Outgoing {
    /// A message; the other side hears when it has been written.
    Message(Message, Option<oneshot::Sender<()>>),
    /// Nothing more.
    End(Ending),
}

/// Carries frames both ways until either side ends, and closes both.
async fn carry(
    browser: Browser,
    load: Load,
    mut socket: Socket,
    mut stopping: watch::Receiver<bool>,
) {
    let (mut sink, mut stream) = browser.split();
    let (out, mut queue) = mpsc::channel(1);
    let ending = tokio::select! {
        ending = up(&mut stream, &load, &socket.sender, &out) => ending,
        never = down(&mut socket.receiver, &out) => match never {},
        ending = write(&mut sink, &mut queue) => ending,
        never = greet(&out) => match never {},
        () = socket.pulse.missed() => Ending::Silent,
        () = stopped(&mut stopping) => Ending::Stopping,
    };
    let (last, code, reason) = ending.told();
    socket.finish(ending.told_plugin());
    let reason = cut(&reason, REASON_BYTES_MAX).to_owned();
    let leaves_a_rest = matches!(ending, Ending::TooLarge | Ending::NoRoom);
    let close = async move {
        if let Some(frame) = last {
            sink.send(Message::text(json_of(&frame))).await?;
        }
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        if sink.send(close).await.is_err() {
            // A browser that closed first has been answered already; the answer only has to leave.
            sink.flush().await?;
        }
        // A socket that is shut with something unread in it is reset, and the close with it.
        while stream.next().await.is_some_and(|message| message.is_ok()) {
            load.clear();
        }
        if leaves_a_rest && let Ok(mut browser) = sink.reunite(stream) {
            drain(browser.get_mut(), &load).await;
        }
        Ok::<_, Error>(())
    };
    // A browser that does not take it has its connection cut.
    let _ = tokio::time::timeout(CLOSE_WITHIN, close).await;
}

/// Reads what is left of a message that was not taken, and throws it away.
async fn drain(io: &mut Io, load: &Load) {
    let mut rest = vec![0; READ_BYTES];
    while io.read(&mut rest).await.is_ok_and(|read| read > 0) {
        load.clear();
    }
}

/// Browser to plugin.
async fn up(
    stream: &mut SplitStream<Browser>,
    load: &Load,
    plugin: &SocketSender,
    out: &mpsc::Sender<Outgoing>,
) -> Ending {
    loop {
        let message = match tokio::time::timeout(SILENCE_MAX, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(Error::Capacity(_)))) => return Ending::TooLarge,
            Ok(Some(Err(_))) if load.was_refused() => return Ending::NoRoom,
            // To read is to answer pings too.
            Ok(Some(Err(error))) if is_stalled(&error) => return Ending::Slow,
            Ok(None | Some(Err(_))) | Err(_) => {
                return Ending::Browser("the browser is gone".to_owned());
            }
        };
        load.clear();
        let json = match message {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            Message::Close(close) => {
                let reason = close.map(|close| close.reason.to_string());
                return Ending::Browser(reason.unwrap_or_default());
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        let answer = match frame_of(&json) {
            Ok(frame) => {
                drop(json);
                match frame.kind {
                    FrameKind::Ping => Frame { kind: FrameKind::Pong, ..frame },
                    FrameKind::Pong => continue,
                    FrameKind::Close => {
                        let reason = String::from_utf8_lossy(&frame.data).into_owned();
                        return Ending::Browser(reason);
                    }
                    FrameKind::Connect | FrameKind::Data | FrameKind::Error => {
                        match plugin.send(frame).await {
                            Ok(()) => continue,
                            Err(NotSent::TooLarge) => return Ending::TooLarge,
                            Err(NotSent::NoRoom) => return Ending::NoRoom,
                            // The other direction knows why.
                            Err(NotSent::Gone) => return std::future::pending().await,
                        }
                    }
                }
            }
            Err(problem) => Frame::new(FrameKind::Error, problem),
        };
        // Whoever takes them is there as long as this is.
        let _ = out.send(Outgoing::Message(Message::text(json_of(&answer)), None)).await;
    }
}

enum Never {}

/// Plugin to browser: one frame at a time, the next when the former has been written.
async fn down(plugin: &mut SocketReceiver, out: &mpsc::Sender<Outgoing>) -> Never {
    loop {
        let outgoing = match plugin.next().await {
            Ok(frame) => {
                let json = json_of(&frame);
                drop(frame);
                let (written, is_written) = oneshot::channel();
                let message = Outgoing::Message(Message::text(json), Some(written));
                let _ = out.send(message).await;
                if is_written.await.is_ok() {
                    continue;
                }
                return std::future::pending().await;
            }
            Err(end) => Outgoing::End(Ending::Plugin(end)),
        };
        let _ = out.send(outgoing).await;
        return std::future::pending().await;
    }
}

/// Asks the browser whether it is there, which it answers by itself.
async fn greet(out: &mpsc::Sender<Outgoing>) -> Never {
    loop {
        tokio::time::sleep(GREET_EVERY).await;
        let _ = out.send(Outgoing::Message(Message::Ping(Bytes::new()), None)).await;
    }
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut SplitSink<WebSocketStream<S>, Message>,
    queue: &mut mpsc::Receiver<Outgoing>,
) -> Ending {
    loop {
        match queue.recv().await {
            Some(Outgoing::Message(message, written)) => match sink.send(message).await {
                Ok(()) => drop(written.map(|written| written.send(()))),
                Err(error) if is_stalled(&error) => return Ending::Slow,
                Err(_) => return Ending::Browser("the browser is gone".to_owned()),
            },
            Some(Outgoing::End(ending)) => return ending,
            None => return std::future::pending().await,
        }
    }
}

/// Whether nothing could be written for too long.
fn is_stalled(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}

/// A connection whose incoming bytes take room until they have become a message that was dealt with.
struct MeteredIo<S> {
    io: S,
    load: Load,
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        if !self.load.take(read) {
            return Poll::Ready(Err(io::Error::other("there is no room for this message")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_json_as_browsers_write_it() {
        let json = json_of(&Frame { timestamp_ns: 7, ..Frame::new(FrameKind::Data, "hi") });
        assert_eq!(json, r#"{"type":1,"data":"aGk=","timestamp":7}"#);
        let cases = [
            (
                r#"{"type":1,"data":"aGk=","headers":{"a":"b"},"timestamp":7}"#,
                FrameKind::Data,
                "hi",
            ),
            (r#"{"type":"data","data":"aGk"}"#, FrameKind::Data, "hi"),
            (r#"{"type":3,"data":"","headers":null,"timestamp":9}"#, FrameKind::Ping, ""),
            (r#"{"type":2}"#, FrameKind::Close, ""),
        ];
        for (json, kind, data) in cases {
            let frame = frame_of(json.as_bytes()).unwrap();
            assert_eq!((frame.kind, &frame.data[..]), (kind, data.as_bytes()), "{json}");
            assert!(frame.timestamp_ns != 0);
        }
        let refused = [
            ("hello", "{type, data, headers, timestamp}"),
            (r#"{"type":9}"#, "type must be"),
            (r#"{"type":0}"#, "CONNECT"),
            (r#"{"type":1,"data":"%"}"#, "base64"),
        ];
        for (json, says) in refused {
            let problem = frame_of(json.as_bytes()).unwrap_err();
            assert!(problem.contains(says), "{json}: {problem}");
        }
    }

    #[tokio::test]
    async fn who_reads_slowly_gets_all_and_who_does_not_read_is_let_go() {
        let within = Duration::from_millis(200);
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let browser =
            WebSocketStream::from_raw_socket(Patient::new(ours, within), Role::Server, None).await;
        let (mut sink, _stream) = browser.split();
        let (out, mut queue) = mpsc::channel(1);
        let message = || Message::binary(vec![7; 40 * 1024]);
        let began = tokio::time::Instant::now();
        let slowly = async {
            let (written, mut is_written) = oneshot::channel();
            let _ = out.send(Outgoing::Message(message(), Some(written))).await;
            while is_written.try_recv().is_err() {
                tokio::time::sleep(within / 20).await;
                let _ = theirs.read(&mut [0; 1024]).await.unwrap();
            }
            assert!(began.elapsed() > within, "one message took longer than a pause may");
            let _ = out.send(Outgoing::Message(message(), None)).await;
            std::future::pending::<()>().await;
        };
        let ending = tokio::select! {
            ending = write(&mut sink, &mut queue) => ending,
            () = slowly => unreachable!("it waits for ever"),
        };
        assert!(matches!(ending, Ending::Slow));
    }

    #[test]
    fn only_a_handshake_is_one() {
        let right = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let check = |method: &Method, without: &str| {
            let headers = right.iter().filter(|(name, _)| *name != without);
            let headers: HeaderMap = headers
                .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
                .collect();
            handshake(method, &headers)
        };
        // The example of RFC 6455.
        assert_eq!(check(&Method::GET, "").unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(check(&Method::POST, ""), None);
        for (name, _) in right {
            assert_eq!(check(&Method::GET, name), None, "{name}");
        }
    }
}
