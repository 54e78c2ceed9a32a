//! One worker: a `python3` process that runs the code of handlers, and the plugin's side of it.
//!
//! In comes a job; out goes how it ended, with what it printed. A worker that died, hangs or says
//! nonsense ends the job with a reason, and is not used again: whoever holds it sees to that.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axwatch_sdk::Level;
use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;

use crate::frame::{CheckItem, Checked, DoneHead, Link, Message, NoFrame, Reply, Request};
use crate::output::{Line, Output};
use crate::process::{Exit, Process};
use crate::services::Services;
use crate::settings::Settings;

/// The program of a worker.
const PROGRAM: &str = include_str!("worker.py");
/// What an interpreter of any age understands: it says its version and runs what it is then sent.
const PRELUDE: &str = "import os,sys
v=sys.version_info
os.write(0,('python %d.%d.%d\\n'%(v[0],v[1],v[2])).encode())
n=int(os.read(0,9))
s=b''
while len(s)<n: s+=os.read(0,n-len(s)) or sys.exit(1)
exec(compile(s.decode(),'<axwatch>','exec'))
";
/// The oldest version that will do.
const OLDEST: (u32, u32) = (3, 8);
/// How long a worker may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a process whose connection is closed may take to end.
const EXIT_WITHIN: Duration = Duration::from_secs(1);
/// Versions whose code a worker keeps, and bytes of it.
const CODES_KEPT: usize = 1_024;
const CODE_BYTES_KEPT: usize = 16 * 1024 * 1024;
/// Bytes of what a worker says on standard error before it is ready that an error shows.
const COMPLAINT_BYTES_SHOWN: usize = 600;

/// Why there is no worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoWorker {
    /// There is no such program.
    #[error(
        "there is no {python}: install python3 (Debian: apt install python3) or set [python] python = \"/path/to/python3\""
    )]
    Missing { python: String },
    /// It is there and too old.
    #[error(
        "{python} is Python {version}, and 3.8 or newer is needed: install a newer python3 or set [python] python = \"/path/to/python3\""
    )]
    TooOld { python: String, version: String },
    /// It did not come up.
    #[error(
        "{python} does not start: {reason}; install python3 (Debian: apt install python3) or set [python] python = \"/path/to/python3\""
    )]
    Broken { python: String, reason: String },
    /// All are busy.
    #[error("all {workers} workers are busy (workers in the table [python])")]
    Busy { workers: usize },
}

/// Why a worker did not finish a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// It ended by itself.
    #[error("the handler ended its worker process: {0}")]
    Exited(String),
    /// It lives on, but without a connection.
    #[error("the handler closed the connection of its worker process")]
    Closed,
    /// Somebody wrote to the connection.
    #[error("the handler wrote to the connection of its worker process: {0}")]
    Garbage(String),
    /// Its time was up.
    #[error("it took longer than {0:?} and was ended (timeout_secs in the table [python])")]
    TimedOut(Duration),
}

/// Code to be run.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// What tracebacks call it.
    pub name: String,
    /// None for code that has none.
    pub version: Option<Arc<str>>,
    pub code: Arc<str>,
}

/// One run of it.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub source: &'a Source,
    pub function: Option<&'a str>,
    pub job_id: &'a str,
    pub attempt: u32,
    pub params: &'a Map<String, Value>,
    pub payload: &'a [u8],
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub done: DoneHead,
    /// JSON.
    pub result: Bytes,
    pub stdout: String,
    pub stderr: String,
}

/// A process that is ready for a job.
pub(crate) struct Worker {
    process: Process,
    link: Link,
    out: Output,
    err: Output,
    /// The versions whose code it has, and the bytes of them.
    codes: HashSet<Arc<str>>,
    code_bytes: usize,
    /// Of its interpreter.
    pub(crate) version: String,
}

