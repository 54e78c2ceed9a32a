//! The one writer: everything that changes the store goes through here.
//!
//! Drains the inbox in batches, asks the core what follows from each, commits attestations, fires,
//! started attempts and audit together, and only then lets the effects out. A crash before the commit
//! leaves nothing; a crash after it leaves nothing undone. Any failure between the core and the end
//! of the commit ends the engine, because memory is then ahead of the disk: start-up is the one road
//! of recovery.
//!
//! Not here: what a query means (`axwatch_query`), what follows (`axwatch_core`), carrying a job out
//! (`crate::dispatch`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axwatch_ats::{
    AppendConflict, Appended, AuditRow, Batch, CancelQueued, Known, LaneQuery, Plan, Quarantined,
    Question, Removal, Retention, Store, StoreError, StoreWriter, Withdrawn, aliases_before, plan,
};
use axwatch_core::audit::{Hash, Tree, frontier_nodes, node_in_row, node_place};
use axwatch_core::{
    Answer, Bounds, BudgetLimits, Effect, EnqueueAsk, Enqueued, Event, JobAbove, NextSegment,
    Policy, Prepared, Progressed, Refusal, RefusalKind, RequestId, Restoring, RetryLimits,
    RetryPolicy, SetAside, Snapshot, State, Writes,
};
use axwatch_failpoints::{Injected, Point, hit, is_armed, pass};
use axwatch_model::{
    AttestationId, BudgetScope, Clock, FAULTED, HANDLER, HandlerName, Incoming, JobId, JobNumber,
    JobRow, JobState, LeafNumber, Mono, Now, PluginName, PluginRow, Seq, Stored, StructuralFilter,
};
use axwatch_query::{AliasChange, Aliases, Filter};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::dispatch::{Dispatcher, InFlight, Transports};
use crate::handle::{
    Acked, Answered, AppendRefusal, AppendReply, Engine, Fires, Heads, Message, PROGRESSED_MAX,
    PluginRows, Request, RequestError, Retain, Whole, bytes_of, intake,
};

/// Messages that may wait for the writer; past them callers wait.
const INBOX_MESSAGES_MAX: usize = 1_024;
/// Messages of one batch.
const BATCH_MESSAGES_MAX: usize = 1_024;
/// Claims of one batch; the message that passes it is the last.
pub(crate) const BATCH_CLAIMS_MAX: usize = 1_024;
/// Bytes of claims, and of what new jobs and schedules carry, of one batch; the message that passes it is the last.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Watchers of people that one batch declares, or changes with a command. Each takes ten or twenty microseconds, and all else
/// of the batch waits for them.
const BATCH_REGISTRATIONS_MAX: usize = 16;
/// Such requests that wait for a later batch, out of the inbox, so that what comes behind them need not; past
/// them all wait.
const REGISTRATIONS_WAITING_MAX: usize = 1_024;
/// Claims read at once while matching is behind.
const SEGMENT_CLAIMS: usize = 128;
/// Claims read at once for watchers that catch up: their cost is shared by all of them, and what they
/// cause is bounded by the batch.
const PASS_CLAIMS: usize = 512;
/// Open jobs read at once at the start.
const RECOVERY_JOBS: usize = 4_000;
/// Rows of the audit read at once at the start.
const RECOUNT_ROWS: usize = 256;
/// So many pages of watchers are prepared at once.
const PREPARED_AT_ONCE: usize = 2;
/// So many are ahead of those that the core has: each has no more than it will have there.
const PREPARED_PAGES_AHEAD: usize = 1_024;
/// So many such reads are ahead of what the core was told.
const RECOVERY_PAGES_AHEAD: usize = 16;
/// Claims on handlers that are heeded in one step of the start: each may have a megabyte.
const HEEDED_CLAIMS: usize = 64;
/// Watchers whose texts are read in one step after a start: some milliseconds, in which nothing else is done.
const UNDERSTOOD_WATCHERS: usize = 5_000;
/// How long the inbox must be quiet before what commits left for later is done.
const QUIET: Duration = Duration::from_millis(50);
/// How long after something could not be read or written it is tried again.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
/// What is kept free on the disk at most, unless configured.
const RESERVE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// And at most this part of it.
const RESERVE_PART: u64 = 20;
/// A claim takes up to so many times its size: in the log, its index, the audit, and the WAL.
const BYTES_WRITTEN_PER_BYTE: u64 = 4;

/// What the engine is told at its start.
#[derive(Debug, Clone, Default)]
pub struct EngineConfig {
    /// Bytes to keep free on the disk; `None` is a twentieth of it, at most 64 MiB.
    pub reserve_bytes: Option<u64>,
    /// How retries go.
    pub retry: RetryPolicy,
    /// When jobs of a handler are given up; under `None`, those of all other handlers of the plugin.
    pub handlers: BTreeMap<(PluginName, Option<HandlerName>), RetryLimits>,
    /// How much may wait where.
    pub bounds: Bounds,
    /// How often handlers may be called, and what they may spend. What is set with a command wins, part by
    /// part.
    pub budgets: BTreeMap<BudgetScope, BudgetLimits>,
    /// The plugins whose claims may store handlers, besides people's.
    pub handler_makers: BTreeSet<PluginName>,
}

/// All watchers, as they are read. Ends with none, or with an error.
type PreparedWatchers = mpsc::Receiver<Result<Prepared, StoreError>>;

/// Open fires, as they are read.
type OpenFires = mpsc::Receiver<Result<Vec<JobRow>, StoreError>>;

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store did not answer.
    #[error("cannot start from the store")]
    Store(#[from] StoreError),
    /// The audit lacks what a start needs.
    #[error("the audit is damaged: {0}; `axwatch audit verify` says more")]
    Audit(String),
    /// The system gave no thread.
    #[error("cannot start the writer's thread")]
    Thread(#[from] std::io::Error),
}

/// The store failed; the engine ended, so that memory is never ahead of the disk.
#[derive(Debug, thiserror::Error)]
#[error("the engine ended because the store failed")]
pub struct EngineStopped(#[from] StoreError);

impl From<Injected> for EngineStopped {
    fn from(injected: Injected) -> EngineStopped {
        EngineStopped(injected.into())
    }
}

/// Starts the engine on a store: recovers what an earlier life left, and takes messages.
///
/// The handle that comes back with the engine ends when the engine does: after [`Engine::stop`], or
/// with [`EngineStopped`] when the store failed.
///
/// # Errors
/// [`StartError`] when the store cannot be read or its audit is damaged.
pub async fn start(
    mut store: Box<dyn StoreWriter>,
    clock: Arc<dyn Clock>,
    config: EngineConfig,
) -> Result<(Engine, JoinHandle<Result<(), EngineStopped>>), StartError> {
    let reader = store.reader();
    let opened = reader.opened().clone();
    let now = clock.now();
    // The longest of all reads; they begin at once, beside the others.
    let watchers = watchers_ahead(reader.clone(), now);
    let fires = open_fires_ahead(reader.clone(), opened.open_jobs_from);
    let mut state = restore(&*reader, watchers, now, &config).await?;
    let mut effects = recover(&mut state, &*reader, fires, &*clock).await?;
    effects.extend(heed(&mut state, &*reader, &*clock).await?);
    let plugins = reader.plugins().await?;
    let incarnations: BTreeMap<_, _> =
        plugins.iter().map(|row| (row.name.clone(), row.incarnation)).collect();
    let plugins = plugins.into_iter().map(|row| (row.name.clone(), row)).collect();
    let mut plugins: BTreeMap<_, _> = plugins;
    let now = clock.now();
    // After all that a start reads, and before anything writes: what does not decode is put aside before
    // a new row takes its place.
    let (quarantine_told, followed) = put_aside(&mut *store, &mut state, now).await?;
    effects.extend(followed);
    state.begin_generations_at(reader.generation_floor().await?);
    let batch = batch_of(Vec::new(), state.take_writes(false), now);
    let batch = Batch { quarantine_told, ..batch };
    store.commit(&batch).await?;
    plugins.extend(batch.plugins.into_iter().map(|row| (row.name.clone(), row)));
    let plugin_rows = Arc::new(Mutex::new(plugins));
    let leaving = state.step(Event::Committed, clock.now());

    let (sender, inbox) = mpsc::channel(INBOX_MESSAGES_MAX);
    let transports = Arc::new(Transports::default());
    let in_flight = Arc::new(InFlight::default());
    let dispatcher = Dispatcher::new(
        reader.clone(),
        clock.clone(),
        transports.clone(),
        in_flight.clone(),
        sender.downgrade(),
    );
    let (heads, heads_seen) = watch::channel(Heads::default());
    let (progressed, _) = broadcast::channel(PROGRESSED_MAX);
    let engine = Engine {
        inbox: sender.clone(),
        store: reader.clone(),
        clock: clock.clone(),
        heads: heads_seen,
        transports,
        in_flight,
        incarnations: Arc::new(Mutex::new(incarnations)),
        plugin_rows: plugin_rows.clone(),
        intake: intake(),
        aliases: Arc::default(),
        progressed: progressed.clone(),
    };
    let writer = Writer {
        state,
        store,
        reader,
        clock,
        reserve_bytes: config.reserve_bytes,
        inbox,
        loads: sender.downgrade(),
        plugin_rows,
        dispatcher,
        heads,
        progressed,
        head: opened.head,
        requests: HashMap::new(),
        last_request: 0,
        untidy: true,
        disk_low: false,
        segment_after: None,
        passed_aliases: None,
        retain: None,
        registrations: VecDeque::new(),
    };
    writer.release(effects, &leaving, &mut BTreeMap::new(), &mut HashMap::new());
    writer.publish();
    Ok((engine, on_a_thread(writer)?))
}

/// Runs the writer on a thread of its own, beside the tasks of everybody else: it waits for the database's
/// thread some times in each commit, and each time would stand behind all tasks that are ready. It is dropped where
/// it waits when the handle's task is, as that task itself would be.
fn on_a_thread(writer: Writer) -> Result<JoinHandle<Result<(), EngineStopped>>, StartError> {
    let (mut ended, end) = oneshot::channel();
    std::thread::Builder::new().name("axwatch-writer".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("without sockets it asks the system for nothing");
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = writer.run() => Some(outcome),
                () = ended.closed() => None,
            }
        });
        if let Some(outcome) = outcome {
            // It may just have gone away.
            let _ = ended.send(outcome);
        }
    })?;
    Ok(tokio::spawn(async move { end.await.expect("the writer does not panic") }))
}

