//! What a plugin writes on its standard output and error: log lines, of whatever kind.
//!
//! In: any bytes, at any speed, for the whole life of the process. Out: `tracing` events with the
//! plugin's name, bounded in length and rate, without control characters and without the token. One
//! line is no log: the port announcement, which the readiness of the plugin waits for.
//!
//! Both streams are always read to their end, whatever they hold: a plugin must never stand still
//! because nobody reads what it has to say.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axwatch_model::bounds::cut;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::watch;

use super::tail::Log;
use super::token::Token;

/// Bytes of one line; the rest of a longer one is dropped.
pub(crate) const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes that one plugin may write to the log in a second, both streams together.
const BYTES_PER_SECOND_MAX: usize = 256 * 1024;
/// Bytes of the last line that are kept to explain why a process ended.
const LAST_WORDS_BYTES_MAX: usize = 300;
/// What was said longer than this before the end explains nothing.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(5);
/// Times that a process may change its mind about its port.
const ANNOUNCEMENTS_MAX: u32 = 16;
/// How a plugin says which port it took.
const ANNOUNCEMENT: &[u8] = b"QNTX_PLUGIN_PORT=";

/// Which of a process's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output, which may hold the announcement.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        }
    }
}

/// The stream of what the host says about a plugin.
pub(crate) const HOST: &str = "host";
/// The stream of what comes with the answer to a job.
pub(crate) const JOB: &str = "job";

/// How bad a line is, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Something failed.
    Error,
    /// Something may be wrong.
    Warn,
    /// The usual.
    Info,
    /// For whoever looks closely.
    Debug,
}

impl Level {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        }
    }
}

/// The last line of each stream, and when it came.
#[derive(Default)]
struct LastWords {
    out: Option<(String, Instant)>,
    err: Option<(String, Instant)>,
}

/// What reads a plugin's output: shared by the two streams of one process.
pub(crate) struct Capture {
    /// Whose output it is.
    plugin: String,
    token: Arc<Token>,
    log: Arc<Log>,
    allowance: Mutex<Allowance>,
    port: watch::Sender<Option<u16>>,
    port_changes: Mutex<u32>,
    last_words: Mutex<LastWords>,
}

impl Capture {
    /// For the process that has this token. Its lines go to our log and to this one.
    pub(crate) fn new(plugin: &str, token: Arc<Token>, log: Arc<Log>) -> Arc<Capture> {
        Arc::new(Capture {
            plugin: plugin.to_owned(),
            token,
            log,
            allowance: Mutex::new(Allowance::new(Instant::now())),
            port: watch::Sender::new(None),
            port_changes: Mutex::new(0),
            last_words: Mutex::default(),
        })
    }

    /// The last line that was shown shortly before the end, cut to what fits into a reason: of standard
    /// error if there was one, since the two streams are read side by side and complaints are made there.
    pub(crate) fn last_words(&self, ended: Instant) -> Option<String> {
        let last = self.last_words.lock().expect("no holder of the last words panics");
        let recent = |(_, at): &&(String, Instant)| {
            ended.saturating_duration_since(*at) <= LAST_WORDS_WITHIN
        };
        let recent = |said: &Option<(String, Instant)>| said.as_ref().filter(recent).cloned();
        recent(&last.err).or_else(|| recent(&last.out)).map(|(words, _)| words)
    }

    /// The port that the process has announced so far.
    pub(crate) fn port(&self) -> watch::Receiver<Option<u16>> {
        self.port.subscribe()
    }

    /// Reads a stream to its end.
    pub(crate) async fn drain(self: Arc<Capture>, source: impl AsyncRead + Unpin, stream: Stream) {
        let mut source = BufReader::with_capacity(16 * 1024, source);
        let mut line = Vec::new();
        // A stream that cannot be read any more has ended as far as anyone can tell.
        while let Ok(true) = next_line(&mut source, &mut line, self.line_bytes_kept()).await {
            self.take(&line, stream);
        }
        self.report_suppressed(Instant::now(), true);
    }

    /// More than is shown, so that a secret on the edge is still seen whole.
    fn line_bytes_kept(&self) -> usize {
        LINE_BYTES_MAX + self.token.longest()
    }

    fn take(&self, line: &[u8], stream: Stream) {
        if stream == Stream::Out
            && let Some(port) = announced_port(line)
        {
            self.hear_port(port);
            return;
        }
        if !self.admits(line.len().min(LINE_BYTES_MAX)) {
            return;
        }
        let text = readable(line, &self.token);
        if !text.is_empty() {
            let (level, message) = understand(&text);
            // What was escaped in JSON is not any more.
            let message = self.token.redact(message);
            log(&self.plugin, stream, level, &message);
            self.log.push(level.as_str(), stream.as_str(), &message, None);
            self.remember(stream, &message);
        }
    }

