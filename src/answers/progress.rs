//! One job as it goes on: what changes of it, what it says, how far it is and how fast.
//!
//! In: commits, which say "look again", and what attempts tell, which is ahead of the job's row by up to a
//! second. Out: what is new, in the order in which it was found. A reader that falls behind misses steps of
//! the progress, and nothing else.

use std::collections::VecDeque;
use std::mem::Discriminant;
use std::sync::Arc;
use std::time::Duration;

use axwatch_core::{Progressed, WaitReason, Waiting};
use axwatch_engine::{Engine, Heads};
use axwatch_model::{Clock, JobId, JobRow, JobState, Timestamp};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};

use super::jobs::add_waits;
use super::{AnswerError, Answers, Held};
use crate::views::{Job, JobLog, JobProgress, Progress};

/// The rate is that of the last minute.
const RATE_OVER: Duration = Duration::from_secs(60);
/// Steps of the last minute that are remembered.
const STEPS_MAX: usize = 256;
/// How long a reader rests after a change, so that a busy engine makes larger steps.
const PAUSE: Duration = Duration::from_millis(50);
/// Log entries from before that are told first.
const LOG_FIRST: u32 = 20;

/// Something new about a job.
#[derive(Debug, Clone)]
pub enum Told {
    /// It is as this says now, without its result unless it has ended.
    Job(Box<Job>),
    /// It said something.
    Log(JobLog),
    /// It has come so far.
    Progress(JobProgress),
}

/// A reader of one job as it goes on.
pub struct JobFollow {
    answers: Arc<Answers>,
    heads: watch::Receiver<Heads>,
    progressed: broadcast::Receiver<Arc<Progressed>>,
    clock: Arc<dyn Clock>,
    id: JobId,
    engine: Engine,
    /// What attempts told last and when, which the row may not say yet.
    live: Option<(Arc<Progressed>, Timestamp)>,
    state: Option<Essence>,
    progress: Option<(u32, Option<Progress>, Option<f64>)>,
    entries: Option<u32>,
    rate: Rate,
    /// Something has changed since the last look.
    may_be_other: bool,
    ended: bool,
}

/// What of a job is told anew when it changes.
#[derive(Debug, Clone, PartialEq)]
struct Essence {
    state: JobState,
    attempts: u32,
    due_at: Option<Timestamp>,
    error: Option<String>,
    waits: Option<Cause>,
}

/// What holds a job up, as far as that is told anew: not that others of its lane come and go before it.
#[derive(Debug, Clone, PartialEq)]
struct Cause {
    kind: Discriminant<WaitReason>,
    /// Which budget, and the minute in which that may end.
    budget: Option<(String, Option<i64>)>,
}

impl Cause {
    fn of(waiting: &Waiting) -> Option<Cause> {
        let kind = std::mem::discriminant(&waiting.reason);
        match &waiting.reason {
            WaitReason::Turn | WaitReason::PluginBusy { .. } | WaitReason::Retries => None,
            WaitReason::Budget(hold) => {
                let minute = hold.until.map(|until| until.ms().div_euclid(60_000));
                let budget = format!("{} of {}", hold.kind, hold.scope);
                Some(Cause { kind, budget: Some((budget, minute)) })
            }
            _ => Some(Cause { kind, budget: None }),
        }
    }
}

impl Answers {
    /// Follows a job from now on. The first that is told is the job as it is; of its log the last entries, or
    /// those after one that the reader has.
    pub fn follow_job(
        self: &Arc<Answers>,
        id: JobId,
        entries: Option<u32>,
        engine: &Engine,
    ) -> JobFollow {
        JobFollow {
            answers: Arc::clone(self),
            // In this order nothing happens between them and the first look.
            heads: engine.heads(),
            progressed: engine.progressed(),
            clock: Arc::clone(engine.clock()),
            engine: engine.clone(),
            id,
            live: None,
            state: None,
            progress: None,
            entries,
            rate: Rate::default(),
            may_be_other: true,
            ended: false,
        }
    }
}

