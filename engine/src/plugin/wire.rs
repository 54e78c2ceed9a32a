//! Protobuf stops here: messages of plugins in the engine's words, and back.
//!
//! Pure: the same message gives the same value. What a plugin sends is checked where it comes in, and
//! every refusal names the field at fault.
//!
//! Not here: who may ask (`super::admission`), what a claim's lineage is (`super::claims`), what
//! follows from an outcome (`axwatch_core`). Jobs and schedules of the services have a file of their own.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axwatch_core::{
    Declaration, Ended, JobEntry, Outcome, Registration, RouteDeclaration, ScheduleDeclaration,
    Since,
};
use axwatch_model::bounds::{
    ENTRIES_MAX, ERROR_BYTES_MAX, FIRES_PER_SECOND_MAX, RESULT_BYTES_MAX, cut,
};
use axwatch_model::{
    Announced, Attributes, Declared, Draft, HandlerName, InvalidAttributes, InvalidTimestamp,
    RefusedRow, Stored, StructuralFilter, Timestamp,
};
use axwatch_proto::protocol;
use axwatch_proto::structs::{self, ToJsonError};
use axwatch_query::{Filter, FoundBy, Mistakes, Over};
use prost::{Message, length_delimiter_len};
use prost_types::value::Kind;
use tonic::{Code, Status};

use super::output::without_controls;
use crate::dispatch::Attempt;

pub(crate) mod pulse;

/// Bytes of a plugin's reply to anything but HTTP.
pub(crate) const REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A plugin may put a job off by this much at most.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Timestamps below this are seconds: as milliseconds they would lie before March 1973.
const MILLISECONDS_FROM: i64 = 100_000_000_000;

// ---- jobs ----

/// One attempt as the plugin gets it.
pub(crate) fn request(attempt: &Attempt, deadline: Duration) -> protocol::ExecuteJobRequest {
    let start = &attempt.start;
    protocol::ExecuteJobRequest {
        job_id: start.id.to_string(),
        handler_name: start.handler.to_string(),
        payload: attempt.payload.clone(),
        timeout_secs: Some(i64::try_from(deadline.as_secs().max(1)).unwrap_or(i64::MAX)),
        params: start.params.as_deref().unwrap_or_default().as_bytes().to_vec(),
        attempt: i32::try_from(start.attempt).unwrap_or(i32::MAX),
        watcher: start.watcher.to_string(),
        revision: i64::try_from(start.revision).unwrap_or(i64::MAX),
        handler_version: start
            .handler_version
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        schedule: start.schedule.to_string(),
    }
}

/// How an attempt ended that the plugin answered, or that its connection ended.
///
/// `has_handler`: the running process announced the handler, so that it cannot be missing. `shown`: how the
/// plugin's words may be kept, given before anything is cut off them.
pub(crate) fn ended(
    reply: &Result<protocol::ExecuteJobResponse, Status>,
    has_handler: bool,
    quick: bool,
    shown: &dyn Fn(&str) -> String,
) -> Ended {
    match reply {
        Ok(reply) => Ended {
            outcome: outcome_of_reply(reply, shown),
            quick,
            // A negative number counts nothing.
            progress: Some((reply.progress_current, reply.progress_total)).filter(
                |&(current, total)| current >= 0 && total >= 0 && (current, total) != (0, 0),
            ),
            cost: Some(reply.cost_actual).filter(|cost| cost.is_finite() && *cost > 0.0),
            entries: entries_of(reply, shown),
        },
        Err(status) => {
            let outcome = outcome_of_status(status, has_handler, shown);
            let answered = !matches!(outcome, Outcome::Lost { .. });
            Ended { quick: quick && answered, ..Ended::bare(outcome) }
        }
    }
}

/// What the attempt had to say, as far as anything of it may be kept.
fn entries_of(
    reply: &protocol::ExecuteJobResponse,
    shown: &dyn Fn(&str) -> String,
) -> Vec<JobEntry> {
    let said = reply.log_entries.iter().map(|said| entry(said, shown));
    left_out(reply).into_iter().chain(said).take(ENTRIES_TAKEN_MAX).collect()
}

/// What an attempt has to say while it is under way, as far as anything of it may be kept.
pub(crate) fn entries(
    said: &[protocol::JobLogEntry],
    shown: &dyn Fn(&str) -> String,
) -> Vec<JobEntry> {
    said.iter().map(|said| entry(said, shown)).take(ENTRIES_TAKEN_MAX).collect()
}

/// One more than is kept, so that the last can say that there was more.
const ENTRIES_TAKEN_MAX: usize = ENTRIES_MAX as usize + 1;

fn entry(said: &protocol::JobLogEntry, shown: &dyn Fn(&str) -> String) -> JobEntry {
    JobEntry {
        at: said.timestamp.parse().ok(),
        level: shown(&said.level),
        stage: shown(&said.stage),
        message: shown(&said.message),
        metadata: Some(shown(&said.metadata))
            .filter(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()),
    }
}

