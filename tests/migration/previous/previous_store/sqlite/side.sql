-- What a move needs of the store (core/store/transfer.py): a page of each table in the order of its key.

-- name: page_entry
SELECT idx, previous, leaf FROM entry WHERE idx > ? ORDER BY idx LIMIT ?;

-- name: page_stream
SELECT tenant, kind, id, version, label, state, last_index, updated_ms FROM stream
WHERE (tenant, kind, id) > (?, ?, ?) ORDER BY tenant, kind, id LIMIT ?;

-- name: page_idempotency
SELECT digest, body, receipt, created_ms FROM idempotency WHERE digest > ? ORDER BY digest LIMIT ?;

-- name: page_job
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error
FROM job WHERE id > ? ORDER BY id LIMIT ?;

-- name: page_counter
SELECT name, value FROM counter WHERE name > ? ORDER BY name LIMIT ?;

-- name: page_subject_key
SELECT subject, wrapped FROM subject_key WHERE subject > ? ORDER BY subject LIMIT ?;

-- name: last_entry
SELECT idx FROM entry ORDER BY idx DESC LIMIT 1;

-- name: last_stream
SELECT tenant, kind, id FROM stream ORDER BY tenant DESC, kind DESC, id DESC LIMIT 1;

-- name: last_idempotency
SELECT digest FROM idempotency ORDER BY digest DESC LIMIT 1;

-- name: last_job
SELECT id FROM job ORDER BY id DESC LIMIT 1;

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
SELECT count(*) FROM job;

-- name: count_counter
SELECT count(*) FROM counter;

-- name: count_subject_key
SELECT count(*) FROM subject_key;

-- name: has_mark
SELECT count(*) FROM sqlite_schema WHERE name = 'move_mark';

-- name: mark
SELECT mark FROM move_mark;

-- name: drop_mark
DROP TABLE IF EXISTS move_mark;

-- name: make_mark
-- Only a store that is moved has it.
CREATE TABLE move_mark (one INTEGER PRIMARY KEY CHECK (one = 1), mark BLOB NOT NULL) STRICT;

-- name: set_mark
INSERT INTO move_mark VALUES (1, ?);

-- name: empty
DELETE FROM entry;
DELETE FROM stream;
DELETE FROM idempotency;
DELETE FROM job;
DELETE FROM counter;
DELETE FROM subject_key;
DROP TABLE IF EXISTS move_mark;
UPDATE head SET size = 0, edge = x'0000000000000000', hlc = 0, next_job = 1;
