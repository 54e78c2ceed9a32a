-- The claims that changed a handler whose code is a claim. Few, and written with their claim, which stays as
-- long as its row does. See HandlerChangeRow.
CREATE TABLE handler_changes (
    seq            INTEGER PRIMARY KEY,
    plugin         TEXT    NOT NULL,
    name           TEXT    NOT NULL,
    kind           TEXT    NOT NULL,  -- stored, faulted, removed
    version_number INTEGER NOT NULL,
    version        TEXT    NOT NULL,  -- id of the claim that has the code, and
    version_seq    INTEGER NOT NULL,  -- its number
    reason         TEXT    NOT NULL,  -- why it is faulted; else empty
    appended_by    TEXT    NOT NULL,  -- a plugin's name or `user`
    at             INTEGER NOT NULL
) STRICT;
CREATE INDEX handler_changes_of ON handler_changes (plugin, name, seq);

-- Its latest announcement said that handlers stored with its name as context are its own.
ALTER TABLE plugins ADD COLUMN stored_handlers INTEGER NOT NULL DEFAULT 0;

-- What people stored and removed before anything took effect, as far as it has been matched: the rest comes with
-- the next start of the engine. What plugins said is left out, as nobody knows here what they may.
-- A row whose JSON is damaged says nothing here, and stops nothing: it is put aside when it is read.
WITH rows AS (
    SELECT seq, id, created_at, predicates, subjects, contexts, attributes,
        json_valid(subjects) AND json_valid(contexts) AND ifnull(json_valid(attributes), 0) AS is_whole
    FROM attestations
    WHERE predicates IN ('["handler"]', '["handler:faulted"]') AND appended_by = 'user'
        AND seq <= (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'matched_seq')
), claims AS (
    SELECT seq, id, created_at, iif(is_whole, subjects ->> '$[0]', NULL) AS name,
        iif(is_whole, contexts ->> '$[0]', NULL) AS plugin,
        predicates = '["handler"]' AS is_code,
        iif(is_whole, json_array_length(subjects) = 1 AND json_array_length(contexts) = 1
            AND iif(predicates = '["handler"]', json_type(attributes, '$.code') = 'text',
                attributes ->> '$.reason' = 'removed'), 0) AS counts
    FROM rows
), named AS (
    SELECT *,
        max(iif(is_code, seq, NULL)) OVER earlier AS version_seq,
        sum(is_code) OVER earlier AS version_number,
        lag(is_code) OVER of_name AS follows_code
    FROM claims
    WHERE counts AND NOT (plugin = 'python' AND name IN ('script', 'sync'))
        AND length(CAST(name AS BLOB)) BETWEEN 1 AND 256 - 1 - length(plugin)
        AND NOT name GLOB '*[' || char(1) || '-' || char(31) || char(127) || '-' || char(159) || '/]*'
        AND length(plugin) BETWEEN 1 AND 64 AND plugin GLOB '[a-zA-Z0-9]*'
        AND NOT plugin GLOB '*[^a-zA-Z0-9_.-]*'
        AND plugin NOT IN ('user', 'schedule', 'axwatch', 'v1', 'plugin', 'plugins')
    WINDOW of_name AS (PARTITION BY plugin, name ORDER BY seq),
        earlier AS (PARTITION BY plugin, name ORDER BY seq ROWS UNBOUNDED PRECEDING)
)
INSERT INTO handler_changes
    SELECT n.seq, n.plugin, n.name, iif(n.is_code, 'stored', 'removed'), n.version_number, v.id, v.seq, '',
        'user', n.created_at
    FROM named AS n JOIN attestations AS v ON v.seq = n.version_seq
    WHERE n.is_code OR n.follows_code;
