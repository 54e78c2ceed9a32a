//! `axwatch ax`: a question.

use std::io::BufRead as _;
use std::pin::pin;
use std::time::Duration;

use anstyle::Style;
use anyhow::{Context as _, Result};
use axwatch_model::{Clock as _, SystemClock, Timestamp};
use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Context, Limit};
use crate::answers::{List, OVER_NOT_FOLLOWED};
use crate::claim::text_of;
use crate::client::JSON;
use crate::fault::{Fault, InvalidQuery};
use crate::output::{Output, TablePage, counted, reader_gone};
use crate::source::{Lines, Source, need_server, parse};
use crate::views;

const EXAMPLES: &str = "\
Examples:
  axwatch ax ALICE
  axwatch ax 'is author of GitHub by not HR'
  axwatch ax is author --limit 10 --json
  axwatch ax 'is failed since yesterday where attributes.retries > 3'
  axwatch ax is author --count
  axwatch ax is author --follow                those that come, too
  axwatch ax is author --explain               how it is understood and answered
  axwatch ax --parse --json 'is author since 3 days ago'
  axwatch ax --parse - < queries.txt           one query a line, one answer a line";

/// Ask for claims in AX, newest first
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Ax {
    /// The query; of several words each that holds a blank counts as quoted
    #[arg(required = true, value_name = "QUERY")]
    words: Vec<String>,
    #[command(flatten)]
    limit: Limit,
    /// Say only how many there are
    #[arg(long, conflicts_with_all = ["limit", "follow", "explain", "parse"])]
    count: bool,
    /// Go on: show each claim as it comes, oldest first
    #[arg(long, short, conflicts_with_all = ["explain", "parse"])]
    follow: bool,
    /// Say how the query is understood and answered, instead of the claims
    #[arg(long, conflicts_with = "parse")]
    explain: bool,
    /// Say how the query is understood, and ask nobody; - reads one query a line from standard input
    #[arg(long)]
    parse: bool,
    /// What `now` is for --parse, in milliseconds since 1970; otherwise the clock says
    #[arg(long, value_name = "MS", requires = "parse", allow_negative_numbers = true)]
    now: Option<i64>,
}

/// What a table shows of a claim.
#[derive(Deserialize)]
struct Shown {
    id: String,
    seq: u64,
    subjects: Vec<String>,
    predicates: Vec<String>,
    contexts: Vec<String>,
    actors: Vec<String>,
    timestamp: String,
}

impl Ax {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let now = SystemClock::new().now().wall;
        if self.parse {
            return self.parse(&mut context.out, now);
        }
        let query = text_of(&self.words);
        InvalidQuery::check_question(&query, now)?;
        if self.follow {
            return self.follow(context, &query, now).await;
        }
        let source = Source::find(&context.config()?.store).await?;
        if self.count {
            return count(&mut context.out, source.count(&query).await?);
        }
        if self.explain {
            let explained = source.explain_question(&query, self.limit.lines()).await?;
            return explain(&mut context.out, &explained);
        }
        let list = List::Attestations { query, before: None };
        let lines = source.list(&list, self.limit.lines()).await?;
        let is_empty = show(&mut context.out, lines).await?;
        if is_empty {
            context.out.note("no claim is found; `axwatch as CLAIM` makes one")?;
        }
        Ok(())
    }

    /// Shows the last claims, oldest first, and each that comes.
    async fn follow(self, context: &mut Context, query: &str, now: Timestamp) -> Result<()> {
        if axwatch_query::parse_at(query, now).is_ok_and(|query| query.over().is_some()) {
            return Err(Fault::Usage(OVER_NOT_FOLLOWED.to_owned()).into());
        }
        let client = need_server(&context.config()?.store).await?;
        let limit = self.limit.lines();
        let body =
            json!({ "query": query, "limit": limit, "all": limit.is_none(), "follow": true });
        let body = Bytes::from(body.to_string());
        let lines = client.lines(Method::POST, "/api/v1/ax", JSON, body).await?;
        show(&mut context.out, Lines::Server(lines)).await.map(drop)
    }
}

/// Claims of which the first rows of a table settle how wide its columns are.
const TABLE_ROWS: usize = 100;
/// How long rows of a table may let themselves be waited for before those that came are shown.
const TABLE_PAUSE: Duration = Duration::from_millis(100);

/// Shows claims as they come, in JSON at once, in a table together with those that follow closely. Says
/// whether there were none.
async fn show(out: &mut Output, mut lines: Lines) -> Result<bool> {
    let mut table = claims_table();
    let mut gone = pin!(reader_gone());
    let mut is_empty = true;
    loop {
        let page = {
            let mut next = pin!(lines.next());
            match tokio::time::timeout(TABLE_PAUSE, &mut next).await {
                Ok(page) => page,
                Err(_) => {
                    out.table(&mut table)?;
                    out.flush()?;
                    tokio::select! {
                        page = next => page,
                        gone = &mut gone => return gone.map(|()| is_empty),
                    }
                }
            }
        };
        let Ok(Some(page)) = page else {
            // What came before a failure is shown before it.
            out.table(&mut table)?;
            return page.map(|_| is_empty);
        };
        is_empty &= page.is_empty();
        for line in &page {
            if out.json {
                out.line(line)?;
            } else {
                add_claim(&mut table, line)?;
            }
        }
        if table.waiting() >= TABLE_ROWS {
            out.table(&mut table)?;
        }
        if table.waiting() == 0 {
            out.flush()?;
        }
    }
}

