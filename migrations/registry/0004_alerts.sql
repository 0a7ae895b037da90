-- What people say about alerts: that they have seen one, and what it was. An alert is named by the record of the log that
-- raised it; its rows are in the lake. Append-only like everything here.

-- An alert that has a row here is acknowledged.
CREATE TABLE alert_acknowledgements (
    id            INTEGER PRIMARY KEY,
    partition     INTEGER NOT NULL CHECK (partition >= 0),
    record_offset INTEGER NOT NULL CHECK (record_offset >= 0),
    at_us         INTEGER NOT NULL,
    actor         TEXT    NOT NULL CHECK (actor <> ''),
    note          TEXT    NOT NULL
) STRICT;

CREATE INDEX alert_acknowledgements_by_alert ON alert_acknowledgements (partition, record_offset, id);

CREATE TRIGGER alert_acknowledgements_are_never_replaced BEFORE INSERT ON alert_acknowledgements
WHEN EXISTS (SELECT 1 FROM alert_acknowledgements WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'an acknowledgement is never replaced: acknowledge again'); END;

CREATE TRIGGER alert_acknowledgements_are_never_changed BEFORE UPDATE ON alert_acknowledgements
BEGIN SELECT RAISE(ABORT, 'an acknowledgement never changes: acknowledge again'); END;

CREATE TRIGGER alert_acknowledgements_are_never_deleted BEFORE DELETE ON alert_acknowledgements
BEGIN SELECT RAISE(ABORT, 'an acknowledgement is never deleted'); END;

-- What an alert was. The newest row of an alert counts.
CREATE TABLE alert_verdicts (
    id            INTEGER PRIMARY KEY,
    partition     INTEGER NOT NULL CHECK (partition >= 0),
    record_offset INTEGER NOT NULL CHECK (record_offset >= 0),
    at_us         INTEGER NOT NULL,
    verdict       TEXT    NOT NULL CHECK (verdict IN ('true_positive', 'false_positive', 'unclear')),
    actor         TEXT    NOT NULL CHECK (actor <> ''),
    note          TEXT    NOT NULL
) STRICT;

CREATE INDEX alert_verdicts_by_alert ON alert_verdicts (partition, record_offset, id);

CREATE TRIGGER alert_verdicts_are_never_replaced BEFORE INSERT ON alert_verdicts
WHEN EXISTS (SELECT 1 FROM alert_verdicts WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'a verdict is never replaced: give another'); END;

CREATE TRIGGER alert_verdicts_are_never_changed BEFORE UPDATE ON alert_verdicts
BEGIN SELECT RAISE(ABORT, 'a verdict never changes: give another'); END;

CREATE TRIGGER alert_verdicts_are_never_deleted BEFORE DELETE ON alert_verdicts
BEGIN SELECT RAISE(ABORT, 'a verdict is never deleted: give another'); END;
