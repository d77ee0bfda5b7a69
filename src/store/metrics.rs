//! What `/metrics` and `/readyz` read and `status` does not: open windows by state, runs, and how sources stand. Each is one
//! statement over rows that stay few, however long the history is.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Windows of a dataset in one state.
#[derive(Debug, Clone)]
pub struct Windows {
    /// The dataset.
    pub dataset: String,
    /// fresh, settled or sealed.
    pub look: String,
    /// queued, running, paused (queued, and nobody is to take it) or failed.
    pub state: String,
    /// How many.
    pub windows: i64,
    /// When the first of them was planned.
    pub oldest: DateTime<Utc>,
}

/// Windows that are open or rest as failed.
///
/// # Errors
/// If the database refuses.
pub async fn windows(conn: &mut PgConnection) -> sqlx::Result<Vec<Windows>> {
    sqlx::query_as!(
        Windows,
        r#"SELECT dataset AS "dataset!", look AS "look!", state AS "state!", count(*) AS "windows!", min(created_at) AS "oldest!"
           FROM (SELECT w.dataset, w.look, w.created_at,
                        CASE WHEN w.state = 'queued' AND w.run_id IN (SELECT run_id FROM harvest.paused_runs) THEN 'paused' ELSE w.state END AS state
                 FROM harvest.windows w WHERE w.state IN ('queued', 'running')
                 UNION ALL
                 SELECT w.dataset, w.look, w.created_at, w.state FROM harvest.windows w WHERE w.state = 'failed') AS windows
           GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"#
    )
    .fetch_all(conn)
    .await
}

/// Runs of one kind of a job in one state.
#[derive(Debug, Clone)]
pub struct Runs {
    /// The job.
    pub job: String,
    /// backfill, poll, repair or refetch.
    pub kind: String,
    /// open, complete, failed or cancelled.
    pub state: String,
    /// How many.
    pub runs: i64,
    /// When the last of them ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Runs of the last year.
///
/// # Errors
/// If the database refuses.
pub async fn runs(conn: &mut PgConnection) -> sqlx::Result<Vec<Runs>> {
    sqlx::query_as!(
        Runs,
        r#"SELECT job, kind, state, count(*) AS "runs!", max(finished_at) AS finished_at
           FROM harvest.runs GROUP BY job, kind, state ORDER BY job, kind, state"#
    )
    .fetch_all(conn)
    .await
}

/// The last request that was made to a source.
#[derive(Debug, Clone)]
pub struct LastRequest {
    /// The source.
    pub source: String,
    /// When it was over.
    pub at: DateTime<Utc>,
    /// Whether the source answered, be it with a refusal.
    pub answered: bool,
}

/// The last request to each source since a moment.
///
/// # Errors
/// If the database refuses.
pub async fn last_requests(
    conn: &mut PgConnection,
    since: DateTime<Utc>,
) -> sqlx::Result<Vec<LastRequest>> {
    sqlx::query_as!(
        LastRequest,
        r#"SELECT DISTINCT ON (f.source) f.source AS "source!", f.at AS "at!",
                  f.status IS NOT NULL AND f.outcome NOT IN ('timeout', 'passing', 'access') AS "answered!"
           FROM harvest.datasets d
           CROSS JOIN LATERAL (SELECT source, at, status, outcome FROM harvest.fetches
                               WHERE dataset = d.name AND at >= $1 ORDER BY at DESC LIMIT 1) f
           ORDER BY f.source, f.at DESC"#,
        since
    )
    .fetch_all(conn)
    .await
}

/// How fast a source may be asked, and is.
#[derive(Debug, Clone)]
pub struct SourcePace {
    /// The source.
    pub source: String,
    /// Requests at once, as its limits say.
    pub concurrency: i32,
    /// Requests a second, as its limits say.
    pub requests_per_second: f64,
    /// The share of both that is used at present.
    pub factor: f64,
    /// Requests under way.
    pub under_way: i64,
}

/// How fast sources that were ever asked are asked.
///
/// # Errors
/// If the database refuses.
pub async fn paces(conn: &mut PgConnection) -> sqlx::Result<Vec<SourcePace>> {
    sqlx::query_as!(
        SourcePace,
        r#"SELECT source, concurrency, requests_per_second, factor,
                  (SELECT count(*) FROM harvest.source_permits q WHERE q.source = p.source AND q.expires_at > clock_timestamp())
                  AS "under_way!"
           FROM harvest.source_pace p ORDER BY source"#
    )
    .fetch_all(conn)
    .await
}
