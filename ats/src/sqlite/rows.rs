//! How our types become columns, and columns our types.
//!
//! A row is read as one JSON text made by SQLite, because every column that the driver hands over costs
//! as much as a small row; many rows of the log even as one text for all. A row that does not decode is [`StoreError::Row`], never a panic.

use std::fmt::Write as _;
use std::sync::Arc;

use axwatch_model::{
    Ancestor, Asked, Attestation, AttestationId, Attributes, BudgetRow, BudgetScope, Counters,
    CursorNumber, CursorRow, Filled, Grid, HandlerChangeKind, HandlerChangeRow, HandlerName,
    HandlerRef, HandlerSpendRow, HoldRow, JobEntryRow, JobId, JobNumber, JobOrigin, JobRow,
    JobState, LeafNumber, Lineage, LineageKind, OpenAsked, Parent, PassRow, PluginName, PluginRow,
    RefusedRow, RevisionRow, RouteRow, ScheduleId, ScheduleRow, ScheduleRun, ScheduleRunRow, Seq,
    SpendRow, Stored, Timestamp, WatcherKey, WatcherNumber, WatcherRow, WatcherState,
};
use axwatch_query::{AliasChange, AliasChangeKind};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::trip::{Insert, Values};
use crate::append::Removed;
use crate::store::{AuditRow, StoreError};

pub(super) static INSERT_ATTESTATIONS: Insert = Insert::new(
    "INSERT INTO attestations (seq,id,subjects,predicates,contexts,actors,timestamp,created_at,\
     source,appended_by,filled,attributes,signature,signer_did,lineage,root,parent_job,depth,chain) \
     VALUES ",
    19,
);

/// The columns that every job has. What it carries is in a table of its own.
macro_rules! job_columns {
    () => {
        "number,id,origin,watcher,revision,generation,seq,handler,plugin,state,attempts,\
         counted,uncounted,created_at,first_counted_at,started_at,completed_at,due_at,delay_ms,\
         error,result,progress_done,progress_total,cost,leaves,entries,entries_bytes"
    };
}

/// A job's row is always given whole, so a changed one simply takes the old one's place. Fires have none of
/// the columns that tell who asked.
pub(super) static REPLACE_FIRES: Insert =
    Insert::new(concat!("INSERT OR REPLACE INTO jobs (", job_columns!(), ") VALUES "), 27);

pub(super) static REPLACE_ASKED: Insert = Insert::new(
    concat!(
        "INSERT OR REPLACE INTO jobs (",
        job_columns!(),
        ",asker,owner,source,priority,base_ms,parent,parent_id,schedule,nominal,cost_estimate) \
         VALUES "
    ),
    37,
);

pub(super) static REPLACE_PAYLOADS: Insert =
    Insert::new("INSERT OR REPLACE INTO job_payloads (job,payload) VALUES ", 2);

pub(super) static REPLACE_ENTRIES: Insert = Insert::new(
    "INSERT OR REPLACE INTO job_entries (job,number,at,attempt,level,stage,message,metadata) VALUES ",
    8,
);

pub(super) static REPLACE_WATCHERS: Insert = Insert::new(
    "INSERT OR REPLACE INTO watchers (number,owner,local_id,revision,generation,declared,handlers,\
     params,max_fires_per_second,max_chain,state,error,since_seq,created_at,updated_at,\
     last_generation,max_attempts,max_age_ms) VALUES ",
    18,
)
.wide();

pub(super) static REPLACE_REVISIONS: Insert = Insert::new(
    "INSERT OR REPLACE INTO watcher_revisions (watcher,revision,generation,declared,handlers,\
     max_fires_per_second,at,leaf,since_seq,from_seq,retired_seq) VALUES ",
    11,
)
.wide();

/// Many at once, because a plugin may drop all of its watchers in one announcement.
pub(super) static RETIRE_REVISIONS: Insert = Insert::around(
    "UPDATE watcher_revisions SET retired_seq = gone.column3 FROM (VALUES ",
    3,
    ") AS gone WHERE watcher = gone.column1 AND revision = gone.column2",
)
.wide();

pub(super) static REPLACE_PASSES: Insert = Insert::new(
    "INSERT OR REPLACE INTO passes (watcher,generation,from_seq,until_seq,cursor,started_at,ended_at,\
     stopped) VALUES ",
    8,
);

pub(super) static REPLACE_CURSORS: Insert =
    Insert::new("INSERT OR REPLACE INTO cursors (number,seq) VALUES ", 2);

pub(super) static REPLACE_HOLDS: Insert = Insert::new(
    "INSERT OR REPLACE INTO holds (watcher,number,kind,drops,at,until,from_seq,from_job,ended_at,\
     to_seq,to_job,generation) VALUES ",
    12,
);

pub(super) static INSERT_REMOVED: Insert =
    Insert::new("INSERT OR REPLACE INTO removed (seq,id,filled,content) VALUES ", 4);

pub(super) static INSERT_ALIASES: Insert =
    Insert::new("INSERT INTO aliases (seq,kind,words) VALUES ", 3);

pub(super) static REPLACE_COUNTERS: Insert = Insert::new(
    "INSERT OR REPLACE INTO watcher_counters (watcher,matches,fires,errors,last_fired_at) VALUES ",
    5,
);

/// A row of the audit, and what meta says of the audit with it: one text, so one trip.
pub(super) const INSERT_AUDIT: &str = "INSERT INTO audit \
     (first_leaf,count,at,records,nodes,head) VALUES (?,?,?,?,?,?);\
     INSERT OR REPLACE INTO meta (key,value) VALUES ('audit_head',?);";

pub(super) const REPLACE_PLUGIN: &str = "INSERT OR REPLACE INTO plugins (name,version,incarnation,up_at,disabled_at,called_back,\
     doubted_until,stored_handlers) VALUES (?,?,?,?,?,?,?,?);";

pub(super) static REPLACE_HANDLER_CHANGES: Insert = Insert::new(
    "INSERT OR REPLACE INTO handler_changes (seq,plugin,name,kind,version_number,version,version_seq,\
     reason,appended_by,at) VALUES ",
    10,
);

pub(super) static REPLACE_SCHEDULES: Insert = Insert::new(
    "INSERT OR REPLACE INTO schedules (owner,name,handler,interval_secs,cron,tz,anchor,payload,missed,\
     overlap,jitter_secs,enabled_by_default,description,ats_code,metadata,state,declared_at,\
     changed_at,retired_at,seen,last_nominal,last_run_at,last_job,by_call,was_paused) VALUES ",
    25,
);

pub(super) static INSERT_RUNS: Insert = Insert::new(
    "INSERT INTO schedule_runs (schedule,nominal,upto,count,at,outcome,job) VALUES ",
    7,
);

pub(super) static REPLACE_BUDGETS: Insert = Insert::new(
    "INSERT OR REPLACE INTO budgets (plugin,handler,calls_per_minute,per_day,per_week,per_month,\
     set_by,changed_at) VALUES ",
    8,
);

pub(super) static REPLACE_SPENDS: Insert =
    Insert::new("INSERT OR REPLACE INTO spend (minute,plugin,handler,nanos,calls) VALUES ", 5);

pub(super) static REPLACE_HANDLER_SPENDS: Insert =
    Insert::new("INSERT OR REPLACE INTO handler_spend (plugin,handler,dearest) VALUES ", 3);

pub(super) static INSERT_ROUTES: Insert =
    Insert::new("INSERT OR REPLACE INTO routes (plugin,method,path,description) VALUES ", 4);

pub(super) static REPLACE_REFUSED: Insert =
    Insert::new("INSERT OR REPLACE INTO refused (plugin,parts) VALUES ", 2);

/// A row of attestations as one JSON array. Without attributes where nobody asks for them: they may be
/// large.
macro_rules! attestation_text {
    ($attributes:literal) => {
        concat!(
            "concat('[',seq,',',json_quote(id),',',subjects,',',predicates,',',contexts,',',",
            "actors,',',timestamp,',',created_at,',',json_quote(source),',',",
            "json_quote(appended_by),',',filled,',',",
            $attributes,
            ",',',json_quote(hex(signature)),',',signature IS NULL,',',json_quote(signer_did),',',",
            "lineage,',',json_quote(root),',',json_quote(hex(parent_job)),',',depth,',',",
            "ifnull(chain,'[]'),']')",
        )
    };
}

