//! The process behind a token: what the host's services know about who calls them.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use axwatch_core::{Redaction, Registration, Verdicts};
use axwatch_model::{Announced, PluginName, RefusedRow};
use axwatch_proto::protocol;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::task::JoinError;

use super::large::Seat;
use super::share::Share;
use super::token::Token;
use super::wire;
use crate::handle::{Engine, EngineGone, RequestError};

/// Calls that one plugin may have under way at our services.
pub(crate) const CALLS_MAX: usize = 64;

/// Large replies that may be on their way to one plugin.
pub(crate) const LARGE_REPLIES_MAX: usize = 2;
/// How long a further one waits until the plugin has read one of them.
const SEAT_WITHIN: Duration = Duration::from_secs(10);
/// Replies with payloads of jobs that are put together for one plugin at once: each has one whole payload in memory
/// beside itself.
pub(crate) const READINGS_MAX: usize = 4;

/// Bytes of calls that one plugin may make in a second. What it may send at once is as much again.
pub(crate) const BYTES_PER_SECOND_MAX: u32 = 32 * 1024 * 1024;

/// One process of a plugin, as our services see it.
pub(crate) struct Caller {
    /// Its configured name: what its claims are `appended_by`.
    pub(crate) plugin: PluginName,
    /// Which of its processes.
    pub(crate) incarnation: u64,
    /// 0 fires a second means none, in its watchers.
    pub(crate) zero_is_never: bool,
    /// What it has of the writer.
    pub(crate) share: Share,
    calls: Arc<Semaphore>,
    large_replies: Arc<Semaphore>,
    readings: Semaphore,
    announcements: Arc<Semaphore>,
    allowance: Mutex<Allowance>,
    pace: Mutex<Pace>,
    /// Held from before the engine is told until we know it too: both have to hear of announcements in the
    /// same order.
    announcing: tokio::sync::Mutex<()>,
    phase: watch::Sender<Phase>,
    announced: Mutex<BTreeSet<String>>,
    /// It has called us.
    called: AtomicBool,
    /// What its calls were like since Initialize was last called, until it is answered.
    initialize: Mutex<Option<CallsBack>>,
    account: Arc<Account>,
    /// One more for each request of people's that it is answering.
    answering: Arc<()>,
    /// It let the time of such a request go by, and has answered none since.
    is_overdue: AtomicBool,
    /// What must not be seen of its words.
    token: OnceLock<Arc<Token>>,
}

/// Announcements of a process that are held at once: one is taken, and another may wait. Each may be as large
/// as any message.
const ANNOUNCEMENTS_HELD_MAX: usize = 2;

/// Announcements that a process may make in a row, and of which one more may be made each second.
const ANNOUNCEMENTS_MAX: f64 = 10.0;

/// What a plugin may still announce.
#[derive(Debug)]
struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { left: ANNOUNCEMENTS_MAX, at: now }
    }

    fn admits(&mut self, now: Instant) -> bool {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64()).min(ANNOUNCEMENTS_MAX);
        self.at = now;
        let admits = self.left >= 1.0;
        if admits {
            self.left -= 1.0;
        }
        admits
    }
}

/// The calls that a plugin made while it put together what it announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CallsBack {
    /// There were some.
    pub(crate) any: bool,
    /// One of them failed, so that what it announces may lack something for no good reason.
    pub(crate) failed: bool,
}

/// What a plugin may still send: bytes that grow with time, up to a second's worth. A call is taken while
/// any are left, and may leave a debt, so that the largest call there is can be made.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn new(now: Instant) -> Allowance {
        Allowance { left: f64::from(BYTES_PER_SECOND_MAX), at: now }
    }

    fn admits(&mut self, bytes: usize, now: Instant) -> bool {
        let most = f64::from(BYTES_PER_SECOND_MAX);
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * most).min(most);
        self.at = now;
        let admits = self.left > 0.0;
        if admits {
            self.left -= bytes as f64;
        }
        admits
    }
}

/// A request that a process is answering, until it is dropped.
pub(crate) struct Answering {
    _one: Arc<()>,
}

/// How far a process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Initialize has not been answered.
    Initializing,
    /// It has, and the engine is being told.
    Initialized,
    /// The engine knows what it has.
    Registered,
    /// It is gone.
    Dead,
}

