//! The stored handlers: which there are, what their code declares, and the code itself.
//!
//! In comes what the host keeps; out goes what is to be announced, and a claim `handler:faulted` for
//! each version that does not load. The host is the truth, and all of this is read anew after a restart.
//!
//! A handler whose newest version is broken keeps the watchers and schedules of the newest version that
//! was not, so that what they wait for is not missed meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axwatch_sdk::{Claim, Failure, Host, Query, Schedule, StoredHandler, Watcher};
use serde::Serialize;
use serde_json::json;

use crate::frame::{CheckItem, Checked, Scheduled, Watched};
use crate::pool::Pool;
use crate::worker::{Broken, NoWorker, Source};
use crate::{NAME, SCRIPT, SYNC};

/// Bytes of code of one handler that are checked and run.
pub(crate) const CODE_BYTES_MAX: usize = 1024 * 1024;
/// Handlers of one round trip to a worker, and bytes of them.
const BATCH_ITEMS_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long such a round trip may take: twice that fits into a call of the host.
const CHECK_WITHIN: Duration = Duration::from_secs(12);
/// How long is waited for a worker to check with.
const WORKER_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of code that are kept ready for jobs.
const CODE_BYTES_KEPT: usize = 64 * 1024 * 1024;
/// Older versions that are looked at for one that loads.
const OLDER_MAX: usize = 10;
/// Bytes of the reason in a claim.
const REASON_BYTES_MAX: usize = 2_000;

/// What is known of the stored handlers.
#[derive(Default)]
pub(crate) struct Catalogue {
    state: Mutex<State>,
    /// One sync at a time.
    syncing: tokio::sync::Mutex<u64>,
    /// Syncs that were asked for.
    asked: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
struct State {
    handlers: BTreeMap<String, Entry>,
    codes: Codes,
    /// What was last said of itself to the host.
    announced: Option<Vec<String>>,
    report: Report,
}

/// A stored handler.
#[derive(Clone)]
struct Entry {
    version: Arc<str>,
    /// Whether its code was checked or need not be: if not, it is new again the next time.
    is_checked: bool,
    checked: Arc<Checked>,
    /// What its newest version that loads declares.
    declared: Arc<Checked>,
    /// Why the version in force does not run.
    broken: Option<String>,
}

/// What came of a check, and whether that is the last word.
type Verdict = (Arc<Checked>, bool);

/// What a sync came to.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    pub handlers: usize,
    pub watchers: usize,
    pub schedules: usize,
    pub refused: Vec<String>,
    pub broken: Vec<BrokenHandler>,
}

/// A handler that does not load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BrokenHandler {
    name: String,
    version: String,
    reason: String,
}

/// Why a sync did not come to anything.
#[derive(Debug)]
pub(crate) enum NoSync {
    /// There is no interpreter to read code with.
    Worker(NoWorker),
    /// The host keeps no handlers.
    NoneKept(String),
    /// The host.
    Host(Failure),
}

impl From<NoSync> for Failure {
    fn from(error: NoSync) -> Failure {
        match error {
            NoSync::Worker(problem) => Failure::retry(problem),
            NoSync::NoneKept(reason) => Failure::Permanent(reason),
            NoSync::Host(failure) => failure,
        }
    }
}

impl Catalogue {
    /// The handlers, `python.NAME` each.
    pub(crate) fn handlers(&self) -> Vec<String> {
        self.lock().handlers.keys().map(|name| format!("{NAME}.{name}")).collect()
    }

    /// The watchers that code declares.
    pub(crate) fn watchers(&self) -> Vec<Watcher> {
        let state = self.lock();
        let all = state.handlers.iter().flat_map(|(name, entry)| {
            entry.declared.watchers.iter().map(move |watched| watcher(name, watched))
        });
        all.collect()
    }

    /// The schedules that code declares.
    pub(crate) fn schedules(&self) -> Vec<Schedule> {
        let state = self.lock();
        let all = state.handlers.iter().flat_map(|(name, entry)| {
            entry.declared.schedules.iter().map(move |scheduled| schedule(name, scheduled))
        });
        all.collect()
    }

