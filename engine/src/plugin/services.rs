//! What we serve to plugins: the store of claims, and the host itself; and beside them, on the same port, the queue of
//! jobs (`super::queue`) and schedules (`super::schedules`).
//!
//! No lock is held while an answer is made, and no plugin waits for another: these calls come in while
//! Initialize and ExecuteJob of the same plugin are under way. What was sent takes more room than what it
//! means, so that nothing of it is left when a call waits for something.
//!
//! Not here: how requests come in (`super::door`), who is listened to (`super::admission`), what a message means
//! (`super::wire`), what a claim's lineage is (`super::claims`).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axwatch_ats::{Matches, StoreError};
use axwatch_model::{AttestationId, Draft, RefusedRow, Stored};
use axwatch_proto::axwatch::v1;
use axwatch_proto::axwatch::v1::plugin_host_server::{PluginHost, PluginHostServer};
use axwatch_proto::protocol;
use axwatch_proto::protocol::ats_store_service_server::{AtsStoreService, AtsStoreServiceServer};
use axwatch_proto::protocol::queue_service_server::QueueServiceServer;
use axwatch_proto::protocol::schedule_service_server::ScheduleServiceServer;
use futures::{Stream, StreamExt as _, future, stream};
use prost::Message as _;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::admission::{Admitted, CallError, Denied, text, verdict};
use super::caller::{CALLS_MAX, Caller};
use super::claims::{ClaimError, Claims, OnBehalf};
use super::door::{Door, Doorway, MESSAGE_BYTES_MAX, Visit};
use super::large::{SMALL_BYTES, Seat, Seated};
use super::stored::HandlerStream;
use super::token::Callers;
use super::wire;
use crate::handle::{AppendRefusal, Engine};

/// Calls that one connection may have open: more than one plugin may make, so that it hears why.
const STREAMS_MAX: usize = 2 * CALLS_MAX;
/// Bytes of one reply: what existing clients take at most.
pub(super) const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Commands in one batch. A command of a few bytes becomes a draft of a kilobyte and more, all of them
/// at once, so that the bound on a request's bytes alone would leave room for hundreds of megabytes.
pub(super) const BATCH_COMMANDS_MAX: usize = 10_000;
/// Lines of the reply to Announce that say what was refused.
const REFUSED_LINES_MAX: usize = 1_000;
/// Bytes of all of them together.
const REFUSED_BYTES_MAX: usize = 1024 * 1024;
/// How long Announce waits until Initialize is answered.
const INITIALIZED_WITHIN: Duration = Duration::from_secs(1);
/// How long Announce waits until what Initialize said is registered.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);

/// Everything that plugins may ask of us.
#[derive(Clone)]
pub(crate) struct Services {
    pub(super) engine: Engine,
    callers: Arc<Callers>,
    claims: Arc<Claims>,
}

impl Services {
    pub(crate) fn new(engine: Engine, callers: Arc<Callers>) -> Services {
        let claims = Arc::new(Claims::new(engine.clone()));
        Services { engine, callers, claims }
    }

