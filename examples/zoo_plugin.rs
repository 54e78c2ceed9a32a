//! A plugin that misbehaves in one way at a time: what the tests of whole flows run beside the good
//! ones. It knows the wire and nothing of the engine.
//!
//! `zoo_plugin --port N --mode MODE [--name NAME]`, where NAME is by default `zoo`. Its table in
//! `am.toml`, all optional:
//!
//! - `ledger`: a file; each ExecuteJob is one JSON line in it, on the disk before anything else happens
//! - `handlers`: what it announces, by default `["work"]`
//! - `watchers`: what it registers, as tables with the keys of `WatcherRegistration`
//! - `schedules`, `routes`: the same, with the keys of `ScheduleInfo` and `RouteInfo`
//! - `calls`: true; it calls the host back before it answers Initialize
//! - `announce`: a file; once it is there, what it holds as JSON (`handlers`, `watchers`, `schedules`,
//!   `routes`) is announced instead, and the answer is written beside it, with the ending `.answer`
//! - `n`: how often, where a mode says so, by default 2
//! - `ms`: how long, where a mode says so, by default 200
//! - `gate`: a file; mode `gate` answers no job before it is there
//! - `on`: modes that fail jobs fail only those whose payload holds this text
//! - `tokens`: a file; mode `reuses-dead-token` keeps its tokens there
//! - `secs`: the interval of the schedule that mode `pauses-its-schedule` makes, by default 1
//! - `makes`: what mode `relays` makes in a job, as tables: `handler` (only in its jobs), `predicate`,
//!   `copies` (1), `names` (on whose behalf: `job`, the default; `nothing`; `job_of`, the job whose id
//!   stands in the file `job_of`; `first_attempt`, after it has failed; `late`, the job, once it has been
//!   answered and the file `late` is there)

#[path = "zoo/pulse.rs"]
mod pulse;
#[path = "zoo/serves.rs"]
mod serves;
#[path = "zoo/wire.rs"]
mod wire;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axwatch_proto::axwatch::v1::AnnounceRequest;
use axwatch_proto::axwatch::v1::plugin_host_client::PluginHostClient;
use axwatch_proto::protocol::ats_store_service_client::AtsStoreServiceClient;
use axwatch_proto::protocol::domain_plugin_service_server::{
    DomainPluginService, DomainPluginServiceServer,
};
use axwatch_proto::protocol::{
    AttestationCommand, AttestationExistsRequest, AttestationFilter,
    BatchGenerateAttestationRequest, ConfigSchemaResponse, Empty, ExecuteJobRequest,
    ExecuteJobResponse, GenerateAttestationRequest, GetAttestationsRequest, GlyphDefResponse,
    HealthResponse, HttpRequest, HttpResponse, InitializeRequest, InitializeResponse,
    MetadataResponse, ParseAxQueryRequest, ParseAxQueryResponse, RouteInfo, ScheduleInfo,
    WatcherRegistration, WebSocketMessage,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use wire::{Instead, Manner, Replaced};

/// In what way it misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Not at all.
    Good,
    /// Runs and listens nowhere.
    NeverBinds,
    /// Says that it is somebody else.
    WrongName,
    /// Ends in Initialize, with its reason on standard error.
    CrashInInitialize,
    /// Never answers Initialize.
    HangInInitialize,
    /// Answers every connection with bytes that are not gRPC.
    Garbage,
    /// Ends well before it listens.
    Exit0BeforeReady,
    /// Never answers a job.
    HangInExecute,
    /// Answers its first `n` jobs after `ms`.
    SlowFirstN,
    /// Fails a job `n` times, then does it.
    FailNTimesThenSucceed,
    /// Fails jobs and says that they would fail again.
    Permanent,
    /// Puts each job off once, by `ms`.
    NotNow,
    /// Answers RESOURCE_EXHAUSTED once for each job.
    ResourceExhausted,
    /// Ends in the middle of a job.
    ExitInExecute,
    /// Writes much, and all kinds of things, to its output.
    FloodOutput,
    /// Writes its token to its output in several dresses.
    PrintsItsToken,
    /// Listens on every address of the machine.
    BeyondLoopback,
    /// Makes a claim and reads it back before it answers Initialize.
    AttestsDuringInitialize,
    /// Makes the same claim twice in a job, on the job's behalf.
    AttestsInExecute,
    /// Makes a claim in a job, and does not say on whose behalf.
    AttestsUnnamedInExecute,
    /// Calls the host with a wrong token in a job, and gives as its result what it was told.
    WrongTokenInExecute,
    /// Registers watchers of which only the first and the last can stand.
    RefusedWatchers,
    /// Does not say its port.
    NoPortLine,
    /// Does not heed SIGTERM, and has left a daemon behind that does not either.
    IgnoresSigterm,
    /// Never answers Shutdown, and does not heed SIGTERM.
    HangInShutdown,
    /// Answers no job before the file `gate` is there.
    Gate,
    /// Makes claims about whatever the job is about, as `makes` says. With a file `gate`: once it is there.
    Relays,
    /// Takes connections and never says a word on them.
    NeverHandshakes,
    /// Writes a first line of 1 GiB while it does its work.
    EndlessLine,
    /// Wants another version of the protocol.
    WrongVersion,
    /// Never answers Health.
    HangInHealth,
    /// Says that it is not healthy, with control characters and markup.
    Unhealthy,
    /// Answers jobs with 64 MiB.
    HugeResult,
    /// Answers jobs with nearly as much as an answer may have.
    LargeResult,
    /// Asks in a job for large parts of the log, many at the same time.
    ReadsMuch,
    /// Ends in the middle of a job, as if all were well.
    Exit0InExecute,
    /// Is ended by a segmentation fault in the middle of a job.
    Segfault,
    /// Takes memory in a job until somebody ends it.
    Allocates,
    /// Writes to its output all the time, as fast as it is read.
    FloodsOutput,
    /// Makes claims all the time, as fast as they are taken, that no job asked for.
    FloodsClaims,
    /// Registers 20,000 watchers.
    FloodsWatchers,
    /// Registers a watcher on a million predicates.
    MillionPredicates,
    /// Stands still as a whole from its first job on.
    StopsReading,
    /// Sends each byte by itself.
    OneByteFrames,
    /// Fails jobs with control characters and markup in its error.
    NastyErrors,
    /// Answers jobs with bytes that are no text where a text must be.
    InvalidUtf8,
    /// Answers each job twice.
    AnswersTwice,
    /// Calls the host in a job with the token of its first process, which it keeps in the file `tokens`;
    /// its result is what it was told.
    ReusesDeadToken,
    /// Closes its connections under the calls, a thousand of them.
    ReopensSocket,
    /// Takes a second Initialize, and announces what that says.
    Reconfigurable,
    /// Serves HTTP and sockets, as their paths say (`zoo/serves.rs`).
    Serves,
    /// Tells in a job how far it is, in `n` steps each `ms` apart, and has costs and something to say.
    TellsProgress,
    /// Makes a schedule for its first handler before it answers Initialize, and pauses it in its `n`-th job; its
    /// result is what it was told.
    PausesItsSchedule,
}

