//! HTTP of the plugin, under `/api/python`: to check code before it is stored, to try it, and to have the
//! stored handlers looked at now.
//!
//! JSON in, JSON out. What is wrong with the code is an answer; what is wrong with the request, or with
//! this machine, is an error.

use std::time::Duration;

use axwatch_sdk::{Failure, Host, HttpRequest, HttpResponse, Level, Query, Route};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::catalogue::{CODE_BYTES_MAX, NoSync, check_all};
use crate::frame::{CheckItem, Checked, Draft, Ending, Link, Mistake, Watched};
use crate::pool::Pool;
use crate::services::Services;
use crate::worker::{NoWorker, Run, Source};
use crate::{NAME, PythonPlugin, Session};

/// How long is waited for a worker.
const WORKER_WITHIN: Duration = Duration::from_secs(20);
/// Bytes of a handler's name: with ours and a dot before it, as many as a handler of any plugin may have.
const NAME_BYTES_MAX: usize = 256 - 1 - NAME.len();

/// For people to read.
pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::new("POST", "/check", "says what is wrong with code, or what it declares"),
        Route::new("POST", "/sync", "looks at the stored handlers now, and announces what is new"),
        Route::new("POST", "/test", "runs code without making its claims"),
    ]
}

/// Answers a request.
pub(crate) async fn answer(
    plugin: &PythonPlugin,
    session: &Session,
    request: HttpRequest,
) -> HttpResponse {
    let answered = match (request.method.as_str(), request.route()) {
        ("POST", "/check") => check(session, &request).await,
        ("POST", "/sync") => sync(plugin, session).await,
        ("POST", "/test") => test(session, &request).await,
        (_, "/check" | "/sync" | "/test") => {
            Err(HttpResponse::error(405, format!("{} takes POST", request.route())))
        }
        (method, path) => Err(HttpResponse::error(
            404,
            format!("there is no {method} {path}; there are POST /check, /sync and /test"),
        )),
    };
    answered.unwrap_or_else(|error| error)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    name: String,
    code: String,
}

async fn check(session: &Session, request: &HttpRequest) -> Result<HttpResponse, HttpResponse> {
    let CheckRequest { name, code } = request.json()?;
    check_size(&code)?;
    if let Some(problem) = problem_of_name(&name) {
        return Ok(HttpResponse::json(200, &Checked::refused(problem)));
    }
    let checked = check_one(&session.pool, &name, &code).await?;
    let checked = check_queries(&session.host, checked, &code).await?;
    Ok(HttpResponse::json(200, &checked))
}

async fn check_one(pool: &Pool, name: &str, code: &str) -> Result<Checked, HttpResponse> {
    let found = check_all(pool, &[CheckItem { name, code }]).await.map_err(unserved)?;
    found.into_iter().next().ok_or_else(|| HttpResponse::error(503, "the check has no answer"))
}

/// Asks the host whether it understands the AX texts, which it would refuse at the announcement.
async fn check_queries(host: &Host, checked: Checked, code: &str) -> Result<Checked, HttpResponse> {
    for watched in checked.watchers.iter().filter(|watched| !watched.ax.is_empty()) {
        match host.query(Query::ax(&watched.ax).limit(1)).await {
            Ok(_) => {}
            Err(Failure::Permanent(reason)) => return Ok(misunderstood(watched, &reason, code)),
            Err(failure) => return Err(HttpResponse::error(503, failure.reason())),
        }
    }
    Ok(checked)
}

fn misunderstood(watched: &Watched, reason: &str, code: &str) -> Checked {
    let line = watched.line;
    let text = code.lines().nth((line as usize).saturating_sub(1)).map(str::to_owned);
    let mistake =
        Mistake { message: format!("@watch: {reason}"), line: Some(line), column: None, text };
    Checked { error: Some(mistake), ..Checked::refused(String::new()) }
}