impl JobFollow {
    /// Waits until a look at the job is worth while; false once it has ended and that was told, or when the
    /// engine has stopped. Whoever stops waiting loses nothing.
    pub async fn wait(&mut self) -> bool {
        if self.ended || !(self.may_be_other || self.changed().await) {
            return false;
        }
        self.may_be_other = true;
        if self.state.is_some() {
            tokio::time::sleep(PAUSE).await;
        }
        self.catch_up();
        true
    }

    /// Waits until the job may be another than it was; false when it cannot be any more.
    async fn changed(&mut self) -> bool {
        loop {
            tokio::select! {
                changed = self.heads.changed() => return changed.is_ok(),
                told = self.progressed.recv() => match told {
                    Ok(told) => {
                        if self.take(told) {
                            return true;
                        }
                    }
                    Err(RecvError::Lagged(_)) => return true,
                    Err(RecvError::Closed) => return false,
                }
            }
        }
    }

    /// Takes what else has come, which the next look sees.
    fn catch_up(&mut self) {
        self.heads.mark_unchanged();
        loop {
            match self.progressed.try_recv() {
                Ok(told) => {
                    self.take(told);
                }
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Keeps what an attempt told, if it is one of this job.
    fn take(&mut self, told: Arc<Progressed>) -> bool {
        let is_own = told.id == self.id;
        if is_own {
            self.live = Some((told, self.clock.now().wall));
        }
        is_own
    }

    /// What is new about the job, if anything is.
    ///
    /// # Errors
    /// [`AnswerError`], also when the job is not in the store any more.
    pub async fn look(&mut self, held: &Held) -> Result<Vec<Told>, AnswerError> {
        let row = self.answers.job_row(self.id).await?;
        let waiting = match row.state {
            // An engine that is gone tells so by ending the stream.
            JobState::Queued | JobState::Paused => {
                self.engine.waiting(row.clone()).await.unwrap_or_default()
            }
            _ => None,
        };
        let essence = Essence {
            state: held.shown(&row),
            attempts: row.attempts,
            due_at: row.due_at,
            error: row.error.clone(),
            waits: waiting.as_ref().and_then(Cause::of),
        };
        let ended = !row.state.is_open();
        let after = self.entries.unwrap_or(row.entries.saturating_sub(LOG_FIRST));
        let entries = self.answers.log_after(&row, after).await?;
        let job = match ended {
            true => Some(self.answers.job(self.id, held).await?),
            false if self.state.as_ref() != Some(&essence) => {
                let ahead = self.answers.ahead(&row).await?;
                let brief = self.answers.brief_job(row.clone(), held).await?;
                let mut job = Job { ahead, result: None, ..brief };
                if let Some(waiting) = waiting {
                    add_waits(&mut job, waiting, self.clock.now().wall);
                }
                Some(job)
            }
            false => None,
        };
        // From here on nothing is waited for: what was found is told, or else it is found again.
        (self.may_be_other, self.ended, self.state) = (false, ended, Some(essence));
        self.entries = Some(entries.last().map_or(after, |entry| entry.number));
        let progress = self.look_at_progress(&row).map(Told::Progress);
        let (job, log) = (job.map(Box::new).map(Told::Job), entries.into_iter().map(Told::Log));
        Ok(match ended {
            // The job last, so that whoever reads it has read all.
            true => log.chain(progress).chain(job).collect(),
            false => job.into_iter().chain(log).chain(progress).collect(),
        })
    }

    fn look_at_progress(&mut self, row: &JobRow) -> Option<JobProgress> {
        let of_row = row.progress.map(|(current, total)| Progress { current, total });
        let told = self.live.as_ref().filter(|(live, _)| live.attempt == row.attempts);
        let (live, told_at) = (told.map(|(live, _)| live), told.map(|(_, at)| *at));
        let live = live.filter(|_| row.state == JobState::Running);
        let at = match (told_at, row.completed_at) {
            (Some(told), Some(completed)) => Some(told.min(completed)),
            (told, completed) => told.or(completed),
        };
        let (progress, cost) = match live {
            None => (of_row, row.cost),
            Some(live) => {
                let told = live.progress.map(|(current, total)| Progress { current, total });
                (told.or(of_row), live.cost.or(row.cost))
            }
        };
        let now = self.clock.now();
        let now_ms = now.mono.0 / 1_000_000;
        if self.progress.is_none_or(|(attempt, ..)| attempt != row.attempts) {
            self.rate = Rate::default();
            let since = row.started_at.map(|started| now.wall.since(started).as_millis());
            if let Some(since) = since.and_then(|since| u64::try_from(since).ok()) {
                self.rate.add(now_ms.saturating_sub(since), 0);
            }
        }
        let known = (row.attempts, progress, cost);
        let before = self.progress.replace(known);
        if before == Some(known) || (progress.is_none() && cost.is_none()) {
            return None;
        }
        if let Some(progress) = progress.filter(|_| row.state == JobState::Running) {
            self.rate.add(now_ms, progress.current);
        }
        let rate = self.rate.per_second().filter(|_| row.state == JobState::Running);
        let left = |progress: Progress| {
            let left = f64::from(progress.total) - f64::from(progress.current);
            Some(left / rate?).filter(|left| progress.total > 0 && *left >= 0.0)
        };
        Some(JobProgress {
            at,
            attempt: row.attempts,
            current: progress.map(|progress| progress.current),
            total: progress.map(|progress| progress.total),
            cost,
            rate_per_second: rate.map(rounded),
            left_seconds: progress.and_then(left).map(rounded),
        })
    }
}

/// To a thousandth.
fn rounded(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

/// How fast something goes on, by what it was of late.
#[derive(Debug, Default)]
struct Rate {
    /// When, in milliseconds, and how far it was then.
    steps: VecDeque<(u64, i32)>,
}

impl Rate {
    fn add(&mut self, at_ms: u64, current: i32) {
        if self.steps.back().is_some_and(|(_, before)| *before > current) {
            // It began anew.
            self.steps.clear();
        }
        let over_ms = RATE_OVER.as_millis() as u64;
        while self.steps.len() > 1 && self.steps[1].0.saturating_add(over_ms) <= at_ms {
            self.steps.pop_front();
        }
        if self.steps.len() >= STEPS_MAX {
            self.steps.pop_back();
        }
        self.steps.push_back((at_ms, current));
    }

    fn per_second(&self) -> Option<f64> {
        let ((from_ms, from), (to_ms, to)) = (self.steps.front()?, self.steps.back()?);
        let (done, ms) = (f64::from(*to) - f64::from(*from), to_ms.saturating_sub(*from_ms));
        (done > 0.0 && ms > 0).then(|| done * 1e3 / ms as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_minute() {
        // Each when in seconds, and how far.
        type Steps = &'static [(u64, i32)];
        // (the steps, the rate after them)
        let cases: [(Steps, Option<f64>); 7] = [
            (&[], None),
            (&[(0, 5)], None),
            (&[(0, 0), (10, 50)], Some(5.0)),
            (&[(0, 0), (10, 0)], None),
            // Slow at first, and then ten times as fast: what was long ago counts no more.
            (&[(0, 0), (100, 100), (130, 400), (160, 700)], Some(10.0)),
            (&[(0, 0), (10, 50), (20, 0), (30, 10)], Some(1.0)),
            (&[(5, 0), (5, 50)], None),
        ];
        for (steps, expected) in cases {
            let mut rate = Rate::default();
            steps.iter().for_each(|(at, current)| rate.add(at * 1_000, *current));
            assert_eq!(rate.per_second(), expected, "{steps:?}");
        }
    }

    #[test]
    fn a_rate_remembers_so_many_steps_and_no_more() {
        let mut rate = Rate::default();
        (0..10_000).for_each(|step| rate.add(step, i32::try_from(step).unwrap()));
        assert_eq!((rate.steps.len(), rate.per_second()), (STEPS_MAX, Some(1_000.0)));
    }
}