impl Mode {
    fn named(name: &str) -> Option<Mode> {
        Some(match name {
            "good" => Mode::Good,
            "never-binds" => Mode::NeverBinds,
            "wrong-name" => Mode::WrongName,
            "crash-in-initialize" => Mode::CrashInInitialize,
            "hang-in-initialize" => Mode::HangInInitialize,
            "garbage" => Mode::Garbage,
            "exit-0-before-ready" => Mode::Exit0BeforeReady,
            "hang-in-execute" => Mode::HangInExecute,
            "slow-first-n" => Mode::SlowFirstN,
            "fail-n-times-then-succeed" => Mode::FailNTimesThenSucceed,
            "permanent" => Mode::Permanent,
            "not-now" => Mode::NotNow,
            "resource-exhausted" => Mode::ResourceExhausted,
            "exit-in-execute" => Mode::ExitInExecute,
            "flood-output" => Mode::FloodOutput,
            "prints-its-token" => Mode::PrintsItsToken,
            "beyond-loopback" => Mode::BeyondLoopback,
            "attests-during-initialize" => Mode::AttestsDuringInitialize,
            "attests-in-execute" => Mode::AttestsInExecute,
            "attests-unnamed-in-execute" => Mode::AttestsUnnamedInExecute,
            "wrong-token-in-execute" => Mode::WrongTokenInExecute,
            "refused-watchers" => Mode::RefusedWatchers,
            "no-port-line" => Mode::NoPortLine,
            "ignores-sigterm" => Mode::IgnoresSigterm,
            "hang-in-shutdown" => Mode::HangInShutdown,
            "gate" => Mode::Gate,
            "relays" => Mode::Relays,
            "never-handshakes" => Mode::NeverHandshakes,
            "endless-line" => Mode::EndlessLine,
            "wrong-version" => Mode::WrongVersion,
            "hang-in-health" => Mode::HangInHealth,
            "unhealthy" => Mode::Unhealthy,
            "huge-result" => Mode::HugeResult,
            "large-result" => Mode::LargeResult,
            "reads-much" => Mode::ReadsMuch,
            "exit-0-in-execute" => Mode::Exit0InExecute,
            "segfault" => Mode::Segfault,
            "allocates" => Mode::Allocates,
            "floods-output" => Mode::FloodsOutput,
            "floods-claims" => Mode::FloodsClaims,
            "floods-watchers" => Mode::FloodsWatchers,
            "million-predicates" => Mode::MillionPredicates,
            "stops-reading" => Mode::StopsReading,
            "one-byte-frames" => Mode::OneByteFrames,
            "nasty-errors" => Mode::NastyErrors,
            "invalid-utf8" => Mode::InvalidUtf8,
            "answers-twice" => Mode::AnswersTwice,
            "reuses-dead-token" => Mode::ReusesDeadToken,
            "reopens-socket" => Mode::ReopensSocket,
            "reconfigurable" => Mode::Reconfigurable,
            "serves" => Mode::Serves,
            "tells-progress" => Mode::TellsProgress,
            "pauses-its-schedule" => Mode::PausesItsSchedule,
            _ => return None,
        })
    }

    fn manner(self) -> Manner {
        match self {
            Mode::OneByteFrames => Manner::ByteByByte,
            Mode::ReopensSocket => Manner::Closing,
            _ => Manner::Well,
        }
    }

