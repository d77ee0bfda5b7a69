-- What requests cost and what looks added, kept when the log of requests and the ledger's history are pruned.

ALTER TABLE harvest.fetches
    ADD COLUMN run_id bigint,
    ADD COLUMN server_limit integer CHECK (server_limit > 0),
    ADD COLUMN retry integer NOT NULL DEFAULT 0 CHECK (retry >= 0),
    ADD COLUMN thrown_away boolean NOT NULL GENERATED ALWAYS AS (kind = 'search' AND outcome IN ('cut', 'too_large', 'unusable')) STORED,
    ADD COLUMN limit_share double precision GENERATED ALWAYS AS
        (CASE WHEN kind = 'search' THEN returned::double precision / server_limit END) STORED;
COMMENT ON COLUMN harvest.fetches.run_id IS 'For which run (harvest.runs.id); NULL: for none, but to plan one, for instance';
COMMENT ON COLUMN harvest.fetches.server_limit IS 'The most traces a search could ask for then: the server''s limit as far as it was known, or less if the source''s traces_per_request says so; NULL: not recorded';
COMMENT ON COLUMN harvest.fetches.retry IS 'Attempts at its window that had failed before; 0: this was part of the first';
COMMENT ON COLUMN harvest.fetches.thrown_away IS 'The answer to a search did not count: at its limit, stopped early, too large, or not to be believed. Tempo''s work was for nothing';
COMMENT ON COLUMN harvest.fetches.limit_share IS 'Traces in the answer to a search as a share of server_limit; 1: full';
COMMENT ON COLUMN harvest.fetches.outcome IS 'complete; cut (at the limit, thrown away); limit (refused, limit learned); too_large, timeout, throttled, passing, access, query: failures; unusable: an answer for another window, too young, or one that lacks what is known to be there';

-- Geometric classes, four to each doubling: from 2^(n/4) up to 2^((n+1)/4) milliseconds.
CREATE FUNCTION harvest.duration_class(duration_ms integer) RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT floor(4 * ln(greatest(duration_ms, 1)::double precision) / ln(2::double precision) + 1e-9)::smallint
$$;
COMMENT ON FUNCTION harvest.duration_class(integer) IS 'The class n of durations from 2^(n/4) up to 2^((n+1)/4) milliseconds; its geometric middle is within 9 % of each';

CREATE TABLE harvest.pruned_fetches (
    day                date NOT NULL,
    source             text NOT NULL,
    dataset            text NOT NULL,
    run_id             bigint REFERENCES harvest.runs ON DELETE CASCADE,
    kind               text NOT NULL CHECK (kind IN ('search', 'count', 'trace')),
    outcome            text NOT NULL CHECK (outcome IN
        ('complete', 'cut', 'limit', 'too_large', 'timeout', 'throttled', 'passing', 'access', 'query', 'unusable')),
    duration_class     smallint NOT NULL,
    requests           bigint NOT NULL,
    retries            bigint NOT NULL,
    returned           bigint NOT NULL,
    bytes              bigint NOT NULL,
    inspected_bytes    bigint NOT NULL,
    inspected_requests bigint NOT NULL,
    duration_ms        bigint NOT NULL,
    fullest            double precision
);
COMMENT ON TABLE harvest.pruned_fetches IS 'Requests that housekeeping has deleted, summed up by day. harvest.request_figures adds them to those still there';
COMMENT ON COLUMN harvest.pruned_fetches.day IS 'The day, UTC';
COMMENT ON COLUMN harvest.pruned_fetches.source IS 'The Tempo asked';
COMMENT ON COLUMN harvest.pruned_fetches.dataset IS 'For which dataset';
COMMENT ON COLUMN harvest.pruned_fetches.run_id IS 'For which run; NULL: for none';
COMMENT ON COLUMN harvest.pruned_fetches.kind IS 'search, count (metrics) or trace (by ID)';
COMMENT ON COLUMN harvest.pruned_fetches.outcome IS 'As in harvest.fetches';
COMMENT ON COLUMN harvest.pruned_fetches.duration_class IS 'How long they took: harvest.duration_class';
COMMENT ON COLUMN harvest.pruned_fetches.requests IS 'Requests';
COMMENT ON COLUMN harvest.pruned_fetches.retries IS 'Of these, requests for windows at which an attempt had failed before';
COMMENT ON COLUMN harvest.pruned_fetches.returned IS 'Traces (counted intervals, spans) in their answers';
COMMENT ON COLUMN harvest.pruned_fetches.bytes IS 'Bytes of their answers, decompressed';
COMMENT ON COLUMN harvest.pruned_fetches.inspected_bytes IS 'Bytes Tempo said it read for them';
COMMENT ON COLUMN harvest.pruned_fetches.inspected_requests IS 'Requests of which it said so';
COMMENT ON COLUMN harvest.pruned_fetches.duration_ms IS 'How long they took together, milliseconds';
COMMENT ON COLUMN harvest.pruned_fetches.fullest IS 'The greatest share of the server''s limit that one brought; NULL: no limit was known';
CREATE UNIQUE INDEX pruned_fetches_key ON harvest.pruned_fetches
    (dataset, day, coalesce(run_id, 0), source, kind, outcome, duration_class);
