-- What verification found, and what it removed.

-- One row for each hour and depth, replaced when the hour is verified again: a part of an hour never replaces the whole.
CREATE TABLE harvest.verdicts (
    dataset     text NOT NULL REFERENCES harvest.datasets ON DELETE CASCADE,
    hour        timestamptz NOT NULL,
    depth       text NOT NULL CHECK (depth IN ('counts', 'deep')),
    span        tstzrange NOT NULL CHECK (NOT isempty(span)),
    verdict     text NOT NULL CHECK (verdict IN
        ('equal', 'missing', 'more here', 'missing and more here', 'gap', 'beyond retention', 'too young', 'unknown')),
    stored      bigint NOT NULL CHECK (stored >= 0),
    rootless    bigint NOT NULL CHECK (rootless >= 0),
    in_tempo    bigint CHECK (in_tempo >= 0),
    missing     bigint NOT NULL CHECK (missing >= 0),
    more_here   bigint NOT NULL CHECK (more_here >= 0),
    reason      text,
    verified_at timestamptz NOT NULL,
    verified_by text NOT NULL,
    PRIMARY KEY (dataset, hour, depth)
);
COMMENT ON TABLE harvest.verdicts IS 'What `verify` found, hour by hour and by depth: the latest';
COMMENT ON COLUMN harvest.verdicts.dataset IS 'The dataset';
COMMENT ON COLUMN harvest.verdicts.hour IS 'The hour, by its beginning';
COMMENT ON COLUMN harvest.verdicts.depth IS 'counts: what is stored against Tempo''s own count; deep: everything was listed again, and IDs compared both ways';
COMMENT ON COLUMN harvest.verdicts.span IS 'The part of the hour that was verified, mostly all of it';
COMMENT ON COLUMN harvest.verdicts.verdict IS 'equal; missing (Tempo has more); more here; both; gap (not collected); beyond retention; too young (under an hour); unknown (Tempo would not say)';
COMMENT ON COLUMN harvest.verdicts.stored IS 'Traces stored that start in it: by counts those with a root';
COMMENT ON COLUMN harvest.verdicts.rootless IS 'Traces stored without a root, which counts do not see';
COMMENT ON COLUMN harvest.verdicts.in_tempo IS 'The same in Tempo, as it counted or listed them; NULL: not to be had';
COMMENT ON COLUMN harvest.verdicts.missing IS 'Traces in Tempo and not here';
COMMENT ON COLUMN harvest.verdicts.more_here IS 'Traces here and not in Tempo';
COMMENT ON COLUMN harvest.verdicts.reason IS 'Why it is no more than that';
COMMENT ON COLUMN harvest.verdicts.verified_at IS 'When';
COMMENT ON COLUMN harvest.verdicts.verified_by IS 'host:process:number of the process that verified it';

CREATE TABLE harvest.removed_traces (
    dataset    text NOT NULL REFERENCES harvest.datasets ON DELETE CASCADE,
    trace_id   bytea NOT NULL CHECK (octet_length(trace_id) = 16),
    removed_at timestamptz NOT NULL DEFAULT now(),
    removed_by text NOT NULL,
    trace      jsonb NOT NULL,
    spans      jsonb,
    PRIMARY KEY (dataset, trace_id, removed_at)
);
COMMENT ON TABLE harvest.removed_traces IS 'Traces that `verify --deep --repair` took out of harvest.traces because Tempo does not have them, kept in case it was Tempo that lost them';
COMMENT ON COLUMN harvest.removed_traces.dataset IS 'The dataset it stood in';
COMMENT ON COLUMN harvest.removed_traces.trace_id IS 'The trace; all 16 bytes';
COMMENT ON COLUMN harvest.removed_traces.removed_at IS 'When it was taken out';
COMMENT ON COLUMN harvest.removed_traces.removed_by IS 'host:process:number of the process that took it out';
COMMENT ON COLUMN harvest.removed_traces.trace IS 'Its row in harvest.traces';
COMMENT ON COLUMN harvest.removed_traces.spans IS 'Its rows in harvest.spans; NULL: none';

ALTER TABLE harvest.jobs ADD COLUMN verify_scheduled_at timestamptz;
COMMENT ON COLUMN harvest.jobs.verify_scheduled_at IS 'The last tick of [verify] that a process has taken on';

ALTER TABLE harvest.runs
    DROP CONSTRAINT runs_command_check,
    ADD CONSTRAINT runs_command_check CHECK (command IN ('run', 'submit', 'work', 'demo', 'repair', 'refetch', 'verify'));