async fn restore(
    store: &dyn Store,
    mut watchers: PreparedWatchers,
    now: Now,
    config: &EngineConfig,
) -> Result<State, StartError> {
    let opened = store.opened();
    if opened.matched_seq > opened.head {
        tracing::error!(
            matched = %opened.matched_seq, head = %opened.head,
            "the store says that more was matched than there is; matching goes on at the end of the log"
        );
    }
    let snapshot = Snapshot {
        matched_seq: opened.matched_seq.min(opened.head),
        heeded_seq: opened.heeded_seq.min(opened.head),
        head: opened.head,
        last_job: opened.last_job,
        open_jobs_from: opened.open_jobs_from,
        above: store.open_ancestors().await?,
        watchers: Vec::new(),
        counters: store.counters().await?,
        passes: store.passes().await?,
        holds: store.holds().await?,
        // Those of later claims come with their claims, when these are matched.
        aliases: aliases_before(store, opened.matched_seq.next()).await?,
        handlers: store.handlers().await?,
        stored_handlers: store.stored_handlers().await?,
        plugins: store.plugins().await?,
        schedules: store.schedules().await?,
        budgets: store.budgets().await?,
        // All that there are: the clock may be wrong.
        spends: store.spends(i64::MIN).await?,
        handler_spends: store.handler_spends().await?,
        routes: store.routes().await?,
        refused: store.refused().await?,
        tree: restore_tree(store, opened.audit_size).await?,
    };
    let policy = Policy {
        store_id: opened.store_id,
        epoch: opened.epoch,
        bounds: config.bounds.clone(),
        retry: config.retry.clone(),
        handlers: config.handlers.clone(),
        budgets: config.budgets.clone(),
        handler_makers: config.handler_makers.clone(),
    };
    let mut restoring = Restoring::new(policy, snapshot, now);
    restoring.expect_watchers(opened.last_watcher);
    let mut done = false;
    while let Some(page) = watchers.recv().await {
        let page = page?;
        done = page.is_empty();
        restoring.take(page);
    }
    assert!(done, "whoever reads watchers says when there are no more");
    let mut state = restoring.finish(now);
    state.had_watchers_upto(opened.last_watcher);
    recount(&mut state, store, opened.counters_upto).await?;
    Ok(state)
}

/// The edge of the audit's tree, from the few rows that hold it.
async fn restore_tree(store: &dyn Store, size: u64) -> Result<Tree, StartError> {
    let head = store.audit_head().await?;
    if let Some((written, _)) = head.filter(|(written, _)| *written != size) {
        let reason = format!("it has {size} records, and {written} were written");
        return Err(StartError::Audit(reason));
    }
    let mut frontier: Vec<Hash> = Vec::new();
    for node in frontier_nodes(size) {
        let leaf = node_place(node);
        let row = store.audit_row(leaf).await?;
        let hash = row.and_then(|row| node_in_row(row.first_leaf, &row.nodes, node));
        frontier.push(
            hash.ok_or_else(|| {
                StartError::Audit(format!("record {leaf} or its nodes are missing"))
            })?,
        );
    }
    Tree::restore(size, &frontier).map_err(|error| StartError::Audit(error.to_string()))
}

/// Brings the counters of watchers up to the end of the audit.
async fn recount(state: &mut State, store: &dyn Store, from: LeafNumber) -> Result<(), StoreError> {
    let mut from = from;
    loop {
        let rows = store.audit_after(from, RECOUNT_ROWS).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        let next = LeafNumber(last.first_leaf.0 + last.count);
        for row in &rows {
            let counted =
                usize::try_from(from.0.saturating_sub(row.first_leaf.0)).unwrap_or(usize::MAX);
            row.records.lines().skip(counted).for_each(|record| state.recount(record));
        }
        from = next;
    }
}

/// Puts aside the rows that were found not to decode, and lets the audit tell of them: of those up to
/// the number that it answers. What else follows is for after the commit.
async fn put_aside(
    store: &mut dyn StoreWriter,
    state: &mut State,
    now: Now,
) -> Result<(Option<u64>, Vec<Effect>), StoreError> {
    let quarantined = store.quarantined(now.wall).await?;
    let last = quarantined.last().map(|row| row.number);
    let disabled: Vec<_> = quarantined.iter().filter_map(disabled_plugin).collect();
    let set_aside =
        |Quarantined { table, row, reason, .. }: Quarantined| SetAside { table, row, reason };
    let rows: Vec<_> = quarantined.into_iter().map(set_aside).collect();
    let mut effects = Vec::new();
    if !rows.is_empty() {
        tracing::error!(
            rows = rows.len(),
            "rows that do not decode were put aside; `axwatch doctor` shows them"
        );
        effects.extend(state.step(Event::Quarantined { rows }, now));
    }
    for plugin in disabled {
        tracing::error!(
            %plugin,
            "what is known of plugin {plugin} does not decode; it was disabled, and stays so: axwatch plugin enable {plugin}"
        );
        let by = "engine".to_owned();
        let disabled = Event::PluginDisabled { request: RequestId(0), plugin, by };
        effects.extend(state.step(disabled, now));
    }
    Ok((last, effects))
}

