//! Schedules as plugins are served them, over a real connection.

use std::collections::HashMap;

use axwatch_core::ScheduleDeclaration;
use axwatch_model::Asker;
use axwatch_proto::protocol::schedule_service_client::ScheduleServiceClient;
use axwatch_proto::protocol::{
    CreateScheduleRequest, DeleteScheduleRequest, GetScheduleRequest, PauseScheduleRequest,
    ResumeScheduleRequest, ScheduledJob,
};
use tonic::transport::Channel;

use super::services::{Desk, admit, desk};
use super::*;

/// A plugin called `git` that has schedules.
struct Diary {
    desk: Desk,
    schedules: ScheduleServiceClient<Channel>,
}

async fn diary() -> Diary {
    let desk = desk().await;
    let schedules = ScheduleServiceClient::new(desk.channel.clone());
    Diary { desk, schedules }
}

/// `success` and `error` of a reply.
macro_rules! verdict {
    ($reply:expr) => {{
        let reply = $reply.await.unwrap().into_inner();
        if reply.success { Ok(()) } else { Err(reply.error) }
    }};
}

impl Diary {
    async fn make(&mut self, request: CreateScheduleRequest) -> Result<String, String> {
        let request = CreateScheduleRequest { auth_token: self.desk.token.clone(), ..request };
        let reply = self.schedules.create_schedule(request).await.unwrap().into_inner();
        assert_eq!(reply.success, !reply.schedule_id.is_empty());
        if reply.success { Ok(reply.schedule_id) } else { Err(reply.error) }
    }

    async fn every(&mut self, handler: &str, interval_seconds: i32) -> Result<String, String> {
        let handler_name = handler.into();
        let request =
            CreateScheduleRequest { handler_name, interval_seconds, ..Default::default() };
        self.make(request).await
    }

    async fn find(&mut self, id: &str) -> Result<ScheduledJob, String> {
        let (auth_token, schedule_id) = (self.desk.token.clone(), id.into());
        let request = GetScheduleRequest { auth_token, schedule_id, without_payload: false };
        let reply = self.schedules.get_schedule(request).await.unwrap().into_inner();
        assert_eq!(reply.success, reply.job.is_some());
        reply.job.ok_or(reply.error)
    }

    async fn get(&mut self, id: &str) -> ScheduledJob {
        self.find(id).await.unwrap()
    }

    async fn pause(&mut self, id: &str) -> Result<(), String> {
        let (auth_token, schedule_id) = (self.desk.token.clone(), id.into());
        let request = PauseScheduleRequest { auth_token, schedule_id };
        verdict!(self.schedules.pause_schedule(request))
    }

    async fn resume(&mut self, id: &str) -> Result<(), String> {
        let (auth_token, schedule_id) = (self.desk.token.clone(), id.into());
        let request = ResumeScheduleRequest { auth_token, schedule_id };
        verdict!(self.schedules.resume_schedule(request))
    }

    async fn delete(&mut self, id: &str) -> Result<(), String> {
        let (auth_token, schedule_id) = (self.desk.token.clone(), id.into());
        let request = DeleteScheduleRequest { auth_token, schedule_id };
        verdict!(self.schedules.delete_schedule(request))
    }
}

