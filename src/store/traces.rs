//! `harvest.traces`: what is new is copied in, what may be known is merged. A later answer only ever improves a row.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::{Connection, PgConnection, postgres::types::PgRange, types::Json};

use super::{
    baselines::{self, Names},
    copy::{Copy, write_services},
    range,
};
use crate::{
    baseline::{
        Subject,
        changes::{Changes, Sample},
    },
    tempo::wire::{ServiceCounts, Services, TraceSummary, by_service},
    window::Window,
};

/// The memory is for sorting what one answer brings; it does not fit the usual 4 MB.
const STAGING: &str = "SET LOCAL work_mem = '64MB'; CREATE TEMPORARY TABLE IF NOT EXISTS staged_traces (
    trace_id bytea, started_at timestamptz, start_ns bigint, end_ns bigint, root_service text, root_name text, services jsonb,
    span_count integer, error_count integer
) ON COMMIT DELETE ROWS";

const COPY_STAGED: &str = "COPY pg_temp.staged_traces FROM STDIN (FORMAT binary)";

const COPY_NEW: &str = "COPY harvest.traces
    (dataset, trace_id, started_at, start_ns, end_ns, root_service, root_name, services, span_count, error_count)
    FROM STDIN (FORMAT binary)";

/// Fewer traces than this are merged without further ado.
const COPY_FROM: usize = 500;
/// If one in so many is known already, all are merged.
const MOST_KNOWN: usize = 8;

/// Known roots stay, starts only move back, ends only move on, counts only grow, exact rows stay as they are, and a row
/// that would not change is not written.
const MERGE: &str = "
WITH merged AS (
    INSERT INTO harvest.traces AS t
        (dataset, trace_id, started_at, start_ns, end_ns, root_service, root_name, services, span_count, error_count)
    SELECT $1, trace_id, started_at, start_ns, end_ns, root_service, root_name, services, span_count, error_count
    FROM pg_temp.staged_traces ORDER BY trace_id
    ON CONFLICT (dataset, trace_id) DO UPDATE SET
        started_at = least(t.started_at, excluded.started_at),
        start_ns = least(t.start_ns, excluded.start_ns),
        end_ns = greatest(t.end_ns, excluded.end_ns),
        root_service = coalesce(t.root_service, excluded.root_service),
        root_name = coalesce(t.root_name, excluded.root_name),
        services = harvest.merge_services(t.services, excluded.services),
        span_count = harvest.sum_services(harvest.merge_services(t.services, excluded.services), 'spans'),
        error_count = harvest.sum_services(harvest.merge_services(t.services, excluded.services), 'errors'),
        improved_from = harvest.before_improvement(t.start_ns, t.end_ns, t.root_service, t.root_name, t.error_count),
        updated_at = now()
    WHERE NOT t.exact
      AND (excluded.start_ns < t.start_ns OR excluded.end_ns > t.end_ns
           OR (t.root_service IS NULL AND excluded.root_service IS NOT NULL)
           OR (t.root_name IS NULL AND excluded.root_name IS NOT NULL)
           OR (excluded.services IS DISTINCT FROM t.services
               AND harvest.merge_services(t.services, excluded.services) IS DISTINCT FROM t.services))
    RETURNING (xmax = 0) AS new, start_ns, end_ns, root_service, root_name, error_count, improved_from
)
SELECT * FROM merged";

/// What storing traces changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Traces that were not stored before.
    pub new: i64,
    /// Traces that were stored before and are more complete now.
    pub improved: i64,
    /// Spans that were not stored before.
    pub spans: i64,
}

/// Stores the traces found in a window, inside the caller's transaction, and notes what that changed for the baselines.
///
/// Most of what a backfill finds is new, and need not be merged: what lies wholly inside the window, and is not known from
/// there, is copied in at once. Whatever else stands in its way (another window brought a fragment of the trace) is told
/// by the key, and then all of it is merged. What touches the window's edges the next window brings as well: it is merged,
/// at the end, so that two workers wait for each other as shortly as may be.
///
/// # Errors
/// If the database refuses.
pub async fn store(
    conn: &mut PgConnection,
    dataset: &str,
    window: Window,
    found: Vec<TraceSummary>,
) -> sqlx::Result<Merged> {
    let mut changes = Changes::default();
    let merged = store_and_tell(&mut *conn, dataset, window, found, &mut changes).await?;
    baselines::note(conn, dataset, &changes).await?;
    Ok(merged)
}

