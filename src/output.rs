//! What a command prints: JSON lines for programs, aligned tables with colours for people.
//!
//! Everything goes through one buffered writer, which is flushed at the end and whenever a stream
//! pauses. A reader that went away ends the command quietly ([`Fault::OutputClosed`]).

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use axwatch_model::{JobState, ScheduleState, WatcherState};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::unix::pipe;

use crate::fault::Fault;

/// Where a command prints to.
pub struct Output {
    /// Whether it prints JSON lines.
    pub json: bool,
    is_terminal: bool,
    stdout: BufWriter<anstream::AutoStream<StdoutLock<'static>>>,
}

impl Output {
    /// Standard output.
    pub fn new(json: bool) -> Output {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Output {
            json,
            is_terminal,
            stdout: BufWriter::new(anstream::AutoStream::auto(stdout.lock())),
        }
    }

    /// Columns of the terminal that it prints to; `None` when it prints to none.
    pub fn terminal_columns(&self) -> Option<usize> {
        const USUAL: usize = 80;
        let size = || rustix::termios::tcgetwinsize(io::stdout()).map(|size| size.ws_col.into());
        self.is_terminal.then(|| size().ok().filter(|columns| *columns > 0).unwrap_or(USUAL))
    }

    /// One line of text or JSON.
    pub fn line(&mut self, text: &str) -> Result<()> {
        writeln!(self.stdout, "{text}").map_err(closed)
    }

    /// One object on one line.
    pub fn object<T: Serialize>(&mut self, view: &T) -> Result<()> {
        let line = serde_json::to_string(view)?;
        self.line(&line)
    }

    /// A word to a person that is no part of the answer, so that it disturbs no pipe: on standard error,
    /// after what was printed so far. Nothing for programs.
    pub fn note(&mut self, text: &str) -> Result<()> {
        if !self.json {
            self.flush()?;
            let dim = Style::new().dimmed();
            anstream::eprintln!("{dim}{text}{dim:#}");
        }
        Ok(())
    }

    /// Lets everything out.
    pub fn flush(&mut self) -> Result<()> {
        self.stdout.flush().map_err(closed)
    }

    /// The rows as an aligned table. Its columns stay as wide as those of the page before.
    pub fn table(&mut self, page: &mut TablePage) -> Result<()> {
        for line in page.render(self.is_terminal) {
            self.line(&line)?;
        }
        Ok(())
    }

    /// Names and what they are, aligned. Empty ones are left out.
    pub fn fields(&mut self, fields: &[(&str, String)]) -> Result<()> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let dim = Style::new().dimmed();
        for (name, text) in fields.iter().filter(|(_, text)| !text.is_empty()) {
            let text = text.replace('\n', &format!("\n{}", " ".repeat(width + 2)));
            self.line(&format!("{dim}{name:<width$}{dim:#}  {text}"))?;
        }
        Ok(())
    }

    /// A heading within longer output.
    pub fn heading(&mut self, text: &str) -> Result<()> {
        let bold = Style::new().bold();
        self.line(&format!("\n{bold}{text}{bold:#}"))
    }
}

/// Waits until nobody can read our output any more, for a command that has nothing to write for long:
/// only a write would tell it. Where the system does not tell (a file, a terminal) it waits forever.
///
/// # Errors
/// [`Fault::OutputClosed`] when it is so.
pub async fn reader_gone() -> Result<()> {
    // Unchecked, because the check would make the descriptor non-blocking, for our writes and for
    // whoever shares it. Nothing is written through this one.
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    if let Ok(pipe) = stdout.and_then(pipe::Sender::from_owned_fd_unchecked)
        && pipe.ready(Interest::ERROR).await.is_ok()
    {
        return Err(Fault::OutputClosed.into());
    }
    std::future::pending().await
}

fn closed(error: io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Fault::OutputClosed.into();
    }
    anyhow::Error::from(error).context("cannot write to standard output")
}

/// One page of a table that may have more.
pub struct TablePage {
    titles: &'static [&'static str],
    rows: Vec<(Style, Vec<String>)>,
    widths: Vec<u16>,
    is_first: bool,
}

/// Characters of one cell on a terminal; whoever wants more pipes it, or asks for JSON.
const CELL_CHARS_MAX: usize = 60;

impl TablePage {
    /// A table with these titles. One that begins with `#` is a number, and stands to the right.
    pub fn new(titles: &'static [&'static str]) -> TablePage {
        TablePage { titles, rows: Vec::new(), widths: vec![0; titles.len()], is_first: true }
    }

    /// Adds a row.
    pub fn row(&mut self, style: Style, cells: Vec<String>) {
        self.rows.push((style, cells));
    }

    /// How many rows have not been shown yet.
    pub fn waiting(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has never had a row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.is_first
    }

    fn render(&mut self, is_terminal: bool) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(self.titles.iter().map(|title| title.trim_start_matches('#')));
        let rows = std::mem::take(&mut self.rows);
        for (_, cells) in &rows {
            table.add_row(cells.iter().map(|cell| one_line(cell, is_terminal)));
        }
        for (i, title) in self.titles.iter().enumerate() {
            let Some(column) = table.column_mut(i) else { continue };
            // Two blanks between columns, none before the first or after the last.
            column.set_padding((0, 2));
            if title.starts_with('#') {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if self.widths[i] > 0 {
                let width = comfy_table::Width::Fixed(self.widths[i]);
                column.set_constraint(comfy_table::ColumnConstraint::LowerBoundary(width));
            }
        }
        for (kept, max) in self.widths.iter_mut().zip(table.column_max_content_widths()) {
            *kept = (*kept).max(max + 2);
        }
        let header = std::iter::once(Style::new().bold());
        let styles = header.chain(rows.into_iter().map(|(style, _)| style));
        let lines = table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        let skipped = usize::from(!self.is_first);
        self.is_first = false;
        let painted = styles.zip(lines).skip(skipped);
        painted.map(|(style, line)| format!("{style}{line}{style:#}")).collect()
    }
}

