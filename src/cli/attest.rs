//! `axwatch as`: making claims, one in words or many as JSON lines.

mod input;

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axwatch_ats::{SqliteStore, StoreError, StoreWriter, append};
use axwatch_model::{Clock, DefaultActor, Defaults, Draft, SystemClock};
use axwatch_query::AliasChange;
use clap::Args;
use hyper::Method;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Context, variable};
use crate::bulk::{self, Chunk};
use crate::claim;
use crate::client::{Client, ClientError, JSON, NDJSON, with_query};
use crate::fault::Fault;
use crate::output::{Output, counted};
use crate::source::{find_server, parse};
use crate::views::{Appended, Deferred, FireCount, LineAnswer};
use input::Input;

const EXAMPLES: &str = "\
Examples:
  axwatch as ALICE is author of GitHub by HR on yesterday
  axwatch as ALICE author GitHub --attr lang=rust --attr stats.stars=3
  axwatch as \"'New York' is city\" --id city-1
  git log --format='{\"subjects\":[\"%h\"],\"predicates\":[\"is_commit\"]}' | axwatch as - --json

One argument is the whole text; of several each that holds a blank counts as quoted. Exactly three
bare words are subject, predicate and context.";

/// Make claims: `SUBJECTS is PREDICATES of CONTEXTS by ACTORS on TIME`, or - for JSON lines
#[derive(Debug, Args)]
#[command(name = "as", after_help = EXAMPLES)]
pub struct As {
    /// The claim in words, or - to read one JSON object a line from standard input
    #[arg(required = true, value_name = "CLAIM")]
    words: Vec<String>,
    /// An attribute: a JSON value, or else text; dots in the key nest
    #[arg(long, value_name = "KEY=VALUE")]
    attr: Vec<String>,
    /// Attributes as one JSON object
    #[arg(long, value_name = "JSON")]
    attrs: Option<String>,
    /// Which program claims it [default: axwatch-cli]
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// The claim's id: the same claim again under it is no second one
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

impl As {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        if self.words == ["-"] {
            return self.many(context).await;
        }
        if self.words.iter().any(|word| word == "-") {
            let problem = "- stands alone: it reads claims from standard input; quote it ('\"-\"') to claim something about a dash";
            return Err(Fault::Usage(problem.to_owned()).into());
        }
        let claim = self.claim()?;
        let appended = append_one(&context.config()?.store, claim).await?;
        show(&mut context.out, &appended)
    }

    /// The claim as JSON.
    fn claim(&self) -> Result<String> {
        let text = claim::text_of(&self.words);
        let said = claim::parse(&text, SystemClock::new().now().wall)?;
        let attributes = attributes(self.attrs.as_deref(), &self.attr)?;
        let mut json = json!({
            "subjects": said.subjects, "predicates": said.predicates,
            "contexts": said.contexts, "actors": said.actors,
        });
        let entries = json.as_object_mut().expect("it was made as an object");
        let optional = [
            ("id", self.id.clone()),
            ("source", self.source.clone()),
            ("timestamp", said.on.map(|time| time.to_string())),
        ];
        for (key, value) in optional {
            entries.extend(value.map(|value| (key.to_owned(), Value::from(value))));
        }
        let mut line = json.to_string();
        if let Some(attributes) = attributes {
            // As text, so that no digit of a long number is lost.
            line.truncate(line.len() - 1);
            line.push_str(&format!(",\"attributes\":{}}}", attributes.get()));
        }
        Ok(line)
    }

    async fn many(self, context: &mut Context) -> Result<()> {
        let one_only = [
            ("--attr", !self.attr.is_empty()),
            ("--attrs", self.attrs.is_some()),
            ("--id", self.id.is_some()),
        ];
        if let Some((flag, _)) = one_only.iter().find(|(_, given)| *given) {
            let problem = format!("{flag} belongs to one claim; with - each line says its own");
            return Err(Fault::Usage(problem).into());
        }
        let mut defaults = defaults();
        if let Some(source) = self.source {
            defaults.source = source;
        }
        let mut appender = Appender::open(&context.config()?.store, defaults).await?;
        let mut tally = Tally::new();
        let done = pour(&mut appender, &mut context.out, &mut tally).await;
        tally.progress.finish_and_clear();
        // Also after a failure: what was written is then tidied up now rather than at the next start.
        let closed = appender.close().await;
        done?;
        closed?;
        tally.tell(context)
    }
}

