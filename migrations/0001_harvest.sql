-- The ledger (what is to be collected, what is being collected, what is covered) and the traces.
-- CHECK constraints mirror the enums in `src/store`; merged migrations never change.

CREATE SCHEMA IF NOT EXISTS harvest;
CREATE EXTENSION IF NOT EXISTS btree_gist;

COMMENT ON SCHEMA harvest IS 'tempo-harvest: traces collected from Grafana Tempo, and the ledger that says which seconds are completely collected';

CREATE TABLE harvest.sources (
    name            text PRIMARY KEY,
    spec            jsonb NOT NULL,
    last_success_at timestamptz,
    updated_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE harvest.sources IS 'The Tempo servers that are collected from. A source is its name; its URL may change.';
COMMENT ON COLUMN harvest.sources.name IS 'The name in sources.toml, or an inline source''s own';
COMMENT ON COLUMN harvest.sources.spec IS 'How to reach it, as written: ${VAR} references are not expanded and no secret is kept';
COMMENT ON COLUMN harvest.sources.last_success_at IS 'When it last answered a search';
COMMENT ON COLUMN harvest.sources.updated_at IS 'When the definition was last submitted';

CREATE TABLE harvest.source_limits (
    source     text NOT NULL REFERENCES harvest.sources ON DELETE CASCADE,
    limit_name text NOT NULL CHECK (limit_name IN
        ('max_result_limit', 'max_duration_s', 'max_spans_per_span_set', 'metrics_max_duration_s')),
    value      bigint NOT NULL CHECK (value > 0),
    learned_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, limit_name)
);
COMMENT ON TABLE harvest.source_limits IS 'Limits a server has named in a refusal. Forgotten after a day, so that a raised limit is noticed.';
COMMENT ON COLUMN harvest.source_limits.source IS 'The source that refused';
COMMENT ON COLUMN harvest.source_limits.limit_name IS 'Tempo''s name of the limit; durations in seconds';
COMMENT ON COLUMN harvest.source_limits.value IS 'The greatest value it accepts';
COMMENT ON COLUMN harvest.source_limits.learned_at IS 'When the refusal was met';