    /// Whether this version has been seen by a sync, and what there is to announce has been announced.
    pub(crate) fn has_told_of(&self, version: &str) -> bool {
        let is_known = self.lock().handlers.values().any(|entry| &*entry.version == version);
        is_known && self.is_told(&self.announcement())
    }

    /// The function that a schedule of this handler's code is for.
    pub(crate) fn function_of(&self, name: &str, schedule: &str) -> Option<String> {
        let state = self.lock();
        let declared = &state.handlers.get(name)?.declared.schedules;
        let scheduled = declared.iter().find(|scheduled| scheduled.id == schedule)?;
        Some(scheduled.function.clone())
    }

    /// What the last sync came to.
    pub(crate) fn report(&self) -> Report {
        self.lock().report.clone()
    }

    /// The code of a version, or of the one that was last seen in force.
    ///
    /// None when there is no such handler.
    pub(crate) async fn source(
        &self,
        host: &Host,
        name: &str,
        version: Option<&str>,
    ) -> Result<Option<Source>, Failure> {
        let version: Arc<str> = match version {
            Some(version) => version.into(),
            None => match self.lock().handlers.get(name) {
                Some(entry) => entry.version.clone(),
                None => return Ok(None),
            },
        };
        if let Some(source) = self.lock().codes.get(&version) {
            return Ok(Some(source));
        }
        let Some(stored) = host.stored_handler(&version).await? else { return Ok(None) };
        let source = source(&stored);
        self.lock().codes.put(source.clone());
        Ok(Some(source))
    }

    /// Reads all stored handlers and what is new of them, and tells of those that do not load. Who asks
    /// while another sync is under way shares the next.
    pub(crate) async fn sync(&self, host: &Host, pool: &Pool) -> Result<Report, NoSync> {
        use std::sync::atomic::Ordering::SeqCst;

        let ours = self.asked.fetch_add(1, SeqCst) + 1;
        let mut covered = self.syncing.lock().await;
        if *covered >= ours {
            return Ok(self.report());
        }
        let covers = self.asked.load(SeqCst);
        let stored = host.stored_handlers().await.map_err(|failure| match failure {
            Failure::Permanent(reason) => NoSync::NoneKept(reason),
            other => NoSync::Host(other),
        })?;
        let checks = self.check_new(&stored, pool).await?;
        let report = self.take_in(host, pool, stored, checks).await?;
        *covered = covers;
        Ok(report)
    }

    /// Announces, when there is something else to announce than there was.
    pub(crate) async fn announce(&self, host: &Host) -> Result<Report, Failure> {
        let now = self.announcement();
        if !self.is_told(&now) {
            // Without an answer nobody knows what the host has of it.
            self.lock().announced = None;
            let refused = host.announce().await?;
            for line in &refused {
                tracing::warn!(line, "the host refused a part of what handlers declare");
            }
            let mut state = self.lock();
            state.announced = Some(now);
            state.report.refused = refused;
        }
        Ok(self.report())
    }

    fn is_told(&self, announcement: &[String]) -> bool {
        self.lock().announced.as_deref() == Some(announcement)
    }

    /// What Initialize is answered with is announced.
    pub(crate) fn is_announced(&self) {
        let now = self.announcement();
        self.lock().announced = Some(now);
    }

    /// All that code declares, as text to be compared. The handlers themselves are the host's, which has them
    /// from their claims: an announcement for each would keep who stores many waiting for its turn.
    fn announcement(&self) -> Vec<String> {
        let state = self.lock();
        let of = |(name, entry): (&String, &Entry)| {
            let (watchers, schedules) = (&entry.declared.watchers, &entry.declared.schedules);
            let declares = !(watchers.is_empty() && schedules.is_empty());
            declares.then(|| json!([name, watchers, schedules]).to_string())
        };
        state.handlers.iter().filter_map(of).collect()
    }

