//! Carrying attempts out: from a started attempt that is on the disk to how it ended.
//!
//! In: [`Start`]s that the writer lets out after their commit, and word of those that are to stop or that have got
//! further. Out: one [`Event::AttemptEnded`] for each, back into the writer's inbox. Nothing here survives a crash, and
//! nothing needs to: a start without an end is what recovery looks for.
//!
//! Not here: when an attempt may start and what follows from its end (`axwatch_core`), what the wire
//! looks like (`crate::plugin::wire`).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axwatch_ats::Store;
use axwatch_core::{Ended, Event, Outcome, Start};
use axwatch_failpoints::{Point, hit};
use axwatch_model::{Clock, JobId, JobNumber, Mono, PluginName, Seq, WatcherNumber};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::handle::Message;

/// What is said of an attempt that was told to stop.
const STOPPED: &str = "the attempt was stopped";

/// An attempt that tells how it gets on may take up to so many times as long as one that does not.
pub const EXTENDED_MAX: u32 = 4;

/// One attempt with everything that the plugin gets.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What the core said.
    pub start: Start,
    /// The payload.
    pub payload: Bytes,
    /// How it gets on.
    pub moves: Moves,
}

/// Hears each time that an attempt under way tells that it got further.
#[derive(Debug, Clone)]
pub struct Moves(watch::Receiver<()>);

impl Moves {
    /// Of an attempt that never tells anything.
    #[cfg(test)]
    pub(crate) fn none() -> Moves {
        Moves(watch::channel(()).1)
    }

    /// Answers when it got further.
    #[cfg(test)]
    pub(crate) async fn next(&mut self) {
        self.0.changed().await.expect("the attempt is under way");
    }

    /// Of an attempt, and what tells of it.
    pub(crate) fn told() -> (watch::Sender<()>, Moves) {
        let (tell, moves) = watch::channel(());
        (tell, Moves(moves))
    }

    /// Answers when the time of an attempt that begins now is up: it lasts so long from its beginning, and again
    /// from each time that it gets further, and [`EXTENDED_MAX`] times as long in all. Says why.
    pub(crate) async fn time_is_up(mut self, patience: Duration) -> Overdue {
        let (began, most) = (Instant::now(), patience.saturating_mul(EXTENDED_MAX));
        let mut overdue = Overdue::Silent(patience);
        loop {
            let left = most.saturating_sub(began.elapsed());
            if left < patience {
                overdue = Overdue::Extended(most);
            }
            tokio::select! {
                () = tokio::time::sleep(patience.min(left)) => return overdue,
                // Whoever tells of it goes away with the attempt.
                Ok(()) = self.0.changed() => overdue = Overdue::Stuck(patience),
            }
        }
    }
}

/// Why the time of an attempt is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// It has told nothing in all of it.
    Silent(Duration),
    /// It has not got further for so long.
    Stuck(Duration),
    /// It has had all the time that there is for one.
    Extended(Duration),
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Overdue::Silent(time) => write!(f, "no answer within {} s", time.as_secs_f64()),
            Overdue::Stuck(time) => {
                write!(f, "no answer within {} s of its last progress", time.as_secs_f64())
            }
            Overdue::Extended(time) => {
                write!(f, "no answer within {} s, however far it got", time.as_secs_f64())
            }
        }
    }
}

/// Somewhere a job can be carried out: the engine's only way to act on the world.
pub trait Plugin: Send + Sync {
    /// Carries an attempt out and says how it ended; keeps the deadline itself.
    fn run<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Ended>;
}

/// A closure in this process: every test that needs a plugin.
pub struct LocalPlugin<F>(pub F);

impl<F: Fn(&Attempt) -> Ended + Send + Sync> Plugin for LocalPlugin<F> {
    fn run<'a>(&'a self, attempt: &'a Attempt) -> BoxFuture<'a, Ended> {
        let ended = (self.0)(attempt);
        Box::pin(async move { ended })
    }
}

/// The present process of each plugin, and how jobs reach it.
type Processes = BTreeMap<PluginName, (u64, Arc<dyn Plugin>)>;

