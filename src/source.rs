//! Where a command gets its answers: from the server that runs on the store, or else from the store.
//!
//! Which of the two is settled once, before the first question. A server that is lost later is an
//! error, never a silent switch to the file. The answers are the same either way, because both are
//! made by `crate::answers`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axwatch_ats::{AuditRow, SqliteStore};
use axwatch_core::BudgetLimits;
use axwatch_model::{
    BudgetScope, Clock as _, JobIdPrefix, LeafNumber, StoredHandlerState, SystemClock,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Method;
use serde_json::json;

use crate::answers::{
    Answers, DeadList, Extent, Held, List, Pages, TrialRun, Versions, json_line, named_handler,
    named_watcher,
};
use crate::client::{self, Client, ClientError, JSON};
use crate::fault::Fault;
use crate::runtime;
use crate::views;

/// Where schedules are, in the API.
pub const SCHEDULES: &str = "/api/v1/schedules";
/// Where stored handlers are.
pub const HANDLERS: &str = "/api/v1/handlers";
/// Where budgets are.
pub const BUDGETS: &str = "/api/v1/budgets";

/// How long a server may take to say that it is there.
const PROBE_WITHIN: Duration = Duration::from_secs(5);

/// Where answers come from.
pub enum Source {
    /// A server.
    Server(Client),
    /// The store itself.
    Store(Arc<Answers>),
}

impl Source {
    /// The server that runs on this store, or else the store.
    ///
    /// # Errors
    /// When there is no store, it cannot be opened, or its server does not answer.
    pub async fn find(store: &Path) -> Result<Source> {
        if let Some(client) = find_server(store).await? {
            return Ok(Source::Server(client));
        }
        if !store.exists() {
            return Err(Fault::Refused(format!(
                "there is no store at {} yet; `axwatch serve` or `axwatch as` makes one, and --store PATH names another",
                store.display()
            ))
            .into());
        }
        let reader = SqliteStore::open_reader(store).await?;
        Ok(Source::Store(Answers::new(reader)))
    }

    /// A list, newest first: at most `limit` lines, or all.
    pub async fn list(&self, list: &List, limit: Option<usize>) -> Result<Lines> {
        match self {
            Source::Server(client) => {
                let limit_text = limit.map(|limit| limit.to_string());
                let all = limit.is_none().then(|| "true".to_owned());
                let (method, path, body) = match list {
                    List::Attestations { query, before } => {
                        let body = json!({
                            "query": query, "limit": limit, "all": limit.is_none(), "before": before,
                        });
                        (Method::POST, "/api/v1/ax".to_owned(), Bytes::from(body.to_string()))
                    }
                    List::Fires { watcher, state } => {
                        let query = [
                            ("limit", limit_text),
                            ("all", all),
                            ("watcher", watcher.clone()),
                            ("state", state.map(|state| state.to_string())),
                        ];
                        (Method::GET, client::with_query("/api/v1/fires", &query), Bytes::new())
                    }
                    List::Jobs(filter) => {
                        let query = [
                            ("limit", limit_text),
                            ("all", all),
                            ("watcher", filter.watcher.clone()),
                            ("state", filter.state.map(|state| state.to_string())),
                            ("handler", filter.handler.clone()),
                            ("plugin", filter.plugin.clone()),
                            ("asker", filter.asker.clone()),
                            ("source", filter.source.clone()),
                            ("parent", filter.parent.clone()),
                            ("schedule", filter.schedule.clone()),
                        ];
                        (Method::GET, client::with_query("/api/v1/jobs", &query), Bytes::new())
                    }
                    List::Runs { schedule } => {
                        let query = [("limit", limit_text), ("all", all)];
                        let path = client::path(SCHEDULES, &[schedule, "history"]);
                        (Method::GET, client::with_query(&path, &query), Bytes::new())
                    }
                    List::Records { kind, before } => {
                        let query = [
                            ("limit", limit_text),
                            ("all", all),
                            ("type", kind.clone()),
                            ("before", before.map(|before| before.to_string())),
                        ];
                        (Method::GET, client::with_query("/api/v1/audit", &query), Bytes::new())
                    }
                };
                Ok(Lines::Server(client.lines(method, &path, JSON, body).await?))
            }
            Source::Store(answers) => {
                let pages = answers.list(list, limit, Held::default()).await?;
                Ok(Lines::Store(Box::new(pages)))
            }
        }
    }

    /// How many claims a question finds.
    pub async fn count(&self, query: &str) -> Result<views::Count> {
        match self {
            Source::Server(client) => {
                let body = json!({ "query": query, "count": true });
                Ok(client.send(Method::POST, "/api/v1/ax", &body).await?)
            }
            Source::Store(answers) => Ok(views::Count { count: answers.count(query, None).await? }),
        }
    }

    /// How a question is answered: with at most `limit` claims, or all.
    pub async fn explain_question(
        &self,
        query: &str,
        limit: Option<usize>,
    ) -> Result<views::Explained> {
        match self {
            Source::Server(client) => {
                let body = json!({
                    "query": query, "limit": limit, "all": limit.is_none(), "explain": true,
                });
                Ok(client.send(Method::POST, "/api/v1/ax", &body).await?)
            }
            Source::Store(answers) => Ok(answers.explain_question(query, None, limit).await?),
        }
    }

    /// The watchers, newest first: at most so many, or all with the retired ones.
    pub async fn watchers(&self, limit: Option<usize>) -> Result<Lines> {
        match self {
            Source::Server(client) => {
                let query = [
                    ("limit", limit.map(|limit| limit.to_string())),
                    ("all", limit.is_none().then(|| "true".to_owned())),
                ];
                let path = client::with_query("/api/v1/watchers", &query);
                Ok(Lines::Server(client.lines(Method::GET, &path, JSON, Bytes::new()).await?))
            }
            Source::Store(answers) => {
                let mut watchers = answers.watchers(limit.is_none()).await?;
                watchers.reverse();
                watchers.truncate(limit.unwrap_or(usize::MAX));
                let head = answers.store().head().await?;
                let line = |watcher| json_line(&views::Watcher::offline(watcher, head));
                Ok(Lines::Ready(Some(watchers.iter().map(line).collect())))
            }
        }
    }

    /// A watcher's text tried on history, line by line.
    pub async fn try_on_history(&self, trial: &views::Trial) -> Result<Lines> {
        match self {
            Source::Server(client) => {
                let body = Bytes::from(json_line(trial));
                let path = "/api/v1/watchers/test";
                Ok(Lines::Server(client.lines(Method::POST, path, JSON, body).await?))
            }
            Source::Store(answers) => {
                let now = SystemClock::new().now().wall;
                Ok(Lines::Trial(answers.try_on_history(trial, now).await?))
            }
        }
    }

    /// The watcher that a text names, and what lies behind it.
    pub async fn watcher(&self, text: &str) -> Result<views::ShownWatcher> {
        match self {
            Source::Server(client) => {
                Ok(client.get(&client::path("/api/v1/watchers", &[text])).await?)
            }
            Source::Store(answers) => {
                let found = named_watcher(answers.watchers(true).await?, text)?;
                let head = answers.store().head().await?;
                let shown = answers.shown_watcher(&found, head).await?;
                Ok(views::ShownWatcher { watcher: views::Watcher::offline(&found, head), ..shown })
            }
        }
    }

    /// The dead letters that somebody means: at most `limit` lines or all, and last their summary.
    pub async fn dead(&self, selection: &views::Selection, limit: Option<usize>) -> Result<Lines> {
        match self {
            Source::Server(client) => {
                let query = [
                    ("limit", limit.map(|limit| limit.to_string())),
                    ("all", limit.is_none().then(|| "true".to_owned())),
                    ("watcher", selection.watcher.clone()),
                    ("handler", selection.handler.clone()),
                    ("error", selection.error.clone()),
                    ("like", selection.like.clone()),
                    ("older_than", selection.older_than.clone()),
                    ("newer_than", selection.newer_than.clone()),
                ];
                let path = client::with_query("/api/v1/jobs/dead", &query);
                Ok(Lines::Server(client.lines(Method::GET, &path, JSON, Bytes::new()).await?))
            }
            Source::Store(answers) => {
                let now = SystemClock::new().now().wall;
                let selected = answers.select(selection, now).await?;
                Ok(Lines::Dead(Box::new(answers.list_selected(selected, limit, now))))
            }
        }
    }

    /// The schedules, by owner and name: at most so many, or all with the retired ones.
    pub async fn schedules(&self, limit: Option<usize>) -> Result<Lines> {
        match self {
            Source::Server(client) => {
                let query = [
                    ("limit", limit.map(|limit| limit.to_string())),
                    ("all", limit.is_none().then(|| "true".to_owned())),
                ];
                let path = client::with_query(SCHEDULES, &query);
                Ok(Lines::Server(client.lines(Method::GET, &path, JSON, Bytes::new()).await?))
            }
            Source::Store(answers) => {
                let mut rows = answers.schedules(limit.is_none()).await?;
                rows.truncate(limit.unwrap_or(usize::MAX));
                let line = |row| json_line(&views::Schedule::offline(row));
                Ok(Lines::Ready(Some(rows.iter().map(line).collect())))
            }
        }
    }

    /// The schedule that a text names.
    pub async fn schedule(&self, text: &str) -> Result<views::Schedule> {
        match self {
            Source::Server(client) => Ok(client.get(&client::path(SCHEDULES, &[text])).await?),
            Source::Store(answers) => {
                Ok(views::Schedule::offline(&answers.schedule_row(text).await?))
            }
        }
    }

    /// When a schedule would run next.
    pub async fn next_times(&self, text: &str, limit: usize) -> Result<views::NextTimes> {
        match self {
            Source::Server(client) => {
                let path = client::path(SCHEDULES, &[text, "next"]);
                let query = [("limit", Some(limit.to_string()))];
                Ok(client.get(&client::with_query(&path, &query)).await?)
            }
            Source::Store(answers) => {
                let now = SystemClock::new().now().wall;
                Ok(answers.next_times(text, now, limit).await?)
            }
        }
    }

    /// The stored handlers, by plugin and name: at most so many; those that were removed too when asked for.
    pub async fn handlers(&self, limit: Option<usize>, all: bool) -> Result<Lines> {
        match self {
            Source::Server(client) => {
                let query = [
                    ("limit", limit.map(|limit| limit.to_string())),
                    ("all", all.then(|| "true".to_owned())),
                ];
                let path = client::with_query(HANDLERS, &query);
                Ok(Lines::Server(client.lines(Method::GET, &path, JSON, Bytes::new()).await?))
            }
            Source::Store(answers) => {
                let mut handlers = answers.stored_handlers().await?;
                handlers.retain(|handler| all || handler.state != StoredHandlerState::Removed);
                handlers.truncate(limit.unwrap_or(usize::MAX));
                let line = |handler| json_line(&views::Handler::of(handler));
                Ok(Lines::Ready(Some(handlers.iter().map(line).collect())))
            }
        }
    }

    /// The handler that a text names, with the code of one of its versions, or the newest.
    pub async fn handler(&self, text: &str, version: Option<&str>) -> Result<views::ShownHandler> {
        match self {
            Source::Server(client) => {
                let query = [("version", version.map(str::to_owned))];
                let path = client::path(HANDLERS, &[text]);
                Ok(client.get(&client::with_query(&path, &query)).await?)
            }
            Source::Store(answers) => {
                let handler = named_handler(answers.stored_handlers().await?, text)?;
                Ok(answers.shown_handler(&handler, version).await?)
            }
        }
    }

    /// The versions of the handler that a text names, the newest first: at most so many, or all.
    pub async fn handler_versions(&self, text: &str, limit: Option<usize>) -> Result<Lines> {
        match self {
            Source::Server(client) => {
                let query = [
                    ("limit", limit.map(|limit| limit.to_string())),
                    ("all", limit.is_none().then(|| "true".to_owned())),
                ];
                let path = client::path(HANDLERS, &[text, "versions"]);
                let path = client::with_query(&path, &query);
                Ok(Lines::Server(client.lines(Method::GET, &path, JSON, Bytes::new()).await?))
            }
            Source::Store(answers) => {
                let handler = named_handler(answers.stored_handlers().await?, text)?;
                Ok(Lines::Versions(answers.handler_versions(&handler, limit)))
            }
        }
    }

    /// Every budget and what has been used of it, or the one of a scope. `configured` is what the
    /// configuration says, for when no server does.
    pub async fn budgets(
        &self,
        scope: Option<&BudgetScope>,
        configured: &BTreeMap<BudgetScope, BudgetLimits>,
    ) -> Result<Vec<views::Budget>> {
        match (self, scope) {
            (Source::Store(answers), _) => {
                let now = SystemClock::new().now().wall;
                Ok(answers.budgets(scope, configured, now).await?)
            }
            (Source::Server(client), Some(scope)) => {
                Ok(vec![client.get(&client::path(BUDGETS, &[&scope.to_string()])).await?])
            }
            (Source::Server(client), None) => {
                let mut lines = client.lines(Method::GET, BUDGETS, JSON, Bytes::new()).await?;
                let mut budgets = Vec::new();
                while let Some(page) = lines.next().await? {
                    for line in page {
                        budgets.push(parse(&line)?);
                    }
                }
                Ok(budgets)
            }
        }
    }

    /// A job with its result.
    pub async fn job(&self, id: &JobIdPrefix) -> Result<views::Job> {
        match self {
            Source::Server(client) => Ok(client.get(&client::job_path(id)).await?),
            Source::Store(answers) => {
                let id = answers.job_id(id).await?;
                Ok(answers.shown_job(id, &Held::default()).await?)
            }
        }
    }

    /// Why a job ran.
    pub async fn why(&self, id: &JobIdPrefix) -> Result<views::Why> {
        match self {
            Source::Server(client) => {
                Ok(client.get(&client::path("/api/v1/why", &[&id.to_string()])).await?)
            }
            Source::Store(answers) => {
                let id = answers.job_id(id).await?;
                let matched = answers.store().opened().matched_seq;
                Ok(answers.why(id, matched, &Held::default()).await?)
            }
        }
    }

    /// What led to a claim or a job, and what came of it.
    pub async fn trace(&self, id: &str, extent: Extent) -> Result<views::Trace> {
        match self {
            Source::Server(client) => {
                let query = [
                    ("limit", Some(extent.limit.to_string())),
                    ("depth", Some(extent.depth.to_string())),
                ];
                let path = client::path("/api/v1/trace", &[id]);
                Ok(client.get(&client::with_query(&path, &query)).await?)
            }
            Source::Store(answers) => {
                let matched = answers.store().opened().matched_seq;
                Ok(answers.trace(id, extent, matched, &Held::default()).await?)
            }
        }
    }

    /// Why a watcher did not fire for a claim, or that it did.
    pub async fn why_not(&self, watcher: &str, claim: &str) -> Result<views::WhyNot> {
        match self {
            Source::Server(client) => {
                let path = client::path("/api/v1/why-not", &[claim]);
                let query = [("watcher", Some(watcher.to_owned()))];
                Ok(client.get(&client::with_query(&path, &query)).await?)
            }
            Source::Store(answers) => {
                let matched = answers.store().opened().matched_seq;
                Ok(answers.why_not(watcher, claim, matched, None, &Held::default()).await?)
            }
        }
    }

    /// Which watchers fired for a claim, and which came nearest to it; at most `limit` of each.
    pub async fn nearest(&self, claim: &str, limit: usize) -> Result<views::Nearest> {
        match self {
            Source::Server(client) => {
                let path = client::path("/api/v1/why-not", &[claim]);
                let query = [("limit", Some(limit.to_string()))];
                Ok(client.get(&client::with_query(&path, &query)).await?)
            }
            Source::Store(answers) => {
                let matched = answers.store().opened().matched_seq;
                Ok(answers.nearest(claim, matched, limit, None).await?)
            }
        }
    }

    /// The words that are one, the newest class first.
    pub async fn aliases(&self) -> Result<Vec<views::AliasClass>> {
        let client = match self {
            Source::Store(answers) => return Ok(answers.aliases().await?),
            Source::Server(client) => client,
        };
        let mut lines = client.lines(Method::GET, "/api/v1/aliases", JSON, Bytes::new()).await?;
        let mut classes = Vec::new();
        while let Some(page) = lines.next().await? {
            for line in page {
                classes.push(parse(&line)?);
            }
        }
        Ok(classes)
    }

    /// How everything is. `store` is the store's file.
    pub async fn status(&self, store: &Path) -> Result<views::Status> {
        match self {
            Source::Server(client) => Ok(client.get("/api/v1/status").await?),
            Source::Store(answers) => {
                let now = SystemClock::new().now().wall;
                Ok(answers.status(&runtime::settle(store), now, None).await?)
            }
        }
    }

    /// The size of the audit and the hash over all of it.
    pub async fn audit_head(&self) -> Result<views::AuditHead> {
        match self {
            Source::Server(client) => Ok(client.get("/api/v1/audit/head").await?),
            Source::Store(answers) => Ok(answers.audit_head().await?),
        }
    }

    /// Rows of the audit that hold the records from `from` on; empty at the end.
    pub async fn audit_rows(&self, from: LeafNumber) -> Result<Vec<AuditRow>> {
        let client = match self {
            Source::Store(answers) => return Ok(answers.audit_rows(from).await?),
            Source::Server(client) => client,
        };
        let path = client::with_query("/api/v1/audit/rows", &[("from", Some(from.to_string()))]);
        let mut lines = client.lines(Method::GET, &path, JSON, Bytes::new()).await?;
        let mut rows = Vec::new();
        while let Some(page) = lines.next().await? {
            for line in page {
                let view: views::AuditRow = parse(&line)?;
                rows.push(row_of(view)?);
            }
        }
        Ok(rows)
    }

    /// That the last attempt of a job ended as it did: the content of a proof file.
    pub async fn proof(&self, id: &JobIdPrefix) -> Result<String> {
        match self {
            Source::Server(client) => {
                let path = client::path("/api/v1/audit/proof", &[&id.to_string()]);
                let text = client.text(Method::GET, &path, JSON, Bytes::new()).await?;
                Ok(String::from_utf8(text.to_vec())?)
            }
            Source::Store(answers) => Ok(answers.proof(answers.job_id(id).await?).await?),
        }
    }
}

/// The view of a row of the audit.
pub fn view_of(row: &AuditRow) -> views::AuditRow {
    views::AuditRow {
        first_leaf: row.first_leaf.0,
        count: row.count,
        at: row.at,
        records: row.records.to_string(),
        nodes: STANDARD.encode(&row.nodes),
        head: STANDARD.encode(row.head),
    }
}

fn row_of(view: views::AuditRow) -> Result<AuditRow> {
    let garbled = |problem: &str| ClientError::Garbled { problem: problem.to_owned() };
    let nodes = STANDARD.decode(view.nodes).map_err(|_| garbled("nodes are not base64"))?;
    let head = STANDARD.decode(view.head).map_err(|_| garbled("a head is not base64"))?;
    Ok(AuditRow {
        first_leaf: LeafNumber(view.first_leaf),
        count: view.count,
        at: view.at,
        records: view.records.into(),
        nodes: nodes.into(),
        head: head.try_into().map_err(|_| garbled("a head has not 32 bytes"))?,
    })
}

/// A view out of a line.
///
/// # Errors
/// When the line is not what this axwatch knows.
pub fn parse<'a, T: serde::Deserialize<'a>>(line: &'a str) -> Result<T> {
    Ok(serde_json::from_str(line)
        .map_err(|error| ClientError::Garbled { problem: error.to_string() })?)
}

/// A list that is being read, from wherever.
pub enum Lines {
    /// From a server.
    Server(client::Lines),
    /// From the store.
    Store(Box<Pages>),
    /// From a trial on the store.
    Trial(TrialRun),
    /// Dead letters of the store.
    Dead(Box<DeadList>),
    /// Versions of a handler of the store.
    Versions(Versions),
    /// All at once; `None` when they have been given.
    Ready(Option<Vec<String>>),
}

impl Lines {
    /// The next lines, each a JSON object; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<String>>> {
        match self {
            Lines::Server(lines) => Ok(lines.next().await?),
            Lines::Store(pages) => Ok(pages.next().await?),
            Lines::Trial(trial) => Ok(trial.next().await?),
            Lines::Dead(list) => Ok(list.next().await?),
            Lines::Versions(versions) => Ok(versions.next_lines().await?),
            Lines::Ready(lines) => Ok(lines.take()),
        }
    }
}

