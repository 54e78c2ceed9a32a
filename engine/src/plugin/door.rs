//! The way in to our services: connections, and requests until they are answered.
//!
//! Who asks is told by a token in the request, and so is not known before all of it is here: anybody on this
//! machine may be sending it. So a request is gathered before anything of it is built, in a room of which each
//! plugin has a part. Those who are not known yet have a smaller room of their own, in which the newest request
//! takes the place of the oldest, so that nobody can keep others out of it. A connection is known from its
//! first request with a living token on. When there are too many, the oldest goes of whoever has most.
//!
//! A request that cannot be read has no token either. It is told as a failed call to the processes that may
//! have made it, and answered like one that was read: `success=false` with an `error`, wherever there is
//! room for that.
//!
//! Not here: what a request means (`super::services`), whose token it is (`super::token`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use axwatch_model::PluginName;
use axwatch_proto::protocol::CreateAttestationResponse;
use futures::{Stream, stream};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, BoxFuture, Bytes, Service, http};
use tonic::server::NamedService;
use tonic::transport::server::Connected;
use tonic::{Code, Request, Status};

use super::large::{PREFIX_BYTES, SMALL_BYTES};
use super::token::Callers;
use super::transit::{Load, PluginTransit, Transit};

/// Bytes of one request or one reply.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Connections at once.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// Requests of one plugin that are on their way in at once, or wait for their turn; and of those who are not
/// known, all together.
pub(super) const ARRIVING_MAX: usize = 64;
/// Requests of over 64 KiB of one plugin that are worked on at once; further ones wait as they came.
const LARGE_AT_ONCE: usize = 2;
/// How long they wait.
const TURN_WITHIN: Duration = Duration::from_secs(10);
/// How long a request may take to arrive.
const GATHERED_WITHIN: Duration = Duration::from_secs(30);
/// How long to rest when no connection can be taken: file descriptors are used up, most likely.
const REST: Duration = Duration::from_millis(100);
/// What is asked whose reply has no `success`.
const WITHOUT_SUCCESS: [&str; 2] = ["AttestationExists", "GetAttestationsStream"];

/// The way in, for all who come.
pub(super) struct Door {
    callers: Arc<Callers>,
    transit: Transit,
    /// Of those who are not known.
    unknown: Room,
    guests: Mutex<Guests>,
}

/// Who is there.
#[derive(Default)]
struct Guests {
    last: u64,
    /// By the number of its connection: the oldest is the first.
    connected: BTreeMap<u64, Guest>,
    /// The rooms of plugins.
    rooms: HashMap<PluginName, Room>,
}

/// The room of one plugin, or of those who are not known.
#[derive(Clone)]
struct Room {
    transit: PluginTransit,
    places: Places,
    /// For what is large: what is built of a request may take twenty times its bytes.
    large: Arc<Semaphore>,
}

/// Places for requests on their way in.
#[derive(Clone)]
enum Places {
    /// When there is none, the newcomer has to come again.
    Plugin(Arc<Semaphore>),
    /// When there is none, the oldest goes; dropped, it is told so.
    Unknown(Arc<Mutex<VecDeque<oneshot::Sender<()>>>>),
}

/// A request's place, until it is dropped.
enum Place {
    Held { _permit: OwnedSemaphorePermit },
    UntilSentAway(oneshot::Receiver<()>),
}

impl Places {
    fn take(&self) -> Option<Place> {
        match self {
            Places::Plugin(places) => {
                let permit = places.clone().try_acquire_owned().ok()?;
                Some(Place::Held { _permit: permit })
            }
            Places::Unknown(places) => {
                let mut places = places.lock().expect("nobody who counts places panics");
                places.retain(|place| !place.is_closed());
                if places.len() >= ARRIVING_MAX {
                    places.pop_front();
                }
                let (stays, sent_away) = oneshot::channel();
                places.push_back(stays);
                Some(Place::UntilSentAway(sent_away))
            }
        }
    }
}