/// What is known of a plugin over all its processes.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// It has made claims that no job asked for.
    own: AtomicBool,
}

impl Caller {
    /// A process that has not been initialized yet.
    pub(crate) fn new(
        plugin: PluginName,
        incarnation: u64,
        zero_is_never: bool,
        account: Arc<Account>,
    ) -> Caller {
        Caller {
            plugin,
            incarnation,
            zero_is_never,
            share: Share::new(),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            large_replies: Arc::new(Semaphore::new(LARGE_REPLIES_MAX)),
            readings: Semaphore::new(READINGS_MAX),
            announcements: Arc::new(Semaphore::new(ANNOUNCEMENTS_HELD_MAX)),
            allowance: Mutex::new(Allowance::new(Instant::now())),
            pace: Mutex::new(Pace::new(Instant::now())),
            announcing: tokio::sync::Mutex::default(),
            phase: watch::Sender::new(Phase::Initializing),
            announced: Mutex::default(),
            called: AtomicBool::new(false),
            initialize: Mutex::default(),
            account,
            answering: Arc::default(),
            is_overdue: AtomicBool::new(false),
            token: OnceLock::new(),
        }
    }

    /// Its secrets. Told once.
    pub(crate) fn bears(&self, token: Arc<Token>) {
        let _ = self.token.set(token);
    }

    /// What it says as it may be kept and shown.
    pub(crate) fn shown(&self, text: &str) -> String {
        self.token.get().map_or_else(|| wire::shown(text), |token| token.shown(text))
    }

    /// The same text without its secrets, and with all else that is in it.
    pub(crate) fn redacted(&self, text: String) -> String {
        match self.token.get() {
            Some(token) => token.redact(text),
            None => text,
        }
    }

    /// What it announces, in the engine's words and without its token. How its other secrets are taken out
    /// goes along, for what is refused: in what stands they are words that somebody chose.
    pub(crate) fn understand(&self, announcement: protocol::InitializeResponse) -> Registration {
        let mut registration =
            wire::announced(announcement, self.zero_is_never, &|text| self.shown(text));
        let Some(token) = self.token.get().cloned() else { return registration };
        hide_token(&token, &mut registration);
        registration.redaction = Redaction::new(move |text| {
            let told = token.redact(text.to_owned());
            (told != text).then_some(told)
        });
        registration
    }

    /// It is asked something beside jobs.
    pub(crate) fn begin_answering(&self) -> Answering {
        Answering { _one: self.answering.clone() }
    }

    /// Whether there is something beside jobs that it has not answered yet, and may be at work on: one that
    /// let the time of a request go by only hangs, as far as anybody can see, until it answers one.
    pub(crate) fn is_answering(&self) -> bool {
        Arc::strong_count(&self.answering) > 1 && !self.is_overdue.load(Ordering::Relaxed)
    }

    /// Notes whether a request beside jobs was answered in time.
    pub(crate) fn answered(&self, in_time: bool) {
        self.is_overdue.store(!in_time, Ordering::Relaxed);
    }

    /// Room for one more call, until it is dropped; `None` when [`CALLS_MAX`] are under way.
    pub(crate) fn begin_call(&self) -> Option<OwnedSemaphorePermit> {
        self.called.store(true, Ordering::Relaxed);
        if let Some(calls) = &mut *self.calls_back() {
            calls.any = true;
        }
        self.calls.clone().try_acquire_owned().ok()
    }

    /// Room for one more large reply, when there is some; `None` when the plugin does not read those that are on
    /// their way.
    pub(crate) async fn seat(&self) -> Option<Seat> {
        let permit = self.large_replies.clone().acquire_owned();
        let permit = tokio::time::timeout(SEAT_WITHIN, permit).await;
        Some(Seat::new(permit.ok()?.expect("nobody closes the room for replies")))
    }

