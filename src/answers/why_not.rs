//! Why a watcher did not fire for a claim, or that it did; and which watchers came nearest to a claim.
//!
//! In: a claim, a watcher or none, and how far the log has been matched. Out: a verdict with all that
//! decided it. Whether a watcher fired is told by its job, whose id follows from watcher, generation,
//! claim and handler, so that nothing is searched. If there is none, the declaration that was in force
//! at the claim is asked again, under the aliases of that place in the log, by the code that matches.
//! Where all of it holds, the reason lies beyond the filter: [`Case::beyond`] knows those that there are.
//!
//! Not here: what a job waits for at this moment, which only a server knows (`super::waits`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use axwatch_ats::{Question, StoreError, aliases_before};
use axwatch_core::Reading;
use axwatch_core::loops::chain_ends;
use axwatch_engine::WatcherView;
use axwatch_model::{
    AttestationId, Declared, HoldRow, JobId, JobRow, LineageKind, PassRow, RevisionRow, Seq,
    Stored, StructuralFilter, WatcherKey, WatcherNumber, WatcherRow, WatcherState,
};
use axwatch_query::{Aliases, Condition, Filter, explain};

use super::{AnswerError, Answers, Held, Server, reasons};
use crate::output::{counted, cut, quoted};
use crate::views::{self, FiredJob, HeldBack, Near, Nearest, Present, Reason, Verdict, WhyNot};

/// Watchers that are read and asked before others get their turn.
const ASKED_AT_ONCE: usize = 500;
/// Claims, the newest, whose ids are compared with one that is not there.
const COMPARED_MAX: usize = 10_000;
/// Claims that are read for that at once; each may be long.
const COMPARED_AT_ONCE: usize = 200;

impl Answers {
    /// Why a watcher did not fire for a claim, or that it did. `matched` is how far the log has been
    /// matched, and `live` what a server knows of the watcher, both read before the call.
    ///
    /// # Errors
    /// [`AnswerError`] when one of the two is not there.
    pub async fn why_not(
        &self,
        watcher: &str,
        id: &str,
        matched: Seq,
        live: Option<&WatcherView>,
        held: &Held,
    ) -> Result<WhyNot, AnswerError> {
        let row = self.asked_watcher(watcher, id).await?;
        let claim = self.claim(id).await?;
        let aliases = aliases_before(&**self.store(), claim.seq).await?;
        let revisions = self.store().revisions(row.number).await?;
        // Before the jobs: what a pass has come by then has them.
        let passes = self.store().passes_of(row.number).await?;
        let hold = self.hold_of(row.number).await?;
        let jobs = self.fired_jobs(&row.key, &revisions, &claim.attestation.id, &passes).await?;
        let jobs = jobs.iter().map(|row| fired_job(row, held)).collect();
        let server = held.server();
        let case = Case { claim: &claim, aliases: &aliases, matched, server };
        let watcher = Watcher { row: &row, revisions: &revisions, passes: &passes, live };
        let mut why_not = case.why_not(&watcher, jobs, hold.as_ref());
        if why_not.verdict == Verdict::RegisteredLater {
            why_not.reasons.extend(self.begins_early(&revisions).await?);
        }
        if why_not.verdict == Verdict::LoopStopped
            && let Some(stop) = self.loop_stop(&claim, &row).await?
        {
            why_not.reasons[0] = reasons::of_stop(&stop, claim.attestation.id.as_str());
        }
        Ok(why_not)
    }

    /// What holds the fires of a watcher.
    pub(super) async fn hold_of(
        &self,
        watcher: WatcherNumber,
    ) -> Result<Option<HoldRow>, StoreError> {
        let mut holds = self.store().holds_of(watcher).await?;
        Ok(holds.pop().filter(|hold| hold.ended_at.is_none()))
    }

    /// That the first claim of a watcher was there before the watcher.
    async fn begins_early(&self, revisions: &[RevisionRow]) -> Result<Option<Reason>, StoreError> {
        let Some(declared) = revisions.first() else { return Ok(None) };
        let first = declared.since_seq.next();
        let claim = self.store().by_seqs(&[first]).await?.pop();
        let is_early = claim.is_some_and(|claim| claim.attestation.created_at < declared.at);
        Ok(is_early.then(|| reasons::before_since(first)))
    }

