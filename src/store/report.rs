//! What `status` and `gaps` read: datasets, what of them is covered, and why the rest is not.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::windows::window_of;
use crate::window::{Window, WindowSet};

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
        r#"SELECT d.name, d.source, d.tenant, d.query, d.detail, d.trace_count,
                  (SELECT count(*) FROM harvest.windows w WHERE w.dataset = d.name AND w.state = 'queued') AS "queued!",
                  (SELECT count(*) FROM harvest.windows w WHERE w.dataset = d.name AND w.state = 'running') AS "running!",
                  (SELECT max(w.finished_at) FROM harvest.windows w WHERE w.dataset = d.name AND w.state = 'done') AS last_done_at,
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
            queued: row.queued,
            running: row.running,
            jobs: row.jobs,
            last_done_at: row.last_done_at,
        })
        .collect())
}

/// Everything that was ever asked for of a dataset, cancelled submissions left out.
///
/// # Errors
/// If the database refuses.
pub async fn requested(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<WindowSet> {
    let rows = sqlx::query!(
        r#"SELECT lower(range) AS "start!: DateTime<Utc>", upper(range) AS "end!: DateTime<Utc>"
           FROM (SELECT unnest(range_agg(requested)) AS range FROM harvest.runs WHERE dataset = $1 AND state <> 'cancelled') asked"#,
        dataset
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| window_of(row.start, row.end))
        .collect())
}

/// How far behind the present the submissions of a dataset stay at most, seconds.
///
/// # Errors
/// If the database refuses.
pub async fn settle_s(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(max(settle_s), 0) AS "settle_s!" FROM harvest.runs WHERE dataset = $1"#,
        dataset
    )
    .fetch_one(conn)
    .await
}

/// A window that rests as failed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// Its span.
    pub window: Window,
    /// The class of its error.
    pub class: String,
    /// Its error.
    pub error: String,
    /// Attempts that failed.
    pub attempts: i32,
    /// When it was given up.
    pub at: DateTime<Utc>,
}

/// Failed windows of a dataset, the latest first.
///
/// # Errors
/// If the database refuses.
pub async fn failed(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Vec<Failed>> {
    let rows = sqlx::query!(
        r#"SELECT lower(span) AS "start!", upper(span) AS "end!", coalesce(error_class, 'passing') AS "class!",
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
                class: row.class,
                error: row.error,
                attempts: row.attempts,
                at: row.at,
            })
        })
        .collect())
}