    /// What is said instead of the answer to a job. As protobuf, field 1 is `success`, 2 the error.
    fn instead(self) -> Option<Instead> {
        let messages: &[&[u8]] = match self {
            Mode::InvalidUtf8 => &[b"\x08\x00\x12\x03\xff\xfe\xfd"],
            Mode::AnswersTwice => &[b"\x08\x01", b"\x08\x00\x12\x06second"],
            _ => return None,
        };
        Some(Instead { call: "ExecuteJob", messages })
    }
}

struct Args {
    port: u16,
    mode: Mode,
    name: String,
}

impl Args {
    fn read() -> Result<Args, String> {
        let mut args = Args { port: 0, mode: Mode::Good, name: "zoo".to_owned() };
        let mut words = std::env::args().skip(1);
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--port" => args.port = value.parse().map_err(|_| format!("{value} is no port"))?,
                "--mode" => {
                    args.mode = Mode::named(&value).ok_or_else(|| format!("no mode {value:?}"))?;
                }
                "--name" => args.name = value,
                _ => return Err(format!("no flag {flag:?}")),
            }
        }
        Ok(args)
    }
}

#[tokio::main]
async fn main() {
    let args = Args::read().unwrap_or_else(|problem| {
        eprintln!("zoo_plugin: {problem}");
        exit(2);
    });
    if matches!(args.mode, Mode::IgnoresSigterm | Mode::HangInShutdown) {
        ignore_sigterm();
    }
    if args.mode == Mode::IgnoresSigterm {
        leave_a_daemon();
    }
    match args.mode {
        Mode::NeverBinds => std::future::pending().await,
        Mode::Exit0BeforeReady => exit(0),
        _ => {}
    }
    let host =
        if args.mode == Mode::BeyondLoopback { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    let address = SocketAddr::from((host, args.port));
    let listener = TcpListener::bind(address).await.unwrap_or_else(|error| {
        eprintln!("cannot listen on {address}: {error}");
        exit(1);
    });
    if !matches!(args.mode, Mode::NoPortLine | Mode::EndlessLine) {
        println!("QNTX_PLUGIN_PORT={}", listener.local_addr().map_or(args.port, |at| at.port()));
    }
    if args.mode == Mode::Garbage {
        match answer_garbage(listener).await {}
    }
    match args.mode {
        Mode::FloodOutput => flood(),
        Mode::NeverHandshakes => match take_and_hold(listener).await {},
        Mode::EndlessLine => drop(std::thread::spawn(|| write_blocks(1024))),
        Mode::FloodsOutput => drop(std::thread::spawn(flood_for_ever)),
        _ => {}
    }
    let (mode, zoo) = (args.mode, Zoo::new(args.mode, args.name));
    let inner = DomainPluginServiceServer::new(zoo).max_decoding_message_size(256 << 20);
    let served = Server::builder()
        .add_service(Replaced { inner, instead: mode.instead() })
        .serve_with_incoming(wire::incoming(listener, mode.manner()));
    if let Err(error) = served.await {
        eprintln!("cannot serve: {error}");
        exit(1);
    }
}

/// From here on SIGTERM is taken and nothing is done about it.
fn ignore_sigterm() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("a handler can be set");
    tokio::spawn(async move { while terminate.recv().await.is_some() {} });
}

/// A process of its own session, whose parent has ended, and which no SIGTERM ends.
fn leave_a_daemon() {
    let daemon = r#"(setsid sh -c 'trap "" TERM HUP INT; exec sleep 600' &)"#;
    let left = Command::new("sh").args(["-c", daemon]).stdin(Stdio::null()).status();
    left.expect("sh and setsid are there");
}

async fn answer_garbage(listener: TcpListener) -> Infallible {
    use tokio::io::AsyncWriteExt as _;
    loop {
        if let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        }
    }
}

/// Takes every connection and reads nothing of it.
async fn take_and_hold(listener: TcpListener) -> Infallible {
    let mut held = Vec::new();
    loop {
        held.extend(listener.accept().await);
    }
}

/// Writes so many MiB without the end of a line.
fn write_blocks(blocks: usize) {
    let block = vec![b'x'; 1024 * 1024];
    let mut out = std::io::stdout().lock();
    for _ in 0..blocks {
        if out.write_all(&block).is_err() {
            return;
        }
    }
    let _ = out.write_all(b"\n");
}

fn flood_for_ever() {
    let mut out = std::io::stdout().lock();
    let lines = "a line of a flood that does not end\n".repeat(1_000);
    while out.write_all(lines.as_bytes()).is_ok() {}
}