CREATE TABLE harvest.datasets (
    name        text PRIMARY KEY,
    source      text NOT NULL REFERENCES harvest.sources,
    tenant      text,
    query       text,
    detail      text NOT NULL CHECK (detail IN ('trace', 'services', 'spans')),
    attributes  text[] NOT NULL DEFAULT '{}',
    trace_count bigint NOT NULL DEFAULT 0 CHECK (trace_count >= 0),
    created_at  timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE harvest.datasets IS 'What traces and coverage belong to. Source, tenant, query, detail and attributes are its fingerprint: they cannot change while anything is covered.';
COMMENT ON COLUMN harvest.datasets.name IS 'The job file''s dataset, by default the job''s name';
COMMENT ON COLUMN harvest.datasets.source IS 'Where it is collected from';
COMMENT ON COLUMN harvest.datasets.tenant IS 'X-Scope-OrgID, NULL without tenants';
COMMENT ON COLUMN harvest.datasets.query IS 'The TraceQL filter, NULL for every trace';
COMMENT ON COLUMN harvest.datasets.detail IS 'trace: ID, root, start, duration; services: and spans and errors per service; spans: and every span';
COMMENT ON COLUMN harvest.datasets.attributes IS 'Span and resource attributes collected with detail spans';
COMMENT ON COLUMN harvest.datasets.trace_count IS 'Traces stored';
COMMENT ON COLUMN harvest.datasets.created_at IS 'When it was first submitted';

CREATE TABLE harvest.coverage (
    dataset text NOT NULL REFERENCES harvest.datasets ON DELETE CASCADE,
    look    text NOT NULL CHECK (look IN ('fresh', 'settled', 'sealed')),
    covered tstzmultirange NOT NULL DEFAULT '{}',
    PRIMARY KEY (dataset, look)
);
COMMENT ON TABLE harvest.coverage IS 'Which seconds of a dataset are completely collected. What is asked for minus `covered` is the gap.';
COMMENT ON COLUMN harvest.coverage.dataset IS 'The dataset';
COMMENT ON COLUMN harvest.coverage.look IS 'At which look: fresh and settled are provisional, sealed is complete';
COMMENT ON COLUMN harvest.coverage.covered IS 'Half-open ranges of whole seconds';

CREATE TABLE harvest.jobs (
    name         text PRIMARY KEY,
    dataset      text NOT NULL REFERENCES harvest.datasets ON DELETE CASCADE,
    spec         text NOT NULL,
    file         text NOT NULL,
    submitted_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE harvest.jobs IS 'Job files that were submitted, in their last form';
COMMENT ON COLUMN harvest.jobs.name IS 'The job''s name';
COMMENT ON COLUMN harvest.jobs.dataset IS 'The dataset it fills';
COMMENT ON COLUMN harvest.jobs.spec IS 'The TOML text as written: ${VAR} references are not expanded and no secret is kept';
COMMENT ON COLUMN harvest.jobs.file IS 'The path it was read from';
COMMENT ON COLUMN harvest.jobs.submitted_at IS 'When it was last submitted';

CREATE TABLE harvest.runs (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job          text NOT NULL REFERENCES harvest.jobs ON DELETE CASCADE,
    dataset      text NOT NULL REFERENCES harvest.datasets ON DELETE CASCADE,
    requested    tstzrange NOT NULL,
    settle_s     bigint NOT NULL CHECK (settle_s >= 0),
    command      text NOT NULL CHECK (command IN ('run', 'submit', 'work', 'demo')),
    submitted_by text NOT NULL,
    submitted_at timestamptz NOT NULL DEFAULT now(),
    state        text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'complete', 'failed', 'cancelled')),
    finished_at  timestamptz,
    error        text,
    CHECK ((state = 'open') = (finished_at IS NULL))
);
COMMENT ON TABLE harvest.runs IS 'One row for each submission of a job that found something to collect, or asked for what was never asked for before';
COMMENT ON COLUMN harvest.runs.id IS 'Number of the run';
COMMENT ON COLUMN harvest.runs.job IS 'The job submitted';
COMMENT ON COLUMN harvest.runs.dataset IS 'The dataset it fills';
COMMENT ON COLUMN harvest.runs.requested IS 'The range asked for, before what is covered was taken off';
COMMENT ON COLUMN harvest.runs.settle_s IS 'How far, in seconds, it stayed behind the present: what was younger was left for a later run';
COMMENT ON COLUMN harvest.runs.command IS 'The command that submitted it';
COMMENT ON COLUMN harvest.runs.submitted_by IS 'host:process:number of the process that submitted it';
COMMENT ON COLUMN harvest.runs.submitted_at IS 'When';
COMMENT ON COLUMN harvest.runs.state IS 'open while any of its windows is; then complete, failed (some window failed) or cancelled';
COMMENT ON COLUMN harvest.runs.finished_at IS 'When its last window was finished';
COMMENT ON COLUMN harvest.runs.error IS 'The error of a window that failed';
CREATE INDEX runs_open ON harvest.runs (id) WHERE state = 'open';

