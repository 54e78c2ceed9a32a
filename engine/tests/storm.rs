//! Watchers that are registered while claims arrive: which claims each of them sees, to the claim, how many
//! registrations a transaction takes when others wait, and what becomes of an announcement that is cut short.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::support::{HANDLER, PLUGIN, Running, done};
use axwatch_core::{Declaration, Ended, Registration, WatcherCommand};
use axwatch_engine::{Attempt, Engine, EngineConfig, LocalPlugin, RequestError};
use axwatch_model::{
    Clock, Declared, Now, Owner, PluginName, RevisionRow, Seq, SystemClock, WatcherKey,
    WatcherNumber, WatcherRow, WatcherState,
};
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};

/// Predicates of claims, one after the other.
const PREDICATES: u32 = 5;
/// Watchers that each of the people declares.
const DECLARED: u32 = 40;
/// Watchers that the plugin announces.
const ANNOUNCED: u32 = 150;

async fn engine_by(folder: &tempfile::TempDir, clock: Arc<dyn Clock>) -> Running {
    let path = folder.path().join("axwatch.db");
    Running::on(&path, clock, EngineConfig::default()).await
}

async fn running(folder: &tempfile::TempDir) -> Running {
    running_by(folder, Arc::new(SystemClock::new())).await
}

async fn running_by(folder: &tempfile::TempDir, clock: Arc<dyn Clock>) -> Running {
    let running = engine_by(folder, clock).await;
    running.plugin(64, |_| done()).await;
    running
}

/// The machine's clock, at which the writer can be held.
#[derive(Default)]
struct Gate {
    clock: SystemClock,
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    /// Looks at the clock that are let by all the same.
    let_by: usize,
    holds: bool,
}

impl Gate {
    fn close(&self) {
        self.state.lock().unwrap().closed = true;
    }

    fn open(&self) {
        self.state.lock().unwrap().closed = false;
        self.changed.notify_all();
    }

    /// Waits until the writer has come to it.
    fn until_held(&self) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| !state.holds).unwrap());
    }

    /// Lets the writer, which is held or about to be, look at the clock once, and waits until it does again.
    fn let_by(&self) {
        let mut state = self.state.lock().unwrap();
        state.let_by = 1;
        self.changed.notify_all();
        let held_again = |state: &mut GateState| state.let_by > 0 || !state.holds;
        drop(self.changed.wait_while(state, held_again).unwrap());
    }
}

impl Clock for Gate {
    fn now(&self) -> Now {
        if std::thread::current().name() == Some("axwatch-writer") {
            let mut state = self.state.lock().unwrap();
            state.holds = state.closed;
            self.changed.notify_all();
            let is_held = |state: &mut GateState| state.closed && state.let_by == 0;
            let mut state = self.changed.wait_while(state, is_held).unwrap();
            (state.holds, state.let_by) = (false, 0);
        }
        self.clock.now()
    }
}

fn predicate(number: u32) -> String {
    format!("seen_{}", number % PREDICATES)
}

fn declaration(local: &str, predicate: &str) -> Declaration {
    Declaration {
        local: local.into(),
        declared: Declared::Ax(format!("is {predicate}")),
        handlers: vec![HANDLER.into()],
        params: None,
        max_fires_per_second: 0,
        zero_is_never: false,
        max_chain: 0,
        since: None,
        max_attempts: 0,
        max_age: None,
    }
}

fn key(local: &str) -> WatcherKey {
    WatcherKey { owner: Owner::User, local: local.parse().unwrap() }
}

/// Declares, and holds the answer to it: the head that the watcher begins at is one that the log had while
/// this was asked for.
async fn declare(engine: &Engine, local: &str, predicate: &str) -> WatcherRow {
    let before = engine.heads().borrow().seq;
    let row = engine.declare(declaration(local, predicate)).await.expect("the watcher is good");
    let after = engine.store().head().await.expect("the log is read");
    assert!(row.since_seq <= after, "{local} begins at {}, the log ends at {after}", row.since_seq);
    if row.revision == 1 {
        assert!(before <= row.since_seq, "{local} begins at {} before {before}", row.since_seq);
    }
    row
}

/// A person's watchers: some stay, some change, some go, some come back.
async fn declare_all(engine: Engine, person: u32) {
    for number in 0..DECLARED {
        let local = format!("person-{person}-{number}");
        declare(&engine, &local, &predicate(number)).await;
        let is_gone = match number % 4 {
            0 => continue,
            1 => false,
            _ => true,
        };
        if is_gone {
            engine.command(key(&local), WatcherCommand::Remove).await.expect("it stands");
        }
        if number % 4 != 2 {
            declare(&engine, &local, &predicate(number + 1)).await;
        }
    }
}