    /// Whether so much more may be logged in this second. What may not is counted.
    pub(crate) fn admits(&self, bytes: usize) -> bool {
        let now = Instant::now();
        self.report_suppressed(now, false);
        self.lock().admits(bytes, now)
    }

    /// What people read.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    fn remember(&self, stream: Stream, message: &str) {
        let words = (cut(message, LAST_WORDS_BYTES_MAX).to_owned(), Instant::now());
        let mut last = self.last_words.lock().expect("no holder of the last words panics");
        match stream {
            Stream::Out => last.out = Some(words),
            Stream::Err => last.err = Some(words),
        }
    }

    /// Nobody has to listen to a process that cannot decide.
    fn hear_port(&self, port: u16) {
        let changes = &mut *self.port_changes.lock().expect("no holder of the count panics");
        if *self.port.borrow() != Some(port) && *changes < ANNOUNCEMENTS_MAX {
            *changes += 1;
            self.port.send_replace(Some(port));
        }
    }

    fn report_suppressed(&self, now: Instant, at_end: bool) {
        let suppressed = self.lock().take_suppressed(now, at_end);
        if suppressed > 0 {
            let words = format!(
                "{suppressed} lines of output suppressed: more than {BYTES_PER_SECOND_MAX} bytes in a second"
            );
            tracing::warn!(target: "axwatch::plugin", plugin = self.plugin, "{words}");
            self.log.push(Level::Warn.as_str(), HOST, &words, None);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Allowance> {
        self.allowance.lock().expect("no holder of an output's allowance panics")
    }
}

/// Writes a line to the log, under the plugin's name.
fn log(plugin: &str, stream: Stream, level: Level, message: &str) {
    let stream = stream.as_str();
    match level {
        Level::Error => tracing::error!(target: "axwatch::plugin", plugin, stream, "{message}"),
        Level::Warn => tracing::warn!(target: "axwatch::plugin", plugin, stream, "{message}"),
        Level::Info => tracing::info!(target: "axwatch::plugin", plugin, stream, "{message}"),
        Level::Debug => tracing::debug!(target: "axwatch::plugin", plugin, stream, "{message}"),
    }
}

/// Reads up to the next line end, keeping at most `kept` bytes. False at the end of the stream.
async fn next_line(
    source: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    kept: usize,
) -> std::io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let chunk = source.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let content = &chunk[..end.unwrap_or(chunk.len())];
        let room = kept.saturating_sub(line.len());
        line.extend_from_slice(&content[..content.len().min(room)]);
        let used = end.map_or(chunk.len(), |end| end + 1);
        source.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// The port in an announcement; `None` when the line is something else.
fn announced_port(line: &[u8]) -> Option<u16> {
    let number = line.trim_ascii().strip_prefix(ANNOUNCEMENT)?;
    std::str::from_utf8(number).ok()?.parse().ok().filter(|&port| port != 0)
}

/// A line as it may be shown: text, without control characters and escape sequences, without the
/// secret, and no longer than [`LINE_BYTES_MAX`].
fn readable(line: &[u8], token: &Token) -> String {
    let secret = token.expose();
    // After the cleaning, so that nothing between its characters hides the secret.
    let text = token.redact(without_controls(&String::from_utf8_lossy(line)));
    let trimmed = cut(text.trim_end(), LINE_BYTES_MAX);
    // Secrets that the bound of reading cut in two.
    let trimmed = if line.len() > LINE_BYTES_MAX { token.without_part(trimmed) } else { trimmed };
    let partial = (16..secret.len()).rev().find(|&n| trimmed.ends_with(&secret[..n]));
    let shown = trimmed.len() - partial.unwrap_or(0);
    trimmed[..shown].to_owned()
}

/// A text without control characters (but tabs) and without ANSI escape sequences.
pub(crate) fn without_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => skip_escape(&mut chars),
            '\t' => out.push(c),
            // The lines of a text stay apart as words.
            '\n' => out.push(' '),
            // Also what turns a line around for the eye.
            c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) => {}
            c => out.push(c),
        }
    }
    out
}

/// Skips what follows an escape character: `[…letter`, `]…BEL` or `]…ESC \`, or one character.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => {
            chars.find(|c| ('\x40'..='\x7e').contains(c));
        }
        Some(']') => {
            let end = chars.find(|&c| c == '\x07' || c == '\x1b');
            if end == Some('\x1b') {
                chars.next_if_eq(&'\\');
            }
        }
        _ => {}
    }
}

