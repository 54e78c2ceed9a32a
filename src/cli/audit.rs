//! `axwatch audit`: what was decided and done, and that nobody has changed it since.

use std::io::IsTerminal as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result, bail};
use axwatch_ats::StoreError;
use axwatch_core::audit::{Head, Problem, Proof, Report, Row, Verifier};
use axwatch_model::{JobIdPrefix, LeafNumber};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{Context, Limit};
use crate::answers::{AnswerError, List, RECORD_TYPES};
use crate::client::ClientError;
use crate::fault::Fault;
use crate::output::{Output, TablePage, counted};
use crate::source::{Source, parse};

/// Read the audit, recompute it, prove one record of it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  axwatch audit show --limit 20
  axwatch audit verify
  axwatch audit prove 3ea27c -o proof.json && axwatch audit check proof.json")]
pub struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show records, newest first
    #[command(
        after_help = "Examples:\n  axwatch audit show --limit 20\n  axwatch audit show --type dead_lettered --all --json"
    )]
    Show {
        /// Only records of this type, such as attempt_ended
        #[arg(long = "type", value_name = "TYPE", value_parser = RECORD_TYPES)]
        kind: Option<String>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Print the head: save it, and `verify --head` finds any later change of what was before
    #[command(after_help = "Example:\n  axwatch audit head > head.txt")]
    Head,
    /// Recompute the whole audit
    #[command(
        after_help = "Examples:\n  axwatch audit verify\n  axwatch audit verify --head \"$(cat head.txt)\" --json"
    )]
    Verify {
        /// A head that was saved earlier
        #[arg(long, value_name = "SIZE:HEX")]
        head: Option<Head>,
    },
    /// Write a proof of how the last attempt of a job ended
    #[command(
        after_help = "Example:\n  axwatch audit prove 3ea27c14d1c994b3bc463569ba5fdcae -o proof.json"
    )]
    Prove {
        /// The job's id, or as much of it as no other begins with
        #[arg(value_name = "JOB")]
        id: JobIdPrefix,
        /// Where to write it; standard output otherwise
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Check a proof file; needs no store
    #[command(
        after_help = "Examples:\n  axwatch audit check proof.json\n  axwatch audit check proof.json --head \"$(cat head.txt)\""
    )]
    Check {
        /// The proof file; - is standard input
        file: PathBuf,
        /// The head that was saved when the proof was made: the proof must be of it
        #[arg(long, value_name = "SIZE:HEX")]
        head: Option<Head>,
    },
}

impl Audit {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        if let Command::Check { file, head } = &self.command {
            return check(&mut context.out, file, *head);
        }
        let source = Source::find(&context.config()?.store).await?;
        let out = &mut context.out;
        match self.command {
            Command::Show { kind, limit } => show(out, &source, kind, limit).await,
            Command::Head => {
                let head = source.audit_head().await?;
                if out.json { out.object(&head) } else { out.line(&head.head) }
            }
            Command::Verify { head } => verify(out, &source, head).await,
            Command::Prove { id, output } => {
                let proof = source.proof(&id).await?;
                Proof::from_json(&proof)?.check().context(
                    "the proof that was made does not hold; `axwatch audit verify` says more",
                )?;
                match output {
                    None => out.line(&proof),
                    Some(file) => {
                        std::fs::write(&file, format!("{proof}\n"))
                            .with_context(|| format!("cannot write {}", file.display()))?;
                        let told = format!(
                            "wrote {}; `axwatch audit check` checks it anywhere",
                            file.display()
                        );
                        if out.json {
                            out.object(&json!({ "file": file }))
                        } else {
                            out.line(&told)
                        }
                    }
                }
            }
            Command::Check { .. } => unreachable!("it was run without a store"),
        }
    }
}

async fn show(out: &mut Output, source: &Source, kind: Option<String>, limit: Limit) -> Result<()> {
    let list = List::Records { kind, before: None };
    let mut lines = source.list(&list, limit.lines()).await?;
    let mut table = TablePage::new(&["#RECORD", "AT", "TYPE", "ABOUT"]);
    while let Some(page) = lines.next().await? {
        for line in &page {
            if out.json {
                out.line(line)?;
            } else {
                table.row(Style::new(), cells_of(line)?);
            }
        }
        out.table(&mut table)?;
        out.flush()?;
    }
    if table.is_empty() {
        out.note("no such records; `axwatch serve` writes the first when it starts")?;
    }
    Ok(())
}

