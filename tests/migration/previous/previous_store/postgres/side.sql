-- What a move needs of the store (core/store/transfer.py): a page of each table in the order of its key.

-- name: page_entry
SELECT idx, previous, leaf FROM entry WHERE idx > $1 ORDER BY idx LIMIT $2;

-- name: page_stream
SELECT tenant, kind, id, version, label, state, last_index, updated_ms FROM stream
WHERE (tenant, kind, id) > ($1, $2, $3) ORDER BY tenant, kind, id LIMIT $4;

-- name: page_idempotency
SELECT digest, body, receipt, created_ms FROM idempotency WHERE digest > $1 ORDER BY digest LIMIT $2;

-- name: page_job
SELECT b.id, b.tenant, b.kind, b.stream, b.payload, coalesce(l.state, 'done'), coalesce(l.run_at_ms, d.run_at_ms),
       coalesce(l.lease, d.lease), coalesce(l.worker, d.worker), coalesce(l.lease_until_ms, d.lease_until_ms),
       coalesce(l.attempts, d.attempts), b.cause, b.created_ms, coalesce(l.error, d.error)
FROM job_body b
LEFT JOIN job_lease l ON l.id = b.id
LEFT JOIN job_done d ON d.id = CASE WHEN l.id IS NULL THEN b.id END
WHERE b.id > $1 ORDER BY b.id LIMIT $2;

-- name: page_counter
SELECT name, value FROM counter WHERE name > $1 ORDER BY name LIMIT $2;

-- name: page_subject_key
SELECT subject, wrapped FROM subject_key WHERE subject > $1 ORDER BY subject LIMIT $2;

-- name: last_entry
SELECT idx FROM entry ORDER BY idx DESC LIMIT 1;

-- name: last_stream
SELECT tenant, kind, id FROM stream ORDER BY tenant DESC, kind DESC, id DESC LIMIT 1;

-- name: last_idempotency
SELECT digest FROM idempotency ORDER BY digest DESC LIMIT 1;

-- name: last_job
SELECT id FROM job_body ORDER BY id DESC LIMIT 1;

-- name: last_counter
SELECT name FROM counter ORDER BY name DESC LIMIT 1;

-- name: last_subject_key
SELECT subject FROM subject_key ORDER BY subject DESC LIMIT 1;

-- name: count_entry
SELECT count(*) FROM entry;

-- name: count_stream
SELECT count(*) FROM stream;

-- name: count_idempotency
SELECT count(*) FROM idempotency;

-- name: count_job
SELECT count(*) FROM job_body;

-- name: count_counter
SELECT count(*) FROM counter;

-- name: count_subject_key
SELECT count(*) FROM subject_key;

-- name: mark
SELECT value FROM pin WHERE name = 'move';

-- name: drop_mark
DELETE FROM pin WHERE name = 'move';

-- name: set_mark
INSERT INTO pin (name, value) VALUES ('move', $1);

-- name: tables
-- Of those that a site's store may have, those that are there.
SELECT string_agg(quote_ident(relname), ', ') FROM pg_class
WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
  AND relname = ANY (ARRAY['entry', 'stream', 'idempotency', 'counter', 'subject_key', 'pin', 'job_body', 'job_lease',
                           'job_done']);

-- name: reset_head
UPDATE head SET size = 0, edge = '\x0000000000000000', hlc = 0, next_job = 1;