CREATE INDEX pruned_fetches_run ON harvest.pruned_fetches (run_id);

CREATE VIEW harvest.request_figures AS
SELECT (at AT TIME ZONE 'UTC')::date AS day, source, coalesce(dataset, '') AS dataset, run_id, kind, outcome, harvest.duration_class(duration_ms) AS duration_class,
       1::bigint AS requests, (retry > 0)::int::bigint AS retries, coalesce(returned, 0)::bigint AS returned, coalesce(bytes, 0) AS bytes,
       coalesce(inspected_bytes, 0) AS inspected_bytes, (inspected_bytes IS NOT NULL)::int::bigint AS inspected_requests,
       duration_ms::bigint AS duration_ms, limit_share AS fullest, at
FROM harvest.fetches
UNION ALL
SELECT day, source, dataset, run_id, kind, outcome, duration_class, requests, retries, returned, bytes, inspected_bytes, inspected_requests,
       duration_ms, fullest, NULL
FROM harvest.pruned_fetches;
COMMENT ON VIEW harvest.request_figures IS 'What requests count for in sums: a row for each that is still in harvest.fetches, and the sums of those that housekeeping has deleted';
COMMENT ON COLUMN harvest.request_figures.day IS 'The day, UTC';
COMMENT ON COLUMN harvest.request_figures.source IS 'The Tempo asked';
COMMENT ON COLUMN harvest.request_figures.dataset IS 'For which dataset';
COMMENT ON COLUMN harvest.request_figures.run_id IS 'For which run; NULL: for none';
COMMENT ON COLUMN harvest.request_figures.kind IS 'search, count (metrics) or trace (by ID)';
COMMENT ON COLUMN harvest.request_figures.outcome IS 'As in harvest.fetches';
COMMENT ON COLUMN harvest.request_figures.duration_class IS 'How long it took: harvest.duration_class';
COMMENT ON COLUMN harvest.request_figures.requests IS 'Requests';
COMMENT ON COLUMN harvest.request_figures.retries IS 'Of these, requests for windows at which an attempt had failed before';
COMMENT ON COLUMN harvest.request_figures.returned IS 'Traces (counted intervals, spans) in the answers';
COMMENT ON COLUMN harvest.request_figures.bytes IS 'Bytes of the answers, decompressed';
COMMENT ON COLUMN harvest.request_figures.inspected_bytes IS 'Bytes Tempo said it read';
COMMENT ON COLUMN harvest.request_figures.inspected_requests IS 'Requests of which it said so';
COMMENT ON COLUMN harvest.request_figures.duration_ms IS 'Milliseconds, of all together';
COMMENT ON COLUMN harvest.request_figures.fullest IS 'The greatest share of the server''s limit that one brought; NULL: no limit was known';
COMMENT ON COLUMN harvest.request_figures.at IS 'When it was over; NULL: a sum over a day';

-- What looks added can be told of a stretch of time, too.
ALTER TABLE harvest.pruned_windows ADD COLUMN day date;
UPDATE harvest.pruned_windows SET day = coalesce(last_done_at AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC')::date;
ALTER TABLE harvest.pruned_windows
    ALTER COLUMN day SET NOT NULL,
    DROP CONSTRAINT pruned_windows_pkey,
    ADD PRIMARY KEY (run_id, look, looked_at_before, day);
COMMENT ON COLUMN harvest.pruned_windows.day IS 'The day they were finished on, UTC; of those summed up before this was recorded, of the last of them';
COMMENT ON TABLE harvest.pruned_windows IS 'Figures of windows that housekeeping has deleted, summed up by run, look and day. harvest.run_figures adds them to those still there';

CREATE INDEX windows_finished ON harvest.windows (dataset, finished_at) WHERE state = 'done';
