//! `harvest.spans`, and the traces that are computed from them. What is stored of a trace only ever grows.
//!
//! The traces' rows come first, in order of their IDs: who has inserted or locked a trace's row is the only one to store spans
//! of it until the transaction ends. Spans of traces that were not known can so be copied to where they belong; only those of
//! known ones are merged, and these traces are computed anew from all the spans stored of them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use sqlx::{FromRow as _, PgConnection, Row as _};

use super::{
    baselines::{self, Names},
    copy::{self, Copy, write_services},
    traces::{Merged, Stored},
};
use crate::{
    baseline::{
        Subject,
        changes::{Changes, Sample},
    },
    tempo::wire::spans::{Span, TraceSpans},
};

const STAGING: &str = "
CREATE TEMPORARY TABLE IF NOT EXISTS staged_span_traces (
    trace_id bytea, started_at timestamptz, start_ns bigint, end_ns bigint, root_service text, root_name text,
    span_count integer, error_count integer, services jsonb, incomplete boolean
) ON COMMIT DELETE ROWS;
CREATE TEMPORARY TABLE IF NOT EXISTS staged_spans (LIKE harvest.spans) ON COMMIT DELETE ROWS";

const COPY_TRACES: &str = "COPY pg_temp.staged_span_traces FROM STDIN (FORMAT binary)";
const COPY_NEW: &str = "COPY harvest.spans FROM STDIN (FORMAT binary)";
const COPY_KNOWN: &str = "COPY pg_temp.staged_spans FROM STDIN (FORMAT binary)";

/// Inserts the traces that are new, locks those that are known, and returns the latter.
const INSERT_TRACES: &str = "
WITH fresh AS (
    INSERT INTO harvest.traces AS t
        (dataset, trace_id, started_at, start_ns, end_ns, exact, root_service, root_name, services, span_count, error_count,
         incomplete_in_source)
    SELECT $1, trace_id, started_at, start_ns, end_ns, NOT coalesce(incomplete, false), root_service, root_name, services, span_count,
           error_count, coalesce(incomplete, false)
    FROM pg_temp.staged_span_traces ORDER BY trace_id
    ON CONFLICT (dataset, trace_id) DO UPDATE SET exact = t.exact WHERE false
    RETURNING trace_id
)
SELECT trace_id FROM pg_temp.staged_span_traces EXCEPT SELECT trace_id FROM fresh";

/// A span is what it was; it may only turn out to have attributes that were not asked for before.
const MERGE_SPANS: &str = "
WITH merged AS (
    INSERT INTO harvest.spans AS s
    SELECT * FROM pg_temp.staged_spans ORDER BY trace_id, span_id
    ON CONFLICT (dataset, trace_id, span_id) DO UPDATE SET attributes = coalesce(s.attributes, '{}') || excluded.attributes
    WHERE coalesce(s.attributes, '{}') || excluded.attributes IS DISTINCT FROM coalesce(s.attributes, '{}')
      AND excluded.attributes IS NOT NULL
    RETURNING trace_id, (xmax = 0) AS new, service, name, start_ns, duration_ns, status
)
SELECT * FROM merged";

/// Computes known traces anew: those with new spans, and those that had been told by a search. What a search told of a trace
/// holds where the spans say less: then they are not all of it.
const RECOMPUTE: &str = "
WITH updated AS (
    UPDATE harvest.traces t SET
        start_ns = least(t.start_ns, u.start_ns),
        started_at = 'epoch'::timestamptz + least(t.start_ns, u.start_ns) / 1000 * interval '1 microsecond',
        end_ns = greatest(t.end_ns, u.end_ns),
        root_service = CASE WHEN u.root_name IS NULL THEN t.root_service ELSE u.root_service END,
        root_name = coalesce(u.root_name, t.root_name),
        services = harvest.merge_services(t.services, u.services),
        span_count = greatest(t.span_count, u.span_count),
        error_count = greatest(t.error_count, u.error_count),
        incomplete_in_source = coalesce(staged.incomplete, t.incomplete_in_source),
        exact = NOT coalesce(staged.incomplete, t.incomplete_in_source)
                AND u.start_ns <= t.start_ns AND u.end_ns >= t.end_ns AND u.span_count >= coalesce(t.span_count, 0)
                OR t.exact,
        improved_from = harvest.before_improvement(t.start_ns, t.end_ns, t.root_service, t.root_name, t.error_count),
        updated_at = now()
    FROM harvest.traces_of_spans($1, ARRAY(
             SELECT trace_id FROM unnest($2::bytea[]) AS touched (trace_id)
             UNION SELECT k.trace_id FROM harvest.traces k WHERE k.dataset = $1 AND k.trace_id = ANY ($3) AND NOT k.exact)) u
    JOIN pg_temp.staged_span_traces staged ON staged.trace_id = u.trace_id
    WHERE t.dataset = $1 AND t.trace_id = u.trace_id
      AND (u.start_ns < t.start_ns OR u.end_ns > t.end_ns OR NOT t.exact
           OR u.span_count > coalesce(t.span_count, 0) OR u.error_count > coalesce(t.error_count, 0)
           OR (u.root_name IS NOT NULL AND (u.root_name, u.root_service) IS DISTINCT FROM (t.root_name, t.root_service)))
    RETURNING t.trace_id, false AS new, t.start_ns, t.end_ns, t.root_service, t.root_name, t.error_count, t.improved_from
)
SELECT * FROM updated";

