//! A host in memory: the store of claims as plugins see it, the queue as far as progress and lines go,
//! stored handlers and announcements.
//!
//! It keeps what a host promises its plugins: the token is checked, an id stands for one content, a
//! claim of a job has an id computed from the job, its content and its ordinal, and a batch stands or
//! falls as a whole. What it does not have: watchers that fire, and AX.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use axwatch_proto::axwatch::v1;
use axwatch_proto::axwatch::v1::plugin_host_server::PluginHost;
use axwatch_proto::protocol::ats_store_service_server::AtsStoreService;
use axwatch_proto::protocol::queue_service_server::QueueService;
use axwatch_proto::protocol::*;
use axwatch_proto::structs;
use futures::{Stream, stream};
use tonic::{Request, Response, Status};

/// What a plugin of a harness has to show.
pub(super) const TOKEN: &str = "token-of-the-harness";

/// Cheap to clone; clones are the same host.
#[derive(Clone, Default)]
pub(super) struct FakeHost(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The plugin's name: the source of claims that name none.
    plugin: String,
    log: Vec<Entry>,
    /// From an id to its place in the log.
    places: HashMap<String, usize>,
    /// The latest attempt of each job that was begun.
    jobs: HashMap<String, i32>,
    /// How many claims of one content each attempt has made.
    counted: HashMap<(String, i32, String), u32>,
    /// The id of a job's claim with this content and ordinal.
    computed: HashMap<(String, String, u32), String>,
    answers: HashMap<String, Vec<Attestation>>,
    progress: HashMap<String, Vec<(u64, u64)>>,
    lines: HashMap<String, Vec<JobLogEntry>>,
    announced: Vec<InitializeResponse>,
    errors: VecDeque<String>,
    announcement_errors: VecDeque<String>,
}

/// A claim of the log.
struct Entry {
    claim: Attestation,
    filled: Filled,
    /// False for one that the test put there.
    is_plugins: bool,
}

/// What the host filled in, which is never compared.
#[derive(Clone, Copy, Default)]
struct Filled {
    timestamp: bool,
    actors: bool,
    source: bool,
}

/// What a claim of a job was counted as, to be taken back when its batch falls.
type Counted = (String, i32, String);

impl FakeHost {
    pub(super) fn lend_name(&self, plugin: &str) {
        self.lock().plugin = plugin.to_owned();
    }

    /// The plugin's name.
    pub(super) fn plugin(&self) -> String {
        self.lock().plugin.clone()
    }

    pub(super) fn begin(&self, job_id: &str, attempt: i32) {
        self.lock().jobs.insert(job_id.to_owned(), attempt);
    }

    /// Appends what the test gives.
    pub(super) fn give(&self, command: AttestationCommand) -> Result<Attestation, String> {
        let mut state = self.lock();
        let place = state.append(command, false).map_err(|(error, _)| error)?.0;
        Ok(state.log[place].claim.clone())
    }

    pub(super) fn answer_ax(&self, query: &str, commands: Vec<AttestationCommand>) {
        let mut state = self.lock();
        let claims = commands.into_iter().enumerate().map(|(i, command)| {
            let id = format!("answer-{}", i + 1);
            complete(command, &id, "harness").0
        });
        let claims = claims.collect();
        state.answers.insert(query.to_owned(), claims);
    }

    pub(super) fn fail_next_call(&self, error: &str) {
        self.lock().errors.push_back(error.to_owned());
    }

    pub(super) fn fail_next_announcement(&self, error: &str) {
        self.lock().announcement_errors.push_back(error.to_owned());
    }

    /// What the plugin made, oldest first.
    pub(super) fn made(&self) -> Vec<Attestation> {
        let state = self.lock();
        state.log.iter().filter(|entry| entry.is_plugins).map(|e| e.claim.clone()).collect()
    }

    pub(super) fn progress_of(&self, job_id: &str) -> Vec<(u64, u64)> {
        self.lock().progress.get(job_id).cloned().unwrap_or_default()
    }

