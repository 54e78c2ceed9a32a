//! One process of a plugin, asked everything that a host may ask, and what it answers to each.
//!
//! It runs under the launcher as under a host, so that nothing of it outlives this value.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axwatch_proto::protocol::web_socket_message::Type;
use axwatch_proto::protocol::{
    self, Empty, InitializeResponse, MetadataResponse, WebSocketMessage,
};
use futures::future::join_all;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{Answer, CheckSettings, KILLED_AFTER, Served, shown};
use crate::plugin::caller::Caller;
use crate::plugin::grpc::{self, Client};
use crate::plugin::launcher::{ORDER_KILL, ORDER_TERM};
use crate::plugin::listeners::{
    descendants, first_child, is_answered_by, listening_beyond_loopback,
};
use crate::plugin::process::{Ports, describe};
use crate::plugin::settings::{arguments, environment, find_program};
use crate::plugin::token::{Callers, Token};
use crate::plugin::{LauncherCommand, PluginSettings, wire};

/// How long a call may take that has nothing to do.
const CALL_WITHIN: Duration = Duration::from_secs(5);
/// How long the line with the port is waited for.
const PORT_WITHIN: Duration = Duration::from_secs(2);
/// How long the last output of a process that has ended is waited for.
const LAST_OUTPUT_WITHIN: Duration = Duration::from_secs(1);
/// How long a process that was killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Bytes of a line that are looked at.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Calls at once while Health is asked.
const CALLS_AT_ONCE: usize = 32;
/// Announced routes that are asked for.
const ROUTES_MAX: usize = 20;
/// What no plugin announces.
const UNKNOWN: &str = "axwatch.check.nobody";

/// What is heard on the process's output.
#[derive(Default)]
struct Heard {
    has_token: bool,
    last_words: String,
}

/// A process under its launcher.
pub(super) struct Probe {
    /// What it was told to take.
    pub(super) asked_port: u16,
    launcher: Child,
    orders: Option<ChildStdin>,
    client: Client,
    /// Where it is asked.
    asked_at: u16,
    /// It has said who it is.
    has_answered: bool,
    port: watch::Receiver<Option<u16>>,
    heard: Arc<Mutex<Heard>>,
    /// The calls that it made, when somebody is there to be called.
    caller: Option<(Arc<Callers>, Arc<Caller>)>,
    token: Arc<Token>,
    endpoint: String,
    config: BTreeMap<String, String>,
    reading: JoinSet<()>,
}

/// How a process ended.
pub(super) struct End {
    /// What came of Shutdown; none when there was nobody to be told.
    pub(super) served: Option<Served>,
    /// No answer to Shutdown came in time.
    pub(super) is_shutdown_late: bool,
    /// How long it took after SIGTERM; none when it had to be killed.
    pub(super) term_within: Option<Duration>,
    /// Processes that it had started and that were there when it was told to end.
    pub(super) children: usize,
    /// Those that are there although it has ended.
    pub(super) left_behind: Vec<u32>,
}

