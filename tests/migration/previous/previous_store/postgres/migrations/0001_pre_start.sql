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

-- A job is a body, which never changes, and while it is unfinished a row in the lease table, which does. A finished
-- one has a row in job_done instead. Bodies and done rows are in partitions by number, so that old ones go as whole
-- files: the lease table stays small, and nothing else leaves dead rows behind (docs/adr/0012).
CREATE TABLE job_body (
    id bigint PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,  -- kind/id of the stream whose event made it
    payload bytea NOT NULL,
    cause bigint NOT NULL,       -- the log entry that made it
    created_ms bigint NOT NULL
) PARTITION BY RANGE (id);
CREATE TABLE job_body_rest PARTITION OF job_body DEFAULT;

CREATE TABLE job_lease (
    id bigint PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('ready', 'leased', 'dead', 'parked')),
    run_at_ms bigint NOT NULL,
    lease bigint NOT NULL,       -- grows at every claim; fences earlier holders
    worker text COLLATE "C" NOT NULL,
    lease_until_ms bigint NOT NULL,
    attempts bigint NOT NULL,
    error text NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
CREATE INDEX job_due ON job_lease (run_at_ms, id) WHERE state = 'ready';
CREATE INDEX job_leased ON job_lease (lease_until_ms, id) WHERE state = 'leased';
CREATE INDEX job_stuck ON job_lease (state, id) WHERE state IN ('dead', 'parked');

CREATE TABLE job_done (
    id bigint PRIMARY KEY,
    run_at_ms bigint NOT NULL,
    lease bigint NOT NULL,
    worker text COLLATE "C" NOT NULL,
    lease_until_ms bigint NOT NULL,
    attempts bigint NOT NULL,
    error text NOT NULL
) PARTITION BY RANGE (id);
CREATE TABLE job_done_rest PARTITION OF job_done DEFAULT;

-- The partitions there are: job_body_N and job_done_N hold the jobs from_id = N to to_id - 1. A job outside of all of
-- them is in the two tables called rest.
CREATE TABLE job_partition (
    from_id bigint PRIMARY KEY,
    to_id bigint NOT NULL,
    made_ms bigint NOT NULL,     -- when, and what the next job's number was then: how fast they come
    made_at bigint NOT NULL
);

-- Whoever calls the next three holds the head's lock. They run with their owner's rights, so that the site's own role
-- need not own the tables, and give up at once where somebody reads a table for long: it is done later then.

CREATE FUNCTION job_partition_make(from_id bigint, to_id bigint, made_ms bigint, made_at bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '100ms' AS $$
DECLARE
    part text;
BEGIN
    FOREACH part IN ARRAY ARRAY['job_body', 'job_done'] LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%s) TO (%s)',
                       part || '_' || from_id, part, from_id, to_id);
    END LOOP;
    INSERT INTO job_partition VALUES (from_id, to_id, made_ms, made_at);
END $$;

-- Drops a partition whose newest job is older than given; the bodies of its unfinished jobs move to the rest. Returns
-- how many jobs went, NULL where it is too early, or where more than given would have to move.
CREATE FUNCTION job_partition_drop(from_id bigint, before_ms bigint, most_moved bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET lock_timeout = '100ms' AS $$
DECLARE
    part job_partition%ROWTYPE;
    newest_ms bigint;
    moved bigint;
BEGIN
    SELECT p.* INTO part FROM job_partition p WHERE p.from_id = job_partition_drop.from_id;
    IF NOT FOUND OR part.to_id > (SELECT next_job FROM head) THEN
        RETURN NULL;
    END IF;
    EXECUTE format('SELECT created_ms FROM %I ORDER BY id DESC LIMIT 1', 'job_body_' || part.from_id) INTO newest_ms;
    SELECT count(*) INTO moved FROM (
        SELECT 1 FROM job_lease l WHERE l.id >= part.from_id AND l.id < part.to_id LIMIT most_moved + 1) AS unfinished;
    IF newest_ms >= before_ms OR moved > most_moved THEN
        RETURN NULL;
    END IF;
    EXECUTE format('ALTER TABLE job_body DETACH PARTITION %I', 'job_body_' || part.from_id);
    EXECUTE format('INSERT INTO job_body SELECT b.* FROM job_lease l JOIN %I b ON b.id = l.id
                    WHERE l.id >= %s AND l.id < %s', 'job_body_' || part.from_id, part.from_id, part.to_id);
    EXECUTE format('DROP TABLE %I, %I', 'job_body_' || part.from_id, 'job_done_' || part.from_id);
    DELETE FROM job_partition p WHERE p.from_id = part.from_id;
    RETURN part.to_id - part.from_id - moved;
END $$;

-- Forgets finished jobs where no partition will go soon: the newest one, and the rest. A bounded number.
CREATE FUNCTION job_rows_forget(before_ms bigint, most bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    part text;
    gone bigint;
    total bigint := 0;
BEGIN
    FOR part IN SELECT '_rest' UNION ALL SELECT '_' || max(p.from_id) FROM job_partition p HAVING max(p.from_id) > 0 LOOP
        EXECUTE format('WITH old AS (
                            SELECT b.id FROM (SELECT id FROM %1$I ORDER BY id LIMIT $2) AS d
                            JOIN %2$I b ON b.id = d.id
                            WHERE b.created_ms < $1 AND NOT EXISTS (SELECT 1 FROM job_lease l WHERE l.id = b.id)
                        ), body AS (
                            DELETE FROM %2$I WHERE id IN (SELECT id FROM old)
                        ), done AS (
                            DELETE FROM %1$I WHERE id IN (SELECT id FROM old) RETURNING 1
                        ) SELECT count(*) FROM done', 'job_done' || part, 'job_body' || part)
            INTO gone USING before_ms, most;
        total := total + gone;
    END LOOP;
    RETURN total;
END $$;

REVOKE ALL ON FUNCTION job_partition_make, job_partition_drop, job_rows_forget FROM PUBLIC;
SELECT job_partition_make(1, 100001, 0, 1);

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
