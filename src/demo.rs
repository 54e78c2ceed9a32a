//! `axwatch demo`: a repository's history as claims, a fire for each commit, and the counts of it.
//!
//! In: a repository, and a store that is new or that an earlier demo left. Out: [`Counts`]. An engine
//! of its own with the shipped plugins does the work, as `axwatch serve` would: the plugin `git`
//! reads the repository on behalf of one job, and two watchers hand what they match to `notify.file`.
//!
//! A kill at any moment loses nothing: the same command with the same store goes on where it was and
//! ends at the same counts, because claims have ids of their own and jobs are rows.
//!
//! Not here: what is printed (`cli::demo`), what a plugin does (`plugins/`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use axwatch_ats::JobsQuery;
use axwatch_core::Declaration;
use axwatch_core::supervise::Status;
use axwatch_engine::plugin::{PluginHost, PluginView};
use axwatch_engine::{Engine, WatcherView};
use axwatch_model::{
    Declared, JobNumber, JobOrigin, JobRow, JobState, Owner, PluginName, Seq, WatcherNumber,
};
use serde::Serialize;
use serde_json::json;

use crate::fault::Fault;

/// The watchers of a demo: local id, what it waits for.
const WATCHERS: [(&str, &str); 2] =
    [(COMMITS, "is is_commit"), ("demo-directories", "is modified_in")];
/// The one whose fires are as many as there are commits.
pub const COMMITS: &str = "demo-commits";
/// Who acts on both.
const HANDLER: &str = "notify.file";
/// Who reads the repository, as rows of jobs have it.
const READER: &str = "git/ixgest.git";
/// How often what is going on is looked at: 10 times a second, as often as a bar is worth drawing.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the plugins may take to be ready; they are our own program, and a busy machine is slow.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// What does the work of a demo.
const PLUGINS: [&str; 2] = ["git", "notify"];
/// Rows of jobs that are read at once.
const ROWS_AT_ONCE: usize = 1_000;

/// The plugins that a demo needs: others that ship would only have to be waited for.
pub fn plugins() -> Vec<PluginName> {
    let named = PLUGINS.iter().map(|name| name.parse());
    named.collect::<Result<_, _>>().expect("the names of shipped plugins are names")
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Claims in the store.
    pub attestations: u64,
    /// Fires of [`COMMITS`].
    pub commit_fires: u64,
    /// Fires of both watchers.
    pub fires: u64,
    /// The repository has been read.
    pub is_read: bool,
}

/// What it came to.
#[derive(Debug, Serialize)]
pub struct Counts {
    /// Claims in the store.
    pub attestations: u64,
    /// Claims that a watcher of the demo matched, once for each that did.
    pub matches: u64,
    /// Jobs that these matches became.
    pub fires: u64,
    /// Fires of the watcher on commits.
    pub commit_fires: u64,
    /// Attempts that the fires took.
    pub attempts: u64,
    /// Fires that are done.
    pub completed: u64,
    /// Fires that were given up.
    pub dead: u64,
    /// Commits that any ref or HEAD of the repository leads to.
    pub commits: u64,
    /// From the look at the repository until the last fire had ended.
    pub seconds: f64,
    /// Claims and fires of this run alone, for rates.
    #[serde(skip)]
    pub this_run: (u64, u64),
    /// How long jobs took, by handler; the slowest first.
    #[serde(skip)]
    pub handlers: Vec<HandlerTime>,
    /// A fire to ask about: the last one of [`COMMITS`].
    #[serde(skip)]
    pub last_fire: Option<String>,
}

/// How long the jobs of one handler took, from the start of the last attempt to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandlerTime {
    /// Which handler.
    pub handler: String,
    /// Its jobs that ended.
    pub jobs: u64,
    /// Half of them took no longer, in milliseconds.
    pub median_ms: u64,
    /// What the slowest took, in milliseconds.
    pub longest_ms: u64,
}

/// One demo.
pub struct Demo {
    /// The repository, as an absolute path.
    repository: PathBuf,
    commits: u64,
    /// Where the fires are written to.
    folder: PathBuf,
    began: Instant,
    /// Claims and fires that were there before.
    before: (u64, u64),
}

impl Demo {
    /// Looks at the repository, and refuses what cannot be read before anything is made.
    ///
    /// # Errors
    /// There is no repository with a commit, in the words of the plugin that would read it.
    pub fn of(repository: &Path, store: &Path) -> Result<Demo> {
        let shown = repository.display();
        let repository = std::path::absolute(repository)
            .with_context(|| format!("cannot tell where {shown} is"))?;
        let commits = axwatch_plugin_git::count_commits(&repository).map_err(|error| {
            Fault::Refused(format!(
                "{}; name a repository with a history: axwatch demo --repo PATH",
                error.chain()
            ))
        })?;
        let store = std::path::absolute(store)
            .with_context(|| format!("cannot tell where {} is", store.display()))?;
        let folder = store.parent().unwrap_or(&store).to_owned();
        Ok(Demo { repository, commits, folder, began: Instant::now(), before: (0, 0) })
    }

