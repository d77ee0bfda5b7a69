-- Whole spans, for datasets of detail spans.

-- Its key begins as that of harvest.traces does: the spans of a trace lie together, and spans of a stretch of time are found
-- through traces_started. An index on started_at would cost each store a quarter more for what a join does.
CREATE TABLE harvest.spans (
    dataset        text NOT NULL,
    trace_id       bytea NOT NULL CHECK (octet_length(trace_id) = 16),
    span_id        bytea NOT NULL CHECK (octet_length(span_id) = 8),
    parent_span_id bytea CHECK (octet_length(parent_span_id) = 8),
    service        text,
    name           text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('unspecified', 'internal', 'server', 'client', 'producer', 'consumer')),
    status         text NOT NULL CHECK (status IN ('unset', 'ok', 'error')),
    started_at     timestamptz NOT NULL,
    start_ns       bigint NOT NULL,
    duration_ns    bigint NOT NULL CHECK (duration_ns >= 0),
    attributes     jsonb,
    PRIMARY KEY (dataset, trace_id, span_id)
);
COMMENT ON COLUMN harvest.fetches.returned IS 'Traces (or counted intervals, or spans of the one trace looked up) in the answer; NULL: no usable answer';
COMMENT ON TABLE harvest.spans IS 'One row a span, in datasets of detail spans. A trace''s row stands in harvest.traces; both are stored, and deleted, together';
COMMENT ON COLUMN harvest.spans.dataset IS 'The dataset it belongs to';
COMMENT ON COLUMN harvest.spans.trace_id IS 'The trace; all 16 bytes';
COMMENT ON COLUMN harvest.spans.span_id IS 'Identity within the trace; of several spans that were sent with one ID the one that starts first, and of these the longest';
COMMENT ON COLUMN harvest.spans.parent_span_id IS 'The span that called it, which need not have been received; NULL: a root';
COMMENT ON COLUMN harvest.spans.service IS 'service.name of what sent it; NULL: it did not say';
COMMENT ON COLUMN harvest.spans.name IS 'Operation';
COMMENT ON COLUMN harvest.spans.kind IS 'OpenTelemetry''s kind of span';
COMMENT ON COLUMN harvest.spans.status IS 'OpenTelemetry''s status: unset is what a successful span usually has';
COMMENT ON COLUMN harvest.spans.started_at IS 'Start, to the microsecond';
COMMENT ON COLUMN harvest.spans.start_ns IS 'Start, Unix nanoseconds';
COMMENT ON COLUMN harvest.spans.duration_ns IS 'Duration, nanoseconds';
COMMENT ON COLUMN harvest.spans.attributes IS 'Of the attributes that the job names those the span has, each under its name with scope: {"span.http.status_code": 500}; NULL: none';

ALTER TABLE harvest.traces ADD COLUMN incomplete_in_source boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN harvest.traces.incomplete_in_source IS 'Tempo holds more of this trace than it gives out (max_bytes_per_trace): some of its spans are not in harvest.spans';

ALTER TABLE harvest.datasets ADD COLUMN span_count bigint NOT NULL DEFAULT 0 CHECK (span_count >= 0);
COMMENT ON COLUMN harvest.datasets.span_count IS 'Spans stored; 0 unless the detail is spans';

-- What the stored spans say about their traces, in the form of harvest.traces.
CREATE FUNCTION harvest.traces_of_spans(of_dataset text, of_traces bytea[])
RETURNS TABLE (trace_id bytea, start_ns bigint, end_ns bigint, root_service text, root_name text, span_count integer, error_count integer,
               services jsonb)
LANGUAGE sql STABLE AS $$
    SELECT whole.trace_id, whole.start_ns, whole.end_ns, root.service, root.name, whole.span_count, whole.error_count, whole.services
    FROM (SELECT by_service.trace_id, min(by_service.start_ns) AS start_ns, max(by_service.end_ns) AS end_ns,
                 sum(spans)::integer AS span_count, sum(errors)::integer AS error_count,
                 jsonb_object_agg(by_service.service, jsonb_build_object('spans', spans, 'errors', errors)) AS services
          FROM (SELECT s.trace_id, coalesce(s.service, '') AS service, min(s.start_ns) AS start_ns, max(s.start_ns + s.duration_ns) AS end_ns,
                       count(*) AS spans, count(*) FILTER (WHERE s.status = 'error') AS errors
                FROM harvest.spans s
                WHERE s.dataset = of_dataset AND s.trace_id = ANY (of_traces)
                GROUP BY s.trace_id, coalesce(s.service, '')) AS by_service
          GROUP BY by_service.trace_id) AS whole
    LEFT JOIN LATERAL (SELECT s.service, s.name FROM harvest.spans s
                       WHERE s.dataset = of_dataset AND s.trace_id = whole.trace_id AND s.parent_span_id IS NULL
                       ORDER BY s.start_ns, s.span_id LIMIT 1) AS root ON true
$$;
COMMENT ON FUNCTION harvest.traces_of_spans(text, bytea[]) IS 'Start, end, root and counts of traces, computed from their stored spans; the earliest of several roots, spans without a service under the empty name';

ALTER TABLE harvest.spans SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 50000);