/// [`store`], telling what it changed.
async fn store_and_tell(
    conn: &mut PgConnection,
    dataset: &str,
    window: Window,
    found: Vec<TraceSummary>,
    changes: &mut Changes,
) -> sqlx::Result<Merged> {
    let found = combine(found);
    if found.len() < COPY_FROM {
        return merge(conn, dataset, &found, changes).await;
    }
    let most_known = found.len() / MOST_KNOWN;
    let known = known_in(conn, dataset, window, most_known + 1).await?;
    if known.len() > most_known {
        return merge(conn, dataset, &found, changes).await;
    }
    let is_inside = |trace: &TraceSummary| {
        // Ends are cut off to the millisecond.
        trace.start_ns >= window.start() * 1_000_000_000
            && trace.end_ns() + 1_000_000 < window.end() * 1_000_000_000
    };
    let (mut inside, mut others): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|trace| is_inside(trace) && !known.contains(&trace.trace_id));
    // In the order of time, so that what is read together lies together.
    inside.sort_unstable_by_key(|trace| trace.start_ns);
    let mut savepoint = conn.begin().await?;
    let copied = copy(&mut savepoint, COPY_NEW, Some(dataset), &inside).await;
    let new = match copied {
        Ok(()) => {
            savepoint.commit().await?;
            inside.iter().for_each(|trace| changes.add(&sample(trace)));
            i64::try_from(inside.len()).unwrap_or(i64::MAX)
        }
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            savepoint.rollback().await?;
            others.append(&mut inside);
            others.sort_unstable_by_key(|trace| trace.trace_id);
            0
        }
        Err(error) => return Err(error),
    };
    let merged = merge(conn, dataset, &others, changes).await?;
    Ok(Merged {
        new: merged.new + new,
        ..merged
    })
}