/// Reads attestations row by row: the number, and the row's text.
macro_rules! select_attestations {
    ($attributes:literal, $rest:literal) => {
        concat!("SELECT seq, ", attestation_text!($attributes), " FROM attestations ", $rest)
    };
}

/// Reads attestations, whole, in two ways.
pub(super) struct Select {
    /// One text for all rows, an array of their texts; because each row that the driver hands over costs
    /// more than SQLite needs for it. Of a row that is large there is only the number, so that the text
    /// stays small. In any order.
    pub together: &'static str,
    /// One row each.
    pub by_row: &'static str,
}

macro_rules! select_both {
    ($rest:literal) => {
        Select {
            together: concat!(
                "SELECT concat('[',group_concat(found),']') FROM (SELECT iif(octet_length(subjects)",
                "+octet_length(predicates)+octet_length(contexts)+octet_length(actors)",
                "+ifnull(octet_length(attributes),0)<=4096,",
                attestation_text!("ifnull(attributes,'null')"),
                ",seq) AS found FROM attestations ",
                $rest,
                ")"
            ),
            by_row: select_attestations!("ifnull(attributes,'null')", $rest),
        }
    };
}

/// Who asked for a job, and how, as a JSON array; `null` of a fire.
macro_rules! asked_text {
    () => {
        "iif(asker IS NULL,'null',concat('[',json_quote(asker),',',json_quote(owner),',',\
         json_quote(source),',',json_quote(priority),',',json_quote(base_ms),',',\
         json_quote(parent),',\"',hex(parent_id),'\",\"',hex(schedule),'\",',json_quote(nominal),']'))"
    };
}

/// Reads jobs: the number, most of the rest as one JSON array, and what JSON cannot hold exactly. `$carried`
/// is what comes as payload and result.
macro_rules! select_jobs_with {
    ($carried:literal, $($rest:tt)*) => {
        concat!(
            "SELECT number, concat('[\"',hex(id),'\",',origin,',',json_quote(watcher),',',",
            "revision,',',generation,',',json_quote(seq),',',json_quote(handler),',',",
            "json_quote(plugin),',',state,',',attempts,',',counted,',',uncounted,',',created_at,',',",
            "json_quote(first_counted_at),',',json_quote(started_at),',',",
            "json_quote(completed_at),',',json_quote(due_at),',',delay_ms,',',json_quote(error),',',",
            "json_quote(progress_done),',',json_quote(progress_total),',',leaves,',',",
            "ifnull(entries,0),',',ifnull(entries_bytes,0),',',",
            asked_text!(),
            ",']'), ",
            $carried,
            ", cost, cost_estimate FROM jobs ",
            $($rest)*
        )
    };
}

macro_rules! select_jobs {
    ($($rest:tt)*) => {
        select_jobs_with!(
            "(SELECT payload FROM job_payloads WHERE job = jobs.number), result",
            $($rest)*
        )
    };
}

/// The place of a job in its lane is this and its number; an index has it. See [`Place`].
macro_rules! rank {
    () => {
        "ifnull(base_ms - priority * 600000, 0)"
    };
}

/// What an open job meets that was asked for; indexes have these alone.
macro_rules! is_open_asked {
    () => {
        "watcher IS NULL AND state IN (0, 1, 2)"
    };
}
pub(super) use {
    asked_text, attestation_text, is_open_asked, rank, select_attestations, select_both,
    select_jobs, select_jobs_with,
};

pub(super) fn bind_attestation(values: &mut Values, stored: &Stored) {
    let Stored { seq, attestation, appended_by, filled, lineage } = stored;
    values.number(seq.0);
    values.add(attestation.id.as_str());
    for terms in
        [&attestation.subjects, &attestation.predicates, &attestation.contexts, &attestation.actors]
    {
        values.add(to_json(terms));
    }
    values.add(attestation.timestamp.ms());
    values.add(attestation.created_at.ms());
    values.add(attestation.source.as_str());
    values.add(appended_by.as_str());
    values.add(filled.code());
    values.add(attestation.attributes.as_ref().map(Attributes::as_str));
    values.add(attestation.signature.as_deref());
    values.add(attestation.signer_did.as_deref());
    values.add(lineage.kind.code());
    values.add(lineage.root.as_ref().map(AttestationId::as_str));
    values.add(lineage.parent_job.as_ref().map(|job| job.0.as_slice()));
    values.add(i64::from(lineage.depth));
    values.add((!lineage.chain.is_empty()).then(|| to_json(&lineage.chain)));
}

pub(super) fn bind_job(values: &mut Values, job: &JobRow) {
    values.number(job.number.0);
    values.add(job.id.0.as_slice());
    values.add(job.origin.code());
    values.add(job.watcher.map(|number| number.0.cast_signed()));
    values.number(job.revision);
    values.add(i64::from(job.generation));
    values.add(job.seq.map(|seq| seq.0.cast_signed()));
    values.add(job.handler.clone());
    values.add(job.plugin.as_ref().map(|name| name.as_str()));
    values.add(job.state.code());
    values.add(i64::from(job.attempts));
    values.add(i64::from(job.counted));
    values.add(i64::from(job.uncounted));
    values.add(job.created_at.ms());
    for time in [job.first_counted_at, job.started_at, job.completed_at, job.due_at] {
        values.add(time.map(Timestamp::ms));
    }
    values.number(job.delay_ms);
    values.add(job.error.as_deref());
    values.add(job.result.as_deref());
    values.add(job.progress.map(|(done, _)| done));
    values.add(job.progress.map(|(_, total)| total));
    values.add(job.cost);
    values.add(to_json(&job.leaves));
    for count in [job.entries, job.entries_bytes] {
        values.add((count > 0).then_some(i64::from(count)));
    }
}

pub(super) fn bind_watcher(values: &mut Values, watcher: &WatcherRow) {
    values.number(watcher.number.0);
    values.add(watcher.key.owner.as_str());
    values.add(watcher.key.local.as_str());
    values.number(watcher.revision);
    values.add(i64::from(watcher.generation));
    values.add(to_json(&watcher.declared));
    values.add(to_json(&watcher.handlers));
    values.add(watcher.params.clone());
    values.add(watcher.max_fires_per_second.map(i64::from));
    values.add(watcher.max_chain.map(i64::from));
    values.add(watcher.state.to_string());
    values.add(watcher.error.as_deref());
    values.number(watcher.since_seq.0);
    values.add(watcher.created_at.ms());
    values.add(watcher.updated_at.ms());
    values.add(i64::from(watcher.last_generation));
    values.add(watcher.max_attempts.map(i64::from));
    values.add(watcher.max_age_ms.map(u64::cast_signed));
}

pub(super) fn bind_payload(values: &mut Values, (job, payload): &(JobNumber, &[u8])) {
    values.number(job.0);
    values.add(*payload);
}

/// What is known of who asked for it, after [`bind_job`].
pub(super) fn bind_asked(values: &mut Values, asked: &Asked) {
    values.add(asked.by.as_str());
    values.add(asked.owner.as_str());
    values.add(asked.source.clone());
    values.add(i64::from(asked.priority));
    values.add(asked.base_ms);
    values.add(asked.parent.map(|parent| parent.number.0.cast_signed()));
    values.add(asked.parent.as_ref().map(|parent| parent.id.0.as_slice()));
    values.add(asked.schedule.as_ref().map(|run| run.id.0.as_slice()));
    values.add(asked.schedule.and_then(|run| run.nominal).map(Timestamp::ms));
    values.add(asked.cost_estimate);
}

pub(super) fn bind_entry(values: &mut Values, row: &JobEntryRow) {
    values.number(row.job.0);
    values.add(i64::from(row.number));
    values.add(row.at.ms());
    values.add(i64::from(row.attempt));
    values.add(row.level.clone());
    values.add(row.stage.clone());
    values.add(row.message.clone());
    values.add(row.metadata.clone());
}

pub(super) fn bind_revision(values: &mut Values, row: &RevisionRow) {
    values.number(row.watcher.0);
    values.number(row.revision);
    values.add(i64::from(row.generation));
    values.add(to_json(&row.declared));
    values.add(to_json(&row.handlers));
    values.add(row.max_fires_per_second.map(i64::from));
    values.add(row.at.ms());
    values.add(row.leaf.map(|leaf| leaf.0.cast_signed()));
    values.number(row.since_seq.0);
    values.number(row.from_seq.0);
    values.add(row.retired_seq.map(|seq| seq.0.cast_signed()));
}

