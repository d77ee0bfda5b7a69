//! What a poll's tick reads and writes: the poll's run in `harvest.runs`, the state of its dataset by look, and the widened
//! `lookback`.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    Holder, Look, at, range,
    runs::{self, Kind, NewRun},
    window_of,
    windows::LIVE_PRIORITY,
};
use crate::{
    plan::poll::{ByLook, State},
    window::{Window, WindowSet},
};

/// Failed windows on one stretch at one look before it rests whatever the reason.
pub(super) const MOST_FAILURES: i64 = 3;
/// How far back the density is looked up, seconds.
const DENSITY_REACH_S: i64 = 900;
/// Sealing looks in a row that found something the settled look had missed, before `lookback` is widened.
const MISSES_IN_A_ROW: usize = 3;

/// A job's living poll.
#[derive(Debug, Clone, Copy)]
pub struct PollRun {
    /// Number of its run.
    pub id: i64,
    /// The first second it collects, Unix seconds.
    pub from_s: i64,
    /// `lookback` as widened, seconds.
    pub widened_s: Option<i64>,
}

/// The database's clock.
///
/// # Errors
/// If the database refuses.
pub async fn clock(conn: &mut PgConnection) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#)
        .fetch_one(conn)
        .await
}

/// Lets the transaction wait two seconds for a lock, and fail then.
///
/// # Errors
/// If the database refuses.
pub async fn wait_briefly(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("SET LOCAL lock_timeout = '2s'")
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether the job is paused; `false` if it is not known.
///
/// # Errors
/// If the database refuses.
pub async fn is_paused(conn: &mut PgConnection, job: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT j.paused_at IS NOT NULL
                  OR EXISTS (SELECT FROM harvest.runs r WHERE r.job = j.name AND r.kind = 'poll' AND r.state = 'open' AND r.paused_at IS NOT NULL)
                  AS "paused!"
           FROM harvest.jobs j WHERE j.name = $1"#,
        job
    )
    .fetch_optional(conn)
    .await
    .map(|paused| paused.unwrap_or(false))
}

/// The job's living poll, if it has one for this dataset.
///
/// # Errors
/// If the database refuses.
pub async fn open_run(
    conn: &mut PgConnection,
    job: &str,
    dataset: &str,
) -> sqlx::Result<Option<PollRun>> {
    let row = sqlx::query!(
        r#"SELECT r.id, lower(r.requested) AS "from!", j.lookback_s
           FROM harvest.runs r JOIN harvest.jobs j ON j.name = r.job
           WHERE r.job = $1 AND r.dataset = $2 AND r.kind = 'poll' AND r.state = 'open'"#,
        job,
        dataset
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| PollRun {
        id: row.id,
        from_s: row.from.timestamp(),
        widened_s: row.lookback_s,
    }))
}

/// Where a new poll of a dataset goes on, Unix seconds: where its latest poll began, whichever job's, so that what that left
/// provisional, and missed since, is looked at; else where a backfill ended within the last day; `None` without either.
///
/// # Errors
/// If the database refuses.
pub async fn goes_on_from(
    conn: &mut PgConnection,
    dataset: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        "SELECT extract(epoch FROM coalesce(
             (SELECT lower(requested) FROM harvest.runs
              WHERE dataset = $1 AND kind = 'poll' AND state <> 'cancelled' ORDER BY id DESC LIMIT 1),
             (SELECT max(upper(requested)) FROM harvest.runs
              WHERE dataset = $1 AND kind = 'backfill' AND state <> 'cancelled'
                AND upper(requested) > $2::timestamptz - interval '1 day')))::bigint",
        dataset,
        now
    )
    .fetch_one(conn)
    .await
}

/// Begins a job's poll; one that it had for another dataset ends.
///
/// # Errors
/// If the database refuses.
pub async fn begin(
    conn: &mut PgConnection,
    job: &str,
    dataset: &str,
    requested: Window,
    holder: &Holder,
) -> sqlx::Result<PollRun> {
    end(&mut *conn, job).await?;
    let run = NewRun {
        job,
        dataset,
        kind: Kind::Poll,
        requested,
        settle_s: 0,
        command: "work",
        holder,
    };
    let id = runs::insert(conn, &run).await?;
    Ok(PollRun {
        id,
        from_s: requested.start(),
        widened_s: None,
    })
}

