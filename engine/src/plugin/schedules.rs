//! Schedules, as we serve them to plugins: `protocol.ScheduleService`.
//!
//! A plugin has at most one schedule for each of its handlers, whether it declared it or made it here. Of another's
//! it is told what it is told of one that is nowhere. Calls are answered while the plugin's own jobs and its Initialize
//! are under way.
//!
//! Not here: when a schedule runs (`axwatch_core`), what it looks like on the wire (`super::wire::pulse`).

use axwatch_core::ScheduleView;
use axwatch_model::{Asker, Owner, ScheduleId};
use axwatch_proto::protocol;
use axwatch_proto::protocol::schedule_service_server::ScheduleService;
use bytes::Bytes;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::admission::{Admitted, CallError, Denied, verdict};
use super::door::Visit;
use super::large::{SMALL_BYTES, Seat};
use super::queue::shown_id;
use super::services::{REPLY_BYTES_MAX, Services};
use super::wire::{self, pulse};

/// What may be done with a schedule that stands.
#[derive(Clone, Copy)]
enum Step {
    Pause,
    Resume,
    Delete,
}

impl Services {
    async fn created_schedule(
        &self,
        visit: &Visit,
        request: protocol::CreateScheduleRequest,
    ) -> Result<ScheduleId, CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let caller = &admitted.caller;
        if request.handler_name.is_empty() {
            return Err(CallError::Missing("handler_name"));
        }
        let redacted = |text| caller.redacted(text);
        let asked = pulse::schedule_asked(request, &caller.plugin, redacted);
        let row = self.engine.create_schedule(asked).await?;
        admitted.done();
        Ok(row.id)
    }

    async fn stepped(
        &self,
        visit: &Visit,
        (token, bytes): (&str, usize),
        id: &str,
        step: Step,
    ) -> Result<(), CallError> {
        let mut admitted = self.admit(visit, token, bytes)?;
        let id = self.own_schedule(&mut admitted, id).await?.row.id;
        let by = Asker::Plugin(admitted.caller.plugin.clone());
        match step {
            Step::Pause => self.engine.pause_schedule(id, by).await?,
            Step::Resume => self.engine.resume_schedule(id, by).await?,
            Step::Delete => self.engine.delete_schedule(id, by).await?,
        };
        admitted.done();
        Ok(())
    }

    async fn got_schedule(
        &self,
        visit: &Visit,
        request: protocol::GetScheduleRequest,
    ) -> Result<(protocol::ScheduledJob, Option<Seat>), CallError> {
        let mut admitted = self.admit(visit, &request.auth_token, request.encoded_len())?;
        let view = self.own_schedule(&mut admitted, &request.schedule_id).await?;
        let payload = view.row.payload.clone().filter(|_| !request.without_payload);
        let schedule = pulse::scheduled(&view, payload.map(Bytes::from_owner).unwrap_or_default());
        // `success` takes two.
        let bytes = 2 + wire::bytes_in_list(&schedule);
        if bytes > REPLY_BYTES_MAX {
            return Err(CallError::PayloadTooLarge);
        }
        let mut seat = None;
        if bytes > SMALL_BYTES {
            seat = Some(admitted.caller.seat().await.ok_or(Denied::TooManyReplies)?);
        }
        admitted.done();
        Ok((schedule, seat))
    }

    /// A schedule of the calling plugin's own, a deleted one too.
    async fn own_schedule(
        &self,
        admitted: &mut Admitted,
        text: &str,
    ) -> Result<ScheduleView, CallError> {
        let caller = admitted.caller.clone();
        let id = text.parse::<ScheduleId>().ok();
        let view = match id {
            Some(id) => self.engine.schedule(&id.to_string()).await?,
            None => None,
        };
        let owner = Owner::Plugin(caller.plugin.clone());
        // A person's may be called like an id.
        match view.filter(|view| Some(view.row.id) == id && view.row.owner == owner) {
            Some(view) => Ok(view),
            None => {
                // That was its answer.
                admitted.done();
                Err(CallError::NoSchedule(shown_id(&caller, text)))
            }
        }
    }
}

#[tonic::async_trait]
impl ScheduleService for Services {
    async fn create_schedule(
        &self,
        request: Request<protocol::CreateScheduleRequest>,
    ) -> Result<Response<protocol::CreateScheduleResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (success, error, id) = verdict(self.created_schedule(&visit, request).await);
        let schedule_id = id.map(|id| id.to_string()).unwrap_or_default();
        Ok(Response::new(protocol::CreateScheduleResponse { success, error, schedule_id }))
    }

    async fn pause_schedule(
        &self,
        request: Request<protocol::PauseScheduleRequest>,
    ) -> Result<Response<protocol::PauseScheduleResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let bearer = (request.auth_token.as_str(), request.encoded_len());
        let stepped = self.stepped(&visit, bearer, &request.schedule_id, Step::Pause).await;
        let (success, error, _) = verdict(stepped);
        Ok(Response::new(protocol::PauseScheduleResponse { success, error }))
    }

    async fn resume_schedule(
        &self,
        request: Request<protocol::ResumeScheduleRequest>,
    ) -> Result<Response<protocol::ResumeScheduleResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let bearer = (request.auth_token.as_str(), request.encoded_len());
        let stepped = self.stepped(&visit, bearer, &request.schedule_id, Step::Resume).await;
        let (success, error, _) = verdict(stepped);
        Ok(Response::new(protocol::ResumeScheduleResponse { success, error }))
    }

    async fn delete_schedule(
        &self,
        request: Request<protocol::DeleteScheduleRequest>,
    ) -> Result<Response<protocol::DeleteScheduleResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let bearer = (request.auth_token.as_str(), request.encoded_len());
        let stepped = self.stepped(&visit, bearer, &request.schedule_id, Step::Delete).await;
        let (success, error, _) = verdict(stepped);
        Ok(Response::new(protocol::DeleteScheduleResponse { success, error }))
    }

    async fn get_schedule(
        &self,
        request: Request<protocol::GetScheduleRequest>,
    ) -> Result<Response<protocol::GetScheduleResponse>, Status> {
        let (visit, request) = Visit::of(request);
        let (success, error, found) = verdict(self.got_schedule(&visit, request).await);
        let (job, seat) = found.map(|(job, seat)| (Some(job), seat)).unwrap_or_default();
        Ok(Seat::taken_by(protocol::GetScheduleResponse { success, error, job }, seat))
    }
}
