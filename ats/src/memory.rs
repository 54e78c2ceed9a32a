//! The store without a disk: plain collections, every question asked of every row.
//!
//! What it answers is what a store means; other backends are held to it by the conformance suite.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use axwatch_model::{
    Ancestor, AttestationId, BudgetRow, BudgetScope, Counters, CursorNumber, HandlerChangeRow,
    HandlerName, HandlerRow, HandlerSpendRow, HoldRow, JobEntryRow, JobId, JobIdPrefix, JobNumber,
    JobOrigin, JobRow, JobState, LaneKey, LeafNumber, LocalId, OpenAsked, Owner, PassRow, Place,
    PluginName, PluginRow, RefusedRow, RevisionRow, RouteRow, ScheduleId, ScheduleRow,
    ScheduleRunRow, Seq, SpendRow, StoreId, Stored, Timestamp, WatcherNumber, WatcherRow, bounds,
};
use axwatch_query::AliasChange;
use futures::future::{BoxFuture, FutureExt, ready};

use crate::append::{Known, Removed};
use crate::store::{
    AuditRow, Batch, Counted, JobCounts, JobsQuery, LaneQuery, Opened, Page, PageWeight,
    Quarantined, Question, ROWS_FORGOTTEN_MAX, RUNS_KEPT, Removal, Retention, RetentionPlace, Room,
    SEGMENT_BYTES_MAX, Store, StoreError, StoreFuture, StoreWriter, WatcherPages,
    watcher_pages_after,
};

/// Rows that one slice of retention looks at.
const RETENTION_ROWS: usize = 100;

/// A store that lives as long as its writer and readers do.
#[derive(Debug)]
pub struct MemoryStore {
    opened: Opened,
    tables: Arc<Mutex<Tables>>,
}

#[derive(Debug, Default)]
struct Tables {
    log: BTreeMap<Seq, Arc<Stored>>,
    removed: BTreeMap<AttestationId, Removed>,
    ids: BTreeMap<AttestationId, Seq>,
    jobs: BTreeMap<JobNumber, JobRow>,
    entries: BTreeMap<(JobNumber, u32), JobEntryRow>,
    watchers: BTreeMap<WatcherNumber, WatcherRow>,
    revisions: BTreeMap<(WatcherNumber, u64), RevisionRow>,
    passes: BTreeMap<(WatcherNumber, u32), PassRow>,
    cursors: BTreeMap<CursorNumber, Seq>,
    holds: BTreeMap<(WatcherNumber, u32), HoldRow>,
    counters: BTreeMap<WatcherNumber, Counters>,
    handlers: BTreeSet<(PluginName, HandlerName)>,
    handler_changes: BTreeMap<Seq, HandlerChangeRow>,
    plugins: BTreeMap<PluginName, PluginRow>,
    schedules: BTreeMap<(Owner, LocalId), ScheduleRow>,
    runs: BTreeMap<u64, ScheduleRunRow>,
    budgets: BTreeMap<BudgetScope, BudgetRow>,
    spends: BTreeMap<(i64, PluginName, HandlerName), SpendRow>,
    handler_spends: BTreeMap<(PluginName, HandlerName), HandlerSpendRow>,
    routes: BTreeMap<PluginName, BTreeSet<RouteRow>>,
    refused: BTreeMap<PluginName, Vec<RefusedRow>>,
    audit: BTreeMap<LeafNumber, AuditRow>,
}

impl MemoryStore {
    /// An empty store.
    #[expect(clippy::new_ret_no_self, reason = "a store is used through its two traits")]
    #[must_use]
    pub fn new(store_id: StoreId) -> Box<dyn StoreWriter> {
        let opened = Opened {
            store_id,
            schema: 0,
            epoch: 1,
            head: Seq(0),
            matched_seq: Seq(0),
            heeded_seq: Seq(0),
            last_job: JobNumber(0),
            open_jobs_from: JobNumber(1),
            last_watcher: WatcherNumber(0),
            audit_size: 0,
            counters_upto: LeafNumber(0),
        };
        Box::new(MemoryStore { opened, tables: Arc::default() })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().expect("nobody panics while holding the tables")
    }

    fn answer<'a, T: Send + 'a>(&self, ask: impl FnOnce(&Tables) -> T) -> StoreFuture<'a, T> {
        let answer = ask(&self.tables());
        ready(Ok(answer)).boxed()
    }
}