    /// The lines of a job's log that the host heard of while it ran.
    pub(super) fn lines_of(&self, job_id: &str) -> Vec<JobLogEntry> {
        self.lock().lines.get(job_id).cloned().unwrap_or_default()
    }

    /// What the plugin announced while it ran, oldest first.
    pub(super) fn announced(&self) -> Vec<InitializeResponse> {
        self.lock().announced.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of the fake host panics")
    }

    /// The state, for a caller with the right token, unless this call is to fail.
    fn admit(&self, token: &str) -> Result<MutexGuard<'_, State>, String> {
        if token != TOKEN {
            return Err("unauthenticated: this is not the token of a running plugin process; use the one from this process's Initialize".to_owned());
        }
        let mut state = self.lock();
        match state.errors.pop_front() {
            Some(error) => Err(error),
            None => Ok(state),
        }
    }

    fn append_all(&self, request: BatchGenerateAttestationRequest) -> Result<usize, String> {
        let mut state = self.admit(&request.auth_token)?;
        let before = state.log.len();
        let count = request.commands.len();
        let mut counted = Vec::new();
        for (index, command) in request.commands.into_iter().enumerate() {
            match state.append(command, true) {
                Ok((_, count)) => counted.extend(count),
                Err((error, count)) => {
                    counted.extend(count);
                    state.take_back(before, counted);
                    return Err(format!("commands[{index}]: {error}"));
                }
            }
        }
        Ok(count)
    }

    fn find(&self, request: GetAttestationsRequest) -> Result<Vec<Attestation>, String> {
        let state = self.admit(&request.auth_token)?;
        let filter = request.filter.unwrap_or_default();
        let limit = filter.limit.and_then(|limit| usize::try_from(limit).ok()).filter(|&n| n > 0);
        let limit = limit.unwrap_or(usize::MAX);
        if request.ax.is_empty() {
            let claims = state.log.iter().rev().map(|entry| &entry.claim);
            return Ok(claims.filter(|claim| holds(&filter, claim)).take(limit).cloned().collect());
        }
        let answers = state.answers.get(&request.ax).ok_or_else(|| {
            format!(
                "ax: the harness does not speak AX: say what {:?} finds with Harness::answer_ax",
                request.ax
            )
        })?;
        Ok(answers.iter().filter(|claim| in_time(&filter, claim)).take(limit).cloned().collect())
    }
}

impl State {
    /// Answers with the claim's place in the log, and with what it was counted as.
    fn append(
        &mut self,
        mut command: AttestationCommand,
        is_plugins: bool,
    ) -> Result<(usize, Option<Counted>), (String, Option<Counted>)> {
        let given = std::mem::take(&mut command.id);
        let (job, attempt) = (std::mem::take(&mut command.job_id), command.attempt);
        let content = content(&command);
        let mut counted = None;
        let id = match (given.is_empty(), job.is_empty()) {
            (false, _) => given,
            (true, true) => self.new_id(),
            (true, false) => {
                let latest = self.jobs.get(&job).copied();
                let latest = latest.ok_or_else(|| {
                    (format!("job_id: {job:?} is not a job of this plugin"), None)
                })?;
                let attempt = if attempt == 0 { latest } else { attempt };
                counted = Some((job.clone(), attempt, content.clone()));
                self.computed_id(job, attempt, content)
            }
        };
        let (claim, filled) = complete(command, &id, &self.plugin);
        if let Some(&place) = self.places.get(&id) {
            let known = &self.log[place];
            return if same_content((&known.claim, known.filled), (&claim, filled)) {
                Ok((place, counted))
            } else {
                let seq = known.claim.seq;
                Err((
                    format!("attestation {id} is already in the log as seq {seq} and differs"),
                    counted,
                ))
            };
        }
        let place = self.log.len();
        let claim = Attestation { seq: place as i64 + 1, ..claim };
        self.log.push(Entry { claim, filled, is_plugins });
        self.places.insert(id, place);
        Ok((place, counted))
    }