/// The plugin whose row this was, if somebody wanted it not to run: that may not be forgotten with the rest.
fn disabled_plugin(row: &Quarantined) -> Option<PluginName> {
    if row.table != "plugins" {
        return None;
    }
    let content: serde_json::Value = serde_json::from_str(&row.content).ok()?;
    let is_disabled = content.get("disabled_at").is_some_and(|at| !at.is_null());
    row.row.parse().ok().filter(|_| is_disabled)
}

/// Reads all watchers, and does all with them that can be done beside the one thread that puts them in their places.
fn watchers_ahead(store: Arc<dyn Store>, now: Now) -> PreparedWatchers {
    let (pages, receiver) = mpsc::channel(PREPARED_PAGES_AHEAD);
    tokio::spawn(async move {
        let prepare = |rows| tokio::task::spawn_blocking(move || Prepared::new(rows, now));
        let prepared = store.watcher_pages().map_ok(prepare).map(|page| async {
            let prepared = page?.await;
            Ok(prepared.expect("what prepares watchers does not panic, and nobody aborts it"))
        });
        let mut prepared = prepared.buffered(PREPARED_AT_ONCE);
        while let Some(page) = prepared.next().await {
            let is_last = page.is_err();
            // Nobody takes them when the start has failed meanwhile.
            if pages.send(page).await.is_err() || is_last {
                return;
            }
        }
        // As above.
        let _ = pages.send(Ok(Prepared::default())).await;
    });
    receiver
}

/// Reads the fires that are open, while the watchers are restored. Ends with nothing, or with an error.
fn open_fires_ahead(store: Arc<dyn Store>, from: JobNumber) -> OpenFires {
    let (pages, receiver) = mpsc::channel(RECOVERY_PAGES_AHEAD);
    tokio::spawn(async move {
        let mut after = JobNumber(from.0.saturating_sub(1));
        loop {
            let read = store.open_fires(after, RECOVERY_JOBS).await;
            let last = read.as_ref().ok().and_then(|rows| Some(rows.last()?.number));
            // Nobody takes them when the start has failed meanwhile.
            if pages.send(read).await.is_err() {
                return;
            }
            let Some(last) = last else { return };
            after = last;
        }
    });
    receiver
}

/// Tells the core of the jobs that are open: fires from the mark on, and those that were asked for.
async fn recover(
    state: &mut State,
    store: &dyn Store,
    mut fires: OpenFires,
    clock: &dyn Clock,
) -> Result<Vec<Effect>, StoreError> {
    let mut effects = Vec::new();
    let mut after = JobNumber(0);
    loop {
        let jobs = store.open_asked(after, RECOVERY_JOBS).await?;
        let Some(last) = jobs.last() else { break };
        after = last.number;
        let (running, jobs): (Vec<_>, Vec<_>) =
            jobs.into_iter().partition(|job| job.state == JobState::Running);
        effects.extend(state.step(Event::RecoveredAsked { jobs }, clock.now()));
        for job in running {
            // One whose row does not decode is put aside.
            let rows: Vec<_> = store.job_to_change(job.id).await?.into_iter().collect();
            if !rows.is_empty() {
                effects.extend(state.step(Event::Recovered { rows }, clock.now()));
            }
        }
    }
    let mut done = false;
    while let Some(rows) = fires.recv().await {
        let rows = rows?;
        done = rows.is_empty();
        effects.extend(state.step(Event::Recovered { rows }, clock.now()));
    }
    assert!(done, "whoever reads open fires says when there are no more");
    Ok(effects)
}

/// Tells the core what claims say of stored handlers that are in the log and were not heeded: those that
/// something appended while no engine ran. They need not wait for matching, which may be far behind.
async fn heed(
    state: &mut State,
    store: &dyn Store,
    clock: &dyn Clock,
) -> Result<Vec<Effect>, StoreError> {
    let (heeded, head) = (state.heeded_seq(), store.opened().head);
    if heeded >= head {
        return Ok(Vec::new());
    }
    let seqs = claims_on_handlers(store, heeded).await?;
    let mut effects = Vec::new();
    for some in seqs.chunks(HEEDED_CLAIMS) {
        let mut claims = store.by_seqs(some).await?;
        claims.sort_unstable_by_key(|claim| claim.seq);
        let upto = some[some.len() - 1];
        effects.extend(state.step(Event::Heed { claims, upto }, clock.now()));
    }
    let end = Event::Heed { claims: Vec::new(), upto: head };
    effects.extend(state.step(end, clock.now()));
    Ok(effects)
}

/// The numbers of the claims after one that may say something of stored handlers, rising.
async fn claims_on_handlers(store: &dyn Store, after: Seq) -> Result<Vec<Seq>, StoreError> {
    let predicates = [HANDLER, FAULTED].map(str::to_owned).to_vec();
    let lists = StructuralFilter { predicates, ..StructuralFilter::default() };
    let filter = Filter::structural(&lists);
    let (aliases, limit) = (Arc::default(), HEEDED_CLAIMS);
    let mut question = Question { filter, aliases, before: None, limit };
    let mut seqs = Vec::new();
    loop {
        let page = store.query(&question).await?;
        let new = page.rows.iter().map(|row| row.seq).take_while(|seq| *seq > after);
        seqs.extend(new);
        question.before = page.next.filter(|next| *next > after.next());
        if question.before.is_none() {
            seqs.reverse();
            return Ok(seqs);
        }
    }
}

fn batch_of(attestations: Vec<Arc<Stored>>, writes: Writes, now: Now) -> Batch {
    let cancelled = writes.cancelled.into_iter();
    let withdrawn = writes.withdrawn.into_iter();
    let withdrawn = withdrawn.map(|axwatch_core::Withdrawn { number, leaf, at, reason }| {
        Withdrawn { number, leaf, at, reason }
    });
    Batch {
        attestations,
        cancelled: cancelled
            .map(|(watcher, from, reason)| CancelQueued {
                watcher,
                from,
                generation: None,
                at: now.wall,
                reason,
            })
            .collect(),
        withdrawn: withdrawn.collect(),
        jobs: writes.jobs,
        entries: writes.entries,
        watchers: writes.watchers,
        revisions: writes.revisions,
        retired: writes.retired,
        passes: writes.passes,
        passes_gone: writes.passes_gone,
        cursors: writes.cursors,
        cursors_gone: writes.cursors_gone,
        holds: writes.holds,
        handlers: writes.handlers,
        handler_changes: writes.handler_changes,
        plugins: writes.plugins,
        schedules: writes.schedules,
        runs: writes.runs,
        runs_before: writes.runs_before,
        budgets: writes.budgets,
        spends: writes.spends,
        spends_from: writes.spends_from,
        handler_spends: writes.handler_spends,
        routes: writes.routes,
        refused: writes.refused,
        audit: writes.audit.map(|audit| AuditRow {
            first_leaf: audit.first_leaf,
            count: audit.count,
            at: now.wall,
            records: audit.records.into(),
            nodes: audit.nodes.into(),
            head: audit.head,
        }),
        matched_seq: writes.matched_seq,
        heeded_seq: writes.heeded_seq,
        open_jobs_from: writes.open_jobs_from,
        counters: writes.counters,
        removal: None,
        quarantine_told: None,
    }
}

/// An append whose claims are planned: what became of each, and who waits for it.
struct PlannedAppend {
    outcomes: Vec<Result<Appended, AppendConflict>>,
    reply: AppendReply,
}

/// A batch between the inbox and the core.
#[derive(Default)]
struct Gathered {
    events: Vec<Step>,
    incoming: Vec<Incoming>,
    bytes: usize,
    stop: bool,
}

/// Whoever waits for the answer to a request.
type Reply = oneshot::Sender<Answered>;

/// One message of a batch, in its order.
enum Step {
    Event(Event),
    Append {
        claims: Range<usize>,
        whole: Whole,
        reply: AppendReply,
    },
    Drained(oneshot::Sender<()>),
    /// The core need not be asked.
    Answered(RequestId, Answer),
    /// Asks for the job of an earlier request of this batch once more.
    Again {
        request: RequestId,
        first: RequestId,
    },
}