impl Tables {
    fn get(&self, id: &AttestationId) -> Option<&Stored> {
        self.ids.get(id).and_then(|seq| self.by_seq(*seq))
    }

    fn by_seq(&self, seq: Seq) -> Option<&Stored> {
        self.log.get(&seq).map(AsRef::as_ref)
    }

    fn known(&self, id: &AttestationId) -> Option<Known> {
        let here = self.get(id).map(|stored| Known::Here(Box::new(stored.clone())));
        here.or_else(|| self.removed.get(id).cloned().map(Known::Removed))
    }

    fn head(&self) -> Seq {
        self.log.keys().next_back().copied().unwrap_or_default()
    }

    fn query(&self, question: &Question) -> Page {
        let mut page = Page::default();
        let before = question.before.unwrap_or(Seq(u64::MAX));
        let mut weight = PageWeight::new(question.limit);
        for stored in self.log.range(..before).rev().map(|(_, stored)| stored) {
            if weight.is_full() {
                break;
            }
            page.rows_read += 1;
            if question.holds_for(&stored.attestation) {
                weight.add(stored);
                page.rows.push(stored.as_ref().clone());
            }
        }
        if weight.is_full() {
            page.next = page.next_after_last();
        }
        page
    }

    fn commit(&mut self, batch: &Batch) {
        for stored in &batch.attestations {
            assert_eq!(stored.seq, self.head().next(), "attestations come without a gap");
            self.ids.insert(stored.attestation.id.clone(), stored.seq);
            self.log.insert(stored.seq, stored.clone());
        }
        if let Some(removal) = &batch.removal {
            self.remove(removal);
        }
        for cancel in &batch.cancelled {
            for job in self.jobs.range_mut(cancel.from..).map(|(_, job)| job) {
                if job.watcher == Some(cancel.watcher)
                    && cancel.generation.is_none_or(|generation| job.generation == generation)
                    && waits(job)
                {
                    job.state = JobState::Cancelled;
                    job.completed_at = Some(cancel.at);
                    job.error = Some(cancel.reason.clone());
                }
            }
        }
        for withdrawn in &batch.withdrawn {
            if let Some(job) = self.jobs.get_mut(&withdrawn.number).filter(|job| waits(job)) {
                job.state = JobState::Cancelled;
                job.completed_at = Some(withdrawn.at);
                job.error = Some(withdrawn.reason.clone());
                (job.due_at, job.delay_ms) = (None, 0);
                job.leaves.push(withdrawn.leaf);
            }
        }
        for job in &batch.jobs {
            let before = self.jobs.get(&job.number).and_then(|before| before.payload.clone());
            let payload = job.payload.clone().or(before);
            self.jobs.insert(job.number, JobRow { payload, ..job.clone() });
        }
        let entries = batch.entries.iter();
        self.entries.extend(entries.map(|entry| ((entry.job, entry.number), entry.clone())));
        self.watchers.extend(batch.watchers.iter().map(|row| (row.number, row.clone())));
        let revisions = batch.revisions.iter();
        self.revisions.extend(revisions.map(|row| ((row.watcher, row.revision), row.clone())));
        for (watcher, revision, seq) in &batch.retired {
            if let Some(row) = self.revisions.get_mut(&(*watcher, *revision)) {
                row.retired_seq = Some(*seq);
            }
        }
        self.place(batch);
        for (plugin, names) in &batch.handlers {
            self.handlers.retain(|(owner, _)| owner != plugin);
            self.handlers.extend(names.iter().map(|name| (plugin.clone(), name.clone())));
        }
        let changes = batch.handler_changes.iter();
        self.handler_changes.extend(changes.map(|row| (row.seq, row.clone())));
        self.plugins.extend(batch.plugins.iter().map(|row| (row.name.clone(), row.clone())));
        let key = |row: &ScheduleRow| (row.owner.clone(), row.name.clone());
        self.schedules.extend(batch.schedules.iter().map(|row| (key(row), row.clone())));
        self.keep_runs(batch);
        self.keep_spending(batch);
        for (plugin, routes) in &batch.routes {
            self.routes.insert(plugin.clone(), routes.iter().cloned().collect());
        }
        self.refused.extend(batch.refused.iter().cloned());
        self.audit.extend(batch.audit.iter().map(|row| (row.first_leaf, row.clone())));
        if let Some((_, counters)) = &batch.counters {
            self.counters.extend(counters.iter().copied());
        }
    }

