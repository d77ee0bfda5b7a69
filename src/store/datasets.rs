//! `harvest.datasets`, `harvest.jobs` and `harvest.coverage`: what is collected, and which seconds of it are.

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection};

use super::{Look, baselines, control, schema, traces::Merged, verify};
use crate::window::{Window, WindowSet};

/// What makes two collections the same: coverage of one is coverage of the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The source's name.
    pub source: String,
    /// The tenant.
    pub tenant: Option<String>,
    /// The TraceQL filter; `None` for every trace.
    pub query: Option<String>,
    /// `trace`, `services` or `spans`.
    pub detail: String,
    /// Attributes collected with spans.
    pub attributes: Vec<String>,
}

/// How a job's idea of a dataset compares with what was collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// There is no such dataset, or nothing in it.
    New,
    /// The same.
    Same,
    /// More detail than before: coverage restarts, stored traces stay and are improved.
    Upgrade,
    /// Something else under the same name.
    Conflict {
        /// What differs: source, tenant, query, detail or attributes.
        what: &'static str,
        /// As it was collected.
        was: String,
        /// As the job has it.
        is: String,
    },
}

fn detail_rank(detail: &str) -> u8 {
    match detail {
        "trace" => 0,
        "services" => 1,
        _ => 2,
    }
}

impl Fingerprint {
    /// Compares what a job asks for (`self`) with what was collected.
    pub fn compare(&self, collected: &Self) -> Match {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let conflict = |what, was: String, is: String| Match::Conflict { what, was, is };
        if self.source != collected.source {
            return conflict("source", collected.source.clone(), self.source.clone());
        }
        if self.tenant != collected.tenant {
            return conflict("tenant", text(&collected.tenant), text(&self.tenant));
        }
        if self.query != collected.query {
            return conflict("query", text(&collected.query), text(&self.query));
        }
        let (was, is) = (detail_rank(&collected.detail), detail_rank(&self.detail));
        if is < was {
            return conflict("detail", collected.detail.clone(), self.detail.clone());
        }
        if collected
            .attributes
            .iter()
            .any(|attribute| !self.attributes.contains(attribute))
        {
            return conflict(
                "attributes",
                collected.attributes.join(", "),
                self.attributes.join(", "),
            );
        }
        if is > was || self.attributes.len() > collected.attributes.len() {
            return Match::Upgrade;
        }
        Match::Same
    }
}

/// Takes the right to plan for a dataset until the transaction ends: two planners would plan overlapping windows.
///
/// # Errors
/// If a newer program has upgraded the tables, or the database refuses.
pub async fn lock_for_planning(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('tempo-harvest/plan/' || $1, 0))",
        dataset
    )
    .execute(&mut *conn)
    .await?;
    schema::hold(conn).await
}

/// What was collected under a name, and how many of its seconds are covered or being collected.
///
/// # Errors
/// If the database refuses.
pub async fn find(
    conn: &mut PgConnection,
    dataset: &str,
) -> sqlx::Result<Option<(Fingerprint, bool)>> {
    let row = sqlx::query!(
        r#"SELECT source, tenant, query, detail, attributes,
                  (trace_count > 0
                   OR EXISTS (SELECT FROM harvest.coverage c WHERE c.dataset = d.name AND NOT isempty(c.covered))
                   OR EXISTS (SELECT FROM harvest.windows w WHERE w.dataset = d.name AND w.state IN ('queued', 'running'))
                  ) AS "used!"
           FROM harvest.datasets d WHERE name = $1"#,
        dataset
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| {
        let fingerprint = Fingerprint {
            source: row.source,
            tenant: row.tenant,
            query: row.query,
            detail: row.detail,
            attributes: row.attributes,
        };
        (fingerprint, row.used)
    }))
}

/// A dataset, with its tenant, that is collected from this source for another tenant and has anything in it.
///
/// # Errors
/// If the database refuses.
pub async fn of_another_tenant(
    conn: &mut PgConnection,
    source: &str,
    tenant: Option<&str>,
) -> sqlx::Result<Option<(String, Option<String>)>> {
    let row = sqlx::query!(
        "SELECT name, tenant FROM harvest.datasets d
         WHERE source = $1 AND tenant IS DISTINCT FROM $2
           AND (trace_count > 0
                OR EXISTS (SELECT FROM harvest.coverage c WHERE c.dataset = d.name AND NOT isempty(c.covered))
                OR EXISTS (SELECT FROM harvest.windows w WHERE w.dataset = d.name AND w.state IN ('queued', 'running')))
         LIMIT 1",
        source,
        tenant
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.name, row.tenant)))
}