    fn new_id(&self) -> String {
        (self.log.len() + 1..)
            .map(|n| format!("claim-{n}"))
            .find(|id| !self.places.contains_key(id))
            .expect("numbers do not end")
    }

    fn computed_id(&mut self, job: String, attempt: i32, content: String) -> String {
        let count = self.counted.entry((job.clone(), attempt, content.clone())).or_default();
        *count += 1;
        let key = (job, content, *count);
        if let Some(id) = self.computed.get(&key) {
            return id.clone();
        }
        let id = format!("claim-of-{}-{}", key.0, self.computed.len() + 1);
        self.computed.insert(key, id.clone());
        id
    }

    /// Undoes what a batch did before one of its claims was refused.
    fn take_back(&mut self, before: usize, counted: Vec<Counted>) {
        for entry in self.log.drain(before..) {
            self.places.remove(&entry.claim.id);
        }
        for key in counted {
            if let Some(count) = self.counted.get_mut(&key) {
                *count -= 1;
            }
        }
    }
}

/// Fills the gaps of a claim.
fn complete(command: AttestationCommand, id: &str, source: &str) -> (Attestation, Filled) {
    let or_underscore = |terms: Vec<String>| match terms.is_empty() {
        true => vec!["_".to_owned()],
        false => terms,
    };
    let filled = Filled {
        timestamp: command.timestamp.is_none(),
        actors: command.actors.is_empty(),
        source: command.source.is_empty(),
    };
    let now = jiff::Timestamp::now().as_millisecond();
    let claim = Attestation {
        id: id.to_owned(),
        subjects: command.subjects,
        predicates: or_underscore(command.predicates),
        contexts: or_underscore(command.contexts),
        actors: if filled.actors { vec![id.to_owned()] } else { command.actors },
        timestamp: command.timestamp.unwrap_or(now),
        source: if filled.source { source.to_owned() } else { command.source },
        attributes: command.attributes,
        created_at: now,
        ..Default::default()
    };
    (claim, filled)
}

fn set(terms: &[String]) -> BTreeSet<&str> {
    terms.iter().map(String::as_str).collect()
}

fn attributes(object: Option<&prost_types::Struct>) -> String {
    object.and_then(|object| structs::to_json(object).ok()).unwrap_or_else(|| "{}".to_owned())
}

/// What a claim says, without what was not given.
fn content(command: &AttestationCommand) -> String {
    let attributes = attributes(command.attributes.as_ref());
    let (subjects, predicates) = (set(&command.subjects), set(&command.predicates));
    let (contexts, actors) = (set(&command.contexts), set(&command.actors));
    let (timestamp, source) = (command.timestamp, &command.source);
    serde_json::json!([subjects, predicates, contexts, actors, timestamp, source, attributes])
        .to_string()
}

fn same_content(one: (&Attestation, Filled), other: (&Attestation, Filled)) -> bool {
    let ((a, a_filled), (b, b_filled)) = (one, other);
    set(&a.subjects) == set(&b.subjects)
        && set(&a.predicates) == set(&b.predicates)
        && set(&a.contexts) == set(&b.contexts)
        && (a_filled.actors || b_filled.actors || set(&a.actors) == set(&b.actors))
        && (a_filled.timestamp || b_filled.timestamp || a.timestamp == b.timestamp)
        && (a_filled.source || b_filled.source || a.source == b.source)
        && attributes(a.attributes.as_ref()) == attributes(b.attributes.as_ref())
}

/// One of each list that is not empty, compared exactly, and the time.
fn holds(filter: &AttestationFilter, claim: &Attestation) -> bool {
    let any = |wanted: &[String], terms: &[String]| {
        wanted.is_empty() || wanted.iter().any(|term| terms.contains(term))
    };
    any(&filter.subjects, &claim.subjects)
        && any(&filter.predicates, &claim.predicates)
        && any(&filter.contexts, &claim.contexts)
        && any(&filter.actors, &claim.actors)
        && in_time(filter, claim)
}

