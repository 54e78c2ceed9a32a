-- Changes of aliases: the claims of people that link words or take links away. Few, and written with
-- their claim, so that whoever needs the aliases in force at a number reads no other claim.
CREATE TABLE aliases (
    seq   INTEGER PRIMARY KEY,
    kind  INTEGER NOT NULL,  -- 0 links, 1 takes links away
    words TEXT    NOT NULL   -- a JSON array, as written
) STRICT;

-- Every revision of a watcher, and from which claim on it was in force. See WatcherRow for the columns
-- that both have.
CREATE TABLE watcher_revisions (
    watcher              INTEGER NOT NULL,
    revision             INTEGER NOT NULL,
    generation           INTEGER NOT NULL,
    declared             TEXT    NOT NULL,
    handlers             TEXT    NOT NULL,  -- a JSON array of texts, as declared
    max_fires_per_second INTEGER,
    at                   INTEGER NOT NULL,
    leaf                 INTEGER,           -- its record in the audit; NULL of revisions older than this table
    since_seq            INTEGER NOT NULL,  -- its generation sees the claims after this one
    from_seq             INTEGER NOT NULL,  -- it is in force for the claims after this one
    retired_seq          INTEGER,           -- it was retired: claims after this one were not matched
    PRIMARY KEY (watcher, revision)
) STRICT, WITHOUT ROWID;

-- What is known of the watchers that there are: their present revision, as if it had always been in
-- force. Those that were refused have none.
INSERT INTO watcher_revisions
    SELECT number, revision, generation, declared,
        (SELECT json_group_array(json_extract(value, '$.declared')) FROM json_each(handlers)),
        max_fires_per_second, updated_at, NULL, since_seq, since_seq,
        CASE state WHEN 'retired' THEN (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'matched_seq') END
    FROM watchers WHERE revision > 0;
