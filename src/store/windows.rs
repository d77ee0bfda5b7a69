//! `harvest.windows`, the ledger: planning windows, and what is said of all of a dataset's or a run's.
//!
//! States: `queued` → `running` (leased) → `done`, or `split` (its pieces take over), or `queued` again after a failure,
//! or `failed` when the attempts are used up; `failed` rests until the stretch is planned again. Who works on a window, and
//! how that ends, is in [`super::lease`].

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, postgres::types::PgRange};

use super::{Look, lease::ErrorClass, range, window_of};
use crate::{
    plan::density::Piece,
    queue::{self, Item},
    window::{Window, WindowSet},
};

/// Priority of backfill windows. Those that a person waits for (`run`) go before those in the background.
pub const BACKFILL_PRIORITY: i32 = 0;
/// Priority of the windows of `run` and `demo`.
pub const FOREGROUND_PRIORITY: i32 = 10;
/// Priority of a poll's settled looks.
pub const SETTLING_PRIORITY: i32 = 50;
/// Priority of a poll's newest windows, and of what else must not wait: from here on they have consumers and a place at
/// their source of their own.
pub const LIVE_PRIORITY: i32 = queue::LIVE_PRIORITY;

/// Seconds of a dataset that open windows will cover.
///
/// # Errors
/// If the database refuses.
pub async fn in_flight(
    conn: &mut PgConnection,
    dataset: &str,
    look: Look,
) -> sqlx::Result<WindowSet> {
    let rows = sqlx::query!(
        r#"SELECT lower(span) AS "start!", upper(span) AS "end!" FROM harvest.windows
           WHERE dataset = $1 AND look = $2 AND state IN ('queued', 'running')"#,
        dataset,
        look.name()
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| window_of(row.start, row.end))
        .collect())
}

/// What new windows have in common.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The submission.
    pub run_id: i64,
    /// The dataset.
    pub dataset: &'a str,
    /// The source.
    pub source: &'a str,
    /// What being done will count as.
    pub look: Look,
    /// The latest look that covers all of them already.
    pub earlier_look: Option<Look>,
    /// Priority on the queue.
    pub priority: i32,
    /// How far a window's end must lie behind the server's clock, seconds.
    pub settle_s: i64,
}

/// Records planned windows and puts them on the queue, in the order given.
///
/// Runs of one source and priority take turns: the first of these windows comes as early as the first that still waits,
/// the second as early as the one after that.
///
/// # Errors
/// If the database refuses, or one overlaps an open window of the same dataset and look.
pub async fn insert_planned(
    conn: &mut PgConnection,
    origin: &Origin<'_>,
    windows: &[Piece],
) -> sqlx::Result<()> {
    if windows.is_empty() {
        return Ok(());
    }
    let spans: Vec<PgRange<DateTime<Utc>>> =
        windows.iter().map(|piece| range(piece.window)).collect();
    let expected: Vec<Option<i64>> = windows
        .iter()
        .map(|piece| piece.expected.and_then(|n| i64::try_from(n).ok()))
        .collect();
    let rows = sqlx::query!(
        r#"INSERT INTO harvest.windows (run_id, dataset, source, look, span, priority, queue_at, settle_s, earlier_look, expected)
           SELECT $1, $2, $3, $4, span, $5, turn.first + rank * interval '1 millisecond', $6, $7, expected
           FROM unnest($8::tstzrange[], $9::bigint[]) WITH ORDINALITY AS planned (span, expected, rank),
                (SELECT coalesce(min(queue_at) - interval '1 millisecond', timestamptz '2000-01-01 00:00:00Z') AS first
                 FROM harvest.windows WHERE source = $3 AND priority = $5 AND state = 'queued') AS turn
           ORDER BY rank
           RETURNING id, queue_at"#,
        origin.run_id,
        origin.dataset,
        origin.source,
        origin.look.name(),
        origin.priority,
        origin.settle_s,
        origin.earlier_look.map(Look::name),
        &spans,
        &expected as &[Option<i64>]
    )
    .fetch_all(&mut *conn)
    .await?;
    let items: Vec<Item> = rows
        .into_iter()
        .map(|row| Item {
            window_id: row.id,
            priority: origin.priority,
            run_at: row.queue_at,
        })
        .collect();
    queue::enqueue(conn, origin.source, &items).await
}

