//! What `status`, `gaps` and `repair` read: datasets, what was asked of them, and why some of it is not there.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Look, runs::Kind, window_of};
use crate::{
    gaps::Failed,
    window::{Window, WindowSet},
};

/// A dataset at a glance.
#[derive(Debug, Clone)]
pub struct DatasetState {
    /// Its name.
    pub name: String,
    /// Where it is collected from.
    pub source: String,
    /// The tenant.
    pub tenant: Option<String>,
    /// The TraceQL filter.
    pub query: Option<String>,
    /// The detail.
    pub detail: String,
    /// Traces stored.
    pub traces: i64,
    /// Spans stored.
    pub spans: i64,
    /// Windows queued.
    pub queued: i64,
    /// Windows being fetched.
    pub running: i64,
    /// Jobs that fill it.
    pub jobs: Vec<String>,
    /// When a window was last finished.
    pub last_done_at: Option<DateTime<Utc>>,
}

/// Datasets, or the one of this name, or the one that a job of this name fills.
///
/// # Errors
/// If the database refuses.
pub async fn datasets(
    conn: &mut PgConnection,
    name: Option<&str>,
) -> sqlx::Result<Vec<DatasetState>> {
    let rows = sqlx::query!(
        r#"SELECT d.name, d.source, d.tenant, d.query, d.detail, d.trace_count, d.span_count,
                  (SELECT count(*) FROM harvest.windows w WHERE w.dataset = d.name AND w.state = 'queued') AS "queued!",
                  (SELECT count(*) FROM harvest.windows w WHERE w.dataset = d.name AND w.state = 'running') AS "running!",
                  greatest((SELECT max(w.finished_at) FROM harvest.windows w WHERE w.dataset = d.name AND w.state = 'done'),
                           (SELECT max(p.last_done_at) FROM harvest.pruned_windows p JOIN harvest.runs r ON r.id = p.run_id
                            WHERE r.dataset = d.name)) AS last_done_at,
                  ARRAY(SELECT j.name FROM harvest.jobs j WHERE j.dataset = d.name ORDER BY j.name) AS "jobs!"
           FROM harvest.datasets d
           WHERE $1::text IS NULL OR d.name = $1 OR EXISTS (SELECT FROM harvest.jobs j WHERE j.name = $1 AND j.dataset = d.name)
           ORDER BY d.name"#,
        name
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| DatasetState {
            name: row.name,
            source: row.source,
            tenant: row.tenant,
            query: row.query,
            detail: row.detail,
            traces: row.trace_count,
            spans: row.span_count,
            queued: row.queued,
            running: row.running,
            jobs: row.jobs,
            last_done_at: row.last_done_at,
        })
        .collect())
}

/// Everything that was ever asked for of a dataset, cancelled submissions left out. Repairs and refetches ask for nothing
/// that was not asked for before.
///
/// # Errors
/// If the database refuses.
pub async fn requested(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<WindowSet> {
    requested_by(conn, dataset, &[Kind::Backfill, Kind::Poll]).await
}

/// Whether anything was ever submitted for a dataset.
///
/// # Errors
/// If the database refuses.
pub async fn was_submitted(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM harvest.runs WHERE dataset = $1) AS "submitted!""#,
        dataset
    )
    .fetch_one(conn)
    .await
}

/// What runs of these kinds asked for of a dataset, cancelled ones left out.
///
/// # Errors
/// If the database refuses.
pub async fn requested_by(
    conn: &mut PgConnection,
    dataset: &str,
    kinds: &[Kind],
) -> sqlx::Result<WindowSet> {
    let kinds: Vec<String> = kinds.iter().map(|kind| kind.name().to_owned()).collect();
    let rows = sqlx::query!(
        r#"SELECT lower(range) AS "start!: DateTime<Utc>", upper(range) AS "end!: DateTime<Utc>"
           FROM (SELECT unnest(coalesce((SELECT range_agg(r.requested) FROM harvest.runs r
                                         WHERE r.dataset = $1 AND r.state <> 'cancelled' AND r.kind = ANY($2)), '{}')
                               + CASE WHEN 'backfill' = ANY($2) THEN d.requested_by_old_runs ELSE '{}' END) AS range
                 FROM harvest.datasets d WHERE d.name = $1) asked"#,
        dataset,
        &kinds
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| window_of(row.start, row.end))
        .collect())
}

/// How far behind the present a dataset's submissions stay, seconds.
#[derive(Debug, Clone, Copy)]
pub struct Settle {
    /// The most of its backfills: what is younger they could not collect yet.
    pub backfills_s: i64,
    /// The most of all: what is older can be sealed.
    pub all_s: i64,
}

