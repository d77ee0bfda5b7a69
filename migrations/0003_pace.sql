-- How fast each source is asked, by all processes together.

CREATE TABLE harvest.source_pace (
    source              text PRIMARY KEY REFERENCES harvest.sources ON DELETE CASCADE,
    concurrency         integer NOT NULL CHECK (concurrency > 0),
    requests_per_second double precision NOT NULL CHECK (requests_per_second > 0),
    limits_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    factor              double precision NOT NULL DEFAULT 1 CHECK (factor > 0 AND factor <= 1),
    lowered_at          timestamptz,
    raised_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    why                 text,
    held_since          timestamptz,
    held_until          timestamptz NOT NULL DEFAULT '-infinity',
    next_at             timestamptz NOT NULL DEFAULT '-infinity',
    live_waits_until    timestamptz NOT NULL DEFAULT '-infinity',
    waiter              text,
    waits_since         timestamptz NOT NULL DEFAULT '-infinity',
    waits_until         timestamptz NOT NULL DEFAULT '-infinity',
    CHECK ((factor = 1) = (held_since IS NULL)),
    CHECK (factor = 1 OR why IS NOT NULL)
) WITH (fillfactor = 20);
COMMENT ON TABLE harvest.source_pace IS 'How fast each source is asked, by all processes together. Every moment here is by the database''s clock.';
COMMENT ON COLUMN harvest.source_pace.source IS 'The source';
COMMENT ON COLUMN harvest.source_pace.concurrency IS 'Most requests at once, as the source''s limits say: of processes that were told different limits, the smallest';
COMMENT ON COLUMN harvest.source_pace.requests_per_second IS 'Most requests a second, likewise';
COMMENT ON COLUMN harvest.source_pace.limits_at IS 'When a process with these limits last asked for a place';
COMMENT ON COLUMN harvest.source_pace.factor IS 'The share of both that is used at present: falls when the source refuses, times out or is slow; rises while it answers';
COMMENT ON COLUMN harvest.source_pace.lowered_at IS 'When the share last fell';
COMMENT ON COLUMN harvest.source_pace.raised_at IS 'When it last changed, or was last found to be whole';
COMMENT ON COLUMN harvest.source_pace.why IS 'What made it fall last, in the server''s own words where it had some';
COMMENT ON COLUMN harvest.source_pace.held_since IS 'Since when the share is not whole';
COMMENT ON COLUMN harvest.source_pace.held_until IS 'No request begins before this: the source asked to wait';
COMMENT ON COLUMN harvest.source_pace.next_at IS 'When the next request may begin';
COMMENT ON COLUMN harvest.source_pace.live_waits_until IS 'Until then a poll''s request waits for a place, and goes first';
COMMENT ON COLUMN harvest.source_pace.waiter IS 'host:process:number of the process that has waited longest for a place, as far as is known';
COMMENT ON COLUMN harvest.source_pace.waits_since IS 'Since when; after half a second the others let it go first';
COMMENT ON COLUMN harvest.source_pace.waits_until IS 'Nobody waits for it after this, unless it asks again';

