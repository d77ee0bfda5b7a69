-- Bounded tables: the ledger's history is summed up and deleted after a while, and traces after what [retention] says.

-- What has been deleted of a run's windows. A table of its own, so that summing up never waits for a tick that makes a
-- poll's run grow.
CREATE TABLE harvest.pruned_windows (
    run_id            bigint NOT NULL REFERENCES harvest.runs ON DELETE CASCADE,
    look              text NOT NULL CHECK (look IN ('fresh', 'settled', 'sealed')),
    looked_at_before  boolean NOT NULL,
    windows_done      bigint NOT NULL,
    windows_failed    bigint NOT NULL,
    windows_cancelled bigint NOT NULL,
    splits            bigint NOT NULL,
    done_s            bigint NOT NULL,
    traces_returned   bigint NOT NULL,
    traces_new        bigint NOT NULL,
    traces_improved   bigint NOT NULL,
    requests          bigint NOT NULL,
    retries           bigint NOT NULL,
    last_done_at      timestamptz,
    PRIMARY KEY (run_id, look, looked_at_before)
);
COMMENT ON TABLE harvest.pruned_windows IS 'Figures of windows that housekeeping has deleted, summed up by run and look. harvest.run_figures adds them to those still there';
COMMENT ON COLUMN harvest.pruned_windows.run_id IS 'The run';
COMMENT ON COLUMN harvest.pruned_windows.look IS 'Of windows of this look';
COMMENT ON COLUMN harvest.pruned_windows.looked_at_before IS 'Whether an earlier look had covered them: traces_new and traces_improved are then what it had missed';
COMMENT ON COLUMN harvest.pruned_windows.windows_done IS 'Windows fetched and stored, split ones not counted';
COMMENT ON COLUMN harvest.pruned_windows.windows_failed IS 'Windows that rested as failed';
COMMENT ON COLUMN harvest.pruned_windows.windows_cancelled IS 'Windows that were cancelled';
COMMENT ON COLUMN harvest.pruned_windows.splits IS 'Windows that were cut into pieces';
COMMENT ON COLUMN harvest.pruned_windows.done_s IS 'Seconds done';
COMMENT ON COLUMN harvest.pruned_windows.traces_returned IS 'Traces in the answers that counted';
COMMENT ON COLUMN harvest.pruned_windows.traces_new IS 'Of these, stored for the first time';
COMMENT ON COLUMN harvest.pruned_windows.traces_improved IS 'Of these, stored before and completed';
COMMENT ON COLUMN harvest.pruned_windows.requests IS 'Requests to Tempo';
COMMENT ON COLUMN harvest.pruned_windows.retries IS 'Attempts that failed and were made again';
COMMENT ON COLUMN harvest.pruned_windows.last_done_at IS 'When the last of them was done';

-- What a window counts for. The sums over living and over deleted windows are both made of this.
CREATE VIEW harvest.window_figures AS
SELECT id, run_id, look, earlier_look IS NOT NULL AS looked_at_before,
       (state = 'done')::int AS windows_done,
       (state IN ('queued', 'running'))::int AS windows_open,
       (state = 'failed')::int AS windows_failed,
       (state = 'cancelled')::int AS windows_cancelled,
       (state = 'split')::int AS splits,
       CASE WHEN state = 'done' THEN extract(epoch FROM upper(span) - lower(span))::bigint ELSE 0 END AS done_s,
       CASE WHEN state IN ('queued', 'running') THEN extract(epoch FROM upper(span) - lower(span))::bigint ELSE 0 END AS open_s,
       CASE WHEN state = 'done' THEN returned ELSE 0 END AS traces_returned,
       stored_new AS traces_new,
       improved AS traces_improved,
       requests,
       attempts + throttled - (state = 'failed' AND attempts > 0)::int AS retries,
       CASE WHEN state = 'done' THEN finished_at END AS done_at