pub(super) fn bind_retired(
    values: &mut Values,
    (watcher, revision, seq): &(WatcherNumber, u64, Seq),
) {
    values.number(watcher.0);
    values.number(*revision);
    values.number(seq.0);
}

pub(super) fn bind_pass(values: &mut Values, row: &PassRow) {
    values.number(row.watcher.0);
    values.add(i64::from(row.generation));
    values.number(row.from_seq.0);
    values.add(row.until_seq.map(|seq| seq.0.cast_signed()));
    values.add(row.cursor.map(|cursor| cursor.0.cast_signed()));
    values.add(row.started_at.ms());
    values.add(row.ended_at.map(Timestamp::ms));
    values.add(row.stopped.as_deref());
}

pub(super) fn bind_cursor(values: &mut Values, row: &CursorRow) {
    values.number(row.number.0);
    values.number(row.seq.0);
}

pub(super) fn bind_hold(values: &mut Values, row: &HoldRow) {
    values.number(row.watcher.0);
    values.add(i64::from(row.number));
    values.add(row.kind.to_string());
    values.add(row.drops);
    values.add(row.at.ms());
    values.add(row.until.map(Timestamp::ms));
    values.number(row.from_seq.0);
    values.number(row.from_job.0);
    values.add(row.ended_at.map(Timestamp::ms));
    values.add(row.to_seq.map(|seq| seq.0.cast_signed()));
    values.add(row.to_job.map(|job| job.0.cast_signed()));
    values.add(i64::from(row.generation));
}

pub(super) fn bind_removed(values: &mut Values, row: &Removed) {
    values.number(row.seq.0);
    values.add(row.id.as_str());
    values.add(row.filled.code());
    values.add(row.content.as_deref());
}

pub(super) fn bind_alias(values: &mut Values, (seq, change): &(Seq, AliasChange)) {
    values.number(seq.0);
    values.add(match change.kind {
        AliasChangeKind::Link => 0,
        AliasChangeKind::Unlink => 1,
    });
    values.add(to_json(&change.words));
}

pub(super) fn bind_counters(values: &mut Values, (watcher, counters): &(WatcherNumber, Counters)) {
    values.number(watcher.0);
    values.number(counters.matches);
    values.number(counters.fires);
    values.number(counters.errors);
    values.add(counters.last_fired_at.map(Timestamp::ms));
}

pub(super) fn bind_audit(values: &mut Values, row: &AuditRow) {
    values.number(row.first_leaf.0);
    values.number(row.count);
    values.add(row.at.ms());
    values.add(row.records.clone());
    values.add(&*row.nodes);
    values.add(row.head.as_slice());
    values.add(audit_head_text(row.first_leaf.0 + row.count, &row.head));
}

/// Size and root of the audit as meta has them: `<size>:<64 hex digits>`.
fn audit_head_text(size: u64, root: &[u8; 32]) -> String {
    let mut text = format!("{size}:");
    for byte in root {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(super) const SELECT_AUDIT_HEAD: &str =
    "SELECT key, CAST(value AS TEXT) FROM meta WHERE key = 'audit_head'";

pub(super) fn read_audit_head(row: &SqliteRow) -> Result<(u64, [u8; 32]), StoreError> {
    let columns = Columns { table: &META, row };
    let text: &str = columns.get(1)?;
    columns.check(parse_audit_head(text).ok_or_else(|| format!("audit_head is {text:?}")))
}

fn parse_audit_head(text: &str) -> Option<(u64, [u8; 32])> {
    let (size, root) = text.split_once(':')?;
    Some((size.parse().ok()?, from_hex(root).ok()?.try_into().ok()?))
}

pub(super) fn bind_plugin(values: &mut Values, row: &PluginRow) {
    values.add(row.name.as_str());
    values.add(row.version.as_str());
    values.number(row.incarnation);
    values.add(row.up_at.map_or(0, Timestamp::ms));
    values.add(row.disabled_at.map(Timestamp::ms));
    values.add(i64::from(row.called_back));
    values.add(row.doubted_until.map(Timestamp::ms));
    values.add(i64::from(row.stored_handlers));
}

pub(super) fn bind_handler_change(values: &mut Values, row: &HandlerChangeRow) {
    values.number(row.seq.0);
    values.add(row.plugin.as_str());
    values.add(row.name.as_str());
    values.add(row.kind.as_str());
    values.number(row.version_number);
    values.add(row.version.as_str());
    values.number(row.version_seq.0);
    values.add(row.reason.as_str());
    values.add(row.by.as_str());
    values.add(row.at.ms());
}

pub(super) fn bind_schedule(values: &mut Values, row: &ScheduleRow) {
    let (cron, tz) = match &row.grid {
        Grid::Every { .. } => (None, None),
        Grid::Cron { text, tz } => (Some(text.clone()), Some(tz.clone())),
    };
    let seen: Vec<_> = row.seen.iter().map(|(first, last)| (first.ms(), last.ms())).collect();
    values.add(row.owner.as_str());
    values.add(row.name.as_str());
    values.add(row.handler.clone());
    values.add(row.grid.secs().map(i64::from));
    values.add(cron);
    values.add(tz);
    values.add(row.anchor.ms());
    values.add(row.payload.as_deref());
    values.add(row.missed.to_string());
    values.add(row.overlap.as_str());
    values.add(i64::from(row.jitter_secs));
    values.add(i64::from(row.enabled_by_default));
    values.add(row.description.as_str());
    values.add(row.ats_code.as_str());
    values.add(row.metadata.clone());
    values.add(row.state.as_str());
    values.add(row.declared_at.ms());
    values.add(row.changed_at.ms());
    values.add(row.retired_at.map(Timestamp::ms));
    values.add(to_json(&seen));
    values.add(row.last_nominal.map(Timestamp::ms));
    values.add(row.last_run_at.map(Timestamp::ms));
    values.add(row.last_job.as_ref().map(|job| job.0.as_slice()));
    values.add(row.by_call);
    values.add(row.was_paused);
}

pub(super) fn bind_run(values: &mut Values, row: &ScheduleRunRow) {
    values.add(row.schedule.0.as_slice());
    values.add(row.nominal.map(Timestamp::ms));
    values.add(row.upto.map(Timestamp::ms));
    values.number(row.count);
    values.add(row.at.ms());
    values.add(row.outcome.as_str());
    values.add(row.job.as_ref().map(|job| job.0.as_slice()));
}

pub(super) fn bind_budget(values: &mut Values, row: &BudgetRow) {
    let (plugin, handler) = match &row.scope {
        BudgetScope::All => ("", ""),
        BudgetScope::Plugin(plugin) => (plugin.as_str(), ""),
        BudgetScope::Handler(plugin, handler) => (plugin.as_str(), handler.as_str()),
    };
    values.add(plugin);
    values.add(handler);
    values.add(row.calls_per_minute.map(i64::from));
    for limit in [row.per_day, row.per_week, row.per_month] {
        values.add(limit);
    }
    values.add(row.set_by.as_str());
    values.add(row.changed_at.ms());
}

pub(super) fn bind_spend(values: &mut Values, row: &SpendRow) {
    values.add(row.minute);
    values.add(row.plugin.as_str());
    values.add(row.handler.as_str());
    values.add(row.nanos);
    values.add(i64::from(row.calls));
}

pub(super) fn bind_handler_spend(values: &mut Values, row: &HandlerSpendRow) {
    values.add(row.plugin.as_str());
    values.add(row.handler.as_str());
    values.add(row.dearest);
}

pub(super) fn bind_route(values: &mut Values, plugin: &PluginName, row: &RouteRow) {
    values.add(plugin.as_str());
    values.add(row.method.as_str());
    values.add(row.path.as_str());
    values.add(row.description.as_str());
}

pub(super) fn bind_refused(values: &mut Values, row: &(PluginName, Vec<RefusedRow>)) {
    values.add(row.0.as_str());
    values.add(to_json(&row.1));
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("lists and declarations are always JSON")
}

/// The array of [`attestation_text`].
#[derive(serde::Deserialize)]
struct AttestationText<'a> {
    seq: Seq,
    id: AttestationId,
    subjects: Vec<String>,
    predicates: Vec<String>,
    contexts: Vec<String>,
    actors: Vec<String>,
    timestamp: i64,
    created_at: i64,
    source: String,
    appended_by: String,
    filled: u8,
    #[serde(borrow)]
    attributes: Option<&'a RawValue>,
    signature: &'a str,
    unsigned: u8,
    signer_did: Option<String>,
    lineage: u8,
    root: Option<AttestationId>,
    parent_job: &'a str,
    depth: u32,
    chain: Vec<Option<WatcherNumber>>,
}

impl AttestationText<'_> {
    fn decode(self) -> Result<Stored, String> {
        let attestation = Attestation {
            id: self.id,
            subjects: self.subjects,
            predicates: self.predicates,
            contexts: self.contexts,
            actors: self.actors,
            timestamp: Timestamp::from_ms(self.timestamp).map_err(shown)?,
            created_at: Timestamp::from_ms(self.created_at).map_err(shown)?,
            source: self.source,
            attributes: self.attributes.map(|raw| Attributes::trusted(raw.get().into())),
            signature: (self.unsigned == 0).then(|| from_hex(self.signature)).transpose()?,
            signer_did: self.signer_did,
        };
        let lineage = Lineage {
            kind: LineageKind::from_code(self.lineage)
                .ok_or_else(|| format!("{} is no kind of lineage", self.lineage))?,
            root: self.root,
            parent_job: match self.parent_job {
                "" => None,
                job => Some(job.parse::<JobId>().map_err(shown)?),
            },
            depth: self.depth,
            chain: self.chain,
        };
        Ok(Stored {
            seq: self.seq,
            attestation,
            appended_by: self.appended_by,
            filled: Filled::from_code(self.filled),
            lineage,
        })
    }
}