/// A line without end, many lines, control characters, bytes that are no text, JSON with a level.
fn flood() {
    let mut out = std::io::stdout().lock();
    let long = vec![b'x'; 1024 * 1024];
    let _ = out.write_all(&long);
    let _ = out.write_all(b"\n\x1b[31mred\x1b[0m \x1b]0;title\x07\x08\x08\xff\xfe\n");
    let _ = out.write_all(br#"{"level":"error","message":"a line with a level"}"#);
    for number in 0..20_000 {
        let _ = write!(out, "\nline {number} of a flood that nobody asked for");
    }
    let _ = out.write_all(b"\n");
    let _ = out.flush();
}

/// What was configured, and how calls back are made.
struct Host {
    endpoint: String,
    queue_endpoint: String,
    schedule_endpoint: String,
    host_endpoint: String,
    token: String,
    config: HashMap<String, String>,
    ledger: Option<Ledger>,
}

impl Host {
    fn of(request: InitializeRequest) -> Host {
        let ledger = request.config.get("ledger").map(|path| Ledger::open(Path::new(path)));
        Host {
            endpoint: request.ats_store_endpoint,
            queue_endpoint: request.queue_endpoint,
            schedule_endpoint: request.schedule_endpoint,
            host_endpoint: request.host_endpoint,
            token: request.auth_token,
            config: request.config,
            ledger,
        }
    }

    fn list(&self, key: &str) -> Vec<Value> {
        let text = self.config.get(key).map_or("[]", String::as_str);
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{key} is no JSON list: {error}"))
    }

    fn number(&self, key: &str, otherwise: u64) -> u64 {
        let given = self.config.get(key);
        given.map_or(otherwise, |text| text.parse().expect("a whole number"))
    }

    fn n(&self) -> u32 {
        u32::try_from(self.number("n", 2)).expect("a small number")
    }

    fn ms(&self) -> u64 {
        self.number("ms", 200)
    }

    async fn client(&self) -> Result<AtsStoreServiceClient<Channel>, Status> {
        AtsStoreServiceClient::connect(format!("http://{}", self.endpoint))
            .await
            .map_err(|error| Status::unavailable(format!("the host is not there: {error}")))
    }

    /// A call that changes nothing.
    async fn call_back(&self) -> Result<(), Status> {
        let (auth_token, id) = (self.token.clone(), "whatever".to_owned());
        let request = AttestationExistsRequest { auth_token, id };
        self.client().await?.attestation_exists(request).await.map(drop)
    }

    /// Asks for as many claims as `n` says, 60 times at once. Answers how many came.
    async fn read_much(&self) -> Result<usize, Status> {
        let client = self.client().await?;
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..60 {
            let limit = Some(self.n().cast_signed());
            let filter = Some(AttestationFilter { limit, ..Default::default() });
            let auth_token = self.token.clone();
            let request = GetAttestationsRequest { auth_token, filter, ..Default::default() };
            let mut client = client.clone();
            asked.spawn(async move {
                let reply = client.get_attestations(request).await?.into_inner();
                if reply.success { Ok(reply) } else { Err(Status::internal(reply.error)) }
            });
        }
        let mut read = 0;
        while let Some(reply) = asked.join_next().await {
            read += reply.map_err(|error| Status::internal(error.to_string()))??.attestations.len();
        }
        Ok(read)
    }

    /// Waits for the file under this key, if one is configured.
    async fn wait_for(&self, key: &str) {
        let Some(file) = self.config.get(key).map(PathBuf::from) else { return };
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes a claim and answers with its id.
    async fn attest(&self, token: &str, command: AttestationCommand) -> Result<String, Status> {
        let request =
            GenerateAttestationRequest { auth_token: token.to_owned(), command: Some(command) };
        let reply = self.client().await?.generate_and_create_attestation(request).await?;
        let reply = reply.into_inner();
        match reply.attestation {
            Some(attestation) if reply.success => Ok(attestation.id),
            _ => Err(Status::internal(reply.error)),
        }
    }
}

/// The file in which every ExecuteJob is written down before it is answered. Lines that come together
/// share a sync.
struct Ledger {
    lines: mpsc::Sender<(String, oneshot::Sender<()>)>,
}

impl Ledger {
    fn open(path: &Path) -> Ledger {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).open(path).expect("a ledger");
        // A process that was killed may have left a line without its end.
        if !is_at_a_line(path) {
            file.write_all(b"\n").expect("a ledger on a disk");
        }
        let (lines, waiting) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok(first) = waiting.recv() {
                write_down(&mut file, std::iter::once(first).chain(waiting.try_iter()));
            }
        });
        Ledger { lines }
    }

    async fn append(&self, line: String) {
        let (written, is_written) = oneshot::channel();
        self.lines.send((line, written)).expect("the ledger's thread lives as long as we do");
        is_written.await.expect("a line is answered once it is on the disk");
    }
}

fn is_at_a_line(path: &Path) -> bool {
    std::fs::read(path).expect("a ledger").last().is_none_or(|byte| *byte == b'\n')
}

fn write_down(file: &mut File, lines: impl Iterator<Item = (String, oneshot::Sender<()>)>) {
    let (mut text, mut waiting) = (String::new(), Vec::new());
    for (line, written) in lines {
        text.push_str(&line);
        text.push('\n');
        waiting.push(written);
    }
    file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).expect("a ledger on a disk");
    for written in waiting {
        let _ = written.send(());
    }
}

struct Zoo {
    mode: Mode,
    name: String,
    began: Instant,
    host: Arc<OnceLock<Host>>,
    jobs: AtomicU32,
    /// How often each job came.
    seen: Mutex<HashMap<String, u32>>,
}

impl Zoo {
    fn new(mode: Mode, name: String) -> Zoo {
        Zoo {
            mode,
            name,
            began: Instant::now(),
            host: Arc::default(),
            jobs: AtomicU32::new(0),
            seen: Mutex::default(),
        }
    }

