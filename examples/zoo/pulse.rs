//! What plugins of the modes `tells-progress` and `pauses-its-schedule` say to the queue and to schedules.

use std::time::Duration;

use axwatch_proto::protocol::queue_service_client::QueueServiceClient;
use axwatch_proto::protocol::schedule_service_client::ScheduleServiceClient;
use axwatch_proto::protocol::{
    CreateScheduleRequest, ExecuteJobRequest, ExecuteJobResponse, GetScheduleRequest, Job,
    JobLogEntry, PauseScheduleRequest, Progress, UpdateJobRequest,
};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::Host;

/// What a job costs, all steps together.
const COST: f64 = 0.25;

/// Tells each step of a job, and ends it well when all were heard.
pub async fn tell_progress(
    host: &Host,
    job: &ExecuteJobRequest,
) -> Result<ExecuteJobResponse, Status> {
    let mut queue = QueueServiceClient::new(connect(&host.queue_endpoint).await?);
    let total = i32::try_from(host.n()).unwrap_or(i32::MAX);
    for current in 1..=total {
        tokio::time::sleep(Duration::from_millis(host.ms())).await;
        let told = Job {
            id: job.job_id.clone(),
            status: "running".into(),
            progress: Some(Progress { current, total }),
            cost_actual: COST * f64::from(current) / f64::from(total),
            ..Default::default()
        };
        let auth_token = host.token.clone();
        let (job, attempt) = (Some(told), job.attempt);
        let request = UpdateJobRequest { auth_token, job, attempt, ..Default::default() };
        let reply = queue.update_job(request).await?.into_inner();
        heard(reply.success, reply.error)?;
    }
    let says = |level: &str, stage: &str, message: String| JobLogEntry {
        level: level.into(),
        stage: stage.into(),
        message,
        ..Default::default()
    };
    Ok(ExecuteJobResponse {
        success: true,
        progress_current: total,
        progress_total: total,
        cost_actual: COST,
        log_entries: vec![
            says("info", "steps", format!("{total} steps")),
            says("warn", "end", "that was all".into()),
        ],
        ..Default::default()
    })
}

/// Makes a schedule for a handler, or finds the one that it has, and gives its id.
pub async fn make_schedule(host: &Host, handler: &str) -> Result<String, Status> {
    let interval_seconds = i32::try_from(host.number("secs", 1)).unwrap_or(i32::MAX);
    let request = CreateScheduleRequest {
        auth_token: host.token.clone(),
        handler_name: handler.into(),
        interval_seconds,
        ..Default::default()
    };
    let mut schedules = ScheduleServiceClient::new(connect(&host.schedule_endpoint).await?);
    let reply = schedules.create_schedule(request).await?.into_inner();
    heard(reply.success, reply.error)?;
    Ok(reply.schedule_id)
}

/// Pauses the schedule of a handler, and gives what it then is: `paused`.
pub async fn pause_schedule(host: &Host, handler: &str) -> Result<String, Status> {
    let schedule_id = make_schedule(host, handler).await?;
    let mut schedules = ScheduleServiceClient::new(connect(&host.schedule_endpoint).await?);
    let auth_token = host.token.clone();
    let request = PauseScheduleRequest { auth_token, schedule_id: schedule_id.clone() };
    let reply = schedules.pause_schedule(request).await?.into_inner();
    heard(reply.success, reply.error)?;
    let auth_token = host.token.clone();
    let request = GetScheduleRequest { auth_token, schedule_id, ..Default::default() };
    let reply = schedules.get_schedule(request).await?.into_inner();
    heard(reply.success, reply.error)?;
    Ok(reply.job.map(|job| job.state).unwrap_or_default())
}

async fn connect(endpoint: &str) -> Result<Channel, Status> {
    let unavailable = |error: tonic::transport::Error| {
        Status::unavailable(format!("the host is not there: {error}"))
    };
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).map_err(unavailable)?;
    endpoint.connect().await.map_err(unavailable)
}

fn heard(success: bool, error: String) -> Result<(), Status> {
    if success { Ok(()) } else { Err(Status::internal(error)) }
}
