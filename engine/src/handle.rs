//! The handle on the engine: what surfaces and plugin hosts ask of the writer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axwatch_ats::since::{InvalidPlace, first_seq};
use axwatch_ats::{AliasBook, AppendConflict, RetentionPlace, Store, StoreError};
use axwatch_core::{
    BudgetChange, BudgetView, Declaration, EnqueueAsk, Enqueued, Event, MatchingView, Overview,
    PluginTransition, Progressed, Pulse, Reading, Refusal, Registered, Registration, Report,
    ScheduleAsk, ScheduleCommand, ScheduleView, Since, State, Verdicts, Waiting, WatcherCommand,
    WatcherView,
};
use axwatch_failpoints::{Point, pass};
use axwatch_model::{
    Asker, BudgetRow, BudgetScope, Clock, Defaults, Draft, HandlerName, Incoming, InvalidDraft,
    JobId, JobNumber, JobRow, JobState, LaneKey, LeafNumber, Now, Owner, PluginName, PluginRow,
    RouteRow, ScheduleId, ScheduleRow, Seq, StoredHandler, Timestamp, WatcherKey, WatcherNumber,
    WatcherRow,
};
use axwatch_query::{AliasChange, Aliases};
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};

use crate::dispatch::{InFlight, Plugin, Transports};

/// How far the store has come: what a reader that follows waits for. A change says "look again".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heads {
    /// The last attestation.
    pub seq: Seq,
    /// How far the log has been matched.
    pub matched: Seq,
    /// The last job.
    pub job: JobNumber,
    /// Records in the audit.
    pub audit: LeafNumber,
    /// Commits since the start.
    pub commits: u64,
}

/// An append that is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acked {
    /// Its number.
    pub seq: Seq,
    /// It had been there before.
    pub repeated: bool,
    /// What it caused.
    pub fires: Fires,
}

/// What an append caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fires {
    /// It was matched in the same commit, and caused this many jobs. A repeat causes none.
    Now(u32),
    /// It will be matched when matching, which is behind, reaches it.
    Deferred,
}

/// Why an append was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AppendRefusal {
    /// The id stands in the log with other content.
    #[error(transparent)]
    Conflict(#[from] AppendConflict),
    /// The disk is nearly full.
    #[error(
        "resource_exhausted: the disk of the store is nearly full: {free_bytes} bytes are free and {needed_bytes} must be; make room, and the append will be taken again"
    )]
    DiskLow {
        /// What is free.
        free_bytes: u64,
        /// What must be.
        needed_bytes: u64,
    },
    /// Its batch was to be appended whole or not at all, and another claim of it was refused.
    #[error("not appended, because claim {index} of its batch was refused")]
    Together {
        /// Which one was refused, from 0.
        index: usize,
    },
    /// More is being appended than the writer takes, and this waited its time.
    #[error(
        "resource_exhausted: more is being appended than can be written; try again in a second"
    )]
    Overloaded,
}

/// The engine has stopped, or is about to: nothing was acknowledged, and whether the request took
/// effect is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine has stopped; whether this took effect is unknown, so ask again once it runs")]
pub struct EngineGone;

/// A job at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    /// Its row.
    pub row: JobRow,
    /// What it waits for; `None` when it does not wait.
    pub waiting: Option<Waiting>,
    /// The figures of its handler; `None` of one that nobody has.
    pub pulse: Option<Pulse>,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The request's own fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk is nearly full.
    #[error("{0}")]
    Exhausted(AppendRefusal),
    /// Nobody was there to do it.
    #[error(transparent)]
    Gone(#[from] EngineGone),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A plugin's process that is ready for jobs.
pub struct PluginReady {
    /// Its configured name.
    pub plugin: PluginName,
    /// Which process, from [`Engine::next_incarnation`].
    pub incarnation: u64,
    /// What its Metadata said.
    pub version: String,
    /// How many attempts it may ever have in flight.
    pub max_in_flight: u32,
    /// What it announced.
    pub registration: Registration,
    /// How jobs reach it.
    pub transport: Arc<dyn Plugin>,
}

/// Whether claims stand or fall together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    Yes,
    No,
}

/// A look at the core's state, which tells whoever asked what it saw.
pub(crate) type Look = Box<dyn FnOnce(&State, Now) + Send>;

/// What a request comes to.
pub(crate) type Answered = Result<axwatch_core::Answer, RequestError>;

/// What the writer is asked.
pub(crate) enum Message {
    Append {
        incoming: Vec<Incoming>,
        whole: Whole,
        reply: AppendReply,
    },
    Request {
        request: Request,
        reply: oneshot::Sender<Answered>,
    },
    Event(Event),
    /// Answered when nothing starts any more and all that started before is in flight.
    Drain {
        reply: oneshot::Sender<()>,
    },
    /// Taken between two batches.
    Look(Look),
    Retain(Retain),
    Stop,
}

