//! A workload from files.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use axwatch_model::{
    Attestation, Declared, DefaultActor, Defaults, Draft, StructuralFilter, Timestamp,
};
use axwatch_query::{Aliases, Filter, WatcherIndex};
use serde::{Deserialize, Serialize};

use crate::Workload;

/// The name of such a workload.
pub const NAME: &str = "outside";

/// A watcher: its id in any JSON, and lists or an AX text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Watcher {
    id: serde_json::Value,
    ax: Option<String>,
    #[serde(default)]
    subjects: Vec<String>,
    #[serde(default)]
    predicates: Vec<String>,
    #[serde(default)]
    contexts: Vec<String>,
    #[serde(default)]
    actors: Vec<String>,
}

/// What is found for one attestation.
#[derive(Serialize)]
struct Found<'a> {
    attestation: &'a str,
    /// In the order of the file.
    watchers: Vec<&'a serde_json::Value>,
}

/// Prints what is found for each attestation, then what it costs.
pub fn run(
    watchers: &Path,
    attestations: &Path,
    measure: impl FnOnce(&Workload) -> Result<()>,
) -> Result<()> {
    let (mut ids, mut declared) = (Vec::new(), Vec::new());
    let mut known = HashSet::new();
    for (place, line) in lines(watchers)? {
        let (id, one) = watcher(&line).with_context(|| place.clone())?;
        ensure!(known.insert(id.to_string()), "{place}: the id {id} stands twice");
        Filter::declared(&one).map_err(|mistakes| anyhow!("{place}: {}", mistakes.first()))?;
        ids.push(id);
        declared.push(one);
    }
    drop(known);
    ensure!(!ids.is_empty(), "{}: no watcher", watchers.display());
    let name = attestations.display();
    let attestations: Vec<Attestation> = lines(attestations)?
        .map(|(place, line)| attestation(&line).with_context(|| place))
        .collect::<Result<_>>()?;
    ensure!(!attestations.is_empty(), "{name}: no attestation");
    let mut index = WatcherIndex::new();
    for (id, declared) in declared.iter().enumerate() {
        let (filter, _) = Filter::declared(declared).expect("it was read above");
        index.insert(u32::try_from(id).context("too many watchers")?, &filter);
    }
    let (mut found, mut out) = (Vec::new(), std::io::stdout().lock());
    for attestation in &attestations {
        index.matching(attestation, Aliases::none(), &mut found);
        let watchers = found.iter().map(|id| &ids[*id as usize]).collect();
        let line = Found { attestation: attestation.id.as_str(), watchers };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    drop(out);
    measure(&Workload { name: NAME, watchers: declared, attestations })
}

/// The lines of a file that are not blank, each with its place.
fn lines(path: &Path) -> Result<impl Iterator<Item = (String, String)>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let name = path.display().to_string();
    let lines: Vec<(String, String)> = (1..)
        .zip(BufReader::new(file).lines())
        .map(|(number, line)| (format!("{name}, line {number}"), line))
        .map(|(place, line)| Ok((place.clone(), line.with_context(|| place)?)))
        .collect::<Result<_>>()?;
    Ok(lines.into_iter().filter(|(_, line)| !line.trim().is_empty()))
}

fn watcher(line: &str) -> Result<(serde_json::Value, Declared)> {
    let read: Watcher = serde_json::from_str(line)?;
    let lists = StructuralFilter {
        subjects: read.subjects,
        predicates: read.predicates,
        contexts: read.contexts,
        actors: read.actors,
    };
    let declared = match read.ax {
        Some(_) if lists != StructuralFilter::default() => {
            anyhow::bail!("both ax and lists; a watcher has either")
        }
        Some(text) => Declared::Ax(text),
        None => Declared::Structural(lists),
    };
    Ok((read.id, declared))
}

/// As one is read from a program, but for `created_at`, which counts here.
fn attestation(line: &str) -> Result<Attestation> {
    #[derive(Deserialize)]
    struct Created {
        created_at: Option<Timestamp>,
    }
    let draft = Draft::from_json(line)?;
    let created: Created = serde_json::from_str(line)?;
    let now = created.created_at.or(draft.timestamp).unwrap_or(Timestamp::from_ms_clamped(0));
    let defaults = Defaults { actor: DefaultActor::OwnId, source: "axwatch-bench".to_owned() };
    Ok(draft.complete(&defaults, "user", now, 1)?.attestation)
}