async fn announce(engine: &Engine, watchers: Vec<Declaration>) {
    let plugin: PluginName = PLUGIN.parse().unwrap();
    let incarnation = engine.plugin_row(&plugin).expect("the plugin is up").incarnation;
    let handlers = vec![HANDLER.parse().unwrap()];
    let registration = Registration { handlers, watchers, ..Registration::default() };
    let verdicts = engine.announce(plugin, incarnation, registration).await.unwrap();
    assert!(verdicts.refused.is_empty(), "{:?}", verdicts.refused);
}

/// The plugin's: all, the same again, half of them changed, half of them dropped, and all again.
async fn announce_all(engine: Engine) {
    let named = |number: u32, shift: u32| {
        declaration(&format!("announced-{number}"), &predicate(number + shift))
    };
    let all = || (0..ANNOUNCED).map(|number| named(number, 0)).collect::<Vec<_>>();
    announce(&engine, all()).await;
    announce(&engine, all()).await;
    announce(&engine, (0..ANNOUNCED).map(|number| named(number, number % 2)).collect()).await;
    announce(&engine, (0..ANNOUNCED / 2).map(|number| named(number, number % 2)).collect()).await;
    announce(&engine, all()).await;
}

/// The predicates of the log, by number.
async fn log_of(engine: &Engine) -> BTreeMap<Seq, String> {
    let mut log = BTreeMap::new();
    loop {
        let last = log.last_key_value().map_or(Seq(0), |(seq, _)| *seq);
        let rows = engine.store().read_after(last, 1_000).await.expect("the log is read");
        if rows.is_empty() {
            return log;
        }
        log.extend(rows.into_iter().map(|row| (row.seq, row.attestation.predicates[0].clone())));
    }
}

/// The claims that each revision is asked about: those after the claim it begins at, up to where the next one
/// begins or it was retired.
fn asked_about(revisions: &[RevisionRow], log: &BTreeMap<Seq, String>) -> Vec<(u32, u64, Seq)> {
    let mut fires = Vec::new();
    for (index, revision) in revisions.iter().enumerate() {
        let next = revisions.get(index + 1).map(|next| next.from_seq);
        let upto = revision.retired_seq.or(next).unwrap_or(Seq(u64::MAX));
        let Declared::Ax(text) = &revision.declared else { panic!("these are all texts") };
        let predicate = text.strip_prefix("is ").expect("they are all of this form");
        let within = log.range(revision.from_seq.next()..).take_while(|(seq, _)| **seq <= upto);
        let matching = within.filter(|(_, claimed)| *claimed == predicate);
        fires.extend(matching.map(|(seq, _)| (revision.generation, revision.revision, *seq)));
    }
    fires
}

