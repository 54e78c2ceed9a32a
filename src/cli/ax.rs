//! `axwatch ax`: a question.

use std::io::BufRead as _;

use anstyle::Style;
use anyhow::{Context as _, Result};
use axwatch_model::{Clock as _, SystemClock, Timestamp};
use clap::Args;
use serde::Deserialize;

use super::{Context, Limit};
use crate::answers::List;
use crate::claim::text_of;
use crate::fault::{Fault, InvalidQuery};
use crate::output::{Output, TablePage};
use crate::source::{Source, parse};

const EXAMPLES: &str = "\
Examples:
  axwatch ax ALICE
  axwatch ax 'is author of GitHub by not HR'
  axwatch ax is author --limit 10 --json
  axwatch ax 'is failed since yesterday where attributes.retries > 3'
  axwatch ax is author --all --json | wc -l
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
        let source = Source::find(&context.config()?.store).await?;
        let list = List::Attestations { query, before: None };
        let mut lines = source.list(&list, self.limit.lines()).await?;
        let mut table = claims_table();
        while let Some(page) = lines.next().await? {
            for line in &page {
                if context.out.json {
                    context.out.line(line)?;
                } else {
                    add_claim(&mut table, line)?;
                }
            }
            context.out.table(&mut table)?;
            context.out.flush()?;
        }
        if table.is_empty() && !context.out.json {
            context.out.note("no claim is found; `axwatch as CLAIM` makes one")?;
        }
        Ok(())
    }
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
            let line = String::from_utf8_lossy(&line);
            // A query that has line breaks of its own comes as a JSON string.
            let query = serde_json::from_str::<String>(&line);
            all_well &= understood(out, query.as_deref().unwrap_or(&line), now)?;
        }
        if all_well { Ok(()) } else { Err(Fault::NotOk.into()) }
    }
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