/// How jobs reach each plugin's present process.
#[derive(Default)]
pub(crate) struct Transports(Mutex<Processes>);

impl Transports {
    pub(crate) fn attach(&self, plugin: PluginName, incarnation: u64, transport: Arc<dyn Plugin>) {
        self.lock().insert(plugin, (incarnation, transport));
    }

    pub(crate) fn detach(&self, plugin: &PluginName, incarnation: u64) {
        let mut transports = self.lock();
        if transports.get(plugin).is_some_and(|(current, _)| *current == incarnation) {
            transports.remove(plugin);
        }
    }

    fn of(&self, plugin: &PluginName, incarnation: u64) -> Option<Arc<dyn Plugin>> {
        let transports = self.lock();
        let (current, transport) = transports.get(plugin)?;
        (*current == incarnation).then(|| transport.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Processes> {
        self.0.lock().expect("no holder of the transports panics")
    }
}

/// An attempt under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// The job's number.
    pub job: JobNumber,
    /// The job's id.
    pub id: JobId,
    /// Which attempt.
    pub attempt: u32,
    /// Which plugin has it.
    pub plugin: PluginName,
    /// Which of its processes.
    pub incarnation: u64,
    /// The claim that it is about.
    pub seq: Option<Seq>,
    /// The watcher that fired.
    pub watcher: Option<WatcherNumber>,
}

/// Ended attempts whose claims are still counted, so that what a cancelled call makes late gets the
/// ids that it would have got in time.
const ENDED_ATTEMPTS_KEPT: usize = 1_024;

/// The attempts under way, by job, and how often each made which claim: what the lineage of a claim
/// and its computed id are made from.
#[derive(Default)]
pub struct InFlight {
    state: Mutex<InFlightState>,
    /// An attempt has ended, and the writer has been told of it.
    ended: Notify,
}

#[derive(Default)]
struct InFlightState {
    running: BTreeMap<JobId, Running>,
    ordinals: HashMap<(JobId, u32), HashMap<[u8; 32], u32>>,
    ended: VecDeque<(JobId, u32)>,
}

impl InFlight {
    /// The attempt under way for this job.
    #[must_use]
    pub fn of_job(&self, id: JobId) -> Option<Running> {
        self.lock().running.get(&id).cloned()
    }

    /// The attempts under way at this process.
    #[must_use]
    pub fn of_plugin(&self, plugin: &PluginName, incarnation: u64) -> Vec<Running> {
        let mine = |r: &&Running| r.plugin == *plugin && r.incarnation == incarnation;
        self.lock().running.values().filter(mine).cloned().collect()
    }

