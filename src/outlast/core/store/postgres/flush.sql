-- The parts of a flush's two statements. statements.py puts together those that a flush needs: an empty part costs both
-- sides some 20 us. Each part counts its parameters from $1; they are numbered anew in the whole.

-- name: lock
-- Before the load where other nodes are at work, too. A statement of its own: under READ COMMITTED the next one then
-- sees all that the lock's last holder committed.
BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
SELECT 1 FROM head WHERE one = 1 FOR UPDATE;

-- name: load_head
-- xmin names the flush that wrote last, ctid is where; the clock is the server's.
h.size, h.edge, h.hlc, h.next_job, h.xmin, h.ctid, (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    (SELECT max(number) FROM schema_migration WHERE phase = 'post')

-- name: head_anywhere
h.one = 1

-- name: head_here
-- Where it was written last: while somebody holds a snapshot, no earlier version of the row can be removed, and by its
-- key it is found behind all of them.
h.ctid = $1::tid

-- name: load_streams
ARRAY(
    SELECT ROW (s.tenant, s.kind, s.id, s.version, s.label, s.state, s.last_index, s.updated_ms)
    FROM unnest($1::text[], $2::text[], $3::text[]) AS wanted (tenant, kind, id)
    JOIN stream s ON s.tenant = wanted.tenant AND s.kind = wanted.kind AND s.id = wanted.id
)

-- name: load_idempotency
ARRAY(
    SELECT ROW (digest, body, receipt, created_ms) FROM idempotency WHERE digest = ANY ($1::bytea[])
)

-- name: load_jobs
-- Where there is a lease row, job_done need not be asked: nothing equals NULL.
ARRAY(
    SELECT ROW (b.id, b.tenant, b.kind, b.stream, b.payload, coalesce(l.state, 'done'),
                coalesce(l.run_at_ms, d.run_at_ms), coalesce(l.lease, d.lease), coalesce(l.worker, d.worker),
                coalesce(l.lease_until_ms, d.lease_until_ms), coalesce(l.attempts, d.attempts), b.cause,
                b.created_ms, coalesce(l.error, d.error), b.trace)
    FROM job_body b
    LEFT JOIN job_lease l ON l.id = b.id
    LEFT JOIN job_done d ON d.id = CASE WHEN l.id IS NULL THEN b.id END
    WHERE b.id = ANY ($1::bigint[])
)

-- name: load_counters
ARRAY(
    SELECT ROW (name, value) FROM counter WHERE name = ANY ($1::text[])
)

-- name: load_claims
-- No SKIP LOCKED: whoever claims holds the head's lock when it writes, and has seen all that was written before.
-- $4 and $5: floors.py.
ARRAY(
    SELECT ROW (ask.number, b.id, b.tenant, b.kind, b.stream, b.payload, l.state, l.run_at_ms, l.lease, l.worker,
                l.lease_until_ms, l.attempts, b.cause, b.created_ms, l.error, b.trace)
    FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS ask (now_ms, kinds, number)
    CROSS JOIN LATERAL (
        (SELECT 1 AS part, lease_until_ms AS at_ms, id, state, run_at_ms, lease, worker, lease_until_ms, attempts, error
         FROM job_lease
         WHERE state = 'leased' AND lease_until_ms = 0
           AND kind = ANY (ARRAY(SELECT jsonb_array_elements_text(ask.kinds::jsonb)))
         ORDER BY lease_until_ms, id LIMIT $3)
        UNION ALL
        (SELECT 1 AS part, lease_until_ms AS at_ms, id, state, run_at_ms, lease, worker, lease_until_ms, attempts, error
         FROM job_lease
         WHERE state = 'leased' AND lease_until_ms <= ask.now_ms AND lease_until_ms >= $5
           AND kind = ANY (ARRAY(SELECT jsonb_array_elements_text(ask.kinds::jsonb)))
         ORDER BY lease_until_ms, id LIMIT $3)
        UNION ALL
        (SELECT 2 AS part, run_at_ms AS at_ms, id, state, run_at_ms, lease, worker, lease_until_ms, attempts, error
         FROM job_lease
         WHERE state = 'ready' AND run_at_ms <= ask.now_ms AND run_at_ms >= $4
           AND kind = ANY (ARRAY(SELECT jsonb_array_elements_text(ask.kinds::jsonb)))
         ORDER BY run_at_ms, id LIMIT $3)
    ) AS l
    JOIN job_body b ON b.id = l.id
    ORDER BY ask.number, l.part, l.at_ms, l.id
)

-- name: write_head
-- Every other part is done only if this one was: if nobody has written since the load, whose xmin it names.
held AS (
    UPDATE head SET size = $1, edge = $2, hlc = $3, next_job = $4 WHERE ctid = $6::tid AND xmin = $5::xid
    RETURNING 1 AS one, ctid AS place
)

-- name: write_entries
new_entry AS (
    INSERT INTO entry (idx, previous, leaf)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) WHERE (SELECT one FROM held) = 1
)