    fn host(&self) -> Result<&Host, Status> {
        self.host.get().ok_or_else(|| Status::failed_precondition("not initialised"))
    }

    async fn write_down(&self, host: &Host, job: &ExecuteJobRequest) {
        let Some(ledger) = &host.ledger else { return };
        let payload: Value = serde_json::from_slice(&job.payload).unwrap_or_default();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_nanos());
        let line = json!({
            "plugin": self.name,
            "pid": std::process::id(),
            "job_id": job.job_id,
            "attempt": job.attempt,
            "watcher": job.watcher,
            "revision": job.revision,
            "handler": job.handler_name,
            "payload_id": payload["id"],
            "mono_ns": u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX),
            "at_ns": u64::try_from(wall).unwrap_or(u64::MAX),
        });
        ledger.append(line.to_string()).await;
    }

    /// How often this job has come by now.
    fn count(&self, job: &ExecuteJobRequest) -> u32 {
        let mut seen = self.seen.lock().expect("nobody panics while counting");
        let times = seen.entry(job.job_id.clone()).or_insert(0);
        *times += 1;
        *times
    }

    async fn execute(&self, job: &ExecuteJobRequest) -> Result<ExecuteJobResponse, Status> {
        let host = self.host()?;
        self.write_down(host, job).await;
        let times = self.count(job);
        let is_meant = host
            .config
            .get("on")
            .is_none_or(|text| String::from_utf8_lossy(&job.payload).contains(text.as_str()));
        if !is_meant {
            return Ok(done("passed by"));
        }
        match self.mode {
            Mode::HangInExecute => std::future::pending().await,
            Mode::Gate => host.wait_for("gate").await,
            Mode::Relays => return self.relay(job, times).await,
            Mode::TellsProgress => return pulse::tell_progress(host, job).await,
            Mode::PausesItsSchedule
                if self.jobs.fetch_add(1, Ordering::Relaxed) + 1 == host.n() =>
            {
                return Ok(done(&pulse::pause_schedule(host, &job.handler_name).await?));
            }
            Mode::SlowFirstN if self.jobs.fetch_add(1, Ordering::Relaxed) < host.n() => {
                tokio::time::sleep(Duration::from_millis(host.ms())).await;
            }
            Mode::FailNTimesThenSucceed if times <= host.n() => {
                return Ok(failed("not yet", times));
            }
            Mode::Permanent => {
                return Ok(ExecuteJobResponse { permanent: true, ..failed("never", times) });
            }
            Mode::NotNow if times == 1 => {
                let retry_after_ms = i64::try_from(host.ms()).unwrap_or(i64::MAX);
                return Ok(ExecuteJobResponse { retry_after_ms, ..failed("later", times) });
            }
            Mode::ResourceExhausted if times == 1 => {
                return Err(Status::resource_exhausted("too much to do"));
            }
            Mode::Exit0InExecute => exit(0),
            Mode::Segfault => {
                rustix::process::kill_process(rustix::process::getpid(), Signal::SEGV)
                    .expect("a process may end itself");
                std::future::pending().await
            }
            Mode::StopsReading => {
                rustix::process::kill_process(rustix::process::getpid(), Signal::STOP)
                    .expect("a process may stop itself");
                // This thread may go on for a moment.
                std::future::pending().await
            }
            Mode::Allocates => match take_memory().await {},
            Mode::HugeResult => {
                let result = vec![7; 64 * 1024 * 1024].into();
                return Ok(ExecuteJobResponse { result, ..done("") });
            }
            Mode::LargeResult => {
                let result = vec![7; 8_200_000].into();
                return Ok(ExecuteJobResponse { result, ..done("") });
            }
            Mode::ReadsMuch => {
                let read = host.read_much().await?;
                return Ok(done(&read.to_string()));
            }
            Mode::NastyErrors => return Ok(failed(NASTY, times)),
            Mode::ReusesDeadToken => {
                let file = host.config.get("tokens").expect("tokens is a file");
                let tokens = std::fs::read_to_string(file).expect("the file of tokens is there");
                let first = tokens.lines().next().expect("the first process had a token");
                let told = host.attest(first, claim(&self.name, "dead")).await;
                return Ok(done(
                    &told.map_or_else(|error| error.message().to_owned(), |_| "taken".into()),
                ));
            }
            Mode::ExitInExecute => {
                eprintln!("something broke in the middle of {}", job.job_id);
                exit(7);
            }
            Mode::AttestsInExecute => return self.attest_twice(host, job).await,
            Mode::AttestsUnnamedInExecute => {
                let id = host.attest(&host.token, claim(&job.job_id, "made_unnamed")).await?;
                return Ok(done(&id));
            }
            Mode::WrongTokenInExecute => {
                let refused = host.attest("not-the-token", claim(&job.job_id, "forged")).await;
                return Ok(done(
                    refused.err().map_or_else(String::new, |e| e.message().to_owned()).as_str(),
                ));
            }
            _ => {}
        }
        Ok(done("done"))
    }

    async fn attest_twice(
        &self,
        host: &Host,
        job: &ExecuteJobRequest,
    ) -> Result<ExecuteJobResponse, Status> {
        let mut ids = Vec::new();
        for _ in 0..2 {
            let command = AttestationCommand {
                job_id: job.job_id.clone(),
                attempt: job.attempt,
                ..claim("result", "made")
            };
            ids.push(host.attest(&host.token, command).await?);
        }
        // The first attempt fails after it has made its claims; the second makes them again.
        if job.attempt == 1 {
            return Ok(failed("after the claims", 1));
        }
        Ok(done(&ids.join(" ")))
    }

    /// Makes what is to be made in a job; its result is what became of each, in a word or as an id.
    async fn relay(
        &self,
        job: &ExecuteJobRequest,
        times: u32,
    ) -> Result<ExecuteJobResponse, Status> {
        let host = self.host()?;
        host.wait_for("gate").await;
        let mut told = Vec::new();
        for rule in host.list("makes").iter().map(Relayed::of) {
            if rule.handler.as_ref().is_some_and(|handler| *handler != job.handler_name) {
                continue;
            }
            if rule.names == "first_attempt" && times == 1 {
                return Ok(failed("the next attempt makes it", times));
            }
            for copy in 0..rule.copies {
                let command = rule.command(host, job, copy);
                if rule.names == "late" {
                    tokio::spawn(make_late(Arc::clone(&self.host), command));
                } else {
                    let made = host.attest(&host.token, command).await;
                    told.push(made.unwrap_or_else(|error| error.message().to_owned()));
                }
            }
        }
        Ok(done(&told.join("\n")))
    }

    fn handlers(host: &Host) -> Vec<String> {
        let given = host.list("handlers");
        if given.is_empty() {
            return vec!["work".to_owned()];
        }
        given.iter().map(|name| name.as_str().expect("handlers are texts").to_owned()).collect()
    }

    /// Makes a claim and finds it again, all before Initialize is answered.
    async fn attest_early(&self, host: &Host) -> Result<(), Status> {
        let id = host.attest(&host.token, claim(&self.name, "was_initialised")).await?;
        let filter = AttestationFilter {
            subjects: vec![self.name.clone()],
            predicates: vec!["was_initialised".to_owned()],
            ..AttestationFilter::default()
        };
        let request = GetAttestationsRequest {
            auth_token: host.token.clone(),
            filter: Some(filter),
            ..GetAttestationsRequest::default()
        };
        let reply = host.client().await?.get_attestations(request).await?.into_inner();
        match reply.attestations.first() {
            Some(newest) if newest.id == id => Ok(()),
            _ => Err(Status::internal(format!("{id} is not the newest claim about us"))),
        }
    }

    fn print_token(token: &str) {
        let (first, rest) = token.split_at(token.len() / 2);
        println!("InitializeRequest {{ auth_token: {token:?} }}");
        println!("{}", json!({ "level": "info", "message": "initialised", "token": token }));
        println!("\x1b[32mtoken\x1b[0m={first}\x1b[0m{rest}");
        eprintln!("{}{token}", "x".repeat(70_000 - 20));
        eprintln!("token {token} token {token}");
    }
}

