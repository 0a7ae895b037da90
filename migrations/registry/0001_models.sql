-- The model registry: what was trained, what was promoted, what was measured, and which model scores from which offset.
-- Every table is append-only: triggers refuse UPDATE and DELETE, so that a record says for good what it said first.
-- Instants are microseconds of Unix time, UTC. JSON is text. Model versions count up from 1 without a gap.

CREATE TABLE models (
    version            INTEGER PRIMARY KEY CHECK (version >= 1),
    name               TEXT    NOT NULL CHECK (name <> ''),
    parent             INTEGER REFERENCES models (version),
    created_us         INTEGER NOT NULL,
    code_version       TEXT    NOT NULL CHECK (code_version <> ''),
    inputs             TEXT    NOT NULL CHECK (json_type(inputs) = 'object'),
    specification_hash TEXT    NOT NULL CHECK (specification_hash <> ''),
    seed               TEXT    NOT NULL CHECK (seed <> ''), -- decimal, because it may exceed SQLite's signed 64 bits
    trees              INTEGER NOT NULL CHECK (trees >= 1),
    max_samples        INTEGER NOT NULL CHECK (max_samples >= 1),
    contamination      REAL    NOT NULL CHECK (contamination > 0 AND contamination <= 0.5),
    alert_quantile     REAL    NOT NULL CHECK (alert_quantile > 0 AND alert_quantile <= 0.5),
    metrics            TEXT    NOT NULL CHECK (json_valid(metrics)),
    scaler_means       TEXT    NOT NULL CHECK (json_array_length(scaler_means) = 5),
    scaler_deviations  TEXT    NOT NULL CHECK (json_array_length(scaler_deviations) = 5),
    threshold          REAL    NOT NULL,
    artifact_path      TEXT    NOT NULL CHECK (artifact_path <> ''),
    artifact_bytes     INTEGER NOT NULL CHECK (artifact_bytes >= 0),
    artifact_sha256    TEXT    NOT NULL CHECK (length(artifact_sha256) = 64)
) STRICT;

-- INSERT OR REPLACE would delete a row without firing a DELETE trigger: a version in use is refused before that.
CREATE TRIGGER models_count_up BEFORE INSERT ON models
WHEN NEW.version IS NOT (SELECT coalesce(max(version), 0) + 1 FROM models)
BEGIN SELECT RAISE(ABORT, 'model versions count up by one and are never given twice'); END;

CREATE TRIGGER models_are_never_changed BEFORE UPDATE ON models
BEGIN SELECT RAISE(ABORT, 'a model record never changes: register a new version'); END;

CREATE TRIGGER models_are_never_deleted BEFORE DELETE ON models
BEGIN SELECT RAISE(ABORT, 'a model record is never deleted: promote another version instead'); END;

-- The champion is the version of the newest promotion.
CREATE TABLE promotions (
    id       INTEGER PRIMARY KEY,
    version  INTEGER NOT NULL REFERENCES models (version),
    previous INTEGER REFERENCES models (version),
    at_us    INTEGER NOT NULL,
    actor    TEXT    NOT NULL CHECK (actor <> ''),
    reason   TEXT    NOT NULL
) STRICT;

CREATE TRIGGER promotions_follow_each_other BEFORE INSERT ON promotions
WHEN NEW.previous IS NOT (SELECT version FROM promotions ORDER BY id DESC LIMIT 1)
  OR EXISTS (SELECT 1 FROM promotions WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'a promotion names the champion that it replaces'); END;

CREATE TRIGGER promotions_are_never_changed BEFORE UPDATE ON promotions
BEGIN SELECT RAISE(ABORT, 'a promotion never changes: promote again'); END;

CREATE TRIGGER promotions_are_never_deleted BEFORE DELETE ON promotions
BEGIN SELECT RAISE(ABORT, 'a promotion is never deleted: promote another version instead'); END;

CREATE TABLE evaluations (
    id      INTEGER PRIMARY KEY,
    version INTEGER NOT NULL REFERENCES models (version),
    at_us   INTEGER NOT NULL,
    slice   TEXT    NOT NULL CHECK (json_valid(slice)),
    report  TEXT    NOT NULL CHECK (json_valid(report))
) STRICT;

CREATE INDEX evaluations_by_version ON evaluations (version, id);

CREATE TRIGGER evaluations_are_never_replaced BEFORE INSERT ON evaluations
WHEN EXISTS (SELECT 1 FROM evaluations WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'an evaluation is never replaced: evaluate again'); END;

CREATE TRIGGER evaluations_are_never_changed BEFORE UPDATE ON evaluations
BEGIN SELECT RAISE(ABORT, 'an evaluation never changes: evaluate again'); END;

CREATE TRIGGER evaluations_are_never_deleted BEFORE DELETE ON evaluations
BEGIN SELECT RAISE(ABORT, 'an evaluation is never deleted'); END;

-- From its first offset on, a partition's records are scored by this model, until the next assignment.
CREATE TABLE assignments (
    id            INTEGER PRIMARY KEY,
    topic_id      TEXT    NOT NULL CHECK (topic_id <> ''),
    partition     INTEGER NOT NULL CHECK (partition >= 0),
    model_version INTEGER NOT NULL REFERENCES models (version),
    first_offset  INTEGER NOT NULL CHECK (first_offset >= 0),
    at_us         INTEGER NOT NULL
) STRICT;

CREATE INDEX assignments_by_partition ON assignments (topic_id, partition, first_offset, id);

CREATE TRIGGER assignments_go_forward BEFORE INSERT ON assignments
WHEN NEW.first_offset < (SELECT max(first_offset) FROM assignments
                         WHERE topic_id = NEW.topic_id AND partition = NEW.partition)
  OR EXISTS (SELECT 1 FROM assignments WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'an assignment never starts below an earlier one of its partition'); END;

CREATE TRIGGER assignments_are_never_changed BEFORE UPDATE ON assignments
BEGIN SELECT RAISE(ABORT, 'an assignment never changes: assign from a later offset'); END;

CREATE TRIGGER assignments_are_never_deleted BEFORE DELETE ON assignments
BEGIN SELECT RAISE(ABORT, 'an assignment is never deleted: assign from a later offset'); END;