/// What became of the claims of an append, in their order.
pub(crate) type Acks = Vec<Result<Acked, AppendRefusal>>;

/// Whoever waits for an append, and its room in the intake: held until it is answered, as what is being written
/// is in memory too, whether or not somebody still waits.
pub(crate) struct AppendReply {
    acks: oneshot::Sender<Acks>,
    _room: OwnedSemaphorePermit,
}

impl AppendReply {
    pub(crate) fn send(self, acks: Acks) {
        // Who asked may have gone away.
        let _ = self.acks.send(acks);
    }
}

/// Retention that is under way, slice by slice.
pub(crate) struct Retain {
    pub(crate) before: Timestamp,
    /// Nothing is taken away: it is only counted.
    pub(crate) dry_run: bool,
    pub(crate) from: RetentionPlace,
    pub(crate) retained: Retained,
    pub(crate) reply: oneshot::Sender<Result<Retained, RequestError>>,
}

/// What retention took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retained {
    /// Claims.
    pub claims: u64,
    /// Jobs.
    pub jobs: u64,
}

/// A request that the core answers.
pub(crate) enum Request {
    PluginUp {
        plugin: PluginName,
        incarnation: u64,
        version: String,
        max_in_flight: u32,
        registration: Registration,
    },
    Announced {
        plugin: PluginName,
        incarnation: u64,
        registration: Registration,
    },
    Declare(Declaration),
    Command(WatcherKey, WatcherCommand),
    PluginDisabled {
        plugin: PluginName,
        by: String,
    },
    PluginEnabled {
        plugin: PluginName,
        by: String,
    },
    /// With its room in the intake, until it is part of a batch.
    Enqueue {
        asked: Box<EnqueueAsk>,
        _room: OwnedSemaphorePermit,
    },
    Redrive(Box<JobRow>),
    Discard(Box<JobRow>),
    Cancel(Box<JobRow>, Asker),
    PauseJob(Box<JobRow>, Asker),
    ResumeJob(Box<JobRow>, Asker),
    CreateSchedule(Box<ScheduleAsk>),
    CommandSchedule(ScheduleId, ScheduleCommand, Asker),
    SetBudget(BudgetScope, BudgetChange, String),
    Report(Box<Report>),
}

impl Request {
    /// Whether it ends or stops something, for which there is room though the disk is nearly full: that may be
    /// what gets it out of there.
    pub(crate) fn lets_rest(&self) -> bool {
        match self {
            Request::Discard(..) | Request::Cancel(..) | Request::PauseJob(..) => true,
            // Its attempt may run, and has spent what it says.
            Request::Report(..) => true,
            Request::CommandSchedule(_, command, _) => {
                matches!(command, ScheduleCommand::Pause | ScheduleCommand::Delete)
            }
            _ => false,
        }
    }

    /// Whether it makes or changes a watcher of a person: of those there may be thousands, and each waits only for
    /// those before it.
    pub(crate) fn is_registration(&self) -> bool {
        matches!(self, Request::Declare(_) | Request::Command(..))
    }

    /// About how many bytes of it are on their way to the disk, where these may be many.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Request::Enqueue { asked, .. } => asked.payload.len() + asked.source.len(),
            Request::CreateSchedule(asked) => {
                asked.payload.as_ref().map_or(0, |payload| payload.len())
            }
            _ => 0,
        }
    }
}

/// Bytes of claims, and of what jobs carry, that may wait for the writer or be written, over all callers.
const INTAKE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Appends that may wait for the writer or be written, over all callers.
const INTAKE_REQUESTS_MAX: usize = 1_024;
/// What the bound on the intake is counted in: a claim never counts less.
const INTAKE_UNIT_BYTES: usize = 1024;
/// How long an append waits for room in the intake.
pub(crate) const INTAKE_PATIENCE: Duration = Duration::from_secs(10);

/// The room of the intake.
pub(crate) fn intake() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(INTAKE_BYTES_MAX / INTAKE_UNIT_BYTES))
}

/// The rows of plugins as they are on the disk: the writer changes them with each commit.
pub(crate) type PluginRows = Arc<Mutex<BTreeMap<PluginName, PluginRow>>>;

/// The handle on a running engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inbox: mpsc::Sender<Message>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) heads: watch::Receiver<Heads>,
    pub(crate) transports: Arc<Transports>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) incarnations: Arc<Mutex<BTreeMap<PluginName, u64>>>,
    pub(crate) plugin_rows: PluginRows,
    pub(crate) intake: Arc<Semaphore>,
    pub(crate) aliases: Arc<AliasBook>,
    pub(crate) progressed: broadcast::Sender<Arc<Progressed>>,
}

/// Open jobs that are looked at for the oldest that waits, as some of them may run or be paused.
const OLDEST_LOOKED_AT: usize = 1_000;