/// Every watcher has a job for each claim that it had to see, once, and no other; answers how many watchers
/// began in the middle of the log.
async fn check_all(running: &Running) -> usize {
    let log = log_of(&running.engine).await;
    let mut fired: BTreeMap<WatcherNumber, Vec<(u32, u64, Seq)>> = BTreeMap::new();
    for job in running.jobs().await {
        let watcher = job.watcher.expect("nobody asked for a job");
        let seq = job.seq.expect("a fire has its claim");
        fired.entry(watcher).or_default().push((job.generation, job.revision, seq));
    }
    let mut in_the_middle = 0;
    let last = *log.keys().next_back().expect("claims were appended");
    for view in running.engine.watchers(true).await.unwrap() {
        let row = &view.row;
        let revisions = running.engine.store().revisions(row.number).await.unwrap();
        let mut fires = fired.remove(&row.number).unwrap_or_default();
        fires.sort_unstable_by_key(|(.., seq)| *seq);
        assert_eq!(fires, asked_about(&revisions, &log), "{}", row.key);
        for generation in revisions.chunk_by(|a, b| a.generation == b.generation) {
            let first = &generation[0];
            assert_eq!(first.from_seq, first.since_seq, "{} misses none at first", row.key);
            in_the_middle += usize::from(Seq(0) < first.since_seq && first.since_seq < last);
        }
        let present = revisions.last().expect("each was declared");
        assert_eq!(row.since_seq, present.since_seq, "{}", row.key);
        assert_eq!(row.state == WatcherState::Retired, present.retired_seq.is_some());
    }
    assert!(fired.is_empty(), "of no watcher: {fired:?}");
    running.audit().await;
    in_the_middle
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_is_registered_while_claims_arrive_misses_none_and_doubles_none() {
    let folder = tempfile::tempdir().unwrap();
    let running = running(&folder).await;
    let registered = AtomicBool::new(false);
    let arriving = async |first: u32| {
        for id in first.. {
            if registered.load(Ordering::SeqCst) {
                break;
            }
            let claims = (0..PREDICATES).flat_map(|n| running.claims(id..id + 1, &predicate(n)));
            let acks = running.engine.append(claims.collect()).await.expect("the engine runs");
            assert!(acks.iter().all(Result::is_ok), "{acks:?}");
        }
    };
    let people = (0..4).map(|person| tokio::spawn(declare_all(running.engine.clone(), person)));
    let plugin = tokio::spawn(announce_all(running.engine.clone()));
    let registering: Vec<_> = people.chain([plugin]).collect();
    let registering = async {
        for registering in registering {
            registering.await.expect("it is registered");
        }
        registered.store(true, Ordering::SeqCst);
    };
    tokio::join!(arriving(0), arriving(1_000_000), registering);
    running.append(2_000_000..2_000_020, &predicate(0)).await;
    running.settled().await;
    let in_the_middle = check_all(&running).await;
    assert!(in_the_middle > 100, "only {in_the_middle} began while claims arrived");
    running.stop().await;
}

/// The watchers that a large announcement names, of which one transaction takes only some.
fn large(watchers: u32) -> Registration {
    let named = |number| declaration(&format!("w-{number:04}"), &predicate(number));
    let handlers = vec![HANDLER.parse().unwrap()];
    Registration { handlers, watchers: (0..watchers).map(named).collect(), ..Default::default() }
}

#[tokio::test]
async fn of_a_large_announcement_a_transaction_takes_some_and_claims_do_not_wait_for_the_rest() {
    const AT_ONCE: u32 = 64;
    const MANY: u32 = 300;
    let folder = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let running = running_by(&folder, gate.clone()).await;
    let engine = &running.engine;
    let before = engine.heads().borrow().audit;
    let announced = announce(engine, large(MANY).watchers).boxed();
    together(engine, &gate, vec![announced, running.append(0..1, "seen_0").boxed()]).await;
    let rows = engine.store().audit_after(before, 1_000).await.unwrap();
    let taken = rows.iter().filter(|row| row.records.contains("watcher_registered")).count();
    assert_eq!(taken as u32, MANY.div_ceil(AT_ONCE), "it is answered with the last of them");
    running.append(1..2, "seen_0").await;
    running.settled().await;
    let mut begins: Vec<_> = (engine.watchers(false).await.unwrap().into_iter())
        .map(|view| (view.row.key.local.as_str().to_owned(), view.row.since_seq))
        .collect();
    begins.sort_unstable();
    let expected = |number| (format!("w-{number:04}"), Seq(u64::from(number >= AT_ONCE)));
    assert_eq!(begins, (0..MANY).map(expected).collect::<Vec<_>>());
    check_all(&running).await;
    running.stop().await;
}

/// The engine ends in the middle of an announcement, in order or not; the plugin comes up again and announces
/// all of it.
#[tokio::test]
async fn an_announcement_that_was_cut_short_is_whole_after_the_next_one() {
    const MANY: u32 = 2_000;
    for in_order in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let gate = Arc::new(Gate::default());
        let first = running_by(&folder, gate.clone()).await;
        let plugin: PluginName = PLUGIN.parse().unwrap();
        let incarnation = first.engine.plugin_row(&plugin).unwrap().incarnation;
        let engine = first.engine.clone();
        let before = engine.heads().borrow().audit.0;
        gate.close();
        let mut announced = engine.announce(plugin, incarnation, large(MANY)).boxed();
        assert!((&mut announced).now_or_never().is_none(), "the writer is held");
        // At each of its looks at the clock, until a part of it is on the disk.
        while engine.heads().borrow().audit.0 < before + 2 {
            gate.let_by();
        }
        let mut ended = match in_order {
            true => first.stop().boxed(),
            false => first.kill().boxed(),
        };
        for _ in 0..10 {
            assert!((&mut ended).now_or_never().is_none(), "the writer is held");
            tokio::task::yield_now().await;
        }
        gate.open();
        let (announced, ()) = tokio::join!(announced, ended);
        assert!(matches!(announced, Err(RequestError::Gone(_))), "{announced:?}");
        drop(engine);

        let again = engine_by(&folder, Arc::new(SystemClock::new())).await;
        let stand = again.engine.watchers(false).await.unwrap().len();
        assert!((1..MANY as usize).contains(&stand), "{stand} stand, in order: {in_order}");
        again.append(0..1, "seen_0").await;
        let transport = Arc::new(LocalPlugin(|_: &Attempt| Ended::bare(done())));
        again.announcing(64, large(MANY), transport).await;
        again.append(1..2, "seen_0").await;
        again.settled().await;
        let watchers = again.engine.watchers(true).await.unwrap();
        assert_eq!(watchers.len(), MANY as usize);
        assert!(watchers.iter().all(|view| view.row.revision == 1), "each was declared once");
        let numbers: Vec<_> = watchers.iter().map(|view| view.row.number).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "told of in pieces, each once");
        let newest = again.engine.newest_watchers(true, 3).await.unwrap();
        let newest: Vec<_> = newest.iter().map(|view| view.row.number).collect();
        assert_eq!(newest, [numbers[1_999], numbers[1_998], numbers[1_997]]);
        check_all(&again).await;
        again.stop().await;
    }
}