/// Records a dataset as a job asks for it.
///
/// # Errors
/// If the database refuses.
pub async fn record(
    conn: &mut PgConnection,
    dataset: &str,
    fingerprint: &Fingerprint,
) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO harvest.datasets (name, source, tenant, query, detail, attributes) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (name) DO UPDATE SET source = excluded.source, tenant = excluded.tenant, query = excluded.query,
             detail = excluded.detail, attributes = excluded.attributes",
        dataset,
        fingerprint.source,
        fingerprint.tenant,
        fingerprint.query,
        fingerprint.detail,
        &fingerprint.attributes
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets what is covered and ends what is open, so that a dataset is collected again; stored traces stay.
///
/// # Errors
/// If the database refuses.
pub async fn restart_coverage(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<()> {
    let runs = sqlx::query_scalar!("SELECT id FROM harvest.runs WHERE dataset = $1", dataset)
        .fetch_all(&mut *conn)
        .await?;
    control::cancel_windows(&mut *conn, &runs).await?;
    verify::forget(&mut *conn, dataset).await?;
    sqlx::query!("DELETE FROM harvest.coverage WHERE dataset = $1", dataset)
        .execute(conn)
        .await?;
    Ok(())
}

/// Records a job in the form it was submitted in, unexpanded and without secrets.
///
/// # Errors
/// If the database refuses.
pub async fn record_job(
    conn: &mut PgConnection,
    name: &str,
    dataset: &str,
    spec: &str,
    file: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO harvest.jobs (name, dataset, spec, file) VALUES ($1, $2, $3, $4)
         ON CONFLICT (name) DO UPDATE SET dataset = excluded.dataset, spec = excluded.spec, file = excluded.file, submitted_at = now(),
             superseded_by = NULL",
        name,
        dataset,
        spec,
        file
    )
    .execute(&mut *conn)
    .await?;
    // Renamed: another job of the same file and dataset is no more, and nor is its poll.
    sqlx::query!(
        "WITH renamed AS (
             UPDATE harvest.jobs SET superseded_by = $1
             WHERE file = $3 AND dataset = $2 AND name <> $1 AND superseded_by IS NULL RETURNING name
         )
         UPDATE harvest.runs r SET state = 'complete', finished_at = now() FROM renamed
         WHERE r.job = renamed.name AND r.kind = 'poll' AND r.state = 'open'",
        name,
        dataset,
        file
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Seconds of a dataset that are covered at a look.
///
/// # Errors
/// If the database refuses.
pub async fn covered(
    conn: &mut PgConnection,
    dataset: &str,
    look: Look,
) -> sqlx::Result<WindowSet> {
    let rows = sqlx::query!(
        r#"SELECT lower(range) AS "start!: DateTime<Utc>", upper(range) AS "end!: DateTime<Utc>"
           FROM harvest.coverage c CROSS JOIN LATERAL unnest(c.covered) AS range
           WHERE dataset = $1 AND look = $2"#,
        dataset,
        look.name()
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| Window::new(row.start.timestamp(), row.end.timestamp()))
        .collect())
}

/// Adds a window to what is covered.
///
/// # Errors
/// If the database refuses.
pub async fn cover(
    conn: &mut PgConnection,
    dataset: &str,
    look: Look,
    window_id: i64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO harvest.coverage AS c (dataset, look, covered)
         SELECT $1, $2, tstzmultirange(span) FROM harvest.windows WHERE id = $3
         ON CONFLICT (dataset, look) DO UPDATE SET covered = c.covered + excluded.covered",
        dataset,
        look.name(),
        window_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds what was newly stored to the dataset's numbers.
///
/// # Errors
/// If the database refuses.
pub async fn add(conn: &mut PgConnection, dataset: &str, merged: Merged) -> sqlx::Result<()> {
    if merged.new > 0 || merged.spans > 0 {
        sqlx::query!(
            "UPDATE harvest.datasets SET trace_count = trace_count + $2, span_count = span_count + $3 WHERE name = $1",
            dataset,
            merged.new,
            merged.spans
        )
        .execute(conn)
        .await?;
    }
    Ok(())
}

/// What removing or resetting a dataset takes away.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Contents {
    /// Traces stored.
    pub traces: i64,
    /// Spans stored.
    pub spans: i64,
    /// Seconds covered.
    pub covered_s: i64,
    /// Windows queued or running.
    pub open_windows: i64,
}

