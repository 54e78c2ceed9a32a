//! A server under test: started, asked, waited for, killed.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::{Home, PATIENCE, Ran, processes, text, until, within};

/// A running `axwatch serve`; killed when this is dropped.
pub struct Server {
    child: Child,
    /// The object that it printed when its API answered.
    pub greeting: Value,
    address: String,
    token: String,
    store: PathBuf,
}

impl Server {
    /// Starts one, and waits for its line; when it ends without one, how it ended.
    pub fn start(home: &Home) -> Result<Server, Ran> {
        let mut starting = Server::spawn(home);
        let (sender, line) = mpsc::channel();
        let out = starting.stdout.take().expect("it is piped");
        std::thread::spawn(move || read_lines(out, &sender));
        let deadline = Instant::now() + PATIENCE;
        let first = loop {
            match line.recv_timeout(Duration::from_millis(200)) {
                Ok(line) => break line,
                Err(_) if Instant::now() > deadline => {
                    let _ = starting.kill();
                    panic!("axwatch serve said nothing in {PATIENCE:?}; its log:\n{}", home.log());
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(ended(starting, home)),
            }
        };
        let greeting: Value = serde_json::from_str(&first)
            .unwrap_or_else(|error| panic!("the first line is no JSON ({error}): {first}"));
        let http = text(&greeting, "http");
        let address = http.strip_prefix("http://").or_else(|| http.strip_prefix("https://"));
        let address = address.expect("http:// or https:// is spoken").to_owned();
        let store = home.store();
        let Ok(token) = std::fs::read_to_string(store.with_extension("db.token")) else {
            // It has ended since it greeted us, and took the file away.
            return Err(ended(starting, home));
        };
        let token = token.trim().to_owned();
        Ok(Server { child: starting, greeting, address, token, store })
    }

    /// Starts one, and does not wait.
    pub fn spawn(home: &Home) -> Child {
        let log = OpenOptions::new().create(true).append(true).open(home.path("serve.log"));
        let log = log.expect("a log can be written");
        let mut command: Command = home.command(["serve", "--json", "--http", "127.0.0.1:0"]);
        command.arg("--store").arg(home.store());
        command.env("AXWATCH_FAILPOINTS", home.failpoints());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command.spawn().expect("the program can be started")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `HOST:PORT` of its API.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The token of its API.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The most memory that it ever had, in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        processes::peak_memory_kib(self.pid()).expect("a running process has memory")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end_within(mut self, patience: Duration) -> ExitStatus {
        within(patience, "the server ends", || {
            self.child.try_wait().expect("a child can be waited for")
        })
    }

    /// Asks it to stop, and waits until it has; it must say that all went well.
    #[track_caller]
    pub fn stop(self) {
        self.signal(Signal::TERM);
        let status = self.end_within(Duration::from_secs(25));
        assert_eq!(status.code(), Some(0), "the server ended with {status}");
    }

    /// Asks its API; `None` when it does not answer.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        http(
            &self.address,
            method,
            path,
            &[("Authorization", &format!("Bearer {}", self.token))],
            body,
        )
    }

