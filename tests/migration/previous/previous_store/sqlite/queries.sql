-- A group after /*rows*/ is repeated once for every row that is written or looked up at once (rows.py).

-- name: head
SELECT size, edge, hlc, next_job FROM head WHERE one = 1;

-- name: write_head
UPDATE head SET size = ?, edge = ?, hlc = ?, next_job = ? WHERE one = 1;

-- name: stream
SELECT version, label, state, last_index, updated_ms FROM stream WHERE tenant = ? AND kind = ? AND id = ?;

-- name: find_streams
SELECT s.tenant, s.kind, s.id, s.version, s.label, s.state, s.last_index, s.updated_ms
FROM (VALUES /*rows*/ (?, ?, ?)) AS v
CROSS JOIN stream AS s ON s.tenant = v.column1 AND s.kind = v.column2 AND s.id = v.column3;

-- name: insert_stream
INSERT INTO stream (tenant, kind, id, version, label, state, last_index, updated_ms)
VALUES /*rows*/ (?, ?, ?, ?, ?, ?, ?, ?);

-- name: update_stream
UPDATE stream SET version = v.column4, label = v.column5, state = v.column6, last_index = v.column7,
                  updated_ms = v.column8
FROM (VALUES /*rows*/ (?, ?, ?, ?, ?, ?, ?, ?)) AS v
WHERE stream.tenant = v.column1 AND stream.kind = v.column2 AND stream.id = v.column3;

-- name: list_streams
SELECT id, version, label, state, last_index, updated_ms FROM stream
WHERE tenant = ? AND kind = ? AND id < ? ORDER BY id DESC LIMIT ?;

-- name: list_streams_labelled
SELECT id, version, label, state, last_index, updated_ms FROM stream
WHERE tenant = ? AND kind = ? AND label = ? AND id < ? ORDER BY id DESC LIMIT ?;

-- name: insert_entry
INSERT INTO entry (idx, previous, leaf) VALUES /*rows*/ (?, ?, ?);

-- name: entries
SELECT leaf FROM entry WHERE idx >= ? ORDER BY idx LIMIT ?;

-- name: entry
SELECT previous, leaf FROM entry WHERE idx = ?;

-- name: idempotency
SELECT body, receipt, created_ms FROM idempotency WHERE digest = ?;

-- name: find_idempotency
SELECT i.digest, i.body, i.receipt, i.created_ms
FROM (VALUES /*rows*/ (?)) AS v CROSS JOIN idempotency AS i ON i.digest = v.column1;

-- name: insert_idempotency
INSERT INTO idempotency (digest, body, receipt, created_ms) VALUES /*rows*/ (?, ?, ?, ?);

-- name: job
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error
FROM job WHERE id = ?;

-- name: find_jobs
SELECT j.id, j.tenant, j.kind, j.stream, j.payload, j.state, j.run_at_ms, j.lease, j.worker, j.lease_until_ms,
       j.attempts, j.cause, j.created_ms, j.error
FROM (VALUES /*rows*/ (?)) AS v CROSS JOIN job AS j ON j.id = v.column1;

-- name: insert_job
INSERT INTO job (id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts,
                 cause, created_ms, error)
VALUES /*rows*/ (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: update_job
UPDATE job SET state = v.column2, run_at_ms = v.column3, lease = v.column4, worker = v.column5,
               lease_until_ms = v.column6, attempts = v.column7, error = v.column8
FROM (VALUES /*rows*/ (?, ?, ?, ?, ?, ?, ?, ?)) AS v
WHERE job.id = v.column1;

-- name: due_jobs
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error
FROM job WHERE state = 'ready' AND run_at_ms <= ? AND kind IN (SELECT value FROM json_each(?))
ORDER BY run_at_ms, id LIMIT ?;

-- name: expired_jobs
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error
FROM job WHERE state = 'leased' AND lease_until_ms <= ? AND kind IN (SELECT value FROM json_each(?))
ORDER BY lease_until_ms, id LIMIT ?;

-- name: jobs
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error
FROM job WHERE tenant = ? AND id > ? ORDER BY id LIMIT ?;

-- name: jobs_done
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error
FROM job WHERE tenant = ? AND state = 'done' AND id > ? ORDER BY id LIMIT ?;

-- name: jobs_ready
-- By the index of ready jobs, however many finished ones there are: in the order of ids SQLite would read those too.
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error
FROM job INDEXED BY job_due WHERE tenant = ? AND state = 'ready' AND id > ? ORDER BY id LIMIT ?;

-- name: jobs_leased
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error
FROM job INDEXED BY job_leased WHERE tenant = ? AND state = 'leased' AND id > ? ORDER BY id LIMIT ?;

-- name: jobs_stuck
-- The second condition lets SQLite see that the partial index job_stuck has them all.
SELECT id, tenant, kind, stream, payload, state, run_at_ms, lease, worker, lease_until_ms, attempts, cause,
       created_ms, error
FROM job WHERE tenant = ? AND state = ? AND state IN ('dead', 'parked') AND id > ? ORDER BY id LIMIT ?;

-- name: count_ready
SELECT count(*) FROM job WHERE state = 'ready';

-- name: count_leased
SELECT count(*) FROM job WHERE state = 'leased';

-- name: count_dead
SELECT count(*) FROM job WHERE state = 'dead' AND state IN ('dead', 'parked');

-- name: count_parked
SELECT count(*) FROM job WHERE state = 'parked' AND state IN ('dead', 'parked');

-- name: job_groups
SELECT kind, state, count(*), min(created_ms), min(run_at_ms) FROM job WHERE state = 'ready' GROUP BY kind
UNION ALL
SELECT kind, state, count(*), min(created_ms), min(run_at_ms) FROM job WHERE state = 'leased' GROUP BY kind
UNION ALL
SELECT kind, state, count(*), min(created_ms), min(run_at_ms) FROM job WHERE state IN ('dead', 'parked')
GROUP BY kind, state;

-- name: count_kind
-- A term for each partial index: together they would make SQLite read the finished jobs as well.
SELECT (SELECT count(*) FROM job WHERE state = 'ready' AND kind = ?1)
     + (SELECT count(*) FROM job WHERE state = 'leased' AND kind = ?1);

-- name: next_ready
SELECT run_at_ms FROM job WHERE state = 'ready' AND kind IN (SELECT value FROM json_each(?))
ORDER BY run_at_ms LIMIT 1;

-- name: next_expiry
SELECT lease_until_ms FROM job WHERE state = 'leased' AND kind IN (SELECT value FROM json_each(?))
ORDER BY lease_until_ms LIMIT 1;

-- name: release_leases
UPDATE job SET lease_until_ms = 0 WHERE state = 'leased';

-- name: counter
SELECT value FROM counter WHERE name = ?;

-- name: find_counters
SELECT c.name, c.value FROM (VALUES /*rows*/ (?)) AS v CROSS JOIN counter AS c ON c.name = v.column1;

-- name: write_counter
INSERT INTO counter (name, value) VALUES /*rows*/ (?, ?)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: subject_key
SELECT wrapped FROM subject_key WHERE subject = ?;

-- name: insert_subject_key
INSERT INTO subject_key (subject, wrapped) VALUES /*rows*/ (?, ?);

-- name: prune_idempotency
DELETE FROM idempotency WHERE created_ms < ? AND seq IN (SELECT seq FROM idempotency ORDER BY seq LIMIT 1000);

-- name: prune_jobs
-- Among the oldest finished ones, whatever unfinished and stuck ones are older still.
DELETE FROM job WHERE created_ms < ? AND id IN (SELECT id FROM job WHERE state = 'done' ORDER BY id LIMIT 2000);
