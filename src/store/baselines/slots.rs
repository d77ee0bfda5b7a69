//! The slots: the baselines themselves, and the hours that they are added up from.

use sqlx::PgConnection;

use super::{Columns, Stored, operation, unreadable};
use crate::baseline::{
    changes::{Cell, Operation},
    figures::Figures,
    sketch::Counts,
    slot::Slot,
};

/// The hours of these operations, as sums of their cells.
///
/// # Errors
/// If the database refuses.
pub async fn hours_of(
    conn: &mut PgConnection,
    dataset: &str,
    operations: &[&Operation],
) -> sqlx::Result<Vec<(Operation, Slot, Cell)>> {
    let columns: Columns = operations.iter().copied().collect();
    let rows = sqlx::query!(
        "SELECT s.subject, s.service, s.operation, s.slot, s.samples, s.judged, s.errors, s.first_ns, s.last_ns, s.durations
         FROM unnest($2::text[], $3::text[], $4::text[]) AS k (subject, service, operation)
         JOIN harvest.baseline_slots s ON s.dataset = $1 AND s.subject = k.subject AND s.service = k.service
                                          AND s.operation = k.operation AND s.slot < 48",
        dataset,
        &columns.subjects,
        &columns.services,
        &columns.names
    )
    .fetch_all(conn)
    .await?;
    let mut hours = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(slot) = Slot::from_number(row.slot) else {
            continue;
        };
        let stored = Stored {
            samples: row.samples,
            judged: row.judged,
            errors: row.errors,
            first_ns: row.first_ns,
            last_ns: row.last_ns,
            durations: row.durations,
        };
        let operation = operation(&row.subject, row.service, row.operation);
        hours.push((operation, slot, stored.into_cell()?));
    }
    Ok(hours)
}

/// A baseline that was computed; `None`: there is nothing left in it.
pub type Computed<'a> = (&'a Operation, Slot, Option<(Figures, Counts)>);

/// Puts baselines in the place of those of the same operation and slot.
///
/// # Errors
/// If the database refuses.
pub async fn put_slots(
    conn: &mut PgConnection,
    dataset: &str,
    slots: &[Computed<'_>],
) -> sqlx::Result<()> {
    let mut gone = Columns::default();
    let mut gone_slots = Vec::new();
    let mut columns = Columns::default();
    let mut numbers: Vec<i16> = Vec::new();
    let mut durations: Vec<Vec<u8>> = Vec::new();
    let mut figures: Vec<&Figures> = Vec::new();
    for (operation, slot, computed) in slots {
        match computed {
            None => {
                gone.push(operation);
                gone_slots.push(slot.number());
            }
            Some((says, counts)) => {
                columns.push(operation);
                numbers.push(slot.number());
                figures.push(says);
                durations.push(counts.encode());
            }
        }
    }
    if !gone_slots.is_empty() {
        sqlx::query!(
            "DELETE FROM harvest.baseline_slots s
             USING unnest($2::text[], $3::text[], $4::text[], $5::smallint[]) AS k (subject, service, operation, slot)
             WHERE s.dataset = $1 AND s.subject = k.subject AND s.service = k.service AND s.operation = k.operation AND s.slot = k.slot",
            dataset,
            &gone.subjects,
            &gone.services,
            &gone.names,
            &gone_slots
        )
        .execute(&mut *conn)
        .await?;
    }
    let figure =
        |of: fn(&Figures) -> i64| -> Vec<i64> { figures.iter().map(|says| of(says)).collect() };
    sqlx::query!(
        "INSERT INTO harvest.baseline_slots (dataset, subject, service, operation, slot, samples, judged, errors, p50_us, p95_us, p99_us,
                                             mad_us, first_ns, last_ns, durations)
         SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::smallint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
                                  $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bytea[])
         ON CONFLICT (dataset, subject, service, operation, slot) DO UPDATE SET
             samples = excluded.samples, judged = excluded.judged, errors = excluded.errors, p50_us = excluded.p50_us,
             p95_us = excluded.p95_us, p99_us = excluded.p99_us, mad_us = excluded.mad_us, first_ns = excluded.first_ns,
             last_ns = excluded.last_ns, durations = excluded.durations",
        dataset,
        &columns.subjects,
        &columns.services,
        &columns.names,
        &numbers,
        &figure(|says| says.samples),
        &figure(|says| says.judged),
        &figure(|says| says.errors),
        &figure(|says| says.p50_us),
        &figure(|says| says.p95_us),
        &figure(|says| says.p99_us),
        &figure(|says| says.mad_us),
        &figure(|says| says.first_ns),
        &figure(|says| says.last_ns),
        &durations
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes the baselines of a dataset, but not what they are added up from.
///
/// # Errors
/// If the database refuses.
pub async fn drop_slots(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "DELETE FROM harvest.baseline_slots WHERE dataset = $1",
        dataset
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A baseline as it was computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baseline {
    /// Of what.
    pub operation: Operation,
    /// Of which hours.
    pub slot: Slot,
    /// What it says.
    pub figures: Figures,
}

/// The baselines of a dataset, of one service if it is named; by operation and slot.
///
/// # Errors
/// If the database refuses.
pub async fn list(
    conn: &mut PgConnection,
    dataset: &str,
    service: Option<&str>,
) -> sqlx::Result<Vec<Baseline>> {
    let rows = sqlx::query!(
        "SELECT subject, service, operation, slot, samples, judged, errors, p50_us, p95_us, p99_us, mad_us, first_ns, last_ns
         FROM harvest.baseline_slots WHERE dataset = $1 AND ($2::text IS NULL OR service = $2)
         ORDER BY subject DESC, service, operation, slot",
        dataset,
        service
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(Baseline {
                operation: operation(&row.subject, row.service, row.operation),
                slot: Slot::from_number(row.slot)?,
                figures: Figures {
                    samples: row.samples,
                    judged: row.judged,
                    errors: row.errors,
                    p50_us: row.p50_us,
                    p95_us: row.p95_us,
                    p99_us: row.p99_us,
                    mad_us: row.mad_us,
                    first_ns: row.first_ns,
                    last_ns: row.last_ns,
                },
            })
        })
        .collect())
}

/// How many of each duration a baseline holds; `None` if there is no such baseline.
///
/// # Errors
/// If the database refuses.
pub async fn durations(
    conn: &mut PgConnection,
    dataset: &str,
    operation: &Operation,
    slot: Slot,
) -> sqlx::Result<Option<Counts>> {
    let bytes = sqlx::query_scalar!(
        "SELECT durations FROM harvest.baseline_slots
         WHERE dataset = $1 AND subject = $2 AND service = $3 AND operation = $4 AND slot = $5",
        dataset,
        operation.subject.name(),
        &*operation.service,
        &*operation.name,
        slot.number()
    )
    .fetch_optional(conn)
    .await?;
    bytes
        .map(|bytes| Counts::decode(&bytes).map_err(unreadable))
        .transpose()
}
