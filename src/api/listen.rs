//! Connections: taking them, bounding them, and letting them go.
//!
//! Anybody on this machine can connect, and only who has the token is to be served. So a connection is
//! a [`Guest`] until it brings a request with the token; when there is room for no more, the guest
//! that has waited longest goes, and whoever comes with the token is not kept out. A socket to an open
//! plugin cannot be sent away like that once it is open; so there are few of those without the token.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use super::stopped;

/// Connections at once; for a further one the guest that came first has to go.
const CONNECTIONS_MAX: usize = 1_024;
/// Sockets at once that were opened without the token, which leaves places for everybody who has it.
const TOKENLESS_SOCKETS_MAX: usize = CONNECTIONS_MAX / 4;
/// Files that this process wants to have open at once: connections, and the store.
const FILES_WANTED: u64 = 4 * CONNECTIONS_MAX as u64;
/// How long a client may take to send the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// Bytes that a connection buffers, and therefore of a request's head.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long to rest when no connection can be taken: file descriptors are used up, most likely.
const REST: Duration = Duration::from_millis(100);
/// How long a client may leave what it was sent unread before it is cut off: what waits for it holds room.
const READ_WITHIN: Duration = Duration::from_secs(300);
/// How long requests under way may take once the server stops.
const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// A place among the connections, given back when all who share it are done: a request that becomes a
/// WebSocket keeps it beyond its connection.
pub struct Place(#[allow(dead_code, reason = "it is held")] OwnedSemaphorePermit);

/// A socket that listens.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens there; port 0 is any free one.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Listener> {
        want_files();
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Listener { socket, address })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes connections until `stopping` says so, and then lets requests under way finish for a
    /// short while.
    /// With `tls` it is what they speak first.
    pub async fn serve(
        self,
        router: Router,
        tls: Option<TlsAcceptor>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let lobby = Arc::new(Lobby::new());
        let mut connections = JoinSet::new();
        loop {
            let taken = tokio::select! {
                taken = take(&self.socket, &room, &lobby) => taken,
                () = stopped(&mut stopping) => break,
            };
            match taken {
                Ok((stream, place)) => {
                    let guest = lobby.enter();
                    let attending = Attending {
                        place: Arc::new(Place(place)),
                        guest,
                        router: router.clone(),
                        stopping: stopping.clone(),
                    };
                    connections.spawn(attending.welcome(stream, tls.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    lobby.send_first_away();
                    tokio::time::sleep(REST).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
        drop(self.socket);
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH_WITHIN, all).await.is_err() {
            tracing::warn!("requests were still under way and are cut off");
        }
    }
}

/// The next connection, for which a guest goes when there is no place.
async fn take(
    socket: &TcpListener,
    room: &Arc<Semaphore>,
    lobby: &Lobby,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let (stream, _) = socket.accept().await?;
    if room.available_permits() == 0 {
        lobby.send_first_away();
    }
    let place = Arc::clone(room).acquire_owned().await.expect("the room is never closed");
    Ok((stream, place))
}

/// One connection.
struct Attending {
    place: Arc<Place>,
    guest: Arc<Guest>,
    router: Router,
    stopping: watch::Receiver<bool>,
}

impl Attending {
    async fn welcome(mut self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return self.attend(stream).await };
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(HEAD_WITHIN, tls.accept(stream)) => shaken,
            () = self.guest.sent_away.notified() => return,
            () = stopped(&mut self.stopping) => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.attend(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a connection that speaks no TLS"),
            Err(_) => tracing::debug!("a connection that was too slow to speak TLS"),
        }
    }

    async fn attend(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(Arc::clone(&self.guest));
            request.extensions_mut().insert(Arc::clone(&self.place));
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(Patient::new(stream, READ_WITHIN)), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.guest.sent_away.notified() => Ok(()),
            () = stopped(&mut self.stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        self.guest.leave();
    }
}

/// A connection that gives up a client which does not read: what it was sent may take long, as long as
/// some of it goes on every so often.
pub struct Patient<S> {
    io: S,
    /// Runs out while nothing can be written.
    stalled: Option<Pin<Box<Sleep>>>,
    within: Duration,
}

impl<S> Patient<S> {
    pub fn new(io: S, within: Duration) -> Patient<S> {
        Patient { io, stalled: None, within }
    }

    /// The outcome of a write or a flush, or an error when none has gone on for too long.
    fn unless_stalled<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let within = self.within;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(within)));
        if stalled.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        // Last words may still be tried.
        self.stalled = None;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        self.unless_stalled(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.unless_stalled(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(context);
        self.unless_stalled(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// The connections that have not shown the token yet, in the order in which they came.
struct Lobby {
    waiting: Mutex<Waiting>,
    /// Room for sockets of those who never show it.
    sockets: Arc<Semaphore>,
}

#[derive(Default)]
struct Waiting {
    guests: BTreeMap<u64, Arc<Guest>>,
    next: u64,
}

/// A connection that has not shown the token, or had not.
pub struct Guest {
    number: u64,
    lobby: Arc<Lobby>,
    sent_away: Notify,
}

impl Guest {
    /// It has shown the token, or is gone: nobody sends it away any more.
    pub fn leave(&self) {
        self.lobby.waiting().guests.remove(&self.number);
    }

    /// A place for a socket that is opened without the token, until it is dropped; `None` when there is
    /// none.
    pub fn stay(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.lobby.sockets).try_acquire_owned().ok()
    }
}

impl Lobby {
    fn new() -> Lobby {
        let sockets = Arc::new(Semaphore::new(TOKENLESS_SOCKETS_MAX));
        Lobby { waiting: Mutex::default(), sockets }
    }

    fn enter(self: &Arc<Lobby>) -> Arc<Guest> {
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        let guest = Guest { number, lobby: Arc::clone(self), sent_away: Notify::new() };
        let guest = Arc::new(guest);
        waiting.guests.insert(number, Arc::clone(&guest));
        guest
    }

    fn send_first_away(&self) {
        if let Some((_, guest)) = self.waiting().guests.pop_first() {
            guest.sent_away.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("nobody who counts guests panics")
    }
}

/// Asks the system for as many open files as connections need: 1,024 is what many begin with.
fn want_files() {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    let wanted = FILES_WANTED.min(maximum.unwrap_or(u64::MAX));
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let limit = Rlimit { current: Some(wanted), maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    async fn asked(stream: &mut TcpStream) -> std::io::Result<usize> {
        stream.write_all(ASK).await?;
        stream.read(&mut [0; 1024]).await
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut_off_in_the_end() {
        let (ours, mut theirs) = tokio::io::duplex(10);
        let mut patient = Patient::new(ours, Duration::from_millis(20));
        for _ in 0..3 {
            patient.write_all(&[1; 10]).await.unwrap();
            theirs.read_exact(&mut [0; 10]).await.unwrap();
        }
        let error = patient.write_all(&[1; 11]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn sockets_without_the_token_have_a_part_of_the_places() {
        let lobby = Arc::new(Lobby::new());
        let guests: Vec<_> = (0..=TOKENLESS_SOCKETS_MAX).map(|_| lobby.enter()).collect();
        let mut stays: Vec<_> = guests.iter().map_while(|guest| guest.stay()).collect();
        assert_eq!(stays.len(), TOKENLESS_SOCKETS_MAX);
        stays.pop();
        assert!(guests[0].stay().is_some(), "one that was closed makes room");
    }

    #[tokio::test]
    async fn silent_connections_keep_nobody_out() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.address();
        let welcome = async |request: Request| {
            request.extensions().get::<Arc<Guest>>().unwrap().leave();
            "hello"
        };
        let (stop, stopping) = watch::channel(false);
        let serving =
            tokio::spawn(listener.serve(Router::new().route("/", get(welcome)), None, stopping));
        let mut known = TcpStream::connect(address).await.unwrap();
        assert!(asked(&mut known).await.unwrap() > 0);
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 10 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        let answered = tokio::time::timeout(HEAD_WITHIN / 2, asked(&mut late)).await;
        assert!(answered.expect("it is answered at once").unwrap() > 0);
        assert_eq!(silent[0].read(&mut [0; 1]).await.unwrap_or(0), 0, "the first guest went");
        assert!(asked(&mut known).await.unwrap() > 0, "who was let in stays");
        stop.send(true).unwrap();
        drop((silent, known, late));
        serving.await.unwrap();
    }
}
