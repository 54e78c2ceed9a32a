//! How a plugin is started, configured again and ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{Scripted, job, until, watcher};
use axwatch_proto::protocol::domain_plugin_service_client::DomainPluginServiceClient;
use axwatch_proto::protocol::{
    Empty, ExecuteJobRequest, HttpRequest, InitializeRequest, ParseAxQueryRequest,
};
use axwatch_sdk::testing::Harness;
use axwatch_sdk::{About, Claim, Config, ConfigField, Done, Failure, Health, Job, Plugin, Start};
use tokio::sync::Semaphore;
use tonic::Code;
use tonic::transport::Channel;

fn idle() -> Scripted {
    Scripted::new(|job| async move {
        Ok(Done::new().result(job.config().get("mode").unwrap_or("none").to_owned()))
    })
}

async fn client(harness: &Harness) -> DomainPluginServiceClient<Channel> {
    let address = format!("http://{}", harness.address());
    DomainPluginServiceClient::connect(address).await.unwrap()
}

#[tokio::test]
async fn a_plugin_says_who_it_is_and_what_it_has() {
    let harness = Harness::start(idle()).await;
    assert_eq!(harness.announced().handlers, ["scripted.work"]);
    assert_eq!(harness.announced().watchers, [watcher()]);
    let mut client = client(&harness).await;
    let metadata = client.metadata(Empty {}).await.unwrap().into_inner();
    assert_eq!((metadata.name.as_str(), metadata.version.as_str()), ("scripted", "1.2.3"));
    assert_eq!((metadata.qntx_version.as_str(), metadata.license.as_str()), (">=0.2", "MIT"));
    let health = client.health(Empty {}).await.unwrap().into_inner();
    assert!(health.healthy && health.details["mood"] == "fine");
}

#[tokio::test]
async fn what_is_not_served_is_said() {
    let harness = Harness::start(idle()).await;
    let mut client = client(&harness).await;
    let codes = [
        client.config_schema(Empty {}).await.map(drop),
        client.register_glyphs(Empty {}).await.map(drop),
        client.parse_ax_query(ParseAxQueryRequest::default()).await.map(drop),
        client.handle_http(HttpRequest::default()).await.map(drop),
        client.handle_web_socket(futures::stream::empty()).await.map(drop),
    ];
    assert!(codes.iter().all(|answer| answer.as_ref().unwrap_err().code() == Code::Unimplemented));
}

struct Described;

impl Plugin for Described {
    fn about(&self) -> About {
        About::new("described", "1.0.0", "says what may be set")
    }

    fn handlers(&self) -> Vec<String> {
        Vec::new()
    }

    fn config_schema(&self) -> Vec<ConfigField> {
        let timeout = ConfigField::number("timeout_secs", "how long it may take");
        vec![
            timeout.default_value("10").min("1").max("600"),
            ConfigField::array("hosts", "string", "whom to ask").required(),
            ConfigField::string("name", "what to say").pattern("^[a-z]+$"),
            ConfigField::boolean("fsync", "be sure"),
        ]
    }

    fn health(&self) -> Health {
        Health::bad("no database")
    }

    async fn execute(&self, _: Job) -> Result<Done, Failure> {
        Ok(Done::new())
    }
}

