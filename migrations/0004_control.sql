-- Pausing, in one place for all who must know of it.

CREATE VIEW harvest.paused_runs AS
SELECT r.id AS run_id, r.job, r.dataset, j.paused_at IS NOT NULL AS by_job,
       coalesce(j.paused_at, r.paused_at) AS paused_at, coalesce(j.paused_by, r.paused_by) AS paused_by
FROM harvest.runs r JOIN harvest.jobs j ON j.name = r.job
WHERE r.state = 'open' AND (r.paused_at IS NOT NULL OR j.paused_at IS NOT NULL);
COMMENT ON VIEW harvest.paused_runs IS 'Open runs none of whose windows is fetched, because they or their jobs are paused';
COMMENT ON COLUMN harvest.paused_runs.run_id IS 'The run';
COMMENT ON COLUMN harvest.paused_runs.job IS 'Its job';
COMMENT ON COLUMN harvest.paused_runs.dataset IS 'The dataset it fills';
COMMENT ON COLUMN harvest.paused_runs.by_job IS 'Whether the job is paused, and not this run alone';
COMMENT ON COLUMN harvest.paused_runs.paused_at IS 'Since when';
COMMENT ON COLUMN harvest.paused_runs.paused_by IS 'Who paused it';

COMMENT ON COLUMN harvest.runs.submitted_by IS 'Who submitted it: user@host:process:number, the user where the environment names one';
