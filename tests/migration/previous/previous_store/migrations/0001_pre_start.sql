-- The first schema. Keys are time-ordered integers in rowid tables: 7-10x over random keys (facts: commit path).

CREATE TABLE head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    size INTEGER NOT NULL,
    edge BLOB NOT NULL,
    hlc INTEGER NOT NULL,
    next_job INTEGER NOT NULL
) STRICT;
INSERT INTO head VALUES (1, 0, x'0000000000000000', 0, 1);

CREATE TABLE entry (
    idx INTEGER PRIMARY KEY,
    previous INTEGER NOT NULL,   -- the same stream's entry before this one, -1: none
    leaf BLOB NOT NULL           -- its bytes as first written, never re-serialised
) STRICT;

CREATE TABLE stream (
    sid INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    label TEXT NOT NULL,
    state BLOB NOT NULL,
    last_index INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX stream_key ON stream (tenant, kind, id);
CREATE INDEX stream_label ON stream (tenant, kind, label, id);

CREATE TABLE idempotency (
    seq INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,
    body BLOB NOT NULL,
    receipt BLOB NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX idempotency_digest ON idempotency (digest);

CREATE TABLE job (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    kind TEXT NOT NULL,
    stream TEXT NOT NULL,        -- kind/id of the stream whose event made it
    payload BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('ready', 'leased', 'done', 'dead', 'parked')),
    run_at_ms INTEGER NOT NULL,
    lease INTEGER NOT NULL,      -- grows at every claim; fences earlier holders
    worker TEXT NOT NULL,
    lease_until_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    cause INTEGER NOT NULL,      -- the log entry that made it
    created_ms INTEGER NOT NULL,
    error TEXT NOT NULL
) STRICT;
CREATE INDEX job_due ON job (run_at_ms, id) WHERE state = 'ready';
CREATE INDEX job_leased ON job (lease_until_ms) WHERE state = 'leased';
CREATE INDEX job_stuck ON job (state, id) WHERE state IN ('dead', 'parked');

CREATE TABLE counter (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Wrapped keys of personal fields. Deleting a row makes those fields unreadable wherever the log was copied to.
CREATE TABLE subject_key (
    subject TEXT PRIMARY KEY,
    wrapped BLOB NOT NULL
) STRICT, WITHOUT ROWID;
