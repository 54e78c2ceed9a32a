//! HTTP requests that a running plugin answers: `HandleHTTP`.
//!
//! In: a request under `/api/{plugin}`, checked by whoever took it. Out: what the plugin answered, or
//! why it did not, in words for who asked. Calls share the plugin's one channel with everything else,
//! so they are bounded in number, time and bytes; a process that ends under a call ends the call.
//!
//! Not here: who may ask, which headers are whose, what HTTP makes of an answer (`axwatch`'s
//! `api::proxy`).

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use axwatch_core::supervise::Status as State;
use axwatch_model::PluginName;
use axwatch_proto::protocol;
use axwatch_proto::protocol::domain_plugin_service_client::DomainPluginServiceClient;
use tonic::codegen::Bytes;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::caller::Caller;
use super::token::Token;
use super::transit::{CALLS_MAX, Load, Metered, PluginTransit, SOCKETS_MAX};
use super::{UnknownPlugin, wire};

/// How long a plugin may take to answer.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long the end of a process may take to be seen after a call to it broke.
const END_WITHIN: Duration = Duration::from_millis(500);
/// What a protobuf message may add to the body in it: headers, lengths, tags.
const ENVELOPE_BYTES_MAX: usize = 128 * 1024;
/// When a plugin that starts is worth another try.
const SOON: Duration = Duration::from_secs(1);
/// When a plugin that has failed is worth another try.
const LATER: Duration = Duration::from_secs(60);

/// A running process, for calls beside jobs.
#[derive(Clone)]
pub(crate) struct Reach {
    pub(crate) channel: Channel,
    pub(crate) caller: Arc<Caller>,
    pub(crate) token: Arc<Token>,
}

/// A request for a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// `GET`, `POST` ….
    pub method: String,
    /// The path without the plugin's prefix, with the query string.
    pub path: String,
    /// The whole path with the query string: for plugins whose routes include the prefix.
    pub full_path: String,
    /// Names and values.
    pub headers: Vec<(String, Vec<String>)>,
    /// Any bytes.
    pub body: Bytes,
}

/// What a plugin answered, unchecked.
pub struct HttpReply {
    /// Its status.
    pub status: i32,
    /// Names and values.
    pub headers: Vec<(String, Vec<String>)>,
    /// Any bytes.
    pub body: Bytes,
    /// The room that it takes, to be kept until it has been passed on.
    pub load: Load,
}

