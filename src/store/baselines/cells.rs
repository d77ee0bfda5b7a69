//! The cells: what was counted of each operation in each quarter of an hour.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Columns, Stored, begin_of, operation, quarter_at};
use crate::baseline::changes::{Cell, Key, Operation};

/// The latest quarter of an hour, up to `last`, that has a cell.
///
/// # Errors
/// If the database refuses.
pub async fn latest_cell(
    conn: &mut PgConnection,
    dataset: &str,
    last: i64,
) -> sqlx::Result<Option<i64>> {
    let quarter = sqlx::query_scalar!(
        "SELECT max(quarter) FROM harvest.baseline_cells WHERE dataset = $1 AND quarter <= $2",
        dataset,
        begin_of(last)
    )
    .fetch_one(conn)
    .await?;
    Ok(quarter.map(quarter_at))
}

/// A cell with its key, as it is stored.
struct Row {
    subject: String,
    service: String,
    operation: String,
    quarter: DateTime<Utc>,
    samples: i64,
    judged: i64,
    errors: i64,
    first_ns: i64,
    last_ns: i64,
    durations: Vec<u8>,
}

impl Row {
    fn into_cell(self) -> sqlx::Result<(Key, Cell)> {
        let stored = Stored {
            samples: self.samples,
            judged: self.judged,
            errors: self.errors,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
            durations: self.durations,
        };
        let key = Key {
            operation: operation(&self.subject, self.service, self.operation),
            quarter: quarter_at(self.quarter),
        };
        Ok((key, stored.into_cell()?))
    }
}

/// Those of these cells that there are.
///
/// # Errors
/// If the database refuses.
pub async fn cells(
    conn: &mut PgConnection,
    dataset: &str,
    keys: &[&Key],
) -> sqlx::Result<HashMap<Key, Cell>> {
    let columns: Columns = keys.iter().map(|key| &key.operation).collect();
    let quarters: Vec<DateTime<Utc>> = keys.iter().map(|key| begin_of(key.quarter)).collect();
    let rows = sqlx::query_as!(
        Row,
        "SELECT c.subject, c.service, c.operation, c.quarter, c.samples, c.judged, c.errors, c.first_ns, c.last_ns, c.durations
         FROM unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[]) AS k (subject, service, operation, quarter)
         JOIN harvest.baseline_cells c ON c.dataset = $1 AND c.subject = k.subject AND c.service = k.service
                                          AND c.operation = k.operation AND c.quarter = k.quarter",
        dataset,
        &columns.subjects,
        &columns.services,
        &columns.names,
        &quarters
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Row::into_cell).collect()
}

/// Puts cells in the place of those of the same key. One that holds nothing is deleted.
///
/// # Errors
/// If the database refuses.
pub async fn put_cells(
    conn: &mut PgConnection,
    dataset: &str,
    cells: &[(&Key, Cell)],
) -> sqlx::Result<()> {
    let (full, empty): (Vec<_>, Vec<_>) = cells.iter().partition(|(_, cell)| cell.samples > 0);
    if !empty.is_empty() {
        let columns: Columns = empty.iter().map(|(key, _)| &key.operation).collect();
        let quarters: Vec<_> = empty.iter().map(|(key, _)| begin_of(key.quarter)).collect();
        sqlx::query!(
            "DELETE FROM harvest.baseline_cells c
             USING unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[]) AS k (subject, service, operation, quarter)
             WHERE c.dataset = $1 AND c.subject = k.subject AND c.service = k.service AND c.operation = k.operation AND c.quarter = k.quarter",
            dataset,
            &columns.subjects,
            &columns.services,
            &columns.names,
            &quarters
        )
        .execute(&mut *conn)
        .await?;
    }
    if full.is_empty() {
        return Ok(());
    }
    let columns: Columns = full.iter().map(|(key, _)| &key.operation).collect();
    let quarters: Vec<_> = full.iter().map(|(key, _)| begin_of(key.quarter)).collect();
    let numbers = |number: fn(&Cell) -> i64| -> Vec<i64> {
        full.iter().map(|(_, cell)| number(cell)).collect()
    };
    let durations: Vec<Vec<u8>> = full
        .iter()
        .map(|(_, cell)| cell.durations.encode())
        .collect();
    sqlx::query!(
        "INSERT INTO harvest.baseline_cells (dataset, subject, service, operation, quarter, samples, judged, errors, first_ns, last_ns, durations)
         SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
                                  $10::bigint[], $11::bytea[])
         ON CONFLICT (dataset, subject, service, operation, quarter) DO UPDATE SET
             samples = excluded.samples, judged = excluded.judged, errors = excluded.errors, first_ns = excluded.first_ns,
             last_ns = excluded.last_ns, durations = excluded.durations",
        dataset,
        &columns.subjects,
        &columns.services,
        &columns.names,
        &quarters,
        &numbers(|cell| cell.samples),
        &numbers(|cell| cell.judged),
        &numbers(|cell| cell.errors),
        &numbers(|cell| cell.bounds.map_or(0, |(first, _)| first)),
        &numbers(|cell| cell.bounds.map_or(0, |(_, last)| last)),
        &durations
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes the cells before a quarter of an hour, and says which they were.
///
/// # Errors
/// If the database refuses.
pub async fn drop_cells_before(
    conn: &mut PgConnection,
    dataset: &str,
    quarter: i64,
) -> sqlx::Result<Vec<Key>> {
    let rows = sqlx::query!(
        "DELETE FROM harvest.baseline_cells WHERE dataset = $1 AND quarter < $2 RETURNING subject, service, operation, quarter",
        dataset,
        begin_of(quarter)
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Key {
            operation: operation(&row.subject, row.service, row.operation),
            quarter: quarter_at(row.quarter),
        })
        .collect())
}

/// Every operation that has a cell.
///
/// # Errors
/// If the database refuses.
pub async fn operations(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Vec<Operation>> {
    let rows = sqlx::query!(
        "SELECT DISTINCT subject, service, operation FROM harvest.baseline_cells WHERE dataset = $1",
        dataset
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| operation(&row.subject, row.service, row.operation))
        .collect())
}

/// The cells of these operations in these quarters of an hour, those of an operation together.
///
/// # Errors
/// If the database refuses.
pub async fn cells_of(
    conn: &mut PgConnection,
    dataset: &str,
    operations: &[&Operation],
    quarters: &[i64],
) -> sqlx::Result<Vec<(Key, Cell)>> {
    let columns: Columns = operations.iter().copied().collect();
    let quarters: Vec<_> = quarters.iter().copied().map(begin_of).collect();
    let rows = sqlx::query_as!(
        Row,
        "SELECT c.subject, c.service, c.operation, c.quarter, c.samples, c.judged, c.errors, c.first_ns, c.last_ns, c.durations
         FROM unnest($2::text[], $3::text[], $4::text[]) AS k (subject, service, operation)
         JOIN harvest.baseline_cells c ON c.dataset = $1 AND c.subject = k.subject AND c.service = k.service
                                          AND c.operation = k.operation AND c.quarter = ANY ($5)",
        dataset,
        &columns.subjects,
        &columns.services,
        &columns.names,
        &quarters
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Row::into_cell).collect()
}

/// Deletes the cells of a dataset.
///
/// # Errors
/// If the database refuses.
pub async fn drop_cells(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "DELETE FROM harvest.baseline_cells WHERE dataset = $1",
        dataset
    )
    .execute(conn)
    .await?;
    Ok(())
}
