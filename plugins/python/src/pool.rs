//! The workers: who wants one waits for it in turn, and gives it back well, or it is replaced.
//!
//! They are started when they are first needed. One that was lent and is dropped without a word is ended
//! with all that it started, because nobody knows what the job in it still does; its place is free again
//! when that is done and another one is ready.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::settings::Settings;
use crate::worker::{NoWorker, Worker};

/// Cheap to clone; clones are the same pool.
#[derive(Clone)]
pub(crate) struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    places: Arc<Semaphore>,
    /// One more for checks, so that jobs which take long do not keep them waiting.
    check_place: Arc<Semaphore>,
    idle: Mutex<Vec<Worker>>,
    /// Why there is no interpreter, and what was found when there is.
    seen: Mutex<Seen>,
    is_closed: AtomicBool,
}

/// What is known of the interpreter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub version: Option<String>,
    pub problem: Option<NoWorker>,
}

impl Pool {
    pub(crate) fn new(settings: Settings) -> Pool {
        let inner = Inner {
            places: Arc::new(Semaphore::new(settings.workers)),
            check_place: Arc::new(Semaphore::new(1)),
            idle: Mutex::default(),
            seen: Mutex::default(),
            is_closed: AtomicBool::new(false),
            settings,
        };
        Pool { inner: Arc::new(inner) }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// What was seen of the interpreter when a worker was last started.
    pub(crate) fn seen(&self) -> Seen {
        lock(&self.inner.seen).clone()
    }

    /// Waits for a worker, at most this long.
    pub(crate) async fn lend(&self, within: Duration) -> Result<Lent, NoWorker> {
        self.lend_at(self.inner.places.clone().acquire_owned(), within).await
    }

    /// The same for a check, which has a place of its own, so that no job waits for it. Where there is more than
    /// one place for jobs, a second check may take one.
    pub(crate) async fn lend_to_check(&self, within: Duration) -> Result<Lent, NoWorker> {
        let (places, check_place) = (self.inner.places.clone(), self.inner.check_place.clone());
        let has_more = self.inner.settings.workers > 1;
        let place = async {
            tokio::select! {
                biased;
                place = check_place.acquire_owned() => place,
                place = places.acquire_owned(), if has_more => place,
            }
        };
        self.lend_at(place, within).await
    }

    async fn lend_at(
        &self,
        place: impl Future<Output = Result<OwnedSemaphorePermit, AcquireError>>,
        within: Duration,
    ) -> Result<Lent, NoWorker> {
        let busy = || NoWorker::Busy { workers: self.inner.settings.workers };
        let place = tokio::time::timeout(within, place);
        let place = place.await.map_err(|_| busy())?.map_err(|_| busy())?;
        while let Some(mut worker) = self.take_idle() {
            if worker.is_well() {
                return Ok(self.lent(worker, place));
            }
            tracing::warn!("a worker ended while it had nothing to do");
            tokio::spawn(worker.end());
        }
        let worker = self.inner.start().await?;
        Ok(self.lent(worker, place))
    }

    /// Ends all workers; those at work too, as soon as they are given back.
    pub(crate) async fn close(&self) {
        self.inner.is_closed.store(true, Ordering::SeqCst);
        let idle = std::mem::take(&mut *lock(&self.inner.idle));
        for worker in idle {
            worker.end().await;
        }
    }

    fn take_idle(&self) -> Option<Worker> {
        lock(&self.inner.idle).pop()
    }

    fn lent(&self, worker: Worker, place: OwnedSemaphorePermit) -> Lent {
        Lent { pool: self.clone(), worker: Some(worker), place: Some(place) }
    }
}

impl Inner {
    async fn start(&self) -> Result<Worker, NoWorker> {
        let started = Worker::start(&self.settings).await;
        let mut seen = lock(&self.seen);
        match &started {
            Ok(worker) => {
                if seen.problem.take().is_some() {
                    tracing::info!(version = worker.version, "python is there again");
                }
                seen.version = Some(worker.version.clone());
            }
            Err(problem) => {
                if seen.problem.as_ref() != Some(problem) {
                    tracing::error!("no handler can run: {problem}");
                }
                *seen = Seen { version: None, problem: Some(problem.clone()) };
            }
        }
        started
    }

    fn take_back(&self, worker: Worker) {
        let mut idle = lock(&self.idle);
        // Under the lock: who closes takes what is there after having said so.
        if !self.is_closed.load(Ordering::SeqCst) {
            idle.push(worker);
        }
    }
}

/// A worker that was lent.
pub(crate) struct Lent {
    pool: Pool,
    worker: Option<Worker>,
    place: Option<OwnedSemaphorePermit>,
}

impl Lent {
    /// It is as it was: the next one may have it.
    pub(crate) fn give_back(mut self) {
        if let Some(worker) = self.worker.take() {
            self.pool.inner.take_back(worker);
        }
    }
}

impl Deref for Lent {
    type Target = Worker;

    fn deref(&self) -> &Worker {
        self.worker.as_ref().expect("a worker is lent until it is given back")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Worker {
        self.worker.as_mut().expect("a worker is lent until it is given back")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(worker), place, inner) =
            (self.worker.take(), self.place.take(), self.pool.inner.clone())
        else {
            return;
        };
        // Without a runtime the worker is ended by its own end.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            worker.end().await;
            if !inner.is_closed.load(Ordering::SeqCst)
                && let Ok(worker) = inner.start().await
            {
                inner.take_back(worker);
            }
            drop(place);
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
