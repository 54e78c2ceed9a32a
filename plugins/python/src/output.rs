//! What the code of a handler prints: the beginning of it is kept, whole lines go to the job's log, and
//! nobody who prints ever waits for long.

use std::io;

use axwatch_sdk::Level;
use tokio::net::unix::pipe::Receiver;

/// Bytes that are kept of each of the two for the result.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// Lines of each of the two that go to the log.
const LINES_MAX: usize = 900;
/// Bytes of a line in the log.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// Bytes read at once: what a pipe holds.
const READ_BYTES: usize = 64 * 1024;

/// Standard output or standard error of a worker.
pub(crate) struct Output {
    pipe: Receiver,
    level: Level,
    buffer: Box<[u8]>,
    is_closed: bool,
    kept: Vec<u8>,
    /// Bytes of it all.
    bytes: u64,
    line: Vec<u8>,
    lines: usize,
}

/// A line for the log.
pub(crate) type Line = (Level, String);

impl Output {
    pub(crate) fn new(pipe: Receiver, level: Level) -> Output {
        Output {
            pipe,
            level,
            buffer: vec![0; READ_BYTES].into(),
            is_closed: false,
            kept: Vec::new(),
            bytes: 0,
            line: Vec::new(),
            lines: 0,
        }
    }

    /// Waits until there is something to [`Output::take_some`]; for ever once it is closed.
    pub(crate) async fn ready(&self) {
        if self.is_closed || self.pipe.readable().await.is_err() {
            std::future::pending().await
        }
    }

    /// Takes what is there, and tells its lines. Answers whether there may be more.
    pub(crate) fn take_some(&mut self, tell: &mut impl FnMut(Line)) -> bool {
        let read = self.pipe.try_read(&mut self.buffer);
        self.taken(read, tell)
    }

    fn taken(&mut self, read: io::Result<usize>, tell: &mut impl FnMut(Line)) -> bool {
        match read {
            Ok(0) => self.is_closed = true,
            Ok(count) => {
                let buffer = std::mem::take(&mut self.buffer);
                self.feed(&buffer[..count], tell);
                self.buffer = buffer;
                return count == READ_BYTES;
            }
            Err(error) => self.is_closed |= error.kind() != io::ErrorKind::WouldBlock,
        }
        false
    }

    /// Takes all that is there. What is printed meanwhile, by somebody who does not stop, is for later.
    pub(crate) fn take_all(&mut self, tell: &mut impl FnMut(Line)) {
        for _ in 0..64 {
            if self.is_closed {
                return;
            }
            // The pipe itself: what was just printed may not have been noticed yet.
            let read = rustix::io::read(&self.pipe, &mut *self.buffer).map_err(io::Error::from);
            if !self.taken(read, tell) {
                return;
            }
        }
    }

    /// The end of a job: what was printed, with a word on what was left out.
    pub(crate) fn finish(&mut self, tell: &mut impl FnMut(Line)) -> String {
        if !self.line.is_empty() {
            self.end_line(tell);
        }
        if self.lines > LINES_MAX {
            let more = self.lines - LINES_MAX;
            tell((
                Level::Warn,
                format!("{more} more lines were printed; their beginning is in the result"),
            ));
        }
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        if let left_out @ 1.. = self.bytes - self.kept.len() as u64 {
            text.push_str(&format!("\n[{left_out} more bytes were left out]"));
        }
        self.kept = Vec::new();
        (self.bytes, self.lines) = (0, 0);
        text
    }

    fn feed(&mut self, bytes: &[u8], tell: &mut impl FnMut(Line)) {
        self.bytes += bytes.len() as u64;
        let room = KEPT_BYTES_MAX - self.kept.len();
        self.kept.extend_from_slice(&bytes[..room.min(bytes.len())]);
        for (index, part) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if index > 0 {
                self.end_line(tell);
            }
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..room.min(part.len())]);
        }
    }

    fn end_line(&mut self, tell: &mut impl FnMut(Line)) {
        self.lines += 1;
        if self.lines <= LINES_MAX {
            let line = String::from_utf8_lossy(&self.line);
            tell((self.level, line.trim_end_matches('\r').to_owned()));
        }
        self.line.clear();
    }
}
