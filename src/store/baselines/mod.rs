//! The tables of the baselines: here the notes of what changed, and what the others have in common; `states` says how far each
//! dataset is, `cells` and `slots` are what is added up, and `recount` what it is added up from. What is done with them is left
//! to [`crate::baseline`].

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::at;
use crate::baseline::{
    Subject,
    changes::{Cell, Changes, Operation},
    sketch::Counts,
    slot::QUARTER_S,
};

mod cells;
mod recount;
mod slots;
mod states;

pub use self::cells::{
    cells, cells_of, drop_cells, drop_cells_before, latest_cell, operations, put_cells,
};
pub(super) use self::recount::Names;
pub use self::recount::{bounds, count_spans, count_traces, latest_start};
pub use self::slots::{Baseline, Computed, drop_slots, durations, hours_of, list, put_slots};
pub use self::states::{
    Standing, State, Wish, ask_for_recount, due, put_state, record, standing, state,
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
