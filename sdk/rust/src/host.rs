//! The host, as a plugin asks it: claims to make and to find.
//!
//! One channel for all of a process, which dials when it is first used. What comes back is sorted once,
//! here: a host that is away or full is [`Failure::Retry`], a claim or a question that it refuses is
//! [`Failure::Permanent`] with its own words.
//!
//! Nothing is tried twice here. A repeated call within one attempt would count as another claim of the
//! same content, so that trying again is for the next attempt.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axwatch_proto::protocol::ats_store_service_client::AtsStoreServiceClient;
use axwatch_proto::protocol::{
    AttestationCommand, AttestationExistsRequest, BatchGenerateAttestationRequest,
    GenerateAttestationRequest,
};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::announce::{Announcement, Handlers, StoredHandler};
use crate::claim::{Attestation, Claim};
use crate::failure::{Failure, chain};
use crate::query::Query;

/// Claims of one batch. A host takes 10,000.
const BATCH_CLAIMS_MAX: usize = 1_000;
/// Encoded bytes of one batch, unless a single claim has more. A host takes 16 MiB.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of one message from the host.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a dial may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// What a host begins an error with that is no fault of the request.
const PASSING: [&str; 3] = ["unavailable:", "resource_exhausted:", "unauthenticated:"];

/// The host, for claims and questions that belong to no job. Cheap to clone.
///
/// Inside a job use [`Job::attest`](crate::Job::attest) and its neighbours: only claims that name
/// their job are the same claims again when the job is tried again.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    /// None when the host has no store of claims to offer.
    store: Option<AtsStoreServiceClient<Channel>>,
    handlers: Handlers,
    token: String,
}

/// Where a host serves what to a plugin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoints<'a> {
    pub(crate) store: &'a str,
    pub(crate) host: &'a str,
}

/// The attempt on whose behalf claims are made; that of nobody by default.
#[derive(Debug, Clone, Default)]
pub(crate) struct OnBehalf {
    pub(crate) job_id: String,
    pub(crate) attempt: i32,
}

impl Host {
    /// The host at these `host:port`s.
    pub(crate) fn new(
        endpoints: Endpoints<'_>,
        token: &str,
        announcement: Announcement,
    ) -> Result<Host, Failure> {
        let store = channel(endpoints.store)?.map(|channel| {
            AtsStoreServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
        });
        let handlers = Handlers::new(endpoints.host, token, announcement)?;
        Ok(Host { inner: Arc::new(Inner { store, handlers, token: token.to_owned() }) })
    }

    /// Makes a claim, and answers with it as it stands in the log.
    ///
    /// # Errors
    /// [`Failure::Permanent`] for a claim that cannot stand, [`Failure::Retry`] when the host is away.
    pub async fn attest(&self, claim: Claim) -> Result<Attestation, Failure> {
        self.attest_for(claim, &OnBehalf::default()).await
    }

    /// Makes many claims, in order and in batches that a host takes; each batch stands or falls as a
    /// whole. Answers how many of them now stand, those that stood before included.
    ///
    /// # Errors
    /// As [`Host::attest`], with which claim it was, counted from 0. Batches before it stand.
    pub async fn attest_all(&self, claims: Vec<Claim>) -> Result<usize, Failure> {
        self.attest_all_for(claims, &OnBehalf::default()).await
    }

    /// Finds claims, newest first.
    ///
    /// # Errors
    /// [`Failure::Permanent`] for a question that is none and for one that finds more than
    /// [`Query::bytes_max`], [`Failure::Retry`] when the host is away.
    pub async fn query(&self, query: impl Into<Query>) -> Result<Vec<Attestation>, Failure> {
        let query = query.into();
        if query.wants_nothing() {
            return Ok(Vec::new());
        }
        let most = query.most_bytes();
        let request = query.into_request(self.inner.token.clone())?;
        // The stream and not the list, whose replies end at 4 MiB.
        let asked = self.store()?.get_attestations_stream(request).await;
        let mut stream = asked.map_err(failure_of_status)?.into_inner();
        let mut found = Vec::new();
        let mut bytes = 0_usize;
        while let Some(claim) = stream.message().await.map_err(failure_of_status)? {
            bytes += claim.encoded_len();
            if bytes > most {
                return Err(Failure::permanent(format!(
                    "query: what it finds has more than {most} bytes; ask for fewer by its limit"
                )));
            }
            found.push(Attestation::from_wire(claim));
        }
        Ok(found)
    }

