//! Speaking to a running server: HTTP/1, one connection, one request at a time.
//!
//! Not here: how a server is found (`crate::source`), what its answers mean (`crate::views`).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::tls;

/// The content types that the API takes.
pub const JSON: &str = "application/json";
/// One JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no server answers at {address}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// It went away, or stopped in the middle of an answer.
    #[error("the server at {address} was lost; whether the last request took effect is unknown")]
    Lost {
        /// Where.
        address: SocketAddr,
        /// What was seen.
        source: Option<hyper::Error>,
    },
    /// It went away in the middle of an answer that only reads.
    #[error("the server at {address} was lost before its answer ended")]
    CutOff {
        /// Where.
        address: SocketAddr,
        /// What was seen.
        source: Option<hyper::Error>,
    },
    /// It refused.
    #[error(transparent)]
    Server(#[from] Refusal),
    /// It answered something that this axwatch does not understand.
    #[error("the server's answer is not understood ({problem}); is it another version of axwatch?")]
    Garbled {
        /// What is wrong with it.
        problem: String,
    },
}

/// What a server says when it refuses: `error` of the answer's JSON.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// A stable name for programs.
    pub kind: String,
    /// For people.
    pub message: String,
    /// The mistakes of an AX text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mistakes: Option<serde_json::Value>,
}

/// The JSON of a refusal.
#[derive(Serialize, Deserialize)]
pub struct RefusalJson {
    /// What went wrong.
    pub error: Refusal,
}

/// How long a connection may have been idle to be used again: a server closes it a little later, and
/// a request that meets that would be lost.
const IDLE_MAX: Duration = Duration::from_secs(2);

/// A server that is spoken to.
pub struct Client {
    address: SocketAddr,
    token: String,
    tls: Option<TlsConnector>,
    connection: Mutex<Option<(SendRequest<Full<Bytes>>, Instant)>>,
}

impl Client {
    /// A server at this address, which wants this token. Nothing is sent yet.
    pub fn new(address: SocketAddr, token: String) -> Client {
        Client { address, token, tls: None, connection: Mutex::new(None) }
    }

