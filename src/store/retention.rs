//! How long a dataset's traces are kept: what its jobs ask for, what is in force, and deleting what is older.
//!
//! A longer retention is in force at once. A shorter one waits for `prune` if it would delete anything: an edited job file
//! alone deletes nothing. `deleted_before` only moves on, and what lies before it is never collected again.

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};

use super::datasets;

/// What a dataset keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Traces are deleted so many seconds after their start; `None`: never.
    pub retention_s: Option<i64>,
    /// What started before, in Unix seconds, was deleted.
    pub deleted_before: Option<i64>,
}

impl Kept {
    /// Seconds before this are not collected; `None`: all are.
    pub fn from(&self, now: DateTime<Utc>) -> Option<i64> {
        let kept_from = self.retention_s.map(|kept_s| now.timestamp() - kept_s);
        // One that lies in the future was written by a wrong clock.
        let deleted = self
            .deleted_before
            .filter(|&before| before <= now.timestamp());
        kept_from.max(deleted)
    }
}

/// What a job's retention means for its dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What is kept from now on.
    pub kept: Kept,
    /// The retention that the dataset's jobs ask for, if it is shorter than the one in force: `prune` applies it.
    pub shortened_to_s: Option<i64>,
    /// Another job of the dataset that asks for a longer retention (`None`: for ever), which holds.
    pub longer: Option<(String, Option<i64>)>,
    /// Whether the job asked for something else before, or was not known.
    pub changed: bool,
}

/// `None` is for ever.
fn is_longer(this: Option<i64>, that: Option<i64>) -> bool {
    match (this, that) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(this), Some(that)) => this > that,
    }
}

/// What a job's retention would mean for its dataset.
///
/// # Errors
/// If the database refuses.
pub async fn preview(
    conn: &mut PgConnection,
    dataset: &str,
    job: &str,
    retention_s: Option<i64>,
    now: DateTime<Utc>,
) -> sqlx::Result<Outcome> {
    let known = sqlx::query!(
        r#"SELECT retention_s, extract(epoch FROM deleted_before)::bigint AS deleted_before FROM harvest.datasets WHERE name = $1"#,
        dataset
    )
    .fetch_optional(&mut *conn)
    .await?;
    let before = sqlx::query_scalar!("SELECT retention_s FROM harvest.jobs WHERE name = $1", job)
        .fetch_optional(&mut *conn)
        .await?;
    let longest = longest(&mut *conn, dataset, Some(job)).await?;
    let longer = longest.filter(|(_, theirs)| is_longer(*theirs, retention_s));
    let asked_s = longer.as_ref().map_or(retention_s, |(_, theirs)| *theirs);
    let mut kept = known.map_or_else(Kept::default, |row| Kept {
        retention_s: row.retention_s,
        deleted_before: row.deleted_before,
    });
    let mut shortened_to_s = None;
    if let Some(shorter_s) = asked_s.filter(|_| is_longer(kept.retention_s, asked_s))
        && holds_older(conn, dataset, now.timestamp() - shorter_s).await?
    {
        shortened_to_s = asked_s;
    } else {
        kept.retention_s = asked_s;
    }
    Ok(Outcome {
        kept,
        shortened_to_s,
        longer,
        changed: before != Some(retention_s),
    })
}

/// Records what a job asks for, and puts it into force unless that would delete anything. The job and its dataset are
/// recorded already.
///
/// # Errors
/// If the database refuses.
pub async fn record(
    conn: &mut PgConnection,
    dataset: &str,
    job: &str,
    retention_s: Option<i64>,
    now: DateTime<Utc>,
) -> sqlx::Result<Outcome> {
    let outcome = preview(&mut *conn, dataset, job, retention_s, now).await?;
    sqlx::query!(
        "UPDATE harvest.jobs SET retention_s = $2 WHERE name = $1",
        job,
        retention_s
    )
    .execute(&mut *conn)
    .await?;
    put_into_force(conn, dataset, outcome.kept.retention_s).await?;
    Ok(outcome)
}

/// The job of a dataset, but for the one named, that asks for the longest retention.
async fn longest(
    conn: &mut PgConnection,
    dataset: &str,
    other_than: Option<&str>,
) -> sqlx::Result<Option<(String, Option<i64>)>> {
    let row = sqlx::query!(
        "SELECT name, retention_s FROM harvest.jobs WHERE dataset = $1 AND name IS DISTINCT FROM $2 AND superseded_by IS NULL
         ORDER BY retention_s DESC NULLS FIRST, name LIMIT 1",
        dataset,
        other_than
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.name, row.retention_s)))
}