    /// Which watchers fired for a claim, and which came nearest to it: at most `limit` of each.
    /// `matched` is how far the log has been matched, read before the call.
    ///
    /// Cost: every watcher is asked once, and the jobs of those that match are looked up. Memory holds a
    /// page of watchers and the answer.
    ///
    /// # Errors
    /// [`AnswerError`] when the claim is not there.
    pub async fn nearest(
        &self,
        id: &str,
        matched: Seq,
        limit: usize,
        server: Option<Server>,
    ) -> Result<Nearest, AnswerError> {
        let claim = self.claim(id).await?;
        let aliases = aliases_before(&**self.store(), claim.seq).await?;
        let case = Case { claim: &claim, aliases: &aliases, matched, server };
        let mut passes: HashMap<WatcherNumber, Vec<(PassRow, Option<Seq>)>> = HashMap::new();
        for (pass, place) in self.store().passes().await? {
            passes.entry(pass.watcher).or_default().push((pass, Some(place)));
        }
        let mut found = Found::new(limit);
        let mut last = WatcherNumber(0);
        loop {
            let watchers = self.store().watchers_after(last, ASKED_AT_ONCE).await?;
            let Some(page_end) = watchers.last() else { break };
            let revisions = self.store().revisions_between(last.next(), page_end.number).await?;
            last = page_end.number;
            for watcher in &watchers {
                let of_it = |revision: &RevisionRow| revision.watcher.cmp(&watcher.number);
                let first = revisions.partition_point(|revision| of_it(revision).is_lt());
                let after = revisions.partition_point(|revision| of_it(revision).is_le());
                let passes = passes.get(&watcher.number).map_or(&[][..], Vec::as_slice);
                let revisions = &revisions[first..after];
                let watcher = Watcher { row: watcher, revisions, passes, live: None };
                self.look(&case, &watcher, &mut found).await?;
            }
            tokio::task::yield_now().await;
        }
        Ok(found.told(&claim))
    }

    /// Puts a watcher where it belongs.
    async fn look(
        &self,
        case: &Case<'_>,
        watcher: &Watcher<'_>,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let Watcher { row, revisions, .. } = *watcher;
        let standing = standing(revisions, case.claim.seq);
        found.asked += u64::from(matches!(standing, Standing::InForce(_)));
        let said = match standing {
            Standing::InForce(revision) => Some((revision, case.ask(&revision.declared))),
            _ => None,
        };
        // Only where the conditions tell that it did not fire, need nobody look for its jobs.
        let is_told = matches!(&said, Some((_, Ok(conditions))) if !all_held(conditions));
        let is_silent = is_told || said.is_none();
        if !is_silent || is_older_than_rows(revisions) || has_replays(row, revisions) {
            let id = &case.claim.attestation.id;
            let passes = self.store().passes_of(row.number).await?;
            let jobs = self.fired_jobs(&row.key, revisions, id, &passes).await?;
            let let_go = |job: &JobRow| reasons::was_let_go(job.state, job.error.as_deref());
            if let Some(job) = jobs.first().filter(|_| jobs.iter().all(let_go)) {
                found.held_back(&row.key, was_let_go(job.error.as_deref()));
                return Ok(());
            }
            if !jobs.is_empty() {
                // A replay asks a watcher about what was there before it.
                found.asked += u64::from(said.is_none());
                found.fired(&row.key);
                return Ok(());
            }
        }
        match (said, standing) {
            (Some((revision, Ok(conditions))), _) if all_held(&conditions) => {
                found.held_back(&row.key, case.beyond(watcher, revision));
            }
            (Some((revision, Ok(conditions))), _) => {
                found.failed(&row.key, revision, conditions);
            }
            (Some((_, Err(mistakes))), _) => {
                found.held_back(&row.key, not_understood(&mistakes));
            }
            // Worth a word only if it would have fired.
            (None, elsewhere) => {
                if case.all_hold(&row.declared) {
                    found.held_back(&row.key, elsewhere.beyond(row, revisions));
                }
            }
        }
        Ok(())
    }

    /// The jobs that a watcher made for a claim, by number: in any generation that it had and in that of
    /// each of these passes, for any handler that it ever had.
    pub(super) async fn fired_jobs(
        &self,
        watcher: &WatcherKey,
        revisions: &[RevisionRow],
        id: &AttestationId,
        passes: &[(PassRow, Option<Seq>)],
    ) -> Result<Vec<JobRow>, StoreError> {
        let store_id = self.store().opened().store_id;
        let first_generation = |revision: &RevisionRow| match revision.leaf {
            Some(_) => revision.generation,
            // Of its predecessors no rows were kept, and they may have had the same handlers.
            None => 0,
        };
        let of_revision = |revision: &RevisionRow| {
            let generations = first_generation(revision)..=revision.generation;
            let handlers = revision.handlers.iter();
            let of_handler = |handler: &Arc<str>| {
                let handler = handler.clone();
                generations.clone().map(move |generation| (generation, handler.clone()))
            };
            handlers.flat_map(of_handler).collect::<Vec<_>>()
        };
        let mut parts: BTreeSet<(u32, Arc<str>)> = revisions.iter().flat_map(of_revision).collect();
        let handlers: BTreeSet<Arc<str>> =
            revisions.iter().flat_map(|revision| revision.handlers.iter().cloned()).collect();
        for (pass, _) in passes {
            parts.extend(handlers.iter().map(|handler| (pass.generation, handler.clone())));
        }
        let mut jobs = Vec::new();
        for (generation, handler) in parts {
            let job = JobId::of_fire(store_id, watcher, generation, id, &handler);
            jobs.extend(self.store().job(job).await?);
        }
        jobs.sort_unstable_by_key(|job| job.number);
        Ok(jobs)
    }

    /// The watcher that a text names, of which the claim is asked about.
    async fn asked_watcher(&self, text: &str, claim: &str) -> Result<WatcherRow, AnswerError> {
        match self.watcher_row(text).await {
            Err(AnswerError::NotFound(_)) if self.is_claim(text).await? => {
                Err(AnswerError::NotFound(format!(
                    "{text} is an attestation, and the watcher comes first: `axwatch why-not {} {}`",
                    quoted(claim),
                    quoted(text)
                )))
            }
            found => found,
        }
    }

