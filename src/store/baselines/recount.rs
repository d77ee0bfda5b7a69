//! What is stored, read for the baselines: all of it where they are counted anew, and the bounds of a cell that lost traces.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use sqlx::PgConnection;

use super::{Columns, begin_of, operation, quarter_at};
use crate::baseline::{
    Subject,
    changes::{Changes, Key, Sample},
};

/// The start of the latest trace, or span, up to now that baselines count.
///
/// # Errors
/// If the database refuses.
pub async fn latest_start(
    conn: &mut PgConnection,
    dataset: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<i64>> {
    let latest = sqlx::query_scalar!(
        "SELECT greatest(
             (SELECT max(started_at) FROM harvest.traces
              WHERE dataset = $1 AND started_at <= $2 AND root_service IS NOT NULL AND root_name IS NOT NULL),
             (SELECT max(started_at) FROM harvest.spans WHERE dataset = $1 AND started_at <= $2 AND service IS NOT NULL))",
        dataset,
        now
    )
    .fetch_one(conn)
    .await?;
    Ok(latest.map(quarter_at))
}

/// Counts the stored traces that started from one quarter of an hour on and before another.
///
/// # Errors
/// If the database refuses.
pub async fn count_traces(
    conn: &mut PgConnection,
    dataset: &str,
    (from, to): (i64, i64),
    changes: &mut Changes,
) -> sqlx::Result<()> {
    let mut names = Names::default();
    let mut rows = sqlx::query!(
        "SELECT start_ns, end_ns, root_service, root_name, error_count > 0 AS failed FROM harvest.traces
         WHERE dataset = $1 AND started_at >= $2 AND started_at < $3 AND root_service IS NOT NULL AND root_name IS NOT NULL",
        dataset,
        begin_of(from),
        begin_of(to)
    )
    .fetch(conn);
    while let Some(row) = rows.try_next().await? {
        changes.add(&Sample {
            subject: Subject::Trace,
            service: names.of(row.root_service),
            operation: names.of(row.root_name),
            start_ns: row.start_ns,
            duration_ns: row.end_ns - row.start_ns,
            failed: row.failed,
        });
    }
    Ok(())
}

/// Counts the stored spans that started from one quarter of an hour on. Reads all of the dataset's spans: they have no index on
/// time.
///
/// # Errors
/// If the database refuses.
pub async fn count_spans(
    conn: &mut PgConnection,
    dataset: &str,
    from: i64,
    changes: &mut Changes,
) -> sqlx::Result<()> {
    let mut names = Names::default();
    let mut rows = sqlx::query!(
        r#"SELECT start_ns, duration_ns, service, name, status = 'error' AS "failed!" FROM harvest.spans
           WHERE dataset = $1 AND started_at >= $2 AND service IS NOT NULL"#,
        dataset,
        begin_of(from)
    )
    .fetch(conn);
    while let Some(row) = rows.try_next().await? {
        changes.add(&Sample {
            subject: Subject::Span,
            service: names.of(row.service),
            operation: names.of(Some(row.name)),
            start_ns: row.start_ns,
            duration_ns: row.duration_ns,
            failed: Some(row.failed),
        });
    }
    Ok(())
}

/// The earliest and the latest start of the stored traces that belong to each of these cells.
///
/// # Errors
/// If the database refuses.
pub async fn bounds(
    conn: &mut PgConnection,
    dataset: &str,
    keys: &[&Key],
) -> sqlx::Result<HashMap<Key, (i64, i64)>> {
    let columns: Columns = keys.iter().map(|key| &key.operation).collect();
    let quarters: Vec<_> = keys.iter().map(|key| begin_of(key.quarter)).collect();
    let ends: Vec<_> = keys.iter().map(|key| begin_of(key.quarter + 1)).collect();
    let rows = sqlx::query!(
        r#"SELECT k.service AS "service!", k.operation AS "operation!", k.quarter AS "quarter!", min(t.start_ns) AS "first!", max(t.start_ns) AS "last!"
           FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[]) AS k (service, operation, quarter, ends)
           JOIN harvest.traces t ON t.dataset = $1 AND t.started_at >= k.quarter AND t.started_at < k.ends
                                    AND t.root_service = k.service AND t.root_name = k.operation
           GROUP BY k.service, k.operation, k.quarter"#,
        dataset,
        &columns.services,
        &columns.names,
        &quarters,
        &ends
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let key = Key {
                operation: operation("trace", row.service, row.operation),
                quarter: quarter_at(row.quarter),
            };
            (key, (row.first, row.last))
        })
        .collect())
}

/// Interns names, of which there are few.
#[derive(Default)]
pub(in crate::store) struct Names(HashMap<String, Arc<str>>);

impl Names {
    pub(in crate::store) fn of(&mut self, name: Option<String>) -> Option<Arc<str>> {
        let name = name?;
        if let Some(known) = self.0.get(&name) {
            return Some(Arc::clone(known));
        }
        let shared: Arc<str> = Arc::from(name.as_str());
        self.0.insert(name, Arc::clone(&shared));
        Some(shared)
    }
}