fn in_time(filter: &AttestationFilter, claim: &Attestation) -> bool {
    filter.time_start.is_none_or(|start| claim.timestamp >= start)
        && filter.time_end.is_none_or(|end| claim.timestamp <= end)
}

/// An error where the reply has no room for one.
fn status(error: String) -> Status {
    match error.split_once(':').map(|(kind, _)| kind) {
        Some("unauthenticated") => Status::unauthenticated(error),
        Some("resource_exhausted") => Status::resource_exhausted(error),
        Some("unavailable") => Status::unavailable(error),
        _ => Status::invalid_argument(error),
    }
}

fn verdict<T: Default>(answer: Result<T, String>) -> (bool, String, T) {
    match answer {
        Ok(value) => (true, String::new(), value),
        Err(error) => (false, error, T::default()),
    }
}

#[tonic::async_trait]
impl AtsStoreService for FakeHost {
    async fn create_attestation(
        &self,
        _: Request<CreateAttestationRequest>,
    ) -> Result<Response<CreateAttestationResponse>, Status> {
        Err(Status::unimplemented("the SDK does not call it"))
    }

    async fn attestation_exists(
        &self,
        request: Request<AttestationExistsRequest>,
    ) -> Result<Response<AttestationExistsResponse>, Status> {
        let request = request.into_inner();
        let state = self.admit(&request.auth_token).map_err(status)?;
        let exists = state.places.contains_key(&request.id);
        Ok(Response::new(AttestationExistsResponse { exists }))
    }

    async fn generate_and_create_attestation(
        &self,
        request: Request<GenerateAttestationRequest>,
    ) -> Result<Response<GenerateAttestationResponse>, Status> {
        let request = request.into_inner();
        let appended = self.admit(&request.auth_token).and_then(|mut state| {
            let before = state.log.len();
            match state.append(request.command.unwrap_or_default(), true) {
                Ok((place, _)) => Ok(Some(state.log[place].claim.clone())),
                Err((error, counted)) => {
                    state.take_back(before, counted.into_iter().collect());
                    Err(error)
                }
            }
        });
        let (success, error, attestation) = verdict(appended);
        Ok(Response::new(GenerateAttestationResponse { success, error, attestation }))
    }

    async fn batch_generate_and_create_attestations(
        &self,
        request: Request<BatchGenerateAttestationRequest>,
    ) -> Result<Response<BatchGenerateAttestationResponse>, Status> {
        let (success, error, created) = verdict(self.append_all(request.into_inner()));
        let created = i32::try_from(created).unwrap_or(i32::MAX);
        Ok(Response::new(BatchGenerateAttestationResponse { success, error, created }))
    }

    async fn get_attestations(
        &self,
        request: Request<GetAttestationsRequest>,
    ) -> Result<Response<GetAttestationsResponse>, Status> {
        let (success, error, attestations) = verdict(self.find(request.into_inner()));
        Ok(Response::new(GetAttestationsResponse { success, error, attestations }))
    }

    type GetAttestationsStreamStream =
        Pin<Box<dyn Stream<Item = Result<Attestation, Status>> + Send>>;

    async fn get_attestations_stream(
        &self,
        request: Request<GetAttestationsRequest>,
    ) -> Result<Response<Self::GetAttestationsStreamStream>, Status> {
        let found = self.find(request.into_inner()).map_err(status)?;
        Ok(Response::new(Box::pin(stream::iter(found.into_iter().map(Ok)))))
    }
}

#[tonic::async_trait]
impl QueueService for FakeHost {
    async fn update_job(
        &self,
        request: Request<UpdateJobRequest>,
    ) -> Result<Response<UpdateJobResponse>, Status> {
        let request = request.into_inner();
        let updated = self.admit(&request.auth_token).and_then(|mut state| {
            let job = request.job.ok_or("job: missing")?;
            let count = |number| u64::try_from(number).unwrap_or(0);
            if let Some(progress) = job.progress {
                let told = (count(progress.current), count(progress.total));
                state.progress.entry(job.id.clone()).or_default().push(told);
            }
            state.lines.entry(job.id).or_default().extend(request.log_entries);
            Ok(())
        });
        let (success, error, ()) = verdict(updated);
        Ok(Response::new(UpdateJobResponse { success, error }))
    }

