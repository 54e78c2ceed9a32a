//! How our types become columns, and columns our types.
//!
//! A row is read as one JSON text made by SQLite, because every column that the driver hands over costs
//! as much as a small row; many rows of the log even as one text for all. A row that does not decode is [`StoreError::Row`], never a panic.

use std::fmt::Write as _;
use std::sync::Arc;

use axwatch_model::{
    Attestation, AttestationId, Attributes, Counters, CursorNumber, CursorRow, Filled, HandlerRef,
    HoldRow, JobId, JobNumber, JobOrigin, JobRow, JobState, LeafNumber, Lineage, LineageKind,
    PassRow, PluginName, PluginRow, RefusedRow, RevisionRow, RouteRow, ScheduleRow, Seq, Stored,
    Timestamp, WatcherKey, WatcherNumber, WatcherRow, WatcherState,
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

/// A job's row is always given whole, so a changed one simply takes the old one's place.
pub(super) static REPLACE_JOBS: Insert = Insert::new(
    "INSERT OR REPLACE INTO jobs (number,id,origin,watcher,revision,generation,seq,handler,plugin,\
     payload,state,attempts,counted,uncounted,created_at,first_counted_at,started_at,completed_at,\
     due_at,delay_ms,error,result,progress_done,progress_total,cost,leaves) VALUES ",
    26,
);

pub(super) static REPLACE_WATCHERS: Insert = Insert::new(
    "INSERT OR REPLACE INTO watchers (number,owner,local_id,revision,generation,declared,handlers,\
     params,max_fires_per_second,max_chain,state,error,since_seq,created_at,updated_at,\
     last_generation,max_attempts,max_age_ms) VALUES ",
    18,
);

pub(super) static REPLACE_REVISIONS: Insert = Insert::new(
    "INSERT OR REPLACE INTO watcher_revisions (watcher,revision,generation,declared,handlers,\
     max_fires_per_second,at,leaf,since_seq,from_seq,retired_seq) VALUES ",
    11,
);

pub(super) static REPLACE_PASSES: Insert = Insert::new(
    "INSERT OR REPLACE INTO passes (watcher,generation,from_seq,until_seq,cursor,started_at,ended_at,\
     stopped) VALUES ",
    8,
);

pub(super) static REPLACE_CURSORS: Insert =
    Insert::new("INSERT OR REPLACE INTO cursors (number,seq) VALUES ", 2);

pub(super) static REPLACE_HOLDS: Insert = Insert::new(
    "INSERT OR REPLACE INTO holds (watcher,number,kind,drops,at,until,from_seq,from_job,ended_at,\
     to_seq,to_job) VALUES ",
    11,
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
     doubted_until) VALUES (?,?,?,?,?,?,?);";

pub(super) static REPLACE_SCHEDULES: Insert = Insert::new(
    "INSERT OR REPLACE INTO schedules (owner,name,handler,interval_secs,enabled_by_default,\
     description,ats_code,declared_at,changed_at,retired_at) VALUES ",
    10,
);

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

/// Reads jobs: the number, most of the rest as one JSON array, and what JSON cannot hold exactly.
macro_rules! select_jobs {
    ($rest:literal) => {
        concat!(
            "SELECT number, concat('[\"',hex(id),'\",',origin,',',json_quote(watcher),',',",
            "revision,',',generation,',',json_quote(seq),',',json_quote(handler),',',",
            "json_quote(plugin),',',state,',',attempts,',',counted,',',uncounted,',',created_at,',',",
            "json_quote(first_counted_at),',',json_quote(started_at),',',",
            "json_quote(completed_at),',',json_quote(due_at),',',delay_ms,',',json_quote(error),',',",
            "json_quote(progress_done),',',json_quote(progress_total),',',leaves,']'), ",
            "payload, result, cost FROM jobs ",
            $rest
        )
    };
}
pub(super) use {attestation_text, select_attestations, select_both, select_jobs};

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
    values.add(job.payload.as_deref());
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
}

pub(super) fn bind_schedule(values: &mut Values, row: &ScheduleRow) {
    values.add(row.owner.as_str());
    values.add(row.name.as_str());
    values.add(row.handler.as_str());
    values.add(i64::from(row.interval_secs));
    values.add(i64::from(row.enabled_by_default));
    values.add(row.description.as_str());
    values.add(row.ats_code.as_str());
    values.add(row.declared_at.ms());
    values.add(row.changed_at.ms());
    values.add(row.retired_at.map(Timestamp::ms));
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
}

pub(super) fn read_job(row: &SqliteRow) -> Result<JobRow, StoreError> {
    decode(&JOBS, row, |number, text| {
        let text: JobText = serde_json::from_str(text).map_err(shown)?;
        let time = |ms: Option<i64>| ms.map(Timestamp::from_ms).transpose().map_err(shown);
        let bytes = |column: usize| {
            row.try_get::<Option<&[u8]>, _>(column).map(|bytes| bytes.map(Arc::from)).map_err(shown)
        };
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
            cost: row.try_get(4).map_err(shown)?,
            leaves: text.leaves,
        })
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

pub(super) fn read_watcher(row: &SqliteRow) -> Result<WatcherRow, StoreError> {
    let columns = Columns { table: &WATCHERS, row };
    let (owner, local): (&str, &str) = (columns.get(1)?, columns.get(2)?);
    let (declared, handlers): (&str, &str) = (columns.get(5)?, columns.get(6)?);
    let handlers: Vec<HandlerRef> = columns.check(serde_json::from_str(handlers))?;
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
            "to_job FROM holds ",
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
            "SELECT name, version, incarnation, up_at, disabled_at, called_back, doubted_until ",
            "FROM plugins ",
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
    })
}

macro_rules! select_schedules {
    ($rest:literal) => {
        concat!(
            "SELECT owner, name, handler, interval_secs, enabled_by_default, description, ",
            "ats_code, declared_at, changed_at, retired_at FROM schedules ",
            $rest
        )
    };
}

pub(super) const SELECT_SCHEDULES: &str = select_schedules!("ORDER BY owner, name");

pub(super) fn read_schedule(row: &SqliteRow) -> Result<ScheduleRow, StoreError> {
    let columns = Columns { table: &SCHEDULES, row };
    Ok(ScheduleRow {
        owner: columns.check(columns.get::<&str>(0)?.parse())?,
        name: columns.check(columns.get::<&str>(1)?.parse())?,
        handler: columns.check(columns.get::<&str>(2)?.parse())?,
        interval_secs: columns.check(u32::try_from(columns.number(3)?))?,
        enabled_by_default: columns.get::<i64>(4)? != 0,
        description: columns.get(5)?,
        ats_code: columns.get(6)?,
        declared_at: columns.time(7)?,
        changed_at: columns.time(8)?,
        retired_at: columns.optional_time(9)?,
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
pub(super) static HANDLERS: Table = Table {
    has_names: true,
    ..Table::new("handlers", &["plugin", "name"], select_handlers!(""), checks!(read_handler))
};
pub(super) static SCHEDULES: Table = Table {
    has_names: true,
    ..Table::new("schedules", &["owner", "name"], select_schedules!(""), checks!(read_schedule))
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
pub(super) static TABLES: [&Table; 15] = [
    &ATTESTATIONS,
    &JOBS,
    &WATCHERS,
    &REVISIONS,
    &COUNTERS,
    &CURSORS,
    &PASSES,
    &HOLDS,
    &ALIASES,
    &PLUGINS,
    &HANDLERS,
    &SCHEDULES,
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