#[tokio::test]
async fn a_handler_has_one_schedule_which_takes_over_what_is_said() {
    let mut diary = diary().await;
    // Before anything is announced, as plugins do within Initialize; another has a handler of that name.
    let _other = bring_up(&diary.desk.engine, "other").await;
    let name = "other".parse().unwrap();
    let handlers = vec!["git.do".parse().unwrap(), "other.do".parse().unwrap()];
    let registration = Registration { handlers, ..Registration::default() };
    diary.desk.engine.announce(name, 1, registration).await.unwrap();
    let id = diary.every("git.do", 60).await.unwrap();
    assert_eq!(diary.get(&id).await.state, "inactive", "nobody has its handler yet");

    let _held = bring_up(&diary.desk.engine, "git").await;
    let first = diary.get(&id).await;
    assert_eq!((first.handler_name.as_str(), first.interval_seconds), ("git.do", 60));
    assert_eq!((first.state.as_str(), first.payload.len()), ("active", 0));
    assert!(first.next_run_at > first.created_at && first.next_run_at.ends_with('Z'), "{first:?}");
    assert_eq!((first.last_run_at.as_str(), first.last_execution_id.as_str()), ("", ""));
    assert_eq!(first.metadata, "");

    let again = CreateScheduleRequest {
        handler_name: "git/git.do".into(),
        interval_seconds: 3_600,
        payload: bytes::Bytes::from_static(b"\xff"),
        metadata: HashMap::from([("b".into(), "2\"é".into()), ("a".into(), String::new())]),
        ..Default::default()
    };
    assert_eq!(diary.make(again.clone()).await.unwrap(), id);
    let second = diary.get(&id).await;
    assert_eq!((second.interval_seconds, &second.payload[..]), (3_600, &b"\xff"[..]));
    assert_eq!(second.metadata, r#"{"a":"","b":"2\"é"}"#);
    assert_eq!(second.created_at, first.created_at);
    assert_eq!(diary.make(again).await.unwrap(), id);
    assert_eq!(diary.get(&id).await, second, "the same again changes nothing");

    for never in [0, -1, i32::MIN] {
        assert_eq!(diary.every("git.do", never).await.unwrap(), id);
        let found = diary.get(&id).await;
        assert_eq!((found.state.as_str(), found.interval_seconds), ("inactive", 0));
        assert_eq!(found.next_run_at, "");
        assert!(diary.resume(&id).await.unwrap_err().contains("never runs"));
    }
    diary.every("git.do", i32::MAX).await.unwrap();
    assert_eq!(diary.get(&id).await.state, "active");
}

#[tokio::test]
async fn a_schedule_is_paused_resumed_and_deleted() {
    let mut diary = diary().await;
    let _held = bring_up(&diary.desk.engine, "git").await;
    let id = diary.every("git.do", 60).await.unwrap();
    diary.pause(&id).await.unwrap();
    diary.pause(&id).await.expect("it is so already");
    let paused = diary.get(&id).await;
    assert_eq!((paused.state.as_str(), paused.next_run_at.as_str()), ("paused", ""));
    diary.every("git.do", 30).await.unwrap();
    let paused = diary.get(&id).await;
    assert_eq!((paused.state.as_str(), paused.interval_seconds), ("paused", 30));
    diary.resume(&id).await.unwrap();
    assert_eq!(diary.get(&id).await.state, "active");
    diary.delete(&id).await.unwrap();
    assert_eq!(diary.get(&id).await.state, "deleted");
    assert!(diary.resume(&id).await.unwrap_err().ends_with("is deleted"));
    diary.delete(&id).await.expect("it is so already");
    assert_eq!(diary.every("git.do", 90).await.unwrap(), id);
    let anew = diary.get(&id).await;
    assert_eq!((anew.state.as_str(), anew.interval_seconds), ("active", 90));
}

/// What a plugin declares and what it makes with a call is one schedule of that handler.
#[tokio::test]
async fn what_was_declared_keeps_what_a_call_does_not_say() {
    let mut diary = diary().await;
    let engine = diary.desk.engine.clone();
    let _held = bring_up(&engine, "git").await;
    let announce = async |interval_secs: Option<i64>| {
        let declared = |interval_secs| ScheduleDeclaration {
            id: String::new(),
            handler: "git.do".into(),
            interval_secs,
            enabled_by_default: true,
            description: "as declared".into(),
            ats_code: "x is y".into(),
        };
        let registration = Registration {
            handlers: vec!["git.do".parse().unwrap()],
            schedules: interval_secs.map(declared).into_iter().collect(),
            ..Registration::default()
        };
        engine.announce("git".parse().unwrap(), 1, registration).await.unwrap();
    };
    announce(Some(10)).await;
    let id = diary.every("git.do", 20).await.unwrap();
    let found = diary.get(&id).await;
    assert_eq!((found.interval_seconds, found.ats_code.as_str()), (20, "x is y"));
    announce(Some(40)).await;
    assert_eq!(diary.get(&id).await.interval_seconds, 40);
    // Made with a call after it was declared, it is no part of what is declared.
    diary.every("git.do", 20).await.unwrap();
    announce(None).await;
    assert_eq!(diary.get(&id).await.state, "active");
}

#[tokio::test]
async fn a_job_pauses_the_schedule_that_it_is_a_run_of() {
    let mut diary = diary().await;
    let engine = diary.desk.engine.clone();
    let mut held = bring_up(&engine, "git").await;
    let payload = bytes::Bytes::from_static(br#"{"since":"last_run"}"#);
    let request = CreateScheduleRequest {
        handler_name: "git.do".into(),
        interval_seconds: 3_600,
        payload,
        ..Default::default()
    };
    let id = diary.make(request).await.unwrap();
    let run = engine.run_schedule(id.parse().unwrap(), Asker::User).await.unwrap();
    let attempt = soon(held.recv()).await.unwrap();
    assert_eq!((attempt.attempt.start.id, &attempt.attempt.payload[..]), (run.id, &b"{}"[..]));
    diary.pause(&id).await.unwrap();
    let found = diary.get(&id).await;
    assert_eq!((found.state.as_str(), found.last_execution_id), ("paused", run.id.to_string()));
    assert!(!found.last_run_at.is_empty());
    attempt.succeed();
    soon(async {
        while engine.store().job(run.id).await.unwrap().unwrap().state.is_open() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(diary.get(&id).await.state, "paused");
}

#[tokio::test]
async fn anothers_schedule_is_nowhere() {
    let mut diary = diary().await;
    let engine = diary.desk.engine.clone();
    let _held = (bring_up(&engine, "git").await, bring_up(&engine, "other").await);
    let own = std::mem::take(&mut diary.desk.token);
    (diary.desk.token, _) = admit(&diary.desk.callers, "other");
    let theirs = diary.every("other.do", 60).await.unwrap();
    diary.desk.token = own;
    // A person's, called like an id.
    let nowhere = "0123456789abcdef".repeat(2);
    let asked = axwatch_core::ScheduleAsk {
        by: Asker::User,
        name: nowhere.clone(),
        handler: "git.do".into(),
        grid: axwatch_model::Grid::Every { secs: 60 },
        payload: None,
        missed: axwatch_model::Missed::default(),
        overlap: axwatch_model::Overlap::default(),
        jitter_secs: 0,
        description: String::new(),
        ats_code: String::new(),
        metadata: None,
    };
    engine.create_schedule(asked).await.unwrap();
    let long = "x".repeat(10_000);
    for id in [theirs.as_str(), &nowhere, "", "zz", "é\u{1b}[31m", "other/other.do", &long] {
        let answers = [
            diary.find(id).await.unwrap_err(),
            diary.pause(id).await.unwrap_err(),
            diary.resume(id).await.unwrap_err(),
            diary.delete(id).await.unwrap_err(),
        ];
        for answer in answers {
            assert!(answer.ends_with(": there is none") && answer.len() < 200, "{answer}");
            assert!(!answer.contains('\u{1b}'), "{answer}");
        }
    }
    for handler in ["other/other.do", "other.do", "git.absent", "a/b/c", "", "x\ny"] {
        diary.every(handler, 60).await.unwrap_err();
    }
    let request = CreateScheduleRequest {
        handler_name: "git.do".into(),
        interval_seconds: 60,
        metadata: HashMap::from([("a".into(), "x".repeat(70_000))]),
        ..Default::default()
    };
    let error = diary.make(request).await.unwrap_err();
    assert!(error.starts_with("metadata: ") && error.contains("at most 65536"), "{error}");
    let schedules = engine.schedules().await.unwrap();
    assert_eq!(schedules.len(), 2, "{schedules:?}");
    assert!(schedules.iter().all(|view| view.row.state == axwatch_model::ScheduleState::Active));
}