struct Writer {
    state: State,
    store: Box<dyn StoreWriter>,
    reader: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    reserve_bytes: Option<u64>,
    inbox: mpsc::Receiver<Message>,
    /// For what is read for the core; weak, so that the inbox ends with its last real sender.
    loads: mpsc::WeakSender<Message>,
    /// For whoever asks the handle.
    plugin_rows: PluginRows,
    dispatcher: Dispatcher,
    heads: watch::Sender<Heads>,
    progressed: broadcast::Sender<Arc<Progressed>>,
    head: Seq,
    /// Who is answered with the batch at hand, or with a later one.
    requests: HashMap<RequestId, Reply>,
    last_request: u64,
    /// Commits left something for later.
    untidy: bool,
    /// The disk was nearly full when it was last looked at.
    disk_low: bool,
    /// The log could not be read for matching; not before then is it tried again.
    segment_after: Option<Mono>,
    /// The aliases in force where the last segment for passes ended.
    passed_aliases: Option<(Seq, Arc<Aliases>)>,
    /// Retention that is under way.
    retain: Option<Retain>,
    /// What people declare of watchers, for later batches, in its order.
    registrations: VecDeque<(Request, Reply)>,
}

impl Writer {
    async fn run(mut self) -> Result<(), EngineStopped> {
        loop {
            let Some(first) = self.next_message().await? else { return self.finish().await };
            let gathered = self.gather(first);
            let stop = gathered.stop;
            self.commit_batch(gathered).await?;
            if stop {
                return self.finish().await;
            }
        }
    }

    /// The next message; `Some(None)` when there is work without one, `None` when the engine stops.
    async fn next_message(&mut self) -> Result<Option<Option<Message>>, EngineStopped> {
        loop {
            let is_idle = self.state.is_understood() && self.registrations.is_empty();
            let has_work = !is_idle || self.takes_announced() || self.retain.is_some();
            if has_work || self.is_behind() || self.has_passes() {
                return Ok(Some(self.inbox.try_recv().ok()));
            }
            let wake = self.state.next_wake().map(|at| at.since(self.clock.now().mono));
            if wake == Some(Duration::ZERO) {
                return Ok(Some(self.inbox.try_recv().ok()));
            }
            let patience =
                if self.untidy { Some(wake.map_or(QUIET, |wake| wake.min(QUIET))) } else { wake };
            let patience = match patience {
                _ if !self.in_trouble() => patience,
                None => Some(TROUBLE_PAUSE),
                Some(patience) => Some(patience.min(TROUBLE_PAUSE)),
            };
            let received = match patience {
                None => Ok(self.inbox.recv().await),
                Some(patience) => tokio::time::timeout(patience, self.inbox.recv()).await,
            };
            match received {
                Ok(Some(message)) => return Ok(Some(Some(message))),
                Ok(None) => return Ok(None),
                Err(_) if self.untidy && wake.is_none_or(|wake| wake > QUIET) => {
                    self.untidy = self.store.tidy().await?;
                    self.tell_of_quarantine().await?;
                }
                Err(_) => return Ok(Some(None)),
            }
        }
    }

    /// Readers may have found rows that do not decode.
    async fn tell_of_quarantine(&mut self) -> Result<(), EngineStopped> {
        let now = self.clock.now();
        let (quarantine_told, effects) = put_aside(&mut *self.store, &mut self.state, now).await?;
        if quarantine_told.is_some() {
            let batch = batch_of(Vec::new(), self.state.take_writes(false), now);
            self.store.commit(&Batch { quarantine_told, ..batch }).await?;
            let leaving = self.state.step(Event::Committed, self.clock.now());
            // Nobody asked for any of it, but a plugin that is disabled may have an announcement under way.
            let mut replies = std::mem::take(&mut self.requests);
            self.release(effects, &leaving, &mut BTreeMap::new(), &mut replies);
            self.requests = replies;
            self.publish();
        }
        Ok(())
    }

    /// Whether there are announcements of which the next batch takes more. They wait while the disk is nearly full.
    fn takes_announced(&self) -> bool {
        self.state.is_announcing() && !self.disk_low
    }

    /// Whether there are claims to match that no message brings.
    fn is_behind(&self) -> bool {
        let is_matching_behind = self.state.matched_seq() < self.head && self.state.may_match();
        !self.is_resting() && !self.disk_low && is_matching_behind
    }

    /// Whether watchers that catch up have claims to be matched against.
    fn has_passes(&self) -> bool {
        !self.is_resting() && self.state.next_segment().is_some()
    }

    /// The log could not be read just now.
    fn is_resting(&self) -> bool {
        self.segment_after.is_some_and(|after| self.clock.now().mono < after)
    }

    /// Something is to be tried again that no message and no timer of the core tells of.
    fn in_trouble(&self) -> bool {
        self.disk_low || self.segment_after.is_some()
    }

    /// Takes what waits, within the bounds of a batch, up to a word to stop.
    fn gather(&mut self, first: Option<Message>) -> Gathered {
        let mut gathered = Gathered::default();
        let mut next = first;
        let was_low = self.disk_low;
        let room = self.has_room();
        if was_low != self.disk_low {
            gathered.events.push(Step::Event(Event::DiskLow(self.disk_low)));
        }
        let turns = self.registrations.len().min(BATCH_REGISTRATIONS_MAX);
        for (request, reply) in self.registrations.drain(..turns).collect::<Vec<_>>() {
            self.take_request(request, reply, &room, &mut gathered);
        }
        let mut turns_left = BATCH_REGISTRATIONS_MAX - turns;
        while let Some(message) = next {
            match message {
                Message::Stop => {
                    gathered.stop = true;
                    // What came before the word is done before it.
                    for (request, reply) in std::mem::take(&mut self.registrations) {
                        self.take_request(request, reply, &room, &mut gathered);
                    }
                }
                Message::Retain(retain) => self.begin_retention(retain),
                Message::Look(look) => look(&self.state, self.clock.now()),
                Message::Event(event) => gathered.events.push(Step::Event(event)),
                Message::Drain { reply } => {
                    gathered.events.push(Step::Event(Event::Drain));
                    gathered.events.push(Step::Drained(reply));
                }
                Message::Request { request, reply } if request.is_registration() => {
                    if turns_left > 0 {
                        turns_left -= 1;
                        self.take_request(request, reply, &room, &mut gathered);
                    } else {
                        self.registrations.push_back((request, reply));
                    }
                }
                Message::Request { request, reply } => {
                    self.take_request(request, reply, &room, &mut gathered);
                }
                Message::Append { incoming, whole, reply } => match &room {
                    Err(low) => reply.send(incoming.iter().map(|_| Err(low.clone())).collect()),
                    Ok(()) => {
                        gathered.bytes += incoming.iter().map(bytes_of).sum::<usize>();
                        let first = gathered.incoming.len();
                        gathered.incoming.extend(incoming);
                        let claims = first..gathered.incoming.len();
                        gathered.events.push(Step::Append { claims, whole, reply });
                    }
                },
            }
            let full = gathered.stop
                || gathered.events.len() >= BATCH_MESSAGES_MAX
                || gathered.incoming.len() >= BATCH_CLAIMS_MAX
                || gathered.bytes >= BATCH_BYTES_MAX
                || self.registrations.len() >= REGISTRATIONS_WAITING_MAX;
            next = if full { None } else { self.inbox.try_recv().ok() };
        }
        gathered
    }

    fn take_request(
        &mut self,
        request: Request,
        reply: Reply,
        room: &Result<(), AppendRefusal>,
        gathered: &mut Gathered,
    ) {
        match room {
            Err(low) if !request.lets_rest() => {
                // Whoever asked may have gone away.
                let _ = reply.send(Err(RequestError::Exhausted(low.clone())));
            }
            _ => {
                gathered.bytes += request.bytes();
                let event = self.event_of(request, reply);
                gathered.events.push(Step::Event(event));
            }
        }
    }

