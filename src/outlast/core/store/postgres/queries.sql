-- A flush is four round trips: begin (and lock), load, write, COMMIT. Everything between the first and the last
-- stands in every other node's way, so what is loaded is one statement, and what is written is another, each with
-- one part per table.

-- name: begin
-- A statement of its own: under READ COMMITTED the next one then sees all that the lock's last holder committed.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT 1 FROM head WHERE one = 1 FOR UPDATE;

-- name: load
-- No SKIP LOCKED for the claims: the head's lock is held, so nobody else can be claiming.
SELECT h.size, h.edge, h.hlc, h.next_job,
    ARRAY(
        SELECT ROW (s.tenant, s.kind, s.id, s.version, s.label, s.state, s.last_index, s.updated_ms)
        FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (tenant, kind, id)
        JOIN stream s ON s.tenant = wanted.tenant AND s.kind = wanted.kind AND s.id = wanted.id
    ),
    ARRAY(
        SELECT ROW (digest, body, receipt, created_ms) FROM idempotency WHERE digest = ANY ($4::bytea[])
    ),
    ARRAY(
        SELECT ROW (id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts,
                    cause, created_ms, error, trace)
        FROM job WHERE id = ANY ($5::bigint[])
    ),
    ARRAY(
        SELECT ROW (name, value) FROM counter WHERE name = ANY ($6::text[])
    ),
    ARRAY(
        SELECT ROW (ask.number, j.id, j.tenant, j.kind, j.stream, j.payload, j.state, j.run_at_ms, j.lease, j.worker,
                    j.lease_until_ms, j.attempts, j.cause, j.created_ms, j.error, j.trace)
        FROM unnest($7::bigint[], $8::text[]) WITH ORDINALITY AS ask (now_ms, kinds, number)
        CROSS JOIN LATERAL (
            (SELECT 1 AS part, lease_until_ms AS at_ms, job.* FROM job
             WHERE state = 'leased' AND lease_until_ms <= ask.now_ms
               AND kind = ANY (ARRAY(SELECT jsonb_array_elements_text(ask.kinds::jsonb)))
             ORDER BY lease_until_ms, id LIMIT $9)
            UNION ALL
            (SELECT 2 AS part, run_at_ms AS at_ms, job.* FROM job
             WHERE state = 'ready' AND run_at_ms <= ask.now_ms
               AND kind = ANY (ARRAY(SELECT jsonb_array_elements_text(ask.kinds::jsonb)))
             ORDER BY run_at_ms, id LIMIT $9)
        ) AS j
        ORDER BY ask.number, j.part, j.at_ms, j.id
    )
FROM head h WHERE h.one = 1;

-- name: write
WITH new_entry AS (
    INSERT INTO entry (idx, previous, leaf)
    SELECT * FROM unnest($5::bigint[], $6::bigint[], $7::bytea[])
), new_stream AS (
    INSERT INTO stream (tenant, kind, id, version, label, state, last_index, updated_ms)
    SELECT * FROM unnest($8::text[], $9::text[], $10::text[], $11::bigint[], $12::text[], $13::bytea[],
                         $14::bigint[], $15::bigint[])
), changed_stream AS (
    UPDATE stream s
    SET version = w.version, label = w.label, state = w.state, last_index = w.last_index, updated_ms = w.updated_ms
    FROM unnest($16::text[], $17::text[], $18::text[], $19::bigint[], $20::text[], $21::bytea[], $22::bigint[],
                $23::bigint[]) AS w (tenant, kind, id, version, label, state, last_index, updated_ms)
    WHERE s.tenant = w.tenant AND s.kind = w.kind AND s.id = w.id
), new_idempotency AS (
    INSERT INTO idempotency (digest, body, receipt, created_ms)
    SELECT * FROM unnest($24::bytea[], $25::bytea[], $26::bytea[], $27::bigint[])
), new_job AS (
    INSERT INTO job (id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts,
                     cause, created_ms, error, trace)
    SELECT * FROM unnest($28::bigint[], $29::text[], $30::text[], $31::text[], $32::bytea[], $33::text[],
                         $34::bigint[], $35::bigint[], $36::text[], $37::bigint[], $38::bigint[], $39::bigint[],
                         $40::bigint[], $41::text[], $42::text[])
), changed_job AS (
    UPDATE job j
    SET state = w.state, run_at_ms = w.run_at_ms, lease = w.lease, worker = w.worker,
        lease_until_ms = w.lease_until_ms, attempts = w.attempts, error = w.error
    FROM unnest($43::bigint[], $44::text[], $45::bigint[], $46::bigint[], $47::text[], $48::bigint[], $49::bigint[],
                $50::text[]) AS w (id, state, run_at_ms, lease, worker, lease_until_ms, attempts, error)
    WHERE j.id = w.id
), new_counter AS (
    INSERT INTO counter (name, value) SELECT * FROM unnest($51::text[], $52::bigint[])
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
), new_subject_key AS (
    INSERT INTO subject_key (subject, wrapped) SELECT * FROM unnest($53::text[], $54::bytea[])
)
UPDATE head SET size = $1, edge = $2, hlc = $3, next_job = $4 WHERE one = 1;

