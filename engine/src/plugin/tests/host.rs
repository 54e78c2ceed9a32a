//! Whole processes, each this test program once more: as a launcher, and as a plugin that behaves in
//! some way.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::sync::Mutex;

use axwatch_model::{JobId, JobState, LeafNumber, PluginName, Seq, WatcherState};
use axwatch_proto::protocol::ats_store_service_client::AtsStoreServiceClient;
use axwatch_proto::protocol::{
    AttestationCommand, ConfigFieldSchema, ConfigSchemaResponse, ExecuteJobRequest,
    ExecuteJobResponse, GenerateAttestationRequest, InitializeRequest, InitializeResponse,
    WatcherRegistration,
};
use tokio::net::TcpListener;
use tonic::Status;

use super::fake::{Fake, answer};
use super::*;
use crate::plugin::actor::Shown;
use crate::plugin::{
    HostError, HostRefusal, HostSettings, LauncherCommand, PluginHost, PluginSettings, Reload,
    Status as State, launcher,
};

/// What follows the first `--` of our arguments, which is how a role gets its own.
fn role_args() -> Option<Vec<OsString>> {
    let mut args = std::env::args_os().skip_while(|arg| arg != "--");
    args.next()?;
    Some(args.collect())
}

fn role(name: &str) -> Vec<String> {
    let (_, module) = module_path!().split_once("::").unwrap();
    let name = format!("{module}::{name}");
    [&name, "--exact", "--ignored", "--nocapture", "--"].map(str::to_owned).into()
}

#[test]
#[ignore = "the launcher that the other tests start"]
fn launcher_role() {
    let Some(args) = role_args() else { return };
    let [program, args @ ..] = &args[..] else { return };
    std::process::exit(launcher::run(program, args).into());
}

#[test]
#[ignore = "the plugin that the other tests start"]
fn plugin_role() {
    let Some(args) = role_args() else { return };
    let args: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
    let [port, mode] = args[..] else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(behave(port.parse().unwrap(), mode));
}

async fn behave(port: u16, mode: &str) {
    if mode == "dies" {
        eprintln!("\nno such table");
        std::process::exit(3);
    }
    if mode == "deaf" {
        return std::future::pending().await;
    }
    if let Some(another) = mode.strip_prefix("points at ") {
        println!("\nQNTX_PLUGIN_PORT={another}");
        return std::future::pending().await;
    }
    if mode == "hungry" {
        let held = vec![1_u8; 300 << 20];
        std::hint::black_box(&held);
        return std::future::pending().await;
    }
    if mode == "stubborn" {
        leave_a_daemon();
        ignore_sigterm();
    }
    let address = if mode == "open" { "0.0.0.0" } else { "127.0.0.1" };
    let port = if mode == "elsewhere" { 0 } else { port };
    let listener = TcpListener::bind((address, port)).await.unwrap();
    if mode != "silent" {
        println!("\nQNTX_PLUGIN_PORT={}", listener.local_addr().unwrap().port());
    }
    well_behaved(mode).serve(listener).await;
}

fn leave_a_daemon() {
    let script = "(setsid sh -c 'trap \"\" TERM HUP; exec sleep 1000' &)";
    std::process::Command::new("sh").args(["-c", script]).status().unwrap();
}

fn ignore_sigterm() {
    let kind = tokio::signal::unix::SignalKind::terminate();
    let mut terminated = tokio::signal::unix::signal(kind).unwrap();
    tokio::spawn(async move { while terminated.recv().await.is_some() {} });
}

