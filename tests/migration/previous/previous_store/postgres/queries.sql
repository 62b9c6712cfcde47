-- What is no flush: reads, upkeep, the schema. A flush's statements are in flush.sql.

-- name: head
SELECT size, edge, hlc, next_job FROM head WHERE one = 1;

-- name: stream
SELECT version, label, state, last_index, updated_ms FROM stream WHERE tenant = $1 AND kind = $2 AND id = $3;

-- name: find_streams
SELECT s.tenant, s.kind, s.id, s.version, s.label, s.state, s.last_index, s.updated_ms
FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (tenant, kind, id)
JOIN stream s ON s.tenant = wanted.tenant AND s.kind = wanted.kind AND s.id = wanted.id;

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
-- Where there is a lease row, job_done need not be asked: nothing equals NULL.
SELECT b.id, b.tenant, b.kind, b.stream, b.payload, coalesce(l.state, 'done'), coalesce(l.run_at_ms, d.run_at_ms),
       coalesce(l.lease, d.lease), coalesce(l.worker, d.worker), coalesce(l.lease_until_ms, d.lease_until_ms),
       coalesce(l.attempts, d.attempts), b.cause, b.created_ms, coalesce(l.error, d.error)
FROM job_body b
LEFT JOIN job_lease l ON l.id = b.id
LEFT JOIN job_done d ON d.id = CASE WHEN l.id IS NULL THEN b.id END
WHERE b.id = $1;

-- name: jobs
SELECT b.id, b.tenant, b.kind, b.stream, b.payload, coalesce(l.state, 'done'), coalesce(l.run_at_ms, d.run_at_ms),
       coalesce(l.lease, d.lease), coalesce(l.worker, d.worker), coalesce(l.lease_until_ms, d.lease_until_ms),
       coalesce(l.attempts, d.attempts), b.cause, b.created_ms, coalesce(l.error, d.error)
FROM job_body b
LEFT JOIN job_lease l ON l.id = b.id
LEFT JOIN job_done d ON d.id = CASE WHEN l.id IS NULL THEN b.id END
WHERE b.tenant = $1 AND b.id > $2 ORDER BY b.id LIMIT $3;

-- name: jobs_in_state
SELECT b.id, b.tenant, b.kind, b.stream, b.payload, l.state, l.run_at_ms, l.lease, l.worker, l.lease_until_ms,
       l.attempts, b.cause, b.created_ms, l.error
FROM job_lease l JOIN job_body b ON b.id = l.id
WHERE b.tenant = $1 AND l.state = $2 AND l.id > $3 ORDER BY l.id LIMIT $4;

-- name: jobs_stuck
-- The second condition lets PostgreSQL see that the partial index job_stuck has them all.
SELECT b.id, b.tenant, b.kind, b.stream, b.payload, l.state, l.run_at_ms, l.lease, l.worker, l.lease_until_ms,
       l.attempts, b.cause, b.created_ms, l.error
FROM job_lease l JOIN job_body b ON b.id = l.id
WHERE b.tenant = $1 AND l.state = $2 AND l.state IN ('dead', 'parked') AND l.id > $3 ORDER BY l.id LIMIT $4;

-- name: jobs_done
SELECT b.id, b.tenant, b.kind, b.stream, b.payload, 'done', d.run_at_ms, d.lease, d.worker, d.lease_until_ms,
       d.attempts, b.cause, b.created_ms, d.error
FROM job_done d JOIN job_body b ON b.id = d.id
WHERE b.tenant = $1 AND d.id > $2 ORDER BY d.id LIMIT $3;

-- name: job_counts
SELECT (SELECT count(*) FROM job_lease WHERE state = 'ready'),
       (SELECT count(*) FROM job_lease WHERE state = 'leased'),
       (SELECT count(*) FROM job_lease WHERE state = 'dead' AND state IN ('dead', 'parked')),
       (SELECT count(*) FROM job_lease WHERE state = 'parked' AND state IN ('dead', 'parked'));

-- name: job_groups
-- The oldest made is the one with the smallest number.
SELECT g.kind, g.state, g.count, b.created_ms, g.oldest_due_ms
FROM (SELECT kind, state, count(*), min(id) AS oldest, min(run_at_ms) AS oldest_due_ms
      FROM job_lease GROUP BY kind, state) AS g
JOIN job_body b ON b.id = g.oldest;

