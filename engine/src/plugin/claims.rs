//! Claims that plugins make: from a checked draft to an append, with what caused it.
//!
//! A claim that names its job and attempt gets its lineage from them, and an id computed from what it
//! says, so that a retried attempt makes the same claims again and not new ones. A claim that names
//! none gets what the jobs under way at its plugin allow to say, and no more; if it says that a stored handler
//! of the plugin does not load, no job made it.
//!
//! Not here: the wire (`super::wire`), and whose token it is (`super::token`).

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use axwatch_ats::StoreError;
use axwatch_model::{
    Attestation, AttestationId, DefaultActor, Defaults, Draft, FAULTED, Incoming, InvalidDraft,
    JobId, Lineage, LineageKind, Seq, Stored, WatcherNumber, bounds,
};
use tokio::task::JoinError;

use super::caller::Caller;
use super::wire::InvalidClaim;
use crate::dispatch::{InFlight, Running};
use crate::handle::{Acked, AppendRefusal, Engine, EngineGone};

/// Chains kept, so that the claims of one job read its own claim from the disk once.
const CHAINS_KEPT: usize = 4_096;

/// Why a claim was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    /// The message.
    #[error(transparent)]
    Wire(#[from] InvalidClaim),
    /// What it says.
    #[error(transparent)]
    Draft(#[from] InvalidDraft),
    /// The job that it names. The same answer for another plugin's job and for one that is nowhere.
    #[error("job_id: {0:?} is not a job of this plugin")]
    NotYours(String),
    /// The attempt that it names.
    #[error(
        "attempt: {0} is not the number of an attempt; they count from 1, and 0 means the running one"
    )]
    NoAttempt(i32),
    /// What the log already holds, or the room on the disk.
    #[error(transparent)]
    Refused(#[from] AppendRefusal),
    /// Nobody is there to append it.
    #[error("unavailable: {0}")]
    Gone(#[from] EngineGone),
    /// The store did not answer.
    #[error("unavailable: {0}")]
    Store(#[from] StoreError),
}

/// The job on whose behalf a claim is made, as the request says it.
#[derive(Debug, Clone, Default)]
pub(crate) struct OnBehalf {
    /// In hex; empty when no job is named.
    pub(crate) job_id: String,
    /// 0 when none is named.
    pub(crate) attempt: i32,
}

/// One attempt of a named job.
#[derive(Debug, Clone, Copy)]
struct Named {
    job: JobId,
    attempt: u32,
}

/// A checked claim that may be appended once it has its id.
pub(crate) struct Prepared {
    incoming: Incoming,
    /// The attempt that its id is computed from.
    computed: Option<Named>,
}

/// What the id of a claim was computed from.
struct Counted {
    named: Named,
    content: [u8; 32],
}

/// Where a claim stands in its chain of causes.
#[derive(Debug, Clone, Default)]
struct Chain {
    root: Option<AttestationId>,
    depth: u32,
    /// The watchers that led to it, from the last claim on whose cause is not sure.
    watchers: Vec<Option<WatcherNumber>>,
}

/// The job that made a claim, as far as its chain goes.
struct Maker {
    job: JobId,
    seq: Option<Seq>,
    watcher: Option<WatcherNumber>,
}

/// Makes claims for plugins.
pub(crate) struct Claims {
    engine: Engine,
    chains: Mutex<Chains>,
}

/// Chains that were read, the latest [`CHAINS_KEPT`].
#[derive(Default)]
struct Chains {
    by_seq: HashMap<Seq, Chain>,
    /// In the order in which they were read.
    read: VecDeque<Seq>,
}

impl Claims {
    pub(crate) fn new(engine: Engine) -> Claims {
        Claims { engine, chains: Mutex::default() }
    }

    /// Checks a claim, fills its gaps, and finds out what caused it.
    pub(crate) async fn prepare(
        &self,
        caller: &Caller,
        draft: Draft,
        on_behalf: &OnBehalf,
    ) -> Result<Prepared, ClaimError> {
        let plugin = caller.plugin.as_str();
        let has_id = draft.id.is_some();
        let defaults = Defaults { actor: DefaultActor::OwnId, source: plugin.to_owned() };
        let mut incoming = self.engine.complete(draft, &defaults, plugin)?;
        let mut computed = None;
        if on_behalf.job_id.is_empty() {
            incoming.lineage = self.unnamed(caller).await?;
            if is_own_fault(&incoming.attestation, plugin) {
                // Not the job that happens to be under way: what runs for one names it, and may not say this.
                let Lineage { kind, depth, .. } = incoming.lineage;
                let kind = if kind == LineageKind::None { kind } else { LineageKind::Unsure };
                incoming.lineage = Lineage { kind, depth, ..Lineage::default() };
            }
        } else {
            let (lineage, named) = self.named(caller, on_behalf).await?;
            incoming.lineage = lineage;
            computed = (!has_id).then_some(named);
        }
        Ok(Prepared { incoming, computed })
    }

    /// Appends all of these claims in one transaction, or none. Answers for each, in order.
    pub(crate) async fn append_together(
        &self,
        caller: &Caller,
        prepared: Vec<Prepared>,
    ) -> Result<Vec<Result<Seq, AppendRefusal>>, ClaimError> {
        let Some(turn) = caller.share.turn(&self.engine, prepared.len()).await else {
            return Ok(prepared.iter().map(|_| Err(AppendRefusal::Overloaded)).collect());
        };
        let engine = self.engine.clone();
        // What has begun goes on to its end, whether or not the caller still waits.
        let appended = tokio::spawn(async move {
            let answers = append_counted(&engine, prepared).await;
            turn.ended();
            answers
        });
        let answers = match appended.await.map_err(JoinError::try_into_panic) {
            Ok(answers) => answers?,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => return Err(EngineGone.into()),
        };
        Ok(answers.into_iter().map(|answer| answer.map(|acked| acked.seq)).collect())
    }

    /// Appends one claim and answers with it as it stands in the log.
    pub(crate) async fn append_one(
        &self,
        caller: &Caller,
        prepared: Prepared,
    ) -> Result<Stored, ClaimError> {
        let answers = self.append_together(caller, vec![prepared]).await?;
        let answer = answers.into_iter().next().ok_or(EngineGone)?;
        let stored = self.engine.store().by_seqs(&[answer?]).await?;
        Ok(stored.into_iter().next().ok_or(EngineGone)?)
    }

    async fn named(
        &self,
        caller: &Caller,
        on_behalf: &OnBehalf,
    ) -> Result<(Lineage, Named), ClaimError> {
        let not_yours =
            || ClaimError::NotYours(axwatch_model::bounds::cut(&on_behalf.job_id, 80).to_owned());
        let job: JobId = on_behalf.job_id.parse().map_err(|_| not_yours())?;
        let given = u32::try_from(on_behalf.attempt)
            .map_err(|_| ClaimError::NoAttempt(on_behalf.attempt))?;
        let running = self.engine.in_flight().of_job(job);
        let (maker, latest, is_running) = match running {
            Some(running) if running.plugin == caller.plugin => {
                let is_running = running.incarnation == caller.incarnation;
                (maker_of(&running), running.attempt, is_running)
            }
            Some(_) => return Err(not_yours()),
            None => {
                let row = self.engine.store().job(job).await?;
                let row = row.filter(|row| row.plugin.as_ref() == Some(&caller.plugin));
                let row = row.ok_or_else(not_yours)?;
                (Maker { job, seq: row.seq, watcher: row.watcher }, row.attempts, false)
            }
        };
        let attempt = if given == 0 { latest } else { given };
        let is_current = is_running && attempt == latest;
        let kind = if is_current { LineageKind::Sure } else { LineageKind::Stale };
        let lineage = self.below(kind, maker).await?;
        Ok((lineage, Named { job, attempt }))
    }

    /// What can be said of a claim that names no job.
    async fn unnamed(&self, caller: &Caller) -> Result<Lineage, ClaimError> {
        if caller.is_initializing() {
            return Ok(Lineage::default());
        }
        let running = self.engine.in_flight().of_plugin(&caller.plugin, caller.incarnation);
        let unsure = |depth| Lineage { kind: LineageKind::Unsure, depth, ..Lineage::default() };
        if caller.has_own_account() {
            return Ok(unsure(0));
        }
        if running.is_empty() {
            caller.works_on_own_account();
            return Ok(Lineage::default());
        }
        if let [only] = &running[..] {
            return self.below(LineageKind::Sure, maker_of(only)).await;
        }
        let seqs: Vec<_> = running.iter().filter_map(|attempt| attempt.seq).collect();
        let smallest = if seqs.len() < running.len() {
            // A job without a claim begins a chain.
            0
        } else {
            let chains = self.chains(&seqs).await?;
            chains.iter().map(|chain| chain.depth).min().unwrap_or(0)
        };
        Ok(unsure(smallest + 1))
    }

    /// The lineage of what this job makes.
    async fn below(&self, kind: LineageKind, maker: Maker) -> Result<Lineage, ClaimError> {
        let above = self.chains(maker.seq.as_slice()).await?.pop().unwrap_or_default();
        let mut chain = above.watchers;
        chain.push(maker.watcher);
        // No watcher fires so deep in a chain, whatever it declares.
        chain.truncate(bounds::CHAIN_MAX as usize + 1);
        let parent_job = Some(maker.job);
        Ok(Lineage { kind, root: above.root, parent_job, depth: above.depth + 1, chain })
    }

    /// Where these claims stand in their chains.
    async fn chains(&self, seqs: &[Seq]) -> Result<Vec<Chain>, ClaimError> {
        let (mut found, unknown) = self.remembered(seqs);
        if !unknown.is_empty() {
            let stored = self.engine.store().by_seqs(&unknown).await?;
            let read: Vec<_> = stored.iter().map(|stored| (stored.seq, chain_of(stored))).collect();
            self.remember(&read);
            found.extend(read.into_iter().map(|(_, chain)| chain));
        }
        Ok(found)
    }

    fn remembered(&self, seqs: &[Seq]) -> (Vec<Chain>, Vec<Seq>) {
        let chains = self.lock();
        let known = &chains.by_seq;
        let unknown = seqs.iter().copied().filter(|seq| !known.contains_key(seq)).collect();
        let found = seqs.iter().filter_map(|seq| known.get(seq).cloned()).collect();
        (found, unknown)
    }

    fn remember(&self, read: &[(Seq, Chain)]) {
        let mut chains = self.lock();
        for (seq, chain) in read {
            if chains.by_seq.insert(*seq, chain.clone()).is_none() {
                chains.read.push_back(*seq);
            }
        }
        while chains.read.len() > CHAINS_KEPT
            && let Some(oldest) = chains.read.pop_front()
        {
            chains.by_seq.remove(&oldest);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Chains> {
        self.chains.lock().expect("no holder of the chains panics")
    }
}

/// Appends claims, and takes back the numbers of those that were not.
async fn append_counted(
    engine: &Engine,
    prepared: Vec<Prepared>,
) -> Result<Vec<Result<Acked, AppendRefusal>>, EngineGone> {
    let in_flight = engine.in_flight();
    let (incoming, counted): (Vec<_>, Vec<_>) =
        prepared.into_iter().map(|claim| claim.with_id(in_flight)).unzip();
    let answers = engine.append_together(incoming).await;
    for (i, counted) in counted.into_iter().enumerate() {
        let stands =
            answers.as_ref().is_ok_and(|answers| answers.get(i).is_some_and(Result::is_ok));
        if let Some(Counted { named, content }) = counted.filter(|_| !stands) {
            in_flight.give_back(named.job, named.attempt, content);
        }
    }
    answers
}

/// Whether a claim says that a handler that is stored for this plugin does not load.
fn is_own_fault(claim: &Attestation, plugin: &str) -> bool {
    claim.predicates == [FAULTED] && claim.contexts == [plugin]
}

fn chain_of(stored: &Stored) -> Chain {
    let root = stored.lineage.root.clone().unwrap_or_else(|| stored.attestation.id.clone());
    Chain { root: Some(root), depth: stored.lineage.depth, watchers: stored.lineage.chain.clone() }
}

fn maker_of(running: &Running) -> Maker {
    Maker { job: running.id, seq: running.seq, watcher: running.watcher }
}

impl Prepared {
    /// Gives the claim of a named attempt its computed id, and says what it was computed from. Only
    /// once all claims of a request are known to be good: each call counts.
    fn with_id(self, in_flight: &InFlight) -> (Incoming, Option<Counted>) {
        let Prepared { mut incoming, computed } = self;
        let Some(named) = computed else { return (incoming, None) };
        let claim = &mut incoming.attestation;
        let content = claim.content_hash(incoming.filled);
        let ordinal = in_flight.next_ordinal(named.job, named.attempt, content);
        let (subject, predicate, context) =
            (&claim.subjects[0], &claim.predicates[0], &claim.contexts[0]);
        claim.id = AttestationId::of_job(subject, predicate, context, named.job, &content, ordinal);
        if incoming.filled.actors {
            claim.actors = vec![claim.id.to_string()];
        }
        (incoming, Some(Counted { named, content }))
    }
}