/// That the result is not kept, for whoever looks for it.
fn left_out(reply: &protocol::ExecuteJobResponse) -> Option<JobEntry> {
    let (bytes, max) = (reply.result.len(), RESULT_BYTES_MAX);
    (reply.success && is_result_too_long(reply)).then(|| JobEntry {
        at: None,
        level: "warn".to_owned(),
        stage: String::new(),
        message: format!("its result of {bytes} bytes was left out: at most {max} are kept"),
        metadata: None,
    })
}

fn outcome_of_reply(
    reply: &protocol::ExecuteJobResponse,
    shown: &dyn Fn(&str) -> String,
) -> Outcome {
    if reply.success {
        let kept = !reply.result.is_empty() && !is_result_too_long(reply);
        return Outcome::Succeeded { result: kept.then(|| Arc::from(&reply.result[..])) };
    }
    let error = match shown(&reply.error) {
        error if error.is_empty() => "the plugin gave no reason".to_owned(),
        error => error,
    };
    // Never again is the stronger word: a plugin that says both must not be asked for ever.
    if reply.permanent {
        Outcome::Permanent { error }
    } else if let Ok(ms @ 1..) = u64::try_from(reply.retry_after_ms) {
        let after = Some(Duration::from_millis(ms).min(RETRY_AFTER_MAX));
        Outcome::NotNow { after, error, overloaded: false }
    } else {
        Outcome::Retryable { error, missed_deadline: false }
    }
}

/// Whether the result is left out because it is longer than what is kept.
pub(crate) fn is_result_too_long(reply: &protocol::ExecuteJobResponse) -> bool {
    reply.result.len() > RESULT_BYTES_MAX
}

fn outcome_of_status(
    status: &Status,
    has_handler: bool,
    shown: &dyn Fn(&str) -> String,
) -> Outcome {
    let error = shown(&status_words(status));
    if is_connection_lost(status) {
        return Outcome::Lost { error };
    }
    if is_too_large(status, REPLY_BYTES_MAX) {
        // It would be as large the next time, and what it reports on has been done.
        return Outcome::Permanent { error: "its reply is larger than 8 MiB".to_owned() };
    }
    match status.code() {
        // The transport's own word for a stream that was reset is no word of the plugin's.
        _ if is_transport(status) => Outcome::Retryable { error, missed_deadline: false },
        Code::InvalidArgument
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::FailedPrecondition => Outcome::Permanent { error },
        Code::NotFound if has_handler => Outcome::Permanent { error },
        Code::NotFound => Outcome::NoHandler { error },
        Code::ResourceExhausted => Outcome::NotNow { after: None, error, overloaded: true },
        _ => Outcome::Retryable { error, missed_deadline: false },
    }
}

/// Whether a status was made on our side of the wire: those have a cause, a plugin's have none.
fn is_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Whether we refused a reply for its length: our own bound is in the text, and nothing else tells
/// such a status from one that a plugin made.
pub(super) fn is_too_large(status: &Status, bytes_max: usize) -> bool {
    let text = status.message();
    status.code() == Code::OutOfRange
        && text.starts_with("Error, decoded message length too large: ")
        && text.ends_with(&format!("the limit is: {bytes_max} bytes"))
}

/// Whether the whole connection ended, and not this one call: h2 calls the latter a stream error.
fn is_connection_lost(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    if cause.is_none() {
        return false;
    }
    while let Some(error) = cause {
        if error.to_string().starts_with("stream error") {
            return false;
        }
        cause = error.source();
    }
    true
}

/// The code as the documents of gRPC write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// A status in one line, for people.
pub(crate) fn status_text(status: &Status) -> String {
    shown(&status_words(status))
}

/// The same as the plugin gave it: to be looked through for secrets before it is cut.
pub(crate) fn status_words(status: &Status) -> String {
    format!("{}: {}", code_name(status.code()), status.message())
}

/// A plugin's text as it may be kept and shown: bounded, without control characters.
pub(crate) fn shown(text: &str) -> String {
    // Cut twice: before the cleaning for the work, and after it for the bound, which lossy text passes.
    let cleaned = without_controls(cut(text, ERROR_BYTES_MAX));
    cut(cleaned.trim_end(), ERROR_BYTES_MAX).to_owned()
}

// ---- what a plugin announces ----

/// Handlers of one announcement.
const HANDLERS_MAX: usize = 10_000;
/// Watchers of one announcement.
const WATCHERS_MAX: usize = 100_000;
/// Schedules of one announcement.
const SCHEDULES_MAX: usize = 1_000;
/// Routes of one announcement.
const ROUTES_MAX: usize = 1_000;