pub(super) fn read_attestation(row: &SqliteRow) -> Result<Stored, StoreError> {
    decode(&ATTESTATIONS, row, |_, text| {
        serde_json::from_str::<AttestationText<'_>>(text).map_err(shown)?.decode()
    })
}

/// The rows of [`Select::together`].
pub(super) struct Together {
    pub rows: Vec<Stored>,
    /// The numbers of those that are large.
    pub large: Vec<Seq>,
}

/// `None` where a row does not decode; which one it is tells reading them row by row.
pub(super) fn read_together(row: &SqliteRow) -> Option<Together> {
    let found: Vec<Found<'_>> = serde_json::from_str(row.try_get(0).ok()?).ok()?;
    let mut together = Together { rows: Vec::with_capacity(found.len()), large: Vec::new() };
    for found in found {
        match found {
            Found::Text(text) => together.rows.push(text.decode().ok()?),
            Found::Large(seq) => together.large.push(seq),
        }
    }
    Some(together)
}

enum Found<'a> {
    Text(Box<AttestationText<'a>>),
    Large(Seq),
}

impl<'de> Deserialize<'de> for Found<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FoundVisitor)
    }
}

/// Tells an array from a number without reading twice.
struct FoundVisitor;

impl<'de> Visitor<'de> for FoundVisitor {
    type Value = Found<'de>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a row or its number")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, fields: A) -> Result<Found<'de>, A::Error> {
        let text = AttestationText::deserialize(SeqAccessDeserializer::new(fields))?;
        Ok(Found::Text(Box::new(text)))
    }

    fn visit_u64<E>(self, seq: u64) -> Result<Found<'de>, E> {
        Ok(Found::Large(Seq(seq)))
    }
}

/// The array of [`select_jobs`].
#[derive(serde::Deserialize)]
struct JobText {
    id: JobId,
    origin: u8,
    watcher: Option<WatcherNumber>,
    revision: u64,
    generation: u32,
    seq: Option<Seq>,
    handler: Arc<str>,
    plugin: Option<axwatch_model::PluginName>,
    state: u8,
    attempts: u32,
    counted: u32,
    uncounted: u32,
    created_at: i64,
    first_counted_at: Option<i64>,
    started_at: Option<i64>,
    completed_at: Option<i64>,
    due_at: Option<i64>,
    delay_ms: u64,
    error: Option<String>,
    progress_done: Option<i32>,
    progress_total: Option<i32>,
    leaves: Vec<LeafNumber>,
    entries: u32,
    entries_bytes: u32,
    asked: Option<AskedText>,
}

/// The array of [`asked_text`].
#[derive(serde::Deserialize)]
struct AskedText {
    by: String,
    owner: String,
    source: Arc<str>,
    priority: i8,
    base_ms: i64,
    parent: Option<JobNumber>,
    parent_id: String,
    schedule: String,
    nominal: Option<i64>,
}

impl AskedText {
    fn decode(self, cost_estimate: Option<f64>) -> Result<Asked, String> {
        let parent = match self.parent {
            None => None,
            Some(number) => Some(Parent { number, id: self.parent_id.parse().map_err(shown)? }),
        };
        if cost_estimate.is_some_and(|cost| !cost.is_finite() || cost < 0.0) {
            return Err("its estimated cost is no amount".to_owned());
        }
        let nominal = self.nominal.map(Timestamp::from_ms).transpose().map_err(shown)?;
        let schedule = match &*self.schedule {
            "" => None,
            id => Some(ScheduleRun { id: id.parse().map_err(shown)?, nominal }),
        };
        Ok(Asked {
            by: self.by.parse().map_err(shown)?,
            owner: self.owner.parse().map_err(shown)?,
            source: self.source,
            priority: self.priority,
            base_ms: self.base_ms,
            parent,
            schedule,
            cost_estimate,
        })
    }
}

pub(super) fn read_job(row: &SqliteRow) -> Result<JobRow, StoreError> {
    decode(&JOBS, row, |number, text| job_of(number, text, row))
}

/// What a job has besides its text, however its row was read.
pub(super) trait JobColumns {
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, String>;
    fn real(&self, column: usize) -> Result<Option<f64>, String>;
}

impl JobColumns for SqliteRow {
    fn bytes(&self, column: usize) -> Result<Option<&[u8]>, String> {
        self.try_get(column).map_err(shown)
    }

    fn real(&self, column: usize) -> Result<Option<f64>, String> {
        self.try_get(column).map_err(shown)
    }
}

/// The job of a row of [`select_jobs`].
pub(super) fn job_of(number: u64, text: &str, row: &impl JobColumns) -> Result<JobRow, String> {
    let text: JobText = serde_json::from_str(text).map_err(shown)?;
    let time = |ms: Option<i64>| ms.map(Timestamp::from_ms).transpose().map_err(shown);
    let bytes = |column: usize| row.bytes(column).map(|bytes| bytes.map(Arc::from));
    Ok(JobRow {
        number: JobNumber(number),
        id: text.id,
        origin: JobOrigin::from_code(text.origin)
            .ok_or_else(|| format!("{} is no origin", text.origin))?,
        watcher: text.watcher,
        revision: text.revision,
        generation: text.generation,
        seq: text.seq,
        handler: text.handler,
        plugin: text.plugin,
        payload: bytes(2)?,
        state: JobState::from_code(text.state)
            .ok_or_else(|| format!("{} is no state", text.state))?,
        attempts: text.attempts,
        counted: text.counted,
        uncounted: text.uncounted,
        created_at: Timestamp::from_ms(text.created_at).map_err(shown)?,
        first_counted_at: time(text.first_counted_at)?,
        started_at: time(text.started_at)?,
        completed_at: time(text.completed_at)?,
        due_at: time(text.due_at)?,
        delay_ms: text.delay_ms,
        error: text.error,
        result: bytes(3)?,
        progress: text.progress_done.zip(text.progress_total),
        cost: row.real(4)?,
        entries: text.entries,
        entries_bytes: text.entries_bytes,
        leaves: text.leaves,
        asked: match text.asked {
            Some(asked) => Some(Box::new(asked.decode(row.real(5)?)?)),
            None => None,
        },
    })
}

pub(super) const SELECT_OPEN_ASKED: &str = concat!(
    "SELECT number, concat('[\"',hex(id),'\",',json_quote(handler),',',json_quote(plugin),',',state,",
    "',',",
    asked_text!(),
    ",']'), cost_estimate FROM jobs WHERE number > ? AND asker IS NOT NULL AND ",
    is_open_asked!(),
    " ORDER BY number LIMIT ?"
);

/// The array of [`SELECT_OPEN_ASKED`].
#[derive(serde::Deserialize)]
struct OpenAskedText {
    id: JobId,
    handler: Arc<str>,
    plugin: Option<PluginName>,
    state: u8,
    asked: AskedText,
}