impl Place {
    /// Answers when it has to be given up.
    async fn sent_away(&mut self) {
        match self {
            Place::Held { .. } => pending().await,
            // Nobody sends anything: it ends when the place is another's.
            Place::UntilSentAway(sent_away) => drop(sent_away.await),
        }
    }
}

impl Room {
    fn new(transit: PluginTransit, places: Places) -> Room {
        Room { transit, places, large: Arc::new(Semaphore::new(LARGE_AT_ONCE)) }
    }
}

/// One connection.
struct Guest {
    /// Whose it is, when that is known.
    plugin: Option<PluginName>,
    /// Dropped, the connection ends.
    _stays: oneshot::Sender<()>,
}

impl Guests {
    /// The oldest connection of whoever has most.
    fn first_to_go(&self) -> Option<u64> {
        let mut of: HashMap<_, (usize, u64)> = HashMap::new();
        for (number, guest) in &self.connected {
            of.entry(&guest.plugin).or_insert((0, *number)).0 += 1;
        }
        let most = of.into_values().max_by_key(|&(count, first)| (count, Reverse(first)));
        most.map(|(_, first)| first)
    }
}

impl Door {
    pub(super) fn new(callers: Arc<Callers>) -> Arc<Door> {
        let transit = Transit::new(MESSAGE_BYTES_MAX);
        // As much as one plugin has, and not of what plugins share.
        let unknown = Transit::new(MESSAGE_BYTES_MAX).of_plugin();
        let unknown = Room::new(unknown, Places::Unknown(Arc::default()));
        Arc::new(Door { callers, transit, unknown, guests: Mutex::default() })
    }

    /// The connections that come.
    pub(super) fn incoming(
        self: &Arc<Self>,
        listener: TcpListener,
    ) -> impl Stream<Item = io::Result<Connection>> + Send + use<> {
        stream::unfold((self.clone(), listener), |(door, listener)| async {
            let stream = loop {
                match listener.accept().await {
                    Ok((stream, _)) => break stream,
                    Err(error) => {
                        tracing::warn!(%error, "cannot take a connection of a plugin");
                        tokio::time::sleep(REST).await;
                    }
                }
            };
            // It is only slower without.
            let _ = stream.set_nodelay(true);
            let connection = door.enter(stream);
            Some((Ok(connection), (door, listener)))
        })
    }

    fn enter(self: &Arc<Self>, stream: TcpStream) -> Connection {
        let (stays, sent_away) = oneshot::channel();
        let mut guests = self.guests();
        guests.last += 1;
        let number = guests.last;
        guests.connected.insert(number, Guest { plugin: None, _stays: stays });
        if guests.connected.len() > CONNECTIONS_MAX
            && let Some(first) = guests.first_to_go()
        {
            guests.connected.remove(&first);
        }
        let door = self.clone();
        Connection { stream, visitor: Visitor { door, number }, sent_away, is_over: false }
    }

    /// Gathers a request, lets it be answered, and answers it itself when it could not be read.
    async fn attend<S>(
        self: Arc<Self>,
        service: &mut S,
        request: http::Request<Body>,
    ) -> http::Response<Body>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    {
        let (mut parts, body) = request.into_parts();
        let number = parts.extensions.get::<Visitor>().map_or(0, |visitor| visitor.number);
        let method = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        let plugin = self.guests().connected.get(&number).and_then(|guest| guest.plugin.clone());
        let room = self.room_of(plugin.as_ref());
        // Held until it is answered: it takes room for as long, as what became of it.
        let load = room.transit.load();
        let (request, _turn) = match arrive(body, &room, &load).await {
            Ok(arrived) => arrived,
            Err(status) => return self.unread(plugin.as_ref(), &method, status),
        };
        let visiting = Arc::new(Visiting { door: self.clone(), number, was_read: false.into() });
        parts.extensions.insert(Visit(Some(visiting.clone())));
        let request = Body::new(Whole { data: Some(request), trailers: None });
        let Ok(response) = service.call(http::Request::from_parts(parts, request)).await;
        let was_read = visiting.was_read.load(Ordering::Relaxed);
        match Status::from_header_map(response.headers()) {
            // What we do not offer was no failure of ours.
            Some(status) if !was_read && status.code() != Code::Unimplemented => {
                self.unread(plugin.as_ref(), &method, status)
            }
            _ => response,
        }
    }

