//! Large messages of one process, one or two at a time.
//!
//! **Answers to jobs.** A plugin may have hundreds of jobs under way, and each answer may have 8 MiB: all of
//! them at once are more than there is memory for. Small answers pass as they come. A larger one is left with
//! the plugin, where HTTP/2 keeps it, until its turn has come: it is read, understood, and done with before
//! the next.
//!
//! **Our replies to its calls**: what is large has a [`Seat`] from before it is put together until the plugin has
//! taken it off our hands.
//!
//! Not here: bodies of people's requests, which are refused when there is no room (`super::transit`), because
//! somebody waits for them who can come again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::codegen::{Body, Bytes, Service, http};
use tonic::server::NamedService;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Bytes of a message that pass out of turn.
pub(crate) const SMALL_BYTES: usize = 64 * 1024;

/// A channel to one process, the large answers of which take turns.
#[derive(Clone)]
pub(crate) struct InTurn {
    channel: Channel,
    turn: Arc<Semaphore>,
}

impl InTurn {
    pub(crate) fn new(channel: Channel) -> InTurn {
        InTurn { channel, turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Service<http::Request<tonic::body::Body>> for InTurn {
    type Response = http::Response<tonic::body::Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let answer = Service::call(&mut self.channel, request);
        let turn = self.turn.clone();
        Box::pin(async move {
            let in_turn = |body| InTurnBody { body, turn, place: Place::Unknown };
            Ok(answer.await?.map(|body| tonic::body::Body::new(in_turn(body))))
        })
    }
}

/// A body that is one message of gRPC. Whoever reads it makes room for the whole message once its head has
/// come, so that the head of a large one is kept back until its turn. Behind a small one nothing may follow:
/// it would be read out of turn, however large it is.
struct InTurnBody<B> {
    body: B,
    turn: Arc<Semaphore>,
    place: Place,
}

/// Whether it is the turn of a body.
enum Place {
    /// Nobody knows yet how large its message is.
    Unknown,
    /// It has to wait, with what came first.
    Waits(BoxFuture<'static, OwnedSemaphorePermit>, http_body::Frame<Bytes>),
    /// It is, until the body is dropped.
    Taken { _turn: OwnedSemaphorePermit },
    /// It needs none, and so many bytes are missing of it.
    Small(usize),
}

/// Bytes before a message, of which the last four tell its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// How many bytes the small message of gRPC has that begins so; `None` of a large one. A beginning that does
/// not tell counts as one.
fn small_bytes(beginning: &[u8]) -> Option<usize> {
    let [_, length @ ..] = beginning.first_chunk::<PREFIX_BYTES>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (length <= SMALL_BYTES).then_some(PREFIX_BYTES + length)
}

/// What is missing of a message after this piece of it.
fn missing_after(frame: &http_body::Frame<Bytes>, missing: usize) -> Result<usize, Status> {
    let bytes = frame.data_ref().map_or(0, Bytes::len);
    missing.checked_sub(bytes).ok_or_else(|| Status::internal("it answered more than once"))
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Body for InTurnBody<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.place, Place::Unknown) {
                Place::Unknown => {
                    let polled = ready!(Pin::new(&mut this.body).poll_frame(context));
                    let Some(Ok(frame)) = polled else {
                        this.place = Place::Small(0);
                        return Poll::Ready(polled);
                    };
                    let small = match frame.data_ref() {
                        Some(data) => small_bytes(data),
                        None => Some(0),
                    };
                    let Some(bytes) = small else {
                        let turn = this.turn.clone().acquire_owned();
                        let turn = async { turn.await.expect("nobody closes a turn") };
                        this.place = Place::Waits(Box::pin(turn), frame);
                        continue;
                    };
                    return Poll::Ready(Some(this.pass(frame, bytes)));
                }
                Place::Small(missing) => {
                    this.place = Place::Small(missing);
                    let polled = ready!(Pin::new(&mut this.body).poll_frame(context));
                    return Poll::Ready(match polled {
                        Some(Ok(frame)) => Some(this.pass(frame, missing)),
                        polled => polled,
                    });
                }
                Place::Waits(mut turn, frame) => match turn.as_mut().poll(context) {
                    Poll::Ready(_turn) => {
                        this.place = Place::Taken { _turn };
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    Poll::Pending => {
                        this.place = Place::Waits(turn, frame);
                        return Poll::Pending;
                    }
                },
                Place::Taken { _turn } => {
                    this.place = Place::Taken { _turn };
                    return Pin::new(&mut this.body).poll_frame(context);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        !matches!(self.place, Place::Waits(..)) && self.body.is_end_stream()
    }
}

impl<B> InTurnBody<B> {
    /// Passes on a piece of a small message of which so many bytes were missing.
    fn pass(
        &mut self,
        frame: http_body::Frame<Bytes>,
        missing: usize,
    ) -> Result<http_body::Frame<Bytes>, Status> {
        let left = missing_after(&frame, missing);
        self.place = Place::Small(*left.as_ref().unwrap_or(&0));
        left.map(|_| frame)
    }
}

/// Room for one large reply. Its clones are the same; it is free again when the last is dropped.
#[derive(Clone)]
pub(crate) struct Seat {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Seat {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Seat {
        Seat { _permit: Arc::new(permit) }
    }

    /// The reply that has this seat, if it has one.
    pub(crate) fn taken_by<T>(reply: T, seat: Option<Seat>) -> Response<T> {
        let mut response = Response::new(reply);
        if let Some(seat) = seat {
            response.extensions_mut().insert(seat);
        }
        response
    }
}

/// A service whose responses keep the [`Seat`] among their extensions until their last byte has been sent.
#[derive(Clone)]
pub(crate) struct Seated<S>(pub(crate) S);

impl<S: NamedService> NamedService for Seated<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Seated<S>
where
    S: Service<http::Request<B>, Response = http::Response<tonic::body::Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let answered = self.0.call(request);
        Box::pin(async move {
            let mut response = answered.await?;
            Ok(match response.extensions_mut().remove::<Seat>() {
                Some(seat) => {
                    response.map(|body| tonic::body::Body::new(SeatedBody { body, seat }))
                }
                None => response,
            })
        })
    }
}

struct SeatedBody<B> {
    body: B,
    seat: Seat,
}

impl<B: Body<Data = Bytes> + Unpin> Body for SeatedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        // What has left this body may lie with the connection until the other side reads it.
        let seated = |bytes| Bytes::from_owner(SeatedBytes { bytes, _seat: this.seat.clone() });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(seated))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

struct SeatedBytes {
    bytes: Bytes,
    _seat: Seat,
}

impl AsRef<[u8]> for SeatedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::FutureExt as _;

    use super::*;

    /// A body of pieces that are all there.
    struct Pieces(VecDeque<Bytes>);

    impl Pieces {
        /// A message of gRPC in four pieces.
        fn message(bytes: usize) -> Pieces {
            let mut head = vec![0; 5 + bytes / 4];
            head[1..5].copy_from_slice(&u32::try_from(bytes).unwrap().to_be_bytes());
            let rest = std::iter::repeat_n(Bytes::from(vec![0; bytes / 4]), 3);
            Pieces([head.into()].into_iter().chain(rest).collect())
        }
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
            let piece = self.0.pop_front();
            Poll::Ready(piece.map(|piece| Ok(http_body::Frame::data(piece))))
        }
    }

