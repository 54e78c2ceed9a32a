//! Stored handlers: what there are, storing code, going back to older code, removing and trying.
//!
//! A handler is a claim, and what is stored here is claimed by the local user, as with `POST /attestations`.
//! Its plugin looks at the code before, and is told of it afterwards; the claim alone decides what runs.
//!
//! Not here: what a claim changes (`axwatch_core`), what is told of it (`crate::answers`).

mod ask;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use axwatch_engine::Acked;
use axwatch_model::{
    AttestationId, Attributes, DefaultActor, Defaults, Draft, FAULTED, HANDLER, HandlerName,
    InvalidId, Owner, PluginName, REMOVED, StoredHandler, StoredHandlerState, bounds, is_built_in,
};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::error::ApiError;
use super::request::{Limit, Nothing, Said, query};
use super::{Api, Shared, ndjson};
use crate::answers::{AnswerError, json_line, named_handler};
use crate::views::{
    self, CODE_BYTES_MAX, CodeMistake, Declares, HandlerRemoved, HandlerStored, HandlerTestEnd,
    HandlerTestSummary, HandlerTested, HandlerTrial, TESTED_DEFAULT, TESTED_MAX, TestCall,
};

/// The plugin that runs handlers when nobody says which.
const PLUGIN_USUAL: &str = "python";
/// The program in the name of which handlers are stored.
const SOURCE: &str = "axwatch-cli";
/// Versions of a list that are sent at once.
const PAGE_LINES: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    limit: Option<usize>,
    /// All of them; of handlers those too that were removed.
    #[serde(default)]
    all: bool,
}

