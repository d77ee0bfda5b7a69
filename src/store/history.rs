//! What `runs` reads: every submission, who made it, and what came of it.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::control::Paused;

/// A run, with its figures.
#[derive(Debug, Clone)]
pub struct Run {
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
    /// Since when it or its job is paused, and by whom, while it is open.
    pub paused: Option<Paused>,
    /// The first second asked for.
    pub from: DateTime<Utc>,
    /// The end of what was asked for; a poll's grows.
    pub to: DateTime<Utc>,
    /// The command.
    pub command: String,
    /// user@host:process:number.
    pub submitted_by: String,
    /// When.
    pub submitted_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Windows fetched and stored.
    pub windows_done: i64,
    /// Windows queued or being fetched.
    pub windows_open: i64,
    /// Windows that rest as failed.
    pub windows_failed: i64,
    /// Windows that were cut into pieces.
    pub splits: i64,
    /// Traces in the answers that counted.
    pub traces: i64,
    /// Of these, stored for the first time.
    pub new: i64,
    /// Of these, stored before and made more complete.
    pub improved: i64,
    /// Requests to Tempo.
    pub requests: i64,
    /// Attempts that failed and were, or will be, made again.
    pub retries: i64,
    /// The error it ended with, or one of a window that failed or waits.
    pub error: Option<String>,
}

/// The latest runs of all jobs, or of the job or the dataset of this name, newest first.
///
/// # Errors
/// If the database refuses.
pub async fn runs(
    conn: &mut PgConnection,
    name: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<Run>> {
    let rows = sqlx::query!(
        r#"WITH latest AS (
               SELECT * FROM harvest.runs WHERE $1::text IS NULL OR job = $1 OR dataset = $1 ORDER BY id DESC LIMIT $2
           )
           SELECT r.id AS "id!", r.job AS "job!", r.dataset AS "dataset!", r.kind AS "kind!", r.state AS "state!",
                  lower(r.requested) AS "from!", upper(r.requested) AS "to!", r.command AS "command!", r.submitted_by AS "submitted_by!",
                  r.submitted_at AS "submitted_at!", r.finished_at, p.paused_at AS "paused_at?", p.paused_by AS "paused_by?",
                  figures.windows_done AS "windows_done!", figures.windows_open AS "windows_open!", figures.windows_failed AS "windows_failed!",
                  figures.splits AS "splits!", figures.traces_returned AS "traces!", figures.traces_new AS "new!",
                  figures.traces_improved AS "improved!", figures.requests AS "requests!", figures.retries AS "retries!", coalesce(r.error, failed.error, waiting.error) AS error
           FROM latest r
           LEFT JOIN harvest.paused_runs p ON p.run_id = r.id
           JOIN harvest.run_figures figures ON figures.run_id = r.id
           LEFT JOIN LATERAL (
               SELECT w.last_error AS error FROM harvest.windows w
               WHERE w.run_id = r.id AND w.state = 'failed' ORDER BY w.finished_at DESC LIMIT 1
           ) failed ON true
           LEFT JOIN LATERAL (
               SELECT w.last_error AS error FROM harvest.windows w
               WHERE w.run_id = r.id AND w.state IN ('queued', 'running') AND w.last_error IS NOT NULL ORDER BY w.next_try_at DESC LIMIT 1
           ) waiting ON true
           ORDER BY r.id DESC"#,
        name,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Run {
            id: row.id,
            job: row.job,
            dataset: row.dataset,
            kind: row.kind,
            state: row.state,
            paused: Option::zip(row.paused_at, row.paused_by)
                .map(|(since, by)| Paused { since, by }),
            from: row.from,
            to: row.to,
            command: row.command,
            submitted_by: row.submitted_by,
            submitted_at: row.submitted_at,
            finished_at: row.finished_at,
            windows_done: row.windows_done,
            windows_open: row.windows_open,
            windows_failed: row.windows_failed,
            splits: row.splits,
            traces: row.traces,
            new: row.new,
            improved: row.improved,
            requests: row.requests,
            retries: row.retries,
            error: row.error,
        })
        .collect())
}