/// Takes an announcement apart, for the core, which checks what there is. `zero_is_never`: 0 fires a second
/// means none, for this plugin. `shown`: how its words may be kept.
pub(crate) fn announced(
    reply: protocol::InitializeResponse,
    zero_is_never: bool,
    shown: &dyn Fn(&str) -> String,
) -> Registration {
    let refusal = |kind, name: &str, reason: String| RefusedRow {
        kind,
        name: shown(name),
        reason: shown(&reason),
    };
    let mut refused = Vec::new();
    let (mut handlers, mut known) = (Vec::new(), HashSet::new());
    for name in bounded(reply.handler_names, HANDLERS_MAX, Announced::Handler, &mut refused) {
        match handler_name(&name) {
            Ok(handler) if known.insert(handler.clone()) => handlers.push(handler),
            Ok(_) => {}
            Err(reason) => refused.push(refusal(Announced::Handler, &name, reason)),
        }
    }
    let watchers = bounded(reply.watchers, WATCHERS_MAX, Announced::Watcher, &mut refused);
    let schedules = bounded(reply.schedules, SCHEDULES_MAX, Announced::Schedule, &mut refused);
    let routes = bounded(reply.http_routes, ROUTES_MAX, Announced::Route, &mut refused);
    Registration {
        handlers,
        stored_handlers: reply.stored_handlers,
        watchers: watchers.map(|watcher| declaration(watcher, zero_is_never)).collect(),
        schedules: schedules
            .map(|schedule| ScheduleDeclaration {
                id: schedule.id,
                handler: schedule.handler_name,
                interval_secs: schedule.interval_seconds.into(),
                enabled_by_default: schedule.enabled_by_default,
                description: shown(&schedule.description),
                ats_code: schedule.ats_code,
            })
            .collect(),
        routes: routes
            .map(|route| RouteDeclaration {
                method: route.method,
                path: route.path,
                description: shown(&route.description),
            })
            .collect(),
        refused,
        ..Registration::default()
    }
}

/// The first so many of a list; that there were more is refused.
fn bounded<T>(
    all: Vec<T>,
    max: usize,
    kind: Announced,
    refused: &mut Vec<RefusedRow>,
) -> impl Iterator<Item = T> + use<T> {
    if all.len() > max {
        let reason = format!("{} are announced; at most {max} are taken", all.len());
        refused.push(RefusedRow { kind, name: String::new(), reason });
    }
    all.into_iter().take(max)
}

/// What was understood of a watcher's rate, in words; `None` of one that will be refused.
pub(crate) fn rate_text(watcher: &Declaration) -> Option<String> {
    match watcher.max_fires_per_second {
        0 if watcher.zero_is_never => Some("never fires (its 0 means so, by zero_rate)".to_owned()),
        0 => Some("no limit".to_owned()),
        n @ 1..=FIRES_PER_SECOND_MAX => Some(format!("at most {n} fires a second")),
        _ => None,
    }
}

/// Whether every claim will be held against a watcher, because no look-up finds it.
pub(crate) fn is_dear(watcher: &Declaration) -> bool {
    let filter = Filter::declared(&watcher.declared);
    filter.is_ok_and(|(filter, _)| FoundBy::of(&filter) == FoundBy::Nothing)
}

/// What was refused of an announcement, each part in a line.
pub(crate) fn refusals(refused: &[RefusedRow]) -> Vec<String> {
    refused.iter().map(refusal_line).collect()
}

/// One part of it. What is secret of it was taken out before.
pub(crate) fn refusal_line(row: &RefusedRow) -> String {
    let (kind, name) = (row.kind.as_str(), shown(&row.name));
    format!("{kind} {name:?}: {}", shown(&row.reason))
}

fn handler_name(name: &str) -> Result<HandlerName, String> {
    if name.contains('/') {
        return Err("a bare name has no '/', which stands between plugin and handler".to_owned());
    }
    name.parse().map_err(|error: axwatch_model::InvalidId| error.to_string())
}

fn declaration(watcher: protocol::WatcherRegistration, zero_is_never: bool) -> Declaration {
    let declared = if watcher.ax.is_empty() {
        Declared::Structural(StructuralFilter {
            subjects: watcher.subjects,
            predicates: watcher.predicates,
            contexts: watcher.contexts,
            actors: watcher.actors,
        })
    } else {
        Declared::Ax(watcher.ax)
    };
    let handlers = Some(watcher.handler_name).filter(|name| !name.is_empty());
    Declaration {
        local: watcher.id,
        declared,
        handlers: handlers.into_iter().collect(),
        params: params(watcher.params),
        max_fires_per_second: watcher.max_fires_per_second.into(),
        zero_is_never,
        max_chain: watcher.max_chain,
        since: Some(watcher.since).filter(|since| !since.is_empty()).map(Since::Written),
        max_attempts: 0,
        max_age: None,
    }
}

