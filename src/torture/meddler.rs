//! What goes on all the while: watchers are declared again, changed, paused, resumed and removed, and
//! the plugin is started anew with another registration. Each request is noted with its answer.

use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use anyhow::{Result, bail};

use super::dice::Dice;
use super::folder::Folder;
use super::monotonic_ns;
use super::records::{Deed, DeedLine, Journal};
use super::watchers::{DIAL, HELD, PASSING, PLUGIN, STANDING, Watcher};
use crate::client::{Client, ClientError};
use crate::runtime;

/// The pauses between two requests.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How long an answer may take. Starting the plugin anew is the longest.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// From one try to the next of what has to be done.
const AGAIN_AFTER: Duration = Duration::from_millis(50);
/// How long what has to be done may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whoever makes the requests.
pub struct Meddler {
    folder: Folder,
    journal: Journal,
    dice: Dice,
}

impl Meddler {
    /// One for a run.
    ///
    /// # Errors
    /// Its record cannot be written.
    pub fn new(folder: &Folder, seed: u64) -> Result<Meddler> {
        let journal = Journal::open(&folder.deeds())?;
        Ok(Meddler { folder: folder.clone(), journal, dice: Dice::new(seed, 3) })
    }

    /// Declares all watchers of the user, once the plugin is there.
    ///
    /// # Errors
    /// It does not come, or one is refused.
    pub async fn set_up(&mut self) -> Result<()> {
        self.until_plugin_is_ready().await?;
        for watcher in STANDING.iter().chain([&HELD, &PASSING, &DIAL[0]]) {
            self.surely(declaration(watcher)).await?;
        }
        Ok(())
    }

    /// Goes on until it is dropped, which may cut off a request.
    ///
    /// # Errors
    /// Its record cannot be written.
    pub async fn meddle(&mut self) -> Result<()> {
        loop {
            sleep(self.dice.log_uniform(PAUSE.0, PAUSE.1)).await;
            let deed = self.next_deed();
            self.ask(deed).await?;
        }
    }

    /// Lets what was held back go on, so that all can end.
    ///
    /// # Errors
    /// No server does it.
    pub async fn tidy_up(&mut self) -> Result<()> {
        self.until_plugin_is_ready().await?;
        self.surely(Deed::Resume { watcher: HELD.local.to_owned() }).await
    }

    fn next_deed(&mut self) -> Deed {
        let held = || HELD.local.to_owned();
        match self.dice.below(100) {
            0..43 => declaration(self.dice.one_of(&STANDING)),
            // Seldom, because each change closes its limit for a second.
            43..50 => declaration(self.dice.one_of(&DIAL)),
            50..60 => Deed::Pause { watcher: held() },
            60..75 => Deed::Resume { watcher: held() },
            75..82 => Deed::Remove { watcher: PASSING.local.to_owned() },
            82..95 => declaration(&PASSING),
            _ => Deed::Restart { flipped: *self.dice.one_of(&[None, Some(10), Some(25)]) },
        }
    }

    /// Makes a request, and notes what became of it. Answers whether it was done.
    async fn ask(&mut self, deed: Deed) -> Result<bool> {
        if let Deed::Restart { flipped } = deed {
            self.folder.register(flipped)?;
        }
        let Some(client) = client_of(&self.folder) else { return Ok(false) };
        let sent = monotonic_ns();
        let answer = timeout(ANSWER_WITHIN, request(&client, &deed)).await;
        let at = monotonic_ns();
        let mut line = DeedLine { deed, sent, answered: None, revision: None, refused: None };
        match answer {
            Ok(Ok(shown)) => {
                line.answered = Some(at);
                line.revision = shown["revision"].as_u64();
            }
            Ok(Err(ClientError::Server(refusal))) => line.refused = Some(refusal.message),
            // Nobody was there, so nothing was asked.
            Ok(Err(ClientError::Unreachable { .. })) => return Ok(false),
            Ok(Err(_)) | Err(_) => {}
        }
        let is_done = line.answered.is_some();
        self.journal.add(&[line])?;
        Ok(is_done)
    }

    /// Makes a request until it is done.
    async fn surely(&mut self, deed: Deed) -> Result<()> {
        let began = Instant::now();
        while !self.ask(deed.clone()).await? {
            if began.elapsed() > PATIENCE {
                bail!("the engine does not do this within {PATIENCE:?}: {deed:?}");
            }
            sleep(AGAIN_AFTER).await;
        }
        Ok(())
    }

    /// Waits for the plugin. One that was killed too often is started by hand, as a person would.
    async fn until_plugin_is_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        let path = format!("/api/v1/plugins/{PLUGIN}");
        let mut last = Value::Null;
        while began.elapsed() < PATIENCE {
            if let Some(client) = client_of(&self.folder)
                && let Ok(Ok(shown)) = timeout(ANSWER_WITHIN, client.get::<Value>(&path)).await
            {
                match shown["state"].as_str() {
                    Some("ready") => return Ok(()),
                    Some("failed") => {
                        self.ask(Deed::Restart { flipped: None }).await?;
                    }
                    _ => {}
                }
                last = shown;
            }
            sleep(AGAIN_AFTER).await;
        }
        bail!("the plugin is not ready within {PATIENCE:?}: {last}")
    }
}

fn declaration(watcher: &Watcher) -> Deed {
    Deed::Declare {
        watcher: watcher.local.to_owned(),
        when: watcher.when.to_owned(),
        handlers: watcher.handlers.iter().map(|&handler| handler.to_owned()).collect(),
        limit: watcher.limit,
    }
}

/// The server of the moment; it may be gone already.
fn client_of(folder: &Folder) -> Option<Client> {
    let store = folder.store();
    let address = runtime::read(&store)?.http.strip_prefix("http://")?.parse().ok()?;
    Some(Client::new(address, runtime::read_token(&store).ok()?))
}

async fn request(client: &Client, deed: &Deed) -> Result<Value, ClientError> {
    let none = json!({});
    let one = |watcher: &str, what: &str| format!("/api/v1/watchers/{watcher}{what}");
    match deed {
        Deed::Declare { watcher, when, handlers, limit } => {
            let body = json!({
                "id": watcher, "when": when, "handlers": handlers,
                "max_fires_per_second": limit.unwrap_or(0),
            });
            client.send(Method::POST, "/api/v1/watchers", &body).await
        }
        Deed::Pause { watcher } => client.send(Method::POST, &one(watcher, "/pause"), &none).await,
        Deed::Resume { watcher } => {
            client.send(Method::POST, &one(watcher, "/resume"), &none).await
        }
        Deed::Remove { watcher } => client.send(Method::DELETE, &one(watcher, ""), &none).await,
        Deed::Restart { .. } => {
            let path = format!("/api/v1/plugins/{PLUGIN}/restart");
            client.send(Method::POST, &path, &none).await
        }
    }
}