    /// Serves until `stopped`.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        stopped: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let door = Door::new(self.callers.clone());
        let store = AtsStoreServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let queue = QueueServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let schedules = ScheduleServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let host = PluginHostServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Server::builder()
            .max_concurrent_streams(u32::try_from(STREAMS_MAX).unwrap_or(u32::MAX))
            .concurrency_limit_per_connection(STREAMS_MAX)
            .add_service(Seated(Doorway::new(&door, store)))
            .add_service(Seated(Doorway::new(&door, queue)))
            .add_service(Seated(Doorway::new(&door, schedules)))
            .add_service(Doorway::new(&door, host))
            .serve_with_incoming_shutdown(door.incoming(listener), stopped)
            .await
    }

    /// Lets the bearer of a token make a call of so many bytes.
    pub(super) fn admit(
        &self,
        visit: &Visit,
        token: &str,
        bytes: usize,
    ) -> Result<Admitted, Denied> {
        Admitted::new(&self.callers, visit, token, bytes)
    }

    async fn create(
        &self,
        visit: &Visit,
        request: protocol::CreateAttestationRequest,
    ) -> Result<(), CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let claim = request.attestation.ok_or(CallError::Missing("attestation"))?;
        let on_behalf = OnBehalf { job_id: request.job_id, attempt: request.attempt };
        let draft = wire::draft_of_claim(claim).map_err(ClaimError::from)?;
        let prepared = self.claims.prepare(&admitted.caller, draft, &on_behalf).await?;
        self.claims.append_one(&admitted.caller, prepared).await?;
        admitted.done();
        Ok(())
    }

    async fn generate(
        &self,
        visit: &Visit,
        request: protocol::GenerateAttestationRequest,
    ) -> Result<protocol::Attestation, CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let command = request.command.ok_or(CallError::Missing("command"))?;
        let (draft, on_behalf) = drafted(command)?;
        let prepared = self.claims.prepare(&admitted.caller, draft, &on_behalf).await?;
        let stored = self.claims.append_one(&admitted.caller, prepared).await?;
        admitted.done();
        Ok(wire::attestation(&stored))
    }

    /// Answers how many of the commands now stand, and what became of the first that does not.
    async fn generate_batch(
        &self,
        visit: &Visit,
        request: protocol::BatchGenerateAttestationRequest,
    ) -> Result<(usize, Option<CallError>), CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let count = request.commands.len();
        if count > BATCH_COMMANDS_MAX {
            return Err(CallError::TooManyCommands(count));
        }
        let at = |index: usize| move |error| CallError::Command { index, error };
        let commands = request.commands.into_iter().enumerate();
        let drafts = commands.map(|(index, command)| drafted(command).map_err(at(index)));
        let drafts: Vec<_> = drafts.collect::<Result<_, _>>()?;
        let mut prepared = Vec::with_capacity(count);
        for (index, (draft, on_behalf)) in drafts.into_iter().enumerate() {
            let claim = self.claims.prepare(&admitted.caller, draft, &on_behalf).await;
            prepared.push(claim.map_err(at(index))?);
        }
        let answers = match prepared.is_empty() {
            true => Vec::new(),
            false => self.claims.append_together(&admitted.caller, prepared).await?,
        };
        let created = answers.iter().filter(|answer| answer.is_ok()).count();
        // Of those that fell together, the one that made them.
        let refused = answers.into_iter().enumerate().find_map(|(index, answer)| {
            let error = answer.err().filter(|e| !matches!(e, AppendRefusal::Together { .. }))?;
            Some(CallError::Command { index, error: error.into() })
        });
        if refused.is_none() {
            admitted.done();
        }
        Ok((created, refused))
    }

    async fn get(
        &self,
        visit: &Visit,
        request: protocol::GetAttestationsRequest,
    ) -> Result<(Vec<protocol::Attestation>, Option<Seat>), CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let asked = wire::search(request, self.engine.clock().now().wall)?;
        let mut search = Search::begin(&self.engine, asked).await?;
        // `success` takes two; what a reply that was done leaves out takes none.
        let (mut found, mut bytes, mut seat) = (Vec::new(), 2, None);
        while let Some(page) = search.next_page().await? {
            for stored in page {
                // Before more is built of it: attributes take many times their text.
                if seat.is_none() && bytes + stored.attestation.text_bytes() > SMALL_BYTES {
                    seat = Some(admitted.caller.seat().await.ok_or(Denied::TooManyReplies)?);
                }
                let claim = wire::attestation(&stored);
                bytes += wire::bytes_in_list(&claim);
                if bytes > REPLY_BYTES_MAX {
                    return Err(CallError::TooLarge { fits: found.len() + 1 });
                }
                found.push(claim);
            }
        }
        admitted.done();
        Ok((found, seat))
    }

    async fn announced(
        &self,
        visit: &Visit,
        request: v1::AnnounceRequest,
    ) -> Result<Vec<String>, CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let caller = admitted.caller.clone();
        let announcement = request.announcement.ok_or(CallError::Missing("announcement"))?;
        let _held = caller.begin_announcement().ok_or(Denied::TooManyAnnouncements)?;
        if !caller.may_announce() {
            return Err(Denied::TooManyAnnouncements.into());
        }
        let registration = caller.understand(announcement);
        // Who announces before it has answered would wait for itself; its answer may be on its way.
        let initialized = tokio::time::timeout(INITIALIZED_WITHIN, caller.is_initialized()).await;
        initialized.map_err(|_| CallError::NotInitialized)?;
        let registered = tokio::time::timeout(REGISTERED_WITHIN, caller.is_registered()).await;
        registered.map_err(|_| CallError::NotRegistered)?;
        if !caller.is_alive() {
            return Err(Denied::Unauthenticated.into());
        }
        let verdicts = Caller::tell(&caller, &self.engine, registration).await;
        let verdicts = verdicts.inspect_err(|error| {
            tracing::error!(plugin = %caller.plugin, error = error.to_string(), "Failed to setup plugin watchers");
        })?;
        let refused = told(&verdicts.refused, |line| caller.shown(line));
        admitted.done();
        Ok(refused)
    }
}

