//! Standard input as chunks of lines: read by a thread of its own, so that what has come can be
//! answered while more is waited for.

use std::collections::VecDeque;
use std::io::{self, Read as _};

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::bulk::{CHUNK_BYTES_MAX, CHUNK_LINES_MAX, Chunk, Line, Splitter, take_chunk};

/// Bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;
/// Pieces that wait; then the reader waits.
const PIECES_MAX: usize = 4;

/// Standard input.
pub struct Input {
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    splitter: Splitter,
    waiting: VecDeque<Line>,
    next_line: u64,
    is_over: bool,
}

impl Input {
    /// Begins to read.
    pub fn of_stdin() -> Result<Input> {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || read_all(&sender))
            .context("cannot start a thread that reads standard input")?;
        Ok(Input::of(pieces))
    }

    fn of(pieces: mpsc::Receiver<io::Result<Vec<u8>>>) -> Input {
        Input {
            pieces,
            splitter: Splitter::default(),
            waiting: VecDeque::new(),
            next_line: 1,
            is_over: false,
        }
    }

    /// The lines that have come and fit together; `None` when none has.
    pub fn try_next_chunk(&mut self) -> Result<Option<Chunk>> {
        let mut bytes = 0;
        while !self.is_over && self.waiting.len() < CHUNK_LINES_MAX && bytes < CHUNK_BYTES_MAX {
            match self.pieces.try_recv() {
                Ok(piece) => bytes += self.take(piece)?,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.end(),
            }
        }
        let chunk = take_chunk(&mut self.waiting, &mut self.next_line);
        Ok((!chunk.lines.is_empty()).then_some(chunk))
    }

    /// The same, but waits when none has come; `None` at the end.
    pub async fn next_chunk(&mut self) -> Result<Option<Chunk>> {
        while self.waiting.is_empty() && !self.is_over {
            match self.pieces.recv().await {
                Some(piece) => {
                    self.take(piece)?;
                }
                None => self.end(),
            }
        }
        self.try_next_chunk()
    }

    fn take(&mut self, piece: io::Result<Vec<u8>>) -> Result<usize> {
        let piece = piece.context("cannot read standard input")?;
        self.splitter.push(&piece, &mut self.waiting);
        Ok(piece.len())
    }

    fn end(&mut self) {
        self.is_over = true;
        self.waiting.extend(self.splitter.finish());
    }
}

fn read_all(sender: &mpsc::Sender<io::Result<Vec<u8>>>) {
    let mut stdin = io::stdin().lock();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let piece = match stdin.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => Ok(buffer[..length].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = piece.is_err();
        if sender.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_come_is_given_before_more_is_waited_for() {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let mut input = Input::of(pieces);
        assert!(input.try_next_chunk().unwrap().is_none());
        sender.send(Ok(b"a\nb".to_vec())).await.unwrap();
        let chunk = input.next_chunk().await.unwrap().unwrap();
        assert_eq!((chunk.first_line, chunk.lines), (1, vec![Ok("a".to_owned())]));
        assert!(input.try_next_chunk().unwrap().is_none());
        sender.send(Ok(b"c".to_vec())).await.unwrap();
        drop(sender);
        let chunk = input.next_chunk().await.unwrap().unwrap();
        assert_eq!((chunk.first_line, chunk.lines), (2, vec![Ok("bc".to_owned())]));
        assert!(input.next_chunk().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_failure_to_read_is_told() {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        sender.send(Err(io::Error::other("gone"))).await.unwrap();
        assert!(Input::of(pieces).next_chunk().await.is_err());
    }
}
