//! A plugin's share of the writer.
//!
//! Every append is one transaction, and the writer does one after the other: while it writes a thousand claims
//! of one plugin, the others wait. So a process has no more claims with the writer than go into one commit,
//! and after a large append it rests for as long as others keep the writer at work, up to three times as long
//! as the append took: so most of the time is theirs when they want it.
//!
//! Not here: the bound on appends of all (`crate::handle`), what is appended (`super::claims`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::handle::{Engine, Heads, INTAKE_PATIENCE};
use crate::writer::BATCH_CLAIMS_MAX;

/// Claims from which on an append is a large one.
const LARGE_CLAIMS: usize = 64;
/// What large appends may take of the writer's time while others are at work: one part in so many.
const PARTS: u32 = 4;
/// The longest part of a rest.
const PART_MAX: Duration = Duration::from_millis(500);

/// The share of one process.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    claims: Arc<Semaphore>,
}

/// The turn of one append, until it is told that it has ended.
pub(crate) struct Turn {
    engine: Engine,
    claims: usize,
    before: Heads,
    began: Instant,
    room: OwnedSemaphorePermit,
}

impl Share {
    pub(crate) fn new() -> Share {
        Share { claims: Arc::new(Semaphore::new(BATCH_CLAIMS_MAX)) }
    }

    /// The turn for an append of so many claims, after those that came before it; `None` when it has not come
    /// in the time that an append waits for the writer.
    pub(crate) async fn turn(&self, engine: &Engine, claims: usize) -> Option<Turn> {
        let room = u32::try_from(claims.min(BATCH_CLAIMS_MAX)).unwrap_or(u32::MAX);
        let room = self.claims.clone().acquire_many_owned(room);
        let room = tokio::time::timeout(INTAKE_PATIENCE, room).await.ok()?;
        let room = room.expect("nobody closes a share");
        let before = *engine.heads().borrow();
        Some(Turn { engine: engine.clone(), claims, before, began: Instant::now(), room })
    }
}

impl Turn {
    /// The append has been answered. The next one's turn comes now, or after a rest.
    pub(crate) fn ended(self) {
        let part = rest_after(self.claims, self.began.elapsed(), self.others_are_at_work());
        if let Some(part) = part {
            tokio::spawn(async move {
                let heads = self.engine.heads();
                for _ in 1..PARTS {
                    let commits = heads.borrow().commits;
                    tokio::time::sleep(part).await;
                    if heads.borrow().commits == commits {
                        break;
                    }
                }
                drop(self.room);
            });
        }
    }

    /// Whether anything was committed meanwhile but these claims. Jobs of this plugin count as others: they
    /// want the writer as well.
    fn others_are_at_work(&self) -> bool {
        let now = *self.engine.heads().borrow();
        let new = now.seq.0.saturating_sub(self.before.seq.0);
        now.audit != self.before.audit || new > self.claims as u64
    }
}

/// How long each part of a process's rest is after an append that took so long; `None` without one.
fn rest_after(claims: usize, took: Duration, others_are_at_work: bool) -> Option<Duration> {
    (others_are_at_work && claims >= LARGE_CLAIMS).then(|| took.min(PART_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_or_small_does_not_rest() {
        let ms = Duration::from_millis;
        let cases = [
            (1, ms(10), true, None),
            (LARGE_CLAIMS - 1, ms(10), true, None),
            (LARGE_CLAIMS, ms(10), true, Some(ms(10))),
            (10_000, ms(10), false, None),
            (10_000, ms(9_000), true, Some(PART_MAX)),
        ];
        for (claims, took, others, rest) in cases {
            assert_eq!(rest_after(claims, took, others), rest, "{claims} in {took:?}, {others}");
        }
    }
}
