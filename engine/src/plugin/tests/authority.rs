//! Who may call what: one line for every RPC that the contract knows on our side. A new RPC without a
//! line here fails this test, and so does one that answers without a token.

use std::collections::BTreeSet;

use axwatch_core::Registration;
use axwatch_model::PluginName;
use axwatch_proto::axwatch::v1::AnnounceRequest;
use axwatch_proto::axwatch::v1::plugin_host_client::PluginHostClient;
use axwatch_proto::protocol::{
    CreateAttestationResponse, Empty, InitializeResponse, ScheduleInfo, WatcherRegistration,
};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::*;
use crate::plugin::caller::Caller;
use crate::plugin::services::{Services, bind};
use crate::plugin::token::{Callers, Token};

/// What an RPC answers to somebody without a token.
#[derive(Debug, Clone, Copy, PartialEq)]
enum To {
    /// `success=false` with `unauthenticated: …`.
    Refuses,
    /// The status UNAUTHENTICATED, because its reply has no room for an error.
    Denies,
    /// It is in the contract, and we do not serve it.
    NotServed,
}

const MATRIX: &[(&str, &str, To)] = &[
    ("protocol.ATSStoreService", "CreateAttestation", To::Refuses),
    ("protocol.ATSStoreService", "AttestationExists", To::Denies),
    ("protocol.ATSStoreService", "GenerateAndCreateAttestation", To::Refuses),
    ("protocol.ATSStoreService", "BatchGenerateAndCreateAttestations", To::Refuses),
    ("protocol.ATSStoreService", "GetAttestations", To::Refuses),
    ("protocol.ATSStoreService", "GetAttestationsStream", To::Denies),
    ("axwatch.v1.PluginHost", "Announce", To::Refuses),
    ("axwatch.v1.PluginHost", "StoredHandlers", To::Denies),
    ("protocol.QueueService", "Enqueue", To::Refuses),
    ("protocol.QueueService", "GetJob", To::Refuses),
    ("protocol.QueueService", "UpdateJob", To::Refuses),
    ("protocol.QueueService", "ListJobs", To::Refuses),
    ("protocol.ScheduleService", "CreateSchedule", To::Refuses),
    ("protocol.ScheduleService", "PauseSchedule", To::Refuses),
    ("protocol.ScheduleService", "ResumeSchedule", To::Refuses),
    ("protocol.ScheduleService", "DeleteSchedule", To::Refuses),
    ("protocol.ScheduleService", "GetSchedule", To::Refuses),
    // What plugins serve to us is nothing that we answer.
    ("protocol.DomainPluginService", "Initialize", To::NotServed),
    ("protocol.ATSStoreService", "NoSuchThing", To::NotServed),
];

/// The RPCs that the contract has on our side.
fn contract() -> BTreeSet<(String, String)> {
    let files = [
        ("protocol", include_str!("../../../../proto/protocol/attestation.proto")),
        ("protocol", include_str!("../../../../proto/protocol/queue.proto")),
        ("protocol", include_str!("../../../../proto/protocol/schedule.proto")),
        ("axwatch.v1", include_str!("../../../../proto/axwatch/v1/host.proto")),
    ];
    let mut found = BTreeSet::new();
    for (package, text) in files {
        let mut service = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(rest) = line.strip_prefix("service ") {
                let name = rest.split_whitespace().next().unwrap_or_default();
                service = format!("{package}.{name}");
            } else if let Some(rest) = line.strip_prefix("rpc ") {
                let name = rest.split('(').next().unwrap_or_default();
                found.insert((service.clone(), name.to_owned()));
            }
        }
    }
    found
}

async fn serve() -> (Engine, Arc<Callers>, Channel) {
    let engine = engine().await;
    let callers = Arc::new(Callers::default());
    let listener = bind().await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let services = Services::new(engine.clone(), callers.clone());
    tokio::spawn(services.serve(listener, std::future::pending()));
    let channel = Endpoint::from_shared(address).unwrap().connect().await.unwrap();
    (engine, callers, channel)
}