pub(super) fn read_open_asked(row: &SqliteRow) -> Result<OpenAsked, StoreError> {
    decode(&JOBS, row, |number, text| {
        let text: OpenAskedText = serde_json::from_str(text).map_err(shown)?;
        Ok(OpenAsked {
            number: JobNumber(number),
            id: text.id,
            handler: text.handler,
            plugin: text.plugin,
            state: JobState::from_code(text.state)
                .ok_or_else(|| format!("{} is no state", text.state))?,
            asked: text.asked.decode(row.try_get(2).map_err(shown)?)?,
        })
    })
}

/// From the parents of open jobs upwards. By the plus, SQLite goes through the open jobs, and not through every
/// child that there ever was.
pub(super) const SELECT_OPEN_ANCESTORS: &str = concat!(
    "WITH RECURSIVE up (number) AS (SELECT parent FROM jobs WHERE number > 0 \
     AND +parent IS NOT NULL AND ",
    is_open_asked!(),
    " UNION SELECT parent FROM jobs JOIN up ON jobs.number = up.number WHERE parent IS NOT NULL) \
     SELECT jobs.number, id, parent, parent_id, state FROM up JOIN jobs ON jobs.number = up.number \
     WHERE state NOT IN (0, 1, 2) ORDER BY jobs.number"
);

pub(super) fn read_ancestor(row: &SqliteRow) -> Result<Ancestor, StoreError> {
    let columns = Columns { table: &JOBS, row };
    let parent = match columns.optional(2)? {
        None => None,
        Some(number) => Some(Parent { number: JobNumber(number), id: columns.job_id(3)? }),
    };
    let state = columns.get::<u8>(4)?;
    let state = JobState::from_code(state).ok_or_else(|| format!("{state} is no state"));
    Ok(Ancestor {
        number: JobNumber(columns.number(0)?),
        id: columns.job_id(1)?,
        state: columns.check(state)?,
        parent,
    })
}

macro_rules! select_entries {
    ($rest:literal) => {
        concat!(
            "SELECT job, number, at, attempt, level, stage, message, metadata FROM job_entries ",
            $rest
        )
    };
}

pub(super) const SELECT_ENTRIES: &str =
    select_entries!("WHERE job = ? AND number > ? ORDER BY number LIMIT ?");

pub(super) fn read_entry(row: &SqliteRow) -> Result<JobEntryRow, StoreError> {
    let columns = Columns { table: &ENTRIES, row };
    let text = |column| columns.get::<&str>(column).map(Arc::from);
    Ok(JobEntryRow {
        job: JobNumber(columns.number(0)?),
        number: columns.get(1)?,
        at: columns.time(2)?,
        attempt: columns.get(3)?,
        level: text(4)?,
        stage: text(5)?,
        message: text(6)?,
        metadata: columns.get::<Option<&str>>(7)?.map(Arc::from),
    })
}

/// Watchers are few: their columns are read one by one.
macro_rules! select_watchers {
    ($rest:literal) => {
        concat!(
            "SELECT number, owner, local_id, revision, generation, declared, handlers, params, ",
            "max_fires_per_second, max_chain, state, error, since_seq, created_at, updated_at, ",
            "last_generation, max_attempts, max_age_ms FROM watchers ",
            $rest
        )
    };
}

pub(super) const SELECT_WATCHERS: &str =
    select_watchers!("WHERE number > ? ORDER BY number LIMIT ?");

pub(super) const SELECT_WATCHERS_BETWEEN: &str =
    select_watchers!("WHERE number BETWEEN ? AND ? ORDER BY number");

pub(super) fn read_watcher(row: &SqliteRow) -> Result<WatcherRow, StoreError> {
    let columns = Columns { table: &WATCHERS, row };
    let (owner, local): (&str, &str) = (columns.get(1)?, columns.get(2)?);
    let (declared, handlers): (&str, &str) = (columns.get(5)?, columns.get(6)?);
    let handlers: Arc<[HandlerRef]> = columns.check(serde_json::from_str(handlers))?;
    Ok(WatcherRow {
        number: WatcherNumber(columns.number(0)?),
        key: WatcherKey {
            owner: columns.check(owner.parse())?,
            local: columns.check(local.parse())?,
        },
        revision: columns.number(3)?,
        generation: columns.get(4)?,
        last_generation: columns.get(15)?,
        declared: columns.check(serde_json::from_str(declared))?,
        handlers,
        params: columns.get::<Option<&str>>(7)?.map(Arc::from),
        max_fires_per_second: columns.get(8)?,
        max_chain: columns.get(9)?,
        max_attempts: columns.get(16)?,
        max_age_ms: columns.optional(17)?,
        state: columns.check(columns.get::<&str>(10)?.parse())?,
        error: columns.get(11)?,
        since_seq: Seq(columns.number(12)?),
        created_at: columns.time(13)?,
        updated_at: columns.time(14)?,
    })
}

macro_rules! select_revisions {
    ($rest:literal) => {
        concat!(
            "SELECT revision, watcher, generation, declared, handlers, max_fires_per_second, at, ",
            "leaf, since_seq, from_seq, retired_seq FROM watcher_revisions ",
            $rest
        )
    };
}

pub(super) const SELECT_REVISIONS: &str =
    select_revisions!("WHERE watcher BETWEEN ? AND ? ORDER BY watcher, revision");

pub(super) fn read_revision(row: &SqliteRow) -> Result<RevisionRow, StoreError> {
    let columns = Columns { table: &REVISIONS, row };
    let (declared, handlers): (&str, &str) = (columns.get(3)?, columns.get(4)?);
    Ok(RevisionRow {
        watcher: WatcherNumber(columns.number(1)?),
        revision: columns.number(0)?,
        generation: columns.get(2)?,
        declared: columns.check(serde_json::from_str(declared))?,
        handlers: columns.check(serde_json::from_str(handlers))?,
        max_fires_per_second: columns.get(5)?,
        at: columns.time(6)?,
        leaf: columns.optional(7)?.map(LeafNumber),
        since_seq: Seq(columns.number(8)?),
        from_seq: Seq(columns.number(9)?),
        retired_seq: columns.optional(10)?.map(Seq),
    })
}

/// Reads passes, each with where its cursor is.
macro_rules! select_passes {
    ($rest:literal) => {
        concat!(
            "SELECT watcher, generation, from_seq, until_seq, cursor, started_at, ended_at, stopped, ",
            "seq FROM passes LEFT JOIN cursors ON cursors.number = passes.cursor ",
            $rest
        )
    };
}

pub(super) const SELECT_OPEN_PASSES: &str =
    select_passes!("WHERE cursor IS NOT NULL ORDER BY watcher, generation");

pub(super) const SELECT_PASSES_OF: &str = select_passes!("WHERE watcher = ? ORDER BY generation");

pub(super) fn read_pass(row: &SqliteRow) -> Result<(PassRow, Option<Seq>), StoreError> {
    let columns = Columns { table: &PASSES, row };
    let pass = PassRow {
        watcher: WatcherNumber(columns.number(0)?),
        generation: columns.get(1)?,
        from_seq: Seq(columns.number(2)?),
        until_seq: columns.optional(3)?.map(Seq),
        cursor: columns.optional(4)?.map(CursorNumber),
        started_at: columns.time(5)?,
        ended_at: columns.optional_time(6)?,
        stopped: columns.get(7)?,
    };
    let seq = columns.optional(8)?.map(Seq);
    match pass.cursor {
        Some(cursor) if seq.is_none() => {
            Err(columns.wrong(format!("its cursor {} is nowhere", cursor.0)))
        }
        _ => Ok((pass, seq)),
    }
}

/// Reads holds.
macro_rules! select_holds {
    ($rest:literal) => {
        concat!(
            "SELECT watcher, number, kind, drops, at, until, from_seq, from_job, ended_at, to_seq, ",
            "to_job, generation FROM holds ",
            $rest
        )
    };
}

pub(super) const SELECT_OPEN_HOLDS: &str = select_holds!(
    "WHERE ended_at IS NULL OR drops OR (watcher, number) IN \
     (SELECT watcher, max(number) FROM holds GROUP BY watcher)"
);

pub(super) const SELECT_HOLDS_OF: &str = select_holds!("WHERE watcher = ? ORDER BY number");

