//! `axwatch handler create`: code from the command line, a file or standard input becomes a handler.

use std::fs::File;
use std::io::{self, Read};

use anstyle::AnsiColor;
use anyhow::Result;
use clap::{ArgGroup, Args};
use hyper::Method;
use serde_json::{Value, json};

use super::show::printable;
use crate::cli::Context;
use crate::client::{ClientError, Refusal};
use crate::fault::Fault;
use crate::output::quoted;
use crate::source::{HANDLERS, need_server};
use crate::views::{CODE_BYTES_MAX, CodeMistake, Declares, HandlerStored};

/// Store code as a handler, or as a newer version of one; the same code again changes nothing
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("text").required(true).args(["code", "file", "input"]))]
#[command(after_help = "\
Examples:
  axwatch handler create hello --code 'print(upstream[\"subjects\"])'
  axwatch handler create label --file label.py
  cat label.py | axwatch handler create label -

The plugin's interpreter looks at the code before anything is stored. The claim is in upstream, the answer
goes into _result, or comes from a function main(upstream); attest(…) makes claims and query(…) finds some.")]
pub struct Create {
    /// Its name: jobs and watchers know it as python.NAME
    name: String,
    #[command(flatten)]
    code: Code,
    /// The plugin that runs it
    #[arg(long, value_name = "PLUGIN", default_value = "python")]
    plugin: String,
    /// Store it without having the plugin look at it
    #[arg(long)]
    no_check: bool,
}

/// Where code comes from.
#[derive(Debug, Args)]
pub struct Code {
    /// The code itself
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["file", "input"])]
    pub code: Option<String>,
    /// A file that holds the code
    #[arg(long, value_name = "PATH", conflicts_with = "input")]
    pub file: Option<String>,
    /// Read the code from standard input
    #[arg(value_name = "-", value_parser = ["-"])]
    pub input: Option<String>,
}

impl Code {
    /// The code, if there is any to be read.
    ///
    /// # Errors
    /// [`Fault::Usage`] for what is no code.
    pub fn read(self) -> Result<Option<String>> {
        let (bytes, from) = match (self.code, self.file, self.input) {
            (Some(code), ..) => (Ok(code.into_bytes()), "--code".to_owned()),
            (None, Some(file), _) => (bytes_of_file(&file), file),
            (None, None, Some(_)) => (bytes_of(io::stdin()), "standard input".to_owned()),
            (None, None, None) => return Ok(None),
        };
        let bytes = bytes.map_err(|error| Fault::Usage(format!("cannot read {from}: {error}")))?;
        let code = code_of(bytes).map_err(|problem| Fault::Usage(format!("{from} {problem}")))?;
        Ok(Some(code))
    }
}

fn bytes_of_file(path: &str) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    bytes_of(file)
}

/// The bytes up to one more than there may be.
fn bytes_of(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(CODE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The code that these bytes are, or what they are instead.
fn code_of(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() > CODE_BYTES_MAX {
        return Err(format!(
            "holds more than {CODE_BYTES_MAX} bytes, the most that a handler may have; put what is large into a module of the plugin's python_paths"
        ));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        format!("is no text: byte {place} is not UTF-8")
    })?;
    if let Some(place) = text.find('\0') {
        return Err(format!("is no text: byte {place} is NUL"));
    }
    // What some editors put before everything is no code.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if text.trim().is_empty() {
        return Err("holds no code; a handler is at least one line of it".to_owned());
    }
    Ok(text.to_owned())
}

impl Create {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let code = self.code.read()?.expect("one of the three is required");
        let asked = json!({
            "name": self.name, "code": code, "plugin": self.plugin, "check": !self.no_check,
        });
        let client = need_server(&context.config()?.store).await?;
        let stored = client.send(Method::POST, HANDLERS, &asked).await;
        told(context, &readable(stored)?)
    }
}

/// What became of code, in a few lines.
pub fn told(context: &mut Context, stored: &HandlerStored) -> Result<()> {
    let out = &mut context.out;
    if out.json {
        return out.object(stored);
    }
    let green = AnsiColor::Green.on_default();
    let HandlerStored { handler, version, .. } = stored;
    let number = stored.number.map(|number| format!("version {number}")).unwrap_or_default();
    let copied = match stored.copy_of {
        Some(of) => format!(", with the code of version {of}"),
        None => String::new(),
    };
    out.line(&match (stored.is_new, stored.number) {
        (true, Some(_)) => {
            format!("{green}{handler}{green:#} is {number} now{copied}: claim {version}")
        }
        (true, None) => format!("{handler} is stored{copied}: claim {version}"),
        (false, _) => format!(
            "{handler} has this code already, so nothing was stored: {number} stays, claim {version}"
        ),
    })?;
    declared(context, "watcher", &stored.watchers)?;
    declared(context, "schedule", &stored.schedules)?;
    let out = &mut context.out;
    if !stored.run_by.is_empty() {
        out.line(&format!("  run by {}", stored.run_by.join(", ")))?;
    }
    let yellow = AnsiColor::Yellow.on_default();
    for warning in &stored.warnings {
        out.flush()?;
        anstream::eprintln!("{yellow}warning:{yellow:#} {}", printable(warning));
    }
    if let Some(next) = &stored.next {
        let next = context.typed(next);
        context
            .out
            .note(&format!("nothing runs it yet; this would let claims do so:\n  {next}"))?;
    }
    Ok(())
}

