//! Room for the bodies of requests that are on their way, over all connections together.
//!
//! A body takes room as it arrives, never what it announces: a client that announces much and sends
//! nothing keeps nothing. It gives the room back when its request has been dealt with.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// Bytes of bodies that are held, over all requests.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes that every body may hold beside these, so that small requests pass when large ones wait.
const FREE_BYTES: usize = 64 * 1024;

/// How long is waited for and by a body.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long it waits for room before it is refused.
    pub room: Duration,
    /// How long it may take: a whole body to arrive, and a long line of many to go on.
    pub arrival: Duration,
}

impl Patience {
    /// What everybody gets.
    pub const USUAL: Patience =
        Patience { room: Duration::from_secs(10), arrival: Duration::from_secs(30) };
}

/// All the room there is.
pub struct Bodies {
    all: Arc<Semaphore>,
    patience: Patience,
}

impl Bodies {
    pub fn new() -> Bodies {
        Bodies::with(Patience::USUAL)
    }

    pub fn with(patience: Patience) -> Bodies {
        Bodies { all: Arc::new(Semaphore::new(HELD_BYTES_MAX)), patience }
    }

    /// No room yet, for one body.
    pub fn room(&self) -> Room {
        Room { all: Arc::clone(&self.all), patience: self.patience, taken: None }
    }
}

/// The room that one body has.
pub struct Room {
    all: Arc<Semaphore>,
    /// How long is waited for and by its body.
    pub patience: Patience,
    taken: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Waits until there is room for so many bytes in all.
    ///
    /// # Errors
    /// When there is none for too long.
    pub async fn grow_to(&mut self, bytes: usize) -> Result<(), ApiError> {
        let missing = self.missing(bytes);
        if missing > 0 {
            let more = Arc::clone(&self.all).acquire_many_owned(missing);
            let more = tokio::time::timeout(self.patience.room, more).await;
            self.merge(more.map_err(|_| ApiError::busy())?.expect("the room is never closed"));
        }
        Ok(())
    }

    /// Takes room for so many bytes in all when it is there at once. Says whether it was.
    pub fn try_grow_to(&mut self, bytes: usize) -> bool {
        let missing = self.missing(bytes);
        if missing == 0 {
            return true;
        }
        let more = Arc::clone(&self.all).try_acquire_many_owned(missing);
        more.map(|more| self.merge(more)).is_ok()
    }

    /// Gives back what is over so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(taken) = &mut self.taken {
            let needed = bytes.saturating_sub(FREE_BYTES);
            drop(taken.split(taken.num_permits().saturating_sub(needed)));
        }
    }

    /// Whether it keeps others from having room.
    pub fn is_taken(&self) -> bool {
        self.taken.as_ref().is_some_and(|taken| taken.num_permits() > 0)
    }

    fn missing(&self, bytes: usize) -> u32 {
        let taken = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = bytes.saturating_sub(FREE_BYTES).saturating_sub(taken);
        u32::try_from(missing).expect("a body is far smaller than 4 GiB")
    }

    fn merge(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse as _;

    #[tokio::test]
    async fn bodies_share_one_room() {
        let room = Duration::from_millis(10);
        let bodies = Bodies::with(Patience { room, ..Patience::USUAL });
        let (mut large, mut other) = (bodies.room(), bodies.room());
        assert!(large.try_grow_to(HELD_BYTES_MAX + FREE_BYTES));
        assert!(other.try_grow_to(FREE_BYTES), "a small one always fits");
        assert!(!other.is_taken());
        assert!(!other.try_grow_to(FREE_BYTES + 1));
        let refused = other.grow_to(FREE_BYTES + 1).await.unwrap_err().into_response();
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "1");
        large.shrink_to(FREE_BYTES + 10);
        assert!(other.try_grow_to(HELD_BYTES_MAX + FREE_BYTES - 10));
        drop(other);
        large.grow_to(HELD_BYTES_MAX).await.unwrap();
    }
}