impl Probe {
    /// Starts a process, and waits for its port or for as long as a host does.
    pub(super) async fn start(
        settings: &CheckSettings,
        launcher: &LauncherCommand,
        endpoint: &str,
    ) -> Result<Probe, String> {
        let plugin = &settings.plugin;
        let program =
            find_program(plugin, &settings.host.search_paths).map_err(|error| error.to_string())?;
        let port = Arc::new(Ports::default()).take();
        let port = port.map_err(|error| format!("no port of loopback is free: {error}"))?.number;
        let mut launcher = Command::new(&launcher.program)
            .args(&launcher.args)
            .arg(&program.path)
            .args(program.args.iter().chain(&arguments(&plugin.args, port)))
            .env_clear()
            .envs(environment(std::env::vars_os(), &plugin.env))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| {
                format!("cannot start the launcher {:?}: {error}", launcher.program)
            })?;
        let token = Arc::new(Token::random());
        let heard = Arc::new(Mutex::default());
        let (tell_port, mut known_port) = watch::channel(None);
        let mut reading = JoinSet::new();
        if let Some(out) = launcher.stdout.take() {
            reading.spawn(listen(out, token.clone(), heard.clone(), Some(tell_port)));
        }
        if let Some(err) = launcher.stderr.take() {
            reading.spawn(listen(err, token.clone(), heard.clone(), None));
        }
        // Silence and an end before it are both told by what is asked next.
        let _ = timeout(PORT_WITHIN, known_port.wait_for(Option::is_some)).await;
        let orders = launcher.stdin.take();
        let found = known_port.borrow().unwrap_or(port);
        Ok(Probe {
            asked_port: port,
            launcher,
            orders,
            client: grpc::client(grpc::channel(found, 1)),
            asked_at: found,
            has_answered: false,
            port: known_port,
            heard,
            caller: None,
            token,
            endpoint: endpoint.to_owned(),
            config: plugin.config.clone(),
            reading,
        })
    }

    /// Lets it call back, under the name that it has by now.
    pub(super) fn may_call(&mut self, callers: &Arc<Callers>, plugin: &PluginSettings) {
        let zero_is_never = plugin.zero_rate_never;
        let caller = Arc::new(Caller::new(plugin.name.clone(), 1, zero_is_never, Arc::default()));
        callers.admit(&self.token, caller.clone());
        self.caller = Some((callers.clone(), caller));
    }

    /// The port that it has said it listens on.
    pub(super) fn announced_port(&self) -> Option<u16> {
        *self.port.borrow()
    }

    /// Where it listens for others than this machine.
    pub(super) fn listens_beyond_loopback(&self) -> Result<Vec<SocketAddr>, io::Error> {
        listening_beyond_loopback(&descendants(self.pid()))
    }

    /// Whether its token stood in its output.
    pub(super) fn has_told_its_token(&self) -> bool {
        lock(&self.heard).has_token
    }

    /// Whether it has called the host.
    pub(super) fn has_called_back(&self) -> bool {
        self.caller.as_ref().is_some_and(|(_, caller)| caller.has_called())
    }

    fn pid(&self) -> u32 {
        self.launcher.id().unwrap_or(u32::MAX)
    }

    /// Asks for Metadata until it is answered, as a host does.
    pub(super) async fn metadata(
        &mut self,
        patience: Duration,
    ) -> Result<(MetadataResponse, Served), Served> {
        let deadline = Instant::now() + patience;
        loop {
            let answer = self.client.metadata(Empty {});
            let (reply, served) = call("Metadata", CALL_WITHIN, answer).await;
            if let Some(reply) = reply {
                let about = format!("{} {}", wire::shown(&reply.name), wire::shown(&reply.version));
                self.has_answered = true;
                return Ok((reply, Served { detail: about, ..served }));
            }
            if let Ok(Some(status)) = self.launcher.try_wait() {
                return Err(Served { detail: self.last_words(status).await, ..served });
            }
            if served.answer == Answer::Undecodable {
                return Err(served);
            }
            if Instant::now() > deadline {
                let detail = self.why_not_ready(patience, served.detail);
                return Err(Served { detail, ..served });
            }
            tokio::time::sleep(5 * LOOK_EVERY).await;
        }
    }

    /// What is said of one that has ended too early.
    async fn last_words(&mut self, status: ExitStatus) -> String {
        // Nothing of it is left, so that the ends of its output are near.
        let heard = async { while self.reading.join_next().await.is_some() {} };
        let _ = timeout(LAST_OUTPUT_WITHIN, heard).await;
        let ended = format!("it ended ({}) before it was ready", describe(status));
        match &*lock(&self.heard).last_words {
            "" => ended,
            words => format!("{ended}; it last said: {words}"),
        }
    }

    /// Why it has not said who it is, and what the last try came to.
    fn why_not_ready(&self, patience: Duration, last: String) -> String {
        let (port, within) = (self.asked_at, shown(patience));
        match is_answered_by(port, &descendants(self.pid())) {
            Ok(false) => {
                let nobody = format!("no process of this plugin listens on 127.0.0.1:{port}");
                format!("not answered within {within}: {nobody}, or not it alone")
            }
            Ok(true) | Err(_) => format!("not answered within {within}: {last}"),
        }
    }

    /// Initializes it, once more if it has been.
    pub(super) async fn initialize(
        &mut self,
        patience: Duration,
    ) -> (Option<InitializeResponse>, Served) {
        let request = protocol::InitializeRequest {
            ats_store_endpoint: self.endpoint.clone(),
            queue_endpoint: self.endpoint.clone(),
            schedule_endpoint: self.endpoint.clone(),
            host_endpoint: self.endpoint.clone(),
            auth_token: self.token.expose().to_owned(),
            config: self.config.clone().into_iter().collect(),
            ..Default::default()
        };
        let (reply, served) = call("Initialize", patience, self.client.initialize(request)).await;
        if reply.is_some()
            && let Some((_, caller)) = &self.caller
        {
            caller.initialized();
        }
        let detail = match &reply {
            None => self.token.redact(served.detail),
            Some(reply) => {
                let (handlers, watchers) = (reply.handler_names.len(), reply.watchers.len());
                format!("{handlers} handlers, {watchers} watchers")
            }
        };
        (reply, Served { detail, ..served })
    }

    /// What it says of its configuration, a line each.
    pub(super) async fn config_schema(&mut self) -> (Vec<String>, Served) {
        let (reply, served) =
            call("ConfigSchema", CALL_WITHIN, self.client.config_schema(Empty {})).await;
        let fields = reply.map(|reply| reply.fields).unwrap_or_default();
        let fields: BTreeMap<_, _> = fields.into_iter().collect();
        let lines: Vec<_> = fields.iter().map(|(key, field)| describe_field(key, field)).collect();
        let detail = match served.answer {
            Answer::Answered => format!("{} keys", lines.len()),
            _ => served.detail,
        };
        (lines, Served { detail, ..served })
    }

    /// Whether it says that it is well; why not otherwise.
    pub(super) async fn health(&mut self) -> (Result<(), String>, Served) {
        let (reply, served) = call("Health", CALL_WITHIN, self.client.health(Empty {})).await;
        let verdict = match reply {
            Some(reply) if !reply.healthy => Err(wire::shown(&reply.message)),
            _ => Ok(()),
        };
        (verdict, served)
    }

    /// A job for a handler that nobody has.
    pub(super) async fn unknown_handler(&mut self) -> Served {
        let (reply, served) =
            call("ExecuteJob", CALL_WITHIN, self.client.execute_job(nobodys_job())).await;
        match reply {
            Some(reply) if reply.success => Served { detail: "as done".to_owned(), ..served },
            Some(reply) => {
                Served { detail: format!("success=false, {}", wire::shown(&reply.error)), ..served }
            }
            None => served,
        }
    }

    /// Asks for Health while other calls are under way.
    pub(super) async fn health_while_busy(&mut self) -> Result<(), String> {
        let mut client = self.client.clone();
        let calls = (0..CALLS_AT_ONCE).map(|_| {
            let mut client = self.client.clone();
            async move { drop(timeout(CALL_WITHIN, client.execute_job(nobodys_job())).await) }
        });
        let health = timeout(CALL_WITHIN, client.health(Empty {}));
        let (_, health) = tokio::join!(join_all(calls), health);
        match health {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(wire::status_text(&status)),
            Err(_) => Err(format!("no answer in {}", shown(CALL_WITHIN))),
        }
    }

    /// The calls of which nothing is made but whether they are answered.
    pub(super) async fn small_calls(&mut self) -> Vec<Served> {
        let glyphs = self.client.register_glyphs(Empty {});
        let (_, glyphs) = call("RegisterGlyphs", CALL_WITHIN, glyphs).await;
        let question = protocol::ParseAxQueryRequest { query: "is x".to_owned() };
        let parsed = self.client.parse_ax_query(question);
        let (_, parsed) = call("ParseAxQuery", CALL_WITHIN, parsed).await;
        vec![glyphs, parsed]
    }

    /// Asks for `/`, and for each announced route that only reads. Answers with what a browser would see.
    pub(super) async fn http(&mut self, routes: &[(&String, &String)]) -> (Served, Vec<String>) {
        let (reply, mut served) = self.get("/").await;
        let mut remarks: Vec<_> = reply.iter().flat_map(|reply| wrong_with("/", reply)).collect();
        if let Some(reply) = &reply {
            served.detail = format!("GET / is {}", reply.status_code);
        }
        if served.answer == Answer::Unimplemented && !routes.is_empty() {
            remarks.push("it announces routes, and HandleHTTP is UNIMPLEMENTED".to_owned());
            return (served, remarks);
        }
        let readable =
            |route: &&(&String, &String)| route.0 == "GET" && !route.1.contains(['{', ':', '*']);
        for (_, path) in routes.iter().filter(readable).take(ROUTES_MAX) {
            let path = format!("/{}", path.trim_start_matches('/'));
            match self.get(&path).await {
                (Some(reply), _) => {
                    remarks.extend(wrong_with(&path, &reply));
                    if let status @ (404 | 500..=599) = reply.status_code {
                        remarks
                            .push(format!("it announces GET {path}, and answers it with {status}"));
                    }
                }
                (None, served) => remarks.push(format!("GET {path}: {}", served.detail)),
            }
        }
        (served, remarks)
    }

    async fn get(&mut self, path: &str) -> (Option<protocol::HttpResponse>, Served) {
        let request = protocol::HttpRequest {
            method: "GET".to_owned(),
            path: path.to_owned(),
            ..Default::default()
        };
        call("HandleHTTP", CALL_WITHIN, self.client.handle_http(request)).await
    }

    /// Opens a socket, and asks whether it is there.
    pub(super) async fn socket(&mut self) -> (Served, Option<String>) {
        const STAMP: i64 = 1_700_000_000_123_456_789;
        let frame = |kind: Type| WebSocketMessage {
            r#type: kind.into(),
            timestamp: STAMP,
            ..Default::default()
        };
        let (send, frames) = tokio::sync::mpsc::channel(4);
        for kind in [Type::Connect, Type::Ping] {
            // Room for both is there.
            let _ = send.try_send(frame(kind));
        }
        let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
        let opened = self.client.handle_web_socket(frames);
        let (stream, served) = call("HandleWebSocket", CALL_WITHIN, opened).await;
        let Some(mut stream) = stream else { return (served, None) };
        let pong = async {
            loop {
                match stream.message().await {
                    Ok(Some(message)) if message.r#type == i32::from(Type::Pong) => {
                        return Ok(message.timestamp == STAMP);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => return Err(None),
                    Err(status) => return Err(Some(status)),
                }
            }
        };
        let (detail, remark) = match timeout(CALL_WITHIN, pong).await {
            Ok(Ok(true)) => ("PING is answered by PONG".to_owned(), None),
            Ok(Ok(false)) => {
                let remark = "its PONG has not the timestamp of the PING";
                (remark.to_owned(), Some(format!("HandleWebSocket: {remark}")))
            }
            Ok(Err(Some(status))) if status.code() == Code::Unimplemented => {
                let answer = Answer::Unimplemented;
                return (Served { answer, detail: String::new(), ..served }, None);
            }
            Ok(Err(status)) => {
                let said = status.map(|status| wire::status_text(&status));
                (format!("it closes at once: {}", said.unwrap_or_default()), None)
            }
            Err(_) => {
                let remark = "HandleWebSocket: no PONG to a PING; a host closes such a socket after a minute";
                ("no PONG to a PING".to_owned(), Some(remark.to_owned()))
            }
        };
        let _ = send.try_send(frame(Type::Close));
        (Served { detail, ..served }, remark)
    }

    /// Ends it as a host does: Shutdown, SIGTERM, SIGKILL.
    pub(super) async fn end(mut self) -> End {
        let began = Instant::now();
        let is_told = self.has_answered && !matches!(self.launcher.try_wait(), Ok(Some(_)));
        let served = if is_told { Some(self.shut_down().await) } else { None };
        let is_shutdown_late = began.elapsed() >= CALL_WITHIN;
        let plugin = first_child(self.pid());
        let all = descendants(self.pid());
        let termed = Instant::now();
        self.order(ORDER_TERM).await;
        let is_gone = timeout(KILLED_AFTER, self.launcher.wait()).await.is_ok();
        let term_within = is_gone.then(|| termed.elapsed());
        if !is_gone {
            self.order(ORDER_KILL).await;
            // The launcher ends last; one that does not is found by what it left.
            let _ = timeout(GONE_WITHIN, self.launcher.wait()).await;
        }
        if let Some((callers, caller)) = &self.caller {
            callers.revoke(caller);
        }
        let others: Vec<_> = all.iter().copied().filter(|&pid| Some(pid) != plugin).collect();
        let left_behind = all.into_iter().filter(|&pid| is_alive(pid)).collect();
        End { served, is_shutdown_late, term_within, children: others.len(), left_behind }
    }

    async fn shut_down(&mut self) -> Served {
        let began = Instant::now();
        let answer = self.client.shutdown(Empty {});
        let (_, mut served) = call("Shutdown", CALL_WITHIN, answer).await;
        if served.answer == Answer::Answered {
            served.detail = format!("in {:.1} s", began.elapsed().as_secs_f64());
        }
        served
    }

    async fn order(&mut self, order: &str) {
        if let Some(orders) = &mut self.orders {
            // A launcher that has ended takes none, and needs none.
            let _ = orders.write_all(format!("{order}\n").as_bytes()).await;
        }
    }
}

