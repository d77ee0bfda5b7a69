//! `harvest.runs`: submissions, and how far the windows they planned are.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{
    Holder,
    control::{self, JobRow},
    range,
};
use crate::window::Window;

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The range of a job, or of the command line.
    Backfill,
    /// What is new, tick after tick.
    Poll,
    /// The gaps.
    Repair,
    /// Again what was covered.
    Refetch,
}

impl Kind {
    /// Its name in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backfill => "backfill",
            Self::Poll => "poll",
            Self::Repair => "repair",
            Self::Refetch => "refetch",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Backfill, Self::Poll, Self::Repair, Self::Refetch]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// A submission.
#[derive(Debug, Clone, Copy)]
pub struct NewRun<'a> {
    /// The job.
    pub job: &'a str,
    /// The dataset it fills.
    pub dataset: &'a str,
    /// What it is for.
    pub kind: Kind,
    /// The range asked for.
    pub requested: Window,
    /// How far behind the present it stays, seconds.
    pub settle_s: i64,
    /// The command that submits it.
    pub command: &'a str,
    /// This process.
    pub holder: &'a Holder,
}

/// Records a submission. Returns its number.
///
/// # Errors
/// If the database refuses.
pub async fn insert(conn: &mut PgConnection, run: &NewRun<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        "INSERT INTO harvest.runs (job, dataset, kind, requested, settle_s, command, submitted_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
        run.job,
        run.dataset,
        run.kind.name(),
        range(run.requested),
        run.settle_s,
        run.command,
        run.holder.who()
    )
    .fetch_one(conn)
    .await
}

/// The job that a new run for a dataset may belong to: the one of this name if it fills the dataset, else one that is not
/// paused, else any; `None` if there is none.
///
/// # Errors
/// If the database refuses.
pub async fn job_for(
    conn: &mut PgConnection,
    dataset: &str,
    name: Option<&str>,
) -> sqlx::Result<Option<JobRow>> {
    let found = sqlx::query_scalar!(
        "SELECT name FROM harvest.jobs WHERE dataset = $1
         ORDER BY (name = $2) IS TRUE DESC, paused_at IS NOT NULL, submitted_at DESC, name LIMIT 1",
        dataset,
        name
    )
    .fetch_optional(&mut *conn)
    .await?;
    match found {
        Some(name) => control::job(conn, &name).await,
        None => Ok(None),
    }
}

/// Ends runs that have no open window left: complete, or failed with the error of a window that failed. A poll goes on
/// until it is cancelled.
///
/// # Errors
/// If the database refuses.
pub async fn close_finished(conn: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.runs r
         SET state = CASE WHEN failed.error IS NOT NULL THEN 'failed'
                          WHEN EXISTS (SELECT FROM harvest.windows w WHERE w.run_id = r.id AND w.state = 'cancelled') THEN 'cancelled'
                          ELSE 'complete' END,
             error = failed.error, finished_at = now()
         FROM harvest.runs self
         LEFT JOIN LATERAL (
             SELECT coalesce(w.last_error, 'unknown') AS error FROM harvest.windows w
             WHERE w.run_id = self.id AND w.state = 'failed' ORDER BY w.finished_at DESC LIMIT 1
         ) failed ON true
         WHERE self.id = r.id AND r.state = 'open' AND r.kind <> 'poll'
           AND NOT EXISTS (SELECT FROM harvest.windows w WHERE w.run_id = r.id AND w.state IN ('queued', 'running'))"
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How far the windows of a range are, whichever submission planned them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Windows fetched and stored, split ones not counted.
    pub windows_done: i64,
    /// Windows queued or being fetched.
    pub windows_open: i64,
    /// Of these, windows that wait for a `resume`.
    pub windows_paused: i64,
    /// Windows that rest as failed.
    pub windows_failed: i64,
    /// Windows that were cut into pieces.
    pub splits: i64,
    /// Seconds done.
    pub done_s: i64,
    /// Seconds open.
    pub open_s: i64,
    /// Traces in the answers that counted.
    pub traces_returned: i64,
    /// Of these, stored for the first time.
    pub traces_new: i64,
    /// Requests to Tempo.
    pub requests: i64,
    /// Attempts that failed and were, or will be, made again.
    pub retries: i64,
    /// An error of a window that failed or waits, if any.
    pub last_error: Option<String>,
    /// Its class.
    pub error_class: Option<String>,
}

/// The windows of a dataset in a range that are open, or were finished since `since`.
///
/// # Errors
/// If the database refuses.
pub async fn progress(
    conn: &mut PgConnection,
    dataset: &str,
    requested: Window,
    since: DateTime<Utc>,
) -> sqlx::Result<Progress> {
    let row = sqlx::query!(
        r#"WITH mine AS (
               SELECT *, extract(epoch FROM upper(span) - lower(span))::bigint AS seconds FROM harvest.windows
               WHERE dataset = $1 AND span && $2 AND (finished_at IS NULL OR finished_at >= $3)
           )
           SELECT count(*) FILTER (WHERE state = 'done') AS "windows_done!",
                  count(*) FILTER (WHERE state IN ('queued', 'running')) AS "windows_open!",
                  count(*) FILTER (WHERE state IN ('queued', 'running')
                      AND EXISTS (SELECT FROM harvest.paused_runs p WHERE p.run_id = mine.run_id)) AS "windows_paused!",
                  count(*) FILTER (WHERE state = 'failed') AS "windows_failed!",
                  count(*) FILTER (WHERE state = 'split') AS "splits!",
                  coalesce(sum(seconds) FILTER (WHERE state = 'done'), 0)::bigint AS "done_s!",
                  coalesce(sum(seconds) FILTER (WHERE state IN ('queued', 'running')), 0)::bigint AS "open_s!",
                  coalesce(sum(returned) FILTER (WHERE state = 'done'), 0)::bigint AS "traces_returned!",
                  coalesce(sum(stored_new), 0)::bigint AS "traces_new!",
                  coalesce(sum(requests), 0)::bigint AS "requests!",
                  (coalesce(sum(attempts + throttled), 0) - count(*) FILTER (WHERE state = 'failed' AND attempts > 0))::bigint AS "retries!",
                  (SELECT last_error FROM mine WHERE state = 'failed' ORDER BY finished_at DESC LIMIT 1) AS failed_error,
                  (SELECT error_class FROM mine WHERE state = 'failed' ORDER BY finished_at DESC LIMIT 1) AS failed_class,
                  (SELECT last_error FROM mine WHERE state IN ('queued', 'running') AND last_error IS NOT NULL
                   ORDER BY next_try_at DESC LIMIT 1) AS waiting_error,
                  (SELECT error_class FROM mine WHERE state IN ('queued', 'running') AND last_error IS NOT NULL
                   ORDER BY next_try_at DESC LIMIT 1) AS waiting_class
           FROM mine"#,
        dataset,
        range(requested),
        since
    )
    .fetch_one(conn)
    .await?;
    Ok(Progress {
        windows_done: row.windows_done,
        windows_open: row.windows_open,
        windows_paused: row.windows_paused,
        windows_failed: row.windows_failed,
        splits: row.splits,
        done_s: row.done_s,
        open_s: row.open_s,
        traces_returned: row.traces_returned,
        traces_new: row.traces_new,
        requests: row.requests,
        retries: row.retries,
        last_error: row.failed_error.or(row.waiting_error),
        error_class: row.failed_class.or(row.waiting_class),
    })
}
