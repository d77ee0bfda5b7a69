//! Deleting what is no longer needed, a batch at a time: finished windows, requests, old runs, and holes in the coverage
//! of provisional looks. Each statement is a short transaction of its own; what somebody else has locked is left for the
//! next time. When, and in which order, is left to [`crate::housekeeping`]; traces are [`super::retention`]'s.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::PgConnection;

use super::{Look, polls::MOST_FAILURES};

/// Takes the turn to keep house if nobody has begun within `every`. A turn taken before the clock was set back, which lies in
/// the future, does not count.
///
/// # Errors
/// If the database refuses.
pub async fn take_turn(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    every: TimeDelta,
) -> sqlx::Result<bool> {
    let taken = sqlx::query!(
        "INSERT INTO harvest.housekeeping AS h (begun_at) VALUES ($1)
         ON CONFLICT (one) DO UPDATE SET begun_at = excluded.begun_at WHERE h.begun_at NOT BETWEEN $2 AND $3",
        now,
        now - every,
        now + every
    )
    .execute(conn)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// What became of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Rows deleted.
    pub deleted: i64,
    /// The number of the last row looked at: the next batch begins after it. `None`: there is none.
    pub last: Option<i64>,
}

/// Looks at the next `rows` windows after number `after` that were planned before `before`, and deletes those that were
/// finished before then and that nothing needs: their figures are added to their run's.
///
/// Needed are the windows of a run that is still open (unless it is a poll, which never ends), and a failed window that
/// explains a gap, or lets it rest: its stretch is not covered at its look or a later one, not deleted by retention, and
/// fewer later failures at its look span it than let it rest.
///
/// # Errors
/// If the database refuses.
pub async fn prune_windows(
    conn: &mut PgConnection,
    after: i64,
    before: DateTime<Utc>,
    rows: i64,
) -> sqlx::Result<Batch> {
    let row = sqlx::query!(
        r#"WITH looked_at AS MATERIALIZED (
               SELECT id FROM harvest.windows WHERE id > $1 AND created_at < $2 ORDER BY id LIMIT $3
           ), old AS MATERIALIZED (
               SELECT w.id, (w.finished_at AT TIME ZONE 'UTC')::date AS day
               FROM looked_at JOIN harvest.windows w USING (id)
               JOIN harvest.runs r ON r.id = w.run_id
               JOIN harvest.datasets d ON d.name = w.dataset
               WHERE w.finished_at < $2 AND (r.state <> 'open' OR r.kind = 'poll')
                 AND (w.state <> 'failed'
                      OR upper(w.span) <= d.deleted_before
                      OR EXISTS (SELECT FROM harvest.coverage c
                                 WHERE c.dataset = w.dataset AND w.span <@ c.covered
                                   AND array_position($4::text[], c.look) >= array_position($4::text[], w.look))
                      OR (SELECT count(*) FROM harvest.windows later
                          WHERE later.dataset = w.dataset AND later.look = w.look AND later.state = 'failed'
                            AND later.span @> w.span AND (later.finished_at, later.id) > (w.finished_at, w.id)) >= $5)
               FOR UPDATE OF w SKIP LOCKED
           ), summed_up AS (
               INSERT INTO harvest.pruned_windows AS p
                   (run_id, look, looked_at_before, day, windows_done, windows_failed, windows_cancelled, splits, done_s, traces_returned,
                    traces_new, traces_improved, requests, retries, last_done_at)
               SELECT run_id, look, looked_at_before, day, sum(windows_done), sum(windows_failed), sum(windows_cancelled), sum(splits), sum(done_s),
                      sum(traces_returned), sum(traces_new), sum(traces_improved), sum(requests), sum(retries), max(done_at)
               FROM harvest.window_figures JOIN old USING (id)
               GROUP BY run_id, look, looked_at_before, day
               ON CONFLICT (run_id, look, looked_at_before, day) DO UPDATE SET
                   windows_done = p.windows_done + excluded.windows_done,
                   windows_failed = p.windows_failed + excluded.windows_failed,
                   windows_cancelled = p.windows_cancelled + excluded.windows_cancelled,
                   splits = p.splits + excluded.splits,
                   done_s = p.done_s + excluded.done_s,
                   traces_returned = p.traces_returned + excluded.traces_returned,
                   traces_new = p.traces_new + excluded.traces_new,
                   traces_improved = p.traces_improved + excluded.traces_improved,
                   requests = p.requests + excluded.requests,
                   retries = p.retries + excluded.retries,
                   last_done_at = greatest(p.last_done_at, excluded.last_done_at)
           ), gone AS (
               DELETE FROM harvest.windows w USING old WHERE w.id = old.id RETURNING w.id
           )
           SELECT (SELECT count(*) FROM gone) AS "deleted!", (SELECT max(id) FROM looked_at) AS last"#,
        after,
        before,
        rows,
        &Look::ALL.map(|look| look.name().to_owned()),
        MOST_FAILURES
    )
    .fetch_one(conn)
    .await?;
    Ok(Batch {
        deleted: row.deleted,
        last: row.last,
    })
}