/// A claim to be made, and on whose behalf.
fn drafted(mut command: protocol::AttestationCommand) -> Result<(Draft, OnBehalf), ClaimError> {
    let job_id = std::mem::take(&mut command.job_id);
    let on_behalf = OnBehalf { job_id, attempt: command.attempt };
    Ok((wire::draft_of_command(command)?, on_behalf))
}

/// What of an announcement was refused, as far as a reply has room for it.
fn told(refused: &[RefusedRow], shown: impl Fn(&str) -> String) -> Vec<String> {
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for row in refused.iter().take(REFUSED_LINES_MAX) {
        let line = shown(&wire::refusal_line(row));
        bytes += line.len();
        if bytes > REFUSED_BYTES_MAX {
            break;
        }
        lines.push(line);
    }
    if let more @ 1.. = refused.len() - lines.len() {
        lines.push(format!("and {more} more"));
    }
    lines
}

/// A search that is under way, page by page, newest first.
struct Search {
    matches: Matches,
    /// How many are still wanted.
    wanted: usize,
}

impl Search {
    /// A search up to the head and under the aliases of this moment.
    async fn begin(engine: &Engine, asked: wire::Asked) -> Result<Search, StoreError> {
        let wire::Asked { filter, over, limit } = asked;
        let (head, aliases) = engine.aliases_at_head().await?;
        let matches = Matches::new(engine.store(), filter, over, aliases, head.next(), None);
        Ok(Search { matches, wanted: limit.unwrap_or(usize::MAX) })
    }

    /// The next claims, perhaps none although more will come; `None` at the end.
    async fn next_page(&mut self) -> Result<Option<Vec<Stored>>, StoreError> {
        if self.wanted == 0 {
            return Ok(None);
        }
        let Some(rows) = self.matches.next(self.wanted).await? else { return Ok(None) };
        self.wanted -= rows.len();
        Ok(Some(rows))
    }
}

/// What a search finds, read as fast as the client reads, for as long as its token lives. The call's
/// room is given back when it ends or is dropped.
fn found(
    admitted: Admitted,
    search: Search,
) -> impl Stream<Item = Result<protocol::Attestation, Status>> {
    let (caller, watched) = (admitted.caller.clone(), admitted.caller.clone());
    let page = Vec::<Stored>::new().into_iter();
    let claims = stream::try_unfold(
        (search, page, admitted),
        |(mut search, mut page, mut admitted)| async {
            loop {
                if let Some(stored) = page.next() {
                    let claim = wire::attestation(&stored);
                    return Ok(Some((claim, (search, page, admitted))));
                }
                let failed = |error| Status::unavailable(text(&CallError::Store(error)));
                let next = search.next_page().await.map_err(|error| {
                    admitted.caller.call_failed();
                    failed(error)
                })?;
                // Who stops reading after some pages has what it wanted.
                admitted.done();
                match next {
                    Some(next) => page = next.into_iter(),
                    None => return Ok(None),
                }
            }
        },
    );
    // A stream that just ended would look whole.
    let end = stream::once(async move {
        let is_dead = !caller.is_alive();
        is_dead.then(|| Err(Status::from(Denied::Unauthenticated)))
    });
    let until_death = claims.take_until(async move { watched.died().await });
    until_death.chain(end.filter_map(future::ready))
}

