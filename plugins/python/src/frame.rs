//! Messages between the plugin and a worker: frames on a socket, each with a JSON head and bytes.
//!
//! What comes from a worker is checked as if a stranger had sent it, because the code of a handler can
//! write to the socket too. Waiting for a frame may be given up at any time without losing one.

use std::io;

use axwatch_sdk::Level;
use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Bytes of the head of a frame from a worker: a claim with the most attributes, escaped.
const HEAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes with a frame from a worker: a result.
const BLOB_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the two lengths.
const LENGTHS_BYTES: usize = 8;

/// What the plugin asks of a worker.
#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Request<'a> {
    /// The first.
    Begin { memory_bytes: u64, python_paths: &'a [std::path::PathBuf] },
    /// To run code; the payload goes with it.
    Run {
        name: &'a str,
        version: Option<&'a str>,
        /// Not for a version that the worker has.
        code: Option<&'a str>,
        function: Option<&'a str>,
        job_id: &'a str,
        attempt: u32,
        params: &'a Map<String, Value>,
        /// Forget all versions first.
        forget: bool,
    },
    /// To say what is wrong with code and what it declares.
    Check { items: Vec<CheckItem<'a>> },
}

/// Code to be checked.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct CheckItem<'a> {
    pub name: &'a str,
    pub code: &'a str,
}

/// The answer to what code asks of the host; what was found goes with it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Reply {
    Found {},
    Failed { error: String, permanent: bool },
}

/// What a worker says.
#[derive(Debug, Deserialize)]
#[serde(tag = "t", rename_all = "snake_case")]
pub(crate) enum Message {
    Ready { adopts: bool },
    Log { level: LevelName, message: String },
    Attest { claim: Draft },
    Query { ax: String, limit: usize },
    Done(DoneHead),
    Checked { items: Vec<Checked> },
}

/// A level of `logging`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LevelName {
    Debug,
    Info,
    Warn,
    Error,
}

impl From<LevelName> for Level {
    fn from(name: LevelName) -> Level {
        match name {
            LevelName::Debug => Level::Debug,
            LevelName::Info => Level::Info,
            LevelName::Warn => Level::Warn,
            LevelName::Error => Level::Error,
        }
    }
}

/// A claim that code makes.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub(crate) struct Draft {
    pub subjects: Vec<String>,
    pub predicates: Vec<String>,
    pub contexts: Vec<String>,
    pub actors: Vec<String>,
    pub attributes: Map<String, Value>,
}

/// How a job ended; its result goes with it.
#[derive(Debug, Deserialize)]
pub(crate) struct DoneHead {
    pub outcome: Ending,
    #[serde(default)]
    pub error: String,
    #[serde(default)]
    pub traceback: Option<String>,
    /// For [`Ending::NotNow`].
    #[serde(default)]
    pub seconds: f64,
    /// Microseconds that it took.
    pub us: u64,
    /// Lines of `logging` that were too many.
    pub unsent: u64,
    /// Why this worker must not run another.
    pub tainted: Option<String>,
}

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    Ok,
    Error,
    Permanent,
    NotNow,
    /// The code is no Python.
    Unloadable,
}

/// What came of a check.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq)]
pub(crate) struct Checked {
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Mistake>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub watchers: Vec<Watched>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Scheduled>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub functions: Vec<String>,
}

impl Checked {
    /// That of code which declares nothing.
    pub(crate) fn nothing() -> Checked {
        Checked {
            ok: true,
            error: None,
            watchers: Vec::new(),
            schedules: Vec::new(),
            functions: Vec::new(),
        }
    }

    /// That of code which cannot even be checked.
    pub(crate) fn refused(message: String) -> Checked {
        let error = Some(Mistake { message, line: None, column: None, text: None });
        Checked { ok: false, error, ..Checked::nothing() }
    }
}

/// What is wrong with code, and where.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq)]
pub(crate) struct Mistake {
    pub message: String,
    pub line: Option<u32>,
    pub column: Option<u32>,
    pub text: Option<String>,
}