/// Handlers that are stored already may have any name.
fn problem_of_name(name: &str) -> Option<String> {
    let is_odd = |letter: char| letter.is_control() || letter.is_whitespace() || letter == '/';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(is_odd) {
        return None;
    }
    let shown = &name[..name.floor_char_boundary(80)];
    Some(format!(
        "{shown:?} is no name for a handler: it must have 1 to {NAME_BYTES_MAX} bytes, without spaces and slashes"
    ))
}

async fn sync(plugin: &PythonPlugin, session: &Session) -> Result<HttpResponse, HttpResponse> {
    match plugin.sync(session).await {
        Ok(report) => Ok(HttpResponse::json(200, &report)),
        Err(NoSync::Worker(problem)) => Err(unserved(problem)),
        Err(other) => Err(HttpResponse::error(503, Failure::from(other).reason())),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestRequest {
    name: String,
    code: String,
    #[serde(default)]
    upstream: Option<Box<RawValue>>,
    #[serde(default)]
    function: Option<String>,
    #[serde(default)]
    params: Map<String, Value>,
}

/// What came of a test.
#[derive(Serialize)]
struct Tested<'a> {
    ok: bool,
    result: &'a RawValue,
    stdout: &'a str,
    stderr: &'a str,
    log: Vec<TestedLine>,
    attested: Vec<Draft>,
    error: Option<String>,
    permanent: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_now_secs: Option<f64>,
    duration_ms: f64,
}

#[derive(Serialize)]
struct TestedLine {
    level: &'static str,
    message: String,
}

async fn test(session: &Session, request: &HttpRequest) -> Result<HttpResponse, HttpResponse> {
    let TestRequest { name, code, upstream, function, params } = request.json()?;
    check_size(&code)?;
    let pool = &session.pool;
    let mut worker = pool.lend(WORKER_WITHIN).await.map_err(unserved)?;
    let source = Source { name: format!("handler {name}"), version: None, code: code.into() };
    let run = Run {
        source: &source,
        function: function.as_deref(),
        job_id: "test",
        attempt: 1,
        params: &params,
        payload: upstream.as_ref().map_or(b"", |upstream| upstream.get().as_bytes()),
    };
    let services = Services::test(&session.host);
    let ran = worker.run(&run, &services, pool.settings().timeout).await;
    crate::settle(worker, &source, &ran);
    let noted = services.into_noted();
    let log =
        noted.lines.into_iter().map(|(level, message)| TestedLine { level: word(level), message });
    let tested = Tested {
        ok: false,
        result: RawValue::NULL,
        stdout: "",
        stderr: "",
        log: log.collect(),
        attested: noted.claims,
        error: None,
        permanent: false,
        not_now_secs: None,
        duration_ms: 0.0,
    };
    let ran = match ran {
        Ok(ran) => ran,
        Err(broken) => {
            let error = Some(broken.to_string());
            return Ok(HttpResponse::json(200, &Tested { error, ..tested }));
        }
    };
    let done = &ran.done;
    let result = Link::json_of(&ran.result);
    let result = result.map_err(|error| HttpResponse::error(503, error.to_string()))?;
    let told = done.traceback.clone().unwrap_or_else(|| done.error.clone());
    let tested = Tested {
        ok: done.outcome == Ending::Ok,
        result,
        stdout: &ran.stdout,
        stderr: &ran.stderr,
        error: (done.outcome != Ending::Ok).then_some(told),
        permanent: matches!(done.outcome, Ending::Permanent | Ending::Unloadable),
        not_now_secs: (done.outcome == Ending::NotNow).then_some(done.seconds),
        duration_ms: done.us as f64 / 1_000.0,
        ..tested
    };
    Ok(HttpResponse::json(200, &tested))
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

fn check_size(code: &str) -> Result<(), HttpResponse> {
    let bytes = code.len();
    if bytes <= CODE_BYTES_MAX {
        return Ok(());
    }
    let problem = format!("code: {bytes} bytes; at most {CODE_BYTES_MAX} are run");
    Err(HttpResponse::error(413, problem))
}

fn unserved(problem: NoWorker) -> HttpResponse {
    HttpResponse::error(503, problem.to_string())
}