    /// Whether a claim with this id is in the log.
    ///
    /// # Errors
    /// [`Failure::Retry`] when the host is away.
    pub async fn exists(&self, id: &str) -> Result<bool, Failure> {
        let auth_token = self.inner.token.clone();
        let request = AttestationExistsRequest { auth_token, id: id.to_owned() };
        let reply = self.store()?.attestation_exists(request).await;
        Ok(reply.map_err(failure_of_status)?.into_inner().exists)
    }

    /// The handlers that are stored as claims for this plugin and are in force, broken ones included,
    /// by name. See [`Plugin::stored_handlers`](crate::Plugin::stored_handlers).
    ///
    /// # Errors
    /// [`Failure::Permanent`] at a host that keeps none, [`Failure::Retry`] when the host is away.
    pub async fn stored_handlers(&self) -> Result<Vec<StoredHandler>, Failure> {
        self.inner.handlers.stored("").await
    }

    /// One version of a stored handler of this plugin, whether it is in force or not; none when there
    /// is no such version.
    ///
    /// # Errors
    /// As [`Host::stored_handlers`].
    pub async fn stored_handler(&self, version: &str) -> Result<Option<StoredHandler>, Failure> {
        if version.is_empty() {
            return Ok(None);
        }
        Ok(self.inner.handlers.stored(version).await?.into_iter().next())
    }

    /// Asks the plugin anew for its handlers, watchers, schedules and routes, and tells the host, where
    /// they replace what was announced before. Answers what the host refused, a line each; the rest
    /// stands.
    ///
    /// Not within [`Plugin::initialize`](crate::Plugin::initialize), after which they are asked for
    /// anyhow. Several calls at once share one announcement, and one that comes too fast for the host
    /// waits.
    ///
    /// # Errors
    /// [`Failure::Permanent`] when the host does not take it, [`Failure::Retry`] when it is away.
    pub async fn announce(&self) -> Result<Vec<String>, Failure> {
        self.inner.handlers.announce().await
    }

    pub(crate) async fn attest_for(
        &self,
        claim: Claim,
        on_behalf: &OnBehalf,
    ) -> Result<Attestation, Failure> {
        let request = GenerateAttestationRequest {
            auth_token: self.inner.token.clone(),
            command: Some(on_behalf.name(claim.into_command()?)),
        };
        let reply = self.store()?.generate_and_create_attestation(request).await;
        let reply = reply.map_err(failure_of_status)?.into_inner();
        match reply.attestation {
            Some(claim) if reply.success => Ok(Attestation::from_wire(claim)),
            None if reply.success => Err(Failure::retry("the host answered without the claim")),
            _ => Err(failure_of_error(&reply.error)),
        }
    }

    pub(crate) async fn attest_all_for(
        &self,
        claims: Vec<Claim>,
        on_behalf: &OnBehalf,
    ) -> Result<usize, Failure> {
        let mut commands = Vec::with_capacity(claims.len());
        // All are looked at before the first is sent.
        for (index, claim) in claims.into_iter().enumerate() {
            let command = claim.into_command();
            let command = command.map_err(|failure| failure.at(format!("claims[{index}]")))?;
            commands.push(on_behalf.name(command));
        }
        let mut standing = 0;
        let mut first = 0;
        for batch in batches(commands) {
            let count = batch.len();
            standing += self.attest_batch(batch, first).await?;
            first += count;
        }
        Ok(standing)
    }

    /// `first` is the number of the batch's first claim among all of them.
    async fn attest_batch(
        &self,
        commands: Vec<AttestationCommand>,
        first: usize,
    ) -> Result<usize, Failure> {
        let auth_token = self.inner.token.clone();
        let request = BatchGenerateAttestationRequest { auth_token, commands };
        let reply = self.store()?.batch_generate_and_create_attestations(request).await;
        let reply = reply.map_err(failure_of_status)?.into_inner();
        if !reply.success {
            return Err(failure_of_command(&reply.error, first));
        }
        Ok(usize::try_from(reply.created).unwrap_or(0))
    }

    fn store(&self) -> Result<AtsStoreServiceClient<Channel>, Failure> {
        self.inner.store.clone().ok_or_else(|| {
            Failure::permanent("the host offers no store of claims (no ats_store_endpoint)")
        })
    }
}

/// Without the token.
impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("has_store", &self.inner.store.is_some()).finish()
    }
}

impl OnBehalf {
    fn name(&self, command: AttestationCommand) -> AttestationCommand {
        AttestationCommand { job_id: self.job_id.clone(), attempt: self.attempt, ..command }
    }
}

