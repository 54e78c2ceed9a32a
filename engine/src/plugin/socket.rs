//! Sockets that a running plugin serves: `HandleWebSocket`, one stream for each browser socket.
//!
//! In: frames of a browser, of which the first is our CONNECT. Out: frames of the plugin, one at a time,
//! when they are asked for: what nobody takes is not read from the plugin either. PING and PONG stay
//! here: we ask the plugin every so often whether it is there, answer when it asks, and end a socket
//! whose plugin has not answered for too long.
//!
//! Not here: the browser's side and its JSON (`axwatch`'s `api::socket`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axwatch_model::PluginName;
use axwatch_proto::bounded;
use axwatch_proto::protocol::WebSocketMessage;
use bytes::Buf as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Bytes, http};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::{Code, Request, Status, Streaming};

use super::http::{CallError, Callable};
use super::settings::Keepalive;
use super::transit::{Load, Metered};
use super::wire;

/// Where the plugin serves sockets.
const PATH: &str = "/protocol.DomainPluginService/HandleWebSocket";
/// Frames that wait for a plugin which does not read. Whoever sends more waits too.
const FRAMES_MAX: usize = 16;
/// What a protobuf message may add to the data in it.
const ENVELOPE_BYTES_MAX: usize = 64 * 1024;
/// Bytes before each message of a stream, which are not the message's own.
const PREFIX_BYTES: usize = 5;
/// How long a plugin may take to end its side once it was told that the browser is gone.
const FINISH_WITHIN: Duration = Duration::from_secs(5);
/// From one look at a plugin whose time is up, and which nobody reads from, to the next.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a frame is for. Its number is the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// The first frame, which is ours.
    Connect = 0,
    /// Content.
    Data = 1,
    /// The last frame.
    Close = 2,
    /// Are you there?
    Ping = 3,
    /// Yes.
    Pong = 4,
    /// Something went wrong.
    Error = 5,
}

impl FrameKind {
    /// All of them, by their numbers.
    pub const ALL: [FrameKind; 6] = [
        FrameKind::Connect,
        FrameKind::Data,
        FrameKind::Close,
        FrameKind::Ping,
        FrameKind::Pong,
        FrameKind::Error,
    ];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FrameKind::Connect => "CONNECT",
            FrameKind::Data => "DATA",
            FrameKind::Close => "CLOSE",
            FrameKind::Ping => "PING",
            FrameKind::Pong => "PONG",
            FrameKind::Error => "ERROR",
        }
    }
}

/// One frame, in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: FrameKind,
    /// Any bytes.
    pub data: Bytes,
    /// What goes along with it.
    pub headers: HashMap<String, String>,
    /// Unix nanoseconds.
    pub timestamp_ns: i64,
}

impl Frame {
    /// A frame of now, with nothing along with it.
    #[must_use]
    pub fn new(kind: FrameKind, data: impl Into<Bytes>) -> Frame {
        Frame { kind, data: data.into(), headers: HashMap::new(), timestamp_ns: now_ns() }
    }

    fn into_message(self) -> WebSocketMessage {
        WebSocketMessage {
            r#type: self.kind as i32,
            data: self.data,
            headers: self.headers,
            timestamp: self.timestamp_ns,
        }
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// What a browser asked for when it opened a socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opening {
    /// The path without the plugin's prefix, with the query string.
    pub path: String,
    /// The parameters of the query string: they become the call's metadata.
    pub query: Vec<(String, String)>,
}

/// Why a plugin's side of a socket has ended.
#[derive(Debug)]
pub enum SocketEnd {
    /// The plugin closed it; with its last words.
    Closed(String),
    /// The plugin said ERROR, with these words.
    Error(Bytes),
    /// The call failed, or the process ended.
    Failed(CallError),
    /// A frame is larger than a frame may be.
    TooLarge,
    /// There is no room for what the plugin sends.
    NoRoom,
}

/// A socket's way to its plugin.
#[derive(Clone)]
pub struct SocketSender {
    frames: mpsc::Sender<(WebSocketMessage, usize)>,
    load: Load,
    body_bytes_max: usize,
}

/// Why a frame was not sent to a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSent {
    /// The plugin's side has ended; [`SocketReceiver::next`] says why.
    Gone,
    /// There is no room for it.
    NoRoom,
    /// It is larger than a frame may be.
    TooLarge,
}

