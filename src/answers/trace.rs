//! What led to a claim or a job, and what came of it: the tree of causes and effects.
//!
//! In: the id of a claim or a job. Out: the way up from it to the first cause, and below it what it caused:
//! jobs of claims, claims of jobs. A claim has at most one cause, so that the way up is a line; each of its
//! nodes says how many other effects it had. Below, the nearest effects come first, as many of each cause
//! as were asked for; those that are left out are counted.
//!
//! A watcher that was stopped at a claim is found again as the engine decided it: by the watchers in the
//! claim's chain of causes, and the declaration that was in force.
//!
//! Not here: what a chain of causes is stopped for (`axwatch_core::loops`).

use std::collections::{BTreeSet, VecDeque};

use axwatch_ats::{Counted, StoreError, aliases_before};
use axwatch_core::loops::{DEPTH_MAX, chain_ends};
use axwatch_model::{
    AttestationId, JobIdPrefix, JobRow, LineageKind, Seq, Stored, WatcherNumber, WatcherRow,
};

use super::why_not::{Case, Standing, all_held, standing};
use super::{AnswerError, Answers, Held, raw};
use crate::output::{counted, quoted};
use crate::views::{LoopStop, Trace, TraceKind, TraceLineage, TraceNode};

/// Nodes of one tree, whatever was asked for; what lies below them is counted, and not told.
const NODES_MAX: usize = 10_000;
/// Bytes of claims in one tree; what lies below them is counted, and not told.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Watchers that are read and asked before others get their turn.
const ASKED_AT_ONCE: usize = 500;

/// How much of a tree is told.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Effects of one cause.
    pub limit: usize,
    /// Steps in each direction; from a claim to a claim that one of its jobs made is one.
    pub depth: usize,
}

/// A claim or a job, of which the tree is made.
enum Thing {
    Claim(Box<Stored>),
    Job(Box<JobRow>),
    /// It was in the store once: the claim of a job, or the job of a claim.
    Gone(TraceKind),
}

/// A tree that grows, in the order in which its nodes were found.
#[derive(Default)]
struct Tree {
    nodes: Vec<TraceNode>,
    effects: Vec<Vec<usize>>,
    /// Of the claims among the nodes.
    bytes: usize,
}

impl Answers {
    /// What led to a claim or a job, and what came of it. `matched` is how far the log has been matched,
    /// read before the call.
    ///
    /// # Errors
    /// [`AnswerError`] when there is no such claim or job, or when the ids of several jobs begin so.
    pub async fn trace(
        &self,
        text: &str,
        extent: Extent,
        matched: Seq,
        held: &Held,
    ) -> Result<Trace, AnswerError> {
        let asked = self.traced(text).await?;
        let (id, name) = match &asked {
            Thing::Claim(claim) => {
                let id = claim.attestation.id.to_string();
                (id.clone(), format!("{id} (seq {})", claim.seq))
            }
            Thing::Job(row) => (row.id.to_string(), format!("job {}", row.id)),
            Thing::Gone(_) => unreachable!("what was asked about was found"),
        };
        let (causes, above) = self.causes(&asked, extent.depth).await?;
        let mut tree = Tree::default();
        let mut last = None;
        for cause in causes {
            let place = tree.add(last, self.node(&cause, matched, held).await?);
            let others = self.count_effects(&cause).await?.saturating_sub(1);
            tree.nodes[place].left_out = others;
            for stop in self.stops_at(&cause, matched).await? {
                tree.add(Some(place), stop_node(stop));
            }
            last = Some(place);
        }
        let node = self.node(&asked, matched, held).await?;
        let origin = origin(&asked, &node);
        let place = tree.add(last, TraceNode { is_asked: true, ..node });
        self.grow(&mut tree, place, asked, extent, matched, held).await?;
        let is_told = |nodes: &[TraceNode]| nodes.iter().all(|node| node.left_out == 0);
        let came_of_it = came_of_it(tree.counts_below(place), is_told(&tree.nodes[place..]));
        let summary = format!("{name}: {origin}; {came_of_it}");
        let nodes = tree.in_order();
        Ok(Trace { asked: id, summary, above, is_whole: above == 0 && is_told(&nodes), nodes })
    }

