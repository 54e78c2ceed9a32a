-- Which watchers' fires led to a claim, the first cause first: a JSON array of numbers of watchers, with
-- null for a job without one. NULL is an empty one.
ALTER TABLE attestations ADD COLUMN chain TEXT;

ALTER TABLE watchers ADD COLUMN last_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE watchers ADD COLUMN max_attempts INTEGER;
ALTER TABLE watchers ADD COLUMN max_age_ms INTEGER;
UPDATE watchers SET last_generation = generation;

-- Watchers that are on their way over a part of the log: those that catch up, and replays. Several share
-- one cursor, so that a commit moves all of them with one row. See PassRow and CursorRow.
CREATE TABLE passes (
    watcher    INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    from_seq   INTEGER NOT NULL,
    until_seq  INTEGER,
    cursor     INTEGER,           -- NULL: it has come to its end
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    stopped    TEXT,
    PRIMARY KEY (watcher, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE cursors (
    number INTEGER PRIMARY KEY,
    seq    INTEGER NOT NULL
) STRICT;

-- The times in which a watcher was paused or muted. See HoldRow.
CREATE TABLE holds (
    watcher  INTEGER NOT NULL,
    number   INTEGER NOT NULL,
    kind     TEXT    NOT NULL,    -- paused, muted
    drops    INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    until    INTEGER,
    from_seq INTEGER NOT NULL,
    from_job INTEGER NOT NULL,
    ended_at INTEGER,
    to_seq   INTEGER,
    to_job   INTEGER,
    PRIMARY KEY (watcher, number)
) STRICT, WITHOUT ROWID;

-- Those that are held now. What they held begins with what comes next: how much it was before, nobody
-- wrote down.
INSERT INTO holds
    SELECT number, 1, state, 0, updated_at, NULL,
        (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'matched_seq'),
        (SELECT ifnull(max(number), 0) FROM jobs), NULL, NULL, NULL
    FROM watchers WHERE state = 'paused';

-- Derived, with job_ids: the jobs that a claim caused.
CREATE TABLE job_seqs (
    seq    INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (seq, number)
) STRICT, WITHOUT ROWID;

INSERT INTO job_seqs
    SELECT seq, number FROM jobs
    WHERE seq IS NOT NULL
        AND number <= (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'derived_job')
    ORDER BY seq, number;

-- Claims that are not in the log any more: enough to know a repeat of one. attestation_ids leads here
-- too. `content` is hashes of what it said, 32 bytes each: of what always counts, and of that with
-- timestamp, actors and source, each if it was not filled in. NULL: it could not be read.
CREATE TABLE removed (
    seq     INTEGER PRIMARY KEY,
    id      TEXT    NOT NULL,
    filled  INTEGER NOT NULL,
    content BLOB
) STRICT;

-- Rows that did not decode, as they were, taken out of the way of the others.
CREATE TABLE quarantine (
    number   INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    "table"  TEXT    NOT NULL,
    "row"    TEXT    NOT NULL,    -- its key: a number or a name, or a JSON array of several
    reason   TEXT    NOT NULL,
    content  TEXT    NOT NULL,    -- a JSON object of its columns; what is no text as {"hex": digits}
    told     INTEGER NOT NULL     -- 1: the audit tells of it
) STRICT;

-- Jobs that are not in the table any more: so many numbers have no row.
INSERT INTO meta (key, value) VALUES ('jobs_gone', 0);
