//! What plugins are served, over a real connection.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axwatch_core::Declaration;
use axwatch_model::{
    AttestationId, Attributes, Declared, DefaultActor, Defaults, Draft, LeafNumber, LineageKind,
    StructuralFilter,
};
use axwatch_proto::axwatch::v1::AnnounceRequest;
use axwatch_proto::axwatch::v1::plugin_host_client::PluginHostClient;
use axwatch_proto::protocol::ats_store_service_client::AtsStoreServiceClient;
use axwatch_proto::protocol::ats_store_service_server::AtsStoreService as _;
use axwatch_proto::protocol::{
    Attestation, AttestationCommand, AttestationExistsRequest, AttestationFilter,
    BatchGenerateAttestationRequest, CreateAttestationRequest, Empty, GenerateAttestationRequest,
    GetAttestationsRequest, InitializeResponse, WatcherRegistration,
};
use axwatch_proto::structs;
use axwatch_query::{AliasChange, AliasChangeKind};
use prost::Message;
use tokio::io::AsyncReadExt as _;
use tonic::Code;
use tonic::codegen::{Body, Service, http};
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::*;
use crate::plugin::caller::{BYTES_PER_SECOND_MAX, CALLS_MAX, Caller};
use crate::plugin::door::{ARRIVING_MAX, CONNECTIONS_MAX};
use crate::plugin::large::SMALL_BYTES;
use crate::plugin::services::{Services, bind};
use crate::plugin::token::{Callers, Token};
use crate::plugin::wire;

/// The services, and a plugin called `git` that calls them.
pub(super) struct Desk {
    address: SocketAddr,
    pub(super) channel: Channel,
    pub(super) engine: Engine,
    pub(super) callers: Arc<Callers>,
    pub(super) caller: Arc<Caller>,
    pub(super) token: String,
    store: AtsStoreServiceClient<Channel>,
    host: PluginHostClient<Channel>,
}

pub(super) async fn desk() -> Desk {
    let engine = engine().await;
    let callers = Arc::new(Callers::default());
    let listener = bind().await.unwrap();
    let address = listener.local_addr().unwrap();
    let services = Services::new(engine.clone(), callers.clone());
    tokio::spawn(services.serve(listener, std::future::pending()));
    let (token, caller) = admit(&callers, "git");
    caller.initialized();
    let channel = connect(address).await;
    let store = AtsStoreServiceClient::new(channel.clone());
    let host = PluginHostClient::new(channel.clone());
    Desk { address, channel, engine, callers, caller, token, store, host }
}

async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

pub(super) fn admit(callers: &Callers, name: &str) -> (String, Arc<Caller>) {
    let token = Arc::new(Token::random());
    let caller = Arc::new(Caller::new(name.parse().unwrap(), 1, false, Arc::default()));
    token.hide(&["hunter22".to_owned()].into());
    caller.bears(token.clone());
    callers.admit(&token, caller.clone());
    (token.expose().to_owned(), caller)
}

fn about(subject: &str) -> AttestationCommand {
    AttestationCommand { subjects: vec![subject.into()], ..Default::default() }
}

impl Desk {
    /// The same plugin, on a connection of its own.
    async fn another(&self) -> Desk {
        let channel = connect(self.address).await;
        Desk {
            address: self.address,
            engine: self.engine.clone(),
            callers: self.callers.clone(),
            caller: self.caller.clone(),
            token: self.token.clone(),
            store: AtsStoreServiceClient::new(channel.clone()),
            host: PluginHostClient::new(channel.clone()),
            channel,
        }
    }

    pub(super) async fn generate(
        &mut self,
        command: AttestationCommand,
    ) -> Result<Attestation, String> {
        let request =
            GenerateAttestationRequest { auth_token: self.token.clone(), command: Some(command) };
        let reply = self.store.generate_and_create_attestation(request).await.unwrap().into_inner();
        assert_eq!(reply.success, reply.attestation.is_some());
        reply.attestation.ok_or(reply.error)
    }

    async fn batch(&mut self, commands: Vec<AttestationCommand>) -> (bool, String, i32) {
        let request = BatchGenerateAttestationRequest { auth_token: self.token.clone(), commands };
        let reply = self.store.batch_generate_and_create_attestations(request).await.unwrap();
        let reply = reply.into_inner();
        (reply.success, reply.error, reply.created)
    }

    async fn create(&mut self, claim: Attestation, job_id: &str) -> Result<(), String> {
        let request = CreateAttestationRequest {
            auth_token: self.token.clone(),
            attestation: Some(claim),
            job_id: job_id.into(),
            ..Default::default()
        };
        let reply = self.store.create_attestation(request).await.unwrap().into_inner();
        if reply.success { Ok(()) } else { Err(reply.error) }
    }

    async fn get(&mut self, filter: AttestationFilter) -> Result<Vec<Attestation>, String> {
        let request = self.search(filter);
        let reply = self.store.get_attestations(request).await.unwrap().into_inner();
        if reply.success { Ok(reply.attestations) } else { Err(reply.error) }
    }

    fn search(&self, filter: AttestationFilter) -> GetAttestationsRequest {
        let auth_token = self.token.clone();
        GetAttestationsRequest { auth_token, filter: Some(filter), ..Default::default() }
    }

    pub(super) async fn lineage(&self, id: &str) -> axwatch_model::Lineage {
        let id: AttestationId = id.parse().unwrap();
        self.engine.store().get(&id).await.unwrap().unwrap().lineage
    }
}

