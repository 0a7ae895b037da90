-- Runs of long work and their slices: what was asked for, who does it, what became of it, and everything that happened.
-- Instants are milliseconds of Unix time, UTC. JSON is text. Runs count up from 1.

CREATE TABLE runs (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    job              TEXT    NOT NULL CHECK (job <> ''),
    spec             TEXT    NOT NULL CHECK (json_valid(spec)),
    idempotency_key  TEXT,
    created_ms       INTEGER NOT NULL,
    state            TEXT    NOT NULL
        CHECK (state IN ('pending', 'running', 'interrupted', 'succeeded', 'failed', 'cancelled')),
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    -- Goes up with every claim: whoever holds an older one changes nothing any more.
    token            INTEGER NOT NULL DEFAULT 0,
    owner            TEXT,
    lease_until_ms   INTEGER,
    ended_ms         INTEGER,
    error            TEXT,
    UNIQUE (job, idempotency_key)
) STRICT;

CREATE TRIGGER runs_are_never_deleted BEFORE DELETE ON runs
BEGIN SELECT RAISE(ABORT, 'a run is never deleted'); END;

CREATE TRIGGER what_a_run_was_asked_for_never_changes BEFORE UPDATE OF id, job, spec, created_ms ON runs
BEGIN SELECT RAISE(ABORT, 'what a run was asked for never changes: create another'); END;

CREATE TABLE slices (
    run    INTEGER NOT NULL REFERENCES runs (id),
    number INTEGER NOT NULL CHECK (number >= 1),
    name   TEXT    NOT NULL,
    spec   TEXT    NOT NULL CHECK (json_valid(spec)),
    state  TEXT    NOT NULL
        CHECK (state IN ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    result TEXT CHECK (result IS NULL OR json_valid(result)),
    error  TEXT,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER a_slice_that_succeeded_never_changes BEFORE UPDATE ON slices
WHEN OLD.state = 'succeeded'
BEGIN SELECT RAISE(ABORT, 'a slice that succeeded is never done again'); END;

CREATE TRIGGER slices_are_never_deleted BEFORE DELETE ON slices
BEGIN SELECT RAISE(ABORT, 'a slice is never deleted'); END;

-- Appended in the transaction of the change that it tells of.
CREATE TABLE run_events (
    id     INTEGER PRIMARY KEY,
    run    INTEGER NOT NULL REFERENCES runs (id),
    slice  INTEGER,
    at_ms  INTEGER NOT NULL,
    event  TEXT    NOT NULL CHECK (event <> ''),
    detail TEXT    NOT NULL
) STRICT;

CREATE INDEX run_events_by_run ON run_events (run, id);

CREATE TRIGGER run_events_are_never_changed BEFORE UPDATE ON run_events
BEGIN SELECT RAISE(ABORT, 'what happened is never changed'); END;

CREATE TRIGGER run_events_are_never_deleted BEFORE DELETE ON run_events
BEGIN SELECT RAISE(ABORT, 'what happened is never deleted'); END;
