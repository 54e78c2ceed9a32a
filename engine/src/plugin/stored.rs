//! The code of stored handlers, for the plugin that runs them.
//!
//! Which handlers there are the core says; their code is read from the log, a few claims at a time and as fast
//! as the plugin reads.
//!
//! Not here: which claims take effect (`axwatch_core`), who is listened to (`super::admission`).

use std::pin::Pin;

use axwatch_ats::StoreError;
use axwatch_model::{AttestationId, HandlerName, Seq, Stored, StoredHandler, StoredHandlerState};
use axwatch_proto::axwatch::v1;
use futures::{Stream, StreamExt as _, future, stream};
use tonic::Status;

use super::admission::{Admitted, Denied, text};
use super::services::Services;

/// Claims that are read at once: each may have a megabyte of code.
const READ_AT_ONCE: usize = 8;

/// The reply to StoredHandlers.
pub(super) type HandlerStream =
    Pin<Box<dyn Stream<Item = Result<v1::StoredHandler, Status>> + Send>>;

impl Services {
    /// The stored handlers of the calling plugin that are not removed, broken ones among them, or one version.
    pub(super) async fn told_handlers(
        &self,
        mut admitted: Admitted,
        version: &str,
    ) -> Result<HandlerStream, Status> {
        if !version.is_empty() {
            let told = self.told_version(&admitted, version).await?;
            admitted.done();
            return Ok(Box::pin(stream::iter([Ok(told)])));
        }
        let handlers = self.engine.stored_handlers_of(admitted.caller.plugin.clone()).await;
        let mut handlers = handlers.map_err(|gone| Status::unavailable(gone.to_string()))?;
        handlers.retain(|handler| handler.state != StoredHandlerState::Removed);
        Ok(Box::pin(self.clone().with_code(admitted, handlers)))
    }

    /// These handlers, each with its code. The call's room is given back when this ends or is dropped.
    fn with_code(
        self,
        admitted: Admitted,
        handlers: Vec<StoredHandler>,
    ) -> impl Stream<Item = Result<v1::StoredHandler, Status>> {
        let (caller, watched) = (admitted.caller.clone(), admitted.caller.clone());
        let rest = handlers.into_iter();
        let told = stream::try_unfold(
            (self, rest, admitted),
            |(services, mut rest, mut admitted)| async move {
                let some: Vec<_> = rest.by_ref().take(READ_AT_ONCE).collect();
                if some.is_empty() {
                    admitted.done();
                    return Ok::<_, Status>(None);
                }
                let seqs: Vec<_> = some.iter().map(|handler| handler.version_seq).collect();
                let claims = services.engine.store().by_seqs(&seqs).await.map_err(|error| {
                    admitted.caller.call_failed();
                    unavailable(error)
                })?;
                let told: Vec<_> = some.iter().map(|of| Ok(told(of, &claims))).collect();
                Ok(Some((stream::iter(told), (services, rest, admitted))))
            },
        );
        let told = futures::TryStreamExt::try_flatten(told);
        // A stream that just ended would look whole.
        let end = stream::once(async move {
            let is_dead = !caller.is_alive();
            is_dead.then(|| Err(Status::from(Denied::Unauthenticated)))
        });
        let until_death = told.take_until(async move { watched.died().await });
        until_death.chain(end.filter_map(future::ready))
    }

    /// One version of a handler of the calling plugin, in force or not.
    async fn told_version(
        &self,
        admitted: &Admitted,
        version: &str,
    ) -> Result<v1::StoredHandler, Status> {
        let plugin = &admitted.caller.plugin;
        let none = || {
            let shown = admitted.caller.shown(version);
            Status::not_found(format!(
                "version {shown}: it is no version of a handler that is stored for plugin {plugin}"
            ))
        };
        let id: AttestationId = version.parse().map_err(|_| none())?;
        let store = self.engine.store();
        let claim = store.get(&id).await.map_err(unavailable)?.ok_or_else(none)?;
        let subject = claim.attestation.subjects.first().ok_or_else(none)?;
        let name: HandlerName = subject.parse().map_err(|_| none())?;
        // The change that the claim itself made, if it made one.
        let before = Some(Seq(claim.seq.0.saturating_add(1)));
        let changes = store.handler_changes(plugin, &name, before, 1).await.map_err(unavailable)?;
        if !changes.iter().any(|row| row.seq == claim.seq && row.version == id) {
            return Err(none());
        }
        let now = self.engine.stored_handler(plugin.clone(), name.clone()).await;
        let now = now.map_err(|gone| Status::unavailable(gone.to_string()))?;
        let faulted = now.filter(|handler| handler.version == id).map(|handler| faulted(&handler));
        Ok(v1::StoredHandler {
            name: name.to_string(),
            version: id.to_string(),
            seq: claim.seq.0.cast_signed(),
            code: code_of(&claim).ok_or_else(none)?,
            faulted: faulted.unwrap_or_default(),
        })
    }
}

/// A handler with its code, if that is among these claims. One whose claim cannot be read does not load: were it
/// left out, its plugin would take it for removed, and what it declared for gone.
fn told(handler: &StoredHandler, claims: &[Stored]) -> v1::StoredHandler {
    let claim = claims.iter().find(|claim| claim.seq == handler.version_seq);
    let code = claim.and_then(code_of);
    let faulted = match &code {
        Some(_) => faulted(handler),
        None => format!(
            "the claim {} with its code cannot be read; `axwatch doctor` says more",
            handler.version
        ),
    };
    v1::StoredHandler {
        name: handler.name.to_string(),
        version: handler.version.to_string(),
        seq: handler.version_seq.0.cast_signed(),
        code: code.unwrap_or_default(),
        faulted,
    }
}

fn faulted(handler: &StoredHandler) -> String {
    match &handler.state {
        // It is known not to load, whether or not anybody said why.
        StoredHandlerState::Broken { reason } if reason.is_empty() => {
            "no reason was given".to_owned()
        }
        StoredHandlerState::Broken { reason } => reason.clone(),
        StoredHandlerState::InForce | StoredHandlerState::Removed => String::new(),
    }
}

fn code_of(claim: &Stored) -> Option<String> {
    let attributes = claim.attestation.attributes.as_ref()?.to_value();
    Some(attributes.get("code")?.as_str()?.to_owned())
}

fn unavailable(error: StoreError) -> Status {
    Status::unavailable(text(&error.into()))
}
