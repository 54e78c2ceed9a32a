//! Stored handlers as the plugin that runs them is served: their code by name and by version, and which version
//! an attempt is to run.

use std::str::FromStr as _;

use axwatch_model::{Attributes, DefaultActor, Defaults, Draft, LineageKind};
use axwatch_proto::axwatch::v1::plugin_host_client::PluginHostClient;
use axwatch_proto::axwatch::v1::{AnnounceRequest, StoredHandler, StoredHandlersRequest};
use axwatch_proto::protocol::{AttestationCommand, InitializeResponse, ScheduleInfo};
use axwatch_proto::structs;
use tonic::{Code, Status};

use super::services::{Desk, admit, desk};
use super::*;

/// A claim that says something of a handler of a plugin; gives its id.
async fn say(
    engine: &Engine,
    by: &str,
    (predicate, name, plugin): (&str, &str, &str),
    attributes: serde_json::Value,
) -> String {
    let draft = Draft {
        subjects: vec![name.into()],
        predicates: vec![predicate.into()],
        contexts: vec![plugin.into()],
        attributes: Attributes::parse(&attributes.to_string()).unwrap(),
        ..Draft::default()
    };
    let defaults = Defaults { actor: DefaultActor::OwnId, source: "test".into() };
    let claim = engine.complete(draft, &defaults, by).unwrap();
    let id = claim.attestation.id.to_string();
    engine.append(vec![claim]).await.unwrap().remove(0).unwrap();
    id
}

async fn store(engine: &Engine, name: &str, code: &str) -> String {
    say(engine, "user", ("handler", name, "git"), serde_json::json!({ "code": code })).await
}

async fn fault(engine: &Engine, name: &str, reason: &str) {
    let reason = serde_json::json!({ "reason": reason });
    say(engine, "git", ("handler:faulted", name, "git"), reason).await;
}

/// What the plugin is told; `version` empty is all.
async fn told(desk: &Desk, version: &str) -> Result<Vec<StoredHandler>, Status> {
    let request = StoredHandlersRequest { auth_token: desk.token.clone(), version: version.into() };
    let mut host = PluginHostClient::new(desk.channel.clone());
    let mut stream = host.stored_handlers(request).await?.into_inner();
    let mut found = Vec::new();
    while let Some(handler) = soon(stream.message()).await? {
        found.push(handler);
    }
    Ok(found)
}

/// Name, version, code, and why it does not load.
fn lines(found: &[StoredHandler]) -> Vec<(&str, &str, &str, &str)> {
    found.iter().map(|of| (&*of.name, &*of.version, &*of.code, &*of.faulted)).collect()
}

