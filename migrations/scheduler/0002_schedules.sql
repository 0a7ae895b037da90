-- Schedules, and what was decided about every one of their times. A run knows the schedule and the time that it is of, and
-- by which rules it waits for its place and is tried again.

CREATE TABLE schedules (
    name             TEXT    PRIMARY KEY CHECK (name <> ''),
    written          TEXT    NOT NULL CHECK (json_valid(written)),
    -- Every time up to here is decided.
    decided_until_ms INTEGER NOT NULL,
    -- The next time that comes; null after the last.
    next_ms          INTEGER,
    paused_ms        INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX schedules_by_next ON schedules (next_ms);

-- One line for a time, or for several that follow each other and share their fate; too old ones are not counted.
CREATE TABLE decisions (
    id       INTEGER PRIMARY KEY,
    schedule TEXT    NOT NULL REFERENCES schedules (name),
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL CHECK (last_ms >= first_ms),
    times    INTEGER CHECK (times >= 1),
    at_ms    INTEGER NOT NULL,
    run      INTEGER REFERENCES runs (id),
    reason   TEXT    NOT NULL CHECK (reason <> '')
) STRICT;

CREATE INDEX decisions_by_time ON decisions (schedule, last_ms);

CREATE TRIGGER decisions_are_never_changed BEFORE UPDATE ON decisions
BEGIN SELECT RAISE(ABORT, 'a decision is never changed'); END;

CREATE TRIGGER decisions_are_never_deleted BEFORE DELETE ON decisions
BEGIN SELECT RAISE(ABORT, 'a decision is never deleted'); END;

-- What people did to a schedule. Appended in the transaction of the change that it tells of.
CREATE TABLE schedule_events (
    id       INTEGER PRIMARY KEY,
    schedule TEXT    NOT NULL REFERENCES schedules (name),
    at_ms    INTEGER NOT NULL,
    event    TEXT    NOT NULL CHECK (event <> ''),
    detail   TEXT    NOT NULL
) STRICT;

CREATE INDEX schedule_events_by_schedule ON schedule_events (schedule, id);

CREATE TRIGGER schedule_events_are_never_changed BEFORE UPDATE ON schedule_events
BEGIN SELECT RAISE(ABORT, 'what happened is never changed'); END;

CREATE TRIGGER schedule_events_are_never_deleted BEFORE DELETE ON schedule_events
BEGIN SELECT RAISE(ABORT, 'what happened is never deleted'); END;

ALTER TABLE runs ADD COLUMN schedule TEXT REFERENCES schedules (name);
ALTER TABLE runs ADD COLUMN nominal_ms INTEGER;
-- Overlap, retry and timeout as the schedule had them when the run was created, as JSON.
ALTER TABLE runs ADD COLUMN rules TEXT CHECK (rules IS NULL OR json_valid(rules));
ALTER TABLE runs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN pool TEXT;
ALTER TABLE runs ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN waits_until_ms INTEGER NOT NULL DEFAULT 0;

CREATE INDEX runs_of_schedules ON runs (schedule, state);

-- Few runs are in hand, however many there were.
CREATE INDEX runs_in_turn ON runs (priority DESC, id)
    WHERE schedule IS NOT NULL AND state IN ('pending', 'running', 'interrupted');
CREATE INDEX runs_begun ON runs (state) WHERE schedule IS NOT NULL AND state IN ('running', 'interrupted');
CREATE INDEX runs_waiting ON runs (waits_until_ms) WHERE schedule IS NOT NULL AND state = 'pending';

CREATE TRIGGER whose_run_it_is_never_changes BEFORE UPDATE OF schedule, nominal_ms, rules, priority, pool ON runs
BEGIN SELECT RAISE(ABORT, 'what a run was asked for never changes: create another'); END;