    /// What came of checking each version that was not seen before, and whether that is the last word.
    ///
    /// What is known not to load is not read again, unless it may declare something: code that takes long to read
    /// would keep all handlers away at each start.
    async fn check_new(
        &self,
        stored: &[StoredHandler],
        pool: &Pool,
    ) -> Result<HashMap<String, Verdict>, NoSync> {
        let checked = |entry: &Entry| entry.is_checked.then(|| entry.version.clone());
        let known: HashSet<Arc<str>> = self.lock().handlers.values().filter_map(checked).collect();
        let mut verdicts = HashMap::new();
        let (mut versions, mut items) = (Vec::new(), Vec::new());
        for handler in stored.iter().filter(|of| !known.contains(of.version.as_str())) {
            match &handler.faulted {
                Some(reason) if !may_declare(&handler.code) => {
                    let checked = Arc::new(Checked::refused(reason.clone()));
                    verdicts.insert(handler.version.clone(), (checked, !is_unread(handler)));
                }
                _ => {
                    versions.push(handler.version.clone());
                    items.push(CheckItem { name: &handler.name, code: &handler.code });
                }
            }
        }
        let found = check_all(pool, &items).await.map_err(NoSync::Worker)?;
        let found = found.into_iter().map(|checked| (Arc::new(checked), true));
        verdicts.extend(versions.into_iter().zip(found));
        Ok(verdicts)
    }