/// Appends all lines of standard input, and answers each in order.
async fn pour(appender: &mut Appender, out: &mut Output, tally: &mut Tally) -> Result<()> {
    let mut input = Input::of_stdin()?;
    loop {
        let chunk = match input.try_next_chunk()? {
            Some(chunk) => chunk,
            None => {
                // The input pauses: whoever waits for its answers gets them before we wait for more.
                out.flush()?;
                match input.next_chunk().await? {
                    Some(chunk) => chunk,
                    None => return Ok(()),
                }
            }
        };
        for answer in appender.append(chunk).await? {
            tally.count(&answer);
            if out.json {
                out.object(&answer)?;
            } else if let LineAnswer::Refused { line, error } = &answer {
                tally.progress.suspend(|| anstream::eprintln!("line {line}: {error}"));
            }
        }
        tally.progress.set_position(tally.appended + tally.refused);
    }
}

/// What became of the lines so far.
struct Tally {
    appended: u64,
    refused: u64,
    fires: u64,
    deferred: bool,
    progress: ProgressBar,
}

impl Tally {
    fn new() -> Tally {
        let progress = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{spinner} {human_pos} claims, {rate}");
            let style = style.expect("the template is well-formed").with_key("rate", whole_rate);
            bar.with_style(style)
        } else {
            ProgressBar::hidden()
        };
        Tally { appended: 0, refused: 0, fires: 0, deferred: false, progress }
    }

    fn count(&mut self, answer: &LineAnswer) {
        match answer {
            LineAnswer::Refused { .. } => self.refused += 1,
            LineAnswer::Appended(appended) => {
                self.appended += 1;
                match appended.fires {
                    FireCount::Now(fires) => self.fires += u64::from(fires),
                    FireCount::Deferred(_) => self.deferred = true,
                }
            }
        }
    }

    fn tell(&self, context: &mut Context) -> Result<()> {
        let Tally { appended, refused, fires, deferred, .. } = self;
        let later = if *deferred { ", more when a server runs" } else { "" };
        if !context.out.json {
            let (claims, fires) = (counted(*appended, "claim"), counted(*fires, "fire"));
            context.out.line(&format!("{claims} appended, {fires}{later}"))?;
        }
        if *refused > 0 {
            let was = if *refused == 1 { "was" } else { "were" };
            let lines = counted(*refused, "line");
            return Err(Fault::Refused(format!("{lines} {was} refused")).into());
        }
        Ok(())
    }
}

/// Claims a second, without the digits that nobody reads.
fn whole_rate(state: &ProgressState, text: &mut dyn std::fmt::Write) {
    // A text that takes no more is a bar that is not drawn.
    let _ = write!(text, "{} a second", HumanCount(state.per_sec() as u64));
}

/// Prints what became of one claim.
pub fn show(out: &mut Output, appended: &Appended) -> Result<()> {
    if out.json {
        return out.object(appended);
    }
    let fires = match appended.fires {
        FireCount::Now(fires) => counted(fires.into(), "fire"),
        FireCount::Deferred(Deferred::Deferred) => {
            "fires: deferred until `axwatch serve` runs".to_owned()
        }
    };
    out.line(&format!("{} seq {}, {fires}", appended.id, appended.seq))
}

/// What fills the gaps of a claim that is made here.
fn defaults() -> Defaults {
    Defaults { actor: DefaultActor::Named(user_at_host()), source: "axwatch-cli".to_owned() }
}

/// Appends one claim, given as JSON.
pub async fn append_one(store: &Path, claim: String) -> Result<Appended> {
    let mut appender = Appender::open(store, defaults()).await?;
    let appended = appender.append_one(claim).await;
    appender.close().await?;
    appended
}

/// Where claims go: the server that runs on the store, or else the store.
enum Appender {
    Server { client: Client, path: String },
    Store { writer: Box<dyn StoreWriter>, clock: Arc<dyn Clock>, defaults: Defaults },
}

/// How often, and how long between, a server that is just starting is looked for.
const LOOKS: u32 = 10;
const LOOK_EVERY: Duration = Duration::from_millis(200);