#[tokio::test]
async fn every_rpc_of_the_contract_wants_a_token_or_is_not_there() {
    let listed: BTreeSet<_> = MATRIX
        .iter()
        .map(|(service, rpc, _)| ((*service).to_owned(), (*rpc).to_owned()))
        .filter(|(service, rpc)| !service.ends_with("DomainPluginService") && rpc != "NoSuchThing")
        .collect();
    assert_eq!(listed, contract(), "each RPC has its line");
    let (_engine, _callers, channel) = serve().await;
    for (service, rpc, expected) in MATRIX {
        let mut client = tonic::client::Grpc::new(channel.clone());
        client.ready().await.unwrap();
        let path: PathAndQuery = format!("/{service}/{rpc}").parse().unwrap();
        // An empty message is one of every kind; all replies have `success` and `error` in one place.
        let codec = ProstCodec::<Empty, CreateAttestationResponse>::default();
        let reply = client.unary(Request::new(Empty {}), path, codec).await;
        let found = match &reply {
            Ok(reply) if reply.get_ref().error.starts_with("unauthenticated: ") => To::Refuses,
            Err(status) if status.code() == Code::Unauthenticated => To::Denies,
            Err(status) if status.code() == Code::Unimplemented => To::NotServed,
            other => panic!("{service}/{rpc}: {other:?}"),
        };
        assert_eq!(found, *expected, "{service}/{rpc}: {reply:?}");
    }
}

/// What a token does not say the request cannot say either: an announcement is that of its bearer.
#[tokio::test]
async fn an_announcement_changes_what_its_bearer_has_and_nothing_else() {
    let (engine, callers, channel) = serve().await;
    let mut bearers = Vec::new();
    for name in ["git", "git-hub"] {
        let plugin: PluginName = name.parse().unwrap();
        let token = Token::random();
        let caller = Arc::new(Caller::new(plugin.clone(), 1, false, Arc::default()));
        caller.initialized();
        caller.registered();
        callers.admit(&token, caller.clone());
        let _held = bring_up(&engine, name).await;
        bearers.push((plugin, token, caller));
    }
    let announce = async |token: &str, handlers: &[&str]| {
        let announcement = InitializeResponse {
            handler_names: handlers.iter().map(ToString::to_string).collect(),
            watchers: (handlers.iter())
                .map(|handler| WatcherRegistration {
                    id: "w".into(),
                    handler_name: (*handler).to_owned(),
                    subjects: vec!["x".into()],
                    ..Default::default()
                })
                .collect(),
            schedules: (handlers.iter())
                .map(|handler| ScheduleInfo {
                    handler_name: (*handler).to_owned(),
                    interval_seconds: 5,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let request =
            AnnounceRequest { auth_token: token.to_owned(), announcement: Some(announcement) };
        let mut host = PluginHostClient::new(channel.clone());
        host.announce(request).await.unwrap().into_inner()
    };
    for (_, token, _) in &bearers {
        assert!(announce(token.expose(), &["same"]).await.success);
    }
    let has = async |plugin: &PluginName| {
        let plugin = engine.plugin(plugin.clone()).await.unwrap().unwrap();
        [plugin.handlers.len(), plugin.watchers.len(), plugin.schedules.len()]
    };
    let (git, hub) = (&bearers[0], &bearers[1]);
    // Neither by the name of the other nor by saying nothing.
    let refused = announce(git.1.expose(), &["git-hub/same"]).await.refused;
    assert!(refused.iter().any(|line| line.contains("git-hub/same")), "{refused:?}");
    assert!(announce(git.1.expose(), &[]).await.success);
    assert_eq!((has(&git.0).await, has(&hub.0).await), ([0; 3], [1; 3]));
    // A dead process has no say, and one of a disabled plugin neither.
    callers.revoke(&git.2);
    let reply = announce(git.1.expose(), &["same"]).await;
    assert!(reply.error.starts_with("unauthenticated: "), "{reply:?}");
    engine.plugin_disabled(hub.0.clone(), "user".into()).await.unwrap();
    let reply = announce(hub.1.expose(), &["same"]).await;
    assert!(!reply.success && reply.error.contains("is disabled"), "{reply:?}");
    assert_eq!(has(&hub.0).await, [0; 3]);
    assert!(engine.plugin_row(&hub.0).unwrap().disabled_at.is_some());
    let ready = PluginReady {
        plugin: hub.0.clone(),
        incarnation: 2,
        version: String::new(),
        max_in_flight: 1,
        registration: Registration::default(),
        transport: Arc::new(Holding(mpsc::unbounded_channel().0)),
    };
    assert!(engine.plugin_up(ready).await.is_err());
}