FROM harvest.windows;
COMMENT ON VIEW harvest.window_figures IS 'What each window counts for in the sums over a run';
COMMENT ON COLUMN harvest.window_figures.id IS 'The window';
COMMENT ON COLUMN harvest.window_figures.run_id IS 'Its run';
COMMENT ON COLUMN harvest.window_figures.look IS 'Its look';
COMMENT ON COLUMN harvest.window_figures.looked_at_before IS 'Whether an earlier look had covered it';
COMMENT ON COLUMN harvest.window_figures.windows_done IS '1 if it is done';
COMMENT ON COLUMN harvest.window_figures.windows_open IS '1 if it is queued or being fetched';
COMMENT ON COLUMN harvest.window_figures.windows_failed IS '1 if it rests as failed';
COMMENT ON COLUMN harvest.window_figures.windows_cancelled IS '1 if it was cancelled';
COMMENT ON COLUMN harvest.window_figures.splits IS '1 if it was cut into pieces';
COMMENT ON COLUMN harvest.window_figures.done_s IS 'Its seconds if it is done';
COMMENT ON COLUMN harvest.window_figures.open_s IS 'Its seconds if it is queued or being fetched';
COMMENT ON COLUMN harvest.window_figures.traces_returned IS 'Traces in its answer if it is done';
COMMENT ON COLUMN harvest.window_figures.traces_new IS 'Traces that it stored for the first time';
COMMENT ON COLUMN harvest.window_figures.traces_improved IS 'Traces stored before that it completed';
COMMENT ON COLUMN harvest.window_figures.requests IS 'Requests to Tempo';
COMMENT ON COLUMN harvest.window_figures.retries IS 'Attempts that failed and were, or will be, made again';
COMMENT ON COLUMN harvest.window_figures.done_at IS 'When it was done';

CREATE VIEW harvest.run_figures AS
SELECT r.id AS run_id, sums.*
FROM harvest.runs r
CROSS JOIN LATERAL (
    SELECT coalesce(sum(windows_done), 0)::bigint AS windows_done,
           coalesce(sum(windows_open), 0)::bigint AS windows_open,
           coalesce(sum(windows_failed), 0)::bigint AS windows_failed,
           coalesce(sum(windows_cancelled), 0)::bigint AS windows_cancelled,
           coalesce(sum(splits), 0)::bigint AS splits,
           coalesce(sum(done_s), 0)::bigint AS done_s,
           coalesce(sum(open_s), 0)::bigint AS open_s,
           coalesce(sum(traces_returned), 0)::bigint AS traces_returned,
           coalesce(sum(traces_new), 0)::bigint AS traces_new,
           coalesce(sum(traces_improved), 0)::bigint AS traces_improved,
           coalesce(sum(traces_new) FILTER (WHERE look = 'settled' AND looked_at_before), 0)::bigint AS settled_new,
           coalesce(sum(traces_improved) FILTER (WHERE look = 'settled' AND looked_at_before), 0)::bigint AS settled_improved,
           coalesce(sum(traces_new) FILTER (WHERE look = 'sealed' AND looked_at_before), 0)::bigint AS sealed_new,
           coalesce(sum(traces_improved) FILTER (WHERE look = 'sealed' AND looked_at_before), 0)::bigint AS sealed_improved,
           coalesce(sum(requests), 0)::bigint AS requests,
           coalesce(sum(retries), 0)::bigint AS retries,
           max(done_at) AS last_done_at
    FROM (SELECT look, looked_at_before, windows_done, windows_open, windows_failed, windows_cancelled, splits, done_s, open_s,
                 traces_returned, traces_new, traces_improved, requests, retries, done_at
          FROM harvest.window_figures w WHERE w.run_id = r.id
          UNION ALL
          SELECT look, looked_at_before, windows_done, 0, windows_failed, windows_cancelled, splits, done_s, 0,
                 traces_returned, traces_new, traces_improved, requests, retries, last_done_at
          FROM harvest.pruned_windows p WHERE p.run_id = r.id) AS figures
) AS sums;
COMMENT ON VIEW harvest.run_figures IS 'The figures of each run, over the windows that are still there and those that housekeeping has deleted';
COMMENT ON COLUMN harvest.run_figures.run_id IS 'The run';
COMMENT ON COLUMN harvest.run_figures.windows_done IS 'Windows fetched and stored, split ones not counted';
COMMENT ON COLUMN harvest.run_figures.windows_open IS 'Windows queued or being fetched';
COMMENT ON COLUMN harvest.run_figures.windows_failed IS 'Windows that rest, or rested, as failed';
COMMENT ON COLUMN harvest.run_figures.windows_cancelled IS 'Windows that were cancelled';
COMMENT ON COLUMN harvest.run_figures.splits IS 'Windows that were cut into pieces';
COMMENT ON COLUMN harvest.run_figures.done_s IS 'Seconds done';
COMMENT ON COLUMN harvest.run_figures.open_s IS 'Seconds queued or being fetched';
COMMENT ON COLUMN harvest.run_figures.traces_returned IS 'Traces in the answers that counted';
COMMENT ON COLUMN harvest.run_figures.traces_new IS 'Of these, stored for the first time';
COMMENT ON COLUMN harvest.run_figures.traces_improved IS 'Of these, stored before and completed';
COMMENT ON COLUMN harvest.run_figures.settled_new IS 'Traces that the fresh look had missed and the settled look found';
COMMENT ON COLUMN harvest.run_figures.settled_improved IS 'Traces that the settled look completed';
COMMENT ON COLUMN harvest.run_figures.sealed_new IS 'Traces that earlier looks had missed and the sealing look found';
COMMENT ON COLUMN harvest.run_figures.sealed_improved IS 'Traces that the sealing look completed';
COMMENT ON COLUMN harvest.run_figures.requests IS 'Requests to Tempo';
COMMENT ON COLUMN harvest.run_figures.retries IS 'Attempts that failed and were, or will be, made again';
COMMENT ON COLUMN harvest.run_figures.last_done_at IS 'When a window was last done';

