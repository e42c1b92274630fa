"""The index's tables. Totals are counters kept by triggers, so that nothing ever sums or walks."""

from __future__ import annotations

VERSION = 1

TABLES = f"""
PRAGMA user_version = {VERSION};

-- A mutable name, and the entry that it meant at checked_at (seconds since 1970; NULL: for ever).
CREATE TABLE source (
    key TEXT PRIMARY KEY,
    entry_id TEXT NOT NULL,
    validator TEXT NOT NULL,
    checked_at REAL
) WITHOUT ROWID;
CREATE INDEX source_of_entry ON source (entry_id);

-- last_used is a number of a sequence: clocks jump. relpath is NULL for a directory.
-- bytes: what is reserved and not yet in blobs while FETCHING, the sum of the files when READY.
CREATE TABLE entry (
    id TEXT PRIMARY KEY,
    ident TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    relpath TEXT,
    state TEXT NOT NULL CHECK (state IN ('FETCHING', 'READY', 'EVICTING')),
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    last_used INTEGER NOT NULL DEFAULT 0,
    boot_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX lru ON entry (last_used) WHERE state = 'READY';
CREATE INDEX unfinished_entry ON entry (state) WHERE state != 'READY';

CREATE TABLE blob (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL CHECK (size >= 0),
    refs INTEGER NOT NULL DEFAULT 0 CHECK (refs >= 0),
    state TEXT NOT NULL CHECK (state IN ('PUBLISHING', 'READY', 'EVICTING'))
);
CREATE INDEX unfinished_blob ON blob (state) WHERE state != 'READY';

CREATE TABLE entry_file (
    entry_id TEXT NOT NULL,
    relpath TEXT NOT NULL,
    blob_id INTEGER NOT NULL,
    PRIMARY KEY (entry_id, relpath)
) WITHOUT ROWID;

-- The file is partial/<ident>/<n>.<token>.part; extents is JSON, done the bytes in them.
CREATE TABLE part (
    ident TEXT NOT NULL,
    n INTEGER NOT NULL,
    token TEXT NOT NULL,
    size INTEGER,
    validator TEXT NOT NULL,
    extents TEXT NOT NULL,
    done INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    PRIMARY KEY (ident, n)
) WITHOUT ROWID;

CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES
    ('sequence', 0), ('blob_bytes', 0), ('blobs', 0), ('reserved_bytes', 0), ('entries', 0),
    ('part_bytes', 0);

CREATE TRIGGER file_added AFTER INSERT ON entry_file BEGIN
    UPDATE blob SET refs = refs + 1 WHERE id = NEW.blob_id;
END;
CREATE TRIGGER file_removed AFTER DELETE ON entry_file BEGIN
    UPDATE blob SET refs = refs - 1 WHERE id = OLD.blob_id;
END;

CREATE TRIGGER blob_added AFTER INSERT ON blob BEGIN
    UPDATE counter SET value = value + NEW.size WHERE name = 'blob_bytes';
    UPDATE counter SET value = value + 1 WHERE name = 'blobs';
END;
CREATE TRIGGER blob_removed AFTER DELETE ON blob BEGIN
    UPDATE counter SET value = value - OLD.size WHERE name = 'blob_bytes';
    UPDATE counter SET value = value - 1 WHERE name = 'blobs';
END;

CREATE TRIGGER entry_added AFTER INSERT ON entry BEGIN
    UPDATE counter SET value = value + NEW.bytes
        WHERE name = 'reserved_bytes' AND NEW.state = 'FETCHING';
    UPDATE counter SET value = value + 1 WHERE name = 'entries' AND NEW.state = 'READY';
END;
CREATE TRIGGER entry_changed AFTER UPDATE OF state, bytes ON entry BEGIN
    UPDATE counter SET value = value
        + (NEW.state = 'FETCHING') * NEW.bytes - (OLD.state = 'FETCHING') * OLD.bytes
        WHERE name = 'reserved_bytes';
    UPDATE counter SET value = value + (NEW.state = 'READY') - (OLD.state = 'READY')
        WHERE name = 'entries';
END;
CREATE TRIGGER entry_removed AFTER DELETE ON entry BEGIN
    UPDATE counter SET value = value - OLD.bytes
        WHERE name = 'reserved_bytes' AND OLD.state = 'FETCHING';
    UPDATE counter SET value = value - 1 WHERE name = 'entries' AND OLD.state = 'READY';
END;

CREATE TRIGGER part_added AFTER INSERT ON part BEGIN
    UPDATE counter SET value = value + NEW.done WHERE name = 'part_bytes';
END;
CREATE TRIGGER part_changed AFTER UPDATE OF done ON part BEGIN
    UPDATE counter SET value = value + NEW.done - OLD.done WHERE name = 'part_bytes';
END;
CREATE TRIGGER part_removed AFTER DELETE ON part BEGIN
    UPDATE counter SET value = value - OLD.done WHERE name = 'part_bytes';
END;
"""