    /// Bytes that can be read of it now, and whether that was all.
    fn read(body: &mut InTurnBody<Pieces>) -> (usize, bool) {
        let mut bytes = 0;
        loop {
            let next = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
            match next.now_or_never() {
                Some(Some(Ok(frame))) => bytes += frame.data_ref().unwrap().len(),
                Some(Some(Err(error))) => panic!("{error}"),
                Some(None) => return (bytes, true),
                None => return (bytes, false),
            }
        }
    }

    #[test]
    fn what_is_large_waits_for_what_is_large_and_small_passes() {
        let turn = Arc::new(Semaphore::new(1));
        let body = |bytes: usize| {
            let (body, turn) = (Pieces::message(bytes), turn.clone());
            InTurnBody { body, turn, place: Place::Unknown }
        };
        let large = 4 * SMALL_BYTES;
        let (mut first, mut second, mut small) = (body(large), body(large), body(SMALL_BYTES));
        assert_eq!(read(&mut first), (large + 5, true));
        assert_eq!(read(&mut second), (0, false), "its turn has not come");
        assert_eq!(read(&mut small), (SMALL_BYTES + 5, true));
        drop(first);
        assert_eq!(read(&mut second), (large + 5, true));
        // One that waits and goes away leaves nothing behind.
        let mut third = body(large);
        assert!(!read(&mut third).1);
        drop((second, third));
        assert!(read(&mut body(large)).1);
        assert_eq!(small_bytes(&[0, 0]), None, "who knows");
    }

    #[test]
    fn behind_a_small_message_nothing_follows() {
        let (head, tail) = ([0, 0, 0, 0, 2, 8], [1]);
        for second in [&[0, 0, 128, 0, 0][..], b"x"] {
            let pieces = [&head[..], &tail, second].map(Bytes::copy_from_slice);
            let mut body = InTurnBody {
                body: Pieces(pieces.into()),
                turn: Arc::new(Semaphore::new(1)),
                place: Place::Unknown,
            };
            let mut next = || {
                let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
                next.now_or_never().flatten().map(|frame| frame.map(drop).map_err(|e| e.code()))
            };
            let read = [next(), next(), next()];
            assert_eq!(read, [Some(Ok(())), Some(Ok(())), Some(Err(tonic::Code::Internal))]);
        }
    }

    #[test]
    fn a_seat_is_free_when_the_last_byte_is_gone() {
        let seats = Arc::new(Semaphore::new(1));
        let seat = Seat::new(seats.clone().try_acquire_owned().unwrap());
        let mut body = SeatedBody { body: Pieces(["abc", "defgh"].map(Bytes::from).into()), seat };
        let mut piece = || {
            let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            next.now_or_never().flatten().map(|frame| frame.unwrap().into_data().unwrap())
        };
        let (first, second) = (piece().unwrap(), piece().unwrap());
        assert_eq!((first.len(), second.len(), piece()), (3, 5, None));
        drop((body, first));
        assert_eq!(seats.available_permits(), 0, "a part of it is still ours");
        drop(second.slice(2..));
        drop(second);
        assert_eq!(seats.available_permits(), 1);
    }
}