/// Stores spans and their traces, inside the caller's transaction, and notes what that changed for the baselines. A trace
/// without spans is not stored.
///
/// # Errors
/// If the database refuses.
pub async fn merge(
    conn: &mut PgConnection,
    dataset: &str,
    found: Vec<TraceSpans>,
) -> sqlx::Result<Merged> {
    let found = combine(found);
    if found.is_empty() {
        return Ok(Merged::default());
    }
    sqlx::raw_sql(STAGING).execute(&mut *conn).await?;
    let mut copy = Copy::begin(&mut *conn, COPY_TRACES).await?;
    for trace in &found {
        write_trace(&mut copy.row(10).await?, trace);
    }
    copy.end().await?;
    let known: HashSet<Vec<u8>> = sqlx::query_scalar(INSERT_TRACES)
        .bind(dataset)
        .fetch_all(&mut *conn)
        .await?
        .into_iter()
        .collect();
    let is_known = |trace: &&TraceSpans| known.contains(trace.trace_id.as_slice());

    let mut merged = Merged {
        new: i64::try_from(found.len() - known.len()).unwrap_or(0),
        ..Default::default()
    };
    let mut changes = Changes::default();
    let mut copy = Copy::begin(&mut *conn, COPY_NEW).await?;
    for trace in found.iter().filter(|trace| !is_known(trace)) {
        write_spans(&mut copy, dataset, trace).await?;
        merged.spans += i64::try_from(trace.spans.len()).unwrap_or(0);
        changes.add(&Summary::of(&trace.spans).sample());
        for span in &trace.spans {
            changes.add(&sample(span));
        }
    }
    copy.end().await?;
    if !known.is_empty() {
        merge_known(conn, dataset, &found, known, &mut merged, &mut changes).await?;
    }
    baselines::note(conn, dataset, &changes).await?;
    Ok(merged)
}

/// Stores the spans of traces that are known, and computes these anew.
async fn merge_known(
    conn: &mut PgConnection,
    dataset: &str,
    found: &[TraceSpans],
    known: HashSet<Vec<u8>>,
    merged: &mut Merged,
    changes: &mut Changes,
) -> sqlx::Result<()> {
    let mut copy = Copy::begin(&mut *conn, COPY_KNOWN).await?;
    for trace in found
        .iter()
        .filter(|trace| known.contains(trace.trace_id.as_slice()))
    {
        write_spans(&mut copy, dataset, trace).await?;
    }
    copy.end().await?;
    let mut names = Names::default();
    let mut touched: HashSet<Vec<u8>> = HashSet::new();
    for row in sqlx::query(MERGE_SPANS).fetch_all(&mut *conn).await? {
        touched.insert(row.try_get("trace_id")?);
        if row.try_get("new")? {
            merged.spans += 1;
            changes.add(&Sample {
                subject: Subject::Span,
                service: names.of(row.try_get("service")?),
                operation: names.of(row.try_get("name")?),
                start_ns: row.try_get("start_ns")?,
                duration_ns: row.try_get("duration_ns")?,
                failed: Some(row.try_get::<String, _>("status")? == "error"),
            });
        }
    }
    let rows = sqlx::query(RECOMPUTE)
        .bind(dataset)
        .bind(touched.iter().collect::<Vec<_>>())
        .bind(known.into_iter().collect::<Vec<_>>())
        .fetch_all(&mut *conn)
        .await?;
    for row in rows {
        Stored::from_row(&row)?.tell(&mut names, changes);
        touched.insert(row.try_get("trace_id")?);
    }
    merged.improved = i64::try_from(touched.len()).unwrap_or(i64::MAX);
    Ok(())
}