/// Whether anything of a dataset is stored, or is being collected, that begins before a second.
async fn holds_older(conn: &mut PgConnection, dataset: &str, second: i64) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT (EXISTS (SELECT FROM harvest.traces WHERE dataset = $1 AND started_at < $2)
                   OR EXISTS (SELECT FROM harvest.windows WHERE dataset = $1 AND state IN ('queued', 'running') AND lower(span) < $2)
                  ) AS "older!""#,
        dataset,
        instant(second)
    )
    .fetch_one(conn)
    .await
}

fn instant(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// Puts a retention into force.
///
/// # Errors
/// If the database refuses.
pub async fn put_into_force(
    conn: &mut PgConnection,
    dataset: &str,
    retention_s: Option<i64>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.datasets SET retention_s = $2 WHERE name = $1 AND retention_s IS DISTINCT FROM $2",
        dataset,
        retention_s
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// What a dataset keeps; `None` if there is no such dataset.
///
/// # Errors
/// If the database refuses.
pub async fn of(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Option<Kept>> {
    let row = sqlx::query!(
        r#"SELECT retention_s, extract(epoch FROM deleted_before)::bigint AS deleted_before FROM harvest.datasets WHERE name = $1"#,
        dataset
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Kept {
        retention_s: row.retention_s,
        deleted_before: row.deleted_before,
    }))
}

/// The datasets of which traces are deleted, each with the retention in force in seconds.
///
/// # Errors
/// If the database refuses.
pub async fn in_force(conn: &mut PgConnection) -> sqlx::Result<Vec<(String, i64)>> {
    let rows = sqlx::query!(
        r#"SELECT name, retention_s AS "retention_s!" FROM harvest.datasets WHERE retention_s IS NOT NULL ORDER BY name"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.name, row.retention_s))
        .collect())
}

/// A job or dataset whose traces are to be pruned.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The dataset.
    pub dataset: String,
    /// What it keeps.
    pub kept: Kept,
    /// Of the jobs that fill it, the one that asks for the longest retention, and that retention in seconds (`None`: for
    /// ever).
    pub asked: Option<(String, Option<i64>)>,
}

/// The dataset that a job of this name fills, or of this name; `None` if there is neither.
///
/// # Errors
/// If the database refuses.
pub async fn subject(conn: &mut PgConnection, name: &str) -> sqlx::Result<Option<Subject>> {
    let dataset = sqlx::query_scalar!(
        r#"SELECT dataset AS "dataset!" FROM (SELECT dataset, 0 AS rank FROM harvest.jobs WHERE name = $1
                                              UNION ALL SELECT name, 1 FROM harvest.datasets WHERE name = $1) found
           ORDER BY rank LIMIT 1"#,
        name
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(dataset) = dataset else {
        return Ok(None);
    };
    let Some(kept) = of(&mut *conn, &dataset).await? else {
        return Ok(None);
    };
    let asked = longest(conn, &dataset, None).await?;
    Ok(Some(Subject {
        dataset,
        kept,
        asked,
    }))
}

/// Traces that are older than a retention.
#[derive(Debug, Clone, Copy)]
pub struct Old {
    /// How many.
    pub traces: i64,
    /// When the first of them started.
    pub from: Option<DateTime<Utc>>,
}

/// What of a dataset started before a second.
///
/// # Errors
/// If the database refuses.
pub async fn older(conn: &mut PgConnection, dataset: &str, before_s: i64) -> sqlx::Result<Old> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "traces!", min(started_at) AS first FROM harvest.traces WHERE dataset = $1 AND started_at < $2"#,
        dataset,
        instant(before_s)
    )
    .fetch_one(conn)
    .await?;
    Ok(Old {
        traces: row.traces,
        from: row.first,
    })
}