/// Number, time and type of a record, and the rest of it as `key=value`.
fn cells_of(line: &str) -> Result<Vec<String>> {
    let mut record: serde_json::Map<String, Value> = parse(line)?;
    let mut take = |key: &str| record.remove(key).map(|value| plain(&value)).unwrap_or_default();
    let mut cells = vec![take("leaf"), take("at"), take("type")];
    let rest = record.iter().map(|(key, value)| format!("{key}={}", plain(value)));
    cells.push(rest.collect::<Vec<_>>().join(" "));
    Ok(cells)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

async fn verify(out: &mut Output, source: &Source, saved: Option<Head>) -> Result<()> {
    tell(out, &recompute(source, saved).await?)
}

/// What came of recomputing the whole audit.
#[derive(Debug)]
pub struct Recomputed {
    /// How many records were recomputed, and the head they make.
    report: Report,
    /// Why the rest could not be read.
    unreadable: Option<String>,
}

impl Recomputed {
    /// What is wrong, if anything is.
    pub fn problem(&self) -> Option<String> {
        let problem = self.report.problem.as_ref().map(ToString::to_string);
        problem.or_else(|| self.unreadable.clone())
    }

    /// How many records were recomputed.
    pub fn records(&self) -> u64 {
        self.report.records
    }
}

/// Recomputes the audit from its first record on, and holds it to the saved head, or else to the one
/// that the store itself keeps.
pub async fn recompute(source: &Source, saved: Option<Head>) -> Result<Recomputed> {
    // The store's own head before its rows: what is appended meanwhile must not look like a loss.
    let (kept, mut unreadable) = match source.audit_head().await {
        Ok(view) => (Some(view.head.parse::<Head>()?), None),
        Err(error) if is_damage(&error) => (None, Some(format!("{error:#}"))),
        Err(error) => return Err(error),
    };
    let mut verifier = saved.or(kept).map_or_else(Verifier::new, Verifier::with_saved_head);
    let progress = progress(kept.map_or(0, |head| head.size));
    'rows: loop {
        let rows = match source.audit_rows(LeafNumber(verifier.records())).await {
            Ok(rows) => rows,
            Err(error) if is_damage(&error) => {
                unreadable = Some(format!("{error:#}"));
                break;
            }
            Err(error) => return Err(error),
        };
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            let row = Row {
                first_leaf: row.first_leaf,
                count: row.count,
                records: &row.records,
                nodes: &row.nodes,
                head: &row.head,
            };
            if verifier.feed(&row) == ControlFlow::Break(()) {
                break 'rows;
            }
        }
        progress.set_position(verifier.records());
    }
    progress.finish_and_clear();
    Ok(Recomputed { report: held_to(kept, verifier.finish()), unreadable })
}

/// Holds what came out to the size that the store itself keeps.
fn held_to(kept: Option<Head>, report: Report) -> Report {
    match kept {
        Some(kept) if report.problem.is_none() && report.records < kept.size => {
            let cut = Problem::Cut { found: report.records, saved: kept.size };
            Report { ok: false, problem: Some(cut), ..report }
        }
        _ => report,
    }
}

/// A row that does not decode is a finding, not a failure to look.
fn is_damage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let row = |error: &StoreError| matches!(error, StoreError::Row { .. });
        cause.downcast_ref::<StoreError>().is_some_and(row)
            || matches!(cause.downcast_ref(), Some(AnswerError::Store(error)) if row(error))
            || matches!(cause.downcast_ref(), Some(ClientError::Server(refusal)) if refusal.kind == "damaged")
    })
}