    async fn is_claim(&self, text: &str) -> Result<bool, StoreError> {
        match text.parse() {
            Ok(id) => self.store().exists(&id).await,
            Err(_) => Ok(false),
        }
    }

    /// The claim that a text names.
    async fn claim(&self, text: &str) -> Result<Stored, AnswerError> {
        let id: AttestationId = text
            .parse()
            .map_err(|error: axwatch_model::InvalidId| AnswerError::Invalid(error.to_string()))?;
        match self.store().get(&id).await? {
            Some(stored) => Ok(stored),
            None => Err(self.no_claim(text).await?),
        }
    }

    /// That there is no such claim, with what may be meant.
    async fn no_claim(&self, text: &str) -> Result<AnswerError, StoreError> {
        if let Some(gone) = self.gone_claim(text).await? {
            return Ok(gone);
        }
        let hint = match self.what_else(text).await? {
            Some(hint) => hint,
            None => {
                let near = self.nearest_claim(text).await?;
                let near = near.map(|id| format!(" (did you mean {id}?)")).unwrap_or_default();
                format!("{near}; `axwatch ax QUERY` shows those that there are")
            }
        };
        Ok(AnswerError::NotFound(format!("there is no attestation {text} in this store{hint}")))
    }

    /// That there was such a claim and is none any more.
    pub(super) async fn gone_claim(&self, text: &str) -> Result<Option<AnswerError>, StoreError> {
        let Ok(id) = text.parse::<AttestationId>() else { return Ok(None) };
        let Some(removed) = self.store().removed(&id).await? else { return Ok(None) };
        let why = match removed.content {
            Some(_) => "retention took it away; its number and a hash of what it said are kept",
            None => "its row does not decode, or did not; `axwatch doctor` shows it",
        };
        let told =
            format!("attestation {id} was seq {} and is not there any more: {why}", removed.seq);
        Ok(Some(AnswerError::NotFound(told)))
    }

    /// What a text names that is no claim's id.
    async fn what_else(&self, text: &str) -> Result<Option<String>, StoreError> {
        if let Ok(job) = text.parse::<JobId>()
            && self.store().job(job).await?.is_some()
        {
            return Ok(Some(format!("; it is a job: `axwatch why {job}` tells of it")));
        }
        if self.find_watcher(text).await?.is_some() {
            let watcher = quoted(text);
            return Ok(Some(format!(
                "; it is a watcher, and the claim comes after it: `axwatch why-not {watcher} ATTESTATION`"
            )));
        }
        self.claim_numbered(text).await
    }

    /// That a text is the number of a claim.
    pub(super) async fn claim_numbered(&self, text: &str) -> Result<Option<String>, StoreError> {
        let Ok(number) = text.parse().map(Seq) else { return Ok(None) };
        let found = self.store().by_seqs(&[number]).await?.pop();
        Ok(found.map(|stored| format!("; seq {number} is {}", stored.attestation.id)))
    }

    /// The id among the newest claims that is most like this text.
    pub async fn nearest_claim(&self, text: &str) -> Result<Option<AttestationId>, StoreError> {
        let mut question = Question {
            filter: Filter::structural(&StructuralFilter::default()),
            aliases: Arc::default(),
            before: None,
            limit: COMPARED_AT_ONCE,
        };
        let mut best: Option<(usize, AttestationId)> = None;
        for _ in 0..COMPARED_MAX / COMPARED_AT_ONCE {
            let page = self.store().query(&question).await?;
            for stored in page.rows {
                let id = stored.attestation.id;
                let scored = likeness(text, id.as_str()).map(|distance| (distance, id));
                best = best.into_iter().chain(scored).min_by_key(|(distance, _)| *distance);
            }
            match page.next {
                Some(next) => question.before = Some(next),
                None => break,
            }
        }
        Ok(best.map(|(_, id)| id))
    }
}

/// How far a text is from an id, if it may have been meant: it begins so, or one letter in six is wrong.
fn likeness(text: &str, id: &str) -> Option<usize> {
    const BEGINNING_MIN: usize = 4;
    if text.len() >= BEGINNING_MIN && id.starts_with(text) {
        return Some(0);
    }
    let wrong_max = 1 + text.chars().count() / 6;
    // The cheap look first: most ids are of another length.
    if text.len().abs_diff(id.len()) > 4 * wrong_max {
        return None;
    }
    let (text, id) = (text.to_lowercase(), id.to_lowercase());
    Some(strsim::damerau_levenshtein(&text, &id)).filter(|distance| *distance <= wrong_max)
}

/// Whether a watcher had revisions before those that are known, because the store did not keep them then.
fn is_older_than_rows(revisions: &[RevisionRow]) -> bool {
    revisions.first().is_some_and(|first| first.leaf.is_none() && first.revision > 1)
}