    /// Whether the disk has room for a full batch, beyond what running jobs need to settle.
    fn has_room(&mut self) -> Result<(), AppendRefusal> {
        let room = match self.store.room() {
            Ok(room) => room,
            Err(error) => {
                tracing::warn!(%error, "cannot tell how full the disk is");
                return Ok(());
            }
        };
        let reserve =
            self.reserve_bytes.unwrap_or(RESERVE_BYTES_MAX.min(room.total_bytes / RESERVE_PART));
        let batch = BATCH_BYTES_MAX as u64 * BYTES_WRITTEN_PER_BYTE;
        let needed_bytes = reserve + room.wal_bytes + batch.min(reserve);
        let low = room.free_bytes < needed_bytes;
        if low != std::mem::replace(&mut self.disk_low, low) {
            if low {
                tracing::error!(
                    free_bytes = room.free_bytes,
                    needed_bytes,
                    "disk nearly full: appends are refused"
                );
            } else {
                tracing::info!(
                    free_bytes = room.free_bytes,
                    "disk has room again: appends are taken"
                );
            }
        }
        if low {
            Err(AppendRefusal::DiskLow { free_bytes: room.free_bytes, needed_bytes })
        } else {
            Ok(())
        }
    }

    fn event_of(&mut self, request: Request, reply: Reply) -> Event {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        self.requests.insert(id, reply);
        match request {
            Request::PluginUp { plugin, incarnation, version, max_in_flight, registration } => {
                Event::PluginUp {
                    request: id,
                    plugin,
                    incarnation,
                    version,
                    max_in_flight,
                    registration,
                }
            }
            Request::Announced { plugin, incarnation, registration } => {
                Event::Announced { request: id, plugin, incarnation, registration }
            }
            Request::PluginDisabled { plugin, by } => {
                Event::PluginDisabled { request: id, plugin, by }
            }
            Request::PluginEnabled { plugin, by } => {
                Event::PluginEnabled { request: id, plugin, by }
            }
            Request::Declare(declaration) => Event::Declare { request: id, declaration },
            Request::Command(watcher, command) => Event::Command { request: id, watcher, command },
            Request::Enqueue { asked, .. } => Event::Enqueue { request: id, asked },
            // What is above it is looked up with the batch, as its row is.
            Request::Redrive(row) => Event::Redrive { request: id, row, above: Vec::new() },
            Request::Discard(row) => Event::Discard { request: id, row },
            Request::Cancel(row, by) => Event::Cancel { request: id, row, by },
            Request::PauseJob(row, by) => Event::PauseJob { request: id, row, by },
            Request::ResumeJob(row, by) => Event::ResumeJob { request: id, row, by },
            Request::CreateSchedule(asked) => Event::CreateSchedule { request: id, asked },
            Request::CommandSchedule(schedule, command, by) => {
                Event::CommandSchedule { request: id, schedule, command, by }
            }
            Request::Report(report) => Event::Progress { request: id, report },
            Request::SetBudget(scope, change, by) => {
                Event::SetBudget { request: id, scope, change, by }
            }
        }
    }

    /// From messages to the disk and out again.
    async fn commit_batch(&mut self, gathered: Gathered) -> Result<(), EngineStopped> {
        let Gathered { mut events, incoming, .. } = gathered;
        hit(Point::BatchBegin)?;
        read_jobs(&*self.reader, &mut events).await?;
        let removal = self.next_removal(&mut events).await;
        let segment = self.read_segment().await;
        let passed = self.read_passed().await;
        let is_behind = segment.is_some() || passed.is_some();
        let (incoming, known) = self.look_up(incoming).await?;
        let (events, incoming, known) = refuse_together(events, incoming, known);
        let now = self.clock.now();
        let Plan { outcomes, rows } = plan(self.head, incoming, known, now.wall);

        let (effects, appends, drained) =
            self.ask_core(events, outcomes, &rows, segment, passed, now);
        if let Some(last) = rows.last() {
            self.head = last.seq;
        }
        let batch = batch_of(rows, self.state.take_writes(false), now);
        let batch = Batch { removal, ..batch };
        hit_decided(&batch)?;
        self.store.commit(&batch).await?;
        self.keep_plugin_rows(&batch.plugins);
        if let Some(removal) = &batch.removal {
            self.removed(removal);
        }
        if is_behind {
            hit(Point::SegmentCommitted)?;
        }
        self.untidy |= !batch.attestations.is_empty() || !batch.jobs.is_empty();
        let committed = self.clock.now();
        // Only what charges limits; whatever may start now waits for the next batch.
        let leaving = self.state.step(Event::Committed, committed);

        let mut fires = BTreeMap::new();
        let mut replies = std::mem::take(&mut self.requests);
        self.release(effects, &leaving, &mut fires, &mut replies);
        replies.retain(|request, _| self.state.will_answer(*request));
        self.requests = replies;
        self.publish();
        acknowledge(appends, &fires);
        for reply in drained {
            // Whoever drains may have lost patience.
            let _ = reply.send(());
        }
        Ok(())
    }

    fn keep_plugin_rows(&self, rows: &[PluginRow]) {
        if !rows.is_empty() {
            let mut kept = self.plugin_rows.lock().expect("no holder of the plugins' rows panics");
            kept.extend(rows.iter().map(|row| (row.name.clone(), row.clone())));
        }
    }

    fn begin_retention(&mut self, retain: Retain) {
        if self.retain.is_some() {
            let refusal = Refusal {
                kind: RefusalKind::Conflict,
                reason: "retention is under way already; ask again when it is done".to_owned(),
                mistakes: None,
            };
            // Whoever asked may have gone away.
            let _ = retain.reply.send(Err(refusal.into()));
            return;
        }
        self.retain = Some(retain);
    }

    /// The next slice of what retention takes away, with what the audit says of it.
    async fn next_removal(&mut self, events: &mut Vec<Step>) -> Option<Removal> {
        let Retain { before, dry_run, from, reply, .. } = self.retain.as_ref()?;
        if reply.is_closed() {
            self.retain = None;
            return None;
        }
        let (before, dry_run, below) = (*before, *dry_run, self.state.lowest_position());
        let found = self.store.removable(&Retention { before, below, from: *from, dry_run }).await;
        match found {
            Err(error) => {
                let retain = self.retain.take()?;
                let _ = retain.reply.send(Err(error.into()));
                None
            }
            Ok(removal) if dry_run => {
                self.removed(&removal);
                None
            }
            Ok(mut removal) => {
                spare(&mut removal, events);
                let (claims, jobs) = (removal.claims.len() as u64, removal.jobs.len() as u64);
                if claims + jobs > 0 {
                    events.push(Step::Event(Event::Retained { before, below, claims, jobs }));
                }
                Some(removal)
            }
        }
    }

    /// A slice of retention is done.
    fn removed(&mut self, removal: &Removal) {
        let Some(mut retain) = self.retain.take() else { return };
        retain.retained.claims += removal.claims.len() as u64;
        retain.retained.jobs += removal.jobs.len() as u64;
        match removal.next {
            Some(next) => self.retain = Some(Retain { from: next, ..retain }),
            // Whoever asked may have gone away.
            None => drop(retain.reply.send(Ok(retain.retained))),
        }
    }

    /// The claims that matching, which is behind, comes to next. What cannot be read now is tried
    /// again later: nothing is lost by that, and the rest goes on.
    async fn read_segment(&mut self) -> Option<Vec<Stored>> {
        if !self.is_behind() {
            return None;
        }
        self.segment_after = None;
        let read = self.reader.read_after(self.state.matched_seq(), SEGMENT_CLAIMS).await;
        match read.and_then(|rows| Ok(hit(Point::SegmentRead).map(|()| rows)?)) {
            Ok(segment) => Some(segment),
            Err(error) => {
                let after = self.state.matched_seq();
                tracing::error!(%after, %error, "cannot read claims that wait to be matched; trying again");
                self.segment_after = Some(self.clock.now().mono.plus(TROUBLE_PAUSE));
                None
            }
        }
    }