/// Deletes the next `rows` requests after number `after` that were made before `before`: they are added to their day's sums.
///
/// # Errors
/// If the database refuses.
pub async fn prune_fetches(
    conn: &mut PgConnection,
    after: i64,
    before: DateTime<Utc>,
    rows: i64,
) -> sqlx::Result<Batch> {
    let row = sqlx::query!(
        r#"WITH old AS MATERIALIZED (
               SELECT * FROM harvest.fetches WHERE id > $1 AND at < $2 ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED
           ), summed_up AS (
               INSERT INTO harvest.pruned_fetches AS p
                   (day, source, dataset, run_id, kind, outcome, duration_class, requests, retries, returned, bytes, inspected_bytes,
                    inspected_requests, duration_ms, fullest)
               SELECT (at AT TIME ZONE 'UTC')::date, source, coalesce(old.dataset, ''), r.id, old.kind, outcome, harvest.duration_class(duration_ms),
                      count(*), count(*) FILTER (WHERE retry > 0), coalesce(sum(returned), 0), coalesce(sum(bytes), 0),
                      coalesce(sum(inspected_bytes), 0), count(inspected_bytes), sum(duration_ms), max(limit_share)
               FROM old LEFT JOIN harvest.runs r ON r.id = old.run_id
               GROUP BY 1, 2, 3, 4, 5, 6, 7
               ON CONFLICT (dataset, day, coalesce(run_id, 0), source, kind, outcome, duration_class) DO UPDATE SET
                   requests = p.requests + excluded.requests,
                   retries = p.retries + excluded.retries,
                   returned = p.returned + excluded.returned,
                   bytes = p.bytes + excluded.bytes,
                   inspected_bytes = p.inspected_bytes + excluded.inspected_bytes,
                   inspected_requests = p.inspected_requests + excluded.inspected_requests,
                   duration_ms = p.duration_ms + excluded.duration_ms,
                   fullest = greatest(p.fullest, excluded.fullest)
           ), gone AS (
               DELETE FROM harvest.fetches f USING old WHERE f.id = old.id RETURNING f.id
           )
           SELECT count(*) AS "deleted!", max(id) AS last FROM gone"#,
        after,
        before,
        rows
    )
    .fetch_one(conn)
    .await?;
    Ok(Batch {
        deleted: row.deleted,
        last: row.last,
    })
}