pub(super) fn read_hold(row: &SqliteRow) -> Result<HoldRow, StoreError> {
    let columns = Columns { table: &HOLDS, row };
    let kind = columns.check(columns.get::<&str>(2)?.parse())?;
    if !matches!(kind, WatcherState::Paused | WatcherState::Muted) {
        return Err(columns.wrong(format!("{kind} is no kind of hold")));
    }
    Ok(HoldRow {
        watcher: WatcherNumber(columns.number(0)?),
        number: columns.get(1)?,
        generation: columns.get(11)?,
        kind,
        drops: columns.get(3)?,
        at: columns.time(4)?,
        until: columns.optional_time(5)?,
        from_seq: Seq(columns.number(6)?),
        from_job: JobNumber(columns.number(7)?),
        ended_at: columns.optional_time(8)?,
        to_seq: columns.optional(9)?.map(Seq),
        to_job: columns.optional(10)?.map(JobNumber),
    })
}

macro_rules! select_aliases {
    ($rest:literal) => {
        concat!("SELECT seq, kind, words FROM aliases ", $rest)
    };
}

pub(super) const SELECT_ALIASES: &str = select_aliases!("WHERE seq > ? ORDER BY seq");

pub(super) fn read_alias(row: &SqliteRow) -> Result<(Seq, AliasChange), StoreError> {
    let columns = Columns { table: &ALIASES, row };
    let kind = match columns.get::<i64>(1)? {
        0 => AliasChangeKind::Link,
        1 => AliasChangeKind::Unlink,
        other => return Err(columns.wrong(format!("there is no kind {other}"))),
    };
    let words = columns.check(serde_json::from_str(columns.get(2)?))?;
    Ok((Seq(columns.number(0)?), AliasChange { kind, words }))
}

macro_rules! select_counters {
    ($rest:literal) => {
        concat!(
            "SELECT watcher, matches, fires, errors, last_fired_at FROM watcher_counters ",
            $rest
        )
    };
}

pub(super) const SELECT_COUNTERS: &str = select_counters!("ORDER BY watcher");

pub(super) fn read_counters(row: &SqliteRow) -> Result<(WatcherNumber, Counters), StoreError> {
    let columns = Columns { table: &COUNTERS, row };
    let counters = Counters {
        matches: columns.number(1)?,
        fires: columns.number(2)?,
        errors: columns.number(3)?,
        last_fired_at: columns.optional_time(4)?,
    };
    Ok((WatcherNumber(columns.number(0)?), counters))
}

/// Reads rows of the audit.
macro_rules! select_audit {
    ($rest:literal) => {
        concat!("SELECT first_leaf, count, at, records, nodes, head FROM audit ", $rest)
    };
}
pub(super) use select_audit;

pub(super) fn read_audit(row: &SqliteRow) -> Result<AuditRow, StoreError> {
    let columns = Columns { table: &AUDIT, row };
    Ok(AuditRow {
        first_leaf: LeafNumber(columns.number(0)?),
        count: columns.number(1)?,
        at: columns.time(2)?,
        records: columns.get::<&str>(3)?.into(),
        nodes: columns.get::<&[u8]>(4)?.into(),
        head: columns.check(columns.get::<&[u8]>(5)?.try_into())?,
    })
}

macro_rules! select_plugins {
    ($rest:literal) => {
        concat!(
            "SELECT name, version, incarnation, up_at, disabled_at, called_back, doubted_until, ",
            "stored_handlers FROM plugins ",
            $rest
        )
    };
}

pub(super) const SELECT_PLUGINS: &str = select_plugins!("ORDER BY name");

pub(super) fn read_plugin(row: &SqliteRow) -> Result<PluginRow, StoreError> {
    let columns = Columns { table: &PLUGINS, row };
    Ok(PluginRow {
        name: columns.check(columns.get::<&str>(0)?.parse())?,
        version: columns.get(1)?,
        incarnation: columns.exact(2)?,
        up_at: columns.optional_time(3)?.filter(|at| at.ms() != 0),
        disabled_at: columns.optional_time(4)?,
        called_back: columns.get::<i64>(5)? != 0,
        doubted_until: columns.optional_time(6)?,
        stored_handlers: columns.get::<i64>(7)? != 0,
    })
}

macro_rules! select_handler_changes {
    ($rest:literal) => {
        concat!(
            "SELECT seq, plugin, name, kind, version_number, version, version_seq, reason, ",
            "appended_by, at FROM handler_changes ",
            $rest
        )
    };
}

pub(super) const SELECT_STORED_HANDLERS: &str = select_handler_changes!(
    "WHERE seq IN (SELECT max(seq) FROM handler_changes GROUP BY plugin, name) ORDER BY plugin, name"
);

pub(super) const SELECT_HANDLER_CHANGES: &str =
    select_handler_changes!("WHERE plugin = ? AND name = ? AND seq < ? ORDER BY seq DESC LIMIT ?");

pub(super) fn read_handler_change(row: &SqliteRow) -> Result<HandlerChangeRow, StoreError> {
    let columns = Columns { table: &HANDLER_CHANGES, row };
    let kind: &str = columns.get(3)?;
    let unknown = || columns.wrong(format!("there is no kind {kind:?}"));
    Ok(HandlerChangeRow {
        seq: Seq(columns.number(0)?),
        plugin: columns.check(columns.get::<&str>(1)?.parse())?,
        name: columns.check(columns.get::<&str>(2)?.parse())?,
        kind: HandlerChangeKind::from_name(kind).ok_or_else(unknown)?,
        version_number: columns.exact(4)?,
        version: columns.check(columns.get::<&str>(5)?.parse())?,
        version_seq: Seq(columns.number(6)?),
        reason: columns.get(7)?,
        by: columns.get(8)?,
        at: columns.time(9)?,
    })
}

/// Reads schedules, each with the id of the store, from which its own follows.
macro_rules! select_schedules {
    ($rest:literal) => {
        concat!(
            "SELECT owner, name, handler, interval_secs, cron, tz, anchor, payload, missed, overlap, ",
            "jitter_secs, enabled_by_default, description, ats_code, metadata, state, declared_at, ",
            "changed_at, retired_at, seen, last_nominal, last_run_at, last_job, by_call, was_paused, ",
            "(SELECT value FROM meta WHERE key = 'store_id') FROM schedules ",
            $rest
        )
    };
}

pub(super) const SELECT_SCHEDULES: &str = select_schedules!("ORDER BY owner, name");

pub(super) fn read_schedule(row: &SqliteRow) -> Result<ScheduleRow, StoreError> {
    let columns = Columns { table: &SCHEDULES, row };
    let store = columns.check(columns.get::<&str>(25)?.parse())?;
    let owner = columns.check(columns.get::<&str>(0)?.parse())?;
    let name = columns.check(columns.get::<&str>(1)?.parse())?;
    let last_job = match columns.get::<Option<&[u8]>>(22)? {
        None => None,
        Some(_) => Some(columns.job_id(22)?),
    };
    Ok(ScheduleRow {
        id: ScheduleId::of(store, &owner, &name),
        owner,
        name,
        handler: columns.handler(2)?,
        grid: read_grid(&columns)?,
        anchor: columns.time(6)?,
        payload: columns.get::<Option<&[u8]>>(7)?.map(Arc::from),
        missed: columns.check(columns.get::<&str>(8)?.parse())?,
        overlap: columns.check(columns.get::<&str>(9)?.parse())?,
        jitter_secs: columns.check(u32::try_from(columns.number(10)?))?,
        enabled_by_default: columns.get::<i64>(11)? != 0,
        description: columns.get(12)?,
        ats_code: columns.get(13)?,
        metadata: columns.get::<Option<&str>>(14)?.map(Arc::from),
        by_call: columns.get::<i64>(23)? != 0,
        state: columns.check(columns.get::<&str>(15)?.parse())?,
        declared_at: columns.time(16)?,
        changed_at: columns.time(17)?,
        retired_at: columns.optional_time(18)?,
        was_paused: columns.get::<i64>(24)? != 0,
        seen: columns.check(read_seen(columns.get(19)?))?,
        last_nominal: columns.optional_time(20)?,
        last_run_at: columns.optional_time(21)?,
        last_job,
    })
}