/// Says that what starts before a second is deleted: it is not covered any more, and nothing plans it again. The traces
/// themselves are [`delete_traces`]' business. Never moves back; returns where it stands now, in Unix seconds.
///
/// # Errors
/// If the database refuses.
pub async fn give_up_before(
    conn: &mut PgConnection,
    dataset: &str,
    second: i64,
) -> sqlx::Result<i64> {
    let mut tx = conn.begin().await?;
    // A planner that has read the one and not yet the other would plan what is given up here.
    datasets::lock_for_planning(&mut tx, dataset).await?;
    let stands = of(&mut tx, dataset)
        .await?
        .and_then(|kept| kept.deleted_before);
    let second = stands.map_or(second, |stands| stands.max(second));
    // Coverage before the dataset's row, as in storing: the other way round the two could wait for each other.
    sqlx::query!(
        "UPDATE harvest.coverage SET covered = covered * tstzmultirange(tstzrange($2, NULL))
         WHERE dataset = $1 AND covered && tstzmultirange(tstzrange(NULL, $2))",
        dataset,
        instant(second)
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "UPDATE harvest.datasets
         SET deleted_before = $2, requested_by_old_runs = requested_by_old_runs * tstzmultirange(tstzrange($2, NULL))
         WHERE name = $1",
        dataset,
        instant(second)
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(second)
}

/// What became of a batch of traces.
#[derive(Debug, Clone, Copy)]
pub struct Deleted {
    /// How many.
    pub traces: i64,
    /// The start of the last of them: the next batch begins there. `None`: there was none.
    pub last: Option<DateTime<Utc>>,
}

/// Deletes at most `rows` traces of a dataset that started at `from` or later and before `before_s`, oldest first, and
/// takes them off its numbers, with their spans. A trace that is being written at the moment is left for the next time.
///
/// # Errors
/// If the database refuses.
pub async fn delete_traces(
    conn: &mut PgConnection,
    dataset: &str,
    from: DateTime<Utc>,
    before_s: i64,
    rows: i64,
) -> sqlx::Result<Deleted> {
    let mut tx = conn.begin().await?;
    let gone = sqlx::query!(
        r#"WITH old AS MATERIALIZED (
               SELECT trace_id FROM harvest.traces WHERE dataset = $1 AND started_at >= $2 AND started_at < $3
               ORDER BY started_at LIMIT $4 FOR UPDATE SKIP LOCKED
           ), gone AS (
               DELETE FROM harvest.traces t USING old WHERE t.dataset = $1 AND t.trace_id = old.trace_id RETURNING t.trace_id, t.started_at
           )
           SELECT coalesce(array_agg(trace_id), '{}') AS "traces!", max(started_at) AS last FROM gone"#,
        dataset,
        from,
        instant(before_s),
        rows
    )
    .fetch_one(&mut *tx)
    .await?;
    let traces = i64::try_from(gone.traces.len()).unwrap_or(0);
    if traces > 0 {
        // A statement of its own: nobody can add spans of these traces any more, and what was added up to now is seen.
        let spans = sqlx::query!(
            "DELETE FROM harvest.spans WHERE dataset = $1 AND trace_id = ANY ($2)",
            dataset,
            &gone.traces
        )
        .execute(&mut *tx)
        .await?
        .rows_affected();
        // The dataset's row comes last, as in storing: the other way round the two could wait for each other.
        sqlx::query!(
            "UPDATE harvest.datasets SET trace_count = greatest(trace_count - $2, 0), span_count = greatest(span_count - $3, 0)
             WHERE name = $1",
            dataset,
            traces,
            i64::try_from(spans).unwrap_or(0)
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(Deleted {
        traces,
        last: gone.last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_ever_is_the_longest() {
        assert!(is_longer(None, Some(1)) && is_longer(Some(2), Some(1)));
        assert!(
            !is_longer(None, None) && !is_longer(Some(1), None) && !is_longer(Some(1), Some(1))
        );
    }

    #[test]
    fn what_was_deleted_stays_deleted_when_the_retention_is_lengthened() {
        let now = DateTime::from_timestamp(1_000, 0).unwrap();
        let kept = |retention_s, deleted_before| {
            Kept {
                retention_s,
                deleted_before,
            }
            .from(now)
        };
        assert_eq!(kept(None, None), None);
        assert_eq!(kept(Some(100), None), Some(900));
        assert_eq!(kept(Some(500), Some(900)), Some(900));
        assert_eq!(kept(Some(50), Some(900)), Some(950));
        assert_eq!(kept(None, Some(900)), Some(900));
    }
}