/// What a dataset holds; `None` if there is no such dataset.
///
/// # Errors
/// If the database refuses.
pub async fn contents(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Option<Contents>> {
    let row = sqlx::query!(
        r#"SELECT trace_count, span_count,
                  (SELECT count(*) FROM harvest.windows w WHERE w.dataset = d.name AND w.state IN ('queued', 'running')) AS "open!"
           FROM harvest.datasets d WHERE name = $1"#,
        dataset
    )
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Contents {
        traces: row.trace_count,
        spans: row.span_count,
        covered_s: covered(conn, dataset, Look::Sealed).await?.seconds(),
        open_windows: row.open,
    }))
}

/// Deletes a dataset's traces, spans, baselines, coverage, windows and requests. With `definition` also the dataset itself and its jobs.
///
/// # Errors
/// If the database refuses.
pub async fn delete(conn: &mut PgConnection, dataset: &str, definition: bool) -> sqlx::Result<()> {
    // Windows first, with their runs: what finishes one meanwhile has stored and covered before, or does not any more.
    sqlx::query!("DELETE FROM harvest.runs WHERE dataset = $1", dataset)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("DELETE FROM harvest.coverage WHERE dataset = $1", dataset)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("DELETE FROM harvest.fetches WHERE dataset = $1", dataset)
        .execute(&mut *conn)
        .await?;
    verify::forget(&mut *conn, dataset).await?;
    sqlx::query!(
        "DELETE FROM harvest.removed_traces WHERE dataset = $1",
        dataset
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "DELETE FROM harvest.pruned_fetches WHERE dataset = $1",
        dataset
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM harvest.traces WHERE dataset = $1", dataset)
        .execute(&mut *conn)
        .await?;
    sqlx::query!("DELETE FROM harvest.spans WHERE dataset = $1", dataset)
        .execute(&mut *conn)
        .await?;
    baselines::forget(&mut *conn, dataset).await?;
    sqlx::query!(
        "UPDATE harvest.datasets SET trace_count = 0, span_count = 0, deleted_before = NULL, requested_by_old_runs = '{}' WHERE name = $1",
        dataset
    )
    .execute(&mut *conn)
    .await?;
    if definition {
        sqlx::query!("DELETE FROM harvest.datasets WHERE name = $1", dataset)
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// Removes a dataset and all that belongs to it, if there is one.
///
/// # Errors
/// If the database refuses.
pub async fn forget(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<()> {
    let mut tx = conn.begin().await?;
    lock_for_planning(&mut tx, dataset).await?;
    delete(&mut tx, dataset, true).await?;
    tx.commit().await
}

/// Names of all datasets.
///
/// # Errors
/// If the database refuses.
pub async fn names(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!("SELECT name FROM harvest.datasets ORDER BY name")
        .fetch_all(conn)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(query: Option<&str>, detail: &str) -> Fingerprint {
        Fingerprint {
            source: "prod".to_owned(),
            tenant: None,
            query: query.map(str::to_owned),
            detail: detail.to_owned(),
            attributes: Vec::new(),
        }
    }

    #[test]
    fn another_query_conflicts_and_more_detail_is_an_upgrade() {
        let collected = fingerprint(None, "trace");
        assert_eq!(fingerprint(None, "trace").compare(&collected), Match::Same);
        assert_eq!(
            fingerprint(None, "services").compare(&collected),
            Match::Upgrade
        );
        assert!(matches!(
            fingerprint(Some("{ }"), "trace").compare(&collected),
            Match::Conflict { what: "query", .. }
        ));
        assert!(matches!(
            fingerprint(None, "trace").compare(&fingerprint(None, "services")),
            Match::Conflict { what: "detail", .. }
        ));
    }
}