impl Appender {
    async fn open(store: &Path, defaults: Defaults) -> Result<Appender> {
        for look in 0.. {
            if let Some(client) = find_server(store).await? {
                let DefaultActor::Named(actor) = defaults.actor else {
                    unreachable!("the command names its user")
                };
                let query =
                    [("default_actor", Some(actor)), ("default_source", Some(defaults.source))];
                let path = with_query("/api/v1/attestations", &query);
                return Ok(Appender::Server { client, path });
            }
            match SqliteStore::open_writer(store).await {
                Ok(writer) => {
                    let clock = Arc::new(SystemClock::new());
                    return Ok(Appender::Store { writer, clock, defaults });
                }
                // Whoever has it may be a server that does not listen yet.
                Err(StoreError::InUse { .. }) if look < LOOKS => {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        unreachable!("the last look answers")
    }

    /// Appends one claim, given as JSON.
    async fn append_one(&mut self, claim: String) -> Result<Appended> {
        let (writer, clock, defaults) = match self {
            Appender::Server { client, path } => {
                let answer = client.text(Method::POST, path, JSON, claim.into()).await?;
                return parse(std::str::from_utf8(&answer)?);
            }
            Appender::Store { writer, clock, defaults } => (writer, clock, defaults),
        };
        let now = clock.now().wall;
        let draft = Draft::from_json(&claim)?;
        let incoming =
            AliasChange::check(draft.complete(defaults, "user", now, rand::random())?)?;
        let id = incoming.attestation.id.clone();
        let outcome = append(&mut **writer, vec![incoming], now).await?.pop();
        let appended = outcome.context("there was no answer")??;
        while writer.tidy().await? {}
        let fires = FireCount::Deferred(Deferred::Deferred);
        Ok(Appended { id, seq: appended.seq, fires })
    }

    /// Appends lines; one answer each, in order.
    async fn append(&mut self, chunk: Chunk) -> Result<Vec<LineAnswer>> {
        match self {
            Appender::Store { writer, clock, defaults } => {
                let now = clock.now().wall;
                let mut read = bulk::read(&chunk, |draft| {
                    AliasChange::check(draft.complete(defaults, "user", now, rand::random())?)
                });
                let claims = std::mem::take(&mut read.incoming);
                let outcomes = append(&mut **writer, claims, now).await?;
                // Derived tables keep up here; a server does this when it is quiet.
                while writer.tidy().await? {}
                let deferred = FireCount::Deferred(Deferred::Deferred);
                let outcomes = outcomes.into_iter().map(|outcome| match outcome {
                    Ok(appended) => Ok((appended.seq, deferred)),
                    Err(conflict) => Err(conflict.to_string()),
                });
                Ok(bulk::answers(read, outcomes))
            }
            Appender::Server { client, path } => send(client, path, &chunk).await,
        }
    }

    async fn close(self) -> Result<()> {
        if let Appender::Store { writer, .. } = self {
            writer.close().await?;
        }
        Ok(())
    }
}

/// Sends the lines that can be sent, and puts the answers back to their numbers.
async fn send(client: &Client, path: &str, chunk: &Chunk) -> Result<Vec<LineAnswer>> {
    let mut body = String::new();
    for line in chunk.lines.iter().flatten() {
        body.push_str(line);
        body.push('\n');
    }
    let last_line = chunk.first_line + chunk.lines.len() as u64 - 1;
    let lost = || {
        let (lines, are) = match chunk.first_line {
            first if first == last_line => (format!("line {first} has"), "it is"),
            first => (format!("lines {first} to {last_line} have"), "they are"),
        };
        format!(
            "{lines} no answer; whether {are} in the log is unknown (a line with an id can be sent again)"
        )
    };
    let mut answers = Vec::new();
    if !body.is_empty() {
        let mut lines =
            client.lines(Method::POST, path, NDJSON, body.into()).await.with_context(lost)?;
        while let Some(page) = lines.next().await.with_context(lost)? {
            for line in page {
                answers.push(parse::<LineAnswer>(&line)?);
            }
        }
    }
    let mut answers = answers.into_iter();
    let mut numbered = Vec::with_capacity(chunk.lines.len());
    for (number, line) in (chunk.first_line..).zip(&chunk.lines) {
        let answer = match line {
            Err(problem) => LineAnswer::Refused { line: number, error: (*problem).to_owned() },
            Ok(_) => match answers.next() {
                Some(LineAnswer::Refused { error, .. }) => {
                    LineAnswer::Refused { line: number, error }
                }
                Some(appended) => appended,
                None => {
                    let problem = "there are fewer answers than lines".to_owned();
                    return Err(ClientError::Garbled { problem }).with_context(lost);
                }
            },
        };
        numbered.push(answer);
    }
    Ok(numbered)
}

/// The attributes that the flags say, as JSON text; `None` without any.
fn attributes(whole: Option<&str>, single: &[String]) -> Result<Option<Box<RawValue>>> {
    let raw = match whole {
        None => None,
        Some(text) => Some(
            serde_json::from_str::<Box<RawValue>>(text)
                .map_err(|error| Fault::Usage(format!("--attrs is not JSON: {error}")))?,
        ),
    };
    if raw.as_ref().is_some_and(|raw| !raw.get().starts_with('{')) {
        return Err(Fault::Usage("--attrs must be a JSON object".to_owned()).into());
    }
    if single.is_empty() {
        return Ok(raw);
    }
    let mut object: Map<String, Value> = match &raw {
        Some(raw) => serde_json::from_str(raw.get())?,
        None => Map::new(),
    };
    for attribute in single {
        let (key, value) = attribute
            .split_once('=')
            .ok_or_else(|| Fault::Usage(format!("--attr {attribute}: it must be KEY=VALUE")))?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        insert(&mut object, key, value)
            .map_err(|problem| Fault::Usage(format!("--attr {attribute}: {problem}")))?;
    }
    Ok(Some(serde_json::value::to_raw_value(&object)?))
}

/// Puts a value under a dotted key.
fn insert(object: &mut Map<String, Value>, key: &str, value: Value) -> Result<(), String> {
    let (part, rest) = match key.split_once('.') {
        Some((part, rest)) => (part, Some(rest)),
        None => (key, None),
    };
    if part.is_empty() {
        return Err("a part of the key is empty".to_owned());
    }
    match (rest, object.get_mut(part)) {
        (None, None) => {
            object.insert(part.to_owned(), value);
            Ok(())
        }
        (None, Some(_)) => Err(format!("{part} has a value already")),
        (Some(rest), None) => {
            let mut inner = Map::new();
            insert(&mut inner, rest, value)?;
            object.insert(part.to_owned(), Value::Object(inner));
            Ok(())
        }
        (Some(rest), Some(Value::Object(inner))) => insert(inner, rest, value),
        (Some(_), Some(_)) => Err(format!("{part} has a value already, and no parts")),
    }
}

/// The name that a passwd file gives to a user.
fn user_in(passwd: &str, uid: u32) -> Option<String> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut users = fields.filter(|fields| fields.get(2).is_some_and(|id| *id == uid.to_string()));
    users.next().map(|fields| fields[0].to_owned())
}

/// Who claims what names no actor.
fn user_at_host() -> String {
    let uid = rustix::process::getuid().as_raw();
    let user = variable("USER")
        .or_else(|| variable("LOGNAME"))
        .or_else(|| user_in(&std::fs::read_to_string("/etc/passwd").ok()?, uid))
        .unwrap_or_else(|| format!("uid-{uid}"));
    let host = rustix::system::uname();
    format!("{user}@{}", host.nodename().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(whole: Option<&str>, single: &[&str]) -> Result<Option<String>, String> {
        let single: Vec<_> = single.iter().map(|&s| s.to_owned()).collect();
        attributes(whole, &single)
            .map(|raw| raw.map(|raw| raw.get().to_owned()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn attributes_are_json_or_text_and_nest() {
        let cases: [(Option<&str>, &[&str], Option<&str>); 6] = [
            (None, &[], None),
            (None, &["a=1", "b=x y", "c=\"1\""], Some(r#"{"a":1,"b":"x y","c":"1"}"#)),
            (None, &["a.b=true", "a.c=null"], Some(r#"{"a":{"b":true,"c":null}}"#)),
            (None, &["a=b=c"], Some(r#"{"a":"b=c"}"#)),
            (Some(r#"{"n":123456789012345678901}"#), &[], Some(r#"{"n":123456789012345678901}"#)),
            (Some(r#"{"a":{"b":1}}"#), &["a.c=2"], Some(r#"{"a":{"b":1,"c":2}}"#)),
        ];
        for (whole, single, expected) in cases {
            assert_eq!(of(whole, single).unwrap().as_deref(), expected, "{whole:?} {single:?}");
        }
        let refused: [(Option<&str>, &[&str], &str); 6] = [
            (None, &["a"], "must be KEY=VALUE"),
            (None, &["=1"], "is empty"),
            (None, &["a.=1"], "is empty"),
            (None, &["a=1", "a.b=2"], "no parts"),
            (None, &["a=1", "a=2"], "has a value already"),
            (Some("[1]"), &[], "must be a JSON object"),
        ];
        for (whole, single, reason) in refused {
            let error = of(whole, single).unwrap_err();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
    }

    #[test]
    fn a_user_has_the_name_of_the_passwd_file() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(user_in(passwd, 1000).as_deref(), Some("ann"));
        assert_eq!(user_in(passwd, 1), None);
    }

    #[test]
    fn a_claim_becomes_one_line_of_json() {
        let command = As {
            words: ["ALICE", "author", "GitHub"].map(str::to_owned).to_vec(),
            attr: vec!["n=1".into()],
            attrs: None,
            source: None,
            id: Some("x".into()),
        };
        let line = command.claim().unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            json!({
                "subjects": ["ALICE"], "predicates": ["author"], "contexts": ["GitHub"],
                "actors": [], "id": "x", "attributes": {"n": 1},
            })
        );
    }
}
