//! `axwatch trace`: the tree of causes and effects around a claim or a job.

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use axwatch_model::{AttestationId, LineageKind};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::Deserialize;

use super::Context;
use crate::answers::Extent;
use crate::fault::Fault;
use crate::output::{Output, counted, cut, job_style};
use crate::source::{Source, parse};
use crate::views::{
    Job, LoopStop, TRACE_DEPTH_DEFAULT, TRACE_DEPTH_MAX, TRACE_LIMIT_DEFAULT, TRACE_LIMIT_MAX,
    Trace, TraceKind, TraceLineage, TraceNode,
};

const EXAMPLES: &str = "\
Examples:
  axwatch trace AS-ALICE-AUTHOR-GJJE7E959J8S
  axwatch trace 3ea27c                                  a job, by the beginning of its id
  axwatch trace 3ea27c --limit 100 --depth 2
  axwatch trace 3ea27c --json | jq '.nodes[] | select(.kind == \"loop_stopped\") | .stopped'";

/// Show what led to a claim or a job, and what came of it, as a tree
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TraceCommand {
    /// The id of a claim or of a job; of a job as much of it as no other begins with
    #[arg(value_name = "ATTESTATION|JOB")]
    id: String,
    /// At most so many effects of each cause; the others are counted
    #[arg(long, value_name = "N", default_value_t = TRACE_LIMIT_DEFAULT, value_parser = RangedU64ValueParser::<usize>::new().range(1..=TRACE_LIMIT_MAX as u64))]
    limit: usize,
    /// At most so many steps in each direction: from a claim to one that a job of it made is one
    #[arg(long, value_name = "N", default_value_t = TRACE_DEPTH_DEFAULT, value_parser = RangedU64ValueParser::<usize>::new().range(1..=TRACE_DEPTH_MAX as u64))]
    depth: usize,
}

impl TraceCommand {
    pub async fn run(self, context: &mut Context) -> Result<()> {
        self.id.parse::<AttestationId>().map_err(|error| Fault::Usage(error.to_string()))?;
        let extent = Extent { limit: self.limit, depth: self.depth };
        let trace = Source::find(&context.config()?.store).await?.trace(&self.id, extent).await?;
        if context.out.json {
            return context.out.object(&trace);
        }
        tell(&mut context.out, &trace)
    }
}

fn tell(out: &mut Output, trace: &Trace) -> Result<()> {
    out.line(&cut(&trace.summary, usize::MAX))?;
    if trace.above > 0 {
        let dim = Style::new().dimmed();
        let above = counted(trace.above, "claim");
        out.line(&format!("{dim}… {above} before this, or more; --depth shows them{dim:#}"))?;
    }
    let columns = out.terminal_columns();
    for line in tree(&trace.nodes, columns.is_some())? {
        let Line { stem, style, text } = line;
        let room =
            columns.map_or(usize::MAX, |columns| columns.saturating_sub(stem.chars().count()));
        // What is left on a narrow terminal is still worth a look.
        let text = cut(&text, room.max(20));
        out.line(&format!("{stem}{style}{text}{style:#}"))?;
    }
    Ok(())
}

/// One line of the tree: what leads to it, and what it says.
#[derive(Debug, PartialEq)]
struct Line {
    stem: String,
    style: Style,
    text: String,
}