    async fn take_in(
        &self,
        host: &Host,
        pool: &Pool,
        stored: Vec<StoredHandler>,
        checks: HashMap<String, Verdict>,
    ) -> Result<Report, NoSync> {
        let before = self.lock().handlers.clone();
        let mut handlers = BTreeMap::new();
        for handler in &stored {
            let old = before.get(&handler.name);
            let (checked, is_checked) = match checks.get(&handler.version) {
                Some(verdict) => verdict.clone(),
                None => match old {
                    Some(old) => (old.checked.clone(), old.is_checked),
                    None => continue,
                },
            };
            let says = checked.error.as_ref().map(crate::frame::Mistake::line);
            if let (Some(reason), None) = (&says, &handler.faulted) {
                tell_fault(host, &handler.name, &handler.version, reason)
                    .await
                    .map_err(NoSync::Host)?;
            }
            let broken = handler.faulted.clone().or(says);
            let declared = match (checked.ok, old) {
                (true, _) => checked.clone(),
                (false, Some(old)) => old.declared.clone(),
                (false, None) => older(host, pool, handler).await?.unwrap_or(checked.clone()),
            };
            let version = Arc::from(handler.version.as_str());
            let entry = Entry { version, is_checked, checked, declared, broken };
            handlers.insert(handler.name.clone(), entry);
        }
        let mut state = self.lock();
        // What cannot be read is asked for by each job, which is told so until it can be.
        let readable = stored.iter().filter(|handler| !is_unread(handler));
        readable.for_each(|handler| state.codes.put(source(handler)));
        state.report = Report {
            handlers: handlers.len(),
            watchers: handlers.values().map(|entry| entry.declared.watchers.len()).sum(),
            schedules: handlers.values().map(|entry| entry.declared.schedules.len()).sum(),
            refused: std::mem::take(&mut state.report.refused),
            broken: handlers.iter().filter_map(broken_handler).collect(),
        };
        state.handlers = handlers;
        Ok(state.report.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the host could not read the claim that has the code.
fn is_unread(handler: &StoredHandler) -> bool {
    handler.code.is_empty() && handler.faulted.is_some()
}

/// Whether code may declare something. Sure only of those that do not.
pub(crate) fn may_declare(code: &str) -> bool {
    code.contains('@') && (code.contains("watch") || code.contains("schedule"))
}

/// Says what is wrong with code and what it declares. Code that ends a worker, or keeps it too long, is
/// found and costs no other its check. Whether it is the code or the machine is seen by a second try.
pub(crate) async fn check_all(
    pool: &Pool,
    items: &[CheckItem<'_>],
) -> Result<Vec<Checked>, NoWorker> {
    let mut found: Vec<Option<Checked>> = items.iter().map(refused).collect();
    let open: Vec<usize> = (0..items.len()).filter(|&index| found[index].is_none()).collect();
    let mut batches = batches(items, &open);
    let mut tried = HashSet::new();
    while let Some(batch) = batches.pop() {
        let asked: Vec<CheckItem<'_>> = batch.iter().map(|&index| items[index]).collect();
        let mut worker = pool.lend_to_check(WORKER_WITHIN).await?;
        match worker.check(&asked, CHECK_WITHIN).await {
            Ok(answers) => {
                worker.give_back();
                for (index, answer) in batch.into_iter().zip(answers) {
                    found[index] = Some(answer);
                }
            }
            // It is one of them.
            Err(_) if batch.len() > 1 => {
                let (one, other) = batch.split_at(batch.len() / 2);
                batches.extend([one.to_vec(), other.to_vec()]);
            }
            // It may be what another job left in the worker, or the machine.
            Err(broken) if tried.insert(batch[0]) => {
                tracing::warn!(handler = items[batch[0]].name, %broken, "a check is tried again");
                batches.push(batch);
            }
            Err(broken) => {
                let reason = match broken {
                    Broken::TimedOut(within) => format!("reading it takes longer than {within:?}"),
                    other => format!("python cannot read it: {other}"),
                };
                found[batch[0]] = Some(Checked::refused(reason));
            }
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// What needs no interpreter to be refused.
fn refused(item: &CheckItem<'_>) -> Option<Checked> {
    let bytes = item.code.len();
    if bytes > CODE_BYTES_MAX {
        let problem = format!("the code has {bytes} bytes; at most {CODE_BYTES_MAX} are run");
        return Some(Checked::refused(problem));
    }
    let taken = [SCRIPT, SYNC].into_iter().find(|taken| taken[NAME.len() + 1..] == *item.name)?;
    Some(Checked::refused(format!(
        "{taken} is a handler of the plugin itself: choose another name"
    )))
}

fn batches(items: &[CheckItem<'_>], open: &[usize]) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for &index in open {
        bytes += items[index].code.len();
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_ITEMS_MAX && bytes <= BATCH_BYTES_MAX => {
                batch.push(index);
            }
            _ => {
                bytes = items[index].code.len();
                batches.push(vec![index]);
            }
        }
    }
    batches
}

/// What the newest version before this one declares that loads.
async fn older(
    host: &Host,
    pool: &Pool,
    handler: &StoredHandler,
) -> Result<Option<Arc<Checked>>, NoSync> {
    let query = Query::default().subject(&handler.name).predicate("handler").context(NAME);
    let claims = host.query(query.limit(OLDER_MAX)).await.map_err(NoSync::Host)?;
    for claim in claims.iter().filter(|claim| claim.seq < handler.seq) {
        // What was not allowed to be a handler is none of its versions.
        let Some(older) = host.stored_handler(&claim.id).await.map_err(NoSync::Host)? else {
            continue;
        };
        if older.name != handler.name {
            continue;
        }
        if !may_declare(&older.code) {
            return Ok(Some(Arc::new(Checked::nothing())));
        }
        let item = CheckItem { name: &older.name, code: &older.code };
        let checked = check_all(pool, &[item]).await.map_err(NoSync::Worker)?;
        if let Some(checked) = checked.into_iter().find(|checked| checked.ok) {
            return Ok(Some(Arc::new(checked)));
        }
    }
    Ok(None)
}

/// Claims that a version of a handler does not load, once a version, and in the name of no job: it is
/// not the handler that says so. Answers why the host does not know it then, when that is so.
pub(crate) async fn tell_fault(
    host: &Host,
    name: &str,
    version: &str,
    reason: &str,
) -> Result<Option<String>, Failure> {
    tracing::warn!(handler = name, version, reason, "a handler does not load");
    let error = match host.attest(fault(name, version, reason)).await {
        Ok(_) => return Ok(None),
        Err(Failure::Permanent(error)) => error,
        Err(failure) => return Err(failure),
    };
    // It may stand in other words. Or somebody else took its id, or the host does not want to know:
    // nothing that trying again helps.
    let stands =
        host.stored_handler(version).await?.is_some_and(|handler| handler.faulted.is_some());
    if stands {
        return Ok(None);
    }
    tracing::warn!(handler = name, version, error, "no claim that a handler does not load");
    Ok(Some(error))
}

fn fault(name: &str, version: &str, reason: &str) -> Claim {
    Claim::new(name, "handler:faulted", NAME)
        .id(format!("faulted-{version}"))
        .actor(name)
        .attribute("plugin", NAME)
        .attribute("handler", name)
        .attribute("reason", &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)])
        .attribute("version", version)
}

fn broken_handler((name, entry): (&String, &Entry)) -> Option<BrokenHandler> {
    let reason = entry.broken.clone()?;
    Some(BrokenHandler { name: name.clone(), version: entry.version.to_string(), reason })
}

fn source(stored: &StoredHandler) -> Source {
    Source {
        name: format!("handler {}", stored.name),
        version: Some(stored.version.as_str().into()),
        code: stored.code.as_str().into(),
    }
}

fn watcher(name: &str, watched: &Watched) -> Watcher {
    Watcher::new(&watched.id, format!("{NAME}.{name}"))
        .subjects(&watched.subjects)
        .predicates(&watched.predicates)
        .contexts(&watched.contexts)
        .actors(&watched.actors)
        .ax(&watched.ax)
        .max_fires_per_second(watched.max_fires_per_second)
        .since(&watched.since)
        .params(json!({ "function": watched.function }))
}

fn schedule(name: &str, scheduled: &Scheduled) -> Schedule {
    Schedule::new(&scheduled.id, format!("{NAME}.{name}"), scheduled.every_secs)
        .description(&scheduled.description)
}

/// Code that is ready, the latest of it.
#[derive(Default)]
struct Codes {
    by_version: HashMap<Arc<str>, (u64, Source)>,
    bytes: usize,
    uses: u64,
}

impl Codes {
    fn get(&mut self, version: &str) -> Option<Source> {
        self.uses += 1;
        let (used, source) = self.by_version.get_mut(version)?;
        *used = self.uses;
        Some(source.clone())
    }

    fn put(&mut self, source: Source) {
        let Some(version) = source.version.clone() else { return };
        self.uses += 1;
        if self.by_version.contains_key(&version) || source.code.len() > CODE_BYTES_KEPT {
            return;
        }
        self.bytes += source.code.len();
        self.by_version.insert(version, (self.uses, source));
        if self.bytes > CODE_BYTES_KEPT {
            self.make_room();
        }
    }

    /// Leaves the half that was used last.
    fn make_room(&mut self) {
        let mut by_use: Vec<(u64, Arc<str>)> =
            self.by_version.iter().map(|(version, (used, _))| (*used, version.clone())).collect();
        by_use.sort_unstable();
        for (_, version) in by_use {
            if self.bytes <= CODE_BYTES_KEPT / 2 {
                return;
            }
            if let Some((_, source)) = self.by_version.remove(&version) {
                self.bytes -= source.code.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_was_not_used_for_long_makes_room() {
        let mut codes = Codes::default();
        let code: Arc<str> = "x".repeat(CODE_BYTES_MAX).into();
        let version = |number: usize| Arc::from(format!("v{number}"));
        for number in 0..64 {
            let (version, code) = (Some(version(number)), code.clone());
            codes.put(Source { name: "handler x".into(), version, code });
        }
        assert!(codes.get("v0").is_some());
        let (version, code) = (Some(version(64)), code.clone());
        codes.put(Source { name: "handler x".into(), version, code });
        assert_eq!(codes.bytes, CODE_BYTES_KEPT / 2);
        assert!(codes.get("v0").is_some() && codes.get("v64").is_some());
        assert!(codes.get("v1").is_none());
    }

    #[test]
    fn batches_are_bounded_by_count_and_by_bytes() {
        let large = "x".repeat(CODE_BYTES_MAX);
        let items: Vec<_> = (0..10).map(|_| CheckItem { name: "x", code: &large }).collect();
        let all: Vec<usize> = (0..10).collect();
        let lengths: Vec<usize> = batches(&items, &all).iter().map(Vec::len).collect();
        assert_eq!(lengths, [4, 4, 2]);
        let items: Vec<_> = (0..600).map(|_| CheckItem { name: "x", code: "" }).collect();
        let all: Vec<usize> = (0..600).collect();
        let lengths: Vec<usize> = batches(&items, &all).iter().map(Vec::len).collect();
        assert_eq!(lengths, [256, 256, 88]);
    }
}