    /// Waits until nothing is under way, and the writer has been told of every end.
    pub(crate) async fn emptied(&self) {
        loop {
            // Before the look, or an end between the two would go unnoticed.
            let ended = self.ended.notified();
            if self.is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lock().running.is_empty()
    }

    /// Counts a claim of an attempt: 0 for the first with this content, 1 for the second, ….
    #[must_use]
    pub fn next_ordinal(&self, id: JobId, attempt: u32, content: [u8; 32]) -> u32 {
        let mut state = self.lock();
        let known = state.ordinals.contains_key(&(id, attempt));
        let running = state.running.get(&id).is_some_and(|r| r.attempt == attempt);
        let next = state.ordinals.entry((id, attempt)).or_default().entry(content).or_insert(0);
        let ordinal = *next;
        *next += 1;
        if !known && !running {
            state.forget_later((id, attempt));
        }
        ordinal
    }

    /// Takes the last count of a claim back, because it was not appended: the same claim again is then
    /// the same claim.
    pub(crate) fn give_back(&self, id: JobId, attempt: u32, content: [u8; 32]) {
        let mut state = self.lock();
        let counted = state.ordinals.get_mut(&(id, attempt)).and_then(|of| of.get_mut(&content));
        if let Some(count) = counted {
            *count = count.saturating_sub(1);
        }
    }

    fn begin(&self, start: &Start) {
        let running = Running {
            job: start.job,
            id: start.id,
            attempt: start.attempt,
            plugin: start.plugin.clone(),
            incarnation: start.incarnation,
            seq: start.seq,
            watcher: start.watcher_number,
        };
        self.lock().running.insert(start.id, running);
    }

    fn end(&self, start: &Start) {
        let mut state = self.lock();
        if state.running.get(&start.id).is_some_and(|r| r.attempt == start.attempt) {
            state.running.remove(&start.id);
        }
        if state.ordinals.contains_key(&(start.id, start.attempt)) {
            state.forget_later((start.id, start.attempt));
        }
        drop(state);
        self.ended.notify_waiters();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, InFlightState> {
        self.state.lock().expect("no holder of the attempts under way panics")
    }
}

impl InFlightState {
    fn forget_later(&mut self, attempt: (JobId, u32)) {
        self.ended.push_back(attempt);
        if self.ended.len() > ENDED_ATTEMPTS_KEPT
            && let Some(oldest) = self.ended.pop_front()
        {
            self.ordinals.remove(&oldest);
        }
    }
}

/// Bytes of payloads kept so that an attempt that starts soon after its claim reads no disk.
const PAYLOAD_CACHE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The payloads of the latest claims that fired.
#[derive(Default)]
struct Payloads {
    by_seq: BTreeMap<Seq, Bytes>,
    bytes: usize,
}

impl Payloads {
    fn insert(&mut self, seq: Seq, payload: Bytes) {
        self.bytes += payload.len();
        if let Some(before) = self.by_seq.insert(seq, payload) {
            self.bytes -= before.len();
        }
        while self.bytes > PAYLOAD_CACHE_BYTES_MAX {
            let Some((_, oldest)) = self.by_seq.pop_first() else { break };
            self.bytes -= oldest.len();
        }
    }
}

/// How each attempt under way is told something.
#[derive(Default)]
struct Reins(Mutex<HashMap<(JobNumber, u32), Rein>>);

struct Rein {
    stop: oneshot::Sender<()>,
    moved: watch::Sender<()>,
}

impl Reins {
    /// An attempt begins; what comes back hears of it when it is to stop, and when it got further.
    fn begin(&self, start: &Start) -> (oneshot::Receiver<()>, Moves) {
        let (stop, told) = oneshot::channel();
        let (moved, moves) = Moves::told();
        self.lock().insert((start.job, start.attempt), Rein { stop, moved });
        (told, moves)
    }

    fn moved(&self, job: JobNumber, attempt: u32) {
        if let Some(rein) = self.lock().get(&(job, attempt)) {
            rein.moved.send_replace(());
        }
    }

    fn end(&self, start: &Start) {
        self.lock().remove(&(start.job, start.attempt));
    }

    fn stop(&self, job: JobNumber, attempt: u32) {
        if let Some(rein) = self.lock().remove(&(job, attempt)) {
            // One that is just at its end needs no telling.
            let _ = rein.stop.send(());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(JobNumber, u32), Rein>> {
        self.0.lock().expect("no holder of the reins panics")
    }
}

/// Carries out the attempts that the writer lets out.
pub(crate) struct Dispatcher {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    transports: Arc<Transports>,
    in_flight: Arc<InFlight>,
    /// Weak, so that the inbox ends with the last handle on the engine.
    inbox: mpsc::WeakSender<Message>,
    payloads: Arc<Mutex<Payloads>>,
    reins: Arc<Reins>,
    /// Where its tasks run: not on the writer's thread, which tells it of them.
    runtime: Handle,
}

impl Dispatcher {
    /// Its tasks run where this is called.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        transports: Arc<Transports>,
        in_flight: Arc<InFlight>,
        inbox: mpsc::WeakSender<Message>,
    ) -> Dispatcher {
        let (payloads, reins) = (Arc::default(), Arc::default());
        let runtime = Handle::current();
        Dispatcher { store, clock, transports, in_flight, inbox, payloads, reins, runtime }
    }

    /// Runs what is not the writer's own beside it.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Gives an attempt up that was started. Its call is dropped, and that is its end.
    pub(crate) fn stop(&self, job: JobNumber, attempt: u32) {
        self.reins.stop(job, attempt);
    }

    /// An attempt got further, as it says.
    pub(crate) fn moved(&self, job: JobNumber, attempt: u32) {
        self.reins.moved(job, attempt);
    }

    /// Keeps the payload of a claim that fired.
    pub(crate) fn keep_payload(&self, seq: Seq, bytes: Bytes) {
        self.payloads.lock().expect("no holder of the payloads panics").insert(seq, bytes);
    }

    /// Carries an attempt out, in a task of its own; not before `leaves_at`, where its watcher's limit
    /// asks for that.
    pub(crate) fn start(&self, start: Start, leaves_at: Option<Mono>) {
        self.in_flight.begin(&start);
        let (store, inbox, in_flight) =
            (self.store.clone(), self.inbox.clone(), self.in_flight.clone());
        let transport = self.transports.of(&start.plugin, start.incarnation);
        let cached = start.seq.and_then(|seq| {
            self.payloads
                .lock()
                .expect("no holder of the payloads panics")
                .by_seq
                .get(&seq)
                .cloned()
        });
        let (clock, reins) = (self.clock.clone(), self.reins.clone());
        let (told_to_stop, moves) = reins.begin(&start);
        self.spawn(async move {
            let carried = async {
                if let Some(leaves_at) = leaves_at {
                    tokio::time::sleep(leaves_at.since(clock.now().mono)).await;
                }
                carry_out(&*store, &start, transport, cached, moves).await
            };
            let ended = tokio::select! {
                ended = AssertUnwindSafe(carried).catch_unwind() => ended,
                Ok(()) = told_to_stop => Ok(lost(STOPPED)),
            };
            // A mistake of ours costs this attempt and no more: without an end it would never be over.
            let ended = ended.unwrap_or_else(|_| {
                tracing::error!(job = %start.id, plugin = %start.plugin, "carrying an attempt out panicked");
                lost("the engine panicked while it carried this attempt out")
            });
            reins.end(&start);
            let (job, attempt, incarnation) = (start.job, start.attempt, start.incarnation);
            if let Some(inbox) = inbox.upgrade() {
                let ended = Event::AttemptEnded { job, attempt, incarnation, ended };
                // A writer that is gone has left the attempt to the next start's recovery.
                let _ = inbox.send(Message::Event(ended)).await;
            }
            in_flight.end(&start);
        });
    }
}

async fn carry_out(
    store: &dyn Store,
    start: &Start,
    transport: Option<Arc<dyn Plugin>>,
    cached: Option<Bytes>,
    moves: Moves,
) -> Ended {
    let Some(transport) = transport else {
        return lost(&format!("plugin {} is away", start.plugin));
    };
    let payload = match payload(store, start, cached).await {
        Ok(payload) => payload,
        // The plugin was never asked, so that this is no attempt of its.
        Err(error) => {
            return Ended::bare(Outcome::NotNow { after: None, error, overloaded: false });
        }
    };
    let ended = transport.run(&Attempt { start: start.clone(), payload, moves }).await;
    match hit(Point::ResponseRead) {
        Ok(()) => ended,
        Err(injected) => lost(&injected.to_string()),
    }
}

fn lost(error: &str) -> Ended {
    Ended::bare(Outcome::Lost { error: error.to_owned() })
}

async fn payload(store: &dyn Store, start: &Start, cached: Option<Bytes>) -> Result<Bytes, String> {
    if let Some(given) = &start.payload {
        return Ok(Bytes::copy_from_slice(given));
    }
    if let Some(cached) = cached {
        return Ok(cached);
    }
    let Some(seq) = start.seq else {
        let given = store.payload(start.job).await;
        let given =
            given.map_err(|error| format!("cannot read the payload of the job: {error}"))?;
        return Ok(given.map(Bytes::from_owner).unwrap_or_default());
    };
    let found =
        store.by_seqs(&[seq]).await.map_err(|error| format!("cannot read claim {seq}: {error}"))?;
    match found.first() {
        Some(stored) => Ok(stored.attestation.payload().into()),
        None => Err(format!("claim {seq} is not in the log")),
    }
}