    /// The same, of a server that speaks TLS with exactly this certificate: its SHA-256, in hex.
    ///
    /// # Errors
    /// When the TLS library does not go with itself.
    pub fn with_tls(
        address: SocketAddr,
        token: String,
        certificate: &str,
    ) -> anyhow::Result<Client> {
        Ok(Client { tls: Some(tls::connector(certificate)?), ..Client::new(address, token) })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, JSON, Bytes::new()).await
    }

    /// Sends a JSON body, or none, and reads a JSON answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body)
            .map_err(|error| ClientError::Garbled { problem: error.to_string() })?;
        self.json(method, path, JSON, body.into()).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let text = self.text(method, path, content_type, body).await?;
        serde_json::from_slice(&text)
            .map_err(|error| ClientError::Garbled { problem: error.to_string() })
    }

    /// Sends a body and reads the whole answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn text(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Bytes, ClientError> {
        let response = self.request(method, path, content_type, body).await?;
        self.collect(response.into_body()).await
    }

    /// Sends a body and reads the answer line by line as it comes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn lines(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Lines, ClientError> {
        let response = self.request(method, path, content_type, body).await?;
        Ok(Lines { address: self.address, body: response.into_body(), rest: Vec::new() })
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let whole = body.collect().await.map_err(|error| self.lost(Some(error)))?;
        Ok(whole.to_bytes())
    }

    fn lost(&self, source: Option<hyper::Error>) -> ClientError {
        ClientError::Lost { address: self.address, source }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(body))
            .map_err(|error| ClientError::Garbled { problem: error.to_string() })?;
        let mut connection = self.connection.lock().await;
        let usable = match connection.as_mut() {
            Some((open, used)) => used.elapsed() < IDLE_MAX && open.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            *connection = Some((self.connect().await?, Instant::now()));
        }
        let (open, used) = connection.as_mut().expect("it was just connected");
        let response = open.send_request(request).await.map_err(|error| self.lost(Some(error)))?;
        *used = Instant::now();
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = self.collect(response.into_body()).await?;
        match serde_json::from_slice::<RefusalJson>(&text) {
            Ok(refusal) => Err(ClientError::Server(refusal.error)),
            Err(_) => Err(ClientError::Garbled { problem: format!("status {status}") }),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let unreachable = |source| ClientError::Unreachable { address: self.address, source };
        let stream = TcpStream::connect(self.address).await.map_err(unreachable)?;
        // Small requests that are waited for gain nothing from being held back.
        stream.set_nodelay(true).map_err(unreachable)?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::from(self.address.ip());
                self.handshake(tls.connect(name, stream).await.map_err(unreachable)?).await
            }
            None => self.handshake(stream).await,
        }
    }

    async fn handshake(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.lost(Some(error)))?;
        // It ends with the sender; what goes wrong in it shows at the request.
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// An answer that comes line by line.
pub struct Lines {
    address: SocketAddr,
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that came together; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError`]: the server was lost, or said in a last line what went wrong.
    pub async fn next(&mut self) -> Result<Option<Vec<String>>, ClientError> {
        let lost = |source| ClientError::CutOff { address: self.address, source };
        loop {
            let Some(frame) = self.body.frame().await else {
                return if self.rest.is_empty() { Ok(None) } else { Err(lost(None)) };
            };
            let frame = frame.map_err(|error| lost(Some(error)))?;
            let Some(data) = frame.data_ref() else { continue };
            self.rest.extend_from_slice(data);
            let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { continue };
            let tail = self.rest.split_off(end + 1);
            let whole = std::mem::replace(&mut self.rest, tail);
            let text = String::from_utf8(whole)
                .map_err(|error| ClientError::Garbled { problem: error.to_string() })?;
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if let Some(refusal) = lines.last().and_then(|line| last_word(line)) {
                return Err(ClientError::Server(refusal));
            }
            return Ok(Some(lines));
        }
    }
}

/// A stream that had begun well can only tell in its last line that it went wrong.
fn last_word(line: &str) -> Option<Refusal> {
    if !line.starts_with(r#"{"error":{"#) {
        return None;
    }
    serde_json::from_str::<RefusalJson>(line).ok().map(|json| json.error)
}

/// A path with values in it: each is put behind it as `/value`, with what may not stand there escaped.
pub fn path(base: &str, parts: &[&str]) -> String {
    let mut path = base.to_owned();
    for part in parts {
        path.push('/');
        escape_into(part, &mut path);
    }
    path
}

/// A path with a query string of those values that are there.
pub fn with_query(base: &str, query: &[(&str, Option<String>)]) -> String {
    let mut path = base.to_owned();
    let mut mark = '?';
    for (key, value) in query {
        if let Some(value) = value {
            path.push(mark);
            path.push_str(key);
            path.push('=');
            escape_into(value, &mut path);
            mark = '&';
        }
    }
    path
}

fn escape_into(text: &str, path: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// Where a job is, in the API.
pub fn job_path(id: impl ToString) -> String {
    let id = id.to_string();
    // The list of dead letters has this name; digits may be capital, and it may not.
    let id = if id == "dead" { "DEAD" } else { &id };
    path("/api/v1/jobs", &[id])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_stand_in_a_path_is_escaped() {
        assert_eq!(path("/w", &["a/b c", "é"]), "/w/a%2Fb%20c/%C3%A9");
        assert_eq!(job_path("dead"), "/api/v1/jobs/DEAD");
        let query = [("a", Some("x&y".to_owned())), ("b", None), ("c", Some("1".to_owned()))];
        assert_eq!(with_query("/f", &query), "/f?a=x%26y&c=1");
    }

    #[test]
    fn only_an_error_object_is_a_last_word() {
        let refusal = last_word(r#"{"error":{"kind":"store","message":"gone"}}"#).unwrap();
        assert_eq!(refusal.to_string(), "gone");
        assert!(last_word(r#"{"error":"boom"}"#).is_none());
        assert!(last_word(r#"{"line":1,"error":"boom"}"#).is_none());
    }
}