/// How far behind the present a dataset's submissions stay, cancelled ones left out; an hour where there are none.
///
/// # Errors
/// If the database refuses.
pub async fn settle(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Settle> {
    sqlx::query_as!(
        Settle,
        r#"SELECT coalesce(max(settle_s) FILTER (WHERE kind = 'backfill'), 3600) AS "backfills_s!",
                  coalesce(max(settle_s) FILTER (WHERE kind IN ('backfill', 'poll')), 3600) AS "all_s!"
           FROM harvest.runs WHERE dataset = $1 AND state <> 'cancelled'"#,
        dataset
    )
    .fetch_one(conn)
    .await
}

/// A poll that was not cancelled.
#[derive(Debug, Clone)]
pub struct Poll {
    /// Its job.
    pub job: String,
    /// What it asked for so far.
    pub requested: Window,
    /// How old a second is when it is sealed, seconds.
    pub seal_after_s: i64,
    /// How far back it fills in what was missed, seconds.
    pub catch_up_s: Option<i64>,
    /// Whether it goes on: neither ended nor paused.
    pub living: bool,
    /// The job file's text.
    pub spec: String,
    /// `lookback` in seconds, if it was widened.
    pub lookback_s: Option<i64>,
    /// When it was last widened.
    pub lookback_widened_at: Option<DateTime<Utc>>,
}

/// The polls of a dataset.
///
/// # Errors
/// If the database refuses.
pub async fn polls(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Vec<Poll>> {
    let rows = sqlx::query!(
        r#"SELECT r.job, lower(r.requested) AS "start!", upper(r.requested) AS "end!", r.settle_s, r.catch_up_s, j.spec, j.lookback_s,
                  j.lookback_widened_at,
                  r.state = 'open' AND NOT EXISTS (SELECT FROM harvest.paused_runs p WHERE p.run_id = r.id) AS "living!"
           FROM harvest.runs r JOIN harvest.jobs j ON j.name = r.job
           WHERE r.dataset = $1 AND r.kind = 'poll' AND r.state <> 'cancelled' ORDER BY r.id"#,
        dataset
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(Poll {
                job: row.job,
                requested: window_of(row.start, row.end)?,
                seal_after_s: row.settle_s,
                catch_up_s: row.catch_up_s,
                living: row.living,
                spec: row.spec,
                lookback_s: row.lookback_s,
                lookback_widened_at: row.lookback_widened_at,
            })
        })
        .collect())
}

/// What the later looks at a dataset found that an earlier look had missed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LaterLooks {
    /// The look that had missed it: fresh or settled.
    pub after: String,
    /// Windows looked at again.
    pub windows: i64,
    /// Traces they brought.
    pub traces: i64,
    /// Of these, traces that were not there.
    pub new: i64,
    /// Of these, traces that were there, and are more complete now.
    pub improved: i64,
}

/// What later looks found since a moment, by the look that had missed it.
///
/// # Errors
/// If the database refuses.
pub async fn later_looks(
    conn: &mut PgConnection,
    dataset: &str,
    since: DateTime<Utc>,
) -> sqlx::Result<Vec<LaterLooks>> {
    sqlx::query_as!(
        LaterLooks,
        r#"SELECT earlier_look AS "after!", count(*) AS "windows!", sum(returned)::bigint AS "traces!",
                  sum(stored_new)::bigint AS "new!", sum(improved)::bigint AS "improved!"
           FROM harvest.windows
           WHERE dataset = $1 AND look IN ('settled', 'sealed') AND state = 'done' AND earlier_look IS NOT NULL AND finished_at >= $2
           GROUP BY earlier_look ORDER BY earlier_look"#,
        dataset,
        since
    )
    .fetch_all(conn)
    .await
}

/// Failed windows of a dataset, the latest first.
///
/// # Errors
/// If the database refuses.
pub async fn failed(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Vec<Failed>> {
    let rows = sqlx::query!(
        r#"SELECT lower(span) AS "start!", upper(span) AS "end!", look, coalesce(error_class, 'passing') AS "class!",
                  coalesce(last_error, 'unknown') AS "error!", attempts + throttled AS "attempts!", finished_at AS "at!"
           FROM harvest.windows WHERE dataset = $1 AND state = 'failed' ORDER BY finished_at DESC, id DESC"#,
        dataset
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(Failed {
                window: window_of(row.start, row.end)?,
                look: Look::from_name(&row.look)?,
                class: row.class,
                error: row.error,
                attempts: row.attempts,
                at: row.at,
            })
        })
        .collect())
}