/// Numbers of watchers of which the writer tells at once: about a millisecond, in which it does nothing else.
const WATCHERS_AT_ONCE: u64 = 1_000;

/// Reports of attempts that whoever follows them may fall behind by.
pub(crate) const PROGRESSED_MAX: usize = 1_024;

impl Engine {
    /// The reading side of the store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// A head of the log, and the aliases that the claims up to it left.
    ///
    /// # Errors
    /// [`StoreError`] when the store does not answer.
    pub async fn aliases_at_head(&self) -> Result<(Seq, Arc<Aliases>), StoreError> {
        self.aliases.at_head(&*self.store).await
    }

    /// Who tells the time.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// How far the store has come; changes with each commit.
    #[must_use]
    pub fn heads(&self) -> watch::Receiver<Heads> {
        self.heads.clone()
    }

    /// The attempts under way.
    #[must_use]
    pub fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    /// Checks a draft and fills its gaps, with the time and the randomness that this needs.
    ///
    /// # Errors
    /// [`InvalidDraft`], which names the field.
    pub fn complete(
        &self,
        draft: Draft,
        defaults: &Defaults,
        appended_by: &str,
    ) -> Result<Incoming, InvalidDraft> {
        let now = self.clock.now().wall;
        let incoming = draft.complete(defaults, appended_by, now, rand::random())?;
        if appended_by == Owner::User.as_str() {
            AliasChange::check(incoming)
        } else {
            Ok(incoming)
        }
    }

    /// Appends claims in their order, in one transaction. Answers when they are on the disk; one
    /// answer each, in order.
    ///
    /// # Errors
    /// [`EngineGone`] when the engine stopped before it could say.
    pub async fn append(
        &self,
        incoming: Vec<Incoming>,
    ) -> Result<Vec<Result<Acked, AppendRefusal>>, EngineGone> {
        self.append_as(incoming, Whole::No).await
    }

    /// Appends all of these claims, in one transaction, or none: if one of them is refused, the
    /// others are with [`AppendRefusal::Together`].
    ///
    /// # Errors
    /// [`EngineGone`] when the engine stopped before it could say.
    pub async fn append_together(
        &self,
        incoming: Vec<Incoming>,
    ) -> Result<Vec<Result<Acked, AppendRefusal>>, EngineGone> {
        self.append_as(incoming, Whole::Yes).await
    }