/// The server that runs on this store, for commands that need one.
///
/// # Errors
/// When there is none.
pub async fn need_server(store: &Path) -> Result<Client> {
    let found = find_server(store).await?;
    found.ok_or_else(|| {
        Fault::Refused(format!(
            "no server runs on the store {}; start one with `axwatch serve`, or name another store with --store PATH",
            store.display()
        ))
        .into()
    })
}

/// The server that runs on this store. A runtime file that a crash left behind is passed over.
///
/// # Errors
/// When the store is held, and whoever holds it does not answer.
pub async fn find_server(store: &Path) -> Result<Option<Client>> {
    let store = runtime::settle(store);
    let mut problem = None;
    // A server that is just starting again has two moments in which it does not answer.
    for pause_ms in [0, 200, 500] {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let Some(found) = runtime::read(&store) else { return Ok(None) };
        match probe(&store, &found).await {
            Ok(client) => return Ok(Some(client)),
            Err(error) => problem = Some((found, error)),
        }
        if !runtime::is_held(&store) {
            return Ok(None);
        }
        if problem.as_ref().is_some_and(|(_, error)| error.is::<NoAnswer>()) {
            break;
        }
    }
    let (found, error) = problem.expect("it was tried");
    Err(error).with_context(|| {
        format!(
            "process {} holds the store {} and its API at {} does not answer; wait for it, or stop it and try again",
            found.pid,
            store.display(),
            found.http
        )
    })
}

/// Somebody listens there and says nothing.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {PROBE_WITHIN:?}")]
struct NoAnswer;

async fn probe(store: &Path, found: &runtime::Runtime) -> Result<Client> {
    let address: SocketAddr = found
        .http
        .strip_prefix("http://")
        .or_else(|| found.http.strip_prefix("https://"))
        .and_then(|address| address.parse().ok())
        .with_context(|| format!("its runtime file names no address: {:?}", found.http))?;
    let token = runtime::read_token(store).context("cannot read its token file")?;
    let client = match &found.certificate {
        Some(certificate) => Client::with_tls(address, token, certificate)?,
        None => Client::new(address, token),
    };
    let server: views::Server = tokio::time::timeout(PROBE_WITHIN, client.get("/api/v1/server"))
        .await
        .map_err(|_| NoAnswer)??;
    if server.pid != found.pid {
        anyhow::bail!("process {} answers there instead", server.pid);
    }
    Ok(client)
}
