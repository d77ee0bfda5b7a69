//! `harvest.fetches`: a row for every request made for a window.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, postgres::types::PgRange};

use super::Holder;
use crate::window::Window;

/// A request that was made.
#[derive(Debug, Clone)]
pub struct Fetch<'a> {
    /// The Tempo asked.
    pub source: &'a str,
    /// For which dataset.
    pub dataset: &'a str,
    /// For which window; `None`: for a plan.
    pub window_id: Option<i64>,
    /// `search`, `count` or `trace`.
    pub kind: &'static str,
    /// The range asked for.
    pub span: Window,
    /// The TraceQL sent.
    pub query: Option<&'a str>,
    /// The limit sent.
    pub traces_limit: Option<u32>,
    /// The most traces a search could ask for.
    pub server_limit: Option<u32>,
    /// Attempts at its window that had failed before.
    pub retry: u32,
    /// Traces in the answer; of a look-up by ID, spans.
    pub returned: Option<usize>,
    /// How it ended: `complete`, `cut`, `limit`, `too_large`, `timeout`, `throttled`, `passing`, `access`, `query`, `unusable`.
    pub outcome: &'static str,
    /// HTTP status.
    pub status: Option<u16>,
    /// Size of the answer's body.
    pub bytes: Option<u64>,
    /// Bytes Tempo says it read.
    pub inspected_bytes: Option<u64>,
    /// From sending to the end of the body.
    pub duration: Duration,
    /// What went wrong.
    pub error: Option<&'a str>,
}

impl Fetch<'_> {
    /// Whether it is a search whose answer did not count: as harvest.fetches.thrown_away says.
    pub fn is_thrown_away(&self) -> bool {
        self.kind == "search" && matches!(self.outcome, "cut" | "too_large" | "unusable")
    }
}

/// Records a request; returns its number.
///
/// # Errors
/// If the database refuses.
pub async fn record(
    conn: &mut PgConnection,
    holder: &Holder,
    fetch: &Fetch<'_>,
) -> sqlx::Result<i64> {
    let at = |second| DateTime::from_timestamp(second, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
    let span: PgRange<DateTime<Utc>> = (at(fetch.span.start())..at(fetch.span.end())).into();
    sqlx::query_scalar!(
        "INSERT INTO harvest.fetches (source, dataset, window_id, kind, span, query, traces_limit, returned, outcome, status, bytes,
                                      inspected_bytes, duration_ms, error, holder, server_limit, retry, run_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                 (SELECT run_id FROM harvest.windows WHERE id = $3))
         RETURNING id",
        fetch.source,
        fetch.dataset,
        fetch.window_id,
        fetch.kind,
        span,
        fetch.query,
        fetch.traces_limit.and_then(|n| i32::try_from(n).ok()),
        fetch.returned.and_then(|n| i32::try_from(n).ok()),
        fetch.outcome,
        fetch.status.and_then(|n| i16::try_from(n).ok()),
        fetch.bytes.and_then(|n| i64::try_from(n).ok()),
        fetch.inspected_bytes.and_then(|n| i64::try_from(n).ok()),
        i32::try_from(fetch.duration.as_millis()).unwrap_or(i32::MAX),
        fetch.error,
        holder.as_str(),
        fetch.server_limit.and_then(|n| i32::try_from(n).ok()),
        i32::try_from(fetch.retry).unwrap_or(i32::MAX)
    )
    .fetch_one(conn)
    .await
}

/// Records that the answer to a request, which was there in whole, did not count after all, and why.
///
/// # Errors
/// If the database refuses.
pub async fn throw_away(conn: &mut PgConnection, id: i64, why: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.fetches SET outcome = 'unusable', error = $2 WHERE id = $1",
        id,
        why
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Bytes of an answer for each trace in it, as the latest answers of a dataset's windows had them; `None` if none brought enough to
/// tell.
///
/// # Errors
/// If the database refuses.
pub async fn bytes_per_trace(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Option<f64>> {
    sqlx::query_scalar!(
        "SELECT sum(bytes)::float8 / nullif(sum(returned), 0)::float8
         FROM (SELECT bytes, returned FROM harvest.fetches
               WHERE dataset = $1 AND window_id IS NOT NULL AND kind = 'search' AND outcome = 'complete' AND returned >= 100 AND bytes > 0
               ORDER BY at DESC LIMIT 100) latest",
        dataset
    )
    .fetch_one(conn)
    .await
}
