//! Room for what is on its way between browsers and plugins, over all plugins together.
//!
//! Bodies of HTTP and frames of sockets take room as they arrive, in either direction, and give it back
//! when they have been passed on. What finds none is refused at once, with advice to come again:
//! whoever waited for room while holding some would keep others from ever finishing. One plugin may
//! take half of it, so that the others have the rest.
//!
//! Not here: what is carried (`super::http`, `super::socket`).

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::codegen::{Body, BoxFuture, Bytes, Service, http};
use tonic::transport::Channel;

/// How many of the largest bodies there is room for.
const LARGEST_AT_ONCE: usize = 4;
/// Bytes that every call and every socket may hold beside these, so that small ones pass when large
/// ones wait.
const FREE_BYTES: usize = 64 * 1024;
/// HTTP calls that one plugin may have under way.
pub(crate) const CALLS_MAX: usize = 64;
/// Sockets that one plugin may have open.
pub(crate) const SOCKETS_MAX: usize = 256;

/// The room of all plugins of a host.
#[derive(Clone)]
pub(crate) struct Transit {
    all: Arc<Semaphore>,
    body_bytes_max: usize,
}

impl Transit {
    /// Room for a few bodies of this size.
    pub(crate) fn new(body_bytes_max: usize) -> Transit {
        Transit { all: Arc::new(Semaphore::new(LARGEST_AT_ONCE * body_bytes_max)), body_bytes_max }
    }

    /// The part of one plugin.
    pub(crate) fn of_plugin(&self) -> PluginTransit {
        let own = LARGEST_AT_ONCE * self.body_bytes_max / 2;
        PluginTransit {
            all: self.all.clone(),
            own: Arc::new(Semaphore::new(own)),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            sockets: Arc::new(Semaphore::new(SOCKETS_MAX)),
            body_bytes_max: self.body_bytes_max,
        }
    }
}

/// The room of one plugin.
#[derive(Clone)]
pub(crate) struct PluginTransit {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    sockets: Arc<Semaphore>,
    /// Bytes of one body or frame.
    pub(crate) body_bytes_max: usize,
}

impl PluginTransit {
    /// A place for one more HTTP call, until it is dropped; `None` when there is none.
    pub(crate) fn begin_call(&self) -> Option<OwnedSemaphorePermit> {
        self.calls.clone().try_acquire_owned().ok()
    }

    /// A place for one more socket, until it is dropped; `None` when there is none.
    pub(crate) fn begin_socket(&self) -> Option<OwnedSemaphorePermit> {
        self.sockets.clone().try_acquire_owned().ok()
    }

    /// No load yet.
    pub(crate) fn load(&self) -> Load {
        let held = Held { bytes: 0, taken: None, refused: false };
        Load { all: self.all.clone(), own: self.own.clone(), held: Arc::new(Mutex::new(held)) }
    }
}

/// What one call or one direction of a socket holds. Its clones are the same load; the room is free
/// again when the last of them is dropped.
#[derive(Clone)]
pub struct Load {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    held: Arc<Mutex<Held>>,
}

struct Held {
    bytes: usize,
    taken: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    refused: bool,
}

impl Load {
    /// Takes so many bytes more, or nothing and answers false.
    pub fn take(&self, bytes: usize) -> bool {
        let mut held = self.held();
        let wanted = held.bytes + bytes;
        let missing = wanted.saturating_sub(FREE_BYTES).saturating_sub(held.taken());
        if missing > 0 {
            let permits = |room: &Arc<Semaphore>| {
                room.clone().try_acquire_many_owned(u32::try_from(missing).unwrap_or(u32::MAX)).ok()
            };
            let Some(more) = permits(&self.own).zip(permits(&self.all)) else {
                held.refused = true;
                return false;
            };
            match &mut held.taken {
                Some((own, all)) => {
                    own.merge(more.0);
                    all.merge(more.1);
                }
                None => held.taken = Some(more),
            }
        }
        held.bytes = wanted;
        true
    }

    /// Gives so many bytes back.
    pub fn give_back(&self, bytes: usize) {
        let mut held = self.held();
        held.bytes = held.bytes.saturating_sub(bytes);
        let unneeded = held.taken().saturating_sub(held.bytes.saturating_sub(FREE_BYTES));
        if let Some((own, all)) = &mut held.taken {
            drop(own.split(unneeded));
            drop(all.split(unneeded));
        }
    }

    /// Gives everything back.
    pub fn clear(&self) {
        self.give_back(usize::MAX);
    }

    /// Whether there was no room for it once.
    pub fn was_refused(&self) -> bool {
        self.held().refused
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("nobody who counts a load panics")
    }
}

impl Held {
    fn taken(&self) -> usize {
        self.taken.as_ref().map_or(0, |(own, _)| own.num_permits())
    }
}

/// A channel whose answers take room while they arrive.
#[derive(Clone)]
pub(crate) struct Metered {
    channel: Channel,
    load: Load,
}

impl Metered {
    pub(crate) fn new(channel: Channel, load: Load) -> Metered {
        Metered { channel, load }
    }
}

impl Service<http::Request<tonic::body::Body>> for Metered {
    type Response = http::Response<tonic::body::Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::poll_ready(&mut self.channel, context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let answer = Service::call(&mut self.channel, request);
        let load = self.load.clone();
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| tonic::body::Body::new(MeteredBody { body, load })))
        })
    }
}

/// A body whose pieces take room.
struct MeteredBody {
    body: tonic::body::Body,
    load: Load,
}

impl Body for MeteredBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, tonic::Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && !self.load.take(data.len())
        {
            let status = tonic::Status::resource_exhausted("there is no room for the answer");
            return Poll::Ready(Some(Err(status)));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_plugin_leaves_room_for_the_others() {
        const MIB: usize = 1024 * 1024;
        let transit = Transit::new(MIB);
        let (one, other) = (transit.of_plugin(), transit.of_plugin());
        let (large, small) = (one.load(), one.load());
        assert!(large.take(2 * MIB + FREE_BYTES) && !large.was_refused());
        assert!(!large.take(1) && large.was_refused(), "half of all is taken");
        assert!(small.take(FREE_BYTES), "a small one always fits");
        assert!(!small.take(1));
        let others = other.load();
        assert!(others.take(2 * MIB + FREE_BYTES));
        large.give_back(10);
        assert!(small.take(10) && !small.take(1));
        large.clear();
        assert!(small.take(MIB));
        drop((large, small));
        let again = one.load();
        assert!(again.take(2 * MIB + FREE_BYTES));
        // What is refused takes nothing, of neither room.
        assert!(!again.take(MIB));
        drop(others);
        assert!(other.load().take(2 * MIB + FREE_BYTES));
    }

    #[test]
    fn calls_and_sockets_of_a_plugin_are_counted() {
        let plugin = Transit::new(1).of_plugin();
        let calls: Vec<_> = std::iter::from_fn(|| plugin.begin_call()).collect();
        let sockets: Vec<_> = std::iter::from_fn(|| plugin.begin_socket()).collect();
        assert_eq!((calls.len(), sockets.len()), (CALLS_MAX, SOCKETS_MAX));
        drop(calls);
        assert!(plugin.begin_call().is_some());
    }
}