fn read_grid(columns: &Columns<'_>) -> Result<Grid, StoreError> {
    match (columns.optional(3)?, columns.get::<Option<&str>>(4)?, columns.get::<Option<&str>>(5)?) {
        (Some(secs), None, None) => Ok(Grid::Every { secs: columns.check(u32::try_from(secs))? }),
        (None, Some(text), Some(tz)) => Ok(Grid::Cron { text: text.into(), tz: tz.into() }),
        _ => {
            Err(columns.wrong("it has neither an interval nor a line of cron, or both".to_owned()))
        }
    }
}

fn read_seen(text: &str) -> Result<Vec<(Timestamp, Timestamp)>, String> {
    let ranges: Vec<(i64, i64)> = serde_json::from_str(text).map_err(shown)?;
    let time = |ms: i64| Timestamp::from_ms(ms).map_err(shown);
    ranges.into_iter().map(|(first, last)| Ok((time(first)?, time(last)?))).collect()
}

macro_rules! select_runs {
    ($rest:literal) => {
        concat!(
            "SELECT number, schedule, nominal, upto, count, at, outcome, job FROM schedule_runs ",
            $rest
        )
    };
}

pub(super) const SELECT_RUNS: &str =
    select_runs!("WHERE schedule = ? AND number < ? ORDER BY number DESC LIMIT ?");

pub(super) fn read_run(row: &SqliteRow) -> Result<(u64, ScheduleRunRow), StoreError> {
    let columns = Columns { table: &RUNS, row };
    let job = match columns.get::<Option<&[u8]>>(7)? {
        None => None,
        Some(_) => Some(columns.job_id(7)?),
    };
    let run = ScheduleRunRow {
        schedule: ScheduleId(columns.check(columns.get::<&[u8]>(1)?.try_into())?),
        nominal: columns.optional_time(2)?,
        upto: columns.optional_time(3)?,
        count: columns.number(4)?,
        at: columns.time(5)?,
        outcome: columns.check(columns.get::<&str>(6)?.parse())?,
        job,
    };
    Ok((columns.number(0)?, run))
}

macro_rules! select_budgets {
    ($rest:literal) => {
        concat!(
            "SELECT plugin, handler, calls_per_minute, per_day, per_week, per_month, set_by, ",
            "changed_at FROM budgets ",
            $rest
        )
    };
}

pub(super) const SELECT_BUDGETS: &str = select_budgets!("ORDER BY handler <> '', plugin, handler");

pub(super) fn read_budget(row: &SqliteRow) -> Result<BudgetRow, StoreError> {
    let columns = Columns { table: &BUDGETS, row };
    let (plugin, handler): (&str, &str) = (columns.get(0)?, columns.get(1)?);
    let scope = match (plugin, handler) {
        ("", "") => BudgetScope::All,
        (plugin, "") => BudgetScope::Plugin(columns.check(plugin.parse())?),
        (plugin, handler) => {
            BudgetScope::Handler(columns.check(plugin.parse())?, columns.check(handler.parse())?)
        }
    };
    Ok(BudgetRow {
        scope,
        calls_per_minute: columns.check(columns.optional(2)?.map(u32::try_from).transpose())?,
        per_day: columns.optional_amount(3)?,
        per_week: columns.optional_amount(4)?,
        per_month: columns.optional_amount(5)?,
        set_by: columns.get(6)?,
        changed_at: columns.time(7)?,
    })
}

macro_rules! select_spends {
    ($rest:literal) => {
        concat!("SELECT minute, plugin, handler, nanos, calls FROM spend ", $rest)
    };
}

pub(super) const SELECT_SPENDS: &str =
    select_spends!("WHERE minute >= ? ORDER BY minute, plugin, handler");

pub(super) fn read_spend(row: &SqliteRow) -> Result<SpendRow, StoreError> {
    let columns = Columns { table: &SPENDS, row };
    Ok(SpendRow {
        minute: columns.get(0)?,
        plugin: columns.check(columns.get::<&str>(1)?.parse())?,
        handler: columns.check(columns.get::<&str>(2)?.parse())?,
        nanos: columns.get(3)?,
        calls: columns.check(u32::try_from(columns.number(4)?))?,
    })
}

macro_rules! select_handler_spends {
    ($rest:literal) => {
        concat!("SELECT plugin, handler, dearest FROM handler_spend ", $rest)
    };
}

pub(super) const SELECT_HANDLER_SPENDS: &str = select_handler_spends!("ORDER BY plugin, handler");

pub(super) fn read_handler_spend(row: &SqliteRow) -> Result<HandlerSpendRow, StoreError> {
    let columns = Columns { table: &HANDLER_SPENDS, row };
    let dearest = columns.optional_amount(2)?;
    Ok(HandlerSpendRow {
        plugin: columns.check(columns.get::<&str>(0)?.parse())?,
        handler: columns.check(columns.get::<&str>(1)?.parse())?,
        dearest: dearest.ok_or_else(|| columns.wrong("it says nothing".to_owned()))?,
    })
}

macro_rules! select_routes {
    ($rest:literal) => {
        concat!("SELECT plugin, method, path, description FROM routes ", $rest)
    };
}

pub(super) const SELECT_ROUTES: &str = select_routes!("ORDER BY plugin, method, path");

pub(super) fn read_route(row: &SqliteRow) -> Result<(PluginName, RouteRow), StoreError> {
    let columns = Columns { table: &ROUTES, row };
    let plugin = columns.check(columns.get::<&str>(0)?.parse())?;
    let (method, path) = (columns.get(1)?, columns.get(2)?);
    Ok((plugin, RouteRow { method, path, description: columns.get(3)? }))
}

macro_rules! select_refused {
    ($rest:literal) => {
        concat!("SELECT plugin, parts FROM refused ", $rest)
    };
}

pub(super) const SELECT_REFUSED: &str = select_refused!("ORDER BY plugin");

pub(super) fn read_refused(row: &SqliteRow) -> Result<(PluginName, Vec<RefusedRow>), StoreError> {
    let columns = Columns { table: &REFUSED, row };
    let plugin = columns.check(columns.get::<&str>(0)?.parse())?;
    Ok((plugin, columns.check(serde_json::from_str(columns.get(1)?))?))
}

macro_rules! select_handlers {
    ($rest:literal) => {
        concat!("SELECT plugin, name FROM handlers ", $rest)
    };
}

pub(super) const SELECT_HANDLERS: &str = select_handlers!("ORDER BY plugin, name");

pub(super) fn read_handler(row: &SqliteRow) -> Result<axwatch_model::HandlerRow, StoreError> {
    let columns = Columns { table: &HANDLERS, row };
    Ok(axwatch_model::HandlerRow {
        plugin: columns.check(columns.get::<&str>(0)?.parse())?,
        name: columns.check(columns.get::<&str>(1)?.parse())?,
    })
}

/// Whole numbers up to here are told exactly by JSON everywhere: 2^53 - 1.
const EXACT_MAX: u64 = (1 << 53) - 1;

/// A table whose rows are known by their keys, and how one of them is read.
pub(super) struct Table {
    pub name: &'static str,
    /// The columns of its key.
    pub key: &'static [&'static str],
    /// Whether these are texts; else they are numbers.
    pub has_names: bool,
    /// Reads its rows; the key is among the columns.
    pub select: &'static str,
    /// Decodes one.
    pub check: fn(&SqliteRow) -> Result<(), StoreError>,
}

impl Table {
    const fn new(
        name: &'static str,
        key: &'static [&'static str],
        select: &'static str,
        check: fn(&SqliteRow) -> Result<(), StoreError>,
    ) -> Table {
        Table { name, key, has_names: false, select, check }
    }

    /// The key of a row, as [`StoreError::Row`] has it.
    pub fn key_of(&self, row: &SqliteRow) -> String {
        let part = |column: &&str| match self.has_names {
            true => {
                let bytes: &[u8] = row.try_get_unchecked(*column).unwrap_or_default();
                serde_json::Value::from(String::from_utf8_lossy(bytes))
            }
            false => row.try_get::<i64, _>(*column).unwrap_or(-1).into(),
        };
        let mut parts: Vec<_> = self.key.iter().map(part).collect();
        match (parts.len(), parts.pop()) {
            (1, Some(serde_json::Value::String(name))) => name,
            (1, Some(number)) => number.to_string(),
            (_, last) => {
                parts.extend(last);
                serde_json::Value::from(parts).to_string()
            }
        }
    }
}

macro_rules! checks {
    ($read:path) => {
        |row| $read(row).map(drop)
    };
}

