//! The plugin `notify`: tells people and programs of a fire.
//!
//! In comes a job for one of four handlers; out goes a log line (`notify.log`), a line in a file
//! (`notify.file`), an HTTP request (`notify.webhook`) or a command with the claim on its standard
//! input (`notify.exec`). What is said to whom comes from the parameters of the watcher that fired, and
//! where these are silent from the configuration's table `[notify]`. Nothing is kept here: after a
//! crash the host sends the same jobs again, under the same ids.
//!
//! Not here: retries and limits, which are the host's; speaking to it (`axwatch_sdk`).

mod clock;
mod exec;
mod file;
mod log;
mod nearest;
mod params;
mod payload;
mod settings;
mod webhook;

use std::sync::{Arc, PoisonError, RwLock};

use axwatch_sdk::{About, ConfigField, Done, Failure, Job, Plugin, Start};

use crate::settings::Settings;
use crate::webhook::Clients;

/// The plugin, to be served: `axwatch_sdk::serve(plugin())`.
#[must_use]
pub fn plugin() -> NotifyPlugin {
    NotifyPlugin {
        configured: RwLock::new(Arc::new(Configured::new(Settings::default()))),
        files: file::Files::default(),
        running: Arc::default(),
    }
}

/// The handlers `notify.log`, `notify.file`, `notify.webhook` and `notify.exec`.
pub struct NotifyPlugin {
    /// Exchanged as a whole: a job that has begun keeps what it began with.
    configured: RwLock<Arc<Configured>>,
    files: file::Files,
    running: Arc<exec::Running>,
}

/// One configuration, with the connections that were made under it.
struct Configured {
    settings: Settings,
    clients: Clients,
}

impl Configured {
    fn new(settings: Settings) -> Configured {
        let clients = Clients::new(settings.webhook.policy.clone());
        Configured { settings, clients }
    }
}

impl Plugin for NotifyPlugin {
    fn about(&self) -> About {
        About::new(
            "notify",
            env!("CARGO_PKG_VERSION"),
            "Tells people and programs of a fire: log, file, webhook, command",
        )
        .author("axwatch")
        .license(env!("CARGO_PKG_LICENSE"))
    }

    async fn initialize(&self, start: Start) -> Result<(), Failure> {
        let settings = Settings::read(start.config().iter()).map_err(Failure::permanent)?;
        let configured = Arc::new(Configured::new(settings));
        *self.configured.write().unwrap_or_else(PoisonError::into_inner) = configured;
        Ok(())
    }

    fn handlers(&self) -> Vec<String> {
        [log::HANDLER, file::HANDLER, webhook::HANDLER, exec::HANDLER].map(str::to_owned).into()
    }

    fn config_schema(&self) -> Vec<ConfigField> {
        settings::schema()
    }

    async fn execute(&self, job: Job) -> Result<Done, Failure> {
        let configured = self.configured.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Configured { settings, clients } = &*configured;
        match job.handler() {
            log::HANDLER => log::execute(&job, &settings.log),
            file::HANDLER => file::execute(&job, &settings.file, &self.files).await,
            webhook::HANDLER => webhook::execute(&job, &settings.webhook, clients).await,
            exec::HANDLER => exec::execute(&job, &settings.exec, &self.running).await,
            other => Err(Failure::permanent(format!("{other:?} is no handler of notify"))),
        }
    }

    async fn shutdown(&self) {
        self.running.stop().await;
    }
}
