//! What a browser or an attacker says: requests with any headers, any body, and the whole answer.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use super::PATIENCE;

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Names in small letters, and values.
    pub headers: Vec<(String, String)>,
    /// Any bytes.
    pub body: Vec<u8>,
}

impl Answer {
    /// The values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let found = self.headers.iter().filter(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// It must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}: {:?}", self.text(), self.headers);
        self
    }

    /// The body must hold each of these.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Answer {
        for text in texts {
            assert!(self.text().contains(text), "no {text:?} in {}", self.text());
        }
        self
    }
}

/// Asks, with exactly these headers and the length of the body.
#[track_caller]
pub fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    // HTTP/1.0, so that the answer comes as it is and ends with the connection.
    let mut request = format!("{method} {path} HTTP/1.0\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut writing = stream.try_clone().expect("a socket can be shared");
    let mut whole = request.into_bytes();
    whole.extend_from_slice(body);
    // Who is refused half-way does not read the rest.
    let writer = std::thread::spawn(move || drop(writing.write_all(&whole)));
    let mut answer = Vec::new();
    let mut buffer = [0; 64 * 1024];
    // A connection that is reset after its answer has given it all the same.
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..read]);
    }
    drop(stream);
    let _ = writer.join();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("{method} {path}: no answer: {answer:?}"));
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    let header = |line: &str| {
        let (name, value) = line.split_once(':').expect("a header has a colon");
        (name.trim().to_ascii_lowercase(), value.trim().to_owned())
    };
    Answer {
        status: status.expect("an answer has a status"),
        headers: lines.map(header).collect(),
        body: answer[end + 4..].to_vec(),
    }
}