-- name: write_new_streams
new_stream AS (
    INSERT INTO stream (tenant, kind, id, version, label, state, last_index, updated_ms)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bytea[],
                         $7::bigint[], $8::bigint[]) WHERE (SELECT one FROM held) = 1
)

-- name: write_streams
changed_stream AS (
    UPDATE stream s
    SET version = w.version, label = w.label, state = w.state, last_index = w.last_index, updated_ms = w.updated_ms
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bytea[], $7::bigint[],
                $8::bigint[]) AS w (tenant, kind, id, version, label, state, last_index, updated_ms)
    WHERE s.tenant = w.tenant AND s.kind = w.kind AND s.id = w.id AND (SELECT one FROM held) = 1
)

-- name: write_idempotency
new_idempotency AS (
    INSERT INTO idempotency (digest, body, receipt, created_ms)
    SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[]) WHERE (SELECT one FROM held) = 1
)

-- name: write_bodies
new_body AS (
    INSERT INTO job_body (id, tenant, kind, stream, payload, cause, created_ms, trace)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bigint[], $7::bigint[],
                         $8::text[]) WHERE (SELECT one FROM held) = 1
)

-- name: write_new_leases
new_lease AS (
    INSERT INTO job_lease (id, kind, state, run_at_ms, lease, worker, lease_until_ms, attempts, error)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[],
                         $8::bigint[], $9::text[]) WHERE (SELECT one FROM held) = 1
)

-- name: write_leases
changed_lease AS (
    UPDATE job_lease l
    SET state = w.state, run_at_ms = w.run_at_ms, lease = w.lease, worker = w.worker,
        lease_until_ms = w.lease_until_ms, attempts = w.attempts, error = w.error
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[],
                $8::text[]) AS w (id, state, run_at_ms, lease, worker, lease_until_ms, attempts, error)
    WHERE l.id = w.id AND (SELECT one FROM held) = 1
)

-- name: write_done
ended_lease AS (
    DELETE FROM job_lease WHERE id = ANY ($1::bigint[]) AND (SELECT one FROM held) = 1
), new_done AS (
    INSERT INTO job_done (id, run_at_ms, lease, worker, lease_until_ms, attempts, error)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[],
                         $7::text[]) WHERE (SELECT one FROM held) = 1
)

-- name: write_undone
gone_done AS (
    DELETE FROM job_done WHERE id = ANY ($1::bigint[]) AND (SELECT one FROM held) = 1
)

-- name: write_counters
new_counter AS (
    INSERT INTO counter (name, value)
    SELECT * FROM unnest($1::text[], $2::bigint[]) WHERE (SELECT one FROM held) = 1
    ON CONFLICT (name) DO UPDATE SET value = excluded.value
)

-- name: write_subject_keys
new_subject_key AS (
    INSERT INTO subject_key (subject, wrapped)
    SELECT * FROM unnest($1::text[], $2::bytea[]) WHERE (SELECT one FROM held) = 1
)