fn count(out: &mut Output, found: views::Count) -> Result<()> {
    if out.json { out.object(&found) } else { out.line(&found.count.to_string()) }
}

/// Says how a question was understood and answered.
fn explain(out: &mut Output, explained: &views::Explained) -> Result<()> {
    if out.json {
        return out.object(explained);
    }
    let walked = explained.postings.iter();
    let walked = walked.map(|one| format!("{} ({})", one.dimension, counted(one.terms, "word")));
    let searched = match walked.collect::<Vec<_>>().join(", then ") {
        none if none.is_empty() => "the log itself".to_owned(),
        walked => format!("the postings of {walked}"),
    };
    let end = if explained.is_whole { "the beginning of the log" } else { "the limit" };
    out.fields(&[
        ("query", explained.query.clone()),
        ("asked at", explained.asked_at.to_string()),
        ("searched", searched),
        ("down to", end.to_owned()),
        ("read", counted(explained.rows_read, "claim")),
        ("matched", counted(explained.rows_matched, "claim")),
        ("found", counted(explained.rows_found, "claim")),
        ("took", format!("{:.3} ms", explained.took_ms)),
    ])?;
    out.heading("What has to hold")?;
    let conditions = explained.conditions.iter().map(|one| (&*one.field, condition_in_words(one)));
    let over = explained.over.iter().map(|over| ("subject", format!("{over} in all")));
    out.fields(&conditions.chain(over).collect::<Vec<_>>())
}

/// What a condition asks: `any of ny (or new york), la`.
fn condition_in_words(condition: &views::Asked) -> String {
    let others = |term: &String| {
        let widened = condition.widened.iter().find(|widened| widened.term == *term);
        widened.map(|widened| format!(" (or {})", widened.to.join(", "))).unwrap_or_default()
    };
    let asked = condition.asked.iter().map(|term| format!("{term}{}", others(term)));
    let asked = asked.collect::<Vec<_>>().join(", ");
    let rule = match &*condition.rule {
        "any" => "any of",
        "none" => "none of",
        "not_before" => "not before",
        "not_after" => "not after",
        sign => sign,
    };
    format!("{rule} {asked}").trim_end().to_owned()
}

impl Ax {
    /// Says how a query, or each of many, is understood.
    fn parse(self, out: &mut Output, clock: Timestamp) -> Result<()> {
        let now = match self.now {
            None => clock,
            Some(ms) => Timestamp::from_ms(ms)
                .map_err(|error| Fault::Usage(format!("--now {ms}: {error}")))?,
        };
        if self.words != ["-"] {
            let query = text_of(&self.words);
            if !out.json {
                InvalidQuery::check_question(&query, now)?;
            }
            return if understood(out, &query, now)? { Ok(()) } else { Err(Fault::NotOk.into()) };
        }
        let mut all_well = true;
        for line in std::io::stdin().lock().split(b'\n') {
            let line = line.context("cannot read standard input")?;
            let line = match std::str::from_utf8(&line) {
                Ok(line) => line,
                Err(error) => {
                    not_text(out, error.valid_up_to(), &line)?;
                    all_well = false;
                    continue;
                }
            };
            // A query that has line breaks of its own comes as a JSON string.
            let query = serde_json::from_str::<String>(line);
            all_well &= understood(out, query.as_deref().unwrap_or(line), now)?;
        }
        if all_well { Ok(()) } else { Err(Fault::NotOk.into()) }
    }
}

/// Says that a line is not UTF-8, in the form of a mistake.
fn not_text(out: &mut Output, at: usize, line: &[u8]) -> Result<()> {
    let found = format!("the byte 0x{:02x}", line[at]);
    if !out.json {
        return out.line(&format!("at {at}: expected UTF-8 text, found {found}"));
    }
    let mistake = json!({
        "error": "unexpected_token", "span": { "start": at, "end": at + 1 }, "position": at,
        "expected": "UTF-8 text", "found": found,
    });
    let mut told = mistake.clone();
    told["errors"] = json!([mistake]);
    out.object(&told)
}

/// Prints how a query is understood, or every mistake in it. Answers whether it is one.
fn understood(out: &mut Output, query: &str, now: Timestamp) -> Result<bool> {
    match (axwatch_query::parse_at(query, now), out.json) {
        (Ok(parsed), true) => out.object(&parsed.at(now)).map(|()| true),
        (Ok(parsed), false) => out.line(&parsed.to_string()).map(|()| true),
        (Err(mistakes), true) => out.object(&mistakes).map(|()| false),
        (Err(mistakes), false) => out.line(&mistakes.to_string()).map(|()| false),
    }
}

/// A table of claims.
pub fn claims_table() -> TablePage {
    TablePage::new(&["#SEQ", "WHEN", "SUBJECTS", "PREDICATES", "CONTEXTS", "ACTORS", "ID"])
}

/// Adds a claim, given as JSON, to such a table.
pub fn add_claim(table: &mut TablePage, json: &str) -> Result<()> {
    let claim: Shown = parse(json)?;
    let lists = [claim.subjects, claim.predicates, claim.contexts, claim.actors];
    let mut cells = vec![claim.seq.to_string(), claim.timestamp];
    cells.extend(lists.map(|terms| terms.join(", ")));
    cells.push(claim.id);
    table.row(Style::new(), cells);
    Ok(())
}