/// Traces stored that start in a window, so many at most.
async fn known_in(
    conn: &mut PgConnection,
    dataset: &str,
    window: Window,
    most: usize,
) -> sqlx::Result<HashSet<[u8; 16]>> {
    let known = sqlx::query_scalar!(
        "SELECT trace_id FROM harvest.traces WHERE dataset = $1 AND started_at >= $2 AND started_at < $3 LIMIT $4",
        dataset,
        at(window.start()),
        at(window.end()),
        i64::try_from(most).unwrap_or(i64::MAX)
    )
    .fetch_all(conn)
    .await?;
    Ok(known
        .into_iter()
        .filter_map(|id| id.try_into().ok())
        .collect())
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Merges traces, each of them once and ascending by ID, so that two merges at once take their locks in the same order.
async fn merge(
    conn: &mut PgConnection,
    dataset: &str,
    found: &[TraceSummary],
    changes: &mut Changes,
) -> sqlx::Result<Merged> {
    if found.is_empty() {
        return Ok(Merged::default());
    }
    sqlx::raw_sql(STAGING).execute(&mut *conn).await?;
    copy(conn, COPY_STAGED, None, found).await?;
    let rows = sqlx::query_as::<_, Stored>(MERGE)
        .bind(dataset)
        .fetch_all(&mut *conn)
        .await?;
    let mut merged = Merged::default();
    let mut names = Names::default();
    for row in rows {
        match row.new {
            true => merged.new += 1,
            false => merged.improved += 1,
        }
        row.tell(&mut names, changes);
    }
    Ok(merged)
}

/// A trace that was found, as far as baselines go.
fn sample(trace: &TraceSummary) -> Sample {
    Sample {
        subject: Subject::Trace,
        service: trace.root_service.clone(),
        operation: trace.root_name.clone(),
        start_ns: trace.start_ns,
        duration_ns: trace.end_ns() - trace.start_ns,
        failed: trace
            .services
            .as_ref()
            .map(|services| services.iter().any(|(_, counts)| counts.errors > 0)),
    }
}

/// A row that was stored or improved.
#[derive(sqlx::FromRow)]
pub(super) struct Stored {
    new: bool,
    start_ns: i64,
    end_ns: i64,
    root_service: Option<String>,
    root_name: Option<String>,
    error_count: Option<i32>,
    improved_from: Option<Json<Before>>,
}

/// What it was before, as `harvest.before_improvement` tells it.
#[derive(Deserialize)]
struct Before {
    start_ns: i64,
    end_ns: i64,
    root_service: Option<String>,
    root_name: Option<String>,
    error_count: Option<i32>,
}

impl Stored {
    /// Tells the baselines.
    pub(super) fn tell(self, names: &mut Names, changes: &mut Changes) {
        let is = Sample {
            subject: Subject::Trace,
            service: names.of(self.root_service),
            operation: names.of(self.root_name),
            start_ns: self.start_ns,
            duration_ns: self.end_ns - self.start_ns,
            failed: self.error_count.map(|errors| errors > 0),
        };
        match self.improved_from.filter(|_| !self.new) {
            None => changes.add(&is),
            Some(Json(before)) => {
                let was = Sample {
                    subject: Subject::Trace,
                    service: names.of(before.root_service),
                    operation: names.of(before.root_name),
                    start_ns: before.start_ns,
                    duration_ns: before.end_ns - before.start_ns,
                    failed: before.error_count.map(|errors| errors > 0),
                };
                changes.replace(&was, &is);
            }
        }
    }
}

/// Copies traces into a table, which begins with the dataset if one is given.
async fn copy(
    conn: &mut PgConnection,
    statement: &str,
    dataset: Option<&str>,
    traces: &[TraceSummary],
) -> sqlx::Result<()> {
    let mut copy = Copy::begin(conn, statement).await?;
    let mut services = String::new();
    for trace in traces {
        let mut row = copy.row(9 + i16::from(dataset.is_some())).await?;
        if let Some(dataset) = dataset {
            row.bytes(dataset.as_bytes());
        }
        row.bytes(&trace.trace_id);
        row.instant(trace.start_ns);
        row.long(trace.start_ns);
        row.long(trace.end_ns());
        row.text(trace.root_service.as_deref());
        row.text(trace.root_name.as_deref());
        match &trace.services {
            Some(counts) => {
                let of_each = counts.iter();
                let of_each = of_each.map(|(name, counts)| (&**name, counts.spans, counts.errors));
                write_services(&mut services, of_each);
                row.json(Some(&services));
                row.integer(total(counts, |counts| counts.spans));
                row.integer(total(counts, |counts| counts.errors));
            }
            None => (0..3).for_each(|_| row.null()),
        }
    }
    copy.end().await
}

/// How many traces are stored that start in a window, and how many of these are not among `found`.
///
/// # Errors
/// If the database refuses.
pub async fn unseen(
    conn: &mut PgConnection,
    dataset: &str,
    window: Window,
    found: &[[u8; 16]],
) -> sqlx::Result<(i64, i64)> {
    let found: Vec<&[u8]> = found.iter().map(<[u8; 16]>::as_slice).collect();
    let row = sqlx::query!(
        r#"SELECT count(*) AS "stored!", count(*) FILTER (WHERE found.trace_id IS NULL) AS "unseen!"
           FROM harvest.traces t LEFT JOIN unnest($4::bytea[]) AS found (trace_id) ON found.trace_id = t.trace_id
           WHERE t.dataset = $1 AND t.started_at >= $2 AND t.started_at < $3"#,
        dataset,
        at(window.start()),
        at(window.end()),
        &found as &[&[u8]]
    )
    .fetch_one(conn)
    .await?;
    Ok((row.stored, row.unseen))
}

/// Durations, milliseconds, of the traces that start in the windows done nearest to this one, within `reach_s` seconds: of as
/// few windows as brought `enough`. All of their traces: which of them are read first may depend on how long they took.
/// Windows that are not done say nothing, for the same reason.
///
/// # Errors
/// If the database refuses.
pub async fn durations_near(
    conn: &mut PgConnection,
    dataset: &str,
    window: Window,
    reach_s: i64,
    enough: i64,
) -> sqlx::Result<Vec<i64>> {
    let around = Window::new(window.start() - reach_s, window.end() + reach_s).unwrap_or(window);
    sqlx::query_scalar!(
        r#"SELECT t.duration_ms AS "duration_ms!"
           FROM (SELECT span, sum(returned) OVER (ORDER BY abs(extract(epoch FROM lower(span) - lower($3::tstzrange))), id) - returned AS nearer
                 FROM harvest.windows WHERE dataset = $1 AND span && $2 AND state = 'done' AND returned > 0) nearest
           JOIN harvest.traces t ON t.dataset = $1 AND t.started_at >= lower(span) AND t.started_at < upper(span)
           WHERE nearest.nearer < $4::bigint"#,
        dataset,
        range(around),
        range(window),
        enough
    )
    .fetch_all(conn)
    .await
}

/// How many traces stored of a dataset start in these windows.
///
/// # Errors
/// If the database refuses.
pub async fn count_in(
    conn: &mut PgConnection,
    dataset: &str,
    windows: &[Window],
) -> sqlx::Result<i64> {
    let spans: Vec<PgRange<DateTime<Utc>>> = windows.iter().copied().map(range).collect();
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "stored!" FROM unnest($2::tstzrange[]) AS span
           JOIN harvest.traces t ON t.dataset = $1 AND t.started_at >= lower(span) AND t.started_at < upper(span)"#,
        dataset,
        &spans
    )
    .fetch_one(conn)
    .await
}