CREATE TABLE harvest.source_permits (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source     text NOT NULL REFERENCES harvest.source_pace ON DELETE CASCADE,
    holder     text NOT NULL,
    live       boolean NOT NULL,
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE harvest.source_permits IS 'A row for each request that is under way, or about to be';
COMMENT ON COLUMN harvest.source_permits.id IS 'What gives the place back';
COMMENT ON COLUMN harvest.source_permits.source IS 'The source that is asked';
COMMENT ON COLUMN harvest.source_permits.holder IS 'host:process:number of the process that asks';
COMMENT ON COLUMN harvest.source_permits.live IS 'Whether it is for a poll';
COMMENT ON COLUMN harvest.source_permits.expires_at IS 'The place is free after this, unless its holder renews it';
CREATE INDEX source_permits_source ON harvest.source_permits (source);

-- A function, because deciding takes a look at the permits under the lock on the source's row, and that is one round trip
-- only here: in one statement the permits would be seen as they were before the lock was waited for.
CREATE FUNCTION harvest.enter_source(
    source_name    text,
    holder_name    text,
    is_live        boolean,
    given_back     bigint[],
    most_at_once   integer,
    most_a_second  double precision,
    lease_s        double precision,
    OUT permit     bigint,
    OUT wait_s     double precision,
    OUT is_whole   boolean,
    OUT is_next    boolean
) LANGUAGE plpgsql AS $$
DECLARE
    -- How far ahead a beginning is promised. What begins later asks again, so that polls and pauses go before it.
    horizon CONSTANT interval := '100 milliseconds';
    -- Requests arrive a little earlier or later than they were let in: room for that in every second.
    headroom CONSTANT double precision := 1.1;
    pace harvest.source_pace;
    present timestamptz;
    gap interval;
    patience CONSTANT interval := '500 milliseconds';
    -- A waiting process asks again every two seconds at the latest.
    mark CONSTANT interval := '3 seconds';
    places integer;
    held integer;
    held_in_background integer;
    may_enter boolean;
    marked boolean := false;
BEGIN
    -- What a crash of the server loses is some milliseconds of permits.
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT * INTO pace FROM harvest.source_pace WHERE source = source_name FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        INSERT INTO harvest.source_pace (source, concurrency, requests_per_second)
        VALUES (source_name, most_at_once, most_a_second) ON CONFLICT (source) DO NOTHING;
        SELECT * INTO pace FROM harvest.source_pace WHERE source = source_name FOR NO KEY UPDATE;
    END IF;
    present := clock_timestamp();

    -- Of different limits the smallest that was asked with in the last minute holds.
    IF pace.limits_at BETWEEN present - interval '1 minute' AND present
       AND (pace.concurrency < most_at_once OR pace.requests_per_second < most_a_second) THEN
        pace.concurrency := least(pace.concurrency, most_at_once);
        pace.requests_per_second := least(pace.requests_per_second, most_a_second);
    ELSE
        pace.concurrency := most_at_once;
        pace.requests_per_second := most_a_second;
        pace.limits_at := present;
    END IF;
    places := greatest(1, floor(pace.concurrency * pace.factor + 0.000001));
    gap := make_interval(secs => headroom / (pace.requests_per_second * pace.factor));
    -- A clock that was set back, or a rate that was raised, must not leave the next beginning far away.
    pace.next_at := least(pace.next_at, present + horizon + gap);
    is_whole := pace.factor = 1;

    DELETE FROM harvest.source_permits WHERE id = ANY (given_back);
    -- Whoever is renewing or giving back just now is not waited for.
    DELETE FROM harvest.source_permits WHERE id IN (
        SELECT p.id FROM harvest.source_permits p
        WHERE p.source = source_name AND p.expires_at NOT BETWEEN present AND present + 2 * make_interval(secs => lease_s)
        FOR UPDATE SKIP LOCKED);
    SELECT count(*), count(*) FILTER (WHERE NOT p.live) INTO held, held_in_background
    FROM harvest.source_permits p WHERE p.source = source_name AND p.expires_at > present;

    may_enter := CASE
        WHEN held >= places THEN false
        WHEN is_live THEN true
        WHEN pace.live_waits_until > present THEN false
        WHEN pace.waiter <> holder_name AND pace.waits_until > present AND pace.waits_since < present - patience THEN false
        -- The last place is kept for polls, where there are any.
        WHEN places > 1 AND held_in_background >= places - 1 THEN NOT EXISTS (
            SELECT FROM harvest.runs r JOIN harvest.datasets d ON d.name = r.dataset
            WHERE r.kind = 'poll' AND r.state = 'open' AND upper(r.requested) > clock_timestamp() - interval '2 hours'
              AND d.source = source_name)
        ELSE true
    END;
    IF pace.held_until > present THEN
        wait_s := extract(epoch FROM pace.held_until - present);
    ELSIF may_enter AND pace.next_at > present + horizon THEN
        wait_s := extract(epoch FROM pace.next_at - present - horizon / 2);
    ELSIF may_enter THEN
        pace.next_at := greatest(pace.next_at, present);
        wait_s := extract(epoch FROM pace.next_at - present);
        pace.next_at := pace.next_at + gap;
        INSERT INTO harvest.source_permits (source, holder, live, expires_at)
        VALUES (source_name, holder_name, is_live, present + make_interval(secs => lease_s))
        RETURNING id INTO permit;
    END IF;
    IF is_live THEN
        pace.live_waits_until := CASE WHEN permit IS NULL THEN present + mark ELSE '-infinity' END;
        marked := true;
    ELSIF permit IS NOT NULL THEN
        IF pace.waiter = holder_name THEN
            pace.waiter := NULL;
        END IF;
    ELSIF pace.waiter IS NULL OR pace.waits_until <= present THEN
        pace.waiter := holder_name;
        pace.waits_since := present;
        pace.waits_until := present + mark;
        marked := true;
    ELSIF pace.waiter = holder_name AND pace.waits_until < present + mark * 0.8 THEN
        pace.waits_until := present + mark;
        marked := true;
    END IF;
    is_next := is_live OR coalesce(pace.waiter = holder_name, false);
    IF marked OR permit IS NOT NULL OR pace.limits_at = present THEN
        UPDATE harvest.source_pace s
        SET concurrency = pace.concurrency, requests_per_second = pace.requests_per_second, limits_at = pace.limits_at,
            next_at = pace.next_at, live_waits_until = pace.live_waits_until,
            waiter = pace.waiter, waits_since = pace.waits_since, waits_until = pace.waits_until
        WHERE s.source = source_name;
    END IF;
END
$$;
COMMENT ON FUNCTION harvest.enter_source IS 'Lets a request to a source begin, or says how long to wait before asking again: permit and wait_s: it may begin after so many seconds; wait_s alone: not before; neither: no place is free (is_next: the next one is this process''s). Gives back the places named first.';