/// What is made in jobs, as the configuration has it.
struct Relayed {
    handler: Option<String>,
    predicate: String,
    copies: u64,
    names: String,
}

impl Relayed {
    fn of(table: &Value) -> Relayed {
        Relayed {
            handler: table["handler"].as_str().map(str::to_owned),
            predicate: table["predicate"].as_str().expect("makes needs a predicate").to_owned(),
            copies: table["copies"].as_u64().unwrap_or(1),
            names: table["names"].as_str().unwrap_or("job").to_owned(),
        }
    }

    /// A claim about what the job is about. Several of one job differ.
    fn command(&self, host: &Host, job: &ExecuteJobRequest, copy: u64) -> AttestationCommand {
        let payload: Value = serde_json::from_slice(&job.payload).unwrap_or_default();
        let subject = payload["subjects"][0].as_str().unwrap_or("nobody");
        let named = match self.names.as_str() {
            "nothing" => (String::new(), 0),
            "job_of" => {
                let file = host.config.get("job_of").expect("job_of is a file");
                let id = std::fs::read_to_string(file).expect("the file job_of is there");
                (id.trim().to_owned(), 0)
            }
            "first_attempt" => (job.job_id.clone(), 1),
            _ => (job.job_id.clone(), job.attempt),
        };
        AttestationCommand {
            contexts: vec![format!("copy-{copy}")],
            job_id: named.0,
            attempt: named.1,
            ..claim(subject, &self.predicate)
        }
    }
}

/// Makes a claim on behalf of a job that has been answered.
async fn make_late(host: Arc<OnceLock<Host>>, command: AttestationCommand) {
    let host = host.get().expect("whoever has a job is initialised");
    host.wait_for("late").await;
    if let Err(error) = host.attest(&host.token, command).await {
        eprintln!("a late claim was not made: {error}");
    }
}

/// Red, a bell, a title, a line of its own, markup, and a character that takes no room.
const NASTY: &str =
    "\x1b[31mred\x07\x1b]0;owned\x07\r\nINFO forged line <script>alert(1)</script>\u{202e}";

