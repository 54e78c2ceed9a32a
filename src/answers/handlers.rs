//! Stored handlers: by whatever somebody names them, their versions, and the code of each.
//!
//! Not here: what one is doing at this moment and who runs it (`crate::api::handlers`), and what its code
//! means, which its plugin alone knows.

use std::collections::HashMap;
use std::sync::Arc;

use axwatch_ats::{JobsQuery, StoreError};
use axwatch_model::{
    AttestationId, HandlerChangeKind, HandlerChangeRow, HandlerName, JobRow, JobState, PluginName,
    Seq, StoredHandler, StoredHandlerState, bounds,
};

use super::{AnswerError, Answers, json_line};
use crate::config::nearest;
use crate::views::{
    Handler, HandlerState, HandlerVersion, ShownHandler, VersionState, WaitingJobs,
};

/// Changes of a handler that are read at once.
const PAGE_ROWS: usize = 200;
/// Handlers that are compared to find the nearest.
const COMPARED_MAX: usize = 10_000;
/// Waiting jobs of one handler that are counted.
const WAITING_COUNTED_MAX: usize = 10_000;

/// The versions of one handler that are being read, the newest first.
pub struct Versions {
    answers: Arc<Answers>,
    plugin: PluginName,
    name: HandlerName,
    /// Where the next page ends; `None` is the end of the log.
    before: Option<Seq>,
    is_over: bool,
    /// How many more; `None` is all of them.
    left: Option<usize>,
    history: History,
}

/// What later changes say of the versions before them.
#[derive(Default)]
struct History {
    /// The newest version has been told.
    has_newest: bool,
    /// The next version was the newest when the handler was removed.
    is_removed: bool,
    /// Why versions do not load.
    faults: HashMap<AttestationId, String>,
}

impl History {
    /// The version that a change tells of, if it stored one. Changes come the newest first.
    fn take(&mut self, row: HandlerChangeRow) -> Option<HandlerVersion> {
        match row.kind {
            HandlerChangeKind::Removed => {
                self.is_removed = true;
                None
            }
            HandlerChangeKind::Faulted => {
                self.faults.entry(row.version).or_insert(row.reason);
                None
            }
            HandlerChangeKind::Stored => {
                let reason = self.faults.remove(&row.version);
                let is_newest = !std::mem::replace(&mut self.has_newest, true);
                let state = match std::mem::take(&mut self.is_removed) {
                    true => VersionState::Removed,
                    false if !is_newest => VersionState::Replaced,
                    false if reason.is_some() => VersionState::Broken,
                    false => VersionState::InForce,
                };
                Some(HandlerVersion {
                    number: row.version_number,
                    version: row.version,
                    seq: row.seq,
                    at: row.at,
                    by: row.by,
                    state,
                    reason,
                })
            }
        }
    }
}

impl Versions {
    /// The next versions; `None` at the end. A page may be empty before it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next(&mut self) -> Result<Option<Vec<HandlerVersion>>, StoreError> {
        if self.is_over || self.left == Some(0) {
            return Ok(None);
        }
        let store = self.answers.store();
        let rows = store.handler_changes(&self.plugin, &self.name, self.before, PAGE_ROWS).await?;
        self.is_over = rows.len() < PAGE_ROWS;
        self.before = rows.last().map(|row| row.seq).or(self.before);
        let history = &mut self.history;
        let page = rows.into_iter().filter_map(|row| history.take(row));
        let page: Vec<_> = page.take(self.left.unwrap_or(usize::MAX)).collect();
        self.left = self.left.map(|left| left - page.len());
        Ok(Some(page))
    }

    /// The next versions as lines of JSON; `None` at the end. A page may be empty before it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_lines(&mut self) -> Result<Option<Vec<String>>, StoreError> {
        Ok(self.next().await?.map(|page| page.iter().map(json_line).collect()))
    }
}

/// The numbers of the versions of one job's handler.
pub(super) struct VersionNumbers<'a> {
    answers: &'a Answers,
    /// The plugin, and the handler's name among its stored ones; `None` of a name that none has.
    handler: Option<(PluginName, HandlerName)>,
    known: HashMap<AttestationId, Option<u64>>,
}