/// What fits into a cell: no control characters, and on a terminal not too much.
fn one_line(text: &str, is_terminal: bool) -> String {
    cut(text, if is_terminal { CELL_CHARS_MAX } else { usize::MAX })
}

/// The text without control characters, and with so many characters at most.
pub fn cut(text: &str, chars_max: usize) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() > chars_max {
        line = line.chars().take(chars_max.saturating_sub(1)).collect();
        line.push('…');
    }
    line
}

/// How a job's state looks.
pub fn job_style(state: JobState) -> Style {
    match state {
        JobState::Completed => AnsiColor::Green.on_default(),
        JobState::Failed => AnsiColor::Red.on_default(),
        JobState::Running => AnsiColor::Cyan.on_default(),
        JobState::Paused => AnsiColor::Yellow.on_default(),
        JobState::Cancelled => Style::new().dimmed(),
        JobState::Queued => Style::new(),
    }
}

/// How a watcher's state looks.
pub fn watcher_style(state: WatcherState) -> Style {
    match state {
        WatcherState::Live => Style::new(),
        WatcherState::CatchingUp => AnsiColor::Cyan.on_default(),
        WatcherState::Paused | WatcherState::Muted | WatcherState::WaitingForHandler => {
            AnsiColor::Yellow.on_default()
        }
        WatcherState::Broken | WatcherState::Refused => AnsiColor::Red.on_default(),
        WatcherState::Retired => Style::new().dimmed(),
    }
}

/// How a schedule's state looks.
pub fn schedule_style(state: ScheduleState) -> Style {
    match state {
        ScheduleState::Active => Style::new(),
        ScheduleState::Paused => AnsiColor::Yellow.on_default(),
        ScheduleState::Inactive | ScheduleState::Retired => Style::new().dimmed(),
    }
}

/// How a plugin's state looks.
pub fn plugin_style(state: &str) -> Style {
    match state {
        "ready" => AnsiColor::Green.on_default(),
        "failed" => AnsiColor::Red.on_default(),
        "stopped" => Style::new().dimmed(),
        _ => AnsiColor::Yellow.on_default(),
    }
}

/// A number of things: `1 claim`, `2 claims`.
pub fn counted(count: u64, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

/// Bytes in the unit that people read.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return counted(bytes, "byte");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A span of time in the two units that people read.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..10 => format!("{:.1} s", span.as_millis() as f64 / 1000.0),
        10..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    match small {
        0 => format!("{large} {large_unit}"),
        _ => format!("{large} {large_unit} {small} {small_unit}"),
    }
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@+%=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The text of something that may not be there.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_goes_on_where_it_was() {
        let mut page = TablePage::new(&["ID", "#N"]);
        page.row(Style::new(), vec!["long-identifier".into(), "1".into()]);
        page.row(Style::new(), vec!["b\n".into(), "12".into()]);
        let (bold, plain) = ("\u{1b}[1m", "\u{1b}[0m");
        let lines = page.render(false);
        assert_eq!(lines[0], format!("{bold}ID                N{plain}"));
        assert_eq!(lines[1..], ["long-identifier   1", "b                12"]);
        page.row(Style::new(), vec!["c".into(), "3".into()]);
        assert_eq!(page.render(false), ["c                 3"]);
    }

    #[test]
    fn amounts_are_told_as_people_say_them() {
        let ms = |ms| span(Duration::from_millis(ms));
        for (amount, expected) in [(7, "7 ms"), (1_234, "1.2 s"), (59_900, "59 s")] {
            assert_eq!(ms(amount), expected);
        }
        for (seconds, expected) in [(60, "1 min"), (3_725, "1 h 2 min"), (90_000, "1 d 1 h")] {
            assert_eq!(ms(seconds * 1_000), expected);
        }
        assert_eq!(
            (counted(1, "claim"), counted(0, "claim")),
            ("1 claim".into(), "0 claims".into())
        );
        let sizes =
            [(1, "1 byte"), (1_023, "1023 bytes"), (1_536, "1.5 KiB"), (1 << 30, "1.0 GiB")];
        for (bytes, expected) in sizes {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn long_texts_are_cut_on_a_terminal_only() {
        let long = "x".repeat(100);
        assert_eq!(one_line(&long, false), long);
        assert_eq!(one_line(&long, true).chars().count(), CELL_CHARS_MAX);
    }
}
