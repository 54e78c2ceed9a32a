//! The handle on the engine: what surfaces and plugin hosts ask of the writer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axwatch_ats::since::{InvalidPlace, first_seq};
use axwatch_ats::{AliasBook, AppendConflict, RetentionPlace, Store, StoreError};
use axwatch_core::{
    Declaration, Event, Overview, PluginTransition, Refusal, Registered, Registration, Since,
    Verdicts, Waiting, WatcherCommand, WatcherView,
};
use axwatch_failpoints::{Point, pass};
use axwatch_model::{
    Clock, Defaults, Draft, Incoming, InvalidDraft, JobId, JobNumber, JobRow, LeafNumber, Owner,
    PluginName, PluginRow, RouteRow, Seq, Timestamp, WatcherKey, WatcherNumber, WatcherRow,
};
use axwatch_query::{AliasChange, Aliases};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

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

/// What the writer is asked.
pub(crate) enum Message {
    Append {
        incoming: Vec<Incoming>,
        whole: Whole,
        reply: AppendReply,
    },
    Request {
        request: Request,
        reply: oneshot::Sender<Result<axwatch_core::Answer, RequestError>>,
    },
    Event(Event),
    /// Answered when nothing starts any more and all that started before is in flight.
    Drain {
        reply: oneshot::Sender<()>,
    },
    Watchers {
        retired: bool,
        reply: oneshot::Sender<Vec<WatcherView>>,
    },
    Watcher {
        text: String,
        reply: oneshot::Sender<Option<Box<WatcherView>>>,
    },
    Plugin {
        name: PluginName,
        reply: oneshot::Sender<Option<Box<Registered>>>,
    },
    Routes {
        reply: oneshot::Sender<Vec<(PluginName, RouteRow)>>,
    },
    Paused {
        reply: oneshot::Sender<Vec<WatcherNumber>>,
    },
    Overview {
        reply: oneshot::Sender<Overview>,
    },
    Waiting {
        row: Box<JobRow>,
        reply: oneshot::Sender<Option<Waiting>>,
    },
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
    Enqueue {
        id: JobId,
        handler: String,
        payload: Arc<[u8]>,
    },
    Redrive(Box<JobRow>),
    Discard(Box<JobRow>),
}

/// Bytes of claims that may wait for the writer or be written, over all callers.
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
}

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

    /// Registers a plugin that is ready: its handlers, watchers, schedules and routes in one transaction.
    /// Answers what became of each part.
    ///
    /// # Errors
    /// As [`RequestError`] says; refused while the plugin is disabled.
    pub async fn plugin_up(&self, ready: PluginReady) -> Result<Verdicts, RequestError> {
        let PluginReady { plugin, incarnation, version, max_in_flight, registration, transport } =
            ready;
        self.transports.attach(plugin.clone(), incarnation, transport);
        let registration = self.placed(registration).await?;
        let name = plugin.clone();
        let request =
            Request::PluginUp { plugin, incarnation, version, max_in_flight, registration };
        let registered = self.registered(request).await;
        if let Err(RequestError::Refused(_)) = registered {
            self.transports.detach(&name, incarnation);
        }
        registered
    }

    /// Replaces what a plugin's running process announced.
    ///
    /// # Errors
    /// As [`RequestError`] says.
    pub async fn announce(
        &self,
        plugin: PluginName,
        incarnation: u64,
        registration: Registration,
    ) -> Result<Verdicts, RequestError> {
        let registration = self.placed(registration).await?;
        self.registered(Request::Announced { plugin, incarnation, registration }).await
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

    /// Lets nothing start any more, and waits up to `patience` for what is under way to end. Says
    /// whether all of it did.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn drain(&self, patience: Duration) -> Result<bool, EngineGone> {
        let (reply, draining) = oneshot::channel();
        self.send(Message::Drain { reply }).await?;
        draining.await.map_err(|_| EngineGone)?;
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

    /// Makes a job without a watcher.
    ///
    /// # Errors
    /// As [`RequestError`] says: nobody has the handler, or two have.
    pub async fn enqueue(
        &self,
        handler: String,
        payload: Arc<[u8]>,
    ) -> Result<JobRow, RequestError> {
        self.job(Request::Enqueue { id: JobId(rand::random()), handler, payload }).await
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
        let (reply, answer) = oneshot::channel();
        self.send(Message::Watchers { retired, reply }).await?;
        answer.await.map_err(|_| EngineGone)
    }

    /// One watcher that is not retired: by the id that people see, or the local id of one of theirs.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn watcher(&self, text: &str) -> Result<Option<Box<WatcherView>>, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Watcher { text: text.to_owned(), reply }).await?;
        answer.await.map_err(|_| EngineGone)
    }

    /// What a plugin has registered, and what waits for it; `None` of one that was never heard of.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn plugin(&self, name: PluginName) -> Result<Option<Box<Registered>>, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Plugin { name, reply }).await?;
        answer.await.map_err(|_| EngineGone)
    }

    /// The routes that plugins announced, by plugin.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn routes(&self) -> Result<Vec<(PluginName, RouteRow)>, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Routes { reply }).await?;
        answer.await.map_err(|_| EngineGone)
    }

    /// The watchers whose fires wait because they are paused.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn paused(&self) -> Result<Vec<WatcherNumber>, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Paused { reply }).await?;
        answer.await.map_err(|_| EngineGone)
    }

    /// How the engine is.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn overview(&self) -> Result<Overview, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Overview { reply }).await?;
        answer.await.map_err(|_| EngineGone)
    }

    /// What a job waits for at this moment; `None` when it does not wait. `row` is as the store has
    /// it.
    ///
    /// # Errors
    /// [`EngineGone`].
    pub async fn waiting(&self, row: JobRow) -> Result<Option<Waiting>, EngineGone> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Waiting { row: Box::new(row), reply }).await?;
        answer.await.map_err(|_| EngineGone)
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

    async fn registered(&self, request: Request) -> Result<Verdicts, RequestError> {
        match self.request(request).await? {
            axwatch_core::Answer::Registered(answer) => Ok(answer?),
            other => {
                unreachable!("the core answers a registration with its verdicts, not {other:?}")
            }
        }
    }

    async fn changed(&self, request: Request) -> Result<WatcherRow, RequestError> {
        match self.request(request).await? {
            axwatch_core::Answer::Watcher(answer) => Ok(*answer?),
            other => unreachable!("the core answers a watcher's request with it, not {other:?}"),
        }
    }

    async fn job(&self, request: Request) -> Result<JobRow, RequestError> {
        match self.request(request).await? {
            axwatch_core::Answer::Job(answer) => Ok(*answer?),
            other => unreachable!("the core answers a job's request with it, not {other:?}"),
        }
    }

    async fn request(&self, request: Request) -> Result<axwatch_core::Answer, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Request { request, reply }).await?;
        answer.await.map_err(|_| EngineGone)?
    }

    async fn send(&self, message: Message) -> Result<(), EngineGone> {
        self.inbox.send(message).await.map_err(|_| EngineGone)
    }
}

/// About how many bytes a claim has in memory and on its way to the disk.
pub(crate) fn bytes_of(claim: &Incoming) -> usize {
    256 + claim.attestation.text_bytes()
}