pub(super) static ATTESTATIONS: Table = Table::new(
    "attestations",
    &["seq"],
    select_attestations!("ifnull(attributes,'null')", ""),
    checks!(read_attestation),
);
pub(super) static JOBS: Table =
    Table::new("jobs", &["number"], select_jobs!(""), checks!(read_job));
pub(super) static WATCHERS: Table =
    Table::new("watchers", &["number"], select_watchers!(""), checks!(read_watcher));
pub(super) static REVISIONS: Table = Table::new(
    "watcher_revisions",
    &["watcher", "revision"],
    select_revisions!(""),
    checks!(read_revision),
);
pub(super) static COUNTERS: Table =
    Table::new("watcher_counters", &["watcher"], select_counters!(""), checks!(read_counters));
pub(super) static PASSES: Table =
    Table::new("passes", &["watcher", "generation"], select_passes!(""), checks!(read_pass));
pub(super) static CURSORS: Table =
    Table::new("cursors", &["number"], "SELECT number, seq FROM cursors ", checks!(read_cursor));
pub(super) static HOLDS: Table =
    Table::new("holds", &["watcher", "number"], select_holds!(""), checks!(read_hold));
pub(super) static ALIASES: Table =
    Table::new("aliases", &["seq"], select_aliases!(""), checks!(read_alias));
pub(super) static PLUGINS: Table = Table {
    has_names: true,
    ..Table::new("plugins", &["name"], select_plugins!(""), checks!(read_plugin))
};
pub(super) static HANDLER_CHANGES: Table = Table::new(
    "handler_changes",
    &["seq"],
    select_handler_changes!(""),
    checks!(read_handler_change),
);
pub(super) static HANDLERS: Table = Table {
    has_names: true,
    ..Table::new("handlers", &["plugin", "name"], select_handlers!(""), checks!(read_handler))
};
pub(super) static SCHEDULES: Table = Table {
    has_names: true,
    ..Table::new("schedules", &["owner", "name"], select_schedules!(""), checks!(read_schedule))
};
pub(super) static ENTRIES: Table =
    Table::new("job_entries", &["job", "number"], select_entries!(""), checks!(read_entry));
pub(super) static RUNS: Table =
    Table::new("schedule_runs", &["number"], select_runs!(""), checks!(read_run));
pub(super) static BUDGETS: Table = Table {
    has_names: true,
    ..Table::new("budgets", &["plugin", "handler"], select_budgets!(""), checks!(read_budget))
};
/// Its minutes count as names: whole numbers as text.
pub(super) static SPENDS: Table = Table {
    has_names: true,
    ..Table::new("spend", &["minute", "plugin", "handler"], select_spends!(""), checks!(read_spend))
};
pub(super) static HANDLER_SPENDS: Table = Table {
    has_names: true,
    ..Table::new(
        "handler_spend",
        &["plugin", "handler"],
        select_handler_spends!(""),
        checks!(read_handler_spend),
    )
};
pub(super) static ROUTES: Table = Table {
    has_names: true,
    ..Table::new("routes", &["plugin", "method", "path"], select_routes!(""), checks!(read_route))
};
pub(super) static REFUSED: Table = Table {
    has_names: true,
    ..Table::new("refused", &["plugin"], select_refused!(""), checks!(read_refused))
};
pub(super) static REMOVED: Table = Table::new(
    "removed",
    &["seq"],
    "SELECT seq, id, filled, content FROM removed ",
    checks!(read_removed),
);
/// Its rows are never put aside: that would break the chain that proves it.
pub(super) static AUDIT: Table =
    Table::new("audit", &["first_leaf"], select_audit!(""), checks!(read_audit));
static META: Table = Table {
    has_names: true,
    ..Table::new("meta", &["key"], SELECT_AUDIT_HEAD, checks!(read_audit_head))
};

/// All tables whose rows are put aside when they do not decode.
pub(super) static TABLES: [&Table; 21] = [
    &ATTESTATIONS,
    &JOBS,
    &ENTRIES,
    &WATCHERS,
    &REVISIONS,
    &COUNTERS,
    &CURSORS,
    &PASSES,
    &HOLDS,
    &ALIASES,
    &PLUGINS,
    &HANDLERS,
    &HANDLER_CHANGES,
    &SCHEDULES,
    &RUNS,
    &BUDGETS,
    &SPENDS,
    &HANDLER_SPENDS,
    &ROUTES,
    &REFUSED,
    &REMOVED,
];

fn read_cursor(row: &SqliteRow) -> Result<CursorRow, StoreError> {
    let columns = Columns { table: &CURSORS, row };
    Ok(CursorRow { number: CursorNumber(columns.number(0)?), seq: Seq(columns.number(1)?) })
}

pub(super) fn read_removed(row: &SqliteRow) -> Result<Removed, StoreError> {
    let columns = Columns { table: &REMOVED, row };
    let filled = Filled::from_code(columns.get(2)?);
    let content: Option<Vec<u8>> = columns.get(3)?;
    let bytes = content.as_ref().map(Vec::len);
    if bytes.is_some_and(|bytes| bytes != Removed::content_bytes(filled)) {
        return Err(columns.wrong("its content has the wrong length".to_owned()));
    }
    Ok(Removed {
        seq: Seq(columns.number(0)?),
        id: columns.check(columns.get::<&str>(1)?.parse())?,
        filled,
        content,
    })
}

fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn decode<T>(
    table: &'static Table,
    row: &SqliteRow,
    read: impl FnOnce(u64, &str) -> Result<T, String>,
) -> Result<T, StoreError> {
    let columns = Columns { table, row };
    let number = columns.number(0)?;
    read(number, columns.get(1)?).map_err(|reason| columns.wrong(reason))
}

/// A row's columns.
struct Columns<'r> {
    table: &'static Table,
    row: &'r SqliteRow,
}

impl<'r> Columns<'r> {
    fn get<T>(&self, column: usize) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        self.check(self.row.try_get(column))
    }

    fn number(&self, column: usize) -> Result<u64, StoreError> {
        let number: i64 = self.get(column)?;
        u64::try_from(number).map_err(|_| self.wrong(format!("{number} is negative")))
    }

    /// A number that the audit's JSON can tell exactly.
    fn exact(&self, column: usize) -> Result<u64, StoreError> {
        let number = self.number(column)?;
        if number > EXACT_MAX {
            return Err(self.wrong(format!("{number} is more than any count comes to")));
        }
        Ok(number)
    }

    fn optional(&self, column: usize) -> Result<Option<u64>, StoreError> {
        let number: Option<i64> = self.get(column)?;
        let negative = |number: i64| self.wrong(format!("{number} is negative"));
        number.map(|number| u64::try_from(number).map_err(|_| negative(number))).transpose()
    }

    fn optional_time(&self, column: usize) -> Result<Option<Timestamp>, StoreError> {
        self.check(self.get::<Option<i64>>(column)?.map(Timestamp::from_ms).transpose())
    }

    fn time(&self, column: usize) -> Result<Timestamp, StoreError> {
        self.check(Timestamp::from_ms(self.get(column)?))
    }

    fn job_id(&self, column: usize) -> Result<JobId, StoreError> {
        self.check(self.get::<&[u8]>(column)?.try_into()).map(JobId)
    }

    /// A handler with its plugin.
    fn handler(&self, column: usize) -> Result<Arc<str>, StoreError> {
        let text: &str = self.get(column)?;
        match self.check(HandlerName::parse_qualified(text))? {
            (Some(_), _) => Ok(text.into()),
            (None, _) => Err(self.wrong(format!("handler {text:?} names no plugin"))),
        }
    }

    fn optional_amount(&self, column: usize) -> Result<Option<f64>, StoreError> {
        let amount: Option<f64> = self.get(column)?;
        match amount {
            Some(amount) if !amount.is_finite() || amount < 0.0 => {
                Err(self.wrong(format!("{amount} is no amount")))
            }
            amount => Ok(amount),
        }
    }

    fn check<T, E: std::fmt::Display>(&self, outcome: Result<T, E>) -> Result<T, StoreError> {
        outcome.map_err(|error| self.wrong(error.to_string()))
    }

    fn wrong(&self, reason: String) -> StoreError {
        StoreError::Row { table: self.table.name, row: self.table.key_of(self.row), reason }
    }
}

fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes = text.as_bytes().chunks(2).map(|pair| match *pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    bytes.collect::<Option<Vec<u8>>>().ok_or_else(|| "the signature is not in hex".to_owned())
}
