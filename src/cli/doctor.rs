//! `axwatch doctor`: what is wrong with a store, and what can be mended of it.

use anstyle::Style;
use anyhow::Result;
use axwatch_ats::{Finding, FindingKind, Repaired, SqliteStore, StoreError};
use axwatch_model::{Clock as _, SystemClock};
use clap::Args;

use super::Context;
use crate::fault::Fault;
use crate::output::{Output, TablePage, counted};
use crate::source::find_server;
use crate::views::Health;

const EXAMPLES: &str = "\
Examples:
  axwatch doctor                  look through the store, also while a server runs
  axwatch doctor --repair         mend what can be mended; stop the server first
  axwatch doctor --json | jq '.findings[].what'";

/// Look through the whole store for what is wrong with it, and mend it
///
/// Looks at every row, at what is made from the log to find things fast, and at the file itself.
/// Rows that do not decode are put aside by --repair, as they are; the engine does the same with those
/// that it comes upon. What the audit proves is for `axwatch audit verify` to say.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    /// Mend what can be mended; no server may run on the store meanwhile
    #[arg(long)]
    repair: bool,
}

impl Doctor {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let store = context.config()?.store;
        if !store.exists() {
            let told = format!("there is no store at {}", store.display());
            return Err(Fault::Refused(told).into());
        }
        let health = if self.repair {
            if find_server(&store).await?.is_some() {
                let holder = "a server, and nothing is mended under its hands; stop it first, or look only, without --repair";
                let path = store.display().to_string();
                return Err(StoreError::InUse { path, holder: holder.to_owned() }.into());
            }
            let now = SystemClock::new().now().wall;
            let Repaired { before, after } = SqliteStore::repair(&store, now).await?;
            Health::of(after, Some(before))
        } else {
            Health::of(SqliteStore::examine(&store).await?, None)
        };
        tell(context, &health)?;
        if health.ok { Ok(()) } else { Err(Fault::NotOk.into()) }
    }
}

fn tell(context: &mut Context, health: &Health) -> Result<()> {
    if context.out.json {
        return context.out.object(health);
    }
    let next = context.typed("axwatch doctor --repair");
    let out = &mut context.out;
    if let Some(repaired) = health.repaired.as_ref().filter(|repaired| !repaired.is_empty()) {
        table_of(out, "Mended", repaired)?;
    }
    if !health.findings.is_empty() {
        table_of(out, "Wrong", &health.findings)?;
    }
    if health.more > 0 {
        out.note(&format!("and {} more", health.more))?;
    }
    let looked_at =
        format!("{} and {}", counted(health.claims, "claim"), counted(health.jobs, "job"));
    let aside = match health.quarantined.len() as u64 {
        0 => String::new(),
        rows => format!("; {} in quarantine", counted(rows, "row")),
    };
    if health.ok {
        return out.line(&format!("ok: looked through {looked_at}{aside}"));
    }
    out.line(&format!("not ok: looked through {looked_at}{aside}"))?;
    let advice = match health.findings.iter().any(|finding| finding.repairable) {
        true if health.repaired.is_none() => format!("`{next}` mends what can be mended"),
        _ if health.findings.iter().any(|finding| finding.kind == FindingKind::File) => {
            "the file is damaged: restore a backup with `axwatch restore`".to_owned()
        }
        _ => {
            "what is left cannot be mended; `axwatch restore` puts a backup in its place".to_owned()
        }
    };
    out.note(&advice)
}

fn table_of(out: &mut Output, title: &str, findings: &[Finding]) -> Result<()> {
    out.heading(title)?;
    let mut page = TablePage::new(&["TABLE", "ROW", "WHAT"]);
    for finding in findings {
        let table = if finding.table.is_empty() { "the file" } else { &finding.table };
        let cells = vec![table.to_owned(), finding.row.clone(), finding.what.clone()];
        page.row(Style::new(), cells);
    }
    out.table(&mut page)
}
