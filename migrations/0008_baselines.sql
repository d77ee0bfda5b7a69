-- Baselines: what is usual, for each operation, by hour of day and kind of day.
--
-- Whoever stores traces says in the same transaction what that changed (baseline_changes). A pass adds it to cells of a
-- quarter of an hour, and computes the baselines that these cells belong to anew. So a pass costs what is new, not what is stored.

ALTER TABLE harvest.traces ADD COLUMN improved_from jsonb;
COMMENT ON COLUMN harvest.traces.improved_from IS 'What start_ns, end_ns, root_service, root_name and error_count were before the last fetch that changed the row; NULL: none has. Baselines take back what they had counted by it';

CREATE FUNCTION harvest.before_improvement(start_ns bigint, end_ns bigint, root_service text, root_name text, error_count integer) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT jsonb_build_object('start_ns', start_ns, 'end_ns', end_ns, 'root_service', root_service, 'root_name', root_name,
                              'error_count', error_count)
$$;
COMMENT ON FUNCTION harvest.before_improvement(bigint, bigint, text, text, integer) IS 'What traces.improved_from keeps of a row';

ALTER TABLE harvest.jobs
    ADD COLUMN baseline_timezone text,
    ADD COLUMN baseline_history_s bigint CHECK (baseline_history_s > 0),
    ADD COLUMN baseline_every_s bigint CHECK (baseline_every_s > 0);
COMMENT ON COLUMN harvest.jobs.baseline_timezone IS 'timezone as last submitted: by whose clocks its baselines'' hours and weekends are counted; NULL: UTC';
COMMENT ON COLUMN harvest.jobs.baseline_history_s IS 'history in [baseline] as last submitted, seconds; NULL: it has no [baseline]';
COMMENT ON COLUMN harvest.jobs.baseline_every_s IS 'every in [baseline] as last submitted, seconds; NULL: it has no [baseline]';

CREATE VIEW harvest.baseline_settings AS
SELECT d.name AS dataset, coalesce(j.baseline_timezone, 'UTC') AS timezone, coalesce(j.baseline_history_s, 604800) AS history_s,
       coalesce(j.baseline_every_s, 30) AS every_s
FROM harvest.datasets d
LEFT JOIN LATERAL (SELECT * FROM harvest.jobs WHERE dataset = d.name AND superseded_by IS NULL
                   ORDER BY baseline_history_s DESC NULLS LAST, baseline_every_s, name LIMIT 1) j ON true;
COMMENT ON VIEW harvest.baseline_settings IS 'How the baselines of each dataset are computed: as the job says that looks back farthest, and as [baseline] does by default where none has one';
COMMENT ON COLUMN harvest.baseline_settings.dataset IS 'The dataset';
COMMENT ON COLUMN harvest.baseline_settings.timezone IS 'By whose clocks hours and weekends are counted';
COMMENT ON COLUMN harvest.baseline_settings.history_s IS 'How far back they look from the newest trace, seconds';
COMMENT ON COLUMN harvest.baseline_settings.every_s IS 'How often what has changed is computed anew, seconds';

-- No key but a number: those who store at the same time must not wait for each other.
CREATE TABLE harvest.baseline_changes (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dataset text NOT NULL,
    changes bytea NOT NULL
);
COMMENT ON TABLE harvest.baseline_changes IS 'What was stored or improved and is not in the baselines yet; gone when it is';
COMMENT ON COLUMN harvest.baseline_changes.id IS 'Number of the change';
COMMENT ON COLUMN harvest.baseline_changes.dataset IS 'The dataset';
COMMENT ON COLUMN harvest.baseline_changes.changes IS 'What to add to baseline_cells and what to take away; the message `Changes` in src/baseline/changes.rs';
CREATE INDEX baseline_changes_dataset ON harvest.baseline_changes (dataset);

CREATE TABLE harvest.baseline_states (
    dataset      text PRIMARY KEY REFERENCES harvest.datasets ON DELETE CASCADE,
    recount      boolean NOT NULL DEFAULT false,
    timezone     text,
    history_s    bigint CHECK (history_s > 0),
    counted_from timestamptz,
    counted_to   timestamptz,
    computed_at  timestamptz
);
COMMENT ON TABLE harvest.baseline_states IS 'How far each dataset''s baselines are';
COMMENT ON COLUMN harvest.baseline_states.dataset IS 'The dataset';
COMMENT ON COLUMN harvest.baseline_states.recount IS 'Everything is to be counted anew from the stored traces';
COMMENT ON COLUMN harvest.baseline_states.timezone IS 'By whose clocks they are computed; NULL: not yet';
COMMENT ON COLUMN harvest.baseline_states.history_s IS 'How far back they look, seconds; NULL: not computed yet';
COMMENT ON COLUMN harvest.baseline_states.counted_from IS 'Traces that started earlier are not counted; NULL: nothing is';
COMMENT ON COLUMN harvest.baseline_states.counted_to IS 'End of the quarter of an hour that the newest trace counted started in; NULL: nothing is counted';
COMMENT ON COLUMN harvest.baseline_states.computed_at IS 'When they were last computed; NULL: not yet';
INSERT INTO harvest.baseline_states (dataset, recount) SELECT name, true FROM harvest.datasets;

