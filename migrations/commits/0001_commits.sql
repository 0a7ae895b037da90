-- When each version of each table was committed, kept beyond the table's own log.
-- A table is named by the id in its Delta metadata: one that was made anew begins anew.
-- Instants are microseconds of Unix time, UTC, and never fall from one version to the next.

CREATE TABLE commits (
    table_id TEXT    NOT NULL CHECK (table_id <> ''),
    version  INTEGER NOT NULL CHECK (version >= 0),
    time_us  INTEGER NOT NULL,
    PRIMARY KEY (table_id, version)
) STRICT, WITHOUT ROWID;

-- "The last version not later than this time" is one step down this index.
CREATE INDEX commits_by_time ON commits (table_id, time_us, version);
