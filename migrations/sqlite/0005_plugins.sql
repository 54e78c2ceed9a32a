-- What is known of plugins besides their handlers. `up_at` 0: it was never up, but somebody disabled it.
-- `called_back`: its latest process called us before it answered Initialize. See PluginRow.
ALTER TABLE plugins ADD COLUMN disabled_at INTEGER;
ALTER TABLE plugins ADD COLUMN called_back INTEGER NOT NULL DEFAULT 0;
ALTER TABLE plugins ADD COLUMN doubted_until INTEGER;

-- Schedules. A plugin has one for a handler, named like it. See ScheduleRow.
CREATE TABLE schedules (
    owner              TEXT    NOT NULL,
    name               TEXT    NOT NULL,
    handler            TEXT    NOT NULL,  -- its bare name
    interval_secs      INTEGER NOT NULL,  -- 0: never
    enabled_by_default INTEGER NOT NULL,
    description        TEXT    NOT NULL,
    ats_code           TEXT    NOT NULL,
    declared_at        INTEGER NOT NULL,
    changed_at         INTEGER NOT NULL,
    retired_at         INTEGER,
    PRIMARY KEY (owner, name)
) STRICT, WITHOUT ROWID;

-- Under which paths plugins answer HTTP, as they said last.
CREATE TABLE routes (
    plugin      TEXT NOT NULL,
    method      TEXT NOT NULL,
    path        TEXT NOT NULL,
    description TEXT NOT NULL,
    PRIMARY KEY (plugin, method, path)
) STRICT, WITHOUT ROWID;

-- What of their last announcement was not taken, in its order.
CREATE TABLE refused (
    plugin TEXT NOT NULL PRIMARY KEY,
    parts  TEXT NOT NULL              -- [{"kind", "name", "reason"}]
) STRICT, WITHOUT ROWID;