    /// The claims that watchers with a pass come to next. What cannot be read now is tried again later.
    async fn read_passed(&mut self) -> Option<Event> {
        if self.is_resting() {
            return None;
        }
        self.segment_after = None;
        let next = self.state.next_segment()?;
        let known = self.passed_aliases.take().filter(|(seq, _)| *seq == next.after);
        match read_pass(&*self.reader, next, known.map(|(_, aliases)| aliases)).await {
            Ok((passed, after)) => {
                self.passed_aliases = Some(after);
                Some(passed)
            }
            Err(error) => {
                tracing::error!(after = %next.after, %error, "cannot read claims for watchers that catch up; trying again");
                self.segment_after = Some(self.clock.now().mono.plus(TROUBLE_PAUSE));
                None
            }
        }
    }

    /// What the log holds under the ids of new claims.
    async fn look_up(
        &mut self,
        incoming: Vec<Incoming>,
    ) -> Result<(Vec<Incoming>, Vec<Option<Known>>), StoreError> {
        if incoming.is_empty() {
            return Ok((incoming, Vec::new()));
        }
        let ids: Vec<AttestationId> =
            incoming.iter().map(|claim| claim.attestation.id.clone()).collect();
        let known = self.store.known(&ids).await?;
        Ok((incoming, known))
    }

    /// Tells the core of the batch, in the order of its messages.
    fn ask_core(
        &mut self,
        events: Vec<Step>,
        outcomes: Vec<Result<Appended, AppendConflict>>,
        rows: &[Arc<Stored>],
        segment: Option<Vec<Stored>>,
        passed: Option<Event>,
        now: Now,
    ) -> (Vec<Effect>, Vec<PlannedAppend>, Vec<oneshot::Sender<()>>) {
        let mut effects = Vec::new();
        // What comes with this batch has its first slice from it already.
        let takes_announced = self.takes_announced();
        if !self.state.is_understood() {
            let watchers = UNDERSTOOD_WATCHERS;
            effects.extend(self.state.step(Event::Understand { watchers }, now));
        }
        // Before the new claims, so that a watcher that comes to the head sees the next one live.
        if let Some(passed) = passed {
            effects.extend(self.state.step(passed, now));
        }
        if let Some(segment) = segment {
            self.match_segment(segment, now, &mut effects);
        }
        let (mut outcomes, mut rows) = (outcomes.into_iter(), rows.iter());
        let (mut appends, mut drained) = (Vec::new(), Vec::new());
        for step in events {
            match step {
                Step::Event(event) => effects.extend(self.state.step(event, now)),
                Step::Drained(reply) => drained.push(reply),
                Step::Answered(request, answer) => effects.push(Effect::Reply { request, answer }),
                Step::Again { request, first } => effects.extend(again(&effects, request, first)),
                Step::Append { claims, reply, .. } => {
                    let outcomes: Vec<_> = outcomes.by_ref().take(claims.len()).collect();
                    let new = outcomes.iter().flatten().filter(|appended| !appended.repeated);
                    for stored in rows.by_ref().take(new.count()) {
                        self.match_claim(stored, now, &mut effects);
                    }
                    appends.push(PlannedAppend { outcomes, reply });
                }
            }
        }
        if takes_announced {
            effects.extend(self.state.step(Event::TakeAnnounced, now));
        }
        effects.extend(self.state.step(Event::Tick, now));
        (effects, appends, drained)
    }

    /// Matches what was read behind the head. What lies between these claims is not in the log any more, and
    /// when there are none, neither is all the rest.
    fn match_segment(&mut self, segment: Vec<Stored>, now: Now, effects: &mut Vec<Effect>) {
        let is_end = segment.is_empty();
        let mut behind = self.state.matched_seq();
        for stored in segment {
            self.pass_over(behind, Seq(stored.seq.0 - 1), now);
            behind = stored.seq;
            self.match_claim(&Arc::new(stored), now, effects);
        }
        if is_end {
            self.pass_over(behind, self.head, now);
        }
    }

    /// Lets matching go on behind numbers that are not in the log, if it has come to them.
    fn pass_over(&mut self, behind: Seq, upto: Seq, now: Now) {
        if behind < upto && self.state.matched_seq() == behind {
            self.state.step(Event::Missing { upto }, now);
        }
    }

    /// Matches a claim in this batch, if its turn has come and the batch has room for what it causes;
    /// else matching falls behind, and comes to it later.
    fn match_claim(&mut self, stored: &Arc<Stored>, now: Now, effects: &mut Vec<Effect>) {
        let is_next = self.state.matched_seq().next() == stored.seq;
        let matched_now = is_next && self.state.may_match() && !self.state.batch_is_full();
        let event = if matched_now {
            Event::Match { stored: stored.clone() }
        } else {
            Event::Deferred { stored: stored.clone() }
        };
        effects.extend(self.state.step(event, now));
    }

    /// Lets the effects of a batch out, in their order; `leaving` says which attempts have to wait for
    /// their moment.
    fn release(
        &self,
        effects: Vec<Effect>,
        leaving: &[Effect],
        fires: &mut BTreeMap<Seq, u32>,
        replies: &mut HashMap<RequestId, Reply>,
    ) {
        let leaves_at = |effect: &Effect| match effect {
            Effect::LeaveAt { job, at } => Some((*job, *at)),
            _ => None,
        };
        let leaving: HashMap<JobNumber, Mono> = leaving.iter().filter_map(leaves_at).collect();
        for (index, effect) in effects.into_iter().enumerate() {
            if index > 0 {
                pass(Point::EffectsHalf);
            }
            match effect {
                Effect::Fired { seq, fires: count } => drop(fires.insert(seq, count)),
                Effect::Payload { seq, bytes } => {
                    self.dispatcher.keep_payload(seq, bytes::Bytes::from_owner(bytes))
                }
                Effect::Start(start) => {
                    let leaves_at = leaving.get(&start.job).copied();
                    self.dispatcher.start(*start, leaves_at);
                }
                // Looked up above.
                Effect::LeaveAt { .. } => {}
                Effect::CancelAttempt { job, attempt } => self.dispatcher.stop(job, attempt),
                Effect::Progressed(told) => {
                    if told.moved {
                        self.dispatcher.moved(told.job, told.attempt);
                    }
                    // Nobody may be following.
                    let _ = self.progressed.send(Arc::new(*told));
                }
                Effect::Load { lane, from, limit } => self.load(LaneQuery {
                    lane,
                    from,
                    due_by: axwatch_model::Timestamp::from_ms_clamped(i64::MAX),
                    limit,
                }),
                Effect::Unparsed { owner, watcher, text, reason } => {
                    tracing::error!(plugin = %owner, %watcher, text, reason, "Failed to parse AX query for watcher");
                }
                Effect::GaveUp {
                    id,
                    plugin,
                    watcher,
                    handler,
                    attempts,
                    permanent: true,
                    reason,
                } => {
                    let plugin = plugin.as_ref().map(PluginName::as_str);
                    tracing::warn!(plugin, job = %id, %watcher, %handler, attempts, reason, "Permanent failure, giving up");
                }
                Effect::Doubted { plugin, handlers, watchers, schedules, routes } => {
                    tracing::error!(%plugin, ?handlers, ?watchers, ?schedules, ?routes, "the plugin no longer announces what it had, and its calls back did not work: kept for 10 minutes, and the jobs held");
                }
                Effect::BudgetWarning { scope, kind, used, of } => {
                    tracing::warn!(%scope, %kind, used, of, "a budget is nearly used up");
                }
                Effect::GaveUp { id, plugin, watcher, handler, attempts, reason, .. } => {
                    let plugin = plugin.as_ref().map(PluginName::as_str);
                    tracing::warn!(plugin, job = %id, %watcher, %handler, attempts, reason, "Max retries exceeded, giving up");
                }
                Effect::Reply { request, answer } => {
                    if let Some(reply) = replies.remove(&request) {
                        // Whoever asked may have gone away; it is done all the same.
                        let _ = reply.send(Ok(answer));
                    }
                }
            }
        }
    }

