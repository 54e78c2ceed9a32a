//! Handlers that are stored as claims, and announcing anew while the plugin runs.
//!
//! A host takes a few announcements at once and then one a second: who asks while one is under way
//! shares the next, and one that came too fast is tried again for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axwatch_proto::axwatch::v1::plugin_host_client::PluginHostClient;
use axwatch_proto::axwatch::v1::{self, AnnounceRequest, StoredHandlersRequest};
use axwatch_proto::protocol::InitializeResponse;
use tokio::sync::Mutex;
use tonic::Code;
use tonic::transport::Channel;

use crate::failure::Failure;
use crate::host::{MESSAGE_BYTES_MAX, channel, failure_of_error, failure_of_status};

/// From one try to the next.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// How often one announcement is tried: for a good ten seconds.
const TRIES_MAX: u32 = 50;

/// Asks a plugin anew for all that it has; none when the plugin is gone.
pub(crate) type Announcement = Arc<dyn Fn() -> Option<InitializeResponse> + Send + Sync>;

/// A handler whose code is a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredHandler {
    /// Its name, without the plugin's.
    pub name: String,
    /// The id of the claim that has the code.
    pub version: String,
    /// The number of that claim in the log.
    pub seq: i64,
    /// The code.
    pub code: String,
    /// Why it is known not to load.
    pub faulted: Option<String>,
}

impl StoredHandler {
    fn from_wire(handler: v1::StoredHandler) -> StoredHandler {
        StoredHandler {
            name: handler.name,
            version: handler.version,
            seq: handler.seq,
            code: handler.code,
            faulted: Some(handler.faulted).filter(|reason| !reason.is_empty()),
        }
    }
}

/// The host's service for handlers and announcements.
pub(crate) struct Handlers {
    /// None when the host does not offer it.
    client: Option<PluginHostClient<Channel>>,
    token: String,
    announcement: Announcement,
    /// Counts who asked for an announcement.
    asked: AtomicU64,
    last: Mutex<Last>,
}

/// The announcement that was made last.
#[derive(Default)]
struct Last {
    /// It told of all that was there when this many had asked.
    covers: u64,
    refused: Vec<String>,
}

impl Handlers {
    /// The service at this `host:port`; one that offers nothing for an empty one.
    pub(crate) fn new(
        endpoint: &str,
        token: &str,
        announcement: Announcement,
    ) -> Result<Handlers, Failure> {
        let client = channel(endpoint)?.map(|channel| {
            PluginHostClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
        });
        Ok(Handlers {
            client,
            token: token.to_owned(),
            announcement,
            asked: AtomicU64::new(0),
            last: Mutex::default(),
        })
    }

    pub(crate) async fn stored(&self, version: &str) -> Result<Vec<StoredHandler>, Failure> {
        let request =
            StoredHandlersRequest { auth_token: self.token.clone(), version: version.to_owned() };
        let asked = self.client()?.stored_handlers(request).await;
        let mut stream = match asked {
            Err(status) if status.code() == Code::NotFound => return Ok(Vec::new()),
            asked => asked.map_err(failure_of_status)?.into_inner(),
        };
        let mut found = Vec::new();
        loop {
            match stream.message().await {
                Ok(Some(handler)) => found.push(StoredHandler::from_wire(handler)),
                Ok(None) => return Ok(found),
                Err(status) if status.code() == Code::NotFound => return Ok(Vec::new()),
                Err(status) => return Err(failure_of_status(status)),
            }
        }
    }

    /// Answers what was refused, by the announcement that told of what is there now.
    pub(crate) async fn announce(&self) -> Result<Vec<String>, Failure> {
        let ours = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = self.last.lock().await;
        if last.covers >= ours {
            return Ok(last.refused.clone());
        }
        let mut tries = 0;
        loop {
            let covers = self.asked.load(Ordering::SeqCst);
            match self.announce_once().await {
                Ok(refused) => {
                    *last = Last { covers, refused: refused.clone() };
                    return Ok(refused);
                }
                Err(Failure::Retry(_)) if tries < TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn announce_once(&self) -> Result<Vec<String>, Failure> {
        let gone = || Failure::permanent("the plugin is at its end");
        let announcement = Some((self.announcement)().ok_or_else(gone)?);
        let request = AnnounceRequest { auth_token: self.token.clone(), announcement };
        let reply = self.client()?.announce(request).await.map_err(failure_of_status)?.into_inner();
        match reply.success {
            true => Ok(reply.refused),
            false => Err(failure_of_error(&reply.error)),
        }
    }

    fn client(&self) -> Result<PluginHostClient<Channel>, Failure> {
        self.client.clone().ok_or_else(|| {
            Failure::permanent("the host keeps no handlers for plugins (no host_endpoint)")
        })
    }
}
