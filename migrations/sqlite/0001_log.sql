-- The store of axwatch, first form. See DESIGN.md, "Data".
--
-- A live commit touches only the tables keyed by a rising number: attestations, jobs, audit, and the
-- few rows of meta. `postings`, `attestation_ids` and `job_ids` are derived from the first two,
-- written later in sorted slices, and can be made again from them at any time.
--
-- Times are milliseconds since 1970-01-01 UTC. Lists are JSON arrays.

-- The log. Never changed once written.
CREATE TABLE attestations (
    seq         INTEGER PRIMARY KEY,
    id          TEXT    NOT NULL,
    subjects    TEXT    NOT NULL,
    predicates  TEXT    NOT NULL,
    contexts    TEXT    NOT NULL,
    actors      TEXT    NOT NULL,
    timestamp   INTEGER NOT NULL,  -- the author's word
    created_at  INTEGER NOT NULL,  -- our clock
    source      TEXT    NOT NULL,
    appended_by TEXT    NOT NULL,  -- a plugin's name or `user`
    filled      INTEGER NOT NULL,  -- what the store filled in: 1 timestamp, 2 actors, 4 source
    attributes  TEXT,              -- a JSON object
    signature   BLOB,
    signer_did  TEXT,
    lineage     INTEGER NOT NULL,  -- 0 none, 1 sure, 2 unsure, 3 stale
    root        TEXT,              -- id of the attestation that began the chain
    parent_job  BLOB,              -- id of the job that made it
    depth       INTEGER NOT NULL
) STRICT;

-- Derived: which attestations have a term. 0 subjects, 1 predicates, 2 contexts, 3 actors; 4 is the
-- job that made them, as 32 hex digits. Terms are case-folded.
CREATE TABLE postings (
    dimension INTEGER NOT NULL,
    term      TEXT    NOT NULL,
    first_seq INTEGER NOT NULL,
    seqs      BLOB    NOT NULL,    -- the distances from each seq to the next, from first_seq on, as LEB128
    PRIMARY KEY (dimension, term, first_seq)
) STRICT, WITHOUT ROWID;

-- Derived: first 8 bytes of SHA-256 of an attestation's id.
CREATE TABLE attestation_ids (
    hash INTEGER NOT NULL,
    seq  INTEGER NOT NULL,
    PRIMARY KEY (hash, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    number           INTEGER PRIMARY KEY,
    id               BLOB    NOT NULL,
    origin           INTEGER NOT NULL,  -- 0 fire, 1 API
    watcher          INTEGER,
    revision         INTEGER NOT NULL,
    generation       INTEGER NOT NULL,
    seq              INTEGER,           -- the attestation that its payload is made from
    handler          TEXT    NOT NULL,  -- as declared
    plugin           TEXT,
    payload          BLOB,              -- only when it was given
    state            INTEGER NOT NULL,  -- 0 queued, 1 running, 3 completed, 4 failed, 5 cancelled
    attempts         INTEGER NOT NULL,
    counted          INTEGER NOT NULL,
    uncounted        INTEGER NOT NULL,
    created_at       INTEGER NOT NULL,
    first_counted_at INTEGER,
    started_at       INTEGER,
    completed_at     INTEGER,
    due_at           INTEGER,
    delay_ms         INTEGER NOT NULL,
    error            TEXT,
    result           BLOB,
    progress_done    INTEGER,
    progress_total   INTEGER,
    cost             REAL,
    leaves           TEXT    NOT NULL   -- numbers of the audit records about it
) STRICT;

-- Derived: first 8 bytes of a job's id.
CREATE TABLE job_ids (
    hash   INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (hash, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE watchers (
    number               INTEGER PRIMARY KEY,
    owner                TEXT    NOT NULL,
    local_id             TEXT    NOT NULL,
    revision             INTEGER NOT NULL,
    generation           INTEGER NOT NULL,
    declared             TEXT    NOT NULL,  -- {"ax": text} or {"structural": lists}
    handlers             TEXT    NOT NULL,  -- [{"declared", "plugin"}]
    params               TEXT,
    max_fires_per_second INTEGER,
    max_chain            INTEGER,
    state                TEXT    NOT NULL,
    error                TEXT,
    since_seq            INTEGER NOT NULL,
    created_at           INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL
) STRICT;

CREATE TABLE watcher_counters (
    watcher       INTEGER PRIMARY KEY,
    matches       INTEGER NOT NULL,
    fires         INTEGER NOT NULL,
    errors        INTEGER NOT NULL,
    last_fired_at INTEGER
) STRICT;

-- One row a commit: its records, one JSON object a line, and what they added to the Merkle tree.
CREATE TABLE audit (
    first_leaf INTEGER PRIMARY KEY,
    count      INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    records    TEXT    NOT NULL,
    nodes      BLOB    NOT NULL,  -- 32 bytes each, in the order in which they were completed
    head       BLOB    NOT NULL   -- the root over all records up to here
) STRICT;

CREATE TABLE plugins (
    name        TEXT    NOT NULL PRIMARY KEY,
    version     TEXT    NOT NULL,
    incarnation INTEGER NOT NULL,
    up_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE handlers (
    plugin TEXT NOT NULL,
    name   TEXT NOT NULL,
    PRIMARY KEY (plugin, name)
) STRICT, WITHOUT ROWID;

-- Derived tables are whole up to derived_*, and may hold a part of what lies between that and
-- deriving_*. store_id (32 hex digits) is added when the store is first opened.
CREATE TABLE meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value ANY  NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO meta (key, value) VALUES
    ('epoch', 0),
    ('matched_seq', 0),
    ('open_jobs_from', 1),
    ('counters_upto', 0),
    ('derived_seq', 0),
    ('derived_job', 0),
    ('deriving_seq', 0),
    ('deriving_job', 0);
