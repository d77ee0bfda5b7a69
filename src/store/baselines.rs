//! The tables of the baselines: notes of what changed, cells, slots, and how far each dataset is. What is done with them is
//! left to [`crate::baseline`].

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use sqlx::PgConnection;

use super::at;
use crate::baseline::{
    Subject,
    changes::{Cell, Changes, Key, Operation, Sample},
    figures::Figures,
    sketch::Counts,
    slot::{QUARTER_S, Slot},
};

/// What a row says that is there no more or is wrong.
fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

fn begin_of(quarter: i64) -> DateTime<Utc> {
    at(quarter.saturating_mul(QUARTER_S))
}

fn quarter_at(instant: DateTime<Utc>) -> i64 {
    instant.timestamp().div_euclid(QUARTER_S)
}

fn operation(subject: &str, service: String, name: String) -> Operation {
    Operation {
        subject: Subject::from_name(subject).unwrap_or(Subject::Trace),
        service: service.into(),
        name: name.into(),
    }
}

/// Writes down what storing changed, inside the transaction that stores.
///
/// # Errors
/// If the database refuses.
pub async fn note(conn: &mut PgConnection, dataset: &str, changes: &Changes) -> sqlx::Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO harvest.baseline_changes (dataset, changes) VALUES ($1, $2)",
        dataset,
        changes.encode()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How a job wants its dataset's baselines computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish<'a> {
    /// By whose clocks.
    pub timezone: &'a str,
    /// How far back, and how often, seconds; `None` without [baseline].
    pub history_and_every_s: Option<(i64, i64)>,
}

/// Records how a job wants its dataset's baselines computed.
///
/// # Errors
/// If the database refuses.
pub async fn record(conn: &mut PgConnection, job: &str, wish: &Wish<'_>) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE harvest.jobs SET baseline_timezone = $2, baseline_history_s = $3, baseline_every_s = $4 WHERE name = $1",
        job,
        wish.timezone,
        wish.history_and_every_s.map(|(history_s, _)| history_s),
        wish.history_and_every_s.map(|(_, every_s)| every_s)
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Datasets whose baselines are behind what is stored or deleted, or computed in another way than is wished, and were last
/// computed as long ago as is to lie between.
///
/// # Errors
/// If the database refuses.
pub async fn due(conn: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar!(
        r#"SELECT d.dataset AS "dataset!"
           FROM harvest.baseline_settings d JOIN harvest.datasets kept ON kept.name = d.dataset
           LEFT JOIN harvest.baseline_states s ON s.dataset = d.dataset
           WHERE (s.computed_at IS NULL OR s.computed_at <= clock_timestamp() - make_interval(secs => d.every_s)
                  OR s.computed_at > clock_timestamp())
             AND (s.recount OR (s.timezone, s.history_s) IS DISTINCT FROM (d.timezone, d.history_s)
                  OR s.counted_from < kept.deleted_before
                  OR EXISTS (SELECT FROM harvest.baseline_changes c WHERE c.dataset = d.dataset))
           ORDER BY d.dataset"#
    )
    .fetch_all(conn)
    .await
}

/// Takes the right to bring a dataset's baselines up to date, until the transaction ends. `false`: somebody else is at it.
///
/// # Errors
/// If the database refuses.
pub async fn try_lock(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_xact_lock(hashtextextended('tempo-harvest/baseline/' || $1, 0)) AS "taken!""#,
        dataset
    )
    .fetch_one(conn)
    .await
}

/// The same, but waits for it.
async fn lock(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('tempo-harvest/baseline/' || $1, 0))",
        dataset
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Where a dataset's baselines stand, and how they are to be computed.
#[derive(Debug, Clone)]
pub struct State {
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// By whose clocks they are to be computed.
    pub timezone: String,
    /// How far back they are to look, seconds.
    pub history_s: i64,
    /// By whose clocks they are computed.
    pub timezone_before: Option<String>,
    /// How far back they look, seconds.
    pub history_before_s: Option<i64>,
    /// Everything is to be counted anew.
    pub recount: bool,
    /// The first quarter of an hour that is counted.
    pub counted_from: Option<i64>,
    /// The first quarter of an hour of which retention has deleted nothing.
    pub kept_from: Option<i64>,
    /// Whether spans are stored.
    pub has_spans: bool,
}

/// Where a dataset's baselines stand; `None` if there is no such dataset.
///
/// # Errors
/// If the database refuses.
pub async fn state(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Option<State>> {
    let row = sqlx::query!(
        r#"SELECT clock_timestamp() AS "now!", w.timezone AS "timezone!", w.history_s AS "history_s!", s.timezone AS "timezone_before?",
                  s.history_s AS "history_before_s?", coalesce(s.recount, false) AS "recount!", s.counted_from AS "counted_from?",
                  d.deleted_before, d.span_count > 0 AS "has_spans!"
           FROM harvest.datasets d
           JOIN harvest.baseline_settings w ON w.dataset = d.name
           LEFT JOIN harvest.baseline_states s ON s.dataset = d.name
           WHERE d.name = $1"#,
        dataset
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| State {
        now: row.now,
        timezone: row.timezone,
        history_s: row.history_s,
        timezone_before: row.timezone_before,
        history_before_s: row.history_before_s,
        recount: row.recount,
        counted_from: row.counted_from.map(quarter_at),
        kept_from: row
            .deleted_before
            .map(|before| -(-before.timestamp()).div_euclid(QUARTER_S)),
        has_spans: row.has_spans,
    }))
}

