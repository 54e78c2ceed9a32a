//! Many claims at once: JSON lines in, one answer a line out, in order, with bounded memory.
//!
//! [`Splitter`] cuts bytes into lines, [`Chunk`] holds as many as are appended together, [`read`]
//! makes claims of them and remembers which line is which. The API, and `axwatch as -` with a server
//! and without, all go this way.

use std::collections::VecDeque;

use axwatch_model::{AttestationId, Draft, Incoming, InvalidDraft};

use crate::views::{Appended, LineAnswer};

/// Lines that are appended together at most.
pub const CHUNK_LINES_MAX: usize = 1_000;
/// Bytes of lines that are appended together at most, the first line aside.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one line: a claim with all its terms and attributes at their bounds fits, even escaped.
pub const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// One line of input, or why it is none.
pub type Line = Result<String, &'static str>;

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Splitter {
    rest: Vec<u8>,
    /// The line at hand is too long, and passed over up to its end.
    skipping: bool,
}

impl Splitter {
    /// Takes the next bytes and gives the lines that they complete.
    pub fn push(&mut self, mut bytes: &[u8], lines: &mut VecDeque<Line>) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.take(&bytes[..end]);
            lines.push_back(self.end_line());
            bytes = &bytes[end + 1..];
        }
        self.take(bytes);
    }

    /// Bytes of the line that has begun and not ended.
    pub fn begun(&self) -> usize {
        self.rest.len()
    }

    /// At the end of the input: the last line, when no line end closed it.
    pub fn finish(&mut self) -> Option<Line> {
        (self.skipping || !self.rest.is_empty()).then(|| self.end_line())
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.skipping {
            return;
        }
        if self.rest.len() + bytes.len() > LINE_BYTES_MAX {
            self.skipping = true;
            self.rest = Vec::new();
        } else {
            self.rest.extend_from_slice(bytes);
        }
    }

    fn end_line(&mut self) -> Line {
        let line = std::mem::take(&mut self.rest);
        if std::mem::take(&mut self.skipping) {
            return Err("the line is longer than 8 MiB");
        }
        String::from_utf8(line).map_err(|_| "the line is not UTF-8")
    }
}

/// Lines that are appended together, with the number of the first.
#[derive(Debug, Default)]
pub struct Chunk {
    /// The number of the first line, from 1.
    pub first_line: u64,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Takes as many lines off the front as are appended together. `next_line` is the number of the first
/// of them, and moves on.
pub fn take_chunk(waiting: &mut VecDeque<Line>, next_line: &mut u64) -> Chunk {
    let mut chunk = Chunk { first_line: *next_line, lines: Vec::new() };
    let mut bytes = 0;
    while let Some(line) = waiting.front() {
        bytes += line.as_ref().map_or(0, String::len);
        let full = chunk.lines.len() == CHUNK_LINES_MAX || bytes > CHUNK_BYTES_MAX;
        if full && !chunk.lines.is_empty() {
            break;
        }
        chunk.lines.extend(waiting.pop_front());
    }
    *next_line += chunk.lines.len() as u64;
    chunk
}

/// Claims out of lines, and what is known of each line before they are appended.
#[derive(Debug, Default)]
pub struct Read {
    /// The claims, in the order of their lines.
    pub incoming: Vec<Incoming>,
    /// For each line the id of its claim, or why there is none.
    lines: Vec<Result<AttestationId, String>>,
    first_line: u64,
}

/// Makes claims of lines. `complete` checks a draft and fills its gaps.
pub fn read(
    chunk: &Chunk,
    mut complete: impl FnMut(Draft) -> Result<Incoming, InvalidDraft>,
) -> Read {
    let mut read = Read { first_line: chunk.first_line, ..Read::default() };
    for line in &chunk.lines {
        let claim = match line {
            Err(problem) => Err((*problem).to_owned()),
            Ok(line) if line.trim().is_empty() => Err("the line is empty".to_owned()),
            Ok(line) => {
                Draft::from_json(line).and_then(&mut complete).map_err(|error| error.to_string())
            }
        };
        read.lines.push(claim.map(|claim| {
            let id = claim.attestation.id.clone();
            read.incoming.push(claim);
            id
        }));
    }
    read
}

/// Puts what became of the claims back to their lines. There is an outcome for each claim.
pub fn answers(
    lines: Read,
    outcomes: impl IntoIterator<Item = Result<crate::bulk::Outcome, String>>,
) -> Vec<LineAnswer> {
    let mut outcomes = outcomes.into_iter();
    let numbered = (lines.first_line..).zip(lines.lines);
    let answer = |(line, claim): (u64, Result<AttestationId, String>)| {
        let appended = claim.and_then(|id| {
            let outcome = outcomes.next().expect("every claim has an outcome")?;
            Ok(Appended { id, seq: outcome.0, fires: outcome.1 })
        });
        appended.map_or_else(|error| LineAnswer::Refused { line, error }, LineAnswer::Appended)
    };
    numbered.map(answer).collect()
}

/// Where a claim stands and what it caused.
pub type Outcome = (axwatch_model::Seq, crate::views::FireCount);

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::{DefaultActor, Defaults, Seq, Timestamp};