/// Keeps sums by day of the time since `before` only: those of requests from before are deleted, those of windows become one, which
/// counts for 1970.
///
/// # Errors
/// If the database refuses.
pub async fn prune_sums(conn: &mut PgConnection, before: NaiveDate) -> sqlx::Result<()> {
    sqlx::query!("DELETE FROM harvest.pruned_fetches WHERE day < $1", before)
        .execute(&mut *conn)
        .await?;
    sqlx::query!(
        "WITH old AS (DELETE FROM harvest.pruned_windows WHERE day < $1 AND day > '1970-01-01' RETURNING *)
         INSERT INTO harvest.pruned_windows AS p
             (run_id, look, looked_at_before, day, windows_done, windows_failed, windows_cancelled, splits, done_s, traces_returned,
              traces_new, traces_improved, requests, retries, last_done_at)
         SELECT run_id, look, looked_at_before, '1970-01-01', sum(windows_done), sum(windows_failed), sum(windows_cancelled), sum(splits),
                sum(done_s), sum(traces_returned), sum(traces_new), sum(traces_improved), sum(requests), sum(retries), max(last_done_at)
         FROM old GROUP BY run_id, look, looked_at_before
         ON CONFLICT (run_id, look, looked_at_before, day) DO UPDATE SET
             windows_done = p.windows_done + excluded.windows_done,
             windows_failed = p.windows_failed + excluded.windows_failed,
             windows_cancelled = p.windows_cancelled + excluded.windows_cancelled,
             splits = p.splits + excluded.splits,
             done_s = p.done_s + excluded.done_s,
             traces_returned = p.traces_returned + excluded.traces_returned,
             traces_new = p.traces_new + excluded.traces_new,
             traces_improved = p.traces_improved + excluded.traces_improved,
             requests = p.requests + excluded.requests,
             retries = p.retries + excluded.retries,
             last_done_at = greatest(p.last_done_at, excluded.last_done_at)",
        before
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes at most `rows` runs that ended before `before` and of which no window is left. What they asked for stays known,
/// cancelled ones' left out. Returns how many.
///
/// # Errors
/// If the database refuses.
pub async fn prune_runs(
    conn: &mut PgConnection,
    before: DateTime<Utc>,
    rows: i64,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"WITH old AS MATERIALIZED (
               SELECT r.id, r.dataset, r.requested, r.state, r.kind FROM harvest.runs r
               WHERE r.state <> 'open' AND r.finished_at < $1 AND NOT EXISTS (SELECT FROM harvest.windows w WHERE w.run_id = r.id)
               ORDER BY r.id LIMIT $2 FOR UPDATE OF r SKIP LOCKED
           ), remembered AS (
               UPDATE harvest.datasets d SET requested_by_old_runs = d.requested_by_old_runs + asked.requested
               FROM (SELECT dataset, range_agg(requested) AS requested FROM old
                     WHERE state <> 'cancelled' AND kind IN ('backfill', 'poll') GROUP BY dataset) asked
               WHERE d.name = asked.dataset
           ), gone AS (
               DELETE FROM harvest.runs r USING old WHERE r.id = old.id RETURNING r.id
           )
           SELECT count(*) AS "deleted!" FROM gone"#,
        before,
        rows
    )
    .fetch_one(conn)
    .await
}

/// Adds to the coverage of a provisional look what later looks cover within its bounds: what was missed and then collected
/// by a later look right away would otherwise stay a hole in it for ever.
///
/// # Errors
/// If the database refuses.
pub async fn fill_coverage(conn: &mut PgConnection, look: Look) -> sqlx::Result<()> {
    let later: Vec<String> = Look::ALL
        .into_iter()
        .filter(|other| *other > look)
        .map(|other| other.name().to_owned())
        .collect();
    sqlx::query!(
        "UPDATE harvest.coverage c SET covered = c.covered + better.covered
         FROM (SELECT early.dataset, range_agg(range * range_merge(early.covered)) AS covered
               FROM harvest.coverage early
               JOIN harvest.coverage later ON later.dataset = early.dataset AND later.look = ANY($2)
               CROSS JOIN LATERAL unnest(later.covered) AS range
               WHERE early.look = $1 AND NOT isempty(early.covered)
               GROUP BY early.dataset) better
         WHERE c.dataset = better.dataset AND c.look = $1 AND NOT better.covered <@ c.covered",
        look.name(),
        &later
    )
    .execute(conn)
    .await?;
    Ok(())
}