/// A span that was found, as far as baselines go.
fn sample(span: &Span) -> Sample {
    Sample {
        subject: Subject::Span,
        service: span.service.clone(),
        operation: Some(Arc::clone(&span.name)),
        start_ns: span.start_ns,
        duration_ns: span.duration_ns,
        failed: Some(span.is_error()),
    }
}

/// What the spans of a trace of this dataset take on disk on average, their indexes included, bytes; `None` while there are too
/// few to tell.
///
/// # Errors
/// If the database refuses.
pub async fn bytes_on_disk(conn: &mut PgConnection, dataset: &str) -> sqlx::Result<Option<f64>> {
    sqlx::query_scalar!(
        "SELECT pg_total_relation_size('harvest.spans')::float8 / nullif(c.reltuples, 0)::float8
                * d.span_count::float8 / nullif(d.trace_count, 0)::float8
         FROM pg_class c, harvest.datasets d
         WHERE c.oid = 'harvest.spans'::regclass AND c.reltuples >= 10000 AND d.name = $1",
        dataset
    )
    .fetch_optional(conn)
    .await
    .map(Option::flatten)
}

/// By ID, each trace once, without those that have no spans.
fn combine(mut found: Vec<TraceSpans>) -> Vec<TraceSpans> {
    found.retain(|trace| !trace.spans.is_empty());
    found.sort_unstable_by_key(|trace| trace.trace_id);
    found.dedup_by(|later, kept| {
        let same = later.trace_id == kept.trace_id;
        if same {
            kept.absorb(later);
        }
        same
    });
    found
}

/// What a trace's spans say about it.
struct Summary<'a> {
    start_ns: i64,
    end_ns: i64,
    root: Option<&'a Span>,
    errors: usize,
    services: BTreeMap<&'a str, (usize, usize)>,
}

impl<'a> Summary<'a> {
    fn of(spans: &'a [Span]) -> Self {
        let mut summary = Self {
            start_ns: i64::MAX,
            end_ns: i64::MIN,
            root: None,
            errors: 0,
            services: BTreeMap::new(),
        };
        for span in spans {
            let failed = usize::from(span.is_error());
            summary.start_ns = summary.start_ns.min(span.start_ns);
            summary.end_ns = summary.end_ns.max(span.start_ns + span.duration_ns);
            summary.errors += failed;
            let service = span.service.as_deref().unwrap_or("");
            let counts = summary.services.entry(service).or_default();
            counts.0 += 1;
            counts.1 += failed;
            // By ID, as they come: of two that start at once the first stays.
            if span.parent_span_id.is_none()
                && summary
                    .root
                    .is_none_or(|root| span.start_ns < root.start_ns)
            {
                summary.root = Some(span);
            }
        }
        summary
    }

    /// The trace, as far as baselines go.
    fn sample(&self) -> Sample {
        Sample {
            subject: Subject::Trace,
            service: self.root.and_then(|root| root.service.clone()),
            operation: self.root.map(|root| Arc::clone(&root.name)),
            start_ns: self.start_ns,
            duration_ns: self.end_ns - self.start_ns,
            failed: Some(self.errors > 0),
        }
    }
}

fn write_trace(row: &mut copy::Row<'_>, trace: &TraceSpans) {
    let summary = Summary::of(&trace.spans);
    let root_service = summary.root.and_then(|root| root.service.as_deref());
    row.bytes(&trace.trace_id);
    row.instant(summary.start_ns);
    row.long(summary.start_ns);
    row.long(summary.end_ns);
    row.text(root_service);
    row.text(summary.root.map(|root| root.name.as_ref()));
    row.integer(trace.spans.len());
    row.integer(summary.errors);
    let mut services = String::new();
    let of_each = summary.services.iter();
    write_services(
        &mut services,
        of_each.map(|(name, (spans, errors))| (*name, spans, errors)),
    );
    row.json(Some(&services));
    row.boolean(trace.partial);
}

async fn write_spans(copy: &mut Copy<'_>, dataset: &str, trace: &TraceSpans) -> sqlx::Result<()> {
    for span in &trace.spans {
        let mut row = copy.row(12).await?;
        row.bytes(dataset.as_bytes());
        row.bytes(&trace.trace_id);
        row.bytes(&span.span_id);
        row.optional(span.parent_span_id.as_ref().map(<[u8; 8]>::as_slice));
        row.text(span.service.as_deref());
        row.text(Some(&span.name));
        row.bytes(span.kind.name().as_bytes());
        row.bytes(span.status.name().as_bytes());
        row.instant(span.start_ns);
        row.long(span.start_ns);
        row.long(span.duration_ns);
        row.json(span.attributes.as_deref());
    }
    Ok(())
}