    /// The turn to read payloads of jobs, until it is dropped; `None` when it has not come in time.
    pub(crate) async fn reading(&self) -> Option<SemaphorePermit<'_>> {
        let turn = tokio::time::timeout(SEAT_WITHIN, self.readings.acquire()).await;
        Some(turn.ok()?.expect("nobody closes the turns to read"))
    }

    /// Whether it may make a call of so many bytes now. A call that is refused costs nothing.
    pub(crate) fn may_send(&self, bytes: usize) -> bool {
        let mut allowance = self.allowance.lock().expect("no holder of an allowance panics");
        allowance.admits(bytes, Instant::now())
    }

    /// Room for one more announcement, until it is dropped; `None` when it has to come later.
    pub(crate) fn begin_announcement(&self) -> Option<OwnedSemaphorePermit> {
        self.announcements.clone().try_acquire_owned().ok()
    }

    /// Whether it may announce something now. An announcement that is refused costs nothing.
    pub(crate) fn may_announce(&self) -> bool {
        self.pace.lock().expect("no holder of a pace panics").admits(Instant::now())
    }

    /// Tells the engine, and then remembers, what this process answers for now, after the announcements that
    /// came before. Who no longer waits for the answer stops neither half.
    ///
    /// # Errors
    /// As [`Engine::announce`]; then what it answered for before it still does.
    pub(crate) async fn tell(
        this: &Arc<Caller>,
        engine: &Engine,
        registration: Registration,
    ) -> Result<Verdicts, RequestError> {
        let (caller, engine) = (this.clone(), engine.clone());
        let told = tokio::spawn(async move {
            let _turn = caller.announcing().await;
            let handlers: Vec<_> = registration.handlers.iter().map(ToString::to_string).collect();
            let told = engine.announce(caller.plugin.clone(), caller.incarnation, registration);
            told.await.inspect(|_| caller.announce(handlers))
        });
        match told.await.map_err(JoinError::try_into_panic) {
            Ok(told) => told,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => Err(EngineGone.into()),
        }
    }

    /// The turn of one announcement, after those that came before it.
    pub(crate) async fn announcing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.announcing.lock().await
    }

    /// A call of it failed.
    pub(crate) fn call_failed(&self) {
        if let Some(calls) = &mut *self.calls_back() {
            calls.failed = true;
        }
    }

    /// Initialize is called, for the first time or once more: what it calls from now on counts for what it
    /// will announce, and nothing that was before does.
    pub(crate) fn begin_initialize(&self) {
        *self.calls_back() = Some(CallsBack::default());
    }

    /// Initialize was answered: what it called meanwhile.
    pub(crate) fn end_initialize(&self) -> CallsBack {
        self.calls_back().take().unwrap_or_default()
    }

    fn calls_back(&self) -> MutexGuard<'_, Option<CallsBack>> {
        self.initialize.lock().expect("no holder of the calls back panics")
    }

    /// Whether it has called us.
    pub(crate) fn has_called(&self) -> bool {
        self.called.load(Ordering::Relaxed)
    }

    /// Whether its token still counts.
    pub(crate) fn is_alive(&self) -> bool {
        *self.phase.borrow() != Phase::Dead
    }

    /// Answers when its token no longer counts.
    pub(crate) async fn died(&self) {
        self.reached(Phase::Dead).await;
    }

    pub(super) fn kill(&self) {
        self.advance(Phase::Dead);
    }

    /// Initialize has been answered.
    pub(crate) fn initialized(&self) {
        self.advance(Phase::Initialized);
    }

    /// Answers when Initialize has been answered, or when it is dead.
    pub(crate) async fn is_initialized(&self) {
        self.reached(Phase::Initialized).await;
    }

    /// Whether Initialize has not been answered yet.
    pub(crate) fn is_initializing(&self) -> bool {
        *self.phase.borrow() == Phase::Initializing
    }

    /// The engine knows what it announced.
    pub(crate) fn registered(&self) {
        self.advance(Phase::Registered);
    }

    /// Answers when the engine knows what it announced, or when it is dead.
    pub(crate) async fn is_registered(&self) {
        self.reached(Phase::Registered).await;
    }

    /// Phases only rise.
    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let rises = to > *phase;
            *phase = to.max(*phase);
            rises
        });
    }

    async fn reached(&self, wanted: Phase) {
        let mut phase = self.phase.subscribe();
        // The sender is ours, so that this waits for the phase alone.
        let _ = phase.wait_for(|phase| *phase >= wanted).await;
    }

    /// Replaces the handlers that this process answers for.
    pub(crate) fn announce(&self, handlers: impl IntoIterator<Item = String>) {
        *self.lock() = handlers.into_iter().collect();
    }

    /// The handlers that it answers for, by name.
    pub(crate) fn handlers(&self) -> Vec<String> {
        self.lock().iter().cloned().collect()
    }

    /// Whether this process said that it answers for this handler.
    pub(crate) fn has_announced(&self, handler: &str) -> bool {
        self.lock().contains(handler)
    }

    /// The plugin made a claim that no job asked for: it works on its own account too, so that its
    /// later unnamed claims say nothing about a job that happens to be under way.
    pub(crate) fn works_on_own_account(&self) {
        self.account.own.store(true, Ordering::Relaxed);
    }

    /// Whether it ever did.
    pub(crate) fn has_own_account(&self) -> bool {
        self.account.own.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.announced.lock().expect("no holder of the announced handlers panics")
    }
}