/// `GET /handlers`: all of them, by plugin and name, unless somebody wants fewer.
pub async fn list(State(api): Shared, uri: Uri) -> Result<Response, ApiError> {
    let Listing { limit, all } = query(&uri)?;
    let limit = match limit {
        None => usize::MAX,
        limit => Limit::new(limit, false).lines()?.unwrap_or(usize::MAX),
    };
    let runners = api.runners().await?;
    let mut handlers = api.engine.stored_handlers().await?;
    handlers.retain(|handler| all || handler.state != StoredHandlerState::Removed);
    handlers.truncate(limit);
    Ok(ndjson::answer(move |sink| async move {
        for page in handlers.chunks(PAGE_LINES) {
            let lines: Vec<_> =
                page.iter().map(|handler| json_line(&runners.shown(handler))).collect();
            sink.lines(&lines).await?;
        }
        Ok(())
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    version: Option<String>,
}

/// `GET /handlers/{name}`.
pub async fn one(
    State(api): Shared,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<views::ShownHandler>, ApiError> {
    let Which { version } = query(&uri)?;
    let handler = api.stored_handler(&name).await?;
    let shown = api.answers.shown_handler(&handler, version.as_deref()).await?;
    Ok(Json(views::ShownHandler { handler: api.with_runners(&handler).await?, ..shown }))
}

/// `GET /handlers/{name}/versions`.
pub async fn versions(
    State(api): Shared,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let Listing { limit, all } = query(&uri)?;
    let limit = Limit::new(limit, all).lines()?;
    let handler = api.stored_handler(&name).await?;
    let mut versions = api.answers.handler_versions(&handler, limit);
    Ok(ndjson::answer(move |sink| async move {
        while let Some(lines) = versions.next_lines().await.map_err(AnswerError::from)? {
            sink.lines(&lines).await?;
        }
        Ok(())
    }))
}

/// Code that somebody wants to be a handler.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Creating {
    name: String,
    code: String,
    plugin: Option<String>,
    check: Option<bool>,
}

/// `POST /handlers`.
pub async fn create(
    State(api): Shared,
    Said { asked, .. }: Said<Creating>,
) -> Result<Json<HandlerStored>, ApiError> {
    let plugin = plugin_named(asked.plugin.as_deref())?;
    check_name(&plugin, &asked.name)?;
    check_code(&asked.code)?;
    let standing = api.engine.stored_handler(plugin.clone(), asked.name.parse()?).await?;
    if standing.is_none() {
        api.refuse_own_name(&plugin, &asked.name)?;
    }
    let checking = if asked.check == Some(false) { Checking::Not } else { Checking::First };
    let Creating { name, code, .. } = asked;
    let wanted = Wanted { plugin, name, code, checking, copy_of: None };
    Ok(Json(api.store_handler(wanted).await?))
}

/// To which version somebody wants to go back.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoingBack {
    to: Option<Version>,
}

/// A version: its number, or the id of its claim.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a version is its number, or the id of its claim")]
enum Version {
    Number(u64),
    Id(String),
}

/// `POST /handlers/{name}/rollback`.
pub async fn roll_back(
    State(api): Shared,
    Path(name): Path<String>,
    Said { asked, .. }: Said<GoingBack>,
) -> Result<Json<HandlerStored>, ApiError> {
    let handler = api.stored_handler(&name).await?;
    let version = match asked.to {
        None => api.answers.earlier_version(&handler).await?,
        Some(Version::Number(number)) => {
            api.answers.handler_version(&handler, Some(&number.to_string())).await?
        }
        Some(Version::Id(id)) => api.answers.handler_version(&handler, Some(&id)).await?,
    };
    let code = api.answers.handler_code(&version.version).await?;
    Ok(Json(
        api.store_handler(Wanted {
            plugin: handler.plugin.clone(),
            name: handler.name.to_string(),
            code,
            checking: Checking::IfUp,
            copy_of: Some(version.number),
        })
        .await?,
    ))
}

/// `DELETE /handlers/{name}`.
pub async fn remove(
    State(api): Shared,
    Path(name): Path<String>,
    Said { asked: Nothing {}, .. }: Said<Nothing>,
) -> Result<Json<HandlerRemoved>, ApiError> {
    let handler = api.stored_handler(&name).await?;
    if handler.state == StoredHandlerState::Removed {
        let told =
            format!("handler {} was removed already, at {}", handler.name, handler.changed_at);
        return Err(ApiError::new(StatusCode::CONFLICT, "conflict", told));
    }
    let shown = api.with_runners(&handler).await?;
    let waiting = api.answers.waiting_for(&handler).await.map_err(AnswerError::from)?;
    let attributes = json!({
        "plugin": handler.plugin, "handler": handler.name, "reason": REMOVED,
    });
    let (attestation_id, acked) =
        api.claim(&handler.plugin, handler.name.as_str(), FAULTED, &attributes).await?;
    let (_, warnings) = api.tell_plugin(&handler.plugin, handler.name.as_str()).await;
    Ok(Json(HandlerRemoved {
        handler: shown.handler,
        name: shown.name,
        plugin: shown.plugin,
        attestation_id,
        seq: acked.seq,
        number: shown.number,
        watchers: shown.watchers.unwrap_or_default(),
        schedules: shown.schedules.unwrap_or_default(),
        waiting,
        warnings,
    }))
}

/// `POST /handlers/{name}/test`: what it does on each claim, a line each, with nothing of it written.
pub async fn test(
    State(api): Shared,
    Path(name): Path<String>,
    Said { asked, .. }: Said<HandlerTrial>,
) -> Result<Response, ApiError> {
    let limit = asked.limit.unwrap_or(TESTED_DEFAULT);
    if !(1..=TESTED_MAX).contains(&limit) {
        return Err(ApiError::invalid(format!("limit is {limit}; it must be 1 to {TESTED_MAX}")));
    }
    let (plugin, name, code) = api.code_to_test(&name, asked.code, asked.plugin.as_deref()).await?;
    // Said before the answer begins, it is a refusal of its own.
    api.plugins.callable(plugin.as_str())?;
    let mut claims = api.claims_to_test(&asked.on).await?;
    let Some(first) = claims.next(limit).await? else {
        return Err(api.nothing_to_test_on(&asked.on).await?);
    };
    let function = asked.function;
    Ok(ndjson::answer(move |sink| async move {
        let mut summary = HandlerTestSummary::default();
        let mut page = first;
        loop {
            for claim in page {
                let payload = String::from_utf8(claim.attestation.payload())
                    .ok()
                    .and_then(|json| RawValue::from_string(json).ok())
                    .expect("a payload is JSON");
                let call = TestCall {
                    name: &name,
                    code: &code,
                    upstream: &payload,
                    function: function.as_deref(),
                };
                let outcome: views::HandlerOutcome =
                    api.ask_plugin(plugin.as_str(), "/test", &call).await?;
                summary.tested += 1;
                summary.failed += u64::from(!outcome.ok);
                let (attestation_id, seq) = (claim.attestation.id, claim.seq);
                let tested = HandlerTested { attestation_id, seq, outcome };
                sink.lines(&[json_line(&tested)]).await?;
            }
            let left = limit.saturating_sub(usize::try_from(summary.tested).unwrap_or(limit));
            match claims.next(left).await? {
                Some(next) => page = next,
                None => break,
            }
        }
        sink.lines(&[json_line(&HandlerTestEnd { summary })]).await
    }))
}

/// The claims that a handler is tried on.
enum Claims {
    /// This one.
    One(Option<Box<axwatch_model::Stored>>),
    /// Those that a question finds, the newest first.
    Found(Box<axwatch_ats::Matches>),
}

impl Claims {
    /// The next ones, at most `most`, at least one; `None` at the end.
    async fn next(
        &mut self,
        most: usize,
    ) -> Result<Option<Vec<axwatch_model::Stored>>, AnswerError> {
        if most == 0 {
            return Ok(None);
        }
        match self {
            Claims::One(claim) => Ok(claim.take().map(|claim| vec![*claim])),
            Claims::Found(matches) => loop {
                match matches.next(most).await? {
                    Some(page) if page.is_empty() => {}
                    found => return Ok(found),
                }
            },
        }
    }
}

/// Whether a plugin is to look at code before it is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Checking {
    /// It must.
    First,
    /// If it runs: to go back must be possible when it does not.
    IfUp,
    /// It need not.
    Not,
}

/// Code that is to be a handler.
struct Wanted {
    plugin: PluginName,
    name: String,
    code: String,
    checking: Checking,
    /// The version that the code is of.
    copy_of: Option<u64>,
}

/// What a plugin says of code.
#[derive(Deserialize)]
struct Checked {
    ok: bool,
    #[serde(default)]
    error: Option<CodeMistake>,
    #[serde(default)]
    watchers: Vec<Declares>,
    #[serde(default)]
    schedules: Vec<Declares>,
}

/// What a plugin found when it looked at its handlers again.
#[derive(Deserialize)]
struct Synced {
    #[serde(default)]
    refused: Vec<String>,
    #[serde(default)]
    broken: Vec<Broken>,
}

/// A handler that does not load.
#[derive(Deserialize)]
struct Broken {
    name: String,
    #[serde(default)]
    reason: String,
}

/// Who runs which handler, by the bare name of the handler.
#[derive(Default)]
struct Runners {
    watchers: BTreeMap<String, Vec<Runner>>,
    schedules: BTreeMap<String, Vec<Runner>>,
}

struct Runner {
    /// As it is shown.
    name: String,
    /// The plugin whose handler it means, as far as that is known.
    plugin: Option<PluginName>,
}

impl Runners {
    fn of(
        runners: &BTreeMap<String, Vec<Runner>>,
        plugin: &PluginName,
        handler: &str,
    ) -> Vec<String> {
        let named = runners.get(handler).into_iter().flatten();
        let ours = named.filter(|runner| runner.plugin.as_ref().is_none_or(|its| its == plugin));
        ours.map(|runner| runner.name.clone()).collect()
    }

    fn shown(&self, handler: &StoredHandler) -> views::Handler {
        let view = views::Handler::of(handler);
        views::Handler {
            watchers: Some(Runners::of(&self.watchers, &handler.plugin, &view.handler)),
            schedules: Some(Runners::of(&self.schedules, &handler.plugin, &view.handler)),
            ..view
        }
    }
}

impl Api {
    /// The stored handler that a text names.
    async fn stored_handler(&self, text: &str) -> Result<StoredHandler, ApiError> {
        Ok(named_handler(self.engine.stored_handlers().await?, text)?)
    }

    async fn runners(&self) -> Result<Runners, ApiError> {
        let mut runners = Runners::default();
        for watcher in self.engine.watchers(false).await? {
            for handler in &*watcher.row.handlers {
                let (name, plugin) = (watcher.row.key.to_string(), handler.plugin.clone());
                let named = runners.watchers.entry(handler.bare().to_owned()).or_default();
                named.push(Runner { name, plugin });
            }
        }
        for schedule in self.engine.schedules().await? {
            let handler = HandlerName::parse_qualified(&schedule.row.handler);
            let Ok((plugin, handler)) = handler else { continue };
            let named = runners.schedules.entry(handler.to_string()).or_default();
            named.push(Runner { name: views::shown_name(&schedule.row), plugin });
        }
        Ok(runners)
    }

    /// The names of the watchers and of the schedules that run one handler.
    async fn runners_of(
        &self,
        handler: &StoredHandler,
    ) -> Result<(Vec<String>, Vec<String>), ApiError> {
        let (watchers, schedules) = self.engine.runners_of(handler.clone()).await?;
        let watchers = watchers.iter().map(ToString::to_string).collect();
        Ok((watchers, schedules.iter().map(views::shown_name).collect()))
    }

    /// One handler with those who run it.
    async fn with_runners(&self, handler: &StoredHandler) -> Result<views::Handler, ApiError> {
        let (watchers, schedules) = self.runners_of(handler).await?;
        Ok(views::Handler {
            watchers: Some(watchers),
            schedules: Some(schedules),
            ..views::Handler::of(handler)
        })
    }

    /// Refuses a name under which the plugin has a handler of its own making.
    fn refuse_own_name(&self, plugin: &PluginName, name: &str) -> Result<(), ApiError> {
        let handler = format!("{plugin}.{name}");
        let is_built_in = handler.parse().is_ok_and(|bare| is_built_in(plugin, &bare));
        if is_built_in || self.plugins.show(plugin.as_str())?.handlers.contains(&handler) {
            let told = format!(
                "{handler} is a handler of the plugin itself, so no stored one can have that name; take another"
            );
            return Err(ApiError::new(StatusCode::CONFLICT, "conflict", told));
        }
        Ok(())
    }

    /// Stores code as the newest version of a handler, unless the version in force has the same.
    async fn store_handler(&self, wanted: Wanted) -> Result<HandlerStored, ApiError> {
        let Wanted { plugin, name, code, checking, copy_of } = wanted;
        let mut warnings = Vec::new();
        let checked = match checking {
            Checking::Not => None,
            Checking::IfUp if self.plugins.callable(plugin.as_str()).is_err() => None,
            Checking::First | Checking::IfUp => Some(self.check_code(&plugin, &name, &code).await?),
        };
        // Only now: while it was checked, somebody else may have stored another.
        let standing = self.engine.stored_handler(plugin.clone(), name.parse()?).await?;
        let in_force = standing.filter(|it| it.state == StoredHandlerState::InForce);
        let same = match in_force {
            Some(it) if self.answers.handler_code(&it.version).await? == code => Some(it),
            _ => None,
        };
        let is_new = same.is_none();
        let (version, number, seq) = match same {
            Some(same) => (same.version, Some(same.version_number), same.version_seq),
            None => {
                let attributes = json!({ "code": code });
                let (id, acked) = self.claim(&plugin, &name, HANDLER, &attributes).await?;
                let (newest, told) = self.tell_plugin(&plugin, &name).await;
                warnings.extend(told);
                let number = newest.filter(|(version, _)| *version == id).map(|(_, number)| number);
                let idle = number.is_none().then(|| NO_EFFECT.to_owned());
                warnings.extend(idle);
                (id, number, acked.seq)
            }
        };
        let handler = format!("{plugin}.{name}");
        let run_by = match self.engine.stored_handler(plugin.clone(), name.parse()?).await? {
            Some(stored) => {
                let (watchers, schedules) = self.runners_of(&stored).await?;
                watchers.into_iter().chain(schedules).collect()
            }
            None => Vec::new(),
        };
        let (is_checked, declared) =
            (checked.is_some(), checked.map(|c| (c.watchers, c.schedules)));
        let (watchers, schedules) = declared.unwrap_or_default();
        let is_run = !(run_by.is_empty() && watchers.is_empty() && schedules.is_empty());
        let next = (!is_run).then(|| {
            let (id, handler) = (crate::output::quoted(&name), crate::output::quoted(&handler));
            format!("axwatch watch create {id} --when '…' --run {handler}")
        });
        Ok(HandlerStored {
            handler,
            name,
            plugin: plugin.to_string(),
            version,
            number,
            seq,
            is_new,
            copy_of,
            checked: is_checked,
            watchers,
            schedules,
            run_by,
            next,
            warnings,
        })
    }

    /// What the plugin says of code, which it must be able to read.
    async fn check_code(
        &self,
        plugin: &PluginName,
        name: &str,
        code: &str,
    ) -> Result<Checked, ApiError> {
        let body = json!({ "name": name, "code": code });
        let checked: Checked =
            self.ask_plugin(plugin.as_str(), "/check", &body).await.map_err(|error| {
                error.and(&format!(
                    "; the code was not checked, so nothing was stored: `axwatch plugin show {plugin}` says more, and `--no-check` (\"check\": false) stores it as it is"
                ))
            })?;
        if checked.ok {
            return Ok(checked);
        }
        let mistake = checked.error.unwrap_or_default();
        let told = in_words(name, &mistake);
        Err(ApiError::new(StatusCode::BAD_REQUEST, "code", told).with_mistakes(&[mistake]))
    }

    /// Makes a claim about a handler, as the local user.
    async fn claim(
        &self,
        plugin: &PluginName,
        name: &str,
        predicate: &str,
        attributes: &serde_json::Value,
    ) -> Result<(AttestationId, Acked), ApiError> {
        let attributes = Attributes::from_value(attributes)
            .map_err(|error| ApiError::invalid(error.to_string()))?;
        let draft = Draft {
            subjects: vec![name.to_owned()],
            predicates: vec![predicate.to_owned()],
            contexts: vec![plugin.to_string()],
            actors: vec![name.to_owned()],
            attributes,
            ..Draft::default()
        };
        let defaults = Defaults { actor: DefaultActor::OwnId, source: SOURCE.to_owned() };
        let claim = self.engine.complete(draft, &defaults, Owner::User.as_str())?;
        let id = claim.attestation.id.clone();
        let acked = self.engine.append(vec![claim]).await?.pop().expect("one claim, one answer")?;
        Ok((id, acked))
    }

    /// Lets a plugin look at its handlers at once, which it would do soon anyway. Answers the newest version of
    /// this one, if it has taken effect, and what is not as it should be.
    async fn tell_plugin(
        &self,
        plugin: &PluginName,
        name: &str,
    ) -> (Option<(AttestationId, u64)>, Vec<String>) {
        let mut warnings = Vec::new();
        let synced: Result<Synced, _> = self.ask_plugin(plugin.as_str(), "/sync", &json!({})).await;
        match synced {
            Ok(synced) => {
                let broken = synced.broken.into_iter().filter(|broken| broken.name == name);
                warnings
                    .extend(broken.map(|broken| format!("it does not load: {}", broken.reason)));
                // What decorators declare has the name of its handler before its own.
                let ours = format!("{name}-");
                warnings.extend(synced.refused.into_iter().filter(|told| told.contains(&ours)));
            }
            Err(error) => {
                let then = match error.is_not_found() {
                    true => "nothing runs it until one of this name does",
                    false => "it takes effect as soon as the plugin runs",
                };
                warnings.push(format!("{}; what was stored stands, and {then}", error.message()));
            }
        }
        let newest = match name.parse() {
            Ok(name) => self.engine.stored_handler(plugin.clone(), name).await.ok().flatten(),
            Err(_) => None,
        };
        (newest.map(|newest| (newest.version, newest.version_number)), warnings)
    }

    /// What is to be tried: code that somebody sent, or that of the newest version.
    async fn code_to_test(
        &self,
        text: &str,
        code: Option<String>,
        plugin: Option<&str>,
    ) -> Result<(PluginName, String, String), ApiError> {
        let mut handlers = self.engine.stored_handlers().await?;
        if let Some(plugin) = plugin {
            handlers.retain(|handler| handler.plugin.as_str() == plugin);
        }
        match (named_handler(handlers, text), code) {
            (Ok(handler), Some(code)) => {
                check_code(&code)?;
                Ok((handler.plugin, handler.name.to_string(), code))
            }
            (Ok(handler), None) => {
                let code = self.answers.handler_code(&handler.version).await?;
                Ok((handler.plugin, handler.name.to_string(), code))
            }
            (Err(AnswerError::NotFound(_)), Some(code)) => {
                let plugin = plugin_named(plugin)?;
                check_name(&plugin, text)?;
                check_code(&code)?;
                Ok((plugin, text.to_owned(), code))
            }
            (Err(error), _) => Err(error.into()),
        }
    }

    /// The claims that a text means: the one with this id, or those that it finds as AX.
    async fn claims_to_test(&self, on: &str) -> Result<Claims, ApiError> {
        if let Ok(id) = on.parse::<AttestationId>() {
            let found = self.answers.store().get(&id).await.map_err(AnswerError::from)?;
            if let Some(claim) = found {
                return Ok(Claims::One(Some(Box::new(claim))));
            }
        }
        Ok(Claims::Found(Box::new(self.answers.ask(on, None).await?)))
    }

    /// The refusal to try a handler on nothing.
    async fn nothing_to_test_on(&self, on: &str) -> Result<ApiError, ApiError> {
        let near = self.answers.nearest_claim(on).await.map_err(AnswerError::from)?;
        let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        let on = bounds::cut(on, bounds::ID_BYTES_MAX);
        Ok(ApiError::not_found(format!(
            "no claim has the id {on:?}{hint}, and as AX it finds none; `axwatch ax` shows those that there are"
        )))
    }
}

/// Why a claim is no version of its handler.
const NO_EFFECT: &str = "the claim is not the version in force: a newer one came after it, or it was refused, and `axwatch audit show --type handler_refused` says why";

fn plugin_named(given: Option<&str>) -> Result<PluginName, ApiError> {
    Ok(given.unwrap_or(PLUGIN_USUAL).parse::<PluginName>()?)
}

/// Refuses a name that no handler can have, or that could not be said where handlers are named.
fn check_name(plugin: &PluginName, name: &str) -> Result<(), ApiError> {
    let invalid = |rule| {
        let text = bounds::cut(name, 80).to_owned();
        ApiError::invalid(InvalidId { what: "handler name", text, rule }.to_string())
    };
    if name.is_empty() {
        return Err(invalid("it must not be empty; say what it does, such as hello"));
    }
    if name.contains('/') {
        return Err(invalid("plugin/handler is how handlers are named; leave out the /"));
    }
    if name.contains(char::is_whitespace) {
        return Err(invalid("it must have no blanks; put - or _ in their place"));
    }
    if name.strip_prefix(plugin.as_str()).is_some_and(|rest| rest.starts_with('.')) {
        return Err(invalid("the plugin's name and a dot stand before it anyway; leave them out"));
    }
    format!("{plugin}.{name}").parse::<HandlerName>()?;
    Ok(())
}

fn check_code(code: &str) -> Result<(), ApiError> {
    if code.trim().is_empty() {
        return Err(ApiError::invalid("code: there is none; a handler is at least one line of it"));
    }
    let bytes = code.len();
    if bytes > CODE_BYTES_MAX {
        return Err(ApiError::invalid(format!(
            "code: {bytes} bytes; at most {CODE_BYTES_MAX} are allowed: put what is large into a module of the plugin's python_paths"
        )));
    }
    if let Some(place) = code.find('\0') {
        return Err(ApiError::invalid(format!("code: byte {place} is NUL, which no code has")));
    }
    Ok(())
}

/// A mistake in code, in words.
fn in_words(name: &str, mistake: &CodeMistake) -> String {
    let message = match mistake.message.trim() {
        "" => "it cannot be read",
        message => message,
    };
    let place = match (mistake.line, mistake.column) {
        (Some(line), Some(column)) => format!("line {line}, column {column}: "),
        (Some(line), None) => format!("line {line}: "),
        (None, _) => String::new(),
    };
    format!("the code of {name} is not right, so nothing was stored: {place}{message}")
}