    /// The repository, as an absolute path.
    pub fn repository(&self) -> &Path {
        &self.repository
    }

    /// How many commits it has.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// Does all of it, and says ten times a second how far it is.
    ///
    /// # Errors
    /// The store is somebody's work, a plugin did not come up or failed, the repository could not be
    /// read, the disk is nearly full, or the engine stopped.
    pub async fn run(
        mut self,
        engine: &Engine,
        plugins: &PluginHost,
        tell: impl Fn(Progress),
    ) -> Result<Counts> {
        refuse_others(engine).await?;
        plugins_are_ready(plugins).await?;
        for (local, when) in WATCHERS {
            engine.declare(self.declaration(local, when)).await?;
        }
        let first = progress(engine, false).await?;
        self.before = (first.attestations, first.fires);
        let reading = self.reading(engine).await?;
        settled(engine, plugins, &reading, tell).await?;
        self.counts(engine).await
    }

    fn declaration(&self, local: &str, when: &str) -> Declaration {
        let path = self.folder.join(format!("{local}.jsonl"));
        let params = json!({ "path": path.display().to_string() }).to_string();
        Declaration {
            local: local.to_owned(),
            declared: Declared::Ax(when.to_owned()),
            handlers: vec![HANDLER.to_owned()],
            params: Some(Arc::from(params)),
            max_fires_per_second: 0,
            zero_is_never: false,
            max_chain: 0,
            since: None,
            max_attempts: 0,
            max_age: None,
        }
    }

    /// The job that reads the repository: the one that an earlier demo left open, or a new one. What
    /// it claims again changes nothing.
    async fn reading(&self, engine: &Engine) -> Result<JobRow> {
        let payload = json!({ "repository_source": self.repository.display().to_string() });
        let payload: Arc<[u8]> = payload.to_string().into_bytes().into();
        let mut after = JobNumber(0);
        loop {
            let open = engine.store().open_jobs(after, ROWS_AT_ONCE).await?;
            let Some(last) = open.last() else { break };
            after = last.number;
            let is_ours = |job: &JobRow| {
                job.origin == JobOrigin::Api
                    && &*job.handler == READER
                    && job.payload.as_ref() == Some(&payload)
            };
            if let Some(left) = open.into_iter().find(is_ours) {
                return Ok(left);
            }
        }
        Ok(engine.enqueue(READER.to_owned(), payload).await?)
    }

    async fn counts(&self, engine: &Engine) -> Result<Counts> {
        let seconds = self.began.elapsed().as_secs_f64();
        let progress = progress(engine, true).await?;
        let ours = our_watchers(engine).await?;
        let mut counts = Counts {
            attestations: progress.attestations,
            matches: ours.iter().map(|watcher| watcher.counters.matches).sum(),
            fires: progress.fires,
            commit_fires: progress.commit_fires,
            attempts: 0,
            completed: 0,
            dead: 0,
            commits: self.commits,
            seconds: (seconds * 1_000.0).round() / 1_000.0,
            this_run: (progress.attestations - self.before.0, progress.fires - self.before.1),
            handlers: Vec::new(),
            last_fire: None,
        };
        let mut times: BTreeMap<Arc<str>, Vec<u64>> = BTreeMap::new();
        let mut query = JobsQuery { limit: ROWS_AT_ONCE, ..JobsQuery::default() };
        loop {
            let rows = engine.store().jobs(&query).await?;
            let Some(oldest) = rows.last() else { break };
            query.before = Some(oldest.number);
            for row in &rows {
                if let (Some(from), Some(to)) = (row.started_at, row.completed_at) {
                    let ms = to.ms().saturating_sub(from.ms());
                    times.entry(row.handler.clone()).or_default().push(ms.try_into().unwrap_or(0));
                }
                let watcher = ours.iter().find(|ours| Some(ours.row.number) == row.watcher);
                if let Some(watcher) = watcher {
                    counts.add(row, watcher);
                }
            }
        }
        counts.handlers = slowest_first(times);
        Ok(counts)
    }
}

impl Counts {
    fn add(&mut self, row: &JobRow, watcher: &WatcherView) {
        self.attempts += u64::from(row.attempts);
        self.completed += u64::from(row.state == JobState::Completed);
        self.dead += u64::from(row.state == JobState::Failed);
        if self.last_fire.is_none() && watcher.row.key.local.as_str() == COMMITS {
            self.last_fire = Some(row.id.to_string());
        }
    }
}

fn slowest_first(times: BTreeMap<Arc<str>, Vec<u64>>) -> Vec<HandlerTime> {
    let time = |(handler, mut times): (Arc<str>, Vec<u64>)| {
        times.sort_unstable();
        HandlerTime {
            handler: handler.to_string(),
            jobs: times.len() as u64,
            median_ms: times[times.len() / 2],
            longest_ms: times.last().copied().unwrap_or_default(),
        }
    };
    let mut handlers: Vec<_> = times.into_iter().map(time).collect();
    handlers.sort_by_key(|handler| std::cmp::Reverse(handler.median_ms));
    handlers
}