/// The lines of nodes that stand in the order of a tree, and of what is left out of it.
fn tree(nodes: &[TraceNode], is_short: bool) -> Result<Vec<Line>> {
    let mut effects: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (place, node) in nodes.iter().enumerate() {
        if let Some(of) = node.parent.and_then(|parent| effects.get_mut(parent)) {
            of.push(place);
        }
    }
    let mut lines = Vec::new();
    // Stems as they stand before a node and before what is below it.
    let mut waiting = vec![(Shown::Node(0), String::new(), String::new())];
    while let Some((shown, stem, below)) = waiting.pop() {
        let place = match shown {
            Shown::LeftOut(count) => {
                let text = format!("… and {count} more");
                lines.push(Line { stem, style: Style::new().dimmed(), text });
                continue;
            }
            Shown::Node(place) => place,
        };
        let Some(node) = nodes.get(place) else { break };
        let (style, text) = told(node, is_short)?;
        lines.push(Line { stem, style, text });
        let left_out = Some(Shown::LeftOut(node.left_out)).filter(|_| node.left_out > 0);
        let under = effects[place].iter().copied().map(Shown::Node).chain(left_out);
        let mut under: Vec<_> = under.map(|shown| (shown, "├─ ", "│  ")).collect();
        if let Some((_, branch, rest)) = under.last_mut() {
            (*branch, *rest) = ("└─ ", "   ");
        }
        let put =
            |(shown, branch, rest)| (shown, format!("{below}{branch}"), format!("{below}{rest}"));
        waiting.extend(under.into_iter().rev().map(put));
    }
    Ok(lines)
}

#[derive(Debug, Clone, Copy)]
enum Shown {
    Node(usize),
    LeftOut(u64),
}

/// What a line says of a node.
fn told(node: &TraceNode, is_short: bool) -> Result<(Style, String)> {
    let (style, text) = match (node.kind, &node.attestation, &node.job, &node.stopped) {
        (TraceKind::Attestation, Some(claim), ..) => {
            let claim: Claim = parse(claim.get())?;
            (Style::new(), claim_text(&claim, node.lineage.as_ref(), node.is_matched))
        }
        (TraceKind::Job, _, Some(job), _) => (job_style(job.state), job_text(job, is_short)),
        (TraceKind::LoopStopped, _, _, Some(stop)) => {
            (AnsiColor::Red.on_default(), stop_text(stop))
        }
        (TraceKind::Attestation, ..) => gone("a claim that is not in the log any more"),
        (TraceKind::Job, ..) => gone("a job that is not in the store any more"),
        (TraceKind::LoopStopped, ..) => gone("stopped as a loop"),
    };
    if node.is_asked {
        return Ok((style.bold(), format!("{text}  ◀")));
    }
    Ok((style, text))
}

fn gone(text: &str) -> (Style, String) {
    (Style::new().dimmed(), text.to_owned())
}

/// What the tree shows of a claim.
#[derive(Deserialize)]
struct Claim {
    id: String,
    seq: u64,
    subjects: Vec<String>,
    predicates: Vec<String>,
    contexts: Vec<String>,
    actors: Vec<String>,
    created_at: String,
}

/// `AS-1  ALICE is author of GitHub by hr  (seq 3, 2024-01-15T14:30:00Z, appended by zoo, lineage sure)`.
fn claim_text(claim: &Claim, lineage: Option<&TraceLineage>, is_matched: Option<bool>) -> String {
    let given = |terms: &[String]| terms != ["_"];
    let mut says = claim.subjects.join(", ");
    let clauses = [("is", &claim.predicates), ("of", &claim.contexts), ("by", &claim.actors)];
    for (word, terms) in clauses {
        // A claim without an actor is its own.
        if given(terms) && *terms != [claim.id.as_str()] {
            says.push_str(&format!(" {word} {}", terms.join(", ")));
        }
    }
    let mut facts = vec![format!("seq {}", claim.seq), claim.created_at.clone()];
    if let Some(lineage) = lineage {
        facts.push(format!("appended by {}", lineage.by));
        facts.extend(match lineage.kind {
            LineageKind::None => None,
            LineageKind::Sure => Some("lineage sure".to_owned()),
            LineageKind::Stale => Some("lineage stale: its attempt was over".to_owned()),
            LineageKind::Unsure => Some(format!(
                "lineage unsure, {} deep or more",
                counted(u64::from(lineage.depth), "step")
            )),
        });
    }
    if is_matched == Some(false) {
        facts.push("not matched yet".to_owned());
    }
    format!("{}  {says}  ({})", claim.id, facts.join(", "))
}