/// Ends a job's poll: what it was to collect stays asked for.
///
/// # Errors
/// If the database refuses.
pub async fn end(conn: &mut PgConnection, job: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.runs SET state = 'complete', finished_at = now() WHERE job = $1 AND kind = 'poll' AND state = 'open'",
        job
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records up to where the poll has been asked to collect, and by which rules.
///
/// # Errors
/// If the database refuses.
pub async fn advance(
    conn: &mut PgConnection,
    run_id: i64,
    edge_s: i64,
    seal_after_s: i64,
    catch_up_s: Option<i64>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.runs SET requested = tstzrange(lower(requested), greatest(upper(requested), $2)), settle_s = $3, catch_up_s = $4
         WHERE id = $1 AND (upper(requested) < $2 OR settle_s <> $3 OR catch_up_s IS DISTINCT FROM $4)",
        run_id,
        at(edge_s),
        seal_after_s,
        catch_up_s
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What the ledger says of a dataset within a range.
///
/// # Errors
/// If the database refuses.
pub async fn state(conn: &mut PgConnection, dataset: &str, within: Window) -> sqlx::Result<State> {
    // In flight first: a window that is finished between the reads then shows as covered, and is not planned again.
    let in_flight = in_flight(conn, dataset, within).await?;
    let live_open = sqlx::query_scalar!(
        r#"SELECT count(*) AS "open!" FROM harvest.windows
           WHERE dataset = $1 AND look = 'fresh' AND span && $2 AND state IN ('queued', 'running') AND priority >= $3
             AND NOT EXISTS (SELECT FROM harvest.paused_runs p WHERE p.run_id = windows.run_id)"#,
        dataset,
        range(within),
        LIVE_PRIORITY
    )
    .fetch_one(&mut *conn)
    .await?;
    let covered = covered(conn, dataset, within).await?;
    let resting = resting(conn, dataset, within).await?;
    let lately = Window::new(within.end() - DENSITY_REACH_S, within.end()).unwrap_or(within);
    Ok(State {
        covered,
        in_flight,
        resting,
        live_open: usize::try_from(live_open).unwrap_or(usize::MAX),
        density: super::windows::density_near(conn, dataset, lately, 0).await?,
    })
}

async fn in_flight(conn: &mut PgConnection, dataset: &str, within: Window) -> sqlx::Result<ByLook> {
    let rows = sqlx::query!(
        r#"SELECT look, lower(part) AS "start!: DateTime<Utc>", upper(part) AS "end!: DateTime<Utc>"
           FROM (SELECT look, unnest(range_agg(span)) AS part FROM harvest.windows
                 WHERE dataset = $1 AND span && $2 AND state IN ('queued', 'running') GROUP BY look) AS open"#,
        dataset,
        range(within)
    )
    .fetch_all(conn)
    .await?;
    Ok(by_look(
        rows.into_iter().map(|row| (row.look, row.start, row.end)),
    ))
}

async fn covered(conn: &mut PgConnection, dataset: &str, within: Window) -> sqlx::Result<ByLook> {
    let rows = sqlx::query!(
        r#"SELECT look, lower(part) AS "start!: DateTime<Utc>", upper(part) AS "end!: DateTime<Utc>"
           FROM harvest.coverage CROSS JOIN LATERAL unnest(covered * tstzmultirange($2::tstzrange)) AS part
           WHERE dataset = $1"#,
        dataset,
        range(within)
    )
    .fetch_all(conn)
    .await?;
    Ok(by_look(
        rows.into_iter().map(|row| (row.look, row.start, row.end)),
    ))
}

/// What failed and is to be left alone until it is repaired: what asking again cannot help, what failed again and again,
/// and what failed since the source last answered. After an outage the rest is planned anew.
async fn resting(conn: &mut PgConnection, dataset: &str, within: Window) -> sqlx::Result<ByLook> {
    let rows = sqlx::query!(
        r#"SELECT look, lower(part) AS "start!: DateTime<Utc>", upper(part) AS "end!: DateTime<Utc>"
           FROM (SELECT w.look, unnest(range_agg(w.span)) AS part
                 FROM harvest.windows w JOIN harvest.sources s ON s.name = w.source
                 WHERE w.dataset = $1 AND w.state = 'failed' AND w.span && $2
                   AND NOT EXISTS (SELECT FROM harvest.coverage c
                                   WHERE c.dataset = w.dataset AND c.look IN (w.look, 'sealed') AND w.span <@ c.covered)
                   AND (w.error_class = 'irreducible'
                        OR s.last_success_at IS NULL OR w.finished_at >= s.last_success_at
                        OR (SELECT count(*) FROM harvest.windows again
                            WHERE again.dataset = w.dataset AND again.look = w.look AND again.state = 'failed'
                              AND again.span @> w.span) >= $3)
                 GROUP BY w.look) AS failed"#,
        dataset,
        range(within),
        MOST_FAILURES
    )
    .fetch_all(conn)
    .await?;
    Ok(by_look(
        rows.into_iter().map(|row| (row.look, row.start, row.end)),
    ))
}

fn by_look(rows: impl Iterator<Item = (String, DateTime<Utc>, DateTime<Utc>)>) -> ByLook {
    let mut parts: [Vec<Window>; 3] = Default::default();
    for (look, start, end) in rows {
        if let (Some(look), Some(window)) = (Look::from_name(&look), window_of(start, end)) {
            parts[look as usize].push(window);
        }
    }
    parts.map(WindowSet::from_iter).into()
}

/// Widens the job's `lookback` if sealing keeps finding what the settled look had missed: three sealed stretches of
/// `sealed_width_s` in a row, each since it was last widened. Returns how many traces had been missed, if it did.
///
/// # Errors
/// If the database refuses.
pub async fn widen(
    conn: &mut PgConnection,
    job: &str,
    dataset: &str,
    sealed_width_s: i64,
    wider_s: i64,
) -> sqlx::Result<Option<i64>> {
    let missed = sqlx::query_scalar!(
        r#"SELECT sum(w.stored_new)::bigint AS "missed!"
           FROM harvest.windows w JOIN harvest.jobs j ON j.name = $1
           WHERE w.dataset = $2 AND w.look = 'sealed' AND w.earlier_look = 'settled' AND w.state = 'done'
             AND w.finished_at > coalesce(j.lookback_widened_at, '-infinity')
           GROUP BY date_bin(make_interval(secs => $3), lower(w.span), timestamptz '1970-01-01 00:00:00Z')
           ORDER BY max(upper(w.span)) DESC
           LIMIT $4"#,
        job,
        dataset,
        sealed_width_s as f64,
        MISSES_IN_A_ROW as i64
    )
    .fetch_all(&mut *conn)
    .await?;
    if missed.len() < MISSES_IN_A_ROW || missed.contains(&0) {
        return Ok(None);
    }
    sqlx::query!(
        "UPDATE harvest.jobs SET lookback_s = $2, lookback_widened_at = clock_timestamp() WHERE name = $1",
        job,
        wider_s
    )
    .execute(conn)
    .await?;
    Ok(Some(missed.iter().sum()))
}

/// The last tick of the job's backfill schedule that was acted on.
///
/// # Errors
/// If the database refuses.
pub async fn scheduled_at(
    conn: &mut PgConnection,
    job: &str,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!("SELECT scheduled_at FROM harvest.jobs WHERE name = $1", job)
        .fetch_optional(conn)
        .await
        .map(Option::flatten)
}

/// Remembers a tick of the job's backfill schedule as acted on.
///
/// # Errors
/// If the database refuses.
pub async fn record_tick(
    conn: &mut PgConnection,
    job: &str,
    tick: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.jobs SET scheduled_at = greatest(scheduled_at, $2) WHERE name = $1",
        job,
        tick
    )
    .execute(conn)
    .await?;
    Ok(())
}
