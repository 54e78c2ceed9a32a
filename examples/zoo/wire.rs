//! What a well-behaved gRPC library would not let a plugin do: answers of bytes that are no message, two
//! answers to one call, connections that send a byte at a time or close under their calls.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::transport::server::Connected;

/// How long a connection stays open that closes under its calls.
const CONNECTION_LASTS: Duration = Duration::from_millis(20);
/// How many connections close so, until one stays.
const CLOSED_MAX: u32 = 1_000;

/// The calls that are answered with these frames instead of what the service says.
#[derive(Clone, Copy)]
pub struct Instead {
    /// The name of the call.
    pub call: &'static str,
    /// The messages, as bytes.
    pub messages: &'static [&'static [u8]],
}

/// A service, some of whose answers are replaced.
#[derive(Clone)]
pub struct Replaced<S> {
    pub inner: S,
    pub instead: Option<Instead>,
}

impl<S: NamedService> NamedService for Replaced<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Replaced<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.instead {
            Some(instead) if request.uri().path().ends_with(instead.call) => {
                Box::pin(async move { Ok(answer(instead.messages)) })
            }
            _ => Box::pin(self.inner.call(request)),
        }
    }
}

/// A whole answer of gRPC: each message in a frame of its own, and that all went well.
fn answer(messages: &'static [&'static [u8]]) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = messages.iter().map(|message| Frame::data(framed(message)));
    let frames = stream::iter(frames.chain([Frame::trailers(trailers)]).map(Ok::<_, Infallible>));
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a short message"));
    frame.put_slice(message);
    frame.freeze()
}

/// How the connections of a plugin behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As they should.
    Well,
    /// Each byte is sent by itself.
    ByteByByte,
    /// They close under the calls that they carry; after a thousand, one stays.
    Closing,
}

/// The connections of a listener.
pub fn incoming(
    listener: TcpListener,
    manner: Manner,
) -> impl Stream<Item = io::Result<Connection>> {
    let mut left = CLOSED_MAX;
    tokio_stream::wrappers::TcpListenerStream::new(listener).map(move |stream| {
        let stream = stream?;
        let _ = stream.set_nodelay(true);
        let closes = manner == Manner::Closing && left > 0;
        left -= u32::from(closes);
        let until =
            closes.then(|| Box::pin(tokio::time::sleep_until(Instant::now() + CONNECTION_LASTS)));
        Ok(Connection { stream, one_by_one: manner == Manner::ByteByByte, until })
    })
}

/// One connection.
pub struct Connection {
    stream: TcpStream,
    one_by_one: bool,
    until: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.until.as_mut().is_some_and(|until| until.as_mut().poll(context).is_ready())
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let bytes = if self.one_by_one { &bytes[..bytes.len().min(1)] } else { bytes };
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