#[tokio::test]
async fn every_call_wants_a_living_token() {
    let mut desk = desk().await;
    let (dead, caller) = admit(&desk.callers, "other");
    desk.callers.revoke(&caller);
    for token in ["", "wrong", &dead] {
        desk.token = token.to_owned();
        let mut refusals = Vec::new();
        refusals.push(desk.generate(about("x")).await.unwrap_err());
        refusals.push(desk.batch(vec![about("x")]).await.1);
        refusals.push(desk.create(Attestation::default(), "").await.unwrap_err());
        refusals.push(desk.get(AttestationFilter::default()).await.unwrap_err());
        let request = AnnounceRequest { auth_token: token.into(), announcement: None };
        refusals.push(desk.host.announce(request).await.unwrap().into_inner().error);
        for refusal in refusals {
            assert!(refusal.starts_with("unauthenticated: "), "{refusal}");
        }
        let request = AttestationExistsRequest { auth_token: token.into(), id: "x".into() };
        let status = desk.store.attestation_exists(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        let request = desk.search(AttestationFilter::default());
        let status = desk.store.get_attestations_stream(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
    }
    assert_eq!(desk.engine.store().head().await.unwrap().0, 0);
}

#[tokio::test]
async fn a_request_that_would_swell_is_refused_before_its_token_is_looked_at() {
    let mut desk = desk().await;
    let watchers = vec![WatcherRegistration::default(); 500_000];
    let announcement = Some(InitializeResponse { watchers, ..Default::default() });
    let request = AnnounceRequest { auth_token: String::new(), announcement };
    let reply = desk.host.announce(request).await.unwrap().into_inner();
    let refusal = "axwatch.v1.AnnounceRequest: over 64 MiB in memory beside its texts";
    assert!(!reply.success && reply.error.starts_with(refusal), "{}", reply.error);
    desk.token.clear();
    let (success, error, created) =
        desk.batch(vec![AttestationCommand::default(); 1_000_000]).await;
    assert!((success, created) == (false, 0) && error.contains("over 64 MiB in memory"), "{error}");
    let values = vec![prost_types::Value::default(); 3_000_000];
    let list = prost_types::ListValue { values };
    let list = prost_types::Value { kind: Some(prost_types::value::Kind::ListValue(list)) };
    let attributes = prost_types::Struct { fields: [("a".to_owned(), list)].into() };
    let command = AttestationCommand { attributes: Some(attributes), ..about("x") };
    let error = desk.generate(command).await.unwrap_err();
    assert!(error.contains("over 64 MiB in memory"), "{error}");
    let large = AttestationCommand { source: "x".repeat(17 << 20), ..about("x") };
    let error = desk.generate(large).await.unwrap_err();
    assert!(error.contains("at most 16777216 are taken"), "{error}");
    // Where there is no `success`, it is a status.
    let subjects = vec![String::new(); 500_000];
    let request = desk.search(AttestationFilter { subjects, ..Default::default() });
    let error = desk.get(request.filter.clone().unwrap()).await.unwrap_err();
    assert!(error.contains("over 4 MiB in memory"), "{error}");
    let status = desk.store.get_attestations_stream(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("over 4 MiB in memory"), "{status}");
}

/// As many claims as one batch takes, each with as many attributes as claims have.
#[tokio::test]
async fn an_honest_batch_is_taken() {
    let mut desk = desk().await;
    let attributes = (0..33).map(|n| (format!("key{n}"), format!("value {n}")));
    let attributes: serde_json::Map<_, _> = attributes.map(|(k, v)| (k, v.into())).collect();
    let attributes = structs::from_value(&attributes.into()).unwrap();
    let command = AttestationCommand { attributes: Some(attributes), ..about("x") };
    assert_eq!(desk.batch(vec![command; 10_000]).await, (true, String::new(), 10_000));
}

#[tokio::test]
async fn as_many_watchers_as_are_taken_may_be_announced() {
    let mut desk = desk().await;
    let watcher = WatcherRegistration {
        id: "w".into(),
        handler_name: "git.do".into(),
        subjects: vec!["x".into()],
        predicates: vec!["x".into()],
        ..Default::default()
    };
    let announcement =
        Some(InitializeResponse { watchers: vec![watcher; 100_000], ..Default::default() });
    let request = AnnounceRequest { auth_token: String::new(), announcement };
    let reply = desk.host.announce(request).await.unwrap().into_inner();
    assert!(reply.error.starts_with("unauthenticated: "), "{}", reply.error);
}

#[tokio::test]
async fn a_plugin_has_room_for_so_many_calls_and_no_more() {
    let mut desk = desk().await;
    let calls: Vec<_> = (0..CALLS_MAX).map(|_| desk.caller.begin_call().unwrap()).collect();
    let refusal = desk.generate(about("x")).await.unwrap_err();
    assert!(refusal.starts_with("resource_exhausted: 64 calls"), "{refusal}");
    let request = AttestationExistsRequest { auth_token: desk.token.clone(), id: "x".into() };
    let status = desk.store.attestation_exists(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let (other, _) = admit(&desk.callers, "other");
    let own = std::mem::replace(&mut desk.token, other);
    desk.generate(about("x")).await.unwrap();
    drop(calls);
    desk.token = own;
    desk.generate(about("x")).await.unwrap();
}

#[tokio::test]
async fn what_fails_before_initialize_is_answered_is_remembered() {
    let mut desk = desk().await;
    let fresh = |desk: &mut Desk| {
        (desk.token, desk.caller) = admit(&desk.callers, "git");
        desk.caller.begin_initialize();
    };
    // What it is after an Initialize that ends here; another begins.
    let has_failed = |desk: &Desk| {
        let calls = desk.caller.end_initialize();
        desk.caller.begin_initialize();
        calls.failed
    };
    fresh(&mut desk);
    desk.generate(about("x")).await.unwrap();
    assert!(!has_failed(&desk));
    let calls: Vec<_> = (0..CALLS_MAX).map(|_| desk.caller.begin_call().unwrap()).collect();
    desk.generate(about("x")).await.unwrap_err();
    assert!(has_failed(&desk));
    drop(calls);

    fresh(&mut desk);
    let request = desk.search(AttestationFilter::default());
    let mut stream =
        desk.store.get_attestations_stream(request.clone()).await.unwrap().into_inner();
    while stream.message().await.unwrap().is_some() {}
    assert!(!has_failed(&desk));
    // Nobody asks for the first page.
    let services = Services::new(desk.engine.clone(), desk.callers.clone());
    drop(services.get_attestations_stream(tonic::Request::new(request)).await.unwrap());
    assert!(has_failed(&desk));
}

/// Who made it nobody can know, as its token is in it: whoever may have made it is told.
#[tokio::test]
async fn what_cannot_be_read_during_initialize_is_remembered() {
    let mut desk = desk().await;
    let (_, other) = admit(&desk.callers, "other");
    let begin = |desk: &Desk| {
        desk.caller.begin_initialize();
        other.begin_initialize();
    };
    // Whose list may be short, for that.
    let failed = |desk: &Desk| (desk.caller.end_initialize().failed, other.end_initialize().failed);
    let heavy = || vec![AttestationCommand::default(); 1_000_000];
    let large = || AttestationCommand { source: "x".repeat(17 << 20), ..about("x") };
    begin(&desk);
    desk.batch(heavy()).await;
    assert_eq!(failed(&desk), (true, true), "a connection that nobody knows");
    desk.generate(about("x")).await.unwrap();
    begin(&desk);
    assert_eq!(failed(&desk), (false, false));
    begin(&desk);
    desk.batch(heavy()).await;
    assert_eq!(failed(&desk), (true, false));
    begin(&desk);
    desk.generate(large()).await.unwrap_err();
    assert_eq!(failed(&desk), (true, false));
    // What we do not offer says nothing about what we do.
    begin(&desk);
    let mut client = tonic::client::Grpc::new(desk.channel.clone());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/protocol.QueueService/NoSuchThing");
    let codec = ProstCodec::<Empty, Empty>::default();
    let status = client.unary(tonic::Request::new(Empty {}), path, codec).await.unwrap_err();
    assert_eq!((status.code(), failed(&desk)), (Code::Unimplemented, (false, false)));
}

/// A request that begins, and does not end.
struct Begun(Option<bytes::Bytes>);

impl Body for Begun {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>> {
        match self.0.take() {
            Some(data) => Poll::Ready(Some(Ok(http_body::Frame::data(data)))),
            None => Poll::Pending,
        }
    }
}

/// Sends all but the last byte of a message of so many bytes, and waits for what it is told.
async fn begin_to_send(mut channel: Channel, bytes: u32) -> http::Response<tonic::body::Body> {
    let data = [&[0], &bytes.to_be_bytes()[..], &vec![0; bytes as usize - 1]].concat();
    let body = tonic::body::Body::new(Begun(Some(data.into())));
    let path = "/protocol.ATSStoreService/CreateAttestation";
    let request = http::Request::post(path).header("content-type", "application/grpc");
    std::future::poll_fn(|context| Service::poll_ready(&mut channel, context)).await.unwrap();
    channel.call(request.body(body).unwrap()).await.unwrap()
}

#[tokio::test]
async fn what_is_on_its_way_in_has_a_room_of_its_own() {
    let mut desk = desk().await;
    desk.generate(about("known from now on")).await.unwrap();
    let mut stranger = desk.another().await;
    stranger.token = "a guess".into();
    let begin = || tokio::spawn(begin_to_send(stranger.channel.clone(), 16 << 20));
    let mut begun = [begin(), begin()];
    let large = || AttestationCommand { source: "x".repeat(1 << 20), ..about("x") };
    let mut another = desk.another().await;
    another.token = "another guess".into();
    // Whoever cannot be known has this room together with them. Until it is full, one of them may find it taken
    // as well, and comes again.
    soon(async {
        let mut refused_in_a_row = 0;
        while refused_in_a_row < 10 {
            let error = another.generate(large()).await.unwrap_err();
            let is_refused = error.starts_with("resource_exhausted: too much is on its way in");
            refused_in_a_row = if is_refused { refused_in_a_row + 1 } else { 0 };
            for gone in begun.iter_mut().filter(|begun| begun.is_finished()) {
                (*gone, refused_in_a_row) = (begin(), 0);
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(begun.iter().all(|begun| !begun.is_finished()));
    let error = another.generate(about("a small one passes")).await.unwrap_err();
    assert!(error.starts_with("unauthenticated: "), "{error}");
    // Who is known has room of its own.
    let error = desk.generate(large()).await.map(|_| ());
    assert!(error.is_err_and(|error| error.starts_with("source: ")), "it was read");
    begun.iter().for_each(tokio::task::JoinHandle::abort);
    soon(async {
        while !another.generate(large()).await.unwrap_err().starts_with("unauthenticated: ") {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn of_those_who_are_not_known_nobody_keeps_the_next_out() {
    let desk = desk().await;
    let (stranger, mut newcomer) = (desk.another().await, desk.another().await);
    newcomer.token = "a guess".into();
    let begin = |_| tokio::spawn(begin_to_send(stranger.channel.clone(), 100));
    let mut begun: Vec<_> = (0..ARRIVING_MAX).map(begin).collect();
    let gone = soon(async {
        loop {
            let error = newcomer.generate(about("x")).await.unwrap_err();
            assert!(error.starts_with("unauthenticated: "), "it was read: {error}");
            if let Some(gone) = begun.iter().position(tokio::task::JoinHandle::is_finished) {
                break gone;
            }
        }
    });
    let gone = gone.await;
    let mut told = begun.swap_remove(gone).await.unwrap().into_body();
    let told = std::future::poll_fn(|context| Pin::new(&mut told).poll_frame(context)).await;
    let told = told.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&told).contains("64 calls are on their way in"), "{told:?}");
    newcomer.generate(about("x")).await.unwrap_err();
    assert!(begun.iter().all(|begun| !begun.is_finished()), "one was enough");
}

#[tokio::test]
async fn of_too_many_connections_the_oldest_strangers_go() {
    let mut desk = desk().await;
    desk.generate(about("known from now on")).await.unwrap();
    let mut strangers = Vec::new();
    for _ in 0..CONNECTIONS_MAX + 9 {
        strangers.push(tokio::net::TcpStream::connect(desk.address).await.unwrap());
    }
    for stranger in &mut strangers[..10] {
        // A connection that was cut may end with an error as well.
        let _ = soon(stranger.read_to_end(&mut Vec::new())).await;
    }
    let mut newest = desk.another().await;
    newest.generate(about("x")).await.unwrap();
    desk.generate(about("x")).await.unwrap();
}

#[tokio::test]
async fn large_requests_of_a_plugin_take_turns() {
    let mut desk = desk().await;
    // Known from now on, so that it has a room of its own.
    desk.generate(about("small")).await.unwrap();
    let began = Instant::now();
    // Before Initialize is answered an announcement waits for a second: these two have the turns meanwhile.
    let long = vec!["git.x".repeat(SMALL_BYTES / 40); 16];
    let waiting = [(); 2].map(|()| {
        let handler_names = long.clone();
        let announcement = Some(InitializeResponse { handler_names, ..Default::default() });
        let request = AnnounceRequest { auth_token: desk.token.clone(), announcement };
        let mut host = desk.host.clone();
        tokio::spawn(async move { host.announce(request).await.unwrap().into_inner() })
    });
    while desk.caller.begin_announcement().is_some() {
        tokio::task::yield_now().await;
    }
    desk.generate(about("small")).await.unwrap();
    let large = (0..80).map(|n| format!("{n}{}", "x".repeat(990))).collect();
    let large = AttestationCommand { predicates: large, ..about("large") };
    soon(desk.generate(large)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "its turn came when one of them had gone");
    for waiting in waiting {
        assert!(!soon(waiting).await.unwrap().success);
    }
}

#[tokio::test]
async fn a_plugin_that_sends_too_much_is_refused_and_every_call_is_accounted_for() {
    let mut desk = desk().await;
    // A second's worth at once, and a debt of nine more.
    assert!(desk.caller.may_send(10 * BYTES_PER_SECOND_MAX as usize));
    let (own, (other, _)) = (desk.token.clone(), admit(&desk.callers, "other"));
    let (mut taken, mut refused) = (0, 0);
    for n in 0..20 {
        desk.token = if n % 2 == 0 { own.clone() } else { other.clone() };
        match desk.generate(about("x")).await {
            Ok(_) => taken += 1,
            Err(refusal) => {
                assert!(refusal.starts_with("resource_exhausted: more than 32 MiB"), "{refusal}");
                refused += 1;
            }
        }
    }
    assert_eq!((taken, refused), (10, 10), "one pays its debt, and holds nobody else back");
    assert_eq!(desk.engine.store().head().await.unwrap().0, taken, "what was not refused stands");
    desk.token = own;
    let paid = async {
        while desk.generate(about("x")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(paid).await;
}

#[tokio::test]
async fn what_is_left_out_is_filled_in() {
    let mut desk = desk().await;
    let command = AttestationCommand {
        source_version: "1.2".into(),
        attributes: Some(structs::from_json(r#"{"n":2}"#).unwrap()),
        ..about("ALICE")
    };
    let made = desk.generate(command).await.unwrap();
    assert!(made.id.starts_with("AS-ALICE-"), "{}", made.id);
    assert_eq!((&made.predicates[0], &made.contexts[0]), (&"_".to_owned(), &"_".to_owned()));
    assert_eq!((made.actors[0].as_str(), made.source.as_str()), (made.id.as_str(), "git"));
    let attributes = structs::to_json(&made.attributes.unwrap()).unwrap();
    assert_eq!(attributes, r#"{"n":2,"source_version":"1.2"}"#);
    assert!(made.timestamp == made.created_at && made.seq == 1);

    let given = AttestationCommand {
        actors: vec!["hr".into()],
        source: "elsewhere".into(),
        timestamp: Some(1_705_329_000_000),
        ..about("BOB")
    };
    let made = desk.generate(given).await.unwrap();
    assert_eq!((made.actors[0].as_str(), made.source.as_str()), ("hr", "elsewhere"));
    assert_eq!(made.timestamp, 1_705_329_000_000);
    let id: AttestationId = made.id.parse().unwrap();
    let stored = desk.engine.store().get(&id).await.unwrap().unwrap();
    assert_eq!(stored.appended_by, "git");
}

#[tokio::test]
async fn a_mistake_is_said_in_the_reply() {
    let mut desk = desk().await;
    let cases = [
        (AttestationCommand::default(), "subjects: at least one"),
        (AttestationCommand { timestamp: Some(1_705_329_000), ..about("x") }, "seconds"),
        (AttestationCommand { id: "a\nb".into(), ..about("x") }, "id: attestation id"),
        (AttestationCommand { job_id: "zz".into(), ..about("x") }, "job_id: \"zz\" is not a job"),
        (
            AttestationCommand { job_id: "0".repeat(32), ..about("x") },
            "is not a job of this plugin",
        ),
    ];
    for (command, reason) in cases {
        let error = desk.generate(command.clone()).await.unwrap_err();
        assert!(error.contains(reason), "{error:?} should say {reason:?}");
        let (success, error, created) = desk.batch(vec![about("good"), command]).await;
        assert!(error.starts_with("commands[1]: ") && error.contains(reason), "{error:?}");
        assert_eq!((success, created), (false, 0));
    }
    let request = GenerateAttestationRequest { auth_token: desk.token.clone(), command: None };
    let reply = desk.store.generate_and_create_attestation(request).await.unwrap().into_inner();
    assert_eq!(reply.error, "command: missing");
    let error = desk.create(Attestation::default(), "").await.unwrap_err();
    assert!(error.contains("subjects") || error.contains("id"), "{error}");
    assert_eq!(desk.engine.store().head().await.unwrap().0, 0);
}

#[tokio::test]
async fn a_given_id_may_come_again_but_not_with_other_content() {
    let mut desk = desk().await;
    let named = |subject: &str| AttestationCommand { id: "mine".into(), ..about(subject) };
    let first = desk.generate(named("x")).await.unwrap();
    let again = desk.generate(named("x")).await.unwrap();
    assert_eq!((again.seq, again.timestamp), (first.seq, first.timestamp));
    let error = desk.generate(named("y")).await.unwrap_err();
    assert!(error.contains("mine"), "{error}");

    let claim =
        |id: &str| Attestation { id: id.into(), subjects: vec!["x".into()], ..Default::default() };
    desk.create(claim("theirs"), "").await.unwrap();
    desk.create(claim("theirs"), "").await.unwrap();
    assert!(desk.create(claim(""), "").await.unwrap_err().starts_with("id: "));

    let (success, _, created) = desk.batch(vec![named("x"), about("z")]).await;
    assert_eq!((success, created), (true, 2));
    let (success, error, created) = desk.batch(vec![about("w"), named("y")]).await;
    assert!(error.starts_with("commands[1]: "), "{error}");
    assert_eq!((success, created), (false, 0), "all of a batch stands, or none");
    assert_eq!(desk.batch(Vec::new()).await, (true, String::new(), 0));

    for (id, exists) in [("mine", true), ("theirs", true), ("nobody", false), ("", false)] {
        let request = AttestationExistsRequest { auth_token: desk.token.clone(), id: id.into() };
        let reply = desk.store.attestation_exists(request).await.unwrap().into_inner();
        assert_eq!(reply.exists, exists, "{id:?}");
    }
}

#[tokio::test]
async fn claims_are_found_newest_first() {
    let mut desk = desk().await;
    let claim = |subject: &str, predicate: &str| AttestationCommand {
        predicates: vec![predicate.into()],
        ..about(subject)
    };
    let commands: Vec<_> = (0..1_200)
        .map(|n| claim(&n.to_string(), if n % 2 == 0 { "handler" } else { "handler:faulted" }))
        .collect();
    assert_eq!(desk.batch(commands).await.2, 1_200);
    let filter = |limit| AttestationFilter {
        predicates: vec!["handler".into()],
        limit,
        ..Default::default()
    };
    let all = desk.get(filter(None)).await.unwrap();
    let seqs: Vec<_> = all.iter().map(|claim| claim.seq).collect();
    assert_eq!(seqs.len(), 600);
    assert!(seqs.is_sorted_by(|a, b| a > b) && seqs[0] == 1_199);
    assert_eq!(desk.get(filter(Some(501))).await.unwrap(), all[..501]);
    assert_eq!(desk.get(filter(Some(-1))).await.unwrap().len(), 600);

    let mut request = desk.search(filter(Some(1)));
    request.ax = "1199 is HANDLER:FAULTED".into();
    let reply = desk.store.get_attestations(request.clone()).await.unwrap().into_inner();
    assert_eq!(reply.attestations.len(), 1, "{}", reply.error);
    request.ax = "1199 is".into();
    let reply = desk.store.get_attestations(request.clone()).await.unwrap().into_inner();
    assert!(!reply.success && reply.error.starts_with("ax: at "), "{}", reply.error);
    let status = desk.store.get_attestations_stream(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    let mut stream =
        desk.store.get_attestations_stream(desk.search(filter(None))).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(claim) = stream.message().await.unwrap() {
        streamed.push(claim);
    }
    assert_eq!(streamed, all);
}

#[tokio::test]
async fn a_search_in_ax_adds_up_and_knows_aliases() {
    let mut desk = desk().await;
    let lasted = |subject: &str, years: u32| AttestationCommand {
        attributes: Some(
            structs::from_value(&serde_json::json!({ "duration_years": years })).unwrap(),
        ),
        ..about(subject)
    };
    let claims = vec![lasted("NY", 2), lasted("Boston", 4), lasted("New York", 2)];
    assert_eq!(desk.batch(claims).await.2, 3);
    let mut request = desk.search(AttestationFilter::default());
    let mut found = async |desk: &mut Desk, ax: &str| {
        request.ax = ax.into();
        let reply = desk.store.get_attestations(request.clone()).await.unwrap().into_inner();
        assert!(reply.success, "{}", reply.error);
        reply.attestations.iter().map(|claim| claim.seq).collect::<Vec<_>>()
    };
    assert_eq!(found(&mut desk, "over 4y").await, [2]);
    let change =
        AliasChange { kind: AliasChangeKind::Link, words: vec!["NY".into(), "New York".into()] };
    let claim = Draft {
        subjects: vec![AliasChange::SUBJECT.into()],
        predicates: vec![change.predicate().into()],
        attributes: Attributes::parse(&change.attributes()).unwrap(),
        ..Draft::default()
    };
    let defaults = Defaults { actor: DefaultActor::OwnId, source: "test".into() };
    let claim = desk.engine.complete(claim, &defaults, "user").unwrap();
    desk.engine.append(vec![claim]).await.unwrap().remove(0).unwrap();
    assert_eq!(found(&mut desk, "ny").await, [3, 1]);
    assert_eq!(found(&mut desk, "over 4y").await, [3, 2, 1]);
}

#[tokio::test]
async fn a_reply_that_no_client_would_take_names_the_stream() {
    let mut desk = desk().await;
    let large = |subject: &str| AttestationCommand {
        attributes: Some(
            structs::from_value(&serde_json::json!({ "a": "x".repeat(700_000) })).unwrap(),
        ),
        ..about(subject)
    };
    for subject in ["a", "b", "c", "d", "e"] {
        desk.generate(large(subject)).await.unwrap();
    }
    assert_eq!(desk.get(AttestationFilter::default()).await.unwrap().len(), 5);
    desk.generate(large("f")).await.unwrap();
    let error = desk.get(AttestationFilter::default()).await.unwrap_err();
    assert!(error.contains("GetAttestationsStream") && error.contains("under 6"), "{error}");
}

#[tokio::test]
async fn a_reply_may_be_as_large_as_clients_take_to_the_byte() {
    const CLIENTS_TAKE_BYTES: usize = 4 * 1024 * 1024;
    let claim = |id: &str, length: usize| AttestationCommand {
        id: id.into(),
        timestamp: Some(1_705_329_000_000),
        attributes: Some(
            structs::from_value(&serde_json::json!({ "a": "x".repeat(length) })).unwrap(),
        ),
        ..about("x")
    };
    for too_much in [0, 1] {
        let mut desk = desk().await;
        for id in ["a", "b", "c", "d"] {
            desk.generate(claim(id, 900_000)).await.unwrap();
        }
        let request = desk.search(AttestationFilter::default());
        let reply = desk.store.get_attestations(request.clone()).await.unwrap().into_inner();
        let one = wire::bytes_in_list(&reply.attestations[0]);
        let length = 900_000 + CLIENTS_TAKE_BYTES - reply.encoded_len() - one;
        desk.generate(claim("e", length + too_much)).await.unwrap();
        let reply = desk.store.get_attestations(request).await.unwrap().into_inner();
        assert_eq!(reply.success, too_much == 0, "{}", reply.error);
        if reply.success {
            assert_eq!((reply.attestations.len(), reply.encoded_len()), (5, CLIENTS_TAKE_BYTES));
        }
    }
}

#[tokio::test]
async fn a_batch_has_so_many_commands_and_no_more() {
    let mut desk = desk().await;
    // What is wrong with a command is not looked for in a batch that is too long.
    let commands = vec![AttestationCommand::default(); 10_001];
    let (success, error, created) = desk.batch(commands.clone()).await;
    let refusal =
        "resource_exhausted: a batch of 10001 commands; send at most 10000 commands at a time";
    assert_eq!((success, error.as_str(), created), (false, refusal, 0));
    let token = std::mem::take(&mut desk.token);
    assert!(desk.batch(commands).await.1.starts_with("unauthenticated: "));
    desk.token = token;
    assert_eq!(desk.batch(vec![about("x"); 10_000]).await, (true, String::new(), 10_000));
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let mut desk = desk().await;
    let large = || AttestationCommand {
        attributes: Some(
            structs::from_value(&serde_json::json!({ "a": "x".repeat(100_000) })).unwrap(),
        ),
        ..about("x")
    };
    for _ in 0..4 {
        desk.batch((0..50).map(|_| large()).collect()).await;
    }
    let request = desk.search(AttestationFilter::default());
    let mut stream = desk.store.get_attestations_stream(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    desk.callers.revoke(&desk.caller);
    let mut more = 0;
    let end = loop {
        match soon(stream.message()).await {
            Ok(Some(_)) => more += 1,
            Ok(None) => panic!("a stream that is cut must not look whole"),
            Err(status) => break status.code(),
        }
    };
    assert!(more < 199, "{more}");
    assert_eq!(end, Code::Unauthenticated);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_gives_its_room_back() {
    let mut desk = desk().await;
    let commands = (0..1_000).map(|n| about(&n.to_string())).collect();
    desk.batch(commands).await;
    let request = desk.search(AttestationFilter::default());
    let stream = desk.store.get_attestations_stream(request).await.unwrap();
    drop(stream);
    soon(async {
        loop {
            let all: Vec<_> = (0..CALLS_MAX).map_while(|_| desk.caller.begin_call()).collect();
            if all.len() == CALLS_MAX {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_claim_that_names_its_job_has_a_computed_id() {
    let mut desk = desk().await;
    let mut held = bring_up(&desk.engine, "git").await;
    let job = enqueue(&desk.engine, "git").await;
    let of_job = |subject: &str, attempt| AttestationCommand {
        job_id: job.id.to_string(),
        attempt,
        ..about(subject)
    };

    let first = soon(held.recv()).await.unwrap();
    assert_eq!(first.attempt.start.id, job.id);
    let (a, a_again) = (of_job("a", 1), of_job("a", 0));
    let made = [
        desk.generate(a).await.unwrap(),
        desk.generate(a_again).await.unwrap(),
        desk.generate(of_job("b", 1)).await.unwrap(),
    ];
    let ids: BTreeSet<_> = made.iter().map(|claim| claim.id.clone()).collect();
    assert_eq!(ids.len(), 3);
    assert!(made.iter().all(|claim| claim.actors == [claim.id.clone()]));
    let lineage = desk.lineage(&made[0].id).await;
    assert_eq!((lineage.kind, lineage.parent_job), (LineageKind::Sure, Some(job.id)));

    // The second attempt makes the same claims, by one batch, and one more.
    first.fail();
    let second = soon(held.recv()).await.unwrap();
    assert_eq!(second.attempt.start.attempt, 2);
    let again = vec![of_job("a", 2), of_job("a", 2), of_job("b", 2), of_job("c", 2)];
    assert_eq!(desk.batch(again).await, (true, String::new(), 4));
    assert_eq!(desk.engine.store().head().await.unwrap().0, 4);

    // What the first one says late is kept, and is said to be late.
    let late = desk.generate(of_job("late", 1)).await.unwrap();
    assert_eq!(desk.lineage(&late.id).await.kind, LineageKind::Stale);
    second.succeed();

    let claim = Attestation { id: "own".into(), ..about_claim("x") };
    desk.create(claim, &job.id.to_string()).await.unwrap();
    assert_eq!(desk.lineage("own").await.parent_job, Some(job.id));
    let error = desk.generate(of_job("x", -1)).await.unwrap_err();
    assert!(error.starts_with("attempt: -1"), "{error}");

    // Another plugin has no such job, whether it runs or is over.
    (desk.token, _) = admit(&desk.callers, "other");
    let error = desk.generate(of_job("x", 0)).await.unwrap_err();
    assert!(error.contains("is not a job of this plugin"), "{error}");
}

fn about_claim(subject: &str) -> Attestation {
    Attestation { subjects: vec![subject.into()], ..Default::default() }
}

#[tokio::test]
async fn a_claim_that_names_no_job_says_what_can_be_said() {
    let mut desk = desk().await;
    let mut held = bring_up(&desk.engine, "git").await;
    let kind = |lineage: &axwatch_model::Lineage| (lineage.kind, lineage.depth);

    let job = enqueue(&desk.engine, "git").await;
    let first = soon(held.recv()).await.unwrap();
    let only = desk.generate(about("only")).await.unwrap();
    let lineage = desk.lineage(&only.id).await;
    assert_eq!((kind(&lineage), lineage.parent_job), ((LineageKind::Sure, 1), Some(job.id)));

    enqueue(&desk.engine, "git").await;
    let second = soon(held.recv()).await.unwrap();
    let one_of_two = desk.generate(about("one of two")).await.unwrap();
    let lineage = desk.lineage(&one_of_two.id).await;
    assert_eq!((kind(&lineage), lineage.parent_job), ((LineageKind::Unsure, 1), None));
    first.succeed();
    second.succeed();
    soon(async {
        while !desk.engine.in_flight().of_plugin(&desk.caller.plugin, 1).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let own = desk.generate(about("own")).await.unwrap();
    assert_eq!(kind(&desk.lineage(&own.id).await), (LineageKind::None, 0));
    // From now on nobody can tell its own claims from those of a job.
    enqueue(&desk.engine, "git").await;
    let third = soon(held.recv()).await.unwrap();
    let either = desk.generate(about("either")).await.unwrap();
    assert_eq!(kind(&desk.lineage(&either.id).await), (LineageKind::Unsure, 0));
    third.succeed();
}

#[tokio::test]
async fn lineage_goes_on_from_the_claim_that_fired() {
    let mut desk = desk().await;
    let mut held = bring_up(&desk.engine, "git").await;
    let declaration = Declaration {
        local: "w".into(),
        declared: Declared::Structural(StructuralFilter {
            predicates: vec!["seen".into()],
            ..StructuralFilter::default()
        }),
        handlers: vec!["git.do".into()],
        params: None,
        max_fires_per_second: 0,
        zero_is_never: false,
        max_chain: 0,
        since: None,
        max_attempts: 0,
        max_age: None,
    };
    desk.engine.declare(declaration).await.unwrap();
    let seen =
        |subject: &str| AttestationCommand { predicates: vec!["seen".into()], ..about(subject) };
    let root = desk.generate(seen("root")).await.unwrap();
    let first = soon(held.recv()).await.unwrap();
    let job_id = first.attempt.start.id.to_string();
    let child = desk.generate(AttestationCommand { job_id, ..seen("child") }).await.unwrap();
    let second = soon(held.recv()).await.unwrap();
    let job_id = second.attempt.start.id.to_string();
    let grandchild =
        desk.generate(AttestationCommand { job_id, ..about("grandchild") }).await.unwrap();
    let root_id: AttestationId = root.id.parse().unwrap();
    for (id, depth) in [(&child.id, 1), (&grandchild.id, 2)] {
        let lineage = desk.lineage(id).await;
        assert_eq!((lineage.kind, lineage.depth), (LineageKind::Sure, depth));
        assert_eq!(lineage.root.as_ref(), Some(&root_id));
    }
    first.succeed();
    second.succeed();
}

#[tokio::test]
async fn a_running_plugin_announces_anew() {
    let mut desk = desk().await;
    let _held = bring_up(&desk.engine, "git").await;
    let watcher = |id: &str, handler: &str| WatcherRegistration {
        id: id.into(),
        handler_name: handler.into(),
        subjects: vec!["x".into()],
        ..Default::default()
    };
    let announcement = InitializeResponse {
        handler_names: vec!["git.do".into(), "git.more".into(), "a/b".into()],
        watchers: vec![watcher("good", "git.more"), watcher("bad", "git.absent")],
        ..Default::default()
    };
    let request =
        AnnounceRequest { auth_token: desk.token.clone(), announcement: Some(announcement) };
    desk.caller.registered();
    let reply = desk.host.announce(request).await.unwrap().into_inner();
    assert!(reply.success, "{}", reply.error);
    let [handler, watcher] = &reply.refused[..] else { panic!("{:?}", reply.refused) };
    assert!(handler.contains("\"a/b\"") && watcher.contains("\"bad\""), "{:?}", reply.refused);
    assert!(desk.caller.has_announced("git.more"));
    enqueue_named(&desk.engine, "git.more").await;
}

#[tokio::test]
async fn what_is_refused_is_told_and_kept_without_secrets() {
    let mut desk = desk().await;
    let _held = bring_up(&desk.engine, "git").await;
    let token = desk.token.clone();
    let watcher = |id: &str, handler_name: &str, ax: &str| WatcherRegistration {
        id: id.into(),
        handler_name: handler_name.into(),
        ax: ax.into(),
        ..Default::default()
    };
    let watchers = vec![
        watcher(&format!("w {token}"), "hunter22", "is p"),
        watcher("handler", &format!("git.{token}"), "is p"),
        watcher("ax", "git.do", &format!("is p of of {token} hunter22")),
        watcher("cut", "git.do", &format!("is 'p {}{token}", "x".repeat(40))),
        watcher("since", "hunter22", &format!("is {token} since hunter22")),
    ];
    let handler_names =
        vec!["git.do".into(), token.clone(), format!("{token}/{}hunter22", "x".repeat(4_080))];
    let announcement = InitializeResponse { handler_names, watchers, ..Default::default() };
    let request = AnnounceRequest { auth_token: token.clone(), announcement: Some(announcement) };
    desk.caller.registered();
    let reply = desk.host.announce(request).await.unwrap().into_inner();
    assert_eq!(reply.refused.len(), 7, "{:?}", reply.refused);
    let store = desk.engine.store();
    let audit = store.audit_after(LeafNumber(0), 100).await.unwrap();
    let records: String = audit.iter().map(|row| &*row.records).collect();
    assert_eq!(records.matches("watcher_refused").count(), 5, "{records}");
    let kept = [
        format!("{:?}", reply.refused),
        format!("{:?}", store.watchers().await.unwrap()),
        format!("{:?}", store.refused().await.unwrap()),
        records,
    ];
    for kept in kept {
        assert!(!kept.contains(&token[..8]) && !kept.contains("hunter"), "{kept}");
        assert!(kept.contains("[redacted]"), "{kept}");
    }
}

#[tokio::test]
async fn of_all_that_is_refused_the_first_lines_are_told() {
    let mut desk = desk().await;
    let _held = bring_up(&desk.engine, "git").await;
    desk.caller.registered();
    // (handlers that are none, bytes of each name, lines that are told)
    for (count, bytes, told) in [(1_000, 10, 1_000), (1_001, 10, 1_000), (900, 4_000, 257)] {
        let name = |n: u32| format!("{n:/>bytes$}");
        let handler_names = (0..count).map(name).chain(["git.do".to_owned()]).collect();
        let announcement = Some(InitializeResponse { handler_names, ..Default::default() });
        let request = AnnounceRequest { auth_token: desk.token.clone(), announcement };
        let reply = desk.host.announce(request).await.unwrap().into_inner();
        assert!(reply.success && reply.encoded_len() < 2 * 1024 * 1024, "{}", reply.error);
        let more = count as usize - told;
        let last = reply.refused.last().unwrap();
        assert_eq!(reply.refused.len(), told + usize::from(more > 0), "{last}");
        assert!(more == 0 || *last == format!("and {more} more"), "{last}");
    }
}

#[tokio::test]
async fn announcements_are_taken_one_by_one_and_at_a_pace() {
    let desk = desk().await;
    let _held = bring_up(&desk.engine, "git").await;
    desk.caller.registered();
    let announce = |names: Vec<String>| {
        let announcement = Some(InitializeResponse { handler_names: names, ..Default::default() });
        let request = AnnounceRequest { auth_token: desk.token.clone(), announcement };
        let mut host = desk.host.clone();
        async move { host.announce(request).await.unwrap().into_inner() }
    };
    // Whose turn it is not waits before it tells the engine anything.
    let turn = desk.caller.announcing().await;
    let waiting = tokio::spawn(announce(vec!["git.late".into()]));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let payload = Arc::from(b"{}".as_slice());
    assert!(desk.engine.enqueue("git.late".into(), payload).await.is_err());
    assert!(!waiting.is_finished());
    drop(turn);
    assert!(soon(waiting).await.unwrap().success);
    assert!(desk.caller.has_announced("git.late"));
    // One more is allowed each second, and this machine may take that long between two lines.
    let refused = async {
        loop {
            while desk.caller.may_announce() {}
            let name = "git.more".to_owned();
            let reply = announce(vec![name.clone()]).await;
            if !reply.success {
                return reply.error;
            }
            assert!(desk.caller.has_announced(&name));
            announce(Vec::new()).await;
        }
    };
    let error = soon(refused).await;
    assert!(error.starts_with("resource_exhausted: more than one announcement"), "{error:?}");
}

#[tokio::test]
async fn of_announcements_one_is_taken_and_one_may_wait() {
    let desk = desk().await;
    let _held = bring_up(&desk.engine, "git").await;
    desk.caller.registered();
    let mut host = desk.host.clone();
    let mut announce = async || {
        let announcement = Some(InitializeResponse::default());
        let request = AnnounceRequest { auth_token: desk.token.clone(), announcement };
        host.announce(request).await.unwrap().into_inner()
    };
    let held: Vec<_> = (0..2).map(|_| desk.caller.begin_announcement().unwrap()).collect();
    let reply = announce().await;
    assert!(reply.error.starts_with("resource_exhausted: more than one announcement"), "{reply:?}");
    drop(held);
    assert!(announce().await.success);
    let left = std::iter::repeat_with(|| desk.caller.may_announce()).take_while(|may| *may);
    assert_eq!(left.count(), 9, "the one that was refused cost nothing");
}

async fn enqueue_named(engine: &Engine, handler: &str) {
    engine.enqueue(handler.into(), Arc::from(b"{}".as_slice())).await.unwrap();
}