impl<'a> VersionNumbers<'a> {
    /// Those of the handler of this job.
    pub(super) fn of(answers: &'a Answers, row: &JobRow) -> VersionNumbers<'a> {
        let handler = row.plugin.as_ref().and_then(|plugin| {
            let name = row.bare_handler().strip_prefix(plugin.as_str())?.strip_prefix('.')?;
            Some((plugin.clone(), name.parse().ok()?))
        });
        VersionNumbers { answers, handler, known: HashMap::new() }
    }

    /// Whether the handler has a name that stored ones have.
    pub(super) fn may_be_stored(&self) -> bool {
        self.handler.is_some()
    }

    /// The number of a version; `None` when it is not known any more.
    pub(super) async fn find(
        &mut self,
        version: &AttestationId,
    ) -> Result<Option<u64>, StoreError> {
        if let Some(known) = self.known.get(version) {
            return Ok(*known);
        }
        let Some((plugin, name)) = &self.handler else { return Ok(None) };
        let store = self.answers.store();
        let number = match store.get(version).await? {
            // The change that the claim made is the last one up to it.
            Some(claim) => {
                let before = Some(claim.seq.next());
                let rows = store.handler_changes(plugin, name, before, 1).await?;
                rows.first().filter(|row| row.version == *version).map(|row| row.version_number)
            }
            None => None,
        };
        self.known.insert(version.clone(), number);
        Ok(number)
    }
}

impl Answers {
    /// The stored handlers as the store has them, by plugin and name, removed ones too.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn stored_handlers(&self) -> Result<Vec<StoredHandler>, StoreError> {
        let rows = self.store().stored_handlers().await?;
        Ok(rows.into_iter().map(StoredHandler::after).collect())
    }

    /// A handler with the code of one version, without those who run it.
    ///
    /// # Errors
    /// [`AnswerError`] when it has no such version.
    pub async fn shown_handler(
        self: &Arc<Answers>,
        handler: &StoredHandler,
        version: Option<&str>,
    ) -> Result<ShownHandler, AnswerError> {
        let shown = self.handler_version(handler, version).await?;
        Ok(ShownHandler {
            handler: Handler::of(handler),
            code: self.handler_code(&shown.version).await?,
            waiting: self.waiting_for(handler).await?,
            shown,
        })
    }

    /// The versions of a handler, the newest first: at most `limit`, or all.
    pub fn handler_versions(
        self: &Arc<Answers>,
        handler: &StoredHandler,
        limit: Option<usize>,
    ) -> Versions {
        Versions {
            answers: Arc::clone(self),
            plugin: handler.plugin.clone(),
            name: handler.name.clone(),
            before: None,
            is_over: false,
            left: limit,
            history: History::default(),
        }
    }

    /// The version of a handler that a text names: by its number, or the id of its claim. Without one, the
    /// newest.
    ///
    /// # Errors
    /// [`AnswerError::NotFound`] when it has none such.
    pub async fn handler_version(
        self: &Arc<Answers>,
        handler: &StoredHandler,
        text: Option<&str>,
    ) -> Result<HandlerVersion, AnswerError> {
        let is_meant = |version: &HandlerVersion| match text {
            None => true,
            Some(text) => text.parse() == Ok(version.number) || version.version.as_str() == text,
        };
        let mut versions = self.handler_versions(handler, None);
        while let Some(page) = versions.next().await? {
            if let Some(found) = page.into_iter().find(is_meant) {
                return Ok(found);
            }
        }
        let name = &handler.name;
        let asked = bounds::cut(text.unwrap_or_default(), bounds::ID_BYTES_MAX);
        Err(AnswerError::NotFound(format!(
            "handler {name} has no version {asked:?}; `axwatch handler versions {name}` shows those that it has"
        )))
    }

    /// The version before the newest, which somebody means who wants the newest away: the newest itself of a
    /// handler that was removed.
    ///
    /// # Errors
    /// [`AnswerError::Conflict`] when there is none.
    pub async fn earlier_version(
        self: &Arc<Answers>,
        handler: &StoredHandler,
    ) -> Result<HandlerVersion, AnswerError> {
        let mut versions = self.handler_versions(handler, None);
        while let Some(page) = versions.next().await? {
            let earlier = |version: &HandlerVersion| match version.state {
                VersionState::InForce | VersionState::Broken => false,
                VersionState::Removed | VersionState::Replaced => true,
            };
            if let Some(found) = page.into_iter().find(earlier) {
                return Ok(found);
            }
        }
        Err(AnswerError::Conflict(format!(
            "handler {} has only one version, so there is none before it",
            handler.name
        )))
    }