CREATE TABLE harvest.windows (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id           bigint NOT NULL REFERENCES harvest.runs ON DELETE CASCADE,
    dataset          text NOT NULL REFERENCES harvest.datasets ON DELETE CASCADE,
    source           text NOT NULL REFERENCES harvest.sources,
    look             text NOT NULL CHECK (look IN ('fresh', 'settled', 'sealed')),
    span             tstzrange NOT NULL CHECK (NOT isempty(span) AND lower_inc(span) AND NOT upper_inc(span)),
    parent_id        bigint REFERENCES harvest.windows ON DELETE SET NULL,
    state            text NOT NULL DEFAULT 'queued' CHECK (state IN
        ('queued', 'running', 'split', 'done', 'failed', 'cancelled')),
    priority         integer NOT NULL,
    queue_at         timestamptz NOT NULL,
    settle_s         bigint NOT NULL CHECK (settle_s >= 0),
    expected         bigint CHECK (expected >= 0),
    attempts         integer NOT NULL DEFAULT 0,
    throttled        integer NOT NULL DEFAULT 0,
    timeouts         integer NOT NULL DEFAULT 0,
    lapsed           integer NOT NULL DEFAULT 0,
    next_try_at      timestamptz NOT NULL DEFAULT now(),
    last_error       text,
    error_class      text CHECK (error_class IN
        ('query', 'access', 'passing', 'throttled', 'timeout', 'irreducible')),
    lease_token      bigint NOT NULL DEFAULT 0,
    lease_holder     text,
    lease_expires_at timestamptz,
    requests         integer NOT NULL DEFAULT 0,
    returned         bigint NOT NULL DEFAULT 0,
    stored_new       bigint NOT NULL DEFAULT 0,
    created_at       timestamptz NOT NULL DEFAULT now(),
    finished_at      timestamptz,
    CHECK ((state = 'running') = (lease_holder IS NOT NULL AND lease_expires_at IS NOT NULL)),
    CHECK ((state IN ('queued', 'running')) = (finished_at IS NULL)),
    CONSTRAINT windows_open_overlap EXCLUDE USING gist (dataset WITH =, look WITH =, span WITH &&)
        WHERE (state IN ('queued', 'running'))
);
COMMENT ON TABLE harvest.windows IS 'The ledger: a row for every window that was ever planned. The queue only delivers; this table is the truth.';
COMMENT ON COLUMN harvest.windows.id IS 'What a work item on the queue carries';
COMMENT ON COLUMN harvest.windows.run_id IS 'The submission that planned it';
COMMENT ON COLUMN harvest.windows.dataset IS 'The dataset it fills';
COMMENT ON COLUMN harvest.windows.source IS 'The Tempo it is fetched from';
COMMENT ON COLUMN harvest.windows.look IS 'What being done will count as';
COMMENT ON COLUMN harvest.windows.span IS 'Half-open range of whole seconds, UTC';
COMMENT ON COLUMN harvest.windows.parent_id IS 'The window it is a piece of';
COMMENT ON COLUMN harvest.windows.state IS 'queued, running (leased), split (its pieces do the work), done (everything in it is stored), failed (rests until planned again), cancelled';
COMMENT ON COLUMN harvest.windows.priority IS 'Higher goes first';
COMMENT ON COLUMN harvest.windows.queue_at IS 'Order within a priority: earlier goes first; pieces inherit it';
COMMENT ON COLUMN harvest.windows.settle_s IS 'How far, in seconds, its end must lie behind the server''s clock before an answer counts';
COMMENT ON COLUMN harvest.windows.expected IS 'Traces counted or estimated in it before asking; NULL: unknown';
COMMENT ON COLUMN harvest.windows.attempts IS 'Attempts that failed';
COMMENT ON COLUMN harvest.windows.throttled IS 'Attempts that Tempo refused as too many requests (429)';
COMMENT ON COLUMN harvest.windows.timeouts IS 'Timeouts in a row: two split it';
COMMENT ON COLUMN harvest.windows.lapsed IS 'Leases that ran out: workers that died or froze while they held it';
COMMENT ON COLUMN harvest.windows.next_try_at IS 'Not before';
COMMENT ON COLUMN harvest.windows.last_error IS 'What went wrong last, in the server''s own words where it had some';
COMMENT ON COLUMN harvest.windows.error_class IS 'query: Tempo refuses the query; access: credentials, tenant, URL; passing: outage; throttled; timeout; irreducible: cannot be narrowed under the limit';
COMMENT ON COLUMN harvest.windows.lease_token IS 'Counts the leases taken; only the newest may finish it';
COMMENT ON COLUMN harvest.windows.lease_holder IS 'host:process:number of the process that holds it';
COMMENT ON COLUMN harvest.windows.lease_expires_at IS 'After this anyone may take it';
COMMENT ON COLUMN harvest.windows.requests IS 'Requests to Tempo made for it';
COMMENT ON COLUMN harvest.windows.returned IS 'Traces in the answer that finished it';
COMMENT ON COLUMN harvest.windows.stored_new IS 'Of these, traces that were not stored before';
COMMENT ON COLUMN harvest.windows.created_at IS 'When it was planned';
COMMENT ON COLUMN harvest.windows.finished_at IS 'When it left queued and running';
CREATE INDEX windows_due ON harvest.windows (next_try_at) WHERE state IN ('queued', 'running');
CREATE INDEX windows_run ON harvest.windows (run_id);
CREATE INDEX windows_span ON harvest.windows USING gist (dataset, span);
CREATE INDEX windows_parent ON harvest.windows (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE harvest.fetches (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT now(),
    source          text NOT NULL,
    dataset         text,
    window_id       bigint,
    kind            text NOT NULL CHECK (kind IN ('search', 'count', 'trace')),
    span            tstzrange,
    query           text,
    traces_limit    integer,
    returned        integer,
    outcome         text NOT NULL CHECK (outcome IN
        ('complete', 'cut', 'limit', 'too_large', 'timeout', 'throttled', 'passing', 'access', 'query', 'unusable')),
    status          smallint,
    bytes           bigint,
    inspected_bytes bigint,
    duration_ms     integer NOT NULL,
    error           text,
    holder          text NOT NULL
);
COMMENT ON TABLE harvest.fetches IS 'A row for every request that was made to a Tempo for a window';
COMMENT ON COLUMN harvest.fetches.id IS 'Number of the request';
COMMENT ON COLUMN harvest.fetches.at IS 'When it was over';
COMMENT ON COLUMN harvest.fetches.source IS 'The Tempo asked';
COMMENT ON COLUMN harvest.fetches.dataset IS 'For which dataset';
COMMENT ON COLUMN harvest.fetches.window_id IS 'For which window (harvest.windows.id)';
COMMENT ON COLUMN harvest.fetches.kind IS 'search, count (metrics) or trace (by ID)';
COMMENT ON COLUMN harvest.fetches.span IS 'The range asked for, whole seconds';
COMMENT ON COLUMN harvest.fetches.query IS 'The TraceQL sent; NULL: a search without a query';
COMMENT ON COLUMN harvest.fetches.traces_limit IS 'The limit sent';
COMMENT ON COLUMN harvest.fetches.returned IS 'Traces (or counted intervals) in the answer; NULL: no usable answer';
COMMENT ON COLUMN harvest.fetches.outcome IS 'complete; cut (at the limit, thrown away); limit (refused, limit learned); too_large, timeout, throttled, passing, access, query: failures; unusable: an answer for another window, or too young';
COMMENT ON COLUMN harvest.fetches.status IS 'HTTP status; NULL: no answer';
COMMENT ON COLUMN harvest.fetches.bytes IS 'Bytes of the answer''s body, decompressed';
COMMENT ON COLUMN harvest.fetches.inspected_bytes IS 'Bytes Tempo says it read; NULL: it did not say';
COMMENT ON COLUMN harvest.fetches.duration_ms IS 'From sending to the end of the body, milliseconds';
COMMENT ON COLUMN harvest.fetches.error IS 'What went wrong';
COMMENT ON COLUMN harvest.fetches.holder IS 'host:process:number of the process that asked';
CREATE INDEX fetches_window ON harvest.fetches (window_id);
CREATE INDEX fetches_at ON harvest.fetches (dataset, at);

CREATE TABLE harvest.traces (
    dataset         text NOT NULL,
    trace_id        bytea NOT NULL CHECK (octet_length(trace_id) = 16),
    started_at      timestamptz NOT NULL,
    start_ns        bigint NOT NULL,
    end_ns          bigint NOT NULL CHECK (end_ns >= start_ns),
    duration_ms     bigint NOT NULL GENERATED ALWAYS AS ((end_ns - start_ns) / 1000000) STORED,
    exact           boolean NOT NULL DEFAULT false,
    root_service    text,
    root_name       text,
    span_count      integer,
    error_count     integer,
    services        jsonb,
    first_stored_at timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (dataset, trace_id)
);
COMMENT ON TABLE harvest.traces IS 'One row a trace. Later fetches only ever improve it.';
COMMENT ON COLUMN harvest.traces.dataset IS 'The dataset it belongs to';
COMMENT ON COLUMN harvest.traces.trace_id IS 'All 16 bytes; encode(trace_id, ''hex'') is what Grafana shows, leading zeros included';
COMMENT ON COLUMN harvest.traces.started_at IS 'Start, to the microsecond';
COMMENT ON COLUMN harvest.traces.start_ns IS 'Start, Unix nanoseconds: the earliest seen';
COMMENT ON COLUMN harvest.traces.end_ns IS 'End, Unix nanoseconds: the latest seen; to the millisecond, rounded down, unless exact';
COMMENT ON COLUMN harvest.traces.duration_ms IS 'end_ns - start_ns in whole milliseconds; a lower bound unless exact';
COMMENT ON COLUMN harvest.traces.exact IS 'Start, end and counts were computed from the spans themselves; false: they are what a search said, lower bounds while Tempo has not compacted the trace''s fragments';
COMMENT ON COLUMN harvest.traces.root_service IS 'service.name of the root span; NULL: root not received';
COMMENT ON COLUMN harvest.traces.root_name IS 'Name of the root span; NULL: root not received';
COMMENT ON COLUMN harvest.traces.span_count IS 'Spans; NULL: the dataset''s detail does not bring them';
COMMENT ON COLUMN harvest.traces.error_count IS 'Spans with status error; NULL: the dataset''s detail does not bring them';
COMMENT ON COLUMN harvest.traces.services IS 'Spans and errors per service, {"cart": {"spans": 3, "errors": 1}}; NULL: the dataset''s detail does not bring them';
COMMENT ON COLUMN harvest.traces.first_stored_at IS 'When it was first stored';
COMMENT ON COLUMN harvest.traces.updated_at IS 'When a fetch last changed it';
CREATE INDEX traces_started ON harvest.traces (dataset, started_at);

CREATE VIEW harvest.trace_services AS
SELECT t.dataset, t.trace_id, t.started_at, s.key AS service,
       (s.value ->> 'spans')::bigint AS span_count, (s.value ->> 'errors')::bigint AS error_count
FROM harvest.traces t CROSS JOIN LATERAL jsonb_each(t.services) s;
COMMENT ON VIEW harvest.trace_services IS 'A row for each service in each trace; empty with detail trace';
COMMENT ON COLUMN harvest.trace_services.dataset IS 'The dataset';
COMMENT ON COLUMN harvest.trace_services.trace_id IS 'The trace';
COMMENT ON COLUMN harvest.trace_services.started_at IS 'The trace''s start';
COMMENT ON COLUMN harvest.trace_services.service IS 'service.name';
COMMENT ON COLUMN harvest.trace_services.span_count IS 'Its spans in the trace';
COMMENT ON COLUMN harvest.trace_services.error_count IS 'Its spans with status error';

-- Two answers about one trace, per service the greater of each count: Tempo combines fragments by maximum, so every
-- answer is a lower bound.
CREATE FUNCTION harvest.merge_services(a jsonb, b jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN a IS NULL OR a = b THEN b
        WHEN b IS NULL THEN a
        ELSE (SELECT jsonb_object_agg(service, jsonb_build_object('spans', spans, 'errors', errors))
              FROM (SELECT key AS service, max((value ->> 'spans')::bigint) AS spans,
                           max((value ->> 'errors')::bigint) AS errors
                    FROM (SELECT * FROM jsonb_each(a) UNION ALL SELECT * FROM jsonb_each(b)) both_sides
                    GROUP BY key) merged)
    END
$$;
COMMENT ON FUNCTION harvest.merge_services(jsonb, jsonb) IS 'Per service the greater of two answers'' counts';

CREATE FUNCTION harvest.sum_services(services jsonb, count_name text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN total > 2147483647 THEN 2147483647 ELSE total END::integer
    FROM (SELECT sum((value ->> count_name)::bigint) AS total FROM jsonb_each(services)) counted
$$;
COMMENT ON FUNCTION harvest.sum_services(jsonb, text) IS 'Sum of ''spans'' or ''errors'' over the services; NULL without services';
