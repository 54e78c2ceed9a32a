-- Jobs that no claim caused, what they say while they run, schedules, and budgets.

-- Who asked for a job that has no watcher, and how; all NULL of a fire. See Asked.
ALTER TABLE jobs ADD COLUMN asker         TEXT;     -- a plugin's name, `user` or `schedule`
ALTER TABLE jobs ADD COLUMN owner         TEXT;     -- a plugin's name or `user`
ALTER TABLE jobs ADD COLUMN source        TEXT;
ALTER TABLE jobs ADD COLUMN priority      INTEGER;
ALTER TABLE jobs ADD COLUMN base_ms       INTEGER;  -- the queue clock when it was asked for
ALTER TABLE jobs ADD COLUMN parent        INTEGER;  -- a number of this table, and
ALTER TABLE jobs ADD COLUMN parent_id     BLOB;     -- the id that it has
ALTER TABLE jobs ADD COLUMN schedule      BLOB;
ALTER TABLE jobs ADD COLUMN nominal       INTEGER;
ALTER TABLE jobs ADD COLUMN cost_estimate REAL;
-- How many entries of job_entries it has, and their bytes; NULL is 0.
ALTER TABLE jobs ADD COLUMN entries       INTEGER;
ALTER TABLE jobs ADD COLUMN entries_bytes INTEGER;

-- What jobs carry that were given something. Kept apart, because a job's row is written again with each thing
-- that happens to it, and this may be large. Their former column has nothing any more.
CREATE TABLE job_payloads (
    job     INTEGER PRIMARY KEY,
    payload BLOB NOT NULL
) STRICT;
INSERT INTO job_payloads SELECT number, payload FROM jobs WHERE payload IS NOT NULL;

UPDATE jobs SET asker = 'user', owner = 'user', source = '', priority = 0, base_ms = created_at,
    payload = NULL WHERE watcher IS NULL;

-- Which generation of its watcher's fires a hold held: that of those there are is the present one, as far as
-- anybody knows.
ALTER TABLE holds ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
UPDATE holds SET generation = ifnull((SELECT w.generation FROM watchers AS w WHERE w.number = holds.watcher), 0);

-- Fires touch none of these. The first has the open ones of each lane in their order, with ten minutes
-- (600,000 ms) for a level of priority, and all that counting them takes; the second has them in the order
-- of their numbers.
CREATE INDEX jobs_asked_open
    ON jobs (handler, asker, ifnull(base_ms - priority * 600000, 0), number, state, watcher)
    WHERE watcher IS NULL AND state IN (0, 1, 2);
CREATE INDEX jobs_asked_numbers ON jobs (number) WHERE watcher IS NULL AND state IN (0, 1, 2);
CREATE INDEX jobs_children ON jobs (parent) WHERE watcher IS NULL AND parent IS NOT NULL;
CREATE INDEX jobs_of_schedule ON jobs (schedule) WHERE watcher IS NULL AND schedule IS NOT NULL;

-- What attempts had to say. See JobEntryRow.
CREATE TABLE job_entries (
    job      INTEGER NOT NULL,
    number   INTEGER NOT NULL,    -- the first of a job is 1
    at       INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    level    TEXT    NOT NULL,
    stage    TEXT    NOT NULL,
    message  TEXT    NOT NULL,
    metadata TEXT,                -- JSON
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;

-- Schedules. Their ids follow from store, owner and name. See ScheduleRow.
ALTER TABLE schedules RENAME TO schedules_before;
CREATE TABLE schedules (
    owner              TEXT    NOT NULL,
    name               TEXT    NOT NULL,
    handler            TEXT    NOT NULL,  -- plugin/handler
    interval_secs      INTEGER,           -- 0: never. NULL: cron
    cron               TEXT,
    tz                 TEXT,
    anchor             INTEGER NOT NULL,
    payload            BLOB,
    missed             TEXT    NOT NULL,  -- skip, once, all:N
    overlap            TEXT    NOT NULL,  -- skip, queue, cancel
    jitter_secs        INTEGER NOT NULL,
    enabled_by_default INTEGER NOT NULL,
    description        TEXT    NOT NULL,
    ats_code           TEXT    NOT NULL,
    metadata           TEXT,              -- a JSON object
    state              TEXT    NOT NULL,  -- active, paused, inactive, retired
    declared_at        INTEGER NOT NULL,
    changed_at         INTEGER NOT NULL,
    retired_at         INTEGER,
    seen               TEXT    NOT NULL,  -- ranges of nominal times: [[first, last], …]
    last_nominal       INTEGER,
    last_run_at        INTEGER,
    last_job           BLOB,
    by_call            INTEGER NOT NULL,  -- 1: made with a call, and not by its plugin's announcement
    was_paused         INTEGER NOT NULL DEFAULT 0,  -- 1: it was paused when it was retired
    PRIMARY KEY (owner, name)
) STRICT, WITHOUT ROWID;

-- Nothing ran them before, and nothing makes up for what they would have run until now.
INSERT INTO schedules
    SELECT owner, name, owner || '/' || handler, interval_secs, NULL, NULL, declared_at, NULL, 'once', 'skip', 0,
        enabled_by_default, description, ats_code, NULL,
        CASE
            WHEN retired_at IS NOT NULL THEN 'retired'
            WHEN enabled_by_default AND interval_secs > 0 THEN 'active'
            ELSE 'inactive'
        END,
        declared_at, changed_at, retired_at,
        json_array(json_array(declared_at, max(declared_at, unixepoch() * 1000))),
        NULL, NULL, NULL, 0, 0
    FROM schedules_before;
DROP TABLE schedules_before;

-- What became of their nominal times, in the order in which it was decided. See ScheduleRunRow.
CREATE TABLE schedule_runs (
    number   INTEGER PRIMARY KEY,
    schedule BLOB    NOT NULL,
    nominal  INTEGER,             -- NULL: run by hand
    upto     INTEGER,             -- the last of several that were missed
    count    INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    outcome  TEXT    NOT NULL,    -- ran, skipped_overlap, missed, paused
    job      BLOB
) STRICT;
CREATE INDEX schedule_runs_of ON schedule_runs (schedule);

-- Budgets that were set with a command; those of the configuration are not here. See BudgetRow.
CREATE TABLE budgets (
    plugin           TEXT    NOT NULL,    -- empty: of all plugins
    handler          TEXT    NOT NULL,    -- empty: of all handlers
    calls_per_minute INTEGER,
    per_day          REAL,
    per_week         REAL,
    per_month        REAL,
    set_by           TEXT    NOT NULL,
    changed_at       INTEGER NOT NULL,
    PRIMARY KEY (plugin, handler)
) STRICT, WITHOUT ROWID;

-- What handlers did in each minute, counted from 1970-01-01 UTC. All that is said of spending follows from
-- these. See SpendRow.
CREATE TABLE spend (
    minute  INTEGER NOT NULL,
    plugin  TEXT    NOT NULL,
    handler TEXT    NOT NULL,
    nanos   INTEGER NOT NULL,     -- in billionths; negative: an earlier minute told of too much
    calls   INTEGER NOT NULL,     -- attempts that began
    PRIMARY KEY (minute, plugin, handler)
) STRICT, WITHOUT ROWID;

CREATE TABLE handler_spend (
    plugin  TEXT NOT NULL,
    handler TEXT NOT NULL,
    dearest REAL NOT NULL,        -- what its dearest run cost
    PRIMARY KEY (plugin, handler)
) STRICT, WITHOUT ROWID;
