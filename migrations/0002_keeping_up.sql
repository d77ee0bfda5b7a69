-- Polls, their later looks, repairs, and control over jobs and runs.

ALTER TABLE harvest.runs
    ADD COLUMN kind text NOT NULL DEFAULT 'backfill' CHECK (kind IN ('backfill', 'poll', 'repair', 'refetch')),
    ADD COLUMN paused_at timestamptz,
    ADD COLUMN paused_by text,
    ADD COLUMN catch_up_s bigint CHECK (catch_up_s > 0),
    ADD CHECK ((paused_at IS NULL) = (paused_by IS NULL)),
    DROP CONSTRAINT runs_command_check,
    ADD CONSTRAINT runs_command_check CHECK (command IN ('run', 'submit', 'work', 'demo', 'repair', 'refetch'));
COMMENT ON TABLE harvest.runs IS 'One row for each submission of a job that found something to collect, or asked for what was never asked for before; and one for each poll, whose range grows';
COMMENT ON COLUMN harvest.runs.requested IS 'The range asked for, before what is covered was taken off; a poll''s grows with each tick';
COMMENT ON COLUMN harvest.runs.kind IS 'backfill: the range of a job or of the command line; poll: what was new, tick after tick; repair: the gaps; refetch: again what was covered';
COMMENT ON COLUMN harvest.runs.state IS 'open while any of its windows is, a poll until it is cancelled; then complete, failed (some window failed) or cancelled';
COMMENT ON COLUMN harvest.runs.paused_at IS 'Since when none of its windows is fetched; NULL: not paused';
COMMENT ON COLUMN harvest.runs.paused_by IS 'Who paused it';
COMMENT ON COLUMN harvest.runs.catch_up_s IS 'A poll''s catch_up in seconds: what was missed longer ago is not collected; NULL: everything is';
-- One living poll a job: two schedulers must not begin two.
CREATE UNIQUE INDEX runs_one_poll ON harvest.runs (job) WHERE kind = 'poll' AND state = 'open';

ALTER TABLE harvest.jobs
    ADD COLUMN paused_at timestamptz,
    ADD COLUMN paused_by text,
    ADD COLUMN scheduled_at timestamptz,
    ADD COLUMN lookback_s bigint CHECK (lookback_s > 0),
    ADD COLUMN lookback_widened_at timestamptz,
    ADD COLUMN superseded_by text,
    ADD CHECK ((paused_at IS NULL) = (paused_by IS NULL));
COMMENT ON COLUMN harvest.jobs.paused_at IS 'Since when none of its windows is fetched and none is planned; NULL: not paused';
COMMENT ON COLUMN harvest.jobs.paused_by IS 'Who paused it';
COMMENT ON COLUMN harvest.jobs.scheduled_at IS 'The last tick of the backfill''s schedule that was acted on; NULL: none yet';
COMMENT ON COLUMN harvest.jobs.lookback_s IS 'The poll''s lookback in seconds as widened, because sealing kept finding what the settled look had missed; NULL: as the job file says';
COMMENT ON COLUMN harvest.jobs.lookback_widened_at IS 'When it was last widened';
COMMENT ON COLUMN harvest.jobs.superseded_by IS 'The job of the same dataset that its file holds now: it was renamed. NULL: it was not';

ALTER TABLE harvest.windows
    ADD COLUMN earlier_look text CHECK (earlier_look IN ('fresh', 'settled')),
    ADD COLUMN improved bigint NOT NULL DEFAULT 0 CHECK (improved >= 0);
COMMENT ON COLUMN harvest.windows.look IS 'What being done will count as: fresh (at a poll''s tick), settled (lookback later), sealed (at least settle_s behind Tempo''s clock: complete)';
COMMENT ON COLUMN harvest.windows.earlier_look IS 'The latest look that had covered all of it when it was planned: stored_new and improved are then what that look had missed; NULL: none';
COMMENT ON COLUMN harvest.windows.improved IS 'Traces stored before that it completed: an earlier start, a later end, a root, more spans';
CREATE INDEX windows_later_looks ON harvest.windows (dataset, look, finished_at) WHERE state = 'done' AND earlier_look IS NOT NULL;
CREATE INDEX windows_failed ON harvest.windows USING gist (dataset, look, span) WHERE state = 'failed';
CREATE INDEX windows_queue ON harvest.windows (source, priority, queue_at) WHERE state = 'queued';
COMMENT ON COLUMN harvest.windows.queue_at IS 'Order within a priority: earlier goes first; pieces inherit it. No moment: runs of one source take turns by it';
