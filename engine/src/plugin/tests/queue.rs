//! The queue of jobs as plugins are served it, over a real connection.

use axwatch_core::{BudgetChange, Enqueued};
use axwatch_model::{Asker, BudgetScope, JobId, JobState};
use axwatch_proto::protocol::queue_service_client::QueueServiceClient;
use axwatch_proto::protocol::{
    EnqueueRequest, EnqueueResponse, GetJobRequest, Job, JobLogEntry, ListJobsRequest, Progress,
    UpdateJobRequest,
};
use tonic::transport::Channel;

use super::services::{Desk, admit, desk};
use super::*;

/// A plugin called `git` that calls the queue. Its client takes what clients usually take.
struct Line {
    desk: Desk,
    queue: QueueServiceClient<Channel>,
}

async fn line() -> Line {
    let desk = desk().await;
    let queue = QueueServiceClient::new(desk.channel.clone());
    Line { desk, queue }
}

fn job(handler: &str) -> Job {
    Job { handler_name: handler.into(), ..Default::default() }
}

/// As a plugin tells how far it is.
fn told(id: &str, current: i32, cost_actual: f64) -> Job {
    let progress = Some(Progress { current, total: 10 });
    Job { id: id.into(), status: "running".into(), progress, cost_actual, ..Default::default() }
}

fn turned(id: &str, status: &str) -> Job {
    Job { id: id.into(), status: status.into(), ..Default::default() }
}

impl Line {
    fn become_plugin(&mut self, name: &str) {
        (self.desk.token, self.desk.caller) = admit(&self.desk.callers, name);
    }

    async fn ask(&mut self, job: Job, priority: i32) -> EnqueueResponse {
        let request =
            EnqueueRequest { auth_token: self.desk.token.clone(), job: Some(job), priority };
        self.queue.enqueue(request).await.unwrap().into_inner()
    }

    async fn enqueue(&mut self, job: Job) -> Result<String, String> {
        let reply = self.ask(job, 0).await;
        assert_eq!(reply.success, !reply.job_id.is_empty());
        if reply.success { Ok(reply.job_id) } else { Err(reply.error) }
    }

    async fn find(&mut self, id: &str, without_payload: bool) -> Result<Job, String> {
        let request = GetJobRequest {
            auth_token: self.desk.token.clone(),
            job_id: id.into(),
            without_payload,
        };
        let reply = self.queue.get_job(request).await.unwrap().into_inner();
        assert_eq!(reply.success, reply.job.is_some());
        reply.job.ok_or(reply.error)
    }

    async fn get(&mut self, id: &str) -> Job {
        self.find(id, false).await.unwrap()
    }

    async fn update_of(&mut self, job: Job, attempt: i32) -> Result<(), String> {
        self.say_of(job, attempt, Vec::new()).await
    }

    async fn say_of(
        &mut self,
        job: Job,
        attempt: i32,
        log_entries: Vec<JobLogEntry>,
    ) -> Result<(), String> {
        let auth_token = self.desk.token.clone();
        let request = UpdateJobRequest { auth_token, job: Some(job), attempt, log_entries };
        let reply = self.queue.update_job(request).await.unwrap().into_inner();
        if reply.success { Ok(()) } else { Err(reply.error) }
    }

    async fn update(&mut self, job: Job) -> Result<(), String> {
        self.update_of(job, 0).await
    }

    async fn list(
        &mut self,
        status: &str,
        limit: Option<i32>,
        without_payload: bool,
    ) -> Result<Vec<Job>, String> {
        let before = String::new();
        self.list_before(before, status, limit, without_payload).await.map(|(jobs, _)| jobs)
    }

    /// With where the next list goes on.
    async fn list_before(
        &mut self,
        before: String,
        status: &str,
        limit: Option<i32>,
        without_payload: bool,
    ) -> Result<(Vec<Job>, String), String> {
        let auth_token = self.desk.token.clone();
        let status = status.into();
        let request = ListJobsRequest { auth_token, status, limit, without_payload, before };
        let reply = self.queue.list_jobs(request).await.unwrap().into_inner();
        if reply.success { Ok((reply.jobs, reply.next)) } else { Err(reply.error) }
    }

    async fn ids(&mut self, status: &str) -> Vec<String> {
        let jobs = self.list(status, None, false).await.unwrap();
        jobs.into_iter().map(|job| job.id).collect()
    }