#[tokio::test]
async fn a_plugin_is_told_its_stored_handlers_with_their_code() {
    let desk = desk().await;
    let engine = &desk.engine;
    assert_eq!(told(&desk, "").await.unwrap(), []);
    let first = store(engine, "hello", "1").await;
    let second = store(engine, "hello", "2").await;
    let gone = store(engine, "gone", "3").await;
    let broken = store(engine, "broken", "(").await;
    fault(engine, "broken", "line 1: '(' was never closed").await;
    let removed = serde_json::json!({ "reason": "removed" });
    say(engine, "user", ("handler:faulted", "gone", "git"), removed).await;
    // Not its own, and not stored.
    let code = serde_json::json!({ "code": "4" });
    let other = say(engine, "user", ("handler", "other", "lua"), code.clone()).await;
    let refused = say(engine, "zoo", ("handler", "hello", "git"), code).await;

    let found = told(&desk, "").await.unwrap();
    let unclosed = "line 1: '(' was never closed";
    assert_eq!(lines(&found), [("broken", &*broken, "(", unclosed), ("hello", &*second, "2", "")]);
    assert_eq!(found.iter().map(|handler| handler.seq).collect::<Vec<_>>(), [4, 2]);
    for (version, expected) in [
        (&first, ("hello", &*first, "1", "")),
        (&second, ("hello", &*second, "2", "")),
        (&gone, ("gone", &*gone, "3", "")),
        (&broken, ("broken", &*broken, "(", unclosed)),
    ] {
        assert_eq!(lines(&told(&desk, version).await.unwrap()), [expected]);
    }
    for version in [&*other, &refused, "nobody's", &"x".repeat(300)] {
        let status = told(&desk, version).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{version}");
        assert!(status.message().contains("stored for plugin git"), "{}", status.message());
    }
    desk.callers.revoke(&desk.caller);
    assert_eq!(told(&desk, "").await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_thousand_handlers_are_told_in_the_order_of_their_names() {
    let desk = desk().await;
    let mut claims = Vec::new();
    let defaults = Defaults { actor: DefaultActor::OwnId, source: "test".into() };
    for version in 0..3 {
        for n in 0..1_000 {
            let code = serde_json::json!({ "code": format!("{n} {version}") }).to_string();
            let draft = Draft {
                subjects: vec![format!("h{n:04}")],
                predicates: vec!["handler".into()],
                contexts: vec!["git".into()],
                attributes: Attributes::parse(&code).unwrap(),
                ..Draft::default()
            };
            claims.push(desk.engine.complete(draft, &defaults, "user").unwrap());
        }
    }
    assert!(desk.engine.append(claims).await.unwrap().iter().all(Result::is_ok));
    let found = told(&desk, "").await.unwrap();
    let expected: Vec<_> = (0..1_000).map(|n| (format!("h{n:04}"), format!("{n} 2"))).collect();
    let found: Vec<_> = found.into_iter().map(|of| (of.name, of.code)).collect();
    assert_eq!(found, expected);
    let all = desk.engine.stored_handlers().await.unwrap();
    assert_eq!(all.iter().map(|of| of.version_number).sum::<u64>(), 3_000);
}

/// A plugin may find out while a job is under way that code does not load; what runs for a job may not say so.
#[tokio::test]
async fn a_fault_is_the_plugin_s_own_unless_it_names_a_job() {
    let mut desk = desk().await;
    let mut held = bring_up(&desk.engine, "git").await;
    let job = enqueue(&desk.engine, "git").await;
    let _under_way = soon(held.recv()).await.unwrap();
    let version = store(&desk.engine, "hello", "1").await;
    let saying = |job_id: String| AttestationCommand {
        subjects: vec!["hello".into()],
        predicates: vec!["handler:faulted".into()],
        contexts: vec!["git".into()],
        attributes: Some(
            structs::from_json(&format!(r#"{{"reason":"line 1","version":"{version}"}}"#)).unwrap(),
        ),
        job_id,
        ..Default::default()
    };
    let of_hello = (axwatch_model::PluginName::from_str("git").unwrap(), "hello".parse().unwrap());
    let state = async |engine: &Engine| {
        let (plugin, name) = of_hello.clone();
        engine.stored_handler(plugin, name).await.unwrap().unwrap().state.as_str()
    };
    let named = desk.generate(saying(job.id.to_string())).await.unwrap();
    assert_eq!(desk.lineage(&named.id).await.parent_job, Some(job.id));
    assert_eq!(state(&desk.engine).await, "in_force");
    let own = desk.generate(saying(String::new())).await.unwrap();
    let lineage = desk.lineage(&own.id).await;
    assert_eq!(
        (lineage.kind, lineage.depth, lineage.parent_job),
        (LineageKind::Unsure, 1, None),
        "how deep it is in a chain is kept"
    );
    assert_eq!(state(&desk.engine).await, "broken");
}

#[tokio::test]
async fn an_attempt_says_which_version_it_runs() {
    let desk = desk().await;
    let engine = &desk.engine;
    let mut held = bring_up(engine, "git").await;
    desk.caller.registered();
    let announcement = InitializeResponse {
        handler_names: vec!["git.do".into()],
        stored_handlers: true,
        schedules: vec![ScheduleInfo {
            id: "hello-hourly".into(),
            handler_name: "git.hello".into(),
            interval_seconds: 3_600,
            enabled_by_default: true,
            ..Default::default()
        }],
        ..Default::default()
    };
    let first = store(engine, "hello", "1").await;
    let auth_token = desk.token.clone();
    let request = AnnounceRequest { auth_token, announcement: Some(announcement) };
    let mut host = PluginHostClient::new(desk.channel.clone());
    let reply = host.announce(request).await.unwrap().into_inner();
    assert!(reply.success && reply.refused.is_empty(), "{reply:?}");
    assert!(engine.plugin_row(&"git".parse().unwrap()).unwrap().stored_handlers);

    let payload = || Arc::from(b"{}".as_slice());
    engine.enqueue("git.hello".into(), payload()).await.unwrap();
    let attempt = soon(held.recv()).await.unwrap();
    assert_eq!(attempt.attempt.start.handler_version.as_ref().unwrap().as_str(), first);
    let second = store(engine, "hello", "2").await;
    attempt.fail();
    let schedule = engine.schedule("git/hello-hourly").await.unwrap().unwrap().row.id;
    engine.run_schedule(schedule, axwatch_model::Asker::User).await.unwrap();
    let run = soon(held.recv()).await.unwrap();
    let request = crate::plugin::wire::request(&run.attempt, PATIENCE);
    assert_eq!((request.handler_version, &*request.schedule), (second, "hello-hourly"));
    run.succeed();
    engine.enqueue("git.do".into(), payload()).await.unwrap();
    let plain = soon(held.recv()).await.unwrap();
    let request = crate::plugin::wire::request(&plain.attempt, PATIENCE);
    assert_eq!((&*request.handler_version, &*request.schedule), ("", ""));
    plain.succeed();

    // Somebody else has no say in it, and is told of none.
    let (token, _) = admit(&desk.callers, "zoo");
    let request = StoredHandlersRequest { auth_token: token, version: String::new() };
    let mut stream = host.stored_handlers(request).await.unwrap().into_inner();
    assert_eq!(soon(stream.message()).await.unwrap(), None);
}