/// Why a plugin did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no such plugin.
    #[error(transparent)]
    Unknown(#[from] UnknownPlugin),
    /// Somebody disabled it.
    #[error("plugin {plugin} is disabled; running are: {}", listed(running))]
    Disabled {
        /// Which.
        plugin: PluginName,
        /// Those that would answer.
        running: Vec<String>,
    },
    /// It runs not, or not yet.
    #[error("plugin {plugin} is {state}{}", because(reason.as_deref()))]
    Away {
        /// Which.
        plugin: PluginName,
        /// What it is doing, as it is shown.
        state: &'static str,
        /// Why.
        reason: Option<String>,
        /// When it is worth another try.
        retry_after: Duration,
    },
    /// It has all the calls that it may have.
    #[error("plugin {plugin} has {CALLS_MAX} requests under way; try again in a second")]
    Busy {
        /// Which.
        plugin: PluginName,
    },
    /// It has all the sockets that it may have.
    #[error("plugin {plugin} has {SOCKETS_MAX} sockets open, and may have no more; close one")]
    TooManySockets {
        /// Which.
        plugin: PluginName,
    },
    /// Too much is on its way to and from plugins.
    #[error("more is on its way to and from plugins than there is room for; try again in a second")]
    NoRoom,
    /// It does not serve this.
    #[error("plugin {plugin} serves no {what}")]
    NotServed {
        /// Which.
        plugin: PluginName,
        /// `HTTP` or `WebSocket`.
        what: &'static str,
    },
    /// It took too long.
    #[error("plugin {plugin} did not answer within {} s", within.as_secs())]
    TooSlow {
        /// Which.
        plugin: PluginName,
        /// How long it had.
        within: Duration,
    },
    /// Its answer was an error, or is none that can be read.
    #[error("plugin {plugin}: {error}")]
    Failed {
        /// Which.
        plugin: PluginName,
        /// What was seen.
        error: String,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// A plugin that is spoken to, as it was when it was looked up.
pub struct Callable {
    pub(super) plugin: PluginName,
    pub(super) transit: PluginTransit,
    pub(super) reach: Reach,
    /// How long it has for one answer.
    pub(super) within: Duration,
}

impl Callable {
    /// The refusal while a plugin has no process that answers.
    pub(super) fn away(plugin: &PluginName, state: State, reason: Option<String>) -> CallError {
        let retry_after = if state == State::Failed { LATER } else { SOON };
        CallError::Away { plugin: plugin.clone(), state: state.as_str(), reason, retry_after }
    }

    /// Bytes of the largest body that it may be sent, and may answer.
    #[must_use]
    pub fn body_bytes_max(&self) -> usize {
        self.transit.body_bytes_max
    }

    /// Room for a request that is arriving.
    #[must_use]
    pub fn load(&self) -> Load {
        self.transit.load()
    }

    /// Asks the plugin: at the path without its prefix and, if it answers 404 there, once more at the
    /// full one. `load` is the room of the request; the answer takes room of its own.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn http(&self, call: HttpCall, load: Load) -> Result<HttpReply, CallError> {
        let place = self.transit.begin_call();
        let _place = place.ok_or_else(|| CallError::Busy { plugin: self.plugin.clone() })?;
        let _answering = self.reach.caller.begin_answering();
        let asked = async {
            let reply = self.ask(&call, &call.path).await?;
            if reply.status != 404 || call.full_path == call.path {
                return Ok(reply);
            }
            drop(reply);
            self.ask(&call, &call.full_path).await
        };
        let reply = tokio::select! {
            reply = tokio::time::timeout(self.within, asked) => reply,
            () = self.reach.caller.died() => return Err(self.gone()),
        };
        drop(load);
        self.reach.caller.answered(reply.is_ok());
        let plugin = self.plugin.clone();
        reply.unwrap_or(Err(CallError::TooSlow { plugin, within: self.within }))
    }

    async fn ask(&self, call: &HttpCall, path: &str) -> Result<HttpReply, CallError> {
        let load = self.transit.load();
        let channel = Metered::new(self.reach.channel.clone(), load.clone());
        let headers = call.headers.iter().cloned();
        let headers = headers.map(|(name, values)| protocol::HttpHeader { name, values });
        let request = protocol::HttpRequest {
            method: call.method.clone(),
            path: path.to_owned(),
            headers: headers.collect(),
            body: call.body.clone(),
        };
        let body_bytes_max = self.transit.body_bytes_max;
        let message_bytes_max = body_bytes_max + ENVELOPE_BYTES_MAX;
        let mut client =
            DomainPluginServiceClient::new(channel).max_decoding_message_size(message_bytes_max);
        match client.handle_http(request).await {
            Ok(reply) if reply.get_ref().body.len() > body_bytes_max => Err(self.too_large()),
            Ok(reply) => {
                let protocol::HttpResponse { status_code, headers, body } = reply.into_inner();
                let headers = headers.into_iter().map(|header| (header.name, header.values));
                Ok(HttpReply { status: status_code, headers: headers.collect(), body, load })
            }
            Err(_) if load.was_refused() => Err(CallError::NoRoom),
            Err(status) if wire::is_too_large(&status, message_bytes_max) => Err(self.too_large()),
            Err(status) => Err(self.failed(status, "HTTP").await),
        }
    }

    fn too_large(&self) -> CallError {
        let most = self.transit.body_bytes_max;
        let error = format!("its answer has a body of more than {most} bytes (plugin.body_max_mb)");
        CallError::Failed { plugin: self.plugin.clone(), error }
    }

    /// What a status means for who asked.
    pub(super) async fn failed(&self, status: Status, what: &'static str) -> CallError {
        let plugin = self.plugin.clone();
        if status.code() == Code::Unimplemented {
            return CallError::NotServed { plugin, what };
        }
        // What we made of a broken connection has a cause; the plugin's own words have none. A process
        // that died under the call is soon seen to have.
        let was_cut = status.source().is_some();
        if was_cut && tokio::time::timeout(END_WITHIN, self.reach.caller.died()).await.is_ok() {
            return self.gone();
        }
        CallError::Failed { plugin, error: self.reach.token.shown(&wire::status_words(&status)) }
    }

    pub(super) fn gone(&self) -> CallError {
        let reason = Some("its process ended".to_owned());
        Callable::away(&self.plugin, State::BackingOff, reason)
    }
}
