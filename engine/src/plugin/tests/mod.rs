//! Plugins as the host meets them: calls back over a real port, jobs to a real server, and whole
//! processes, each this test program once more in another role.

mod authority;
mod deadlines;
mod fake;
mod host;
mod http;
mod jobs;
mod queue;
mod schedules;
mod services;
mod socket;
mod stored;

use std::sync::Arc;
use std::time::Duration;

use axwatch_ats::MemoryStore;
use axwatch_core::{Ended, Outcome, Registration};
use axwatch_model::{JobRow, StoreId, SystemClock};
use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::dispatch::{Attempt, Plugin};
use crate::handle::{Engine, PluginReady};
use crate::writer::{EngineConfig, start};

/// Far longer than anything here takes: what does not happen at all fails the test and does not hang
/// it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running engine on an empty store in memory.
async fn engine() -> Engine {
    let store = MemoryStore::new(StoreId([7; 16]));
    let (engine, _) = start(store, Arc::new(SystemClock::new()), EngineConfig::default())
        .await
        .expect("an empty store is a good one");
    engine
}

/// Waits for what must come.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes in time")
}

/// An attempt that stays under way until it is told how it ended.
struct Held {
    attempt: Attempt,
    end: oneshot::Sender<Ended>,
}

impl Held {
    fn succeed(self) {
        self.end.send(Ended::bare(Outcome::Succeeded { result: None })).unwrap();
    }

    fn fail(self) {
        let outcome = Outcome::Retryable { error: "no".into(), missed_deadline: false };
        self.end.send(Ended::bare(outcome)).unwrap();
    }
}

/// A plugin that hands its attempts to the test.
struct Holding(mpsc::UnboundedSender<Held>);

impl Plugin for Holding {
    fn run<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Ended> {
        let (end, ended) = oneshot::channel();
        self.0.send(Held { attempt: attempt.clone(), end }).unwrap();
        Box::pin(async move { ended.await.unwrap() })
    }
}

/// Brings a plugin up whose attempts the test holds. Its one handler is `{name}.do`.
async fn bring_up(engine: &Engine, name: &str) -> mpsc::UnboundedReceiver<Held> {
    let (hold, held) = mpsc::unbounded_channel();
    let plugin: axwatch_model::PluginName = name.parse().unwrap();
    let ready = PluginReady {
        incarnation: engine.next_incarnation(&plugin),
        plugin,
        version: "1".into(),
        max_in_flight: 8,
        registration: Registration {
            handlers: vec![format!("{name}.do").parse().unwrap()],
            ..Registration::default()
        },
        transport: Arc::new(Holding(hold)),
    };
    engine.plugin_up(ready).await.unwrap();
    held
}

/// A job for the handler of [`bring_up`].
async fn enqueue(engine: &Engine, name: &str) -> JobRow {
    engine.enqueue(format!("{name}.do"), Arc::from(b"{}".as_slice())).await.unwrap()
}