/// Whether a watcher was ever replayed; perhaps, when some of its generations are not known.
fn has_replays(watcher: &WatcherRow, revisions: &[RevisionRow]) -> bool {
    let generations: BTreeSet<u32> = revisions.iter().map(|revision| revision.generation).collect();
    watcher.last_generation as usize >= generations.len()
}

pub(super) fn all_held(conditions: &[Condition]) -> bool {
    conditions.iter().all(|condition| condition.held)
}

/// What a watcher was doing at a claim.
#[derive(Debug, PartialEq)]
pub(super) enum Standing<'a> {
    /// This revision decided.
    InForce(&'a RevisionRow),
    /// It sees only claims after this one.
    Later(Seq),
    /// It was retired, and no claims after this one were matched for it.
    Retired(Seq),
    /// No declaration of it was ever taken.
    Never,
}

/// What a watcher with these revisions, in their order, was doing at the claim with this number.
pub(super) fn standing(revisions: &[RevisionRow], seq: Seq) -> Standing<'_> {
    let Some(first) = revisions.first() else { return Standing::Never };
    let Some(last) = revisions.iter().rfind(|revision| revision.from_seq < seq) else {
        return Standing::Later(first.from_seq);
    };
    match last.retired_seq {
        Some(retired) if seq > retired => Standing::Retired(retired),
        _ => Standing::InForce(last),
    }
}

/// A verdict, and what there is to say of it.
type Beyond = (Verdict, String);

impl Standing<'_> {
    /// Why a watcher was not asked about a claim.
    fn beyond(&self, watcher: &WatcherRow, revisions: &[RevisionRow]) -> Beyond {
        match self {
            Standing::InForce(_) => unreachable!("a watcher that was asked has conditions"),
            Standing::Later(since) => {
                let told =
                    format!("it was registered later, and sees only claims after seq {since}");
                (Verdict::RegisteredLater, told)
            }
            Standing::Retired(retired) => {
                let again = revisions.iter().find(|revision| revision.from_seq > *retired);
                let again = again.map(|again| {
                    format!("; it was declared again for claims after seq {}", again.from_seq)
                });
                let told = format!(
                    "it was retired before, and matched no claim after seq {retired}{}",
                    again.unwrap_or_default()
                );
                (Verdict::Retired, told)
            }
            Standing::Never => {
                let told = watcher.error.clone();
                let told = told.unwrap_or_else(|| "no declaration of it was ever taken".to_owned());
                (Verdict::Refused, told)
            }
        }
    }
}

fn not_understood(mistakes: &str) -> Beyond {
    (Verdict::Broken, format!("its text is no AX to this axwatch: {mistakes}"))
}

fn was_let_go(error: Option<&str>) -> Beyond {
    (Verdict::LetGo, error.unwrap_or_default().to_owned())
}

/// A watcher, and all that decides what it did.
#[derive(Clone, Copy)]
struct Watcher<'a> {
    row: &'a WatcherRow,
    revisions: &'a [RevisionRow],
    /// With how far each is that is under way.
    passes: &'a [(PassRow, Option<Seq>)],
    /// What a server knows of it.
    live: Option<&'a WatcherView>,
}

impl Watcher<'_> {
    /// How far it has come, if it catches up.
    fn place(&self) -> Option<Seq> {
        let own = |(pass, _): &&(PassRow, _)| {
            pass.generation == self.row.generation && pass.until_seq.is_none()
        };
        self.passes.iter().find(own).and_then(|(_, place)| *place)
    }

    fn is_backpressured(&self) -> bool {
        self.live.and_then(|live| live.position).is_some_and(|position| position.backpressured)
    }

    fn is_replay(&self, generation: u32) -> bool {
        let is_it = |pass: &PassRow| pass.generation == generation && pass.until_seq.is_some();
        self.passes.iter().any(|(pass, _)| is_it(pass))
    }
}

/// A claim, and all that decides about it beside the watcher.
pub(super) struct Case<'a> {
    claim: &'a Stored,
    /// In force at the claim.
    aliases: &'a Aliases,
    /// How far the log has been matched.
    matched: Seq,
    server: Option<Server>,
}