/// A plugin that calls back in Initialize and in each job, and crashes in the first attempt of a job
/// that says so.
fn well_behaved(mode: &str) -> Fake {
    let name = if mode == "stranger" { "somebody" } else { "zoo" };
    let mut fake = Fake::named(name);
    if mode == "future" {
        fake.metadata.qntx_version = ">= 9".into();
    }
    if mode == "choosy" {
        return choosy(fake);
    }
    if mode == "mumbling" {
        fake.config_schema = answer(|_| async { Err(Status::internal("cannot decode myself")) });
    }
    if mode == "mute" {
        fake.config_schema = answer(|_| std::future::pending());
    }
    let session = Arc::new(std::sync::OnceLock::<InitializeRequest>::new());
    let known = session.clone();
    fake.initialize = answer(move |request: InitializeRequest| {
        // Two Initialize of one process would be a fault of the host.
        let is_first = known.set(request.clone()).is_ok();
        async move {
            if !is_first {
                return Err(Status::failed_precondition("a second Initialize"));
            }
            claim(&request, "initialized", "").await?;
            Ok(announcement(&request))
        }
    });
    fake.execute = answer(move |request: tonic::Request<ExecuteJobRequest>| {
        let session = session.get().unwrap().clone();
        async move { execute(&session, request.into_inner()).await }
    });
    fake
}

/// Says what can be configured, and takes any other configuration but one that says `refuse`. It announces
/// its configuration, and how often Initialize was called. What it may be told in its environment is its default.
fn choosy(mut fake: Fake) -> Fake {
    let depth = ConfigFieldSchema {
        r#type: "number".into(),
        description: "How deep.".into(),
        default_value: std::env::var("GIVEN").unwrap_or_else(|_| "1".to_owned()),
        ..Default::default()
    };
    let fields = HashMap::from([("depth".to_owned(), depth)]);
    fake.config_schema = answer(move |_| {
        let reply = ConfigSchemaResponse { fields: fields.clone() };
        async { Ok(reply) }
    });
    let calls = std::sync::atomic::AtomicU32::new(0);
    fake.initialize = answer(move |request: InitializeRequest| {
        let call = 1 + calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            if request.config.contains_key("refuse") {
                return Err(Status::invalid_argument("I do not want to"));
            }
            let mut handler_names = vec![format!("called.{call}")];
            handler_names
                .extend(request.config.iter().map(|(key, value)| format!("{key}.{value}")));
            handler_names.sort();
            Ok(InitializeResponse { handler_names, ..Default::default() })
        }
    });
    fake
}

fn announcement(request: &InitializeRequest) -> InitializeResponse {
    // What the plugin sees of its environment and its configuration, told by the names it announces.
    let mut handler_names = vec!["zoo.do".to_owned()];
    for variable in ["PATH", "CARGO_MANIFEST_DIR", "GIVEN"] {
        if std::env::var_os(variable).is_some() {
            handler_names.push(format!("sees.{variable}"));
        }
    }
    handler_names.extend(request.config.iter().map(|(key, value)| format!("{key}.{value}")));
    handler_names.sort();
    let watcher = |id: &str, handler: &str| WatcherRegistration {
        id: id.into(),
        handler_name: handler.into(),
        predicates: vec!["wanted".into()],
        ..Default::default()
    };
    let watchers = vec![watcher("w", "zoo.do"), watcher("refused", "absent")];
    InitializeResponse { handler_names, watchers, ..Default::default() }
}

async fn execute(
    session: &InitializeRequest,
    request: ExecuteJobRequest,
) -> Result<ExecuteJobResponse, Status> {
    if &request.payload[..] == b"crash" && request.attempt == 1 {
        std::process::exit(9);
    }
    claim(session, "worked", &request.job_id).await?;
    Ok(ExecuteJobResponse { success: true, result: request.payload, ..Default::default() })
}

async fn claim(session: &InitializeRequest, subject: &str, job_id: &str) -> Result<(), Status> {
    let address = format!("http://{}", session.ats_store_endpoint);
    let mut store = AtsStoreServiceClient::connect(address)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let command = AttestationCommand {
        subjects: vec![subject.into()],
        job_id: job_id.into(),
        ..Default::default()
    };
    let auth_token = session.auth_token.clone();
    let request = GenerateAttestationRequest { auth_token, command: Some(command) };
    let reply = store.generate_and_create_attestation(request).await?.into_inner();
    if reply.success { Ok(()) } else { Err(Status::internal(reply.error)) }
}