/// Hex digits of a job's id that are shown on a terminal: enough for any command.
const SHORT_ID: usize = 12;

/// `job 3ea27c14d1c9  user-prs → notify.log  completed  (2024-01-15T14:30:00Z, 2 attempts)`.
fn job_text(job: &Job, is_short: bool) -> String {
    let id = job.job_id.to_string();
    let id = if is_short { &id[..SHORT_ID] } else { &id };
    let by = job.watcher.as_ref().map(|watcher| format!("{watcher} → ")).unwrap_or_default();
    let mut facts = vec![job.created_at.to_string()];
    if job.attempts != 1 {
        facts.push(counted(u64::from(job.attempts), "attempt"));
    }
    if let Some(generation) = job.generation.filter(|generation| *generation > 0) {
        facts.push(format!("generation {generation}"));
    }
    let error = job.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("job {id}  {by}{}  {}  ({}){error}", job.handler, job.state, facts.join(", "))
}

fn stop_text(stop: &LoopStop) -> String {
    let chain = stop.chain.iter().map(|by| by.as_deref().unwrap_or("-"));
    let chain = chain.collect::<Vec<_>>().join(" → ");
    format!("loop stopped: {}: {} (chain: {chain})", stop.watcher, stop.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(watcher: &str) -> LoopStop {
        let chain = vec![Some(watcher.to_owned()), None];
        LoopStop { watcher: watcher.to_owned(), reason: "r".to_owned(), chain }
    }

    fn node(parent: Option<usize>, name: &str, left_out: u64) -> TraceNode {
        TraceNode {
            parent,
            kind: TraceKind::LoopStopped,
            is_asked: name == "c",
            attestation: None,
            lineage: None,
            is_matched: None,
            job: None,
            stopped: Some(stop(name)),
            left_out,
        }
    }

    #[test]
    fn a_tree_has_its_stems() {
        let nodes = [
            node(None, "a", 0),
            node(Some(0), "b", 2),
            node(Some(1), "c", 0),
            node(Some(2), "d", 0),
            node(Some(0), "e", 37),
        ];
        let lines = tree(&nodes, false).unwrap();
        let told = |name| stop_text(&stop(name));
        let shown: Vec<_> =
            lines.iter().map(|line| format!("{}{}", line.stem, line.text)).collect();
        let expected = [
            told("a"),
            format!("├─ {}", told("b")),
            format!("│  ├─ {}  ◀", told("c")),
            format!("│  │  └─ {}", told("d")),
            "│  └─ … and 2 more".to_owned(),
            format!("└─ {}", told("e")),
            "   └─ … and 37 more".to_owned(),
        ];
        assert_eq!(shown, expected);
        assert_eq!(told("a"), "loop stopped: a: r (chain: a → -)");
        assert_eq!(tree(&[], false).unwrap(), []);
    }

    #[test]
    fn a_claim_is_told_in_words() {
        let claim = |contexts: &[&str], actors: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Claim {
                id: "AS-1".to_owned(),
                seq: 3,
                subjects: vec!["X".to_owned(), "Y".to_owned()],
                predicates: vec!["seen".to_owned()],
                contexts: texts(contexts),
                actors: texts(actors),
                created_at: "T".to_owned(),
            }
        };
        let lineage = |kind| TraceLineage {
            by: "zoo".to_owned(),
            kind,
            root: None,
            depth: 2,
            chain: Vec::new(),
        };
        let told = claim_text(&claim(&["here"], &["ann"]), None, Some(true));
        assert_eq!(told, "AS-1  X, Y is seen of here by ann  (seq 3, T)");
        let unsure = lineage(LineageKind::Unsure);
        let told = claim_text(&claim(&["_"], &["AS-1"]), Some(&unsure), Some(false));
        let expected = "AS-1  X, Y is seen  (seq 3, T, appended by zoo, lineage unsure, 2 steps deep or more, not matched yet)";
        assert_eq!(told, expected);
    }
}
