-- API keys: who may ask the service for what, until when. Append-only like everything here: a key is revoked by a row.
-- Kept of a key's secret is its SHA-256. A fast hash is right for it: a secret is 256 random bits, which no list of words
-- and no number of tries finds, and it is hashed again with every request.

CREATE TABLE keys (
    id         INTEGER PRIMARY KEY CHECK (id >= 1),
    name       TEXT    NOT NULL CHECK (name <> ''),
    scopes     TEXT    NOT NULL CHECK (json_type(scopes) = 'array' AND json_array_length(scopes) >= 1),
    digest     BLOB    NOT NULL CHECK (length(digest) = 32),
    created_us INTEGER NOT NULL,
    expires_us INTEGER CHECK (expires_us IS NULL OR expires_us > created_us)
) STRICT;

-- INSERT OR REPLACE would delete a row without firing a DELETE trigger: an id in use is refused before that.
CREATE TRIGGER keys_count_up BEFORE INSERT ON keys
WHEN NEW.id IS NOT (SELECT coalesce(max(id), 0) + 1 FROM keys)
BEGIN SELECT RAISE(ABORT, 'keys count up by one and are never given twice'); END;

CREATE TRIGGER keys_are_never_changed BEFORE UPDATE ON keys
BEGIN SELECT RAISE(ABORT, 'a key never changes: revoke it and make another'); END;

CREATE TRIGGER keys_are_never_deleted BEFORE DELETE ON keys
BEGIN SELECT RAISE(ABORT, 'a key is never deleted: revoke it'); END;

CREATE TABLE key_revocations (
    id     INTEGER PRIMARY KEY,
    key_id INTEGER NOT NULL UNIQUE REFERENCES keys (id),
    at_us  INTEGER NOT NULL
) STRICT;

CREATE TRIGGER a_key_is_revoked_once BEFORE INSERT ON key_revocations
WHEN EXISTS (SELECT 1 FROM key_revocations WHERE id = NEW.id OR key_id = NEW.key_id)
BEGIN SELECT RAISE(ABORT, 'a key is revoked once and for good'); END;

CREATE TRIGGER key_revocations_are_never_changed BEFORE UPDATE ON key_revocations
BEGIN SELECT RAISE(ABORT, 'a revocation never changes'); END;

CREATE TRIGGER key_revocations_are_never_deleted BEFORE DELETE ON key_revocations
BEGIN SELECT RAISE(ABORT, 'a revocation is never deleted: make another key'); END;
