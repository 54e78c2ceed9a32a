//! The queue of jobs, as we serve it to plugins: `protocol.QueueService`.
//!
//! A plugin's own jobs are those that its handlers answer for, fires among them, and those that it asked for. It
//! sees, changes and cancels no others: of another's job it is told what it is told of one that is nowhere.
//!
//! How far a job is, only the process is heard that runs it. How a job ends, only its answer to ExecuteJob says.
//!
//! Not here: what follows from any of it (`axwatch_core`), what a job looks like on the wire (`super::wire::pulse`).

use axwatch_ats::JobsQuery;
use axwatch_core::{Enqueued, JobEntry, RefusalKind, Report};
use axwatch_model::bounds::cut;
use axwatch_model::{Asker, JobId, JobNumber, JobRow, JobState, Owner, PluginName};
use axwatch_proto::protocol;
use axwatch_proto::protocol::queue_service_server::QueueService;
use bytes::Bytes;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::admission::{Admitted, CallError, Denied, verdict};
use super::caller::Caller;
use super::door::Visit;
use super::large::{SMALL_BYTES, Seat};
use super::services::{REPLY_BYTES_MAX, Services};
use super::wire::{self, pulse};
use crate::dispatch::Running;
use crate::handle::{Engine, RequestError, Sight};

/// Jobs that a list has when nobody says how many.
const LIST_JOBS: usize = 100;
/// And at most.
const LIST_JOBS_MAX: usize = 1_000;
/// Rows without payloads that are read at once.
const PAGE_ROWS: usize = 200;
/// Pages that one list is put together from: it looks at a million jobs, and then says where to go on.
const LIST_PAGES_MAX: usize = 100;
/// Of what is no id this much is said back.
const ID_SHOWN_BYTES_MAX: usize = 80;