/// What a line says: its level and its words when it is a JSON object with a `level`, else itself.
fn understand(line: &str) -> (Level, String) {
    let Some(mut entry) = json_with_level(line) else { return (Level::Info, line.to_owned()) };
    let level = entry.get("level").map_or(Level::Info, level_of);
    entry.remove("level");
    let words = ["message", "msg", "event"].into_iter().find_map(|key| match entry.remove(key) {
        Some(serde_json::Value::String(words)) => Some(words),
        _ => None,
    });
    // A JSON text may hold escaped control characters, which are real ones by now.
    let words = without_controls(&words.unwrap_or_default());
    let rest =
        if entry.is_empty() { String::new() } else { serde_json::Value::Object(entry).to_string() };
    let blank = if words.is_empty() || rest.is_empty() { "" } else { " " };
    (level, format!("{words}{blank}{rest}"))
}

fn json_with_level(line: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    if !line.trim_start().starts_with('{') {
        return None;
    }
    let entry: serde_json::Map<_, _> = serde_json::from_str(line).ok()?;
    entry.contains_key("level").then_some(entry)
}

fn level_of(value: &serde_json::Value) -> Level {
    match value {
        serde_json::Value::String(name) => level_named(name),
        // Bunyan and pino: 20 debug, 30 info, 40 warn, 50 error, 60 fatal.
        serde_json::Value::Number(number) => match number.as_u64().unwrap_or(30) {
            50.. => Level::Error,
            40..50 => Level::Warn,
            30..40 => Level::Info,
            _ => Level::Debug,
        },
        _ => Level::Info,
    }
}

/// The level that goes by this name in some logging library.
pub(crate) fn level_named(name: &str) -> Level {
    match name.to_ascii_lowercase().as_str() {
        "error" | "err" | "fatal" | "panic" | "dpanic" | "critical" => Level::Error,
        "warn" | "warning" => Level::Warn,
        "debug" | "trace" => Level::Debug,
        _ => Level::Info,
    }
}

/// How much a plugin may still write in this second.
struct Allowance {
    second_began: Instant,
    bytes_left: usize,
    suppressed: u64,
}

impl Allowance {
    fn new(now: Instant) -> Allowance {
        Allowance { second_began: now, bytes_left: BYTES_PER_SECOND_MAX, suppressed: 0 }
    }

    fn admits(&mut self, bytes: usize, now: Instant) -> bool {
        if self.second_is_over(now) {
            self.second_began = now;
            self.bytes_left = BYTES_PER_SECOND_MAX;
        }
        // Empty lines cost too.
        let fits = self.bytes_left > bytes;
        if fits {
            self.bytes_left -= bytes + 1;
        } else {
            self.suppressed += 1;
        }
        fits
    }

    /// How many lines were held back, once the second in which they were is over.
    fn take_suppressed(&mut self, now: Instant, at_end: bool) -> u64 {
        if at_end || self.second_is_over(now) { std::mem::take(&mut self.suppressed) } else { 0 }
    }