/// Takes memory, and touches it, until somebody ends this process.
async fn take_memory() -> Infallible {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; 8 * 1024 * 1024]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes claims that no job asked for, in batches, as fast as they are taken.
async fn flood_claims(host: Arc<OnceLock<Host>>) {
    let host = host.get().expect("whoever floods is initialised");
    let Ok(mut client) = host.client().await else { return };
    for turn in 0_u64.. {
        let about = |n: u64| claim(&format!("flood-{turn}-{n}"), "flooded");
        let commands = (0..1_000).map(about).collect();
        let request = BatchGenerateAttestationRequest { auth_token: host.token.clone(), commands };
        if client.batch_generate_and_create_attestations(request).await.is_err() {
            return;
        }
    }
}

fn many_watchers() -> Vec<WatcherRegistration> {
    let watcher = |n: u32| {
        registration(&json!({ "id": format!("many-{n}"), "predicates": [format!("never-{n}")] }))
    };
    (0..20_000).map(watcher).collect()
}

fn million_predicates() -> Vec<WatcherRegistration> {
    let predicates = (0..1_000_000).map(|n| format!("p{n}")).collect();
    let few = registration(&json!({ "id": "million", "predicates": ["one"] }));
    vec![WatcherRegistration { predicates, ..few }]
}

fn claim(subject: &str, predicate: &str) -> AttestationCommand {
    AttestationCommand {
        subjects: vec![subject.to_owned()],
        predicates: vec![predicate.to_owned()],
        ..AttestationCommand::default()
    }
}

fn done(result: &str) -> ExecuteJobResponse {
    ExecuteJobResponse {
        success: true,
        result: result.as_bytes().to_vec().into(),
        ..ExecuteJobResponse::default()
    }
}

fn failed(error: &str, times: u32) -> ExecuteJobResponse {
    ExecuteJobResponse { error: format!("{error} ({times})"), ..ExecuteJobResponse::default() }
}