-- name: count_kind
SELECT (SELECT count(*) FROM job_lease WHERE state = 'ready' AND kind = $1)
     + (SELECT count(*) FROM job_lease WHERE state = 'leased' AND kind = $1);

-- name: next_due
SELECT LEAST(
    (SELECT run_at_ms FROM job_lease WHERE state = 'ready' AND kind = ANY ($1::text[]) ORDER BY run_at_ms LIMIT 1),
    (SELECT lease_until_ms FROM job_lease WHERE state = 'leased' AND kind = ANY ($1::text[])
     ORDER BY lease_until_ms LIMIT 1)
);

-- name: release_leases
UPDATE job_lease SET lease_until_ms = 0 WHERE state = 'leased' AND worker = ANY ($1::text[]);

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
-- One node prunes at a time; the others need not wait for it. The session's, as it is several transactions.
SELECT pg_try_advisory_lock(7810488);

-- name: prune_done
SELECT pg_advisory_unlock(7810488);

-- name: prune_idempotency
WITH gone AS (
    DELETE FROM idempotency WHERE digest IN (
        SELECT digest FROM idempotency WHERE created_ms < $1 ORDER BY created_ms LIMIT 1000)
    RETURNING 1
)
SELECT count(*) FROM gone;

-- name: forget_jobs
SELECT job_rows_forget($1, 2000);

-- name: next_job
SELECT next_job FROM head WHERE one = 1;

-- name: partitions
SELECT from_id, to_id, made_ms, made_at FROM job_partition ORDER BY from_id;

-- name: make_partition
SELECT job_partition_make($1, $2, $3, $4);

-- name: drop_partition
SELECT job_partition_drop($1, $2, $3);

-- name: migrate_alone
SELECT pg_advisory_xact_lock(7810487);

-- name: migrate_patience
SET LOCAL lock_timeout = '2s';

-- name: schema_exists
-- Not to_regclass: it may remember, in the transaction that waited for the lock, that there was no table before.
SELECT EXISTS (SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relname = 'schema_migration' AND n.nspname = ANY (current_schemas(false)));

-- name: schema_create
CREATE TABLE schema_migration (
    number integer PRIMARY KEY,
    phase text NOT NULL CHECK (phase IN ('pre', 'post')),
    applied timestamptz NOT NULL DEFAULT now()
);

-- name: schema_applied
SELECT number, phase FROM schema_migration ORDER BY number;

-- name: schema_add
INSERT INTO schema_migration (number, phase) VALUES ($1, $2);

-- name: fence
-- Whoever has loaded before a post migration must not write after it: the head is not what it was.
UPDATE head SET size = size WHERE one = 1;

-- name: settings
SELECT current_setting('server_version_num')::integer, current_setting('server_encoding'),
       current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
       pg_is_in_recovery();

-- name: missing_rights
SELECT string_agg(what || ' on ' || name, ', ')
FROM (VALUES ('head', 'SELECT'), ('head', 'UPDATE'), ('entry', 'SELECT'), ('entry', 'INSERT'),
             ('stream', 'SELECT'), ('stream', 'INSERT'), ('stream', 'UPDATE'),
             ('idempotency', 'SELECT'), ('idempotency', 'INSERT'), ('idempotency', 'DELETE'),
             ('job_body', 'SELECT'), ('job_body', 'INSERT'), ('job_partition', 'SELECT'),
             ('job_lease', 'SELECT'), ('job_lease', 'INSERT'), ('job_lease', 'UPDATE'), ('job_lease', 'DELETE'),
             ('job_done', 'SELECT'), ('job_done', 'INSERT'), ('job_done', 'DELETE'),
             ('counter', 'SELECT'), ('counter', 'INSERT'), ('counter', 'UPDATE'),
             ('subject_key', 'SELECT'), ('subject_key', 'INSERT'), ('pin', 'SELECT'), ('pin', 'INSERT'),
             ('schema_migration', 'SELECT')
) AS need (name, what)
WHERE NOT has_table_privilege(name, what);

-- name: missing_functions
SELECT string_agg('EXECUTE on ' || name, ', ')
FROM unnest(ARRAY['job_partition_make(bigint, bigint, bigint, bigint)', 'job_partition_drop(bigint, bigint, bigint)',
                  'job_rows_forget(bigint, bigint)']) AS name
WHERE NOT has_function_privilege(name, 'EXECUTE');