-- name: head
SELECT size, edge, hlc, next_job FROM head WHERE one = 1;

-- name: stream
SELECT version, label, state, last_index, updated_ms FROM stream WHERE tenant = $1 AND kind = $2 AND id = $3;

-- name: idempotency
SELECT digest, body, receipt, created_ms FROM idempotency WHERE digest = $1;

-- name: list_streams
SELECT id, version, label, state, last_index, updated_ms FROM stream
WHERE tenant = $1 AND kind = $2 AND id < $3 ORDER BY id DESC LIMIT $4;

-- name: list_streams_labelled
SELECT id, version, label, state, last_index, updated_ms FROM stream
WHERE tenant = $1 AND kind = $2 AND label = $3 AND id < $4 ORDER BY id DESC LIMIT $5;

-- name: entries
SELECT leaf FROM entry WHERE idx >= $1 ORDER BY idx LIMIT $2;

-- name: stream_entries
WITH RECURSIVE chain AS (
    SELECT e.idx, e.previous, e.leaf, 1 AS number
    FROM stream s JOIN entry e ON e.idx = s.last_index
    WHERE s.tenant = $1 AND s.kind = $2 AND s.id = $3 AND $4::bigint > 0
    UNION ALL
    SELECT e.idx, e.previous, e.leaf, chain.number + 1
    FROM chain JOIN entry e ON e.idx = chain.previous
    WHERE chain.number < $4::bigint
)
SELECT idx, leaf FROM chain ORDER BY idx;

-- name: job
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error, trace
FROM job WHERE id = $1;

-- name: jobs
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error, trace
FROM job WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3;

-- name: jobs_done
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error, trace
FROM job WHERE tenant = $1 AND state = 'done' AND id > $2 ORDER BY id LIMIT $3;

-- name: jobs_ready
-- By the index of ready jobs, however many finished ones there are: in the order of ids those would be read too.
WITH found AS MATERIALIZED (SELECT id FROM job WHERE state = 'ready' AND tenant = $1)
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error, trace
FROM job WHERE id IN (SELECT id FROM found WHERE id > $2 ORDER BY id LIMIT $3) ORDER BY id;

-- name: jobs_leased
WITH found AS MATERIALIZED (SELECT id FROM job WHERE state = 'leased' AND tenant = $1)
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error, trace
FROM job WHERE id IN (SELECT id FROM found WHERE id > $2 ORDER BY id LIMIT $3) ORDER BY id;

-- name: jobs_stuck
-- The second condition lets PostgreSQL see that the partial index job_stuck has them all.
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error, trace
FROM job WHERE tenant = $1 AND state = $2 AND state IN ('dead', 'parked') AND id > $3 ORDER BY id LIMIT $4;

-- name: job_counts
SELECT (SELECT count(*) FROM job WHERE state = 'ready'),
       (SELECT count(*) FROM job WHERE state = 'leased'),
       (SELECT count(*) FROM job WHERE state = 'dead' AND state IN ('dead', 'parked')),
       (SELECT count(*) FROM job WHERE state = 'parked' AND state IN ('dead', 'parked'));

