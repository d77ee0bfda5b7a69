//! What warnings rest on and `status` does not read anyway: how full live windows are, and whether sources answer.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;

use super::{at, window_of, windows::LIVE_PRIORITY};
use crate::window::WindowSet;

/// How full the live windows of a dataset's polls were.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveWindows {
    /// The dataset.
    pub dataset: String,
    /// The most traces that a search may ask for.
    pub limit: i64,
    /// Windows that were fetched.
    pub windows: i64,
    /// Of these, windows that held more than the share asked about.
    pub over: i64,
    /// Traces in the fullest.
    pub fullest: i64,
    /// When the first of those over it was done.
    pub since: Option<DateTime<Utc>>,
}

/// How full live windows of these datasets were that were finished since a moment, with their pieces where they were split.
/// Datasets without any, or whose limit is not known, are left out.
///
/// # Errors
/// If the database refuses.
pub async fn live_windows(
    conn: &mut PgConnection,
    datasets: &[String],
    since: DateTime<Utc>,
    over: f64,
) -> sqlx::Result<Vec<LiveWindows>> {
    // Live windows are young: those finished since then lie not much before it.
    let reach = since - TimeDelta::hours(2);
    sqlx::query_as!(
        LiveWindows,
        r#"WITH RECURSIVE planned AS (
               SELECT w.dataset, w.id AS whole, w.id, w.state, w.returned, w.finished_at
               FROM unnest($1::text[]) AS d(name)
               JOIN harvest.windows w ON w.dataset = d.name AND w.span && tstzrange($2, NULL)
               WHERE w.look = 'fresh' AND w.priority >= $5 AND w.parent_id IS NULL AND w.state IN ('done', 'split') AND w.finished_at >= $3
               UNION ALL
               SELECT p.dataset, p.whole, w.id, w.state, w.returned, w.finished_at
               FROM planned p JOIN harvest.windows w ON w.parent_id = p.id
               WHERE p.state = 'split'
           ), wholes AS (
               SELECT dataset, whole, coalesce(sum(returned) FILTER (WHERE state = 'done'), 0)::bigint AS traces, max(finished_at) AS at
               FROM planned GROUP BY dataset, whole
           )
           SELECT w.dataset AS "dataset!", l.server_limit::bigint AS "limit!", count(*) AS "windows!",
                  count(*) FILTER (WHERE w.traces > l.server_limit * $4::float8) AS "over!", max(w.traces) AS "fullest!",
                  min(w.at) FILTER (WHERE w.traces > l.server_limit * $4::float8) AS since
           FROM wholes w
           CROSS JOIN LATERAL (SELECT f.server_limit FROM harvest.fetches f
                               WHERE f.dataset = w.dataset AND f.at >= $3 AND f.kind = 'search' AND f.server_limit IS NOT NULL
                               ORDER BY f.at DESC LIMIT 1) l
           GROUP BY w.dataset, l.server_limit
           ORDER BY w.dataset"#,
        datasets,
        reach,
        since,
        over,
        LIVE_PRIORITY
    )
    .fetch_all(conn)
    .await
}

/// A stretch that was sealed, and what its settled look had missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedStretch {
    /// Traces that sealing found and the settled look had not.
    pub missed: i64,
    /// When it was sealed.
    pub at: DateTime<Utc>,
}

/// The latest stretches of `width_s` that were sealed since a moment, at most `most` of them, the latest first.
///
/// # Errors
/// If the database refuses.
pub async fn sealed_lately(
    conn: &mut PgConnection,
    dataset: &str,
    width_s: i64,
    since: DateTime<Utc>,
    most: i64,
) -> sqlx::Result<Vec<SealedStretch>> {
    sqlx::query_as!(
        SealedStretch,
        r#"SELECT sum(stored_new)::bigint AS "missed!", max(finished_at) AS "at!"
           FROM harvest.windows
           WHERE dataset = $1 AND look = 'sealed' AND earlier_look = 'settled' AND state = 'done' AND finished_at >= $2
           GROUP BY date_bin(make_interval(secs => $3), lower(span), timestamptz '1970-01-01 00:00:00Z')
           ORDER BY max(upper(span)) DESC
           LIMIT $4"#,
        dataset,
        since,
        width_s as f64,
        most
    )
    .fetch_all(conn)
    .await
}

/// What windows brought since a moment that nothing had covered before.
///
/// # Errors
/// If the database refuses.
pub async fn covered_since(
    conn: &mut PgConnection,
    dataset: &str,
    since: DateTime<Utc>,
) -> sqlx::Result<WindowSet> {
    let rows = sqlx::query!(
        r#"SELECT lower(part) AS "start!: DateTime<Utc>", upper(part) AS "end!: DateTime<Utc>"
           FROM (SELECT unnest(range_agg(span)) AS part FROM harvest.windows
                 WHERE dataset = $1 AND state = 'done' AND finished_at >= $2 AND earlier_look IS NULL) AS done"#,
        dataset,
        since
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| window_of(row.start, row.end))
        .collect())
}

/// What backfills asked for of a dataset that were submitted since a moment.
///
/// # Errors
/// If the database refuses.
pub async fn backfilled_since(
    conn: &mut PgConnection,
    dataset: &str,
    since_s: i64,
) -> sqlx::Result<WindowSet> {
    let rows = sqlx::query!(
        r#"SELECT lower(requested) AS "start!", upper(requested) AS "end!" FROM harvest.runs
           WHERE dataset = $1 AND kind <> 'poll' AND submitted_at >= $2"#,
        dataset,
        at(since_s)
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| window_of(row.start, row.end))
        .collect())
}

/// How a source answers.
#[derive(Debug, Clone)]
pub struct SourceState {
    /// The source.
    pub name: String,
    /// When it last answered a search with what counted.
    pub last_success_at: Option<DateTime<Utc>>,
    /// Open windows at which an attempt has failed, paused ones left out.
    pub failing: i64,
    /// The error of one of them.
    pub error: Option<String>,
    /// Since when the first of them waits.
    pub failing_since: Option<DateTime<Utc>>,
}

/// How sources answer.
///
/// # Errors
/// If the database refuses.
pub async fn sources(conn: &mut PgConnection) -> sqlx::Result<Vec<SourceState>> {
    sqlx::query_as!(
        SourceState,
        r#"SELECT s.name, s.last_success_at, coalesce(f.failing, 0) AS "failing!", f.error, f.failing_since
           FROM harvest.sources s
           LEFT JOIN (SELECT source, count(*) AS failing, min(last_error) AS error, min(created_at) AS failing_since
                      FROM harvest.windows
                      WHERE state IN ('queued', 'running') AND last_error IS NOT NULL AND attempts + throttled > 0
                        AND run_id NOT IN (SELECT run_id FROM harvest.paused_runs)
                      GROUP BY source) f ON f.source = s.name
           ORDER BY s.name"#
    )
    .fetch_all(conn)
    .await
}
