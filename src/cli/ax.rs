//! `axwatch ax`: a question.

use anstyle::Style;
use anyhow::Result;
use clap::Args;
use serde::Deserialize;

use super::{Context, Limit};
use crate::answers::List;
use crate::claim::text_of;
use crate::fault::InvalidQuery;
use crate::output::TablePage;
use crate::source::{Source, parse};

const EXAMPLES: &str = "\
Examples:
  axwatch ax ALICE
  axwatch ax 'is author of GitHub by not HR'
  axwatch ax is author --limit 10 --json
  axwatch ax is author --all --json | wc -l";

/// Ask for claims in AX, newest first
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Ax {
    /// The query; of several words each that holds a blank counts as quoted
    #[arg(required = true, value_name = "QUERY")]
    words: Vec<String>,
    #[command(flatten)]
    limit: Limit,
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
        let query = text_of(&self.words);
        InvalidQuery::check(&query)?;
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