    fn room_of(&self, plugin: Option<&PluginName>) -> Room {
        let Some(plugin) = plugin else { return self.unknown.clone() };
        let places = || Places::Plugin(Arc::new(Semaphore::new(ARRIVING_MAX)));
        let new = || Room::new(self.transit.of_plugin(), places());
        self.guests().rooms.entry(plugin.clone()).or_insert_with(new).clone()
    }

    /// The answer to a request that could not be read.
    fn unread(
        &self,
        plugin: Option<&PluginName>,
        method: &str,
        status: Status,
    ) -> http::Response<Body> {
        self.callers.call_failed(plugin);
        if WITHOUT_SUCCESS.contains(&method) {
            return status.into_http();
        }
        refusal(status.message())
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().expect("nobody who counts guests panics")
    }
}

/// All of a request, once it is its turn.
async fn arrive(
    body: Body,
    room: &Room,
    load: &Load,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Status> {
    let exhausted = || {
        Status::resource_exhausted(format!(
            "resource_exhausted: {ARRIVING_MAX} calls are on their way in; try again in a second"
        ))
    };
    let mut place = room.places.take().ok_or_else(exhausted)?;
    let arrived = async {
        let request = gather(body, load).await?;
        if request.len() <= SMALL_BYTES {
            return Ok((request, None));
        }
        let turn = tokio::time::timeout(TURN_WITHIN, room.large.clone().acquire_owned()).await;
        match turn {
            Ok(turn) => Ok((request, turn.ok())),
            Err(_) => Err(Status::resource_exhausted(format!(
                "resource_exhausted: {LARGE_AT_ONCE} requests of over 64 KiB are being worked on; try again in a second"
            ))),
        }
    };
    tokio::select! {
        arrived = arrived => arrived,
        () = place.sent_away() => Err(exhausted()),
    }
}

/// All of a request. What finds no room is refused at once, as whoever waits for some while holding some
/// keeps others from ever finishing.
async fn gather(mut body: Body, load: &Load) -> Result<Bytes, Status> {
    let gathered = tokio::time::timeout(GATHERED_WITHIN, async {
        let mut bytes = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let Ok(data) = frame?.into_data() else { break };
            if !load.take(data.len()) {
                return Err(Status::resource_exhausted(
                    "resource_exhausted: too much is on its way in; try again in a second",
                ));
            }
            bytes.extend_from_slice(&data);
            // No room is made for what is only announced: many may announce much and send little.
            let whole = message_bytes(&bytes)?.map(|length| PREFIX_BYTES + length);
            if whole.is_some_and(|whole| bytes.len() > whole) {
                return Err(Status::internal("more than one message"));
            }
        }
        Ok(bytes.into())
    });
    gathered.await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!("the request was not sent in {GATHERED_WITHIN:?}")))
    })
}

/// How long a message says that it is, once that is here.
fn message_bytes(bytes: &[u8]) -> Result<Option<usize>, Status> {
    let Some([_, length @ ..]) = bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MESSAGE_BYTES_MAX {
        return Err(Status::out_of_range(format!(
            "the request has {length} bytes; at most {MESSAGE_BYTES_MAX} are taken, so send less at once"
        )));
    }
    Ok(Some(length))
}

/// `success=false` with this error: all replies that can say so begin alike.
fn refusal(error: &str) -> http::Response<Body> {
    let reply = CreateAttestationResponse { success: false, error: error.to_owned() };
    answered(&reply.encode_to_vec())
}

/// An answer that is one message.
pub(super) fn answered(message: &[u8]) -> http::Response<Body> {
    let length = u32::try_from(message.len()).expect("what we answer so is short");
    let data = [&[0], &length.to_be_bytes()[..], message].concat();
    let done = (Status::GRPC_STATUS, http::HeaderValue::from_static("0"));
    let body = Whole { data: Some(data.into()), trailers: Some([done].into_iter().collect()) };
    let mut response = http::Response::new(Body::new(body));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
    response
}