    /// The code of a version.
    ///
    /// # Errors
    /// [`AnswerError::NotFound`] when its claim is not there, or has no code.
    pub async fn handler_code(&self, version: &AttestationId) -> Result<String, AnswerError> {
        let stored = self.store().get(version).await?;
        let attributes = stored.and_then(|stored| stored.attestation.attributes);
        let code = attributes.and_then(|attributes| match attributes.to_value().get_mut("code") {
            Some(serde_json::Value::String(code)) => Some(std::mem::take(code)),
            _ => None,
        });
        code.ok_or_else(|| {
            AnswerError::NotFound(format!(
                "the claim {version} of this version is not in the store, or has no code; `axwatch doctor` looks for what is damaged"
            ))
        })
    }

    /// How many jobs wait for a handler.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting_for(&self, handler: &StoredHandler) -> Result<WaitingJobs, StoreError> {
        let query = JobsQuery {
            states: vec![JobState::Queued, JobState::Paused],
            handler: bare(handler).parse().ok(),
            bare: true,
            limit: WAITING_COUNTED_MAX + 1,
            ..JobsQuery::default()
        };
        let is_ours = |plugin: Option<&PluginName>| plugin.is_none_or(|p| *p == handler.plugin);
        let rows = self.store().jobs(&query).await?;
        let jobs = rows.iter().filter(|row| is_ours(row.plugin.as_ref())).count();
        Ok(WaitingJobs {
            jobs: jobs.min(WAITING_COUNTED_MAX) as u64,
            at_least: rows.len() > WAITING_COUNTED_MAX,
        })
    }
}

/// What jobs and watchers name a handler by.
pub fn bare(handler: &StoredHandler) -> String {
    format!("{}.{}", handler.plugin, handler.name)
}

impl Handler {
    /// A handler, without those who run it.
    pub fn of(handler: &StoredHandler) -> Handler {
        let (state, reason) = match &handler.state {
            StoredHandlerState::InForce => (HandlerState::Ok, None),
            StoredHandlerState::Broken { reason } => {
                (HandlerState::Broken, Some(reason.to_string()))
            }
            StoredHandlerState::Removed => (HandlerState::Removed, None),
        };
        Handler {
            handler: bare(handler),
            name: handler.name.to_string(),
            plugin: handler.plugin.to_string(),
            state,
            reason,
            version: handler.version.clone(),
            number: handler.version_number,
            seq: handler.version_seq,
            at: handler.changed_at,
            by: handler.changed_by.clone(),
            watchers: None,
            schedules: None,
        }
    }
}

/// The one of these handlers that a text names: by its name, or with its plugin, as `plugin.name` or
/// `plugin/plugin.name`. One that is removed too.
///
/// # Errors
/// [`AnswerError::NotFound`], with the nearest that there is; [`AnswerError::Conflict`] when it means
/// several.
pub fn named_handler(
    handlers: Vec<StoredHandler>,
    text: &str,
) -> Result<StoredHandler, AnswerError> {
    let by_name: Vec<_> = handlers.iter().filter(|handler| handler.name.as_str() == text).collect();
    let is_meant = |handler: &&StoredHandler| {
        let bare = bare(handler);
        text == bare || text.strip_prefix(handler.plugin.as_str()) == Some(&*format!("/{bare}"))
    };
    let with_plugin = handlers.iter().find(is_meant);
    match (&by_name[..], with_plugin) {
        ([one], None) => return Ok((*one).clone()),
        ([], Some(found)) => return Ok(found.clone()),
        ([], None) => {}
        (several, with_plugin) => {
            let names = several.iter().copied().chain(with_plugin);
            let names: Vec<_> = names.map(|of| format!("{}/{}", of.plugin, bare(of))).collect();
            return Err(AnswerError::Conflict(format!(
                "there are several handlers {text:?}; say which: {}",
                names.join(", ")
            )));
        }
    }
    Err(no_handler(&handlers, text))
}