    /// The objects that its API answers.
    #[track_caller]
    pub fn get(&self, path: &str) -> Vec<Value> {
        let Some((200, body)) = self.request("GET", path, "") else {
            panic!("the API did not answer {path}: {:?}", self.request("GET", path, ""));
        };
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"))
        };
        body.lines().map(parse).collect()
    }

    /// The plugin with this name.
    pub fn plugin(&self, name: &str) -> Value {
        self.get(&format!("/api/v1/plugins/{name}")).remove(0)
    }

    /// Waits until a plugin is in one of these states.
    #[track_caller]
    pub fn until_plugin(&self, name: &str, states: &[&str]) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The list asks nothing of the engine, so that to wait changes nothing there.
            let plugins = self.get("/api/v1/plugins");
            let plugin = plugins.into_iter().find(|plugin| plugin["name"] == name);
            let plugin = plugin.unwrap_or_else(|| panic!("there is no plugin {name}"));
            if states.contains(&text(&plugin, "state")) {
                return plugin;
            }
            assert!(Instant::now() < deadline, "plugin {name} is not {states:?}: {plugin}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until these plugins are ready.
    #[track_caller]
    pub fn until_ready(&self, names: &[&str]) {
        for name in names {
            self.until_plugin(name, &["ready"]);
        }
    }

    /// Waits until every claim has been matched and no job is open, by looking at one snapshot of the store.
    #[track_caller]
    pub fn until_settled(&self) {
        const SETTLED: &str = "SELECT NOT EXISTS (SELECT 1 FROM jobs WHERE state IN (0, 1))
            AND (SELECT value FROM meta WHERE key = 'matched_seq')
                >= coalesce((SELECT max(seq) FROM attestations), 0)";
        let database = self.store_beside();
        until("everything is matched and done", || {
            let is_settled: bool =
                database.query_row(SETTLED, [], |row| row.get(0)).expect("the store is read");
            is_settled.then_some(())
        });
    }

    /// Waits until so many jobs are open.
    #[track_caller]
    pub fn until_open(&self, is_meant: impl Fn(u64) -> bool) {
        let database = self.store_beside();
        until("the open jobs are as many as meant", || {
            let open = "SELECT count(*) FROM jobs WHERE state IN (0, 1)";
            let open: i64 =
                database.query_row(open, [], |row| row.get(0)).expect("jobs are counted");
            is_meant(open.unsigned_abs()).then_some(())
        });
    }

    fn store_beside(&self) -> rusqlite::Connection {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let database = rusqlite::Connection::open_with_flags(&self.store, flags);
        let database = database.expect("the store can be read beside its server");
        database.busy_timeout(Duration::from_secs(10)).expect("a timeout can be set");
        database
    }

    /// Waits until a job is in one of these states.
    #[track_caller]
    pub fn until_job(&self, id: &str, states: &[&str]) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let job = self.get(&format!("/api/v1/jobs/{id}")).remove(0);
            if states.contains(&text(&job, "state")) {
                return job;
            }
            assert!(Instant::now() < deadline, "job {id} is not {states:?}: {job}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// How a server ended that is ending by itself.
fn ended(mut server: Child, home: &Home) -> Ran {
    let status = server.wait().expect("a child can be waited for");
    Ran { code: status.code().unwrap_or(-1), out: String::new(), err: home.log() }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(out: ChildStdout, to: &mpsc::Sender<String>) {
    // Reads on when nobody listens any more, so that the other side never stands still.
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let _ = to.send(line);
    }
}

/// One HTTP request; `None` when there is no answer.
pub fn http(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // HTTP/1.0, so that the answer comes as it is and ends with the connection.
    let mut request = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        let kind = if body.trim_end().contains('\n') { "x-ndjson" } else { "json" };
        request.push_str(&format!("Content-Type: application/{kind}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A command that goes on, line by line: `fires --follow`, `ax … --follow`.
pub struct Follow {
    child: Child,
    lines: Receiver<String>,
}

impl Follow {
    /// Follows the fires from now on.
    pub fn start(home: &Home) -> Follow {
        Follow::of(home, &["fires", "--follow", "--limit", "1"])
    }

    /// Starts a command on this store, with `--json`.
    pub fn of(home: &Home, args: &[&str]) -> Follow {
        let mut command = home.command(args);
        command.arg("--json").arg("--store").arg(home.store());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program can be started");
        let (sender, lines) = mpsc::channel();
        let out = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || read_lines(out, &sender));
        Follow { child, lines }
    }

    /// Waits for what is told next.
    #[track_caller]
    pub fn next(&self) -> Value {
        self.until(|_| true)
    }

    /// Waits for the next that is told and for which `is_meant` holds.
    #[track_caller]
    pub fn until(&self, is_meant: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("something is told");
            let told: Value = serde_json::from_str(&line).expect("what is told is JSON");
            if is_meant(&told) {
                return told;
            }
        }
    }

    /// Waits for its end, and answers what it told since and how it ended.
    #[track_caller]
    pub fn end(mut self) -> Ran {
        let status = within(PATIENCE, "a command that goes on ends", || {
            self.child.try_wait().expect("a child can be waited for")
        });
        let mut err = String::new();
        let mut stderr = self.child.stderr.take().expect("it is piped");
        stderr.read_to_string(&mut err).expect("an error is text");
        let out = self.lines.iter().map(|line| line + "\n").collect();
        Ran { code: status.code().unwrap_or(-1), out, err }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