fn settings(mode: &str) -> PluginSettings {
    let mut args = role("plugin_role");
    args.extend(["{port}".to_owned(), mode.to_owned()]);
    PluginSettings {
        binary: Some(std::env::current_exe().unwrap()),
        args,
        ..PluginSettings::new("zoo".parse().unwrap())
    }
}

fn our_launcher() -> LauncherCommand {
    LauncherCommand {
        program: std::env::current_exe().unwrap(),
        args: role("launcher_role").into_iter().map(OsString::from).collect(),
    }
}

async fn host_of(engine: &Engine, plugins: Vec<PluginSettings>) -> Result<PluginHost, HostError> {
    let settings = HostSettings { plugins, ..HostSettings::default() };
    PluginHost::start(engine.clone(), settings, our_launcher()).await
}

/// A host of one plugin whose own table a test writes.
async fn host_with_table(
    engine: &Engine,
    mode: &'static str,
    table: &[(&str, &str)],
) -> (PluginHost, Table) {
    let table = Table(Arc::new(Mutex::new(BTreeMap::new()))).written(table);
    let written = table.clone();
    let reload = Reload::new(move |_: &PluginName| written.settings(mode));
    let settings = HostSettings {
        plugins: vec![table.settings(mode).unwrap()],
        reload: Some(reload),
        ..HostSettings::default()
    };
    (PluginHost::start(engine.clone(), settings, our_launcher()).await.unwrap(), table)
}

/// The own table of the plugin as it is written now. One without an entry cannot be read.
#[derive(Clone)]
struct Table(Arc<Mutex<BTreeMap<String, String>>>);

impl Table {
    fn written(self, table: &[(&str, &str)]) -> Table {
        let table = table.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        *self.0.lock().unwrap() = table.collect();
        self
    }

    fn settings(&self, mode: &str) -> Result<PluginSettings, String> {
        let config = self.0.lock().unwrap().clone();
        if config.is_empty() {
            return Err("am.toml:1: it cannot be read".to_owned());
        }
        Ok(PluginSettings { config, ..settings(mode) })
    }
}

async fn host(mode: &str) -> (Engine, PluginHost) {
    let engine = engine().await;
    let host = host_of(&engine, vec![settings(mode)]).await.unwrap();
    (engine, host)
}

impl PluginHost {
    /// Waits until the plugin is shown in some way.
    async fn becomes(&self, is_it: impl Fn(&Shown) -> bool) -> Shown {
        let name: PluginName = "zoo".parse().unwrap();
        let mut shown = self.plugins[&name].shown.clone();
        let found = soon(shown.wait_for(|shown| is_it(shown))).await;
        found.expect("the plugin's task goes on").clone()
    }

    async fn is_ready(&self) {
        self.becomes(|shown| shown.state == State::Ready).await;
    }

    async fn fails(&self) -> String {
        let failed = self.becomes(|shown| shown.state == State::Failed && shown.launcher.is_none());
        failed.await.error.unwrap()
    }
}

async fn job_ends(engine: &Engine, id: JobId) -> axwatch_model::JobRow {
    let mut heads = engine.heads();
    soon(async {
        loop {
            heads.mark_unchanged();
            if let Some(row) = engine.store().job(id).await.unwrap()
                && !row.state.is_open()
            {
                return row;
            }
            heads.changed().await.unwrap();
        }
    })
    .await
}

fn is_gone(pid: u32) -> bool {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::test_kill_process(pid).is_err()
}