/// What a trace takes on disk, indexes and TOAST included, as the table is now; bytes. `None`: it holds too few to tell.
///
/// # Errors
/// If the database refuses.
pub async fn bytes_on_disk(conn: &mut PgConnection) -> sqlx::Result<Option<f64>> {
    sqlx::query_scalar!(
        "SELECT pg_total_relation_size('harvest.traces')::float8 / nullif(reltuples, 0)::float8
         FROM pg_class WHERE oid = 'harvest.traces'::regclass AND reltuples >= 10000"
    )
    .fetch_optional(conn)
    .await
    .map(Option::flatten)
}

/// Sorted by ID, each ID once. Should an answer bring a
/// trace twice, the two are fragments of it.
fn combine(mut found: Vec<TraceSummary>) -> Vec<TraceSummary> {
    found.sort_unstable_by_key(|trace| trace.trace_id);
    found.dedup_by(|later, kept| {
        if later.trace_id != kept.trace_id {
            return false;
        }
        let end_ns = kept.end_ns().max(later.end_ns());
        kept.start_ns = kept.start_ns.min(later.start_ns);
        kept.duration_ms = u32::try_from((end_ns - kept.start_ns) / 1_000_000).unwrap_or(u32::MAX);
        kept.root_service = kept.root_service.take().or(later.root_service.take());
        kept.root_name = kept.root_name.take().or(later.root_name.take());
        kept.services = match (kept.services.take(), later.services.take()) {
            (Some(kept), Some(later)) => by_service(&mut [kept, later].concat()),
            (kept, later) => kept.or(later),
        };
        true
    });
    found
}

/// The sum of a count over all services.
fn total(services: &Services, count_of: fn(&ServiceCounts) -> u32) -> usize {
    services
        .iter()
        .map(|(_, counts)| count_of(counts) as usize)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(id: u8, start_ms: i64, duration_ms: u32, root: Option<&str>) -> TraceSummary {
        TraceSummary {
            trace_id: [id; 16],
            start_ns: start_ms * 1_000_000,
            duration_ms,
            root_service: root.map(std::sync::Arc::from),
            root_name: None,
            services: Some(Box::new([(
                "a".into(),
                ServiceCounts {
                    spans: u32::from(id),
                    errors: 0,
                },
            )])),
        }
    }

    #[test]
    fn fragments_in_one_answer_are_combined() {
        let combined = combine(vec![
            trace(2, 5_000, 100, None),
            trace(1, 0, 1, None),
            trace(2, 1_000, 50, Some("x")),
        ]);
        assert_eq!(combined.len(), 2);
        assert_eq!(combined[1].start_ns, 1_000_000_000);
        assert_eq!(combined[1].duration_ms, 4_100);
        assert_eq!(combined[1].root_service.as_deref(), Some("x"));
    }
}
