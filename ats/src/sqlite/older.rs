//! How a store of an older schema is read: what it lacks is put before each reading connection as
//! temporary views, empty or made from what it has, which hide the tables of the same name. The file
//! stays as it is.
//!
//! A reader that is kept while a writer brings the store up to date goes on with these views.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

/// Each with the schema that no longer needs it. Of two of one name the first is taken.
const VIEWS: [(i64, &str); 25] = [
    (3, "aliases AS SELECT 0 AS seq, 0 AS kind, '[]' AS words WHERE false"),
    // What it will have: the present revision of each watcher, as if it had always been in force.
    (
        3,
        "watcher_revisions AS SELECT number AS watcher, revision, generation, declared, \
         (SELECT json_group_array(json_extract(value, '$.declared')) FROM json_each(handlers)) \
         AS handlers, max_fires_per_second, updated_at AS at, NULL AS leaf, since_seq, \
         since_seq AS from_seq, CASE state WHEN 'retired' THEN \
         (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'matched_seq') END AS retired_seq \
         FROM main.watchers WHERE revision > 0",
    ),
    (4, "attestations AS SELECT *, NULL AS chain FROM main.attestations"),
    (
        4,
        "watchers AS SELECT *, generation AS last_generation, NULL AS max_attempts, \
         NULL AS max_age_ms FROM main.watchers",
    ),
    (
        4,
        "passes AS SELECT 0 AS watcher, 0 AS generation, 0 AS from_seq, 0 AS until_seq, \
         0 AS cursor, 0 AS started_at, 0 AS ended_at, '' AS stopped WHERE false",
    ),
    (4, "cursors AS SELECT 0 AS number, 0 AS seq WHERE false"),
    (
        4,
        "holds AS SELECT 0 AS watcher, 0 AS number, '' AS kind, 0 AS drops, 0 AS at, 0 AS until, \
         0 AS from_seq, 0 AS from_job, 0 AS ended_at, 0 AS to_seq, 0 AS to_job, 0 AS generation \
         WHERE false",
    ),
    // Nothing finds them by the claim yet: all are looked through.
    (4, "job_seqs AS SELECT seq, number FROM main.jobs WHERE seq IS NOT NULL"),
    (4, "removed AS SELECT 0 AS seq, '' AS id, 0 AS filled, x'' AS content WHERE false"),
    (
        4,
        "quarantine AS SELECT 0 AS number, 0 AS at, '' AS \"table\", '' AS \"row\", '' AS reason, \
         '' AS content, 0 AS told WHERE false",
    ),
    (
        5,
        "plugins AS SELECT *, NULL AS disabled_at, 0 AS called_back, NULL AS doubted_until, \
         0 AS stored_handlers FROM main.plugins",
    ),
    (
        5,
        "schedules AS SELECT '' AS owner, '' AS name, '' AS handler, 0 AS interval_secs, '' AS cron, \
         '' AS tz, 0 AS anchor, x'' AS payload, '' AS missed, '' AS overlap, 0 AS jitter_secs, \
         0 AS enabled_by_default, '' AS description, '' AS ats_code, '' AS metadata, '' AS state, \
         0 AS declared_at, 0 AS changed_at, 0 AS retired_at, '[]' AS seen, 0 AS last_nominal, \
         0 AS last_run_at, x'' AS last_job, 0 AS by_call, 0 AS was_paused WHERE false",
    ),
    (5, "routes AS SELECT '' AS plugin, '' AS method, '' AS path, '' AS description WHERE false"),
    (5, "refused AS SELECT '' AS plugin, '[]' AS parts WHERE false"),
    // What they will be.
    (
        6,
        "jobs AS SELECT *, iif(watcher IS NULL, 'user', NULL) AS asker, \
         iif(watcher IS NULL, 'user', NULL) AS owner, iif(watcher IS NULL, '', NULL) AS source, \
         iif(watcher IS NULL, 0, NULL) AS priority, iif(watcher IS NULL, created_at, NULL) AS base_ms, \
         NULL AS parent, NULL AS parent_id, NULL AS schedule, NULL AS nominal, \
         NULL AS cost_estimate, NULL AS entries, NULL AS entries_bytes FROM main.jobs",
    ),
    (
        6,
        "holds AS SELECT *, ifnull((SELECT w.generation FROM main.watchers AS w WHERE w.number = h.watcher), \
         0) AS generation FROM main.holds AS h",
    ),
    (6, "job_payloads AS SELECT number AS job, payload FROM main.jobs WHERE payload IS NOT NULL"),
    (
        6,
        "schedules AS SELECT owner, name, owner || '/' || handler AS handler, interval_secs, \
         NULL AS cron, NULL AS tz, declared_at AS anchor, NULL AS payload, 'once' AS missed, \
         'skip' AS overlap, 0 AS jitter_secs, enabled_by_default, description, ats_code, \
         NULL AS metadata, CASE WHEN retired_at IS NOT NULL THEN 'retired' \
         WHEN enabled_by_default AND interval_secs > 0 THEN 'active' ELSE 'inactive' END AS state, \
         declared_at, changed_at, retired_at, '[]' AS seen, NULL AS last_nominal, \
         NULL AS last_run_at, NULL AS last_job, 0 AS by_call, 0 AS was_paused FROM main.schedules",
    ),
    (
        6,
        "job_entries AS SELECT 0 AS job, 0 AS number, 0 AS at, 0 AS attempt, '' AS level, \
         '' AS stage, '' AS message, '' AS metadata WHERE false",
    ),
    (
        6,
        "schedule_runs AS SELECT 0 AS number, x'' AS schedule, 0 AS nominal, 0 AS upto, 0 AS count, \
         0 AS at, '' AS outcome, x'' AS job WHERE false",
    ),
    (
        6,
        "budgets AS SELECT '' AS plugin, '' AS handler, 0 AS calls_per_minute, 0.0 AS per_day, \
         0.0 AS per_week, 0.0 AS per_month, '' AS set_by, 0 AS changed_at WHERE false",
    ),
    (
        6,
        "spend AS SELECT 0 AS minute, '' AS plugin, '' AS handler, 0 AS nanos, 0 AS calls WHERE false",
    ),
    (6, "handler_spend AS SELECT '' AS plugin, '' AS handler, 0.0 AS dearest WHERE false"),
    // Without those that were stored before: nothing runs by what is read only.
    (
        7,
        "handler_changes AS SELECT 0 AS seq, '' AS plugin, '' AS name, '' AS kind, \
         0 AS version_number, '' AS version, 0 AS version_seq, '' AS reason, '' AS appended_by, 0 AS at \
         WHERE false",
    ),
    (7, "plugins AS SELECT *, 0 AS stored_handlers FROM main.plugins"),
];

/// Lets a connection see a store of this schema as if it were of ours.
pub(super) async fn show_as_present(
    connection: &mut SqliteConnection,
    schema: i64,
) -> Result<(), sqlx::Error> {
    for (_, view) in VIEWS.iter().filter(|(until, _)| schema < *until) {
        let view = AssertSqlSafe(format!("CREATE TEMP VIEW IF NOT EXISTS {view}"));
        sqlx::raw_sql(view).execute(&mut *connection).await?;
    }
    Ok(())
}