#[tokio::test]
async fn a_plugin_comes_up_works_and_goes() {
    let engine = engine().await;
    let mut plugin = settings("good");
    plugin.env.insert("GIVEN".into(), "1".into());
    plugin.config.insert("key".into(), "value".into());
    let host = host_of(&engine, vec![plugin]).await.unwrap();
    host.is_ready().await;

    let view = host.show("zoo").unwrap();
    assert_eq!((view.version.as_str(), view.error), ("1.2.3", None));
    assert_eq!(view.handlers, ["key.value", "sees.GIVEN", "sees.PATH", "zoo.do"]);
    let pid = view.pid.unwrap();
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(command.contains("plugin_role"), "{command:?}");
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(!environment.contains("CARGO"), "{environment:?}");
    let watchers = engine.watchers(false).await.unwrap();
    let live: Vec<_> = watchers
        .iter()
        .filter(|watcher| watcher.row.state == WatcherState::Live)
        .map(|watcher| watcher.row.key.to_string())
        .collect();
    assert_eq!(live, ["zoo-w"]);

    let job = engine.enqueue("zoo.do".into(), Arc::from(b"hello".as_slice())).await.unwrap();
    let row = job_ends(&engine, job.id).await;
    assert_eq!((row.state, row.result.as_deref()), (JobState::Completed, Some(&b"hello"[..])));
    let log = engine.store().read_after(Seq(0), 10).await.unwrap();
    let said: Vec<_> = log
        .iter()
        .map(|stored| (stored.attestation.subjects[0].as_str(), stored.lineage.parent_job))
        .collect();
    assert_eq!(said, [("initialized", None), ("worked", Some(job.id))]);
    assert!(log.iter().all(|stored| stored.appended_by == "zoo"));

    soon(host.shutdown()).await;
    assert!(is_gone(pid));
    let view = host.show("zoo").unwrap();
    assert_eq!((view.state, view.pid), (State::Stopped, None));
    host.shutdown().await;
}

#[tokio::test]
async fn a_port_is_taken_as_announced_or_as_asked_for() {
    for mode in ["elsewhere", "silent"] {
        let (_, host) = host(mode).await;
        host.is_ready().await;
        soon(host.shutdown()).await;
    }
}

#[tokio::test]
async fn what_is_not_what_was_configured_fails_and_says_why() {
    let cases: [(&str, &[&str]); 3] = [
        ("stranger", &["\"somebody\"", "\"zoo\""]),
        ("future", &["\">= 9\"", "0.2.0"]),
        ("open", &["0.0.0.0:", "args = [\"--address\", \"127.0.0.1:{port}\"]", "allow_remote"]),
    ];
    for (mode, reasons) in cases {
        let (_, host) = host(mode).await;
        let error = host.fails().await;
        for reason in reasons {
            assert!(error.contains(reason), "{mode}: {error:?} should say {reason:?}");
        }
    }
    let engine = engine().await;
    let open = PluginSettings { allow_remote: true, ..settings("open") };
    let host = host_of(&engine, vec![open]).await.unwrap();
    host.is_ready().await;
}