    fn keep_runs(&mut self, batch: &Batch) {
        for run in &batch.runs {
            let number = self.runs.keys().next_back().map_or(1, |last| last + 1);
            self.runs.insert(number, run.clone());
        }
        for (schedule, before) in &batch.runs_before {
            let of = |(_, run): &(&u64, &ScheduleRunRow)| run.schedule == *schedule;
            let older = self.runs.iter().rev().filter(of).skip(RUNS_KEPT as usize);
            let gone = older.filter(|(_, run)| run.at < *before).map(|(number, _)| *number);
            let mut gone: Vec<u64> = gone.collect();
            gone.reverse();
            for number in gone.into_iter().take(ROWS_FORGOTTEN_MAX as usize) {
                self.runs.remove(&number);
            }
        }
    }

    fn keep_spending(&mut self, batch: &Batch) {
        self.budgets.extend(batch.budgets.iter().map(|row| (row.scope.clone(), row.clone())));
        let key = |row: &SpendRow| (row.minute, row.plugin.clone(), row.handler.clone());
        self.spends.extend(batch.spends.iter().map(|row| (key(row), row.clone())));
        if let Some(from) = batch.spends_from {
            let older = self.spends.keys().take_while(|(minute, ..)| *minute < from);
            let gone: Vec<_> = older.take(ROWS_FORGOTTEN_MAX as usize).cloned().collect();
            gone.iter().for_each(|key| drop(self.spends.remove(key)));
        }
        let key = |row: &HandlerSpendRow| (row.plugin.clone(), row.handler.clone());
        let rows = batch.handler_spends.iter();
        self.handler_spends.extend(rows.map(|row| (key(row), row.clone())));
    }

    fn remove(&mut self, removal: &Removal) {
        for claim in &removal.claims {
            self.log.remove(&claim.seq);
            self.ids.remove(&claim.attestation.id);
            self.removed.insert(claim.attestation.id.clone(), Removed::of(claim));
        }
        for (number, ..) in &removal.jobs {
            self.jobs.remove(number);
            self.entries.retain(|(job, _), _| job != number);
        }
    }

    fn removable(&self, retention: &Retention) -> Removal {
        let is_old = |job: &JobRow| {
            matches!(job.state, JobState::Completed | JobState::Cancelled)
                && job.completed_at.is_some_and(|at| at < retention.before)
                && self.jobs.keys().next_back() > Some(&job.number)
        };
        let mut removal = Removal::default();
        match retention.from {
            RetentionPlace::Jobs(before) => {
                let mut children: BTreeMap<JobNumber, usize> = BTreeMap::new();
                for parent in self.jobs.values().filter_map(parent_of) {
                    *children.entry(parent).or_default() += 1;
                }
                let jobs = self.jobs.range(..before).rev().take(RETENTION_ROWS);
                let slice: Vec<_> = jobs.map(|(_, job)| job).collect();
                let next = slice.last().map(|job| RetentionPlace::Jobs(job.number));
                removal.next = Some(next.unwrap_or(RetentionPlace::Claims(Seq(0))));
                // Children come after their parents, so they have been looked at.
                for job in slice {
                    if is_old(job) && children.get(&job.number).is_none_or(|left| *left == 0) {
                        let left = parent_of(job).and_then(|parent| children.get_mut(&parent));
                        left.into_iter().for_each(|left| *left -= 1);
                        removal.jobs.push((job.number, job.id, job.seq));
                    }
                }
                removal.jobs.reverse();
            }
            RetentionPlace::Claims(after) => {
                let stays = |job: &&JobRow| !(retention.dry_run && is_old(job));
                let staying = self.jobs.values().filter(stays);
                let needed: BTreeSet<Seq> = staying.filter_map(|job| job.seq).collect();
                let claims = self.log.range((Bound::Excluded(after), Bound::Unbounded));
                let slice: Vec<_> = claims.take(RETENTION_ROWS).map(|(_, claim)| claim).collect();
                removal.next = slice.last().map(|claim| RetentionPlace::Claims(claim.seq));
                let goes = |claim: &&Arc<Stored>| {
                    claim.seq <= retention.below
                        && claim.seq < self.head()
                        && claim.attestation.created_at < retention.before
                        && AliasChange::of(claim).is_none()
                        && !self.handler_changes.contains_key(&claim.seq)
                        && !needed.contains(&claim.seq)
                };
                let gone = slice.into_iter().filter(goes);
                removal.claims = gone.map(|claim| claim.as_ref().clone()).collect();
            }
        }
        removal
    }