/// That there is no such handler, and which is like it.
fn no_handler(handlers: &[StoredHandler], text: &str) -> AnswerError {
    let standing = handlers.iter().filter(|handler| handler.state != StoredHandlerState::Removed);
    let standing = standing.take(COMPARED_MAX);
    let names: Vec<String> =
        standing.flat_map(|handler| [handler.name.to_string(), bare(handler)]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let text = bounds::cut(text, bounds::ID_BYTES_MAX);
    let near = nearest(text, &names);
    let hint = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
    AnswerError::NotFound(format!(
        "there is no stored handler {text:?}{hint}; `axwatch handler list --all` shows those that there are"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axwatch_model::Timestamp;

    fn row(seq: u64, kind: HandlerChangeKind, number: u64) -> HandlerChangeRow {
        HandlerChangeRow {
            seq: Seq(seq),
            plugin: "python".parse().unwrap(),
            name: "hello".parse().unwrap(),
            kind,
            version_number: number,
            version: format!("AS-{number}").parse().unwrap(),
            version_seq: Seq(number),
            reason: if kind == HandlerChangeKind::Faulted { "no" } else { "" }.to_owned(),
            by: "user".to_owned(),
            at: Timestamp::from_ms_clamped(0),
        }
    }

    fn named(plugin: &str, name: &str) -> StoredHandler {
        let (plugin, name) = (plugin.parse().unwrap(), name.parse().unwrap());
        StoredHandler::after(HandlerChangeRow {
            plugin,
            name,
            ..row(1, HandlerChangeKind::Stored, 1)
        })
    }

    #[test]
    fn later_changes_say_what_has_become_of_a_version() {
        use HandlerChangeKind::{Faulted, Removed, Stored};
        use VersionState::{Broken, InForce, Replaced};
        // (changes, the oldest first; versions, the newest first: number, state, whether it did not load)
        type Case<'a> = (&'a [(HandlerChangeKind, u64)], &'a [(u64, VersionState, bool)]);
        let cases: [Case<'_>; 5] = [
            (&[(Stored, 1)], &[(1, InForce, false)]),
            (&[(Stored, 1), (Stored, 2)], &[(2, InForce, false), (1, Replaced, false)]),
            (&[(Stored, 1), (Faulted, 1)], &[(1, Broken, true)]),
            (
                &[(Stored, 1), (Faulted, 1), (Stored, 2)],
                &[(2, InForce, false), (1, Replaced, true)],
            ),
            (
                &[(Stored, 1), (Removed, 1), (Stored, 2), (Stored, 3), (Removed, 3)],
                &[
                    (3, VersionState::Removed, false),
                    (2, Replaced, false),
                    (1, VersionState::Removed, false),
                ],
            ),
        ];
        for (changes, expected) in cases {
            let mut history = History::default();
            let rows =
                changes.iter().zip(1..).map(|((kind, number), seq)| row(seq, *kind, *number));
            let newest_first = rows.collect::<Vec<_>>().into_iter().rev();
            let told: Vec<_> = newest_first
                .filter_map(|row| history.take(row))
                .map(|version| (version.number, version.state, version.reason.is_some()))
                .collect();
            assert_eq!(told, expected, "{changes:?}");
        }
    }

    #[test]
    fn a_handler_is_found_by_any_of_its_names() {
        let all = || {
            let odd = [named("python", "lua.odd"), named("lua", "odd")];
            let plain = [named("python", "hello"), named("lua", "hello"), named("python", "a.b")];
            plain.into_iter().chain(odd).collect::<Vec<_>>()
        };
        // (text, what it names, or what is said)
        let cases = [
            ("a.b", Ok("python.a.b")),
            ("python.a.b", Ok("python.a.b")),
            ("lua.hello", Ok("lua.hello")),
            ("python/python.hello", Ok("python.hello")),
            ("hello", Err("say which: python/python.hello, lua/lua.hello")),
            ("lua.odd", Err("say which: python/python.lua.odd, lua/lua.odd")),
            ("lua/lua.odd", Ok("lua.odd")),
            ("lua.helo", Err("did you mean lua.hello?")),
            ("lua/python.hello", Err("there is no stored handler")),
            ("nothing", Err("axwatch handler list")),
        ];
        for (text, expected) in cases {
            match (named_handler(all(), text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(bare(&found), expected, "{text}"),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{error}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