ALTER TABLE harvest.datasets
    ADD COLUMN retention_s bigint CHECK (retention_s > 0),
    ADD COLUMN deleted_before timestamptz,
    ADD COLUMN requested_by_old_runs tstzmultirange NOT NULL DEFAULT '{}';
COMMENT ON COLUMN harvest.datasets.retention_s IS 'Traces are deleted so many seconds after their start; NULL: never. A shorter one in a job file waits here for `prune`';
COMMENT ON COLUMN harvest.datasets.deleted_before IS 'Traces that started before were deleted by retention, and are never collected again; only moves on. NULL: none';
COMMENT ON COLUMN harvest.datasets.requested_by_old_runs IS 'What runs asked for that ended so long ago that they were deleted';

ALTER TABLE harvest.jobs ADD COLUMN retention_s bigint CHECK (retention_s > 0);
COMMENT ON COLUMN harvest.jobs.retention_s IS 'traces in [retention] as last submitted, seconds; NULL: keep everything. The longest of a dataset''s jobs holds';

CREATE VIEW harvest.requested AS
SELECT d.name AS dataset,
       d.requested_by_old_runs + coalesce((SELECT range_agg(r.requested) FROM harvest.runs r
                                           WHERE r.dataset = d.name AND r.state <> 'cancelled' AND r.kind IN ('backfill', 'poll')), '{}') AS requested
FROM harvest.datasets d;
COMMENT ON VIEW harvest.requested IS 'Everything that was ever asked for of each dataset, cancelled submissions left out';
COMMENT ON COLUMN harvest.requested.dataset IS 'The dataset';
COMMENT ON COLUMN harvest.requested.requested IS 'Half-open ranges of whole seconds';
CREATE INDEX runs_dataset ON harvest.runs (dataset);

CREATE TABLE harvest.housekeeping (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    begun_at timestamptz NOT NULL
);
COMMENT ON TABLE harvest.housekeeping IS 'One row: whose turn it is to delete what is no longer needed';
COMMENT ON COLUMN harvest.housekeeping.one IS 'There is one row';
COMMENT ON COLUMN harvest.housekeeping.begun_at IS 'When a process last began; another may after ten minutes';

-- Rows come and go all the time here: vacuumed after a fiftieth has changed, not a fifth.
ALTER TABLE harvest.windows SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE harvest.fetches SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
ALTER TABLE harvest.traces SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000);