/// Asks for all of these at once: the writer is held while they come, and finds them in its inbox together, in
/// their order.
async fn together(engine: &Engine, gate: &Gate, requests: Vec<BoxFuture<'_, ()>>) {
    gate.close();
    // It looks at the clock to answer.
    let mut asked = engine.watchers(false).boxed();
    assert!((&mut asked).now_or_never().is_none(), "the writer does not answer while it is held");
    gate.until_held();
    let mut all = join_all(requests).boxed();
    assert!((&mut all).now_or_never().is_none(), "the writer does not answer while it is held");
    gate.open();
    tokio::join!(all, asked).1.expect("the engine runs");
}

#[tokio::test]
async fn within_one_transaction_the_order_decides() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let running = running_by(&folder, gate.clone()).await;
    let engine = &running.engine;
    let append = |id: u32| running.append(id..id + 1, "seen_0").boxed();
    let declare = |predicate: &'static str| declare(engine, "w", predicate).map(drop).boxed();
    let remove =
        engine.command(key("w"), WatcherCommand::Remove).map(|row| drop(row.unwrap())).boxed();
    let requests = vec![
        append(1),
        declare("seen_0"),
        append(2),
        declare("seen_1"),
        append(3),
        declare("seen_0"),
        append(4),
        remove,
        append(5),
        declare("seen_0"),
        append(6),
    ];
    let before = engine.heads().borrow().audit;
    together(engine, &gate, requests).await;
    let rows = engine.store().audit_after(before, 1_000).await.unwrap();
    let holds = |what: &str| rows.iter().filter(|row| row.records.contains(what)).count();
    assert_eq!(holds("watcher_registered"), 1, "all of it is one transaction");
    assert_eq!(holds("\"type\":\"matched\""), 1, "all of it is one transaction");
    running.settled().await;
    let mut jobs: Vec<_> = running.jobs().await;
    jobs.sort_unstable_by_key(|job| job.seq);
    let fires: Vec<_> =
        jobs.iter().map(|job| (job.seq.unwrap().0, job.generation, job.revision)).collect();
    assert_eq!(fires, [(2, 0, 1), (4, 0, 3), (6, 1, 4)]);
    check_all(&running).await;
    running.stop().await;
}

#[tokio::test]
async fn of_many_registrations_a_transaction_takes_some_and_claims_do_not_wait_for_the_rest() {
    const AT_ONCE: u32 = 16;
    const MANY: u32 = 100;
    let folder = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let running = running_by(&folder, gate.clone()).await;
    let engine = &running.engine;
    let name = |number: u32| format!("w-{number:03}");
    let declared = |number: u32| {
        let local = name(number);
        async move { drop(declare(engine, &local, "seen_0").await) }.boxed()
    };
    let mut requests: Vec<_> = (0..MANY).map(declared).collect();
    requests.push(running.append(0..1, "seen_0").boxed());
    together(engine, &gate, requests).await;
    running.settled().await;
    let mut begins: Vec<_> = (engine.watchers(false).await.unwrap().into_iter())
        .map(|view| (view.row.key.local.as_str().to_owned(), view.row.since_seq))
        .collect();
    begins.sort_unstable();
    let expected: Vec<_> =
        (0..MANY).map(|number| (name(number), Seq(u64::from(number >= AT_ONCE)))).collect();
    assert_eq!(begins, expected, "in their order, those of the second transaction after the claim");
    check_all(&running).await;

    // One that stops has done what was asked for before.
    let again = (0..MANY).map(|number| {
        let declaration = declaration(&name(number), "seen_1");
        async move { drop(engine.declare(declaration).await.expect("it was asked for in time")) }
            .boxed()
    });
    let mut requests: Vec<_> = again.collect();
    requests.push(engine.stop().boxed());
    together(engine, &gate, requests).await;
    running.stop().await;
}