    /// The claim or the job that a text names.
    async fn traced(&self, text: &str) -> Result<Thing, AnswerError> {
        let id: AttestationId = text
            .parse()
            .map_err(|error: axwatch_model::InvalidId| AnswerError::Invalid(error.to_string()))?;
        if let Some(claim) = self.store().get(&id).await? {
            return Ok(Thing::Claim(Box::new(claim)));
        }
        if let Ok(prefix) = text.parse::<JobIdPrefix>() {
            match self.job_id(&prefix).await {
                Ok(job) => {
                    if let Some(row) = self.store().job(job).await? {
                        return Ok(Thing::Job(Box::new(row)));
                    }
                }
                Err(AnswerError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(self.nothing_to_trace(text).await?)
    }

    /// That there is no such claim or job, with what may be meant.
    async fn nothing_to_trace(&self, text: &str) -> Result<AnswerError, StoreError> {
        if let Some(gone) = self.gone_claim(text).await? {
            return Ok(gone);
        }
        let hint = if self.find_watcher(text).await?.is_some() {
            format!("; it is a watcher: `axwatch fires --watcher {}` shows its jobs", quoted(text))
        } else if let Some(hint) = self.claim_numbered(text).await? {
            hint
        } else {
            let near = self.nearest_claim(text).await?;
            let near = near.map(|id| format!(" (did you mean {id}?)")).unwrap_or_default();
            format!(
                "{near}; `axwatch ax QUERY` shows the claims that there are, `axwatch fires` the jobs"
            )
        };
        let told = format!("there is no attestation or job {text} in this store{hint}");
        Ok(AnswerError::NotFound(told))
    }

    /// What led to it, the first cause first, over at most so many steps; and how many steps there are
    /// before that.
    async fn causes(&self, asked: &Thing, depth: usize) -> Result<(Vec<Thing>, u64), StoreError> {
        let mut causes = VecDeque::new();
        let mut next = self.cause(asked).await?;
        let mut steps = 0;
        while let Some(cause) = next {
            // A step ends at a claim, so that the line never begins with a job that has one.
            let is_claim = !matches!(cause, Thing::Job(_) | Thing::Gone(TraceKind::Job));
            if steps >= depth && is_claim {
                let above = match &cause {
                    Thing::Claim(claim) => u64::from(claim.lineage.depth) + 1,
                    _ => 1,
                };
                return Ok((causes.into(), above));
            }
            steps += usize::from(is_claim);
            next = self.cause(&cause).await?;
            causes.push_front(cause);
        }
        Ok((causes.into(), 0))
    }

    /// What caused it, where that is known.
    async fn cause(&self, thing: &Thing) -> Result<Option<Thing>, StoreError> {
        Ok(match thing {
            Thing::Claim(claim) => match claim.lineage.parent_job {
                Some(job) => Some(match self.store().job(job).await? {
                    Some(row) => Thing::Job(Box::new(row)),
                    None => Thing::Gone(TraceKind::Job),
                }),
                None => None,
            },
            Thing::Job(row) => match row.seq {
                Some(seq) => Some(match self.store().by_seqs(&[seq]).await?.pop() {
                    Some(claim) => Thing::Claim(Box::new(claim)),
                    None => Thing::Gone(TraceKind::Attestation),
                }),
                None => None,
            },
            Thing::Gone(_) => None,
        })
    }

    async fn count_effects(&self, thing: &Thing) -> Result<u64, StoreError> {
        Ok(match thing {
            Thing::Claim(claim) => self.store().jobs_of(claim.seq, 0).await?.all,
            Thing::Job(row) => self.store().made_by(row.id, 0).await?.all,
            Thing::Gone(_) => 0,
        })
    }

    /// Adds what came of a node, the nearest first.
    async fn grow(
        &self,
        tree: &mut Tree,
        place: usize,
        asked: Thing,
        extent: Extent,
        matched: Seq,
        held: &Held,
    ) -> Result<(), StoreError> {
        // A step has two halves: to a job, and on to a claim.
        let halves_max = 2 * extent.depth;
        let mut waiting = VecDeque::from([(place, asked, 0)]);
        while let Some((place, thing, halves)) = waiting.pop_front() {
            let (effects, all) = match &thing {
                Thing::Claim(claim) => {
                    let Counted { first, all } =
                        self.store().jobs_of(claim.seq, extent.limit).await?;
                    let rows = first.into_iter();
                    (rows.map(|row| Thing::Job(Box::new(row))).collect::<Vec<_>>(), all)
                }
                Thing::Job(row) => {
                    let Counted { first, all } = self.store().made_by(row.id, extent.limit).await?;
                    let made = first.into_iter();
                    (made.map(|claim| Thing::Claim(Box::new(claim))).collect(), all)
                }
                Thing::Gone(_) => (Vec::new(), 0),
            };
            let mut told = 0;
            for effect in effects.into_iter().filter(|_| halves < halves_max) {
                if tree.is_full() {
                    break;
                }
                let node = self.node(&effect, matched, held).await?;
                waiting.push_back((tree.add(Some(place), node), effect, halves + 1));
                told += 1;
            }
            tree.nodes[place].left_out = all - told;
            for stop in self.stops_at(&thing, matched).await? {
                tree.add(Some(place), stop_node(stop));
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn node(
        &self,
        thing: &Thing,
        matched: Seq,
        held: &Held,
    ) -> Result<TraceNode, StoreError> {
        Ok(match thing {
            Thing::Claim(claim) => TraceNode {
                attestation: Some(raw(claim.to_json())),
                lineage: Some(TraceLineage {
                    by: claim.appended_by.clone(),
                    kind: claim.lineage.kind,
                    root: claim.lineage.root.clone(),
                    depth: claim.lineage.depth,
                    chain: self.shown_chain(claim).await?,
                }),
                is_matched: Some(claim.seq <= matched),
                ..TraceNode::empty(TraceKind::Attestation)
            },
            Thing::Job(row) => TraceNode {
                job: self.job_views(vec![(**row).clone()], held).await?.pop(),
                ..TraceNode::empty(TraceKind::Job)
            },
            Thing::Gone(kind) => TraceNode::empty(*kind),
        })
    }

    /// The watchers that led to a claim, as shown.
    async fn shown_chain(&self, claim: &Stored) -> Result<Vec<Option<String>>, StoreError> {
        let mut shown = Vec::with_capacity(claim.lineage.chain.len());
        for watcher in &claim.lineage.chain {
            shown.push(match watcher {
                Some(number) => self.watcher_key(*number).await?.map(|key| key.to_string()),
                None => None,
            });
        }
        Ok(shown)
    }

    async fn stops_at(&self, thing: &Thing, matched: Seq) -> Result<Vec<LoopStop>, StoreError> {
        match thing {
            Thing::Claim(claim) => self.loop_stops(claim, matched).await,
            _ => Ok(Vec::new()),
        }
    }

    /// The watchers that hold for a claim and made no job of it, because its chain of causes ends there.
    pub(super) async fn loop_stops(
        &self,
        claim: &Stored,
        matched: Seq,
    ) -> Result<Vec<LoopStop>, StoreError> {
        let chain = &claim.lineage.chain;
        let is_stoppable = !chain.is_empty() && claim.lineage.kind != LineageKind::Unsure;
        if !is_stoppable || claim.seq > matched {
            return Ok(Vec::new());
        }
        let mut stops = Vec::new();
        if chain.len() > DEPTH_MAX {
            // Whoever waits for it, whether it was there before or not.
            let mut last = WatcherNumber(0);
            loop {
                let page = self.store().watchers_after(last, ASKED_AT_ONCE).await?;
                let Some(row) = page.last() else { break };
                last = row.number;
                for watcher in &page {
                    stops.extend(self.loop_stop(claim, watcher).await?);
                }
            }
        } else {
            let numbers: BTreeSet<WatcherNumber> = chain.iter().flatten().copied().collect();
            for number in numbers {
                let before = WatcherNumber(number.0 - 1);
                if let Some(watcher) = self.store().watchers_after(before, 1).await?.pop() {
                    stops.extend(self.loop_stop(claim, &watcher).await?);
                }
            }
        }
        Ok(stops)
    }

    /// That a watcher was stopped at a claim, if it was.
    pub(super) async fn loop_stop(
        &self,
        claim: &Stored,
        watcher: &WatcherRow,
    ) -> Result<Option<LoopStop>, StoreError> {
        let chain = &claim.lineage.chain;
        let Some(reason) = chain_ends(chain, watcher.number, watcher.max_chain) else {
            return Ok(None);
        };
        let revisions = self.store().revisions(watcher.number).await?;
        let Standing::InForce(revision) = standing(&revisions, claim.seq) else { return Ok(None) };
        let aliases = aliases_before(&**self.store(), claim.seq).await?;
        let holds = Case::conditions(claim, &aliases, &revision.declared);
        if !holds.is_ok_and(|conditions| all_held(&conditions)) {
            return Ok(None);
        }
        // It may have declared a longer chain then.
        let id = &claim.attestation.id;
        if !self.fired_jobs(&watcher.key, &revisions, id, &[]).await?.is_empty() {
            return Ok(None);
        }
        let chain = self.shown_chain(claim).await?;
        Ok(Some(LoopStop { watcher: watcher.key.to_string(), reason, chain }))
    }
}

impl TraceNode {
    fn empty(kind: TraceKind) -> TraceNode {
        TraceNode {
            parent: None,
            kind,
            is_asked: false,
            attestation: None,
            lineage: None,
            is_matched: None,
            job: None,
            stopped: None,
            left_out: 0,
        }
    }
}

fn stop_node(stop: LoopStop) -> TraceNode {
    TraceNode { stopped: Some(stop), ..TraceNode::empty(TraceKind::LoopStopped) }
}

impl Tree {
    fn add(&mut self, parent: Option<usize>, node: TraceNode) -> usize {
        let place = self.nodes.len();
        self.bytes += node.attestation.as_ref().map_or(0, |claim| claim.get().len());
        self.nodes.push(TraceNode { parent, ..node });
        self.effects.push(Vec::new());
        if let Some(parent) = parent {
            self.effects[parent].push(place);
        }
        place
    }

    fn is_full(&self) -> bool {
        self.nodes.len() >= NODES_MAX || self.bytes >= BYTES_MAX
    }

    /// How many jobs and claims there are below a node, and stops at it or below.
    fn counts_below(&self, place: usize) -> Counts {
        let mut counts = Counts::default();
        let mut waiting = self.effects[place].clone();
        while let Some(place) = waiting.pop() {
            match self.nodes[place].kind {
                TraceKind::Job => counts.jobs += 1,
                TraceKind::Attestation => counts.claims += 1,
                TraceKind::LoopStopped => counts.stops += 1,
            }
            waiting.extend(&self.effects[place]);
        }
        counts
    }

    /// The nodes, each after its cause and with its effects behind it.
    fn in_order(self) -> Vec<TraceNode> {
        let Tree { nodes, effects, .. } = self;
        let mut nodes: Vec<_> = nodes.into_iter().map(Some).collect();
        let mut ordered: Vec<TraceNode> = Vec::with_capacity(nodes.len());
        let mut waiting = vec![(0, None)];
        while let Some((place, parent)) = waiting.pop() {
            let Some(node) = nodes.get_mut(place).and_then(Option::take) else { continue };
            let new_place = ordered.len();
            ordered.push(TraceNode { parent, ..node });
            waiting.extend(effects[place].iter().rev().map(|effect| (*effect, Some(new_place))));
        }
        ordered
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    jobs: u64,
    claims: u64,
    stops: u64,
}

/// How it began, in words.
fn origin(asked: &Thing, node: &TraceNode) -> String {
    let Thing::Claim(claim) = asked else {
        let watcher = node.job.as_ref().and_then(|job| job.watcher.as_ref());
        return match watcher {
            Some(watcher) => format!("{watcher} made it"),
            None => "somebody asked for it".to_owned(),
        };
    };
    let depth = u64::from(claim.lineage.depth);
    let from = match &claim.lineage.root {
        Some(root) => format!("{} away from {root}", counted(depth, "step")),
        None => format!("{} away from its first cause", counted(depth, "step")),
    };
    match claim.lineage.kind {
        LineageKind::None => "no job made it".to_owned(),
        LineageKind::Sure => from,
        LineageKind::Stale => format!("{from}, made after its attempt was over"),
        LineageKind::Unsure if depth == 0 => {
            "its plugin may have made it on its own account".to_owned()
        }
        LineageKind::Unsure => {
            format!("one of several jobs of {} made it, at least {from}", claim.appended_by)
        }
    }
}

/// What came of it, in words.
fn came_of_it(counts: Counts, is_whole: bool) -> String {
    let Counts { jobs, claims, stops } = counts;
    let least = if is_whole { "" } else { "at least " };
    let mut told = match (jobs, claims) {
        (0, 0) => "nothing came of it".to_owned(),
        (jobs, 0) => format!("{least}{} came of it", counted(jobs, "job")),
        (0, claims) => format!("{least}{} came of it", counted(claims, "claim")),
        (jobs, claims) => {
            format!("{least}{} and {} came of it", counted(jobs, "job"), counted(claims, "claim"))
        }
    };
    if stops > 0 {
        told.push_str(&format!("; stopped as a loop {}", counted(stops, "time")));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_stand_behind_their_causes() {
        let mut tree = Tree::default();
        let empty = || TraceNode::empty(TraceKind::Job);
        let root = tree.add(None, empty());
        let first = tree.add(Some(root), empty());
        let second = tree.add(Some(root), TraceNode::empty(TraceKind::Attestation));
        tree.add(Some(first), TraceNode::empty(TraceKind::LoopStopped));
        tree.add(Some(second), empty());
        assert_eq!(tree.counts_below(root), Counts { jobs: 2, claims: 1, stops: 1 });
        let ordered = tree.in_order();
        let parents: Vec<_> = ordered.iter().map(|node| node.parent).collect();
        assert_eq!(parents, [None, Some(0), Some(1), Some(0), Some(3)]);
        let kinds: Vec<_> = ordered.iter().map(|node| node.kind).collect();
        use TraceKind::{Attestation, Job, LoopStopped};
        assert_eq!(kinds, [Job, Job, LoopStopped, Attestation, Job]);
    }

    #[test]
    fn what_came_of_it_is_told_in_words() {
        let counts = |jobs, claims, stops| Counts { jobs, claims, stops };
        let cases = [
            (counts(0, 0, 0), true, "nothing came of it"),
            (counts(1, 0, 0), true, "1 job came of it"),
            (counts(2, 1, 0), false, "at least 2 jobs and 1 claim came of it"),
            (counts(0, 0, 1), true, "nothing came of it; stopped as a loop 1 time"),
        ];
        for (counts, is_whole, expected) in cases {
            assert_eq!(came_of_it(counts, is_whole), expected);
        }
    }
}
