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

/// A body that begins with a message of gRPC. Whoever reads it makes room for the whole message once its head
/// has come, so that the head of a large one is kept back until its turn.
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
    /// It needs none.
    Small,
}

/// Whether the message of gRPC that begins so is a large one: after a byte of flags comes its length. A
/// beginning of fewer bytes does not tell, and counts as one.
fn is_large(beginning: &[u8]) -> bool {
    let length = beginning.get(1..5).and_then(|length| length.first_chunk());
    length.is_none_or(|length| u32::from_be_bytes(*length) as usize > SMALL_BYTES)
}

impl<B: Body<Data = Bytes> + Unpin> Body for InTurnBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.place, Place::Unknown) {
                Place::Unknown => {
                    let polled = ready!(Pin::new(&mut this.body).poll_frame(context));
                    match polled {
                        Some(Ok(frame)) if frame.data_ref().is_some_and(|data| is_large(data)) => {
                            let turn = this.turn.clone().acquire_owned();
                            let turn = async { turn.await.expect("nobody closes a turn") };
                            this.place = Place::Waits(Box::pin(turn), frame);
                        }
                        polled => {
                            this.place = Place::Small;
                            return Poll::Ready(polled);
                        }
                    }
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
                known => {
                    this.place = known;
                    return Pin::new(&mut this.body).poll_frame(context);
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        !matches!(self.place, Place::Waits(..)) && self.body.is_end_stream()
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
    use std::convert::Infallible;

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
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
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
                Some(Some(Err(never))) => match never {},
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
        assert!(is_large(&[0, 0]), "who knows");
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
