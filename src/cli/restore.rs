//! `axwatch restore`: a backup in a store's place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use axwatch_ats::{Existing, Finding, FindingKind, Restoring, SqliteStore};
use axwatch_model::{Clock as _, SystemClock};
use clap::Args;
use indicatif::ProgressBar;

use super::Context;
use super::audit::recompute;
use super::backup::{copy_bar, held_text, show};
use crate::answers::Answers;
use crate::fault::Fault;
use crate::output::{Output, counted};
use crate::source::Source;
use crate::views::{Held, Restored};

const EXAMPLES: &str = "\
Examples:
  axwatch restore claims-2026-11-21.db
  axwatch restore claims-2026-11-21.db --store ./trial.db
  axwatch restore claims-2026-11-21.db --force";

/// Check a backup and make it the store
///
/// The file is copied beside the store and looked through there: its checksum, the whole database,
/// every row, the whole audit. Only then it becomes the store, at once; what was there stays as
/// STORE.before-restore-DATE. No server may run on the store. The file itself is not changed.
///
/// Claims that were made after the backup are not in it: send them again, under their ids. Jobs that
/// were done since then run again, under the same ids.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Restore {
    /// The backup
    file: PathBuf,
    /// Put it in the place of a store that is there; that one is kept beside it
    #[arg(long)]
    force: bool,
    /// Restore it although rows of it do not decode or its audit is not whole, when nothing better is left
    #[arg(long)]
    damaged: bool,
}

impl Restore {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        let store = context.config()?.store;
        if !self.file.exists() {
            let told = format!("there is no file {}", self.file.display());
            return Err(Fault::Usage(told).into());
        }
        let restoring = begin(&self.file, &store, self.force).await?;
        let problems = look_through(&restoring).await?;
        if let Some(problem) = problems.first() {
            if !self.damaged || problem.is_final {
                return Err(restoring.refusal(&told(&problems)).into());
            }
            context.out.note(&format!("restoring it although {}", told(&problems)))?;
        }
        let (held, checksum) = (Held::of(restoring.contents()), restoring.has_checksum());
        let restored = restoring.put_in_place(SystemClock::new().now().wall).await?;
        let file = self.file.canonicalize().unwrap_or(self.file);
        tell(&mut context.out, &Restored::of(&file, &restored, held, checksum))
    }
}

async fn begin(file: &Path, store: &Path, force: bool) -> Result<Restoring> {
    let existing = if force { Existing::Replace } else { Existing::Keep };
    let bar = copy_bar();
    let begun = SqliteStore::restore(file, store, existing, &mut |copied| show(&bar, copied)).await;
    bar.finish_and_clear();
    Ok(begun?)
}

/// Something that is wrong with a copy.
struct Problem {
    what: String,
    /// No store can be made of it.
    is_final: bool,
}

/// Everything that can be known of a copy before it is trusted; what is worst comes first.
async fn look_through(restoring: &Restoring) -> Result<Vec<Problem>> {
    let looking = spinner("looking through the database");
    let examined = restoring.examine().await;
    looking.finish_and_clear();
    let mut problems: Vec<_> = examined?.findings.iter().map(problem_of).collect();
    problems.sort_by_key(|problem| !problem.is_final);
    if problems.first().is_some_and(|problem| problem.is_final) {
        return Ok(problems);
    }
    let reader = SqliteStore::open_reader(restoring.path()).await?;
    let audit = recompute(&Source::Store(Answers::new(reader)), None).await?;
    if let Some(problem) = audit.problem() {
        let what = format!("its audit is not as it was written: {problem}");
        problems.insert(0, Problem { what, is_final: false });
    }
    Ok(problems)
}

fn problem_of(finding: &Finding) -> Problem {
    let Finding { kind, table, row, what, repairable } = finding;
    let is_final = *kind == FindingKind::File || (*kind == FindingKind::Meta && !repairable);
    let what = match (is_final, row.is_empty()) {
        (true, _) => format!("the database is damaged: {what}"),
        (false, true) => format!("its table {table}: {what}"),
        (false, false) => format!("row {row} of its table {table}: {what}"),
    };
    Problem { what, is_final }
}

/// The first problem, and how many more there are.
fn told(problems: &[Problem]) -> String {
    let first = problems.first().map_or("", |problem| &problem.what);
    match problems.len() {
        0 | 1 => first.to_owned(),
        many => format!("{first} (and {})", counted(many as u64 - 1, "more problem")),
    }
}

/// Something that takes long and cannot say how far it is, for people.
fn spinner(message: &'static str) -> ProgressBar {
    let spinner = copy_bar();
    if !spinner.is_hidden() {
        spinner.set_style(indicatif::ProgressStyle::default_spinner());
        spinner.set_message(message);
        spinner.enable_steady_tick(Duration::from_millis(100));
    }
    spinner
}

fn tell(out: &mut Output, restored: &Restored) -> Result<()> {
    if out.json {
        return out.object(restored);
    }
    let Restored { path, from, aside, checksum, held, .. } = restored;
    out.line(&format!("restored {path} from {from}: {}", held_text(held)))?;
    if let Some(aside) = aside {
        out.line(&format!("what was there before is {aside}"))?;
    }
    if !checksum {
        out.line("the file carries no checksum, so `axwatch backup` did not write it; what can be seen is whole")?;
    }
    let last = held.last_at.map(|at| format!(" (its last record is of {at})")).unwrap_or_default();
    out.line(&format!(
        "claims after seq {} are not in it{last}; jobs done since then run again, under the same ids",
        held.seq
    ))
}