#[tokio::test]
async fn a_configuration_is_described_and_bad_health_told() {
    let harness = Harness::start(Described).await;
    let mut client = client(&harness).await;
    let fields = client.config_schema(Empty {}).await.unwrap().into_inner().fields;
    assert_eq!(fields.len(), 4);
    let timeout = &fields["timeout_secs"];
    assert_eq!((timeout.r#type.as_str(), timeout.default_value.as_str()), ("number", "10"));
    assert_eq!((timeout.min_value.as_str(), timeout.max_value.as_str()), ("1", "600"));
    let hosts = &fields["hosts"];
    assert_eq!((hosts.r#type.as_str(), hosts.element_type.as_str()), ("array", "string"));
    assert!(hosts.required && !timeout.required);
    assert_eq!(
        (fields["fsync"].r#type.as_str(), &*fields["name"].pattern),
        ("boolean", "^[a-z]+$")
    );
    let health = client.health(Empty {}).await.unwrap().into_inner();
    assert_eq!((health.healthy, health.message.as_str()), (false, "no database"));
}

#[tokio::test]
async fn a_plugin_may_refuse_to_start() {
    let cases = [
        ("refuse", Failure::Permanent("mode: refuse does not do".into())),
        ("later", Failure::Retry("no database yet".into())),
        ("panic", Failure::Retry("initialize panicked: no idea what to do".into())),
    ];
    for (mode, expected) in cases {
        let refused = Harness::try_start(idle(), [("mode", mode)]).await;
        assert_eq!(refused.err(), Some(expected));
    }
}

/// Refuses to start until somebody has told it of an author.
struct Asking;

impl Plugin for Asking {
    fn about(&self) -> About {
        About::new("asking", "1.0.0", "asks before it starts")
    }

    async fn initialize(&self, start: Start) -> Result<(), Failure> {
        let authors = start.host().query("is author").await?;
        if authors.is_empty() { Err(Failure::permanent("nobody is author")) } else { Ok(()) }
    }

    fn handlers(&self) -> Vec<String> {
        vec!["asking.work".into()]
    }

    async fn execute(&self, _: Job) -> Result<Done, Failure> {
        Ok(Done::new())
    }
}

#[tokio::test]
async fn what_it_finds_at_its_start_is_said_before() {
    let mut harness = Harness::unstarted(Asking).await;
    harness.answer_ax("is author", []);
    let refused = harness.reconfigure(Config::default()).await;
    assert_eq!(refused, Err(Failure::permanent("nobody is author")));
    assert!(harness.announced().handlers.is_empty());
    harness.answer_ax("is author", [Claim::new("ALICE", "author", "GitHub")]);
    harness.fail_next_call("unavailable: the disk is full");
    assert!(matches!(harness.reconfigure(Config::default()).await, Err(Failure::Retry(_))));
    harness.reconfigure(Config::default()).await.unwrap();
    assert_eq!(harness.announced().handlers, ["asking.work"]);
}

#[tokio::test]
async fn a_new_configuration_counts_for_later_jobs_and_a_bad_one_changes_nothing() {
    let gate = Arc::new(Semaphore::new(0));
    let began = Arc::new(Semaphore::new(0));
    let (pass, begin) = (gate.clone(), began.clone());
    let plugin = Scripted::new(move |job| {
        let (pass, begin) = (pass.clone(), begin.clone());
        async move {
            begin.add_permits(1);
            let _ = pass.acquire().await?;
            Ok(Done::new().result(job.config().get("mode").unwrap_or("none").to_owned()))
        }
    });
    let seen = plugin.seen.clone();
    let mut harness = Harness::start_with(plugin, [("mode", "one")]).await;
    let mut client = client(&harness).await;
    let request = ExecuteJobRequest { handler_name: "scripted.work".into(), ..Default::default() };
    let early = tokio::spawn(async move { client.execute_job(request).await });
    let _ = began.acquire().await.unwrap();

    harness.reconfigure([("mode", "two")]).await.unwrap();
    assert!(harness.reconfigure([("mode", "refuse")]).await.is_err());
    gate.add_permits(100);
    let early = early.await.unwrap().unwrap().into_inner();
    assert_eq!(early.result, "one", "what has begun keeps its own");
    assert_eq!(harness.execute(job()).await.expect_done().result, "two");
    assert_eq!(*seen.modes.lock().unwrap(), [Some("one".to_owned()), Some("two".to_owned())]);
}

#[tokio::test]
async fn a_host_without_a_store_is_said_to_be_one() {
    let plugin = Scripted::new(|job| async move {
        job.exists("x").await?;
        Ok(Done::new())
    });
    let harness = Harness::start(plugin).await;
    let mut client = client(&harness).await;
    client.initialize(InitializeRequest::default()).await.unwrap();
    let request = ExecuteJobRequest { handler_name: "scripted.work".into(), ..Default::default() };
    let reply = client.execute_job(request.clone()).await.unwrap().into_inner();
    assert!(reply.permanent && reply.error.contains("no store of claims"), "{reply:?}");

    // A host that is away is another matter.
    let nobody =
        InitializeRequest { ats_store_endpoint: "127.0.0.1:1".into(), ..Default::default() };
    client.initialize(nobody).await.unwrap();
    let reply = client.execute_job(request).await.unwrap().into_inner();
    assert!(!reply.permanent && reply.error.starts_with("the host did not answer: "), "{reply:?}");

    let broken = InitializeRequest { ats_store_endpoint: "no port/".into(), ..Default::default() };
    let status = client.initialize(broken).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn shutdown_waits_for_running_jobs_and_takes_no_more() {
    let gate = Arc::new(Semaphore::new(0));
    let began = Arc::new(Semaphore::new(0));
    let (pass, begin) = (gate.clone(), began.clone());
    let plugin = Scripted::new(move |_| {
        let (pass, begin) = (pass.clone(), begin.clone());
        async move {
            begin.add_permits(1);
            let _ = pass.acquire().await?;
            Ok(Done::new())
        }
    });
    let seen = plugin.seen.clone();
    let harness = Arc::new(Harness::start(plugin).await);
    let other = harness.clone();
    let running = tokio::spawn(async move { other.execute(job()).await });
    began.acquire().await.unwrap().forget();

    let asked = std::time::Instant::now();
    let other = harness.clone();
    let shutdown = tokio::spawn(async move { other.shutdown().await });
    // A job that still gets in is let through, and the next is tried.
    let refused = loop {
        let other = harness.clone();
        let late = tokio::spawn(async move { other.execute(job()).await });
        tokio::select! {
            outcome = late => break outcome.unwrap(),
            permit = began.acquire() => permit.unwrap().forget(),
        }
    };
    let reason = "the plugin is shutting down";
    assert_eq!(refused.expect_failure(), Failure::Retry(reason.into()));
    let shutdowns = seen.shutdowns.load(Ordering::SeqCst);
    // It does not wait longer than 4 s, which a busy machine may have spent by now.
    assert!(shutdowns == 0 || asked.elapsed() > Duration::from_secs(3), "a job is running");
    gate.add_permits(1_000);
    running.await.unwrap().expect_done();
    shutdown.await.unwrap();
    harness.shutdown().await;
    assert_eq!(seen.shutdowns.load(Ordering::SeqCst), 1, "once, however often it is asked");
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever_and_tells_who_still_works() {
    let plugin = Scripted::new(|job| async move {
        job.cancelled().await;
        Err(Failure::retry("told to stop"))
    });
    let seen = plugin.seen.clone();
    let harness = Arc::new(Harness::start(plugin).await);
    let other = harness.clone();
    let running = tokio::spawn(async move { other.execute(job()).await });
    let began = std::time::Instant::now();
    // Whether the job or the shutdown comes first: neither hangs.
    harness.shutdown().await;
    assert!(began.elapsed() < crate::support::PATIENCE);
    assert!(running.await.unwrap().failure.is_some());
    until("it had its last words", || (seen.shutdowns.load(Ordering::SeqCst) == 1).then_some(()))
        .await;
}
