//! Keeping house: what is no longer needed is deleted, so that a ledger that grows every 15 seconds stays small, and traces
//! as old as `[retention]` says are.
//!
//! Every process that works offers to do it now and then; one does, whoever takes the turn. Everything is done in batches,
//! each a short transaction that locks only what it deletes: killed in the middle, the next turn goes on. Which rows are
//! needed is left to [`crate::store::housekeeping`] and [`crate::store::retention`].

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::{
    queue,
    store::{
        Look,
        housekeeping::{self, Batch},
        polls, retention, schema, verify,
    },
};

/// How long finished windows, and requests, are kept.
pub const KEEP_HISTORY: TimeDelta = TimeDelta::days(7);
/// How long runs are kept after their end, and sums by day.
pub const KEEP_RUNS: TimeDelta = TimeDelta::days(365);
/// How often it is done, by any process.
pub const EVERY: TimeDelta = TimeDelta::minutes(10);
/// Rows looked at, or deleted, by one statement.
const BATCH: i64 = 5_000;

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Windows.
    pub windows: i64,
    /// Requests.
    pub fetches: i64,
    /// Runs.
    pub runs: i64,
    /// Items of the queue.
    pub items: u64,
    /// Traces.
    pub traces: i64,
}

/// Keeps house if it is time, by the database's clock. `None`: it is not, or another process does.
///
/// # Errors
/// If a newer program has upgraded the tables, or the database refuses; what was deleted until then is deleted.
pub async fn offer(pool: &PgPool) -> sqlx::Result<Option<Deleted>> {
    let mut conn = pool.acquire().await?;
    let now = polls::clock(&mut conn).await?;
    // What a wrong clock says is old must not be deleted.
    let ahead = (now - Utc::now()).abs();
    if ahead > CLOCKS_AGREE {
        tracing::warn!(
            "nothing old is deleted: the database's clock and this machine's are {} s apart",
            ahead.num_seconds()
        );
        return Ok(None);
    }
    schema::hold(&mut conn).await?;
    if !housekeeping::take_turn(&mut conn, now, EVERY).await? {
        return Ok(None);
    }
    drop(conn);
    keep_house(pool, now).await.map(Some)
}

/// How far the database's clock and ours may be apart for anything to be deleted by them.
const CLOCKS_AGREE: TimeDelta = TimeDelta::minutes(10);

/// Deletes what is no longer needed at `now`.
///
/// # Errors
/// If the database refuses; what was deleted until then is deleted.
pub async fn keep_house(pool: &PgPool, now: DateTime<Utc>) -> sqlx::Result<Deleted> {
    let mut deleted = Deleted {
        items: queue::drop_leftovers(&mut *pool.acquire().await?).await?,
        ..Deleted::default()
    };
    for look in [Look::Settled, Look::Fresh] {
        housekeeping::fill_coverage(&mut *pool.acquire().await?, look).await?;
    }
    let mut after = 0;
    loop {
        // A connection for each batch: others wait for one too.
        let mut conn = pool.acquire().await?;
        let Batch {
            deleted: rows,
            last,
        } = housekeeping::prune_windows(&mut conn, after, now - KEEP_HISTORY, BATCH).await?;
        deleted.windows += rows;
        let Some(last) = last else { break };
        after = last;
    }
    let mut after = 0;
    loop {
        let mut conn = pool.acquire().await?;
        let Batch {
            deleted: rows,
            last,
        } = housekeeping::prune_fetches(&mut conn, after, now - KEEP_HISTORY, BATCH).await?;
        deleted.fetches += rows;
        let Some(last) = last else { break };
        after = last;
    }
    let year_ago = (now - KEEP_RUNS).date_naive();
    housekeeping::prune_sums(&mut *pool.acquire().await?, year_ago).await?;
    loop {
        let rows =
            housekeeping::prune_runs(&mut *pool.acquire().await?, now - KEEP_RUNS, BATCH).await?;
        deleted.runs += rows;
        if rows < BATCH {
            break;
        }
    }
    for (dataset, retention_s) in retention::in_force(&mut *pool.acquire().await?).await? {
        deleted.traces += delete_traces(pool, &dataset, now.timestamp() - retention_s).await?;
    }
    Ok(deleted)
}

/// Deletes the traces of a dataset that started before a second, for good: they are not collected again. Returns how many.
///
/// # Errors
/// If the database refuses; what was deleted until then is deleted.
pub async fn delete_traces(pool: &PgPool, dataset: &str, before_s: i64) -> sqlx::Result<i64> {
    let before_s =
        retention::give_up_before(&mut *pool.acquire().await?, dataset, before_s).await?;
    let (mut traces, mut from) = (0, DateTime::UNIX_EPOCH);
    loop {
        let mut conn = pool.acquire().await?;
        let batch = retention::delete_traces(&mut conn, dataset, from, before_s, BATCH).await?;
        traces += batch.traces;
        let Some(last) = batch.last else {
            verify::forget_before(&mut conn, dataset, before_s).await?;
            return Ok(traces);
        };
        from = last;
    }
}