impl Case<'_> {
    /// What a declaration says of a claim: its conditions, or the mistakes in its text.
    pub(super) fn conditions(
        claim: &Stored,
        aliases: &Aliases,
        declared: &Declared,
    ) -> Result<Vec<Condition>, String> {
        let (filter, _) = Filter::declared(declared).map_err(|mistakes| mistakes.to_string())?;
        Ok(explain(&filter, &claim.attestation, aliases))
    }

    fn ask(&self, declared: &Declared) -> Result<Vec<Condition>, String> {
        Case::conditions(self.claim, self.aliases, declared)
    }

    /// Whether a declaration asks for something, and all of it holds.
    fn all_hold(&self, declared: &Declared) -> bool {
        self.ask(declared).is_ok_and(|conditions| !conditions.is_empty() && all_held(&conditions))
    }

    /// Why a watcher whose conditions all hold did not fire.
    fn beyond(&self, watcher: &Watcher<'_>, revision: &RevisionRow) -> Beyond {
        let Case { claim, matched, .. } = self;
        if revision.max_fires_per_second == Some(0) {
            let told = "it was declared with the rate 0, which means never to its plugin";
            return (Verdict::Muted, told.to_owned());
        }
        if let Some(place) = watcher.place().filter(|place| *place < claim.seq) {
            return self.behind(watcher, place);
        }
        if claim.seq > *matched {
            let then = match self.server {
                Some(Server { reading: Some(reading) }) => until_read(reading),
                Some(Server { reading: None }) => String::new(),
                None => "; `axwatch serve` goes on with them".to_owned(),
            };
            let told = format!("claims have been matched up to seq {matched} so far{then}");
            return (Verdict::NotYetMatched, told);
        }
        let lineage = &claim.lineage;
        let sure = Some(lineage).filter(|lineage| lineage.kind != LineageKind::Unsure);
        let chain = sure.map(|lineage| &lineage.chain[..]).filter(|chain| !chain.is_empty());
        let ends = |chain| chain_ends(chain, watcher.row.number, watcher.row.max_chain);
        if let Some(reason) = chain.and_then(ends) {
            let told = format!("its chain of causes was stopped as a loop: {reason}");
            return (Verdict::LoopStopped, told);
        }
        let state = watcher.row.state;
        let because = if revision.leaf.is_none() && revision.revision > 1 {
            "how it was declared then is not known, because the store did not keep that yet"
        } else {
            "its text may not have been understood then: `axwatch audit show --type watcher_broken` would tell"
        };
        let told = format!(
            "all of its conditions hold, and the store has no job of it; it is {state} now; {because}"
        );
        (Verdict::Unexplained, told)
    }

    /// That a watcher which catches up has not come to the claim.
    fn behind(&self, watcher: &Watcher<'_>, place: Seq) -> Beyond {
        let left = counted(self.claim.seq.0 - place.0, "claim");
        if watcher.is_backpressured() {
            let open = watcher.live.map_or(0, |live| live.open_jobs);
            let told = format!(
                "{} of it are open, so it stopped after seq {place} and goes on when half of them are done; it is {left} away from this one",
                counted(open, "job")
            );
            return (Verdict::Backpressured, told);
        }
        let serve = if self.server.is_some() { "" } else { "; `axwatch serve` goes on with it" };
        let told = format!("it catches up: it has come to seq {place}, {left} away{serve}");
        (Verdict::CatchingUp, told)
    }

    fn why_not(
        &self,
        watcher: &Watcher<'_>,
        jobs: Vec<FiredJob>,
        hold: Option<&HoldRow>,
    ) -> WhyNot {
        let Watcher { row, revisions, .. } = *watcher;
        let standing = standing(revisions, self.claim.seq);
        let revision = match (jobs.first(), &standing) {
            (Some(job), _) => revisions.iter().find(|revision| revision.revision == job.revision),
            (None, Standing::InForce(revision)) => Some(*revision),
            (None, _) => None,
        };
        let conditions = revision.and_then(|revision| self.ask(&revision.declared).ok());
        let conditions = conditions.unwrap_or_default().into_iter().map(views::Condition::from);
        let conditions: Vec<_> = conditions.collect();
        let fired_live = jobs.iter().any(|job| !watcher.is_replay(job.generation));
        let beyond = if fired_live { None } else { self.why_no_fire(watcher, &standing) };
        let let_go = |job: &FiredJob| reasons::was_let_go(job.state, job.error.as_deref());
        let (verdict, told) = match (jobs.first(), &beyond) {
            (Some(job), _) if jobs.iter().all(let_go) => was_let_go(job.error.as_deref()),
            (Some(_), _) => (Verdict::Fired, states(&jobs, fired_live)),
            (None, Some(beyond)) => beyond.clone(),
            (None, None) => (Verdict::DoesNotMatch, first_failure(&conditions)),
        };
        let did = if verdict == Verdict::Fired { "fired" } else { "did not fire" };
        let (id, seq) = (&self.claim.attestation.id, self.claim.seq);
        WhyNot {
            watcher: row.key.to_string(),
            attestation_id: id.clone(),
            seq,
            verdict,
            summary: format!("{} {did} for {id} (seq {seq}): {told}", row.key),
            revision: revision.map(|revision| revision.revision),
            when: revision.map(|revision| revision.declared.shown()),
            conditions,
            reasons: self.reasons(watcher, &jobs, beyond, hold),
            jobs,
            present: self.present(row, revision),
        }
    }

    /// Why a watcher did not fire when it came by the claim, its replays aside; `None` when a condition
    /// did not hold.
    fn why_no_fire(&self, watcher: &Watcher<'_>, standing: &Standing<'_>) -> Option<Beyond> {
        let Standing::InForce(revision) = standing else {
            return Some(standing.beyond(watcher.row, watcher.revisions));
        };
        match self.ask(&revision.declared) {
            Err(mistakes) => Some(not_understood(&mistakes)),
            Ok(conditions) => all_held(&conditions).then(|| self.beyond(watcher, revision)),
        }
    }

    /// What else there is to know; that which the verdict tells comes first.
    fn reasons(
        &self,
        watcher: &Watcher<'_>,
        jobs: &[FiredJob],
        beyond: Option<Beyond>,
        hold: Option<&HoldRow>,
    ) -> Vec<Reason> {
        let is_told = matches!(beyond, Some((Verdict::Broken | Verdict::Refused, _)));
        let of_end = |job: &FiredJob| {
            reasons::of_end(job.job_id, job.state, job.attempts, job.error.as_deref())
        };
        let mut told: Vec<_> = jobs.iter().filter_map(of_end).collect();
        told.extend(beyond.map(reason));
        let replays = watcher.passes.iter();
        told.extend(replays.filter_map(|(pass, at)| reasons::of_replay(pass, *at, self.claim.seq)));
        if jobs.iter().any(|job| job.state.is_open()) && self.server.is_none() {
            told.push(reasons::no_server());
            told.extend(hold.map(|hold| reasons::of_hold(&watcher.row.key, hold)));
        }
        told.extend(reasons::of_watcher(watcher.row).filter(|_| !is_told));
        told
    }

    /// What the present declaration would say, when another was in force or none.
    fn present(&self, watcher: &WatcherRow, then: Option<&RevisionRow>) -> Option<Present> {
        let stands = !matches!(watcher.state, WatcherState::Retired | WatcherState::Refused);
        let is_same = then.is_some_and(|then| then.declared == watcher.declared);
        if !stands || is_same {
            return None;
        }
        let said = self.ask(&watcher.declared).ok();
        let matches = said.as_ref().map(|conditions| conditions.iter().all(|one| one.held));
        let conditions = said.unwrap_or_default().into_iter().map(views::Condition::from);
        Some(Present {
            revision: watcher.revision,
            when: watcher.declared.shown(),
            matches,
            conditions: conditions.collect(),
        })
    }
}

