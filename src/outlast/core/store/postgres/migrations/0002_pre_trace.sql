-- The W3C traceparent of the request that led to a job. Code of before leaves it empty.
ALTER TABLE job_body ADD COLUMN trace text COLLATE "C" NOT NULL DEFAULT '';
