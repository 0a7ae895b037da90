-- The life of a model after its training: which wait to be judged and how they were, which are held against removal, and
-- what was found about the data of the champion. Append-only like everything here.

-- A model that shall be judged is a candidate, and is judged once.
CREATE TABLE judgements (
    id      INTEGER PRIMARY KEY,
    version INTEGER NOT NULL REFERENCES models (version),
    at_us   INTEGER NOT NULL,
    verdict TEXT    NOT NULL CHECK (verdict IN ('candidate', 'promoted', 'rejected', 'expired')),
    actor   TEXT    NOT NULL CHECK (actor <> ''),
    -- Sentences, as a JSON array.
    reasons TEXT    NOT NULL CHECK (json_type(reasons) = 'array'),
    -- Names the work that made the candidate: done again, it finds this one.
    work    TEXT    UNIQUE CHECK (work IS NULL OR verdict = 'candidate')
) STRICT;

CREATE INDEX judgements_by_version ON judgements (version, id);

CREATE TRIGGER a_candidate_is_judged_once BEFORE INSERT ON judgements
WHEN (NEW.verdict = 'candidate') IS NOT
         (SELECT count(*) = 0 FROM judgements WHERE version = NEW.version)
  OR (NEW.verdict <> 'candidate') IS NOT
         ((SELECT verdict FROM judgements WHERE version = NEW.version ORDER BY id DESC LIMIT 1) IS 'candidate')
  OR EXISTS (SELECT 1 FROM judgements WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'a model becomes a candidate once and is judged once'); END;

CREATE TRIGGER judgements_are_never_changed BEFORE UPDATE ON judgements
BEGIN SELECT RAISE(ABORT, 'a judgement never changes'); END;

CREATE TRIGGER judgements_are_never_deleted BEFORE DELETE ON judgements
BEGIN SELECT RAISE(ABORT, 'a judgement is never deleted'); END;

-- The table version that a pinned model was trained on is kept. The newest row of a model tells.
CREATE TABLE pins (
    id      INTEGER PRIMARY KEY,
    version INTEGER NOT NULL REFERENCES models (version),
    at_us   INTEGER NOT NULL,
    pinned  INTEGER NOT NULL CHECK (pinned IN (0, 1)),
    actor   TEXT    NOT NULL CHECK (actor <> ''),
    note    TEXT    NOT NULL
) STRICT;

CREATE INDEX pins_by_version ON pins (version, id);

CREATE TRIGGER pins_are_never_replaced BEFORE INSERT ON pins
WHEN EXISTS (SELECT 1 FROM pins WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'a pin is never replaced: unpin'); END;

CREATE TRIGGER pins_are_never_changed BEFORE UPDATE ON pins
BEGIN SELECT RAISE(ABORT, 'a pin never changes: unpin'); END;

CREATE TRIGGER pins_are_never_deleted BEFORE DELETE ON pins
BEGIN SELECT RAISE(ABORT, 'a pin is never deleted: unpin'); END;

-- What was found when the newest rows were held against those that a model was trained on. The newest row of a model says
-- up to which version of the table it was looked.
CREATE TABLE drift_checks (
    id            INTEGER PRIMARY KEY,
    version       INTEGER NOT NULL REFERENCES models (version),
    at_us         INTEGER NOT NULL,
    delta_version INTEGER NOT NULL CHECK (delta_version >= 0),
    drifted       INTEGER NOT NULL CHECK (drifted IN (0, 1)),
    report        TEXT    NOT NULL CHECK (json_valid(report))
) STRICT;

CREATE INDEX drift_checks_by_version ON drift_checks (version, id);

CREATE TRIGGER drift_checks_are_never_replaced BEFORE INSERT ON drift_checks
WHEN EXISTS (SELECT 1 FROM drift_checks WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'what was found is never replaced: check again'); END;

CREATE TRIGGER drift_checks_are_never_changed BEFORE UPDATE ON drift_checks
BEGIN SELECT RAISE(ABORT, 'what was found never changes: check again'); END;

CREATE TRIGGER drift_checks_are_never_deleted BEFORE DELETE ON drift_checks
BEGIN SELECT RAISE(ABORT, 'what was found is never deleted'); END;