CREATE TABLE harvest.baseline_cells (
    dataset   text NOT NULL,
    subject   text NOT NULL CHECK (subject IN ('trace', 'span')),
    service   text NOT NULL,
    operation text NOT NULL,
    quarter   timestamptz NOT NULL,
    samples   bigint NOT NULL CHECK (samples > 0),
    judged    bigint NOT NULL CHECK (judged BETWEEN 0 AND samples),
    errors    bigint NOT NULL CHECK (errors BETWEEN 0 AND judged),
    first_ns  bigint NOT NULL,
    last_ns   bigint NOT NULL,
    durations bytea NOT NULL,
    PRIMARY KEY (dataset, subject, service, operation, quarter)
);
COMMENT ON TABLE harvest.baseline_cells IS 'What the baselines are added up from: a row for each operation and quarter of an hour, the unit that the clocks of all timezones are set by';
COMMENT ON COLUMN harvest.baseline_cells.dataset IS 'The dataset';
COMMENT ON COLUMN harvest.baseline_cells.subject IS 'trace: whole traces by their root; span: single spans';
COMMENT ON COLUMN harvest.baseline_cells.service IS 'Service of the root, or of the spans';
COMMENT ON COLUMN harvest.baseline_cells.operation IS 'Name of the root, or of the spans';
COMMENT ON COLUMN harvest.baseline_cells.quarter IS 'Beginning of the quarter of an hour that they started in';
COMMENT ON COLUMN harvest.baseline_cells.samples IS 'How many';
COMMENT ON COLUMN harvest.baseline_cells.judged IS 'Of these, those of which it is known whether they have an error';
COMMENT ON COLUMN harvest.baseline_cells.errors IS 'Of these, those that have one';
COMMENT ON COLUMN harvest.baseline_cells.first_ns IS 'The earliest start, Unix nanoseconds';
COMMENT ON COLUMN harvest.baseline_cells.last_ns IS 'The latest start, Unix nanoseconds';
COMMENT ON COLUMN harvest.baseline_cells.durations IS 'How many of each duration; the message `Durations` in src/baseline/sketch.rs';
CREATE INDEX baseline_cells_quarter ON harvest.baseline_cells (dataset, quarter);

CREATE TABLE harvest.baseline_slots (
    dataset   text NOT NULL,
    subject   text NOT NULL CHECK (subject IN ('trace', 'span')),
    service   text NOT NULL,
    operation text NOT NULL,
    slot      smallint NOT NULL CHECK (slot BETWEEN 0 AND 50),
    samples   bigint NOT NULL CHECK (samples > 0),
    judged    bigint NOT NULL CHECK (judged BETWEEN 0 AND samples),
    errors    bigint NOT NULL CHECK (errors BETWEEN 0 AND judged),
    p50_us    bigint NOT NULL,
    p95_us    bigint NOT NULL,
    p99_us    bigint NOT NULL,
    mad_us    bigint NOT NULL,
    first_ns  bigint NOT NULL,
    last_ns   bigint NOT NULL,
    durations bytea NOT NULL,
    PRIMARY KEY (dataset, subject, service, operation, slot)
);
COMMENT ON TABLE harvest.baseline_slots IS 'The baselines as they are kept; harvest.baselines shows them';
COMMENT ON COLUMN harvest.baseline_slots.dataset IS 'The dataset';
COMMENT ON COLUMN harvest.baseline_slots.subject IS 'trace: whole traces by their root; span: single spans';
COMMENT ON COLUMN harvest.baseline_slots.service IS 'Service of the root, or of the spans';
COMMENT ON COLUMN harvest.baseline_slots.operation IS 'Name of the root, or of the spans';
COMMENT ON COLUMN harvest.baseline_slots.slot IS '0 to 23: the hours of weekdays; 24 to 47: of weekends; 48: weekdays; 49: weekends; 50: everything';
COMMENT ON COLUMN harvest.baseline_slots.samples IS 'How many';
COMMENT ON COLUMN harvest.baseline_slots.judged IS 'Of these, those of which it is known whether they have an error';
COMMENT ON COLUMN harvest.baseline_slots.errors IS 'Of these, those that have one';
COMMENT ON COLUMN harvest.baseline_slots.p50_us IS 'Half are no longer, microseconds';
COMMENT ON COLUMN harvest.baseline_slots.p95_us IS '95 % are no longer, microseconds';
COMMENT ON COLUMN harvest.baseline_slots.p99_us IS '99 % are no longer, microseconds';
COMMENT ON COLUMN harvest.baseline_slots.mad_us IS 'Half are no farther from p50_us, microseconds';
COMMENT ON COLUMN harvest.baseline_slots.first_ns IS 'The earliest start, Unix nanoseconds';
COMMENT ON COLUMN harvest.baseline_slots.last_ns IS 'The latest start, Unix nanoseconds';
COMMENT ON COLUMN harvest.baseline_slots.durations IS 'How many of each duration; the message `Durations` in src/baseline/sketch.rs';