#[tokio::test]
async fn who_has_the_port_and_is_not_the_plugin_is_told_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, mut told) = mpsc::unbounded_channel();
    let initialize = answer(move |request: InitializeRequest| {
        tell.send(request.auth_token).unwrap();
        async { Ok(InitializeResponse::default()) }
    });
    tokio::spawn(Fake { initialize, ..Fake::named("zoo") }.serve(listener));
    let plugin = settings(&format!("points at {port}"));
    let plugin = PluginSettings { ready_timeout: Duration::from_secs(2), ..plugin };
    let engine = engine().await;
    let host = host_of(&engine, vec![plugin]).await.unwrap();
    let error = host.fails().await;
    let reason = format!("no process of this plugin listens on 127.0.0.1:{port}");
    assert!(error.contains(&reason), "{error}");
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn a_plugin_that_never_gets_ready_fails_alone() {
    let engine = engine().await;
    let deaf = PluginSettings { ready_timeout: Duration::from_millis(300), ..settings("deaf") };
    let absent =
        PluginSettings { name: "absent".parse().unwrap(), binary: None, ..settings("good") };
    let host = host_of(&engine, vec![deaf, absent]).await.unwrap();
    let error = host.fails().await;
    assert!(error.contains("not ready within 0.3 s"), "{error}");
    let error = soon(async {
        loop {
            match host.show("absent").unwrap().error {
                Some(error) => break error,
                None => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert!(error.contains("qntx-absent-plugin"), "{error}");

    let error = host.restart("nobody").await.unwrap_err().to_string();
    assert_eq!(error, "there is no plugin \"nobody\"; configured are: absent, zoo");
    let twice = host_of(&engine, vec![settings("good"), settings("good")]).await;
    assert!(matches!(twice, Err(HostError::Twice(_))));
}

#[tokio::test]
async fn a_plugin_that_ends_at_once_is_backed_off_from_with_its_last_words() {
    let (_, host) = host("dies").await;
    let backing_off = host.becomes(|shown| shown.state == State::BackingOff).await;
    let error = backing_off.error.unwrap();
    assert!(error.contains("exit status: 3; it last said: no such table"), "{error}");
}

#[tokio::test]
async fn a_crash_costs_no_job() {
    let (engine, host) = host("good").await;
    host.is_ready().await;
    let first = host.show("zoo").unwrap().pid.unwrap();
    let job = engine.enqueue("zoo.do".into(), Arc::from(b"crash".as_slice())).await.unwrap();
    let row = job_ends(&engine, job.id).await;
    assert_eq!((row.state, row.attempts), (JobState::Completed, 2));
    host.is_ready().await;
    assert_ne!(host.show("zoo").unwrap().pid, Some(first));
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn a_restart_is_a_new_process() {
    let (engine, host) = host("good").await;
    host.is_ready().await;
    let first = host.show("zoo").unwrap().pid.unwrap();
    host.restart("zoo").await.unwrap();
    host.becomes(|shown| shown.state != State::Ready).await;
    assert_ne!(host.show("zoo").unwrap().pid, Some(first), "that one is on its way out");
    host.is_ready().await;
    let second = host.show("zoo").unwrap().pid.unwrap();
    assert!(second != first && is_gone(first));
    let job = engine.enqueue("zoo.do".into(), Arc::from(b"hello".as_slice())).await.unwrap();
    assert_eq!(job_ends(&engine, job.id).await.state, JobState::Completed);
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_is_told_by_its_key_and_fails_the_plugin() {
    let engine = engine().await;
    let (host, table) = host_with_table(&engine, "choosy", &[("depth", "x")]).await;
    let problem = "[zoo] depth = \"x\": must be a number";
    assert_eq!(host.fails().await, problem);
    // What could be configured is known although nothing runs.
    let view = host.config("zoo").unwrap();
    assert_eq!((view.has_schema, view.fields.len()), (true, 1));
    let field = &view.fields[0];
    assert_eq!((field.name.as_str(), field.description.as_str()), ("depth", "How deep."));
    assert_eq!((field.value.as_deref(), field.problem.as_deref()), (Some("x"), Some(problem)));
    // It is written as it should be, and a restart reads it.
    let _ = table.written(&[("depth", "2"), ("other", "y")]);
    host.restart("zoo").await.unwrap();
    host.is_ready().await;
    assert_eq!(host.show("zoo").unwrap().handlers, ["called.1", "depth.2", "other.y"]);
    let view = host.config("zoo").unwrap();
    assert_eq!((view.fields[0].problem.as_deref(), view.unknown), (None, vec!["other".to_owned()]));
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn what_can_be_configured_is_shown_without_secrets() {
    let engine = engine().await;
    let mut plugin = settings("choosy");
    plugin.env.insert("GIVEN".into(), "hunter22".into());
    plugin.secrets.insert("hunter22".into());
    let host = host_of(&engine, vec![plugin]).await.unwrap();
    host.is_ready().await;
    assert_eq!(host.config("zoo").unwrap().fields[0].default, "[redacted]");
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn who_does_not_say_what_can_be_configured_runs_all_the_same() {
    let engine = engine().await;
    for mode in ["mumbling", "mute"] {
        let patient = Duration::from_secs(2);
        let mut plugin = PluginSettings { initialize_timeout: patient, ..settings(mode) };
        plugin.config.insert("key".into(), "value".into());
        let host = host_of(&engine, vec![plugin]).await.unwrap();
        host.is_ready().await;
        let view = host.config("zoo").unwrap();
        assert_eq!((view.has_schema, view.values["key"].as_str()), (false, "value"), "{mode}");
        soon(host.shutdown()).await;
    }
}

#[tokio::test]
async fn a_process_is_reconfigured_or_goes_on_as_before() {
    let engine = engine().await;
    let (host, table) = host_with_table(&engine, "choosy", &[("depth", "1")]).await;
    host.is_ready().await;
    let before = host.show("zoo").unwrap();
    let table = table.written(&[("depth", "2")]);
    soon(host.reconfigure("zoo")).await.unwrap();
    let after = host.show("zoo").unwrap();
    assert_eq!(after.handlers, ["called.2", "depth.2"]);
    assert_eq!((after.pid, after.incarnation), (before.pid, before.incarnation));
    let depth = || host.config("zoo").unwrap().values["depth"].clone();
    assert_eq!(depth(), "2");

    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[("depth", "x")], "[zoo] depth = \"x\": must be a number"),
        (&[("refuse", "1")], "I do not want to"),
        (&[], "am.toml:1: it cannot be read"),
    ];
    for (written, reason) in cases {
        let _ = table.clone().written(written);
        let error = soon(host.reconfigure("zoo")).await.unwrap_err();
        assert!(matches!(error, HostRefusal::Configuration { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
        let after = host.show("zoo").unwrap();
        assert_eq!((after.state, after.pid), (State::Ready, before.pid));
        assert_eq!(after.handlers, ["called.2", "depth.2"]);
        assert_eq!(depth(), "2");
    }
    let shown = host.show("zoo").unwrap().error.unwrap();
    assert!(shown.contains("not reconfigured") && shown.contains("I do not want to"), "{shown}");
    // A restart is refused as long as nobody can say what is configured.
    let error = host.restart("zoo").await.unwrap_err().to_string();
    assert!(error.contains("it cannot be read"), "{error}");
    let _ = table.written(&[("depth", "3")]);
    soon(host.reconfigure("zoo")).await.unwrap();
    let after = host.show("zoo").unwrap();
    // The one that was refused for its schema never reached the plugin.
    assert_eq!((after.handlers, after.error), (vec!["called.4".into(), "depth.3".into()], None));
    soon(host.shutdown()).await;
}

/// The time of Initialize ends when it is answered: what is being registered may stand after all.
#[tokio::test]
async fn a_reconfiguration_that_the_engine_is_slow_to_note_is_waited_for() {
    let engine = engine().await;
    let table = Table(Arc::default()).written(&[("depth", "1")]);
    let brief = Duration::from_secs(2);
    let present = table.settings("choosy").unwrap();
    let now = table.clone();
    let settings = HostSettings {
        plugins: vec![PluginSettings { initialize_timeout: brief, ..present }],
        reload: Some(Reload::new(move |_: &PluginName| now.settings("choosy"))),
        ..HostSettings::default()
    };
    let host = PluginHost::start(engine.clone(), settings, our_launcher()).await.unwrap();
    let caller = host.becomes(|shown| shown.state == State::Ready).await.caller.unwrap();
    let turn = caller.announcing().await;
    let _ = table.written(&[("depth", "2")]);
    let mut reconfiguring = Box::pin(host.reconfigure("zoo"));
    assert!(tokio::time::timeout(brief * 2, &mut reconfiguring).await.is_err(), "it is waited for");
    drop(turn);
    soon(reconfiguring).await.unwrap();
    assert_eq!(host.show("zoo").unwrap().handlers, ["called.2", "depth.2"]);
    assert_eq!(host.config("zoo").unwrap().values["depth"], "2");
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn a_process_answers_for_what_was_registered_last() {
    let engine = engine().await;
    let (host, table) = host_with_table(&engine, "choosy", &[("depth", "1")]).await;
    host.is_ready().await;
    // The engine takes nothing of it any more, which its process does not know.
    engine.plugin_disabled("zoo".parse().unwrap(), "user".into()).await.unwrap();
    let _ = table.written(&[("depth", "2")]);
    let error = soon(host.reconfigure("zoo")).await.unwrap_err().to_string();
    assert!(error.contains("is disabled"), "{error}");
    assert_eq!(host.show("zoo").unwrap().handlers, ["called.1", "depth.1"]);
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn a_disabled_plugin_is_down_and_has_nothing_until_it_is_enabled() {
    let engine = engine().await;
    let host = host_of(&engine, vec![settings("good")]).await.unwrap();
    host.is_ready().await;
    let pid = host.show("zoo").unwrap().pid.unwrap();
    soon(host.disable("zoo")).await.unwrap();
    let view = host.show("zoo").unwrap();
    assert_eq!(
        (view.state, view.disabled, view.reason.as_str()),
        (State::Stopped, true, "disabled")
    );
    soon(host.disable("zoo")).await.unwrap();
    host.becomes(|shown| shown.launcher.is_none()).await;
    assert!(is_gone(pid));
    let live = |watchers: Vec<axwatch_core::WatcherView>| {
        let live = watchers.into_iter().filter(|watcher| watcher.row.state == WatcherState::Live);
        live.map(|watcher| (watcher.row.key.to_string(), watcher.row.number)).collect::<Vec<_>>()
    };
    assert_eq!(live(engine.watchers(false).await.unwrap()), []);
    for refused in
        [host.restart("zoo").await, host.reset("zoo").await, host.reconfigure("zoo").await]
    {
        assert!(matches!(refused, Err(HostRefusal::Disabled(_))), "{refused:?}");
    }
    // The next host of the same store knows it too.
    soon(host.shutdown()).await;
    let host = host_of(&engine, vec![settings("good")]).await.unwrap();
    host.becomes(|shown| shown.disabled).await;
    assert_eq!(host.show("zoo").unwrap().pid, None);
    soon(host.enable("zoo")).await.unwrap();
    host.is_ready().await;
    assert_eq!(live(engine.watchers(false).await.unwrap()).len(), 1);
    assert!(!host.show("zoo").unwrap().disabled);
    soon(host.enable("zoo")).await.unwrap();
    soon(host.shutdown()).await;
    let error = host.restart("zoo").await.unwrap_err();
    assert!(matches!(error, HostRefusal::Stopping), "{error:?}");
}

/// What somebody asks for while the disk still writes what was asked for before is not lost.
#[tokio::test]
async fn the_last_of_disable_and_enable_counts() {
    let engine = engine().await;
    let host = host_of(&engine, vec![settings("good")]).await.unwrap();
    host.is_ready().await;
    let zoo: PluginName = "zoo".parse().unwrap();
    let (disabled, enabled) =
        soon(async { tokio::join!(host.disable("zoo"), host.enable("zoo")) }).await;
    assert!(disabled.is_ok() && enabled.is_ok(), "{disabled:?} {enabled:?}");
    assert_eq!(engine.plugin_row(&zoo).unwrap().disabled_at, None);
    let shown = host.becomes(|shown| shown.state == State::Ready && shown.incarnation == 2).await;
    assert!(!shown.disabled);
    // Nor is a process started that will not be wanted.
    let (disabled, restarted) =
        soon(async { tokio::join!(host.disable("zoo"), host.restart("zoo")) }).await;
    assert!(
        disabled.is_ok() && matches!(restarted, Err(HostRefusal::Disabled(_))),
        "{restarted:?}"
    );
    assert!(host.show("zoo").unwrap().disabled);
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn a_reset_that_leaves_the_process_leaves_its_settings() {
    let engine = engine().await;
    let (host, table) = host_with_table(&engine, "choosy", &[("depth", "1")]).await;
    host.is_ready().await;
    let _ = table.written(&[("depth", "2")]);
    soon(host.reset("zoo")).await.unwrap();
    let view = host.show("zoo").unwrap();
    assert_eq!((view.incarnation, view.handlers), (1, vec!["called.1".into(), "depth.1".into()]));
    assert_eq!(host.config("zoo").unwrap().values["depth"], "1");
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn a_failed_plugin_is_tried_again_when_somebody_asks() {
    let (_, host) = host("stranger").await;
    host.fails().await;
    let error = host.reconfigure("zoo").await.unwrap_err();
    assert!(matches!(error, HostRefusal::NotUp { state: State::Failed, .. }), "{error:?}");
    let before = host.show("zoo").unwrap();
    host.reset("zoo").await.unwrap();
    host.becomes(|shown| shown.incarnation > before.incarnation).await;
    host.fails().await;
    assert_eq!(host.show("zoo").unwrap().restarts, 1);
    soon(host.shutdown()).await;
}

/// What the audit tells of the states of plugins.
async fn transitions(engine: &Engine) -> Vec<String> {
    let rows = engine.store().audit_after(LeafNumber(0), 1_000).await.unwrap();
    let records = rows.iter().flat_map(|row| row.records.lines());
    let records = records.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let text = |record: &serde_json::Value, key: &str| {
        record[key].as_str().map_or_else(|| record[key].to_string(), str::to_owned)
    };
    records
        .filter(|record| record["type"] == "plugin_state")
        .map(|record| {
            let [incarnation, from, to, reason] =
                ["incarnation", "from", "to", "reason"].map(|key| text(&record, key));
            format!("{incarnation} {from} → {to}: {reason}")
        })
        .collect()
}

#[tokio::test]
async fn each_state_of_a_plugin_is_in_the_audit() {
    let (engine, host) = host("good").await;
    host.is_ready().await;
    soon(host.shutdown()).await;
    let mut seen = Vec::new();
    soon(async {
        while seen.len() < 3 {
            seen = transitions(&engine).await;
            tokio::task::yield_now().await;
        }
    })
    .await;
    let expected = [
        "1 stopped → starting: launching",
        "1 starting → ready: initialized",
        "1 ready → stopped: stopped on request",
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_plugin_that_uses_too_much_memory_is_ended_and_says_so() {
    let engine = engine().await;
    let hungry = PluginSettings { memory_bytes_max: Some(200 << 20), ..settings("hungry") };
    let host = host_of(&engine, vec![hungry]).await.unwrap();
    let error = host.becomes(|shown| shown.state == State::BackingOff).await.error.unwrap();
    assert!(error.contains("MiB of memory, plugins.zoo.memory_mb allows 200"), "{error}");
    soon(host.shutdown()).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_plugin_that_does_not_want_to_go() {
    let (_, host) = host("stubborn").await;
    host.is_ready().await;
    let launcher = host.becomes(|shown| shown.launcher.is_some()).await.launcher.unwrap();
    let all = crate::plugin::listeners::descendants(launcher);
    assert!(all.len() >= 2, "the plugin and its daemon, not {all:?}");
    let began = std::time::Instant::now();
    soon(host.shutdown()).await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(all.into_iter().chain([launcher]).all(is_gone));
}

#[tokio::test]
async fn a_host_that_is_dropped_leaves_nothing_behind() {
    let (_, host) = host("stubborn").await;
    host.is_ready().await;
    let launcher = host.becomes(|shown| shown.launcher.is_some()).await.launcher.unwrap();
    let all = crate::plugin::listeners::descendants(launcher);
    drop(host);
    soon(async {
        while !all.iter().all(|&pid| is_gone(pid)) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
