//! A plugin as the process that a host starts: its port, its log, its end.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axwatch_proto::protocol::domain_plugin_service_client::DomainPluginServiceClient;
use axwatch_proto::protocol::{Empty, ExecuteJobRequest, InitializeRequest};
use serde_json::Value;
use tonic::transport::Channel;

/// How long anything that has to happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `examples/NAME.rs`, which `cargo test` builds; `cargo test --test sdk` does not.
fn example(name: &str) -> Command {
    let this = std::env::current_exe().expect("a test knows where it lies");
    let target = this.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps");
    let built = target.join("examples").join(name);
    let source = format!("{}/examples/{name}.rs", env!("CARGO_MANIFEST_DIR")).into();
    let modified = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified()).ok();
    assert!(
        modified(&built) >= modified(&source),
        "{} is not there or older than its source: cargo build -p axwatch-sdk --examples",
        built.display()
    );
    let mut command = Command::new(built);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
    command
}

/// A plugin that runs, ended with this value.
struct Running {
    child: Child,
    /// The first line on standard output.
    line: String,
}

impl Running {
    fn start(name: &str, args: &[&str]) -> Running {
        let mut child = example(name).args(args).spawn().expect("the example starts");
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("it is text");
        // Open for as long as the process: nothing more is said there.
        child.stdout = Some(out.into_inner());
        Running { child, line }
    }

    fn port(&self) -> u16 {
        let port = self.line.trim_end().strip_prefix("QNTX_PLUGIN_PORT=");
        port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{:?}", self.line))
    }

    async fn client(&self) -> DomainPluginServiceClient<Channel> {
        let address = format!("http://127.0.0.1:{}", self.port());
        DomainPluginServiceClient::connect(address).await.expect("it listens")
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    }

    /// Reads its log up to the line with these words.
    fn wait_for(&mut self, words: &str) -> Value {
        let err = self.child.stderr.take().expect("it is piped");
        // Byte by byte, so that what follows is still there.
        let mut err = BufReader::with_capacity(1, err);
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(err.read_line(&mut line).expect("it is text"), 0, "no {words:?}");
        }
        self.child.stderr = Some(err.into_inner());
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Waits for its end: exit code, and what it said on standard error.
    fn ended(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut said = String::new();
        let mut err = self.child.stderr.take().expect("it is piped");
        err.read_to_string(&mut said).expect("it is text");
        (status.code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn it_tells_its_port_first_and_ends_with_sigterm() {
    let plugin = Running::start("greet", &["--port", "0"]);
    let mut client = plugin.client().await;
    let metadata = client.metadata(Empty {}).await.unwrap().into_inner();
    assert_eq!(metadata.name, "greet");
    plugin.signal("TERM");
    assert_eq!(plugin.ended(), (Some(0), String::new()));
}

#[tokio::test]
async fn it_takes_the_port_that_it_is_given_and_ends_with_sigint() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let plugin = Running::start("greet", &["--address", &format!("127.0.0.1:{port}")]);
    assert_eq!(plugin.port(), port);
    plugin.signal("INT");
    assert_eq!(plugin.ended().0, Some(0));
}

#[tokio::test]
async fn it_answers_shutdown_and_ends_although_the_connection_stays() {
    let plugin = Running::start("greet", &["--port=0"]);
    let mut client = plugin.client().await;
    client.shutdown(Empty {}).await.unwrap();
    assert_eq!(plugin.ended(), (Some(0), String::new()));
    drop(client);
}

#[tokio::test]
async fn its_log_is_json_that_a_host_understands() {
    let plugin = Running::start("greet", &["--port", "0"]);
    let mut client = plugin.client().await;
    let refused = InitializeRequest { ats_store_endpoint: "no port/".into(), ..Default::default() };
    client.initialize(refused).await.unwrap_err();
    client.initialize(InitializeRequest::default()).await.unwrap();
    let job = ExecuteJobRequest {
        job_id: "7".into(),
        handler_name: "greet.hello".into(),
        ..Default::default()
    };
    let reply = client.execute_job(job).await.unwrap().into_inner();
    assert!(reply.permanent && reply.error.starts_with("payload: no attestation"), "{reply:?}");
    plugin.signal("TERM");
    let (code, said) = plugin.ended();
    assert_eq!(code, Some(0));
    let lines: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let [line] = &lines[..] else { panic!("one line is expected: {said}") };
    assert_eq!(line["level"], "ERROR");
    assert!(line["message"].as_str().unwrap().starts_with("initialize failed: "), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_answered_before_sigterm_ends_it_all() {
    let mut plugin = Running::start("count", &["--port", "0"]);
    let mut client = plugin.client().await;
    client.initialize(InitializeRequest::default()).await.unwrap();
    let count = |to: u64| ExecuteJobRequest {
        job_id: "7".into(),
        handler_name: "count.up".into(),
        payload: format!(r#"{{"to": {to}}}"#).into(),
        attempt: 2,
        ..Default::default()
    };
    let mut other = client.clone();
    let running = tokio::spawn(async move { other.execute_job(count(10)).await });
    let line = plugin.wait_for("counting");
    assert_eq!((line["level"].as_str(), line["to"].as_u64()), (Some("INFO"), Some(10)));
    let job = serde_json::json!({ "name": "job", "id": "7", "handler": "count.up", "attempt": 2 });
    assert_eq!(line["span"], job);
    plugin.signal("TERM");
    let reply = running.await.unwrap().unwrap().into_inner();
    assert!(reply.success && reply.result == "10", "{reply:?}");
    assert_eq!(plugin.ended(), (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_too_long_does_not_hold_the_process() {
    let mut plugin = Running::start("count", &["--port", "0"]);
    let mut client = plugin.client().await;
    client.initialize(InitializeRequest::default()).await.unwrap();
    let request = ExecuteJobRequest {
        handler_name: "count.up".into(),
        payload: r#"{"to": 100000}"#.into(),
        ..Default::default()
    };
    let running = tokio::spawn(async move { client.execute_job(request).await });
    plugin.wait_for("counting");
    let began = Instant::now();
    plugin.signal("TERM");
    let (code, said) = plugin.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("although jobs are running"), "{said}");
    // It takes 2.9 s at most, and a machine may be slow; without that bound it would be over an hour.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    // Told to stop, the job may have got its answer out.
    let _ = running.await.unwrap();
}

#[test]
fn what_is_wrong_is_said_with_an_exit_code() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let in_use = format!("error: cannot listen on 127.0.0.1:{port}: Address already in use");
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--port", &port], 1, &in_use),
        (&[], 2, "error: no port is given"),
        (&["--prot", "1"], 2, "error: unknown argument \"--prot\""),
        (
            &["--port", "x"],
            2,
            "error: --port \"x\" is no port; it must be a number from 0 to 65535",
        ),
    ];
    for (args, code, says) in cases {
        let ended = example("greet").args(args).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.starts_with(says), "{args:?}: no {says:?} in {said:?}");
        assert_eq!(said.contains("Usage: "), code == 2, "{said}");
    }
    let help = example("greet").arg("--help").output().unwrap();
    let said = String::from_utf8_lossy(&help.stdout);
    assert!(help.status.success() && said.starts_with("greet 0.1.0: greets authors"), "{said}");
}