CREATE VIEW harvest.baselines AS
SELECT s.dataset, s.subject, s.service, s.operation,
       CASE WHEN s.slot < 48 THEN 'hour' WHEN s.slot < 50 THEN 'day type' ELSE 'everything' END AS level,
       CASE WHEN s.slot < 24 OR s.slot = 48 THEN 'weekday' WHEN s.slot < 50 THEN 'weekend' END AS day_type,
       CASE WHEN s.slot < 48 THEN s.slot % 24 END AS hour,
       s.samples,
       CASE WHEN s.judged > 0 THEN s.errors::float8 / s.judged END AS error_rate,
       s.p50_us / 1000.0::float8 AS p50_ms, s.p95_us / 1000.0::float8 AS p95_ms, s.p99_us / 1000.0::float8 AS p99_ms,
       s.mad_us / 1000.0::float8 AS mad_ms,
       'epoch'::timestamptz + s.first_ns / 1000 * interval '1 microsecond' AS first_at,
       'epoch'::timestamptz + s.last_ns / 1000 * interval '1 microsecond' AS last_at,
       state.timezone, state.counted_from, state.counted_to, state.computed_at
FROM harvest.baseline_slots s
JOIN harvest.baseline_states state ON state.dataset = s.dataset;
COMMENT ON VIEW harvest.baselines IS 'What is usual: for each operation a row an hour of day and kind of day, one each for all weekdays and all weekends, and one for everything. Percentiles are off by 0.4 % at most';
COMMENT ON COLUMN harvest.baselines.dataset IS 'The dataset';
COMMENT ON COLUMN harvest.baselines.subject IS 'trace: whole traces by their root; span: single spans (detail spans)';
COMMENT ON COLUMN harvest.baselines.service IS 'Service of the root, or of the spans';
COMMENT ON COLUMN harvest.baselines.operation IS 'Name of the root, or of the spans';
COMMENT ON COLUMN harvest.baselines.level IS 'hour: one hour of weekdays or weekends; day type: all hours of them; everything. Where an hour has too few samples the next level is to be used';
COMMENT ON COLUMN harvest.baselines.day_type IS 'weekday or weekend (Saturday, Sunday) by the clocks of timezone; NULL: both';
COMMENT ON COLUMN harvest.baselines.hour IS 'Hour of day by the clocks of timezone, 0 to 23; NULL: all';
COMMENT ON COLUMN harvest.baselines.samples IS 'How many traces or spans';
COMMENT ON COLUMN harvest.baselines.error_rate IS 'Share of those that have a span with status error (subject trace), or that have it themselves (subject span); NULL: unknown, the detail trace brings no errors';
COMMENT ON COLUMN harvest.baselines.p50_ms IS 'Median duration, milliseconds: half are no longer. Whole milliseconds rounded down, and lower bounds until Tempo has compacted, unless the detail is spans';
COMMENT ON COLUMN harvest.baselines.p95_ms IS '95 % are no longer, milliseconds';
COMMENT ON COLUMN harvest.baselines.p99_ms IS '99 % are no longer, milliseconds';
COMMENT ON COLUMN harvest.baselines.mad_ms IS 'Median absolute deviation, milliseconds: half are no farther from p50_ms';
COMMENT ON COLUMN harvest.baselines.first_at IS 'Start of the earliest';
COMMENT ON COLUMN harvest.baselines.last_at IS 'Start of the latest';
COMMENT ON COLUMN harvest.baselines.timezone IS 'By whose clocks hours and weekends are counted';
COMMENT ON COLUMN harvest.baselines.counted_from IS 'Traces that started earlier are not counted';
COMMENT ON COLUMN harvest.baselines.counted_to IS 'End of the quarter of an hour that the newest trace counted started in';
COMMENT ON COLUMN harvest.baselines.computed_at IS 'When the dataset''s baselines were last brought up to date';

ALTER TABLE harvest.baseline_changes SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
ALTER TABLE harvest.baseline_cells SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
ALTER TABLE harvest.baseline_slots SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);