impl Worker {
    /// Starts one.
    pub(crate) async fn start(settings: &Settings) -> Result<Worker, NoWorker> {
        let broken = |reason: String| NoWorker::Broken { python: settings.python.clone(), reason };
        let (ours, theirs) = StdStream::pair().map_err(|error| broken(error.to_string()))?;
        let mut command = Command::new(&settings.python);
        command
            // Neither its environment nor its folder decide what it imports.
            .args(["-I", "-X", "utf8", "-c", PRELUDE])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::start(command).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NoWorker::Missing { python: settings.python.clone() },
            _ => broken(error.to_string()),
        })?;
        let streams = ours.set_nonblocking(true).and_then(|()| {
            let stream = UnixStream::from_std(ours)?;
            let (out, err) = pipes(&mut process)?;
            Ok((stream, out, err))
        });
        let (stream, out, err) = streams.map_err(|error| broken(error.to_string()))?;
        let mut worker = Worker {
            process,
            link: Link::new(stream),
            out: Output::new(out, Level::Info),
            err: Output::new(err, Level::Warn),
            codes: HashSet::new(),
            code_bytes: 0,
            version: String::new(),
        };
        let begun = tokio::time::timeout(READY_WITHIN, worker.begin(settings)).await;
        let problem = match begun {
            Ok(Ok(())) => return Ok(worker),
            Ok(Err(NotBegun::TooOld)) => {
                let (python, version) = (settings.python.clone(), worker.version.clone());
                worker.end().await;
                return Err(NoWorker::TooOld { python, version });
            }
            Ok(Err(NotBegun::Broken(reason))) => reason,
            Err(_) => format!("it was not ready within {READY_WITHIN:?}"),
        };
        let complaint = worker.complaint().await;
        worker.end().await;
        Err(broken(if complaint.is_empty() { problem } else { format!("{problem}: {complaint}") }))
    }

    async fn begin(&mut self, settings: &Settings) -> Result<(), NotBegun> {
        let said = self.link.line().await.map_err(|error| NotBegun::Broken(error.to_string()))?;
        let version = said.strip_prefix("python ").unwrap_or(&said);
        version.clone_into(&mut self.version);
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST {
            return Err(NotBegun::TooOld);
        }
        let program = format!("{:08}\n{PROGRAM}", PROGRAM.len());
        self.link.send_raw(program.as_bytes()).await?;
        let begin = Request::Begin {
            memory_bytes: settings.memory_bytes,
            python_paths: &settings.python_paths,
        };
        self.link.send(&begin, &[]).await?;
        match self.link.receive().await {
            Ok((Message::Ready { adopts }, _)) => {
                if !adopts {
                    tracing::debug!("workers cannot adopt what jobs leave behind: no ctypes");
                }
                Ok(())
            }
            Ok((other, _)) => Err(NotBegun::Broken(format!("it said {other:?}"))),
            Err(error) => Err(NotBegun::Broken(error.to_string())),
        }
    }

    /// What it said on standard error, in one line.
    async fn complaint(&mut self) -> String {
        let _ = self.process.exit(EXIT_WITHIN).await;
        self.err.take_all(&mut |_| {});
        let said = self.err.finish(&mut |_| {});
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        last[..last.floor_char_boundary(COMPLAINT_BYTES_SHOWN)].trim().to_owned()
    }

    /// Whether it may be given a job.
    pub(crate) fn is_well(&mut self) -> bool {
        self.link.is_quiet()
    }

    /// Ends it and all that it started.
    pub(crate) async fn end(self) {
        self.process.end().await;
    }

    /// Runs code. What it says meanwhile goes to `services`, which also answer what it asks.
    pub(crate) async fn run(
        &mut self,
        run: &Run<'_>,
        services: &Services<'_>,
        within: Duration,
    ) -> Result<Ran, Broken> {
        match tokio::time::timeout(within, self.run_to_end(run, services)).await {
            Ok(ran) => ran,
            Err(_) => {
                self.listen(services);
                self.hush(services);
                Err(Broken::TimedOut(within))
            }
        }
    }

    async fn run_to_end(&mut self, run: &Run<'_>, services: &Services<'_>) -> Result<Ran, Broken> {
        let (code, forget) = self.code_for(run.source);
        let request = Request::Run {
            name: &run.source.name,
            version: run.source.version.as_deref(),
            code,
            function: run.function,
            job_id: run.job_id,
            attempt: run.attempt,
            params: run.params,
            forget,
        };
        let sent = self.link.send(&request, run.payload).await;
        // What it could not be sent it says itself, by its end.
        let ran = match sent {
            Ok(()) => self.converse(services).await,
            Err(_) => Err(NoFrame::Closed),
        };
        match ran {
            Ok((done, result)) => {
                self.listen(services);
                let mut tell = |line| services.log(line);
                let stdout = self.out.finish(&mut tell);
                let stderr = self.err.finish(&mut tell);
                Ok(Ran { done, result, stdout, stderr })
            }
            Err(no_frame) => {
                let broken = self.why(no_frame).await;
                self.listen(services);
                self.hush(services);
                Err(broken)
            }
        }
    }

    /// Answers the worker until its job is done.
    async fn converse(&mut self, services: &Services<'_>) -> Result<(DoneHead, Bytes), NoFrame> {
        loop {
            let (message, blob) = tokio::select! {
                () = self.out.ready() => {
                    self.out.take_some(&mut |line| services.log(line));
                    continue;
                }
                () = self.err.ready() => {
                    self.err.take_some(&mut |line| services.log(line));
                    continue;
                }
                received = self.link.receive() => received?,
            };
            match message {
                Message::Log { level, message } => {
                    // What was printed before comes before.
                    self.listen(services);
                    services.log((level.into(), message));
                    let heard = Reply::Found {};
                    self.link.send(&heard, &[]).await.map_err(|_| NoFrame::Closed)?;
                }
                Message::Attest { claim } => {
                    let (reply, found) = services.attest(claim).await;
                    self.link.send(&reply, &found).await.map_err(|_| NoFrame::Closed)?;
                }
                Message::Query { ax, limit } => {
                    let (reply, found) = services.query(ax, limit).await;
                    self.link.send(&reply, &found).await.map_err(|_| NoFrame::Closed)?;
                }
                Message::Done(done) => {
                    Link::json_of(&blob)?;
                    return Ok((done, blob));
                }
                other @ (Message::Ready { .. } | Message::Checked { .. }) => {
                    return Err(NoFrame::Garbage(format!("{other:?} in the middle of a job")));
                }
            }
        }
    }

    /// Says what is wrong with code, and what it declares, for each of the items.
    pub(crate) async fn check(
        &mut self,
        items: &[CheckItem<'_>],
        within: Duration,
    ) -> Result<Vec<Checked>, Broken> {
        let checking = async {
            let request = Request::Check { items: items.to_vec() };
            self.link.send(&request, &[]).await.map_err(|_| NoFrame::Closed)?;
            match self.link.receive().await? {
                (Message::Checked { items: found }, _) if found.len() == items.len() => Ok(found),
                (other, _) => Err(NoFrame::Garbage(format!("{other:?} instead of a check"))),
            }
        };
        match tokio::time::timeout(within, checking).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(no_frame)) => Err(self.why(no_frame).await),
            Err(_) => Err(Broken::TimedOut(within)),
        }
    }

    /// The code, unless the worker has it; and whether it is to forget what it has.
    fn code_for<'a>(&mut self, source: &'a Source) -> (Option<&'a str>, bool) {
        let Some(version) = &source.version else { return (Some(&source.code), false) };
        if self.codes.contains(version) {
            return (None, false);
        }
        let forget =
            self.codes.len() >= CODES_KEPT || self.code_bytes + source.code.len() > CODE_BYTES_KEPT;
        if forget {
            self.codes.clear();
            self.code_bytes = 0;
        }
        self.codes.insert(version.clone());
        self.code_bytes += source.code.len();
        (Some(&source.code), forget)
    }

    /// Forgets that the worker has the code: it could not keep it.
    pub(crate) fn forget(&mut self, source: &Source) {
        if let Some(version) = &source.version {
            self.codes.remove(version);
        }
    }

    fn listen(&mut self, services: &Services<'_>) {
        let mut tell = |line: Line| services.log(line);
        self.out.take_all(&mut tell);
        self.err.take_all(&mut tell);
    }

    /// The last lines of a job that has no result.
    fn hush(&mut self, services: &Services<'_>) {
        let mut tell = |line: Line| services.log(line);
        self.out.finish(&mut tell);
        self.err.finish(&mut tell);
    }

    async fn why(&self, no_frame: NoFrame) -> Broken {
        match no_frame {
            NoFrame::Garbage(what) => Broken::Garbage(what),
            NoFrame::Closed => match self.process.exit(EXIT_WITHIN).await {
                Some(Exit::Code(code)) => Broken::Exited(format!("exit code {code}")),
                Some(Exit::Signal(signal)) => {
                    let name = match signal {
                        6 => " (aborted)",
                        9 => " (killed; out of memory?)",
                        11 => " (crashed)",
                        _ => "",
                    };
                    Broken::Exited(format!("signal {signal}{name}"))
                }
                None => Broken::Closed,
            },
        }
    }
}

/// Why a worker is not ready.
enum NotBegun {
    TooOld,
    Broken(String),
}

impl From<io::Error> for NotBegun {
    fn from(error: io::Error) -> NotBegun {
        NotBegun::Broken(error.to_string())
    }
}

fn pipes(process: &mut Process) -> io::Result<(Receiver, Receiver)> {
    let child = process.child().ok_or_else(|| io::Error::other("no process"))?;
    let piped = |pipe: Option<OwnedFd>| {
        Receiver::from_owned_fd(pipe.ok_or_else(|| io::Error::other("no pipe"))?)
    };
    let out = child.stdout.take().map(OwnedFd::from);
    let err = child.stderr.take().map(OwnedFd::from);
    Ok((piped(out)?, piped(err)?))
}
