//! What the tests of the SDK share: a plugin whose handlers are closures.

#![allow(dead_code, reason = "each file of tests takes what it needs")]

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axwatch_sdk::testing::TestJob;
use axwatch_sdk::{About, Done, Failure, Health, Job, Plugin, Start, Watcher};

/// How long anything that has to happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

type Answer = Pin<Box<dyn Future<Output = Result<Done, Failure>> + Send>>;

/// A plugin `scripted` with one handler, `scripted.work`, that does what the test says.
#[derive(Clone)]
pub struct Scripted {
    work: Arc<dyn Fn(Job) -> Answer + Send + Sync>,
    pub seen: Arc<Seen>,
}

/// What the plugin was told.
#[derive(Default)]
pub struct Seen {
    /// The key `mode` of each configuration.
    pub modes: Mutex<Vec<Option<String>>>,
    pub shutdowns: AtomicUsize,
}

impl Scripted {
    pub fn new<F>(work: impl Fn(Job) -> F + Send + Sync + 'static) -> Scripted
    where
        F: Future<Output = Result<Done, Failure>> + Send + 'static,
    {
        Scripted { work: Arc::new(move |job| Box::pin(work(job))), seen: Arc::default() }
    }
}

impl Plugin for Scripted {
    fn about(&self) -> About {
        About::new("scripted", "1.2.3", "does what a test says").author("a test").license("MIT")
    }

    async fn initialize(&self, start: Start) -> Result<(), Failure> {
        let mode = start.config().get("mode").map(str::to_owned);
        match mode.as_deref() {
            Some("refuse") => return Err(Failure::permanent("mode: refuse does not do")),
            Some("later") => return Err(Failure::retry("no database yet")),
            Some("panic") => panic!("no idea what to do"),
            _ => {}
        }
        self.seen.modes.lock().unwrap().push(mode);
        Ok(())
    }

    fn handlers(&self) -> Vec<String> {
        vec!["scripted.work".into()]
    }

    fn watchers(&self) -> Vec<Watcher> {
        vec![watcher()]
    }

    fn health(&self) -> Health {
        Health::good().detail("mood", "fine")
    }

    async fn execute(&self, job: Job) -> Result<Done, Failure> {
        (self.work)(job).await
    }

    async fn shutdown(&self) {
        self.seen.shutdowns.fetch_add(1, Ordering::SeqCst);
    }
}

/// The watcher of [`Scripted`].
pub fn watcher() -> Watcher {
    Watcher::new("all", "scripted.work")
        .predicates(["is"])
        .max_fires_per_second(5)
        .params(serde_json::json!({ "n": 1 }))
        .max_chain(9)
}

/// A job for [`Scripted`].
pub fn job() -> TestJob {
    TestJob::new("scripted.work")
}

/// Looks until there is an answer. `what` says in words what is waited for.
pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