impl SocketSender {
    /// Sends a frame once the plugin has read enough of the former ones.
    ///
    /// # Errors
    /// [`NotSent`].
    pub async fn send(&self, frame: Frame) -> Result<(), NotSent> {
        let bytes = frame.data.len();
        if bytes > self.body_bytes_max {
            return Err(NotSent::TooLarge);
        }
        if !self.load.take(bytes) {
            return Err(NotSent::NoRoom);
        }
        self.frames.send((frame.into_message(), bytes)).await.map_err(|_| NotSent::Gone)
    }
}

/// A socket's way from its plugin.
pub struct SocketReceiver {
    callable: Callable,
    stream: Stream,
    load: Load,
    /// Bytes of the last frame, which have been passed on when the next one is asked for.
    last_bytes: usize,
    to_plugin: SocketSender,
    beat: Arc<Beat>,
}

enum Stream {
    /// The plugin has not said anything yet; many say nothing before they are told something.
    Opening(BoxFuture<'static, Result<Streaming<Received>, Status>>),
    Open(Box<Streaming<Received>>),
}

impl SocketReceiver {
    /// The next frame of the plugin that is for the browser. The former one has been passed on by then.
    ///
    /// # Errors
    /// [`SocketEnd`]: no other comes.
    pub async fn next(&mut self) -> Result<Frame, SocketEnd> {
        self.load.give_back(std::mem::take(&mut self.last_bytes));
        self.beat.reads();
        let frame = loop {
            let Received { message, bytes, .. } = self.receive().await?;
            let frame = self.frame(message)?;
            match frame.kind {
                FrameKind::Ping => {
                    let pong = Frame { kind: FrameKind::Pong, ..frame };
                    // Without the other side the next read tells why.
                    let _ = self.to_plugin.send(pong).await;
                }
                FrameKind::Pong => self.beat.heard(),
                FrameKind::Close => {
                    let reason = String::from_utf8_lossy(&frame.data);
                    return Err(SocketEnd::Closed(self.callable.reach.token.shown(&reason)));
                }
                FrameKind::Error => return Err(SocketEnd::Error(frame.data)),
                // Ours alone to send.
                FrameKind::Connect => {}
                FrameKind::Data => {
                    self.last_bytes = bytes;
                    break frame;
                }
            }
            self.load.give_back(bytes);
        };
        self.beat.rests();
        Ok(frame)
    }

    async fn receive(&mut self) -> Result<Received, SocketEnd> {
        let received = tokio::select! {
            received = self.stream.next() => received,
            () = self.callable.reach.caller.died() => {
                return Err(SocketEnd::Failed(self.callable.gone()));
            }
        };
        match received {
            // What arrives takes its room by itself, and not what becomes of it.
            Some(Ok(received)) if !self.load.take(received.structure_bytes) => {
                Err(SocketEnd::NoRoom)
            }
            Some(Ok(Received { message, bytes, structure_bytes })) => {
                Ok(Received { message, bytes: bytes + structure_bytes, structure_bytes: 0 })
            }
            None => Err(SocketEnd::Closed(String::new())),
            Some(Err(_)) if self.load.was_refused() => Err(SocketEnd::NoRoom),
            Some(Err(status)) if is_too_large(&status) => Err(SocketEnd::TooLarge),
            Some(Err(status)) => {
                Err(SocketEnd::Failed(self.callable.failed(status, "WebSocket").await))
            }
        }
    }