impl Mistake {
    /// In one line.
    pub(crate) fn line(&self) -> String {
        match (self.line, &self.text) {
            (Some(line), Some(text)) => {
                format!("line {line}: {}: {}", self.message, text.trim())
            }
            (Some(line), None) => format!("line {line}: {}", self.message),
            _ => self.message.clone(),
        }
    }
}

/// A watcher that code declares.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq)]
pub(crate) struct Watched {
    pub id: String,
    pub function: String,
    #[serde(default)]
    pub line: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ax: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub predicates: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contexts: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actors: Vec<String>,
    #[serde(default)]
    pub max_fires_per_second: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub since: String,
}

/// A schedule that code declares.
#[derive(Debug, Clone, Deserialize, Serialize, PartialEq)]
pub(crate) struct Scheduled {
    pub id: String,
    pub function: String,
    #[serde(default)]
    pub line: u32,
    pub every_secs: u32,
    #[serde(default)]
    pub description: String,
}

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoFrame {
    /// The other end is closed.
    #[error("the connection was closed")]
    Closed,
    /// What came is no frame.
    #[error("{0}")]
    Garbage(String),
}

/// The plugin's end of the socket.
pub(crate) struct Link {
    stream: UnixStream,
    buffer: BytesMut,
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> Link {
        Link { stream, buffer: BytesMut::new() }
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, head: &impl Serialize, blob: &[u8]) -> io::Result<()> {
        let mut frame = vec![0; LENGTHS_BYTES];
        serde_json::to_writer(&mut frame, head)?;
        let lengths = (frame.len() - LENGTHS_BYTES, blob.len());
        let length = |bytes| u32::try_from(bytes).map_err(io::Error::other);
        frame[..4].copy_from_slice(&length(lengths.0)?.to_be_bytes());
        frame[4..LENGTHS_BYTES].copy_from_slice(&length(lengths.1)?.to_be_bytes());
        frame.extend_from_slice(blob);
        self.stream.write_all(&frame).await
    }

    /// Sends bytes as they are: before the worker speaks in frames.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Waits for a line of text: before the worker speaks in frames.
    pub(crate) async fn line(&mut self) -> Result<String, NoFrame> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.buffer.len() > 1_000 {
                return Err(NoFrame::Garbage("a line without an end".to_owned()));
            }
            self.more().await?;
        }
    }

    /// Waits for a message.
    pub(crate) async fn receive(&mut self) -> Result<(Message, Bytes), NoFrame> {
        loop {
            if let Some((head, blob)) = self.whole_frame()? {
                let message = serde_json::from_slice(&head)
                    .map_err(|error| NoFrame::Garbage(format!("no message: {error}")))?;
                return Ok((message, blob));
            }
            self.more().await?;
        }
    }

    /// The bytes of a result must be JSON.
    pub(crate) fn json_of(blob: &[u8]) -> Result<&RawValue, NoFrame> {
        serde_json::from_slice(blob)
            .map_err(|error| NoFrame::Garbage(format!("a result that is no JSON: {error}")))
    }

    /// Whether the worker has said nothing, and not gone, since it was last listened to.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let read = self.stream.try_read(&mut byte);
        self.buffer.is_empty()
            && matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    fn whole_frame(&mut self) -> Result<Option<(Bytes, Bytes)>, NoFrame> {
        let Some(lengths) = self.buffer.first_chunk::<LENGTHS_BYTES>() else { return Ok(None) };
        let length = |at: usize| {
            u32::from_be_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]])
                as usize
        };
        let (head, blob) = (length(0), length(4));
        if head > HEAD_BYTES_MAX || blob > BLOB_BYTES_MAX {
            return Err(NoFrame::Garbage(format!("a message of {head} and {blob} bytes")));
        }
        if self.buffer.len() < LENGTHS_BYTES + head + blob {
            return Ok(None);
        }
        self.buffer.advance(LENGTHS_BYTES);
        let head = self.buffer.split_to(head).freeze();
        Ok(Some((head, self.buffer.split_to(blob).freeze())))
    }

    async fn more(&mut self) -> Result<(), NoFrame> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(NoFrame::Closed),
            Ok(_) => Ok(()),
        }
    }
}