fn nobodys_job() -> protocol::ExecuteJobRequest {
    protocol::ExecuteJobRequest {
        job_id: "0".repeat(32),
        handler_name: UNKNOWN.to_owned(),
        payload: bytes::Bytes::from_static(b"{}"),
        timeout_secs: Some(5),
        attempt: 1,
        ..Default::default()
    }
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a call, and says what came of it.
async fn call<T>(
    name: &'static str,
    patience: Duration,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> (Option<T>, Served) {
    let served = |answer, detail| Served { call: name, answer, detail };
    match timeout(patience, answer).await {
        Err(_) => (None, served(Answer::Silent, format!("no answer in {}", shown(patience)))),
        Ok(Ok(reply)) => (Some(reply.into_inner()), served(Answer::Answered, String::new())),
        Ok(Err(status)) => {
            let text = wire::status_text(&status);
            let answer = match status.code() {
                Code::Unimplemented => return (None, served(Answer::Unimplemented, String::new())),
                Code::Internal if text.contains("decode") => Answer::Undecodable,
                // Made on our side: the connection is not there, or broke.
                _ if std::error::Error::source(&status).is_some() => Answer::Silent,
                _ => Answer::Status,
            };
            (None, served(answer, text))
        }
    }
}

fn describe_field(key: &str, field: &protocol::ConfigFieldSchema) -> String {
    let mut text = format!("{}: {}", wire::shown(key), wire::shown(&field.r#type));
    let more = [
        (" of ", &field.element_type),
        (", default ", &field.default_value),
        (", at least ", &field.min_value),
        (", at most ", &field.max_value),
        (", like ", &field.pattern),
    ];
    for (word, value) in more {
        if !value.is_empty() {
            text += word;
            text += &wire::shown(value);
        }
    }
    if field.required {
        text += ", required";
    }
    text
}

/// What of an answer no browser can be given.
fn wrong_with(path: &str, reply: &protocol::HttpResponse) -> Vec<String> {
    let mut wrong = Vec::new();
    if !(100..=599).contains(&reply.status_code) {
        wrong.push(format!(
            "GET {path}: {} is no HTTP status; a host answers 502",
            reply.status_code
        ));
    }
    for header in &reply.headers {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if header.name.is_empty() || !header.name.chars().all(is_token) {
            let name = wire::shown(&header.name);
            wrong.push(format!("GET {path}: {name:?} is no name of a header; a host answers 502"));
        }
    }
    wrong
}

/// Reads a stream to its end: the port, the token, and the last line.
async fn listen(
    source: impl AsyncRead + Unpin,
    token: Arc<Token>,
    heard: Arc<Mutex<Heard>>,
    port: Option<watch::Sender<Option<u16>>>,
) {
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without an end is looked at in pieces.
        match (&mut source).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if let (Some(port), Some(number)) = (&port, text.strip_prefix("QNTX_PLUGIN_PORT=")) {
            port.send_replace(number.parse().ok().filter(|&number| number != 0));
            continue;
        }
        let mut heard = lock(&heard);
        heard.has_token |= text.contains(token.expose());
        if !text.is_empty() {
            heard.last_words = wire::shown(&token.redact(text.to_owned()));
        }
    }
}