    #[test]
    fn bytes_become_lines_however_they_come() {
        let (mut splitter, mut lines) = (Splitter::default(), VecDeque::new());
        for piece in [b"a\nb".as_slice(), b"c\n\n", b"\xff\n", b"last"] {
            splitter.push(piece, &mut lines);
        }
        lines.extend(splitter.finish());
        let lines: Vec<_> = lines.iter().map(|l| l.as_deref().map_err(|e| *e)).collect();
        assert_eq!(lines, [Ok("a"), Ok("bc"), Ok(""), Err("the line is not UTF-8"), Ok("last")]);
        assert_eq!(splitter.finish(), None);
    }

    #[test]
    fn a_line_without_end_does_not_fill_memory() {
        let (mut splitter, mut lines) = (Splitter::default(), VecDeque::new());
        let piece = vec![b'x'; 1024 * 1024];
        for _ in 0..20 {
            splitter.push(&piece, &mut lines);
            assert!(splitter.rest.len() <= LINE_BYTES_MAX);
        }
        splitter.push(b"x\nok\n", &mut lines);
        assert_eq!(lines, [Err("the line is longer than 8 MiB"), Ok("ok".to_owned())]);
    }

    #[test]
    fn a_chunk_is_bounded_in_lines_and_bytes() {
        let mut next_line = 1;
        let mut waiting: VecDeque<Line> = (0..1_500).map(|i| Ok(i.to_string())).collect();
        assert_eq!(take_chunk(&mut waiting, &mut next_line).lines.len(), 1_000);
        let chunk = take_chunk(&mut waiting, &mut next_line);
        assert_eq!((chunk.first_line, chunk.lines.len(), next_line), (1_001, 500, 1_501));
        let large = "x".repeat(CHUNK_BYTES_MAX + 1);
        let mut waiting: VecDeque<Line> = [large.clone(), large].map(Ok).into();
        assert_eq!(take_chunk(&mut waiting, &mut next_line).lines.len(), 1);
    }

    #[test]
    fn each_line_gets_its_answer() {
        let defaults = Defaults { actor: DefaultActor::OwnId, source: "x".into() };
        let now = Timestamp::from_ms(0).unwrap();
        let lines = [r#"{"id":"a","subjects":["x"]}"#, "", "{", r#"{"id":"b","subjects":["x"]}"#];
        let chunk =
            Chunk { first_line: 5, lines: lines.iter().map(|&l| Ok(l.to_owned())).collect() };
        let read = read(&chunk, |draft| draft.complete(&defaults, "user", now, 0));
        assert_eq!(read.incoming.len(), 2);
        let outcomes = [Ok((Seq(9), crate::views::FireCount::Now(1))), Err("differs".to_owned())];
        let answers: Vec<_> =
            answers(read, outcomes).iter().map(|a| serde_json::to_string(a).unwrap()).collect();
        assert_eq!(answers[0], r#"{"id":"a","seq":9,"fires":1}"#);
        assert_eq!(answers[1], r#"{"line":6,"error":"the line is empty"}"#);
        assert!(answers[2].starts_with(r#"{"line":7,"error":"not valid JSON"#), "{}", answers[2]);
        assert_eq!(answers[3], r#"{"line":8,"error":"differs"}"#);
    }
}