/// A channel to `host:port` that dials when it is first used; none for an empty one.
pub(crate) fn channel(endpoint: &str) -> Result<Option<Channel>, Failure> {
    if endpoint.is_empty() {
        return Ok(None);
    }
    let dialled = Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|error| Failure::permanent(format!("the host's endpoint {endpoint:?}: {error}")))?
        .connect_timeout(CONNECT_WITHIN);
    Ok(Some(dialled.connect_lazy()))
}

/// Cuts a list into batches, in order.
fn batches(commands: Vec<AttestationCommand>) -> impl Iterator<Item = Vec<AttestationCommand>> {
    let mut commands = commands.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut batch = vec![commands.next()?];
        let mut bytes = batch[0].encoded_len();
        while batch.len() < BATCH_CLAIMS_MAX
            && let Some(next) =
                commands.next_if(|next| bytes + next.encoded_len() <= BATCH_BYTES_MAX)
        {
            bytes += next.encoded_len();
            batch.push(next);
        }
        Some(batch)
    })
}

/// What a host's `error` means.
pub(crate) fn failure_of_error(error: &str) -> Failure {
    let error = if error.is_empty() { "unavailable: the host gave no reason" } else { error };
    if PASSING.iter().any(|word| error.starts_with(word)) {
        Failure::retry(error)
    } else {
        Failure::permanent(error)
    }
}

/// The same of a batch, where the host may say `commands[3]: `, counted within the batch.
fn failure_of_command(error: &str, first: usize) -> Failure {
    let numbered = error.strip_prefix("commands[").and_then(|rest| rest.split_once("]: "));
    match numbered.and_then(|(index, error)| Some((index.parse::<usize>().ok()?, error))) {
        Some((index, error)) => failure_of_error(error).at(format!("claims[{}]", first + index)),
        None => failure_of_error(error),
    }
}

/// What a gRPC status means. One with a cause was made on our side of the wire.
pub(crate) fn failure_of_status(status: Status) -> Failure {
    let is_hosts = std::error::Error::source(&status).is_none();
    match status.code() {
        Code::InvalidArgument
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
            if is_hosts =>
        {
            Failure::permanent(status.message())
        }
        _ => Failure::retry(format!("the host did not answer: {}", status_text(&status))),
    }
}

/// A status in one line, with what caused it.
pub(crate) fn status_text(status: &Status) -> String {
    let cause = std::error::Error::source(status).map(chain);
    match cause {
        Some(cause) => format!("{}: {cause}", status.message()),
        None if status.message().is_empty() => format!("{:?}", status.code()),
        None => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_host_is_sorted_by_how_it_begins() {
        let again = |text: &str| Failure::Retry(text.to_owned());
        let never = |text: &str| Failure::Permanent(text.to_owned());
        let cases = [
            ("unavailable: database is locked", again("unavailable: database is locked")),
            ("resource_exhausted: too much", again("resource_exhausted: too much")),
            ("unauthenticated: this is not", again("unauthenticated: this is not")),
            ("", again("unavailable: the host gave no reason")),
            ("subjects: at least one is needed", never("subjects: at least one is needed")),
            ("attestation a is already in the log", never("attestation a is already in the log")),
            ("commands[3]: id: no", never("claims[1003]: id: no")),
            ("commands[0]: unavailable: no", again("claims[1000]: unavailable: no")),
            ("commands[x]: no", never("commands[x]: no")),
        ];
        for (error, expected) in cases {
            assert_eq!(failure_of_command(error, 1_000), expected);
        }
    }

    #[test]
    fn batches_hold_what_a_host_takes_in_order() {
        let command = |subject: usize, bytes: usize| AttestationCommand {
            subjects: vec![subject.to_string()],
            source: "s".repeat(bytes),
            ..Default::default()
        };
        let lengths = |commands: Vec<AttestationCommand>| -> Vec<usize> {
            let all: Vec<_> = batches(commands.clone()).collect();
            assert_eq!(all.concat(), commands);
            all.iter().map(Vec::len).collect()
        };
        assert_eq!(lengths(Vec::new()), [0_usize; 0]);
        assert_eq!(lengths((0..2_500).map(|n| command(n, 0)).collect()), [1_000, 1_000, 500]);
        let mebibyte = 1024 * 1024;
        let large: Vec<_> = (0..5).map(|n| command(n, mebibyte - 100)).collect();
        assert_eq!(lengths(large), [2, 2, 1]);
        assert_eq!(lengths((0..3).map(|n| command(n, 3 * mebibyte)).collect()), [1, 1, 1]);
    }
}