    fn frame(&self, message: WebSocketMessage) -> Result<Frame, SocketEnd> {
        let WebSocketMessage { r#type, data, headers, timestamp } = message;
        if data.len() > self.callable.body_bytes_max() {
            return Err(SocketEnd::TooLarge);
        }
        let kind = usize::try_from(r#type).ok().and_then(|number| FrameKind::ALL.get(number));
        let Some(&kind) = kind else {
            let error = format!("it sent a frame of type {}, and there are 0 to 5", r#type);
            let plugin = self.callable.plugin.clone();
            return Err(SocketEnd::Failed(CallError::Failed { plugin, error }));
        };
        Ok(Frame { kind, data, headers, timestamp_ns: timestamp })
    }
}

/// The limit of a message is kept by the transport, which says so in a status of its own.
fn is_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("message length too large")
}

impl Stream {
    async fn next(&mut self) -> Option<Result<Received, Status>> {
        if let Stream::Opening(opening) = self {
            match opening.await {
                Ok(open) => *self = Stream::Open(Box::new(open)),
                Err(status) => return Some(Err(status)),
            }
        }
        let Stream::Open(open) = self else { unreachable!("it was opened above") };
        open.next().await
    }
}

/// Asks a plugin whether it is there, as long as its socket lives.
pub struct Pulse {
    plugin: PluginName,
    /// For the log.
    number: u64,
    keepalive: Keepalive,
    to_plugin: SocketSender,
    beat: Arc<Beat>,
}

impl Pulse {
    /// Answers when the plugin has not answered for too long, which it has told the log.
    pub async fn missed(&self) {
        let Keepalive { ping_interval, pong_timeout } = self.keepalive;
        let mut next_ping = Instant::now() + ping_interval;
        loop {
            let deadline = self.beat.waiting_since().map(|since| since + pong_timeout);
            let wake = deadline.map_or(next_ping, |deadline| deadline.min(next_ping));
            tokio::time::sleep_until(wake).await;
            let now = Instant::now();
            // It may have been heard of, or the wait lengthened, while this slept.
            let is_over =
                self.beat.waiting_since().is_some_and(|since| since + pong_timeout <= now);
            if is_over && !self.beat.is_resting() {
                let plugin = &self.plugin;
                let waited_secs = pong_timeout.as_secs_f64();
                tracing::warn!(%plugin, socket = self.number, waited_secs, "WebSocket pong timeout");
                return;
            }
            if now >= next_ping {
                next_ping = now + ping_interval;
                self.beat.asks();
                // One that does not fit is as good as unanswered.
                let ping = Frame::new(FrameKind::Ping, Bytes::new());
                let _ = self.to_plugin.frames.try_send((ping.into_message(), 0));
            } else if is_over {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

/// Whether the plugin owes an answer. Time in which nobody reads what it says does not count.
#[derive(Default)]
struct Beat(Mutex<Owed>);

#[derive(Default)]
struct Owed {
    since: Option<Instant>,
    resting_since: Option<Instant>,
}

impl Beat {
    fn asks(&self) {
        self.owed().since.get_or_insert_with(Instant::now);
    }

    fn heard(&self) {
        self.owed().since = None;
    }

    fn waiting_since(&self) -> Option<Instant> {
        self.owed().since
    }

    fn rests(&self) {
        self.owed().resting_since = Some(Instant::now());
    }

    fn is_resting(&self) -> bool {
        self.owed().resting_since.is_some()
    }

    fn reads(&self) {
        let mut owed = self.owed();
        let rested = owed.resting_since.take().map(|since| since.elapsed());
        if let (Some(since), Some(rested)) = (owed.since, rested) {
            owed.since = Some((since + rested).min(Instant::now()));
        }
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.0.lock().expect("nobody who counts a pulse panics")
    }
}

/// A socket to a plugin, from its CONNECT on.
pub struct Socket {
    /// The way to it.
    pub sender: SocketSender,
    /// The way from it.
    pub receiver: SocketReceiver,
    /// Whether it is there.
    pub pulse: Pulse,
    place: OwnedSemaphorePermit,
}

impl Socket {
    /// Tells the plugin that the browser is gone, and gives it a moment to end its side. Answers at
    /// once.
    pub fn finish(self, reason: String) {
        let Socket { sender, mut receiver, pulse, place } = self;
        tokio::spawn(async move {
            let finishing = async {
                let _ = sender.send(Frame::new(FrameKind::Close, reason)).await;
                // The plugin reads the end of its stream once nobody can write to it.
                drop((sender, pulse));
                receiver.to_plugin.frames = mpsc::channel(1).0;
                while receiver.next().await.is_ok() {}
            };
            // Past it the stream is cut.
            let _ = tokio::time::timeout(FINISH_WITHIN, finishing).await;
            drop(place);
        });
    }
}

impl Callable {
    /// Opens a socket. Answers at once: what the plugin thinks of it, its frames tell.
    ///
    /// # Errors
    /// [`CallError`] when it has too many already.
    pub fn socket(self, opening: &Opening, keepalive: Keepalive) -> Result<Socket, CallError> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let Some(place) = self.transit.begin_socket() else {
            return Err(CallError::TooManySockets { plugin: self.plugin });
        };
        let (frames, to_send) = mpsc::channel(FRAMES_MAX);
        let body_bytes_max = self.body_bytes_max();
        let sender = SocketSender { frames, load: self.transit.load(), body_bytes_max };
        let (metadata, left_out) = metadata_of(&opening.query);
        let mut connect = Frame::new(FrameKind::Connect, Bytes::new());
        connect.headers.insert("path".to_owned(), opening.path.clone());
        if !left_out.is_empty() {
            let (plugin, left_out) = (&self.plugin, left_out.join(", "));
            tracing::warn!(%plugin, left_out, "query parameters that cannot be metadata were left out");
            connect.headers.insert("left_out".to_owned(), left_out);
        }
        let sent = sender.frames.try_send((connect.into_message(), 0));
        sent.expect("a new channel has room");
        let load = self.transit.load();
        let stream = self.open(metadata, to_send, sender.load.clone(), load.clone());
        let beat = Arc::<Beat>::default();
        let pulse = Pulse {
            plugin: self.plugin.clone(),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            keepalive,
            to_plugin: sender.clone(),
            beat: beat.clone(),
        };
        let to_plugin = sender.clone();
        let receiver =
            SocketReceiver { callable: self, stream, load, last_bytes: 0, to_plugin, beat };
        Ok(Socket { sender, receiver, pulse, place })
    }

    fn open(
        &self,
        metadata: MetadataMap,
        to_send: mpsc::Receiver<(WebSocketMessage, usize)>,
        out: Load,
        load: Load,
    ) -> Stream {
        // What was taken off the queue is on its way until the next one is.
        let mut sent = 0;
        let frames = ReceiverStream::new(to_send).map(move |(message, bytes)| {
            out.give_back(std::mem::replace(&mut sent, bytes));
            message
        });
        let mut request = Request::new(frames);
        *request.metadata_mut() = metadata;
        let limit = self.body_bytes_max() + ENVELOPE_BYTES_MAX;
        let channel = Metered::new(self.reach.channel.clone(), load);
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(limit);
        Stream::Opening(Box::pin(async move {
            client.ready().await.map_err(|error| Status::from_error(error.into()))?;
            let path = http::uri::PathAndQuery::from_static(PATH);
            client.streaming(request, path, Frames).await.map(tonic::Response::into_inner)
        }))
    }
}

/// The parameters as metadata, and the names of those that cannot be: names that the protocol keeps for
/// itself, values with more than printable ASCII.
fn metadata_of(query: &[(String, String)]) -> (MetadataMap, Vec<String>) {
    /// Those of gRPC and HTTP/2: a call that bears one of a connection or a false length is none.
    const KEPT: [&str; 10] = [
        "te",
        "content-type",
        "content-length",
        "user-agent",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "host",
    ];
    /// A name may come often; the head of a call has to stay small.
    const PARAMETERS_MAX: usize = 64;
    let (mut metadata, mut left_out) = (MetadataMap::new(), Vec::new());
    for (number, (name, value)) in query.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        let is_kept = KEPT.contains(&lower.as_str()) || lower.starts_with("grpc-");
        let key = lower.parse::<AsciiMetadataKey>().ok().filter(|_| !is_kept);
        let value = value.is_ascii().then(|| value.parse::<AsciiMetadataValue>().ok()).flatten();
        match key.zip(value) {
            Some((key, value)) if number < PARAMETERS_MAX => {
                metadata.append(key, value);
            }
            _ => left_out.push(wire::shown(name)),
        }
    }
    (metadata, left_out)
}

/// A message, how many bytes it was on the wire, and how many it takes in memory besides.
struct Received {
    message: WebSocketMessage,
    bytes: usize,
    structure_bytes: usize,
}

/// Our usual codec, but for telling how long a message was.
struct Frames;

impl Codec for Frames {
    type Encode = WebSocketMessage;
    type Decode = Received;
    type Encoder = Frames;
    type Decoder = Frames;

    fn encoder(&mut self) -> Frames {
        Frames
    }

    fn decoder(&mut self) -> Frames {
        Frames
    }
}

impl Encoder for Frames {
    type Item = WebSocketMessage;
    type Error = Status;

    fn encode(&mut self, item: WebSocketMessage, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(into).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Frames {
    type Item = Received;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Received>, Status> {
        let bytes = PREFIX_BYTES + from.remaining();
        let structure_bytes = bounded::check::<WebSocketMessage>(bounded::contiguous(from)?)?;
        let message = WebSocketMessage::decode(from)
            .map_err(|error| Status::internal(format!("it sent a frame that is none: {error}")))?;
        Ok(Some(Received { message, bytes, structure_bytes }))
    }
}