    fn second_is_over(&self, now: Instant) -> bool {
        now.duration_since(self.second_began) >= Duration::from_secs(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::tail::Told;

    const SECRET: &str = "5ec2e7a0b1c2d3e45ec2e7a0b1c2d3e4";

    #[test]
    fn a_line_is_made_readable() {
        let token = Token::known(SECRET);
        let half = format!("key={}", &SECRET[..20]);
        let cases: [(&[u8], &str); 8] = [
            (b"plain", "plain"),
            (b"\x1b[1;31mred\x1b[0m alert\r", "red alert"),
            (b"\x1b]0;title\x07words \x1b]8;;http://x\x1b\\link", "words link"),
            (b"bell\x07 null\x00 tab\t.", "bell null tab\t."),
            (b"broken \xff utf", "broken \u{fffd} utf"),
            ("turned \u{202e}round".as_bytes(), "turned round"),
            (b"auth_token: 5ec2e7a0b1c2d3e4\x1b[0m5ec2e7a0b1c2d3e4!", "auth_token: [redacted]!"),
            (half.as_bytes(), "key="),
        ];
        for (line, expected) in cases {
            assert_eq!(readable(line, &token), expected, "{}", line.escape_ascii());
        }
        assert_eq!(readable(&[b'x'; LINE_BYTES_MAX + 40], &token).len(), LINE_BYTES_MAX);
    }

    #[test]
    fn a_json_line_says_its_level() {
        let cases = [
            ("words", Level::Info, "words"),
            (r#"{"level":"WARNING","msg":"low"}"#, Level::Warn, "low"),
            (r#"{"level":"error","message":"no","code":7}"#, Level::Error, r#"no {"code":7}"#),
            (r#"{"level":20,"msg":"pino"}"#, Level::Debug, "pino"),
            (r#"{"level":"info","msg":"\u001b[2Jclear"}"#, Level::Info, "clear"),
            (r#"{"level":"info","msg":"two\nlines"}"#, Level::Info, "two lines"),
            (r#"{"msg":"no level"}"#, Level::Info, r#"{"msg":"no level"}"#),
            (r#"{"level":"error""#, Level::Info, r#"{"level":"error""#),
        ];
        for (line, level, words) in cases {
            let cleaned = without_controls(line);
            let (found, message) = understand(&cleaned);
            assert_eq!(found, level, "{line}");
            assert!(message.starts_with(words) || message.ends_with(words), "{line}: {message}");
        }
    }

    #[test]
    fn a_secret_is_found_in_json_and_on_the_edge_of_a_line() {
        let token = Arc::new(Token::known(SECRET));
        let secret = "caf\u{e9}-<hunter2>-and-more";
        token.hide(&[secret.to_owned()].into());
        let log = Arc::new(Log::new(Arc::new(axwatch_model::SystemClock::new())));
        let capture = Capture::new("git", token.clone(), log);
        let escaped: String = secret.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        let line = format!(r#"{{"level":"info","msg":"it is {escaped}","key":"{escaped}"}}"#);
        capture.take(line.as_bytes(), Stream::Out);
        assert_eq!(
            capture.last_words(Instant::now()).unwrap(),
            r#"it is [redacted] {"key":"[redacted]"}"#
        );
        for before in LINE_BYTES_MAX - 40..LINE_BYTES_MAX {
            let mut line = format!("{}{secret} and on", "x".repeat(before)).into_bytes();
            line.truncate(capture.line_bytes_kept());
            assert!(!readable(&line, &token).contains("caf\u{e9}-"), "{before}");
        }
    }

    #[test]
    fn an_announcement_is_recognised_and_nothing_else_is() {
        let cases: [(&[u8], Option<u16>); 6] = [
            (b"QNTX_PLUGIN_PORT=4711", Some(4711)),
            (b"  QNTX_PLUGIN_PORT=4711\r", Some(4711)),
            (b"QNTX_PLUGIN_PORT=0", None),
            (b"QNTX_PLUGIN_PORT=70000", None),
            (b"QNTX_PLUGIN_PORT=", None),
            (b"listening: QNTX_PLUGIN_PORT=4711", None),
        ];
        for (line, port) in cases {
            assert_eq!(announced_port(line), port, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_flood_is_counted_instead_of_written() {
        let began = Instant::now();
        let mut allowance = Allowance::new(began);
        let admitted = (0..1_000).filter(|_| allowance.admits(1_023, began)).count();
        assert_eq!(admitted, BYTES_PER_SECOND_MAX / 1_024);
        assert_eq!(allowance.take_suppressed(began, false), 0);
        let later = began + Duration::from_secs(1);
        assert_eq!(allowance.take_suppressed(later, false), 1_000 - admitted as u64);
        assert!(allowance.admits(1_023, later));
        assert_eq!(allowance.take_suppressed(later, true), 0);
    }

    #[tokio::test]
    async fn a_line_without_an_end_is_read_within_bounds() {
        let mut bytes = vec![b'x'; 300_000];
        bytes.extend_from_slice(b"\nQNTX_PLUGIN_PORT=4711\nlast");
        let mut source = BufReader::with_capacity(1_000, bytes.as_slice());
        let mut line = Vec::new();
        let mut lengths = Vec::new();
        while next_line(&mut source, &mut line, 100).await.unwrap() {
            lengths.push(line.len());
            assert!(line.capacity() < 1_000);
        }
        assert_eq!(lengths, [100, 21, 4]);

        let clock = Arc::new(axwatch_model::SystemClock::new());
        let log = Arc::new(Log::new(clock));
        let capture = Capture::new("git", Arc::new(Token::random()), log.clone());
        let port = capture.port();
        capture.clone().drain(bytes.as_slice(), Stream::Out).await;
        assert_eq!(*port.borrow(), Some(4711));
        assert_eq!(capture.last_words(Instant::now()).as_deref(), Some("last"));
        capture.clone().drain(b"no such table\n\n".as_slice(), Stream::Err).await;
        capture.clone().drain(b"later".as_slice(), Stream::Out).await;
        let now = Instant::now();
        assert_eq!(capture.last_words(now).as_deref(), Some("no such table"));
        // Before the last of the output was read.
        let earlier = now.checked_sub(Duration::from_secs(1)).unwrap();
        assert_eq!(capture.last_words(earlier).as_deref(), Some("no such table"));
        assert_eq!(
            capture.last_words(now + 2 * LAST_WORDS_WITHIN),
            None,
            "that was of something else"
        );
        let Some(Told::Lines(lines)) = log.tail(2).ready() else { panic!("there are lines") };
        let said: Vec<_> = lines.iter().map(|line| (line.stream, &line.message[..])).collect();
        assert_eq!(said, [("stderr", "no such table"), ("stdout", "later")]);
    }
}