/// Notes where a dataset's baselines stand now. `counted` are the first quarter of an hour counted and the one after the last.
///
/// # Errors
/// If the database refuses.
pub async fn put_state(
    conn: &mut PgConnection,
    dataset: &str,
    state: &State,
    counted: Option<(i64, i64)>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO harvest.baseline_states (dataset, recount, timezone, history_s, counted_from, counted_to, computed_at)
         VALUES ($1, false, $2, $3, $4, $5, $6)
         ON CONFLICT (dataset) DO UPDATE SET recount = false, timezone = excluded.timezone, history_s = excluded.history_s,
             counted_from = excluded.counted_from, counted_to = excluded.counted_to, computed_at = excluded.computed_at",
        dataset,
        state.timezone,
        state.history_s,
        counted.map(|(from, _)| begin_of(from)),
        counted.map(|(_, to)| begin_of(to)),
        state.now
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Has everything counted anew by the next pass.
///
/// # Errors
/// If the database refuses.
pub async fn ask_for_recount(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO harvest.baseline_states (dataset, recount) VALUES ($1, true) ON CONFLICT (dataset) DO UPDATE SET recount = true",
        dataset
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes the notes of what changed.
///
/// # Errors
/// If the database refuses.
pub async fn take_changes(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Vec<Vec<u8>>> {
    sqlx::query_scalar!(
        "DELETE FROM harvest.baseline_changes WHERE dataset = $1 RETURNING changes",
        dataset
    )
    .fetch_all(conn)
    .await
}

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

/// Which operations, in the form that statements take.
#[derive(Debug, Default)]
struct Columns {
    subjects: Vec<String>,
    services: Vec<String>,
    names: Vec<String>,
}

impl Columns {
    fn push(&mut self, operation: &Operation) {
        self.subjects.push(operation.subject.name().to_owned());
        self.services.push(operation.service.to_string());
        self.names.push(operation.name.to_string());
    }
}

impl<'a> FromIterator<&'a Operation> for Columns {
    fn from_iter<I: IntoIterator<Item = &'a Operation>>(operations: I) -> Self {
        let mut columns = Self::default();
        for operation in operations {
            columns.push(operation);
        }
        columns
    }
}

/// A cell or slot as it is stored.
struct Stored {
    samples: i64,
    judged: i64,
    errors: i64,
    first_ns: i64,
    last_ns: i64,
    durations: Vec<u8>,
}

impl Stored {
    fn into_cell(self) -> sqlx::Result<Cell> {
        Ok(Cell {
            samples: self.samples,
            judged: self.judged,
            errors: self.errors,
            bounds: Some((self.first_ns, self.last_ns)),
            gone: Vec::new(),
            durations: Counts::decode(&self.durations).map_err(unreadable)?,
        })
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
    let rows = sqlx::query!(
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
    rows.into_iter()
        .map(|row| {
            let stored = Stored {
                samples: row.samples,
                judged: row.judged,
                errors: row.errors,
                first_ns: row.first_ns,
                last_ns: row.last_ns,
                durations: row.durations,
            };
            let key = Key {
                operation: operation(&row.subject, row.service, row.operation),
                quarter: quarter_at(row.quarter),
            };
            Ok((key, stored.into_cell()?))
        })
        .collect()
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
    let rows = sqlx::query!(
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
    rows.into_iter()
        .map(|row| {
            let stored = Stored {
                samples: row.samples,
                judged: row.judged,
                errors: row.errors,
                first_ns: row.first_ns,
                last_ns: row.last_ns,
                durations: row.durations,
            };
            let key = Key {
                operation: operation(&row.subject, row.service, row.operation),
                quarter: quarter_at(row.quarter),
            };
            Ok((key, stored.into_cell()?))
        })
        .collect()
}

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

/// Forgets all that a dataset's baselines are made of. Waits for a pass that is under way.
///
/// # Errors
/// If the database refuses.
pub async fn forget(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<()> {
    lock(&mut *conn, dataset).await?;
    sqlx::query!(
        "DELETE FROM harvest.baseline_changes WHERE dataset = $1",
        dataset
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "DELETE FROM harvest.baseline_states WHERE dataset = $1",
        dataset
    )
    .execute(&mut *conn)
    .await?;
    drop_cells(&mut *conn, dataset).await?;
    drop_slots(conn, dataset).await
}

/// Interns names, of which there are few.
#[derive(Default)]
pub(super) struct Names(HashMap<String, Arc<str>>);

impl Names {
    pub(super) fn of(&mut self, name: Option<String>) -> Option<Arc<str>> {
        let name = name?;
        if let Some(known) = self.0.get(&name) {
            return Some(Arc::clone(known));
        }
        let shared: Arc<str> = Arc::from(name.as_str());
        self.0.insert(name, Arc::clone(&shared));
        Some(shared)
    }
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

/// What the baselines of a dataset are computed from.
#[derive(Debug, Clone)]
pub struct Standing {
    /// `trace`, `services` or `spans`.
    pub detail: String,
    /// By whose clocks hours and weekends are counted.
    pub timezone: String,
    /// What started earlier is not counted; `None`: nothing is.
    pub counted_from: Option<DateTime<Utc>>,
    /// End of the quarter of an hour that the newest of them started in.
    pub counted_to: Option<DateTime<Utc>>,
    /// When they were last brought up to date.
    pub computed_at: Option<DateTime<Utc>>,
}

/// What the baselines of a dataset are computed from; `None` if there is no such dataset or they were never computed.
///
/// # Errors
/// If the database refuses.
pub async fn standing(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Option<Standing>> {
    sqlx::query_as!(
        Standing,
        r#"SELECT d.detail, coalesce(s.timezone, 'UTC') AS "timezone!", s.counted_from, s.counted_to, s.computed_at
           FROM harvest.datasets d JOIN harvest.baseline_states s ON s.dataset = d.name WHERE d.name = $1"#,
        dataset
    )
    .fetch_optional(conn)
    .await
}