/// A registration as the configuration has it.
fn registration(table: &Value) -> WatcherRegistration {
    let text = |key: &str| table[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| {
        let terms = table[key].as_array().map_or(&[][..], Vec::as_slice);
        terms.iter().map(|term| term.as_str().expect("terms are texts").to_owned()).collect()
    };
    let rate = table["max_fires_per_second"].as_i64().unwrap_or(0);
    WatcherRegistration {
        id: text("id"),
        handler_name: table["handler_name"].as_str().unwrap_or("work").to_owned(),
        subjects: list("subjects"),
        predicates: list("predicates"),
        contexts: list("contexts"),
        actors: list("actors"),
        max_fires_per_second: i32::try_from(rate).expect("a rate fits into its field"),
        max_chain: i32::try_from(table["max_chain"].as_i64().unwrap_or(0)).expect("a small number"),
        since: text("since"),
        ax: text("ax"),
        ..WatcherRegistration::default()
    }
}

fn schedule(table: &Value) -> ScheduleInfo {
    let text = |key: &str| table[key].as_str().unwrap_or_default().to_owned();
    let interval = table["interval_seconds"].as_i64().unwrap_or(0);
    ScheduleInfo {
        handler_name: table["handler_name"].as_str().unwrap_or("work").to_owned(),
        interval_seconds: i32::try_from(interval).expect("an interval fits into its field"),
        enabled_by_default: table["enabled_by_default"].as_bool().unwrap_or(true),
        description: text("description"),
        ats_code: text("ats_code"),
        id: text("id"),
    }
}

fn route(table: &Value) -> RouteInfo {
    let text = |key: &str| table[key].as_str().unwrap_or_default().to_owned();
    RouteInfo { method: text("method"), path: text("path"), description: text("description") }
}

/// Waits for a file, announces what it says, and writes the answer beside it.
async fn announce(endpoint: String, token: String, file: PathBuf) {
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let text = std::fs::read_to_string(&file).expect("what is to be announced");
    let said: Value = serde_json::from_str(&text).expect("JSON");
    let list = |key: &str| said[key].as_array().cloned().unwrap_or_default();
    let announcement = InitializeResponse {
        handler_names: (list("handlers").iter())
            .map(|name| name.as_str().expect("a name").to_owned())
            .collect(),
        watchers: list("watchers").iter().map(registration).collect(),
        schedules: list("schedules").iter().map(schedule).collect(),
        http_routes: list("routes").iter().map(route).collect(),
        ..Default::default()
    };
    let request = AnnounceRequest { auth_token: token, announcement: Some(announcement) };
    let host = PluginHostClient::connect(format!("http://{endpoint}")).await;
    let reply = host.expect("the host is there").announce(request).await;
    let answer = match reply.map(Response::into_inner) {
        Ok(reply) => {
            json!({ "success": reply.success, "error": reply.error, "refused": reply.refused })
        }
        Err(status) => json!({ "status": status.to_string() }),
    };
    let beside = file.with_extension("answer");
    std::fs::write(&beside, answer.to_string()).expect("an answer can be written");
}

/// One of each kind that cannot stand, between two that can.
fn refused_watchers() -> Vec<WatcherRegistration> {
    let good = |id: &str| registration(&json!({ "id": id, "predicates": ["stands"] }));
    vec![
        good("first"),
        WatcherRegistration {
            id: "empty".into(),
            handler_name: "work".into(),
            ..Default::default()
        },
        WatcherRegistration { handler_name: "elsewhere".into(), ..good("foreign-handler") },
        WatcherRegistration { max_fires_per_second: -1, ..good("negative-rate") },
        WatcherRegistration { max_fires_per_second: 100_001, ..good("excessive-rate") },
        WatcherRegistration { ax: "is is".into(), ..good("bad-ax") },
        WatcherRegistration { params: b"[1]".to_vec(), ..good("bad-params") },
        good("first"),
        good("last"),
    ]
}

#[tonic::async_trait]
impl DomainPluginService for Zoo {
    async fn metadata(&self, _: Request<Empty>) -> Result<Response<MetadataResponse>, Status> {
        let name = if self.mode == Mode::WrongName { "somebody-else" } else { &self.name };
        let wanted = if self.mode == Mode::WrongVersion { ">= 99.0.0" } else { "" };
        Ok(Response::new(MetadataResponse {
            name: name.to_owned(),
            qntx_version: wanted.to_owned(),
            version: "1.2.3".to_owned(),
            ..MetadataResponse::default()
        }))
    }

    async fn initialize(
        &self,
        request: Request<InitializeRequest>,
    ) -> Result<Response<InitializeResponse>, Status> {
        let told = request.into_inner();
        if self.mode == Mode::Reconfigurable && self.host.get().is_some() {
            let handler_names = Zoo::handlers(&Host::of(told));
            return Ok(Response::new(InitializeResponse { handler_names, ..Default::default() }));
        }
        if self.host.set(Host::of(told)).is_err() {
            return Err(Status::failed_precondition("Initialize came twice"));
        }
        let host = self.host()?;
        let mut watchers: Vec<_> = host.list("watchers").iter().map(registration).collect();
        match self.mode {
            Mode::CrashInInitialize => {
                eprintln!("cannot open my database");
                exit(3);
            }
            Mode::HangInInitialize => std::future::pending().await,
            Mode::AttestsDuringInitialize => self.attest_early(host).await?,
            Mode::PausesItsSchedule => {
                let handlers = Zoo::handlers(host);
                pulse::make_schedule(host, &handlers[0]).await?;
            }
            Mode::PrintsItsToken => Zoo::print_token(&host.token),
            Mode::RefusedWatchers => watchers = refused_watchers(),
            Mode::FloodsWatchers => watchers.extend(many_watchers()),
            Mode::MillionPredicates => watchers.extend(million_predicates()),
            Mode::FloodsClaims => drop(tokio::spawn(flood_claims(Arc::clone(&self.host)))),
            Mode::ReusesDeadToken => {
                let file = host.config.get("tokens").expect("tokens is a file");
                let mut file =
                    OpenOptions::new().append(true).create(true).open(file).expect("a file");
                writeln!(file, "{}", host.token).expect("a line can be written");
            }
            _ => {}
        }
        if host.config.get("calls").is_some_and(|calls| calls == "true") {
            host.call_back().await?;
        }
        if let Some(file) = host.config.get("announce").map(PathBuf::from) {
            tokio::spawn(announce(host.host_endpoint.clone(), host.token.clone(), file));
        }
        Ok(Response::new(InitializeResponse {
            handler_names: Zoo::handlers(host),
            watchers,
            schedules: host.list("schedules").iter().map(schedule).collect(),
            http_routes: host.list("routes").iter().map(route).collect(),
            ..Default::default()
        }))
    }

    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        if self.mode == Mode::HangInShutdown {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(Empty {}))
    }

    async fn execute_job(
        &self,
        request: Request<ExecuteJobRequest>,
    ) -> Result<Response<ExecuteJobResponse>, Status> {
        Ok(Response::new(self.execute(&request.into_inner()).await?))
    }

    async fn health(&self, _: Request<Empty>) -> Result<Response<HealthResponse>, Status> {
        match self.mode {
            Mode::HangInHealth => std::future::pending().await,
            Mode::Unhealthy => {
                let message = NASTY.to_owned();
                Ok(Response::new(HealthResponse { message, ..HealthResponse::default() }))
            }
            _ => Ok(Response::new(HealthResponse { healthy: true, ..HealthResponse::default() })),
        }
    }

    async fn handle_http(
        &self,
        request: Request<HttpRequest>,
    ) -> Result<Response<HttpResponse>, Status> {
        match self.mode {
            Mode::Serves => Ok(Response::new(serves::http(request.into_inner()).await?)),
            _ => Err(Status::unimplemented("no HTTP here")),
        }
    }

    type HandleWebSocketStream = serves::Frames;

    async fn handle_web_socket(
        &self,
        request: Request<Streaming<WebSocketMessage>>,
    ) -> Result<Response<Self::HandleWebSocketStream>, Status> {
        if self.mode != Mode::Serves {
            return Err(Status::unimplemented("no WebSocket here"));
        }
        let room = request.metadata().get("room").and_then(|room| room.to_str().ok());
        let room = room.unwrap_or("no room").to_owned();
        Ok(Response::new(serves::socket(request.into_inner(), room)))
    }

    async fn config_schema(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<ConfigSchemaResponse>, Status> {
        Err(Status::unimplemented("no schema here"))
    }

    async fn register_glyphs(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<GlyphDefResponse>, Status> {
        Err(Status::unimplemented("no glyphs here"))
    }

    async fn parse_ax_query(
        &self,
        _: Request<ParseAxQueryRequest>,
    ) -> Result<Response<ParseAxQueryResponse>, Status> {
        Err(Status::unimplemented("no AX here"))
    }
}