/// Nobody waits for these windows any more: they go on in the background.
///
/// # Errors
/// If the database refuses.
pub async fn send_to_background(conn: &mut PgConnection, run_id: i64) -> sqlx::Result<()> {
    let rows = sqlx::query!(
        "UPDATE harvest.windows SET priority = $2
         WHERE run_id = $1 AND state IN ('queued', 'running') AND priority > $2 RETURNING id, source",
        run_id,
        BACKFILL_PRIORITY
    )
    .fetch_all(&mut *conn)
    .await?;
    let Some(source) = rows.first().map(|row| row.source.clone()) else {
        return Ok(());
    };
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    queue::reprioritise(conn, &source, &ids, BACKFILL_PRIORITY).await
}

/// Fails every open window of the run that this window belongs to: the job is wrong, or the source refuses it, and
/// asking again would be answered the same. Returns how many.
///
/// # Errors
/// If the database refuses.
pub async fn fail_run(
    conn: &mut PgConnection,
    window_id: i64,
    class: ErrorClass,
    error: &str,
) -> sqlx::Result<u64> {
    Ok(sqlx::query!(
        "UPDATE harvest.windows SET state = 'failed', lease_holder = NULL, lease_expires_at = NULL, finished_at = clock_timestamp(),
             last_error = $3, error_class = $2
         WHERE run_id = (SELECT run_id FROM harvest.windows WHERE id = $1) AND state IN ('queued', 'running')",
        window_id,
        class.name(),
        error
    )
    .execute(conn)
    .await?
    .rows_affected())
}

/// Traces per second in the few windows done nearest to this one, within `reach_s` seconds; `None` if there are none, or they
/// are so much shorter than it that they say nothing about it: the seconds of a burst would have a quiet hour cut to pieces.
///
/// # Errors
/// If the database refuses.
pub async fn density_near(
    conn: &mut PgConnection,
    dataset: &str,
    window: Window,
    reach_s: i64,
) -> sqlx::Result<Option<f64>> {
    let around = Window::new(window.start() - reach_s, window.end() + reach_s).unwrap_or(window);
    sqlx::query_scalar!(
        "SELECT CASE WHEN sum(upper(span) - lower(span)) * 8 >= upper($3::tstzrange) - lower($3::tstzrange)
                     THEN sum(returned)::float8 / sum(extract(epoch FROM upper(span) - lower(span)))::float8 END
         FROM (SELECT returned, span FROM harvest.windows WHERE dataset = $1 AND span && $2 AND state = 'done'
               ORDER BY abs(extract(epoch FROM lower(span) - lower($3::tstzrange))) LIMIT 4) nearest",
        dataset,
        range(around),
        range(window)
    )
    .fetch_one(conn)
    .await
}

/// How many windows failed, and are not collected by now, since a moment.
///
/// # Errors
/// If the database refuses.
pub async fn failed_since(conn: &mut PgConnection, since: DateTime<Utc>) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "failed!" FROM harvest.windows w
           LEFT JOIN harvest.coverage c ON c.dataset = w.dataset AND c.look = w.look
           WHERE w.state = 'failed' AND w.finished_at >= $1 AND NOT coalesce(w.span <@ c.covered, false)"#,
        since
    )
    .fetch_one(conn)
    .await
}

/// What became of windows, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Windows that are done.
    pub windows: i64,
    /// Traces in the answers that counted.
    pub traces: i64,
    /// Requests for all that were finished, failed ones too.
    pub requests: i64,
}

/// What was finished since a moment, by anyone.
///
/// # Errors
/// If the database refuses.
pub async fn done_since(conn: &mut PgConnection, since: DateTime<Utc>) -> sqlx::Result<Done> {
    sqlx::query_as!(
        Done,
        r#"SELECT count(*) FILTER (WHERE state = 'done') AS "windows!",
                  coalesce(sum(returned) FILTER (WHERE state = 'done'), 0)::bigint AS "traces!",
                  coalesce(sum(requests), 0)::bigint AS "requests!"
           FROM harvest.windows WHERE finished_at >= $1"#,
        since
    )
    .fetch_one(conn)
    .await
}