impl Services {
    async fn enqueued(
        &self,
        visit: &Visit,
        request: protocol::EnqueueRequest,
    ) -> Result<(JobId, bool), CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let caller = &admitted.caller;
        let mut job = request.job.ok_or(CallError::Missing("job"))?;
        if let Some(state) = status_of(&job)?.filter(|state| *state != JobState::Queued) {
            return Err(CallError::NotNew(state));
        }
        if job.handler_name.is_empty() {
            return Err(CallError::Missing("job.handler_name"));
        }
        let parent = self.parent_of(&job, caller).await?;
        job.source = caller.redacted(job.source);
        let id = match job.id.as_str() {
            "" => self.engine.new_job_id(),
            given => self.engine.job_id_of(&Asker::Plugin(caller.plugin.clone()), given),
        };
        let asked = pulse::asked(job, request.priority, id, parent, &caller.plugin);
        let enqueued = self.engine.ask(asked).await?;
        admitted.done();
        Ok(match enqueued {
            Enqueued::New(row) => (row.id, false),
            Enqueued::Standing { id, .. } => (id, true),
        })
    }

    async fn got_job(
        &self,
        visit: &Visit,
        request: protocol::GetJobRequest,
    ) -> Result<(protocol::Job, Option<Seat>), CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let caller = admitted.caller.clone();
        let _turn = caller.reading().await.ok_or(Denied::TooManyReplies)?;
        let row = self.own_job(&mut admitted, &request.job_id).await?;
        let payload = match request.without_payload {
            true => Bytes::new(),
            false => payload(&self.engine, &row).await?,
        };
        let sights = self.engine.sights(vec![row]).await?;
        let sight = sights.first().expect("one job is looked at");
        let job = pulse::job(sight, payload);
        // `success` takes two.
        let bytes = 2 + wire::bytes_in_list(&job);
        if bytes > REPLY_BYTES_MAX {
            return Err(CallError::PayloadTooLarge);
        }
        let mut seat = None;
        if bytes > SMALL_BYTES {
            seat = Some(caller.seat().await.ok_or(Denied::TooManyReplies)?);
        }
        admitted.done();
        Ok((job, seat))
    }

    async fn listed_jobs(
        &self,
        visit: &Visit,
        request: protocol::ListJobsRequest,
    ) -> Result<(Vec<protocol::Job>, String, Option<Seat>), CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let caller = admitted.caller.clone();
        let mut jobs = OwnJobs::asked(&request, &caller)?;
        let _turn = caller.reading().await.ok_or(Denied::TooManyReplies)?;
        let (mut found, mut bytes, mut seat) = (Vec::new(), 2, None);
        while let Some(sights) = jobs.next_page(&self.engine).await? {
            for sight in sights {
                let payload = match request.without_payload {
                    true => Bytes::new(),
                    false => payload(&self.engine, &sight.row).await?,
                };
                let job = pulse::job(&sight, payload);
                bytes += wire::bytes_in_list(&job);
                if bytes > REPLY_BYTES_MAX {
                    return Err(match found.len() {
                        0 => CallError::PayloadTooLarge,
                        fits => CallError::JobsTooLarge { fits: fits + 1 },
                    });
                }
                if seat.is_none() && bytes > SMALL_BYTES {
                    seat = Some(caller.seat().await.ok_or(Denied::TooManyReplies)?);
                }
                found.push(job);
            }
        }
        admitted.done();
        Ok((found, jobs.next().map(|next| next.to_string()).unwrap_or_default(), seat))
    }

    async fn updated_job(
        &self,
        visit: &Visit,
        request: protocol::UpdateJobRequest,
    ) -> Result<(), CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let job = request.job.ok_or(CallError::Missing("job"))?;
        let attempt = match request.attempt {
            0 => None,
            given => Some(u32::try_from(given).map_err(|_| CallError::NoAttempt(given))?),
        };
        let status = status_of(&job)?;
        if let Some(ended @ (JobState::Completed | JobState::Failed)) = status {
            return Err(CallError::EndsByAnswer(ended));
        }
        let row = self.own_job(&mut admitted, &job.id).await?;
        let caller = &admitted.caller;
        match status {
            None | Some(JobState::Running) => {
                let shown = |text: &str| caller.shown(text);
                let entries = wire::entries(&request.log_entries, &shown);
                self.report(caller, row, attempt, &job, entries).await?;
            }
            Some(status) => self.steer(caller, row, status).await?,
        }
        admitted.done();
        Ok(())
    }

    /// Tells how far a job is, if it is this process that runs it.
    async fn report(
        &self,
        caller: &Caller,
        row: JobRow,
        attempt: Option<u32>,
        told: &protocol::Job,
        entries: Vec<JobEntry>,
    ) -> Result<(), CallError> {
        let running = self.engine.in_flight().of_job(row.id);
        if let Some(why) = not_running(caller, &row, running.as_ref(), attempt) {
            return Err(CallError::NotRunning { id: row.id, why });
        }
        let report = Report {
            job: row.number,
            attempt,
            incarnation: caller.incarnation,
            progress: told.progress.as_ref().map(|told| (told.current, told.total)),
            cost: pulse::amount(told.cost_actual),
            entries,
        };
        if self.engine.report(report).await? {
            return Ok(());
        }
        let why = "is at another attempt by now, or this process has yet to answer for an earlier one: \
                   say with `attempt` which one tells it";
        Err(CallError::NotRunning { id: row.id, why: why.to_owned() })
    }

    /// Cancels, pauses or resumes a job. What it is already it may be asked to be again.
    async fn steer(&self, caller: &Caller, row: JobRow, to: JobState) -> Result<(), CallError> {
        let (by, before) = (Asker::Plugin(caller.plugin.clone()), row.state);
        let steered = match to {
            JobState::Cancelled => self.engine.cancel(row, by).await,
            JobState::Paused => self.engine.pause_job(row, by).await,
            _ => self.engine.resume_job(row, by).await,
        };
        match steered {
            Err(RequestError::Refused(refusal))
                if before == to && refusal.kind == RefusalKind::Conflict =>
            {
                Ok(())
            }
            steered => Ok(steered.map(drop)?),
        }
    }

    /// A job of the calling plugin's own, without what it carries.
    async fn own_job(&self, admitted: &mut Admitted, id: &str) -> Result<JobRow, CallError> {
        match self.own(&admitted.caller, id).await? {
            Some(row) => Ok(row),
            None => {
                // That was its answer.
                admitted.done();
                Err(CallError::NoJob(shown_id(&admitted.caller, id)))
            }
        }
    }

    /// The job of a plugin's own that it names: by its id, or by the one that it asked for it under.
    async fn own(&self, caller: &Caller, text: &str) -> Result<Option<JobRow>, CallError> {
        let by = Asker::Plugin(caller.plugin.clone());
        let ids = [text.parse().ok(), Some(self.engine.job_id_of(&by, text))];
        for id in ids.into_iter().flatten() {
            let row = self.engine.store().job_to_change(id).await?;
            if let Some(row) = row.filter(|row| is_own(row, &caller.plugin)) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// The job that a new one says it is a part of.
    async fn parent_of(
        &self,
        job: &protocol::Job,
        caller: &Caller,
    ) -> Result<Option<JobId>, CallError> {
        if job.parent_job_id.is_empty() {
            return Ok(None);
        }
        match self.own(caller, &job.parent_job_id).await? {
            Some(row) => Ok(Some(row.id)),
            None => Err(CallError::NoParent {
                id: shown_id(caller, &job.parent_job_id),
                plugin: caller.plugin.clone(),
            }),
        }
    }
}

/// What a plugin says that is no id of ours, as it may be said back.
pub(super) fn shown_id(caller: &Caller, text: &str) -> String {
    cut(&caller.shown(text), ID_SHOWN_BYTES_MAX).to_owned()
}

/// The status that a job says; `None` when it says none.
fn status_of(job: &protocol::Job) -> Result<Option<JobState>, CallError> {
    Ok(Some(job.status.as_str()).filter(|status| !status.is_empty()).map(str::parse).transpose()?)
}

/// Whether a job is a plugin's: its handlers answer for it, or it asked for it.
fn is_own(row: &JobRow, plugin: &PluginName) -> bool {
    let is_owner = |owner: &Owner| matches!(owner, Owner::Plugin(owner) if owner == plugin);
    row.plugin.as_ref() == Some(plugin)
        || row.asked.as_ref().is_some_and(|asked| is_owner(&asked.owner))
}

/// Why a process has nothing to tell of a job's progress; `None` when it runs it.
fn not_running(
    caller: &Caller,
    row: &JobRow,
    running: Option<&Running>,
    attempt: Option<u32>,
) -> Option<String> {
    // The row may be of a moment before or after: both have to say so.
    let running =
        running.filter(|running| row.state == JobState::Running && running.attempt == row.attempts);
    match running {
        None if row.state == JobState::Running => Some("is about to start or to end".to_owned()),
        None => Some(format!("is {}, and only one that runs makes progress", row.state)),
        Some(running) if running.plugin != caller.plugin => {
            Some(format!("is run by plugin {}, which alone tells its progress", running.plugin))
        }
        Some(running) if running.incarnation != caller.incarnation => {
            Some("is run by another process of this plugin".to_owned())
        }
        Some(running) => {
            let other = attempt.filter(|attempt| *attempt != running.attempt)?;
            Some(format!("is at its attempt {}, and {other} is over", running.attempt))
        }
    }
}

/// What a job carries. It never changes.
async fn payload(engine: &Engine, row: &JobRow) -> Result<Bytes, CallError> {
    if let Some(given) = &row.payload {
        return Ok(Bytes::from_owner(given.clone()));
    }
    let store = engine.store();
    let Some(seq) = row.seq else {
        let given = store.payload(row.number).await?;
        return Ok(given.map(Bytes::from_owner).unwrap_or_default());
    };
    let claim = store.by_seqs(&[seq]).await?.pop();
    Ok(claim.map(|stored| stored.attestation.payload().into()).unwrap_or_default())
}

/// A plugin's own jobs, newest first, page by page, without their payloads.
struct OwnJobs {
    query: JobsQuery,
    /// Only what is shown as this.
    status: Option<JobState>,
    /// How many are still wanted.
    wanted: usize,
    /// How many pages may still be read.
    pages: usize,
    is_over: bool,
}

impl OwnJobs {
    fn asked(request: &protocol::ListJobsRequest, caller: &Caller) -> Result<OwnJobs, CallError> {
        let status = Some(request.status.as_str()).filter(|status| !status.is_empty());
        let status: Option<JobState> = status.map(str::parse).transpose()?;
        let limit = request.limit.and_then(|limit| usize::try_from(limit).ok());
        let wanted = limit.filter(|limit| *limit > 0).unwrap_or(LIST_JOBS).min(LIST_JOBS_MAX);
        // Rows know of a pause only where somebody paused the job itself; another is queued to them.
        let states = match status {
            Some(JobState::Paused) => vec![JobState::Queued, JobState::Paused],
            other => other.into_iter().collect(),
        };
        let query = JobsQuery {
            states,
            before: place_of(&request.before, caller)?,
            own: Some(caller.plugin.clone()),
            bare: true,
            limit: PAGE_ROWS,
            ..JobsQuery::default()
        };
        Ok(OwnJobs { query, status, wanted, pages: LIST_PAGES_MAX, is_over: false })
    }

    /// The next jobs, perhaps none although more will come; `None` at the end.
    async fn next_page(&mut self, engine: &Engine) -> Result<Option<Vec<Sight>>, CallError> {
        if self.is_over || self.wanted == 0 || self.pages == 0 {
            return Ok(None);
        }
        self.pages -= 1;
        if self.status.is_none() {
            self.query.limit = PAGE_ROWS.min(self.wanted);
        }
        let (rows, next) = engine.store().jobs_page(&self.query).await?;
        self.is_over = next.is_none();
        self.query.before = next;
        let mut sights = engine.sights(rows).await?;
        sights.retain(|sight| self.status.is_none_or(|status| pulse::status(sight) == status));
        if sights.len() > self.wanted {
            sights.truncate(self.wanted);
            self.is_over = false;
            self.query.before = sights.last().map(|last| last.row.number);
        }
        self.wanted -= sights.len();
        Ok(Some(sights))
    }

    /// Where the next list goes on; `None` when nothing is left.
    fn next(&self) -> Option<JobNumber> {
        self.query.before.filter(|_| !self.is_over)
    }
}

/// Where a list goes on, as an earlier one said; `None` at the newest.
fn place_of(text: &str, caller: &Caller) -> Result<Option<JobNumber>, CallError> {
    if text.is_empty() {
        return Ok(None);
    }
    let number = text.parse().map_err(|_| CallError::NoPlace(shown_id(caller, text)))?;
    Ok(Some(JobNumber(number)))
}

#[tonic::async_trait]
impl QueueService for Services {
    async fn enqueue(
        &self,
        request: Request<protocol::EnqueueRequest>,
    ) -> Result<Response<protocol::EnqueueResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (success, error, enqueued) = verdict(self.enqueued(&visit, request).await);
        let (job_id, deduplicated) =
            enqueued.map(|(id, known)| (id.to_string(), known)).unwrap_or_default();
        Ok(Response::new(protocol::EnqueueResponse { success, error, job_id, deduplicated }))
    }

    async fn get_job(
        &self,
        request: Request<protocol::GetJobRequest>,
    ) -> Result<Response<protocol::GetJobResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (success, error, found) = verdict(self.got_job(&visit, request).await);
        let (job, seat) = found.map(|(job, seat)| (Some(job), seat)).unwrap_or_default();
        Ok(Seat::taken_by(protocol::GetJobResponse { success, error, job }, seat))
    }

    async fn update_job(
        &self,
        request: Request<protocol::UpdateJobRequest>,
    ) -> Result<Response<protocol::UpdateJobResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (success, error, _) = verdict(self.updated_job(&visit, request).await);
        Ok(Response::new(protocol::UpdateJobResponse { success, error }))
    }

    async fn list_jobs(
        &self,
        request: Request<protocol::ListJobsRequest>,
    ) -> Result<Response<protocol::ListJobsResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (success, error, found) = verdict(self.listed_jobs(&visit, request).await);
        let (jobs, next, seat) = found.unwrap_or_default();
        Ok(Seat::taken_by(protocol::ListJobsResponse { success, error, jobs, next }, seat))
    }
}