/// A job without what it waits for.
fn fired_job(row: &JobRow, held: &Held) -> FiredJob {
    FiredJob {
        job_id: row.id,
        handler: row.handler.to_string(),
        revision: row.revision,
        generation: row.generation,
        state: held.shown(row),
        attempts: row.attempts,
        created_at: row.created_at,
        completed_at: row.completed_at,
        error: row.error.clone(),
        waits: None,
    }
}

/// `1 job, completed`; `2 jobs: completed, failed`.
fn states(jobs: &[FiredJob], fired_live: bool) -> String {
    let states: Vec<_> = jobs.iter().map(|job| job.state.to_string()).collect();
    let mark = if jobs.len() == 1 { "," } else { ":" };
    let replay = if fired_live { "" } else { " of a replay" };
    format!("{}{replay}{mark} {}", counted(jobs.len() as u64, "job"), states.join(", "))
}

fn reason((verdict, message): Beyond) -> Reason {
    let kind = serde_json::to_value(verdict).expect("a verdict is always JSON");
    Reason { kind: kind.as_str().unwrap_or_default().to_owned(), message }
}

/// The first condition that did not hold, in words, and how many others did not.
fn first_failure(conditions: &[views::Condition]) -> String {
    let failed: Vec<_> = conditions.iter().filter(|condition| !condition.held).collect();
    let first = failed.first().map(|condition| told(condition)).unwrap_or_default();
    match failed.len().saturating_sub(1) {
        0 => first,
        others => format!(
            "{first} ({} more of its {} did not hold)",
            others,
            counted(conditions.len() as u64, "condition")
        ),
    }
}

/// A condition that did not hold, in words.
fn told(condition: &views::Condition) -> String {
    let views::Condition { field, asked, decided_by, by_alias, .. } = condition;
    let found = listed(decided_by);
    match condition.rule.as_str() {
        "any" => {
            let one_of = if asked.len() > 1 { "one of " } else { "" };
            format!("its {field} was to be {one_of}{}, and is {found}", listed(asked))
        }
        "none" => {
            let aliases = by_alias.iter().take(LISTED_MAX);
            let aliases: Vec<_> =
                aliases.map(|(own, other)| format!("{own} is one with {other}")).collect();
            let aliases = match aliases.is_empty() {
                true => String::new(),
                false => format!(" ({})", aliases.join(", ")),
            };
            format!("its {field} was to be none of {}, and is {found}{aliases}", listed(asked))
        }
        "not_before" | "not_after" if asked.is_empty() => {
            "the time that it asks for cannot be reckoned at the moment of the claim".to_owned()
        }
        "not_before" => format!("it was to be of {} or later, and is of {found}", listed(asked)),
        "not_after" => format!("it was to be of {} or earlier, and is of {found}", listed(asked)),
        "exists" => format!("it was to have {field}, and has none"),
        rule => {
            let asks = if rule == "contains" { "contain" } else { &format!("be {rule}") };
            let is = if decided_by.is_empty() { "is not there" } else { &format!("is {found}") };
            format!("its {field} was to {asks} {}, and {is}", listed(asked))
        }
    }
}

/// Texts of a list that are told; there may be hundreds.
const LISTED_MAX: usize = 5;

/// The first of these texts, none of them too long.
fn listed(texts: &[String]) -> String {
    const CHARS_MAX: usize = 80;
    let mut told: Vec<_> = texts.iter().take(LISTED_MAX).map(|text| cut(text, CHARS_MAX)).collect();
    if texts.len() > LISTED_MAX {
        told.push("…".to_owned());
    }
    told.join(", ")
}