/// Our two watchers, those of them that are declared.
async fn our_watchers(engine: &Engine) -> Result<Vec<WatcherView>> {
    let mut watchers = engine.watchers(false).await?;
    watchers.retain(is_ours);
    Ok(watchers)
}

fn is_ours(watcher: &WatcherView) -> bool {
    let key = &watcher.row.key;
    key.owner == Owner::User && WATCHERS.iter().any(|(local, _)| *local == key.local.as_str())
}

/// A store with other watchers is somebody's work, and would be worked on without its configuration.
async fn refuse_others(engine: &Engine) -> Result<()> {
    let watchers = engine.watchers(false).await?;
    match watchers.iter().find(|watcher| !is_ours(watcher)) {
        None => Ok(()),
        Some(other) => {
            let told = format!(
                "this store has watchers that are not of a demo, such as {}: `axwatch serve` works on it; for a demo name another --store, or none",
                other.row.key
            );
            Err(Fault::Refused(told).into())
        }
    }
}

async fn progress(engine: &Engine, is_read: bool) -> Result<Progress> {
    let Seq(attestations) = engine.heads().borrow().seq;
    let ours = our_watchers(engine).await?;
    let of_commits = ours.iter().filter(|watcher| watcher.row.key.local.as_str() == COMMITS);
    Ok(Progress {
        attestations,
        commit_fires: of_commits.map(|watcher| watcher.counters.fires).sum(),
        fires: ours.iter().map(|watcher| watcher.counters.fires).sum(),
        is_read,
    })
}

/// Waits until the repository is read, all of it is matched and every fire of ours has ended.
async fn settled(
    engine: &Engine,
    plugins: &PluginHost,
    reading: &JobRow,
    tell: impl Fn(Progress),
) -> Result<()> {
    let ours: Vec<_> =
        our_watchers(engine).await?.iter().map(|watcher| watcher.row.number).collect();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // No job of ours up to this one is open any more.
    let mut ended = JobNumber(0);
    loop {
        tick.tick().await;
        let row = engine.store().job(reading.id).await?.context("the job that reads is gone")?;
        let is_read = row.state == JobState::Completed;
        tell(progress(engine, is_read).await?);
        if matches!(row.state, JobState::Failed | JobState::Cancelled) {
            let reason = row.error.unwrap_or_else(|| format!("its job was {}", row.state));
            return Err(Fault::Refused(format!("the repository was not read: {reason}")).into());
        }
        none_failed(&plugins.list())?;
        if engine.overview().await?.disk_low {
            let told = "the disk of the store is nearly full, so that nothing more is taken; make room, or name a --store on another disk";
            return Err(Fault::Refused(told.to_owned()).into());
        }
        let heads = *engine.heads().borrow();
        if is_read && heads.matched == heads.seq {
            match first_open(engine, ended, &ours).await? {
                Some(open) => ended = JobNumber(open.0 - 1),
                None => return Ok(()),
            }
        }
    }
}

/// The first open job after this one that is a fire of these watchers.
async fn first_open(
    engine: &Engine,
    mut after: JobNumber,
    watchers: &[WatcherNumber],
) -> Result<Option<JobNumber>> {
    loop {
        let open = engine.store().open_jobs(after, ROWS_AT_ONCE).await?;
        let Some(last) = open.last() else { return Ok(None) };
        after = last.number;
        let is_ours = |job: &&JobRow| job.watcher.is_some_and(|number| watchers.contains(&number));
        if let Some(ours) = open.iter().find(is_ours) {
            return Ok(Some(ours.number));
        }
    }
}

/// A plugin that has failed does not come back by waiting.
fn none_failed(plugins: &[PluginView]) -> Result<()> {
    match plugins.iter().find(|plugin| plugin.state == Status::Failed) {
        None => Ok(()),
        Some(plugin) => {
            let reason = plugin.error.as_deref().unwrap_or("it says no reason");
            Err(Fault::Refused(format!("plugin {} failed: {reason}", plugin.name)).into())
        }
    }
}

/// Waits until each plugin takes jobs.
async fn plugins_are_ready(plugins: &PluginHost) -> Result<()> {
    let ready = async {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tick.tick().await;
            let views = plugins.list();
            none_failed(&views)?;
            let is_ready = |plugin: &PluginView| plugin.state == Status::Ready;
            if views.iter().filter(|plugin| is_ready(plugin)).count() == PLUGINS.len() {
                return Ok(());
            }
        }
    };
    match tokio::time::timeout(READY_WITHIN, ready).await {
        Ok(ready) => ready,
        Err(_) => {
            let secs = READY_WITHIN.as_secs();
            let problem = format!("the plugins were not ready within {secs} s; the log says more");
            Err(Fault::Refused(problem).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_handler_comes_first() {
        let times =
            BTreeMap::from([(Arc::from("quick"), vec![3, 1, 2]), (Arc::from("slow"), vec![900])]);
        let handlers = slowest_first(times);
        let shown: Vec<_> = handlers
            .iter()
            .map(|time| (time.handler.as_str(), time.jobs, time.median_ms, time.longest_ms))
            .collect();
        assert_eq!(shown, [("slow", 1, 900, 900), ("quick", 3, 2, 3)]);
    }
}