#[tonic::async_trait]
impl AtsStoreService for Services {
    async fn create_attestation(
        &self,
        request: Request<protocol::CreateAttestationRequest>,
    ) -> Result<Response<protocol::CreateAttestationResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (success, error, _) = verdict(self.create(&visit, request).await);
        Ok(Response::new(protocol::CreateAttestationResponse { success, error }))
    }

    async fn attestation_exists(
        &self,
        request: Request<protocol::AttestationExistsRequest>,
    ) -> Result<Response<protocol::AttestationExistsResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let mut admitted = self.admit(&visit, &request.auth_token, request.encoded_len())?;
        let exists = match request.id.parse::<AttestationId>() {
            // What cannot be an id is the id of nothing.
            Err(_) => false,
            Ok(id) => {
                let exists = self.engine.store().exists(&id).await;
                exists.map_err(|error| Status::unavailable(text(&error.into())))?
            }
        };
        admitted.done();
        Ok(Response::new(protocol::AttestationExistsResponse { exists }))
    }

    async fn generate_and_create_attestation(
        &self,
        request: Request<protocol::GenerateAttestationRequest>,
    ) -> Result<Response<protocol::GenerateAttestationResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (success, error, attestation) = verdict(self.generate(&visit, request).await);
        Ok(Response::new(protocol::GenerateAttestationResponse { success, error, attestation }))
    }

    async fn batch_generate_and_create_attestations(
        &self,
        request: Request<protocol::BatchGenerateAttestationRequest>,
    ) -> Result<Response<protocol::BatchGenerateAttestationResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (created, refused) = match self.generate_batch(&visit, request).await {
            Ok(answer) => answer,
            Err(error) => (0, Some(error)),
        };
        Ok(Response::new(protocol::BatchGenerateAttestationResponse {
            success: refused.is_none(),
            error: refused.as_ref().map(text).unwrap_or_default(),
            created: i32::try_from(created).unwrap_or(i32::MAX),
        }))
    }

    async fn get_attestations(
        &self,
        request: Request<protocol::GetAttestationsRequest>,
    ) -> Result<Response<protocol::GetAttestationsResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (success, error, found) = verdict(self.get(&visit, request).await);
        let (attestations, seat) = found.unwrap_or_default();
        let reply = protocol::GetAttestationsResponse { success, error, attestations };
        Ok(Seat::taken_by(reply, seat))
    }

    type GetAttestationsStreamStream =
        Pin<Box<dyn Stream<Item = Result<protocol::Attestation, Status>> + Send>>;

    async fn get_attestations_stream(
        &self,
        request: Request<protocol::GetAttestationsRequest>,
    ) -> Result<Response<Self::GetAttestationsStreamStream>, Status> {
        let (visit, request) = Visit::of(request);
        let admitted = self.admit(&visit, &request.auth_token, request.encoded_len())?;
        let invalid = |error| Status::invalid_argument(text(&CallError::Search(error)));
        let now = self.engine.clock().now().wall;
        let asked = wire::search(request, now).map_err(invalid)?;
        let failed = |error: StoreError| Status::unavailable(text(&error.into()));
        let search = Search::begin(&self.engine, asked).await.map_err(failed)?;
        Ok(Response::new(Box::pin(found(admitted, search))))
    }
}

#[tonic::async_trait]
impl PluginHost for Services {
    async fn announce(
        &self,
        request: Request<v1::AnnounceRequest>,
    ) -> Result<Response<v1::AnnounceResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (success, error, refused) = verdict(self.announced(&visit, request).await);
        let refused = refused.unwrap_or_default();
        Ok(Response::new(v1::AnnounceResponse { success, error, refused }))
    }

    type StoredHandlersStream = HandlerStream;

    async fn stored_handlers(
        &self,
        request: Request<v1::StoredHandlersRequest>,
    ) -> Result<Response<Self::StoredHandlersStream>, Status> {
        let (visit, request) = Visit::of(request);
        let admitted = self.admit(&visit, &request.auth_token, request.encoded_len())?;
        Ok(Response::new(self.told_handlers(admitted, &request.version).await?))
    }
}

/// The port of loopback that plugins are told of.
pub(crate) async fn bind() -> io::Result<TcpListener> {
    TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await
}