    /// Takes what a batch says of passes, cursors and holds.
    fn place(&mut self, batch: &Batch) {
        let passes = batch.passes.iter();
        self.passes.extend(passes.map(|row| ((row.watcher, row.generation), row.clone())));
        for gone in &batch.passes_gone {
            self.passes.remove(gone);
        }
        self.cursors.extend(batch.cursors.iter().map(|row| (row.number, row.seq)));
        for gone in &batch.cursors_gone {
            self.cursors.remove(gone);
        }
        self.holds.extend(batch.holds.iter().map(|row| ((row.watcher, row.number), row.clone())));
    }

    /// Open jobs after this number.
    fn open_jobs(&self, after: JobNumber) -> impl Iterator<Item = &JobRow> {
        let later = self.jobs.range((Bound::Excluded(after), Bound::Unbounded));
        later.map(|(_, job)| job).filter(|job| job.state.is_open())
    }

    /// Queued jobs of a lane, by place.
    fn lane(&self, lane: &LaneKey) -> Vec<&JobRow> {
        let waits = |job: &&JobRow| job.state == JobState::Queued && job.lane() == *lane;
        let mut jobs: Vec<_> = self.jobs.values().filter(waits).collect();
        jobs.sort_by_key(|job| job.place());
        jobs
    }

    fn open_ancestors(&self) -> Vec<Ancestor> {
        let mut found = BTreeMap::new();
        for job in self.open_jobs(JobNumber(0)) {
            let mut above = parent_of(job);
            while let Some(job) = above.and_then(|number| self.jobs.get(&number)) {
                if !job.state.is_open() {
                    let parent = job.asked.as_ref().and_then(|asked| asked.parent);
                    let (number, id, state) = (job.number, job.id, job.state);
                    let ancestor = Ancestor { number, id, state, parent };
                    found.insert(job.number, ancestor);
                }
                above = parent_of(job);
            }
        }
        found.into_values().collect()
    }

    /// A pass, and how far it is.
    fn placed(&self, pass: &PassRow) -> (PassRow, Option<Seq>) {
        let seq = pass.cursor.and_then(|cursor| self.cursors.get(&cursor).copied());
        (pass.clone(), seq)
    }

    fn audit_row(&self, leaf: LeafNumber) -> Option<&AuditRow> {
        let (_, row) = self.audit.range(..=leaf).next_back()?;
        (leaf.0 - row.first_leaf.0 < row.count).then_some(row)
    }
}

/// Whether a job waits, and could be withdrawn.
fn waits(job: &JobRow) -> bool {
    matches!(job.state, JobState::Queued | JobState::Paused)
}

/// A job as it is read to be changed.
fn to_change(job: &JobRow) -> JobRow {
    JobRow { payload: None, ..job.clone() }
}

/// A job without what it carries.
fn bare(job: &JobRow) -> JobRow {
    JobRow { payload: None, result: None, ..job.clone() }
}

fn parent_of(job: &JobRow) -> Option<JobNumber> {
    Some(job.asked.as_ref()?.parent?.number)
}

impl JobsQuery {
    fn asks_for(&self, job: &JobRow) -> bool {
        let asked = job.asked.as_deref();
        let is_own = |plugin: &PluginName| {
            let owns = asked.is_some_and(|asked| asked.owner == Owner::Plugin(plugin.clone()));
            owns || job.plugin.as_ref() == Some(plugin)
        };
        let schedule = asked.and_then(|asked| asked.schedule).map(|run| run.id);
        self.before.is_none_or(|before| job.number < before)
            && self.after.is_none_or(|after| job.number > after)
            && (self.states.is_empty() || self.states.contains(&job.state))
            && self.watcher.is_none_or(|watcher| job.watcher == Some(watcher))
            && (!self.fires_only || job.origin == JobOrigin::Fire)
            && self.handler.as_ref().is_none_or(|bare| job.bare_handler() == bare.as_str())
            && self.plugin.as_ref().is_none_or(|plugin| job.plugin.as_ref() == Some(plugin))
            && self.own.as_ref().is_none_or(is_own)
            && self.asker.as_ref().is_none_or(|by| asked.is_some_and(|asked| asked.by == *by))
            && self.source.as_ref().is_none_or(|text| asked.is_some_and(|a| a.source == *text))
            && self.parent.is_none_or(|parent| parent_of(job) == Some(parent))
            && self.schedule.is_none_or(|id| schedule == Some(id))
    }
}