/// Bytes that are no text are no JSON object either, which the core then says of them.
fn params(bytes: Vec<u8>) -> Option<Arc<str>> {
    if bytes.is_empty() {
        return None;
    }
    Some(String::from_utf8(bytes).map_or_else(|_| "bytes that are not UTF-8".into(), Arc::from))
}

// ---- claims ----

/// Why a claim on the wire is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidClaim {
    /// A time that only makes sense in seconds.
    #[error(
        "timestamp: {0} looks like seconds; it must be milliseconds since 1970, and 0 means now"
    )]
    Seconds(i64),
    /// A time outside what can be written.
    #[error("timestamp: {0}")]
    Timestamp(#[from] InvalidTimestamp),
    /// A `Struct` that is no JSON.
    #[error("attributes: {0}")]
    Struct(#[from] ToJsonError),
    /// Too large or too deep.
    #[error("{0}")]
    Attributes(#[from] InvalidAttributes),
}

/// A claim whose id the caller made.
pub(crate) fn draft_of_claim(claim: protocol::Attestation) -> Result<Draft, InvalidClaim> {
    Ok(Draft {
        id: Some(claim.id),
        subjects: claim.subjects,
        predicates: claim.predicates,
        contexts: claim.contexts,
        actors: claim.actors,
        timestamp: timestamp(claim.timestamp)?,
        source: Some(claim.source),
        attributes: attributes(claim.attributes)?,
        signature: Some(claim.signature),
        signer_did: Some(claim.signer_did),
    })
}

/// A claim to be made; without an id unless the caller wants to be able to repeat it.
pub(crate) fn draft_of_command(
    command: protocol::AttestationCommand,
) -> Result<Draft, InvalidClaim> {
    let mut fields = command.attributes;
    if !command.source_version.is_empty() {
        let version = prost_types::Value { kind: Some(Kind::StringValue(command.source_version)) };
        fields.get_or_insert_default().fields.insert("source_version".to_owned(), version);
    }
    Ok(Draft {
        id: Some(command.id).filter(|id| !id.is_empty()),
        subjects: command.subjects,
        predicates: command.predicates,
        contexts: command.contexts,
        actors: command.actors,
        timestamp: timestamp(command.timestamp.unwrap_or(0))?,
        source: Some(command.source),
        attributes: attributes(fields)?,
        signature: None,
        signer_did: None,
    })
}

/// 0 is now. Old clients send seconds, which would be stored as a day in January 1970.
fn timestamp(ms: i64) -> Result<Option<Timestamp>, InvalidClaim> {
    match ms {
        0 => Ok(None),
        ..MILLISECONDS_FROM => Err(InvalidClaim::Seconds(ms)),
        ms => Ok(Some(Timestamp::from_ms(ms)?)),
    }
}

fn attributes(fields: Option<prost_types::Struct>) -> Result<Option<Attributes>, InvalidClaim> {
    match fields {
        None => Ok(None),
        Some(fields) => Ok(Attributes::parse(&structs::to_json(&fields)?)?),
    }
}

/// A claim of the log, as a reply has it.
pub(crate) fn attestation(stored: &Stored) -> protocol::Attestation {
    let claim = &stored.attestation;
    protocol::Attestation {
        id: claim.id.to_string(),
        subjects: claim.subjects.clone(),
        predicates: claim.predicates.clone(),
        contexts: claim.contexts.clone(),
        actors: claim.actors.clone(),
        timestamp: claim.timestamp.ms(),
        source: claim.source.clone(),
        attributes: claim.attributes.as_ref().and_then(|attributes| {
            // A number beyond a double, from a claim that did not come over this wire.
            let fields = structs::from_json(attributes.as_str());
            fields.inspect_err(|error| tracing::warn!(id = %claim.id, %error, "attributes left out of a reply")).ok()
        }),
        created_at: claim.created_at.ms(),
        signature: claim.signature.clone().unwrap_or_default(),
        signer_did: claim.signer_did.clone().unwrap_or_default(),
        seq: i64::try_from(stored.seq.0).unwrap_or(i64::MAX),
    }
}

// ---- searches ----

/// Why a search cannot be made: the mistakes of its AX text.
#[derive(Debug, thiserror::Error)]
#[error("ax: {0}")]
pub(crate) struct InvalidSearch(#[from] Mistakes);

/// What a search asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub filter: Filter,
    /// How long its subjects have to have lasted.
    pub over: Option<Over>,
    /// How many claims it wants at most.
    pub limit: Option<usize>,
}

/// Reads a search.
///
/// With AX text, whose times are reckoned at this now, of the lists of the filter nothing counts; its
/// limit and its times still do.
pub(crate) fn search(
    request: protocol::GetAttestationsRequest,
    now: Timestamp,
) -> Result<Asked, InvalidSearch> {
    let filter = request.filter.unwrap_or_default();
    let limit = filter.limit.and_then(|limit| usize::try_from(limit).ok()).filter(|&n| n > 0);
    let (start, end) = (filter.time_start, filter.time_end);
    let (meaning, over) = if request.ax.is_empty() {
        let lists = StructuralFilter {
            subjects: filter.subjects,
            predicates: filter.predicates,
            contexts: filter.contexts,
            actors: filter.actors,
        };
        (Filter::structural(&lists), None)
    } else {
        Filter::asked(&request.ax, now)?
    };
    Ok(Asked { filter: meaning.within(start, end), over, limit })
}

/// Bytes that a message takes within a reply, or in its list: its own, the key, and its length.
pub(crate) fn bytes_in_list(message: &impl Message) -> usize {
    const KEY_BYTES: usize = 1;
    let bytes = message.encoded_len();
    KEY_BYTES + length_delimiter_len(bytes) + bytes
}

#[cfg(test)]
mod tests {
    use axwatch_model::{AttestationId, DefaultActor, Defaults, Lineage, Seq};
    use prost_types::{ListValue, Struct, Value};

    use super::*;

    fn text(text: &str) -> Value {
        Value { kind: Some(Kind::StringValue(text.into())) }
    }

    fn number(number: f64) -> Value {
        Value { kind: Some(Kind::NumberValue(number)) }
    }

    fn object<const N: usize>(fields: [(&str, Value); N]) -> Struct {
        Struct { fields: fields.map(|(key, value)| (key.to_owned(), value)).into() }
    }

    fn retryable(error: &str) -> Outcome {
        Outcome::Retryable { error: error.into(), missed_deadline: false }
    }

    fn permanent(error: &str) -> Outcome {
        Outcome::Permanent { error: error.into() }
    }

    fn not_now(after_ms: u64, error: &str) -> Outcome {
        let after = Some(Duration::from_millis(after_ms));
        Outcome::NotNow { after, error: error.into(), overloaded: false }
    }

    fn ended(
        reply: &Result<protocol::ExecuteJobResponse, Status>,
        has_handler: bool,
        quick: bool,
    ) -> Ended {
        super::ended(reply, has_handler, quick, &shown)
    }

    fn announced(reply: protocol::InitializeResponse, zero_is_never: bool) -> Registration {
        super::announced(reply, zero_is_never, &shown)
    }

    #[test]
    fn a_reply_is_sorted_by_what_it_says() {
        let reply = |success, retry_after_ms, permanent| protocol::ExecuteJobResponse {
            success,
            error: "busy".into(),
            retry_after_ms,
            permanent,
            ..Default::default()
        };
        let day_ms = 24 * 60 * 60 * 1_000;
        let cases = [
            (reply(true, 0, false), Outcome::Succeeded { result: None }),
            (reply(true, 5, true), Outcome::Succeeded { result: None }),
            (reply(false, 0, false), retryable("busy")),
            (reply(false, -1, false), retryable("busy")),
            (reply(false, 1_500, false), not_now(1_500, "busy")),
            (reply(false, i64::MAX, false), not_now(day_ms, "busy")),
            (reply(false, 0, true), permanent("busy")),
            (reply(false, 1_500, true), permanent("busy")),
        ];
        for (reply, expected) in cases {
            let ended = ended(&Ok(reply.clone()), true, true);
            assert_eq!(ended.outcome, expected, "{reply:?}");
            assert!(ended.quick);
        }
    }

    #[test]
    fn a_status_is_sorted_by_its_code() {
        let overloaded = Outcome::NotNow {
            after: None,
            error: "RESOURCE_EXHAUSTED: no".into(),
            overloaded: true,
        };
        let cases = [
            (Code::InvalidArgument, true, permanent("INVALID_ARGUMENT: no")),
            (Code::Unimplemented, true, permanent("UNIMPLEMENTED: no")),
            (Code::PermissionDenied, true, permanent("PERMISSION_DENIED: no")),
            (Code::FailedPrecondition, true, permanent("FAILED_PRECONDITION: no")),
            (Code::NotFound, true, permanent("NOT_FOUND: no")),
            (Code::NotFound, false, Outcome::NoHandler { error: "NOT_FOUND: no".into() }),
            (Code::ResourceExhausted, true, overloaded),
            (Code::Unavailable, true, retryable("UNAVAILABLE: no")),
            (Code::Internal, true, retryable("INTERNAL: no")),
            (Code::DeadlineExceeded, true, retryable("DEADLINE_EXCEEDED: no")),
            (Code::Unauthenticated, true, retryable("UNAUTHENTICATED: no")),
            (Code::Unknown, true, retryable("UNKNOWN: no")),
            (Code::OutOfRange, true, retryable("OUT_OF_RANGE: no")),
        ];
        for (code, has_handler, expected) in cases {
            let ended = ended(&Err(Status::new(code, "no")), has_handler, true);
            assert_eq!(ended.outcome, expected, "{code:?}, announced: {has_handler}");
        }
    }

    #[test]
    fn a_connection_that_ends_is_no_answer() {
        let caused = |code, cause: &str| {
            let mut status = Status::new(code, "transport error");
            status.set_source(Arc::new(std::io::Error::other(cause.to_owned())));
            ended(&Err(status), true, true)
        };
        let lost = caused(Code::Unavailable, "connection reset");
        assert_eq!(lost.outcome, Outcome::Lost { error: "UNAVAILABLE: transport error".into() });
        assert!(!lost.quick);
        let reset = caused(Code::PermissionDenied, "stream error received: not a result");
        assert_eq!(reset.outcome, retryable("PERMISSION_DENIED: transport error"));
    }

    #[test]
    fn what_a_reply_carries_is_bounded() {
        let reply = protocol::ExecuteJobResponse {
            success: true,
            result: vec![1; RESULT_BYTES_MAX].into(),
            progress_current: 3,
            progress_total: 4,
            cost_actual: 0.25,
            ..Default::default()
        };
        let ended = |reply| self::ended(&Ok(reply), true, false);
        let kept = ended(reply.clone());
        assert!(
            matches!(kept.outcome, Outcome::Succeeded { result: Some(result) } if result.len() == RESULT_BYTES_MAX)
        );
        assert_eq!((kept.progress, kept.cost, kept.quick), (Some((3, 4)), Some(0.25), false));
        let says = protocol::JobLogEntry {
            timestamp: "2026-01-02T03:04:05Z".into(),
            level: "info".into(),
            stage: "clone".into(),
            message: "half\u{7} way".into(),
            metadata: r#"{"n":1}"#.into(),
        };
        let odd = protocol::JobLogEntry {
            timestamp: "noon".into(),
            metadata: "{".into(),
            ..says.clone()
        };
        let log_entries = [says, odd].into_iter().cycle().take(5_000).collect();
        let entries = ended(protocol::ExecuteJobResponse { log_entries, ..reply.clone() }).entries;
        assert_eq!(entries.len(), ENTRIES_MAX as usize + 1);
        let expected = JobEntry {
            at: Some("2026-01-02T03:04:05Z".parse().unwrap()),
            level: "info".into(),
            stage: "clone".into(),
            message: shown("half\u{7} way"),
            metadata: Some(r#"{"n":1}"#.into()),
        };
        assert_eq!(entries[1], JobEntry { at: None, metadata: None, ..expected.clone() });
        assert_eq!(entries[0], expected);

        for (progress_current, progress_total) in [(0, 0), (-1, 4), (3, -4), (-1, 0)] {
            let reply =
                protocol::ExecuteJobResponse { progress_current, progress_total, ..reply.clone() };
            assert_eq!(ended(reply).progress, None, "{progress_current} of {progress_total}");
        }

        let longer = vec![1; RESULT_BYTES_MAX + 1].into();
        let left_out = protocol::ExecuteJobResponse { result: longer, ..reply.clone() };
        assert!(is_result_too_long(&left_out));
        let told = ended(left_out);
        assert_eq!(told.outcome, Outcome::Succeeded { result: None });
        assert!(told.entries[0].message.starts_with("its result of 1048577 bytes was left out"));
        for cost_actual in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            assert_eq!(
                ended(protocol::ExecuteJobResponse { cost_actual, ..reply.clone() }).cost,
                None
            );
        }
        let failed = protocol::ExecuteJobResponse {
            error: format!("\x1b[31mred\x1b[0m\n{}", "é".repeat(ERROR_BYTES_MAX)),
            ..Default::default()
        };
        let Outcome::Retryable { error, .. } = ended(failed).outcome else { panic!() };
        assert!(error.starts_with("red éé") && error.len() <= ERROR_BYTES_MAX);
        assert_eq!(ended(Default::default()).outcome, retryable("the plugin gave no reason"));
    }

    #[test]
    fn an_announcement_is_taken_apart() {
        let reply = protocol::InitializeResponse {
            handler_names: ["a.b", "a.b", "a/b", "", "c"].map(str::to_owned).into(),
            watchers: vec![
                protocol::WatcherRegistration {
                    id: "w".into(),
                    handler_name: "a.b".into(),
                    predicates: vec!["is".into()],
                    max_fires_per_second: -1,
                    params: b"{\"n\":1}".to_vec(),
                    max_chain: 9,
                    ..Default::default()
                },
                protocol::WatcherRegistration {
                    ax: "ALICE is author".into(),
                    since: "yesterday".into(),
                    params: vec![0xff],
                    ..Default::default()
                },
            ],
            schedules: vec![protocol::ScheduleInfo {
                id: "often".into(),
                handler_name: "a.b".into(),
                interval_seconds: -5,
                enabled_by_default: true,
                description: "every\nso often\n".into(),
                ats_code: "x is y".into(),
            }],
            http_routes: vec![protocol::RouteInfo {
                method: "GET".into(),
                path: "hello".into(),
                description: "says it".into(),
            }],
            ..Default::default()
        };
        let announced = announced(reply, true);
        let handlers: Vec<_> = announced.handlers.iter().map(|h| h.as_str()).collect();
        assert_eq!(handlers, ["a.b", "c"]);
        let [slash, empty] = &announced.refused[..] else { panic!("{announced:?}") };
        assert_eq!((slash.kind, &*slash.name), (Announced::Handler, "a/b"));
        assert!(empty.reason.contains("1 to 256 bytes"), "{announced:?}");
        let line =
            "handler \"a/b\": a bare name has no '/', which stands between plugin and handler";
        assert_eq!(refusals(&announced.refused)[0], line);
        let [schedule] = &announced.schedules[..] else { panic!("{announced:?}") };
        assert_eq!((&*schedule.handler, schedule.interval_secs), ("a.b", -5));
        assert_eq!((&*schedule.description, schedule.enabled_by_default), ("every so often", true));
        let [route] = &announced.routes[..] else { panic!("{announced:?}") };
        assert_eq!(
            (&*route.method, &*route.path, &*route.description),
            ("GET", "hello", "says it")
        );
        let [first, second] = &announced.watchers[..] else { panic!() };
        assert_eq!((first.local.as_str(), first.handlers[0].as_str()), ("w", "a.b"));
        assert_eq!((first.max_fires_per_second, first.max_chain), (-1, 9));
        assert_eq!(first.params.as_deref(), Some("{\"n\":1}"));
        assert!(first.zero_is_never);
        assert_eq!(
            [&first.since, &second.since],
            [&None, &Some(Since::Written("yesterday".into()))]
        );
        let never = "never fires (its 0 means so, by zero_rate)";
        assert_eq!(rate_text(second).as_deref(), Some(never));
        assert_eq!(rate_text(first), None, "-1 is refused");
        let rate = |max_fires_per_second| {
            rate_text(&Declaration { max_fires_per_second, ..first.clone() })
        };
        assert_eq!(rate(100_000).as_deref(), Some("at most 100000 fires a second"));
        assert_eq!(rate(100_001), None);
        assert!(
            matches!(&first.declared, Declared::Structural(lists) if lists.predicates == ["is"])
        );
        assert_eq!(second.declared, Declared::Ax("ALICE is author".into()));
        assert!(second.handlers.is_empty());
        assert_eq!(second.params.as_deref(), Some("bytes that are not UTF-8"));
    }

    #[test]
    fn of_a_flood_the_first_are_taken() {
        let reply = protocol::InitializeResponse {
            handler_names: (0..HANDLERS_MAX + 5).map(|n| format!("h{n}")).collect(),
            http_routes: vec![protocol::RouteInfo::default(); ROUTES_MAX],
            ..Default::default()
        };
        let announced = announced(reply, false);
        assert_eq!((announced.handlers.len(), announced.routes.len()), (HANDLERS_MAX, ROUTES_MAX));
        let [refused] = &announced.refused[..] else { panic!("{:?}", announced.refused) };
        assert_eq!(refused.reason, "10005 are announced; at most 10000 are taken");
    }

    #[test]
    fn timestamps_are_milliseconds() {
        let cases = [
            (0, Ok(None)),
            (1_705_329_000_123, Ok(Some(1_705_329_000_123))),
            (100_000_000_000, Ok(Some(100_000_000_000))),
            (99_999_999_999, Err("99999999999 looks like seconds; it must be milliseconds")),
            (1_705_329_000, Err("1705329000 looks like seconds")),
            (-5, Err("-5 looks like seconds")),
            (i64::MAX, Err("is not an RFC 3339 time")),
        ];
        for (given, expected) in cases {
            let claim = protocol::Attestation { timestamp: given, ..Default::default() };
            match (draft_of_claim(claim), expected) {
                (Ok(draft), Ok(ms)) => assert_eq!(draft.timestamp.map(Timestamp::ms), ms),
                (Err(error), Err(reason)) => {
                    let error = error.to_string();
                    assert!(error.contains(reason) && error.starts_with("timestamp: "), "{error}");
                }
                (found, expected) => panic!("{given}: {found:?}, expected {expected:?}"),
            }
        }
        let absent = protocol::AttestationCommand::default();
        assert_eq!(draft_of_command(absent).unwrap().timestamp, None);
    }

    #[test]
    fn a_command_becomes_a_draft() {
        let command = |id: &str, version: &str, attributes| protocol::AttestationCommand {
            subjects: vec!["x".into()],
            id: id.into(),
            source_version: version.into(),
            attributes,
            ..Default::default()
        };
        let cases = [
            (command("", "", None), None, None),
            (command("a", "", Some(Struct::default())), Some("a"), None),
            (command("", "1.2", None), None, Some(r#"{"source_version":"1.2"}"#)),
            (
                command("", "1.2", Some(object([("n", number(2.0))]))),
                None,
                Some(r#"{"n":2,"source_version":"1.2"}"#),
            ),
        ];
        for (command, id, attributes) in cases {
            let draft = draft_of_command(command.clone()).unwrap();
            assert_eq!(draft.id.as_deref(), id, "{command:?}");
            assert_eq!(draft.attributes.as_ref().map(Attributes::as_str), attributes);
        }
        let not_a_number = command("", "", Some(object([("n", number(f64::NAN))])));
        let error = draft_of_command(not_a_number).unwrap_err().to_string();
        assert!(error.starts_with("attributes: n is NaN"), "{error}");
    }

    fn stored(draft: Draft) -> Stored {
        let defaults = Defaults { actor: DefaultActor::OwnId, source: "git".into() };
        let now = Timestamp::from_ms(1_705_329_000_123).unwrap();
        let incoming = draft.complete(&defaults, "git", now, 1).unwrap();
        Stored {
            seq: Seq(7),
            attestation: incoming.attestation,
            appended_by: incoming.appended_by,
            filled: incoming.filled,
            lineage: Lineage::default(),
        }
    }

    #[test]
    fn one_stores_output_is_anothers_input() {
        let values = vec![text("b"), number(1.5), Value { kind: None }];
        let list = Value { kind: Some(Kind::ListValue(ListValue { values })) };
        let given = protocol::Attestation {
            id: "AS-1".into(),
            subjects: vec!["ALICE".into(), "BOB".into()],
            timestamp: 1_705_329_000_000,
            attributes: Some(object([("a", list)])),
            signature: vec![1, 2],
            signer_did: "did:key:z".into(),
            ..Default::default()
        };
        let first = stored(draft_of_claim(given).unwrap());
        let reply = attestation(&first);
        assert_eq!((reply.seq, reply.created_at), (7, 1_705_329_000_123));
        assert_eq!((reply.predicates[0].as_str(), reply.actors[0].as_str()), ("_", "AS-1"));
        let again = stored(draft_of_claim(reply).unwrap());
        assert_eq!(again.attestation, first.attestation);
    }

    #[test]
    fn a_search_is_exact_or_ax() {
        let request = |ax: &str, limit| protocol::GetAttestationsRequest {
            filter: Some(protocol::AttestationFilter {
                predicates: vec!["handler".into()],
                limit,
                time_start: Some(5),
                ..Default::default()
            }),
            ax: ax.into(),
            ..Default::default()
        };
        let now = Timestamp::from_ms(1_718_461_800_000).unwrap();
        let search = |request| search(request, now);
        let Asked { filter, limit, .. } = search(request("", Some(2))).unwrap();
        assert_eq!(limit, Some(2));
        assert_eq!((filter.mode(), filter.time_start()), (axwatch_query::Mode::Exact, Some(5)));
        for unlimited in [None, Some(0), Some(-3)] {
            assert_eq!(search(request("", unlimited)).unwrap().limit, None);
        }
        let Asked { filter, limit, over } = search(request("ALICE is author", Some(1))).unwrap();
        assert_eq!(over, None);
        assert_eq!((filter.mode(), limit), (axwatch_query::Mode::Folded, Some(1)));
        assert_eq!(filter.any(axwatch_query::Dimension::Predicate), [Box::from("author")]);
        assert_eq!(filter.time_start(), Some(5), "its own times count beside those of the text");
        let Asked { filter, .. } = search(request("since yesterday", None)).unwrap();
        assert_eq!(filter.time_start(), Some(1_718_375_400_000));
        let over = search(request("over 5 years", None)).unwrap().over;
        assert_eq!(over.map(|over| over.to_string()).as_deref(), Some("over 5 years"));
        let error = search(request("ALICE is", None)).unwrap_err().to_string();
        assert!(error.starts_with("ax: at 6:") || error.starts_with("ax: at 8:"), "{error}");
    }

    #[test]
    fn the_size_of_a_reply_is_told_to_the_byte() {
        let list =
            Value { kind: Some(Kind::ListValue(ListValue { values: vec![number(1.5); 9] })) };
        let claims = [
            protocol::Attestation::default(),
            protocol::Attestation { subjects: vec!["s".into(); 200], ..Default::default() },
            protocol::Attestation {
                id: AttestationId::readable("x", "y", "z", 1).to_string(),
                attributes: Some(object([("k", text(&"v".repeat(1_000_000))), ("list", list)])),
                seq: i64::MAX,
                ..Default::default()
            },
        ];
        let counted: usize = claims.iter().map(bytes_in_list).sum();
        let reply =
            protocol::GetAttestationsResponse { attestations: claims.into(), ..Default::default() };
        assert_eq!(counted, reply.encoded_len());
    }
}