-- name: job_groups
SELECT kind, state, count(*), min(created_ms), min(run_at_ms) FROM job WHERE state = 'ready' GROUP BY kind, state
UNION ALL
SELECT kind, state, count(*), min(created_ms), min(run_at_ms) FROM job WHERE state = 'leased' GROUP BY kind, state
UNION ALL
SELECT kind, state, count(*), min(created_ms), min(run_at_ms) FROM job WHERE state IN ('dead', 'parked')
GROUP BY kind, state;

-- name: count_kind
SELECT (SELECT count(*) FROM job WHERE state = 'ready' AND kind = $1)
     + (SELECT count(*) FROM job WHERE state = 'leased' AND kind = $1);

-- name: next_due
SELECT LEAST(
    (SELECT run_at_ms FROM job WHERE state = 'ready' AND kind = ANY ($1::text[]) ORDER BY run_at_ms LIMIT 1),
    (SELECT lease_until_ms FROM job WHERE state = 'leased' AND kind = ANY ($1::text[])
     ORDER BY lease_until_ms LIMIT 1)
);

-- name: release_leases
UPDATE job SET lease_until_ms = 0 WHERE state = 'leased' AND worker = ANY ($1::text[]);

-- name: sessions
SELECT DISTINCT application_name FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'outlast/%';

-- name: counter
SELECT value FROM counter WHERE name = $1;

-- name: subject_key
SELECT wrapped FROM subject_key WHERE subject = $1;

-- name: pin
INSERT INTO pin (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING;

-- name: pinned
SELECT value FROM pin WHERE name = $1;

-- name: prune_alone
-- One node prunes at a time; the others need not wait for it.
SELECT pg_try_advisory_xact_lock(7810488);

-- name: prune_idempotency
WITH gone AS (
    DELETE FROM idempotency WHERE digest IN (
        SELECT digest FROM idempotency WHERE created_ms < $1 ORDER BY created_ms LIMIT 1000)
    RETURNING 1
)
SELECT count(*) FROM gone;

-- name: prune_jobs
-- Among the oldest finished ones, whatever unfinished and stuck ones are older still.
WITH gone AS (
    DELETE FROM job WHERE created_ms < $1 AND id IN (SELECT id FROM job WHERE state = 'done' ORDER BY id LIMIT 2000)
    RETURNING 1
)
SELECT count(*) FROM gone;

-- name: migrate_alone
SELECT pg_advisory_xact_lock(7810487);

-- name: schema_exists
SELECT to_regclass('schema_version') IS NOT NULL;

-- name: schema_create
CREATE TABLE schema_version (one integer PRIMARY KEY CHECK (one = 1), version integer NOT NULL);
INSERT INTO schema_version VALUES (1, 0);

-- name: schema_version
SELECT version FROM schema_version WHERE one = 1;

-- name: schema_set
UPDATE schema_version SET version = $1 WHERE one = 1;

-- name: settings
SELECT current_setting('server_version_num')::integer, current_setting('server_encoding'),
       current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
       pg_is_in_recovery();

-- name: missing_rights
SELECT string_agg(what || ' on ' || name, ', ')
FROM (VALUES ('head', 'SELECT'), ('head', 'UPDATE'), ('entry', 'SELECT'), ('entry', 'INSERT'),
             ('stream', 'SELECT'), ('stream', 'INSERT'), ('stream', 'UPDATE'),
             ('idempotency', 'SELECT'), ('idempotency', 'INSERT'), ('idempotency', 'DELETE'),
             ('job', 'SELECT'), ('job', 'INSERT'), ('job', 'UPDATE'), ('job', 'DELETE'),
             ('counter', 'SELECT'), ('counter', 'INSERT'), ('counter', 'UPDATE'),
             ('subject_key', 'SELECT'), ('subject_key', 'INSERT'), ('pin', 'SELECT'), ('pin', 'INSERT')
) AS need (name, what)
WHERE NOT has_table_privilege(name, what);