    async fn enqueue(
        &self,
        _: Request<EnqueueRequest>,
    ) -> Result<Response<EnqueueResponse>, Status> {
        Err(Status::unimplemented("the harness has no queue"))
    }

    async fn get_job(&self, _: Request<GetJobRequest>) -> Result<Response<GetJobResponse>, Status> {
        Err(Status::unimplemented("the harness has no queue"))
    }

    async fn list_jobs(
        &self,
        _: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        Err(Status::unimplemented("the harness has no queue"))
    }
}

impl State {
    /// The handlers whose code is in the log, as a host keeps them: the newest claim of a name counts,
    /// unless it says that the name is removed.
    fn stored_handlers(&self, version: &str) -> Vec<v1::StoredHandler> {
        let mut found: BTreeMap<&str, v1::StoredHandler> = BTreeMap::new();
        let mut asked = None;
        let is_ours = |entry: &&Entry| entry.claim.contexts.contains(&self.plugin);
        for claim in self.log.iter().filter(is_ours).map(|entry| &entry.claim) {
            let says = |predicate: &str| claim.predicates.iter().any(|term| term == predicate);
            let Some(name) = claim.subjects.first() else { continue };
            if says("handler") {
                let handler = v1::StoredHandler {
                    name: name.clone(),
                    version: claim.id.clone(),
                    seq: claim.seq,
                    code: attribute(claim, "code"),
                    faulted: String::new(),
                };
                if claim.id == version {
                    asked = Some(handler.clone());
                }
                found.insert(name, handler);
            } else if says("handler:faulted") {
                let (reason, of) = (attribute(claim, "reason"), attribute(claim, "version"));
                if reason == "removed" {
                    found.remove(name.as_str());
                } else if let Some(handler) = found.get_mut(name.as_str())
                    && (of.is_empty() || of == handler.version)
                {
                    handler.faulted = reason;
                }
            }
        }
        if version.is_empty() {
            return found.into_values().collect();
        }
        // Only of the one in force is known whether it is faulted.
        let in_force = found.into_values().find(|handler| handler.version == version);
        in_force.or(asked).into_iter().collect()
    }
}

/// A text among the attributes.
fn attribute(claim: &Attestation, key: &str) -> String {
    let value = claim.attributes.as_ref().and_then(|object| object.fields.get(key)?.kind.clone());
    match value {
        Some(prost_types::value::Kind::StringValue(text)) => text,
        _ => String::new(),
    }
}

#[tonic::async_trait]
impl PluginHost for FakeHost {
    async fn announce(
        &self,
        request: Request<v1::AnnounceRequest>,
    ) -> Result<Response<v1::AnnounceResponse>, Status> {
        let request = request.into_inner();
        let announced = self.admit(&request.auth_token).and_then(|mut state| {
            if let Some(error) = state.announcement_errors.pop_front() {
                return Err(error);
            }
            state.announced.push(request.announcement.ok_or("announcement: missing")?);
            Ok(())
        });
        let (success, error, ()) = verdict(announced);
        Ok(Response::new(v1::AnnounceResponse { success, error, refused: Vec::new() }))
    }

    type StoredHandlersStream =
        Pin<Box<dyn Stream<Item = Result<v1::StoredHandler, Status>> + Send>>;

    async fn stored_handlers(
        &self,
        request: Request<v1::StoredHandlersRequest>,
    ) -> Result<Response<Self::StoredHandlersStream>, Status> {
        let request = request.into_inner();
        let state = self.admit(&request.auth_token).map_err(status)?;
        let found = state.stored_handlers(&request.version);
        if found.is_empty() && !request.version.is_empty() {
            return Err(Status::not_found("not a version of a handler of this plugin"));
        }
        Ok(Response::new(Box::pin(stream::iter(found.into_iter().map(Ok)))))
    }
}
