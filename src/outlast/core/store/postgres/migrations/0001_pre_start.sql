-- The first schema. Names are compared byte by byte (COLLATE "C"), as SQLite does: listings are in the same order on
-- every server, and no upgrade of its locale library can make an index lie.

CREATE TABLE head (
    one integer PRIMARY KEY CHECK (one = 1),
    size bigint NOT NULL,
    edge bytea NOT NULL,
    hlc bigint NOT NULL,
    next_job bigint NOT NULL
);
INSERT INTO head VALUES (1, 0, '\x0000000000000000', 0, 1);

CREATE TABLE entry (
    idx bigint PRIMARY KEY,
    previous bigint NOT NULL,    -- the same stream's entry before this one, -1: none
    leaf bytea NOT NULL          -- its bytes as first written, never re-serialised
);

CREATE TABLE stream (
    tenant text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    label text COLLATE "C" NOT NULL,
    state bytea NOT NULL,
    last_index bigint NOT NULL,
    updated_ms bigint NOT NULL,
    PRIMARY KEY (tenant, kind, id)
) WITH (fillfactor = 80);
-- The label first: beginning like the key, this index would be taken in its place to find a stream by its name, and
-- read all of a kind for it (seen on tables without statistics).
CREATE INDEX stream_label ON stream (label, tenant, kind, id);

CREATE TABLE idempotency (
    digest bytea PRIMARY KEY,
    body bytea NOT NULL,
    receipt bytea NOT NULL,
    created_ms bigint NOT NULL
);
CREATE INDEX idempotency_age ON idempotency (created_ms);

CREATE TABLE job (
    id bigint PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,  -- kind/id of the stream whose event made it
    payload bytea NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('ready', 'leased', 'done', 'dead', 'parked')),
    run_at_ms bigint NOT NULL,
    lease bigint NOT NULL,       -- grows at every claim; fences earlier holders
    worker text COLLATE "C" NOT NULL,
    lease_until_ms bigint NOT NULL,
    attempts bigint NOT NULL,
    cause bigint NOT NULL,       -- the log entry that made it
    created_ms bigint NOT NULL,
    error text NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
CREATE INDEX job_due ON job (run_at_ms, id) WHERE state = 'ready';
CREATE INDEX job_leased ON job (lease_until_ms, id) WHERE state = 'leased';
CREATE INDEX job_stuck ON job (state, id) WHERE state IN ('dead', 'parked');

CREATE TABLE counter (
    name text COLLATE "C" PRIMARY KEY,
    value bigint NOT NULL
);

-- Wrapped keys of personal fields. Deleting a row makes those fields unreadable wherever the log was copied to.
CREATE TABLE subject_key (
    subject text COLLATE "C" PRIMARY KEY,
    wrapped bytea NOT NULL
);

-- What all nodes of the site must agree on: the log's origin, digests of the keys.
CREATE TABLE pin (
    name text COLLATE "C" PRIMARY KEY,
    value text NOT NULL
);