    /// Reads waiting jobs of a lane, beside the writer.
    fn load(&self, query: LaneQuery) {
        let (reader, inbox) = (self.reader.clone(), self.loads.clone());
        self.dispatcher.spawn(async move {
            let rows = loop {
                match reader.lane_jobs(&query).await {
                    Ok(rows) => break rows,
                    Err(error) => {
                        tracing::error!(%error, "cannot read waiting jobs; trying again");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            };
            if let Some(inbox) = inbox.upgrade() {
                // A writer that is gone needs no rows.
                let _ = inbox.send(Message::Event(Event::Loaded { lane: query.lane, rows })).await;
            }
        });
    }

    fn publish(&self) {
        self.heads.send_modify(|heads| {
            *heads = Heads {
                seq: self.head,
                matched: self.state.matched_seq(),
                job: self.state.last_job(),
                audit: self.state.audit_size(),
                commits: heads.commits + 1,
            }
        });
    }

    /// Writes what is only written now and then, and lets go of the store.
    async fn finish(mut self) -> Result<(), EngineStopped> {
        let now = self.clock.now();
        let batch = batch_of(Vec::new(), self.state.take_writes(true), now);
        self.store.commit(&batch).await?;
        self.store.close().await?;
        Ok(())
    }
}

/// The failpoints between the core and the commit: one for every batch, and those of what only some
/// batches hold, which their records tell.
fn hit_decided(batch: &Batch) -> Result<(), Injected> {
    if !is_armed() {
        return Ok(());
    }
    hit(Point::BatchDecided)?;
    let records = batch.audit.as_ref().map_or("", |audit| &audit.records);
    let special = [
        (r#""type":"attempt_ended""#, Point::Settle),
        (r#""type":"watcher_live""#, Point::GoLive),
        (r#""type":"plugin_up""#, Point::Registration),
        (r#""type":"loop_stopped""#, Point::LoopStop),
    ];
    special.into_iter().filter(|(kind, _)| records.contains(kind)).try_for_each(|(_, at)| hit(at))
}

/// The row of the job of which something is asked.
fn row_asked_about(event: &mut Event) -> Option<&mut JobRow> {
    match event {
        Event::Redrive { row, .. }
        | Event::Discard { row, .. }
        | Event::Cancel { row, .. }
        | Event::PauseJob { row, .. }
        | Event::ResumeJob { row, .. } => Some(row),
        _ => None,
    }
}

/// Leaves the jobs where they are that the batch has a word on or makes parts of, and those above them, as far as
/// they were read; and the claims of the former, which may be needed again. Another run of retention finds them.
fn spare(removal: &mut Removal, events: &mut [Step]) {
    let (mut jobs, mut claims) = (HashSet::new(), HashSet::new());
    for step in events {
        let Step::Event(event) = step else { continue };
        if let Some(row) = row_asked_about(event) {
            jobs.insert(row.number);
            claims.extend(row.seq);
        }
        let above = match event {
            Event::Enqueue { asked, .. } => asked.parent.as_ref().map(|parent| &parent.above),
            Event::Redrive { above, .. } => Some(&*above),
            _ => None,
        };
        jobs.extend(above.into_iter().flatten().map(|above| above.number));
    }
    removal.jobs.retain(|(number, ..)| !jobs.contains(number));
    removal.claims.retain(|claim| !claims.contains(&claim.seq));
}

/// Reads the rows of jobs of which something is asked, and of those above them: whoever asked may have
/// read them before something else became of them.
async fn read_jobs(reader: &dyn Store, events: &mut [Step]) -> Result<(), StoreError> {
    // Many children of one parent come together.
    let mut lineages: HashMap<JobId, Vec<JobAbove>> = HashMap::new();
    // Where in the batch a job is asked for first.
    let mut firsts: HashMap<JobId, usize> = HashMap::new();
    for at in 0..events.len() {
        let (before, rest) = events.split_at_mut(at);
        let step = rest.first_mut().expect("it is one of them");
        let Step::Event(event) = step else { continue };
        if let Some(row) = row_asked_about(event)
            && let Some(present) = reader.job_to_change(row.id).await?
        {
            *row = present;
        }
        match event {
            Event::Redrive { row, above, .. } if row.asked.is_some() => {
                *above = above_of(reader, row).await?;
            }
            Event::Enqueue { request, asked } => {
                let first = firsts.get(&asked.id).map(|first| &before[*first]);
                if let Some(Step::Event(Event::Enqueue { request: first, asked: other })) = first {
                    *step = once_more(*request, asked, *first, other);
                    continue;
                }
                if let Some(answer) = standing(reader, asked).await? {
                    *step = Step::Answered(*request, Answer::Enqueued(answer));
                    continue;
                }
                firsts.insert(asked.id, at);
                if let Some(parent) = &mut asked.parent {
                    let above = match lineages.entry(parent.id) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => new.insert(lineage(reader, parent.id).await?),
                    };
                    parent.above.clone_from(above);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// What becomes of a job that is asked for under the id of another one of this batch: it is the same one, or it is
/// refused.
fn once_more(request: RequestId, asked: &EnqueueAsk, first: RequestId, other: &EnqueueAsk) -> Step {
    match difference(asked, other) {
        None => Step::Again { request, first },
        Some(what) => Step::Answered(request, Answer::Enqueued(Err(id_taken(asked.id, what)))),
    }
}

/// What becomes of a job that is asked for under an id that one has: it is the same one, because the answer did
/// not arrive, or it is refused. `None` when no job has the id.
async fn standing(
    reader: &dyn Store,
    asked: &EnqueueAsk,
) -> Result<Option<Result<Enqueued, Refusal>>, StoreError> {
    let Some(row) = reader.job_to_change(asked.id).await? else { return Ok(None) };
    let differs = match difference_from_row(asked, &row) {
        None => {
            let payload = reader.payload(row.number).await?.unwrap_or_default();
            (payload != asked.payload).then_some("payload")
        }
        differs => differs,
    };
    Ok(Some(match differs {
        None => Ok(Enqueued::Standing { number: row.number, id: row.id }),
        Some(what) => Err(id_taken(row.id, what)),
    }))
}

/// What of a job is other than of one that was asked for, its payload aside.
fn difference_from_row(asked: &EnqueueAsk, row: &JobRow) -> Option<&'static str> {
    let Some(made) = row.asked.as_deref().filter(|made| made.schedule.is_none()) else {
        return Some("cause");
    };
    let is_handler = HandlerName::parse_qualified(&asked.handler).is_ok_and(|(plugin, bare)| {
        bare.as_str() == row.bare_handler() && (plugin.is_none() || plugin == row.plugin)
    });
    let parent = asked.parent.as_ref().map(|parent| parent.id);
    let parts = [
        ("asker", made.by == asked.by),
        ("handler", is_handler),
        ("source", *made.source == *asked.source),
        ("priority", i32::from(made.priority) == asked.priority),
        ("parent", made.parent.map(|parent| parent.id) == parent),
        ("cost_estimate", made.cost_estimate == estimate_of(asked)),
    ];
    parts.into_iter().find_map(|(what, is_same)| (!is_same).then_some(what))
}

/// What of two jobs is not the same that were asked for under one id.
fn difference(asked: &EnqueueAsk, other: &EnqueueAsk) -> Option<&'static str> {
    let parent = |asked: &EnqueueAsk| asked.parent.as_ref().map(|parent| parent.id);
    let parts = [
        ("asker", asked.by == other.by),
        ("handler", asked.handler == other.handler),
        ("source", asked.source == other.source),
        ("priority", asked.priority == other.priority),
        ("parent", parent(asked) == parent(other)),
        ("cost_estimate", estimate_of(asked) == estimate_of(other)),
        ("payload", asked.payload == other.payload),
    ];
    parts.into_iter().find_map(|(what, is_same)| (!is_same).then_some(what))
}

/// The estimate that a job has which is asked for so.
fn estimate_of(asked: &EnqueueAsk) -> Option<f64> {
    asked.cost_estimate.filter(|cost| cost.is_finite() && *cost > 0.0)
}

fn id_taken(id: JobId, what: &str) -> Refusal {
    let reason = format!(
        "id: job {id} was made under it, and its {what} is another; what is another job needs an id of its own"
    );
    Refusal { kind: RefusalKind::Conflict, reason, mistakes: None }
}

/// The answer to who asks once more for what an earlier request of the batch was answered.
fn again(effects: &[Effect], request: RequestId, first: RequestId) -> Option<Effect> {
    let answer = effects.iter().rev().find_map(|effect| match effect {
        Effect::Reply { request, answer: Answer::Enqueued(answer) } if *request == first => {
            Some(answer.clone())
        }
        _ => None,
    })?;
    let answer = answer.map(|enqueued| match enqueued {
        Enqueued::New(row) => Enqueued::Standing { number: row.number, id: row.id },
        standing @ Enqueued::Standing { .. } => standing,
    });
    Some(Effect::Reply { request, answer: Answer::Enqueued(answer) })
}

/// A job and those above it, the nearest first; nothing when there is no such job.
async fn lineage(reader: &dyn Store, id: JobId) -> Result<Vec<JobAbove>, StoreError> {
    let Some(row) = reader.job_to_change(id).await? else { return Ok(Vec::new()) };
    let mut lineage = vec![JobAbove::of(&row)];
    lineage.extend(above_of(reader, &row).await?);
    Ok(lineage)
}

async fn above_of(reader: &dyn Store, row: &JobRow) -> Result<Vec<JobAbove>, StoreError> {
    let is_part = row.asked.as_ref().is_some_and(|asked| asked.parent.is_some());
    if !is_part {
        return Ok(Vec::new());
    }
    Ok(reader.above(row.number).await?.iter().map(JobAbove::of).collect())
}

/// Reads the claims that passes come to next. `known` are the aliases in force there, if they are known;
/// with the event come those that are in force where it ends.
async fn read_pass(
    reader: &dyn Store,
    next: NextSegment,
    known: Option<Arc<Aliases>>,
) -> Result<(Event, (Seq, Arc<Aliases>)), StoreError> {
    let rows = reader.read_after(next.after, PASS_CLAIMS).await?;
    hit(Point::SegmentRead)?;
    let aliases = match known {
        Some(aliases) => aliases,
        None => Arc::new(aliases_before(reader, next.after.next()).await?),
    };
    let upto = rows.last().map_or(next.upto, |last| last.seq.min(next.upto));
    let mut then = aliases.clone();
    for change in rows.iter().filter(|row| row.seq <= upto).filter_map(AliasChange::of) {
        Arc::make_mut(&mut then).apply(&change);
    }
    let rows = rows.into_iter().map(Arc::new).collect();
    Ok((Event::Segment { after: next.after, upto, rows, aliases }, (upto, then)))
}

/// Takes out the appends that are to stand whole and of which one claim would be refused, and answers
/// them.
fn refuse_together(
    events: Vec<Step>,
    incoming: Vec<Incoming>,
    known: Vec<Option<Known>>,
) -> (Vec<Step>, Vec<Incoming>, Vec<Option<Known>>) {
    let is_whole = |step: &Step| matches!(step, Step::Append { whole: Whole::Yes, .. });
    if !events.iter().any(is_whole) {
        return (events, incoming, known);
    }
    // The first claim under each id, of those that stand so far.
    let mut standing: HashMap<&str, usize> = HashMap::new();
    let mut refused: Vec<Range<usize>> = Vec::new();
    let mut kept = Vec::new();
    for step in events {
        let Step::Append { claims, whole, reply } = step else {
            kept.push(step);
            continue;
        };
        let before = standing.clone();
        let conflict = claims.clone().find_map(|i| {
            let first = *standing.entry(incoming[i].attestation.id.as_str()).or_insert(i);
            conflict_of(&incoming[i], known[i].as_ref(), &incoming[first])
                .map(|conflict| (i, conflict))
        });
        match conflict {
            Some((at, conflict)) if whole == Whole::Yes => {
                standing = before;
                let index = at - claims.start;
                let answer = |i: usize| match i == at {
                    true => Err(conflict.clone()),
                    false => Err(AppendRefusal::Together { index }),
                };
                reply.send(claims.clone().map(answer).collect());
                refused.push(claims);
            }
            _ => kept.push(Step::Append { claims, whole, reply }),
        }
    }
    let stands = |i: &usize| !refused.iter().any(|claims| claims.contains(i));
    let keep: Vec<bool> = (0..incoming.len()).map(|i| stands(&i)).collect();
    (kept, keep_those(incoming, &keep), keep_those(known, &keep))
}

fn keep_those<T>(all: Vec<T>, keep: &[bool]) -> Vec<T> {
    all.into_iter().zip(keep).filter_map(|(one, keep)| keep.then_some(one)).collect()
}

/// Why a claim would be refused: the log, or an earlier claim of this batch, has its id with other
/// content.
fn conflict_of(claim: &Incoming, known: Option<&Known>, first: &Incoming) -> Option<AppendRefusal> {
    let (same, seq) = match known {
        Some(known) => (known.is_said_by(claim), known.seq()),
        None => {
            let Incoming { attestation, filled, .. } = first;
            (claim.attestation.same_content(claim.filled, attestation, *filled), Seq(0))
        }
    };
    (!same).then(|| AppendConflict { id: claim.attestation.id.clone(), seq }.into())
}

fn acknowledge(appends: Vec<PlannedAppend>, fires: &BTreeMap<Seq, u32>) {
    for (index, PlannedAppend { outcomes, reply }) in appends.into_iter().enumerate() {
        if index > 0 {
            pass(Point::AcksHalf);
        }
        let acks = outcomes.into_iter().map(|outcome| {
            let Appended { seq, repeated } = outcome?;
            let fires = match fires.get(&seq) {
                Some(count) if !repeated => Fires::Now(*count),
                None if !repeated => Fires::Deferred,
                _ => Fires::Now(0),
            };
            Ok(Acked { seq, repeated, fires })
        });
        reply.send(acks.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_core::ParentAsk;
    use axwatch_model::{Asker, JobOrigin, Timestamp};

    #[test]
    fn retention_spares_what_the_batch_has_a_word_on_and_nothing_else() {
        let id = |n: u64| JobId([n as u8; 16]);
        let row = |n: u64| {
            let at = Timestamp::default();
            let queued = JobRow::queued(JobNumber(n), id(n), JobOrigin::Api, "zoo/h".into(), at);
            JobRow { seq: Some(Seq(n)), ..queued }
        };
        let above = vec![JobAbove::of(&row(1)), JobAbove::of(&row(2))];
        let asked = EnqueueAsk {
            id: id(9),
            by: Asker::User,
            handler: "zoo/h".into(),
            payload: [].as_slice().into(),
            source: String::new(),
            priority: 0,
            parent: Some(ParentAsk { id: id(1), above }),
            cost_estimate: None,
        };
        let request = RequestId(1);
        let again =
            Event::Redrive { request, row: Box::new(row(3)), above: vec![JobAbove::of(&row(4))] };
        let cancel = Event::Cancel { request, row: Box::new(row(5)), by: Asker::User };
        let enqueue = Event::Enqueue { request, asked: Box::new(asked) };
        let events = [enqueue, again, cancel, Event::Tick];
        let mut events: Vec<Step> = events.into_iter().map(Step::Event).collect();
        let jobs = (1..=8).map(|n| (JobNumber(n), id(n), Some(Seq(n)))).collect();
        let mut removal = Removal { jobs, ..Removal::default() };
        spare(&mut removal, &mut events);
        let left: Vec<_> = removal.jobs.iter().map(|(number, ..)| number.0).collect();
        assert_eq!(left, [6, 7, 8]);
    }
}