/// Takes a token out of all that may be kept. Nothing that works has one in it.
fn hide_token(token: &Token, registration: &mut Registration) {
    let hide = |text: &mut String| {
        if text.contains(token.expose()) {
            *text = token.redact(std::mem::take(text));
        }
    };
    let Registration { handlers, watchers, schedules, routes, refused, .. } = registration;
    handlers.retain(|handler| {
        let has_token = handler.as_str().contains(token.expose());
        if has_token {
            let (kind, name) = (Announced::Handler, token.redact(handler.to_string()));
            let reason = "the token of a process is nobody's name".to_owned();
            refused.push(RefusedRow { kind, name, reason });
        }
        !has_token
    });
    for watcher in watchers {
        hide(&mut watcher.local);
        watcher.for_each_text(&mut |text| hide(text));
    }
    for schedule in schedules {
        hide(&mut schedule.handler);
        hide(&mut schedule.ats_code);
    }
    for route in routes {
        hide(&mut route.method);
        hide(&mut route.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is sent in which pieces, a second passes on no more than two seconds' worth and one call.
    #[test]
    fn bytes_are_taken_at_a_rate() {
        const CALL: usize = 1024 * 1024;
        for pause_ms in [1, 10, 100] {
            let mut now = Instant::now();
            let began = now;
            let mut allowance = Allowance::new(now);
            let (mut sent, mut taken) = (0_u64, 0_u64);
            while now.duration_since(began) < Duration::from_secs(10) {
                sent += 1;
                taken += u64::from(allowance.admits(CALL, now));
                now += Duration::from_millis(pause_ms);
            }
            let most = 11 * u64::from(BYTES_PER_SECOND_MAX) + CALL as u64;
            let bytes = taken * CALL as u64;
            assert!(bytes <= most, "{taken} of {sent} at one each {pause_ms} ms");
            assert!(bytes >= most * 8 / 10 || taken == sent, "{taken} of {sent}");
        }
    }

    /// One Initialize says nothing about the next.
    #[test]
    fn calls_back_count_for_the_initialize_that_they_were_made_in() {
        let caller = Caller::new("git".parse().unwrap(), 1, false, Arc::default());
        let call = |fails: bool| {
            drop(caller.begin_call());
            if fails {
                caller.call_failed();
            }
        };
        // (whether each call fails, what is known at the end)
        let cases = [
            (vec![true], CallsBack { any: true, failed: true }),
            (vec![], CallsBack::default()),
            (vec![false], CallsBack { any: true, failed: false }),
            (vec![false, true, false], CallsBack { any: true, failed: true }),
        ];
        for (calls, expected) in cases {
            caller.begin_initialize();
            calls.iter().for_each(|&fails| call(fails));
            assert_eq!(caller.end_initialize(), expected, "{calls:?}");
            call(true);
            caller.initialized();
        }
    }

    #[test]
    fn announcements_have_a_pace() {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        assert_eq!((0..50).filter(|_| pace.admits(began)).count(), 10);
        let asked = (1..=100).filter(|n| pace.admits(began + Duration::from_millis(n * 100)));
        assert!((9..=10).contains(&asked.count()), "one a second");
        let rested = began + Duration::from_secs(3_600);
        assert_eq!((0..50).filter(|_| pace.admits(rested)).count(), 10);
    }

    #[test]
    fn the_largest_call_can_always_be_made_again() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        assert!(allowance.admits(16 << 20, now) && allowance.admits(64 << 20, now));
        assert!(!allowance.admits(1, now + Duration::from_millis(900)));
        assert!(allowance.admits(16 << 20, now + Duration::from_millis(1_600)));
    }
}