/// What decorators declare, a line each.
fn declared(context: &mut Context, what: &str, all: &[Declares]) -> Result<()> {
    for one in all {
        let rest = one.rest.iter().filter_map(|(key, value)| in_words(key, value));
        let rest: Vec<_> = rest.collect();
        context.out.line(&format!("  {what} {}: {}", quoted(&one.id), rest.join(", ")))?;
    }
    Ok(())
}

/// What else a plugin says of what a decorator declares, where it says something.
fn in_words(key: &str, value: &Value) -> Option<String> {
    match (key, value) {
        (_, Value::Null) | ("line", _) => None,
        (_, Value::Array(all)) if all.is_empty() => None,
        (_, Value::String(text)) if text.is_empty() => None,
        ("ax", Value::String(ax)) => Some(format!("when {ax}")),
        ("every_secs", every) => Some(format!("every {every} s")),
        ("max_fires_per_second", Value::Number(most)) if most.as_f64() == Some(0.0) => None,
        ("max_fires_per_second", most) => Some(format!("at most {most} a second")),
        (key, Value::Array(all)) => {
            let texts = all.iter().map(|one| one.as_str().map_or(one.to_string(), str::to_owned));
            Some(format!("{key} {}", texts.collect::<Vec<_>>().join(" or ")))
        }
        (key, value) => Some(format!("{key} {value}")),
    }
}

/// Code that is not right, shown with the place.
#[derive(Debug, thiserror::Error)]
#[error("{refusal}{}", places(refusal))]
pub struct InvalidCode {
    refusal: Refusal,
    #[source]
    source: ClientError,
}

/// The same answer, with a mistake in code shown where it is.
///
/// # Errors
/// Those that came.
pub fn readable<T>(answer: Result<T, ClientError>) -> Result<T> {
    answer.map_err(|error| match &error {
        ClientError::Server(refusal) if refusal.kind == "code" => {
            InvalidCode { refusal: refusal.clone(), source: error }.into()
        }
        _ => error.into(),
    })
}

fn places(refusal: &Refusal) -> String {
    let mistakes = refusal.mistakes.clone().unwrap_or_default();
    let mistakes: Vec<CodeMistake> = serde_json::from_value(mistakes).unwrap_or_default();
    mistakes.iter().map(place).collect()
}

/// Characters of a line of code that are shown.
const SHOWN_CHARS: usize = 100;

/// A line of code with a caret below the place that is wrong.
fn place(mistake: &CodeMistake) -> String {
    let text = mistake.text.as_deref().unwrap_or_default().trim_end();
    let Some(line) = mistake.line.filter(|_| !text.is_empty()) else { return String::new() };
    let column = usize::try_from(mistake.column.unwrap_or(0)).unwrap_or(usize::MAX);
    // Of a long line what is around the place.
    let first = column.saturating_sub(SHOWN_CHARS / 2);
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let shown: String = text.chars().skip(first).take(SHOWN_CHARS).map(plain).collect();
    if shown.is_empty() {
        return String::new();
    }
    let number = line.to_string();
    let caret = match column.checked_sub(first + 1).filter(|at| *at <= SHOWN_CHARS) {
        Some(at) => format!("\n  {} | {}^", " ".repeat(number.len()), " ".repeat(at)),
        None => String::new(),
    };
    format!("\n  {number} | {shown}{caret}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_code_is_told() {
        // (bytes, what is said)
        let cases: [(&[u8], &str); 5] = [
            (b"", "holds no code"),
            (b" \n\t\n", "holds no code"),
            (b"x = 1\n\xff", "byte 6 is not UTF-8"),
            (b"x\0", "byte 1 is NUL"),
            (&[b'#'; CODE_BYTES_MAX + 1], "more than 524288 bytes"),
        ];
        for (bytes, says) in cases {
            let told = code_of(bytes.to_vec()).unwrap_err();
            assert!(told.contains(says), "{told}");
        }
        assert_eq!(code_of("\u{feff}x = 1\n".into()).unwrap(), "x = 1\n");
    }

    #[test]
    fn a_mistake_is_shown_below_its_line() {
        let mistake = |line, column, text: &str| CodeMistake {
            message: "invalid syntax".to_owned(),
            line: Some(line),
            column,
            text: Some(text.to_owned()),
        };
        // (mistake, what is shown)
        let cases = [
            (mistake(12, Some(5), "x = = 1\n"), "\n  12 | x = = 1\n     |     ^".to_owned()),
            (mistake(1, Some(2), "\tx x"), "\n  1 |  x x\n    |  ^".to_owned()),
            (mistake(1, None, "x x"), "\n  1 | x x".to_owned()),
            (mistake(1, Some(1), ""), String::new()),
            (mistake(1, Some(900), "cut"), String::new()),
            (
                mistake(1, Some(1_000), &"y".repeat(2_000)),
                format!("\n  1 | {}\n    | {}^", "y".repeat(100), " ".repeat(49)),
            ),
        ];
        for (mistake, expected) in cases {
            assert_eq!(place(&mistake), expected);
        }
    }

    #[test]
    fn what_a_decorator_declares_is_told_in_words() {
        let one: Declares = serde_json::from_value(json!({
            "id": "hello-f", "function": "f", "ax": "is commit", "subjects": [], "line": 3,
            "max_fires_per_second": 0,
        }))
        .unwrap();
        let told: Vec<_> =
            one.rest.iter().filter_map(|(key, value)| in_words(key, value)).collect();
        assert_eq!(told, ["when is commit"]);
    }
}
