//! Pausing, resuming and cancelling, as rows: `harvest.jobs`, `harvest.runs`, and the view `harvest.paused_runs`, which
//! everybody asks who must know. Work items are [`crate::queue`]'s; what belongs into one transaction stands in
//! [`crate::control`].

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, postgres::types::PgRange};

use super::{Look, range};
use crate::window::Window;

/// Since when something is paused, and who paused it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Paused {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Who paused it.
    pub by: String,
}

/// Of two columns that are NULL together.
fn paused(since: Option<DateTime<Utc>>, by: Option<String>) -> Option<Paused> {
    Some(Paused {
        since: since?,
        by: by?,
    })
}

/// A job, as far as control goes.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// Its name.
    pub name: String,
    /// The dataset it fills.
    pub dataset: String,
    /// Whether, since when and by whom it is paused.
    pub paused: Option<Paused>,
}

/// A run, as far as control goes.
#[derive(Debug, Clone)]
pub struct RunRow {
    /// Its number.
    pub id: i64,
    /// Its job.
    pub job: String,
    /// The dataset it fills.
    pub dataset: String,
    /// backfill, poll, repair or refetch.
    pub kind: String,
    /// open, complete, failed or cancelled.
    pub state: String,
    /// Whether, since when and by whom it is paused, its job aside.
    pub paused: Option<Paused>,
}

/// The job of this name.
///
/// # Errors
/// If the database refuses.
pub async fn job(conn: &mut PgConnection, name: &str) -> sqlx::Result<Option<JobRow>> {
    let row = sqlx::query!(
        "SELECT name, dataset, paused_at, paused_by FROM harvest.jobs WHERE name = $1",
        name
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| JobRow {
        name: row.name,
        dataset: row.dataset,
        paused: paused(row.paused_at, row.paused_by),
    }))
}

/// Names of all jobs.
///
/// # Errors
/// If the database refuses.
pub async fn job_names(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!("SELECT name FROM harvest.jobs ORDER BY name")
        .fetch_all(conn)
        .await
}

/// The run of this number.
///
/// # Errors
/// If the database refuses.
pub async fn run(conn: &mut PgConnection, id: i64) -> sqlx::Result<Option<RunRow>> {
    let row = sqlx::query!(
        "SELECT id, job, dataset, kind, state, paused_at, paused_by FROM harvest.runs WHERE id = $1",
        id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| RunRow {
        id: row.id,
        job: row.job,
        dataset: row.dataset,
        kind: row.kind,
        state: row.state,
        paused: paused(row.paused_at, row.paused_by),
    }))
}

/// The open runs of a job, in the order they were submitted.
///
/// # Errors
/// If the database refuses.
pub async fn open_runs(conn: &mut PgConnection, job: &str) -> sqlx::Result<Vec<RunRow>> {
    let rows = sqlx::query!(
        "SELECT id, job, dataset, kind, state, paused_at, paused_by FROM harvest.runs WHERE job = $1 AND state = 'open' ORDER BY id",
        job
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| RunRow {
            id: row.id,
            job: row.job,
            dataset: row.dataset,
            kind: row.kind,
            state: row.state,
            paused: paused(row.paused_at, row.paused_by),
        })
        .collect())
}

/// How many windows of these runs are open.
///
/// # Errors
/// If the database refuses.
pub async fn open_windows(conn: &mut PgConnection, runs: &[i64]) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "open!" FROM harvest.windows WHERE run_id = ANY($1) AND state IN ('queued', 'running')"#,
        runs
    )
    .fetch_one(conn)
    .await
}