/// What a look at all watchers found: of each kind how many, and the first or best of them.
struct Found {
    limit: usize,
    asked: u64,
    fired: u64,
    fired_watchers: BTreeSet<String>,
    held_back: u64,
    held_back_watchers: BTreeMap<String, HeldBack>,
    /// By how near they came: fewer failed, more held, then the id.
    nearest: BTreeMap<(usize, Reverse<usize>, String), Near>,
}

impl Found {
    fn new(limit: usize) -> Found {
        Found {
            limit,
            asked: 0,
            fired: 0,
            fired_watchers: BTreeSet::new(),
            held_back: 0,
            held_back_watchers: BTreeMap::new(),
            nearest: BTreeMap::new(),
        }
    }

    fn fired(&mut self, key: &WatcherKey) {
        self.fired += 1;
        self.fired_watchers.insert(key.to_string());
        if self.fired_watchers.len() > self.limit {
            self.fired_watchers.pop_last();
        }
    }

    fn held_back(&mut self, key: &WatcherKey, (verdict, message): Beyond) {
        self.held_back += 1;
        let watcher = key.to_string();
        let held_back = HeldBack { watcher: watcher.clone(), verdict, message };
        self.held_back_watchers.insert(watcher, held_back);
        if self.held_back_watchers.len() > self.limit {
            self.held_back_watchers.pop_last();
        }
    }

    fn failed(&mut self, key: &WatcherKey, revision: &RevisionRow, conditions: Vec<Condition>) {
        let failed = conditions.iter().filter(|condition| !condition.held).count();
        let held = conditions.len() - failed;
        let place = (failed, Reverse(held));
        let is_full = self.nearest.len() >= self.limit;
        let last = self.nearest.last_key_value().map(|((failed, held, _), _)| (*failed, *held));
        if is_full && last.is_some_and(|last| last < place) {
            return;
        }
        let first = conditions.into_iter().find(|condition| !condition.held);
        let condition = views::Condition::from(first.expect("the caller saw one that failed"));
        let watcher = key.to_string();
        let near = Near {
            watcher: watcher.clone(),
            revision: revision.revision,
            when: revision.declared.shown(),
            failed,
            held,
            message: told(&condition),
            condition,
        };
        self.nearest.insert((failed, Reverse(held), watcher), near);
        if self.nearest.len() > self.limit {
            self.nearest.pop_last();
        }
    }

    fn told(self, claim: &Stored) -> Nearest {
        let (id, seq) = (&claim.attestation.id, claim.seq);
        let summary = match (self.asked, self.fired) {
            (0, 0) => format!("no watcher was asked about {id} (seq {seq})"),
            (asked, 0) => {
                format!("none of {} fired for {id} (seq {seq})", counted(asked, "watcher"))
            }
            (asked, fired) => format!(
                "{fired} of {} fired for {id} (seq {seq}): {}",
                counted(asked, "watcher"),
                named(&self.fired_watchers, fired)
            ),
        };
        Nearest {
            attestation_id: id.clone(),
            seq,
            summary,
            watchers: self.asked,
            fired: self.fired,
            fired_watchers: self.fired_watchers.into_iter().collect(),
            held_back: self.held_back,
            held_back_watchers: self.held_back_watchers.into_values().collect(),
            nearest: self.nearest.into_values().collect(),
        }
    }
}

/// What a server has to do after a start before anything is matched.
fn until_read(Reading { done, of }: Reading) -> String {
    format!(
        "; the server has just started and has read the texts of {done} of {}: nothing is matched until it has read them all",
        counted(of as u64, "watcher")
    )
}

