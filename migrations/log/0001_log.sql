-- The embedded event log: one topic per file.
-- 'SnLg': tells an event log from any other SQLite file.
PRAGMA application_id = 1399737447;

CREATE TABLE topic (
    singleton      INTEGER PRIMARY KEY CHECK (singleton = 1),
    topic_id       TEXT    NOT NULL,
    name           TEXT    NOT NULL,
    partitions     INTEGER NOT NULL CHECK (partitions > 0),
    created_micros INTEGER NOT NULL
) STRICT;

-- end_offset only grows, so that no offset is given twice even after every batch was removed.
CREATE TABLE partitions (
    partition          INTEGER PRIMARY KEY,
    first_offset       INTEGER NOT NULL,
    end_offset         INTEGER NOT NULL CHECK (end_offset >= first_offset),
    last_append_micros INTEGER NOT NULL,
    stored_bytes       INTEGER NOT NULL
) STRICT;

-- The payload is the last column: whoever needs only the others does not read its overflow pages.
CREATE TABLE batches (
    batch_id      INTEGER PRIMARY KEY,
    partition     INTEGER NOT NULL,
    base_offset   INTEGER NOT NULL,
    records       INTEGER NOT NULL CHECK (records > 0),
    append_micros INTEGER NOT NULL,
    stored_bytes  INTEGER NOT NULL,
    raw_bytes     INTEGER NOT NULL,
    checksum      INTEGER NOT NULL,
    payload       BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX batches_by_offset ON batches (partition, base_offset);

CREATE TABLE sources (
    source_id TEXT PRIMARY KEY,
    position  TEXT    NOT NULL,
    finished  INTEGER NOT NULL CHECK (finished IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE symbols (
    symbol TEXT PRIMARY KEY,
    kind   TEXT NOT NULL CHECK (kind IN ('simulated', 'real'))
) STRICT, WITHOUT ROWID;