    /// Waits until a job is shown as this.
    async fn until(&mut self, id: &str, status: &str) -> Job {
        soon(async {
            loop {
                let job = self.get(id).await;
                if job.status == status {
                    break job;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

#[tokio::test]
async fn a_plugin_asks_for_a_job_and_sees_all_of_it() {
    let mut line = line().await;
    let mut held = bring_up(&line.desk.engine, "git").await;
    let asked = Job {
        id: "an id of its own".into(),
        payload: bytes::Bytes::from_static(b"\xff any bytes"),
        source: "ключ 🔑".into(),
        status: "queued".into(),
        progress: Some(Progress { current: 3, total: 9 }),
        cost_estimate: 2.5,
        retry_count: 7,
        ..job("git.do")
    };
    let id = line.enqueue(asked).await.unwrap();
    let attempt = soon(held.recv()).await.unwrap();
    assert_eq!(attempt.attempt.start.id.to_string(), id, "the host makes its id");
    assert_eq!(&attempt.attempt.payload[..], b"\xff any bytes");
    let found = line.get(&id).await;
    assert_eq!((found.handler_name.as_str(), found.source.as_str()), ("git.do", "ключ 🔑"));
    assert_eq!((found.status.as_str(), &found.payload[..]), ("running", &b"\xff any bytes"[..]));
    assert_eq!((found.cost_estimate, found.cost_actual, found.retry_count), (2.5, 0.0, 0));
    assert_eq!(found.progress, Some(Progress { current: 0, total: 0 }));
    assert!(found.created_at > 1_700_000_000 && found.started_at >= found.created_at);
    assert_eq!(
        (found.completed_at, found.error.as_str(), found.parent_job_id.as_str()),
        (0, "", "")
    );
    let pulse = found.pulse_state.unwrap();
    assert_eq!((pulse.calls_this_minute, pulse.calls_remaining), (1, i32::MAX));
    assert_eq!((pulse.spend_today, pulse.budget_remaining), (0.0, f64::INFINITY));
    assert!(!pulse.is_paused && pulse.pause_reason.is_empty());
    let row = line.desk.engine.store().job(id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.asked.unwrap().by, Asker::Plugin("git".parse().unwrap()));

    let ended = Ended::bare(Outcome::Succeeded { result: None });
    attempt.end.send(Ended { cost: Some(1.5), ..ended }).unwrap();
    let found = line.until(&id, "completed").await;
    assert!(found.completed_at >= found.started_at);
    let pulse = found.pulse_state.unwrap();
    assert_eq!((found.cost_actual, pulse.spend_today, pulse.spend_this_month), (1.5, 1.5, 1.5));
}

#[tokio::test]
async fn a_budget_is_told_with_its_jobs() {
    let mut line = line().await;
    let mut held = bring_up(&line.desk.engine, "git").await;
    let scope = BudgetScope::Plugin("git".parse().unwrap());
    let change = BudgetChange {
        calls_per_minute: Some(Some(1)),
        per_day: Some(Some(10.0)),
        ..BudgetChange::default()
    };
    line.desk.engine.set_budget(scope, change, "user".into()).await.unwrap();
    let first = line.enqueue(Job { cost_estimate: 4.0, ..job("git.do") }).await.unwrap();
    let _attempt = soon(held.recv()).await.unwrap();
    let second = line.enqueue(job("git.do")).await.unwrap();
    let held_back = line.until(&second, "paused").await.pulse_state.unwrap();
    assert!(held_back.is_paused, "{held_back:?}");
    assert!(held_back.pause_reason.contains("calls_per_minute"), "{}", held_back.pause_reason);
    assert!(held_back.pause_reason.contains("; until 2"), "{}", held_back.pause_reason);
    let running = line.get(&first).await.pulse_state.unwrap();
    assert_eq!((running.calls_this_minute, running.calls_remaining), (1, 0));
    assert_eq!(running.budget_remaining, 6.0, "what is reserved is gone");
    assert_eq!(line.ids("paused").await, [second.as_str()]);
    assert_eq!(line.ids("queued").await, Vec::<String>::new());
    assert_eq!(line.ids("").await, [second, first]);
}

#[tokio::test]
async fn the_same_source_is_the_same_job_while_it_is_open() {
    let mut line = line().await;
    let mut held = bring_up(&line.desk.engine, "git").await;
    let asked = || Job { source: "nightly".into(), ..job("git.do") };
    let first = line.ask(asked(), 0).await;
    let again = line.ask(asked(), 10).await;
    assert_eq!((again.job_id.as_str(), again.deduplicated), (first.job_id.as_str(), true));
    assert!(again.success && !first.deduplicated);
    let other = line.enqueue(Job { source: "weekly".into(), ..job("git.do") }).await.unwrap();
    assert_ne!(other, first.job_id);
    soon(held.recv()).await.unwrap().succeed();
    line.until(&first.job_id, "completed").await;
    let next = line.ask(asked(), 0).await;
    assert!(next.job_id != first.job_id && !next.deduplicated, "{next:?}");
    let error = line.ask(job("git.do"), 11).await.error;
    assert_eq!(error, "priority 11: it must be from -10 to 10");
}

#[tokio::test]
async fn who_asks_again_under_an_id_of_its_own_gets_the_same_job() {
    let mut line = line().await;
    let mut held = bring_up(&line.desk.engine, "git").await;
    let asked = || Job {
        id: "part 1 of 3 \u{1f511}".into(),
        payload: "x".into(),
        cost_estimate: 0.5,
        ..job("git.do")
    };
    let first = line.ask(asked(), 3).await;
    assert!(first.success && !first.deduplicated, "{first:?}");
    let same = |again: &EnqueueResponse| again.deduplicated && again.job_id == first.job_id;
    assert!(same(&line.ask(asked(), 3).await));
    assert!(same(&line.ask(Job { handler_name: "git/git.do".into(), ..asked() }, 3).await));
    soon(held.recv()).await.unwrap().succeed();
    line.until(&first.job_id, "completed").await;
    assert!(same(&line.ask(asked(), 3).await), "though it is over");
    // It goes by its own id too.
    assert_eq!(line.get(&asked().id).await.id, first.job_id);
    let parent_job_id = asked().id;
    let part = line.enqueue(Job { parent_job_id, ..job("git.do") }).await.unwrap();
    assert_eq!(line.get(&part).await.parent_job_id, first.job_id);

    let others = [
        (Job { payload: "y".into(), ..asked() }, 3, "payload"),
        (Job { source: "s".into(), ..asked() }, 3, "source"),
        (Job { cost_estimate: 0.0, ..asked() }, 3, "cost_estimate"),
        (Job { parent_job_id: part, ..asked() }, 3, "parent"),
        (Job { handler_name: "git.other".into(), ..asked() }, 3, "handler"),
        (asked(), 0, "priority"),
    ];
    for (other, priority, what) in others {
        let reply = line.ask(other, priority).await;
        let reason = format!("id: job {} was made under it, and its {what}", first.job_id);
        assert!(!reply.success && reply.error.starts_with(&reason), "{reply:?}");
    }
    // Another plugin may have the same id for something else.
    line.become_plugin("other");
    let theirs = line.ask(Job { payload: "y".into(), ..asked() }, 0).await;
    assert!(theirs.success && theirs.job_id != first.job_id, "{theirs:?}");
}

#[tokio::test]
async fn the_parts_of_a_job_go_with_it() {
    let mut line = line().await;
    let mut held = bring_up(&line.desk.engine, "git").await;
    let parent = line.enqueue(job("git.do")).await.unwrap();
    let _attempt = soon(held.recv()).await.unwrap();
    let part = |of: &str| Job { parent_job_id: of.into(), ..job("git.do") };
    let child = line.enqueue(part(&parent)).await.unwrap();
    let grandchild = line.enqueue(part(&child)).await.unwrap();
    assert_eq!(line.get(&child).await.parent_job_id, parent);
    line.update(turned(&parent, "cancelled")).await.unwrap();
    for id in [&parent, &child, &grandchild] {
        let found = line.get(id).await;
        assert_eq!(found.status, "cancelled", "{found:?}");
        assert!(found.completed_at > 0 && found.error.contains("cancelled"), "{found:?}");
    }
    line.update(turned(&parent, "cancelled")).await.expect("it is so already");
    let error = line.enqueue(part(&parent)).await.unwrap_err();
    assert!(error.contains("is cancelled, and so is what is a part of it"), "{error}");
    assert_eq!(line.ids("cancelled").await, [grandchild, child, parent]);
}

/// Whoever's it is and whether it is: the answer is the same but for the id.
#[tokio::test]
async fn anothers_job_is_nowhere() {
    let mut line = line().await;
    let _held =
        (bring_up(&line.desk.engine, "git").await, bring_up(&line.desk.engine, "other").await);
    let theirs = enqueue(&line.desk.engine, "other").await.id.to_string();
    let nowhere = "0123456789abcdef".repeat(2);
    let odd = ["", "zz", "é\u{1b}[31m", "9999999999999999999999999999999"].map(str::to_owned);
    let long = "x".repeat(10_000);
    let mut seen = Vec::new();
    for id in [&theirs, &nowhere, &long].into_iter().chain(&odd) {
        let mut answers = vec![line.find(id, false).await.unwrap_err()];
        for status in ["", "running", "queued", "paused", "cancelled"] {
            answers.push(line.update(turned(id, status)).await.unwrap_err());
        }
        if !id.is_empty() {
            let part = Job { parent_job_id: id.clone(), ..job("git.do") };
            answers.push(line.enqueue(part).await.unwrap_err());
        }
        for answer in &answers {
            assert!(answer.len() < 200 && !answer.contains('\u{1b}'), "{answer}");
        }
        if id.len() == 32 {
            seen.push(answers.iter().map(|answer| answer.replace(id, "ID")).collect::<Vec<_>>());
        }
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0][0], "job ID: this plugin has no such job");
    assert_eq!(line.ids("").await, Vec::<String>::new());
    let id: JobId = theirs.parse().unwrap();
    let row = line.desk.engine.store().job(id).await.unwrap().unwrap();
    assert!(row.state.is_open(), "{row:?}");

    // What it asks another for is its own and the other's.
    let asked = line.enqueue(job("other.do")).await.unwrap();
    assert_eq!(line.get(&asked).await.handler_name, "other.do");
    let error = line.update(told(&asked, 1, 0.0)).await.unwrap_err();
    assert!(error.starts_with(&format!("job {asked} is ")), "{error}");
    assert!(error.ends_with("nothing was changed"), "{error}");
    line.become_plugin("other");
    assert_eq!(line.ids("").await, [asked.clone(), theirs]);
    line.become_plugin("third");
    assert_eq!(line.ids("").await, Vec::<String>::new());
    line.become_plugin("git");
    line.update(turned(&asked, "cancelled")).await.unwrap();
    assert_eq!(line.get(&asked).await.status, "cancelled");
}

#[tokio::test]
async fn what_a_job_says_while_it_runs_is_in_its_log_at_once() {
    let mut line = line().await;
    let engine = line.desk.engine.clone();
    let mut progressed = engine.progressed();
    let mut held = bring_up(&engine, "git").await;
    let id = line.enqueue(job("git.do")).await.unwrap();
    let first = soon(held.recv()).await.unwrap();
    let entry = |message: &str, metadata: &str| JobLogEntry {
        timestamp: "2026-08-21T10:00:00Z".into(),
        level: "info".into(),
        message: message.into(),
        stage: "stdout".into(),
        metadata: metadata.into(),
    };
    let silent = || Job { progress: None, ..told(&id, 0, 0.0) };
    line.update(told(&id, 3, 0.0)).await.unwrap();
    let said = vec![entry("one", "{}"), entry("password hunter22\u{1b}[2J", "no JSON")];
    line.say_of(silent(), 1, said).await.unwrap();
    line.say_of(silent(), 0, vec![entry("three", "")]).await.unwrap();
    let error = line.say_of(silent(), 2, vec![entry("nobody's", "")]).await.unwrap_err();
    assert!(error.contains("is at its attempt 1"), "{error}");

    let row = engine.store().job(id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(row.progress, Some((3, 10)), "what is left out stays");
    let entries = engine.store().entries(row.number, 0, 9).await.unwrap();
    let kept: Vec<_> =
        entries.iter().map(|entry| (&*entry.message, entry.metadata.as_deref())).collect();
    let [one, two, three] = kept[..] else { panic!("{kept:?}") };
    assert_eq!((one, three), (("one", Some("{}")), ("three", None)));
    assert!(!two.0.contains("hunter22") && !two.0.contains('\u{1b}'), "{two:?}");
    assert_eq!(two.1, None);
    soon(progressed.recv()).await.unwrap();
    assert_eq!(soon(progressed.recv()).await.unwrap().entries.len(), 2);
    first.succeed();
}

#[tokio::test]
async fn only_the_process_that_runs_a_job_tells_how_far_it_is() {
    let mut line = line().await;
    let engine = line.desk.engine.clone();
    let mut progressed = engine.progressed();
    let mut held = bring_up(&engine, "git").await;
    let id = line.enqueue(job("git.do")).await.unwrap();
    let mut first = soon(held.recv()).await.unwrap();
    line.update(told(&id, 3, 0.5)).await.unwrap();
    let heard = soon(progressed.recv()).await.unwrap();
    assert_eq!((heard.progress, heard.cost, heard.attempt), (Some((3, 10)), Some(0.5), 1));
    soon(first.attempt.moves.next()).await;
    let found = line.get(&id).await;
    assert_eq!((found.progress.unwrap().current, found.cost_actual), (3, 0.5));

    // What is no amount says nothing, and neither does what is left out; the same again is no step.
    line.update(told(&id, 3, f64::NAN)).await.unwrap();
    line.update(told(&id, -7, -1.0)).await.unwrap();
    line.update(turned(&id, "")).await.unwrap();
    let mut heard = Vec::new();
    for _ in 0..3 {
        let told = soon(progressed.recv()).await.unwrap();
        heard.push((told.progress, told.moved, told.cost));
    }
    assert_eq!(heard[0], (Some((3, 10)), false, Some(0.5)));
    assert_eq!(heard[1..], [(Some((0, 10)), true, Some(0.5)), (Some((0, 10)), false, Some(0.5))]);

    for ended in ["completed", "failed"] {
        let error = line.update(turned(&id, ended)).await.unwrap_err();
        assert!(error.contains("ends with the answer to ExecuteJob"), "{error}");
    }
    let error = line.update(turned(&id, "done")).await.unwrap_err();
    assert!(error.starts_with("status: \"done\" is no job state; known are queued"), "{error}");
    let error = line.update_of(told(&id, 9, 0.0), 7).await.unwrap_err();
    assert!(error.contains("is at its attempt 1, and 7 is over"), "{error}");
    let error = line.update_of(told(&id, 9, 0.0), -1).await.unwrap_err();
    assert!(error.starts_with("attempt: -1 is not"), "{error}");
    line.update_of(told(&id, 4, 0.0), 1).await.unwrap();
    assert_eq!(soon(progressed.recv()).await.unwrap().progress, Some((4, 10)));
    first.succeed();
    line.until(&id, "completed").await;
    let error = line.update(told(&id, 9, 0.0)).await.unwrap_err();
    assert!(error.contains("is completed, and only one that runs"), "{error}");

    // There is another process now, and this one still has a token.
    let mut held = bring_up(&engine, "git").await;
    let id = line.enqueue(job("git.do")).await.unwrap();
    let second = soon(held.recv()).await.unwrap();
    let error = line.update(told(&id, 9, 0.0)).await.unwrap_err();
    assert!(error.contains("is run by another process of this plugin"), "{error}");
    assert_eq!(line.get(&id).await.progress.unwrap().current, 0);
    line.desk.callers.revoke(&line.desk.caller);
    let error = line.update(told(&id, 9, 0.0)).await.unwrap_err();
    assert!(error.starts_with("unauthenticated: "), "{error}");
    second.succeed();
}

#[tokio::test]
async fn a_job_waits_for_as_long_as_its_plugin_says() {
    let mut line = line().await;
    let mut held = bring_up(&line.desk.engine, "git").await;
    let id = line.enqueue(job("git.do")).await.unwrap();
    let _stopped = soon(held.recv()).await.unwrap();
    line.update(turned(&id, "paused")).await.unwrap();
    line.update(turned(&id, "paused")).await.expect("it is so already");
    let found = line.get(&id).await;
    assert_eq!(found.status, "paused");
    assert_eq!(found.pulse_state.unwrap().pause_reason, "somebody paused it");
    assert_eq!((line.ids("paused").await, line.ids("running").await), (vec![id.clone()], vec![]));
    let error = line.update(told(&id, 1, 0.0)).await.unwrap_err();
    assert!(error.contains("is paused, and only one that runs"), "{error}");
    line.update(turned(&id, "queued")).await.unwrap();
    let again = soon(held.recv()).await.unwrap();
    assert_eq!((again.attempt.start.attempt, line.get(&id).await.retry_count), (2, 1));
    again.succeed();
    line.until(&id, "completed").await;
    let error = line.update(turned(&id, "paused")).await.unwrap_err();
    assert!(error.contains("nothing is left to pause"), "{error}");
}

#[tokio::test]
async fn a_list_is_as_long_as_is_wanted_and_no_longer() {
    let mut line = line().await;
    let _held = bring_up(&line.desk.engine, "git").await;
    for n in 0..130 {
        let payload = format!("{n}").into();
        line.enqueue(Job { payload, ..job("git.do") }).await.unwrap();
    }
    let lengths =
        [(None, 100), (Some(-5), 100), (Some(0), 100), (Some(3), 3), (Some(i32::MAX), 130)];
    for (limit, length) in lengths {
        let jobs = line.list("", limit, false).await.unwrap();
        assert_eq!(jobs.len(), length, "{limit:?}");
        assert_eq!((&jobs[0].payload[..], &jobs[2].payload[..]), (&b"129"[..], &b"127"[..]));
    }
    let queued = line.list("queued", Some(130), true).await.unwrap();
    let running = line.list("running", Some(130), true).await.unwrap();
    assert_eq!((queued.len() + running.len(), running.len()), (130, 4));
    assert!(queued.iter().all(|job| job.status == "queued" && job.payload.is_empty()));
    assert_eq!(line.list("failed", None, false).await.unwrap(), Vec::new());
    let error = line.list("done", None, false).await.unwrap_err();
    assert!(error.ends_with("queued, running, paused, completed, failed, cancelled"), "{error}");
}

#[tokio::test]
async fn a_list_goes_on_where_the_last_one_ended() {
    let mut line = line().await;
    let _held =
        (bring_up(&line.desk.engine, "git").await, bring_up(&line.desk.engine, "other").await);
    let mut ids = Vec::new();
    for n in 0..23 {
        if n % 3 == 0 {
            enqueue(&line.desk.engine, "other").await;
        }
        ids.push(line.enqueue(job("git.do")).await.unwrap());
    }
    ids.reverse();
    for id in &ids[..5] {
        line.update(turned(id, "cancelled")).await.unwrap();
    }
    for id in &ids[7..11] {
        line.update(turned(id, "paused")).await.unwrap();
    }
    // (status, those that have it)
    for (status, expected) in [("", &ids[..]), ("cancelled", &ids[..5]), ("paused", &ids[7..11])] {
        for limit in [1, 4, 5, 10, 1_000] {
            let (mut found, mut before) = (Vec::new(), String::new());
            loop {
                let (jobs, next) =
                    line.list_before(before, status, Some(limit), true).await.unwrap();
                assert!(jobs.len() <= limit as usize);
                found.extend(jobs.into_iter().map(|job| job.id));
                if next.is_empty() {
                    break;
                }
                before = next;
            }
            assert_eq!(found, expected, "{status:?} by {limit}");
        }
    }
    let error = line.list_before("soon".into(), "", None, true).await.unwrap_err();
    assert!(error.starts_with("before: soon is no place in a list"), "{error}");
}

#[tokio::test]
async fn what_a_client_would_not_take_is_not_sent() {
    let mut line = line().await;
    let _held = bring_up(&line.desk.engine, "git").await;
    let large = |bytes: usize| Job { payload: vec![7; bytes].into(), ..job("git.do") };
    let error = line.enqueue(large(5 << 20)).await.unwrap_err();
    assert_eq!(error, "payload: 5242880 bytes; at most 4194304 are allowed");
    let id = line.enqueue(large(4 << 20)).await.unwrap();
    let too_large = "the reply would be larger than 4 MiB; ask without_payload";
    assert_eq!(line.find(&id, false).await.unwrap_err(), too_large);
    assert_eq!(line.list("", None, false).await.unwrap_err(), too_large);
    assert_eq!(line.find(&id, true).await.unwrap().id, id);
    let (a, b) = (large(2 << 20), large((2 << 20) - 5_000));
    let (a, b) = (line.enqueue(a).await.unwrap(), line.enqueue(b).await.unwrap());
    let error = line.list("", None, false).await.unwrap_err();
    assert_eq!(error, format!("{too_large}, or with a limit under 3"));
    let jobs = line.list("", Some(2), false).await.unwrap();
    assert_eq!((jobs[0].id.clone(), jobs[1].id.clone()), (b, a));
    assert_eq!(jobs[1].payload.len(), 2 << 20);
    assert_eq!(line.list("", None, true).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_mistake_is_said_in_the_reply() {
    let mut line = line().await;
    let engine = line.desk.engine.clone();
    let _held = (bring_up(&engine, "git").await, bring_up(&engine, "other").await);
    let cases = [
        (Job::default(), "job.handler_name: missing"),
        (job("git.absent"), "git.absent"),
        (job("a/b/c"), "b/c"),
        (Job { status: "paused".into(), ..job("git.do") }, "status paused: a new job is queued"),
        (Job { status: "no".into(), ..job("git.do") }, "status: \"no\" is no job state"),
        (Job { source: "x".repeat(1_001), ..job("git.do") }, "source: 1001 bytes"),
    ];
    for (asked, reason) in cases {
        let error = line.enqueue(asked).await.unwrap_err();
        assert!(error.contains(reason), "{error:?} should say {reason:?}");
    }
    let request = EnqueueRequest { auth_token: line.desk.token.clone(), ..Default::default() };
    assert_eq!(line.queue.enqueue(request).await.unwrap().into_inner().error, "job: missing");
    assert_eq!(line.ids("").await, Vec::<String>::new());
    // Costs that are none are left out, and its token is not kept.
    let source = format!("for {}", line.desk.token);
    let asked = Job { source, cost_estimate: f64::NEG_INFINITY, ..job("git/git.do") };
    let id = line.enqueue(asked).await.unwrap();
    let found = line.get(&id).await;
    assert_eq!((found.cost_estimate, found.source.as_str()), (0.0, "for [redacted]"));
}

/// A handler of its own comes first; another's has to be the only one of that name.
#[tokio::test]
async fn a_bare_name_means_its_own_handler_first() {
    let mut line = line().await;
    let engine = line.desk.engine.clone();
    let mut held = Vec::new();
    for name in ["git", "a", "b"] {
        held.push(bring_up(&engine, name).await);
        let registration = Registration {
            handlers: vec!["same".parse().unwrap(), format!("{name}.do").parse().unwrap()],
            ..Registration::default()
        };
        engine.announce(name.parse().unwrap(), 1, registration).await.unwrap();
    }
    let plugin_of = async |id: String| {
        let row = engine.store().job(id.parse().unwrap()).await.unwrap().unwrap();
        row.plugin.unwrap().to_string()
    };
    assert_eq!(plugin_of(line.enqueue(job("same")).await.unwrap()).await, "git");
    assert_eq!(plugin_of(line.enqueue(job("b/same")).await.unwrap()).await, "b");
    assert_eq!(plugin_of(line.enqueue(job("a.do")).await.unwrap()).await, "a");
    line.become_plugin("third");
    let error = line.enqueue(job("same")).await.unwrap_err();
    assert!(error.contains("a/same") && error.contains("b/same"), "{error}");
}

/// A person's job and a plugin's may be the same one, and then the plugin hears its id and no more.
#[tokio::test]
async fn the_same_job_may_be_anothers() {
    let mut line = line().await;
    let engine = line.desk.engine.clone();
    let _held = (bring_up(&engine, "git").await, bring_up(&engine, "other").await);
    let asked = axwatch_core::EnqueueAsk {
        id: engine.new_job_id(),
        by: Asker::User,
        handler: "other.do".into(),
        payload: [].as_slice().into(),
        source: "daily".into(),
        priority: 0,
        parent: None,
        cost_estimate: None,
    };
    let Enqueued::New(standing) = engine.ask(asked).await.unwrap() else { panic!("it is new") };
    let id = line.enqueue(Job { source: "daily".into(), ..job("other.do") }).await.unwrap();
    assert_eq!(id, standing.id.to_string());
    assert!(line.find(&id, false).await.unwrap_err().contains("no such job"));
    assert!(line.update(turned(&id, "cancelled")).await.is_err());
    let row = engine.store().job(standing.id).await.unwrap().unwrap();
    assert_ne!(row.state, JobState::Cancelled);
}