fn tell(out: &mut Output, recomputed: &Recomputed) -> Result<()> {
    let (problem, report) = (recomputed.problem(), &recomputed.report);
    let ok = problem.is_none();
    if out.json {
        let head = report.head.to_string();
        out.object(&Verdict { ok, records: report.records, head: &head, problem })?;
    } else if let Some(problem) = problem {
        let red = AnsiColor::Red.on_default().bold();
        out.line(&format!("{red}not ok{red:#}: {problem}"))?;
        let before = counted(report.records, "record");
        out.line(&format!("{before} before it as they were written"))?;
    } else {
        let green = AnsiColor::Green.on_default().bold();
        let records = counted(report.records, "record");
        out.line(&format!("{green}ok{green:#}: {records}, head {}", report.head))?;
    }
    if ok { Ok(()) } else { Err(Fault::NotOk.into()) }
}

/// What `verify` prints as JSON.
#[derive(serde::Serialize)]
struct Verdict<'a> {
    ok: bool,
    records: u64,
    head: &'a str,
    problem: Option<String>,
}

fn progress(size: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} records {eta}");
    bar.with_style(style.expect("the template is well-formed"))
}

fn check(out: &mut Output, file: &Path, saved: Option<Head>) -> Result<()> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin()).context("cannot read standard input")?
    } else {
        std::fs::read_to_string(file)
            .map_err(|error| Fault::Usage(format!("cannot read {}: {error}", file.display())))?
    };
    let proof = Proof::from_json(text.trim()).and_then(|proof| proof.check());
    let checked = proof.map_err(anyhow::Error::from).and_then(|checked| {
        match saved.filter(|saved| *saved != checked.head) {
            Some(saved) => bail!("the proof is of the head {}, not of {saved}", checked.head),
            None => Ok(checked),
        }
    });
    match checked {
        Ok(checked) => {
            if out.json {
                return out.object(&json!({
                    "ok": true, "store_id": checked.store_id, "leaf": checked.leaf,
                    "record": checked.record, "head": checked.head, "problem": null,
                }));
            }
            let green = AnsiColor::Green.on_default().bold();
            out.line(&format!("{green}ok{green:#}: this record is in the audit with this head"))?;
            let mut fields = vec![
                ("store", format!("{} (as the file says)", checked.store_id)),
                ("record", checked.leaf.to_string()),
                ("head", checked.head.to_string()),
            ];
            fields.extend(checked.record.iter().map(|(key, value)| (key.as_str(), plain(value))));
            out.fields(&fields)?;
            out.line(if saved.is_some() {
                "the head is the one that you gave"
            } else {
                "the head and its size are what the file says too: compare them with a head that was saved (--head SIZE:HEX)"
            })
        }
        Err(error) => {
            let problem = format!("{error:#}");
            if out.json {
                out.object(&json!({ "ok": false, "problem": problem }))?;
            } else {
                let red = AnsiColor::Red.on_default().bold();
                out.line(&format!("{red}not ok{red:#}: {problem}"))?;
            }
            Err(Fault::NotOk.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_shown_on_one_line() {
        let cells = cells_of(r#"{"leaf":3,"at":"t","job":"j","n":1,"type":"limited"}"#).unwrap();
        assert_eq!(cells, ["3", "t", "limited", "job=j n=1"]);
    }

    #[test]
    fn fewer_records_than_the_store_itself_counts_are_a_cut() {
        let head = |size| Head { size, root: [1; 32] };
        let report = || Report { ok: true, records: 5, head: head(5), problem: None };
        let told = |kept| held_to(kept, report()).problem.map(|problem| problem.to_string());
        assert_eq!(told(None), None);
        assert_eq!(told(Some(head(5))), None);
        let cut = "the log has 5 records, the saved head 6: its end was cut off";
        assert_eq!(told(Some(head(6))).as_deref(), Some(cut));
    }

    #[test]
    fn a_row_that_does_not_decode_is_a_finding() {
        let row = || StoreError::Row { table: "audit", row: "1".into(), reason: "short".into() };
        assert!(is_damage(&row().into()));
        assert!(is_damage(&AnswerError::Store(row()).into()));
        let refusal = |kind: &str| crate::client::Refusal {
            kind: kind.into(),
            message: String::new(),
            mistakes: None,
        };
        assert!(is_damage(&ClientError::Server(refusal("damaged")).into()));
        assert!(!is_damage(&ClientError::Server(refusal("store")).into()));
    }
}