/// Pauses a job. One that is paused stays as it is.
///
/// # Errors
/// If the database refuses.
pub async fn pause_job(conn: &mut PgConnection, name: &str, by: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.jobs SET paused_at = now(), paused_by = $2 WHERE name = $1 AND paused_at IS NULL",
        name,
        by
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Pauses a run. One that is paused stays as it is.
///
/// # Errors
/// If the database refuses.
pub async fn pause_run(conn: &mut PgConnection, id: i64, by: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.runs SET paused_at = now(), paused_by = $2 WHERE id = $1 AND paused_at IS NULL",
        id,
        by
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets a job go on.
///
/// # Errors
/// If the database refuses.
pub async fn resume_job(conn: &mut PgConnection, name: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.jobs SET paused_at = NULL, paused_by = NULL WHERE name = $1",
        name
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets runs go on.
///
/// # Errors
/// If the database refuses.
pub async fn resume_runs(conn: &mut PgConnection, runs: &[i64]) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.runs SET paused_at = NULL, paused_by = NULL WHERE id = ANY($1)",
        runs
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends runs as cancelled, with who did it; their windows are the caller's.
///
/// # Errors
/// If the database refuses.
pub async fn cancel_runs(conn: &mut PgConnection, runs: &[i64], by: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.runs SET state = 'cancelled', finished_at = now(), error = 'cancelled by ' || $2
         WHERE id = ANY($1) AND state = 'open'",
        runs,
        by
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Cancels every open window of these runs. Returns how many. Whoever has one in hand stores nothing of it any more.
///
/// # Errors
/// If the database refuses.
pub async fn cancel_windows(conn: &mut PgConnection, runs: &[i64]) -> sqlx::Result<u64> {
    let mut cancelled = 0;
    // Again until there are none: a window that is being split meanwhile has pieces that the first time did not see.
    loop {
        cancelled += sqlx::query!(
            "UPDATE harvest.windows SET state = 'cancelled', lease_holder = NULL, lease_expires_at = NULL,
                 finished_at = clock_timestamp()
             WHERE run_id = ANY($1) AND state IN ('queued', 'running')",
            runs
        )
        .execute(&mut *conn)
        .await?
        .rows_affected();
        let left = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM harvest.windows WHERE run_id = ANY($1) AND state IN ('queued', 'running')) AS "left!""#,
            runs
        )
        .fetch_one(&mut *conn)
        .await?;
        if !left {
            return Ok(cancelled);
        }
    }
}

/// How many open windows wait for a `resume`.
///
/// # Errors
/// If the database refuses.
pub async fn paused_windows(conn: &mut PgConnection) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "paused!" FROM harvest.windows w
           WHERE state IN ('queued', 'running') AND EXISTS (SELECT FROM harvest.paused_runs p WHERE p.run_id = w.run_id)"#
    )
    .fetch_one(conn)
    .await
}

/// What is paused of a dataset.
#[derive(Debug, Clone)]
pub struct PausedHere {
    /// The job.
    pub job: String,
    /// The run, if it is that alone.
    pub run: Option<i64>,
    /// Since when, and by whom.
    pub paused: Paused,
}

/// Paused jobs of a dataset, and paused open runs of those that are not.
///
/// # Errors
/// If the database refuses.
pub async fn paused_of(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Vec<PausedHere>> {
    let rows = sqlx::query!(
        r#"SELECT name AS "job!", NULL::bigint AS run, paused_at AS "since!", paused_by AS "by!"
           FROM harvest.jobs WHERE dataset = $1 AND paused_at IS NOT NULL
           UNION ALL
           SELECT p.job, p.run_id, p.paused_at, p.paused_by
           FROM harvest.paused_runs p WHERE p.dataset = $1 AND NOT p.by_job
           ORDER BY 1, 2 NULLS FIRST"#,
        dataset
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| PausedHere {
            job: row.job,
            run: row.run,
            paused: Paused {
                since: row.since,
                by: row.by,
            },
        })
        .collect())
}

/// A paused run whose open windows lie in a range, and would be waited for in vain.
///
/// # Errors
/// If the database refuses.
pub async fn paused_in(
    conn: &mut PgConnection,
    dataset: &str,
    look: Look,
    window: Window,
) -> sqlx::Result<Option<PausedHere>> {
    let span: PgRange<DateTime<Utc>> = range(window);
    let row = sqlx::query!(
        r#"SELECT p.job AS "job!", p.run_id AS "run!", p.by_job AS "by_job!", p.paused_at AS "since!", p.paused_by AS "by!"
           FROM harvest.windows w JOIN harvest.paused_runs p ON p.run_id = w.run_id
           WHERE w.dataset = $1 AND w.look = $2 AND w.span && $3 AND w.state IN ('queued', 'running') ORDER BY p.run_id LIMIT 1"#,
        dataset,
        look.name(),
        span
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| PausedHere {
        job: row.job,
        run: (!row.by_job).then_some(row.run),
        paused: Paused {
            since: row.since,
            by: row.by,
        },
    }))
}