    async fn append_as(
        &self,
        incoming: Vec<Incoming>,
        whole: Whole,
    ) -> Result<Vec<Result<Acked, AppendRefusal>>, EngineGone> {
        let bytes: usize =
            incoming.iter().map(|claim| bytes_of(claim).max(INTAKE_UNIT_BYTES)).sum();
        // A request counts so much that no more than the allowed ones have room.
        let bytes = bytes.clamp(INTAKE_BYTES_MAX / INTAKE_REQUESTS_MAX, INTAKE_BYTES_MAX);
        let units = bytes.div_ceil(INTAKE_UNIT_BYTES);
        let room = self.intake.clone().acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX));
        let Ok(room) = tokio::time::timeout(INTAKE_PATIENCE, room).await else {
            return Ok(incoming.iter().map(|_| Err(AppendRefusal::Overloaded)).collect());
        };
        let (acks, answer) = oneshot::channel();
        let reply = AppendReply { acks, _room: room.map_err(|_| EngineGone)? };
        self.send(Message::Append { incoming, whole, reply }).await?;
        answer.await.map_err(|_| EngineGone)
    }

    /// Takes away the claims and the jobs from before a moment that nobody needs any more, slice by slice
    /// beside everything else; or, with `dry_run`, counts them. Ends early when nobody waits for it.
    ///
    /// # Errors
    /// [`RequestError`]: when it is under way already, or the engine stopped.
    pub async fn retain(&self, before: Timestamp, dry_run: bool) -> Result<Retained, RequestError> {
        let (reply, answer) = oneshot::channel();
        let (from, retained) = (RetentionPlace::default(), Retained::default());
        self.send(Message::Retain(Retain { before, dry_run, from, retained, reply })).await?;
        answer.await.map_err(|_| EngineGone)?
    }

    /// The number of the next process of this plugin.
    #[must_use]
    pub fn next_incarnation(&self, plugin: &PluginName) -> u64 {
        let mut incarnations =
            self.incarnations.lock().expect("no holder of the incarnations panics");
        let last = incarnations.entry(plugin.clone()).or_insert(0);
        *last += 1;
        *last
    }

    /// What the store knew of a plugin at the start, and what was written since.
    #[must_use]
    pub fn plugin_row(&self, plugin: &PluginName) -> Option<PluginRow> {
        self.plugin_rows.lock().expect("no holder of the plugins' rows panics").get(plugin).cloned()
    }

    /// Registers a plugin that is ready: its handlers, watchers, schedules and routes, in one transaction unless
    /// there are many watchers. Answers what became of each part, once all are taken.
    ///
    /// # Errors
    /// As [`RequestError`] says; refused while the plugin is disabled, and when it goes before all is taken.
    pub async fn plugin_up(&self, ready: PluginReady) -> Result<Verdicts, RequestError> {
        self.begin_plugin_up(ready).await?.await
    }

    /// The same in two halves: what is told after the first one is told after it.
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn begin_plugin_up(
        &self,
        ready: PluginReady,
    ) -> Result<BoxFuture<'static, Result<Verdicts, RequestError>>, RequestError> {
        let PluginReady { plugin, incarnation, version, max_in_flight, registration, transport } =
            ready;
        self.transports.attach(plugin.clone(), incarnation, transport);
        let registration = self.placed(registration).await?;
        let name = plugin.clone();
        let request =
            Request::PluginUp { plugin, incarnation, version, max_in_flight, registration };
        let answer = self.begin(request).await?;
        let engine = self.clone();
        Ok(Box::pin(async move {
            let registered = verdicts(answer.await.map_err(|_| EngineGone)?);
            let came_up = || engine.plugin_row(&name).is_some_and(|r| r.incarnation == incarnation);
            // One that came up, and of which not all was taken, goes when its process does.
            if matches!(registered, Err(RequestError::Refused(_))) && !came_up() {
                engine.transports.detach(&name, incarnation);
            }
            registered
        }))
    }

    /// Replaces what a plugin's running process announced. Answers once all of it is taken.
    ///
    /// # Errors
    /// As [`RequestError`] says; refused too when the plugin goes, or announces something else, before that.
    pub async fn announce(
        &self,
        plugin: PluginName,
        incarnation: u64,
        registration: Registration,
    ) -> Result<Verdicts, RequestError> {
        let registration = self.placed(registration).await?;
        verdicts(self.request(Request::Announced { plugin, incarnation, registration }).await)
    }

    /// Tells that a plugin's process is gone: it `crashed`, or it was told to go. Its attempts under
    /// way end as lost.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn plugin_down(
        &self,
        plugin: PluginName,
        incarnation: u64,
        reason: String,
        crashed: bool,
    ) -> Result<(), EngineGone> {
        self.transports.detach(&plugin, incarnation);
        self.send(Message::Event(Event::PluginDown { plugin, incarnation, reason, crashed })).await
    }

    /// Retires all that a plugin registered, and keeps that it is not to run. Its process is the caller's
    /// to stop, afterwards.
    ///
    /// # Errors
    /// As [`RequestError`] says.
    pub async fn plugin_disabled(
        &self,
        plugin: PluginName,
        by: String,
    ) -> Result<(), RequestError> {
        self.wanted(Request::PluginDisabled { plugin, by }).await
    }

    /// Keeps that a plugin is to run again. Its process is the caller's to start, afterwards; what it
    /// announces then is new.
    ///
    /// # Errors
    /// As [`RequestError`] says.
    pub async fn plugin_enabled(&self, plugin: PluginName, by: String) -> Result<(), RequestError> {
        self.wanted(Request::PluginEnabled { plugin, by }).await
    }

    /// Lets the audit tell that a plugin's supervisor is in another state.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn plugin_state(&self, transition: PluginTransition) -> Result<(), EngineGone> {
        self.send(Message::Event(Event::PluginState(transition))).await
    }

    /// Lets nothing start any more, from when it answers.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn begin_drain(&self) -> Result<(), EngineGone> {
        let (reply, draining) = oneshot::channel();
        self.send(Message::Drain { reply }).await?;
        draining.await.map_err(|_| EngineGone)
    }

    /// Lets nothing start any more, and waits up to `patience` for what is under way to end. Says
    /// whether all of it did.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn drain(&self, patience: Duration) -> Result<bool, EngineGone> {
        self.begin_drain().await?;
        pass(Point::Drain);
        let emptied = self.in_flight.emptied();
        Ok(tokio::time::timeout(patience, emptied).await.is_ok())
    }

    /// Declares a watcher of `user`. The same declaration again changes nothing; another is a new
    /// revision.
    ///
    /// # Errors
    /// As [`RequestError`] says.
    pub async fn declare(&self, declaration: Declaration) -> Result<WatcherRow, RequestError> {
        self.changed(Request::Declare(self.place(declaration).await?)).await
    }

    /// Looks up in the log from which claims on its watchers begin. What has been looked up is not again.
    pub(crate) async fn placed(
        &self,
        registration: Registration,
    ) -> Result<Registration, RequestError> {
        let mut watchers = Vec::with_capacity(registration.watchers.len());
        for declaration in registration.watchers {
            watchers.push(self.place(declaration).await?);
        }
        Ok(Registration { watchers, ..registration })
    }

    async fn place(&self, mut declaration: Declaration) -> Result<Declaration, RequestError> {
        if let Some(Since::Written(text)) = &declaration.since {
            let now = self.clock.now().wall;
            declaration.since = Some(match first_seq(text, &*self.store, now).await {
                Ok(seq) => Since::First(seq),
                Err(InvalidPlace::Store(error)) => return Err(error.into()),
                Err(error) => Since::Nowhere(error.to_string()),
            });
        }
        Ok(declaration)
    }

    /// Holds a watcher, lets it go on, replays or removes it.
    ///
    /// # Errors
    /// As [`RequestError`] says.
    pub async fn command(
        &self,
        watcher: WatcherKey,
        command: WatcherCommand,
    ) -> Result<WatcherRow, RequestError> {
        self.changed(Request::Command(watcher, command)).await
    }

    /// Makes a job that no claim caused, for a person and with nothing special about it.
    ///
    /// # Errors
    /// As [`RequestError`] says: nobody has the handler, or two have.
    pub async fn enqueue(
        &self,
        handler: String,
        payload: Arc<[u8]>,
    ) -> Result<JobRow, RequestError> {
        let asked = EnqueueAsk {
            id: self.new_job_id(),
            by: Asker::User,
            handler,
            payload,
            source: String::new(),
            priority: 0,
            parent: None,
            cost_estimate: None,
        };
        match self.ask(asked).await? {
            Enqueued::New(row) => Ok(*row),
            Enqueued::Standing { id, .. } => {
                unreachable!("without a source nothing is the same job as {id}")
            }
        }
    }

    /// Makes a job that no claim caused, unless an open one has its handler and its source, or any one has its id:
    /// who keeps that and asks for the same again, because the answer did not arrive, gets no second job. Of a
    /// parent the id is enough: what is above the job is looked up.
    ///
    /// # Errors
    /// As [`RequestError`] says: something of it cannot be, its id is that of a job that was asked for otherwise, there is no room for another job, or more is on its
    /// way to the disk than can be written.
    pub async fn ask(&self, asked: EnqueueAsk) -> Result<Enqueued, RequestError> {
        let room = self.room_for(asked.payload.len()).await?;
        let asked = Box::new(asked);
        match self.request(Request::Enqueue { asked, _room: room }).await? {
            axwatch_core::Answer::Enqueued(answer) => Ok(answer?),
            other => unreachable!("the core answers who asks for a job with it, not {other:?}"),
        }
    }

    /// Room in the intake for so many bytes, once there is.
    async fn room_for(&self, bytes: usize) -> Result<OwnedSemaphorePermit, RequestError> {
        let bytes = bytes.clamp(INTAKE_BYTES_MAX / INTAKE_REQUESTS_MAX, INTAKE_BYTES_MAX);
        let units = u32::try_from(bytes.div_ceil(INTAKE_UNIT_BYTES)).unwrap_or(u32::MAX);
        let room = self.intake.clone().acquire_many_owned(units);
        match tokio::time::timeout(INTAKE_PATIENCE, room).await {
            Ok(room) => Ok(room.map_err(|_| EngineGone)?),
            Err(_) => Err(RequestError::Exhausted(AppendRefusal::Overloaded)),
        }
    }

    /// An id for a job that is asked for.
    #[must_use]
    pub fn new_job_id(&self) -> JobId {
        JobId(rand::random())
    }

    /// The id of a job that is asked for under an id of the asker's own.
    #[must_use]
    pub fn job_id_of(&self, by: &Asker, given: &str) -> JobId {
        JobId::of_asked(self.store.opened().store_id, by, given)
    }

    /// Cancels a job that is not at its end, and all that is open below it; of one that is at its end, only
    /// what is below it. An attempt under way is stopped.
    ///
    /// # Errors
    /// As [`RequestError`] says: nothing is left to cancel.
    pub async fn cancel(&self, row: JobRow, by: Asker) -> Result<JobRow, RequestError> {
        self.job(Request::Cancel(Box::new(row), by)).await
    }

    /// Lets a job wait until it is resumed. An attempt under way is stopped, and not counted.
    ///
    /// # Errors
    /// As [`RequestError`] says: the job is paused or at its end.
    pub async fn pause_job(&self, row: JobRow, by: Asker) -> Result<JobRow, RequestError> {
        self.job(Request::PauseJob(Box::new(row), by)).await
    }

    /// Lets a paused job go on.
    ///
    /// # Errors
    /// As [`RequestError`] says: it is not paused.
    pub async fn resume_job(&self, row: JobRow, by: Asker) -> Result<JobRow, RequestError> {
        self.job(Request::ResumeJob(Box::new(row), by)).await
    }

    /// Tells how far an attempt is, and answers once that is on the disk. Only the attempt under way, of the process
    /// that has it, is heard: whether it was, is the answer.
    ///
    /// # Errors
    /// As [`RequestError`] says.
    pub async fn report(&self, report: Report) -> Result<bool, RequestError> {
        match self.request(Request::Report(Box::new(report))).await? {
            axwatch_core::Answer::Heard(heard) => Ok(heard),
            other => {
                unreachable!("the core answers a report with whether it heard it, not {other:?}")
            }
        }
    }

    /// What attempts tell from here on, once it is on the disk. Whoever falls behind misses some: the job's row
    /// has the last of it.
    #[must_use]
    pub fn progressed(&self) -> broadcast::Receiver<Arc<Progressed>> {
        self.progressed.subscribe()
    }

    /// Tries a dead letter, or a job that waits for its retry, again now, under its id.
    ///
    /// # Errors
    /// As [`RequestError`] says: there is no such job, or it is running or done.
    pub async fn redrive(&self, row: JobRow) -> Result<JobRow, RequestError> {
        self.job(Request::Redrive(Box::new(row))).await
    }

    /// Cancels a dead letter or a job that waits; nothing tries it again unless somebody redrives it.
    ///
    /// # Errors
    /// As [`RequestError`] says: there is no such job, or it is running or done.
    pub async fn discard(&self, row: JobRow) -> Result<JobRow, RequestError> {
        self.job(Request::Discard(Box::new(row))).await
    }

    /// The watchers by number, with what they have done; the retired ones too when asked for.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn watchers(&self, retired: bool) -> Result<Vec<WatcherView>, EngineGone> {
        let mut watchers = self.newest_watchers(retired, usize::MAX).await?;
        watchers.reverse();
        Ok(watchers)
    }

    /// The same, the last that came first, and of those the first so many. One that changes meanwhile is told of as it is at one
    /// moment or another; none is told of twice.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn newest_watchers(
        &self,
        retired: bool,
        limit: usize,
    ) -> Result<Vec<WatcherView>, EngineGone> {
        let mut watchers = Vec::new();
        let mut before = Some(WatcherNumber(u64::MAX));
        while let Some(end) = before.filter(|_| watchers.len() < limit) {
            let look =
                move |state: &State, _| state.watchers_before(end, WATCHERS_AT_ONCE, retired);
            let (some, rest) = self.look(look).await?;
            watchers.extend(some);
            before = rest;
        }
        watchers.truncate(limit);
        Ok(watchers)
    }

    /// How the watchers are found, and what that took since the start.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn matching(&self) -> Result<Box<MatchingView>, EngineGone> {
        self.look(move |state, _| Box::new(state.matching())).await
    }

    /// One watcher that is not retired: by the id that people see, or the local id of one of theirs.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn watcher(&self, text: &str) -> Result<Option<Box<WatcherView>>, EngineGone> {
        let text = text.to_owned();
        self.look(move |state, _| state.watcher(&text).map(Box::new)).await
    }

    /// What a plugin has registered, and what waits for it; `None` of one that was never heard of.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn plugin(&self, name: PluginName) -> Result<Option<Box<Registered>>, EngineGone> {
        self.look(move |state, _| state.plugin(&name).map(Box::new)).await
    }

    /// The handlers that are stored as claims, of all plugins, by plugin and name; removed ones too.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn stored_handlers(&self) -> Result<Vec<StoredHandler>, EngineGone> {
        self.look(|state, _| state.stored_handlers()).await
    }

    /// Those of one plugin, by name; removed ones too.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn stored_handlers_of(
        &self,
        plugin: PluginName,
    ) -> Result<Vec<StoredHandler>, EngineGone> {
        self.look(move |state, _| state.stored_handlers_of(&plugin)).await
    }

    /// One of them, by its plugin and its own name; `None` of one that was never stored.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn stored_handler(
        &self,
        plugin: PluginName,
        name: HandlerName,
    ) -> Result<Option<StoredHandler>, EngineGone> {
        self.look(move |state, _| state.stored_handler(&plugin, &name)).await
    }

    /// Who runs a stored handler and is not retired: watchers and schedules.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn runners_of(
        &self,
        handler: StoredHandler,
    ) -> Result<(Vec<WatcherKey>, Vec<ScheduleRow>), EngineGone> {
        self.look(move |state, _| state.runners_of(&handler)).await
    }

    /// The routes that plugins announced, by plugin.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn routes(&self) -> Result<Vec<(PluginName, RouteRow)>, EngineGone> {
        self.look(|state, _| state.routes()).await
    }

    /// How far the texts of watchers are read that were there at the start; `None` once they all are.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn reading(&self) -> Result<Option<Reading>, EngineGone> {
        self.look(|state, _| state.reading()).await
    }

    /// The watchers whose fires wait because they are paused.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn paused(&self) -> Result<Vec<WatcherNumber>, EngineGone> {
        self.look(|state, _| state.paused()).await
    }

    /// The lanes whose jobs wait because a budget holds them back.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn held_by_budgets(&self) -> Result<Vec<LaneKey>, EngineGone> {
        self.look(|state, _| state.held_by_budgets()).await
    }

    /// How the engine is.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn overview(&self) -> Result<Overview, EngineGone> {
        let mut overview = self.look(|state, _| state.overview()).await?;
        // Of jobs that were asked for and wait in the table only, the core knows the one whose turn comes first,
        // which need not be the oldest. Without an answer it stays at that.
        if let Ok(open) = self.store.open_asked(JobNumber(0), OLDEST_LOOKED_AT).await {
            let oldest = open.iter().find(|job| job.state == JobState::Queued);
            let numbers = oldest.map(|job| job.number).into_iter().chain(overview.oldest_waiting);
            overview.oldest_waiting = numbers.min();
        }
        Ok(overview)
    }

    /// What a job waits for at this moment; `None` when it does not wait. `row` is as the store has
    /// it.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn waiting(&self, row: JobRow) -> Result<Option<Waiting>, EngineGone> {
        self.look(move |state, now| state.waiting(&row, now)).await
    }

    /// Looks at jobs, whose rows are as the store has them.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn sights(&self, rows: Vec<JobRow>) -> Result<Vec<Sight>, EngineGone> {
        self.look(move |state, now| {
            // Most are of few handlers.
            let mut pulses = BTreeMap::new();
            let mut pulse = |row: &JobRow| {
                let handler: HandlerName = row.bare_handler().parse().ok()?;
                let key = (row.plugin.clone()?, handler);
                if let Some(known) = pulses.get(&key) {
                    return Some(Pulse::clone(known));
                }
                let pulse = state.pulse(&key.0, &key.1, now);
                pulses.insert(key, pulse.clone());
                Some(pulse)
            };
            let sight =
                |row: JobRow| Sight { waiting: state.waiting(&row, now), pulse: pulse(&row), row };
            rows.into_iter().map(sight).collect()
        })
        .await
    }

    /// Creates a schedule, or changes the standing one of that owner and name.
    ///
    /// # Errors
    /// As [`RequestError`] says: something of it cannot be, or there is no room for another.
    pub async fn create_schedule(&self, asked: ScheduleAsk) -> Result<ScheduleRow, RequestError> {
        self.scheduled(Request::CreateSchedule(Box::new(asked))).await
    }

    /// Lets the times of a schedule pass.
    ///
    /// # Errors
    /// As [`RequestError`] says: whoever asks has no such schedule, or it is retired.
    pub async fn pause_schedule(
        &self,
        schedule: ScheduleId,
        by: Asker,
    ) -> Result<ScheduleRow, RequestError> {
        self.scheduled(Request::CommandSchedule(schedule, ScheduleCommand::Pause, by)).await
    }

    /// Lets a schedule run from its next time on.
    ///
    /// # Errors
    /// As [`RequestError`] says: whoever asks has no such schedule, it is retired, or it never runs.
    pub async fn resume_schedule(
        &self,
        schedule: ScheduleId,
        by: Asker,
    ) -> Result<ScheduleRow, RequestError> {
        self.scheduled(Request::CommandSchedule(schedule, ScheduleCommand::Resume, by)).await
    }

    /// Retires a schedule. What of it waits is cancelled, and what runs may end.
    ///
    /// # Errors
    /// As [`RequestError`] says: whoever asks has no such schedule, it is retired, or its plugin would declare
    /// it again.
    pub async fn delete_schedule(
        &self,
        schedule: ScheduleId,
        by: Asker,
    ) -> Result<ScheduleRow, RequestError> {
        self.scheduled(Request::CommandSchedule(schedule, ScheduleCommand::Delete, by)).await
    }

    /// Runs a schedule at once, besides its grid and whatever it is doing.
    ///
    /// # Errors
    /// As [`RequestError`] says: whoever asks has no such schedule, it is retired, nobody has its handler, or
    /// there is no room for another job.
    pub async fn run_schedule(
        &self,
        schedule: ScheduleId,
        by: Asker,
    ) -> Result<JobRow, RequestError> {
        let command = ScheduleCommand::RunNow { job: self.new_job_id() };
        self.job(Request::CommandSchedule(schedule, command, by)).await
    }

    /// The schedules that are not retired, by owner and name.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn schedules(&self) -> Result<Vec<ScheduleView>, EngineGone> {
        self.look(|state, now| state.schedules(now)).await
    }

    /// A schedule that somebody means: by its id, by its name if it is a person's, or as `plugin/name`. One
    /// that is retired too.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn schedule(&self, text: &str) -> Result<Option<ScheduleView>, EngineGone> {
        let text = text.to_owned();
        self.look(move |state, now| state.schedule_view(&state.find_schedule(&text)?, now)).await
    }

    /// The next nominal times of a schedule, up to `limit`, whether or not it is active.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn next_times(
        &self,
        schedule: ScheduleId,
        limit: usize,
    ) -> Result<Vec<Timestamp>, EngineGone> {
        self.look(move |state, now| state.next_times(&schedule, now, limit)).await
    }

    /// Sets parts of a budget.
    ///
    /// # Errors
    /// As [`RequestError`] says: an amount is none.
    pub async fn set_budget(
        &self,
        scope: BudgetScope,
        change: BudgetChange,
        by: String,
    ) -> Result<BudgetRow, RequestError> {
        match self.request(Request::SetBudget(scope, change, by)).await? {
            axwatch_core::Answer::Budget(answer) => Ok(*answer?),
            other => unreachable!("the core answers who sets a budget with it, not {other:?}"),
        }
    }

    /// Every budget, and what has been used of it: those of all first, then by plugin and handler.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn budgets(&self) -> Result<Vec<BudgetView>, EngineGone> {
        self.look(|state, now| state.budgets(now)).await
    }

    /// What has been used of a scope, whether or not it has a budget; `None` of one never heard of.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn budget(&self, scope: BudgetScope) -> Result<Option<BudgetView>, EngineGone> {
        self.look(move |state, now| state.budget(&scope, now)).await
    }

    /// The figures of a handler, and what the budgets that cover it leave.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn pulse(
        &self,
        plugin: PluginName,
        handler: HandlerName,
    ) -> Result<Pulse, EngineGone> {
        self.look(move |state, now| state.pulse(&plugin, &handler, now)).await
    }

    /// Asks the writer to finish what it has and let go of the store.
    pub async fn stop(&self) {
        // Already gone is what was asked for.
        let _ = self.send(Message::Stop).await;
    }

    async fn wanted(&self, request: Request) -> Result<(), RequestError> {
        match self.request(request).await? {
            axwatch_core::Answer::Plugin(answer) => Ok(answer?),
            other => unreachable!("the core answers a word on a plugin with it, not {other:?}"),
        }
    }

    async fn changed(&self, request: Request) -> Result<WatcherRow, RequestError> {
        match self.request(request).await? {
            axwatch_core::Answer::Watcher(answer) => Ok(*answer?),
            other => unreachable!("the core answers a watcher's request with it, not {other:?}"),
        }
    }

    async fn scheduled(&self, request: Request) -> Result<ScheduleRow, RequestError> {
        match self.request(request).await? {
            axwatch_core::Answer::Schedule(answer) => Ok(*answer?),
            other => unreachable!("the core answers a schedule's request with it, not {other:?}"),
        }
    }

    async fn job(&self, request: Request) -> Result<JobRow, RequestError> {
        match self.request(request).await? {
            axwatch_core::Answer::Job(answer) => Ok(*answer?),
            other => unreachable!("the core answers a job's request with it, not {other:?}"),
        }
    }

    async fn request(&self, request: Request) -> Answered {
        self.begin(request).await?.await.map_err(|_| EngineGone)?
    }

    /// Asks, and does not wait for the answer.
    async fn begin(&self, request: Request) -> Result<oneshot::Receiver<Answered>, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Request { request, reply }).await?;
        Ok(answer)
    }

    /// What the core's state says between two batches.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, Now) -> T + Send + 'static,
    ) -> Result<T, EngineGone> {
        let (reply, answer) = oneshot::channel();
        let look = move |state: &State, now| {
            // Whoever asked may have gone away.
            let _ = reply.send(look(state, now));
        };
        self.send(Message::Look(Box::new(look))).await?;
        answer.await.map_err(|_| EngineGone)
    }

    async fn send(&self, message: Message) -> Result<(), EngineGone> {
        self.inbox.send(message).await.map_err(|_| EngineGone)
    }
}

/// What became of a registration, as the core answered it.
fn verdicts(answered: Answered) -> Result<Verdicts, RequestError> {
    match answered? {
        axwatch_core::Answer::Registered(answer) => Ok(answer?),
        other => unreachable!("the core answers a registration with its verdicts, not {other:?}"),
    }
}

/// About how many bytes a claim has in memory and on its way to the disk.
pub(crate) fn bytes_of(claim: &Incoming) -> usize {
    256 + claim.attestation.text_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_jobs_carry_counts_on_its_way_to_the_disk() {
        let asked = |bytes: usize| EnqueueAsk {
            id: JobId([1; 16]),
            by: Asker::User,
            handler: "act".into(),
            payload: vec![0; bytes].into(),
            source: "s".into(),
            priority: 0,
            parent: None,
            cost_estimate: None,
        };
        let room = intake();
        for bytes in [0, 1, 4 << 20] {
            let room = room.clone().acquire_owned().await.expect("nobody closes it");
            let request = Request::Enqueue { asked: Box::new(asked(bytes)), _room: room };
            assert_eq!(request.bytes(), bytes + 1);
        }
    }
}