/// A body that is there already.
struct Whole {
    data: Option<Bytes>,
    trailers: Option<http::HeaderMap>,
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        let data = self.data.take().map(http_body::Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(http_body::Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }
}

/// A service, with the door before it.
#[derive(Clone)]
pub(super) struct Doorway<S> {
    door: Arc<Door>,
    service: S,
}

impl<S> Doorway<S> {
    pub(super) fn new(door: &Arc<Door>, service: S) -> Doorway<S> {
        Doorway { door: door.clone(), service }
    }
}

impl<S: NamedService> NamedService for Doorway<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Doorway<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (door, mut service) = (self.door.clone(), self.service.clone());
        Box::pin(async move { Ok(door.attend(&mut service, request).await) })
    }
}

/// One request on its way through the door. One that came another way is nobody's.
#[derive(Clone, Default)]
pub(super) struct Visit(Option<Arc<Visiting>>);

struct Visiting {
    door: Arc<Door>,
    /// Of its connection.
    number: u64,
    was_read: AtomicBool,
}

impl Visit {
    /// What a request says, which thereby has been read, and the way that it came.
    pub(super) fn of<T>(request: Request<T>) -> (Visit, T) {
        let visit = request.extensions().get::<Visit>().cloned().unwrap_or_default();
        if let Some(visiting) = &visit.0 {
            visiting.was_read.store(true, Ordering::Relaxed);
        }
        (visit, request.into_inner())
    }

    /// Its token was a process's of this plugin.
    pub(super) fn is_of(&self, plugin: &PluginName) {
        let Some(visiting) = &self.0 else { return };
        if let Some(guest) = visiting.door.guests().connected.get_mut(&visiting.number) {
            guest.plugin = Some(plugin.clone());
        }
    }
}

/// By which a request knows the connection that it came on.
#[derive(Clone)]
pub(super) struct Visitor {
    door: Arc<Door>,
    number: u64,
}

/// A connection, which ends when it is sent away.
pub(super) struct Connection {
    stream: TcpStream,
    visitor: Visitor,
    sent_away: oneshot::Receiver<()>,
    is_over: bool,
}

impl Connection {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.is_over {
            self.is_over = Pin::new(&mut self.sent_away).poll(context).is_ready();
        }
        match self.is_over {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.visitor.door.guests().connected.remove(&self.visitor.number);
    }
}

impl Connected for Connection {
    type ConnectInfo = Visitor;

    fn connect_info(&self) -> Visitor {
        self.visitor.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_of_whoever_has_most() {
        // (whose the connections are, in the order in which they came; which of them goes)
        let cases = [
            ("", None),
            ("?", Some(0)),
            ("a?b??", Some(1)),
            ("?abb?b", Some(2)),
            // Of two with as many, the one that was there first.
            ("?ab??bb", Some(0)),
            ("bb?ab??", Some(0)),
        ];
        for (owners, expected) in cases {
            let mut guests = Guests::default();
            for (number, owner) in (0..).zip(owners.chars()) {
                let plugin = (owner != '?').then(|| owner.to_string().parse().unwrap());
                guests.connected.insert(number, Guest { plugin, _stays: oneshot::channel().0 });
            }
            assert_eq!(guests.first_to_go(), expected, "{owners}");
        }
    }

    #[test]
    fn a_message_says_how_long_it_is() {
        let cases: [(&[u8], Option<Option<usize>>); 5] = [
            (&[], Some(None)),
            (&[0, 0, 0, 1], Some(None)),
            (&[0, 0, 0, 1, 2], Some(Some(258))),
            (&[0, 1, 0, 0, 0, 9, 9], Some(Some(MESSAGE_BYTES_MAX))),
            (&[0, 1, 0, 0, 1], None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(message_bytes(bytes).ok(), expected, "{bytes:?}");
        }
    }
}