impl Store for MemoryStore {
    fn opened(&self) -> &Opened {
        &self.opened
    }

    fn get<'a>(&'a self, id: &'a AttestationId) -> StoreFuture<'a, Option<Stored>> {
        self.answer(|tables| tables.get(id).cloned())
    }

    fn by_seqs<'a>(&'a self, seqs: &'a [Seq]) -> StoreFuture<'a, Vec<Stored>> {
        let sorted: BTreeSet<Seq> = seqs.iter().copied().collect();
        self.answer(|tables| {
            sorted.into_iter().filter_map(|seq| tables.by_seq(seq).cloned()).collect()
        })
    }

    fn removed<'a>(&'a self, id: &'a AttestationId) -> StoreFuture<'a, Option<Removed>> {
        self.answer(|tables| tables.removed.get(id).cloned())
    }

    fn quarantine_count(&self) -> StoreFuture<'_, u64> {
        ready(Ok(0)).boxed()
    }

    fn generation_floor(&self) -> StoreFuture<'_, u32> {
        ready(Ok(0)).boxed()
    }

    fn exists<'a>(&'a self, id: &'a AttestationId) -> StoreFuture<'a, bool> {
        self.answer(|tables| tables.ids.contains_key(id))
    }

    fn head(&self) -> StoreFuture<'_, Seq> {
        self.answer(Tables::head)
    }

    fn read_after(&self, after: Seq, limit: usize) -> StoreFuture<'_, Vec<Stored>> {
        self.answer(|tables| {
            let later = tables.log.range((Bound::Excluded(after), Bound::Unbounded));
            let (mut found, mut bytes) = (Vec::new(), 0);
            for (_, row) in later.take(limit) {
                bytes += row.attestation.text_bytes();
                found.push(row.as_ref().clone());
                if bytes > SEGMENT_BYTES_MAX {
                    break;
                }
            }
            found
        })
    }

    fn alias_changes(&self, after: Seq) -> StoreFuture<'_, Vec<(Seq, AliasChange)>> {
        self.answer(|tables| {
            let later = tables.log.values().filter(|row| row.seq > after);
            later.filter_map(|row| Some((row.seq, AliasChange::of(row)?))).collect()
        })
    }

    fn first_since(&self, at: Timestamp) -> StoreFuture<'_, Option<Seq>> {
        self.answer(|tables| {
            let found = tables.log.values().find(|row| row.attestation.created_at >= at);
            found.map(|row| row.seq)
        })
    }

    fn query<'a>(&'a self, question: &'a Question) -> StoreFuture<'a, Page> {
        self.answer(|tables| tables.query(question))
    }

    fn made_by(&self, job: JobId, limit: usize) -> StoreFuture<'_, Counted<Stored>> {
        self.answer(|tables| {
            let made = || tables.log.values().filter(|row| row.lineage.parent_job == Some(job));
            let first = made().take(limit).map(|row| row.as_ref().clone()).collect();
            Counted { first, all: made().count() as u64 }
        })
    }

    fn watcher_pages(&self) -> WatcherPages<'_> {
        watcher_pages_after(self, WatcherNumber(0))
    }

    fn watchers_after(
        &self,
        after: WatcherNumber,
        limit: usize,
    ) -> StoreFuture<'_, Vec<WatcherRow>> {
        self.answer(|tables| {
            tables.watchers.range(after.next()..).take(limit).map(|(_, row)| row.clone()).collect()
        })
    }

    fn revisions_between(
        &self,
        first: WatcherNumber,
        last: WatcherNumber,
    ) -> StoreFuture<'_, Vec<RevisionRow>> {
        self.answer(|tables| {
            let rows = tables.revisions.range((first, 0)..=(last, u64::MAX));
            rows.map(|(_, row)| row.clone()).collect()
        })
    }

    fn passes(&self) -> StoreFuture<'_, Vec<(PassRow, Seq)>> {
        self.answer(|tables| {
            let open = tables.passes.values().map(|pass| tables.placed(pass));
            open.filter_map(|(pass, seq)| Some((pass, seq?))).collect()
        })
    }

    fn passes_of(&self, watcher: WatcherNumber) -> StoreFuture<'_, Vec<(PassRow, Option<Seq>)>> {
        self.answer(|tables| {
            let passes = tables.passes.range((watcher, 0)..=(watcher, u32::MAX));
            passes.map(|(_, pass)| tables.placed(pass)).collect()
        })
    }

    fn holds(&self) -> StoreFuture<'_, Vec<HoldRow>> {
        self.answer(|tables| {
            let is_last =
                |hold: &HoldRow| !tables.holds.contains_key(&(hold.watcher, hold.number + 1));
            let is_needed =
                |hold: &&HoldRow| hold.ended_at.is_none() || hold.drops || is_last(hold);
            tables.holds.values().filter(is_needed).cloned().collect()
        })
    }

    fn holds_of(&self, watcher: WatcherNumber) -> StoreFuture<'_, Vec<HoldRow>> {
        self.answer(|tables| {
            let holds = tables.holds.range((watcher, 0)..=(watcher, u32::MAX));
            holds.map(|(_, hold)| hold.clone()).collect()
        })
    }

    fn counters(&self) -> StoreFuture<'_, Vec<(WatcherNumber, Counters)>> {
        self.answer(|tables| tables.counters.iter().map(|(number, row)| (*number, *row)).collect())
    }

    fn handlers(&self) -> StoreFuture<'_, Vec<HandlerRow>> {
        self.answer(|tables| {
            let rows = tables.handlers.iter().cloned();
            rows.map(|(plugin, name)| HandlerRow { plugin, name }).collect()
        })
    }

    fn stored_handlers(&self) -> StoreFuture<'_, Vec<HandlerChangeRow>> {
        self.answer(|tables| {
            let rows = tables.handler_changes.values();
            let latest: BTreeMap<_, _> = rows.map(|row| ((&row.plugin, &row.name), row)).collect();
            latest.into_values().cloned().collect()
        })
    }

    fn handler_changes<'a>(
        &'a self,
        plugin: &'a PluginName,
        name: &'a HandlerName,
        before: Option<Seq>,
        limit: usize,
    ) -> StoreFuture<'a, Vec<HandlerChangeRow>> {
        self.answer(|tables| {
            let rows = tables.handler_changes.range(..before.unwrap_or(Seq(u64::MAX))).rev();
            let rows = rows.map(|(_, row)| row);
            let of = rows.filter(|row| row.plugin == *plugin && row.name == *name);
            of.take(limit).cloned().collect()
        })
    }

    fn plugins(&self) -> StoreFuture<'_, Vec<PluginRow>> {
        self.answer(|tables| tables.plugins.values().cloned().collect())
    }

    fn schedules(&self) -> StoreFuture<'_, Vec<ScheduleRow>> {
        self.answer(|tables| {
            let mut rows: Vec<_> = tables.schedules.values().cloned().collect();
            rows.sort_by(|a, b| (a.owner.as_str(), &a.name).cmp(&(b.owner.as_str(), &b.name)));
            rows
        })
    }

    fn schedule_runs(
        &self,
        schedule: ScheduleId,
        before: Option<u64>,
        limit: usize,
    ) -> StoreFuture<'_, Vec<(u64, ScheduleRunRow)>> {
        self.answer(|tables| {
            let runs = tables.runs.range(..before.unwrap_or(u64::MAX)).rev();
            let of = runs.filter(|(_, run)| run.schedule == schedule);
            of.take(limit).map(|(number, run)| (*number, run.clone())).collect()
        })
    }

    fn budgets(&self) -> StoreFuture<'_, Vec<BudgetRow>> {
        self.answer(|tables| tables.budgets.values().cloned().collect())
    }

    fn spends(&self, from: i64) -> StoreFuture<'_, Vec<SpendRow>> {
        self.answer(|tables| {
            let rows = tables.spends.values().filter(|row| row.minute >= from);
            rows.cloned().collect()
        })
    }

    fn handler_spends(&self) -> StoreFuture<'_, Vec<HandlerSpendRow>> {
        self.answer(|tables| tables.handler_spends.values().cloned().collect())
    }

    fn routes(&self) -> StoreFuture<'_, Vec<(PluginName, RouteRow)>> {
        self.answer(|tables| {
            let of = |(plugin, routes): (&PluginName, &BTreeSet<RouteRow>)| {
                let plugin = plugin.clone();
                routes.clone().into_iter().map(move |route| (plugin.clone(), route))
            };
            tables.routes.iter().flat_map(of).collect()
        })
    }

    fn refused(&self) -> StoreFuture<'_, Vec<(PluginName, Vec<RefusedRow>)>> {
        self.answer(|tables| tables.refused.clone().into_iter().collect())
    }

    fn job(&self, id: JobId) -> StoreFuture<'_, Option<JobRow>> {
        self.answer(|tables| tables.jobs.values().find(|job| job.id == id).cloned())
    }

    fn job_to_change(&self, id: JobId) -> StoreFuture<'_, Option<JobRow>> {
        self.answer(|tables| tables.jobs.values().find(|job| job.id == id).map(to_change))
    }

    fn payload(&self, job: JobNumber) -> StoreFuture<'_, Option<Arc<[u8]>>> {
        self.answer(|tables| tables.jobs.get(&job).and_then(|job| job.payload.clone()))
    }

    fn jobs_beginning<'a>(
        &'a self,
        prefix: &'a JobIdPrefix,
        limit: usize,
    ) -> StoreFuture<'a, Vec<JobRow>> {
        self.answer(|tables| {
            let found = tables.jobs.values().filter(|job| prefix.begins(job.id));
            let mut found: Vec<_> = found.cloned().collect();
            found.sort_unstable_by_key(|job| job.id);
            found.truncate(limit);
            found
        })
    }

    fn jobs_of(&self, seq: Seq, limit: usize) -> StoreFuture<'_, Counted<JobRow>> {
        self.answer(|tables| {
            let caused = || tables.jobs.values().filter(|job| job.seq == Some(seq));
            Counted { first: caused().take(limit).cloned().collect(), all: caused().count() as u64 }
        })
    }

    fn job_counts(&self) -> StoreFuture<'_, JobCounts> {
        self.answer(|tables| {
            let mut counts = JobCounts::default();
            for job in tables.jobs.values() {
                *match job.state {
                    JobState::Queued => &mut counts.queued,
                    JobState::Paused => &mut counts.paused,
                    JobState::Running => &mut counts.running,
                    JobState::Completed => &mut counts.completed,
                    JobState::Failed => &mut counts.failed,
                    JobState::Cancelled => &mut counts.cancelled,
                } += 1;
            }
            counts
        })
    }

    fn open_jobs(&self, after: JobNumber, limit: usize) -> StoreFuture<'_, Vec<JobRow>> {
        self.answer(|tables| tables.open_jobs(after).take(limit).cloned().collect())
    }

    fn open_fires(&self, after: JobNumber, limit: usize) -> StoreFuture<'_, Vec<JobRow>> {
        self.answer(|tables| {
            let fires = tables.open_jobs(after).filter(|job| job.watcher.is_some());
            fires.take(limit).map(to_change).collect()
        })
    }

    fn open_asked(&self, after: JobNumber, limit: usize) -> StoreFuture<'_, Vec<OpenAsked>> {
        self.answer(|tables| {
            tables.open_jobs(after).filter_map(OpenAsked::of).take(limit).collect()
        })
    }

    fn open_ancestors(&self) -> StoreFuture<'_, Vec<Ancestor>> {
        self.answer(Tables::open_ancestors)
    }

    fn above(&self, job: JobNumber) -> StoreFuture<'_, Vec<JobRow>> {
        self.answer(|tables| {
            let parent = |job: &&JobRow| tables.jobs.get(&parent_of(job)?);
            let above = std::iter::successors(tables.jobs.get(&job), parent).skip(1);
            above.take(bounds::KIN_DEPTH_MAX).map(bare).collect()
        })
    }

    fn children(&self, parent: JobNumber, limit: usize) -> StoreFuture<'_, Counted<JobRow>> {
        self.answer(|tables| {
            let jobs = tables.jobs.values();
            let children: Vec<_> = jobs.filter(|job| parent_of(job) == Some(parent)).collect();
            let all = children.len() as u64;
            Counted { first: children.into_iter().take(limit).map(bare).collect(), all }
        })
    }

    fn entries(
        &self,
        job: JobNumber,
        after: u32,
        limit: usize,
    ) -> StoreFuture<'_, Vec<JobEntryRow>> {
        self.answer(|tables| {
            let later = (Bound::Excluded((job, after)), Bound::Included((job, u32::MAX)));
            tables.entries.range(later).take(limit).map(|(_, entry)| entry.clone()).collect()
        })
    }

    fn lane_jobs<'a>(&'a self, query: &'a LaneQuery) -> StoreFuture<'a, Vec<JobRow>> {
        self.answer(|tables| {
            let waiting = tables.lane(&query.lane).into_iter().filter(|job| {
                job.place() >= query.from && job.due_at.is_none_or(|due_at| due_at <= query.due_by)
            });
            waiting.take(query.limit).map(to_change).collect()
        })
    }

    fn ahead<'a>(&'a self, lane: &'a LaneKey, from: Place, of: Place) -> StoreFuture<'a, u64> {
        self.answer(|tables| {
            let before = |job: &&&JobRow| (from <= job.place()) && job.place() < of;
            tables.lane(lane).iter().filter(before).count() as u64
        })
    }

    fn jobs<'a>(&'a self, query: &'a JobsQuery) -> StoreFuture<'a, Vec<JobRow>> {
        self.answer(|tables| {
            let found = tables.jobs.values().rev().filter(|job| query.asks_for(job));
            let found = found.take(query.limit);
            if query.bare { found.map(bare).collect() } else { found.cloned().collect() }
        })
    }

    fn audit_after(&self, from: LeafNumber, limit: usize) -> StoreFuture<'_, Vec<AuditRow>> {
        self.answer(|tables| {
            let rows = tables.audit.values().filter(|row| row.first_leaf.0 + row.count > from.0);
            rows.take(limit).cloned().collect()
        })
    }

    fn audit_row(&self, leaf: LeafNumber) -> StoreFuture<'_, Option<AuditRow>> {
        self.answer(|tables| tables.audit_row(leaf).cloned())
    }

    fn audit_last(&self) -> StoreFuture<'_, Option<AuditRow>> {
        self.answer(|tables| tables.audit.values().next_back().cloned())
    }

    fn audit_head(&self) -> StoreFuture<'_, Option<(u64, [u8; 32])>> {
        self.answer(|tables| {
            let last = tables.audit.values().next_back()?;
            Some((last.first_leaf.0 + last.count, last.head))
        })
    }

    fn find_damage(&self) -> StoreFuture<'_, Option<String>> {
        self.answer(|_| None)
    }
}

impl StoreWriter for MemoryStore {
    fn reader(&self) -> Arc<dyn Store> {
        Arc::new(MemoryStore { opened: self.opened.clone(), tables: self.tables.clone() })
    }

    fn known<'a>(&'a mut self, ids: &'a [AttestationId]) -> StoreFuture<'a, Vec<Option<Known>>> {
        self.answer(|tables| ids.iter().map(|id| tables.known(id)).collect())
    }

    fn commit<'a>(&'a mut self, batch: &'a Batch) -> StoreFuture<'a, ()> {
        self.tables().commit(batch);
        ready(Ok(())).boxed()
    }

    fn tidy(&mut self) -> StoreFuture<'_, bool> {
        ready(Ok(false)).boxed()
    }

    fn removable<'a>(&'a mut self, retention: &'a Retention) -> StoreFuture<'a, Removal> {
        self.answer(|tables| tables.removable(retention))
    }

    fn quarantined(&mut self, _now: Timestamp) -> StoreFuture<'_, Vec<Quarantined>> {
        ready(Ok(Vec::new())).boxed()
    }

    fn room(&self) -> std::io::Result<Room> {
        Ok(Room { free_bytes: 1 << 40, total_bytes: 1 << 40, wal_bytes: 0 })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }
}