/// Some names, and how many more there are.
fn named(names: &BTreeSet<String>, count: u64) -> String {
    let told: Vec<&str> = names.iter().map(String::as_str).collect();
    let more = count - told.len() as u64;
    let more = if more > 0 { format!(" and {}", counted(more, "other")) } else { String::new() };
    format!("{}{more}", told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::Timestamp;

    fn revision(revision: u64, since: u64, from: u64, retired: Option<u64>) -> RevisionRow {
        RevisionRow {
            watcher: WatcherNumber(1),
            revision,
            generation: 0,
            declared: Declared::Ax("is a".into()),
            handlers: vec!["h".into()],
            max_fires_per_second: None,
            at: Timestamp::from_ms(0).unwrap(),
            leaf: None,
            since_seq: Seq(since),
            from_seq: Seq(from),
            retired_seq: retired.map(Seq),
        }
    }

    #[test]
    fn one_revision_is_in_force_at_a_claim_or_none() {
        // Declared at 3, changed at 5, retired at 8, declared again at 10.
        let revisions =
            [revision(1, 3, 3, None), revision(2, 3, 5, Some(8)), revision(3, 10, 10, None)];
        let cases = [
            (1, Standing::Later(Seq(3))),
            (3, Standing::Later(Seq(3))),
            (4, Standing::InForce(&revisions[0])),
            (5, Standing::InForce(&revisions[0])),
            (6, Standing::InForce(&revisions[1])),
            (8, Standing::InForce(&revisions[1])),
            (9, Standing::Retired(Seq(8))),
            (10, Standing::Retired(Seq(8))),
            (11, Standing::InForce(&revisions[2])),
        ];
        for (seq, expected) in cases {
            assert_eq!(standing(&revisions, Seq(seq)), expected, "seq {seq}");
        }
        assert_eq!(standing(&[], Seq(1)), Standing::Never);
        // Changed before matching came to its first claim: the change alone was ever asked.
        let revisions = [revision(1, 3, 3, None), revision(2, 3, 3, None)];
        assert_eq!(standing(&revisions, Seq(4)), Standing::InForce(&revisions[1]));
    }

    #[test]
    fn a_server_that_has_just_started_says_what_matching_waits_for() {
        let told = until_read(Reading { done: 5_000, of: 1_000_000 });
        assert!(told.contains("the texts of 5000 of 1000000 watchers"), "{told}");
    }

    #[test]
    fn a_condition_that_did_not_hold_is_told_in_words() {
        let condition = |field: &str, rule: &str, asked: &[&str], found: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            views::Condition {
                field: field.to_owned(),
                rule: rule.to_owned(),
                asked: texts(asked),
                held: false,
                decided_by: texts(found),
                by_alias: Vec::new(),
            }
        };
        let many = ["a", "b", "c", "d", "e", "f"];
        let cases = [
            (condition("context", "any", &["x"], &["y"]), "its context was to be x, and is y"),
            (
                condition("subject", "any", &many, &["y", "z"]),
                "its subject was to be one of a, b, c, d, e, …, and is y, z",
            ),
            (
                condition("actor", "none", &["hr", "ny"], &["HR"]),
                "its actor was to be none of hr, ny, and is HR",
            ),
            (
                condition("timestamp", "not_before", &["T1"], &["T0"]),
                "it was to be of T1 or later, and is of T0",
            ),
            (
                condition("timestamp", "not_after", &["T0"], &["T1"]),
                "it was to be of T0 or earlier, and is of T1",
            ),
            (
                condition("timestamp", "not_after", &[], &["T1"]),
                "the time that it asks for cannot be reckoned at the moment of the claim",
            ),
            (
                condition("attributes.a", "exists", &[], &[]),
                "it was to have attributes.a, and has none",
            ),
            (
                condition("attributes.a", ">=", &["3"], &["2.5"]),
                "its attributes.a was to be >= 3, and is 2.5",
            ),
            (
                condition("attributes.a", "contains", &["\"x\""], &[]),
                "its attributes.a was to contain \"x\", and is not there",
            ),
        ];
        for (condition, expected) in cases {
            assert_eq!(told(&condition), expected);
        }
        let mut aliased = condition("context", "none", &["ny"], &["NYC"]);
        aliased.by_alias = vec![("NYC".to_owned(), "ny".to_owned())];
        let expected = "its context was to be none of ny, and is NYC (NYC is one with ny)";
        assert_eq!(told(&aliased), expected);
        assert_eq!(
            first_failure(&[aliased.clone(), aliased]),
            format!("{expected} (1 more of its 2 conditions did not hold)")
        );
    }

    #[test]
    fn of_all_that_failed_the_nearest_are_kept() {
        // (id, conditions that failed, that held)
        let watchers = [
            ("d", 1, 0),
            ("b", 2, 9),
            ("e", 1, 2),
            ("a", 3, 0),
            ("c", 1, 2),
            ("f", 1, 3),
            ("g", 2, 1),
        ];
        let condition = |held| Condition {
            field: axwatch_query::Field::Timestamp,
            rule: axwatch_query::Rule::NotBefore,
            asked: Vec::new(),
            held,
            decided_by: Vec::new(),
            by_alias: Vec::new(),
        };
        for (limit, expected) in [(1, "f"), (3, "f c e"), (5, "f c e d b"), (9, "f c e d b g a")] {
            let mut found = Found::new(limit);
            for (id, failed, held) in watchers {
                let key =
                    WatcherKey { owner: axwatch_model::Owner::User, local: id.parse().unwrap() };
                let held = std::iter::repeat_n(condition(true), held);
                let conditions = held.chain(std::iter::repeat_n(condition(false), failed));
                found.failed(&key, &revision(1, 0, 0, None), conditions.collect());
            }
            let kept = found.nearest.values().map(|near| &near.watcher["user-".len()..]);
            assert_eq!(kept.collect::<Vec<_>>().join(" "), expected, "limit {limit}");
        }
    }

    #[test]
    fn an_id_is_like_what_was_meant() {
        let id = "AS-ALICE-AUTHOR-GJJE7E959J8S";
        let cases = [
            ("AS-ALICE-AUTHOR-GJJE7E959J8S", Some(0)),
            ("AS-ALICE-AUTHOR-GJJE", Some(0)),
            ("as-alice-author-gjje7e959j8s", Some(0)),
            ("AS-ALICE-AUTHOR-GJJE7E959J85", Some(1)),
            ("AS-ALICE-AUTHOR-KXXZ9A333BBB", None),
            ("AS", None),
        ];
        for (text, expected) in cases {
            assert_eq!(likeness(text, id), expected, "{text}");
        }
        assert_eq!((likeness("c22", "c2"), likeness("c22", "d7")), (Some(1), None));
    }
}
